"""The layout of BraTS: one folder per case with up to four sequences and a label map.

2018 to 2021: `<case>/<case>_t1.nii.gz`, `_t1ce`, `_t2`, `_flair`, `_seg`, labels 1 (necrosis and non-enhancing core), 2
(oedema), 4 (enhancing). 2023 on: `-t1n`, `-t1c`, `-t2w`, `-t2f`, `-seg`, where enhancing tumour is 3. Folders between (HGG,
LGG) do not matter, nor whether files are .nii or .nii.gz. A sequence that is not there is absent.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from comodal.data.cohort import Case, Cohort, CohortMeta, ModalitySpec, TargetSpec
from comodal.data.folders import Tree
from comodal.data.formats_picture import natural_key
from comodal.data.reading import label_codes, read_volume
from comodal.data.tables import read_table
from comodal.errors import DataError, message

MODALITIES = ("t1", "t1ce", "t2", "flair")
_NAMES_2018 = {"t1": "t1", "t1ce": "t1ce", "t2": "t2", "flair": "flair", "seg": "seg"}
_NAMES_2023 = {"t1n": "t1", "t1c": "t1ce", "t2w": "t2", "t2f": "flair", "seg": "seg"}
_FILE = re.compile(r"(?P<case>.+?)(?:_(?P<old>t1|t1ce|t2|flair|seg)|-(?P<new>t1n|t1c|t2w|t2f|seg))\.nii(\.gz)?", re.IGNORECASE)
# Case 355 of 2020 was packed with its label map under the name W39_1998.09.19_Segm.nii.
_ODD_SEG = re.compile(r".*seg.*\.nii(\.gz)?", re.IGNORECASE)
# 2017 to 2019 end in a time point (Brats18_TCIA01_147_1), as does 2013 (brats_2013_pat0001_1), and 2023 (BraTS-GLI-00000-000).
# Elsewhere a last number is the subject's own (BraTS20_Training_001) and must stay.
_PATIENT = r"(?P<patient>brats1[789]_.+_.+|brats_(?:2013|tcia)_pat\d+|brats-[a-z]+-\d+)"
_TIME_POINT = re.compile(_PATIENT + r"[_-]\d+", re.IGNORECASE)
_SITE = re.compile(r"brats1[789]_(?P<site>[A-Za-z0-9]+)_.+", re.IGNORECASE)


def index(root: Path) -> Cohort:
    """Scans a BraTS folder.

    Label maps are read until the value of enhancing tumour is known (4 or 3); `comodal check` reads all of them. Sites come
    from the names of 2017 to 2019, or from a table `sites.csv` (case, site) in the root, where there is one.

    Args:
        root: The folder that holds the case folders, at any depth.

    Returns:
        Modalities t1, t1ce, t2, flair as far as any case has them; target seg with the regions WT, TC, ET. The group is the
        patient: follow-up scans of one patient share it.

    Raises:
        DataError: No case, two files for one sequence of a case, or labels of neither convention.
    """
    tree = Tree.scan(root)
    found = _scan(tree)
    if not found:
        do = "Give the folder that holds <case>/<case>_flair.nii.gz, or list your files in a table and use the layout csv"
        got = "; ".join(["none", *tree.not_followed()])
        raise DataError(message("ROOT", "hold cases of BraTS", got, do=do, file=str(root)))
    names = [name for name in MODALITIES if any(name in cells for cells in found.values())]
    sites = read_sites(root)
    cases = [
        Case.build(case, cells=found[case], group=group_of(case), site=sites.get(case) or site_of(case))
        for case in sorted(found, key=natural_key)
    ]
    targets, notes = _target(cases, root)
    notes += [f"no case has {name}; it is left out" for name in MODALITIES if name not in names]
    notes += [*tree.not_followed(), *tree.synthetic()]
    specs = [ModalitySpec(name=name, grid="brain") for name in names]
    meta = CohortMeta(layout="brats", root=str(root), modalities=specs, targets=targets, notes=notes)
    return Cohort.build(meta, cases, root)


def group_of(case: str) -> str:
    """The patient of a case.

    >>> group_of("Brats18_TCIA01_147_1"), group_of("BraTS-GLI-00017-001"), group_of("BraTS20_Training_001")
    ('Brats18_TCIA01_147', 'BraTS-GLI-00017', 'BraTS20_Training_001')
    """
    match = _TIME_POINT.fullmatch(case)
    return match["patient"] if match else case


def site_of(case: str) -> str:
    """The site in the name of a case of 2017 to 2019, else "".

    >>> site_of("Brats18_TCIA01_147_1"), site_of("BraTS20_Training_001")
    ('TCIA01', '')
    """
    match = _SITE.fullmatch(case)
    return match["site"] if match else ""


def _scan(tree: Tree) -> dict[str, dict[str, str]]:
    """{case: {column: path relative to the root}}."""
    found: dict[str, dict[str, str]] = {}
    for folder, names in tree.folders:
        here = set()
        for name in names:
            match = _FILE.fullmatch(name)
            if match is None:
                continue
            column = _NAMES_2018[match["old"].lower()] if match["old"] else _NAMES_2023[match["new"].lower()]
            case = match["case"]
            here.add(case)
            _add(found.setdefault(case, {}), column, (folder / name).relative_to(tree.root).as_posix(), case=case)
        odd = [name for name in names if _ODD_SEG.fullmatch(name) and not _FILE.fullmatch(name)]
        for case in here if len(here) == 1 else ():
            if "seg" not in found[case] and len(odd) == 1:
                found[case]["seg"] = (folder / odd[0]).relative_to(tree.root).as_posix()
    # A label map alone is no case: nothing could be predicted from it.
    return {case: cells for case, cells in found.items() if set(cells) - {"seg"}}


def _add(cells: dict[str, str], column: str, path: str, *, case: str) -> None:
    if column in cells:
        do = "Keep one of them"
        got = f"{cells[column]} and {path}"
        raise DataError(message("ROOT", "hold one file for each sequence of a case", got, subject=case, modality=column, do=do))
    cells[column] = path


def read_sites(root: Path) -> Mapping[str, str]:
    """{case: site} of the table `sites.csv` in the root, empty where there is none.

    Args:
        root: The folder that is scanned.

    Raises:
        DataError: The table has not the columns case and site.
    """
    table = root / "sites.csv"
    if not table.is_file():
        return {}
    columns, rows = read_table(table)
    if not {"case", "site"} <= set(columns):
        rule, got = "have the columns case and site", ", ".join(columns)
        raise DataError(message("sites.csv", rule, got, do="Rename them", file=str(table)))
    return {row["case"]: row["site"] for row in rows}


def _target(cases: list[Case], root: Path) -> tuple[list[TargetSpec], list[str]]:
    labelled = [case for case in cases if "seg" in case.cells]
    if not labelled:
        return [], ["no case has a label map: there is nothing to train on, only to predict"]
    enhancing, note = _enhancing_code(labelled, root)
    core = [1, enhancing]
    codes = [sorted([2, *core]), core, [enhancing]]
    spec = TargetSpec(name="seg", kind="regions", classes=["WT", "TC", "ET"], codes=codes, paint=[2, 1, enhancing])
    return [spec], note


def _enhancing_code(cases: list[Case], root: Path) -> tuple[int, list[str]]:
    """4 (until 2021) or 3 (from 2023): from the first label map that has either."""
    for case in cases:
        path = root / case.cells["seg"]
        codes = label_codes(read_volume(path, subject=case.id, modality="seg"), path=path, subject=case.id, modality="seg")
        if not set(codes) <= {0, 1, 2, 3, 4} or {3, 4} <= set(codes):
            do = "List your files in a table and use the layout csv"
            rule = "have the labels 0, 1, 2, 4 or 0, 1, 2, 3"
            raise DataError(message("label map", rule, codes, subject=case.id, modality="seg", file=str(path), do=do))
        for code in (4, 3):
            if code in codes:
                return code, []
    code = 3 if _TIME_POINT.fullmatch(cases[0].id) and cases[0].id.lower().startswith("brats-") else 4
    return code, [f"no label map has enhancing tumour; its label is taken to be {code}, from the names"]
