"""Withholding: some patients are trained on as if they had never had a sequence or a label, at stated rates, on any cohort.

A patient's place in the draw follows from the seed, the column and the patient's name alone, so that neither the other
columns, nor their order, nor who else is in the cohort moves it, and methods that read other modalities of a cohort are
trained on the same patients. Only training cases lose anything: what validation and test have stays as it is. A case without
its label stays in the cohort: a stage that needs no label learns from it, and few labels are a setting like any other.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import replace

from comodal.data.cohort import Case, Cohort
from comodal.data.splits import SplitConfig, make_splits
from comodal.errors import ConfigError, message, nearest


def divided(cohort: Cohort, splits: SplitConfig, rates: Mapping[str, float]) -> tuple[Cohort, dict[str, list[str]]]:
    """A cohort as a training sees it.

    Args:
        cohort: As the user has it.
        splits: How it is divided; its seed is also that of what is withheld.
        rates: See `withhold`.

    Returns:
        The cohort without what is withheld, and {"train" | "val" | "test": case ids}.
    """
    parts = make_splits(cohort, splits)
    return withhold(cohort, rates, ids=parts["train"], seed=splits.seed), parts


def withhold(cohort: Cohort, rates: Mapping[str, float], *, ids: Iterable[str], seed: int) -> Cohort:
    """Blanks cells of training cases; all cases of a patient lose the same.

    Of the n patients that have a modality or a target, round(rate * n) lose it, but never the last of them, since a rate below
    1 asks for some that keep it. No case loses the last modality that it has in the cohort: such a patient is passed over and
    the next one drawn instead. So fewer lose it where there are not enough others, and where several modalities compete for the
    same patients, those that come first in the cohort's order are served first. A case may lose its last label.

    Args:
        cohort: Has the cases. It may have been withheld from before; both then count.
        rates: {modality or target: share of the training patients that have it, in [0, 1)}.
        ids: The training cases.
        seed: Of the draw.

    Returns:
        The cohort without these cells. Its `meta.withheld` holds them, and its notes say how many there are, and how many
        cases keep their label.

    Raises:
        ConfigError: A name is no modality and no target of the cohort.
    """
    names, targets = ([one.name for one in columns] for columns in (cohort.modalities, cohort.targets))
    for name in rates:
        if name not in (known := [*names, *targets]):
            rule = "name modalities or targets of the cohort"
            raise ConfigError(message("data.withhold", rule, repr(name), do=nearest(name, known)))
    patients: dict[str, list[Case]] = {}
    for case in cohort.select(ids).cases:
        patients.setdefault(case.group, []).append(case)
    left = {case.id: {name for name in names if name in case.cells} for cases in patients.values() for case in cases}
    taken: dict[str, list[Case]] = {}
    notes = []
    for name in (name for name in (*names, *targets) if rates.get(name)):
        having = {group: cases for group, own in patients.items() if (cases := [c for c in own if name in c.cells])}
        wanted, lost = min(round(rates[name] * len(having)), len(having) - 1), 0
        for group in sorted(having, key=lambda group: _place(seed, name, group)):
            if lost < wanted and all(left[case.id] != {name} for case in having[group]):
                lost += 1
                taken.setdefault(name, []).extend(having[group])
        for case in taken.get(name, ()):
            left[case.id].discard(name)
        share = f"{lost / max(len(having), 1):.3g} of them, asked for {rates[name]:.3g}"
        kept = sum(map(len, having.values())) - len(taken.get(name, ()))
        rest = f"; {kept} case{'' if kept == 1 else 's'} with a label left" if name in targets else ""
        notes.append(f"{name} was withheld from {lost} of the {len(having)} training patients that have it ({share}){rest}")
    return _without(cohort, taken, notes)


def _place(seed: int, column: str, group: str) -> bytes:
    """Where a patient stands in the order in which a modality or a target is taken away."""
    return hashlib.sha256(f"{seed}\n{column}\n{group}".encode()).digest()


def _without(cohort: Cohort, taken: Mapping[str, Iterable[Case]], notes: Iterable[str]) -> Cohort:
    """The cohort without these cells, which its yaml then holds: no number is lost that says which cohort this was."""
    withheld = {name: dict(cells) for name, cells in cohort.meta.withheld.items()}
    for name, cases in taken.items():
        withheld.setdefault(name, {}).update({case.id: case.cells[name] for case in cases})
    gone = {(case.id, name) for name, cases in taken.items() for case in cases}
    rows = [replace(c, cells={n: cell for n, cell in c.cells.items() if (c.id, n) not in gone}) for c in cohort.cases]
    meta = cohort.meta.model_copy(update={"withheld": withheld, "notes": [*cohort.meta.notes, *notes]})
    return replace(cohort, meta=meta, cases=tuple(rows))
