"""Another cohort as a run sees it: the files and codes are the other's, all else is the run's."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from comodal.data.cohort import Case, Cohort, CohortMeta, ModalitySpec, TargetSpec
from comodal.data.matching import matched
from comodal.errors import DataError

OWN = CohortMeta(
    layout="brats",
    root="/own",
    modalities=[ModalitySpec(name="ct", unit="HU", grid="scan"), ModalitySpec(name="t1", channel=0), ModalitySpec(name="t2")],
    targets=[
        TargetSpec(name="seg", kind="regions", classes=["WT", "ET"], codes=[[1, 2, 4], [4]], paint=[2, 4]),
        TargetSpec(name="grade", kind="class", classes=["low", "high"]),
    ],
)
NAMES = ["ct", "t1"]


def other(root: Path, cells: dict[str, str], *specs: ModalitySpec | TargetSpec, **meta: Any) -> Cohort:
    modalities = [spec for spec in specs if isinstance(spec, ModalitySpec)]
    targets = [spec for spec in specs if isinstance(spec, TargetSpec)]
    described = CohortMeta(layout="csv", root=str(root), modalities=modalities, targets=targets, **meta)
    return Cohort.build(described, [Case.build("p", cells=cells)], root)


def test_files_are_the_others_and_the_rest_is_the_runs(tmp_path: Path) -> None:
    specs = [
        ModalitySpec(name="t1", files="*_t1.png", grid="own", channels=3),
        ModalitySpec(name="pet"),
        ModalitySpec(name="ct", spatial_dims=2),
    ]
    seg = TargetSpec(name="seg", kind="regions", classes=["ET", "WT"], codes=[[3], [1, 2, 3]], paint=[3, 1], channel=1)
    grade = TargetSpec(name="grade", kind="class", classes=["high", "low"])
    cells = {"t1": "t1", "ct": "ct.nii", "pet": "pet.nii", "seg": "seg.nii", "grade": "high"}
    theirs = other(tmp_path, cells, *specs, seg, grade, notes=["synthetic: x"])
    seen = matched(theirs, OWN, modalities=NAMES, targets=["seg", "grade"])
    assert seen.meta.modalities == [
        ModalitySpec(name="ct", unit="HU", grid="scan"),
        ModalitySpec(name="t1", files="*_t1.png"),
        ModalitySpec(name="t2"),
    ]
    assert seen.meta.targets == [
        TargetSpec(name="seg", kind="regions", classes=["WT", "ET"], codes=[[1, 2, 3], [3]], paint=[2, 4], channel=1),
        OWN.targets[1],
    ]
    assert seen.cases[0].cells == {name: cell for name, cell in cells.items() if name != "pet"}
    assert (seen.root, seen.meta.layout, seen.meta.notes) == (tmp_path, "csv", ["synthetic: x"])


def test_columns_may_be_missing_and_unread_ones_need_not_fit(tmp_path: Path) -> None:
    wrong = TargetSpec(name="seg", kind="regions", classes=["label-1"], codes=[[1]])
    theirs = other(
        tmp_path, {"t1": "t1.nii", "t2": "t2.nii", "seg": "seg.nii"}, ModalitySpec(name="t1"), ModalitySpec(name="t2"), wrong
    )
    seen = matched(theirs, OWN, modalities=NAMES)
    assert seen.cases[0].cells == {"t1": "t1.nii"}  # t2 is a column of the run's cohort that the run does not use
    assert [m.name for m in seen.modalities] == ["ct", "t1", "t2"] and seen.meta.targets == OWN.targets


@pytest.mark.parametrize(
    ("specs", "cells", "text"),
    [
        (
            [ModalitySpec(name="T1")],
            {},
            r"cohort must have one of the run's modalities \(ct, t1\); got T1.* Rename its columns as the run calls them\.",
        ),
        (
            [ModalitySpec(name="t1", kind="text", spatial_dims=0)],
            {},
            r"column must be of the kind 'image', as in the run's own cohort; got 'text' \[modality t1\]",
        ),
        (
            [ModalitySpec(name="ct"), TargetSpec(name="t1", kind="regions", classes=["WT"], codes=[[1]])],
            {},
            r"column must be of the kind 'image', .* got 'regions' \[modality t1\]",
        ),
        (
            [ModalitySpec(name="t1"), TargetSpec(name="seg", kind="labels", classes=["WT", "ET"], codes=[[1], [2]])],
            {},
            r"column must be of the kind 'regions', .* got 'labels' \[modality seg\]",
        ),
        (
            [ModalitySpec(name="t1"), TargetSpec(name="seg", kind="regions", classes=["WT", "et"], codes=[[1], [2]])],
            {},
            r"target must have the classes of the run \(WT, ET\); got no ET \[modality seg\]\. Name them in its yaml",
        ),
        (
            [
                ModalitySpec(name="t1"),
                TargetSpec(name="seg", kind="regions", classes=["WT", "ET", "cyst"], codes=[[1], [2], [9]]),
            ],
            {},
            r"target must have no class beside those of the run \(WT, ET\); got also cyst \[modality seg\]",
        ),
        (
            [ModalitySpec(name="t1"), TargetSpec(name="grade", kind="class", classes=["low", "higher"])],
            {"grade": "higher"},
            r"target must name classes that the run knows; got 'higher' \[subject p, modality grade\]\. Did you mean high\?",
        ),
    ],
)
def test_what_does_not_fit_is_refused(tmp_path: Path, specs: list[Any], cells: dict[str, str], text: str) -> None:
    with pytest.raises(DataError, match=text):
        matched(other(tmp_path, cells, *specs), OWN, modalities=NAMES, targets=["seg", "grade"])


def test_a_further_region_made_of_known_codes_is_fine(tmp_path: Path) -> None:
    seg = TargetSpec(name="seg", kind="regions", classes=["TC", "WT", "ET"], codes=[[1, 4], [1, 2, 4], [4]])
    seen = matched(other(tmp_path, {}, ModalitySpec(name="t1"), seg), OWN, modalities=NAMES, targets=["seg"])
    assert seen.meta.targets[0].codes == [[1, 2, 4], [4]]


def test_regions_that_the_run_does_not_predict_may_be_missing(tmp_path: Path) -> None:
    alone = TargetSpec(name="seg", kind="regions", classes=["ET"], codes=[[3]])
    seen = matched(other(tmp_path, {}, ModalitySpec(name="t1"), alone), OWN, modalities=NAMES, targets=["seg"], regions=["ET"])
    assert seen.meta.targets[0] == TargetSpec(name="seg", kind="regions", classes=["ET"], codes=[[3]], paint=[4])
    both = TargetSpec(name="seg", kind="regions", classes=["ET", "WT"], codes=[[3], [1, 2, 3]])  # masks hold 1 and 2 as well
    seen = matched(other(tmp_path, {}, ModalitySpec(name="t1"), both), OWN, modalities=NAMES, targets=["seg"], regions=["ET"])
    assert seen.meta.targets[0].codes == [[1, 2, 3], [3]]
    for classes, text in ((["WT"], "got no ET"), (["ET", "cyst"], "got also cyst")):
        wrong = TargetSpec(name="seg", kind="regions", classes=classes, codes=[[k + 1] for k in range(len(classes))])
        with pytest.raises(DataError, match=text):
            matched(other(tmp_path, {}, ModalitySpec(name="t1"), wrong), OWN, modalities=NAMES, targets=["seg"], regions=["ET"])


def test_what_another_runs_training_did_without_is_not_of_this_one(tmp_path: Path) -> None:
    theirs = other(tmp_path, {}, ModalitySpec(name="t1"), withheld={"t1": {"p": "t1.nii"}})
    assert matched(theirs, OWN, modalities=NAMES).meta.withheld == {}
