"""The combined table of one or several methods over subsets of modalities: plain values; `comparison.combine` fills it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from comodal.evaluation.statistics import Interval

State = Literal["value", "not supported", "not run", "no cases"]


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
    """A method minus the reference, or a subset minus all modalities, on the cases that both have.

    Attributes:
        value: Mean of the differences per case (pooled metrics: difference of the two values); None without common cases.
        ci95: 95 % interval over patients; None for too few of them.
        n: Cases that both have.
        p_value: Two-sided, over patients: Wilcoxon signed-rank test, None for fewer than two; of pooled metrics, which have no
            value per case, the paired bootstrap that made `ci95`, None for too few.
        p_holm: The same after Holm's correction over the rows and methods of this metric; of a subset minus all modalities,
            over the subsets of its method.
    """

    value: float | None
    ci95: Interval | None
    n: int
    p_value: float | None = None
    p_holm: float | None = None

    @property
    def clear(self) -> bool:
        """The one rule for calling it a difference: an interval without zero, and where there is a p, Holm's below 0.05."""
        apart = self.ci95 is not None and (self.ci95[0] > 0 or self.ci95[1] < 0)
        return apart and (self.p_holm is None or self.p_holm < 0.05)


@dataclass(frozen=True)
class StudyRow:
    """One subset of modalities or, with `present` empty, the average over subsets.

    Attributes:
        present: The modalities, in canonical order.
        cells: {method: {metric: Cell}}.
        contrasts: {method: {metric: Contrast}}, without the reference; only where both methods have a value.
        drops: {method: {metric: Contrast}}: this subset minus all modalities, of the same method, on the cases that have all;
            only where there are some. Empty in the row of all modalities and in the average.
        used: {method: those of `present` that it used in some case}, of methods whose results say so. Empty in the average.
    """

    present: tuple[str, ...]
    cells: Mapping[str, Mapping[str, Cell]]
    contrasts: Mapping[str, Mapping[str, Contrast]] = field(default_factory=dict)
    drops: Mapping[str, Mapping[str, Contrast]] = field(default_factory=dict)
    used: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    def unused(self, method: str) -> tuple[str, ...]:
        """What the method was given in this row and did not use in any case."""
        return tuple(name for name in self.present if name not in self.used.get(method, self.present))


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
        notes: What its intervals are not, where patients are few; what the training cases lack.
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
    notes: tuple[str, ...] = ()
