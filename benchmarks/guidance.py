"""Stages 2 and 3 of `guidance` on cached latents against encoding every case anew in every epoch.

Both are trainings of the library, from an open cohort to a finished run, each in a process of its own: the same stages G and
decoder, of the same method with a frozen ResNet18 for each modality, on the same draws. In one the stages are as they are,
`inputs: encoded`; in the other they are told `inputs: raw`, so that the frozen encoders see every picture of every batch, in
eval mode and without gradient. A tiny training first shows that both end with the same weights.

What a process cost is what the system says of it when it ends: CPU seconds and the most memory that it held, its start and
imports included. Encoding anew takes hours at the full length, and its cost is linear in the number of epochs: it is measured
at two short lengths, a line through these is what is reported for the full length, and a third length between them shows how
well the line fits. `--whole` measures the full length instead. Candidates take turns; the ratio within a round is the number to
trust. See README.md beside this file.

    python benchmarks/guidance.py [--rounds 1] [--threads 2] [--whole] [--json] [--small]
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # before torch: spinning threads would be counted as work
os.environ.setdefault("GOMP_SPINCOUNT", "0")

import argparse
import json
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from PIL import Image
from torch import Tensor

from comodal import data
from comodal.batch import Batch
from comodal.config import RunConfig, validated
from comodal.method import MethodConfig, Stage
from comodal.methods import METHODS, Entry
from comodal.methods.guidance import Guidance, GuidanceConfig
from comodal.training.train import train_run

MODALITIES = ("superior", "inferior")
CLASSES = 5
TWO = ("guidance", "decoder")


class Cached(Guidance):
    """The two stages alone, as they are."""

    Config: ClassVar[type[MethodConfig]] = GuidanceConfig

    def stages(self) -> tuple[Stage, ...]:
        """G and the decoder."""
        return tuple(replace(stage, monitor=None) for stage in super().stages() if stage.name in TWO)


class Raw(Cached):
    """The same, encoding in every step."""

    def stages(self) -> tuple[Stage, ...]:
        """G and the decoder, from pictures."""
        return tuple(replace(stage, inputs="raw") for stage in super().stages())

    def losses(self, batch: Batch, stage: Stage) -> dict[str, Tensor]:
        """As they are; the decoder's pay for the inferior picture alone, the only one that they need."""
        return super().losses(batch.keep(self.cheaper) if stage.name == "decoder" else batch, stage)


WAYS = {"cached": Cached, "raw": Raw}


@dataclass(frozen=True)
class Size:
    """What is trained.

    Attributes:
        cases: All for training.
        side: Pixels along X and Y.
        encoder: Of both modalities.
        batch: Cases in a step.
        epochs: Of each of the two stages.
        short: Lengths at which encoding anew is measured: the outer two make the line, those between test it.
    """

    cases: int = 1000
    side: int = 128
    encoder: str = "resnet18"
    batch: int = 50
    epochs: int = 50
    short: tuple[int, ...] = (1, 2, 3)


FULL = Size()
SMALL = Size(cases=12, side=32, encoder="resnet10-quarter", batch=4, epochs=4, short=(1, 2, 3))


@dataclass(frozen=True)
class Cost:
    """What a process took: processor seconds, seconds on the clock, and the most memory at a time in MiB."""

    cpu_seconds: float
    seconds: float
    peak_mib: float


def write_cohort(folder: Path, size: Size) -> Path:
    """Pictures of smooth noise, two of each case, whose class is in both."""
    rng, lines = np.random.default_rng(0), ["subject,split,superior,inferior,diagnosis"]
    for k in range(size.cases):
        for name in MODALITIES:
            coarse = rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)
            coarse[..., 0] = (coarse[..., 0] // 2 + k % CLASSES * 25).astype(np.uint8)
            (folder / name).mkdir(parents=True, exist_ok=True)
            Image.fromarray(coarse).resize((size.side, size.side), Image.Resampling.BICUBIC).save(folder / name / f"{k}.png")
        lines.append(f"case{k:04d},train,superior/{k}.png,inferior/{k}.png,class{k % CLASSES}")
    (folder / "table.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return data.index("csv", folder / "table.csv").save(folder / "cohort.csv")


def trained(way: str, out: Path, cohort: Path, *, size: Size, epochs: int, threads: int) -> Path:
    """Trains in this process; the run folder."""
    METHODS[f"guidance-{way}"] = Entry(f"{__name__}:{WAYS[way].__name__}", "a benchmark", ("classification",), "", "", "")
    values: dict[str, Any] = {
        "cohort": str(cohort),
        "method": {
            "name": f"guidance-{way}",
            "superior": ["superior"],
            "encoder": size.encoder,
            "guide_epochs": epochs,
            "guide_batch": size.batch,
            "guide_rate": 0.01,  # latents of encoders that were not trained
            "decoder_epochs": epochs,
            "decoder_batch": size.batch,
        },
        "data": {"spatial_dims": 2, "patch": [size.side, size.side], "augment": "none"},
        "training": {"batch_size": size.batch, "device": "cpu", "threads": threads, "validations": 0},
    }
    return train_run(validated(RunConfig, values, "benchmark").resolved(), out).path


def agreement(folder: Path, cohort: Path, size: Size, threads: int) -> float:
    """The largest difference between the weights that both ways end with: a batch has not the latents of one to the last bit.

    Raises:
        AssertionError: They do not learn the same.
    """
    from comodal.run import read_weights

    files = [trained(way, folder / way, cohort, size=size, epochs=3, threads=threads) / "weights.safetensors" for way in WAYS]
    first, second = (read_weights(file) for file in files)
    found = max(float((first[name].float() - second[name].float()).abs().max()) for name in first)
    assert set(first) == set(second), "they have other weights"
    assert found < 1e-3, found
    return found


def cost(way: str, out: Path, cohort: Path, *, epochs: int, small: bool, threads: int) -> Cost:
    """Trains in a process of its own."""
    words = [sys.executable, __file__, "--child", way, str(out), str(cohort), str(epochs), "--threads", str(threads)]
    words += ["--small"] if small else []
    began = time.perf_counter()
    with subprocess.Popen(words, stdout=subprocess.DEVNULL) as process:
        _, status, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"{way}: exit code {process.returncode}")
    kib = used.ru_maxrss / (1024 if sys.platform == "darwin" else 1)
    return Cost(used.ru_utime + used.ru_stime, time.perf_counter() - began, kib / 1024)


def line(lengths: Sequence[int], values: Sequence[float], at: int) -> float:
    """What a line through the first and the last of some lengths says at another one."""
    slope = (values[-1] - values[0]) / (lengths[-1] - lengths[0])
    return values[0] + slope * (at - lengths[0])


def one_round(folder: Path, cohort: Path, size: Size, *, whole: bool, small: bool, threads: int) -> dict[str, Any]:
    """Every candidate once."""
    plan = [("cached", size.epochs), ("cached", 1), *(("raw", n) for n in ((size.epochs,) if whole else size.short))]
    costs: dict[tuple[str, int], Cost] = {}
    for way, epochs in plan:
        with tempfile.TemporaryDirectory(dir=folder) as place:
            costs[way, epochs] = cost(way, Path(place) / "run", cohort, epochs=epochs, small=small, threads=threads)
    found: dict[str, Any] = {"costs": [{"way": w, "epochs": n, **asdict(one)} for (w, n), one in costs.items()]}
    ours = costs["cached", size.epochs].cpu_seconds
    if whole:
        theirs = costs["raw", size.epochs].cpu_seconds
    else:
        used = [costs["raw", n].cpu_seconds for n in size.short]
        theirs = line(size.short, used, size.epochs)
        found["line"] = {str(n): used[k] / line(size.short, used, n) for k, n in enumerate(size.short) if 0 < k < len(used) - 1}
    return found | {"cached": ours, "raw": theirs, "ratio": theirs / ours}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=1, help="turns of each candidate")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--whole", action="store_true", help="encode anew for the full length, which takes hours")
    parser.add_argument("--json", action="store_true", help="one document on standard output")
    parser.add_argument("--small", action="store_true", help="tiny sizes, to see that it runs")
    parser.add_argument("--child", nargs=4, help=argparse.SUPPRESS)
    given = parser.parse_args()
    size = SMALL if given.small else FULL
    if given.child:
        way, out, cohort, epochs = given.child
        trained(way, Path(out), Path(cohort), size=size, epochs=int(epochs), threads=given.threads)
        return
    with tempfile.TemporaryDirectory() as folder:
        tiny = write_cohort(Path(folder) / "tiny", SMALL)
        same = agreement(Path(folder), tiny, SMALL, given.threads)
        cohort = write_cohort(Path(folder) / "full", size)
        how = {"whole": given.whole, "small": given.small, "threads": given.threads}
        rounds = [one_round(Path(folder), cohort, size, **how) for _ in range(given.rounds)]
    from importlib.metadata import version

    about = {"torch": version("torch"), "monai": version("monai"), "python": platform.python_version()}
    about |= {"machine": platform.machine(), "threads": str(given.threads), "load": f"{os.getloadavg()[0]:.1f}"}
    ratios = [one["ratio"] for one in rounds]
    document = {"about": about, "size": asdict(size), "agreement": same, "whole": given.whole, "rounds": rounds}
    document["ratio"] = statistics.median(ratios)
    print(json.dumps(document, indent=1) if given.json else told(document))


def told(document: Mapping[str, Any]) -> str:
    """The table."""
    size, rounds = document["size"], document["rounds"]
    lines = [", ".join(f"{key} {value}" for key, value in document["about"].items())]
    lines.append(f"{size['cases']} cases, 2 pictures of {size['side']} x {size['side']} each, {size['encoder']}")
    lines.append(f"largest difference between the weights of a tiny training: {document['agreement']:.1e}")
    lines += ["", "| inputs | epochs | CPU s | s | peak MiB |", "| --- | ---: | ---: | ---: | ---: |"]
    for k, one in enumerate(rounds[0]["costs"]):
        each = [r["costs"][k] for r in rounds]
        cpu, wall, peak = (statistics.median(c[key] for c in each) for key in ("cpu_seconds", "seconds", "peak_mib"))
        lines.append(f"| {one['way']} | {one['epochs']} + {one['epochs']} | {cpu:.1f} | {wall:.1f} | {peak:.0f} |")
    length = f"{size['epochs']} + {size['epochs']}"
    if not document["whole"]:
        raw, ends = statistics.median(r["raw"] for r in rounds), f"{size['short'][0]} and {size['short'][-1]}"
        lines.append(f"| raw, by the line through {ends} | {length} | {raw:.1f} | | |")
        fits = "; ".join(f"at {n}: {share:.3f}" for r in rounds for n, share in r["line"].items())
        lines.append(f"\nmeasured over the line between its ends: {fits}")
    ratios = [r["ratio"] for r in rounds]
    spread = f" ({min(ratios):.1f} to {max(ratios):.1f})" if len(ratios) > 1 else ""
    lines.append(f"raw over cached, CPU seconds, {length} epochs: {document['ratio']:.1f}{spread}")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
