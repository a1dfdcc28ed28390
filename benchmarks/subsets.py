"""What all subsets of a case's modalities cost in one evaluation, against one prediction from all of them.

For methods that encode: `all` shares each modality's encoding among the 2^M - 1 subsets and decodes once per subset, `apart`
asks for every subset by itself, `one` for the complete one alone. With E for the encoding of every modality of a batch of
windows and D for one decoding, all / one = (E + (2^M - 1) D) / (E + D), so that the share of D decides; E and D are measured
where every subset goes through the same decoder. One process per candidate, taking turns; the ratio within a round is the
number to trust. Memory is the growth of the process's peak during its first turn over what it held before (after one turn of
tiny size, which lets the libraries set themselves up). See README.md beside this file.

    python benchmarks/subsets.py [--rounds 3] [--threads 2] [--json] [--small]
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # before torch: spinning threads would be counted as work
os.environ.setdefault("GOMP_SPINCOUNT", "0")

import argparse
import itertools
import json
import math
import multiprocessing
import platform
import resource
import statistics
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from comodal.data.preprocessing import PreparedCase
    from comodal.method import Method

SEQUENCES = ("t1", "t1ce", "t2", "flair")
SUBSETS = tuple(c for size in range(1, len(SEQUENCES) + 1) for c in itertools.combinations(SEQUENCES, size))  # complete: last
WAYS = {"one": SUBSETS[-1:], "all": SUBSETS, "apart": SUBSETS}
PARTS = "parts"  # the candidate that takes E and D apart
Figures = tuple[float, ...]


@dataclass(frozen=True)
class Task:
    """A method and a case.

    Attributes:
        method: Its name.
        patch: Of the method.
        volume: Voxels of the case.
        config: What differs from the method's defaults.
        parts: Whether E and D mean something: every subset goes through the same decoder.
    """

    method: str
    patch: tuple[int, ...]
    volume: tuple[int, int, int]
    config: dict[str, int] = field(default_factory=dict)
    parts: bool = True

    @property
    def windows(self) -> int:
        """At once, as many as `predict_case` takes by itself; no more than there are."""
        from comodal.inference.predictor import BATCH_VOXELS, window_starts

        sides = zip(self.volume, (*self.patch, 1), strict=False)  # slices are windows with Z = 1
        there = math.prod(len(window_starts(size, side, 0.5)) for size, side in sides)
        return min(there, max(1, BATCH_VOXELS // math.prod(self.patch)))

    def __str__(self) -> str:
        sizes = ("x".join(map(str, size)) for size in (self.patch, self.volume))
        config = "".join(f", {name} {value}" for name, value in self.config.items())
        return f"{self.method}, {len(self.patch)}-D{config}, windows {' of '.join(sizes)}"


# Where `cmim-seg` decodes it averages logits, except for the complete set, which goes through a network of its own.
TASKS = (
    Task("u-hemis", (48, 48, 48), (96, 96, 96), {"width": 8, "levels": 4}),
    Task("cmim-seg", (48, 48, 48), (96, 96, 96), {"width": 8, "levels": 4}, parts=False),
    Task("hemis", (128, 128), (128, 128, 16)),
)
SMALL = (
    Task("u-hemis", (8, 8, 8), (12, 8, 8), {"width": 2, "levels": 2}),
    Task("cmim-seg", (8, 8, 8), (12, 8, 8), {"width": 2, "levels": 2}, parts=False),
    Task("hemis", (16, 16), (16, 16, 3), {"width": 4, "front_width": 2}),
)


def made(task: Task) -> tuple[Method, PreparedCase]:
    """The method, untrained, and a case of noise."""
    import numpy as np
    import torch

    from comodal.data.cohort import Case
    from comodal.data.grid import Grid
    from comodal.data.preprocessing import PreparedCase
    from comodal.method import Problem
    from comodal.methods import load_method
    from comodal.modality import Modality, Target

    torch.manual_seed(0)
    problem = Problem(
        modalities=tuple(Modality(name, spatial_dims=3) for name in SEQUENCES),
        targets=(Target("seg", "regions", ("WT", "TC", "ET")),),
        spatial_dims=len(task.patch),
        patch=task.patch,
    )
    kind = load_method(task.method)
    method = kind(problem, kind.Config.model_validate(task.config)).eval()
    rng, grid = np.random.default_rng(0), Grid(task.volume, np.eye(4))
    images = {name: rng.standard_normal((1, *task.volume), dtype=np.float32) for name in SEQUENCES}
    row = Case("case", "case", group="case", cells=dict.fromkeys(SEQUENCES, "noise"))
    return method, PreparedCase(row, grid, grids={problem.grid: grid}, images=images)


def means(task: Task, way: str) -> dict[str, float]:
    """{subset: mean probability} as a candidate finds them."""
    from comodal.inference.predictor import predict_case

    method, case = made(task)
    calls = [(subset,) for subset in SUBSETS] if way == "apart" else [WAYS[way]]
    found = (pair for subsets in calls for pair in predict_case(method, case, subsets=subsets))
    return {"+".join(subset): float(said.probabilities["seg"].mean()) for subset, said in found}


def turn_of(task: Task, way: str) -> Callable[[], Figures]:
    """What a candidate does in a turn; it tells (CPU seconds, seconds), or CPU seconds of E and D."""
    import torch

    from comodal.inference.predictor import predict_case
    from comodal.testing import make_batch

    method, case = made(task)

    def predict() -> Figures:
        began, used = time.perf_counter(), time.process_time()
        for subsets in [(subset,) for subset in SUBSETS] if way == "apart" else [WAYS[way]]:
            for _ in predict_case(method, case, subsets=subsets):  # each is dropped before the next
                pass
        return time.process_time() - used, time.perf_counter() - began

    if way != PARTS:
        return predict
    batch = make_batch(method.problem, task.windows)

    @torch.no_grad()
    def parts() -> Figures:
        began = time.process_time()
        features = method.encode(batch)
        between = time.process_time()
        method.decode(features, batch.present)
        return between - began, time.process_time() - between

    parts()  # the first one allocates, which would count beside a single batch
    return parts


def peak_kib() -> int:
    """The most memory that this process held at a time, since `forget_peak` where the system knows that."""
    with suppress(OSError):
        for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
            if line.startswith("VmHWM"):
                return int(line.split()[1])
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def forget_peak() -> None:
    """Lets the peak begin at what is held now (Linux)."""
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")


def measure(task: Task, way: str, threads: int, pipe: Connection) -> None:
    """The process of one candidate: at each "go" it takes a turn and tells its figures; in the end, its memory."""
    import torch

    torch.set_num_threads(threads)
    small = next(t for t in SMALL if t.method == task.method)
    found = means(small, way) if way != PARTS else {}  # what the libraries set up once; and a proof that all do the same
    turn = turn_of(task, way)
    pipe.send(found)
    forget_peak()
    before, memory = peak_kib(), None
    while pipe.recv() == "go":
        figures = turn()
        memory = peak_kib() - before if memory is None else memory
        pipe.send(figures)
    pipe.send((memory or 0) / 1024)


def run(task: Task, *, rounds: int, threads: int) -> dict[str, Any]:
    """Rounds of all candidates of a task in turn."""
    context = multiprocessing.get_context("spawn")
    workers = {}
    for way in (*WAYS, PARTS) if task.parts else WAYS:
        here, there = context.Pipe()
        process = context.Process(target=measure, args=(task, way, threads, there), daemon=True)
        process.start()
        there.close()  # so that a worker that dies ends the wait
        workers[way] = (process, here, here.recv())
    figures: dict[str, list[Figures]] = {way: [] for way in workers}
    for _ in range(rounds):
        for way, (_process, pipe, _found) in workers.items():
            pipe.send("go")
            figures[way].append(pipe.recv())
    rows = []
    for way, (process, pipe, found) in workers.items():
        pipe.send("stop")
        memory = pipe.recv()
        process.join()
        if way == PARTS:
            continue
        ratios = [mine[0] / one[0] for mine, one in zip(figures[way], figures["one"], strict=True)]
        rows.append(
            {"way": way, "cpu_seconds": statistics.median(cpu for cpu, _ in figures[way])}
            | {"seconds": statistics.median(wall for _, wall in figures[way]), "peak_mib": memory}
            | {"ratio": statistics.median(ratios), "ratio_range": (min(ratios), max(ratios)), "small_means": found}
        )
    told = {"method": task.method, "what": str(task), "rows": rows}
    return told | ({"parts": parts_of(task, figures[PARTS])} if task.parts else {})


def parts_of(task: Task, figures: list[Figures]) -> dict[str, float]:
    """E and D of one batch of windows, and the ratio of `all` to `one` that follows from them."""
    encode, decode = (statistics.median(part) for part in zip(*figures, strict=True))
    share = statistics.median(d / (e + d) for e, d in figures)
    follows = 1 + (len(SUBSETS) - 1) * share  # (E + 15 D) / (E + D)
    return {"windows": task.windows, "encode": encode, "decode": decode, "decode_share": share, "all_over_one": follows}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3, help="turns of each candidate")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--json", action="store_true", help="one document on standard output")
    parser.add_argument("--small", action="store_true", help="tiny sizes, to see that it runs")
    given = parser.parse_args()
    tasks = [run(task, rounds=given.rounds, threads=given.threads) for task in (SMALL if given.small else TASKS)]

    from importlib.metadata import version

    about = {"torch": version("torch"), "monai": version("monai"), "python": platform.python_version()}
    about |= {"machine": platform.machine(), "threads": str(given.threads), "rounds": str(given.rounds)}
    if given.json:
        print(json.dumps({"about": about, "tasks": tasks}, indent=1))
        return
    print(", ".join(f"{key} {value}" for key, value in about.items()))
    for task in tasks:
        print(task["what"])
    print("\n| method | candidate | CPU s | ratio to `one` (range) | peak MiB |\n| --- | --- | ---: | ---: | ---: |")
    for task in tasks:
        for row in task["rows"]:
            low, high = row["ratio_range"]
            ratio = "1" if row["way"] == "one" else f"{row['ratio']:.2f} ({low:.2f} to {high:.2f})"
            print(f"| `{task['method']}` | {row['way']} | {row['cpu_seconds']:.3f} | {ratio} | {row['peak_mib']:.0f} |")
    print("\nCPU seconds of one batch of windows, E to encode every modality and D to decode the complete set:")
    for task in (t for t in tasks if "parts" in t):
        part = task["parts"]
        print(
            f"`{task['method']}`, {part['windows']} at once: E {part['encode']:.4f}, D {part['decode']:.4f}, "
            f"D / (E + D) {part['decode_share']:.2f}, so (E + {len(SUBSETS)} D) / (E + D) is {part['all_over_one']:.2f}"
        )


if __name__ == "__main__":
    main()
