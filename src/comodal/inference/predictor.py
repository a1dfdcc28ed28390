"""Probabilities of one case from any of its subsets of modalities: windows of volumes, slices, or the case as a whole.

What a subset gets depends on that subset alone, to the last byte: its windows are built from its own modalities, nothing of
an absent one is read, and where a method encodes, each modality is encoded by itself, so that its features cannot depend on
which other modalities were asked for in the same call.

Windows are spaced evenly so that the last one is flush with the edge (110 voxels, windows of 64: starts 0, 23, 46) and
weighted by a Gaussian of sigma window / 8, as in nnU-Net. Probabilities are averaged, not logits.

Axis letters: see `comodal.batch`.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from comodal.batch import Batch, Features, Sample, Value, collate
from comodal.data.grid import crop_pad
from comodal.data.preprocessing import PreparedCase
from comodal.errors import ConfigError, DataError, UnsupportedSubset, message, nearest
from comodal.method import Method, Prediction, Problem
from comodal.modality import Target

Subset: TypeAlias = tuple[str, ...]
Place: TypeAlias = tuple[int, int, int]
Device: TypeAlias = str | torch.device
Probabilities: TypeAlias = dict[str, NDArray[np.float32]]

MIN_WEIGHT = 1e-3  # as MONAI: the corner of a Gaussian window is 4e-11, too little to be divided by
BATCH_VOXELS = 64**3
ACCUMULATORS = 512 * 2**20  # bytes for the probabilities of subsets that are decoded from one encoding


def window_starts(size: int, window: int, overlap: float) -> list[int]:
    """First voxels of the windows along one axis.

    Args:
        size: Voxels of the volume along the axis.
        window: Voxels of the window.
        overlap: Least fraction by which neighbours overlap, in [0, 1).

    Returns:
        Evenly spaced starts, the last flush with the end; one centred start (negative) where the window is larger.

    >>> window_starts(110, 64, 0.5)
    [0, 23, 46]
    >>> window_starts(5, 8, 0.5)
    [-2]
    """
    room = size - window
    if room <= 0:
        return [room // 2]
    count = math.ceil(room / max(1.0, window * (1 - overlap))) + 1
    return [round(i * room / (count - 1)) for i in range(count)]


def gaussian_weights(window: Sequence[int], weighted: Sequence[bool] | None = None) -> NDArray[np.float32]:
    """Weights of a window, highest in its centre and strictly positive.

    Args:
        window: Voxels along each axis.
        weighted: Along which axes the weight falls off; None: all. Where no two windows overlap there is nothing to weigh.

    Returns:
        Array of shape `window` in [0.001, 1], with sigma = window / 8 along each axis.

    >>> float(gaussian_weights((9,))[4])
    1.0
    """
    out = np.ones(tuple(window))
    for axis, size in enumerate(window):
        if weighted is None or weighted[axis]:
            steps = (np.arange(size) - (size - 1) / 2) / (size / 8)
            out *= np.exp(-(steps**2) / 2).reshape([-1 if a == axis else 1 for a in range(len(window))])
    return np.maximum(out, MIN_WEIGHT).astype(np.float32)


@dataclass(frozen=True)
class _Windows:
    """Where the windows of one case lie. Shapes have three axes; a window of a 2-D method has Z = 1."""

    shape: Place
    window: Place
    starts: tuple[Place, ...]
    weights: Tensor  # (*window)

    def inside(self, start: Place) -> tuple[tuple[slice, ...], tuple[slice, ...]]:
        """The part of a window that lies in the volume: where in the volume, and where in the window."""
        low = [max(0, s) for s in start]
        high = [min(n, s + w) for n, s, w in zip(self.shape, start, self.window, strict=True)]
        volume = tuple(slice(a, b) for a, b in zip(low, high, strict=True))
        return volume, tuple(slice(a - s, b - s) for a, b, s in zip(low, high, start, strict=True))

    def total(self) -> Tensor:
        """(X, Y, Z): the sum of the weights at each voxel."""
        out = torch.zeros(self.shape)
        for start in self.starts:
            volume, window = self.inside(start)
            out[volume] += self.weights[window]
        return out


def _centred(shape: Place, window: Place, spatial_dims: int) -> Place:
    """First voxel of the window in the middle, as the sampler "whole" takes it; negative where the window is larger."""
    x, y, z = ((n - w) // 2 for n, w in zip(shape, window, strict=True))
    return x, y, shape[2] // 2 if spatial_dims == 2 else z


def _windows(problem: Problem, shape: Place, overlap: float) -> _Windows:
    """The windows of a case: patches in 3-D, slices (or patches of slices) in 2-D, one for a classification."""
    if not 0 <= overlap < 1:
        raise ConfigError(message("overlap", "be at least 0 and less than 1", overlap, do="0.5 is usual"))
    window: Place = (problem.patch[0], problem.patch[1], problem.patch[2] if problem.spatial_dims == 3 else 1)
    if problem.task == "classification":
        return _Windows(shape, window, (_centred(shape, window, problem.spatial_dims),), torch.ones(window))
    axes = [window_starts(n, w, overlap) for n, w in zip(shape, window, strict=True)]
    overlapping = [any(b - a < w for a, b in itertools.pairwise(starts)) for starts, w in zip(axes, window, strict=True)]
    starts = tuple((x, y, z) for z in axes[2] for x in axes[0] for y in axes[1])  # Z last: patches of a slice lie together
    return _Windows(shape, window, starts, torch.from_numpy(gaussian_weights(window, overlapping)))


def _sample(
    problem: Problem, case: PreparedCase, subset: Subset, windows: _Windows | None = None, start: Place = (0, 0, 0)
) -> Sample:
    """One window of a case with exactly the modalities of `subset`; nothing of another modality is touched."""
    inputs: dict[str, Value] = {}
    affines: dict[str, NDArray[np.float64]] = {}
    for name in subset:
        modality = problem.modality(name)
        if modality.kind != "image" or windows is None:
            inputs[name] = case.values[name]
            continue
        grid = case.grids[modality.grid]
        registered = modality.grid == next(iter(case.grids))  # another view has no voxels in common: its middle is taken
        first = start if registered else _centred(grid.shape, windows.window, problem.spatial_dims)
        voxels = torch.from_numpy(crop_pad(case.images[name], first, windows.window))
        inputs[name] = voxels[..., 0] if problem.spatial_dims == 2 else voxels
        affines[modality.grid] = np.array(grid.cropped(first, windows.window).affine)
    return Sample(id=case.case.id, group=case.case.group, inputs=inputs, affines=affines)


def _batches(problem: Problem, case: PreparedCase, subset: Subset, windows: _Windows | None, size: int) -> Iterator[Batch]:
    if windows is None:
        yield collate([_sample(problem, case, subset)], problem.modalities, patch=problem.patch)
        return
    for first in range(0, len(windows.starts), size):
        starts = windows.starts[first : first + size]
        yield collate(
            [_sample(problem, case, subset, windows, start) for start in starts], problem.modalities, patch=problem.patch
        )


@contextmanager
def _evaluating(method: Method) -> Iterator[None]:
    """Eval mode, and every part back in the mode in which it was: frozen parts of a training stay frozen."""
    modes = [(module, module.training) for module in method.modules()] if method.training else []
    method.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


class _Sums:
    """Weighted sums of one subset: maps for segmentation, plain means for classes."""

    def __init__(self, windows: _Windows | None, total: Tensor | None) -> None:
        self.windows, self.total, self.sums, self.rows = windows, total, dict[str, Tensor](), 0

    def add(self, targets: Sequence[Target], prediction: Prediction, first: int) -> None:
        """Adds the rows of a batch, whose first row is window number `first`."""
        rows = 0
        for target in targets:
            values = prediction.probabilities[target.name].float().cpu()
            rows = len(values)
            if self.windows is None or self.total is None or not target.is_segmentation:
                self.sums[target.name] = self.sums.get(target.name, 0) + values.sum(dim=0)
                continue
            if target.name not in self.sums:
                self.sums[target.name] = torch.zeros((values.shape[1], *self.windows.shape))
            for row, start in zip(values, self.windows.starts[first : first + rows], strict=True):
                volume, window = self.windows.inside(start)
                row = row.reshape(len(row), *self.windows.window)
                self.sums[target.name][(slice(None), *volume)] += (row * self.windows.weights)[(slice(None), *window)]
        self.rows += rows

    @torch.no_grad()
    def means(self, targets: Sequence[Target]) -> Probabilities:
        """The weighted means; the sums are used up."""
        out: Probabilities = {}
        for target in targets:
            sums = self.sums.pop(target.name)
            by = self.total if target.is_segmentation and self.total is not None else torch.tensor(float(self.rows))
            out[target.name] = sums.div_(by).numpy()
        return out


@torch.no_grad()  # not inference_mode: what a method keeps from a validation must still be usable in training
def _directly(method: Method, batches: Iterable[Batch], sums: _Sums, device: Device) -> Probabilities:
    """One subset by `predict`."""
    with _evaluating(method):
        for batch in batches:
            sums.add(method.problem.targets, method.predict(batch.to(device)), sums.rows)
    return sums.means(method.problem.targets)


@torch.no_grad()
def _decoded(method: Method, batches: Mapping[str, Iterator[Batch]], sums: Mapping[Subset, _Sums], device: Device) -> None:
    """Several subsets at once: each window is encoded once per modality and decoded once per subset."""
    names = method.problem.names
    with _evaluating(method):
        for row in zip(*batches.values(), strict=True):
            features: dict[str, Features] = {}
            for name, batch in zip(batches, row, strict=True):
                features[name] = method.encode(batch.to(device))[name]
            for subset, total in sums.items():
                present = torch.tensor([[name in subset for name in names]] * len(row[0]), device=device)
                prediction = method.decode({name: features[name] for name in subset}, present)
                total.add(method.problem.targets, prediction, total.rows)


def can_predict(method: Method, subset: Iterable[str]) -> bool:
    """Whether a method predicts from exactly these modalities: it supports them, and a segmentation has an image to lie on."""
    names = set(subset)
    if method.problem.task == "segmentation" and not any(
        m.kind == "image" for m in method.problem.modalities if m.name in names
    ):
        return False
    return method.supports(names)


def _checked(method: Method, case: PreparedCase, subsets: Iterable[Iterable[str]]) -> list[Subset]:
    """The subsets in canonical order of names, each once; refused where a name is unknown, missing or not enough."""
    out: dict[Subset, None] = {}
    for wanted in subsets:
        names = set(wanted)
        for name in sorted(names):
            if name not in method.problem.names:
                do = nearest(name, method.problem.names)
                raise ConfigError(message("subset", "name modalities of the method", repr(name), do=do))
            if name not in case.images and name not in case.values:
                text = message(
                    "subset",
                    "have modalities of the case",
                    "none",
                    subject=case.case.id,
                    modality=name,
                    do="Leave it out of the subset",
                )
                raise DataError(text)
        method.require_support(torch.tensor([[name in names for name in method.problem.names]]))
        if not can_predict(method, names):
            rule, got = "have an image, on whose voxels a segmentation lies", ", ".join(sorted(names))
            raise UnsupportedSubset(message("subset", rule, got, subject=case.case.id, do="Add an image modality"))
        out[tuple(name for name in method.problem.names if name in names)] = None
    return list(out)


def predict_case(
    method: Method,
    case: PreparedCase,
    *,
    subsets: Iterable[Iterable[str]],
    overlap: float = 0.5,
    batch_size: int | None = None,
    device: Device = "cpu",
) -> Iterator[tuple[Subset, Probabilities]]:
    """Predicts one case from each of several subsets of its modalities, one after the other.

    It is an iterator, so that what was predicted from one subset can be dropped before the next: 15 subsets of a BraTS case
    would fill 1.6 GB. `dict(predict_case(...))` keeps all.

    Args:
        method: On `device`; it is run in eval mode and left in the mode in which it was.
        case: Must hold the modalities of every subset.
        subsets: Each a non-empty set of names.
        overlap: Least overlap of neighbouring windows, in [0, 1).
        batch_size: Windows (3-D) or slices (2-D) at once; None: as many as have the voxels of one window of 64^3.
        device: Where the method is.

    Returns:
        Pairs (subset in canonical order, {target: probabilities float32}): (K, X, Y, Z) on `case.grid` for regions and
        labels, (K,) for classes. What a subset gets does not depend on the other subsets.

    Raises:
        ConfigError: An unknown modality or a bad overlap.
        DataError: The case lacks a modality of a subset.
        UnsupportedSubset: The method cannot predict from a subset, or a segmentation has no image.
    """
    wanted = _checked(method, case, subsets)
    windows = None if case.grid is None else _windows(method.problem, case.grid.shape, overlap)
    size = batch_size or max(1, BATCH_VOXELS // math.prod(method.problem.patch or (1,)))
    return _predictions(method, case, wanted, windows, batch_size=size, device=device)


def _predictions(
    method: Method, case: PreparedCase, subsets: list[Subset], windows: _Windows | None, *, batch_size: int, device: Device
) -> Iterator[tuple[Subset, Probabilities]]:
    problem = method.problem
    total = windows.total() if windows is not None and problem.task == "segmentation" else None

    def batches(subset: Subset) -> Iterator[Batch]:
        return _batches(problem, case, subset, windows, batch_size)

    if not method.encodes:
        for subset in subsets:
            yield subset, _directly(method, batches(subset), _Sums(windows, total), device)
        return
    classes = sum(len(t.classes) for t in problem.targets)
    at_once = max(1, ACCUMULATORS // (4 * classes * (total.numel() if total is not None else 1)))
    for first in range(0, len(subsets), at_once):
        sums = {subset: _Sums(windows, total) for subset in subsets[first : first + at_once]}
        used = [name for name in problem.names if any(name in subset for subset in sums)]
        _decoded(method, {name: batches((name,)) for name in used}, sums, device)
        for subset in list(sums):
            yield subset, sums.pop(subset).means(problem.targets)
