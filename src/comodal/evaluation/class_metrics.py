"""Metrics of classes from answers and probabilities: plain functions of arrays, under any weights of the cases.

Every function takes the weight of each case in each resample, so that 2000 resamples cost one matrix product, or for the
curves one pass over the sorted cases. Weights are (R, N) or None, which counts each case once (R = 1); truths are (N, K) float
with NaN where a case is not labelled; the result is (R, parts) with NaN where a part is not defined.

Axis letters: N cases, K classes, R resamples, B bins, P steps of a curve.
"""

from __future__ import annotations

from collections.abc import Collection

import numpy as np
from numpy.typing import ArrayLike, NDArray

Mask = NDArray[np.bool_]
Floats = NDArray[np.float64]

RANKED = ("AUROC", "AUPRC")  # of scores; they have a number for each class
ECE_BINS = 10


def counts_of(weights: ArrayLike | None, size: int) -> Floats:
    """(R, N): the weights as they are, or one row of ones."""
    return np.ones((1, size)) if weights is None else np.asarray(weights, dtype=float)


def divided(above: Floats, below: Floats) -> Floats:
    """Quotient of `above` and `below`, NaN where `below` is not positive."""
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray(np.where(below > 0, above / below, np.nan))


def answered(probabilities: Floats, *, several: bool) -> Mask:
    """What is answered: the most probable class, or of several questions those with a probability of at least 0.5.

    Args:
        probabilities: (N, K).
        several: Whether a case has several questions (multilabel).

    Returns:
        (N, K) bool.
    """
    size = probabilities.shape[1]
    return np.asarray(probabilities >= 0.5 if several else np.eye(size, dtype=bool)[probabilities.argmax(axis=1)])


def _ranked(scores: Floats, positive: Mask, columns: Floats, metrics: Collection[str]) -> dict[str, Floats]:
    """AUROC and average precision of one class in each resample. columns: (N, R), the weights of a case in a row."""
    order = np.argsort(-scores, kind="stable")
    first = np.flatnonzero(np.r_[True, np.diff(scores[order]) < 0])  # cases of one score form one step of the curve
    drawn = columns[order]
    right = np.where(positive[order, None], drawn, 0.0)
    wrong = drawn - right
    if len(first) < len(order):
        right, wrong = np.add.reduceat(right, first, axis=0), np.add.reduceat(wrong, first, axis=0)
    missed = np.cumsum(wrong, axis=0)
    yes, no = right.sum(axis=0), missed[-1].copy()
    out = {}
    if "AUROC" in metrics:
        above = np.einsum("pr,pr->r", right, missed) - np.einsum("pr,pr->r", right, wrong) / 2  # a tie counts half
        out["AUROC"] = divided(yes * no - above, yes * no)
    if "AUPRC" in metrics:
        found = np.cumsum(right, axis=0)
        called = np.add(found, missed, out=missed)
        np.divide(found, called, out=found, where=called > 0)  # where nothing is called yet, nothing is right either
        out["AUPRC"] = divided(np.einsum("pr,pr->r", right, found), np.where(no > 0, yes, 0.0))
    return out


def ranking(
    probabilities: ArrayLike, truth: ArrayLike, weights: ArrayLike | None = None, *, metrics: Collection[str] = RANKED
) -> dict[str, Floats]:
    """Area under the ROC curve and average precision of each class against the rest.

    Args:
        probabilities: (N, K) float. In AUROC ties count half; in average precision cases of one score are one step.
        truth: (N, K): which classes are true; one per case, or any number (multilabel); NaN is not labelled.
        weights: (R, N) how often each case counts, e.g. in each resample of a bootstrap; None counts each once.
        metrics: Which of RANKED.

    Returns:
        {"AUROC": (R, K), "AUPRC": (R, K)}, NaN where a class has no positive or no negative case. Average precision is the
        sum over steps of the gain in recall times the precision there, without interpolation; where all cases have the class
        it would be 1 whatever the scores, and so it is NaN.

    >>> ranking([[0.2], [0.4], [0.3], [0.9]], [[0.0], [0.0], [1.0], [1.0]])["AUROC"].tolist()
    [[0.75]]
    """
    probabilities, truth = np.asarray(probabilities, dtype=float), np.asarray(truth, dtype=float)
    columns = np.ascontiguousarray(counts_of(weights, len(truth)).T)
    parts = []
    for k in range(truth.shape[1]):
        known = ~np.isnan(truth[:, k])
        if not known.any():
            parts.append(dict.fromkeys(metrics, np.full(columns.shape[1], np.nan)))
            continue
        drawn = columns if known.all() else columns[known]
        parts.append(_ranked(probabilities[known, k], truth[known, k] > 0.5, drawn, metrics))
    return {name: np.stack([part[name] for part in parts], axis=1) for name in metrics}


def at_least(values: ArrayLike) -> Floats:
    """Ordinal classes as questions "k or above": sums of what is at k and above it.

    Args:
        values: (N, K) probabilities or one-hot truths, the classes in their order.

    Returns:
        (N, K - 1): column k - 1 is P(y >= k), or whether it is so.

    >>> at_least([[0.5, 0.25, 0.25]]).tolist()
    [[0.5, 0.25]]
    """
    values = np.asarray(values, dtype=float)
    return np.ascontiguousarray(np.cumsum(values[:, ::-1], axis=1)[:, ::-1][:, 1:])


def f1(answers: ArrayLike, truth: ArrayLike, weights: ArrayLike | None = None, *, micro: bool = False) -> Floats:
    """F1 = 2 TP / (2 TP + FP + FN) of every class that some case has or that is answered for some.

    Args:
        answers: (N, K) bool.
        truth: (N, K) float, as in `ranking`.
        weights: (R, N), as in `ranking`.
        micro: Whether the counts of all classes are summed first.

    Returns:
        (R, K), or (R, 1) of `micro`; NaN where a class neither occurs nor is answered.
    """
    truth = np.asarray(truth, dtype=float)
    counts, true, known = counts_of(weights, len(truth)), truth > 0.5, ~np.isnan(truth)
    yes = (np.asarray(answers) > 0.5) & known
    both = counts @ (true & yes).astype(float)
    every = counts @ (true.astype(float) + yes)
    if micro:
        both, every = both.sum(axis=1, keepdims=True), every.sum(axis=1, keepdims=True)
    return divided(2 * both, every)


def quadratic_kappa(answers: ArrayLike, truth: ArrayLike, weights: ArrayLike | None = None) -> Floats:
    """Cohen's kappa with quadratic weights: 1 - observed / expected mean of (answer - truth)^2.

    Args:
        answers: (N, K) bool, one class per case; classes are in order and one apart.
        truth: (N, K) float, one class per case.
        weights: (R, N), as in `ranking`.

    Returns:
        (R, 1): 1 agrees always, 0 is what the same answers would reach if dealt out at random; NaN where all answers and all
        truths are the same one class.
    """
    a, t = (np.asarray(values, dtype=float).argmax(axis=1).astype(float) for values in (answers, truth))
    counts = counts_of(weights, len(t))
    total = counts.sum(axis=1)
    observed = counts @ (a - t) ** 2
    expected = counts @ (a**2 + t**2) - 2 * divided((counts @ a) * (counts @ t), total)
    return np.asarray(1 - divided(observed, np.where(expected > 1e-9, expected, 0.0)))[:, None]


def confidences(probabilities: Floats, truth: Floats, yes: Mask, *, several: bool) -> tuple[Floats, Floats, Mask]:
    """How sure each answer was, and whether it was right.

    Args:
        probabilities: (N, K).
        truth: (N, K) float, as in `ranking`.
        yes: (N, K) bool, what was answered.
        several: Whether each of the K is a question of its own; else a case has one answer.

    Returns:
        Probability of the answer given, whether it is right (1 or 0), and whether it is known; each (N, 1), or (N, K) of
        several questions, where the probability of "no" is 1 - p.
    """
    if several:
        known = ~np.isnan(truth)
        return np.where(yes, probabilities, 1 - probabilities), ((truth > 0.5) == yes).astype(float), known
    sure = probabilities.max(axis=1, keepdims=True)
    right = ((truth > 0.5) & yes).any(axis=1, keepdims=True).astype(float)
    return sure, right, np.ones(sure.shape, dtype=bool)


def confidence_bins(sure: Floats, bins: int = ECE_BINS) -> NDArray[np.int64]:
    """The bin of each confidence: equal width from 0 to 1, upper ends belong to the bin below.

    >>> confidence_bins(np.array([0.0, 0.1, 0.11, 1.0])).tolist()
    [0, 0, 1, 9]
    """
    return np.clip(np.ceil(np.round(sure * bins, 9)).astype(np.int64) - 1, 0, bins - 1)


def calibration_error(
    probabilities: Floats, truth: Floats, weights: ArrayLike | None = None, *, several: bool, bins: int = ECE_BINS
) -> Floats:
    """Expected calibration error of Guo et al. (2017), ICML, equation (3): confidence of the answer against its accuracy.

    Args:
        probabilities: (N, K).
        truth: (N, K) float, as in `ranking`.
        weights: (R, N), as in `ranking`.
        several: Whether each of the K is a question of its own, see `confidences`.
        bins: Of equal width from 0 to 1.

    Returns:
        (R, 1) the mean over answers of |accuracy - mean confidence| of their bin; lower is better.
    """
    counts = counts_of(weights, len(truth))
    sure, right, known = confidences(probabilities, truth, answered(probabilities, several=several), several=several)
    place, gap = confidence_bins(sure, bins), np.where(known, right - sure, 0.0)
    of_bins = np.zeros((len(truth), bins))  # (N, B)
    np.add.at(of_bins, (np.arange(len(truth))[:, None], place), gap)
    return divided(np.abs(counts @ of_bins).sum(axis=1), counts @ known.sum(axis=1).astype(float))[:, None]


def brier(probabilities: Floats, truth: Floats, weights: ArrayLike | None = None, *, several: bool) -> Floats:
    """Brier score: mean squared distance between probabilities and truth; lower is better.

    Args:
        probabilities: (N, K).
        truth: (N, K) float, as in `ranking`.
        weights: (R, N), as in `ranking`.
        several: Whether each of the K is a question of its own: then the mean over the labelled ones.

    Returns:
        (R, 1). Of one class per case the sum over the classes, 0 to 2; of two classes half of it, 0 to 1, which is that of the
        second class. So does scikit-learn.
    """
    counts, known = counts_of(weights, len(truth)), ~np.isnan(truth)
    squares = np.where(known, (probabilities - np.where(known, truth, 0.0)) ** 2, 0.0).sum(axis=1)
    if several:
        return divided(counts @ squares, counts @ known.sum(axis=1).astype(float))[:, None]
    return divided(counts @ squares, counts.sum(axis=1))[:, None] / (2 if probabilities.shape[1] == 2 else 1)
