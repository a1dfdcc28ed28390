"""Blanking what a map marks, against as much elsewhere, on a region that shows in one auxiliary alone."""

from __future__ import annotations

import math

import numpy as np
import pytest
from tests.explain.fakes import NAMES, Linear, case, problem

from comodal.data.preprocessing import PreparedCase
from comodal.errors import ConfigError, DataError
from comodal.explain.faithfulness import Blanking, blank_test, faithfulness, marked, moved, segmentor_map
from comodal.explain.gradcam import grad_cam

SHAPE = (16, 16, 16)
PAIR = ("a", "WT")


def seen_in_b(seed: int) -> PreparedCase:
    """WT is 4 x 4 x 4 voxels that are bright in `b`; everything else is a little noise. The outermost layer is background."""
    rng = np.random.default_rng(seed)
    images = {name: rng.normal(0, 0.1, SHAPE).astype(np.float32) for name in NAMES}
    images["a"] -= 0.4
    truth = np.zeros((2, *SHAPE), dtype=bool)
    x, y, z = (int(n) for n in rng.integers(1, 6, 3) * 2)
    truth[0, x : x + 4, y : y + 4, z : z + 4] = True
    images["b"][truth[0]] += 0.9
    for image in images.values():
        for axis in range(3):
            image[tuple(slice(None) if a != axis else [0, -1] for a in range(3))] = 0
    return case(images, truth, identifier=f"p{seed}")


def test_the_hottest_voxels_of_the_foreground_are_marked() -> None:
    heat = np.array([[[5, 1, 4, 0, 4, 9]]], dtype=np.float32)
    foreground = np.array([[[1, 1, 1, 1, 1, 0]]], dtype=bool)
    assert marked(heat, foreground, 2)[0, 0].tolist() == [True, False, True, False, False, False]
    assert marked(heat, foreground, 6).sum() == 4  # nothing is marked where there is no heat


def test_a_moved_shape_keeps_form_and_size_and_stays_in_the_foreground() -> None:
    foreground = np.zeros((12, 12, 12), dtype=bool)
    foreground[1:11, 1:11, 1:11] = True
    shape = np.zeros_like(foreground)
    shape[1:4, 1:3, 1:2] = True
    for seed in range(20):
        there = moved(shape, foreground, np.random.default_rng(seed))
        points = np.argwhere(there)
        assert there.sum() == shape.sum() and not (there & ~foreground).any()
        assert (np.ptp(points, axis=0) == (2, 1, 0)).all()
    narrow = np.zeros_like(foreground)
    narrow[6, 6, :] = True  # the shape fits nowhere; the number of voxels stays
    there = moved(shape, narrow, np.random.default_rng(0))
    assert there.sum() == shape.sum() and not (there & ~narrow).any()


def test_blanking_what_the_map_marks_costs_more_than_as_much_elsewhere() -> None:
    method, found = Linear(problem(SHAPE), bias=-0.2), []
    for seed in range(8):
        there = seen_in_b(seed)
        heat = grad_cam(method, there, subset=NAMES).heat[PAIR]["b"]
        found.append(blank_test(method, there, heat, pair=PAIR, auxiliary="b", subset=NAMES, seed=1))
        assert there.images["b"].max() > 0.8  # the case itself is as it was
    assert all(one.voxels == 64 for one in found)
    said = faithfulness(found)
    assert said.alone.n == said.whole.n == 8
    assert said.alone.value is not None and said.alone.value > 0.3
    assert said.alone.ci95 is not None and said.alone.ci95[0] > 0
    assert said.ratio is not None and said.ratio > 3


def test_the_numbers_are_those_of_a_slow_calculation() -> None:
    there, method = seen_in_b(3), Linear(problem(SHAPE), bias=-0.2)
    heat = grad_cam(method, there, subset=NAMES).heat[PAIR]["b"]
    found = blank_test(method, there, heat, pair=PAIR, auxiliary="b", subset=NAMES, voxels=10, draws=1)
    foreground, truth = there.images["b"][0] != 0, there.targets["seg"][0] > 0
    cells = sorted(((float(heat[n]), n) for n in np.ndindex(SHAPE) if foreground[n]), key=lambda item: -item[0])[:10]
    image = there.images["b"].copy()
    for _, n in cells:
        image[(0, *n)] = 0
    changed = case({**{name: there.images[name][0] for name in NAMES}, "b": image[0]})
    predicted = segmentor_map(method, changed, pair=PAIR, subset=NAMES) >= 0.5
    both, one, two = int((predicted & truth).sum()), int(predicted.sum()), int(truth.sum())
    assert found.alone is not None and found.alone[1] == pytest.approx(2 * both / (one + two))
    assert found.voxels == 10
    inside = [float(heat[n]) for n in np.ndindex(SHAPE) if foreground[n] and truth[n]]
    outside = [float(heat[n]) for n in np.ndindex(SHAPE) if foreground[n] and not truth[n]]
    assert found.inside == pytest.approx(sum(inside) / len(inside), rel=1e-5)
    assert found.ratio == pytest.approx(sum(inside) / len(inside) / (sum(outside) / len(outside)), rel=1e-4)


def test_what_cannot_be_tested_is_said() -> None:
    there, method = seen_in_b(0), Linear(problem(SHAPE))
    heat = np.ones(SHAPE, dtype=np.float32)
    with pytest.raises(ConfigError, match=r"blank_test\.auxiliary must be in the subset"):
        blank_test(method, there, heat, pair=PAIR, auxiliary="c", subset=("a", "b"))
    with pytest.raises(DataError, match=r"heat must be above 0 somewhere in the foreground; got none \[subject p0\]"):
        blank_test(method, there, 0 * heat, pair=PAIR, auxiliary="b", subset=NAMES)
    bare = case({name: image[0] for name, image in there.images.items()})
    with pytest.raises(DataError, match="must have a truth of WT"):
        blank_test(method, bare, heat, pair=PAIR, auxiliary="b", subset=NAMES)
    none = Blanking("p", "p", 1, None, None, None, 0.1)
    assert none.ratio is None
    assert Blanking("p", "p", 1, None, None, 0.1, 0.0).ratio == math.inf
    empty = faithfulness([none])
    assert (empty.alone.value, empty.alone.n, empty.ratio) == (None, 0, None)
