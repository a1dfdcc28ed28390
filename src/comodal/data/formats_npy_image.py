"""Images in .npy files: an array of one channel, read to its last byte. Nothing is unpickled.

An array of two axes is (rows, columns), as of any picture; one of three is (X, Y, Z). Such a file knows neither spacing nor
orientation, so none is claimed.
"""

from __future__ import annotations

import math
import os
from typing import Any, BinaryIO

import numpy as np

from comodal.data.formats_nifti import COPY_AGAIN
from comodal.data.formats_numpy import HEADER, Layout, parse_layout
from comodal.data.geometry import Array, Geometry, Header, Source, Volume, check_budget, check_finite
from comodal.errors import short

MAGIC = b"\x93NUMPY"
SAVE = "Save it with numpy.save as numbers of two or three axes"


def is_npy(head: bytes) -> bool:
    """True where the first bytes of a file are those of a .npy file."""
    return head.startswith(MAGIC)


def _parse(file: BinaryIO, source: Source, channel: int | None) -> tuple[Layout, Header]:
    layout = parse_layout(file.read(HEADER))
    if layout is None:
        raise source.error("be a .npy array", "a damaged header", do=COPY_AGAIN)
    dtype = layout.dtype
    if dtype.kind not in "biuf" or not 0 < dtype.itemsize <= 8:
        got = f"type {short(str(dtype))[1:-1]}"
        raise source.error("hold numbers", got, do=f"{SAVE}; objects are never unpickled")
    if len(layout.shape) not in (2, 3):
        got = f"{len(layout.shape)} axes"
        raise source.error("have two axes (rows, columns) or three (X, Y, Z)", got, do=SAVE)
    check_budget(source, layout.shape, dtype.itemsize)
    if channel not in (None, 0):
        raise source.error(f"have channel {channel}", "1 channel", do="Correct `channel` in the cohort's yaml")
    need, there = math.prod(layout.shape) * dtype.itemsize, os.fstat(file.fileno()).st_size - layout.offset
    if there != need:
        raise source.error(f"hold {need} bytes after its header, as the header says", max(there, 0), do=COPY_AGAIN)
    x, y, z = (*layout.shape[::-1], 1) if len(layout.shape) == 2 else layout.shape
    note = "axes are taken as rows and columns" if len(layout.shape) == 2 else "axes are taken as X, Y and Z"
    known: np.dtype[Any] = {"b": np.dtype(np.uint8)}.get(dtype.kind, dtype.newbyteorder("="))
    known = np.dtype(np.float32) if known == np.float16 else known
    return layout, Header((x, y, z), 1, np.eye(4), known, has_spacing=False, notes=(f"a .npy file: {note}, without spacing",))


def read_header(file: BinaryIO, source: Source, *, channel: int | None) -> Header:
    """Header of an open .npy file; no number is read."""
    return _parse(file, source, channel)[1]


def read(file: BinaryIO, source: Source, *, channel: int | None) -> Volume:
    """Reads an open .npy file to its last byte; see `comodal.data.reading.read_volume`."""
    layout, header = _parse(file, source, channel)
    flat = np.empty(math.prod(layout.shape), layout.dtype)
    file.seek(layout.offset)
    done = file.readinto(flat.view(np.uint8).data)  # type: ignore[attr-defined]  # BinaryIO does not list it
    if done < flat.nbytes:
        raise source.error(f"hold {flat.nbytes} bytes after its header, as the header says", done, do=COPY_AGAIN)
    array: Array = flat.reshape(layout.shape, order="F" if layout.fortran else "C")
    array = array.T[..., None] if array.ndim == 2 else array
    array = np.ascontiguousarray(array[None].astype(header.dtype, copy=False))
    check_finite(source, array)
    form = Geometry("picture" if header.shape[2] == 1 else "stack", header.shape, header.affine, _UPRIGHT)
    return Volume(array, header, form)


_UPRIGHT = np.array([[0.0, 1.0], [1.0, 1.0], [2.0, 1.0]])
