"""nnU-Net's data sets, lists in JSON and BIDS: read as they are written by others, and written so that they come back."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from PIL import Image

from comodal.data import convert, index
from comodal.data.cohort import Case, Cohort, CohortMeta, ModalitySpec, TargetSpec
from comodal.data.phantoms.brain import BrainPhantom, write_brain
from comodal.data.reading import read_volume
from comodal.data.splits import SplitConfig, make_splits
from comodal.errors import ConfigError, DataError
from comodal.testing.dataset import check_dataset

AFFINE = np.array([[-1.5, 0, 0, 10], [0, -1.0, 0.1, 20], [0, 0.1, 2.0, -5], [0, 0, 0, 1]])


def volume(path: Path, seed: int = 0, labels: tuple[int, ...] = ()) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    array = np.random.default_rng(seed).integers(1, 900, (6, 5, 4)).astype(np.int16)
    if labels:
        array[:] = 0
        array[0, 0, : len(labels)] = labels
    nib.save(nib.Nifti1Image(array, AFFINE), path)


def nnunet(root: Path, cases: int = 4, *, labels: Mapping[str, Any] | None = None, bom: bool = False, **more: Any) -> Path:
    """Two channels, but case_1 has no T2; case_3 is a test case."""
    for k in range(cases):
        part = "Ts" if k == 3 else "Tr"
        volume(root / f"images{part}" / f"case_{k}_0000.nii.gz", k)
        if k != 1:
            volume(root / f"images{part}" / f"case_{k}_0001.nii.gz", 10 + k)
        volume(root / f"labels{part}" / f"case_{k}.nii.gz", labels=(1, 2))
    described = {
        "channel_names": {"0": "CT", "1": "T2 w"},
        "labels": dict(labels or {"background": 0, "organ": 1, "tumour": 2}),
        "numTraining": min(cases, 3),
        "file_ending": ".nii.gz",
        **more,
    }
    (root / "dataset.json").write_bytes((b"\xef\xbb\xbf" if bom else b"") + json.dumps(described).encode())
    return root


def test_a_channel_may_be_absent_and_a_byte_order_mark_is_fine(tmp_path: Path) -> None:
    cohort = check_dataset("nnunet", nnunet(tmp_path, bom=True))
    assert [(m.name, m.unit) for m in cohort.modalities] == [("CT", "HU"), ("T2_w", None)]
    assert cohort.ids == ("case_0", "case_1", "case_2", "case_3")
    assert cohort.case("case_1").cells == {"CT": "imagesTr/case_1_0000.nii.gz", "seg": "labelsTr/case_1.nii.gz"}
    assert [case.split for case in cohort.cases] == ["", "", "", "test"]
    (target,) = cohort.targets
    assert (target.kind, target.classes, target.codes) == ("labels", ("background", "organ", "tumour"), ((0,), (1,), (2,)))
    assert target.background == 0 and cohort.meta.notes == []


def test_version_1_names_and_regions(tmp_path: Path) -> None:
    nnunet(tmp_path)
    described = {"modality": {"0": "CT", "1": "CT"}, "labels": {"0": "background", "1": "a", "2": "b"}, "numTraining": 9}
    (tmp_path / "dataset.json").write_text(json.dumps(described))
    cohort = index("nnunet", tmp_path)
    assert [m.name for m in cohort.modalities] == ["CT-0", "CT-1"] and cohort.targets[0].classes == ("background", "a", "b")
    assert cohort.meta.notes == ["dataset.json speaks of 9 training cases; labelsTr holds 3"]
    other = nnunet(tmp_path / "r", labels={"background": 0, "whole": [1, 2], "core": [2]}, regions_class_order=[1, 2])
    (target,) = index("nnunet", other).targets
    assert (target.kind, target.classes, target.codes, target.paint) == ("regions", ("whole", "core"), ((1, 2), (2,)), (1, 2))


def test_folds_and_patients(tmp_path: Path) -> None:
    folds = [{"train": ["case_0"], "val": ["case_1", "case_2"]}, {"train": ["case_1", "case_2"], "val": ["case_0"]}]
    (nnunet(tmp_path) / "splits_final.json").write_text(json.dumps(folds))
    cohort = index("nnunet", tmp_path, {"fold": 1, "group": "([a-z]+)_"})
    assert [(c.id, c.group, c.split) for c in cohort.cases] == [
        ("case_0", "case", "test"),
        ("case_1", "case", "train"),
        ("case_2", "case", "train"),
        ("case_3", "case", ""),
    ]
    with pytest.raises(DataError, match=r"splits_final.json must have a fold 5; got none"):
        index("nnunet", tmp_path, {"fold": 5})
    with pytest.raises(ConfigError, match="must have a part in brackets"):
        index("nnunet", tmp_path, {"group": "case"})


def test_pictures_that_hold_all_channels(tmp_path: Path) -> None:
    for k in range(2):
        (tmp_path / "imagesTr").mkdir(exist_ok=True)
        (tmp_path / "labelsTr").mkdir(exist_ok=True)
        rgb = np.random.default_rng(k).integers(0, 255, (6, 5, 3), dtype=np.uint8)
        Image.fromarray(rgb).save(tmp_path / "imagesTr" / f"p{k}_0000.png")
        Image.fromarray((rgb[..., 0] > 99).astype(np.uint8)).save(tmp_path / "labelsTr" / f"p{k}.png")
    described = {"channel_names": {"0": "R", "1": "G", "2": "B"}, "labels": {"background": 0, "road": 1}, "file_ending": ".png"}
    (tmp_path / "dataset.json").write_text(json.dumps(described))
    cohort = check_dataset("nnunet", tmp_path)
    assert [(m.name, m.channel, m.spatial_dims) for m in cohort.meta.modalities] == [("R", 0, 2), ("G", 1, 2), ("B", 2, 2)]


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"labels": {"background": 0, "a": 1, "ignore": 2}}, "be known for every voxel: comodal has no label that is ignored"),
        ({"labels": {"background": 0}}, "name something beside the background"),
        ({"labels": {"background": 0, "a": "x"}}, "be integers or lists of integers"),
        ({"labels": {"background": 0, "a": [1, 2], "b": [2]}}, "come with a regions_class_order of 2 values"),
        ({"labels": None}, "name the labels"),
        ({"channel_names": ["CT"]}, "have channel_names"),
        ({"file_ending": ".mha"}, "hold cases of nnU-Net"),
    ],
)
def test_a_dataset_json_that_describes_something_else_is_refused(tmp_path: Path, change: dict[str, Any], text: str) -> None:
    nnunet(tmp_path)
    described = json.loads((tmp_path / "dataset.json").read_text()) | change
    (tmp_path / "dataset.json").write_text(json.dumps(described))
    with pytest.raises(DataError, match=text):
        index("nnunet", tmp_path)


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (b"{", "be JSON in UTF-8"),
        (b"\xff\xfe{\x00}\x00", "be JSON in UTF-8"),
        (b"[1]", "hold an object with named keys; got a list"),
        (b'{"a":' * 100_000, "describe a data set; got values nested too deeply"),
    ],
)
def test_a_damaged_dataset_json_is_one_message(tmp_path: Path, content: bytes, text: str) -> None:
    (nnunet(tmp_path) / "dataset.json").write_bytes(content)
    with pytest.raises(DataError, match=text):
        index("nnunet", tmp_path)


def test_a_label_map_without_image_is_said_and_deleted_files_are_absent(tmp_path: Path) -> None:
    nnunet(tmp_path)
    for name in ("case_0_0000", "case_0_0001", "case_2_0000"):
        (tmp_path / "imagesTr" / f"{name}.nii.gz").unlink()
    cohort = index("nnunet", tmp_path)
    assert cohort.ids == ("case_1", "case_2", "case_3") and "CT" not in cohort.case("case_2").cells
    assert "1 label maps have no image and were left out (case_0)" in cohort.meta.notes


# --------------------------------------------------------------------------------------------------------------- writing


@pytest.fixture(scope="module")
def brain(tmp_path_factory: pytest.TempPathFactory) -> Cohort:
    root = tmp_path_factory.mktemp("brain")
    write_brain(root, BrainPhantom(cases=6, missing="random", seed=3))
    return index("brats", root)


def test_a_cohort_written_for_nnunet_comes_back(brain: Cohort, tmp_path: Path) -> None:
    cases = [replace(case, split="test" if k == 5 else "") for k, case in enumerate(brain.cases)]
    notes = convert(replace(brain, cases=tuple(cases)), "nnunet", tmp_path / "Dataset001_Brain")
    again = check_dataset("nnunet", tmp_path / "Dataset001_Brain")
    assert again.ids == brain.ids and again.cases[5].split == "test"
    names = {m.name for m in again.modalities}
    assert names == {m.name for m in brain.modalities}
    target, own = again.targets[0], brain.targets[0]
    assert target.classes == own.classes and target.codes == ((1, 2, 3), (1, 3), (3,))
    for mine, other in zip(brain.cases, again.cases, strict=True):
        assert set(mine.cells) == set(other.cells)
        for name in names & set(mine.cells):
            assert brain.file(mine, name).read_bytes() == again.file(other, name).read_bytes()
        truth, label = (read_volume(c.file(x, "seg")).array for c, x in ((brain, mine), (again, other)))
        assert np.array_equal(np.where(truth == 4, 3, truth), label)
    assert any("cases lack a modality" in note for note in notes)
    folds = json.loads((tmp_path / "Dataset001_Brain" / "splits_final.json").read_text())
    assert sorted(case for fold in folds for case in fold["val"]) == sorted(brain.ids[:5])
    with pytest.raises(DataError, match="be a new or empty folder"):
        convert(brain, "nnunet", tmp_path / "Dataset001_Brain")
    with pytest.raises(ConfigError, match=r"layout must be one that is written; got 'nnunett'. Did you mean nnunet"):
        convert(brain, "nnunett", tmp_path / "x")


def test_slices_and_channels_are_written_as_volumes_or_refused(tmp_path: Path) -> None:
    rgb = np.random.default_rng(0).integers(0, 255, (6, 5, 3), dtype=np.uint8)
    Image.fromarray(rgb).save(tmp_path / "a.png")
    Image.fromarray((rgb[..., 0] > 99).astype(np.uint8) * 255).save(tmp_path / "m.png")
    target = TargetSpec(name="seg", kind="regions", classes=["x"], codes=[[255]], paint=[255])
    cells = {"photo": "a.png", "seg": "m.png"}

    def cohort(channel: int | None) -> Cohort:
        spec = ModalitySpec(name="photo", spatial_dims=2, channels=1 if channel is not None else 3, channel=channel)
        meta = CohortMeta(layout="csv", root="", modalities=[spec], targets=[target])
        return Cohort.build(meta, [Case.build(f"c{k}", cells=cells) for k in range(2)], tmp_path)

    convert(cohort(1), "nnunet", tmp_path / "one")
    again = check_dataset("nnunet", tmp_path / "one")
    assert np.array_equal(read_volume(again.file(again.cases[0], "photo")).array[0, :, :, 0], rgb[..., 1].T)
    assert read_volume(again.file(again.cases[0], "seg")).array.max() == 1
    with pytest.raises(DataError, match=r"have one channel, to be written for nnU-Net; got 3 channels \[subject c0"):
        convert(cohort(None), "nnunet", tmp_path / "three")


# ------------------------------------------------------------------------------------------------------------- datalists


def test_a_list_written_for_monai_comes_back_and_monai_reads_it(brain: Cohort, tmp_path: Path) -> None:
    from monai.data.decathlon_datalist import load_decathlon_datalist

    convert(brain, "datalist", tmp_path)
    entries = load_decathlon_datalist(str(tmp_path / "datalist.json"), True, "training")
    assert [entry["id"] for entry in entries] == list(brain.ids)
    assert set(entries[0]) >= {"id", "seg", *(set(brain.cases[0].cells))}
    again = index(
        "datalist", tmp_path / "datalist.json", {"base": str(brain.root), "labels": {"edema": 2, "core": 1, "rim": 4}}
    )
    assert again.ids == brain.ids and again.targets[0].kind == "regions"  # no label for background: regions over it
    for mine, other in zip(brain.cases, again.cases, strict=True):
        assert set(mine.cells) == set(other.cells)
        assert all(brain.file(mine, name) == again.file(other, name) for name in mine.cells)


def decathlon(root: Path, entries: list[Any], **more: Any) -> Path:
    for k in range(3):
        (root / "imagesTr").mkdir(parents=True, exist_ok=True)
        stack = np.random.default_rng(k).integers(1, 99, (6, 5, 4, 2)).astype(np.int16)
        nib.save(nib.Nifti1Image(stack, AFFINE), root / "imagesTr" / f"b{k}.nii.gz")
        volume(root / "labelsTr" / f"b{k}.nii.gz", labels=(1, 2))
    described = {"labels": {"0": "background", "1": "a", "2": "b"}, "training": entries, **more}
    (root / "dataset.json").write_text(json.dumps(described))
    return root


def test_the_decathlon_has_its_channels_in_one_file(tmp_path: Path) -> None:
    entries = [{"image": f"./imagesTr/b{k}.nii.gz", "label": f"./labelsTr/b{k}.nii.gz"} for k in range(2)]
    decathlon(tmp_path, entries, modality={"0": "FLAIR", "1": "T1w"}, test=["./imagesTr/b2.nii.gz"])
    cohort = check_dataset("datalist", tmp_path)
    assert [(m.name, m.channel) for m in cohort.meta.modalities] == [("FLAIR", 0), ("T1w", 1)]
    assert cohort.ids == ("b0", "b1", "b2") and "seg" not in cohort.case("b2").cells
    assert {case.split for case in cohort.cases} == {""}
    stack = np.asarray(nib.load(tmp_path / "imagesTr" / "b1.nii.gz").dataobj)  # type: ignore[attr-defined]
    read = read_volume(cohort.file(cohort.case("b1"), "T1w"), channel=1).array
    assert np.array_equal(np.sort(read.ravel()), np.sort(stack[..., 1].ravel()))


def test_lists_of_files_folds_and_keys(tmp_path: Path) -> None:
    for k in range(4):
        volume(tmp_path / f"{k}_a.nii.gz", k)
        volume(tmp_path / f"{k}_b.nii.gz", 9 + k)
        volume(tmp_path / f"{k}_l.nii.gz", labels=(1,))
    entries = [
        {"image": [f"{k}_a.nii.gz", f"{k}_b.nii.gz" if k else None], "label": f"{k}_l.nii.gz", "fold": k % 2, "id": f"p{k}"}
        for k in range(4)
    ]
    (tmp_path / "list.json").write_text(json.dumps({"training": entries}))
    cohort = index("datalist", tmp_path / "list.json", {"modalities": "t1,t2", "fold": 0})
    assert [m.name for m in cohort.modalities] == ["t1", "t2"] and "t2" not in cohort.case("p0").cells
    assert [case.split for case in cohort.cases] == ["test", "train", "test", "train"]
    assert cohort.targets[0].classes == ("label-1",)
    assert make_splits(cohort, SplitConfig(fractions=(0.5, 0, 0.5)))["test"] == ["p0", "p2"]
    keyed = {
        "training": [{"t1": "0_a.nii.gz", "label": 0}],
        "validation": [{"t1": "1_a.nii.gz", "flair": "1_b.nii.gz", "label": 1}],
    }
    (tmp_path / "keyed.json").write_text(json.dumps(keyed))
    cohort = index("datalist", tmp_path / "keyed.json")
    assert [m.name for m in cohort.modalities] == ["t1", "flair"] and cohort.targets[0].classes == ("0", "1")
    assert [case.split for case in cohort.cases] == ["train", "val"]


@pytest.mark.parametrize(
    ("content", "text"),
    [
        ({"training": []}, 'hold a list "training" of cases'),
        ({"training": [3]}, "hold an object or a path in each entry; got 3"),
        ({"training": [{"image": "../x.nii.gz"}]}, r"list files below .*Set base to the folder that holds all files"),
        ({"training": [{"image": "a.nii.gz"}, {"image": "b/a.nii.gz"}]}, 'have one entry for each case; got two .*"id"'),
    ],
)
def test_wrong_lists_are_refused(tmp_path: Path, content: object, text: str) -> None:
    volume(tmp_path / "a.nii.gz")
    (tmp_path / "list.json").write_text(json.dumps(content))
    with pytest.raises(DataError, match=text):
        index("datalist", tmp_path / "list.json")


# ------------------------------------------------------------------------------------------------------------------ BIDS


def bids(root: Path) -> Path:
    for subject, session in (("01", "pre"), ("01", "post"), ("02", "")):
        stem = f"sub-{subject}" + (f"_ses-{session}" if session else "")
        folder = root / f"sub-{subject}" / (f"ses-{session}" if session else ".") / "anat"
        volume(folder / f"{stem}_T1w.nii.gz", 1)
        volume(folder / f"{stem}_ce-gad_T1w.nii.gz", 2)
        (folder / f"{stem}_T1w.json").write_text('{"EchoTime": 0.1}')
        if subject == "01":
            volume(folder / f"{stem}_run-1_FLAIR.nii.gz", 3)
            volume(folder / f"{stem}_run-2_FLAIR.nii.gz", 4)
        derived = root / "derivatives" / "manual" / folder.relative_to(root)
        volume(derived / f"{stem}_space-T1w_dseg.nii.gz", labels=(1, 3))
    volume(root / "sub-02" / "func" / "sub-02_task-rest_bold.nii.gz", 5)
    (root / "derivatives" / "manual" / "desc-seg_dseg.tsv").write_text("index\tname\n1\tedema\n3\tcore\n")
    (root / "dataset_description.json").write_text('{"Name": "x", "BIDSVersion": "1.9.0"}')
    (root / "participants.tsv").write_text("participant_id\tage\tgrade\tsite\nsub-01\t61\tHGG\tA\nsub-02\tn/a\tLGG\tn/a\n")
    return root


def test_bids_with_sessions_contrast_and_derivatives(tmp_path: Path) -> None:
    check_dataset("bids", bids(tmp_path))
    cohort = index("bids", tmp_path, {"targets": "grade"})
    assert [m.name for m in cohort.modalities] == ["flair", "t1", "t1ce"]
    assert [(c.id, c.group, c.site) for c in cohort.cases] == [
        ("sub-01_post", "sub-01", "A"),
        ("sub-01_pre", "sub-01", "A"),
        ("sub-02", "sub-02", ""),
    ]
    assert cohort.cases[0].cells["flair"].endswith("run-1_FLAIR.nii.gz") and "flair" not in cohort.cases[2].cells
    seg, grade = cohort.targets
    assert (seg.classes, seg.codes) == (("edema", "core"), ((1,), (3,))) and grade.classes == ("HGG", "LGG")
    assert cohort.meta.notes == ["flair: 2 further runs or acquisitions were left out"]


def test_wrong_bids_folders_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="hold images named sub-<id>"):
        index("bids", tmp_path)
    bids(tmp_path)
    with pytest.raises(
        DataError, match=r"--set targets must name columns of participants.tsv; got 'grad'.* Did you mean grade"
    ):
        index("bids", tmp_path, {"targets": ["grad"]})
    with pytest.raises(DataError, match="hold images named sub-<id>"):
        index("bids", tmp_path, {"derivative": "fmriprep"})
