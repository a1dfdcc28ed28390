"""The only room that opens image files: header first, every byte read, nothing guessed.

A damaged file is an error, never a volume of zeros: zeros would look like an absent modality. What a file is, is decided by its
first bytes, not by its name.

Formats: NIfTI-1 and NIfTI-2 (.nii, .nii.gz), MetaImage (.mha), PNG, JPEG, TIFF, and folders of PNG, JPEG or TIFF slices in
natural order. No format may name another file: a MetaImage header that does (.mhd) is refused.
"""

from __future__ import annotations

import fnmatch
import os
import stat
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from comodal.data import formats_metaimage, formats_nifti, formats_picture
from comodal.data.formats_nifti import COPY_AGAIN, GZIP_MAGIC
from comodal.data.geometry import Array, Geometry, Header, Source, Volume

__all__ = [
    "Geometry",
    "Header",
    "Volume",
    "label_codes",
    "read_features",
    "read_header",
    "read_text",
    "read_volume",
    "write_volume",
]

MAX_TEXT = 4 * 1024**2
MAX_FEATURES = 256 * 1024**2
BLANK_THE_CELL = "Correct the path, or blank the cell if this sequence is absent"


@contextmanager
def _opened(source: Source) -> Iterator[BinaryIO]:
    """A regular file, open for reading; refused if it changes meanwhile."""
    try:
        mode = os.stat(source.path).st_mode  # before open(): opening a pipe would wait for ever
        if not stat.S_ISREG(mode):
            raise source.error("be a regular file", "a device, pipe or folder", do=BLANK_THE_CELL)
        with source.path.open("rb") as file:
            before = os.fstat(file.fileno())
            yield file
            after = os.fstat(file.fileno())
    except OSError as error:
        raise source.error("be readable", error.strerror or str(error), do=BLANK_THE_CELL) from None
    if (before.st_size, before.st_mtime_ns) != (after.st_size, after.st_mtime_ns):
        raise source.error("stay the same while it is read", "a file that changed", do="Try again when it is written")


def _slices(source: Source, files: str) -> list[Path]:
    """The slices of a folder in natural order. A link that leads out of the folder is refused."""
    try:
        names = sorted(os.listdir(source.path), key=formats_picture.natural_key)
    except OSError as error:
        raise source.error("be readable", error.strerror or str(error), do=BLANK_THE_CELL) from None
    patterns = [files] if files else [f"*{suffix}" for suffix in formats_picture.SLICE_SUFFIXES]
    names = [n for n in names if not n.startswith(".") and any(fnmatch.fnmatch(n.lower(), p.lower()) for p in patterns)]
    if not names:
        raise source.error(f"be a folder with slices named {' or '.join(patterns)}", "none", do=BLANK_THE_CELL)
    folder = os.path.realpath(source.path)
    for name in names:
        real = os.path.realpath(os.path.join(folder, name))
        if os.path.dirname(real) != folder or not os.path.isfile(real):
            path = source.path / name
            raise source.error("be a regular file inside its folder", "a link or device", do="Copy the slice there", path=path)
    return [source.path / name for name in names]


def _head(file: BinaryIO) -> bytes:
    """The first bytes, by which a format is known."""
    head = file.read(64)
    file.seek(0)
    return head


def _check_unpacked(file: BinaryIO, source: Source) -> None:
    """Refuses a MetaImage inside a gzip file (.mha.gz) by its name rather than as something unknown."""
    data = file.read(1024)
    file.seek(0)
    if not data.startswith(GZIP_MAGIC):
        return
    try:
        head = zlib.decompressobj(31).decompress(data, 64)
    except zlib.error:
        return  # damaged: this is said where the file is read
    if formats_metaimage.is_metaimage(head):
        rule = "be a MetaImage that is packed inside, if at all"
        raise source.error(rule, "one inside a gzip file", do="Unpack it with gunzip")


def read_header(path: Path, *, files: str = "", channel: int | None = None, subject: str = "", modality: str = "") -> Header:
    """What the image is, without its pixels. Of NIfTI and MetaImage only the header is read, of a folder only the first slice.

    Args:
        path: A file, or a folder of slices.
        files: Pattern of the slices' names inside a folder ("*_mask.tif"); all pictures where empty.
        channel: The channel (of a picture or MetaImage) or volume (of a 4-D NIfTI file) that is meant; all channels where None.
        subject: For the error text.
        modality: For the error text.

    Returns:
        Its `Header`, for the array that `read_volume` returns.

    Raises:
        DataError: No such file, not an image, an impossible header, or more than the budget of 4 GiB.
    """
    source = Source(Path(path), subject, modality)
    if source.path.is_dir():
        return formats_picture.read_stack_header(_slices(source, files), source, channel=channel)
    with _opened(source) as file:
        head = _head(file)
        if formats_picture.is_picture(head):
            return formats_picture.read_header(file, source, channel=channel)
        if formats_metaimage.is_metaimage(head):
            return formats_metaimage.read_header(file, source, channel=channel)
        _check_unpacked(file, source)
        return formats_nifti.read_header(file, source, channel=channel)


def read_volume(path: Path, *, files: str = "", channel: int | None = None, subject: str = "", modality: str = "") -> Volume:
    """Reads an image to its last byte.

    Args:
        path: A file, or a folder of slices.
        files: Pattern of the slices' names inside a folder ("*_mask.tif"); all pictures where empty.
        channel: The one channel (of a picture or MetaImage) or volume (of a 4-D NIfTI file) to read; all channels where None.
        subject: For the error text.
        modality: For the error text.

    Returns:
        A `Volume`: array (C, X, Y, Z) in RAS order, in the file's own type, or float32 where the file scales its values.

    Raises:
        DataError: Whatever `read_header` refuses; and a file that is cut, fails its checksum, holds NaN or infinity, complex
            or coloured voxels, several volumes, or slices of different sizes.
    """
    source = Source(Path(path), subject, modality)
    if source.path.is_dir():
        return formats_picture.read_stack(_slices(source, files), source, channel=channel)
    with _opened(source) as file:
        head = _head(file)
        if formats_picture.is_picture(head):
            return formats_picture.read(file, source, channel=channel)
        if formats_metaimage.is_metaimage(head):
            return formats_metaimage.read(file, source, channel=channel)
        _check_unpacked(file, source)
        return formats_nifti.read(file, source, channel=channel)


def write_volume(array: Array, geometry: Geometry, path: Path) -> Path:
    """Writes a prediction in the frame of the file it belongs to. The file appears whole or not at all.

    Args:
        array: (X, Y, Z) in RAS order, the shape of the volume that `geometry` came with. bool, integer or float; 64-bit
            numbers are written in the smallest common type that holds them.
        geometry: Of that volume.
        path: Without suffix; missing folders are made.

    Returns:
        The file: `<path>.nii.gz` for NIfTI and MetaImage (affine, shape, orientation, sform and qform codes as in the input),
        `<path>.png` for a picture (.tif for fractions), a `<path>.tif` of several pages for a stack.

    Raises:
        ValueError: `array` has another shape.

    >>> import tempfile
    >>> here = Path(tempfile.mkdtemp()) / "mask"
    >>> geometry = Geometry("picture", (3, 2, 1), np.eye(4), np.array([[0.0, 1.0], [1.0, 1.0], [2.0, 1.0]]))
    >>> read_volume(write_volume(np.ones((3, 2, 1), dtype=bool), geometry, here)).array.shape
    (1, 3, 2, 1)
    """
    axes = np.argsort(geometry.orientation[:, 0]).astype(int)
    stored = (*geometry.shape, 1, 1)[:3]
    expected = tuple(stored[axis] for axis in axes)
    if array.shape != expected:
        raise ValueError(f"write_volume.array must have the shape of its geometry, {expected}; got {array.shape}.")
    write = formats_nifti.write if geometry.format == "nifti" else formats_picture.write
    return write(_compact(array, geometry), geometry, Path(path))


def _compact(array: Array, geometry: Geometry) -> Array:
    """A type that every viewer opens: 64-bit integers and floats are rarely understood."""
    if array.dtype.kind == "f":
        return array if array.dtype == np.float32 else array.astype(np.float32)
    if array.dtype.kind == "b":
        return array.astype(np.uint8)
    low, high = (int(array.min()), int(array.max())) if array.size else (0, 0)
    choices: tuple[type[np.integer[Any]], ...] = (np.uint8, np.int16, np.int32)
    if geometry.format != "nifti":
        choices = (np.uint8, np.uint16, np.int32)
    for dtype in choices:
        if np.iinfo(dtype).min <= low and high <= np.iinfo(dtype).max:
            return array.astype(dtype, copy=False)
    raise ValueError(f"write_volume.array must fit in 32 bits; got values from {low} to {high}.")


def label_codes(volume: Volume, *, path: Path, subject: str = "", modality: str = "") -> tuple[int, ...]:
    """The distinct values of a label map, sorted.

    Args:
        volume: One channel. Floats are accepted where they are whole numbers.
        path: For the error text, as are subject and modality.
        subject: See path.
        modality: See path.

    Raises:
        DataError: Fractions or several channels: not a label map.
    """
    source, array = Source(Path(path), subject, modality), volume.array
    if array.shape[0] != 1:
        raise source.error("be a label map of one channel", f"{array.shape[0]} channels", do="Save it as grey values")
    low, high = int(array.min()), int(array.max())
    if array.dtype.kind == "f" and (max(-low, high) > 1 << 31 or (array != np.rint(array)).any()):
        raise source.error("hold whole numbers as labels", "fractions", do="Round or threshold it, then save it again")
    if high - low >= 1 << 16:
        return tuple(int(code) for code in np.unique(array))
    seen = np.zeros(high - low + 1, dtype=bool)  # marking is many times faster than sorting
    for plane in array[0]:
        seen[plane.astype(np.int64) - low] = True
    return tuple(int(code) + low for code in np.flatnonzero(seen))


def read_text(path: Path, *, subject: str = "", modality: str = "") -> str:
    """Reads a UTF-8 text file (a byte order mark is fine); "" for an empty report.

    Raises:
        DataError: No such file, not UTF-8, or longer than 4 MiB.
    """
    source = Source(Path(path), subject, modality)
    with _opened(source) as file:
        data = file.read(MAX_TEXT + 1)
    if len(data) > MAX_TEXT:
        raise source.error(f"be a text of at most {MAX_TEXT // 1024**2} MiB", "more", do="Check that the path names a report")
    try:
        return data.decode("utf-8-sig").replace("\r\n", "\n")
    except UnicodeDecodeError as error:
        raise source.error("be text in UTF-8", f"byte {error.start} that is not", do="Save it as UTF-8") from None


def read_features(path: Path, *, subject: str = "", modality: str = "") -> npt.NDArray[np.float32]:
    """Reads a vector from a .npy file: (F,) float32. Pickled objects are never loaded.

    Raises:
        DataError: Not .npy, objects inside, not a vector of finite numbers, or a header that claims more than the file holds.
    """
    source = Source(Path(path), subject, modality)
    with _opened(source) as file:
        try:
            version = np.lib.format.read_magic(file)
            parse = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
            shape, _, dtype = parse(file)
        except Exception as error:  # noqa: BLE001  the parser raises many kinds on hostile bytes
            raise source.error("be a .npy file", str(error).splitlines()[0], do="Save it with numpy.save") from None
        if dtype.kind not in "biuf" or dtype.itemsize > 8:
            raise source.error("hold numbers", f"type {dtype}", do="Save it as float32 with numpy.save")
        length = 1
        for n in shape:
            length *= int(n)
        if sum(n != 1 for n in shape) > 1 or length < 1:
            raise source.error("hold one vector", f"shape {shape}", do="Save a vector of one dimension")
        data = file.read(min(length * dtype.itemsize, MAX_FEATURES))
    if len(data) < length * dtype.itemsize:
        raise source.error(f"hold {length} numbers", f"{len(data)} bytes", do=COPY_AGAIN)
    vector = np.frombuffer(data, dtype=dtype).astype(np.float32)
    if not np.isfinite(vector).all():
        raise source.error("hold finite numbers", "NaN or infinity", do="Repair or exclude the vector")
    return vector
