"""The best DSC that any method can reach on the shapes phantom, from each subset of its pictures.

Both pictures without noise show the union: 1. Of one picture the observer knows the shape in it, by its parameters, and the
generative model. It draws the other shape given this one, and marks the pixels whose expected DSC with the union is largest:
of d pixels the best are those with the largest mean of [pixel in the union] / (d + size of the union), and d is searched. What
it marks is scored against the true union, not against the draws. To mark the shape itself and nothing more, which methods that
ignore the model end at, is worse; that score is in the sentence of each ceiling.
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
    """Of "DSC/label-1" from {triangle}, {ellipse} and both.

    With noise the values without noise are upper bounds.

    Args:
        config: The phantom.
        pairs: Of the Monte Carlo estimate; None takes PAIRS.
    """
    found = []
    pairs = pairs or PAIRS[config.dims]
    size = min(config.size, CANVAS[config.dims])
    for number, seen in enumerate(MODALITIES):
        rng = np.random.default_rng([SEED, number])
        scores = np.array([score(rng, seen, size=size, dims=config.dims) for _ in range(pairs)])
        mean, alone = (float(value) for value in scores.mean(axis=0))
        half = 1.96 * float(scores[:, 0].std(ddof=1)) / math.sqrt(pairs)
        how = (
            f"marks what maximises the expected DSC given the {seen} and the generative model ({size} pixels a side); "
            f"marking the {seen} alone reaches {alone:.3f}"
        )
        kind: Literal["estimate", "upper bound"] = "upper bound" if config.noise else "estimate"
        found.append(Ceiling("seg", "DSC/label-1", (seen,), mean, kind, how, (mean - half, mean + half), pairs))
    how = "the union of two shapes that are both seen" + (", if there were no noise" if config.noise else "")
    return [*found, Ceiling("seg", "DSC/label-1", MODALITIES, 1.0, "upper bound" if config.noise else "exact", how)]


def score(rng: np.random.Generator, seen: str, *, size: int, dims: int) -> tuple[float, float]:
    """DSC on one pair of who sees one shape: of the best mark, and of the shape itself.

    Args:
        rng: Source of the draws.
        seen: "triangle" or "ellipse".
        size: Pixels a side.
        dims: 2 or 3.
    """
    first, second, _ = draw_pair(rng, size, dims)
    one, two = first.masks(size), second.masks(size)
    own = one[0] if seen == "triangle" else two[0]
    others = unseen(rng, seen, (first, second), size=size, count=POSTERIOR[dims])
    truth = (one | two)[0]
    return dice(best_mark(others | own), truth), dice(own, truth)


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
