"""Whether the region that a sentence fits best is the one that it speaks of: the pointing game on the regions of a method.

A true region is one whose centre lies in the true box; where none does, the one that holds the middle of the box; of a point,
the one that holds it. A hit is a best region that is true; where several regions score the same, the share of them that is.

Axis letters: P phrases, N regions, B images, U distinct sentences. A window is what the network sees of a picture.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from comodal.data.grid import Grid
from comodal.data.phrases import Place
from comodal.evaluation.matching import Grounded, Measured
from comodal.evaluation.statistics import RESAMPLES, bootstrap_interval, interval_note

Floats = NDArray[np.float64]
Mask = NDArray[np.bool_]
CONVENTION = (
    "a hit: the best region of the sentence is one whose centre lies in the true box, or the one that holds the true point (of "
    "a box without such a centre, its middle); phrases whose place is cropped away are left out; chance: share of the regions "
    "that are true"
)


def in_window(place: Place, native: Grid, window: Grid) -> Place:
    """A place in a picture as shares of the window that the network sees.

    Args:
        place: Shares of the picture, from the corner of its first pixel.
        native: The pixels of the file.
        window: Those of the window, after resizing and cropping.

    Returns:
        The same place in shares of the window; below 0 or above 1 where it was cropped away.

    >>> half = Grid((8, 4, 1), np.eye(4)).cropped((4, 0, 0), (4, 4, 1))
    >>> in_window(Place((0.75, 0.5), (0.75, 0.5)), Grid((8, 4, 1), np.eye(4)), half).low
    (0.5, 0.5)
    """
    matrix = np.linalg.inv(window.affine) @ native.affine

    def moved(point: tuple[float, float]) -> tuple[float, float]:
        voxel = np.array([point[0] * native.shape[0] - 0.5, point[1] * native.shape[1] - 0.5, 0.0, 1.0])
        x, y = (matrix @ voxel)[:2].tolist()
        # Grids keep three decimals of a pixel: a point on the border of two regions must not change sides.
        return round((x + 0.5) / window.shape[0], 4), round((y + 0.5) / window.shape[1], 4)

    return Place(moved(place.low), moved(place.high))


def true_regions(places: Iterable[Place], grid: Sequence[int]) -> Mask:
    """Which regions of a window hold what is spoken of.

    Args:
        places: In shares of the window.
        grid: Regions along X and Y.

    Returns:
        (N,) bool, Y fastest; all False where everything was cropped away.

    >>> true_regions([Place((0.6, 0.1), (0.6, 0.1))], (2, 2)).tolist()
    [False, False, True, False]
    """
    out = np.zeros(tuple(grid), dtype=bool)
    for place in places:
        axes = [(np.arange(n) + 0.5) / n for n in grid]
        inside = [(a >= low) & (a <= high) for a, low, high in zip(axes, place.low, place.high, strict=True)]
        if not place.is_point and inside[0].any() and inside[1].any():
            out |= inside[0][:, None] & inside[1][None, :]
        elif all(0 <= share <= 1 for share in place.centre):
            out[tuple(min(int(share * n), n - 1) for share, n in zip(place.centre, grid, strict=True))] = True
    return out.reshape(-1)


def hit_rates(maps: Floats, truth: Mask) -> Floats:
    """Whether the best region is true.

    Args:
        maps: (P, N) scores.
        truth: (P, N).

    Returns:
        (P,) in 0..1; between only where several regions score the same.

    >>> hit_rates(np.array([[0.1, 0.9], [0.5, 0.5]]), np.array([[False, True], [True, False]])).tolist()
    [1.0, 0.5]
    """
    best = maps == maps.max(axis=1, keepdims=True)
    return np.asarray((best & truth).sum(axis=1) / best.sum(axis=1))


@dataclass(frozen=True, eq=False)
class Asked:
    """Phrases with the maps of all sentences on all images.

    Attributes:
        maps: (B, U, N) score of each sentence at each region of each image.
        groups: Patient of each image.
        subjects: Case of each image.
        image: (P,) which image a phrase is about.
        sentence: (P,) which sentence it is.
        truth: (P, N), each with a true region.
        findings: Of each phrase.
    """

    maps: Floats
    groups: tuple[str, ...]
    subjects: tuple[str, ...]
    image: NDArray[np.int64]
    sentence: NDArray[np.int64]
    truth: Mask
    findings: tuple[str, ...]

    def own(self) -> Floats:
        """(P, N) the map of each phrase on its image."""
        return np.asarray(self.maps[self.image, self.sentence])

    def others(self) -> Floats | None:
        """(P, N) the mean map of each phrase over the images of other patients; None where there is one patient only."""
        if len(set(self.groups)) < 2:
            return None
        _, numbers = np.unique(np.asarray(self.groups), return_inverse=True)
        sums = np.zeros((int(numbers.max()) + 1, *self.maps.shape[1:]))
        np.add.at(sums, numbers, self.maps)
        counts = len(self.groups) - np.bincount(numbers)
        of = numbers[self.image]
        total = sums.sum(axis=0)[self.sentence] - sums[of, self.sentence]
        return np.asarray(total / counts[of, None])


def grounding(asked: Asked, *, resamples: int = RESAMPLES, seed: int = 0) -> dict[str, Grounded]:
    """The pointing game over all phrases, then over those of each finding, the commonest first.

    Args:
        asked: At least one phrase.
        resamples: Of the bootstrap over patients; 0 makes no intervals.
        seed: Of the bootstrap.
    """
    own, others = hit_rates(asked.own(), asked.truth), asked.others()
    elsewhere = None if others is None else hit_rates(others, asked.truth)
    names = [name for name in asked.findings if name]
    rows: dict[str, Mask] = {"all": np.ones(len(own), dtype=bool)}
    for name in sorted(set(names), key=lambda name: (-names.count(name), name)):
        rows[name] = np.array([finding == name for finding in asked.findings])
    return {name: _row(asked, kept, own, elsewhere, resamples=resamples, seed=seed) for name, kept in rows.items()}


def _row(asked: Asked, kept: Mask, own: Floats, elsewhere: Floats | None, *, resamples: int, seed: int) -> Grounded:
    images = asked.image[kept].tolist()
    patients = [asked.groups[i] for i in images]
    rate, chance = float(own[kept].mean()), float(asked.truth[kept].mean())
    interval = bootstrap_interval(own[kept], patients, resamples=resamples, seed=seed) if resamples else None
    note = interval_note(len(set(patients))) if resamples else None
    return Grounded(
        hits=Measured(value=rate, ci95=interval, n=int(kept.sum()), chance=chance, note=note),
        ratio=rate / chance if chance > 0 else math.nan,
        constant=constant_rate(asked.truth[kept]),
        elsewhere=None if elsewhere is None else float(elsewhere[kept].mean()),
        subjects=len(set(images)),
    )


def constant_rate(truth: Mask, findings: Sequence[str] = ()) -> float:
    """How often the best constant answer is right: one region for all phrases, or one for each finding.

    Args:
        truth: (P, N).
        findings: Of each phrase; () takes one region for all.

    Returns:
        In 0..1. Regions are chosen on the same phrases, so that this is more than a constant answer would reach on new ones.

    >>> constant_rate(np.array([[True, False], [True, False], [False, True]]))
    0.6666666666666666
    """
    names = np.asarray(findings or [""] * len(truth))
    return float(sum(truth[names == name].sum(axis=0).max() for name in set(names.tolist())) / len(truth))
