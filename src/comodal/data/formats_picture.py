"""PNG, JPEG and TIFF, and folders of such slices as volumes. X = column, Y = row, Z = page or slice.

Bit depth is kept (16-bit grey stays uint16), a rotation in the EXIF data is applied, transparency is dropped, CMYK and palettes
become RGB. Pictures have no spacing that could be trusted, so none is claimed.
"""

from __future__ import annotations

import io
import os
import re
import struct
import warnings
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, Literal

import numpy as np
from PIL import Image, ImageOps

from comodal.data.atomic import replacing
from comodal.data.formats_nifti import COPY_AGAIN
from comodal.data.formats_tiff import count_pages
from comodal.data.geometry import BUDGET, Array, Geometry, Header, Source, Volume, check_budget, check_finite

PNG_MAGIC = b"\x89PNG\r\n\x1a\n"
JPEG_MAGIC = b"\xff\xd8\xff"
TIFF_MAGICS = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
SLICE_SUFFIXES = (".tif", ".tiff", ".png", ".jpg", ".jpeg")
ORIENTATION_TAG = 0x0112
SLIDE = "If it is a whole-slide image, make it a bag: in cohort.yaml kind: bag, spatial_dims: 2, tile: 256"

# Mode of Pillow -> (mode to convert to, channels, type). Everything that is not listed becomes RGB.
_MODES: dict[str, tuple[str, int, str]] = {
    "1": ("1", 1, "uint8"),
    "L": ("L", 1, "uint8"),
    "LA": ("L", 1, "uint8"),
    "I": ("I", 1, "int32"),
    "F": ("F", 1, "float32"),
    **dict.fromkeys(("I;16", "I;16L", "I;16B", "I;16N"), ("I;16", 1, "uint16")),
}
_BROKEN = (
    OSError, ValueError, SyntaxError, EOFError, TypeError, LookupError, OverflowError, MemoryError,
    struct.error, zlib.error, Image.DecompressionBombError,
)  # fmt: skip


def is_picture(head: bytes) -> bool:
    """True where the first bytes of a file are those of a PNG, JPEG or TIFF."""
    return head.startswith((PNG_MAGIC, JPEG_MAGIC, *TIFF_MAGICS))


def natural_key(name: str) -> tuple[tuple[int, int | str], ...]:
    """Sorts names as people do: slice 2 before slice 10.

    >>> sorted(["s_10.tif", "s_2.tif"], key=natural_key)
    ['s_2.tif', 's_10.tif']
    """
    parts = re.split(r"([0-9]+)", name)
    return tuple((0, int(part)) if i % 2 else (1, part) for i, part in enumerate(parts))


def _check_png(data: bytes, source: Source) -> None:
    """Walks the chunks to the end: the decoder itself does not compare the checksums of the pixel chunks."""
    at = len(PNG_MAGIC)
    while at + 12 <= len(data):
        length, kind = struct.unpack(">I4s", data[at : at + 8])
        body = data[at + 4 : at + 8 + length]
        checksum = data[at + 8 + length : at + 12 + length]
        if len(checksum) == 4 and struct.unpack(">I", checksum)[0] != zlib.crc32(body):
            chunk = kind.decode("ascii", "replace")
            raise source.error("be an undamaged PNG", f"a wrong checksum in its {chunk} chunk", do=COPY_AGAIN)
        at += 12 + length
        if kind == b"IEND" and len(checksum) == 4:
            return
    raise source.error("be a complete PNG", "one that ends early", do=COPY_AGAIN)


@contextmanager
def _opened(data: bytes, source: Source) -> Iterator[Image.Image]:
    """A picture whose every failure is a `DataError`. Only three decoders are offered, whatever the bytes claim."""
    try:
        # Pillow warns of damage in metadata; what matters (sizes, pixels) raises.
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with Image.open(io.BytesIO(data), formats=("PNG", "JPEG", "TIFF")) as image:
                yield image
    except Image.DecompressionBombError:
        most = 2 * (Image.MAX_IMAGE_PIXELS or 0)
        raise source.error(f"have at most {most} pixels", "more", do=SLIDE) from None
    except _BROKEN as error:
        reason = str(error) or type(error).__name__
        raise source.error("be a complete PNG, JPEG or TIFF", reason.splitlines()[0], do=COPY_AGAIN) from None


def _target_mode(image: Image.Image) -> tuple[str, int, np.dtype[Any]]:
    mode, channels, dtype = _MODES.get(image.mode, ("RGB", 3, "uint8"))
    return mode, channels, np.dtype(dtype)


def _size(image: Image.Image) -> tuple[int, int]:
    """Width and height after the rotation of the EXIF data. Pillow applies that of a TIFF itself."""
    width, height = image.size
    turned = image.format != "TIFF" and image.getexif().get(ORIENTATION_TAG, 1) in (5, 6, 7, 8)
    return (height, width) if turned else (width, height)


def _notes(data: bytes) -> tuple[str, ...]:
    depth, colour = data[24:26] if data.startswith(PNG_MAGIC) else (8, 0)
    return ("16-bit colour was reduced to 8 bits",) if depth == 16 and colour in (2, 4, 6) else ()


def _channel(channels: int, wanted: int | None, source: Source) -> slice:
    if wanted is None:
        return slice(None)
    if not 0 <= wanted < channels:
        raise source.error(f"have channel {wanted}", f"{channels} channels", do="Correct `channel` in the cohort's yaml")
    return slice(wanted, wanted + 1)


def _content(file: BinaryIO, source: Source) -> bytes:
    """The whole file; slides of many gigabytes are refused before they are read."""
    size = os.fstat(file.fileno()).st_size
    if size > BUDGET:
        raise source.error(f"be a picture of at most {BUDGET // 1024**3} GiB", f"{size} bytes", do=SLIDE)
    return file.read()


def _header(data: bytes, source: Source, channel: int | None) -> Header:
    pages = count_pages(data, source) if data.startswith(TIFF_MAGICS) else 1
    with _opened(data, source) as image:
        _, channels, dtype = _target_mode(image)
        width, height = _size(image)
    check_budget(source, (channels, width, height, pages), dtype.itemsize)
    kept = len(range(channels)[_channel(channels, channel, source)])
    return Header((width, height, pages), kept, np.eye(4), dtype, has_spacing=False, notes=_notes(data))


def _pixels(image: Image.Image, channel: int | None, source: Source) -> Array:
    """(C, X, Y) of the current page."""
    mode, channels, dtype = _target_mode(image)
    keep = _channel(channels, channel, source)
    upright = image if image.format == "TIFF" else ImageOps.exif_transpose(image)
    if upright.mode != mode and not (mode == "I;16" and upright.mode.startswith("I;16")):
        upright = upright.convert(mode)
    if channel is not None and channels > 1:
        upright = upright.getchannel(channel)
    array = np.asarray(upright).astype(dtype, copy=False)
    array = array.T[None] if array.ndim == 2 else array.transpose(2, 1, 0)
    return array if channel is not None and channels > 1 else array[keep]


def _page(image: Image.Image, number: int) -> Image.Image:
    if number:
        image.seek(number)
    image.load()
    return image


def read_header(file: BinaryIO, source: Source, *, channel: int | None) -> Header:
    """Header of an open picture."""
    return _header(_content(file, source), source, channel)


def read(file: BinaryIO, source: Source, *, channel: int | None) -> Volume:
    """Reads an open picture, every page of it; see `comodal.data.reading.read_volume`."""
    data = _content(file, source)
    if data.startswith(PNG_MAGIC):
        _check_png(data, source)
    header = _header(data, source, channel)
    array = np.empty((header.channels, *header.shape), dtype=header.dtype)
    with _opened(data, source) as image:
        for number in range(header.shape[2]):
            pixels = _pixels(_page(image, number), channel, source)
            if pixels.shape != array.shape[:3] or pixels.dtype != array.dtype:
                got = f"{pixels.shape} {pixels.dtype} on page {number + 1}, {array.shape[:3]} {array.dtype} on page 1"
                raise source.error("have pages of one size and type", got, do=f"Split the file. {SLIDE}")
            array[..., number] = pixels
    check_finite(source, array)
    return Volume(array, header, _geometry("picture" if header.shape[2] == 1 else "stack", header))


def _geometry(form: Literal["picture", "stack"], header: Header) -> Geometry:
    return Geometry(form, header.shape, header.affine, np.array([[0.0, 1.0], [1.0, 1.0], [2.0, 1.0]]))


def read_stack_header(slices: Sequence[Path], source: Source, *, channel: int | None) -> Header:
    """Header of a folder of slices, from its first slice."""
    first = _header(slices[0].read_bytes(), Source(slices[0], source.subject, source.modality), channel)
    if first.shape[2] != 1:
        raise source.error("hold slices of one page", f"{first.shape[2]} pages", do="Name one file instead", path=slices[0])
    shape = (first.shape[0], first.shape[1], len(slices))
    check_budget(source, (first.channels, *shape), first.dtype.itemsize)
    return Header(shape, first.channels, first.affine, first.dtype, has_spacing=False, notes=first.notes)


def read_stack(slices: Sequence[Path], source: Source, *, channel: int | None) -> Volume:
    """Reads a folder of slices in the given order; all must have one size and type."""
    header = read_stack_header(slices, source, channel=channel)
    array = np.empty((header.channels, *header.shape), dtype=header.dtype)
    for number, path in enumerate(slices):
        with path.open("rb") as file:
            one = read(file, Source(path, source.subject, source.modality), channel=channel).array
        if one.shape != (*array.shape[:3], 1) or one.dtype != array.dtype:
            got = f"{one.shape[:3]} {one.dtype} in {path.name}, {array.shape[:3]} {array.dtype} in {slices[0].name}"
            raise source.error("hold slices of one size and type", got, do="Remove or convert the odd slice")
        array[..., number] = one[..., 0]
    return Volume(array, header, _geometry("stack", header))


def write(array: Array, geometry: Geometry, path: Path) -> Path:
    """Writes an (X, Y, Z) array as `<path>.png`, or as `<path>.tif` for stacks and for fractions. Upright: no EXIF rotation."""
    pages = [Image.fromarray(np.ascontiguousarray(array[..., z].T)) for z in range(array.shape[2])]
    as_png = geometry.format == "picture" and array.dtype.kind != "f"
    target = path.with_name(path.name + (".png" if as_png else ".tif"))
    with replacing(target) as file:
        if as_png:
            pages[0].save(file, format="PNG")
        else:
            pages[0].save(file, format="TIFF", save_all=True, append_images=pages[1:], compression="tiff_adobe_deflate")
    return target
