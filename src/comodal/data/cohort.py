"""A cohort: which patients there are, which of their modalities exist, and where. Two files, `X.csv` and `X.yaml`.

The table has one row per subject (and session): `subject, session, group, site, split`, then one column per modality and target
by its plain name. A blank cell means absent; nothing stands in for it. Loading a cohort opens no image and asks for none: what
is absent, or not used, is never touched.
"""

from __future__ import annotations

import csv
import io
import os
import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import yaml

from comodal.data.atomic import replacing
from comodal.data.columns import RESERVED, CohortMeta, ModalitySpec, TargetSpec, label_indices, read_meta
from comodal.data.tables import read_table
from comodal.errors import ConfigError, DataError, message, nearest
from comodal.modality import Modality, Target

if TYPE_CHECKING:
    import pandas as pd

__all__ = [
    "RESERVED",
    "SPLITS",
    "Case",
    "Cohort",
    "CohortMeta",
    "ModalitySpec",
    "TargetSpec",
    "cell_paths",
    "check_path",
    "existing_file",
    "label_indices",
]

SPLITS = ("train", "val", "test")
RARE = {"inline", "sections", "tile", "microns", "other"}  # keys of the yaml that few columns need
# Predictions are named after cases, so an identifier must be usable as a file name on every system.
_ID = re.compile(r"[^/\\:*?\"<>|\x00-\x1f\x7f]+")


@dataclass(frozen=True)
class Case:
    """One row: a subject, or one session of a subject.

    Attributes:
        id: `subject`, or `subject_session`; unique, and usable as a file name.
        subject: As written in the table; leading zeros are kept.
        session: "" where there is only one.
        group: The patient: cases of one group never stand on two sides of a split. The subject where the table says nothing.
        site: Hospital, "" where unknown.
        split: "train", "val", "test" or "".
        cells: {column: content} of the cells that are not blank.
    """

    id: str
    subject: str
    session: str = ""
    group: str = ""
    site: str = ""
    split: str = ""
    cells: Mapping[str, str] = field(default_factory=dict)

    @staticmethod
    def build(subject: str, *, cells: Mapping[str, str], **columns: str) -> Case:
        """A case from the columns of a table; blank cells are dropped, the group defaults to the subject.

        >>> Case.build("007", session="2", cells={"t1": "a.nii.gz", "t2": ""}).id
        '007_2'
        """
        session, group = columns.pop("session", ""), columns.pop("group", "")
        identifier = f"{subject}_{session}" if session else subject
        kept = {name: cell for name, cell in cells.items() if cell}
        return Case(identifier, subject, session, group or subject, cells=kept, **columns)


@dataclass(frozen=True)
class Cohort:
    """Cases, and what their columns mean. It never changes; `select` gives a smaller one.

    Attributes:
        meta: What the columns are.
        cases: In the order of the table.
        root: Absolute folder that the paths start from.
        path: The csv it was loaded from or saved to.
    """

    meta: CohortMeta
    cases: tuple[Case, ...]
    root: Path
    path: Path | None = field(default=None, compare=False)

    def __post_init__(self) -> None:
        owner = str(self.path) if self.path else "cohort"
        specs = {spec.name: spec for spec in self.meta.columns}
        seen: dict[str, Case] = {}
        for case in self.cases:
            if case.id in seen:
                do = "Remove one row, or number the sessions in a column 'session'"
                raise DataError(message(owner, "have one row for each subject and session", "two", subject=case.id, do=do))
            seen[case.id] = case
            _check_case(case, specs, owner)

    @staticmethod
    def build(meta: CohortMeta, cases: Iterable[Case], root: Path) -> Cohort:
        """A cohort that was just indexed. root: an existing folder; the root in `meta` is replaced by it."""
        absolute = Path(os.path.abspath(root))
        return Cohort(meta.model_copy(update={"root": str(absolute)}), tuple(cases), absolute)

    @staticmethod
    def load(path: Path) -> Cohort:
        """Reads `X.csv` and `X.yaml` beside it. No other file is opened.

        Args:
            path: The csv.

        Returns:
            The cohort; every cell is text as written.

        Raises:
            ConfigError: A file is missing, or the yaml is not that of a cohort.
            DataError: The table has unknown, missing or duplicated columns, two rows of one subject and session, a path that
                leaves the root, or a class that the yaml does not list.
        """
        path = Path(path)
        if path.suffix.lower() != ".csv":
            do = "Give the .csv; the .yaml beside it is found by itself"
            raise ConfigError(message("cohort", "be a .csv file", path.name, do=do, file=str(path)))
        columns, rows = read_table(path)
        meta = read_meta(path.with_suffix(".yaml"))
        _check_columns(columns, meta, path)
        root = Path(os.path.abspath(path.parent / meta.root))
        names = [spec.name for spec in meta.columns]
        cases = []
        for row in rows:
            known = {name: row[name] for name in RESERVED if name in row}
            cases.append(Case.build(known.pop("subject"), cells={name: row[name] for name in names}, **known))
        return Cohort(meta.model_copy(update={"root": str(root)}), tuple(cases), root, path)

    def save(self, path: Path) -> Path:
        """Writes `X.csv` and `X.yaml`, each whole or not at all.

        The root is written relative to the yaml where the data lie below it, so that both can be moved together, else absolute.

        Args:
            path: The csv to write. Missing folders are made.

        Returns:
            The csv.

        Raises:
            ConfigError: `path` does not end in .csv.
        """
        path = Path(path)
        if path.suffix.lower() != ".csv":
            raise ConfigError(message("cohort", "be saved as .csv", path.name, do=f"Use {path.stem}.csv"))
        columns = [*RESERVED, *(spec.name for spec in self.meta.columns)]
        text = io.StringIO()
        writer = csv.DictWriter(text, columns, lineterminator="\n", restval="")
        writer.writeheader()
        for case in self.cases:
            writer.writerow({**{name: getattr(case, name) for name in RESERVED}, **case.cells})
        folder = Path(os.path.abspath(path.parent))
        root = os.path.relpath(self.root, folder) if self.root.is_relative_to(folder) else str(self.root)
        unused = set() if self.meta.withheld else {"withheld"}
        meta = self.meta.model_copy(update={"root": Path(root).as_posix()}).model_dump(by_alias=True, exclude=unused)
        for spec in (*meta["modalities"], *meta["targets"]):
            for key in RARE & {key for key, value in spec.items() if not value}:
                del spec[key]  # a yaml that people read names what is unusual only
        with replacing(path.with_suffix(".yaml")) as file:
            file.write(yaml.safe_dump(meta, sort_keys=False, allow_unicode=True, width=120).encode())
        with replacing(path) as file:
            file.write(text.getvalue().encode())
        return path

    def __len__(self) -> int:
        return len(self.cases)

    @property
    def modalities(self) -> tuple[Modality, ...]:
        """In canonical order."""
        return tuple(spec.modality for spec in self.meta.modalities)

    @property
    def targets(self) -> tuple[Target, ...]:
        """What can be predicted."""
        return tuple(spec.target for spec in self.meta.targets)

    @property
    def ids(self) -> tuple[str, ...]:
        """The cases' ids in the order of the table."""
        return tuple(case.id for case in self.cases)

    @cached_property
    def _by_id(self) -> dict[str, Case]:
        return {case.id: case for case in self.cases}

    def spec(self, column: str) -> ModalitySpec | TargetSpec:
        """What a column is; an unknown one is refused with the nearest known ones."""
        specs = {spec.name: spec for spec in self.meta.columns}
        if column not in specs:
            raise ConfigError(message("modality or target", "be one of the cohort", repr(column), do=nearest(column, specs)))
        return specs[column]

    def holds_files(self, column: str) -> bool:
        """True where the cells of a column are paths, False for classes and for content that stands in the cell itself."""
        return _holds_paths(self.spec(column))

    def file(self, case: Case, column: str) -> Path:
        """The file or folder of one cell.

        Args:
            case: A case of this cohort.
            column: A modality or target whose cells are paths and that this case has.

        Returns:
            Its path. Links are followed and must end below the root.

        Raises:
            DataError: The cell is blank, the file does not exist, or it lies outside the root.
        """
        return existing_file(self.root, self.cell(case, column), subject=case.id, modality=column)

    def files(self, case: Case, column: str) -> list[Path]:
        """The files of one cell: of a bag it may list several, joined by ";". See `file`."""
        cells = cell_paths(self.spec(column), self.cell(case, column))
        return [existing_file(self.root, cell, subject=case.id, modality=column) for cell in cells]

    def cell(self, case: Case, column: str) -> str:
        """What stands in one cell.

        Raises:
            DataError: It is blank.
        """
        cell = case.cells.get(self.spec(column).name, "")
        if not cell:
            do = f"This case has {', '.join(case.cells) or 'nothing'}"
            raise DataError(message("cohort", "list the file", "a blank cell", subject=case.id, modality=column, do=do))
        return cell

    def case(self, identifier: str) -> Case:
        """The case of this id; an unknown one is refused with the nearest known ones."""
        if identifier not in self._by_id:
            do = _nearest_few(identifier, self.ids)
            raise DataError(message("subject", "be one of the cohort", repr(identifier), do=do))
        return self._by_id[identifier]

    def select(self, ids: Iterable[str]) -> Cohort:
        """A cohort of these cases only, in the given order."""
        return replace(self, cases=tuple(self.case(i) for i in dict.fromkeys(ids)))

    def presence(self) -> pd.DataFrame:
        """Which case has which modality, from the table alone: bool, one row per case id, one column per modality."""
        import pandas as pd

        names = [spec.name for spec in self.meta.modalities]
        table = [[name in case.cells for name in names] for case in self.cases]
        return pd.DataFrame(table, index=pd.Index(self.ids, name="case"), columns=names, dtype=bool)


def _nearest_few(name: str, known: Sequence[str]) -> str:
    """As `nearest`, but a cohort of a thousand subjects is not listed whole."""
    return nearest(name, known) if len(known) <= 10 else nearest(name, known).split("Known:")[0] + f"It has {len(known)} cases"


def _check_columns(columns: Sequence[str], meta: CohortMeta, path: Path) -> None:
    known = [*RESERVED, *(spec.name for spec in meta.columns)]
    for name in columns:
        if name not in known:
            do = nearest(name, known) + f". Describe a new column in {path.with_suffix('.yaml').name}"
            raise DataError(message("cohort", "have only columns that its yaml describes", repr(name), do=do, file=str(path)))
    for name in ("subject", *known[len(RESERVED) :]):
        if name not in columns:
            do = f"Add the column, or remove {name} from {path.with_suffix('.yaml').name}"
            raise DataError(message("cohort", f"have the column {name!r}", ", ".join(columns), do=do, file=str(path)))


def _check_case(case: Case, specs: Mapping[str, ModalitySpec | TargetSpec], owner: str) -> None:
    """What can be said of a row without opening a file."""
    if not _ID.fullmatch(case.id) or case.id in (".", "..") or case.id != case.id.strip():
        do = "Use letters, digits, '_', '-' and '.'"
        raise DataError(message(f"{owner}: subject", "be usable as a file name", repr(case.id), do=do))
    if case.split and case.split not in SPLITS:
        rule, do = f"be one of {', '.join(SPLITS)} or blank", nearest(case.split, SPLITS)
        raise DataError(message(f"{owner}: split", rule, repr(case.split), subject=case.id, do=do))
    for column, cell in case.cells.items():
        spec = specs[column]
        if _holds_paths(spec):
            for path in cell_paths(spec, cell):
                check_path(path, owner=owner, subject=case.id, modality=column)
        elif isinstance(spec, TargetSpec):
            label_indices(spec, cell, subject=case.id)


def _holds_paths(spec: ModalitySpec | TargetSpec) -> bool:
    return not spec.inline if isinstance(spec, ModalitySpec) else spec.is_segmentation


def cell_paths(spec: ModalitySpec | TargetSpec, cell: str) -> list[str]:
    """The paths in a cell: of a bag there may be several, joined by ";", of anything else there is one.

    Args:
        spec: The column.
        cell: As written.

    >>> cell_paths(ModalitySpec(name="tiles", kind="bag", spatial_dims=2), "a_1.png; a_2.png")
    ['a_1.png', 'a_2.png']
    """
    if isinstance(spec, ModalitySpec) and spec.kind == "bag":
        return [path.strip() for path in cell.split(";") if path.strip()]
    return [cell]


def existing_file(root: Path, cell: str, *, subject: str, modality: str) -> Path:
    """The path of a cell, once it is known to exist and, links followed, to end below the root.

    Args:
        root: Of the cohort.
        cell: As written in the table; see `check_path`.
        subject: Case id, for the error text.
        modality: Column, for the error text.

    Raises:
        DataError: There is nothing, or it lies outside the root.
    """
    path = _spelled(root, cell)
    place = {"subject": subject, "modality": modality, "file": str(path)}
    real, base = os.path.realpath(path), os.path.realpath(root)
    if os.path.commonpath([real, base]) != base:
        do = "Copy the file there, or set root in the cohort's yaml to a folder that holds everything"
        raise DataError(message("cohort", f"list files below its root {root}", "a link out of it", do=do, **place))
    if not os.path.exists(real):
        do = "Correct the path, or blank the cell if this sequence is absent"
        raise DataError(message("cohort", "list files that exist", "none", do=do, **place))
    return path


def _spelled(root: Path, cell: str) -> Path:
    """The path, with accents as the disk has them: one name has two spellings in Unicode, and a table knows only one."""
    path = root / cell
    if not cell.isascii() and not os.path.lexists(path):
        for form in ("NFC", "NFD"):
            other = root / unicodedata.normalize(form, cell)
            if os.path.lexists(other):
                return other
    return path


def check_path(cell: str, *, owner: str, subject: str, modality: str) -> None:
    """Refuses an address, and a path that is absolute or climbs out of its root, without touching disk or network.

    Args:
        cell: As written in the table.
        owner: For the error text, as are subject and modality.
        subject: Case id.
        modality: Column.

    Raises:
        DataError: It does not stay below the root.
    """
    parts = cell.split("/")
    if "://" in cell:
        rule, do = "list files on this machine", "Download the file, and write its path relative to root"
        raise DataError(message(owner, rule, f"the address {cell!r}", subject=subject, modality=modality, do=do))
    if cell.startswith("/") or ".." in parts or "\\" in cell or "\0" in cell or re.match(r"[A-Za-z]:", cell):
        rule, do = "list paths that stay below its root", "Write it relative to root, with forward slashes and without '..'"
        raise DataError(message(owner, rule, repr(cell), subject=subject, modality=modality, do=do))
