"""The layout of Derm7pt (release_v0): one clinical and one dermoscopic photograph of each lesion, and a table.

`meta/meta.csv` has one row per lesion; `meta/{train,valid,test}_indexes.csv` list positions of its rows, counted from 0 (not
case_num); `images/<folder>/<name>` are JPEG files whose names the table does not always write in the case of the disk.
Diagnosis and seven criteria are grouped as `tables/derm7pt_criteria.yaml` says (`comodal.data.derm7pt_criteria`).

Elevation, location and sex are the modality `metadata`. level_of_diagnostic_difficulty and management are no input: who wrote
them had already judged the lesion, and they would tell the diagnosis. Where the clinical photograph was lost, the table names
the dermoscopic one twice; such a copy is a blank cell, or dermoscopy would leak into every result of the clinical photograph.
"""

from __future__ import annotations

import filecmp
import os
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from comodal.data.cohort import Case, Cohort, CohortMeta, ModalitySpec, TargetSpec, check_path
from comodal.data.derm7pt_criteria import Checklist, load_criteria
from comodal.data.folders import Tree
from comodal.data.tables import read_table
from comodal.errors import DataError, message, nearest

IMAGES = {"clinical": "clinic", "derm": "derm"}  # modality: column of meta.csv
INDEX_FILES = {"train": "train_indexes.csv", "val": "valid_indexes.csv", "test": "test_indexes.csv"}
FEW = 5
Row = dict[str, str]


class Options(BaseModel):
    """What can be set.

    Attributes:
        diagnosis: "grouped" into five classes, or "full": fifteen, with all melanomas as one.
        metadata: Whether elevation, location and sex are a modality.
        group_by_case_id: Whether lesions that share a case_id are one group, which no split parts.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    diagnosis: Literal["grouped", "full"] = Field("grouped", description="five classes, or fifteen (full)")
    metadata: bool = Field(True, description="elevation, location and sex as a modality")
    group_by_case_id: bool = Field(True, description="lesions that share a case_id are one group")


DEFAULTS = Options()


@dataclass(frozen=True)
class ScoreMismatch:
    """A row whose seven_point_score is not the sum of the points of its criteria.

    Attributes:
        row: Position in meta.csv, from 0.
        case_num: As written.
        table: The score that stands there.
        recomputed: The sum.
    """

    row: int
    case_num: str
    table: int
    recomputed: int


@dataclass(frozen=True)
class _Release:
    """Where things are: the folder that holds images/, the table, and the table's rows."""

    base: Path
    table: Path
    rows: list[Row]


def index(root: Path, options: Options = DEFAULTS) -> Cohort:
    """Scans a Derm7pt folder. Photographs are opened only where two files of one lesion have the same size.

    Args:
        root: The folder release_v0, the folder around it, its folder meta, or any folder with meta.csv (images may be absent).
        options: See `Options`.

    Returns:
        Modalities clinical, derm (2-D RGB, grids of their own) and metadata (14 numbers) as far as any case has them. Targets
        diagnosis and the seven criteria, all of kind "class". A case is called by its case_num; the split is that of the index
        files, blank for rows in none. What was blanked or found odd stands in `meta.notes`.

    Raises:
        DataError: No meta.csv, a column or index file is missing, a value is in no group, index files that overlap or lie out
            of range, two files whose names differ in case only, or nothing that could be an input.
    """
    checklist, release = load_criteria(), _read(root)
    tree = Tree.scan(release.base)
    splits, split_notes = _splits(release)
    cells = [_targets(release, number, checklist, options) for number in range(len(release.rows))]
    notes = [*split_notes, *_score_note(release), *_pictures(release, tree, cells)]
    if options.metadata:
        notes += _metadata(release, checklist, cells)
    notes.append("level_of_diagnostic_difficulty and management are no input: they were judged with the lesion already seen")
    cases: list[Case] = []
    left_out: list[Case] = []
    for number, (row, filled) in enumerate(zip(release.rows, cells, strict=True)):
        group = f"case_id {row['case_id']}" if options.group_by_case_id and row.get("case_id") else ""
        case = Case.build(row["case_num"], cells=filled, group=group, split=splits[number])
        kept = any(name in case.cells for name in (*IMAGES, "metadata"))
        (cases if kept else left_out).append(case)
    if not cases:
        do = "Put the folder images beside meta, or leave metadata on"
        raise DataError(message("ROOT", "hold photographs or metadata", "neither", do=do, file=str(release.base)))
    if left_out:
        notes.append(f"left out without any modality: {_few([case.id for case in left_out], len(release.rows))}")
    specs = [spec for spec in _modalities(checklist) if any(spec.name in case.cells for case in cases)]
    targets = [spec for spec in _target_specs(checklist, options) if any(spec.name in case.cells for case in cases)]
    notes += [*_crossing(cases), *tree.not_followed(), *tree.synthetic()]
    meta = CohortMeta(layout="derm7pt", root=str(release.base), modalities=specs, targets=targets, notes=notes)
    return Cohort.build(meta, cases, release.base)


def score_mismatches(root: Path) -> list[ScoreMismatch]:
    """The rows in which seven_point_score is not the sum of the points of the criteria, in the order of the table.

    Args:
        root: As for `index`.

    Returns:
        Empty where all agree. Rows in which the score or a criterion is blank are left out.

    Raises:
        DataError: As for `index`; or a score that is no whole number.
    """
    return _mismatches(_read(root))


def _read(root: Path) -> _Release:
    """Finds and reads meta.csv."""
    root = Path(os.path.abspath(root))
    for base, table in ((root, "meta/meta.csv"), (root / "release_v0", "meta/meta.csv"), (root, "meta.csv")):
        if (base / table).is_file():
            path = base / table
            beside = base.parent if table == "meta.csv" and base.name == "meta" and (base.parent / "images").is_dir() else base
            columns, rows = read_table(path)
            needed = ("case_num", "diagnosis", *load_criteria().criteria, *IMAGES.values())
            for name in needed:
                if name not in columns:
                    do = f"{nearest(name, columns)}. Restore the file of the release"
                    raise DataError(message("table", f"have the column {name!r}", "none", do=do, file=str(path)))
            if not rows:
                raise DataError(message("table", "have rows", "none", do="Restore the file of the release", file=str(path)))
            return _Release(beside, path, rows)
    do = "Give the folder release_v0 of Derm7pt, or one that holds meta.csv and the index files"
    raise DataError(message("ROOT", "hold meta/meta.csv or meta.csv", "none", do=do, file=str(root)))


def _grouped(release: _Release, number: int, column: str, *, known: Iterable[str]) -> str:
    """The value of one cell as the data file writes it, "" where blank."""
    given = release.rows[number].get(column, "")
    spelled = {name.casefold(): name for name in known}
    if given and given.casefold() not in spelled:
        owner, rule = f"table: {column}", "be a value that the checklist groups"
        got = f"{given!r} in row {number} (from 0)"
        subject = release.rows[number]["case_num"]
        raise DataError(message(owner, rule, got, subject=subject, file=str(release.table), do=nearest(given, known)))
    return spelled[given.casefold()] if given else ""


def _targets(release: _Release, number: int, checklist: Checklist, options: Options) -> dict[str, str]:
    """{target: class} of one row; blank cells are not labelled."""
    diagnoses = checklist.diagnosis.values
    value = _grouped(release, number, "diagnosis", known=diagnoses)
    cells = {"diagnosis": diagnoses[value][options.diagnosis == "full"]} if value else {}
    for name, criterion in checklist.criteria.items():
        value = _grouped(release, number, name, known=criterion.values)
        cells |= {name: criterion.values[value]} if value else {}
    return cells


def _target_specs(checklist: Checklist, options: Options) -> list[TargetSpec]:
    classes = checklist.diagnosis.full if options.diagnosis == "full" else checklist.diagnosis.grouped
    found = [TargetSpec(name="diagnosis", kind="class", classes=list(classes))]
    return found + [TargetSpec(name=name, kind="class", classes=list(c.classes)) for name, c in checklist.criteria.items()]


def _modalities(checklist: Checklist) -> list[ModalitySpec]:
    length = sum(len(values) for values in checklist.metadata.values())
    vector = ModalitySpec(name="metadata", kind="features", spatial_dims=0, channels=length, grid="metadata", inline=True)
    return [*(ModalitySpec(name=name, spatial_dims=2, channels=3, grid=name) for name in IMAGES), vector]


def _splits(release: _Release) -> tuple[list[str], list[str]]:
    """The split of each row, and notes. The index files hold positions of rows, from 0."""
    size, folder = len(release.rows), release.table.parent
    there = [name for name in INDEX_FILES.values() if (folder / name).is_file()]
    if not there:
        return [""] * size, ["there are no index files: the column split is blank, and a training draws its own"]
    side: dict[int, str] = {}
    for split, name in INDEX_FILES.items():
        path = folder / name
        if name not in there:
            do = f"Restore it, or remove {', '.join(there)} to do without official splits"
            raise DataError(message("index files", "be all there or none", f"no {name}", file=str(path), do=do))
        for position in _positions(path, size):
            if position in side:
                do = "Restore the files of the release"
                got = f"row {position} in {INDEX_FILES[side[position]]} and {name}"
                raise DataError(message("index files", "list each row once", got, file=str(path), do=do))
            side[position] = split
    found = [side.get(number, "") for number in range(size)]
    parts = ", ".join(f"{found.count(split)} {split}" for split in INDEX_FILES)
    notes = [f"the split is that of the index files: {parts}"]
    if "" in found:
        none = [row["case_num"] for row, split in zip(release.rows, found, strict=True) if not split]
        do = "fill it, or set splits.column: false"
        notes.append(f"in no index file, so that their split is blank: {_few(none, size)}; to train, {do}")
    if [row["case_num"].lstrip("0") for row in release.rows] != [str(number + 1) for number in range(size)]:
        notes.append("case_num is not the number of the row: if rows were moved or removed, the index files no longer fit")
    return found, notes


def _positions(path: Path, size: int) -> list[int]:
    columns, rows = read_table(path)
    if columns != ["indexes"]:
        rule, do = "have the one column 'indexes'", "Restore the file of the release"
        raise DataError(message("index file", rule, ", ".join(columns), file=str(path), do=do))
    found = []
    for row in rows:
        cell = row["indexes"]
        if not (cell.isascii() and cell.isdigit() and len(cell) < 10 and int(cell) < size):
            rule, do = f"hold positions of rows, 0 to {size - 1}", "They count rows of meta.csv from 0 and are not case_num"
            raise DataError(message("index file", rule, repr(cell[:40]), file=str(path), do=do))
        found.append(int(cell))
    if len(set(found)) < len(found):
        twice = next(position for position in found if found.count(position) > 1)
        do = "Remove the second"
        raise DataError(message("index file", "list each row once", f"{twice} twice", file=str(path), do=do))
    return found


def _mismatches(release: _Release) -> list[ScoreMismatch]:
    found = []
    for number, row in enumerate(release.rows):
        given, points = row.get("seven_point_score", ""), 0
        for name, criterion in load_criteria().criteria.items():
            value = _grouped(release, number, name, known=criterion.values)
            given, points = given if value else "", points + (criterion.points[criterion.values[value]] if value else 0)
        if not given:
            continue
        if not (given.isascii() and given.isdigit() and len(given) < 10):
            owner, do = "table: seven_point_score", "Correct the cell, or blank it"
            got = f"{given[:40]!r} in row {number} (from 0)"
            raise DataError(message(owner, "be a whole number", got, subject=row["case_num"], file=str(release.table), do=do))
        if int(given) != points:
            found.append(ScoreMismatch(number, row["case_num"], int(given), points))
    return found


def _score_note(release: _Release) -> list[str]:
    if not any(row.get("seven_point_score") for row in release.rows):
        return []
    found = _mismatches(release)
    if not found:
        return ["seven_point_score is the sum of the points of the criteria in every row that has both"]
    shown = [f"{one.case_num}: {one.table}, sum {one.recomputed}" for one in found]
    return [f"seven_point_score is not the sum of the points of the criteria: {_few(shown, len(release.rows))}"]


def _pictures(release: _Release, tree: Tree, cells: Sequence[dict[str, str]]) -> list[str]:
    """Fills in the cells of the photographs that are there; notes of those that are not, or are copies."""
    there, size = _names(tree), len(release.rows)
    lost: dict[str, list[str]] = defaultdict(list)
    copied = []
    for row, filled in zip(release.rows, cells, strict=True):
        for modality, column in IMAGES.items():
            found = _resolve(row, modality, there) if row[column] else ""
            filled |= {modality: found} if found else {}
            if row[column] and not found:
                lost[modality].append(row["case_num"])
        same_name = row["clinic"].casefold() == row["derm"].casefold() != ""
        if same_name or _equal(release.base, filled):
            filled.pop("clinical", None)
            lost["clinical"] = [name for name in lost["clinical"] if name != row["case_num"]]
            copied.append(row["case_num"])
    notes = []
    if copied:
        notes.append(f"clinical is blank where it is a copy of the dermoscopic photograph: {_few(copied, size, most=20)}")
    if not any(modality in filled for filled in cells for modality in IMAGES):
        return [*notes, "no photograph that the table names lies below images: there are no image modalities"]
    for modality, names in lost.items():
        notes += [f"no file for {modality}, taken as absent: {_few(names, size)}"] if names else []
    used = {filled[modality] for filled in cells for modality in IMAGES if modality in filled}
    spare = sum(len(names) for names in there.values()) - len(used)
    copies_kept = spare and f"{spare} of the files below images {'is' if spare == 1 else 'are'} in no cell"
    return [*notes, copies_kept] if copies_kept else notes


def _names(tree: Tree) -> Mapping[str, list[str]]:
    """{path below the root in lower case: the paths that it may mean} of the files below images."""
    found: dict[str, list[str]] = defaultdict(list)
    for folder, files in tree.folders:
        for file in files:
            path = (folder / file).relative_to(tree.root).as_posix()
            if path.casefold().startswith("images/"):
                found[path.casefold()].append(path)
    return found


def _resolve(row: Row, modality: str, there: Mapping[str, list[str]]) -> str:
    """The file that a row names, in whatever case; "" where there is none."""
    given = row[IMAGES[modality]]
    check_path(given, owner=f"table: {IMAGES[modality]}", subject=row["case_num"], modality=modality)
    found = there.get(f"images/{given}".casefold(), [])
    if len(found) > 1:
        rule, do = "mean one file", "Their names differ in capitals only: keep one of them"
        owner, got = f"table: {IMAGES[modality]}", " and ".join(found)
        raise DataError(message(owner, rule, got, subject=row["case_num"], modality=modality, do=do))
    return found[0] if found else ""


def _equal(base: Path, cells: Mapping[str, str]) -> bool:
    """Whether both photographs of a lesion are the same bytes. What cannot be read is for `comodal check` to say."""
    if not all(modality in cells for modality in IMAGES):
        return False
    first, second = (os.path.realpath(base / cells[modality]) for modality in IMAGES)
    inside = os.path.realpath(base)
    if any(os.path.commonpath([path, inside]) != inside for path in (first, second)):
        return False
    try:
        return os.path.getsize(first) == os.path.getsize(second) and filecmp.cmp(first, second, shallow=False)
    except OSError:
        return False


def _metadata(release: _Release, checklist: Checklist, cells: Sequence[dict[str, str]]) -> list[str]:
    """Fills in the vectors; a lesion of which one of the three is blank has none, since zeros are not absence."""
    lacking = []
    for number, filled in enumerate(cells):
        values = {name: _grouped(release, number, name, known=known) for name, known in checklist.metadata.items()}
        if all(values.values()):
            bits = [str(int(values[name] == one)) for name, known in checklist.metadata.items() for one in known]
            filled["metadata"] = ";".join(bits)
        else:
            lacking.append(release.rows[number]["case_num"])
    names = ", ".join(f"{name} ({', '.join(known)})" for name, known in checklist.metadata.items())
    notes = [f"metadata is one-hot: {names}"] if len(lacking) < len(cells) else ["no row has all three of the metadata"]
    return [*notes, *([f"without metadata, since not all three are filled: {_few(lacking, len(cells))}"] if lacking else [])]


def _crossing(cases: Iterable[Case]) -> list[str]:
    """A note where the official split parts a group."""
    sides: dict[str, set[str]] = defaultdict(set)
    for case in cases:
        sides[case.group].add(case.split)
    parted = [group for group, splits in sides.items() if len(splits - {""}) > 1]
    if not parted:
        return []
    do = "to keep the official split, index with --set group_by_case_id=false"
    return [f"the official split parts lesions of one case ({_few(parted, len(sides))}): a training refuses it; {do}"]


def _few(names: Sequence[str], size: int, *, most: int = FEW) -> str:
    return f"{len(names)} of {size} ({', '.join(names[:most])}{', ...' if len(names) > most else ''})"
