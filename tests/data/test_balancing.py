"""Which classes training cases have, and chances of cases by which all classes are drawn equally often."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from comodal.data.balancing import balanced_targets, case_weights, class_counts
from comodal.data.cohort import Case, Cohort, CohortMeta, ModalitySpec, TargetSpec
from comodal.errors import ConfigError
from comodal.modality import Target

DIAGNOSIS = TargetSpec(name="diagnosis", kind="class", classes=["nevus", "melanoma", "other"])
SIGNS = TargetSpec(name="signs", kind="multilabel", classes=["veil", "streaks"])
GRADE = TargetSpec(name="grade", kind="ordinal", classes=["low", "high"])
SPECS = (DIAGNOSIS, SIGNS, GRADE)
ROWS = (  # diagnosis, signs, grade; blank: not labelled, "?": nobody knows of it
    ("nevus", "-", "low"),
    ("nevus", "veil", "low"),
    ("nevus", "veil;?streaks", ""),
    ("melanoma", "veil;streaks", "high"),
    ("melanoma", "", "low"),
    ("", "", "low"),
    ("", "", ""),
)


def cohort_of(rows: tuple[tuple[str, ...], ...] = ROWS) -> Cohort:
    names = [spec.name for spec in SPECS]
    cases = [
        Case.build(f"p{k}", cells={"blood": "1;2", **{n: cell for n, cell in zip(names, row, strict=True) if cell}})
        for k, row in enumerate(rows)
    ]
    blood = ModalitySpec(name="blood", kind="features", spatial_dims=0, channels=2, inline=True)
    return Cohort.build(CohortMeta(layout="csv", root=".", modalities=[blood], targets=list(SPECS)), cases, Path())


def targets(*names: str) -> list[Target]:
    return [spec.target for spec in SPECS if spec.name in names]


def chances(*names: str, rows: tuple[tuple[str, ...], ...] = ROWS) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    cohort = cohort_of(rows)
    return case_weights(cohort, cohort.cases, targets(*names))


def test_counts_are_of_the_cases_that_are_asked_and_of_what_is_known() -> None:
    cohort, every = cohort_of(), [*targets("diagnosis", "signs", "grade"), Target("mask", "regions", ("WT",))]
    found = class_counts(cohort, cohort.ids, every)
    assert found == {
        "diagnosis": ((3, 5), (2, 5), (0, 5)),
        "signs": ((3, 4), (1, 3)),  # of one case nobody knows whether there are streaks
        "grade": ((4, 5), (1, 5)),
    }
    assert class_counts(cohort, ["p3", "p6"], targets("diagnosis")) == {"diagnosis": ((0, 1), (1, 1), (0, 1))}
    assert class_counts(cohort, [], targets("diagnosis")) == {"diagnosis": ((0, 0), (0, 0), (0, 0))}


def test_each_class_is_drawn_equally_often() -> None:
    found = chances("diagnosis")
    assert found.sum() == pytest.approx(1)
    assert found[:3].sum() == pytest.approx(found[3:5].sum())  # three nevi, two melanomas
    assert found[0] == found[1] and found[3] == found[4]
    assert found[5] == found[6] == pytest.approx(found[:5].mean())  # of whom nothing is known


def test_each_answer_is_drawn_equally_often_yes_as_no() -> None:
    rows = (("", "veil", ""), ("", "veil", ""), ("", "veil", ""), ("", "-", ""))
    found = chances("signs", rows=rows)  # all lack streaks, which tells nothing; of veil the no weighs as much as three yes
    veil, streaks = np.array([1 / 3, 1 / 3, 1 / 3, 1.0]), np.full(4, 0.25)
    assert found == pytest.approx((veil + streaks) / (veil + streaks).sum())


def test_what_nobody_knows_of_a_case_does_not_count_for_it() -> None:
    found = chances("signs", rows=(("", "streaks", ""), ("", "?streaks", ""), ("", "-", "")))
    each = np.array([1 / 3 + 1.0, 1 / 3, 1 / 3 + 1.0])  # veil: no, three times; streaks: yes once, no once
    assert found == pytest.approx(each / each.sum())


def test_several_targets_are_averaged_each_over_the_cases_that_have_it() -> None:
    rows = (("nevus", "", "low"), ("nevus", "", ""), ("melanoma", "", "high"), ("", "", "high"))
    diagnosis, grade = np.array([0.25, 0.25, 0.5, 0.0]), np.array([0.5, 0.0, 0.25, 0.25])
    assert chances("diagnosis", "grade", rows=rows) == pytest.approx((diagnosis + grade) / 2)


@pytest.mark.parametrize("names", [(), ("diagnosis",)])
def test_where_nothing_is_known_all_are_drawn_alike(names: tuple[str, ...]) -> None:
    assert chances(*names, rows=(("", "-", ""),) * 4) == pytest.approx([0.25] * 4)


def test_only_targets_of_classes_can_be_balanced() -> None:
    every = [*targets("diagnosis", "signs"), Target("mask", "regions", ("WT",))]
    assert [target.name for target in balanced_targets(["signs", "diagnosis"], every)] == ["signs", "diagnosis"]
    assert balanced_targets([], every) == []
    with pytest.raises(ConfigError, match=r"balance must name targets of classes; got 'diagnosys'. Did you mean diagnosis\?"):
        balanced_targets(["diagnosys"], every)
    with pytest.raises(ConfigError, match="balance must name targets of classes; got 'mask'"):
        balanced_targets(["mask"], every)
