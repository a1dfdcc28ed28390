"""Time and memory of all-pairs critics, forward and backward: plain concatenation against ours.

One process per candidate, taking turns, so that a slow minute of the machine falls on all; the ratio within a round is the
number to trust. Memory is the growth of the process's peak over what it held before the first step (after one of tiny size,
which lets the libraries set themselves up). `products` are the matrix products of the layers that cannot be split (one forward,
two backward) and nothing else: the floor for whoever needs them in float32. See README.md beside this file.

    python benchmarks/critics.py [--rounds 5] [--steps 1] [--threads 2] [--json] [--small]
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
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Task:
    """All pairs of B images of N locations with B others.

    Attributes:
        name: In words.
        batch: B.
        locations: N.
        features: Of x and of y.
        hidden: Widths of the critic's hidden layers.
        form: "regions": each region with each sentence; "maps": position with position; "maximum": the chosen region learns.
    """

    name: str
    batch: int
    locations: int
    features: tuple[int, int]
    hidden: tuple[int, int]
    form: str


TASKS = {
    "regions": Task("64 images x 16 regions, 64 sentences, 1280-1024-512-1", 64, 16, (512, 768), (1024, 512), "regions"),
    "maps": Task("32 x 32 maps of 7 x 7, 2048 + 2048 channels, hidden 512", 32, 49, (2048, 2048), (512, 512), "maps"),
    "maximum": Task("maximum over 16 regions, 64 images and sentences", 64, 16, (512, 768), (1024, 512), "maximum"),
}
SMALL = {
    "regions": Task("small regions", 6, 4, (8, 12), (16, 8), "regions"),
    "maps": Task("small maps", 5, 4, (8, 8), (8, 8), "maps"),
    "maximum": Task("small maximum", 6, 4, (8, 12), (16, 8), "maximum"),
}
WAYS = {
    "regions": ("plain", "split", "ours", "ours bf16", "products"),
    "maps": ("plain", "split", "ours", "ours bf16", "products"),
    "maximum": ("plain", "ours", "ours by score"),
}


def step_of(task: Task, way: str) -> Callable[[], dict[str, float]]:
    """One forward and backward of a candidate: the value and the size of the gradient."""
    import torch

    from comodal.information.bounds import donsker_varadhan, info_nce
    from comodal.information.critics import ConcatCritic
    from comodal.information.local import maximum_over_regions
    from comodal.information.pairs import Scores, contrast

    torch.manual_seed(0)
    batch, places, (dx, dy) = task.batch, task.locations, task.features
    critic = ConcatCritic(dx, dy, hidden=task.hidden)
    x = torch.randn(batch, places, dx, requires_grad=True)
    y = torch.randn(batch, *([places] if task.form == "maps" else []), dy, requires_grad=True)
    owner = torch.arange(batch)

    def plain() -> Tensor:
        """(N, B, B) by concatenation of all pairs."""
        rows = x.transpose(0, 1)[:, :, None]
        columns = y.transpose(0, 1)[:, None] if task.form == "maps" else y[None, None]
        scores: Tensor = critic(rows, columns)
        return scores

    def split() -> Tensor:
        """(N, B, B), the first layer by parts, the rest as autograd does it."""
        rows = critic.encode_x(x).transpose(0, 1)[:, :, None]
        columns = critic.encode_y(y)
        columns = columns.transpose(0, 1)[:, None] if task.form == "maps" else columns[None, None]
        return critic.layers[1:](rows + columns)[..., 0]  # type: ignore[no-any-return]

    def chosen_plainly() -> Tensor:
        """Every region scored and kept for the backward pass; the best one by its estimate is taken."""
        scores = Scores.of_matrix(plain())
        others = scores.marginal.masked_fill(~scores.negative, -torch.inf)
        best = (scores.joint - others.logsumexp(-1)).argmax(0)  # (B,)
        picked = Scores(scores.joint[best, owner], scores.marginal[best, owner], scores.negative)
        return info_nce(picked.joint, picked.marginal, picked.negative)

    def value() -> Tensor:
        if task.form == "maximum":
            if way == "plain":
                return chosen_plainly()
            by = "score" if way == "ours by score" else "estimate"
            found = maximum_over_regions(critic, x, y, owner=owner, select_by=by).scores  # type: ignore[arg-type]
            return info_nce(found.joint, found.marginal, found.negative)
        if way in ("plain", "split"):
            scores = Scores.of_matrix(plain() if way == "plain" else split())
        else:
            with torch.autocast("cpu", dtype=torch.bfloat16, enabled=way == "ours bf16"):
                scores = contrast(critic, x, y, aligned=task.form == "maps")
        return donsker_varadhan(scores.joint, scores.marginal, scores.negative)

    def products() -> dict[str, float]:
        weight = dict(critic.named_parameters())["layers.2.weight"].detach()
        hidden, units = torch.randn(4096, weight.shape[1]), torch.randn(4096, weight.shape[0])
        for _ in range(-(-batch * batch * places // 4096)):
            hidden @ weight.t(), units.t() @ hidden, units @ weight
        return {}

    def step() -> dict[str, float]:
        made = value()
        leaves = [x, y, *critic.parameters()]
        gradients = torch.autograd.grad(made, leaves)
        return {"value": made.item(), "gradient": sum(g.double().square().sum().item() for g in gradients) ** 0.5}

    return products if way == "products" else step


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
    """The process of one candidate."""
    import torch

    torch.set_num_threads(threads)
    step_of(SMALL[task.form], way)()  # what the libraries set up once
    step = step_of(task, way)
    forget_peak()
    before = peak_kib()
    found = step()
    pipe.send((found, (peak_kib() - before) / 1024))
    while (steps := pipe.recv()) is not None:
        began, used = time.perf_counter(), time.process_time()
        for _ in range(steps):
            step()
        pipe.send(((time.process_time() - used) / steps, (time.perf_counter() - began) / steps))


def run(tasks: dict[str, Task], *, rounds: int, steps: int, threads: int) -> list[dict[str, Any]]:
    """Rounds of all candidates of each task in turn; one row per candidate."""
    context = multiprocessing.get_context("spawn")
    rows: list[dict[str, Any]] = []
    for key, task in tasks.items():
        workers = []
        for way in WAYS[key]:
            here, there = context.Pipe()
            process = context.Process(target=measure, args=(task, way, threads, there), daemon=True)
            process.start()
            there.close()  # so that a worker that dies ends the wait
            workers.append((way, process, here, *here.recv()))
        times: dict[str, list[tuple[float, float]]] = {way: [] for way in WAYS[key]}
        for _ in range(rounds):
            for way, _process, pipe, _found, _memory in workers:
                pipe.send(steps)
                times[way].append(pipe.recv())
        for way, process, pipe, found, memory in workers:
            pipe.send(None)
            process.join()
            ratios = [plain[0] / mine[0] for plain, mine in zip(times["plain"], times[way], strict=True)]
            rows.append(
                {"task": key, "way": way, "memory_mib": memory, **asdict(task), **found}
                | {"cpu_seconds": statistics.median(cpu for cpu, _ in times[way])}
                | {"seconds": statistics.median(wall for _, wall in times[way])}
                | {"faster": statistics.median(ratios), "faster_range": (min(ratios), max(ratios))}
            )
    return rows


def agreement(rows: list[dict[str, Any]]) -> list[str]:
    """What differs from the plain form by more than rounding; bfloat16 and another choice of region are not compared."""
    wrong = []
    for row in rows:
        plain = next(r for r in rows if r["task"] == row["task"] and r["way"] == "plain")
        if row["way"] in ("split", "ours") and any(
            abs(row[k] - plain[k]) > 1e-3 * abs(plain[k]) + 1e-6 for k in ("value", "gradient")
        ):
            wrong.append(f"{row['task']}, {row['way']}")
    return wrong


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5, help="turns of each candidate")
    parser.add_argument("--steps", type=int, default=1, help="steps in a turn")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--json", action="store_true", help="one document on standard output")
    parser.add_argument("--small", action="store_true", help="tiny sizes, to see that it runs")
    given = parser.parse_args()
    rows = run(SMALL if given.small else TASKS, rounds=given.rounds, steps=given.steps, threads=given.threads)
    wrong = agreement(rows)

    from importlib.metadata import version

    about = {"torch": version("torch"), "python": platform.python_version(), "machine": platform.machine()}
    about |= {"threads": str(given.threads), "rounds": str(given.rounds)}
    if given.json:
        print(json.dumps({"about": about, "rows": rows, "disagree": wrong}, indent=1))
    else:
        print(", ".join(f"{key} {value}" for key, value in about.items()))
        shown = ""
        for row in rows:
            if row["task"] != shown:
                print(f"\n{row['name']}\n{'':<16}{'CPU s':>8}{'s':>8}{'MiB':>8}   times less CPU time (range), memory")
                shown = row["task"]
            plain = next(r for r in rows if r["task"] == shown and r["way"] == "plain")
            low, high = row["faster_range"]
            memory = plain["memory_mib"] / max(row["memory_mib"], 1)
            less = f"   x {row['faster']:.2f} ({low:.2f} to {high:.2f}), x {memory:.1f}"
            figures = f"{row['cpu_seconds']:>8.3f}{row['seconds']:>8.3f}{row['memory_mib']:>8.0f}"
            print(f"{row['way']:<16}{figures}{'' if row['way'] == 'plain' else less}")
    if wrong:
        raise SystemExit(f"These do not agree with the plain form: {'; '.join(wrong)}")


if __name__ == "__main__":
    main()
