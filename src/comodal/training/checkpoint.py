"""Checkpoints for resuming: safetensors and JSON only, switched over atomically.

A checkpoint is a folder `resume/<stage>-<step>/`. `resume/latest.json` names the one that counts and is replaced in one
operation after the folder is complete, so that a kill at any moment leaves the previous one in force. There is no random
state in it: all randomness depends on (seed, stage, step) alone.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from comodal.data.atomic import replacing
from comodal.errors import RunError, message
from comodal.run import read_weights, save_weights


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint that was read back.

    Attributes:
        stage: Index of the stage.
        step: Steps of that stage already done.
        weights: The method's state at that moment.
        optimisers: {prefix: torch state_dict}.
        best: The best weights so far, empty where there are none.
        info: Further plain values (best score, collapse watch, length of metrics.jsonl).
    """

    stage: int
    step: int
    weights: dict[str, Tensor]
    optimisers: dict[str, dict[str, Any]]
    best: dict[str, Tensor]
    info: dict[str, Any]


def _flatten(optimisers: Mapping[str, torch.optim.Optimizer]) -> tuple[dict[str, Tensor], dict[str, Any]]:
    tensors: dict[str, Tensor] = {}
    plain: dict[str, Any] = {}
    for prefix, optimiser in optimisers.items():
        state = optimiser.state_dict()
        scalars: dict[str, dict[str, Any]] = {}
        for index, values in state["state"].items():
            for key, value in values.items():
                if isinstance(value, Tensor):
                    tensors[f"{prefix}|{index}|{key}"] = value.detach().cpu().contiguous()
                else:
                    scalars.setdefault(str(index), {})[key] = value
        plain[prefix] = {"groups": state["param_groups"], "scalars": scalars}
    return tensors, plain


def _unflatten(tensors: Mapping[str, Tensor], plain: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    states: dict[str, dict[str, Any]] = {}
    for prefix, item in plain.items():
        groups = [{k: tuple(v) if k == "betas" else v for k, v in group.items()} for group in item["groups"]]
        states[prefix] = {"state": {int(i): dict(v) for i, v in item["scalars"].items()}, "param_groups": groups}
    for name, tensor in tensors.items():
        prefix, index, key = name.split("|")
        states[prefix]["state"].setdefault(int(index), {})[key] = tensor
    return states


def save_checkpoint(
    folder: Path,
    *,
    stage: int,
    step: int,
    weights: Mapping[str, Tensor],
    optimisers: Mapping[str, torch.optim.Optimizer],
    info: Mapping[str, Any],
) -> None:
    """Writes a checkpoint and makes it the one that counts; the previous one is then removed.

    Args:
        folder: `RUN/resume`.
        stage, step: Where the training is.
        weights: The method's state.
        optimisers: {prefix: optimiser}.
        info: Plain values; "best" may name a file of `folder` that holds the best weights.
    """
    name = f"{stage}-{step}"
    place = folder / name
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir(parents=True)
    tensors, plain = _flatten(optimisers)
    save_weights(place / "weights.safetensors", weights)
    save_weights(place / "optimisers.safetensors", tensors)
    state = {"stage": stage, "step": step, "optimisers": plain, "info": dict(info)}
    for path, plain_values in ((place / "state.json", state), (folder / "latest.json", {"checkpoint": name})):
        with replacing(path) as file:
            file.write(json.dumps(plain_values).encode())
    kept = {name, "latest.json", str(info.get("best", ""))}
    for other in folder.iterdir():
        if other.name not in kept:
            shutil.rmtree(other) if other.is_dir() else other.unlink()


def _plain(path: Path) -> dict[str, Any]:
    try:
        data = json.loads(path.read_text())
    except (OSError, ValueError, RecursionError) as error:
        do = "Start again without --resume"
        raise RunError(message("checkpoint", "be readable", type(error).__name__, file=str(path), do=do)) from None
    if not isinstance(data, dict):
        raise RunError(message("checkpoint", "be a JSON object", type(data).__name__, file=str(path), do="Start again without --resume"))
    return data


def load_checkpoint(folder: Path) -> Checkpoint | None:
    """The checkpoint that counts, or None where there is none yet.

    Raises:
        RunError: It is damaged, or names a file outside its folder.
    """
    if not (folder / "latest.json").is_file():
        return None
    name = str(_plain(folder / "latest.json").get("checkpoint", ""))
    if Path(name).name != name or not (folder / name).is_dir():
        raise RunError(message("checkpoint", "name a folder of resume/", repr(name), file=str(folder), do="Start again without --resume"))
    state = _plain(folder / name / "state.json")
    info = state.get("info", {})
    best = str(info.get("best", ""))
    if best and Path(best).name != best:
        raise RunError(message("checkpoint", "name a file of resume/", repr(best), file=str(folder), do="Start again without --resume"))
    try:
        return Checkpoint(
            stage=int(state["stage"]),
            step=int(state["step"]),
            weights=read_weights(folder / name / "weights.safetensors"),
            optimisers=_unflatten(read_weights(folder / name / "optimisers.safetensors"), state["optimisers"]),
            best=read_weights(folder / best) if best else {},
            info=info,
        )
    except (KeyError, TypeError, ValueError) as error:
        do = "Start again without --resume"
        raise RunError(message("checkpoint", "be complete", repr(error)[:120], file=str(folder / name), do=do)) from None
