"""Figures of targets of classes: confusion, ROC, precision against recall, reliability. Rows of equal panels, as inline SVG.

A line has a colour of Okabe and Ito and a dash pattern of its own; legends stand below their panel, so that they hide nothing.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from comodal.evaluation.curves import Confusion, Curve, Reliability
from comodal.reporting.figures import FAINT, INK, METHOD_COLOURS, SOFT, new_figure, style, svg

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLUMNS = 4  # panels side by side at most
MOST_LINES = len(METHOD_COLOURS)
MOST_COUNTED = 8  # classes whose counts still fit into the cells of a confusion matrix
_DASHES: tuple[Any, ...] = (
    "-",
    (0, (5, 1.5)),
    (0, (1.2, 1.2)),
    (0, (6, 1.5, 1.2, 1.5)),
    (0, (8, 2)),
    (0, (3, 1, 1, 1, 1, 1)),
    "-",
)
_WIDTH, _SIDE, _LEFT, _TOP, _LINE, _FOOT = 2.72, 1.98, 0.62, 0.3, 0.165, 0.42  # inches
_LEGEND = 40  # letters in a line of a legend
_LONGEST = 13  # letters of the name of a class beside an axis


@dataclass(frozen=True)
class Line:
    """One curve with what its legend says.

    Attributes:
        curve: The curve.
        label: Whose it is: a class, or a method.
        number: The area with its interval, as text.
        style: Which colour and dashes.
    """

    curve: Curve
    label: str
    number: str
    style: int


@dataclass(frozen=True)
class Panel:
    """One panel.

    Attributes:
        title: Above it.
        draw: Draws it into axes.
        legend: (style, text) for each line below it; style None is a text alone.
        named: Letters that the names beside the vertical axis need.
    """

    title: str
    draw: Callable[[Axes], None]
    legend: tuple[tuple[int | None, str], ...] = ()
    named: int = field(default=0)


def panels_figure(panels: Sequence[Panel], *, salt: str) -> str:
    """Panels in rows of equal size, read from left to right.

    Args:
        panels: At least one.
        salt: Prefix of ids, unique on the page.

    Returns:
        An inline `<svg>` element, 11 inches wide where a row is full.
    """
    columns, rows = _grid(panels)
    lines = [max(len(p.legend) for p in panels[r * columns : (r + 1) * columns]) for r in range(rows)]
    left, pitch = _pitch(panels)
    heights = [_TOP + _SIDE + _FOOT + _LINE * count for count in lines]
    width, height = pitch * columns + 0.06, sum(heights) + 0.05
    with style(salt):
        figure = new_figure(width, height)
        for place, panel in enumerate(panels):
            row, column = divmod(place, columns)
            x, y = column * pitch + left, height - sum(heights[:row]) - _TOP - _SIDE
            axis = figure.add_axes((x / width, y / height, _SIDE / width, _SIDE / height))
            panel.draw(axis)
            figure.text((x - 0.1) / width, (y + _SIDE + 0.09) / height, panel.title, fontsize=9, fontweight="bold", va="bottom")
            _legend(figure, panel, (x, y - _FOOT), (width, height))
        return svg(figure, salt)


def panels_width(panels: Sequence[Panel]) -> int:
    """How wide the figure should be on the page at most, in pixels: 11 inches fill it."""
    return round(108 * (_pitch(panels)[1] * _grid(panels)[0] + 0.06))


def _grid(panels: Sequence[Panel]) -> tuple[int, int]:
    """Columns and rows: as few rows as fit, and these about equally long."""
    rows = math.ceil(len(panels) / COLUMNS)
    return math.ceil(len(panels) / rows), rows


def _pitch(panels: Sequence[Panel]) -> tuple[float, float]:
    """Inches from the left end of a column to its axes, and from one column to the next."""
    left = max([_LEFT, *(0.32 + 0.075 * panel.named for panel in panels)])
    return left, max(_WIDTH, left + _SIDE + 0.1)


def _legend(figure: Figure, panel: Panel, corner: tuple[float, float], size: tuple[float, float]) -> None:
    from matplotlib.lines import Line2D

    for i, (look, text) in enumerate(panel.legend):
        y = (corner[1] - _LINE * (i + 0.5)) / size[1]
        x = corner[0] - 0.3
        if look is not None:
            handle = Line2D([x / size[0], (x + 0.26) / size[0]], [y, y], **_look(look), transform=figure.transFigure)
            figure.add_artist(handle)
        figure.text((x + (0.32 if look is not None else 0)) / size[0], y, text, fontsize=7.2, va="center_baseline")


def _look(k: int) -> dict[str, Any]:
    return {"color": METHOD_COLOURS[k % MOST_LINES], "linestyle": _DASHES[k % MOST_LINES], "linewidth": 1.5}


def confusion_panel(found: Confusion, title: str) -> Panel:
    """Shading: parts of the true class; numbers: cases, and the part where there is room."""
    longest = max(len(_short(name)) + len(str(round(total))) + 3 for name, total in zip(*_rows(found), strict=True))
    return Panel(title, lambda axis: _confusion(axis, found), named=longest)


def _rows(found: Confusion) -> tuple[Sequence[str], Sequence[float]]:
    return found.classes, [float(total) for total in found.counts.sum(axis=1)]


def _confusion(axis: Axes, found: Confusion) -> None:
    size = len(found.classes)
    shares = found.shares
    axis.imshow([[0.0 if math.isnan(v) else v for v in row] for row in shares.tolist()], cmap="Blues", vmin=0, vmax=1)
    whole = found.runs <= 1 or all(float(v).is_integer() for v in found.counts.ravel())
    for i in range(size if size <= MOST_COUNTED else 0):
        for j in range(size):
            share, count = float(shares[i, j]), float(found.counts[i, j])
            text = f"{count:.0f}" if whole else f"{count:.1f}"
            colour = "white" if share > 0.55 else INK
            apart = 0.12 if size <= 5 and not math.isnan(share) else 0.0
            axis.text(j, i - apart, text, color=colour, fontsize=8.5 if size <= 5 else 7, ha="center", va="center")
            if apart:
                axis.text(j, i + 0.24, f"{100 * share:.0f} %", color=colour, fontsize=6.5, ha="center", va="center")
    names, totals = _rows(found)
    shorts = [_short(name) for name in names]
    tilted = max(map(len, shorts)) * size > 22
    how: dict[str, Any] = {"rotation": 40, "ha": "right", "rotation_mode": "anchor"} if tilted else {}
    axis.set_xticks(range(size), shorts, fontsize=7.5, **how)
    axis.set_yticks(range(size), [f"{name} ({total:.0f})" for name, total in zip(shorts, totals, strict=True)], fontsize=7.5)
    axis.tick_params(length=0, pad=2)
    axis.set_xticks([k + 0.5 for k in range(size - 1)], minor=True)
    axis.set_yticks([k + 0.5 for k in range(size - 1)], minor=True)
    axis.grid(which="minor", color="white", linewidth=1.2)
    axis.tick_params(which="minor", length=0)
    axis.spines[:].set_visible(False)
    if not tilted:
        axis.set_xlabel("answered", fontsize=8, labelpad=2)
    axis.set_ylabel("true (cases)", fontsize=8, labelpad=2)


def _short(name: str) -> str:
    return name if len(name) <= _LONGEST else f"{name[: _LONGEST - 1]}…"


def curves_panel(lines: Sequence[Line], title: str, kind: Literal["ROC", "PR"]) -> Panel:
    """ROC or precision against recall; the broken grey line is chance.

    Args:
        lines: At most MOST_LINES.
        title: Above it.
        kind: Which.
    """
    head = "AUROC" if kind == "ROC" else "AUPRC"
    return Panel(
        title, lambda axis: _curves(axis, lines, kind), ((None, head), *((line.style, _entry(line)) for line in lines))
    )


def _entry(line: Line) -> str:
    room = _LEGEND - len(line.number)
    return f"{line.label if len(line.label) <= room else line.label[: room - 1] + '…'} {line.number}"


def _curves(axis: Axes, lines: Sequence[Line], kind: Literal["ROC", "PR"]) -> None:
    for line in lines:
        step = "default" if kind == "ROC" else "steps-pre"
        axis.plot(line.curve.x, line.curve.y, drawstyle=step, **_look(line.style))
    if kind == "ROC":
        axis.plot([0, 1], [0, 1], color=SOFT, linewidth=0.9, linestyle=(0, (3, 3)), zorder=1)
    else:
        same = len({round(line.curve.chance, 3) for line in lines if not math.isnan(line.curve.chance)}) == 1
        for line in lines if not same else lines[:1]:
            colour = SOFT if same else METHOD_COLOURS[line.style % MOST_LINES]
            axis.axhline(line.curve.chance, color=colour, linewidth=0.9, linestyle=(0, (3, 3)), zorder=1)
    if not any(len(line.curve.x) for line in lines):
        axis.text(0.5, 0.5, "not defined:\nall cases on one side", color=SOFT, fontsize=8, ha="center", va="center")
    axis.set_xlabel("false positive rate" if kind == "ROC" else "recall", fontsize=8, labelpad=2)
    axis.set_ylabel("true positive rate" if kind == "ROC" else "precision", fontsize=8, labelpad=2)
    _unit_axes(axis)


def _unit_axes(axis: Axes) -> None:
    axis.set_xlim(-0.02, 1.02)
    axis.set_ylim(-0.02, 1.02)
    for place, ticks in (("x", axis.set_xticks), ("y", axis.set_yticks)):
        ticks([0, 0.5, 1], ["0", "0.5", "1"], fontsize=7.5)
        axis.grid(axis=place, color=FAINT, linewidth=0.6)  # type: ignore[arg-type]
    axis.tick_params(length=2, pad=2)
    axis.set_axisbelow(True)


def reliability_panel(found: Reliability, title: str, number: str, *, look: int) -> Panel:
    """Accuracy in each bin of confidence with Wilson's interval; bars below are the part of the answers in each bin.

    Args:
        found: Bins.
        title: Above it.
        number: The expected calibration error with its interval, as text.
        look: Which colour.
    """
    return Panel(title, lambda axis: _reliability(axis, found, look), ((None, f"ECE {number}"),))


def _reliability(axis: Axes, found: Reliability, look: int) -> None:
    colour = METHOD_COLOURS[look % MOST_LINES]
    total = sum(b.count for b in found.bins) or 1.0
    axis.bar(
        [(b.low + b.high) / 2 for b in found.bins],
        [b.count / total for b in found.bins],
        width=[0.92 * (b.high - b.low) for b in found.bins],
        color=FAINT,
        linewidth=0,
        zorder=1,
    )
    axis.plot([0, 1], [0, 1], color=SOFT, linewidth=0.9, linestyle=(0, (3, 3)), zorder=2)
    known = [b for b in found.bins if b.confidence is not None and b.accuracy is not None]
    for b in known:
        if b.ci95 is not None:
            axis.plot([b.confidence or 0.0] * 2, b.ci95, color=colour, linewidth=1.4, alpha=0.75, solid_capstyle="butt")
    xs, ys = [b.confidence or 0.0 for b in known], [b.accuracy or 0.0 for b in known]
    axis.plot(xs, ys, "o-", color=colour, linewidth=1.0, markersize=4.5, markeredgecolor="white", markeredgewidth=0.5, zorder=4)
    axis.set_xlabel("confidence", fontsize=8, labelpad=2)
    axis.set_ylabel("accuracy", fontsize=8, labelpad=2)
    _unit_axes(axis)
