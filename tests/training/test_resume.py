"""`kill -9` at any moment, then `--resume`: byte for byte the run that nobody killed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.training.fakes import config_for, register, values_for, write_config

from comodal.config import load_config
from comodal.errors import ConfigError, RunError
from comodal.run import Run
from comodal.training.checkpoint import load_checkpoint
from comodal.training.events import Event, Progress, Said
from comodal.training.train import train_run

ROOT = Path(__file__).resolve().parents[2]


JOBS: dict[tuple[str, str], dict[str, Any]] = {
    ("unet", "timed"): {"steps": 40, "training": {"validations": 4, "checkpoint_steps": 4}},
    ("moddrop", "timed"): {"steps": 40, "training": {"validations": 4, "checkpoint_steps": 4}},
    # so tight a clip that a gradient left over from the first stage would change the second
    ("two-stage", "timed"): {"method": {"first": 20, "second": 20}, "training": {"checkpoint_steps": 4, "clip": 1e-3}},
    ("moddrop", "counted"): {"steps": 6},
    ("two-stage", "counted"): {},
}


@pytest.fixture(scope="module")
def killed(cohort: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, str], tuple[Path, dict[str, Any]]]:
    """{method, way: (folder, what `killing.py` says)}; folder/whole was left alone, folder/killed was not."""
    folders = {job: tmp_path_factory.mktemp("-".join(job)) for job in JOBS}
    for (name, how), folder in folders.items():
        write_config(folder / "config.yaml", values_for(cohort, name, **JOBS[name, how]))
    jobs = [[str(folder), seed, how] for seed, ((_, how), folder) in enumerate(folders.items())]
    words = [sys.executable, "-m", "tests.training.killing", json.dumps(jobs)]
    paths = os.pathsep.join([str(ROOT), str(ROOT / "src")])
    environment = {**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(words, capture_output=True, text=True, cwd=ROOT, env=environment, check=False, timeout=300)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert all(item["whole"] == 0 for item in found), done.stderr
    return {job: (folders[job], item) for job, item in zip(folders, found, strict=True)}


def same(out: Path) -> None:
    """All that a training leaves is the same, but for how long it took."""
    for file in ("weights.safetensors", "metrics.jsonl", "config.yaml", "splits.json", "preprocessing.json", "cohort.csv"):
        assert (out / "killed" / file).read_bytes() == (out / "whole" / file).read_bytes(), file
    one, two = (json.loads((out / run / "environment.json").read_text()) for run in ("killed", "whole"))
    for key in ("training_seconds", "training_cpu_seconds"):
        del one[key], two[key]
    assert one == two
    assert not list((out / "killed").glob(".*.partial"))


@pytest.mark.parametrize("name", ["unet", "moddrop", "two-stage"])
def test_killed_at_random_moments(killed: dict[tuple[str, str], tuple[Path, dict[str, Any]]], name: str) -> None:
    folder, found = killed[name, "timed"]
    assert found["kills"] >= 3 and found["ends"][-1] == 0
    same(folder)


@pytest.mark.parametrize("name", ["moddrop", "two-stage"])
def test_killed_at_every_kind_of_file_operation(killed: dict[tuple[str, str], tuple[Path, dict[str, Any]]], name: str) -> None:
    folder, found = killed[name, "counted"]  # six replacements make the run folder, and each checkpoint has four
    assert found["kills"] >= 8 and found["ends"][-1] == 0
    same(folder)


class Stop(Exception):
    """Thrown by a listener in the middle of a training."""


def stopping(error: type[BaseException], step: int) -> Callable[[Event], None]:
    def listen(event: Event) -> None:
        if isinstance(event, Progress) and event.what.startswith("training") and event.done == step:
            raise error

    return listen


def test_ctrl_c_leaves_a_run_that_can_be_resumed(cohort: Path, tmp_path: Path) -> None:
    config = config_for(cohort, "moddrop")
    train_run(config, tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        train_run(config, tmp_path / "killed", emit=stopping(KeyboardInterrupt, 5))
    checkpoint = load_checkpoint(tmp_path / "killed" / "resume")
    assert checkpoint is not None and checkpoint.step == 4  # validated after 4 of 8 steps
    with pytest.raises(RunError, match=r"RUN must have been trained to its end; got no weights.safetensors"):
        Run.load(tmp_path / "killed").method()
    train_run(config, tmp_path / "killed", resume=True)
    same(tmp_path)


def test_the_seconds_of_all_sessions_count(cohort: Path, tmp_path: Path) -> None:
    config = config_for(cohort)
    with pytest.raises(Stop):
        train_run(config, tmp_path / "run", emit=stopping(Stop, 5))
    checkpoint = load_checkpoint(tmp_path / "run" / "resume")
    assert checkpoint is not None and checkpoint.info.seconds > 0
    file = tmp_path / "run" / "resume" / f"0-{checkpoint.step}" / "state.json"
    state = json.loads(file.read_text())
    file.write_text(json.dumps({**state, "info": {**state["info"], "seconds": 1000.0}}))
    train_run(config, tmp_path / "run", resume=True)
    known = json.loads((tmp_path / "run" / "environment.json").read_text())
    assert 1000 < known["training_seconds"] < 1500


def test_resuming_a_finished_run_does_nothing(cohort: Path, tmp_path: Path) -> None:
    config = config_for(cohort)
    train_run(config, tmp_path / "run")
    before = {path: path.stat().st_mtime_ns for path in sorted((tmp_path / "run").rglob("*"))}
    said: list[Event] = []
    train_run(config, tmp_path / "run", resume=True, emit=said.append)
    assert said == [Said("info", f"{tmp_path / 'run'} is already trained to its end")]
    assert {path: path.stat().st_mtime_ns for path in sorted((tmp_path / "run").rglob("*"))} == before


def test_a_run_is_not_overwritten(cohort: Path, tmp_path: Path) -> None:
    config = config_for(cohort)
    train_run(config, tmp_path / "run")
    before = (tmp_path / "run" / "weights.safetensors").read_bytes()
    with pytest.raises(ConfigError, match=r"--out must be a new folder; got a run \(.*\)\. Add --resume to go on"):
        train_run(config, tmp_path / "run")
    assert (tmp_path / "run" / "weights.safetensors").read_bytes() == before


def test_another_configuration_is_warned_of_and_not_taken(cohort: Path, tmp_path: Path) -> None:
    config = config_for(cohort)
    train_run(config, tmp_path / "whole")
    with pytest.raises(Stop):
        train_run(config, tmp_path / "killed", emit=stopping(Stop, 6))
    said: list[Event] = []
    other = load_config(cohort.parent / "config.yaml", ["training.seed=9", "training.precision=bf16-mixed", "method.rate=0.5"])
    train_run(other, tmp_path / "killed", resume=True, emit=said.append)
    assert Said("warning", "The run goes on with its own config.yaml; the one given differs.") in said
    same(tmp_path)


def test_the_same_configuration_is_not_warned_of(cohort: Path, tmp_path: Path) -> None:
    with pytest.raises(Stop):
        train_run(config_for(cohort), tmp_path / "run", emit=stopping(Stop, 2))
    said: list[Event] = []
    train_run(config_for(cohort), tmp_path / "run", resume=True, emit=said.append)
    assert not [event for event in said if isinstance(event, Said) and event.level == "warning"]
    left = [event.seconds_left for event in said if isinstance(event, Progress) and event.what == "training: train"]
    assert len(left) == 8 and left[-1] == 0 and all(seconds is not None and seconds >= 0 for seconds in left)


def test_weights_of_another_run_are_remembered(cohort: Path, tmp_path: Path) -> None:
    """Killed before its first regular checkpoint and resumed without naming the other run again."""
    register("tests.training.fakes")
    other = train_run(config_for(cohort, "unet"), tmp_path / "other")
    long = config_for(cohort, "moddrop", training={"checkpoint_steps": 100, "validations": 0})
    train_run(long, tmp_path / "whole", init=other.path)
    with pytest.raises(Stop):
        train_run(long, tmp_path / "killed", init=other.path, emit=stopping(Stop, 5))
    train_run(long, tmp_path / "killed", resume=True)
    same(tmp_path)
    train_run(long, tmp_path / "without")
    assert (tmp_path / "without" / "weights.safetensors").read_bytes() != (
        tmp_path / "whole" / "weights.safetensors"
    ).read_bytes()


def test_a_hostile_checkpoint_is_refused(cohort: Path, tmp_path: Path) -> None:
    """Whole in form, but of a stage, or of weights, that this method does not have."""
    config = config_for(cohort)
    with pytest.raises(Stop):
        train_run(config, tmp_path / "run", emit=stopping(Stop, 4))
    resume = tmp_path / "run" / "resume"
    file = resume / json.loads((resume / "latest.json").read_text())["checkpoint"] / "state.json"
    state = json.loads(file.read_text())
    file.write_text(json.dumps({**state, "stage": 7}))
    with pytest.raises(RunError, match=r"checkpoint must be of one of the 1 stages; got 7 \[file .*\]\. Start again"):
        train_run(config, tmp_path / "run", resume=True)
    file.write_text(json.dumps(state))
    (file.parent / "weights.safetensors").write_bytes((file.parent / "optimisers.safetensors").read_bytes())
    with pytest.raises(RunError, match=r"checkpoint must hold the weights of this method; got "):
        train_run(config, tmp_path / "run", resume=True)
