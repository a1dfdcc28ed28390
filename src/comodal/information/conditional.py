"""q(y | x), a Gaussian with diagonal covariance: what the upper bounds CLUB and leave-one-out are made of.

Fit it by likelihood on its own optimiser with x and y detached; to make an encoder forget, freeze it and minimise the bound,
which is an upper bound only as far as q is right.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from comodal.information.critics import mlp
from comodal.information.pairs import Scores


class ConditionalGaussian(nn.Module):
    """q(y | x) = N(mean(x), diag variance(x)), two MLPs.

    Cheng et al. (2020) end the log variance in a tanh, which confines the variance to [0.37, 2.7]; here it may lie in
    [e^-limit, e^limit], reached softly. Standardise y all the same.

    Args:
        x_features: D.
        y_features: D'.
        hidden: Widths of the hidden layers of each MLP.
        limit: The log variance lies in (-limit, limit).
    """

    def __init__(self, x_features: int, y_features: int, *, hidden: Sequence[int] = (256,), limit: float = 5.0) -> None:
        super().__init__()
        self.limit = limit
        self.mean = mlp([x_features, *hidden, y_features])
        self.log_variance = mlp([x_features, *hidden, y_features])

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log variance of y, each (..., D'), for x (..., D)."""
        return self.mean(x), self.limit * torch.tanh(self.log_variance(x) / self.limit)

    def log_density(self, x: Tensor, y: Tensor) -> Tensor:
        """Log q(y_i | x_i) (B,) of pairs: its mean is what is fitted."""
        mean, log_variance = self(x)
        squares = (y - mean).square() * torch.exp(-log_variance)
        density: Tensor = -0.5 * (squares + log_variance + math.log(2 * math.pi)).sum(-1)
        return density

    def all_pairs(self, x: Tensor, y: Tensor) -> Tensor:
        """Log q(y_j | x_i) (A, C) of all pairs, by products of matrices: no tensor of size A C D'."""
        mean, log_variance = self(x)
        with torch.autocast(x.device.type, enabled=False):  # an expanded square needs all its digits
            return self._expanded(mean, log_variance, y.to(torch.promote_types(y.dtype, torch.float32)))

    def _expanded(self, mean: Tensor, log_variance: Tensor, y: Tensor) -> Tensor:
        mean, log_variance = mean.to(y.dtype), log_variance.to(y.dtype)
        precision = torch.exp(-log_variance)
        squares = precision @ y.square().t() - 2 * (precision * mean) @ y.t() + (precision * mean.square()).sum(-1)[:, None]
        constant = log_variance.sum(-1)[:, None] + y.shape[-1] * math.log(2 * math.pi)
        density: Tensor = -0.5 * (squares + constant)
        return density

    def scores(self, x: Tensor, y: Tensor) -> Scores:
        """Log densities of a batch for `bounds.club`; `.columns()` of it for `bounds.leave_one_out`."""
        return Scores.of_matrix(self.all_pairs(x, y))
