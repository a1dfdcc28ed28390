"""All metrics of a target of classes for one row of the table: pooled over cases, with bootstrap intervals over patients.

The arithmetic is in `comodal.evaluation.class_metrics`; here is which metrics a target has, what their parts are, and what is
left out of them and why. A metric is the plain mean of its parts: classes for AUROC, a single one for accuracy.

Axis letters: N cases, K classes, R resamples.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from comodal.evaluation import class_metrics
from comodal.evaluation.class_metrics import RANKED, answered, at_least, counts_of, divided, ranking
from comodal.evaluation.metrics import threshold
from comodal.evaluation.results import MetricValue
from comodal.evaluation.statistics import RESAMPLES, interval_note, interval_of, resampling_weights
from comodal.modality import Target

Mask = NDArray[np.bool_]
Floats = NDArray[np.float64]

POOLED = ("AUROC", "balanced_accuracy", "accuracy", "AUPRC", "F1_macro", "F1_micro", "kappa", "ECE", "Brier")


def metrics_of(kind: str) -> tuple[str, ...]:
    """The metrics that a target of classes has.

    Args:
        kind: "class", "ordinal" or "multilabel".

    >>> [name for name in POOLED if name not in metrics_of("class")]
    ['F1_micro', 'kappa']
    """
    # of one class per case, micro F1 is accuracy
    without = {"multilabel": ("kappa",), "ordinal": ("F1_micro",)}.get(kind, ("F1_micro", "kappa"))
    return tuple(name for name in POOLED if name not in without)


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
    return ranking(probabilities, truth, weights, metrics=["AUROC"])["AUROC"]


def recalls(answers: ArrayLike, truth: ArrayLike, weights: ArrayLike | None = None) -> Floats:
    """Recall of every class that some case has.

    Args:
        answers: (N, K) bool: what was answered.
        truth: (N, K) float, as in `auroc`.
        weights: (R, N), as in `auroc`.

    Returns:
        (R, K), NaN where no case has the class.
    """
    true = np.asarray(truth, dtype=float) > 0.5  # NaN is not true
    counts = counts_of(weights, len(true))
    return divided(counts @ (true & (np.asarray(answers) > 0.5)).astype(float), counts @ true.astype(float))


def as_columns(values: Any, size: int) -> Floats:
    """Truths of classification as (N, K) float: class numbers become one-hot rows, None becomes NaN.

    Args:
        values: One entry per case: class numbers, or K answers each.
        size: K.

    >>> as_columns([1, 0], 2).tolist()
    [[0.0, 1.0], [1.0, 0.0]]
    """
    if len(values) and np.ndim(values[0]) == 0:
        return np.asarray(np.eye(size)[np.asarray(values, dtype=int)])
    return np.array([[np.nan if v is None else float(v) for v in row] for row in values], dtype=float).reshape(-1, size)


def _ranked_parts(size: int, *, several: bool) -> slice:
    """Which classes are ranked against the rest: of two, the second alone."""
    return slice(1, 2) if size == 2 and not several else slice(None)


def metric_columns(
    metric: str, probabilities: Floats, truth: Floats, *, several: bool, weights: Floats | None = None
) -> Floats:
    """The parts whose plain mean is a metric: classes for AUROC and balanced accuracy, a single one for accuracy.

    Args:
        metric: One of POOLED.
        probabilities: (N, K).
        truth: (N, K), see `as_columns`; NaN is not labelled.
        several: Whether a case has several questions (multilabel), each answered yes at 0.5; else the most probable class.
        weights: (R, N), as in `auroc`.

    Returns:
        (R, parts), NaN where a part is not defined. With two classes, AUROC and AUPRC are those of the second; of several
        questions, balanced accuracy has the recall of yes and of no of each, and accuracy is over all that are labelled.

    >>> metric_columns("accuracy", np.array([[0.8, 0.2], [0.6, 0.4]]), as_columns([0, 1], 2), several=False).tolist()
    [[0.5]]
    """
    if metric in RANKED:
        part = _ranked_parts(probabilities.shape[1], several=several)
        return ranking(probabilities[:, part], truth[:, part], weights, metrics=[metric])[metric]
    if metric == "ECE":
        return class_metrics.calibration_error(probabilities, truth, weights, several=several)
    if metric == "Brier":
        return class_metrics.brier(probabilities, truth, weights, several=several)
    yes = answered(probabilities, several=several)
    if metric == "balanced_accuracy":
        found = recalls(yes, truth, weights)
        return np.concatenate([found, recalls(~yes, 1 - truth, weights)], axis=1) if several else found
    if metric in ("F1_macro", "F1_micro"):
        return class_metrics.f1(yes, truth, weights, micro=metric == "F1_micro")
    if metric == "kappa":
        return class_metrics.quadratic_kappa(yes, truth, weights)
    return _accuracy(yes, truth, counts_of(weights, len(truth)), several=several)


def _accuracy(yes: Mask, truth: Floats, counts: Floats, *, several: bool) -> Floats:
    known = ~np.isnan(truth)
    right = (yes == (truth > 0.5)) & known
    if not several:
        right, known = right.all(axis=1, keepdims=True), np.ones((len(truth), 1), dtype=bool)
    return divided(counts @ right.sum(axis=1).astype(float), counts @ known.sum(axis=1).astype(float))[:, None]


def _macro(point: Floats, resampled: Floats | None) -> tuple[float | None, tuple[float, float] | None]:
    """The mean over the columns that the data define, and its interval over resamples that define the same columns."""
    defined = ~np.isnan(point[0])
    if not defined.any():
        return None, None
    interval = None if resampled is None else interval_of(resampled[:, defined].mean(axis=1))
    return float(point[0, defined].mean()), interval


@dataclass(frozen=True)
class _Row:
    """One target in one row of the table. probabilities and truth: (N, K); weights: (R, N) or None without intervals."""

    target: Target
    probabilities: Floats
    truth: Floats
    weights: Floats | None
    few: str | None

    @property
    def several(self) -> bool:
        return self.target.kind == "multilabel"

    def columns(self, metric: str, weights: Floats | None) -> Floats:
        return metric_columns(metric, self.probabilities, self.truth, several=self.several, weights=weights)

    def known(self, k: int) -> Mask:
        """(n,) the truths of one class, of the cases that have one."""
        return np.asarray(self.truth[~np.isnan(self.truth[:, k]), k] > 0.5)

    def side(self, k: int) -> Literal["both", "all", "none"]:
        known = self.known(k)
        return "none" if not known.any() else "all" if known.all() else "both"

    def left_out(self, metric: str) -> str | None:
        """Which classes have no part in a metric, and why."""
        ranked, lacking = metric in RANKED, []
        answers = answered(self.probabilities, several=self.several)
        if metric not in (*RANKED, "balanced_accuracy", "F1_macro"):
            return None
        for k, name in enumerate(self.target.classes):
            side = self.side(k)
            if side == "all" and (ranked or (metric == "balanced_accuracy" and self.several)):
                what = "" if ranked else " (no)"
                lacking.append(f"{name}{what} (all {len(self.known(k))} cases have it)")
            elif side == "none" and not (metric == "F1_macro" and answers[~np.isnan(self.truth[:, k]), k].any()):
                lacking.append(f"{name} (no case has it)")
        return f"not defined for {', '.join(lacking)}" if lacking else None

    def unlabelled(self) -> str | None:
        missing = int(np.isnan(self.truth).sum())
        return f"{missing} of {self.truth.size} answers are not labelled" if missing else None

    def chance(self) -> str | None:
        """What average precision is without any knowledge."""
        part = range(len(self.target.classes))[_ranked_parts(len(self.target.classes), several=self.several)]
        shares = [self.known(k).mean() for k in part if self.side(k) == "both"]
        return f"chance level {np.mean(shares):.3f}" if shares else None

    def value(self, metric: str, point: Floats, drawn: Floats | None) -> MetricValue:
        """The metric from its parts, (1, parts) and (R, parts)."""
        value, interval = _macro(point, drawn)
        two = len(self.target.classes) == 2 and not self.several
        positives = int(np.nansum(self.truth[:, 1])) if two else None
        notes = [self.left_out(metric), self.unlabelled(), self.chance() if metric == "AUPRC" else None]
        notes += [self.few] if value is not None else []
        notes += [_ALL_ONE] if value is None and metric == "kappa" else []
        return MetricValue(
            value=value,
            ci95=interval,
            n=len(self.truth),
            n_pos=positives,
            n_neg=None if positives is None else len(self.truth) - positives,
            aggregation="pooled",
            note="; ".join(note for note in notes if note) or None,
        )

    def class_value(self, metric: str, k: int, *, point: Floats, drawn: Floats | None) -> MetricValue:
        """The metric of one class against the rest, from the same parts."""
        value, interval = _macro(point[:, [k]], None if drawn is None else drawn[:, [k]])
        known = self.known(k)
        why = {"none": "no case has it", "all": f"all {len(known)} cases have it", "both": None}[self.side(k)]
        notes = [why, f"chance level {known.mean():.3f}" if metric == "AUPRC" and value is not None else None]
        notes += [self.few] if value is not None else []
        return MetricValue(
            value=value,
            ci95=interval,
            n=len(known),
            n_pos=int(known.sum()),
            n_neg=int((~known).sum()),
            aggregation="pooled",
            note="; ".join(note for note in notes if note) or None,
        )


_ALL_ONE = "not defined: all answers and all truths are of one class"


def pooled_metrics(
    target: Target,
    probabilities: Floats,
    truth: Floats,
    *,
    groups: Sequence[str],
    resamples: int = RESAMPLES,
    seed: int = 0,
    metrics: Collection[str] = POOLED,
) -> dict[str, MetricValue]:
    """All metrics of one target of classification for one row of the table.

    Args:
        target: Of kind class, ordinal or multilabel.
        probabilities: (N, K).
        truth: (N, K), see `as_columns`; NaN is not labelled.
        groups: The patient of each case.
        resamples: Of the bootstrap; 0 makes no intervals.
        seed: Of the bootstrap.
        metrics: Which of POOLED; those that the target does not have are passed over, see `metrics_of`.

    Returns:
        {"<metric>/<target>"}, see `metric_columns`, then {"AUROC/<target>/<class>", "AUPRC/<target>/<class>"} where more than
        one class is ranked against the rest, and of more than two ordinal classes {"AUROC/<target>/>=<k>"}: class k or above
        against those below, by the sum of their probabilities. Where a number is not defined it is None, and the note says why.
    """
    names = [name for name in metrics_of(target.kind) if name in metrics]
    size = len(truth)
    if size == 0:
        empty = MetricValue(n=0, aggregation="pooled", note="no case")
        return {f"{name}/{target.name}": empty for name in names}
    weights = resampling_weights(size, groups, resamples=resamples, seed=seed) if resamples else None
    few = interval_note(len(set(groups))) if resamples else None
    row = _Row(target, probabilities, truth, weights, few)
    part = _ranked_parts(probabilities.shape[1], several=row.several)
    parts: dict[str, tuple[Floats, Floats | None]] = {}
    ranked = [name for name in RANKED if name in names]
    if ranked:  # both from one pass over the sorted cases
        points = ranking(probabilities[:, part], truth[:, part], metrics=ranked)
        draws = {} if weights is None else ranking(probabilities[:, part], truth[:, part], weights, metrics=ranked)
        parts |= {name: (points[name], draws.get(name)) for name in ranked}
    for name in names:
        if name not in RANKED:
            parts[name] = row.columns(name, None), None if weights is None else row.columns(name, weights)
    out = {f"{name}/{target.name}": row.value(name, *parts[name]) for name in names}
    for name in ranked:
        if parts[name][0].shape[1] > 1:
            for k, label in enumerate(target.classes):
                out[f"{name}/{target.name}/{label}"] = row.class_value(name, k, point=parts[name][0], drawn=parts[name][1])
    return out | (_thresholds(row) if target.kind == "ordinal" and "AUROC" in names else {})


def _thresholds(row: _Row) -> dict[str, MetricValue]:
    """AUROC of "class k or above" for each k from 1; of two classes that is the AUROC of the target."""
    if len(row.target.classes) < 3:
        return {}
    row = replace(row, probabilities=at_least(row.probabilities), truth=at_least(row.truth))
    point = auroc(row.probabilities, row.truth)
    drawn = None if row.weights is None else auroc(row.probabilities, row.truth, row.weights)
    return {
        f"AUROC/{row.target.name}/{threshold(k)}": row.class_value("AUROC", k - 1, point=point, drawn=drawn)
        for k in range(1, len(row.target.classes))
    }
