"""Prepared arrays as files: mapped `.npy`, or compressed `.b2nd` of which a patch is read without unpacking the volume.

Both end with a mark of 20 bytes behind the array (readers of the two formats ignore it): that the file was written to its end,
how long it is, and its CRC-32. The length is checked at each opening. The sum of a `.b2nd` is checked at its first opening in a
process, since unpacking a flipped bit may give wrong numbers without an error; that reads a tenth of the array. The sum of an
`.npy` would read all that mapping spares, and is checked where somebody asks (`prepare` does).

A `.b2nd` is an array of Blosc2 (LZ4HC, bytes shuffled) in chunks of blocks; a block is the least that is unpacked.
"""

from __future__ import annotations

import math
import os
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO, Literal

import numpy as np

from comodal.data.atomic import replacing
from comodal.data.geometry import Array
from comodal.errors import DataError, message

Form = Literal["auto", "npy", "blosc2"]
SUFFIXES = {"npy": ".npy", "blosc2": ".b2nd"}

# Smaller arrays stay .npy: opening costs more than reading them.
SMALL = 1 << 20
# Measured on 64^3 patches of 240 x 240 x 155 voxels (benchmarks/data.py): smaller blocks cost more calls, larger ones unpack
# more voxels beside the patch. A slice of a flat layout has blocks of its own.
CHUNK, BLOCK = (64, 64, 64), (16, 16, 32)
FLAT_CHUNK, FLAT_BLOCK = (256, 256, 1), (64, 64, 1)
LEVEL = 5  # 9 packs 1 % better in twice the time

_END = struct.Struct("<8sIQ")
_MARK = b"comodal\0"
_PIECE = 1 << 20
# In the head of a frame: no variable-length metadata, and one layer, the array's own. Others may name what a reader then runs.
_NO_VARIABLE, _ONE_LAYER = (68, b"\xc2"), (91, b"\xde\x00\x01\xa4b2nd")
WHOLE: set[tuple[int, int, int, int]] = set()  # files whose sum this process (or the one it was forked from) has checked


class Stored:
    """A compressed array on disk that is indexed like a NumPy array: what is asked for is unpacked, and nothing else.

    Index it before it is converted: `np.asarray(stored)` unpacks all of it.

    Args:
        path: A file that `write` has written and `find` has checked.

    Attributes:
        shape: Its axes.
        dtype: Of its values.
        ndim: Number of axes.
        nbytes: Bytes of the whole array when unpacked.
    """

    def __init__(self, path: Path) -> None:
        import blosc2

        # A mapped file stays readable when it is replaced; Windows cannot replace a mapped one.
        mapped = {} if os.name == "nt" else {"mmap_mode": "r"}
        self.path = path
        # One thread: workers read in parallel already, and threads do not survive a fork.
        self._array = blosc2.open(str(path), mode="r", dparams={"nthreads": 1}, **mapped)
        self.shape: tuple[int, ...] = tuple(int(n) for n in self._array.shape)
        self.dtype: np.dtype[Any] = np.dtype(self._array.dtype)
        self.ndim = len(self.shape)
        self.nbytes = math.prod(self.shape) * self.dtype.itemsize

    def __reduce__(self) -> tuple[type[Stored], tuple[Path]]:
        return Stored, (self.path,)

    @property
    def pieces(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Shapes of a chunk and of a block."""
        return tuple(self._array.chunks), tuple(self._array.blocks)

    def __len__(self) -> int:
        return self.shape[0]

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Array:
        if copy is False:
            raise ValueError("Stored must be unpacked to become an array; got copy=False.")
        return np.asarray(self._read(tuple(slice(0, n) for n in self.shape)), dtype=dtype)

    def __getitem__(self, key: Any) -> Array:
        """A new array of what NumPy's rules say of `key`. Whole numbers, slices and `...` unpack only what they touch."""
        keys = key if isinstance(key, tuple) else (key,)
        if any(part is None or not (part is Ellipsis or isinstance(part, slice | int | np.integer)) for part in keys):
            found: Array = np.asarray(self)[key]  # lists, masks and new axes
            return found
        if sum(part is Ellipsis for part in keys) > 1 or sum(part is not Ellipsis for part in keys) > self.ndim:
            raise IndexError(f"too many indices for an array of {self.ndim} dimensions")
        if Ellipsis not in keys:
            keys = (*keys, Ellipsis)
        at = keys.index(Ellipsis)
        filled = (slice(None),) * (self.ndim - len(keys) + 1)
        return self._basic((*keys[:at], *filled, *keys[at + 1 :]))

    def _basic(self, keys: tuple[Any, ...]) -> Array:
        """One whole number or slice for each axis: reads the box around them, and takes every second voxel or axis from it."""
        box: list[slice] = []
        then: list[Any] = []
        plain = True
        for part, size in zip(keys, self.shape, strict=True):
            if isinstance(part, slice):
                every = range(*part.indices(size))
                low, high = (min(every[0], every[-1]), max(every[0], every[-1]) + 1) if every else (0, 0)
                box.append(slice(low, high))
                then.append(slice(None, None, every.step))
                plain &= every.step == 1
            else:
                index = int(part)
                if not -size <= index < size:
                    raise IndexError(f"index {index} is out of bounds for an axis of size {size}")
                box.append(slice(index % size, index % size + 1))
                then.append(0)
                plain = False
        got = self._read(tuple(box))
        return got if plain else got[tuple(then)]

    def _read(self, box: tuple[slice, ...]) -> Array:
        if any(part.stop <= part.start for part in box):
            return np.empty([part.stop - part.start for part in box], dtype=self.dtype)
        try:
            found: Array = self._array[box]
        except RuntimeError as error:  # not what was checked when it was opened
            do = "Delete the file, which is made again, and look after the disk"
            raise DataError(message("prepared array", "be whole", str(error), file=str(self.path), do=do)) from None
        return found


def form_of(array: Array, form: Form = "auto") -> Literal["npy", "blosc2"]:
    """In which form an array is kept.

    Args:
        array: (..., X, Y, Z), or a list of numbers.
        form: "npy": mapped; "blosc2": compressed, where it has three axes at least and is not empty; "auto": compressed, where
            it has also 1 MiB at least.
    """
    if form == "npy" or array.ndim < 3 or array.size == 0 or (form == "auto" and array.nbytes < SMALL):
        return "npy"
    return "blosc2"


def pieces_of(shape: tuple[int, ...], *, slices_first: bool) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Shapes of a chunk and of a block of a compressed array.

    Args:
        shape: (..., X, Y, Z).
        slices_first: Whether slices along Z are read, and not boxes.

    >>> pieces_of((4, 240, 240, 155), slices_first=False)
    ((1, 64, 64, 64), (1, 16, 16, 32))
    """
    flat = slices_first or shape[-1] == 1
    lead = (1,) * (len(shape) - 3)
    chunk = tuple(min(n, size) for n, size in zip(shape[-3:], FLAT_CHUNK if flat else CHUNK, strict=True))
    block = tuple(min(n, size) for n, size in zip(chunk, FLAT_BLOCK if flat else BLOCK, strict=True))
    return (*lead, *chunk), (*lead, *block)


def write(path: Path, array: Array, *, slices_first: bool = False) -> None:
    """Writes an array in the form that the suffix of `path` says; the file appears whole or not at all.

    Args:
        path: Ends with .npy or .b2nd.
        array: Any type but objects.
        slices_first: Lays it out so that reading one slice of the last axis reads one piece.

    Raises:
        OSError: It could not be written, for instance since the disk is full.
    """
    pieces = _packed(array, slices_first=slices_first) if path.suffix == ".b2nd" else _plain(array, slices_first=slices_first)
    with replacing(path) as file:
        length = total = 0
        for piece in pieces:  # not by numpy.save, whose error on a full disk does not say that it is full
            file.write(piece)
            total, length = zlib.crc32(piece, total), length + len(piece)
        file.write(_END.pack(_MARK, total, length))


def _plain(array: Array, *, slices_first: bool) -> Iterator[bytes | memoryview]:
    from io import BytesIO

    laid = np.asfortranarray(array) if slices_first else np.ascontiguousarray(array)
    head = BytesIO()
    np.lib.format.write_array_header_1_0(head, np.lib.format.header_data_from_array_1_0(laid))
    yield head.getvalue()
    flat = laid.reshape(-1, order="A")
    for first in range(0, flat.size, _PIECE):
        yield memoryview(flat[first : first + _PIECE].view(np.uint8))  # type: ignore[arg-type]  # a buffer from Python 3.12 on


def _packed(array: Array, *, slices_first: bool) -> Iterator[bytes]:
    import blosc2

    chunks, blocks = pieces_of(array.shape, slices_first=slices_first)
    how = {"codec": blosc2.Codec.LZ4HC, "clevel": LEVEL, "filters": [blosc2.Filter.SHUFFLE], "nthreads": 1}
    whole = np.ascontiguousarray(array)
    yield blosc2.asarray(whole, chunks=chunks, blocks=blocks, cparams=how, dparams={"nthreads": 1}).to_cframe()


def find(path: Path, *, slices_first: bool = False, thorough: bool = False) -> Array | Stored | None:
    """An array that `write` has written.

    Args:
        path: Ends with .npy or .b2nd.
        slices_first: As it was written; one that was laid out otherwise is not the one that is meant.
        thorough: Whether the sum of the file is checked in any case.

    Returns:
        A mapped read-only array or a `Stored`; None where nothing whole is there.
    """
    try:
        with path.open("rb") as file:
            if not _is_whole(file, thorough=thorough, first=path.suffix == ".b2nd"):
                return None
            if path.suffix == ".b2nd" and not _is_array_only(file):
                return None
        return _mapped(path) if path.suffix == ".npy" else _stored(path, slices_first=slices_first)
    except (OSError, ValueError, EOFError, SyntaxError, RuntimeError):  # what two parsers say of damaged files
        return None


def _is_whole(file: BinaryIO, *, thorough: bool, first: bool) -> bool:
    """Whether a file has its end mark and, where it is asked for or was never looked at, the sum that this says."""
    status = os.fstat(file.fileno())
    if status.st_size < _END.size:
        return False
    file.seek(status.st_size - _END.size)
    mark, total, length = _END.unpack(file.read(_END.size))
    if mark != _MARK or length != status.st_size - _END.size:
        return False
    known = (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns)
    if not thorough and (not first or known in WHOLE):
        return True
    file.seek(0)
    found = 0
    while length > 0:
        piece = file.read(min(_PIECE, length))
        if not piece:
            return False
        found, length = zlib.crc32(piece, found), length - len(piece)
    if found != total:
        return False
    WHOLE.add(known)
    return True


def _is_array_only(file: BinaryIO) -> bool:
    file.seek(0)
    head = file.read(128)
    return all(head[at : at + len(text)] == text for at, text in (_NO_VARIABLE, _ONE_LAYER))


def _mapped(path: Path) -> Array | None:
    array: Array = np.load(path, mmap_mode="r", allow_pickle=False)
    ends = array.nbytes + array.offset + _END.size  # type: ignore[attr-defined]
    return array if path.stat().st_size == ends else None


def _stored(path: Path, *, slices_first: bool) -> Stored | None:
    found = Stored(path)
    return found if found.pieces == pieces_of(found.shape, slices_first=slices_first) else None
