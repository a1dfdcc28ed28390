"""Several runs in one table: per case averaged over seeds first, then over subjects; methods compared case by case.

Seeds are no subjects: three runs on 20 patients are 20 patients. So a case's value is first averaged over the runs of a method
(over those that have it: folds test different cases), and n, intervals and tests count the patients behind the averages.
Pooled metrics (AUROC) have no value per case: there the runs' values are averaged, on the same resamples of patients.

Axis letters: N cases, S rows of the table (subsets), R resamples of the bootstrap.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from comodal.errors import DataError, message
from comodal.evaluation.metrics import metric as metric_of
from comodal.evaluation.pooling import pooled_samples
from comodal.evaluation.results import CaseResult, MetricValue, Results, SubsetResult
from comodal.evaluation.statistics import (
    RESAMPLES,
    Interval,
    bootstrap_interval,
    holm,
    interval_of,
    paired_difference,
    resampling_weights,
)
from comodal.modality import subsets

State = Literal["value", "not supported", "not run", "no cases"]
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Cell:
    """One number of the table with what it rests on.

    Attributes:
        state: "value"; "not supported": the method cannot predict from this subset; "not run": nobody evaluated it;
            "no cases": evaluated, but no case counts under the convention.
        value: Mean over cases of the case's mean over runs, or for pooled metrics the mean over runs; NaN without a value.
        ci95: 95 % interval over patients; None where there is none.
        n: Cases behind the value.
        n_pos, n_neg: Of these, cases with and without the class, where the results say so.
        runs: Runs behind the value.
    """

    state: State
    value: float = math.nan
    ci95: Interval | None = None
    n: int = 0
    n_pos: int | None = None
    n_neg: int | None = None
    runs: int = 0


@dataclass(frozen=True)
class Contrast:
    """A method minus the reference, on the cases that both have.

    Attributes:
        value: Mean of the differences per case (pooled metrics: difference of the two values); None without common cases.
        ci95: 95 % interval over patients; None for fewer than two.
        n: Cases that both have.
        p_value: Wilcoxon signed-rank test over patients; None for pooled metrics and for fewer than two patients.
        p_holm: The same after Holm's correction over the rows and methods of this metric.
    """

    value: float | None
    ci95: Interval | None
    n: int
    p_value: float | None = None
    p_holm: float | None = None


@dataclass(frozen=True)
class StudyRow:
    """One subset of modalities or, with `present` empty, the average over subsets.

    Attributes:
        present: The modalities, in canonical order.
        cells: {method: {metric: Cell}}.
        contrasts: {method: {metric: Contrast}}, without the reference; only where both methods have a value.
    """

    present: tuple[str, ...]
    cells: Mapping[str, Mapping[str, Cell]]
    contrasts: Mapping[str, Mapping[str, Contrast]] = field(default_factory=dict)


@dataclass(frozen=True)
class StudyTable:
    """All methods, all subsets.

    Attributes:
        methods: Labels, in the order given.
        reference: The method with which the others are compared: the first.
        modalities: In canonical order.
        metrics: Names as in the results ("DSC/WT").
        rows: Subsets, small first.
        average: The plain mean over the rows of `averaged`, each row counting once; None where there are none.
        averaged: The subsets from which every evaluated method has values: otherwise averages would not be comparable.
        runs: {method: number of runs (seeds, folds)}.
        hd95_unit: "mm", "voxel" where the files state no spacing, "mixed" where only some do.
    """

    methods: tuple[str, ...]
    reference: str
    modalities: tuple[str, ...]
    metrics: tuple[str, ...]
    rows: tuple[StudyRow, ...]
    average: StudyRow | None
    averaged: tuple[tuple[str, ...], ...]
    runs: Mapping[str, int]
    hd95_unit: str = "mm"


def combine(
    results_by_method: Mapping[str, Sequence[Results]],
    *,
    modalities: Sequence[str] | None = None,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> StudyTable:
    """Puts the runs of one or several methods into one table.

    Args:
        results_by_method: {label: one result per seed or fold}; an empty list is a method that was not run.
        modalities: In canonical order; then every subset of them has a row, if only to say "not run". Without it, the rows
            are those of the results.
        resamples: Of the bootstrap.
        seed: Of the bootstrap.

    Returns:
        The table. The first method is the reference of the differences.

    Raises:
        DataError: No method at all.
    """
    if not results_by_method:
        raise DataError(message("combine", "get at least one method", "none", do="Give {label: [results]}"))
    book = _Book(results_by_method, resamples, seed)
    order, present = _rows(results_by_method, modalities)
    metrics = tuple(dict.fromkeys(name for runs in book.results.values() for run in runs for name in run.metric_names))
    rows = [
        StudyRow(p, {m: {k: book.cell(m, p, k) for k in metrics} for m in book.methods}, book.contrasts([p], metrics))
        for p in present
    ]
    evaluated = [m for m in book.methods if book.results[m]]
    averaged = tuple(row.present for row in rows if evaluated and all(_has_values(row, m) for m in evaluated))
    average = None
    if averaged:
        cells = {m: {k: book.average(m, averaged, k) for k in metrics} for m in book.methods}
        average = _corrected([StudyRow((), cells, book.contrasts(averaged, metrics))], metrics)[0]
    return StudyTable(
        methods=book.methods,
        reference=book.methods[0],
        modalities=order,
        metrics=metrics,
        rows=tuple(_corrected(rows, metrics)),
        average=average,
        averaged=averaged,
        runs={m: len(runs) for m, runs in book.results.items()},
        hd95_unit=_unit([run for runs in book.results.values() for run in runs]),
    )


def _rows(
    results: Mapping[str, Sequence[Results]], modalities: Sequence[str] | None
) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """Canonical order of the modalities, and the rows, small first."""
    seen = [row.present for runs in results.values() for run in runs for row in run.subsets]
    longest = max(seen, key=len, default=())
    order = tuple(dict.fromkeys([*(modalities or longest), *(name for present in seen for name in present)]))
    known = {tuple(name for name in order if name in present) for present in seen}
    if modalities:
        known |= set(subsets(modalities))
    return order, sorted(known, key=lambda present: (len(present), [order.index(name) for name in present]))


def _unit(results: Sequence[Results]) -> str:
    units = {run.conventions.hd95_unit for run in results} or {"mm"}
    return units.pop() if len(units) == 1 else "mixed"


def _has_values(row: StudyRow, method: str) -> bool:
    return any(cell.state == "value" for cell in row.cells[method].values())


def _corrected(rows: Sequence[StudyRow], metrics: Sequence[str]) -> list[StudyRow]:
    """Holm's correction, metric by metric, over all these rows and all methods."""
    out = [{m: dict(by) for m, by in row.contrasts.items()} for row in rows]
    for name in metrics:
        places = [(by, by[name]) for row in out for by in row.values() if name in by]
        for (by, contrast), p in zip(places, holm([c.p_value for _, c in places]), strict=True):
            by[name] = replace(contrast, p_holm=p)
    return [replace(row, contrasts=by) for row, by in zip(rows, out, strict=True)]


class _Book:
    """The results, indexed by method and subset, and the arithmetic on them."""

    def __init__(self, results: Mapping[str, Sequence[Results]], resamples: int, seed: int) -> None:
        self.results = {method: list(runs) for method, runs in results.items()}
        self.methods = tuple(self.results)
        self.resamples, self.seed = resamples, seed
        self.groups = {
            case: patient for runs in self.results.values() for run in runs for case, patient in run.groups().items()
        }
        self._cells: dict[tuple[str, frozenset[str], str], Cell] = {}
        self._rows: dict[tuple[str, frozenset[str]], list[SubsetResult]] = {}
        self._cases: dict[tuple[str, frozenset[str]], list[list[CaseResult]]] = {}
        for method, runs in self.results.items():
            for run in runs:
                self._index(method, run)

    def _index(self, method: str, run: Results) -> None:
        cases: dict[frozenset[str], list[CaseResult]] = {}
        for case in run.cases:
            cases.setdefault(frozenset(case.present), []).append(case)
        for row in run.subsets:
            key = method, frozenset(row.present)
            self._rows.setdefault(key, []).append(row)
            self._cases.setdefault(key, []).append(cases.get(frozenset(row.present), []))

    def _weights(self, cases: Sequence[str]) -> Floats | None:
        return resampling_weights(len(cases), [self.groups[c] for c in cases], resamples=self.resamples, seed=self.seed)

    def case_values(self, method: str, present: Sequence[str], name: str) -> dict[str, float]:
        """{case: mean over the runs that have a number for it}."""
        found: dict[str, list[float]] = {}
        for cases in self._cases.get((method, frozenset(present)), []):
            for case in cases:
                value = case.metrics.get(name)
                if value is not None:
                    found.setdefault(case.subject, []).append(value)
        return {case: sum(values) / len(values) for case, values in found.items()}

    def cell(self, method: str, present: Sequence[str], name: str) -> Cell:
        """One number; with a single run exactly that of the run."""
        key = method, frozenset(present), name
        if key not in self._cells:
            self._cells[key] = self._new_cell(method, present, name)
        return self._cells[key]

    def _new_cell(self, method: str, present: Sequence[str], name: str) -> Cell:
        rows = self._rows.get((method, frozenset(present)), [])
        if not rows:
            return Cell("not run")
        if not any(row.supported for row in rows):
            return Cell("not supported")
        stored = [row.metrics[name] for row in rows if name in row.metrics and row.metrics[name].value is not None]
        if not stored:
            return Cell("no cases")
        if len(stored) == 1:
            one = stored[0]
            return Cell("value", float(one.value or 0.0), one.ci95, one.n, one.n_pos, one.n_neg, 1)
        return (
            self._pooled_cell(method, present, name, stored)
            if _pooled(name)
            else self._mean_cell(method, present, name, stored)
        )

    def _mean_cell(self, method: str, present: Sequence[str], name: str, stored: Sequence[MetricValue]) -> Cell:
        values = self.case_values(method, present, name)
        if not values:
            return Cell("no cases")
        patients = [self.groups[case] for case in values]
        interval = bootstrap_interval(list(values.values()), patients, resamples=self.resamples, seed=self.seed)
        return Cell(
            "value", float(np.mean(list(values.values()))), interval, len(values), *_common(stored, len(values)), len(stored)
        )

    def _pooled_cell(self, method: str, present: Sequence[str], name: str, stored: Sequence[MetricValue]) -> Cell:
        value = float(np.mean([one.value for one in stored if one.value is not None]))
        cases = self._pooled_cases(method, present)
        weights = self._weights(cases)
        interval = None if weights is None else interval_of(self._pooled_samples(method, present, name, cases, weights))
        return Cell("value", value, interval, stored[0].n, *_common(stored, stored[0].n), len(stored))

    def _pooled_cases(self, method: str, present: Sequence[str]) -> list[str]:
        runs = self._cases.get((method, frozenset(present)), [])
        return sorted({case.subject for cases in runs for case in cases})

    def _pooled_samples(self, method: str, present: Sequence[str], name: str, cases: Sequence[str], weights: Floats) -> Floats:
        """(R,) the metric in each resample of these cases, averaged over runs. weights: (R, N) for `cases`."""
        place = {case: i for i, case in enumerate(cases)}
        samples = []
        for rows in self._cases.get((method, frozenset(present)), []):
            rows = [case for case in rows if case.subject in place]
            samples.append(pooled_samples(name, rows, weights[:, [place[case.subject] for case in rows]]))
        return _nanmean(np.stack(samples, axis=1)) if samples else np.full(len(weights), np.nan)

    def _samples(self, method: str, rows: Sequence[Sequence[str]], name: str, cases: Sequence[str], weights: Floats) -> Floats:
        """(R,) the metric in each resample, averaged over rows of the table. weights: (R, N) for `cases`."""
        if _pooled(name):
            return _nanmean(np.stack([self._pooled_samples(method, row, name, cases, weights) for row in rows], axis=1))
        values = np.full((len(cases), len(rows)), np.nan)  # (N, S)
        for s, row in enumerate(rows):
            found = self.case_values(method, row, name)
            values[:, s] = [found.get(case, np.nan) for case in cases]
        known = ~np.isnan(values)
        with np.errstate(invalid="ignore"):
            return _nanmean((weights @ np.where(known, values, 0.0)) / (weights @ known.astype(float)))

    def _cases_of(self, method: str, rows: Sequence[Sequence[str]], name: str) -> set[str]:
        if _pooled(name):
            return {case for row in rows for case in self._pooled_cases(method, row)}
        return {case for row in rows for case in self.case_values(method, row, name)}

    def average(self, method: str, rows: Sequence[Sequence[str]], name: str) -> Cell:
        """The plain mean over rows of the table, with its interval over patients."""
        cells = [self.cell(method, row, name) for row in rows]
        values = [cell.value for cell in cells if cell.state == "value"]
        if not values:
            return Cell("no cases" if self.results[method] else "not run")
        cases = sorted(self._cases_of(method, rows, name))
        weights = self._weights(cases)
        interval = None if weights is None else interval_of(self._samples(method, rows, name, cases, weights))
        runs = max(cell.runs for cell in cells)
        return Cell("value", float(np.mean(values)), interval, len(cases) or cells[0].n, runs=runs)

    def contrasts(self, rows: Sequence[Sequence[str]], metrics: Sequence[str]) -> dict[str, dict[str, Contrast]]:
        """Every other method minus the reference; over several rows, the average of them."""
        out: dict[str, dict[str, Contrast]] = {}
        for method in self.methods[1:]:
            found = {name: self._contrast(method, rows, name) for name in metrics}
            out[method] = {name: contrast for name, contrast in found.items() if contrast is not None}
        return out

    def _contrast(self, method: str, rows: Sequence[Sequence[str]], name: str) -> Contrast | None:
        reference = self.methods[0]
        usable = [r for r in rows if self.cell(method, r, name).state == self.cell(reference, r, name).state == "value"]
        if not usable:
            return None
        if not _pooled(name):
            one, two = self._shared(method, usable, name)
            found = paired_difference(one, two, groups=self.groups, resamples=self.resamples, seed=self.seed)
            return Contrast(found.value, found.ci95, found.n, found.p_value)
        cases = sorted(self._cases_of(method, usable, name) & self._cases_of(reference, usable, name))
        weights = self._weights(cases)
        every = np.ones((1, len(cases)))
        value = float(np.subtract(*(self._samples(m, usable, name, cases, every)[0] for m in (method, reference))))
        if weights is None:
            return Contrast(value, None, len(cases))
        drawn = np.subtract(*(self._samples(m, usable, name, cases, weights) for m in (method, reference)))
        return Contrast(value, interval_of(drawn), len(cases))

    def _shared(self, method: str, rows: Sequence[Sequence[str]], name: str) -> tuple[dict[str, float], dict[str, float]]:
        """{case: mean over those of these rows that the case has in both} of the method, and of the reference."""
        ours: dict[str, list[float]] = {}
        theirs: dict[str, list[float]] = {}
        for row in rows:
            one, two = (self.case_values(m, row, name) for m in (method, self.methods[0]))
            for case in one.keys() & two.keys():
                ours.setdefault(case, []).append(one[case])
                theirs.setdefault(case, []).append(two[case])
        cases = sorted(ours)
        return {c: sum(ours[c]) / len(ours[c]) for c in cases}, {c: sum(theirs[c]) / len(theirs[c]) for c in cases}


def _pooled(name: str) -> bool:
    return metric_of(name).aggregation == "pooled"


def _common(stored: Sequence[MetricValue], n: int) -> tuple[int | None, int | None]:
    """n_pos and n_neg where all runs tested the same cases; folds do not, and then nobody knows."""
    first = stored[0]
    same = all((one.n, one.n_pos, one.n_neg) == (n, first.n_pos, first.n_neg) for one in stored)
    return (first.n_pos, first.n_neg) if same else (None, None)


def _nanmean(values: Floats) -> Floats:
    """Mean over the last axis of what is known; NaN where nothing is."""
    known = ~np.isnan(values)
    with np.errstate(invalid="ignore"):
        return np.asarray(np.where(known, values, 0.0).sum(axis=-1) / known.sum(axis=-1))
