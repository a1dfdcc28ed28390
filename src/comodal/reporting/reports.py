"""A published table of images that learn from reports beside ours: for a terminal and as Markdown."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from comodal.evaluation.table import Cell, Contrast
from comodal.reporting.about import Facts, facts
from comodal.reporting.melanoma import MelanomaText
from comodal.reporting.record import read_run
from comodal.reporting.reproduction import budget_table, comparable, listed, ours_text, sentence
from comodal.reporting.tables import PlainTable, cell_text, number, p_text
from comodal.reporting.variants import VariantText, otherwise_text
from comodal.study.reports import Counted, CountsReproduction, ReportsLine, ReportsReproduction

_NONE = "–"
_WIDEST = 4  # columns of the paper that stand beside each other; of more, its rows do


def reports_text(found: ReportsReproduction) -> VariantText:
    """Puts a reproduction into words; reads the run folders.

    Args:
        found: What `comodal.study.reports.beside_reports` gives.
    """
    about = facts({label: [read_run(run) for run in runs] for label, runs in found.study.runs.items()}, found.combined)
    return VariantText(
        title=f"{found.table.title}: ours beside the published numbers",
        lead=f"{found.table.caption}. {comparable(found)}",
        numbers=(_grid(found), _numbers(found)),
        budget=budget_table(about, folder=True),
        notes=tuple(_notes(found, about)),
    )


def _grid(found: ReportsReproduction) -> PlainTable:
    """As it is printed: published / ours, the mean over the columns, and over those that both have where one is lacking."""
    lines = {(line.row, line.column): line for line in found.lines}
    rows, columns = list(dict.fromkeys(line.row for line in found.lines)), [column.name for column in found.table.columns]
    grid = {key: _pair(found, [line]) for key, line in lines.items()}
    if len(columns) > 1:
        means = {"mean": list(columns)}
        both = _common(lines, rows, columns)
        if 1 < len(both) < len(columns):
            means[f"mean of the {len(both)} that both have"] = both
        for name, some in means.items():
            grid |= {(row, name): _pair(found, [lines[row, column] for column in some]) for row in rows}
            columns.append(name)
    caption = "Published / ours, from the image alone"
    if len(found.table.columns) > _WIDEST:
        table = [(column, *(grid[row, column] for row in rows)) for column in columns]
        return PlainTable(("", *rows), tuple(table), caption)
    return PlainTable(("", *columns), tuple((row, *(grid[row, column] for column in columns)) for row in rows), caption)


def _common(lines: Mapping[tuple[str, str], ReportsLine], rows: Sequence[str], columns: Sequence[str]) -> list[str]:
    """The columns in which every row has what it has anywhere: a published number, and one of ours."""
    published = {key for key, line in lines.items() if line.published is not None}
    ours = {key for key, line in lines.items() if line.ours.state == "value"}
    asked = [(row, has) for has in (published, ours) for row in rows if any((row, column) in has for column in columns)]
    return [column for column in columns if all((row, column) in has for row, has in asked)]


def _pair(found: ReportsReproduction, lines: Sequence[ReportsLine]) -> str:
    """The mean of some published numbers and of ours, as far as they are all there."""
    published = [line.published for line in lines if line.published is not None]
    ours = [line.ours.value for line in lines if line.ours.state == "value"]
    told = [
        f"{sum(values) / len(values):.{found.table.decimals + extra}f}" if len(values) == len(lines) else _NONE
        for values, extra in ((published, 0), (ours, 3 - found.table.decimals))
    ]
    return " / ".join(told)


def _numbers(found: ReportsReproduction) -> PlainTable:
    """One line for each number."""
    columns = {column.name: column for column in found.table.columns}
    sides = any(column.positive is not None for column in columns.values())
    single = any(line.ours.n_pos is not None for line in found.lines)
    head = ["row", "arm", "column", "published", "ours [95 % interval]", "n"]
    head += ["positive, negative"] if single else []
    head += ["published: positive, negative"] if sides else []
    head += [f"minus {found.combined.reference}"]
    rows = []
    for line in found.lines:
        column, cell = columns[line.column], line.ours
        published = _NONE if line.published is None else f"{line.published:.{found.table.decimals}f}"
        text = "not defined" if cell.state == "no cases" else cell_text(cell, column.metric)
        texts = [line.row, line.method, line.column, published, text, str(cell.n) if cell.n else _NONE]
        texts += [_sides(cell.n_pos, cell.n_neg)] if single else []
        texts += [_sides(column.positive, column.negative)] if sides else []
        rows.append((*texts, _difference(line.difference, cell)))
    return PlainTable(tuple(head), tuple(rows), "Every number with its interval and what it rests on", 3)


def _sides(positive: int | None, negative: int | None) -> str:
    return _NONE if positive is None or negative is None else f"{positive}, {negative}"


def _difference(contrast: Contrast | None, cell: Cell) -> str:
    """For instance "+0.031 [-0.010, +0.070] p=0.20"; n where it is not that of the number."""
    if contrast is None or contrast.value is None:
        return _NONE
    told = [number(contrast.value, "AUROC", signed=True)]
    if contrast.ci95 is not None:
        told.append("[" + ", ".join(number(end, "AUROC", signed=True, interval=True) for end in contrast.ci95) + "]")
    fewer = f"n={contrast.n}" if cell.n_pos is None and contrast.n != cell.n else ""
    return " ".join(part for part in (*told, p_text(contrast.p_holm), fewer) if part)


def _notes(found: ReportsReproduction, about: Facts) -> Iterable[str]:
    table = found.table
    yield f"Published: {table.source}. " + " ".join(table.remarks)
    yield f"The paper says: {table.statement}."
    yield f"Ours: {ours_text(found, about)}"
    if found.otherwise:
        yield otherwise_text(found.otherwise, table.study)
    yield f"Conventions of ours: {_conventions(found)}"
    if skipped := list(dict.fromkeys(line.skipped for line in found.lines if line.skipped)):
        yield f"Left out of ours: {'; '.join(skipped)}."
    missing = [row.name for row in table.rows if row.arm not in found.study.results]
    if missing:
        yield f"Not run: {listed(missing)}."
    for label, texts in about.warnings:
        yield from (f"Warning, {label}: {text}" for text in texts)


def _conventions(found: ReportsReproduction) -> str:
    said = next(one for results in found.study.results.values() for one in results).conventions.sentences()
    runs = max(found.combined.runs.values())
    parts = [said["AUROC"], f"From {' + '.join(found.table.present)} alone."]
    if runs > 1:
        parts.append(f"Numbers are means over {runs} runs, on the same resamples of patients; n counts cases, each once.")
    arms = len(found.combined.methods) - 1
    parts.append(
        f"Differences: p of the paired bootstrap over patients, Holm-corrected over {arms} arm{'' if arms == 1 else 's'} "
        "in each column."
    )
    return " ".join([*parts, said["ci95"], *(sentence(note) for note in found.combined.notes)])


def counts_text(found: CountsReproduction) -> MelanomaText:
    """Puts counts of labelled images into words.

    Args:
        found: What `comodal.study.reports.count_labels` gives.
    """
    what = "a phantom: these numbers say nothing about the data set" if found.synthetic else found.table.data
    parts = ", ".join(f"{name} {cases} of {patients} patients" for name, (cases, patients) in found.cases.items())
    head = ("task", "train published", "train ours", "val ours", "test published", "test ours")
    rows = tuple(
        (row.name, _count(row.train), *_ours(ours), _tested(row.positive, row.negative), _tested_ours(ours))
        for row, ours in found.lines
    )
    shared = f"{found.shared} patients are tested and trained on" if found.shared else "no patient is tested and trained on"
    return MelanomaText(
        title=f"{found.table.title}: ours beside the published numbers",
        lead=f"Labelled frontal images; ours is of {what}. Cases with a frontal image: {parts}; {shared}.",
        tables=(PlainTable(head, rows, "Labelled images; of the test with the finding + without it"),),
        notes=(f"Published: {found.table.source}. " + " ".join(found.table.remarks), *found.notes),
    )


def _count(value: int | None) -> str:
    return _NONE if value is None else str(value)


def _ours(ours: Counted | None) -> tuple[str, str]:
    return (_NONE, _NONE) if ours is None else (str(ours.train), str(ours.val))


def _tested(positive: int, negative: int | None) -> str:
    return str(positive) if negative is None else f"{positive} + {negative}"


def _tested_ours(ours: Counted | None) -> str:
    return _NONE if ours is None else _tested(ours.positive, ours.negative)
