"""`ciml-shapes`: the verification task of CIML (Shen et al. 2024, Section 4.3), where one can see what a message keeps.

Two registered images: from the *primary* one a network segments, and from the *auxiliary* one it gets a map kappa of the size
of the image, through a variational bottleneck. What kappa says of the primary image costs nats and gains nothing, so that it
should carry only what the auxiliary image adds:

    path 1: (stopped features of the primary, features of the auxiliary) -> mean mu, log variance; kappa = mu + sigma epsilon
    path 2: (kappa, features of the primary)                             -> segmentation
    L = Dice + cross-entropy + beta KL(N(mu, sigma^2) || N(0, 1)), Equation (8) with the task loss of Section 4.2.

The paper names two encoders, two decoding paths without CIG modules, and the stopped gradient ("without gradient
backpropagation"); everything else is ours. Filters, levels and norms are not stated (8 filters, three levels and instance
normalisation, as a scratch calculation of the project took). How the KL is reduced is not stated: the mean over pixels here,
since their sum at the paper's best beta of 0.5 collapses (docs/methods/ciml-shapes.md). At test kappa is its posterior mean, or
some draws are averaged. The paper trains with Adam at 1e-4 for 1000 epochs of 100 steps; the rate here suits minutes on a CPU.

Beyond the paper: an absent auxiliary image is kappa = 0, the mean of the prior, in training and at test.

Axis letters: see `comodal.batch`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn.functional import interpolate

from comodal.batch import Batch, Features, cleared
from comodal.errors import ConfigError, message, nearest
from comodal.information.variational import draw, kl_to_standard
from comodal.method import (
    Citation,
    Complements,
    Losses,
    Method,
    MethodConfig,
    Monitor,
    OneStageConfig,
    Prediction,
    Problem,
    Requirements,
    Stage,
)
from comodal.networks.abstraction import encode_present
from comodal.networks.segmentation import labelled_where, region_logits, segmentation_losses, segmentation_probabilities
from comodal.networks.unet import check_sides, fusable_images, segmentation_classes
from comodal.processes import mean_over_processes

LOG_VARIANCE = (-10.0, 10.0)  # of kappa, kept in here: exp must not overflow
NOISE = 20_240_105  # seed of the draws at test


class CIMLShapesConfig(OneStageConfig):
    """Configuration of `ciml-shapes`."""

    primary: str | None = Field(None, description="the image that is segmented from; null is the first")
    auxiliary: str | None = Field(None, description="the image that kappa comes from; null is the first other one")
    width: int = Field(8, ge=1, description="filters of the first level, and of the maps that an encoder puts out")
    levels: int = Field(3, ge=1, description="resolutions of each encoder")
    beta: float = Field(0.5, ge=0, description="weight of the KL divergence, 0.5 as in the paper; 0 filters nothing")
    kl: Literal["mean", "sum"] = Field("mean", description="over the pixels of a picture; a sum at the paper's beta collapses")
    detach: bool = Field(True, description="stop the gradient from kappa to the primary encoder, as in the paper")
    samples: int = Field(0, ge=0, description="draws of kappa averaged at test; 0 takes its posterior mean")
    optimiser: Literal["adam", "adamw", "sgd"] = Field("adam", description="Adam, as in the paper")
    rate: float = Field(2e-3, gt=0, description="highest learning rate, for minutes on a CPU; the paper's is 1e-4")
    steps: int = Field(400, ge=1, description="optimiser steps; the paper makes 1000 epochs of 100")

    at_test: ClassVar[frozenset[str]] = frozenset({"samples"})


def _conv(dims: int, channels: int, filters: int, *, kernel: int, stride: int = 1) -> nn.Module:
    return (nn.Conv2d if dims == 2 else nn.Conv3d)(channels, filters, kernel, stride=stride, padding=kernel // 2)


class Block(nn.Sequential):
    """Convolution of 3, instance normalisation, LeakyReLU. Group normalisation with one channel a group is the same, faster."""

    def __init__(self, dims: int, channels: int, filters: int, *, stride: int = 1) -> None:
        first = _conv(dims, channels, filters, kernel=3, stride=stride)
        super().__init__(first, nn.GroupNorm(filters, filters), nn.LeakyReLU(0.01))


class Encoder(nn.Module):
    """One image to `width` feature maps of its own size: a small U-Net.

    Args:
        dims: 2 or 3.
        channels: Of the image.
        width: Filters of the finest level; each level doubles them.
        levels: Resolutions.
    """

    def __init__(self, dims: int, channels: int, *, width: int, levels: int) -> None:
        super().__init__()
        filters = [width * 2**level for level in range(levels)]
        inputs = [channels, *filters[:-1]]
        self.down = nn.ModuleList(
            nn.Sequential(Block(dims, before, after, stride=2 if level else 1), Block(dims, after, after))
            for level, (before, after) in enumerate(zip(inputs, filters, strict=True))
        )
        self.up = nn.ModuleList(Block(dims, 3 * after, after) for after in filters[:-1])  # from below 2 after, across after

    def forward(self, image: Tensor) -> Tensor:
        """(b, channels, *spatial) to (b, width, *spatial)."""
        scales: list[Tensor] = []
        for block in self.down:
            scales.append(block(scales[-1] if scales else image))
        maps = scales.pop()
        for block, skip in zip(reversed(self.up), reversed(scales), strict=True):
            maps = block(torch.cat([interpolate(maps, size=skip.shape[2:], mode="nearest"), skip], dim=1))
        return maps


class CIMLShapes(Method):
    """Complementary information that can be looked at; see the module."""

    Config: ClassVar[type[MethodConfig]] = CIMLShapesConfig
    config: CIMLShapesConfig
    paper: ClassVar[Citation] = Citation(
        "Shen, Li, Chen, Wang, Zhu, Li, Wang, Jin",
        "Complementary Information Mutual Learning for Multimodality Medical Image Segmentation",
        2024,
        identifier="arXiv:2401.02717",
    )

    def __init__(self, problem: Problem, config: CIMLShapesConfig) -> None:
        super().__init__(problem, config)
        self.primary, self.auxiliary = chosen_pair(problem, config)
        check_sides(problem, config.levels)
        dims, width = problem.spatial_dims, config.width
        self.encoders = nn.ModuleDict(
            {
                name: Encoder(dims, problem.modality(name).channels, width=width, levels=config.levels)
                for name in (self.primary, self.auxiliary)
            }
        )
        self.complement = nn.Sequential(Block(dims, 2 * width, width), _conv(dims, width, 2, kernel=1))
        self.union = nn.Sequential(
            Block(dims, width + 1, width),
            Block(dims, width, width),
            _conv(dims, width, segmentation_classes(problem), kernel=1),
        )

    @property
    def requires(self) -> Requirements:
        """Segmentation from two images, of which the auxiliary may be absent at test."""
        return Requirements(("segmentation",), at_training=(self.primary, self.auxiliary), at_test=(self.primary,))

    def stages(self) -> tuple[Stage, ...]:
        """One stage on cases that have the primary image; the best weights on validation subjects are kept."""
        config = self.config
        monitor = Monitor("DSC", "max", config.patience)
        how = {"": config.optimisation()}
        chosen = (self.primary,)
        return (Stage("train", optimisers=how, modalities=chosen, sampler="foreground", steps=config.steps, monitor=monitor),)

    # ------------------------------------------------------------------------------------------------ training
    def losses(self, batch: Batch, stage: Stage) -> Losses:
        """Dice and cross-entropy of the rows that have the primary image, and beta KL of those that have both.

        `kl: mean` is the mean over pixels and rows, `sum` the sum over the pixels of a picture, averaged over rows; both over
        the rows of all processes.
        """
        features = self.encode(batch)
        if self.primary not in features:  # nothing to learn here, but every process enters the same sums
            features[self.primary] = self.encoders[self.primary](batch.image(self.primary))
        mean, log_variance, both = self._posterior(features, batch.present)
        drawn = draw(mean, log_variance)  # for every row, so that no row's noise depends on what the others have
        kappa = torch.where(_wide(both, drawn), drawn, mean)  # 0 in rows that lack an image
        logits = self._logits(features, batch.present, kappa)
        seen = labelled_where(batch, batch.is_present(self.primary))
        found = segmentation_losses(logits, seen, self.problem.targets)
        terms = {f"{term}/{self.primary}": value for term, value in found.items()}
        divergence = kl_to_standard(mean, log_variance).sum()  # 0 in rows without kappa, whose mean and log variance are 0
        count = int(both.sum())
        nats = mean_over_processes(divergence / max(count, 1), count)
        pixels = mean[0].numel()
        terms[f"kl/{self.primary}"] = self.config.beta * (nats / pixels if self.config.kl == "mean" else nats)
        return Losses(terms, {f"nats/{self.primary}/{self.auxiliary}/1": nats})

    # ------------------------------------------------------------------------------------------------ the two paths
    def _posterior(self, features: Mapping[str, Features], present: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Path 1: mean and log variance of kappa, (B, 1, *spatial) each, and (B,) which rows have both images.

        The other rows get the prior, N(0, 1).
        """
        own, other = (self._held(features, present, name) for name in (self.primary, self.auxiliary))
        assert own is not None
        both = self._column(present, self.primary) & self._column(present, self.auxiliary)
        nothing = own.new_zeros((len(own), 2, *own.shape[2:]), dtype=torch.float32)
        rows = both.nonzero().flatten()
        if other is None or not len(rows):
            mean, log_variance = nothing.chunk(2, dim=1)
            return mean, log_variance, both
        stopped = own.detach() if self.config.detach else own
        found = self.complement(torch.cat([stopped[rows], other[rows]], dim=1)).float()
        mean, log_variance = nothing.index_copy(0, rows, found).chunk(2, dim=1)
        return mean, log_variance.clamp(*LOG_VARIANCE), both

    def _logits(self, features: Mapping[str, Features], present: Tensor, kappa: Tensor) -> Tensor:
        """Path 2: kappa (B, 1, *spatial) and the features of the primary image to logits (B, K, *spatial)."""
        own = self._held(features, present, self.primary)
        assert own is not None
        logits: Tensor = self.union(torch.cat([kappa.to(own.dtype), own], dim=1))
        return logits

    def _column(self, present: Tensor, name: str) -> Tensor:
        return present[:, self.problem.names.index(name)]

    def _held(self, features: Mapping[str, Features], present: Tensor, name: str) -> Tensor | None:
        """Features of one image with zeros in the rows that lack it, whatever stood there; None where no row has it."""
        if name not in features:
            return None
        value = cleared(features[name], self._column(present, name))
        assert isinstance(value, Tensor)
        return value

    # ------------------------------------------------------------------------------------------------ prediction
    def encode(self, batch: Batch) -> dict[str, Features]:
        """{image: (B, width, *spatial)} of the primary and of the auxiliary image, each by its own encoder; others empty."""
        unread: dict[str, Features] = {
            name: torch.zeros((len(batch), 0), device=batch.device)
            for name in batch.modalities
            if name not in self.encoders and bool(batch.is_present(name).any())
        }
        return unread | encode_present(batch, self.encoders)

    def decode(self, features: Mapping[str, Features], present: Tensor) -> Prediction:
        """Probabilities; `extras` are "kappa", its posterior mean, and "nats", its KL at each pixel, (B, 1, *spatial) each."""
        self.require_support(present)
        mean, log_variance, both = self._posterior(features, present)
        drawn = self._draws(mean, log_variance, both)
        logits = [self._logits(features, present, kappa) for kappa in drawn]
        found = [segmentation_probabilities(one, self.problem.targets) for one in logits]
        probabilities = {name: torch.stack([one[name] for one in found]).mean(0) for name in found[0]}
        used = present & torch.tensor([name in self.encoders for name in self.problem.names], device=present.device)
        return Prediction(probabilities, used, {"kappa": mean, "nats": kl_to_standard(mean, log_variance)})

    def predict(self, batch: Batch) -> Prediction:
        """Probabilities from the primary image, and from the auxiliary one where there is one."""
        self.require_support(batch.present)
        return self.decode(self.encode(batch), batch.present)

    def _draws(self, mean: Tensor, log_variance: Tensor, both: Tensor) -> Sequence[Tensor]:
        """The kappas to predict from. All rows share the noise, which therefore depends neither on their order nor number."""
        generator = torch.Generator().manual_seed(NOISE)
        kappas = []
        for _ in range(self.config.samples):
            drawn = draw(mean, log_variance, noise=torch.randn((1, *mean.shape[1:]), generator=generator))
            kappas.append(torch.where(_wide(both, mean), drawn, mean))
        return kappas or [mean]

    def complements(self, batch: Batch) -> Complements:
        """Kappa and the logits that come of its posterior mean, of the one pair (primary, auxiliary)."""
        self.require_support(batch.present)
        features = self.encode(batch)
        mean, log_variance, both = self._posterior(features, batch.present)
        logits = self._by_region(self._logits(features, batch.present, mean))
        if not bool(both.any()):
            return Complements(logits, {}, {})
        pair, nats = (self.primary, self.auxiliary), kl_to_standard(mean, log_variance).squeeze(1)
        return Complements(logits, {pair: mean}, {pair: nats})

    def _by_region(self, logits: Tensor) -> dict[tuple[str, str], Tensor]:
        """{(primary, region): (B, *spatial)}; the target is named where there are several, and a background left out."""
        several = sum(target.is_segmentation for target in self.problem.targets) > 1
        found = region_logits(logits, self.problem.targets, named=several)
        return {(self.primary, region): odds for region, odds in found.items()}


def chosen_pair(problem: Problem, config: CIMLShapesConfig) -> tuple[str, str]:
    """Names of the primary and of the auxiliary image; further images are never read.

    Raises:
        ConfigError: There are fewer than two images, a name is none of them, both are one, or they are not registered.
    """
    every = [m.name for m in problem.modalities if m.kind == "image"]
    if len(every) < 2:
        do = "Add an image to data.modalities, or choose another method"
        raise ConfigError(message("data.modalities", "have two images, a primary and an auxiliary one", every, do=do))
    for key, name in (("primary", config.primary), ("auxiliary", config.auxiliary)):
        if name is not None and name not in every:
            raise ConfigError(message(f"method.{key}", "be an image of the problem", repr(name), do=nearest(name, every)))
    primary = config.primary or next(name for name in every if name != config.auxiliary)
    auxiliary = config.auxiliary or next(name for name in every if name != primary)
    if primary == auxiliary:
        do = f"For instance {next(name for name in every if name != primary)}"
        raise ConfigError(message("method.auxiliary", "be another image than method.primary", repr(auxiliary), do=do))
    fusable_images(problem, (primary, auxiliary))  # refuses images that are not registered to the segmentation
    return primary, auxiliary


def _wide(rows: Tensor, like: Tensor) -> Tensor:
    """(B,) to (B, 1, ..., 1) of as many axes as `like`."""
    return rows.reshape(-1, *[1] * (like.ndim - 1))
