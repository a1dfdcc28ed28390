"""What a validation is: the loss on validation draws, and the metrics of the evaluation on validation subjects."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

import torch

from comodal.data.cohort import Case
from comodal.data.preprocessing import Preparer
from comodal.evaluation.results import Results
from comodal.evaluation.subsets import evaluate
from comodal.method import Method, Stage
from comodal.modality import subsets
from comodal.run import Run
from comodal.training.feeding import Feed
from comodal.training.loop import Verdict

if TYPE_CHECKING:
    from lightning_fabric import Fabric

LOSS_BATCHES = 8


class Validator:
    """Validates a method between steps. `feed` is set before each stage.

    Args:
        run: Its validation cases and settings.
        preparer: Shared with the training.
        fabric: For device and precision.
    """

    def __init__(self, run: Run, preparer: Preparer, fabric: Fabric) -> None:
        self.run, self.preparer, self.fabric = run, preparer, fabric
        self.feed: Callable[[], Feed | None] = lambda: None

    def __call__(self, method: Method, stage: Stage) -> Verdict:
        """Loss always; metrics, on process 0, where the stage's monitor asks for one."""
        method.eval()
        metrics: dict[str, float] = {}
        feed = self.feed()
        if feed is not None:
            metrics["loss"] = self._loss(method, stage, feed)
        missed: tuple[str, ...] = ()
        asked = stage.monitor is not None and stage.monitor.metric != "loss" and self.fabric.global_rank == 0
        if stage.monitor is not None and asked and self.cases():
            results = self._evaluate(method, stage.monitor.metric)
            chosen = self._score(results, stage.monitor.metric)
            if chosen is not None:
                metrics[stage.monitor.metric] = chosen
            missed = missed_classes(results)
        return Verdict(metrics, missed)

    def cases(self) -> list[Case]:
        """Validation cases with a target."""
        names = [t.name for t in self.run.problem.targets]
        cases = [self.run.cohort.case(i) for i in self.run.splits["val"]]
        return [c for c in cases if any(n in c.cells for n in names) and any(n in c.cells for n in self.run.problem.names)]

    def _loss(self, method: Method, stage: Stage, feed: Feed) -> float:
        """Mean over the first batches; what is random in it is the same each time. Each step of the training seeds anew."""
        total, rows = 0.0, 0
        feed = replace(feed, every=feed.world == 1)  # several processes must hold equal shares
        with torch.no_grad(), self.fabric.autocast():
            for number, batch in enumerate(feed.batches(0)):
                if number == LOSS_BATCHES:
                    break
                torch.manual_seed(number)
                terms = method.losses(batch.to(self.fabric.device), stage)
                total += len(batch) * sum(float(term) for term in terms.values())
                rows += len(batch)
        # On every process, its share: losses that are sums over processes, such as the batch's Dice, need all of them.
        mean = torch.tensor(total / rows, dtype=torch.float64, device=self.fabric.device)
        together = self.fabric.all_reduce(mean, reduce_op="mean")
        assert isinstance(together, torch.Tensor)
        return float(together)

    def _evaluate(self, method: Method, metric: str) -> Results:
        names = self.run.problem.names
        cases = self.cases()
        if self.run.config.training.validate_on == "subsets":
            wanted = [s for s in subsets(names) if method.supports(s)]
        else:
            have = {tuple(n for n in names if n in case.cells) for case in cases}
            wanted = [s for s in subsets(names) if s in have and method.supports(s)]
        with self.fabric.autocast():
            return evaluate(
                method,
                self.preparer,
                cases,
                subsets=wanted,
                seed=self.run.config.training.seed,
                method_name=self.run.label,
                cohort_name=self.run.cohort.meta.layout,
                split="val",
                device=self.fabric.device,
                overlap=self.run.config.training.overlap,
                metrics=("DSC", metric),
                intervals=False,
            )

    def _score(self, results: Results, metric: str) -> float | None:
        """Mean over cases of the metric's mean over classes; over all rows, or over the fullest row that a case has."""
        name = "DSC/mean" if metric == "DSC" else metric
        every = self.run.config.training.validate_on == "subsets"
        per_case: dict[str, list[tuple[int, float]]] = {}
        for case in results.cases:
            value = case.metrics.get(name)
            if value is not None:
                per_case.setdefault(case.subject, []).append((len(case.present), value))
        if per_case:
            values = [sum(v for _, v in rows) / len(rows) if every else max(rows)[1] for rows in per_case.values()]
            return sum(values) / len(values)
        rows = [
            v for row in results.subsets for key, m in row.metrics.items() if key.split("/")[0] == metric for v in [m.value]
        ]
        numbers = [v for v in rows if v is not None]
        return sum(numbers) / len(numbers) if numbers else None


def missed_classes(results: Results) -> tuple[str, ...]:
    """Classes that are in some truth and overlap with no prediction at all, with all modalities that a case has.

    Found from the numbers alone: with the convention 1 for both empty and 0 for one empty, a class is missed when no case has
    a DSC other than 0 and 1, and no more cases have 1 than have an empty truth.
    """
    missed = []
    row = results.subsets[-1] if results.subsets else None
    for name, metric in row.metrics.items() if row is not None else ():
        kind, _, cls = name.partition("/")
        if kind != "DSC" or cls == "mean" or not metric.n_pos:
            continue
        values = list(results.case_values(name, row.present if row is not None else None).values())
        if all(v in (0.0, 1.0) for v in values) and sum(v == 1.0 for v in values) <= (metric.n_neg or 0):
            missed.append(cls)
    return tuple(missed)
