"""The all-subsets table of the page: cells with what stands small beside and below the number."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from comodal.evaluation.metrics import METRICS
from comodal.evaluation.table import Cell, Contrast, StudyRow, StudyTable
from comodal.reporting.tables import heading, interval, is_of_classes, number, p_text, row_n, rows_of, shown_metrics

WIDEST = 12  # columns of numbers that fit on a laptop and on paper


@dataclass(frozen=True)
class PageCell:
    """A cell of the page: the number, what stands small beside and below it, how it looks, and how many columns it spans."""

    main: str
    below: str = ""
    beside: str = ""
    look: Literal["value", "difference", "clear", "none"] = "value"
    span: int = 1


@dataclass(frozen=True)
class PageRow:
    """A row of the page.

    Attributes:
        dots: Which modalities were given; empty in the row of the average.
        name: The same in words.
        n: Cases.
        cells: The numbers.
        label: Whose numbers, where methods stand in rows.
        unused: What was given and not used.
        first: Whether it is the first row of its subset.
    """

    dots: tuple[bool, ...]
    name: str
    n: str
    cells: tuple[PageCell, ...]
    label: str = ""
    unused: tuple[str, ...] = ()
    first: bool = True


@dataclass(frozen=True)
class PageTable:
    """A table of the page: `groups` of (heading, number of columns) stand above `columns`."""

    title: str
    groups: tuple[tuple[str, int], ...]
    columns: tuple[str, ...]
    modalities: tuple[str, ...]
    rows: tuple[PageRow, ...]

    @property
    def labelled(self) -> bool:
        """Whether rows say whose numbers they hold."""
        return any(row.label for row in self.rows)

    @property
    def starts(self) -> tuple[int, ...]:
        """Index of the first column of each group."""
        return tuple(sum(span for _, span in self.groups[:i]) for i in range(len(self.groups)))


def page_tables(table: StudyTable) -> list[PageTable]:
    """The tables of segmentation: one for a single method, one per metric for several, one per region where that is too wide.

    Those of classes are in `comodal.reporting.class_tables`.
    """
    names = [name for name in shown_metrics(table) if not is_of_classes(name)]
    if not names:
        return [] if table.metrics else [_page_table(table, "", ())]
    if len(table.methods) == 1:
        return [_page_table(table, "", names[i : i + WIDEST]) for i in range(0, len(names), WIDEST)]
    families: dict[str, list[str]] = {}
    for name in names:
        families.setdefault(name.partition("/")[0], []).append(name)
    size = max(WIDEST // (2 * len(table.methods) - 1), 1)
    chunks = [family[i : i + size] for family in families.values() for i in range(0, len(family), size)]
    return [_page_table(table, metric_title(chunk[0]), chunk) for chunk in chunks]


def metric_title(metric: str) -> str:
    """A metric in words, and which way is better.

    >>> metric_title("DSC/WT"), metric_title("balanced_accuracy/grade")
    ('Dice similarity coefficient (DSC): more is better', 'balanced accuracy: mean recall of the classes; more is better')
    """
    stem = metric.partition("/")[0]
    of = METRICS[stem]
    better = f"{'more' if of.better == 'higher' else 'less'} is better"
    if is_of_classes(metric):
        return f"{stem.replace('_', ' ')}: {of.summary}; {better}"
    return f"{of.summary.partition(',')[0]} ({stem}): {better}"


def _page_table(table: StudyTable, title: str, metrics: Sequence[str]) -> PageTable:
    several = len(table.methods) > 1
    groups: list[tuple[str, int]] = []
    columns: list[str] = []
    if several:
        for name in metrics:
            columns += [*table.methods, *(f"{method} − {table.reference}" for method in table.methods[1:])]
            groups.append((heading(name, table=table), 2 * len(table.methods) - 1))
    else:
        for stem in dict.fromkeys(name.partition("/")[0] for name in metrics):
            regions = [name.partition("/")[2] for name in metrics if name.partition("/")[0] == stem]
            columns += regions
            groups.append((heading(stem, table=table), len(regions)))
    if not metrics:
        columns, groups = ["result"], [("", 1)]
    rows = rows_of(table)
    cells = tuple(_page_row(table, row, metrics) for row in rows)
    return PageTable(title, tuple(groups), tuple(columns), table.modalities, cells)


def _page_row(table: StudyTable, row: StudyRow, metrics: Sequence[str]) -> PageRow:
    n, several = row_n(row, metrics), len(table.methods) > 1
    cells: list[PageCell] = []
    for metric in metrics:
        cells += [page_cell(row.cells[method].get(metric, Cell("not run")), metric, n) for method in table.methods]
        cells += [page_contrast(row.contrasts.get(method, {}).get(metric), metric, n) for method in table.methods[1:]]
    if not metrics:
        cells = [PageCell("not run", look="none")]
    dots = tuple(name in row.present for name in table.modalities) if row.present else ()
    name = " + ".join(row.present) if row.present else f"average of {len(table.averaged)} subsets"
    unused = row.unused(table.reference) if not several else ()
    return PageRow(dots, name, "" if n is None else str(n), tuple(cells), unused=unused)


def page_cell(cell: Cell, metric: str, n: int | None) -> PageCell:
    """A number as a cell of the page; n where it is not that of the row."""
    if cell.state != "value":
        return PageCell(cell.state, look="none")
    fewer = f" n {cell.n}" if cell.n != n else ""
    return PageCell(number(cell.value, metric), interval(cell.ci95, metric) + fewer)


def page_contrast(contrast: Contrast | None, metric: str, n: int | None) -> PageCell:
    """A difference as a cell of the page; n where it is not that of the row."""
    if contrast is None or contrast.value is None:
        return PageCell("–", look="none")
    fewer = f" n {contrast.n}" if contrast.n != n else ""
    spread = (
        ""
        if contrast.ci95 is None
        else ", ".join(number(end, metric, signed=True, interval=True, brief=True) for end in contrast.ci95)
    )
    below = (f"[{spread}]" if spread else "") + fewer
    main = number(contrast.value, metric, signed=True).replace("-", "−")
    look: Literal["clear", "difference"] = "clear" if contrast.clear else "difference"
    return PageCell(main, below.replace("-", "−"), p_text(contrast.p_holm), look)
