"""The share of a gap that is closed: a slow bootstrap, and where there is no gap."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from comodal.evaluation.gap import GapClosed, gap_closed
from comodal.evaluation.results import CaseResult, Results

N = 60


def run(right: Sequence[bool], *, present: tuple[str, ...] = ("t1",), patients: int = N) -> Results:
    """A result whose answers are right where it is said so, each with a probability of 0.8."""
    cases = []
    for i, hit in enumerate(right):
        truth = i % 2
        p = [0.2, 0.8] if (truth == 1) == hit else [0.8, 0.2]
        cases.append(
            CaseResult(subject=f"c{i}", group=f"p{i % patients}", present=present, probabilities={"d": p}, targets={"d": truth})
        )
    return Results(method="m", cohort="c", split="test", seed=0, cases=tuple(cases))


def answers(rate: float, seed: int) -> list[bool]:
    return [bool(hit) for hit in np.random.default_rng(seed).uniform(size=N) < rate]


def test_the_share_equals_a_slow_bootstrap() -> None:
    rights = [answers(rate, seed) for seed, rate in enumerate((0.5, 0.7, 0.95))]
    found = gap_closed(*map(run, rights), metric="accuracy/d", resamples=400, seed=3)
    means = np.mean(rights, axis=1)
    assert found.value == pytest.approx((means[1] - means[0]) / (means[2] - means[0]))
    assert found.gap == pytest.approx(means[2] - means[0]) and found.gained == pytest.approx(means[1] - means[0])
    # patients are drawn in the order of their names
    order = sorted(range(N), key=lambda i: f"p{i}")
    table = np.array(rights, dtype=float)[:, order]
    draws = np.random.default_rng(3).integers(0, N, (400, N))
    low, middle, high = (np.array([row[draw].mean() for draw in draws]) for row in table)
    some = high > low + 1e-12
    assert found.ci95 == pytest.approx(tuple(np.percentile(((middle - low) / (high - low))[some], (2.5, 97.5))))
    assert found.gap_ci95 == pytest.approx(tuple(np.percentile(high - low, (2.5, 97.5))))
    assert found.without_gap == pytest.approx(1 - some.mean())
    assert (found.n, found.note) == (N, None)


def test_the_ends_are_0_and_1_and_runs_are_averaged() -> None:
    low, high = run(answers(0.4, 0)), run(answers(0.95, 1))
    assert gap_closed(low, low, high, metric="AUROC/d", resamples=200).value == 0
    whole = gap_closed(low, high, high, metric="balanced_accuracy/d", resamples=200)
    assert (whole.value, whole.ci95) == (1, (1, 1))
    half = gap_closed([low, low], [low, high], [high, high], metric="accuracy/d", resamples=200)
    assert half.value == pytest.approx(0.5)


def test_of_a_metric_that_is_better_low_the_gap_points_the_other_way() -> None:
    low, middle, high = (run(answers(rate, seed)) for seed, rate in enumerate((0.4, 0.6, 0.95)))
    found = gap_closed(low, middle, high, metric="Brier/d", resamples=200)
    assert found.gap is not None and found.gap > 0 and found.value is not None and 0 < found.value < 1


def test_where_the_gap_may_be_nothing_there_is_no_share() -> None:
    found = gap_closed(run(answers(0.7, 0)), run(answers(0.7, 1)), run(answers(0.7, 2)), metric="accuracy/d", resamples=300)
    assert (found.value, found.ci95, found.note) == (None, None, "not defined: the gap is not clearly above 0")
    assert found.gap_ci95 is not None and found.gap_ci95[0] <= 0
    assert found.without_gap is not None and found.without_gap > 0.01
    few = gap_closed(*(run(answers(rate, 1), patients=5) for rate in (0.4, 0.6, 0.9)), metric="accuracy/d", resamples=300)
    assert few.value is None and few.note == "too few patients to know whether there is a gap"


def test_rows_of_the_table_may_differ_and_nothing_in_common_is_said() -> None:
    low, high = run(answers(0.4, 0)), run(answers(0.95, 1), present=("t1", "t2"))
    found = gap_closed(low, low, high, metric="accuracy/d", present=[("t1",), None, ("t2", "t1")], resamples=200)
    assert found.value == 0
    none = gap_closed(low, low, high, metric="accuracy/d", present=[("t1",), None, ("t2",)], resamples=200)
    assert none == GapClosed("accuracy/d", None, None, None, None, None, None, 0, note="no case that all three have")
