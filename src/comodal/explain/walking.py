"""The windows of a case, each with what the method says about complementary information there.

Axis letters: B windows, C channels, X Y Z voxels of the case; "coarse" are the voxels of a map of complementary information.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from comodal.data.preprocessing import PreparedCase
from comodal.errors import ConfigError, UnsupportedSubset, message
from comodal.explain.explanation import Map, Pair, is_there
from comodal.inference.predictor import Device, batch_size_of, batches_of, checked_subsets, windows_of
from comodal.method import Complements, Method


@dataclass(frozen=True, eq=False)
class Step:
    """Some windows.

    Attributes:
        first: Which window the first row is.
        found: What the method says; it has the graph where gradients are enabled.
        share: (B, *patch): what each voxel of a window counts. Over all windows a voxel of the case counts 1, and what lies
            outside the case 0.
    """

    first: int
    found: Complements
    share: Tensor


class Walk:
    """Goes over the windows of one case, as often as one wants.

    Args:
        method: On `device`, in eval mode.
        case: Must hold the modalities of `subset`.
        subset: What is seen of the case; nothing else is touched.
        overlap: Least overlap of neighbouring windows, in [0, 1).
        batch_size: Windows at once; None: as for predictions.
        device: Where the method is.

    Raises:
        ConfigError: The method does not explain, or predicts no segmentation.
        DataError: The case lacks a modality of the subset.
        UnsupportedSubset: The method cannot predict from the subset.
    """

    def __init__(
        self,
        method: Method,
        case: PreparedCase,
        *,
        subset: Iterable[str],
        overlap: float = 0.5,
        batch_size: int | None = None,
        device: Device = "cpu",
    ) -> None:
        require_explains(method)
        (self.subset,) = checked_subsets(method, case, [subset])
        self.method, self.case, self.device = method, case, device
        self.size = batch_size or batch_size_of(method.problem)
        windows = windows_of(method.problem, case, overlap)
        if windows is None:
            rule, got = "segment, so that there are voxels to explain", method.problem.task
            raise ConfigError(message("explain", rule, got, do="Explain a run of a segmentation"))
        self.windows = windows
        self.total = windows.total()

    def steps(self) -> Iterator[Step]:
        """The windows in their order; call it with gradients enabled where a graph is needed."""
        patch, first = self.method.problem.patch, 0
        for batch in batches_of(self.method.problem, self.case, self.subset, windows=self.windows, size=self.size):
            share = torch.stack([self._share_at(start) for start in self.windows.starts[first : first + len(batch)]])
            found = self.method.complements(batch.to(self.device))
            yield Step(first, found, share.reshape(-1, *patch).to(self.device))
            first += len(batch)

    def _share_at(self, start: tuple[int, int, int]) -> Tensor:
        volume, window = self.windows.inside(start)
        share = torch.zeros(self.windows.window)
        share[window] = self.windows.weights[window] / self.total[volume]
        return share

    def pairs(self, found: Complements) -> dict[Pair, tuple[str, ...]]:
        """{(primary, region): auxiliaries} of what takes part with these modalities.

        Raises:
            UnsupportedSubset: No segmentor has its primary and an auxiliary.
        """
        there = {(p, a) for p, a in found.maps if is_there(p, self.subset) and is_there(a, self.subset)}
        pairs = {
            (primary, region): tuple(a for p, a in found.maps if p == primary and (p, a) in there)
            for primary, region in found.logits
            if is_there(primary, self.subset)
        }
        pairs = {pair: auxiliaries for pair, auxiliaries in pairs.items() if auxiliaries}
        if not pairs:
            rule, got = "have the primary of a segmentor and another modality that tells it something", "+".join(self.subset)
            do = "Give two modalities or more, one of them the primary of a segmentor"
            raise UnsupportedSubset(message("explain", rule, got, subject=self.case.case.id, do=do))
        return pairs

    def blank(self) -> Tensor:
        """(X, Y, Z) zeros in float64, on the CPU, to add to."""
        return torch.zeros(self.windows.shape, dtype=torch.float64)

    def add(self, total: Tensor, rows: Tensor, first: int) -> None:
        """Adds windows to a map of the case, with their weights.

        Args:
            total: (X, Y, Z), of `blank`.
            rows: (B, *patch).
            first: Which window the first row is.
        """
        self.windows.add(total, rows.detach().cpu(), first)

    def mean(self, total: Tensor) -> Map:
        """(X, Y, Z) float32: what was added, divided by the sum of the weights."""
        return np.asarray((total / self.total).numpy(), dtype=np.float32)

    def coarse_voxels(self, coarse: Iterable[int]) -> float:
        """How many voxels of a coarse map the case has, each place counted once.

        Args:
            coarse: Shape of the map of one window.
        """
        return math.prod(self.windows.shape) * math.prod(coarse) / math.prod(self.method.problem.patch)


def upsampled(maps: Tensor, patch: tuple[int, ...]) -> Tensor:
    """Coarse maps on the voxels of the patch, linearly in every axis; the mean stays, also at the border.

    Args:
        maps: (B, *coarse).
        patch: Sizes.

    Returns:
        (B, *patch).
    """
    mode = {1: "linear", 2: "bilinear", 3: "trilinear"}[len(patch)]
    return functional.interpolate(maps[:, None], size=patch, mode=mode, align_corners=False)[:, 0]


def require_explains(method: Method) -> None:
    """Refuses a method that says nothing about complementary information, and names those that do.

    Raises:
        ConfigError: It does not explain.
    """
    if method.explains:
        return
    from comodal.methods import METHODS, load_method  # heavy, and only for this message

    can = [name for name in METHODS if load_method(name).complements is not Method.complements]
    rule = "be one that says what each modality adds to another"
    if method.matches:
        do = "For maps of where its sentences point, type comodal match RUN --out DIR, with --subject ID for a case"
        raise ConfigError(message("RUN's method", rule, type(method).__name__, do=do))
    do = f"Train one of these on several images, with messages: {', '.join(can)}" if can else "No method of this version does"
    raise ConfigError(message("RUN's method", rule, type(method).__name__, do=do))
