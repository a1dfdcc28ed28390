"""The sentence at the top says no more than the intervals allow."""

from __future__ import annotations

from tests.reporting.classes import GRADE, made

from comodal.evaluation.comparison import combine
from comodal.evaluation.results import CaseResult, MetricValue, Results, SubsetResult
from comodal.reporting.about import empty_predictions
from comodal.reporting.answer import answer
from comodal.reporting.page_tables import page_tables
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
        "unet reaches a DSC WT of 0.675 on 2 test cases, averaged over all 2 subsets of the modalities. "
        "unet is best from flair + t1 (0.850 [0.80, 0.90]) and worst from flair (0.500 [0.40, 0.60])."
    )


LOW, HIGH = [0.40, 0.44, 0.48, 0.52, 0.56, 0.60], [0.70, 0.74, 0.78, 0.82, 0.86, 0.90]


def plus(values: list[float], *changes: float) -> list[float]:
    return [value + change for value, change in zip(values, changes, strict=True)]


def test_a_clear_difference_has_a_direction_and_an_unclear_one_has_none() -> None:
    base = result("unet", {A: LOW, AB: HIGH})
    better = result("moddrop", {A: plus(LOW, *[0.2] * 6), AB: HIGH})
    text = answer(as_table([base, better]), split="val")
    assert text.startswith("The DSC WT of moddrop is 0.100 higher than that of unet, averaged over all 2 subsets")
    assert "over 6 val cases" in text
    assert "With all modalities the difference is 0.000 [0.000, 0.000]." in text
    mixed = result("moddrop", {A: plus(LOW, 0.1, -0.1, 0.1, -0.1, 0.1, -0.1), AB: HIGH})
    assert answer(as_table([base, mixed])).startswith("There is no clear difference between moddrop and unet: 0.000 DSC WT")


def test_the_headline_and_the_table_call_the_same_differences_clear() -> None:
    """Five of six patients gain: the interval excludes zero, the test does not (p = 2 x 2 / 64). Neither may call it clear."""
    base = result("unet", {A: LOW, AB: HIGH})
    one, two = (plus(values, -0.01, 0.05, 0.06, 0.07, 0.08, 0.09) for values in (LOW, HIGH))
    gains = result("moddrop", {A: one, AB: two})
    table = as_table([base, gains])
    assert table.average is not None
    contrast = table.average.contrasts["moddrop"]["DSC/WT"]
    assert contrast.ci95 is not None and contrast.ci95[0] > 0 and contrast.p_holm is not None and contrast.p_holm > 0.05
    text = answer(table)
    assert text.startswith("There is no clear difference between moddrop and unet: +0.0")
    assert {cell.look for row in page_tables(table)[0].rows for cell in row.cells} == {"value", "difference"}


def test_without_an_interval_nothing_is_clear_and_the_reason_is_said() -> None:
    base = result("unet", {A: LOW[:5], AB: HIGH[:5]})
    text = answer(as_table([base, result("moddrop", {A: HIGH[:5], AB: HIGH[:5]})]))
    assert text.startswith("There is no clear difference between moddrop and unet: +0.150 DSC WT")
    assert "(too few patients for an interval, p = 0.062)" in text
    assert "With all modalities the difference is 0.000." in text


def test_nothing_evaluated() -> None:
    assert answer(as_table({"unet": []})).startswith("Not evaluated yet")


def test_a_region_that_is_never_found_is_called_so() -> None:
    table = as_table(result("unet", {A: [0.0, 0.005], AB: [0.5, 0.6]}))
    assert empty_predictions(table, "unet") == ("DSC WT is below 0.01, so practically nothing is found, from flair.",)


def test_a_dsc_of_empty_cases_alone_is_called_so() -> None:
    """Without a distance in any case, a DSC above 0 is the share of cases where neither truth nor prediction has any."""

    def run(method: str, n_pos: int | None, *, distance: float | None) -> Results:
        values = {"DSC/WT": MetricValue(value=0.55, n=20, n_pos=n_pos, n_neg=None if n_pos is None else 20 - n_pos)}
        values["HD95/WT"] = MetricValue(value=distance, n=0 if distance is None else 3)
        return Results(
            method=method, cohort="c", split="test", seed=0, subsets=(SubsetResult(present=AB, metrics=values),), cases=()
        )

    table = as_table([run("unet", 9, distance=None), run("ciml", 9, distance=4.0), run("healthy", 0, distance=None)])
    assert empty_predictions(table, "unet") == (
        (
            "DSC WT (0.550 from flair+t1) is of cases alone in which neither truth nor prediction has any: where there is "
            "some, none is found."
        ),
    )
    assert empty_predictions(table, "ciml") == empty_predictions(table, "healthy") == ()


def test_many_methods_are_an_ordered_list_and_who_stands_out() -> None:
    """Four paragraphs of differences would be read by nobody."""
    values = {"a": 0.5, "b": 0.7, "c": 0.5, "d": 0.3}
    table = as_table({n: [result(n, {A: [v + i / 500 for i in range(12)], AB: [v] * 12})] for n, v in values.items()})
    text = answer(table)
    assert text.index("b 0.7") < text.index("a 0.5") < text.index("d 0.3")
    assert "highest first" in text and "Clearly different from a: b (+0.2" in text and "No clear difference to a: c." in text
    assert "best from" not in text


def test_of_several_targets_the_first_is_not_all_that_is_said() -> None:
    table = combine({"m": [made("m")]}, resamples=50)
    assert table.average is not None
    values = {name: table.average.cells["m"][f"AUROC/{name}"].value for name in ("grade", "blue_veil")}
    low, high = sorted(values, key=lambda name: values[name])
    said = f"Over the 2 targets it goes from {values[low]:.3f} ({low}) to {values[high]:.3f} ({high})."
    assert answer(table).startswith("m reaches an AUROC grade of") and answer(table).endswith(said)
    assert "Over the" not in answer(combine({"m": [made("m", targets=[GRADE])]}, resamples=50))


def test_of_several_targets_the_clear_differences_are_counted() -> None:
    worse = made("worse")
    swapped = tuple(
        case.model_copy(update={"probabilities": {k: v[::-1] for k, v in (case.probabilities or {}).items()}})
        for case in worse.cases
    )
    table = combine({"m": [made("m")], "worse": [worse.model_copy(update={"cases": swapped})]}, resamples=200)
    assert table.average is not None
    clear = [c for c in table.average.contrasts["worse"].values() if c.clear]
    assert clear and all((c.value or 0) < 0 for c in clear)
    lower = sum(table.average.contrasts["worse"][f"AUROC/{name}"].clear for name in ("grade", "blue_veil"))
    assert f"Against m, worse is clearly higher in 0 and clearly lower in {lower} of 2 targets." in answer(table)


def test_where_nothing_changes_there_is_no_best() -> None:
    text = answer(as_table(result("guidance", {A: [0.4, 0.6], AB: [0.4, 0.6]})))
    assert "best" not in text and text.startswith("guidance reaches a DSC WT of 0.500")
