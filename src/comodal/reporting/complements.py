"""Complementary information weights on the page: a table and bars as in Figure 18 of Shen et al. (2024).

They are read from `RUN/explain/<split>.json`. Several runs of one method are averaged case by case before anything else, as
in the tables of metrics. This module imports torch with `comodal.explain`; the page loads it only where such a file is.
"""

from __future__ import annotations

import base64
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from comodal.explain.explanation import VOXELS
from comodal.explain.results import ExplainResults, WeightRow, WeightValue, results_of
from comodal.explain.weights import NOTHING, CaseWeights
from comodal.reporting.figures import page_width
from comodal.reporting.heat import weights_picture
from comodal.reporting.record import RunRecord
from comodal.reporting.tables import interval

DPI = 130


@dataclass(frozen=True)
class Weights:
    """The weights of one method, ready for the page.

    Attributes:
        rows: Of the table; the first is the heading.
        src: `data:` address of the chart.
        width: Of the chart in pixels of the page.
        caption: What the reader must know.
    """

    rows: tuple[tuple[str, ...], ...]
    src: str
    width: int
    caption: str


def weights_of_runs(records: Sequence[RunRecord], name: str) -> Weights | None:
    """The weights of the runs of one method that were explained.

    Args:
        records: Runs that differ in seed and fold alone.
        name: Of the file, without suffix.

    Returns:
        None where no run has any weight.

    Raises:
        RunError: A file is damaged.
    """
    there = [(r, r.folder / "explain" / f"{name}.json") for r in records]
    found = [(record, ExplainResults.load(path)) for record, path in there if path.is_file()]
    if not any(result.rows for _, result in found):
        return None
    pooled = pool(found)
    src = "data:image/png;base64," + base64.b64encode(weights_picture(pooled, dpi=DPI)).decode("ascii")
    return Weights(table(pooled), src, page_width(src, DPI), caption(pooled, runs=len(found)))


def pool(found: Sequence[tuple[RunRecord, ExplainResults]]) -> ExplainResults:
    """One table of several runs: each case's weights are averaged over the runs that have some, then cases are.

    Args:
        found: Runs with what was found; explainer and voxels are those of the first.
    """
    values: dict[str, dict[tuple[str, str], dict[str, list[float]]]] = {}
    groups: dict[str, str] = {}
    for record, result in found:
        for case in result.cases:
            cells = record.files.get(case.subject, {})
            groups.setdefault(case.subject, cells.get("group") or cells.get("subject") or case.subject)
            rows = values.setdefault(case.subject, {})
            for row in case.rows:
                mine = rows.setdefault((row.primary, row.region), {})
                for auxiliary, value in row.weights.items():
                    mine.setdefault(auxiliary, []).extend([] if value is None else [value])
    cases = [_case(subject, groups[subject], rows) for subject, rows in values.items()]
    first = found[0][1]
    return results_of(cases, explainer=first.explainer, voxels=first.voxels, split=first.split)


def _case(subject: str, group: str, rows: Mapping[tuple[str, str], Mapping[str, Sequence[float]]]) -> CaseWeights:
    weights = {
        pair: {name: math.fsum(some) / len(some) if some else None for name, some in row.items()} for pair, row in rows.items()
    }
    return CaseWeights(subject, group, weights, {pair: NOTHING for pair, row in weights.items() if None in row.values()})


def table(results: ExplainResults) -> tuple[tuple[str, ...], ...]:
    """Rows of text; the first is the heading. A cell that counts fewer cases than its row says so."""
    names = results.auxiliaries
    rows = [("primary", "region", *(f"from {name}" for name in names), "n", "cases without weight")]
    for row in results.rows:
        n = max((weight.n for weight in row.weights.values()), default=0)
        cells = (_cell(row, name, n) for name in names)
        rows.append((row.primary, row.region, *cells, str(n), str(row.left_out) if row.left_out else "-"))
    return tuple(rows)


def _cell(row: WeightRow, name: str, n: int) -> str:
    weight = row.weights.get(name, WeightValue())
    if name not in row.weights or weight.value is None:
        return "-"
    parts = [f"{weight.value:.2f}", interval(weight.ci95, "weight"), f"(n = {weight.n})" if weight.n != n else ""]
    return " ".join(part for part in parts if part)


def caption(results: ExplainResults, *, runs: int) -> str:
    """How to read table and chart.

    Args:
        results: Of all runs together.
        runs: How many there are.
    """
    parts = [f"Share of the heat (explainer {results.explainer}) that each auxiliary modality has in a segmentor and a region."]
    parts.append("The weights of a case add up to 1 over the auxiliaries that it has, and say nothing about other rows.")
    parts.append("Means over cases, with 95 % intervals over patients where there are six.")
    if results.voxels is not None:
        parts.append(f"Logits are summed over {VOXELS[results.voxels]}.")
    if runs > 1:
        parts.append(f"{runs} runs are averaged case by case before; they do not make n larger.")
    if any(row.left_out for row in results.rows):
        parts.append("A case has no weight where nothing of the region was found, or where all heat is zero.")
    return " ".join(parts)
