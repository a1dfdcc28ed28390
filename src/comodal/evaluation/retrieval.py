"""Whether images and reports find each other: recall at k and the median rank, in both directions.

A query is an image that looks for its report, or a report that looks for its image. Not everything else is wrong: a report with
the very tokens of the sought one says the same, and another study of the same patient may. Such candidates are taken out of the
query's list, and so are images whose reports are identical to the query. What scores as high as the sought one is put before it
half of the time: numbers are expectations over the order of ties, so that a method that gives one score to all is at chance.

Axis letters: N cases, each an image with its report; R resamples.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from comodal.errors import ConfigError, message
from comodal.evaluation.matching import Measured
from comodal.evaluation.statistics import RESAMPLES, bootstrap_interval, interval_note, interval_of, resampling_weights

Floats = NDArray[np.float64]
RANKS = (1, 5, 10)
DIRECTIONS = ("image to report", "report to image")
CONVENTION = (
    "recall@k: share of the queries whose own counterpart is among the first k; reports with the same tokens and those of the "
    "same patient are not candidates beside it; ties are broken at random, in expectation"
)


@dataclass(frozen=True, eq=False)
class Ranked:
    """Where the sought one stands in the list of each query.

    Attributes:
        above: (N,) candidates that score higher.
        level: (N,) others that score the same.
        candidates: (N,) how many there are, the sought one included.
    """

    above: Floats
    level: Floats
    candidates: Floats

    def recall(self, k: int) -> Floats:
        """(N,) probability that the sought one is among the first k."""
        return np.clip((k - self.above) / (self.level + 1), 0.0, 1.0)

    def rank(self) -> Floats:
        """(N,) expected rank, from 1."""
        return np.asarray(1 + self.above + self.level / 2)


def same_numbers(reports: Sequence[Hashable], groups: Sequence[str]) -> NDArray[np.bool_]:
    """Which counterparts are not wrong for whom.

    Args:
        reports: What each report says, equal for identical ones.
        groups: The patient of each case.

    Returns:
        (N, N) bool, symmetric.

    >>> same_numbers(["a", "b", "a"], ["p", "p", "q"]).astype(int).tolist()
    [[1, 1, 1], [1, 1, 0], [1, 0, 1]]
    """
    out = np.zeros((len(groups), len(groups)), dtype=bool)
    for values in (list(reports), list(groups)):
        numbers: dict[Hashable, int] = {}
        row = np.array([numbers.setdefault(value, len(numbers)) for value in values])
        out |= row[:, None] == row[None, :]
    return out


def ranked(scores: ArrayLike, same: NDArray[np.bool_]) -> Ranked:
    """The place of each query's own counterpart among its candidates.

    Args:
        scores: (N, N) of queries with candidates; own ones on the diagonal.
        same: (N, N), see `same_numbers`.

    Raises:
        ConfigError: Scores are not square, or not finite.

    >>> found = ranked([[0.1, 0.9, 0.5], [0.0, 2.0, 1.0], [0.3, 0.3, 0.3]], np.eye(3, dtype=bool))
    >>> found.rank().tolist(), found.recall(1).round(3).tolist()
    ([3.0, 1.0, 2.0], [0.0, 1.0, 0.333])
    """
    values = np.asarray(scores, dtype=np.float64)
    if values.shape != same.shape or not np.isfinite(values).all():
        got = values.shape if values.shape != same.shape else "NaN or infinity"
        do = "Give the scores of N images with their own N reports"
        raise ConfigError(message("retrieval.scores", f"be finite numbers of shape {same.shape}", got, do=do))
    own = np.diagonal(values)[:, None]
    open_ = ~same & ~np.eye(len(values), dtype=bool)
    above, level = (open_ & (values > own)).sum(axis=1), (open_ & (values == own)).sum(axis=1)
    return Ranked(above.astype(float), level.astype(float), 1.0 + open_.sum(axis=1))


def retrieval(
    scores: ArrayLike, reports: Sequence[Hashable], groups: Sequence[str], *, resamples: int = RESAMPLES, seed: int = 0
) -> dict[str, dict[str, Measured]]:
    """Recall at 1, 5 and 10 and the median rank, each with interval and chance level.

    Args:
        scores: (N, N) of image i with report j.
        reports: What each report says, equal for identical ones.
        groups: The patient of each case.
        resamples: Of the bootstrap over patients, which resamples queries; the candidates stay. 0 makes no intervals.
        seed: Of the bootstrap.

    Returns:
        {direction: {"recall@1", ..., "median_rank"}}. Queries without another candidate are left out; n says how many count.
    """
    values, same = np.asarray(scores, dtype=np.float64), same_numbers(reports, groups)
    found = {}
    for direction, table in zip(DIRECTIONS, (values, values.T), strict=True):
        full = ranked(table, same)
        kept = full.candidates > 1
        places = Ranked(full.above[kept], full.level[kept], full.candidates[kept])
        patients = [group for group, yes in zip(groups, kept, strict=True) if yes]
        found[direction] = _measured(places, patients, resamples=resamples, seed=seed)
    return found


def _measured(places: Ranked, groups: Sequence[str], *, resamples: int, seed: int) -> dict[str, Measured]:
    n, out = len(groups), {}
    if not n:
        empty = Measured(n=0, note="no query with another candidate")
        return dict.fromkeys((*(f"recall@{k}" for k in RANKS), "median_rank"), empty)
    note = interval_note(len(set(groups))) if resamples else None
    for k in RANKS:
        hits = places.recall(k)
        chance = float(np.minimum(k / places.candidates, 1.0).mean())
        interval = bootstrap_interval(hits, groups, resamples=resamples, seed=seed) if resamples else None
        out[f"recall@{k}"] = Measured(value=float(hits.mean()), ci95=interval, n=n, chance=chance, note=note)
    ranks = places.rank()
    weights = resampling_weights(n, groups, resamples=resamples, seed=seed) if resamples else None
    interval = None if weights is None else interval_of(weighted_medians(ranks, weights))
    chance = float(np.median((places.candidates + 1) / 2))
    out["median_rank"] = Measured(value=float(np.median(ranks)), ci95=interval, n=n, chance=chance, note=note)
    return out


def weighted_medians(values: Floats, weights: Floats) -> Floats:
    """The median of values that count several times, or not at all.

    Args:
        values: (N,).
        weights: (R, N) counts; each row has some.

    Returns:
        (R,), the mean of the two in the middle where their number is even.

    >>> weighted_medians(np.array([3.0, 1.0, 2.0]), np.array([[1.0, 1.0, 1.0], [3.0, 1.0, 0.0], [1.0, 1.0, 0.0]])).tolist()
    [2.0, 3.0, 2.0]
    """
    order = np.argsort(values, kind="stable")
    sums = np.cumsum(weights[:, order], axis=1)
    half = sums[:, -1:] / 2
    low, high = (sums >= half).argmax(axis=1), (sums > half).argmax(axis=1)
    return np.asarray((values[order][low] + values[order][high]) / 2)
