"""Images in .npy files."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from comodal.data.reading import read_features, read_header, read_volume, write_volume
from comodal.errors import DataError


def numbers(shape: tuple[int, ...] = (3, 4, 5), dtype: Any = np.int16) -> Any:
    return np.arange(np.prod(shape)).reshape(shape).astype(dtype)


@pytest.mark.parametrize("dtype", ["u1", "i2", "<u2", ">u2", "i8", "f4", ">f4", "f8"])
@pytest.mark.parametrize("order", ["C", "F"])
def test_three_axes_are_x_y_z(tmp_path: Path, dtype: str, order: Any) -> None:
    np.save(tmp_path / "a.npy", np.asarray(numbers(dtype=dtype), order=order))
    volume = read_volume(tmp_path / "a.npy")
    np.testing.assert_array_equal(volume.array[0], numbers())
    header = read_header(tmp_path / "a.npy")
    assert (header.shape, header.channels, header.has_spacing) == ((3, 4, 5), 1, False)
    assert header.dtype == volume.array.dtype == np.dtype(dtype).newbyteorder("=")
    assert volume.array.flags.c_contiguous and header.notes == volume.notes and "X, Y and Z" in header.notes[0]
    written = write_volume(volume.array[0] > 7, volume.geometry, tmp_path / "out")
    assert written.name == "out.tif"
    np.testing.assert_array_equal(read_volume(written).array[0], numbers() > 7)


def test_two_axes_are_rows_and_columns_as_of_a_picture(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", numbers((3, 5), np.uint8))
    volume = read_volume(tmp_path / "a.npy")
    np.testing.assert_array_equal(volume.array[0, ..., 0].T, numbers((3, 5)))
    written = write_volume(volume.array[0], volume.geometry, tmp_path / "out")
    assert written.name == "out.png"
    np.testing.assert_array_equal(read_volume(written).array, volume.array)


def test_types_that_are_changed(tmp_path: Path) -> None:
    for dtype, kept in ((bool, np.uint8), (np.float16, np.float32)):
        np.save(tmp_path / "a.npy", numbers(dtype=dtype))
        assert read_volume(tmp_path / "a.npy").array.dtype == read_header(tmp_path / "a.npy").dtype == kept
        np.testing.assert_array_equal(read_volume(tmp_path / "a.npy").array[0], numbers(dtype=dtype))


def test_a_file_that_was_cut_anywhere_is_refused(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", numbers())
    data = (tmp_path / "a.npy").read_bytes()
    for size in (*range(len(data)), len(data) + 1):
        (tmp_path / "cut.npy").write_bytes((data + b"x")[:size])
        for read in (read_header, read_volume):
            with pytest.raises(DataError):
                read(tmp_path / "cut.npy")
    (tmp_path / "cut.npy").write_bytes(data[:-1])
    with pytest.raises(DataError, match="must hold 120 bytes after its header, as the header says; got 119 "):
        read_volume(tmp_path / "cut.npy")


class Bomb:
    """Runs code when it is unpickled."""

    def __reduce__(self) -> Any:
        return (os.mkdir, ("pickle_ran",))


@pytest.mark.parametrize(
    ("array", "text"),
    [
        (np.array([[Bomb()] * 2], dtype=object), "hold numbers; got type object.*objects are never unpickled"),
        (numbers(dtype=np.complex128), "hold numbers; got type complex128"),
        (np.array([["a"]]), "hold numbers; got type <U1"),
        (np.zeros((2, 2), dtype=[("a", "f4")]), "hold numbers"),
        (np.zeros(5), r"have two axes \(rows, columns\) or three \(X, Y, Z\); got 1 axes"),
        (np.zeros((2, 3, 4, 5)), "have two axes .*; got 4 axes"),
        (np.zeros((0, 5)), "have at least one voxel along each axis"),
        (np.zeros((1, 1, 1)), "have more than one voxel"),
    ],
)
def test_what_is_no_image_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, array: Any, text: str) -> None:
    monkeypatch.chdir(tmp_path)
    np.save(tmp_path / "a.npy", array, allow_pickle=True)
    for read in (read_header, read_volume):
        with pytest.raises(DataError, match=f"image file must {text}"):
            read(tmp_path / "a.npy")
    assert not (tmp_path / "pickle_ran").exists()


def test_absurd_shapes_cost_nothing(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.zeros((2, 3), np.float32))
    data = (tmp_path / "a.npy").read_bytes().replace(b"(2, 3), }" + b" " * 10, b"(2" + b"0" * 5 + b", 3" + b"0" * 5 + b"), }")
    (tmp_path / "a.npy").write_bytes(data)
    with pytest.raises(DataError, match="must need at most 4 GiB in memory; got 200000 x 300000 voxels"):
        read_volume(tmp_path / "a.npy")


def test_values_that_are_not_finite_are_refused(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.array([[1, np.nan, np.inf]]))
    with pytest.raises(DataError, match="must hold finite numbers; got 2 NaN or infinite values"):
        read_volume(tmp_path / "a.npy")


def test_vectors_stay_vectors(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.arange(5.0))
    np.testing.assert_array_equal(read_features(tmp_path / "a.npy"), np.arange(5))
    np.save(tmp_path / "a.npy", np.zeros((5, 2)))
    assert read_volume(tmp_path / "a.npy").array.shape == (1, 2, 5, 1)
