"""The best DSC that any method can reach on the shapes phantom, from each subset of its pictures.

Both pictures without noise show the union: 1. Of one picture the observer knows the shape in it, by its parameters, and the
generative model. It draws the other shape given this one, and marks the pixels whose expected DSC with the union is largest:
of d pixels the best are those with the largest mean of [pixel in the union] / (d + size of the union), and d is searched. What
it marks is scored against the true union, not against the draws. To mark the shape itself and nothing more, which methods that
ignore the model end at, is worse; that score is in the sentence of each ceiling.

With `parts` a region that shows in a seen picture is known exactly, and the other shape alone is marked in the same way as the
union. A decoy is drawn apart from the pair, and adds nothing to any of these: subsets with decoys are not listed.
"""

from __future__ import annotations

import math
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from comodal.data.phantoms.ceilings import Ceiling
from comodal.data.phantoms.shapes import MODALITIES, ShapesPhantom
from comodal.data.phantoms.shapes_model import (
    Ellipsoids,
    Masks,
    Polytopes,
    draw_first,
    draw_pair,
    draw_second,
    fits,
    overlaps,
)

# By the number of dimensions: pairs, and draws of the unseen shape for each seen one.
PAIRS = {2: 300, 3: 100}
POSTERIOR = {2: 300, 3: 100}
# The model has no scale, so that a smaller canvas than the phantom's does, and is as good to about 0.003.
CANVAS = {2: 32, 3: 16}
SIZES = 24  # numbers of pixels that are tried
SEED = 20_240_602

Floats = NDArray[np.float64]


def ceilings(config: ShapesPhantom, *, pairs: int | None = None) -> list[Ceiling]:
    """Of "DSC/label-1" from {triangle}, {ellipse} and both; with `parts` of "DSC/union", "DSC/triangle" and "DSC/ellipse".

    With noise the values without noise are upper bounds.

    Args:
        config: The phantom.
        pairs: Of the Monte Carlo estimate; None takes PAIRS.
    """
    pairs = pairs or PAIRS[config.dims]
    size = min(config.size, CANVAS[config.dims])
    union: list[Ceiling] = []
    parts: dict[str, list[Ceiling]] = {name: [] for name in MODALITIES}
    sure: Literal["exact", "upper bound"] = "upper bound" if config.noise else "exact"
    kind: Literal["estimate", "upper bound"] = "upper bound" if config.noise else "estimate"
    cut = ", if there were no noise" if config.noise else ""
    for number, (seen, other) in enumerate((MODALITIES, MODALITIES[::-1])):
        rng = np.random.default_rng([SEED, number])
        scores = np.array([score(rng, seen, size=size, dims=config.dims, parts=config.parts) for _ in range(pairs)])
        how = f"marks what maximises the expected DSC given the {seen} and the generative model ({size} pixels a side)"
        both = f"{how}; marking the {seen} alone reaches {scores.mean(axis=0)[1]:.3f}"
        union.append(_estimate("DSC/union" if config.parts else "DSC/label-1", seen, scores, at=0, kind=kind, how=both))
        if config.parts:
            parts[other].append(_estimate(f"DSC/{other}", seen, scores, at=2, kind=kind, how=how))
            for present in ((seen,), MODALITIES):
                parts[seen].append(Ceiling("seg", f"DSC/{seen}", present, 1.0, sure, f"the {seen} is seen{cut}"))
    union.append(Ceiling("seg", union[0].metric, MODALITIES, 1.0, sure, f"the union of two shapes that are both seen{cut}"))
    return [*union, *parts["triangle"], *parts["ellipse"]]


def _estimate(
    metric: str, seen: str, scores: Floats, *, at: int, kind: Literal["estimate", "upper bound"], how: str
) -> Ceiling:
    mean, half = float(scores.mean(axis=0)[at]), 1.96 * float(scores[:, at].std(ddof=1)) / math.sqrt(len(scores))
    return Ceiling("seg", metric, (seen,), mean, kind, how, (mean - half, mean + half), len(scores))


def score(rng: np.random.Generator, seen: str, *, size: int, dims: int, parts: bool = False) -> tuple[float, ...]:
    """DSC on one pair of who sees one shape: with the union, of the best mark and of the shape itself.

    Args:
        rng: Source of the draws.
        seen: "triangle" or "ellipse".
        size: Pixels a side.
        dims: 2 or 3.
        parts: With the unseen shape, too, of the best mark for that.
    """
    first, second, _ = draw_pair(rng, size, dims)
    one, two = first.masks(size), second.masks(size)
    own, other = (one[0], two[0]) if seen == "triangle" else (two[0], one[0])
    others = unseen(rng, seen, (first, second), size=size, count=POSTERIOR[dims])
    truth = (one | two)[0]
    found = (dice(best_mark(others | own), truth), dice(own, truth))
    return (*found, dice(best_mark(others), other)) if parts else found


def unseen(rng: np.random.Generator, seen: str, pair: tuple[Polytopes, Ellipsoids], *, size: int, count: int) -> Masks:
    """Draws of the shape that is not seen, given the one that is: (about `count`, X, Y[, Z]), at least one.

    Args:
        rng: Source of the draws.
        seen: "triangle" or "ellipse".
        pair: Both; of the unseen one nothing is used.
        size: Pixels a side.
        count: How many.
    """
    first, second = pair
    dims = first.centres.shape[1]
    kept: list[Masks] = []
    while sum(map(len, kept)) < count:
        if seen == "triangle":
            own, drawn = first.masks(size), draw_second(rng, count, dims, near=first.centres[0]).masks(size)
        else:
            own, drawn = second.masks(size), draw_first(rng, count, dims, near=second.centres[0]).masks(size)
        kept.append(drawn[fits(overlaps(own, drawn))])
    return np.concatenate(kept)[:count]


def best_mark(unions: Masks) -> Masks:
    """The mask with the largest mean DSC with these: (X, Y[, Z]).

    Args:
        unions: (M, X, Y[, Z]) possible truths, each as likely.
    """
    flat = unions.reshape(len(unions), -1).astype(np.float64)
    sizes = flat.sum(axis=1)
    best, mark = -1.0, np.zeros(flat.shape[1], dtype=bool)
    low, high = int(flat.all(axis=0).sum()), int(flat.any(axis=0).sum())
    for d in np.unique(np.linspace(max(low, 1), high, SIZES).round().astype(int)):
        gain = (1 / (d + sizes)) @ flat / len(flat)
        order = np.argsort(-gain, kind="stable")[:d]
        if (value := 2 * float(gain[order].sum())) > best:
            best, mark = value, np.isin(np.arange(flat.shape[1]), order)
    return mark.reshape(unions.shape[1:])


def dice(mark: Masks, truth: Masks) -> float:
    """DSC of two masks that are not both empty."""
    return 2 * int((mark & truth).sum()) / int(mark.sum() + truth.sum())
