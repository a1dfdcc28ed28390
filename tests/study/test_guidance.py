"""Published tables of guidance beside ours: the numbers as printed, the arithmetic, the shipped studies, and the words."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.study.fakes import guided_study, write_vectors

from comodal.cli.main import main
from comodal.errors import ConfigError
from comodal.evaluation.gap import gap_closed
from comodal.evaluation.paired_tests import paired_tests
from comodal.evaluation.statistics import holm
from comodal.reporting.guidance import FIGURE, guidance_text, write_figure
from comodal.study import guidance, reproducing, variants
from comodal.study.guidance import beside_guidance, improved, read_outs
from comodal.study.published import known_tables, load_table
from comodal.study.published_guidance import (
    CHECKLISTS,
    GUIDANCE,
    ILLEGIBLE,
    TABLE1,
    GuidanceColumn,
    GuidanceRow,
    GuidanceTable,
    derived_change,
)
from comodal.study.reproducing import FOLDER, prepare_table
from comodal.study.study import Arm, StudyResult, arm_config, load_study, run_study

ROWS = (
    GuidanceRow("S + I", "both"),
    GuidanceRow("S", "superior"),
    GuidanceRow("I", "inferior"),
    GuidanceRow("G", "guide"),
    GuidanceRow("G + I", "guided"),
)
STUB = GuidanceTable(
    title="Table 9 of Nobody (2000)",
    caption="Balanced accuracy and accuracy",
    source="Nobody (2000). A table. Table 9",
    remarks=("Made up.",),
    statement="nothing",
    rows=ROWS,
    columns=(
        GuidanceColumn(
            "Cheap",
            "guided",
            "grade",
            {("I", "balanced_accuracy"): 0.5, ("G + I", "balanced_accuracy"): 0.6, ("S", "balanced_accuracy"): None},
            {"balanced_accuracy": 19.0},
            0.04,
        ),
        GuidanceColumn("Other", "other", "grade"),
    ),
    metrics={"balanced_accuracy": "BA", "accuracy": "F1"},
    shows="numbers",
    layout="radpath",
    data="the data of nobody",
    cases=24,
    study="stub.yaml",
    phantom={"name": "radpath", "cases": 3},
    phantom_study="stub.yaml",
)


@pytest.fixture(scope="module")
def result(tmp_path_factory: pytest.TempPathFactory) -> StudyResult:
    cohort = write_vectors(tmp_path_factory.mktemp("cohort"), cases=40)
    (cohort.parent / "ceilings.json").write_text(
        json.dumps(
            [
                {"metric": "balanced_accuracy/grade", "present": present, "value": value}
                for present, value in ((["cheap"], 0.7), (["costly"], 0.9), (["cheap", "costly"], 0.95))
            ]
        )
    )
    file = guided_study(cohort, divisions=[0, 1], splits={"fractions": [0.4, 0.1, 0.5], "stratify": ["grade"]})
    return run_study(file, tmp_path_factory.mktemp("out"))


@pytest.fixture
def shipped(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The paper's configuration: more seeds, and another network."""
    cohort = write_vectors(tmp_path)
    values = yaml.safe_load(guided_study(cohort, seeds=[0, 1, 2]).read_text())
    values["methods"][0]["config"]["steps"] = 900
    (tmp_path / "stub.yaml").write_text(yaml.safe_dump(values))
    for module in (guidance, reproducing, variants):
        monkeypatch.setattr(module, "FOLDER", tmp_path)


# --------------------------------------------------------------------------------------------------------- published numbers
def test_table_1_is_whole_and_its_changes_follow_from_it() -> None:
    columns = {column.name: column for column in TABLE1.columns}
    assert columns["T2"].published["G(R) + R", "balanced_accuracy"] == 0.731
    assert len(columns["T1"].published) == 6 and len(columns["ALL (latents)"].published) == 10
    assert sum(map(len, (column.published for column in TABLE1.columns))) == 4 * 6 + 2 * 10
    for column in TABLE1.columns:
        for metric, printed in column.change.items():
            derived = derived_change(column, metric, guided="G(R) + R", inferior="R")
            assert derived is not None and 0 <= derived - printed < 0.1  # cut, not rounded


def test_what_cannot_be_read_is_not_guessed() -> None:
    table = load_table("guidance/table2")
    assert isinstance(table, GuidanceTable)
    assert all(value is None for column in table.columns for value in column.published.values())
    assert [column.p_value for column in table.columns if (column.p_value or 1) < 0.05] == [0.0294, 0.0195]
    assert min(p for p in holm([column.p_value for column in table.columns]) if p is not None) > 0.05
    assert table.melanoma["G(C) + C"] == 0.751


def test_tables_are_known_and_share_their_studies() -> None:
    assert set(GUIDANCE) <= set(known_tables())
    assert GUIDANCE["guidance/figure-s1"].study == GUIDANCE["guidance/table1"].study
    assert GUIDANCE["guidance/significance"].phantom_study == GUIDANCE["guidance/table2"].phantom_study


@pytest.mark.parametrize("name", ["guidance/table1", "guidance/table2"])
@pytest.mark.parametrize("which", ["study", "phantom_study"])
def test_shipped_studies_have_all_rows_of_all_columns(name: str, which: str) -> None:
    table = GUIDANCE[name]
    study = load_study(FOLDER / getattr(table, which))
    known = read_outs(study)
    shown = [arm for arm in table.arms if which == "study" or (arm, "guided") in known]
    assert set(known) == {(arm, row.read_out) for arm in shown for row in table.rows}
    assert {"all", "all-channels"} <= set(shown) or shown == ["clinical"]
    for arm in study.methods:
        config = arm_config(study, arm, seed=0, fold=None, cache=Path("cache"))  # every key is known
        assert config.method["superior"] == (["pathology"] if name.endswith("1") else ["derm"])
    assert len(study.divisions or study.seeds) >= (3 if which == "study" else 5)


# ---------------------------------------------------------------------------------------------------------------- arithmetic
@pytest.mark.usefixtures("shipped")
def test_lines_gains_and_tests_are_those_of_the_results(result: StudyResult) -> None:
    found = beside_guidance(STUB, result)
    lines = {(line.column, line.row, line.metric): line for line in found.lines}
    guided = lines["Cheap", "G + I", "balanced_accuracy"]
    values = [run.row(["cheap", "costly"]).metrics["balanced_accuracy/grade"].value for run in result.results["guided"]]
    assert guided.ours.value == pytest.approx(sum(v for v in values if v is not None) / 2) and guided.published == 0.6
    assert [lines["Cheap", row.name, "balanced_accuracy"].ceiling for row in ROWS] == [0.95, None, 0.7, None, 0.7]
    assert lines["Cheap", "S", "accuracy"].ours.state == "not run"  # no arm is that
    assert lines["Other", "I", "accuracy"].method is None
    assert not lines["Cheap", "S", "balanced_accuracy"].legible and lines["Cheap", "S", "accuracy"].legible

    gain = next(gain for gain in found.gains if (gain.column, gain.metric) == ("Cheap", "balanced_accuracy"))
    base = lines["Cheap", "I", "balanced_accuracy"].ours.value
    assert gain.difference is not None and gain.difference.value == pytest.approx(guided.ours.value - base)
    assert gain.percent == pytest.approx(100 * (guided.ours.value - base) / base)
    assert gain.derived == pytest.approx(20.0) and gain.published == 19.0
    assert gain.difference.p_holm == gain.difference.p_value  # one column alone has both arms
    arms = [result.results[label] for label in ("guided-inferior", "guided", "guided-both")]
    assert gain.closed == gap_closed(*arms, metric="balanced_accuracy/grade")
    (test,) = found.tests
    direct = paired_tests(arms[1], arms[0], targets=["grade"], metrics=())[0]
    assert (test.ours.b, test.ours.c, test.ours.p_value) == (direct.b, direct.c, direct.p_value) and test.published == 0.04
    assert improved(found, "balanced_accuracy")[0][1] == 19.0
    orders = [one for one in found.orders if one.metric == "balanced_accuracy"]  # no S and no G: nothing is said of them
    assert [(one.better, one.worse, one.published) for one in orders] == [("G + I", "I", (1, 1))]
    assert gain.difference.value is not None and orders[0].ours == (int(gain.difference.value > 0), 1)
    assert orders[0].clear + orders[0].reversed == int(gain.difference.clear)


@pytest.mark.usefixtures("shipped")
def test_what_is_said(result: StudyResult, tmp_path: Path) -> None:
    found = beside_guidance(STUB, result)
    text = guidance_text(found)
    page = text.markdown()
    assert "not comparable with the published numbers" in page and ILLEGIBLE in page and "at best" in page.casefold()
    assert "Not run: S and G of Cheap; Other." in page and "2 splits by patient (seeds 0, 1)" in page
    assert "division into 2 splits in turn instead of into one split" in page
    assert "training / validation / test 40% / 10% / 50% instead of 70% / 10% / 20%" in page
    assert "In ours, by BA: G + I is above I in " in page.split("\n\n")[1] and "| G + I above I | 1 of 1 |" in page
    assert "seeds 1 instead of 3" in page and "steps 3 instead of 900" in page
    assert [table.caption for table in text.numbers] == [
        "Published, and ours [95 % interval over patients]",
        "The order that the paper finds: in how many columns it holds",
        "Ours: G + I minus I, on the same cases of the same runs",
        "McNemar's exact test of G + I against I",
    ]
    significance = guidance_text(replace(found, table=replace(STUB, shows="significance")))
    assert significance.numbers[0].columns[:3] == ("column", "p published", "n") and not significance.pictures
    figure = guidance_text(replace(found, table=replace(STUB, shows="improvements")))
    assert figure.numbers[0].columns == ("column", "BA published, %", "BA ours, %", "F1 published, %", "F1 ours, %")
    assert figure.numbers[0].rows[0][1] == "+19.0"
    assert write_figure(found, tmp_path) == tmp_path / FIGURE and (tmp_path / FIGURE).read_bytes()[:4] == b"\x89PNG"


# --------------------------------------------------------------------------------------------------------------- preparation
def test_a_study_of_another_table_or_other_targets_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    cohort = write_vectors(tmp_path / "out")
    monkeypatch.setattr(reproducing, "FOLDER", tmp_path / "out")
    monkeypatch.setattr(reproducing, "check_phantom", lambda *_: None)
    (tmp_path / "out" / "stub.yaml").write_text(guided_study(cohort).read_text())
    assert prepare_table(STUB, tmp_path / "out") == tmp_path / "out" / "study.yaml"
    other = replace(STUB, columns=(replace(STUB.columns[0], target="stage"),))
    with pytest.raises(ConfigError, match=r"data\.targets must include stage, which the table shows; got grade in guided"):
        prepare_table(other, tmp_path / "out")
    with pytest.raises(ConfigError, match=r"study\.methods must include an arm of this table \(nobody\)"):
        prepare_table(replace(STUB, columns=(replace(STUB.columns[0], arm="nobody"),)), tmp_path / "out")
    values = {"cohort": "cohort.csv", "methods": [{"name": "late-fusion", "label": "guided"}]}
    (tmp_path / "out" / "study.yaml").write_text(yaml.safe_dump(values))
    with pytest.raises(ConfigError, match=r"be guidance in the arms of this table; got late-fusion in guided"):
        prepare_table(STUB, tmp_path / "out")


def test_the_command_from_cohort_to_figure(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    (tmp_path / "stub.yaml").write_text(guided_study(write_vectors(out)).read_text())
    (out / "study.yaml").unlink()
    for module in (guidance, reproducing, variants):
        monkeypatch.setattr(module, "FOLDER", tmp_path)
    monkeypatch.setattr(reproducing, "check_phantom", lambda *_: None)  # the cohort of vectors stands for the phantom
    monkeypatch.setitem(GUIDANCE, "stub/table9", STUB)
    monkeypatch.setitem(GUIDANCE, "stub/figure", replace(STUB, shows="improvements"))
    assert main(["reproduce", "stub/table9", "--out", str(out), "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert (
        said["difference"] == "G + I - I" and len(said["lines"]) == 20 and len(said["gains"]) == 4 and len(said["tests"]) == 1
    )
    assert [Path(said["files"][name]).is_file() for name in ("guidance-improvements", "table-tests", "page")] == [True] * 3
    assert "share of the gap" in (out / "reproduction.md").read_text()
    assert main(["reproduce", "stub/figure", "--out", str(out)]) == 0
    again = capsys.readouterr()
    assert "training: " not in again.err and "BA published, %" in (out / "reproduction.md").read_text()


def test_read_outs_are_found_by_what_is_set_and_not_by_name(tmp_path: Path) -> None:
    config = load_study(guided_study(write_vectors(tmp_path)))
    more: dict[str, Any] = {"methods": (*config.methods, Arm(name="classifier", label="alone"))}
    assert read_outs(config.model_copy(update=more)) == {
        ("guided", "guided"): "guided",
        ("guided", "inferior"): "guided-inferior",
        ("guided", "both"): "guided-both",
    }


# ------------------------------------------------------------------------------------------------------- toy and melanoma
def test_the_toy_has_an_arm_for_each_of_its_rows_and_no_published_number() -> None:
    toy = GUIDANCE["guidance/toy"]
    assert toy.study == toy.phantom_study and not toy.data and not toy.printed
    study = load_study(FOLDER / toy.study)
    assert set(read_outs(study)) == {("pairs", row.read_out) for row in toy.rows} and study.reference == "pairs-inferior"
    assert {row for row, _ in toy.columns[0].published} == {row.name for row in toy.rows}
    assert all(other.printed for name, other in GUIDANCE.items() if name != "guidance/toy")


def test_references_are_not_called_published(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert main(["phantom", "pairs", "--out", str(out), "--cases", "40"]) == 0
    values = yaml.safe_load((FOLDER / "guidance_toy.yaml").read_text(encoding="utf-8")) | {"seeds": [0]}
    values["methods"][0]["config"] |= {"steps": 2, "guide_epochs": 1, "decoder_epochs": 1}
    (out / "study.yaml").write_text(yaml.safe_dump(values))
    capsys.readouterr()
    assert main(["reproduce", "guidance/toy", "--out", str(out), "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert [line["method"] for line in said["lines"][::2]] == [
        "pairs-both", "pairs-superior", "pairs-inferior", "pairs-guide", "pairs",
    ]  # fmt: skip
    assert {line["ours"]["state"] for line in said["lines"]} == {"value"} and len(said["orders"]) == 8
    page = (out / "reproduction.md").read_text(encoding="utf-8")
    assert "published" not in page.casefold().replace("unpublished", "") and "accuracy reference" in page
    assert "cases" not in page.partition("Scaled down")[2].partition(";")[0]  # the toy has no number of cases of its own
    assert "; volumes" not in page  # vectors have no size
    with pytest.raises(ConfigError, match="--data must be left out, since this table has no data set but the phantom"):
        prepare_table(GUIDANCE["guidance/toy"], tmp_path / "new", root=tmp_path)
    monkeypatch.setattr(reproducing, "write_phantom", lambda *_, **__: 1 / 0)
    heard: list[str] = []
    with pytest.raises(ZeroDivisionError):
        prepare_table(GUIDANCE["guidance/toy"], tmp_path / "new", emit=lambda event: heard.append(str(event)))
    assert "in the place of" not in heard[0]


def test_melanoma_by_the_command_twice(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    small = replace(CHECKLISTS["guidance/melanoma"], phantom={"name": "skin", "cases": 16, "size": 64})
    monkeypatch.setitem(CHECKLISTS, "guidance/melanoma", small)
    said: dict[str, Any] = {}
    for _ in range(2):
        assert main(["reproduce", "guidance/melanoma", "--out", str(tmp_path), "--json"]) == 0
        said = json.loads(capsys.readouterr().out)
    assert said["synthetic"] and not said["release"] and said["lines"][-1]["split"] == "all"
    assert said["lines"][-1]["found"]["n"] == 16
    assert Path(said["files"]["reproduction"]).read_text(encoding="utf-8").startswith("# Melanoma from the true seven-point")
