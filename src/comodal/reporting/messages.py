"""What segmentors told each other while they learned: nats of each message over training, from metrics.jsonl.

A diagnostic `nats/<primary>/<auxiliary>/<level>` is the KL divergence of a whole message from its prior, summed over channels
and voxels of a patch; level 1 is the finest. Matplotlib is imported inside the functions.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from comodal.reporting.figures import FAINT, METHOD_COLOURS, METHOD_MARKERS, SOFT, new_figure, style, svg

if TYPE_CHECKING:
    from matplotlib.axes import Axes

COLUMNS = 4  # panels side by side
BINS = 40  # of the steps: enough for a curve, and a small page
LINEAR = 0.01  # nats below which the axis is linear, so that 0 can be seen

Pair = tuple[str, str]
Curve = dict[float, float]


@dataclass(frozen=True)
class Messages:
    """The messages of one method over its training.

    Attributes:
        curves: {(primary, auxiliary): {level, the finest is 1: {step: nats}}}.
    """

    curves: Mapping[Pair, Mapping[int, Curve]]

    @property
    def primaries(self) -> list[str]:
        """Who takes something from others, in the order in which they are met."""
        return list(dict.fromkeys(primary for primary, _ in self.curves))

    @property
    def levels(self) -> list[int]:
        """All levels, the finest first."""
        return sorted({level for levels in self.curves.values() for level in levels})

    @property
    def width(self) -> float:
        """Of the figure in inches, 11 at most: a single panel need not be as wide as the page."""
        return 0.7 + {1: 5.0, 2: 8.0}.get(len(self.primaries), min(len(self.primaries), COLUMNS) * 2.57)


def messages_of(runs: Iterable[Sequence[Mapping[str, Any]]]) -> Messages | None:
    """The curves of a method, averaged over its runs.

    Steps are put into at most 40 bins and averaged in each, over runs too. A step whose patches lack a message logs exactly 0
    for it and does not count: what the filter lets through is then not known, rather than nothing.

    Args:
        runs: Lines of metrics.jsonl of each run.

    Returns:
        None where nothing of the kind was logged.
    """
    points = [point for events in runs for point in _points(events)]
    if not points:
        return None
    width = max(1.0, (max(step for step, _, _ in points) + 1) / BINS)
    sums: dict[tuple[str, str, int], dict[int, list[float]]] = {}
    for step, key, value in points:
        sums.setdefault(key, {}).setdefault(int(step / width), []).append(value)
    curves: dict[Pair, dict[int, Curve]] = {}
    for (primary, auxiliary, level), bins in sorted(sums.items(), key=lambda item: item[0][2]):
        curve = {(at + 0.5) * width - 0.5: math.fsum(values) / len(values) for at, values in sorted(bins.items())}
        curves.setdefault((primary, auxiliary), {})[level] = curve
    return Messages(curves)


def _points(events: Sequence[Mapping[str, Any]]) -> list[tuple[int, tuple[str, str, int], float]]:
    """(step since the beginning of the training, (primary, auxiliary, level), nats) of one run."""
    found, begin, end, stage = [], 0, 0, None
    for event in events:
        step, told = event.get("step"), event.get("diagnostics")
        if event.get("event") != "step" or not isinstance(step, int):
            continue
        if event.get("stage") != stage:
            begin, stage = end, event.get("stage")
        end = max(end, begin + step)
        for name, value in told.items() if isinstance(told, Mapping) else ():
            key = _key(str(name))
            if key is not None and isinstance(value, int | float) and math.isfinite(value) and value != 0:
                found.append((begin + step, key, float(value)))
    return found


def _key(name: str) -> tuple[str, str, int] | None:
    """What a diagnostic is about; None where it is something else.

    >>> _key("nats/flair/t1/2"), _key("nats/flair"), _key("dice/seg/t1/1")
    (('flair', 't1', 2), None, None)
    """
    what, *parts = name.split("/")
    if what != "nats" or len(parts) != 3 or not parts[2].isdecimal():
        return None
    return parts[0], parts[1], int(parts[2])


def messages_figure(messages: Messages, modalities: Sequence[str], *, salt: str = "nats") -> str:
    """One panel for each primary, one colour for each auxiliary.

    Args:
        messages: Of one method.
        modalities: In canonical order: a modality has the same colour in every figure of these modalities.
        salt: Prefix of ids, unique on the page.

    Returns:
        An inline `<svg>` element.
    """
    primaries = messages.primaries
    auxiliaries = in_order({auxiliary for _, auxiliary in messages.curves}, modalities)
    columns = min(COLUMNS, len(primaries))
    blocks = math.ceil(len(primaries) / columns)
    handles = _handles(auxiliaries, messages.levels)
    beside = min(len(handles), 8 if messages.width > 9 else 4)
    lines = math.ceil(len(handles) / beside)
    with style(salt):
        width, above = messages.width, 0.36 + 0.2 * lines
        height = 2.2 * blocks + above + 0.2
        figure = new_figure(width, height)
        axes = figure.subplots(blocks, columns, sharex=True, sharey=True, squeeze=False)
        figure.subplots_adjust(
            left=0.66 / width, right=1 - 0.08 / width, top=1 - above / height, bottom=0.42 / height, wspace=0.09, hspace=0.24
        )
        every = list(axes.flat)
        for axis, primary in zip(every, primaries, strict=False):
            _panel(axis, messages, primary, auxiliaries)
        for axis in every[len(primaries) :]:
            axis.set_visible(False)
        _scale(every, max(v for levels in messages.curves.values() for curve in levels.values() for v in curve.values()))
        for row in axes:
            row[0].set_ylabel("nats of a message")
        for column in range(columns):
            last = max(k for k in range(column, len(primaries), columns))
            every[last].set_xlabel("step")
            every[last].tick_params(labelbottom=True)
        figure.legend(
            handles=handles, loc="upper left", bbox_to_anchor=(0.6 / width, 1.0), ncols=beside,
            frameon=False, fontsize=8.5, borderaxespad=0.2, handlelength=1.8, columnspacing=1.3,
        )  # fmt: skip
        return svg(figure, salt)


def in_order(names: Iterable[str], modalities: Sequence[str]) -> list[str]:
    """Auxiliaries in the order of the modalities, those that are made of several after them.

    >>> in_order({"t2", "flair+t1", "flair"}, ["flair", "t1", "t2"])
    ['flair', 't2', 'flair+t1']
    """
    have = set(names)
    return [name for name in modalities if name in have] + sorted(have.difference(modalities))


def _panel(axis: Axes, messages: Messages, primary: str, auxiliaries: Sequence[str]) -> None:
    for k, auxiliary in enumerate(auxiliaries):
        colour = METHOD_COLOURS[k % 7]
        levels = messages.curves.get((primary, auxiliary), {})
        for level in sorted(levels, reverse=True):  # the finest last, over the others
            curve = levels[level]
            steps, nats, look = list(curve), list(curve.values()), _look(level)
            axis.plot(steps, nats, color=colour, **look)
            if level == 1:  # a marker repeats the colour
                every = max(1, len(curve) // 5)
                marked = slice(k % every, None, every)
                axis.plot(steps[marked], nats[marked], METHOD_MARKERS[k % 7], color=colour, markersize=3.6, markeredgewidth=0)
    axis.set_title(f"to {primary}", fontsize=9, fontweight="bold", loc="left", pad=4)
    axis.grid(axis="y", color=FAINT, linewidth=0.6)
    axis.set_axisbelow(True)


def _scale(axes: Sequence[Axes], most: float) -> None:
    """Logarithmic down to a hundredth of a nat, and linear from there to 0."""
    top = max(math.ceil(math.log10(max(most, 10 * LINEAR))), 0)
    decades = [10.0**power for power in range(-2, top + 1)]
    for axis in axes:
        axis.set_yscale("symlog", linthresh=LINEAR, linscale=0.5)
        axis.set_ylim(0, 1.3 * max(most, 10 * LINEAR))
        shown = decades if len(decades) < 6 else decades[::2]
        axis.set_yticks([0, *shown], labels=["0", *(f"{value:.12g}" for value in shown)], fontsize=7.5)
        axis.set_yticks([], minor=True)
        axis.tick_params(axis="x", labelsize=7.5)


def _look(level: int) -> dict[str, Any]:
    """The finest level is solid; the coarser, the paler and the more broken."""
    if level == 1:
        return {"linewidth": 1.6}
    dashes = ((4, 1.5), (4, 1.5, 1, 1.5), (1, 1.5))[min(level, 4) - 2]
    return {"linewidth": 0.9, "linestyle": (0, dashes), "alpha": 0.65}


def _handles(auxiliaries: Sequence[str], levels: Sequence[int]) -> list[Any]:
    from matplotlib.lines import Line2D

    colours = [(METHOD_COLOURS[k % 7], METHOD_MARKERS[k % 7]) for k in range(len(auxiliaries))]
    handles = [
        Line2D([], [], color=colour, marker=marker, markersize=4, markeredgewidth=0, linewidth=1.6, label=f"from {name}")
        for name, (colour, marker) in zip(auxiliaries, colours, strict=True)
    ]
    for level in levels if len(levels) > 1 else ():
        name = "level 1, the finest" if level == 1 else f"level {level}"
        handles.append(Line2D([], [], color=SOFT, **_look(level), label=name))
    return handles
