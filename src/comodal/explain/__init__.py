"""EXPLAINERS: every way to show what a modality adds to another, by its name. The table is literal and imports nothing heavy.

An explainer works on what `Method.complements` hands out and knows no method by name.
"""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from comodal.errors import ConfigError, message, nearest

if TYPE_CHECKING:
    from collections.abc import Iterable

    from comodal.data.preprocessing import PreparedCase
    from comodal.explain.explanation import Explanation, Voxels
    from comodal.inference.predictor import Device
    from comodal.method import Method


@dataclass(frozen=True)
class Entry:
    """One line of the table: where the function is ("module:function"), what it shows, and where it comes from."""

    path: str
    summary: str
    citation: str


EXPLAINERS: dict[str, Entry] = {
    "grad-cam": Entry(
        path="comodal.explain.gradcam:grad_cam",
        summary="Where the complementary information of an auxiliary raises the logit of a region (Grad-CAM).",
        citation="Shen et al. (2024). Complementary Information Mutual Learning for Multimodality Medical Image Segmentation. "
        "arXiv:2401.02717, Equations (14) and (15).",
    ),
    "hires-cam": Entry(
        path="comodal.explain.hirescam:hires_cam",
        summary="As grad-cam, each place with its own gradient; for networks with instance normalisation, where means cancel.",
        citation="Draelos, Carin (2020). Use HiResCAM instead of Grad-CAM for faithful explanations of convolutional neural "
        "networks. arXiv:2011.08891.",
    ),
    "nats": Entry(
        path="comodal.explain.nats:nats",
        summary="How much information a segmentor takes from an auxiliary at each place, in nats; regions share it.",
        citation="The divergence that Equation (8) of the same work minimises, voxel by voxel.",
    ),
}


class Explainer(Protocol):
    """What `load_explainer` returns."""

    def __call__(
        self,
        method: Method,
        case: PreparedCase,
        *,
        subset: Iterable[str],
        voxels: Voxels = "predicted",
        overlap: float = 0.5,
        batch_size: int | None = None,
        device: Device = "cpu",
    ) -> Explanation:
        """Explains one case as seen through a subset of its modalities."""
        ...


def load_explainer(name: str) -> Explainer:
    """The function of an explainer of EXPLAINERS.

    Raises:
        ConfigError: The name is unknown; the message lists the nearest known ones.
    """
    if name not in EXPLAINERS:
        raise ConfigError(message("--explainer", "be a known explainer", repr(name), do=nearest(name, EXPLAINERS)))
    module, function = EXPLAINERS[name].path.split(":")
    found: Explainer = getattr(importlib.import_module(module), function)
    return found
