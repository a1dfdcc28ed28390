"""Phrases with the place that they speak of: a table by which grounding is judged.

`phrases.csv` has a row for each place: subject, sentence, finding, and x, y (a point) or x0, y0, x1, y1 (a box), or both; then
the box counts. Numbers are shares of the picture's width from the left and of its height from the top, as it is seen. Several
rows with one subject and sentence are one phrase with several places. Other columns are passed over.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from comodal.data.tables import read_table
from comodal.errors import DataError, message

POINT, BOX = ("x", "y"), ("x0", "y0", "x1", "y1")


@dataclass(frozen=True)
class Place:
    """Where in a picture something is, as shares of its width and height from the top left corner.

    Attributes:
        low: Left and upper end.
        high: Right and lower end; that of `low` where it is a point.
    """

    low: tuple[float, float]
    high: tuple[float, float]

    @property
    def centre(self) -> tuple[float, float]:
        """The middle of a box, or the point."""
        return (self.low[0] + self.high[0]) / 2, (self.low[1] + self.high[1]) / 2

    @property
    def is_point(self) -> bool:
        """Whether it has no extent."""
        return self.low == self.high


@dataclass(frozen=True)
class Phrase:
    """A sentence about one picture, and the places that it speaks of. finding: a word to group by, "" without."""

    subject: str
    sentence: str
    finding: str
    places: tuple[Place, ...]


def read_phrases(path: Path) -> tuple[Phrase, ...]:
    """Reads `phrases.csv`.

    Args:
        path: The file.

    Returns:
        Phrases in the order of their first rows.

    Raises:
        ConfigError: There is no such file.
        DataError: A column is missing, a place is not within the picture, a sentence is blank, or there is no row.
    """
    columns, rows = read_table(path)
    forms = [form for form in (POINT, BOX) if set(form) <= set(columns)]
    for needed in ("subject", "sentence"):
        if needed not in columns:
            raise _error(path, f"have the column {needed}", ", ".join(columns), "Rename or add it")
    if not forms:
        raise _error(path, "have the columns x, y or x0, y0, x1, y1", ", ".join(columns), "Add them, as shares of the picture")
    found: dict[tuple[str, str, str], list[Place]] = {}
    for number, row in enumerate(rows, start=2):
        if not row["subject"] or not row["sentence"]:
            raise _error(path, "have a subject and a sentence in each row", f"a blank cell in row {number}", "Fill it")
        key = (row["subject"], row["sentence"], row.get("finding", ""))
        found.setdefault(key, []).append(_place(path, number, row))
    if not found:
        raise _error(path, "have a row", "column names alone", "Add a row for each phrase")
    return tuple(Phrase(*key, tuple(dict.fromkeys(places))) for key, places in found.items())


def _place(path: Path, number: int, row: Mapping[str, str]) -> Place:
    """A box where the row has one, else a point."""
    form = BOX if all(row.get(name) for name in BOX) else POINT
    values = []
    for name in form:
        try:
            value = float(row.get(name) or "nan")
        except ValueError:
            value = float("nan")
        if not 0 <= value <= 1:
            got = f"{row.get(name, '')!r} for {name} in row {number}"
            do = "Divide pixels by the width or height of the picture"
            raise _error(path, "hold places as numbers from 0 to 1", got, do, subject=row["subject"])
        values.append(value)
    place = Place((values[0], values[1]), (values[-2], values[-1]))
    if form == BOX and not (place.low[0] < place.high[0] and place.low[1] < place.high[1]):
        do = "Give the left and upper end first"
        raise _error(path, "have x0 below x1 and y0 below y1", f"{values} in row {number}", do, subject=row["subject"])
    return place


def _error(path: Path, rule: str, got: str, do: str, *, subject: str | None = None) -> DataError:
    return DataError(message("--phrases", rule, got, do=do, file=str(path), subject=subject))
