"""Reading and writing of files: geometry survives, damage is refused, nothing is taken on trust."""

from __future__ import annotations

import gzip
import os
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from PIL import Image

from comodal.data.geometry import BUDGET
from comodal.data.reading import label_codes, read_features, read_header, read_text, read_volume, write_volume
from comodal.errors import DataError

OBLIQUE = nib.affines.from_matvec(nib.eulerangles.euler2mat(0.3, -0.2, 0.4) @ np.diag([1.0, 1.2, 3.0]), [-40, 12, 7.5])
AFFINES = {
    "ras": np.diag([1.0, 1, 1, 1]),
    "lps": nib.affines.from_matvec(np.diag([-1.0, -1, 1]), [0, 239, 0]),
    "permuted": nib.affines.from_matvec(np.array([[0, 0, 2.0], [-1, 0, 0], [0, 0.5, 0]]), [1, 2, 3]),
    "anisotropic": np.diag([0.4, 0.4, 6, 1]),
    "negated": nib.affines.from_matvec(-np.eye(3), [5, 5, 5]),
    "oblique": OBLIQUE,
    "oblique and flipped": OBLIQUE @ np.diag([1, -1, -1, 1]),
    "sheared (gantry tilt)": np.array([[1.0, 0, 0, 0], [0, 1, 0.3, 0], [0, 0, 2, 0], [0, 0, 0, 1]]),
}


def numbers(shape: tuple[int, ...] = (5, 6, 7), dtype: Any = np.int16) -> Any:
    return np.arange(np.prod(shape)).reshape(shape).astype(dtype)


def save(path: Path, array: Any, affine: Any = AFFINES["lps"], **header: Any) -> Path:
    image = nib.Nifti1Image(array, affine, dtype=array.dtype)
    for name, value in header.items():
        image.header[name] = value
    nib.save(image, path)
    return path


def rewrite(path: Path, change: Callable[[bytearray], Any], target: str = "changed.nii") -> Path:
    """The same file with changed header bytes."""
    data = bytearray(gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes())
    change(data)
    out = path.with_name(target)
    out.write_bytes(gzip.compress(bytes(data)) if target.endswith(".gz") else bytes(data))
    return out


# ---------------------------------------------------------------------------------------------------------------- geometry


@pytest.mark.parametrize("affine", AFFINES.values(), ids=AFFINES.keys())
@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
def test_volume_equals_that_of_nibabel_in_ras_order(tmp_path: Path, affine: Any, suffix: str) -> None:
    path = save(tmp_path / f"a{suffix}", numbers(), affine)
    volume, reference = read_volume(path), nib.as_closest_canonical(nib.load(path))
    np.testing.assert_array_equal(volume.array[0], np.asarray(reference.dataobj))
    np.testing.assert_allclose(volume.header.affine, reference.affine, atol=1e-6)
    assert nib.aff2axcodes(volume.header.affine) == ("R", "A", "S")
    assert volume.array.dtype == np.int16
    assert volume.array.flags.c_contiguous
    header = read_header(path)
    assert header.shape == volume.array.shape[1:]
    np.testing.assert_array_equal(header.affine, volume.header.affine)


@pytest.mark.parametrize("affine", AFFINES.values(), ids=AFFINES.keys())
@pytest.mark.parametrize("kind", [nib.Nifti1Image, nib.Nifti2Image])
def test_written_volume_has_the_geometry_of_the_input(tmp_path: Path, affine: Any, kind: Any) -> None:
    image = kind(numbers(), affine)
    image.set_sform(affine, code=2)
    image.set_qform(affine, code=3, strip_shears=True)
    nib.save(image, tmp_path / "in.nii.gz")
    volume = read_volume(tmp_path / "in.nii.gz")
    written = write_volume(volume.array[0], volume.geometry, tmp_path / "out")
    before, after = nib.load(tmp_path / "in.nii.gz"), nib.load(written)
    assert written.name == "out.nii.gz"
    np.testing.assert_array_equal(after.affine, before.affine)
    np.testing.assert_array_equal(np.asarray(after.dataobj), numbers())
    assert after.shape == before.shape
    assert nib.aff2axcodes(after.affine) == nib.aff2axcodes(before.affine)
    for field in ("sform_code", "qform_code", "pixdim", "quatern_b", "qoffset_x", "srow_x", "xyzt_units"):
        np.testing.assert_array_equal(after.header[field], before.header[field], err_msg=field)


def test_a_known_voxel_ends_where_the_affine_says(tmp_path: Path) -> None:
    """File axes: i to the left, j down the patient, k to the front; voxel (1, 0, 2) lies at R -1, A 2, S 0."""
    array = np.zeros((2, 3, 4), dtype=np.uint8)
    array[1, 0, 2] = 9
    affine = np.array([[-1.0, 0, 0, 0], [0, 0, 1, 0], [0, -1, 0, 0], [0, 0, 0, 1]])
    volume = read_volume(save(tmp_path / "a.nii", array, affine))
    assert volume.array.shape == (1, 2, 4, 3)
    (where,) = np.argwhere(volume.array[0] == 9)
    np.testing.assert_array_equal(where, [0, 2, 2])
    np.testing.assert_allclose(volume.header.affine @ [*where, 1], [-1, 2, 0, 1])


def test_written_bytes_are_equal_for_equal_predictions(tmp_path: Path) -> None:
    volume = read_volume(save(tmp_path / "in.nii.gz", numbers()))
    first = write_volume(volume.array[0], volume.geometry, tmp_path / "a" / "x").read_bytes()
    assert write_volume(volume.array[0], volume.geometry, tmp_path / "b" / "y").read_bytes() == first
    assert not list(tmp_path.rglob("*.partial"))


def test_written_types_are_those_that_viewers_open(tmp_path: Path) -> None:
    geometry = read_volume(save(tmp_path / "in.nii.gz", numbers())).geometry

    def written(array: Any) -> Any:
        return nib.load(write_volume(array, geometry, tmp_path / "x")).get_data_dtype()

    assert written(numbers().astype(bool)) == np.uint8
    assert written(np.full((5, 6, 7), 4, dtype=np.int64)) == np.uint8
    assert written(np.full((5, 6, 7), 256, dtype=np.int64)) == np.int16
    assert written(np.full((5, 6, 7), -40_000, dtype=np.int64)) == np.int32
    assert written(np.full((5, 6, 7), 0.25)) == np.float32
    with pytest.raises(ValueError, match="must fit in 32 bits"):
        written(np.full((5, 6, 7), 1 << 40))
    with pytest.raises(ValueError, match=r"must have the shape of its geometry, \(5, 6, 7\); got \(6, 5, 7\)"):
        written(np.zeros((6, 5, 7)))


def test_free_text_of_the_input_does_not_reach_the_output(tmp_path: Path) -> None:
    volume = read_volume(save(tmp_path / "in.nii.gz", numbers(), descrip=b"SURNAME^NAME", db_name=b"1950-01-01"))
    written = write_volume(volume.array[0], volume.geometry, tmp_path / "out")
    assert b"SURNAME" in gzip.decompress((tmp_path / "in.nii.gz").read_bytes())
    data = gzip.decompress(written.read_bytes())
    assert b"SURNAME" not in data
    assert b"1950-01-01" not in data


def test_interrupted_writing_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    volume = read_volume(save(tmp_path / "in.nii.gz", numbers()))
    written = write_volume(volume.array[0], volume.geometry, tmp_path / "out")
    before = written.read_bytes()

    def full(*_: object) -> None:
        raise OSError("No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        write_volume(volume.array[0] * 0, volume.geometry, tmp_path / "out")
    assert written.read_bytes() == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.nii.gz", "out.nii.gz"]


# ----------------------------------------------------------------------------------------------------------- what is handled


def test_four_axes_with_one_volume_are_a_volume_and_stay_so_on_output(tmp_path: Path) -> None:
    volume = read_volume(save(tmp_path / "a.nii.gz", numbers((5, 6, 7, 1))))
    assert volume.array.shape == (1, 5, 6, 7)
    assert nib.load(write_volume(volume.array[0], volume.geometry, tmp_path / "out")).shape == (5, 6, 7, 1)


def test_a_single_slice_is_a_volume_with_one_voxel_along_z(tmp_path: Path) -> None:
    assert read_volume(save(tmp_path / "a.nii", numbers((5, 6)), np.eye(4))).array.shape == (1, 5, 6, 1)


def test_four_axes_need_a_channel_and_each_channel_can_be_read(tmp_path: Path) -> None:
    array = numbers((3, 4, 5, 2))
    path = save(tmp_path / "a.nii.gz", array, np.eye(4))
    for read in (read_header, read_volume):
        with pytest.raises(DataError, match=r"must hold one volume; got shape \(3, 4, 5, 2\).* `channel: 0` in the cohort's yaml"):
            read(path)
    for channel in (0, 1):
        np.testing.assert_array_equal(read_volume(path, channel=channel).array[0], array[..., channel])
    with pytest.raises(DataError, match="must have channel 2; got 2 channels"):
        read_volume(path, channel=2)


def test_scaled_values_become_float32(tmp_path: Path) -> None:
    path = save(tmp_path / "a.nii", numbers(), np.eye(4))

    def scale(slope: float, intercept: float) -> Callable[[bytearray], None]:
        return lambda data: struct.pack_into("<ff", data, 112, slope, intercept)

    volume = read_volume(rewrite(path, scale(0.5, -3)))
    assert volume.array.dtype == read_header(path.with_name("changed.nii")).dtype == np.float32
    np.testing.assert_array_equal(volume.array[0], numbers() * 0.5 - 3)
    for slope in (0.0, float("nan")):  # the standard: a slope of 0 means unscaled
        assert read_volume(rewrite(path, scale(slope, 7))).array.dtype == np.int16
    with pytest.raises(DataError, match="must have a finite scl_slope"):
        read_volume(rewrite(path, scale(float("inf"), 0)))


def test_big_endian_and_wide_types(tmp_path: Path) -> None:
    image = nib.Nifti1Image(numbers(dtype=">f4"), np.eye(4), nib.Nifti1Header(endianness=">"))
    nib.save(image, tmp_path / "big.nii")
    volume = read_volume(tmp_path / "big.nii")
    assert volume.array.dtype == np.dtype("=f4")
    np.testing.assert_array_equal(volume.array[0], numbers())
    assert nib.load(write_volume(volume.array[0], volume.geometry, tmp_path / "out")).header.endianness == "<"
    np.testing.assert_array_equal(nib.load(tmp_path / "out.nii.gz").get_fdata(), numbers())
    assert read_volume(save(tmp_path / "wide.nii", numbers(dtype=np.int64))).array.dtype == np.int64


def test_the_first_bytes_decide_not_the_name(tmp_path: Path) -> None:
    plain = save(tmp_path / "a.nii", numbers())
    plain.rename(tmp_path / "plain.nii.gz")
    packed = save(tmp_path / "b.nii.gz", numbers())
    packed.rename(tmp_path / "packed.nii")
    np.testing.assert_array_equal(read_volume(tmp_path / "plain.nii.gz").array, read_volume(tmp_path / "packed.nii").array)


def test_concatenated_gzip_members_and_padding_are_legal_and_garbage_is_noted(tmp_path: Path) -> None:
    data = gzip.decompress(save(tmp_path / "a.nii.gz", numbers()).read_bytes())
    parts = b"".join(gzip.compress(data[i : i + 200]) for i in range(0, len(data), 200))
    for name, tail in (("members", b""), ("padded", b"\0" * 512)):
        (tmp_path / name).write_bytes(parts + tail)
        volume = read_volume(tmp_path / name)
        np.testing.assert_array_equal(volume.array, read_volume(tmp_path / "a.nii.gz").array)
        assert volume.notes == ()
    (tmp_path / "garbage").write_bytes(parts + b"garbage")
    assert read_volume(tmp_path / "garbage").notes == ("there are bytes after the end of the gzip stream; they were ignored",)


def test_odd_headers_are_noted(tmp_path: Path) -> None:
    image = nib.Nifti1Image(numbers(), np.eye(4))
    image.set_sform(np.eye(4), 0)
    image.set_qform(np.eye(4), 0)
    nib.save(image, tmp_path / "none.nii")
    assert "neither sform nor qform is set" in read_header(tmp_path / "none.nii").notes[0]
    image.set_sform(np.diag([1, 1, 2, 1]), 1)
    image.set_qform(np.eye(4), 1)
    nib.save(image, tmp_path / "both.nii")
    header = read_header(tmp_path / "both.nii")
    assert header.notes == ("sform and qform disagree; sform is used",)
    assert header.spacing == (1, 1, 2)


# ----------------------------------------------------------------------------------------------------------- what is refused


@pytest.mark.parametrize("share", [0.01, 0.3, 0.5, 0.9, 0.99])
@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
def test_a_file_that_was_cut_is_refused(tmp_path: Path, share: float, suffix: str) -> None:
    array = np.random.default_rng(0).integers(0, 1000, (20, 20, 20)).astype(np.int16)
    data = save(tmp_path / f"a{suffix}", array).read_bytes()
    cut = tmp_path / f"cut{suffix}"
    cut.write_bytes(data[: int(len(data) * share)])
    with pytest.raises(DataError, match=r"image file must .*\[subject s1, modality flair, file .*cut.* Copy or download"):
        read_volume(cut, subject="s1", modality="flair")


def test_a_gzip_file_without_its_last_byte_is_refused(tmp_path: Path) -> None:
    data = save(tmp_path / "a.nii.gz", numbers()).read_bytes()
    for missing in range(1, 9):  # checksum and length are the last eight bytes
        (tmp_path / "cut.nii.gz").write_bytes(data[:-missing])
        with pytest.raises(DataError, match="must be a complete gzip file; got one that ends early"):
            read_volume(tmp_path / "cut.nii.gz")


def test_a_wrong_checksum_is_refused(tmp_path: Path) -> None:
    data = bytearray(save(tmp_path / "a.nii.gz", numbers()).read_bytes())
    data[-8] ^= 1
    (tmp_path / "a.nii.gz").write_bytes(data)
    with pytest.raises(DataError, match="must be an undamaged gzip file; got a wrong checksum"):
        read_volume(tmp_path / "a.nii.gz")


def test_damage_in_the_middle_is_refused(tmp_path: Path) -> None:
    array = np.random.default_rng(0).integers(0, 1000, (20, 20, 20)).astype(np.int16)
    data = bytearray(save(tmp_path / "a.nii.gz", array).read_bytes())
    data[len(data) // 2] ^= 0xFF
    (tmp_path / "a.nii.gz").write_bytes(data)
    with pytest.raises(DataError, match="must be an undamaged gzip file"):
        read_volume(tmp_path / "a.nii.gz")


@pytest.mark.parametrize(
    ("content", "got"),
    [
        (b"", "an empty file"),
        (b"<!DOCTYPE html><html>Sign in</html>", "a web page or XML text"),
        (gzip.compress(b"<html>Sign in</html>"), "a web page or XML text"),
        (b"PK\x03\x04 and so on", "bytes 50 4b 03 04"),
        (gzip.compress(b""), "an empty file"),
    ],
    ids=["empty", "html", "gzipped html", "zip", "gzipped nothing"],
)
def test_what_is_no_image_is_named(tmp_path: Path, content: bytes, got: str) -> None:
    path = tmp_path / "a.nii.gz"
    path.write_bytes(content)
    for read in (read_header, read_volume):
        with pytest.raises(DataError, match=f"must be NIfTI, PNG, JPEG or TIFF; got {got}.*Check what the file really is"):
            read(path)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_values_that_are_not_finite_are_refused(tmp_path: Path, value: float) -> None:
    array = numbers(dtype=np.float32)
    array[1, 2, 3] = array[4, 5, 6] = value
    with pytest.raises(DataError, match="must hold finite numbers; got 2 NaN or infinite values"):
        read_volume(save(tmp_path / "a.nii.gz", array))


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
def test_huge_dimensions_are_refused_before_memory_is_taken(tmp_path: Path, suffix: str) -> None:
    """65535 is -1 in the 16-bit field of NIfTI-1; NIfTI-2 holds the real number; 30000^3 is what NIfTI-1 can claim."""
    first = save(tmp_path / "a.nii", numbers())
    minus = rewrite(first, lambda data: struct.pack_into("<3h", data, 42, -1, -1, -1), f"minus{suffix}")
    with pytest.raises(DataError, match="must have at least one voxel along each axis"):
        read_volume(minus)
    huge = rewrite(first, lambda data: struct.pack_into("<3h", data, 42, 30000, 30000, 30000), f"huge{suffix}")
    with pytest.raises(DataError, match="must need at most 4 GiB in memory; got 30000 x 30000 x 30000 voxels"):
        read_volume(huge)
    nib.save(nib.Nifti2Image(numbers(), np.eye(4)), tmp_path / "second.nii")
    second = rewrite(tmp_path / "second.nii", lambda data: struct.pack_into("<3q", data, 24, 65535, 65535, 65535), f"b{suffix}")
    for read in (read_header, read_volume):
        with pytest.raises(DataError, match="65535 x 65535 x 65535 voxels"):
            read(second)


def test_a_small_file_cannot_claim_a_large_volume(tmp_path: Path) -> None:
    """Within the budget, but more than a file of this size can hold, even compressed."""
    first = save(tmp_path / "a.nii", numbers())
    for name in ("lie.nii", "lie.nii.gz"):
        lie = rewrite(first, lambda data: struct.pack_into("<3h", data, 42, 1000, 1000, 500), name)
        assert 1000 * 1000 * 500 * 4 < BUDGET
        with pytest.raises(DataError, match=r"must hold the 1000000352 bytes of its header; got at most \d+ bytes"):
            read_volume(lie)


def test_a_decompression_bomb_is_refused(tmp_path: Path) -> None:
    data = gzip.decompress(save(tmp_path / "a.nii.gz", numbers()).read_bytes())
    (tmp_path / "bomb.nii.gz").write_bytes(gzip.compress(data + bytes(17 * 1024**2)))
    with pytest.raises(DataError, match="must hold at most 16 MiB after the image"):
        read_volume(tmp_path / "bomb.nii.gz")
    (tmp_path / "tail.nii.gz").write_bytes(gzip.compress(data + bytes(5)))
    assert read_volume(tmp_path / "tail.nii.gz").notes == ("5 bytes after the image were ignored",)


@pytest.mark.parametrize(
    ("offset", "form", "values", "rule"),
    [
        (40, "<h", (0,), "have 1 to 7 axes; got 0"),
        (40, "<h", (9,), "have 1 to 7 axes; got 9"),
        (42, "<h", (0,), "have at least one voxel along each axis"),
        (70, "<h", (12345,), "have a known data type; got code 12345"),
        (108, "<f", (float("nan"),), "have vox_offset of at least 352"),
        (108, "<f", (12.0,), "have vox_offset of at least 352; got 12.0"),
        (280, "<4f", (0, 0, 0, 0), "have an affine that can be inverted"),
        (280, "<4f", (float("nan"), 0, 0, 0), "have an affine that can be inverted"),
        (344, "4s", (b"ni1\0",), "be single-file NIfTI"),
        (344, "4s", (b"\0\0\0\0",), "be single-file NIfTI"),
    ],
)
def test_impossible_headers_are_refused(tmp_path: Path, offset: int, form: str, values: Any, rule: str) -> None:
    path = rewrite(save(tmp_path / "a.nii", numbers()), lambda data: struct.pack_into(form, data, offset, *values))
    for read in (read_header, read_volume):
        with pytest.raises(DataError, match=f"image file must {rule}"):
            read(path)


@pytest.mark.parametrize("dtype", [np.complex64, np.complex128, np.dtype([("R", "u1"), ("G", "u1"), ("B", "u1")])])
def test_complex_and_coloured_voxels_are_refused(tmp_path: Path, dtype: Any) -> None:
    image = nib.Nifti1Image(np.zeros((3, 3, 3), dtype=dtype), np.eye(4))
    nib.save(image, tmp_path / "a.nii")
    with pytest.raises(DataError, match=r"must hold real numbers of one channel.*Convert it to int16 or float32"):
        read_volume(tmp_path / "a.nii")


def test_missing_files_pipes_and_link_loops_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"must be readable; got No such file .*blank the cell if this sequence is absent"):
        read_volume(tmp_path / "none.nii.gz")
    os.mkfifo(tmp_path / "pipe.nii")
    with pytest.raises(DataError, match="must be a regular file; got a device, pipe or folder"):
        read_volume(tmp_path / "pipe.nii")
    (tmp_path / "loop.nii").symlink_to(tmp_path / "loop.nii")
    with pytest.raises(DataError, match="must be readable; got Too many levels of symbolic links"):
        read_volume(tmp_path / "loop.nii")


# ---------------------------------------------------------------------------------------------------------------- pictures


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
    Image.fromarray(np.ascontiguousarray(turned)).save(path, exif=exif, **({"quality": 100} if suffix == "jpg" else {}))
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
        assert volume.array.shape == (3, 6, 4, 1) == (read_header(tmp_path / name).channels, 6, 4, 1)
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
    refused = 0
    for size in range(4, len(data)):
        (tmp_path / "cut.tif").write_bytes(data[:size])
        try:
            np.testing.assert_array_equal(read_volume(tmp_path / "cut.tif").array, whole)  # without padding at its end
        except DataError as error:
            assert "a TIFF that ends early" in str(error)
            refused += 1
    assert refused > len(data) - 16


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
    with pytest.raises(DataError, match="must be a complete PNG, JPEG or TIFF"):
        read_volume(tmp_path / "a.png")


# ------------------------------------------------------------------------------------------------------------------ stacks


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
    with pytest.raises(DataError, match=r"must be a folder with slices named \*.png; got none"):
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


# ---------------------------------------------------------------------------------------------------- labels, texts, vectors


def test_label_codes(tmp_path: Path) -> None:
    def codes(array: Any) -> tuple[int, ...]:
        path = save(tmp_path / "a.nii", array)
        return label_codes(read_volume(path), path=path, subject="s1", modality="seg")

    array = np.zeros((4, 4, 4), dtype=np.int16)
    array[0, 0, :3] = [4, 1, -1]
    assert codes(array) == (-1, 0, 1, 4)
    assert codes(array.astype(np.float32)) == (-1, 0, 1, 4)
    assert codes(array.astype(np.uint8)) == (0, 1, 4, 255)
    wide = array.astype(np.int32)
    wide[3, 3, 3] = 1_000_000
    assert codes(wide) == (-1, 0, 1, 4, 1_000_000)
    with pytest.raises(DataError, match=r"must hold whole numbers as labels; got fractions \[subject s1, modality seg"):
        codes(array + np.float32(0.5))


def test_texts(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(b"\xef\xbb\xbfNo effusion.\r\n\xc3\x96dem \xf0\x9f\xab\x81")
    assert read_text(tmp_path / "a.txt") == "No effusion.\nÖdem \U0001fac1"
    (tmp_path / "a.txt").write_bytes("wide".encode("utf-16"))
    with pytest.raises(DataError, match=r"must be text in UTF-8; got byte 0 that is not .*Save it as UTF-8"):
        read_text(tmp_path / "a.txt")
    (tmp_path / "a.txt").write_bytes(b"")
    assert read_text(tmp_path / "a.txt") == ""


def test_vectors(tmp_path: Path) -> None:
    path = tmp_path / "a.npy"
    for array in (np.arange(5), np.arange(5.0).reshape(1, 5), np.arange(5, dtype=">f4")):
        np.save(path, array)
        vector = read_features(path)
        assert vector.dtype == np.float32
        np.testing.assert_array_equal(vector, np.arange(5))
    np.save(path, np.zeros((2, 3)))
    with pytest.raises(DataError, match=r"must hold one vector; got shape \(2, 3\)"):
        read_features(path)
    np.save(path, np.array([1, np.nan]))
    with pytest.raises(DataError, match="must hold finite numbers"):
        read_features(path)
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(DataError, match="must hold 2 numbers; got 15 bytes"):
        read_features(path)


class Bomb:
    """Runs code when it is unpickled."""

    def __reduce__(self) -> Any:
        return (os.mkdir, ("pickle_ran",))


def test_objects_in_npy_are_never_loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    np.save(tmp_path / "a.npy", np.array([Bomb()], dtype=object), allow_pickle=True)
    with pytest.raises(DataError, match="must hold numbers; got type object"):
        read_features(tmp_path / "a.npy")
    assert not (tmp_path / "pickle_ran").exists()


def test_a_vector_that_claims_more_than_it_holds_is_refused(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.zeros(4, dtype=np.float32))
    data = (tmp_path / "a.npy").read_bytes().replace(b"(4,), }" + b" " * 12, b"(1" + b"0" * 12 + b",), }")
    (tmp_path / "a.npy").write_bytes(data)
    with pytest.raises(DataError, match=f"must hold 1{'0' * 12} numbers; got 16 bytes"):
        read_features(tmp_path / "a.npy")
    (tmp_path / "a.npy").write_bytes(b"not numpy")
    with pytest.raises(DataError, match="must be a .npy file"):
        read_features(tmp_path / "a.npy")
