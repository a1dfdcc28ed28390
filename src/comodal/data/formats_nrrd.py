"""NRRD (.nrrd): a header of text lines, an empty line, then one block of voxels, raw or packed by gzip; read to the last byte.

The header is parsed here because of what it may say: a detached header (.nhdr) names other files, and none is ever opened.
Lines of the form `key:=value` may say who the patient is: they are not kept, and no message quotes them.

Positions are in the `space` of the header (LPS, RAS or LAS mm) and change sign on the way to RAS. One axis may hold channels
(RGB, a vector, a list of volumes), the first or the last.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, replace
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt
from nibabel import orientations

from comodal.data.formats_nifti import COPY_AGAIN, MAX_DEFLATE_RATIO, Stream, frame, ras_frame, shear
from comodal.data.geometry import Affine, Array, Header, Source, Volume, check_affine, check_budget, check_finite
from comodal.errors import short

MAX_HEADER = 1 << 20
_MAGIC = re.compile(rb"NRRD000[1-5]\r?\n")
_TYPES = {
    "i1": ("signed char", "int8", "int8_t"),
    "u1": ("uchar", "unsigned char", "uint8", "uint8_t"),
    "i2": ("short", "short int", "signed short", "signed short int", "int16", "int16_t"),
    "u2": ("ushort", "unsigned short", "unsigned short int", "uint16", "uint16_t"),
    "i4": ("int", "signed int", "int32", "int32_t"),
    "u4": ("uint", "unsigned int", "uint32", "uint32_t"),
    "i8": ("longlong", "long long", "long long int", "signed long long", "signed long long int", "int64", "int64_t"),
    "u8": ("ulonglong", "unsigned long long", "unsigned long long int", "uint64", "uint64_t"),
    "f4": ("float",),
    "f8": ("double",),
}
TYPES = {name: code for code, names in _TYPES.items() for name in names}
# Signs that bring the named space to RAS.
SPACES = {
    "right-anterior-superior": (1, 1, 1),
    "ras": (1, 1, 1),
    "left-anterior-superior": (-1, 1, 1),
    "las": (-1, 1, 1),
    "left-posterior-superior": (-1, -1, 1),
    "lps": (-1, -1, 1),
}
_SYNONYMS = {"datafile": "data file", "lineskip": "line skip", "byteskip": "byte skip"}
_GEOMETRY = ("space", "space dimension", "space directions", "space origin", "space units", "spacings", "units", "kinds")
# What is read of a header.
KEYS = frozenset(("type", "dimension", "sizes", "encoding", "endian", "data file", "line skip", "byte skip", *_GEOMETRY))
_SPATIAL = ("domain", "space", "???", "none")
_CHANNELS = ("list", "vector", "covariant-vector", "point", "normal", "scalar", "stub", "2-vector", "3-vector", "4-vector")
_COLOURS = ("rgb-color", "3-color", "rgba-color", "4-color", "3-gradient", "3-normal")
EXPORT_AGAIN = "Export the image again, for instance with SimpleITK"


def is_nrrd(head: bytes) -> bool:
    """True where the first bytes of a file are those of a NRRD header."""
    return _MAGIC.match(head) is not None


@dataclass(frozen=True)
class Parsed:
    """A NRRD header that was understood and found plausible.

    Attributes:
        stored: Sizes of the two or three spatial axes, X first.
        channels: Length of the axis of the channels, 1 where there is none.
        first: Whether this axis is the first (the values of a voxel stand side by side) rather than the last.
        dtype: Of a value, with the byte order of the file.
        affine: (4, 4) float64, voxel to RAS mm, of the file's own axes.
        has_spacing: False where the header says nothing of sizes.
        start: Where the voxels begin.
        packed: Whether they are packed by gzip.
        warnings: What was guessed.
    """

    stored: tuple[int, ...]
    channels: int
    first: bool
    dtype: np.dtype[Any]
    affine: Affine
    has_spacing: bool
    start: int
    packed: bool
    warnings: tuple[str, ...]

    @property
    def shape(self) -> tuple[int, int, int]:
        """(X, Y, Z) of the file's own axes."""
        x, y, z = (*self.stored, 1)[:3]
        return (x, y, z)

    @property
    def size(self) -> int:
        """Bytes of the voxels once they are unpacked."""
        return math.prod(self.stored) * self.channels * self.dtype.itemsize


@dataclass(frozen=True)
class _Fields:
    """The lines of a header, by their keys in lower case."""

    values: dict[str, str]
    source: Source

    def word(self, key: str) -> str:
        """The value in lower case, "" where the header has no such line."""
        return self.values.get(key, "").casefold()

    def numbers(self, key: str, count: int) -> list[float]:
        """`count` numbers; "nan" is one (it marks an axis without a size)."""
        try:
            found = [float(word) for word in self.values[key].split()]
        except ValueError:
            found = []
        if len(found) != count:
            raise self.source.error(f"have {key} of {count} numbers", short(self.values[key]), do=EXPORT_AGAIN)
        return found

    def whole(self, key: str, count: int) -> list[int]:
        """`count` whole numbers."""
        words = self.values.get(key, "").split()
        if len(words) != count or not all(re.fullmatch(r"\+?[0-9]{1,18}", word) for word in words):
            rule = f"have {key} of {count} whole number{'' if count == 1 else 's'}"
            raise self.source.error(rule, short(self.values.get(key, "none")), do=EXPORT_AGAIN)
        return [int(word) for word in words]

    def vectors(self, key: str, length: int) -> list[list[float] | None]:
        """Vectors in brackets, None for "none"."""
        found: list[list[float] | None] = []
        for part in re.findall(r"\([^()]*\)|[^\s()]+", self.values[key]):
            try:
                vector = None if part.casefold() == "none" else [float(word) for word in part.strip("()").split(",")]
            except ValueError:
                vector = []
            if vector is not None and (len(vector) != length or not np.isfinite(vector).all()):
                rule = f"have {key} of vectors of {length} finite numbers"
                raise self.source.error(rule, short(part), do=EXPORT_AGAIN)
            found.append(vector)
        return found

    def quoted(self, key: str) -> list[str]:
        """Words in quotation marks."""
        return re.findall(r'"([^"]*)"', self.values.get(key, ""))


def _fields(file: BinaryIO, source: Source) -> tuple[_Fields, int]:
    """The header's lines, and where the voxels begin."""
    block = file.read(MAX_HEADER)
    end = re.search(rb"\r?\n\r?\n", block)
    if end is None:
        do = (
            "Convert it to one .nrrd file, for instance with SimpleITK" if re.search(rb"(?i)data ?file:", block) else COPY_AGAIN
        )
        raise source.error("have a NRRD header that ends with an empty line", f"none in {len(block)} bytes", do=do)
    values: dict[str, str] = {}
    for number, line in enumerate(block[: end.start()].decode("latin-1").split("\n")[1:], start=2):
        text = line.rstrip("\r")
        if not text.strip() or text.startswith("#") or re.match(r"[^:]*:=", text):
            continue
        key, colon, value = text.partition(": ") if ": " in text else text.partition(":")
        if not colon:
            raise source.error("have a NRRD header of lines `field: value`", f"another line {number}", do=EXPORT_AGAIN)
        key = _SYNONYMS.get(key.strip().casefold(), key.strip().casefold())
        if key not in KEYS:
            continue
        if key in values:
            raise source.error(f"say {key} once in its header", f"it again in line {number}", do=EXPORT_AGAIN)
        values[key] = value.strip()
    return _Fields(values, source), end.end()


def _check_kind(fields: _Fields) -> None:
    """Refuses voxels in other files, behind something else, or in an encoding that is not read."""
    source, values = fields.source, fields.values
    if "data file" in values:
        do = "Convert it to one .nrrd file, for instance with SimpleITK: WriteImage(ReadImage('a.nhdr'), 'a.nrrd')"
        raise source.error("hold its voxels itself, since no other file is opened", "a detached header (data file)", do=do)
    for key in ("line skip", "byte skip"):
        if values.get(key, "0") != "0":
            rule = "have its voxels right behind its header"
            raise source.error(rule, f"{key}: {short(values[key])}", do=EXPORT_AGAIN)
    if fields.word("encoding") not in ("raw", "gzip", "gz"):
        got = f"encoding {short(values.get('encoding', 'none'))}"
        raise source.error("have an encoding of raw or gzip", got, do="Save the image again with SimpleITK")


def _dtype(fields: _Fields) -> np.dtype[Any]:
    code = TYPES.get(" ".join(fields.word("type").split()))
    if code is None:
        got, do = short(fields.values.get("type", "none")), "Convert it to short or float"
        raise fields.source.error("have a type of whole or real numbers", got, do=do)
    endian = fields.word("endian")
    if code[1] != "1" and endian not in ("little", "big"):
        rule = "say endian: little or endian: big"
        raise fields.source.error(rule, short(fields.values.get("endian", "nothing")), do=EXPORT_AGAIN)
    return np.dtype((">" if endian == "big" else "<") + code)


def _channel_axis(fields: _Fields, sizes: list[int], directions: list[list[float] | None] | None) -> int | None:
    """Which axis is no axis of space; None where all are."""
    source, axes = fields.source, len(sizes)
    kinds = fields.word("kinds").split() or ["none"] * axes
    if len(kinds) != axes:
        raise source.error(f"have kinds of {axes} axes", short(fields.values["kinds"]), do=EXPORT_AGAIN)
    if directions is not None:
        others = [axis for axis in range(axes) if directions[axis] is None]
    else:
        others = [axis for axis in range(axes) if kinds[axis] not in _SPATIAL]
    for axis in others:
        if kinds[axis] not in (*_CHANNELS, *_COLOURS, "none", "???"):
            do = "Split it into files of one volume each"
            raise source.error("have axes of space and at most one of channels", f"an axis of kind {short(kinds[axis])}", do=do)
    if len(others) > 1 or axes - len(others) not in (2, 3):
        got, do = f"sizes {sizes}", "Save each volume as a file of its own"
        raise source.error("have two or three axes of space and at most one of channels", got, do=do)
    if others and others[0] not in (0, axes - 1):
        raise source.error("have its channels on the first or the last axis", f"axis {others[0] + 1}", do=EXPORT_AGAIN)
    return others[0] if others else None


def _frame(fields: _Fields, directions: list[list[float] | None] | None, kept: list[int]) -> tuple[Affine, bool, list[str]]:
    """Voxel to RAS mm, whether the header knows sizes, and warnings. kept: the axes of space."""
    affine, warnings, known, spatial = np.eye(4), [], True, len(kept)
    space = fields.word("space").removesuffix("-time")
    signs = SPACES.get(space, (-1, -1, 1))
    if directions is not None:
        vectors = [vector for axis in kept if (vector := directions[axis]) is not None]
        dimension = len(vectors[0])
        matrix = np.zeros((3, spatial))
        matrix[:dimension] = np.array(vectors).T
        affine[:3, :spatial] = matrix
        if spatial == 2 and dimension == 3:  # a slice somewhere in space: the third axis is its normal
            normal = np.cross(matrix[:, 0], matrix[:, 1])
            affine[:3, 2] = normal / max(float(np.linalg.norm(normal)), 1e-300)
        if "space origin" in fields.values:
            (origin,) = fields.vectors("space origin", dimension)[:1] or [None]
            affine[:dimension, 3] = 0.0 if origin is None else origin
        else:
            warnings.append("the header has no space origin; the first voxel is taken to be at 0")
        if space not in SPACES:
            warnings.append("the header does not say LPS, RAS or LAS; as in ITK, its space is taken to be LPS")
    else:
        known = "spacings" in fields.values
        if known:
            spacings = fields.numbers("spacings", len(fields.values["sizes"].split()))
            affine[range(spatial), range(spatial)] = [spacings[axis] for axis in kept]
        else:
            warnings.append("the header has no spacings; voxels are taken to be 1 mm wide")
        warnings.append("the header has no space directions; axes are taken to run to the left, to the back and up")
    units = {unit for unit in (*fields.quoted("space units"), *fields.quoted("units")) if unit not in ("", "mm", "millimeter")}
    if units:
        warnings.append("the header gives lengths in another unit; they are read as mm")
    do = "Correct space directions and spacings"
    check_affine(fields.source, affine, "have axes and spacings that can be inverted", do=do)
    affine = np.diag([*signs, 1.0]) @ affine + 0.0  # -0.0 to 0.0
    return affine, known, [*warnings, *shear(affine)]


def parse(file: BinaryIO, source: Source) -> tuple[Parsed, Stream]:
    """Reads and checks the header.

    Args:
        file: Open at its first byte.
        source: For the error text.

    Returns:
        What it says, and the bytes of the voxels.

    Raises:
        DataError: Not a NRRD with its own voxels, an impossible header, more than the budget, or more than the file can hold.
    """
    fields, start = _fields(file, source)
    _check_kind(fields)
    (axes,) = fields.whole("dimension", 1)
    if not 2 <= axes <= 4:
        raise source.error("have a dimension of 2 to 4", axes, do="Save each volume as a file of its own")
    sizes, dtype = fields.whole("sizes", axes), _dtype(fields)
    check_budget(source, tuple(sizes), dtype.itemsize)
    directions = None
    if "space directions" in fields.values:
        dimension = fields.whole("space dimension", 1)[0] if "space dimension" in fields.values else 3
        if dimension not in (2, 3):
            raise source.error("have a space dimension of 2 or 3", dimension, do=EXPORT_AGAIN)
        directions = fields.vectors("space directions", dimension)
        if len(directions) != axes:
            got = short(fields.values["space directions"])
            raise source.error(f"have space directions of {axes} axes", got, do=EXPORT_AGAIN)
    other = _channel_axis(fields, sizes, directions)
    kept = [axis for axis in range(axes) if axis != other]
    affine, known, warnings = _frame(fields, directions, kept)
    packed = fields.word("encoding") != "raw"
    stored, channels = tuple(sizes[axis] for axis in kept), 1 if other is None else sizes[other]
    parsed = Parsed(stored, channels, other == 0, dtype, affine, known, start, packed, tuple(warnings))
    stream = Stream(file, source, start=start, is_gzip=packed)
    limit = stream.compressed_size * (MAX_DEFLATE_RATIO if packed else 1)
    if limit < parsed.size:
        raise source.error(f"hold the {parsed.size} bytes of image of its header", f"at most {limit} bytes", do=COPY_AGAIN)
    return parsed, stream


def _header(parsed: Parsed, channel: int | None, source: Source) -> tuple[Header, npt.NDArray[np.float64]]:
    if channel is not None and not 0 <= channel < parsed.channels:
        got, do = f"{parsed.channels} channels", "Correct `channel` in the cohort's yaml"
        raise source.error(f"have channel {channel}", got, do=do)
    shape, affine, orientation = ras_frame(parsed.affine, parsed.shape)
    channels, dtype = parsed.channels if channel is None else 1, parsed.dtype.newbyteorder("=")
    return Header(shape, channels, affine, dtype, has_spacing=parsed.has_spacing, warnings=parsed.warnings), orientation


def read_header(file: BinaryIO, source: Source, *, channel: int | None) -> Header:
    """Header of an open NRRD file; no voxel is read."""
    return _header(parse(file, source)[0], channel, source)[0]


def read(file: BinaryIO, source: Source, *, channel: int | None) -> Volume:
    """Reads an open NRRD file to its last byte; see `comodal.data.reading.read_volume`."""
    parsed, stream = parse(file, source)
    header, orientation = _header(parsed, channel, source)
    flat = np.empty(parsed.size // parsed.dtype.itemsize, dtype=parsed.dtype)
    done = stream.fill(flat.view(np.uint8))
    if done < parsed.size:
        raise source.error(f"hold {parsed.size} bytes of image", f"{done} bytes", do=COPY_AGAIN)
    stream.finish()
    if parsed.first:
        array: Array = flat.reshape((parsed.channels, *parsed.shape), order="F")
    else:
        array = np.moveaxis(flat.reshape((*parsed.shape, parsed.channels), order="F"), -1, 0)
    array = array if channel is None else array[channel : channel + 1]
    array = array.astype(header.dtype, copy=False)
    check_finite(source, array)
    array = np.stack([orientations.apply_orientation(one, orientation) for one in array])
    full = replace(header, warnings=header.warnings + tuple(stream.warnings))
    return Volume(np.ascontiguousarray(array), full, frame(parsed.stored, parsed.affine, orientation))
