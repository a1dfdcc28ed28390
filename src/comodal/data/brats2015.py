"""The layout of BraTS 2015: MetaImage files whose names carry the sequence and a number of their own.

`HGG/<case>/VSD.Brain.XX.O.MR_Flair.54512/VSD.Brain.XX.O.MR_Flair.54512.mha`, likewise MR_T1, MR_T1c, MR_T2, and the label map
`VSD.Brain_3more.XX.O.OT.54517.mha` (also `_5more`, `XX.XX.OT`); cases for testing have none. Copies without the folder around
each file are read too. Voxels are 16-bit with only values from 0 up in use.

Labels: 1 necrosis, 2 oedema, 3 non-enhancing tumour, 4 enhancing tumour. The regions (WT 1-4, TC 1, 3, 4, ET 4) cannot tell 1
from 3, so that a prediction paints both as 1.
"""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

from comodal.data.brats import MODALITIES, group_of, read_sites
from comodal.data.cohort import Case, Cohort, CohortMeta, ModalitySpec, TargetSpec
from comodal.data.formats_picture import natural_key
from comodal.errors import DataError, message

_SEQUENCES = {"t1": "t1", "t1c": "t1ce", "t2": "t2", "flair": "flair"}
_STEM = r"VSD\.Brain.*\.(?:MR_(?P<sequence>T1c|T1|T2|Flair)|(?P<label>OT))(?:\.\d+)?"  # MR_T1 must not take MR_T1c
_FOLDER, _FILE = re.compile(_STEM, re.IGNORECASE), re.compile(_STEM + r"\.mha", re.IGNORECASE)
_CODES = [[1, 2, 3, 4], [1, 3, 4], [4]]


def index(root: Path) -> Cohort:
    """Scans a BraTS 2015 folder. No file is opened: the label values of this release are known.

    Args:
        root: The folder that holds the case folders, at any depth.

    Returns:
        Modalities t1, t1ce, t2, flair as far as any case has them; target seg with the regions WT, TC, ET. A case is named by
        its folder; the group is the patient, so that the scans of one patient share it. The grade (HGG, LGG) is counted in
        `meta.notes`. Sites come from a table `sites.csv` (case, site) in the root, where there is one.

    Raises:
        DataError: No case, or two files for one sequence of a case.
    """
    found = _scan(root)
    if not found:
        do = "Give the folder that holds HGG and LGG; the releases from 2018 on have the layout brats"
        rule = "hold cases of BraTS 2015, with files named VSD.Brain.*.MR_Flair.*.mha"
        raise DataError(message("ROOT", rule, "none", do=do, file=str(root)))
    sites = read_sites(root)
    names = [name for name in MODALITIES if any(name in cells for cells in found.values())]
    cases = [
        Case.build(case, cells=found[case], group=group_of(case), site=sites.get(case, ""))
        for case in sorted(found, key=natural_key)
    ]
    targets, notes = [], [_grades(found)]
    if any("seg" in cells for cells in found.values()):
        paint = [2, 1, 4]
        targets = [TargetSpec(name="seg", kind="regions", classes=["WT", "TC", "ET"], codes=_CODES, paint=paint)]
        notes.append("labels 1 (necrosis) and 3 (non-enhancing tumour) are both in TC; a prediction writes 1 for either")
    else:
        notes.append("no case has a label map: there is nothing to train on, only to predict")
    notes += [f"no case has {name}; it is left out" for name in MODALITIES if name not in names]
    specs = [ModalitySpec(name=name, grid="brain") for name in names]
    meta = CohortMeta(layout="brats2015", root=str(root), modalities=specs, targets=targets, notes=notes)
    return Cohort.build(meta, cases, root)


def _scan(root: Path) -> dict[str, dict[str, str]]:
    """{case: {column: path relative to the root}}."""
    found: dict[str, dict[str, str]] = {}
    for path in sorted(root.rglob("*")):
        match = _FILE.fullmatch(path.name)
        if match is None or not path.is_file():
            continue
        folder = path.parent.parent if _FOLDER.fullmatch(path.parent.name) else path.parent
        case = folder.resolve().name
        column = "seg" if match["label"] else _SEQUENCES[match["sequence"].lower()]
        cells, cell = found.setdefault(case, {}), path.relative_to(root).as_posix()
        if column in cells:
            rule, got = "hold one file for each sequence of a case", f"{cells[column]} and {cell}"
            raise DataError(message("ROOT", rule, got, subject=case, modality=column, do="Keep one of them"))
        cells[column] = cell
    # A label map alone is no case: nothing could be predicted from it.
    return {case: cells for case, cells in found.items() if set(cells) - {"seg"}}


def _grades(found: dict[str, dict[str, str]]) -> str:
    """How many cases lie in folders called HGG and LGG."""
    counts: Counter[str] = Counter()
    for cells in found.values():
        parts = {part.upper() for part in Path(next(iter(cells.values()))).parts}
        counts[next((grade for grade in ("HGG", "LGG") if grade in parts), "")] += 1
    grades = f"{counts['HGG']} cases of high-grade (HGG) and {counts['LGG']} of low-grade glioma (LGG)"
    return f"{grades}, {counts['']} of unknown grade, by the names of their folders"
