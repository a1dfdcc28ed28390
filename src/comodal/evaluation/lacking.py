"""What the training cases of a run lack: counted from its cohort and splits, and said in one sentence below its tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from comodal.data.cohort import Cohort
from comodal.evaluation.results import Results, TrainingCases


def training_cases(
    cohort: Cohort, ids: Sequence[str], modalities: Sequence[str], *, targets: Sequence[str] = ()
) -> TrainingCases:
    """Counts the training cases that lack a modality, whatever the cause, and those whose label was withheld.

    Args:
        cohort: The run's own.
        ids: The training cases.
        modalities: Those of the run's problem.
        targets: The same.
    """
    cases = cohort.select(ids).cases
    known = {case.id for case in cases}
    withheld = {name: len(known & cells.keys()) for name, cells in cohort.meta.withheld.items()}
    taken = {name: withheld.get(name, 0) for name in modalities}
    gone = {name: withheld[name] for name in targets if withheld.get(name)}
    return TrainingCases(
        n=len(cases),
        lacking={name: sum(name not in case.cells for case in cases) for name in modalities},
        withheld={name: count for name, count in taken.items() if count},
        none=sum(not any(name in case.cells for name in modalities) for case in cases),
        labelled={name: sum(name in case.cells for case in cases) for name in gone},
        unlabelled=gone,
    )


def lacking_note(results: Mapping[str, Sequence[Results]]) -> str:
    """How many training cases lack which modality.

    Args:
        results: {label of the method: its runs}. Where runs differ, as folds do, the smallest and the largest share are named.

    Returns:
        "training cases without: t1 4/48, t1ce 20/48 (withheld: t1ce 15)", by method where they differ, and after it how many
        have none of the modalities that a run reads; "" where no training case lacks anything or no result knows. Of targets
        whose labels were withheld it says how many training cases keep one.
    """
    known = {label: [run.training for run in runs if run.training is not None] for label, runs in results.items()}
    parts = {label: _parts(runs) for label, runs in known.items() if runs}
    kept = _kept_labels({label: known[label] for label in parts})
    if not any(lacking for lacking, _ in parts.values()):
        return "; ".join(kept)
    # methods that read other modalities of the same cases agree in those that they share
    have = {label: {name for run in known[label] for name in run.lacking} for label in parts}
    shared = _merged([lacking for lacking, _ in parts.values()], list(have.values()))
    withheld = _merged([taken for _, taken in parts.values()], list(have.values()))
    if shared is not None and withheld is not None:
        said = f"training cases without: {_text(shared, withheld)}"
    else:
        said = "training cases without, " + "; ".join(f"{label}: {_text(*part)}" for label, part in parts.items())
    return "; ".join([said, *_without_any({label: known[label] for label in parts}), *kept])


def _kept_labels(known: Mapping[str, Sequence[TrainingCases]]) -> list[str]:
    """How many training cases keep their label, where some were withheld: together where all methods say the same."""
    told: dict[str, str] = {}
    for label, runs in known.items():
        names = dict.fromkeys(name for run in runs for name in run.unlabelled)
        shares = {name: _range([_share(run, name) for run in runs]) for name in names}
        told[label] = ", ".join(f"{name} {share}" for name, share in shares.items())
    if len(set(told.values())) == 1:
        told = {"": next(iter(told.values()))}
    said = "training cases that keep their label"
    return [f"{said}{f', {label}' if label else ''}: {text}" for label, text in told.items() if text]


def _share(run: TrainingCases, name: str) -> tuple[int, int]:
    """(labelled cases left, labelled cases before); of a run from which nothing was withheld nobody counted them."""
    kept = run.labelled.get(name, 0)
    return kept, kept + run.unlabelled.get(name, 0)


def _without_any(known: Mapping[str, Sequence[TrainingCases]]) -> list[str]:
    """How many cases take no part: one sentence where all methods say the same, else one for each that has some."""
    counts = {label: _range([(run.none, run.n) for run in runs]) for label, runs in known.items()}
    have = {label: text for label, text in counts.items() if any(run.none for run in known[label])}
    if not have:
        return []
    told = (
        {"": counts.popitem()[1]} if len(set(counts.values())) == 1 else {f" by {label}": text for label, text in have.items()}
    )
    return [f"{text} have none of the modalities read{by} and take no part" for by, text in told.items()]


def _range(counts: Sequence[tuple[int, int]]) -> str:
    """The smallest and the largest share, e.g. "4/48" or "3/48 to 5/47"."""
    ordered = sorted(set(counts), key=lambda pair: pair[0] / max(pair[1], 1))
    return " to ".join(f"{few}/{n}" for few, n in dict.fromkeys((ordered[0], ordered[-1])))


def _parts(runs: Sequence[TrainingCases]) -> tuple[dict[str, str], dict[str, str]]:
    """{modality: "4/48"} of those that some case lacks, and {modality: "15"} of those that were withheld."""
    lacking, withheld = {}, {}
    for name in dict.fromkeys(name for run in runs for name in run.lacking):
        if any(run.lacking.get(name) for run in runs):
            lacking[name] = _range([(run.lacking.get(name, 0), run.n) for run in runs])
        taken = sorted({run.withheld.get(name, 0) for run in runs})
        if taken[-1]:
            withheld[name] = " to ".join(str(count) for count in dict.fromkeys((taken[0], taken[-1])))
    return lacking, withheld


def _merged(parts: Sequence[Mapping[str, str]], have: Sequence[set[str]]) -> dict[str, str] | None:
    """What all say together, None where two that read a modality do not agree on it."""
    found = {name: text for part in parts for name, text in part.items()}
    agreed = all(
        part.get(name) == text for part, names in zip(parts, have, strict=True) for name, text in found.items() if name in names
    )
    return found if agreed else None


def _text(lacking: Mapping[str, str], withheld: Mapping[str, str]) -> str:
    said = ", ".join(f"{name} {share}" for name, share in lacking.items()) or "none"
    taken = ", ".join(f"{name} {count}" for name, count in withheld.items())
    return f"{said} (withheld: {taken})" if taken else said
