"""The layout of CPM-RadPath 2020: four MRI sequences and whole-slide images of each patient.

    training_data_classification_labels.csv       CPM_RadPath_2019_ID, class (G, O, A), age_in_days
    Radiology/<ID>/<ID>_{t1,t1ce,t2,flair}.nii.gz
    Pathology/<ID>*.tiff                          or Pathology/<ID>/*.tiff
    split_<k>_{train,val,test}.csv                of DeepGuide (Mallya and Hamarneh, 2022), where they were put there

Folders around these do not matter, nor capitals, nor whether volumes are packed. How the slides lie could not be verified on
the original: both forms are read, and .tif, .tiff, .svs, .png, .jpg and .jpeg. A file belongs to the longest ID that its name
begins with, if no letter or digit follows: "CPM19_X_1" is not "CPM19_X_10". A folder of an ID stands for all its pictures.

Slides become bags of tissue tiles of `tile` pixels; pictures of exactly that size are tiles that somebody cut. At full
resolution a slide has tens of thousands, too many for one bag: set `microns`, for instance 4.

Classes: G glioblastoma, or diffuse astrocytic glioma, IDH-wildtype, with molecular features of glioblastoma; O
oligodendroglioma, IDH-mutant and 1p/19q-codeleted; A lower-grade astrocytoma, IDH-mutant. They are in the order of DeepGuide.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field

from comodal.data.bags import PICTURES
from comodal.data.cohort import Case, Cohort, CohortMeta, ModalitySpec, TargetSpec
from comodal.data.folders import Tree
from comodal.data.formats_picture import natural_key
from comodal.data.tables import read_table
from comodal.errors import ConfigError, DataError, message

SEQUENCES = ("t1", "t1ce", "t2", "flair")
CLASSES = ["G", "O", "A"]
_ID, _CLASS, _AGE = "CPM_RadPath_2019_ID", "class", "age_in_days"
_VOLUME = re.compile(r"(?P<id>.+)_(?P<sequence>t1ce|t1|t2|flair)\.nii(?:\.gz)?", re.IGNORECASE)
_SPLIT = re.compile(r"split_(?P<number>\d+)_(?P<side>train|val|test)\.csv", re.IGNORECASE)
_LABELS = "training_data_classification_labels.csv"
# The last number may be a time point, as it is in BraTS: whoever shares the rest is taken as one patient.
_PATIENT = re.compile(r"(?P<patient>CPM\d*_(?P<site>[A-Za-z0-9]+)_.+?)(?:_\d+)?", re.IGNORECASE)


class Options(BaseModel):
    """What `comodal index radpath` can be told.

    Attributes:
        tile: Pixels along the side of a tile; 0 takes pictures as they are, where all slides were cut before.
        microns: Micrometres per pixel at which slides are read; None takes their finest level.
        split: Which of DeepGuide's splits fills the column `split`; None leaves it blank.
        age: Adds the modality `age`, in years / 100.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    tile: int = Field(256, ge=0)
    microns: float | None = Field(None, gt=0)
    split: int | None = Field(None, ge=0)
    age: bool = False


def index(root: Path, options: Options) -> Cohort:
    """Scans the folder. No image is opened.

    Args:
        root: The folder that holds Radiology and Pathology, at any depth.
        options: See `Options`.

    Returns:
        Modalities t1, t1ce, t2, flair, pathology and, where asked for, age, as far as any case has them; target diagnosis. A
        case is an ID; the group is the ID without its last number, the site its second part.

    Raises:
        DataError: No case, two files for one sequence, a class that is none, or tables that contradict each other.
        ConfigError: A split that is not there.
    """
    tree = Tree.scan(root)
    labels, splits = _tables(tree, options)
    cells, remarks = _volumes(tree)
    if not cells and not labels:
        do = "Give the folder that holds Radiology, Pathology and the table of labels"
        got = "; ".join(["none", *tree.not_followed()])
        raise DataError(message("ROOT", f"hold Radiology/<ID>/<ID>_t1.nii.gz or {_LABELS}", got, do=do, file=str(root)))
    strange = _slides(tree, sorted({*cells, *labels}, key=natural_key), cells)
    cases = []
    for name in sorted(cells, key=natural_key):
        row, match = labels.get(name, {}), _PATIENT.fullmatch(name)
        group, site = (match["patient"], match["site"]) if match else (name, "")
        age = {"age": _age(row, name)} if options.age else {}
        own = {**cells[name], **age, "diagnosis": row.get(_CLASS, "")}
        cases.append(Case.build(name, cells=own, group=group, site=site, split=splits.get(name, "")))
    known = [name for name in (*SEQUENCES, "pathology", "age") if any(name in case.cells for case in cases)]
    specs = [ModalitySpec(name=name, grid="brain") for name in SEQUENCES]
    slides = ModalitySpec(name="pathology", kind="bag", spatial_dims=2, channels=3, grid="pathology", tile=options.tile)
    specs.append(slides.model_copy(update={"microns": options.microns}))
    specs.append(ModalitySpec(name="age", kind="features", spatial_dims=0, inline=True))
    if not cases:
        do = "Put the images of these cases beside the table"
        raise DataError(message("ROOT", "hold images of the cases of its table", "none", do=do, file=str(root)))
    notes = [*_counts(cases, labels), *remarks, *_strange(strange)]
    notes += [f"no case has {name}; it is left out" for name in (*SEQUENCES, "pathology") if name not in known]
    notes += [*_found_splits(tree, options), *tree.not_followed(), *tree.synthetic()]
    targets = [TargetSpec(name="diagnosis", kind="class", classes=CLASSES)] if labels else []
    chosen = [spec for spec in specs if spec.name in known]
    meta = CohortMeta(layout="radpath", root=str(root), modalities=chosen, targets=targets, notes=notes)
    return Cohort.build(meta, cases, root)


def _tables(tree: Tree, options: Options) -> tuple[dict[str, dict[str, str]], dict[str, str]]:
    """{ID: row} of the labels, and {ID: split} of the split that was asked for."""
    labels: dict[str, dict[str, str]] = {}
    splits: dict[str, str] = {}
    for path in _named(tree):
        match = _SPLIT.fullmatch(path.name)
        columns, rows = read_table(path)
        for name in (_ID, _CLASS, *([_AGE] if options.age else [])):
            if name not in columns:
                do = "Restore the table from the original data set"
                raise DataError(message("table", f"have the column {name}", ", ".join(columns), do=do, file=str(path)))
        for row in rows:
            case, label = row[_ID], row[_CLASS].upper()
            place = {"subject": case, "file": str(path)}
            if label not in (*CLASSES, ""):
                do = "Correct the table, or blank the cell where the class is not known"
                raise DataError(message("class", f"be one of {', '.join(CLASSES)}", repr(row[_CLASS]), do=do, **place))
            before = labels.setdefault(case, {**row, _CLASS: label})
            if before[_CLASS] != label:
                got, do = f"{before[_CLASS] or 'none'} and {label or 'none'}", "Keep one of the tables"
                raise DataError(message("tables", "agree on the class of a case", got, do=do, **place))
            if match is None or int(match["number"]) != options.split:
                continue
            side = match["side"].lower()
            if splits.setdefault(case, side) != side:
                do = "Correct the tables of this split"
                raise DataError(message("split", "have each case once", f"{splits[case]} and {side}", do=do, **place))
    if options.split is not None and not splits:
        numbers = sorted({int(m["number"]) for m in map(_SPLIT.fullmatch, (p.name for p in _named(tree))) if m})
        do = f"Found: {', '.join(map(str, numbers))}" if numbers else "Put split_1_train.csv and its like below ROOT"
        raise ConfigError(message("layout radpath: split", "be a split that is there", options.split, do=do))
    return labels, splits


def _named(tree: Tree) -> list[Path]:
    """The tables below the root."""
    paths = [folder / name for folder, names in tree.folders for name in names]
    return [path for path in paths if path.name.lower() == _LABELS or _SPLIT.fullmatch(path.name)]


def _volumes(tree: Tree) -> tuple[dict[str, dict[str, str]], list[str]]:
    """{ID: {sequence: path}}, and remarks."""
    cells: dict[str, dict[str, str]] = {}
    for folder, names in tree.folders:
        if not _below("radiology", folder, tree.root):
            continue
        for name in names:
            match = _VOLUME.fullmatch(name)
            if match is None:
                continue
            case, sequence = match["id"], match["sequence"].lower()
            cell = (folder / name).relative_to(tree.root).as_posix()
            before = cells.setdefault(case, {}).setdefault(sequence, cell)
            if before != cell:
                rule, got = "hold one file for each sequence of a case", f"{before} and {cell}"
                raise DataError(message("ROOT", rule, got, subject=case, modality=sequence, do="Keep one of them"))
    return cells, [] if cells else ["no MRI was found below a folder Radiology"]


def _below(name: str, folder: Path, root: Path) -> bool:
    return any(part.lower() == name for part in (root.name, *folder.relative_to(root).parts))


def _slides(tree: Tree, ids: list[str], cells: dict[str, dict[str, str]]) -> list[str]:
    """Adds the slides to the cells; returns those of no known ID."""
    strange: list[str] = []
    found: dict[str, list[str]] = {}
    for folder, names in tree.folders:
        if not _below("pathology", folder, tree.root):
            continue
        pictures = [name for name in names if name.lower().endswith(PICTURES)]
        parts = folder.relative_to(tree.root).parts
        owner = next((case for part in reversed(parts) if (case := _owner(part, ids))), "")
        here = folder.relative_to(tree.root).as_posix()
        if owner and pictures:
            found.setdefault(owner, []).append(here)  # the folder itself: it may hold thousands of tiles
            continue
        for name in pictures:
            case = _owner(name, ids)
            path = f"{here}/{name}" if parts else name
            found.setdefault(case, []).append(path) if case else strange.append(path)
    for case, paths in found.items():
        cells.setdefault(case, {})["pathology"] = ";".join(sorted(paths, key=natural_key))
    return strange


def _owner(name: str, ids: Iterable[str]) -> str:
    """The longest ID that a name begins with, if no letter or digit follows; "" for none."""
    begins = (case for case in ids if name.lower().startswith(case.lower()) and not name[len(case) : len(case) + 1].isalnum())
    return max(begins, key=len, default="")


def _age(row: Mapping[str, str], case: str) -> str:
    """Years / 100, as text; "" where the table has none."""
    text = row.get(_AGE, "")
    try:
        return f"{float(text) / 36525:.4f}" if text else ""
    except ValueError:
        do = "Correct the table, or blank the cell"
        raise DataError(message(_AGE, "be a number of days", repr(text), subject=case, do=do)) from None


def _counts(cases: list[Case], labels: Mapping[str, object]) -> list[str]:
    both = sum("pathology" in case.cells and any(name in case.cells for name in SEQUENCES) for case in cases)
    notes = [f"{both} of {len(cases)} cases have MRI and pathology"]
    without = [case.id for case in cases if "diagnosis" not in case.cells]
    if without and labels:
        notes.append(
            f"{len(without)} {_cases(without)} no class in the tables ({without[0]}{', ...' if len(without) > 1 else ''})"
        )
    missing = sorted({*labels} - {case.id for case in cases}, key=natural_key)
    if missing:
        dots = ", ..." if len(missing) > 1 else ""
        notes.append(f"{len(missing)} {_cases(missing)} a class but no image, and {_is(missing)} left out ({missing[0]}{dots})")
    return notes


def _cases(ids: list[str]) -> str:
    return "case has" if len(ids) == 1 else "cases have"


def _is(ids: list[str]) -> str:
    return "is" if len(ids) == 1 else "are"


def _strange(strange: list[str]) -> list[str]:
    if not strange:
        return []
    what = "1 picture begins" if len(strange) == 1 else f"{len(strange)} pictures begin"
    return [f"{what} with no known ID and {_is(strange)} not used ({strange[0]})"]


def _found_splits(tree: Tree, options: Options) -> list[str]:
    numbers = sorted({int(m["number"]) for m in map(_SPLIT.fullmatch, (p.name for p in _named(tree))) if m})
    if not numbers or options.split is not None:
        return []
    return [f"splits of DeepGuide are there and not used ({', '.join(map(str, numbers))}): add --set split={numbers[0]}"]
