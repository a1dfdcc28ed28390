"""One stage on a method with one weight, whose every step can be worked out by hand."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning_fabric import Fabric
from torch import Tensor, nn

from comodal.batch import Batch, Sample, collate
from comodal.config import TrainingConfig
from comodal.errors import TrainingFailed
from comodal.method import Losses, Method, MethodConfig, Monitor, Optimiser, Problem, Stage
from comodal.modality import Modality
from comodal.training import loop as loop_module
from comodal.training.checkpoint import load_checkpoint
from comodal.training.collapse import CollapseWatch
from comodal.training.events import Event, Progress, Said
from comodal.training.feeding import Feed
from comodal.training.log import MetricsLog
from comodal.training.loop import Loop, Outcome, Verdict, run_stage, step_seed, validation_steps

VALUE = Modality("v", kind="features", spatial_dims=0, channels=1)


class Slope(Method):
    """Loss = slope * weight: each step of plain SGD lowers the weight by rate * slope."""

    def __init__(self, slope: Callable[[int], float] = lambda _: 1.0) -> None:
        super().__init__(Problem((VALUE,), (), 2, ()), MethodConfig())
        self.weight = nn.Parameter(torch.zeros(()))
        self.frozen = nn.Linear(1, 1)
        self.slope, self.calls = slope, 0
        self.modes: list[tuple[bool, bool]] = []

    def losses(self, batch: Batch, stage: Stage) -> dict[str, Tensor]:
        slope = self.slope(self.calls)
        self.calls += 1
        self.modes.append((self.training, self.frozen.training))
        return {"fall": slope * self.weight, "rest": torch.ones(()) * 0.25}


class Draws:
    def __init__(self, length: int = 8) -> None:
        self.length, self.epochs = length, list[int]()

    def set_epoch(self, epoch: int) -> None:
        self.epochs.append(epoch)

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> Sample:
        return Sample(f"p{index}", "g", {"v": torch.ones(1)})


def joined(samples: Sequence[Sample]) -> Batch:
    return collate(samples, (VALUE,))


def stage_of(steps: int | None = 10, *, epochs: int | None = None, monitor: Monitor | None = None, rate: float = 0.1) -> Stage:
    return Stage("s", ("weight",), {"": Optimiser("sgd", rate)}, steps=steps, epochs=epochs, monitor=monitor)


class Harness:
    """A loop whose validations answer from a list, and what it says and logs."""

    def __init__(self, folder: Path, method: Slope | None = None, scores: Sequence[float] = (), **training: Any) -> None:
        self.method, self.scores = method or Slope(), list(scores)
        self.events: list[Event] = []
        self.validated: list[float] = []
        config = TrainingConfig.model_validate({"batch_size": 2, "device": "cpu", "clip": None, **training})
        log = MetricsLog(folder / "metrics.jsonl")
        fabric = Fabric(accelerator="cpu", devices=1)
        self.loop = Loop(fabric, self.method, config, folder, log, self.events.append, self.validate)

    def validate(self, method: Method, stage: Stage) -> Verdict:
        method.eval()
        self.validated.append(float(self.method.weight.detach()))
        score = self.scores.pop(0) if self.scores else math.nan
        return Verdict({"DSC": score})

    def run(self, stage: Stage, draws: Draws | None = None) -> None:
        run_stage(self.loop, 0, stage, feed=Feed(draws or Draws(), joined, self.loop.config.batch_size, cases=4))

    def lines(self, event: str) -> list[dict[str, Any]]:
        assert self.loop.log is not None
        every = [json.loads(line) for line in self.loop.log.path.read_text().splitlines()]
        return [line for line in every if line["event"] == event]

    @property
    def weight(self) -> float:
        return float(self.method.weight.detach())


def test_steps_by_hand(tmp_path: Path) -> None:
    """SGD with Nesterov momentum 0.99 on a constant slope of 1: v1 = 1, step 1.99; v2 = 1.99, step 1 + 0.99 * 1.99."""
    harness = Harness(tmp_path, validations=0)
    harness.run(stage_of(2))
    assert harness.weight == pytest.approx(-0.1 * (1.99 + 1 + 0.99 * 1.99))
    first, second = harness.lines("step")
    assert first == {
        "event": "step",
        "stage": "s",
        "epoch": 0,
        "step": 0,
        "loss": 0.25,
        "terms": {"fall": 0.0, "rest": 0.25},
        "rates": {"all": 0.1},
    }
    assert second["loss"] == pytest.approx(0.25 - 0.199)


def test_diagnostics_are_averaged_over_the_processes_that_have_them_and_terms_over_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Telling(Slope):
        def losses(self, batch: Batch, stage: Stage) -> dict[str, Tensor]:
            return Losses(super().losses(batch, stage), {"nats": self.weight + 3.0})

    class Two:
        world_size = 2

    harness = Harness(tmp_path, Telling(), validations=0)
    harness.run(stage_of(2))
    first, second = harness.lines("step")
    assert first["diagnostics"] == {"nats": 3.0} and first["loss"] == 0.25 and set(first["terms"]) == {"fall", "rest"}
    assert second["diagnostics"]["nats"] == pytest.approx(3.0 - 0.199)
    one, two = Outcome({"ce": 1.0}, {"nats": 2.0, "own": 8.0}, ("p1",)), Outcome({"ce": 2.0, "kl": 1.0}, {"nats": 4.0}, ("p2",))
    monkeypatch.setattr(loop_module, "from_all", lambda fabric, own: [one, two])
    both = loop_module._of_all(Two(), one)  # type: ignore[arg-type]
    assert both.terms == {"ce": 1.5, "kl": 0.5} and both.diagnostics == {"nats": 3.0, "own": 8.0} and both.ids == ("p1", "p2")


def test_a_gradient_is_clipped_to_its_norm(tmp_path: Path) -> None:
    free, clipped = (Harness(tmp_path / str(clip), Slope(lambda _: 40.0), validations=0, clip=clip) for clip in (None, 4.0))
    for harness in (free, clipped):
        harness.run(stage_of(1))
    assert free.weight == pytest.approx(-0.1 * 1.99 * 40) and clipped.weight == pytest.approx(-0.1 * 1.99 * 4, rel=1e-5)


def test_a_stage_is_logged_from_start_to_end(tmp_path: Path) -> None:
    harness = Harness(tmp_path, scores=[0.5], validations=1)
    harness.run(stage_of(3, monitor=Monitor("DSC", "max")))
    start, end = harness.lines("stage")
    assert start == {"event": "stage", "stage": "s", "state": "start", "parameters": 1, "cases": 4, "steps": 3}
    assert end == {"event": "stage", "stage": "s", "state": "end", "score": 0.5, "steps": 3}


def test_epochs_count_full_batches(tmp_path: Path) -> None:
    draws = Draws(9)
    harness = Harness(tmp_path, validations=0)
    harness.run(stage_of(None, epochs=3), draws)
    assert [line["epoch"] for line in harness.lines("step")] == [0] * 4 + [1] * 4 + [2] * 4
    assert draws.epochs == [0, 1, 2]


def test_steps_may_end_within_an_epoch(tmp_path: Path) -> None:
    harness = Harness(tmp_path, validations=0)
    harness.run(stage_of(6), Draws(8))
    assert [line["epoch"] for line in harness.lines("step")] == [0, 0, 0, 0, 1, 1]


def test_validations_are_evenly_spaced_and_include_the_last_step() -> None:
    assert validation_steps(100, 4) == {25, 50, 75, 100}
    assert validation_steps(10, 3) == {3, 7, 10}
    assert validation_steps(2, 5) == {1, 2}
    assert validation_steps(10, 0) == set()


@pytest.mark.parametrize(("mode", "kept"), [("max", 4), ("min", 2)])
def test_the_best_weights_are_kept(tmp_path: Path, mode: Any, kept: int) -> None:
    harness = Harness(tmp_path, scores=[0.1, 0.4, 0.4, 0.2] if mode == "max" else [0.3, 0.4, 0.5, 0.9], validations=4)
    harness.run(stage_of(8, monitor=Monitor("DSC", mode)))
    best = {"max": 1, "min": 0}[mode]  # of equals the first
    assert harness.weight == harness.validated[best] and len(set(harness.validated)) == 4
    assert [line["best"] for line in harness.lines("validation")] == [k <= best for k in range(4)]
    assert [line["step"] for line in harness.lines("validation") if line["best"]][-1] == kept


def test_the_last_weights_are_kept_without_a_monitor(tmp_path: Path) -> None:
    harness = Harness(tmp_path, scores=[0.9, 0.1], validations=2)
    harness.run(stage_of(4))
    assert harness.weight == harness.validated[-1]
    assert [line["best"] for line in harness.lines("validation")] == [False, False]


def test_stopping_early(tmp_path: Path) -> None:
    harness = Harness(tmp_path, scores=[0.5, 0.4, 0.6, 0.6, 0.1, 0.9], validations=6)
    harness.run(stage_of(12, monitor=Monitor("DSC", "max", patience=2)))
    assert len(harness.validated) == 5  # 0.6 is the best; 0.6 and 0.1 are two without a gain
    assert harness.weight == harness.validated[2]
    assert len(harness.lines("step")) == 10
    assert harness.lines("stage")[-1] == {"event": "stage", "stage": "s", "state": "end", "score": 0.6, "steps": 10}
    checkpoint = load_checkpoint(tmp_path / "resume")
    assert checkpoint is not None and checkpoint.step == 10 and checkpoint.info.stopped


def test_a_stage_that_stopped_early_stays_stopped(tmp_path: Path) -> None:
    monitor = Monitor("DSC", "max", patience=1)
    harness = Harness(tmp_path, scores=[0.5, 0.4], validations=4)
    harness.run(stage_of(8, monitor=monitor))
    again = Harness(tmp_path)
    draws = Draws()
    checkpoint = load_checkpoint(tmp_path / "resume")
    run_stage(again.loop, 0, stage_of(8, monitor=monitor), feed=Feed(draws, joined, 2), resume=checkpoint)
    assert draws.epochs == [] and again.weight == harness.weight


def test_a_score_that_is_no_number_is_never_the_best(tmp_path: Path) -> None:
    harness = Harness(tmp_path, scores=[math.nan, 0.2, math.nan, 0.1], validations=4)
    harness.run(stage_of(8, monitor=Monitor("DSC", "max")))
    assert harness.weight == harness.validated[1]
    warnings = [event.text for event in harness.events if isinstance(event, Said) and event.level == "warning"]
    assert len(warnings) == 1 and "a validation gave no DSC" in warnings[0]
    assert [line["metrics"]["DSC"] for line in harness.lines("validation")] == [None, 0.2, None, 0.1]


def test_a_rate_that_never_learns_is_said_while_it_runs(tmp_path: Path) -> None:
    harness = Harness(tmp_path, validations=0)
    harness.run(stage_of(200, rate=1e-12))
    places = [place for place, event in enumerate(harness.events) if isinstance(event, Said) and event.level == "warning"]
    texts = [event.text for event in harness.events if isinstance(event, Said)]
    assert texts[0].startswith("Stage s: the loss has not fallen in 50 steps") and places[0] < len(harness.events) // 2
    assert harness.loop.warnings == texts == [line["text"] for line in harness.lines("warning")]
    assert [line["step"] for line in harness.lines("warning")] == [49, 99]


def test_a_rate_that_learns_is_not_spoken_of(tmp_path: Path) -> None:
    harness = Harness(tmp_path, validations=0)
    harness.run(stage_of(200, rate=1e-3))
    assert not [event for event in harness.events if isinstance(event, Said)]


def test_a_loss_that_is_no_number_fails_before_it_damages(tmp_path: Path) -> None:
    harness = Harness(tmp_path, Slope(lambda call: math.nan if call == 3 else 1.0), validations=0)
    with pytest.raises(TrainingFailed, match=r"loss fall of stage s must be a number; got nan \[subject p6, p7\]\. Lower"):
        harness.run(stage_of(10))
    assert math.isfinite(harness.weight) and len(harness.lines("step")) == 3


def test_a_gradient_that_is_no_number_fails_before_it_damages(tmp_path: Path) -> None:
    class Steep(Slope):
        def losses(self, batch: Batch, stage: Stage) -> dict[str, Tensor]:
            return {"root": self.weight.abs().sqrt()}  # at 0 its value is 0, and its gradient is not a number

    harness = Harness(tmp_path, Steep(), validations=0, clip=12.0)
    with pytest.raises(TrainingFailed, match=r"gradient of stage s must be a number; got nan \[subject p0, p1\]\. Lower"):
        harness.run(stage_of(10))
    assert harness.weight == 0.0


def test_progress_with_time_left(tmp_path: Path) -> None:
    harness = Harness(tmp_path, validations=0)
    harness.run(stage_of(5))
    progress = [event for event in harness.events if isinstance(event, Progress)]
    assert [(event.what, event.done, event.total) for event in progress] == [("training: s", k, 5) for k in range(1, 6)]
    assert progress[-1].seconds_left == 0 and all((event.seconds_left or 0) >= 0 for event in progress)
    assert progress[0].text == "loss 0.250"


def test_frozen_parts_run_in_eval_mode_also_after_a_validation(tmp_path: Path) -> None:
    harness = Harness(tmp_path, validations=4)
    harness.run(stage_of(4))
    assert harness.method.modes == [(True, False)] * 4
    assert not harness.method.frozen.weight.requires_grad


def test_a_step_depends_on_its_seed_alone(tmp_path: Path) -> None:
    drawn: list[float] = []

    class Random(Slope):
        def losses(self, batch: Batch, stage: Stage) -> dict[str, Tensor]:
            drawn.append(float(torch.rand(())))
            return super().losses(batch, stage)

    for validations in (0, 4):  # a validation that draws numbers changes nothing
        Harness(tmp_path / str(validations), Random(), validations=validations).run(stage_of(4))
    assert drawn[:4] == drawn[4:] and len(set(drawn)) == 4


def test_seeds_differ() -> None:
    seeds = {step_seed(a, stage=b, step=c, rank=d) for a in range(3) for b in range(3) for c in range(3) for d in range(3)}
    assert len(seeds) == 81 and all(0 <= seed < 2**63 for seed in seeds)


def test_no_validation_case_is_said(tmp_path: Path) -> None:
    harness = Harness(tmp_path, validations=1)
    harness.loop.validate = lambda method, stage: Verdict({}, ("WT",))
    harness.run(stage_of(2, monitor=Monitor("DSC", "max")))
    texts = [event.text for event in harness.events if isinstance(event, Said)]
    assert texts[0] == "validation after 2 steps: no validation case"
    assert texts[1] == "Stage s, step 2: WT is found in no validation case."
    assert CollapseWatch("s", 2).unjudged("DSC") == texts[2]
