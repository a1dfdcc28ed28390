from __future__ import annotations

import json
from pathlib import Path
from typing import TypeAlias

import nibabel as nib
import numpy as np
import pytest
from tests.inference.fakes import Mean, problem

from comodal.data.cohort import Case, Cohort, CohortMeta, ModalitySpec, TargetSpec
from comodal.data.preprocessing import Preparer, PreprocessingConfig
from comodal.errors import RunError
from comodal.evaluation.examples import (
    DRAWN,
    Example,
    choose_cases,
    choose_subsets,
    drawn_cases,
    load_examples,
    make_examples,
    save_examples,
)
from comodal.evaluation.results import MetricValue, Results, SubsetResult
from comodal.evaluation.subsets import evaluate
from comodal.modality import subsets

ROWS = ["a", "b", "c", "ab", "ac", "bc", "abc"]


def table(scores: dict[str, float | None]) -> Results:
    rows = []
    for row in ROWS:
        metrics = {"DSC/mean": MetricValue(value=scores[row])} if row in scores else {}
        rows.append(SubsetResult(present=tuple(row), supported=row in scores, metrics=metrics))
    return Results(method="m", cohort="c", split="test", seed=0, subsets=tuple(rows))


@pytest.mark.parametrize(
    ("scores", "chosen"),
    [
        ({"a": 0.1, "b": 0.7, "c": 0.4, "ab": 0.5, "ac": 0.6, "bc": 0.8, "abc": 0.9}, ["a", "b", "bc", "abc"]),
        ({"a": 0.1, "b": 0.7, "ab": 0.5}, ["a", "b", "ab"]),
        ({"b": 0.7, "abc": 0.9}, ["b", "abc"]),
        ({"a": 0.1, "abc": None, "bc": 0.2}, ["bc"]),  # a is no part of bc, whose cases may lack it
        ({"a": None}, []),
        ({}, []),
    ],
)
def test_the_subsets_worth_a_picture(scores: dict[str, float | None], chosen: list[str]) -> None:
    assert choose_subsets(table(scores)) == [tuple(s) for s in chosen]


def test_the_cases_worth_a_picture() -> None:
    assert choose_cases({"p1": 0.5}) == {"best": "p1"}
    assert choose_cases({"p1": 0.5, "p2": 0.7}) == {"best": "p2", "worst": "p1"}
    assert choose_cases({f"p{i}": 0.1 * i for i in range(5)}) == {"best": "p4", "median": "p2", "worst": "p0"}
    assert choose_cases({}) == {}


World: TypeAlias = tuple[Mean, Preparer, list[Case], Results]


def build(tmp_path: Path, shifts: list[int]) -> World:
    """Cases whose b lies some voxels off; the cube is largest in slice 5."""
    cases = []
    for i, off in enumerate(shifts):
        cells = {}
        for name, shift in (("a", 0), ("b", off), ("seg", 0)):
            array = np.zeros((12, 10, 9), dtype=np.uint8)
            array[4 + shift : 8 + shift, 3:7, 3:7] = 1
            array[4 + shift : 8 + shift, 2:8, 5] = 1
            cells[name] = f"p{i}_{name}.nii.gz"
            nib.Nifti1Image(array, np.diag([0.5, 1.0, 3.0, 1.0])).to_filename(tmp_path / cells[name])
        cases.append(Case.build(f"p{i}", cells=cells))
    seg = TargetSpec(name="seg", kind="regions", classes=["WT"], codes=[[1]], paint=[1])
    meta = CohortMeta(layout="csv", root=".", modalities=[ModalitySpec(name="a"), ModalitySpec(name="b")], targets=[seg])
    cohort = Cohort.build(meta, cases, tmp_path)
    method = Mean(problem((8, 8, 8), names="a b"))
    preparer = Preparer(
        cohort, PreprocessingConfig(normalise={"a": "none", "b": "none"}), modalities=("a", "b"), targets=["seg"]
    )
    results = evaluate(method, preparer, cases, subsets=subsets("ab"), seed=0, method_name="m", cohort_name="c", split="test")
    return method, preparer, cases, results


@pytest.fixture
def made(tmp_path: Path) -> list[Example]:
    """Examples of three cases whose b lies 0, 1 and 2 voxels off."""
    method, preparer, cases, results = build(tmp_path, [0, 1, 2])
    return make_examples(method, preparer, cases, results=results)


@pytest.fixture
def world(tmp_path: Path) -> World:
    """More cases than are kept."""
    return build(tmp_path, [0, 2, 1, 2, 0, 1, 2, 0])


def test_best_median_and_worst_are_predicted_again(made: list[Example]) -> None:
    assert [(e.role, e.subject, e.slice, e.modality) for e in made] == [
        ("best", "p0", 5, "a"),
        ("median", "p1", 5, "a"),
        ("worst", "p2", 5, "a"),
    ]
    worst = made[2]
    assert list(worst.predictions) == ["a", "b", "a+b"]
    assert worst.dsc == {"a": 1.0, "b": 0.5, "a+b": pytest.approx(2 * 4 / 10)}
    assert worst.truth.shape == (1, 12, 10)
    assert worst.truth.sum() == 4 * 6
    assert np.array_equal(worst.predictions["a"], worst.truth)
    assert np.array_equal(worst.predictions["b"], np.roll(worst.truth, 2, axis=1))
    assert np.array_equal(worst.predictions["a+b"], worst.predictions["a"] | worst.predictions["b"])
    assert np.array_equal(worst.image, worst.truth[0])
    assert (worst.classes, worst.aspect) == (("WT",), 2.0)


def test_drawn_cases_depend_on_names_alone() -> None:
    names = [f"p{i}" for i in range(40)]
    drawn = drawn_cases(names)
    assert len(drawn) == DRAWN and drawn == drawn_cases(reversed(names))
    assert drawn == drawn_cases([name for name in names if name in drawn or name > "p2"])  # others may come and go
    assert drawn_cases(["p1"]) == ["p1"] and drawn_cases([]) == []


def test_drawn_cases_are_seen_with_all_modalities(world: World) -> None:
    method, preparer, cases, results = world
    made = make_examples(method, preparer, cases, results=results)
    assert [example.role for example in made] == ["best", "median", "worst", *["drawn"] * (len(made) - 3)]
    drawn = set(drawn_cases(case.id for case in cases))
    ranked = {example.subject for example in made[:3]}
    assert {example.subject for example in made[3:]} == drawn - ranked and drawn - ranked
    for example in made[3:]:
        assert list(example.predictions) == ["a+b"] and list(example.dsc) == ["a+b"]


def test_files_both_ways(made: list[Example], tmp_path: Path) -> None:
    folder = tmp_path / "examples"
    assert save_examples(folder, made) == folder / "examples.json"
    assert sorted(p.name for p in folder.iterdir()) == ["0.npz", "1.npz", "2.npz", "examples.json"]
    for before, after in zip(made, load_examples(folder), strict=True):
        for name in ("role", "subject", "slice", "modality", "target", "classes", "dsc", "aspect"):
            assert getattr(before, name) == getattr(after, name)
        assert list(before.predictions) == list(after.predictions)
        assert np.array_equal(before.image, after.image)
        assert np.array_equal(before.truth, after.truth)
        assert all(np.array_equal(before.predictions[s], after.predictions[s]) for s in before.predictions)


def test_a_damaged_folder_is_refused(made: list[Example], tmp_path: Path) -> None:
    text = "examples must be as `comodal evaluate` wrote them; got "
    with pytest.raises(RunError, match=text + "No such file"):
        load_examples(tmp_path / "examples")
    folder = save_examples(tmp_path / "examples", made).parent
    hostile = {"image": np.array([{"an": "object"}], dtype=object), "truth": made[0].truth, "predictions": made[0].truth}
    np.savez(folder / "1.npz", **hostile)  # type: ignore[arg-type]
    with pytest.raises(RunError, match=text + r".*pickle.*1\.npz"):
        load_examples(folder)
    np.savez(folder / "1.npz", image=made[0].image, truth=made[0].truth, predictions=made[0].truth)
    with pytest.raises(RunError, match=text + "arrays of shapes"):
        load_examples(folder)
    (folder / "1.npz").write_bytes(b"PK")
    with pytest.raises(RunError, match=text + "File is not a zip file"):
        load_examples(folder)
    stated = json.loads((folder / "examples.json").read_text())
    (folder / "examples.json").write_text(json.dumps(stated | {"schema": 2}))
    with pytest.raises(RunError, match=text + "Input should be 1"):
        load_examples(folder)
