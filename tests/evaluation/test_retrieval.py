"""Recall at k and median rank against a loop over candidates, by hand on ties, and at chance."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np
import pytest
from numpy.typing import NDArray

from comodal.errors import ConfigError
from comodal.evaluation.retrieval import DIRECTIONS, ranked, retrieval, same_numbers, weighted_medians

Floats = NDArray[np.float64]


def slow_rank(scores: Floats, query: int, reports: Sequence[str], groups: Sequence[str]) -> tuple[int, int]:
    """(rank without ties, number of candidates) of the own counterpart, one candidate after the other."""
    rank, count = 1, 1
    for other in range(len(reports)):
        if other == query or reports[other] == reports[query] or groups[other] == groups[query]:
            continue
        count += 1
        rank += bool(scores[query, other] > scores[query, query])
    return rank, count


def test_against_a_loop_over_candidates() -> None:
    rng = np.random.default_rng(0)
    scores = rng.normal(size=(40, 40)) + 1.5 * np.eye(40)
    reports = [f"r{n % 31}" for n in range(40)]
    groups = [f"p{n // 2}" for n in range(40)]
    found = retrieval(scores, reports, groups, resamples=200)
    for direction, table in zip(DIRECTIONS, (scores, scores.T), strict=True):
        places = [slow_rank(table, query, reports, groups) for query in range(40)]
        for k in (1, 5, 10):
            cell = found[direction][f"recall@{k}"]
            assert cell.value == pytest.approx(np.mean([rank <= k for rank, _ in places])) and cell.n == 40
            assert cell.chance == pytest.approx(np.mean([min(k / count, 1) for _, count in places]))
            assert cell.ci95 is not None and cell.value is not None and cell.ci95[0] <= cell.value <= cell.ci95[1]
        median = found[direction]["median_rank"]
        assert median.value == np.median([rank for rank, _ in places])
        assert median.chance == np.median([(count + 1) / 2 for _, count in places])


def test_ties_are_broken_at_random_in_expectation() -> None:
    scores = np.array([[1.0, 1.0, 1.0, 0.0], [2.0, 1.0, 0.0, 0.0], [0.0, 0.0, 5.0, 0.0], [1.0, 1.0, 1.0, 1.0]])
    found = ranked(scores, np.eye(4, dtype=bool))
    assert found.rank().tolist() == [2.0, 2.0, 1.0, 2.5]
    for k in (1, 2, 3):
        for query in range(4):
            orders = []
            for order in itertools.permutations(range(4)):  # every way to break ties
                ahead = sum((scores[query, o], order[o]) > (scores[query, query], order[query]) for o in range(4))
                orders.append(ahead < k)
            assert found.recall(k)[query] == pytest.approx(np.mean(orders))


def test_one_score_for_all_is_at_chance() -> None:
    cells = retrieval(np.zeros((30, 30)), list(range(30)), [str(n) for n in range(30)], resamples=0)["image to report"]
    for cell in cells.values():
        assert cell.value == pytest.approx(cell.chance) and cell.ci95 is None


def test_identical_reports_and_the_same_patient_are_not_wrong() -> None:
    reports, groups = ["a", "a", "b", "c"], ["p", "q", "q", "r"]
    same = same_numbers(reports, groups)
    assert same.tolist() == [[1, 1, 0, 0], [1, 1, 1, 0], [0, 1, 1, 0], [0, 0, 0, 1]]
    scores = np.zeros((4, 4))
    scores[0, 1] = scores[1, 2] = scores[2, 1] = 9.0  # higher than the own one, and not wrong
    np.fill_diagonal(scores, 1.0)
    assert retrieval(scores, reports, groups)["image to report"]["recall@1"].value == 1.0


def test_queries_without_another_candidate_do_not_count() -> None:
    found = retrieval(np.zeros((2, 2)), ["a", "a"], ["p", "q"])
    assert found["image to report"]["recall@1"].n == 0 and found["image to report"]["recall@1"].value is None


def test_few_patients_have_no_interval() -> None:
    cell = retrieval(np.eye(5), list("abcde"), list("pqrst"))["image to report"]["recall@1"]
    assert cell.ci95 is None and cell.note is not None and "too few patients" in cell.note


@pytest.mark.parametrize("scores", [np.zeros((2, 3)), np.array([[0.0, np.nan], [0.0, 0.0]])])
def test_scores_must_be_whole(scores: Floats) -> None:
    with pytest.raises(ConfigError, match=r"retrieval.scores must be finite numbers of shape \(2, 2\)"):
        ranked(scores, np.eye(2, dtype=bool))


def test_weighted_medians_are_medians_of_repeated_values() -> None:
    rng = np.random.default_rng(1)
    values, weights = rng.integers(1, 9, 12).astype(float), rng.integers(0, 4, (50, 12)).astype(float)
    expected = [np.median(np.repeat(values, row.astype(int))) for row in weights]
    assert weighted_medians(values, weights).tolist() == expected
