"""The cache: found again, rebuilt when damaged, never half written; both forms hold the same."""

from __future__ import annotations

import copy
import errno
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import pytest

from comodal.data.atomic import replacing
from comodal.data.cache import Cache
from comodal.data.geometry import Array
from comodal.data.grid import crop_pad
from comodal.data.stored import SMALL, WHOLE, Form, Stored, form_of, pieces_of
from comodal.errors import CacheError, DataError


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


# --------------------------------------------------------------------------------------------------------------- two forms


def volume(shape: tuple[int, ...] = (2, 70, 33, 41), dtype: str = "float32", seed: int = 0) -> Array:
    random = np.random.default_rng(seed)
    return (random.integers(0, 50, shape) * (random.random(shape) < 0.3) / (7 if dtype == "float32" else 1)).astype(dtype)


def stored(cache: Cache, array: Array, *, slices_first: bool = False, name: str = "a") -> Stored:
    found: object = cache.array([name, str(slices_first)], lambda: array, slices_first=slices_first)
    assert isinstance(found, Stored)
    return found


def test_which_form() -> None:
    large = np.zeros((1, 64, 64, 64), dtype=np.float32)
    assert large.nbytes == SMALL
    cases: list[tuple[Array, Form, str]] = [
        (large, "auto", "blosc2"),
        (large[..., 1:], "auto", "npy"),
        (large[..., 1:], "blosc2", "blosc2"),
        (large, "npy", "npy"),
        (np.zeros((200_000, 4), dtype=np.int64), "auto", "npy"),  # a list of voxels is read whole
        (np.zeros((1, 0, 4, 4)), "blosc2", "npy"),
    ]
    for array, form, expected in cases:
        assert form_of(array, form) == expected


@pytest.mark.parametrize("slices_first", [False, True])
@pytest.mark.parametrize("dtype", ["float32", "uint8", "int64"])
@pytest.mark.parametrize("shape", [(2, 70, 33, 41), (65, 5, 3), (1, 130, 300, 1), (3, 1, 1, 1)])
def test_both_forms_hold_the_same(tmp_path: Path, shape: tuple[int, ...], dtype: str, slices_first: bool) -> None:
    array = volume(shape, dtype)
    packed, mapped = _both(tmp_path, array, slices_first=slices_first)
    again = _both(tmp_path, array * 0, slices_first=slices_first)  # found, and not built
    for form in (packed, mapped, *again):
        assert (form.shape, form.dtype, form.ndim, form.nbytes) == (shape, np.dtype(dtype), array.ndim, array.nbytes)
        assert np.ascontiguousarray(form).tobytes() == array.tobytes()
    assert len(packed) == shape[0] and np.asarray(packed, dtype="float64").dtype == "float64"
    random = np.random.default_rng(1)
    for _ in range(40):
        key = tuple(_part(random, size) for size in shape[: random.integers(1, len(shape) + 1)])
        if random.random() < 0.3:
            key = (..., *key) if random.random() < 0.5 else (*key, ...)
        if len(key) > 1 and random.random() < 0.2:
            key = key[0]
        expected = _outcome(array, key)
        assert _outcome(packed, key) == expected, key
        window = [int(random.integers(1, 2 * size + 1)) for size in shape[-3:]]
        start = [int(random.integers(-size, size + 1)) for size in shape[-3:]]
        patches = [crop_pad(kind, start, window) for kind in (array, packed, mapped)]  # type: ignore[arg-type]
        assert len({patch.tobytes() for patch in patches}) == 1
        assert all(patch.flags.c_contiguous and patch.flags.owndata and patch.flags.writeable for patch in patches)


def _both(root: Path, array: Array, *, slices_first: bool) -> tuple[Stored, Array]:
    packed = stored(Cache(root, form="blosc2"), array, slices_first=slices_first)
    mapped = Cache(root, form="npy").array(["a", str(slices_first)], lambda: array, slices_first=slices_first)
    assert isinstance(mapped, np.memmap)
    return packed, mapped


def _part(random: np.random.Generator, size: int) -> Any:
    if random.random() < 0.4:
        return int(random.integers(-size - 1, size + 1))
    low, high = (None if random.random() < 0.3 else int(random.integers(-size - 2, size + 3)) for _ in range(2))
    return slice(low, high, (None, 1, 2, 3, -1, -2)[random.integers(6)])


def _outcome(array: Any, key: Any) -> object:
    try:
        found = np.asarray(array[key])
    except IndexError:
        return IndexError
    return found.shape, found.dtype, found.tobytes()


def test_rarer_ways_of_indexing(tmp_path: Path) -> None:
    array = volume()
    packed = stored(Cache(tmp_path, form="blosc2"), array)
    keys: list[Any] = [np.s_[:, None], np.s_[[1, 0]], np.s_[0, [2, 3]], array > 1, np.int64(1), np.s_[0, 1, 2, 3], np.s_[...]]
    for key in keys:
        assert np.array_equal(packed[key], array[key])
    beyond: list[Any] = [np.s_[0, 0, 0, 0, 0], np.s_[..., ...], np.s_[2], np.s_[:, -71]]
    for key in beyond:
        with pytest.raises(IndexError):
            packed[key]
    with pytest.raises(ValueError, match="unpacked"):
        np.asarray(packed, copy=False)
    again = copy.copy(packed)  # as a process that is started gets it: by the path
    assert again is not packed and np.array_equal(again, array)


def test_a_patch_unpacks_its_own_blocks_only(tmp_path: Path) -> None:
    """Everything of the file that a patch has no part in may be spoiled."""
    array = np.random.default_rng(0).normal(size=(1, 128, 128, 128)).astype(np.float32)
    packed = stored(Cache(tmp_path, form="blosc2"), array)
    assert packed.pieces == pieces_of(array.shape, slices_first=False) == ((1, 64, 64, 64), (1, 16, 16, 32))
    whole = packed.path.read_bytes()
    first, last = int(len(whole) * 0.80), int(len(whole) * 0.99)  # the last of eight chunks, and half of the one before
    with packed.path.open("r+b") as file:
        file.seek(first)
        file.write(b"\xff" * (last - first))
    assert np.array_equal(packed[0, :64, :64, :64], array[0, :64, :64, :64])
    with pytest.raises(DataError, match=r"prepared array must be whole.*Delete the file"):
        packed[0, 64:, 64:, 64:]


def test_a_large_volume_is_packed(tmp_path: Path) -> None:
    array = np.repeat(volume((1, 64, 64, 16)), 5, axis=-1)
    got: object = Cache(tmp_path).array(["a"], lambda: array)
    assert isinstance(got, Stored) and got.path.stat().st_size < array.nbytes / 3
    assert got.path == Cache(tmp_path).path(["a"], ".b2nd")


# ----------------------------------------------------------------------------------------------------------------- damage


@pytest.mark.parametrize("form", ["npy", "blosc2"])
def test_an_entry_cut_anywhere_is_rebuilt(tmp_path: Path, form: Form) -> None:
    array = volume((1, 20, 20, 20))
    cache = Cache(tmp_path, form=form)
    path = cache.path(["a"], ".npy" if form == "npy" else ".b2nd")
    cache.array(["a"], lambda: array)
    whole = path.read_bytes()
    for length in [*range(0, len(whole), max(1, len(whole) // 50)), *range(len(whole) - 30, len(whole))]:
        path.write_bytes(whole[:length])
        builder = Builder(array)
        assert np.array_equal(cache.array(["a"], builder), array) and builder.calls == 1, length
        assert path.read_bytes() == whole


@pytest.mark.parametrize("form", ["npy", "blosc2"])
def test_a_flipped_bit_is_found_by_the_sum(tmp_path: Path, form: Form) -> None:
    """Packed entries are summed when a process first opens them; mapped ones where somebody asks for it."""
    array = volume((1, 20, 20, 20))
    path = Cache(tmp_path, form=form).path(["a"], ".npy" if form == "npy" else ".b2nd")
    Cache(tmp_path, form=form).array(["a"], lambda: array)
    whole = path.read_bytes()
    for at in np.random.default_rng(0).integers(len(whole), size=60):
        spoiled = bytearray(whole)
        spoiled[at] ^= 1 << int(at % 8)
        path.write_bytes(spoiled)
        WHOLE.clear()  # as in a new process
        builder = Builder(array)
        cache = Cache(tmp_path, form=form, thorough=form == "npy")
        assert np.array_equal(cache.array(["a"], builder), array)
        assert builder.calls == 1 and path.read_bytes() == whole, at


def test_an_entry_of_another_layout_or_with_more_in_it_is_not_taken(tmp_path: Path) -> None:
    import blosc2

    array, cache = volume((1, 40, 40, 40)), Cache(tmp_path, form="blosc2")
    path = stored(cache, array).path
    whole = path.read_bytes()
    other = tmp_path / "other.b2nd"
    stranger = blosc2.asarray(array, chunks=(1, 40, 40, 40), blocks=(1, 40, 40, 40), urlpath=str(other), mode="w")
    del stranger
    more = tmp_path / "more.b2nd"
    chunks, blocks = pieces_of(array.shape, slices_first=False)
    blosc2.asarray(array, chunks=chunks, blocks=blocks, urlpath=str(more), mode="w", meta={"LazyArray": {"expression": "x"}})
    for frame in (other.read_bytes(), more.read_bytes()):
        path.write_bytes(frame)
        builder = Builder(array)
        assert np.array_equal(cache.array(["a", "False"], builder), array) and builder.calls == 1
        assert path.read_bytes() == whole


# -------------------------------------------------------------------------------------------------------------- disk full


@contextmanager
def full_after(monkeypatch: pytest.MonkeyPatch, room: int, code: int = errno.ENOSPC) -> Iterator[None]:
    """A disk on which a file gets no more than `room` bytes."""

    class Full:
        def __init__(self, file: BinaryIO) -> None:
            self.file, self.left = file, room

        def write(self, data: bytes) -> int:
            taken = min(len(data), self.left)
            self.left -= taken
            self.file.write(bytes(data)[:taken])
            if taken < len(data):
                raise OSError(code, os.strerror(code))
            return taken

    @contextmanager
    def small(path: Path) -> Iterator[Any]:
        with replacing(path) as file:
            yield Full(file)

    with monkeypatch.context() as patch:
        patch.setattr("comodal.data.stored.replacing", small)
        yield


@pytest.mark.parametrize("form", ["npy", "blosc2"])
@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG])
def test_a_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, form: Form, code: int) -> None:
    array, cache = volume(), Cache(tmp_path / "cache", form=form)
    cache.array(["before"], lambda: array)
    files = sorted((tmp_path / "cache").rglob("*"))
    text = ""
    with full_after(monkeypatch, 3000, code):
        with pytest.raises(CacheError) as caught:
            cache.array(["a"], lambda: array)
        text = str(caught.value)
        assert np.array_equal(cache.array(["before"], pytest.fail), array)
    assert text.startswith("data.cache must have room for the prepared images; got ") and "bytes free for an array of" in text
    assert f"{array.nbytes:,} bytes ({os.strerror(code)}) [file {tmp_path / 'cache'}]. Free some space" in text
    assert [p for p in sorted((tmp_path / "cache").rglob("*")) if p.is_file()] == [p for p in files if p.is_file()]
    assert np.array_equal(cache.array(["a"], lambda: array), array)  # space was freed


def test_a_file_that_may_not_grow(tmp_path: Path) -> None:
    """By the system itself, in a process of its own."""
    code = f"""
import resource, numpy as np
from comodal.data.cache import Cache
from comodal.errors import CacheError
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
for form in ("npy", "blosc2"):
    try:
        Cache({str(tmp_path)!r}, form=form).array(["a"], lambda: np.random.default_rng(0).random((1, 64, 64, 64)))
    except CacheError as error:
        assert "room" in str(error), error
    else:
        raise SystemExit("it grew")
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr
    assert not [p for p in tmp_path.rglob("*") if p.is_file()]


def test_a_folder_that_cannot_be_made(tmp_path: Path, builder: Builder) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(CacheError, match=r"data.cache must be a folder in which files can be written; got .*Make the folder"):
        Cache(tmp_path / "file").array(["a"], builder)


def test_what_a_killed_process_left_is_swept_when_it_is_old(tmp_path: Path, builder: Builder) -> None:
    cache = Cache(tmp_path)
    entry = cache.path(["a"])
    cache.array(["a"], builder)
    old, young = (entry.with_name(f".{entry.name}.{pid}.partial") for pid in (1, 2))
    for left in (old, young):
        left.write_bytes(b"half")
    os.utime(old, (time.time() - 7200,) * 2)
    cache.sweep()
    assert entry.exists() and young.exists() and not old.exists()
