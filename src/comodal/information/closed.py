"""Closed forms: what estimators must find where the truth is known. Values in nats."""

from __future__ import annotations

import math

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from comodal.errors import ConfigError, message


def gaussian_information(correlation: float, dimensions: int = 1) -> float:
    """Information of x ~ N(0, I_d) and y = rho x + sqrt(1 - rho^2) e: -(d / 2) log(1 - rho^2).

    >>> round(gaussian_information(0.9), 5), gaussian_information(0.0, 20)
    (0.83037, 0.0)
    """
    if not -1 < correlation < 1:
        raise ConfigError(message("correlation", "lie in (-1, 1)", correlation, do="At 1 the information is infinite"))
    return -0.5 * dimensions * math.log1p(-(correlation**2)) + 0.0


def gaussian_correlation(information: float, dimensions: int = 1) -> float:
    """The correlation in each of d dimensions that gives so much information: sqrt(1 - e^(-2 I / d)).

    >>> round(gaussian_information(gaussian_correlation(2.0, 20), 20), 12)
    2.0
    """
    if not 0 <= information < math.inf:
        raise ConfigError(message("information", "be finite and at least 0", information, do="Give it in nats"))
    return math.sqrt(-math.expm1(-2 * information / dimensions))


def gaussian_log_ratio(x: Tensor, y: Tensor, correlation: float) -> Tensor:
    """r*(x, y) of the pair above for all pairs: the exact critic.

    .. math:: sum_k [ -1/2 log(1 - rho^2) - (y_k - rho x_k)^2 / (2 (1 - rho^2)) + y_k^2 / 2 ]

    Args:
        x: (A, d) standard normal.
        y: (C, d) standard normal.
        correlation: rho in (-1, 1).

    Returns:
        (A, C).
    """
    rest = 1 - correlation**2
    squares = (y - correlation * x[:, None]).square().sum(-1) / (2 * rest)  # (A, C)
    return gaussian_information(correlation, x.shape[-1]) - squares + y.square().sum(-1) / 2


def gaussian_club(correlation: float, dimensions: int = 1) -> float:
    """CLUB of the pair above with the exact conditional: d rho^2 / (1 - rho^2), never below the information.

    >>> round(gaussian_club(0.9), 4)
    4.2632
    """
    gaussian_information(correlation)  # refuses what is no correlation
    return dimensions * correlation**2 / (1 - correlation**2)


def gaussian_covariance_information(covariance: ArrayLike, split: int) -> float:
    """Information between two blocks of a Gaussian vector: 1/2 log(det S_x det S_y / det S).

    Args:
        covariance: (d, d), symmetric and positive definite.
        split: The first so many variables are x, the others y.

    Returns:
        Nats.

    Raises:
        ConfigError: The matrix is not a covariance, or one block is empty.

    >>> round(gaussian_covariance_information([[1.0, 0.5], [0.5, 1.0]], 1), 5)
    0.14384
    """
    matrix: NDArray[np.float64] = np.asarray(covariance, dtype=float)
    if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1] or not 0 < split < len(matrix):
        do = "Give a (d, d) matrix and 0 < split < d"
        raise ConfigError(message("covariance", "be square and cut in two", f"{matrix.shape}, split {split}", do=do))
    symmetric = np.isfinite(matrix).all() and np.allclose(matrix, matrix.T, atol=1e-12 * np.abs(matrix).max())
    if not symmetric or np.linalg.eigvalsh(matrix).min() <= 0:
        raise ConfigError(message("covariance", "be symmetric and positive definite", "another matrix", do="Check it"))
    parts = (matrix[:split, :split], matrix[split:, split:], matrix)
    x, y, both = (float(np.linalg.slogdet(part)[1]) for part in parts)
    return 0.5 * (x + y - both)


def correlated_gaussians(
    n: int, information: float, dimensions: int, *, generator: torch.Generator | None = None, cubic: bool = False
) -> tuple[Tensor, Tensor]:
    """Pairs of the Gaussian above.

    Args:
        n: Pairs.
        information: Nats in all.
        dimensions: d of each variable.
        generator: Of the random numbers; None: torch's own.
        cubic: Hand back y^3 instead of y: an invertible map of one variable, which leaves the information as it is.

    Returns:
        x (n, d) and y (n, d), float32.
    """
    rho = gaussian_correlation(information, dimensions)
    x, noise = (torch.randn(n, dimensions, generator=generator) for _ in range(2))
    y = rho * x + math.sqrt(1 - rho**2) * noise
    return x, y**3 if cubic else y


def crossed_information(correlation: float) -> float:
    """Information of the mixture of two Gaussian pairs of correlation rho and -rho, half and half, by quadrature.

    x and y are standard normal and uncorrelated, whatever rho is; what they share no correlation shows.

    Args:
        correlation: rho in [-0.999, 0.999].

    Returns:
        Nats, exact to about 1e-9.

    >>> round(crossed_information(0.9), 4), abs(crossed_information(0.0)) < 1e-9
    (0.4084, True)
    """
    if not abs(correlation) <= 0.999:
        do = "Nearer to 1 the quadrature is too coarse"
        raise ConfigError(message("correlation", "lie in [-0.999, 0.999]", correlation, do=do))
    steps = np.linspace(-9.0, 9.0, 2401)  # the trapezoid rule converges fast on what decays at both ends
    x, y = steps[:, None], steps[None]
    rest = 1 - correlation**2
    both = [np.exp(-(x**2 - 2 * rho * x * y + y**2) / (2 * rest)) for rho in (correlation, -correlation)]
    density = (both[0] + both[1]) / (4 * np.pi * math.sqrt(rest))
    product = np.exp(-(x**2 + y**2) / 2) / (2 * np.pi)
    terms = np.where(density > 0, density * np.log(np.maximum(density, 1e-300) / np.maximum(product, 1e-300)), 0.0)
    return float(terms.sum() * (steps[1] - steps[0]) ** 2)


def crossed_gaussians(n: int, correlation: float, *, generator: torch.Generator | None = None) -> tuple[Tensor, Tensor]:
    """Pairs of `crossed_information`.

    Args:
        n: Pairs.
        correlation: rho in (-1, 1).
        generator: Of the random numbers; None: torch's own.

    Returns:
        x (n, 1) and y (n, 1), float32.
    """
    x, noise = (torch.randn(n, 1, generator=generator) for _ in range(2))
    sign = torch.randint(2, (n, 1), generator=generator) * 2 - 1
    return x, sign * correlation * x + math.sqrt(1 - correlation**2) * noise
