"""What the layout csv can be told (`comodal index csv TABLE --set KEY=VALUE`), and how that changes the rows of a table."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, field_validator

from comodal.data.columns import RESERVED
from comodal.errors import ConfigError, DataError, message, nearest

Row = dict[str, str]


class Options(BaseModel):
    """Options of the layout csv. Columns are named as in the table.

    Attributes:
        columns: {"subject" | "session" | "group" | "site" | "split": column} where the table calls them otherwise.
        keep: Only these columns are looked at; all where empty.
        drop: These are not.
        folder: {column: folder} to put before the paths of a column, from the folder of the table.
        text: Columns whose cells hold a text itself, not the path of one.
        redact: Words that are taken out of these texts ("___" stands for each), whatever their case: what names the answer.
        numbers: {modality: columns} whose cells hold numbers: one vector; blank where any of them is blank.
        bag: Columns whose cells list several pictures (joined by ";") or name a folder of pictures.
        tile: {column: pixels} of bags whose cell is one large picture or slide: it is cut into tiles.
        classes: Columns that hold the name of a class, whatever they are called.
        multilabel: Columns that hold several names joined by ";", "-" for none.
        ordinal: {column: classes in their order}.
        regions: {column: {region: label values}} of label maps; by default one region for each value.
        absent: Words that stand for a blank cell, such as NA; only a blank cell is blank by default.
        unit: {column: "HU" | "SUV"} of images.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    columns: dict[str, str] = Field(default_factory=dict)
    keep: tuple[str, ...] = ()
    drop: tuple[str, ...] = ()
    folder: dict[str, str] = Field(default_factory=dict)
    text: tuple[str, ...] = ()
    redact: tuple[str, ...] = ()
    numbers: dict[str, tuple[str, ...]] = Field(default_factory=dict)
    bag: tuple[str, ...] = ()
    tile: dict[str, int] = Field(default_factory=dict)
    classes: tuple[str, ...] = ()
    multilabel: tuple[str, ...] = ()
    ordinal: dict[str, tuple[str, ...]] = Field(default_factory=dict)
    regions: dict[str, dict[str, tuple[int, ...]]] = Field(default_factory=dict)
    absent: tuple[str, ...] = ()
    unit: dict[str, str] = Field(default_factory=dict)

    @field_validator("keep", "drop", "text", "bag", "classes", "multilabel", "absent", "redact", mode="before")
    @classmethod
    def _one_or_several(cls, value: object) -> object:
        """One word may be given without brackets; numbers (an absent -1) are words here."""
        several = value if isinstance(value, Sequence) and not isinstance(value, str) else (value,)
        return tuple(str(item) for item in several)

    @field_validator("columns")
    @classmethod
    def _known(cls, value: dict[str, str]) -> dict[str, str]:
        for name in value:
            if name not in RESERVED:
                raise ValueError(f"must name {', '.join(RESERVED)}; got {name}")
        return value

    @property
    def named(self) -> dict[str, tuple[str, ...]]:
        """{option: columns of the table that it names}."""
        lists = {key: getattr(self, key) for key in ("keep", "drop", "text", "bag", "classes", "multilabel")} | {
            key: tuple(getattr(self, key)) for key in ("folder", "tile", "ordinal", "regions", "unit")
        }
        return {
            **lists,
            "columns": tuple(self.columns.values()),
            "numbers": tuple(name for names in self.numbers.values() for name in names),
        }


def check_named(options: Options, header: Sequence[str], table: Path) -> None:
    """Refuses options that name columns which the table has not.

    Raises:
        ConfigError: Names the nearest ones.
    """
    for key, names in options.named.items():
        for name in names:
            if name not in header:
                rule = "name columns of the table"
                raise ConfigError(message(f"--set {key}", rule, repr(name), do=nearest(name, header), file=str(table)))
    for name in options.numbers:
        if name in header and name not in options.numbers[name]:
            do = "Give the vector another name"
            raise ConfigError(message("--set numbers", "make vectors of new names", repr(name), do=do, file=str(table)))


def apply_options(
    header: Sequence[str], rows: Sequence[Mapping[str, str]], options: Options, *, table: Path
) -> tuple[list[str], list[Row], list[str]]:
    """Columns, rows and notes once the options have been followed.

    Args:
        header: Columns of the table.
        rows: Its rows.
        options: What was asked for.
        table: For the error text.

    Returns:
        Columns (the reserved ones under their own names first), rows with these keys, and what is worth saying.

    Raises:
        ConfigError: A column that the table has not.
        DataError: A cell of `numbers` that is no number.
    """
    check_named(options, header, table)
    notes: list[str] = []
    words = {word.lower() for word in options.absent}
    used = {name for names in options.numbers.values() for name in names}
    kept = [name for name in header if (not options.keep or name in options.keep) and name not in options.drop]
    kept = [name for name in kept if name not in used and name not in options.columns]  # `columns.subject` replaces a `subject`
    if options.keep:
        kept += [name for name in header if name.lower() in RESERVED and name not in (*kept, *options.columns)]
    columns = [*options.columns, *kept, *options.numbers]
    made: list[Row] = []
    blanked = 0
    for number, row in enumerate(rows, start=2):
        blank = {name for name, cell in row.items() if cell.lower() in words} if words else set()
        cells = {name: "" if name in blank else cell for name, cell in row.items()}
        blanked += len(blank & set(kept))
        new = {name: cells[source] for name, source in options.columns.items()}
        new |= {name: _in_folder(cells[name], options.folder.get(name, "")) for name in kept}
        new |= {name: _vector([cells[c] for c in names], number, name, table) for name, names in options.numbers.items()}
        made.append(new)
    notes += _redact(made, options)
    if blanked:
        notes.append(f"{blanked} cells that say {' or '.join(options.absent)} count as blank")
    return columns, made, notes


def _redact(rows: Sequence[Row], options: Options) -> list[str]:
    """Takes words out of the texts, in place; says of how many."""
    if not options.redact:
        return []
    words = sorted(options.redact, key=len, reverse=True)  # the longer first: COVID-19 before COVID
    pattern = re.compile(rf"(?<!\w)(?:{'|'.join(map(re.escape, words))})(?!\w)", re.IGNORECASE)
    notes = []
    for name in options.text:
        changed = 0
        for row in rows:
            plain = pattern.sub("___", row[name])
            changed += plain != row[name]
            row[name] = plain
        notes.append(f"{name}: {', '.join(options.redact)} were taken out of {changed} texts")
    return notes


def _in_folder(cell: str, folder: str) -> str:
    """The paths of a cell below a folder; of several, each."""
    if not cell or not folder:
        return cell
    return ";".join(f"{folder.rstrip('/')}/{part.strip()}" for part in cell.split(";") if part.strip())


def _vector(cells: Sequence[str], number: int, name: str, table: Path) -> str:
    """Numbers as one cell, "" where any is blank."""
    if not all(cells):
        return ""
    for cell in cells:
        try:
            float(cell.replace("_", "x"))
        except ValueError:
            do = "Correct it, or name what stands for a blank in --set absent=[NA]"
            rule = f"hold numbers in the columns of {name}"
            raise DataError(message("table", rule, f"{cell[:40]!r} in row {number}", do=do, file=str(table))) from None
    return ";".join(cells)
