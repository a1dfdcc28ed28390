"""Published tables of images and reports beside ours: numbers as printed, the shipped studies, the arithmetic, the words."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from tests.study.fakes import write_vectors

from comodal.cli.main import main
from comodal.data.cohort import Cohort
from comodal.errors import ConfigError
from comodal.evaluation.statistics import holm
from comodal.reporting.reports import reports_text
from comodal.study import reproducing, variants
from comodal.study.published import known_tables, load_table
from comodal.study.published_reports import (
    CMIM_TABLE1,
    COUNTS,
    REPORTS,
    TABLE1,
    TABLE2,
    TABLE3,
    ReportsColumn,
    ReportsRow,
    ReportsTable,
)
from comodal.study.reports import beside_reports, count_labels
from comodal.study.reproducing import FOLDER, prepare_table
from comodal.study.study import StudyResult, arm_config, load_study, run_study

STUB = ReportsTable(
    title="Table 9 of Nobody (2000)",
    caption="AUROC of the grade",
    source="Nobody (2000). A table. Table 9",
    remarks=("Made up.",),
    statement="nothing",
    rows=(
        ReportsRow("Alone", "alone", "classifier", {"high": 0.7, "again": 0.6}),
        ReportsRow("Both", "both", "late-fusion", {"high": 0.8, "again": 0.7}),
        ReportsRow("Other", "other", "late-fusion", {"high": 0.9, "again": 0.8}),
    ),
    columns=(ReportsColumn("high", "AUROC/grade", 16, 125), ReportsColumn("again", "accuracy/grade")),
    present=("cheap",),
    reference="alone",
    decimals=2,
    layout="mimic-cxr",
    data="the data of nobody",
    cases=24,
    study="stub.yaml",
    phantom={"name": "chest", "cases": 3},
    phantom_study="stub.yaml",
)
TINY = {"steps": 3}


def stub_study(cohort: Path, **more: object) -> Path:
    values = {
        "cohort": cohort.name,
        "methods": [
            {"name": "late-fusion", "label": "both", "config": TINY},
            {"name": "classifier", "label": "alone", "config": TINY, "data": {"modalities": ["cheap"]}},
            {"name": "late-fusion", "label": "ours", "config": TINY},
        ],
        "seeds": [0, 1],
        "training": {"batch_size": 4, "device": "cpu", "threads": 1, "validations": 1},
    }
    file = cohort.parent / "study.yaml"
    file.write_text(yaml.safe_dump({**values, **more}))
    return file


@pytest.fixture(scope="module")
def result(tmp_path_factory: pytest.TempPathFactory) -> StudyResult:
    cohort = write_vectors(tmp_path_factory.mktemp("cohort"), cases=40)
    return run_study(stub_study(cohort, splits={"fractions": [0.4, 0.1, 0.5]}), tmp_path_factory.mktemp("out"))


@pytest.fixture
def shipped(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The paper's configuration: more steps."""
    values = yaml.safe_load(stub_study(write_vectors(tmp_path)).read_text())
    values["methods"][0]["config"] = {"steps": 900}
    (tmp_path / "stub.yaml").write_text(yaml.safe_dump(values))
    for module in (reproducing, variants):
        monkeypatch.setattr(module, "FOLDER", tmp_path)


# --------------------------------------------------------------------------------------------------------- published numbers
def test_the_numbers_are_those_of_the_papers() -> None:
    rows = {row.name: row.numbers for row in TABLE2.rows}
    assert rows["local tuned, CPC"] == {"0 v 123": 0.87, "01 v 23": 0.83, "012 v 3": 0.97}
    assert rows["local frozen, MINE"]["012 v 3"] == 0.86 and rows["image-only"]["01 v 23"] == 0.71
    nine = {row.name: row.numbers for row in TABLE3.rows}
    assert nine["local tuned, MINE"]["Atelectasis"] == 0.86 and nine["global frozen, CPC"]["Support Devices"] == 0.70
    assert all(len(row.numbers) == 9 for row in TABLE3.rows) and len(TABLE3.rows) == len(TABLE2.rows) == 9
    tuned = [value for table in (rows, nine) for bound in ("CPC", "MINE") for value in table[f"local tuned, {bound}"].values()]
    assert sum(tuned[:6]) / 6 == pytest.approx(0.88, abs=0.005)  # the means that the paper prints follow from its numbers
    assert sum(tuned[6:]) / 18 == pytest.approx(0.84, abs=0.005)
    tuned = [value for bound in ("CPC", "MINE") for value in nine[f"global tuned, {bound}"].values()]
    assert sum(tuned) / 18 == pytest.approx(0.81, abs=0.005)
    assert [row.numbers["AUC"] for row in CMIM_TABLE1.rows] == [0.785, 0.741, 0.793]


def test_what_the_numbers_rest_on() -> None:
    sides = {column.name: (column.positive, column.negative) for column in (*TABLE2.columns, *TABLE3.columns)}
    assert sides["012 v 3"] == (16, 125) and sides["Atelectasis"] == (255, 7) and sides["Pneumothorax"] == (15, 176)
    grades = {row.label: row for row in TABLE1.rows if row.target == "edema"}
    assert sum(row.positive for row in grades.values()) == 141 == sum(sides["0 v 123"][k] or 0 for k in (0, 1))
    assert sum(row.train or 0 for row in grades.values()) == 7066
    findings = {row.label: row for row in TABLE1.rows if row.target == "findings"}
    assert {name: (row.positive, row.negative) for name, row in findings.items()} == {
        c.name: sides[c.name] for c in TABLE3.columns
    }
    assert [name for name, row in findings.items() if row.train is None] == ["Pneumonia", "Pneumothorax"]
    assert {**REPORTS, **COUNTS}.keys() <= known_tables().keys() and load_table("local-mi/table2") is TABLE2


@pytest.mark.parametrize("name", list(REPORTS))
@pytest.mark.parametrize("which", ["study", "phantom_study"])
def test_shipped_studies_have_all_rows_and_only_known_keys(name: str, which: str) -> None:
    table = REPORTS[name]
    study = load_study(FOLDER / getattr(table, which))
    assert study.labels == [*dict.fromkeys(study.labels)] and set(study.labels) >= set(table.arms)
    ours = set(study.labels) - set(table.arms)  # arms that the paper does not have
    assert ours == ({"cmim-other"} if (name, which) == ("cmim/table1", "phantom_study") else set())
    for arm in (one for one in study.methods if one.title not in ours):
        config = arm_config(study, arm, seed=0, fold=None, cache=Path("cache"), look=False)
        theirs = next(row for row in table.rows if row.arm == arm.title)
        assert config.method_name == theirs.method and tuple(config.data.targets or ()) == table.targets
        assert config.method.get("level", arm.title.split("-")[0]) == arm.title.split("-")[0] or table is CMIM_TABLE1
        assert (config.method.get("bound") == "mine") == ("mine" in arm.title)
        assert (config.method.get("read_out") == "frozen") == arm.title.endswith("frozen")
    assert (which == "study") == (not study.data.withhold) or table is CMIM_TABLE1
    assert study.reference == table.reference


# ---------------------------------------------------------------------------------------------------------------- arithmetic
@pytest.mark.usefixtures("shipped")
def test_lines_are_those_of_the_results(result: StudyResult) -> None:
    found = beside_reports(STUB, result)
    lines = {(line.row, line.column): line for line in found.lines}
    assert list(lines) == [(row, column) for row in ("Alone", "Both", "Other", "ours") for column in ("high", "again")]
    both = lines["Both", "high"]
    metrics = [run.row(["cheap"]).metrics["AUROC/grade"] for run in result.results["both"]]
    assert both.ours.value == pytest.approx(sum(one.value or 0 for one in metrics) / 2) and both.published == 0.8
    assert (both.ours.n_pos, both.ours.n_neg) == (metrics[0].n_pos, metrics[0].n_neg) and both.ours.n == metrics[0].n == 20
    assert both.difference is not None
    assert both.difference.value == pytest.approx(both.ours.value - lines["Alone", "high"].ours.value)
    ours = lines["ours", "high"].difference
    assert ours is not None and [both.difference.p_holm, ours.p_holm] == holm([both.difference.p_value, ours.p_value])
    assert lines["Alone", "high"].difference is None and lines["Other", "high"].ours.state == "not run"
    assert lines["ours", "high"].published is None
    assert not found.official and not found.same_layout and found.cases == 40


@pytest.mark.usefixtures("shipped")
def test_a_subset_that_was_not_run_is_said(result: StudyResult) -> None:
    found = beside_reports(replace(STUB, present=("elsewhere",)), result)
    assert {line.ours.state for line in found.lines} == {"not run"}


@pytest.mark.usefixtures("shipped")
def test_what_is_said(result: StudyResult) -> None:
    found = beside_reports(STUB, result)
    text = reports_text(found)
    page = text.markdown()
    grid, numbers = text.numbers
    value = {(line.row, line.column): line.ours.value for line in found.lines}
    assert grid.columns == ("", "high", "again", "mean") and grid.rows[0][1] == f"0.70 / {value['Alone', 'high']:.3f}"
    mean = (value["Both", "high"] + value["Both", "again"]) / 2
    assert grid.rows[1][3] == f"0.75 / {mean:.3f}" and grid.rows[2][1] == "0.90 / –" and grid.rows[3][1].startswith("– / ")
    assert numbers.columns[6:] == ("positive, negative", "published: positive, negative", "minus alone")
    first = next(line for line in found.lines if line.column == "high")
    assert numbers.rows[0][6:] == (f"{first.ours.n_pos}, {first.ours.n_neg}", "16, 125", "–")
    assert "Ours is of other data" in page and "Not run: Other." in page and "steps 3 instead of 900 (both)" in page
    assert "The paper says: nothing." in page and "Holm-corrected over 2 arms in each column" in page
    wide = replace(STUB, columns=tuple(replace(STUB.columns[0], name=f"c{k}") for k in range(5)))
    turned = reports_text(beside_reports(wide, result)).numbers[0]
    assert turned.columns == ("", "Alone", "Both", "Other", "ours") and [row[0] for row in turned.rows][-2:] == ["c4", "mean"]
    lacking = replace(STUB, columns=(*STUB.columns, replace(STUB.columns[0], name="rare", metric="AUROC/grade/nobody")))
    short = reports_text(beside_reports(lacking, result)).numbers[0]
    assert short.columns == ("", "high", "again", "rare", "mean", "mean of the 2 that both have")
    assert short.rows[1][4].endswith(" / –") and short.rows[1][5].partition(" / ")[2] == f"{mean:.3f}"


# --------------------------------------------------------------------------------------------------------------- preparation
def test_a_study_of_another_method_or_target_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    out = tmp_path / "out"
    cohort = write_vectors(out)
    monkeypatch.setattr(reproducing, "FOLDER", out)
    monkeypatch.setattr(reproducing, "check_phantom", lambda *_: None)
    (out / "stub.yaml").write_text(stub_study(cohort).read_text())
    assert prepare_table(STUB, out) == out / "study.yaml"
    other = replace(STUB, rows=(replace(STUB.rows[0], method="tienet"),))
    with pytest.raises(ConfigError, match="be tienet in the arms of this table; got classifier in alone"):
        prepare_table(other, out)
    with pytest.raises(ConfigError, match=r"data\.targets must include stage, which the table shows; got grade"):
        prepare_table(replace(STUB, columns=(ReportsColumn("x", "AUROC/stage"),)), out)
    with pytest.raises(ConfigError, match=r"include an arm of this table \(nobody\)"):
        prepare_table(replace(STUB, rows=(replace(STUB.rows[0], arm="nobody"),)), out)


def test_the_command_from_cohort_to_tables(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    (tmp_path / "stub.yaml").write_text(stub_study(write_vectors(out)).read_text())
    (out / "study.yaml").unlink()
    for module in (reproducing, variants):
        monkeypatch.setattr(module, "FOLDER", tmp_path)
    monkeypatch.setattr(reproducing, "check_phantom", lambda *_: None)
    monkeypatch.setitem(REPORTS, "stub/table9", STUB)
    assert main(["reproduce", "stub/table9", "--out", str(out), "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["difference"] == "method - alone" and said["present"] == ["cheap"] and len(said["lines"]) == 8
    assert {"n_pos", "n_neg"} <= said["lines"][0]["ours"].keys()
    assert "| grade | high |" in Path(said["files"]["table-classes"]).read_text()
    assert main(["reproduce", "stub/table9", "--out", str(out)]) == 0
    assert "training: " not in capsys.readouterr().err


def test_counts_without_a_training(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    small = replace(TABLE1, phantom={**TABLE1.phantom, "cases": 28})
    monkeypatch.setitem(COUNTS, "local-mi/table1", small)
    assert main(["reproduce", "local-mi/table1", "--out", str(tmp_path), "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["synthetic"] and said["shared"] == 0 and len(said["lines"]) == 13
    page = Path(said["files"]["reproduction"]).read_text(encoding="utf-8")
    assert "no patient is tested and trained on" in page and "| Atelectasis | 50416 |" in page and "255 + 7" in page
    cohort = Cohort.load(tmp_path / "cohort.csv")
    tested = [case.cells["findings"].split(";") for case in cohort.cases if case.split == "test" and "findings" in case.cells]
    ours = next(line["ours"] for line in said["lines"] if line["published"]["label"] == "Edema")
    assert ours["positive"] == sum("Edema" in cell for cell in tested)
    assert ours["negative"] == sum("Edema" not in cell and "?Edema" not in cell for cell in tested)
    again = count_labels(small, tmp_path / "none", root=tmp_path / "files")  # as from the data themselves
    assert [None if line is None else line.train for _, line in again.lines] == [
        line["ours"] and line["ours"]["train"] for line in said["lines"]
    ]
