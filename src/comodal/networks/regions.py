"""Image encoders in two parts: the lower blocks, whose map holds the regions of an image, and the last one.

| encoder | lower blocks | regions | last block |
| --- | --- | --- | --- |
| resnet6, resnet6-small | stem, layer1 to layer5 | 2 x 2 places of the 8 x 8 x 128 map as one: 4 x 4 x 512 | layer6 |
| other ResNets | stem, layer1 to layer3 | places of the map, 1/16 of the image | layer4 |

Axis letters: B images, C channels, X Y Z places of a map, N regions, D features of a region, F of the image.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from comodal.errors import ConfigError, message
from comodal.networks.encoders import ENCODERS, ImageEncoder, Norm


@dataclass(frozen=True)
class Parts:
    """Submodules of a network, in the order in which they are applied.

    Attributes:
        low: Of the lower blocks.
        last: Of the last one, without the pooling.
        pool: What makes the map a vector.
        fold: Places along each axis that are one region.
    """

    low: tuple[str, ...]
    last: tuple[str, ...]
    pool: str
    fold: int = 1


_SIX = Parts(("stem", *(f"layer{number}" for number in range(1, 6))), ("layer6",), "pool", 2)
_RESNET = Parts(("conv1", "bn1", "act", "maxpool", "layer1", "layer2", "layer3"), ("layer4",), "avgpool")
PARTED: dict[str, Parts] = {
    name: _SIX if name.startswith("resnet6") else _RESNET for name in ENCODERS if name.startswith("resnet")
}


class RegionEncoder(ImageEncoder):
    """An image encoder whose maps can be had: `forward(images) == whole(last(low(images)))`.

    Args:
        name: Key of PARTED.
        spatial_dims: Of the image.
        channels: Of the image.
        fold: Places along each axis of the lower map that are one region; None: as the table says.
        tiles: Parts along each axis of the image that the lower blocks see each by itself, so that a region holds nothing of
            the others; 0: the whole image, where a place of the map sees far around itself. The running statistics of batch
            normalisation are those of parts.
        norm: As `ImageEncoder`.
        patch: Size of the image; () where it is not known.
        modality: For messages.

    Attributes:
        region_features: D.
        map_features: Channels of the last map.

    Raises:
        ConfigError: An encoder that is not in two parts, or a map that cannot be folded.
    """

    def __init__(
        self,
        name: str,
        spatial_dims: int,
        channels: int,
        *,
        fold: int | None = None,
        tiles: int = 0,
        norm: Norm = "batch",
        patch: Sequence[int] = (),
        modality: str | None = None,
    ) -> None:
        super().__init__(name, spatial_dims, channels, norm=norm, patch=_sides(patch, tiles, modality), modality=modality)
        if name not in PARTED:
            do = f"Choose one of {', '.join(PARTED)}"
            raise ConfigError(message("method.encoder", "have regions", repr(name), do=do, modality=modality))
        self.parts, self.spatial_dims, self.tiles = PARTED[name], spatial_dims, tiles
        self.fold = self.parts.fold if fold is None else fold
        with torch.no_grad():
            lower, last = (self._channels(names) for names in (self.parts.low, self.parts.last))
        self.region_features = lower * self.fold**spatial_dims
        self.map_features = last

    @property
    def low_prefixes(self) -> tuple[str, ...]:
        """Parameter prefixes of the lower blocks, within this module."""
        return tuple(f"network.{name}" for name in self.parts.low if list(self._part(name).parameters()))

    @property
    def last_prefixes(self) -> tuple[str, ...]:
        """Parameter prefixes of the last block, within this module."""
        return tuple(f"network.{name}" for name in self.parts.last)

    def forward(self, images: Tensor) -> Tensor:
        """(B, C, *spatial) to (B, F)."""
        return self.whole(self.last(self.low(images)))

    def low(self, images: Tensor) -> Tensor:
        """(B, C, *spatial) to the map of the lower blocks (B, C', *coarse)."""
        sides = _sides(images.shape[2:], self.tiles, self.modality)
        self._check_sides(sides)
        parts = _cut(images, self.tiles) if self.tiles else images
        for name in self.parts.low:
            parts = self._part(name)(parts)
        return _joined(parts, self.tiles, len(images)) if self.tiles else parts

    def last(self, low: Tensor) -> Tensor:
        """The map of the lower blocks to that of the last one."""
        for name in self.parts.last:
            low = self._part(name)(low)
        return low

    def whole(self, last: Tensor) -> Tensor:
        """The last map to the features of the image (B, F)."""
        found: Tensor = self._part(self.parts.pool)(last).flatten(1)
        return found

    def regions(self, low: Tensor) -> Tensor:
        """The map of the lower blocks to (B, N, D); N in the order of `grid`, the last axis fastest."""
        fold, sides = self.fold, low.shape[2:]
        if any(side % fold for side in sides):
            rule, do = f"be a multiple of {fold} along each axis", "Set data.patch to a multiple of 2 x 32, or method.fold to 1"
            got = " x ".join(map(str, sides))
            raise ConfigError(message("the map of the regions", rule, got, do=do, modality=self.modality))
        parts = [side // self.tiles for side in sides] if self.tiles else []
        if any(part % fold and fold % part for part in parts):
            rule = "be a multiple of method.fold along each axis, or divide it, so that regions share no tile"
            got, do = f"{' x '.join(map(str, parts))} with fold {fold}", "Set method.fold to 1, or change method.tiles"
            raise ConfigError(message("the map of a tile", rule, got, do=do, modality=self.modality))
        parted = _parted(low, [side // fold for side in sides])  # (B, *places, C, *inner)
        return parted.flatten(1, self.spatial_dims).flatten(2)

    def grid(self, low: Tensor) -> tuple[int, ...]:
        """How many regions lie along each axis of the image."""
        return tuple(side // self.fold for side in low.shape[2:])

    def _part(self, name: str) -> nn.Module:
        return self.network.get_submodule(name)

    def _channels(self, names: Sequence[str]) -> int:
        """Channels of the map that the last of these submodules gives."""
        kinds = (nn.Conv2d, nn.Conv3d)
        blocks = list(self._part(names[-1]).children())
        return next(m.out_channels for m in reversed(list(blocks[-1].modules())) if isinstance(m, kinds))


def _sides(sides: Sequence[int], tiles: int, modality: str | None) -> tuple[int, ...]:
    """What the lower blocks see at a time: the sides of the image, or of one of its tiles."""
    if tiles and any(side % tiles for side in sides):
        rule, do = f"be a multiple of method.tiles ({tiles}) along each axis", "Change data.patch or method.tiles"
        raise ConfigError(message("data.patch", rule, " x ".join(map(str, sides)), do=do, modality=modality))
    return tuple(side // tiles if tiles else side for side in sides)


def _parted(maps: Tensor, counts: Sequence[int]) -> Tensor:
    """(B, C, *spatial) to (B, *counts, C, *inner): so many parts along each axis."""
    dims = len(counts)
    split = [part for side, count in zip(maps.shape[2:], counts, strict=True) for part in (count, side // count)]
    places, inner = [2 + 2 * axis for axis in range(dims)], [3 + 2 * axis for axis in range(dims)]
    return maps.reshape(*maps.shape[:2], *split).permute(0, *places, 1, *inner)


def _cut(images: Tensor, tiles: int) -> Tensor:
    """(B, C, *spatial) to its tiles (B tiles^dims, C, *part), the last axis fastest."""
    dims = images.ndim - 2
    return _parted(images, [tiles] * dims).flatten(0, dims)


def _joined(maps: Tensor, tiles: int, count: int) -> Tensor:
    """Maps of tiles (B tiles^dims, C, *part) side by side again (B, C, *coarse)."""
    dims = maps.ndim - 2
    wide = maps.reshape(count, *[tiles] * dims, *maps.shape[1:])  # (B, t, t, C, x, y)
    order = [axis for pair in zip(range(1, 1 + dims), range(2 + dims, 2 + 2 * dims), strict=True) for axis in pair]
    return wide.permute(0, 1 + dims, *order).reshape(count, maps.shape[1], *(tiles * side for side in maps.shape[2:]))
