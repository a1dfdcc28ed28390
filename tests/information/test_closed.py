from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from numpy.typing import ArrayLike
from scipy import integrate, stats
from torch.distributions import MultivariateNormal, Normal

from comodal.errors import ConfigError
from comodal.information.closed import (
    correlated_gaussians,
    crossed_gaussians,
    crossed_information,
    gaussian_club,
    gaussian_correlation,
    gaussian_covariance_information,
    gaussian_information,
    gaussian_log_ratio,
)

TABLE = [
    (0.3, 0.04716, 0.0989),
    (0.5, 0.14384, 0.3333),
    (0.7, 0.33667, 0.9608),
    (0.8, 0.51083, 1.7778),
    (0.9, 0.83037, 4.2632),
    (0.95, 1.16395, 9.2564),
    (0.99, 1.95852, 49.2513),  # 49.25126
]


@pytest.mark.parametrize(("rho", "information", "club"), TABLE)
def test_table_of_information_and_club(rho: float, information: float, club: float) -> None:
    for sign in (1, -1):
        assert gaussian_information(sign * rho) == pytest.approx(information, abs=5.1e-6)
        assert gaussian_club(sign * rho) == pytest.approx(club, abs=5.1e-5)
    for dimensions in (2, 20):
        assert gaussian_information(rho, dimensions) == pytest.approx(dimensions * gaussian_information(rho), rel=1e-15)
        assert gaussian_club(rho, dimensions) == pytest.approx(dimensions * gaussian_club(rho), rel=1e-15)


@pytest.mark.parametrize("rho", [0.0, 1e-9, 0.2, 0.6, 0.999, 1 - 1e-12])
def test_club_is_never_below_the_information(rho: float) -> None:
    assert gaussian_club(rho, 3) >= gaussian_information(rho, 3) >= 0
    assert math.copysign(1, gaussian_information(rho)) == 1  # no -0.0


@pytest.mark.parametrize("dimensions", [1, 2, 20])
@pytest.mark.parametrize("information", [0.0, 1e-12, 1e-3, 0.1, 2.0, 10.0])
def test_correlation_is_the_inverse(information: float, dimensions: int) -> None:
    rho = gaussian_correlation(information, dimensions)
    assert 0 <= rho < 1
    assert gaussian_information(rho, dimensions) == pytest.approx(
        information, rel=1e-6 if information / dimensions > 5 else 1e-10
    )
    assert rho == pytest.approx(math.sqrt(1 - math.exp(-2 * information / dimensions)), abs=1e-7)


@pytest.mark.parametrize("rho", [-0.8, 0.0, 0.3, 0.95])
def test_covariances_of_the_pair_above(rho: float) -> None:
    assert gaussian_covariance_information([[1, rho], [rho, 1]], 1) == pytest.approx(gaussian_information(rho), abs=1e-14)
    both = np.kron([[1, rho], [rho, 1]], np.eye(3))
    assert gaussian_covariance_information(both, 3) == pytest.approx(gaussian_information(rho, 3), abs=1e-14)


def test_units_and_mixing_within_a_block_change_nothing() -> None:
    rng = np.random.default_rng(0)
    factor = rng.normal(size=(5, 5))
    covariance = factor @ factor.T + 0.1 * np.eye(5)
    before = gaussian_covariance_information(covariance, 2)
    mixing = np.zeros((5, 5))
    mixing[:2, :2], mixing[2:, 2:] = rng.normal(size=(2, 2)), 1e3 * rng.normal(size=(3, 3))
    assert gaussian_covariance_information(mixing @ covariance @ mixing.T, 2) == pytest.approx(before, rel=1e-9)
    canonical = np.linalg.svd(
        np.linalg.inv(np.linalg.cholesky(covariance[:2, :2]))
        @ covariance[:2, 2:]
        @ np.linalg.inv(np.linalg.cholesky(covariance[2:, 2:])).T,
        compute_uv=False,
    )
    assert before == pytest.approx(sum(gaussian_information(float(rho)) for rho in canonical), rel=1e-12)
    order = [2, 3, 4, 0, 1]
    assert gaussian_covariance_information(covariance[np.ix_(order, order)], 3) == pytest.approx(before, rel=1e-12)


@pytest.mark.parametrize(("variances", "rho"), [((1.0, 1.0), 0.5), ((4.0, 0.25), -0.9), ((2.0, 3.0), 0.1)])
def test_covariance_formula_against_an_integral(variances: tuple[float, float], rho: float) -> None:
    a, b = map(math.sqrt, variances)
    covariance = [[a * a, rho * a * b], [rho * a * b, b * b]]
    joint, x, y = stats.multivariate_normal([0, 0], covariance), stats.norm(scale=a), stats.norm(scale=b)

    grid = np.linspace(-8, 8, 321)  # the trapezoid rule is exact to rounding for such smooth, vanishing functions
    u, v = np.meshgrid(a * grid, b * grid, indexing="ij")
    places = np.stack([u, v], axis=-1)
    values = joint.pdf(places) * (joint.logpdf(places) - x.logpdf(u) - y.logpdf(v))
    total = integrate.trapezoid(integrate.trapezoid(values, b * grid, axis=1), a * grid)
    assert gaussian_covariance_information(covariance, 1) == pytest.approx(float(total), abs=1e-9)


@pytest.mark.parametrize("rho", [0.3, -0.7, 0.9])
def test_information_is_the_entropy_that_y_loses(rho: float) -> None:
    """One integral in one dimension: h(y) - h(y | x), and the latter does not depend on x."""

    def lost(scale: float) -> float:
        density = stats.norm(scale=scale)
        return float(integrate.quad(lambda t: -density.pdf(t) * density.logpdf(t), -12 * scale, 12 * scale)[0])

    assert gaussian_information(rho) == pytest.approx(lost(1.0) - lost(math.sqrt(1 - rho**2)), abs=1e-8)


@pytest.mark.parametrize("dimensions", [1, 3])
@pytest.mark.parametrize("rho", [-0.5, 0.0, 0.6, 0.99])
def test_log_ratio_is_that_of_the_densities(rho: float, dimensions: int) -> None:
    generator = torch.Generator().manual_seed(0)
    x, y = (torch.randn(n, dimensions, generator=generator, dtype=torch.float64) for n in (5, 7))
    found = gaussian_log_ratio(x, y, rho)
    assert found.shape == (5, 7)
    pair = MultivariateNormal(torch.zeros(2, dtype=torch.float64), torch.tensor([[1, rho], [rho, 1]], dtype=torch.float64))
    one = Normal(torch.tensor(0.0, dtype=torch.float64), 1.0)
    for i in range(5):
        for j in range(7):
            joint = pair.log_prob(torch.stack([x[i], y[j]], dim=-1)).sum()
            expected = float(joint - one.log_prob(x[i]).sum() - one.log_prob(y[j]).sum())
            assert float(found[i, j]) == pytest.approx(expected, rel=1e-9, abs=1e-10)


def test_log_ratio_averages_to_the_information() -> None:
    x, y = correlated_gaussians(20_000, 1.5, 4, generator=torch.Generator().manual_seed(0))
    rho = gaussian_correlation(1.5, 4)
    own = torch.cat([gaussian_log_ratio(a, b, rho).diagonal() for a, b in zip(x.split(50), y.split(50), strict=True)])
    assert float(own.mean()) == pytest.approx(1.5, abs=4 * float(own.std()) / math.sqrt(len(own)))


def test_samples_have_the_stated_moments() -> None:
    rho = gaussian_correlation(2.0, 3)
    x, y = correlated_gaussians(40_000, 2.0, 3, generator=torch.Generator().manual_seed(1))
    assert x.shape == y.shape == (40_000, 3) and x.dtype == y.dtype == torch.float32
    found = torch.cov(torch.cat([x, y], dim=1).t())
    expected = torch.from_numpy(np.kron([[1, rho], [rho, 1]], np.eye(3))).float()
    torch.testing.assert_close(found, expected, rtol=0, atol=0.04)
    assert gaussian_covariance_information(found.double().numpy(), 3) == pytest.approx(2.0, abs=0.03)


def test_cubic_is_an_invertible_map_of_the_same_sample() -> None:
    plain, cubic = (
        correlated_gaussians(500, 2.0, 3, generator=torch.Generator().manual_seed(2), cubic=cubic) for cubic in (False, True)
    )
    assert torch.equal(plain[0], cubic[0]) and torch.equal(plain[1] ** 3, cubic[1])
    back = cubic[1].sign() * cubic[1].abs() ** (1 / 3)
    torch.testing.assert_close(back, plain[1], rtol=1e-5, atol=1e-6)
    assert torch.equal(plain[1].argsort(dim=0), cubic[1].argsort(dim=0))  # whatever reads ranks reads the same information


def test_samples_depend_on_the_generator_alone() -> None:
    drawn = [correlated_gaussians(10, 1.0, 2, generator=torch.Generator().manual_seed(seed)) for seed in (3, 3, 4)]
    assert torch.equal(drawn[0][1], drawn[1][1]) and not torch.equal(drawn[0][1], drawn[2][1])
    torch.manual_seed(5)
    own = correlated_gaussians(10, 1.0, 2)
    torch.manual_seed(5)
    assert torch.equal(own[1], correlated_gaussians(10, 1.0, 2)[1])
    x, y = correlated_gaussians(2000, 0.0, 1, generator=torch.Generator().manual_seed(6))
    assert abs(float(torch.corrcoef(torch.cat([x, y], dim=1).t())[0, 1])) < 0.08


@pytest.mark.parametrize("correlation", [1.0, -1.0, 1.5, math.nan, math.inf])
def test_what_is_no_correlation(correlation: float) -> None:
    text = rf"^correlation must lie in \(-1, 1\); got {correlation}\. At 1 the information is infinite\.$"
    for function in (gaussian_information, gaussian_club):
        with pytest.raises(ConfigError, match=text):
            function(correlation)
    with pytest.raises(ConfigError, match=text):
        gaussian_log_ratio(torch.zeros(2, 1), torch.zeros(2, 1), correlation)


@pytest.mark.parametrize("information", [-0.1, math.inf, math.nan])
def test_what_is_no_information(information: float) -> None:
    text = rf"^information must be finite and at least 0; got {information}\. Give it in nats\.$"
    with pytest.raises(ConfigError, match=text):
        gaussian_correlation(information)
    with pytest.raises(ConfigError, match=text):
        correlated_gaussians(3, information, 2)


@pytest.mark.parametrize(
    ("covariance", "split", "got"),
    [
        ([1.0, 2.0], 1, r"\(2,\), split 1"),
        ([[1.0, 0.0]], 1, r"\(1, 2\), split 1"),
        (np.eye(2), 0, r"\(2, 2\), split 0"),
        (np.eye(2), 2, r"\(2, 2\), split 2"),
        (np.eye(3), -1, r"\(3, 3\), split -1"),
    ],
)
def test_what_is_no_covariance_of_two_blocks(covariance: ArrayLike, split: int, got: str) -> None:
    text = rf"^covariance must be square and cut in two; got {got}\. Give a \(d, d\) matrix and 0 < split < d\.$"
    with pytest.raises(ConfigError, match=text):
        gaussian_covariance_information(covariance, split)


@pytest.mark.parametrize(
    "covariance",
    [
        [[1.0, 0.5], [0.4, 1.0]],
        [[1.0, 2.0], [2.0, 1.0]],
        [[1.0, 1.0], [1.0, 1.0]],
        [[-1.0, 0.0], [0.0, -1.0]],
        [[0.0, 0.0], [0.0, 1.0]],
        [[math.nan, 0.0], [0.0, 1.0]],
        [[math.inf, 0.0], [0.0, 1.0]],
        [[1e-9, 5e-10], [0.0, 1e-9]],  # small, and not symmetric
    ],
)
def test_what_is_no_covariance(covariance: list[list[float]]) -> None:
    text = r"^covariance must be symmetric and positive definite; got another matrix\. Check it\.$"
    with pytest.raises(ConfigError, match=text):
        gaussian_covariance_information(covariance, 1)


@pytest.mark.parametrize("scale", [1e-12, 1e-3, 1e9])
def test_small_and_large_covariances_are_taken(scale: float) -> None:
    covariance = scale * np.array([[1.0, 0.5], [0.5, 1.0]])
    assert gaussian_covariance_information(covariance, 1) == pytest.approx(gaussian_information(0.5), rel=1e-12)


@pytest.mark.parametrize("rho", [0.5, 0.9, 0.99])
def test_the_crossed_pair_has_the_information_of_a_monte_carlo_mean(rho: float) -> None:
    generator = torch.Generator().manual_seed(int(100 * rho))
    x, y = (part.double()[:, 0] for part in crossed_gaussians(200_000, rho, generator=generator))
    rest = 1 - rho**2
    halves = [torch.exp(-(y - r * x).square() / (2 * rest) + y.square() / 2) / math.sqrt(rest) for r in (rho, -rho)]
    ratio = ((halves[0] + halves[1]) / 2).log()
    assert float(ratio.mean()) == pytest.approx(crossed_information(rho), abs=4 * float(ratio.std()) / len(ratio) ** 0.5)
    assert abs(float(torch.corrcoef(torch.stack([x, y]))[0, 1])) < 0.01  # no correlation shows it
    assert float(y.std()) == pytest.approx(1.0, abs=0.01)


def test_the_crossed_pair_knows_its_limits() -> None:
    assert crossed_information(-0.7) == pytest.approx(crossed_information(0.7), abs=1e-12)
    assert 0 < crossed_information(0.3) < crossed_information(0.6) < gaussian_information(0.6)  # which sign it was is lost
    with pytest.raises(ConfigError, match=r"correlation must lie in \[-0.999, 0.999\]"):
        crossed_information(1.0)
