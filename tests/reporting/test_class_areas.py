"""Areas of single classes: each beside its positives and negatives, those that are not defined as well."""

from __future__ import annotations

from tests.reporting.classes import GRADE, GUIDED, SIGNS, VEIL, made

from comodal.evaluation.comparison import combine
from comodal.evaluation.results import Results
from comodal.modality import Target
from comodal.reporting.class_areas import areas_markdown, areas_table
from comodal.reporting.tables import PlainTable

STAGE = Target("stage", "ordinal", ("none", "mild", "severe"))


def table(**results: list[Results]) -> PlainTable:
    found = areas_table(combine(results, resamples=50), results)
    assert found is not None
    return found


def test_one_line_for_each_class_with_both_sides() -> None:
    run = made("m", targets=[GRADE, VEIL, SIGNS])
    found = table(m=[run])
    assert found.columns == ("target", "class", "positive", "negative", "AUROC")
    assert [row[:4] for row in found.rows[:4]] == [
        ("grade", "low", "10", "20"), ("grade", "middle", "10", "20"), ("grade", "high", "10", "20"),
        ("blue_veil", "present", "15", "15"),
    ]  # fmt: skip
    value = run.row(("photo", "derm")).metrics["AUROC/grade/low"]
    low, high = value.ci95 or (0, 0)
    assert found.rows[0][4] == f"{value.value:.3f} [{low:.2f}, {high:.2f}]"
    assert [row[:2] for row in found.rows[4:]] == [("signs", "oedema"), ("signs", "mass")]
    assert all(int(row[2]) + int(row[3]) == 30 for row in found.rows)
    assert found.caption.endswith("how many cases have the class and have not; from photo + derm.")


def test_ordinal_classes_have_their_thresholds() -> None:
    found = table(m=[made("m", targets=[STAGE], seed=k) for k in range(2)])
    assert [row[1:4] for row in found.rows] == [
        ("none", "10", "20"), ("mild", "10", "20"), ("severe", "10", "20"),
        ("mild or above", "20", "10"), ("severe or above", "10", "20"),
    ]  # fmt: skip


def test_several_methods_stand_side_by_side_each_from_its_own_row() -> None:
    found = table(plain=[made("plain")], guided=[made("guided", seed=1, used=GUIDED, unsupported=[("derm",)])])
    assert found.columns[4:] == ("AUROC plain", "AUROC guided") and len({len(row) for row in found.rows}) == 1
    assert "plain from photo + derm; guided from photo" in found.caption
    bare = made("bare", unsupported=[("photo",), ("derm",), ("photo", "derm")])
    assert [row[5] for row in table(plain=[made("plain")], bare=[bare]).rows] == ["not run"] * 4


def test_a_class_that_no_case_has_is_counted_and_not_defined() -> None:
    run = made("m", targets=[SIGNS])
    metrics = {
        name: value.model_copy(update={"value": None, "ci95": None, "n_pos": 0, "n_neg": 30})
        if name.endswith("mass")
        else value
        for name, value in run.row(("photo", "derm")).metrics.items()
    }
    rows = [one.model_copy(update={"metrics": metrics}) if len(one.present) == 2 else one for one in run.subsets]
    found = table(m=[run.model_copy(update={"subsets": tuple(rows)})])
    assert found.rows[1] == ("signs", "mass", "0", "30", "not defined")


def test_where_no_class_is_predicted_there_is_no_table() -> None:
    empty = Results(method="m", cohort="c", split="test", seed=0)
    assert areas_table(combine({"m": [empty]}), {"m": [empty]}) is None and areas_markdown(combine({"m": [empty]}), {}) == ""
