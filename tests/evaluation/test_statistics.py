from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from comodal.errors import ConfigError
from comodal.evaluation.statistics import (
    MIN_PATIENTS,
    bootstrap_interval,
    bootstrap_p,
    holm,
    interval_note,
    interval_of,
    paired_difference,
    resampling_weights,
)


def test_the_interval_equals_a_slow_bootstrap_with_the_same_draws() -> None:
    values = np.random.default_rng(1).normal(size=9)
    rng = np.random.default_rng(7)
    means = [values[row].mean() for row in rng.integers(0, 9, (500, 9))]
    assert bootstrap_interval(values, resamples=500, seed=7) == pytest.approx(tuple(np.percentile(means, (2.5, 97.5))))


def test_the_interval_has_the_width_of_theory_for_many_subjects() -> None:
    values = np.random.default_rng(0).normal(size=400)
    low, high = bootstrap_interval(values) or (0, 0)
    assert low < values.mean() < high
    assert (high - low) / 2 == pytest.approx(1.96 * values.std() / 20, rel=0.06)


def test_two_sessions_of_a_patient_are_resampled_together() -> None:
    """Copying every case into a second session adds no knowledge, so that the interval may not shrink."""
    values = np.random.default_rng(2).normal(size=30)
    patients = [str(i) for i in range(30)]
    once = bootstrap_interval(values, patients)
    assert bootstrap_interval(np.r_[values, values], patients * 2) == pytest.approx(once)
    low, high = bootstrap_interval(np.r_[values, values]) or (0, 0)
    assert once is not None
    assert high - low < 0.8 * (once[1] - once[0])


def test_patients_of_different_size_weigh_by_their_cases() -> None:
    """Six patients, one with three cases of 1 and five with a case of 0, k times drawn: the mean is 3k / (3k + 6 - k)."""
    values, patients = [1.0, 1.0, 1.0, *[0.0] * 5], ["a", "a", "a", *"bcdef"]
    weights = resampling_weights(8, patients, resamples=2000)
    assert weights is not None
    means = {round(m, 9) for m in (weights @ values / weights.sum(axis=1)).tolist()}
    possible = {round(3 * k / (6 + 2 * k), 9) for k in range(7)}
    assert {0.0, 0.375, 0.6} <= means <= possible
    assert bootstrap_interval(values, patients) == (0.0, 0.75)  # of the binomial draws k <= 2 holds 94 %, k <= 3 99 %


@pytest.mark.parametrize("values", [[], [0.3], [0.3, math.nan], [0.1, 0.2, 0.3, 0.4, 0.5], [*[0.1] * 5, math.nan]])
def test_there_is_no_interval_of_few_patients(values: list[float]) -> None:
    """Of five, the nominal 95 % interval would hold the truth in four of five trials only."""
    assert bootstrap_interval(values) is None
    assert bootstrap_interval(np.arange(6.0)) is not None and MIN_PATIENTS == 6


def test_many_cases_of_few_patients_have_no_interval() -> None:
    assert bootstrap_interval(np.arange(10.0), list("aabbccddee")) is None
    assert resampling_weights(10, list("aabbccddee")) is None


def test_what_is_said_of_few_patients() -> None:
    assert interval_note(0) == interval_note(5) == "too few patients for an interval (fewer than 6)"
    assert interval_note(6) == interval_note(19) == "intervals of fewer than 20 patients are too narrow"
    assert interval_note(20) is None


def test_cases_without_a_number_are_left_out() -> None:
    some = [0.1, math.nan, 0.9, 0.4, 0.5, 0.2, 0.3]
    assert bootstrap_interval(some, list("abcdefg")) == bootstrap_interval([0.1, 0.9, 0.4, 0.5, 0.2, 0.3])


def test_the_seed_decides() -> None:
    values = np.random.default_rng(3).normal(size=12)
    assert bootstrap_interval(values, seed=1) == bootstrap_interval(values, seed=1)
    assert bootstrap_interval(values, seed=1) != bootstrap_interval(values, seed=2)


def test_an_interval_needs_half_of_its_resamples() -> None:
    assert interval_of(np.array([1.0, math.nan, math.nan])) is None
    assert interval_of(np.array([1.0, 1.0, math.nan])) == (1.0, 1.0)


def test_a_wrong_number_of_groups_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"groups must have one entry per case \(2\); got 1"):
        bootstrap_interval([1.0, 2.0], ["a"])


def test_a_paired_difference_counts_common_cases_only() -> None:
    a = {"p1": 0.9, "p2": 0.7, "p3": None, "p5": 0.4}
    b = {"p1": 0.8, "p2": 0.7, "p3": 0.1, "p4": 0.2, "p5": math.nan}
    found = paired_difference(a, b)
    assert found.n == 2
    assert found.value == pytest.approx(0.05)
    assert found.ci95 is None  # of two patients


def test_pairing_sees_a_difference_that_the_spread_between_patients_hides() -> None:
    rng = np.random.default_rng(0)
    base = rng.uniform(0.2, 0.9, 20)
    a = {str(i): base[i] + 0.02 for i in range(20)}
    b = {str(i): base[i] for i in range(20)}
    found = paired_difference(a, b)
    assert found.value == pytest.approx(0.02)
    assert found.ci95 == pytest.approx((0.02, 0.02))
    assert found.p_value is not None
    assert found.p_value < 0.001


def test_wilcoxon_drops_patients_without_a_difference() -> None:
    values = [0.1, 0.2, -0.05, 0.3, 0.15, 0.25]
    a = {str(i): v for i, v in enumerate([*values, 0.0, 0.0])}
    b = dict.fromkeys(a, 0.0)
    assert paired_difference(a, b).p_value == pytest.approx(stats.wilcoxon(values).pvalue)
    same = paired_difference(b, b)
    assert (same.value, same.p_value, same.ci95) == (0.0, 1.0, (0.0, 0.0))


def test_wilcoxon_counts_patients_not_sessions() -> None:
    a = {f"p{i}_{s}": 0.1 * (i + 1) for i in range(6) for s in range(3)}
    b = dict.fromkeys(a, 0.0)
    groups = {case: case.split("_")[0] for case in a}
    assert paired_difference(a, b, groups=groups).p_value == pytest.approx(2 / 2**6)  # six patients, all signs equal
    assert paired_difference(a, b, groups=groups).n == 18


def test_the_bootstrap_p_counts_both_sides_and_the_data_once() -> None:
    assert bootstrap_p(np.array([0.1] * 97 + [-0.1] * 2)) == pytest.approx(2 * 3 / 100)
    assert bootstrap_p(-np.array([0.1] * 97 + [-0.1] * 2)) == pytest.approx(2 * 3 / 100)
    assert bootstrap_p(np.array([0.1] * 90 + [0.0] * 9)) == pytest.approx(2 * 10 / 100)  # no difference is on both sides
    assert bootstrap_p(np.array([0.1, np.nan, np.nan])) is None
    drawn = np.random.default_rng(0).normal(0.2, 0.1, 1999)
    for shift in (-0.02, 0.0, 0.02):  # below 0.05 where the interval leaves out 0
        low, p = interval_of(drawn + shift), bootstrap_p(drawn + shift)
        assert low is not None and p is not None and (low[0] > 0) == (p < 0.05)


def test_no_common_case_gives_no_number() -> None:
    found = paired_difference({"a": 1.0}, {"b": 1.0})
    assert (found.value, found.ci95, found.n, found.p_value) == (None, None, 0, None)


def test_holm_by_hand() -> None:
    """Sorted 0.01 x 3, 0.02 x 2, 0.03 x 1, never below the one before: 0.03, 0.04, 0.04."""
    assert holm([0.03, 0.01, None, 0.02]) == [pytest.approx(0.04), pytest.approx(0.03), None, pytest.approx(0.04)]
    assert holm([]) == []
    assert holm([None]) == [None]
    assert holm([0.9, 0.8]) == [1.0, 1.0]


def test_holm_equals_statsmodels() -> None:
    from statsmodels.stats.multitest import multipletests

    p_values = np.random.default_rng(0).uniform(0, 0.2, 25)
    assert holm(p_values.tolist()) == pytest.approx(multipletests(p_values, method="holm")[1])
