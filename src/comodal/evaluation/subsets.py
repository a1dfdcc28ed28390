"""Evaluation of one method on every subset of modalities, in one table.

A case enters the row of subset S if and only if it has all of S. Where the images of a case lie on different grids, each subset
is predicted on the grid of its own first image, as `predict` would. Masks are compared on the voxels of the truth's own file.

One case is in memory at a time, and of it the probabilities of few subsets.

Axis letters: N cases, K classes, X Y Z voxels.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

from comodal.data.cohort import Case, TargetSpec
from comodal.data.preprocessing import PreparedCase, Preparer
from comodal.data.reading import read_header
from comodal.data.targets import class_labelled, class_target
from comodal.evaluation.classification import as_columns, pooled_metrics
from comodal.evaluation.metrics import METRICS, Conventions, Mask, mean_dsc, metric, segmentation_metrics
from comodal.evaluation.results import CaseResult, MetricValue, Results, SubsetResult
from comodal.evaluation.statistics import RESAMPLES, bootstrap_interval, interval_note
from comodal.inference.predictor import Device, Probabilities, Subset, can_predict, predict_case
from comodal.inference.writing import on_grid, to_masks
from comodal.method import Method
from comodal.modality import Target, subset_name

OnProgress = Callable[[int, int, str], None]


def foreground_classes(target: Target) -> dict[str, int]:
    """{class: row of K} of the classes that are scored: all but the background of "labels".

    >>> foreground_classes(Target("seg", "labels", ("background", "organ"), ((0,), (1, 2))))
    {'organ': 1}
    """
    return {name: k for k, name in enumerate(target.classes) if k != target.background}


@dataclass
class _Settings:
    """What holds for all cases."""

    method: Method
    preparer: Preparer
    conventions: Conventions
    metrics: tuple[str, ...]
    device: Device
    overlap: float
    spaced: set[bool] = field(default_factory=set)  # whether the files seen so far state a spacing

    @property
    def targets(self) -> tuple[Target, ...]:
        return self.method.problem.targets

    def names(self, target: Target) -> dict[str, int]:
        """{class as it stands in the result: row of K}; the target is named where there are several."""
        several = sum(t.is_segmentation for t in self.targets) > 1
        return {f"{target.name}.{name}" if several else name: k for name, k in foreground_classes(target).items()}


@dataclass(frozen=True)
class _Row:
    """A case with a subset, and which of its metrics have a truth that is not empty."""

    result: CaseResult
    positive: dict[str, bool]


def _by_grids(settings: _Settings, case: Case, subsets: Sequence[Subset]) -> Iterator[list[Subset]]:
    """Subsets of one case that are predicted on the same grids, and so from the same arrays."""
    groups: dict[object, list[Subset]] = {}
    for subset in subsets:
        grids = settings.preparer.grids(case, settings.method.reads(subset))
        groups.setdefault(tuple(grids.items()), []).append(subset)
    yield from groups.values()


def _truth_masks(target: Target, array: np.ndarray[tuple[int, ...], np.dtype[np.generic]]) -> Mask:
    """(K, X, Y, Z) bool."""
    if target.kind == "regions":
        return np.asarray(array, dtype=bool)
    return np.stack([np.asarray(array == k, dtype=bool) for k in range(len(target.classes))])


def _states_spacing(preparer: Preparer, case: Case, columns: Iterable[str]) -> bool:
    """Whether one of these files knows the size of its voxels."""
    for column in columns:
        spec = preparer.cohort.spec(column)
        path = preparer.cohort.file(case, column)
        if read_header(path, files=spec.files, channel=spec.channel, subject=case.id, modality=column).has_spacing:
            return True
    return False


class _Truths:
    """The segmentation targets of one case on their own voxels, read once for all subsets of a group."""

    def __init__(self, settings: _Settings, case: Case, use: Sequence[str]) -> None:
        self.settings = settings
        self.masks = {}
        images = [m.name for m in settings.preparer.modalities if m.kind == "image" and m.name in use]
        for target in settings.targets:
            if target.is_segmentation and target.name in case.cells:
                array, grid = settings.preparer.truth(case, target.name, use=use)
                self.masks[target.name] = (_truth_masks(target, array), grid)
                settings.spaced.add(_states_spacing(settings.preparer, case, [target.name, *images[:1]]))

    def compare(self, prepared: PreparedCase, found: Probabilities) -> tuple[dict[str, float], dict[str, bool]]:
        """All metrics of one prediction, and which of them have a truth that is not empty."""
        metrics: dict[str, float] = {}
        positive: dict[str, bool] = {}
        for target in self.settings.targets:
            if target.name not in self.masks or prepared.grid is None:
                continue
            truth, grid = self.masks[target.name]
            prediction = to_masks(target, on_grid(found[target.name], prepared.grid, grid))
            classes = self.settings.names(target)
            metrics |= segmentation_metrics(
                prediction,
                truth,
                grid.spacing,
                classes=classes,
                conventions=self.settings.conventions,
                metrics=self.settings.metrics,
            )
            some = {name: bool(truth[k].any()) for name, k in classes.items()}
            positive |= {f"{kind}/{name}": yes for name, yes in some.items() for kind in ("DSC", "HD95")}
        if "DSC" in self.settings.metrics and metrics:
            metrics["DSC/mean"], positive["DSC/mean"] = mean_dsc(metrics), any(positive.values())
        return metrics, positive


def _class_labels(settings: _Settings, case: Case) -> dict[str, int | list[float | None]]:
    """{target: class number, or answers} of the targets of classification that the case has."""
    cohort = settings.preparer.cohort
    found: dict[str, int | list[float | None]] = {}
    for target in settings.targets:
        spec = cohort.spec(target.name)
        if not target.is_segmentation and target.name in case.cells and isinstance(spec, TargetSpec):
            answers = class_target(spec, case.cells[target.name], subject=case.id)
            if target.kind == "multilabel":
                known = class_labelled(spec, case.cells[target.name], subject=case.id)
                found[target.name] = [float(a) if k else None for a, k in zip(answers, known, strict=True)]
            else:
                found[target.name] = int(answers)
    return found


def _evaluate_group(settings: _Settings, case: Case, subsets: Sequence[Subset]) -> Iterator[_Row]:
    """The rows of one case for subsets on the same grids."""
    looks_at = {name for subset in subsets for name in settings.method.reads(subset)}
    use = [name for name in settings.method.problem.names if name in looks_at]
    prepared = settings.preparer.case(case, use=use, with_targets=False)
    labels = _class_labels(settings, case)
    truths = _Truths(settings, case, use)
    for subset, found in predict_case(
        settings.method, prepared, subsets=subsets, overlap=settings.overlap, device=settings.device
    ):
        metrics, positive = truths.compare(prepared, found.probabilities)
        result = CaseResult(
            subject=case.id,
            group=case.group,
            present=subset,
            used=found.used,
            metrics=dict(metrics),
            probabilities={name: found.probabilities[name].tolist() for name in labels} or None,
            targets=labels or None,
        )
        yield _Row(result, positive)


def _case_mean(name: str, rows: Sequence[_Row], *, resamples: int) -> MetricValue:
    """One number of the table from one number per case."""
    counted = [row for row in rows if row.result.metrics.get(name) is not None]
    values = [row.result.metrics[name] or 0.0 for row in counted]
    positives = sum(row.positive[name] for row in counted)
    if not counted:
        return MetricValue(note="left out of every case by the convention" if rows else "no case")
    groups = [row.result.group for row in counted]
    return MetricValue(
        value=float(np.mean(values)),
        ci95=bootstrap_interval(values, groups, resamples=resamples) if resamples else None,
        n=len(values),
        n_pos=positives,
        n_neg=len(values) - positives,
        note=interval_note(len(set(groups))) if resamples else None,
    )


def _metric_names(settings: _Settings) -> list[str]:
    """The metrics of segmentation, in the order of the table: DSC of each class, their mean, HD95 of each class."""
    classes = [name for target in settings.targets if target.is_segmentation for name in settings.names(target)]
    names = [f"{kind}/{name}" for kind in ("DSC", "HD95") if kind in settings.metrics for name in classes]
    if "DSC" in settings.metrics and classes:
        names.insert(len(classes), "DSC/mean")
    return names


def _table_row(settings: _Settings, subset: Subset, rows: Sequence[_Row], *, resamples: int) -> SubsetResult:
    if not can_predict(settings.method, subset):
        return SubsetResult(present=subset, supported=False)
    metrics: dict[str, MetricValue] = {}
    segmented = [row for row in rows if row.result.metrics]
    for name in _metric_names(settings):
        metrics[name] = _case_mean(name, segmented, resamples=resamples)
    for target in settings.targets:
        if target.is_segmentation:
            continue
        labelled = [row.result for row in rows if target.name in (row.result.targets or {})]
        probabilities = np.array([(r.probabilities or {})[target.name] for r in labelled]).reshape(-1, len(target.classes))
        truth = as_columns([(r.targets or {})[target.name] for r in labelled], len(target.classes))
        groups = [r.group for r in labelled]
        metrics |= pooled_metrics(target, probabilities, truth, groups=groups, resamples=resamples, metrics=settings.metrics)
    return SubsetResult(present=subset, metrics=metrics)


def _conventions(settings: _Settings, *, intervals: bool) -> tuple[Conventions, tuple[str, ...]]:
    """The conventions with the unit that was found, and what the reader must know about it."""
    unit = "mm" if settings.spaced <= {True} else "voxel" if settings.spaced == {False} else "mixed"
    conventions = settings.conventions.model_copy(
        update={"hd95_unit": unit} if intervals else {"hd95_unit": unit, "interval": "none"}
    )
    if unit == "mm":
        return conventions, ()
    which = "No file states" if unit == "voxel" else "Some files do not state"
    return conventions, (f"{which} the size of its voxels: distances count voxels there, also from slice to slice.",)


def evaluate(
    method: Method,
    preparer: Preparer,
    cases: Sequence[Case],
    *,
    subsets: Iterable[Iterable[str]],
    seed: int,
    method_name: str,
    cohort_name: str,
    split: str,
    use: Sequence[str] | None = None,
    conventions: Conventions | None = None,
    device: Device = "cpu",
    overlap: float = 0.5,
    metrics: Iterable[str] = tuple(METRICS),
    intervals: bool = True,
    on_progress: OnProgress | None = None,
) -> Results:
    """Predicts every case from every subset that it has, and compares with its targets.

    Args:
        method: On `device`.
        preparer: Reads the cases.
        cases: Rows of the preparer's cohort. Those without a target, or without all of a subset, do not count in its row.
        subsets: The rows of the table, in any order.
        seed: Of the training; it is only noted.
        method_name: For the result, as are cohort_name and split.
        cohort_name: See method_name.
        split: See method_name.
        use: Modalities that may be read; None: all. A subset with another one gets no case, and the notes say what was read.
        conventions: How empty regions count.
        device: Where the method is.
        overlap: Of windows, see `predict_case`.
        metrics: Which of METRICS; those that do not fit a target are passed over.
        intervals: Whether to make bootstrap intervals.
        on_progress: Called with (done, total, text) after each prediction.

    Returns:
        The table, small subsets first, and every case. Rows that the method does not support say so.

    Raises:
        ConfigError: An unknown metric.
        DataError: A file that is read is damaged.
    """
    kinds = tuple(metrics)
    for kind in kinds:
        metric(kind)
    settings = _Settings(method, preparer, conventions or Conventions(), kinds, device, overlap)
    wanted = _ordered(method, subsets)
    supported = [subset for subset in wanted if can_predict(method, subset)]
    entering = {case.id: _entering(settings, case, supported, use) for case in cases}
    total, rows = sum(map(len, entering.values())), list[_Row]()
    for case in cases:
        own: list[_Row] = []
        for group in _by_grids(settings, case, entering[case.id]):
            for row in _evaluate_group(settings, case, group):
                own.append(row)
                if on_progress is not None:
                    on_progress(len(rows) + len(own), total, f"{case.id} from {subset_name(row.result.present)}")
        rows += sorted(own, key=lambda row: wanted.index(row.result.present))
    resamples = RESAMPLES if intervals else 0
    stated, notes = _conventions(settings, intervals=intervals)
    return Results(
        method=method_name,
        cohort=cohort_name,
        split=split,
        seed=seed,
        conventions=stated,
        subsets=tuple(
            _table_row(settings, subset, [row for row in rows if row.result.present == subset], resamples=resamples)
            for subset in wanted
        ),
        cases=tuple(row.result for row in rows),
        notes=(*notes, *_restriction(method, use)),
        classes={target.name: target.classes for target in settings.targets if not target.is_segmentation},
    )


def _restriction(method: Method, use: Iterable[str] | None) -> tuple[str, ...]:
    """What the reader must know where not all modalities might be read."""
    names = [name for name in method.problem.names if use is None or name in use]
    return () if len(names) == len(method.problem.names) else (f"Only these modalities were read: {', '.join(names)}.",)


def _ordered(method: Method, subsets: Iterable[Iterable[str]]) -> list[Subset]:
    """Each subset once, small first, in the canonical order of the modalities."""
    names = method.problem.names
    for subset in (subsets := [tuple(subset) for subset in subsets]):
        for name in subset:
            method.problem.modality(name)
    known = {tuple(name for name in names if name in subset) for subset in subsets}
    return sorted(known, key=lambda subset: (len(subset), [names.index(name) for name in subset]))


def _entering(settings: _Settings, case: Case, subsets: Sequence[Subset], use: Iterable[str] | None) -> list[Subset]:
    """The rows of a case: it must have a target, and all of the subset."""
    if not any(target.name in case.cells for target in settings.targets):
        return []
    have = set(settings.preparer.present(case, use))
    return [subset for subset in subsets if have >= set(subset)]
