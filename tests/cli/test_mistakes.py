"""The mistakes that users make most: each is one message that says what, where, the rule and one thing to do; exit code 2."""

from __future__ import annotations

import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from PIL import Image

from comodal.cli.main import main
from comodal.config import RunConfig, build_method, validated
from comodal.data.cohort import Case, Cohort, CohortMeta, ModalitySpec, TargetSpec
from comodal.data.normalisation import Fitted
from comodal.methods import METHODS
from comodal.run import Run, save_weights


def untrained(folder: Path, cohort: Cohort, data: dict[str, object]) -> Path:
    """A run folder with random weights: enough to be read, evaluated and predicted from."""
    method = {"name": "unet", "width": 2, "levels": 2}
    config = validated(RunConfig, {"cohort": "cohort.csv", "method": method, "data": data}, "config").resolved()
    ids = list(cohort.ids)
    run = Run.create(folder, config, cohort, splits={"train": ids, "val": [], "test": ids}, fitted=Fitted(), tokenizer=None)
    torch.manual_seed(0)
    save_weights(folder / "weights.safetensors", build_method(run.config, run.problem).state_dict())
    return folder


@pytest.fixture
def volumes(tmp_path: Path) -> tuple[Path, Cohort]:
    """Two subjects with FLAIR and T1; the second has T1 alone."""
    root = tmp_path / "files"
    root.mkdir()
    random = np.random.default_rng(0)
    for name in ("a_flair", "a_t1", "b_t1", "a_seg", "b_seg"):
        array = random.integers(0, 2, (8, 8, 8)) if name.endswith("seg") else random.integers(1, 900, (8, 8, 8))
        nib.save(nib.Nifti1Image(array.astype(np.int16), np.diag([1, 1, 1, 1])), root / f"{name}.nii.gz")
    meta = CohortMeta(
        layout="csv",
        root=str(root),
        modalities=[ModalitySpec(name="flair"), ModalitySpec(name="t1")],
        targets=[TargetSpec(name="seg", kind="regions", classes=["lesion"], codes=[[1]], paint=[1])],
    )
    first = Case.build("a", cells={"flair": "a_flair.nii.gz", "t1": "a_t1.nii.gz", "seg": "a_seg.nii.gz"})
    second = Case.build("b", cells={"t1": "b_t1.nii.gz", "seg": "b_seg.nii.gz"})
    cohort = Cohort.build(meta, [first, second], root)
    cohort.save(tmp_path / "cohort.csv")
    return tmp_path, cohort


@pytest.fixture
def run(volumes: tuple[Path, Cohort]) -> Path:
    folder, cohort = volumes
    return untrained(folder / "run", cohort, {"spatial_dims": 3, "patch": [8, 8, 8]})


def refused(words: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """The one message of a command that ends with exit code 2."""
    assert main(words) == 2
    streams = capsys.readouterr()
    assert "Traceback" not in streams.err
    return " ".join(streams.err.split())


def test_unknown_method(volumes: tuple[Path, Cohort], capsys: pytest.CaptureFixture[str]) -> None:
    text = refused(["init", "modrop", str(volumes[0] / "cohort.csv")], capsys)
    known = ", ".join(sorted(METHODS))
    assert f"METHOD must be a known method; got 'modrop'. Did you mean moddrop? Known: {known}." in text


def test_unknown_modality(run: Path, volumes: tuple[Path, Cohort], capsys: pytest.CaptureFixture[str]) -> None:
    image = str(volumes[0] / "files" / "a_t1.nii.gz")
    text = refused(["predict", str(run), "--input", f"flare={image}", "--out", str(run / "p")], capsys)
    assert "--input must name a modality of the run; got 'flare'. Did you mean flair? Known: flair, t1" in text
    text = refused(["evaluate", str(run), "--use", "t3"], capsys)
    assert "--use must name modalities of the run; got 't3'." in text and "t1" in text


def test_unknown_key(volumes: tuple[Path, Cohort], capsys: pytest.CaptureFixture[str]) -> None:
    folder = volumes[0]
    (folder / "config.yaml").write_text("cohort: cohort.csv\nmethod: {name: unet, widht: 8}\ntraining: {sed: 1}\n")
    text = refused(["train", str(folder / "config.yaml"), "--out", str(folder / "new")], capsys)
    assert "config.training.sed must be a known key; got 'sed'. Did you mean seed?" in text
    (folder / "config.yaml").write_text("cohort: cohort.csv\nmethod: {name: unet, widht: 8}\n")
    text = refused(["train", str(folder / "config.yaml"), "--out", str(folder / "new")], capsys)
    assert "method.widht must be a known key; got 'widht'. Did you mean width?" in text
    assert not (folder / "new").exists()


def test_missing_file(run: Path, volumes: tuple[Path, Cohort], capsys: pytest.CaptureFixture[str]) -> None:
    text = refused(["predict", str(run), "--input", "t1=none.nii.gz", "--out", str(run / "p")], capsys)
    assert "--input must name a file that exists; got none.nii.gz [modality t1]. Check the path" in text
    gone = volumes[0] / "files" / "b_t1.nii.gz"
    gone.unlink()
    text = refused(["predict", str(run), "--cohort", str(volumes[0] / "cohort.csv"), "--out", str(run / "p")], capsys)
    assert "cohort must list files that exist; got none [subject b, modality t1, file" in text
    assert "Correct the path, or blank the cell if this sequence is absent" in text


def test_a_case_without_any_usable_modality(
    run: Path, volumes: tuple[Path, Cohort], capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["predict", str(run), "--cohort", str(volumes[0] / "cohort.csv"), "--use", "flair", "--out", str(run / "p")]
    text = refused(words, capsys)
    assert "a case to predict must have one of flair; got t1, seg [subject b]. Leave the subject out" in text
    assert not (run / "p").exists(), "nothing is written before everything was looked at"


def test_sequences_of_different_shape(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = tmp_path / "pictures"
    root.mkdir()
    for name, side in (("clinic", 16), ("dermoscopy", 24)):
        Image.fromarray(np.full((side, side), 90, dtype=np.uint8)).save(root / f"{name}.png")
    Image.fromarray(np.eye(16, dtype=np.uint8)).save(root / "seg.png")
    pictures = [ModalitySpec(name=n, spatial_dims=2) for n in ("clinic", "dermoscopy")]
    target = TargetSpec(name="seg", kind="regions", classes=["mole"], codes=[[1]], paint=[1])
    meta = CohortMeta(layout="csv", root=str(root), modalities=pictures, targets=[target])
    cells = {"clinic": "clinic.png", "dermoscopy": "dermoscopy.png", "seg": "seg.png"}
    cohort = Cohort.build(meta, [Case.build("a", cells=cells)], root)
    cohort.save(tmp_path / "cohort.csv")
    run = untrained(tmp_path / "run", cohort, {"spatial_dims": 2, "patch": [16, 16]})
    text = refused(["predict", str(run), "--cohort", str(tmp_path / "cohort.csv"), "--out", str(tmp_path / "p")], capsys)
    assert "subject a" in text and "modality dermoscopy" in text and "24" in text and "16" in text
    assert "shape" in text


def test_a_mistake_is_a_document_with_json(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["evaluate", str(run), "--use", "t3", "--json"]) == 2
    document = json.loads(capsys.readouterr().out)
    assert document["error"]["exit_code"] == 2 and "--use must name modalities" in document["error"]["message"]


def test_a_file_that_use_leaves_out_is_not_looked_at(run: Path, volumes: tuple[Path, Cohort]) -> None:
    there = str(volumes[0] / "files" / "a_flair.nii.gz")
    words = ["predict", str(run), "--input", f"flair={there}", "--input", "t1=gone.nii.gz", "--use", "flair"]
    assert main([*words, "--out", str(run.parent / "p"), "--json"]) == 0
    assert list((run.parent / "p").glob("*.nii.gz"))


def test_use_that_leaves_nothing(run: Path, volumes: tuple[Path, Cohort], capsys: pytest.CaptureFixture[str]) -> None:
    there = str(volumes[0] / "files" / "a_flair.nii.gz")
    text = refused(["predict", str(run), "--input", f"flair={there}", "--use", "t1", "--out", str(run.parent / "p")], capsys)
    assert "--use must leave one of flair; got t1. Name one of them in --use, or give another file" in text
