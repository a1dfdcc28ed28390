"""The all-subsets table for a terminal and for Markdown. Every number stands with its interval and its n."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from comodal.evaluation.comparison import combine
from comodal.evaluation.drops import drop_note, has_drops, no_full_note
from comodal.evaluation.metrics import METRICS, is_main, name_parts
from comodal.evaluation.results import Results
from comodal.evaluation.table import Cell, Contrast, StudyRow, StudyTable

Source: TypeAlias = "Results | Sequence[Results] | Mapping[str, Sequence[Results]] | StudyTable"
FILLED, EMPTY, UNUSED = "●", "○", "◐"
MOST_IN_ONE = 3  # methods whose differences stand beside their values in Markdown


@dataclass(frozen=True)
class PlainTable:
    """A table of strings, ready to print.

    Attributes:
        columns: Headings.
        rows: One string per column.
        caption: What the numbers are; a few sentences.
        keys: How many of the first columns say what a row is, rather than a number of it.
    """

    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    caption: str
    keys: int = 1


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


def is_of_classes(metric: str) -> bool:
    """Whether it is a metric of classification, pooled over cases.

    >>> is_of_classes("AUROC/diagnosis"), is_of_classes("DSC/WT")
    (True, False)
    """
    return METRICS[metric.partition("/")[0]].aggregation == "pooled"


def class_targets(metrics: Sequence[str]) -> tuple[str, ...]:
    """The targets of classification that metrics speak of, in their order.

    >>> class_targets(["AUROC/diagnosis", "AUROC/diagnosis/MEL", "accuracy/streaks", "DSC/WT"])
    ('diagnosis', 'streaks')
    """
    return tuple(dict.fromkeys(name_parts(name)[1] for name in metrics if is_of_classes(name)))


def shown_metrics(table: StudyTable, *, stem: str | None = None) -> tuple[str, ...]:
    """Metrics worth a column: by name, regions in order; the mean over regions only where there are several.

    Metrics of a single class are left out: the page has a table of its own for them.

    Args:
        table: Whose metrics.
        stem: Only this one ("DSC").
    """
    every = [name for name in table.metrics if not is_of_classes(name) or not name_parts(name)[2]]
    stems = dict.fromkeys(name.partition("/")[0] for name in every)
    out = []
    for each in [stem] if stem else stems:
        names = [name for name in every if name.partition("/")[0] == each]
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
    if len(class_targets(chosen)) == len({name.partition("/")[2] for name in chosen}) > 1:
        return _by_target(table, chosen)
    primary = primary_metric(table)
    lost = len(table.methods) == 1 and primary is not None and primary in chosen and has_drops(table, primary)
    rows = []
    for row in rows_of(table):
        n = row_n(row, chosen)
        texts = _numbers(table, row, chosen, n, primary if lost else None)
        rows.append((*dots(row, table), "" if n is None else str(n), *texts))
    said = caption(table) + (f" {drop_note(table, primary)}" if lost and primary is not None else "")
    columns = (*table.modalities, "n", *_number_columns(table, chosen, primary if lost else None))
    return PlainTable(columns, tuple(rows), said, len(table.modalities) + 1)


def _number_columns(table: StudyTable, metrics: Sequence[str], lost: str | None) -> list[str]:
    several = len(table.methods) > 1
    columns = [f"{method} {metric}" if several else metric for metric in metrics for method in table.methods]
    columns += [f"{method} - {table.reference} {metric}" for metric in metrics for method in table.methods[1:]]
    if lost is not None:
        columns.insert(metrics.index(lost) + 1, "minus all")
    return columns


def _numbers(table: StudyTable, row: StudyRow, metrics: Sequence[str], n: int | None, lost: str | None) -> list[str]:
    """The cells under `_number_columns`."""
    texts = [_cell_of(row, method, metric, n) for metric in metrics for method in table.methods]
    differences = [(metric, row.contrasts.get(method, {})) for metric in metrics for method in table.methods[1:]]
    texts += [contrast_text(by.get(metric), metric, n=n) for metric, by in differences]
    if lost is not None:
        texts.insert(metrics.index(lost) + 1, contrast_text(row.drops.get(table.reference, {}).get(lost), lost, n=n))
    return texts


def _by_target(table: StudyTable, metrics: Sequence[str]) -> PlainTable:
    """Of several targets of classes: their rows one below the other, a column for each kind of metric."""
    stems, targets = tuple(dict.fromkeys(name.partition("/")[0] for name in metrics)), class_targets(metrics)
    shown = [row for row in rows_of(table) if answered(row)] or rows_of(table)
    lost = next((f"{stems[0]}/{t}" for t in targets if has_drops(table, f"{stems[0]}/{t}")), None)
    lost = lost if len(table.methods) == 1 else None
    rows: list[tuple[str, ...]] = []
    for target in targets:
        names = [f"{stem}/{target}" for stem in stems]
        for row in shown:
            n = row_n(row, names)
            texts = _numbers(table, row, names, n, names[0] if lost is not None else None)
            rows.append((target, *dots(row, table), "" if n is None else str(n), *texts))
    said = [caption(table), *([drop_note(table, lost, name=stems[0])] if lost is not None else [])]
    said += [left_out_note([row for row in table.rows if row not in shown])]
    columns = ("target", *table.modalities, "n", *_number_columns(table, stems, None if lost is None else stems[0]))
    return PlainTable(columns, tuple(rows), " ".join(text for text in said if text), len(table.modalities) + 2)


def answered(row: StudyRow) -> bool:
    """Whether any method was run on the subset and can predict from it."""
    return any(cell.state in ("value", "no cases") for by in row.cells.values() for cell in by.values())


def left_out_note(rows: Sequence[StudyRow]) -> str:
    """Which rows a table does not show; "" for none."""
    names = ", ".join(" + ".join(row.present) for row in rows)
    return f"Left out, since no method that was run predicts from it: {names}." if rows else ""


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
    keys, width, methods = plain.keys, len(plain.columns), len(table.methods)
    values = keys + (width - keys) * methods // (2 * methods - 1)  # of M methods there are M - 1 differences
    parts = [range(values), [*range(keys), *range(values, width)]] if methods > MOST_IN_ONE else [range(width)]
    grids = [_grid([[line[i] for i in part] for line in (plain.columns, *plain.rows)]) for part in parts]
    return "\n\n".join([*grids, _escaped(plain.caption)]) + "\n"


def study_markdown(table: StudyTable) -> str:
    """`markdown_table`, with the other main metrics of classes of several methods above its caption.

    Args:
        table: Of a study.
    """
    text = markdown_table(table)
    shown = {name.partition("/")[0] for name in _default_metrics(table)}
    names = [name for name in shown_metrics(table) if is_of_classes(name) and is_main(name)]
    more = [stem for stem in dict.fromkeys(name.partition("/")[0] for name in names) if stem not in shown]
    if len(table.methods) == 1 or not more:
        return text
    first, _, said = text.rpartition("\n\n")  # the caption is one for all
    grids = [markdown_table(table, metrics=shown_metrics(table, stem=stem)).rpartition("\n\n")[0] for stem in more]
    return "\n\n".join([first, *grids, said])


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
    parts += [f"{note}{f' ({UNUSED})' if len(table.methods) == 1 else ''}." for note in used_notes(table)]
    if any(count > 1 for count in runs.values()):
        counts = ", ".join(f"{method} {count}" for method, count in runs.items())
        how = "Each case is first averaged" if not all(map(is_of_classes, table.metrics)) else "Numbers are averaged"
        parts.append(f"{how} over the runs (seeds, folds or divisions) of a method: {counts}.")
    if table.average and len(table.averaged) > 1:
        total = len(table.rows)
        which = f"all {total}" if len(table.averaged) == total else f"the {len(table.averaged)} of {total}"
        parts.append(
            f"Average: plain mean over {which} subsets{'' if len(table.averaged) == total else ' that every method has'}."
        )
    if len(table.methods) > 1:
        pooled, kinds = "paired bootstrap over patients", {is_of_classes(name) for name in table.metrics}
        per_case = "Wilcoxon signed-rank test over patients"
        tests = pooled if kinds == {True} else f"{per_case} (of pooled metrics: {pooled})" if True in kinds else per_case
        how = "on common cases" if kinds == {True} else "per case, on common cases"
        parts.append(f"Differences are {how}, minus {table.reference}; p: {tests}, {_corrected_over(table)}.")
    return " ".join(part for part in [*parts, no_full_note(table)] if part)


def _corrected_over(table: StudyTable) -> str:
    """Over what Holm's correction runs: as `combine` does it."""
    rows, compared = len(table.rows), len(table.methods) - 1
    methods = f" and {compared} methods" if compared > 1 else ""
    own = f", in the row of averages {'over the methods' if compared > 1 else 'not at all'}" if len(table.averaged) > 1 else ""
    own += "; the difference there is that of each case's mean over the rows it has" if len(table.averaged) > 1 else ""
    return f"for each metric Holm-corrected over {rows} row{'' if rows == 1 else 's'}{methods}{own}"


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


def _default_metrics(table: StudyTable) -> tuple[str, ...]:
    primary = primary_metric(table)
    if primary is None:
        return ()
    shown = [name for name in shown_metrics(table) if not name.startswith("HD95")]
    if len(table.methods) > 1:
        same = [name for name in shown if name.partition("/")[0] == primary.partition("/")[0]]
        return tuple(same) if is_of_classes(primary) else (primary,)
    return tuple(name for name in shown if is_main(name)) or tuple(shown)


def _cell_of(row: StudyRow, method: str, metric: str, n: int | None) -> str:
    cell = row.cells[method].get(metric, Cell("not run"))
    return cell_text(cell, metric, n=cell.n != n)


def rows_of(table: StudyTable) -> list[StudyRow]:
    """The subsets, and their average where there is more than one to average."""
    return [*table.rows, *([table.average] if table.average and len(table.averaged) > 1 else [])]


def dots(row: StudyRow, table: StudyTable) -> tuple[str, ...]:
    """A circle for each modality: filled, empty, or half filled where the only method was given it and did not use it."""
    if not row.present:
        return ("average", *[""] * (len(table.modalities) - 1))
    unused = row.unused(table.reference) if len(table.methods) == 1 else ()
    return tuple(UNUSED if name in unused else FILLED if name in row.present else EMPTY for name in table.modalities)


def used_notes(table: StudyTable) -> tuple[str, ...]:
    """What was given and not used, a sentence for each method and modality."""
    found = []
    for method in table.methods:
        for name in table.modalities:
            given = [row for row in table.rows if name in row.present and method in row.used]
            unused = [row for row in given if name in row.unused(method)]
            where = "" if len(unused) == len(given) else f" from {', '.join(' + '.join(row.present) for row in unused)}"
            found += [f"{method} does not use {name}{where}, though it is given"] if unused else []
    return tuple(found)


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace("|", "\\|").replace("<", "&lt;").replace("\n", " ")
