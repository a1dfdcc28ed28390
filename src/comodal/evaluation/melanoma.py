"""Melanoma from the seven-point checklist: seven criteria, each with its points, summed and compared with a threshold.

The rule is that of Argenziano et al. (1998), Archives of Dermatology 134(12), 1563-1570: three major criteria score 2, four
minor ones 1, and 3 points or more call melanoma; 1 or more is the sensitive variant. Kawahara et al. (2019), IEEE Journal of
Biomedical and Health Informatics 23(2), 538-546, apply it to predicted criteria of Derm7pt. The points are those of
`comodal.data.derm7pt_criteria`. Neither paper was at hand when this was written: the points are those of the code published
with the second one, and no equation numbers are claimed.

What ranks the cases for the AUROC is not stated there, so that both are computed: the integer score, in which ties count half,
and the expected score, which equals it where the probabilities are 0 and 1.

`melanoma_of` reads all of it from results, with intervals over patients, beside what the diagnosis's own probabilities say.

Axis letters: N cases, K classes of a criterion, R resamples.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from comodal.data.derm7pt_criteria import Checklist, Criterion, load_criteria
from comodal.errors import DataError, message, nearest
from comodal.evaluation.class_metrics import divided
from comodal.evaluation.classification import auroc
from comodal.evaluation.pooling import Arm, ArmLike, arm_of, nanmean
from comodal.evaluation.results import CaseResult
from comodal.evaluation.statistics import RESAMPLES, Interval, interval_note, interval_of, resampling_weights

THRESHOLDS = (1, 3)
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Call:
    """Melanoma called from a score at one threshold.

    Attributes:
        threshold: Melanoma where the score is at least this.
        sensitivity: Part of the melanomas that are called; None without melanomas.
        specificity: Part of the others that are not called; None without others.
    """

    threshold: float
    sensitivity: float | None
    specificity: float | None

    @property
    def balanced_accuracy(self) -> float | None:
        """Mean of the two; None where one is not defined."""
        if self.sensitivity is None or self.specificity is None:
            return None
        return (self.sensitivity + self.specificity) / 2


@dataclass(frozen=True)
class MelanomaInference:
    """How well the checklist tells melanoma from everything else.

    Attributes:
        n: Cases.
        n_pos: Melanomas.
        auroc_integer: Of the integer score, ties count half; None where only one side occurs.
        auroc_expected: Of the expected score.
        calls: From the integer score, one per threshold.
    """

    n: int
    n_pos: int
    auroc_integer: float | None
    auroc_expected: float | None
    calls: tuple[Call, ...]


Measure = Literal["AUROC_integer", "AUROC_expected", "AUROC_direct", "sensitivity", "specificity", "balanced_accuracy"]


@dataclass(frozen=True)
class MelanomaNumber:
    """One number of a table of melanoma inference.

    Attributes:
        measure: AUROC of the integer score, of the expected score, or of the diagnosis's own probability of melanoma
            ("direct"); or what calls at `threshold` reach, from the integer score.
        threshold: Of the call; None for AUROC.
        value: Mean over runs; None where it is not defined.
        ci95: 95 % interval over patients; None for too few.
    """

    measure: Measure
    threshold: float | None
    value: float | None
    ci95: Interval | None


@dataclass(frozen=True)
class MelanomaTable:
    """Melanoma inference of one row of results.

    Attributes:
        n: Cases with a diagnosis and all seven criteria, each once.
        n_pos: Melanomas among them.
        left_out: Cases with a diagnosis that lack a criterion: without its truth they have no stored prediction of it.
        runs: Runs behind the numbers.
        numbers: The AUROCs, then sensitivity, specificity and balanced accuracy at each threshold.
        note: What the reader must know about the intervals.
    """

    n: int
    n_pos: int
    left_out: int
    runs: int
    numbers: tuple[MelanomaNumber, ...]
    note: str | None = None

    def number(self, measure: Measure, threshold: float | None = None) -> MelanomaNumber:
        """The number of one measure; of calls, at a threshold."""
        return next(one for one in self.numbers if (one.measure, one.threshold) == (measure, threshold))


def seven_point_score(criteria: Mapping[str, ArrayLike]) -> NDArray[np.int64]:
    """The integer score: score(x) = sum over criteria c of points_c[argmax_k p_c(k | x)].

    Args:
        criteria: {criterion: values} of all seven. Values are (N, K) probabilities in the order of the classes of the
            checklist, (N,) class numbers, or N names of classes.

    Returns:
        (N,), 0 to 10. Of equal probabilities the first class counts.

    Raises:
        DataError: A criterion is missing or unknown, a value is no class, no probability or not finite, or lengths differ.

    >>> worst = {"pigment_network": ["ATP"], "blue_whitish_veil": ["PRS"], "vascular_structures": ["IR"], "streaks": ["IR"]}
    >>> worst |= {"pigmentation": ["IR"], "dots_and_globules": ["IR"], "regression_structures": ["PRS"]}
    >>> seven_point_score(worst).tolist()
    [10]
    """
    return np.asarray(sum(np.take(points, p.argmax(axis=1)) for points, p in _tables(criteria)), dtype=np.int64)


def expected_score(criteria: Mapping[str, ArrayLike]) -> Floats:
    """The expected score: sum over criteria c and classes k of p_c(k | x) points_c[k].

    Args:
        criteria: As for `seven_point_score`, which it equals where every probability is 0 or 1.

    Returns:
        (N,), 0 to 10.

    Raises:
        DataError: As for `seven_point_score`.
    """
    return np.asarray(sum((p * np.array(points)).sum(axis=1) for points, p in _tables(criteria)), dtype=np.float64)


def call_melanoma(scores: ArrayLike, threshold: float) -> NDArray[np.bool_]:
    """Melanoma where the score is at least the threshold.

    Args:
        scores: (N,) of either kind.
        threshold: 3 is the classical cut, 1 the sensitive one.

    >>> call_melanoma([0, 1, 3], 1).tolist()
    [False, True, True]
    """
    return np.asarray(np.asarray(scores, dtype=float) >= threshold)


def melanoma_inference(
    criteria: Mapping[str, ArrayLike], melanoma: ArrayLike, *, thresholds: Sequence[float] = THRESHOLDS
) -> MelanomaInference:
    """Compares the checklist with the diagnosis.

    Args:
        criteria: As for `seven_point_score`.
        melanoma: (N,) bool: the diagnosis is melanoma, metastases included. Everything else is negative, basal cell carcinoma
            too.
        thresholds: Of the calls.

    Returns:
        AUROC of both scores, and sensitivity and specificity at each threshold.

    Raises:
        DataError: As for `seven_point_score`, or another number of diagnoses.
    """
    scores, expected, truth = seven_point_score(criteria), expected_score(criteria), np.asarray(melanoma)
    if truth.shape != scores.shape or truth.dtype != np.bool_:
        rule, got = f"be {len(scores)} values, true or false", f"{truth.shape} {truth.dtype}"
        raise DataError(message("melanoma", rule, got, do="Give one diagnosis for each case"))
    areas = [float(auroc(values[:, None], truth[:, None])[0, 0]) for values in (scores, expected)]
    integer, smooth = (None if np.isnan(area) else area for area in areas)
    calls = []
    for threshold in thresholds:
        called = call_melanoma(scores, threshold)
        calls.append(Call(threshold, _part(called[truth]), _part(~called[~truth])))
    return MelanomaInference(len(scores), int(truth.sum()), integer, smooth, tuple(calls))


def melanoma_of(
    results: ArmLike,
    present: Sequence[str] | None = None,
    *,
    thresholds: Sequence[float] = THRESHOLDS,
    diagnosis: str = "diagnosis",
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> MelanomaTable:
    """Melanoma inference from predicted criteria, with intervals, beside that of the diagnosis's own probabilities.

    Args:
        results: One run, or one per seed or fold of a method: each number is averaged over them, on the same resamples of
            patients, as those of pooled metrics are.
        present: Which row of the table; None takes the one with most modalities.
        thresholds: Of the calls.
        diagnosis: Name of the target that says melanoma; of the five classes of the checklist or of its fifteen.
        resamples: Of the bootstrap.
        seed: Of the bootstrap.

    Raises:
        DataError: No case has all of it, or targets have other classes than the checklist.
    """
    arm, checklist = arm_of(results, present), load_criteria()
    melanomas = _melanoma_classes(arm, checklist, diagnosis)
    needed = {diagnosis, *checklist.criteria}
    told = [[case for case in run if diagnosis in (case.targets or {})] for run in arm.runs]
    runs = [[case for case in run if needed <= (case.probabilities or {}).keys()] for run in told]
    truth = {case.subject: (case.targets or {})[diagnosis] in melanomas for run in runs for case in run}
    if not truth:
        do = "Train and evaluate with all seven criteria and the diagnosis as targets"
        raise DataError(message("results", "have a case with all seven criteria and the diagnosis", "none", do=do))
    cases, patients = sorted(truth), arm.groups()
    weights = resampling_weights(len(cases), [patients[c] for c in cases], resamples=resamples, seed=seed)
    every = np.ones((1, len(cases))) if weights is None else np.concatenate([np.ones((1, len(cases))), weights])
    place = {case: i for i, case in enumerate(cases)}
    keys: list[tuple[Measure, float | None]] = [("AUROC_integer", None), ("AUROC_expected", None), ("AUROC_direct", None)]
    keys += [(what, t) for t in thresholds for what in _OF_CALLS]
    drawn = [
        _measures(run, melanomas, every[:, [place[case.subject] for case in run]], thresholds, diagnosis=diagnosis)
        for run in runs
        if run
    ]
    values = nanmean(np.stack(drawn, axis=-1))  # (1 + R, measures)
    numbers = tuple(
        MelanomaNumber(
            *key, None if np.isnan(column[0]) else float(column[0]), None if weights is None else interval_of(column[1:])
        )
        for key, column in zip(keys, values.T, strict=True)
    )
    without = len({case.subject for run in told for case in run} - set(cases))
    note = interval_note(len({patients[case] for case in cases}))
    return MelanomaTable(len(cases), sum(truth.values()), without, len(drawn), numbers, note)


_OF_CALLS: tuple[Measure, ...] = ("sensitivity", "specificity", "balanced_accuracy")


def _melanoma_classes(arm: Arm, checklist: Checklist, diagnosis: str) -> list[int]:
    """Which classes of the diagnosis are melanoma; criteria must have the classes of the checklist."""
    for name, criterion in checklist.criteria.items():
        if arm.classes.get(name, criterion.classes) != criterion.classes:
            got, do = ", ".join(arm.classes[name]), f"They are {', '.join(criterion.classes)}"
            raise DataError(message(f"results.classes[{name!r}]", "be those of the checklist", got, do=do))
    full = {name: grouped for grouped, name in checklist.diagnosis.values.values()}
    names = arm.classes.get(diagnosis, checklist.diagnosis.grouped)
    found = [k for k, name in enumerate(names) if checklist.diagnosis.melanoma in (name, full.get(name))]
    if not found:
        do = f"One of them must be {checklist.diagnosis.melanoma}"
        raise DataError(message(f"results.classes[{diagnosis!r}]", "name melanoma", ", ".join(names), do=do))
    return found


def _measures(
    run: Sequence[CaseResult], melanomas: Sequence[int], weights: Floats, thresholds: Sequence[float], *, diagnosis: str
) -> Floats:
    """(R, measures) of one run under each row of weights, in the order of `melanoma_of`. weights: (R, N)."""
    stored = [case.probabilities or {} for case in run]
    criteria = {name: np.array([p[name] for p in stored], dtype=float) for name in load_criteria().criteria}
    truth = np.array([(case.targets or {})[diagnosis] in melanomas for case in run])
    direct = np.array([p[diagnosis] for p in stored], dtype=float)[:, list(melanomas)].sum(axis=1)
    integer = seven_point_score(criteria)
    ranked = np.stack([integer.astype(float), expected_score(criteria), direct], axis=1)  # (N, 3)
    columns = [*auroc(ranked, np.repeat(truth[:, None], 3, axis=1), weights).T]
    for threshold in thresholds:
        called = call_melanoma(integer, threshold)
        found = divided(weights @ (called & truth).astype(float), weights @ truth.astype(float))
        spared = divided(weights @ (~called & ~truth).astype(float), weights @ (~truth).astype(float))
        columns += [found, spared, (found + spared) / 2]
    return np.stack(columns, axis=1)


def _part(answers: NDArray[np.bool_]) -> float | None:
    return float(answers.mean()) if answers.size else None


def _tables(criteria: Mapping[str, ArrayLike]) -> list[tuple[tuple[int, ...], Floats]]:
    """Points (K) and probabilities (N, K) of every criterion."""
    known = load_criteria().criteria
    for name in criteria:
        if name not in known:
            raise DataError(message("criteria", "be those of the checklist", repr(name), do=nearest(name, known)))
    missing = [name for name in known if name not in criteria]
    if missing:
        do = "Predict all seven: a sum of fewer is another score"
        raise DataError(message("criteria", "be all seven", f"no {', '.join(missing)}", do=do))
    tables = [(tuple(c.points.values()), _probabilities(criteria[name], c, name)) for name, c in known.items()]
    sizes = sorted({len(p) for _, p in tables})
    if len(sizes) > 1:
        raise DataError(message("criteria", "have one value for each case", f"{sizes} cases", do="Give all of them"))
    return tables


def _probabilities(given: ArrayLike, criterion: Criterion, name: str) -> Floats:
    """(N, K) of whatever form a criterion comes in."""
    classes, values = criterion.classes, np.asarray(given)
    owner, size = f"criteria[{name!r}]", len(classes)
    if values.ndim == 1 and values.dtype.kind in "OU":
        unknown: list[Any] = [value for value in values.tolist() if value not in classes]
        if unknown:
            raise DataError(message(owner, "name classes", repr(unknown[0]), do=nearest(str(unknown[0]), classes)))
        return np.eye(size)[[classes.index(value) for value in values.tolist()]]
    if values.ndim == 1 and values.dtype.kind in "iu":
        if values.size and (values.min() < 0 or values.max() >= size):
            rule, got = f"be class numbers, 0 to {size - 1}", f"{values.min()} to {values.max()}"
            raise DataError(message(owner, rule, got, do=f"The classes are {', '.join(classes)}"))
        return np.asarray(np.eye(size)[values])
    # Half precision sums to 1 only within 1e-3.
    if values.ndim == 2 and values.shape[1] == size and values.dtype.kind == "f":
        table = values.astype(np.float64)
        if np.isfinite(table).all() and (table >= 0).all() and (np.abs(table.sum(axis=1) - 1) < 1e-2).all():
            return table
    rule = f"be (N, {size}) probabilities that sum to 1, class numbers or names"
    got = f"{values.shape} {values.dtype}" if values.shape[1:] != (size,) else "numbers that are no probabilities"
    raise DataError(message(owner, rule, got, do=f"The classes are {', '.join(classes)}"))
