"""What is found before a training begins: too few rows to compare, a modality that nobody has."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tests.training.fakes import values_for, write_cohort, write_config

from comodal.config import load_config
from comodal.data.cohort import Cohort
from comodal.errors import ConfigError
from comodal.method import Problem
from comodal.modality import Modality, Target
from comodal.training.events import Event, Said
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


@pytest.mark.parametrize("name", ["type", "half", "keys", "float"])
def test_a_modality_is_not_called_like_a_part_of_torch(name: str) -> None:
    with pytest.raises(ConfigError) as caught:
        Problem((Modality(name),), (Target("seg", "regions", ("WT",)),), 2, (8, 8))
    assert str(caught.value) == f"modality must not be called like a part of torch's modules; got '{name}'. Rename its column."
