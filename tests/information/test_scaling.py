from __future__ import annotations

import math
from typing import Literal

import numpy as np
import pytest
from numpy.typing import NDArray

from comodal.information.scaling import Scaler

Floats = NDArray[np.float64]
Kind = Literal["rank", "standard"]
KINDS: tuple[Kind, ...] = ("rank", "standard")


def column(*values: float) -> Floats:
    return np.array(values, dtype=np.float64)[:, None]


def samples() -> dict[str, Floats]:
    """(n, 1) each: what columns of real tables look like."""
    random = np.random.default_rng(0)
    return {
        "normal": random.normal(size=(200, 1)),
        "skewed": np.exp(3 * random.normal(size=(200, 1))),
        "counts": random.poisson(2.0, size=(200, 1)).astype(np.float64),
        "yes or no": (random.random((200, 1)) < 0.1).astype(np.float64),
        "far outlier": np.concatenate([random.normal(size=(199, 1)), [[1e6]]]),
        "close together": 1e6 + 1e-6 * random.integers(0, 50, (200, 1)),
        "large": 1e12 * random.normal(size=(200, 1)),
    }


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", list(samples()))
def test_the_scale_has_mean_0_and_deviation_1_on_the_training_rows(name: str, kind: Kind) -> None:
    values = samples()[name]
    scaled = Scaler.fit(values, kind)(values)
    assert scaled.shape == values.shape
    assert scaled.mean() == pytest.approx(0, abs=1e-4) and scaled.std() == pytest.approx(1, abs=1e-4)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", list(samples()))
def test_maps_are_strictly_increasing_also_beyond_what_was_seen(name: str, kind: Kind) -> None:
    """Invertible, so that no information is lost: unequal stays unequal and in order, equal stays equal."""
    values = samples()[name]
    low, high = values.min(), values.max()
    spread = high - low
    between = np.random.default_rng(1).uniform(low, high, (100, 1))
    beyond = column(low - 9 * spread, low - spread, low - 1e-3 * spread, high + 1e-3 * spread, high + spread, high + 9 * spread)
    asked = np.unique(np.concatenate([values, between, beyond]))
    scaled = Scaler.fit(values, kind)(asked[:, None])[:, 0]
    assert (np.diff(scaled) > 0).all()
    again = Scaler.fit(values, kind)(np.repeat(asked, 2)[:, None])[:, 0]
    assert np.array_equal(again, np.repeat(scaled, 2))


def test_ranks_by_hand() -> None:
    """Of 1, 2, 2, 5 the average ranks are 1, 2.5, 2.5, 4: quantiles of 1/8, 1/2, 1/2, 7/8, then a deviation of 1."""
    scaled = Scaler.fit(column(5, 2, 1, 2), "rank")(column(1, 2, 5))
    np.testing.assert_allclose(scaled[:, 0], [-np.sqrt(2), 0, np.sqrt(2)], atol=1e-12)
    halfway = Scaler.fit(column(5, 2, 1, 2), "rank")(column(1.5, 3.5))
    np.testing.assert_allclose(halfway[:, 0], [-np.sqrt(2) / 2, np.sqrt(2) / 2], atol=1e-12)


def test_beyond_the_knots_a_logarithm_goes_on_with_the_slope_of_the_whole() -> None:
    scaled = Scaler.fit(column(5, 2, 1, 2), "rank")(column(0, 1, 5, 6, 9))[:, 0]
    slope = 2 * np.sqrt(2) / 4
    np.testing.assert_allclose(
        scaled,
        np.sqrt(2) * np.array([-1, -1, 1, 1, 1]) + np.array([-1, 1, 1, 1, 1]) * np.log1p(slope * np.array([1, 0, 0, 1, 4])),
        atol=1e-12,
    )


def test_standard_is_z_scores() -> None:
    random = np.random.default_rng(2)
    train, other = random.normal(3, 5, (50, 3)), random.normal(3, 50, (20, 3))
    scaler = Scaler.fit(train, "standard")
    for values in (train, other):
        np.testing.assert_allclose(scaler(values), (values - train.mean(0)) / train.std(0), rtol=1e-9, atol=1e-12)


def test_ranks_are_close_to_normal_whatever_the_distribution() -> None:
    values = np.exp(3 * np.random.default_rng(3).normal(size=(4000, 1)))
    scaled = Scaler.fit(values, "rank")(values)[:, 0]
    assert np.quantile(scaled, [0.025, 0.5, 0.975]) == pytest.approx([-1.96, 0, 1.96], abs=0.01)
    assert (scaled**4).mean() == pytest.approx(3, abs=0.05)


def test_ranks_do_not_see_increasing_maps_of_a_feature() -> None:
    values = np.random.default_rng(4).normal(size=(300, 2))
    plain = Scaler.fit(values, "rank")(values)
    for other in (values**3, np.exp(values), 7 * values - 2, np.arctan(values)):
        assert np.array_equal(Scaler.fit(other, "rank")(other), plain)
    assert np.array_equal(Scaler.fit(values[::-1], "rank")(values), plain), "nor the order of the rows"
    np.testing.assert_allclose(Scaler.fit(-values, "rank")(-values), -plain, atol=1e-12)
    assert not np.allclose(Scaler.fit(values**3, "standard")(values**3), Scaler.fit(values, "standard")(values))


@pytest.mark.parametrize("kind", KINDS)
def test_each_feature_has_its_own_map(kind: Kind) -> None:
    random = np.random.default_rng(5)
    values = np.concatenate([random.normal(size=(60, 1)), random.poisson(3.0, (60, 1)), random.random((60, 1)) ** 4], axis=1)
    together = Scaler.fit(values, kind)(values)
    alone = [Scaler.fit(values[:, [place]], kind)(values[:, [place]]) for place in range(3)]
    assert np.array_equal(together, np.concatenate(alone, axis=1))


@pytest.mark.parametrize("kind", KINDS)
def test_only_the_training_rows_count(kind: Kind) -> None:
    values = np.random.default_rng(6).normal(size=(100, 2))
    train, scaler = values[:70].copy(), Scaler.fit(values[:70], kind)
    before = scaler(train)
    values[70:] = 1e9
    scaler(values)
    assert np.array_equal(Scaler.fit(values[:70], kind)(train), before)
    assert np.array_equal(scaler(values)[:70], before)
    assert np.array_equal(values[:70], train), "nothing is changed in place"


@pytest.mark.parametrize("kind", KINDS)
def test_constant_in_the_training_rows(kind: Kind) -> None:
    """Nothing is known of its scale; still it is mapped, and what differs elsewhere stays different."""
    scaled = Scaler.fit(column(4, 4, 4), kind)(column(2, 3.5, 4, 4, 4.5, 10))[:, 0]
    beyond = [-1 - math.log(2), 1 + math.log(6)] if kind == "rank" else [-2, 6]
    np.testing.assert_allclose(scaled, [beyond[0], -0.5, 0, 0, 0.5, beyond[1]], atol=1e-12)


@pytest.mark.parametrize("kind", KINDS)
def test_a_single_row(kind: Kind) -> None:
    assert Scaler.fit(column(3), kind)(column(3, 4)).tolist() == [[0.0], [1.0]]
