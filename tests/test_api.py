"""What the functions of a notebook write, and what they must never write over."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from tests.training.fakes import config_for, values_for, write_cohort, write_config

from comodal import api
from comodal.cli.main import main
from comodal.config import load_config
from comodal.data.cohort import Cohort
from comodal.errors import ComodalError, ConfigError
from comodal.run import Run
from comodal.training.events import Event, Progress
from comodal.training.train import train_run

SMALL: dict[str, Any] = {"cases": 2, "size": 48, "seed": 3}


def contents(folder: Path) -> dict[str, bytes]:
    return {file.relative_to(folder).as_posix(): file.read_bytes() for file in sorted(folder.rglob("*")) if file.is_file()}


# ------------------------------------------------------------------------------------------------------------------- index
@pytest.fixture
def table(tmp_path: Path) -> Path:
    """A user's own table with its files."""
    write_cohort(tmp_path / "data", cases=2)
    file = tmp_path / "data" / "patients.csv"
    file.write_text("subject,a,seg\n01,p0/a.nii,p0/seg.nii\n02,p1/a.nii,p1/seg.nii\n")
    return file


def test_index_does_not_write_over_files(table: Path, tmp_path: Path) -> None:
    out = tmp_path / "out" / "cohort.csv"
    api.index("csv", table, out)
    before = contents(out.parent)
    with pytest.raises(ConfigError) as caught:
        api.index("csv", table, out)
    do = "Choose another name, or add --overwrite to write the cohort anew."
    assert str(caught.value) == f"--out must be a new file; got one that is there [file {out}]. {do}"
    table.write_text(table.read_text().replace("01,", "001,"))
    assert contents(out.parent) == before
    assert api.index("csv", table, out, overwrite=True).ids == ("001", "02")


@pytest.mark.parametrize("name", ["mine.csv", "mine.yaml"])
def test_index_replaces_nothing_but_a_cohort(table: Path, tmp_path: Path, name: str) -> None:
    """A csv alone is somebody's table, and a yaml may be a configuration."""
    mine = tmp_path / name
    mine.write_text("method: {name: unet}\n")
    for overwrite, do in (
        (False, "add --overwrite"),
        (True, "--overwrite replaces a cohort, a csv with its yaml, and nothing"),
    ):
        with pytest.raises(ConfigError, match=rf"--out must be a new file; got one that is there \[file .*{name}\]\..*{do}"):
            api.index("csv", table, tmp_path / "mine.csv", overwrite=overwrite)
    assert mine.read_text() == "method: {name: unet}\n"


@pytest.mark.parametrize("overwrite", [[], ["--overwrite"]])
def test_index_never_writes_over_the_table_that_it_reads(
    table: Path, overwrite: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    before = table.read_bytes()
    monkeypatch.chdir(table.parent)
    for words in (["patients.csv", "--out", "patients.csv"], ["patients.csv", "--out", str(table)]):
        assert main(["index", "csv", *words, *overwrite]) == 2
        text = " ".join(capsys.readouterr().err.split())
        assert "--out must be another file than the table that is read" in text and "for instance cohort.csv" in text
    assert table.read_bytes() == before and not table.with_suffix(".yaml").exists()


# ----------------------------------------------------------------------------------------------------------- phantom, demo
@pytest.fixture(scope="module")
def phantom(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return api.phantom("brain", tmp_path_factory.mktemp("phantom"), **SMALL).parent


def test_a_phantom_is_written_again_but_nothing_else_is(phantom: Path) -> None:
    before = contents(phantom)
    api.phantom("brain", phantom, **SMALL)
    assert contents(phantom) == before
    cohort = phantom / "cohort.csv"
    edited = cohort.read_text().replace(",BraTS20_Training_001,", ",group-of-mine,")
    assert edited != cohort.read_text()
    cohort.write_text(edited)
    with pytest.raises(ConfigError, match=r"--out must hold no changed cohort; got one \[file .*cohort.csv\]"):
        api.phantom("brain", phantom, **SMALL)
    assert cohort.read_text() == edited
    cohort.unlink()  # as it is where the first call was killed
    api.phantom("brain", phantom, **SMALL)
    assert contents(phantom) == before


@pytest.mark.parametrize("call", ["phantom", "demo"])
@pytest.mark.parametrize("name", ["cohort.csv", "cohort.yaml", "both"])
def test_a_foreign_cohort_is_not_taken_for_a_phantom(tmp_path: Path, call: str, name: str) -> None:
    write_cohort(tmp_path, cases=1)
    for other in {"cohort.csv", "cohort.yaml"} - {name} if name != "both" else ():
        (tmp_path / other).unlink()
    before = contents(tmp_path)
    with pytest.raises(ConfigError) as caught:
        api.phantom("brain", tmp_path, **SMALL) if call == "phantom" else api.demo(tmp_path)
    file = tmp_path / ("cohort.csv" if name == "both" else name)
    expected = f"--out must hold no cohort but that of the brain phantom; got one [file {file}]. Choose another folder."
    assert str(caught.value) == expected
    assert contents(tmp_path) == before


# ------------------------------------------------------------------------------------------------------------- init, check
@pytest.mark.parametrize("name", ["it's: a #cohort.csv", "-plain.csv", "no.csv", "ünï cohort.csv"])
@pytest.mark.parametrize("place", ["", "configs", "../up"])
def test_init_names_the_cohort_from_its_own_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, place: str
) -> None:
    """Whatever characters are in the path, and wherever the configuration goes."""
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    Cohort.load(write_cohort(tmp_path / "here" / "data", cases=4)).save(tmp_path / "here" / name)
    out = Path(place) / "config.yaml"
    made = api.init("unet", f"./{name}", out=out, minutes=0.001)
    assert Path(load_config(out).cohort).samefile(tmp_path / "here" / name)
    assert yaml.safe_load(out.read_text(encoding="utf-8"))["cohort"] == made.config.cohort
    assert out.read_text(encoding="utf-8") == made.text
    with pytest.raises(ConfigError, match="--out must be a new file"):
        api.init("unet", name, out=out)


def test_check_says_how_far_it_is(tmp_path: Path) -> None:
    said: list[Event] = []
    assert api.check(write_cohort(tmp_path, cases=3), on_event=said.append).ok
    done = [(event.what, event.done, event.total) for event in said if isinstance(event, Progress)]
    assert done == [("checking", k, 3) for k in (1, 2, 3)]
    assert isinstance(said[-1], Progress) and said[-1].seconds_left == 0


# ------------------------------------------------------------------------------------------------------------------- train
def test_training_goes_into_no_folder_of_the_user(tmp_path: Path) -> None:
    cohort = write_cohort(tmp_path / "data")
    write_config(cohort.parent / "mine.yaml", values_for(cohort))
    before = contents(cohort.parent)
    for resume in (False, True):
        with pytest.raises(
            ConfigError, match=r"--out must be a new folder, an empty one or a run; got one that holds .*cohort"
        ):
            api.train(cohort.parent / "mine.yaml", out=cohort.parent, resume=resume)
    assert contents(cohort.parent) == before


@pytest.mark.parametrize("given", [False, True])
def test_a_trained_and_evaluated_run_holds_no_images(tmp_path: Path, given: bool) -> None:
    """A folder that data.cache names is the user's, and stays; without one nothing stays but the examples."""
    cohort = write_cohort(tmp_path / "data")
    more: dict[str, Any] = {"data": {"cache": str(tmp_path / "mine")}} if given else {}
    seen: list[bool] = []
    run = train_run(config_for(cohort, steps=2, **more), tmp_path / "run", emit=lambda _: seen.append(cached(tmp_path)))
    assert any(seen), "arrays are cached while it is trained"
    kept = contents(tmp_path / "mine") if given else {}
    assert bool(kept) == given
    api.evaluate(run, device="cpu")
    assert (contents(tmp_path / "mine") if given else {}) == kept  # evaluation was not told of it
    names = sorted(os.listdir(run.path))
    assert not [name for name in names if name.startswith("cache")]
    arrays = [file for file in contents(run.path) if file.endswith((".npy", ".npz"))]
    assert arrays and all(file.startswith("examples/") for file in arrays)


def cached(root: Path) -> bool:
    return any(any(root.glob(pattern)) for pattern in ("run/cache/*/*.npy", "mine/*/*.npy"))


def test_a_cache_that_a_kill_left_behind_goes_with_the_next_resume(tmp_path: Path) -> None:
    config = config_for(write_cohort(tmp_path / "data"), steps=2)
    run = train_run(config, tmp_path / "run")
    (run.path / "cache" / "ab").mkdir(parents=True)
    np.save(run.path / "cache" / "ab" / "ab.npy", np.zeros(3))
    train_run(config, tmp_path / "run", resume=True)
    assert not (run.path / "cache").exists()


def test_a_run_of_somebody_else_writes_nowhere_else(tmp_path: Path) -> None:
    run = train_run(config_for(write_cohort(tmp_path / "data"), steps=2), tmp_path / "run")
    file = run.path / "config.yaml"
    values = yaml.safe_load(file.read_text())
    file.write_text(yaml.safe_dump({**values, "data": {**values["data"], "cache": str(tmp_path / "victim")}}))
    assert Run.load(run.path).config.data.cache == str(tmp_path / "victim")
    api.evaluate(run.path, device="cpu")
    api.predict(run.path, cohort=tmp_path / "data" / "cohort.csv", out=tmp_path / "out", device="cpu")
    assert not (tmp_path / "victim").exists()


# ------------------------------------------------------------------------------------------------------------ command line
def test_a_subject_goes_with_one_patient(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["predict", "run", "--cohort", "c.csv", "--subject", "anna", "--out", str(tmp_path)]
    assert main(words) == 2
    assert "--subject must go with --input; got 'anna'. Leave it out: the cohort names its cases." in capsys.readouterr().err


def test_predict_takes_subject_and_overwrite(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = train_run(config_for(write_cohort(tmp_path / "data"), steps=2), tmp_path / "run")
    words = [
        "predict",
        str(run.path),
        "--input",
        f"a={tmp_path / 'data' / 'p0' / 'a.nii'}",
        "--subject",
        "anna",
        "--device",
        "cpu",
    ]
    words += ["--out", str(tmp_path / "out")]
    assert main(words) == 0
    assert [file.name for file in (tmp_path / "out").iterdir()] == ["anna_seg.nii.gz"]
    assert main(words) == 2
    assert "add --overwrite to replace earlier predictions" in " ".join(capsys.readouterr().err.split())
    assert main([*words, "--overwrite"]) == 0


def test_one_message_for_what_cannot_be_found() -> None:
    with pytest.raises(ComodalError):
        api.check("none.csv")
