"""`moddrop`: the U-Net of `unet`, trained on a random subset of each case's modalities.

Modality dropout (Neverova et al. 2016, ModDrop): each modality of each sample is dropped with probability p, and at least one
stays. With p = 1/2 every non-empty subset of what the case has is equally likely, the training mask of RFNet and mmFormer. It
is the cheapest method for missing modalities and a strong one; no page of comodal compares anything without it.

Deviation: ModDrop also pretrains one network per modality; here the early-fusion network is trained at once, as its users do.
"""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from comodal.batch import Batch
from comodal.method import Citation, Method, MethodConfig, Monitor, OneStageConfig, Prediction, Problem, Requirements, Stage
from comodal.networks.segmentation import segmentation_losses, segmentation_probabilities
from comodal.networks.unet import EarlyFusionUNet


def random_subsets(present: Tensor, drop: float) -> Tensor:
    """Draws for each row a non-empty subset of what it has: Bernoulli(1 - drop) per modality, conditioned on at least one.

    The draw is made on the CPU whatever the device, from torch's global generator, so that it is the same everywhere.

    Args:
        present: (B, M) bool with a True in every row.
        drop: Probability in [0, 1) that a modality is dropped; 1/2 makes all non-empty subsets equally likely.

    Returns:
        (B, M) bool, True only where `present` is.
    """
    have = present.cpu()
    keep = torch.zeros_like(have)
    while True:  # rejection: a row without any is drawn again, which is what conditioning means
        empty = ~keep.any(dim=1)
        if not empty.any():
            return keep.to(present.device)
        drawn = (torch.rand(have.shape) >= drop) & have
        keep = torch.where(empty[:, None], drawn, keep)


class ModDropConfig(OneStageConfig):
    """Configuration of `moddrop`: that of `unet` and the probability of dropping a modality."""

    drop: float = Field(0.5, ge=0, lt=1, description="probability that a modality of a sample is dropped in training")
    network: Literal["residual", "nnunet"] = Field(
        "residual", description="MONAI UNet with residual units, or nnU-Net's plain net"
    )
    width: int = Field(16, ge=1, description="filters of the first level")
    levels: int = Field(5, ge=2, description="resolutions")


class ModDrop(Method):
    """The U-Net trained with modality dropout; see the module."""

    Config: ClassVar[type[MethodConfig]] = ModDropConfig
    config: ModDropConfig
    paper: ClassVar[Citation] = Citation(
        "Neverova, Wolf, Taylor, Nebout",
        "ModDrop: Adaptive Multi-Modal Gesture Recognition",
        2016,
        "IEEE TPAMI",
        "arXiv:1501.00102",
    )

    def __init__(self, problem: Problem, config: ModDropConfig) -> None:
        super().__init__(problem, config)
        self.unet = EarlyFusionUNet(problem, kind=config.network, width=config.width, levels=config.levels)

    @property
    def requires(self) -> Requirements:
        """Segmentation from images, whichever there are."""
        return Requirements(tasks=("segmentation",))

    def stages(self) -> tuple[Stage, ...]:
        """One stage; the best weights on validation subjects are kept."""
        monitor = Monitor("DSC", "max", self.config.patience)
        how = {"": self.config.optimisation()}
        return (Stage("train", optimisers=how, sampler="foreground", steps=self.config.steps, monitor=monitor),)

    def losses(self, batch: Batch, stage: Stage) -> dict[str, Tensor]:
        """Soft Dice plus cross-entropy of each target, seen through a random subset of each row's modalities."""
        seen = batch.restrict(random_subsets(batch.present, self.config.drop))
        return segmentation_losses(self.unet(seen), batch, self.problem.targets)

    def predict(self, batch: Batch) -> Prediction:
        """Probabilities from whatever each row has."""
        self.require_support(batch.present)
        return Prediction(segmentation_probabilities(self.unet(batch), self.problem.targets), used=batch.present)
