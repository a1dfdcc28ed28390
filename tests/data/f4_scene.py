"""What the entries of list F4 share: a small cohort, and what comodal says of it once something is wrong with it."""

from __future__ import annotations

import gzip
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias

import nibabel as nib
import numpy as np

from comodal.data.cohort import Case, Cohort, CohortMeta, ModalitySpec, TargetSpec
from comodal.data.integrity import CheckReport, check_cohort
from comodal.data.reading import read_volume
from comodal.errors import UserError

Level: TypeAlias = Literal["E", "W", "H", "n/a"]
LEVELS: dict[str, Level] = {"error": "E", "warning": "W", "note": "H"}
SILENT = "read without a remark"
SHAPE = (8, 7, 6)
SEG = TargetSpec(name="seg", kind="regions", classes=["WT", "ET"], codes=[[1, 4], [4]], paint=[1, 4])
GRADE = TargetSpec(name="grade", kind="class", classes=["low", "high"])


@dataclass(frozen=True)
class Outcome:
    """What comodal did: E refused or said as an error, W warned, H handled (with a note, or in silence)."""

    level: Level
    text: str


@dataclass(frozen=True)
class Entry:
    """One bad input of F4.

    Attributes:
        id: Of the test.
        group: Of the list.
        what: The input.
        expected: The outcome that the list states.
        run: Builds the input in an empty folder, gives it to comodal, and says what came of it.
        damaged: Given, it makes a file that must never yield an array.
    """

    id: str
    group: str
    what: str
    expected: Level
    run: Callable[[Path], Outcome]
    damaged: Callable[[Path], Path] | None = None


def array_of(case: int, column: str) -> Any:
    """An image, or a label map with both regions."""
    if column != "seg":
        return np.random.default_rng([case, len(column), ord(column[-1])]).integers(1, 500, SHAPE).astype(np.int16)
    labels = np.zeros(SHAPE, dtype=np.uint8)
    labels[2:5, 2:5, 2:5] = 1
    labels[3, 3, 3] = 4
    return labels


def save(path: Path, array: Any, affine: Any = None) -> Path:
    nib.save(nib.Nifti1Image(array, np.eye(4) if affine is None else affine), path)
    return path


def header_bytes(path: Path, change: Callable[[bytearray], object], *, packed: bool = True) -> Path:
    """The same NIfTI file with changed bytes."""
    data = path.read_bytes()
    plain = bytearray(gzip.decompress(data) if data[:2] == b"\x1f\x8b" else data)
    change(plain)
    path.write_bytes(gzip.compress(bytes(plain)) if packed else bytes(plain))
    return path


def cohort_in(root: Path, cases: int = 3) -> Cohort:
    """p0, p1, ... with t1, t2 and seg; without a defect."""
    rows = []
    for k in range(cases):
        cells = {column: f"{k}_{column}.nii.gz" for column in ("t1", "t2", "seg")}
        for column, name in cells.items():
            save(root / name, array_of(k, column))
        rows.append(Case.build(f"p{k}", cells=cells))
    meta = CohortMeta(layout="csv", root="", modalities=[ModalitySpec(name="t1"), ModalitySpec(name="t2")], targets=[SEG])
    return Cohort.build(meta, rows, root)


def texts_in(root: Path, texts: list[str], *, grades: list[str] | None = None) -> Cohort:
    """p0, p1, ... with a report in a file and, where given, a class."""
    rows = []
    for k, text in enumerate(texts):
        (root / f"{k}.txt").write_text(text, encoding="utf-8")
        cells = {"report": f"{k}.txt"} | ({"grade": grades[k]} if grades else {})
        rows.append(Case.build(f"p{k}", cells=cells))
    report = ModalitySpec(name="report", kind="text", spatial_dims=0)
    return Cohort.build(CohortMeta(layout="csv", root="", modalities=[report], targets=[GRADE] if grades else []), rows, root)


def worst(report: CheckReport, *, column: str | None = None, text: str = "") -> Outcome:
    """The gravest remark: of one column (and then of p0), or of all; only those that match `text`."""
    for defect in report.defects:
        if column is not None and (defect.modality != column or defect.subject not in ("", "p0")):
            continue
        if re.search(text, defect.rule):
            return Outcome(LEVELS[defect.level], defect.rule)
    return Outcome("H", SILENT)


def checked(cohort: Cohort, *, column: str | None = None, text: str = "") -> Outcome:
    """What `comodal check` says of a cohort."""
    return worst(check_cohort(cohort), column=column, text=text)


def image(build: Callable[[Path], object], *, column: str = "t1", name: str = "") -> Callable[[Path], Outcome]:
    """A run: the file of p0 is made anew by `build(path)`, and the cohort is checked.

    Args:
        build: Given the path of the good file, damages or replaces it.
        column: Whose file.
        name: Of the file, where it is not 0_<column>.nii.gz.
    """

    def run(root: Path) -> Outcome:
        cohort = cohort_in(root)
        file = root / f"0_{column}.nii.gz"
        if name:
            file = file.rename(root / name)
            first, *rest = cohort.cases
            renamed = Case.build(first.subject, cells={**first.cells, column: name})
            cohort = Cohort.build(cohort.meta, [renamed, *rest], root)
        build(file)
        return checked(cohort, column=column)

    return run


def file(build: Callable[[Path], object], *, column: str = "t1") -> Callable[[Path], Path]:
    """The same file by itself, to be read."""

    def damaged(root: Path) -> Path:
        path = save(root / "0.nii.gz", array_of(0, column))
        build(path)
        return path

    return damaged


def same(build: Callable[[Path], object], *, name: str = "", rtol: float = 0) -> Callable[[Path], Outcome]:
    """As `image`, and the file must hold the voxels of the good one."""

    def run(root: Path) -> Outcome:
        outcome = image(build, name=name)(root)
        np.testing.assert_allclose(read_volume(root / (name or "0_t1.nii.gz")).array[0], array_of(0, "t1"), rtol=rtol)
        return outcome

    return run


def refused(call: Callable[[], object]) -> Outcome:
    """E with the message where the call is refused as a mistake of the user; H where it is not."""
    try:
        call()
    except UserError as error:
        rule, _, _ = str(error).removesuffix(".").rpartition(". ")
        return Outcome("E", re.sub(r" \[(subject|modality|file) .*\]$", "", rule))
    return Outcome("H", SILENT)
