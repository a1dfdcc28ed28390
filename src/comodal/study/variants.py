"""A published table of methods or variants beside ours: every number from all modalities, column by column.

Axis letters: N cases, R resamples of the bootstrap, G columns of which a mean is taken.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from comodal.config import RunConfig
from comodal.data.cohort import Cohort
from comodal.evaluation.comparison import combine
from comodal.evaluation.results import Results
from comodal.evaluation.statistics import Interval, interval_of, resampling_weights
from comodal.evaluation.table import Cell, Contrast, StudyTable
from comodal.study.published_ciml import ShapesTable, VariantTable
from comodal.study.published_guidance import GuidanceTable
from comodal.study.published_reports import ReportsTable
from comodal.study.reproducing import FOLDER, ComparedData, labelled
from comodal.study.study import StudyConfig, StudyResult, arm_config, load_study

Floats = NDArray[np.float64]
MEAN = "HD95/mean"  # of a method: the mean of its HD95 columns, as in the paper; of a case it would not be defined


@dataclass(frozen=True)
class VariantLine:
    """One number of one row, in the unit of its column.

    Attributes:
        row: Name of the row, as printed; of an arm that the paper does not have, its label.
        method: Label of the arm; None where comodal does not have the method.
        metric: Of the column.
        unit: Of the numbers.
        published: The printed number; None where there is none.
        correct: What it should be, where it is not the mean of the three numbers beside it.
        ours: Our number.
        difference: This arm minus the reference; None where the two are not compared.
    """

    row: str
    method: str | None
    metric: str
    unit: str
    published: float | None
    correct: float | None
    ours: Cell
    difference: Contrast | None = None


@dataclass(frozen=True)
class Empties:
    """How many of the cases that were tested have no such region."""

    region: str
    n: int
    without: int


@dataclass(frozen=True)
class RegionSplit:
    """An arm's Dice of a region, taken apart: where a case has no such region, leaving it empty counts 1 and all else 0.

    Attributes:
        method: Label of the arm.
        region: Name.
        n: Cases that have the region.
        value: Mean Dice of these, in %; None where there are none.
        without: Cases that have it not.
        left_empty: How many of these were left empty, in the mean over runs of the same cases.
    """

    method: str
    region: str
    n: int
    value: float | None
    without: int
    left_empty: float


@dataclass(frozen=True)
class VariantReproduction(ComparedData):
    """A published table of methods or variants, and ours.

    Attributes:
        table: The published one.
        study: What was run.
        lines: Row by row in the printed order, then the arms that the paper does not have; columns in order.
        combined: Our numbers of the complete set as a table of their own, as fractions and mm.
        cohort: What ours was run on, as tables call it.
        synthetic: Whether that is a phantom.
        same_layout: Whether its layout is that of the paper's data.
        cases: How many of its cases have a label map.
        empties: For each region.
        apart: For each region that some case lacks, and each arm: the Dice of the cases that have it.
        otherwise: What ours has otherwise than the study in the paper's configuration, in words.
    """

    table: VariantTable
    study: StudyResult
    lines: tuple[VariantLine, ...]
    combined: StudyTable
    cohort: str
    synthetic: bool
    same_layout: bool
    cases: int
    empties: tuple[Empties, ...]
    apart: tuple[RegionSplit, ...]
    otherwise: tuple[str, ...]


def beside_variants(table: VariantTable, study: StudyResult) -> VariantReproduction:
    """Puts the results of a study beside the published numbers.

    Args:
        table: The published table.
        study: What was run; an arm that is not there is "not run".

    Returns:
        Both. Differences are minus the study's reference, per metric Holm-corrected over the other arms.
    """
    every = max((row.present for found in study.results.values() for one in found for row in one.subsets), key=len)
    results = {label: [_complete(table, one, every) for one in found] for label, found in study.results.items()}
    combined = combine({study.reference: results[study.reference], **results})
    cells, contrasts = combined.rows[-1].cells, combined.rows[-1].contrasts
    rows = [(row.name, row.arm, row.numbers) for row in table.rows]
    rows += [(label, label, {}) for label in results if label not in {row.arm for row in table.rows}]
    lines = []
    for name, arm, numbers in rows:
        for column in table.columns:
            cell, contrast = Cell("not run"), None
            if arm is not None and arm in results:
                cell = cells[arm].get(column.metric, Cell("no cases"))
                contrast = contrasts.get(arm, {}).get(column.metric)
            if arm is not None and arm in results and column.metric == MEAN:
                cell, contrast = _mean_of_distances(table, results, arm, reference=study.reference)
            key, scale = column.metric, column.scale
            correct = table.wrong.get((name, key))
            found = _scaled(cell, scale), None if contrast is None else _scaled_contrast(contrast, scale)
            lines.append(VariantLine(name, arm, key, column.unit, numbers.get(key), correct, *found))
    cohort = Cohort.load(Path(study.config.cohort))
    cases = labelled(cohort)
    empties = tuple(_empties(results[study.reference], region) for region in table.regions)
    return VariantReproduction(
        table=table,
        study=study,
        lines=tuple(lines),
        combined=combined,
        cohort=next(found[0].cohort for found in study.results.values()),
        synthetic=any(note.startswith("synthetic") for note in cohort.meta.notes),
        same_layout=cohort.meta.layout == table.layout,
        cases=cases,
        empties=empties,
        apart=tuple(split for label, runs in results.items() for one in empties for split in _apart(label, runs, one)),
        otherwise=tuple(otherwise(table, study.config, cases)),
    )


def _complete(table: VariantTable, results: Results, every: tuple[str, ...]) -> Results:
    """The table's metrics of the row with all modalities: intervals and corrections are then over what is shown.

    An arm that takes fewer modalities than others has its own fullest row, under the name of theirs: it is compared with them.
    """
    own = fullest(results)
    wanted = {column.metric for column in table.columns}

    def kept(metrics: Mapping[str, object]) -> dict[str, object]:
        return {name: value for name, value in metrics.items() if name in wanted}

    rows = [row for row in results.subsets if row.present == own]
    subsets = [row.model_copy(update={"present": every, "metrics": kept(row.metrics)}) for row in rows]
    measured = [case for case in results.cases if case.present == own]
    cases = [case.model_copy(update={"present": every, "metrics": kept(case.metrics)}) for case in measured]
    return results.model_copy(update={"subsets": tuple(subsets), "cases": tuple(cases)})


def fullest(results: Results) -> tuple[str, ...]:
    """All modalities that a run takes."""
    return max((row.present for row in results.subsets), key=len)


def _mean_of_distances(
    table: VariantTable, results: Mapping[str, Sequence[Results]], arm: str, *, reference: str
) -> tuple[Cell, Contrast | None]:
    """The mean over regions of an arm's HD95, and its difference from the reference on common cases."""
    names = [c.metric for c in table.columns if c.metric.startswith("HD95/") and c.metric != MEAN]
    own, other = ([_case_values(results[label], name) for name in names] for label in (arm, reference))
    groups = {case: patient for runs in results.values() for run in runs for case, patient in run.groups().items()}
    value, interval, n = _mean_of_means(own, groups)
    if value is None:
        return Cell("no cases"), None
    cell = Cell("value", value, interval, n, runs=len(results[arm]))
    if arm == reference:
        return cell, None
    apart = [{case: a[case] - b[case] for case in a if case in b} for a, b in zip(own, other, strict=True)]
    return cell, Contrast(*_mean_of_means(apart, groups))


def _case_values(results: Sequence[Results], metric: str) -> dict[str, float]:
    """{case: mean over the runs that have a number for it}."""
    found: dict[str, list[float]] = {}
    for run in results:
        for case, value in run.case_values(metric).items():
            found.setdefault(case, []).append(value)
    return {case: sum(values) / len(values) for case, values in found.items()}


def _mean_of_means(
    columns: Sequence[Mapping[str, float]], groups: Mapping[str, str]
) -> tuple[float | None, Interval | None, int]:
    """Mean over columns of their means over cases, its interval over patients, and how many cases there are in all.

    No number where a column has none: the mean of the others would be that of something else.
    """
    cases = sorted({case for column in columns for case in column})
    if not columns or not all(columns):
        return None, None, len(cases)
    values = np.array([[column.get(case, np.nan) for column in columns] for case in cases])  # (N, G)
    weights = resampling_weights(len(cases), [groups[case] for case in cases])
    interval = None if weights is None else interval_of(_weighted(values, weights))
    return float(_weighted(values, np.ones((1, len(cases))))[0]), interval, len(cases)


def _weighted(values: Floats, weights: Floats) -> Floats:
    """(R,) mean over columns of the weighted means over cases, NaN left out. values: (N, G), weights: (R, N)."""
    known = ~np.isnan(values)
    with np.errstate(invalid="ignore"):
        found = (weights @ np.where(known, values, 0.0)) / (weights @ known.astype(float))
    return np.asarray(found.mean(axis=1))


def _empties(results: Sequence[Results], region: str) -> Empties:
    """Each tested case once: runs of other seeds test the same ones, those of other folds others."""
    counted: dict[frozenset[str], tuple[int, int]] = {}
    for run in results:
        for row in run.subsets:
            value = row.metrics.get(f"DSC/{region}")
            if value is not None and value.n_neg is not None:
                counted[frozenset(case.subject for case in run.cases)] = (value.n, value.n_neg)
    return Empties(region, sum(n for n, _ in counted.values()), sum(empty for _, empty in counted.values()))


def _apart(label: str, results: Sequence[Results], region: Empties) -> Iterable[RegionSplit]:
    """Nothing where every case has the region, or where an empty one counts otherwise than 1 and 0.

    A Dice of 1 without a distance is that of a case with neither truth nor prediction; other cases without the region count 0.
    """
    usual = all((run.conventions.dsc_empty, run.conventions.hd95_empty) == ("one-zero", "exclude") for run in results)
    if not region.without or not usual:
        return
    of_cases: dict[frozenset[str], list[tuple[float, int]]] = {}
    for run in results:
        dice, far = run.case_values(f"DSC/{region.region}"), run.case_values(f"HD95/{region.region}")
        empty = sum(value == 1.0 and case not in far for case, value in dice.items())
        of_cases.setdefault(frozenset(dice), []).append((sum(dice.values()) - empty, empty))
    total = sum(sum(found for found, _ in runs) / len(runs) for runs in of_cases.values())
    left = sum(sum(empty for _, empty in runs) / len(runs) for runs in of_cases.values())
    n = sum(map(len, of_cases)) - region.without
    yield RegionSplit(label, region.region, n, 100 * total / n if n > 0 else None, region.without, left)


def _scaled(cell: Cell, scale: float) -> Cell:
    if cell.state != "value":
        return cell
    ends = None if cell.ci95 is None else (scale * cell.ci95[0], scale * cell.ci95[1])
    return replace(cell, value=scale * cell.value, ci95=ends)


def _scaled_contrast(contrast: Contrast, scale: float) -> Contrast:
    value = None if contrast.value is None else scale * contrast.value
    ends = None if contrast.ci95 is None else (scale * contrast.ci95[0], scale * contrast.ci95[1])
    return replace(contrast, value=value, ci95=ends)


# What ours has otherwise than the paper's configuration.

_FIRST = ("width", "levels", "norm", "steps", "optimiser", "rate", "weight_decay", "schedule")  # of the method's keys
_LAST = ("name", "text_sizes")  # not of interest


def otherwise(table: VariantTable | ShapesTable | GuidanceTable | ReportsTable, study: StudyConfig, cases: int) -> list[str]:
    """What a study has otherwise than that in the paper's configuration, in words; what is equal is not named.

    Args:
        table: Names the study in the paper's configuration.
        study: What was run.
        cases: With a label map, in our cohort.
    """
    paper = load_study(FOLDER / table.study)
    found = [_instead("cases", cases, table.cases or cases), _instead("division", _division(study), _division(paper))]
    found += [_instead("seeds", len(study.seeds), len(paper.seeds))]
    theirs = _settings(paper)
    found += _of_arms({label: (own, theirs[label]) for label, own in _settings(study).items() if label in theirs})
    gone = [arm.title for arm in paper.methods if arm.title not in {arm.title for arm in study.methods}]
    found += [f"arms that were not run: {', '.join(gone)}"] if gone else []
    return [text for text in found if text]


def _of_arms(arms: Mapping[str, tuple[Mapping[str, str], Mapping[str, str]]]) -> list[str]:
    """What arms have otherwise, key by key; arms are named where they are not all alike. arms: {label: (ours, paper's)}."""
    found = []
    for key in dict.fromkeys(key for own, _ in arms.values() for key in own):
        pairs: dict[tuple[str, str], list[str]] = {}
        for label, (own, paper) in arms.items():
            if key in own and key in paper:
                pairs.setdefault((own[key], paper[key]), []).append(label)
        texts = [
            _instead("", *pair) + (f" ({', '.join(labels)})" if len(pairs) > 1 else "")
            for pair, labels in pairs.items()
            if pair[0] != pair[1]
        ]
        found += [f"{key} {', '.join(text.strip() for text in texts)}"] if texts else []
    return found


def _instead(what: str, ours: object, theirs: object) -> str:
    return "" if ours == theirs else f"{what} {_text(ours)} instead of {_text(theirs)}"


def _text(value: object) -> str:
    if value is None:
        return "unset"
    return f"{value:,}" if isinstance(value, int) else str(value)


def _division(study: StudyConfig) -> str:
    times = 1 if study.divisions is None else len(study.divisions)
    if study.folds is None:
        return "into one split" if times == 1 else f"into {times} splits in turn"
    run = "" if len(study.folds) == study.splits.folds else f", of which {len(study.folds)} are run"
    return f"into {study.splits.folds} folds{run}" + ("" if times == 1 else f", {times} times")


def _settings(study: StudyConfig) -> dict[str, dict[str, str]]:
    """{label: {key: value, in words}} of each arm."""
    found = {}
    for arm in (one for one in study.methods if not one.of):  # what is read from an arm has its settings
        config = arm_config(study, arm, seed=study.seeds[0], fold=None, cache=Path("cache"), look=False)
        own = {"method": arm.name, "patch": _patch(config), "batch": f"{config.training.batch_size}"}
        own |= {key: _text(config.method[key]) for key in _FIRST if key in config.method}
        own |= {key: _text(value) for key, value in config.method.items() if key not in (*_FIRST, *_LAST)}
        own |= {
            "augmentation": config.data.augment,
            "voxels": str(config.data.spacing),
            "normalise": str(config.data.normalise),
        }
        own |= {"modalities": _text(config.data.modalities), "withhold": _text(dict(config.data.withhold) or None)}
        found[arm.title] = own | {"overlap of windows": f"{config.training.overlap:g}"}
    return found


def _patch(config: RunConfig) -> str:
    patch = config.data.patch
    sizes = list(patch.values()) if isinstance(patch, Mapping) else [patch]
    return " and ".join(" × ".join(map(str, size)) for size in sizes)
