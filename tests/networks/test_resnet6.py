"""The six-stage network: the table of the sheet, sizes and channels, and what the layers of its code are."""

from __future__ import annotations

import torch
from torch import nn

from comodal.networks.resnet6 import CHANNELS, FEATURES, SMALL, ResNet6


def sizes(network: ResNet6, side: int) -> dict[str, tuple[int, ...]]:
    """{layer: shape of its map}."""
    found: dict[str, tuple[int, ...]] = {}
    hidden = torch.zeros(1, 1, side, side)
    with torch.no_grad():
        for name in ("stem", *(f"layer{number}" for number in range(1, 7)), "pool"):
            hidden = network.get_submodule(name)(hidden)
            found[name] = tuple(hidden.shape[1:])
    return found


def test_the_maps_are_those_of_the_table() -> None:
    found = sizes(ResNet6(1).eval(), 256)
    assert found == {
        "stem": (8, 256, 256),
        "layer1": (8, 128, 128),
        "layer2": (16, 64, 64),
        "layer3": (32, 32, 32),
        "layer4": (64, 16, 16),
        "layer5": (128, 8, 8),
        "layer6": (192, 4, 4),
        "pool": (192, 2, 2),
    }
    assert FEATURES == 768


def test_the_small_one_keeps_eight_by_eight_places_of_a_picture_of_64() -> None:
    found = sizes(ResNet6(1, SMALL).eval(), 64)
    assert [found[f"layer{number}"][1] for number in range(1, 7)] == [32, 32, 16, 8, 8, 4]


def test_the_layers_are_two_basic_blocks_a_stage() -> None:
    network = ResNet6(3)
    convolutions = [m for m in network.modules() if isinstance(m, nn.Conv2d)]
    assert len(convolutions) == 1 + 6 * 4 + 6  # stem, two in each block, a shortcut where a stage begins
    assert all(m.bias is None for m in convolutions)
    before, weights = CHANNELS[0], 3 * 9 * CHANNELS[0] + 2 * CHANNELS[0]
    for size in CHANNELS:  # by hand: 3 x 3 and 1 x 1 weights, scale and shift of five norms
        weights += 9 * (before * size + 3 * size * size) + before * size + 5 * 2 * size
        before = size
    assert sum(p.numel() for p in network.parameters()) == weights


def test_forward_is_the_layers_one_after_the_other() -> None:
    torch.manual_seed(0)
    network = ResNet6(1, SMALL).eval()
    images = torch.randn(2, 1, 32, 32)
    with torch.no_grad():
        hidden = images
        for child in network.children():
            hidden = child(hidden)
        assert network(images).shape == (2, 768)
        torch.testing.assert_close(network(images), hidden.flatten(1))
