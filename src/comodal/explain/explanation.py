"""`Explanation`: heat maps of one case, for each pair (primary, region) and each auxiliary, and what they rest on.

A segmentor sees its *primary* image and gets messages from *auxiliary* ones; a pair is a segmentor with one of its regions.

Axis letters: X Y Z voxels of the case's grid in RAS array order.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from comodal.data.preprocessing import PreparedCase
from comodal.method import Problem
from comodal.modality import Target

Pair: TypeAlias = tuple[str, str]  # (primary, region); (primary, auxiliary) where a comment says so
Map: TypeAlias = NDArray[np.float32]
Voxels: TypeAlias = Literal["predicted", "labelled", "all"]
VOXELS: dict[str, str] = {
    "predicted": "voxels where the segmentor's own probability is above 0.5",
    "labelled": "voxels of the region in the truth",
    "all": "all voxels of the image",
}


@dataclass(frozen=True, eq=False)
class Explanation:
    """What an explainer says about one case.

    Attributes:
        explainer: Its name.
        voxels: Over which voxels logits were summed; None where the explainer needs none.
        used: The modalities that were seen, in canonical order.
        heat: {(primary, region): {auxiliary: (X, Y, Z) float32, at least 0}}, not normalised. Only what is there: a pair
            whose primary is absent has no row, and an absent auxiliary no entry.
        sizes: {(primary, region): how many voxels were summed over}; 0 where there were none, and heat is zero then.
        left_out: {(primary, region): why it has no weights}.
        agreement: {(primary, region, auxiliary): in [0, 1], |sum over voxels of the gradient| over the sum of |gradient|, both
            summed over channels}; near 0 the gradients cancel, and what rests on their mean is chance. Of Grad-CAM only.
        probabilities: {(primary, region): (X, Y, Z) float32}: what the segmentor alone says.
        nats: {(primary, auxiliary): KL divergence from the prior, summed over channels and over the voxels of the coarse map}.
        nats_maps: {(primary, auxiliary): (X, Y, Z) float32}: the same per voxel of the coarse map, brought to the case's grid.
    """

    explainer: str
    voxels: Voxels | None
    used: tuple[str, ...]
    heat: Mapping[Pair, Mapping[str, Map]]
    sizes: Mapping[Pair, int] = field(default_factory=dict)
    left_out: Mapping[Pair, str] = field(default_factory=dict)
    agreement: Mapping[tuple[str, str, str], float] = field(default_factory=dict)
    probabilities: Mapping[Pair, Map] = field(default_factory=dict)
    nats: Mapping[Pair, float] = field(default_factory=dict)
    nats_maps: Mapping[Pair, Map] = field(default_factory=dict)


def row_scale(row: Mapping[str, Map]) -> float:
    """The largest value over all auxiliaries of a row; 0 where nothing is above 0."""
    return max((float(heat.max()) for heat in row.values()), default=0.0)


def normalised(row: Mapping[str, Map]) -> dict[str, Map]:
    """The maps of one pair, divided by the largest value over all its auxiliaries, so that amounts can be compared.

    Args:
        row: {auxiliary: (X, Y, Z)}.

    Returns:
        The same in [0, 1]; the largest value of a row is 1, or all are zero.

    >>> made = normalised({"t2": np.array([0, 4], np.float32), "t1": np.array([1, 0], np.float32)})
    >>> {name: heat.tolist() for name, heat in made.items()}
    {'t2': [0.0, 1.0], 't1': [0.25, 0.0]}
    """
    scale = row_scale(row)
    return {name: heat / np.float32(scale) if scale > 0 else np.zeros_like(heat) for name, heat in row.items()}


def is_there(name: str, subset: tuple[str, ...]) -> bool:
    """Whether a primary or auxiliary takes part: one that is made of several modalities needs all of them.

    >>> is_there("flair+t1", ("flair", "t1", "t2")), is_there("flair+t1", ("t1", "t2"))
    (True, False)
    """
    return all(part in subset for part in parts_of(name, subset))


def parts_of(name: str, subset: tuple[str, ...]) -> tuple[str, ...]:
    """The modalities behind a primary or auxiliary.

    >>> parts_of("flair+t1", ("flair", "t1", "t2"))
    ('flair', 't1')
    """
    return (name,) if name in subset else tuple(name.split("+"))


def find_region(problem: Problem, region: str) -> tuple[Target, int] | None:
    """The target of segmentation that has a region, and its row; None where none has.

    Args:
        problem: Names the regions.
        region: "WT", or "seg.WT" where several targets have regions.
    """
    for target in problem.targets:
        for k, name in enumerate(target.classes) if target.is_segmentation else ():
            if region in (name, f"{target.name}.{name}"):
                return target, k
    return None


def truth_of(problem: Problem, case: PreparedCase, region: str) -> NDArray[np.bool_] | None:
    """Where a region is in the truth.

    Args:
        problem: Names the regions.
        case: With the targets that it has.
        region: Of a segmentation.

    Returns:
        (X, Y, Z) bool on the case's grid; None where the case has no such target.
    """
    place = find_region(problem, region)
    if place is None or place[0].name not in case.targets:
        return None
    target, k = place
    found = np.asarray(case.targets[target.name][:])
    return np.asarray(found == k if target.kind == "labels" else found[k].astype(bool))
