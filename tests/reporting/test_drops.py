"""The table "minus all modalities" as text, in Markdown, for machines and on the page."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from comodal.evaluation.comparison import combine
from comodal.evaluation.results import CaseResult, MetricValue, Results, SubsetResult
from comodal.evaluation.table import StudyTable
from comodal.reporting.drops import drop_document, drop_markdown, drop_table, page_drops
from comodal.reporting.page import write_page
from comodal.reporting.record import read_run
from comodal.reporting.tables import contrast_text, markdown_table, terminal_table

Make = Callable[..., Path]
ROWS = (("t1",), ("flair",), ("flair", "t1"))


def small(method: str = "m", *, first: float = 0.5, whole: int = 9) -> Results:
    """Nine patients; from t1 they have `first`, from flair 0.7, and the first `whole` of them 0.8 from both."""
    values = {s: [v] * n for s, v, n in zip(ROWS, (first, 0.7, 0.8), (9, 9, whole), strict=True)}
    rows = tuple(
        SubsetResult(present=s, metrics={"DSC/WT": MetricValue(value=v[0] if v else None, n=len(v))}) for s, v in values.items()
    )
    cases = tuple(
        CaseResult(subject=f"p{i}", group=f"p{i}", present=s, metrics={"DSC/WT": value})
        for s, each in values.items()
        for i, value in enumerate(each)
    )
    return Results(method=method, cohort="c", split="test", seed=0, subsets=rows, cases=cases)


def test_one_method_has_the_loss_beside_its_primary_metric() -> None:
    table = terminal_table(small())
    assert table.columns == ("flair", "t1", "n", "DSC/WT", "minus all")
    assert [row[-1] for row in table.rows] == [
        "-0.100 [-0.100, -0.100] p=0.008",
        "-0.300 [-0.300, -0.300] p=0.008",
        "-",
        "-",
    ]  # nine equal differences: two-sided p of 2 / 2^9, twice for two subsets
    assert "Minus all: DSC/WT from the modalities of the row minus that from all (flair, t1), " in table.caption
    assert "Holm-corrected over the 2 subsets." in table.caption
    few = terminal_table(small(whole=7))
    assert few.rows[0][-1].endswith("n=7") and few.rows[0][2] == "9"
    head, _, *lines = markdown_table(small()).splitlines()
    assert head.endswith("| DSC/WT | minus all |") and lines[0].endswith("| -0.100 [-0.100, -0.100] p=0.008 |")


def test_it_stands_after_the_primary_metric_and_only_with_it(study: Path) -> None:
    found = read_run(study / "runs" / "unet-seed0").results["test"]
    assert terminal_table(found).columns[5:] == ("DSC/WT", "DSC/TC", "DSC/ET", "DSC/mean", "minus all")
    asked = terminal_table(found, metrics=["DSC/mean", "HD95/WT"])
    assert asked.columns[5:] == ("DSC/mean", "minus all", "HD95/WT")
    assert terminal_table(found, metrics=["DSC/WT"]).columns[5:] == ("DSC/WT",)
    assert "minus all" not in " ".join(terminal_table({"a": [found], "b": [found]}).columns)


def test_several_methods_are_the_columns_of_a_table_of_their_own() -> None:
    table = combine({"a|b": [small()], "x": [small(first=0.75, whole=7)], "none": []}, resamples=200)
    plain = drop_table(table)
    assert plain is not None
    assert plain.columns == ("flair", "t1", "n", *(f"{m} DSC/WT minus all" for m in ("a|b", "x", "none")))
    assert plain.rows[1] == (
        "○",
        "●",
        "9",
        "-0.300 [-0.300, -0.300] p=0.008",
        "-0.050 [-0.050, -0.050] p=0.031 n=7",  # 2 / 2^7, twice
        "-",
    )
    assert plain.rows[2] == ("●", "●", "", "-", "-", "-")
    text = drop_markdown(table)
    assert text.startswith("| flair | t1 | n | a\\|b DSC/WT minus all |")
    assert text.count("Intervals of fewer than 20 patients are too narrow.") == 1 and "of each method." in text
    document = drop_document(table)
    assert document is not None and len(document) == 4
    keys = {key: document[3][key] for key in ("method", "present", "metric", "n")}
    assert keys == {"method": "x", "present": ["t1"], "metric": "DSC/WT", "n": 7}
    assert document[3]["p_holm"] == pytest.approx(4 / 2**7) and document[3]["value"] == pytest.approx(-0.05)


@pytest.mark.parametrize("result", [small(whole=0), small().model_copy(update={"subsets": small().subsets[2:]})])
def test_where_there_is_nothing_to_compare_there_is_no_table(result: Results) -> None:
    table = combine({"m": [result]})
    assert [f(table) for f in (drop_table, page_drops, drop_document, drop_markdown)] == [None, None, None, ""]
    assert "minus all" not in terminal_table(table).columns
    said = "No case with all modalities (flair, t1) has a number: subsets are not compared with them."
    assert (said in terminal_table(table).caption) == (len(table.rows) > 1)


def test_the_page_has_a_section_of_it(study: Path, tmp_path: Path) -> None:
    html = write_page([study], tmp_path / "page.html").read_text(encoding="utf-8")
    section = html.split("<h2>Minus all modalities</h2>")[1].split("</section>")[0]
    assert section.count("<tr>") == 2 + 15 and "DSC mean, minus all modalities" in section
    assert section.count('<td class="none first"><b>–</b>') == 1  # the row of all modalities, first method
    assert "Intervals of fewer than 20 patients" not in section  # said under the first table


def test_classes_have_it_too(make_run: Make, worlds: dict[str, Any]) -> None:
    runs = {m: make_run(m, worlds["chest"], method=m) for m in ("classifier", "late-fusion")}
    found = page_drops(combine({m: [read_run(run).results["test"]] for m, run in runs.items()}, resamples=200))
    assert found is not None and found["metric"] == "AUROC"
    assert found["caption"].endswith(
        "on the cases that have all; p: paired bootstrap over patients, Holm-corrected over the 2 subsets of each method."
    )
    looks = [[cell.look == "none" for cell in row.cells] for row in found["tables"][0].rows]
    assert looks == [[False, True], [False, True], [True, True]]  # late-fusion needs both


def test_the_page_shows_the_numbers_of_the_table(study: Path) -> None:
    found = {m: [read_run(study / "runs" / f"{m}-seed{s}").results["test"] for s in (0, 2)] for m in ("unet", "moddrop")}
    table: StudyTable = combine(found, resamples=200)
    shown = page_drops(table)
    assert shown is not None
    (page,) = shown["tables"]
    assert page.columns == ("unet", "moddrop") and page.groups == (("DSC mean, minus all modalities", 2),)
    for row, stored in zip(page.rows, table.rows, strict=True):
        for cell, method in zip(row.cells, table.methods, strict=True):
            drop = stored.drops.get(method, {}).get("DSC/mean")
            number = contrast_text(drop, "DSC/mean", n=None if drop is None else drop.n).split(" ")[0]
            assert cell.main == ("–" if drop is None else number.replace("-", "−"))
            assert cell.look == ("none" if drop is None else "clear" if drop.clear else "difference")
    wide = page_drops(combine({f"m{i}": [small(f"m{i}")] for i in range(13)}, resamples=50))
    assert wide is not None and [len(each.columns) for each in wide["tables"]] == [12, 1]
