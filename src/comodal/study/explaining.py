"""What each modality adds to another, for cases of a run: maps as files, weights as a table."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, get_args

from comodal.data.cohort import Case
from comodal.data.preprocessing import PreparedCase, Preparer
from comodal.errors import ConfigError, UnsupportedSubset, message, nearest
from comodal.explain import Explainer, load_explainer
from comodal.explain.explanation import VOXELS, Explanation, Pair, Voxels, row_scale
from comodal.explain.results import ExplainResults, results_of
from comodal.explain.walking import require_explains
from comodal.explain.weights import CaseWeights, case_weights, share_on_image
from comodal.explain.writing import write_maps
from comodal.inference.predictor import Device, can_predict
from comodal.method import Method
from comodal.modality import subset_name
from comodal.run import Run, write_json
from comodal.study.evaluating import cases_of, pick_device, usable
from comodal.training.events import Clock, Emit, Progress, Said, silent

NOTABLE = 0.25  # a weight worth a warning
CANCELLED = 0.2  # so little of the gradients is left; measured: below 0.17 with instance normalisation, above 0.85 with batch
TABLE = "weights.json"  # last of the files; where it is, a folder is ours


@dataclass(frozen=True)
class Question:
    """What is asked of a run.

    Attributes:
        subjects: Cases by name; None where a split is asked for.
        split: Of the run, or "all"; None where cases are named.
        use: Only these modalities are read; None is all.
        explainer: Key of EXPLAINERS.
        voxels: Key of VOXELS.

    Raises:
        ConfigError: Neither subjects nor a split, or both, or a name that is not known.
    """

    subjects: tuple[str, ...] | None = None
    split: str | None = None
    use: tuple[str, ...] | None = None
    explainer: str = "grad-cam"
    voxels: Voxels = "predicted"

    def __post_init__(self) -> None:
        if bool(self.subjects) == (self.split is not None):
            got = "both" if self.subjects else "neither"
            do = "Type --subject ID for a case (repeatable), or --split test for all cases of a split"
            raise ConfigError(message("comodal explain", "get either --subject or --split", got, do=do))
        load_explainer(self.explainer)
        if self.voxels not in get_args(Voxels):
            do = nearest(self.voxels, get_args(Voxels))
            raise ConfigError(message("--voxels", "be a known set of voxels", repr(self.voxels), do=do))

    def file_name(self, run: Run) -> str:
        """What the weights of the split are called in the run: the name of the split alone is that of the default."""
        parts = [re.sub(r"[^\w-]", "-", self.split or "")]
        if self.explainer != "grad-cam":
            parts.append(self.explainer)
        if self.voxels != "predicted" and self.explainer != "nats":  # which sums no logits
            parts.append(self.voxels)
        if len(names := usable(run, self.use)) < len(run.problem.names):
            parts.append(re.sub(r"[^\w+-]", "-", f"use-{subset_name(names)}"))
        return ".".join(parts)


@dataclass(frozen=True, eq=False)
class ExplainedCase:
    """One case.

    Attributes:
        prepared: Its images, as the method saw them; None once they are dropped.
        explanation: Heat on the grid of these.
        weights: Of Equations (16) and (17).
        files: Maps that were written.
        volume: Whether it is a volume, and not a picture.
        scales: {(primary, region): the largest heat, by which the maps of the pair were divided}.
        on_image: {(primary, region): {auxiliary: share of its heat where its image is not background; None without heat}}. A
            message says something of the background, too, and little heat on many voxels can make a large weight.
    """

    prepared: PreparedCase | None
    explanation: Explanation
    weights: CaseWeights
    files: tuple[Path, ...]
    volume: bool
    scales: Mapping[Pair, float]
    on_image: Mapping[Pair, Mapping[str, float | None]]

    def lighter(self, *more: Path) -> ExplainedCase:
        """The same without its arrays, so that a split fits in memory.

        Args:
            more: Files that were written besides.
        """
        bare = replace(self.explanation, heat={}, probabilities={}, nats_maps={})
        return replace(self, prepared=None, explanation=bare, files=(*self.files, *more))

    def summary(self) -> dict[str, Any]:
        """What `weights.json` says about it, as plain values."""
        found = self.explanation
        rows = [
            {
                "primary": primary,
                "region": region,
                "weights": dict(self.weights.weights[primary, region]),
                "on_image": dict(self.on_image[primary, region]),
                "agreement": {a: v for (p, r, a), v in found.agreement.items() if (p, r) == (primary, region)},
                "voxels": found.sizes.get((primary, region)),
                "largest_heat": scale,
                "left_out": self.weights.left_out.get((primary, region)),
            }
            for (primary, region), scale in self.scales.items()
        ]
        nats = [{"primary": p, "auxiliary": a, "nats": value} for (p, a), value in found.nats.items()]
        files = [file.name for file in self.files]
        return {"subject": self.weights.subject, "used": list(found.used), "rows": rows, "nats": nats, "files": files}


@dataclass(frozen=True)
class LeftOut:
    """A case of a split that could not be explained, and why."""

    subject: str
    reason: str


def explain_cases(
    run: Run, question: Question, out: Path, *, overwrite: bool = False, device: str = "auto", emit: Emit = silent
) -> Iterator[ExplainedCase | LeftOut]:
    """Explains case after case and writes its maps; only files of modalities in use, and of targets, are opened.

    Maps are `<out>/<case>/heat_<primary>_<region>_from_<auxiliary>` and `nats_<primary>_from_<auxiliary>`, in the geometry of
    the case's first image. Heat is divided by the largest of all auxiliaries of its pair, nats are per voxel of the coarse map.

    Args:
        run: Finished.
        question: What is asked.
        out: Folder.
        overwrite: Write into a folder that holds an earlier explanation.
        device: "auto", "cpu" or "cuda".
        emit: Listener.

    Returns:
        An iterator; everything that can be refused before work begins has been.

    Raises:
        ConfigError: The method does not explain, a name is unknown, or the folder holds something else.
        DataError: A named case has none of the wanted modalities, or a file is damaged.
        UnsupportedSubset: A named case has no primary with another modality.
    """
    names, cases = usable(run, question.use), _cases(run, question)
    check_folder(out, overwrite=overwrite)
    where = pick_device(device)
    method = run.method(where)
    require_explains(method)
    preparer = run.preparer()
    work = _Work(run, method, preparer, load_explainer(question.explainer), question, out, where)
    if not question.subjects:  # of a split one case without enough is no reason to stop
        return work.all(cases, names, emit)
    for case in cases:
        work.require(case, names)
    return work.all(cases, names, emit)


def _cases(run: Run, question: Question) -> list[Case]:
    if question.split is not None:
        return cases_of(run, question.split, None)
    known = {case.id: case for case in run.cohort.cases}
    for name in question.subjects or ():
        if name not in known:
            raise ConfigError(message("--subject", "name a case of the run", repr(name), do=nearest(name, known)))
    return [known[name] for name in dict.fromkeys(question.subjects or ())]


def check_folder(out: Path, *, overwrite: bool) -> None:
    """Refuses a folder in which something else lies.

    Args:
        out: A new or empty folder, or, with `overwrite`, one that holds an explanation.
        overwrite: Whether an earlier explanation may be replaced.

    Raises:
        ConfigError: It is a file, or holds something.
    """
    if out.exists() and not out.is_dir():
        raise ConfigError(message("--out", "be a folder", "a file", file=str(out), do="Choose another name"))
    inside = sorted(os.listdir(out)) if out.is_dir() else []
    if not inside or (overwrite and TABLE in inside):
        return
    ours = TABLE in inside
    got = "one with an earlier explanation" if ours else "one that holds " + ", ".join(inside[:3])
    do = "Choose another folder, or add --overwrite to replace it" if ours else "Choose another folder"
    raise ConfigError(message("--out", "be a new or empty folder", got, file=str(out), do=do))


@dataclass(frozen=True)
class _Work:
    """What holds for all cases."""

    run: Run
    method: Method
    preparer: Preparer
    explainer: Explainer
    question: Question
    out: Path
    device: Device

    def all(self, cases: Sequence[Case], names: Sequence[str], emit: Emit) -> Iterator[ExplainedCase | LeftOut]:
        clock = Clock(len(cases))
        for done, case in enumerate(cases, start=1):
            try:
                subset = self.require(case, names)
                yield self.one(case, subset)
            except UnsupportedSubset as error:
                if self.question.subjects:
                    raise
                yield LeftOut(case.id, str(error))
            emit(Progress("explaining", done, len(cases), clock.left(done)))

    def require(self, case: Case, names: Sequence[str]) -> tuple[str, ...]:
        """The modalities that are used of a case."""
        subset = tuple(name for name in names if name in case.cells)
        if not can_predict(self.method, subset):
            rule = f"have modalities from which {self.run.label} predicts"
            do = "Leave the subject out, or add a modality that it has to --use"
            raise UnsupportedSubset(message("a case to explain", rule, subset_name(subset) or "none", subject=case.id, do=do))
        return subset

    def one(self, case: Case, subset: tuple[str, ...]) -> ExplainedCase:
        prepared = self.preparer.case(case, use=subset)
        overlap, voxels = self.run.config.training.overlap, self.question.voxels
        found = self.explainer(self.method, prepared, subset=subset, voxels=voxels, overlap=overlap, device=self.device)
        problem = self.run.problem
        registered = [name for name in subset if problem.modality(name).grid == problem.grid]
        for old in (self.out / case.id).glob("*_from_*"):  # of an earlier explanation, perhaps from other modalities
            old.unlink()
        files = write_maps(self.preparer.cohort, prepared, found, used=registered, folder=self.out / case.id)
        weights = case_weights(found, subject=case.id, group=case.group)
        volume = problem.modality(registered[0]).spatial_dims == 3
        scales = {pair: row_scale(row) for pair, row in found.heat.items()}
        on_image = {
            pair: {a: share_on_image(prepared, heat, auxiliary=a, subset=subset) for a, heat in row.items()}
            for pair, row in found.heat.items()
        }
        return ExplainedCase(prepared, found, weights, files, volume, scales, on_image)


@dataclass(frozen=True)
class Explained:
    """All that was explained.

    Attributes:
        results: The table; of a split also a file of the run.
        document: What `weights.json` says.
        files: `weights.json`, and what else was written for all cases together.
    """

    results: ExplainResults
    document: dict[str, Any]
    files: tuple[Path, ...]


def conclude(
    run: Run, question: Question, cases: Sequence[ExplainedCase | LeftOut], *, out: Path, emit: Emit = silent
) -> Explained:
    """Puts the weights of all cases together and writes `weights.json`, of a split also `RUN/explain/<name>.json`.

    Args:
        run: The run.
        question: What was asked.
        cases: What `explain_cases` gave, without what is no longer needed.
        out: Folder.
        emit: Listener.

    Raises:
        UnsupportedSubset: No case could be explained.
    """
    done = [case for case in cases if isinstance(case, ExplainedCase)]
    without = [case for case in cases if isinstance(case, LeftOut)]
    if not done:
        rule, got = "have a case that can be explained", f"{len(without)} that cannot"
        do = f"The first: {without[0].reason}" if without else "Choose another split"
        raise UnsupportedSubset(message(f"split {question.split}", rule, got, do=do))
    voxels = done[0].explanation.voxels
    name = question.file_name(run) if question.split is not None else "subjects"
    weights = [case.weights for case in done] + [CaseWeights(case.subject, case.subject, {}, {}) for case in without]
    results = results_of(weights, explainer=question.explainer, voxels=voxels, split=name)
    notes = _notes(done, voxels)
    for case in without:
        emit(Said("warning", f"left out {case.subject}: {case.reason}"))
    document = {
        "schema": 1,
        "method": run.label,
        "explainer": question.explainer,
        "voxels": voxels,
        "split": question.split,
        "auxiliaries": list(results.auxiliaries),
        "rows": results.model_dump(mode="json")["rows"],
        "cases": [case.summary() for case in done],
        "left_out": [{"subject": case.subject, "reason": case.reason} for case in without],
        "notes": notes,
    }
    files = [out / TABLE]
    if question.split is not None:
        files.append(results.save(run.path / "explain" / f"{name}.json"))
    write_json(out / TABLE, document)
    return Explained(results, document, tuple(files))


def _notes(cases: Sequence[ExplainedCase], voxels: Voxels | None) -> list[str]:
    """What a reader must know about the weights."""
    notes = ["Weights of one row (primary, region) add up to 1 over its auxiliaries; they say nothing about other rows."]
    if all(len(row) == 1 for case in cases for row in case.weights.weights.values()):
        notes = ["There is one auxiliary only: its weight is 1 whatever it tells; look at heat and nats."]
    if voxels is not None:
        notes.append(f"Logits are summed over {VOXELS[voxels]}.")
    if len({case.explanation.used for case in cases}) > 1:
        notes.append("Cases have different modalities: means of a row need not add up to 1.")
    notes += _on_background(cases) + _cancelled(cases)
    reasons: dict[str, list[str]] = {}
    for case in cases:
        for (primary, region), reason in case.weights.left_out.items():
            reasons.setdefault(reason, []).append(f"{primary}: {region}")
    for reason, pairs in reasons.items():
        some = ", ".join(f"{pair} ({pairs.count(pair)} of {len(cases)} cases)" for pair in dict.fromkeys(pairs))
        notes.append(f"Without weights, {reason}: {some}.")
    return notes


def _cancelled(cases: Sequence[ExplainedCase]) -> list[str]:
    """Says where the gradients that Grad-CAM averages cancel."""
    counts: dict[str, int] = {}
    for case in cases:
        best: dict[Pair, float] = {}
        for (primary, region, _), left in case.explanation.agreement.items():  # of one that tells nothing it may be low anyway
            best[primary, region] = max(left, best.get((primary, region), 0.0))
        for primary, region in (pair for pair, left in best.items() if left < CANCELLED):
            counts[f"{primary}: {region}"] = counts.get(f"{primary}: {region}", 0) + 1
    if not counts:
        return []
    some = ", ".join(f"{pair} ({count} of {len(cases)} cases)" for pair, count in counts.items())
    why = f"the gradients cancel to less than {CANCELLED:.0%} in their mean, as instance normalisation makes them do"
    return [f"Where the heat of these lies may be chance, and their weights with it: {why}; use --explainer hires-cam: {some}."]


def _on_background(cases: Sequence[ExplainedCase]) -> list[str]:
    """Names weights that come from heat on the background of the image, which no message should be praised for."""
    counts: dict[str, int] = {}
    for case in cases:
        for (primary, region), row in case.weights.weights.items():
            for name, weight in row.items():
                share = case.on_image[primary, region][name]
                if weight is not None and weight >= NOTABLE and share is not None and share < 0.5:
                    key = f"{primary}: {region} from {name}"
                    counts[key] = counts.get(key, 0) + 1
    if not counts:
        return []
    some = ", ".join(f"{key} ({n} of {len(cases)} cases)" for key, n in counts.items())
    return [f"More than half of the heat lies on the background of the image, so that the weight says little: {some}."]
