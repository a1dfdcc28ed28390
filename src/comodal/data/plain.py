"""The layout of one's own folder: a CSV with a column `subject` and one column for each modality and target.

Cells are paths, relative to the folder of the CSV or absolute below one common folder, or, where the options say so, the text,
numbers or classes themselves. What a column is, is inferred from its name and its files, and every inference is written into
`meta.notes` and into the yaml, where it can be corrected.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from comodal.data.cohort import RESERVED, Case, Cohort, CohortMeta, ModalitySpec, TargetSpec
from comodal.data.contents import numbers_in
from comodal.data.geometry import Header
from comodal.data.plain_columns import MAX_CLASSES, TARGET_WORDS, Column, below_one_folder, label_values
from comodal.data.plain_options import Options, apply_options
from comodal.data.reading import read_features, read_header, read_text
from comodal.data.tables import read_table
from comodal.errors import ConfigError, DataError, message, nearest

PROSE = 4  # words in a cell from which on a column looks like text


def index(root: Path, options: Options | None = None) -> Cohort:
    """Makes a cohort of a table.

    Columns `subject, session, group, site, split` mean what they mean in every cohort. A column with one of `TARGET_WORDS` in
    its name is a target: one region for each label value in its files, or classes where its cells are not paths. Other columns
    of paths are modalities; columns of anything else are left out, with a note, unless an option says what they are.

    Args:
        root: The CSV.
        options: What the columns are, where it cannot be inferred.

    Returns:
        The cohort; its root is the folder of the CSV, or the common folder of absolute paths that lie elsewhere.

    Raises:
        ConfigError: `root` is not a CSV, or an option names a column that it has not.
        DataError: No column `subject`, no modality, a file that does not exist, a path that cannot be followed, or a column
            that mixes kinds of files.
    """
    options = options or Options()
    if not root.is_file() or root.suffix.lower() not in (".csv", ".txt", ".tsv"):
        do = "Give the table: comodal index csv mytable.csv --out cohort.csv"
        raise ConfigError(message("ROOT", "be a CSV file for the layout csv", root.name, do=do, file=str(root)))
    names, rows, notes = apply_options(*read_table(root), options, table=root)
    renamed = _names(names, root, notes)
    folder = Path(os.path.abspath(root.parent))
    cases = [_case(dict(zip(renamed, row.values(), strict=True))) for row in rows]
    called = dict(zip(names, renamed, strict=True))
    asked = {called[name]: kind for name, kind in _asked(options).items()}
    columns = [_column(name, cases, folder, asked.get(name, "")) for name in renamed if name not in RESERVED]
    base, columns = below_one_folder(columns, folder)
    if base != folder:
        notes.append(f"paths start from {base}, the folder that all of them share")
    reader = _Reader(options, called, notes)
    modalities, targets = reader.specs(columns)
    if not modalities:
        rule, do = "have at least one modality: a column of paths", f"Add a column with paths relative to {folder}"
        raise DataError(message("table", rule, ", ".join(names), do=do, file=str(root)))
    meta = CohortMeta(layout="csv", root=str(base), modalities=modalities, targets=targets, notes=notes)
    return Cohort.build(meta, _filled(cases, columns, meta, reader.blank), base)


def _asked(options: Options) -> dict[str, str]:
    """{column of the table: what the options say that it is}."""
    kinds = {
        "text": options.text,
        "bag": (*options.bag, *options.tile),
        "features": tuple(options.numbers),
        "class": options.classes,
        "multilabel": options.multilabel,
        "ordinal": tuple(options.ordinal),
        "regions": tuple(options.regions),
    }
    return {name: kind for kind, names in kinds.items() for name in names}


def _filled(cases: Sequence[Case], columns: Sequence[Column], meta: CohortMeta, blank: set[tuple[str, str]]) -> list[Case]:
    """The cases with the cells of the columns that were kept."""
    names = {spec.name for spec in meta.columns}
    kept = [column for column in columns if column.name in names]

    def cells(case: Case) -> dict[str, str]:
        return {k.name: k.cells[case.id] for k in kept if case.id in k.cells and (case.id, k.name) not in blank}

    return [replace(case, cells=cells(case)) for case in cases]


def _names(names: Sequence[str], root: Path, notes: list[str]) -> list[str]:
    """Column names as a cohort can have them."""
    renamed: list[str] = []
    for name in names:
        new = name.lower() if name.lower() in RESERVED else re.sub(r"[^0-9A-Za-z_-]+", "_", name).strip("_")
        if not new or new in renamed:
            do = "Rename the column with letters, digits, '_' and '-'"
            raise DataError(message("table", "have distinct plain column names", repr(name), do=do, file=str(root)))
        if new != name:
            notes.append(f"column {name!r} is called {new}")
        renamed.append(new)
    if "subject" not in renamed:
        do = f"Name the column that identifies the patient: --set columns.subject=COLUMN. {nearest('subject', names)}"
        raise DataError(message("table", "have a column `subject`", ", ".join(names), do=do, file=str(root)))
    return renamed


def _case(row: dict[str, str]) -> Case:
    known = {name: row.pop(name) for name in RESERVED if name in row}
    return Case.build(known.pop("subject"), cells=row, **known)


def _column(name: str, cases: Sequence[Case], folder: Path, asked: str) -> Column:
    """A column and what is in it; no file is opened before its path is known to be one that can be followed."""
    column = Column(name, {case.id: case.cells[name] for case in cases if name in case.cells}, folder, asked)
    column.check_cells()
    return column


class _Reader:
    """Finds out what each column is.

    Args:
        options: What is known.
        called: {column of the table: its name in the cohort}.
        notes: Gets a sentence for every inference.
    """

    def __init__(self, options: Options, called: dict[str, str], notes: list[str]) -> None:
        self.options = options
        self.table = {new: old for old, new in called.items()}
        self.notes = notes
        self.blank: set[tuple[str, str]] = set()
        self.first: Header | None = None

    def specs(self, columns: Sequence[Column]) -> tuple[list[ModalitySpec], list[TargetSpec]]:
        modalities, targets = [], []
        for column in columns:
            if not column.cells:
                self.notes.append(f"column {column.name} is blank everywhere and was left out")
                continue
            spec = self._spec(column)
            if isinstance(spec, TargetSpec):
                targets.append(spec)
            elif spec is not None:
                modalities.append(spec)
        return modalities, targets

    def _spec(self, column: Column) -> ModalitySpec | TargetSpec | None:
        name, kind = column.name, column.kind if column.holds_paths or not column.asked else ""
        if column.asked in ("text", "features"):
            return self._inline(column)
        if kind == "mixed" or (column.is_target and kind in ("text", "features", "bag")):
            column.refuse_mixed()
        if kind:
            column.check_exist()
        if column.is_target:
            return self._regions(column) if kind else self._classes(column)
        if kind == "image":
            return self._image(column)
        if kind == "bag":
            return self._bag(column)
        if kind:
            return self._vector_or_text(column, kind)
        hint = ""
        if sum(len(cell.split()) >= PROSE for cell in column.cells.values()) * 2 > len(column.cells):
            hint = f"; if they are reports, add --set text={self.table[name]}"
        self.notes.append(f"column {name} was left out: its cells are not paths of images, .txt or .npy files{hint}")
        return None

    def _inline(self, column: Column) -> ModalitySpec:
        name = column.name
        if column.asked == "text":
            self.notes.append(f"{name}: text that stands in the table, {len(column.cells)} of them")
            return ModalitySpec(name=name, kind="text", spatial_dims=0, grid=name, inline=True)
        lengths = {len(numbers_in(cell, subject=case, modality=name)) for case, cell in column.cells.items()}
        (length,) = lengths  # made of the same columns
        self.notes.append(f"{name}: vector of {length} numbers of the table, {len(column.cells)} complete ones")
        return ModalitySpec(name=name, kind="features", spatial_dims=0, channels=length, grid=name, inline=True)

    def _image(self, column: Column) -> ModalitySpec:
        """From the header of the first file. Pictures without spacing share a grid only where they have one size."""
        where, cell = next(iter(column.cells.items()))
        header = read_header(column.root / cell, subject=where, modality=column.name)
        flat, first = header.shape[2] == 1, self.first
        same = first is None or (header.has_spacing and first.has_spacing) or header.shape == first.shape
        grid, unit = "grid" if same else column.name, self.options.unit.get(self.table[column.name])
        dims = 2 if flat else 3
        spec = ModalitySpec(name=column.name, spatial_dims=dims, channels=header.channels, grid=grid, unit=unit)
        size = " x ".join(map(str, header.shape[:2] if flat else header.shape))
        self.notes.append(f"{column.name}: {dims}-D image with {spec.channels} channel(s), {size} in the first case")
        if not same:
            said = "another size than the first image, so taken as not co-registered; see `grid` in the yaml"
            self.notes.append(f"{column.name}: {said}")
        self.first = first or header
        return spec

    def _bag(self, column: Column) -> ModalitySpec:
        """From the first item of the first case."""
        where = next(iter(column.cells))
        path, tile = column.root / column.paths(where)[0], self.options.tile.get(self.table[column.name], 0)
        vectors = sorted(path.glob("*.npy")) if path.is_dir() else []
        if vectors:
            length = len(read_features(vectors[0], subject=where, modality=column.name))
            self.notes.append(f"{column.name}: bags of vectors of {length} features")
            return ModalitySpec(name=column.name, kind="bag", spatial_dims=0, channels=length, grid=column.name)
        channels = 3
        if not tile:
            first = sorted(p for p in path.iterdir() if p.is_file())[0] if path.is_dir() else path
            channels = read_header(first, subject=where, modality=column.name).channels
        sizes = sorted({len(column.paths(case)) for case in column.cells})
        many = f"{sizes[0]} to {sizes[-1]}" if len(sizes) > 1 else str(sizes[0])
        self.notes.append(f"{column.name}: bags of pictures with {channels} channel(s), {many} in a cell")
        return ModalitySpec(name=column.name, kind="bag", spatial_dims=2, channels=channels, grid=column.name, tile=tile)

    def _vector_or_text(self, column: Column, kind: str) -> ModalitySpec:
        name = column.name
        if kind == "features":
            where, cell = next(iter(column.cells.items()))
            length = len(read_features(column.root / cell, subject=where, modality=name))
            self.notes.append(f"{name}: vector of {length} features")
            return ModalitySpec(name=name, kind="features", spatial_dims=0, channels=length, grid=name)
        texts = {case: read_text(column.root / cell, subject=case, modality=name) for case, cell in column.cells.items()}
        empty = [case for case, text in texts.items() if not text.strip()]
        self.blank |= {(case, name) for case in empty}
        self.notes.append(f"{name}: text")
        if empty:
            self.notes.append(f"{name}: {len(empty)} empty files count as absent ({', '.join(empty[:5])})")
        return ModalitySpec(name=name, kind="text", spatial_dims=0, grid=name)

    def _regions(self, column: Column) -> TargetSpec:
        """One region for each value other than 0 in any of the label maps, unless the options name them."""
        name, named = column.name, self.options.regions.get(self.table[column.name], {})
        if named:
            codes = [list(values) for values in named.values()]
            self.notes.append(f"{name}: target with the regions {', '.join(named)}, as asked for")
            return TargetSpec(name=name, kind="regions", classes=list(named), codes=codes, paint=[c[0] for c in codes])
        ordered = label_values({case: column.root / cell for case, cell in column.cells.items()}, name)
        self.notes.append(f"{name}: target with one region for each label value, {', '.join(map(str, ordered))}")
        classes = [f"label-{code}" for code in ordered]
        return TargetSpec(name=name, kind="regions", classes=classes, codes=[[c] for c in ordered], paint=ordered)

    def _classes(self, column: Column) -> TargetSpec:
        name = column.name
        if column.asked == "ordinal":
            classes = list(self.options.ordinal[self.table[name]])
        elif column.asked == "multilabel":
            cells = {word.strip().lstrip("?") for cell in column.cells.values() for word in cell.split(";") if cell != "-"}
            classes = sorted(cells - {""})
        else:
            classes = sorted(set(column.cells.values()))
        least = 1 if column.asked == "multilabel" else 2
        if not least <= len(classes) <= MAX_CLASSES:
            do = "Rename the column if it is not a target: " + ", ".join(TARGET_WORDS) + " in a name mean one"
            if column.asked:
                do = "Leave the column out, or correct its cells"
            got = f"{len(classes)} ({', '.join(classes[:3])})"
            raise DataError(message("table", f"have {least} to {MAX_CLASSES} classes in a target", got, modality=name, do=do))
        kind = {"multilabel": "multilabel", "ordinal": "ordinal"}.get(column.asked, "class")
        self.notes.append(f"{name}: target with the classes {', '.join(classes)}")
        return TargetSpec.model_validate({"name": name, "kind": kind, "classes": classes})
