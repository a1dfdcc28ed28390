"""The loop: one stage of any method on Lightning Fabric. It knows no method by name.

All randomness of a step depends on (seed, stage, step, process) alone: torch's generator is seeded before each step and the
draws depend on (seed, epoch, index). A run that was killed and resumed therefore makes the very steps it would have made.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from comodal.batch import Batch
from comodal.config import TrainingConfig
from comodal.method import Method, Stage
from comodal.run import save_weights
from comodal.training.checkpoint import Checkpoint, save_checkpoint
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
        log: On every process; only process 0 writes to the run's own file.
        emit: Where events go; silent but on process 0.
        validate: From (method, stage) to a verdict; called on process 0 alone.
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
    watch, best, first = CollapseWatch(stage.name, total), _Best(), 0
    method.enter(stage)
    optimisers = build_optimisers(method, stage)
    if resume is not None:
        first = resume.step
        method.load_state_dict(resume.weights)
        for prefix, optimiser in optimisers.items():
            optimiser.load_state_dict(resume.optimisers[prefix])
        watch.restore(resume.info.get("watch"))
        best = _Best(resume.info.get("score"), dict(resume.best), resume.info.get("best", ""), resume.info.get("since", 0))
    wrapped, *rest = fabric.setup(_Objective(method, stage), *optimisers.values())
    stepping = dict(zip(optimisers, rest, strict=True))
    if loop.log is not None and resume is None:
        trained = sum(p.numel() for p in method.parameters() if p.requires_grad)
        loop.log.write("stage", stage=stage.name, state="start", parameters=trained, cases=len(feed.draws), steps=total)
    marks = validation_steps(total, loop.config.validations)
    clock, step = Clock(total, first), first
    while step < total:
        epoch = step // feed.steps_per_epoch
        for batch in feed.batches(epoch, step % feed.steps_per_epoch):
            terms = _step(loop, wrapped, stepping, batch, stage, index=index, step=step, total=total)
            _report(loop, stage, watch, terms, step=step, total=total, epoch=epoch, clock=clock, ids=batch.ids)
            step += 1
            stop = step in marks and _validate(loop, stage, watch, best, index=index, step=step, epoch=epoch)
            if step in marks or step % loop.config.checkpoint_steps == 0 or step == total or stop:
                _checkpoint(loop, index, step=total if stop else step, optimisers=optimisers, best=best, watch=watch)
            if stop:
                step = total
            if step >= total:
                break
    weights = fabric.broadcast(best.weights, src=0)
    if weights:
        method.load_state_dict(weights)
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
    loop: Loop, wrapped: Any, optimisers: dict[str, Any], batch: Batch, stage: Stage, *, index: int, step: int, total: int
) -> dict[str, float]:
    """One optimiser step; returns the loss terms and the learning rates ("rate/<prefix>")."""
    rates = set_rates(optimisers, stage, step=step, total=total)
    torch.manual_seed(step_seed(loop.config.seed, stage=index, step=step, rank=loop.fabric.global_rank))
    for optimiser in optimisers.values():
        optimiser.zero_grad(set_to_none=True)
    terms: dict[str, Tensor] = wrapped(_Sealed(batch.to(loop.fabric.device)))
    loss = torch.stack([term.float() for term in terms.values()]).sum()
    values = {name: float(term.detach()) for name, term in terms.items()}
    if torch.isfinite(loss.detach()):  # otherwise the watch raises before anything is damaged
        loop.fabric.backward(loss)
        if loop.config.clip is not None:
            trained = [p for p in loop.method.parameters() if p.grad is not None]
            torch.nn.utils.clip_grad_norm_(trained, loop.config.clip)
        for optimiser in optimisers.values():
            optimiser.step()
    return {**values, **{f"rate/{prefix or 'all'}": rate for prefix, rate in rates.items()}}


def _report(
    loop: Loop,
    stage: Stage,
    watch: CollapseWatch,
    values: Mapping[str, float],
    *,
    step: int,
    total: int,
    epoch: int,
    clock: Clock,
    ids: tuple[str, ...],
) -> None:
    terms = {name: value for name, value in values.items() if not name.startswith("rate/")}
    rates = {name.removeprefix("rate/"): value for name, value in values.items() if name.startswith("rate/")}
    said = watch.loss(step, terms, ids)
    loss = sum(terms.values())
    if loop.log is not None:
        loop.log.write("step", stage=stage.name, epoch=epoch, step=step, loss=loss, terms=terms, rates=rates)
    loop.emit(Progress(f"training: {stage.name}", step + 1, total, clock.left(step + 1), f"loss {loss:.3f}"))
    if said:
        loop.warn(said, stage=stage.name, step=step)


def _validate(
    loop: Loop, stage: Stage, watch: CollapseWatch, best: _Best, *, index: int, step: int, epoch: int
) -> bool:
    """Validates on process 0, keeps the best weights, and says on all processes whether to stop early."""
    stop = False
    if loop.fabric.global_rank == 0:
        verdict = loop.validate(loop.method, stage)
        loop.method.enter(stage)
        stop, better = _judge(loop, stage, best, verdict, name=f"best-{index}-{step}.safetensors")
        if loop.log is not None:
            loop.log.write("validation", stage=stage.name, epoch=epoch, step=step, metrics=dict(verdict.metrics), best=better)
        words = ", ".join(f"{name} {value:.3f}" for name, value in verdict.metrics.items())
        loop.emit(Said("info", f"validation after {step} steps: {words}{' (best so far)' if better else ''}"))
        for text in watch.missed(step, verdict.missed):
            loop.warn(text, stage=stage.name, step=step)
    stop = bool(loop.fabric.broadcast(stop, src=0))
    return stop


def _judge(loop: Loop, stage: Stage, best: _Best, verdict: Verdict, *, name: str) -> tuple[bool, bool]:
    """(stop early, best so far); without a monitor the last weights are kept and nothing stops."""
    if stage.monitor is None or stage.monitor.metric not in verdict.metrics:
        return False, False
    sign = 1.0 if stage.monitor.mode == "max" else -1.0
    score = verdict.metrics[stage.monitor.metric]
    if best.score is None or sign * score > sign * best.score:
        best.score, best.since, best.file = score, 0, name
        best.weights = {key: tensor.detach().cpu().clone() for key, tensor in loop.method.state_dict().items()}
        save_weights(loop.folder / "resume" / name, best.weights)
        return False, True
    best.since += 1
    return stage.monitor.patience is not None and best.since >= stage.monitor.patience, False


def _checkpoint(
    loop: Loop, index: int, *, step: int, optimisers: Mapping[str, torch.optim.Optimizer], best: _Best, watch: CollapseWatch
) -> None:
    if loop.fabric.global_rank == 0:
        info: dict[str, Any] = {"score": best.score, "best": best.file, "since": best.since, "watch": watch.state()}
        info |= {"log": loop.log.size if loop.log is not None else 0, "warnings": loop.warnings}
        state = loop.method.state_dict()
        save_checkpoint(loop.folder / "resume", stage=index, step=step, weights=state, optimisers=optimisers, info=info)
    loop.fabric.barrier()
