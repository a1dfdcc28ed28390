"""The loop: one stage of any method on Lightning Fabric. It knows no method by name.

All randomness of a step depends on (seed, stage, step, process) alone: torch's generator is seeded before each step and the
draws depend on (seed, epoch, index), so that two stages on the same cases see the same draws. A run that was killed and resumed
therefore makes the very steps it would have made. On a CPU these are the same to the last bit as long as torch has the same
number of threads (`training.threads`) and the same kind of processor: both decide in which order sums are made.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from math import isfinite
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from comodal.batch import Batch
from comodal.config import TrainingConfig
from comodal.errors import ComodalError, TrainingFailed, message
from comodal.method import Losses, Method, Stage
from comodal.run import save_weights
from comodal.training.checkpoint import Checkpoint, Info, restore_optimisers, restore_weights, save_checkpoint
from comodal.training.collapse import CollapseWatch
from comodal.training.events import Clock, Emit, Progress, Said
from comodal.training.feeding import Feed
from comodal.training.log import MetricsLog
from comodal.training.schedule import build_optimisers, set_rates
from comodal.training.together import fail_together, from_all

if TYPE_CHECKING:
    from lightning_fabric import Fabric


@dataclass(frozen=True)
class Verdict:
    """What a validation found.

    Attributes:
        metrics: {"loss": ..., "DSC": ...}; what the monitor of a stage may name.
        missed: Classes that are there and were found in no validation case.
        cases: {metric: how many cases it rests on}.
    """

    metrics: Mapping[str, float]
    missed: tuple[str, ...] = ()
    cases: Mapping[str, int] = field(default_factory=dict)


@dataclass
class Loop:
    """Everything that the stages of one run share.

    Attributes:
        fabric: Launched.
        method: Not wrapped.
        config: The run's training section.
        folder: The run.
        log: metrics.jsonl; None but on process 0.
        emit: Where events go; silent but on process 0.
        validate: From (method, stage) to a verdict; called on process 0, the others wait.
        warnings: What was said aloud so far.
        began: When this session began, as `time.monotonic()` tells it.
        before: Seconds that earlier sessions took.
        cpu_began: Processor seconds of this process when this session began.
        cpu_before: Processor seconds that earlier sessions took.
    """

    fabric: Fabric
    method: Method
    config: TrainingConfig
    folder: Path
    log: MetricsLog | None
    emit: Emit
    validate: Callable[[Method, Stage], Verdict]
    warnings: list[str] = field(default_factory=list)
    began: float = field(default_factory=time.monotonic)
    before: float = 0.0
    cpu_began: float = field(default_factory=time.process_time)
    cpu_before: float = 0.0

    @property
    def seconds(self) -> float:
        """That all sessions together took so far."""
        return self.before + time.monotonic() - self.began

    @property
    def cpu_seconds(self) -> float:
        """Processor seconds of this process, all threads together: what other work on the machine does not lengthen."""
        return self.cpu_before + time.process_time() - self.cpu_began

    def warn(self, text: str, **where: Any) -> None:
        """Says a warning aloud and writes it down."""
        self.warnings.append(text)
        self.emit(Said("warning", text))
        if self.log is not None:
            self.log.write("warning", **where, text=text)


@dataclass(frozen=True)
class Outcome:
    """What a step gave, of all processes together: loss terms, diagnostics, and the cases of the batch."""

    terms: dict[str, float]
    diagnostics: dict[str, float]
    ids: tuple[str, ...]


@dataclass
class _Best:
    """The best weights of a stage so far; `file` is what `resume/` calls them."""

    score: float | None = None
    weights: dict[str, Tensor] = field(default_factory=dict)
    file: str = ""
    since: int = 0


def step_seed(seed: int, *, stage: int, step: int, rank: int) -> int:
    """A seed for torch's generator that is different for each (seed, stage, step, process)."""
    from numpy.random import SeedSequence

    low, high = SeedSequence([seed, stage, step, rank]).generate_state(2)
    return int(low) + (int(high) % 2**31) * 2**32


def validation_steps(total: int, validations: int) -> set[int]:
    """Numbers of done steps after which to validate: evenly spaced, the last one included."""
    return {max(1, round(total * (k + 1) / validations)) for k in range(validations)}


def run_stage(loop: Loop, index: int, stage: Stage, *, feed: Feed, resume: Checkpoint | None = None) -> None:
    """Trains one stage and leaves the method with its best (or last) weights.

    Args:
        loop: What the stages share.
        index: Number of the stage.
        stage: What to train.
        feed: Where its batches come from.
        resume: A checkpoint of this stage.

    Raises:
        TrainingFailed: The loss is not a number.
    """
    method, fabric = loop.method, loop.fabric
    total = stage.steps if stage.steps is not None else (stage.epochs or 0) * feed.steps_per_epoch
    watch, best, step, stopped = CollapseWatch(stage.name, total), _Best(), 0, False
    method.enter(stage)
    method.zero_grad(set_to_none=True)  # an earlier stage leaves gradients behind, which a resumed process would not have
    optimisers = build_optimisers(method, stage)
    if resume is not None:
        restore_weights(method, resume.weights)
        restore_optimisers(optimisers, resume)
        watch.restore(resume.info.watch)
        best = _Best(resume.info.score, resume.best, resume.info.best, resume.info.since)
        step, stopped = resume.step, resume.info.stopped
    wrapped, *rest = fabric.setup(_Objective(method, stage, shared=fabric.world_size > 1), *optimisers.values())
    stepping = dict(zip(optimisers, rest, strict=True))
    if resume is None:
        if loop.log is not None:
            trained = sum(p.numel() for p in method.parameters() if p.requires_grad)
            loop.log.write("stage", stage=stage.name, state="start", parameters=trained, cases=feed.cases, steps=total)
        _checkpoint(loop, index, step=0, optimisers=optimisers, best=best, watch=watch)
    marks = validation_steps(total, loop.config.validations)
    clock = Clock(total, step)
    while step < total and not stopped:
        epoch = step // feed.steps_per_epoch
        for batch in _batches(loop, feed, epoch, step % feed.steps_per_epoch):
            rates = set_rates(optimisers, stage, step=step, total=total)
            outcome = _step(loop, wrapped, stepping, batch, stage, index=index, step=step)
            _report(loop, stage, watch, outcome, rates=rates, step=step, epoch=epoch, clock=clock)
            step += 1
            stopped = step in marks and _validate(loop, stage, watch, best, index=index, step=step, epoch=epoch)
            if step in marks or step % loop.config.checkpoint_steps == 0 or step == total:
                _checkpoint(loop, index, step=step, optimisers=optimisers, best=best, watch=watch, stopped=stopped)
            if stopped or step == total:
                break
    own = best.weights
    if fabric.world_size > 1 and not own:  # running statistics are each process's own, and a next stage may encode with them
        own = {key: tensor.detach().cpu() for key, tensor in method.state_dict().items()}
    weights = fabric.broadcast(own, src=0)
    if weights:
        restore_weights(method, weights)
    if loop.log is not None:
        loop.log.write("stage", stage=stage.name, state="end", score=best.score, steps=step)


class _Sealed:
    """Carries a batch through Fabric, whose mixed precision would try to rewrite the tensors of a dataclass."""

    def __init__(self, batch: Batch) -> None:
        self.batch = batch


class _Objective(torch.nn.Module):
    """The losses of a stage as a forward pass, which is what Fabric and DDP wrap."""

    def __init__(self, method: Method, stage: Stage, *, shared: bool) -> None:
        super().__init__()
        self.method, self.stage = method, stage
        if shared:
            # A modality that no row has leaves its encoder without gradient, so DDP must look for such parameters. Where it
            # finds none it says so on standard error, past Python's warnings; this one, never stepped, it always finds.
            self.idle = torch.nn.Parameter(torch.zeros(()))

    def forward(self, sealed: _Sealed) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        found = self.method.losses(sealed.batch, self.stage)
        return dict(found), found.diagnostics if isinstance(found, Losses) else {}


def _batches(loop: Loop, feed: Feed, epoch: int, start: int) -> Iterator[Batch]:
    """The batches of an epoch from a step on; where one process cannot read its own, all end."""
    source = feed.batches(epoch, start)
    while True:
        batch: Batch | None = None
        failure: ComodalError | None = None
        try:
            batch = next(source, None)
        except ComodalError as error:
            failure = error
        fail_together(loop.fabric, failure)
        if batch is None:
            return
        yield batch


def _step(
    loop: Loop, wrapped: Any, optimisers: dict[str, Any], batch: Batch, stage: Stage, *, index: int, step: int
) -> Outcome:
    """One optimiser step."""
    torch.manual_seed(step_seed(loop.config.seed, stage=index, step=step, rank=loop.fabric.global_rank))
    for optimiser in optimisers.values():
        optimiser.zero_grad(set_to_none=True)
    terms, diagnostics = wrapped(_Sealed(batch.to(loop.fabric.device)))
    loss = torch.stack([term.float() for term in terms.values()]).sum()
    outcome = _of_all(loop.fabric, Outcome(_floats(terms), _floats(diagnostics), batch.ids))
    if not all(map(isfinite, outcome.terms.values())):
        return outcome  # the watch raises, on every process, before anything is damaged
    loop.fabric.backward(loss)
    if loop.config.clip is not None:
        norm = torch.nn.utils.clip_grad_norm_([p for p in loop.method.parameters() if p.requires_grad], loop.config.clip)
        if not torch.isfinite(norm):
            do = "Lower the learning rate, or train with training.precision=32-true"
            owner, subject = f"gradient of stage {stage.name}", ", ".join(dict.fromkeys(outcome.ids))
            raise TrainingFailed(message(owner, "be a number", float(norm), subject=subject, do=do))
    for optimiser in optimisers.values():
        optimiser.step()
    return outcome


def _floats(tensors: Mapping[str, Tensor]) -> dict[str, float]:
    return {name: float(tensor.detach()) for name, tensor in tensors.items()}


def _of_all(fabric: Fabric, own: Outcome) -> Outcome:
    """Means over the processes. A term that a process lacks is zero there, as DDP averages gradients; a diagnostic is not."""
    if fabric.world_size == 1:
        return own
    found = from_all(fabric, own)
    terms = {name: sum(o.terms.get(name, 0.0) for o in found) / len(found) for o in found for name in o.terms}
    told: dict[str, list[float]] = {}
    for outcome in found:
        for name, value in outcome.diagnostics.items():
            told.setdefault(name, []).append(value)
    means = {name: sum(values) / len(values) for name, values in told.items()}
    return Outcome(terms, means, tuple(i for o in found for i in o.ids))


def _report(
    loop: Loop,
    stage: Stage,
    watch: CollapseWatch,
    outcome: Outcome,
    *,
    rates: Mapping[str, float],
    step: int,
    epoch: int,
    clock: Clock,
) -> None:
    said = watch.loss(step, outcome.terms, outcome.ids)
    loss = sum(outcome.terms.values())
    if loop.log is not None:
        more = {"diagnostics": outcome.diagnostics} if outcome.diagnostics else {}
        loop.log.write(
            "step",
            stage=stage.name,
            epoch=epoch,
            step=step,
            loss=loss,
            terms=outcome.terms,
            **more,
            rates={name or "all": rate for name, rate in rates.items()},
        )
    loop.emit(Progress(f"training: {stage.name}", step + 1, clock.total, clock.left(step + 1), f"loss {loss:.3f}"))
    if said:
        loop.warn(said, stage=stage.name, step=step)


def _validate(loop: Loop, stage: Stage, watch: CollapseWatch, best: _Best, *, index: int, step: int, epoch: int) -> bool:
    """Validates and keeps the best weights on process 0; says on all processes whether to stop early."""
    stop = False
    failure: ComodalError | None = None
    if loop.fabric.global_rank == 0:
        try:
            stop = _validated(loop, stage, watch, best, index=index, step=step, epoch=epoch)
        except ComodalError as error:
            failure = error
    fail_together(loop.fabric, failure)
    loop.method.enter(stage)
    return bool(loop.fabric.broadcast(stop, src=0))


def _validated(loop: Loop, stage: Stage, watch: CollapseWatch, best: _Best, *, index: int, step: int, epoch: int) -> bool:
    verdict = loop.validate(loop.method, stage)
    stop, better = _judge(loop, stage, best, verdict, name=f"best-{index}-{step}.safetensors")
    if loop.log is not None:
        found = {"metrics": dict(verdict.metrics), "cases": dict(verdict.cases)}
        loop.log.write("validation", stage=stage.name, epoch=epoch, step=step, **found, best=better)
    words = ", ".join(f"{name} {value:.3f}" for name, value in verdict.metrics.items()) or "no validation case"
    loop.emit(Said("info", f"validation after {step} steps: {words}{' (best so far)' if better else ''}"))
    for text in watch.missed(step, verdict.missed):
        loop.warn(text, stage=stage.name, step=step)
    if stage.monitor is not None and not isfinite(verdict.metrics.get(stage.monitor.metric, math.nan)):
        unjudged = watch.unjudged(stage.monitor.metric)
        if unjudged:
            loop.warn(unjudged, stage=stage.name, step=step)
    return stop


def _judge(loop: Loop, stage: Stage, best: _Best, verdict: Verdict, *, name: str) -> tuple[bool, bool]:
    """(stop early, best so far); without a monitor, or a number for it, the last weights are kept and nothing stops."""
    score = verdict.metrics.get(stage.monitor.metric, math.nan) if stage.monitor is not None else math.nan
    if stage.monitor is None or not isfinite(score):  # the first score stays the best if compared with "not a number"
        return False, False
    sign = 1.0 if stage.monitor.mode == "max" else -1.0
    if best.score is None or sign * score > sign * best.score:
        best.score, best.since, best.file = score, 0, name
        best.weights = {key: tensor.detach().cpu().clone() for key, tensor in loop.method.state_dict().items()}
        save_weights(loop.folder / "resume" / name, best.weights)
        return False, True
    best.since += 1
    return stage.monitor.patience is not None and best.since >= stage.monitor.patience, False


def _checkpoint(
    loop: Loop,
    index: int,
    *,
    step: int,
    optimisers: Mapping[str, torch.optim.Optimizer],
    best: _Best,
    watch: CollapseWatch,
    stopped: bool = False,
) -> None:
    if loop.fabric.global_rank == 0:
        info = Info(
            score=best.score,
            best=best.file,
            since=best.since,
            stopped=stopped,
            watch=watch.state,
            log=loop.log.size if loop.log is not None else 0,
            warnings=tuple(loop.warnings),
            seconds=loop.seconds,
            cpu_seconds=loop.cpu_seconds,
        )
        state = loop.method.state_dict()
        save_checkpoint(loop.folder / "resume", stage=index, step=step, weights=state, optimisers=optimisers, info=info)
    loop.fabric.barrier()
