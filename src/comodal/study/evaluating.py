"""A trained run on a split: its results and a few examples, written into the run folder."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch

from comodal.data.cohort import Case, Cohort
from comodal.errors import ConfigError, DataError, message, nearest
from comodal.evaluation.examples import make_examples, save_examples
from comodal.evaluation.results import Results
from comodal.evaluation.subsets import evaluate
from comodal.modality import subsets as all_subsets
from comodal.run import Run
from comodal.training.events import Clock, Emit, Progress, silent


def pick_device(device: str) -> str:
    """The device meant: for "auto" a GPU where there is one."""
    return ("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device


def parse_subsets(text: str, names: Sequence[str]) -> list[tuple[str, ...]]:
    """From "all" or "flair,t1;t2" to subsets in canonical order.

    Args:
        text: As typed.
        names: The modalities that may be used, in canonical order.

    Raises:
        ConfigError: An unknown name; the message lists the nearest known ones.

    >>> parse_subsets("t1,flair;t1", ["flair", "t1"])
    [('t1',), ('flair', 't1')]
    """
    every = list(all_subsets(names))
    if text == "all":
        return every
    wanted = set()
    for part in text.split(";"):
        members = [name.strip() for name in part.replace("+", ",").split(",") if name.strip()]
        check_names(members, names, "--subsets")
        if members:
            wanted.add(tuple(name for name in names if name in members))
    if not wanted:
        raise ConfigError(message("--subsets", 'be "all" or subsets such as "flair,t1;t2"', repr(text), do="Name a modality"))
    return [subset for subset in every if subset in wanted]


def check_names(given: Sequence[str], known: Sequence[str], owner: str) -> None:
    """Refuses a modality that the run does not know."""
    for name in given:
        if name not in known:
            raise ConfigError(message(owner, "name modalities of the run", repr(name), do=nearest(name, known)))


def usable(run: Run, use: Sequence[str] | None) -> tuple[str, ...]:
    """The modalities that may be read, in canonical order."""
    check_names(use or (), run.problem.names, "--use")
    return tuple(name for name in run.problem.names if use is None or name in use)


def cases_of(run: Run, split: str, cohort: Cohort | None) -> list[Case]:
    """The cases of a split; "all" takes every one, and so does another cohort than the run's own.

    Raises:
        ConfigError: No such split.
    """
    if split == "all" or cohort is not None:
        return list((cohort or run.cohort).cases)
    if split not in run.splits:
        raise ConfigError(message("--split", "be a split of the run", repr(split), do=nearest(split, [*run.splits, "all"])))
    return [run.cohort.case(i) for i in run.splits[split]]


def evaluate_run(
    run: Run,
    *,
    split: str = "test",
    subsets: str = "all",
    use: Sequence[str] | None = None,
    cohort: Cohort | None = None,
    device: str = "auto",
    examples: bool = True,
    emit: Emit = silent,
) -> Results:
    """Evaluates a run on every subset and writes `results/<split>.json` and, for segmentations, `examples/`.

    Another cohort's results go into a file of its own, `results/<stem of its csv>.json`, and leave the examples alone.

    Args:
        run: Trained.
        split: One of the run's, or "all".
        subsets: "all", or "flair,t1;t2".
        use: Only these modalities are read; None is all.
        cohort: Another cohort with the run's columns.
        device: "auto", "cpu" or "cuda".
        examples: Also write the predictions that the page shows.
        emit: Listener for progress.

    Returns:
        The results.

    Raises:
        DataError: No case of the split has a target and a usable modality.
    """
    names = usable(run, use)
    targets = [t.name for t in run.problem.targets]
    chosen = [
        c for c in cases_of(run, split, cohort) if any(t in c.cells for t in targets) and any(n in c.cells for n in names)
    ]
    if not chosen:
        rule = f"have a case with a target ({', '.join(targets)}) and one of {', '.join(names)}"
        raise DataError(message(f"split {split}", rule, "none", do="Choose another split, or fill the cohort's columns"))
    where = pick_device(device)
    method = run.method(where)
    preparer = run.preparer(cohort, cache=run.cache)
    source = cohort or run.cohort
    clocks: dict[int, Clock] = {}

    def progress(done: int, total: int, text: str) -> None:
        clock = clocks.setdefault(total, Clock(total))
        emit(Progress("evaluating", done, total, clock.left(done), text))

    results = evaluate(
        method,
        preparer,
        chosen,
        subsets=parse_subsets(subsets, names),
        seed=run.config.training.seed,
        method_name=run.label,
        cohort_name=cohort_name(source),
        split=name_of(split, cohort),
        device=where,
        overlap=run.config.training.overlap,
        on_progress=progress,
    )
    results.save(run.path / "results" / f"{results.split}.json")
    if examples and cohort is None and run.problem.task == "segmentation":
        made = make_examples(method, preparer, chosen, results, device=where)
        save_examples(run.path / "examples", made)
    return results


def cohort_name(cohort: Cohort) -> str:
    """How tables call a cohort: its layout (its file where that is the user's own), and whether it is synthetic."""
    name = cohort.meta.layout if cohort.meta.layout != "csv" or cohort.path is None else cohort.path.stem
    return f"{name} (synthetic)" if any(note.startswith("synthetic") for note in cohort.meta.notes) else name


def name_of(split: str, cohort: Cohort | None) -> str:
    """What a result is called: the split, or another cohort by its file, never in the place of a split."""
    if cohort is None:
        return split
    stem = cohort.path.stem if cohort.path is not None else "other"
    return f"cohort-{stem}" if stem in ("train", "val", "test", "all") else stem


def finished(run: Run, split: str) -> Results | None:
    """The results of a run where it was trained, and evaluated on every subset, before."""
    known = run.results(split) if (run.path / "weights.safetensors").is_file() else None
    whole = {frozenset(subset) for subset in all_subsets(run.problem.names)}
    return known if known is not None and {frozenset(row.present) for row in known.subsets} == whole else None


def run_folder(root: Path, label: str, seed: int, fold: int | None) -> Path:
    """Where a study keeps one run."""
    return root / "runs" / (f"{label}-seed{seed}" + ("" if fold is None else f"-fold{fold}"))
