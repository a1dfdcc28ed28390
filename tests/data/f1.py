"""The data sets with one defect each that section F1 of the comparison with other tools lists, rebuilt small.

Six patients with t1, t2 and a label map; the defect is in one of them. Each entry says which remark is due.
"""

from __future__ import annotations

import gzip
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np

from comodal.data.cohort import Case, Cohort, CohortMeta, ModalitySpec, TargetSpec

CASES = 6
SHAPE = (32, 32, 40)
SPACING = 2.0
COLUMNS = ("t1", "t2", "seg")
LESION = (slice(10, 22), slice(8, 20), slice(14, 26))  # 1,728 voxels


def affine(*, origin: float = 0.0, flipped: bool = False) -> Any:
    """RAS, 2 mm; the origin moved along X, or X turned round."""
    found = np.diag([-SPACING if flipped else SPACING, SPACING, SPACING, 1.0])
    found[0, 3] = origin
    return found


def image(case: int, column: str) -> Any:
    """A head of one's own: t1 has bright white matter, t2 bright fluid; int16, 0 outside."""
    rng = np.random.default_rng([case, COLUMNS.index(column)])
    x, y, z = np.meshgrid(*(np.linspace(-1, 1, n) for n in SHAPE), indexing="ij")
    turn = np.random.default_rng([case, 9]).uniform(0.8, 1.2, 6)
    radius = np.sqrt((x * turn[0]) ** 2 + (y * turn[1]) ** 2 + (z * turn[2]) ** 2)
    folds = np.sin(5 * turn[3] * x) * np.sin(4 * turn[4] * y) * np.sin(6 * turn[5] * z)
    white, fluid = folds > -0.1, radius < 0.25
    signal = np.where(white, 1.0, 0.7) if column == "t1" else np.where(white, 0.35, 0.45)
    signal[fluid] = 0.2 if column == "t1" else 1.8
    signal[LESION] *= 0.9 if column == "t1" else 1.5
    values = 400 * rng.uniform(0.7, 1.4) * (signal + 0.03 * rng.standard_normal(SHAPE))
    return np.where(radius < 0.9, np.clip(values, 1, 30000), 0).astype(np.int16)


def labels() -> Any:
    """Region 1 with region 2 inside."""
    found = np.zeros(SHAPE, dtype=np.uint8)
    found[LESION] = 1
    found[14:18, 12:16, 18:22] = 2
    return found


def save(path: Path, array: Any, matrix: Any = None) -> None:
    nib.save(nib.Nifti1Image(array, affine() if matrix is None else matrix), path)


def file_of(root: Path, case: int, column: str) -> Path:
    return root / f"p{case}_{column}.nii.gz"


def write(root: Path, cases: int = CASES) -> Path:
    """The data set without a defect; returns its cohort.csv."""
    rows = []
    for k in range(cases):
        for column in ("t1", "t2"):
            save(file_of(root, k, column), image(k, column))
        save(file_of(root, k, "seg"), labels())
        rows.append(Case.build(f"p{k}", cells={column: file_of(root, k, column).name for column in COLUMNS}))
    seg = TargetSpec(name="seg", kind="labels", classes=["oedema", "core"], codes=[[1], [2]], paint=[1, 2])
    meta = CohortMeta(layout="csv", root="", modalities=[ModalitySpec(name="t1"), ModalitySpec(name="t2")], targets=[seg])
    return Cohort.build(meta, rows, root).save(root / "cohort.csv")


@dataclass(frozen=True)
class Defective:
    """One data set. break_it: damages the clean one; the rest is the remark that is due."""

    name: str
    break_it: Callable[[Path], object]
    level: str
    subject: str
    column: str
    text: str


def _change(case: int, column: str, change: Callable[[Any], Any], *, matrix: Any = None) -> Callable[[Path], None]:
    def break_it(root: Path) -> None:
        array = labels() if column == "seg" else image(case, column)
        save(file_of(root, case, column), change(array), matrix)

    return break_it


def _bytes(case: int, column: str, change: Callable[[bytes], bytes]) -> Callable[[Path], None]:
    def break_it(root: Path) -> None:
        file = file_of(root, case, column)
        file.write_bytes(change(file.read_bytes()))

    return break_it


def _with(value: float) -> Callable[[Any], Any]:
    """One voxel has this value."""

    def change(array: Any) -> Any:
        changed = array.astype(np.float32)
        changed[16, 16, 20] = value
        return changed

    return change


def _empty(root: Path) -> None:
    for k in range(3):
        save(file_of(root, k, "seg"), np.zeros(SHAPE, dtype=np.uint8))


def _duplicate(root: Path) -> None:
    for column in COLUMNS:
        file_of(root, 3, column).write_bytes(file_of(root, 0, column).read_bytes())


def _swap(root: Path) -> None:
    save(file_of(root, 0, "t1"), image(0, "t2"))
    save(file_of(root, 0, "t2"), image(0, "t1"))


def _no_voxel_size(root: Path) -> None:
    file = file_of(root, 0, "t1")
    data = bytearray(gzip.decompress(file.read_bytes()))
    data[80:84] = np.float32(0).tobytes()
    file.write_bytes(gzip.compress(bytes(data)))


def cut(share: float) -> Callable[[bytes], bytes]:
    """The first part of a file."""
    return lambda data: data[: int(len(data) * share)]


def _four(array: Any) -> Any:
    return np.stack([array, array + 1], axis=-1)


DATA_SETS = (
    Defective("3 of 6 masks empty", _empty, "note", "", "seg", r"label map is empty in 3 of 6 cases \(p0, p1, p2\)"),
    Defective("one NaN voxel", _change(0, "t1", _with(np.nan)), "error", "p0", "t1", "finite numbers; got 1 NaN or infinite"),
    Defective("one Inf voxel", _change(0, "t2", _with(np.inf)), "error", "p0", "t2", "finite numbers; got 1 NaN or infinite"),
    Defective(".nii.gz cut in half", _bytes(0, "t1", cut(0.5)), "error", "p0", "t1", "complete gzip file"),
    Defective("gzip CRC wrong", _bytes(0, "t1", lambda d: d[:-8] + b"\1\2\3\4" + d[-4:]), "error", "p0", "t1", "checksum"),
    Defective("one channel all zero", _change(0, "t2", np.zeros_like), "warning", "p0", "t2", "every voxel is 0"),
    Defective("byte-identical duplicate case", _duplicate, "error", "p3", "t1", "the pixels equal t1 of p0"),
    Defective("two channels swapped in one case", _swap, "warning", "p0", "t1", "t1 and t2 look swapped"),
    Defective(
        "label origin +100 mm", _change(0, "seg", np.copy, matrix=affine(origin=100)), "error", "p0", "seg", "wholly outside t1"
    ),
    Defective(
        "label direction flipped", _change(0, "seg", np.copy, matrix=affine(flipped=True)), "warning", "p0", "seg", "mm off t1"
    ),
    Defective(
        "channel origin +50 mm",
        _change(0, "t2", np.copy, matrix=affine(origin=50)),
        "warning",
        "p0",
        "t2",
        "up to 50.0 mm off t1",
    ),
    Defective("zero voxel size", _no_voxel_size, "warning", "", "t1", r"pixdim is not positive.* in 1 of 6 cases \(p0\)"),
    Defective("4D image", _change(0, "t1", _four), "error", "p0", "t1", "must hold one volume"),
    Defective("label 0.7", _change(0, "seg", lambda a: a * np.float32(0.7)), "error", "p0", "seg", "whole numbers as labels"),
    Defective("label 257", _change(0, "seg", lambda a: a.astype(np.int16) * 257), "error", "p0", "seg", "holds 257, 514"),
    Defective(
        "missing channel", lambda root: file_of(root, 0, "t2").unlink(), "error", "p0", "t2", "files that exist; got none"
    ),
    Defective(
        "table with BOM",
        lambda root: (root / "cohort.csv").write_bytes(b"\xef\xbb\xbf" + (root / "cohort.csv").read_bytes()),
        "note",
        "",
        "",
        "byte order mark",
    ),
    Defective(
        "HTML page named .nii.gz", _bytes(0, "t1", lambda _: b"<!DOCTYPE html><html>"), "error", "p0", "t1", "a web page"
    ),
    Defective("zero-byte file named .nii.gz", _bytes(0, "t1", lambda _: b""), "error", "p0", "t1", "an empty file"),
)

# Damage that is not in the first case; the shares of the files that are left.
LATER = (
    Defective("image cut to 50 %, not in the first case", _bytes(2, "t1", cut(0.5)), "error", "p2", "t1", "complete gzip file"),
    Defective("image cut to 5 %, not in the first case", _bytes(4, "t2", cut(0.05)), "error", "p4", "t2", "complete gzip file"),
    Defective(
        "label cut to 60 %, not in the first case", _bytes(5, "seg", cut(0.6)), "error", "p5", "seg", "complete gzip file"
    ),
)
