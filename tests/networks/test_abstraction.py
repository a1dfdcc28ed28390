"""Moments over the available modalities: by hand, against a slow loop, and where a naive formula breaks."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor, nn

from comodal.errors import ConfigError
from comodal.method import Problem
from comodal.modality import Modality, Target
from comodal.networks.abstraction import encode_present, moments
from comodal.testing import make_batch, poison

NAMES = ("flair", "t1", "t1ce", "t2")
MIXED = torch.tensor([[True, True, True, True], [False, True, False, True], [True, False, False, False]])


def some(shape: tuple[int, ...] = (3, 2, 4, 5), *, seed: int = 0, dtype: torch.dtype = torch.float64) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {name: torch.randn(shape, generator=generator, dtype=dtype) for name in NAMES}


def poisoned(features: dict[str, Tensor], present: Tensor) -> dict[str, Tensor]:
    out = {name: value.clone() for name, value in features.items()}
    for column, name in enumerate(NAMES):
        out[name][~present[:, column]] = float("nan")
    return out


@pytest.mark.parametrize("unbiased", [False, True])
@pytest.mark.parametrize("spatial", [(4, 5), (2, 3, 4), ()])
def test_it_is_torch_of_what_each_row_has(spatial: tuple[int, ...], unbiased: bool) -> None:
    features = some((3, 2, *spatial))
    found = moments(poisoned(features, MIXED), MIXED, NAMES, unbiased=unbiased)
    assert found.shape == (3, 4, *spatial)
    for row, bits in enumerate(MIXED.tolist()):
        stack = torch.stack([features[name][row] for name, bit in zip(NAMES, bits, strict=True) if bit])
        spread = torch.zeros_like(stack[0]) if len(stack) == 1 else stack.var(dim=0, correction=int(unbiased))
        assert torch.allclose(found[row], torch.cat([stack.mean(dim=0), spread]), atol=1e-12)


def test_by_hand() -> None:
    features = {"a": torch.tensor([[1.0]]), "b": torch.tensor([[2.0]]), "c": torch.tensor([[6.0]])}
    have = torch.ones((1, 3), dtype=torch.bool)
    assert moments(features, have, "abc").tolist() == [[3.0, pytest.approx((4 + 1 + 9) / 3)]]
    assert moments(features, have, "abc", unbiased=True).tolist() == [[3.0, 7.0]]


@pytest.mark.parametrize("unbiased", [False, True])
@pytest.mark.parametrize("alone", [True, False], ids=["every row", "beside others"])
def test_one_modality_has_no_variance_and_no_gradient_through_it(alone: bool, unbiased: bool) -> None:
    present = torch.tensor([[False, True, False, False], [False, True, False, False] if alone else [True, True, False, True]])
    features = {name: value.requires_grad_() for name, value in poisoned(some((2, 3, 4, 4)), present).items()}
    found = moments(features, present, NAMES, unbiased=unbiased)
    assert torch.equal(found[0, :3], features["t1"][0])
    assert found[0, 3:].eq(0).all()
    found[:, 3:].pow(2).sum().add(found[0, 3:].sum()).backward()
    for name, value in features.items():
        gradient = value.grad if value.grad is not None else torch.zeros_like(value)
        assert torch.isfinite(gradient).all(), name
        assert gradient[0].eq(0).all(), name
    assert alone or bool(features["t1"].grad is not None and features["t1"].grad[1].abs().sum() > 0)


def test_the_trap_of_torch_is_real() -> None:
    """What ivadomed's HeMISUnet computes: the unbiased variance of one modality is not a number."""
    with pytest.warns(UserWarning, match="degrees of freedom"):
        assert torch.randn(1, 4).var(0).isnan().all()


@pytest.mark.parametrize("unbiased", [False, True])
def test_two_copies_are_as_one_without_variance(unbiased: bool) -> None:
    value = torch.randn(2, 3, 4, 4)
    have = torch.ones((2, 2), dtype=torch.bool)
    found = moments({"a": value, "b": value.clone()}, have, "ab", unbiased=unbiased)
    assert torch.equal(found, torch.cat([value, torch.zeros_like(value)], dim=1))


def test_large_features_do_not_make_the_variance_negative() -> None:
    features = {name: 1e4 + 1e-2 * value for name, value in some((2, 3, 16, 16), dtype=torch.float32).items()}
    stack = torch.stack(list(features.values()))
    naive = stack.square().mean(dim=0) - stack.mean(dim=0).square()
    assert naive.min() < 0  # so the two passes are needed
    have = torch.ones((2, 4), dtype=torch.bool)
    spread = moments(features, have, NAMES)[:, 3:]
    assert spread.min() >= 0
    assert torch.allclose(spread, stack.double().var(dim=0, correction=0).float(), rtol=0.3, atol=1e-6)


def test_nothing_absent_is_read_in_value_or_gradient() -> None:
    found = []
    for make in (lambda f: f, lambda f: poisoned(f, MIXED)):
        features = {name: value.requires_grad_() for name, value in make(some(dtype=torch.float32)).items()}
        out = moments(features, MIXED, NAMES)
        out.square().sum().backward()
        found.append([out.detach(), *[value.grad for value in features.values() if value.grad is not None]])
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))
    for column, gradient in enumerate(found[1][1:]):
        assert gradient[~MIXED[:, column]].eq(0).all()


@pytest.mark.parametrize("unbiased", [False, True])
def test_gradients_agree_with_differences(unbiased: bool) -> None:
    values = [value.requires_grad_() for value in some((3, 1, 2)).values()]
    assert torch.autograd.gradcheck(
        lambda *v: moments(dict(zip(NAMES, v, strict=True)), MIXED, NAMES, unbiased=unbiased), values
    )


def test_the_order_of_the_mapping_does_not_matter() -> None:
    features = some(dtype=torch.float32)
    first = moments(features, MIXED, NAMES)
    for order in itertools.permutations(NAMES):
        assert torch.equal(first, moments({name: features[name] for name in order}, MIXED, NAMES))
        columns = [NAMES.index(name) for name in order]
        assert torch.allclose(first, moments(features, MIXED[:, columns], order), atol=1e-6)


def test_features_may_lack_what_no_row_has() -> None:
    features = some()
    two = torch.tensor([[False, True, False, True]]).expand(3, 4)
    less = {name: features[name] for name in ("t1", "t2")}
    assert torch.equal(moments(features, two, NAMES), moments(less, two, NAMES))


def test_features_that_a_row_has_may_not_lack() -> None:
    with pytest.raises(ConfigError, match=r"features must have each modality .*; got \('t1',\) \[modality flair, t1ce, t2\]"):
        moments({"t1": some()["t1"]}, MIXED, NAMES)
    with pytest.raises(ConfigError, match="features must have each modality that some row has, and at least one"):
        moments(some(), torch.zeros_like(MIXED), NAMES)


def test_half_precision_is_summed_in_single() -> None:
    features = {name: 300 * value for name, value in some(dtype=torch.float32).items()}
    half = {name: value.half() for name, value in features.items()}
    found = moments(half, MIXED, NAMES)
    assert found.dtype == torch.float32
    assert torch.allclose(found, moments({n: v.float() for n, v in half.items()}, MIXED, NAMES))
    assert torch.isfinite(found).all() and found.max() > 65504  # more than float16 holds


# ------------------------------------------------------------------------------------- encode_present
def problem(patch: tuple[int, ...]) -> Problem:
    return Problem(tuple(Modality(name) for name in NAMES), (Target("seg", "regions", ("WT",)),), len(patch), patch)


@pytest.mark.parametrize("patch", [(6, 6), (4, 4, 4)])
def test_each_image_is_encoded_where_it_is(patch: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    conv = nn.Conv2d if len(patch) == 2 else nn.Conv3d
    encoders = nn.ModuleDict({name: conv(1, 2, 3, padding=1) for name in NAMES})
    batch = make_batch(problem(patch), 3, present=MIXED.clone().logical_and(torch.tensor([True, True, False, True])))
    found = encode_present(poison(batch), encoders)
    assert list(found) == ["flair", "t1", "t2"]  # no row has t1ce
    for name, value in found.items():
        have = batch.is_present(name)
        assert isinstance(value, Tensor) and torch.isfinite(value).all()
        assert torch.allclose(value[have], encoders[name](batch.image(name))[have], atol=1e-6)


def test_encoders_with_several_scales_are_spread_over_the_rows_too() -> None:
    class Two(nn.Module):
        def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
            seen.append(len(image))
            return image, image[..., ::2]

    seen: list[int] = []
    batch = make_batch(problem((4, 4)), 3, present=MIXED)
    found = encode_present(batch, nn.ModuleDict({"flair": Two(), "t1ce": Two()}))
    assert seen == [2, 1]
    assert all(isinstance(value, tuple) and [len(part) for part in value] == [3, 3] for value in found.values())
    assert torch.equal(found["flair"][0], batch.image("flair"))
    assert torch.equal(found["t1ce"][1], batch.image("t1ce")[..., ::2])
