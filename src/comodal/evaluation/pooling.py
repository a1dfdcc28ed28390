"""Pooled metrics of stored cases under given weights: what a bootstrap over several runs at once needs.

Axis letters: N cases, K classes, R resamples.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from comodal.evaluation.classification import as_columns, metric_columns
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
    columns = metric_columns(metric, probabilities, truth, several=several, weights=weights)
    defined = ~np.isnan(metric_columns(metric, probabilities, truth, several=several)[0])
    return np.asarray(columns[:, defined].mean(axis=1)) if defined.any() else np.full(len(weights), np.nan)
