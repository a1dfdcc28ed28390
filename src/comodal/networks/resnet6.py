"""The six-stage residual network of Liao et al. (2021), Local Mutual Information, after the layers of its public code.

A 3 x 3 convolution to 8 channels at full size, then six stages of two basic residual blocks:

| stage | channels | `resnet6`, image of 256 | `resnet6-small`, image of 64 |
| --- | --- | --- | --- |
| layer1 | 8 | 128 | 32 |
| layer2 | 16 | 64 | 32 |
| layer3 | 32 | 32 | 16 |
| layer4 | 64 | 16 | 8 |
| layer5 | 128 | 8 | 8 |
| layer6 | 192 | 4 | 4 |

and the average over each quarter of the last map: 2 x 2 x 192 = 768 features. Its blocks up to layer5 are the "5-block resnet"
of the paper; folding 2 x 2 of its 8 x 8 x 128 places into one gives the 4 x 4 x 512 local features (`regions`).

Deviation: `resnet6-small` halves the image four times and not six, so that a radiograph of 64 x 64 pixels has 4 x 4 regions.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

CHANNELS = (8, 16, 32, 64, 128, 192)
FEATURES = 4 * CHANNELS[-1]
STRIDES = (2, 2, 2, 2, 2, 2)
SMALL = (2, 1, 2, 2, 1, 2)


class ResNet6(nn.Module):
    """See the module.

    Args:
        channels: Of the image.
        strides: Of the first block of each stage.
    """

    def __init__(self, channels: int, strides: Sequence[int] = STRIDES) -> None:
        super().__init__()
        first = CHANNELS[0]
        self.stem = nn.Sequential(nn.Conv2d(channels, first, 3, padding=1, bias=False), nn.BatchNorm2d(first), nn.ReLU())
        before = first
        for number, (size, stride) in enumerate(zip(CHANNELS, strides, strict=True), start=1):
            self.add_module(f"layer{number}", nn.Sequential(_Block(before, size, stride), _Block(size, size, 1)))
            before = size
        self.pool = nn.AdaptiveAvgPool2d(2)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, images: Tensor) -> Tensor:
        """(B, C, X, Y) to (B, 768)."""
        hidden = images
        for name in ("stem", *(f"layer{number}" for number in range(1, 7)), "pool"):
            hidden = self.get_submodule(name)(hidden)
        return hidden.flatten(1)


class _Block(nn.Module):
    """Two 3 x 3 convolutions with batch normalisation, and a shortcut."""

    def __init__(self, inputs: int, size: int, stride: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(inputs, size, 3, stride, 1, bias=False),
            nn.BatchNorm2d(size),
            nn.ReLU(),
            nn.Conv2d(size, size, 3, 1, 1, bias=False),
            nn.BatchNorm2d(size),
        )
        same = stride == 1 and inputs == size
        shortcut = [] if same else [nn.Conv2d(inputs, size, 1, stride, bias=False), nn.BatchNorm2d(size)]
        self.shortcut = nn.Sequential(*shortcut)

    def forward(self, maps: Tensor) -> Tensor:
        """(B, C, X, Y) to (B, C', X', Y')."""
        found: Tensor = (self.body(maps) + self.shortcut(maps)).relu()
        return found
