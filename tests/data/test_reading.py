"""Reading and writing: geometry survives; labels, texts and vectors are what they say."""

from __future__ import annotations

import gzip
import os
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest

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


def load(path: Path) -> Any:
    """As nibabel reads it: the reference."""
    return nib.load(path)


def numbers(shape: tuple[int, ...] = (5, 6, 7), dtype: Any = np.int16) -> Any:
    return np.arange(np.prod(shape)).reshape(shape).astype(dtype)


def save(path: Path, array: Any, affine: Any = AFFINES["lps"], **header: Any) -> Path:
    image = nib.Nifti1Image(array, affine, dtype=array.dtype)
    for name, value in header.items():
        image.header[name] = value
    nib.save(image, path)
    return path


@pytest.mark.parametrize("affine", AFFINES.values(), ids=AFFINES.keys())
@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
def test_volume_equals_that_of_nibabel_in_ras_order(tmp_path: Path, affine: Any, suffix: str) -> None:
    path = save(tmp_path / f"a{suffix}", numbers(), affine)
    volume, reference = read_volume(path), nib.as_closest_canonical(load(path))
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
    before, after = load(tmp_path / "in.nii.gz"), load(written)
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
        return load(write_volume(array, geometry, tmp_path / "x")).get_data_dtype()

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
    with pytest.raises(DataError, match=r"must be a \.npy file"):
        read_features(tmp_path / "a.npy")
