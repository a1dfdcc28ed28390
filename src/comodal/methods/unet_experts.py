"""`unet-experts`: one U-Net for each subset of the modalities, the strong baseline to which every compromise must be compared.

Each expert is a U-Net (Ronneberger et al. 2015) that sees exactly its subset, learns from the cases that have all of it, and
keeps the weights that were best on validation cases seen through it. It never has to do without anything: the "dedicated"
networks of the literature, what a hospital could train if it knew which modalities will come. Its price is 2^M - 1 trainings,
and that an expert of many modalities learns from the few cases that have them all. Network and loss are those of `unet`.

A row is predicted by the expert of exactly what it has; where `subsets` leaves that one out, by the largest that fits inside.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from comodal.batch import Batch
from comodal.errors import ConfigError, message
from comodal.method import Citation, Method, MethodConfig, Monitor, OneStageConfig, Prediction, Problem, Requirements, Stage
from comodal.modality import subset_name, subsets
from comodal.networks.segmentation import segmentation_losses, segmentation_probabilities
from comodal.networks.unet import EarlyFusionUNet

Subset = tuple[str, ...]


class UNetExpertsConfig(OneStageConfig):
    """Configuration of `unet-experts`: that of `unet`, for each expert, and which experts there are."""

    steps: int = Field(2000, ge=1, description="optimiser steps of each expert; the training makes as many for every subset")
    subsets: tuple[Subset, ...] | None = Field(
        None, description="the subsets that get an expert, as lists of modalities; null is one for each non-empty subset"
    )
    network: Literal["residual", "nnunet"] = Field(
        "residual", description="MONAI UNet with residual units, or nnU-Net's plain net"
    )
    width: int = Field(16, ge=1, description="filters of the first level")
    levels: int = Field(5, ge=2, description="resolutions")


def chosen_subsets(problem: Problem, wanted: Iterable[Subset] | None) -> tuple[Subset, ...]:
    """The subsets that get an expert, in canonical order: small first, each in the order of the modalities.

    Args:
        problem: Has the modalities.
        wanted: As configured, in any order; None takes every non-empty subset.

    Raises:
        ConfigError: One is empty or names an unknown modality, or there is none.
    """
    every = tuple(subsets([m.name for m in problem.modalities if m.kind == "image"]))
    if wanted is None:
        return every
    asked = {frozenset(problem.modality(name).name for name in subset) for subset in wanted}
    if not asked or frozenset() in asked:
        do = f"For instance [[{every[0][0]}], [{', '.join(problem.names)}]], or null for every subset"
        raise ConfigError(message("method.subsets", "list non-empty subsets", wanted, do=do))
    return tuple(subset for subset in every if frozenset(subset) in asked)


class UNetExperts(Method):
    """One U-Net for each subset of the modalities; see the module."""

    Config: ClassVar[type[MethodConfig]] = UNetExpertsConfig
    config: UNetExpertsConfig
    paper: ClassVar[Citation] = Citation(
        "Ronneberger, Fischer, Brox",
        "U-Net: Convolutional Networks for Biomedical Image Segmentation",
        2015,
        "MICCAI",
        "arXiv:1505.04597",
    )

    def __init__(self, problem: Problem, config: UNetExpertsConfig) -> None:
        super().__init__(problem, config)
        self.subsets = chosen_subsets(problem, config.subsets)
        self.experts = nn.ModuleDict({subset_name(subset): self._expert(subset) for subset in self.subsets})

    def _expert(self, subset: Subset) -> EarlyFusionUNet:
        config = self.config
        size = {"width": config.width, "levels": config.levels}
        return EarlyFusionUNet(self.problem, images=subset, kind=config.network, **size)

    @property
    def requires(self) -> Requirements:
        """Segmentation from images; for each expert some training case must have all of its subset."""
        return Requirements(tasks=("segmentation",))

    def expert_of(self, have: Iterable[str]) -> Subset:
        """The largest subset with an expert that fits inside these modalities, of equals the first; () where none does."""
        fit = [subset for subset in self.subsets if set(subset) <= set(have)]
        return max(fit, key=len, default=())

    def supports(self, subset: Iterable[str]) -> bool:
        """Where some expert fits inside."""
        have = set(subset)
        return have <= set(self.problem.names) and bool(self.expert_of(have))

    def stages(self) -> tuple[Stage, ...]:
        """One for each expert, which learns from the cases that have all of its subset.

        A case seen through exactly that subset is predicted by that expert alone, so `predict` is what judges each stage.
        """
        how, steps, patience = {"": self.config.optimisation()}, self.config.steps, self.config.patience
        return tuple(
            Stage(
                subset_name(subset),
                train=(f"experts.{subset_name(subset)}",),
                optimisers=how,
                modalities=subset,
                sampler="foreground",
                steps=steps,
                monitor=Monitor("DSC", "max", patience, subsets=(subset,)),
                remedy="List in method.subsets those that some cases have",
            )
            for subset in self.subsets
        )

    def losses(self, batch: Batch, stage: Stage) -> dict[str, Tensor]:
        """Soft Dice plus cross-entropy of each target, of the stage's expert; it reads nothing but its own subset."""
        return segmentation_losses(self.experts[stage.name](batch), batch, self.problem.targets)

    def predict(self, batch: Batch) -> Prediction:
        """Probabilities of each row by its expert; `used` is that expert's subset."""
        self.require_support(batch.present)
        rows: dict[Subset, list[int]] = {}
        for row, bits in enumerate(batch.present.tolist()):
            have = [name for name, bit in zip(self.problem.names, bits, strict=True) if bit]
            rows.setdefault(self.expert_of(have), []).append(row)
        logits = torch.cat([self.experts[subset_name(subset)](batch.rows(its)) for subset, its in rows.items()])
        back = torch.tensor([row for its in rows.values() for row in its], device=logits.device).argsort()
        used = torch.zeros_like(batch.present)
        for subset, its in rows.items():
            used[its] = torch.tensor([name in subset for name in self.problem.names], device=used.device)
        return Prediction(segmentation_probabilities(logits[back], self.problem.targets), used)
