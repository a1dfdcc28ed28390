"""The layout of MIMIC-CXR: partial downloads, views, policies for labels, edema, splits; damaged tables."""

from __future__ import annotations

import gzip
import itertools
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from comodal.data import index
from comodal.data.chexpert_labels import CHEXPERT, PATHOLOGY9
from comodal.data.cohort import Cohort
from comodal.data.contents import report_of
from comodal.data.mimic_edema import image_id, parse_image_id
from comodal.data.packed_tables import read_columns
from comodal.data.phantoms.chest import ChestPhantom, write_chest
from comodal.errors import ConfigError, DataError
from comodal.testing.dataset import check_dataset

JPG, TXT = "mimic-cxr-jpg/2.0.0", "mimic-cxr/2.0.0"
# subject, study, split, {dicom: view}
ROWS = [
    ("10000032", "50414267", "train", {"bb-2": "PA", "aa-1": "LATERAL", "cc-3": "AP"}),
    ("10000032", "50414268", "train", {"dd-4": "LL", "ee-5": ""}),
    ("11000033", "51000001", "validate", {"ff-6": "AP"}),
    ("12000034", "52000001", "test", {"gg-7": "PA"}),
    ("12000034", "52000002", "test", {"hh-8": "PA", "ii-9": "PA"}),
]
FINDINGS = " FINAL REPORT\n INDICATION:  ___ cough\n\n FINDINGS:\n Clear lungs.\n\n IMPRESSION:\n No change.\n"
METADATA = "dicom_id,subject_id,study_id,PerformedProcedureStepDescription,ViewPosition,Rows,Columns,StudyDate"


def packed(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress(text.encode()) if path.suffix == ".gz" else text.encode())
    return path


def place(root: Path, subject: str, study: str) -> Path:
    return root / "files" / f"p{subject[:2]}" / f"p{subject}" / f"s{study}"


def picture(root: Path, subject: str, study: str, dicom: str) -> Path:
    path = place(root, subject, study) / f"{dicom}.jpg"
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("L", (32, 32), color=40).save(path)
    return path


def text(root: Path, subject: str, study: str, words: str = FINDINGS) -> Path:
    path = place(root, subject, study).with_suffix(".txt")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(words)
    return path


def labels(rows: dict[tuple[str, str], dict[str, str]]) -> str:
    lines = [",".join((*study, *(said.get(name, "") for name in CHEXPERT))) for study, said in rows.items()]
    return "\n".join([",".join(("subject_id", "study_id", *CHEXPERT)), *lines]) + "\n"


SAID: dict[tuple[str, str], dict[str, str]] = {
    ("10000032", "50414267"): {"Edema": "1.0", "Pneumonia": "-1.0", "Fracture": "0.0"},
    ("10000032", "50414268"): {},
    ("11000033", "51000001"): {"No Finding": "1.0"},
    ("12000034", "52000001"): {"Lung Opacity": "-1.0", "Edema": "0.0"},
}


def tables(jpg: Path) -> None:
    metadata = [f"{d},{p},{s},CHEST,{view},32,32,2180" for p, s, _, views in ROWS for d, view in views.items()]
    packed(jpg / "mimic-cxr-2.0.0-metadata.csv.gz", "\n".join(["\ufeff" + METADATA, *metadata]) + "\n")
    splits = [f"{d},{s},{p},{split}" for p, s, split, views in ROWS for d in views]
    packed(jpg / "mimic-cxr-2.0.0-split.csv.gz", "\n".join(["dicom_id,study_id,subject_id,split", *splits]) + "\n")
    packed(jpg / "mimic-cxr-2.0.0-chexpert.csv.gz", labels(SAID))


def whole(root: Path) -> None:
    tables(root / JPG)
    for subject, study, _, views in ROWS:
        for dicom in views:
            picture(root / JPG, subject, study, dicom)
        text(root / TXT / "mimic-cxr-reports", subject, study)


def cells(cohort: Cohort, column: str) -> dict[str, str]:
    return {case.session: case.cells[column] for case in cohort.cases if column in case.cells}


def test_everything_is_there(tmp_path: Path) -> None:
    whole(tmp_path)
    cohort = check_dataset("mimic-cxr", tmp_path)
    assert cohort.ids == tuple(f"{p}_{s}" for p, s, _, _ in ROWS)
    assert [(case.group, case.split) for case in cohort.cases] == [
        (p, {"validate": "val"}.get(split, split)) for p, _, split, _ in ROWS
    ]
    assert [spec.name for spec in cohort.meta.modalities] == ["frontal", "lateral", "report"]
    first = f"{JPG}/files/p10/p10000032/s50414267"
    assert cohort.cases[0].cells["frontal"] == f"{first}/bb-2.jpg"  # the first by its identifier, not by the table
    assert cohort.cases[0].cells["lateral"] == f"{first}/aa-1.jpg"
    assert set(cells(cohort, "lateral")) == {"50414267", "50414268"}
    assert cells(cohort, "report")["52000001"] == f"{TXT}/mimic-cxr-reports/files/p12/p12000034/s52000001.txt"
    assert report_of(cohort, cohort.cases[0], "report") == "No change.\nClear lungs."
    notes = "\n".join(cohort.meta.notes)
    assert "1 picture neither frontal nor lateral, by the metadata, left out (view: 1 blank)" in notes
    assert "2 further pictures of a view that the study already has left out" in notes
    assert "not in the folder" not in notes and "edema" not in [target.name for target in cohort.targets]
    only = index("mimic-cxr", tmp_path, {"views": "AP"})
    assert set(cells(only, "frontal")) == {"50414267", "51000001"}
    assert cells(only, "frontal")["50414267"].endswith("cc-3.jpg")


def test_what_is_not_on_disk_is_absent(tmp_path: Path) -> None:
    whole(tmp_path)
    (place(tmp_path / JPG, "10000032", "50414267") / "bb-2.jpg").unlink()
    (place(tmp_path / JPG, "12000034", "52000001") / "gg-7.jpg").unlink()
    reports = tmp_path / TXT / "mimic-cxr-reports"
    place(reports, "12000034", "52000001").with_suffix(".txt").unlink()
    text(reports, "11000033", "51000001", " FINAL REPORT\n FINDINGS:\n ___\n")
    text(reports, "12000034", "52000002").write_bytes(b"\xff\xfe not UTF-8")  # is named, cannot be read: for `comodal check`
    picture(tmp_path / JPG, "12000034", "52000002", "stray")
    cohort = index("mimic-cxr", tmp_path)
    assert cohort.ids == tuple(f"{p}_{s}" for p, s, _, _ in ROWS if s != "52000001")
    assert cells(cohort, "frontal")["50414267"].endswith("cc-3.jpg")
    assert set(cells(cohort, "report")) == {"50414267", "50414268", "52000002"}
    notes = "\n".join(cohort.meta.notes)
    assert "1 of 5 studies without any file in the folder left out" in notes
    assert "2 of 9 pictures of the metadata not in the folder: absent" in notes
    assert "1 report without a word: absent" in notes
    assert "(view: 1 blank, 1 not in the table)" in notes


@pytest.mark.parametrize("part", [JPG, TXT])
def test_one_of_the_two_alone(tmp_path: Path, part: str) -> None:
    whole(tmp_path)
    cohort = check_dataset("mimic-cxr", tmp_path / part)
    assert ("report" in cohort.presence().columns) == (part == TXT) != ("frontal" in cohort.presence().columns)
    assert len(cohort.targets) == (part == JPG)
    assert len(cohort) == 5
    told = "there is no table of splits: training draws them, by patient" in cohort.meta.notes
    assert told == (part == TXT) == ("there is no table of labels: there is no target findings" in cohort.meta.notes)


def test_pictures_without_metadata_are_left_out(tmp_path: Path) -> None:
    whole(tmp_path)
    (tmp_path / JPG / "mimic-cxr-2.0.0-metadata.csv.gz").unlink()
    cohort = check_dataset("mimic-cxr", tmp_path)
    assert list(cohort.presence().columns) == ["report"]
    assert any(note.startswith("there is no metadata") for note in cohort.meta.notes)


@pytest.mark.parametrize("uncertain", ["ignore", "ones", "zeros"])
@pytest.mark.parametrize("blank", ["ignore", "zeros"])
def test_policies_for_labels(tmp_path: Path, uncertain: str, blank: str) -> None:
    whole(tmp_path)
    cohort = index("mimic-cxr", tmp_path, {"uncertain": uncertain, "blank": blank})
    spec, found = cohort.meta.targets[0], cells(cohort, "findings")
    assert spec.classes == list(CHEXPERT)
    for (_, study), said in SAID.items():  # word by word, in another form than the code's
        yes, unknown = set(), set()
        for name in CHEXPERT:
            value = said.get(name, "")
            if value == "1.0" or (value == "-1.0" and uncertain == "ones"):
                yes.add(name)
            elif (value == "" and blank == "ignore") or (value == "-1.0" and uncertain == "ignore"):
                unknown.add("?" + name)
        if len(unknown) == 14:
            assert study not in found
        else:
            assert set(found[study].split(";")) == (yes | unknown or {"-"})
    assert "52000002" not in found  # a study that the table does not have
    note = next(note for note in cohort.meta.notes if note.startswith("findings (chexpert)"))
    words = {"ignore": "not known", "ones": "yes", "zeros": "no"}
    assert f"uncertain is taken as {words[uncertain]}, not mentioned as {words[blank]}" in note
    assert "Edema 1/1/0/2," in note and "Pneumonia 0/0/1/3," in note and "Fracture 0/1/0/3," in note
    unlabelled = 2 if blank == "ignore" else 1
    assert f"findings: {unlabelled} of 5 cases unlabelled" in cohort.meta.notes
    check_dataset("mimic-cxr", tmp_path)


def test_other_programs_radiologists_and_other_spellings(tmp_path: Path) -> None:
    whole(tmp_path)
    assert index("mimic-cxr", tmp_path, {"labels": "none"}).targets == ()
    with pytest.raises(DataError, match=r"mimic-cxr-2.0.0-negbio.csv.gz that labels=negbio asks for; got none"):
        index("mimic-cxr", tmp_path, {"labels": "negbio"})
    bare = labels({("10000032", "50414267"): {"Lung Opacity": "1", "Edema": "-2", "Fracture": "0"}})
    bare = bare.replace("Lung Opacity", "LungOpacity").replace("Pleural Effusion", "pleural_effusion")
    packed(tmp_path / JPG / "mimic-cxr-2.0.0-negbio.csv", bare)
    negbio = cells(index("mimic-cxr", tmp_path, {"labels": "negbio", "blank": "zeros"}), "findings")
    assert negbio == {"50414267": "Lung Opacity"}
    radiologists = [line.partition(",")[2] for line in labels({("-", "52000001"): {"Lung Opacity": "1.0"}}).splitlines()]
    named = "\n".join(radiologists).replace("Lung Opacity", "Airspace Opacity")
    packed(tmp_path / JPG / "mimic-cxr-2.1.0-test-set-labeled.csv", named)
    cohort = index("mimic-cxr", tmp_path, {"blank": "zeros"})
    assert cells(cohort, "findings")["52000001"] == "Lung Opacity"  # not "-" of the program
    assert "findings of 1 study by radiologists" in cohort.meta.notes
    consensus = "subject_id,study_id,dicom_id,edema_severity\n10000032,50414268,dd-4,0\n"
    packed(tmp_path / JPG / "consensus_image_edema_severity.csv", consensus)
    cohort = index("mimic-cxr", tmp_path, {"blank": "zeros", "protocol": "liao2021"})  # whose labels are of the program alone
    assert cells(cohort, "findings")["52000001"] == "?Lung Opacity" and not any("radiol" in note for note in cohort.meta.notes)


def edema(root: Path) -> None:
    folder = root / "mimic-cxr-pe-severity" / "1.0.1"
    head = "subject_id,study_id,edema_severity"
    rows = ["10000032,50414267,1", "10000032,50414268,2", "11000033,51000001,0", "12000034,52000001,3"]
    packed(folder / "regex_report_edema_severity.csv", "\n".join([head, *rows]))
    packed(folder / "expert_report_edema_severity.csv", f"{head}\n10000032,50414268,3\n12000034,52000001,1\n")
    packed(
        folder / "consensus_image_edema_severity.csv",
        "subject_id,study_id,dicom_id,edema_severity\n12000034,52000002,ii-9,2\n10000032,50414267,cc-3,0\n",
    )


GRADED = {"50414267": "none", "50414268": "alveolar edema", "51000001": "none", "52000001": "vascular congestion"}


def test_grades_of_edema(tmp_path: Path) -> None:
    whole(tmp_path)
    edema(tmp_path)
    cohort = check_dataset("mimic-cxr", tmp_path)
    spec = cohort.meta.targets[1]
    assert (spec.name, spec.kind) == ("edema", "ordinal")
    assert spec.classes == ["none", "vascular congestion", "interstitial edema", "alveolar edema"]
    assert cells(cohort, "edema") == {**GRADED, "52000002": "interstitial edema"}
    assert cells(cohort, "frontal")["50414267"].endswith("cc-3.jpg")  # the picture that was graded
    assert cells(cohort, "frontal")["52000002"].endswith("ii-9.jpg")
    grades = "2 none, 1 vascular congestion, 1 interstitial edema, 1 alveolar edema"
    assert f"edema: {grades}; from 2 consensus, 2 expert, 1 regex" in cohort.meta.notes
    assert {case.split for case in cohort.cases if case.subject == "12000034"} == {"test"}
    regex = index("mimic-cxr", tmp_path, {"edema": "regex"})
    assert cells(regex, "edema")["50414268"] == "interstitial edema" and "52000002" not in cells(regex, "edema")
    assert cells(regex, "frontal")["50414267"].endswith("bb-2.jpg")
    assert set(cells(index("mimic-cxr", tmp_path, {"edema": "expert"}), "edema")) == {"50414268", "52000001"}
    assert set(cells(index("mimic-cxr", tmp_path, {"edema": "consensus"}), "edema")) == {"50414267", "52000002"}
    assert len(index("mimic-cxr", tmp_path, {"edema": "none"}).targets) == 1


def test_edema_is_tested_on_the_consensus_only(tmp_path: Path) -> None:
    whole(tmp_path)
    edema(tmp_path)
    packed(
        tmp_path / "mimic-cxr-pe-severity" / "1.0.1" / "consensus_image_edema_severity.csv",
        "subject_id,study_id,dicom_id,edema_severity\n10000032,50414267,cc-3,0\n",
    )
    cohort = index("mimic-cxr", tmp_path, {"edema_split": True})
    assert [(case.session, case.split) for case in cohort.cases] == [
        ("50414267", "test"),
        ("51000001", "val"),
        ("52000001", "test"),
        ("52000002", "test"),
    ]
    assert cells(cohort, "edema") == {"50414267": "none", "51000001": "none"}
    rest = "1 other study of 1 patient left out, 1 other test case without the grade"
    assert f"edema is tested on the consensus (1 study): {rest}" in cohort.meta.notes
    sides: dict[str, set[str]] = {}
    for case in cohort.cases:
        sides.setdefault(case.group, set()).add(case.split)
    assert all(len(split) == 1 for split in sides.values())
    with pytest.raises(DataError, match=r"consensus_image_edema_severity.csv, which edema_split asks for"):
        index("mimic-cxr", tmp_path, {"edema_split": True, "edema": "regex"})


def test_the_older_table_of_edema_and_names_of_images(tmp_path: Path) -> None:
    whole(tmp_path)
    packed(
        tmp_path / "metadata" / "mimic-cxr-sub-img-edema-split-manualtest.csv",
        "subject_id,study_id,dicom_id,edeme_severity,fold\n10000032,50414267,bb-2,3,1\n10000032,50414267,cc-3,3,1\n"
        "10000032,50414268,dd-4,-1,6\n12000034,52000002,hh-8,1,TEST\n12000034,52000002,ii-9,2,TEST\n",
    )
    cohort = check_dataset("mimic-cxr", tmp_path)
    assert cells(cohort, "edema") == {"50414267": "alveolar edema"}
    assert "edema: grades that contradict each other in one table left out, of 1 of its studies" in cohort.meta.notes
    name = image_id("12000034", "52000001", "gg-7")
    assert parse_image_id(name) == ("12000034", "52000001", "gg-7") and parse_image_id("p1_2") is None
    packed(tmp_path / "consensus_image_edema_severity.csv", f"mimic_id,edema_severity\n{name},2.0\n")
    assert cells(index("mimic-cxr", tmp_path), "edema")["52000001"] == "interstitial edema"
    with pytest.raises(DataError, match="table of edema grades that edema=regex asks for; got none"):
        index("mimic-cxr", tmp_path, {"edema": "regex"})


def test_nine_findings(tmp_path: Path) -> None:
    whole(tmp_path)
    cohort = index("mimic-cxr", tmp_path, {"findings": "pathology9"})
    assert cohort.meta.targets[0].classes == list(PATHOLOGY9) == sorted(PATHOLOGY9) and set(PATHOLOGY9) < set(CHEXPERT)
    found = cells(cohort, "findings")
    assert set(found) == {"50414267", "52000001"}  # "No Finding" alone says nothing of the nine
    unknown = set(PATHOLOGY9) - {"Edema"}
    assert set(found["50414267"].split(";")) == {"Edema", *("?" + name for name in unknown)}
    note = next(note for note in cohort.meta.notes if note.startswith("findings (chexpert)"))
    assert "Fracture" not in note and "Pneumonia 0/0/1/3" in note
    with pytest.raises(ConfigError, match="findings"):
        index("mimic-cxr", tmp_path, {"findings": "eight"})


def test_the_protocol_of_liao_2021(tmp_path: Path) -> None:
    whole(tmp_path)
    folder = tmp_path / "mimic-cxr-pe-severity" / "1.0.1"
    head = "subject_id,study_id,edema_severity"
    packed(folder / "regex_report_edema_severity.csv", f"{head}\n10000032,50414267,1\n12000034,52000001,3\n")
    packed(folder / "expert_report_edema_severity.csv", f"{head}\n10000032,50414268,3\n12000034,52000001,1\n")
    consensus = folder / "consensus_image_edema_severity.csv"
    # A patient of the validation part is tested by consensus; the official test patient has a grade to train with.
    packed(consensus, "subject_id,study_id,dicom_id,edema_severity\n11000033,51000001,ff-6,2\n")
    cohort = index("mimic-cxr", tmp_path, {"protocol": "liao2021"})
    assert {case.session: case.split for case in cohort.cases} == {
        "50414267": "train", "50414268": "train", "51000001": "test", "52000001": "train", "52000002": "train",
    }  # fmt: skip
    assert cells(cohort, "edema") == {  # no grade by experts
        "50414267": "vascular congestion", "51000001": "interstitial edema", "52000001": "alveolar edema",
    }  # fmt: skip
    said = "1 test case of 1 patient, 1 of them with a grade of edema by consensus, all others with those by rules"
    back = "1 patient of the official test split who have a grade to train with trained on"
    assert f"protocol of Liao et al. (2021): {said}; {back}" in cohort.meta.notes
    assert any("from 2 regex, 1 consensus" in note for note in cohort.meta.notes)
    # The other way round: an official test patient without a grade stays; other studies of a tested patient are no training.
    packed(consensus, "subject_id,study_id,dicom_id,edema_severity\n10000032,50414268,dd-4,0\n")
    packed(folder / "regex_report_edema_severity.csv", f"{head}\n10000032,50414267,1\n11000033,51000001,0\n")
    cohort = index("mimic-cxr", tmp_path, {"protocol": "liao2021"})
    assert {case.session: case.split for case in cohort.cases} == {
        "50414267": "test", "50414268": "test", "51000001": "val", "52000001": "test", "52000002": "test",
    }  # fmt: skip
    assert cells(cohort, "edema") == {"50414268": "none", "51000001": "none"}
    split = tmp_path / JPG / "mimic-cxr-2.0.0-split.csv.gz"
    kept = split.read_bytes()
    split.unlink()  # nobody would be tested for findings but the patients of the consensus
    with pytest.raises(DataError, match=r"mimic-cxr-2.0.0-split.csv.gz, which protocol=liao2021 asks for"):
        index("mimic-cxr", tmp_path, {"protocol": "liao2021"})
    split.write_bytes(kept)
    consensus.unlink()
    with pytest.raises(DataError, match=r"consensus_image_edema_severity.csv, which protocol=liao2021 asks for"):
        index("mimic-cxr", tmp_path, {"protocol": "liao2021"})
    with pytest.raises(ConfigError, match="protocol=liao2021 says itself which grades of edema are used"):
        index("mimic-cxr", tmp_path, {"protocol": "liao2021", "edema": "regex"})


def test_a_tested_patient_whose_graded_study_is_not_in_the_folder_is_not_trained_on(tmp_path: Path) -> None:
    whole(tmp_path)
    folder = tmp_path / "mimic-cxr-pe-severity" / "1.0.1"
    packed(
        folder / "consensus_image_edema_severity.csv", "subject_id,study_id,dicom_id,edema_severity\n10000032,50414268,dd-4,0\n"
    )
    for file in place(tmp_path / JPG, "10000032", "50414268").glob("*.jpg"):
        file.unlink()
    place(tmp_path / TXT / "mimic-cxr-reports", "10000032", "50414268").with_suffix(".txt").unlink()
    cohort = index("mimic-cxr", tmp_path, {"protocol": "liao2021"})
    assert {case.session: case.split for case in cohort.cases if case.subject == "10000032"} == {"50414267": "test"}


def test_on_the_phantom_nobody_is_on_two_sides_and_negatives_are_said(tmp_path: Path) -> None:
    write_chest(tmp_path, ChestPhantom(cases=60, size=64, release="mimic-cxr", findings=14))
    official = index("mimic-cxr", tmp_path)
    cohort = index("mimic-cxr", tmp_path, {"findings": "pathology9", "protocol": "liao2021"})
    sides: dict[str, set[str]] = {}
    for case in cohort.cases:
        sides.setdefault(case.group, set()).add(case.split)
    assert all(len(split) == 1 for split in sides.values()) and {"train", "val", "test"} == set.union(*sides.values())
    assert {case.id for case in cohort.cases if case.split == "test"} == {c.id for c in official.cases if c.split == "test"}
    assert all(not {"Lung Lesion", "?Fracture"} & set(cell.split(";")) for cell in cells(cohort, "findings").values())


SPLIT = "mimic-cxr-2.0.0-split.csv.gz"
HEAD = "dicom_id,study_id,subject_id,split\n"
WHOLE = gzip.compress((HEAD + "a,50414267,10000032,train\n").encode(), mtime=0)


@pytest.mark.parametrize(
    ("name", "content", "rule"),
    [
        (SPLIT, WHOLE[:-9], "be a complete .gz file; got Compressed file ended"),
        (SPLIT, WHOLE[:-8] + b"\1" * 8, "be a complete .gz file; got CRC check failed"),
        (SPLIT, WHOLE + b"PK rubbish", "be a complete .gz file; got Not a gzipped file"),
        (SPLIT, b"", "have the column 'study_id'; got an empty file"),
        (SPLIT, b"dicom_id,study_id,split\n", "have the column 'subject_id'; got dicomid, studyid, split"),
        (SPLIT, b"study_id,subject_id,split,Split\n", "name each column once; got 'split'"),
        (SPLIT, f"{HEAD}a,50414267,10000032\n".encode(), "have 4 cells in each row; got 3 in line 2"),
        (SPLIT, f'{HEAD}a,50414267,"10000032,train\n'.encode(), "be CSV; got unexpected end"),
        (SPLIT, f"{HEAD}a,\xff,1,train\n".encode("latin-1"), "be CSV in UTF-8"),
        (SPLIT, f"{HEAD}a,50414267,10000032,training\n".encode(), "say train, validate or test; got 'training'"),
        (SPLIT, f"{HEAD}a,1,10000032,train\nb,2,10000032,test\n".encode(), "each patient on one side; got train and test"),
        (SPLIT, b"a" * (1024**2 + 1), "lines of at most 1 MiB"),
        ("mimic-cxr-2.0.0-chexpert.csv.gz", labels({("1", "2"): {"Edema": "yes"}}).encode(), "uncertain.*; got 'yes'"),
        ("mimic-cxr-2.0.0-chexpert.csv.gz", labels({("1", "2"): {}, ("3", "2"): {}}).encode(), "one row for each study"),
        ("mimic-cxr-2.0.0-metadata.csv.gz", f"{METADATA}\na,../x,1,C,PA,1,1,1\n".encode(), "to one patient, both as digits"),
        ("mimic-cxr-2.0.0-metadata.csv.gz", f"{METADATA}\na,1,1,,,,,\nb,2,1,,,,,\n".encode(), "'1' of '1' and '2'"),
        ("mimic-cxr-2.1.0-metadata.csv", METADATA.encode(), "hold one table of metadata; got .*2.0.0.* and .*2.1.0"),
        ("regex_report_edema_severity.csv", b"study_id,edema_severity\n1,4\n", "hold a grade from 0 to 3; got '4'"),
        ("regex_report_edema_severity.csv", b"study_id,severity\n1,3\n", "hold grades in a column edema_severity"),
        ("regex_report_edema_severity.csv", b"id,edema_severity\n1,3\n", "have a column study_id or mimic_id"),
    ],
    ids=itertools.count(),
)
def test_damaged_tables_are_refused(tmp_path: Path, name: str, content: bytes, rule: str) -> None:
    whole(tmp_path)
    (tmp_path / JPG / name).write_bytes(content)
    with pytest.raises(DataError, match=rule):
        index("mimic-cxr", tmp_path)


def test_wrong_folders_links_and_options(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"ROOT must hold pictures of MIMIC-CXR-JPG with their metadata, or reports; got none"):
        index("mimic-cxr", tmp_path)
    root = tmp_path / "data"
    whole(root)
    for options, rule in (({"views": "LATERAL"}, "views"), ({"uncertain": "maybe"}, "uncertain"), ({"label": 1}, "labels")):
        with pytest.raises(ConfigError, match=rule):
            index("mimic-cxr", root, options)
    picture(root / "copy", "10000032", "50414267", "bb-2")
    with pytest.raises(DataError, match=r"each picture and report once; got .*copy.*bb-2.jpg and .*bb-2.jpg"):
        index("mimic-cxr", root)
    (place(root / "copy", "10000032", "50414267") / "bb-2.jpg").unlink()
    split = root / JPG / SPLIT
    split.rename(tmp_path / SPLIT)
    split.symlink_to(tmp_path / SPLIT)
    with pytest.raises(DataError, match="a link out of it"):
        index("mimic-cxr", root)
    split.unlink()
    (root / "files").symlink_to(tmp_path, target_is_directory=True)
    assert any("1 linked folder was not followed (files)" in note for note in index("mimic-cxr", root).meta.notes)


def test_a_table_beside_its_packed_form_and_many_lines(tmp_path: Path) -> None:
    whole(tmp_path)
    (tmp_path / JPG / SPLIT.removesuffix(".gz")).write_text("an unpacked copy, cut")
    assert index("mimic-cxr", tmp_path).cases[0].split == "train"
    many = packed(tmp_path / "many.csv.gz", "A b,c,a_B_d\n" + '1,"x\ny",3\n' * 30000 + " , ,\n")
    rows = read_columns(many, ["ab", "C"], ["abd", "none"])
    assert next(rows) == ("1", "x\ny", "3", "")
    assert sum(1 for _ in rows) == 29999


def test_a_table_that_unpacks_without_end_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bomb = packed(tmp_path / "x.csv.gz", "a\n" + "0\n" * 200000)
    assert bomb.stat().st_size < 2000
    monkeypatch.setattr("comodal.data.packed_tables.MAX_BYTES", 100000)
    rows: Any = read_columns(bomb, ["a"])
    with pytest.raises(DataError, match="at most 1 GiB"):
        list(itertools.islice(rows, 100000))
