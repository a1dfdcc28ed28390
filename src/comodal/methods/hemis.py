"""`hemis`: HeMIS (Havaei et al. 2016), a back end per modality, moments over the available ones, one front end.

Each image has its own small convolutional back end, into a space of feature maps common to all. The abstraction layer takes
their mean and variance over the modalities that are there, and the front end segments from these alone. Nothing is made smaller
on the way: all layers work at full size, with a field of view of 18 pixels (34 with the last kernel of 21).

The widths are those of a public re-implementation, since the authors published no code. Deviations from the paper: the
variance is divided by |K| unless `unbiased`; the loss is soft Dice plus cross-entropy, that of every method here, unless `loss`
is "ce"; the curriculum has two steps instead of a slope (first all that each case has, then every number of modalities equally
likely); training may see crops of the patches. See docs/methods/hemis.md.

Axis letters: see `comodal.batch`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from comodal.batch import Batch, Features
from comodal.errors import ConfigError, message
from comodal.method import Citation, Method, MethodConfig, Monitor, OneStageConfig, Prediction, Problem, Requirements, Stage
from comodal.modality import Target
from comodal.networks.abstraction import encode_present, moments
from comodal.networks.segmentation import segmentation_losses, segmentation_probabilities
from comodal.networks.subsets import draw_subsets
from comodal.networks.unet import fusable_images, segmentation_classes


class HeMISConfig(OneStageConfig):
    """Configuration of `hemis`; `steps` are those of both stages together."""

    width: int = Field(48, ge=1, description="feature maps of a back end")
    front_width: int = Field(16, ge=1, description="feature maps of the front end")
    last_kernel: int = Field(5, ge=1, description="side of the last convolution, odd; the paper's is 21")
    unbiased: bool = Field(False, description="divide the variance by |K| - 1 instead of |K|")
    complete: float = Field(0.2, ge=0, lt=1, description="first share of the steps, with all that each case has; 0: none")
    loss: Literal["dice-ce", "ce"] = Field("dice-ce", description="soft Dice plus cross-entropy, or the paper's cross-entropy")
    crop: int | None = Field(None, ge=1, description="train on crops of this side of each patch; null takes the whole patch")

    on_cpu: ClassVar[Mapping[str, Any]] = {"crop": 48}  # all layers work at full size


class BackEnd(nn.Module):
    """One modality to feature maps of the same size: two 5x5 convolutions with ReLU, and a 2x2 maximum at stride 1."""

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(channels, width, 5, padding=2)
        self.second = nn.Conv2d(width, width, 5, padding=2)

    def forward(self, image: Tensor) -> Tensor:
        """(b, channels, X, Y) to (b, width, X, Y)."""
        maps = self.second(self.first(image).relu_()).relu_()
        # "Same" padding of an even window is one pixel after the end: of X + 1 windows the first, before the start, goes.
        return nn.functional.max_pool2d(maps, 2, stride=1, padding=1)[..., 1:, 1:]


class FrontEnd(nn.Module):
    """Moments to logits: a 5x5 convolution with ReLU, and a last one of its own side."""

    def __init__(self, channels: int, width: int, classes: int, *, last_kernel: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(channels, width, 5, padding=2)
        self.last = nn.Conv2d(width, classes, last_kernel, padding=last_kernel // 2)

    def forward(self, maps: Tensor) -> Tensor:
        """(B, channels, X, Y) to (B, classes, X, Y)."""
        logits: Tensor = self.last(self.first(maps).relu_())
        return logits


def foreground(batch: Batch, targets: Sequence[Target]) -> Tensor:
    """Where some target is known to have a structure.

    Args:
        batch: Has a segmentation target or two, or none.
        targets: All of the problem; only segmentations that the batch has count.

    Returns:
        (B, *spatial) bool; all False in rows without labels, and of shape (B,) where the batch has no segmentation.
    """
    found = torch.zeros(len(batch), dtype=torch.bool, device=batch.device)
    for target in (t for t in targets if t.is_segmentation and t.name in batch.targets):
        truth, known = batch.targets[target.name], batch.labelled[target.name]
        inside = truth > 0 if target.kind == "regions" else truth != (-1 if target.background is None else target.background)
        inside = inside & known.reshape(*known.shape, *[1] * (inside.ndim - known.ndim))
        inside = inside.any(dim=1) if target.kind == "regions" else inside  # (B, *spatial)
        found = found.reshape(len(batch), *[1] * (inside.ndim - found.ndim), *found.shape[1:]) | inside
    return found


def random_crop(batch: Batch, targets: Sequence[Target], side: int) -> Batch:
    """A crop of each row, images and segmentations alike: half of them on a voxel of a labelled structure, where there is one.

    Whether, on which voxel and where else is drawn on the CPU from torch's global generator, the same number of draws whatever
    the rows have. A crop that would reach over the edge is moved inside.

    Args:
        batch: Images of one grid.
        targets: All of the problem.
        side: Of the crop in voxels; a shorter side of the patch stays whole.

    Returns:
        A new batch; without affines, which no longer hold.
    """
    images = {name: value for name, value in batch.inputs.items() if isinstance(value, Tensor)}
    size = next(iter(images.values())).shape[2:]
    inside = foreground(batch, targets).cpu()
    draws = torch.rand(len(batch), 2 + len(size))
    windows = []
    for marked, (coin, which, *where) in zip(inside, draws.tolist(), strict=True):
        start = [int(u * (max(0, n - side) + 1)) for u, n in zip(where, size, strict=True)]
        voxels = marked.nonzero() if coin < 0.5 else marked.new_zeros((0, len(size)))
        if len(voxels):
            centre = voxels[int(which * len(voxels))].tolist()
            start = [min(max(0, c - side // 2), max(0, n - side)) for c, n in zip(centre, size, strict=True)]
        windows.append((..., *(slice(first, first + side) for first in start)))

    def cut(value: Tensor) -> Tensor:
        return torch.stack([row[window] for row, window in zip(value, windows, strict=True)])

    known = {t.name for t in targets if t.is_segmentation}
    truth = {name: cut(value) if name in known else value for name, value in batch.targets.items()}
    return replace(batch, inputs={**batch.inputs, **{n: cut(v) for n, v in images.items()}}, targets=truth, affines={})


class HeMIS(Method):
    """Hetero-modal image segmentation in 2-D; see the module."""

    Config: ClassVar[type[MethodConfig]] = HeMISConfig
    config: HeMISConfig
    paper: ClassVar[Citation] = Citation(
        "Havaei, Guizard, Chapados, Bengio", "HeMIS: Hetero-Modal Image Segmentation", 2016, "MICCAI", "arXiv:1607.05194"
    )

    def __init__(self, problem: Problem, config: HeMISConfig) -> None:
        super().__init__(problem, config)
        if config.last_kernel % 2 == 0:
            do = "5 is the default, 21 the paper's"
            raise ConfigError(message("method.last_kernel", "be odd, to have a middle", config.last_kernel, do=do))
        images = fusable_images(problem)
        self.back_ends = nn.ModuleDict({n: BackEnd(problem.modality(n).channels, config.width) for n in images})
        classes = segmentation_classes(problem)
        self.front_end = FrontEnd(2 * config.width, config.front_width, classes, last_kernel=config.last_kernel)

    @property
    def requires(self) -> Requirements:
        """Segmentation from 2-D images, whichever there are."""
        return Requirements(tasks=("segmentation",), spatial_dims=(2,))

    def stages(self) -> tuple[Stage, ...]:
        """All that each case has for the first share of the steps, then random subsets; the best weights of these are kept.

        The rate stays high in the first stage, whose last weights go on, and falls in the second.
        """
        how = self.config.optimisation()
        first = min(round(self.config.complete * self.config.steps), self.config.steps - 1)
        rest = Stage(
            "subsets",
            optimisers={"": how},
            sampler="foreground",
            steps=self.config.steps - first,
            monitor=Monitor("DSC", "max", self.config.patience),
        )
        if not first:
            return (rest,)
        return Stage("complete", optimisers={"": replace(how, schedule="constant")}, sampler="foreground", steps=first), rest

    def losses(self, batch: Batch, stage: Stage) -> dict[str, Tensor]:
        """Soft Dice plus cross-entropy of each target, or the latter alone, seen through what the stage lets each row see."""
        if self.config.crop is not None:
            batch = random_crop(batch, self.problem.targets, self.config.crop)
        seen = batch if stage.name == "complete" else batch.restrict(draw_subsets(batch.present))
        terms = segmentation_losses(self._logits(self.encode(seen), seen.present), batch, self.problem.targets)
        return terms if self.config.loss == "dice-ce" else {n: term for n, term in terms.items() if n.startswith("ce/")}

    def encode(self, batch: Batch) -> dict[str, Features]:
        """{modality: (B, width, X, Y)} by the back ends."""
        return encode_present(batch, self.back_ends)

    def decode(self, features: Mapping[str, Features], present: Tensor) -> Prediction:
        """Probabilities from the moments of the available features."""
        self.require_support(present)
        logits = self._logits(features, present)
        return Prediction(segmentation_probabilities(logits, self.problem.targets), used=present)

    def predict(self, batch: Batch) -> Prediction:
        """Probabilities from whatever each row has, of the whole patch."""
        self.require_support(batch.present)
        return self.decode(self.encode(batch), batch.present)

    def _logits(self, features: Mapping[str, Features], present: Tensor) -> Tensor:
        maps = {name: value for name, value in features.items() if isinstance(value, Tensor)}
        logits: Tensor = self.front_end(moments(maps, present, self.problem.names, unbiased=self.config.unbiased))
        return logits
