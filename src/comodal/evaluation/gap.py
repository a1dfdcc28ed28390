"""How much of the gap between a method and its upper bound another one closes: (guided - inferior) / (upper - inferior).

A ratio of two differences has no meaning where the gap itself may be nothing: then none is given, and it is said. Where there
is a gap, some resamples of the bootstrap may still have none; they are left out of the interval and their share is told.

Axis letters: N cases, R resamples.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from comodal.evaluation.metrics import metric as metric_of
from comodal.evaluation.metrics import name_parts
from comodal.evaluation.pooling import ArmLike, arm_of, common_cases, mean_samples
from comodal.evaluation.statistics import RESAMPLES, Interval, interval_of, resampling_weights

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class GapClosed:
    """The share of a gap that is closed, with what it is made of; more is better throughout, also of ECE.

    Attributes:
        metric: Name as in the results.
        value: The share: 0 as the inferior, 1 as the upper bound; it may lie outside. None where it is not defined.
        ci95: 95 % percentile interval over patients, of the resamples with a gap above 0.
        gap: Upper minus inferior.
        gap_ci95: Its interval.
        gained: Guided minus inferior.
        gained_ci95: Its interval.
        n: Cases that all three have.
        without_gap: Share of the resamples whose gap is not above 0; None without resamples.
        note: Why there is no value.
    """

    metric: str
    value: float | None
    ci95: Interval | None
    gap: float | None
    gap_ci95: Interval | None
    gained: float | None
    gained_ci95: Interval | None
    n: int
    without_gap: float | None = None
    note: str | None = None


def gap_closed(
    inferior: ArmLike,
    guided: ArmLike,
    upper: ArmLike,
    *,
    metric: str,
    present: Sequence[Sequence[str] | None] = (None, None, None),
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> GapClosed:
    """The share of the gap between inferior and upper that guided closes, on the cases that all have.

    Args:
        inferior: Results of the method to be improved: one run, or one per seed or fold.
        guided: Of the improved one.
        upper: Of the one that has what the others lack.
        metric: A pooled one with its target, "AUROC/diagnosis"; of several runs it is averaged over them.
        present: The row of each; None takes the one with most modalities.
        resamples: Of the bootstrap: the same patients for all three.
        seed: Of the bootstrap.

    Returns:
        See `GapClosed`. It has a value only where the interval of the gap lies above 0.

    Raises:
        DataError: They disagree on the truth of a case.
    """
    arms = [arm_of(given, row) for given, row in zip((inferior, guided, upper), present, strict=True)]
    cases = common_cases(arms, name_parts(metric)[1])
    if not cases:
        return GapClosed(metric, None, None, None, None, None, None, 0, note="no case that all three have")
    sign = 1.0 if metric_of(metric).better == "higher" else -1.0

    def apart(weights: Floats) -> tuple[Floats, Floats]:
        """(R,) the gap, and what of it is gained."""
        low, middle, high = (mean_samples(metric, arm.runs, cases, weights=weights, classes=arm.classes) for arm in arms)
        return sign * (high - low), sign * (middle - low)

    gap, gained = (float(values[0]) for values in apart(np.ones((1, len(cases)))))
    if math.isnan(gap) or math.isnan(gained):
        return GapClosed(metric, None, None, None, None, None, None, len(cases), note=f"{metric} is not defined")
    patients = arms[0].groups()
    weights = resampling_weights(len(cases), [patients[case] for case in cases], resamples=resamples, seed=seed)
    if weights is None:
        note = "too few patients to know whether there is a gap"
        return GapClosed(metric, None, None, gap, None, gained, None, len(cases), note=note)
    gaps, gains = apart(weights)
    known = ~np.isnan(gaps) & ~np.isnan(gains)
    some = known & (np.round(gaps, 12) > 0)
    without = 1 - float(some.sum()) / max(int(known.sum()), 1)
    of_gap, of_gain = interval_of(gaps), interval_of(gains)
    parts = gap, of_gap, gained, of_gain, len(cases), without
    if of_gap is None or of_gap[0] <= 0:
        note = "not defined: the gap is not clearly above 0"
        return GapClosed(metric, None, None, *parts, note=note)
    return GapClosed(metric, gained / gap, interval_of(gains[some] / gaps[some]), *parts)
