from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import ndimage

from comodal.errors import ConfigError
from comodal.evaluation import metrics
from comodal.evaluation.classification import POOLED
from comodal.evaluation.metrics import (
    BRATS_DIAGONAL,
    METRICS,
    Conventions,
    DscEmpty,
    Floats,
    Hd95Empty,
    Hd95Mode,
    Mask,
    dsc,
    hd95,
    mean_dsc,
    metric,
    segmentation_metrics,
    surface,
)


def cube(start: int, *, size: int = 3, shape: tuple[int, ...] = (9, 9, 9)) -> Mask:
    mask = np.zeros(shape, dtype=bool)
    mask[start : start + size, 2 : 2 + size, 2 : 2 + size] = True
    return mask


def brute_distances(one: Mask, two: Mask, spacing: tuple[float, ...]) -> tuple[Floats, Floats]:
    """Every pair of surface voxels, the surface found by looking at each face neighbour."""

    def points(mask: Mask) -> Floats:
        padded = np.pad(mask, 1)
        found = []
        for at in np.argwhere(padded):
            for axis in range(mask.ndim):
                step = np.eye(mask.ndim, dtype=int)[axis]
                if not padded[tuple(at + step)] or not padded[tuple(at - step)]:
                    found.append(at)
                    break
        return np.asarray(np.array(found) * np.array(spacing), dtype=float)

    a, b = points(one), points(two)
    pairs = np.sqrt(((a[:, None] - b[None]) ** 2).sum(axis=-1))
    return pairs.min(axis=1), pairs.min(axis=0)


def test_a_shift_by_one_voxel_is_a_distance_of_one() -> None:
    assert hd95(cube(2), cube(3), (1, 1, 1)) == 1.0
    assert hd95(cube(2), cube(3), (1, 1, 1), mode="max_of_directions") == 1.0
    assert dsc(cube(2), cube(3)) == pytest.approx(2 * 18 / 54)
    assert hd95(cube(2), cube(2), (1, 1, 1)) == 0.0


def test_one_far_voxel_moves_the_maximum_but_not_the_95th_percentile() -> None:
    truth = cube(2, size=5, shape=(24, 12, 12))
    spot = truth.copy()
    spot[22, 4, 4] = True  # 16 from the face x = 6, while the surface has 98 voxels
    there, back = brute_distances(spot, truth, (1, 1, 1))
    assert max(there.max(), back.max()) == 16.0
    assert hd95(spot, truth, (1, 1, 1)) == 0.0


@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (0.5, 1.5, 4.0)])
@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("few", [0, 10**9], ids=["tree", "distance map"])
def test_hd95_equals_brute_force(seed: int, spacing: tuple[float, ...], few: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metrics, "FEW_POINTS", few)
    rng = np.random.default_rng(seed)
    noise = ndimage.gaussian_filter(rng.normal(size=(2, 11, 9, 7)), (0, 1, 1, 1))
    one, two = noise > 0.05  # ragged, in several pieces, touching the border
    there, back = brute_distances(one, two, spacing)
    assert hd95(one, two, spacing) == pytest.approx(np.percentile(np.r_[there, back], 95), rel=1e-12)
    worse = max(np.percentile(there, 95), np.percentile(back, 95))
    assert hd95(one, two, spacing, mode="max_of_directions") == pytest.approx(worse, rel=1e-12)
    assert hd95(one, two, spacing) == hd95(two, one, spacing)


def test_the_two_definitions_differ_where_one_direction_is_small() -> None:
    """A line of 40 against its first 10 voxels: back 0 always, there 0 (10 x) and 1..30."""
    long, short = np.zeros((2, 40, 3, 3), dtype=bool)
    long[:, 1, 1] = short[:10, 1, 1] = True
    there = np.r_[np.zeros(10), np.arange(1, 31)]
    assert hd95(long, short, (1, 1, 1), mode="max_of_directions") == pytest.approx(np.percentile(there, 95))
    assert hd95(long, short, (1, 1, 1)) == pytest.approx(np.percentile(np.r_[there, np.zeros(10)], 95))


def test_spacing_is_applied_per_axis() -> None:
    one, two = np.zeros((2, 5, 5, 5), dtype=bool)
    one[1, 1, 1] = two[1, 1, 3] = True
    assert hd95(one, two, (1, 1, 2.5)) == 5.0
    assert hd95(one, two, (7, 7, 1)) == 2.0


def test_a_single_voxel_is_its_own_surface() -> None:
    one = np.zeros((3, 3, 3), dtype=bool)
    one[1, 1, 1] = True
    assert surface(one).tolist() == one.tolist()
    assert hd95(one, one, (1, 1, 1)) == 0.0
    assert dsc(one, one) == 1.0


def test_a_picture_is_compared_in_its_plane() -> None:
    """With Z = 1 every voxel touches the outside along Z; that does not make it a border."""
    disc = np.zeros((20, 20, 1), dtype=bool)
    disc[3:17, 3:17] = True
    hole = disc.copy()
    hole[9:11, 9:11] = False
    there, back = brute_distances(hole[..., 0], disc[..., 0], (1, 1))
    expected = np.percentile(np.r_[there, back], 95)
    assert expected >= 5
    assert hd95(hole, disc, (1, 1, 9)) == pytest.approx(expected) == hd95(hole[..., 0], disc[..., 0], (1, 1))
    dot = np.ones((1, 1, 1), dtype=bool)
    assert hd95(dot, dot, (1, 1, 1)) == 0.0


NAN = math.nan
EMPTY = np.zeros((4, 3, 12), dtype=bool)
SOME = np.zeros((4, 3, 12), dtype=bool)
SOME[1, 1, 1] = True


@pytest.mark.parametrize(
    ("empty", "both", "truth_empty", "prediction_empty"),
    [("one-zero", 1, 0, 0), ("exclude-both", NAN, 0, 0), ("exclude-truth", NAN, NAN, 0)],
)
def test_the_table_of_empty_regions_for_dsc(empty: DscEmpty, both: float, truth_empty: float, prediction_empty: float) -> None:
    assert dsc(EMPTY, EMPTY, empty=empty) == pytest.approx(both, nan_ok=True)
    assert dsc(SOME, EMPTY, empty=empty) == pytest.approx(truth_empty, nan_ok=True)
    assert dsc(EMPTY, SOME, empty=empty) == pytest.approx(prediction_empty, nan_ok=True)


@pytest.mark.parametrize("mode", ["pooled", "max_of_directions"])
@pytest.mark.parametrize(
    ("empty", "both", "one"),
    [("exclude", NAN, NAN), ("diagonal", 0, math.sqrt(8**2 + 3**2 + 6**2)), ("brats", 0, 373.12866)],
)
def test_the_table_of_empty_regions_for_hd95(empty: Hd95Empty, both: float, one: float, mode: Hd95Mode) -> None:
    spacing = (2, 1, 0.5)
    assert hd95(EMPTY, EMPTY, spacing, empty=empty, mode=mode) == pytest.approx(both, nan_ok=True)
    assert hd95(SOME, EMPTY, spacing, empty=empty, mode=mode) == pytest.approx(one, nan_ok=True)
    assert hd95(EMPTY, SOME, spacing, empty=empty, mode=mode) == pytest.approx(one, nan_ok=True)


def test_the_brats_constant_is_the_diagonal_of_a_brats_volume() -> None:
    volume = np.zeros((240, 240, 155), dtype=bool)
    spot = volume.copy()
    spot[0, 0, 0] = True
    assert hd95(spot, volume, (1, 1, 1), empty="diagonal") == pytest.approx(BRATS_DIAGONAL, abs=1e-5)


def test_the_metrics_of_a_case_are_those_of_its_classes() -> None:
    truth = np.stack([cube(2), np.zeros((9, 9, 9), bool), cube(2)])
    prediction = np.stack([cube(3), np.zeros((9, 9, 9), bool), ~cube(2)])
    classes = {"WT": 0, "ET": 1}
    found = segmentation_metrics(prediction, truth, (1, 1, 1), classes=classes, conventions=Conventions())
    assert list(found) == ["DSC/WT", "HD95/WT", "DSC/ET", "HD95/ET"]
    assert found["HD95/WT"] == 1.0
    assert math.isnan(found["HD95/ET"])
    assert mean_dsc(found) == pytest.approx((2 / 3 + 1) / 2)
    left_out = Conventions(dsc_empty="exclude-truth")
    only = segmentation_metrics(prediction, truth, (1, 1, 1), classes=classes, conventions=left_out, metrics=["DSC"])
    assert list(only) == ["DSC/WT", "DSC/ET"]
    assert mean_dsc(only) == pytest.approx(2 / 3)
    assert math.isnan(mean_dsc({"DSC/ET": math.nan}))


def test_wrong_arguments_are_refused_with_the_rule() -> None:
    with pytest.raises(ConfigError, match=r"prediction must have the truth's shape \(4, 3, 12\); got \(3, 12\)"):
        dsc(EMPTY[0], EMPTY)
    with pytest.raises(ConfigError, match=r"hd95\.spacing must be 3 positive numbers; got \(1, 1\)"):
        hd95(SOME, SOME, (1, 1))
    with pytest.raises(ConfigError, match=r"hd95\.empty must be a known convention; got 'brat'\. Did you mean brats\?"):
        hd95(SOME, SOME, (1, 1, 1), empty="brat")  # type: ignore[arg-type]


def test_metrics_are_found_by_the_name_that_stands_in_a_result() -> None:
    assert metric("HD95/WT") is METRICS["HD95"]
    assert metric("HD95/WT").better == "lower"
    with pytest.raises(ConfigError, match="Did you mean HD95"):
        metric("HD96/WT")


def test_every_metric_has_its_sentence() -> None:
    assert set(Conventions().sentences()) == {*METRICS, "ci95"}
    assert {name for name, of in METRICS.items() if of.better == "lower"} == {"HD95", "ECE", "Brier"}
    assert set(POOLED) == {name for name, of in METRICS.items() if of.aggregation == "pooled"}


def test_conventions_say_what_they_are() -> None:
    text = Conventions(hd95_empty="brats", hd95_unit="voxel", hd95_mode="max_of_directions").sentences()["HD95"]
    assert text == (
        "In voxel; larger of the 95th percentiles of the two directions (as MONAI); both empty 0, one empty 373.12866."
    )
