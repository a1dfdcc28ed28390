"""Runs in one table: averages over seeds, intervals over patients, differences on common cases."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import pytest

from comodal.errors import DataError
from comodal.evaluation.comparison import combine
from comodal.evaluation.results import CaseResult, MetricValue, Results, SubsetResult
from comodal.evaluation.statistics import paired_difference
from comodal.evaluation.table import Contrast

Values = Mapping[tuple[str, ...], Mapping[str, float | None]]


def run(values: Values, *, method: str = "m", seed: int = 0, unsupported: tuple[tuple[str, ...], ...] = ()) -> Results:
    """A result from {subset: {case: DSC}}."""
    rows, cases = [SubsetResult(present=s, supported=False) for s in unsupported], []
    for present, by_case in values.items():
        known = [value for value in by_case.values() if value is not None]
        metric = MetricValue(
            value=float(np.mean(known)) if known else None, ci95=(0.0, 1.0), n=len(known), n_pos=len(known), n_neg=0
        )
        rows.append(SubsetResult(present=present, metrics={"DSC/WT": metric}))
        cases += [CaseResult(subject=c, group=c[:2], present=present, metrics={"DSC/WT": v}) for c, v in by_case.items()]
    return Results(method=method, cohort="c", split="test", seed=seed, subsets=tuple(rows), cases=tuple(cases))


A, B, AB = ("a",), ("b",), ("a", "b")


def test_a_case_is_averaged_over_seeds_before_the_cases_are() -> None:
    # p1 has two runs (0.2, 0.6), p2 only one (0.9), as with folds: (0.4 + 0.9) / 2, not (0.2 + 0.6 + 0.9) / 3.
    table = combine({"m": [run({A: {"p1": 0.2, "p2": 0.9}}), run({A: {"p1": 0.6, "p2": None}}, seed=1)]})
    cell = table.rows[0].cells["m"]["DSC/WT"]
    assert cell.value == pytest.approx(0.65)
    assert (cell.n, cell.runs) == (2, 2)
    assert cell.ci95 is None  # of two patients
    assert (cell.n_pos, cell.n_neg) == (None, None)  # the runs counted different cases


def test_a_single_run_keeps_its_own_numbers() -> None:
    cell = combine({"m": [run({A: {"p1": 0.2, "p2": 0.9}})]}).rows[0].cells["m"]["DSC/WT"]
    assert cell.value == pytest.approx(0.55)
    assert (cell.ci95, cell.n, cell.n_pos) == ((0.0, 1.0), 2, 2)


def test_rows_are_small_first_and_say_what_was_not_run_or_is_not_supported() -> None:
    table = combine({"x": [run({AB: {"p1": 0.5}}, unsupported=(B,))], "y": []}, modalities=["a", "b"])
    assert [row.present for row in table.rows] == [A, B, AB]
    assert [row.cells["x"]["DSC/WT"].state for row in table.rows] == ["not run", "not supported", "value"]
    assert {row.cells["y"]["DSC/WT"].state for row in table.rows} == {"not run"}
    assert table.averaged == (AB,)  # a method that was not run at all does not empty the average
    assert table.rows[2].contrasts == {"y": {}}


def test_a_row_without_a_countable_case_says_so() -> None:
    assert combine({"m": [run({A: {"p1": None}})]}).rows[0].cells["m"]["DSC/WT"].state == "no cases"


def test_differences_are_paired_on_common_cases_and_corrected_by_holm() -> None:
    ours: Values = {A: {"p1": 0.5, "p2": 0.7, "p3": 0.9, "p4": 0.8}, B: {"p1": 0.5, "p2": 0.6, "p3": 0.7, "p4": 0.1}}
    theirs: Values = {A: {"p1": 0.4, "p2": 0.5, "p3": 0.6, "p9": 0.0}, B: {"p1": 0.5, "p2": 0.5, "p3": 0.9, "p4": 0.2}}
    table = combine({"base": [run(theirs)], "new": [run(ours)]})
    first = table.rows[0].contrasts["new"]["DSC/WT"]
    expected = paired_difference(ours[A], theirs[A])
    assert (first.value, first.ci95, first.n, first.p_value) == (expected.value, expected.ci95, 3, expected.p_value)
    assert first.value == pytest.approx(0.2)
    raw = sorted(float(row.contrasts["new"]["DSC/WT"].p_value or 0) for row in table.rows)
    held = sorted(float(row.contrasts["new"]["DSC/WT"].p_holm or 0) for row in table.rows)
    assert held == pytest.approx([min(1, 2 * raw[0]), max(min(1, 2 * raw[0]), raw[1])])


def test_the_average_counts_each_row_once_and_only_rows_that_all_methods_have() -> None:
    full = run({A: {"p1": 0.2, "p2": 0.4}, B: {"p1": 0.9}, AB: {"p1": 1.0}})
    table = combine({"x": [full], "y": [run({A: {"p1": 0.1, "p2": 0.1}, B: {"p1": 0.5}}, unsupported=(AB,))]})
    assert table.averaged == (A, B)
    assert table.average is not None
    assert table.average.cells["x"]["DSC/WT"].value == pytest.approx((0.3 + 0.9) / 2)
    assert table.average.cells["x"]["DSC/WT"].n == 2
    # Per case: p1 averages its two rows (0.55 against 0.3), p2 has one (0.4 against 0.1).
    assert table.average.contrasts["y"]["DSC/WT"].value == pytest.approx((-0.25 - 0.3) / 2)


def test_the_interval_of_the_average_equals_a_slow_bootstrap() -> None:
    rng = np.random.default_rng(3)
    values = rng.uniform(size=(12, 3))
    names = [f"p{i % 7}{i}" for i in range(12)]  # patients p0 to p4 have two cases, p5 and p6 one
    rows = {s: {names[i]: float(values[i, k]) for i in range(12)} for k, s in enumerate([A, B, AB])}
    cell = combine({"m": [run({s: dict(v) for s, v in rows.items()})]}, seed=5, resamples=500)
    groups = sorted({name[:2] for name in names})
    draws = np.random.default_rng(5).integers(0, len(groups), (500, len(groups)))
    means = []
    for draw in draws:
        cases = [i for g in draw for i in range(12) if names[i][:2] == groups[g]]
        means.append(np.mean([values[cases, k].mean() for k in range(3)]))
    assert cell.average is not None
    assert cell.average.cells["m"]["DSC/WT"].ci95 == pytest.approx(tuple(np.percentile(means, (2.5, 97.5))))


def test_few_patients_are_said_once() -> None:
    few, some = {f"p{i}": 0.1 * i for i in range(5)}, {f"p{i}": 0.1 * i for i in range(6)}
    table = combine({"m": [run({A: few, B: some})]})
    assert table.notes == (
        "too few patients for an interval (fewer than 6)",
        "intervals of fewer than 20 patients are too narrow",
    )
    many = {f"{i}".rjust(2, "p"): 0.01 * i for i in range(20)}
    assert combine({"m": [run({A: many})]}).notes == ()
    # n counts cases, the rule counts patients: 20 cases of five patients have no interval.
    copies = {f"p{i % 5}{i}": 0.01 * i for i in range(20)}
    table = combine({"m": [run({A: copies}), run({A: copies}, seed=1)]})
    cell = table.rows[0].cells["m"]["DSC/WT"]
    assert (cell.n, cell.ci95, table.notes) == (20, None, ("too few patients for an interval (fewer than 6)",))


def test_a_difference_is_clear_by_interval_and_by_holm_together() -> None:
    one = Contrast(0.1, (0.01, 0.2), 10, 0.03, 0.04)
    assert one.clear and replace(one, ci95=(-0.3, -0.1)).clear
    assert not replace(one, p_holm=0.05).clear  # the interval alone does not make it
    assert not replace(one, ci95=(0.0, 0.2)).clear
    assert not replace(one, ci95=None).clear
    assert replace(one, p_value=None, p_holm=None).clear  # a difference that was not tested


def classes(rng: np.random.Generator, truth: list[int], strength: float, *, first: int = 0, seed: int = 0) -> Results:
    """A result on the cases p<first>, p<first + 1>, ..."""
    from comodal.evaluation.classification import as_columns, pooled_metrics
    from comodal.modality import Target

    positive = 1 / (1 + np.exp(-(np.array(truth) * 2 - 1) * strength - rng.normal(size=len(truth))))
    probabilities = np.stack([1 - positive, positive], axis=1)
    ids = [f"p{first + i}" for i in range(len(truth))]
    metrics = pooled_metrics(Target("d", "class", ("no", "yes")), probabilities, as_columns(truth, 2), groups=ids)
    cases = [
        CaseResult(subject=c, group=c, present=A, probabilities={"d": list(p)}, targets={"d": t})
        for c, p, t in zip(ids, probabilities.tolist(), truth, strict=True)
    ]
    row = SubsetResult(present=A, metrics=metrics)
    return Results(method="m", cohort="c", split="test", seed=seed, subsets=(row,), cases=tuple(cases))


@pytest.mark.parametrize("metric", ["AUROC/d", "balanced_accuracy/d", "accuracy/d"])
def test_pooled_metrics_average_their_runs_on_the_same_resamples(metric: str) -> None:
    rng = np.random.default_rng(0)
    truth = [i % 2 for i in range(30)]
    one, two, weak = classes(rng, truth, 1.0), classes(rng, truth, 1.0, seed=1), classes(rng, truth, 0.0)
    values = [float(r.subsets[0].metrics[metric].value or 0) for r in (one, two, weak)]
    table = combine({"weak": [weak], "strong": [one, two]})
    cell = table.rows[0].cells["strong"][metric]
    assert cell.value == pytest.approx((values[0] + values[1]) / 2)
    assert cell.ci95 is not None
    assert cell.ci95[0] < cell.value < cell.ci95[1]
    assert cell.ci95[1] - cell.ci95[0] < 0.5
    contrast = table.rows[0].contrasts["strong"][metric]
    assert contrast.value == pytest.approx(cell.value - values[2])
    assert contrast.p_value is not None and contrast.p_value == contrast.p_holm  # of the paired bootstrap; one row
    assert (contrast.p_value < 0.05) == (contrast.ci95 is not None and contrast.ci95[0] > 0)
    # Two equal runs are one run: same value, same interval.
    twice = combine({"m": [one, one]}).rows[0].cells["m"][metric]
    assert twice.value == pytest.approx(values[0])
    assert twice.ci95 == pytest.approx(one.subsets[0].metrics[metric].ci95)


@pytest.mark.parametrize("metric", ["AUROC/d", "balanced_accuracy/d", "accuracy/d"])
def test_pooled_metrics_over_folds_count_every_case_once(metric: str) -> None:
    rng = np.random.default_rng(0)
    folds = [classes(rng, [0, 1, 1] * 4, 1.0), classes(rng, [0, 1, 0, 0] * 3, 1.0, first=12)]
    cell = combine({"m": folds}).rows[0].cells["m"][metric]
    assert (cell.n, cell.runs) == (24, 2)
    sides = (8 + 3, 4 + 9)  # of 12 and 12 cases
    assert (cell.n_pos, cell.n_neg) == sides
    table = combine({"m": [*folds, *folds], "other": [*folds]})  # seeds add none
    cell = table.rows[0].cells["m"][metric]
    assert (cell.n, cell.n_pos, cell.n_neg) == (24, *sides)
    assert table.average is not None and table.average.cells["m"][metric].n == table.rows[0].contrasts["other"][metric].n == 24


def three(seed: int) -> Results:
    """A run on a target of three classes, with numbers for each of them."""
    from comodal.evaluation.classification import as_columns, pooled_metrics
    from comodal.modality import Target

    rng, target = np.random.default_rng(seed), Target("g", "class", ("low", "middle", "high"))
    truth = [i % 3 for i in range(30)]
    raw = np.exp(rng.normal(size=(30, 3)) + np.eye(3)[truth])
    probabilities = raw / raw.sum(axis=1, keepdims=True)
    ids = [f"p{i}" for i in range(30)]
    metrics = pooled_metrics(target, probabilities, as_columns(truth, 3), groups=ids)
    cases = [
        CaseResult(subject=c, group=c, present=A, probabilities={"g": p}, targets={"g": t})
        for c, p, t in zip(ids, probabilities.tolist(), truth, strict=True)
    ]
    row = SubsetResult(present=A, metrics=metrics)
    named = {"g": target.classes}
    return Results(method="m", cohort="c", split="test", seed=seed, subsets=(row,), cases=tuple(cases), classes=named)


def test_a_table_has_the_main_metrics_and_others_on_demand() -> None:
    runs = [three(0), three(1)]
    assert combine({"m": runs}).metrics == ("AUROC/g", "balanced_accuracy/g", "accuracy/g")
    assert combine({"m": runs}, metrics=["ECE", "AUROC"], resamples=50).metrics == ("AUROC/g", "ECE/g")  # not of single classes
    names = ["AUROC/g/middle", "AUPRC/g/high", "F1_macro/g"]
    table = combine({"m": runs, "other": [three(2)]}, metrics=names, resamples=200)
    assert set(table.metrics) == set(names)
    for name in names:
        cell, both = table.rows[0].cells["m"][name], [run.subsets[0].metrics[name].value or 0 for run in runs]
        assert cell.value == pytest.approx(np.mean(both))
        assert cell.ci95 is not None and cell.ci95[0] < cell.value < cell.ci95[1]
        assert table.rows[0].contrasts["other"][name].p_value is not None
    twice = combine({"m": [runs[0], runs[0]]}, metrics=names).rows[0].cells["m"]["AUROC/g/middle"]
    assert twice.ci95 == pytest.approx(runs[0].subsets[0].metrics["AUROC/g/middle"].ci95)


def test_no_method_is_refused() -> None:
    with pytest.raises(DataError, match=r"combine must get at least one method; got none\. Give \{label: \[results\]\}\."):
        combine({})
