"""What a modality adds to another, drawn: slices with heat, as Figure 16 of Shen et al. (2024), and weights, as its Figure 18.

Axis letters: X Y voxels of the slice. Matplotlib is imported inside the functions.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from comodal.errors import ConfigError, message
from comodal.explain.explanation import Map, normalised, parts_of, truth_of
from comodal.explain.results import ExplainResults, WeightRow
from comodal.method import Problem
from comodal.reporting.figures import FAINT, INK, METHOD_COLOURS, SOFT, new_figure, style
from comodal.study.explaining import ExplainedCase

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.colors import Colormap

PREDICTED, TRUTH = "#56B4E9", "#F0E442"
_HATCHES = ("", "///", "...", "\\\\\\", "xx", "++", "oo")


@dataclass(frozen=True)
class HeatRow:
    """One pair, ready to draw.

    Attributes:
        title: Primary and region, and the slice.
        image: (X, Y) of the primary.
        prediction: (X, Y) bool: what the segmentor alone says.
        truth: (X, Y) bool; None where there is none.
        images: {auxiliary: (X, Y)}.
        heat: {auxiliary: (X, Y) in [0, 1]}, divided by the largest of the whole row and case.
        captions: {auxiliary: name and weight}.
        note: Why there are no weights; empty where there are.
        anatomical: True where X runs to the patient's right and Y to the front; drawn as a radiologist sees it.
        aspect: Height of a voxel over its width.
    """

    title: str
    image: NDArray[Any]
    prediction: NDArray[np.bool_]
    truth: NDArray[np.bool_] | None
    images: Mapping[str, NDArray[Any]]
    heat: Mapping[str, Map]
    captions: Mapping[str, str]
    note: str = ""
    anatomical: bool = True
    aspect: float = 1.0


def heat_rows(case: ExplainedCase, problem: Problem) -> list[HeatRow]:
    """The rows of one case: of each pair the slice along Z where the segmentor predicts the largest area.

    Args:
        case: With its arrays.
        problem: Names the regions.

    Raises:
        ConfigError: The arrays were dropped.
    """
    prepared, found = case.prepared, case.explanation
    if prepared is None or prepared.grid is None:
        raise ConfigError(message("heat_rows.case", "have its arrays", "none", do="Draw it before `lighter()`"))
    spacing = prepared.grid.spacing

    def flat(name: str, z: int) -> NDArray[Any]:
        image = prepared.images[parts_of(name, found.used)[0]]
        return np.asarray(np.asarray(image[..., z]).mean(axis=0))

    rows = []
    for (primary, region), maps in found.heat.items():
        shown = normalised(maps)
        prediction = found.probabilities[primary, region] >= 0.5
        truth = truth_of(problem, prepared, region)
        z = _slice(prediction, truth, shown)
        weights = case.weights.weights[primary, region]
        rows.append(
            HeatRow(
                title=f"{primary}: {region}" + (f"\nslice {z}" if prediction.shape[2] > 1 else ""),
                image=flat(primary, z),
                prediction=prediction[..., z],
                truth=None if truth is None else truth[..., z],
                images={name: flat(name, z) for name in maps},
                heat={name: heat[..., z] for name, heat in shown.items()},
                captions={name: f"{name}  {_weight(weights[name])}" for name in maps},
                note=case.weights.left_out.get((primary, region), ""),
                anatomical=case.volume,
                aspect=spacing[1] / spacing[0],
            )
        )
    return rows


def _weight(value: float | None) -> str:
    return "–" if value is None else f"{value:.2f}"


def _slice(prediction: NDArray[np.bool_], truth: NDArray[np.bool_] | None, heat: Mapping[str, Map]) -> int:
    hot: NDArray[Any] = np.sum(list(heat.values()), axis=0)
    for area in (prediction, truth, hot):
        if area is not None and area.any():
            return int(area.sum(axis=(0, 1)).argmax())
    return int(prediction.shape[2]) // 2


def case_picture(case: ExplainedCase, problem: Problem) -> bytes:
    """Pairs from top to bottom; the primary with contours, then each auxiliary with its heat.

    Args:
        case: With its arrays.
        problem: Names the regions.

    Returns:
        A PNG.
    """
    return heat_picture(heat_rows(case, problem), title=f"{case.weights.subject}, {case.explanation.explainer}")


def heat_picture(rows: Sequence[HeatRow], *, title: str, dpi: int = 130) -> bytes:
    """Draws rows.

    Args:
        rows: At least one.
        title: Above the picture, in plain text.
        dpi: Pixels per inch.

    Returns:
        A PNG.
    """
    from matplotlib.cm import ScalarMappable

    columns = 1 + max(len(row.images) for row in rows)
    cell = min(2.3, 10.0 / columns)
    shape = max(row.image.shape[1] * row.aspect / max(row.image.shape[0], 1) for row in rows)
    gap = 0.36 if any(row.note for row in rows) else 0.22
    tall = cell * min(max(shape, 0.4), 1.6) + gap
    left, above, below = 0.62, 0.32, 0.62
    width, height = left + cell * columns + 0.05, above + tall * len(rows) + below
    with style("heat"):
        figure = new_figure(width, height)
        axes = figure.subplots(len(rows), columns, squeeze=False)
        figure.subplots_adjust(
            left=left / width,
            right=1 - 0.05 / width,
            top=1 - above / height - 0.2 / height,
            bottom=below / height,
            wspace=0.04,
            hspace=gap / tall,
        )
        for line, row in zip(axes, rows, strict=True):
            _draw(line, row)
        figure.text(0.05 / width, 1 - 0.16 / height, title, fontsize=9.5, fontweight="bold", va="center")
        strip = figure.add_axes(
            (left / width + 0.55 * (1 - left / width), 0.3 / height, 0.4 * (1 - left / width), 0.1 / height)
        )
        bar = figure.colorbar(ScalarMappable(cmap=_colours()), cax=strip, orientation="horizontal", ticks=[0, 0.5, 1])
        bar.outline.set_visible(False)
        bar.ax.tick_params(labelsize=7.5, length=2)
        bar.ax.set_title("heat; 1: the largest of row and case", fontsize=7.5, color=SOFT, pad=3)
        _legend(figure, left / width, with_truth=any(row.truth is not None for row in rows))
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png", dpi=dpi, metadata={"Software": None})
        return buffer.getvalue()


def _colours() -> Colormap:
    from matplotlib import colormaps

    return colormaps["viridis"]  # dark blue least, yellow most, as in the paper; also without colour vision


def _legend(figure: Any, left: float, *, with_truth: bool) -> None:
    from matplotlib.lines import Line2D

    handles = [Line2D([], [], color=PREDICTED, linewidth=1.6, label="the segmentor alone")]
    handles += [Line2D([], [], color=TRUTH, linewidth=1.6, linestyle="--", label="truth")] if with_truth else []
    figure.legend(
        handles=handles, loc="lower left", bbox_to_anchor=(left, 0.0), frameon=False, fontsize=7.5, labelcolor=SOFT, ncols=2,
        borderaxespad=0.3, handlelength=2.2,
    )  # fmt: skip


def _draw(axes: Sequence[Axes], row: HeatRow) -> None:
    _grey(axes[0], row.image, row)
    _outline(axes[0], row.prediction, PREDICTED, "-")
    if row.truth is not None:
        _outline(axes[0], row.truth, TRUTH, "--")
    axes[0].set_ylabel(row.title, fontsize=8.5)
    axes[0].set_title("primary", fontsize=8.5, pad=3, color=SOFT)
    for axis, name in zip(axes[1:], row.images, strict=False):
        _grey(axis, row.images[name], row)
        heat = np.clip(row.heat[name], 0, 1).T
        colours = _colours()(heat)
        colours[..., 3] = 0.85 * np.clip(heat / 0.25, 0, 1)  # where there is none the image is seen
        axis.imshow(colours, aspect=row.aspect, interpolation="nearest")
        axis.set_title(row.captions[name], fontsize=8.5, pad=3)
    for axis in axes[1 + len(row.images) :]:
        axis.set_visible(False)
    if row.note:
        axes[0].set_xlabel(f"no weights, {row.note}", fontsize=6.5, color=SOFT, labelpad=1, loc="left")


def _grey(axis: Axes, image: NDArray[Any], row: HeatRow) -> None:
    inside = image[np.isfinite(image) & (image != 0)]
    low, high = np.percentile(inside, (0.5, 99.5)) if inside.size else (0.0, 1.0)
    # After z-scoring exact zeros are the background, which belongs below everything and not in the middle of the grey scale.
    lowest = min(float(low), 0.0) if (image == 0).any() else float(low)
    picture = np.where(np.isfinite(image) & (image != 0), image, lowest).T
    axis.imshow(
        picture, cmap="gray", vmin=lowest, vmax=max(float(high), lowest + 1e-6), aspect=row.aspect, interpolation="bilinear"
    )
    axis.set(xticks=[], yticks=[])
    for spine in axis.spines.values():
        spine.set_visible(False)
    width, height = image.shape
    axis.set_ylim((-0.5, height - 0.5) if row.anatomical else (height - 0.5, -0.5))
    axis.set_xlim((width - 0.5, -0.5) if row.anatomical else (-0.5, width - 0.5))
    axis.set_autoscale_on(False)
    if row.anatomical:
        axis.text(0.02, 0.5, "R", transform=axis.transAxes, color="#c8d0d8", fontsize=6.5, va="center")


def _outline(axis: Axes, region: NDArray[np.bool_], colour: str, line: str) -> None:
    if region.any() and min(region.shape) > 1:
        padded = np.pad(region.astype(float), 1).T  # a margin of zeros closes the outline of a region that touches the border
        x, y = np.arange(-1, region.shape[0] + 1), np.arange(-1, region.shape[1] + 1)
        axis.contour(x, y, padded, levels=[0.5], colors="black", linewidths=2.0, alpha=0.5)
        axis.contour(x, y, padded, levels=[0.5], colors=colour, linewidths=1.2, linestyles=line)


def weights_picture(results: ExplainResults, *, dpi: int = 130) -> bytes:
    """Grouped bars: one group for each pair, one bar for each auxiliary, with intervals where there are any.

    Args:
        results: Of a split or of some cases.
        dpi: Pixels per inch.

    Returns:
        A PNG.
    """
    auxiliaries, groups = results.auxiliaries, len(results.rows)
    with style("weights"):
        figure = new_figure(max(5.2, min(11.0, 1.2 + 0.36 * sum(len(row.weights) + 1 for row in results.rows))), 3.0)
        axis = figure.subplots()
        width = min(0.26, 0.8 / max((len(row.weights) for row in results.rows), default=1))
        for place, row in enumerate(results.rows):
            _bars(axis, row, place, auxiliaries, width)
        labels = [f"{row.primary}: {row.region}" for row in results.rows]
        axis.set_xticks(range(groups), labels=labels, fontsize=8.5)
        axis.tick_params(axis="x", length=0)
        axis.set_xlim(-0.55, max(groups, 1) - 0.45)
        axis.set_ylim(0, 1)
        axis.set_yticks([0, 0.25, 0.5, 0.75, 1.0], labels=["0", "0.25", "0.5", "0.75", "1"], fontsize=7.5)
        axis.grid(axis="y", color=FAINT, linewidth=0.6)
        axis.set_axisbelow(True)
        axis.set_ylabel("weight")
        axis.set_title(_heading(results), fontsize=9, fontweight="bold", loc="left", pad=22)
        handles = [_patch(name, k) for k, name in enumerate(auxiliaries)]
        axis.legend(
            handles=handles, loc="lower left", bbox_to_anchor=(0, 1.0), ncols=max(1, len(handles)), frameon=False,
            fontsize=8, borderaxespad=0.2, handlelength=1.4, columnspacing=1.2,
        )  # fmt: skip
        figure.tight_layout()
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png", dpi=dpi, metadata={"Software": None})
        return buffer.getvalue()


def _heading(results: ExplainResults) -> str:
    cases = sum(bool(case.rows) for case in results.cases)
    return f"Complementary information weights ({cases} case{'s' if cases != 1 else ''}, {results.explainer})"


def _patch(name: str, k: int) -> Any:
    from matplotlib.patches import Patch

    return Patch(facecolor=METHOD_COLOURS[k % 7], edgecolor="white", hatch=_HATCHES[k % 7], linewidth=0, label=f"from {name}")


def _bars(axis: Axes, row: WeightRow, place: int, names: Sequence[str], width: float) -> None:
    own = [name for name in names if name in row.weights]
    for at, name in enumerate(own):
        k, weight = names.index(name), row.weights[name]
        x = place + (at - (len(own) - 1) / 2) * width
        if weight.value is None or weight.value < 0.005:  # a bar that nobody would see
            axis.text(x, 0.01, "–" if weight.value is None else "0", ha="center", va="bottom", color=SOFT, fontsize=7.5)
            continue
        axis.bar(
            x,
            weight.value,
            width=0.9 * width,
            color=METHOD_COLOURS[k % 7],
            edgecolor="white",
            hatch=_HATCHES[k % 7],
            linewidth=0,
        )
        if weight.ci95 is not None:
            axis.plot([x, x], weight.ci95, color=INK, linewidth=1.1, solid_capstyle="butt")
