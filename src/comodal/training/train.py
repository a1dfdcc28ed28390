"""From a configuration to a finished run: folder, splits, stages, weights."""

from __future__ import annotations

import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from comodal.batch import collate
from comodal.config import RunConfig, build_method
from comodal.data.cohort import Case, Cohort
from comodal.data.normalisation import fit
from comodal.data.preprocessing import Preparer
from comodal.data import sampling
from comodal.data.splits import check_splits, make_splits
from comodal.data.text import fit_tokenizer
from comodal.errors import ConfigError, message
from comodal.method import Method, Stage
from comodal.run import Run, read_json, read_weights, save_weights, write_json
from comodal.training.checkpoint import Checkpoint, load_checkpoint
from comodal.training.encoded import EncodedDraws, collate_encoded
from comodal.training.events import Emit, Said, silent
from comodal.training.feeding import Draws, Feed
from comodal.training.log import MetricsLog
from comodal.training.loop import Loop, run_stage
from comodal.training.validation import Validator

if TYPE_CHECKING:
    from lightning_fabric import Fabric


def train_run(
    config: RunConfig, out: Path, *, resume: bool = False, init: Path | None = None, emit: Emit = silent
) -> Run:
    """Trains a method and leaves a run folder.

    Args:
        config: Resolved; `cohort` is an absolute path.
        out: The run folder.
        resume: Go on where a killed training of this folder stopped; the folder's own configuration counts.
        init: A run whose weights are taken where name and shape agree.
        emit: Listener for progress and warnings.

    Returns:
        The finished run.

    Raises:
        ConfigError: The folder already holds a run and `resume` is not set.
        TrainingFailed: The loss is not a number.
    """
    began = time.monotonic()
    if config.training.threads is not None:
        torch.set_num_threads(config.training.threads)
    fabric = make_fabric(config)
    if fabric.global_rank == 0:
        open_run(config, out, resume=resume, emit=emit)
    fabric.barrier()
    run = Run.load(out)
    if (out / "weights.safetensors").is_file():
        emit(Said("info", f"{out} is already trained to its end"))
        return run
    torch.manual_seed(run.config.training.seed)
    method = build_method(run.config, run.problem)
    if init is not None:
        take_weights(method, Run.load(init), emit)
    checkpoint = load_checkpoint(out / "resume") if resume else None
    log = _open_log(run, checkpoint) if fabric.global_rank == 0 else None
    preparer = run.preparer(cache=run.cache)
    validator = Validator(run, preparer, fabric)
    listener = emit if fabric.global_rank == 0 else silent
    loop = Loop(fabric, method.to(fabric.device), run.config.training, out, log, listener, validator)
    loop.warnings.extend(checkpoint.info.get("warnings", []) if checkpoint else [])
    for index, stage in enumerate(method.stages()):
        if checkpoint is not None and index < checkpoint.stage:
            continue  # the checkpoint's weights hold what that stage learned
        here = checkpoint if checkpoint is not None and index == checkpoint.stage else None
        if here is not None:
            method.load_state_dict(here.weights)
        cases = stage_cases(run, stage, "train")
        feed = make_feed(run, method, stage, preparer, cases, augment=stage.augment, rank=fabric.global_rank, world=fabric.world_size)
        validator.feed = partial(validation_feed, run, method, stage, preparer)
        run_stage(loop, index, stage, feed=feed, resume=here)
    if fabric.global_rank == 0:
        _finish(run, method, loop, seconds=time.monotonic() - began)
    fabric.barrier()
    _leave_group(fabric)
    return run


def make_fabric(config: RunConfig) -> Fabric:
    """Lightning Fabric for the run's device, precision and number of processes, launched."""
    from lightning_fabric import Fabric
    from lightning_fabric.strategies.ddp import DDPStrategy

    training = config.training
    strategy: Any = "auto"
    if training.devices > 1:  # a modality that no row of a batch has leaves its encoder without gradient
        strategy = DDPStrategy(find_unused_parameters=True)
    accelerator = {"auto": "auto", "cpu": "cpu", "cuda": "gpu"}[training.device]
    fabric = Fabric(accelerator=accelerator, devices=training.devices, strategy=strategy, precision=training.precision)
    fabric.launch()
    return fabric


def _leave_group(fabric: Fabric) -> None:
    """A process that exits with an open process group sometimes aborts."""
    if fabric.world_size > 1 and torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


def open_run(config: RunConfig, out: Path, *, resume: bool, emit: Emit) -> Run:
    """Makes the run folder, or finds the one to resume."""
    if (out / "config.yaml").is_file():
        if not resume:
            do = "Add --resume to go on, or choose another folder"
            raise ConfigError(message("--out", "be a new folder", f"a run ({out})", do=do))
        run = Run.load(out)
        if run.config.model_copy(update={"cohort": ""}) != config.model_copy(update={"cohort": ""}):
            emit(Said("warning", "The run goes on with its own config.yaml; the one given differs."))
        return run
    cohort = Cohort.load(Path(config.cohort))
    splits = make_splits(cohort, config.splits)
    check_splits(splits, cohort)
    data = config.data
    names = [m.name for m in cohort.modalities if data.modalities is None or m.name in data.modalities]
    fitted = fit(cohort, splits["train"], data.preprocessing(), modalities=names)
    texts = [m.name for m in cohort.modalities if m.kind == "text" and m.name in names]
    tokenizer = fit_tokenizer(cohort, splits["train"], modalities=texts) if texts else None
    return Run.create(out, config, cohort, splits=splits, fitted=fitted, tokenizer=tokenizer)


def take_weights(method: Method, other: Run, emit: Emit) -> None:
    """Takes the weights of another run where name and shape agree, and says how many did."""
    theirs = read_weights(other.path / "weights.safetensors")
    own = method.state_dict()
    fit_in = {name: value for name, value in theirs.items() if name in own and own[name].shape == value.shape}
    if not fit_in:
        do = "Give a run of the same method and modalities"
        raise ConfigError(message("--init", "share weights with this method", "none that fit", do=do))
    method.load_state_dict({**own, **fit_in})
    emit(Said("info", f"took {len(fit_in)} of {len(own)} tensors from {other.path}"))


def stage_cases(run: Run, stage: Stage, split: str) -> list[Case]:
    """The cases of a split that may take part in a stage.

    Raises:
        ConfigError: There is none.
    """
    problem = run.problem
    every = [t.name for t in problem.targets]
    found = []
    for case in (run.cohort.case(i) for i in run.splits[split]):
        labelled = all(t in case.cells for t in stage.targets) if stage.targets is not None else any(t in case.cells for t in every)
        if labelled and any(n in case.cells for n in problem.names) and all(n in case.cells for n in stage.modalities):
            found.append(case)
    if not found and split == "train":
        wanted = [*stage.modalities, *(stage.targets if stage.targets is not None else every)]
        do = "Fill the cohort's columns, or change the split"
        raise ConfigError(message(f"Stage {stage.name}", f"have training cases with {', '.join(wanted)}", "none", do=do))
    return found


def make_feed(
    run: Run, method: Method, stage: Stage, preparer: Preparer, cases: Sequence[Case], *, augment: bool, rank: int = 0, world: int = 1
) -> Feed:
    """Where the batches of a stage come from."""
    data, training, problem = run.config.data, run.config.training, run.problem
    whole = stage.inputs == "encoded" or problem.task == "classification"
    draws: Draws = sampling.Draws(
        preparer,
        [case.id for case in cases],
        problem.patch,
        sampler="whole" if whole else stage.sampler,
        spatial_dims=problem.spatial_dims,
        draws_per_case=1 if whole else data.draws_per_case,
        augment=data.augment if augment else "none",
        seed=training.seed,
    )
    join: Any = partial(collate, modalities=problem.modalities, patch=problem.patch)
    workers = training.workers
    if stage.inputs == "encoded":
        draws = EncodedDraws(draws, method, stage, problem=problem, folder=run.cache / "encodings")
        join, workers = partial(collate_encoded, problem=problem), 0
    return Feed(draws, join, stage.batch_size or training.batch_size, rank=rank, world=world, workers=workers)


def validation_feed(run: Run, method: Method, stage: Stage, preparer: Preparer) -> Feed | None:
    """Draws of the validation cases without augmentation, None where there are none."""
    cases = stage_cases(run, stage, "val")
    return make_feed(run, method, stage, preparer, cases, augment=False) if cases else None


def _open_log(run: Run, checkpoint: Checkpoint | None) -> MetricsLog:
    keep = int(checkpoint.info.get("log", 0)) if checkpoint else 0
    board = run.path / "tensorboard" if run.config.training.tensorboard else None
    return MetricsLog(run.path / "metrics.jsonl", keep=keep, tensorboard=board)


def _finish(run: Run, method: Method, loop: Loop, *, seconds: float) -> None:
    """Environment first, weights last: their presence says that the training is complete."""
    known = read_json(run.path / "environment.json", "environment.json")
    known["parameters"] = sum(p.numel() for p in method.parameters())
    known["training_seconds"] = round(known.get("training_seconds", 0.0) + seconds, 1)
    known["warnings"] = loop.warnings
    known["citation"] = str(method.paper)
    write_json(run.path / "environment.json", known)
    if loop.log is not None:
        loop.log.close()
    save_weights(run.path / "weights.safetensors", method.state_dict())

