"""`Draws`: what a training step sees, patches and slices of prepared cases.

Item i of an epoch depends on (seed, epoch, i) and on nothing else: not on the number of workers, the order of asking, or what
was asked before. So a resumed run sees what the uninterrupted one would have seen.

Axis letters: C channels, X Y Z voxels in RAS array order, K regions, N foreground voxels.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from comodal.batch import Sample, Value
from comodal.data.augmentation import PRESETS, augment, prepare_presets
from comodal.data.geometry import Array
from comodal.data.grid import centred_start, crop_pad
from comodal.data.preprocessing import PreparedCase, Preparer
from comodal.errors import ConfigError, message, nearest
from comodal.modality import Target, first_grid

Sampler = Literal["uniform", "foreground", "whole"]
SAMPLERS = ("uniform", "foreground", "whole")
FOREGROUND_CHANCE = 1 / 3  # nnU-Net: a third of a batch lies on foreground for sure
MOST_VOXELS = 10_000  # remembered per region and case
# Mapped arrays cost no memory but a file descriptor each (1024 is a common limit); arrays of an uncached case cost their size.
OPEN_CASES, OPEN_CASES_UNCACHED = 48, 4
_ORDER, _WINDOW = 1, 2  # separate random streams of one epoch and item


class Draws(Dataset[Sample]):
    """Training samples of some cases, a fixed number from each in every epoch.

    Args:
        preparer: Prepares the cases.
        cases: Case ids.
        patch: Voxels of a patch, or {grid: voxels} (`Problem.patches`); empty where no modality is an image. Only the grid of
            the first image is drawn from; others have no voxels in common with it and are seen whole.
        sampler: "uniform": patches (2-D: slices) anywhere; "foreground": with a chance of 1/3 centred on a random voxel of a
            random region that the case has, else anywhere; "whole": the centre, no randomness (2-D and several draws of a
            volume: slices evenly spaced).
        spatial_dims: 3, or 2 for slices along Z; a 2-D modality is seen in 2-D in any case.
        draws_per_case: Samples from each case in an epoch.
        augment: Preset of `comodal.data.augmentation`, "nnunet" or "none".
        seed: Non-negative.
        shuffle: Whether the order of an epoch is permuted; the content of "whole" without augmentation is the same in all.
        weights: Chance of each case, summing to one, by which an epoch is drawn with replacement; None takes each once.
        use: Only these modalities are read; None reads all.

    Raises:
        ConfigError: The sampler, the preset or the patch is not possible.
    """

    def __init__(
        self,
        preparer: Preparer,
        cases: Sequence[str],
        patch: Sequence[int] | Mapping[str, Sequence[int]],
        *,
        sampler: Sampler = "uniform",
        spatial_dims: int = 3,
        draws_per_case: int = 1,
        augment: str = "nnunet",
        seed: int = 0,
        shuffle: bool = True,
        weights: Sequence[float] | Array | None = None,
        use: Sequence[str] | None = None,
    ) -> None:
        for owner, value, known in (("sampler", sampler, SAMPLERS), ("data.augment", augment, PRESETS)):
            if value not in known:
                raise ConfigError(message(owner, "be a known one", repr(value), do=nearest(value, known)))
        images = [m for m in preparer.modalities if m.kind == "image"]
        self.grids = {m.name: m.grid for m in images}
        self.main = first_grid(images)
        self.flat = {m.grid for m in images if m.seen_in(spatial_dims) == 2}
        self.windows = {grid: _window(patch, grid, 2 if grid in self.flat else 3) for grid in self.grids.values()}
        self.preparer = preparer
        self.cases = tuple(cases)
        self.sampler = sampler
        self.draws_per_case = draws_per_case
        self.augment = augment
        self.seed = seed
        self.shuffle = shuffle
        self.use = None if use is None else tuple(use)
        self.weights = None if weights is None else np.repeat(np.asarray(weights), draws_per_case) / draws_per_case
        # In shared memory, so that workers that live on from epoch to epoch hear of the next one.
        self._epoch = torch.zeros((), dtype=torch.int64).share_memory_()
        self._order: tuple[int, Array] = (-1, np.empty(0, dtype=np.int64))
        self._open: OrderedDict[str, tuple[PreparedCase, list[Array]]] = OrderedDict()
        prepare_presets(augment)  # what is imported before the workers fork is imported once

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_open": OrderedDict()}

    def __len__(self) -> int:
        return len(self.cases) * self.draws_per_case

    @property
    def epoch(self) -> int:
        """The epoch from which items are drawn."""
        return int(self._epoch)

    def set_epoch(self, epoch: int) -> None:
        """Chooses the epoch; to be called before a loader is iterated. Workers that live on hear of it."""
        self._epoch.fill_(epoch)

    def order(self) -> Array:
        """(len,) int64: which draw stands where in this epoch; draw d belongs to case d // draws_per_case."""
        epoch = self.epoch
        if self._order[0] != epoch:
            random = np.random.default_rng([self.seed, epoch, _ORDER])
            if self.weights is not None:
                order = random.choice(len(self), size=len(self), p=self.weights)
            else:
                order = random.permutation(len(self)) if self.shuffle else np.arange(len(self))
            self._order = (epoch, order)
        return self._order[1]

    def __getitem__(self, index: int) -> Sample:
        """Sample `index` of the epoch; inputs (C, *patch) float32, targets as `Sample` says."""
        if not 0 <= index < len(self):
            raise IndexError(index)
        draw = int(self.order()[index])
        case, foreground = self._case(self.cases[draw // self.draws_per_case])
        random = np.random.default_rng([self.seed, self.epoch, _WINDOW, index])
        starts = self._starts(case, foreground, random, draw % self.draws_per_case)
        sample = self._cut(case, starts)
        return augment(sample, seed=(self.seed, self.epoch, index), grids=self.grids, preset=self.augment)

    def _case(self, name: str) -> tuple[PreparedCase, list[Array]]:
        if name not in self._open:
            prepared = self.preparer.case(self.preparer.cohort.case(name), use=self.use)
            voxels = foreground_voxels(self.preparer, prepared) if self.sampler == "foreground" else []
            self._open[name] = (prepared, voxels)
            while len(self._open) > (OPEN_CASES_UNCACHED if self.preparer.cache is None else OPEN_CASES):
                self._open.popitem(last=False)
        self._open.move_to_end(name)
        return self._open[name]

    def _starts(
        self, case: PreparedCase, foreground: Sequence[Array], random: np.random.Generator, number: int
    ) -> dict[str, Sequence[int]]:
        """{grid: first voxel of the window}. Other grids than that of the first image are seen whole, as in prediction."""
        starts: dict[str, Sequence[int]] = {}
        for name, grid in case.grids.items():
            window = self.windows[name]
            if name != self.main or self.sampler == "whole":
                x, y, z = centred_start(grid.shape, window, flat=name in self.flat)
                if name == self.main and name in self.flat:
                    z = (2 * number + 1) * grid.shape[2] // (2 * self.draws_per_case)
                starts[name] = (x, y, z)
                continue
            centre = None
            if self.sampler == "foreground" and random.random() < FOREGROUND_CHANCE:
                centre = _pick(foreground, random)
            starts[name] = window_start(grid.shape, window, random, centre=centre)
        return starts

    def _cut(self, case: PreparedCase, starts: Mapping[str, Sequence[int]]) -> Sample:
        kinds = {target.name: target for target in self.preparer.targets}
        images: dict[str, Value] = {n: self._tensor(a, self.grids[n], starts) for n, a in case.images.items()}
        ordered = {m.name: images.get(m.name, case.values.get(m.name)) for m in self.preparer.modalities}
        return Sample(
            id=case.case.id,
            group=case.case.group,
            inputs={name: value for name, value in ordered.items() if value is not None},
            targets={
                n: self._tensor(a, self.main, starts) if kinds[n].is_segmentation else torch.from_numpy(np.array(a))
                for n, a in case.targets.items()
            },
            labelled={n: torch.from_numpy(np.array(a)) for n, a in case.labelled.items()},
            affines={n: np.array(case.grids[n].cropped(start, self.windows[n]).affine) for n, start in starts.items()},
        )

    def _tensor(self, array: Array, grid: str, starts: Mapping[str, Sequence[int]]) -> Tensor:
        patch = crop_pad(array, starts[grid], self.windows[grid])
        return torch.from_numpy(patch[..., 0] if grid in self.flat else patch).contiguous()


def _window(patch: Sequence[int] | Mapping[str, Sequence[int]], grid: str, dims: int) -> tuple[int, int, int]:
    """The patch of a grid with three axes; Z = 1 where it is seen in 2-D."""
    size = tuple(patch.get(grid, ()) if isinstance(patch, Mapping) else patch)
    if len(size) != dims or min(size) < 1:
        do = "Give one positive number of voxels for each dimension"
        where = f" for the grid {grid}" if isinstance(patch, Mapping) else ""
        raise ConfigError(message("data.patch", f"have {dims} positive numbers{where}", size, do=do))
    return size[0], size[1], size[2] if dims == 3 else 1


def window_start(
    shape: Sequence[int], window: Sequence[int], random: np.random.Generator, *, centre: Sequence[int] | Array | None = None
) -> list[int]:
    """The first voxel of a window in a volume.

    Args:
        shape: Of the volume.
        window: Its size. Along an axis where it is larger than the volume, the volume stands in its middle.
        random: Takes one number for each axis.
        centre: A voxel to stand in the middle, as far as the window stays inside; uniform where None.

    Returns:
        One index for each axis, negative where the window is padded.
    """
    start = []
    for axis, (have, size) in enumerate(zip(shape, window, strict=True)):
        room = have - size
        anywhere = int(random.integers(room + 1)) if room > 0 else 0
        if room <= 0:
            start.append(room // 2)
        else:
            start.append(anywhere if centre is None else min(max(int(centre[axis]) - size // 2, 0), room))
    return start


def _pick(foreground: Sequence[Array], random: np.random.Generator) -> Array | None:
    """A random voxel of a random region; None where the case has none."""
    if not foreground:
        return None
    voxels = foreground[int(random.integers(len(foreground)))]
    chosen: Array = voxels[int(random.integers(len(voxels)))]
    return chosen


def foreground_voxels(preparer: Preparer, case: PreparedCase) -> list[Array]:
    """Where the regions of a case lie.

    Args:
        preparer: Its cache keeps the answer.
        case: With its targets.

    Returns:
        For each region of each segmentation target that the case has: (N, 3) int32 voxels, at most 10 000, evenly thinned.
    """
    found = []
    for target in preparer.targets:
        array = case.targets.get(target.name)
        if array is None or not target.is_segmentation:
            continue
        listed = partial(_list_voxels, array, target)
        parts = ("foreground", str(MOST_VOXELS), *case.keys[target.name])
        regions = np.array(listed() if preparer.cache is None else preparer.cache.array(parts, listed))
        found += [regions[regions[:, 0] == k, 1:] for k in np.unique(regions[:, 0])]
    return found


def _list_voxels(array: Array, target: Target) -> Array:
    """(N, 4) int32: region, x, y, z."""
    rows, array = [np.empty((0, 4), dtype=np.int32)], np.asarray(array)
    for k in range(len(target.classes)):
        if k == target.background:
            continue
        voxels = np.argwhere(array[k] if target.kind == "regions" else array == k)
        voxels = voxels[np.linspace(0, len(voxels) - 1, min(len(voxels), MOST_VOXELS)).astype(int)]
        rows.append(np.concatenate([np.full((len(voxels), 1), k), voxels], axis=1).astype(np.int32))
    return np.concatenate(rows)
