"""The causes of the chest phantom: which findings a patient has, what the pictures show of them, what the report says.

The same functions draw one case (one stream for each use) and many at once (for the ceilings). The generative model stands in
the docstring of `comodal.data.phantoms.chest`. Axis letters: N cases, K findings, S sites of a finding.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]
# Gives the stream of one use; see the uses below.
Streams = Callable[[int], np.random.Generator]

SIDES = ("right", "left")
ZONES = tuple(f"{side} {level}" for level in ("upper", "mid", "lower") for side in SIDES)
BASES = tuple(f"{side} {level}" for level in ("mid", "lower") for side in SIDES)
FACTORS = ("congestion", "infection")


@dataclass(frozen=True)
class Finding:
    """A finding of the phantom.

    Attributes:
        name: As in ChestX-ray14.
        sites: Where it can be.
        prevalence: Share of the patients.
        loadings: On the two factors that make findings occur together; the sum of their squares is below 1.
        distance: Contrast of a visible finding, in standard deviations of what lies at such a place without it.
    """

    name: str
    sites: tuple[str, ...]
    prevalence: float
    loadings: tuple[float, float]
    distance: float


# In the order in which `findings` of the configuration takes them. Edema is not drawn of itself: it is a grade of 2 or 3.
FINDINGS = (
    Finding("Edema", ("both lungs",), 0.27, (0.75, 0.1), 0.0),
    Finding("Effusion", SIDES, 0.30, (0.6, 0.2), 2.9),
    Finding("Cardiomegaly", ("heart",), 0.30, (0.6, 0.0), 2.5),
    Finding("Nodule", ZONES, 0.22, (0.0, -0.1), 3.5),
    Finding("Pneumothorax", SIDES, 0.16, (-0.1, 0.0), 2.9),
    Finding("Consolidation", ZONES, 0.22, (0.1, 0.65), 3.3),
    Finding("Atelectasis", BASES, 0.25, (0.35, 0.3), 3.0),
    Finding("Mass", ZONES, 0.14, (0.0, 0.1), 3.6),
    Finding("Infiltration", ZONES, 0.20, (0.2, 0.6), 3.1),
    Finding("Pneumonia", ZONES, 0.16, (0.1, 0.75), 3.3),
    Finding("Emphysema", ("both lungs",), 0.15, (0.0, 0.2), 2.5),
    Finding("Fibrosis", SIDES, 0.15, (0.1, 0.1), 2.8),
    Finding("Pleural_Thickening", SIDES, 0.15, (0.0, 0.2), 2.8),
    Finding("Hernia", ("hiatus",), 0.10, (0.0, 0.0), 2.6),
)
NAMES = tuple(finding.name for finding in FINDINGS)

GRADES = ("none", "vascular congestion", "interstitial", "alveolar")
GRADE_SHARES = (0.55, 0.18, 0.15, 0.12)
GRADE_DISTANCES = (0.0, 1.6, 3.2, 4.8)  # contrast of each grade, as `Finding.distance`
GRADE_NAMED = 0.8  # a report that names a grade names the right one; else one beside it
EDEMA_FROM = 2  # the finding Edema is this grade or more: congestion of the vessels alone is none

KINDS = ("positive", "uncertain", "negated", "silent")
SIZES = ("small", "moderate", "large")
SITE_NAMED = 0.85  # a sentence about a finding says where it is

# Uses of the streams of a case; findings have two each, from FIRST_SIGNS and from FIRST_WORDS on. Part of the format.
FACTOR_USE, ANATOMY_USE, FILM_USE, FRONTAL_USE, LATERAL_USE, REPORT_USE, MISSING_USE, TABLES_USE, SPLIT_USE = range(9)
FIRST_SIGNS, FIRST_WORDS = 20, 40


@dataclass(frozen=True)
class Chances:
    """What can be tuned of the model; see `ChestPhantom`."""

    findings: int
    visible: float
    contrast: float
    mentioned: float
    negated: float

    def words(self) -> Floats:
        """(2, 4): how often the report is of each of KINDS, without the finding and with it."""
        silent = 1 - self.mentioned
        absent = [0.02, 0.04, self.negated, 0.94 - self.negated]
        present = [0.87 * self.mentioned, 0.13 * self.mentioned, 0.25 * silent, 0.75 * silent]
        return np.array([absent, present])

    def distance(self, finding: Finding) -> float:
        """Contrast of a visible finding other than edema."""
        return finding.distance * self.contrast

    def grade_distances(self) -> Floats:
        """(4,): contrast of each grade of edema where it is visible."""
        return np.array(GRADE_DISTANCES) * self.contrast


@dataclass(frozen=True)
class Signs:
    """One finding in N cases.

    Attributes:
        present: (N,) whether the patient has it; of edema, a grade above 0.
        site: (N,) where it is, if it is: a number of its sites.
        visible: (N,) whether it shows, if it is.
        sizes: (N, S) size of what lies at each site, finding or not: a number of SIZES.
        jitter: (N, S, 2) where exactly, in -1..1.
        contrasts: (N, S) how strongly it is drawn, at least 0; in standard deviations.
        kind: (N,) what the report says: a number of KINDS.
        named: (N,) where the report says that it is, -1 where it does not say; of edema, the grade that it names.
    """

    present: Bools
    site: Ints
    visible: Bools
    sizes: Ints
    jitter: Floats
    contrasts: Floats
    kind: Ints
    named: Ints


@dataclass(frozen=True)
class Causes:
    """The hidden causes of N cases.

    Attributes:
        factors: (N, 2) see FACTORS.
        grade: (N,) of edema, 0 to 3.
        present: (N, K) the true labels.
        signs: One per finding, in the order of FINDINGS.
    """

    factors: Floats
    grade: Ints
    present: Bools
    signs: tuple[Signs, ...]


def normal_cdf(x: Floats) -> Floats:
    """Distribution function of the standard normal distribution."""
    from scipy.special import ndtr

    return np.asarray(ndtr(x), dtype=np.float64)


def quantile(p: float | Floats) -> Floats:
    """The inverse of `normal_cdf`."""
    from scipy.special import ndtri

    return np.asarray(ndtri(p), dtype=np.float64)


def residual(finding: Finding) -> float:
    """Standard deviation of what the factors leave open of a finding's liability, whose variance is 1."""
    return float(np.sqrt(1 - np.square(finding.loadings).sum()))


def draw_causes(chances: Chances, streams: Streams, n: int) -> Causes:
    """Draws the causes of N cases; the first findings do not depend on how many there are.

    Args:
        chances: What is tuned.
        streams: The stream of each use, called once for each.
        n: Cases.
    """
    factors = streams(FACTOR_USE).standard_normal((n, len(FACTORS)))
    grade, columns, signs = np.zeros(n, dtype=np.int64), [], []
    for j, finding in enumerate(FINDINGS[: chances.findings]):
        rng = streams(FIRST_SIGNS + j)
        pull = (factors * np.array(finding.loadings)).sum(axis=1)
        liability = pull + residual(finding) * rng.standard_normal(n)
        if finding.name == "Edema":
            grade = np.searchsorted(quantile(np.cumsum(GRADE_SHARES)[:-1]), liability).astype(np.int64)
            level, columns = grade, [grade >= EDEMA_FROM]
        else:
            level = (liability > quantile(1 - finding.prevalence)).astype(np.int64)
            columns.append(level > 0)
        signs.append(_draw_signs(finding, level, chances, rng=rng, words=streams(FIRST_WORDS + j)))
    return Causes(factors, grade, np.stack(columns, axis=1), tuple(signs))


def _draw_signs(
    finding: Finding, level: Ints, chances: Chances, *, rng: np.random.Generator, words: np.random.Generator
) -> Signs:
    n, count = len(level), len(finding.sites)
    present = level > 0
    site = rng.integers(count, size=n)
    visible = rng.uniform(size=n) < chances.visible
    sizes = rng.integers(len(SIZES), size=(n, count))
    jitter = rng.uniform(-1, 1, size=(n, count, 2))
    edema = finding.name == "Edema"
    distance = chances.grade_distances()[level] if edema else np.full(n, chances.distance(finding)) * present
    contrasts = rng.standard_normal((n, count))
    contrasts[np.arange(n), site] += distance * visible
    kind = _pick(chances.words()[present.astype(int)], words)
    says = kind <= KINDS.index("uncertain")
    if edema:
        named = np.where(says, _named_grade(level, words), -1)
    else:
        elsewhere = words.integers(count, size=n)  # where a sentence about what is not there puts it
        told = words.uniform(size=n) < SITE_NAMED
        named = np.where(says & told, np.where(present, site, elsewhere), -1)
    return Signs(present, site, visible, sizes, jitter, np.maximum(contrasts, 0), kind, named)


def named_grades() -> Floats:
    """(4, 4): how often a sentence about edema names each grade, for each true one. Without edema it names the mildest."""
    table = np.zeros((4, 4))
    beside = 1 - GRADE_NAMED
    table[0, 1] = 1
    table[1, [1, 2]] = GRADE_NAMED, beside
    table[2, [1, 2, 3]] = beside / 2, GRADE_NAMED, beside / 2
    table[3, [2, 3]] = beside, GRADE_NAMED
    return table


def _named_grade(grade: Ints, rng: np.random.Generator) -> Ints:
    return _pick(named_grades()[grade], rng)


def _pick(shares: Floats, rng: np.random.Generator) -> Ints:
    """(N,): a column of each row of `shares`, whose rows sum to 1."""
    draws = rng.uniform(size=(len(shares), 1))
    return np.asarray((draws >= np.cumsum(shares, axis=1)[:, :-1]).sum(axis=1), dtype=np.int64)
