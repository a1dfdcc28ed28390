"""Pretraining by two processes is that by one, also where one of them has no report: losses and gradients of the global batch.

The same file is the program of the processes: `python -m tests.methods.test_pretraining_processes <rank> <folder>`.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from tests.networks.test_retraining import FRONTAL, REPORT, SIGNS, SMALL
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from comodal.batch import Batch, Text
from comodal.method import Method, Problem
from comodal.methods import load_method
from comodal.testing import make_batch

ROOT = Path(__file__).resolve().parents[2]
CASES = 6
SIZES = {"halves": (3, 4), "one has no report": (6, 1)}  # the last case has an empty report
JOBS: dict[str, tuple[str, dict[str, Any]]] = {
    "sentences": ("local-mi", {"sentences": "all"}),
    "soft": ("local-mi", {"sentences": "all", "pool": "soft", "symmetric": True, "bound": "mine"}),
    "images": ("local-mi", {"sentences": "all", "against": "images"}),
    "images, soft": ("local-mi", {"sentences": "all", "against": "images", "pool": "soft", "critic_norm": True}),
    "wholes": ("local-mi", {"level": "global", "symmetric": True}),
    "convirt": ("convirt", {"embedding": 8}),
    # whole with whole, of which nothing is drawn; all pairs, so that features are exchanged, with their gradients
    "cmim": (
        "cmim-class",
        {"joint": 4, "rank": 4, "lambda_ll": 0, "lambda_lg": 0, "lambda_gg": 1, "global_target": "other", "negatives": "all"},
    ),
}


class Learner(nn.Module):
    """A method in its pretraining, as the loop wraps it; group normalisation knows no other cases."""

    def __init__(self, job: str) -> None:
        super().__init__()
        torch.manual_seed(0)
        name, settings = JOBS[job]
        cls = load_method(name)
        given = {key: value for key, value in {**SMALL, "norm": "group", **settings}.items() if key in cls.Config.model_fields}
        problem = Problem((FRONTAL, REPORT), (SIGNS,), 2, (32, 32), vocabulary=12)
        self.method: Method = cls(problem, cls.Config.model_validate(given))
        self.idle = nn.Parameter(torch.zeros(()))
        self.stage = self.method.stages()[0]
        self.method.enter(self.stage)

    def forward(self, batch: Batch) -> Tensor:
        return torch.stack(list(self.method.losses(batch, self.stage).values())).sum()


def rows(start: int, stop: int) -> Batch:
    """Some rows of the global batch."""
    problem = Problem((FRONTAL, REPORT), (SIGNS,), 2, (32, 32), vocabulary=12)
    batch = make_batch(problem, CASES + 1)
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(3, 12, (CASES + 1, 2, 4), generator=generator)
    attention = torch.ones_like(ids, dtype=torch.bool)
    attention[1, 1] = attention[CASES] = False
    batch = batch.with_inputs({"frontal": batch.image("frontal"), "report": Text(ids, attention)})
    return batch.rows(list(range(start, stop)))


def outcome(job: str, batch: Batch, *, wrap: bool = False) -> dict[str, Tensor]:
    """The loss and the gradients, as a training has them."""
    learner = Learner(job)
    runner: nn.Module = DistributedDataParallel(learner, find_unused_parameters=True) if wrap else learner
    loss = runner(batch)
    loss.backward()
    found = {name: p.grad for name, p in learner.named_parameters() if p.grad is not None and "idle" not in name}
    return {"loss": loss.detach(), **found}


def main(rank: int, folder: Path) -> None:
    torch.set_num_threads(1)
    wait = timedelta(seconds=120)
    store = f"file://{folder / 'store'}"
    torch.distributed.init_process_group("gloo", init_method=store, rank=rank, world_size=2, timeout=wait)
    try:
        flat: dict[str, Tensor] = {}
        for case, sizes in SIZES.items():
            batch = rows(0, sizes[0]) if rank == 0 else rows(sizes[0], sum(sizes))
            for job in JOBS:
                flat |= {f"{case}/{job}/{key}": value.clone() for key, value in outcome(job, batch, wrap=True).items()}
        save_file(flat, folder / f"{rank}.safetensors")
    finally:
        torch.distributed.destroy_process_group()


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Tensor]]:
    """What each of two processes found."""
    folder = tmp_path_factory.mktemp("processes")
    paths = os.pathsep.join([str(ROOT), str(ROOT / "src")])
    environment = {**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1"}
    words = [sys.executable, "-m", "tests.methods.test_pretraining_processes"]
    processes = []
    for rank in range(2):
        with (folder / f"{rank}.log").open("w") as log:
            processes.append(
                subprocess.Popen([*words, str(rank), str(folder)], stdout=log, stderr=log, cwd=ROOT, env=environment)
            )
    try:
        end = time.monotonic() + 180
        while any(process.poll() is None for process in processes) and time.monotonic() < end:
            if any(process.poll() for process in processes):
                break
            time.sleep(0.05)
    finally:
        for process in processes:
            process.kill()
            process.wait()
    said = "\n".join(log.read_text() for log in sorted(folder.glob("*.log")))
    assert all((folder / f"{rank}.safetensors").is_file() for rank in range(2)), said
    return [load_file(folder / f"{rank}.safetensors") for rank in range(2)]


@pytest.mark.slow
@pytest.mark.parametrize("case", SIZES)
@pytest.mark.parametrize("job", JOBS)
def test_two_processes_are_as_one(found: list[dict[str, Tensor]], job: str, case: str) -> None:
    wanted = outcome(job, rows(0, CASES + 1))
    assert abs(float(wanted["loss"])) > 1e-4
    start = f"{case}/{job}/"
    each = [{key.removeprefix(start): t for key, t in result.items() if key.startswith(start)} for result in found]
    losses = torch.stack([own.pop("loss") for own in each])
    torch.testing.assert_close(losses.mean(), wanted.pop("loss"), rtol=1e-5, atol=1e-6)
    if job != "cmim":  # of its labels every process has its own share
        assert losses[0].equal(losses[1])
    for own in each:
        for name, gradient in wanted.items():
            torch.testing.assert_close(own[name], gradient, rtol=1e-3, atol=1e-6, msg=name)


if __name__ == "__main__":
    main(int(sys.argv[1]), Path(sys.argv[2]))
