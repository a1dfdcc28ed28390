"""Reading a CSV file as people's spreadsheets write it, every cell as text."""

from __future__ import annotations

import csv
import io
from pathlib import Path

from comodal.errors import ConfigError, DataError, message

MAX_BYTES = 256 * 1024**2


def read_table(path: Path) -> tuple[list[str], list[dict[str, str]]]:
    """Reads a CSV file: comma or semicolon, a byte order mark is fine, quoted line breaks are kept.

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
    try:
        data = path.read_bytes() if path.stat().st_size <= MAX_BYTES else None
    except OSError as error:
        got = error.strerror or str(error)
        raise ConfigError(message("table", "be a readable CSV file", got, do="Check the path", file=str(path))) from None
    if data is None:
        raise DataError(message("table", f"have at most {MAX_BYTES // 1024**2} MiB", "more", do="Split it", file=str(path)))
    try:
        text = data.decode("utf-8-sig")
        delimiter = ";" if text.partition("\n")[0].count(";") > text.partition("\n")[0].count(",") else ","
        reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
        lines = [(number, [cell.strip() for cell in line]) for number, line in enumerate(reader, start=1)]
    except UnicodeDecodeError as error:
        got = f"byte {error.start} that is not"
        raise DataError(message("table", "be CSV in UTF-8", got, do="Save it as 'CSV UTF-8'", file=str(path))) from None
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
