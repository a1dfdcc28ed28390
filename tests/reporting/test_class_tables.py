"""Tables of classes: what stands in rows and columns, what is left out, and what was given and not used."""

from __future__ import annotations

import pytest
from tests.reporting.classes import GRADE, GUIDED, VEIL, made

from comodal.evaluation.comparison import combine
from comodal.evaluation.metrics import METRICS
from comodal.evaluation.results import Results
from comodal.evaluation.table import StudyTable
from comodal.reporting.class_tables import class_tables
from comodal.reporting.drops import drop_document, drop_table, page_drops
from comodal.reporting.page_tables import page_tables
from comodal.reporting.tables import class_targets, markdown_table, shown_metrics, study_markdown, terminal_table, used_notes


def guided(seed: int = 0) -> Results:
    return made("guidance", seed=seed, used=GUIDED, unsupported=[("derm",)])


@pytest.fixture(scope="module")
def two() -> StudyTable:
    return combine({"classifier": [made("classifier", unsupported=[("derm",)])], "guidance": [guided(1)]}, resamples=50)


def test_targets_stand_below_each_other_on_a_terminal() -> None:
    found = terminal_table(guided())
    assert found.columns == ("target", "photo", "derm", "n", "AUROC", "minus all", "balanced_accuracy", "accuracy")
    assert [row[:3] for row in found.rows[:3]] == [("grade", "●", "○"), ("grade", "●", "◐"), ("grade", "average", "")]
    assert [row[0] for row in found.rows] == ["grade"] * 3 + ["blue_veil"] * 3
    assert "guidance does not use derm, though it is given (◐)." in found.caption
    assert found.caption.endswith("Left out, since no method that was run predicts from it: derm.")
    stored = guided().row(("photo",)).metrics["AUROC/blue_veil"]
    assert found.rows[3][4].startswith(f"{stored.value:.3f} [")


def test_a_single_target_keeps_its_rows() -> None:
    found = terminal_table(made(targets=[GRADE]))
    assert found.columns == ("photo", "derm", "n", "AUROC/grade", "minus all", "balanced_accuracy/grade", "accuracy/grade")
    assert len(found.rows) == 4 and found.keys == 3


def test_several_methods_are_compared_target_by_target(two: StudyTable) -> None:
    lines = markdown_table(two).splitlines()
    assert lines[0] == "| target | photo | derm | n | classifier AUROC | guidance AUROC | guidance - classifier AUROC |"
    assert [line.split(" | ")[0] for line in lines[2:8]] == ["| grade"] * 3 + ["| blue_veil"] * 3
    many = {name: [made(name, seed=k)] for k, name in enumerate("abcd")}
    values, differences, _ = markdown_table(combine(many, resamples=50)).split("\n\n")
    assert values.startswith("| target | photo | derm | n | a AUROC | b AUROC | c AUROC | d AUROC |\n")
    assert differences.startswith("| target | photo | derm | n | b - a AUROC | c - a AUROC | d - a AUROC |\n")
    assert "paired bootstrap over patients" in markdown_table(two) and "Wilcoxon" not in markdown_table(two)


def test_the_file_of_a_study_has_every_main_metric(two: StudyTable) -> None:
    *grids, said = study_markdown(two).split("\n\n")
    assert [grid.splitlines()[0].rpartition("classifier ")[2] for grid in grids] == [
        "AUROC |",
        "balanced_accuracy |",
        "accuracy |",
    ]
    assert all(len(grid.splitlines()) == 8 for grid in grids) and said == markdown_table(two).split("\n\n")[-1]
    alone = combine({"classifier": [made("classifier")]}, resamples=50)
    assert study_markdown(alone) == markdown_table(alone)
    runs = combine({name: [made(name, seed=seed) for seed in (0, 1)] for name in "ab"}, resamples=50)
    assert "Numbers are averaged over the runs (seeds, folds or divisions) of a method: a 2, b 2." in study_markdown(runs)


def test_what_is_not_used_is_said_by_method_and_row(two: StudyTable) -> None:
    assert used_notes(two) == ("guidance does not use derm, though it is given",)
    both = next(row for row in two.rows if len(row.present) == 2)
    assert both.used == {"classifier": ("photo", "derm"), "guidance": ("photo",)}
    assert both.unused("guidance") == ("derm",) and both.unused("classifier") == ()
    sometimes = made(used=GUIDED)  # from derm alone it uses derm
    assert used_notes(combine({"x": [sometimes]}, resamples=50)) == (
        "x does not use derm from photo + derm, though it is given",
    )
    older = sometimes.model_copy(update={"cases": tuple(case.model_copy(update={"used": None}) for case in sometimes.cases)})
    assert used_notes(combine({"x": [older]}, resamples=50)) == ()


def test_each_metric_has_a_table_of_the_targets(two: StudyTable) -> None:
    found = class_tables(two)
    assert [table.title.partition(":")[0] for table in found.shown] == ["AUROC", "balanced accuracy", "accuracy"]
    table = found.shown[0]
    assert table.columns == ("grade", "blue veil") and table.labelled
    rows = [(row.name, row.label, row.first, row.unused) for row in table.rows]
    assert rows == [
        ("photo", "classifier", True, ()),
        ("photo", "guidance", False, ()),
        ("photo", "guidance − classifier", False, ()),
        ("photo + derm", "classifier", True, ()),
        ("photo + derm", "guidance", False, ("derm",)),
        ("photo + derm", "guidance − classifier", False, ()),
        ("average of 2 subsets", "classifier", True, ()),
        ("average of 2 subsets", "guidance", False, ()),
        ("average of 2 subsets", "guidance − classifier", False, ()),
    ]
    cell = two.rows[0].cells["guidance"]["AUROC/blue_veil"]
    assert table.rows[1].cells[1].main == f"{cell.value:.3f}"
    assert [row.present for row in found.left_out] == [("derm",)]
    assert page_tables(two) == []  # those are of segmentation


def test_a_single_target_has_its_metrics_side_by_side() -> None:
    one = combine({"m": [made(targets=[VEIL])]}, resamples=50)
    lesser = combine({"m": [made(targets=[VEIL])]}, metrics=[n for n, m in METRICS.items() if not m.main], resamples=50)
    found = class_tables(one, lesser)
    (table,), (more,) = found.shown, found.folded
    assert table.columns == ("AUROC", "balanced accuracy", "accuracy") and not table.labelled
    assert more.columns == ("AUPRC", "F1 macro", "ECE", "Brier") and found.folded_names == "AUPRC, F1 macro, ECE, Brier"
    assert class_tables(combine({"m": []}, modalities=["photo"])).shown == ()


def test_a_method_that_was_not_run_on_a_subset_has_no_row_beside_others() -> None:
    photo = made("photo", unsupported=[])
    photo = photo.model_copy(
        update={"subsets": photo.subsets[:1], "cases": tuple(case for case in photo.cases if case.present == ("photo",))}
    )
    cannot = made("both", unsupported=[("photo",), ("derm",)])
    table = class_tables(combine({"photo": [photo], "both": [cannot]}, modalities=["photo", "derm"], resamples=50)).shown[0]
    assert [(row.name, row.label) for row in table.rows] == [("photo", "photo"), ("photo", "both"), ("photo + derm", "both")]
    (cell,) = table.rows[1].cells
    assert (cell.main, cell.span) == ("not supported", 2)


def test_metrics_of_single_classes_are_in_no_table() -> None:
    names = ["AUROC/grade", "AUROC/grade/high"]
    table = combine({"m": [made()]}, metrics=names, resamples=50)
    assert table.metrics == tuple(names) and shown_metrics(table) == ("AUROC/grade",)
    assert class_targets(table.metrics) == ("grade",)


def test_what_is_lost_is_shown_of_every_target() -> None:
    table = combine({"m": [made()], "x": [made("x", seed=3, unsupported=[("derm",)])]}, resamples=50)
    found = page_drops(table)
    assert found is not None and found["metric"] == "AUROC"
    (page,) = found["tables"]
    assert page.columns == ("grade", "blue veil")
    assert [(row.name, row.label) for row in page.rows] == [("photo", "m"), ("photo", "x"), ("derm", "m")]
    plain = drop_table(table)
    assert plain is not None and plain.columns[:2] == ("target", "photo")
    assert [row[0] for row in plain.rows] == ["grade"] * 2 + ["blue_veil"] * 2
    assert "Minus all: AUROC from" in plain.caption
    assert {(one["metric"], one["method"]) for one in drop_document(table) or []} == {
        (f"AUROC/{target}", method) for target in ("grade", "blue_veil") for method in "mx"
    }
