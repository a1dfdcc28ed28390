"""How much each auxiliary tells each segmentor, in nats: the divergence of its messages from the prior, place by place.

On average it is an upper bound on the information that the message holds about the images, since the prior stands for the
marginal. It knows no regions: all regions of a segmentor share it, whereas Grad-CAM asks what a message does to one region.

Axis letters: B windows, X Y Z voxels of the case.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

from comodal.data.preprocessing import PreparedCase
from comodal.explain.explanation import Explanation, Pair, Voxels
from comodal.explain.walking import Step, Walk, upsampled
from comodal.inference.predictor import Device, evaluating
from comodal.method import Method


class Information:
    """Adds up, over windows, nats per (primary, auxiliary) and what each segmentor alone says.

    Args:
        walk: Whose steps are added.
    """

    def __init__(self, walk: Walk) -> None:
        self.walk = walk
        self.nats: dict[Pair, Tensor] = {}  # (primary, auxiliary)
        self.probabilities: dict[Pair, Tensor] = {}
        self.per_coarse = 1.0  # voxels of the image in one of the coarse map

    @torch.no_grad()
    def add(self, step: Step, pairs: Mapping[Pair, tuple[str, ...]]) -> None:
        """Adds some windows.

        Args:
            step: The windows.
            pairs: {(primary, region): auxiliaries} of what takes part.
        """
        patch = self.walk.method.problem.patch
        for pair in pairs:
            total = self.probabilities.setdefault(pair, self.walk.blank())
            self.walk.add(total, torch.sigmoid(step.found.logits[pair]), step.first)
        for key in dict.fromkeys((primary, a) for (primary, _), auxiliaries in pairs.items() for a in auxiliaries):
            nats = step.found.nats[key]
            self.per_coarse = step.share[0].numel() / nats[0].numel()
            self.walk.add(self.nats.setdefault(key, self.walk.blank()), upsampled(nats, patch), step.first)

    def found(self) -> dict[str, Any]:
        """The fields `probabilities`, `nats` and `nats_maps` of an `Explanation`."""
        maps = {key: self.walk.mean(total) for key, total in self.nats.items()}
        return {
            "probabilities": {pair: self.walk.mean(total) for pair, total in self.probabilities.items()},
            "nats": {key: float(found.sum(dtype="float64")) / self.per_coarse for key, found in maps.items()},
            "nats_maps": maps,
        }


def nats(
    method: Method,
    case: PreparedCase,
    *,
    subset: Iterable[str],
    voxels: Voxels = "predicted",  # noqa: ARG001 - see Explainer
    overlap: float = 0.5,
    batch_size: int | None = None,
    device: Device = "cpu",
) -> Explanation:
    """Nats per place as heat: for each (primary, region) pair the same, since messages do not know regions.

    Args:
        method: On `device`; it is run in eval mode and left in the mode in which it was.
        case: Must hold the modalities of `subset`.
        subset: What is seen of the case; nothing else is touched.
        voxels: Has no meaning here; explainers share their arguments.
        overlap: Least overlap of neighbouring windows, in [0, 1).
        batch_size: Windows at once; None: as for predictions.
        device: Where the method is.

    Returns:
        Heat in nats per voxel of the coarse map.

    Raises:
        ConfigError: The method does not explain, or predicts no segmentation.
        DataError: The case lacks a modality of the subset.
        UnsupportedSubset: No segmentor has its primary and another modality.
    """
    walk = Walk(method, case, subset=subset, overlap=overlap, batch_size=batch_size, device=device)
    information, pairs = Information(walk), dict[Pair, tuple[str, ...]]()
    with evaluating(method), torch.no_grad():
        for step in walk.steps():
            pairs = pairs or walk.pairs(step.found)
            information.add(step, pairs)
    found = information.found()
    heat = {pair: {a: found["nats_maps"][pair[0], a] for a in auxiliaries} for pair, auxiliaries in pairs.items()}
    return Explanation(explainer="nats", voxels=None, used=walk.subset, heat=heat, **found)
