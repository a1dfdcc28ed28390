"""The one result: what `comodal evaluate` writes and every table, figure and test reads. JSON both ways, schema 1.

A case enters the row of subset S if and only if it has all of S, so that a row never mixes what was seen with what was missing;
n therefore differs between the rows of an incomplete cohort and stands beside every number.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Annotated, ClassVar, Literal

import numpy as np
from pydantic import BeforeValidator, Field

from comodal.errors import ConfigError, message, nearest
from comodal.evaluation.documents import Document, Strict
from comodal.evaluation.metrics import Conventions
from comodal.modality import subset_name


def _none_for_nan(value: object) -> object:
    """NaN and infinity have no place in JSON; "no number" is null there and None here."""
    return None if isinstance(value, (float, np.floating)) and not math.isfinite(value) else value


Number = Annotated[float | None, BeforeValidator(_none_for_nan)]


class MetricValue(Strict):
    """One number of a table.

    Attributes:
        value: None where it is not defined; `note` then says why.
        ci95: Bootstrap interval over patients; None for fewer than six patients.
        n: Cases that count in `value`.
        n_pos, n_neg: Cases whose truth has the region or class, and cases whose truth has not; None where neither applies.
        aggregation: "case_mean": mean of one number per case; "pooled": one number of all cases together.
        note: What the reader must know about this number.
    """

    value: Number = None
    ci95: tuple[float, float] | None = None
    n: int = 0
    n_pos: int | None = None
    n_neg: int | None = None
    aggregation: Literal["case_mean", "pooled"] = "case_mean"
    note: str | None = None


class SubsetResult(Strict):
    """One row of the all-subsets table. `metrics` is empty where the method does not support the subset."""

    present: tuple[str, ...]
    supported: bool = True
    metrics: dict[str, MetricValue] = Field(default_factory=dict)

    @property
    def name(self) -> str:
        """The subset as one word, e.g. "flair+t1ce"."""
        return subset_name(self.present)


class CaseResult(Strict):
    """One case with one subset.

    Attributes:
        subject: The id of the case.
        group: The patient.
        present: The subset that was given, not all that the case has.
        used: The modalities of it that the method used; None in older files.
        metrics: {metric: number}; None where the convention leaves the case out.
        probabilities: {target: (K,)} for classes.
        targets: {target: class number, or one answer per class with None for not labelled} for classes.
    """

    subject: str
    group: str
    present: tuple[str, ...]
    used: tuple[str, ...] | None = None
    metrics: dict[str, Number] = Field(default_factory=dict)
    probabilities: dict[str, list[float]] | None = None
    targets: dict[str, int | list[float | None]] | None = None


class TrainingCases(Strict):
    """What a method was trained on.

    Attributes:
        n: Training cases.
        lacking: {modality of the run: training cases without it}, whatever the cause.
        withheld: {modality: training cases that have it and were trained on without it}; only those with some.
        none: Training cases without any modality of the run: they take no part in it, though they count in `n`.
        labelled: {target: training cases with a label of it}, of targets whose labels were withheld from some.
        unlabelled: {target: training cases from which its label was withheld}; only those with some.
    """

    n: int
    lacking: dict[str, int]
    withheld: dict[str, int] = Field(default_factory=dict)
    none: int = 0
    labelled: dict[str, int] = Field(default_factory=dict)
    unlabelled: dict[str, int] = Field(default_factory=dict)


class Results(Document):
    """All numbers of one run on one split.

    Attributes:
        schema_: Version of this format ("schema" in JSON).
        method: Label of the method.
        cohort: Name of the cohort.
        split: "train", "val", "test" or "all", or the name of another cohort; after a dot, which modalities or subsets it was
            restricted to. It is the name of its file.
        seed: Of the training.
        conventions: What the numbers mean.
        subsets: The table, small subsets first, in the cohort's order of modalities.
        cases: One entry per case and subset.
        notes: What a reader must know about these data, e.g. that the files state no spacing.
        training: What the training cases lack; None in older files.
        classes: {target of classes: its classes, in the order of the probabilities}; empty in older files.
    """

    owner: ClassVar[str] = "results"
    missing: ClassVar[str] = "Run `comodal evaluate` first"
    damaged: ClassVar[str] = "Run `comodal evaluate` again"

    schema_: Literal[1] = Field(default=1, alias="schema")
    method: str
    cohort: str
    split: str
    seed: int
    conventions: Conventions = Conventions()
    subsets: tuple[SubsetResult, ...] = ()
    cases: tuple[CaseResult, ...] = ()
    notes: tuple[str, ...] = ()
    training: TrainingCases | None = None
    classes: dict[str, tuple[str, ...]] = Field(default_factory=dict)

    @property
    def metric_names(self) -> tuple[str, ...]:
        """All metrics of the table, in the order of its first rows."""
        return tuple(dict.fromkeys(name for row in self.subsets for name in row.metrics))

    def row(self, subset: Iterable[str]) -> SubsetResult:
        """The row of a subset, in whatever order its names come; an unknown one is refused."""
        wanted = frozenset(subset)
        for row in self.subsets:
            if frozenset(row.present) == wanted:
                return row
        name = subset_name(sorted(wanted))
        hint = nearest(name, [row.name for row in self.subsets])
        raise ConfigError(message("subset", "be a row of the result", repr(name), do=hint))

    def case_values(self, metric: str, subset: Iterable[str] | None = None) -> dict[str, float]:
        """{case: number} of one metric, for paired comparisons.

        Args:
            metric: E.g. "DSC/mean".
            subset: The row; None takes the mean over all rows that the case has.

        Returns:
            Only cases with a number.
        """
        wanted = None if subset is None else frozenset(subset)
        found: dict[str, list[float]] = {}
        for case in self.cases:
            value = case.metrics.get(metric)
            if value is not None and (wanted is None or frozenset(case.present) == wanted):
                found.setdefault(case.subject, []).append(value)
        return {case: sum(values) / len(values) for case, values in found.items()}

    def groups(self) -> dict[str, str]:
        """{case: patient}."""
        return {case.subject: case.group for case in self.cases}

    def mean_over_subsets(self, metric: str) -> float | None:
        """Plain mean of a metric over the rows of the table that have it; None where none has.

        It is the "average" column of the published tables; each row counts once, however many cases it has.
        """
        values = [row.metrics[metric].value for row in self.subsets if metric in row.metrics]
        numbers = [value for value in values if value is not None]
        return sum(numbers) / len(numbers) if numbers else None
