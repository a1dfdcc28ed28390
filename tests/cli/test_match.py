"""`comodal match` on squares with sentences: numbers, files, figures, refusals."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from PIL import Image
from tests.methods.reading_room import config_for, write_cohort

from comodal import api
from comodal.cli.main import main
from comodal.evaluation.matching import MatchResults
from comodal.training.train import train_run

SMALL: dict[str, Any] = {"words": 8, "text_channels": 8, "text_blocks": 0, "critic": [16], "steps": 2, "pretrain_steps": 4}
PROMPTS = {"findings": {"nodule": {"positive": ["A nodule is seen."], "negative": ["No nodule."]}}}
PLACES = {
    0: ("A nodule is seen in the left upper zone.", "nodule", "0.25"),
    1: ("There is a right effusion.", "effusion", "0.75"),
}


@pytest.fixture(scope="module")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twenty-four cases; beside them prompts and phrases."""
    file = write_cohort(tmp_path_factory.mktemp("cohort"))
    (file.parent / "ask.yaml").write_text(yaml.safe_dump(PROMPTS))
    rows = [f"p{n},{said},{name},{at},{at}" for n in range(24) for bit, (said, name, at) in PLACES.items() if n >> bit & 1]
    (file.parent / "phrases.csv").write_text("\n".join(["subject,sentence,finding,x,y", *rows]) + "\n")
    return file


@pytest.fixture(scope="module")
def run(cohort: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A few steps of local-mi."""
    folder = tmp_path_factory.mktemp("runs") / "local"
    return train_run(config_for(cohort, "local-mi", "frontal", "report", **SMALL), folder).path


def document(words: list[str], capsys: pytest.CaptureFixture[str], *, code: int = 0) -> Any:
    """What the command gives to machines."""
    capsys.readouterr()
    assert main(["match", *words, "--device", "cpu", "--json"]) == code
    return json.loads(capsys.readouterr().out)


def test_all_three_tables(run: Path, cohort: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files = ["--prompts", str(cohort.parent / "ask.yaml"), "--phrases", str(cohort.parent / "phrases.csv")]
    found = document([str(run), "--split", "all", *files, "--out", str(tmp_path / "figures"), "--subject", "p3"], capsys)
    file = run / "matching" / "all.prompts-ask.phrases-phrases.json"
    assert found["file"] == file.as_posix() and found["split"] == "all.prompts-ask.phrases-phrases"
    saved = json.loads(MatchResults.load(file).to_json())
    assert saved == {name: value for name, value in found.items() if name not in ("file", "figures")}
    # Eight of 24 have no report: they are read for the prompts and phrases alone.
    assert found["retrieval"]["image to report"]["recall@1"]["n"] == 16
    assert any("8 of 24 cases have no report" in note for note in found["notes"])
    assert "4 distinct reports among 16" in " ".join(found["notes"])
    cell = found["zero_shot"]["AUROC/findings/nodule"]
    assert cell["n_pos"] + cell["n_neg"] == cell["n"] == 19 and 0 <= cell["value"] <= 1 and found["prompts"] == "ask.yaml"
    assert found["grid"] == [2, 2] and list(found["grounding"]) == ["all", "effusion", "nodule"]
    row = found["grounding"]["all"]
    assert (
        row["hits"]["n"] == 24
        and row["hits"]["chance"] == 0.25
        and row["constant"] == 0.5 == 0.5 * found["constant_by_finding"]
    )
    assert found["figures"] == [(tmp_path / "figures" / "p3.png").as_posix()]
    with Image.open(tmp_path / "figures" / "p3.png") as picture:
        assert picture.format == "PNG" and picture.width > 600


def test_a_second_call_gives_the_same_and_raw_scores_have_a_name_of_their_own(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first, again = (document([str(run), "--split", "all"], capsys) for _ in range(2))
    assert first == again and first["split"] == "all" and first["zero_shot"] and first["prompts"] == "default"
    raw = document([str(run), "--split", "all", "--raw"], capsys)
    assert raw["split"] == "all.raw" and raw["conventions"]["scores"] != first["conventions"]["scores"]
    assert not first["grounding"] and first["phrases"] == ""
    off = document([str(run), "--split", "all", "--contrasted"], capsys)  # what this run's training leaves free, by name
    assert off["split"] == "all.contrasted" and off["conventions"] == first["conventions"]
    assert off["retrieval"] == first["retrieval"] != raw["retrieval"]


def test_as_people_read_it(run: Path) -> None:
    words = [sys.executable, "-m", "comodal", "match", str(run), "--split", "train", "--device", "cpu"]
    done = subprocess.run(words, check=False, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert "Retrieval (chance)" in done.stdout and "image to report" in done.stdout and "train.json" in done.stdout
    assert "Scores: of a sentence at a region" in " ".join(done.stdout.split())


def test_another_cohort_without_labels(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    other = write_cohort(tmp_path / "other", 9)
    text = (other.parent / "cohort.yaml").read_text()
    values = yaml.safe_load(text)
    values["targets"] = []
    (other.parent / "cohort.yaml").write_text(yaml.safe_dump(values))
    lines = [line.split(",") for line in other.read_text().splitlines()]
    at = lines[0].index("findings")
    other.write_text("\n".join(",".join(cell for n, cell in enumerate(line) if n != at) for line in lines) + "\n")
    found = document([str(run), "--cohort", str(other)], capsys)
    assert found["retrieval"]["image to report"]["recall@1"]["n"] == 6 and not found["zero_shot"]
    assert any("no case has the label findings" in note for note in found["notes"])
    assert any("of 9 cases are called like patients of the training" in note for note in found["notes"])


def test_what_is_refused(run: Path, cohort: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "bad.yaml").write_text(yaml.safe_dump({"findings": {"nodul": PROMPTS["findings"]["nodule"]}}))
    (tmp_path / "odd.yaml").write_text("findings: {nodule: {positive: []}}")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "notes.txt").write_text("mine")
    phrases = str(cohort.parent / "phrases.csv")
    for words, text in [
        (["--prompts", str(tmp_path / "bad.yaml")], "got 'nodul'. Did you mean nodule?"),
        (["--prompts", str(tmp_path / "odd.yaml")], "--prompts must be {target: {class: {positive: [sentences]"),
        (["--prompts", str(tmp_path / "none.yaml")], "--prompts must be a file that exists"),
        (["--subject", "p3"], "--subject must go with --out"),
        (["--subject", "p99", "--out", str(tmp_path / "new")], "--subject must name a case with an image; got 'p99'."),
        (["--out", str(tmp_path / "full")], "--out must be a new or empty folder; got one that holds notes.txt"),
        (["--phrases", str(tmp_path / "none.csv")], "table must be a readable CSV file"),
        (["--split", "tset"], "Did you mean test?"),
        (["--split", "val", "--phrases", phrases, "--device", "gpu"], "--device must be auto, cpu or cuda"),
    ]:
        capsys.readouterr()
        assert main(["match", str(run), *words]) == 2
        assert text in " ".join(capsys.readouterr().err.split()), words
    assert (tmp_path / "full" / "notes.txt").read_text() == "mine" and not (tmp_path / "new").exists()


def test_methods_that_do_not_match_and_those_without_regions(
    run: Path, cohort: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plain = train_run(config_for(cohort, "classifier", "frontal", steps=1), tmp_path / "plain").path
    assert main(["match", str(plain)]) == 2
    text = " ".join(capsys.readouterr().err.split())
    assert "RUN's method must be one that scores how well an image and a report belong together; got Classifier." in text
    assert "local-mi" in text
    wholes = train_run(config_for(cohort, "local-mi", "frontal", "report", level="global", **SMALL), tmp_path / "wholes").path
    found = document([str(wholes), "--split", "all", "--out", str(tmp_path / "figures")], capsys)
    assert found["grid"] == [] and found["figures"] == [] and any("No figures" in note for note in found["notes"])
    assert main(["match", str(wholes), "--split", "all", "--phrases", str(cohort.parent / "phrases.csv")]) == 2
    assert "RUN must score sentences at regions" in capsys.readouterr().err
    assert main(["explain", str(run), "--split", "test", "--out", str(tmp_path / "explained")]) == 2
    assert "type comodal match RUN --out DIR" in " ".join(capsys.readouterr().err.split())


def test_from_a_notebook(run: Path, tmp_path: Path) -> None:
    found = api.match(run, split="all", out=tmp_path / "few", device="cpu")
    assert found.file.is_file() and len(found.figures) == 6 and all(file.is_file() for file in found.figures)
