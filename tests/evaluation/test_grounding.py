"""Places through resizing and cropping, true regions, hits against a loop, and the baselines by hand."""

from __future__ import annotations

import numpy as np
import pytest

from comodal.data.grid import Grid
from comodal.data.phrases import Place
from comodal.evaluation.grounding import Asked, constant_rate, grounding, hit_rates, in_window, true_regions

POINT = Place((0.3, 0.6), (0.3, 0.6))


def test_a_resize_leaves_shares_and_a_crop_moves_them() -> None:
    native = Grid((30, 50, 1), np.eye(4))
    resized = native.resized((64, 64, 1))
    assert in_window(POINT, native, resized).low == pytest.approx((0.3, 0.6), abs=1e-4)
    cropped = resized.cropped((16, 16, 0), (32, 32, 1))
    assert in_window(POINT, native, cropped).low == pytest.approx((0.1, 0.7), abs=1e-4)
    padded = native.cropped((-5, -5, 0), (40, 60, 1))
    assert in_window(POINT, native, padded).low == pytest.approx(((9 + 5) / 40, (30 + 5) / 60), abs=1e-4)


def test_what_is_cropped_away_has_no_region() -> None:
    native = Grid((30, 50, 1), np.eye(4))
    place = in_window(Place((0.01, 0.5), (0.01, 0.5)), native, native.cropped((10, 10, 0), (10, 30, 1)))
    assert place.low[0] < 0 and not true_regions([place], (4, 4)).any()


@pytest.mark.parametrize(
    ("places", "expected"),
    [
        ([Place((0.3, 0.6), (0.3, 0.6))], [(1, 2)]),
        ([Place((1.0, 1.0), (1.0, 1.0))], [(3, 3)]),
        ([Place((0.0, 0.0), (0.0, 0.0)), Place((0.9, 0.1), (0.9, 0.1))], [(0, 0), (3, 0)]),
        ([Place((0.1, 0.1), (0.4, 0.4))], [(0, 0), (0, 1), (1, 0), (1, 1)]),  # centres at 0.125, 0.375
        ([Place((0.26, 0.26), (0.34, 0.34))], [(1, 1)]),  # no centre within: the middle counts
        ([Place((-0.2, 0.3), (0.2, 0.4))], [(0, 1)]),  # partly cropped away
    ],
)
def test_true_regions(places: list[Place], expected: list[tuple[int, int]]) -> None:
    found = true_regions(places, (4, 4)).reshape(4, 4)
    assert [tuple(place) for place in np.argwhere(found).tolist()] == expected


def some(phrases: int = 60) -> Asked:
    rng = np.random.default_rng(0)
    maps = rng.integers(0, 5, (12, 7, 9)).astype(float)  # with ties
    truth = rng.random((phrases, 9)) < 0.2
    truth[np.arange(phrases), rng.integers(0, 9, phrases)] = True
    groups = tuple(f"p{n // 2}" for n in range(12))
    image, sentence = rng.integers(0, 12, phrases), rng.integers(0, 7, phrases)
    findings = tuple("nodule" if n % 3 else "mass" for n in range(phrases))
    return Asked(maps, groups, tuple(f"s{n}" for n in range(12)), image, sentence, truth, findings)


def slow_hit(values: list[float], true: list[bool]) -> float:
    best = [place for place, value in enumerate(values) if value == max(values)]
    return sum(true[place] for place in best) / len(best)


def test_against_loops() -> None:
    asked = some()
    found = grounding(asked, resamples=100)
    assert list(found) == ["all", "nodule", "mass"]
    for name, row in found.items():
        kept = [p for p in range(60) if name in ("all", asked.findings[p])]
        own = [slow_hit(asked.maps[asked.image[p], asked.sentence[p]].tolist(), asked.truth[p].tolist()) for p in kept]
        others = []
        for p in kept:
            rest = [b for b in range(12) if asked.groups[b] != asked.groups[asked.image[p]]]
            mean = np.sum([asked.maps[b, asked.sentence[p]] for b in rest], axis=0)
            others.append(slow_hit(mean.tolist(), asked.truth[p].tolist()))
        constants = [np.mean([asked.truth[p, n] for p in kept]) for n in range(9)]
        chance = np.mean([asked.truth[p].mean() for p in kept])
        assert row.hits.value == pytest.approx(np.mean(own)) and row.hits.chance == pytest.approx(chance)
        assert row.ratio == pytest.approx(np.mean(own) / chance) and row.constant == pytest.approx(max(constants))
        assert row.elsewhere == pytest.approx(np.mean(others))
        assert (row.hits.n, row.subjects) == (len(kept), len({int(asked.image[p]) for p in kept}))
        assert (row.hits.ci95 is None) == (name == "mass")  # fewer than six patients have one


def test_a_flat_map_is_at_chance_and_a_perfect_one_at_one() -> None:
    asked = some()
    assert hit_rates(np.zeros((60, 9)), asked.truth).mean() == pytest.approx(asked.truth.mean())
    assert hit_rates(asked.truth.astype(float), asked.truth).tolist() == [1.0] * 60


def test_a_region_for_each_finding_is_right_at_least_as_often() -> None:
    truth = np.array([[True, False], [True, False], [False, True], [False, True]])
    assert constant_rate(truth) == 0.5 and constant_rate(truth, ["a", "a", "b", "b"]) == 1.0


def test_one_patient_has_no_other_images() -> None:
    asked = some()
    alone = Asked(asked.maps, ("p",) * 12, asked.subjects, asked.image, asked.sentence, asked.truth, asked.findings)
    row = grounding(alone)["all"]
    assert row.elsewhere is None and row.hits.ci95 is None
