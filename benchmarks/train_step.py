"""Time and memory of one training step of `unet`: 2-D and 3-D, float32 against bfloat16 autocast.

One process per candidate, so that each has a peak of memory of its own; they take turns, one working at a time, so that a slow
minute of the machine falls on all. The ratio within a round is the number to trust. See README.md beside this file.

    python benchmarks/train_step.py [--rounds 7] [--steps 3] [--threads 2] [--json]
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # before torch: spinning threads would be counted as work
os.environ.setdefault("GOMP_SPINCOUNT", "0")

import argparse
import json
import multiprocessing
import platform
import resource
import statistics
import time
from dataclasses import asdict, dataclass
from multiprocessing.connection import Connection
from typing import Any, Literal

SEQUENCES = ("t1", "t1ce", "t2", "flair")
Precision = Literal["fp32", "bf16"]


@dataclass(frozen=True)
class Candidate:
    """What is measured."""

    patch: tuple[int, ...]
    batch: int
    width: int
    precision: Precision

    @property
    def network(self) -> str:
        return f"{len(self.patch)}-D, width {self.width}, {self.batch} x {'x'.join(map(str, self.patch))}"


CANDIDATES = tuple(
    Candidate(patch, batch, 16, precision)
    for patch, batch in (((128, 128), 8), ((32, 32, 32), 2))
    for precision in ("fp32", "bf16")
)


def measure(candidate: Candidate, steps: int, threads: int, pipe: Connection) -> None:
    """The process of one candidate: at each "go" it takes `steps` steps and sends (CPU seconds, seconds) of one."""
    import torch

    from comodal.method import Problem
    from comodal.methods import load_method
    from comodal.modality import Modality, Target
    from comodal.testing import make_batch

    torch.set_num_threads(threads)
    torch.manual_seed(0)
    dims = len(candidate.patch)
    problem = Problem(
        modalities=tuple(Modality(name, spatial_dims=dims) for name in SEQUENCES),
        targets=(Target("seg", "regions", ("WT", "TC", "ET")),),
        spatial_dims=dims,
        patch=candidate.patch,
    )
    kind = load_method("unet")
    method = kind(problem, kind.Config.model_validate({"width": candidate.width}))
    batch, stage = make_batch(problem, candidate.batch), method.stages()[0]
    optimiser = torch.optim.AdamW(method.parameters(), lr=1e-3)

    def step() -> None:
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=candidate.precision == "bf16"):
            loss = torch.stack(list(method.losses(batch, stage).values())).sum()
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        optimiser.step()

    step()  # the first one allocates
    pipe.send("ready")
    while pipe.recv() == "go":
        began, used = time.perf_counter(), time.process_time()
        for _ in range(steps):
            step()
        pipe.send(((time.process_time() - used) / steps, (time.perf_counter() - began) / steps))
    pipe.send(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)


def run(rounds: int, steps: int, threads: int) -> list[dict[str, Any]]:
    """Rounds of all candidates in turn; one row per candidate."""
    context = multiprocessing.get_context("spawn")
    workers = []
    for candidate in CANDIDATES:
        here, there = context.Pipe()
        process = context.Process(target=measure, args=(candidate, steps, threads, there), daemon=True)
        process.start()
        there.close()  # so that a worker that dies ends the wait
        here.recv()
        workers.append((process, here))
    times: list[list[tuple[float, float]]] = [[] for _ in CANDIDATES]
    for _ in range(rounds):
        for place, (_, pipe) in enumerate(workers):
            pipe.send("go")
            times[place].append(pipe.recv())
    rows = []
    for candidate, taken, (process, pipe) in zip(CANDIDATES, times, workers, strict=True):
        pipe.send("stop")
        peak = pipe.recv()
        process.join()
        plain = times[CANDIDATES.index(Candidate(candidate.patch, candidate.batch, candidate.width, "fp32"))]
        ratios = [mine[0] / theirs[0] for mine, theirs in zip(taken, plain, strict=True)]
        rows.append(
            asdict(candidate)
            | {"network": candidate.network, "cpu_seconds": statistics.median(cpu for cpu, _ in taken)}
            | {"seconds": statistics.median(wall for _, wall in taken), "peak_mib": peak}
            | {"ratio": statistics.median(ratios), "ratio_range": (min(ratios), max(ratios))}
        )
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7, help="turns of each candidate")
    parser.add_argument("--steps", type=int, default=3, help="training steps in a turn")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--json", action="store_true", help="one document on standard output")
    given = parser.parse_args()
    rows = run(given.rounds, given.steps, given.threads)

    from importlib.metadata import version

    about = {"torch": version("torch"), "monai": version("monai"), "python": platform.python_version()}
    about |= {"machine": platform.machine(), "threads": str(given.threads), "rounds": str(given.rounds)}
    if given.json:
        print(json.dumps({"about": about, "rows": rows}, indent=1))
        return
    print(", ".join(f"{key} {value}" for key, value in about.items()))
    print(f"{'unet':<32}{'':<6}{'CPU s':>8}{'s':>8}{'peak MiB':>10}   CPU time against fp32, in one round")
    for row in rows:
        low, high = row["ratio_range"]
        ratio = "" if row["precision"] == "fp32" else f"   x {row['ratio']:.2f} ({low:.2f} to {high:.2f})"
        figures = f"{row['cpu_seconds']:>8.3f}{row['seconds']:>8.3f}{row['peak_mib']:>10.0f}"
        print(f"{row['network']:<32}{row['precision']:<6}{figures}{ratio}")


if __name__ == "__main__":
    main()
