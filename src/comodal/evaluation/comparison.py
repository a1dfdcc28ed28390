"""Several runs in one table: per case averaged over seeds first, then over subjects; methods compared case by case.

Seeds are no subjects: three runs on 20 patients are 20 patients. So a case's value is first averaged over the runs of a method
(over those that have it: folds test different cases), and n, intervals and tests count the patients behind the averages.
Pooled metrics (AUROC) have no value per case: there the runs' values are averaged, on the same resamples of patients. So the p
value of a difference is Wilcoxon's for metrics per case, and that of the paired bootstrap over patients for pooled ones.

Axis letters: N cases, S rows of the table (subsets), R resamples of the bootstrap.
"""

from __future__ import annotations

import itertools
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from comodal.errors import DataError, message
from comodal.evaluation.drops import drops
from comodal.evaluation.lacking import lacking_note
from comodal.evaluation.metrics import is_main, name_parts
from comodal.evaluation.metrics import metric as metric_of
from comodal.evaluation.pooling import is_positive, mean_samples, nanmean
from comodal.evaluation.results import CaseResult, MetricValue, Results, SubsetResult
from comodal.evaluation.statistics import (
    RESAMPLES,
    TOO_FEW,
    TOO_NARROW,
    bootstrap_interval,
    bootstrap_p,
    holm,
    interval_note,
    interval_of,
    paired_difference,
    resampling_weights,
)
from comodal.evaluation.table import Cell, Contrast, StudyRow, StudyTable
from comodal.modality import subsets

Floats = NDArray[np.float64]


def combine(
    results_by_method: Mapping[str, Sequence[Results]],
    *,
    modalities: Sequence[str] | None = None,
    metrics: Collection[str] | None = None,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> StudyTable:
    """Puts the runs of one or several methods into one table.

    Args:
        results_by_method: {label: one result per seed or fold}; an empty list is a method that was not run.
        modalities: In canonical order; then every subset of them has a row, if only to say "not run". Without it, the rows
            are those of the results.
        metrics: Which of those in the results: whole names ("ECE/diagnosis", "AUROC/diagnosis/MEL"), or metrics of METRICS for
            all that a table could show of them ("ECE": without those of single classes). None takes the main ones.
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
    shown = _metrics([run.metric_names for runs in book.results.values() for run in runs], metrics)
    lost = {
        m: drops(runs, present, order, metrics=shown, groups=book.groups, resamples=resamples, seed=seed)
        for m, runs in book.results.items()
    }
    rows = [
        StudyRow(
            p,
            {m: {k: book.cell(m, p, k) for k in shown} for m in book.methods},
            book.contrasts([p], shown),
            {m: by[frozenset(p)] for m, by in lost.items() if by.get(frozenset(p))},
            book.used(p),
        )
        for p in present
    ]
    evaluated = [m for m in book.methods if book.results[m]]
    averaged = tuple(row.present for row in rows if evaluated and all(_has_values(row, m) for m in evaluated))
    average = None
    if averaged:
        cells = {m: {k: book.average(m, averaged, k) for k in shown} for m in book.methods}
        average = _corrected([StudyRow((), cells, book.contrasts(averaged, shown))], shown)[0]
    return StudyTable(
        methods=book.methods,
        reference=book.methods[0],
        modalities=order,
        metrics=shown,
        rows=tuple(_corrected(rows, shown)),
        average=average,
        averaged=averaged,
        runs={m: len(runs) for m, runs in book.results.items()},
        hd95_unit=_unit([run for runs in book.results.values() for run in runs]),
        notes=tuple(note for note in (*book.notes(present, shown), lacking_note(results_by_method)) if note),
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


def _metrics(runs: Sequence[Sequence[str]], wanted: Collection[str] | None) -> tuple[str, ...]:
    """The metrics of the runs, without a mean over regions that were not the same in all: it would be another in each."""
    regions = {tuple(sorted(n for n in names if n.startswith("DSC/"))) for names in runs if "DSC/mean" in names}
    every = dict.fromkeys(name for names in runs for name in names)
    kept = [name for name in every if name != "DSC/mean" or len(regions) == 1]
    if wanted is None:
        return tuple(name for name in kept if is_main(name))
    single = {name for name in kept if _pooled(name) and name_parts(name)[2]}
    return tuple(name for name in kept if name in wanted or (name_parts(name)[0] in wanted and name not in single))


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
        self.classes = {
            target: names for runs in self.results.values() for run in runs for target, names in run.classes.items()
        }
        self._drawn: dict[tuple[str, frozenset[str], str, tuple[str, ...], int], Floats] = {}
        self._cells: dict[tuple[str, frozenset[str], str], Cell] = {}
        self._values: dict[tuple[str, frozenset[str], str], dict[str, float]] = {}
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

    def used(self, present: Sequence[str]) -> dict[str, tuple[str, ...]]:
        """{method: those of the row's modalities that it used in some case}, where its results say so."""
        found: dict[str, tuple[str, ...]] = {}
        for method in self.methods:
            cases = itertools.chain(*self._cases.get((method, frozenset(present)), []))
            told = [case.used for case in cases if case.used is not None]
            found |= {method: tuple(name for name in present if any(name in used for used in told))} if told else {}
        return found

    def case_values(self, method: str, present: Sequence[str], name: str) -> dict[str, float]:
        """{case: mean over the runs that have a number for it}."""
        key = method, frozenset(present), name
        if key not in self._values:
            found: dict[str, list[float]] = {}
            for case in itertools.chain(*self._cases.get(key[:2], [])):
                value = case.metrics.get(name)
                if value is not None:
                    found.setdefault(case.subject, []).append(value)
            self._values[key] = {case: sum(values) / len(values) for case, values in found.items()}
        return self._values[key]

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
        cases = self._pooled_cases(method, present, name)
        weights = self._weights(cases)
        interval = None if weights is None else interval_of(self._pooled_samples(method, present, name, cases, weights))
        binary = stored[0].n_pos is not None
        counts: tuple[int | None, int | None] = self._sides(method, present, name) if binary else (None, None)
        n = sum(side or 0 for side in counts) if binary else len(cases)  # of several questions some cases do not answer all
        return Cell("value", value, interval, n, *counts, len(stored))

    def _pooled_cases(self, method: str, present: Sequence[str], name: str) -> list[str]:
        """Each case once, however many runs tested it: those with a truth of the target."""
        runs, target = self._cases.get((method, frozenset(present)), []), name_parts(name)[1]
        return sorted({case.subject for cases in runs for case in cases if target in (case.targets or {})})

    def _sides(self, method: str, present: Sequence[str], name: str) -> tuple[int, int]:
        """Cases of the class that is ranked against the rest, and of the rest, each once."""
        target = name_parts(name)[1]
        runs = self._cases.get((method, frozenset(present)), [])
        truth = {case.subject: (case.targets or {}).get(target) for cases in runs for case in cases}
        known = [side for answer in truth.values() if (side := is_positive(name, answer, self.classes)) is not None]
        return sum(known), len(known) - sum(known)

    def notes(self, rows: Sequence[Sequence[str]], metrics: Sequence[str]) -> tuple[str, ...]:
        """What the numbers of patients behind the cells mean for the intervals; each sentence once."""
        found = set()
        for method, row, name in itertools.product(self.methods, rows, metrics):
            if self.cell(method, row, name).state == "value":
                patients = {self.groups[case] for case in self._cases_of(method, [row], name)}
                found.add(interval_note(len(patients)) if patients else None)
        return tuple(text for text in (TOO_FEW, TOO_NARROW) if text in found)

    def _pooled_samples(self, method: str, present: Sequence[str], name: str, cases: Sequence[str], weights: Floats) -> Floats:
        """(R,) the metric in each resample of these cases, averaged over runs. weights: (R, N) for `cases`.

        Kept: a cell, its differences and the average rest on the same resamples, which the cases and R decide.
        """
        key = method, frozenset(present), name, tuple(cases), len(weights)
        if key not in self._drawn:
            self._drawn[key] = mean_samples(name, self._cases.get(key[:2], []), cases, weights=weights, classes=self.classes)
        return self._drawn[key]

    def _samples(self, method: str, rows: Sequence[Sequence[str]], name: str, cases: Sequence[str], weights: Floats) -> Floats:
        """(R,) the metric in each resample, averaged over rows of the table. weights: (R, N) for `cases`."""
        if _pooled(name):
            return nanmean(np.stack([self._pooled_samples(method, row, name, cases, weights) for row in rows], axis=1))
        values = np.full((len(cases), len(rows)), np.nan)  # (N, S)
        for s, row in enumerate(rows):
            found = self.case_values(method, row, name)
            values[:, s] = [found.get(case, np.nan) for case in cases]
        known = ~np.isnan(values)
        with np.errstate(invalid="ignore"):
            return nanmean((weights @ np.where(known, values, 0.0)) / (weights @ known.astype(float)))

    def _cases_of(self, method: str, rows: Sequence[Sequence[str]], name: str) -> set[str]:
        if _pooled(name):
            return {case for row in rows for case in self._pooled_cases(method, row, name)}
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
        return Contrast(value, interval_of(drawn), len(cases), bootstrap_p(drawn))

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
