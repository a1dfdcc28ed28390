"""The variational bottleneck: KL divergence of diagonal Gaussians, in nats, and its noise. CIML filters messages with it."""

from __future__ import annotations

import torch
from torch import Tensor


def kl_to_standard(mean: Tensor, log_variance: Tensor) -> Tensor:
    """KL(N(mean, diag e^log_variance) || N(0, I)) of each element; Equation (8) of Shen et al. (2024), CIML, uses it.

    .. math:: 1/2 (mu^2 + sigma^2 - log sigma^2 - 1)

    Args:
        mean: Any shape.
        log_variance: Of that shape, log sigma^2.

    Returns:
        Of that shape, nats per element, never negative. Sum it over features for the divergence of a vector, an upper bound (in
        expectation over the data) of the information that the vector keeps of its input; CIML takes the mean instead.

    >>> kl_to_standard(torch.zeros(2), torch.zeros(2))
    tensor([0., 0.])
    """
    return 0.5 * (mean.square() + torch.expm1(log_variance) - log_variance)


def kl_of_gaussians(mean: Tensor, log_variance: Tensor, *, other_mean: Tensor, other_log_variance: Tensor) -> Tensor:
    """KL(N(mean, e^log_variance) || N(other_mean, e^other_log_variance)) of each element, diagonal covariances.

    .. math:: 1/2 (sigma^2 / s^2 + (mu - m)^2 / s^2 - log(sigma^2 / s^2) - 1)

    Args:
        mean, log_variance: Any shape.
        other_mean, other_log_variance: Broadcastable to it.

    Returns:
        Nats per element, never negative.
    """
    log_ratio = log_variance - other_log_variance
    distance = (mean - other_mean).square() * torch.exp(-other_log_variance)
    return 0.5 * (distance + torch.expm1(log_ratio) - log_ratio)


def draw(
    mean: Tensor, log_variance: Tensor, *, generator: torch.Generator | None = None, noise: Tensor | None = None
) -> Tensor:
    """A sample of N(mean, diag e^log_variance) with gradient to both (Kingma and Welling, 2014).

    Args:
        mean: Any shape.
        log_variance: Of that shape.
        generator: Of the noise; None: torch's own.
        noise: Standard normal, broadcastable to that shape, in the place of a draw of its own.

    Returns:
        Of that shape.
    """
    if noise is None:
        where = mean.device if generator is None else generator.device
        noise = torch.randn(mean.shape, generator=generator, device=where, dtype=mean.dtype)
    return mean + noise.to(mean.device) * torch.exp(0.5 * log_variance)
