"""Tables of classification for the page: subsets and methods in rows, targets or metrics in columns.

Of a single target the columns are its metrics; of several they are the targets, and each kind of metric has a table of its own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from comodal.evaluation.table import Cell, Contrast, StudyRow, StudyTable
from comodal.reporting.page_tables import WIDEST, PageCell, PageRow, PageTable, metric_title, page_cell, page_contrast
from comodal.reporting.tables import answered, class_targets, heading, is_of_classes, rows_of, shown_metrics


@dataclass(frozen=True)
class ClassTables:
    """Tables of the page.

    Attributes:
        shown: Those that everybody needs.
        folded: The others.
        left_out: Rows of the combined table that none of them has.
    """

    shown: tuple[PageTable, ...] = ()
    folded: tuple[PageTable, ...] = ()
    left_out: tuple[StudyRow, ...] = ()

    @property
    def folded_names(self) -> str:
        """What is folded, on one line."""
        return ", ".join(dict.fromkeys(table.title.partition(":")[0] for table in self.folded))


def class_tables(table: StudyTable, more: StudyTable | None = None) -> ClassTables:
    """Metrics of all targets of classes; nothing where there is none.

    Args:
        table: With the main metrics.
        more: The same methods and rows with the lesser ones; these are folded.
    """
    names = [name for name in shown_metrics(table) if is_of_classes(name)]
    if not names:
        return ClassTables()
    rows = [row for row in rows_of(table) if answered(row)] or rows_of(table)
    left_out = tuple(row for row in table.rows if row not in rows)
    folded = () if more is None else _tables(more, [row for row in rows_of(more) if answered(row)])
    return ClassTables(_tables(table, rows), folded, left_out)


def _tables(table: StudyTable, rows: Sequence[StudyRow]) -> tuple[PageTable, ...]:
    """Of a single target one table, of several one for each kind of metric; as many columns as fit."""
    names = [name for name in shown_metrics(table) if is_of_classes(name)]
    targets = len(class_targets(names)) > 1
    kinds: dict[str, list[str]] = {}
    for name in names:
        kinds.setdefault(name.partition("/")[0] if targets else "", []).append(name)
    chunks = [of_kind[i : i + WIDEST] for of_kind in kinds.values() for i in range(0, len(of_kind), WIDEST)]
    return tuple(_table(table, rows, chunk, targets=targets) for chunk in chunks)


def class_drops(table: StudyTable, metrics: Sequence[str]) -> PageTable:
    """Each subset minus all modalities: methods and subsets in rows, targets in columns.

    Args:
        table: With such differences.
        metrics: One of each target.
    """
    made: list[PageRow] = []
    for row in table.rows:
        compared = {m: by for m in table.methods if any(name in (by := row.drops.get(m, {})) for name in metrics)}
        made += _rows(table, row, {m: _differences(by, metrics) for m, by in compared.items()})
    return PageTable("", (), tuple(target_name(name) for name in metrics), table.modalities, tuple(made))


def target_name(metric: str) -> str:
    """A target as a heading, which may break where its name has an underscore.

    >>> target_name("AUROC/blue_whitish_veil")
    'blue whitish veil'
    """
    return metric.split("/")[1].replace("_", " ")


def _table(table: StudyTable, rows: Sequence[StudyRow], metrics: Sequence[str], *, targets: bool) -> PageTable:
    made: list[PageRow] = []
    for row in rows:
        labelled = {m: _values(row.cells[m], metrics) for m in table.methods if not _silent(row, m)}
        made += _rows(table, row, labelled or {"": _Numbers(None, (PageCell("not run", look="none", span=len(metrics)),))})
        compared = {m: row.contrasts[m] for m in table.methods[1:] if any(name in row.contrasts.get(m, {}) for name in metrics)}
        named = {f"{m} − {table.reference}": _differences(by, metrics) for m, by in compared.items()}
        made += _rows(table, row, named, first=False)
    columns = tuple(target_name(name) if targets else heading(name.partition("/")[0]) for name in metrics)
    title = metric_title(metrics[0]) if targets else ", ".join(columns)
    return PageTable(title, (), columns, table.modalities, tuple(made))


@dataclass(frozen=True)
class _Numbers:
    n: int | None
    cells: tuple[PageCell, ...]


def _rows(table: StudyTable, row: StudyRow, labelled: Mapping[str, _Numbers], *, first: bool = True) -> list[PageRow]:
    """A row of the page for each label; `first` says that the subset begins here."""
    dots = tuple(name in row.present for name in table.modalities) if row.present else ()
    name = " + ".join(row.present) if row.present else f"average of {len(table.averaged)} subsets"
    several = len(table.methods) > 1
    made: list[PageRow] = []
    for label, numbers in labelled.items():
        n = "" if numbers.n is None else str(numbers.n)
        shown, unused = label if several else "", row.unused(label) if label in table.methods else ()
        made.append(PageRow(dots, name, n, numbers.cells, shown, unused, first and not made))
    return made


def _silent(row: StudyRow, method: str) -> bool:
    """Whether nothing is to be said of a method here: it was not run on this subset, and others were."""
    return all(cell.state == "not run" for cell in row.cells[method].values())


def _values(cells: Mapping[str, Cell], metrics: Sequence[str]) -> _Numbers:
    own = [cells.get(name, Cell("not run")) for name in metrics]
    states = {cell.state for cell in own}
    if len(states) == 1 and "value" not in states:
        return _Numbers(None, (PageCell(own[0].state, look="none", span=len(metrics)),))
    n = max(cell.n for cell in own)
    return _Numbers(n, tuple(page_cell(cell, name, n) for cell, name in zip(own, metrics, strict=True)))


def _differences(contrasts: Mapping[str, Contrast], metrics: Sequence[str]) -> _Numbers:
    n = max(contrasts[name].n for name in metrics if name in contrasts)
    return _Numbers(n, tuple(page_contrast(contrasts.get(name), name, n) for name in metrics))
