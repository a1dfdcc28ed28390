"""Grad-CAM of complementary information: Equations (14) and (15) of Shen et al. (2024), for a whole case.

For a pair (primary, region) and an auxiliary with the complementary information A (C channels, N voxels):
alpha_c = (1 / N) sum_n dy / dA_cn and zeta = ReLU(sum_c alpha_c A_c), where y is the region's logit summed over some voxels.

What the paper leaves open, and what is done here:

- *Which logit.* y is the sum over a set of voxels (as in Seg-Grad-CAM): those that the segmentor itself predicts, those of the
  truth, or all. "Predicted" is decided in each window, which knows only itself.
- *Which A.* The posterior mean of the finest gate. Its voxels are twice those of the image (Table 1 has no gate at full
  resolution, although the text says so); zeta is brought to the image linearly, after the ReLU.
- *Windows.* alpha is one number per channel and case, not per window: a window without tumour would else have an alpha of its
  own. A voxel that several windows see counts once in y (its parts add up to one), and N is the coarse voxels of the case, so
  that overlap changes neither. This takes two passes, since the maps of all windows (10 GB for a BraTS case) are not kept.
  Slices of a 2-D method are windows like others.
- *Amounts.* One case, one pair: y, N and the number of channels are common to its auxiliaries, so that their zeta can be
  compared with each other, and only with each other.

Axis letters: B windows, C channels, X Y Z voxels of the case.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from comodal.data.preprocessing import PreparedCase
from comodal.explain.explanation import VOXELS, Explanation, Map, Pair, Voxels, truth_of
from comodal.explain.nats import Information
from comodal.explain.walking import Step, Walk, upsampled
from comodal.inference.predictor import Device, evaluating
from comodal.method import Method


def heat_of(alpha: Tensor, maps: Tensor) -> Tensor:
    """Equation (14): ReLU(sum over channels of alpha_c A_c).

    Args:
        alpha: (C,).
        maps: (B, C, *coarse).

    Returns:
        (B, *coarse), at least 0.

    >>> heat_of(torch.tensor([2.0, -1.0]), torch.tensor([[[3.0, 0.0], [1.0, 1.0]]])).tolist()
    [[5.0, 0.0]]
    """
    return torch.relu(torch.einsum("c,bc...->b...", alpha, maps))


@dataclass
class _Gradients:
    """What the first pass adds up."""

    walk: Walk
    voxels: Voxels
    pairs: dict[Pair, tuple[str, ...]] = field(default_factory=dict)
    sums: dict[tuple[str, str, str], Tensor] = field(default_factory=dict)  # (C,) float64: sum over n of dy / dA_cn
    sizes: dict[Pair, float] = field(default_factory=dict)
    left_out: dict[Pair, str] = field(default_factory=dict)
    truths: dict[Pair, Tensor] = field(default_factory=dict)  # (X, Y, Z) bool, where the voxels are those of the truth
    coarse: float = 1.0  # N

    def add(self, step: Step) -> None:
        """Adds the gradients of some windows."""
        if not self.pairs:
            self._begin(step)
        for pair, auxiliaries in self.pairs.items():
            if pair in self.left_out:
                continue
            logit = step.found.logits[pair]
            chosen = self._chosen(step, pair, logit)
            counted = torch.where(chosen, step.share, step.share.new_zeros(()))
            size = float(counted.sum())
            self.sizes[pair] += size
            y = (counted * logit).sum()  # Equation (15)'s y^k; a voxel of the case counts once over all windows
            if size == 0 or not y.requires_grad:
                continue
            maps = [step.found.maps[pair[0], name] for name in auxiliaries]
            gradients = torch.autograd.grad(y, maps, retain_graph=True, allow_unused=True)
            for name, gradient in zip(auxiliaries, gradients, strict=True):
                if gradient is not None:
                    spatial = [axis for axis in range(gradient.ndim) if axis != 1]
                    self.sums[*pair, name] += gradient.double().sum(dim=spatial).cpu()

    def _begin(self, step: Step) -> None:
        self.pairs = self.walk.pairs(step.found)
        for pair, auxiliaries in self.pairs.items():
            self.sizes[pair] = 0.0
            for name in auxiliaries:
                some = step.found.maps[pair[0], name]
                self.sums[*pair, name] = torch.zeros(some.shape[1], dtype=torch.float64)
                self.coarse = self.walk.coarse_voxels(some.shape[2:])
            if self.voxels == "labelled":
                truth = truth_of(self.walk.method.problem, self.walk.case, pair[1])
                if truth is None:
                    self.left_out[pair] = f"since the case has no truth of {pair[1]}"
                else:
                    self.truths[pair] = torch.from_numpy(np.ascontiguousarray(truth))

    def _chosen(self, step: Step, pair: Pair, logit: Tensor) -> Tensor:
        """(B, *patch) bool: the voxels that y sums over."""
        if self.voxels == "all":
            return torch.ones_like(logit, dtype=torch.bool)
        if self.voxels == "predicted":
            return logit.detach() > 0
        windows, rows = self.walk.windows, []
        for start in windows.starts[step.first : step.first + len(logit)]:
            volume, window = windows.inside(start)
            row = torch.zeros(windows.window, dtype=torch.bool)
            row[window] = self.truths[pair][volume]
            rows.append(row)
        return torch.stack(rows).reshape(logit.shape).to(logit.device)

    def alphas(self) -> dict[tuple[str, str, str], Tensor]:
        """Equation (15): {(primary, region, auxiliary): (C,) float64}; says of pairs without voxels why they have none."""
        for pair, size in self.sizes.items():
            if size == 0 and pair not in self.left_out:
                self.left_out[pair] = f"since there are no {VOXELS[self.voxels]}"
        return {key: total / self.coarse for key, total in self.sums.items()}


def grad_cam(
    method: Method,
    case: PreparedCase,
    *,
    subset: Iterable[str],
    voxels: Voxels = "predicted",
    overlap: float = 0.5,
    batch_size: int | None = None,
    device: Device = "cpu",
) -> Explanation:
    """Equations (14) and (15) for each (primary, region) pair and each auxiliary of a case.

    Args:
        method: On `device`; it is run in eval mode and left in the mode in which it was.
        case: Must hold the modalities of `subset`; its targets too, where `voxels` is "labelled".
        subset: What is seen of the case; nothing else is touched.
        voxels: Over which voxels the logits are summed. Where there are none the heat is zero, and `left_out` says so.
        overlap: Least overlap of neighbouring windows, in [0, 1).
        batch_size: Windows at once; None: as for predictions.
        device: Where the method is.

    Returns:
        Heat on the case's grid, not normalised.

    Raises:
        ConfigError: The method does not explain, or predicts no segmentation.
        DataError: The case lacks a modality of the subset.
        UnsupportedSubset: No segmentor has its primary and another modality.
    """
    walk = Walk(method, case, subset=subset, overlap=overlap, batch_size=batch_size, device=device)
    first, information = _Gradients(walk, voxels), Information(walk)
    with evaluating(method):
        with torch.enable_grad(), _with_graph(method):
            for step in walk.steps():
                first.add(step)
                information.add(step, first.pairs)
        heat = _composed(walk, first.pairs, first.alphas())
    return Explanation(
        explainer="grad-cam",
        voxels=voxels,
        used=walk.subset,
        heat=heat,
        sizes={pair: math.ceil(size - 1e-3) for pair, size in first.sizes.items()},
        left_out=first.left_out,
        **information.found(),
    )


@contextmanager
def _with_graph(method: Method) -> Iterator[None]:
    """Lets every weight take part in the graph, so that one starts even in a method that is frozen; each back as it was."""
    frozen = [parameter for parameter in method.parameters() if not parameter.requires_grad]
    for parameter in frozen:
        parameter.requires_grad_(True)
    try:
        yield
    finally:
        for parameter in frozen:
            parameter.requires_grad_(False)


@torch.no_grad()
def _composed(
    walk: Walk, pairs: dict[Pair, tuple[str, ...]], alphas: dict[tuple[str, str, str], Tensor]
) -> dict[Pair, dict[str, Map]]:
    """The second pass: Equation (14) in each window, put together as probabilities are."""
    patch = walk.method.problem.patch
    totals = {key: walk.blank() for key, alpha in alphas.items() if bool((alpha != 0).any())}
    for step in walk.steps() if totals else ():
        for (primary, region, name), total in totals.items():
            maps = step.found.maps[primary, name]
            alpha = alphas[primary, region, name].to(maps)
            walk.add(total, upsampled(heat_of(alpha, maps), patch), step.first)
    zero = np.zeros(walk.windows.shape, dtype=np.float32)
    return {
        pair: {a: walk.mean(totals[*pair, a]) if (*pair, a) in totals else zero for a in auxiliaries}
        for pair, auxiliaries in pairs.items()
    }
