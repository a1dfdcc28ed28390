"""A volume in 3-D beside a picture in 2-D, from files to the table: each is seen at its own size."""

from __future__ import annotations

import csv
from dataclasses import replace
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from PIL import Image
from tests.contract.proofs import TwoViews, TwoViewsConfig

from comodal import api
from comodal.config import RunConfig
from comodal.data.cohort import Cohort
from comodal.errors import ConfigError
from comodal.method import Problem
from comodal.methods import METHODS, Entry
from comodal.modality import Modality, Target
from comodal.run import Run
from comodal.study.evaluating import evaluate_run
from comodal.testing import check_method, make_batch
from comodal.training.train import train_run

CASES = 48
CLASSES = ("low", "high")
PATCHES = {"mri": (8, 8, 4), "slide": (24, 16)}
SLIDE = Modality("slide", spatial_dims=2, channels=3, grid="slide")
PROBLEM = Problem(
    (Modality("t1", grid="mri"), Modality("t2", grid="mri"), SLIDE), (Target("grade", "class", CLASSES),), 3, patches=PATCHES
)


def write_cohort(root: Path) -> Path:
    """The grade is a bright corner of each image; that of the slide lies beyond the size of the volumes' patch."""
    random = np.random.default_rng(0)
    rows = ["subject,session,group,site,split,t1,t2,slide,grade"]
    for number in range(CASES):
        high = number % 2
        cells = {}
        for name in ("t1", "t2"):
            volume = random.normal(100, 20, (10, 9, 5))
            volume[1:5, 1:5, 1:4] += 80 * high
            cells[name] = f"{number:02d}-{name}.nii.gz"
            nib.save(nib.Nifti1Image(volume.astype(np.float32), np.diag([1.0, 1, 3, 1])), root / cells[name])
        pixels = random.normal(120, 20, (16, 24, 3))
        pixels[12:, 20:] += 80 * high
        cells["slide"] = f"{number:02d}-slide.png"
        Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(root / cells["slide"])
        lacks = ("", "t1", "t2", "slide", "")[number % 5]
        there = ["" if name == lacks else cells[name] for name in ("t1", "t2", "slide")]
        rows.append(",".join([f"{number:02d}", "", "", "", "", *there, CLASSES[high]]))
    (root / "cohort.csv").write_text("\n".join(rows) + "\n")
    (root / "cohort.yaml").write_text(
        "schema: 1\nlayout: csv\nroot: .\nmodalities:\n"
        "  - {name: t1, grid: mri}\n  - {name: t2, grid: mri}\n"
        "  - {name: slide, spatial_dims: 2, channels: 3, grid: slide}\n"
        "targets:\n  - {name: grade, kind: class, classes: [low, high]}\n"
    )
    return root / "cohort.csv"


def configured(root: Path, *, data: dict[str, Any] | None = None, **method: Any) -> RunConfig:
    values = {
        "cohort": str(root / "cohort.csv"),
        "method": {"name": "proof", "epochs": 10, **method},
        "data": data or {"patch": {grid: list(size) for grid, size in PATCHES.items()}, "spacing": {"mri": [1, 1, 3]}},
        "splits": {"fractions": [0.5, 0.15, 0.35]},
        "training": {"batch_size": 8, "device": "cpu", "validations": 2, "threads": 1},
    }
    return RunConfig.model_validate(values).resolved()


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    entry = Entry("tests.contract.proofs:TwoViews", "A proof.", ("classification",), "any", "any", str(TwoViews.paper))
    monkeypatch.setitem(METHODS, "proof", entry)
    write_cohort(tmp_path)
    return tmp_path


@pytest.mark.parametrize("only_trains", [(), ("slide",)])
def test_the_proof_keeps_every_promise(only_trains: tuple[str, ...]) -> None:
    check_method(TwoViews, PROBLEM, TwoViewsConfig(width=4, only_trains=only_trains))


def test_a_made_up_batch_has_the_size_of_each_grid() -> None:
    batch = make_batch(PROBLEM, 2)
    assert {n: tuple(batch.image(n).shape) for n in PROBLEM.names} == {
        "t1": (2, 1, 8, 8, 4),
        "t2": (2, 1, 8, 8, 4),
        "slide": (2, 3, 24, 16),
    }


def test_a_volume_and_a_picture_are_trained_and_evaluated_each_at_its_own_size(root: Path) -> None:
    run = train_run(configured(root), root / "run")
    assert run.problem.spatial_dims == 3 and run.problem.patches == PATCHES and run.problem.patch == PATCHES["mri"]
    assert Run.load(run.path).problem == run.problem
    results = evaluate_run(run, device="cpu")
    found = {row.name: row.metrics["AUROC/grade"].value for row in results.subsets}
    assert len(found) == 7
    # the slide alone: its corner is cut off in a patch of the volumes' size, and the AUROC would be that of a coin
    assert all(value is not None and value > 0.9 for value in found.values()), found


def test_what_the_method_did_not_use_is_not_said_to_be_used(root: Path) -> None:
    """The slide trains only; a case that has it is predicted from its volumes, and table and answer say so."""
    run = train_run(configured(root, only_trains=("slide",)), root / "run")
    both = Cohort.load(root / "cohort.csv").select(["00", "01", "02"])
    written = api.predict(run, cohort=both.save(root / "some" / "cohort.csv"), out=root / "out", device="cpu")
    assert [one.used for one in written] == [("t1", "t2"), ("t2",), ("t1",)]
    with_slide = [case for case in evaluate_run(run, device="cpu").cases if "slide" in case.present]
    assert with_slide and all(case.used == tuple(n for n in case.present if n != "slide") for case in with_slide)
    with (root / "out" / "predictions.csv").open() as file:
        assert [row["used"] for row in csv.DictReader(file)] == ["t1+t2", "t2", "t1"]


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (
            {"patch": [8, 8, 4]},
            r"data.patch must have 2 sides, .* for the grid slide; got \(8, 8, 4\)\. Write .* for each grid: mri, slide\.",
        ),
        ({"patch": {"mri": [8, 8, 4]}}, r"data.patch must have 2 sides, .* for the grid slide; got \(\)"),
        ({"patch": {"mri": [8, 8, 4], "slid": [8, 8]}}, r"data.patch must name grids .*; got 'slid'\. Did you mean slide\?"),
        ({"patch": PATCHES, "resize": {"t1": [8, 8]}}, r"data.resize must name grids of images of the cohort; got 't1'"),
    ],
)
def test_a_grid_without_a_size_is_refused(root: Path, data: dict[str, Any], text: str) -> None:
    with pytest.raises(ConfigError, match=text):
        train_run(configured(root, data=data), root / "run")
    assert not (root / "run").exists()


def test_a_grid_is_of_one_dimension() -> None:
    with pytest.raises(ConfigError, match=r"have the spatial_dims of the others of grid mri; got 2 \[modality slide\]"):
        replace(PROBLEM, modalities=(Modality("t1", grid="mri"), Modality("slide", spatial_dims=2, grid="mri")))


def test_a_method_that_cannot_see_in_3d_is_refused_with_the_image(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    entry = Entry("tests.contract.proofs:Ensemble", "A proof.", ("classification",), "any", "any", "")
    monkeypatch.setitem(METHODS, "proof", entry)
    with pytest.raises(ConfigError, match=r"be able to see it in 3-D; got \(2,\) \[modality t1\]\. Change data.spatial_dims"):
        train_run(configured(root), root / "run")
