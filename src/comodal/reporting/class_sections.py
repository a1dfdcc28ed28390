"""The section of the page on each target of classes: which row it is of, its figures, and a table of its classes."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from comodal.evaluation import curves
from comodal.evaluation.comparison import combine
from comodal.evaluation.curves import Confusion, wilson
from comodal.evaluation.metrics import name_parts, threshold
from comodal.evaluation.results import CaseResult, Results
from comodal.evaluation.statistics import RESAMPLES
from comodal.evaluation.table import Cell, StudyRow, StudyTable
from comodal.modality import Target
from comodal.reporting.record import RunRecord
from comodal.reporting.tables import interval, number

if TYPE_CHECKING:
    from comodal.reporting.class_figures import Panel

MOST_METHODS = 7  # with a colour of their own
MOST_CLASSES = 7
RARE = 0.3  # share of the cases below which the ROC curve looks better than the answers are
OPEN = 1  # targets that are unfolded
CONFUSIONS = "Which class was answered for which"


@dataclass(frozen=True)
class Shown:
    """One method at one target: the row of the table that the figures are of, and its cases.

    Attributes:
        method: Label.
        row: Of the combined table.
        cases: Of all its runs, one after the other.
        cells: {metric: number} of the row, those of single classes included.
        look: Which colour and dashes.
    """

    method: str
    row: StudyRow
    cases: Sequence[CaseResult]
    cells: Mapping[str, Cell]
    look: int

    @property
    def source(self) -> str:
        """From what it predicts."""
        unused = self.row.unused(self.method)
        return " + ".join(self.row.present) + (f" ({' and '.join(unused)} not used)" if unused else "")

    def value(self, name: str, otherwise: float | None = None) -> str:
        """A number with its interval as text; where the results have none, another one without."""
        cell = self.cells.get(name, Cell("not run"))
        if cell.state != "value":
            return "" if otherwise is None else number(otherwise, name)
        return " ".join(part for part in (number(cell.value, name), interval(cell.ci95, name)) if part)


def class_sections(groups: Mapping[str, Sequence[RunRecord]], table: StudyTable, split: str) -> list[dict[str, Any]]:
    """What the page shows of each target of classes.

    Args:
        groups: {label of the method: its runs}.
        table: The combined table.
        split: Which results.

    Returns:
        For each target with cases what the template reads: names and counts, `figures`, and the `rows` of a plain table.
    """
    targets = {t.name: t for runs in groups.values() for record in runs for t in record.class_targets}
    found: list[dict[str, Any]] = []
    for target in targets.values():
        shown = _shown(groups, table, split, target)
        if shown:
            found.append(_section(target, shown, len(table.methods), f"t{len(found)}"))
    for place, one in enumerate(found):
        one["open"] = place < OPEN
    return found


def figure_row(table: StudyTable, method: str, name: str) -> StudyRow | None:
    """The row that speaks for a method: where it uses most modalities, then most cases, then the least that is not used."""
    known = [row for row in table.rows if row.cells[method].get(name, Cell("not run")).state == "value"]
    if not known:
        return None

    def rank(row: StudyRow) -> tuple[int, int, int]:
        unused = len(row.unused(method))
        return len(row.present) - unused, row.cells[method][name].n, -unused

    return max(known, key=rank)


def _shown(groups: Mapping[str, Sequence[RunRecord]], table: StudyTable, split: str, target: Target) -> list[Shown]:
    found = []
    for look, (method, runs) in enumerate(list(groups.items())[:MOST_METHODS]):
        row = figure_row(table, method, f"accuracy/{target.name}") if method in table.methods else None
        if row is None:
            continue
        results = [of_row(record.results[split], row.present) for record in runs if split in record.results]
        cases = [case for result in results for case in result.cases if target.name in (case.targets or {})]
        size = {len((case.probabilities or {}).get(target.name, ())) for case in cases}
        if size == {len(target.classes)}:
            found.append(Shown(method, row, cases, target_cells(results, target.name), look))
    return found


def of_row(result: Results, present: Sequence[str]) -> Results:
    """A result with one row of its table alone. present: the modalities of the row."""
    kept = frozenset(present)
    subsets = tuple(one for one in result.subsets if frozenset(one.present) == kept)
    return result.model_copy(
        update={"subsets": subsets, "cases": tuple(case for case in result.cases if frozenset(case.present) == kept)}
    )


def target_cells(results: Sequence[Results], target: str) -> Mapping[str, Cell]:
    """All numbers of one target, those of single classes included.

    Args:
        results: One for each run, of one row each.
        target: Name.

    Returns:
        {metric: number}.
    """
    names = {name for result in results for name in result.metric_names if name_parts(name)[1] == target}
    # A single run brings its intervals along; of several, resamples are averaged over the runs.
    table = combine({"": results}, metrics=names, resamples=RESAMPLES if len(results) > 1 else 2)
    return table.rows[0].cells[""] if table.rows else {}


def _section(target: Target, shown: Sequence[Shown], methods: int, salt: str) -> dict[str, Any]:
    matrices = [] if target.kind == "multilabel" else [curves.confusion(one.cases, target, target.classes) for one in shown]
    areas = [one.value(f"AUROC/{target.name}") or "not defined" for one in shown]
    sources = [one.source for one in shown]
    same = len(set(sources)) == 1
    return {
        "name": target.name.replace("_", " "),
        "classes": len(target.classes),
        "summary": "; ".join(f"{one.method} {area}" if methods > 1 else area for one, area in zip(shown, areas, strict=True)),
        "source": sources[0] if same else "; ".join(f"{one.method} from {one.source}" for one in shown),
        "same": same,
        "n": max(len({case.subject for case in one.cases}) for one in shown),
        "left_out": methods - len(shown),
        "figures": _figures(target, shown, matrices, salt),
        "rows": _class_rows(target, shown, matrices),
        "curved": len(_curved(target)) if len(target.classes) > MOST_CLASSES else 0,
        "runs": max(_runs(one.cases) for one in shown),
        "several": len(shown) > 1,
        "wilson": bool(matrices),
    }


def _runs(cases: Sequence[CaseResult]) -> int:
    counts: dict[str, int] = {}
    for case in cases:
        counts[case.subject] = counts.get(case.subject, 0) + 1
    return max(counts.values(), default=0)


def _figures(target: Target, shown: Sequence[Shown], matrices: Sequence[Confusion], salt: str) -> list[dict[str, Any]]:
    """One row of panels for a single method; for several one figure of each kind, with a panel for each method or class."""
    from comodal.reporting.class_figures import COLUMNS, confusion_panel, panels_figure, panels_width, reliability_panel

    several = len(shown) > 1
    confusions = [confusion_panel(m, one.method if several else "confusion") for m, one in zip(matrices, shown, strict=False)]
    reliabilities = []
    for one in shown:
        found = curves.reliability(one.cases, target)
        error = one.value(f"ECE/{target.name}", found.ece)
        title = one.method if several else "reliability"
        reliabilities.append(reliability_panel(found, title, error, look=one.look if several else 0))
    roc, pr = (_curve_panels(target, shown, kind, several=several) for kind in ("ROC", "PR"))
    named = {
        CONFUSIONS: confusions,
        "ROC, one class against the rest": roc,
        "Precision against recall, of the rarer classes": pr,
        "Reliability": reliabilities,
    }
    if several and pr and len(roc) + len(pr) <= COLUMNS:
        named = {
            CONFUSIONS: confusions,
            "ROC, and precision against recall of the rarer classes": [*roc, *pr],
            "Reliability": reliabilities,
        }
    if not several:
        named = {"": [*confusions, *roc, *pr, *reliabilities]}
    return [
        {"title": title, "svg": panels_figure(panels, salt=f"{salt}{i}"), "width": panels_width(panels)}
        for i, (title, panels) in enumerate(named.items())
        if panels
    ]


def _curve_panels(target: Target, shown: Sequence[Shown], kind: Literal["ROC", "PR"], *, several: bool) -> list[Panel]:
    """A panel for each class with a line for each method, or one with a line for each class."""
    from comodal.reporting.class_figures import Line, curves_panel

    of, stem = (curves.roc, "AUROC") if kind == "ROC" else (curves.precision_recall, "AUPRC")
    panels: list[Panel] = []
    together: list[Line] = []
    for k in _curved(target):
        lines = []
        for one in shown:
            curve = of(one.cases, target, k)
            label, look = (one.method, one.look) if several else (target.classes[k], k)
            lines.append(Line(curve, label, one.value(_area_name(target, stem, k), curve.area) or "not defined", look))
        rare = any(line.curve.chance < RARE for line in lines) or all(math.isnan(line.curve.chance) for line in lines)
        if several and (kind == "ROC" or rare):
            panels.append(curves_panel(lines, target.classes[k], kind))
        together += lines
    title = "ROC" if kind == "ROC" else "precision and recall"
    return panels if several else [curves_panel(together, title, kind)]


def _curved(target: Target) -> list[int]:
    """Classes with a curve: of two, the second; of many, the first."""
    return [1] if _is_binary(target) else list(range(min(len(target.classes), MOST_CLASSES)))


def _is_binary(target: Target) -> bool:
    return len(target.classes) == 2 and target.kind != "multilabel"


def _area_name(target: Target, stem: str, k: int) -> str:
    whole = _is_binary(target) or len(target.classes) == 1
    return f"{stem}/{target.name}" if whole else f"{stem}/{target.name}/{target.classes[k]}"


def _class_rows(target: Target, shown: Sequence[Shown], matrices: Sequence[Confusion]) -> list[tuple[str, ...]]:
    """A plain table: for each class and method, areas with their intervals, sensitivity and precision with Wilson's."""
    several = len(shown) > 1
    heads = (
        "class",
        "n",
        *(["method"] if several else []),
        "AUROC",
        "AUPRC",
        *(["sensitivity", "precision"] if matrices else []),
    )
    rows: list[tuple[str, ...]] = [heads]
    for k, name in enumerate(target.classes):
        above = ""
        for i, one in enumerate(shown):
            curve = curves.roc(one.cases, target, k)
            cells = [one.value(_area_name(target, stem, k)) if k in _areas(target) else "" for stem in ("AUROC", "AUPRC")]
            if matrices:
                counts = matrices[i].counts
                cells += [_part(counts[k, k], counts[k].sum()), _part(counts[k, k], counts[:, k].sum())]
            n = f"{curve.n_pos} of {curve.n}"
            keys = [name if i == 0 else "", "" if n == above else n, *([one.method] if several else [])]
            rows.append((*keys, *(cell or "–" for cell in cells)))
            above = n
    return [*rows, *_threshold_rows(target, shown, width=len(heads))]


def _threshold_rows(target: Target, shown: Sequence[Shown], *, width: int) -> Iterator[tuple[str, ...]]:
    """Of ordinal classes, the area of each class and all above it against those below."""
    for k in range(1, len(target.classes)):
        name, above = f"AUROC/{target.name}/{threshold(k)}", ""
        for i, one in enumerate(shown):
            cell = one.cells.get(name, Cell("not run"))
            if cell.state != "value":
                continue
            n = f"{cell.n_pos} of {cell.n}"
            keys = (at_least_text(target.classes[k]) if i == 0 else "", "" if n == above else n)
            row = (*keys, *([one.method] if len(shown) > 1 else []), one.value(name))
            yield (*row, *["–"] * (width - len(row)))
            above = n


def at_least_text(name: str) -> str:
    """A class and all above it, in words.

    >>> at_least_text("interstitial edema")
    'interstitial edema or above'
    """
    return f"{name} or above"


def _areas(target: Target) -> Sequence[int]:
    """Classes that the results have an area of."""
    return (1,) if _is_binary(target) else range(len(target.classes))


def _part(count: float, total: float) -> str:
    if total <= 0:
        return ""
    low, high = wilson(min(count / total, 1.0), total)
    return f"{count / total:.3f} [{low:.2f}, {high:.2f}]"
