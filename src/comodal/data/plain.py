"""The layout of one's own folder: a CSV with a column `subject` and one column of paths for each modality and target.

Paths are relative to the folder of the CSV, or absolute below one common folder. What a column is, is inferred from its name
and its files, and every inference is written into `meta.notes` and into the yaml, where it can be corrected.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

from comodal.data.cohort import RESERVED, Case, Cohort, CohortMeta, ModalitySpec, TargetSpec, existing_file
from comodal.data.formats_picture import SLICE_SUFFIXES
from comodal.data.geometry import Header
from comodal.data.reading import label_codes, read_features, read_header, read_volume
from comodal.data.tables import read_table
from comodal.errors import ConfigError, DataError, message, nearest

TARGET_WORDS = ("seg", "segmentation", "label", "labels", "mask", "lesion", "target", "diagnosis", "class")
# .mhd is refused when it is read, with what to do instead.
IMAGE_SUFFIXES = (".nii", ".nii.gz", ".mha", ".mhd", *SLICE_SUFFIXES)
MAX_CLASSES = 50
# What tables say for "there is none"; a blank cell says it here.
NO_PATH = frozenset({"na", "n/a", "nan", "none", "null", "nil", "missing", "absent", "-", "--", "?", "."})


@dataclass(frozen=True)
class Column:
    """One column of the table, with what is in it. cells: {case id: cell} of those that are not blank."""

    name: str
    cells: dict[str, str]
    root: Path

    @property
    def is_target(self) -> bool:
        """True where a word of the name says so: `seg`, `tumour_mask`, `diagnosis`."""
        return any(word in TARGET_WORDS for word in re.split(r"[^a-z]+", self.name.lower()))

    @cached_property
    def kinds(self) -> dict[str, str]:
        """{case id: what its cell is}, from its suffix: "image", "text", "features" or "" for what is no path."""
        return {case: _kind(cell, self.root) for case, cell in self.cells.items()}

    @property
    def kind(self) -> str:
        """What all cells are; "mixed" where they differ and some are paths."""
        kinds = set(self.kinds.values())
        return kinds.pop() if len(kinds) == 1 else "mixed" if kinds - {""} else ""


def index(root: Path) -> Cohort:
    """Makes a cohort of a table.

    Columns `subject, session, group, site, split` mean what they mean in every cohort. A column with one of `TARGET_WORDS` in
    its name is a target: one region for each label value in its files, or classes where its cells are not paths. Other columns
    of paths are modalities; columns of anything else are left out, with a note.

    Args:
        root: The CSV.

    Returns:
        The cohort; its root is the folder of the CSV, or the common folder of absolute paths that lie elsewhere.

    Raises:
        ConfigError: `root` is not a CSV.
        DataError: No column `subject`, no modality, a file that does not exist, a path that cannot be followed, or a column
            that mixes kinds of files.
    """
    if not root.is_file() or root.suffix.lower() not in (".csv", ".txt", ".tsv"):
        do = "Give the table: comodal index csv mytable.csv --out cohort.csv"
        raise ConfigError(message("ROOT", "be a CSV file for the layout csv", root.name, do=do, file=str(root)))
    header, rows = read_table(root)
    renamed, notes = _names(header, root)
    folder = Path(os.path.abspath(root.parent))
    cases = [_case(dict(zip(renamed, row.values(), strict=True))) for row in rows]
    columns = [_column(name, cases, folder) for name in renamed if name not in RESERVED]
    base, columns = _below_one_folder(columns, folder)
    if base != folder:
        notes.append(f"paths start from {base}, the folder that all of them share")
    modalities, targets = _specs(columns, notes)
    if not modalities:
        rule, do = "have at least one modality: a column of paths", f"Add a column with paths relative to {folder}"
        raise DataError(message("table", rule, ", ".join(header), do=do, file=str(root)))
    meta = CohortMeta(layout="csv", root=str(base), modalities=modalities, targets=targets, notes=notes)
    names = {spec.name for spec in meta.columns}
    kept = [column for column in columns if column.name in names]
    whole = [replace(c, cells={k.name: k.cells[c.id] for k in kept if c.id in k.cells}) for c in cases]
    return Cohort.build(meta, whole, base)


def _names(names: Sequence[str], root: Path) -> tuple[list[str], list[str]]:
    """Column names as a cohort can have them."""
    notes, renamed = [], []
    for name in names:
        new = name.lower() if name.lower() in RESERVED else re.sub(r"[^0-9A-Za-z_-]+", "_", name).strip("_")
        if not new or new in renamed:
            do = "Rename the column with letters, digits, '_' and '-'"
            raise DataError(message("table", "have distinct plain column names", repr(name), do=do, file=str(root)))
        if new != name:
            notes.append(f"column {name!r} is called {new}")
        renamed.append(new)
    if "subject" not in renamed:
        do = "Name the column that identifies the patient `subject`. " + nearest("subject", names)
        raise DataError(message("table", "have a column `subject`", ", ".join(names), do=do, file=str(root)))
    return renamed, notes


def _case(row: dict[str, str]) -> Case:
    known = {name: row.pop(name) for name in RESERVED if name in row}
    return Case.build(known.pop("subject"), cells=row, **known)


def _column(name: str, cases: Sequence[Case], folder: Path) -> Column:
    """A column and what is in it; no file is opened before its path is known to be one that can be followed."""
    column = Column(name, {case.id: case.cells[name] for case in cases if name in case.cells}, folder)
    for case, cell in column.cells.items() if column.kind else ():
        _check_cell(cell, column.kinds[case], subject=case, modality=name)
    return column


def _check_cell(cell: str, kind: str, *, subject: str, modality: str) -> None:
    """Refuses what is no path in a column of paths, each with the remedy that fits."""
    if not kind and cell.lower() in NO_PATH:
        rule, do = "leave the cell of an absent file blank", "Leave it blank"
    elif "\\" in cell or re.match(r"[A-Za-z]:", cell):
        rule, do = "list paths with forward slashes and without a drive", "Write it relative to the folder of the table"
    elif ".." in cell.split("/") or "\0" in cell:
        rule, do = "list paths without '..'", "Write the whole path from /, or put the table above all its files"
    else:
        return
    raise DataError(message("table", rule, repr(cell), subject=subject, modality=modality, do=do))


def _below_one_folder(columns: list[Column], folder: Path) -> tuple[Path, list[Column]]:
    """The folder from which all paths start, and the columns with paths from there: that of the table where it holds all."""
    holders = [column for column in columns if column.kind]
    places = {
        (c.name, case): os.path.normpath(folder / cell) for c in holders for case, cell in c.cells.items() if c.kinds[case]
    }
    if not any(os.path.isabs(cell) for c in holders for cell in c.cells.values()):
        return folder, columns
    base = folder
    if not all(Path(place).is_relative_to(folder) for place in places.values()):
        base = Path(os.path.commonpath([os.path.dirname(place) for place in places.values()]))
    if base == base.parent and base != folder:
        (name, case), far = next(item for item in places.items() if not Path(item[1]).is_relative_to(folder))
        other = next(place for place in (*places.values(), str(folder)) if place.split("/")[1] != far.split("/")[1])
        rule, do = "list files that lie below one folder", "Move or copy all files below one folder"
        raise DataError(message("table", rule, f"{far} and {other}", subject=case, modality=name, do=do))

    def moved(column: Column) -> Column:
        cells = {
            case: Path(places[column.name, case]).relative_to(base).as_posix() if (column.name, case) in places else cell
            for case, cell in column.cells.items()
        }
        return Column(column.name, cells, base)

    return base, [moved(column) for column in columns]


def _kind(cell: str, root: Path) -> str:
    lower = cell.lower()
    if lower.endswith(IMAGE_SUFFIXES) or (lower not in NO_PATH and (root / cell).is_dir()):
        return "image"
    return "text" if lower.endswith(".txt") else "features" if lower.endswith(".npy") else ""


def _refuse_mixed(column: Column) -> None:
    """Names the case whose cell is not as the others."""
    common = Counter(kind for kind in column.kinds.values() if kind).most_common(1)[0][0]
    where = next((case for case, kind in column.kinds.items() if kind != common), next(iter(column.cells)))
    if not column.kinds[where]:
        rule, got = "hold paths of files in each cell of a column that has some", repr(column.cells[where])
        do = "Write the path with its suffix (.nii.gz, .png, ...) or the folder of the slices, or leave the cell blank"
    else:
        rule = "hold one kind of file in each column"
        got = str(sorted({Path(cell).suffix or cell for cell in column.cells.values()})[:5])
        do = "Give each kind of file its own column; class names go without a suffix"
    raise DataError(message("table", rule, got, subject=where, modality=column.name, do=do))


def _specs(columns: Sequence[Column], notes: list[str]) -> tuple[list[ModalitySpec], list[TargetSpec]]:
    modalities, targets = [], []
    first_grid: Header | None = None
    for column in columns:
        if not column.cells:
            notes.append(f"column {column.name} is blank everywhere and was left out")
            continue
        kind = column.kind
        if kind == "mixed" or (column.is_target and kind in ("text", "features")):
            _refuse_mixed(column)
        if kind:
            _check_exist(column)
        if column.is_target:
            targets.append(_regions(column, notes) if kind else _classes(column, notes))
        elif not kind:
            notes.append(f"column {column.name} was left out: its cells are not paths of images, .txt or .npy files")
        elif kind == "image":
            spec, header = _image(column, first_grid, notes)
            first_grid = first_grid or header
            modalities.append(spec)
        else:
            modalities.append(_vector_or_text(column, kind, notes))
    return modalities, targets


def _check_exist(column: Column) -> None:
    for where, cell in column.cells.items():
        existing_file(column.root, cell, subject=where, modality=column.name)


def _image(column: Column, first: Header | None, notes: list[str]) -> tuple[ModalitySpec, Header]:
    """From the header of the first file. Pictures without spacing share a grid only where they have one size."""
    where, cell = next(iter(column.cells.items()))
    header = read_header(column.root / cell, subject=where, modality=column.name)
    flat = header.shape[2] == 1
    same = first is None or (header.has_spacing and first.has_spacing) or header.shape == first.shape
    grid = "grid" if same else column.name
    spec = ModalitySpec(name=column.name, spatial_dims=2 if flat else 3, channels=header.channels, grid=grid)
    size = " x ".join(map(str, header.shape[:2] if flat else header.shape))
    notes.append(f"{column.name}: {spec.spatial_dims}-D image with {spec.channels} channel(s), {size} in the first case")
    if not same:
        notes.append(f"{column.name}: another size than the first image, so taken as not co-registered; see `grid` in the yaml")
    return spec, header


def _vector_or_text(column: Column, kind: str, notes: list[str]) -> ModalitySpec:
    if kind == "text":
        notes.append(f"{column.name}: text")
        return ModalitySpec(name=column.name, kind="text", spatial_dims=0, grid=column.name)
    where, cell = next(iter(column.cells.items()))
    length = len(read_features(column.root / cell, subject=where, modality=column.name))
    notes.append(f"{column.name}: vector of {length} features")
    return ModalitySpec(name=column.name, kind="features", spatial_dims=0, channels=length, grid=column.name)


def _regions(column: Column, notes: list[str]) -> TargetSpec:
    """One region for each value other than 0 in any of the label maps."""
    codes: set[int] = set()
    for where, cell in column.cells.items():
        path = column.root / cell
        volume = read_volume(path, subject=where, modality=column.name)
        codes |= {code for code in label_codes(volume, path=path, subject=where, modality=column.name) if code}
        if len(codes) > MAX_CLASSES:
            do = "Save label maps without loss (not as JPEG), or rename the column if it holds images"
            place = {"subject": where, "modality": column.name, "file": str(path)}
            raise DataError(message("label map", "hold few values", f"more than {MAX_CLASSES}", do=do, **place))
    if not codes:
        do = "Remove the column, or check that the files are label maps"
        rule = "have a value other than 0 in some case"
        raise DataError(message("label map", rule, "0 only", modality=column.name, do=do))
    ordered = sorted(codes)
    notes.append(f"{column.name}: target with one region for each label value, {', '.join(map(str, ordered))}")
    classes = [f"label-{code}" for code in ordered]
    return TargetSpec(name=column.name, kind="regions", classes=classes, codes=[[c] for c in ordered], paint=ordered)


def _classes(column: Column, notes: list[str]) -> TargetSpec:
    classes = sorted(set(column.cells.values()))
    if not 2 <= len(classes) <= MAX_CLASSES:
        do = "Rename the column if it is not a target: " + ", ".join(TARGET_WORDS) + " in a name mean one"
        got = f"{len(classes)} ({', '.join(classes[:3])})"
        raise DataError(message("table", f"have 2 to {MAX_CLASSES} classes in a target", got, modality=column.name, do=do))
    notes.append(f"{column.name}: target with the classes {', '.join(classes)}")
    return TargetSpec(name=column.name, kind="class", classes=classes)
