"""Dividing patients so that each part gets its share of every class: iterative stratification, for any number of labels.

The rarest label goes first, and each patient that has it to the part that still lacks most of it (Algorithm 1 of Sechidis,
Tsoumakas, Vlahavas (2011), "On the stratification of multi-label data"). What is divided here are groups, never single cases: a
patient counts with all its cases.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np

from comodal.data.cohort import Case, Cohort
from comodal.data.columns import TargetSpec, label_indices
from comodal.errors import ConfigError, message, nearest

SIZE = ""  # the label that every case has: parts get their share of cases too


def group_labels(cohort: Cohort, names: Sequence[str]) -> dict[str, Counter[str]]:
    """What the cases of each group are, as far as it is to be shared out evenly.

    Args:
        cohort: The cases.
        names: Targets of kind class, ordinal or multilabel; "site"; or modalities, of which having them is the label.

    Returns:
        {group: {label: number of its cases that have it}}; every case has the label `SIZE`.

    Raises:
        ConfigError: A name that is none of these.
    """
    specs = {spec.name: spec for spec in cohort.meta.columns}
    for name in names:
        spec = specs.get(name)
        if name != "site" and spec is None:
            do = nearest(name, [*specs, "site"])
            raise ConfigError(message("splits.stratify", "name columns of the cohort", repr(name), do=do))
        if isinstance(spec, TargetSpec) and spec.is_segmentation:
            do = "Name a target of classes, `site`, or a modality"
            raise ConfigError(message("splits.stratify", "name what the table alone tells", f"{name}, a segmentation", do=do))
    labels: dict[str, Counter[str]] = {}
    for case in cohort.cases:
        own = labels.setdefault(case.group, Counter())
        own[SIZE] += 1
        for name in names:
            own.update(_labels(case, name, specs.get(name)))
    return labels


def _labels(case: Case, name: str, spec: object) -> list[str]:
    if name == "site":
        return [f"site={case.site}"]
    cell = case.cells.get(name)
    if isinstance(spec, TargetSpec):
        return [] if cell is None else [f"{name}={spec.classes[i]}" for i in label_indices(spec, cell, subject=case.id)]
    return [] if cell is None else [f"{name}: present"]


def divide(labels: Mapping[str, Counter[str]], fractions: Sequence[float], seed: int) -> list[set[str]]:
    """Divides groups into parts, each with its share of every label.

    Args:
        labels: Of each group; see `group_labels`.
        fractions: Of the parts, at least one above 0.
        seed: Decides where several parts would do equally well.

    Returns:
        The groups of each part. A part with a fraction above 0 has at least one where there are enough groups.

    >>> labels = {f"p{i}": Counter({SIZE: 1, "ill": int(i < 4)}) for i in range(8)}
    >>> [sorted(part) for part in divide(labels, (0.25, 0.75), seed=0)]
    [['p1', 'p5'], ['p0', 'p2', 'p3', 'p4', 'p6', 'p7']]
    """
    order = [sorted(labels)[i] for i in np.random.default_rng(seed).permutation(len(labels))]
    totals: Counter[str] = Counter()
    for own in labels.values():
        totals.update(own)
    wanted = [{label: share * n / sum(fractions) for label, n in totals.items()} for share in fractions]
    open_parts = [k for k, share in enumerate(fractions) if share > 0]
    parts: list[set[str]] = [set() for _ in fractions]
    left = dict.fromkeys(order)
    while left:
        here: Counter[str] = Counter()
        for group in left:
            here.update(+labels[group])
        rare = min((label for label in here if label != SIZE), key=lambda label: (here[label], label), default=SIZE)
        for group in sorted((g for g in left if labels[g][rare]), key=lambda g: -labels[g][rare]):
            part = max(open_parts, key=lambda k: (wanted[k][rare], wanted[k][SIZE]))
            parts[part].add(group)
            for label, n in labels[group].items():
                wanted[part][label] -= n
            del left[group]
    _fill_empty(parts, open_parts, order)
    return parts


def _fill_empty(parts: list[set[str]], open_parts: Sequence[int], order: Sequence[str]) -> None:
    """Very small cohorts: a part that got nothing takes a group from the largest one."""
    for part in open_parts:
        largest = max(parts, key=len)
        if not parts[part] and len(largest) > 1:
            moved = next(group for group in order if group in largest)
            largest.remove(moved)
            parts[part].add(moved)
