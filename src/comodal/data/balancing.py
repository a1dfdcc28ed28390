"""Classes of training cases: how many have each, and how often to draw each case so that all classes are equally often seen."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from comodal.data.cohort import Case, Cohort, TargetSpec
from comodal.data.targets import class_labelled, class_target
from comodal.errors import ConfigError, message, nearest
from comodal.modality import Target

Floats = NDArray[np.float64]


def _answers(cohort: Cohort, case: Case, target: Target) -> tuple[Floats, NDArray[np.bool_]] | None:
    """((K,) 0 or 1, (K,) known) of a case that has the target."""
    spec = cohort.spec(target.name)
    if target.name not in case.cells or not isinstance(spec, TargetSpec):
        return None
    found = class_target(spec, case.cells[target.name], subject=case.id)
    if target.kind == "multilabel":
        return found.astype(float), np.asarray(class_labelled(spec, case.cells[target.name], subject=case.id))
    return np.eye(len(target.classes))[int(found)], np.ones(len(target.classes), dtype=bool)


def class_counts(cohort: Cohort, ids: Iterable[str], targets: Iterable[Target]) -> dict[str, tuple[tuple[int, int], ...]]:
    """How many of some cases have each class, see `Problem.counts`.

    Args:
        cohort: Has the cases.
        ids: Of the cases.
        targets: Those of classes are counted.

    Returns:
        {target: for each class (cases that have it, cases of which that is known)}.
    """
    cases = [cohort.case(identifier) for identifier in ids]
    found = {}
    for target in (target for target in targets if not target.is_segmentation):
        rows = [row for case in cases if (row := _answers(cohort, case, target)) is not None]
        have = sum((answers * known for answers, known in rows), np.zeros(len(target.classes)))
        known = sum((known.astype(float) for _, known in rows), np.zeros(len(target.classes)))
        found[target.name] = tuple((int(a), int(b)) for a, b in zip(have, known, strict=True))
    return found


def case_weights(cohort: Cohort, cases: Sequence[Case], targets: Sequence[Target]) -> Floats:
    """Chances to draw each case, so that the classes of each target are drawn equally often.

    A case counts 1 / (cases of its class) for a class, and for an answer of a multilabel target 1 / (cases with that answer),
    averaged over the answers; several targets are averaged, each over the cases that have it. A case without any of the
    targets has the mean chance of the others.

    Args:
        cohort: Has the cases.
        cases: To draw from.
        targets: By which.

    Returns:
        (N,), summing to one.
    """
    total, said = np.zeros(len(cases)), np.zeros(len(cases), dtype=bool)
    for target in targets:
        rows = [_answers(cohort, case, target) for case in cases]
        at = [i for i, row in enumerate(rows) if row is not None]
        if not at:
            continue
        answers = np.array([row[0] for row in rows if row is not None])
        known = np.array([row[1] for row in rows if row is not None])
        yes, no = answers * known, (1 - answers) * known
        parts = yes / np.maximum(yes.sum(axis=0), 1)
        if target.kind == "multilabel":
            parts = parts + no / np.maximum(no.sum(axis=0), 1)
        own = parts.sum(axis=1)
        total[at] += own / own.sum() if own.sum() else 1 / len(own)
        said[at] = True
    if not said.any():
        return np.full(len(cases), 1 / len(cases))
    total[~said] = total[said].mean()
    return np.asarray(total / total.sum())


def balanced_targets(names: Iterable[str], targets: Sequence[Target]) -> list[Target]:
    """The targets of classes of these names.

    Raises:
        ConfigError: No such target, or one of a segmentation.
    """
    known = {target.name: target for target in targets if not target.is_segmentation}
    for name in names:
        if name not in known:
            raise ConfigError(message("balance", "name targets of classes", repr(name), do=nearest(name, known)))
    return [known[name] for name in names]
