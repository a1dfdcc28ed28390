"""The loop: one stage of any method on Lightning Fabric. It knows no method by name.

All randomness of a step depends on (seed, stage, step, process) alone: torch's generator is seeded before each step and the
draws depend on (seed, epoch, index). A run that was killed and resumed therefore makes the very steps it would have made. On a
CPU these are the same to the last bit as long as torch has the same number of threads (`training.threads`) and the same kind of
processor: both decide in which order sums are made.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from math import isfinite
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed
from torch import Tensor

from comodal.batch import Batch
from comodal.config import TrainingConfig
from comodal.errors import TrainingFailed, message
from comodal.method import Method, Stage
from comodal.run import save_weights
from comodal.training.checkpoint import Checkpoint, Info, restore_optimisers, restore_weights, save_checkpoint
from comodal.training.collapse import CollapseWatch
from comodal.training.events import Clock, Emit, Progress, Said
from comodal.training.feeding import Feed
from comodal.training.log import MetricsLog
from comodal.training.schedule import build_optimisers, set_rates

if TYPE_CHECKING:
    from lightning_fabric import Fabric


@dataclass(frozen=True)
class Verdict:
    """What a validation found.

    Attributes:
        metrics: {"loss": ..., "DSC": ...}; what the monitor of a stage may name.
        missed: Classes that are there and were found in no validation case.
    """

    metrics: Mapping[str, float]
    missed: tuple[str, ...] = ()


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
        validate: From (method, stage) to a verdict; called on every process, and that of process 0 counts.
        warnings: What was said aloud so far.
    """

    fabric: Fabric
    method: Method
    config: TrainingConfig
    folder: Path
    log: MetricsLog | None
    emit: Emit
    validate: Callable[[Method, Stage], Verdict]
    warnings: list[str] = field(default_factory=list)

    def warn(self, text: str, **where: Any) -> None:
        """Says a warning aloud and writes it down."""
        self.warnings.append(text)
        self.emit(Said("warning", text))
        if self.log is not None:
            self.log.write("warning", **where, text=text)


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
    optimisers = build_optimisers(method, stage)
    if resume is not None:
        restore_weights(method, resume.weights)
        restore_optimisers(optimisers, resume)
        watch.restore(resume.info.watch)
        best = _Best(resume.info.score, resume.best, resume.info.best, resume.info.since)
        step, stopped = resume.step, resume.info.stopped
    wrapped, *rest = fabric.setup(_Objective(method, stage), *optimisers.values())
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
        for batch in feed.batches(epoch, step % feed.steps_per_epoch):
            rates = set_rates(optimisers, stage, step=step, total=total)
            terms, ids = _step(loop, wrapped, stepping, batch, stage, index=index, step=step)
            _report(loop, stage, watch, terms, rates=rates, step=step, epoch=epoch, ids=ids, clock=clock)
            step += 1
            stopped = step in marks and _validate(loop, stage, watch, best, index=index, step=step, epoch=epoch)
            if step in marks or step % loop.config.checkpoint_steps == 0 or step == total:
                _checkpoint(loop, index, step=step, optimisers=optimisers, best=best, watch=watch, stopped=stopped)
            if stopped or step == total:
                break
    weights = fabric.broadcast(best.weights, src=0)
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

    def __init__(self, method: Method, stage: Stage) -> None:
        super().__init__()
        self.method, self.stage = method, stage

    def forward(self, sealed: _Sealed) -> dict[str, Tensor]:
        return self.method.losses(sealed.batch, self.stage)


def _step(
    loop: Loop, wrapped: Any, optimisers: dict[str, Any], batch: Batch, stage: Stage, *, index: int, step: int
) -> tuple[dict[str, float], tuple[str, ...]]:
    """One optimiser step; returns the loss terms and the cases of the batch, of all processes together."""
    torch.manual_seed(step_seed(loop.config.seed, stage=index, step=step, rank=loop.fabric.global_rank))
    for optimiser in optimisers.values():
        optimiser.zero_grad(set_to_none=True)
    terms: dict[str, Tensor] = wrapped(_Sealed(batch.to(loop.fabric.device)))
    loss = torch.stack([term.float() for term in terms.values()]).sum()
    values, ids = _of_all(loop.fabric, {name: float(term.detach()) for name, term in terms.items()}, batch.ids)
    if not all(map(isfinite, values.values())):
        return values, ids  # the watch raises, on every process, before anything is damaged
    loop.fabric.backward(loss)
    if loop.config.clip is not None:
        norm = torch.nn.utils.clip_grad_norm_([p for p in loop.method.parameters() if p.grad is not None], loop.config.clip)
        if not torch.isfinite(norm):
            do = "Lower the learning rate, or train with training.precision=32-true"
            owner = f"gradient of stage {stage.name}"
            raise TrainingFailed(message(owner, "be a number", float(norm), subject=", ".join(dict.fromkeys(ids)), do=do))
    for optimiser in optimisers.values():
        optimiser.step()
    return values, ids


def _of_all(fabric: Fabric, terms: dict[str, float], ids: tuple[str, ...]) -> tuple[dict[str, float], tuple[str, ...]]:
    """Means of the terms over the processes, as DDP averages gradients: a term that a process lacks is zero there."""
    if fabric.world_size == 1:
        return terms, ids
    found: list[Any] = [None] * fabric.world_size
    torch.distributed.all_gather_object(found, (terms, ids))
    names = dict.fromkeys(name for other, _ in found for name in other)
    means = {name: sum(other.get(name, 0.0) for other, _ in found) / len(found) for name in names}
    return means, tuple(i for _, other in found for i in other)


def _report(
    loop: Loop,
    stage: Stage,
    watch: CollapseWatch,
    terms: Mapping[str, float],
    *,
    rates: Mapping[str, float],
    step: int,
    epoch: int,
    ids: tuple[str, ...],
    clock: Clock,
) -> None:
    said = watch.loss(step, terms, ids)
    loss = sum(terms.values())
    if loop.log is not None:
        loop.log.write(
            "step",
            stage=stage.name,
            epoch=epoch,
            step=step,
            loss=loss,
            terms=dict(terms),
            rates={name or "all": rate for name, rate in rates.items()},
        )
    loop.emit(Progress(f"training: {stage.name}", step + 1, clock.total, clock.left(step + 1), f"loss {loss:.3f}"))
    if said:
        loop.warn(said, stage=stage.name, step=step)


def _validate(loop: Loop, stage: Stage, watch: CollapseWatch, best: _Best, *, index: int, step: int, epoch: int) -> bool:
    """Validates, keeps the best weights on process 0, and says on all processes whether to stop early."""
    verdict = loop.validate(loop.method, stage)
    loop.method.enter(stage)
    stop = False
    if loop.fabric.global_rank == 0:
        stop, better = _judge(loop, stage, best, verdict, name=f"best-{index}-{step}.safetensors")
        if loop.log is not None:
            loop.log.write("validation", stage=stage.name, epoch=epoch, step=step, metrics=dict(verdict.metrics), best=better)
        words = ", ".join(f"{name} {value:.3f}" for name, value in verdict.metrics.items()) or "no validation case"
        loop.emit(Said("info", f"validation after {step} steps: {words}{' (best so far)' if better else ''}"))
        for text in watch.missed(step, verdict.missed):
            loop.warn(text, stage=stage.name, step=step)
        if stage.monitor is not None and not isfinite(verdict.metrics.get(stage.monitor.metric, math.nan)):
            unjudged = watch.unjudged(stage.monitor.metric)
            if unjudged:
                loop.warn(unjudged, stage=stage.name, step=step)
    return bool(loop.fabric.broadcast(stop, src=0))


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
        )
        state = loop.method.state_dict()
        save_checkpoint(loop.folder / "resume", stage=index, step=step, weights=state, optimisers=optimisers, info=info)
    loop.fabric.barrier()
