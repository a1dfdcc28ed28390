"""Tests of two methods: against slow loops, closed forms, statsmodels, and each other."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import stats

from comodal.errors import ConfigError, DataError
from comodal.evaluation.paired_tests import DeLong, PairedTest, delong, mcnemar, paired_tests
from comodal.evaluation.pooling import common_row
from comodal.evaluation.results import CaseResult, Results
from comodal.evaluation.statistics import holm

Floats = NDArray[np.float64]
A = ("t1",)


def slow_delong(first: Floats, second: Floats, truth: NDArray[np.bool_]) -> tuple[float, float]:
    """Difference and variance from all pairs: the structural components of DeLong et al. (1988), equations (4) to (6)."""
    components = []
    for scores in (first, second):
        pairs = [[1.0 if x > y else 0.5 if x == y else 0.0 for y in scores[~truth]] for x in scores[truth]]
        components.append(np.array(pairs))
    m, n = components[0].shape
    areas = [psi.mean() for psi in components]
    s10 = np.cov(np.stack([psi.mean(axis=1) for psi in components]))
    s01 = np.cov(np.stack([psi.mean(axis=0) for psi in components]))
    contrast = np.array([1.0, -1.0])
    return areas[0] - areas[1], float(contrast @ (s10 / m + s01 / n) @ contrast)


@pytest.mark.parametrize("values", [3, 10_000])  # with ties and without
def test_delong_equals_a_loop_over_pairs(values: int) -> None:
    rng = np.random.default_rng(0)
    for _ in range(5):
        truth = rng.uniform(size=40) < 0.4
        one, two = (np.floor(values * stats.norm.cdf(rng.normal(size=40) + s * truth)) for s in (0.5, 1.0))
        found, (difference, variance) = delong(one, two, truth), slow_delong(one, two, truth)
        assert found.difference == pytest.approx(difference, abs=1e-12)
        z = difference / math.sqrt(variance)
        assert found.z == pytest.approx(z) and found.p_value == pytest.approx(2 * stats.norm.sf(abs(z)))
        assert found.ci95 == pytest.approx((difference - 1.959964 * difference / z, difference + 1.959964 * difference / z))


def test_delong_of_two_answers_has_a_closed_form() -> None:
    # Of yes-no scores AUROC is (sensitivity + specificity) / 2; beside a constant score, with variance 0, what remains is
    # [sens (1 - sens) / (M - 1) + spec (1 - spec) / (L - 1)] / 4.
    truth = np.array([True] * 10 + [False] * 20)
    answers = np.array([1.0] * 7 + [0.0] * 3 + [1.0] * 4 + [0.0] * 16)
    found = delong(answers, np.zeros(30), truth)
    variance = (0.7 * 0.3 / 9 + 0.8 * 0.2 / 19) / 4
    assert found.first == pytest.approx(0.75) and found.second == 0.5
    assert found.z == pytest.approx(0.25 / math.sqrt(variance))


def test_delong_agrees_with_the_bootstrap_roughly() -> None:
    rng = np.random.default_rng(1)
    truth = rng.uniform(size=150) < 0.5
    shared = rng.normal(size=150)
    one, two = (shared + rng.normal(size=150) + s * truth for s in (0.8, 1.2))
    found, pulled = delong(one, two, truth), []
    for _ in range(400):
        rows = rng.integers(0, 150, 150)
        drawn = delong(one[rows], two[rows], truth[rows])
        pulled.append(drawn.difference)
    assert found.z is not None
    assert abs(found.difference / found.z) == pytest.approx(np.std(pulled), rel=0.15)


def test_delong_at_its_ends() -> None:
    truth = np.array([True, True, False, False])
    best, worst = np.array([3.0, 4, 1, 2]), np.array([1.0, 2, 3, 4])
    assert delong(best, worst, truth) == DeLong(1.0, 0.0, 1.0, None, None, None)  # no variance: nothing is said
    assert delong(best, 10 * best, truth) == DeLong(1.0, 1.0, 0.0, None, 0.0, 1.0)
    with pytest.raises(ConfigError, match=r"two cases on each side; got .* 1 and 3"):
        delong(best, worst, [True, False, False, False])


def test_mcnemar_is_a_sign_test_of_the_discordant_cases() -> None:
    rng = np.random.default_rng(0)
    one, two = rng.uniform(size=60) < 0.7, rng.uniform(size=60) < 0.5
    found = mcnemar(one, two)
    b, c = int((one & ~two).sum()), int((two & ~one).sum())
    assert (found.b, found.c, found.n) == (b, c, 60)
    assert found.p_value == pytest.approx(stats.binomtest(b, b + c).pvalue)
    assert mcnemar(one, one).p_value == 1
    with pytest.raises(ConfigError, match=r"mcnemar\.second must have one answer per case \(60,\); got \(59,\)"):
        mcnemar(one, two[1:])


def run(strength: float, *, seed: int = 0, n: int = 60, sessions: int = 1, truths: int = 5) -> Results:
    """A run on targets of two classes (side), three (grade) and two questions (findings); the truth is the same in all."""
    rng, of_truth, cases = np.random.default_rng(seed), np.random.default_rng(truths), []
    for i in range(n):
        side, grade, findings = int(of_truth.integers(2)), int(of_truth.integers(3)), of_truth.integers(0, 2, 2)
        known: list[float | None] = [float(findings[0]), None if i % 4 == 0 else float(findings[1])]
        raw = {"side": np.eye(2)[side], "grade": np.eye(3)[grade]}
        p = {name: _softmax(rng.normal(size=len(hot)) + strength * hot) for name, hot in raw.items()}
        p["findings"] = (1 / (1 + np.exp(-rng.normal(size=2) - strength * (findings - 0.5)))).tolist()
        cases.append(
            CaseResult(
                subject=f"c{i}",
                group=f"p{i // sessions}",
                present=A,
                probabilities=p,
                targets={"side": side, "grade": grade, "findings": known},
            )
        )
    classes = {"side": ("benign", "malignant"), "grade": ("low", "middle", "high"), "findings": ("edema", "mass")}
    return Results(method="m", cohort="c", split="test", seed=seed, cases=tuple(cases), classes=classes)


def _softmax(raw: Floats) -> list[float]:
    return [float(p) for p in np.exp(raw) / np.exp(raw).sum()]


def one_of(rows: Sequence[PairedTest], target: str, test: str, **wanted: str) -> PairedTest:
    (found,) = (
        row for row in rows if (row.target, row.test) == (target, test) and all(getattr(row, k) == v for k, v in wanted.items())
    )
    return found


def test_a_table_of_two_runs_has_a_line_for_each_question_of_each_target() -> None:
    a, b = run(1.5, seed=1), run(0.3, seed=2)
    rows = paired_tests(a, b, metrics=["AUROC", "balanced_accuracy"], resamples=500)
    assert [(row.target, row.label) for row in rows if row.test == "McNemar"] == [
        ("side", ""),
        ("grade", ""),
        ("findings", "edema"),
        ("findings", "mass"),
    ]
    assert [(row.target, row.label) for row in rows if row.test == "DeLong"] == [
        ("side", ""),
        ("grade", "low"),
        ("grade", "middle"),
        ("grade", "high"),
        ("findings", "edema"),
        ("findings", "mass"),
    ]
    p = [np.array([(c.probabilities or {})["grade"] for c in result.cases]) for result in (a, b)]
    truth = np.array([(c.targets or {})["grade"] for c in a.cases])
    right = [one.argmax(axis=1) == truth for one in p]
    found = one_of(rows, "grade", "McNemar")
    assert (found.b, found.c, found.p_value) == (
        int((right[0] & ~right[1]).sum()),
        int((~right[0] & right[1]).sum()),
        mcnemar(*right).p_value,
    )
    assert found.effect == pytest.approx(right[0].mean() - right[1].mean())
    assert found.statistic == min(found.b or 0, found.c or 0)
    assert found.ci95 is not None and found.effect is not None and found.ci95[0] < found.effect < found.ci95[1]
    expected = delong(p[0][:, 2], p[1][:, 2], truth == 2)
    low = one_of(rows, "grade", "DeLong", label="high")
    assert (low.effect, low.statistic, low.p_value, low.ci95) == (
        expected.difference,
        expected.z,
        expected.p_value,
        expected.ci95,
    )
    assert one_of(rows, "findings", "McNemar", label="mass").n == 45  # of those that are labelled
    for test, metric in (("McNemar", "accuracy"), ("DeLong", "AUROC"), ("bootstrap", "balanced_accuracy")):
        family = [row for row in rows if (row.test, row.metric) == (test, metric)]
        assert [row.p_holm for row in family] == holm([row.p_value for row in family])
    assert {row.note for row in rows} == {None} and {row.p_runs for row in rows} == {()}


def test_the_other_way_round_is_the_same_with_the_other_sign() -> None:
    a, b = run(1.5, seed=1), run(0.3, seed=2)
    for one, two in zip(paired_tests(a, b, resamples=300), paired_tests(b, a, resamples=300), strict=True):
        assert one.effect == pytest.approx(-(two.effect or 0)) and one.p_value == pytest.approx(two.p_value)
        assert (one.b, one.c) == (two.c, two.b)


def test_a_run_against_itself_differs_in_nothing() -> None:
    rows = paired_tests([run(1.0)], [run(1.0)], resamples=300)
    assert {row.effect for row in rows} == {0.0} and {row.p_value for row in rows} == {1.0}


def test_of_several_runs_probabilities_are_averaged_and_each_pair_is_told() -> None:
    ours, theirs = [run(1.0, seed=s) for s in (1, 2, 3)], [run(0.5, seed=s) for s in (11, 12, 13)]
    rows = paired_tests(ours, theirs, targets=["side"], resamples=400)
    means = [np.mean([[(c.probabilities or {})["side"] for c in one.cases] for one in runs], axis=0) for runs in (ours, theirs)]
    truth = np.array([(c.targets or {})["side"] for c in ours[0].cases]) == 1
    found = one_of(rows, "side", "DeLong")
    assert found.p_value == pytest.approx(delong(means[0][:, 1], means[1][:, 1], truth).p_value)
    single = [
        one_of(paired_tests(a, b, targets=["side"], resamples=2), "side", "DeLong") for a, b in zip(ours, theirs, strict=True)
    ]
    assert found.p_runs == pytest.approx([one.p_value for one in single])
    assert found.note == "of the mean probabilities of each case over those runs that test it, 3 and 3 runs in all"
    boot = one_of(rows, "side", "bootstrap", metric="AUROC")
    assert boot.effect == pytest.approx(np.mean([one.effect or 0 for one in single]))  # the mean over runs, no ensemble
    assert boot.p_runs == () and boot.note == "mean over 3 and 3 runs"
    assert {row.p_runs for row in paired_tests(ours, theirs[:2], targets=["side"], resamples=2)} == {()}


def test_sessions_of_a_patient_are_said_where_the_test_knows_no_patients() -> None:
    rows = paired_tests(run(1.0, seed=1, sessions=2), run(0.5, seed=2, sessions=2), targets=["side"], resamples=300)
    notes = {row.test: row.note for row in rows}
    assert notes == {
        "McNemar": "takes cases as independent, and some patients have several",
        "DeLong": "takes cases as independent, and some patients have several",
        "bootstrap": None,
    }


def test_only_common_cases_count_and_their_truth_must_agree() -> None:
    rows = paired_tests(run(1.0, n=30), run(0.5, n=20), targets=["side"], resamples=100)
    assert {row.n for row in rows} == {20}
    assert paired_tests(run(1.0), run(0.5), targets=["stage"], resamples=100) == []
    with pytest.raises(DataError, match="results must agree on the truth of side; got"):
        paired_tests(run(1.0), run(0.5, truths=6), resamples=100)


def test_few_patients_have_no_interval_and_no_bootstrap() -> None:
    rows = paired_tests(run(1.0, n=5, seed=1), run(0.5, n=5, seed=2), targets=["side"], resamples=100)
    for row in rows:
        assert row.ci95 is None or row.test == "DeLong"
        assert row.test != "bootstrap" or row.p_value is None


def test_questions_that_nobody_or_everybody_has_are_left_out() -> None:
    """They would count as tests in Holm's correction, and nothing can be learned of them."""

    def without(results: Results, value: float) -> Results:
        cases = []
        for case in results.cases:
            known = (case.targets or {})["findings"]
            assert isinstance(known, list)
            cases.append(case.model_copy(update={"targets": {"findings": [known[0], value]}}))
        return results.model_copy(update={"cases": tuple(cases)})

    whole = paired_tests(run(1.0), run(0.5), targets=["findings"], metrics=())
    assert [row.test for row in whole] == ["McNemar", "McNemar", "DeLong", "DeLong"]
    for value in (0.0, 1.0):
        rows = paired_tests(without(run(1.0), value), without(run(0.5), value), targets=["findings"], metrics=())
        assert [(row.test, row.label) for row in rows] == [(row.test, row.label) for row in (whole[0], whole[2])]
        assert all(row.p_holm == row.p_value for row in rows)


def moved(results: Results, *rows: tuple[str, ...], used: tuple[str, ...] | None = None) -> Results:
    """The same answers from each row; without `used` all of it was used."""
    cases = [case.model_copy(update={"present": row, "used": used or row}) for row in rows for case in results.cases]
    return results.model_copy(update={"cases": tuple(cases)})


def test_the_row_is_one_that_both_have() -> None:
    """The second method has a row of two modalities, the first has not; where they share none, each has its own."""
    one, two, pair = run(1.0, seed=1), run(0.5, seed=2), ("t1", "t2")
    alone = paired_tests(one, two, targets=["side"], resamples=50)
    wide = moved(two, pair, A)
    found = paired_tests(one, wide, targets=["side"], resamples=50)
    assert found == alone and {(row.used, row.used_b) for row in found} == {(A, A)}
    apart = paired_tests(one, moved(two, pair, ("t2",)), targets=["side"], resamples=50)
    assert {(row.used, row.used_b) for row in apart} == {(A, pair)}
    both = paired_tests([moved(one, A, pair)] * 2, [wide, moved(two, A)], targets=["side"], resamples=50)
    assert {(row.used, row.used_b) for row in both} == {(A, A)}  # one run of the second has no more
    full = paired_tests(moved(one, A, pair), wide, targets=["side"], resamples=50)
    assert {(row.used, row.used_b) for row in full} == {(pair, pair)}


def test_the_row_is_not_wider_than_what_is_used() -> None:
    """Of two methods that look at t1 alone the cases without t2 count; beside one that looks at both, they do not."""
    one, two, pair = run(1.0, seed=1), run(0.5, seed=2), ("t2", "t1")
    readers = [moved(results, A, pair, used=A) for results in (one, two)]
    some = [
        r.model_copy(update={"cases": tuple(c for c in r.cases if c.present == A or int(c.subject[1:]) % 2)}) for r in readers
    ]
    found = paired_tests(*some, targets=["side"], resamples=50)
    assert {row.n for row in found} == {60} and {(row.used, row.used_b) for row in found} == {(A, A)}
    against = paired_tests(some[0], moved(two, A, pair), targets=["side"], resamples=50)
    assert {row.n for row in against} == {30} and {(row.used, row.used_b) for row in against} == {(A, ("t1", "t2"))}


def test_common_rows_at_their_ends() -> None:
    one, empty = run(1.0), run(1.0).model_copy(update={"cases": ()})
    other = moved(one, ("b",), ("a",))
    assert common_row([one, [one, empty]]) == A  # a run without a case does not count
    assert common_row([other, moved(one, ("a",), ("b",))]) == common_row([moved(one, ("a",), ("b",)), other]) == ("a",)
    assert common_row([moved(one, ("a", "b")), moved(one, ("b", "a"))]) == ("a", "b")
    assert common_row([one, other]) is None and common_row([empty]) is None
    old = one.model_copy(update={"cases": tuple(case.model_copy(update={"used": None}) for case in one.cases)})
    assert common_row([old, one]) == A and paired_tests(old, one, targets=["side"], resamples=2)[0].used == A


def test_a_run_without_a_labelled_case_has_no_p_of_its_own() -> None:
    ours, theirs = [run(1.0, seed=s) for s in range(3)], [run(0.5, seed=s) for s in range(3, 6)]
    bare = ours[1].model_copy(update={"cases": tuple(c.model_copy(update={"targets": {}}) for c in ours[1].cases)})
    for target in ("side", "findings"):
        for row in paired_tests([ours[0], bare, ours[2]], theirs, targets=[target], metrics=()):
            assert [p is None for p in row.p_runs] == [False, True, False], row


@pytest.mark.slow
def test_the_bootstrap_rejects_about_as_often_as_it_says() -> None:
    rng, rejected = np.random.default_rng(0), 0
    for _ in range(200):
        seeds = rng.integers(0, 1_000_000, 2)
        rows = paired_tests(
            run(0.8, seed=int(seeds[0])), run(0.8, seed=int(seeds[1])), targets=["side"], metrics=["AUROC"], resamples=400
        )
        rejected += (one_of(rows, "side", "bootstrap").p_value or 1) < 0.05
    assert 0.01 < rejected / 200 < 0.11
