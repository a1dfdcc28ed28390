from __future__ import annotations

import math

import numpy as np
import pytest

from comodal.errors import TrainingFailed
from comodal.training.collapse import CollapseWatch


def warnings_of(losses: list[float]) -> dict[int, str]:
    """{step: warning} of a stage with these losses."""
    watch = CollapseWatch("train", len(losses))
    said = {step: watch.loss(step, {"a": value / 2, "b": value / 2}, ["p1"]) for step, value in enumerate(losses)}
    return {step: text for step, text in said.items() if text}


def test_a_loss_that_stays_is_said_after_a_quarter_and_a_half() -> None:
    found = warnings_of([0.5] * 200)
    assert found == {
        49: "Stage train: the loss has not fallen in 50 steps (0.5 at first, 0.5 now).",
        99: "Stage train: the loss has not fallen in 100 steps (0.5 at first, 0.5 now).",
    }


def test_a_loss_that_falls_is_not_spoken_of() -> None:
    assert warnings_of([1.0 - step / 400 for step in range(200)]) == {}


def test_a_loss_that_falls_late_is_spoken_of_once() -> None:
    assert list(warnings_of([1.0] * 60 + [0.2] * 140)) == [49]


def test_noise_around_a_level_is_no_fall() -> None:
    """Whatever the noise: without a look at it, every second training that learns nothing would pass."""
    noticed = [len(warnings_of((1.0 + 0.1 * np.random.default_rng(seed).normal(size=200)).tolist())) > 0 for seed in range(20)]
    assert sum(noticed) == 20


def test_a_loss_that_falls_through_noise_is_not_spoken_of() -> None:
    for seed in range(20):
        noise = 0.1 * np.random.default_rng(seed).normal(size=200)
        assert warnings_of((1.0 - 0.4 * (np.arange(200) > 20) + noise).tolist()) == {}


def test_short_trainings_are_not_judged() -> None:
    assert warnings_of([1.0] * 79) == {}


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_what_is_not_a_number_names_term_stage_and_cases(value: float) -> None:
    watch = CollapseWatch("student", 10)
    with pytest.raises(TrainingFailed) as caught:
        watch.loss(3, {"dice": 0.3, "kl": value}, ["p2", "p1", "p2"])
    assert str(caught.value) == (
        f"loss kl of stage student must be a number; got {value} [subject p2, p1]. "
        "Lower the learning rate, or run comodal check on the cohort."
    )


def test_classes_that_are_never_found() -> None:
    watch = CollapseWatch("train", 100)
    assert watch.missed(19, ["ET"]) == []  # to be expected so early
    assert watch.missed(20, ["ET"]) == ["Stage train, step 20: ET is found in no validation case."]
    assert watch.missed(20, ["ET"]) == []  # said
    assert len(watch.missed(30, ["ET", "TC"])) == 2
    assert watch.missed(40, []) == []


def test_a_missing_metric_is_said_once() -> None:
    watch = CollapseWatch("train", 100)
    assert "a validation gave no DSC" in (watch.unjudged("DSC") or "")
    assert watch.unjudged("DSC") is None


def test_a_watch_that_was_restored_goes_on() -> None:
    losses = np.random.default_rng(0).random(200).tolist()
    whole, first, second = (CollapseWatch("train", 200) for _ in range(3))
    expected = [whole.loss(step, {"a": value}, []) for step, value in enumerate(losses)]
    found = [first.loss(step, {"a": value}, []) for step, value in enumerate(losses[:70])]
    state = type(first.state).model_validate_json(first.state.model_dump_json())
    second.restore(state)
    found += [second.loss(step, {"a": value}, []) for step, value in enumerate(losses[70:], start=70)]
    assert found == expected and any(found)
    assert second.state == whole.state
