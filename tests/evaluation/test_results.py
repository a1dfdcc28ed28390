from __future__ import annotations

import json
import math
import os
from pathlib import Path

import numpy as np
import pytest

from comodal.errors import ConfigError, RunError
from comodal.evaluation.results import CaseResult, MetricValue, Results, SubsetResult


def results() -> Results:
    rows = [("flair",), ("t1",), ("flair", "t1")]
    values = {("flair",): 0.5, ("t1",): 0.25}
    return Results(
        method="moddrop",
        cohort="lgg",
        split="test",
        seed=3,
        subsets=tuple(
            SubsetResult(
                present=row,
                supported=row in values,
                metrics={"DSC/WT": MetricValue(value=values[row], ci95=(0.1, 0.9), n=2, n_pos=2, n_neg=0)}
                if row in values
                else {},
            )
            for row in rows
        ),
        cases=tuple(
            CaseResult(subject=f"p{i}", group=f"g{i}", present=row, metrics={"DSC/WT": value + i / 10, "HD95/WT": math.nan})
            for row, value in values.items()
            for i in range(2)
        ),
    )


def test_json_both_ways(tmp_path: Path) -> None:
    path = results().save(tmp_path / "results" / "test.json")
    assert Results.load(path) == results()
    text = json.loads(path.read_text(), parse_constant=pytest.fail)  # parse_constant: NaN and Infinity are no JSON
    assert text["schema"] == 1
    assert text["subsets"][0] == {
        "present": ["flair"],
        "supported": True,
        "metrics": {
            "DSC/WT": {
                "value": 0.5,
                "ci95": [0.1, 0.9],
                "n": 2,
                "n_pos": 2,
                "n_neg": 0,
                "aggregation": "case_mean",
                "note": None,
            }
        },
    }
    assert text["subsets"][2] == {"present": ["flair", "t1"], "supported": False, "metrics": {}}
    assert text["cases"][0]["metrics"] == {"DSC/WT": 0.5, "HD95/WT": None}
    assert text["conventions"]["hd95_empty"] == "exclude"


def test_what_is_not_a_number_is_none() -> None:
    assert MetricValue(value=math.nan).value is None
    assert MetricValue(value=np.float64("inf")).value is None
    assert MetricValue(value=np.float64(0.5)).value == 0.5


def test_a_write_that_fails_leaves_the_old_file_and_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = results().save(tmp_path / "test.json")
    before = path.read_bytes()

    def broken(*_: object) -> None:
        raise OSError("disk")

    monkeypatch.setattr(os, "replace", broken)
    with pytest.raises(OSError, match="disk"):
        results().save(path)
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["test.json"]


def test_a_missing_file_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"results must be a readable file; got No such file.*Run `comodal evaluate` first"):
        Results.load(tmp_path / "test.json")


@pytest.mark.parametrize(
    ("change", "got"), [({"schema": 2}, "schema"), ({"extra": 1}, "extra"), ({"subsets": [{"present": 1}]}, "present")]
)
def test_another_schema_is_refused(tmp_path: Path, change: dict[str, object], got: str) -> None:
    path = tmp_path / "test.json"
    path.write_text(json.dumps(json.loads(results().to_json()) | change))
    with pytest.raises(RunError, match=rf"results must follow schema 1; got \S*{got}"):
        Results.load(path)
    path.write_text("{")
    with pytest.raises(RunError, match="follow schema 1"):
        Results.load(path)


def test_a_file_from_before_the_classes_were_written_is_read() -> None:
    older = {name: value for name, value in json.loads(results().to_json()).items() if name != "classes"}
    assert Results.model_validate(older) == results()
    assert results().classes == {}


def test_rows_are_found_in_any_order_of_names() -> None:
    assert results().row(("t1", "flair")).name == "flair+t1"
    with pytest.raises(
        ConfigError, match=r"subset must be a row of the result; got 'flare'\. Did you mean flair or flair\+t1\?"
    ):
        results().row(["flare"])


def test_values_per_case_and_their_means() -> None:
    assert results().case_values("DSC/WT", ["t1"]) == {"p0": 0.25, "p1": 0.35}
    assert results().case_values("DSC/WT") == {"p0": 0.375, "p1": pytest.approx(0.475)}
    assert results().case_values("HD95/WT") == {}
    assert results().groups() == {"p0": "g0", "p1": "g1"}
    assert results().mean_over_subsets("DSC/WT") == 0.375
    assert results().mean_over_subsets("DSC/ET") is None
    assert results().metric_names == ("DSC/WT",)
