"""`ciml` against a plain implementation of Table 1 of its paper: a training step, a whole volume, and all 15 subsets.

`Plain` (plain_ciml.py) is Table 1 as one would write it down. It has the weights of the method, and says the same. Both go
through the same sliding window; `Plain` runs each subset by itself, without the segmentors whose image is absent.

One process per candidate, taking turns; the ratio within a round is the number to trust. Memory is the growth of the process's
peak during its first turn over what it held before (after one turn of tiny size, which lets the libraries set themselves up).
See README.md beside this file.

    python benchmarks/ciml.py [--rounds 3] [--threads 2] [--only step whole subsets] [--json] [--small]

A whole volume takes about two minutes on two free cores, and gets one round.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # before torch: spinning threads would be counted as work
os.environ.setdefault("GOMP_SPINCOUNT", "0")

import argparse
import json
import multiprocessing
import platform
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import TYPE_CHECKING, Any, Literal
from unittest import mock

import numpy as np
import torch
from torch import Tensor

from comodal.batch import Batch
from comodal.data.cohort import Case
from comodal.data.grid import Grid
from comodal.data.preprocessing import PreparedCase
from comodal.inference.predictor import predict_case
from comodal.method import Method, Problem
from comodal.methods.ciml import CIML, CIMLConfig
from comodal.modality import Modality, Target
from comodal.testing import make_batch

if TYPE_CHECKING:
    from benchmarks.plain_ciml import REGIONS, Plain
    from benchmarks.subsets import SEQUENCES, SUBSETS, forget_peak, peak_kib
else:  # a script finds its neighbours by their own names
    from plain_ciml import REGIONS, Plain
    from subsets import SEQUENCES, SUBSETS, forget_peak, peak_kib

Figures = tuple[float, float]


@dataclass(frozen=True)
class Task:
    """One comparison.

    Attributes:
        kind: A training step, one prediction of a volume, or predictions from all subsets.
        width: C, filters of the first level.
        patch: P, its voxels along each axis.
        volume: Voxels of the case; those of a patch for a training step.
        rounds: At most.
    """

    kind: Literal["step", "whole", "subsets"]
    width: int
    patch: int
    volume: tuple[int, int, int] = (0, 0, 0)
    rounds: int = 99

    @property
    def ways(self) -> tuple[str, ...]:
        """The candidates, after the one that the others are compared with."""
        return {
            "step": ("plain", "ours", "ours, spare heads"),
            "whole": ("plain", "ours"),
            "subsets": ("one", "all", "apart", "plain apart"),
        }[self.kind]

    def __str__(self) -> str:
        of = f" of 4 x {' x '.join(map(str, self.volume))}" if any(self.volume) else ""
        return f"{self.kind}: C = {self.width}, {AT_ONCE} at once, P = {self.patch}{of}"


AT_ONCE = 2  # patches or windows
TASKS = (
    Task("step", 8, 64),
    Task("step", 16, 64),
    Task("whole", 8, 64, (240, 240, 155), rounds=1),
    Task("subsets", 8, 64, (96, 96, 96)),
)
SMALL = (Task("step", 2, 32), Task("whole", 2, 32, (40, 32, 32)), Task("subsets", 2, 32, (40, 32, 32)))


def made(width: int, patch: int, *, spare: bool = True) -> CIML:
    """The method with weights of no meaning, none of them zero or one."""
    torch.manual_seed(0)
    problem = Problem(
        modalities=tuple(Modality(name, spatial_dims=3) for name in SEQUENCES),
        targets=(Target("seg", "regions", REGIONS),),
        spatial_dims=3,
        patch=(patch, patch, patch),
    )
    method = CIML(problem, CIMLConfig(width=width, spare="detached" if spare else "none"))
    with torch.no_grad():
        for parameter in method.parameters():
            parameter.add_(0.1 * torch.rand_like(parameter))
    return method


def agreement() -> dict[str, float]:
    """The largest differences between ours and the plain one on tiny sizes.

    Raises:
        AssertionError: They do not compute the same.
    """
    ours = made(2, 32)
    plain, batch = Plain(ours), make_batch(ours.problem, AT_ONCE)
    found = dict.fromkeys(("probability", "loss", "gradient"), 0.0)
    with torch.no_grad():
        for method in (ours, plain):
            method.eval()
        for subset in SUBSETS:
            row = batch.keep(subset)
            said = [method.predict(row).probabilities["seg"] for method in (ours, plain)]
            found["probability"] = max(found["probability"], float((said[0] - said[1]).abs().max()))
    ours.train()
    plain.train()
    with mock.patch("torch.randn_like", lambda like: torch.sin(torch.arange(like.numel()).reshape(like.shape) + 1.0)):
        losses = [loss_of(ours, batch), plain.loss(batch)]
    found["loss"] = float((losses[0] - losses[1]).detach().abs())
    name = "t1"
    weights = [next(module.parameters()) for module in (ours.network.generators[name], plain.segmentors[name])]
    first, second = (torch.autograd.grad(loss, weight)[0] for loss, weight in zip(losses, weights, strict=True))
    found["gradient"] = float((first - second).norm() / second.norm())
    assert found["probability"] < 1e-4 > found["loss"], found
    assert found["gradient"] < 1e-2, found
    return found


def loss_of(method: CIML, batch: Batch) -> Tensor:
    """Without the terms of spare heads, which Table 1 does not have."""
    terms = method.losses(batch, method.stages()[0])
    return torch.stack([value for name, value in terms.items() if not name.endswith("/spare")]).sum()


def turn_of(task: Task, way: str) -> Callable[[], None]:
    """What a candidate does in a turn."""
    ours = made(task.width, task.patch, spare=task.kind != "step" or way != "ours")
    method = Plain(ours) if way.startswith("plain") else ours
    if task.kind == "step":
        return step_of(method, make_batch(method.problem, AT_ONCE))
    method.eval()
    case = noise_case(method.problem, task.volume)
    calls = {"all": [SUBSETS]}.get(way, [(subset,) for subset in SUBSETS] if way.endswith("apart") else [SUBSETS[-1:]])

    def predict() -> None:
        for subsets in calls:
            for _ in predict_case(method, case, subsets=subsets, batch_size=AT_ONCE):  # each is dropped before the next
                pass

    return predict


def step_of(method: Method, batch: Batch) -> Callable[[], None]:
    optimiser = torch.optim.Adam(method.parameters(), lr=1e-4)
    stage = None if isinstance(method, Plain) else method.stages()[0]

    def step() -> None:
        if isinstance(method, Plain):
            loss = method.loss(batch)
        else:
            assert stage is not None
            loss = torch.stack(list(method.losses(batch, stage).values())).sum()
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        optimiser.step()

    return step


def noise_case(problem: Problem, volume: tuple[int, int, int]) -> PreparedCase:
    rng, grid = np.random.default_rng(0), Grid(volume, np.eye(4))
    images = {name: rng.standard_normal((1, *volume), dtype=np.float32) for name in SEQUENCES}
    row = Case("case", "case", group="case", cells=dict.fromkeys(SEQUENCES, "noise"))
    return PreparedCase(row, grid, grids={problem.grid: grid}, images=images)


def measure(task: Task, way: str, threads: int, pipe: Connection) -> None:
    """The process of one candidate: at each "go" it takes a turn and tells (CPU seconds, seconds); in the end, its memory."""
    torch.set_num_threads(threads)
    turn_of(next(t for t in SMALL if t.kind == task.kind), way)()  # what the libraries set up once
    turn = turn_of(task, way)
    pipe.send("ready")
    forget_peak()
    before, memory = peak_kib(), None
    while pipe.recv() == "go":
        began, used = time.perf_counter(), time.process_time()
        turn()
        pipe.send((time.process_time() - used, time.perf_counter() - began))
        memory = peak_kib() - before if memory is None else memory
    pipe.send((memory or 0) / 1024)


def run(task: Task, rounds: int, threads: int) -> dict[str, Any]:
    """Rounds of all candidates of a task in turn."""
    context = multiprocessing.get_context("spawn")
    workers = {}
    for way in task.ways:
        here, there = context.Pipe()
        process = context.Process(target=measure, args=(task, way, threads, there), daemon=True)
        process.start()
        there.close()  # so that a worker that dies ends the wait
        here.recv()
        workers[way] = (process, here)
    figures: dict[str, list[Figures]] = {way: [] for way in workers}
    for _ in range(min(rounds, task.rounds)):
        for way, (_process, pipe) in workers.items():
            pipe.send("go")
            figures[way].append(pipe.recv())
    rows = []
    for way, (process, pipe) in workers.items():
        pipe.send("stop")
        memory = pipe.recv()
        process.join()
        rows.append(
            {"way": way, "cpu_seconds": statistics.median(cpu for cpu, _ in figures[way])}
            | {"seconds": statistics.median(wall for _, wall in figures[way]), "peak_mib": memory}
            | ratio_of(figures[way], figures[task.ways[0]])
        )
    found: dict[str, Any] = {"kind": task.kind, "what": str(task), "rows": rows}
    if task.kind == "subsets":
        found |= {f"all_over_{way}": ratio_of(figures["all"], figures[way]) for way in ("apart", "plain apart")}
    return found


def ratio_of(mine: Sequence[Figures], theirs: Sequence[Figures]) -> dict[str, Any]:
    ratios = [one[0] / other[0] for one, other in zip(mine, theirs, strict=True)]
    return {"ratio": statistics.median(ratios), "ratio_range": (min(ratios), max(ratios))}


def told(found: Mapping[str, Any]) -> str:
    low, high = found["ratio_range"]
    return f"{found['ratio']:.2f}" + (f" ({low:.2f} to {high:.2f})" if low < high else "")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3, help="turns of each candidate, but one of a whole volume")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--only", nargs="+", choices=("step", "whole", "subsets"), default=("step", "whole", "subsets"))
    parser.add_argument("--json", action="store_true", help="one document on standard output")
    parser.add_argument("--small", action="store_true", help="tiny sizes, to see that it runs")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    same = agreement()
    wanted = [task for task in (SMALL if given.small else TASKS) if task.kind in given.only]
    tasks = [run(task, given.rounds, given.threads) for task in wanted]

    from importlib.metadata import version

    about = {"torch": version("torch"), "python": platform.python_version(), "machine": platform.machine()}
    about |= {"threads": str(given.threads), "rounds": str(given.rounds), "load": f"{os.getloadavg()[0]:.1f}"}
    if given.json:
        print(json.dumps({"about": about, "agreement": same, "tasks": tasks}, indent=1))
        return
    print(", ".join(f"{key} {value}" for key, value in about.items()))
    print("largest differences: " + ", ".join(f"{key} {value:.1e}" for key, value in same.items()))
    print("\n| task | candidate | CPU s | s | ratio (range) | peak MiB |\n| --- | --- | ---: | ---: | ---: | ---: |")
    for task in tasks:
        for row in task["rows"]:
            figures = f"{row['cpu_seconds']:.2f} | {row['seconds']:.2f} | {told(row)} | {row['peak_mib']:.0f}"
            print(f"| {task['what']} | {row['way']} | {figures} |")
    for task in (task for task in tasks if task["kind"] == "subsets"):
        for way in ("apart", "plain apart"):
            print(f"\nall 15 subsets in one call against {way}: {told(task[f'all_over_{way}'])}")


if __name__ == "__main__":
    main()
