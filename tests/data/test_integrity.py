"""`check_cohort`: each kind of defect is found, named, and comes with something to do."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from PIL import Image

from comodal.data.cohort import Case, Cohort, CohortMeta, ModalitySpec, TargetSpec
from comodal.data.integrity import CheckReport, check_cohort

SEG = TargetSpec(name="seg", kind="regions", classes=["WT", "ET"], codes=[[1, 4], [4]], paint=[1, 4])


def volume(path: Path, seed: int, *, array: Any = None, affine: Any = None, shape: tuple[int, int, int] = (8, 7, 6)) -> None:
    if array is None:
        array = np.random.default_rng(seed).integers(1, 500, shape).astype(np.int16)
    nib.save(nib.Nifti1Image(array, np.eye(4) if affine is None else affine), path)


def make(root: Path, cases: int = 3) -> Cohort:
    """t1, flair and seg of each case, without a defect."""
    rows = []
    for k in range(cases):
        volume(root / f"{k}_t1.nii.gz", 10 * k)
        volume(root / f"{k}_flair.nii.gz", 10 * k + 1)
        labels = np.zeros((8, 7, 6), dtype=np.uint8)
        labels[2:5, 2:5, 2:5] = 1
        labels[3, 3, 3] = 4
        volume(root / f"{k}_seg.nii.gz", 0, array=labels)
        rows.append(Case.build(f"p{k}", cells={name: f"{k}_{name}.nii.gz" for name in ("t1", "flair", "seg")}))
    meta = CohortMeta(layout="csv", root="", modalities=[ModalitySpec(name="t1"), ModalitySpec(name="flair")], targets=[SEG])
    return Cohort.build(meta, rows, root)


def found(report: CheckReport) -> list[tuple[str, str, str, str]]:
    return [(defect.level, defect.subject, defect.modality, defect.rule) for defect in report.defects]


def test_a_good_cohort_has_no_defects(tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    report = check_cohort(make(tmp_path), on_progress=lambda done, total: seen.append((done, total)))
    assert report.defects == ()
    assert report.ok
    assert report.presence["p1"] == {"t1": True, "flair": True, "seg": True}
    assert report.counts() == {"t1": 3, "flair": 3, "seg": 3}
    assert seen == [(1, 3), (2, 3), (3, 3)]
    assert json.loads(json.dumps(asdict(report)))["defects"] == []


def test_missing_and_damaged_files_are_all_found_in_one_run(tmp_path: Path) -> None:
    cohort = make(tmp_path)
    (tmp_path / "0_t1.nii.gz").unlink()
    data = (tmp_path / "1_flair.nii.gz").read_bytes()
    (tmp_path / "1_flair.nii.gz").write_bytes(data[: len(data) // 2])
    report = check_cohort(cohort)
    assert not report.ok
    first, second = report.defects
    assert (first.level, first.subject, first.modality) == ("error", "p0", "t1")
    assert "must list files that exist; got none" in first.rule
    assert first.do == "Correct the path, or blank the cell if this sequence is absent"
    assert first.file == str(tmp_path / "0_t1.nii.gz")
    assert (second.subject, second.modality) == ("p1", "flair")
    assert "must be a complete gzip file" in second.rule
    assert second.do == "Copy or download the file again"


def test_unknown_labels_and_empty_label_maps(tmp_path: Path) -> None:
    cohort = make(tmp_path)
    labels = np.zeros((8, 7, 6), dtype=np.uint8)
    volume(tmp_path / "0_seg.nii.gz", 0, array=labels)
    volume(tmp_path / "2_seg.nii.gz", 0, array=labels)
    strange = labels.copy()
    strange[0, 0, :2] = [3, 1]
    volume(tmp_path / "1_seg.nii.gz", 0, array=strange)
    report = check_cohort(cohort)
    assert found(report) == [
        ("error", "p1", "seg", "the label map holds 3, which is in no class"),
        ("note", "", "seg", "the label map is empty in 2 of 3 cases (p0, p2)"),
    ]
    assert report.defects[0].do == "Add it to codes of seg in the yaml"


def test_images_that_do_not_lie_on_each_other(tmp_path: Path) -> None:
    cohort = make(tmp_path, 4)
    moved = np.eye(4)
    moved[0, 3] = 1e-6
    volume(tmp_path / "0_flair.nii.gz", 1, affine=moved)
    moved[0, 3] = 3
    volume(tmp_path / "1_flair.nii.gz", 2, affine=moved)
    moved[0, 3] = 100
    volume(tmp_path / "2_flair.nii.gz", 3, affine=moved)
    volume(tmp_path / "3_flair.nii.gz", 4, affine=np.diag([2.0, 2, 2, 1]), shape=(4, 4, 3))
    assert found(check_cohort(cohort)) == [
        ("error", "p2", "flair", "the image lies wholly outside t1"),
        ("warning", "p1", "flair", "the image lies up to 3.0 mm off t1"),
        ("note", "", "flair", "the size or spacing differs from that of t1 in 1 of 4 cases (p3)"),
    ]


def test_flips_of_the_file_are_no_defect(tmp_path: Path) -> None:
    """The same voxels, stored from right to left."""
    cohort = make(tmp_path)
    array = np.random.default_rng(5).integers(1, 500, (8, 7, 6)).astype(np.int16)
    affine = np.diag([-1.0, 1, 1, 1])
    affine[0, 3] = 7
    volume(tmp_path / "0_flair.nii.gz", 0, array=array, affine=affine)
    assert check_cohort(cohort).defects == ()


def test_pictures_of_different_size_cannot_share_a_grid(tmp_path: Path) -> None:
    for k in range(2):
        for name, size in (("a", 8), ("b", 8 - k)):
            pixels = np.random.default_rng(k).integers(0, 255, (size, 8)).astype(np.uint8) + np.uint8(name == "b")
            Image.fromarray(pixels).save(tmp_path / f"{name}{k}.png")
    meta = CohortMeta(layout="csv", root="", modalities=[ModalitySpec(name=n, spatial_dims=2) for n in "ab"])
    cases = [Case.build(f"p{k}", cells={n: f"{n}{k}.png" for n in "ab"}) for k in range(2)]
    ((level, subject, modality, rule),) = found(check_cohort(Cohort.build(meta, cases, tmp_path)))
    assert (level, subject, modality) == ("error", "p1", "b")
    assert rule == "the size is (8, 7, 1), that of a is (8, 8, 1), and pictures do not say where they lie"


def test_the_same_pixels_under_two_names(tmp_path: Path) -> None:
    cohort = make(tmp_path)
    (tmp_path / "1_t1.nii.gz").write_bytes((tmp_path / "0_t1.nii.gz").read_bytes())
    (tmp_path / "2_flair.nii.gz").write_bytes((tmp_path / "2_t1.nii.gz").read_bytes())
    report = check_cohort(cohort)
    assert found(report) == [
        ("error", "p1", "t1", "the pixels equal t1 of p0"),
        ("warning", "p2", "flair", "the pixels equal t1"),
    ]
    assert report.defects[1].do == "Blank the cell of the copy: it would leak into subsets without it"
    same_patient = [Case.build(c.subject, cells=c.cells, group="g") for c in cohort.cases]
    assert found(check_cohort(Cohort.build(cohort.meta, same_patient, tmp_path)))[0][0] == "warning"


def test_constant_images_and_wrong_channels(tmp_path: Path) -> None:
    cohort = make(tmp_path)
    volume(tmp_path / "0_t1.nii.gz", 0, array=np.zeros((8, 7, 6), dtype=np.int16))
    report = check_cohort(cohort)
    assert found(report) == [("warning", "p0", "t1", "every voxel is 0")]
    assert report.defects[0].do == "Blank the cell if this sequence is absent: zeros are not absence"
    specs = [ModalitySpec(name="t1", spatial_dims=2), ModalitySpec(name="flair", channels=3)]
    wrong = Cohort.build(cohort.meta.model_copy(update={"modalities": specs}), cohort.cases[1:2] * 1, tmp_path)
    rules = [defect.rule for defect in check_cohort(wrong).defects]
    assert "the image has 6 slices, the yaml says 2-D" in rules
    assert "the image has 1 channel(s), the yaml says 3" in rules
    assert "the cohort has 1 case(s)" in rules


def test_what_the_table_alone_shows(tmp_path: Path) -> None:
    specs = [ModalitySpec(name=name, kind="text", spatial_dims=0) for name in ("note", "letter", "fax")]
    grade = TargetSpec(name="grade", kind="class", classes=["low", "high", "none"])
    for k in range(4):
        (tmp_path / f"{k}.txt").write_text(f"report {k}")
    rows = [
        Case.build("a", session="1", cells={"note": "0.txt", "letter": "0.txt", "grade": "high"}, split="train"),
        Case.build("a", session="2", cells={"note": "1.txt", "grade": "low"}, split="test"),
        Case.build("b", cells={"note": "2.txt", "grade": "low"}, split="test"),
        Case.build("c", cells={"grade": "low"}, split="test"),
    ]
    cohort = Cohort.build(CohortMeta(layout="csv", root="", modalities=specs, targets=[grade]), rows, tmp_path)
    assert found(check_cohort(cohort)) == [
        ("error", "", "fax", "no case has fax"),
        ("error", "c", "", "the case has no modality"),
        ("error", "", "", "patient a is in test and train"),
        ("warning", "", "letter", "only cases of class high have letter: its presence gives the answer away"),
        ("warning", "", "grade", "no case is none"),
        ("note", "", "", "1 of 3 subjects have several sessions (a)"),
    ]


@pytest.mark.parametrize(("lacking", "other", "said"), [(10, 0, True), (2, 0, False), (10, 1, False)])
def test_a_modality_that_one_class_alone_lacks_is_said(tmp_path: Path, lacking: int, other: int, said: bool) -> None:
    """As the notes of the COVID-19 collection: all of the other class have one. Two of thirty may be chance."""
    specs = [ModalitySpec(name=name, kind="text", spatial_dims=0) for name in ("note", "letter")]
    meta = CohortMeta(
        layout="csv", root="", modalities=specs, targets=[TargetSpec(name="ill", kind="class", classes=["no", "yes"])]
    )
    rows = []
    for k in range(60):
        (tmp_path / f"{k}.txt").write_text(f"report {k}")
        ill = k < 30
        silent = k < lacking if ill else k - 30 < other
        cells = {"letter": f"{k}.txt", "ill": "yes" if ill else "no"} | ({} if silent else {"note": f"{k}.txt"})
        rows.append(Case.build(f"p{k}", cells=cells))
    rule = f"only cases of class yes lack note ({lacking} of 30): that gives them away"
    assert (("warning", "", "note", rule) in found(check_cohort(Cohort.build(meta, rows, tmp_path)))) == said


def test_texts_and_vectors_are_read_too(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(b"\xff\xfe\x00")
    np.save(tmp_path / "a.npy", np.array([1.0, np.nan]))
    text = ModalitySpec(name="text", kind="text", spatial_dims=0)
    genes = ModalitySpec(name="genes", kind="features", spatial_dims=0)
    cases = [Case.build(str(k), cells={"text": "a.txt", "genes": "a.npy"}) for k in range(2)]
    meta = CohortMeta(layout="csv", root="", modalities=[text, genes])
    rules = [defect.rule for defect in check_cohort(Cohort.build(meta, cases, tmp_path)).defects]
    assert len(rules) == 4
    assert sum("must be text in UTF-8" in rule for rule in rules) == 2
    assert sum("must hold finite numbers" in rule for rule in rules) == 2


def test_reports_are_counted_and_one_without_a_word_is_an_error(tmp_path: Path) -> None:
    cells = [f"{'Clear. ' * (k == 0)}No effusion. A scar of {'long ' * (60 * (k == 1))}{k} mm." for k in range(5)]
    meta = CohortMeta(layout="csv", root="", modalities=[ModalitySpec(name="note", kind="text", spatial_dims=0, inline=True)])
    cases = [Case.build(str(k), cells={"note": cell}) for k, cell in enumerate([*cells, "No mass. " * 20, "😀 ..."])]
    report = check_cohort(Cohort.build(meta, cases, tmp_path))
    facts = report.texts["note"]
    assert (facts.reports, facts.sentences_median, facts.sentences_max) == (6, 2.0, 20)
    assert (facts.words_median, facts.words_max, facts.more_sentences, facts.longer_sentences) == (7.5, 67, 1, 1)
    assert facts.repeated == round(5 / 31, 4)  # "no effusion", in five reports; "no mass" is often in one alone
    assert found(report) == [("error", "6", "note", "the report has no word")]


def test_odd_headers_become_one_note(tmp_path: Path) -> None:
    cohort = make(tmp_path)
    for k in range(3):
        path = tmp_path / f"{k}_t1.nii.gz"
        image: Any = nib.load(path)
        image.set_sform(np.eye(4), 0)
        image.set_qform(np.eye(4), 0)
        nib.save(nib.Nifti1Image(image.get_fdata().astype(np.int16), None, image.header), path)
    notes = [d for d in check_cohort(cohort).defects if "sform" in d.rule]
    assert len(notes) == 1
    assert notes[0].rule.startswith("neither sform nor qform is set")
    assert notes[0].rule.endswith("in 3 of 3 cases (p0, p1, p2)")
