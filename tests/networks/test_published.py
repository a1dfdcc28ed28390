"""Weights of others: names, prefixes, shapes, and the first convolution."""

from __future__ import annotations

import copy
import re

import pytest
import torch
from torch import Tensor, nn

from comodal.networks.encoders import ENCODERS, ImageEncoder
from comodal.networks.published import take


def small(channels: int = 3) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(channels, 4, 3, bias=False), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 2, 1))


def weights_of(network: nn.Module, prefix: str = "") -> dict[str, Tensor]:
    return {prefix + name: tensor.clone() for name, tensor in network.state_dict().items()}


@pytest.mark.parametrize("prefix", ["", "module.", "module.encoder.backbone."])
def test_what_stands_before_the_names_does_not_matter(prefix: str) -> None:
    theirs, own = small(), small()
    taken = take(own, {**weights_of(theirs, prefix), f"{prefix}fc.weight": torch.zeros(5, 2)})
    assert (taken.tensors, taken.of, taken.prefix, taken.adapted) == (7, 7, prefix, "")  # the counter is no weight
    assert all(torch.equal(a, b) for a, b in zip(own.parameters(), theirs.parameters(), strict=True))


@pytest.mark.parametrize("channels", [1, 2, 4])
def test_equal_channels_are_seen_as_the_grey_picture_was(channels: int) -> None:
    theirs, own = small(3).eval(), small(channels).eval()
    taken = take(own, weights_of(theirs))
    assert taken.tensors == 7 and taken.adapted == f"3 channels to {channels}"
    grey = torch.randn(2, 1, 6, 6)
    torch.testing.assert_close(own(grey.expand(-1, channels, -1, -1)), theirs(grey.expand(-1, 3, -1, -1)))


def test_only_the_first_convolution_may_read_other_channels() -> None:
    own, theirs = small(), weights_of(small())
    theirs["3.weight"] = torch.zeros(2, 7, 1, 1)
    taken = take(own, theirs)
    assert taken.tensors == 6 and taken.left == ("3.weight",) and taken.enough


def test_less_than_half_changes_nothing() -> None:
    own = small()
    before = copy.deepcopy(own.state_dict())
    taken = take(own, {"0.weight": torch.zeros(4, 3, 3, 3), "1.weight": torch.zeros(4), "1.bias": torch.zeros(9)})
    assert (taken.tensors, taken.of, taken.enough) == (2, 7, False)
    assert all(torch.equal(value, before[name]) for name, value in own.state_dict().items())
    assert not take(own, {}).enough


def test_of_several_networks_the_preferred_one_is_taken() -> None:
    first, second, own = small(), small(), small()
    both = {**weights_of(first, "encoders.t1.network."), **weights_of(second, "encoders.t2.network.")}
    assert take(own, both, prefer="t2").prefix == "encoders.t2.network."
    assert torch.equal(own.state_dict()["0.weight"], second.state_dict()["0.weight"])
    assert take(own, both, prefer="t9").prefix == "encoders.t1.network."


def test_a_resnet_has_the_names_of_torchvision() -> None:
    names = set(ImageEncoder("resnet50", 2, 3).network.state_dict())
    wanted = {"conv1.weight", "bn1.running_var", "layer1.0.downsample.0.weight", "layer1.0.downsample.1.bias"}
    wanted |= {"layer4.2.conv3.weight", "layer3.5.bn2.weight"}
    assert wanted <= names and "layer1.0.downsample.0.bias" not in names and "fc.weight" not in names


@pytest.mark.parametrize("form", ["new", "old"])
def test_a_densenet_takes_the_names_of_torchvision(form: str) -> None:
    """denselayer1.norm1.weight, and in the files of its first versions denselayer1.norm.1.weight."""
    theirs, own = ImageEncoder("densenet121", 2, 3), ImageEncoder("densenet121", 2, 3)
    into = r"\1.\2\3." if form == "new" else r"\1.\2.\3."
    weights = {
        re.sub(r"(denselayer\d+)\.layers\.(norm|conv)(\d)\.", into, name): tensor
        for name, tensor in theirs.network.state_dict().items()
    }
    assert not any("layers" in name for name in weights)
    assert ("features.denseblock1.denselayer1.norm1.weight" in weights) == (form == "new")
    weights["classifier.weight"] = torch.zeros(1000, 1024)
    taken = own.take(weights)
    assert taken.tensors == taken.of == 120 + 121 * 4  # convolutions; weight, bias, mean and variance of normalisations
    assert torch.equal(
        own.network.get_parameter("features.denseblock4.denselayer16.layers.conv2.weight"),
        theirs.network.get_parameter("features.denseblock4.denselayer16.layers.conv2.weight"),
    )


def test_inception_takes_a_file_with_its_auxiliary_classifier() -> None:
    theirs, own = ImageEncoder("inception-v3", 2, 3), ImageEncoder("inception-v3", 2, 1)
    extra = {"AuxLogits.conv0.conv.weight": torch.zeros(128, 768, 1, 1), "fc.weight": torch.zeros(1000, 2048)}
    taken = own.take({**weights_of(theirs.network), **extra})
    assert taken.tensors == taken.of == 94 * 5 and taken.adapted == "3 channels to 1"
    assert ENCODERS["inception-v3"].nonnegative
