"""Two gloo processes on one machine: the losses of one process, one run folder, one voice, and nobody left hanging."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from tests.training.fakes import config_for, values_for, write_cohort, write_config

from comodal.run import Run, read_weights
from comodal.training.train import train_run

ROOT = Path(__file__).resolve().parents[2]
pytestmark = pytest.mark.slow
FOUR = {"training": {"batch_size": 4, "threads": 1}}


def comodal(
    *words: str, launcher: tuple[str, ...] = ("-m", "comodal"), code: int = 0, kill: Path | None = None
) -> subprocess.CompletedProcess[str]:
    """What a command prints, as a user starts it; both processes are killed once the log `kill` has a few lines."""
    paths = os.pathsep.join([str(ROOT), str(ROOT / "src")])
    environment = {**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1"}
    words_ = [sys.executable, *launcher, *words]
    pipe = subprocess.PIPE
    process = subprocess.Popen(words_, stdout=pipe, stderr=pipe, text=True, cwd=ROOT, env=environment, start_new_session=True)
    try:
        while kill is not None and process.poll() is None:
            if kill.is_file() and kill.read_bytes().count(b"\n") >= 15:
                os.killpg(process.pid, signal.SIGKILL)
                break
            time.sleep(0.002)
        out, err = process.communicate(timeout=120)
    finally:
        with contextlib.suppress(ProcessLookupError):  # nobody is left behind, whatever went wrong
            os.killpg(process.pid, signal.SIGKILL)
    assert process.returncode == code, err
    return subprocess.CompletedProcess(words_, process.returncode, out, err)


def lines(run: Path, event: str) -> list[dict[str, Any]]:
    every = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [line for line in every if line["event"] == event]


def configured(cohort: Path, name: str = "unet", **more: Any) -> str:
    return str(write_config(cohort.parent / f"{name}.yaml", values_for(cohort, name, **{**FOUR, **more})))


def test_two_processes_make_the_steps_of_one(cohort: Path, tmp_path: Path) -> None:
    config = configured(cohort, steps=12)
    one = comodal("train", config, "--out", str(tmp_path / "one"), "--json")
    two = comodal("train", config, "--out", str(tmp_path / "two"), "--devices", "2", "--json")
    alone, together = (lines(tmp_path / run, "step") for run in ("one", "two"))
    assert [line["step"] for line in together] == list(range(12))  # one log, each line once
    for a, b in zip(alone, together, strict=True):
        assert b["terms"] == pytest.approx(a["terms"], rel=2e-4) and b["rates"] == a["rates"]
    assert together[-1]["loss"] != together[0]["loss"]
    for a, b in zip(*(lines(tmp_path / run, "validation") for run in ("one", "two")), strict=True):
        assert b["cases"] == a["cases"] and b["metrics"]["loss"] == pytest.approx(a["metrics"]["loss"], rel=2e-3)
    scores = [[line["metrics"]["DSC"] for line in lines(tmp_path / run, "validation")] for run in ("one", "two")]
    assert scores[1] == pytest.approx(scores[0], abs=0.02)
    weights = [read_weights(tmp_path / run / "weights.safetensors") for run in ("one", "two")]
    for name, tensor in weights[0].items():
        assert weights[1][name].numpy() == pytest.approx(tensor.numpy(), abs=2e-3)
    assert json.loads(two.stdout)["method"] == json.loads(one.stdout)["method"] == "unet"  # one document: rank 1 is silent
    assert two.stderr.count("validation after 12 steps") == 1
    for noise in ("Traceback", "destroy_process_group", "GLOBAL_RANK", "distributed_backend", "find_unused_parameters"):
        assert noise not in two.stderr, two.stderr


def test_torchrun_does_the_same(cohort: Path, tmp_path: Path) -> None:
    config = configured(cohort, training={**FOUR["training"], "devices": 2})
    launcher = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "-m", "comodal")
    done = comodal("train", config, "--out", str(tmp_path / "run"), launcher=launcher)
    assert len(lines(tmp_path / "run", "step")) == 8
    assert done.stdout.count("Run folder:") == 1 and "destroy_process_group" not in done.stderr


def test_a_mistake_is_one_message(cohort: Path, tmp_path: Path) -> None:
    config = configured(cohort, training={"batch_size": 3})
    done = comodal("train", config, "--out", str(tmp_path / "run"), "--devices", "2", code=2)
    text = "training.batch_size must be divisible by the number of processes (2); got 3. Choose 2."
    assert done.stderr.strip() == f"Error: {text}" and done.stdout == ""


@pytest.mark.parametrize("split", ["train", "val"])
def test_a_damaged_file_is_one_message(tmp_path: Path, split: str) -> None:
    """Whichever process meets it: the first one says it, both end, and nobody waits for the other."""
    table = write_cohort(tmp_path / "cohort")
    config = configured(table, steps=40)
    broken = Run.load(train_run(config_for(table, steps=1), tmp_path / "known").path).splits[split][0]
    file = table.parent / broken / "seg.nii"
    file.write_bytes(file.read_bytes()[:-200])
    done = comodal("train", config, "--out", str(tmp_path / "run"), "--devices", "2", code=2)
    assert done.stderr.count("Error:") == 1 and done.stdout == ""
    assert f"subject {broken}" in done.stderr and "closed by peer" not in done.stderr and "Traceback" not in done.stderr


@pytest.mark.parametrize("name", ["moddrop", "two-stage"])
def test_a_run_on_two_processes_is_killed_and_resumes_to_the_same_bytes(cohort: Path, tmp_path: Path, name: str) -> None:
    launcher = (str(ROOT / "tests" / "training" / "launch.py"),)
    more: dict[str, Any] = {"method": {"first": 60, "second": 20}} if name == "two-stage" else {"steps": 60}
    config = configured(cohort, name, **more)
    comodal("train", config, "--out", str(tmp_path / "whole"), "--devices", "2", launcher=launcher)
    words = ("train", config, "--out", str(tmp_path / "killed"), "--devices", "2")
    comodal(*words, launcher=launcher, code=-signal.SIGKILL, kill=tmp_path / "killed" / "metrics.jsonl")
    assert not (tmp_path / "killed" / "weights.safetensors").exists()
    done = comodal(*words, "--resume", launcher=launcher)
    assert "is already trained" not in done.stderr
    for file in ("weights.safetensors", "metrics.jsonl"):
        assert (tmp_path / "killed" / file).read_bytes() == (tmp_path / "whole" / file).read_bytes()
    assert "is already trained to its end" in comodal(*words, "--resume", launcher=launcher).stderr


def test_a_run_of_two_processes_is_read_by_one(cohort: Path, tmp_path: Path) -> None:
    config = configured(cohort, steps=2)
    comodal("train", config, "--out", str(tmp_path / "two"), "--devices", "2")
    assert Run.load(tmp_path / "two").method().problem.names == ("a", "b")
    train_run(config_for(cohort, training={"batch_size": 4}), tmp_path / "three", init=tmp_path / "two")


OTHERS: dict[str, dict[str, Any]] = {
    "unet-experts": {"width": 4, "levels": 2, "steps": 3},
    "mlp-fill": {"width": 4, "levels": 2, "steps": 3, "fill_steps": 3, "voxels": 64},
    "hemis": {"width": 4, "front_width": 4, "steps": 5},
    "u-hemis": {"width": 4, "levels": 2, "steps": 5},
    "cmim-seg": {"width": 4, "levels": 2, "steps": 5, "critic": [8], "lambda_gg": 0.1},
}


@pytest.mark.parametrize("name", OTHERS)
def test_every_method_trains_in_two_processes(cohort: Path, tmp_path: Path, name: str) -> None:
    """Some rows lack a modality, so that one process may have none with it: all must enter the same sums, or all hang."""
    config = configured(cohort, name, method=OTHERS[name])
    comodal("train", config, "--out", str(tmp_path / "two"), "--devices", "2", "--json")
    steps = lines(tmp_path / "two", "step")
    assert len(steps) == sum(stage.steps or 0 for stage in Run.load(tmp_path / "two").method("cpu").stages())
    assert all(abs(float(step["loss"])) < 1e3 for step in steps)


def test_cmim_without_information_makes_the_steps_of_one_process(cohort: Path, tmp_path: Path) -> None:
    config = configured(cohort, "cmim-seg", method={**OTHERS["cmim-seg"], "lambda_ll": 0.0, "lambda_gg": 0.0})
    for out, devices in (("one", "1"), ("two", "2")):
        comodal("train", config, "--out", str(tmp_path / out), "--devices", devices, "--json")
    one, two = ([step["loss"] for step in lines(tmp_path / out, "step")] for out in ("one", "two"))
    assert one == pytest.approx(two, abs=1e-4)
