"""What a stage is judged by: its own weights, on its own subsets, on all cases, whatever the number of processes."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning_fabric import Fabric
from tests.training.fakes import config_for, problem, write_cohort
from tests.training.staged import Experts, StagedConfig, Student
from torch import Tensor

from comodal.batch import Batch
from comodal.data.cohort import Case
from comodal.errors import ConfigError
from comodal.evaluation.results import CaseResult, MetricValue, Results, SubsetResult
from comodal.method import Method, Monitor, Prediction, Stage
from comodal.methods import METHODS, Entry
from comodal.methods.unet import UNet
from comodal.run import Run
from comodal.testing import check_method
from comodal.training.events import Event, Said
from comodal.training.train import train_run, validation_feed
from comodal.training.validation import StageView, Validator, missed_classes


@pytest.fixture(autouse=True)
def _staged(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("Experts", "Student"):
        entry = Entry(f"tests.training.staged:{name}", name, ("segmentation",), "", "", "")
        monkeypatch.setitem(METHODS, name.lower(), entry)


def lines(run: Path, event: str) -> list[dict[str, Any]]:
    every = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [line for line in every if line["event"] == event]


def validator_of(run: Run, method: Method, stage: Stage) -> Validator:
    preparer = run.preparer(cache=run.cache)
    validator = Validator(run, preparer, Fabric(accelerator="cpu", devices=1))
    validator.feed = validation_feed(run, method, stage, preparer=preparer)
    return validator


# ------------------------------------------------------------------------------------------------ a stage by what it trains
def test_each_expert_is_judged_by_itself_on_its_own_subset(
    cohort: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The best weights of a stage are those that its own network had, so they differ from stage to stage."""
    asked: list[tuple[bool, ...]] = []
    predict = Experts.predict

    def spy(self: Experts, batch: Batch) -> Prediction:
        asked.extend(tuple(row) for row in batch.present.tolist())
        return predict(self, batch)

    monkeypatch.setattr(Experts, "predict", spy)
    run = train_run(config_for(cohort, "experts"), tmp_path / "run")
    order = list(dict.fromkeys(asked))
    assert order == [(True, False), (False, True), (True, True)]  # stage by stage, and nothing else in between
    assert asked == sorted(asked, key=order.index)
    validations = lines(run.path, "validation")
    assert [line["stage"] for line in validations] == ["a", "a", "b", "b", "a+b", "a+b"]
    have_b = sum("b" in run.cohort.case(i).cells for i in run.splits["val"])
    assert [line["cases"]["DSC"] for line in validations] == [2, 2, *[have_b] * 4]
    method = run.method()
    for stage in method.stages():
        best = [line["metrics"]["DSC"] for line in validations if line["stage"] == stage.name and line["best"]][-1]
        verdict = validator_of(run, method, stage)(method, stage)
        assert verdict.metrics["DSC"] == pytest.approx(best, rel=1e-5)  # later stages left its network alone


def test_a_stage_may_be_judged_through_a_part_that_predict_does_not_use(cohort: Path, tmp_path: Path) -> None:
    run = train_run(config_for(cohort, "student"), tmp_path / "run")
    teacher, student = (s for s in run.method().stages())
    stages = [line["stage"] for line in lines(run.path, "validation") if "DSC" in line["metrics"]]
    assert stages == ["teacher", "teacher", "student", "student"]
    method = run.method()
    before = [validator_of(run, method, stage)(method, stage).metrics["DSC"] for stage in (teacher, student)]
    with torch.no_grad():
        method.get_parameter("parts.b.bias").sub_(50.0)
    verdicts = [validator_of(run, method, stage)(method, stage) for stage in (teacher, student)]
    assert verdicts[0].metrics["DSC"] == 0.0 != before[0] and verdicts[0].missed == ("WT",)
    assert verdicts[1].metrics["DSC"] == before[1]


def test_the_view_of_a_stage_leaves_the_method_as_it_is() -> None:
    method = Student(problem(), StagedConfig())
    teacher, student = method.stages()
    view = StageView(method, teacher)
    assert view.supports(("b",)) and not view.supports(("a",)) and not method.supports(("b",))
    assert StageView(method, student).supports(("a",))
    assert not view.encodes and view.problem == method.problem
    assert list(method.state_dict()) == [n.removeprefix("method.") for n in view.state_dict()]


def test_a_monitor_of_subsets_that_cannot_be_predicted_is_refused(
    cohort: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(Student, "validate")
    with pytest.raises(ConfigError, match=r"Stage teacher must be judged on subsets it can predict from; got b\. Correct"):
        train_run(config_for(cohort, "student"), tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("cls", [Experts, Student])
def test_both_methods_keep_the_contract(cls: type[Method]) -> None:
    """Losses with diagnostics, a stage for each subset and a validation of its own are all allowed."""
    check_method(cls, problem(), StagedConfig())


# ---------------------------------------------------------------------------------------------------------- diagnostics
def test_diagnostics_are_logged_and_not_minimised(cohort: Path, tmp_path: Path) -> None:
    run = train_run(config_for(cohort, "experts"), tmp_path / "run")
    for line in lines(run.path, "step"):
        assert set(line["terms"]) == {"ce"} and line["loss"] == line["terms"]["ce"]
        assert line["diagnostics"]["half"] == 0.5 and set(line["diagnostics"]) == {"mean", "half"}


# ------------------------------------------------------------------------------------------------------------ which cases
class Singles(UNet):
    """Predicts from one modality at a time."""

    def supports(self, subset: Iterable[str]) -> bool:
        return len(set(subset)) == 1


def test_each_case_is_judged_once_from_the_fullest_subset_that_it_has() -> None:
    def case(name: str, *columns: str) -> Case:
        return Case.build(name, cells=dict.fromkeys(columns, "x"))

    cases = [case("p1", "a", "b", "seg"), case("p2", "b", "seg"), case("p3", "a", "seg"), case("p4", "a", "b", "seg")]
    stage = Stage("s", steps=1)
    unet = UNet(problem(), UNet.Config(width=4, levels=2))  # type: ignore[call-arg, arg-type]
    plan = StageView(unet, stage).plan(cases, every=False)
    assert [([c.id for c in group], wanted) for group, wanted in plan] == [
        (["p1", "p4"], [("a", "b")]),
        (["p2"], [("b",)]),
        (["p3"], [("a",)]),
    ]
    singles = Singles(problem(), unet.config)
    plan = StageView(singles, stage).plan(cases, every=False)  # of equals the first, not the one with the higher DSC
    assert [([c.id for c in group], wanted) for group, wanted in plan] == [(["p1", "p3", "p4"], [("a",)]), (["p2"], [("b",)])]
    assert StageView(singles, stage).plan(cases, every=True) == [(cases, [("a",), ("b",)])]
    asked = Stage("s", steps=1, monitor=Monitor("DSC", "max", subsets=(("b",),)))
    assert StageView(unet, asked).plan(cases, every=False) == [(cases, [("b",)])]
    assert StageView(unet, asked).plan(cases[2:3], every=False) == []


def test_a_case_without_a_sequence_is_judged_too(tmp_path: Path) -> None:
    """p3 and p7 lack b; a validation on them alone has as many numbers as cases, each from a."""
    cohort = write_cohort(tmp_path / "cohort")
    run = train_run(config_for(cohort, steps=2), tmp_path / "run")
    method, stage = run.method(), run.method().stages()[0]
    run.splits["val"][:] = ["p0", "p3", "p7"]
    seen: list[tuple[str, tuple[bool, ...]]] = []
    predict = method.predict

    def spy(batch: Batch) -> Prediction:
        seen.extend(zip(batch.ids, map(tuple, batch.present.tolist()), strict=True))
        return predict(batch)

    method.predict = spy  # type: ignore[method-assign]
    verdict = validator_of(run, method, stage)(method, stage)
    assert set(seen) == {("p0", (True, True)), ("p3", (True, False)), ("p7", (True, False))}
    assert verdict.cases == {"loss": 3, "DSC": 3}


def test_a_monitored_loss_rests_on_all_draws(cohort: Path, tmp_path: Path) -> None:
    run = train_run(config_for(cohort, steps=1, data={"draws_per_case": 20}), tmp_path / "run")
    method = run.method()
    rows: list[int] = []
    losses = method.losses

    def spy(batch: Batch, stage: Stage) -> dict[str, Tensor]:
        rows.append(len(batch))
        return losses(batch, stage)

    method.losses = spy  # type: ignore[method-assign]
    for monitor, count in ((Monitor("loss"), 20), (Monitor("DSC", "max"), 8), (None, 8)):
        rows.clear()
        stage = Stage("early", steps=1, monitor=monitor)
        verdict = validator_of(run, method, stage)(method, stage)
        assert rows == [2] * count and verdict.cases["loss"] == 2


# ------------------------------------------------------------------------------------------------------------ missed classes
def results_of(values: tuple[float, ...], n_pos: int, present: str) -> Results:
    metric = MetricValue(value=0.0, n=len(values), n_pos=n_pos, n_neg=len(values) - n_pos)
    cases = tuple(
        CaseResult(subject=f"{present}{k}", group="p", present=(present,), metrics={"DSC/ET": value})
        for k, value in enumerate(values)
    )
    row = SubsetResult(present=(present,), metrics={"DSC/ET": metric})
    return Results(method="m", cohort="c", split="val", seed=0, subsets=(row,), cases=cases)


def test_a_class_is_missed_only_where_no_case_of_any_group_has_it() -> None:
    nothing, found = results_of((0.0, 1.0), 1, "a"), results_of((0.0, 0.3), 2, "b")
    assert missed_classes([nothing]) == ("ET",) and missed_classes([nothing, found]) == missed_classes([found, nothing]) == ()
    assert missed_classes([nothing, results_of((0.0,), 1, "b")]) == ("ET",)


@pytest.mark.parametrize("monitor", [None, Monitor("loss"), Monitor("DSC", "max")])
def test_an_empty_prediction_is_seen_whatever_the_monitor(cohort: Path, tmp_path: Path, monitor: Monitor | None) -> None:
    run = train_run(config_for(cohort, steps=1), tmp_path / "run")
    method = run.method()
    last = list(method.parameters())[-1]
    with torch.no_grad():
        last.sub_(50.0)
    stage = Stage("train", steps=1, monitor=monitor)
    verdict = validator_of(run, method, stage)(method, stage)
    assert verdict.missed == ("WT",) and verdict.metrics["DSC"] == 0.0


# ------------------------------------------------------------------------------------------------------------ said beforehand
def without_labels(cohort: Path, name: str, ids: Iterable[str]) -> Path:
    table = cohort.with_name(f"{name}.csv")
    header, *rows = cohort.read_text().splitlines()
    gone = set(ids)
    rows = [row.rsplit(",", 1)[0] + "," if row.split(",")[0] in gone else row for row in rows]
    table.write_text("\n".join([header, *rows]) + "\n")
    table.with_suffix(".yaml").write_text(cohort.with_suffix(".yaml").read_text())
    return table


def test_a_validation_split_without_labels_is_refused_before_anything_is_made(cohort: Path, tmp_path: Path) -> None:
    split = train_run(config_for(cohort, steps=1), tmp_path / "known").splits
    table = without_labels(cohort, "no-val", split["val"])
    text = r"Stage train must have validation cases with seg, which choose its weights; got none among 2\. Fill the cohort's"
    with pytest.raises(ConfigError, match=text):
        train_run(config_for(table), tmp_path / "run")
    assert not (tmp_path / "run").exists()
    train_run(config_for(table, steps=1, training={"validations": 0}), tmp_path / "run")


def test_a_test_split_without_labels_is_said(cohort: Path, tmp_path: Path) -> None:
    split = train_run(config_for(cohort, steps=1), tmp_path / "known").splits
    said: list[Event] = []
    train_run(config_for(without_labels(cohort, "no-test", split["test"]), steps=1), tmp_path / "run", emit=said.append)
    text = "No test case has seg: there is nothing to evaluate this training on."
    assert Said("warning", text) in said
