"""The layout of BraTS 2015: MetaImage files whose names carry the sequence and a number of their own.

`HGG/<case>/VSD.Brain.XX.O.MR_Flair.54512/VSD.Brain.XX.O.MR_Flair.54512.mha`, likewise MR_T1, MR_T1c, MR_T2, and the label map
`VSD.Brain_3more.XX.O.OT.54517.mha` (also `_5more`, `XX.XX.OT`); cases for testing have none. Copies without the folder around
each file are read too. Voxels are 16-bit with only values from 0 up in use.

HGG and LGG number their patients each for itself: both have a brats_2013_pat0001_1. Where that is so, the grade is part of the
case's id and of the patient's name.

Labels: 1 necrosis, 2 oedema, 3 non-enhancing tumour, 4 enhancing tumour. The regions (WT 1-4, TC 1, 3, 4, ET 4) cannot tell 1
from 3, so that a prediction paints both as 1.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from comodal.data.brats import MODALITIES, group_of, read_sites
from comodal.data.cohort import Case, Cohort, CohortMeta, ModalitySpec, TargetSpec
from comodal.data.folders import Tree
from comodal.data.formats_picture import natural_key
from comodal.errors import DataError, message

_SEQUENCES = {"t1": "t1", "t1c": "t1ce", "t2": "t2", "flair": "flair"}
_STEM = r"(?P<stem>VSD\.Brain.*\.(?:MR_(?P<sequence>T1c|T1|T2|Flair)|(?P<label>OT))(?:\.\d+)?)"  # MR_T1 must not take MR_T1c
_FILE = re.compile(_STEM + r"\.mha", re.IGNORECASE)
_OTHER_FORMAT = re.compile(_STEM + r"\.(?:mha\.(?:gz|bz2|xz|zip)|nii(?:\.gz)?|mhd|nrrd)", re.IGNORECASE)
# The folder around each file, whose name is not always that of the file.
_AROUND = "vsd.brain"
_CODES = [[1, 2, 3, 4], [1, 3, 4], [4]]


@dataclass(frozen=True)
class _Folder:
    """A case as it lies on disk.

    Attributes:
        name: Of its folder.
        parent: Name of the folder around that, the grade.
        cells: {column: path relative to the root}.
    """

    name: str
    parent: str
    cells: dict[str, str] = field(default_factory=dict)


def index(root: Path) -> Cohort:
    """Scans a BraTS 2015 folder. No file is opened: the label values of this release are known.

    Args:
        root: The folder that holds the case folders, at any depth.

    Returns:
        Modalities t1, t1ce, t2, flair as far as any case has them; target seg with the regions WT, TC, ET. A case is named by
        its folder, and where several folders hold a case of that name by both ("LGG_brats_2013_pat0001_1"). The group is the
        patient, so that the scans of one patient share it. The grade (HGG, LGG) is counted in `meta.notes`. Sites come from a
        table `sites.csv` (case, site; a case by its id or by the name of its folder) in the root, where there is one.

    Raises:
        DataError: No case, two files for one sequence of a case, or two cases that neither name nor folder tells apart.
    """
    tree = Tree.scan(root)
    folders, others = _scan(tree)
    remarks = [*_unread(others), *tree.not_followed()]
    if not folders:
        do = "Give the folder that holds HGG and LGG; the releases from 2018 on have the layout brats"
        rule = "hold cases of BraTS 2015, with files named VSD.Brain.*.MR_Flair.*.mha"
        raise DataError(message("ROOT", rule, "; ".join(["none", *remarks]), do=do, file=str(root)))
    cases, repeated = _cases(folders, read_sites(root))
    names = [name for name in MODALITIES if any(name in case.cells for case in cases)]
    targets, notes = [], [_grades(cases), *repeated]
    if any("seg" in case.cells for case in cases):
        paint = [2, 1, 4]
        targets = [TargetSpec(name="seg", kind="regions", classes=["WT", "TC", "ET"], codes=_CODES, paint=paint)]
        notes.append("labels 1 (necrosis) and 3 (non-enhancing tumour) are both in TC; a prediction writes 1 for either")
    else:
        notes.append("no case has a label map: there is nothing to train on, only to predict")
    notes += [f"no case has {name}; it is left out" for name in MODALITIES if name not in names]
    notes += [*remarks, *tree.synthetic()]
    specs = [ModalitySpec(name=name, grid="brain") for name in names]
    meta = CohortMeta(layout="brats2015", root=str(root), modalities=specs, targets=targets, notes=notes)
    return Cohort.build(meta, cases, root)


def _scan(tree: Tree) -> tuple[list[_Folder], list[str]]:
    """The cases, and the files that are sequences in a format that this release does not have."""
    found: dict[Path, _Folder] = {}
    others = []
    base = tree.root.resolve()  # the root may be "." or a case folder itself
    for folder, files in tree.folders:
        place = _case_folder(base / folder.relative_to(tree.root))
        stems = {match["stem"].casefold() for match in map(_FILE.fullmatch, files) if match}
        for file in files:
            cell = (folder / file).relative_to(tree.root).as_posix()
            other = _OTHER_FORMAT.fullmatch(file)
            if other is not None and other["stem"].casefold() not in stems:
                others.append(cell)
            match = _FILE.fullmatch(file)
            if match is None:
                continue
            column = "seg" if match["label"] else _SEQUENCES[match["sequence"].lower()]
            case = found.setdefault(place, _Folder(place.name, place.parent.name))
            if column in case.cells:
                rule, got = "hold one file for each sequence of a case", f"{case.cells[column]} and {cell}"
                raise DataError(message("ROOT", rule, got, subject=case.name, modality=column, do="Keep one of them"))
            case.cells[column] = cell
    # A label map alone is no case: nothing could be predicted from it.
    return [case for case in found.values() if set(case.cells) - {"seg"}], others


def _case_folder(folder: Path) -> Path:
    """The folder of the case that a file in this folder belongs to."""
    while folder.name.casefold().startswith(_AROUND):
        folder = folder.parent
    return folder


def _cases(folders: list[_Folder], sites: Mapping[str, str]) -> tuple[list[Case], list[str]]:
    """The cases by their ids, and a note where names repeat. What an id is does not depend on the order of the folders."""
    alike: defaultdict[str, list[_Folder]] = defaultdict(list)
    for folder in folders:
        alike[folder.name].append(folder)
    repeated = sorted((name for name in alike if len(alike[name]) > 1), key=natural_key)
    for name in repeated:
        _check_parents(alike[name])
    # Every scan of such a patient has the grade in its group: those that only one folder holds must not fall out of it.
    patients = {group_of(name) for name in repeated}
    cases = []
    for folder in folders:
        group = group_of(folder.name)
        group = f"{folder.parent}_{group}" if group in patients else group
        identifier = f"{folder.parent}_{folder.name}" if len(alike[folder.name]) > 1 else folder.name
        site = sites.get(identifier) or sites.get(folder.name, "")
        cases.append(Case.build(identifier, cells=folder.cells, group=group, site=site))
    cases.sort(key=lambda case: natural_key(case.id))
    if not repeated:
        return cases, []
    parents = sorted({folder.parent for name in repeated for folder in alike[name]})
    what = f"{len(repeated)} {'name of a case stands' if len(repeated) == 1 else 'names of cases stand'}"
    note = f"{what} in several of the folders {', '.join(parents)}: taken as different patients, named with the folder"
    return cases, [f"{note} ({parents[0]}_{repeated[0]})"]


def _check_parents(folders: list[_Folder]) -> None:
    """Refuses cases of one name in folders of one name: copies, as far as one can see."""
    first: dict[str, _Folder] = {}
    for folder in folders:
        other = first.setdefault(folder.parent, folder)
        if other is not folder:
            rule = "hold one case of each name in folders of one name"
            got = " and ".join(next(iter(one.cells.values())) for one in (other, folder))
            raise DataError(message("ROOT", rule, got, subject=folder.name, do="Remove the copy, or rename one of the folders"))


def _unread(others: list[str]) -> list[str]:
    """A note where there are sequences in other formats: they would silently count as absent."""
    if not others:
        return []
    one = len(others) == 1
    what = "1 file looks like a sequence" if one else f"{len(others)} files look like sequences"
    do = f"{'is' if one else 'are'} not .mha: convert or unpack {'it' if one else 'them'}"
    return [f"{what} of BRATS 2015 but {do} ({others[0]}{'' if one else ' is the first'})"]


def _grades(cases: Iterable[Case]) -> str:
    """How many cases lie in folders called HGG and LGG."""
    counts: Counter[str] = Counter()
    for case in cases:
        parts = {part.upper() for part in Path(next(iter(case.cells.values()))).parts}
        counts[next((grade for grade in ("HGG", "LGG") if grade in parts), "")] += 1
    grades = f"{counts['HGG']} cases of high-grade (HGG) and {counts['LGG']} of low-grade glioma (LGG)"
    return f"{grades}, {counts['']} of unknown grade, by the names of their folders"
