"""A published table of guidance beside ours: for a terminal, as Markdown, and the figure of improvements as PNG.

Matplotlib is imported inside the functions.
"""

from __future__ import annotations

import io
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from comodal.data.atomic import replacing
from comodal.evaluation.gap import GapClosed
from comodal.evaluation.melanoma import THRESHOLDS, Measure
from comodal.evaluation.table import Cell, Contrast
from comodal.reporting.about import Facts, facts
from comodal.reporting.figures import FAINT, METHOD_COLOURS, SOFT, new_figure, style
from comodal.reporting.paired import runs_text
from comodal.reporting.record import read_run
from comodal.reporting.reproduction import budget_table, comparable, listed, ours_text, sentence
from comodal.reporting.tables import PlainTable, number, p_text
from comodal.reporting.variants import VariantText, otherwise_text
from comodal.study.guidance import GuidanceGain, GuidanceLine, GuidanceOrder, GuidanceReproduction, improved
from comodal.study.published_guidance import ILLEGIBLE

if TYPE_CHECKING:
    from matplotlib.axes import Axes

FIGURE = "guidance-improvements.png"
_NONE = "–"
_DPI = 130


def guidance_text(found: GuidanceReproduction) -> VariantText:
    """Puts a reproduction into words; reads the run folders.

    Args:
        found: What `comodal.study.guidance.beside_guidance` gives.
    """
    about = facts({label: [read_run(run) for run in runs] for label, runs in found.study.runs.items()}, found.combined)
    tables = {
        "numbers": (*_numbers(found), *_order(found), *_gains(found), *_tests(found), *_melanoma(found)),
        "significance": (*_tests(found), *_gains(found)),
        "improvements": (*_improvements(found), *_gains(found)),
    }[found.table.shows]
    return VariantText(
        title=f"{found.table.title}: ours beside the {_numbers_of(found)}",
        lead=" ".join([f"{found.table.caption}. {comparable(found)}", *_conclusion(found)]),
        numbers=tables,
        budget=budget_table(about, folder=True),
        notes=tuple(_notes(found, about)),
        pictures=((_figure_caption(found), FIGURE),) if found.table.shows != "significance" else (),
    )


def _numbers_of(found: GuidanceReproduction) -> str:
    return "published numbers" if found.table.printed else "references"


def _conclusion(found: GuidanceReproduction) -> Iterable[str]:
    """Whether the paper's order of rows holds in ours, in one sentence by the first metric."""
    metric, name = next(iter(found.table.metrics.items()))
    told = [f"{one.better} is above {one.worse} in {_held(one)}" for one in found.orders if one.metric == metric]
    if told and found.table.shows == "numbers":
        yield f"In ours, by {name}: {'; '.join(told)}."


def _held(one: GuidanceOrder) -> str:
    """For instance "3 of 5 columns (clear in 1; clearly below in 1)"."""
    more = f"; clearly below in {one.reversed}" if one.reversed else ""
    return f"{one.ours[0]} of {one.ours[1]} column{'' if one.ours[1] == 1 else 's'} (clear in {one.clear}{more})"


# Tables.


def _numbers(found: GuidanceReproduction) -> Iterable[PlainTable]:
    """One line for each column and row of the published table."""
    metrics, bounded = found.table.metrics, any(line.ceiling is not None for line in found.lines)
    head = ["column", "row", "arm", "n"]
    for name in metrics.values():
        head += [f"{name} {found.table.beside}", f"{name} ours", *([f"{name} at best"] if bounded else [])]
    keep = [i for i, text in enumerate(head) if not text.endswith("at best") or _has_ceiling(found, text)]
    rows = []
    for (column, row), lines in _by_place(found).items():
        first = next(iter(lines.values()))
        texts = [column, row, first.method or _NONE, str(first.ours.n) if first.ours.n else _NONE]
        for metric in metrics:
            line = lines[metric]
            texts += [_published(line), _value(line.ours), *([_plain(line.ceiling)] if bounded else [])]
        rows.append(tuple(texts[i] for i in keep))
    title = f"{found.table.beside.capitalize()}, and ours [95 % interval over patients]"
    yield PlainTable(tuple(head[i] for i in keep), tuple(rows), title)


def _order(found: GuidanceReproduction) -> Iterable[PlainTable]:
    """In how many columns the first of two rows is above the second."""
    metrics, what = found.table.metrics, found.table.beside
    head = ["row above row", *(f"{name} {whose}" for name in metrics.values() for whose in (what, "ours"))]
    rows: dict[str, list[str]] = {}
    for one in found.orders:
        printed = f"{one.published[0]} of {one.published[1]}" if one.published[1] else _NONE
        rows.setdefault(f"{one.better} above {one.worse}", []).extend([printed, _held(one)])
    if rows:
        lines = tuple((name, *texts) for name, texts in rows.items())
        yield PlainTable(tuple(head), lines, "The order that the paper finds: in how many columns it holds")


def _has_ceiling(found: GuidanceReproduction, head: str) -> bool:
    return any(line.ceiling is not None and head.startswith(found.table.metrics[line.metric]) for line in found.lines)


def _by_place(found: GuidanceReproduction) -> dict[tuple[str, str], dict[str, GuidanceLine]]:
    places: dict[tuple[str, str], dict[str, GuidanceLine]] = {}
    for line in found.lines:
        places.setdefault((line.column, line.row), {})[line.metric] = line
    return places


def _gains(found: GuidanceReproduction) -> Iterable[PlainTable]:
    """G(I) + I minus I, and how much of the gap to S + I that closes; nothing where an arm is missing."""
    if not any(gain.difference for gain in found.gains):
        return
    guided, inferior, both = (found.table.row(one).name for one in ("guided", "inferior", "both"))
    head = ["column", "n"]
    for name in found.table.metrics.values():
        head += [f"{name}: {guided} − {inferior}", f"{name}: share of the gap to {both} that is closed"]
    rows = []
    for column in dict.fromkeys(gain.column for gain in found.gains):
        own = [gain for gain in found.gains if gain.column == column]
        n = next((gain.difference.n for gain in own if gain.difference), 0)
        texts = [text for gain in own for text in (_difference(gain.difference), _share(gain.closed))]
        rows.append((column, str(n), *texts))
    yield PlainTable(tuple(head), tuple(rows), f"Ours: {guided} minus {inferior}, on the same cases of the same runs")


def _improvements(found: GuidanceReproduction) -> Iterable[PlainTable]:
    head = ["column"]
    for name in found.table.metrics.values():
        head += [f"{name} {found.table.beside}, %", f"{name} ours, %"]
    known = {metric: improved(found, metric) for metric in found.table.metrics}
    rows = []
    for lines in zip(*known.values(), strict=True):
        texts = [lines[0][0]]
        for _, published, gain in lines:
            texts += [_NONE if published is None else f"{published:+.1f}", _percent(gain)]
        rows.append(tuple(texts))
    guided, inferior = found.table.row("guided").name, found.table.row("inferior").name
    yield PlainTable(tuple(head), tuple(rows), f"Improvement of {guided} over {inferior}, in percent of {inferior}")


def _tests(found: GuidanceReproduction) -> Iterable[PlainTable]:
    if not found.tests:
        return
    guided, inferior = found.table.row("guided").name, found.table.row("inferior").name
    runs = max(len(test.ours.p_runs) for test in found.tests)
    head = ["column", "n", f"only {guided} right", f"only {inferior} right", "difference of accuracy", "p", "p (Holm)"]
    head[4] += " (mean probabilities)" if runs else ""
    head += ["p of each run"] if runs else []
    printed = any(test.published is not None for test in found.tests)
    head.insert(1, "p published") if printed else None
    rows = []
    for test in found.tests:
        one = test.ours
        difference = _difference(Contrast(one.effect, one.ci95, one.n))
        texts = [test.column, str(one.n), str(one.b), str(one.c), difference, _p(one.p_value), _p(one.p_holm)]
        texts += [runs_text(one.p_runs)] if runs else []
        if printed:
            texts.insert(1, _NONE if test.published is None else f"{test.published:.3g}")
        rows.append(tuple(texts))
    yield PlainTable(tuple(head), tuple(rows), f"McNemar's exact test of {guided} against {inferior}")


_AREAS: dict[Measure, str] = {
    "AUROC_integer": "AUROC, integer score",
    "AUROC_expected": "AUROC, expected score",
    "AUROC_direct": "AUROC of the diagnosis itself",
}


def _melanoma(found: GuidanceReproduction) -> Iterable[PlainTable]:
    if not found.melanoma:
        return
    head = ("row", "arm", "n", "melanomas", "AUROC published", *_AREAS.values(), *(f"BA at t = {t}" for t in THRESHOLDS))
    rows = []
    for line in found.melanoma:
        told = [line.ours.number(measure) for measure in _AREAS]
        told += [line.ours.number("balanced_accuracy", threshold) for threshold in THRESHOLDS]
        numbers = [_NONE if one.value is None else _bounded(one.value, one.ci95) for one in told]
        texts = (line.row, line.method, str(line.ours.n), str(line.ours.n_pos), _plain(line.published))
        rows.append((*texts, *numbers))
    yield PlainTable(head, tuple(rows), "Melanoma inferred from the seven criteria, ours [95 % interval over patients]")


def _published(line: GuidanceLine) -> str:
    return _plain(line.published) if line.legible else ILLEGIBLE


def _plain(value: float | None) -> str:
    return _NONE if value is None else f"{value:.3f}"


def _value(cell: Cell) -> str:
    return _bounded(cell.value, cell.ci95) if cell.state == "value" else cell.state


def _bounded(value: float, ends: tuple[float, float] | None) -> str:
    return f"{value:.3f}" + ("" if ends is None else f" [{ends[0]:.2f}, {ends[1]:.2f}]")


def _difference(contrast: Contrast | None) -> str:
    if contrast is None or contrast.value is None:
        return _NONE
    told = [number(contrast.value, "accuracy", signed=True)]
    if contrast.ci95 is not None:
        told.append("[" + ", ".join(number(end, "accuracy", signed=True) for end in contrast.ci95) + "]")
    return " ".join([*told, *([p_text(contrast.p_holm)] if contrast.p_holm is not None else [])])


def _share(closed: GapClosed | None) -> str:
    """For instance "0.42 [0.10, 0.90] of +0.100", or that there is no gap to close."""
    if closed is None or closed.gap is None:
        return _NONE
    gap = f"of {number(closed.gap, 'accuracy', signed=True)}"
    if closed.value is None:
        return f"no clear gap ({number(closed.gap, 'accuracy', signed=True)})"
    ends = "" if closed.ci95 is None else f" [{closed.ci95[0]:.2f}, {closed.ci95[1]:.2f}]"
    return f"{closed.value:.2f}{ends} {gap}"


def _percent(gain: GuidanceGain) -> str:
    if gain.percent is None:
        return _NONE
    return f"{gain.percent:+.1f}" + ("" if gain.ci95 is None else f" [{gain.ci95[0]:+.1f}, {gain.ci95[1]:+.1f}]")


def _p(p: float | None) -> str:
    return p_text(p).removeprefix("p=").removeprefix("p") or _NONE


# Notes.


def _notes(found: GuidanceReproduction, about: Facts) -> list[str]:
    table = found.table
    notes = [f"{table.beside.capitalize()}: {table.source}. " + " ".join(table.remarks)]
    notes += [f"The paper says: {table.statement}."] if table.statement else []
    notes += [f"Ours: {ours_text(found, about)}"]
    notes += [otherwise_text(found.otherwise, table.study)] if found.otherwise else []
    notes += [_one_run(found), f"Conventions of ours: {_conventions(found)}"]
    missing = list(_missing(found))
    notes += [f"Not run: {'; '.join(missing)}."] if missing else []
    if any(line.ceiling is not None for line in found.lines):
        notes.append(
            "At best: what an observer reaches who knows how the phantom is made and reads every sign (ceilings.json)."
        )
    return [*notes, *(f"Warning, {label}: {text}" for label, texts in about.warnings for text in texts)]


def _missing(found: GuidanceReproduction) -> Iterable[str]:
    """Columns, or rows of a column, that the study does not have."""
    for column in dict.fromkeys(line.column for line in found.lines):
        rows = {line.row: line.method for line in found.lines if line.column == column}
        lost = [row for row, method in rows.items() if method is None]
        if lost:
            yield column if len(lost) == len(rows) else f"{listed(lost)} of {column}"


def _one_run(found: GuidanceReproduction) -> str:
    rows = {row.read_out: row.name for row in found.table.rows}
    return (
        f"The rows of a column are read from the same runs: {rows['inferior']} and {rows['superior']} are two classifiers, "
        f"{rows['guide']} is the superior head on the estimated latent, {rows['guided']} and {rows['both']} are decoders of "
        "one kind on frozen latents, which differ in the superior latent alone, estimated or true. The estimate is a function "
        f"of what {rows['inferior']} sees: it adds no information."
    )


def _conventions(found: GuidanceReproduction) -> str:
    said = next(one for results in found.study.results.values() for one in results).conventions.sentences()
    parts = [f"{name}: {said[metric]}" for metric, name in found.table.metrics.items()]
    runs = max(found.combined.runs.values())
    if runs > 1:
        parts.append(
            f"Numbers are means over {runs} runs, on the same resamples of patients; n counts patients' cases, each once, and "
            "McNemar's test is of the mean probabilities of each case over its runs."
        )
    parts += ["Differences: p of the paired bootstrap over patients, Holm-corrected over the columns of each metric."]
    parts += [
        "An order is clear where the interval of the difference leaves out 0 and p, corrected over the columns, is below 0.05."
    ]
    parts += ["A share of the gap is given where the interval of the gap lies above 0."]
    return " ".join([*parts, said["ci95"], *(sentence(note) for note in found.combined.notes)])


# The figure.


def _figure_caption(found: GuidanceReproduction) -> str:
    guided, inferior = found.table.row("guided").name, found.table.row("inferior").name
    source = "published (from the printed numbers)" if found.table.printed else "reference"
    what = f"{source} and ours" if _printed(found) else "ours"
    return f"Improvement of {guided} over {inferior} in percent of {inferior}: {what} with its 95 % interval"


def _printed(found: GuidanceReproduction) -> bool:
    return any(published is not None for metric in found.table.metrics for _, published, _ in improved(found, metric))


def write_figure(found: GuidanceReproduction, out: Path) -> Path:
    """Writes the bars of improvements as PNG.

    Args:
        found: What `comodal.study.guidance.beside_guidance` gives.
        out: Folder.

    Returns:
        The file.
    """
    file = out / FIGURE
    with style("guidance"):
        figure = new_figure(11.0, 3.4)
        axes = figure.subplots(1, len(found.table.metrics), squeeze=False)[0]
        figure.subplots_adjust(left=0.06, right=0.99, top=0.86, bottom=0.2, wspace=0.16)
        for axis, (metric, name) in zip(axes, found.table.metrics.items(), strict=True):
            _bars(axis, improved(found, metric), printed=found.table.beside if _printed(found) else "")
            axis.set_title(f"{name}: change in %", fontsize=9, loc="left")
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png", dpi=_DPI, metadata={"Software": None})
    with replacing(file) as stream:
        stream.write(buffer.getvalue())
    return file


def _bars(axis: Axes, lines: Sequence[tuple[str, float | None, GuidanceGain]], *, printed: str) -> None:
    """Published (or what it is called) and ours side by side; our interval as a line."""
    places, width = np.arange(len(lines)), 0.38 if printed else 0.6
    shift = width / 2 if printed else 0.0
    if printed:
        values = [0.0 if published is None else published for _, published, _ in lines]
        axis.bar(places - shift, values, width, color=FAINT, edgecolor=SOFT, linewidth=0.6, label=printed)
    ours = [gain.percent or 0.0 for _, _, gain in lines]
    axis.bar(places + shift, ours, width, color=METHOD_COLOURS[0], label="ours")
    for place, (_, _, gain) in zip(places, lines, strict=True):
        if gain.ci95 is not None:
            axis.plot([place + shift] * 2, gain.ci95, color="black", linewidth=1.1)
    axis.axhline(0, color=SOFT, linewidth=0.8)
    axis.set_xticks(places, labels=[name for name, _, _ in lines], rotation=15, fontsize=7.5)
    axis.legend(frameon=False, fontsize=7.5, ncols=2, loc="upper right", bbox_to_anchor=(1.0, 1.14))
