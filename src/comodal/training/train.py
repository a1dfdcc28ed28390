"""From a configuration to a finished run: folder, splits, stages, weights."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed

from comodal.batch import collate
from comodal.config import RunConfig, build_method
from comodal.data import sampling
from comodal.data.balancing import balanced_targets, case_weights
from comodal.data.cohort import Case, Cohort
from comodal.data.normalisation import fit
from comodal.data.pieces import PieceTokenizer
from comodal.data.preparing import prepare
from comodal.data.preprocessing import Preparer
from comodal.data.splits import check_splits
from comodal.data.text import Tokenizer, find_tokenizer, some_reports
from comodal.data.withholding import divided
from comodal.errors import ConfigError, RunError, TrainingFailed, message
from comodal.method import Method, Stage
from comodal.run import Run, check_folder, read_json, save_weights, write_json
from comodal.training.checking import check_training, stage_cases, take_weights
from comodal.training.checkpoint import Checkpoint, load_checkpoint, restore_weights
from comodal.training.encoded import EncodedDraws, Seen, collate_encoded
from comodal.training.events import Clock, Emit, Progress, Said, silent
from comodal.training.feeding import Draws, Feed
from comodal.training.log import MetricsLog, require_tensorboard
from comodal.training.loop import Loop, run_stage
from comodal.training.pretrained import take_pretrained
from comodal.training.together import leave_together
from comodal.training.validation import Validator

if TYPE_CHECKING:
    from lightning_fabric import Fabric

FLOOD = 0.5  # share of unknown words from which a report says little


def train_run(config: RunConfig, out: Path, *, resume: bool = False, init: Path | None = None, emit: Emit = silent) -> Run:
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
        DataError: A file is damaged.
        TrainingFailed: The loss is not a number.
    """
    began = time.monotonic()
    leader = first_process()
    if leader:  # before further processes are started, so that a mistake is one message
        open_run(config, out, resume=resume, init=init, emit=emit)
    if (out / "weights.safetensors").is_file():
        if leader:
            Run.load(out).drop_cache()  # where it was killed between its last two steps
            emit(Said("info", f"{out} is already trained to its end"))
        return Run.load(out)
    settled = Run.load(out).config if (out / "config.yaml").is_file() else config
    fabric = make_fabric(settled)
    try:
        fabric.barrier()
        run = Run.load(out)
        loop = _train(run, fabric, init=init, emit=emit if fabric.global_rank == 0 else silent, began=began)
        if fabric.global_rank == 0:
            _finish(run, loop)
        fabric.barrier()
        if fabric.global_rank == 0:
            run.drop_cache()
    except TrainingFailed as failure:  # of all processes together
        leave_together(fabric, failure)
    finally:
        _leave_group(fabric)
    return run


def _train(run: Run, fabric: Fabric, *, init: Path | None, emit: Emit, began: float) -> Loop:
    """All stages that are not done yet."""
    config, rank, world = run.config.training, fabric.global_rank, fabric.world_size
    _set_threads(run, world)
    torch.manual_seed(config.seed)
    method = build_method(run.config, run.problem)
    checkpoint = load_checkpoint(run.path / "resume")
    if checkpoint is None:  # else it has grown out of them
        _take_first_weights(run, method, init, emit=emit, write=rank == 0)
    preparer = run.preparer(cache=run.cache)
    validator = Validator(run, preparer, fabric)
    log = _open_log(run, checkpoint) if rank == 0 else None
    loop = Loop(fabric, method.to(fabric.device), config, run.path, log, emit, validator, began=began)
    if checkpoint is not None:
        loop.warnings.extend(checkpoint.info.warnings)
        loop.before, loop.cpu_before = checkpoint.info.seconds, checkpoint.info.cpu_seconds
    stages = method.stages()
    if config.workers > 0 and world == 1:
        _fill_cache(run, preparer, stages, emit)
    if checkpoint is not None and checkpoint.stage >= len(stages):
        got, do = checkpoint.stage, "Start again in a new folder, without --resume"
        raise RunError(message("checkpoint", f"be of one of the {len(stages)} stages", got, file=str(run.path), do=do))
    seen: Seen = {}
    for index, stage in enumerate(stages):
        if checkpoint is not None and index < checkpoint.stage:
            continue  # the checkpoint's weights hold what that stage learned
        here = checkpoint if checkpoint is not None and index == checkpoint.stage else None
        if here is not None:
            restore_weights(method, here.weights)  # now: encodings are made with them
        cases = stage_cases(run.problem, run.cohort, run.splits["train"], stage=stage)
        how: dict[str, Any] = {"preparer": preparer, "seen": seen}
        feed = make_feed(run, method, stage, cases=cases, augment=stage.augment, rank=rank, world=world, **how)
        validator.feed = validation_feed(run, method, stage, **how) if rank == 0 else None
        run_stage(loop, index, stage, feed=feed, resume=here)
    return loop


def _take_first_weights(run: Run, method: Method, init: Path | None, *, emit: Emit, write: bool) -> None:
    """Those of others from which a new training starts, and a note of where they came from."""
    taken = take_pretrained(method, emit)
    if taken and write:
        file = run.path / "environment.json"
        write_json(file, {**read_json(file, file.name), "pretrained": taken})
    if init is not None:
        take_weights(method, Run.load(init), emit)


def _fill_cache(run: Run, preparer: Preparer, stages: Sequence[Stage], emit: Emit) -> None:
    """Prepares the cases of all stages by the processes that will load them: the first epoch is as fast as the others."""
    cases = [
        case.id
        for stage in stages
        for split in ("train", "val")
        for case in stage_cases(run.problem, run.cohort, run.splits[split], stage=stage, needed=False)
    ]
    clock = Clock(len(dict.fromkeys(cases)))
    prepare(
        preparer,
        cases,
        workers=run.config.training.workers,
        foreground=any(stage.sampler == "foreground" for stage in stages),
        on_progress=lambda done, total: emit(Progress("preparing cases", done, total, clock.left(done))),
    )


def first_process() -> bool:
    """Whether this is the process that writes; known from torchrun's or Fabric's variables before any group exists."""
    return os.environ.get("RANK", os.environ.get("LOCAL_RANK", "0")) in ("", "0")


def _set_threads(run: Run, world: int) -> None:
    """The configured number of torch threads, or that of the run's beginning: it decides the order of sums."""
    if run.config.training.threads is not None:
        torch.set_num_threads(run.config.training.threads)
    elif world == 1:
        began_with = read_json(run.path / "environment.json", "environment.json").get("threads")
        if isinstance(began_with, int) and 1 <= began_with <= 1024:
            torch.set_num_threads(began_with)


def check_machine(config: RunConfig) -> bool:
    """Finds what this machine lacks for a training, before anything is written.

    Returns:
        Whether it will run on GPUs.

    Raises:
        ConfigError: This machine has no such device, or not as many, torchrun started another number of processes, or
            TensorBoard is asked for and not installed.
    """
    training = config.training
    gpus = torch.cuda.device_count()
    on_gpu = training.device == "cuda" or (training.device == "auto" and gpus > 0)
    if on_gpu and gpus < training.devices:
        do = "Choose fewer devices" if gpus else "Set training.device to cpu"
        raise ConfigError(message("training.devices", "be GPUs of this machine", f"{training.devices} for {gpus}", do=do))
    started = int(os.environ.get("WORLD_SIZE", "1")) if "TORCHELASTIC_RUN_ID" in os.environ else training.devices
    if started != training.devices:
        do = f"Set training.devices to {started}"
        raise ConfigError(message("training.devices", "be the number of processes of torchrun", training.devices, do=do))
    if training.tensorboard:
        require_tensorboard()
    return on_gpu


def make_fabric(config: RunConfig) -> Fabric:
    """Lightning Fabric for the run's device, precision and number of processes, launched.

    Raises:
        ConfigError: See `check_machine`.
    """
    training, on_gpu = config.training, check_machine(config)
    from lightning_fabric import Fabric
    from lightning_fabric.strategies.ddp import DDPStrategy

    logging.getLogger("lightning_fabric").setLevel(logging.WARNING)  # it announces each process on standard error
    strategy: Any = "auto"
    if training.devices > 1:  # a modality that no row of a batch has leaves its encoder without gradient
        strategy = DDPStrategy(find_unused_parameters=True)
    kind = "cuda" if on_gpu else "cpu"
    fabric = Fabric(accelerator=kind, devices=training.devices, strategy=strategy, precision=training.precision)
    fabric.launch()
    return fabric


def _leave_group(fabric: Fabric) -> None:
    """A process that exits with an open process group sometimes aborts."""
    if fabric.world_size > 1 and torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


def open_run(config: RunConfig, out: Path, *, resume: bool, init: Path | None = None, emit: Emit = silent) -> Run:
    """Makes the run folder, or finds the one to resume.

    Args:
        config: Resolved.
        out: The run folder.
        resume: Whether it may hold a run.
        init: A run whose weights a new one will take.
        emit: Listener.

    Raises:
        ConfigError: It holds a run and `resume` is not set, or the method cannot be trained so; no folder is left then.
        DataError: The cohort is not as it must be, or has no case to train on; no folder is left then.
    """
    if (out / "config.yaml").is_file():
        if not resume:
            do = "Add --resume to go on, or choose another folder"
            raise ConfigError(message("--out", "be a new folder", f"a run ({out})", do=do))
        run = Run.load(out)
        if run.config.model_copy(update={"cohort": ""}) != config.model_copy(update={"cohort": ""}):
            emit(Said("warning", "The run goes on with its own config.yaml; the one given differs."))
        for left in out.glob(".*.partial"):  # by a process that was killed while it wrote
            left.unlink(missing_ok=True)
        return run
    check_machine(config)
    check_folder(out)
    data = config.data
    cohort, splits = divided(Cohort.load(Path(config.cohort)), config.splits, data.withhold)
    check_splits(splits, cohort, allow=config.splits.allow_leakage)
    names = [m.name for m in cohort.modalities if data.modalities is None or m.name in data.modalities]
    texts = [m.name for m in cohort.modalities if m.kind == "text" and m.name in names]
    limits = {"max_sentences": data.max_sentences, "max_tokens": data.max_tokens}
    reports: dict[str, Any] = {"modalities": texts, "source": config.tokenizer, **limits}
    tokenizer = find_tokenizer(cohort, splits["train"], **reports) if texts else None
    if isinstance(tokenizer, Tokenizer):
        share = tokenizer.unknown(some_reports(cohort, splits["train"], modalities=texts))
        if share > FLOOD:
            emit(Said("warning", f"{share:.0%} of the words of the training reports occur once and are all unknown alike."))
    text = config.method.get("text")
    if texts and config.method.get("text_sizes") and config.tokenizer != text:
        said = f"data.tokenizer is {config.tokenizer} and method.text {text}"
        emit(Said("warning", f"{said}: the ids of tokens must be those with which the encoder of reports was trained."))
    known, words = (0, ()) if tokenizer is None else (tokenizer.vocabulary, tokenizer.words)
    check_training(config, cohort, splits, vocabulary=known, words=words, init=init, emit=emit)
    fitted = fit(cohort, splits["train"], data.preprocessing(), modalities=names)
    if isinstance(tokenizer, PieceTokenizer):
        fitted = fitted.model_copy(update={"tokenizer": "tokenizer.json"})
    return Run.create(out, config, cohort, splits=splits, fitted=fitted, tokenizer=tokenizer)


def make_feed(
    run: Run,
    method: Method,
    stage: Stage,
    *,
    preparer: Preparer,
    cases: Sequence[Case],
    augment: bool,
    rank: int = 0,
    world: int = 1,
    seen: Seen | None = None,
) -> Feed:
    """Where the batches of a stage come from; `seen` holds encodings that several stages share."""
    data, training, problem = run.config.data, run.config.training, run.problem
    whole = stage.inputs == "encoded" or problem.task == "classification"
    plain = sampling.Draws(
        preparer,
        [case.id for case in cases],
        problem.patches,
        sampler="whole" if whole else stage.sampler,
        spatial_dims=problem.spatial_dims,
        draws_per_case=1 if whole else data.draws_per_case,
        augment=data.augment if augment else "none",
        seed=training.seed,
        use=stage.reads,
        weights=case_weights(run.cohort, cases, balanced_targets(stage.balance, problem.targets)) if stage.balance else None,
    )
    join: Any = partial(collate, modalities=problem.modalities, patch=problem.patches)
    workers = training.workers
    draws: Draws = plain
    if stage.inputs == "encoded":
        draws = EncodedDraws(plain, method, stage, problem=problem, folder=run.cache / "encodings", seen=seen)
        join, workers = partial(collate_encoded, problem=problem), 0
    size = stage.batch_size or training.batch_size
    return Feed(draws, join, size, rank=rank, world=world, workers=workers, cases=len(cases))


def validation_feed(run: Run, method: Method, stage: Stage, *, preparer: Preparer, seen: Seen | None = None) -> Feed | None:
    """Draws of the validation cases without augmentation, for one process; None where there are none."""
    cases = stage_cases(run.problem, run.cohort, run.splits["val"], stage=stage, needed=False)
    stage = replace(stage, balance=())  # each once, as they are
    if not cases:
        return None
    return make_feed(run, method, stage, preparer=preparer, cases=cases, augment=False, seen=seen)


def _open_log(run: Run, checkpoint: Checkpoint | None) -> MetricsLog:
    keep = checkpoint.info.log if checkpoint else 0
    board = run.path / "tensorboard" if run.config.training.tensorboard else None
    return MetricsLog(run.path / "metrics.jsonl", keep=keep, tensorboard=board)


def _finish(run: Run, loop: Loop) -> None:
    """Environment first, weights last: their presence says that the training is complete."""
    known = read_json(run.path / "environment.json", "environment.json")
    known["parameters"] = sum(p.numel() for p in loop.method.parameters())
    known["training_seconds"] = round(loop.seconds, 1)
    known["training_cpu_seconds"] = round(loop.cpu_seconds, 1)
    known["warnings"] = loop.warnings
    known["citation"] = str(loop.method.paper)
    write_json(run.path / "environment.json", known)
    if loop.log is not None:
        loop.log.close()
    save_weights(run.path / "weights.safetensors", loop.method.state_dict())
