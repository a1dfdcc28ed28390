"""AUROC, balanced accuracy and accuracy, pooled over cases, with bootstrap intervals over patients.

Every function takes the weight of each case in each resample, so that 2000 resamples cost one matrix product.

Axis letters: N cases, K classes, R resamples.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from comodal.evaluation.results import MetricValue
from comodal.evaluation.statistics import RESAMPLES, interval_of, resampling_weights
from comodal.modality import Target

Mask = NDArray[np.bool_]
Floats = NDArray[np.float64]


def _weighted_auroc(scores: Floats, positive: Mask, weights: Floats) -> Floats:
    """AUROC of one class for each row of case weights; NaN where a side is missing. weights: (R, N) -> (R,)."""
    order = np.argsort(scores, kind="stable")
    starts = np.flatnonzero(np.r_[True, np.diff(scores[order]) > 0])  # cases of one score form one step of the curve
    sides = weights[:, order]
    right = np.add.reduceat(sides * positive[order], starts, axis=1)
    wrong = np.add.reduceat(sides * ~positive[order], starts, axis=1)
    below = np.cumsum(wrong, axis=1) - wrong / 2  # a tie counts half
    pairs = right.sum(axis=1) * wrong.sum(axis=1)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(pairs > 0, (right * below).sum(axis=1) / pairs, np.nan)


def auroc(probabilities: ArrayLike, truth: ArrayLike, weights: ArrayLike | None = None) -> Floats:
    """Area under the ROC curve, each class against the rest.

    Args:
        probabilities: (N, K) float. Ties count half.
        truth: (N, K) bool: which classes are true; one per case, or any number (multilabel); NaN is not labelled.
        weights: (R, N) how often each case counts, e.g. in each resample of a bootstrap; None counts each once (R = 1).

    Returns:
        (R, K), NaN where a class has no positive or no negative case.

    >>> auroc(np.array([[0.2], [0.4], [0.3], [0.9]]), np.array([[0.], [0.], [1.], [1.]])).tolist()
    [[0.75]]
    """
    probabilities, truth = np.asarray(probabilities, dtype=float), np.asarray(truth, dtype=float)
    counts = np.ones((1, len(truth))) if weights is None else np.asarray(weights, dtype=float)
    columns = []
    for k in range(truth.shape[1]):
        known = ~np.isnan(truth[:, k])
        if not known.any():
            columns.append(np.full(len(counts), np.nan))
            continue
        columns.append(_weighted_auroc(probabilities[known, k], truth[known, k] > 0.5, counts[:, known]))
    return np.stack(columns, axis=1)


def recalls(answers: ArrayLike, truth: ArrayLike, weights: ArrayLike | None = None) -> Floats:
    """Recall of every class that some case has.

    Args:
        answers: (N, K) bool: what was answered.
        truth: (N, K) float, as in `auroc`.
        weights: (R, N), as in `auroc`.

    Returns:
        (R, K), NaN where no case has the class.
    """
    truth = np.asarray(truth, dtype=float)
    counts = np.ones((1, len(truth))) if weights is None else np.asarray(weights, dtype=float)
    true = truth > 0.5  # NaN is not true
    total = counts @ true.astype(float)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray(np.where(total > 0, (counts @ (true & (np.asarray(answers) > 0.5)).astype(float)) / total, np.nan))


def as_columns(values: Any, size: int) -> Floats:
    """Truths of classification as (N, K) float: class numbers become one-hot rows, None becomes NaN.

    >>> as_columns([1, 0], 2).tolist()
    [[0.0, 1.0], [1.0, 0.0]]
    """
    if len(values) and np.ndim(values[0]) == 0:
        return np.asarray(np.eye(size)[np.asarray(values, dtype=int)])
    return np.array([[np.nan if v is None else float(v) for v in row] for row in values], dtype=float).reshape(-1, size)


def _answers(target: Target, probabilities: Floats) -> Mask:
    """(N, K): yes at 0.5 for each of several questions, else the most probable class."""
    if target.kind == "multilabel":
        return np.asarray(probabilities >= 0.5)
    return np.asarray(np.eye(len(target.classes), dtype=bool)[probabilities.argmax(axis=1)])


def _accuracy(target: Target, answers: Mask, truth: Floats, weights: Floats) -> Floats:
    """(R,): fraction of right answers; over all labelled questions where there are several in a case."""
    known = ~np.isnan(truth)
    right = ((answers == (truth > 0.5)) | ~known).astype(float)
    if target.kind != "multilabel":
        return np.asarray(weights @ right.all(axis=1) / weights.sum(axis=1))
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray((weights @ (right * known).sum(axis=1)) / (weights @ known.sum(axis=1).astype(float)))


def _balanced_accuracy(target: Target, answers: Mask, truth: Floats, weights: Floats) -> Floats:
    """(R, classes or 2 K): the recalls whose mean it is; for several questions those of yes and of no."""
    yes = recalls(answers, truth, weights)
    return yes if target.kind != "multilabel" else np.concatenate([yes, recalls(~answers, 1 - truth, weights)], axis=1)


def _macro(point: Floats, resampled: Floats | None) -> tuple[float | None, tuple[float, float] | None]:
    """The mean over the columns that the data define, and its interval over resamples that define the same columns."""
    defined = ~np.isnan(point[0])
    if not defined.any():
        return None, None
    interval = None if resampled is None else interval_of(resampled[:, defined].mean(axis=1))
    return float(point[0, defined].mean()), interval


def _undefined(target: Target, truth: Floats) -> str | None:
    """Which classes have no AUROC, and why."""
    lacking = []
    for k, name in enumerate(target.classes):
        column = truth[:, k][~np.isnan(truth[:, k])] > 0.5
        if column.all() or not column.any():
            lacking.append(
                f"{name} (all {len(column)} cases have it)" if len(column) and column.all() else f"{name} (no case has it)"
            )
    return f"not defined for {', '.join(lacking)}" if lacking else None


def pooled_metrics(
    target: Target,
    probabilities: Floats,
    truth: Floats,
    *,
    groups: Sequence[str],
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> dict[str, MetricValue]:
    """All metrics of one target of classification for one row of the table.

    Args:
        target: Of kind class, ordinal or multilabel.
        probabilities: (N, K).
        truth: (N, K), see `as_columns`; NaN is not labelled.
        groups: The patient of each case.
        resamples: Of the bootstrap; 0 makes no intervals.
        seed: Of the bootstrap.

    Returns:
        {"AUROC/<target>", "balanced_accuracy/<target>", "accuracy/<target>"}. With two classes, AUROC is that of the second.
        Where only one class occurs it is None, and the note says so.
    """
    size = len(truth)
    if size == 0:
        empty = MetricValue(n=0, aggregation="pooled", note="no case")
        return {f"{name}/{target.name}": empty for name in ("AUROC", "balanced_accuracy", "accuracy")}
    one = np.ones((1, size))
    weights = resampling_weights(size, groups, resamples=resamples, seed=seed) if resamples else None
    binary = len(target.classes) == 2 and target.kind != "multilabel"
    columns = slice(1, 2) if binary else slice(None)
    answers = _answers(target, probabilities)
    pairs: dict[str, Callable[[Floats], Floats]] = {
        "AUROC": lambda w: auroc(probabilities[:, columns], truth[:, columns], w),
        "balanced_accuracy": lambda w: _balanced_accuracy(target, answers, truth, w),
        "accuracy": lambda w: _accuracy(target, answers, truth, w)[:, None],
    }
    positives = int(np.nansum(truth[:, 1])) if binary else None
    out = {}
    for name, of_weights in pairs.items():
        value, interval = _macro(of_weights(one), None if weights is None else of_weights(weights))
        out[f"{name}/{target.name}"] = MetricValue(
            value=value,
            ci95=interval,
            n=size,
            n_pos=positives,
            n_neg=None if positives is None else size - positives,
            aggregation="pooled",
            note=_undefined(target, truth) if name == "AUROC" else None,
        )
    return out
