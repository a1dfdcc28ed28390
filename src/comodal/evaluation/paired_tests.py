"""Two methods on the same cases: McNemar's exact test, DeLong's test of two AUROCs, and the paired bootstrap over patients.

What each test asks, and of what where a method has several runs (seeds or folds):

| test | asks whether | of several runs |
| --- | --- | --- |
| McNemar, exact | one is right more often where just one is right | of the mean probabilities of each case over the runs |
| DeLong | two AUROCs of one class against the rest differ | of the same mean probabilities |
| bootstrap | two pooled metrics differ, over patients | of the metric of each run, averaged over the runs |

The mean of probabilities is an ensemble: it is mostly better than each of its runs, and where both methods have as many runs,
the p values of the pairs of runs stand beside it. McNemar and DeLong take cases as independent; only the bootstrap knows that
the sessions of a patient belong together.

Axis letters: N cases, K classes, M positive and L negative cases.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from comodal.errors import ConfigError, message
from comodal.evaluation.class_metrics import answered
from comodal.evaluation.classification import as_columns
from comodal.evaluation.pooling import Arm, ArmLike, arm_of, common_cases, common_row, mean_samples, used_by
from comodal.evaluation.statistics import (
    RESAMPLES,
    Interval,
    bootstrap_interval,
    bootstrap_p,
    holm,
    interval_of,
    resampling_weights,
)

Floats = NDArray[np.float64]
Mask = NDArray[np.bool_]
TestName = Literal["McNemar", "DeLong", "bootstrap"]
TESTED = ("AUROC", "balanced_accuracy", "accuracy")
DEPENDENT = "takes cases as independent, and some patients have several"


@dataclass(frozen=True)
class McNemar:
    """Two answers on the same cases.

    Attributes:
        b: Cases on which only the first is right.
        c: Cases on which only the second is right.
        n: Cases.
        p_value: Exact, two-sided: b of b + c under a fair coin; 1 where they never differ.
    """

    b: int
    c: int
    n: int
    p_value: float


@dataclass(frozen=True)
class DeLong:
    """Two correlated AUROCs.

    Attributes:
        first, second: The AUROCs.
        difference: First minus second.
        ci95: Of the difference, from the normal distribution; None without a variance.
        z: Difference by its standard error.
        p_value: Two-sided; None where the variance is 0 and the AUROCs differ: then the normal distribution says nothing.
    """

    first: float
    second: float
    difference: float
    ci95: Interval | None
    z: float | None
    p_value: float | None


@dataclass(frozen=True)
class PairedTest:
    """One line of a table of tests: method a against method b.

    Attributes:
        target: Name.
        label: Of several questions or classes, which one; "" where the target has one number.
        test: Which.
        metric: What `effect` is a difference of: accuracy for McNemar, AUROC for DeLong.
        effect: a minus b; None where it is not defined.
        ci95: 95 % interval of it: over patients, or DeLong's; None for too few.
        statistic: The smaller of b and c, or z.
        b, c: For McNemar, cases on which only a, and only b, is right.
        n: Cases that both have.
        used: The modalities that a used, sorted by name.
        used_b: Those that b used.
        p_value: Two-sided.
        p_holm: After Holm's correction over the lines of the same test and metric.
        p_runs: p of each pair of runs, in their order, where both methods have equally many, more than one; else empty.
        note: What the reader must know.
    """

    target: str
    label: str
    test: TestName
    metric: str
    effect: float | None
    ci95: Interval | None
    n: int
    used: tuple[str, ...] = ()
    used_b: tuple[str, ...] = ()
    statistic: float | None = None
    b: int | None = None
    c: int | None = None
    p_value: float | None = None
    p_holm: float | None = None
    p_runs: tuple[float | None, ...] = ()
    note: str | None = None


def mcnemar(first: ArrayLike, second: ArrayLike) -> McNemar:
    """McNemar's exact test (1947), Psychometrika 12(2), 153-157, in its binomial form.

    Args:
        first: (N,) bool: whether the first method is right on each case.
        second: (N,) the second.

    Raises:
        ConfigError: The lengths differ.

    >>> mcnemar([True] * 8 + [False] * 2, [False] * 8 + [True, False])
    McNemar(b=8, c=1, n=10, p_value=0.0390625)
    """
    one, two = np.asarray(first, dtype=bool), np.asarray(second, dtype=bool)
    if one.shape != two.shape or one.ndim != 1:
        rule = f"have one answer per case {one.shape}"
        raise ConfigError(message("mcnemar.second", rule, two.shape, do="Give both on the same cases"))
    from statsmodels.stats.contingency_tables import mcnemar as exact

    table = [[int((one & two).sum()), int((one & ~two).sum())], [int((~one & two).sum()), int((~one & ~two).sum())]]
    return McNemar(table[0][1], table[1][0], len(one), min(float(exact(table, exact=True).pvalue), 1.0))


def _components(scores: Floats, positive: Mask) -> tuple[Floats, Floats]:
    """(M,) for each positive case the share of negative ones below it, and (L,) the reverse; ties count half."""
    from scipy.stats import rankdata

    ranks = rankdata(scores)  # mid-ranks
    above, below = ranks[positive] - rankdata(scores[positive]), ranks[~positive] - rankdata(scores[~positive])
    return above / (~positive).sum(), 1 - below / positive.sum()


def delong(first: ArrayLike, second: ArrayLike, truth: ArrayLike) -> DeLong:
    """Test of two AUROCs on the same cases, DeLong et al. (1988), Biometrics 44(3), 837-845.

    By mid-ranks in O(N log N), as Sun and Xu (2014), IEEE Signal Processing Letters 21(11), 1389-1393.

    Args:
        first: (N,) scores of the first method; they need not be on the scale of the second.
        second: (N,) scores of the second.
        truth: (N,) bool.

    Raises:
        ConfigError: The lengths differ, or there are fewer than two cases on a side.

    >>> found = delong([0.1, 0.4, 0.35, 0.8], [0.1, 0.4, 0.35, 0.8], [False, False, True, True])
    >>> found.first, found.difference, found.p_value
    (0.75, 0.0, 1.0)
    """
    scores, positive = np.stack([np.asarray(s, dtype=float) for s in (first, second)]), np.asarray(truth, dtype=bool)
    sides = int(positive.sum()), int((~positive).sum())
    if scores.shape[1:] != positive.shape or min(sides) < 2:
        got = f"{scores.shape[1:]} scores, {sides[0]} and {sides[1]}"
        rule = "have one entry per score and two cases on each side"
        raise ConfigError(message("delong.truth", rule, got, do="With fewer there is no variance: use the bootstrap"))
    parts = [_components(one, positive) for one in scores]
    areas = float(parts[0][0].mean()), float(parts[1][0].mean())
    apart = [parts[0][side] - parts[1][side] for side in (0, 1)]
    variance = sum(float(np.var(d, ddof=1)) / len(d) for d in apart)
    difference = areas[0] - areas[1]
    if variance < 1e-18:  # nothing but rounding
        same = abs(difference) < 1e-9
        return DeLong(*areas, 0.0 if same else difference, None, 0.0 if same else None, 1.0 if same else None)
    from scipy.stats import norm

    error = math.sqrt(variance)
    half, z = float(norm.ppf(0.975)) * error, difference / error
    return DeLong(*areas, difference, (difference - half, difference + half), z, float(2 * norm.sf(abs(z))))


@dataclass(frozen=True)
class _Pair:
    """Both arms on their common cases of one target. truth: (N, K) float."""

    target: str
    arms: tuple[Arm, Arm]
    cases: list[str]
    truth: Floats
    several: bool
    names: tuple[str, ...]

    @property
    def groups(self) -> list[str]:
        patients = self.arms[0].groups()
        return [patients[case] for case in self.cases]

    @property
    def note(self) -> str | None:
        """For the tests that know no patients."""
        runs = [len(arm.runs) for arm in self.arms]
        told = f"{runs[0]} and {runs[1]} runs in all"
        texts = [f"of the mean probabilities of each case over those runs that test it, {told}"] if max(runs) > 1 else []
        texts += [DEPENDENT] if len(set(self.groups)) < len(self.cases) else []
        return "; ".join(texts) or None

    def probabilities(self) -> tuple[Floats, Floats]:
        one, two = (arm.mean_probabilities(self.target, self.cases) for arm in self.arms)
        return one, two

    def by_run(self) -> list[_Pair]:
        """The i-th run of one against the i-th of the other, where there are as many."""
        one, two = (arm.runs for arm in self.arms)
        if len(one) != len(two) or len(one) < 2:
            return []
        a, b = (arm.classes for arm in self.arms)
        return [_pair(self.target, Arm((first,), a), Arm((second,), b)) for first, second in zip(one, two, strict=True)]


def _pair(target: str, one: Arm, two: Arm) -> _Pair:
    cases = common_cases([one, two], target)
    truths = one.truths(target)
    answers = [truths[case] for case in cases]
    several = bool(answers) and isinstance(answers[0], list)
    size = one.mean_probabilities(target, cases[:1]).shape[1] if cases else 1
    names = tuple(one.classes.get(target) or two.classes.get(target) or map(str, range(size)))
    return _Pair(target, (one, two), cases, as_columns(answers, size), several, names)


def _right(pair: _Pair, k: int | None) -> tuple[Mask, Mask, NDArray[np.int64]]:
    """(n,) whether each answer is right, and which cases these are; k: of several questions, which."""
    known = np.arange(len(pair.cases)) if k is None else np.flatnonzero(~np.isnan(pair.truth[:, k]))
    sides = []
    for p in pair.probabilities():
        same = answered(p, several=pair.several) == (pair.truth > 0.5)
        sides.append(np.asarray((same.all(axis=1) if k is None else same[:, k])[known]))
    return sides[0], sides[1], known


def _mcnemar_row(pair: _Pair, k: int | None, *, resamples: int, seed: int) -> PairedTest:
    one, two, known = _right(pair, k)
    found, groups = mcnemar(one, two), [pair.groups[i] for i in known]
    apart = one.astype(float) - two
    return PairedTest(
        target=pair.target,
        label="" if k is None else pair.names[k],
        test="McNemar",
        metric="accuracy",
        effect=float(apart.mean()) if len(apart) else None,
        ci95=bootstrap_interval(apart, groups, resamples=resamples, seed=seed) if len(apart) else None,
        n=found.n,
        statistic=float(min(found.b, found.c)),
        b=found.b,
        c=found.c,
        p_value=found.p_value,
        p_runs=tuple(mcnemar(*_right(run, k)[:2]).p_value if run.cases else None for run in pair.by_run()),
        note=pair.note,
    )


def _delong_of(pair: _Pair, k: int) -> DeLong | None:
    known = ~np.isnan(pair.truth[:, k])
    positive = pair.truth[known, k] > 0.5
    if min(positive.sum(), (~positive).sum()) < 2:
        return None
    one, two = (p[known, k] for p in pair.probabilities())
    return delong(one, two, positive)


def _delong_row(pair: _Pair, k: int, label: str) -> PairedTest:
    n, found = int((~np.isnan(pair.truth[:, k])).sum()), _delong_of(pair, k)
    row = PairedTest(pair.target, label, "DeLong", "AUROC", None, None, n, note="fewer than two cases on a side")
    if found is None:
        return row
    runs = [_delong_of(run, k) if run.cases else None for run in pair.by_run()]
    return replace(
        row,
        effect=found.difference,
        ci95=found.ci95,
        statistic=found.z,
        p_value=found.p_value,
        p_runs=tuple(None if one is None else one.p_value for one in runs),
        note=pair.note if found.p_value is not None else "not defined: no variance",
    )


def _bootstrap_row(pair: _Pair, metric: str, *, resamples: int, seed: int) -> PairedTest:
    def samples(weights: Floats) -> Floats:
        one, two = (
            mean_samples(f"{metric}/{pair.target}", arm.runs, pair.cases, weights=weights, classes=arm.classes)
            for arm in pair.arms
        )
        return one - two

    effect = float(samples(np.ones((1, len(pair.cases))))[0])
    weights = resampling_weights(len(pair.cases), pair.groups, resamples=resamples, seed=seed)
    drawn = np.full(1, np.nan) if weights is None else samples(weights)
    runs = [len(arm.runs) for arm in pair.arms]
    return PairedTest(
        target=pair.target,
        label="",
        test="bootstrap",
        metric=metric,
        effect=None if math.isnan(effect) else effect,
        ci95=interval_of(drawn),
        n=len(pair.cases),
        p_value=bootstrap_p(drawn),
        note=f"mean over {runs[0]} and {runs[1]} runs" if max(runs) > 1 else None,
    )


def paired_tests(
    a: ArmLike,
    b: ArmLike,
    *,
    targets: Sequence[str] | None = None,
    present: Sequence[str] | None = None,
    present_b: Sequence[str] | None = None,
    metrics: Sequence[str] = TESTED,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> list[PairedTest]:
    """All tests of two methods over all targets of classes, on the cases that both have.

    Args:
        a: The results of one method: one run, or one per seed or fold.
        b: Those of the other.
        targets: Which; None takes all that both have.
        present: The row of the table of both, as the modalities that are given; None takes `common_row`, and where they have
            none in common, the row with most modalities of each.
        present_b: The row of b, where it is another one; with None for `present` that of a is then the one with most.
        metrics: Pooled metrics that the bootstrap compares.
        resamples: Of the bootstrap.
        seed: Of the bootstrap.

    Returns:
        Target by target: McNemar (of multilabel, for each question), DeLong (of two classes one, of more or of questions for
        each), and the bootstrap for each metric. Classes and questions that none of the cases has, or all have, are left out:
        no AUROC is defined, and each would count as a test.
        Holm's correction runs over the lines of the same test and metric.

    Raises:
        DataError: They disagree on the truth of a case.
    """
    if present is None and present_b is None:
        present = common_row([a, b])
    one, two = arm_of(a, present), arm_of(b, present if present_b is None else present_b)
    names = [name for name in one.targets() if name in two.targets()] if targets is None else list(targets)
    rows: list[PairedTest] = []
    for name in names:
        pair = _pair(name, one, two)
        if not pair.cases:
            continue
        size = pair.truth.shape[1]
        told = [k for k in range(size) if len(set(pair.truth[~np.isnan(pair.truth[:, k]), k].tolist())) > 1]
        questions: list[int | None] = [*told] if pair.several else [None]
        rows += [_mcnemar_row(pair, k, resamples=resamples, seed=seed) for k in questions]
        binary = size == 2 and not pair.several
        rows += [_delong_row(pair, k, "" if binary else pair.names[k]) for k in (told[1:] if binary else told)]
        rows += [_bootstrap_row(pair, metric, resamples=resamples, seed=seed) for metric in metrics]
    rows = [replace(row, used=used_by(one), used_b=used_by(two)) for row in rows]
    return _corrected(rows, lambda row: (row.test, row.metric))


def _corrected(rows: Sequence[PairedTest], family: Callable[[PairedTest], tuple[str, str]]) -> list[PairedTest]:
    out = list(rows)
    for one in dict.fromkeys(family(row) for row in rows):
        places = [i for i, row in enumerate(rows) if family(row) == one]
        for i, p in zip(places, holm([rows[i].p_value for i in places]), strict=True):
            out[i] = replace(rows[i], p_holm=p)
    return out
