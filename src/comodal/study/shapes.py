"""The verification task of CIML: what the complementary map holds in each run of a study, and how it changes with beta.

After the trainings each run is measured once (`comodal.evaluation.complement`), which is kept in its folder, and the runs of an
arm become medians over seeds.

Axis letters: X Y pixels.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from comodal.data.cohort import Cohort
from comodal.data.phantoms.ceilings import FILE as CEILINGS
from comodal.errors import ConfigError, RunError, message
from comodal.evaluation.comparison import combine
from comodal.evaluation.complement import KAPPAS, PARTS, measure_complement
from comodal.evaluation.table import StudyTable
from comodal.inference.predictor import predict_case
from comodal.run import Run, read_json, write_json
from comodal.study.evaluating import pick_device
from comodal.study.published_ciml import ShapesTable
from comodal.study.reproducing import labelled
from comodal.study.study import StudyResult
from comodal.study.variants import otherwise
from comodal.training.events import Clock, Emit, Progress, silent

Picture = NDArray[np.float32]
SHOWN = 4  # test cases in the figure of maps
COLLAPSED = 0.01  # kappa is worth less DSC than this: nothing is in it


@dataclass(frozen=True)
class Spread:
    """A number of several runs: median, smallest and largest. All None where no run has it."""

    median: float | None
    low: float | None
    high: float | None
    runs: int


@dataclass(frozen=True)
class ShapesLine:
    """One arm.

    Attributes:
        method: Label of the arm.
        kl: {part: nats per pixel}; parts are auxiliary_only, overlap, primary_only, background.
        redundancy_ratio: Nats per pixel of the overlap over those of auxiliary-only.
        purity: Share of all nats that lies in auxiliary-only.
        dsc: {"mean", "sampled", "zero"}: from the posterior mean of kappa, one draw of it, and kappa = 0.
        above: DSC from the posterior mean minus the best that is possible from the primary picture alone.
        collapsed: Runs whose DSC is at most COLLAPSED better with kappa than without.
    """

    method: str
    kl: Mapping[str, Spread]
    redundancy_ratio: Spread
    purity: Spread
    dsc: Mapping[str, Spread]
    above: Spread
    collapsed: int


@dataclass(frozen=True, eq=False)
class Panel:
    """One test case for the figure; every picture is (X, Y).

    Attributes:
        subject: Case.
        primary, auxiliary: As the network sees them.
        target: Bool.
        nats: {label of the arm: KL at each pixel}, of its first run.
    """

    subject: str
    primary: Picture
    auxiliary: Picture
    target: NDArray[np.bool_]
    nats: Mapping[str, Picture]


@dataclass(frozen=True)
class ShapesReproduction:
    """The verification task, as it was run.

    Attributes:
        table: What the paper says.
        study: What was run.
        lines: Arm by arm.
        combined: The evaluation of the runs, as a table of its own.
        cohort: What ours was run on, as tables call it.
        synthetic: Whether that is a phantom.
        cases: How many pairs it has.
        pair: Names of the primary and of the auxiliary picture.
        ceiling: The best DSC from the primary picture alone; None where the phantom does not say it.
        otherwise: What ours has otherwise than the study in the paper's configuration, in words.
    """

    table: ShapesTable
    study: StudyResult
    lines: tuple[ShapesLine, ...]
    combined: StudyTable
    cohort: str
    synthetic: bool
    cases: int
    pair: tuple[str, str]
    ceiling: float | None
    otherwise: tuple[str, ...]

    @property
    def same_data(self) -> bool:
        """Never: the paper's pairs are nowhere to be had."""
        return False


def beside_shapes(table: ShapesTable, study: StudyResult, *, emit: Emit = silent) -> ShapesReproduction:
    """Measures the runs of a study, as far as they have not been measured.

    Args:
        table: What the paper says.
        study: What was run.
        emit: Listener for progress.

    Raises:
        ConfigError: Arms have different primary pictures.
    """
    pair = _pair(study)
    csv = Path(study.config.cohort)
    ceiling = _ceiling(csv.parent / CEILINGS, pair[0], table.regions[0])
    total, done = sum(map(len, study.runs.values())), 0
    clock = Clock(total)
    measured: dict[str, list[Mapping[str, Any]]] = {}
    for label, folders in study.runs.items():
        for folder in folders:
            measured.setdefault(label, []).append(_measured(folder, pair, study))
            done += 1
            emit(Progress("measuring complementary maps", done, total, clock.left(done)))
    cohort = Cohort.load(csv)
    cases = labelled(cohort)
    return ShapesReproduction(
        table=table,
        study=study,
        lines=tuple(_line(label, found, ceiling) for label, found in measured.items()),
        combined=combine({study.reference: study.results[study.reference], **study.results}),
        cohort=next(found[0].cohort for found in study.results.values()),
        synthetic=any(note.startswith("synthetic") for note in cohort.meta.notes),
        cases=cases,
        pair=pair,
        ceiling=ceiling,
        otherwise=tuple(otherwise(table, study.config, cases)),
    )


def _pair(study: StudyResult) -> tuple[str, str]:
    """The primary and the auxiliary picture of all arms."""
    found: dict[tuple[str, str], str] = {}
    for label, folders in study.runs.items():
        method = Run.load(folders[0]).method()
        found.setdefault((str(getattr(method, "primary")), str(getattr(method, "auxiliary"))), label)  # noqa: B009
    if len(found) > 1:
        got = ", ".join(f"{primary} in {label}" for (primary, _), label in found.items())
        do = "Make a study of its own for each"
        raise ConfigError(message("method.primary", "be the same in every arm of this table", got, do=do))
    return next(iter(found))


def _ceiling(file: Path, primary: str, region: str) -> float | None:
    """The best DSC from the primary picture alone, from what the phantom says beside the cohort."""
    if not file.is_file():
        return None
    for item in read_json(file, CEILINGS):
        if item["metric"] == f"DSC/{region}" and item["present"] == [primary]:
            return float(item["value"])
    return None


def measured_file(run: Path, split: str) -> Path:
    """Where the measurement of a run is kept: not among its results, which all are of one schema."""
    return run / "complement" / f"{split}.json"


def _measured(folder: Path, pair: tuple[str, str], study: StudyResult) -> Mapping[str, Any]:
    """What `measure_complement` says of a run, measured once."""
    file, split = measured_file(folder, study.config.split), study.config.split
    run = Run.load(folder)
    ids = [case.id for case in run.cohort.cases] if split == "all" else list(run.splits[split])
    if file.is_file():
        try:
            known = read_json(file, "complement")
        except RunError:  # damaged: it is made anew
            known = {}
        if [known.get("primary"), known.get("auxiliary")] == [*pair] and known.get("n") == len(ids):
            return dict(known)
    device = pick_device(study.config.training.device)
    with run.cache_for(Path(run.config.data.cache) if run.config.data.cache else None) as cache:
        cases = [run.cohort.case(identifier) for identifier in ids]
        found = measure_complement(run.method(device), run.preparer(cache=cache), cases, pair=pair, device=device)
    file.parent.mkdir(exist_ok=True)
    write_json(file, found.to_dict())
    return dict(read_json(file, "complement"))


def _line(label: str, runs: Sequence[Mapping[str, Any]], ceiling: float | None) -> ShapesLine:
    dsc = {kappa: [run["dsc"][kappa]["value"] for run in runs] for kappa in KAPPAS}
    return ShapesLine(
        method=label,
        kl={part: spread(run["kl"][part]["value"] for run in runs) for part in PARTS},
        redundancy_ratio=spread(run["redundancy_ratio"]["value"] for run in runs),
        purity=spread(run["purity"]["value"] for run in runs),
        dsc={kappa: spread(values) for kappa, values in dsc.items()},
        above=spread(None if ceiling is None else value - ceiling for value in dsc["mean"]),
        collapsed=sum(kept - without <= COLLAPSED for kept, without in zip(dsc["mean"], dsc["zero"], strict=True)),
    )


def spread(values: Iterable[float | None]) -> Spread:
    """Median and range of what is known.

    Args:
        values: One of each run; None where it is not defined.

    >>> spread([0.3, None, 0.1])
    Spread(median=0.2, low=0.1, high=0.3, runs=2)
    """
    known = [value for value in values if value is not None]
    if not known:
        return Spread(None, None, None, 0)
    return Spread(float(statistics.median(known)), min(known), max(known), len(known))


def panels(found: ShapesReproduction) -> list[Panel]:
    """A few test cases through the first run of each arm.

    Args:
        found: What `beside_shapes` gives.
    """
    pair, split = found.pair, found.study.config.split
    first = {label: Run.load(folders[0]) for label, folders in found.study.runs.items()}
    reference = first[found.study.reference]
    ids = [c.id for c in reference.cohort.cases] if split == "all" else sorted(reference.splits[split])
    pictures: dict[str, dict[str, Picture]] = {identifier: {} for identifier in ids[:SHOWN]}
    seen: dict[str, tuple[Picture, Picture, NDArray[np.bool_]]] = {}
    for label, run in first.items():
        device = pick_device(found.study.config.training.device)
        method, target = run.method(device), run.problem.targets[0]
        with run.cache_for(Path(run.config.data.cache) if run.config.data.cache else None) as cache:
            preparer = run.preparer(cache=cache)
            for identifier, maps in pictures.items():
                case = preparer.case(run.cohort.case(identifier), use=pair, with_targets=False)
                ((_, said),) = predict_case(method, case, subsets=[pair], extras=True, device=device)
                maps[label] = _flat(said.extras["nats"][0])
                if label == found.study.reference:
                    truth, _ = preparer.truth(run.cohort.case(identifier), target.name)
                    whole = np.asarray(truth.any(axis=0) if target.kind == "regions" else truth != (target.background or 0))
                    one, two = (_flat(case.images[name][0]) for name in pair)
                    seen[identifier] = (one, two, _flat(whole).astype(bool))
    return [Panel(identifier, *seen[identifier], maps) for identifier, maps in pictures.items()]


def _flat(array: NDArray[Any]) -> Picture:
    """(X, Y): the middle slice where there are more."""
    values = np.asarray(array, dtype=np.float32)
    return values if values.ndim == 2 else values[..., values.shape[-1] // 2]
