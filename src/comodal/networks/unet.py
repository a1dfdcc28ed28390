"""U-Nets from MONAI, chosen by name, and their early-fusion use. One class serves 2-D and 3-D by `spatial_dims`."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable
from typing import Any, Literal

import torch
from torch import Tensor, nn

from comodal.batch import Batch
from comodal.errors import ConfigError, message
from comodal.method import Problem

UNetKind = Literal["residual", "nnunet"]


def unet_filters(spatial_dims: int, *, width: int, levels: int) -> list[int]:
    """Filters of each level of `build_unet`, the finest first: doubled from level to level, up to 320 in 3-D and 512 in 2-D.

    >>> unet_filters(3, width=32, levels=6)
    [32, 64, 128, 256, 320, 320]
    """
    return [min(width * 2**level, 320 if spatial_dims == 3 else 512) for level in range(levels)]


def build_unet(spatial_dims: int, in_channels: int, out_channels: int, *, kind: UNetKind, width: int, levels: int) -> nn.Module:
    """Builds a U-Net with instance normalisation.

    Args:
        spatial_dims: 2 or 3.
        in_channels: Channels of the input.
        out_channels: Channels of the logits.
        kind: "residual" is MONAI's `UNet` with two residual units per level, strided convolutions and a 1x1 convolution as
            head, the fastest on a CPU;
            "nnunet" is MONAI's `DynUNet` set up as nnU-Net's plain network (two 3x3 convolutions, LeakyReLU 0.01,
            transposed convolutions), 31 192 035 parameters at width 32, 6 levels, 4 channels in, 3 out, in 3-D.
        width: Filters of the first level; each level doubles them, up to 320 in 3-D and 512 in 2-D as in nnU-Net.
        levels: Resolutions, the first at full size; every side of the input must be divisible by 2^(levels - 1).

    Returns:
        A module from (B, in_channels, *spatial) to logits (B, out_channels, *spatial).
    """
    from monai.networks.nets import DynUNet, UNet  # here, since MONAI takes seconds to import

    filters = unet_filters(spatial_dims, width=width, levels=levels)
    down = [2] * (levels - 1)
    if kind == "residual":
        # MONAI's UNet would normalise a map of `out_channels` channels just before its last convolution; with one region that
        # stretches the noise of an empty slice to a tumour, and training hardly starts. Hence features out, and an own head.
        body = UNet(spatial_dims, in_channels, width, channels=filters, strides=down, num_res_units=2)
        head = (nn.Conv2d if spatial_dims == 2 else nn.Conv3d)(width, out_channels, kernel_size=1)
        return nn.Sequential(OrderedDict(body=body, head=head))
    return DynUNet(
        spatial_dims,
        in_channels,
        out_channels,
        kernel_size=[3] * levels,
        strides=[1, *down],
        upsample_kernel_size=down,
        filters=filters,
        norm_name=("INSTANCE", {"affine": True}),
        act_name=("leakyrelu", {"negative_slope": 0.01}),
    )


def logits_and_maps(network: nn.Module, image: Tensor) -> tuple[Tensor, list[Tensor]]:
    """Runs a network of `build_unet` and keeps what its encoder made: the same logits as `network(image)`, bit for bit.

    Args:
        network: Of either kind.
        image: (B, C, *spatial).

    Returns:
        Logits (B, K, *spatial), and the map (B, F, *spatial) of every level before the next one halves it, the finest first;
        the last is the bottleneck. "residual" halves at each level but the last, its first included; "nnunet" from the
        second on.
    """
    maps: list[Tensor] = []
    parts: Any = network  # MONAI's blocks, by the names that MONAI gave them
    if isinstance(network, nn.Sequential):
        return parts.head(_residual(parts.body.model, image, maps)), maps
    hidden: Tensor = parts.input_block(image)
    maps.append(hidden)
    for block in [*parts.downsamples, parts.bottleneck]:
        hidden = block(hidden)
        maps.append(hidden)
    for block, skip in zip(parts.upsamples, maps[-2::-1], strict=True):
        hidden = block(hidden, skip)
    return parts.output_block(hidden), maps


def _residual(block: Any, hidden: Tensor, maps: list[Tensor]) -> Tensor:
    """MONAI's UNet is nested: each level is (down, skip over the next level, up), the last a plain block."""
    if not (isinstance(block, nn.Sequential) and len(block) == 3 and hasattr(block[1], "submodule")):
        bottom: Tensor = block(hidden)
        maps.append(bottom)
        return bottom
    down: Tensor = block[0](hidden)
    maps.append(down)
    up: Tensor = block[2](torch.cat([down, _residual(block[1].submodule, down, maps)], dim=1))
    return up


def fusable_images(problem: Problem, images: Iterable[str] | None = None) -> tuple[str, ...]:
    """The images that a network takes side by side, in canonical order.

    Args:
        problem: Has the modalities.
        images: Only these; None takes every image.

    Raises:
        ConfigError: There is none, or one of them is not registered to the segmentation.
    """
    wanted = [m for m in problem.modalities if m.kind == "image" and (images is None or m.name in set(images))]
    if not wanted:
        do = "Add an image to data.modalities, or choose another method"
        raise ConfigError(message("data.modalities", "have an image for a U-Net", problem.names, do=do))
    elsewhere = [m.name for m in wanted if m.grid != problem.grid]
    if elsewhere:
        rule, got = f"share the grid {problem.grid} for a U-Net on all images", ", ".join(elsewhere)
        do = "Leave it out, register it and give it this grid in cohort.yaml, or choose another method"
        raise ConfigError(message("data.modalities", rule, f"{got} on another", do=do))
    return tuple(m.name for m in wanted)


def check_sides(problem: Problem, levels: int) -> None:
    """Refuses a patch that a U-Net of so many levels cannot halve often enough.

    Raises:
        ConfigError: A side is not divisible by 2^(levels - 1), or shorter than twice that.
    """
    step = 2 ** (levels - 1)
    if any(side % step or side < 2 * step for side in problem.patch):
        rule = f"have sides divisible by {step} and of at least {2 * step} for a U-Net of {levels} levels"
        do = "Change data.patch or lower method.levels"
        raise ConfigError(message("data.patch", rule, tuple(problem.patch), do=do))


def segmentation_classes(problem: Problem) -> int:
    """Channels of the logits: the classes of all segmentation targets."""
    return sum(len(t.classes) for t in problem.targets if t.is_segmentation)


class EarlyFusionUNet(nn.Module):
    """One U-Net on some images, concatenated along the channels in canonical order; an absent one is zero, its mean.

    On all images this is the "Mean" baseline of Havaei et al. (2016), HeMIS, Section 3; on one of them a plain U-Net.

    Args:
        problem: Its image modalities are the input and its segmentation targets the output.
        kind, width, levels: See `build_unet`.
        images: Only these are read; None reads every image.

    Raises:
        ConfigError: The patch is not divisible by 2^(levels - 1), nnU-Net's network is asked for with two levels, there is no
            image, or images are not registered to each other.
    """

    def __init__(
        self, problem: Problem, *, kind: UNetKind, width: int, levels: int, images: Iterable[str] | None = None
    ) -> None:
        super().__init__()
        if kind == "nnunet" and levels < 3:  # MONAI's DynUNet
            do = "Raise method.levels, or set method.network to residual"
            raise ConfigError(message("method.levels", "be at least 3 for nnU-Net's network", levels, do=do))
        check_sides(problem, levels)
        self.images = fusable_images(problem, images)
        channels = sum(problem.modality(name).channels for name in self.images)
        classes = segmentation_classes(problem)
        self.network = build_unet(problem.spatial_dims, channels, classes, kind=kind, width=width, levels=levels)

    def stack(self, batch: Batch) -> Tensor:
        """(B, C of all, *spatial): its images side by side, zero where absent."""
        return torch.cat([batch.image(name) for name in self.images], dim=1)

    def forward(self, batch: Batch) -> Tensor:
        """Logits (B, K of all segmentation targets, *spatial)."""
        logits: Tensor = self.network(self.stack(batch))
        return logits
