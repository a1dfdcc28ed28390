"""The pixels of one DICOM file: what its header says of them, whether they are all there, and one frame after the other.

Pixels that are not packed are read here, so that their number is compared with the header before memory is taken and a file
that was cut is an error. Packed ones go through pydicom's decoders (RLE; JPEG and JPEG 2000 by Pillow) once the list of their
pieces was walked to its end. What pydicom forgives with a warning is looked at here instead; of a header only codes are quoted.
"""

from __future__ import annotations

import logging
import math
import os
import re
import struct
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np

from comodal.data.formats_nifti import COPY_AGAIN
from comodal.data.geometry import Array, Source
from comodal.errors import short

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

MAGIC_AT, MAGIC = 128, b"DICM"
NATIVE = ("1.2.840.10008.1.2", "1.2.840.10008.1.2.1", "1.2.840.10008.1.2.2")
DEFLATED = "1.2.840.10008.1.2.1.99"
UNPACK = "Convert it, for instance with dcm2niix, or unpack it with gdcmconv --raw"
EXPORT_AGAIN = "Export the image again"
# What is read of a header besides the place: nothing of it says who the patient is.
TAGS = (
    "SamplesPerPixel", "PhotometricInterpretation", "PlanarConfiguration", "NumberOfFrames", "Rows", "Columns", "BitsAllocated",
    "BitsStored", "HighBit", "PixelRepresentation",
)  # fmt: skip
_PIXELS, _UNDEFINED = (0x7FE0, 0x0010), 0xFFFFFFFF
_ITEM, _END = (0xFFFE, 0xE000), (0xFFFE, 0xE0DD)
_LONG = (b"OB", b"OD", b"OF", b"OL", b"OV", b"OW", b"SQ", b"SV", b"UC", b"UN", b"UR", b"UT", b"UV")
_COLOURS = ("RGB", "YBR_FULL", "YBR_FULL_422", "YBR_RCT", "YBR_ICT")


def is_dicom(head: bytes) -> bool:
    """True where the first bytes of a file (at least 132) are those of a DICOM file."""
    return head[MAGIC_AT : MAGIC_AT + 4] == MAGIC


@dataclass(frozen=True)
class Pixels:
    """What a header says of its pixels, found plausible.

    Attributes:
        frames, rows, columns, samples: Their number; samples is 1 or 3.
        allocated, stored, high: Bits of a value in the file, bits that count, and the highest of them.
        signed: Whether values may be negative.
        photometric: MONOCHROME1, MONOCHROME2, or a kind of colour.
        planar: Whether the colours stand one after the other rather than side by side.
        syntax: UID of the transfer syntax.
        at: Where the pixels begin.
        packed: Whether they are compressed.
        swapped: Bytes that are written as words of the other byte order.
        extra: Bytes behind the pixels within their element.
    """

    frames: int
    rows: int
    columns: int
    samples: int
    allocated: int
    stored: int
    high: int
    signed: bool
    photometric: str
    planar: bool
    syntax: str
    at: int = 0
    packed: bool = False
    swapped: bool = False
    extra: int = 0

    @property
    def dtype(self) -> np.dtype[Any]:
        """Of a value in this machine's byte order."""
        return np.dtype(f"{'i' if self.signed else 'u'}{self.allocated // 8}")

    @property
    def alike(self) -> tuple[object, ...]:
        """What must be equal in all files of a volume."""
        return (self.rows, self.columns, self.samples, self.allocated, self.signed, self.photometric)

    @property
    def frame_bytes(self) -> int:
        """Size of one frame that is not packed."""
        return self.rows * self.columns * self.samples * self.allocated // 8


@contextmanager
def quiet() -> Iterator[None]:
    """Keeps pydicom's warnings of odd elements from users and logs: they quote values. What matters is checked here."""
    logger = logging.getLogger("pydicom")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


def read_dataset(file: BinaryIO, source: Source, tags: tuple[str, ...]) -> tuple[Dataset, str]:
    """The header of an open file up to its pixels, and the UID of its transfer syntax; the file stands at the pixels.

    Args:
        file: Open for reading.
        source: For the error text.
        tags: Keywords that are kept, those of `TAGS` besides.

    Raises:
        DataError: Not DICOM, deflated, in a syntax that cannot be unpacked, or damaged.
    """
    from pydicom import dcmread

    syntax = _syntax(file)
    if not syntax:
        raise source.error("name its transfer syntax", "none", do=COPY_AGAIN)
    if syntax not in NATIVE:
        _check_decoder(syntax, source)
    file.seek(0)
    try:
        with quiet():
            return dcmread(file, stop_before_pixels=True, specific_tags=[*TAGS, *tags]), syntax
    except Exception as error:  # noqa: BLE001  the parser raises many kinds on hostile bytes
        raise source.error("be an undamaged DICOM file", type(error).__name__, do=COPY_AGAIN) from None


def _syntax(file: BinaryIO) -> str:
    """UID of the transfer syntax, "" where there is none. The group that names it is always little endian."""
    file.seek(MAGIC_AT + 4)
    found = ""
    while len(head := file.read(8)) == 8 and head[:2] == b"\2\0":
        length = struct.unpack("<H", head[6:])[0]
        if head[4:6] in _LONG:
            length = int.from_bytes(file.read(4), "little")
        if head[2:4] == b"\x10\0":
            found = file.read(min(length, 64)).rstrip(b"\0 ").decode("ascii", "replace")
        else:
            file.seek(length, os.SEEK_CUR)
    return found


def _check_decoder(syntax: str, source: Source) -> None:
    from pydicom.pixels.decoders.base import get_decoder
    from pydicom.uid import UID

    name = "one that is damaged"
    if re.fullmatch(r"[0-2](\.[0-9]+)+", syntax):
        with quiet():
            name = UID(syntax).name
            try:
                if syntax != DEFLATED and get_decoder(UID(syntax)).is_available:
                    return
            except (NotImplementedError, ValueError):
                pass  # no image, or a private syntax
    raise source.error("be in a transfer syntax that can be unpacked here", name, do=UNPACK)


def numbers(item: Dataset, keyword: str, count: int, *, source: Source) -> tuple[float, ...] | None:
    """`count` finite numbers of a header, None where it has none.

    Args:
        item: The header or a part of it.
        keyword: DICOM's name.
        count: How many.
        source: For the error text.

    Raises:
        DataError: Another number of values, or values that are no numbers.
    """
    try:
        with quiet():
            value = item.get(keyword)
        if value is None or value == "":
            return None
        found = tuple(float(one) for one in (value if isinstance(value, list) or hasattr(value, "__iter__") else [value]))
    except Exception:  # noqa: BLE001  values are converted when they are asked for, with many kinds of errors
        found = ()
    if len(found) != count or not all(math.isfinite(one) for one in found):
        rule = f"have {keyword} of {count} finite number{'' if count == 1 else 's'}"
        raise source.error(rule, "something else", do=EXPORT_AGAIN)
    return found


def text(item: Dataset, keyword: str) -> str:
    """A code of a header, "" where it has none."""
    try:
        with quiet():
            return str(item.get(keyword) or "").strip()
    except Exception:  # noqa: BLE001  see numbers()
        return ""


def parse(file: BinaryIO, dataset: Dataset, syntax: str, *, source: Source) -> Pixels:
    """What a header says of its pixels.

    Args:
        file: Stands at the pixels, as `read_dataset` leaves it.
        dataset: The header.
        syntax: UID of its transfer syntax.
        source: For the error text.

    Raises:
        DataError: No pixels, an impossible or unknown form, or fewer bytes than it says.
    """

    def whole(keyword: str, default: int | None = None) -> int:
        found = numbers(dataset, keyword, 1, source=source)
        value = default if found is None else found[0]
        if value is None or value != int(value) or not 0 <= value < 1 << 31:
            raise source.error(f"have {keyword} of one whole number", value, do=EXPORT_AGAIN)
        return int(value)

    if "Rows" not in dataset:
        raise source.error("hold an image", "DICOM without pixels (a report, a plan or contours)", do="Give the image")
    allocated, stored = whole("BitsAllocated"), whole("BitsStored")
    if (sign := whole("PixelRepresentation")) > 1:
        raise source.error("have a PixelRepresentation of 0 or 1", sign, do=EXPORT_AGAIN)
    pixels = Pixels(
        frames=whole("NumberOfFrames", 1),
        rows=whole("Rows"),
        columns=whole("Columns"),
        samples=whole("SamplesPerPixel", 1),
        allocated=allocated,
        stored=stored,
        high=whole("HighBit", stored - 1 if stored else 0),
        signed=sign == 1,
        photometric=text(dataset, "PhotometricInterpretation").upper(),
        planar=whole("PlanarConfiguration", 0) == 1,
        syntax=syntax,
    )
    _check_form(pixels, source)
    return _located(pixels, file, dataset, source=source)


def _check_form(pixels: Pixels, source: Source) -> None:
    if pixels.allocated not in (8, 16, 32):
        do = "Convert it, for instance with dcm2niix or (segmentations) with dcmqi"
        raise source.error("have BitsAllocated of 8, 16 or 32", pixels.allocated, do=do)
    if pixels.allocated == 32 and pixels.syntax == NATIVE[2]:
        raise source.error(
            "have at most 16 bits in big-endian order", 32, do=UNPACK
        )  # readers differ in the order of the words
    if not (1 <= pixels.stored <= pixels.allocated and pixels.stored - 1 <= pixels.high < pixels.allocated):
        got = f"{pixels.stored} bits up to bit {pixels.high} of {pixels.allocated}"
        raise source.error("have BitsStored and HighBit that fit in BitsAllocated", got, do=EXPORT_AGAIN)
    if pixels.syntax not in NATIVE and pixels.high != pixels.stored - 1:
        got = f"BitsStored {pixels.stored}, HighBit {pixels.high}"
        raise source.error("have packed pixels in the lowest bits", got, do=UNPACK)
    grey = pixels.samples == 1 and pixels.photometric in ("MONOCHROME1", "MONOCHROME2")
    colours = ("RGB", "YBR_FULL") if pixels.syntax in NATIVE else _COLOURS
    colour = pixels.samples == 3 and pixels.photometric in colours and pixels.allocated == 8 and not pixels.signed
    if not (grey or colour):
        got = f"{short(pixels.photometric)} of {pixels.samples} x {pixels.allocated} bits"
        do = "Convert it to RGB, for instance with dcmdjpeg or gdcmimg, or to grey values"
        raise source.error("hold grey values, or RGB of 8 bits", got, do=do)


def _located(pixels: Pixels, file: BinaryIO, dataset: Dataset, *, source: Source) -> Pixels:
    """With the place of the pixels, whose number of bytes is compared with the header and with the file."""
    implicit, little = dataset.original_encoding
    order = "<" if little else ">"
    head = file.read(8 if implicit else 12)
    if len(head) < (8 if implicit else 12):
        raise source.error("hold its pixels", "a file that ends before them", do=COPY_AGAIN)
    if struct.unpack(order + "HH", head[:4]) != _PIXELS:
        raise source.error("hold pixels of whole numbers", "none, or pixels of another kind", do=UNPACK)
    kind, (length,) = (
        (b"OW", struct.unpack(order + "I", head[4:])) if implicit else (head[4:6], struct.unpack(order + "I", head[8:]))
    )
    if kind not in (b"OB", b"OW"):
        raise source.error("hold its pixels as OB or OW", short(kind), do=COPY_AGAIN)
    at, there = file.tell(), os.fstat(file.fileno()).st_size - file.tell()
    values = vars(pixels)
    if pixels.syntax not in NATIVE:
        if length != _UNDEFINED:
            raise source.error("hold packed pixels in pieces", f"one block of {length} bytes", do=EXPORT_AGAIN)
        return Pixels(**{**values, "at": at, "packed": True})
    need = pixels.frame_bytes * pixels.frames
    if length == _UNDEFINED or length < need:
        got = "a length that is not known" if length == _UNDEFINED else f"{length} bytes"
        raise source.error(f"hold the {need} bytes of pixels of its header", got, do=COPY_AGAIN)
    if there < length:
        raise source.error(f"hold the {length} bytes of pixels of its header", f"{there} bytes", do=COPY_AGAIN)
    swapped = not little and pixels.allocated == 8 and kind == b"OW"
    return Pixels(**{**values, "at": at, "swapped": swapped, "extra": length - need - need % 2})


def frames(file: BinaryIO, pixels: Pixels, *, source: Source) -> Iterator[tuple[Array, bool]]:
    """Every frame, (C, rows, columns), and whether bits above those that count were cleared in it.

    Args:
        file: Open for reading.
        pixels: Of this file.
        source: For the error text.

    Raises:
        DataError: Fewer pixels than the header says, or packed ones that are damaged.
    """
    for frame in _packed(file, pixels, source) if pixels.packed else _native(file, pixels, source):
        values, cleared = frame, False
        if pixels.stored < pixels.allocated:
            values = frame << (pixels.allocated - 1 - pixels.high) >> (pixels.allocated - pixels.stored)
            cleared = pixels.high == pixels.stored - 1 and bool((values != frame).any())
        if pixels.photometric == "MONOCHROME1":
            values = ~values if pixels.signed else values.dtype.type((1 << pixels.stored) - 1) - values
        yield values, cleared


def _native(file: BinaryIO, pixels: Pixels, source: Source) -> Iterator[Array]:
    big = pixels.syntax == NATIVE[2]
    size, dtype = pixels.frame_bytes, pixels.dtype.newbyteorder(">" if big else "<")
    file.seek(pixels.at)
    if pixels.swapped:  # bytes in words: a word may hold the end of one frame and the start of the next
        size = pixels.frame_bytes * pixels.frames
        size += size % 2
    for _ in range(1 if pixels.swapped else pixels.frames):
        data = file.read(size)
        if len(data) < size:
            raise source.error(f"hold {size} bytes of pixels", f"{len(data)} bytes", do=COPY_AGAIN)
        if pixels.swapped:
            data = np.frombuffer(data, np.uint16).byteswap().tobytes()[: pixels.frame_bytes * pixels.frames]
        for one in (
            np.frombuffer(data, dtype).astype(pixels.dtype, copy=False).reshape(-1, pixels.frame_bytes * 8 // pixels.allocated)
        ):
            yield _channels_first(_rgb(one, pixels), pixels)


def _rgb(values: Array, pixels: Pixels) -> Array:
    """One frame as (rows, columns) or (rows, columns, 3), in RGB."""
    if pixels.samples == 1:
        return values.reshape(pixels.rows, pixels.columns)
    if pixels.planar:
        shaped = values.reshape(3, pixels.rows, pixels.columns).transpose(1, 2, 0)
    else:
        shaped = values.reshape(pixels.rows, pixels.columns, 3)
    if pixels.photometric == "RGB":
        return shaped
    from pydicom.pixels.processing import convert_color_space

    converted: Array = convert_color_space(shaped, "YBR_FULL", "RGB")
    return converted


def _channels_first(values: Array, pixels: Pixels) -> Array:
    return values[None] if pixels.samples == 1 else values.transpose(2, 0, 1)


def _packed(file: BinaryIO, pixels: Pixels, source: Source) -> Iterator[Array]:
    """Frames by pydicom's decoders."""
    from pydicom import dcmread
    from pydicom.pixels.decoders.base import get_decoder
    from pydicom.uid import UID

    _check_pieces(file, pixels, source)
    file.seek(0)
    decoder, shape = get_decoder(UID(pixels.syntax)), (pixels.rows, pixels.columns) + ((3,) if pixels.samples == 3 else ())
    dataset: Any = None
    for index in range(pixels.frames):
        try:
            with quiet():  # sizes are checked, and a frame that is missing raises
                wanted = [*TAGS, "PixelData", "ExtendedOffsetTable", "ExtendedOffsetTableLengths"]
                dataset = dataset or dcmread(file, specific_tags=wanted)
                frame, _ = decoder.as_array(dataset, index=index, raw=False)
        except Exception as error:  # noqa: BLE001  decoders raise many kinds on damaged bytes
            got = f"{decoder.UID.name} that is damaged or of a rare kind ({type(error).__name__})"
            raise source.error("hold pixels that can be unpacked", got, do=f"{COPY_AGAIN}. {UNPACK}") from None
        if frame.shape != shape or frame.dtype.kind != pixels.dtype.kind or frame.dtype.itemsize > pixels.dtype.itemsize:
            got = f"{frame.shape} {frame.dtype}"
            raise source.error(f"hold frames of {shape} {pixels.dtype}", got, do=EXPORT_AGAIN)
        yield _channels_first(frame.astype(pixels.dtype, copy=False), pixels)


def _check_pieces(file: BinaryIO, pixels: Pixels, source: Source) -> None:
    """Walks the pieces of packed pixels to the mark of their end: a file that was cut has none."""
    file.seek(pixels.at)
    pieces, size = -1, os.fstat(file.fileno()).st_size  # the first piece is a table
    while len(head := file.read(8)) == 8:
        tag, length = struct.unpack("<HH", head[:4]), struct.unpack("<I", head[4:])[0]
        if tag == _END:
            if pieces < pixels.frames:
                raise source.error(f"hold {pixels.frames} packed frames", f"{max(pieces, 0)} pieces", do=COPY_AGAIN)
            return
        if tag != _ITEM or file.tell() + length > size:
            break
        pieces += 1
        file.seek(length, os.SEEK_CUR)
    raise source.error("be a complete DICOM file", "packed pixels that end early", do=COPY_AGAIN)
