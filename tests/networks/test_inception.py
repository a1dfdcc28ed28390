"""InceptionV3 has the parameters, the names and the sizes of the public one."""

from __future__ import annotations

import pytest
import torch

from comodal.networks.inception import FEATURES, LEAST, InceptionV3

# of torchvision's inception_v3, from its published state dict: names and shapes of one parameter of each kind of block
PUBLIC = {
    "Conv2d_1a_3x3.conv.weight": (32, 3, 3, 3),
    "Conv2d_4a_3x3.bn.running_var": (192,),
    "Mixed_5b.branch5x5_2.conv.weight": (64, 48, 5, 5),
    "Mixed_5b.branch_pool.conv.weight": (32, 192, 1, 1),
    "Mixed_5d.branch_pool.bn.bias": (64,),
    "Mixed_6a.branch3x3.conv.weight": (384, 288, 3, 3),
    "Mixed_6b.branch7x7_2.conv.weight": (128, 128, 1, 7),
    "Mixed_6c.branch7x7dbl_5.conv.weight": (192, 160, 1, 7),
    "Mixed_6e.branch7x7_3.conv.weight": (192, 192, 7, 1),
    "Mixed_7a.branch7x7x3_4.conv.weight": (192, 192, 3, 3),
    "Mixed_7b.branch3x3dbl_3b.conv.weight": (384, 384, 3, 1),
    "Mixed_7c.branch1x1.conv.weight": (320, 2048, 1, 1),
}


def test_parameters_are_those_of_the_public_network() -> None:
    network = InceptionV3()
    # torchvision's has 23 834 568 without its auxiliary classifier, of which its last layer has 2048 x 1000 + 1000
    assert sum(p.numel() for p in network.parameters()) == 23_834_568 - 2_049_000
    state = network.state_dict()
    assert {name: tuple(state[name].shape) for name in PUBLIC} == PUBLIC
    assert sum(name.endswith("conv.weight") for name in state) == 94  # 94 convolutions, each with its normalisation
    assert len(state) == 94 * 6 and all(name.split(".")[0].startswith(("Conv2d_", "Mixed_")) for name in state)


def test_maps_have_the_sizes_of_the_paper() -> None:
    """Table 1 of Szegedy et al. (2016): 35 x 35 x 288, 17 x 17 x 768, 8 x 8 x 2048 of a picture of 299 x 299."""
    network, shapes = InceptionV3().eval(), {}
    for name in ("Mixed_5d", "Mixed_6e", "Mixed_7c"):
        network.get_submodule(name).register_forward_hook(lambda _, __, out, name=name: shapes.update({name: tuple(out.shape)}))
    with torch.no_grad():
        found = network(torch.randn(1, 3, 299, 299))
    assert shapes == {"Mixed_5d": (1, 288, 35, 35), "Mixed_6e": (1, 768, 17, 17), "Mixed_7c": (1, 2048, 8, 8)}
    assert found.shape == (1, FEATURES) and float(found.min()) >= 0


def test_the_least_picture() -> None:
    network = InceptionV3(1).eval()
    with torch.no_grad():
        assert network(torch.randn(1, 1, LEAST, LEAST)).shape == (1, FEATURES)
        with pytest.raises(RuntimeError):
            network(torch.randn(1, 1, LEAST - 1, LEAST - 1))
