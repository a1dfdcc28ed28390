"""`comodal explain` on a phantom and a tiny trained run: files, documents, refusals."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import yaml
from PIL import Image

from comodal import api
from comodal.cli.main import main
from comodal.data.cohort import Cohort
from comodal.explain.results import ExplainResults

TINY = {"batch_size": 1, "validations": 1, "threads": 1, "device": "cpu"}


@pytest.fixture(scope="module")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five phantoms."""
    folder = tmp_path_factory.mktemp("phantom")
    assert main(["phantom", "brain", "--out", str(folder), "--cases", "5", "--size", "48", "--seed", "1"]) == 0
    return folder / "cohort.csv"


def trained(cohort: Path, folder: Path, method: str, patch: tuple[int, int, int]) -> Path:
    """Two steps; the file is written here, since `init` measures for seconds what the machine can do."""
    config = folder / f"{method}.yaml"
    said = {
        "cohort": str(cohort),
        "method": {"name": method, "width": 2, "levels": 2, "steps": 2},
        "data": {"spatial_dims": 3, "patch": list(patch), "augment": "none"},
        "training": TINY,
    }
    config.write_text(yaml.safe_dump(said))
    assert main(["train", str(config), "--out", str(folder / method)]) == 0
    return folder / method


@pytest.fixture(scope="module")
def run(cohort: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A trained run that all tests share."""
    return trained(cohort, tmp_path_factory.mktemp("runs"), "ciml", (48, 48, 32))


def document(words: list[str], capsys: pytest.CaptureFixture[str], *, code: int = 0) -> Any:
    """What a command gives to machines."""
    capsys.readouterr()
    assert main([*words, "--json"]) == code
    return json.loads(capsys.readouterr().out)


def subjects(run: Path) -> list[str]:
    return [case.id for case in Cohort.load(run / "cohort.csv").cases]


def test_one_case_as_a_process(run: Path, tmp_path: Path) -> None:
    name = subjects(run)[0]
    words = ["explain", str(run), "--subject", name, "--out", str(tmp_path / "out"), "--voxels", "all", "--device", "cpu"]
    done = subprocess.run([sys.executable, "-m", "comodal", *words, "--json"], capture_output=True, text=True, check=True)
    found = json.loads(done.stdout)
    assert found["schema"] == 1 and found["explainer"] == "grad-cam" and found["voxels"] == "all"
    (case,) = found["cases"]
    assert case["subject"] == name and sorted(case["used"]) == ["flair", "t1", "t1ce", "t2"]
    assert len(case["rows"]) == 6 and len(case["nats"]) == 12
    for row in case["rows"]:
        weights = list(row["weights"].values())
        assert len(weights) == 3 and row["primary"] not in row["weights"]
        assert None in weights or math.isclose(sum(weights), 1, abs_tol=1e-9)
    stored = json.loads((tmp_path / "out" / "weights.json").read_text())
    assert stored["cases"] == found["cases"] and "NaN" not in (tmp_path / "out" / "weights.json").read_text()
    cohort = Cohort.load(run / "cohort.csv")
    source = nib.Nifti1Image.from_filename(cohort.file(cohort.case(name), "flair"))
    maps = sorted((tmp_path / "out" / name).glob("*.nii.gz"))
    assert len(maps) == 18 + 12 and (tmp_path / "out" / name / "heat_t1ce_ET_from_t2.nii.gz") in maps
    for file in maps:
        image = nib.Nifti1Image.from_filename(file)
        assert image.shape == source.shape and np.array_equal(image.affine, source.affine)
        values = np.asarray(image.dataobj)
        assert values.min() >= 0 and (not file.name.startswith("heat") or values.max() <= 1)
    for picture in (tmp_path / "out" / name / "picture.png", tmp_path / "out" / "weights.png"):
        with Image.open(picture) as drawn:
            assert min(drawn.size) > 200
    assert not (run / "explain").exists()


def test_a_split_goes_into_the_run(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = document(["explain", str(run), "--split", "val", "--out", str(tmp_path / "out"), "--explainer", "nats"], capsys)
    stored = ExplainResults.load(run / "explain" / "val.nats.json")
    assert (stored.split, stored.explainer, stored.voxels) == ("val.nats", "nats", None)
    names = json.loads((run / "splits.json").read_text())["val"]
    assert [case.subject for case in stored.cases] == names
    assert stored.auxiliaries == tuple(found["auxiliaries"])
    assert {row.weights[name].n for row in stored.rows for name in row.weights} == {len(names)}
    for row in found["rows"]:
        assert sum(weight["value"] for weight in row["weights"].values()) == pytest.approx(1)
    assert main(["explain", str(run), "--split", "test", "--out", str(tmp_path / "test"), "--use", "t1,t2"]) == 0
    said = capsys.readouterr().out
    assert "from t2" in said and "from flair" not in said
    restricted = ExplainResults.load(run / "explain" / "test.use-t1+t2.json")
    assert {(row.primary, *row.weights) for row in restricted.rows} == {("t1", "t2"), ("t2", "t1")}


def test_an_earlier_explanation_is_replaced_only_on_demand(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    name, out = subjects(run)[1], tmp_path / "out"
    words = ["explain", str(run), "--subject", name, "--out", str(out), "--explainer", "nats"]
    assert main(words) == 0
    assert main(words) == 2
    assert "got one with an earlier explanation" in capsys.readouterr().err
    assert main([*words, "--overwrite", "--use", "t1,t2"]) == 0
    maps = [file.name for file in (out / name).glob("*.nii.gz")]
    assert len(maps) > 2 and not [file for file in maps if "flair" in file]
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").touch()
    assert main([*words[:-4], "--out", str(tmp_path / "mine"), "--overwrite"]) == 2
    assert "--out must be a new or empty folder; got one that holds notes.txt" in capsys.readouterr().err


def test_mistakes_are_told(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = ["--out", str(tmp_path / "out")]
    name = subjects(run)[0]
    for words, text in [
        ([], "comodal explain must get either --subject or --split; got neither."),
        (["--subject", name, "--split", "test"], "comodal explain must get either --subject or --split; got both."),
        (["--subject", "nobody"], "--subject must name a case of the run; got 'nobody'."),
        (["--split", "tset"], "--split must be a split of the run; got 'tset'. Did you mean test?"),
        (["--subject", name, "--explainer", "gradcam"], "--explainer must be a known explainer; got 'gradcam'. Did you mean"),
        (["--subject", name, "--voxels", "some"], "--voxels must be a known set of voxels; got 'some'."),
        (["--subject", name, "--use", "t1,pet"], "--use must name modalities of the run; got 'pet'."),
        (["--subject", name, "--use", "t1"], "explain must have the primary of a segmentor and another modality"),
        (["--split", "test", "--use", "t1"], "split test must have a case that can be explained"),
    ]:
        assert main(["explain", str(run), *words, *out]) == 2
        assert text in " ".join(capsys.readouterr().err.split())
    assert not (tmp_path / "out").exists()


def test_a_method_that_does_not_explain_names_those_that_do(
    cohort: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = trained(cohort, tmp_path, "unet", (16, 16, 16))
    assert main(["explain", str(run), "--subject", subjects(run)[0], "--out", str(tmp_path / "out")]) == 2
    said = " ".join(capsys.readouterr().err.split())
    assert "RUN's method must be one that says what each modality adds to another; got UNet." in said
    assert "ciml, ciml-shapes" in said


def test_the_file_of_an_absent_auxiliary_is_not_missed(cohort: Path, run: Path, tmp_path: Path) -> None:
    name = subjects(run)[2]
    whole = api.explain(run, out=tmp_path / "whole", subjects=name, use=["t1", "t1ce", "t2"], voxels="all", device="cpu")
    loaded = Cohort.load(cohort)
    file = loaded.file(loaded.case(name), "flair")
    hidden = file.with_name("hidden")
    file.rename(hidden)
    try:
        gone = api.explain(run, out=tmp_path / "gone", subjects=name, use=["t1", "t1ce", "t2"], voxels="all", device="cpu")
    finally:
        hidden.rename(file)
    assert gone.document["cases"] == whole.document["cases"]
    assert "flair" not in gone.document["auxiliaries"]
    assert yaml.safe_load((run / "config.yaml").read_text())["method"]["name"] == "ciml"
