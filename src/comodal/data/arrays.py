"""Reading rows of observations from .npy, .npz and .csv: what `comodal mi X Y` compares.

Nothing is guessed. A gap is an error: it never becomes zeros. `formats_numpy` reads the arrays, `tables` the CSV files.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from comodal.data.formats_numpy import ArraySource, read_array
from comodal.data.tables import read_table
from comodal.errors import DataError, message, nearest, short

MAX_LEVELS = 64
EXACT = 2**53  # above it float64 skips integers

_SUFFIXES = (".npy", ".npz", ".csv")
_NUMBER = re.compile(r"[+-]?(?:(?:\d+(?:\.\d*)?|\.\d+)(?:e[+-]?\d+)?|nan|inf|infinity)", re.ASCII | re.IGNORECASE)
_WITH_COMMAS = re.compile(r"[+-]?[\d.]*,[\d.,]*(?:e[+-]?\d+)?", re.ASCII | re.IGNORECASE)


@dataclass(frozen=True, eq=False)
class Rows:
    """Observations, one per row.

    Attributes:
        values: (n, d) float64, finite; each column varies.
        columns: d names; "x0", "x1", ... where the file has none.
        ids: n ids, where the file has a column of them.
        notes: What a reader should know, one phrase each: "one-hot: colour (3 values)".
        owner: The input as the user knows it: "X".
    """

    values: NDArray[np.float64]
    columns: tuple[str, ...]
    ids: tuple[str, ...] | None = None
    notes: tuple[str, ...] = ()
    owner: str = "X"


def columns_of(source: str | Path) -> tuple[str, ...]:
    """Names of the columns of a CSV file; none for an array, or where there is no such file."""
    path = Path(source)
    return tuple(read_table(path)[0]) if path.suffix.lower() == ".csv" and path.is_file() else ()


def read_rows(source: str | Path, *, owner: str, id_column: str | None = None, categories: Sequence[str] = ()) -> Rows:
    r"""Reads a matrix of numbers, one observation per row.

    Columns that are the same in all rows are left out with a note: a constant carries no information.

    Args:
        source: A .npy, .npz or .csv file; "file.npz:KEY" names one of several arrays. Arrays are (n,) or (n, d), of bool,
            integer or float type. A CSV file has a line of column names.
        owner: The input as the user knows it, for error texts: "X".
        id_column: The column of a CSV file that names the rows; it is no number. Arrays have none, which is noted.
        categories: Columns of a CSV file that are one-hot encoded, levels in sorted order: "colour=blue", "colour=red".

    Returns:
        The rows in the order of the file.

    Raises:
        ConfigError: No such file, array or column, or a suffix that is none of these.
        DataError: A damaged file, another type or shape, no rows, NaN or infinity, integers beyond 2**53, blank or other cells
            that are not numbers, a category of more than 64 levels, or only constants.

    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "x.csv"
    >>> _ = path.write_text("case,age,colour,site\np1,40,red,1\np2,50.5,blue,1\n")
    >>> rows = read_rows(path, owner="X", id_column="case", categories=["colour"])
    >>> rows.columns, rows.values.tolist(), rows.ids
    (('age', 'colour=blue', 'colour=red'), [[40.0, 0.0, 1.0], [50.5, 1.0, 0.0]], ('p1', 'p2'))
    >>> rows.notes
    ('one-hot: colour (2 values)', '1 constant column left out: site')
    """
    given = _given(source, owner)
    if given.suffix == ".csv":
        rows = _csv_rows(given, id_column, categories)
    elif categories:
        got = f"{', '.join(categories)} for an array"
        raise given.misuse("name categories of a CSV file only", got, do="Save it as CSV with column names")
    else:
        values = _floats(read_array(given, kinds="biuf"), given)
        names = tuple(f"x{index}" for index in range(values.shape[1]))
        notes = () if id_column is None else ("an array has no ids: its rows are taken in their order",)
        rows = Rows(values, names, notes=notes, owner=owner)
    _check_finite(rows, given)
    return _varying(rows, given)


def read_groups(
    source: str | Path, *, owner: str, rows: int, ids: Sequence[str] | None = None, id_column: str | None = None
) -> list[str]:
    r"""Reads to which group (patient) each row belongs.

    Args:
        source: An array (n,) of integers, bools or text as .npy or .npz; or a CSV file with one column, or with the column of
            ids and one more.
        owner: The input as the user knows it, for error texts: "--groups".
        rows: How many rows there are.
        ids: Of these rows. A CSV file with the column of ids is put in their order, and may know further ids; all else is
            taken in the order of the file.
        id_column: Name of the column of ids.

    Returns:
        One label per row.

    Raises:
        ConfigError: No such file, array or column, a suffix that is none of these, or ids that the rows do not have.
        DataError: A damaged file, another type or shape, a blank label, another number of rows, an id twice or an id missing.

    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "groups.csv"
    >>> _ = path.write_text("case,patient\nscan1,p\nscan2,q\nscan3,p\n")
    >>> read_groups(path, owner="--groups", rows=2, ids=["scan2", "scan3"], id_column="case")
    ['q', 'p']
    """
    given = _given(source, owner)
    labels = _csv_labels(given, ids, id_column) if given.suffix == ".csv" else _array_labels(given)
    if len(labels) != rows:
        do = "Give one label per row, in the order of the rows"
        raise given.error(f"have one label for each of the {rows} rows", len(labels), do=do)
    return labels


def matched(x: Rows, y: Rows) -> tuple[Rows, Rows]:
    """Pairs the rows of two inputs: by id where both have ids, by position otherwise.

    Args:
        x: Gives the order.
        y: Has the same ids in any order, or the same number of rows.

    Returns:
        `x`, and `y` in the order of `x`. Where that changed the order, or only one has ids, the notes of `y` say so.

    Raises:
        DataError: An id occurs twice or has no partner, or the numbers of rows differ.

    >>> y = Rows(np.array([[1.0], [2.0]]), ("age",), ids=("q", "p"), owner="Y")
    >>> _, paired = matched(replace(y, ids=("p", "q"), owner="X"), y)
    >>> paired.values.tolist(), paired.ids, paired.notes
    ([[2.0], [1.0]], ('p', 'q'), ('2 rows put in the order of X by their ids',))
    """
    both = f"{x.owner} and {y.owner}"
    if x.ids is None or y.ids is None:
        if len(x.values) != len(y.values):
            got = f"{len(x.values)} in {x.owner}, {len(y.values)} in {y.owner}"
            do = "Give both one row for each case, in the same order"
            raise DataError(message(both, "have the same number of rows", got, do=do))
        bare = x if x.ids is None else y
        note = (f"paired by position: {bare.owner} has no ids",) if x.ids != y.ids else ()
        return x, replace(y, notes=(*y.notes, *note))
    _check_partners(x, y)
    if x.ids == y.ids:
        return x, y
    at = {name: row for row, name in enumerate(y.ids)}
    note = (f"{len(x.ids)} rows put in the order of {x.owner} by their ids",)
    return x, replace(y, values=y.values[[at[name] for name in x.ids]], ids=x.ids, notes=(*y.notes, *note))


def _check_partners(x: Rows, y: Rows) -> None:
    for rows in (x, y):
        counts = Counter(rows.ids)
        again = [name for name, count in counts.items() if count > 1]
        if again:
            got = f"{_count(len(again), 'id')} more than once"
            do = "Give each row its own id, and say by --groups which rows belong to one patient"
            raise DataError(message(rows.owner, "have each id once", got, subject=_named(again, 0), do=do))
    own, other = set(x.ids or ()), set(y.ids or ())
    alone = [name for name in (*(x.ids or ()), *(y.ids or ())) if (name in own) != (name in other)]
    if alone:
        got = f"{len(own - other)} only in {x.owner}, {len(other - own)} only in {y.owner}"
        do = "Drop the rows that have no partner, or correct their ids"
        raise DataError(message(f"{x.owner} and {y.owner}", "have the same ids", got, subject=_named(alone, 0), do=do))


def _given(source: str | Path, owner: str) -> ArraySource:
    """Takes "file.npz:KEY" apart, unless a file is called so."""
    keyed = None if os.path.isfile(source) else re.fullmatch(r"(.+\.npz):(.*)", str(source), re.IGNORECASE | re.DOTALL)
    given = ArraySource(owner, Path(keyed[1]), keyed[2]) if keyed else ArraySource(owner, Path(source))
    if given.suffix not in _SUFFIXES:
        do = "Save it in one of these; file.npz:KEY names one array of several"
        raise given.misuse("be a file named .npy, .npz or .csv", repr(given.path.suffix), do=do)
    if not os.path.isfile(given.path):  # opening a pipe would wait for ever
        kind = "a folder" if os.path.isdir(given.path) else "a device or pipe"
        raise given.misuse("be a file", kind if os.path.exists(given.path) else "no such file", do="Check the path")
    return given


def _row(index: int, given: ArraySource) -> str:
    """As the user counts: a CSV file as a spreadsheet does, where the names are row 1; arrays from 0."""
    return f"row {index + 2}" if given.suffix == ".csv" else f"row {index} (from 0)"


def _named(ids: Sequence[str] | None, index: int) -> str | None:
    """The subject of an error, on one line however odd it is."""
    if ids is None:
        return None
    return ids[index] if ids[index].isprintable() and len(ids[index]) <= 80 else short(ids[index])


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


# ---------------------------------------------------------------------------------------------------------------- arrays


def _floats(array: NDArray[Any], given: ArraySource) -> NDArray[np.float64]:
    """(n, d) float64."""
    array = array.reshape(len(array), -1)
    if array.dtype.kind == "b":
        array = array.view(np.uint8) != 0  # a file may hold other bytes than 0 and 1
    if array.dtype.kind in "iu" and array.dtype.itemsize == 8:
        low, high = int(array.min()), int(array.max())
        if max(-low, high) > EXACT:
            got = high if high > EXACT else low
            do = "Check that it is no code or id; otherwise save it as float64"
            raise given.error("hold integers of at most 2**53, which float64 holds exactly", got, do=do)
    return array.astype(np.float64, order="C", copy=False)


def _array_labels(given: ArraySource) -> list[str]:
    array = read_array(given, kinds="biuSU")
    if array.ndim > 1 and array.shape[1] > 1:
        raise given.error("have one label per row", f"shape {array.shape}", do="Save an array of one axis")
    array = array.reshape(-1)
    try:
        if array.dtype.kind == "U":
            _check_unicode(array)
        cells = [cell.decode() if isinstance(cell, bytes) else str(cell) for cell in array.tolist()]
    except ValueError:
        raise given.error("hold text in Unicode", "bytes that are not", do="Save the labels as integers or text") from None
    labels = [cell.strip() for cell in cells]
    _check_labels(labels, None, given)
    return labels


def _check_unicode(array: NDArray[Any]) -> None:
    """Numpy fails on numbers that are no character, and no terminal prints half of a surrogate pair."""
    codes = array.view(np.dtype(np.uint32).newbyteorder(array.dtype.byteorder))
    if (codes > 0x10FFFF).any() or ((codes >= 0xD800) & (codes < 0xE000)).any():
        raise ValueError


# ------------------------------------------------------------------------------------------------------------------- csv


def _csv_rows(given: ArraySource, id_column: str | None, categories: Sequence[str]) -> Rows:
    columns, lines = read_table(given.path)
    if all(_NUMBER.fullmatch(name) for name in columns):
        raise given.error("have a line of column names", "numbers in its first row", do="Name the columns")
    ids = None if id_column is None else _ids(given, columns, lines, id_column)
    columns = [name for name in columns if name != id_column]
    for name in categories:
        if name not in columns:
            raise given.misuse("have the columns named as categories", f"no {name!r}", do=nearest(name, columns))
    if not lines or not columns:
        rule = "have at least one row and one column of values"
        got = f"{_count(len(lines), 'row')} and {_count(len(columns), 'column')}"
        raise given.error(rule, got, do="Check how it was made")
    parts: list[NDArray[np.float64]] = []
    names: list[str] = []
    notes: list[str] = []
    for name in columns:
        cells = [line[name] for line in lines]
        if name in categories:
            levels, part = _one_hot(cells, name, given, ids)
            names += [f"{name}={level}" for level in levels]
            notes.append(f"one-hot: {name} ({_count(len(levels), 'value')})")
        else:
            part = _numbers(cells, name, given, ids)
            names.append(name)
        parts.append(part)
    return Rows(np.concatenate(parts, axis=1), tuple(names), ids, tuple(notes), given.owner)


def _ids(given: ArraySource, columns: list[str], lines: list[dict[str, str]], id_column: str) -> tuple[str, ...]:
    if id_column not in columns:
        raise given.misuse("have the column of ids", f"no {id_column!r}", do=nearest(id_column, columns))
    ids = tuple(line[id_column] for line in lines)
    if "" in ids:
        got = f"a blank cell in {_row(ids.index(''), given)}"
        raise given.error(f"have an id in each row of column {id_column}", got, do="Fill it, or drop the row")
    return ids


def _numbers(cells: list[str], name: str, given: ArraySource, ids: tuple[str, ...] | None) -> NDArray[np.float64]:
    """(n, 1). What Python would take beyond the usual ways to write a number ("1_000", other scripts) is refused."""
    bad = [index for index, cell in enumerate(cells) if not _NUMBER.fullmatch(cell)]
    if bad:
        raise _unfit(cells, bad, f"hold numbers in column {name}", given, ids)
    return np.array([[float(cell)] for cell in cells])


def _one_hot(
    cells: list[str], name: str, given: ArraySource, ids: tuple[str, ...] | None
) -> tuple[list[str], NDArray[np.float64]]:
    """Sorted levels, and (n, levels)."""
    bad = [index for index, cell in enumerate(cells) if not cell]
    if bad:
        raise _unfit(cells, bad, f"hold a category in each row of column {name}", given, ids)
    levels = sorted(set(cells))
    if len(levels) > MAX_LEVELS:
        do = "Merge rare values, or leave the column out"
        raise given.error(f"have at most {MAX_LEVELS} values in the category {name}", len(levels), do=do)
    at = {level: index for index, level in enumerate(levels)}
    return levels, np.eye(len(levels))[[at[cell] for cell in cells]]


def _unfit(cells: list[str], bad: list[int], rule: str, given: ArraySource, ids: tuple[str, ...] | None) -> DataError:
    first = bad[0]
    cell = cells[first]
    more = f" and {len(bad) - 1} more" if len(bad) > 1 else ""
    got = f"{short(cell, 40) if cell else 'a blank cell'} in {_row(first, given)}{more}"
    if rule.startswith("hold a category"):
        do = "Fill it, or drop the row"
    elif _WITH_COMMAS.fullmatch(cell):
        do = "Write a decimal point, and nothing between thousands"
    else:
        do = "Fill it, drop the row, or, if it holds categories, name it in --categories"
    return given.error(rule, got, do=do, subject=_named(ids, first))


def _csv_labels(given: ArraySource, ids: Sequence[str] | None, id_column: str | None) -> list[str]:
    columns, lines = read_table(given.path)
    own = _ids(given, columns, lines, id_column) if id_column is not None and len(columns) > 1 else None
    rest = [name for name in columns if name != id_column]
    if len(rest) != 1:
        do = "Leave one column of labels, beside the column of ids if there is one"
        raise given.error("have one column of labels", f"{len(rest)}: {', '.join(rest[:20])}" if rest else "none", do=do)
    labels = [line[rest[0]] for line in lines]
    _check_labels(labels, own, given)
    if own is None:
        return labels
    if ids is None:
        raise given.misuse("be in the order of the rows where these have no ids", "a column of ids", do="Remove that column")
    return _by_id(labels, own, ids, given)


def _by_id(labels: list[str], own: tuple[str, ...], ids: Sequence[str], given: ArraySource) -> list[str]:
    group = dict(zip(own, labels, strict=True))
    again = [name for name, count in Counter(own).items() if count > 1]
    if again:
        got = f"{_count(len(again), 'id')} more than once"
        raise given.error("have each id once", got, do="Remove the repeated rows", subject=_named(again, 0))
    missing = [name for name in ids if name not in group]
    if missing:
        got = f"{len(missing)} of {len(ids)} without"
        raise given.error("have a label for the id of each row", got, do="Add these ids", subject=_named(missing, 0))
    return [group[name] for name in ids]


# ---------------------------------------------------------------------------------------------------------------- checks


def _check_labels(labels: list[str], ids: tuple[str, ...] | None, given: ArraySource) -> None:
    if "" in labels:
        first = labels.index("")
        got, subject = f"{labels.count('')} blank, the first in {_row(first, given)}", _named(ids, first)
        raise given.error("have a label in each row", got, do="Name the group of each row", subject=subject)


def _check_finite(rows: Rows, given: ArraySource) -> None:
    finite = np.isfinite(rows.values)
    if not finite.all():
        row, column = divmod(int(finite.argmin()), finite.shape[1])
        where = f"the first in {_row(row, given)}, column {rows.columns[column]}"
        got = f"{_count(int((~finite).sum()), 'value')} of NaN or infinity, {where}"
        rule, do = "hold finite numbers: a gap never becomes zeros", "Fill it, or drop the row"
        raise given.error(rule, got, do=do, subject=_named(rows.ids, row))


def _varying(rows: Rows, given: ArraySource) -> Rows:
    varies = rows.values.min(axis=0) != rows.values.max(axis=0)
    if varies.all():
        return rows
    if not varies.any():
        got = f"{_count(len(varies), 'constant column')} in {_count(len(rows.values), 'row')}"
        do = "Give other columns or more rows: a constant carries no information"
        raise given.error("vary from row to row", got, do=do)
    left = [name for name, kept in zip(rows.columns, varies, strict=True) if not kept]
    more = f" and {len(left) - 5} more" if len(left) > 5 else ""
    note = f"{_count(len(left), 'constant column')} left out: {', '.join(left[:5])}{more}"
    columns = tuple(name for name, kept in zip(rows.columns, varies, strict=True) if kept)
    return replace(rows, values=rows.values[:, varies], columns=columns, notes=(*rows.notes, note))
