from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from tests.training.fakes import config_for, write_cohort

from comodal.data.cohort import Cohort
from comodal.errors import ConfigError, DataError
from comodal.evaluation.examples import load_examples
from comodal.evaluation.results import Results
from comodal.inference.predictor import predict_case
from comodal.run import Run
from comodal.study.evaluating import cases_of, evaluate_run, finished, name_of, parse_subsets, run_folder, usable
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
        ("complete", [("flair", "t1", "t2")]),
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
    assert (run.path / "examples" / "test" / "examples.json").is_file()
    progress = [event for event in events if isinstance(event, Progress)]
    assert [event.done for event in progress] == list(range(1, 3 + 2 * with_b)) and progress[-1].seconds_left == 0


def test_an_evaluation_repeats_itself(run: Run) -> None:
    evaluate_run(run, device="cpu")
    before = (run.path / "results" / "test.json").read_bytes()
    evaluate_run(run, device="cpu")
    assert (run.path / "results" / "test.json").read_bytes() == before


def test_only_chosen_modalities_and_subsets(run: Run) -> None:
    found = evaluate_run(run, split="val", subsets="a", use=["a"], device="cpu", examples=False)
    assert [row.present for row in found.subsets] == [("a",)] and found.split == "val.use-a"
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
    assert run_folder(tmp_path, "unet", seed=3, fold=None) == tmp_path / "runs" / "unet-seed3"
    assert run_folder(tmp_path, "unet", seed=3, fold=1) == tmp_path / "runs" / "unet-seed3-fold1"


def test_an_evaluation_in_part_takes_the_place_of_nothing(run: Run) -> None:
    whole = evaluate_run(run, device="cpu")
    written = {path: path.read_bytes() for path in run.path.glob("*/test*") if path.is_file()}
    for part, name in [
        (evaluate_run(run, subsets="a", device="cpu"), "test.subsets-a"),
        (evaluate_run(run, subsets="b;a,b", device="cpu"), "test.subsets-b_a+b"),
        (evaluate_run(run, use=["b"], device="cpu"), "test.use-b"),
        (evaluate_run(run, use=["b"], subsets="b", device="cpu"), "test.use-b"),
    ]:
        assert part.split == name and Results.load(run.path / "results" / f"{name}.json") == part
        assert (run.path / "examples" / name / "examples.json").is_file()
        assert part.notes == (("Only these modalities were read: b.",) if "use" in name else ())
        assert all(row == whole.row(row.present) for row in part.subsets)
    assert {path: path.read_bytes() for path in written} == written
    assert finished(run, "test") == whole
    assert evaluate_run(run, use=["b", "a"], subsets="a;b;b,a", device="cpu").split == "test"  # all there is


def test_the_complete_set_alone_is_finished_by_itself(run: Run) -> None:
    assert finished(run, "test", "complete") is None
    found = evaluate_run(run, subsets="complete", device="cpu", examples=False)
    assert found.split == "test.subsets-a+b" and [row.present for row in found.subsets] == [("a", "b")]
    assert finished(run, "test", "complete") == found
    (run.path / "results" / f"{found.split}.json").unlink()  # the run is shared


def test_a_result_that_lacks_subsets_is_not_finished(run: Run) -> None:
    whole = evaluate_run(run, device="cpu", examples=False)
    whole.model_copy(update={"subsets": whole.subsets[:1]}).save(run.path / "results" / "test.json")
    assert finished(run, "test") is None  # a study evaluates it anew
    evaluate_run(run, device="cpu", examples=False)


def test_examples_are_kept_by_split(run: Run) -> None:
    """A page that shows the test cases may not show pictures of others, only because another split was evaluated later."""
    evaluate_run(run, device="cpu")
    before = (run.path / "examples" / "test" / "examples.json").read_bytes()
    evaluate_run(run, split="train", device="cpu")
    assert (run.path / "examples" / "test" / "examples.json").read_bytes() == before
    shown = {example.subject for example in load_examples(run.path / "examples" / "train")}
    assert shown and shown <= set(run.splits["train"])


def test_masks_and_numbers_of_the_examples_agree(tmp_path: Path) -> None:
    """Windows that overlap give another mask than windows that do not: here a case is 16 wide and a window 8."""
    cohort = write_cohort(tmp_path / "cohort")
    config = config_for(cohort, "unet", steps=30, data={"patch": [8, 8]}, training={"overlap": 0.75, "validations": 0})
    run = train_run(config, tmp_path / "run")
    evaluate_run(run, device="cpu")
    seen = 0
    for example in load_examples(run.path / "examples" / "test"):
        for name, mask in example.predictions.items():
            preparer = run.preparer()
            case = run.cohort.case(example.subject)
            subset = tuple(name.split("+"))
            prepared = preparer.case(case, use=subset)
            ((_, found),) = predict_case(run.method(), prepared, subsets=[subset], overlap=0.75)
            expected = found.probabilities["seg"][..., example.slice] >= 0.5
            assert np.array_equal(mask, expected)
            seen += int(mask.any())
    assert seen


def test_other_cohorts_of_one_name_have_files_of_their_own(run: Run, tmp_path: Path) -> None:
    others = [Cohort.load(write_cohort(tmp_path / folder)) for folder in ("north", "south")]
    names = [evaluate_run(run, cohort=other, device="cpu").split for other in others]
    assert [evaluate_run(run, cohort=other, device="cpu").split for other in others] == names  # again: the same files
    assert names[0] != names[1]
    assert [name.rsplit("-", 1)[0] for name in names] == ["north-cohort", "south-cohort"]
    assert all((run.path / "results" / f"{name}.json").is_file() for name in names)
    assert not any((run.path / "examples" / name).exists() for name in names)
    assert evaluate_run(run, cohort=others[1], use=["a"], device="cpu").split == f"{names[1]}.use-a"


def test_names_are_file_names_however_long_or_odd(run: Run) -> None:
    many = [tuple(f"modality{i}" for i in range(k)) for k in range(1, 12)]
    name = name_of(run, "test", many, use=("a", "b"))
    assert len(name) < 100 and name != name_of(run, "test", many[:-1], use=("a", "b"))
    odd = name_of(run, "../test", [("a/b",)], use=("a/b",))
    assert "/" not in odd and odd != name_of(run, "../test", [("a.b",)], use=("a.b",))


def test_a_damaged_file_says_how_to_go_on_without_its_modality(tmp_path: Path) -> None:
    cohort = write_cohort(tmp_path / "cohort")
    run = train_run(config_for(cohort, "moddrop", steps=1, training={"validations": 0}), tmp_path / "run")
    case = next(c for i in run.splits["test"] if "b" in (c := run.cohort.case(i)).cells)
    file = run.cohort.file(case, "b")
    file.write_bytes(file.read_bytes()[:400])
    with pytest.raises(DataError, match=rf"subject {case.id}, modality b, .*\. Or evaluate without b: --use a\.$"):
        evaluate_run(run, device="cpu")
    assert evaluate_run(run, use=["a"], device="cpu").split == "test.use-a"
    truth = run.cohort.file(case, "seg")
    truth.write_bytes(truth.read_bytes()[:400])
    with pytest.raises(DataError, match=r"modality seg") as caught:
        evaluate_run(run, use=["a"], device="cpu")
    assert "--use" not in str(caught.value)


def test_patients_of_the_training_are_noticed_in_another_cohort(run: Run, tmp_path: Path) -> None:
    results = evaluate_run(run, cohort=Cohort.load(run.path / "cohort.csv"), device="cpu")
    known = len(run.splits["train"]) + len(run.splits["val"])
    assert f"{known} of {len(run.cohort)} cases are called like patients of the training" in " ".join(results.notes)
    others = Cohort.load(write_cohort(tmp_path / "others"))
    new = [replace(case, id=f"new-{case.id}", group=f"new-{case.group}") for case in others.cases]
    found = evaluate_run(run, cohort=replace(others, cases=tuple(new)), device="cpu")
    assert not any("training" in note for note in found.notes)
