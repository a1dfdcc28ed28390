"""The verification task of CIML for a reader: a table by arm, the maps of a few cases, and the sweep over beta.

Matplotlib is imported inside the functions. Axis letters: X Y pixels.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from comodal.data.atomic import replacing
from comodal.reporting.about import Facts, facts
from comodal.reporting.figures import FAINT, METHOD_COLOURS, METHOD_MARKERS, SOFT, new_figure, style
from comodal.reporting.record import read_run
from comodal.reporting.reproduction import budget_table, comparable, ours_text
from comodal.reporting.tables import PlainTable
from comodal.reporting.variants import VariantText, otherwise_text
from comodal.study.shapes import COLLAPSED, Panel, ShapesLine, ShapesReproduction, Spread

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MAPS, SWEEP = "shapes-maps.png", "shapes-sweep.png"
_PARTS = {
    "auxiliary_only": "auxiliary only",
    "overlap": "overlap",
    "primary_only": "primary only",
    "background": "background",
}
_KAPPAS = {"mean": "kappa = mean", "sampled": "kappa sampled", "zero": "kappa = 0"}
_LEAST = 1e-4  # nats per pixel, where the axis ends
_DPI = 130


def shapes_text(found: ShapesReproduction) -> VariantText:
    """Puts the verification task into words; reads the run folders.

    Args:
        found: What `comodal.study.shapes.beside_shapes` gives.
    """
    about = facts({label: [read_run(run) for run in runs] for label, runs in found.study.runs.items()}, found.combined)
    return VariantText(
        title=f"{found.table.title}: ours beside what the paper says",
        lead=f"{found.table.caption}. {comparable(found)}",
        numbers=(_numbers(found), _scores(found)),
        budget=budget_table(about),
        notes=tuple(_notes(found, about)),
        pictures=(
            (
                f"Nats per pixel in kappa of a few test cases (first seed of each arm, scale of {found.study.reference})",
                MAPS,
            ),
            (
                f"Nats per pixel by part, and DSC, by arm: median and range over seeds (nats below {_LEAST:g} are drawn there)",
                SWEEP,
            ),
        ),
    )


def _numbers(found: ShapesReproduction) -> PlainTable:
    head = ("arm", "redundancy ratio", "purity", *(f"nats, {name}" for name in _PARTS.values()))
    rows = [
        (line.method, _text(line.redundancy_ratio), _text(line.purity), *(_text(line.kl[part], digits=3) for part in _PARTS))
        for line in found.lines
    ]
    return PlainTable(head, tuple(rows), f"Where the nats are: per pixel of each part, median [range] of {_runs(found)}")


def _scores(found: ShapesReproduction) -> PlainTable:
    above = () if found.ceiling is None else (f"above the best from {found.pair[0]} alone ({found.ceiling:.3f})",)
    head = ("arm", *(f"DSC, {name}" for name in _KAPPAS.values()), *above, "collapsed")
    rows = []
    for line in found.lines:
        cells = [_text(line.dsc[kappa], digits=3) for kappa in _KAPPAS]
        cells += [_text(line.above, digits=3)] if above else []
        rows.append((line.method, *cells, f"{line.collapsed} of {line.dsc['mean'].runs}"))
    return PlainTable(head, tuple(rows), f"DSC of the union, median [range] of {_runs(found)}")


def _runs(found: ShapesReproduction) -> str:
    counts = sorted({line.dsc["mean"].runs for line in found.lines})
    return " or ".join(map(str, counts)) + (" runs" if counts != [1] else " run")


def _text(value: Spread, *, digits: int = 2) -> str:
    if value.median is None or value.low is None or value.high is None:
        return "not defined"
    numbers = [f"{round(number, digits) + 0.0:.{digits}f}" for number in (value.median, value.low, value.high)]
    return numbers[0] if value.runs < 2 else f"{numbers[0]} [{numbers[1]}, {numbers[2]}]"


def _notes(found: ShapesReproduction, about: Facts) -> list[str]:
    primary, auxiliary = found.pair
    notes = [f"Published: {found.table.source}. " + " ".join(found.table.remarks), f"The paper says: {found.table.statement}"]
    notes += [f"Ours: {ours_text(found, about)}"]
    notes += [otherwise_text(found.otherwise, found.table.study)] if found.otherwise else []
    notes.append(
        f"Primary is {primary}, auxiliary {auxiliary}. Parts: what {auxiliary} alone covers, what both cover (overlap), what "
        f"{primary} alone covers, and the background. Redundancy ratio: nats per pixel of the overlap over those of auxiliary "
        "only (0 is best); purity: share of all nats in auxiliary only (1 is best); both from sums over the test cases."
    )
    notes.append(
        f"Collapsed: with the mean of kappa the DSC is at most {COLLAPSED} above that with kappa = 0: kappa holds nothing, "
        "and where its nats are (ratio and purity) then means nothing."
    )
    if found.ceiling is not None:
        notes.append(
            f"The best DSC from {primary} alone is that of an observer who knows how the phantom is made (ceilings.json)."
        )
    notes += ["Ranges are the smallest and the largest of the seeds: they are no intervals over cases."]
    return [*notes, *(f"Warning, {label}: {text}" for label, texts in about.warnings for text in texts)]


# Pictures.


def write_pictures(found: ShapesReproduction, cases: Sequence[Panel], out: Path) -> list[Path]:
    """Writes the two figures as PNG.

    Args:
        found: What `comodal.study.shapes.beside_shapes` gives.
        cases: What `comodal.study.shapes.panels` gives.
        out: Folder.

    Returns:
        The files.
    """
    files = [out / MAPS, out / SWEEP]
    with style("shapes"):
        for file, figure in zip(files, (_maps(found, cases), _sweep(found)), strict=True):
            buffer = io.BytesIO()
            figure.savefig(buffer, format="png", dpi=_DPI, metadata={"Software": None})
            with replacing(file) as stream:
                stream.write(buffer.getvalue())
    return files


def _maps(found: ShapesReproduction, cases: Sequence[Panel]) -> Figure:
    """One row per case: primary, auxiliary, target, and the map of each arm on one scale, that of the reference."""
    arms = list(cases[0].nats)
    most = max(float(panel.nats[found.study.reference].max()) for panel in cases)
    columns = 3 + len(arms)
    cell = 11.0 / columns
    figure = new_figure(11.0, cell * len(cases) + 0.55)
    axes = figure.subplots(len(cases), columns, squeeze=False)
    figure.subplots_adjust(left=0.01, right=0.99, top=1 - 0.3 / figure.get_figheight(), bottom=0.01, wspace=0.05, hspace=0.05)
    for row, panel in zip(axes, cases, strict=True):
        for axis, picture in zip(row, (panel.primary, panel.auxiliary, panel.target.astype(float)), strict=False):
            axis.imshow(picture.T, cmap="gray", interpolation="nearest")
        for axis, arm in zip(row[3:], arms, strict=True):
            axis.imshow(panel.nats[arm].T, cmap="magma", vmin=0.0, vmax=max(most, 1e-6), interpolation="nearest")
    names = (f"{found.pair[0]} (primary)", f"{found.pair[1]}", "target", *arms)
    for axis, name in zip(axes[0], names, strict=True):
        axis.set_title(name, fontsize=7.5)
    for axis in axes.flat:
        axis.set(xticks=[], yticks=[])
    return figure


def _sweep(found: ShapesReproduction) -> Figure:
    from matplotlib.ticker import FuncFormatter, NullFormatter

    figure = new_figure(11.0, 3.6)
    left, right = figure.subplots(1, 2)
    figure.subplots_adjust(left=0.065, right=0.99, top=0.9, bottom=0.22, wspace=0.18)
    _points(left, found.lines, {name: [line.kl[part] for line in found.lines] for part, name in _PARTS.items()})
    left.set(yscale="log", ylabel="nats per pixel")
    left.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))  # powers would be set as mathematics
    left.yaxis.set_minor_formatter(NullFormatter())
    _points(right, found.lines, {name: [line.dsc[kappa] for line in found.lines] for kappa, name in _KAPPAS.items()})
    right.set(ylabel="DSC of the union", ylim=(0, 1.02))
    if found.ceiling is not None:
        label = f"best from {found.pair[0]} alone"
        right.axhline(found.ceiling, color=SOFT, linewidth=1.0, linestyle="--", label=label)
    for axis in (left, right):
        axis.grid(axis="y", color=FAINT, linewidth=0.6)
        place = {"loc": "lower left", "bbox_to_anchor": (0.0, 1.0), "borderaxespad": 0.2}
        axis.legend(frameon=False, fontsize=7.5, ncols=4, columnspacing=1.0, handletextpad=0.4, handlelength=1.4, **place)
    return figure


def _points(axis: Axes, lines: Sequence[ShapesLine], series: Mapping[str, Sequence[Spread]]) -> None:
    """Medians with ranges, one series beside the other at each arm."""
    for k, (name, values) in enumerate(series.items()):
        known = [(i, v) for i, v in enumerate(values) if v.median is not None]
        xs = np.array([i for i, _ in known]) + (k - (len(series) - 1) / 2) * 0.13
        colour, floor = METHOD_COLOURS[k], _LEAST if len(series) == len(_PARTS) else 0.0
        for x, (_, value) in zip(xs, known, strict=True):
            axis.plot([x, x], [max(value.low or 0.0, floor), max(value.high or 0.0, floor)], color=colour, linewidth=1.6)
        ys = [max(value.median or 0.0, floor) for _, value in known]
        axis.plot(xs, ys, METHOD_MARKERS[k], color=colour, markersize=5, markeredgecolor="white", label=name)
    axis.set_xticks(range(len(lines)), labels=[line.method for line in lines], rotation=20, fontsize=7.5)
