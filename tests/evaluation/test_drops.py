"""Each subset minus all modalities: on which cases, averaged how, tested and corrected over what."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pytest
from scipy import stats

from comodal.evaluation.comparison import combine
from comodal.evaluation.drops import drop_note, has_drops, no_full_note
from comodal.evaluation.results import CaseResult, MetricValue, Results, SubsetResult

Values = Mapping[tuple[str, ...], Mapping[str, float | None]]
A, B, AB = ("a",), ("b",), ("a", "b")
DSC = "DSC/WT"


def run(values: Values, *, seed: int = 0, unsupported: tuple[tuple[str, ...], ...] = ()) -> Results:
    """A result from {subset: {case: DSC}}; the first two letters of a case are its patient."""
    rows, cases = [SubsetResult(present=s, supported=False) for s in unsupported], []
    for present, by_case in values.items():
        known = [value for value in by_case.values() if value is not None]
        value = MetricValue(value=float(np.mean(known)) if known else None, n=len(known))
        rows.append(SubsetResult(present=present, metrics={DSC: value}))
        cases += [CaseResult(subject=c, group=c[:2], present=present, metrics={DSC: v}) for c, v in by_case.items()]
    return Results(method="m", cohort="c", split="test", seed=seed, subsets=tuple(rows), cases=tuple(cases))


def incomplete(seed: int) -> dict[tuple[str, ...], dict[str, float | None]]:
    """16 cases of nine patients, of whom every fourth case has no b."""
    rng = np.random.default_rng(seed)
    names = [f"p{i % 9}-{i}" for i in range(16)]
    whole = [name for i, name in enumerate(names) if i % 4]
    sides = ((A, names, 0.5), (B, whole, 0.84), (AB, whole, 0.8))
    return {s: {c: float(best + rng.normal(0, 0.1)) for c in cases} for s, cases, best in sides}


def test_the_loss_equals_a_slow_loop() -> None:
    seeds = [incomplete(0), incomplete(1)]
    table = combine({"m": [run(values, seed=k) for k, values in enumerate(seeds)]}, seed=5, resamples=500)
    raw = []
    for row, present in zip(table.rows, (A, B), strict=False):
        lost = {c: np.mean([v[present][c] - v[AB][c] for v in seeds]) for c in seeds[0][AB]}  # type: ignore[operator]
        patients = sorted({case[:2] for case in lost})
        draws = np.random.default_rng(5).integers(0, len(patients), (500, len(patients)))
        means = [np.mean([lost[c] for g in draw for c in lost if c[:2] == patients[g]]) for draw in draws]
        of_patient = [np.mean([lost[case] for case in lost if case[:2] == patient]) for patient in patients]
        raw.append(float(stats.wilcoxon(of_patient).pvalue))
        found = row.drops["m"][DSC]
        assert (row.present, found.n) == (present, 12)
        assert found.value == pytest.approx(np.mean(list(lost.values())))
        assert found.ci95 == pytest.approx(tuple(np.percentile(means, (2.5, 97.5))))
        assert found.p_value == pytest.approx(raw[-1])
    held = [row.drops["m"][DSC].p_holm for row in table.rows[:2]]
    assert held == pytest.approx([min(1, 2 * raw[0]), max(min(1, 2 * raw[0]), raw[1])]) and raw[0] < raw[1]
    assert table.rows[0].cells["m"][DSC].n == 16 and table.rows[0].drops["m"][DSC].n == 12
    assert table.rows[2].drops == {} and table.average is not None and table.average.drops == {}


def test_a_run_counts_in_a_case_only_with_both_sides() -> None:
    one, two = run({A: {"p1": 0.2, "p2": 0.4}, AB: {"p1": 0.5, "p2": 0.9}}), run({A: {"p1": 0.1}, AB: {"p1": None}}, seed=1)
    only = run({AB: {"p1": 0.1, "p2": 0.1}}, seed=2)  # evaluated on all modalities alone
    found = combine({"m": [one, two, only]}).rows[0].drops["m"][DSC]
    assert found.value == pytest.approx((-0.3 - 0.5) / 2) and found.n == 2 and found.ci95 is None


def test_other_methods_change_nothing_and_those_without_all_modalities_have_none() -> None:
    one, other = run(incomplete(0)), run(incomplete(7))
    part = run({A: {"p1-1": 0.5}, B: {"p1-1": 0.5}}, unsupported=(AB,))
    alone, together = combine({"m": [one]}), combine({"part": [part], "m": [one], "other": [other], "none": []})
    for mine, row in zip(alone.rows, together.rows, strict=True):
        assert mine.drops.get("m") == row.drops.get("m") and not {"part", "none"} & set(row.drops)
    assert has_drops(together, DSC) and not has_drops(together, "HD95/WT")
    assert drop_note(together, DSC).endswith("Holm-corrected over the 2 subsets of each method.")
    assert drop_note(alone, DSC).endswith("Holm-corrected over the 2 subsets.")


def test_without_all_modalities_nothing_is_compared() -> None:
    without = combine({"m": [run({A: {"p1": 0.5}, B: {"p2": 0.5}, AB: {}})]})
    assert not has_drops(without, DSC)
    said = "No case with all modalities (a, b) has a number: subsets are not compared with them."
    assert no_full_note(without) == said
    some: tuple[Values, ...] = ({A: {"p1": 0.5}, B: {"p1": 0.5}}, {AB: {"p1": 0.5}})
    for values in some:
        table = combine({"m": [run(values)]}, modalities=["a", "b"])
        assert not has_drops(table, DSC) and no_full_note(table) == ""


def classes(seed: int, cases: list[int], truth: list[int]) -> Results:
    """AUROC from one and from both modalities; every third case has no b."""
    rng = np.random.default_rng(seed)
    found = []
    for present, strength in ((A, 0.3), (AB, 1.2)):
        for i in cases:
            if "b" in present and i % 3 == 0:
                continue
            p = 1 / (1 + np.exp(-(2 * truth[i] - 1) * strength - rng.normal()))
            more = {"probabilities": {"d": [1 - p, p]}, "targets": {"d": truth[i]}}
            found.append(CaseResult.model_validate({"subject": f"p{i}", "group": f"p{i}", "present": present, **more}))
    rows = tuple(SubsetResult(present=s, metrics={"AUROC/d": MetricValue(value=0.5, aggregation="pooled")}) for s in (A, AB))
    return Results(method="m", cohort="c", split="test", seed=seed, subsets=rows, cases=tuple(found))


def test_pooled_metrics_are_subtracted_on_the_same_resamples() -> None:
    truth = [i % 2 for i in range(30)]
    runs = [classes(0, list(range(30)), truth), classes(1, list(range(24)), truth)]  # the second saw fewer of them
    table = combine({"m": runs}, seed=3, resamples=300)
    found = table.rows[0].drops["m"]["AUROC/d"]

    def lost(drawn: list[str]) -> float:
        values = []
        for result in runs:
            of = {(c.subject, c.present): c for c in result.cases}
            here = [name for name in drawn if (name, AB) in of]
            yes, no = ([name for name in here if truth[int(name[1:])] == t] for t in (1, 0))
            score = {key: (case.probabilities or {})["d"][1] for key, case in of.items()}
            areas = [np.mean([score[y, s] > score[n, s] for y in yes for n in no]) for s in (A, AB)]
            values.append(areas[0] - areas[1])
        return float(np.mean(values))

    names = sorted(f"p{i}" for i in range(30) if i % 3)
    draws = np.random.default_rng(3).integers(0, len(names), (300, len(names)))
    slow = np.percentile([lost([names[g] for g in draw]) for draw in draws], (2.5, 97.5))
    assert found.value == pytest.approx(lost(names)) and found.n == 20
    assert found.ci95 == pytest.approx(tuple(slow))
    drawn = np.round([lost([names[g] for g in draw]) for draw in draws], 9)
    side = min((drawn <= 0).sum(), (drawn >= 0).sum())
    assert found.p_value == found.p_holm == pytest.approx(2 * (side + 1) / 301)
    note = (
        "of the same method, on the cases that have all; p: paired bootstrap over patients, Holm-corrected over the 1 subset."
    )
    assert drop_note(table, "AUROC/d").endswith(note)
