"""MetaImage (.mha, .mhd): a header of text lines, then one block of voxels, raw or packed by zlib; read to the last byte.

The header is parsed here because of what it may say: it can name any other file as the place of the voxels. Only an .mhd may,
and only one regular file of its own folder; nothing else is ever opened. Sizes are checked before memory is taken. What a
header leaves out is what ITK takes it to be, with a warning where that is a guess.

MetaImage counts positions in LPS mm (to the left, to the back, up), as ITK does; X and Y change sign on the way to RAS.
"""

from __future__ import annotations

import math
import os
import re
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt
from nibabel import orientations

from comodal.data.formats_nifti import CHUNK, COPY_AGAIN, MAX_DEFLATE_RATIO, frame, ras_frame, shear
from comodal.data.geometry import Affine, Array, Header, Source, Volume, check_affine, check_budget, check_finite
from comodal.data.opening import opened
from comodal.errors import DataError, short

MAX_HEADER = 1 << 20  # ITK writes all that it knows of a DICOM series into the header
# Lines with which headers begin. The first bytes decide what a file is, not its name.
_FIRST = re.compile(rb"\s*(ObjectType|ObjectSubType|NDims|Comment|Name|ID|BinaryData|CompressedData|TransformType)[ \t]*[=:]")
# The line that ends the header: the voxels begin right behind it.
_LAST = re.compile(rb"^[ \t]*ElementDataFile[ \t]*[=:](?P<value>[^\r\n]*)(?P<end>\r?\n)?", re.MULTILINE)
# Nothing with a folder, a pattern or a drive in it.
_PLAIN_NAME = re.compile(r"[^/\\%:*?\x00-\x1f]+")
_SIGN = re.compile(r"[=:]")
_SPACING = ("ElementSpacing", "ElementSize")
_MATRIX = ("TransformMatrix", "Rotation", "Orientation")
_OFFSET = ("Offset", "Position", "Origin")
_BIG = ("ElementByteOrderMSB", "BinaryDataByteOrderMSB")
_RESCALE = {"ElementToIntensityFunctionSlope": "1", "ElementToIntensityFunctionOffset": "0"}
_KIND = ("ObjectType", "NDims", "DimSize", "ElementType", "ElementNumberOfChannels")
_STORED = ("BinaryData", "CompressedData", "CompressedDataSize", "HeaderSize", "ElementDataFile")
# What is read of a header. Other lines may say who the patient is: they are not kept, and no message quotes them.
KEYS = frozenset((*_KIND, *_STORED, *_SPACING, *_MATRIX, *_OFFSET, *_BIG, *_RESCALE))
# MET_LONG has four bytes in files of every machine.
TYPES = {
    "MET_CHAR": "i1",
    "MET_UCHAR": "u1",
    "MET_SHORT": "i2",
    "MET_USHORT": "u2",
    "MET_INT": "i4",
    "MET_UINT": "u4",
    "MET_LONG": "i4",
    "MET_ULONG": "u4",
    "MET_LONG_LONG": "i8",
    "MET_ULONG_LONG": "u8",
    "MET_FLOAT": "f4",
    "MET_DOUBLE": "f8",
}
EXPORT_AGAIN = "Export the image again"
COMPARE = "Compare DimSize and ElementType of its header with how the image was made"


def is_metaimage(head: bytes) -> bool:
    """True where the first 64 bytes of a file are those of a MetaImage header."""
    return _FIRST.match(head) is not None


@dataclass(frozen=True)
class _Fields:
    """The lines of a header, by their keys."""

    values: dict[str, str]
    source: Source

    def first(self, *names: str) -> tuple[str, str | None]:
        """Key and value of the first of these keys that the header has: several are synonyms."""
        return next(((name, self.values[name]) for name in names if name in self.values), (names[0], None))

    def flag(self, *names: str, default: bool) -> bool:
        """True or False."""
        name, value = self.first(*names)
        if value is None:
            return default
        if value.casefold() not in ("true", "t", "1", "false", "f", "0"):
            raise self.source.error(f"have {name} = True or False", short(value), do=EXPORT_AGAIN)
        return value.casefold() in ("true", "t", "1")

    def whole(self, name: str, count: int | None = 1) -> tuple[int, ...] | None:
        """`count` whole numbers (any number of them where None); None where the header has no such line."""
        if name not in self.values:
            return None
        try:
            numbers = tuple(int(word) for word in self.values[name].split())
        except ValueError:
            numbers = ()
        if not numbers or count not in (None, len(numbers)):
            rule = f"have {name} of {count or 'some'} whole number{'' if count == 1 else 's'}"
            raise self.source.error(rule, short(self.values[name]), do=EXPORT_AGAIN)
        return numbers

    def real(self, *names: str, count: int) -> npt.NDArray[np.float64] | None:
        """`count` numbers, None where the header has no such line."""
        name, value = self.first(*names)
        if value is None:
            return None
        try:
            numbers = np.array([float(word) for word in value.split()])
        except ValueError:
            numbers = np.empty(0)
        if len(numbers) != count or not np.isfinite(numbers).all():
            raise self.source.error(f"have {name} of {count} finite numbers", short(value), do=EXPORT_AGAIN)
        return numbers


@dataclass(frozen=True)
class Parsed:
    """A MetaImage header that was understood and found plausible.

    Attributes:
        stored: DimSize: two or three axes, X first.
        channels: Values of one voxel, which stand side by side in the file.
        dtype: Of a value, with the byte order of the file.
        affine: (4, 4) float64, voxel to RAS mm, of the file's own axes.
        start: Where the voxels begin.
        place: Whose voxels: the file itself, or that which an .mhd names.
        packed: Bytes of the zlib stream, None where the voxels are raw.
        warnings: What was guessed, and what lies behind the voxels.
    """

    stored: tuple[int, ...]
    channels: int
    dtype: np.dtype[Any]
    affine: Affine
    start: int
    place: Path
    packed: int | None
    warnings: tuple[str, ...]

    @property
    def shape(self) -> tuple[int, int, int]:
        """(X, Y, Z) of the file's own axes."""
        x, y, z = (*self.stored, 1)[:3]
        return (x, y, z)


def _fields(file: BinaryIO, source: Source) -> tuple[_Fields, int]:
    """The header's lines, and where the voxels begin."""
    block = file.read(MAX_HEADER)
    last = _LAST.search(block)
    if last is None:
        got = f"none in {len(block)} bytes"
        raise source.error("have a MetaImage header that ends with ElementDataFile = LOCAL", got, do=COPY_AGAIN)
    place = last["value"].decode("latin-1").strip()
    if (last["end"] is None and last.end() < len(block)) or (_is_local(place[:5]) and not place.isprintable()):
        rule, do = "have a line break behind ElementDataFile = LOCAL", "Export the image again, for instance with SimpleITK"
        raise source.error(rule, "none: the voxels cannot be told from the header", do=do)
    values: dict[str, str] = {}
    for number, line in enumerate(block[: last.end()].split(b"\n"), start=1):
        # Keys may be of any kind: ITK writes its dictionary as lines, such as "0010|0010 = ..." or "Series Description = ...".
        key, *value = (part.strip() for part in _SIGN.split(line.decode("latin-1"), maxsplit=1))
        if not value and key:
            raise source.error("have a MetaImage header of lines `key = value`", f"another line {number}", do=EXPORT_AGAIN)
        if key not in KEYS:
            continue
        if key in values:
            raise source.error(f"say {key} once in its header", f"it again in line {number}", do=EXPORT_AGAIN)
        values[key] = value[0]
    return _Fields(values, source), last.end()


def _is_local(place: str) -> bool:
    return place.casefold() == "local"


def _check_kind(fields: _Fields) -> None:
    """Refuses voxels in other files, in text, or of something that is no image."""
    source, values = fields.source, fields.values
    if values.get("ObjectType", "Image").casefold() != "image":
        raise source.error("be a MetaImage of ObjectType Image", short(values["ObjectType"]), do="Give the image")
    if not fields.flag("BinaryData", default=True):
        raise source.error("have BinaryData = True", "voxels written as text", do="Save the image again with SimpleITK")
    if values.get("HeaderSize", "0") != "0":
        rule = "have its voxels right behind its header"
        raise source.error(rule, f"HeaderSize = {short(values['HeaderSize'])}", do=EXPORT_AGAIN)


def _place(fields: _Fields) -> Path:
    """The file of the voxels: a header that is called .mhd may name one beside it, and that name only counts in its folder."""
    source, name = fields.source, fields.values["ElementDataFile"]
    if _is_local(name):
        return source.path
    rule = "hold its voxels itself (ElementDataFile = LOCAL), or be an .mhd that names one file of its own folder"
    got = f"ElementDataFile = {short(name) if name.isprintable() else 'no text'}"
    do = "Convert it to .mha, for instance with SimpleITK: WriteImage(ReadImage('a.mhd'), 'a.mha')"
    plain = _PLAIN_NAME.fullmatch(name) and name not in (".", "..") and not name.upper().startswith("LIST")
    if source.path.suffix.lower() != ".mhd" or not plain:
        raise source.error(rule, got, do=do)
    place = Path(os.path.realpath(source.path)).parent / name
    if Path(os.path.realpath(place)).parent != place.parent:
        raise source.error(rule, f"{got}, a link that leads out of it", do=do)
    return place


def _stored(fields: _Fields) -> tuple[int, ...]:
    (axes,) = fields.whole("NDims") or (0,)
    if axes not in (2, 3):
        got = fields.values.get("NDims", "none")
        raise fields.source.error("have NDims of 2 or 3", short(got), do="Save each volume as a file of its own")
    stored = fields.whole("DimSize", axes)
    if stored is None:
        raise fields.source.error("have DimSize in its header", "none", do=EXPORT_AGAIN)
    return stored


def _dtype(fields: _Fields) -> np.dtype[Any]:
    name = fields.values.get("ElementType", "none")
    if name.upper() not in TYPES:
        do = "Convert it to MET_SHORT or MET_FLOAT"
        raise fields.source.error(f"have an ElementType of {', '.join(TYPES)}", short(name), do=do)
    big = fields.flag(*_BIG, default=False)
    return np.dtype((">" if big else "<") + TYPES[name.upper()])


def _affine(fields: _Fields, axes: int) -> tuple[Affine, tuple[str, ...]]:
    """Voxel to RAS mm, of the file's own axes. Row i of TransformMatrix is the direction of axis i."""
    spacing = fields.real(*_SPACING, count=axes)
    matrix = fields.real(*_MATRIX, count=axes * axes)
    offset = fields.real(*_OFFSET, count=axes)
    warnings = []
    if spacing is None:
        warnings.append("the header has no ElementSpacing; voxels are taken to be 1 mm wide")
    if matrix is None:
        warnings.append("the header has no TransformMatrix; axes are taken to run to the left, to the back and up")
    if any(fields.values.get(key, value) != value for key, value in _RESCALE.items()):
        warnings.append("the header rescales its values (ElementToIntensityFunction); as in ITK, this is not applied")
    affine = np.eye(4)
    directions = np.eye(axes) if matrix is None else matrix.reshape(axes, axes)
    with np.errstate(over="ignore"):  # what is too large is refused below
        affine[:axes, :axes] = directions.T * (1.0 if spacing is None else spacing)
    affine[:axes, 3] = 0.0 if offset is None else offset
    do = "Correct TransformMatrix, ElementSpacing and Offset"
    check_affine(fields.source, affine, "have axes and spacings that can be inverted", do=do)
    return np.diag([-1.0, -1, 1, 1]) @ affine + 0.0, (*warnings, *shear(affine))  # -0.0 to 0.0


def parse(file: BinaryIO, source: Source) -> Parsed:
    """Reads and checks the header.

    Args:
        file: Open at its first byte.
        source: For the error text.

    Raises:
        DataError: Not a MetaImage, voxels elsewhere than in this file or (of an .mhd) in its folder, an impossible header, more
            than the budget, or more or fewer bytes than the header says.
    """
    fields, start = _fields(file, source)
    _check_kind(fields)
    stored, dtype = _stored(fields), _dtype(fields)
    (channels,) = fields.whole("ElementNumberOfChannels") or (1,)
    need = check_budget(source, (*stored, channels), dtype.itemsize) * dtype.itemsize
    affine, warnings = _affine(fields, len(stored))
    place = _place(fields)
    with _voxels(file, place, source) as voxels:
        start = start if voxels is file else 0
        there = os.fstat(voxels.fileno()).st_size - start
    packed = None
    if fields.flag("CompressedData", default=False):
        (packed,) = fields.whole("CompressedDataSize") or (there,)
        if not 0 < packed <= there:
            raise source.error(f"hold the {packed} packed bytes of its header", f"{there} bytes", do=COPY_AGAIN)
        if packed * MAX_DEFLATE_RATIO < need:
            got = f"at most {packed * MAX_DEFLATE_RATIO} bytes"
            raise source.error(f"hold the {need} bytes of its header", got, do=COPY_AGAIN)
        if there > packed:
            warnings += (_ignored(there - packed),)
    elif there != need:
        raise _wrong_size(source, need, there, do=COPY_AGAIN if there < need else COMPARE)
    return Parsed(stored, channels, dtype, affine, start, place, packed, warnings)


@contextmanager
def _voxels(file: BinaryIO, place: Path, source: Source) -> Iterator[BinaryIO]:
    """The file that holds the voxels, open."""
    if place == source.path:
        yield file
    else:
        with opened(Source(place, source.subject, source.modality)) as other:
            yield other


def _ignored(count: int) -> str:
    return f"{count} bytes after the image were ignored"


def _wrong_size(source: Source, need: int, there: int | str, *, do: str) -> DataError:
    return source.error(f"hold exactly the {need} bytes of image that its header says", f"{there} bytes", do=do)


def _check_channel(parsed: Parsed, channel: int | None, source: Source) -> None:
    if channel is not None and not channel < parsed.channels:
        got, do = f"{parsed.channels} channels", "Correct `channel` in the cohort's yaml"
        raise source.error(f"have channel {channel}", got, do=do)


def _header(parsed: Parsed, channel: int | None, warnings: tuple[str, ...] = ()) -> tuple[Header, npt.NDArray[np.float64]]:
    shape, affine, orientation = ras_frame(parsed.affine, parsed.shape)
    channels = parsed.channels if channel is None else 1
    return Header(shape, channels, affine, parsed.dtype.newbyteorder("="), warnings=parsed.warnings + warnings), orientation


def read_header(file: BinaryIO, source: Source, *, channel: int | None) -> Header:
    """Header of an open MetaImage file; no voxel is read."""
    parsed = parse(file, source)
    _check_channel(parsed, channel, source)
    return _header(parsed, channel)[0]


def read(file: BinaryIO, source: Source, *, channel: int | None) -> Volume:
    """Reads an open MetaImage file to its last byte; see `comodal.data.reading.read_volume`."""
    parsed = parse(file, source)
    _check_channel(parsed, channel, source)
    flat = np.empty(math.prod(parsed.shape) * parsed.channels, dtype=parsed.dtype)
    with _voxels(file, parsed.place, source) as voxels:
        voxels.seek(parsed.start)
        rest = 0
        if parsed.packed is not None:
            rest = _inflate(voxels, flat.view(np.uint8).data, packed=parsed.packed, source=source)
        else:
            done = voxels.readinto(flat.view(np.uint8).data)  # type: ignore[attr-defined]  # BinaryIO does not list it
            if done < flat.nbytes:
                raise _wrong_size(source, flat.nbytes, done, do=COPY_AGAIN)
    # the values of a voxel stand side by side, then X runs fastest
    array: Array = flat.reshape((parsed.channels, *parsed.shape), order="F")
    array = array if channel is None else array[channel : channel + 1]
    array = array.astype(array.dtype.newbyteorder("="), copy=False)
    check_finite(source, array)
    header, orientation = _header(parsed, channel, (_ignored(rest),) if rest else ())
    array = np.stack([orientations.apply_orientation(one, orientation) for one in array])
    return Volume(np.ascontiguousarray(array), header, frame(parsed.stored, parsed.affine, orientation))


def _inflate(file: BinaryIO, view: memoryview, *, packed: int, source: Source) -> int:
    """Fills `view` from a zlib stream that must hold exactly so much and pass its checksum; returns the bytes behind it."""
    inflate, left, done = zlib.decompressobj(47), packed, 0  # 47: a gzip header is fine too, as for ITK
    while not inflate.eof:
        raw = inflate.unconsumed_tail
        if not raw:
            raw = file.read(min(CHUNK, left))
            left -= len(raw)
        try:
            piece = inflate.decompress(raw, CHUNK)
        except zlib.error as error:
            got = "a wrong checksum" if "data check" in str(error) else f"damaged compression ({error})"
            raise source.error("be an undamaged zlib stream", got, do=COPY_AGAIN) from None
        if not piece and not raw and not inflate.eof:
            raise source.error("be a complete zlib stream", "one that ends early", do=COPY_AGAIN)
        if done + len(piece) > len(view):
            raise _wrong_size(
                source, len(view), "more", do=COPY_AGAIN
            )  # damage, or a wrong header: not known before the checksum
        view[done : done + len(piece)] = piece
        done += len(piece)
    if done < len(view):
        raise _wrong_size(source, len(view), done, do=COMPARE)  # the checksum was right
    return left + len(inflate.unused_data)
