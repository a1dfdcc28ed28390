"""Slides: what is decoded and what is refused, and which parts of them are tissue."""

from __future__ import annotations

import importlib.util
import struct
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import tifffile
from PIL import Image

from comodal.data import slides, tissue
from comodal.data.reading import read_header, read_volume
from comodal.data.slides import open_slide
from comodal.data.tissue import otsu, tissue_grid, tissue_tiles
from comodal.errors import ConfigError, DataError

Picture = npt.NDArray[np.uint8]
APERIO = "Aperio Image Library\n500x340 |AppMag = 20|MPP = 0.5"


def stained(height: int = 340, width: int = 500, seed: int = 0) -> tuple[Picture, npt.NDArray[np.bool_]]:
    """(rows, columns, 3): pale glass with a coloured ellipse on it; and where the ellipse is."""
    random = np.random.default_rng(seed)
    picture = np.full((height, width, 3), 238, dtype=np.uint8) + random.integers(0, 5, (height, width, 1), dtype=np.uint8)
    y, x = np.mgrid[:height, :width]
    inside = ((y - height / 2) / (0.35 * height)) ** 2 + ((x - width * 0.4) / (0.3 * width)) ** 2 < 1
    noise = random.integers(-25, 26, (int(inside.sum()), 1))
    picture[inside] = np.array([185, 95, 165]) + noise
    return picture, inside


def smaller(picture: Picture, by: int) -> Picture:
    height, width = (n // by for n in picture.shape[:2])
    cells = picture[: height * by, : width * by].reshape(height, by, width, by, 3)
    return np.asarray(cells.mean(axis=(1, 3)).round(), dtype=np.uint8)


def pyramid(path: Path, picture: Picture, by: tuple[int, ...] = (1, 4), text: str | None = APERIO, **how: Any) -> Path:
    """A TIFF with one page for each level, as scanners and converters write it."""
    how = {"tile": (64, 64), "compression": "deflate", "photometric": "rgb", **how}
    with tifffile.TiffWriter(path) as file:
        for factor in by:
            said = text if factor == 1 else None
            file.write(smaller(picture, factor), subfiletype=int(factor > 1), description=said, metadata=None, **how)
    return path


def expected(picture: Picture, x: int, y: int, width: int, height: int) -> Picture:
    return picture[y : y + height, x : x + width].transpose(2, 1, 0)


# ----------------------------------------------------------------------------------------------------------------- headers


def test_levels_and_scale_of_an_aperio_slide(tmp_path: Path) -> None:
    picture, _ = stained()
    with open_slide(pyramid(tmp_path / "a.svs", picture, (1, 2, 4))) as slide:
        assert [(one.width, one.height, one.downsample) for one in slide.levels] == [(500, 340, 1), (250, 170, 2), (125, 85, 4)]
        assert (slide.microns, slide.magnification, slide.channels, slide.warnings) == (0.5, 20.0, 3, ())


def test_labels_and_thumbnails_are_no_levels(tmp_path: Path) -> None:
    picture, _ = stained()
    with tifffile.TiffWriter(tmp_path / "a.svs") as file:
        file.write(picture, tile=(64, 64), compression="jpeg", photometric="rgb", description=APERIO, metadata=None)
        file.write(smaller(picture, 5), rowsperstrip=16, metadata=None)  # the thumbnail, in strips
        file.write(smaller(picture, 2), tile=(64, 64), compression="jpeg", photometric="rgb", metadata=None)
        file.write(picture[:100, :100], tile=(64, 64), photometric="rgb", metadata=None)  # the label, of another shape
    with open_slide(tmp_path / "a.svs") as slide:
        assert [one.width for one in slide.levels] == [500, 250]


def test_levels_in_sub_pages_and_scale_of_ome(tmp_path: Path) -> None:
    picture, _ = stained()
    with tifffile.TiffWriter(tmp_path / "a.ome.tif", ome=True) as file:
        meta = {"axes": "YXS", "PhysicalSizeX": 250.0, "PhysicalSizeXUnit": "nm"}
        file.write(picture, subifds=1, tile=(64, 64), compression="deflate", photometric="rgb", metadata=meta)
        file.write(smaller(picture, 2), subfiletype=1, tile=(64, 64), compression="deflate", photometric="rgb")
    with open_slide(tmp_path / "a.ome.tif") as slide:
        assert [one.width for one in slide.levels] == [500, 250] and slide.microns == 0.25
        region = slide.read_region(1, x=3, y=5, width=40, height=30)
        assert np.array_equal(region, expected(smaller(picture, 2), 3, 5, 40, 30))


@pytest.mark.parametrize(
    ("resolution", "unit", "microns"),
    [((20_000, 20_000), "CENTIMETER", 0.5), ((101_600, 101_600), "INCH", 0.25), ((72, 72), "INCH", None), (None, None, None)],
)
def test_scale_of_the_resolution_tags(tmp_path: Path, resolution: Any, unit: Any, microns: float | None) -> None:
    how = {} if resolution is None else {"resolution": resolution, "resolutionunit": unit}
    with open_slide(pyramid(tmp_path / "a.tif", stained()[0], text=None, **how)) as slide:
        assert slide.microns == microns
        missing = "no magnification: the file says neither micrometres per pixel nor that of the objective"
        assert slide.warnings == (() if microns else (missing,))


def test_a_magnification_alone_is_an_estimate_and_says_so(tmp_path: Path) -> None:
    with open_slide(pyramid(tmp_path / "a.svs", stained()[0], text="Aperio |AppMag = 40|")) as slide:
        assert slide.microns == 0.25
        assert slide.warnings == ("micrometres per pixel taken as 0.25, from a magnification of 40",)


def test_what_is_no_slide_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    picture, _ = stained()

    def refused(path: Path, text: str) -> None:
        with pytest.raises(DataError, match=text), open_slide(path, subject="p1", modality="pathology"):
            pass

    deep = picture.astype(np.uint16)
    tifffile.imwrite(tmp_path / "deep.tif", deep, tile=(64, 64), photometric="rgb")
    refused(tmp_path / "deep.tif", r"must be 8-bit grey or RGB; got 3 channels of uint16 \[subject p1, modality pathology")
    tifffile.imwrite(tmp_path / "stack.tif", np.stack([picture, picture]), tile=(64, 64), photometric="rgb")
    refused(tmp_path / "stack.tif", "must have one page of each size; got several: a stack and no slide")
    tifffile.imwrite(tmp_path / "zstd.tif", picture, tile=(64, 64), photometric="rgb", compression="zstd")
    refused(tmp_path / "zstd.tif", "must be stored plainly, by JPEG, .*; got compression")
    planes = picture.transpose(2, 0, 1)
    tifffile.imwrite(tmp_path / "planes.tif", planes, tile=(64, 64), photometric="rgb", planarconfig="separate")
    refused(tmp_path / "planes.tif", "its channels interleaved")
    (tmp_path / "empty.tif").write_bytes(b"II*\0" + b"\xff" * 20)
    refused(tmp_path / "empty.tif", "must be a complete TIFF slide")
    refused(tmp_path / "none.tif", "must be readable; got No such file")
    Image.fromarray(deep[..., 0]).save(tmp_path / "deep.png")
    refused(tmp_path / "deep.png", "must be one picture of 8 bits; got 1 pages of uint16")
    monkeypatch.setattr(slides, "MAX_SEGMENT", 64 * 64 * 3 - 1)
    refused(pyramid(tmp_path / "wide.tif", picture), "must have tiles of at most 0 MiB; got 64 x 64 pixels")


def test_without_the_extra_the_command_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = pyramid(tmp_path / "a.tif", stained()[0])
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *a: None if name == "imagecodecs" else find(name, *a))
    text = (
        r"slide a.tif must have imagecodecs for whole-slide TIFF files; got none installed. .*pip install 'comodal\[slides\]'"
    )
    with pytest.raises(ConfigError, match=text), open_slide(path):
        pass


# ----------------------------------------------------------------------------------------------------------------- regions


@pytest.mark.parametrize("compression", [None, "deflate", "lzw", "packbits", "jpeg2000"])
@pytest.mark.parametrize("layout", [{"tile": (64, 48)}, {"rowsperstrip": 19, "tile": None}])
def test_regions_are_the_pixels_of_the_file(tmp_path: Path, compression: str | None, layout: dict[str, Any]) -> None:
    picture, _ = stained(150, 210)
    how: dict[str, Any] = {"compressionargs": {"reversible": True}} if compression == "jpeg2000" else {}
    path = pyramid(tmp_path / "a.tif", picture, (1,), compression=compression, **layout, **how)
    with open_slide(path) as slide:
        for x, y, width, height in ((0, 0, 210, 150), (47, 63, 2, 2), (200, 140, 10, 10), (13, 0, 100, 150)):
            region = slide.read_region(0, x=x, y=y, width=width, height=height)
            assert np.array_equal(region, expected(picture, x, y, width, height)), (x, y)


def test_jpeg_tiles_come_back_in_colour(tmp_path: Path) -> None:
    y, x = np.mgrid[:128, :192]
    picture = np.stack([80 + x // 2, 60 + y, 200 - x // 2], axis=-1).astype(np.uint8)  # smooth, so that JPEG keeps it
    path = pyramid(tmp_path / "a.svs", picture, (1,), compression="jpeg", compressionargs={"level": 95})
    with open_slide(path) as slide:
        region = slide.read_region(0, x=30, y=30, width=100, height=70)
    assert np.abs(region.astype(int) - expected(picture, 30, 30, 100, 70)).max() <= 6


def test_a_grey_slide_and_a_plain_picture(tmp_path: Path) -> None:
    picture, _ = stained(100, 130)
    tifffile.imwrite(tmp_path / "grey.tif", picture[..., 0], tile=(64, 64), photometric="minisblack")
    with open_slide(tmp_path / "grey.tif") as slide:
        assert slide.channels == 1
        assert np.array_equal(slide.read_region(0, x=5, y=6, width=70, height=80)[0], picture[6:86, 5:75, 0].T)
    Image.fromarray(picture).save(tmp_path / "a.png")
    with open_slide(tmp_path / "a.png") as slide:
        assert np.array_equal(slide.read_region(0, x=5, y=6, width=70, height=80), expected(picture, 5, 6, 70, 80))
        assert len(slide.levels) == 1 and slide.microns is None and len(slide.warnings) == 1


def test_regions_beyond_the_edge_or_the_budget_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with open_slide(pyramid(tmp_path / "a.tif", stained()[0])) as slide:
        with pytest.raises(DataError, match=r"inside level 1 of 125 x 85 pixels; got 10 x 10 at \(120, 0\)"):
            slide.read_region(1, x=120, y=0, width=10, height=10)
        monkeypatch.setattr("comodal.data.geometry.BUDGET", 1000)
        with pytest.raises(DataError, match="must need at most"):
            slide.read_region(0, x=0, y=0, width=100, height=100)


def place_of(path: Path, index: int) -> tuple[int, int]:
    """Offset and length of a tile of the first page."""
    with tifffile.TiffFile(path) as file:
        page: Any = file.pages[0]
        return page.dataoffsets[index], page.databytecounts[index]


def length_tag(path: Path) -> tuple[int, int]:
    """Where the length of the first tile of the first page is written, and the bytes of each."""
    with tifffile.TiffFile(path) as file:
        tag: Any = file.pages[0].tags["TileByteCounts"]  # type: ignore[union-attr]
        return tag.valueoffset, 2 if tag.dtype == 3 else 4


@pytest.mark.parametrize("compression", ["jpeg", "deflate", "lzw", "packbits", None, "jpeg2000"])
def test_only_touched_tiles_are_decoded_and_a_cut_one_is_an_error(tmp_path: Path, compression: str | None) -> None:
    picture, _ = stained()
    path = pyramid(tmp_path / "a.tif", picture, (1,), compression=compression)
    at, width = length_tag(path)
    _, length = place_of(path, 0)
    data = bytearray(path.read_bytes())
    struct.pack_into("<H" if width == 2 else "<I", data, at, length // 2)  # the first tile ends early
    path.write_bytes(data)
    with open_slide(path) as slide:
        assert slide.read_region(0, x=64, y=0, width=100, height=60).shape == (3, 100, 60)
        with pytest.raises(DataError, match=r"must hold undamaged tiles; got .* in tile 0 of the level of 500 x 340 pixels"):
            slide.read_region(0, x=60, y=0, width=100, height=60)


def test_a_missing_tile_is_an_error_and_never_black(tmp_path: Path) -> None:
    path = pyramid(tmp_path / "a.tif", stained()[0], (1,), compression="jpeg")
    at, width = length_tag(path)
    data = bytearray(path.read_bytes())
    struct.pack_into("<H" if width == 2 else "<I", data, at, 0)
    path.write_bytes(data)
    with open_slide(path) as slide, pytest.raises(DataError, match="must hold every tile; got no tile 0"):
        slide.read_region(0, x=0, y=0, width=10, height=10)


@pytest.mark.parametrize("compression", ["deflate", "jpeg"])
def test_a_tile_that_claims_more_pixels_is_refused(tmp_path: Path, compression: str) -> None:
    big = pyramid(tmp_path / "big.tif", stained()[0], (1,), compression=compression, tile=(320, 320))
    offset, length = place_of(big, 0)
    tile = big.read_bytes()[offset : offset + length]
    small = pyramid(tmp_path / "small.tif", np.zeros((64, 64, 3), dtype=np.uint8), (1,), compression=compression)
    with tifffile.TiffFile(small) as file:
        tags: Any = file.pages[0].tags  # type: ignore[union-attr]
        offsets, counts = tags["TileOffsets"], tags["TileByteCounts"]
        forms = {3: "<H", 4: "<I"}
    data = bytearray(small.read_bytes())
    struct.pack_into(forms[int(offsets.dtype)], data, offsets.valueoffset, len(data))
    struct.pack_into(forms[int(counts.dtype)], data, counts.valueoffset, len(tile))
    small.write_bytes(bytes(data) + tile)
    with open_slide(small) as slide, pytest.raises(DataError, match=r"more pixels than fit|a JPEG of 320 x 320 pixels"):
        slide.read_region(0, x=0, y=0, width=64, height=64)


def test_a_file_that_was_cut_is_refused_when_it_is_opened(tmp_path: Path) -> None:
    picture, _ = stained()
    with tifffile.TiffWriter(tmp_path / "a.tif") as file:
        file.write(picture, tile=(64, 64), photometric="rgb", metadata=None)
    data = (tmp_path / "a.tif").read_bytes()
    (tmp_path / "a.tif").write_bytes(data[:-5000])
    with pytest.raises(DataError, match="must be a complete TIFF slide"), open_slide(tmp_path / "a.tif"):
        pass


def test_remembered_tiles_stay_within_their_share(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(slides, "KEPT", 3 * 64 * 64 * 3)
    picture, _ = stained()
    with open_slide(pyramid(tmp_path / "a.tif", picture, (1,))) as slide:
        assert np.array_equal(slide.read_region(0, x=0, y=0, width=500, height=340), expected(picture, 0, 0, 500, 340))
        decode: Any = slide.decode
        assert len(decode.kept) == 3 and decode.bytes == 3 * 64 * 64 * 3


# ------------------------------------------------------------------------------------------------------------------ tissue


def slow_tiles(inside: npt.NDArray[np.bool_], tile: int) -> list[tuple[int, int]]:
    """Tiles that are tissue by one half, from the truth at full resolution, and those too near to one half to call."""
    height, width = inside.shape
    share = {
        (x, y): inside[y : y + tile, x : x + tile].mean()
        for y in range(0, height - tile + 1, tile)
        for x in range(0, width - tile + 1, tile)
    }
    return [at for at, part in share.items() if part >= 0.5 and abs(part - 0.5) > 0.1]


def test_tissue_tiles_are_where_the_tissue_is(tmp_path: Path) -> None:
    picture, inside = stained(700, 900)
    with open_slide(pyramid(tmp_path / "a.svs", picture, (1, 2, 4), compression="jpeg")) as slide:
        grid = tissue_grid(slide, 32)
        assert grid.corners == tissue_grid(slide, 32).corners  # nothing is random
        assert (grid.level, grid.side) == (0, 32)
        assert list(grid.corners) == sorted(grid.corners, key=lambda at: (at[1], at[0]))
        sure = slow_tiles(inside, 32)
        glass = slow_tiles(~inside, 32)
        assert len(sure) > 80 and set(sure) <= set(grid.corners) and not set(glass) & set(grid.corners)
        tiles = list(tissue_tiles(slide, 32))
        x, y = grid.corners[7]
        assert len(tiles) == len(grid.corners)
        assert np.array_equal(tiles[7], slide.read_region(0, x=x, y=y, width=32, height=32))


def test_tiles_come_one_at_a_time(tmp_path: Path) -> None:
    picture, _ = stained()
    with open_slide(pyramid(tmp_path / "a.tif", picture, (1,))) as slide:
        decode: Any = slide.decode
        tiles = tissue_tiles(slide, 32)
        next(tiles)
        decode.kept.clear()
        decode.bytes = 0
        next(tiles)
        assert len(decode.kept) <= 2  # the second decodes what it touches, and no more


def test_microns_choose_the_level_and_the_side(tmp_path: Path) -> None:
    picture, inside = stained(700, 900)
    with open_slide(pyramid(tmp_path / "a.svs", picture, (1, 4))) as slide:  # 0.5 and 2 micrometres
        same, half, coarse = (tissue_grid(slide, 32, microns) for microns in (0.5, 1.0, 2.0))
        assert [(one.level, one.side) for one in (same, half, coarse)] == [(0, 32), (0, 64), (1, 32)]
        area = inside.sum() / 32**2
        for grid, ratio in ((same, 1), (half, 4), (coarse, 16)):
            assert len(grid.corners) == pytest.approx(area / ratio, rel=0.2, abs=2)
        tile = next(tissue_tiles(slide, 32, 1.0))
        x, y = half.corners[0]
        slow = expected(picture, x, y, 64, 64).reshape(3, 32, 2, 32, 2).mean(axis=(2, 4))
        assert tile.shape == (3, 32, 32) and np.abs(tile[:, 2:-2, 2:-2] - slow[:, 2:-2, 2:-2]).mean() < 6
        with pytest.raises(DataError, match=r"must have at most 0.25 micrometres per pixel; got 0.5 .*at least 0.5"):
            tissue_grid(slide, 32, 0.25)
    with (
        open_slide(pyramid(tmp_path / "b.tif", picture, text=None)) as slide,
        pytest.raises(DataError, match="must say its micrometres per pixel to be read at 1; got nothing"),
    ):
        tissue_grid(slide, 32, 1.0)


@pytest.mark.parametrize("kind", ["glass", "black", "tissue"])
def test_slides_of_one_kind_are_not_parted(tmp_path: Path, kind: str) -> None:
    random = np.random.default_rng(0)
    colour = {"glass": (240, 238, 241), "black": (0, 3, 1), "tissue": (180, 90, 160)}[kind]
    spread = 2 if kind != "tissue" else 40  # pale and dark tissue, which Otsu alone would part
    noise = random.integers(0, spread, (160, 160, 1)) * (1 if kind != "tissue" else np.array([1, 2, 1]))
    picture = np.clip(np.array(colour) + noise, 0, 255).astype(np.uint8)
    with open_slide(pyramid(tmp_path / "a.tif", picture, (1,))) as slide:
        assert len(tissue_grid(slide, 32).corners) == (25 if kind == "tissue" else 0)


def test_otsu_against_trying_every_threshold() -> None:
    random = np.random.default_rng(3)
    for low, high in ((20, 150), (5, 60), (100, 130)):
        values = np.concatenate([random.normal(low, 6, 700), random.normal(high, 9, 300)]).clip(0, 255).astype(np.uint8)

        def within(threshold: int, values: Picture = values) -> float:
            parts = (values[values <= threshold], values[values > threshold])
            return sum(part.var() * part.size if part.size else 0.0 for part in parts)

        assert within(otsu(values)) == pytest.approx(min(map(within, range(255))), rel=1e-9)


def test_the_small_picture_is_the_mean_of_its_pixels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    picture, _ = stained(90, 120)
    with open_slide(pyramid(tmp_path / "a.tif", picture, (1,))) as slide:
        small, scale = tissue.thumbnail(slide, 7.5)
        slow = picture[:84, :119].reshape(12, 7, 17, 7, 3).mean(axis=(1, 3)).transpose(2, 1, 0)
        assert scale == 7 and small.shape == (3, 17, 12) and np.abs(small - slow).max() <= 0.51


# ----------------------------------------------------------------------------------------------------- slides as plain images


def test_a_slide_that_is_read_as_an_image_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    picture, _ = stained()
    path = pyramid(tmp_path / "a.tif", picture)
    with pytest.raises(DataError, match=r"pages of one size and type.*make it a bag: in cohort.yaml kind: bag"):
        read_volume(path)
    monkeypatch.setattr("comodal.data.formats_picture.BUDGET", path.stat().st_size - 1)
    with pytest.raises(DataError, match=r"must be a picture of at most .* make it a bag"):
        read_header(path)
