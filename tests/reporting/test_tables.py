"""The table as text: what stands in a cell, in which order, and how it is escaped."""

from __future__ import annotations

from pathlib import Path

from comodal.evaluation.comparison import combine
from comodal.evaluation.metrics import Conventions
from comodal.evaluation.results import CaseResult, MetricValue, Results, SubsetResult, TrainingCases
from comodal.evaluation.table import Contrast
from comodal.reporting.page_tables import page_tables
from comodal.reporting.record import read_run
from comodal.reporting.tables import (
    as_table,
    contrast_text,
    heading,
    markdown_table,
    primary_metric,
    shown_metrics,
    terminal_table,
)


def small(method: str = "unet", value: float = 0.7412, unit: str = "mm") -> Results:
    metrics = {
        "DSC/WT": MetricValue(value=value, ci95=(0.701, 0.784), n=9, n_pos=9, n_neg=0),
        "HD95/WT": MetricValue(value=5.25, ci95=(4.0, 6.5), n=8),
        "DSC/mean": MetricValue(value=value, ci95=(0.701, 0.784), n=9),
    }
    rows = (SubsetResult(present=("t1",), supported=False), SubsetResult(present=("flair", "t1"), metrics=metrics))
    cases = tuple(
        CaseResult(subject=f"p{i}", group=f"p{i}", present=("flair", "t1"), metrics={"DSC/WT": value}) for i in range(9)
    )
    conventions = Conventions.model_validate({"hd95_unit": unit})
    return Results(method=method, cohort="c", split="test", seed=0, conventions=conventions, subsets=rows, cases=cases)


def test_a_single_result_on_the_terminal() -> None:
    table = terminal_table(small())
    assert table.columns == ("flair", "t1", "n", "DSC/WT")
    assert table.rows == (("○", "●", "", "not supported"), ("●", "●", "9", "0.741 [0.70, 0.78]"))
    assert table.caption.startswith("Value [95 % interval over patients]; n: cases that have all modalities of the row.")


def test_what_the_training_lacked_is_said_in_every_table() -> None:
    training = TrainingCases(n=48, lacking={"flair": 0, "t1": 20}, withheld={"t1": 15})
    one, other = (small(name).model_copy(update={"training": training}) for name in ("unet", "moddrop"))
    said = " Training cases without: t1 20/48 (withheld: t1 15)."
    for source in (one, [one, one], [one, other], {"a": [one], "b": [one, other]}, combine({"a": [one]})):
        assert terminal_table(source).caption.count(said) == markdown_table(source).count(said) == 1
    assert "Training cases" not in markdown_table(small())


def test_a_mean_over_other_regions_is_not_compared() -> None:
    inner = small("inner")
    rows = tuple(
        row.model_copy(update={"metrics": {k.replace("WT", "ET"): v for k, v in row.metrics.items()}}) for row in inner.subsets
    )
    both = as_table([small(), inner.model_copy(update={"subsets": rows})])
    assert both.metrics == ("DSC/WT", "HD95/WT", "DSC/ET", "HD95/ET")
    assert as_table([small(), small("other")]).metrics == ("DSC/WT", "HD95/WT", "DSC/mean")


def test_fewer_cases_than_the_row_are_said() -> None:
    table = terminal_table(small(), metrics=["DSC/WT", "HD95/WT"])
    assert table.rows[1][-1] == "5.2 [4.0, 6.5] n=8"


def test_results_of_one_label_are_runs_and_of_two_labels_are_compared() -> None:
    table = terminal_table([small(), small("moddrop", 0.8), small("moddrop", 0.9)])
    assert table.columns[3:] == ("unet DSC/WT", "moddrop DSC/WT", "moddrop - unet DSC/WT")
    assert table.rows[1][3:] == ("0.741 [0.70, 0.78]", "0.850 [0.85, 0.85]", "+0.109 [+0.109, +0.109] p=0.004")
    assert "unet 1, moddrop 2" in table.caption
    assert "Intervals of fewer than 20 patients are too narrow." in table.caption
    assert "for each metric Holm-corrected over 2 rows." in table.caption
    more = terminal_table([small(), small("moddrop", 0.8), small("other", 0.9)])
    assert "for each metric Holm-corrected over 2 rows and 2 methods." in more.caption


def test_markdown_escapes_what_would_break_it() -> None:
    text = markdown_table(small("a|<b>"), metrics=["DSC/WT"])
    assert text.splitlines()[:2] == ["| flair | t1 | n | DSC/WT |", "| --- | --- | --- | --- |"]
    both = markdown_table({"a|<b>": [small()], "x": [small()]})
    assert "a\\|&lt;b> DSC/WT" in both.splitlines()[0]
    assert both.endswith(".\n")


def test_the_mean_over_one_region_is_left_out() -> None:
    assert shown_metrics(as_table(small())) == ("DSC/WT", "HD95/WT")
    assert primary_metric(as_table(small())) == "DSC/WT"
    assert "mean" not in " ".join(terminal_table(small()).columns) + markdown_table([small(), small("x")])
    (table,) = page_tables(as_table(small()))
    assert table.columns == ("WT", "WT") and [label for label, _ in table.groups] == ["DSC", "HD95 (mm)"]
    assert [label for label, _ in page_tables(as_table([small(), small("x")]))[0].groups] == ["DSC WT"]


def test_voxels_are_not_called_millimetres() -> None:
    assert heading("HD95/WT", table=as_table(small(unit="voxel"))) == "HD95 WT (voxels)"
    assert heading("HD95/WT", table=as_table([small(), small("x", unit="voxel")])) == "HD95 WT (mm or voxels)"


def test_a_difference_without_common_cases_is_a_dash() -> None:
    assert contrast_text(Contrast(None, None, 0), "DSC/WT") == "-"
    assert contrast_text(Contrast(-0.0001, (-0.1, 0.1), 3, 0.5, 1.0), "DSC/WT", n=4) == "0.000 [-0.100, +0.100] p=1.00 n=3"


def test_page_tables_of_two_methods_are_one_per_metric(study: Path) -> None:
    runs = [study / "runs" / f"{method}-seed{seed}" for method in ("unet", "moddrop") for seed in (0, 2)]
    found = [read_run(run).results["test"] for run in runs]
    table = combine({"unet": found[:2], "moddrop": found[2:]}, resamples=200)
    dsc, hd95 = page_tables(table)
    assert dsc.columns == ("unet", "moddrop", "moddrop − unet") * 4
    assert [label for label, _ in dsc.groups] == ["DSC WT", "DSC TC", "DSC ET", "DSC mean"]
    assert [label for label, _ in hd95.groups] == ["HD95 WT (mm)", "HD95 TC (mm)", "HD95 ET (mm)"]
    assert dsc.starts == (0, 3, 6, 9)
    assert len(dsc.rows) == 16
    assert dsc.rows[-1].name == "average of 15 subsets"
    assert dsc.rows[0].cells[2].look == "clear"
    assert dsc.rows[14].cells[-1].look == "difference"  # the two were made alike with all modalities


def test_wide_tables_are_split_by_region(study: Path) -> None:
    one = read_run(study / "runs" / "unet-seed0").results["test"]
    by = {name: [one] for name in "vwxyz"}
    tables = page_tables(combine(by, resamples=50))
    assert [table.groups[0] for table in tables[:2]] == [("DSC WT", 9), ("DSC TC", 9)]
    assert (
        "over 15 rows and 4 methods, in the row of averages over the methods"
        in terminal_table(combine(by, resamples=50)).caption
    )


def test_the_differences_of_many_methods_are_a_table_of_their_own() -> None:
    """Four methods have four columns of values and three of differences; each table says which modalities and n."""
    few = markdown_table({name: [small(name)] for name in "abc"}, metrics=["DSC/WT"])
    many = markdown_table({name: [small(name)] for name in "abcd"}, metrics=["DSC/WT"])
    assert sum(line.startswith("| ---") for line in few.splitlines()) == 1
    values, differences, caption = many.strip().split("\n\n")
    keys = len(small().subsets[-1].present) + 1
    heads = [part.splitlines()[0].strip("| ").split(" | ") for part in (values, differences)]
    assert heads[0][:keys] == heads[1][:keys] and heads[0][keys - 1] == "n"
    assert heads[0][keys:] == [f"{name} DSC/WT" for name in "abcd"]
    assert heads[1][keys:] == [f"{name} - a DSC/WT" for name in "bcd"]
    assert len(values.splitlines()) == len(differences.splitlines()) and "minus a" in caption
