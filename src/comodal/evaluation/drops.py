"""What is lost without the absent modalities: each subset minus all modalities, of the same method and on the same cases.

Only cases that have all modalities are compared, each with itself. A run counts in a case's difference if it has a number for
both sides; the case is averaged over these runs first, and n, interval and test count the patients behind the cases. Pooled
metrics (AUROC) have no value per case: there each run's two values are subtracted on the same resamples of patients.

Axis letters: N cases, R resamples of the bootstrap.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from comodal.evaluation.metrics import metric as metric_of
from comodal.evaluation.metrics import name_parts
from comodal.evaluation.pooling import Classes, pooled_samples
from comodal.evaluation.results import CaseResult, Results
from comodal.evaluation.statistics import RESAMPLES, bootstrap_p, holm, interval_of, paired_difference, resampling_weights
from comodal.evaluation.table import Contrast, StudyTable

Floats = NDArray[np.float64]
Side = dict[str, CaseResult]  # {case: its result} of one run from one subset


def drops(
    runs: Sequence[Results],
    rows: Sequence[Sequence[str]],
    full: Sequence[str],
    *,
    metrics: Sequence[str],
    groups: Mapping[str, str],
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> dict[frozenset[str], dict[str, Contrast]]:
    """Every subset minus all modalities, of one method.

    Args:
        runs: Of the method: seeds or folds.
        rows: The subsets.
        full: All modalities.
        metrics: Names as in the results.
        groups: {case: patient}.
        resamples: Of the bootstrap.
        seed: Of the bootstrap.

    Returns:
        {subset: {metric: difference}}, only where a case has a number from both; p is corrected by Holm, metric by metric, over
        the subsets of this method alone, so that it does not depend on which other methods stand in the table.
    """
    sides = [_sides(run) for run in runs]
    classes = {target: names for run in runs for target, names in run.classes.items()}
    whole, found = frozenset(full), dict[frozenset[str], dict[str, Contrast]]()
    for present in (frozenset(row) for row in rows):
        if present == whole:
            continue
        pairs = [(side[present], side[whole]) for side in sides if present in side and whole in side]
        each = {name: _difference(pairs, name, groups, classes=classes, resamples=resamples, seed=seed) for name in metrics}
        found[present] = {name: drop for name, drop in each.items() if drop is not None}
    for name in metrics:
        of_name = [by for by in found.values() if name in by]
        for by, p in zip(of_name, holm([by[name].p_value for by in of_name]), strict=True):
            by[name] = replace(by[name], p_holm=p)
    return found


def _sides(run: Results) -> dict[frozenset[str], Side]:
    found: dict[frozenset[str], Side] = {}
    for case in run.cases:
        found.setdefault(frozenset(case.present), {})[case.subject] = case
    return found


def _difference(
    pairs: Sequence[tuple[Side, Side]], name: str, groups: Mapping[str, str], *, classes: Classes, resamples: int, seed: int
) -> Contrast | None:
    """One subset minus all modalities; `pairs` holds both sides of each run. None where there is nothing to compare."""
    if metric_of(name).aggregation == "pooled":
        return _pooled_difference(pairs, name, groups, classes=classes, resamples=resamples, seed=seed)
    ours: dict[str, list[float]] = {}
    alls: dict[str, list[float]] = {}
    for one, all_ in pairs:
        for case in one.keys() & all_.keys():
            value, best = one[case].metrics.get(name), all_[case].metrics.get(name)
            if value is not None and best is not None:
                ours.setdefault(case, []).append(value)
                alls.setdefault(case, []).append(best)
    if not ours:
        return None
    a, b = ({case: sum(by[case]) / len(by[case]) for case in sorted(by)} for by in (ours, alls))
    made = paired_difference(a, b, groups=groups, resamples=resamples, seed=seed)
    return Contrast(made.value, made.ci95, made.n, made.p_value)


def _pooled_difference(
    pairs: Sequence[tuple[Side, Side]], name: str, groups: Mapping[str, str], *, classes: Classes, resamples: int, seed: int
) -> Contrast | None:
    target = name_parts(name)[1]
    both = [sorted(c for c in one.keys() & all_.keys() if target in (one[c].targets or {})) for one, all_ in pairs]
    cases = sorted({case for known in both for case in known})
    place = {case: i for i, case in enumerate(cases)}

    def samples(weights: Floats) -> Floats:
        """(R,) the difference in each resample, averaged over runs. weights: (R, N) for `cases`."""
        of_runs = []
        for (one, all_), known in zip(pairs, both, strict=True):
            drawn = weights[:, [place[case] for case in known]]
            values = [pooled_samples(name, [side[case] for case in known], drawn, classes=classes) for side in (one, all_)]
            of_runs.append(values[0] - values[1])
        defined = ~np.isnan(of_runs)
        with np.errstate(invalid="ignore"):
            return np.asarray(np.where(defined, of_runs, 0.0).sum(axis=0) / defined.sum(axis=0))

    value = float(samples(np.ones((1, len(cases))))[0]) if cases else math.nan
    if math.isnan(value):
        return None
    weights = resampling_weights(len(cases), [groups[c] for c in cases], resamples=resamples, seed=seed)
    if weights is None:
        return Contrast(value, None, len(cases))
    drawn = samples(weights)
    return Contrast(value, interval_of(drawn), len(cases), bootstrap_p(drawn))


def has_drops(table: StudyTable, metric: str) -> bool:
    """Whether any subset could be compared with all modalities."""
    return any(metric in by for row in table.rows for by in row.drops.values())


def drop_note(table: StudyTable, metric: str, *, name: str | None = None) -> str:
    """What "minus all" is, in sentences; see `has_drops`.

    Args:
        table: With differences from all modalities.
        metric: Whose differences are shown.
        name: How it is called here, where it stands for several of its kind.
    """
    tests = [sum(metric in row.drops.get(method, {}) for row in table.rows) for method in table.methods]
    of_each = " of each method" if len(table.methods) > 1 else ""
    what = f"Minus all: {name or metric} from the modalities of the row minus that from all ({', '.join(table.modalities)}), "
    pooled = metric_of(metric).aggregation == "pooled"
    few, most = min(count for count in tests if count), max(tests)
    subsets = f"{few} subset{'' if most == 1 else 's'}" if few == most else f"{few} to {most} subsets"
    return (
        f"{what}of the same method{'' if pooled else ' and case'}, on the cases that have all; "
        f"p: {'paired bootstrap' if pooled else 'Wilcoxon signed-rank test'} over patients, "
        f"Holm-corrected over the {subsets}{of_each}."
    )


def no_full_note(table: StudyTable) -> str:
    """Says that subsets could not be compared with all modalities, since no case has them; "" where that is not so."""
    full = next((row for row in table.rows if frozenset(row.present) == frozenset(table.modalities)), None)
    if full is None or len(table.rows) < 2:
        return ""
    states = {cell.state for by in full.cells.values() for cell in by.values()}
    if "no cases" not in states or "value" in states:
        return ""
    return f"No case with all modalities ({', '.join(table.modalities)}) has a number: subsets are not compared with them."
