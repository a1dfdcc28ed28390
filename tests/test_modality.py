"""Modalities, targets, and the order of subsets."""

from __future__ import annotations

from dataclasses import FrozenInstanceError

import pytest

from comodal.modality import Modality, Target, TargetKind, first_grid, only_regions, subset_name, subsets


def test_subsets_are_all_non_empty_ones_small_first_in_canonical_order() -> None:
    assert list(subsets(["b", "a", "c"])) == [("b",), ("a",), ("c",), ("b", "a"), ("b", "c"), ("a", "c"), ("b", "a", "c")]


@pytest.mark.parametrize("count", [0, 1, 4])
def test_there_are_two_to_the_m_minus_one_subsets(count: int) -> None:
    found = list(subsets(map(str, range(count))))
    assert len(found) == len(set(found)) == 2**count - 1


def test_a_subset_is_one_word() -> None:
    assert subset_name(("flair", "t1ce")) == "flair+t1ce"


@pytest.mark.parametrize("name", ["", "t1 ce", "a/b", "t1.nii", "-", "a+b", "a,b"])
def test_a_name_that_could_not_be_a_column_or_a_file_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match=r"Modality.name must be letters, digits, '_' or '-'; got .* Rename the column"):
        Modality(name)


def test_an_image_is_two_or_three_dimensional() -> None:
    with pytest.raises(ValueError, match=r"Modality.spatial_dims must be 2 or 3 for an image; got 0 \[t1\]"):
        Modality("t1", spatial_dims=0)
    assert Modality("report", kind="text", spatial_dims=0).spatial_dims == 0


def test_a_modality_cannot_be_changed() -> None:
    with pytest.raises(FrozenInstanceError):
        Modality("t1").name = "t2"  # type: ignore[misc]


@pytest.mark.parametrize("field", ["codes", "paint"])
def test_codes_and_paint_have_one_entry_per_class(field: str) -> None:
    wrong = {"codes": ((1,),), "paint": (1,)}[field]
    with pytest.raises(ValueError, match=rf"Target.{field} must have one entry per class \(2\); got 1 \[seg\]"):
        Target("seg", "regions", ("WT", "TC"), **{field: wrong})  # type: ignore[arg-type]


@pytest.mark.parametrize("classes", [(), ("a", "a")])
def test_classes_are_distinct_and_not_empty(classes: tuple[str, ...]) -> None:
    with pytest.raises(ValueError, match=r"Target.classes must be distinct and not empty"):
        Target("seg", "class", classes)


@pytest.mark.parametrize(
    ("kind", "codes", "background"),
    [
        ("labels", (), 0),
        ("labels", ((0,), (1,), (2,)), 0),
        ("labels", ((1,), (0,), (2,)), 1),  # wherever it stands
        ("labels", ((1,), (2,), (3,)), None),
        ("labels", ((0, 5), (1,), (2,)), None),  # a structure in which a code is 0
        ("regions", (), None),
        ("regions", ((0,), (1,), (2,)), None),
        ("class", (), None),
    ],
)
def test_the_background_is_the_class_of_the_code_0(
    kind: TargetKind, codes: tuple[tuple[int, ...], ...], background: int | None
) -> None:
    assert Target("x", kind, ("a", "b", "c"), codes).background == background


def test_a_picture_is_seen_as_a_picture() -> None:
    assert [Modality("x", spatial_dims=d).seen_in(n) for d in (2, 3) for n in (2, 3)] == [2, 2, 2, 3]


def test_segmentations_lie_on_the_grid_of_the_first_image() -> None:
    report = Modality("report", kind="text", spatial_dims=0, grid="r")
    assert first_grid([report, Modality("ct", grid="ct"), Modality("pet", grid="pet")]) == "ct"
    assert first_grid([report]) == ""


@pytest.mark.parametrize(("kind", "expected"), [("regions", True), ("labels", True), ("class", False), ("multilabel", False)])
def test_regions_and_labels_are_segmentation(kind: str, expected: bool) -> None:
    assert Target("x", kind, ("a", "b")).is_segmentation is expected  # type: ignore[arg-type]


def test_regions_keep_their_order_and_the_values_of_their_maps() -> None:
    seg = Target("seg", "regions", ("WT", "TC", "ET"), ((1, 2, 4), (1, 4), (4,)), (2, 1, 4))
    organs = Target("organs", "labels", ("background", "ET"), ((0,), (1,)))
    cyst = Target("cyst", "regions", ("cyst",), ((1,),))
    grade = Target("grade", "class", ("low", "high"))
    every = (seg, organs, cyst, grade)
    assert only_regions(every, None) == only_regions(every, ["cyst", "ET", "TC", "WT"]) == every
    inner = Target("seg", "regions", ("TC", "ET"), ((1, 4), (4,)), (1, 4))
    assert only_regions(every, ["ET", "TC"]) == (inner, organs, grade)  # cyst is left with none
    assert only_regions(every, ["cyst"]) == (organs, cyst, grade)
    assert only_regions([Target("seg", "regions", ("WT", "ET"))], ["ET"]) == (Target("seg", "regions", ("ET",), (), (2,)),)
