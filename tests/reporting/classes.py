"""Results of classification, made up: what the tests of tables, figures and pages of classes share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TypeAlias

import numpy as np

from comodal.evaluation.classification import as_columns, pooled_metrics
from comodal.evaluation.results import CaseResult, MetricValue, Results, SubsetResult
from comodal.modality import Target

Used: TypeAlias = Mapping[tuple[str, ...], tuple[str, ...]]

GRADE = Target("grade", "class", ("low", "middle", "high"))
VEIL = Target("blue_veil", "class", ("absent", "present"))
SIGNS = Target("signs", "multilabel", ("oedema", "mass"))
GUIDED: Used = {("photo", "derm"): ("photo",)}  # what a guided model uses of both
ROWS = (("photo",), ("derm",), ("photo", "derm"))


def made(
    method: str = "guidance",
    targets: Sequence[Target] = (GRADE, VEIL),
    *,
    seed: int = 0,
    used: Used | None = None,
    unsupported: Sequence[tuple[str, ...]] = (),
    cases: int = 30,
    resamples: int = 50,
) -> Results:
    """Results of a method that knows something.

    Args:
        method: Label.
        targets: Their truths are the same whatever the seed.
        seed: Of the probabilities.
        used: {row: what it uses of it}; all of it otherwise.
        unsupported: Rows from which it cannot predict.
        cases: How many, each a patient.
        resamples: Of the intervals.
    """
    rng, truths = np.random.default_rng(seed), np.random.default_rng(99)
    ids = [f"p{i:02d}" for i in range(cases)]
    answers = {t.name: truths.integers(0, 2, (cases, len(t.classes))) for t in targets}
    classes = {t.name: truths.permutation(np.arange(cases) % len(t.classes)) for t in targets}
    rows, found = [], []
    for present in ROWS:
        if present in unsupported:
            rows.append(SubsetResult(present=present, supported=False))
            continue
        metrics: dict[str, MetricValue] = {}
        own: dict[str, np.ndarray] = {}
        for target in targets:
            several = target.kind == "multilabel"
            truth = as_columns([*map(list, answers[target.name])] if several else classes[target.name], len(target.classes))
            logits = 1.5 * truth + rng.normal(0, 1, truth.shape)
            odds = np.exp(logits)
            own[target.name] = odds / (1 + odds) if several else odds / odds.sum(axis=1, keepdims=True)
            metrics |= pooled_metrics(target, own[target.name], truth, groups=ids, resamples=resamples)
        rows.append(SubsetResult(present=present, metrics=metrics))
        for i, case in enumerate(ids):
            truth_of = {
                t.name: answers[t.name][i].tolist() if t.kind == "multilabel" else int(classes[t.name][i]) for t in targets
            }
            probabilities = {name: values[i].tolist() for name, values in own.items()}
            said = (used or {}).get(present, present)
            found.append(
                CaseResult(subject=case, group=case, present=present, used=said, probabilities=probabilities, targets=truth_of)
            )
    names = {t.name: t.classes for t in targets}
    return Results(method=method, cohort="c", split="test", seed=seed, subsets=tuple(rows), cases=tuple(found), classes=names)
