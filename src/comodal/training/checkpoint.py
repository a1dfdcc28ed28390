"""Checkpoints for resuming: safetensors and JSON only, switched over atomically.

A checkpoint is a folder `resume/<stage>-<step>/`. `resume/latest.json` names the one that counts and is replaced in one
operation after the folder is complete, so that a kill at any moment leaves the previous one in force. There is no random
state in it: all randomness depends on (seed, stage, step) alone. What the configuration
says (rates, betas) is not in it either.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from pydantic import BaseModel, ConfigDict, Field, JsonValue, ValidationError
from torch import Tensor

from comodal.data.atomic import replacing
from comodal.errors import RunError, message
from comodal.method import Method
from comodal.run import read_weights, save_weights
from comodal.training.collapse import WatchState

START_AGAIN = "Start again in a new folder, without --resume"
MAX_STATE_BYTES = 50_000_000
_NAME = re.compile(r"\d+-\d+")

# What a torch optimiser keeps: {number of the parameter: {"exp_avg": tensor, "step": tensor}}.
OptimiserState = dict[int, dict[str, Tensor | JsonValue]]


class Info(BaseModel):
    """Plain values of a checkpoint.

    Attributes:
        score: Of the best weights so far.
        best: The file of `resume/` that holds them, "" for none.
        since: Validations without a gain.
        stopped: Whether the stage was stopped early at this step.
        watch: What the collapse watch has seen.
        log: Length of metrics.jsonl in bytes.
        warnings: What was said aloud so far.
        seconds: That all sessions together took up to here.
        cpu_seconds: The same in seconds of the processor.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    score: float | None = None
    best: str = Field("", pattern=r"^(best-\d+-\d+\.safetensors)?$")
    since: int = Field(0, ge=0)
    stopped: bool = False
    watch: WatchState = WatchState()
    log: int = Field(0, ge=0)
    warnings: tuple[str, ...] = ()
    seconds: float = Field(0.0, ge=0)
    cpu_seconds: float = Field(0.0, ge=0)


class _State(BaseModel):
    """`state.json`. scalars: {prefix: {number of the parameter: what of the optimiser's state is no tensor}}."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    stage: int = Field(ge=0)
    step: int = Field(ge=0)
    scalars: dict[str, dict[int, dict[str, JsonValue]]]
    info: Info


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint that was read back.

    Attributes:
        stage: Index of the stage.
        step: Steps of that stage already done.
        weights: The method's state at that moment.
        optimisers: {prefix: what the optimiser keeps}.
        best: The best weights so far, empty where there are none.
        info: Further plain values.
    """

    stage: int
    step: int
    weights: dict[str, Tensor]
    optimisers: dict[str, OptimiserState]
    best: dict[str, Tensor]
    info: Info


def _flatten(
    optimisers: Mapping[str, torch.optim.Optimizer],
) -> tuple[dict[str, Tensor], dict[str, dict[int, dict[str, JsonValue]]]]:
    tensors: dict[str, Tensor] = {}
    scalars: dict[str, dict[int, dict[str, JsonValue]]] = {}
    for prefix, optimiser in optimisers.items():
        scalars[prefix] = {}
        for number, values in optimiser.state_dict()["state"].items():
            scalars[prefix][number] = {key: value for key, value in values.items() if not isinstance(value, Tensor)}
            found = {key: value for key, value in values.items() if isinstance(value, Tensor)}
            tensors |= {f"{prefix}|{number}|{key}": value for key, value in found.items()}
    return tensors, scalars


def _unflatten(
    tensors: Mapping[str, Tensor], scalars: Mapping[str, Mapping[int, dict[str, JsonValue]]]
) -> dict[str, OptimiserState]:
    states: dict[str, OptimiserState] = {p: {n: {**values} for n, values in found.items()} for p, found in scalars.items()}
    for name, tensor in tensors.items():
        prefix, number, key = name.split("|")
        states[prefix][int(number)][key] = tensor
    return states


def save_checkpoint(
    folder: Path,
    *,
    stage: int,
    step: int,
    weights: Mapping[str, Tensor],
    optimisers: Mapping[str, torch.optim.Optimizer],
    info: Info,
) -> None:
    """Writes a checkpoint and makes it the one that counts; the previous one is then removed.

    Args:
        folder: `RUN/resume`.
        stage: Index of the stage.
        step: Steps of it already done.
        weights: The method's state.
        optimisers: {prefix: optimiser}.
        info: Plain values; `best` names a file of `folder` that holds the best weights.
    """
    name = f"{stage}-{step}"
    place = folder / name
    shutil.rmtree(place, ignore_errors=True)  # what a killed process left of it
    place.mkdir(parents=True)
    tensors, scalars = _flatten(optimisers)
    save_weights(place / "weights.safetensors", weights)
    save_weights(place / "optimisers.safetensors", tensors)
    state = _State(stage=stage, step=step, scalars=scalars, info=info)
    _write(place / "state.json", state.model_dump_json())
    _write(folder / "latest.json", f'{{"checkpoint": "{name}"}}')
    for other in folder.iterdir():
        if other.name not in {name, "latest.json", info.best}:
            shutil.rmtree(other) if other.is_dir() else other.unlink()


def _write(path: Path, text: str) -> None:
    with replacing(path) as file:
        file.write(text.encode())


class _Latest(BaseModel):
    checkpoint: str


def _damaged(rule: str, got: object, file: Path) -> RunError:
    return RunError(message("checkpoint", rule, got, file=str(file), do=START_AGAIN))


def _read(path: Path) -> bytes:
    if not path.is_file() or path.stat().st_size > MAX_STATE_BYTES:
        got = f"{path.stat().st_size} bytes" if path.is_file() else "no file"
        raise _damaged(f"be files of at most {MAX_STATE_BYTES} bytes", got, path)
    return path.read_bytes()


def load_checkpoint(folder: Path) -> Checkpoint | None:
    """The checkpoint that counts, or None where there is none yet. Nothing in it can run.

    Raises:
        RunError: It is damaged, or names a file outside its folder.
    """
    latest = folder / "latest.json"
    if not latest.is_file():
        return None
    file = latest
    try:
        name = _Latest.model_validate_json(_read(latest)).checkpoint
        if not _NAME.fullmatch(name) or not (folder / name).is_dir():
            raise _damaged("name a folder of resume/", repr(name[:80]), latest)
        file = folder / name / "state.json"
        state = _State.model_validate_json(_read(file))
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise _damaged("be readable", f"{where}: {first['msg']}" if where else first["msg"], file) from None
    tensors = read_weights(folder / name / "optimisers.safetensors")
    try:
        optimisers = _unflatten(tensors, state.scalars)
    except (KeyError, ValueError) as error:
        raise _damaged("have a state for each parameter", repr(error)[:120], folder / name / "optimisers.safetensors") from None
    return Checkpoint(
        stage=state.stage,
        step=state.step,
        weights=read_weights(folder / name / "weights.safetensors"),
        optimisers=optimisers,
        best=read_weights(folder / state.info.best) if state.info.best else {},
        info=state.info,
    )


def restore_weights(method: Method, weights: Mapping[str, Tensor]) -> None:
    """Gives a method the weights of a checkpoint.

    Raises:
        RunError: They are not those of this method.
    """
    try:
        method.load_state_dict(weights)
    except RuntimeError as error:
        got = str(error).strip().splitlines()[-1].strip()[:160]
        raise RunError(message("checkpoint", "hold the weights of this method", got, do=START_AGAIN)) from None


def restore_optimisers(optimisers: Mapping[str, torch.optim.Optimizer], checkpoint: Checkpoint) -> None:
    """Gives optimisers what they kept; their settings stay those of the configuration.

    Raises:
        RunError: The state is not that of these optimisers.
    """
    for prefix, optimiser in optimisers.items():
        saved = checkpoint.optimisers.get(prefix)
        groups = optimiser.state_dict()["param_groups"]
        parameters = [p for group in optimiser.param_groups for p in group["params"]]
        if saved is None or not all(0 <= number < len(parameters) for number in saved):
            got = "none" if saved is None else f"{len(saved)} for {len(parameters)} parameters"
            rule = f"hold the state of the optimiser of {prefix or 'all parameters'}"
            raise RunError(message("checkpoint", rule, got, do=START_AGAIN))
        for number, values in saved.items():
            for key, value in values.items():
                if isinstance(value, Tensor) and value.ndim and value.shape != parameters[number].shape:
                    rule = f"hold {key} of the shape of parameter {number}, {tuple(parameters[number].shape)}"
                    raise RunError(message("checkpoint", rule, tuple(value.shape), do=START_AGAIN))
        optimiser.load_state_dict({"state": saved, "param_groups": groups})
