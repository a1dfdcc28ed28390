"""A method whose complementary information and gradients are known by hand."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from comodal.batch import Batch
from comodal.data.cohort import Case
from comodal.data.grid import Grid
from comodal.data.preprocessing import PreparedCase
from comodal.method import Complements, Method, MethodConfig, Prediction, Problem, Requirements
from comodal.modality import Modality, Target

SEG = Target("seg", "regions", ("WT", "ET"), ((1, 4), (4,)), (1, 4))
NAMES = ("a", "b", "c")
CHANNELS = 2
ALPHA: dict[tuple[str, str], tuple[float, float]] = {  # {(region, auxiliary): weight of each channel in the logit}
    ("WT", "a"): (1.0, 0.5),
    ("WT", "b"): (2.0, -1.0),
    ("WT", "c"): (0.25, 0.75),
    ("ET", "a"): (0.0, 1.0),
    ("ET", "b"): (-1.0, 0.5),
    ("ET", "c"): (0.0, 0.0),
}


def problem(patch: tuple[int, ...], *, names: tuple[str, ...] = NAMES) -> Problem:
    return Problem(tuple(Modality(n, spatial_dims=len(patch)) for n in names), (SEG,), len(patch), patch)


class Linear(Method):
    """kappa of an auxiliary is its image pooled by 2, and its square; a logit is bias + primary + a linear function of kappa.

    So dy / dA_cn = weight_c times the number of chosen voxels in coarse voxel n. `a` owns WT and ET, every other image WT.
    """

    def __init__(self, problem: Problem, *, bias: float = 0.1, mute: tuple[str, ...] = ()) -> None:
        super().__init__(problem, MethodConfig())
        self.bias = nn.Parameter(torch.tensor(bias, dtype=torch.float64))
        self.mute = mute

    @property
    def requires(self) -> Requirements:
        return Requirements(tasks=("segmentation",))

    def pool(self, x: Tensor) -> Tensor:
        return (functional.avg_pool2d if x.ndim == 4 else functional.avg_pool3d)(x, 2)

    def complements(self, batch: Batch) -> Complements:
        self.require_support(batch.present)
        images = {name: batch.image(name).double() for name in batch.modalities}
        logits: dict[tuple[str, str], Tensor] = {}
        maps: dict[tuple[str, str], Tensor] = {}
        nats: dict[tuple[str, str], Tensor] = {}
        for primary in batch.modalities:
            for name in batch.modalities:
                if name != primary:
                    pooled = self.pool(images[name]) * (0.0 if name in self.mute else 1.0)
                    kappa = torch.cat([pooled, pooled**2], dim=1) + 0 * self.bias
                    there = (batch.is_present(primary) & batch.is_present(name)).reshape(-1, *[1] * (kappa.ndim - 1))
                    maps[primary, name] = torch.where(there, kappa, 0.0)
                    nats[primary, name] = (maps[primary, name] ** 2).sum(dim=1) / 2
            for region in SEG.classes if primary == "a" else ("WT",):
                total = images[primary][:, 0] + self.bias
                for name in batch.modalities:
                    if name != primary:
                        weight = torch.tensor(ALPHA[region, name], dtype=torch.float64)
                        told = torch.einsum("c,bc...->b...", weight, maps[primary, name])
                        for axis in range(1, told.ndim):
                            told = told.repeat_interleave(2, dim=axis)
                        total = total + told
                logits[primary, region] = total
        return Complements(logits, maps, nats)

    def predict(self, batch: Batch) -> Prediction:
        found = self.complements(batch)
        regions = []
        for region in SEG.classes:
            owners = [p for p, r in found.logits if r == region]
            seen = torch.stack([batch.is_present(p) for p in owners]).double()
            chances = torch.stack([torch.sigmoid(found.logits[p, region]) for p in owners])
            seen = seen.reshape(*seen.shape, *[1] * (chances.ndim - 2))
            regions.append((seen * chances).sum(0) / seen.sum(0).clamp(min=1))
        return Prediction({"seg": torch.stack(regions, dim=1).float()}, batch.present)


def case(images: Mapping[str, np.ndarray], truth: np.ndarray | None = None, *, identifier: str = "p1") -> PreparedCase:
    """A prepared case from {modality: (X, Y, Z)} and the truth (2, X, Y, Z)."""
    arrays = {name: np.asarray(image, dtype=np.float32)[None] for name, image in images.items()}
    grid = Grid(next(iter(arrays.values())).shape[1:], np.diag([1.0, 1.0, 2.0, 1.0]))
    row = Case(identifier, identifier, group=identifier, cells=dict.fromkeys(images, "file"))
    targets = {} if truth is None else {"seg": truth.astype(np.uint8)}
    return PreparedCase(row, grid, grids={"grid": grid}, images=arrays, targets=targets)


def noise(shape: tuple[int, int, int], *, seed: int = 0, names: tuple[str, ...] = NAMES) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    return {name: rng.normal(size=shape).astype(np.float32) for name in names}
