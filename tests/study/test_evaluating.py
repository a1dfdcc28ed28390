from __future__ import annotations

from pathlib import Path

import pytest
from tests.training.fakes import config_for, write_cohort

from comodal.errors import ConfigError, DataError
from comodal.evaluation.results import Results
from comodal.run import Run
from comodal.study.evaluating import cases_of, evaluate_run, finished, parse_subsets, run_folder, usable
from comodal.training.events import Event, Progress
from comodal.training.train import train_run

NAMES = ["flair", "t1", "t2"]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    cohort = write_cohort(tmp_path_factory.mktemp("cohort"))
    return train_run(config_for(cohort, "moddrop", steps=4), tmp_path_factory.mktemp("runs") / "run")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("all", [("flair",), ("t1",), ("t2",), ("flair", "t1"), ("flair", "t2"), ("t1", "t2"), ("flair", "t1", "t2")]),
        ("t2,flair;t1", [("t1",), ("flair", "t2")]),
        ("t1+flair", [("flair", "t1")]),
        (" t1 , t1 ; ; t1", [("t1",)]),
    ],
)
def test_subsets_as_typed(text: str, expected: list[tuple[str, ...]]) -> None:
    assert parse_subsets(text, NAMES) == expected


def test_an_unknown_name_is_refused() -> None:
    with pytest.raises(ConfigError) as caught:
        parse_subsets("flair,flar", NAMES)
    text = "--subsets must name modalities of the run; got 'flar'. Did you mean flair? Known: flair, t1, t2."
    assert str(caught.value) == text


@pytest.mark.parametrize("text", ["", ";", " , "])
def test_no_subset_at_all_is_refused(text: str) -> None:
    with pytest.raises(
        ConfigError, match=r'--subsets must be "all" or subsets such as "flair,t1;t2"; got .*\. Name a modality\.'
    ):
        parse_subsets(text, NAMES)


def test_results_are_written_whole_and_read_back(run: Run) -> None:
    events: list[Event] = []
    found = evaluate_run(run, device="cpu", emit=events.append)
    assert found == Results.load(run.path / "results" / "test.json") == run.results() == finished(run, "test")
    assert [row.present for row in found.subsets] == [("a",), ("b",), ("a", "b")]
    with_b = sum("b" in run.cohort.case(i).cells for i in run.splits["test"])
    assert [row.metrics["DSC/WT"].n for row in found.subsets] == [2, with_b, with_b]
    assert (run.path / "examples" / "examples.json").is_file()
    progress = [event for event in events if isinstance(event, Progress)]
    assert [event.done for event in progress] == list(range(1, 3 + 2 * with_b)) and progress[-1].seconds_left == 0


def test_an_evaluation_repeats_itself(run: Run) -> None:
    evaluate_run(run, device="cpu")
    before = (run.path / "results" / "test.json").read_bytes()
    evaluate_run(run, device="cpu")
    assert (run.path / "results" / "test.json").read_bytes() == before


def test_only_chosen_modalities_and_subsets(run: Run) -> None:
    found = evaluate_run(run, split="val", subsets="a", use=["a"], device="cpu", examples=False)
    assert [row.present for row in found.subsets] == [("a",)] and found.split == "val"
    assert usable(run, ["b", "a"]) == ("a", "b") and usable(run, None) == ("a", "b")
    with pytest.raises(ConfigError, match=r"--subsets must name modalities of the run; got 'b'"):
        evaluate_run(run, split="val", subsets="b", use=["a"], device="cpu")
    with pytest.raises(ConfigError, match=r"--use must name modalities of the run; got 'c'"):
        evaluate_run(run, use=["c"], device="cpu")


def test_splits(run: Run) -> None:
    assert [case.id for case in cases_of(run, "val", None)] == run.splits["val"]
    assert len(cases_of(run, "all", None)) == len(run.cohort)
    assert len(cases_of(run, "test", run.cohort)) == len(run.cohort)  # another cohort is taken whole
    with pytest.raises(ConfigError, match=r"--split must be a split of the run; got 'tset'\. Did you mean test\?"):
        cases_of(run, "tset", None)


def test_no_case_to_evaluate_is_said(run: Run) -> None:
    with_a_alone = run.cohort.select([i for i in run.cohort.ids if "b" not in run.cohort.case(i).cells])
    with pytest.raises(DataError, match=r"split test must have a case with a target \(seg\) and one of b; got none"):
        evaluate_run(run, use=["b"], cohort=with_a_alone, device="cpu")


def test_a_run_is_finished_with_weights_and_results(run: Run, tmp_path: Path) -> None:
    evaluate_run(run, device="cpu")
    assert finished(run, "test") is not None and finished(run, "all") is None
    assert run_folder(tmp_path, "unet", 3, None) == tmp_path / "runs" / "unet-seed3"
    assert run_folder(tmp_path, "unet", 3, 1) == tmp_path / "runs" / "unet-seed3-fold1"


def test_a_run_that_was_evaluated_in_part_is_not_finished(run: Run) -> None:
    evaluate_run(run, subsets="a", device="cpu", examples=False)
    assert finished(run, "test") is None  # a study evaluates it anew
