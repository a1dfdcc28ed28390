"""Small methods and cases whose predictions are known by hand."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor, nn

from comodal.batch import Batch, Features
from comodal.data.cohort import Case
from comodal.data.grid import Grid
from comodal.data.preprocessing import PreparedCase
from comodal.method import Method, MethodConfig, Prediction, Problem, Requirements
from comodal.modality import Modality, Target

WT = Target("seg", "regions", ("WT",), ((1,),), (1,))


def problem(patch: tuple[int, ...], *, names: str = "a b c", target: Target = WT, kind: int = 3) -> Problem:
    return Problem(tuple(Modality(n, spatial_dims=kind) for n in names.split()), (target,), len(patch), patch)


class Mean(Method):
    """Probability = mean of the present images, voxel by voxel. Keeps what it was shown."""

    def __init__(self, problem: Problem, config: MethodConfig | None = None) -> None:
        super().__init__(problem, config or MethodConfig())
        self.seen: list[Batch] = []
        self.weight = nn.Parameter(torch.ones(()))
        self.part = nn.Dropout(0.5)

    @property
    def requires(self) -> Requirements:
        return Requirements(tasks=("segmentation", "classification"))

    def predict(self, batch: Batch) -> Prediction:
        assert not torch.is_grad_enabled()
        self.require_support(batch.present)
        self.seen.append(batch)
        images = torch.stack([self.part(batch.image(name)) for name in batch.modalities])
        count = batch.present.sum(dim=1).reshape(-1, *[1] * (images.ndim - 2))
        mean = images.sum(dim=0) * self.weight / count
        if self.problem.task == "classification":
            positive = mean.flatten(1).mean(dim=1)
            return Prediction({self.problem.targets[0].name: torch.stack([1 - positive, positive], dim=1)}, batch.present)
        return Prediction({self.problem.targets[0].name: mean}, batch.present)


class Convolving(Mean):
    """Encodes each modality by a convolution of its own, so that windows matter to the last bit."""

    def __init__(self, problem: Problem, config: MethodConfig | None = None) -> None:
        super().__init__(problem, config)
        torch.manual_seed(0)
        self.convolutions = nn.ModuleDict({n: nn.Conv3d(1, 4, 3, padding=1) for n in problem.names})
        self.encoded: list[tuple[str, ...]] = []

    def encode(self, batch: Batch) -> dict[str, Features]:
        names = [n for n in batch.modalities if batch.is_present(n).any()]
        self.encoded.append(tuple(names))
        return {n: torch.tanh(self.convolutions[n](batch.image(n))) for n in names}

    def decode(self, features: Mapping[str, Features], present: Tensor) -> Prediction:
        self.require_support(present)
        total = torch.stack([f for f in features.values() if isinstance(f, Tensor)]).sum(dim=0)
        return Prediction({self.problem.targets[0].name: torch.sigmoid(total.sum(dim=1, keepdim=True))}, present)

    def predict(self, batch: Batch) -> Prediction:
        return self.decode(self.encode(batch), batch.present)


def case(images: Mapping[str, np.ndarray], *, grid: Grid | None = None, identifier: str = "p1") -> PreparedCase:
    """A prepared case from {modality: (X, Y, Z)}."""
    arrays = {name: np.asarray(image, dtype=np.float32)[None] for name, image in images.items()}
    grid = grid or Grid(next(iter(arrays.values())).shape[1:], np.diag([1.0, 1.0, 2.0, 1.0]))
    row = Case(identifier, identifier, group=identifier, cells=dict.fromkeys(images, "file"))
    return PreparedCase(row, grid, grids={"grid": grid}, images=arrays)


def noise(shape: tuple[int, int, int], names: str = "a b c", seed: int = 0) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    return {name: rng.normal(size=shape).astype(np.float32) for name in names.split()}
