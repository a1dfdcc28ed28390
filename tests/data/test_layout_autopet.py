"""The layout of autoPET: folders with spaces, what is read and what is not, the metadata table, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest

from comodal.data import index
from comodal.data.autopet import session_of
from comodal.data.cohort import Cohort
from comodal.data.integrity import check_cohort
from comodal.data.reading import read_volume
from comodal.errors import ConfigError, DataError
from comodal.testing.dataset import check_dataset

FIRST = "03-23-2003-NA-PET-CT Ganzkoerper  primaer mit KM-94624"
SECOND = "10-01-2005-NA-PET-CT Ganzkoerper nativ u. mit KM-57231"
ALL = ("CTres", "SUV", "SEG")


def image(path: Path, seed: int = 0, *, empty: bool = False) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    array: np.ndarray[Any, Any] = rng.integers(-1024, 900, (6, 5, 4)).astype(np.int16)
    if path.name.lower().startswith("suv"):
        array = rng.gamma(2.0, 1.0, (6, 5, 4)).astype(np.float32)
    if path.name.lower().startswith("seg"):
        array = (rng.uniform(size=(6, 5, 4)) > 0.8).astype(np.uint8) * np.uint8(not empty)
    nib.save(nib.Nifti1Image(array, np.diag([-4.0, -4, 3, 1])), path)


def study(root: Path, patient: str, folder: str = FIRST, stems: tuple[str, ...] = ALL, *, seed: int = 0) -> Path:
    place = root / "FDG-PET-CT-Lesions" / patient / folder
    for number, stem in enumerate(stems):
        image(place / f"{stem}.nii.gz", 10 * seed + number)
    return place


def test_folders_with_spaces_become_sessions(tmp_path: Path) -> None:
    study(tmp_path, "PETCT_0b57b247b6", seed=1)
    study(tmp_path, "PETCT_0b57b247b6", SECOND, seed=2)
    study(tmp_path, "PETCT_0011f3deaf", seed=3)
    cohort = check_dataset("autopet", tmp_path)
    assert cohort.ids == (
        "PETCT_0011f3deaf_03-23-2003-NA-PET-CT_Ganzkoerper_primaer_mit_KM-94624",
        "PETCT_0b57b247b6_03-23-2003-NA-PET-CT_Ganzkoerper_primaer_mit_KM-94624",
        "PETCT_0b57b247b6_10-01-2005-NA-PET-CT_Ganzkoerper_nativ_u._mit_KM-57231",
    )
    assert [case.group for case in cohort.cases] == ["PETCT_0011f3deaf", "PETCT_0b57b247b6", "PETCT_0b57b247b6"]
    assert cohort.cases[0].cells["pet"] == f"FDG-PET-CT-Lesions/PETCT_0011f3deaf/{FIRST}/SUV.nii.gz"
    assert [(m.name, m.unit, m.grid) for m in cohort.modalities] == [("ct", "HU", "pet"), ("pet", "SUV", "pet")]
    (target,) = cohort.targets
    assert (target.kind, target.classes, target.codes) == ("regions", ("lesion",), ((1,),))
    assert cohort.meta.notes == ["3 studies of 2 patients"]
    for case in cohort.cases:  # an id is the name of a file of predictions
        (tmp_path / f"{case.id}.nii.gz").touch()


def test_a_patient_or_a_study_alone_can_be_indexed(tmp_path: Path) -> None:
    place = study(tmp_path, "PETCT_0011f3deaf")
    whole = index("autopet", tmp_path)
    for root in (place, place.parent):
        assert index("autopet", root).ids == whole.ids


def test_names_in_any_case_and_files_that_are_not_read(tmp_path: Path) -> None:
    place = study(tmp_path, "PETCT_0011f3deaf", stems=("CT", "PET"), seed=1)
    image(place / "suv.nii", 3)
    image(place / "ctRes.NII.GZ", 4)
    study(tmp_path, "PETCT_1", stems=("CT", "SUV"), seed=5)
    study(tmp_path, "PETCT_2", stems=("CTres", "PET"), seed=6)
    study(tmp_path, "PETCT_3", stems=("SEG",), seed=7)  # a label map alone is no case
    cohort = check_dataset("autopet", tmp_path)
    assert [{c: Path(cell).name for c, cell in case.cells.items()} for case in cohort.cases] == [
        {"pet": "suv.nii", "ct": "ctRes.NII.GZ"},
        {"pet": "SUV.nii.gz"},
        {"ct": "CTres.nii.gz"},
    ]
    assert cohort.targets == ()
    assert cohort.meta.notes == [
        "3 studies of 3 patients",
        "no study has SEG: there is nothing to train on, only to predict",
        "1 studies have CT but no CTres: their CT counts as absent",
        "1 studies have PET but no SUV: their PET counts as absent",
    ]


def test_what_is_deleted_is_absent_and_the_rest_is_the_same_to_the_byte(tmp_path: Path) -> None:
    for k in range(6):
        study(tmp_path, f"PETCT_{k:010x}", seed=k)
    before = index("autopet", tmp_path)
    rng = np.random.default_rng(5)
    gone = {(case.id, str(rng.choice(["ct", "pet"]))) for case in before.cases if rng.uniform() < 0.7}
    assert 2 <= len(gone) < 6
    kept = _content(before, gone)
    for name, column in gone:
        before.file(before.case(name), column).unlink()
    after = check_dataset("autopet", tmp_path)
    assert after.ids == before.ids
    for case in after.cases:
        expected = {column for column in before.case(case.id).cells if (case.id, column) not in gone}
        assert set(case.cells) == expected
    assert _content(after, set()) == kept


def _content(cohort: Cohort, without: set[tuple[str, str]]) -> dict[tuple[str, str], bytes]:
    places = [(case, column) for case in cohort.cases for column in case.cells if (case.id, column) not in without]
    return {(case.id, column): read_volume(cohort.file(case, column)).array.tobytes() for case, column in places}


@pytest.mark.parametrize("stem", ALL)
def test_a_damaged_file_is_named(tmp_path: Path, stem: str) -> None:
    place = study(tmp_path, "PETCT_0011f3deaf", seed=1)
    study(tmp_path, "PETCT_1", seed=2)
    path = place / f"{stem}.nii.gz"
    path.write_bytes(path.read_bytes()[:-30])
    report = check_cohort(index("autopet", tmp_path))
    assert [defect.file for defect in report.defects if defect.level == "error"] == [str(path)]


def test_negative_controls_are_counted(tmp_path: Path) -> None:
    for k in range(3):
        place = study(tmp_path, f"PETCT_{k}", seed=k)
        image(place / "SEG.nii.gz", 30 + k, empty=k != 1)
    (note,) = [d for d in check_cohort(index("autopet", tmp_path)).defects if "empty" in d.rule]
    assert "in 2 of 3 cases" in note.rule and (note.level, note.modality) == ("note", "seg")


def test_diagnoses_on_request(tmp_path: Path) -> None:
    study(tmp_path, "PETCT_0b57b247b6", seed=1)
    study(tmp_path, "PETCT_0b57b247b6", SECOND, seed=2)
    study(tmp_path, "PETCT_0011f3deaf", seed=3)
    study(tmp_path, "PETCT_3", seed=4)
    place = "./FDG-PET-CT-Lesions/PETCT_0b57b247b6"
    (tmp_path / "fdg_metadata.csv").write_text(
        "Series UID,Subject ID,File Location,diagnosis,age\n"
        f"1.2,PETCT_0b57b247b6,{place}/{FIRST}/1.000000-PET-1,MELANOMA,061Y\n"
        f"1.3,PETCT_0b57b247b6,{place}/{FIRST}/2.000000-CT-1,MELANOMA,061Y\n"
        f"1.4,PETCT_0b57b247b6,{place}/{SECOND}/1.000000-PET-1,NEGATIVE,063Y\n"
        "1.5,PETCT_0011f3deaf,elsewhere/1,LYMPHOMA,050Y\n"
    )
    plain = index("autopet", tmp_path)
    assert [target.name for target in plain.targets] == ["seg"]
    assert "fdg_metadata.csv is not read; --set diagnosis=true makes the diagnosis a target" in plain.meta.notes
    cohort = index("autopet", tmp_path, {"diagnosis": True})
    assert [case.cells.get("diagnosis") for case in cohort.cases if case.subject == "PETCT_0b57b247b6"] == [
        "MELANOMA",
        "NEGATIVE",
    ]
    assert cohort.case(f"PETCT_0011f3deaf_{session_of(FIRST)}").cells["diagnosis"] == "LYMPHOMA"
    assert "diagnosis" not in cohort.case(f"PETCT_3_{session_of(FIRST)}").cells
    assert cohort.targets[1].classes == ("LYMPHOMA", "MELANOMA", "NEGATIVE")
    assert "1 studies have no diagnosis in fdg_metadata.csv, or several" in cohort.meta.notes


def test_a_table_that_contradicts_itself_is_refused(tmp_path: Path) -> None:
    study(tmp_path, "PETCT_1")
    with pytest.raises(DataError, match=r"hold one fdg_metadata.csv where diagnosis is asked for; got none"):
        index("autopet", tmp_path, {"diagnosis": True})
    table = tmp_path / "fdg_metadata.csv"
    table.write_text(f"Subject ID,File Location,diagnosis\nPETCT_1,a/PETCT_1/{FIRST}/1,A\nPETCT_1,a/PETCT_1/{FIRST}/2,B\n")
    with pytest.raises(DataError, match=r"one diagnosis for each study; got A, B .*subject petct_1.*fdg_metadata.csv"):
        index("autopet", tmp_path, {"diagnosis": True})
    table.write_text("Subject,diagnosis\nPETCT_1,A\n")
    with pytest.raises(DataError, match=r"have the columns Subject ID and diagnosis; got Subject, diagnosis"):
        index("autopet", tmp_path, {"diagnosis": True})
    with pytest.raises(ConfigError, match=r"layout autopet: diagnos must be an option"):
        index("autopet", tmp_path, {"diagnos": True})


def test_what_cannot_be_told_apart_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"ROOT must hold studies of autoPET, .*; got none.*layout nnunet"):
        index("autopet", tmp_path)
    place = study(tmp_path, "PETCT_1", "a  b-1")
    study(tmp_path, "PETCT_1", "A b-1")
    with pytest.raises(DataError, match=r"differ in letters.*; got 'A b-1' and 'a  b-1' .*PETCT_1"):
        index("autopet", tmp_path)
    image(place / "suv.nii", 3)
    with pytest.raises(DataError, match=r"one file for each modality of a study; got .*SUV.nii.gz and .*suv.nii"):
        index("autopet", tmp_path)


def test_names_of_studies() -> None:
    assert session_of(" a _ b/c..") == "a_b_c"
    assert session_of("u\u0308ber  1") == session_of("\u00fcber_1") == "\u00fcber_1"  # one letter, written in two ways
