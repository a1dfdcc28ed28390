"""Methods side by side: the same slice of the same case, and nothing else."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.reporting.test_figures import pixels

from comodal.evaluation.examples import Example, load_examples, save_examples
from comodal.reporting.page import group, write_page
from comodal.reporting.pictures import pictures
from comodal.reporting.record import read_run
from comodal.reporting.slices import Slice, slices_picture

Make = Callable[..., Path]


def kept(run: Path) -> list[Example]:
    return load_examples(run / "examples" / "test")


def keep(run: Path, examples: list[Example]) -> None:
    save_examples(run / "examples" / "test", examples)


def shown(*runs: Path) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    return pictures(group([read_run(run) for run in runs]), "test")


@pytest.fixture
def two(make_run: Make, worlds: dict[str, Any]) -> list[Path]:
    return [make_run(method, worlds["lgg"], method=method) for method in ("unet", "ciml")]


def test_cases_of_both_methods_stand_side_by_side(two: list[Path]) -> None:
    ((joint,), own) = shown(*two)
    assert joint["who"] == "P000 (slice 41), P001 (slice 41), P002 (slice 41)"
    assert joint["methods"] == "unet, seed 0; ciml, seed 0"
    assert joint["kept"] and not joint["drawn"] and len(own) == 2
    assert shown(two[0])[0] == []  # one method has nobody beside it


def test_drawn_cases_come_first_and_stay_out_of_the_ranking(two: list[Path]) -> None:
    best, median, worst = kept(two[0])
    drawn = replace(
        median, role="drawn", subject="P007", predictions={"pre+flair+post": median.truth}, dsc={"pre+flair+post": 1.0}
    )
    keep(two[0], [best, worst, drawn])
    keep(two[1], [replace(best, role="worst"), drawn])
    ((joint,), own) = shown(*two)
    assert joint["who"] == "P007 (slice 41), P000 (slice 41)" and joint["drawn"]
    assert [picture["who"] for picture in own] == ["best P000 (slice 41), worst P002 (slice 41)", "worst P000 (slice 41)"]


def test_another_slice_truth_or_cohort_is_not_the_same_case(two: list[Path], worlds: dict[str, Any]) -> None:
    best, median, worst = kept(two[0])
    keep(two[1], [replace(best, slice=40), replace(median, truth=~median.truth), worst])
    ((joint,), _) = shown(*two)
    assert joint["who"] == "P002 (slice 41)"
    keep(two[1], [replace(best, slice=40)])
    assert shown(*two)[0] == []
    keep(two[1], [best])
    text = (two[1] / "cohort.csv").read_text()
    (two[1] / "cohort.csv").write_text(text.replace("3/flair", "other/flair"))
    assert shown(*two)[0] == []


def test_a_method_without_the_case_has_an_empty_cell(
    two: list[Path], make_run: Make, worlds: dict[str, Any], tmp_path: Path
) -> None:
    third = make_run("m", worlds["lgg"], method="moddrop")
    keep(third, kept(third)[:1])
    ((joint,), _) = shown(*two, third)
    assert not joint["kept"] and joint["who"].startswith("P000")
    html = write_page([*two, third], tmp_path / "page.html").read_text()
    assert "The methods side by side" in html and "“Not kept”: the run of this method holds no slice of this case." in html
    assert "are among the best, median and worst of several methods, so that they are not typical" in html


def test_many_methods_are_several_pictures(make_run: Make, worlds: dict[str, Any]) -> None:
    runs = [make_run(f"r{k}", worlds["lgg"], method=f"method-{k}") for k in range(8)]
    joint, own = shown(*runs)
    assert [len(picture["methods"].split(", seed 0")) - 1 for picture in joint] == [6, 2] and len(own) == 8


def test_long_names_keep_to_their_columns_and_columns_to_their_names() -> None:
    nothing = np.zeros((1, 12, 12), dtype=bool)
    item = Slice("a", np.ones((12, 12)), nothing, {"truth": nothing, "b": ~nothing}, {"b": "DSC 0.10", "c": "not kept"})
    names = ["truth", "b", "c", "a name that is so long that it needs three lines at the least, if not many more"]
    wide = pixels(slices_picture([item], ["WT"], image_name="t1", columns=names))
    plain = pixels(slices_picture([item], ["WT"], image_name="t1", columns=[*names[:3], "d"]))
    assert wide.shape[1] == plain.shape[1] and wide.shape[0] > plain.shape[0] + 20
