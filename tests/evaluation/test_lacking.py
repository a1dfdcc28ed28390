"""What the training cases lack, in one sentence."""

from __future__ import annotations

from pathlib import Path

from comodal.data.cohort import Case, Cohort, CohortMeta, ModalitySpec
from comodal.data.withholding import withhold
from comodal.evaluation.comparison import combine
from comodal.evaluation.lacking import lacking_note, training_cases
from comodal.evaluation.results import Results, TrainingCases


def result(n: int = 48, *, withheld: dict[str, int] | None = None, **lacking: int) -> Results:
    training = TrainingCases(n=n, lacking=lacking, withheld=withheld or {})
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


def test_natural_and_withheld_gaps_are_told_apart() -> None:
    one = result(withheld={"t1ce": 15}, flair=0, t1=4, t1ce=20)
    assert lacking_note({"unet": [one]}) == "training subjects without: t1 4/48, t1ce 20/48 (withheld: t1ce 15)"
    assert lacking_note({"unet": [result(t1=4)]}) == "training subjects without: t1 4/48"


def test_nothing_is_said_where_nothing_lacks_or_nobody_knows() -> None:
    unknown = Results(method="unet", cohort="c", split="test", seed=0)
    assert (
        lacking_note({"unet": [result(flair=0, t1=0)]}) == lacking_note({"unet": [unknown]}) == lacking_note({"unet": []}) == ""
    )
    assert lacking_note({"unet": [unknown, result(t1=4)], "other": []}) == "training subjects without: t1 4/48"


def test_folds_say_the_range() -> None:
    folds = [result(t1=4, t2=2), result(47, t1=5, t2=2), result(t1=3, t2=2)]
    assert lacking_note({"unet": folds}) == "training subjects without: t1 3/48 to 5/47, t2 2/48 to 2/47"
    taken = [result(withheld={"t1": 3}, t1=4), result(withheld={"t1": 4}, t1=4), result(withheld={"t1": 3}, t1=4)]
    assert lacking_note({"unet": taken}) == "training subjects without: t1 4/48 (withheld: t1 3 to 4)"
    assert lacking_note({"unet": [result(t1=0), result(t1=1)]}) == "training subjects without: t1 0/48 to 1/48"


def test_methods_that_were_trained_alike_share_one_sentence() -> None:
    both = {"a": [result(t1=4, t2=0)], "b": [result(t1=4, t2=0)] * 2}
    assert lacking_note(both) == "training subjects without: t1 4/48"
    single = {"all": [result(flair=0, t1=4, t2=2)], "only-t2": [result(t2=2)], "only-flair": [result(flair=0)]}
    assert lacking_note(single) == "training subjects without: t1 4/48, t2 2/48"


def test_methods_that_were_not_are_named() -> None:
    apart = {"whole": [result(t1=0)], "less": [result(withheld={"t1": 12}, t1=12)]}
    assert lacking_note(apart) == "training subjects without, whole: none; less: t1 12/48 (withheld: t1 12)"
    cause = {"natural": [result(t1=4)], "told": [result(withheld={"t1": 4}, t1=4)]}
    assert lacking_note(cause) == "training subjects without, natural: t1 4/48; told: t1 4/48 (withheld: t1 4)"


def test_a_combined_table_says_it_once() -> None:
    table = combine({"a": [result(t1=4)] * 3, "b": [result(t1=4)]})
    assert [note for note in table.notes if "without" in note] == ["training subjects without: t1 4/48"]
    assert not [note for note in combine({"a": [result(t1=0)]}).notes if "without" in note]
