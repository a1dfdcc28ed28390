"""A small world for CMIM: images of six noisy patches, reports of four words, and four factors of which both tell."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from comodal.batch import Batch, Text
from comodal.method import Problem, Stage
from comodal.methods.cmim_class import CMIMClass, CMIMClassConfig
from comodal.modality import Modality, Target
from comodal.networks.regions import RegionEncoder

FACTORS, PATCHES, CHANNELS, WIDE = 4, 6, 8, 128  # the last is what resnet10-quarter gives
PHOTO, LATERAL = (Modality(name, "image", 2, CHANNELS, grid=name) for name in ("photo", "lateral"))
REPORT = Modality("report", "text", 0, 1, grid="report")
FINDINGS = Target("findings", "multilabel", ("nodule", "effusion"))
SMALL: dict[str, Any] = {
    "encoder": "resnet10-quarter",
    "text_channels": 16,
    "words": 16,
    "text_blocks": 0,
    "text_dropout": 0.0,
    "critic": (32, 32),
    "joint": 16,
    "rank": 16,
    "positions": None,
    "read_words": 4,
}


class Patches(RegionEncoder):
    """Sees each patch by itself, and their mean; in the place of a ResNet."""

    def __init__(self) -> None:
        nn.Module.__init__(self)
        self.spatial_dims, self.modality = 2, None
        self.features = self.map_features = WIDE
        self.layers = nn.Sequential(nn.Conv2d(CHANNELS, 16, 1), nn.ReLU(), nn.Conv2d(16, WIDE, 1), nn.ReLU())

    def low(self, images: Tensor) -> Tensor:
        """As they are."""
        return images

    def last(self, low: Tensor) -> Tensor:
        """(B, C, 6, 1) to (B, F, 6, 1)."""
        found: Tensor = self.layers(low)
        return found

    def whole(self, last: Tensor) -> Tensor:
        """The mean over patches."""
        return last.mean(dim=(2, 3))


def problem(*modalities: Modality) -> Problem:
    sizes = {"photo": (33, 33), "lateral": (33, 33)}  # what a ResNet would take; the batches have patches
    return Problem(modalities or (PHOTO, REPORT), (FINDINGS,), 2, patches=sizes, vocabulary=3 + 2 * FACTORS)


def method(*modalities: Modality, seed: int = 0, **settings: Any) -> CMIMClass:
    """With encoders of patches, the same ones for the same seed."""
    torch.manual_seed(seed)
    built = CMIMClass(problem(*modalities), CMIMClassConfig.model_validate({**SMALL, **settings}))
    for name in {"photo", "lateral"} & set(built.problem.names):
        torch.manual_seed(seed)
        built.encoders[name] = Patches()
    return built


def world(size: int, *modalities: Modality, seed: int, noise: float = 2.0, shuffled: bool = False) -> Batch:
    """Cases; `shuffled` gives every report to another case, once and for all."""
    fixed, drawn = torch.Generator().manual_seed(99), torch.Generator().manual_seed(seed)
    shared = torch.randn(size, FACTORS, generator=drawn)
    inputs: dict[str, Any] = {}
    for name in ("photo", "lateral"):
        patterns = torch.randn(FACTORS, CHANNELS, PATCHES, generator=fixed) / 2
        clean = torch.einsum("bf,fcn->bcn", shared, patterns)
        inputs[name] = (clean + noise * torch.randn(clean.shape, generator=drawn))[..., None]
    ids = 3 + 2 * torch.arange(FACTORS) + (shared > 0).long()
    order = torch.randperm(size, generator=drawn) if shuffled else torch.arange(size)
    inputs["report"] = Text(ids[order][:, None], torch.ones(size, 1, FACTORS, dtype=torch.bool))
    truth = torch.stack([shared[:, 0] + shared[:, 1] > 0, shared[:, 2] - shared[:, 3] > 0], dim=1).float()
    names = problem(*modalities).names
    return Batch(
        modalities=names,
        inputs={name: inputs[name] for name in names},
        present=torch.ones(size, len(names), dtype=torch.bool),
        targets={"findings": truth},
        labelled={"findings": torch.ones(size, 2, dtype=torch.bool)},
        ids=tuple(f"{seed}-{i}" for i in range(size)),
        groups=tuple(f"{seed}-{i}" for i in range(size)),
    )


def learn(built: CMIMClass, cases: Batch, stage: Stage, *, steps: int, rate: float = 3e-3, size: int = 30) -> None:
    """Adam on random batches."""
    built.enter(stage)
    optimiser = torch.optim.Adam([p for p in built.parameters() if p.requires_grad], lr=rate)
    torch.manual_seed(1)
    for _ in range(steps):
        optimiser.zero_grad()
        terms = built.losses(cases.rows(torch.randperm(len(cases))[:size]), stage)
        torch.stack(list(terms.values())).sum().backward()
        optimiser.step()


@torch.no_grad()
def held_out(built: CMIMClass, cases: Batch, stage: Stage) -> dict[str, float]:
    """The estimates on cases that were not learned from."""
    built.eval()
    torch.manual_seed(0)
    found = built.losses(cases, stage)
    return {name: float(value) for name, value in getattr(found, "diagnostics", {}).items()}


@torch.no_grad()
def area(built: CMIMClass, cases: Batch, *names: str) -> float:
    """AUROC from these modalities alone, mean over findings."""
    built.eval()
    said = built.predict(cases.keep(names)).probabilities["findings"]
    found = []
    for at in range(2):
        yes, no = (said[cases.targets["findings"][:, at] == value, at] for value in (1, 0))
        found.append(float((yes[:, None] > no).float().mean()))
    return sum(found) / 2
