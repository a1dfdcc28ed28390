"""What the pairs phantom is made of, and how well its classes can be told from either vector.

1. Six causes u and four others v, standard normal. Cause pairs give three scores, each of mean 0 and variance 1:
   s_k = sqrt(1 - l^2) u_{2k-1} u_{2k} + l (u_{2k-1} + u_{2k}) / sqrt(2), with l = `linear`.
2. The class is the k of the largest score. v has no part in it.
3. The inferior vector is W_I (1.8 u, 1.7 v) + e, the superior one W_S (2.5 s, 2.4 v) + 0.45 e, with orthonormal columns of W
   and e standard normal; each is divided by a constant, so that its numbers have variance 1 on average.

The numbers were chosen so that linear decoders trained on 600 pairs come near the accuracies of the toy that was computed
when the method was read (docs/methods/guidance.md); the generator of that toy was not kept, and this one is ours.

What is known of u and s from the vectors is all in W' z, one number for each column of W, as the columns are orthonormal and
the noise is the same in all directions. The scores are independent of each other, and stay so given the vectors, so that the
posterior of the class needs sums over a plane only.

Axis letters: N cases, K = 3 classes, M nodes in the plane of two causes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from comodal.data.phantoms.ceilings import Ceiling
from comodal.data.phantoms.skin_ceilings import best_balanced_accuracy, macro_auroc
from comodal.modality import subsets

if TYPE_CHECKING:
    from comodal.data.phantoms.pairs import PairsPhantom

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
MODALITIES = ("inferior", "superior")
CLASSES = ("A", "B", "C")
INFERIOR, SUPERIOR = 64, 32
DECIDING, OTHER = 2 * len(CLASSES), 4
GAIN_U, GAIN_V = 1.8, 1.7  # in the inferior vector, whose noise is 1
GAIN_S, GAIN_W, NOISE_S = 2.5, 2.4, 0.45  # in the superior one
SCALE_I = float(np.sqrt((DECIDING * GAIN_U**2 + OTHER * GAIN_V**2) / INFERIOR + 1))
SCALE_S = float(np.sqrt((len(CLASSES) * GAIN_S**2 + OTHER * GAIN_W**2) / SUPERIOR + NOISE_S**2))
DRAWS, BATCHES, NODES, CHUNK = 4000, 20, 512, 250


@dataclass(frozen=True)
class Causes:
    """What N cases are made of, standard normal numbers all.

    Attributes:
        deciding: (N, 6) u.
        other: (N, 4) v.
        noise_i, noise_s: (N, 64) and (N, 32).
    """

    deciding: Floats
    other: Floats
    noise_i: Floats
    noise_s: Floats


def draw_causes(rng: np.random.Generator, count: int) -> Causes:
    """Draws cases; each takes 106 numbers.

    Args:
        rng: Where the numbers come from.
        count: N.
    """
    sizes = (DECIDING, OTHER, INFERIOR, SUPERIOR)
    parts = np.split(rng.standard_normal((count, sum(sizes))), np.cumsum(sizes)[:-1], axis=1)
    return Causes(*parts)


def scores(deciding: Floats, linear: float) -> Floats:
    """(N, 3) s of (N, 6) u."""
    first, second = deciding[:, 0::2], deciding[:, 1::2]
    found: Floats = np.sqrt(1 - linear**2) * first * second + linear * (first + second) / np.sqrt(2)
    return found


def label(causes: Causes, *, linear: float) -> Ints:
    """(N,) class numbers."""
    found: Ints = scores(causes.deciding, linear).argmax(axis=1).astype(np.int64)
    return found


def mixing(rng: np.random.Generator) -> tuple[Floats, Floats]:
    """W_I (64, 10) and W_S (32, 7), orthonormal columns."""
    shapes = ((INFERIOR, DECIDING + OTHER), (SUPERIOR, len(CLASSES) + OTHER))
    first, second = (np.linalg.qr(rng.standard_normal(shape))[0] for shape in shapes)
    return first, second


def vectors(causes: Causes, weights: tuple[Floats, Floats], *, linear: float) -> tuple[Floats, Floats]:
    """The inferior (N, 64) and the superior vectors (N, 32).

    Args:
        causes: N cases.
        weights: What `mixing` gives.
        linear: l.
    """
    cheap = np.concatenate([GAIN_U * causes.deciding, GAIN_V * causes.other], axis=1)
    dear = np.concatenate([GAIN_S * scores(causes.deciding, linear), GAIN_W * causes.other], axis=1)
    return (
        (cheap @ weights[0].T + causes.noise_i) / SCALE_I,
        (dear @ weights[1].T + NOISE_S * causes.noise_s) / SCALE_S,
    )


# Ceilings.


def posterior(u_seen: Floats | None, s_seen: Floats | None, *, linear: float, nodes: Floats) -> Floats:
    """P(class | what was seen), (N, 3), by sums over nodes.

    Args:
        u_seen: (N, 6) u with noise of sd 1 / GAIN_U, None where the inferior vector is not there.
        s_seen: (N, 3) s with noise of sd NOISE_S / GAIN_S, None where the superior one is not there.
        linear: l.
        nodes: (M, 2) standard normal points of the plane of two causes.
    """
    count = len(u_seen if u_seen is not None else s_seen if s_seen is not None else ())
    shrink = GAIN_U**2 / (1 + GAIN_U**2)
    values, weights = np.empty((2, count, len(CLASSES), len(nodes)))
    for k in range(len(CLASSES)):
        if u_seen is None:
            plane = np.broadcast_to(nodes, (count, *nodes.shape))
        else:
            plane = shrink * u_seen[:, None, 2 * k : 2 * k + 2] + np.sqrt(1 - shrink) * nodes
        values[:, k] = np.sqrt(1 - linear**2) * plane.prod(axis=2) + linear * plane.sum(axis=2) / np.sqrt(2)
        weights[:, k] = 1.0
        if s_seen is not None:
            distance = (values[:, k] - s_seen[:, k, None]) * GAIN_S / NOISE_S
            weights[:, k] = np.exp(-0.5 * (distance**2 - (distance**2).min(axis=1, keepdims=True)))
    weights /= weights.sum(axis=2, keepdims=True)
    return _of_largest(values, weights)


def _of_largest(values: Floats, weights: Floats) -> Floats:
    """P(the k-th of K independent numbers is the largest), (N, K), of their nodes and weights (N, K, M)."""
    n, k, m = values.shape
    flat = values.reshape(n, k * m)
    order = flat.argsort(axis=1)
    owner = np.repeat(np.arange(k), m)[order]
    sorted_weights = np.take_along_axis(weights.reshape(n, k * m), order, axis=1)
    below = np.stack([np.cumsum(np.where(owner == j, sorted_weights, 0.0), axis=1) for j in range(k)], axis=1)
    found = np.empty((n, k))
    for j in range(k):
        others = np.prod(below[:, [i for i in range(k) if i != j]], axis=1)
        found[:, j] = np.where(owner == j, sorted_weights * others, 0.0).sum(axis=1)
    rows: Floats = found / found.sum(axis=1, keepdims=True)
    return rows


def ceilings(config: PairsPhantom) -> list[Ceiling]:
    """The best balanced accuracy, accuracy and AUROC from either vector and from both.

    Args:
        config: Of the phantom; of its settings only `linear` counts.

    Returns:
        Estimates: means over cases that are drawn anew, of an observer who knows the model, W included.
    """
    return list(_ceilings(config.linear))


@lru_cache(maxsize=4)
def _ceilings(linear: float) -> tuple[Ceiling, ...]:
    rng = np.random.default_rng(20220305)
    causes, nodes = draw_causes(rng, DRAWS), rng.standard_normal((NODES, 2))
    truth = label(causes, linear=linear)
    u_seen = causes.deciding + causes.noise_i[:, :DECIDING] / GAIN_U
    s_seen = scores(causes.deciding, linear) + causes.noise_s[:, : len(CLASSES)] * NOISE_S / GAIN_S
    how = "knows the model and the orientation of both vectors; posterior by sums over 512 nodes"
    found = []
    for subset in subsets(MODALITIES):
        seen = [u_seen if "inferior" in subset else None, s_seen if "superior" in subset else None]
        pieces = [
            posterior(*(part if part is None else part[at : at + CHUNK] for part in seen), linear=linear, nodes=nodes)
            for at in range(0, DRAWS, CHUNK)
        ]
        p = np.concatenate(pieces)
        for metric, score in _SCORES.items():
            parts = [score(p[k::BATCHES], truth[k::BATCHES]) for k in range(BATCHES)]
            value, half = score(p, truth), 1.96 * float(np.std(parts, ddof=1)) / BATCHES**0.5
            interval = (max(value - half, 0.0), min(value + half, 1.0))
            found.append(Ceiling("diagnosis", f"{metric}/diagnosis", subset, value, "estimate", how, ci95=interval, n=DRAWS))
    return tuple(found)


def _accuracy(p: Floats, truth: Ints) -> float:
    return float((p.argmax(axis=1) == truth).mean())


_SCORES: dict[str, Callable[[Floats, Ints], float]] = {
    "balanced_accuracy": best_balanced_accuracy,
    "accuracy": _accuracy,
    "AUROC": macro_auroc,
}
