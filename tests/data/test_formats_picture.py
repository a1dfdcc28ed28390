"""Pictures, TIFF files of several pages, and folders of slices."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from comodal.data.reading import read_header, read_volume, write_volume
from comodal.errors import DataError


def numbers(shape: tuple[int, ...] = (5, 6, 7), dtype: Any = np.int16) -> Any:
    return np.arange(np.prod(shape)).reshape(shape).astype(dtype)


def test_a_picture_has_columns_rows_and_no_spacing(tmp_path: Path) -> None:
    pixels = numbers((3, 5), np.uint8)  # 3 rows, 5 columns
    Image.fromarray(pixels).save(tmp_path / "a.png")
    volume = read_volume(tmp_path / "a.png")
    assert volume.array.shape == (1, 5, 3, 1)
    assert volume.array[0, 4, 1, 0] == pixels[1, 4]
    assert not volume.header.has_spacing
    written = write_volume((volume.array[0] > 7), volume.geometry, tmp_path / "mask")
    assert written.name == "mask.png"
    np.testing.assert_array_equal(np.asarray(Image.open(written)), pixels > 7)


@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_sixteen_bits_are_kept(tmp_path: Path, suffix: str) -> None:
    pixels = np.array([[0, 255, 256], [1000, 40_000, 65_535]], dtype=np.uint16)
    Image.fromarray(pixels).save(tmp_path / f"a.{suffix}")
    volume = read_volume(tmp_path / f"a.{suffix}")
    assert volume.array.dtype == read_header(tmp_path / f"a.{suffix}").dtype == np.uint16
    np.testing.assert_array_equal(volume.array[0, :, :, 0].T, pixels)
    written = write_volume(volume.array[0], volume.geometry, tmp_path / "out")
    np.testing.assert_array_equal(read_volume(written).array, volume.array)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", ["jpg", "tif"])
def test_exif_rotation_is_applied(tmp_path: Path, orientation: int, suffix: str) -> None:
    upright = np.zeros((16, 24), dtype=np.uint8)
    upright[:8, :16] = 255  # bright at the upper left, and longer than high: no rotation or flip looks the same
    upright[:8, :8] = 128
    turned = {
        1: upright,
        2: upright[:, ::-1],
        3: upright[::-1, ::-1],
        4: upright[::-1],
        5: upright.T,
        6: np.rot90(upright),
        7: upright[::-1, ::-1].T,
        8: np.rot90(upright, -1),
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / f"a.{suffix}"
    Image.fromarray(np.ascontiguousarray(turned)).save(path, exif=exif, quality=100)
    volume = read_volume(path)
    assert read_header(path).shape == volume.header.shape == (24, 16, 1)
    np.testing.assert_allclose(volume.array[0, :, :, 0].T.astype(int), upright.astype(int), atol=4)


def test_colour_modes(tmp_path: Path) -> None:
    rgb = np.random.default_rng(0).integers(0, 256, (4, 6, 3)).astype(np.uint8)
    alpha = np.dstack([rgb, np.full((4, 6), 9, dtype=np.uint8)])
    Image.fromarray(rgb).save(tmp_path / "rgb.png")
    Image.fromarray(alpha).save(tmp_path / "alpha.png")
    Image.fromarray(rgb).convert("CMYK").save(tmp_path / "cmyk.tif")
    Image.fromarray(rgb).quantize(256).save(tmp_path / "palette.png")
    Image.fromarray(rgb[..., 0] > 100).save(tmp_path / "bits.png")
    for name in ("rgb.png", "alpha.png", "cmyk.tif", "palette.png"):
        volume = read_volume(tmp_path / name)
        assert volume.array.shape == (3, 6, 4, 1)
        assert read_header(tmp_path / name).channels == 3
        if name != "palette.png":
            np.testing.assert_array_equal(volume.array[..., 0].transpose(2, 1, 0), rgb, err_msg=name)
    np.testing.assert_array_equal(read_volume(tmp_path / "bits.png").array[0, ..., 0].T, rgb[..., 0] > 100)
    for channel in range(3):
        one = read_volume(tmp_path / "rgb.png", channel=channel)
        np.testing.assert_array_equal(one.array[0, ..., 0].T, rgb[..., channel])
        assert one.header.channels == 1
    with pytest.raises(DataError, match="must have channel 3; got 3 channels"):
        read_volume(tmp_path / "rgb.png", channel=3)


@pytest.mark.parametrize("suffix", ["png", "jpg", "tif"])
@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_a_picture_that_was_cut_is_refused(tmp_path: Path, suffix: str, share: float) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (64, 64)).astype(np.uint8)
    options = {"compression": "tiff_adobe_deflate"} if suffix == "tif" else {}
    Image.fromarray(pixels).save(tmp_path / f"a.{suffix}", **options)
    data = (tmp_path / f"a.{suffix}").read_bytes()
    (tmp_path / "cut").write_bytes(data[: int(len(data) * share)])
    with pytest.raises(DataError, match=r"must be a complete P.*Copy or download the file again"):
        read_volume(tmp_path / "cut")


@pytest.mark.parametrize("compression", ["raw", "tiff_adobe_deflate"])
def test_a_stack_of_pages_never_comes_back_with_fewer(tmp_path: Path, compression: str) -> None:
    """The decoder alone returns the pages that are left."""
    pages = [Image.fromarray(numbers((6, 6), np.uint8) + np.uint8(k)) for k in range(4)]
    pages[0].save(tmp_path / "a.tif", save_all=True, append_images=pages[1:], compression=compression)
    data = (tmp_path / "a.tif").read_bytes()
    whole = read_volume(tmp_path / "a.tif").array
    assert whole.shape == (1, 6, 6, 4)
    for size in range(4, len(data) - 16, 5):  # the last bytes are padding
        (tmp_path / "cut.tif").write_bytes(data[:size])
        with pytest.raises(DataError, match="a TIFF that ends early"):
            read_volume(tmp_path / "cut.tif")


def test_a_tiff_whose_pages_run_in_a_circle_is_refused(tmp_path: Path) -> None:
    Image.fromarray(numbers((6, 6), np.uint8)).save(tmp_path / "a.tif")
    data = bytearray((tmp_path / "a.tif").read_bytes())
    (page,) = struct.unpack_from("<I", data, 4)
    (count,) = struct.unpack_from("<H", data, page)
    struct.pack_into("<I", data, page + 2 + 12 * count, page)
    (tmp_path / "a.tif").write_bytes(data)
    with pytest.raises(DataError, match="must have pages that end; got a list of pages that runs in a circle"):
        read_header(tmp_path / "a.tif")


def test_a_png_with_a_wrong_checksum_is_refused(tmp_path: Path) -> None:
    Image.fromarray(numbers((8, 8), np.uint8)).save(tmp_path / "a.png")
    data = bytearray((tmp_path / "a.png").read_bytes())
    at = data.index(b"IDAT")
    length = int.from_bytes(data[at - 4 : at], "big")
    data[at + 4 + length] ^= 1
    (tmp_path / "a.png").write_bytes(data)
    with pytest.raises(DataError, match="must be an undamaged PNG; got a wrong checksum in its IDAT chunk"):
        read_volume(tmp_path / "a.png")


def test_a_png_that_claims_a_huge_size_is_refused(tmp_path: Path) -> None:
    Image.fromarray(numbers((8, 8), np.uint8)).save(tmp_path / "a.png")
    data = bytearray((tmp_path / "a.png").read_bytes())
    struct.pack_into(">II", data, 16, 65535, 65535)
    struct.pack_into(">I", data, 29, zlib.crc32(bytes(data[12:29])))
    (tmp_path / "a.png").write_bytes(data)
    with pytest.raises(DataError, match=r"must have at most \d+ pixels; got more .* make it a bag"):
        read_volume(tmp_path / "a.png")


def stack(folder: Path, count: int = 12) -> Any:
    """Slices s_1.tif to s_12.tif whose red, green and blue are 10 k, 10 k + 1 and 10 k + 2, and their masks."""
    folder.mkdir()
    for k in range(1, count + 1):
        pixels = np.full((3, 4, 3), 10 * k, dtype=np.uint8) + np.arange(3, dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"s_{k}.tif", compression="tiff_adobe_deflate")
        Image.fromarray(np.full((3, 4), 255 * (k == 5), dtype=np.uint8)).save(folder / f"s_{k}_mask.tif")
    (folder / "._s_1.tif").write_bytes(b"left by a file manager")


def test_slices_are_sorted_as_people_do_and_one_channel_is_read(tmp_path: Path) -> None:
    stack(tmp_path / "case")
    for channel in range(3):
        volume = read_volume(tmp_path / "case", files="*[0-9].tif", channel=channel)
        assert volume.array.shape == (1, 4, 3, 12)
        np.testing.assert_array_equal(volume.array[0, 0, 0], 10 * np.arange(1, 13) + channel)
    assert read_volume(tmp_path / "case", files="*[0-9].tif").array.shape == (3, 4, 3, 12)
    mask = read_volume(tmp_path / "case", files="*_mask.tif")
    np.testing.assert_array_equal(mask.array[0].any(axis=(0, 1)), np.arange(12) == 4)
    header = read_header(tmp_path / "case", files="*[0-9].tif", channel=1)
    assert (header.shape, header.channels, header.has_spacing) == ((4, 3, 12), 1, False)


def test_a_stack_is_written_as_one_file_of_pages(tmp_path: Path) -> None:
    stack(tmp_path / "case")
    volume = read_volume(tmp_path / "case", files="*[0-9].tif", channel=2)
    for array in (volume.array[0], volume.array[0] / np.float32(3)):
        written = write_volume(array, volume.geometry, tmp_path / "out")
        assert written.name == "out.tif"
        again = read_volume(written)
        np.testing.assert_array_equal(again.array[0], array)
        assert read_header(written).shape == (4, 3, 12)


def test_slices_of_different_sizes_and_missing_slices_are_refused(tmp_path: Path) -> None:
    stack(tmp_path / "case", 3)
    with pytest.raises(DataError, match=r"must be a folder with slices named \*.png, or of DICOM files; got none"):
        read_volume(tmp_path / "case", files="*.png")
    Image.fromarray(np.zeros((3, 5, 3), dtype=np.uint8)).save(tmp_path / "case" / "s_2.tif")
    with pytest.raises(DataError, match=r"must hold slices of one size and type; got \(3, 5, 3\) uint8 in s_2.tif"):
        read_volume(tmp_path / "case", files="*[0-9].tif")


def test_a_slice_that_links_out_of_its_folder_is_refused(tmp_path: Path) -> None:
    stack(tmp_path / "case", 3)
    Image.fromarray(np.zeros((3, 4, 3), dtype=np.uint8)).save(tmp_path / "secret.tif")
    (tmp_path / "case" / "s_4.tif").symlink_to(tmp_path / "secret.tif")
    with pytest.raises(DataError, match=r"must be a regular file inside its folder; got a link or device .*s_4.tif"):
        read_volume(tmp_path / "case", files="*[0-9].tif")


def test_cmyk_of_a_jpeg_becomes_the_colours_that_were_meant(tmp_path: Path) -> None:
    """Programs write CMYK into JPEG inverted, with Adobe's mark."""
    rgb = np.full((16, 16, 3), (200, 60, 20), dtype=np.uint8)
    rgb[:, 8:] = (10, 120, 240)
    Image.fromarray(rgb).convert("CMYK").save(tmp_path / "a.jpg", quality=100)
    assert b"Adobe" in (tmp_path / "a.jpg").read_bytes()
    volume = read_volume(tmp_path / "a.jpg")
    np.testing.assert_allclose(volume.array[..., 0].transpose(2, 1, 0).astype(int), rgb.astype(int), atol=6)


def test_colour_of_sixteen_bits_says_that_it_was_reduced(tmp_path: Path) -> None:
    rows = np.array([[[65535, 256, 0], [0, 32768, 1]]], dtype=">u2")
    chunks = {
        b"IHDR": struct.pack(">IIBBBBB", 2, 1, 16, 2, 0, 0, 0),
        b"IDAT": zlib.compress(b"\0" + rows.tobytes()),
        b"IEND": b"",
    }
    parts = [struct.pack(">I", len(c)) + k + c + struct.pack(">I", zlib.crc32(k + c)) for k, c in chunks.items()]
    (tmp_path / "a.png").write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(parts))
    volume = read_volume(tmp_path / "a.png")
    assert volume.notes == ("16-bit colour was reduced to 8 bits",)
    np.testing.assert_array_equal(volume.array[..., 0].transpose(2, 1, 0), [[[255, 1, 0], [0, 128, 0]]])


@pytest.mark.parametrize(
    ("at", "byte", "text"),
    [
        (46, 2, "the tag 258 twice on a page"),
        (48, 2, "the tag 259 without a whole number"),
        (50, 0, "the tag 259 without a whole"),
    ],
)
def test_a_tiff_with_a_spoiled_list_of_tags_is_refused(tmp_path: Path, at: int, byte: int, text: str) -> None:
    """Found by mutation: libtiff takes a default for the compression, and returns what is packed as if it were pixels."""
    import tifffile

    file = tmp_path / "a.tif"
    pixels = np.random.default_rng(2).integers(0, 250, (32, 48)).astype("uint16")
    tifffile.imwrite(file, pixels, compression="zlib", tile=(16, 16), metadata=None)
    content = bytearray(file.read_bytes())
    assert content[46:48] == b"\x03\x01"  # the entry of the tag 259, compression
    content[at] = byte
    file.write_bytes(content)
    with pytest.raises(DataError, match=text):
        read_volume(file)
