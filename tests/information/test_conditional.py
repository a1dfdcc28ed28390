from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.distributions import Normal

from comodal.information import bounds
from comodal.information.closed import correlated_gaussians, gaussian_club, gaussian_correlation, gaussian_information
from comodal.information.conditional import ConditionalGaussian


def network(seed: int = 0, limit: float = 5.0) -> ConditionalGaussian:
    torch.manual_seed(seed)
    return ConditionalGaussian(3, 2, hidden=(8,), limit=limit).double()


def batch(seed: int, x: int, y: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    one, other = (torch.randn(n, d, generator=generator, dtype=torch.float64) for n, d in ((x, 3), (y, 2)))
    return one, other


def exact(rho: float, dimensions: int) -> ConditionalGaussian:
    """p(y | x) of the pair of `closed`, N(rho x, 1 - rho^2), as weights: x = relu(x) - relu(-x)."""
    q = ConditionalGaussian(dimensions, dimensions, hidden=(2 * dimensions,)).double()
    eye = torch.eye(dimensions, dtype=torch.float64)
    with torch.no_grad():
        for layer in (*q.mean, *q.log_variance):
            if isinstance(layer, nn.Linear):
                layer.weight.zero_()
                layer.bias.zero_()
        first, last, variance = q.mean[0], q.mean[-1], q.log_variance[-1]
        assert isinstance(first, nn.Linear) and isinstance(last, nn.Linear) and isinstance(variance, nn.Linear)
        first.weight.copy_(torch.cat([eye, -eye]))
        last.weight.copy_(rho * torch.cat([eye, -eye], dim=1))
        variance.bias.fill_(q.limit * math.atanh(math.log1p(-(rho**2)) / q.limit))
    return q


def pairs(n: int, information: float, dimensions: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    x, y = correlated_gaussians(n, information, dimensions, generator=torch.Generator().manual_seed(seed))
    return x.double(), y.double()


def club_and_leave_one_out(q: ConditionalGaussian, x: Tensor, y: Tensor) -> Tensor:
    """(2,)."""
    scores = q.scores(x, y)
    turned = scores.columns()
    club = bounds.club(scores.joint, scores.marginal, scores.negative)
    return torch.stack([club, bounds.leave_one_out(turned.joint, turned.marginal, turned.negative)])


def of_batches(q: ConditionalGaussian, x: Tensor, y: Tensor, *, k: int) -> NDArray[np.float64]:
    """CLUB and leave-one-out of each batch of k, (batches, 2)."""
    found = torch.vmap(lambda a, b: club_and_leave_one_out(q, a, b))(x.view(-1, k, x.shape[1]), y.view(-1, k, y.shape[1]))
    return np.asarray(found.numpy())


# -------------------------------------------------------------------------------------------------------------- densities


def test_log_density_is_that_of_torch() -> None:
    q, (x, y) = network(), batch(0, 7, 7)
    mean, log_variance = q(x)
    assert mean.shape == log_variance.shape == (7, 2)
    expected = Normal(mean, (0.5 * log_variance).exp()).log_prob(y).sum(-1)
    torch.testing.assert_close(q.log_density(x, y), expected, rtol=1e-12, atol=1e-12)


@torch.no_grad()
def test_all_pairs_is_that_of_torch_and_knows_x_from_y() -> None:
    q, (x, y) = network(), batch(1, 5, 7)
    found = q.all_pairs(x, y)
    assert found.shape == (5, 7)
    for i in range(5):
        mean, log_variance = q(x[i])
        for j in range(7):
            expected = Normal(mean, (0.5 * log_variance).exp()).log_prob(y[j]).sum()
            assert float(found[i, j]) == pytest.approx(float(expected), abs=1e-12)


@torch.no_grad()
def test_the_diagonal_is_the_density_of_pairs() -> None:
    q, (x, y) = network(2), batch(2, 6, 6)
    torch.testing.assert_close(q.all_pairs(x, y).diagonal(), q.log_density(x, y), rtol=0, atol=1e-12)
    scores = q.scores(x, y)
    torch.testing.assert_close(scores.joint, q.log_density(x, y), rtol=0, atol=1e-12)
    assert torch.equal(scores.negative, ~torch.eye(6, dtype=torch.bool)) and scores.candidates == 6


@torch.no_grad()
def test_float32_is_exact_enough_for_standardised_features() -> None:
    q, (x, y) = network(3), batch(3, 50, 60)
    precise = q.all_pairs(x, y)
    found = q.float().all_pairs(x.float(), y.float())
    assert found.dtype == torch.float32
    torch.testing.assert_close(found.double(), precise, rtol=1e-5, atol=1e-4)


@torch.no_grad()
def test_a_density_integrates_to_1() -> None:
    q = network(4)
    grid = torch.linspace(-40, 40, 801, dtype=torch.float64)
    y = torch.cartesian_prod(grid, grid)
    mass = q.all_pairs(batch(4, 3, 1)[0], y).exp().sum(1) * 0.1**2
    assert mass.tolist() == pytest.approx([1.0] * 3, abs=1e-9)


@pytest.mark.parametrize("limit", [1.0, 5.0])
@torch.no_grad()
def test_the_log_variance_is_confined_softly(limit: float) -> None:
    q = network(5, limit)
    raw, bias = torch.linspace(-1e3, 1e3, 401, dtype=torch.float64), q.log_variance[-1]
    assert isinstance(bias, nn.Linear)
    bias.weight.zero_()
    found = []
    for value in raw:
        bias.bias.fill_(float(value))
        found.append(float(q(torch.zeros(3, dtype=torch.float64))[1][0]))
    assert all(later >= earlier for earlier, later in pairwise(found))
    assert found[0] == pytest.approx(-limit) and found[-1] == pytest.approx(limit) and max(map(abs, found)) <= limit
    assert found[200] == 0.0
    bias.bias.fill_(0.01 * limit)  # in the middle it is left as it is
    assert float(q(torch.zeros(3, dtype=torch.float64))[1][0]) == pytest.approx(0.01 * limit, rel=1e-4)


@torch.no_grad()
def test_extreme_features_give_finite_densities() -> None:
    q, (x, y) = network(6), batch(6, 4, 4)
    assert q.all_pairs(1e6 * x, y).isfinite().all() and q.log_density(1e6 * x, 1e6 * y).isfinite().all()


# ----------------------------------------------------------------------------------------------------------- upper bounds


@torch.no_grad()
def test_a_density_that_ignores_x_reads_nothing() -> None:
    q, (x, y) = network(7), batch(7, 16, 16)
    for side in (q.mean, q.log_variance):
        last = side[-1]
        assert isinstance(last, nn.Linear)
        last.weight.zero_()
    assert club_and_leave_one_out(q, x, y).tolist() == pytest.approx([0.0, 0.0], abs=1e-12)


@torch.no_grad()
@pytest.mark.parametrize(("rho", "dimensions"), [(0.3, 1), (0.9, 1), (0.6, 3)])
def test_exact_club_is_the_closed_form_and_above_the_information(rho: float, dimensions: int) -> None:
    q, information = exact(rho, dimensions), gaussian_information(rho, dimensions)
    x, y = pairs(64 * 300, information, dimensions)
    found = of_batches(q, x, y, k=64)[:, 0]
    error = float(found.std(ddof=1)) / math.sqrt(len(found))
    assert abs(found.mean() - gaussian_club(rho, dimensions)) < 3 * error
    assert found.mean() - 3 * error > information


@torch.no_grad()
def test_exact_weights_are_the_conditional() -> None:
    q, (x, y) = exact(0.6, 3), pairs(9, 1.0, 3)
    expected = Normal(0.6 * x, math.sqrt(1 - 0.6**2)).log_prob(y).sum(-1)
    torch.testing.assert_close(q.log_density(x, y), expected, rtol=0, atol=1e-12)


@torch.no_grad()
@pytest.mark.parametrize(("information", "dimensions"), [(0.1, 1), (1.0, 1), (2.0, 4)])
def test_leave_one_out_tightens_from_club_to_the_information(information: float, dimensions: int) -> None:
    q = exact(gaussian_correlation(information, dimensions), dimensions)
    x, y = pairs(16_384, information, dimensions)
    means, errors = [], []
    for k in (2, 4, 16, 64, 256):
        found = of_batches(q, x, y, k=k)
        if k == 2:  # one other x: the mean of one density is that density
            np.testing.assert_allclose(found[:, 0], found[:, 1], rtol=0, atol=1e-10)
        means.append(float(found[:, 1].mean()))
        errors.append(float(found[:, 1].std(ddof=1)) / math.sqrt(len(found)))
    club = gaussian_club(gaussian_correlation(information, dimensions), dimensions)
    assert all(later < earlier for earlier, later in pairwise(means))
    assert all(information - 3 * error < mean < club + 3 * error for mean, error in zip(means, errors, strict=True))
    assert means[-1] == pytest.approx(information, abs=0.1) and means[0] == pytest.approx(club, abs=3 * errors[0])


def test_a_fitted_density_reads_close_to_the_exact_one() -> None:
    torch.manual_seed(0)
    q = ConditionalGaussian(1, 1, hidden=(16,))
    optimiser = torch.optim.Adam(q.parameters(), lr=1e-2)
    generator = torch.Generator().manual_seed(0)
    for _ in range(300):
        x, y = correlated_gaussians(128, gaussian_information(0.7), 1, generator=generator)
        optimiser.zero_grad()
        (-q.log_density(x, y).mean()).backward()
        optimiser.step()
    x, y = correlated_gaussians(1024, gaussian_information(0.7), 1, generator=generator)
    with torch.no_grad():
        club, leave_one_out = club_and_leave_one_out(q, x, y).tolist()
    assert club == pytest.approx(gaussian_club(0.7), rel=0.15)
    assert leave_one_out == pytest.approx(gaussian_information(0.7), abs=0.06) and leave_one_out < club


# -------------------------------------------------------------------------------------------------------------- gradients


def test_gradients_by_finite_differences() -> None:
    q, (x, y) = network(8), batch(8, 4, 4)
    given = (x.requires_grad_(), y.requires_grad_())
    assert torch.autograd.gradcheck(q.all_pairs, given)
    assert torch.autograd.gradcheck(q.log_density, given)


def test_both_forms_have_one_gradient() -> None:
    q, (x, y) = network(9), batch(9, 6, 6)
    given = (x.requires_grad_(), y.requires_grad_(), *q.parameters())
    one = torch.autograd.grad(q.log_density(x, y).mean(), given)
    other = torch.autograd.grad(q.all_pairs(x, y).diagonal().mean(), given)
    for found, expected in zip(other, one, strict=True):
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)
        assert expected.any()


def test_minimising_club_makes_an_encoder_forget() -> None:
    """q frozen: the gradient goes to what is encoded, and a step against it lowers the bound."""
    q = exact(0.8, 1).requires_grad_(requires_grad=False)
    x, y = pairs(256, gaussian_information(0.8), 1)
    scale = torch.ones((), dtype=torch.float64, requires_grad=True)
    scores = q.scores(scale * x, y)
    value = bounds.club(scores.joint, scores.marginal, scores.negative)
    value.backward()
    assert scale.grad is not None and float(scale.grad) > 0
    assert float(club_and_leave_one_out(q, 0.5 * x, y)[0]) < float(value.detach())
