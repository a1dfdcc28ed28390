"""What a validation is: the loss on validation draws, and the metrics of the evaluation on validation subjects.

It is made by process 0 alone, on all cases, so that nothing in it depends on the number of processes.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from math import isfinite
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from comodal.batch import Batch, Features
from comodal.data.cohort import Case, Cohort
from comodal.data.preprocessing import Preparer
from comodal.evaluation.pooling import pooled_samples
from comodal.evaluation.results import CaseResult, Results
from comodal.evaluation.subsets import evaluate
from comodal.inference.predictor import can_predict
from comodal.method import Method, Prediction, Requirements, Stage
from comodal.modality import subsets
from comodal.processes import alone
from comodal.run import Run
from comodal.training.feeding import Feed
from comodal.training.loop import Verdict

if TYPE_CHECKING:
    from lightning_fabric import Fabric

LOSS_BATCHES = 8  # where the loss is only looked at, and cases are seen in patches
Subset = tuple[str, ...]


class StageView(Method):
    """A method as one of its stages is judged: it predicts by `validate`, the targets that the stage names.

    Args:
        method: Shared, not copied.
        stage: One of its stages.
    """

    def __init__(self, method: Method, stage: Stage) -> None:
        problem = method.problem
        named = tuple(target for target in problem.targets if target.name in (stage.targets or ()))
        fewer = replace(problem, targets=named)
        super().__init__(fewer if named and fewer.task == problem.task else problem, method.config)
        self.method, self.stage = method, stage
        self.asked = None if stage.monitor is None else stage.monitor.subsets
        self.own = type(method).validate is not Method.validate

    @property
    def requires(self) -> Requirements:
        """Those of the method."""
        return self.method.requires

    def supports(self, subset: Iterable[str]) -> bool:
        """The subsets of the stage's monitor, where the method has a `validate` of its own; else those of the method."""
        if self.own and self.asked is not None:
            return set(subset) in [set(asked) for asked in self.asked]
        return self.method.supports(subset)

    def reads(self, subset: Iterable[str]) -> Subset:
        """What the method looks at; all of it where the method has a `validate` of its own."""
        return super().reads(subset) if self.own else self.method.reads(subset)

    def predict(self, batch: Batch) -> Prediction:
        """What the stage is judged by."""
        return self.method.validate(batch, self.stage)

    @property
    def encodes(self) -> bool:
        """False where the method has a `validate` of its own, which `decode` knows nothing of."""
        return self.method.encodes and not self.own

    def encode(self, batch: Batch) -> dict[str, Features]:
        """That of the method."""
        return self.method.encode(batch)

    def decode(self, features: Mapping[str, Features], present: Tensor) -> Prediction:
        """That of the method."""
        return self.method.decode(features, present)

    def wanted(self) -> list[Subset]:
        """The subsets that it can be judged on, in canonical order."""
        asked = None if self.asked is None else [set(subset) for subset in self.asked]
        return [s for s in subsets(self.problem.names) if (asked is None or set(s) in asked) and can_predict(self, s)]

    def plan(self, cases: Sequence[Case], *, every: bool) -> list[tuple[list[Case], list[Subset]]]:
        """Which cases are predicted from which subsets.

        Args:
            cases: Labelled.
            every: Whether `training.validate_on` asks for all.

        Returns:
            All cases from every wanted subset that they have; or else each case from the fullest that it has, of equals the
            first in canonical order, whatever comes out.
        """
        wanted = self.wanted()
        if every or self.asked is not None:
            return [(list(cases), wanted)] if any(set(s) <= set(case.cells) for case in cases for s in wanted) else []
        groups: dict[Subset, list[Case]] = {}
        for case in cases:
            have = [subset for subset in wanted if set(subset) <= set(case.cells)]
            if have:
                groups.setdefault(max(have, key=len), []).append(case)
        return [(group, [subset]) for subset, group in groups.items()]

    def labelled(self, cohort: Cohort, ids: Iterable[str]) -> list[Case]:
        """Those of these cases that have one of the targets."""
        return [case for case in map(cohort.case, ids) if any(t.name in case.cells for t in self.problem.targets)]


class Validator:
    """Validates a method between steps. `feed` is set before each stage; None where there is no validation case.

    Args:
        run: Its validation cases and settings.
        preparer: Shared with the training.
        fabric: For device and precision.
    """

    def __init__(self, run: Run, preparer: Preparer, fabric: Fabric) -> None:
        self.run, self.preparer, self.fabric = run, preparer, fabric
        self.feed: Feed | None = None

    def __call__(self, method: Method, stage: Stage) -> Verdict:
        """The loss, the metric of the stage's monitor, and the DSC where what was trained already segments."""
        method.eval()
        metrics: dict[str, float] = {}
        cases: dict[str, int] = {}
        missed: tuple[str, ...] = ()
        metric = stage.monitor.metric if stage.monitor is not None else "loss"
        view = StageView(method, stage)
        with alone():
            if self.feed is not None:
                metrics["loss"], cases["loss"] = self._loss(method, stage, self.feed)
            segments = view.problem.task == "segmentation" and _segments(method, stage)
            wanted = list(dict.fromkeys([*([metric] if metric != "loss" else []), *(["DSC"] if segments else [])]))
            found = self._evaluate(view, wanted) if wanted else []
        each = [case for results in found for case in results.cases]
        for name in wanted:
            value = self._score(view, name, each)
            if value is not None:
                metrics[name], cases[name] = value, len({case.subject for case in each})
        if segments:
            missed = missed_classes(found)
        return Verdict(metrics, missed, cases)

    def _loss(self, method: Method, stage: Stage, feed: Feed) -> tuple[float, int]:
        """(mean, number of cases). What is random in it is the same each time; each step of the training seeds anew."""
        total, seen = 0.0, list[str]()
        monitored = stage.monitor is not None and stage.monitor.metric == "loss"
        whole = stage.inputs == "encoded" or method.problem.task == "classification"
        feed = replace(feed, every=True)
        with torch.no_grad(), self.fabric.autocast():
            for number, batch in enumerate(feed.batches(0)):
                if number == LOSS_BATCHES and not (monitored or whole):
                    break
                torch.manual_seed(number)
                terms = method.losses(batch.to(self.fabric.device), stage)
                total += len(batch) * sum(float(term) for term in terms.values())
                seen += batch.ids
        return total / len(seen), len(set(seen))

    def _evaluate(self, view: StageView, metrics: Sequence[str]) -> list[Results]:
        config, cases = self.run.config.training, view.labelled(self.run.cohort, self.run.splits["val"])
        with self.fabric.autocast():
            return [
                evaluate(
                    view,
                    self.preparer,
                    group,
                    subsets=wanted,
                    seed=config.seed,
                    method_name=self.run.label,
                    cohort_name=self.run.cohort.meta.layout,
                    split="val",
                    device=self.fabric.device,
                    overlap=config.overlap,
                    metrics=metrics,
                    intervals=False,
                )
                for group, wanted in view.plan(cases, every=config.validate_on == "subsets")
            ]

    def _score(self, view: StageView, metric: str, cases: Sequence[CaseResult]) -> float | None:
        """One number: the mean over cases of the mean over classes, or the pooled metric; over subsets, their plain mean."""
        per_case: dict[str, list[float]] = {}
        for case in cases:
            values = [v for name, v in case.metrics.items() if v is not None and name.partition("/")[0] == metric]
            if metric == "DSC":
                values = [v for v in [case.metrics.get("DSC/mean")] if v is not None]
            if values:
                per_case.setdefault(case.subject, []).append(sum(values) / len(values))
        if per_case:
            return float(np.mean([np.mean(rows) for rows in per_case.values()]))
        every = self.run.config.training.validate_on == "subsets" or view.asked is not None
        rows = {case.present if every else (): list[CaseResult]() for case in cases}
        for case in cases:
            rows[case.present if every else ()].append(case)
        numbers = [value for row in rows.values() for value in _pooled(view, metric, row)]
        return float(np.mean(numbers)) if numbers else None


def _pooled(view: StageView, metric: str, cases: Sequence[CaseResult]) -> list[float]:
    """A pooled metric of each target of classification for which it is defined."""
    found = []
    for target in view.problem.targets:
        known = [case for case in cases if target.name in (case.targets or {})]
        if known and not target.is_segmentation:
            found.append(float(pooled_samples(f"{metric}/{target.name}", known, np.ones((1, len(known))))[0]))
    return [value for value in found if isfinite(value)]


def _segments(method: Method, stage: Stage) -> bool:
    """Whether what `StageView` predicts is trained by now: by this stage itself, or as this is the last."""
    if stage.targets == ():
        return False
    own = type(method).validate is not Method.validate
    asked = stage.monitor is not None and (stage.monitor.metric != "loss" or stage.monitor.subsets is not None)
    return own or asked or stage.name == method.stages()[-1].name


def missed_classes(found: Iterable[Results]) -> tuple[str, ...]:
    """Classes that are in some truth and overlap with no prediction at all, of all cases together.

    Found from the numbers alone: with the convention 1 for both empty and 0 for one empty, a class is missed when no case has
    a DSC other than 0 and 1, and no more cases have 1 than have an empty truth.
    """
    values: dict[str, list[float]] = {}
    counts: dict[str, tuple[int, int]] = {}
    for results in found:
        for row in results.subsets:
            for name, metric in row.metrics.items():
                if name.startswith("DSC/") and name != "DSC/mean":
                    positive, negative = counts.get(name, (0, 0))
                    counts[name] = positive + (metric.n_pos or 0), negative + (metric.n_neg or 0)
        for case in results.cases:
            for name in (name for name, value in case.metrics.items() if value is not None and name in counts):
                values.setdefault(name, []).append(case.metrics[name] or 0.0)
    missed = []
    for name, (positive, negative) in counts.items():
        numbers = values.get(name, [])
        if positive and all(v in (0.0, 1.0) for v in numbers) and sum(v == 1.0 for v in numbers) <= negative:
            missed.append(name.partition("/")[2])
    return tuple(missed)
