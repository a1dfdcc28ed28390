"""G: the published sizes, losses as loops, moments as numpy's, what absent numbers must not do."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from comodal.method import MethodConfig, Problem
from comodal.modality import Modality, Target
from comodal.networks.classification import ClassHeads
from comodal.networks.guide import (
    Guide,
    GuideSet,
    Moments,
    changes,
    cosine_distance,
    gaussian_nll,
    guide_sizes,
    guide_terms,
    logit_distance,
    shrunk,
    squared_error,
)
from comodal.networks.latents import EncoderConfig, Latents

NAN = float("nan")
TARGETS = (Target("dx", "class", ("a", "b", "c")), Target("signs", "multilabel", ("x", "y")))


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def linears(network: nn.Module) -> list[tuple[int, int]]:
    return [(m.in_features, m.out_features) for m in network.modules() if isinstance(m, nn.Linear)]


@pytest.mark.parametrize(
    ("inferior", "superior", "layers"),
    [
        (1024, 512, [(1024, 512), (512, 256), (256, 256), (256, 512)]),  # RadPath: 1024 -> 512 -> 256 -> 256 -> 512
        (2048, 2048, [(2048, 1024), (1024, 512), (512, 512), (512, 1024), (1024, 2048)]),  # Derm7pt
    ],
)
def test_the_published_networks(inferior: int, superior: int, layers: list[tuple[int, int]]) -> None:
    guide = Guide(inferior, superior)
    assert linears(guide) == layers
    assert [m.p for m in guide.modules() if isinstance(m, nn.Dropout)] == [0.25] * (len(layers) - 1)
    assert float(guide.eval()(torch.randn(5, inferior))[0].detach().min()) >= 0  # ReLU on the output, too


@pytest.mark.parametrize(
    ("inferior", "superior", "narrow"), [(64, 32, None), (64, 32, 48), (3, 7, None), (1, 1, None), (16, 512, 2)]
)
def test_any_sizes(inferior: int, superior: int, narrow: int | None) -> None:
    sizes = guide_sizes(inferior, superior, narrow)
    assert min(sizes) == (narrow or max(1, inferior // 4))
    assert sizes.count(min(sizes)) >= 2
    assert all(size < max(inferior, superior, min(sizes) + 1) for size in sizes)


def test_squared_error_is_a_mean_over_what_is_known() -> None:
    estimate, truth = drawn(3, 4), drawn(3, 4, seed=1)
    known = torch.tensor([[1, 1, 1, 1], [1, 0, 1, 0], [0, 0, 0, 0]], dtype=torch.bool)
    truth[~known] = NAN
    scale = torch.tensor([1.0, 2.0, 4.0, 0.5], dtype=torch.float64)
    at = known.nonzero().tolist()
    plain = [(float(estimate[i, j]) - float(truth[i, j])) ** 2 for i, j in at]
    assert float(squared_error(estimate, truth, known)) == pytest.approx(sum(plain) / len(plain))
    scaled = [value / float(scale[j]) for value, (_, j) in zip(plain, at, strict=True)]
    assert float(squared_error(estimate, truth, known, scale=scale)) == pytest.approx(sum(scaled) / len(scaled))


def test_cosine_counts_whole_rows() -> None:
    estimate, truth = drawn(3, 4), drawn(3, 4, seed=1)
    known = torch.tensor([[1, 1, 1, 1], [1, 0, 1, 0], [1, 1, 1, 1]], dtype=torch.bool)
    truth[~known] = NAN
    each = [
        1 - float(estimate[i] @ truth[i]) / math.sqrt(float(estimate[i] @ estimate[i]) * float(truth[i] @ truth[i]))
        for i in (0, 2)
    ]
    assert float(cosine_distance(estimate, truth, known)) == pytest.approx(sum(each) / 2)


def test_the_likelihood_is_that_of_a_normal() -> None:
    estimate, log_variance, truth = drawn(2, 3), drawn(2, 3, seed=1), drawn(2, 3, seed=2)
    known = torch.tensor([[1, 1, 1], [1, 0, 1]], dtype=torch.bool)
    exact = -torch.distributions.Normal(estimate, (0.5 * log_variance).exp()).log_prob(truth) - 0.5 * math.log(2 * math.pi)
    wanted = float(exact[known].mean())
    truth[~known] = NAN
    assert float(gaussian_nll(estimate, log_variance, truth, known=known)) == pytest.approx(wanted)


def test_logits_are_compared_by_their_divergence() -> None:
    guessed = {"dx": drawn(3, 3), "signs": drawn(3, 2, seed=1)}
    taught = {"dx": drawn(3, 3, seed=2), "signs": drawn(3, 2, seed=3)}
    rows = torch.tensor([True, False, True])
    total = 0.0
    for i in (0, 2):
        p, q = taught["dx"][i].softmax(0), guessed["dx"][i].softmax(0)
        total += 0.5 * float((p * (p / q).log()).sum()) / 2
        for j in range(2):
            a, b = float(taught["signs"][i, j].sigmoid()), float(guessed["signs"][i, j].sigmoid())
            total += 0.5 * (a * math.log(a / b) + (1 - a) * math.log((1 - a) / (1 - b))) / 4
    assert float(logit_distance(guessed, taught, TARGETS, rows=rows)) == pytest.approx(total, rel=1e-4)
    assert float(logit_distance(taught, taught, TARGETS, rows=rows)) == pytest.approx(0.0, abs=1e-6)


@pytest.mark.parametrize("loss", ["mse", "cosine", "heteroscedastic", "logits"])
def test_gradients_and_rows_without_a_truth(loss: str) -> None:
    head = ClassHeads(TARGETS, 4).double()
    estimate = drawn(3, 4).requires_grad_()
    log_variance = drawn(3, 4, seed=1).requires_grad_()
    truth, known = drawn(3, 4, seed=2), torch.tensor([[True] * 4, [False] * 4, [True] * 4])
    truth[1] = NAN

    def value(own: Tensor, spread: Tensor) -> Tensor:
        terms = guide_terms({loss: 2.0}, (own, spread), truth, known=known, scale=None, head=head)  # type: ignore[dict-item]
        assert list(terms) == [loss]
        return terms[loss]

    if loss != "logits":  # which is computed in float32
        assert torch.autograd.gradcheck(value, (estimate, log_variance))
    (gradient,) = torch.autograd.grad(value(estimate, log_variance), estimate)
    assert bool((gradient[1] == 0).all())
    assert float(gradient[0].abs().sum()) > 0
    nobody = torch.zeros_like(known)
    terms = guide_terms({loss: 1.0}, (estimate, log_variance), torch.full_like(truth, NAN), known=nobody, scale=None, head=head)  # type: ignore[dict-item]
    assert float(terms[loss].detach()) == 0.0


def test_moments_are_those_of_all_vectors() -> None:
    vectors, moments = drawn(40, 3).float() * torch.tensor([1.0, 5.0, 0.0]) + 2, Moments(3)
    for part in vectors.split([7, 1, 20, 12]):
        moments.update(part, torch.ones_like(part, dtype=torch.bool))
    nothing = torch.full((2, 3), NAN)
    moments.update(nothing, torch.zeros_like(nothing, dtype=torch.bool))
    assert np.allclose(moments.mean.numpy(), vectors.mean(0), atol=1e-5)
    assert np.allclose(moments.variance.numpy(), vectors.numpy().var(0), atol=1e-4)
    assert moments.alive.tolist() == [True, True, False]


def test_moments_of_numbers_that_only_some_rows_have_are_those_of_these_rows() -> None:
    """Of two superior modalities a case may have one: its columns alone are known."""
    vectors, moments = drawn(40, 3).float() * torch.tensor([1.0, 5.0, 2.0]) + 2, Moments(3)
    known = torch.ones(40, 3, dtype=torch.bool)
    known[::2, 2] = False
    for part, mask in zip(vectors.split(8), known.split(8), strict=True):
        moments.update(torch.where(mask, part, NAN), mask)
    have = vectors[1::2, 2].numpy()
    assert moments.mean.tolist() == pytest.approx([*vectors[:, :2].mean(0).tolist(), have.mean()], abs=1e-5)
    assert moments.variance.tolist() == pytest.approx([*vectors[:, :2].numpy().var(0).tolist(), have.var()], rel=1e-4)
    before, mask = (moments.mean[2].clone(), moments.variance[2].clone()), known.clone()
    mask[:, 2] = False
    moments.update(vectors, mask)  # a batch in which nobody has it
    assert [float(moments.mean[2]), float(moments.variance[2])] == pytest.approx([float(v) for v in before], rel=1e-5)


def test_a_silent_number_does_not_outweigh_the_others() -> None:
    moments = Moments(3)
    assert moments.scale.tolist() == [1.0, 1.0, 1.0]
    moments.update(torch.tensor([[0.0, 0.0, 0.0], [2.0, 4.0, 0.0]]), torch.ones(2, 3, dtype=torch.bool))  # variances 1, 4, 0
    assert moments.scale.tolist() == pytest.approx([1.0, 4.0, 0.01 * 5 / 3])


def test_a_latent_like_those_seen_is_at_distance_one() -> None:
    vectors, moments = drawn(4000, 50).float() * 3 + 1, Moments(50)
    assert moments.distance(vectors[:2]).tolist() == [0.0, 0.0]  # nothing was seen yet
    moments.update(vectors, torch.ones_like(vectors, dtype=torch.bool))
    assert float(moments.distance(vectors).square().mean()) == pytest.approx(1.0, abs=1e-3)
    assert float(moments.distance(moments.mean[None])) == pytest.approx(0.0, abs=1e-6)
    assert float(moments.distance(vectors[:1] + 30)) > 8


def test_an_estimate_is_shrunk_as_a_posterior_mean() -> None:
    moments = Moments(1)
    moments.update(torch.tensor([[0.0], [4.0]]), torch.ones(2, 1, dtype=torch.bool))  # mean 2, variance 4
    found = shrunk(torch.tensor([[6.0], [6.0], [6.0]]), torch.tensor([[-80.0], [math.log(4.0)], [80.0]]), moments)
    assert found.flatten().tolist() == pytest.approx([6.0, 4.0, 2.0])


def test_what_changed() -> None:
    before = {"dx": torch.tensor([[0.6, 0.4, 0.0], [0.1, 0.9, 0.0]]), "signs": torch.tensor([[0.4, 0.6], [0.4, 0.6]])}
    after = {"dx": torch.tensor([[0.4, 0.6, 0.0], [0.2, 0.8, 0.0]]), "signs": torch.tensor([[0.4, 0.6], [0.5, 0.6]])}
    found = changes(before, after, TARGETS)
    assert {name: value.tolist() for name, value in found.items()} == {"changed/dx": [1.0, 0.0], "changed/signs": [0.0, 1.0]}


def latents(*sizes: int) -> Latents:
    names = [f"m{i}" for i in range(len(sizes))]
    modalities = tuple(Modality(n, "features", 0, size) for n, size in zip(names, sizes, strict=True))
    config = EncoderConfig.model_validate({})
    assert isinstance(config, MethodConfig)
    return Latents(Problem(modalities, TARGETS), names, config)


def test_estimates_of_several_modalities_are_averaged() -> None:
    torch.manual_seed(0)
    guides = GuideSet(latents(3, 5), latents(4), each=True, dropout=0.0).eval()
    rows = torch.randn(3, 8)
    present = {"m0": torch.tensor([True, True, False]), "m1": torch.tensor([True, False, True])}
    found, spread = guides(rows, present)
    one, two = guides.guides["of_m0"](rows[:, :3])[0], guides.guides["of_m1"](rows[:, 3:])[0]
    assert spread is None
    assert torch.allclose(found, torch.stack([(one[0] + two[0]) / 2, one[1], two[2]]))
    assert bool((found < 0).any())  # vectors as they are may be negative, and so may estimates of them


def test_a_direction_gets_the_usual_length() -> None:
    guides = GuideSet(latents(3), latents(4), direction=True).eval()
    truth = torch.randn(50, 4) * 3
    guides.moments.update(truth, torch.ones_like(truth, dtype=torch.bool))
    found, _ = guides.estimate(torch.randn(6, 3), {"m0": torch.ones(6, dtype=torch.bool)})
    assert found.norm(dim=1).tolist() == pytest.approx([float(truth.square().sum(1).mean().sqrt())] * 6, rel=1e-4)
