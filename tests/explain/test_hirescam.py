"""HiResCAM against a slow loop, and why it is there: gradients that cancel behind an instance normalisation."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from tests.explain.fakes import ALPHA, NAMES, SEG, Linear, case, noise, problem
from tests.explain.test_gradcam import PAIRS, SHAPE, doubled, logit, truth
from torch.nn import functional

from comodal.batch import Batch
from comodal.errors import UnsupportedSubset
from comodal.explain.explanation import Voxels
from comodal.explain.gradcam import grad_cam
from comodal.explain.hirescam import hires_cam
from comodal.method import Complements


class Normalised(Linear):
    """As `Linear`, but a logit is 0 on average over the picture and has one size: an instance normalisation."""

    def complements(self, batch: Batch) -> Complements:
        found = super().complements(batch)
        return Complements(
            {k: functional.instance_norm(v[:, None])[:, 0] for k, v in found.logits.items()}, found.maps, found.nats
        )


@pytest.mark.parametrize("voxels", ["predicted", "labelled", "all"])
def test_each_voxel_has_its_own_gradient(voxels: Voxels) -> None:
    images = noise(SHAPE)
    found = hires_cam(Linear(problem(SHAPE)), case(images, truth()), subset=NAMES, voxels=voxels)
    assert found.explainer == "hires-cam" and found.voxels == voxels and list(found.heat) == PAIRS
    for pair, row in found.heat.items():
        chosen = np.ones(SHAPE, dtype=bool)
        if voxels == "predicted":
            chosen = logit(images, pair) > 0
        elif voxels == "labelled":
            chosen = truth()[SEG.classes.index(pair[1])]
        assert found.sizes[pair] == chosen.sum()
        for name, heat in row.items():
            slow = np.zeros(tuple(n // 2 for n in SHAPE))
            for n in np.ndindex(slow.shape):
                block = tuple(slice(2 * i, 2 * i + 2) for i in n)
                mean, count = float(images[name][block].astype(np.float64).mean()), int(chosen[block].sum())
                slow[n] = max(0.0, count * (ALPHA[pair[1], name][0] * mean + ALPHA[pair[1], name][1] * mean**2))
            np.testing.assert_allclose(heat, doubled(slow), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("overlap", [0.0, 0.5])
@pytest.mark.parametrize("patch", [(4, 4, 4), (4, 4)])
def test_windows_do_not_change_a_constant(patch: tuple[int, ...], overlap: float) -> None:
    images = {"a": np.full((6, 8, 5), 0.3), "b": np.full((6, 8, 5), 0.5), "c": np.full((6, 8, 5), 0.25)}
    inside = (slice(1, 3), slice(1, 3), slice(1, 3))  # what a window sees outside of the case is 0
    found = hires_cam(Linear(problem(patch)), case(images), subset=NAMES, voxels="all", overlap=overlap, batch_size=2)
    expected = 2 ** len(patch) * (2.0 * 0.5 - 0.5**2)
    np.testing.assert_allclose(found.heat["a", "WT"]["b"][inside], expected, rtol=1e-5)
    assert set(found.sizes.values()) == {6 * 8 * 5}


def test_gradients_cancel_behind_a_normalisation_over_the_picture() -> None:
    """A constant added to kappa changes no logit, so that alpha is 0 and Grad-CAM's heat is rounding; each voxel's is not."""
    there = case(noise(SHAPE), truth())
    plain = grad_cam(Linear(problem(SHAPE)), there, subset=NAMES)
    assert set(plain.agreement) == {(*pair, name) for pair in PAIRS for name in NAMES if name != pair[0]} - {("a", "ET", "c")}
    assert all(left == pytest.approx(1) for left in plain.agreement.values())  # each channel's gradients have one sign
    found = grad_cam(Normalised(problem(SHAPE)), there, subset=NAMES)
    assert max(found.agreement.values()) < 1e-5
    assert not hires_cam(Linear(problem(SHAPE)), there, subset=NAMES).agreement
    heat = hires_cam(Normalised(problem(SHAPE)), there, subset=NAMES).heat["a", "WT"]["b"]
    assert heat.max() > 1e4 * found.heat["a", "WT"]["b"].max()


def test_nothing_chosen_no_heat_and_modes_are_left() -> None:
    method = Linear(problem(SHAPE), bias=-99.0).train().requires_grad_(False)
    found = hires_cam(method, case(noise(SHAPE)), subset=NAMES)
    assert method.training and not method.bias.requires_grad
    assert all(not heat.any() for row in found.heat.values() for heat in row.values())
    assert set(found.left_out) == set(PAIRS) and "probability is above 0.5" in found.left_out["a", "WT"]
    untold = hires_cam(method, case(noise(SHAPE)), subset=NAMES, voxels="labelled")
    assert untold.left_out["a", "WT"] == "since the case has no truth of WT"
    with torch.no_grad(), pytest.raises(UnsupportedSubset):
        hires_cam(method, case(noise(SHAPE)), subset=["a"])
