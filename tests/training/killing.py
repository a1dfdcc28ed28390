"""Run as a script: trains in a child process that is killed again and again, resumes it, and says how often it was killed.

    python -m tests.training.killing '[[FOLDER, SEED, "timed" or "counted"], ...]'

FOLDER/config.yaml is trained into FOLDER/whole without a disturbance, and into FOLDER/killed with many.

timed: `kill -9` from outside after random numbers of steps and milliseconds. counted: attempt k kills itself at its k-th
replacement of a file, just before it (odd k) or just after (even k), so that the making of the run folder and each part of a
checkpoint are hit. Libraries are imported once, before forking.
"""

from __future__ import annotations

import importlib
import json
import os
import random
import signal
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from tests.training.fakes import register

from comodal.config import RunConfig, load_config
from comodal.data.augmentation import prepare_presets
from comodal.training.train import train_run

ATTEMPTS = 60
# What a training imports on its way; a second for each child otherwise.
IMPORTED = (
    "torch._dynamo",
    "lightning_fabric",
    "lightning_fabric.strategies.ddp",
    "monai.networks.nets",
    "comodal.methods.moddrop",
)


def fork(work: Callable[[], object]) -> int:
    """The process id of a child that does the work."""
    child = os.fork()
    if child:
        return child
    code = 1
    try:
        work()
        code = 0
    except BaseException as error:  # noqa: BLE001 - the parent hears of it by the exit code
        sys.stderr.write(repr(error))
    os._exit(code)


def end_of(child: int) -> int:
    """0, the signal that killed the child (negative), or its exit code."""
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def die_at(count: int) -> None:
    """From now on this process kills itself at its count-th replacement of a file."""
    replace, seen = os.replace, [0]

    def counting(source: str, target: str) -> None:
        seen[0] += 1
        if seen[0] == count and count % 2:
            os.kill(os.getpid(), signal.SIGKILL)
        replace(source, target)
        if seen[0] == count:
            os.kill(os.getpid(), signal.SIGKILL)

    os.replace = counting  # type: ignore[assignment]


def kill_after(lines: int, child: int, log: Path, seconds: float) -> None:
    """Kills a child once it has logged so many lines more, and a moment later; not where it ends before."""
    start = count_lines(log)
    while os.waitid(os.P_PID, child, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
        if count_lines(log) >= start + lines:
            time.sleep(seconds)
            os.kill(child, signal.SIGKILL)
            return
        time.sleep(0.001)


def dying(settings: RunConfig, out: Path, count: int) -> None:
    die_at(count)
    train_run(settings, out, resume=True)


def count_lines(log: Path) -> int:
    return log.read_bytes().count(b"\n") if log.is_file() else 0


def main(folder: Path, seed: int, how: str) -> dict[str, object]:
    settings, killed = load_config(folder / "config.yaml"), folder / "killed"
    whole = end_of(fork(lambda: train_run(settings, folder / "whole")))
    rng, ends = random.Random(seed), []
    for attempt in range(1, ATTEMPTS):
        if how == "counted":
            child = fork(partial(dying, settings, killed, attempt))
        else:
            child = fork(lambda: train_run(settings, killed, resume=True))
            kill_after(rng.randrange(4, 9), child, killed / "metrics.jsonl", rng.uniform(0, 0.01))
        ends.append(end_of(child))
        if ends[-1] >= 0:  # a kill may fall behind the weights: then the next attempt has little left to do
            break
    return {"whole": whole, "kills": ends.count(-signal.SIGKILL), "ends": ends}


if __name__ == "__main__":
    torch.set_num_threads(1)
    for module in IMPORTED:
        importlib.import_module(module)
    prepare_presets("nnunet")
    register("tests.training.fakes")
    sys.stdout.write(json.dumps([main(Path(folder), seed, how) for folder, seed, how in json.loads(sys.argv[1])]) + "\n")
