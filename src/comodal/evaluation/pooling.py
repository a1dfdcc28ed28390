"""Pooled metrics of stored cases under given weights: what a bootstrap over several runs at once needs.

Axis letters: N cases, K classes, R resamples.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from comodal.evaluation.classification import as_columns, auroc, recalls
from comodal.evaluation.results import CaseResult

Floats = NDArray[np.float64]


def pooled_samples(name: str, cases: Sequence[CaseResult], weights: Floats) -> Floats:
    """A pooled metric of one run under each row of weights.

    Args:
        name: "AUROC/<target>", "balanced_accuracy/<target>" or "accuracy/<target>".
        cases: N cases with probabilities and truth of the target.
        weights: (R, N) how often each case counts; ones give the metric itself.

    Returns:
        (R,), NaN where the metric is not defined. Classes that the cases themselves leave undefined are left out of its mean.

    >>> of = {"group": "p", "present": ("t1",)}
    >>> one = CaseResult(subject="a", probabilities={"d": [0.8, 0.2]}, targets={"d": 0}, **of)
    >>> two = CaseResult(subject="b", probabilities={"d": [0.1, 0.9]}, targets={"d": 1}, **of)
    >>> pooled_samples("AUROC/d", [one, two], np.ones((1, 2))).tolist()
    [1.0]
    """
    metric, _, target = name.partition("/")
    if not cases or any(case.probabilities is None or case.targets is None or target not in case.targets for case in cases):
        return np.full(len(weights), np.nan)
    probabilities = np.array([(case.probabilities or {})[target] for case in cases], dtype=float)
    answers = [(case.targets or {})[target] for case in cases]
    several = isinstance(answers[0], list)
    truth = as_columns(answers, probabilities.shape[1])
    columns = _columns(metric, probabilities, truth, several, weights)
    defined = ~np.isnan(_columns(metric, probabilities, truth, several, np.ones((1, len(cases))))[0])
    return np.asarray(columns[:, defined].mean(axis=1)) if defined.any() else np.full(len(weights), np.nan)


def _columns(metric: str, probabilities: Floats, truth: Floats, several: bool, weights: Floats) -> Floats:
    """(R, columns): the parts whose plain mean is the metric, as in `classification.pooled_metrics`."""
    size = probabilities.shape[1]
    if metric == "AUROC":
        part = slice(1, 2) if size == 2 and not several else slice(None)
        return auroc(probabilities[:, part], truth[:, part], weights)
    yes = probabilities >= 0.5 if several else np.eye(size, dtype=bool)[probabilities.argmax(axis=1)]
    if metric == "balanced_accuracy":
        found = recalls(yes, truth, weights)
        return np.concatenate([found, recalls(~yes, 1 - truth, weights)], axis=1) if several else found
    known = ~np.isnan(truth)
    right = ((yes == (truth > 0.5)) & known).astype(float)
    if not several:
        right, known = right.all(axis=1)[:, None], np.ones((len(right), 1), dtype=bool)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray((weights @ right.sum(axis=1)) / (weights @ known.sum(axis=1).astype(float)))[:, None]
