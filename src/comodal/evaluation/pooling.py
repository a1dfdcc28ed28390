"""Pooled metrics of stored cases under given weights, and the rows of a table that are compared by them.

A bootstrap over several runs at once needs both.

Axis letters: N cases, K classes, R resamples.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from comodal.errors import DataError, message
from comodal.evaluation.class_metrics import at_least
from comodal.evaluation.classification import as_columns, metric_columns
from comodal.evaluation.metrics import name_parts, threshold_of
from comodal.evaluation.results import CaseResult, Results

Floats = NDArray[np.float64]
Classes = Mapping[str, Sequence[str]]  # {target: its classes, in the order of the probabilities}


def pooled_samples(name: str, cases: Sequence[CaseResult], weights: Floats, *, classes: Classes | None = None) -> Floats:
    """A pooled metric of one run under each row of weights.

    Args:
        name: "<metric>/<target>", "<metric>/<target>/<class>" or "AUROC/<target>/>=<k>".
        cases: N cases with probabilities and truth of the target.
        weights: (R, N) how often each case counts; ones give the metric itself.
        classes: {target: classes}; needed only for the metric of one class.

    Returns:
        (R,), NaN where the metric is not defined. Classes that the cases themselves leave undefined are left out of its mean.

    >>> of = {"group": "p", "present": ("t1",)}
    >>> one = CaseResult(subject="a", probabilities={"d": [0.8, 0.2]}, targets={"d": 0}, **of)
    >>> two = CaseResult(subject="b", probabilities={"d": [0.1, 0.9]}, targets={"d": 1}, **of)
    >>> pooled_samples("AUROC/d", [one, two], np.ones((1, 2))).tolist()
    [1.0]
    """
    metric, target, label = name_parts(name)
    if not cases or any(case.probabilities is None or case.targets is None or target not in case.targets for case in cases):
        return np.full(len(weights), np.nan)
    probabilities = np.array([(case.probabilities or {})[target] for case in cases], dtype=float)
    answers = [(case.targets or {})[target] for case in cases]
    several = isinstance(answers[0], list)
    truth = as_columns(answers, probabilities.shape[1])
    if label:
        names = list((classes or {}).get(target, ()))
        k = threshold_of(label, names)
        if k is not None:
            probabilities, truth, names = at_least(probabilities), at_least(truth), [label] * (len(names) - 1)
        elif label not in names:
            return np.full(len(weights), np.nan)
        k = names.index(label) if k is None else k - 1
        return metric_columns(metric, probabilities[:, [k]], truth[:, [k]], several=True, weights=weights)[:, 0]
    columns = metric_columns(metric, probabilities, truth, several=several, weights=weights)
    defined = ~np.isnan(metric_columns(metric, probabilities, truth, several=several)[0])
    return np.asarray(columns[:, defined].mean(axis=1)) if defined.any() else np.full(len(weights), np.nan)


def mean_samples(
    name: str,
    runs: Sequence[Sequence[CaseResult]],
    cases: Sequence[str],
    *,
    weights: Floats,
    classes: Classes | None = None,
) -> Floats:
    """A pooled metric under each row of weights, averaged over runs.

    Args:
        name: As in `pooled_samples`.
        runs: The cases of each, all of one row of the table; those that are not in `cases` do not count.
        cases: N ids, of cases with a truth of the target.
        weights: (R, N) how often each of `cases` counts.
        classes: As in `pooled_samples`.

    Returns:
        (R,) the mean over the runs that define it; NaN where none does.
    """
    place, samples = {case: i for i, case in enumerate(cases)}, []
    for rows in runs:
        known = [case for case in rows if case.subject in place]
        samples.append(pooled_samples(name, known, weights[:, [place[case.subject] for case in known]], classes=classes))
    return nanmean(np.stack(samples, axis=1)) if samples else np.full(len(weights), np.nan)


def is_positive(name: str, answer: int | Sequence[float | None] | None, classes: Classes) -> bool | None:
    """Whether a case counts as positive in an area of one class against the rest; None where its truth is not known.

    Args:
        name: "<metric>/<target>" of two classes, else as in `pooled_samples`.
        answer: The truth of the case, as results hold it.
        classes: As in `pooled_samples`.

    >>> is_positive("AUROC/edema/>=2", 1, {"edema": ("none", "mild", "severe")})
    False
    """
    _, target, label = name_parts(name)
    names = list(classes.get(target, ()))
    if answer is None or (label and label not in names and threshold_of(label, names) is None):
        return None
    if not isinstance(answer, int):
        found = answer[names.index(label)] if label else None
        return None if found is None else found > 0.5
    k = threshold_of(label, names)
    return answer >= k if k is not None else answer == (names.index(label) if label else 1)


def nanmean(values: Floats) -> Floats:
    """Mean over the last axis of what is known; NaN where nothing is."""
    known = ~np.isnan(values)
    with np.errstate(invalid="ignore"):
        return np.asarray(np.where(known, values, 0.0).sum(axis=-1) / known.sum(axis=-1))


@dataclass(frozen=True)
class Arm:
    """One row of the table of one method, run by run: what is compared with that of another.

    Attributes:
        runs: The cases of each run (seed or fold).
        classes: {target: classes}; empty where the results are older.
    """

    runs: tuple[tuple[CaseResult, ...], ...]
    classes: Classes

    def truths(self, target: str) -> dict[str, int | list[float | None]]:
        """{case: truth} of the cases that have one, each once."""
        known = (case for run in self.runs for case in run if target in (case.probabilities or {}))
        return {case.subject: case.targets[target] for case in known if case.targets is not None and target in case.targets}

    def groups(self) -> dict[str, str]:
        """{case: patient}."""
        return {case.subject: case.group for run in self.runs for case in run}

    def targets(self) -> tuple[str, ...]:
        """Targets of classes that some case has, in their order."""
        return tuple(dict.fromkeys(name for run in self.runs for case in run for name in case.targets or {}))

    def mean_probabilities(self, target: str, cases: Sequence[str]) -> Floats:
        """(N, K) of each of these cases, averaged over the runs that have it: an ensemble of the runs."""
        found: dict[str, list[list[float]]] = {}
        for run in self.runs:
            for case in run:
                if target in (case.probabilities or {}):
                    found.setdefault(case.subject, []).append((case.probabilities or {})[target])
        return np.array([np.mean(found[case], axis=0) for case in cases])


ArmLike: TypeAlias = "Results | Sequence[Results] | Arm"


def arm_of(results: ArmLike, present: Sequence[str] | None = None) -> Arm:
    """One row of one or several runs.

    Args:
        results: Of one method; an `Arm` is returned as it is.
        present: Which row; None takes of each run the one with most modalities among those with cases.
    """
    if isinstance(results, Arm):
        return results
    results = [results] if isinstance(results, Results) else list(results)
    runs = []
    for result in results:
        rows = [frozenset(case.present) for case in result.cases] if present is None else [frozenset(present)]
        row = max(rows, key=len, default=None)
        runs.append(tuple(case for case in result.cases if frozenset(case.present) == row))
    return Arm(tuple(runs), {target: names for result in results for target, names in result.classes.items()})


def common_row(methods: Sequence[ArmLike]) -> tuple[str, ...] | None:
    """The row in which methods are compared: what is given in it, all were tested with, and they use most of it.

    Args:
        methods: Results of each; an `Arm` has its row already. Runs without a case do not count.

    Returns:
        Of the rows that all runs of all methods have that in which most modalities were used, by any of them; of equals that
        which gives fewest, so that cases count which lack what nobody reads. None where they have no row in common.
    """
    runs: list[dict[frozenset[str], set[str]]] = []
    for run in filter(None, (run for results in methods for run in _runs(results))):
        rows: dict[frozenset[str], set[str]] = {}
        for case in run:
            rows.setdefault(frozenset(case.present), set()).update(_used(case))
        runs.append(rows)
    shared = set.intersection(*(set(rows) for rows in runs)) if runs else set[frozenset[str]]()
    if not shared:
        return None
    used = {row: set[str]().union(*(rows[row] for rows in runs)) for row in shared}
    best = min(shared, key=lambda row: (-len(used[row]), len(row), sorted(row)))
    return tuple(sorted(best))


def _runs(results: ArmLike) -> list[tuple[CaseResult, ...]]:
    """The cases of each run."""
    if isinstance(results, Arm):
        return list(results.runs)
    return [run.cases for run in ([results] if isinstance(results, Results) else results)]


def used_by(arm: Arm) -> tuple[str, ...]:
    """The modalities that an arm used of any case, sorted by name."""
    return tuple(sorted({name for run in arm.runs for case in run for name in _used(case)}))


def _used(case: CaseResult) -> tuple[str, ...]:
    """What a case's prediction used; all that was given where results of earlier versions do not say it."""
    return case.present if case.used is None else case.used


def common_cases(arms: Sequence[Arm], target: str) -> list[str]:
    """The cases that have a truth and probabilities of a target in all arms, sorted.

    Args:
        arms: At least one.
        target: Name.

    Raises:
        DataError: Arms disagree on the truth of a case: then they were evaluated on different data.
    """
    truths = [arm.truths(target) for arm in arms]
    common = sorted(set.intersection(*(set(one) for one in truths)))
    for case in common:
        if any(one[case] != truths[0][case] for one in truths):
            got = ", ".join(str(one[case]) for one in truths)
            do = "Compare results of the same cohort"
            raise DataError(message("results", f"agree on the truth of {target}", got, subject=case, do=do))
    return common
