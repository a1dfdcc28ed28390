"""Two methods whose stages train different parts: experts, one for each subset, and a student of a richer modality."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits

from comodal.batch import Batch
from comodal.method import (
    Citation,
    Losses,
    Method,
    MethodConfig,
    Monitor,
    Optimiser,
    Prediction,
    Problem,
    Requirements,
    Stage,
)
from comodal.modality import subset_name, subsets

PAPER = Citation("Nobody", "Stages", 2000)
HOW = {"": Optimiser("adam", 0.05)}


def network(channels: int) -> nn.Conv2d:
    return nn.Conv2d(channels, 1, 3, padding=1)


def loss(logits: Tensor, batch: Batch) -> dict[str, Tensor]:
    return {"ce": binary_cross_entropy_with_logits(logits, batch.targets["seg"].float())}


class StagedConfig(MethodConfig):
    """How long each stage is."""

    steps: int = 4


class Experts(Method):
    """A network for each subset, each trained in a stage of its own; a row is predicted by the expert of exactly its subset."""

    Config: ClassVar[type[MethodConfig]] = StagedConfig
    config: StagedConfig
    paper: ClassVar[Citation] = PAPER

    def __init__(self, problem: Problem, config: StagedConfig) -> None:
        super().__init__(problem, config)
        self.experts = nn.ModuleDict({subset_name(s): network(len(s)) for s in subsets(problem.names)})

    @property
    def requires(self) -> Requirements:
        return Requirements(tasks=("segmentation",))

    def stages(self) -> tuple[Stage, ...]:
        steps = self.config.steps
        return tuple(
            Stage(name, (f"experts.{name}",), HOW, modalities=s, steps=steps, monitor=Monitor("DSC", "max", subsets=(s,)))
            for s in subsets(self.problem.names)
            for name in [subset_name(s)]
        )

    def logits(self, batch: Batch, subset: tuple[str, ...]) -> Tensor:
        out: Tensor = self.experts[subset_name(subset)](torch.cat([batch.image(n) for n in subset], dim=1))
        return out

    def losses(self, batch: Batch, stage: Stage) -> dict[str, Tensor]:
        logits = self.logits(batch, stage.modalities)
        return Losses(loss(logits, batch), {"mean": logits.mean(), "half": 0.5})

    def predict(self, batch: Batch) -> Prediction:
        self.require_support(batch.present)
        rows = [tuple(n for n, bit in zip(self.problem.names, row, strict=True) if bit) for row in batch.present.tolist()]
        found = [self.logits(batch.rows([k]), subset) for k, subset in enumerate(rows)]
        return Prediction({"seg": torch.cat(found).sigmoid()}, batch.present)


class Student(Method):
    """A teacher learns on b; then a student on a, from which alone this method predicts. Nothing of b is read at test."""

    Config: ClassVar[type[MethodConfig]] = StagedConfig
    config: StagedConfig
    paper: ClassVar[Citation] = PAPER

    def __init__(self, problem: Problem, config: StagedConfig) -> None:
        super().__init__(problem, config)
        self.parts = nn.ModuleDict({"a": network(1), "b": network(1)})

    @property
    def requires(self) -> Requirements:
        return Requirements(tasks=("segmentation",), at_training=("a", "b"), at_test=("a",))

    def stages(self) -> tuple[Stage, ...]:
        steps, by_b = self.config.steps, Monitor("DSC", "max", subsets=(("b",),))
        return (
            Stage("teacher", ("parts.b",), HOW, modalities=("b",), steps=steps, monitor=by_b),
            Stage("student", ("parts.a",), HOW, modalities=("a",), steps=steps),
        )

    def losses(self, batch: Batch, stage: Stage) -> dict[str, Tensor]:
        name = stage.modalities[0]
        return loss(self.parts[name](batch.image(name)), batch)

    def _from(self, name: str, batch: Batch) -> Prediction:
        used = torch.tensor([n == name for n in self.problem.names]) & batch.present
        return Prediction({"seg": self.parts[name](batch.image(name)).sigmoid()}, used)

    def predict(self, batch: Batch) -> Prediction:
        self.require_support(batch.present)
        return self._from("a", batch)

    def validate(self, batch: Batch, stage: Stage) -> Prediction:
        return self._from(stage.modalities[0], batch)
