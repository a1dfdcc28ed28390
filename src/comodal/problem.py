"""`Problem`: what a method is built for, in the words of the cohort and the configuration. Plain values, JSON both ways."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from torch import nn

from comodal.errors import ConfigError, message, nearest
from comodal.modality import Modality, Target, first_grid

Task = Literal["segmentation", "classification"]


@dataclass(frozen=True)
class Problem:
    """What a method is built for.

    Attributes:
        modalities: In canonical order.
        targets: What is predicted. Segmentations lie on the voxels of `grid`.
        spatial_dims: 2 (slices or photographs) or 3 (volumes); what the networks see, not what the files are. A 2-D modality
            is seen in 2-D whatever stands here (`dims_of`).
        patch: Size of a training patch of `grid` in voxels; empty where no modality is an image.
        vocabulary: Number of token ids where a modality is text, 0 otherwise.
        patches: {grid: size} of every grid of images; those that are not given take `patch`. Images of other grids than `grid`
            have no voxels in common with it and are seen whole, cropped or padded to their size.
        counts: {target of classes: for each class (cases that have it, cases of which that is known)} among the training cases;
            empty where no cohort is at hand. For weights of classes, never for a prediction.
        words: The words of the last `len(words)` token ids, in order; before them are special ids. Empty where the tokenizer
            has no list of words. For rows of pretrained word vectors.
    """

    modalities: tuple[Modality, ...]
    targets: tuple[Target, ...]
    spatial_dims: int = 3
    patch: tuple[int, ...] = ()
    vocabulary: int = 0
    patches: Mapping[str, tuple[int, ...]] = field(default_factory=dict, hash=False)
    words: tuple[str, ...] = ()
    counts: Mapping[str, tuple[tuple[int, int], ...]] = field(default_factory=dict, hash=False)

    def __post_init__(self) -> None:
        dims: dict[str, int] = {}
        for modality in self.modalities:
            if hasattr(nn.ModuleDict, modality.name):  # a method keeps a network for each modality under its name
                rule, do = "not be called like a part of torch's modules", "Rename its column"
                raise ConfigError(message("modality", rule, repr(modality.name), do=do))
            if modality.kind == "image" and dims.setdefault(modality.grid, modality.spatial_dims) != modality.spatial_dims:
                rule, got = f"have the spatial_dims of the others of grid {modality.grid}", modality.spatial_dims
                do = "Give it a grid of its own in cohort.yaml"
                raise ConfigError(message("modality", rule, got, modality=modality.name, do=do))
        object.__setattr__(self, "patches", {grid: tuple(self.patches.get(grid, self.patch)) for grid in dims})
        object.__setattr__(self, "patch", self.patches.get(self.grid, self.patch))

    @property
    def grid(self) -> str:
        """The grid of the first image, on whose voxels segmentations lie; "" where nothing is an image."""
        return first_grid(self.modalities)

    def dims_of(self, name: str) -> int:
        """2 or 3: the dimensions in which networks see this image."""
        return self.modality(name).seen_in(self.spatial_dims)

    def patch_of(self, name: str) -> tuple[int, ...]:
        """Size in voxels at which networks see this image, one number for each of `dims_of`; () for other kinds.

        Raises:
            ConfigError: Its grid has no size, or one of another length.
        """
        modality = self.modality(name)
        if modality.kind != "image":
            return ()
        size = self.patches[modality.grid]
        if len(size) == self.dims_of(name):
            return size
        rule, do = f"have {self.dims_of(name)} sides, one per dimension", "Correct data.patch"
        if len(self.patches) > 1:
            rule += f", for the grid {modality.grid}"
            do = f"Write data.patch as a mapping with a size for each grid: {', '.join(self.patches)}"
        raise ConfigError(message("data.patch", rule, size, do=do))

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the modalities in canonical order."""
        return tuple(m.name for m in self.modalities)

    def modality(self, name: str) -> Modality:
        """The modality of this name; an unknown one is refused with the nearest known ones."""
        for modality in self.modalities:
            if modality.name == name:
                return modality
        raise ConfigError(message("modality", "be one of the problem", repr(name), do=nearest(name, self.names)))

    def target(self, name: str) -> Target:
        """The target of this name; an unknown one is refused with the nearest known ones."""
        for target in self.targets:
            if target.name == name:
                return target
        do = nearest(name, [t.name for t in self.targets])
        raise ConfigError(message("target", "be one of the problem", repr(name), do=do))

    @property
    def task(self) -> Task:
        """Either "segmentation", where every voxel is predicted, or "classification"."""
        return "segmentation" if any(t.is_segmentation for t in self.targets) else "classification"

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON or YAML; `from_dict` is the way back."""
        return asdict(self)

    @staticmethod
    def from_dict(data: Mapping[str, Any]) -> Problem:
        """The way back from `to_dict`."""
        targets = []
        for item in data["targets"]:
            codes = tuple(tuple(code) for code in item["codes"])
            targets.append(Target(item["name"], item["kind"], tuple(item["classes"]), codes, tuple(item["paint"])))
        return Problem(
            modalities=tuple(Modality(**item) for item in data["modalities"]),
            targets=tuple(targets),
            spatial_dims=data["spatial_dims"],
            patch=tuple(data["patch"]),
            vocabulary=data["vocabulary"],
            patches={grid: tuple(size) for grid, size in data.get("patches", {}).items()},
            words=tuple(data.get("words", ())),
            counts={name: tuple((have, known) for have, known in pairs) for name, pairs in data.get("counts", {}).items()},
        )
