"""The certificate: every estimator, with trained critics, against truths that are known.

Critics are trained on fresh pairs and read on pairs that they never saw: 2048 of them, all pairs (InfoNCE: batches of 64, as in
training). Two processes of one thread each; what is done is kept in a file, so that a second call goes on. Writes the table
into docs/information.md and the figure beside it.

    python benchmarks/information.py [--small] [--out FOLDER] [--kept FILE]
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # before torch
os.environ.setdefault("GOMP_SPINCOUNT", "0")

import argparse
import json
import math
import multiprocessing
import statistics
import time
import zlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from torch import Generator, Tensor

ROOT = Path(__file__).resolve().parents[1]
BATCH = 64
HELD = 2048
OBJECTIVES = ("dv", "mine", "nwj", "info_nce", "jsd", "density")
# What is read from a critic that was trained for what. SMILE and DEMI are trained by Jensen-Shannon.
READINGS = {"dv": ("dv",), "mine": ("mine",), "nwj": ("nwj",), "info_nce": ("info_nce",), "jsd": ("smile", "demi")}
READINGS |= {"density": ("club", "leave_one_out")}
SHOWN = ("dv", "mine", "nwj", "info_nce", "smile", "demi", "club", "leave_one_out")
BEGIN, END = "<!-- certificate: begin -->", "<!-- certificate: end -->"
Draw = Callable[[int, "Generator"], "tuple[Tensor, Tensor]"]


@dataclass(frozen=True)
class Case:
    """A joint distribution whose information is known.

    Attributes:
        family: Heading of the table and panel of the figure.
        truth: Nats.
        draw: (pairs, generator) to x and y.
        hidden: Width of the two hidden layers.
        steps: Of training.
        rate: Of Adam at the start; it falls to 0 along a cosine.
        seeds: Trainings.
        about: To tell cases of one family apart.
    """

    family: str
    truth: float
    draw: Draw
    hidden: int
    steps: int
    rate: float
    seeds: int
    about: str = ""

    @property
    def name(self) -> str:
        return f"{self.family}, I = {self.truth:.3g}{self.about}"

    @property
    def settings(self) -> str:
        """What a kept result must have been made with."""
        return f"hidden {self.hidden}, {self.steps} steps, rate {self.rate:g}"


def gaussian(n: int, generator: Generator, *, truth: float, dimensions: int, cubic: bool, shuffled: bool) -> Any:
    from comodal.information.closed import correlated_gaussians

    x, y = correlated_gaussians(n, truth, dimensions, generator=generator, cubic=cubic)
    return x, y.roll(1, 0) if shuffled else y


def crossed(n: int, generator: Generator) -> Any:
    from comodal.information.closed import crossed_gaussians

    return crossed_gaussians(n, 0.9, generator=generator)


TABLE = ((8, 1, 1, 1, 1), (1, 6, 1, 1, 1), (1, 1, 7, 1, 5), (2, 1, 1, 9, 1))


def discrete(n: int, generator: Generator) -> Any:
    import torch

    weights = torch.tensor(TABLE, dtype=torch.float).flatten()
    drawn = torch.multinomial(weights, n, replacement=True, generator=generator)
    return tuple(torch.nn.functional.one_hot(part, size).float() for part, size in ((drawn // 5, 4), (drawn % 5, 5)))


def cases(small: bool) -> list[Case]:
    """What is measured; `small`: the same code on next to nothing."""
    from comodal.information.closed import crossed_information
    from comodal.information.discrete import Joint

    found = []
    few, many = ((8, 20, 3e-3, 1), (8, 20, 1e-3, 1)) if small else ((64, 600, 3e-3, 3), (128, 2000, 7e-4, 1))
    twice = (*many[:3], 1 if small else 2)  # where something is promised
    for dimensions, truths in ((1, (0.0, 0.5, 1.0, 2.0)), (2, (0.0, 0.5, 1.0, 2.0)), (20, (0.0, 2.0, 4.0, 6.0, 8.0, 10.0))):
        for truth in truths[: 2 if small else None]:
            draw = partial(gaussian, truth=truth, dimensions=dimensions, cubic=False, shuffled=False)
            plural = "s" if dimensions > 1 else ""
            size = few if dimensions < 20 else twice if truth <= 2 else many
            found.append(Case(f"Gaussian, {dimensions} dimension{plural}", truth, draw, *size))
    for truth in (2.0, 6.0)[: 1 if small else None]:
        draw = partial(gaussian, truth=truth, dimensions=20, cubic=True, shuffled=False)
        found.append(Case("Cubic transform, 20 dimensions", truth, draw, *many))
    draw = partial(gaussian, truth=2.0, dimensions=20, cubic=False, shuffled=True)
    found.append(Case("Shuffled control, 20 dimensions", 0.0, draw, *twice, about=" (pairs of I = 2, shuffled)"))
    table = np.array(TABLE) / np.sum(TABLE)
    found.append(Case("Discrete table, 4 x 5", Joint(("x", "y"), table).information("x", "y"), discrete, *few))
    found.append(Case("Mixture of correlations .9 and -.9", crossed_information(0.9), crossed, *few))
    return found


def measure(unit: tuple[Case, str, int]) -> list[dict[str, Any]]:
    """Trains one critic (or density) and reads it: one row per estimator."""
    import torch

    torch.set_num_threads(1)
    case, objective, seed = unit
    number = zlib.crc32(f"{case.name}/{objective}".encode()) + seed
    torch.manual_seed(number)
    generator = torch.Generator().manual_seed(number)
    began = time.process_time()
    scores = train(case, objective, generator)
    with torch.no_grad():
        held = readings(objective, scores(*case.draw(HELD, generator)))
        batches = [readings(objective, scores(*case.draw(BATCH, generator))) for _ in range(200)]
    rows = []
    for name in READINGS[objective]:
        values = [batch[name] for batch in batches]
        value = statistics.fmean(values) if name == "info_nce" else held[name]
        rows.append({"case": case.name, "estimator": name, "seed": seed, "value": value, "spread": statistics.stdev(values)})
        rows[-1] |= {"settings": case.settings, "most": max(values), "cpu_seconds": time.process_time() - began}
    return rows


def train(case: Case, objective: str, generator: Generator) -> Callable[[Tensor, Tensor], Any]:
    """From (x, y) to the scores of all pairs, by a trained critic."""
    import torch

    from comodal.information.conditional import ConditionalGaussian
    from comodal.information.critics import ConcatCritic
    from comodal.information.objective import Objective
    from comodal.information.pairs import contrast

    features = [part.shape[1] for part in case.draw(2, generator)]
    network: Objective | ConditionalGaussian
    if objective == "density":
        network = ConditionalGaussian(features[0], features[1], hidden=(case.hidden,))
    else:
        network = Objective(ConcatCritic(features[0], features[1], hidden=(case.hidden, case.hidden)), bound=objective)
    optimiser = torch.optim.Adam(network.parameters(), lr=case.rate)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, case.steps)
    for _ in range(case.steps):
        if isinstance(network, Objective):
            gain = network(*case.draw(BATCH, generator))
        else:
            gain = network.log_density(*case.draw(4 * BATCH, generator)).mean()
        optimiser.zero_grad()
        (-gain).backward()
        optimiser.step()
        schedule.step()
    return partial(contrast, network.critic) if isinstance(network, Objective) else network.scores


def readings(objective: str, scores: Any) -> dict[str, float]:
    from comodal.information import bounds
    from comodal.information.estimators import ESTIMATORS

    found = {}
    for name in READINGS[objective]:
        seen = scores.columns() if name == "leave_one_out" else scores
        function: Any = bounds.donsker_varadhan if name == "mine" else ESTIMATORS[name].function
        found[name] = float(function(seen.joint, seen.marginal, seen.negative))
    return found


def measured(units: Sequence[tuple[Case, str, int]], kept: Path) -> list[dict[str, Any]]:
    """All rows; what the file holds is not measured again."""
    wanted = {(case.name, case.settings) for case, _, _ in units}
    rows = json.loads(kept.read_text(encoding="utf-8")) if kept.is_file() else []
    rows = [row for row in rows if (row["case"], row["settings"]) in wanted]
    done = {(row["case"], row["estimator"], row["seed"]) for row in rows}
    left = [unit for unit in units if (unit[0].name, READINGS[unit[1]][0], unit[2]) not in done]
    left.sort(key=lambda unit: -unit[0].steps * unit[0].hidden)  # the long ones first, so that both processes end together
    kept.parent.mkdir(parents=True, exist_ok=True)
    began = time.monotonic()
    with multiprocessing.get_context("spawn").Pool(2) as pool:
        for count, new in enumerate(pool.imap_unordered(measure, left), start=1):
            rows += new
            kept.write_text(json.dumps(rows), encoding="utf-8")
            seconds = (time.monotonic() - began) / count * (len(left) - count)
            words = ", ".join(f"{row['estimator']} {row['value']:.3f}" for row in new)
            print(f"{count}/{len(left)}  {new[0]['case']}: {words}  ({seconds / 60:.0f} min left)", flush=True)
    return rows


def summary(rows: Iterable[dict[str, Any]]) -> dict[tuple[str, str], dict[str, float]]:
    """{(case, estimator): mean over seeds of value and spread, the seeds' deviation, the highest batch}."""
    by: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for row in rows:
        by.setdefault((row["case"], row["estimator"]), []).append(row)
    return {
        key: {
            "value": statistics.fmean(row["value"] for row in some),
            "spread": statistics.fmean(row["spread"] for row in some),
            "most": max(row["most"] for row in some),
            "furthest": max((row["value"] for row in some), key=abs),
        }
        for key, some in by.items()
    }


def promises(found: dict[tuple[str, str], dict[str, float]], which: Sequence[Case]) -> list[tuple[str, bool, str]]:
    """(what must hold, whether it does, the numbers)."""
    by = {(case.family, case.truth): case.name for case in which}
    two, zero = by[("Gaussian, 20 dimensions", 2.0)], by[("Gaussian, 20 dimensions", 0.0)]
    shuffled = by[("Shuffled control, 20 dimensions", 0.0)]

    def told(case: str, names: Sequence[str]) -> str:
        return ", ".join(f"{label(name)} {found[case, name]['value']:.3f}" for name in names)

    near, bounds_ = ("dv", "nwj", "demi", "smile"), ("dv", "mine", "nwj", "info_nce", "smile", "demi")
    contrast = found[two, "info_nce"]
    return [
        (
            "20 dimensions, I = 2: DV, NWJ, DEMI and SMILE within 0.25 nats",
            all(abs(found[two, name]["value"] - 2) <= 0.25 for name in near),
            told(two, near),
        ),
        (
            "20 dimensions, I = 2: InfoNCE within 0.35 nats, and below log 64 = 4.159 in every batch of every case",
            abs(contrast["value"] - 2) <= 0.35
            and all(found[case.name, "info_nce"]["most"] <= math.log(BATCH) + 1e-5 for case in which),
            told(two, ("info_nce",)),
        ),
        ("I = 0: all within 0.1 nats", all(abs(found[zero, n]["furthest"]) <= 0.1 for n in bounds_), told(zero, bounds_)),
        (
            "Shuffled control: all within 0.05 nats",
            all(abs(found[shuffled, n]["furthest"]) <= 0.05 for n in bounds_),
            told(shuffled, bounds_),
        ),
    ]


def label(name: str) -> str:
    from comodal.information.estimators import ESTIMATORS

    return {"dv": "DV", "leave_one_out": "L1-out"}.get(name, ESTIMATORS[name].label)


def text(found: dict[tuple[str, str], dict[str, float]], which: Sequence[Case]) -> str:
    """The table in Markdown."""
    lines = ["| case | truth | " + " | ".join(label(name) for name in SHOWN) + " |", "| --- " * (len(SHOWN) + 2) + "|"]
    for case in which:
        cells = []
        for name in SHOWN:
            one = found[case.name, name]
            cells.append(f"{one['value']:.2f} ({one['value'] - case.truth:+.2f}) ± {one['spread']:.2f}")
        lines.append(f"| {case.family}{case.about} | {case.truth:.3f} | " + " | ".join(cells) + " |")
    lines += ["", "| must hold | holds | numbers |", "| --- | --- | --- |"]
    lines += [f"| {rule} | {'yes' if holds else '**no**'} | {numbers} |" for rule, holds, numbers in promises(found, which)]
    return "\n".join(lines)


def draw_figure(found: dict[tuple[str, str], dict[str, float]], which: Sequence[Case], file: Path) -> None:
    """Estimate against truth, and bias with the spread of batches, for the families with several truths."""
    from comodal.reporting.figures import new_figure, style

    families = [f for f in dict.fromkeys(case.family for case in which) if sum(case.family == f for case in which) > 1]
    with style("information"):
        figure = new_figure(12.0, 6.2)
        axes = figure.subplots(2, len(families), squeeze=False)
        for column, family in enumerate(families):
            panels(axes[0][column], axes[1][column], [case for case in which if case.family == family], found)
            axes[0][column].set_title(family, fontsize=9, loc="left", fontweight="bold")
        axes[0][0].set_ylabel("estimate (nats)")
        axes[1][0].set_ylabel("estimate - truth (nats)")
        handles, names = axes[0][0].get_legend_handles_labels()
        figure.legend(handles, names, loc="lower center", ncols=len(names), frameon=False, fontsize=8)
        figure.subplots_adjust(left=0.06, right=0.99, top=0.95, bottom=0.13, hspace=0.22, wspace=0.22)
        figure.savefig(file, dpi=110, metadata={"Software": None})


def panels(top: Axes, bottom: Axes, own: Sequence[Case], found: dict[tuple[str, str], dict[str, float]]) -> None:
    from comodal.reporting.figures import FAINT, INK, METHOD_COLOURS, METHOD_MARKERS, SOFT

    truths = [case.truth for case in own]
    width = max(truths) or 1.0
    top.plot([0, width], [0, width], color=INK, linewidth=1.0, label="truth")
    bottom.axhline(0, color=INK, linewidth=1.0)
    colours, markers = (*METHOD_COLOURS, SOFT), (*METHOD_MARKERS, "*")
    for place, name in enumerate(SHOWN):
        values = [found[case.name, name]["value"] for case in own]
        spread = [found[case.name, name]["spread"] for case in own]
        shift = (place - (len(SHOWN) - 1) / 2) * width * 0.008
        at = [truth + shift for truth in truths]
        look: dict[str, Any] = {"color": colours[place], "marker": markers[place], "markersize": 4.5, "linewidth": 0.9}
        top.plot(at, values, label=label(name), **look)
        bottom.errorbar(at, [v - t for v, t in zip(values, truths, strict=True)], yerr=spread, elinewidth=0.7, **look)
    limit = math.log(BATCH)
    if limit < 1.2 * width:
        top.axhline(limit, color=METHOD_COLOURS[3], linewidth=0.8, linestyle=(0, (4, 3)))
        top.text(0, limit, f"log {BATCH}", color=METHOD_COLOURS[3], fontsize=7.5, va="bottom")
    top.set_ylim(-0.12 * width, 1.6 * width)
    bottom.set_ylim(-0.55 * width, 0.55 * width)
    bottom.set_xlabel("true information (nats)")
    for axis in (top, bottom):
        axis.grid(color=FAINT, linewidth=0.6)
        axis.set_axisbelow(True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--small", action="store_true", help="next to no training, to see that it runs; in ./build")
    parser.add_argument("--out", type=Path, help="folder of information.md and images/, docs by default")
    parser.add_argument("--kept", type=Path, help="what is done already; a file in ./build by default")
    given = parser.parse_args()
    given.out = given.out or (ROOT / "build" / "small" if given.small else ROOT / "docs")
    given.kept = given.kept or ROOT / "build" / f"information{'-small' if given.small else ''}.json"
    which = cases(given.small)
    units = [(case, objective, seed) for case in which for objective in OBJECTIVES for seed in range(case.seeds)]
    began = time.monotonic()
    found = summary(measured(units, given.kept))
    made = text(found, which)
    print(made)
    (given.out / "images").mkdir(parents=True, exist_ok=True)
    draw_figure(found, which, given.out / "images" / "information.png")
    page = given.out / "information.md"
    before = page.read_text(encoding="utf-8") if page.is_file() else f"{BEGIN}\n{END}\n"
    head, rest = before.split(BEGIN)[0], before.split(END)[1]
    page.write_text(f"{head}{BEGIN}\n{made}\n{END}{rest}", encoding="utf-8")
    print(f"{(time.monotonic() - began) / 60:.1f} minutes")
    if not given.small and not all(holds for _, holds, _ in promises(found, which)):
        raise SystemExit("Not everything that must hold does: see the table.")


if __name__ == "__main__":
    main()
