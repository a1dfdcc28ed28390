"""Arrays as numpy writes them come back; damaged and hostile files are refused before they cost memory or run code."""

from __future__ import annotations

import io
import os
import struct
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from comodal.data import formats_numpy
from comodal.data.formats_numpy import ArraySource, read_array
from comodal.errors import ConfigError, DataError, UserError

MATRIX = np.arange(6.0).reshape(3, 2)
FLATTEN = "Flatten or pool it to one row of features per case."
AGAIN = "Copy or save it again."


def npy(array: NDArray[Any]) -> bytes:
    stream = io.BytesIO()
    np.lib.format.write_array(stream, array)
    return stream.getvalue()


def header(text: str, *, version: tuple[int, int] = (1, 0), length: int | None = None) -> bytes:
    body = text.encode("latin1") + b"\n"
    size = struct.pack("<H" if version == (1, 0) else "<I", len(body) if length is None else length)
    return b"\x93NUMPY" + bytes(version) + size + body


def described(shape: str, descr: str = "'<f8'") -> bytes:
    return header(f"{{'descr': {descr}, 'fortran_order': False, 'shape': {shape}}}")


def refusal(path: Path, content: bytes | None = None, *, key: str | None = None, kinds: str = "biuf") -> str:
    """Text of the error, with the folder left out."""
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UserError) as caught:
        read_array(ArraySource("X", path, key), kinds=kinds)
    return str(caught.value).replace(f"{path.parent}{os.sep}", "")


@pytest.mark.parametrize("dtype", ["?", "<i1", ">u2", "<i8", "<f2", ">f4", "<f8"])
@pytest.mark.parametrize("order", ["C", "F"])
def test_npy_both_ways(tmp_path: Path, dtype: str, order: str) -> None:
    path = tmp_path / "x.npy"
    array = np.array(MATRIX, dtype=dtype, order="F" if order == "F" else "C")
    np.save(path, array)
    read = read_array(ArraySource("X", path), kinds="biuf")
    assert read.dtype == array.dtype and np.array_equal(read, array)


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_npz_both_ways(tmp_path: Path, save: Any) -> None:
    path = tmp_path / "x.npz"
    arrays: dict[str, Any] = {"image": MATRIX, "deep/text": np.arange(50_000)}
    save(path, **arrays)
    assert np.array_equal(read_array(ArraySource("X", path, "image"), kinds="f"), MATRIX)
    assert np.array_equal(read_array(ArraySource("X", path, "deep/text"), kinds="i"), np.arange(50_000))
    save(tmp_path / "y.npz", MATRIX)
    assert np.array_equal(read_array(ArraySource("Y", tmp_path / "y.npz"), kinds="f"), MATRIX)


def test_other_versions_of_the_header(tmp_path: Path) -> None:
    path = tmp_path / "x.npy"
    for version in ((2, 0), (3, 0)):
        text = "{'descr': '<f8', 'fortran_order': False, 'shape': (3, 2)}"
        path.write_bytes(header(text, version=version) + MATRIX.tobytes())
        assert np.array_equal(read_array(ArraySource("X", path), kinds="f"), MATRIX)
    path.write_bytes(described("(3L, 2L)") + MATRIX.tobytes())  # of Python 2; numpy warns, and warnings are errors here
    assert np.array_equal(read_array(ArraySource("X", path), kinds="f"), MATRIX)


def test_keys_are_named(tmp_path: Path) -> None:
    path = tmp_path / "x.npz"
    np.savez(path, image=MATRIX, text=MATRIX)
    assert refusal(path) == (
        "X must name one array of the file; got 2 arrays: image, text [file x.npz]. Write x.npz:KEY with one of these."
    )
    assert refusal(path, key="imag") == (
        "X must name an array of the file; got 'imag' [file x.npz:imag]. Did you mean image? Known: image, text."
    )
    arrays: dict[str, Any] = {f"a{index:02}": MATRIX for index in range(22)}
    np.savez(path, **arrays)
    assert "got 22 arrays: a00, " in refusal(path) and ", a19 and 2 more [" in refusal(path)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("readme.txt", "nothing")
    assert refusal(path) == "X must hold an array; got none [file x.npz]. Save it with numpy.savez."


class Trap:
    """Unpickling it makes a folder."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("suffix", [".npy", ".npz"])
def test_pickled_objects_are_never_loaded(tmp_path: Path, suffix: str) -> None:
    path, trace = tmp_path / f"x{suffix}", tmp_path / "trace"
    array = np.array([Trap(trace)], dtype=object)
    np.save(tmp_path / "twin.npy", array)
    if suffix == ".npy":
        np.save(path, array)
    else:
        np.savez(path, a=array)
    text = f"X must hold numbers; got type object [file x{suffix}]. Save it as float64; objects are never unpickled."
    assert refusal(path) == text and not trace.exists()
    assert np.load(tmp_path / "twin.npy", allow_pickle=True).tolist() == [None] and trace.exists()  # the trap is one


@pytest.mark.parametrize(
    ("array", "kind"),
    [
        (np.array(["a"]), "<U1"),
        (np.array([b"a"]), "|S1"),
        (np.array([1j]), "complex128"),
        (np.array(["2020-01-01"], dtype="M8[D]"), "datetime64[D]"),
        (np.array([1], dtype="m8[s]"), "timedelta64[s]"),
        (np.zeros(1, dtype=[("a", "<f4")]), "[('a', '<f4')]"),
        (np.zeros(1, dtype="V4"), "|V4"),
        (np.zeros(1, dtype=np.longdouble), str(np.dtype(np.longdouble))),
    ],
)
def test_other_types_are_refused(tmp_path: Path, array: NDArray[Any], kind: str) -> None:
    if array.dtype == np.float64:
        pytest.skip("long double is double here")
    assert refusal(tmp_path / "x.npy", npy(array)) == (
        f"X must hold numbers; got type {kind} [file x.npy]. Save it as float64; objects are never unpickled."
    )


def test_labels_have_other_types(tmp_path: Path) -> None:
    path = tmp_path / "x.npy"
    np.save(path, np.array(["é", "b"]))
    assert read_array(ArraySource("X", path), kinds="biuSU").tolist() == ["é", "b"]
    text = "[file x.npy]. Save the labels as integers or text; objects are never unpickled."
    assert refusal(path, npy(MATRIX), kinds="biuSU") == f"X must hold integers or text; got type float64 {text}"
    empty = described("(3,)", "'<U0'")
    assert refusal(path, empty, kinds="biuSU").startswith("X must hold integers or text; got type <U0 [")


@pytest.mark.parametrize(
    ("array", "text"),
    [
        (np.float64(1), "have rows; got a single value without an axis [file x.npy]. Save one row for each case."),
        (
            np.zeros((2, 3, 4)),
            f"have one or two axes (rows, columns); got shape (2, 3, 4) [file x.npy]. {FLATTEN}",
        ),
        (np.zeros((0, 3)), "have at least one row; got shape (0, 3) [file x.npy]. Check how it was made."),
        (np.zeros(0), "have at least one row; got shape (0,) [file x.npy]. Check how it was made."),
        (np.zeros((3, 0)), "have at least one column; got shape (3, 0) [file x.npy]. Check how it was made."),
    ],
)
def test_other_shapes_are_refused(tmp_path: Path, array: Any, text: str) -> None:
    assert refusal(tmp_path / "x.npy", npy(np.asarray(array))) == f"X must {text}"


@pytest.mark.parametrize(
    ("content", "got"), [(npy(MATRIX)[:-1], 47), (npy(MATRIX) + b"\0\0", 50), (npy(MATRIX)[: len(npy(MATRIX)) - 48], 0)]
)
def test_another_number_of_bytes(tmp_path: Path, content: bytes, got: int) -> None:
    text = f"X must hold 48 bytes after its header, as the header says; got {got} [file %s]. {AGAIN}"
    assert refusal(tmp_path / "x.npy", content) == text % "x.npy"
    with zipfile.ZipFile(tmp_path / "x.npz", "w") as archive:
        archive.writestr("a.npy", content)
    assert refusal(tmp_path / "x.npz") == text % "x.npz"


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"PK\x03\x04",
        b"\x93NUMPY",
        b"\x93NUMPY\x09\x00" + npy(MATRIX)[8:],
        npy(MATRIX)[:60],
        header("{'descr': '<f8', 'fortran_order': False, 'shape': (3, 2)}", version=(2, 0), length=2**32 - 1),
        header("{'descr': '<f8', 'fortran_order': False}"),
        header("__import__('os').abort()"),
        header("(" * 9000),
        described("(" + "9" * 5000 + ",)"),
        described("(2.0, 3)"),
        described("(3,)", "'<f77'"),
        described("(3,)", "('<f8', -1)"),
        described("(3,)", r"'\d'"),
    ],
)
def test_damaged_headers(tmp_path: Path, content: bytes) -> None:
    text = "X must be a .npy array; got something else, or a damaged header [file %s]. Save it with numpy.save or numpy.savez."
    assert refusal(tmp_path / "x.npy", content) == text % "x.npy"
    with zipfile.ZipFile(tmp_path / "x.npz", "w") as archive:
        archive.writestr("a.npy", content)
    assert refusal(tmp_path / "x.npz") == text % "x.npz"


@pytest.mark.parametrize(
    ("shape", "text"),
    [
        ("(-1, 2)", "have a possible shape; got a damaged or hostile header"),
        ("(2, 0x" + "f" * 8000 + ")", "have a possible shape; got a damaged or hostile header"),  # str() of it would fail
        ("(" + "1," * 4000 + ")", "have one or two axes (rows, columns); got shape (1, 1, 1, 1, 1, 1, ...)"),
        ("(2000000000, 2000000000)", "hold at most 2 GiB as float64; got shape (2000000000, 2000000000) of type float64"),
        ("(300000000,)", "hold at most 2 GiB as float64; got shape (300000000,) of type float64"),
        ("(200000000,)", "hold 1600000000 bytes after its header, as the header says; got 0"),
    ],
)
def test_absurd_shapes_cost_nothing(tmp_path: Path, shape: str, text: str) -> None:
    assert refusal(tmp_path / "x.npy", described(shape)).startswith(f"X must {text} [file x.npy]. ")
    with zipfile.ZipFile(tmp_path / "x.npz", "w") as archive:
        archive.writestr("a.npy", described(shape))
    assert refusal(tmp_path / "x.npz").startswith(f"X must {text} [file x.npz]. ")


def test_small_types_count_as_float64(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(formats_numpy, "MAX_BYTES", 1024)
    np.save(tmp_path / "x.npy", np.zeros(128, dtype=bool))
    assert len(read_array(ArraySource("X", tmp_path / "x.npy"), kinds="b")) == 128
    assert "got shape (129,) of type bool" in refusal(tmp_path / "x.npy", npy(np.zeros(129, dtype=bool)))


def test_a_bomb_is_refused_unread(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "x.npz"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.npy", npy(np.zeros(8)) + bytes(8 * 1024**2))
    assert path.stat().st_size < 20_000
    seen: list[int] = []
    original = zipfile.ZipExtFile.read

    def read(self: zipfile.ZipExtFile, n: int | None = -1) -> bytes:
        seen.append(-1 if n is None else n)
        return original(self, n)

    monkeypatch.setattr(zipfile.ZipExtFile, "read", read)
    assert "hold 64 bytes after its header, as the header says; got 8388672" in refusal(path)
    assert seen == [16 * 1024]


def test_damaged_zip(tmp_path: Path) -> None:
    path = tmp_path / "x.npz"
    np.savez(path, a=np.arange(40_000.0))
    content = bytearray(path.read_bytes())
    content[200_000] ^= 1
    start = "X must be an undamaged .npz file; got"
    assert refusal(path, bytes(content)) == f"{start} Bad CRC-32 for file 'a.npy' [file x.npz]. {AGAIN}"
    assert refusal(path, bytes(content[:1000])) == f"{start} File is not a zip file [file x.npz]. {AGAIN}"
    np.savez_compressed(path, a=np.random.default_rng(0).normal(size=4000))
    content = bytearray(path.read_bytes())
    content[1000:1040] = bytes(40)
    assert refusal(path, bytes(content)).startswith(start)


def test_a_zip_that_numpy_would_not_write(tmp_path: Path) -> None:
    path = tmp_path / "x.npz"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_LZMA) as archive:
        archive.writestr("a.npy", npy(MATRIX))
    text = "X must be compressed as numpy does it; got another compression [file x.npz]. Save it with numpy.savez_compressed."
    assert refusal(path) == text
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a.npy", npy(MATRIX))
        with pytest.warns(UserWarning, match="Duplicate"):
            archive.writestr("a.npy", npy(MATRIX))
    assert refusal(path, key="a") == (
        "X must hold each array once; got two of this name [file x.npz:a]. Save it again with numpy.savez."
    )
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a.npy", npy(MATRIX))
    content = bytearray(path.read_bytes())
    content[6] |= 1
    content[content.index(b"PK\x01\x02") + 8] |= 1
    assert "is encrypted, password required" in refusal(path, bytes(content))


def test_errors_say_which_kind_of_mistake(tmp_path: Path) -> None:
    path = tmp_path / "x.npz"
    np.savez(path, a=MATRIX, b=MATRIX)
    with pytest.raises(ConfigError):
        read_array(ArraySource("X", path), kinds="f")
    with pytest.raises(DataError, match=r"X must be readable; got No such file or directory .*Check the file"):
        read_array(ArraySource("X", tmp_path / "no.npy"), kinds="f")


def test_no_damage_escapes_as_another_error(tmp_path: Path) -> None:
    np.savez_compressed(tmp_path / "z.npz", a=MATRIX)
    rng = np.random.default_rng(0)
    for path, content in ((tmp_path / "x.npz", (tmp_path / "z.npz").read_bytes()), (tmp_path / "x.npy", npy(MATRIX))):
        refused = 0
        for _ in range(300):
            damaged = bytearray(content)
            for place in rng.integers(0, len(content), size=2):
                damaged[place] = rng.integers(0, 256)
            path.write_bytes(bytes(damaged))
            try:
                read_array(ArraySource("X", path), kinds="biufSU")
            except UserError:
                refused += 1
        assert refused > 30  # the damage was met; what is still a valid array may be read
