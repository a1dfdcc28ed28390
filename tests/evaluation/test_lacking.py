"""What the training cases lack, in one sentence."""

from __future__ import annotations

from pathlib import Path

from comodal.data.cohort import Case, Cohort, CohortMeta, ModalitySpec, TargetSpec
from comodal.data.withholding import withhold
from comodal.evaluation.comparison import combine
from comodal.evaluation.lacking import lacking_note, training_cases
from comodal.evaluation.results import Results, TrainingCases


def result(n: int = 48, *, withheld: dict[str, int] | None = None, none: int = 0, **lacking: int) -> Results:
    training = TrainingCases(n=n, lacking=lacking, withheld=withheld or {}, none=none)
    return Results(method="unet", cohort="c", split="test", seed=0, training=training)


def test_training_cases_are_counted_from_cohort_and_splits() -> None:
    names = ("flair", "t1", "t2")
    rows = [Case.build(f"p{k}", cells={m: "x.nii" for m in names if m != "t1" or k % 4}) for k in range(16)]
    meta = CohortMeta(layout="csv", root=".", modalities=[ModalitySpec(name=name) for name in names])
    whole = Cohort.build(meta, rows, Path())
    ids = whole.ids[:12]
    cohort = withhold(whole, {"t1": 1 / 3, "t2": 0.25}, ids=ids, seed=0)
    assert training_cases(whole, ids, names) == TrainingCases(n=12, lacking={"flair": 0, "t1": 3, "t2": 0})
    assert training_cases(cohort, ids, names) == TrainingCases(
        n=12, lacking={"flair": 0, "t1": 3 + 3, "t2": 3}, withheld={"t1": 3, "t2": 3}
    )
    assert training_cases(cohort, ids, ["flair"]) == TrainingCases(n=12, lacking={"flair": 0})  # what the run reads


def test_cases_without_any_modality_that_the_run_reads_are_counted() -> None:
    names = ("flair", "t1", "t2")
    rows = [Case.build(f"p{k}", cells=dict.fromkeys(names[2:] if k < 3 else names, "x.nii")) for k in range(10)]
    meta = CohortMeta(layout="csv", root=".", modalities=[ModalitySpec(name=name) for name in names])
    whole = Cohort.build(meta, rows, Path())
    assert training_cases(whole, whole.ids, names).none == 0
    found = training_cases(whole, whole.ids, names[:2])
    assert found == TrainingCases(n=10, lacking={"flair": 3, "t1": 3}, none=3)
    less = withhold(whole, {"t1": 0.5}, ids=whole.ids, seed=0)
    assert training_cases(less, whole.ids, ["t1"]) == TrainingCases(n=10, lacking={"t1": 7}, withheld={"t1": 4}, none=7)


def test_cases_that_take_no_part_are_said() -> None:
    none = "have none of the modalities read"
    one, fold = result(t1=4, none=2), result(47, t1=4, none=3)
    assert lacking_note({"a": [one], "b": [one]}) == f"training cases without: t1 4/48; 2/48 {none} and take no part"
    assert lacking_note({"a": [one, fold]}).endswith(f"; 2/48 to 3/47 {none} and take no part")
    apart = {"all": [result(t1=4, t2=2)], "only-t1": [result(t1=4, none=4)]}
    assert lacking_note(apart) == f"training cases without: t1 4/48, t2 2/48; 4/48 {none} by only-t1 and take no part"


def test_natural_and_withheld_gaps_are_told_apart() -> None:
    one = result(withheld={"t1ce": 15}, flair=0, t1=4, t1ce=20)
    assert lacking_note({"unet": [one]}) == "training cases without: t1 4/48, t1ce 20/48 (withheld: t1ce 15)"
    assert lacking_note({"unet": [result(t1=4)]}) == "training cases without: t1 4/48"


def test_nothing_is_said_where_nothing_lacks_or_nobody_knows() -> None:
    unknown = Results(method="unet", cohort="c", split="test", seed=0)
    assert (
        lacking_note({"unet": [result(flair=0, t1=0)]}) == lacking_note({"unet": [unknown]}) == lacking_note({"unet": []}) == ""
    )
    assert lacking_note({"unet": [unknown, result(t1=4)], "other": []}) == "training cases without: t1 4/48"


def test_folds_say_the_range() -> None:
    folds = [result(t1=4, t2=2), result(47, t1=5, t2=2), result(t1=3, t2=2)]
    assert lacking_note({"unet": folds}) == "training cases without: t1 3/48 to 5/47, t2 2/48 to 2/47"
    taken = [result(withheld={"t1": 3}, t1=4), result(withheld={"t1": 4}, t1=4), result(withheld={"t1": 3}, t1=4)]
    assert lacking_note({"unet": taken}) == "training cases without: t1 4/48 (withheld: t1 3 to 4)"
    assert lacking_note({"unet": [result(t1=0), result(t1=1)]}) == "training cases without: t1 0/48 to 1/48"


def test_methods_that_were_trained_alike_share_one_sentence() -> None:
    both = {"a": [result(t1=4, t2=0)], "b": [result(t1=4, t2=0)] * 2}
    assert lacking_note(both) == "training cases without: t1 4/48"
    single = {"all": [result(flair=0, t1=4, t2=2)], "only-t2": [result(t2=2)], "only-flair": [result(flair=0)]}
    assert lacking_note(single) == "training cases without: t1 4/48, t2 2/48"


def test_methods_that_were_not_are_named() -> None:
    apart = {"whole": [result(t1=0)], "less": [result(withheld={"t1": 12}, t1=12)]}
    assert lacking_note(apart) == "training cases without, whole: none; less: t1 12/48 (withheld: t1 12)"
    cause = {"natural": [result(t1=4)], "told": [result(withheld={"t1": 4}, t1=4)]}
    assert lacking_note(cause) == "training cases without, natural: t1 4/48; told: t1 4/48 (withheld: t1 4)"


def test_a_combined_table_says_it_once() -> None:
    table = combine({"a": [result(t1=4)] * 3, "b": [result(t1=4)]})
    assert [note for note in table.notes if "without" in note] == ["training cases without: t1 4/48"]
    assert not [note for note in combine({"a": [result(t1=0)]}).notes if "without" in note]


def test_how_many_keep_their_label_is_said_where_some_were_withheld() -> None:
    rows = [Case.build(f"p{k}", cells={"t1": "x.nii", "grade": "yes" if k < 12 else ""}) for k in range(16)]
    targets = [TargetSpec(name="grade", kind="class", classes=["no", "yes"])]
    meta = CohortMeta(layout="csv", root=".", modalities=[ModalitySpec(name="t1")], targets=targets)
    whole = Cohort.build(meta, rows, Path())
    cohort = withhold(whole, {"grade": 0.75}, ids=whole.ids, seed=0)
    found = training_cases(cohort, whole.ids, ["t1"], targets=["grade"])
    assert (found.labelled, found.unlabelled) == ({"grade": 3}, {"grade": 9})
    assert training_cases(whole, whole.ids, ["t1"], targets=["grade"]).labelled == {}
    few = Results(method="m", cohort="c", split="test", seed=0, training=found)
    assert lacking_note({"m": [few]}) == "training cases that keep their label: grade 3/12"
    assert lacking_note({"m": [few], "all": [result(16)]}) == "training cases that keep their label, m: grade 3/12"
    assert lacking_note({"m": [few], "n": [few]}) == "training cases that keep their label: grade 3/12"
    both = few.model_copy(update={"training": found.model_copy(update={"lacking": {"t1": 4}})})
    assert lacking_note({"m": [both]}) == "training cases without: t1 4/16; training cases that keep their label: grade 3/12"
