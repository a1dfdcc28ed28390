"""An encoder in two parts: together they are the encoder, and regions are places of the map between them."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch.nn.functional import pixel_unshuffle

from comodal.errors import ConfigError
from comodal.networks.regions import PARTED, RegionEncoder

CASES: dict[str, tuple[str, int, tuple[int, ...]]] = {
    "six stages": ("resnet6-small", 2, (32, 32)),
    "a picture": ("resnet10-quarter", 2, (48, 32)),
    "a volume": ("resnet10-quarter", 3, (16, 32, 16)),
}


def encoder_of(name: str, dims: int = 2, **more: Any) -> RegionEncoder:
    torch.manual_seed(0)
    return RegionEncoder(name, dims, 1, **more).eval()


@pytest.mark.parametrize("case", CASES)
def test_the_parts_are_the_encoder(case: str) -> None:
    name, dims, sides = CASES[case]
    encoder, images = encoder_of(name, dims), torch.randn(2, 1, *sides)
    with torch.no_grad():
        low = encoder.low(images)
        last = encoder.last(low)
        whole, regions = encoder.whole(last), encoder.regions(low)
        torch.testing.assert_close(encoder(images), whole)
    assert whole.shape == (2, encoder.features) and last.shape[1] == encoder.map_features
    count = 1
    for side in encoder.grid(low):
        count *= side
    assert regions.shape == (2, count, encoder.region_features)
    prefixes = (*encoder.low_prefixes, *encoder.last_prefixes)
    for parameter, _ in encoder.named_parameters():  # each lies in one part
        assert sum(parameter.startswith(prefix + ".") for prefix in prefixes) == 1, parameter


def test_a_picture_of_256_has_16_regions_of_512() -> None:
    encoder = encoder_of("resnet6")
    with torch.no_grad():
        low = encoder.low(torch.zeros(1, 1, 256, 256))
    assert low.shape == (1, 128, 8, 8) and encoder.grid(low) == (4, 4)
    assert encoder.regions(low).shape == (1, 16, 512) and (encoder.region_features, encoder.features) == (512, 768)
    direct = encoder_of("resnet6", fold=1)
    assert direct.regions(low).shape == (1, 64, 128)


def test_a_region_is_two_by_two_places_side_by_side() -> None:
    encoder, low = encoder_of("resnet6-small"), torch.randn(2, 128, 4, 6)
    found = encoder.regions(low)
    torch.testing.assert_close(found, pixel_unshuffle(low, 2).flatten(2).transpose(1, 2))
    assert encoder.grid(low) == (2, 3)
    torch.testing.assert_close(found[0, 4].view(128, 2, 2), low[0, :, 2:4, 2:4])  # the last axis is the fastest


def test_what_has_no_regions_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"method\.encoder must have regions; got 'densenet121'.*Choose one of resnet10"):
        RegionEncoder("densenet121", 2, 1)
    assert set(PARTED) >= {"resnet6", "resnet6-small", "resnet50"} and "densenet121" not in PARTED
    with pytest.raises(ConfigError, match=r"must be a multiple of 2 along each axis; got 3 x 4 \[modality x\]"):
        encoder_of("resnet6-small", modality="x").regions(torch.zeros(1, 128, 3, 4))


# ------------------------------------------------------------------------------------------------------------------- tiles

TILED: dict[str, tuple[str, int, tuple[int, ...], int]] = {  # with what is folded into one region
    "six stages": ("resnet6-small", 2, (64, 32), 2),
    "a picture": ("resnet10-quarter", 2, (64, 32), 1),
    "a volume": ("resnet10-quarter", 3, (32, 64, 32), 1),
}


def within(tile: Sequence[int], sizes: Sequence[int]) -> tuple[Any, ...]:
    """Where a tile of these sizes lies in an image or a map."""
    return (..., *(slice(at * size, (at + 1) * size) for at, size in zip(tile, sizes, strict=True)))


@pytest.mark.parametrize("case", TILED)
def test_tiles_are_seen_each_by_itself(case: str) -> None:
    """The map of an image is that of its parts side by side, and the parts are the encoder."""
    name, dims, sides, fold = TILED[case]
    encoder, whole, images = (
        encoder_of(name, dims, tiles=2, fold=fold, patch=sides),
        encoder_of(name, dims, fold=fold),
        torch.randn(2, 1, *sides),
    )
    with torch.no_grad():
        low = encoder.low(images)
        torch.testing.assert_close(encoder(images), encoder.whole(encoder.last(low)), rtol=0, atol=0)
        steps, places = [side // 2 for side in sides], [side // 2 for side in low.shape[2:]]
        for tile in itertools.product(range(2), repeat=dims):
            image, part = (within(tile, sizes) for sizes in (steps, places))
            torch.testing.assert_close(low[part], whole.low(images[image]), rtol=1e-5, atol=1e-5)
        assert not torch.allclose(low, whole.low(images), atol=1e-3)


@pytest.mark.parametrize("case", TILED)
def test_the_gradient_of_a_region_stays_in_its_tile(case: str) -> None:
    name, dims, sides, fold = TILED[case]
    encoder, images = encoder_of(name, dims, tiles=2, fold=fold), torch.randn(1, 1, *sides, requires_grad=True)
    low = encoder.low(images)
    regions, grid = encoder.regions(low), encoder.grid(low)
    for at, place in enumerate(itertools.product(*(range(count) for count in grid))):
        (found,) = torch.autograd.grad(regions[0, at].square().sum(), images, retain_graph=True)
        inside = within([2 * p // n for p, n in zip(place, grid, strict=True)], [side // 2 for side in sides])
        assert bool(found[inside].any()), place
        found[inside] = 0.0
        assert not bool(found.any()), place


def test_sides_that_are_no_multiple_of_the_tiles_are_refused() -> None:
    said = r"data\.patch must be a multiple of method\.tiles \(4\) along each axis; got 64 x 66 \[modality x\]\. Change"
    with pytest.raises(ConfigError, match=said):
        encoder_of("resnet6-small", tiles=4, patch=(64, 66), modality="x")
    with pytest.raises(ConfigError, match=said):
        encoder_of("resnet6-small", tiles=4, modality="x").low(torch.zeros(1, 1, 64, 66))
    with pytest.raises(ConfigError, match=r"sides of at least 16 pixels; got 8 x 8"):  # what is too small is the tile
        encoder_of("resnet6-small", tiles=4, patch=(32, 32))


def test_a_region_that_lies_across_tiles_is_refused() -> None:
    encoder = encoder_of("resnet6-small", tiles=4, patch=(96, 96))
    said = r"the map of a tile must be a multiple of method\.fold .*; got 3 x 3 with fold 2\. Set method\.fold to 1"
    with pytest.raises(ConfigError, match=said):
        encoder.regions(torch.zeros(1, 128, 12, 12))
    assert encoder_of("resnet6-small", tiles=4, fold=6).regions(torch.zeros(1, 128, 12, 12)).shape == (1, 4, 36 * 128)
