"""The whole story through the command line, on a phantom: every command, its documents, and its refusals."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from tests.methods import reading_room

from comodal.cli.main import main
from comodal.data.cohort import Cohort

TINY = [
    "--set=method.width=4",
    "--set=method.levels=2",
    "--set=method.steps=4",
    "--set=training.batch_size=2",
    "--set=training.validations=2",
    "--set=training.threads=1",
    "--set=data.patch=[32,32,16]",
]


def cells(cohort: Path, column: str) -> dict[str, Path]:
    """{subject: file} of one column."""
    loaded = Cohort.load(cohort)
    return {case.id: loaded.file(case, column) for case in loaded.cases}


def document(words: list[str], capsys: pytest.CaptureFixture[str], *, code: int = 0) -> Any:
    """What a command gives to machines."""
    capsys.readouterr()
    assert main([*words, "--json"]) == code
    return json.loads(capsys.readouterr().out)


@pytest.fixture(scope="module")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six phantoms."""
    folder = tmp_path_factory.mktemp("phantom")
    assert main(["phantom", "brain", "--out", str(folder), "--cases", "6", "--size", "48", "--seed", "1"]) == 0
    return folder / "cohort.csv"


@pytest.fixture(scope="module")
def config(cohort: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What `init` writes for them."""
    file = tmp_path_factory.mktemp("config") / "config.yaml"
    assert main(["init", "moddrop", str(cohort), "--out", str(file), "--spatial-dims", "3"]) == 0
    return file


@pytest.fixture(scope="module")
def run(config: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One trained and evaluated run that all tests share."""
    folder = tmp_path_factory.mktemp("runs") / "tiny"
    assert main(["train", str(config), "--out", str(folder), "--device", "cpu", *TINY]) == 0
    assert main(["evaluate", str(folder), "--device", "cpu"]) == 0
    return folder


def test_the_cohort_is_whole(cohort: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = document(["check", str(cohort)], capsys)
    assert [defect for defect in found["defects"] if defect["level"] == "error"] == []
    assert main(["check", str(cohort)]) == 0
    assert f"Next: comodal init unet {cohort} --out config.yaml" in capsys.readouterr().out


def test_index_counts_what_is_there(cohort: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "again.csv"
    found = document(["index", "brats", str(cohort.parent / "files"), "--out", str(out)], capsys)
    assert found["subjects"] == 6
    assert found["present"] == {"t1": 6, "t1ce": 6, "t2": 6, "flair": 6}
    assert out.is_file() and out.with_suffix(".yaml").is_file()


def test_check_names_a_damaged_file_and_fails(cohort: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    copy = copied(cohort, tmp_path / "damaged")
    subject, file = sorted(cells(copy, "t2").items())[0]
    file.write_bytes(file.read_bytes()[:-50])
    found = document(["check", str(copy)], capsys, code=2)
    (defect,) = [defect for defect in found["defects"] if defect["level"] == "error"]
    assert defect["subject"] == subject and defect["modality"] == "t2" and defect["file"].endswith(file.name)


def test_init_prints_where_no_file_is_named(cohort: Path, capsys: pytest.CaptureFixture[str]) -> None:
    capsys.readouterr()
    assert main(["init", "unet", str(cohort)]) == 0
    text = capsys.readouterr().out
    assert "method:" in text and "name: unet" in text and "#" in text


def test_training_says_its_best_value_and_what_to_type_next(
    run: Path, config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    capsys.readouterr()
    assert main(["train", str(config), "--out", str(run), "--device", "cpu", *TINY, "--resume"]) == 0  # it is done already
    lines = capsys.readouterr().out.splitlines()
    assert any(line.startswith("Best validation of stage train: ") for line in lines)
    assert lines[-1] == f"Next: comodal evaluate {run}"


def test_evaluate_gives_one_table_over_all_subsets(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = document(["evaluate", str(run), "--device", "cpu"], capsys)
    lost = found.pop("minus_all")
    assert found == json.loads((run / "results" / "test.json").read_text(encoding="utf-8"))
    assert [entry["present"] for entry in lost] == [row["present"] for row in found["subsets"][:-1]]
    assert {(entry["method"], entry["metric"]) for entry in lost} == {("moddrop", "DSC/mean")}
    assert found["schema"] == 1 and found["method"] == "moddrop" and found["split"] == "test"
    assert [len(row["present"]) for row in found["subsets"]] == [1] * 4 + [2] * 6 + [3] * 4 + [4]
    assert main(["evaluate", str(run), "--device", "cpu"]) == 0
    text = capsys.readouterr().out
    assert "DSC/WT" in text and "minus all" in text and f"Next: comodal report {run}" in text


def test_evaluate_takes_chosen_subsets(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = document(["evaluate", str(run), "--split", "val", "--subsets", "flair,t1;t2", "--device", "cpu"], capsys)
    assert sorted(sorted(row["present"]) for row in found["subsets"]) == [["flair", "t1"], ["t2"]]
    assert found["minus_all"] is None  # nothing was predicted from all modalities


def test_predict_writes_labels_in_the_geometry_of_the_input(
    run: Path, cohort: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flair, t1ce = (sorted(cells(cohort, name).values())[0] for name in ("flair", "t1ce"))
    words = ["predict", str(run), "--input", f"t1ce={t1ce}", "--input", f"flair={flair}", "--device", "cpu"]
    found = document([*words, "--out", str(tmp_path)], capsys)
    (written,) = found["predictions"]
    assert sorted(written["used"]) == ["flair", "t1ce"]
    (file,) = written["files"]
    labels, image = nib.Nifti1Image.from_filename(file), nib.Nifti1Image.from_filename(flair)
    assert labels.shape == image.shape
    np.testing.assert_array_equal(labels.affine, image.affine)
    assert set(np.unique(np.asarray(labels.dataobj))) <= {0, 1, 2, 4}


def test_predict_writes_regions_and_probabilities_on_request(
    run: Path, cohort: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flair = sorted(cells(cohort, "flair").values())[0]
    words = ["predict", str(run), "--input", f"flair={flair}", "--out", str(tmp_path), "--device", "cpu"]
    (written,) = document([*words, "--regions", "--probabilities"], capsys)["predictions"]
    assert len(written["files"]) == 7  # labels, and each of WT, TC and ET twice
    assert all(Path(file).is_file() for file in written["files"])


def test_report_is_one_page(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page = tmp_path / "page.html"
    assert document(["report", str(run), "--out", str(page)], capsys)["page"] == page.as_posix()
    text = page.read_text(encoding="utf-8")
    assert text.lstrip().lower().startswith("<!doctype html>") and "moddrop" in text


def test_study_compares_and_goes_on(cohort: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    study = tmp_path / "study.yaml"
    tiny = "{width: 4, levels: 2, steps: 2}"
    study.write_text(
        f"cohort: {cohort}\n"
        f"methods: [{{name: unet, config: {tiny}}}, {{name: moddrop, config: {tiny}}}]\n"
        "data: {spatial_dims: 3, patch: [32, 32, 16]}\n"
        "training: {batch_size: 1, validations: 0, device: cpu, threads: 1}\n",
        encoding="utf-8",
    )
    found = document(["study", str(study), "--out", str(tmp_path / "out")], capsys)
    assert set(found["runs"]) == set(found["results"]) == {"unet", "moddrop"} and found["reference"] == "unet"
    assert Path(found["table"]).is_file() and Path(found["page"]).is_file() and Path(found["drop_table"]).is_file()
    weights = [Path(folder, "weights.safetensors") for folders in found["runs"].values() for folder in folders]
    times = [file.stat().st_mtime_ns for file in weights]
    assert document(["study", str(study), "--out", str(tmp_path / "out")], capsys) == found
    assert [file.stat().st_mtime_ns for file in weights] == times  # nothing was trained again
    assert found["further_tables"] == {}
    with study.open("a", encoding="utf-8") as file:
        file.write("against: [moddrop]\n")
    again, path = (
        document(["study", str(study), "--out", str(tmp_path / "out")], capsys),
        tmp_path / "out/table-minus-moddrop.md",
    )
    assert again["further_tables"] == {"moddrop": path.as_posix()} and path.is_file()
    assert main(["study", str(study), "--out", str(tmp_path / "out")]) == 0
    assert f"Table of the differences from moddrop: {path}" in "".join(capsys.readouterr().out.splitlines())


def test_a_process_of_its_own_prints_one_document(run: Path, cohort: Path, tmp_path: Path) -> None:
    flair = sorted(cells(cohort, "flair").values())[0]
    words = ["predict", str(run), "--input", f"flair={flair}", "--out", str(tmp_path), "--device", "cpu", "--json"]
    done = subprocess.run([sys.executable, "-m", "comodal", *words], capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["predictions"][0]["used"] == ["flair"]


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["evaluate", "{run}", "--use", "flar"], "Did you mean flair?"),
        (["predict", "{run}", "--out", "{tmp}", "--cohort", "{cohort}", "--use", "flar"], "Did you mean flair?"),
        (["predict", "{run}", "--out", "{tmp}", "--input", "t3={flair}"], "t3"),
        (["predict", "{run}", "--out", "{tmp}", "--input", "flair={tmp}/none.nii.gz"], "none.nii.gz"),
        (["evaluate", "{tmp}"], "RUN must be a run folder with a config.yaml"),
        (["evaluate", "{run}", "--split", "tset"], "test"),
        (["evaluate", "{run}", "--subsets", "flar"], "flair"),
        (["train", "{tmp}/none.yaml", "--out", "{tmp}/r"], "none.yaml"),
        (["train", "{config}", "--out", "{tmp}/r", "--set", "method.widht=8"], "Did you mean width?"),
        (["train", "{config}", "--out", "{tmp}/r", "--set", "seed"], "--set must be of the form a.b=value; got 'seed'."),
        (["train", "{config}", "--out", "{tmp}/r", "--set", "data.modalities=[flar]"], "Did you mean flair?"),
        (["init", "unet", "{tmp}/none.csv"], "none.csv"),
        (["index", "brats", "{tmp}/none", "--out", "{tmp}/c.csv"], "none"),
        (["report", "{tmp}", "--out", "{tmp}/page.html"], "run"),
    ],
)
def test_a_mistake_is_one_message(
    words: list[str],
    text: str,
    run: Path,
    config: Path,
    cohort: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    flair = sorted(cells(cohort, "flair").values())[0]
    places = {"run": run, "tmp": tmp_path, "cohort": cohort, "config": config, "flair": flair}
    capsys.readouterr()
    code = main([word.format(**places) for word in words])
    captured = capsys.readouterr()
    assert code == 2, captured.err
    assert captured.out == ""
    assert captured.err.startswith("Error: ") and text in captured.err and "Traceback" not in captured.err


def copied(cohort: Path, folder: Path) -> Path:
    """A copy of a cohort with its files."""
    import shutil

    shutil.copytree(cohort.parent, folder)
    return folder / cohort.name


def test_check_names_a_method_for_such_targets(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cohort = reading_room.write_cohort(tmp_path, cases=6)
    assert main(["check", str(cohort)]) == 0
    assert f"Next: comodal init classifier {cohort} --out config.yaml" in capsys.readouterr().out
