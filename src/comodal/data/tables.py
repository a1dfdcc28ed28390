"""Reading a CSV file as people's spreadsheets write it, every cell as text."""

from __future__ import annotations

import codecs
import csv
import io
import re
from pathlib import Path
from typing import Literal

from comodal.errors import ConfigError, DataError, message

MAX_BYTES = 256 * 1024**2
_UTF16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
_FORMULA = ("=", "+", "-", "@", "\t", "\r")
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?", re.IGNORECASE)


def read_table(path: Path) -> tuple[list[str], list[dict[str, str]]]:
    """Reads a CSV file: comma, semicolon or tab, a byte order mark is fine, quoted line breaks are kept.

    Nothing is converted: "007" keeps its zeros, and only a blank cell is blank ("NA" is a text). White space around cells is
    dropped, and so are rows in which every cell is blank.

    Args:
        path: The file.

    Returns:
        Names of the columns, and one {column: cell} per row.

    Raises:
        ConfigError: There is no such file.
        DataError: It is not UTF-8, a column name is blank or occurs twice, or a row has another number of cells.
    """
    text = _text(path)
    try:
        reader = csv.reader(io.StringIO(text, newline=""), delimiter=_delimiter(text), strict=True)
        lines = [(number, [cell.strip() for cell in line]) for number, line in enumerate(reader, start=1)]
    except csv.Error as error:
        raise DataError(message("table", "be CSV", str(error), do="Save it again as CSV", file=str(path))) from None
    lines = [(number, line) for number, line in lines if any(line)]
    if not lines:
        raise DataError(message("table", "have a line of column names", "an empty file", do="Fill it", file=str(path)))
    columns = lines[0][1]
    for name in columns:
        if not name or columns.count(name) > 1:
            got = repr(name) if name else "a column without a name"
            raise DataError(message("table", "name each column once", got, do="Rename or remove the column", file=str(path)))
    for number, line in lines[1:]:
        if len(line) != len(columns):
            got = f"{len(line)} in row {number}"
            do = "Put quotes around cells that hold commas"
            raise DataError(message("table", f"have {len(columns)} cells in each row", got, do=do, file=str(path)))
    return columns, [dict(zip(columns, line, strict=True)) for _, line in lines[1:]]


def _text(path: Path) -> str:
    try:
        data = path.read_bytes() if path.stat().st_size <= MAX_BYTES else None
    except OSError as error:
        got = error.strerror or str(error)
        raise ConfigError(message("table", "be a readable CSV file", got, do="Check the path", file=str(path))) from None
    if data is None:
        raise DataError(message("table", f"have at most {MAX_BYTES // 1024**2} MiB", "more", do="Split it", file=str(path)))
    try:
        if data.startswith(_UTF16) or b"\0" in data[:2]:
            raise DataError(message("table", "be CSV in UTF-8", "UTF-16", do="Save it as 'CSV UTF-8'", file=str(path)))
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        got = f"byte {error.start} that is not"
        raise DataError(message("table", "be CSV in UTF-8", got, do="Save it as 'CSV UTF-8'", file=str(path))) from None


def _delimiter(text: str) -> str:
    first = text.partition("\n")[0]
    if "\t" in first.strip() and first.count("\t") > max(first.count(","), first.count(";")):
        return "\t"
    return ";" if first.count(";") > first.count(",") else ","


def table_remarks(path: Path) -> list[tuple[Literal["note", "warning"], str, str]]:
    """How a CSV file is written, where that is not plain commas and line feeds; `read_table` reads all of it.

    Args:
        path: The file.

    Returns:
        (level, what was found, what to do) of each.

    Raises:
        ConfigError: There is no such file.
        DataError: It is not UTF-8.
    """
    text, fine = _text(path), "Nothing: it is read as it is meant"
    with path.open("rb") as file:
        marked = file.read(3) == codecs.BOM_UTF8
    remarks: list[tuple[Literal["note", "warning"], str, str]] = []
    if marked:
        remarks.append(("note", "the table begins with a byte order mark", fine))
    if "\r\n" in text:
        remarks.append(("note", "the lines of the table end as on Windows", fine))
    if any("\n" in cell for row in csv.reader(io.StringIO(text, newline=""), delimiter=_delimiter(text)) for cell in row):
        remarks.append(("note", "cells of the table hold line breaks", fine))
    if _delimiter(text) == ";":
        do = "Check that no number has lost its decimal comma, or save it with commas"
        remarks.append(("warning", "the table has semicolons between its cells", do))
    return remarks


def spreadsheet_safe(cell: str) -> str:
    """A text cell of an exported table as no spreadsheet takes for a formula: an apostrophe before = + - @, tab, return.

    Numbers stay as they are. Not for `cohort.csv`, which must come back as it was written.

    Args:
        cell: What is to be written.

    >>> [spreadsheet_safe(cell) for cell in ("=cmd()", "-1.5", "+x", "p1", "-")]
    ["'=cmd()", '-1.5', "'+x", 'p1', '-']
    """
    if cell[:1] in _FORMULA and cell != "-" and not _NUMBER.fullmatch(cell):
        return "'" + cell
    return cell
