"""U-Nets: the size that nnU-Net states, shapes in 2-D and 3-D, and patches that cannot be halved often enough."""

from __future__ import annotations

import pytest
import torch

from comodal.errors import ConfigError
from comodal.method import Problem
from comodal.modality import Modality, Target
from comodal.networks.unet import EarlyFusionUNet, UNetKind, build_unet, logits_and_maps
from comodal.testing import make_batch, poison

WT = Target("seg", "regions", ("WT", "TC"))


def problem(patch: tuple[int, ...], *names: str) -> Problem:
    return Problem(tuple(Modality(n) for n in names or ("t1", "t2")), (WT,), len(patch), patch)


def test_the_plain_network_has_the_size_of_nnunet() -> None:
    with torch.device("meta"):  # shapes without memory
        network = build_unet(3, 4, 3, kind="nnunet", width=32, levels=6)
    assert sum(p.numel() for p in network.parameters()) == 31_192_035


def test_filters_double_up_to_320_in_3d_and_512_in_2d() -> None:
    with torch.device("meta"):
        deep = {d: build_unet(d, 1, 1, kind="nnunet", width=32, levels=7) for d in (2, 3)}
    assert max(p.shape[0] for p in deep[3].parameters()) == 320
    assert max(p.shape[0] for p in deep[2].parameters()) == 512


@pytest.mark.parametrize("kind", ["residual", "nnunet"])
@pytest.mark.parametrize("shape", [(16, 8), (8, 16, 8)])
def test_logits_have_the_shape_of_the_input(kind: UNetKind, shape: tuple[int, ...]) -> None:
    network = build_unet(len(shape), 3, 2, kind=kind, width=2, levels=3)
    assert network(torch.zeros(1, 3, *shape)).shape == (1, 2, *shape)


@pytest.mark.parametrize("kind", ["residual", "nnunet"])
def test_every_parameter_learns(kind: UNetKind) -> None:
    network = build_unet(2, 1, 1, kind=kind, width=2, levels=3)
    network(torch.rand(2, 1, 16, 16)).square().sum().backward()
    assert all(p.grad is not None for p in network.parameters())


@pytest.mark.parametrize(("patch", "levels"), [((20, 16), 4), ((8, 8), 4), ((4, 4, 7), 2), ((16, 16, 1), 3)])
def test_a_patch_that_cannot_be_halved_is_refused_with_what_would_do(patch: tuple[int, ...], levels: int) -> None:
    step = 2 ** (levels - 1)
    with pytest.raises(ConfigError) as caught:
        EarlyFusionUNet(problem(patch), kind="residual", width=2, levels=levels)
    assert str(caught.value) == (
        f"data.patch must have sides divisible by {step} and of at least {2 * step} for a U-Net of {levels} levels; "
        f"got {patch}. Change data.patch or lower method.levels."
    )


def test_images_that_are_not_registered_cannot_be_channels_of_one_network() -> None:
    two = Problem((Modality("t1"), Modality("photo", spatial_dims=2, grid="photo")), (WT,), 2, (8, 8))
    with pytest.raises(ConfigError, match=r"data.modalities must share the grid grid for a U-Net .*; got photo on another\."):
        EarlyFusionUNet(two, kind="residual", width=2, levels=2)


def test_nnunet_has_at_least_three_levels() -> None:
    with pytest.raises(
        ConfigError, match=r"method.levels must be at least 3 for nnU-Net's network; got 2. Raise method.levels"
    ):
        EarlyFusionUNet(problem((8, 8)), kind="nnunet", width=2, levels=2)


def test_a_problem_without_images_is_refused() -> None:
    text = Problem((Modality("report", kind="text", spatial_dims=0),), (WT,), 2, (8, 8), vocabulary=8)
    with pytest.raises(ConfigError, match=r"data.modalities must have an image for a U-Net; got \('report',\). Add an image"):
        EarlyFusionUNet(text, kind="residual", width=2, levels=2)


def test_images_are_concatenated_in_canonical_order_and_an_absent_one_is_zero() -> None:
    network = EarlyFusionUNet(problem((8, 8)), kind="residual", width=2, levels=2)
    seen: list[torch.Tensor] = []
    network.network.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    present = torch.tensor([[True, False], [True, True]])
    batch = make_batch(problem((8, 8)), 2, present=present)
    network(poison(batch))
    assert torch.equal(seen[0][:, 0:1], batch.image("t1"))
    assert torch.equal(seen[0][1, 1:2], batch.image("t2")[1])
    assert seen[0][0, 1].abs().sum() == 0


def test_what_is_not_an_image_is_not_read() -> None:
    modalities = (Modality("report", kind="text", spatial_dims=0), Modality("scan", spatial_dims=2, channels=3))
    mixed = Problem(modalities, (WT, Target("grade", "class", ("low", "high"))), 2, (8, 8), vocabulary=8)
    network = EarlyFusionUNet(mixed, kind="residual", width=2, levels=2)
    assert network.images == ("scan",)
    assert network(make_batch(mixed, 2)).shape == (2, 2, 8, 8)  # only the regions have logits


@pytest.mark.parametrize("shape", [(16, 8), (8, 16, 8)])
@pytest.mark.parametrize(("kind", "sides"), [("residual", (2, 4, 4)), ("nnunet", (1, 2, 4))])
def test_maps_of_the_encoder_come_with_the_same_logits(kind: UNetKind, sides: tuple[int, ...], shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    network = build_unet(len(shape), 3, 2, kind=kind, width=2, levels=3)
    image = torch.rand(2, 3, *shape)
    logits, maps = logits_and_maps(network, image)
    assert torch.equal(logits, network(image))
    assert [m.shape for m in maps] == [(2, 2 * 2**k, *(side // by for side in shape)) for k, by in enumerate(sides)]
