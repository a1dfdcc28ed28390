"""The all-subsets table for a terminal, for Markdown and for the page. Every number stands with its interval and its n."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

from comodal.evaluation.comparison import combine
from comodal.evaluation.drops import drop_note, has_drops, no_full_note
from comodal.evaluation.metrics import METRICS
from comodal.evaluation.results import Results
from comodal.evaluation.table import Cell, Contrast, StudyRow, StudyTable

Source: TypeAlias = "Results | Sequence[Results] | Mapping[str, Sequence[Results]] | StudyTable"
FILLED, EMPTY = "●", "○"
WIDEST = 12  # columns of numbers that fit on a laptop and on paper
MOST_IN_ONE = 3  # methods whose differences stand beside their values in Markdown


@dataclass(frozen=True)
class PlainTable:
    """A table of strings, ready to print.

    Attributes:
        columns: Headings.
        rows: One string per column.
        caption: What the numbers are; a few sentences.
    """

    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    caption: str


@dataclass(frozen=True)
class PageCell:
    """A cell of the page: the number, what stands small beside and below it, and how it looks."""

    main: str
    below: str = ""
    beside: str = ""
    look: Literal["value", "difference", "clear", "none"] = "value"


@dataclass(frozen=True)
class PageRow:
    """A row of the page: which modalities there are, n, and the cells. `dots` is empty in the row of the average."""

    dots: tuple[bool, ...]
    name: str
    n: str
    cells: tuple[PageCell, ...]


@dataclass(frozen=True)
class PageTable:
    """A table of the page: `groups` of (heading, number of columns) stand above `columns`."""

    title: str
    groups: tuple[tuple[str, int], ...]
    columns: tuple[str, ...]
    modalities: tuple[str, ...]
    rows: tuple[PageRow, ...]

    @property
    def starts(self) -> tuple[int, ...]:
        """Index of the first column of each group."""
        return tuple(sum(span for _, span in self.groups[:i]) for i in range(len(self.groups)))


def as_table(source: Source) -> StudyTable:
    """One table from whatever there is; results with the same method label are runs (seeds, folds) of one method."""
    if isinstance(source, StudyTable):
        return source
    if isinstance(source, Results):
        source = [source]
    if isinstance(source, Mapping):
        return combine(source)
    by_method: dict[str, list[Results]] = {}
    for result in source:
        by_method.setdefault(result.method, []).append(result)
    return combine(by_method)


def shown_metrics(table: StudyTable, *, stem: str | None = None) -> tuple[str, ...]:
    """Metrics worth a column: by name, regions in order; the mean over regions only where there are several.

    Args:
        table: Whose metrics.
        stem: Only this one ("DSC").
    """
    stems = dict.fromkeys(name.partition("/")[0] for name in table.metrics)
    out = []
    for each in [stem] if stem else stems:
        names = [name for name in table.metrics if name.partition("/")[0] == each]
        regions = [name for name in names if not name.endswith("/mean")]
        out += regions if len(regions) == 1 else regions + [name for name in names if name.endswith("/mean")]
    return tuple(out)


def primary_metric(table: StudyTable) -> str | None:
    """The one number that speaks for a row: mean DSC, the DSC of the only region, or the first metric of classes."""
    for stem in ("DSC", "AUROC"):
        names = shown_metrics(table, stem=stem)
        if names:
            return names[-1] if stem == "DSC" else names[0]
    return table.metrics[0] if table.metrics else None


def number(value: float, metric: str, *, signed: bool = False, interval: bool = False, brief: bool = False) -> str:
    """A value as text: fractions with three decimals, distances with one.

    Args:
        value: The number.
        metric: Whose; decides the decimals.
        signed: A difference: with its sign.
        interval: The end of an interval; of a value, two decimals are enough.
        brief: Two decimals for differences too, where room is short.

    >>> number(0.7412, "DSC/WT"), number(5.25, "HD95/WT"), number(-0.05, "DSC/WT", signed=True, interval=True)
    ('0.741', '5.2', '-0.050')
    """
    if not math.isfinite(value):
        return "-"
    decimals = 1 if metric.startswith("HD95") else 2 if interval and (brief or not signed) else 3
    value = round(value, decimals) + 0.0  # no minus before a zero
    return f"{value:{'+' if signed and value else ''}.{decimals}f}"


def interval(ci95: tuple[float, float] | None, metric: str, *, signed: bool = False) -> str:
    """An interval as text; empty where there is none.

    >>> interval((0.7, 0.784), "DSC/WT")
    '[0.70, 0.78]'
    """
    if ci95 is None:
        return ""
    return "[" + ", ".join(number(end, metric, signed=signed, interval=True) for end in ci95) + "]"


def cell_text(cell: Cell, metric: str, *, n: bool = False) -> str:
    """A cell on one line: "0.741 [0.70, 0.78]", with n where asked, or why there is no number."""
    if cell.state != "value":
        return cell.state
    parts = [number(cell.value, metric), interval(cell.ci95, metric), f"n={cell.n}" if n else ""]
    return " ".join(part for part in parts if part)


def contrast_text(contrast: Contrast | None, metric: str, *, n: int | None = None) -> str:
    """A difference on one line: "+0.120 [+0.081, +0.160] p=0.004"; n where it is not that of the row."""
    if contrast is None or contrast.value is None:
        return "-"
    parts = [number(contrast.value, metric, signed=True), interval(contrast.ci95, metric, signed=True), p_text(contrast.p_holm)]
    return " ".join(part for part in [*parts, f"n={contrast.n}" if contrast.n != n else ""] if part)


def p_text(p: float | None) -> str:
    """A p value with two digits that matter.

    >>> p_text(0.0321), p_text(0.0000021), p_text(0.44), p_text(None)
    ('p=0.032', 'p<0.001', 'p=0.44', '')
    """
    if p is None:
        return ""
    return "p<0.001" if p < 0.001 else f"p={p:.3f}" if p < 0.1 else f"p={p:.2f}"


def row_n(row: StudyRow, metrics: Sequence[str]) -> int | None:
    """The largest n of a row: the cases that have the subset. A cell with fewer says so itself."""
    counts = [c.n for by in row.cells.values() for k, c in by.items() if k in metrics and c.state == "value"]
    return max(counts, default=None)


def terminal_table(source: Source, *, metrics: Sequence[str] | None = None) -> PlainTable:
    """The table as strings, for a terminal.

    Args:
        source: A result, several (grouped by their method label), {label: results}, or a combined table.
        metrics: Which; None shows every DSC (or metric of classes) of a single method, and the primary one of several.

    Returns:
        Columns: one per modality with a filled or an empty circle, n, then the numbers, then differences. Of a single method,
        what is lost against all modalities ("minus all") stands beside its primary metric.
    """
    table = as_table(source)
    chosen = tuple(metrics) if metrics is not None else _default_metrics(table)
    pairs = [(metric, method) for metric in chosen for method in table.methods]
    several = len(table.methods) > 1
    columns = [f"{method} {metric}" if several else metric for metric, method in pairs]
    differences = [(metric, method) for metric in chosen for method in table.methods[1:]]
    columns += [f"{method} - {table.reference} {metric}" for metric, method in differences]
    primary = primary_metric(table)
    lost = primary if not several and primary in chosen and has_drops(table, primary) else None
    place = 0 if lost is None else chosen.index(lost) + 1
    columns[place:place] = [] if lost is None else ["minus all"]
    rows = []
    for row in _rows(table):
        n = row_n(row, chosen)
        texts = [_cell_of(row, method, metric, n) for metric, method in pairs]
        texts += [contrast_text(row.contrasts.get(method, {}).get(metric), metric, n=n) for metric, method in differences]
        if lost is not None:
            texts.insert(place, contrast_text(row.drops.get(table.reference, {}).get(lost), lost, n=n))
        rows.append((*dots(row, table), "" if n is None else str(n), *texts))
    said = caption(table) + ("" if lost is None else f" {drop_note(table, lost)}")
    return PlainTable((*table.modalities, "n", *columns), tuple(rows), said)


def markdown_table(source: Source, *, metrics: Sequence[str] | None = None) -> str:
    """The same table in Markdown, with its caption below; of many methods, the differences are a table of their own.

    Args:
        source: As in `terminal_table`.
        metrics: As in `terminal_table`.

    Returns:
        Lines of text that end with a newline.
    """
    table = as_table(source)
    plain = terminal_table(table, metrics=metrics)
    keys, width, methods = len(table.modalities) + 1, len(plain.columns), len(table.methods)
    values = keys + (width - keys) * methods // (2 * methods - 1)  # of M methods there are M - 1 differences
    parts = [range(values), [*range(keys), *range(values, width)]] if methods > MOST_IN_ONE else [range(width)]
    grids = [_grid([[line[i] for i in part] for line in (plain.columns, *plain.rows)]) for part in parts]
    return "\n\n".join([*grids, _escaped(plain.caption)]) + "\n"


def plain_markdown(plain: PlainTable) -> str:
    """A table of strings in Markdown, with its caption below."""
    return f"{_grid([plain.columns, *plain.rows])}\n\n{_escaped(plain.caption)}\n"


def _grid(lines: Sequence[Sequence[str]]) -> str:
    head, *rows = lines
    every = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(_escaped(text) for text in line) + " |" for line in every)


def caption(table: StudyTable) -> str:
    """What the numbers of a table are, in sentences."""
    runs = {method: count for method, count in table.runs.items() if count}
    parts = ["Value [95 % interval over patients]; n: cases that have all modalities of the row."]
    parts += [f"{note[0].upper()}{note[1:]}." for note in table.notes]
    if any(count > 1 for count in runs.values()):
        counts = ", ".join(f"{method} {count}" for method, count in runs.items())
        parts.append(f"Each case is first averaged over the runs (seeds or folds) of a method: {counts}.")
    if table.average and len(table.averaged) > 1:
        total = len(table.rows)
        which = f"all {total}" if len(table.averaged) == total else f"the {len(table.averaged)} of {total}"
        parts.append(
            f"Average: plain mean over {which} subsets{'' if len(table.averaged) == total else ' that every method has'}."
        )
    if len(table.methods) > 1:
        parts.append(
            f"Differences are per case, on common cases, minus {table.reference}; "
            f"p: Wilcoxon signed-rank test over patients, {_corrected_over(table)}."
        )
        if any(METRICS[name.partition("/")[0]].aggregation == "pooled" for name in table.metrics):
            parts.append("Pooled metrics have no value per case: their difference has an interval and no p.")
    return " ".join(part for part in [*parts, no_full_note(table)] if part)


def _corrected_over(table: StudyTable) -> str:
    """Over what Holm's correction runs: as `combine` does it."""
    rows, compared = len(table.rows), len(table.methods) - 1
    methods = f" and {compared} methods" if compared > 1 else ""
    own = f", in the row of averages {'over the methods' if compared > 1 else 'not at all'}" if len(table.averaged) > 1 else ""
    own += "; the difference there is that of each case's mean over the rows it has" if len(table.averaged) > 1 else ""
    return f"for each metric Holm-corrected over {rows} row{'' if rows == 1 else 's'}{methods}{own}"


def page_tables(table: StudyTable) -> list[PageTable]:
    """The tables of the page: one for a single method, one per metric for several, one per region where that is too wide."""
    names = shown_metrics(table)
    if not names:
        return [_page_table(table, "", ())]
    if len(table.methods) == 1:
        return [_page_table(table, "", names[i : i + WIDEST]) for i in range(0, len(names), WIDEST)]
    families: dict[str, list[str]] = {}
    for name in names:
        stem = name.partition("/")[0]
        families.setdefault(stem if stem in ("DSC", "HD95") else "classes", []).append(name)
    size = max(WIDEST // (2 * len(table.methods) - 1), 1)
    chunks = [family[i : i + size] for family in families.values() for i in range(0, len(family), size)]
    return [_page_table(table, _title(chunk[0]), chunk) for chunk in chunks]


def _title(metric: str) -> str:
    stem = metric.partition("/")[0]
    if stem not in ("DSC", "HD95"):
        return "Classification: more is better"
    return (
        METRICS[stem].summary.partition(",")[0]
        + f" ({stem}): {'more' if METRICS[stem].better == 'higher' else 'less'} is better"
    )


def heading(metric: str, *, table: StudyTable | None = None) -> str:
    """A metric as a reader writes it: name, region, unit.

    Args:
        metric: As in the results.
        table: Where it stands: knows the unit of distances, and whether there is but one target of classes to speak of.

    >>> heading("HD95/WT"), heading("DSC/mean"), heading("balanced_accuracy/diagnosis")
    ('HD95 WT (mm)', 'DSC mean', 'balanced accuracy diagnosis')
    """
    name, _, region = metric.partition("/")
    if table and name not in ("DSC", "HD95"):
        region = region if len({m.partition("/")[2] for m in table.metrics if m.partition("/")[0] == name}) > 1 else ""
    unit = {"voxel": "(voxels)", "mixed": "(mm or voxels)"}.get(table.hd95_unit if table else "mm", "(mm)")
    parts = [name.replace("_", " "), region, unit if name == "HD95" else ""]
    return " ".join(part for part in parts if part)


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
    rows = _rows(table)
    cells = tuple(_page_row(table, row, metrics) for row in rows)
    return PageTable(title, tuple(groups), tuple(columns), table.modalities, cells)


def _page_row(table: StudyTable, row: StudyRow, metrics: Sequence[str]) -> PageRow:
    n = row_n(row, metrics)
    cells: list[PageCell] = []
    for metric in metrics:
        cells += [_page_cell(row.cells[method].get(metric, Cell("not run")), metric, n) for method in table.methods]
        cells += [page_contrast(row.contrasts.get(method, {}).get(metric), metric, n) for method in table.methods[1:]]
    if not metrics:
        cells = [PageCell("not run", look="none")]
    dots = tuple(name in row.present for name in table.modalities) if row.present else ()
    name = " + ".join(row.present) if row.present else f"average of {len(table.averaged)} subsets"
    return PageRow(dots, name, "" if n is None else str(n), tuple(cells))


def _page_cell(cell: Cell, metric: str, n: int | None) -> PageCell:
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


def _default_metrics(table: StudyTable) -> tuple[str, ...]:
    primary = primary_metric(table)
    if len(table.methods) > 1:
        return (primary,) if primary else ()
    return tuple(name for name in shown_metrics(table) if not name.startswith("HD95"))


def _cell_of(row: StudyRow, method: str, metric: str, n: int | None) -> str:
    cell = row.cells[method].get(metric, Cell("not run"))
    return cell_text(cell, metric, n=cell.n != n)


def _rows(table: StudyTable) -> list[StudyRow]:
    """The subsets, and their average where there is more than one to average."""
    return [*table.rows, *([table.average] if table.average and len(table.averaged) > 1 else [])]


def dots(row: StudyRow, table: StudyTable) -> tuple[str, ...]:
    """A filled or an empty circle for each modality."""
    if not row.present:
        return ("average", *[""] * (len(table.modalities) - 1))
    return tuple(FILLED if name in row.present else EMPTY for name in table.modalities)


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace("|", "\\|").replace("<", "&lt;").replace("\n", " ")
