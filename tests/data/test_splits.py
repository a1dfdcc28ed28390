"""Splits: by patient, seeded, complete."""

from __future__ import annotations

from pathlib import Path

import pytest

from comodal.data.cohort import Case, Cohort, CohortMeta, ModalitySpec
from comodal.data.splits import SplitConfig, check_splits, make_splits
from comodal.errors import ConfigError, DataError

META = CohortMeta(layout="csv", root="", modalities=[ModalitySpec(name="t1")])


def cohort(groups: int = 20, sessions: int = 2, splits: dict[int, str] | None = None) -> Cohort:
    cases = [
        Case.build(f"p{g:02}", session=str(s), cells={"t1": "a.nii"}, split=(splits or {}).get(g, ""))
        for g in range(groups)
        for s in range(sessions)
    ]
    return Cohort.build(META, cases, Path())


def patients(ids: list[str]) -> set[str]:
    return {identifier[:3] for identifier in ids}


def test_every_case_is_in_one_part_and_every_patient_on_one_side() -> None:
    splits = make_splits(cohort(), SplitConfig())
    assert {name: len(patients(ids)) for name, ids in splits.items()} == {"train": 14, "val": 2, "test": 4}
    assert sorted(identifier for ids in splits.values() for identifier in ids) == sorted(cohort().ids)
    sides = [patients(ids) for ids in splits.values()]
    assert not sides[0] & sides[1]
    assert not sides[0] & sides[2]
    assert not sides[1] & sides[2]
    assert all(ids == sorted(ids) for ids in splits.values())


def test_the_seed_decides_and_the_order_of_the_table_does_not() -> None:
    first = make_splits(cohort(), SplitConfig(seed=3))
    assert make_splits(cohort().select(reversed(cohort().ids)), SplitConfig(seed=3)) == first
    assert make_splits(cohort(), SplitConfig(seed=4)) != first


def test_the_draw_never_changes() -> None:
    """Pinned: the test cases of a run are what its numbers mean."""
    splits = make_splits(cohort(10, sessions=1), SplitConfig(seed=0))
    assert splits == PINNED


PINNED = {
    "train": ["p00_0", "p01_0", "p03_0", "p05_0", "p07_0", "p08_0", "p09_0"],
    "val": ["p02_0"],
    "test": ["p04_0", "p06_0"],
}


def test_folds_cover_everything_once() -> None:
    tested: list[str] = []
    for fold in range(5):
        splits = make_splits(cohort(), SplitConfig(folds=5, fold=fold))
        assert {name: len(patients(ids)) for name, ids in splits.items()} == {"train": 14, "val": 2, "test": 4}
        tested += splits["test"]
    assert sorted(tested) == sorted(cohort().ids)


def test_small_cohorts_leave_a_patient_for_each_part() -> None:
    splits = make_splits(cohort(3), SplitConfig())
    assert {name: len(patients(ids)) for name, ids in splits.items()} == {"train": 1, "val": 1, "test": 1}
    with pytest.raises(DataError, match=r"splits must leave a group for each of test, val, train; got 2 groups. Add patients"):
        make_splits(cohort(2), SplitConfig())
    splits = make_splits(cohort(2), SplitConfig(fractions=(0.5, 0.0, 0.5)))
    assert [len(patients(splits[name])) for name in ("train", "val", "test")] == [1, 0, 1]


def test_more_folds_than_patients_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"folds must be at most the number of groups; got 5 for 4. Use at most 4 folds"):
        make_splits(cohort(4), SplitConfig(folds=5))


@pytest.mark.parametrize(
    ("config", "text"),
    [
        ({"fractions": (0.5, 0.2, 0.2)}, "three numbers that add up to 1"),
        ({"fractions": (0.0, 0.5, 0.5)}, "the first above 0"),
        ({"fractions": (1.5, -0.5, 0.0)}, "three numbers that add up to 1"),
        ({"folds": 5, "fold": 5}, r"fold must be below folds \(5\); got 5"),
        ({"folds": 1}, "greater than or equal to 2"),
        ({"ratio": 1}, "Extra inputs"),
    ],
)
def test_impossible_configurations_are_refused(config: dict[str, object], text: str) -> None:
    with pytest.raises(ValueError, match=text):
        SplitConfig.model_validate(config)


def test_the_cohorts_own_column_is_used() -> None:
    column = {g: "test" if g < 5 else "val" if g < 8 else "train" for g in range(20)}
    splits = make_splits(cohort(splits=column), SplitConfig())
    assert patients(splits["test"]) == {f"p{g:02}" for g in range(5)}
    assert patients(splits["val"]) == {"p05", "p06", "p07"}
    drawn = make_splits(cohort(splits=column), SplitConfig(column=False))
    assert drawn == make_splits(cohort(), SplitConfig())


def test_a_column_without_validation_gives_some_of_its_training_cases() -> None:
    column = {g: "test" if g < 4 else "train" for g in range(20)}
    splits = make_splits(cohort(splits=column), SplitConfig())
    assert patients(splits["test"]) == {f"p{g:02}" for g in range(4)}
    assert (len(patients(splits["train"])), len(patients(splits["val"]))) == (14, 2)  # 16 patients, 0.1 / 0.8 of them


def test_a_column_that_is_half_filled_or_meets_folds_is_refused() -> None:
    with pytest.raises(DataError, match="cohort: split must be filled for all cases or for none; got 2 of 40"):
        make_splits(cohort(splits={0: "test"}), SplitConfig())
    full = cohort(splits=dict.fromkeys(range(20), "train"))
    with pytest.raises(ConfigError, match=r"splits.folds must be left out where .* Set splits.column: false to draw folds"):
        make_splits(full, SplitConfig(folds=5))
    with pytest.raises(DataError, match="cohort: split must give at least one case to train; got none"):
        make_splits(cohort(splits=dict.fromkeys(range(20), "test")), SplitConfig())


def test_a_patient_on_two_sides_is_refused() -> None:
    both = [Case.build("p", session=s, cells={"t1": "a.nii"}, split=part) for s, part in (("1", "train"), ("2", "test"))]
    leaking = Cohort.build(META, both, Path())
    with pytest.raises(DataError, match=r"splits must keep each group on one side; got p in train and test \[subject p_2\]"):
        make_splits(leaking, SplitConfig())
    with pytest.raises(DataError, match="subject must be one of the cohort; got 'q'"):
        check_splits({"train": ["q"]}, leaking)
    check_splits({"train": ["p_1", "p_2"]}, leaking)
