"""A trained run on the images and reports of a split: retrieval, classes by prompts, and where sentences point."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import TypeAdapter, ValidationError

import comodal.data
from comodal.config import read_yaml
from comodal.data.cohort import Case, Cohort
from comodal.data.phrases import read_phrases
from comodal.errors import ConfigError, DataError, message, nearest
from comodal.evaluation import grounding, prompts, retrieval
from comodal.evaluation.matching import MatchResults
from comodal.evaluation.prompts import ClassPrompts, Prompts
from comodal.evaluation.results import MetricValue
from comodal.inference.matching import images_and_text, require_matches
from comodal.modality import subsets
from comodal.run import Run
from comodal.study.evaluating import cases_of, cohort_name, name_of, notes_of, pick_device
from comodal.study.pointing import DrawnCase, draw, point
from comodal.study.seen import Seen, Work, key_of
from comodal.training.events import Clock, Emit, Progress, Said, silent

RAW = "as the method says"
OF_SENTENCES = (
    "of a sentence at a region, or of a report with an image: that of the method minus the log mean exp of what this sentence, "
    "or report, scores with the images of these cases"
)
CONTRASTED = (
    "of a sentence at a region, or of a report with an image: that of the method minus the log mean exp of what this region or "
    "image scores with the sentences, or reports, of these cases"
)
CONVENTIONS = {"retrieval": retrieval.CONVENTION, "zero_shot": prompts.CONVENTION, "grounding": grounding.CONVENTION}
SHIPPED = Path(comodal.data.__file__).parent / "tables" / "prompts.yaml"


@dataclass(frozen=True)
class Request:
    """What is asked of a run.

    Attributes:
        split: Of the run, or "all".
        cohort: Another cohort with the run's columns.
        prompts: A YAML file {target: {class: {positive: [...], negative: [...]}}}; None takes what is shipped.
        phrases: A `phrases.csv`; None judges no grounding.
        subjects: Cases to draw; None chooses a few.
        raw: Whether scores stay as the method says, True, or lose the level of their region or image, False, see
            `comodal.inference.matching.levels_of`; None: they lose what the training leaves free, see `Method.compared`.
    """

    split: str = "test"
    cohort: Cohort | None = None
    prompts: Path | None = None
    phrases: Path | None = None
    subjects: tuple[str, ...] | None = None
    raw: bool | None = None


@dataclass(frozen=True, eq=False)
class Matched:
    """What was found. file: where the results lie in the run; drawn: cases for figures."""

    results: MatchResults
    file: Path
    drawn: tuple[DrawnCase, ...]


def match_run(run: Run, request: Request, *, figures: bool = False, device: str = "auto", emit: Emit = silent) -> Matched:
    """Asks a run how well images and reports belong together, and writes `RUN/matching/<name>.json`.

    Retrieval takes cases with image and report, prompts those with an image and a label, phrases those with an image.

    Args:
        run: Trained, of a method that has `match`.
        request: What is asked.
        figures: Whether cases are prepared for figures.
        device: "auto", "cpu" or "cuda".
        emit: Listener.

    Raises:
        ConfigError: The method does not match, a name is unknown, or it has no regions and phrases are given.
        DataError: No case with an image, or a file is damaged.
        UnsupportedSubset: The run has no image or no text.
    """
    where = pick_device(device)
    method = run.method(where)
    require_matches(method)
    images, text = images_and_text(run.problem)
    asked = _prompts(run, request.prompts)
    phrases = () if request.phrases is None else read_phrases(request.phrases)
    if phrases or figures:
        _require_pictures(run, images)
    cases = _cases(run, request, images)
    labels = request.cohort is None or {t.name for t in run.problem.targets} <= {t.name for t in request.cohort.targets}
    work = Work(run, method, run.preparer(request.cohort, targets=labels), where, images, text)
    work.notes += notes_of(run, cases, request.cohort)
    seen, clock = [], Clock(len(cases))
    for done, case in enumerate(cases, start=1):
        seen.append(work.see(case))
        emit(Progress("reading", done, len(cases), clock.left(done)))
    paired = [one for one in seen if one.text is not None]
    if len(paired) < len(seen):
        work.notes.append(f"{len(seen) - len(paired)} of {len(seen)} cases have no report: they take no part in retrieval.")
    if not request.raw:
        work.level(seen, compared=None if request.raw is None else "sentences")
    found: dict[str, Any] = {}
    if phrases:
        found |= point(work, seen, phrases)
    found |= _retrieve(work, paired)
    found |= _ask(work, seen, asked, "default" if request.prompts is None else request.prompts.name)
    drawn = draw(work, seen, phrases, subjects=request.subjects) if figures else ()
    results = MatchResults(
        method=run.label,
        cohort=cohort_name(request.cohort or run.cohort),
        split=_name(run, request),
        seed=run.config.training.seed,
        conventions=CONVENTIONS | {"scores": CONTRASTED if work.levels else OF_SENTENCES if work.pool else RAW},
        phrases="" if request.phrases is None else request.phrases.name,
        notes=tuple(work.notes),
        **found,
    )
    for note in work.notes:
        emit(Said("info", note))
    file = results.save(run.path / "matching" / f"{results.split}.json")
    return Matched(results, file, drawn)


def _cases(run: Run, request: Request, images: Sequence[str]) -> list[Case]:
    every = cases_of(run, request.split, request.cohort)
    cases = [case for case in every if all(name in case.cells for name in images)]
    if not cases:
        rule, do = f"have a case with {', '.join(images)}", "Choose another split"
        raise DataError(message(f"split {request.split}", rule, "none", do=do))
    known = {case.id for case in cases}
    for name in request.subjects or ():
        if name not in known:
            raise ConfigError(message("--subject", "name a case with an image", repr(name), do=nearest(name, known)))
    return cases


def _require_pictures(run: Run, images: Sequence[str]) -> None:
    """Places of phrases, and figures, are of pictures."""
    for name in images:
        if run.problem.modality(name).spatial_dims != 2:
            do = "Leave out --phrases and --out: retrieval and prompts need no places"
            raise ConfigError(message("grounding", "be of pictures", "a volume", modality=name, do=do))


def _name(run: Run, request: Request) -> str:
    """What the results are called: other prompts, or phrases, do not take the place of a call without."""
    names = run.problem.names
    base = name_of(run, request.split, list(subsets(names)), use=names, cohort=request.cohort)
    parts = [("prompts", request.prompts), ("phrases", request.phrases)]
    named = [f"{what}-{re.sub(r'[^A-Za-z0-9_-]', '-', file.stem)}" for what, file in parts if file is not None]
    return ".".join([base, *named, *([] if request.raw is None else ["raw" if request.raw else "contrasted"])])


def _prompts(run: Run, file: Path | None) -> Prompts:
    if file is None:
        shipped = TypeAdapter(dict[str, ClassPrompts]).validate_python(read_yaml(SHIPPED, "prompts"))
        return prompts.fitting_prompts(shipped, run.problem.targets)
    try:
        read = TypeAdapter(dict[str, dict[str, ClassPrompts]]).validate_python(read_yaml(file, "--prompts"))
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        got = f"{'.'.join(map(str, first['loc'])) or 'the file'}: {first['msg']}"
        rule, do = "be {target: {class: {positive: [sentences], negative: [sentences]}}}", "Correct the file"
        raise ConfigError(message("--prompts", rule, got, do=do, file=str(file))) from None
    return prompts.check_prompts(read, run.problem.targets)


def _retrieve(work: Work, paired: Sequence[Seen]) -> dict[str, Any]:
    if len(paired) < 2:
        work.notes.append("No retrieval: fewer than two cases have image and report.")
        return {}
    texts = [one.text for one in paired if one.text is not None]
    keys, groups = [key_of(text) for text in texts], [one.case.group for one in paired]
    repeated = len(keys) - len(set(keys))
    if repeated:
        work.notes.append(f"Retrieval: {len(set(keys))} distinct reports among {len(keys)}.")
    return {"retrieval": retrieval.retrieval(work.scores(paired, texts).reports, keys, groups)}


def _ask(work: Work, seen: Sequence[Seen], asked: Prompts, source: str) -> dict[str, Any]:
    """Classes by prompts, among the cases that have a label."""
    sentences = prompts.sentences_of(asked)
    found: dict[str, MetricValue] = {}
    if not sentences:
        work.notes.append("No classes by prompts: none are shipped for the classes of this run. Give --prompts FILE.")
        return {}
    scores = work.scores(seen, work.encode(sentences, "prompts")).reports
    for target in work.run.problem.targets:
        if target.name not in asked:
            continue
        classes = tuple(asked[target.name])
        values = [_truth(one, target.name) for one in seen]
        kept = np.array([value is not None for value in values])
        if not kept.any():
            work.notes.append(f"No classes by prompts: no case has the label {target.name}.")
            continue
        truth = prompts.truth_columns(target, [value for value in values if value is not None], classes)
        groups = [one.case.group for one, yes in zip(seen, kept, strict=True) if yes]
        columns = prompts.class_scores(scores[kept], sentences, asked[target.name])
        found |= prompts.zero_shot(columns, truth, classes, target=target.name, groups=groups)
    return {"prompts": source, "zero_shot": found}


def _truth(one: Seen, target: str) -> Any:
    """A class number, or (K,) with NaN where nobody knows; None without a label."""
    if target not in one.targets:
        return None
    value, labelled = np.asarray(one.targets[target][...]), np.asarray(one.labelled[target])
    return int(value) if value.ndim == 0 else np.where(labelled, value.astype(float), np.nan)
