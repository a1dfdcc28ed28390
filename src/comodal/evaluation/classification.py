"""AUROC, balanced accuracy and accuracy, pooled over cases, with bootstrap intervals over patients.

Every function takes the weight of each case in each resample, so that 2000 resamples cost one matrix product.

Axis letters: N cases, K classes, R resamples.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from comodal.evaluation.results import MetricValue
from comodal.evaluation.statistics import RESAMPLES, interval_note, interval_of, resampling_weights
from comodal.modality import Target

Mask = NDArray[np.bool_]
Floats = NDArray[np.float64]

POOLED = ("AUROC", "balanced_accuracy", "accuracy")


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


def metric_columns(
    metric: str, probabilities: Floats, truth: Floats, *, several: bool, weights: Floats | None = None
) -> Floats:
    """The parts whose plain mean is a metric: classes for AUROC and balanced accuracy, a single one for accuracy.

    Args:
        metric: "AUROC", "balanced_accuracy" or "accuracy".
        probabilities: (N, K).
        truth: (N, K), see `as_columns`; NaN is not labelled.
        several: Whether a case has several questions (multilabel), each answered yes at 0.5; else the most probable class.
        weights: (R, N), as in `auroc`.

    Returns:
        (R, parts), NaN where a part is not defined. With two classes, AUROC is that of the second; of several questions,
        balanced accuracy has the recall of yes and of no of each, and accuracy is over all that are labelled.

    >>> metric_columns("accuracy", np.array([[0.8, 0.2], [0.6, 0.4]]), as_columns([0, 1], 2), several=False).tolist()
    [[0.5]]
    """
    size = probabilities.shape[1]
    counts = np.ones((1, len(truth))) if weights is None else weights
    if metric == "AUROC":
        part = slice(1, 2) if size == 2 and not several else slice(None)
        return auroc(probabilities[:, part], truth[:, part], counts)
    yes: Mask = np.asarray(probabilities >= 0.5 if several else np.eye(size, dtype=bool)[probabilities.argmax(axis=1)])
    if metric == "balanced_accuracy":
        found = recalls(yes, truth, counts)
        return np.concatenate([found, recalls(~yes, 1 - truth, counts)], axis=1) if several else found
    known = ~np.isnan(truth)
    right = (yes == (truth > 0.5)) & known
    if not several:
        right, known = right.all(axis=1, keepdims=True), np.ones((len(truth), 1), dtype=bool)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray((counts @ right.sum(axis=1)) / (counts @ known.sum(axis=1)))[:, None]


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
        {"AUROC/<target>", "balanced_accuracy/<target>", "accuracy/<target>"}; see `metric_columns`. Where only one class
        occurs, AUROC is None, and the note says so.
    """
    size = len(truth)
    if size == 0:
        empty = MetricValue(n=0, aggregation="pooled", note="no case")
        return {f"{name}/{target.name}": empty for name in POOLED}
    weights = resampling_weights(size, groups, resamples=resamples, seed=seed) if resamples else None
    several = target.kind == "multilabel"
    positives = int(np.nansum(truth[:, 1])) if len(target.classes) == 2 and not several else None
    few = interval_note(len(set(groups))) if resamples else None
    out = {}
    for name in POOLED:
        drawn = None if weights is None else metric_columns(name, probabilities, truth, several=several, weights=weights)
        value, interval = _macro(metric_columns(name, probabilities, truth, several=several), drawn)
        notes = [_undefined(target, truth) if name == "AUROC" else None, few if value is not None else None]
        out[f"{name}/{target.name}"] = MetricValue(
            value=value,
            ci95=interval,
            n=size,
            n_pos=positives,
            n_neg=None if positives is None else size - positives,
            aggregation="pooled",
            note="; ".join(note for note in notes if note) or None,
        )
    return out
