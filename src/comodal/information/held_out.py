"""Reading estimates from scores of all pairs of held-out rows, with intervals that resample groups of rows.

In float64 and numpy, by products of matrices: with w the number of times that each row is drawn, the sums over negatives of all
resamples are w @ e^S. Axis letters: K held-out rows, R resamples.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from comodal.information.estimators import ESTIMATORS, Estimate

Floats = NDArray[np.float64]

RESAMPLES = 400
FEWEST_GROUPS = 20  # held out in all, for an interval
WIDEST = 600.0  # nats between scores of one row whose exponentials float64 can still add


@dataclass(frozen=True, eq=False)
class Drawn:
    """What remains of one held-out part once it has been read.

    Attributes:
        values: {estimator: (1 + R,)}, first the estimate, then its resamples.
        groups: (K,) number of each row's group.
        ceiling: See `Held`.
    """

    values: dict[str, Floats]
    groups: NDArray[np.int64]
    ceiling: float


@dataclass(frozen=True, eq=False)
class Held:
    """Scores of one held-out part.

    Attributes:
        scores: (K, K) [i, j] the critic's score of x_i with y_j.
        densities: (K, K) [i, j] log q(y_j | x_i); None where no q was fitted.
        groups: (K,) number of each row's group; rows of one group are no negatives of each other.
        clip: SMILE's, in nats.
    """

    scores: Floats
    densities: Floats | None
    groups: NDArray[np.int64]
    clip: float

    @property
    def ceiling(self) -> float:
        """Mean over rows of log K, K candidates of the row, the positive included: what InfoNCE can read at most."""
        return float(np.log1p(self._negative().sum(1)).mean())

    def drawn(self, generator: np.random.Generator) -> Drawn:
        """Every estimate, and bootstrap resamples of it, in a few kilobytes."""
        return Drawn(self.read(_resampled(self.groups, generator)), self.groups, self.ceiling)

    def _negative(self) -> NDArray[np.bool_]:
        others: NDArray[np.bool_] = self.groups[:, None] != self.groups
        return others

    def read(self, weights: Floats) -> dict[str, Floats]:
        """Every estimate.

        Args:
            weights: (R, K) how often each row counts.

        Returns:
            {estimator: (R,)}; NaN where a resample has no negatives. What is a mean over rows (InfoNCE, leave-one-out) keeps
            the candidates of each row: a row's copies are no negatives of it, so that fewer would compete in a resample.
        """
        with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
            return self._read(weights)

    def _read(self, weights: Floats) -> dict[str, Floats]:
        negative = self._negative()
        joint = np.diagonal(self.scores)
        total = weights.sum(1)
        mean = weights @ joint / total
        pairs = np.einsum("rk,rk->r", weights @ negative, weights)
        log_mean = _log_sums(self.scores, negative, weights)[1] - np.log(pairs)
        clipped = _log_sums(self.scores.clip(-self.clip, self.clip), negative, weights)[1] - np.log(pairs)
        every = np.ones((1, len(joint)))
        others = _log_sums(self.scores, negative, every)[0][0]  # (K,)
        contrast = joint - np.logaddexp(others, joint) + np.log1p(negative.sum(1))
        values = {
            "dv": mean - log_mean,
            "nwj": 1 + mean - np.exp(log_mean),
            "info_nce": weights @ contrast / total,
            "smile": mean - clipped,
            "demi": mean,
            "jsd": -(weights @ np.logaddexp(0, -joint)) / total - self._mean_softplus(negative, weights, pairs),
        }
        return values | (self._upper(negative, weights, pairs) if self.densities is not None else {})

    def _mean_softplus(self, negative: NDArray[np.bool_], weights: Floats, pairs: Floats) -> Floats:
        softplus = np.where(negative, np.logaddexp(0, self.scores), 0.0)
        mean: Floats = np.einsum("rk,rk->r", weights @ softplus, weights) / pairs
        return mean

    def _upper(self, negative: NDArray[np.bool_], weights: Floats, pairs: Floats) -> dict[str, Floats]:
        assert self.densities is not None
        own, total = np.diagonal(self.densities), weights.sum(1)
        mean = weights @ own / total
        others = np.einsum("rk,rk->r", weights @ np.where(negative, self.densities, 0.0), weights) / pairs
        every = np.ones((1, len(own)))
        per_row = _log_sums(self.densities.T, negative, every)[0][0] - np.log(negative.sum(1))  # (K,)
        return {"club": mean - others, "leave_one_out": weights @ (own - per_row) / total}


def _log_sums(scores: Floats, negative: NDArray[np.bool_], weights: Floats) -> tuple[Floats, Floats]:
    """Log of sums of w_j e^(S_ij) over the negatives of each row (R, K), and of w_i w_j e^(S_ij) over all (R,)."""
    from scipy import special

    kept = np.where(negative, scores, -np.inf)
    top = np.where(negative.any(1), kept.max(1), 0.0)
    per_row = np.log(weights @ np.exp(kept - top[:, None]).T) + top
    # Where a row's scores lie so far apart that the smaller vanish beside the largest, a resample may hold only the smaller.
    for row in np.flatnonzero(top - np.where(negative, scores, np.inf).min(1) > WIDEST):
        per_row[:, row] = special.logsumexp(kept[row], b=weights, axis=1)
    drawn = np.where(weights > 0, per_row, -np.inf)
    return per_row, special.logsumexp(drawn, b=np.where(weights > 0, weights, 1.0), axis=1)


def _resampled(groups: NDArray[np.int64], generator: np.random.Generator) -> Floats:
    """(1 + R, K): first every row once, then bootstrap resamples of whole groups."""
    names, numbers = np.unique(groups, return_inverse=True)
    draws = generator.integers(0, len(names), (RESAMPLES, len(names)))
    flat = draws + len(names) * np.arange(RESAMPLES)[:, None]
    counts = np.bincount(flat.ravel(), minlength=len(names) * RESAMPLES).reshape(RESAMPLES, len(names))
    return np.concatenate([np.ones((1, len(groups))), counts[:, numbers].astype(float)])


def combined(parts: Sequence[Drawn]) -> tuple[Estimate, ...]:
    """The mean over held-out parts, weighted by their rows, with percentile bootstrap intervals.

    Args:
        parts: Folds, or pieces of them.

    Returns:
        One estimate for each that was read, in the order of ESTIMATORS. No interval where fewer than 20 groups were held out.
    """
    rows = np.array([len(part.groups) for part in parts])
    groups = len(np.unique(np.concatenate([part.groups for part in parts])))
    log_k = float(np.average([part.ceiling for part in parts], weights=rows))
    found = []
    for name, kind in ESTIMATORS.items():
        if name not in parts[0].values:
            continue
        drawn = np.average([part.values[name] for part in parts], axis=0, weights=rows)
        spread = drawn[1:][np.isfinite(drawn[1:])]
        enough = groups >= FEWEST_GROUPS and len(spread) > RESAMPLES // 2
        low, high = np.percentile(spread, (2.5, 97.5)) if enough else (0.0, 0.0)
        ci95 = (float(low), float(high)) if enough else None
        limit = log_k if kind.limited else kind.ceiling(1)
        found.append(Estimate(name, kind.kind, float(drawn[0]), ci95, ceiling=limit, bias=kind.bias, n=int(rows.sum())))
    return tuple(found)
