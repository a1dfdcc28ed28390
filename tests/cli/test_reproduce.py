"""`comodal reproduce` as a user types it: on a small phantom with a study of the user's own."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from comodal.cli.main import main
from comodal.study.published import TABLES, known_tables

STUDY = """\
cohort: cohort.csv
methods:
  - {name: unet, label: mean, config: {width: 2, levels: 2, steps: 2}}
  - {name: moddrop, label: cmim-seg, config: {width: 2, levels: 2, steps: 2}}
data: {modalities: [flair, t1ce], spatial_dims: 2, patch: [48, 48], regions: [ET], draws_per_case: 2}
against: [mean]
splits: {fractions: [0.4, 0.2, 0.4]}
training: {batch_size: 2, device: cpu, threads: 1, validations: 0}
"""


def comodal(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "comodal", *words], capture_output=True, text=True, check=False, timeout=300)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A phantom smaller than that of the table, and a study that takes a second."""
    out = tmp_path_factory.mktemp("reproduce")
    assert main(["phantom", "brain", "--out", str(out), "--cases", "5", "--size", "48"]) == 0
    (out / "study.yaml").write_text(STUDY)
    return out


def test_one_document_for_machines_and_the_same_table_for_people(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    done = comodal("reproduce", "cmim/table2", "--out", str(folder), "--json")
    assert done.returncode == 0, done.stderr
    assert f"{folder / 'study.yaml'} differs from the one that comes with comodal" in done.stderr
    assert "run 1 of 2" in done.stderr and "training: train: 2/2" in done.stderr
    found = json.loads(done.stdout)
    assert found["table"] == "cmim/table2" and found["source"] == TABLES["cmim/table2"].source
    assert found["synthetic"] is True and found["same_data"] is False and found["unit"] == "%"
    assert (found["cases"], found["published_cases"]) == (5, 274)
    assert found["files"]["table-minus-mean"] == (folder / "table-minus-mean.md").as_posix()
    assert len(found["lines"]) == 4 * 4
    first = found["lines"][0]
    assert (first["row"], first["present"], first["method"], first["published"]) == ("FLAIR", ["flair"], "cmim-seg", 23.37)
    assert first["ours"]["state"] == "value" and first["ours"]["n"] == 2 and first["ours"]["ci95"] is None
    assert {line["ours"]["state"] for line in found["lines"] if line["method"] == "hemis"} == {"not run"}
    assert {line["ours"]["state"] for line in found["lines"] if line["row"] == "T2"} == {"not run"}
    assert all(Path(file).is_file() for file in found["files"].values())

    capsys.readouterr()
    assert main(["reproduce", "cmim/table2", "--out", str(folder)]) == 0
    again = capsys.readouterr()
    assert "training: train" not in again.err
    assert "not comparable with the published column" in " ".join(again.out.split())
    assert "23.37" in again.out and "What each method got" in again.out
    assert again.out.endswith(f"Open the page in a browser: {folder / 'page.html'}\n")
    assert "23.37" in (folder / "reproduction.md").read_text(encoding="utf-8")


def test_an_unknown_table_names_the_known_ones(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["reproduce", "cmim/tabel2", "--out", str(tmp_path / "out")]) == 2
    text = capsys.readouterr().err
    assert text.startswith(
        "Error: TABLE must be a known table; got 'cmim/tabel2'. Did you mean cmim/table2 or cmim/table1? Known: ciml/beta, "
    )
    assert not (tmp_path / "out").exists()


def test_help_lists_the_tables(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["reproduce", "--help"]) == 0
    text = capsys.readouterr().out
    assert all(name in text for name in known_tables())
