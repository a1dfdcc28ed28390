"""What is found before a training begins: too few rows to compare, a modality that nobody has."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.training.fakes import TwoStage, TwoStageConfig, config_for, problem, register, values_for, write_cohort, write_config

from comodal.config import load_config
from comodal.data.cohort import Cohort
from comodal.errors import ConfigError
from comodal.method import Monitor, Problem, Stage
from comodal.modality import Modality, Target
from comodal.training.checking import _check_validation, stage_cases, take_weights
from comodal.training.events import Event, Said, silent
from comodal.training.feeding import check_batch_size
from comodal.training.train import train_run

TINY: dict[str, Any] = {"width": 4, "levels": 2, "steps": 2}


def trained(cohort: Path, out: Path, *, batch: int = 2, method: dict[str, Any] | None = None) -> list[str]:
    """What a short training of cmim-seg says aloud as a warning."""
    told: list[Event] = []
    keys = {"critic": [8], **TINY, **(method or {})}
    values = values_for(cohort, "cmim-seg", method=keys, training={"batch_size": batch, "validations": 0})
    train_run(load_config(write_config(out.with_suffix(".yaml"), values)), out, emit=told.append)
    return [event.text for event in told if isinstance(event, Said) and event.level == "warning"]


def test_a_batch_of_one_has_nothing_to_compare_with(cohort: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        trained(cohort, tmp_path / "run", batch=1)
    assert str(caught.value) == (
        "training.batch_size for stage train must give each process 2 rows, which are compared with each other; got 1 for 1. "
        "Raise it to 2."
    )
    assert not (tmp_path / "run").exists()
    trained(cohort, tmp_path / "plain", batch=1, method={"lambda_ll": 0.0})


def test_a_modality_that_no_training_case_has_is_said(tmp_path: Path) -> None:
    """Only a test case has b, so that evaluation would predict from a network that never learned."""
    whole = Cohort.load(write_cohort(tmp_path / "data"))
    parts = ["train", "train", "train", "train", "val", "val", "test", "test"]
    for name, having in (("few", "test"), ("some", "train")):
        rows = [replace(c, split=part) for c, part in zip(whole.cases, parts, strict=True)]
        rows = [c if c.split == having else replace(c, cells={k: v for k, v in c.cells.items() if k != "b"}) for c in rows]
        cohort = Cohort.build(whole.meta, rows, whole.root).save(tmp_path / "data" / f"{name}.csv")
        told = trained(cohort, tmp_path / name, method={"lambda_ll": 0.0})
        expected = "No training case has b: what is predicted from it rests on weights that never learned. "
        assert (expected + "Leave it out of data.modalities." in told) == (name == "few")


def test_how_many_cases_keep_their_label_is_said(tmp_path: Path) -> None:
    told: list[Event] = []
    values = values_for(write_cohort(tmp_path / "data"), "unet", method=TINY, data={"withhold": {"seg": 0.5}})
    values |= {"splits": {"fractions": [1.0, 0.0, 0.0]}}
    values["training"] = {**values.get("training", {}), "validations": 0}
    config = load_config(write_config(tmp_path / "config.yaml", values))
    train_run(config, tmp_path / "run", emit=told.append)
    said = [event.text for event in told if isinstance(event, Said) and "label" in event.text]
    assert said == ["4 of 8 training cases keep their label of seg (data.withhold)"]


@pytest.mark.parametrize("name", ["type", "half", "keys", "float"])
def test_a_modality_is_not_called_like_a_part_of_torch(name: str) -> None:
    with pytest.raises(ConfigError) as caught:
        Problem((Modality(name),), (Target("seg", "regions", ("WT",)),), 2, (8, 8))
    assert str(caught.value) == f"modality must not be called like a part of torch's modules; got '{name}'. Rename its column."


def test_a_stage_that_asks_for_one_of_some_modalities(tmp_path: Path) -> None:
    """Two pairs of eight cases lack b; without a pair nothing is begun, and what is missing is named."""
    cohort = Cohort.load(write_cohort(tmp_path / "data"))
    ids = [case.id for case in cohort.cases]
    pairs = Stage("pairs", one_of=(("a",), ("b",)), targets=(), steps=1, monitor=Monitor("loss"), remedy="Give pairs")
    assert [c.id for c in stage_cases(problem(), cohort, ids, stage=pairs)] == [i for i in ids if i not in ("p3", "p7")]
    with pytest.raises(ConfigError, match=r"Stage pairs must have training cases with a, b; got none\. Give pairs\."):
        stage_cases(problem(), cohort, ["p3", "p7"], stage=pairs)
    method = TwoStage(problem(), TwoStageConfig())
    wanted = r"validation cases with a, b, which choose its weights; got none among 1\. Give pairs, change the split, or set"
    with pytest.raises(ConfigError, match=wanted):
        _check_validation(method, pairs, cohort, ids=["p3"])
    either = replace(pairs, modalities=("a",), one_of=(("a", "b"),), reads=("a", "b"), targets=None)
    with pytest.raises(ConfigError, match="training cases with a, seg; got none"):
        stage_cases(problem(), cohort, [], stage=either)


def test_init_leaves_what_another_training_has_counted(cohort: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    register("tests.training.fakes")
    other = train_run(config_for(cohort, "two-stage"), tmp_path / "run")
    monkeypatch.setattr(TwoStage, "counted", ("head",))
    method = TwoStage(problem(), TwoStageConfig())
    before = {name: tensor.clone() for name, tensor in method.state_dict().items()}
    take_weights(method, other, silent)
    same = {name for name, tensor in method.state_dict().items() if torch.equal(tensor, before[name])}
    assert {name for name in before if name.startswith("head.")} <= same
    assert "first.weight" not in same


def test_a_batch_size_that_is_a_stages_own_is_named_as_such() -> None:
    with pytest.raises(ConfigError, match=r"batch size of stage guidance must be divisible .*got 50\. Choose 48"):
        check_batch_size(50, 4, owner="batch size of stage guidance")
