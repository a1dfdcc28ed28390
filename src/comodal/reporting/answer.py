"""The first sentences of the page: what did it do? Only what the intervals allow to be said."""

from __future__ import annotations

from collections.abc import Sequence

from comodal.evaluation.metrics import name_parts
from comodal.evaluation.table import Cell, Contrast, StudyRow, StudyTable
from comodal.reporting.tables import heading, interval, is_of_classes, number, p_text, primary_metric, shown_metrics

MOST_IN_WORDS = 3  # of more methods, only what stands out is said


def answer(table: StudyTable, *, split: str = "test") -> str:
    """One to three sentences on the table.

    Args:
        table: The combined table.
        split: Which cases were evaluated.

    Returns:
        Plain text.
    """
    metric = primary_metric(table)
    if metric is None:
        return "Not evaluated yet: the runs below were trained, but no result was written (comodal evaluate)."
    if len([method for method in table.methods if table.runs.get(method)]) > MOST_IN_WORDS:
        return " ".join(part for part in (_many(table, metric, split), _targets(table, metric)) if part)
    parts = [_compared(table, method, metric, split) for method in table.methods[1:] if table.runs.get(method)]
    if not parts:
        parts = [_overall(table, table.reference, metric, split)]
    parts += [_extremes(table, metric), _targets(table, metric)]
    return " ".join(part for part in parts if part)


def _targets(table: StudyTable, metric: str) -> str:
    """Of several targets of classes: the range of a single method, or in how many of them a method clearly differs."""
    if not is_of_classes(metric) or table.average is None:
        return ""
    names = shown_metrics(table, stem=metric.partition("/")[0])
    if len(names) < 2:
        return ""
    if len(table.methods) == 1:
        cells = {name: table.average.cells[table.reference].get(name, Cell("not run")) for name in names}
        known = sorted((cell.value, name) for name, cell in cells.items() if cell.state == "value")
        ends = [f"{number(value, name)} ({name_parts(name)[1]})" for value, name in known[:: max(len(known) - 1, 1)]]
        return f"Over the {len(known)} targets it goes from {' to '.join(ends)}." if len(known) > 1 else ""
    texts = []
    for method, by in table.average.contrasts.items():
        known_of = [by[name] for name in names if name in by and by[name].value is not None]
        clear = [contrast.value or 0.0 for contrast in known_of if contrast.clear]
        higher, lower = sum(value > 0 for value in clear), sum(value < 0 for value in clear)
        counts = f"clearly higher in {higher} and clearly lower in {lower} of {len(known_of)} targets"
        texts += [f"Against {table.reference}, {method} is {counts}."] if len(known_of) > 1 else []
    return " ".join(texts)


def _many(table: StudyTable, metric: str, split: str) -> str:
    """All methods in order, then who clearly differs from the reference: the rest is in the tables."""
    known = {
        method: table.average.cells[method][metric]
        for method in table.methods
        if table.average and table.average.cells[method].get(metric, Cell("not run")).state == "value"
    }
    if table.average is None or not known:
        return ""
    order = sorted(known, key=lambda method: -known[method].value)
    listed = ", ".join(f"{method} {_value(known[method], metric)}" for method in order)
    most = max(cell.n for cell in known.values())
    parts = [f"{_name(table, metric)}, {_rows(table)}, {_cases(most, split)}, highest first: {listed}."]
    contrasts = {m: c[metric] for m, c in table.average.contrasts.items() if metric in c and c[metric].value is not None}
    clear = [
        f"{method} ({_signed(contrast.value, metric)} {_spread(contrast, metric)})"
        for method, contrast in contrasts.items()
        if contrast.clear and contrast.value is not None
    ]
    rest = [method for method, contrast in contrasts.items() if not contrast.clear]
    parts += [f"Clearly different from {table.reference}: {', '.join(clear)}."] if clear else []
    parts += [f"No clear difference to {table.reference}: {', '.join(rest)}."] if rest else []
    return " ".join(parts)


def _signed(value: float, metric: str) -> str:
    return number(value, metric, signed=True).replace("-", "−")


def _spread(contrast: Contrast, metric: str) -> str:
    return interval(contrast.ci95, metric, signed=True).replace("-", "−")


def _words(present: Sequence[str]) -> str:
    return " + ".join(present)


def _value(cell: Cell, metric: str) -> str:
    return " ".join(part for part in (number(cell.value, metric), interval(cell.ci95, metric)) if part)


def _name(table: StudyTable, metric: str) -> str:
    text = heading(metric, table=table)
    return {"DSC mean": "mean DSC"}.get(text, text)


def _overall(table: StudyTable, method: str, metric: str, split: str) -> str:
    if table.average is None or table.average.cells[method].get(metric, Cell("not run")).state != "value":
        return ""
    cell = table.average.cells[method][metric]
    name = _name(table, metric)
    a = "an" if name[:1] in "AEIOU" else "a"
    return f"{method} reaches {a} {name} of {_value(cell, metric)} on {_cases(cell.n, split)}, {_rows(table)}."


def _rows(table: StudyTable) -> str:
    every = "all " if len(table.averaged) == len(table.rows) else ""
    if len(table.averaged) > 1:
        return f"averaged over {every}{len(table.averaged)} subsets of the modalities"
    return f"from {_words(table.averaged[0])}"


def _cases(n: int, split: str) -> str:
    return f"{n} {split} case{'' if n == 1 else 's'}"


def _compared(table: StudyTable, method: str, metric: str, split: str) -> str:
    contrast = table.average.contrasts.get(method, {}).get(metric) if table.average else None
    if contrast is None or contrast.value is None:
        return f"{method} and {table.reference} have no result in common."
    test = f", {p_text(contrast.p_holm).replace('=', ' = ').replace('<', ' < ')}" if contrast.p_holm is not None else ""
    size = f"{number(abs(contrast.value), metric)}"
    found = _spread(contrast, metric)
    spread = f"95 % interval of the difference {found}{test}" if found else f"too few patients for an interval{test}"
    over = f"{_rows(table)}{' and over' if len(table.averaged) > 1 else ' on'} {_cases(contrast.n, split)}"
    if contrast.clear:
        side = "higher" if contrast.value > 0 else "lower"
        text = f"The {_name(table, metric)} of {method} is {size} {side} than that of {table.reference}, {over} ({spread})."
    else:
        found = f"{_signed(contrast.value, metric)} {_name(table, metric)}"
        text = f"There is no clear difference between {method} and {table.reference}: {found}, {over} ({spread})."
    return " ".join(part for part in (text, _full(table, method, metric)) if part)


def _full(table: StudyTable, method: str, metric: str) -> str:
    """With everything present the picture is often another one, and a reader should not have to look for it."""
    row = next((row for row in table.rows if len(row.present) == len(table.modalities)), None)
    contrast = row.contrasts.get(method, {}).get(metric) if row else None
    if row is None or contrast is None or contrast.value is None or len(table.averaged) < 2:
        return ""
    parts = [_signed(contrast.value, metric), _spread(contrast, metric)]
    return f"With all modalities the difference is {' '.join(part for part in parts if part)}."


def _extremes(table: StudyTable, metric: str) -> str:
    texts = []
    for method in table.methods:
        rows = [row for row in table.rows if row.cells[method].get(metric, Cell("not run")).state == "value"]
        if len(rows) < 2:
            continue
        best, worst = (_pick(rows, method, metric, sign) for sign in (1, -1))
        if best.cells[method][metric].value == worst.cells[method][metric].value:
            continue  # what else is given changes nothing
        texts.append(
            f"{method} is best from {_words(best.present)} ({_value(best.cells[method][metric], metric)}) "
            f"and worst from {_words(worst.present)} ({_value(worst.cells[method][metric], metric)})"
        )
    return ("; ".join(texts) + ".") if texts else ""


def _pick(rows: Sequence[StudyRow], method: str, metric: str, sign: int) -> StudyRow:
    return max(rows, key=lambda row: sign * row.cells[method][metric].value)
