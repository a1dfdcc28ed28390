"""The cache: found again, rebuilt when damaged, never half written."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from comodal.data.cache import Cache, stamp
from comodal.data.geometry import Array


class Builder:
    """Counts how often it is asked."""

    def __init__(self, array: Array) -> None:
        self.array, self.calls = array, 0

    def __call__(self) -> Array:
        self.calls += 1
        return self.array


@pytest.fixture
def builder() -> Builder:
    return Builder(np.arange(24, dtype=np.float32).reshape(2, 3, 4))


def test_built_once_and_mapped(tmp_path: Path, builder: Builder) -> None:
    cache = Cache(tmp_path / "cache")
    assert not (tmp_path / "cache").exists()  # a constructor touches no file
    for _ in range(2):
        got = cache.array(["t1", "native"], builder)
        assert isinstance(got, np.memmap) and not got.flags.writeable
        assert np.array_equal(got, builder.array) and got.dtype == np.float32
    assert builder.calls == 1
    assert [p.suffix for p in (tmp_path / "cache").rglob("*") if p.is_file()] == [".npy"]


def test_every_ingredient_counts(tmp_path: Path, builder: Builder) -> None:
    cache = Cache(tmp_path)
    for parts in (["a", "b"], ["ab", ""], ["b", "a"], ["a", "b", ""]):
        cache.array(parts, builder)
    assert builder.calls == 4


def test_slices_lie_together(tmp_path: Path, builder: Builder) -> None:
    got = Cache(tmp_path).array(["a"], builder, slices_first=True)
    assert np.array_equal(got, builder.array)
    assert got[..., 1].flags.f_contiguous and got[..., :2].flags.f_contiguous


@pytest.mark.parametrize("damage", ["cut", "header", "empty", "longer", "objects"])
def test_damaged_entry_is_rebuilt(tmp_path: Path, builder: Builder, damage: str) -> None:
    cache = Cache(tmp_path)
    cache.array(["a"], builder)
    path = cache.path(["a"])
    whole = path.read_bytes()
    if damage == "objects":
        np.save(path, np.array([{"code": print}], dtype=object), allow_pickle=True)
    else:
        spoiled = {"cut": whole[:-5], "header": b"\0" * 20 + whole[20:], "empty": b"", "longer": whole + b"1234"}
        path.write_bytes(spoiled[damage])
    assert np.array_equal(cache.array(["a"], builder), builder.array)
    assert builder.calls == 2 and path.read_bytes() == whole


def test_failure_leaves_nothing(tmp_path: Path) -> None:
    def fails() -> Array:
        raise RuntimeError("disc on fire")

    with pytest.raises(RuntimeError, match="on fire"):
        Cache(tmp_path).array(["a"], fails)
    assert not list(tmp_path.rglob("*.*"))


def test_empty_array(tmp_path: Path) -> None:
    cache = Cache(tmp_path)
    for _ in range(2):
        assert cache.array(["none"], Builder(np.empty((0, 4), dtype=np.int32))).shape == (0, 4)


def test_stamp_tells_versions_apart(tmp_path: Path) -> None:
    file = tmp_path / "a.nii"
    file.write_bytes(b"123")
    first = stamp(file)
    assert stamp(file) == first
    os.utime(file, ns=(1, 1))
    assert stamp(file) != first  # time
    os.utime(file, ns=(first_time := int(first.split(":")[-1]), first_time))
    assert stamp(file) == first
    file.write_bytes(b"1234")
    os.utime(file, ns=(first_time, first_time))
    assert stamp(file) != first  # size
    with pytest.raises(FileNotFoundError):
        stamp(tmp_path / "none")


def test_stamp_of_a_folder_sees_each_slice(tmp_path: Path) -> None:
    for name in ("1.png", "2.png"):
        (tmp_path / name).write_bytes(b"x")
    first = stamp(tmp_path)
    (tmp_path / "2.png").write_bytes(b"xy")
    second = stamp(tmp_path)
    (tmp_path / "3.png").write_bytes(b"x")
    assert len({first, second, stamp(tmp_path)}) == 3
