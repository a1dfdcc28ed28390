"""The weights of a split as a file of the run, `explain/<name>.json`: JSON both ways, schema 1. The page reads it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Literal

from pydantic import ConfigDict, Field

from comodal.evaluation.documents import Document, Strict
from comodal.evaluation.results import Number
from comodal.explain.explanation import Voxels
from comodal.explain.weights import CaseWeights, mean_weights


class _Finite(Strict):
    model_config = ConfigDict(allow_inf_nan=False)


class WeightValue(_Finite):
    """A weight over cases: its mean (None without a case), its interval (None for fewer than six patients), and n cases."""

    value: Number = None
    ci95: tuple[float, float] | None = None
    n: int = Field(0, ge=0)


class WeightRow(_Finite):
    """One pair over the cases of the split.

    Attributes:
        primary, region: The pair.
        weights: {auxiliary: mean weight}.
        left_out: Cases that have this pair, but no weight of it: nothing of the region was found, or all heat is zero.
    """

    primary: str
    region: str
    weights: dict[str, WeightValue]
    left_out: int = Field(0, ge=0)


class CaseRow(_Finite):
    """One pair of one case; a weight is None where the row has none, and an absent auxiliary has no entry."""

    primary: str
    region: str
    weights: dict[str, Number]


class CaseRows(_Finite):
    """The pairs of one case."""

    subject: str
    rows: tuple[CaseRow, ...]


class ExplainResults(Document):
    """Complementary information weights of one run on one split.

    Attributes:
        schema_: Version of this format ("schema" in JSON).
        explainer: Key of EXPLAINERS.
        voxels: Over which voxels logits were summed; None where the explainer needs none.
        split: Name of the split; after a dot, how it differs from the default (explainer, voxels, modalities).
        rows: The table.
        cases: The cases behind it; those without any row are those that were left out.
    """

    owner: ClassVar[str] = "explain"
    missing: ClassVar[str] = "Run `comodal explain RUN --split test --out DIR` again"
    damaged: ClassVar[str] = missing

    schema_: Literal[1] = Field(default=1, alias="schema")
    explainer: str
    voxels: Voxels | None = None
    split: str
    rows: tuple[WeightRow, ...] = ()
    cases: tuple[CaseRows, ...] = ()

    @property
    def auxiliaries(self) -> tuple[str, ...]:
        """All auxiliaries, in the order that the rows agree on: each row lacks its own primary."""
        found: list[str] = []
        for row in self.rows:
            for before, name in zip((None, *row.weights), row.weights, strict=False):
                if name not in found:
                    found.insert(0 if before is None else found.index(before) + 1, name)
        return tuple(found)


def results_of(cases: Sequence[CaseWeights], *, explainer: str, voxels: Voxels | None, split: str) -> ExplainResults:
    """The table of a split from its cases.

    Args:
        cases: One entry per explained case; one without weights for a case that could not be explained.
        explainer: Key of EXPLAINERS.
        voxels: Over which voxels logits were summed.
        split: Its name.
    """
    rows = []
    for (primary, region), means in mean_weights(cases).items():
        shown = {name: WeightValue(value=m.value, ci95=m.ci95, n=m.n) for name, m in means.items()}
        without = sum((primary, region) in case.left_out for case in cases)
        rows.append(WeightRow(primary=primary, region=region, weights=shown, left_out=without))
    every = [CaseRows(subject=case.subject, rows=case_rows(case)) for case in cases]
    return ExplainResults(explainer=explainer, voxels=voxels, split=split, rows=tuple(rows), cases=tuple(every))


def case_rows(case: CaseWeights) -> tuple[CaseRow, ...]:
    """The rows of one case."""
    return tuple(CaseRow(primary=p, region=r, weights=dict(row)) for (p, r), row in case.weights.items())
