"""The table "minus all modalities": what each method loses without the absent ones, for Markdown and for the page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from comodal.evaluation.drops import drop_note, has_drops
from comodal.evaluation.metrics import name_parts
from comodal.evaluation.table import Contrast, StudyRow, StudyTable
from comodal.reporting.class_tables import class_drops
from comodal.reporting.page_tables import WIDEST, PageRow, PageTable, page_contrast
from comodal.reporting.tables import (
    PlainTable,
    contrast_text,
    dots,
    heading,
    is_of_classes,
    plain_markdown,
    primary_metric,
    shown_metrics,
)


def drop_metrics(table: StudyTable) -> tuple[str, ...]:
    """The primary metric, of each target of classes, where any subset could be compared with all modalities."""
    primary = primary_metric(table)
    if primary is None:
        return ()
    same = shown_metrics(table, stem=primary.partition("/")[0]) if is_of_classes(primary) else (primary,)
    return tuple(metric for metric in same if has_drops(table, metric))


def drop_table(table: StudyTable) -> PlainTable | None:
    """Each subset minus all modalities as strings; methods are columns.

    Args:
        table: As `combine` makes it.

    Returns:
        Columns: the target where there are several, one per modality, n, then one per method; None where no subset could be
        compared. n: cases that have all modalities; in the row of these every method has a dash.
    """
    metrics = drop_metrics(table)
    if not metrics:
        return None
    several = len(metrics) > 1
    what = metrics[0].partition("/")[0] if several else metrics[0]
    columns = (*table.modalities, "n", *(f"{method} {what} minus all" for method in table.methods))
    rows = []
    for metric in metrics:
        for row in table.rows:
            n, found = _compared(row, table, metric)
            if several and n is None:
                continue  # of many targets, only what can be compared
            texts = (contrast_text(drop, metric, n=n) for drop in found)
            keys = [name_parts(metric)[1]] if several else []
            rows.append((*keys, *dots(row, table), "" if n is None else str(n), *texts))
    notes = [f"{note[0].upper()}{note[1:]}." for note in table.notes]
    said = " ".join([drop_caption(table, metrics[0], name=what), *notes])
    return PlainTable(("target", *columns) if several else columns, tuple(rows), said)


def drop_markdown(table: StudyTable) -> str:
    """`drop_table` in Markdown, with its caption below; "" where there is none."""
    plain = drop_table(table)
    return "" if plain is None else plain_markdown(plain)


def drop_caption(table: StudyTable, metric: str, *, name: str | None = None) -> str:
    """What the numbers of the table are, in sentences, without the notes of `table`: the page has them already.

    Args:
        table: With differences from all modalities.
        metric: Whose.
        name: What it is called, where it stands for several of its kind.
    """
    parts = ["Difference [95 % interval over patients]; n: cases that have all modalities."]
    if any(count > 1 for count in table.runs.values()):
        parts.append("Each case is first averaged over the runs (seeds or folds) of a method that have both.")
    return " ".join([*parts, drop_note(table, metric, name=name)])


def drop_document(table: StudyTable) -> list[dict[str, Any]] | None:
    """The same for machines: one entry per subset, method and target that could be compared; None where there is none."""
    metrics = drop_metrics(table)
    if not metrics:
        return None
    return [
        {"method": method, "present": list(row.present), "metric": metric, **_plain(row.drops[method][metric])}
        for metric in metrics
        for row in table.rows
        for method in table.methods
        if metric in row.drops.get(method, {})
    ]


def page_drops(table: StudyTable) -> Mapping[str, Any] | None:
    """The section of the page: `tables`, `caption`, and the `metric` as one writes it.

    As many methods side by side as fit; of several targets of classes, these stand side by side and methods in rows.
    """
    metrics = drop_metrics(table)
    if not metrics:
        return None
    if len(metrics) > 1:
        name = metrics[0].partition("/")[0]
        chunks = [metrics[i : i + WIDEST] for i in range(0, len(metrics), WIDEST)]
        tables = [class_drops(table, chunk) for chunk in chunks]
        return {"tables": tables, "caption": drop_caption(table, metrics[0], name=name), "metric": heading(name)}
    (metric,) = metrics
    name = heading(metric, table=table)
    parts = [table.methods[i : i + WIDEST] for i in range(0, len(table.methods), WIDEST)]
    tables = [_page_table(table, metric, f"{name}, minus all modalities", methods) for methods in parts]
    return {"tables": tables, "caption": drop_caption(table, metric), "metric": name}


def _page_table(table: StudyTable, metric: str, title: str, methods: Sequence[str]) -> PageTable:
    rows = []
    for row in table.rows:
        n, found = _compared(row, table, metric)
        of_method = dict(zip(table.methods, found, strict=True))
        cells = tuple(page_contrast(of_method[method], metric, n) for method in methods)
        given = tuple(name in row.present for name in table.modalities)
        rows.append(PageRow(given, " + ".join(row.present), "" if n is None else str(n), cells))
    return PageTable("", ((title, len(methods)),), tuple(methods), table.modalities, tuple(rows))


def _compared(row: StudyRow, table: StudyTable, metric: str) -> tuple[int | None, list[Contrast | None]]:
    """The largest n of the row, and the difference of each method, None where there is none."""
    found = [row.drops.get(method, {}).get(metric) for method in table.methods]
    return max((drop.n for drop in found if drop is not None), default=None), found


def _plain(drop: Contrast) -> dict[str, Any]:
    return {"value": drop.value, "ci95": drop.ci95, "n": drop.n, "p_value": drop.p_value, "p_holm": drop.p_holm}
