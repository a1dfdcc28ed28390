"""`comodal join` as a user types it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from comodal.cli.main import main
from comodal.data.cohort import Cohort

DATA = Path(__file__).resolve().parents[3] / "shared" / "data"
HEAD = "case,Patient,roi_files,gender,age_at_initial_pathologic,idh_mutation,codeletion_1p19q\n"


def folders(root: Path) -> tuple[str, str]:
    """MRI of two patients and regions of one of them, as the layouts have them; as words of the command line."""
    random = np.random.default_rng(0)
    for case in ("TCGA_CS_0001_19990101", "TCGA_CS_0002_19990101"):
        (root / "kaggle_3m" / case).mkdir(parents=True)
        for number in (1, 2):
            pixels = random.integers(0, 256, (6, 8, 3)).astype(np.uint8)
            Image.fromarray(pixels).save(root / "kaggle_3m" / case / f"{case}_{number}.tif")
            Image.fromarray(pixels[..., 0] * 0).save(root / "kaggle_3m" / case / f"{case}_{number}_mask.tif")
    (root / "slides" / "roi").mkdir(parents=True)
    Image.fromarray(random.integers(0, 256, (8, 8, 3)).astype(np.uint8)).save(root / "slides" / "roi" / "a.png")
    row = "TCGA_CS_0002_19990101,TCGA_CS_0002,a.png,2.0,40,1,0\n"
    (root / "slides" / "radpath_pairs.csv").write_text(HEAD + row)
    return f"lgg-mri:{root / 'kaggle_3m'}", f"glioma-pathology:{root / 'slides'}"


def test_one_command_joins_two_folders(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "pairs.csv"
    assert main(["join", *folders(tmp_path), "--out", str(out), "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["layout"] == "lgg-mri+glioma-pathology"
    assert (document["cases"], document["complete"]) == (1, 1)
    assert document["present"] == {"t1": 1, "flair": 1, "t1ce": 1, "pathology": 1}
    cohort = Cohort.load(out)
    assert cohort.cases[0].cells["pathology"] == "slides/roi/a.png" and cohort.cases[0].cells["molecular"] == "A"
    main(["check", str(out), "--json"])
    defects = json.loads(capsys.readouterr().out)["defects"]
    assert not [defect for defect in defects if defect["level"] == "error" and defect["file"]]  # every file can be read


def test_for_people_with_options_and_cohorts(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    mri, slides = folders(tmp_path)
    assert main(["index", "lgg-mri", mri.partition(":")[2], "--out", str(tmp_path / "mri.csv")]) == 0
    capsys.readouterr()
    words = ["join", str(tmp_path / "mri.csv"), slides, "--out", str(tmp_path / "all.csv"), "--keep", "all"]
    assert main([*words, "--set", "glioma-pathology.clinical=true"]) == 0
    text = capsys.readouterr().out
    assert "2 cases, 1 with every modality" in text and "note: joined lgg-mri and glioma-pathology: 1 cases in both" in text
    assert Cohort.load(tmp_path / "all.csv").cases[1].cells["clinical"] == "0.4;1"


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["{0}", "--out", "x.csv"], "join must be given two cohorts or more; got 1."),
        (["{0}", "lgg-mry:{root}", "--out", "x.csv"], "layout must be a known layout; got 'lgg-mry'. Did you mean lgg-mri"),
        (
            ["{0}", "{1}", "--out", "x.csv", "--on", "patient"],
            "--on must be a known word; got 'patient'. Known: auto, group, subject.",
        ),
        (["{0}", "{1}", "--out", "x.csv", "--keep", "some"], "--keep must be a known word; got 'some'. Known: all, both."),
        (
            ["{0}", "{1}", "--out", "x.csv", "--set", "clinical=true"],
            "--set must be for a layout that is joined; got 'clinical'.",
        ),
        (["{0}", "{1}", "--out", "x.csv", "--set", "lgg-mri=1"], "--set must be LAYOUT.KEY=VALUE; got lgg-mri=1."),
        (["{0}", "{1}", "--out", "x.txt"], "cohort must be saved as .csv; got x.txt."),
        (["{0}", "none.csv", "--out", "x.csv"], "table must be a readable CSV file; got No such file or directory"),
    ],
)
def test_mistakes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], words: list[str], text: str
) -> None:
    monkeypatch.chdir(tmp_path)
    given = folders(tmp_path)
    assert main(["join", *(word.format(*given, root=tmp_path) for word in words)]) == 2
    assert capsys.readouterr().err.startswith(f"Error: {text}")
    assert not (tmp_path / "x.csv").exists()


@pytest.mark.skipif(not (DATA / "glioma_pathology").is_dir(), reason="the real data sets are not here")
def test_the_real_pairs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sources = [f"lgg-mri:{DATA / 'lgg_mri' / 'kaggle_3m'}", f"glioma-pathology:{DATA / 'glioma_pathology'}"]
    assert main(["join", *sources, "--out", str(tmp_path / "pairs.csv"), "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["cases"] == 74 and document["present"]["pathology"] == document["present"]["flair"] == 74
