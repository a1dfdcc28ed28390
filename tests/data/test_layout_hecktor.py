"""The layout of HECKTOR 2022: ids in both spellings, what is to be found, two grids, cases without labels."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest

from comodal.data import index
from comodal.data.cohort import Cohort
from comodal.data.columns import CohortMeta, TargetSpec
from comodal.data.integrity import check_cohort
from comodal.data.matching import matched
from comodal.data.normalisation import PreprocessingConfig
from comodal.data.preprocessing import Preparer
from comodal.data.reading import read_volume
from comodal.errors import ConfigError, DataError
from comodal.testing.dataset import check_dataset

TRAIN, TEST = "hecktor2022_training", "hecktor2022_testing"
LABELS = np.zeros((12, 12, 8), dtype=np.uint8)
LABELS[2:5, 2:5, 2:6], LABELS[7:10, 6:10, 2:6] = 1, 2


def save(path: Path, array: np.ndarray[Any, Any], spacing: tuple[float, float, float]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    affine = np.diag([*spacing, 1.0])
    affine[:3, 3] = [spacing[axis] / 2 for axis in range(3)]  # both grids begin at one edge
    nib.save(nib.Nifti1Image(array, affine), path)


def case(root: Path, name: str, *, label: str = "", seed: int = 0, folder: str = f"{TRAIN}/imagesTr") -> None:
    rng = np.random.default_rng(seed)
    save(root / folder / f"{name}__CT.nii.gz", rng.integers(-1000, 900, LABELS.shape).astype(np.int16), (1, 1, 3))
    save(root / folder / f"{name}__PT.nii.gz", rng.gamma(2.0, 1.0, (3, 3, 6)).astype(np.float32), (4, 4, 4))
    if label:
        save(root / TRAIN / "labelsTr" / f"{label}.nii.gz", LABELS, (1, 1, 3))


def cohort_of(root: Path, target: str = "") -> Cohort:
    return index("hecktor", root, {"target": target} if target else {})


def test_ids_centres_and_cases_for_testing(tmp_path: Path) -> None:
    case(tmp_path, "CHUM-010", label="CHUM_010", seed=1)
    case(tmp_path, "chum_002", label="CHUM-002", seed=2)
    case(tmp_path, "MDA-001", label="MDA-001", seed=3)
    case(tmp_path, "USZ-001", folder=f"{TEST}/imagesTs", seed=4)
    for table in ("clinical_info", "endpoint"):
        (tmp_path / TRAIN / f"hecktor2022_{table}_training.csv").write_text("PatientID,Relapse\nCHUM-010,1\n")
    cohort = check_dataset("hecktor", tmp_path)
    assert cohort.ids == ("CHUM-002", "CHUM-010", "MDA-001", "USZ-001")
    assert [c.site for c in cohort.cases] == ["CHUM", "CHUM", "MDA", "USZ"]
    assert {c.split for c in cohort.cases} == {""}
    assert cohort.cases[1].cells == {
        "ct": f"{TRAIN}/imagesTr/CHUM-010__CT.nii.gz",
        "pet": f"{TRAIN}/imagesTr/CHUM-010__PT.nii.gz",
        "seg": f"{TRAIN}/labelsTr/CHUM_010.nii.gz",
    }
    assert "seg" not in cohort.cases[3].cells
    assert [(m.name, m.unit, m.grid) for m in cohort.modalities] == [("ct", "HU", "head"), ("pet", "SUV", "head")]
    assert cohort.meta.notes == [
        "cases of each centre: CHUM 2, MDA 1, USZ 1",
        "target: GTVn (label 2) alone, as the text of CIML says; GTVp (label 1) counts as background",
        "1 cases have no label map (those for testing never have one): they can only be predicted",
    ]
    assert check_cohort(cohort).ok
    assert index("hecktor", tmp_path / TEST).targets == ()
    assert index("hecktor", tmp_path / TRAIN / "imagesTr").targets == ()


@pytest.mark.parametrize(
    ("target", "classes", "regions"),
    [
        ("", ("GTVn",), [LABELS == 2]),
        ("gtvn", ("GTVn",), [LABELS == 2]),
        ("gtvp", ("GTVp",), [LABELS == 1]),
        ("union", ("GTV",), [LABELS > 0]),
        ("multi", ("GTVp", "GTVn"), [LABELS == 1, LABELS == 2]),
    ],
)
def test_what_is_to_be_found(
    tmp_path: Path, target: str, classes: tuple[str, ...], regions: list[np.ndarray[Any, Any]]
) -> None:
    case(tmp_path, "CHUM-001", label="CHUM-001", seed=1)
    case(tmp_path, "CHUM-002", label="CHUM-002", seed=2)
    cohort = cohort_of(tmp_path, target)
    assert cohort.targets[0].classes == classes
    assert sum(note.startswith("target: ") for note in cohort.meta.notes) == 1
    assert check_cohort(cohort).ok
    assert Cohort.load(cohort.save(tmp_path / "cohort.csv")) == cohort
    preparer = Preparer(cohort, PreprocessingConfig(normalise={"ct": "none"}), modalities=("ct", "pet"), targets=("seg",))
    truth, _ = preparer.truth(cohort.cases[0], "seg")
    np.testing.assert_array_equal(truth, np.stack(regions))
    painted = np.zeros_like(LABELS)
    for mask, value in zip(truth, cohort.targets[0].paint, strict=True):
        painted[mask > 0] = value
    expected = {"gtvp": LABELS * (LABELS == 1), "union": np.minimum(LABELS, 1), "multi": LABELS}
    np.testing.assert_array_equal(painted, expected.get(target, LABELS * (LABELS == 2)))


def test_both_grids_are_brought_together_by_position(tmp_path: Path) -> None:
    case(tmp_path, "CHUM-001", label="CHUM-001")
    cohort = cohort_of(tmp_path)
    preparer = Preparer(
        cohort, PreprocessingConfig(normalise={"ct": "none", "pet": "none"}), modalities=("ct", "pet"), targets=("seg",)
    )
    both, alone = preparer.case(cohort.cases[0]), preparer.case(cohort.cases[0], use=["pet"])
    assert both.images["ct"].shape == both.images["pet"].shape == (1, *LABELS.shape)
    assert both.targets["seg"].shape == (1, *LABELS.shape)
    pet = read_volume(cohort.file(cohort.cases[0], "pet")).array
    np.testing.assert_array_equal(alone.images["pet"], pet)  # PET alone stays on its own voxels
    assert alone.targets["seg"].shape == (1, *pet.shape[1:])
    # the corner of the fine grid lies within half a coarse voxel of the corner: the value is that of the coarse voxel
    np.testing.assert_allclose(both.images["pet"][0, 0, 0, 0], pet[0, 0, 0, 0], rtol=1e-5)


def test_a_label_of_no_convention_is_refused(tmp_path: Path) -> None:
    case(tmp_path, "CHUM-001", label="CHUM-001")
    case(tmp_path, "CHUM-002", label="CHUM-002", seed=1)
    save(tmp_path / TRAIN / "labelsTr" / "CHUM-001.nii.gz", np.where(LABELS == 1, 3, LABELS).astype(np.uint8), (1, 1, 3))
    cohort = cohort_of(tmp_path)
    (defect,) = [d for d in check_cohort(cohort).defects if d.level == "error"]
    assert defect.subject == "CHUM-001" and "the label map holds 3" in defect.rule
    preparer = Preparer(cohort, PreprocessingConfig(), modalities=("pet",), targets=("seg",))
    with pytest.raises(DataError, match=r"hold only the codes of seg, \[0, 1, 2\]; got also 3 .*CHUM-001.nii.gz"):
        preparer.case(cohort.cases[0])


def test_another_cohort_under_a_run_that_knows_one_label(tmp_path: Path) -> None:
    case(tmp_path, "CHUM-001", label="CHUM-001")
    run, same, multi = cohort_of(tmp_path), cohort_of(tmp_path, "gtvn"), cohort_of(tmp_path, "multi")
    seen = matched(same, run.meta, modalities=("ct", "pet"), targets=("seg",))
    assert seen.meta.targets[0].other == [1]
    narrowed = matched(same, multi.meta, modalities=("ct",), targets=("seg",), regions=["GTVn"])
    assert (narrowed.meta.targets[0].classes, narrowed.meta.targets[0].other) == (["GTVn"], [1])
    with pytest.raises(DataError, match=r"no class beside those of the run \(GTVn\); got also GTVp"):
        matched(multi, run.meta, modalities=("ct", "pet"), targets=("seg",))


def test_other_is_for_regions_and_for_labels_of_no_class(tmp_path: Path) -> None:
    case(tmp_path, "CHUM-001", label="CHUM-001")
    meta = cohort_of(tmp_path).meta
    for wrong in (
        TargetSpec(name="seg", kind="labels", classes=["a", "b"], codes=[[0], [1]], other=[2]),
        TargetSpec(name="seg", kind="regions", classes=["a"], codes=[[1]], other=[1]),
    ):
        with pytest.raises(ValueError, match=r"other of seg must be label values of regions that are in no class"):
            CohortMeta.model_validate({**meta.model_dump(by_alias=True), "targets": [wrong.model_dump()]})


def test_deleted_is_absent_and_damaged_is_named(tmp_path: Path) -> None:
    for k in range(5):
        case(tmp_path, f"HGJ-{k:03d}", label=f"HGJ-{k:03d}", seed=k)
    before = cohort_of(tmp_path)
    files = {(c.id, column): before.file(c, column) for c in before.cases for column in c.cells}
    content = {place: path.read_bytes() for place, path in files.items()}
    gone = {("HGJ-000", "ct"), ("HGJ-002", "pet"), ("HGJ-003", "seg"), ("HGJ-004", "ct"), ("HGJ-004", "pet")}
    for place in gone:
        files[place].unlink()
    after = check_dataset("hecktor", tmp_path)
    assert after.ids == ("HGJ-000", "HGJ-001", "HGJ-002", "HGJ-003")  # a label map alone is no case
    found = {(c.id, column): after.file(c, column) for c in after.cases for column in c.cells}
    assert set(found) == {place for place in files if place not in gone and place[0] != "HGJ-004"}
    assert all(path.read_bytes() == content[place] for place, path in found.items())
    damaged = found["HGJ-002", "ct"]
    damaged.write_bytes(damaged.read_bytes()[:-20])
    assert [d.file for d in check_cohort(after).defects if d.level == "error"] == [str(damaged)]


def test_what_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"hold cases of HECKTOR 2022, .*; got none"):
        index("hecktor", tmp_path)
    case(tmp_path, "CHUM-001")
    with pytest.raises(ConfigError, match=r"layout hecktor: target must be 'gtvn', 'gtvp', 'union' or 'multi'; got 'gtv'"):
        cohort_of(tmp_path, "gtv")
    case(tmp_path, "CHUM_001")
    with pytest.raises(DataError, match=r"one file for each column of a case; got .*CHUM-001__CT.nii.gz and .*CHUM_001__CT"):
        index("hecktor", tmp_path)
