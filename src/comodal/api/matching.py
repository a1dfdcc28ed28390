"""Matching: what a run that learned images and reports together makes of both."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from comodal.data.cohort import Cohort
from comodal.errors import ConfigError, message
from comodal.evaluation.matching import MatchResults
from comodal.run import Run
from comodal.study.matching import Request, match_run
from comodal.training.events import Emit, silent

if TYPE_CHECKING:
    PathLike = Path | str


@dataclass(frozen=True)
class Matches:
    """What `match` found. results: the numbers; file: where they lie in the run; figures: pictures that were written."""

    results: MatchResults
    file: Path
    figures: tuple[Path, ...]


def match(
    run: PathLike | Run,
    *,
    split: str = "test",
    cohort: PathLike | None = None,
    prompts: PathLike | None = None,
    phrases: PathLike | None = None,
    out: PathLike | None = None,
    subjects: str | Sequence[str] | None = None,
    raw: bool | None = None,
    device: str = "auto",
    on_event: Emit = silent,
) -> Matches:
    """Retrieval, classes by prompts and grounding of a run, written to `RUN/matching/<name>.json`.

    Args:
        run: A finished run of a method that scores images with reports.
        split: "train", "val", "test" or "all".
        cohort: Another cohort.csv with the run's columns.
        prompts: YAML {target: {class: {positive: [...], negative: [...]}}}; None takes the sentences that are shipped.
        phrases: A phrases.csv with true places; see `comodal.data.phrases`.
        out: A new or empty folder for figures: of each case the maps of its sentences.
        subjects: Cases to draw; None chooses a few.
        raw: True leaves scores as the method says, False takes off the level of each region or image, None what the training of
            the method leaves free; see docs/matching.md.
        device: "auto", "cpu" or "cuda".
        on_event: Listener.

    Returns:
        Numbers and files.

    Raises:
        ConfigError: The method does not match, a name is unknown, or the folder holds something.
        DataError: A file is missing or damaged.
        UnsupportedSubset: The run has no image or no text.
    """
    from comodal.reporting.grounding import grounding_picture

    loaded, folder = run if isinstance(run, Run) else Run.load(Path(run)), None if out is None else Path(out)
    named = (subjects,) if isinstance(subjects, str) else None if subjects is None else tuple(subjects)
    if folder is None and named is not None:
        raise ConfigError(message("--subject", "go with --out", "no folder", do="Add --out DIR"))
    if folder is not None:
        _check_folder(folder)
    request = Request(
        split=split,
        cohort=None if cohort is None else Cohort.load(Path(cohort)),
        prompts=None if prompts is None else Path(prompts),
        phrases=None if phrases is None else Path(phrases),
        subjects=named,
        raw=raw,
    )
    found = match_run(loaded, request, figures=folder is not None, device=device, emit=on_event)
    files = []
    for case in found.drawn if folder is not None else ():
        assert folder is not None
        folder.mkdir(parents=True, exist_ok=True)
        files.append(folder / f"{case.subject}.png")
        files[-1].write_bytes(grounding_picture(case))
    return Matches(found.results, found.file, tuple(files))


def _check_folder(out: Path) -> None:
    if out.exists() and not out.is_dir():
        raise ConfigError(message("--out", "be a folder", "a file", file=str(out), do="Choose another name"))
    inside = sorted(os.listdir(out)) if out.is_dir() else []
    if inside:
        got = "one that holds " + ", ".join(inside[:3])
        raise ConfigError(message("--out", "be a new or empty folder", got, file=str(out), do="Choose another folder"))
