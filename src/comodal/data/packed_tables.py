"""Large tables, plain or packed (.csv.gz), row by row: only the columns that are needed are kept in memory."""

from __future__ import annotations

import csv
import gzip
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import BinaryIO, cast

from comodal.errors import DataError, message

MAX_BYTES = 1024**3  # unpacked
MAX_LINE = 1024**2
_GZIP = b"\x1f\x8b"


def read_columns(path: Path, names: Sequence[str], optional: Sequence[str] = ()) -> Iterator[tuple[str, ...]]:
    """Some columns of a table, read to its last byte; that of a packed table is checked against its checksum.

    Args:
        path: A CSV with commas, UTF-8, a byte order mark is fine; packed where its first bytes say so.
        names: Columns that it must have. White space and underscores in names count for nothing, nor do capitals.
        optional: Columns that it may have.

    Yields:
        The cells of a row, of `names` and then of `optional` ("" where there is no such column), white space dropped. Rows in
        which every cell is blank are left out.

    Raises:
        DataError: The file cannot be read, is cut or damaged, not UTF-8, larger than 1 GiB unpacked, lacks a column, or has a
            row with another number of cells.
    """
    try:
        with path.open("rb") as plain:
            packed = plain.read(2) == _GZIP
            plain.seek(0)
            file = cast(BinaryIO, gzip.GzipFile(fileobj=plain)) if packed else plain
            yield from _rows(file, path, names, optional)
    except UnicodeDecodeError:
        raise _error(path, "be CSV in UTF-8", "bytes that are not") from None
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise _error(path, "be a complete .gz file", str(error)) from None
    except csv.Error as error:
        raise _error(path, "be CSV", str(error)) from None
    except OSError as error:
        raise _error(path, "be a readable file", error.strerror or str(error)) from None


def _rows(file: BinaryIO, path: Path, names: Sequence[str], optional: Sequence[str]) -> Iterator[tuple[str, ...]]:
    reader = csv.reader(_lines(file, path), strict=True)
    header = [_plain(name) for name in next(reader, [])]
    wanted = [_plain(name) for name in (*names, *optional)]
    for name, key in zip(names, wanted, strict=False):
        if key not in header:
            raise _error(path, f"have the column {name!r}", ", ".join(header)[:200] or "an empty file")
    for key in wanted:
        if header.count(key) > 1:
            raise _error(path, "name each column once", repr(key))
    places = [header.index(key) if key in header else -1 for key in wanted]
    for row in reader:
        if not any(map(str.strip, row)):
            continue
        if len(row) != len(header):
            raise _error(path, f"have {len(header)} cells in each row", f"{len(row)} in line {reader.line_num}")
        yield tuple(row[place].strip() if place >= 0 else "" for place in places)


def _lines(file: BinaryIO, path: Path) -> Iterator[str]:
    """Lines as text; a file that unpacks into something far larger is refused on the way."""
    total = 0
    while line := file.readline(MAX_LINE):
        if not total:
            line = line.removeprefix(b"\xef\xbb\xbf")
        total += len(line)
        if total > MAX_BYTES or len(line) >= MAX_LINE:
            raise _error(path, "be a table of at most 1 GiB with lines of at most 1 MiB", "more")
        yield line.decode("utf-8")


def _plain(name: str) -> str:
    return "".join(name.lower().split()).replace("_", "")


def _error(path: Path, rule: str, got: str) -> DataError:
    return DataError(message("table", rule, got, do="Take the file again from where it was published", file=str(path)))
