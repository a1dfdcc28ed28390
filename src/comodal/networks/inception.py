"""InceptionV3 up to its last average: 2048 features of a picture. The base network of Derm7pt's published models.

Szegedy, Vanhoucke, Ioffe, Shlens and Wojna (2016), Rethinking the Inception Architecture for Computer Vision, CVPR,
arXiv:1512.00567, in the form of the weights that are public: parameters are called as in torchvision and timm, so that their
safetensors fit. The auxiliary classifier, which is needed in training from nothing on a million pictures, is left out.

Axis letters: B rows, C channels, H W pixels (torch calls them so; X Y elsewhere in the house).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d, max_pool2d

FEATURES = 2048
LEAST = 75  # a smaller picture has no pixel left before the last block
Side = int | tuple[int, int]


class Unit(nn.Module):
    """Convolution without bias, batch normalisation, ReLU."""

    def __init__(self, channels: int, out: int, kernel: Side, *, stride: int = 1, padding: Side = 0) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, out, kernel, stride=stride, padding=padding, bias=False)
        self.bn = nn.BatchNorm2d(out, eps=0.001)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) to (B, out, ...)."""
        found: Tensor = torch.relu(self.bn(self.conv(x)))
        return found


def _mean3(x: Tensor) -> Tensor:
    return avg_pool2d(x, 3, stride=1, padding=1)


class Wide(nn.Module):
    """35 x 35: branches of 1, 5 and twice 3 (Figure 5 of the paper); 224 + `pooled` channels."""

    def __init__(self, channels: int, pooled: int) -> None:
        super().__init__()
        self.branch1x1 = Unit(channels, 64, 1)
        self.branch5x5_1 = Unit(channels, 48, 1)
        self.branch5x5_2 = Unit(48, 64, 5, padding=2)
        self.branch3x3dbl_1 = Unit(channels, 64, 1)
        self.branch3x3dbl_2 = Unit(64, 96, 3, padding=1)
        self.branch3x3dbl_3 = Unit(96, 96, 3, padding=1)
        self.branch_pool = Unit(channels, pooled, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Same size of map."""
        twice = self.branch3x3dbl_3(self.branch3x3dbl_2(self.branch3x3dbl_1(x)))
        return torch.cat([self.branch1x1(x), self.branch5x5_2(self.branch5x5_1(x)), twice, self.branch_pool(_mean3(x))], dim=1)


class WideToMiddle(nn.Module):
    """35 x 35 to 17 x 17 without a bottleneck (Figure 10): 480 more channels."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.branch3x3 = Unit(channels, 384, 3, stride=2)
        self.branch3x3dbl_1 = Unit(channels, 64, 1)
        self.branch3x3dbl_2 = Unit(64, 96, 3, padding=1)
        self.branch3x3dbl_3 = Unit(96, 96, 3, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        """Half the size of map."""
        twice = self.branch3x3dbl_3(self.branch3x3dbl_2(self.branch3x3dbl_1(x)))
        return torch.cat([self.branch3x3(x), twice, max_pool2d(x, 3, stride=2)], dim=1)


class Middle(nn.Module):
    """17 x 17: convolutions of 7 as 1 x 7 and 7 x 1 (Figure 6); 768 channels, `units` inside."""

    def __init__(self, channels: int, units: int) -> None:
        super().__init__()
        self.branch1x1 = Unit(channels, 192, 1)
        self.branch7x7_1 = Unit(channels, units, 1)
        self.branch7x7_2 = Unit(units, units, (1, 7), padding=(0, 3))
        self.branch7x7_3 = Unit(units, 192, (7, 1), padding=(3, 0))
        self.branch7x7dbl_1 = Unit(channels, units, 1)
        self.branch7x7dbl_2 = Unit(units, units, (7, 1), padding=(3, 0))
        self.branch7x7dbl_3 = Unit(units, units, (1, 7), padding=(0, 3))
        self.branch7x7dbl_4 = Unit(units, units, (7, 1), padding=(3, 0))
        self.branch7x7dbl_5 = Unit(units, 192, (1, 7), padding=(0, 3))
        self.branch_pool = Unit(channels, 192, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Same size of map."""
        once = self.branch7x7_3(self.branch7x7_2(self.branch7x7_1(x)))
        twice = self.branch7x7dbl_3(self.branch7x7dbl_2(self.branch7x7dbl_1(x)))
        twice = self.branch7x7dbl_5(self.branch7x7dbl_4(twice))
        return torch.cat([self.branch1x1(x), once, twice, self.branch_pool(_mean3(x))], dim=1)


class MiddleToNarrow(nn.Module):
    """17 x 17 to 8 x 8: 512 more channels."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.branch3x3_1 = Unit(channels, 192, 1)
        self.branch3x3_2 = Unit(192, 320, 3, stride=2)
        self.branch7x7x3_1 = Unit(channels, 192, 1)
        self.branch7x7x3_2 = Unit(192, 192, (1, 7), padding=(0, 3))
        self.branch7x7x3_3 = Unit(192, 192, (7, 1), padding=(3, 0))
        self.branch7x7x3_4 = Unit(192, 192, 3, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        """Half the size of map."""
        far = self.branch7x7x3_4(self.branch7x7x3_3(self.branch7x7x3_2(self.branch7x7x3_1(x))))
        return torch.cat([self.branch3x3_2(self.branch3x3_1(x)), far, max_pool2d(x, 3, stride=2)], dim=1)


class Narrow(nn.Module):
    """8 x 8: convolutions of 3 as 1 x 3 beside 3 x 1 (Figure 7); 2048 channels."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.branch1x1 = Unit(channels, 320, 1)
        self.branch3x3_1 = Unit(channels, 384, 1)
        self.branch3x3_2a = Unit(384, 384, (1, 3), padding=(0, 1))
        self.branch3x3_2b = Unit(384, 384, (3, 1), padding=(1, 0))
        self.branch3x3dbl_1 = Unit(channels, 448, 1)
        self.branch3x3dbl_2 = Unit(448, 384, 3, padding=1)
        self.branch3x3dbl_3a = Unit(384, 384, (1, 3), padding=(0, 1))
        self.branch3x3dbl_3b = Unit(384, 384, (3, 1), padding=(1, 0))
        self.branch_pool = Unit(channels, 192, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Same size of map."""
        once = self.branch3x3_1(x)
        twice = self.branch3x3dbl_2(self.branch3x3dbl_1(x))
        parts = [self.branch3x3_2a(once), self.branch3x3_2b(once), self.branch3x3dbl_3a(twice), self.branch3x3dbl_3b(twice)]
        return torch.cat([self.branch1x1(x), *parts, self.branch_pool(_mean3(x))], dim=1)


class InceptionV3(nn.Module):
    """From a picture to 2048 averages, none below 0.

    Args:
        channels: Of the picture; 3 in the public weights, which were trained on pictures of 299 x 299 in [-1, 1].
    """

    def __init__(self, channels: int = 3) -> None:
        super().__init__()
        self.Conv2d_1a_3x3 = Unit(channels, 32, 3, stride=2)
        self.Conv2d_2a_3x3 = Unit(32, 32, 3)
        self.Conv2d_2b_3x3 = Unit(32, 64, 3, padding=1)
        self.Conv2d_3b_1x1 = Unit(64, 80, 1)
        self.Conv2d_4a_3x3 = Unit(80, 192, 3)
        self.Mixed_5b, self.Mixed_5c, self.Mixed_5d = Wide(192, 32), Wide(256, 64), Wide(288, 64)
        self.Mixed_6a = WideToMiddle(288)
        self.Mixed_6b, self.Mixed_6c = Middle(768, 128), Middle(768, 160)
        self.Mixed_6d, self.Mixed_6e = Middle(768, 160), Middle(768, 192)
        self.Mixed_7a = MiddleToNarrow(768)
        self.Mixed_7b, self.Mixed_7c = Narrow(1280), Narrow(2048)
        for module in self.modules():  # as a ResNet's; the public code draws with a deviation of 0.1 whatever the layer
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) with sides of at least 75 to (B, 2048)."""
        x = max_pool2d(self.Conv2d_2b_3x3(self.Conv2d_2a_3x3(self.Conv2d_1a_3x3(x))), 3, stride=2)
        x = max_pool2d(self.Conv2d_4a_3x3(self.Conv2d_3b_1x1(x)), 3, stride=2)
        x = self.Mixed_5d(self.Mixed_5c(self.Mixed_5b(x)))  # (B, 288, H/8, W/8)
        x = self.Mixed_6e(self.Mixed_6d(self.Mixed_6c(self.Mixed_6b(self.Mixed_6a(x)))))  # (B, 768, H/16, W/16)
        x = self.Mixed_7c(self.Mixed_7b(self.Mixed_7a(x)))  # (B, 2048, H/32, W/32)
        return x.mean(dim=(2, 3))
