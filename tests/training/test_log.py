from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from comodal.errors import ConfigError
from comodal.training.log import MetricsLog


def test_lines_are_appended_and_read_back(tmp_path: Path) -> None:
    log = MetricsLog(tmp_path / "run" / "metrics.jsonl")
    log.write("step", step=0, loss=1 / 3, terms={"dice": 2 / 3})
    log.write("warning", text="flat")
    lines = [json.loads(line) for line in log.path.read_text().splitlines()]
    assert lines == [
        {"event": "step", "step": 0, "loss": 0.333333, "terms": {"dice": 0.666667}},
        {"event": "warning", "text": "flat"},
    ]
    assert log.size == log.path.stat().st_size > 0


def test_lines_after_the_checkpoint_go_on_resume(tmp_path: Path) -> None:
    log = MetricsLog(tmp_path / "metrics.jsonl")
    log.write("step", step=0)
    kept = log.size
    log.write("step", step=1)
    with log.path.open("a") as file:
        file.write('{"event": "st')  # the process was killed here
    again = MetricsLog(log.path, keep=kept)
    again.write("step", step=1)
    assert [json.loads(line)["step"] for line in log.path.read_text().splitlines()] == [0, 1]


def test_a_new_run_starts_with_an_empty_log(tmp_path: Path) -> None:
    MetricsLog(tmp_path / "metrics.jsonl").write("step", step=0)
    assert MetricsLog(tmp_path / "metrics.jsonl").size == 0
    assert MetricsLog(tmp_path / "metrics.jsonl", keep=1000).size == 0  # more than there is adds nothing


def test_what_is_no_number_is_null_in_json(tmp_path: Path) -> None:
    log = MetricsLog(tmp_path / "metrics.jsonl")
    log.write("validation", metrics={"loss": math.nan, "DSC": 0.5}, score=-math.inf)

    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is not JSON")

    line = json.loads(log.path.read_text(), parse_constant=refuse)
    assert line == {"event": "validation", "metrics": {"loss": None, "DSC": 0.5}, "score": None}


def test_tensorboard_that_is_not_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("comodal.training.log.find_spec", lambda name: None)
    with pytest.raises(
        ConfigError, match=r"training\.tensorboard must have the package tensorboard; got none\. Install it with"
    ):
        MetricsLog(tmp_path / "metrics.jsonl", tensorboard=tmp_path / "board")
