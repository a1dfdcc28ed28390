from __future__ import annotations

import math
from typing import Literal

import pytest
import torch
from tests.training.fakes import TwoStage, TwoStageConfig, problem

from comodal.errors import ConfigError
from comodal.method import Optimiser, Stage
from comodal.training.schedule import build_optimisers, rate_factor, set_rates

Schedule = Literal["poly", "linear", "cosine", "constant"]


def method() -> TwoStage:
    return TwoStage(problem(), TwoStageConfig())


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        ("constant", [1, 1, 1, 1]),
        ("poly", [1, 0.75**0.9, 0.5**0.9, 0.25**0.9]),
        ("linear", [1, 0.75, 0.5, 0.25]),
        ("cosine", [1, (1 + math.sqrt(0.5)) / 2, 0.5, (1 - math.sqrt(0.5)) / 2]),
    ],
)
def test_a_schedule_by_hand(schedule: Schedule, expected: list[float]) -> None:
    assert [rate_factor(Optimiser(schedule=schedule), step, 4) for step in range(4)] == pytest.approx(expected)


def test_warm_up_climbs_to_one_and_the_schedule_takes_the_rest() -> None:
    how = Optimiser(schedule="cosine", warmup=0.4)  # 4 of 10 steps, then t = 0, 1/6, ... 5/6
    rest = [(1 + math.cos(math.pi * k / 6)) / 2 for k in range(6)]
    assert [rate_factor(how, step, 10) for step in range(10)] == pytest.approx([0.25, 0.5, 0.75, 1.0, *rest])


@pytest.mark.parametrize("schedule", ["poly", "linear", "cosine", "constant"])
def test_no_step_is_without_a_rate(schedule: Schedule) -> None:
    for total in (1, 2, 7):
        factors = [rate_factor(Optimiser(schedule=schedule, warmup=0.3), step, total) for step in range(total)]
        assert all(0 < factor <= 1 for factor in factors)


def test_the_longest_prefix_steps_a_parameter() -> None:
    built = method()
    stage = Stage(
        "s", ("encoders", "head"), {"": Optimiser("sgd"), "encoders": Optimiser("adam"), "first": Optimiser()}, steps=1
    )
    optimisers = build_optimisers(built, stage)
    assert list(optimisers) == ["", "encoders"]  # `first` is not trained, so that nothing is left for its optimiser
    names = {id(parameter): name for name, parameter in built.named_parameters()}
    stepped = {p: {names[id(q)] for group in o.param_groups for q in group["params"]} for p, o in optimisers.items()}
    assert stepped[""] == {"head.1.weight", "head.1.bias"}
    assert stepped["encoders"] == {name for name in names.values() if name.startswith("encoders.")}


def test_a_prefix_is_a_whole_word() -> None:
    with pytest.raises(ConfigError, match=r"Stage s must have an optimiser for every trained parameter; got first\.weight"):
        build_optimisers(method(), Stage("s", ("first",), {"fir": Optimiser()}, steps=1))


def test_a_stage_that_trains_nothing_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"Stage s must train a parameter of the method; got haed\. Correct Stage\.train\."):
        build_optimisers(method(), Stage("s", ("haed",), steps=1))


@pytest.mark.parametrize(("name", "kind"), [("adam", torch.optim.Adam), ("adamw", torch.optim.AdamW), ("sgd", torch.optim.SGD)])
def test_kinds_of_optimisers(name: Literal["adam", "adamw", "sgd"], kind: type[torch.optim.Optimizer]) -> None:
    stage = Stage("s", optimisers={"": Optimiser(name, 0.02, weight_decay=0.1)}, steps=1)
    optimiser = build_optimisers(method(), stage)[""]
    assert type(optimiser) is kind
    (group,) = optimiser.param_groups
    assert group["lr"] == 0.02 and group["weight_decay"] == 0.1
    if name == "sgd":
        assert group["momentum"] == 0.99 and group["nesterov"]


def test_rates_are_set_for_each_prefix() -> None:
    how = {"": Optimiser(rate=0.1, schedule="poly"), "encoders": Optimiser(rate=0.5, warmup=0.5)}
    stage = Stage("s", optimisers=how, steps=4)
    optimisers = build_optimisers(method(), stage)
    assert set_rates(optimisers, stage, step=0, total=4) == pytest.approx({"": 0.1, "encoders": 0.25})
    rates = set_rates(optimisers, stage, step=3, total=4)
    assert rates == pytest.approx({"": 0.1 * 0.25**0.9, "encoders": 0.5})
    assert {p: [g["lr"] for g in o.param_groups] for p, o in optimisers.items()} == {p: [rate] for p, rate in rates.items()}


@pytest.mark.parametrize("name", ["adamw", "sgd"])
def test_biases_and_norms_can_be_spared_from_decay(name: Literal["adamw", "sgd"]) -> None:
    built = method()
    for spare in (False, True):
        how = Optimiser(name, weight_decay=0.1, spare_vectors=spare)
        groups = build_optimisers(built, Stage("s", optimisers={"": how}, steps=1))[""].param_groups
        decays = {id(p): group["weight_decay"] for group in groups for p in group["params"]}
        assert len(decays) == len(list(built.parameters()))
        assert {(p.ndim > 1, decays[id(p)]) for p in built.parameters()} == {(True, 0.1), (False, 0.0 if spare else 0.1)}
