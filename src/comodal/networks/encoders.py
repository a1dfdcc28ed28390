"""Encoders of images: from (B, C, *spatial) to one latent (B, F). MONAI's networks, without their last layer.

Features are pooled averages after a ReLU (ResNet, DenseNet) and hence not negative.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from torch import Tensor, nn

from comodal.errors import ConfigError, message, nearest

Slices = Literal["volume", "mean", "attention"]


@dataclass(frozen=True)
class Architecture:
    """An image encoder by its name.

    Attributes:
        build: From (spatial_dims, channels) to (network, number of its features).
        spatial_dims: In which it exists.
        least: Smallest side of an image in pixels.
        rectified: Whether its features are averages after a ReLU, and so never negative.
    """

    build: Callable[[int, int], tuple[nn.Module, int]]
    spatial_dims: tuple[int, ...] = (2, 3)
    least: int = 8
    rectified: bool = True


def _resnet(block: str, layers: list[int], widen: float = 1.0) -> Callable[[int, int], tuple[nn.Module, int]]:
    def build(dims: int, channels: int) -> tuple[nn.Module, int]:
        from monai.networks.nets.resnet import ResNet, get_inplanes

        planes = get_inplanes()
        network = ResNet(
            block,
            layers,
            planes,
            spatial_dims=dims,
            n_input_channels=channels,
            conv1_t_stride=2,  # MONAI's default of 1 is three to five times slower, and not He et al.'s
            feed_forward=False,
            bias_downsample=False,
            widen_factor=widen,
        )
        return network, int(planes[-1] * widen) * (4 if block == "bottleneck" else 1)

    return build


def _densenet(blocks: tuple[int, ...], *, first: int = 64, growth: int = 32) -> Callable[[int, int], tuple[nn.Module, int]]:
    def build(dims: int, channels: int) -> tuple[nn.Module, int]:
        from monai.networks.nets.densenet import DenseNet

        network = DenseNet(dims, channels, 1, init_features=first, growth_rate=growth, block_config=blocks)
        last = network.class_layers.get_submodule("out")
        network.class_layers.set_submodule("out", nn.Identity())  # what is left: ReLU, average pool, flatten
        return network, int(next(last.parameters()).shape[1])  # the weight, (1, features)

    return build


ENCODERS: dict[str, Architecture] = {
    "resnet10": Architecture(_resnet("basic", [1, 1, 1, 1])),
    "resnet10-quarter": Architecture(_resnet("basic", [1, 1, 1, 1], 0.25)),
    "resnet18": Architecture(_resnet("basic", [2, 2, 2, 2])),
    "resnet34": Architecture(_resnet("basic", [3, 4, 6, 3])),
    "resnet50": Architecture(_resnet("bottleneck", [3, 4, 6, 3])),
    "densenet121": Architecture(_densenet((6, 12, 24, 16)), least=32),
    "densenet169": Architecture(_densenet((6, 12, 32, 32)), least=32),
}


class ImageEncoder(nn.Module):
    """A network that says one latent of an image.

    Args:
        name: Key of ENCODERS.
        spatial_dims: Of the image, 2 or 3.
        channels: Of the image.
        slices: How a volume is read: "volume": by a network of three dimensions; "mean" or "attention": slice by slice along
            Z by one of two, whose latents are averaged, or weighted by attention. No effect on pictures.

    Raises:
        ConfigError: No such encoder, or none in these dimensions.
    """

    def __init__(self, name: str, spatial_dims: int, channels: int, *, slices: Slices = "volume") -> None:
        super().__init__()
        if name not in ENCODERS:
            raise ConfigError(message("method.encoder", "be a known one", repr(name), do=nearest(name, ENCODERS)))
        self.by_slice = spatial_dims == 3 and slices != "volume"
        dims = 2 if self.by_slice else spatial_dims
        architecture = ENCODERS[name]
        if dims not in architecture.spatial_dims:
            rule, do = f"exist in {dims}-D", "Set method.slices to mean, or choose another encoder"
            raise ConfigError(message("method.encoder", rule, repr(name), do=do))
        self.network, self.features = architecture.build(dims, channels)
        self.rectified = architecture.rectified
        self.weigh = nn.Linear(self.features, 1) if self.by_slice and slices == "attention" else None

    def forward(self, images: Tensor) -> Tensor:
        """(B, C, *spatial) to (B, F)."""
        if not self.by_slice:
            found: Tensor = self.network(images)
            return found
        size, depth = len(images), images.shape[-1]
        each = images.movedim(-1, 1).flatten(0, 1)  # (B Z, C, X, Y)
        latents: Tensor = self.network(each).reshape(size, depth, -1)  # (B, Z, F)
        if self.weigh is None:
            return latents.mean(dim=1)
        weights: Tensor = self.weigh(latents).softmax(dim=1)  # (B, Z, 1)
        return (weights * latents).sum(dim=1)
