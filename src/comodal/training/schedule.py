"""Optimisers of a stage and their learning rates: pure functions of the step, so that resuming needs no scheduler state."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch

from comodal.errors import ConfigError, message
from comodal.method import Method, Optimiser, Stage


def rate_factor(optimiser: Optimiser, step: int, total: int) -> float:
    """What the highest learning rate is multiplied by at a step.

    Linear warm-up to 1 over the first `warmup * total` steps, then over the rest t = 0 ... 1: poly (1 - t)^0.9, linear
    1 - t, cosine (1 + cos(pi t)) / 2, or constant 1.

    Args:
        optimiser: Has `schedule` and `warmup`.
        step: 0 is the first.
        total: Steps of the stage.

    Returns:
        A factor in (0, 1].

    >>> [round(rate_factor(Optimiser(schedule="poly", warmup=0.5), s, 4), 3) for s in range(4)]
    [0.5, 1.0, 1.0, 0.536]
    """
    warm = round(optimiser.warmup * total)
    if step < warm:
        return (step + 1) / warm
    t = (step - warm) / max(1, total - warm)
    if optimiser.schedule == "poly":
        return float((1 - t) ** 0.9)
    if optimiser.schedule == "linear":
        return 1 - t
    return (1 + math.cos(math.pi * t)) / 2 if optimiser.schedule == "cosine" else 1.0


def build_optimisers(method: Method, stage: Stage) -> dict[str, torch.optim.Optimizer]:
    """One torch optimiser per prefix of the stage that has parameters; {prefix: optimiser} in the stage's order.

    Raises:
        ConfigError: The stage trains no parameter.
    """
    groups: dict[str, list[torch.nn.Parameter]] = {prefix: [] for prefix in stage.optimisers}
    for name, parameter in method.named_parameters():
        if stage.trains(name):
            groups[stage.optimiser_of(name)].append(parameter)
    if not any(groups.values()):
        prefixes = ", ".join(stage.train) or "nothing"
        raise ConfigError(message(f"Stage {stage.name}", "train a parameter of the method", prefixes, do="Correct Stage.train"))
    return {prefix: _build(stage.optimisers[prefix], found) for prefix, found in groups.items() if found}


def _build(how: Optimiser, parameters: list[torch.nn.Parameter]) -> torch.optim.Optimizer:
    spared = [p for p in parameters if p.ndim <= 1] if how.spare_vectors else []
    groups: list[dict[str, Any]] = [{"params": [p for p in parameters if p.ndim > 1] if how.spare_vectors else parameters}]
    groups += [{"params": spared, "weight_decay": 0.0}] if spared else []
    groups = [group for group in groups if group["params"]]
    if how.name == "sgd":
        nesterov = how.momentum > 0
        return torch.optim.SGD(groups, lr=how.rate, momentum=how.momentum, nesterov=nesterov, weight_decay=how.weight_decay)
    kind = torch.optim.AdamW if how.name == "adamw" else torch.optim.Adam
    return kind(groups, lr=how.rate, weight_decay=how.weight_decay)


def set_rates(optimisers: Mapping[str, torch.optim.Optimizer], stage: Stage, *, step: int, total: int) -> dict[str, float]:
    """Sets the learning rates of a step and returns them by prefix."""
    rates = {}
    for prefix, optimiser in optimisers.items():
        how = stage.optimisers[prefix]
        rates[prefix] = how.rate * rate_factor(how, step, total)
        for group in optimiser.param_groups:
            group["lr"] = rates[prefix]
    return rates
