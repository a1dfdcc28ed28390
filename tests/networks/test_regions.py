"""An encoder in two parts: together they are the encoder, and regions are places of the map between them."""

from __future__ import annotations

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
