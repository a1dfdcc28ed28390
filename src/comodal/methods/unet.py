"""`unet`: one U-Net on all modalities, the baseline that knows nothing of missing ones.

Early fusion: the images are concatenated along the channels. An absent modality is replaced by its mean, which is zero after
z-scoring: the "Mean" baseline of Havaei et al. (2016), HeMIS, with which CMIM compares too. The network and the loss
(soft Dice plus cross-entropy) are those of nnU-Net (Isensee et al. 2021) without deep supervision.
"""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field
from torch import Tensor

from comodal.batch import Batch
from comodal.method import Citation, Method, MethodConfig, Monitor, OneStageConfig, Prediction, Problem, Requirements, Stage
from comodal.networks.segmentation import segmentation_losses, segmentation_probabilities
from comodal.networks.unet import EarlyFusionUNet


class UNetConfig(OneStageConfig):
    """Configuration of `unet`. nnU-Net itself takes SGD at 1e-2 for 250 000 steps."""

    network: Literal["residual", "nnunet"] = Field(
        "residual", description="MONAI UNet with residual units, or nnU-Net's plain net"
    )
    width: int = Field(16, ge=1, description="filters of the first level")
    levels: int = Field(5, ge=2, description="resolutions")


class UNet(Method):
    """One U-Net on all modalities; see the module."""

    Config: ClassVar[type[MethodConfig]] = UNetConfig
    config: UNetConfig
    paper: ClassVar[Citation] = Citation(
        "Havaei, Guizard, Chapados, Bengio", "HeMIS: Hetero-Modal Image Segmentation", 2016, "MICCAI", "arXiv:1607.05194"
    )

    def __init__(self, problem: Problem, config: UNetConfig) -> None:
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
        """Soft Dice plus cross-entropy of each target."""
        return segmentation_losses(self.unet(batch), batch, self.problem.targets)

    def predict(self, batch: Batch) -> Prediction:
        """Probabilities from whatever each row has."""
        self.require_support(batch.present)
        return Prediction(segmentation_probabilities(self.unet(batch), self.problem.targets), used=batch.present)
