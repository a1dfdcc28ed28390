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

alpha is a mean of gradients, which may cancel: `agreement` says how much of them is left. Behind the messages of `ciml` stands
a normalisation; instance normalisation takes out whatever is constant over a picture, and with it all of alpha but what padding
leaves. Then `hirescam` is the better explainer.

Axis letters: B windows, C channels, X Y Z voxels of the case.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from comodal.data.preprocessing import PreparedCase
from comodal.explain.explanation import Explanation, Map, Pair, Voxels
from comodal.explain.nats import Information
from comodal.explain.summing import Asked, Summing, gradients, with_graph
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
    """What the first pass adds up, by (primary, region, auxiliary)."""

    walk: Walk
    sums: dict[tuple[str, str, str], Tensor] = field(default_factory=dict)  # (C,) float64: sum over n of dy / dA_cn
    sizes: dict[tuple[str, str, str], float] = field(default_factory=dict)  # sum over c and n of |dy / dA_cn|
    coarse: float = 1.0  # N

    def add(self, step: Step, asked: Asked) -> None:
        """Adds the gradients of a pair in some windows."""
        y = (asked.counted * asked.logit).sum()  # Equation (15)'s y^k; a voxel of the case counts once over all windows
        maps = [step.found.maps[asked.pair[0], name] for name in asked.auxiliaries]
        for name, some, gradient in zip(asked.auxiliaries, maps, gradients(y, maps), strict=True):
            self.coarse, key = self.walk.coarse_voxels(some.shape[2:]), (*asked.pair, name)
            if gradient is not None:
                spatial = [axis for axis in range(gradient.ndim) if axis != 1]
                self.sums[key] = gradient.double().sum(dim=spatial).cpu() + self.sums.get(key, 0)
                self.sizes[key] = float(gradient.double().abs().sum()) + self.sizes.get(key, 0.0)

    def alphas(self) -> dict[tuple[str, str, str], Tensor]:
        """Equation (15): {(primary, region, auxiliary): (C,) float64}."""
        return {key: total / self.coarse for key, total in self.sums.items()}

    def agreement(self) -> dict[tuple[str, str, str], float]:
        """How much of the gradients is left in their mean."""
        return {key: float(self.sums[key].abs().sum()) / size for key, size in self.sizes.items() if size > 0}


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
    summing, first, information = Summing(walk, voxels), _Gradients(walk), Information(walk)
    with evaluating(method):
        with with_graph(method):
            for step in walk.steps():
                for asked in summing.asked(step):
                    first.add(step, asked)
                information.add(step, summing.pairs)
        heat = _composed(walk, summing.pairs, first.alphas())
    return Explanation(
        explainer="grad-cam",
        voxels=voxels,
        used=walk.subset,
        heat=heat,
        sizes=summing.whole_sizes(),
        left_out=summing.left_out(),
        agreement=first.agreement(),
        **information.found(),
    )


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
