"""Slices of patients with truth and prediction, as PNG. One row per patient (best, median, worst), one column per subset.

Axis letters: X Y voxels of the slice, K regions. Matplotlib is imported inside the functions.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from textwrap import wrap
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from comodal.reporting.figures import SOFT, new_figure, png, style

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Bright enough to stand on grey; told apart by lightness too.
REGION_COLOURS = ("#56B4E9", "#F0E442", "#D55E00", "#CC79A7", "#009E73", "#E69F00", "#0072B2")
_LINES: tuple[Literal["-", "--", ":"], ...] = ("-", "-", "-", "--", "--", "--", ":")


@dataclass(frozen=True)
class Slice:
    """One patient's slice, ready to draw.

    Attributes:
        title: Who and why ("Best: BraTS_003"), in plain text.
        image: (X, Y) numbers of one modality.
        truth: (K, X, Y) bool.
        predictions: {subset: (K, X, Y) bool}, one column each.
        scores: {subset: text under the column}.
        anatomical: True where X runs to the patient's right and Y to the front; drawn as a radiologist sees it, with the
            patient's right on the left of the picture. False for plain pictures, where Y runs down.
        aspect: Height of a voxel over its width.
    """

    title: str
    image: NDArray[Any]
    truth: NDArray[np.bool_]
    predictions: Mapping[str, NDArray[np.bool_]]
    scores: Mapping[str, str]
    anatomical: bool = True
    aspect: float = 1.0


def slices_picture(
    slices: Sequence[Slice], classes: Sequence[str], *, image_name: str, columns: Sequence[str] = (), dpi: int = 130
) -> str:
    """All slices of one run, or of several, as one picture.

    Args:
        slices: One row each; they share the same subsets.
        classes: The K region names, largest first.
        image_name: The modality shown in grey.
        columns: Names of methods where there is a column for each of them, and not for each subset.
        dpi: Pixels per inch at a width of 11 inches.

    Returns:
        A `data:` address of a PNG.
    """
    subsets = list(columns) or list(dict.fromkeys(name for item in slices for name in item.predictions))
    count = len(subsets) + 1
    cell = min(11.0 / count, 2.7)
    width, names = cell * count, [_wrapped(name) for name in subsets]
    if columns:
        names = [_in_lines(name, int(cell / 0.085)) for name in columns]  # inches of a letter
    handles = _handles(classes)
    beside = min(len(handles), 6, max(1, int(width / 1.75)))  # entries of the legend in a line
    shape = max(item.image.shape[1] * item.aspect / max(item.image.shape[0], 1) for item in slices)
    tall = 0.93 * cell * min(max(shape, 0.4), 1.6) + 0.24  # a picture and the line below it
    above, below = 0.12 + 0.15 * max(name.count("\n") + 1 for name in names), 0.36 + 0.19 * ((len(handles) - 1) // beside)
    with style("slices"):
        figure = new_figure(width, tall * len(slices) + above + below)
        axes = figure.subplots(len(slices), count, squeeze=False)
        height = figure.get_figheight()
        figure.subplots_adjust(
            left=0.352 / width, right=0.998, top=1 - above / height, bottom=(below + 0.2) / height, wspace=0.04,
            hspace=0.24 / tall,
        )  # fmt: skip
        for row, item in zip(axes, slices, strict=True):
            _row(row, item, subsets)
        for axis, name in zip(axes[0], [f"image ({image_name})", *names], strict=True):
            axis.set_title(name, fontsize=9, fontweight="bold", pad=4)
        figure.legend(
            handles=handles, loc="lower center", ncols=beside, frameon=False, fontsize=8.5, labelcolor=SOFT, handlelength=1.6
        )
        return png(figure, dpi)


def _wrapped(subset: str) -> str:
    names = subset.split("+")
    if len(names) < 4:
        return " + ".join(names)
    half = (len(names) + 1) // 2
    return " + ".join(names[:half]) + " +\n" + " + ".join(names[half:])


def _in_lines(name: str, length: int) -> str:
    """A name that stays in its column: broken at spaces, shortened where it has none."""
    lines = [line if len(line) <= length else line[: length - 1] + "…" for line in wrap(name, length, break_long_words=False)]
    return "\n".join(lines[:3])


def _row(axes: Sequence[Axes], item: Slice, subsets: Sequence[str]) -> None:
    _grey(axes[0], item)
    axes[0].set_ylabel(item.title, fontsize=9)
    for axis, subset in zip(axes[1:], subsets, strict=True):
        _grey(axis, item)
        _areas(axis, item)
        if subset in item.predictions:
            _outlines(axis, item.predictions[subset])
        axis.set_xlabel(item.scores.get(subset, ""), fontsize=8.5, labelpad=2)


def _grey(axis: Axes, item: Slice) -> None:
    inside = item.image[np.isfinite(item.image) & (item.image != 0)]
    low, high = np.percentile(inside, (0.5, 99.5)) if inside.size else (0.0, 1.0)
    # After z-scoring exact zeros are the background, which belongs below everything and not in the middle of the grey scale.
    picture = np.where(np.isfinite(item.image) & (item.image != 0), item.image, min(float(low), 0.0)).T
    lowest = min(float(low), 0.0) if (item.image == 0).any() else float(low)
    axis.imshow(
        picture, cmap="gray", vmin=lowest, vmax=max(float(high), lowest + 1e-6), aspect=item.aspect, interpolation="bilinear"
    )
    axis.set(xticks=[], yticks=[])
    for spine in axis.spines.values():
        spine.set_visible(False)
    width, height = item.image.shape
    axis.set_ylim((-0.5, height - 0.5) if item.anatomical else (height - 0.5, -0.5))
    axis.set_xlim((width - 0.5, -0.5) if item.anatomical else (-0.5, width - 0.5))
    axis.set_autoscale_on(False)
    if item.anatomical:
        axis.text(0.02, 0.5, "R", transform=axis.transAxes, color="#c8d0d8", fontsize=7, va="center")


def _areas(axis: Axes, item: Slice) -> None:
    """The truth as tinted areas: a paler line would hide under the outline of a good prediction."""
    from matplotlib.colors import to_rgb

    tint = np.zeros((*item.image.T.shape, 4))
    for k, region in enumerate(item.truth):
        tint[region.T] = (*to_rgb(REGION_COLOURS[k % 7]), 0.36)
    axis.imshow(tint, aspect=item.aspect, interpolation="nearest")


def _outlines(axis: Axes, prediction: NDArray[np.bool_]) -> None:
    for k, region in enumerate(prediction):
        if region.any() and min(region.shape) > 1:
            # A margin of zeros closes the outline of a region that touches the border.
            padded = np.pad(region.astype(float), 1).T
            x, y = np.arange(-1, region.shape[0] + 1), np.arange(-1, region.shape[1] + 1)
            axis.contour(x, y, padded, levels=[0.5], colors="black", linewidths=2.2, alpha=0.55)
            axis.contour(x, y, padded, levels=[0.5], colors=REGION_COLOURS[k % 7], linewidths=1.3, linestyles=_LINES[k % 7])


def _handles(classes: Sequence[str]) -> list[Any]:
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    handles: list[Any] = []
    for k, name in enumerate(classes):
        colour = REGION_COLOURS[k % 7]
        handles.append(Patch(facecolor=colour, alpha=0.55, label=f"{name}: truth (area)"))
        handles.append(Line2D([], [], color=colour, linestyle=_LINES[k % 7], linewidth=1.8, label=f"{name}: prediction (line)"))
    return handles
