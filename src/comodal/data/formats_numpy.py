"""Reading .npy and .npz: the header is checked against the size of the file before a number is read.

So a file of a few bytes cannot fill the memory, and a cut one is noticed. Nothing is unpickled.
"""

from __future__ import annotations

import io
import math
import os
import warnings
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from comodal.errors import ConfigError, DataError, message, nearest, short

MAX_BYTES = 2 * 1024**3

HEADER = 16 * 1024  # numpy refuses headers of more than 10 000 characters
_CHUNK = 16 * 1024**2
_ZIP_ERRORS = (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError, ValueError)
_AGAIN = "Copy or save it again"


@dataclass(frozen=True)
class ArraySource:
    """Which file, which array in it, and the errors that name it.

    Attributes:
        owner: The input as the user knows it: "X".
        path: The file.
        key: The name of an array in a .npz file, where the user gave one.
    """

    owner: str
    path: Path
    key: str | None = None

    @property
    def suffix(self) -> str:
        """In lower case: ".npy"."""
        return self.path.suffix.lower()

    def text(self, rule: str, got: object, *, do: str, subject: str | None = None) -> str:
        """What `errors.message` makes of it."""
        file = str(self.path) if self.key is None else f"{self.path}:{self.key}"
        return message(self.owner, rule, got, do=do, subject=subject, file=file)

    def error(self, rule: str, got: object, *, do: str, subject: str | None = None) -> DataError:
        """The content is wrong."""
        return DataError(self.text(rule, got, do=do, subject=subject))

    def misuse(self, rule: str, got: object, *, do: str) -> ConfigError:
        """A path, a key or the name of a column is wrong."""
        return ConfigError(self.text(rule, got, do=do))


class Layout(NamedTuple):
    """What the header of a .npy file says. offset: where the numbers begin."""

    shape: tuple[int, ...]
    fortran: bool
    dtype: np.dtype[Any]
    offset: int


def read_array(source: ArraySource, *, kinds: str) -> NDArray[Any]:
    """Reads one array to its last byte, and compares the checksum of a .npz file.

    Args:
        source: A .npy file, or a .npz file, which has one array or is given with a key.
        kinds: Letters of the types that are accepted, as in `numpy.dtype.kind`, out of "biufSU".

    Returns:
        (n,) or (n, d), both at least 1, in the file's own type.

    Raises:
        ConfigError: A .npz file with several arrays and no key, or without this key.
        DataError: A damaged file, an array of another type, without or with more than two axes, empty, or of more than 2 GiB
            as float64.

    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "x.npz"
    >>> np.savez(path, image=np.eye(2), text=np.zeros(3))
    >>> read_array(ArraySource("X", path, "image"), kinds="f").shape
    (2, 2)
    """
    with _opened(source) as (file, size):
        if source.suffix != ".npz":
            return _contents(file, size, source, kinds)
        try:
            with zipfile.ZipFile(file) as archive:
                info = _member(archive, source)
                with archive.open(info) as inner:
                    return _contents(inner, info.file_size, source, kinds)
        except _ZIP_ERRORS as error:
            got = str(error)[:100] or type(error).__name__
            raise source.error("be an undamaged .npz file", got, do=_AGAIN) from None


@contextmanager
def _opened(source: ArraySource) -> Iterator[tuple[IO[bytes], int]]:
    try:
        with source.path.open("rb") as file:
            yield file, os.fstat(file.fileno()).st_size
    except OSError as error:
        raise source.error("be readable", error.strerror or str(error), do="Check the file and its permissions") from None


def _member(archive: zipfile.ZipFile, source: ArraySource) -> zipfile.ZipInfo:
    infos = [info for info in archive.infolist() if info.filename.endswith(".npy")]
    members = {info.filename.removesuffix(".npy"): info for info in infos}
    keys = sorted(members)
    listed = ", ".join(keys[:20]) + (f" and {len(keys) - 20} more" if len(keys) > 20 else "")
    if not infos:
        raise source.error("hold an array", "none", do="Save it with numpy.savez")
    if source.key is None and len(infos) > 1:
        do = f"Write {source.path.name}:KEY with one of these"
        raise source.misuse("name one array of the file", f"{len(infos)} arrays: {listed}", do=do)
    info = members[keys[0]] if source.key is None else members.get(source.key)
    if info is None:
        raise source.misuse("name an array of the file", repr(source.key), do=nearest(str(source.key), keys))
    if sum(other.filename == info.filename for other in infos) > 1:
        raise source.error("hold each array once", "two of this name", do="Save it again with numpy.savez")
    if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        do = "Save it with numpy.savez_compressed"
        raise source.error("be compressed as numpy does it", "another compression", do=do)
    return info


def _contents(file: IO[bytes], size: int, source: ArraySource, kinds: str) -> NDArray[Any]:
    head = file.read(HEADER)  # a bound: the length that the header claims for itself may be 4 GiB
    layout = parse_layout(head)
    if layout is None:
        do = "Save it with numpy.save or numpy.savez"
        raise source.error("be a .npy array", "something else, or a damaged header", do=do)
    _check(layout, source, kinds)
    expected = math.prod(layout.shape) * layout.dtype.itemsize
    rule = f"hold {expected} bytes after its header, as the header says"
    if layout.offset + expected != size:
        raise source.error(rule, max(size - layout.offset, 0), do=_AGAIN)
    buffer = np.empty(expected, dtype=np.uint8)
    data, done = head[layout.offset :], 0
    while data:
        buffer[done : done + len(data)] = np.frombuffer(data, dtype=np.uint8)
        done += len(data)
        data = file.read(min(_CHUNK, expected - done))
    if done != expected or file.read(1):  # where a .npz file ends, zipfile compares the checksum
        raise source.error(rule, done if done < expected else "more", do=_AGAIN)
    return buffer.view(layout.dtype).reshape(layout.shape, order="F" if layout.fortran else "C")


def parse_layout(head: bytes) -> Layout | None:
    """Parses the header of a .npy file.

    Args:
        head: The first `HEADER` bytes, or all where there are fewer.

    Returns:
        What it says, unchecked; None where it is damaged or of another kind of file.
    """
    stream = io.BytesIO(head)
    try:
        version = np.lib.format.read_magic(stream)
        parse = {
            (1, 0): np.lib.format.read_array_header_1_0,
            (2, 0): np.lib.format.read_array_header_2_0,
            (3, 0): np.lib.format.read_array_header_2_0,  # differs in the names of fields only, and fields are refused
        }[version]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a header of Python 2 is as good
            shape, fortran, dtype = parse(stream)
    except Exception:  # noqa: BLE001  the parser raises many kinds on hostile bytes
        return None
    return Layout(tuple(map(int, shape)), fortran, dtype, stream.tell())


def _check(layout: Layout, source: ArraySource, kinds: str) -> None:
    shape, dtype = layout.shape, layout.dtype
    if dtype.kind not in kinds or dtype.itemsize == 0 or (dtype.kind == "f" and dtype.itemsize > 8):
        rule, do = "hold numbers", "Save it as float64"
        if "U" in kinds:
            rule, do = "hold integers or text", "Save the labels as integers or text"
        raise source.error(rule, f"type {short(str(dtype))[1:-1]}", do=f"{do}; objects are never unpickled")
    if any(not 0 <= length <= MAX_BYTES for length in shape):
        raise source.error("have a possible shape", "a damaged or hostile header", do="Save it again with numpy.save")
    if not shape:
        raise source.error("have rows", "a single value without an axis", do="Save one row for each case")
    if len(shape) > 2:
        rule, do = "have one or two axes (rows, columns)", "Flatten or pool it to one row of features per case"
        raise source.error(rule, f"shape {short(shape)}", do=do)
    for length, axis in zip(shape, ("row", "column"), strict=False):
        if length == 0:
            raise source.error(f"have at least one {axis}", f"shape {shape}", do="Check how it was made")
    if math.prod(shape) * max(dtype.itemsize, 8) > MAX_BYTES:
        rule, do = f"hold at most {MAX_BYTES / 1024**3:g} GiB as float64", "Use fewer rows, or pool the columns"
        raise source.error(rule, f"shape {shape} of type {dtype}", do=do)
