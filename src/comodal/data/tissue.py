"""Which parts of a slide show tissue, and those parts as tiles of one size.

Glass is grey and stained tissue is coloured: a threshold on the saturation of a small picture of the slide parts them (Otsu,
1979). Nothing is random, and tiles come in raster order, one at a time.

Axis letters: C channels, X columns, Y rows.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image

from comodal.data.slides import Pixels, Slide

SHARE = 0.5  # of a tile that must be tissue
PARTS = 16  # pixels of the small picture along the side of a tile
DARKEST = 20  # below, as in the black border of a scan, colour is noise
# Otsu parts whatever it gets into two: noise of an empty slide, or pale from dark tissue where all is tissue.
LOWEST, HIGHEST = 8, 40
SLACK = 1.1  # a scanner's "0.5" may be 0.504


@dataclass(frozen=True)
class TileGrid:
    """Where the tissue tiles of a slide lie.

    Attributes:
        corners: (x, y) of each, in pixels of `level`, in raster order.
        level: At which they are read.
        side: Of one in pixels of `level`; it is brought to `tile`.
        tile: Side of the result in pixels.
    """

    corners: tuple[tuple[int, int], ...]
    level: int
    side: int
    tile: int


def tissue_tiles(slide: Slide, tile: int, microns: float | None = None) -> Iterator[Pixels]:
    """The tiles that are tissue by at least one half.

    Args:
        slide: Open, of any number of levels.
        tile: Pixels along the side of a tile.
        microns: Micrometres per pixel of the tiles; None takes the finest level as it is.

    Yields:
        (C, X, Y) uint8, X = Y = tile. Tiles do not overlap, and those that would reach beyond the slide are left out.

    Raises:
        DataError: The slide does not say its micrometres per pixel and microns are asked for, or it is coarser than that.
    """
    grid = tissue_grid(slide, tile, microns)
    for x, y in grid.corners:
        region = slide.read_region(grid.level, x=x, y=y, width=grid.side, height=grid.side)
        yield region if grid.side == tile else _resized(region, tile)


def tissue_grid(slide: Slide, tile: int, microns: float | None = None) -> TileGrid:
    """Where `tissue_tiles` lie; only a small picture of the slide is decoded."""
    factor = _factor(slide, microns)
    level = max(k for k, one in enumerate(slide.levels) if k == 0 or one.downsample <= factor * 1.01)
    side = max(1, round(tile * factor / slide.levels[level].downsample))
    step = side * slide.levels[level].downsample  # in pixels of the finest level
    mask, scale = tissue_mask(slide, step / PARTS)
    sums = np.pad(mask.cumsum(axis=0).cumsum(axis=1), ((1, 0), (1, 0)))
    size = slide.levels[level]
    corners = []
    for row in range(size.height // side):
        top, bottom = _span(row, step / scale, mask.shape[1])
        for column in range(size.width // side):
            left, right = _span(column, step / scale, mask.shape[0])
            inside = sums[right, bottom] - sums[left, bottom] - sums[right, top] + sums[left, top]
            if inside >= SHARE * (right - left) * (bottom - top):
                corners.append((column * side, row * side))
    return TileGrid(tuple(corners), level, side, tile)


def _factor(slide: Slide, microns: float | None) -> float:
    """Pixels of the finest level along one of a tile."""
    if microns is None:
        return 1.0
    if slide.microns is None:
        do = "Leave microns out of the modality in cohort.yaml, or state the resolution in the file"
        raise slide.source.error(f"say its micrometres per pixel to be read at {microns:g}", "nothing", do=do)
    if slide.microns > microns * SLACK:
        do = f"Set microns of the modality in cohort.yaml to at least {slide.microns:g}"
        raise slide.source.error(f"have at most {microns:g} micrometres per pixel", f"{slide.microns:g}", do=do)
    return max(1.0, microns / slide.microns)


def _span(number: int, step: float, most: int) -> tuple[int, int]:
    """Pixels of the small picture that tile `number` covers, at least one."""
    low = min(int(number * step), most - 1)
    return low, max(low + 1, min(most, round((number + 1) * step)))


def tissue_mask(slide: Slide, coarseness: float) -> tuple[npt.NDArray[np.bool_], float]:
    """A small picture of where there is tissue.

    Args:
        slide: Open.
        coarseness: Pixels of the finest level that one pixel of the result may cover.

    Returns:
        (X, Y) bool, and the pixels of the finest level along one of its own.
    """
    small, scale = thumbnail(slide, coarseness)
    colour = _saturation(small)
    return colour > min(max(otsu(colour), LOWEST), HIGHEST), scale


def thumbnail(slide: Slide, coarseness: float) -> tuple[Pixels, float]:
    """The slide at low resolution, from the coarsest level that is fine enough; a band of it is in memory at a time.

    Args:
        slide: Open.
        coarseness: Pixels of the finest level that one pixel of the result may cover.

    Returns:
        (C, X, Y) uint8, and the pixels of the finest level along one of its own.
    """
    level = max(k for k, one in enumerate(slide.levels) if k == 0 or one.downsample <= coarseness)
    size = slide.levels[level]
    pool = max(1, min(int(coarseness / size.downsample), size.width, size.height))
    columns, rows = size.width // pool, size.height // pool
    out = np.empty((slide.channels, columns, rows), dtype=np.uint8)
    band = max(1, 1024 // pool)  # rows of the result
    for first in range(0, rows, band):
        count = min(band, rows - first)
        part = slide.read_region(level, x=0, y=first * pool, width=columns * pool, height=count * pool)
        cells = part.reshape(slide.channels, columns, pool, count, pool)
        out[:, :, first : first + count] = cells.mean(axis=(2, 4), dtype=np.float32).round().astype(np.uint8)
    return out, pool * size.downsample


def _saturation(picture: Pixels) -> Pixels:
    """(X, Y) uint8: saturation of colours (that of HSV, 255 full); of grey pictures how dark they are."""
    if picture.shape[0] == 1:
        return np.asarray(255 - picture[0], dtype=np.uint8)
    high, low = picture.max(axis=0).astype(np.int32), picture.min(axis=0).astype(np.int32)
    saturation = 255 * (high - low) // np.maximum(high, 1)
    return np.where(high < DARKEST, 0, saturation).astype(np.uint8)


def otsu(values: Pixels) -> int:
    """The value that parts bytes into two groups of the largest variance between them; those above it are the upper group.

    Args:
        values: uint8 of any shape.

    >>> otsu(np.array([10, 10, 11, 200, 201], dtype=np.uint8))
    11
    """
    counts = np.bincount(values.ravel(), minlength=256).astype(np.float64)
    below, weighted = counts.cumsum(), (counts * np.arange(256)).cumsum()
    above = below[-1] - below
    apart = weighted / np.maximum(below, 1) - (weighted[-1] - weighted) / np.maximum(above, 1)
    return int(np.argmax(below * above * apart**2))


def _resized(region: Pixels, side: int) -> Pixels:
    """Another number of pixels over the same field of view; Pillow averages where there become fewer."""
    planes = [np.asarray(Image.fromarray(plane).resize((side, side), Image.Resampling.BILINEAR)) for plane in region]
    return np.stack(planes)
