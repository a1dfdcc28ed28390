"""The only room that opens image files: header first, every byte read, nothing guessed.

A damaged file is an error, never a volume of zeros: zeros would look like an absent modality. What a file is, is decided by its
first bytes, not by its name.

Formats: NIfTI-1 and NIfTI-2 (.nii, .nii.gz), MetaImage (.mha, .mhd), NRRD (.nrrd), DICOM (a file, or a folder with one series),
PNG, JPEG, TIFF, folders of PNG, JPEG or TIFF slices in natural order, and arrays (.npy). No file may name another one, except
that an .mhd names that of its voxels, in the same folder.
"""

from __future__ import annotations

import fnmatch
import zlib
from dataclasses import replace
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from comodal.data import (
    formats_dicom,
    formats_dicom_pixels,
    formats_metaimage,
    formats_nifti,
    formats_npy_image,
    formats_nrrd,
    formats_picture,
)
from comodal.data.formats_nifti import COPY_AGAIN, GZIP_MAGIC
from comodal.data.geometry import Array, Geometry, Header, Source, Volume
from comodal.data.opening import BLANK_THE_CELL, check_inside, names_in, opened

__all__ = [
    "IMAGE_SUFFIXES",
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


# How the file of an image may be called. What it is, is decided by its bytes.
IMAGE_SUFFIXES: tuple[str, ...] = (
    ".nii", ".nii.gz", ".mha", ".mhd", ".nrrd", ".dcm", ".dicom", *formats_picture.SLICE_SUFFIXES,
)  # fmt: skip
# What lies beside DICOM files in a folder: an index, and texts.
BESIDE_DICOM = (".txt", ".xml", ".json", ".csv")
HEAD = 132  # bytes by which every format is known


class _Format(Protocol):
    """A module of one format."""

    def read_header(self, file: BinaryIO, source: Source, *, channel: int | None) -> Header: ...

    def read(self, file: BinaryIO, source: Source, *, channel: int | None) -> Volume: ...


class _Slices(NamedTuple):
    """The slices of a folder in natural order, whether they are DICOM, and what was left out."""

    paths: list[Path]
    dicom: bool
    notes: tuple[str, ...] = ()


def _slices(source: Source, files: str) -> _Slices:
    """What a folder holds. A link that leads out of it is refused."""
    there = sorted(names_in(source), key=formats_picture.natural_key)
    patterns = [files] if files else [f"*{suffix}" for suffix in formats_picture.SLICE_SUFFIXES]
    pictures = [n for n in there if any(fnmatch.fnmatch(n.lower(), p.lower()) for p in patterns)]
    others = pictures if files else [n for n in there if n.upper() != "DICOMDIR" and not n.lower().endswith(BESIDE_DICOM)]
    # The first picture speaks for all, since a folder may hold thousands; any other file may be the one that is DICOM.
    if any(_is_dicom(source.path / name) for name in others if files or name in pictures[:1] or name not in pictures):
        dicom = [name for name in others if not (source.path / name).is_dir()]
        check_inside(source, dicom)
        odd = [name for name in dicom if not _is_dicom(source.path / name)]
        if odd:
            do = "Remove the other files, or name those that are meant with `files` in the cohort's yaml"
            raise source.error("hold DICOM files only", f"{len(odd)} of another kind, such as {odd[0]}", do=do)
        rest = 0 if files else sum(name.upper() != "DICOMDIR" for name in there) - len(dicom)
        notes = (f"{rest} folders or text files beside the DICOM files were not read",) if rest else ()
        return _Slices([source.path / name for name in dicom], dicom=True, notes=notes)
    if not pictures:
        raise source.error(
            f"be a folder with slices named {' or '.join(patterns)}, or of DICOM files", "none", do=BLANK_THE_CELL
        )
    check_inside(source, pictures)
    return _Slices([source.path / name for name in pictures], dicom=False)


def _is_dicom(path: Path) -> bool:
    if not path.is_file():
        return False
    try:
        with path.open("rb") as file:
            return formats_dicom_pixels.is_dicom(file.read(HEAD))
    except OSError:
        return False  # this is said where the file is read


def _format(file: BinaryIO, source: Source) -> _Format:
    """The module of the format that the first bytes of a file name. NIfTI is what is left, and says what it is not."""
    head = file.read(HEAD)
    file.seek(0)
    if formats_metaimage.is_metaimage(head):
        return formats_metaimage
    if formats_nrrd.is_nrrd(head):
        return formats_nrrd
    if formats_npy_image.is_npy(head):
        return formats_npy_image
    if formats_dicom_pixels.is_dicom(head) and not formats_nifti.is_nifti(head):
        return formats_dicom  # its first 128 bytes may be those of a TIFF, so that viewers of pictures open it too
    if formats_picture.is_picture(head):
        return formats_picture
    _check_unpacked(file, source)
    return formats_nifti


def _check_unpacked(file: BinaryIO, source: Source) -> None:
    """Refuses a MetaImage or NRRD inside a gzip file (.mha.gz) by its name rather than as something unknown."""
    data = file.read(1024)
    file.seek(0)
    if not data.startswith(GZIP_MAGIC):
        return
    try:
        head = zlib.decompressobj(31).decompress(data, 64)
    except zlib.error:
        return  # damaged: this is said where the file is read
    for name, found in (("MetaImage", formats_metaimage.is_metaimage(head)), ("NRRD", formats_nrrd.is_nrrd(head))):
        if found:
            rule = f"be a {name} that is packed inside, if at all"
            raise source.error(rule, "one inside a gzip file", do="Unpack it with gunzip")


def _checked(header: Header, source: Source) -> Header:
    if header.shape == (1, 1, 1):
        raise source.error("have more than one voxel", "a single one", do="Check how the image was made")
    return header


def read_header(path: Path, *, files: str = "", channel: int | None = None, subject: str = "", modality: str = "") -> Header:
    """What the image is, without its pixels. Headers only are read, of a folder of pictures the first picture.

    Args:
        path: A file, or a folder of slices.
        files: Pattern of the slices' names inside a folder ("*_mask.tif"); all pictures, or all DICOM files, where empty.
        channel: The channel (of colours or vectors) or volume (of a 4-D NIfTI file) that is meant; all channels where None.
        subject: For the error text.
        modality: For the error text.

    Returns:
        Its `Header`, for the array that `read_volume` returns.

    Raises:
        DataError: No such file, not an image, an impossible header, or more than the budget of 4 GiB.
    """
    source = Source(Path(path), subject, modality)
    if source.path.is_dir():
        slices = _slices(source, files)
        read = formats_dicom.read_series_header if slices.dicom else formats_picture.read_stack_header
        header = read(slices.paths, source, channel=channel)
        return _checked(replace(header, notes=header.notes + slices.notes), source)
    with opened(source) as file:
        return _checked(_format(file, source).read_header(file, source, channel=channel), source)


def read_volume(path: Path, *, files: str = "", channel: int | None = None, subject: str = "", modality: str = "") -> Volume:
    """Reads an image to its last byte.

    Args:
        path: A file, or a folder of slices.
        files: Pattern of the slices' names inside a folder ("*_mask.tif"); all pictures, or all DICOM files, where empty.
        channel: The one channel (of colours or vectors) or volume (of a 4-D NIfTI file) to read; all channels where None.
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
        slices = _slices(source, files)
        read = formats_dicom.read_series if slices.dicom else formats_picture.read_stack
        volume = read(slices.paths, source, channel=channel)
        volume = replace(volume, header=replace(volume.header, notes=volume.header.notes + slices.notes))
    else:
        with opened(source) as file:
            volume = _format(file, source).read(file, source, channel=channel)
    _checked(volume.header, source)
    return volume


def write_volume(array: Array, geometry: Geometry, path: Path) -> Path:
    """Writes a prediction in the frame of the file it belongs to. The file appears whole or not at all.

    Args:
        array: (X, Y, Z) in RAS order, the shape of the volume that `geometry` came with. bool, integer or float; 64-bit
            numbers are written in the smallest common type that holds them.
        geometry: Of that volume.
        path: Without suffix; missing folders are made.

    Returns:
        The file: `<path>.nii.gz` for NIfTI, MetaImage, NRRD and DICOM volumes (affine, shape, orientation as in the input),
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
    source = Source(Path(path), subject, modality, "text")
    with opened(source) as file:
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
    with opened(source) as file:
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
