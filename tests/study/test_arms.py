"""Studies whose arms are other arms' runs under settings at test, and studies of several divisions."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from tests.study.fakes import TINY, guided_study, write_vectors

from comodal import api
from comodal.cli.main import main
from comodal.errors import ConfigError
from comodal.evaluation.results import Results
from comodal.run import Run
from comodal.study.evaluating import name_of
from comodal.study.study import StudyResult, load_study, run_study
from comodal.training.events import Event, Progress, Said


@pytest.fixture(scope="module")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_vectors(tmp_path_factory.mktemp("cohort"))


@pytest.fixture(scope="module")
def whole(cohort: Path, tmp_path_factory: pytest.TempPathFactory) -> StudyResult:
    return run_study(guided_study(cohort, divisions=[0, 4]), tmp_path_factory.mktemp("whole"))


def trained(events: Sequence[Event]) -> int:
    return sum(isinstance(event, Progress) and event.what.startswith("training") for event in events)


def test_arms_of_an_arm_are_its_runs(whole: StudyResult) -> None:
    names = ["guided-seed0-division0", "guided-seed0-division4"]
    assert {label: [run.name for run in runs] for label, runs in whole.runs.items()} == dict.fromkeys(
        ["guided", "guided-inferior", "guided-both"], names
    )
    assert sorted(path.name for path in (whole.out / "runs").iterdir()) == names
    for folder in whole.runs["guided"]:
        assert sorted(path.name for path in (folder / "results").iterdir()) == [
            "test.subsets-cheap+costly.json",
            "test.subsets-cheap+costly.read_out-both.json",
            "test.subsets-cheap+costly.read_out-inferior.json",
        ]
    used = {label: found[0].cases[0].used for label, found in whole.results.items()}
    assert used == {"guided": ("cheap",), "guided-inferior": ("cheap",), "guided-both": ("cheap", "costly")}
    assert whole.results["guided-both"][0].notes[0] == "Set at test, otherwise than in the training: read_out both."
    assert not whole.results["guided"][0].notes


def test_their_numbers_are_of_the_same_cases_and_not_the_same(whole: StudyResult) -> None:
    for guided, alone in zip(whole.results["guided"], whole.results["guided-inferior"], strict=True):
        assert [case.subject for case in guided.cases] == [case.subject for case in alone.cases]
        assert [case.probabilities for case in guided.cases] != [case.probabilities for case in alone.cases]


def test_divisions_divide_otherwise(whole: StudyResult) -> None:
    runs = [Run.load(path) for path in whole.runs["guided"]]
    assert [run.config.splits.seed for run in runs] == [0, 4] and runs[0].splits["test"] != runs[1].splits["test"]


def test_divisions_and_folds_and_seeds(cohort: Path, tmp_path: Path) -> None:
    methods = [{"name": "guidance", "config": TINY}]
    splits = {"fractions": [0.8, 0.2, 0.0], "folds": 2}
    file = guided_study(cohort, methods=methods, reference="", divisions=[0, 1], folds=[0, 1], seeds=[3], splits=splits)
    found = run_study(file, tmp_path)
    assert [run.name for run in found.runs["guidance"]] == [
        f"guidance-seed3-division{division}-fold{fold}" for division in (0, 1) for fold in (0, 1)
    ]
    tested = [set(Run.load(run).splits["test"]) for run in found.runs["guidance"]]
    assert len(tested[0] | tested[1]) == len(tested[2] | tested[3]) == 24 and tested[0] != tested[2]


def test_a_study_goes_on_where_only_a_read_out_is_missing(cohort: Path, whole: StudyResult) -> None:
    lost = whole.runs["guided"][1] / "results" / "test.subsets-cheap+costly.read_out-both.json"
    before = lost.read_bytes()
    lost.unlink()
    events: list[Event] = []
    again = run_study(guided_study(cohort, divisions=[0, 4]), whole.out, emit=events.append)
    assert trained(events) == 0 and again.results == whole.results and lost.read_bytes() == before
    said = [event.text for event in events if isinstance(event, Said) and event.text.startswith("guided")]
    assert said == ['guided-both: guided-seed0-division4 with method.read_out="both"']


def test_its_page_has_every_arm_with_its_own_numbers(cohort: Path, whole: StudyResult) -> None:
    api.study(guided_study(cohort, divisions=[0, 4]), out=whole.out)
    text = (whole.out / "page.html").read_text()
    assert text.count("<td>guided-seed0-division0</td>") == 1 and "guided-both − guided-inferior" in text
    table = (whole.out / "table.md").read_text()
    assert "guided - guided-inferior" in table and "guided-both - guided-inferior" in table


ARMS: dict[str, Any] = {
    "nobody": {"label": "x", "of": "nobody", "config": {"read_out": "guide"}},
    "chain": {"label": "x", "of": "guided-inferior", "config": {"read_out": "guide"}},
    "named": {"label": "x", "of": "guided", "name": "guidance", "config": {"read_out": "guide"}},
    "more": {"label": "x", "of": "guided", "config": {"read_out": "guide"}, "training": {"clip": 1}},
    "nothing": {"label": "x", "of": "guided"},
    "neither": {"label": "x"},
    "key": {"label": "x", "of": "guided", "config": {"steps": 9}},
    "value": {"label": "x", "of": "guided", "config": {"read_out": "guess"}},
    "weights": {"label": "x", "of": "bare", "config": {"read_out": "both"}},
}


@pytest.mark.parametrize(
    ("arm", "said"),
    [
        ("nobody", r"study arm x must be of an arm that is trained; got 'nobody'"),
        ("chain", r"study arm x must be of an arm that is trained; got 'guided-inferior'\. Known: bare, guided\."),
        ("named", r"study arm x must have of, label and config alone, as it is not trained; got name"),
        ("more", r"study arm x must have of, label and config alone, as it is not trained; got training"),
        ("nothing", r"study arm x: config must set something; got nothing\. .*config: \{read_out: inferior\}"),
        ("neither", r"study arm x must have a name, or say of which arm it is; got neither"),
        ("key", r"study arm x: config must name what guidance lets change once it is trained \(read_out\); got 'steps'"),
        ("value", r"method\.read_out must be 'guided', 'guide', 'inferior', 'superior' or 'both'; got 'guess'"),
        ("weights", r"method\.read_out must be trained; got both"),
    ],
)
def test_a_wrong_arm_is_refused_before_any_training(cohort: Path, tmp_path: Path, arm: str, said: str) -> None:
    methods = [
        {"name": "guidance", "label": "guided", "config": TINY},
        {"label": "guided-inferior", "of": "guided", "config": {"read_out": "inferior"}},
        {"name": "guidance", "label": "bare", "config": {**TINY, "both": False}},
        ARMS[arm],
    ]
    events: list[Event] = []
    with pytest.raises(ConfigError, match=said):
        run_study(guided_study(cohort, methods=methods), tmp_path, emit=events.append)
    assert trained(events) == 0 and not (tmp_path / "runs").exists()


def test_divisions_that_are_none_are_refused(cohort: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"study\.divisions must differ from each other; got \[1, 1\]"):
        load_study(guided_study(cohort, divisions=[1, 1]))
    with pytest.raises(ConfigError, match=r"splits\.seed must be left out beside study\.divisions"):
        load_study(guided_study(cohort, divisions=[1, 2], splits={"seed": 1}))
    named = write_vectors(tmp_path / "named", split=True)
    said = r"study\.divisions must give several divisions of the cases; got one for 0, 1\..*splits\.column: false"
    with pytest.raises(ConfigError, match=said):
        run_study(guided_study(named, divisions=[0, 1]), tmp_path / "out")


def test_evaluation_under_other_settings_has_a_name_of_its_own(
    whole: StudyResult, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = whole.runs["guided"][0]
    before = {path: path.read_bytes() for path in (folder / "results").iterdir()}
    assert main(["evaluate", str(folder), "--set", "method.read_out=superior", "--device", "cpu"]) == 0
    file = folder / "results" / "test.read_out-superior.json"
    found = Results.load(file)
    assert str(file) in capsys.readouterr().out and {path: path.read_bytes() for path in before} == before
    assert [row.present for row in found.subsets if row.supported] == [("costly",), ("cheap", "costly")]
    file.unlink()
    assert main(["evaluate", str(folder), "--set", "method.steps=3"]) == 2
    assert "must name what guidance lets change once it is trained (method.read_out)" in capsys.readouterr().err


def test_what_is_set_to_what_it_was_trained_with_changes_no_name(whole: StudyResult) -> None:
    run = Run.load(whole.runs["guided"][0])
    assert not run.at_test(["method.read_out=guided"]).changed
    other = run.at_test(["method.read_out=guide"])
    assert other.changed == {"read_out": "guide"} and not other.at_test(["method.read_out=guided"]).changed
    names = run.problem.names
    assert name_of(other, "test", [("cheap",)], use=names) == "test.subsets-cheap.read_out-guide"
