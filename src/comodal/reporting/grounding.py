"""Sentences on a picture: for each the map of its scores, the best region outlined, the true place marked.

Axis letters: X Y pixels of the window. Matplotlib is imported inside the functions.
"""

from __future__ import annotations

import io
import math
from textwrap import wrap
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from comodal.reporting.figures import SOFT, new_figure, style
from comodal.study.pointing import DrawnCase, Panel

if TYPE_CHECKING:
    from matplotlib.axes import Axes

BEST, TRUTH = "#D55E00", "#56B4E9"
COLUMNS, CELL, LETTER = 4, 2.55, 0.068  # in a row; inches of a panel and of a letter


def grounding_picture(case: DrawnCase, *, dpi: int = 130) -> bytes:
    """The picture, then one panel for each sentence.

    Args:
        case: With at least one sentence.
        dpi: Pixels per inch.

    Returns:
        A PNG.
    """
    titles = [_wrapped(panel.sentence) for panel in case.panels]
    columns = min(COLUMNS, 1 + len(titles))
    rows = -(-(1 + len(titles)) // columns)
    lines = max(title.count("\n") + 1 for title in titles)
    shape = case.image.shape[1] / max(case.image.shape[0], 1)
    tall, head = CELL * min(max(shape, 0.4), 1.6), 0.14 * lines + 0.1
    gap, above, below = head + 0.2, 0.3, 0.5
    width, height = CELL * columns + 0.1, above + (tall + gap) * rows + below
    with style("grounding"):
        figure = new_figure(width, height)
        for place in range(1 + len(titles)):
            row, column = divmod(place, columns)
            left, top = 0.05 + CELL * column, above + (tall + gap) * row + head
            axis = figure.add_axes((left / width, 1 - (top + tall) / height, (CELL - 0.08) / width, tall / height))
            _grey(axis, case.image)
            if place:
                _panel(axis, case, case.panels[place - 1])
            axis.set_title(titles[place - 1] if place else "image", fontsize=8, pad=3, color="black" if place else SOFT)
        figure.text(0.05 / width, 1 - 0.17 / height, case.subject, fontsize=9.5, fontweight="bold", va="center")
        _legend(figure, marked=any(panel.places for panel in case.panels))
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png", dpi=dpi, metadata={"Software": None})
        return buffer.getvalue()


def _wrapped(sentence: str) -> str:
    lines = wrap(sentence, int(CELL / LETTER)) or [sentence]
    return "\n".join(lines if len(lines) <= 3 else [*lines[:2], lines[2][:-1] + "…"])


def _grey(axis: Axes, image: NDArray[Any]) -> None:
    low, high = np.percentile(image[np.isfinite(image)], (0.5, 99.5))
    axis.imshow(image.T, cmap="gray", vmin=low, vmax=max(float(high), float(low) + 1e-6), aspect="auto")
    axis.set(xticks=[], yticks=[])
    for spine in axis.spines.values():
        spine.set_visible(False)
    axis.set_autoscale_on(False)


def _panel(axis: Axes, case: DrawnCase, panel: Panel) -> None:
    """Colours run from the least to the best region of this sentence; they say nothing about other sentences."""
    from matplotlib import colormaps
    from matplotlib.patches import Rectangle

    width, height = case.image.shape
    scores = panel.scores.reshape(case.grid)
    span = float(scores.max() - scores.min())
    share = (scores - scores.min()) / span if span > 0 else np.zeros_like(scores)
    colours = colormaps["viridis"](share.T)
    colours[..., 3] = 0.08 + 0.42 * share.T
    axis.imshow(colours, extent=(-0.5, width - 0.5, height - 0.5, -0.5), aspect="auto", interpolation="nearest")
    steps = (width / case.grid[0], height / case.grid[1])
    for x, y in np.argwhere(scores == scores.max()).tolist() if span > 0 else []:
        corner = (x * steps[0] - 0.5, y * steps[1] - 0.5)
        axis.add_patch(Rectangle(corner, *steps, fill=False, edgecolor="black", linewidth=3.2, alpha=0.6))
        axis.add_patch(Rectangle(corner, *steps, fill=False, edgecolor=BEST, linewidth=1.9))
    for place in panel.places:
        low, high = ((end[0] * width - 0.5, end[1] * height - 0.5) for end in (place.low, place.high))
        if place.is_point:
            axis.plot(*low, marker="+", markersize=15, markeredgewidth=4, color="black", alpha=0.6)
            axis.plot(*low, marker="+", markersize=14, markeredgewidth=2, color=TRUTH)
        else:
            box = Rectangle(low, high[0] - low[0], high[1] - low[1], fill=False, edgecolor=TRUTH, linewidth=1.6, linestyle="--")
            axis.add_patch(box)
    said = "" if panel.hit is None else "hit" if panel.hit == 1 else "miss" if panel.hit == 0 else f"tie: {panel.hit:.2f}"
    least, most = (_number(value) for value in (scores.min(), scores.max()))
    axis.set_xlabel(f"{said + '   ' if said else ''}scores {least} to {most}", fontsize=7.5, color=SOFT, labelpad=2)


def _number(value: float) -> str:
    return f"{value:.1f}" if math.fabs(value) >= 1 else f"{value:.2f}"


def _legend(figure: Any, *, marked: bool) -> None:
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    handles: list[Any] = [Patch(facecolor="none", edgecolor=BEST, linewidth=1.9, label="best region of the sentence")]
    if marked:
        handles.append(
            Line2D([], [], color=TRUTH, marker="+", markersize=9, markeredgewidth=2, linestyle="", label="true place")
        )
    figure.legend(
        handles=handles, loc="lower left", frameon=False, fontsize=8, labelcolor=SOFT, ncols=2, borderaxespad=0.3,
        title="yellow: most, blue: least; each sentence by itself", title_fontproperties={"size": 7.5}, alignment="left",
    )  # fmt: skip
