"""Complementary information weights: Equations (16) and (17) of Shen et al. (2024), per case and over cases.

The paper's sum over j can be read over pairs or over auxiliaries. Here it runs over the auxiliaries of one (primary, region)
pair, so that each row adds up to 1, which is what its Figure 18 compares.

Axis letters: X Y Z voxels, N cases.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from comodal.data.preprocessing import PreparedCase
from comodal.evaluation.statistics import Interval, bootstrap_interval
from comodal.explain.explanation import Explanation, Map, Pair, parts_of


def weights_of(row: Mapping[str, Map]) -> dict[str, float | None]:
    """Equations (16) and (17) for one pair: each auxiliary's sum of heat over that of all of them.

    Args:
        row: {auxiliary: (X, Y, Z), at least 0}.

    Returns:
        {auxiliary: weight}, adding up to 1; None for each where nothing is above 0, since 0 / 0 says nothing.

    >>> import numpy as np
    >>> weights_of({"t2": np.array([0, 3.0], np.float32), "t1": np.array([1.0, 0], np.float32)})
    {'t2': 0.75, 't1': 0.25}
    """
    sums = {name: float(heat.sum(dtype="float64")) for name, heat in row.items()}  # Equation (17)
    whole = sum(sums.values())
    if not (whole > 0 and math.isfinite(whole)):
        return dict.fromkeys(sums)
    return {name: value / whole for name, value in sums.items()}  # Equation (16)


def share_on_image(prepared: PreparedCase, heat: Map, *, auxiliary: str, subset: tuple[str, ...]) -> float | None:
    """How much of a heat map lies on the auxiliary's image and not on its background, which no message can know much about.

    Args:
        prepared: The case.
        heat: (X, Y, Z), at least 0.
        auxiliary: Whose map it is.
        subset: What was seen of the case.

    Returns:
        A share of its sum, over voxels that are not exactly 0 after normalisation; None without heat.
    """
    whole = float(heat.sum(dtype="float64"))
    if whole <= 0:
        return None
    there = np.zeros(heat.shape, dtype=bool)
    for name in parts_of(auxiliary, subset):
        there |= (np.asarray(prepared.images[name][:]) != 0).any(axis=0)
    return float(heat[there].sum(dtype="float64")) / whole


NOTHING = "since the heat of all auxiliaries is zero"


@dataclass(frozen=True)
class CaseWeights:
    """The weights of one case.

    Attributes:
        subject: The id of the case.
        group: The patient.
        weights: {(primary, region): {auxiliary: weight, or None where the row has none}}.
        left_out: {(primary, region): why it has none}.
    """

    subject: str
    group: str
    weights: Mapping[Pair, Mapping[str, float | None]]
    left_out: Mapping[Pair, str]


def case_weights(explanation: Explanation, *, subject: str, group: str) -> CaseWeights:
    """The weights of one explained case, each missing one with its reason.

    Args:
        explanation: Of any explainer.
        subject: The id of the case.
        group: The patient.
    """
    weights = {pair: weights_of(row) for pair, row in explanation.heat.items()}
    none = {pair: NOTHING for pair, row in weights.items() if None in row.values()}
    return CaseWeights(subject, group, weights, none | dict(explanation.left_out))


@dataclass(frozen=True)
class MeanWeight:
    """A weight over cases: `value` is its mean, None without a case; `ci95` needs six patients."""

    value: float | None
    ci95: Interval | None
    n: int


def mean_weights(cases: Sequence[CaseWeights]) -> dict[Pair, dict[str, MeanWeight]]:
    """Means over the cases that have a weight, with bootstrap intervals over patients.

    Args:
        cases: N of them. A case that lacks an auxiliary has no weight of it, and those of the others add up to 1 without it:
            only over cases that all have the same modalities do the means of a row add up to 1.

    Returns:
        {(primary, region): {auxiliary: mean}}, in the order in which they are first met.
    """
    keys = dict.fromkeys((pair, name) for case in cases for pair, row in case.weights.items() for name in row)
    found: dict[Pair, dict[str, MeanWeight]] = {}
    for pair, name in keys:
        known = [(value, case.group) for case in cases if (value := case.weights.get(pair, {}).get(name)) is not None]
        values, groups = [value for value, _ in known], [group for _, group in known]
        mean = math.fsum(values) / len(values) if values else None
        interval = bootstrap_interval(values, groups) if values else None
        found.setdefault(pair, {})[name] = MeanWeight(mean, interval, len(values))
    return found
