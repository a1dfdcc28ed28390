"""The sentence at the top says no more than the intervals allow."""

from __future__ import annotations

from comodal.evaluation.results import CaseResult, MetricValue, Results, SubsetResult
from comodal.reporting.about import empty_predictions
from comodal.reporting.answer import answer
from comodal.reporting.tables import as_table

A, AB = ("flair",), ("flair", "t1")


def result(method: str, values: dict[tuple[str, ...], list[float]]) -> Results:
    rows, cases = [], []
    for present, numbers in values.items():
        mean = sum(numbers) / len(numbers)
        metric = MetricValue(value=mean, ci95=(min(numbers), max(numbers)), n=len(numbers), n_pos=len(numbers), n_neg=0)
        rows.append(SubsetResult(present=present, metrics={"DSC/WT": metric}))
        cases += [
            CaseResult(subject=f"p{i}", group=f"p{i}", present=present, metrics={"DSC/WT": v}) for i, v in enumerate(numbers)
        ]
    return Results(method=method, cohort="c", split="test", seed=0, subsets=tuple(rows), cases=tuple(cases))


def test_one_method_says_its_average_best_and_worst() -> None:
    text = answer(as_table(result("unet", {A: [0.4, 0.6], AB: [0.8, 0.9]})))
    assert text == (
        "unet reaches a DSC WT of 0.675 [0.60, 0.75] on 2 test cases, averaged over all 2 subsets of the modalities. "
        "unet is best from flair + t1 (0.850 [0.80, 0.90]) and worst from flair (0.500 [0.40, 0.60])."
    )


def test_a_clear_difference_has_a_direction_and_an_unclear_one_has_none() -> None:
    base = result("unet", {A: [0.4, 0.5, 0.6], AB: [0.7, 0.8, 0.9]})
    better = result("moddrop", {A: [0.6, 0.7, 0.8], AB: [0.7, 0.8, 0.9]})
    text = answer(as_table([base, better]), split="val")
    assert text.startswith("The DSC WT of moddrop is 0.100 higher than that of unet, averaged over all 2 subsets")
    assert "over 3 val cases" in text
    assert "With all modalities the difference is 0.000 [0.000, 0.000]." in text
    mixed = result("moddrop", {A: [0.3, 0.5, 0.7], AB: [0.7, 0.8, 0.9]})
    assert answer(as_table([base, mixed])).startswith("There is no clear difference between moddrop and unet: 0.000 DSC WT")


def test_nothing_evaluated() -> None:
    assert answer(as_table({"unet": []})).startswith("Not evaluated yet")


def test_a_region_that_is_never_found_is_called_so() -> None:
    table = as_table(result("unet", {A: [0.0, 0.005], AB: [0.5, 0.6]}))
    assert empty_predictions(table, "unet") == ("DSC WT is below 0.01, so practically nothing is found, from flair.",)
