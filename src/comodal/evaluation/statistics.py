"""Intervals and tests over patients: bootstrap by patient, paired differences on common cases, Holm's correction.

A patient may have several cases (sessions, studies). Cases of one patient are resampled together, since they are not
independent of each other.

The percentile interval is too narrow where there are few patients. Simulated coverage of the nominal 95 % interval of a mean
(2000 trials each; normal values / values skewed as DSC is, beta(4, 1.2)): 5 patients 84 / 82 %, 6: 86 / 85 %, 10: 91 / 89 %,
20: 92 / 92 %, 50: 94 / 94 %. So below 6 patients there is none, and below 20 its results say that it is too narrow.

Axis letters: N cases, G groups (patients), R resamples.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

from comodal.errors import ConfigError, message

Floats = NDArray[np.float64]
Interval: TypeAlias = tuple[float, float]

RESAMPLES = 2000
MIN_PATIENTS = 6  # for an interval
FEW_PATIENTS = 20  # below, an interval is said to be too narrow
TOO_FEW = f"too few patients for an interval (fewer than {MIN_PATIENTS})"
TOO_NARROW = f"intervals of fewer than {FEW_PATIENTS} patients are too narrow"


@lru_cache(maxsize=16)
def _group_counts(groups: int, resamples: int, seed: int) -> Floats:
    """(R, G) how often each group is drawn in each resample. Cached: the rows of a table share their resamples."""
    draws = np.random.default_rng(seed).integers(0, groups, (resamples, groups))
    flat = draws + groups * np.arange(resamples)[:, None]
    counts = np.bincount(flat.ravel(), minlength=groups * resamples).reshape(resamples, groups).astype(float)
    counts.setflags(write=False)
    return counts


def _group_numbers(size: int, groups: Sequence[str] | None) -> tuple[NDArray[np.int64], int]:
    """(N,) the number of each case's group, and how many groups there are."""
    if groups is None:
        return np.arange(size), size
    if len(groups) != size:
        rule = f"have one entry per case ({size})"
        raise ConfigError(message("groups", rule, len(groups), do="Give the patient of each case"))
    names, numbers = np.unique(np.asarray(groups, dtype=str), return_inverse=True)
    return numbers.astype(np.int64), len(names)


def resampling_weights(
    size: int, groups: Sequence[str] | None = None, *, resamples: int = RESAMPLES, seed: int = 0
) -> Floats | None:
    """How often each case counts in each resample of a bootstrap over patients.

    Args:
        size: Number of cases, N.
        groups: The patient of each case; None: each case is a patient.
        resamples: R.
        seed: Of the resampling.

    Returns:
        (R, N) float counts; None where there are fewer than MIN_PATIENTS patients: their resamples say too little.
    """
    numbers, count = _group_numbers(size, groups)
    return None if count < MIN_PATIENTS else _group_counts(count, resamples, seed)[:, numbers]


def interval_of(statistics: Floats) -> Interval | None:
    """The central 95 % of resampled statistics.

    Args:
        statistics: (R,); NaN where a resample does not define the statistic.

    Returns:
        (low, high); None where more than half of the resamples do not define it.
    """
    defined = statistics[~np.isnan(statistics)]
    if 2 * len(defined) <= len(statistics):
        return None
    low, high = np.percentile(defined, (2.5, 97.5))
    return float(low), float(high)


def bootstrap_p(differences: Floats) -> float | None:
    """Two-sided p value of a difference from its bootstrap distribution.

    It is twice the smaller share of resamples on either side of 0, each counted with the data themselves as one more. So it is
    below 0.05 about where the percentile interval leaves out 0, and never below 2 / (R + 1).

    Args:
        differences: (R,) one per resample; NaN where a resample does not define it.

    Returns:
        At most 1; None where more than half of the resamples do not define it, as in `interval_of`.

    >>> bootstrap_p(np.full(1999, 0.1)), bootstrap_p(np.zeros(1999))
    (0.001, 1.0)
    """
    defined = differences[~np.isnan(differences)]
    if 2 * len(defined) <= len(differences):
        return None
    defined = np.round(defined, 12)  # 0.7 - 0.6 and 0.8 - 0.7 are the same, and what is 0 but for rounding is 0
    side = min(int((defined <= 0).sum()), int((defined >= 0).sum()))
    return min(2 * (side + 1) / (len(defined) + 1), 1.0)


def bootstrap_interval(
    values: ArrayLike, groups: Sequence[str] | None = None, *, resamples: int = RESAMPLES, seed: int = 0
) -> Interval | None:
    """95 % percentile bootstrap interval of the mean over cases, resampling patients.

    Args:
        values: (N,) one number per case; NaN is left out.
        groups: The patient of each case; None: each case is a patient.
        resamples: How many.
        seed: Of the resampling; the same seed and the same patients give the same resamples.

    Returns:
        (low, high), or None for fewer than MIN_PATIENTS patients; see `interval_note`.

    >>> bootstrap_interval([0.5] * 5) is None
    True
    >>> bootstrap_interval([0.5] * 6)
    (0.5, 0.5)
    """
    values = np.asarray(values, dtype=float)
    numbers, _ = _group_numbers(len(values), groups)
    kept = ~np.isnan(values)
    _, numbers = np.unique(numbers[kept], return_inverse=True)
    count = int(numbers.max()) + 1 if len(numbers) else 0
    if count < MIN_PATIENTS:
        return None
    counts = _group_counts(count, resamples, seed)
    sums, sizes = np.bincount(numbers, weights=values[kept]), np.bincount(numbers).astype(float)
    return interval_of((counts @ sums) / (counts @ sizes))


def interval_note(patients: int) -> str | None:
    """What a reader must know about an interval over so many patients, or about its absence.

    >>> interval_note(5), interval_note(19), interval_note(20)
    ('too few patients for an interval (fewer than 6)', 'intervals of fewer than 20 patients are too narrow', None)
    """
    return TOO_FEW if patients < MIN_PATIENTS else TOO_NARROW if patients < FEW_PATIENTS else None


@dataclass(frozen=True)
class Difference:
    """A paired difference of two runs on their common cases.

    Attributes:
        value: Mean of a - b over cases; None without a common case.
        ci95: Bootstrap interval over patients; None for fewer than MIN_PATIENTS.
        n: Common cases on which both have a number.
        p_value: Wilcoxon signed-rank test, two-sided, on the mean difference of each patient; None for fewer than two.
    """

    value: float | None
    ci95: Interval | None
    n: int
    p_value: float | None


def _wilcoxon(differences: Floats) -> float | None:
    """Two-sided p. Patients without a difference are dropped (Wilcoxon); where nobody differs there is no evidence: 1."""
    from scipy import stats

    if len(differences) < 2:
        return None
    differences = np.round(differences, 12)  # 0.7 - 0.6 and 0.8 - 0.7 are ties
    changed = differences[differences != 0]
    return float(stats.wilcoxon(changed).pvalue) if len(changed) else 1.0


def paired_difference(
    a: Mapping[str, float | None],
    b: Mapping[str, float | None],
    *,
    groups: Mapping[str, str] | None = None,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Difference:
    """Mean difference a - b over the cases that both have, with interval and test.

    Args:
        a: {case: number}; None or NaN is left out.
        b: {case: number}.
        groups: {case: patient}; None: each case is a patient.
        resamples: Of the bootstrap.
        seed: Of the bootstrap.

    Returns:
        See `Difference`. Correct several of them with `holm`.

    >>> paired_difference({"p1": 0.9, "p2": 0.7}, {"p1": 0.8, "p2": 0.7, "p3": 0.1}).n
    2
    """
    common = [case for case in a if _number(a[case]) and _number(b.get(case))]
    differences = np.array([float(a[case] or 0) - float(b[case] or 0) for case in common])
    patients = [groups[case] if groups else case for case in common]
    numbers, count = _group_numbers(len(common), patients)
    of_patient = np.bincount(numbers, weights=differences, minlength=count) / np.bincount(numbers, minlength=count)
    return Difference(
        value=float(differences.mean()) if common else None,
        ci95=bootstrap_interval(differences, patients, resamples=resamples, seed=seed),
        n=len(common),
        p_value=_wilcoxon(of_patient),
    )


def _number(value: float | None) -> bool:
    return value is not None and not np.isnan(value)


def holm(p_values: Sequence[float | None]) -> list[float | None]:
    """Holm's step-down correction for several tests; None stays None and does not count as a test.

    >>> holm([0.01, None, 0.04])
    [0.02, None, 0.04]
    """
    # By hand: the function of statsmodels collects the garbage of the whole process each time, which takes longer than a table.
    known = np.array([p for p in p_values if p is not None], dtype=float)
    order = np.argsort(known, kind="stable")
    stepped = np.maximum.accumulate(known[order] * np.arange(len(known), 0, -1)) if len(known) else known
    corrected = np.empty_like(known)
    corrected[order] = np.minimum(stepped, 1.0)
    values = iter(corrected.tolist())
    return [None if p is None else next(values) for p in p_values]
