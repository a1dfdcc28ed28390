"""`u-hemis`: HeMIS in the form of a U-Net, an encoder per modality and moments over the available ones at every scale.

Dorent et al. (2019), U-HVED, built it to compare with, and most later tables call this network HeMIS. Each image has its own
encoder; at every scale the abstraction layer of Havaei et al. (2016) takes mean and variance over the modalities that are
there; one decoder segments from these. One class serves 2-D and 3-D.

Deviations from the published code: optimiser, rate and length as in every method here (theirs: Adam at 1e-3, divided by 4 every
10 000 of 60 000 steps, batch 1); the last convolution has a bias, as the classes are seldom equally likely; the instance
normalisation has a scale and a shift. See docs/methods/u-hemis.md.

Axis letters: see `comodal.batch`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn.functional import interpolate, max_pool2d, max_pool3d

from comodal.batch import Batch, Features
from comodal.method import Citation, Method, MethodConfig, Monitor, OneStageConfig, Prediction, Problem, Requirements, Stage
from comodal.networks.abstraction import encode_present, moments
from comodal.networks.segmentation import segmentation_losses, segmentation_probabilities
from comodal.networks.subsets import Draw, draw_subsets
from comodal.networks.unet import check_sides, fusable_images, segmentation_classes

SLOPE = 0.02  # of NiftyNet's leaky_relu, in which the network was written: 0.51 x + 0.49 |x|


class UHeMISConfig(OneStageConfig):
    """Configuration of `u-hemis`."""

    width: int = Field(8, ge=2, multiple_of=2, description="filters of the first level; each level doubles them")
    levels: int = Field(4, ge=2, description="resolutions")
    draw: Draw = Field("size", description="training subsets: each number of modalities equally likely, or each subset")


def _conv(dims: int, channels: int, filters: int, *, kernel: int, bias: bool = False) -> nn.Module:
    return (nn.Conv2d if dims == 2 else nn.Conv3d)(channels, filters, kernel, padding=kernel // 2, bias=bias)


class Block(nn.Sequential):
    """Twice instance normalisation, LeakyReLU and a convolution of 3, to `filters` and then to half of them.

    Group normalisation with one channel a group is instance normalisation, and in torch the faster of the two on a CPU.
    """

    def __init__(self, dims: int, channels: int, filters: int) -> None:
        parts: list[nn.Module] = []
        for before, after in ((channels, filters), (filters, filters // 2)):
            activation = nn.LeakyReLU(SLOPE, inplace=True)  # the backward of the normalisation reads its input alone
            parts += [nn.GroupNorm(before, before), activation, _conv(dims, before, after, kernel=3)]
        super().__init__(*parts)


class Encoder(nn.Module):
    """One modality to its feature maps at every scale.

    Args:
        dims: 2 or 3.
        channels: Of the image.
        filters: f of each level, the finest first; a level puts out f / 2.
    """

    def __init__(self, dims: int, channels: int, filters: Sequence[int]) -> None:
        super().__init__()
        self.pool = max_pool2d if dims == 2 else max_pool3d
        self.layout = torch.channels_last if dims == 2 else torch.channels_last_3d
        self.first = nn.Sequential(_conv(dims, channels, filters[0], kernel=1), nn.LeakyReLU(SLOPE, inplace=True))
        inputs = [filters[0], *[f // 2 for f in filters[:-1]]]
        self.blocks = nn.ModuleList(Block(dims, c, f) for c, f in zip(inputs, filters, strict=True))

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        """(b, channels, *spatial) to a tensor (b, f / 2, *spatial / 2^level) of each level."""
        scales: list[Tensor] = []
        maps = self.first(image)
        if maps.device.type == "cpu":  # a quarter off the time of a decoding; all that follows keeps the layout
            maps = maps.contiguous(memory_format=self.layout)
        for level, block in enumerate(self.blocks):
            maps = block(self.pool(maps, 2) if level else maps)
            scales.append(maps)
        return tuple(scales)


class Decoder(nn.Module):
    """Moments at every scale to logits, from the coarsest up.

    Args:
        dims: 2 or 3.
        filters: As of the encoder; the moments of a level have f channels.
        classes: Channels of the logits.
    """

    def __init__(self, dims: int, filters: Sequence[int], classes: int) -> None:
        super().__init__()
        self.mode = "bilinear" if dims == 2 else "trilinear"
        below = [*[f // 2 for f in filters[1:-1]], filters[-1]]  # channels that come up from the next coarser level
        self.blocks = nn.ModuleList(Block(dims, b + f, f) for b, f in zip(below, filters, strict=False))
        self.last = _conv(dims, filters[0] // 2, classes, kernel=1, bias=True)

    def forward(self, scales: Sequence[Tensor]) -> Tensor:
        """A tensor (B, f, *spatial / 2^level) of each level, the finest first, to (B, classes, *spatial)."""
        maps = scales[-1]
        for level in reversed(range(len(self.blocks))):
            skip = scales[level]
            maps = interpolate(maps, size=skip.shape[2:], mode=self.mode, align_corners=False)
            maps = self.blocks[level](torch.cat([maps, skip], dim=1))
        logits: Tensor = self.last(maps)
        return logits


class UHeMIS(Method):
    """Hetero-modal segmentation by a U-Net in 2-D and 3-D; see the module."""

    Config: ClassVar[type[MethodConfig]] = UHeMISConfig
    config: UHeMISConfig
    paper: ClassVar[Citation] = Citation(
        "Dorent, Joutard, Modat, Ourselin, Vercauteren",
        "Hetero-Modal Variational Encoder-Decoder for Joint Modality Completion and Segmentation",
        2019,
        "MICCAI",
        "arXiv:1907.11150",
    )

    def __init__(self, problem: Problem, config: UHeMISConfig) -> None:
        super().__init__(problem, config)
        check_sides(problem, config.levels)
        filters = [config.width * 2**level for level in range(config.levels)]
        dims, images = problem.spatial_dims, fusable_images(problem)
        self.encoders = nn.ModuleDict({n: Encoder(dims, problem.modality(n).channels, filters) for n in images})
        self.decoder = Decoder(dims, filters, segmentation_classes(problem))

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
        seen = batch.restrict(draw_subsets(batch.present, self.config.draw))
        return segmentation_losses(self._logits(self.encode(seen), seen.present), batch, self.problem.targets)

    def encode(self, batch: Batch) -> dict[str, Features]:
        """{modality: (B, f / 2, *spatial / 2^level) of each level} by the encoders."""
        return encode_present(batch, self.encoders)

    def decode(self, features: Mapping[str, Features], present: Tensor) -> Prediction:
        """Probabilities from the moments of the available features."""
        self.require_support(present)
        logits = self._logits(features, present)
        return Prediction(segmentation_probabilities(logits, self.problem.targets), used=present)

    def predict(self, batch: Batch) -> Prediction:
        """Probabilities from whatever each row has."""
        self.require_support(batch.present)
        return self.decode(self.encode(batch), batch.present)

    def _logits(self, features: Mapping[str, Features], present: Tensor) -> Tensor:
        names = self.problem.names
        scales = [
            moments({name: maps[level] for name, maps in features.items()}, present, names)
            for level in range(self.config.levels)
        ]
        logits: Tensor = self.decoder(scales)
        return logits
