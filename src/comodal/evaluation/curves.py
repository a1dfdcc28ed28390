"""Confusion, ROC, precision against recall, and reliability of stored cases: numbers for figures, nothing is drawn here.

All of them take the cases of one row of the table, those of one run or of several one after the other. Several predictions of
one case are told apart by their order: the first of each case make the first round, and so on. Seeds are rounds of the same
cases; folds test different ones and together make one round, in which their scores are ranked against each other. Every case
counts once in all: curves are averaged over rounds at equal x, so that the area below is the mean of their areas, and counts
are shared among the predictions of a case.

Axis letters: N predictions, K classes, P points, B bins.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from comodal.errors import ConfigError, message
from comodal.evaluation.class_metrics import answered, confidence_bins, confidences
from comodal.evaluation.classification import as_columns
from comodal.evaluation.results import CaseResult
from comodal.modality import Target

Floats = NDArray[np.float64]
BINS = 10


@dataclass(frozen=True)
class Confusion:
    """Which class was answered for which.

    Attributes:
        target: Name.
        classes: K names.
        counts: (K, K) float: row the true class, column the most probable one; the sum is `n`. With several runs it is the
            mean over those of each case.
        n: Cases, each once.
        runs: The most predictions that a case has.
    """

    target: str
    classes: tuple[str, ...]
    counts: Floats
    n: int
    runs: int

    @property
    def shares(self) -> Floats:
        """(K, K) each row as parts of its true class, NaN where no case has it; the diagonal is the recalls."""
        total = self.counts.sum(axis=1, keepdims=True)
        with np.errstate(invalid="ignore", divide="ignore"):
            return np.asarray(np.where(total > 0, self.counts / total, np.nan))


@dataclass(frozen=True)
class Curve:
    """A curve of one class against the rest.

    Attributes:
        target: Name.
        label: The class, by name where a `Target` was given, else by number.
        x: (P,) rising: false positive rate, or recall. Empty where the curve is not defined.
        y: (P,) true positive rate, to be joined by straight lines; or precision, in steps: y[i] holds from x[i - 1] to x[i].
        area: Below the curve: AUROC, or average precision; None where it is not defined.
        chance: The area of scores that know nothing: 0.5, or the share of cases with the class.
        n: Cases, each once.
        n_pos: Of these, cases of the class.
        runs: The most predictions that a case has.
    """

    target: str
    label: str
    x: Floats
    y: Floats
    area: float | None
    chance: float
    n: int
    n_pos: int
    runs: int


@dataclass(frozen=True)
class Bin:
    """The answers given with about the same confidence.

    Attributes:
        low, high: Ends of the bin.
        count: Answers in it; a part of a case where several runs are averaged.
        confidence: Their mean confidence; None without answers, as are the next two.
        accuracy: Part of them that is right.
        ci95: Wilson's 95 % interval of `accuracy`; it takes answers as independent and so is too narrow for sessions of one
            patient.
    """

    low: float
    high: float
    count: float
    confidence: float | None
    accuracy: float | None
    ci95: tuple[float, float] | None


@dataclass(frozen=True)
class Reliability:
    """Confidence against accuracy.

    Attributes:
        target: Name.
        bins: Of equal width from 0 to 1.
        ece: Expected calibration error over these bins: mean over answers of |accuracy - confidence| of their bin. With several
            runs it is that of all their answers together, not the mean of the runs' errors; None without a case.
        n: Cases, each once.
        runs: The most predictions that a case has.
    """

    target: str
    bins: tuple[Bin, ...]
    ece: float | None
    n: int
    runs: int


@dataclass(frozen=True)
class _Known:
    """The predictions with a truth. probabilities and truth: (N, K); round_: (N,) which prediction of its case each is."""

    name: str
    several: bool
    probabilities: Floats
    truth: Floats
    round_: NDArray[np.int64]
    share: Floats  # (N,) 1 / predictions of the case

    @property
    def n(self) -> int:
        return int((self.round_ == 0).sum())

    @property
    def runs(self) -> int:
        return int(self.round_.max()) + 1 if len(self.round_) else 0


def _known(cases: Sequence[CaseResult], target: Target | str) -> _Known:
    name = target if isinstance(target, str) else target.name
    used = [case for case in cases if name in (case.targets or {}) and name in (case.probabilities or {})]
    seen: dict[tuple[str, tuple[str, ...]], int] = {}
    rounds = []
    for case in used:
        key = case.subject, case.present
        rounds.append(seen.get(key, 0))
        seen[key] = rounds[-1] + 1
    answers = [(case.targets or {})[name] for case in used]
    table = [(case.probabilities or {})[name] for case in used]
    size = len(table[0]) if table else 1 if isinstance(target, str) else len(target.classes)
    several = isinstance(answers[0], list) if answers else False
    probabilities = np.array(table, dtype=float).reshape(-1, size)
    share = np.array([1 / seen[case.subject, case.present] for case in used])
    return _Known(name, several, probabilities, as_columns(answers, size), np.array(rounds, dtype=np.int64), share)


def confusion(cases: Sequence[CaseResult], target: Target | str, classes: Sequence[str]) -> Confusion:
    """Counts of true and answered classes.

    Args:
        cases: Of one row of the table; those without a truth of the target do not count.
        target: Of kind class or ordinal.
        classes: Names, in the order of the probabilities.

    Returns:
        See `Confusion`.

    Raises:
        ConfigError: The target is multilabel (each of its questions has a confusion of its own), or has other classes.

    >>> of = {"group": "p", "present": ("t1",)}
    >>> one = CaseResult(subject="a", probabilities={"d": [0.8, 0.2]}, targets={"d": 0}, **of)
    >>> two = CaseResult(subject="b", probabilities={"d": [0.9, 0.1]}, targets={"d": 1}, **of)
    >>> confusion([one, two], "d", ["no", "yes"]).counts.tolist()
    [[1.0, 0.0], [1.0, 0.0]]
    """
    known = _known(cases, target)
    if known.several:
        do = "Draw ROC and reliability of its questions"
        raise ConfigError(message("confusion.target", "have one class for each case", f"multilabel {known.name!r}", do=do))
    if known.n and known.probabilities.shape[1] != len(classes):
        rule = f"be the {known.probabilities.shape[1]} of the probabilities"
        raise ConfigError(message("confusion.classes", rule, len(classes), do="Give the classes of the target"))
    counts = np.zeros((len(classes), len(classes)))
    if known.n:
        np.add.at(counts, (known.truth.argmax(axis=1), known.probabilities.argmax(axis=1)), known.share)
    return Confusion(known.name, tuple(classes), counts, known.n, known.runs)


def _label(target: Target | str, k: int) -> str:
    return str(k) if isinstance(target, str) else target.classes[k]


def _steps(scores: Floats, positive: NDArray[np.bool_]) -> tuple[Floats, Floats]:
    """Counts of right and of wrong calls, from the highest score down; cases of one score are one step."""
    order = np.argsort(-scores, kind="stable")
    last = np.r_[np.flatnonzero(np.diff(scores[order])), len(scores) - 1]
    return np.cumsum(positive[order])[last].astype(float), np.cumsum(~positive[order])[last].astype(float)


def _sides(known: _Known, k: int) -> list[tuple[Floats, NDArray[np.bool_]]]:
    """Scores and truths of one class, round by round; rounds with one side only are left out."""
    found = []
    for number in range(known.runs):
        rows = (known.round_ == number) & ~np.isnan(known.truth[:, k])
        positive = known.truth[rows, k] > 0.5
        if positive.any() and not positive.all():
            found.append((known.probabilities[rows, k], positive))
    return found


def _curve(known: _Known, target: Target | str, k: int, points: tuple[Floats, Floats], *, area: float, chance: float) -> Curve:
    first = (known.round_ == 0) & ~np.isnan(known.truth[:, k]) if known.n else np.zeros(0, dtype=bool)
    n_pos = int((known.truth[first, k] > 0.5).sum()) if known.n else 0
    told = None if math.isnan(area) else area
    return Curve(known.name, _label(target, k), *points, told, chance, int(first.sum()), n_pos, known.runs)


def roc(cases: Sequence[CaseResult], target: Target | str, k: int) -> Curve:
    """True against false positive rate of one class against the rest.

    Args:
        cases: Of one row of the table; those without a truth of the class do not count.
        target: Of classes, of any kind.
        k: Which class, by its number.

    Returns:
        From (0, 0) to (1, 1). Of several runs, the mean over them of the true positive rate at each false positive rate, and
        the area is the mean of their AUROC.
    """
    known = _known(cases, target)
    lines = []
    for scores, positive in _sides(known, k):
        right, wrong = _steps(scores, positive)
        lines.append((np.r_[0.0, wrong / wrong[-1]], np.r_[0.0, right / right[-1]]))
    if not lines:
        return _curve(known, target, k, (np.zeros(0), np.zeros(0)), area=math.nan, chance=0.5)
    grid = np.unique(np.concatenate([x for x, _ in lines]))
    left = np.mean([_limit(x, y, grid, lower=True) for x, y in lines], axis=0)
    right = np.mean([_limit(x, y, grid, lower=False) for x, y in lines], axis=0)
    x, y = np.repeat(grid, 2), np.stack([left, right], axis=1).ravel()  # each x with the lower and the upper end of its jump
    kept = np.r_[True, (np.diff(x) > 0) | (np.diff(y) > 0)]
    area = float(np.trapezoid(y, x))
    return _curve(known, target, k, (x[kept], y[kept]), area=area, chance=0.5)


def _limit(x: Floats, y: Floats, grid: Floats, *, lower: bool) -> Floats:
    """A rising polygon with jumps at each point of the grid: the lower or the upper end of a jump."""
    at = np.interp(grid, x, y)
    jumps, first = np.unique(x, return_index=True)
    ends = y[first] if lower else y[np.r_[first[1:] - 1, len(y) - 1]]
    at[np.searchsorted(grid, jumps)] = ends
    return at


def precision_recall(cases: Sequence[CaseResult], target: Target | str, k: int) -> Curve:
    """Precision against recall of one class.

    Args:
        cases: Of one row of the table; those without a truth of the class do not count.
        target: Of classes, of any kind.
        k: Which class, by its number.

    Returns:
        Steps, from recall 0 to 1, without interpolation: the area is the average precision. Of several runs, the mean over
        them of the precision at each recall, and the area is the mean of theirs.
    """
    known = _known(cases, target)
    sides = _sides(known, k)
    if not sides:
        return _curve(known, target, k, (np.zeros(0), np.zeros(0)), area=math.nan, chance=math.nan)
    lines = []
    for scores, positive in sides:
        right, wrong = _steps(scores, positive)
        new = np.diff(np.r_[0.0, right]) > 0  # where recall rises
        lines.append((right[new] / right[-1], right[new] / (right + wrong)[new]))
    grid = np.unique(np.concatenate([x for x, _ in lines]))
    y = np.mean([line[np.searchsorted(x, grid)] for x, line in lines], axis=0)
    area = float((np.diff(np.r_[0.0, grid]) * y).sum())
    chance = float(np.mean([positive.mean() for _, positive in sides]))
    return _curve(known, target, k, (np.r_[0.0, grid], np.r_[y[0], y]), area=area, chance=chance)


def reliability(cases: Sequence[CaseResult], target: Target | str, bins: int = BINS) -> Reliability:
    """Accuracy of the answers in each bin of confidence.

    Args:
        cases: Of one row of the table; those without a truth of the target do not count.
        target: Of classes, of any kind. Of multilabel, each labelled question is an answer of its own.
        bins: How many, of equal width from 0 to 1; that of the metric "ECE" is BINS.

    Returns:
        See `Reliability`; confidence is the probability of the answer that is given.
    """
    known = _known(cases, target)
    edges = np.linspace(0, 1, bins + 1)
    if not known.n:
        empty = tuple(Bin(float(low), float(high), 0.0, None, None, None) for low, high in pairwise(edges))
        return Reliability(known.name, empty, None, 0, 0)
    yes = answered(known.probabilities, several=known.several)
    sure, right, kept = confidences(known.probabilities, known.truth, yes, several=known.several)
    weight = np.broadcast_to(known.share[:, None], sure.shape)[kept]
    place = confidence_bins(sure[kept], bins)
    count, total, hits = (
        np.bincount(place, weights=weight * values, minlength=bins) for values in (1.0, sure[kept], right[kept])
    )
    made = tuple(
        _bin((float(edges[b]), float(edges[b + 1])), float(count[b]), float(total[b]), float(hits[b])) for b in range(bins)
    )
    ece = float(np.abs(hits - total).sum() / count.sum()) if count.sum() else None
    return Reliability(known.name, made, ece, known.n, known.runs)


def _bin(ends: tuple[float, float], count: float, total: float, hits: float) -> Bin:
    if count <= 0:
        return Bin(*ends, 0.0, None, None, None)
    part = min(hits / count, 1.0)
    return Bin(*ends, count, total / count, part, wilson(part, count))


def wilson(part: float, n: float) -> tuple[float, float]:
    """Wilson's 95 % interval of a proportion.

    Args:
        part: In [0, 1].
        n: Of how many, above 0.

    >>> [round(end, 4) for end in wilson(0.5, 10)]
    [0.2366, 0.7634]
    """
    z = 1.959963984540054  # of the normal distribution, 2.5 % above
    middle, scale = part + z**2 / (2 * n), 1 + z**2 / n
    half = z * math.sqrt(part * (1 - part) / n + z**2 / (4 * n**2))
    return max((middle - half) / scale, 0.0), min((middle + half) / scale, 1.0)
