"""Is a heat map true? Blanks what it marks, and as much elsewhere, and sees which costs more of the region's DSC.

The heat of (primary, region) from an auxiliary marks the voxels of that auxiliary's image that the segmentor is said to use.
They are set to 0 in the prepared image, which after z-scoring is its mean (and the background of pictures): what a method sees
of an absent image, too. For comparison the same shape is blanked elsewhere in the foreground. If the map is right, the former
costs more. Blanking also changes what the image's own segmentor sees, so that the DSC of the segmentor of the pair alone, whose
primary stays as it was, stands beside that of the whole method.

Axis letters: X Y Z voxels of the case, C channels.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray

from comodal.data.preprocessing import PreparedCase
from comodal.errors import ConfigError, DataError, message
from comodal.evaluation.metrics import Mask, dsc
from comodal.evaluation.statistics import Difference, paired_difference
from comodal.explain.explanation import Map, Pair, find_region, parts_of, truth_of
from comodal.explain.walking import Walk
from comodal.inference.predictor import Device, Subset, evaluating, predict_case
from comodal.inference.writing import to_masks
from comodal.method import Method

TRIES = 200  # shifts of the shape, until one lies in the foreground


@dataclass(frozen=True)
class Blanking:
    """What blanking did to one case.

    Attributes:
        subject: The id of the case.
        group: The patient.
        voxels: How many were blanked, the same number each time.
        whole: DSC of the region as the whole method predicts it: before, with what the map marks blanked, and the mean with
            the same shape blanked elsewhere; None where the truth has no region.
        alone: The same for the segmentor of the pair alone.
        inside, outside: Mean heat per voxel of the foreground inside the region's truth, and outside of it; None without one.
    """

    subject: str
    group: str
    voxels: int
    whole: tuple[float, float, float] | None
    alone: tuple[float, float, float] | None
    inside: float | None
    outside: float | None

    @property
    def ratio(self) -> float | None:
        """Mean heat inside the region over that outside; None where it is not defined, infinite where there is none outside."""
        if self.inside is None or self.outside is None or self.inside == self.outside == 0:
            return None
        return self.inside / self.outside if self.outside > 0 else math.inf


@dataclass(frozen=True)
class Faithfulness:
    """Over cases: how much more DSC is lost where the map marks than elsewhere, paired; above 0 where the map is right.

    Attributes:
        whole: Of the whole method.
        alone: Of the segmentor of the pair.
        ratio: Median over cases of the mean heat inside over that outside; None where no case has one.
    """

    whole: Difference
    alone: Difference
    ratio: float | None


def marked(heat: Map, foreground: Mask, voxels: int) -> Mask:
    """The hottest voxels of the foreground.

    Args:
        heat: (X, Y, Z).
        foreground: (X, Y, Z) bool.
        voxels: How many; fewer where fewer have heat above 0.

    Returns:
        (X, Y, Z) bool. Of equal ones the first in array order are taken.
    """
    inside = np.where(foreground, heat, 0.0).ravel()
    order = np.argsort(-inside, kind="stable")[:voxels]
    found = np.zeros(inside.shape, dtype=bool)
    found[order[inside[order] > 0]] = True
    return found.reshape(heat.shape)


def moved(shape: Mask, foreground: Mask, rng: np.random.Generator) -> Mask:
    """The same shape at a random place of the foreground, with exactly as many voxels.

    Args:
        shape: (X, Y, Z) bool, in the foreground.
        foreground: (X, Y, Z) bool.
        rng: Draws the shifts.

    Returns:
        (X, Y, Z) bool. Where no shift of 200 lies wholly in the foreground, the best one is taken, and what it lacks is added
        next to it.
    """
    from scipy import ndimage

    points = np.argwhere(shape)
    size, targets = np.array(shape.shape), np.argwhere(foreground)
    best = np.zeros(shape.shape, dtype=bool)
    middle = points[len(points) // 2]
    for _ in range(TRIES):
        there = points + (targets[rng.integers(len(targets))] - middle)  # its middle on a voxel of the foreground
        there = there[((there >= 0) & (there < size)).all(axis=1)]
        there = there[foreground[tuple(there.T)]]
        if len(there) > best.sum():
            best = np.zeros(shape.shape, dtype=bool)
            best[tuple(there.T)] = True
            if len(there) == len(points):
                return best
    lacking = len(points) - int(best.sum())
    free = np.argwhere(foreground & ~best)
    distance = np.asarray(ndimage.distance_transform_edt(~best))
    best[tuple(free[np.argsort(distance[tuple(free.T)], kind="stable")[:lacking]].T)] = True
    return best


def blank_test(
    method: Method,
    case: PreparedCase,
    heat: Map,
    *,
    pair: Pair,
    auxiliary: str,
    subset: Iterable[str],
    voxels: int | None = None,
    draws: int = 3,
    seed: int = 0,
    overlap: float = 0.5,
    device: Device = "cpu",
) -> Blanking:
    """Blanks in an auxiliary's image what a heat map marks, and the same shape elsewhere.

    Args:
        method: On `device`.
        case: With the truth of the region.
        heat: (X, Y, Z) of this pair from this auxiliary.
        pair: (primary, region).
        auxiliary: Whose image is blanked; of one made of several modalities, all.
        subset: What is seen of the case, the auxiliary among it.
        voxels: How many are blanked; None: as many as the region's truth has.
        draws: Random places, whose DSC are averaged.
        seed: Of the places; a case has draws of its own.
        overlap: Of windows.
        device: Where the method is.

    Raises:
        ConfigError: The auxiliary is not in the subset, or there are no draws.
        DataError: The case has no truth of the region, or no heat in the foreground.
    """
    subset = tuple(subset)
    parts, subject = parts_of(auxiliary, subset), case.case.id
    if not set(parts) <= set(subset) or draws < 1:
        rule, got = "be in the subset, with at least one draw", f"{auxiliary} of {'+'.join(subset)}, {draws} draws"
        raise ConfigError(message("blank_test.auxiliary", rule, got, do="Name a modality that is seen"))
    truth = truth_of(method.problem, case, pair[1])
    if truth is None:
        do = "Take a case with a segmentation"
        raise DataError(message("blank_test", f"have a truth of {pair[1]}", "none", subject=subject, do=do))
    foreground = np.zeros(truth.shape, dtype=bool)
    for name in parts:
        foreground |= (np.asarray(case.images[name][:]) != 0).any(axis=0)
    hot = marked(heat, foreground, int(truth.sum()) if voxels is None else voxels)
    if not hot.any():
        do = "Take a pair with a weight"
        raise DataError(message("blank_test.heat", "be above 0 somewhere in the foreground", "none", subject=subject, do=do))
    rng = np.random.default_rng([seed, *subject.encode()])
    areas = [np.zeros_like(hot), hot, *(moved(hot, foreground, rng) for _ in range(draws))]
    scores = [
        _scores(method, _blanked(case, parts, area), truth, pair=pair, subset=subset, overlap=overlap, device=device)
        for area in areas
    ]
    whole, alone = (_three([score[i] for score in scores]) for i in (0, 1))
    inside, outside = foreground & truth, foreground & ~truth
    return Blanking(
        subject=subject,
        group=case.case.group,
        voxels=int(hot.sum()),
        whole=whole,
        alone=alone,
        inside=float(heat[inside].mean()) if inside.any() else None,
        outside=float(heat[outside].mean()) if outside.any() else None,
    )


def _three(scores: Sequence[float]) -> tuple[float, float, float] | None:
    before, hot, *elsewhere = scores
    return None if math.isnan(before) else (before, hot, math.fsum(elsewhere) / len(elsewhere))


def _blanked(case: PreparedCase, names: Sequence[str], area: Mask) -> PreparedCase:
    zero = np.float32(0)
    changed = {name: np.where(area, zero, np.asarray(case.images[name][:])) for name in names}
    return replace(case, images={**case.images, **changed})


def _scores(
    method: Method, case: PreparedCase, truth: Mask, *, pair: Pair, subset: Subset, overlap: float, device: Device
) -> tuple[float, float]:
    """DSC of the region by the whole method, and by the segmentor of the pair."""
    ((_, found),) = predict_case(method, case, subsets=[subset], overlap=overlap, device=device)
    place = find_region(method.problem, pair[1])
    assert place is not None  # its truth was found
    whole = to_masks(place[0], found.probabilities[place[0].name])[place[1]]
    alone = segmentor_map(method, case, pair=pair, subset=subset, overlap=overlap, device=device) >= 0.5
    return dsc(whole, truth, empty="exclude-truth"), dsc(alone, truth, empty="exclude-truth")


@torch.no_grad()
def segmentor_map(
    method: Method, case: PreparedCase, *, pair: Pair, subset: Iterable[str], overlap: float = 0.5, device: Device = "cpu"
) -> NDArray[np.float32]:
    """(X, Y, Z): the probability of a region by one segmentor alone.

    Args:
        method: On `device`.
        case: Must hold the modalities of `subset`.
        pair: (primary, region).
        subset: What is seen of the case.
        overlap: Of windows.
        device: Where the method is.
    """
    walk = Walk(method, case, subset=subset, overlap=overlap, device=device)
    total = walk.blank()
    with evaluating(method):
        for step in walk.steps():
            walk.add(total, torch.sigmoid(step.found.logits[pair]), step.first)
    return walk.mean(total)


def faithfulness(cases: Sequence[Blanking]) -> Faithfulness:
    """Paired over cases: DSC with the shape blanked elsewhere, minus DSC with the marked voxels blanked.

    Args:
        cases: Of one pair and auxiliary. Those whose truth has no region do not count.
    """
    groups = {case.subject: case.group for case in cases}

    def lost(which: str) -> Difference:
        known = {case.subject: scores for case in cases if (scores := getattr(case, which)) is not None}
        elsewhere, hot = {s: v[2] for s, v in known.items()}, {s: v[1] for s, v in known.items()}
        return paired_difference(elsewhere, hot, groups=groups)

    ratios = [ratio for case in cases if (ratio := case.ratio) is not None]
    return Faithfulness(lost("whole"), lost("alone"), float(np.median(ratios)) if ratios else None)
