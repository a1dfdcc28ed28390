from __future__ import annotations

import gc
import math
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from tests.inference.fakes import Mean, problem

from comodal.data.cohort import Case, Cohort, CohortMeta, ModalitySpec, TargetSpec
from comodal.data.preprocessing import PreparedCase, Preparer, PreprocessingConfig
from comodal.errors import ConfigError, DataError
from comodal.evaluation.classification import metrics_of
from comodal.evaluation.metrics import Conventions
from comodal.evaluation.results import Results
from comodal.evaluation.subsets import evaluate
from comodal.method import Requirements
from comodal.modality import Target, subsets

SEG = TargetSpec(name="seg", kind="regions", classes=["WT"], codes=[[1]], paint=[1])
GRADE = TargetSpec(name="grade", kind="class", classes=["low", "high"])
RAW = PreprocessingConfig(normalise={"a": "none", "b": "none"})
ALL = list(subsets("ab"))


def cube(start: int, size: int = 4, shape: tuple[int, int, int] = (12, 10, 9)) -> np.ndarray:
    mask = np.zeros(shape, dtype=np.float32)
    mask[start : start + size, 3:7, 3:7] = 1
    return mask


def save(root: Path, name: str, array: np.ndarray, affine: np.ndarray | None = None) -> str:
    nib.Nifti1Image(array, np.eye(4) if affine is None else affine).to_filename(root / f"{name}.nii.gz")
    return f"{name}.nii.gz"


@pytest.fixture
def cohort(tmp_path: Path) -> Cohort:
    """p1: a is the truth, b lies one voxel off. p2 the same. p3 has no b. p4 has an empty truth, and a and b say so."""
    rows = {"p1": (4, 5), "p2": (2, 3), "p3": (3, None), "p4": (None, None)}
    cases = []
    for name, (at, off) in rows.items():
        empty = np.zeros((12, 10, 9), dtype=np.float32)
        truth = empty if at is None else cube(at)
        cells = {"seg": save(tmp_path, f"{name}_seg", truth.astype(np.uint8)), "a": save(tmp_path, f"{name}_a", truth)}
        if name != "p3":
            cells["b"] = save(tmp_path, f"{name}_b", empty if off is None else cube(off))
        cases.append(Case.build(name, cells=cells | {"grade": "high" if name in ("p1", "p2") else "low"}))
    return build(tmp_path, cases)


def build(root: Path, cases: list[Case]) -> Cohort:
    modalities = [ModalitySpec(name=n) for n in ("a", "b")]
    return Cohort.build(CohortMeta(layout="csv", root=".", modalities=modalities, targets=[SEG, GRADE]), cases, root)


def run(cohort: Cohort, method: Mean | None = None, **options: object) -> Results:
    method = method or Mean(problem((8, 8, 8), names="a b"))
    targets = [t.name for t in method.problem.targets]
    preparer = Preparer(cohort, RAW, modalities=("a", "b"), targets=targets)
    how: dict[str, object] = {"subsets": ALL, "seed": 5, "method_name": "mean", "cohort_name": "cubes", "split": "test"}
    return evaluate(method, preparer, cohort.cases, **(how | options))  # type: ignore[arg-type]


def test_the_table_by_hand(cohort: Cohort) -> None:
    found = run(cohort, subsets=["ba", "b", "a"])
    assert [row.present for row in found.subsets] == [("a",), ("b",), ("a", "b")]
    alone, off, both = (row.metrics for row in found.subsets)
    assert list(alone) == ["DSC/WT", "DSC/mean", "HD95/WT"]
    assert (alone["DSC/WT"].value, alone["DSC/WT"].n, alone["DSC/WT"].n_pos, alone["DSC/WT"].n_neg) == (1.0, 4, 3, 1)
    assert (alone["HD95/WT"].value, alone["HD95/WT"].n, alone["HD95/WT"].n_neg) == (0.0, 3, 0)
    # Row b: p1 and p2 overlap in 3 of 4 planes (DSC 3/4), p4 is empty in both (1); p3 has no b.
    assert off["DSC/WT"].value == pytest.approx((0.75 + 0.75 + 1) / 3)
    assert (off["DSC/WT"].n, off["HD95/WT"].n, off["HD95/WT"].value) == (3, 2, 1.0)
    # Row a+b: the mean is at least 0.5 in the union, 5 planes against 4: 2 * 4 / 9.
    assert both["DSC/WT"].value == pytest.approx((8 / 9 + 8 / 9 + 1) / 3)
    assert (both["DSC/WT"].ci95, both["DSC/WT"].note) == (None, "too few patients for an interval (fewer than 6)")
    assert alone["DSC/mean"] == alone["DSC/WT"]
    assert (found.method, found.cohort, found.split, found.seed, found.notes) == ("mean", "cubes", "test", 5, ())
    assert found.conventions.hd95_unit == "mm"


def test_cases_are_listed_with_the_subset_that_was_used(cohort: Cohort) -> None:
    found = run(cohort)
    assert [(c.subject, c.present) for c in found.cases if c.subject in ("p3", "p4")] == [
        ("p3", ("a",)),
        ("p4", ("a",)),
        ("p4", ("b",)),
        ("p4", ("a", "b")),
    ]
    assert found.case_values("HD95/WT", "b") == {"p1": 1.0, "p2": 1.0}
    assert found.cases[-1].metrics == {"DSC/WT": 1.0, "HD95/WT": None, "DSC/mean": 1.0}


def test_a_row_does_not_depend_on_the_other_rows(cohort: Cohort) -> None:
    whole = run(cohort)
    for subset in ALL:
        alone = run(cohort, subsets=[subset])
        assert alone.subsets == (whole.row(subset),)
        assert alone.cases == tuple(c for c in whole.cases if c.present == subset)


def test_absent_means_unread(cohort: Cohort) -> None:
    before = run(cohort, subsets=["a"])
    for case in cohort.cases:
        if "b" in case.cells:
            (cohort.root / case.cells["b"]).write_bytes(b"noise")
    assert run(cohort, subsets=["a"]) == before
    limited = run(cohort, use=["a"])
    assert limited.row("a") == before.row("a")
    assert [limited.row(s).metrics["DSC/WT"].n for s in ("b", "ab")] == [0, 0]
    assert limited.row("b").metrics["DSC/WT"].note == "no case"
    assert limited.notes == ("Only these modalities were read: a.",) and run(cohort, use=["b", "a"], subsets=["a"]).notes == ()
    with pytest.raises(DataError, match="subject p1, modality b"):
        run(cohort)


class NeedsA(Mean):
    @property
    def requires(self) -> Requirements:
        return Requirements(tasks=("segmentation",), at_test=("a",))


def test_an_unsupported_row_says_so(cohort: Cohort) -> None:
    found = run(cohort, NeedsA(problem((8, 8, 8), names="a b")))
    assert [(row.supported, bool(row.metrics)) for row in found.subsets] == [(True, True), (False, False), (True, True)]


def test_conventions_change_the_numbers_they_name(cohort: Cohort) -> None:
    left_out = run(cohort, conventions=Conventions(dsc_empty="exclude-both", hd95_empty="diagonal"))
    row = left_out.row("a").metrics
    assert (row["DSC/WT"].n, row["DSC/WT"].n_neg, row["HD95/WT"].n) == (3, 0, 4)
    assert left_out.conventions.hd95_empty == "diagonal"


def test_only_what_was_asked_for_is_computed(cohort: Cohort) -> None:
    found = run(cohort, metrics=["DSC"], intervals=False)
    assert found.metric_names == ("DSC/WT", "DSC/mean")
    assert found.row("a").metrics["DSC/WT"].ci95 is None
    assert found.conventions.interval == "none"
    with pytest.raises(ConfigError, match="Did you mean DSC"):
        run(cohort, metrics=["DCS"])
    with pytest.raises(ConfigError, match="modality must be one of the problem; got 'c'"):
        run(cohort, subsets=["c"])


def test_progress_counts_predictions(cohort: Cohort) -> None:
    said: list[tuple[int, int, str]] = []
    run(cohort, on_progress=lambda *step: said.append(step))
    assert [done for done, _, _ in said] == list(range(1, 11))  # three cases with three subsets, p3 with one
    assert {total for _, total, _ in said} == {10}
    assert said[2][2] == "p1 from a+b"


def test_one_case_is_in_memory_at_a_time(cohort: Cohort) -> None:
    alive: list[int] = []

    def count(*_: object) -> None:
        alive.append(sum(type(thing) is PreparedCase for thing in gc.get_objects()))

    gc.collect()
    run(cohort, on_progress=count)
    assert set(alive) == {1}


def test_images_on_other_grids_are_predicted_there_and_compared_on_the_truths_voxels(tmp_path: Path) -> None:
    """b has voxels of 2 mm; from b alone the network must see b's own grid, and the mask is compared on that of the truth."""
    truth = np.zeros((16, 16, 16), dtype=np.float32)
    truth[4:12, 4:12, 4:12] = 1
    coarse = truth[::2, ::2, ::2]
    affine = np.diag([2.0, 2, 2, 1])
    affine[:3, 3] = 0.5  # so that both fields of view begin at the same edge
    cells = {
        "a": save(tmp_path, "a", truth),
        "b": save(tmp_path, "b", coarse, affine),
        "seg": save(tmp_path, "seg", truth.astype(np.uint8)),
    }
    method = Mean(problem((8, 8, 8), names="a b"))
    seen = run(build(tmp_path, [Case.build("p", cells=cells)]), method)
    shapes = {tuple(b.present[0].tolist()): 0 for b in method.seen}
    for batch in method.seen:
        shapes[tuple(batch.present[0].tolist())] += len(batch)
    assert shapes == {(True, False): 27, (False, True): 1, (True, True): 27}  # windows of 8^3 in 16^3 and in 8^3
    assert seen.row("a").metrics["DSC/WT"].value == 1.0
    # Linear from 2 mm: voxels at a face have 3/4, at an edge 9/16, and the eight at the corners 27/64, less than one half.
    assert seen.row("b").metrics["DSC/WT"].value == 2 * 504 / (504 + 512)
    assert seen.row("b").metrics["HD95/WT"].value == 0.0
    only_b = run(build(tmp_path, [Case.build("p", cells={k: v for k, v in cells.items() if k != "a"})]))
    assert only_b.cases == tuple(c for c in seen.cases if c.present == ("b",))


def test_files_without_spacing_are_measured_in_voxels(tmp_path: Path) -> None:
    from PIL import Image

    def picture(name: str, at: int) -> str:
        array = np.zeros((9, 12), dtype=np.uint8)
        array[3:7, at : at + 4] = 255
        Image.fromarray(array).save(tmp_path / f"{name}.png")
        return f"{name}.png"

    modalities = [ModalitySpec(name=n, spatial_dims=2) for n in ("a", "b")]
    seg = TargetSpec(name="seg", kind="regions", classes=["WT"], codes=[[255]], paint=[255])
    case = Case.build("p", cells={"a": picture("a", 4), "b": picture("b", 5), "seg": picture("seg", 4)})
    meta = CohortMeta(layout="csv", root=".", modalities=modalities, targets=[seg])
    found = run(
        Cohort.build(meta, [case], tmp_path),
        Mean(problem((16, 16), names="a b", target=seg.target, kind=2)),
    )
    assert found.conventions.hd95_unit == "voxel"
    assert found.notes == ("No file states the size of its voxels: distances count voxels there, also from slice to slice.",)


def test_labels_are_scored_without_their_background(tmp_path: Path) -> None:
    organs = TargetSpec(name="seg", kind="labels", classes=["background", "organ"], codes=[[0], [7]], paint=[0, 7])
    mask = (cube(4) * 7).astype(np.uint8)
    meta = CohortMeta(layout="csv", root=".", modalities=[ModalitySpec(name="a"), ModalitySpec(name="b")], targets=[organs])
    case = Case.build("p", cells={"a": save(tmp_path, "a", cube(4)), "seg": save(tmp_path, "seg", mask)})

    class Two(Mean):
        def predict(self, batch):  # type: ignore[no-untyped-def]
            import torch

            found = super().predict(batch)
            p = found.probabilities["seg"]
            return type(found)({"seg": torch.cat([1 - p, p], dim=1)}, found.used)

    found = run(Cohort.build(meta, [case], tmp_path), Two(problem((8, 8, 8), names="a b", target=organs.target)))
    assert found.metric_names == ("DSC/organ", "DSC/mean", "HD95/organ")
    assert found.row("a").metrics["DSC/organ"].value == 1.0


def test_classification_is_pooled_over_cases(cohort: Cohort) -> None:
    """The mean over the middle window of p1 and p2 is higher than that of p4, and p3 is as high as they are."""
    found = run(cohort, Mean(problem((12, 10, 9), names="a b", target=GRADE.target)))
    row = found.row("a").metrics
    assert list(row) == [f"{name}/grade" for name in metrics_of("class")]  # of two classes, no single ones
    assert found.classes == {"grade": GRADE.target.classes}
    share = 64 / (12 * 10 * 9)
    high = [(c.probabilities or {})["grade"][1] for c in found.cases if c.present == ("a",)]
    assert high == pytest.approx([share, share, share, 0])
    assert [c.targets for c in found.cases if c.present == ("a",)] == [{"grade": g} for g in (1, 1, 0, 0)]
    # Pairs of a high and a low case: with p3 a tie each (1/2), with p4 right.
    assert row["AUROC/grade"].value == pytest.approx(0.75)
    assert (row["AUROC/grade"].n, row["AUROC/grade"].n_pos, row["AUROC/grade"].aggregation) == (4, 2, "pooled")
    assert row["accuracy/grade"].value == row["balanced_accuracy/grade"].value == 0.5  # everyone is called low
    assert found.row("b").metrics["AUROC/grade"].n == 3
    assert Results.model_validate_json(found.to_json()) == found


def test_cases_without_a_target_do_not_count(cohort: Cohort) -> None:
    cases = [Case.build(c.id, cells={k: v for k, v in c.cells.items() if c.id != "p1" or k != "seg"}) for c in cohort.cases]
    found = run(build(cohort.root, cases))
    assert found.row("a").metrics["DSC/WT"].n == 3
    assert "p1" not in {c.subject for c in found.cases}


def test_several_targets_are_named(tmp_path: Path) -> None:
    second = TargetSpec(name="core", kind="regions", classes=["WT"], codes=[[1]], paint=[1])
    meta = CohortMeta(
        layout="csv", root=".", modalities=[ModalitySpec(name="a"), ModalitySpec(name="b")], targets=[SEG, second]
    )
    seg, core = save(tmp_path, "seg", cube(4).astype(np.uint8)), save(tmp_path, "core", cube(5).astype(np.uint8))
    case = Case.build("p", cells={"a": save(tmp_path, "a", cube(4)), "seg": seg, "core": core})

    class Both(Mean):
        def predict(self, batch):  # type: ignore[no-untyped-def]
            found = super().predict(batch)
            return type(found)(dict.fromkeys(("seg", "core"), found.probabilities["seg"]), found.used)

    of = problem((8, 8, 8), names="a b")
    method = Both(type(of)(of.modalities, (SEG.target, Target("core", "regions", ("WT",))), 3, (8, 8, 8)))
    row = run(Cohort.build(meta, [case], tmp_path), method, subsets=["a"]).row("a").metrics
    values = {name: value.value for name, value in row.items() if not name.startswith("HD95")}
    assert values == {"DSC/seg.WT": 1.0, "DSC/core.WT": 0.75, "DSC/mean": 0.875}
    assert not math.isnan(row["HD95/core.WT"].value or 0)
