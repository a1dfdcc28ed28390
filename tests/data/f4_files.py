"""Entries of F4 about one file: damage, headers, geometry. Every E here is a file that must never yield an array."""

from __future__ import annotations

import gzip
import os
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import nibabel as nib
import numpy as np
from tests.data.f4_scene import (
    SILENT,
    Entry,
    Level,
    Outcome,
    array_of,
    checked,
    cohort_in,
    file,
    header_bytes,
    image,
    same,
    save,
)

from comodal.data import formats_nifti
from comodal.data.reading import read_volume, write_volume


def _entry(group: str, name: str, what: str, expected: Level, build: Callable[[Path], object], **more: Any) -> Entry:
    """One file that replaces t1 of the first case."""
    exact = more.pop("exact", False)
    run = same(build, **more) if exact else image(build, **more)
    return Entry(f"{group.lower()}-{name}", group, what, expected, run, file(build) if expected == "E" else None)


def _cut(share: float) -> Callable[[Path], object]:
    def build(path: Path) -> None:
        data = path.read_bytes()
        path.write_bytes(data[: max(1, int(len(data) * share))])

    return build


def _as_bytes(change: Callable[[bytes], bytes]) -> Callable[[Path], object]:
    return lambda path: path.write_bytes(change(path.read_bytes()))


def _crc(data: bytes) -> bytes:
    return data[:-8] + bytes([data[-8] ^ 255]) + data[-7:]


def _members(data: bytes) -> bytes:
    plain = gzip.decompress(data)
    return gzip.compress(plain[:500]) + gzip.compress(plain[500:])


def _bomb(data: bytes) -> bytes:
    return gzip.compress(gzip.decompress(data) + bytes(40_000_000))


def _pack(offset: int, form: str, *values: Any) -> Callable[[Path], object]:
    """Numbers written into the NIfTI-1 header."""

    def change(data: bytearray) -> None:
        struct.pack_into("<" + form, data, offset, *values)

    return lambda path: header_bytes(path, change)


def _nifti(array: Any, **header: Any) -> Callable[[Path], object]:
    """Another image with these fields set."""

    def build(path: Path) -> None:
        made = nib.Nifti1Image(array, np.eye(4), dtype=array.dtype)
        for key, value in header.items():
            made.header[key] = value
        nib.save(made, path)

    return build


def _big_endian(path: Path) -> None:
    nib.save(nib.Nifti1Image(array_of(0, "t1").astype(">i2"), np.eye(4), nib.Nifti1Header(endianness=">")), path)


def _nifti2(path: Path) -> None:
    nib.save(nib.Nifti2Image(array_of(0, "t1"), np.eye(4)), path)


def _forms(*, sform: Any, qform: Any) -> Callable[[Path], object]:
    """None leaves a form unset."""

    def build(path: Path) -> None:
        made = nib.Nifti1Image(array_of(0, "t1"), np.eye(4))
        made.set_sform(np.eye(4) if sform is None else sform, int(sform is not None))
        made.set_qform(np.eye(4) if qform is None else qform, int(qform is not None))
        nib.save(nib.Nifti1Image(array_of(0, "t1"), None, made.header), path)

    return build


def _denied(root: Path) -> Outcome:
    """By a stand-in for the system: a test that runs as the administrator may read everything."""
    cohort, real = cohort_in(root), Path.open

    def denying(self: Path, *args: Any, **more: Any) -> Any:
        if self.name == "0_t1.nii.gz":
            raise PermissionError(13, "Permission denied")
        return real(self, *args, **more)

    with mock.patch.object(Path, "open", denying):
        return checked(cohort, column="t1")


def _changing(root: Path) -> Outcome:
    """Somebody appends to the file while it is read."""
    cohort, real = cohort_in(root), formats_nifti.Stream.finish

    def finish(self: formats_nifti.Stream) -> None:
        real(self)
        if self.source.path.name == "0_t1.nii.gz":
            with self.source.path.open("ab") as there:
                there.write(b"\0")

    with mock.patch.object(formats_nifti.Stream, "finish", finish):
        return checked(cohort, column="t1")


def _loop(path: Path) -> None:
    path.unlink()
    path.symlink_to(path)


def _pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def _full(root: Path) -> Outcome:
    """A disk without room: nothing half-written stays, and what was there stays."""
    volume = read_volume(save(root / "in.nii.gz", array_of(0, "t1")))
    written = write_volume(volume.array[0], volume.geometry, root / "out")
    before = written.read_bytes()
    with mock.patch("os.fsync", side_effect=OSError(28, "No space left on device")):
        try:
            write_volume(volume.array[0] + 1, volume.geometry, root / "out")
        except OSError as error:
            assert written.read_bytes() == before and sorted(os.listdir(root)) == ["in.nii.gz", "out.nii.gz"]
            return Outcome("E", f"{error.strerror}; the earlier file is untouched")
    return Outcome("H", SILENT)


FILES = (
    _entry("File", "zero-byte", "file of no bytes", "E", _as_bytes(lambda _: b"")),
    _entry("File", "html", "web page called .nii.gz", "E", _as_bytes(lambda _: b"<!DOCTYPE html><html></html>")),
    _entry("File", "cut-1", "gzip cut at 1 %", "E", _cut(0.01)),
    _entry("File", "cut-50", "gzip cut at 50 %", "E", _cut(0.5)),
    _entry("File", "cut-99", "gzip cut at 99 %", "E", _cut(0.99)),
    _entry("File", "crc", "wrong checksum", "E", _as_bytes(_crc)),
    _entry("File", "trailing-garbage", "bytes behind the gzip stream", "W", _as_bytes(lambda d: d + b"garbage"), exact=True),
    _entry("File", "gzip-members", "several gzip members in a row", "H", _as_bytes(_members), exact=True),
    _entry("File", "gzip-bomb", "40 MB of zeros behind the image, in 40 kB", "E", _as_bytes(_bomb)),
    _entry("File", "nii-called-gz", ".nii called .nii.gz", "H", _as_bytes(gzip.decompress), exact=True),
    _entry("File", "magic", "wrong magic", "E", _pack(344, "4s", b"abc\0")),
    _entry("File", "big-endian", "big-endian", "H", _big_endian, exact=True),
    _entry("File", "nifti-2", "NIfTI-2", "H", _nifti2, exact=True),
    _entry("File", "extension-flag", "extension flag without an extension", "H", _pack(348, "B", 1), exact=True),
    Entry("file-permission", "File", "no permission to read", "E", _denied),
    _entry("File", "symlink-loop", "link to itself", "E", _loop),
    _entry("File", "fifo", "pipe instead of a file", "E", _pipe),
    Entry("file-changes", "File", "file that changes while it is read", "E", _changing),
    Entry("file-disk-full", "File", "no room on the disk when writing", "E", _full),
)

BASE = array_of(0, "t1")
SHEARED = np.eye(4)
SHEARED[1, 2] = 0.4
MOVED = np.eye(4)
MOVED[0, 3] = 3

HEADERS = (
    _entry("Header", "dim-0", "dimension 0", "E", _pack(42, "h", 0)),
    _entry("Header", "dim-negative", "negative dimension", "E", _pack(42, "h", -8)),
    _entry("Header", "dim-huge", "65535^3 voxels", "E", _pack(42, "HHH", 65535, 65535, 65535)),
    _entry("Header", "pixdim-0", "voxel size 0, affine given", "W", _pack(80, "f", 0), exact=True),
    _entry("Header", "pixdim-negative", "negative voxel size, affine given", "W", _pack(80, "f", -1), exact=True),
    _entry("Header", "pixdim-nan", "voxel size NaN, affine given", "W", _pack(80, "f", float("nan")), exact=True),
    _entry(
        "Header",
        "pixdim-nan-alone",
        "voxel size NaN and no affine",
        "E",
        lambda path: (_forms(sform=None, qform=None)(path), _pack(80, "f", float("nan"))(path)),
    ),
    _entry("Header", "forms-disagree", "sform and qform disagree", "W", _forms(sform=np.eye(4), qform=MOVED), exact=True),
    _entry("Header", "no-form", "neither sform nor qform", "W", _forms(sform=None, qform=None)),
    _entry("Header", "sheared", "axes not at right angles", "W", lambda path: save(path, BASE, SHEARED), exact=True),
    _entry("Header", "flat", "axes in one plane", "E", _pack(280, "4f", 0, 1, 0, 0)),
    _entry("Header", "micrometres", "lengths in micrometres", "W", _nifti(BASE, xyzt_units=3), exact=True),
    _entry("Header", "metres", "lengths in metres", "W", _nifti(BASE, xyzt_units=1), exact=True),
    _entry("Header", "slope-0", "scl_slope 0", "H", _pack(112, "f", 0), exact=True),
    _entry("Header", "slope-nan", "scl_slope NaN", "H", _pack(112, "f", float("nan")), exact=True),
    _entry("Header", "slope-inf", "scl_slope infinite", "E", _pack(112, "f", float("inf"))),
    _entry("Header", "one-volume", "4-D with one volume", "H", _nifti(BASE[..., None]), exact=True),
    _entry("Header", "four-d", "4-D with two volumes", "E", _nifti(np.stack([BASE, BASE], -1))),
    _entry("Header", "rgb", "5-D colour", "E", _nifti(np.stack([BASE] * 3, -1)[:, :, :, None, :])),
    _entry("Header", "int64", "64-bit integers", "H", _nifti(BASE.astype(np.int64)), exact=True),
    _entry("Header", "uint64", "64-bit integers without sign", "H", _nifti(BASE.astype(np.uint64)), exact=True),
    _entry("Header", "complex", "complex voxels", "E", _nifti(BASE.astype(np.complex128))),
)


def _vector(root: Path) -> Outcome:
    """A displacement field: five axes, the last of them the components."""
    made = nib.Nifti1Image(np.stack([BASE] * 3, -1)[:, :, :, None, :].astype(np.float32), np.eye(4))
    made.header.set_intent("vector")
    nib.save(made, root / "a.nii.gz")
    array = read_volume(root / "a.nii.gz").array
    assert array.shape == (3, *BASE.shape)
    np.testing.assert_array_equal(array[2], BASE)
    return Outcome("H", "read with 3 channels")


def _moved(millimetres: float) -> Callable[[Path], object]:
    affine = np.eye(4)
    affine[0, 3] = millimetres
    return lambda path: save(path, array_of(0, "t2"), affine)


def _turned(affine: Any, axes: tuple[int, int, int], flips: tuple[int, ...]) -> Callable[[Path], object]:
    """The same voxels at the same places, stored along other axes."""
    stored = np.flip(array_of(0, "t2").transpose(axes), flips)
    return lambda path: save(path, stored, affine)


def _mm(columns: list[tuple[int, int]], origin: tuple[float, float, float]) -> Any:
    """An affine: file axis k runs along `columns[k]` = (axis of the patient, sign)."""
    affine = np.eye(4)
    affine[:3, :3] = 0
    for k, (axis, sign) in enumerate(columns):
        affine[axis, k] = sign
    affine[:3, 3] = origin
    return affine


def _geometry(name: str, what: str, expected: Level, build: Callable[[Path], object]) -> Entry:
    return Entry(f"geometry-{name}", "Geometry", what, expected, image(build, column="t2"))


def _slice(root: Path) -> Outcome:
    cohort = cohort_in(root)
    for column in ("t1", "t2", "seg"):
        save(root / f"0_{column}.nii.gz", array_of(0, column)[:, :, 3:4])
    return checked(cohort)


def _voxel(root: Path) -> Outcome:
    cohort = cohort_in(root)
    save(root / "0_t1.nii.gz", np.full((1, 1, 1), 7, dtype=np.int16))
    return checked(cohort, column="t1")


GEOMETRY = (
    Entry("header-vector", "Header", "5-D with the intent vector", "H", _vector),
    _geometry("off-1e-6", "affines differ by 1e-6 mm", "H", _moved(1e-6)),
    _geometry("off-0.1", "affines differ by 0.1 mm", "H", _moved(0.1)),
    _geometry("off-1", "affines differ by 1 mm", "W", _moved(1.0)),
    _geometry("off-100", "affines differ by 100 mm", "E", _moved(100)),
    _geometry("lps", "LPS instead of RAS", "H", _turned(_mm([(0, -1), (1, -1), (2, 1)], (7, 6, 0)), (0, 1, 2), (0, 1))),
    _geometry("permuted", "axes in another order", "H", _turned(_mm([(2, 1), (0, 1), (1, 1)], (0, 0, 0)), (2, 0, 1), ())),
    _geometry(
        "spacing", "another spacing", "H", lambda path: save(path, array_of(0, "t2")[::2, ::2, ::2], np.diag([2.0, 2, 2, 1]))
    ),
    _geometry("apart", "fields of view that do not overlap", "E", _moved(-50)),
    _geometry("gantry-tilt", "gantry tilt", "W", lambda path: save(path, array_of(0, "t2"), SHEARED)),
    Entry("geometry-one-slice", "Geometry", "volumes of one slice", "H", _slice),
    Entry("geometry-one-voxel", "Geometry", "an image of one voxel", "E", _voxel),
)
