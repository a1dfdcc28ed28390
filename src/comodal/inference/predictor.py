"""Probabilities of one case from any of its subsets of modalities: windows of volumes, slices, or the case as a whole.

What a subset gets depends on that subset alone, to the last byte: its windows are built from its own modalities, nothing of
an absent one is read, and where a method encodes, each modality is encoded by itself, so that its features cannot depend on
which other modalities were asked for in the same call.

Windows are spaced evenly so that the last one is flush with the edge (110 voxels, windows of 64: starts 0, 23, 46) and
weighted by a Gaussian of sigma window / 8, as in nnU-Net. Probabilities are averaged, not logits. Images of other grids than
that of the segmentation have no voxels in common with it; each window sees the middle of them.

Axis letters: see `comodal.batch`.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from comodal.batch import Batch, Features, Sample, Value, collate
from comodal.data.grid import centred_start, crop_pad
from comodal.data.preprocessing import PreparedCase
from comodal.errors import ConfigError, DataError, UnsupportedSubset, message, nearest
from comodal.method import Method, Prediction, Problem

Subset: TypeAlias = tuple[str, ...]
Place: TypeAlias = tuple[int, int, int]
Device: TypeAlias = str | torch.device
Probabilities: TypeAlias = dict[str, NDArray[np.float32]]

MIN_WEIGHT = 1e-3  # as MONAI: the corner of a Gaussian window is 4e-11, too little to be divided by
BATCH_VOXELS = 2 * 64**3  # two windows: torch keeps small convolutions of a single one from its fast library on a CPU
ACCUMULATORS = 1536 * 2**20  # bytes for probabilities of subsets decoded from one encoding: all 15 of BraTS, three regions each


@dataclass(frozen=True, eq=False)
class CasePrediction:
    """What a method says about one case from one subset of its modalities.

    Attributes:
        probabilities: {target: float32}: (K, X, Y, Z) on the case's grid for regions and labels, (K,) for classes.
        used: The modalities on which some of it rests, in canonical order: of those given, the ones that the method used.
        extras: {name: float32} of `Prediction.extras`, without the batch axis, where they were asked for. Of a segmentation,
            maps (..., X, Y, Z) on the case's grid, put together like the probabilities; others are means over windows.
    """

    probabilities: Probabilities
    used: tuple[str, ...]
    extras: Mapping[str, NDArray[np.float32]] = field(default_factory=dict)


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
class Windows:
    """Where the windows of one case lie. Shapes have three axes; a window of a 2-D method has Z = 1.

    Attributes:
        shape: Voxels of the case.
        window: Voxels of a window.
        starts: First voxel of each window; negative where a window is larger than the case.
        weights: (*window): what a window counts at each of its voxels.
    """

    shape: Place
    window: Place
    starts: tuple[Place, ...]
    weights: Tensor

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

    def add(self, total: Tensor, rows: Tensor, first: int) -> None:
        """Adds what was found in some windows, times their weights, to maps of the case; divide by `total()` at the end.

        Args:
            total: (..., X, Y, Z), changed in place.
            rows: (B, ..., *patch), the windows from number `first` on.
            first: Which window the first row is.
        """
        every = (slice(None),) * (total.ndim - 3)
        for row, start in zip(rows, self.starts[first : first + len(rows)], strict=True):
            volume, window = self.inside(start)
            row = row.reshape(*total.shape[:-3], *self.window)
            total[every + volume] += (row * self.weights)[every + window]


def _window(problem: Problem, modality: str) -> Place:
    """The patch of an image with three axes; Z = 1 where it is seen in 2-D."""
    patch = problem.patch_of(modality)
    return patch[0], patch[1], patch[2] if len(patch) == 3 else 1


def windows_of(problem: Problem, case: PreparedCase, overlap: float) -> Windows | None:
    """Where a segmentation lies: patches in 3-D, slices (or patches of slices) in 2-D. None for a classification.

    Raises:
        ConfigError: The overlap is not in [0, 1).
    """
    if not 0 <= overlap < 1:
        raise ConfigError(message("overlap", "be at least 0 and less than 1", overlap, do="0.5 is usual"))
    if problem.task == "classification":
        return None
    shape = case.grids[problem.grid].shape
    window = _window(problem, next(m.name for m in problem.modalities if m.kind == "image"))
    axes = [window_starts(n, w, overlap) for n, w in zip(shape, window, strict=True)]
    overlapping = [any(b - a < w for a, b in itertools.pairwise(starts)) for starts, w in zip(axes, window, strict=True)]
    starts = tuple((x, y, z) for z in axes[2] for x in axes[0] for y in axes[1])  # Z last: patches of a slice lie together
    return Windows(shape, window, starts, torch.from_numpy(gaussian_weights(window, overlapping)))


def sample_of(problem: Problem, case: PreparedCase, subset: Subset, *, start: Place | None = None) -> Sample:
    """A case with exactly the modalities of `subset`; nothing of another modality is touched.

    With `start`, images of the segmentation's grid are seen through that window; all others in the middle.
    """
    inputs: dict[str, Value] = {}
    affines: dict[str, NDArray[np.float64]] = {}
    for name in subset:
        modality = problem.modality(name)
        if modality.kind != "image":
            inputs[name] = case.values[name]
            continue
        grid, window, flat = case.grids[modality.grid], _window(problem, name), problem.dims_of(name) == 2
        through = start is not None and modality.grid == problem.grid
        first = start if start is not None and through else centred_start(grid.shape, window, flat=flat)
        voxels = torch.from_numpy(crop_pad(case.images[name], first, window))
        inputs[name] = voxels[..., 0] if flat else voxels
        affines[modality.grid] = np.array(grid.cropped(first, window).affine)
    return Sample(id=case.case.id, group=case.case.group, inputs=inputs, affines=affines)


def batches_of(problem: Problem, case: PreparedCase, subset: Subset, *, windows: Windows | None, size: int) -> Iterator[Batch]:
    """The windows of a case in their order, `size` at a time, with exactly the modalities of `subset`; all on the CPU."""
    starts: Sequence[Place | None] = [None] if windows is None else windows.starts
    for first in range(0, len(starts), size):
        samples = [sample_of(problem, case, subset, start=start) for start in starts[first : first + size]]
        yield collate(samples, problem.modalities, patch=problem.patches)


def batch_size_of(problem: Problem) -> int:
    """Windows or slices at once where nobody says how many: as many as have the voxels of two windows of 64^3."""
    return max(1, BATCH_VOXELS // math.prod(problem.patch or (1,)))


@contextmanager
def evaluating(method: Method) -> Iterator[None]:
    """Eval mode, and every part back in the mode in which it was: frozen parts of a training stay frozen."""
    modes = [(module, module.training) for module in method.modules()] if method.training else []
    method.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


class _Sums:
    """What the windows of one subset add up to: weighted maps of a segmentation, plain sums of everything else."""

    def __init__(self, problem: Problem, windows: Windows | None, total: Tensor | None, *, extras: bool) -> None:
        self.problem, self.windows, self.total, self.extras = problem, windows, total, extras
        self.sums: dict[tuple[str, str], Tensor] = {}  # {("probabilities" or "extras", name): sum}
        self.maps: set[tuple[str, str]] = set()
        self.used = torch.zeros(len(problem.names), dtype=torch.bool)
        self.rows = 0

    def add(self, prediction: Prediction) -> None:
        """Adds the rows of the next batch."""
        for target in self.problem.targets:
            values = prediction.probabilities[target.name]
            self._add(("probabilities", target.name), values, is_map=target.is_segmentation)
        patch = self.problem.patch
        for name, values in prediction.extras.items() if self.extras else ():
            is_map = values.ndim > len(patch) and tuple(values.shape[values.ndim - len(patch) :]) == patch
            self._add(("extras", name), values, is_map=is_map)
        self.used |= prediction.used.any(dim=0).cpu()
        self.rows += len(prediction.used)

    def _add(self, key: tuple[str, str], values: Tensor, *, is_map: bool) -> None:
        values, windows = values.float().cpu(), self.windows
        if windows is None or not is_map:
            self.sums[key] = self.sums.get(key, 0) + values.sum(dim=0)
            return
        lead = values.shape[1 : values.ndim - len(self.problem.patch)]
        if key not in self.sums:
            self.sums[key] = torch.zeros((*lead, *windows.shape))
            self.maps.add(key)
        windows.add(self.sums[key], values, self.rows)

    @torch.no_grad()
    def means(self) -> CasePrediction:
        """The weighted means; the sums are used up."""
        found: dict[str, Probabilities] = {"probabilities": {}, "extras": {}}
        for what, name in list(self.sums):
            by = self.total if (what, name) in self.maps and self.total is not None else torch.tensor(float(self.rows))
            found[what][name] = self.sums.pop((what, name)).div_(by).numpy()
        used = tuple(name for name, yes in zip(self.problem.names, self.used.tolist(), strict=True) if yes)
        return CasePrediction(found["probabilities"], used, found["extras"])


@torch.no_grad()  # not inference_mode: what a method keeps from a validation must still be usable in training
def _directly(method: Method, batches: Iterable[Batch], sums: _Sums, device: Device) -> CasePrediction:
    """One subset by `predict`."""
    with evaluating(method):
        for batch in batches:
            sums.add(method.predict(batch.to(device)))
    return sums.means()


@torch.no_grad()
def _decoded(method: Method, batches: Mapping[Subset, Iterator[Batch]], sums: Mapping[Subset, _Sums], device: Device) -> None:
    """Several subsets at once: each window is encoded once per modality (or group) and decoded once per subset."""
    names = method.problem.names
    with evaluating(method):
        for row in zip(*batches.values(), strict=True):
            features: dict[str, Features] = {}
            for part, batch in zip(batches, row, strict=True):
                found = method.encode(batch.to(device))
                features |= {name: found[name] for name in part}
            for subset, total in sums.items():
                present = torch.tensor([[name in subset for name in names]] * len(row[0]), device=device)
                total.add(method.decode({name: features[name] for name in subset if name in features}, present))


def can_predict(method: Method, subset: Iterable[str]) -> bool:
    """Whether a method predicts from exactly these modalities: it supports them, and a segmentation has an image to lie on.

    That image must be of the segmentation's grid: an image of another one has no voxels in common with it.
    """
    names, problem = set(subset), method.problem
    registered = {m.name for m in problem.modalities if m.kind == "image" and m.grid == problem.grid}
    if problem.task == "segmentation" and not names & registered:
        return False
    return method.supports(names)


def checked_subsets(method: Method, case: PreparedCase, subsets: Iterable[Iterable[str]]) -> list[Subset]:
    """The subsets in canonical order of names, each once; refused where a name is unknown, missing or not enough."""
    out: dict[Subset, None] = {}
    for wanted in subsets:
        names = set(wanted)
        for name in sorted(names):
            if name not in method.problem.names:
                do = nearest(name, method.problem.names)
                raise ConfigError(message("subset", "name modalities of the method", repr(name), do=do))
            if name in method.reads(names) and name not in case.images and name not in case.values:
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
    extras: bool = False,
    device: Device = "cpu",
) -> Iterator[tuple[Subset, CasePrediction]]:
    """Predicts one case from each of several subsets of its modalities, one after the other.

    It is an iterator, so that what was predicted from one subset can be dropped before the next: 15 subsets of a BraTS case
    would fill 1.6 GB. `dict(predict_case(...))` keeps all.

    Args:
        method: On `device`; it is run in eval mode and left in the mode in which it was.
        case: Must hold the modalities of every subset, but for those at which the method does not look (`Method.reads`).
        subsets: Each a non-empty set of names.
        overlap: Least overlap of neighbouring windows, in [0, 1).
        batch_size: Windows (3-D) or slices (2-D) at once; None: as many as have the voxels of two windows of 64^3.
        extras: Whether to keep the method's extras, which may be larger than the probabilities.
        device: Where the method is.

    Returns:
        Pairs (subset in canonical order, what the method says). What a subset gets does not depend on the other subsets.

    Raises:
        ConfigError: An unknown modality, a bad overlap, or a grid of images without a patch.
        DataError: The case lacks a modality of a subset.
        UnsupportedSubset: The method cannot predict from a subset, or a segmentation has no image.
    """
    wanted = checked_subsets(method, case, subsets)
    windows = windows_of(method.problem, case, overlap)
    size = batch_size or batch_size_of(method.problem)
    return _predictions(method, case, wanted, windows, batch_size=size, extras=extras, device=device)


def _predictions(
    method: Method,
    case: PreparedCase,
    subsets: list[Subset],
    windows: Windows | None,
    *,
    batch_size: int,
    extras: bool,
    device: Device,
) -> Iterator[tuple[Subset, CasePrediction]]:
    problem = method.problem
    total = windows.total() if windows is not None else None

    def batches(subset: Subset) -> Iterator[Batch]:
        return batches_of(problem, case, method.reads(subset), windows=windows, size=batch_size)

    if not method.encodes:
        for subset in subsets:
            yield subset, _directly(method, batches(subset), _Sums(problem, windows, total, extras=extras), device)
        return
    classes = sum(len(t.classes) for t in problem.targets)
    at_once = max(1, ACCUMULATORS // (4 * classes * (total.numel() if total is not None else 1)))
    if extras:  # nobody knows how large they are
        at_once = 1
    for first in range(0, len(subsets), at_once):
        sums = {subset: _Sums(problem, windows, total, extras=extras) for subset in subsets[first : first + at_once]}
        used = [name for name in problem.names if any(name in method.reads(subset) for subset in sums)]
        _decoded(method, {part: batches(part) for part in method.encoded_parts(used)}, sums, device)
        for subset in list(sums):
            yield subset, sums.pop(subset).means()
