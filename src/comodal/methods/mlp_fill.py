"""`mlp-fill`: a perceptron fills in the missing images voxel by voxel, then a U-Net for all modalities segments.

The "MLP" baseline of Havaei et al. (2016), HeMIS, with which CMIM compares too: the intensities that are missing at a voxel are
predicted from those that are there, by least squares, and the completed case goes through the network of `unet`.

Deviations: the paper has a perceptron for each available subset (14 of them for four modalities); here one *masked* perceptron
gets [x m, m], the intensities with zeros where they are not available and which ones are, and learns on random subsets. The
paper's segmentation network is convolutional, but no U-Net. Background, where everything available is exactly zero, stays zero.

Axis letters: see `comodal.batch`; V voxels of all rows together, N of them chosen.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from itertools import pairwise, product
from typing import Annotated, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn.functional import pad

from comodal.batch import Batch
from comodal.errors import ConfigError, message
from comodal.method import (
    Citation,
    Method,
    MethodConfig,
    Monitor,
    OneStageConfig,
    Optimiser,
    Prediction,
    Problem,
    Requirements,
    Stage,
)
from comodal.networks.segmentation import segmentation_losses, segmentation_probabilities
from comodal.networks.unet import EarlyFusionUNet, fusable_images
from comodal.processes import sum_over_processes, world_size

CHUNK = 2**14  # voxels completed at once: 6 MiB for each layer of 100 units, which a cache holds


class MLPFillConfig(OneStageConfig):
    """Configuration of `mlp-fill`: the perceptron's own settings first; the other ones are the U-Net's."""

    hidden: tuple[Annotated[int, Field(ge=1)], ...] = Field((100, 100), description="units of the perceptron's hidden layers")
    neighbourhood: Literal[1, 3] = Field(1, description="1: from the voxel alone; 3: from the 3 x 3 (x 3) around it")
    voxels: int = Field(2**14, ge=1, description="voxels at which a step of the perceptron learns, in each process")
    fill_steps: int | None = Field(
        None, ge=1, description="optimiser steps of the perceptron; null: as many as `steps`, which are the U-Net's"
    )
    fill_rate: float = Field(1e-3, gt=0, description="highest learning rate of the perceptron, by Adam")
    network: Literal["residual", "nnunet"] = Field(
        "residual", description="MONAI UNet with residual units, or nnU-Net's plain net"
    )
    width: int = Field(16, ge=1, description="filters of the first level")
    levels: int = Field(5, ge=2, description="resolutions")


def random_parts(present: Tensor) -> Tensor:
    """Draws for each row what the perceptron may see: uniform over the non-empty subsets that leave something to predict.

    A row with a single modality keeps it. The draw is made on the CPU whatever the device, from torch's global generator.

    Args:
        present: (B, M) bool with a True in every row.

    Returns:
        (B, M) bool, True only where `present` is.
    """
    have = present.cpu()
    shown = have.clone()
    while True:  # rejection: a row that shows all or nothing is drawn again
        again = (have.sum(1) > 1) & ((shown == have).all(1) | ~shown.any(1))
        if not again.any():
            return shown.to(present.device)
        shown = torch.where(again[:, None], (torch.rand(have.shape) < 0.5) & have, shown)


class VoxelMLP(nn.Module):
    """Predicts the intensities of all images at a voxel from those of the available ones.

    Its inputs at a voxel are the images' values there, zero where an image is not available (and, with a neighbourhood of 3,
    those of the voxels around it, zero beyond the border), and one number for each image: whether it is available.

    Args:
        problem: Its images are read and predicted.
        hidden: Units of the hidden layers.
        neighbourhood: 1 or 3 voxels along each axis.

    Raises:
        ConfigError: There are not two images, or they are not registered to each other.
    """

    def __init__(self, problem: Problem, *, hidden: Iterable[int], neighbourhood: int) -> None:
        super().__init__()
        self.images = fusable_images(problem)
        if len(self.images) < 2:
            do = "Add another to data.modalities, or choose another method"
            raise ConfigError(message("data.modalities", "have two images, one to predict from another", self.images, do=do))
        self.channels = tuple(problem.modality(name).channels for name in self.images)
        self.reach = neighbourhood // 2
        values = sum(self.channels)
        sizes = [values * neighbourhood**problem.spatial_dims + len(self.images), *hidden, values]
        layers = [layer for sizes_of in pairwise(sizes) for layer in (nn.Linear(*sizes_of), nn.ReLU())]
        self.layers = nn.Sequential(*layers[:-1])

    def stack(self, batch: Batch) -> Tensor:
        """(B, C of all, *spatial): the images side by side, zero where absent."""
        return torch.cat([batch.image(name) for name in self.images], dim=1)

    def available(self, batch: Batch) -> Tensor:
        """(B, images) bool: which of the images each row has."""
        return torch.stack([batch.is_present(name) for name in self.images], dim=1)

    def wide(self, bits: Tensor) -> Tensor:
        """From (..., images) to (..., C of all): one bit for each channel."""
        return bits.repeat_interleave(torch.tensor(self.channels, device=bits.device), dim=-1)

    def forward(self, images: Tensor, available: Tensor, at: Tensor) -> Tensor:
        """Predicts at some voxels.

        Args:
            images: (B, C of all, *spatial), zero where not available.
            available: (B, images) bool.
            at: (N,) int64 places in (B, *spatial), counted through.

        Returns:
            (N, C of all).
        """
        size = 2 * self.reach + 1
        padded = pad(images, [self.reach] * 2 * (images.ndim - 2)).movedim(1, -1)  # (B, *padded, C)
        found = []
        for some in at.split(CHUNK):
            row, *place = torch.unravel_index(some, (len(images), *images.shape[2:]))
            steps = product(range(size), repeat=len(place))
            values = [padded[(row, *(p + s for p, s in zip(place, step, strict=True)))] for step in steps]  # each (N, C)
            found.append(self.layers(torch.cat([*values, available[row].to(images.dtype)], dim=1)))
        return torch.cat(found)


def voxels_with_content(images: Tensor, rows: Tensor) -> Tensor:
    """The voxels at which some available image is not exactly zero, as the background is after z-scoring.

    Args:
        images: (B, C, *spatial), zero where not available.
        rows: (B,) bool: only of these.

    Returns:
        (N,) int64 places in (B, *spatial), counted through.
    """
    content = (images != 0).any(dim=1)
    return (content & rows.reshape(-1, *[1] * (content.ndim - 1))).flatten().nonzero().flatten()


class MLPFill(Method):
    """Completion by a perceptron, then a U-Net; see the module."""

    Config: ClassVar[type[MethodConfig]] = MLPFillConfig
    config: MLPFillConfig
    paper: ClassVar[Citation] = Citation(
        "Havaei, Guizard, Chapados, Bengio", "HeMIS: Hetero-Modal Image Segmentation", 2016, "MICCAI", "arXiv:1607.05194"
    )

    def __init__(self, problem: Problem, config: MLPFillConfig) -> None:
        super().__init__(problem, config)
        self.fill = VoxelMLP(problem, hidden=config.hidden, neighbourhood=config.neighbourhood)
        self.unet = EarlyFusionUNet(problem, kind=config.network, width=config.width, levels=config.levels)

    @property
    def requires(self) -> Requirements:
        """Segmentation from images, whichever there are; to learn from, some cases need two."""
        return Requirements(tasks=("segmentation",))

    def stages(self) -> tuple[Stage, ...]:
        """The perceptron, from any cases, labelled or not; then the U-Net on cases that the frozen perceptron completes.

        The perceptron learns without augmentation, which changes the intensities of each image on its own and so the very
        relation between them that it is to learn; moving voxels about teaches it nothing. Its last weights are kept: it is too
        small to learn its voxels by heart, and where no validation case has two images its loss would be 0 from the start.
        """
        config = self.config
        return (
            Stage(
                "fill",
                train=("fill",),
                optimisers={"": Optimiser("adam", config.fill_rate, schedule=config.schedule)},
                targets=(),
                augment=False,
                steps=config.fill_steps or config.steps,
            ),
            Stage(
                "segment",
                train=("unet",),
                optimisers={"": config.optimisation()},
                sampler="foreground",
                steps=config.steps,
                monitor=Monitor("DSC", "max", config.patience),
            ),
        )

    def complete(self, batch: Batch) -> Batch:
        """A new batch in which no image is absent: what a row lacks is predicted, what it has is as it was.

        Gradients flow through, to what is there and to the perceptron where it is not frozen.

        Args:
            batch: Any non-empty subset present in each row.

        Returns:
            The same with every image present. Predicted ones are zero where everything that the row has is zero.
        """
        have, images = self.fill.available(batch), self.fill.stack(batch)
        at = voxels_with_content(images, ~have.all(dim=1))
        made = self.fill(images, have, at).to(images.dtype)
        wide = (len(images), *images.shape[2:], images.shape[1])
        filled = images.new_zeros((wide[0] * images[0, 0].numel(), wide[-1])).index_copy(0, at, made)  # (V, C)
        parts = filled.reshape(wide).movedim(-1, 1).split(self.fill.channels, dim=1)
        inputs = dict(batch.inputs)
        for name, part in zip(self.fill.images, parts, strict=True):
            present = batch.is_present(name).reshape(-1, *[1] * (part.ndim - 1))
            inputs[name] = torch.where(present, batch.image(name), part)
        every = torch.tensor([name in self.fill.images for name in batch.modalities], device=batch.device)
        return replace(batch, inputs=inputs, present=batch.present | every)

    def losses(self, batch: Batch, stage: Stage) -> dict[str, Tensor]:
        """Stage "fill": the mean squared error of what was hidden; "segment": Dice plus cross-entropy on completed cases."""
        if stage.name == "fill":
            return {"mse": self._hidden_error(batch)}
        return segmentation_losses(self.unet(self.complete(batch)), batch, self.problem.targets)

    def _hidden_error(self, batch: Batch) -> Tensor:
        """Mean squared error of images that are there and were hidden, at voxels drawn where something is to be seen.

        These are the voxels that `complete` fills. The mean is over the voxels and channels of all processes; it is zero where
        no row has two images.
        """
        have, truth = self.fill.available(batch), self.fill.stack(batch)
        shown = random_parts(have)
        hidden = have & ~shown
        seen = torch.where(self.fill.wide(shown).reshape(*truth.shape[:2], *[1] * (truth.ndim - 2)), truth, 0.0)
        at = voxels_with_content(seen, hidden.any(dim=1))
        if len(at) > self.config.voxels:
            at = at[torch.randint(len(at), (self.config.voxels,)).to(at.device)]
        made = self.fill(seen, shown, at).float()
        asked = self.fill.wide(hidden)[at // truth[0, 0].numel()]  # (N, C)
        known = truth.movedim(1, -1).flatten(0, -2)[at].float()
        squares = torch.where(asked, made - known, 0.0).square()
        count = sum_over_processes(asked.sum().float())  # every process enters this sum, also one with nothing hidden
        return squares.sum() * world_size() / count.clamp(min=1.0)

    def predict(self, batch: Batch) -> Prediction:
        """Probabilities from whatever each row has; what it lacks is filled in."""
        self.require_support(batch.present)
        logits = self.unet(self.complete(batch))
        return Prediction(segmentation_probabilities(logits, self.problem.targets), used=batch.present)
