"""Time and memory of a step of local mutual information: ours against the pairwise double loop of the public reference form.

`critic`: features of regions and sentences are given; the critic 1280-1024-512-1, Equation (5) of Liao et al. (2021) with the
bound of Equation (3), forward and backward. The loop is written here after the public code: for every image and every report a
concatenation of each region with each sentence, all of them through the critic at once and kept for the backward pass. The
public code draws one sentence of each report; here, as in the paper, all of them count. Both must give the same value and the
same gradient.

`whole`: images and reports through their encoders, critic, loss, backward and the steps of Adam and AdamW, with a BERT of the
size of Clinical BERT and with a small one.

One process per candidate, taking turns, so that a slow minute of the machine falls on all; the ratio within a round is the
number to trust. Memory is the growth of the process's peak over what it held before the first step (after one of tiny size,
which lets the libraries set themselves up). See README.md beside this file.

    python benchmarks/image_text.py [--rounds 3] [--threads 2] [--batch 32] [--only critic|whole] [--json] [--small]
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
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from multiprocessing.connection import Connection
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from benchmarks.critics import forget_peak, peak_kib
    from torch import Tensor
else:
    from critics import forget_peak, peak_kib


@dataclass(frozen=True)
class Size:
    """A batch.

    Attributes:
        batch: Images, each with its report.
        regions: Of an image.
        sentences: Of a report.
        features: Of a region and of a sentence.
        hidden: Widths of the critic's hidden layers.
        encoder: Of images; its lower map has the regions.
        side: Pixels of an image.
        tokens: Of a sentence.
        texts: Encoders of sentences.
    """

    batch: int = 32
    regions: int = 16
    sentences: int = 8
    features: tuple[int, int] = (512, 768)
    hidden: tuple[int, int] = (1024, 512)
    encoder: str = "resnet6"
    side: int = 256
    tokens: int = 16
    texts: tuple[str, ...] = ("bert-base", "bert-128x2")


FULL = Size()
SMALL = Size(4, 4, 3, (8, 12), (16, 8), "resnet6-small", 32, 5, ("bert-128x2",))
CRITIC = ("loop", "ours", "ours by score")
VOCABULARY = 28996  # of Clinical BERT


def double_loop(layers: Callable[[Tensor], Tensor], x: Tensor, y: Tensor) -> Tensor:
    """The value of Equation (5) with Equation (3), by concatenation of every pair.

    Args:
        layers: The critic, (..., D + D') to (..., 1).
        x: (B, N, D) regions.
        y: (B, S, D') sentences.

    Returns:
        Scalar: the mean score of sentences at their best region, minus the log of the mean of e^score of these regions with
        sentences of other reports. Best is the region whose score most exceeds the log-sum-exp of its scores with those.
    """
    import torch

    batch, places, told = len(x), x.shape[1], y.shape[1]
    pairs = []
    for image in x.unbind():  # its gradient is put together once, that of x[i] in each pair anew
        for report in y.unbind():
            both = (image[:, None].expand(-1, told, -1), report[None].expand(places, -1, -1))
            pairs.append(torch.cat(both, dim=2))
    scores = layers(torch.stack(pairs)).view(batch, batch, places, told)
    joint, marginal = [], []
    for i in range(batch):
        others = [scores[i, j] for j in range(batch) if j != i]  # (N, S) each
        negatives = torch.cat(others, dim=1)  # (N, sentences of other reports)
        for m in range(told):
            own = scores[i, i, :, m]
            best = (own - negatives.logsumexp(dim=1)).argmax()
            joint.append(own[best])
            marginal.append(negatives[best])
    every = torch.cat(marginal)
    return torch.stack(joint).mean() - (every.logsumexp(dim=0) - torch.log(torch.tensor(float(len(every)))))


def critic_step(size: Size, way: str) -> Callable[[], dict[str, float]]:
    """Forward and backward of critic and loss: the value and the size of the gradient."""
    import torch

    from comodal.information.critics import ConcatCritic
    from comodal.information.local import maximum_over_regions
    from comodal.information.objective import Objective

    torch.manual_seed(0)
    objective = Objective(ConcatCritic(*size.features, hidden=size.hidden), bound="dv")
    critic = objective.critic
    assert isinstance(critic, ConcatCritic)
    x = torch.randn(size.batch, size.regions, size.features[0], requires_grad=True)
    y = torch.randn(size.batch, size.sentences, size.features[1], requires_grad=True)
    owner = torch.arange(size.batch).repeat_interleave(size.sentences)

    def value() -> Tensor:
        if way == "loop":
            return double_loop(critic.layers, x, y)
        by = "score" if way == "ours by score" else "estimate"
        chosen = maximum_over_regions(critic, x, y.flatten(0, 1), owner=owner, select_by=by)  # type: ignore[arg-type]
        return objective.of(chosen.scores)

    def step() -> dict[str, float]:
        made = value()
        gradients = torch.autograd.grad(made, [x, y, *critic.parameters()])
        return {"value": made.item(), "gradient": sum(g.double().square().sum().item() for g in gradients) ** 0.5}

    return step


def whole_step(size: Size, way: str) -> Callable[[], dict[str, float]]:
    """A step of the local representation learning: the value, and the CPU seconds of the parts of its forward pass."""
    import torch

    from comodal.batch import Text
    from comodal.information.critics import ConcatCritic
    from comodal.information.local import maximum_over_regions
    from comodal.information.objective import Objective
    from comodal.networks.regions import RegionEncoder
    from comodal.networks.texts import TextConfig, text_encoder

    torch.manual_seed(0)
    vocabulary = VOCABULARY if size.tokens > SMALL.tokens else 20
    image, text = RegionEncoder(size.encoder, 2, 1), text_encoder(vocabulary, TextConfig(text=way))
    objective = Objective(ConcatCritic(image.region_features, text.features, hidden=size.hidden), bound="dv")
    lower = [p for name, p in image.named_parameters() if name.startswith(image.low_prefixes)]
    slow = torch.optim.Adam([*lower, *objective.parameters()], lr=5e-4)
    fast = torch.optim.AdamW(text.parameters(), lr=2e-5, weight_decay=0.1)
    pictures = torch.rand(size.batch, 1, size.side, size.side)
    ids = torch.randint(3, vocabulary, (size.batch, size.sentences, size.tokens))
    report = Text(ids, torch.ones_like(ids, dtype=torch.bool))
    owner = torch.arange(size.batch).repeat_interleave(size.sentences)

    def step() -> dict[str, float]:
        times = [time.process_time()]
        regions = image.regions(image.low(pictures))
        times.append(time.process_time())
        sentences = text.sentences(report)[0].flatten(0, 1)
        times.append(time.process_time())
        value = objective.of(maximum_over_regions(objective.critic, regions, sentences, owner=owner).scores)
        times.append(time.process_time())
        slow.zero_grad()
        fast.zero_grad()
        (-value).backward()
        slow.step()
        fast.step()
        parts = ("images", "sentences", "critic")
        return {"value": value.item(), **{part: times[k + 1] - times[k] for k, part in enumerate(parts)}}

    return step


STEPS: dict[str, Callable[[Size, str], Callable[[], dict[str, float]]]] = {"critic": critic_step, "whole": whole_step}


def measure(task: str, size: Size, way: str, *, threads: int, pipe: Connection) -> None:
    """The process of one candidate."""
    import torch

    torch.set_num_threads(threads)
    STEPS[task](SMALL, "bert-128x2" if task == "whole" else way)()  # what the libraries set up once
    step = STEPS[task](size, way)
    forget_peak()
    before = peak_kib()
    began, used = time.perf_counter(), time.process_time()
    found = step()
    first = (time.process_time() - used, time.perf_counter() - began)
    pipe.send((found, (peak_kib() - before) / 1024, first))
    while pipe.recv():
        began, used = time.perf_counter(), time.process_time()
        step()
        pipe.send((time.process_time() - used, time.perf_counter() - began))


def run(task: str, size: Size, ways: tuple[str, ...], *, rounds: int, threads: int) -> list[dict[str, Any]]:
    """Rounds of all candidates in turn; one row per candidate. Ratios are to the first."""
    context = multiprocessing.get_context("spawn")
    workers = {}
    times: dict[str, list[tuple[float, float]]] = {way: [] for way in ways}
    for way in ways:  # one after the other: the first step is measured, too
        here, there = context.Pipe()
        how = {"threads": threads, "pipe": there}
        process = context.Process(target=measure, args=(task, size, way), kwargs=how, daemon=True)
        process.start()
        there.close()  # so that a worker that dies ends the wait
        found, memory, first = here.recv()
        times[way].append(first)
        workers[way] = (process, here, found, memory)
    for _ in range(rounds - 1):
        for way, (_process, pipe, _found, _memory) in workers.items():
            pipe.send(True)
            times[way].append(pipe.recv())
    rows: list[dict[str, Any]] = []
    for way, (process, pipe, found, memory) in workers.items():
        pipe.send(False)
        process.join()
        ratios = [plain[0] / mine[0] for plain, mine in zip(times[ways[0]], times[way], strict=True)]
        rows.append(
            {"task": task, "way": way, "memory_mib": memory, **found}
            | {"cpu_seconds": statistics.median(cpu for cpu, _ in times[way])}
            | {"seconds": statistics.median(wall for _, wall in times[way])}
            | {"faster": statistics.median(ratios), "faster_range": (min(ratios), max(ratios))}
        )
    return rows


def agreement(rows: list[dict[str, Any]]) -> float:
    """The largest difference between ours and the loop, in value and gradient, over the size of the loop's."""
    loop, ours = ({key: row[key] for key in ("value", "gradient")} for row in rows[:2])
    return max(float(abs(ours[key] - loop[key]) / max(abs(loop[key]), 1e-2)) for key in loop)


def told(document: Mapping[str, Any]) -> str:
    """The tables."""
    size, lines = document["size"], [", ".join(f"{key} {value}" for key, value in document["about"].items())]
    rows = [row for row in document["rows"] if row["task"] == "critic"]
    if rows:
        wide = "-".join(map(str, (sum(size["features"]), *size["hidden"], 1)))
        what = f"batch {size['batch']}, {size['regions']} regions, {size['sentences']} sentences of each report, critic {wide}"
        lines += ["", f"{what}; ours differs from the loop by {document['agreement']:.1e}", ""]
        lines += ["| critic and loss | CPU s | s | peak MiB | less CPU time (range) | less memory |", "| --- |" + " ---: |" * 5]
    for row in rows:
        low, high = row["faster_range"]
        less = rows[0]["memory_mib"] / max(row["memory_mib"], 1)
        figures = f"{row['cpu_seconds']:.2f} | {row['seconds']:.2f} | {row['memory_mib']:.0f}"
        lines.append(f"| {row['way']} | {figures} | x {row['faster']:.1f} ({low:.1f} to {high:.1f}) | x {less:.1f} |")
    whole = [row for row in document["rows"] if row["task"] == "whole"]
    if whole:
        what = f"{size['encoder']} on {size['batch']} images of {size['side']} x {size['side']}"
        lines += ["", f"{what}, {size['sentences']} sentences of {size['tokens']} tokens each, AdamW and Adam", ""]
        lines += ["| whole step | CPU s | s | peak MiB | forward: images | sentences | critic |", "| --- |" + " ---: |" * 6]
    for row in whole:
        parts = " | ".join(f"{row[part]:.2f}" for part in ("images", "sentences", "critic"))
        lines.append(f"| {row['way']} | {row['cpu_seconds']:.2f} | {row['seconds']:.2f} | {row['memory_mib']:.0f} | {parts} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3, help="turns of each candidate, one step each")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--batch", type=int, help="images; the loop's time and memory grow with the square")
    parser.add_argument("--only", choices=list(STEPS), help="one of the two tables")
    parser.add_argument("--json", action="store_true", help="one document on standard output")
    parser.add_argument("--small", action="store_true", help="tiny sizes, to see that it runs")
    given = parser.parse_args()
    size = SMALL if given.small else FULL
    size = replace(size, batch=given.batch or size.batch)
    rows: list[dict[str, Any]] = []
    for task, ways in (("critic", CRITIC), ("whole", size.texts)):
        if given.only in (None, task):
            rows += run(task, size, ways, rounds=given.rounds, threads=given.threads)
    from importlib.metadata import version

    about = {"torch": version("torch"), "python": platform.python_version(), "machine": platform.machine()}
    about |= {"threads": str(given.threads), "rounds": str(given.rounds), "load": f"{os.getloadavg()[0]:.1f}"}
    document: dict[str, Any] = {"about": about, "size": asdict(size), "rows": rows}
    if given.only != "whole":
        document["agreement"] = agreement(rows)
    print(json.dumps(document, indent=1) if given.json else told(document))
    if document.get("agreement", 0.0) > 1e-4:
        raise SystemExit(f"Ours does not agree with the loop: {document['agreement']:.1e}")


if __name__ == "__main__":
    main()
