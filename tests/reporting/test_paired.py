"""The table of paired tests of a study, against the tests themselves."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from comodal.evaluation.paired_tests import paired_tests
from comodal.evaluation.results import CaseResult, Results, SubsetResult
from comodal.evaluation.statistics import holm
from comodal.reporting.paired import paired_markdown, pairs_of
from comodal.study.study import Arm, StudyConfig, StudyResult

TRUTH = [0, 1] * 10


def made_up(label: str, right: list[bool], *, seed: int = 0) -> Results:
    """Answers that are right where said, on twenty cases."""
    cases = []
    for k, (truth, yes) in enumerate(zip(TRUTH, right, strict=True)):
        p = 0.6 + 0.01 * ((7 * k + seed) % 20)
        answer = [p, 1 - p] if (truth == 0) == yes else [1 - p, p]
        case = {"subject": f"p{k}", "group": f"p{k}", "present": ("a",), "used": ("a",)}
        cases.append(CaseResult(**case, probabilities={"ill": answer}, targets={"ill": truth}))
    own: dict[str, Any] = {"cohort": "made up", "split": "test", "classes": {"ill": ("no", "yes")}}
    return Results(method=label, seed=seed, subsets=(SubsetResult(present=("a",)),), cases=tuple(cases), **own)


def study(results: dict[str, list[Results]], reference: str = "base") -> StudyResult:
    config = StudyConfig(cohort="cohort.csv", methods=tuple(Arm(name="classifier", label=label) for label in results))
    return StudyResult(Path("nowhere"), config, {label: [] for label in results}, results, reference)


@pytest.fixture
def made() -> StudyResult:
    base = [k % 3 > 0 for k in range(20)]
    return study(
        {
            "base": [made_up("base", base)],
            "good": [made_up("good", [True] * 19 + [False])],
            "same": [made_up("same", base)],
        }
    )


def test_each_arm_against_the_reference_with_one_correction(made: StudyResult) -> None:
    found = pairs_of(made, "base")
    assert [(label, test.test) for label, test in found] == [
        ("good", "McNemar"),
        ("good", "DeLong"),
        ("same", "McNemar"),
        ("same", "DeLong"),
    ]
    direct = paired_tests(made.results["good"], made.results["base"], metrics=())
    assert [test.p_value for label, test in found if label == "good"] == [test.p_value for test in direct]
    for name in ("McNemar", "DeLong"):
        own = [test for _, test in found if test.test == name]
        assert [test.p_holm for test in own] == holm([test.p_value for test in own])


def test_the_words(made: StudyResult) -> None:
    text = paired_markdown(made)
    assert (
        text.startswith("# Paired tests\n") and "## McNemar: arm against base" in text and "## DeLong: arm against base" in text
    )
    assert (
        "| good | ill | a | 20 | accuracy +0.300 [" in text
        and "| same | ill | a | 20 | accuracy 0.000 [0.000, 0.000] | 0 | 0 |" in text
    )
    assert "Holm's correction runs over these 2 lines." in text and "p of each pair of runs" not in text


def test_further_references_have_tests_of_their_own(made: StudyResult) -> None:
    config = made.config.model_copy(update={"against": ("same",)})
    text = paired_markdown(replace(made, config=config))
    assert text.count("## McNemar: arm against") == 2 and "only same right" in text


def test_runs_are_told_one_by_one() -> None:
    runs = {
        label: [made_up(label, right, seed=s) for s in (0, 3)]
        for label, right in (("base", [k % 3 > 0 for k in range(20)]), ("good", [True] * 20))
    }
    text = paired_markdown(study(runs))
    assert (
        "p of each pair of runs" in text
        and "Of the mean probabilities of each case over those runs that test it, 2 and 2 runs in all." in text
    )


def test_nothing_to_test_is_no_table(made: StudyResult) -> None:
    assert paired_markdown(study({"base": made.results["base"]})) == ""
    bare = [run.model_copy(update={"cases": ()}) for run in made.results["base"]]
    assert paired_markdown(study({"base": bare, "good": bare})) == ""


def test_arms_of_different_modalities_are_compared_from_what_both_have() -> None:
    """`both` is right on all cases from a and b, and no better than the reference from a, which alone the reference has."""
    base = [k % 3 > 0 for k in range(20)]
    alone, together = made_up("both", base), made_up("both", [True] * 20)
    pair = tuple(case.model_copy(update={"present": ("a", "b"), "used": ("a", "b")}) for case in together.cases)
    rows = (*alone.subsets, SubsetResult(present=("a", "b")))
    both = alone.model_copy(update={"cases": (*pair, *alone.cases), "subsets": rows})
    text = paired_markdown(study({"base": [made_up("base", base)], "both": [both]}))
    assert "| both | ill | a | 20 | accuracy 0.000 [0.000, 0.000] | 0 | 0 |" in text
    apart = both.model_copy(update={"cases": pair})
    text = paired_markdown(study({"base": [made_up("base", base)], "both": [apart]}))
    assert "| both | ill | a + b against a | 20 | accuracy +0.350 [" in text
