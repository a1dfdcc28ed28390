"""A trained run on a split: its results and a few examples, written into the run folder."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch

from comodal.data.cohort import Case, Cohort
from comodal.errors import ConfigError, DataError, message, nearest
from comodal.evaluation.examples import make_examples, save_examples
from comodal.evaluation.lacking import training_cases
from comodal.evaluation.results import Results
from comodal.evaluation.subsets import evaluate
from comodal.modality import subset_name
from comodal.modality import subsets as all_subsets
from comodal.run import Run
from comodal.training.events import Clock, Emit, Progress, silent


def pick_device(device: str) -> str:
    """The device meant: for "auto" a GPU where there is one.

    Raises:
        ConfigError: "cuda", and this machine has no GPU.
    """
    if device == "cuda" and not torch.cuda.is_available():
        do = "Choose cpu, or auto for a GPU where there is one"
        raise ConfigError(message("--device", "be there on this machine", "cuda without a GPU", do=do))
    return ("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device


def parse_subsets(text: str, names: Sequence[str]) -> list[tuple[str, ...]]:
    """From "all", "complete" or "flair,t1;t2" to subsets in canonical order.

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
    if text == "complete":
        return every[-1:]
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
    cache: Path | None = None,
    emit: Emit = silent,
) -> Results:
    """Evaluates a run on every subset and writes `results/<name>.json` and, for segmentations, `examples/<name>/`.

    The name is that of the split, see `name_of`: what is restricted to some modalities or subsets, what is of another cohort,
    and what is of other settings at test (`Run.at_test`) has a name of its own and takes the place of nothing. Another cohort
    gives no examples.

    Args:
        run: Trained.
        split: One of the run's, or "all".
        subsets: "all", "complete" (all modalities together), or "flair,t1;t2".
        use: Only these modalities are read; None is all.
        cohort: Another cohort with the run's columns.
        device: "auto", "cpu" or "cuda".
        examples: Also write the predictions that the page shows.
        cache: Folder of prepared arrays; None takes one that is deleted afterwards.
        emit: Listener for progress.

    Returns:
        The results; their `split` is the name.

    Raises:
        DataError: No case of the split has a target and a usable modality, or a file is damaged.
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
    wanted = parse_subsets(subsets, names)
    source, overlap = cohort or run.cohort, run.config.training.overlap
    clocks: dict[int, Clock] = {}

    def progress(done: int, total: int, text: str) -> None:
        clock = clocks.setdefault(total, Clock(total))
        emit(Progress("evaluating", done, total, clock.left(done), text))

    with run.cache_for(cache) as folder:
        preparer = run.preparer(cohort, cache=folder)
        with _saying_what_to_leave_out(names):
            results = evaluate(
                method,
                preparer,
                chosen,
                subsets=wanted,
                use=names,
                seed=run.config.training.seed,
                method_name=run.label,
                cohort_name=cohort_name(source),
                split=name_of(run, split, wanted, use=names, cohort=cohort),
                device=where,
                overlap=overlap,
                on_progress=progress,
            )
        notes = (*results.notes, *notes_of(run, chosen, cohort))
        targets = [target.name for target in run.problem.targets]
        trained_on = training_cases(run.cohort, run.splits.get("train", []), run.problem.names, targets=targets)
        results = results.model_copy(update={"notes": notes, "training": trained_on})
        results.save(run.path / "results" / f"{results.split}.json")
        if examples and cohort is None and run.problem.task == "segmentation":
            made = make_examples(method, preparer, chosen, results=results, device=where, overlap=overlap)
            save_examples(run.path / "examples" / results.split, made)
    return results


def notes_of(run: Run, cases: Sequence[Case], cohort: Cohort | None) -> tuple[str, ...]:
    """What must stand beside any number of a run: settings at test, and patients whom it may have seen before.

    Args:
        run: As it is asked.
        cases: Those that are asked about.
        cohort: Theirs where it is another than the run's own.
    """
    return (*_set_at_test(run), *_seen_before(run, cases, cohort), *_leakage(run))


def _set_at_test(run: Run) -> list[str]:
    """Says what is otherwise than it was trained with."""
    told = ", ".join(f"{key} {value}" for key, value in run.changed.items())
    return [f"Set at test, otherwise than in the training: {told}."] if told else []


def _seen_before(run: Run, cases: Sequence[Case], cohort: Cohort | None) -> list[str]:
    """Says where cases of another cohort are called like patients of the training."""
    if cohort is None:
        return []
    groups = {run.cohort.case(i).group for part in ("train", "val") for i in run.splits.get(part, [])}
    known = sum(case.group in groups for case in cases)
    if not known:
        return []
    return [
        f"{known} of {len(cases)} cases are called like patients of the training: these numbers may not be those of new ones."
    ]


def _leakage(run: Run) -> list[str]:
    """Says in every report that patients stand on two sides, and why that was asked for."""
    reason = run.config.splits.allow_leakage
    groups: dict[str, set[str]] = {}
    for part, ids in run.splits.items():
        for identifier in ids:
            groups.setdefault(run.cohort.case(identifier).group, set()).add(part)
    both = sum(len(parts) > 1 for parts in groups.values())
    return (
        [f"{both} patients stand in several splits, on purpose ({reason}): these numbers are too good."]
        if reason and both
        else []
    )


def cohort_name(cohort: Cohort) -> str:
    """How tables call a cohort: its layout (its file where that is the user's own), and whether it is synthetic."""
    name = cohort.meta.layout if cohort.meta.layout != "csv" or cohort.path is None else cohort.path.stem
    return f"{name} (synthetic)" if any(note.startswith("synthetic") for note in cohort.meta.notes) else name


@contextmanager
def _saying_what_to_leave_out(names: Sequence[str]) -> Iterator[None]:
    """A damaged image stops an evaluation; where others remain, the message says how to go on without that modality."""
    try:
        yield
    except DataError as error:
        said = re.search(r"[\[ ]modality ([^,\]]+)[,\]]", str(error))
        rest = [name for name in names if said is not None and name != said[1]]
        if not rest or len(rest) == len(names):
            raise
        raise DataError(f"{error} Or evaluate without {said[1] if said else ''}: --use {','.join(rest)}.") from error


def name_of(
    run: Run, split: str, wanted: Sequence[tuple[str, ...]], *, use: Sequence[str], cohort: Cohort | None = None
) -> str:
    """What a result, and so its file, is called: the name of a split alone is that of its evaluation on every subset.

    Args:
        run: Evaluated.
        split: Of the run.
        wanted: The subsets.
        use: The modalities that may be read.
        cohort: Another cohort than the run's; it is named by folder, file and a short hash of its path.

    Returns:
        For instance "test", "test.use-flair+t1", "test.subsets-flair_flair+t1", "test.read_out-inferior",
        "clinic-cohort-1f0c22ab".
    """
    base = re.sub(r"[^\w-]", "-", split) if cohort is None else _cohort_slug(cohort)
    details = [f"{key}-{value}" for key, value in run.changed.items()]
    if set(wanted) != set(all_subsets(run.problem.names)):
        every = set(wanted) == set(all_subsets(use))
        named = [subset_name(use)] if every else [subset_name(subset) for subset in wanted]
        details.insert(0, f"{'use' if every else 'subsets'}-{'_'.join(named)}")
    return ".".join([base, *map(_slug, details)])


def _slug(detail: str) -> str:
    """A part of a file's name; what had to be changed or cut has a hash of the whole."""
    plain = re.sub(r"[^\w+-]", "-", detail)
    return plain if plain == detail and len(plain) <= 80 else f"{plain[:60]}-{_short_hash(detail)}"


def _cohort_slug(cohort: Cohort) -> str:
    path = "other" if cohort.path is None else os.path.abspath(cohort.path)
    words = [Path(path).parent.name, Path(path).stem] if cohort.path is not None else [path]
    return re.sub(r"[^\w-]", "-", "-".join(word for word in words if word))[:60] + f"-{_short_hash(path)}"


def _short_hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:8]


def finished(run: Run, split: str, subsets: str = "all") -> Results | None:
    """The results of a run where it was trained, and evaluated on these subsets, before."""
    wanted = parse_subsets(subsets, run.problem.names)
    name = name_of(run, split, wanted, use=run.problem.names)
    known = run.results(name) if (run.path / "weights.safetensors").is_file() else None
    rows = {frozenset(subset) for subset in wanted}
    return known if known is not None and {frozenset(row.present) for row in known.subsets} == rows else None


def run_folder(root: Path, label: str, *, seed: int, fold: int | None, division: int | None = None) -> Path:
    """Where a study keeps one run."""
    parts = [f"{label}-seed{seed}"]
    parts += [f"{what}{number}" for what, number in (("division", division), ("fold", fold)) if number is not None]
    return root / "runs" / "-".join(parts)
