"""`Modality`, `Target` and `subsets()`: the nouns of which everything else speaks. This module imports nothing of ours.

Order matters in one place only: the cohort lists its modalities once, and every table, subset and tensor axis follows it.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import combinations
from typing import Literal

Kind = Literal["image", "text", "bag", "features"]
TargetKind = Literal["regions", "labels", "class", "multilabel", "ordinal"]

SEGMENTATION_KINDS: frozenset[str] = frozenset({"regions", "labels"})


@dataclass(frozen=True)
class Modality:
    """One view of a patient: an MRI sequence, a report, a bag of pathology tiles, a vector of features.

    Attributes:
        name: How the user calls it ("flair"). Names, never positions, reach it everywhere.
        kind: "image" (2-D or 3-D), "text" (sentences), "bag" (a set of images or vectors), "features" (one vector).
        spatial_dims: 2 or 3 for images and bags of images, 0 otherwise.
        channels: Channels of an image, length of a feature vector; 1 for text.
        unit: Unit of the values ("HU", "SUV"), None where they are arbitrary, as in MRI.
        grid: Modalities with the same grid name are co-registered: they share augmentation and field of view.
    """

    name: str
    kind: Kind = "image"
    spatial_dims: int = 3
    channels: int = 1
    unit: str | None = None
    grid: str = "grid"

    def __post_init__(self) -> None:
        if not self.name or not self.name.replace("_", "").replace("-", "").isalnum():
            raise ValueError(f"Modality.name must be letters, digits, '_' or '-'; got {self.name!r}. Rename the column.")
        if self.kind == "image" and self.spatial_dims not in (2, 3):
            raise ValueError(f"Modality.spatial_dims must be 2 or 3 for an image; got {self.spatial_dims} [{self.name}].")

    def seen_in(self, spatial_dims: int) -> int:
        """Dimensions in which networks see this image: a volume may be seen slice by slice, a picture is always a picture.

        >>> [Modality("scan").seen_in(2), Modality("scan").seen_in(3), Modality("photo", spatial_dims=2).seen_in(3)]
        [2, 3, 2]
        """
        return min(self.spatial_dims, spatial_dims)


@dataclass(frozen=True)
class Target:
    """What is to be predicted.

    Attributes:
        name: Its column in the cohort ("seg", "diagnosis").
        kind: "regions" (overlapping binary maps, WT TC ET), "labels" (one label a voxel), "class" (one of K),
            "multilabel" (K yes/no answers), "ordinal" (one of K in order).
        classes: Names of the K regions, labels or classes, in the order of the probability channels.
        codes: For regions and labels: the label values in the file that make up each class. WT = (1, 2, 4).
        paint: For regions and labels: the label value written for each class on output, painted in the order of
            `classes`, so that nested regions come out right (WT paints 2, TC then paints 1, ET then paints 4).
    """

    name: str
    kind: TargetKind
    classes: tuple[str, ...]
    codes: tuple[tuple[int, ...], ...] = ()
    paint: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        for field in ("codes", "paint"):
            value = getattr(self, field)
            if value and len(value) != len(self.classes):
                raise ValueError(
                    f"Target.{field} must have one entry per class ({len(self.classes)}); got {len(value)} [{self.name}]."
                )
        if len(set(self.classes)) != len(self.classes) or not self.classes:
            raise ValueError(f"Target.classes must be distinct and not empty; got {self.classes} [{self.name}].")

    @property
    def is_segmentation(self) -> bool:
        """True where the prediction has a value for every voxel."""
        return self.kind in SEGMENTATION_KINDS

    @property
    def background(self) -> int | None:
        """Which of the `classes` of "labels" is background, and so neither scored nor sought: that of the code 0 alone.

        Without `codes` it is the first class. None for other kinds, and where every label is a structure.

        >>> Target("seg", "labels", ("background", "organ"), ((0,), (1, 2))).background
        0
        >>> Target("seg", "labels", ("left", "right"), ((1,), (2,))).background is None
        True
        """
        if self.kind != "labels":
            return None
        codes = self.codes or tuple((k,) for k in range(len(self.classes)))
        return codes.index((0,)) if (0,) in codes else None


def only_regions(targets: Iterable[Target], names: Collection[str] | None) -> tuple[Target, ...]:
    """The targets with these regions only: a target of kind "regions" that is left with none goes, other kinds stay.

    Regions keep their order and the label values of their maps, so that a map of one region says it as a map of all does.

    Args:
        targets: In the cohort's order.
        names: Of regions; None leaves everything.

    >>> seg = Target("seg", "regions", ("WT", "TC", "ET"), ((1, 2, 3), (1, 3), (3,)))
    >>> [(target.classes, target.codes, target.paint) for target in only_regions([seg], ["ET"])]
    [(('ET',), ((3,),), (3,))]
    """
    found = []
    for target in targets:
        kept = [k for k, name in enumerate(target.classes) if names is None or name in names]
        if target.kind != "regions" or len(kept) == len(target.classes):
            found.append(target)
        elif kept:
            paint = target.paint or tuple(range(1, len(target.classes) + 1))  # what is written where nothing is stated
            codes = tuple(target.codes[k] for k in kept) if target.codes else ()
            classes = tuple(target.classes[k] for k in kept)
            found.append(replace(target, classes=classes, codes=codes, paint=tuple(paint[k] for k in kept)))
    return tuple(found)


def subsets(names: Iterable[str]) -> Iterator[tuple[str, ...]]:
    """All 2^M - 1 non-empty subsets, small first, each in the canonical order of `names`.

    >>> list(subsets(["flair", "t1"]))
    [('flair',), ('t1',), ('flair', 't1')]
    """
    ordered = tuple(names)
    for size in range(1, len(ordered) + 1):
        yield from combinations(ordered, size)


def first_grid(modalities: Iterable[Modality]) -> str:
    """The grid of the first image, on whose voxels segmentations lie; "" where nothing is an image."""
    return next((m.grid for m in modalities if m.kind == "image"), "")


def subset_name(subset: Iterable[str]) -> str:
    """A subset as one word for tables and file names, e.g. "flair+t1ce"."""
    return "+".join(subset)
