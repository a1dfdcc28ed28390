"""Figures of the page: metrics by subset, slices with contours, training curves. No state outside the functions.

Vector figures come back as inline SVG (text stays text, so that it can be searched and read aloud), patients as PNG.
Colours are those of Okabe and Ito, which people with colour-blindness can tell apart; a marker or a line style repeats each.
Matplotlib is imported inside the functions: it takes half a second, and the command line imports this room.
"""

from __future__ import annotations

import base64
import io
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

from comodal.evaluation.table import Cell, StudyTable
from comodal.reporting.tables import answered, heading, is_of_classes

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

METHOD_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
METHOD_MARKERS = ("o", "s", "^", "D", "v", "P", "X")
_ONE_COLUMN = 4  # panels up to which they stand one below the other
LEGEND_COLUMNS = 6  # of names in one line
INK, SOFT, FAINT = "#1c2024", "#6b7480", "#d9dde2"

_STYLE: dict[str, Any] = {
    "font.family": "sans-serif",
    "font.size": 9.0,
    "text.color": INK,
    "text.parse_math": False,  # a "$" in a name is a dollar, not mathematics
    "axes.edgecolor": SOFT,
    "axes.labelcolor": INK,
    "axes.linewidth": 0.7,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "xtick.color": SOFT,
    "ytick.color": SOFT,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "svg.fonttype": "none",
}
_FONTS = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', Arial, 'Liberation Sans', sans-serif"


@contextmanager
def style(salt: str) -> Iterator[None]:
    """Our style for the time of one figure; the salt makes the ids inside an SVG equal from run to run."""
    import matplotlib

    values: dict[Any, Any] = {**_STYLE, "svg.hashsalt": salt}
    with matplotlib.rc_context(values):
        yield


def new_figure(width: float, height: float) -> Figure:
    """An empty figure, in inches, that no global list of figures knows."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height))
    FigureCanvasAgg(figure)
    return figure


def svg(figure: Figure, salt: str) -> str:
    """The figure as an `<svg>` element: no prolog, no metadata, ids made unique by the salt, fonts of the system."""
    buffer = io.StringIO()
    figure.savefig(
        buffer, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None}, transparent=True
    )
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r'\bid="', f'id="{salt}-', text)
    text = re.sub(r'((?:xlink:)?href=")#', rf"\1#{salt}-", text)
    text = text.replace("url(#", f"url(#{salt}-")
    text = re.sub(r"(font: [^;\"]*?\d(?:\.\d+)?px) [^;\"]*", rf"\1 {_FONTS}", text)
    # A hundredth of a point is enough.
    text = re.sub(r' d="[^"]*"', lambda path: re.sub(r"(\.\d\d)\d+", r"\1", path[0]), text)
    # The width comes from the page; the viewBox keeps the shape.
    return re.sub(r'<svg ([^>]*?)height="[^"]*"([^>]*?)width="[^"]*"', r"<svg \1\2", text, count=1)


def png(figure: Figure, dpi: int) -> str:
    """The figure as a `data:` address for an `<img>`."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=dpi, metadata={"Software": None})
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")


def page_width(src: str, dpi: int) -> int:
    """How wide a PNG should be on the page at most, in pixels: 11 inches fill it, and a narrower one must not be blown up.

    Args:
        src: `data:` address of a PNG.
        dpi: With which it was made.
    """
    head = base64.b64decode(src.partition(",")[2][:32])  # signature, and the chunk that begins with the width
    return round(108 * int.from_bytes(head[16:20], "big") / dpi)


# Metrics by subset.


def subset_figure(table: StudyTable, metrics: Sequence[str], *, salt: str = "subsets") -> str:
    """Dots with intervals for every subset, and below them which modalities each subset has.

    Args:
        table: Rows and methods to draw.
        metrics: One panel each, from top to bottom ("DSC/WT", "DSC/TC").
        salt: Prefix of ids, unique on the page.

    Returns:
        An inline `<svg>` element.
    """
    of_classes = all(map(is_of_classes, metrics))  # whose tables leave out what nobody predicts from
    rows = tuple(row for row in table.rows if answered(row) or not of_classes) or table.rows
    table, count = replace(table, rows=rows), max(len(rows), 1)
    matrix = 0.21 * len(table.modalities) + 0.1
    columns = 1 if len(metrics) <= _ONE_COLUMN else 2
    panels = math.ceil(len(metrics) / columns)
    panel = 1.75 if len(metrics) > 1 else 2.6
    with style(salt):
        figure = new_figure(11.0, panel * panels + matrix + 0.55)
        ratios = [panel] * panels + [matrix]
        how = {"height_ratios": ratios, "hspace": 0.12 if columns == 1 else 0.3, "wspace": 0.2}
        axes = figure.subplots(len(ratios), columns, sharex=True, squeeze=False, gridspec_kw=how)
        for k in range(panels * columns):
            axis = axes[k % panels, k // panels]
            if k < len(metrics):
                _metric_panel(axis, table, metrics[k], titled=columns > 1)
            else:
                axis.set_axis_off()
        for axis in axes[-1]:
            _presence_matrix(axis, table)
        axes[0, 0].set_xlim(-0.6, count - 0.4)
        if len(table.methods) > 1:
            axes[0, 0].legend(
                loc="lower left",
                bbox_to_anchor=(0.0, 1.0 if columns == 1 else 1.12),
                ncols=min(len(table.methods), LEGEND_COLUMNS),
                frameon=False,
                borderaxespad=0.2,
            )
        head = 0.32 + 0.2 * ((len(table.methods) - 1) // LEGEND_COLUMNS)  # inches, for each line of the legend
        head += 0.2 if columns > 1 else 0.0
        figure.subplots_adjust(left=0.075, right=0.995, top=1 - head / figure.get_figheight(), bottom=0.02)
        return svg(figure, salt)


def _metric_panel(axis: Axes, table: StudyTable, metric: str, *, titled: bool = False) -> None:
    shift = min(0.16, 0.6 / max(len(table.methods), 1))
    for row in range(1, len(table.rows), 2):
        axis.axvspan(row - 0.5, row + 0.5, color="#f4f6f8", linewidth=0, zorder=0)
    for k, method in enumerate(table.methods):
        cells = [row.cells[method].get(metric, Cell("not run")) for row in table.rows]
        offset = (k - (len(table.methods) - 1) / 2) * shift
        _dots(axis, cells, offset, k, method)
    shown = [c for row in table.rows for by in row.cells.values() if (c := by.get(metric)) and c.state == "value"]
    high = [c.ci95[1] if c.ci95 else c.value for c in shown]
    if is_fraction(metric):
        axis.set_ylim(-0.02, 1.02)
        axis.set_yticks([0, 0.25, 0.5, 0.75, 1.0], labels=["0", "0.25", "0.5", "0.75", "1"], fontsize=7.5)
    else:
        axis.set_ylim(0, max([v for v in high if math.isfinite(v)], default=1.0) * 1.05)
    axis.grid(axis="y", color=FAINT, linewidth=0.6)
    axis.set_axisbelow(True)
    if titled:
        axis.set_title(heading(metric, table=table), fontsize=8.5, loc="left", pad=3)
    else:
        axis.set_ylabel(heading(metric, table=table))
    axis.tick_params(axis="x", length=0, labelbottom=False)


def _dots(axis: Axes, cells: Sequence[Cell], offset: float, k: int, method: str) -> None:
    colour, marker = METHOD_COLOURS[k % 7], METHOD_MARKERS[(k + k // 7) % 7]  # the eighth has a pair of its own, too
    shown = [(i + offset, c) for i, c in enumerate(cells) if c.state == "value"]
    for x, cell in shown:
        if cell.ci95 is not None:
            axis.plot([x, x], cell.ci95, color=colour, linewidth=1.7, solid_capstyle="butt", alpha=0.8)
    xs, ys = [x for x, _ in shown], [cell.value for _, cell in shown]
    axis.plot(xs, ys, marker, color=colour, markersize=5, markeredgecolor="white", markeredgewidth=0.6, label=method)
    for i, cell in enumerate(cells):
        if cell.state == "not supported":
            axis.text(i + offset, 0.03, "not supported", color=colour, rotation=90, fontsize=7, ha="center", va="bottom")


def _presence_matrix(axis: Axes, table: StudyTable) -> None:
    names = table.modalities
    for x, row in enumerate(table.rows):
        ys = [y for y, name in enumerate(names) if name in row.present]
        axis.plot([x] * len(names), range(len(names)), "o", markersize=6, color="#e3e7eb", markeredgewidth=0)
        axis.plot([x, x], [min(ys), max(ys)], color=INK, linewidth=1.2)
        axis.plot([x] * len(ys), ys, "o", markersize=6, color=INK, markeredgewidth=0)
    axis.set_ylim(len(names) - 0.4, -0.6)
    axis.set_yticks(range(len(names)), labels=list(names))
    axis.tick_params(length=0, labelbottom=False)
    for spine in axis.spines.values():
        spine.set_visible(False)


def is_fraction(metric: str) -> bool:
    """Whether the metric lies between 0 and 1. HD95 is a distance.

    >>> is_fraction("DSC/WT"), is_fraction("HD95/WT")
    (True, False)
    """
    return not metric.startswith("HD95")


# Training curves.


def curves_figure(runs: Mapping[str, Sequence[Mapping[str, Any]]], *, salt: str = "curves") -> str:
    """Loss and validation metric of every run, side by side.

    Args:
        runs: {label: lines of its metrics.jsonl}.
        salt: Prefix of ids, unique on the page.

    Returns:
        An inline `<svg>` element.
    """
    columns = min(3, len(runs))
    blocks = math.ceil(len(runs) / columns)
    with style(salt):
        figure = new_figure(11.0, 2.9 * blocks + 0.1)
        outer = figure.add_gridspec(
            blocks, columns, wspace=0.2, hspace=0.38, left=0.055, right=0.99, top=1 - 0.3 / (2.9 * blocks)
        )
        outer.update(bottom=0.42 / (2.9 * blocks))
        for k, (label, events) in enumerate(runs.items()):
            grid = outer[k // columns, k % columns].subgridspec(2, 1, hspace=0.12, height_ratios=[1.2, 1])
            top = figure.add_subplot(grid[0])
            bottom = figure.add_subplot(grid[1], sharex=top)
            _curves(top, bottom, events)
            top.set_title(label, fontsize=9, loc="left", fontweight="bold")
            if k % columns == 0:
                top.set_ylabel("loss")
            bottom.set_xlabel("step" if k // columns == blocks - 1 else "")
        return svg(figure, salt)


@dataclass(frozen=True)
class _Stage:
    """The lines of one stage, with steps counted from the beginning of the training."""

    name: str
    begin: int
    losses: dict[int, float]
    checks: dict[int, Mapping[str, Any]]
    best: int | None

    @property
    def end(self) -> int:
        return max([self.begin, *self.losses, *self.checks])


def _stages(events: Sequence[Mapping[str, Any]]) -> list[_Stage]:
    names = dict.fromkeys(
        str(e["stage"]) for e in events if e.get("stage") is not None and e.get("event") in ("step", "validation")
    )
    stages: list[_Stage] = []
    for name in names:
        begin = stages[-1].end if stages else 0
        mine = [e for e in events if str(e.get("stage")) == name and isinstance(e.get("step"), int)]
        losses = {begin + e["step"]: _number(e.get("loss")) for e in mine if e.get("event") == "step"}
        checks = {
            begin + e["step"]: e for e in mine if e.get("event") == "validation" and isinstance(e.get("metrics"), Mapping)
        }
        best = [step for step, e in sorted(checks.items()) if e.get("best")]
        metrics = {step: e["metrics"] for step, e in sorted(checks.items())}
        stages.append(_Stage(name, begin, dict(sorted(losses.items())), metrics, best[-1] if best else None))
    return stages


def _curves(top: Axes, bottom: Axes, events: Sequence[Mapping[str, Any]]) -> None:
    stages = _stages(events)
    names = sorted({name for stage in stages for metrics in stage.checks.values() for name in metrics if name != "loss"})[:3]
    for k, stage in enumerate(stages):
        _loss_panel(top, stage)
        _validation_panel(bottom, stage, names)
        if k:
            for axis in (top, bottom):
                axis.axvline(stage.begin, color=SOFT, linewidth=0.7, linestyle=(0, (3, 3)))
        if len(stages) > 1:
            middle = (stage.begin + stage.end) / 2
            top.text(
                middle, 0.98, stage.name, transform=top.get_xaxis_transform(), fontsize=7.5, ha="center", va="top", color=SOFT
            )
    for axis in (top, bottom):
        axis.grid(axis="y", color=FAINT, linewidth=0.6)
    _legend(top, "upper right")
    _legend(bottom, "lower right", title="validation")
    top.tick_params(labelbottom=False)
    if names:
        bottom.set_ylim(0, 1.02)
    else:
        bottom.text(0.5, 0.5, "no validation metric", transform=bottom.transAxes, ha="center", va="center", color=SOFT)


def _legend(axis: Axes, place: Literal["upper right", "lower right"], *, title: str | None = None) -> None:
    """Each label once, however many stages have it."""
    handles, labels = axis.get_legend_handles_labels()
    once = dict(zip(labels, handles, strict=True))
    if once:
        axis.legend(list(once.values()), list(once), frameon=False, fontsize=7.5, loc=place, title=title, title_fontsize=7.5)


def _number(value: object) -> float:
    return float(value) if isinstance(value, int | float) else math.nan


def _loss_panel(axis: Axes, stage: _Stage) -> None:
    steps, losses = list(stage.losses), list(stage.losses.values())
    axis.plot(steps, losses, color="#9bb8d3", linewidth=0.7)
    axis.plot(steps, _smooth(losses), color=METHOD_COLOURS[0], linewidth=1.4, label="training")
    held = [(step, _number(metrics.get("loss"))) for step, metrics in stage.checks.items() if "loss" in metrics]
    if held:
        axis.plot(*zip(*held, strict=True), color=METHOD_COLOURS[1], linewidth=1.2, linestyle="--", label="validation")


def _validation_panel(axis: Axes, stage: _Stage, names: Sequence[str]) -> None:
    for k, name in enumerate(names):
        points = [(step, _number(metrics[name])) for step, metrics in stage.checks.items() if name in metrics]
        if points:
            axis.plot(*zip(*points, strict=True), color=METHOD_COLOURS[(k + 2) % 7], linewidth=1.3, label=heading(name))
    kept = stage.checks.get(stage.best) if stage.best is not None else None
    if kept and names and names[0] in kept:
        place = (float(stage.best or 0), _number(kept[names[0]]))
        axis.plot(*[[number] for number in place], "o", color=INK, markersize=4)
        axis.annotate("kept", place, (0, -11), textcoords="offset points", fontsize=7.5, ha="center")


def _smooth(values: Sequence[float]) -> list[float]:
    """A centred running mean over a twentieth of the curve, which shows the trend of a noisy loss."""
    half = max(len(values) // 40, 0)
    out = []
    for i in range(len(values)):
        window = [v for v in values[max(0, i - half) : i + half + 1] if math.isfinite(v)]
        out.append(sum(window) / len(window) if window else math.nan)
    return out
