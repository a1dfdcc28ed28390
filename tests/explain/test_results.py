"""The file of a split: JSON both ways, and refusals."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from comodal.errors import RunError
from comodal.explain.results import ExplainResults, results_of
from comodal.explain.weights import NOTHING, CaseWeights

PAIR = ("flair+t1", "WT")
CASES = [CaseWeights(f"p{i}", f"p{i}", {PAIR: {"t2": i / 10, "t1ce": 1 - i / 10}}, {}) for i in range(7)]
CASES += [CaseWeights("p7", "p7", {PAIR: {"t2": None, "t1ce": None}}, {PAIR: NOTHING}), CaseWeights("p8", "p8", {}, {})]


def test_json_both_ways(tmp_path: Path) -> None:
    made = results_of(CASES, explainer="grad-cam", voxels="predicted", split="test")
    file = made.save(tmp_path / "explain" / "test.json")
    assert ExplainResults.load(file) == made
    data = json.loads(file.read_text())
    assert list(data) == ["schema", "explainer", "voxels", "split", "rows", "cases"]
    (row,) = data["rows"]
    assert (row["primary"], row["region"], row["left_out"]) == ("flair+t1", "WT", 1)
    assert row["weights"]["t2"]["value"] == pytest.approx(0.3) and row["weights"]["t2"]["n"] == 7
    assert len(row["weights"]["t2"]["ci95"]) == 2
    assert data["cases"][7] == {
        "subject": "p7",
        "rows": [{"primary": "flair+t1", "region": "WT", "weights": {"t2": None, "t1ce": None}}],
    }
    assert data["cases"][8] == {"subject": "p8", "rows": []}


def test_a_damaged_file_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "test.json"
    with pytest.raises(RunError, match="explain must be a readable file"):
        ExplainResults.load(file)
    for text in ('{"schema": 2}', "{", '{"schema":1,"explainer":"nats","split":"test","rows":[{"primary":"a"}]}'):
        file.write_text(text)
        with pytest.raises(RunError, match="explain must follow schema 1"):
            ExplainResults.load(file)
