"""A column of one's own table: what its cells are, and whether they can be followed."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

from comodal.data.cohort import existing_file
from comodal.data.formats_picture import SLICE_SUFFIXES
from comodal.data.reading import label_codes, read_volume
from comodal.errors import DataError, message

TARGET_WORDS = ("seg", "segmentation", "label", "labels", "mask", "lesion", "target", "diagnosis", "class")
IMAGE_SUFFIXES = (".nii", ".nii.gz", ".mha", ".mhd", ".nrrd", ".dcm", *SLICE_SUFFIXES)
MAX_CLASSES = 50
# What tables say for "there is none"; a blank cell says it here.
NO_PATH = frozenset({"na", "n/a", "nan", "none", "null", "nil", "missing", "absent", "-", "--", "?", "."})


@dataclass(frozen=True)
class Column:
    """One column of the table, with what is in it.

    Attributes:
        name: As the cohort calls it.
        cells: {case id: cell} of those that are not blank.
        root: Folder that the paths start from.
        asked: What the options say that it is: "text", "features", "bag", "class", "multilabel", "ordinal", "regions", or ""
            for what is to be found out.
    """

    name: str
    cells: dict[str, str]
    root: Path
    asked: str = ""

    @property
    def is_target(self) -> bool:
        """True where the options or a word of the name say so: `seg`, `tumour_mask`, `diagnosis`."""
        if self.asked:
            return self.asked in ("class", "multilabel", "ordinal", "regions")
        return any(word in TARGET_WORDS for word in re.split(r"[^a-z]+", self.name.lower()))

    @property
    def holds_paths(self) -> bool:
        """True where the cells are paths, as far as can be told from their suffixes."""
        return self.asked not in ("text", "features", "class", "multilabel", "ordinal") and bool(self.kind)

    @cached_property
    def kinds(self) -> dict[str, str]:
        """{case id: what its cell is}, from its suffix: "image", "bag", "text", "features" or "" for what is no path."""
        return {case: _kind(cell, self.root, bag=self.asked == "bag") for case, cell in self.cells.items()}

    @property
    def kind(self) -> str:
        """What all cells are; "mixed" where they differ and some are paths."""
        kinds = set(self.kinds.values())
        if kinds == {"image", "bag"}:  # one patient has one tile, another several
            return "bag"
        return kinds.pop() if len(kinds) == 1 else "mixed" if kinds - {""} else ""

    def paths(self, case: str) -> list[str]:
        """The paths in the cell of a case."""
        cell = self.cells[case]
        return [part.strip() for part in cell.split(";") if part.strip()] if self.kind == "bag" else [cell]

    def check_cells(self) -> None:
        """Refuses what is no path in a column of paths, each with the remedy that fits. No file is opened.

        Raises:
            DataError: Names the case, the column and one thing to do.
        """
        for case in self.cells if self.holds_paths else ():
            for path in self.paths(case):
                _check_path(path, self.kinds[case], subject=case, modality=self.name)

    def check_exist(self) -> None:
        """Refuses paths of files that do not exist or lie outside the root.

        Raises:
            DataError: Names the case and the file.
        """
        for case in self.cells:
            for path in self.paths(case):
                existing_file(self.root, path, subject=case, modality=self.name)

    def refuse_mixed(self) -> None:
        """Names the case whose cell is not as the others.

        Raises:
            DataError: Always.
        """
        common = Counter(kind for kind in self.kinds.values() if kind).most_common(1)[0][0]
        where = next((case for case, kind in self.kinds.items() if kind != common), next(iter(self.cells)))
        if not self.kinds[where]:
            rule, got = "hold paths of files in each cell of a column that has some", repr(self.cells[where])
            do = "Write the path with its suffix (.nii.gz, .png, ...) or the folder of the slices, or leave the cell blank"
        else:
            rule = "hold one kind of file in each column"
            got = str(sorted({Path(cell).suffix or cell for cell in self.cells.values()})[:5])
            do = "Give each kind of file its own column; class names go without a suffix"
        raise DataError(message("table", rule, got, subject=where, modality=self.name, do=do))


def below_one_folder(columns: list[Column], folder: Path) -> tuple[Path, list[Column]]:
    """The folder from which all paths start, and the columns with paths from there: that of the table where it holds all.

    Args:
        columns: Of the table.
        folder: That of the table.

    Raises:
        DataError: Two files have no folder in common but the root of the machine.
    """
    holders = [column for column in columns if column.holds_paths]
    found = [(c, case, path) for c in holders for case in c.cells if c.kinds[case] for path in c.paths(case)]
    places = {(c.name, case, path): os.path.normpath(folder / path) for c, case, path in found}
    if not any(os.path.isabs(path) for _, _, path in found):
        return folder, columns
    base = folder
    if not all(Path(place).is_relative_to(folder) for place in places.values()):
        base = Path(os.path.commonpath([os.path.dirname(place) for place in places.values()]))
    if base == base.parent and base != folder:
        (name, case, _), far = next(item for item in places.items() if not Path(item[1]).is_relative_to(folder))
        other = next(place for place in (*places.values(), str(folder)) if place.split("/")[1] != far.split("/")[1])
        rule, do = "list files that lie below one folder", "Move or copy all files below one folder"
        raise DataError(message("table", rule, f"{far} and {other}", subject=case, modality=name, do=do))

    def moved(column: Column) -> Column:
        def of(case: str) -> str:
            parts = [places.get((column.name, case, path), "") for path in column.paths(case)]
            return ";".join(Path(part).relative_to(base).as_posix() for part in parts)

        cells = {case: of(case) if column.kinds[case] else cell for case, cell in column.cells.items()}
        return replace(column, cells=cells, root=base)

    return base, [moved(column) if column.holds_paths else replace(column, root=base) for column in columns]


def _check_path(cell: str, kind: str, *, subject: str, modality: str) -> None:
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


def _kind(cell: str, root: Path, *, bag: bool) -> str:
    parts = [part.strip().lower() for part in cell.split(";") if part.strip()]
    if bag or (len(parts) > 1 and all(part.endswith(IMAGE_SUFFIXES) for part in parts)):
        return "bag"
    lower = cell.lower()
    if lower not in NO_PATH and (root / cell).is_dir():
        return "bag" if any(name.endswith(".npy") for name in os.listdir(root / cell)) else "image"
    if lower.endswith(IMAGE_SUFFIXES):
        return "image"
    return "text" if lower.endswith(".txt") else "features" if lower.endswith(".npy") else ""


def label_values(files: Mapping[str, Path], column: str) -> list[int]:
    """The values other than 0 in label maps, sorted; every map is read.

    Args:
        files: {case id: label map}.
        column: For the error text.

    Raises:
        DataError: A file that is no label map, more than 50 values, or 0 everywhere.
    """
    found: set[int] = set()
    for case, path in files.items():
        volume = read_volume(path, subject=case, modality=column)
        found |= {code for code in label_codes(volume, path=path, subject=case, modality=column) if code}
        if len(found) > MAX_CLASSES:
            do = "Save label maps without loss (not as JPEG), or rename the column if it holds images"
            got = f"more than {MAX_CLASSES}"
            raise DataError(message("label map", "hold few values", got, do=do, subject=case, modality=column, file=str(path)))
    if not found:
        do = "Remove the column, or check that the files are label maps"
        raise DataError(message("label map", "have a value other than 0 in some case", "0 only", modality=column, do=do))
    return sorted(found)
