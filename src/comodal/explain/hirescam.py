"""HiResCAM of complementary information: as Grad-CAM, but each voxel with the gradient of its own.

Grad-CAM multiplies A_cn by alpha_c, the mean of dy / dA_cn over voxels: what y would gain if a constant were added to channel c
everywhere. A normalisation over the voxels of a picture (instance normalisation) takes such a constant out again, so that in a
network with one behind the messages the gradients cancel: alpha is what the padding of the borders leaves, and its sign is
chance. Here nothing is averaged: zeta_n = ReLU(sum_c dy / dA_cn A_cn) (Draelos and Carin 2020, which also shows that Grad-CAM's
averaging can mark places that the network does not use). y is the same as in `gradcam`, but in each window by itself, and where
windows overlap the mean is taken.

Axis letters: B windows, C channels, X Y Z voxels of the case.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from comodal.data.preprocessing import PreparedCase
from comodal.explain.explanation import Explanation, Pair, Voxels
from comodal.explain.nats import Information
from comodal.explain.summing import Summing, gradients, with_graph
from comodal.explain.walking import Walk, upsampled
from comodal.inference.predictor import Device, evaluating
from comodal.method import Method


def local_heat(gradient: Tensor, maps: Tensor) -> Tensor:
    """ReLU(sum over channels of the gradient at a voxel times the map there).

    Args:
        gradient: (B, C, *coarse).
        maps: (B, C, *coarse).

    Returns:
        (B, *coarse), at least 0.

    >>> local_heat(torch.tensor([[[2.0, -1.0]]]), torch.tensor([[[3.0, 5.0]]])).tolist()
    [[6.0, 0.0]]
    """
    return torch.relu((gradient * maps).sum(dim=1))


def hires_cam(
    method: Method,
    case: PreparedCase,
    *,
    subset: Iterable[str],
    voxels: Voxels = "predicted",
    overlap: float = 0.5,
    batch_size: int | None = None,
    device: Device = "cpu",
) -> Explanation:
    """HiResCAM for each (primary, region) pair and each auxiliary of a case.

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
    summing, information = Summing(walk, voxels), Information(walk)
    patch, totals = method.problem.patch, dict[tuple[Pair, str], Tensor]()
    with evaluating(method), with_graph(method):
        for step in walk.steps():
            for asked in summing.asked(step):
                maps = [step.found.maps[asked.pair[0], name] for name in asked.auxiliaries]
                y = torch.where(asked.counted > 0, asked.logit, asked.logit.new_zeros(())).sum()
                for name, own, gradient in zip(asked.auxiliaries, maps, gradients(y, maps), strict=True):
                    if gradient is not None:
                        total = totals.setdefault((asked.pair, name), walk.blank())
                        walk.add(total, upsampled(local_heat(gradient, own.detach()), patch), step.first)
            information.add(step, summing.pairs)
    heat = {
        pair: {name: walk.mean(totals.get((pair, name), walk.blank())) for name in auxiliaries}
        for pair, auxiliaries in summing.pairs.items()
    }
    return Explanation(
        explainer="hires-cam",
        voxels=voxels,
        used=walk.subset,
        heat=heat,
        sizes=summing.whole_sizes(),
        left_out=summing.left_out(),
        **information.found(),
    )
