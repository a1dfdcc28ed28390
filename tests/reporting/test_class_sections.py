"""The section of each target: the row that it is of, figures with the numbers of the results, a table of its classes."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tests.reporting.classes import GRADE, GUIDED, SIGNS, VEIL, made

from comodal.evaluation.comparison import combine
from comodal.evaluation.curves import confusion, wilson
from comodal.evaluation.results import Results
from comodal.modality import Target
from comodal.reporting.class_sections import class_sections, figure_row
from comodal.reporting.page import render
from comodal.reporting.record import RunRecord, read_run

Make = Callable[..., Path]
Groups = dict[str, list[RunRecord]]


@pytest.fixture
def groups(make_run: Make, worlds: dict[str, Any]) -> Callable[..., Groups]:
    """`groups({label: results}, targets)`: runs that hold these results and predict these targets."""
    plain = read_run(make_run("run", worlds["chest"], method="classifier", evaluated=False))

    def of(results: dict[str, list[Results]], targets: Sequence[Target] = (GRADE, VEIL)) -> Groups:
        meta = {
            "modalities": [{"name": "photo"}, {"name": "derm"}],
            "targets": [{"name": t.name, "kind": t.kind, "classes": list(t.classes)} for t in targets],
        }
        config = {**plain.config, "data": {}}
        return {
            label: [replace(plain, results={"test": one}, cohort_meta=meta, config=config) for one in some]
            for label, some in results.items()
        }

    return of


def texts(svg: str) -> list[str]:
    return re.findall(r"<text[^>]*>([^<]*)</text>", svg)


def sections(groups: Groups) -> list[dict[str, Any]]:
    table = combine({label: [r.results["test"] for r in runs] for label, runs in groups.items()}, resamples=50)
    return class_sections(groups, table, "test")


def test_the_row_is_where_most_is_used() -> None:
    guided = combine({"m": [made(used=GUIDED, unsupported=[("derm",)])]}, resamples=50)
    row = figure_row(guided, "m", "accuracy/grade")
    assert row is not None and row.present == ("photo",)  # more was given elsewhere, not used
    row = figure_row(combine({"m": [made()]}, resamples=50), "m", "accuracy/grade")
    assert row is not None and row.present == ("photo", "derm")
    assert figure_row(guided, "m", "accuracy/other") is None


def test_a_single_method_has_all_figures_in_one_row(groups: Callable[..., Groups]) -> None:
    result = made("m")
    grade, veil = sections(groups({"m": [result]}))
    assert grade["open"] and not veil["open"] and grade["source"] == "photo + derm" and grade["n"] == 30
    (figure,) = grade["figures"]
    found = texts(figure["svg"])
    for text in ("confusion", "ROC", "precision and recall", "reliability", "answered", "low (10)"):
        assert text in found
    stored = result.row(("photo", "derm")).metrics["AUROC/grade/high"]
    low, high = stored.ci95 or (0, 0)
    assert f"high {stored.value:.3f} [{low:.2f}, {high:.2f}]" in found  # the interval of the results
    assert list(grade["rows"][0]) == ["class", "n", "AUROC", "AUPRC", "sensitivity", "precision"]
    assert [row[:2] for row in grade["rows"][1:]] == [("low", "10 of 30"), ("middle", "10 of 30"), ("high", "10 of 30")]
    counts = confusion([c for c in result.cases if len(c.present) == 2], GRADE, GRADE.classes).counts
    low, high = wilson(counts[2, 2] / 10, 10)
    assert grade["rows"][3][4] == f"{counts[2, 2] / 10:.3f} [{low:.2f}, {high:.2f}]"
    whole = result.row(("photo", "derm")).metrics["AUROC/blue_veil"]
    assert veil["rows"][1][2] == "–" and veil["rows"][2][2].startswith(f"{whole.value:.3f} [")  # of two classes the second
    assert [text for text in texts(veil["figures"][0]["svg"]) if text.startswith("present 0.")]


def test_several_methods_have_a_line_each_in_a_panel_for_each_class(groups: Callable[..., Groups]) -> None:
    runs = {"plain": [made("plain")], "guidance": [made("guidance", seed=1, used=GUIDED, unsupported=[("derm",)])]}
    grade, veil = sections(groups(runs))
    titles = [figure["title"] for figure in grade["figures"]]
    assert titles == [
        "Which class was answered for which",
        "ROC, one class against the rest",
        "Reliability",
    ]  # a third is not rare
    found = texts(grade["figures"][1]["svg"])
    assert [text for text in found if text in GRADE.classes] == list(GRADE.classes)
    assert sum(text.startswith("plain 0.") for text in found) == sum(text.startswith("guidance 0.") for text in found) == 3
    assert sum(text.startswith("guidance 0.") for text in texts(veil["figures"][1]["svg"])) == 1
    assert grade["source"] == "plain from photo + derm; guidance from photo" and not grade["same"]
    assert [row[:3] for row in grade["rows"][1:3]] == [("low", "10 of 30", "plain"), ("", "", "guidance")]
    salts = [re.search(r'id="(t\d+)-', figure["svg"]) for one in (grade, veil) for figure in one["figures"]]
    assert len({match[1] for match in salts if match}) == len(salts)  # ids differ all over the page


def test_seeds_are_averaged_and_every_case_counts_once(groups: Callable[..., Groups]) -> None:
    (grade, _) = sections(groups({"m": [made("m", seed=k) for k in range(2)]}))
    assert grade["runs"] == 2 and grade["n"] == 30
    table = combine({"m": [made("m", seed=k) for k in range(2)]}, metrics=["AUROC/grade/high"], resamples=50)
    value = table.rows[-1].cells["m"]["AUROC/grade/high"].value
    assert any(text.startswith(f"high {value:.3f} [") for text in texts(grade["figures"][0]["svg"]))
    assert grade["rows"][3][1] == "10 of 30"


def test_questions_of_their_own_have_no_confusion(groups: Callable[..., Groups]) -> None:
    (signs,) = sections(groups({"m": [made("m", targets=[SIGNS])]}, [SIGNS]))
    assert "confusion" not in texts(signs["figures"][0]["svg"]) and "reliability" in texts(signs["figures"][0]["svg"])
    assert list(signs["rows"][0]) == ["class", "n", "AUROC", "AUPRC"] and not signs["wilson"]


def test_what_cannot_be_drawn_is_left_out(groups: Callable[..., Groups]) -> None:
    assert sections(groups({"m": [made("m")]}, [Target("grade", "class", ("a", "b"))])) == []  # another number of classes
    assert sections(groups({"m": [made("m", unsupported=[("photo",), ("derm",), ("photo", "derm")])]})) == []
    one = sections(groups({"m": [made("m")], "x": [made("x", unsupported=[("photo",), ("derm",), ("photo", "derm")])]}))[0]
    assert one["left_out"] == 1


def test_the_page_folds_targets_and_runs_no_script(groups: Callable[..., Groups]) -> None:
    html = render(groups({"m": [made("m", used=GUIDED)]}))
    assert html.count("<details><summary><b>") == 1 and html.count("<details open><summary><b>") == 1
    assert "<script" not in html and "Target by target" in html and "Further metrics: AUPRC, F1 macro, ECE, Brier" in html
    assert (
        'aria-label="derm given and not used"' in html and "m does not use derm from photo + derm, though it is given" in html
    )
    single = render(groups({"m": [made("m", targets=[VEIL])]}, [VEIL]))
    assert "<details open>" not in single and "The answers to blue veil" in single
    evil = replace_name(VEIL, "<script>x")
    assert "<script" not in render(groups({"</svg><script>": [made("m", targets=[evil])]}, [evil]))


def replace_name(target: Target, name: str) -> Target:
    return Target(name, target.kind, (f"{name}</b>", "present"))
