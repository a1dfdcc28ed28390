"""NIfTI: what is handled, and what is refused."""

from __future__ import annotations

import gzip
import os
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest

from comodal.data import formats_nifti
from comodal.data.geometry import BUDGET
from comodal.data.reading import read_header, read_volume, write_volume
from comodal.errors import DataError

LPS = np.diag([-1.0, -1, 1, 1])


def load(path: Path) -> Any:
    """As nibabel reads it: the reference."""
    return nib.load(path)


def numbers(shape: tuple[int, ...] = (5, 6, 7), dtype: Any = np.int16) -> Any:
    return np.arange(np.prod(shape)).reshape(shape).astype(dtype)


def save(path: Path, array: Any, affine: Any = LPS, **header: Any) -> Path:
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


def test_four_axes_with_one_volume_are_a_volume_and_stay_so_on_output(tmp_path: Path) -> None:
    volume = read_volume(save(tmp_path / "a.nii.gz", numbers((5, 6, 7, 1))))
    assert volume.array.shape == (1, 5, 6, 7)
    assert load(write_volume(volume.array[0], volume.geometry, tmp_path / "out")).shape == (5, 6, 7, 1)


def test_a_single_slice_is_a_volume_with_one_voxel_along_z(tmp_path: Path) -> None:
    assert read_volume(save(tmp_path / "a.nii", numbers((5, 6)), np.eye(4))).array.shape == (1, 5, 6, 1)


def test_four_axes_need_a_channel_and_each_channel_can_be_read(tmp_path: Path) -> None:
    array = numbers((3, 4, 5, 2))
    path = save(tmp_path / "a.nii.gz", array, np.eye(4))
    for read in (read_header, read_volume):
        with pytest.raises(DataError, match=r"must hold one volume; got shape \(3, 4, 5, 2\).* `channel: 0` in the cohort's"):
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
    assert load(write_volume(volume.array[0], volume.geometry, tmp_path / "out")).header.endianness == "<"
    np.testing.assert_array_equal(load(tmp_path / "out.nii.gz").get_fdata(), numbers())
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
        assert volume.notes == volume.warnings == ()
    (tmp_path / "garbage").write_bytes(parts + b"garbage")
    assert read_volume(tmp_path / "garbage").warnings == (
        "there are bytes after the end of the gzip stream; they were ignored",
    )


def test_odd_headers_are_warnings(tmp_path: Path) -> None:
    image = nib.Nifti1Image(numbers(), np.eye(4))
    image.set_sform(np.eye(4), 0)
    image.set_qform(np.eye(4), 0)
    nib.save(image, tmp_path / "none.nii")
    assert "neither sform nor qform is set" in read_header(tmp_path / "none.nii").warnings[0]
    image.set_sform(np.diag([1, 1, 2, 1]), 1)
    image.set_qform(np.eye(4), 1)
    nib.save(image, tmp_path / "both.nii")
    header = read_header(tmp_path / "both.nii")
    said = "sform and qform disagree; sform is used"
    assert header.warnings == (said, "pixdim and sform disagree about the voxel sizes; sform is used")
    assert header.spacing == (1.0, 1.0, 2.0)
    assert not header.notes


@pytest.mark.parametrize("unit", ["meter", "micron"])
def test_units_that_are_not_mm_are_a_warning(tmp_path: Path, unit: str) -> None:
    image = nib.Nifti1Image(numbers(), LPS)
    image.header.set_xyzt_units(unit)
    nib.save(image, tmp_path / "a.nii")
    assert read_volume(tmp_path / "a.nii").warnings == (
        "the header gives lengths in metres or micrometres; they are read as mm",
    )


@pytest.mark.parametrize("size", [0.0, -2.0, float("nan")])
def test_voxel_sizes_that_are_not_positive(tmp_path: Path, size: float) -> None:
    """A warning where the sform knows better, an error where the affine is made of them."""

    def change(data: bytearray, *, sform: int, qform: int) -> None:
        struct.pack_into("<f", data, 84, size)
        struct.pack_into("<2h", data, 252, qform, sform)

    first = save(tmp_path / "a.nii", numbers())
    good = rewrite(first, lambda data: change(data, sform=1, qform=0))
    assert read_header(good).spacing == (1, 1, 1)
    assert read_volume(good).warnings == ("pixdim is not positive; the voxel sizes are those of the affine",)
    both = rewrite(first, lambda data: change(data, sform=1, qform=1))
    assert "pixdim is not positive; the voxel sizes are those of the affine" in read_volume(both).warnings
    for read in (read_header, read_volume):
        with pytest.raises(DataError, match=r"must have (a usable affine|an affine that can be inverted)"):
            read(rewrite(first, lambda data: change(data, sform=0, qform=1)))


def test_an_impossible_qform_is_a_warning_where_there_is_an_sform(tmp_path: Path) -> None:
    first = save(tmp_path / "a.nii", numbers())

    def change(data: bytearray, sform: int) -> None:
        struct.pack_into("<3f", data, 256, 2, 2, 2)
        struct.pack_into("<2h", data, 252, 1, sform)

    path = rewrite(first, lambda data: change(data, 1))
    assert read_volume(path).warnings == ("the qform is impossible; sform is used",)
    path = rewrite(first, lambda data: change(data, 0))
    with pytest.raises(DataError, match="must have a usable affine"):
        read_header(path)


def test_axes_that_are_not_at_right_angles_are_a_warning(tmp_path: Path) -> None:
    for angle, count in ((12.0, 1), (0.4, 0)):
        affine = np.eye(4)
        affine[1, 2] = np.tan(np.radians(angle))
        warnings = read_header(save(tmp_path / "a.nii", numbers(), affine)).warnings
        assert sum("the axes meet at 78.0 degrees instead of 90" in text for text in warnings) == count


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
def test_the_components_of_a_vector_are_channels(tmp_path: Path, suffix: str) -> None:
    array = numbers((3, 4, 5, 1, 2))
    path = save(tmp_path / f"a{suffix}", array, LPS, intent_code=1007)
    volume = read_volume(path)
    assert read_header(path).channels == volume.header.channels == 2
    np.testing.assert_array_equal(volume.array, np.moveaxis(array[:, :, :, 0], -1, 0)[:, ::-1, ::-1])
    np.testing.assert_array_equal(read_volume(path, channel=1).array[0], volume.array[1])
    written = load(write_volume(volume.array[0], volume.geometry, tmp_path / "out"))
    assert written.shape == (3, 4, 5)
    np.testing.assert_array_equal(np.asarray(written.dataobj), array[..., 0, 0])
    for other in (numbers((3, 4, 5, 2, 2)), numbers((3, 4, 5, 2))):
        with pytest.raises(DataError, match="must hold one volume"):
            read_header(save(tmp_path / "b.nii", other, LPS, intent_code=1007))
    with pytest.raises(DataError, match="must hold one volume"):  # five axes without the intent of a vector
        read_header(save(tmp_path / "c.nii", array, LPS))


def test_an_extension_flag_without_an_extension_is_harmless(tmp_path: Path) -> None:
    path = rewrite(save(tmp_path / "a.nii", numbers()), lambda data: data.__setitem__(348, 1))
    np.testing.assert_array_equal(read_volume(path).array, read_volume(tmp_path / "a.nii").array)
    image = nib.Nifti1Image(numbers(), LPS)
    image.header.extensions.append(nib.nifti1.Nifti1Extension("comment", b"Muster^Anna " * 10))
    nib.save(image, tmp_path / "b.nii.gz")
    volume = read_volume(tmp_path / "b.nii.gz")
    np.testing.assert_array_equal(volume.array, read_volume(tmp_path / "a.nii").array)
    assert b"Muster" not in gzip.decompress(write_volume(volume.array[0], volume.geometry, tmp_path / "out").read_bytes())


@pytest.mark.parametrize("dtype", [np.int64, np.uint64, np.float64])
def test_types_of_eight_bytes(tmp_path: Path, dtype: Any) -> None:
    volume = read_volume(save(tmp_path / "a.nii", numbers(dtype=dtype), np.eye(4)))
    assert volume.array.dtype == dtype
    np.testing.assert_array_equal(volume.array[0], numbers())


def test_a_single_voxel_is_refused(tmp_path: Path) -> None:
    for read in (read_header, read_volume):
        with pytest.raises(DataError, match="must have more than one voxel; got a single one"):
            read(save(tmp_path / "a.nii", numbers((1, 1, 1))))


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
        with pytest.raises(
            DataError, match=f"must be NIfTI, MetaImage, NRRD, DICOM, .npy, PNG, .*; got {got}.*Check what the file"
        ):
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
        assert BUDGET > 1000 * 1000 * 500 * 4
        with pytest.raises(DataError, match=r"must hold the 1000000352 bytes of its header; got at most \d+ bytes"):
            read_volume(lie)


def test_a_decompression_bomb_is_refused(tmp_path: Path) -> None:
    data = gzip.decompress(save(tmp_path / "a.nii.gz", numbers()).read_bytes())
    (tmp_path / "bomb.nii.gz").write_bytes(gzip.compress(data + bytes(17 * 1024**2)))
    with pytest.raises(DataError, match="must hold at most 16 MiB after the image"):
        read_volume(tmp_path / "bomb.nii.gz")
    (tmp_path / "tail.nii.gz").write_bytes(gzip.compress(data + bytes(5)))
    assert read_volume(tmp_path / "tail.nii.gz").warnings == ("5 bytes after the image were ignored",)


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
        (280, "<4f", (1e38, 0, 0, 0), "have an affine of at most 1e[+]09 mm"),
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


def test_a_file_that_may_not_be_read_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = save(tmp_path / "a.nii", numbers())

    def denied(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", denied)  # root may read everything
    with pytest.raises(DataError, match="must be readable; got Permission denied"):
        read_volume(path)


def test_a_file_that_changes_while_it_is_read_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = save(tmp_path / "a.nii", numbers())
    original = formats_nifti.ras_frame

    def grows(*arguments: Any) -> Any:
        with path.open("ab") as file:
            file.write(b"more")
        return original(*arguments)

    monkeypatch.setattr(formats_nifti, "ras_frame", grows)
    with pytest.raises(DataError, match="must stay the same while it is read; got a file that changed"):
        read_volume(path)
