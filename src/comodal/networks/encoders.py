"""Encoders of images: from (B, C, *spatial) to one latent (B, F). Networks of MONAI and transformers without their last layer.

Features of ResNet, DenseNet and InceptionV3 are averages after a ReLU and hence not negative; those of transformers' networks
are what their last normalisation gives, of either sign.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from comodal.errors import ConfigError, message, nearest
from comodal.networks import inception, resnet6
from comodal.networks.backbones import backbone, published
from comodal.networks.published import Taken, take

Slices = Literal["volume", "mean", "attention"]
Norm = Literal["batch", "group"]
GROUPS = 8  # what the channels of all of them are multiples of
Build = Callable[[int, int], tuple[nn.Module, int]]


@dataclass(frozen=True)
class Architecture:
    """An image encoder by its name.

    Attributes:
        build: From (spatial_dims, channels) to (network, number of its features).
        spatial_dims: In which it exists.
        least: Smallest side of an image in pixels.
        multiple: Sides are multiples of it, since what is left over would not be seen.
        renames: (pattern, replacement) from the names of published weights to its own.
        nonnegative: Whether its features are never below 0.
    """

    build: Build
    spatial_dims: tuple[int, ...] = (2, 3)
    least: int = 8
    multiple: int = 1
    renames: tuple[tuple[str, str], ...] = ()
    nonnegative: bool = True

    def fits(self, side: int) -> int:
        """The smallest side that it takes and that is not smaller than this one."""
        return max(-(-side // self.multiple), -(-self.least // self.multiple)) * self.multiple


def _resnet(block: str, layers: list[int], widen: float = 1.0) -> Architecture:
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

    return Architecture(build)


def _densenet(blocks: tuple[int, ...], *, first: int = 64, growth: int = 32) -> Architecture:
    def build(dims: int, channels: int) -> tuple[nn.Module, int]:
        from monai.networks.nets.densenet import DenseNet

        network = DenseNet(dims, channels, 1, init_features=first, growth_rate=growth, block_config=blocks)
        last = network.class_layers.get_submodule("out")
        network.class_layers.set_submodule("out", nn.Identity())  # what is left: ReLU, average pool, flatten
        return network, int(next(last.parameters()).shape[1])  # the weight, (1, features)

    # torchvision has denselayer1.norm1 (files of old versions: norm.1) where MONAI has denselayer1.layers.norm1
    return Architecture(build, least=32, renames=((r"(denselayer\d+)\.(norm|conv)\.?(\d)\.", r"\1.layers.\2\3."),))


def _inception(_: int, channels: int) -> tuple[nn.Module, int]:
    return inception.InceptionV3(channels), inception.FEATURES


def _six_stages(strides: Sequence[int], *, least: int) -> Architecture:
    def build(_: int, channels: int) -> tuple[nn.Module, int]:
        return resnet6.ResNet6(channels, strides), resnet6.FEATURES

    return Architecture(build, spatial_dims=(2,), least=least)


def _transformer(name: str, *, least: int, multiple: int = 1) -> Architecture:
    return Architecture(backbone(name), spatial_dims=(2,), least=least, multiple=multiple, nonnegative=False)


ENCODERS: dict[str, Architecture] = {
    "resnet10": _resnet("basic", [1, 1, 1, 1]),
    "resnet10-quarter": _resnet("basic", [1, 1, 1, 1], 0.25),
    "resnet18": _resnet("basic", [2, 2, 2, 2]),
    "resnet34": _resnet("basic", [3, 4, 6, 3]),
    "resnet50": _resnet("bottleneck", [3, 4, 6, 3]),
    "resnet6": _six_stages(resnet6.STRIDES, least=64),
    "resnet6-small": _six_stages(resnet6.SMALL, least=16),
    "densenet121": _densenet((6, 12, 24, 16)),
    "densenet169": _densenet((6, 12, 32, 32)),
    "inception-v3": Architecture(_inception, spatial_dims=(2,), least=inception.LEAST),
    "convnext-tiny": _transformer("convnext-tiny", least=32),
    "swin-tiny": _transformer("swin-tiny", least=224),  # its smallest map must hold one window of 7
    "vit-small": _transformer("vit-small", least=16, multiple=16),
    "dinov2-small": _transformer("dinov2-small", least=14, multiple=14),
}


class ImageEncoder(nn.Module):
    """A network that says one latent of an image.

    In training, batch normalisation takes its statistics from the batch. Where that leaves it one value for each channel (one
    row, whose map has shrunk to one pixel) there are none: it then uses its running statistics, and leaves them as they are.

    Args:
        name: Key of ENCODERS.
        spatial_dims: Of the image, 2 or 3.
        channels: Of the image.
        slices: How a volume is read: "volume": by a network of three dimensions; "mean" or "attention": slice by slice along
            Z by one of two, whose latents are averaged, or weighted by attention. No effect on pictures.
        norm: "batch", or "group": group normalisation (Wu and He 2018) in its place, which knows no other rows. No effect on
            networks of transformers, whose layer normalisation knows none either.
        patch: Size of the image in pixels, so that one that is too small is refused here; () where it is not known yet.
        modality: For messages.

    Attributes:
        features: F.
        nonnegative: Whether no feature is ever below 0.

    Raises:
        ConfigError: No such encoder, none in these dimensions, or a patch that it cannot read.
    """

    def __init__(
        self,
        name: str,
        spatial_dims: int,
        channels: int,
        *,
        slices: Slices = "volume",
        norm: Norm = "batch",
        patch: Sequence[int] = (),
        modality: str | None = None,
    ) -> None:
        super().__init__()
        if name not in ENCODERS:
            raise ConfigError(message("method.encoder", "be a known one", repr(name), do=nearest(name, ENCODERS)))
        self.name, self.modality = name, modality
        self.by_slice = spatial_dims == 3 and slices != "volume"
        dims = 2 if self.by_slice else spatial_dims
        self.architecture = architecture = ENCODERS[name]
        if dims not in architecture.spatial_dims:
            rule, do = f"exist in {dims}-D", "Set method.slices to mean, or choose another encoder"
            raise ConfigError(message("method.encoder", rule, repr(name), do=do, modality=modality))
        self._check_sides(patch[:dims])
        self.network, self.features = architecture.build(dims, channels)
        if norm == "group":
            _group(self.network)
        self.nonnegative = architecture.nonnegative
        for module in self.network.modules():
            if isinstance(module, _BatchNorm):
                module.register_forward_pre_hook(_before_norm)
                module.register_forward_hook(_after_norm)
        self.weigh = nn.Linear(self.features, 1) if self.by_slice and slices == "attention" else None

    def forward(self, images: Tensor) -> Tensor:
        """(B, C, *spatial) to (B, F)."""
        self._check_sides(images.shape[2 : 4 if self.by_slice else None])
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

    def take(self, weights: Mapping[str, Tensor], *, prefer: str = "") -> Taken:
        """Published weights into the network; see `comodal.networks.published.take`.

        Args:
            weights: {name in the file: tensor}.
            prefer: Of several networks in a file, one whose name has this word.

        Returns:
            What was taken.
        """
        translated = published(self.network, weights)
        taken = take(self.network, translated) if translated else None
        if taken is not None and taken.enough:
            return taken
        return take(self.network, weights, renames=self.architecture.renames, prefer=prefer)

    def _check_sides(self, sides: Iterable[int]) -> None:
        least, multiple, sides = self.architecture.least, self.architecture.multiple, tuple(sides)
        if all(side >= least and side % multiple == 0 for side in sides):
            return
        rule = f"have sides of at least {least} pixels" + (f", multiples of {multiple}," if multiple > 1 else "")
        better = " x ".join(str(self.architecture.fits(side)) for side in sides)
        do = f"Set data.patch (pictures and tiles: data.resize) to {better}, or choose another encoder"
        if len(sides) == 3:
            do += ", or set method.slices to mean"
        owner = f"image for the encoder {self.name}"
        raise ConfigError(message(owner, rule, " x ".join(map(str, sides)), do=do, modality=self.modality))


def _group(network: nn.Module) -> None:
    """Puts group normalisation in the place of batch normalisation; MONAI's `norm` reaches only the first of a ResNet's."""
    for name, module in list(network.named_modules()):
        if isinstance(module, _BatchNorm):
            network.set_submodule(name, nn.GroupNorm(GROUPS, module.num_features))


def _before_norm(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
    """Running statistics for this call, where a batch has one value for each channel."""
    images = inputs[0]
    if module.training and images.numel() == images.shape[1]:
        module.training = False
        module.alone = True  # type: ignore[assignment]  # torch types unknown attributes as tensors


def _after_norm(module: nn.Module, _inputs: tuple[Tensor, ...], _output: Tensor) -> None:
    if getattr(module, "alone", False):
        module.training = True
        del module.alone
