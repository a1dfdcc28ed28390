from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.distributions import Normal, kl_divergence

from comodal.information.closed import gaussian_information
from comodal.information.variational import draw, kl_of_gaussians, kl_to_standard


def normal(seed: int, *shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_values_by_hand() -> None:
    mean, log_variance = torch.tensor([0.0, 2.0, 0.0, 1.0]), torch.tensor([0.0, 0.0, math.log(4.0), -math.log(2.0)])
    expected = [0.0, 2.0, 1.5 - math.log(2), 0.5 * (1 + 0.5 + math.log(2) - 1)]
    assert kl_to_standard(mean, log_variance).tolist() == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("spread", [0.01, 1.0, 4.0])
def test_divergences_are_those_of_torch(spread: float) -> None:
    mean, log_variance, other, other_variance = (spread * normal(seed, 3, 50) for seed in range(4))
    p, q = (Normal(m, (0.5 * v).exp()) for m, v in ((mean, log_variance), (other, other_variance)))
    found = kl_of_gaussians(mean, log_variance, other_mean=other, other_log_variance=other_variance)
    torch.testing.assert_close(found, kl_divergence(p, q), rtol=1e-9, atol=1e-15)
    standard = Normal(torch.zeros_like(mean), torch.ones_like(mean))
    assert kl_to_standard(mean, log_variance).shape == (3, 50)
    torch.testing.assert_close(kl_to_standard(mean, log_variance), kl_divergence(p, standard), rtol=1e-9, atol=1e-15)
    again = kl_of_gaussians(mean, log_variance, other_mean=torch.tensor(0.0), other_log_variance=torch.tensor(0.0))
    torch.testing.assert_close(again, kl_to_standard(mean, log_variance), rtol=1e-12, atol=0)


def test_the_other_is_broadcast() -> None:
    mean, log_variance, other, other_variance = normal(0, 4, 3), normal(1, 4, 3), normal(2, 3), normal(3, 1)
    found = kl_of_gaussians(mean, log_variance, other_mean=other, other_log_variance=other_variance)
    expected = kl_of_gaussians(
        mean, log_variance, other_mean=other.expand(4, 3), other_log_variance=other_variance.expand(4, 3)
    )
    assert torch.equal(found, expected)


@pytest.mark.parametrize("kind", [torch.float32, torch.float64])
def test_zero_at_equality_and_never_negative(kind: torch.dtype) -> None:
    """Also for variances next to 1, where e^v - 1 - v is smaller than the rounding of its terms."""
    tiny = torch.logspace(-12, 1.5, 200_000, dtype=kind)
    log_variance = torch.cat([tiny, -tiny, torch.zeros(1, dtype=kind)])
    zero = torch.zeros_like(log_variance)
    assert (kl_to_standard(zero, log_variance) >= 0).all() and float(kl_to_standard(zero, log_variance)[-1]) == 0.0

    generator = torch.Generator().manual_seed(0)
    given = [torch.randn(100_000, generator=generator, dtype=kind) for _ in range(4)]
    mean, log_variance = (10 ** (3 * size - 4) * sign for size, sign in ((given[0], given[1]), (given[2], given[3])))
    log_variance = log_variance.clamp(-20, 20)
    assert (kl_to_standard(mean, log_variance) >= 0).all()
    equal = kl_of_gaussians(mean, log_variance, other_mean=mean, other_log_variance=log_variance)
    assert (equal == 0).all()
    near = kl_of_gaussians(mean, log_variance, other_mean=mean, other_log_variance=log_variance * (1 + 1e-6))
    assert (near >= 0).all()


def test_it_is_a_divergence_and_no_distance() -> None:
    one, other = (torch.tensor(0.0), torch.tensor(0.0)), (torch.tensor(0.0), torch.tensor(math.log(4.0)))
    there = kl_of_gaussians(*one, other_mean=other[0], other_log_variance=other[1])
    back = kl_of_gaussians(*other, other_mean=one[0], other_log_variance=one[1])
    assert float(there) == pytest.approx(0.5 * (0.25 - 1) + math.log(2)) and float(back) == pytest.approx(1.5 - math.log(2))


def test_a_unit_of_measurement_does_not_matter() -> None:
    mean, log_variance, other, other_variance = (normal(seed, 20) for seed in range(4))
    before = kl_of_gaussians(mean, log_variance, other_mean=other, other_log_variance=other_variance)
    shift = 2 * math.log(3)
    after = kl_of_gaussians(
        3 * mean + 7, log_variance + shift, other_mean=3 * other + 7, other_log_variance=other_variance + shift
    )
    torch.testing.assert_close(after, before, rtol=1e-10, atol=1e-12)


def test_gradients_by_finite_differences() -> None:
    given = tuple(normal(seed, 6).requires_grad_() for seed in range(4))
    assert torch.autograd.gradcheck(kl_to_standard, given[:2])
    assert torch.autograd.gradcheck(lambda a, b, c, d: kl_of_gaussians(a, b, other_mean=c, other_log_variance=d), given)
    zero = (torch.zeros(3, requires_grad=True), torch.zeros(3, requires_grad=True))
    gradients = torch.autograd.grad(kl_to_standard(*zero).sum(), zero)
    assert not gradients[0].any() and not gradients[1].any()  # a minimum


# ------------------------------------------------------------------------------------------------------------------ draws


def test_draws_have_the_stated_mean_and_variance() -> None:
    mean, log_variance = torch.tensor([0.0, 3.0, -2.0]), torch.tensor([0.0, 2.0, -3.0])
    n = 40_000
    drawn = draw(mean.expand(n, 3), log_variance.expand(n, 3), generator=torch.Generator().manual_seed(0))
    assert drawn.shape == (n, 3) and drawn.dtype == torch.float32
    deviation = (0.5 * log_variance).exp()
    assert ((drawn.mean(0) - mean).abs() < 4 * deviation / math.sqrt(n)).all()
    assert ((drawn.var(0) / deviation**2 - 1).abs() < 4 * math.sqrt(2 / n)).all()
    correlation = torch.corrcoef(drawn.t()) - torch.eye(3)
    assert float(correlation.abs().max()) < 4 / math.sqrt(n)


def test_draws_depend_on_the_generator_alone() -> None:
    mean, log_variance = normal(0, 5), normal(1, 5)
    drawn = [draw(mean, log_variance, generator=torch.Generator().manual_seed(seed)) for seed in (2, 2, 3)]
    assert torch.equal(drawn[0], drawn[1]) and not torch.equal(drawn[0], drawn[2]) and drawn[0].dtype == torch.float64
    torch.manual_seed(2)
    assert torch.equal(draw(mean, log_variance), drawn[0])


def test_draws_carry_gradient_to_mean_and_variance() -> None:
    mean, log_variance = normal(4, 6).requires_grad_(), normal(5, 6).requires_grad_()
    noise = normal(6, 6)  # what the generator of this seed gives
    drawn = draw(mean, log_variance, generator=torch.Generator().manual_seed(6))
    torch.testing.assert_close(drawn, mean + noise * (0.5 * log_variance).exp(), rtol=0, atol=1e-15)
    weight = normal(7, 6)
    of_mean, of_variance = torch.autograd.grad((weight * drawn).sum(), (mean, log_variance))
    assert torch.equal(of_mean, weight)
    torch.testing.assert_close(of_variance, weight * 0.5 * noise * (0.5 * log_variance).exp(), rtol=1e-14, atol=0)
    assert torch.autograd.gradcheck(
        lambda a, b: draw(a, b, generator=torch.Generator().manual_seed(6)), (mean.detach().requires_grad_(), log_variance)
    )


def test_noise_may_be_given() -> None:
    """One noise for all rows; nothing is drawn, so that the generator of everything else stays where it was."""
    mean, log_variance = normal(9, 4, 3).requires_grad_(), normal(10, 4, 3).requires_grad_()
    noise, before = normal(11, 3), torch.get_rng_state()
    drawn = draw(mean, log_variance, noise=noise)
    assert torch.equal(drawn, mean + noise * torch.exp(0.5 * log_variance)) and torch.equal(torch.get_rng_state(), before)
    of_mean, of_variance = torch.autograd.grad(drawn.sum(), (mean, log_variance))
    assert (of_mean == 1).all()
    torch.testing.assert_close(of_variance, 0.5 * noise * torch.exp(0.5 * log_variance), rtol=1e-14, atol=0)
    assert torch.equal(draw(mean, log_variance, noise=torch.zeros(1)), mean)
    generator = torch.Generator().manual_seed(0)
    state = generator.get_state()
    assert torch.equal(draw(mean, log_variance, noise=noise, generator=generator), drawn)
    assert torch.equal(generator.get_state(), state)


def test_without_variance_a_draw_is_its_mean() -> None:
    mean = normal(8, 4)
    assert torch.equal(draw(mean, torch.full_like(mean, -math.inf)), mean)


# ------------------------------------------------------------------------------------------------------------ information


@pytest.mark.parametrize(("gain", "noise"), [(0.3, 1.0), (1.0, 1.0), (0.6, 0.8), (2.0, 0.1), (0.0, 0.5), (0.0, 1.0)])
def test_the_mean_divergence_is_an_upper_bound_of_the_information(gain: float, noise: float) -> None:
    """x ~ N(0, 1), z = gain x + noise e: what it exceeds I(x; z) by is the divergence of the z of all x from the prior."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(20)
    x = torch.from_numpy(nodes)
    kl = kl_to_standard(gain * x, torch.full_like(x, 2 * math.log(noise)))
    mean = float((torch.from_numpy(weights / weights.sum()) * kl).sum())  # E over x, exact: the divergence is a parabola in x
    total = gain**2 + noise**2
    information = gaussian_information(gain / math.sqrt(total))
    assert mean >= information - 1e-12
    gap = float(kl_to_standard(torch.tensor(0.0, dtype=torch.float64), torch.tensor(math.log(total), dtype=torch.float64)))
    assert mean - information == pytest.approx(gap, abs=1e-12)
    if math.isclose(total, 1.0):
        assert mean == pytest.approx(information, abs=1e-12)
