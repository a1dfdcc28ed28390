"""Whole-slide images: TIFF files of tiles at several resolutions, of which only the tiles that are asked for are decoded.

Read are Aperio's SVS, pyramidal and OME-TIFF (levels as pages or as sub-pages), tiles or strips of 8-bit grey or RGB, stored
plainly or by JPEG, JPEG 2000, deflate, LZW or PackBits. A picture (PNG, JPEG, TIFF of one page) is a slide of one level. Needs
the extra `slides` for TIFF. A tile that is cut, missing or damaged is an error, never black. JPEG has no checksum: what it
decodes wrongly without noticing nobody can see.

Axis letters: C channels, X columns, Y rows.
"""

from __future__ import annotations

import importlib.util
import os
import re
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from comodal.data.formats_nifti import COPY_AGAIN
from comodal.data.formats_picture import TIFF_MAGICS
from comodal.data.geometry import Source, check_budget
from comodal.data.reading import read_volume
from comodal.errors import ConfigError, DataError, message

Pixels = npt.NDArray[np.uint8]

MAX_PAGES = 1000
MAX_SEGMENT = 64 * 1024**2  # bytes of one decoded tile or strip
KEPT = 64 * 1024**2  # bytes of decoded tiles that are remembered: tissue tiles in one row share them
FINEST, COARSEST = 0.05, 20.0  # micrometres per pixel; beyond, a number is a printer's resolution (72 dpi) and no slide's
# Compressions by their TIFF numbers; nothing else is decoded.
_PLAIN, _LZW, _PACKBITS = 1, 5, 32773
_DEFLATE = (8, 32946)
_JPEG = 7
_JPEG2000 = (33003, 33005, 34712)
_KNOWN = (_PLAIN, _LZW, _PACKBITS, *_DEFLATE, _JPEG, *_JPEG2000)
_GREY, _RGB, _YCBCR = 1, 2, 6
_INCHES, _CENTIMETRES = 2, 3
_OME_UNITS = {"nm": 1e-3, "µm": 1.0, "um": 1.0, "mm": 1e3, "cm": 1e4}


@dataclass(frozen=True)
class Level:
    """One resolution of a slide. downsample: pixels of the finest level along one of its own."""

    width: int
    height: int
    downsample: float


@dataclass(frozen=True, eq=False)
class Slide:
    """An open slide.

    Attributes:
        path: Its file.
        levels: The finest first.
        channels: 1 grey or 3 RGB.
        microns: Micrometres per pixel of the finest level; None where the file does not say.
        magnification: Of the objective, None where the file does not say.
        warnings: What its header lacks, one sentence each.
        source: For error texts.
        decode: Called as decode(level, (x, y), (width, height)); `read_region` checks before.
    """

    path: Path
    levels: tuple[Level, ...]
    channels: int
    microns: float | None
    magnification: float | None
    warnings: tuple[str, ...]
    source: Source
    decode: Callable[[int, tuple[int, int], tuple[int, int]], Pixels]

    def read_region(self, level: int, *, x: int, y: int, width: int, height: int) -> Pixels:
        """A rectangle of a level; only the tiles that it touches are decoded.

        Args:
            level: 0 is the finest.
            x: First column, in pixels of this level.
            y: First row.
            width: Columns.
            height: Rows.

        Returns:
            (C, X, Y) uint8.

        Raises:
            DataError: It reaches beyond the level, takes more than the budget, or a tile is damaged or missing.
        """
        size = self.levels[level]
        if x < 0 or y < 0 or x + width > size.width or y + height > size.height:
            rule = f"be asked for regions inside level {level} of {size.width} x {size.height} pixels"
            raise self.source.error(rule, f"{width} x {height} at ({x}, {y})", do="Ask for a region inside")
        check_budget(self.source, (self.channels, width, height), 1)
        return self.decode(level, (x, y), (width, height))


def check_slides_installed(owner: str) -> None:
    """Refuses slides where tifffile and imagecodecs, an optional part of comodal, are not installed.

    Args:
        owner: For the error text: who asks for them.

    Raises:
        ConfigError: With the command that installs them.
    """
    for name in ("tifffile", "imagecodecs"):
        if importlib.util.find_spec(name) is None:
            do = "Type: pip install 'comodal[slides]'"
            raise ConfigError(message(owner, f"have {name} for whole-slide TIFF files", "none installed", do=do))


@contextmanager
def open_slide(path: Path, *, subject: str = "", modality: str = "") -> Iterator[Slide]:
    """Opens a slide or a picture; of a TIFF only the headers are read.

    Args:
        path: The file.
        subject: For the error text.
        modality: For the error text.

    Raises:
        DataError: No such file, not a picture, or a TIFF that is no slide: a stack, 16 bits, an unknown compression, tiles
            beyond the end of the file.
        ConfigError: It is a TIFF, and the extra `slides` is not installed.
    """
    source = Source(Path(path), subject, modality)
    try:
        with source.path.open("rb") as file:
            head = file.read(4)
    except OSError as error:
        raise source.error("be readable", error.strerror or str(error), do="Correct the path") from None
    if head not in TIFF_MAGICS:
        yield _picture(source)
        return
    check_slides_installed(f"slide {source.path.name}")
    import tifffile

    try:
        file_ = tifffile.TiffFile(source.path)
    except Exception as error:  # noqa: BLE001  the parser raises many kinds on hostile bytes
        raise _broken(source, error) from None
    with file_:
        yield _slide(file_, source)


def _broken(source: Source, error: Exception) -> DataError:
    return source.error("be a complete TIFF slide", (str(error) or type(error).__name__).splitlines()[0][:200], do=COPY_AGAIN)


def _picture(source: Source) -> Slide:
    """A picture as a slide of one level."""
    array = read_volume(source.path, subject=source.subject, modality=source.modality).array
    if array.dtype != np.uint8 or array.shape[3] != 1:
        got = f"{array.shape[3]} pages of {array.dtype}"
        raise source.error("be one picture of 8 bits", got, do="Save it as 8-bit PNG, or as a pyramidal TIFF")
    pixels = array[..., 0]

    def decode(_: int, start: tuple[int, int], size: tuple[int, int]) -> Pixels:
        return pixels[:, start[0] : start[0] + size[0], start[1] : start[1] + size[1]]

    level = Level(pixels.shape[1], pixels.shape[2], 1.0)
    return Slide(source.path, (level,), pixels.shape[0], None, None, (_no_scale(),), source, decode)


def _no_scale() -> str:
    return "no magnification: the file says neither micrometres per pixel nor that of the objective"


def _slide(file: Any, source: Source) -> Slide:
    try:
        pages = _levels(file, source)
        text, resolution = str(pages[0].description or ""), _resolution(pages[0])
    except DataError:
        raise
    except Exception as error:  # noqa: BLE001  as above
        raise _broken(source, error) from None
    microns, magnification = _scale(text, resolution)
    warnings = () if microns or magnification else (_no_scale(),)
    if microns is None and magnification is not None:
        microns = 10 / magnification
        warnings = (f"micrometres per pixel taken as {microns:g}, from a magnification of {magnification:g}",)
    width = pages[0].imagewidth
    levels = tuple(Level(page.imagewidth, page.imagelength, width / page.imagewidth) for page in pages)
    channels = 1 if pages[0].samplesperpixel == 1 else 3
    decode = _Tiles(file, pages, source=source, channels=channels)
    return Slide(source.path, levels, channels, microns, magnification, warnings, source, decode)


def _levels(file: Any, source: Source) -> list[Any]:
    """The pages that show the slide, the finest first. Labels and photographs of the glass have another shape, or no tiles."""
    pages: list[Any] = []
    for page in file.pages:
        pages += [page, *(page.pages or ())]
        if len(pages) > MAX_PAGES:
            raise source.error(f"have at most {MAX_PAGES} pages", "more", do="Save the slide again")
    if not pages:
        raise source.error("be a complete TIFF slide", "no page", do=COPY_AGAIN)
    base = max(pages, key=lambda page: page.imagewidth * page.imagelength)
    found: list[Any] = []
    for page in sorted(pages, key=lambda page: -page.imagewidth):
        height = base.imagelength * page.imagewidth / base.imagewidth
        alike = (page.samplesperpixel, page.is_tiled) == (base.samplesperpixel, base.is_tiled)
        if not alike or abs(page.imagelength - height) > max(2, 0.02 * height):
            continue
        if found and page.imagewidth == found[-1].imagewidth:
            do = "Split it, or make it an image (kind: image) if it is a stack"
            raise source.error("have one page of each size", "several: a stack and no slide", do=do)
        _check_page(page, source)
        found.append(page)
    return found


def _check_page(page: Any, source: Source) -> None:
    """Refuses what is not decoded here, before a pixel is read."""
    do = "Save the slide as 8-bit RGB in JPEG tiles"
    if page.dtype != np.uint8 or page.samplesperpixel not in (1, 3, 4) or page.imagedepth != 1:
        raise source.error("be 8-bit grey or RGB", f"{page.samplesperpixel} channels of {page.dtype}", do=do)
    if page.photometric not in (_GREY, _RGB, _YCBCR) or (page.samplesperpixel > 1 and page.planarconfig != 1):
        raise source.error("be grey or RGB, its channels interleaved", f"photometric {int(page.photometric)}", do=do)
    if page.compression not in _KNOWN:
        raise source.error("be stored plainly, by JPEG, JPEG 2000, deflate or LZW", f"compression {page.compression}", do=do)
    rows, columns = _segment(page)
    if min(rows, columns) < 1 or rows * columns * page.samplesperpixel > MAX_SEGMENT:
        raise source.error(f"have tiles of at most {MAX_SEGMENT // 1024**2} MiB", f"{columns} x {rows} pixels", do=do)
    count = -(-page.imagelength // rows) * -(-page.imagewidth // columns)
    offsets, sizes = np.array(page.dataoffsets, dtype=object), np.array(page.databytecounts, dtype=object)
    if len(offsets) != count or len(sizes) != count:
        raise source.error(
            f"list {count} tiles of a page of {page.imagewidth} x {page.imagelength}", len(offsets), do=COPY_AGAIN
        )
    if ((offsets + sizes) > os.path.getsize(source.path)).any():
        raise source.error("be a complete TIFF slide", "one that ends early", do=COPY_AGAIN)


def _segment(page: Any) -> tuple[int, int]:
    """Rows and columns of a tile, or of a strip."""
    if page.is_tiled:
        return int(page.tilelength), int(page.tilewidth)
    return min(int(page.rowsperstrip), int(page.imagelength)), int(page.imagewidth)


def _resolution(page: Any) -> float | None:
    """Micrometres per pixel of the resolution tags; None where there are none, or of no known unit."""
    tag, unit = page.tags.get("XResolution"), page.tags.get("ResolutionUnit")
    per = {_INCHES: 25_400.0, _CENTIMETRES: 10_000.0}.get(2 if unit is None else int(unit.value))
    if tag is None or per is None:
        return None
    above, below = (int(n) for n in tag.value)
    return per * below / above if above > 0 and below > 0 else None


def _scale(text: str, resolution: float | None) -> tuple[float | None, float | None]:
    """(micrometres per pixel, magnification), from the description of the scanner before the tags, which programs invent."""
    microns: list[float] = []
    if match := re.search(r"\bMPP\s*=\s*([0-9.]+)", text):
        microns.append(_float(match[1]))
    pixels = re.search(r"<(?:\w+:)?Pixels\b[^>]*>", text)  # a pattern and no parser: entities in a description are not expanded
    if pixels and (match := re.search(r'\bPhysicalSizeX="([0-9.eE+-]+)"', pixels[0])):
        unit = re.search(r'\bPhysicalSizeXUnit="([^"]*)"', pixels[0])
        microns.append(_float(match[1]) * _OME_UNITS.get(unit[1] if unit else "µm", 0.0))
    microns += [] if resolution is None else [resolution]
    power = re.search(r"\bAppMag\s*=\s*([0-9.]+)", text) or re.search(r'\bNominalMagnification="([0-9.]+)"', text)
    magnification = _float(power[1]) if power else 0.0
    likely = next((value for value in microns if FINEST <= value <= COARSEST), None)
    return likely, magnification if 0.5 <= magnification <= 200 else None


def _float(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return 0.0


class _Tiles:
    """Decodes regions of the levels of a TIFF, and remembers the latest tiles."""

    def __init__(self, file: Any, pages: list[Any], *, source: Source, channels: int) -> None:
        self.file, self.pages, self.source, self.channels = file, pages, source, channels
        self.kept: OrderedDict[tuple[int, int], Pixels] = OrderedDict()
        self.bytes = 0

    def __call__(self, level: int, start: tuple[int, int], size: tuple[int, int]) -> Pixels:
        (x, y), (width, height) = start, size
        rows, columns = _segment(self.pages[level])
        across = -(-self.pages[level].imagewidth // columns)
        out = np.empty((height, width, self.channels), dtype=np.uint8)  # every pixel of it is in a tile, or there is an error
        for row in range(y // rows, -(-(y + height) // rows)):
            for column in range(x // columns, -(-(x + width) // columns)):
                tile = self._tile(level, row * across + column)
                top, left = row * rows, column * columns
                y0, y1 = max(y, top), min(y + height, top + rows)
                x0, x1 = max(x, left), min(x + width, left + columns)
                out[y0 - y : y1 - y, x0 - x : x1 - x] = tile[y0 - top : y1 - top, x0 - left : x1 - left]
        return np.ascontiguousarray(out.transpose(2, 1, 0))

    def _tile(self, level: int, index: int) -> Pixels:
        """(rows, columns, C) uint8 of one tile or strip."""
        key = (level, index)
        if key not in self.kept:
            tile = self._decoded(self.pages[level], index)
            self.kept[key] = tile
            self.bytes += tile.nbytes
            while self.bytes > KEPT and len(self.kept) > 1:
                self.bytes -= self.kept.popitem(last=False)[1].nbytes
        self.kept.move_to_end(key)
        return self.kept[key]

    def _decoded(self, page: Any, index: int) -> Pixels:
        rows, columns = _segment(page)
        place = f"tile {index} of the level of {page.imagewidth} x {page.imagelength} pixels"
        size, samples = int(page.databytecounts[index]), int(page.samplesperpixel)
        if size == 0:
            raise self.source.error("hold every tile", f"no {place}", do=COPY_AGAIN)
        if size > 2 * rows * columns * samples + 65_536:
            raise self.source.error("have tiles no larger than their pixels", f"{size} bytes in {place}", do=COPY_AGAIN)
        self.file.filehandle.seek(int(page.dataoffsets[index]))
        data = self.file.filehandle.read(size)
        do, rule = COPY_AGAIN, "hold undamaged tiles"
        fault = _fault(data, page, rows=rows, columns=columns)
        if fault:
            raise self.source.error(rule, f"{fault} in {place}", do=do)
        try:
            tables = {} if page.jpegtables is None else {"jpegtables": page.jpegtables}
            array = np.asarray(page.decode(data, index, **tables)[0])
        except Exception as error:  # noqa: BLE001  the decoders raise many kinds on damaged bytes
            raise self.source.error(rule, f"{str(error).splitlines()[0][:120]} in {place}", do=do) from None
        # the last strip is as long as what is left of the page, a tile is always whole
        height = rows if page.is_tiled else min(rows, page.imagelength - index * rows)
        if array.dtype != np.uint8 or array.shape != (1, height, columns, samples):
            raise self.source.error(rule, f"an array {array.shape} of {array.dtype} in {place}", do=do)
        return array[0, ..., : self.channels]


def _fault(data: bytes, page: Any, *, rows: int, columns: int) -> str:
    """What is wrong with a tile that its decoder would pass over, or would first take memory for; "" if nothing."""
    if page.compression == _JPEG:
        if not data.rstrip(b"\0").endswith(b"\xff\xd9"):
            return "a JPEG that ends early"
        sides = _jpeg_sides(data)
        if sides is not None and (sides[0] > columns or sides[1] > rows):
            return f"a JPEG of {sides[0]} x {sides[1]} pixels"
    elif page.compression in _DEFLATE:
        import zlib

        most = rows * columns * int(page.samplesperpixel)
        try:
            if len(zlib.decompressobj().decompress(data, most + 1)) > most:
                return "more pixels than fit"
        except zlib.error as error:
            return str(error)
    elif page.compression in _JPEG2000 and data.startswith(b"\xff\x4f\xff\x51"):
        if not data.rstrip(b"\0").endswith(b"\xff\xd9"):
            return "a JPEG 2000 stream that ends early"
        width, height = int.from_bytes(data[8:12], "big"), int.from_bytes(data[12:16], "big")
        if width > columns or height > rows:
            return f"a JPEG 2000 stream of {width} x {height} pixels"
    return ""


def _jpeg_sides(data: bytes) -> tuple[int, int] | None:
    """Width and height that a JPEG claims; None where it does not come to say."""
    at = 2
    while at + 9 <= len(data) and data[at] == 0xFF:
        kind, length = data[at + 1], int.from_bytes(data[at + 2 : at + 4], "big")
        if 0xC0 <= kind <= 0xCF and kind not in (0xC4, 0xC8, 0xCC):
            return int.from_bytes(data[at + 7 : at + 9], "big"), int.from_bytes(data[at + 5 : at + 7], "big")
        at += 2 + max(2, length)
    return None
