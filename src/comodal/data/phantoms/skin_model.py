"""What the skin phantom is made of: a diagnosis, what it brings about, and how strongly each photograph shows it.

A diagnosis D draws the value of every `Factor` (the seven criteria, elevation, location, sex, and four properties of the lesion
that are measured and not named), each on its own given D. A factor shows itself through `Sign`s: numbers in [0, 1] with which
the pictures are painted, s = clip(mean of the factor's value + sd * standard normal, 0, 1). The pictures depend on the causes
through these signs alone, so that who reads every sign has read all that is there, and the posterior below is that of the best
possible observer.

Dermoscopy shows the criteria clearly; the clinical photograph shows four of them faintly, and three things of its own:
diameter, relief (elevation) and damage of the skin around. Asymmetry is one and the same outline in both. The numbers were
chosen by hand for that division; they are no statistics of patients.

Axis letters: N lesions, D diagnoses, K values of a factor.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

MODALITIES = ("clinical", "derm", "metadata")
DIAGNOSES = ("BCC", "NEV", "MEL", "MISC", "SK")
PRIOR = (0.10, 0.44, 0.26, 0.10, 0.10)


@dataclass(frozen=True)
class Sign:
    """How strongly something is painted.

    Attributes:
        name: Unique in the phantom.
        seen_in: The modalities that show it, with one and the same value.
        means: Of its strength, for each value of the factor.
        sd: Of its noise, before it is clipped to [0, 1].
    """

    name: str
    seen_in: tuple[str, ...]
    means: tuple[float, ...]
    sd: float


@dataclass(frozen=True)
class Factor:
    """What a diagnosis brings about.

    Attributes:
        name: As in the table of Derm7pt, where it stands there.
        values: Its values.
        given: (D, K) probability of each value, one row per diagnosis.
        signs: What shows it.
        recorded: True where the value itself is in the modality metadata.
    """

    name: str
    values: tuple[str, ...]
    given: tuple[tuple[float, ...], ...]
    signs: tuple[Sign, ...] = ()
    recorded: bool = False


@dataclass(frozen=True)
class Lesions:
    """N lesions with all their causes.

    Attributes:
        diagnosis: (N,) number of the diagnosis.
        values: {factor: (N,) number of its value}.
        strengths: {sign: (N,) in [0, 1]}.
    """

    diagnosis: Ints
    values: Mapping[str, Ints] = field(default_factory=dict)
    strengths: Mapping[str, Floats] = field(default_factory=dict)


def _criterion(name: str, classes: tuple[str, ...], given: str, **sds: float) -> Factor:
    """A criterion. given: one row per diagnosis; sds: {modality: sd}, with means that dermoscopy tells further apart."""
    rows = tuple(tuple(float(p) for p in row.split()) for row in given.split("/"))
    means = {"derm": {2: (0.12, 0.72), 3: (0.08, 0.46, 0.86)}, "clinical": {2: (0.25, 0.62), 3: (0.20, 0.40, 0.70)}}
    signs = (Sign(f"{name}_{m}", (m,), means[m][len(classes)], sd) for m, sd in sds.items())
    return Factor(name, classes, rows, tuple(signs))


def _measured(name: str, seen_in: tuple[str, ...], means: tuple[float, ...], sd: float) -> Factor:
    """A property that follows from the diagnosis itself."""
    same = tuple(tuple(float(i == j) for j in range(len(DIAGNOSES))) for i in range(len(DIAGNOSES)))
    return Factor(name, DIAGNOSES, same, (Sign(name, seen_in, means, sd),))


_ABS_REG_IR, _ABS_PRS = ("ABS", "REG", "IR"), ("ABS", "PRS")
# Rows: BCC / NEV / MEL / MISC / SK.
CRITERIA = (
    _criterion(
        "pigment_network", ("ABS", "TYP", "ATP"), ".92 .05 .03/.20 .66 .14/.25 .17 .58/.62 .28 .10/.84 .10 .06", derm=0.15
    ),
    _criterion("blue_whitish_veil", _ABS_PRS, ".86 .14/.92 .08/.44 .56/.90 .10/.86 .14", derm=0.20, clinical=0.30),
    _criterion(
        "vascular_structures",
        _ABS_REG_IR,
        ".12 .80 .08/.90 .08 .02/.68 .08 .24/.60 .34 .06/.74 .22 .04",
        derm=0.16,
        clinical=0.28,
    ),
    _criterion(
        "pigmentation", _ABS_REG_IR, ".80 .06 .14/.66 .20 .14/.26 .10 .64/.68 .22 .10/.40 .34 .26", derm=0.17, clinical=0.24
    ),
    _criterion("streaks", _ABS_REG_IR, ".94 .02 .04/.72 .18 .10/.40 .08 .52/.92 .05 .03/.92 .05 .03", derm=0.15),
    _criterion("dots_and_globules", _ABS_REG_IR, ".66 .08 .26/.20 .56 .24/.14 .16 .70/.78 .14 .08/.22 .54 .24", derm=0.17),
    _criterion("regression_structures", _ABS_PRS, ".86 .14/.88 .12/.46 .54/.72 .28/.92 .08", derm=0.20, clinical=0.30),
)
_RELIEF = Sign("relief", ("clinical",), (0.10, 0.45, 0.85), 0.15)
HISTORY = (
    Factor(
        "elevation",
        ("flat", "palpable", "nodular"),
        ((0.08, 0.47, 0.45), (0.56, 0.38, 0.06), (0.40, 0.42, 0.18), (0.50, 0.40, 0.10), (0.10, 0.80, 0.10)),
        (_RELIEF,),
        recorded=True,
    ),
    Factor(
        "location",
        ("back", "lower limbs", "abdomen", "upper limbs", "chest", "head neck", "acral", "buttocks", "genital areas"),
        (
            (0.22, 0.08, 0.06, 0.08, 0.12, 0.40, 0.01, 0.02, 0.01),
            (0.28, 0.18, 0.16, 0.12, 0.12, 0.05, 0.06, 0.02, 0.01),
            (0.34, 0.24, 0.08, 0.14, 0.08, 0.07, 0.03, 0.01, 0.01),
            (0.08, 0.30, 0.06, 0.22, 0.08, 0.10, 0.10, 0.02, 0.04),
            (0.34, 0.12, 0.14, 0.08, 0.14, 0.15, 0.01, 0.01, 0.01),
        ),
        recorded=True,
    ),
    Factor("sex", ("female", "male"), ((0.40, 0.60), (0.56, 0.44), (0.45, 0.55), (0.62, 0.38), (0.46, 0.54)), recorded=True),
)
MEASURED = (
    _measured("asymmetry", ("clinical", "derm"), (0.45, 0.25, 0.68, 0.25, 0.40), 0.18),
    _measured("diameter", ("clinical",), (0.45, 0.30, 0.62, 0.25, 0.66), 0.19),
    _measured("sun_damage", ("clinical",), (0.78, 0.22, 0.50, 0.35, 0.62), 0.22),
    _measured("milia", ("derm",), (0.15, 0.12, 0.15, 0.25, 0.70), 0.22),
)
FACTORS = (*CRITERIA, *HISTORY, *MEASURED)
SIGNS = tuple(sign.name for factor in FACTORS for sign in factor.signs)


def draw_lesions(rng: np.random.Generator, count: int) -> Lesions:
    """Draws lesions with all their causes.

    Args:
        rng: Of one case, or of many for Monte Carlo.
        count: How many.
    """
    diagnosis = _pick(rng, np.tile(np.array(PRIOR), (count, 1)))
    values: dict[str, Ints] = {}
    strengths: dict[str, Floats] = {}
    for factor in FACTORS:
        values[factor.name] = _pick(rng, np.array(factor.given)[diagnosis])
        for sign in factor.signs:
            raw = np.array(sign.means)[values[factor.name]] + sign.sd * rng.standard_normal(count)
            strengths[sign.name] = np.clip(raw, 0, 1)
    return Lesions(diagnosis, values, strengths)


def _pick(rng: np.random.Generator, rows: Floats) -> Ints:
    """One column per row, with the row's probabilities (which sum to 1 up to rounding)."""
    edges = np.cumsum(rows, axis=1)
    edges /= edges[:, -1:]
    chosen: Ints = (rng.uniform(size=len(rows))[:, None] >= edges).sum(axis=1)
    return chosen


def posteriors(lesions: Lesions, subset: Collection[str]) -> dict[str, Floats]:
    """What the best observer of a subset of the modalities knows: {"diagnosis" or factor: (N, K) posterior probabilities}.

    With L_f(k) the likelihood of the signs of factor f that the subset shows, P(D | all) is proportional to
    P(D) prod_f sum_k P(k | D) L_f(k), and P(k of f | all) to L_f(k) sum_D P(k | D) P(D) prod_{g != f} sum_j P(j | D) L_g(j).

    Args:
        lesions: N of them; of their causes only the signs, and the recorded values, are looked at.
        subset: Names of MODALITIES, not empty.
    """
    likelihoods = {factor.name: _likelihood(factor, lesions, subset) for factor in FACTORS}
    evidence = {factor.name: likelihoods[factor.name] @ np.array(factor.given).T for factor in FACTORS}  # (N, D)
    total = np.log(np.array(PRIOR)) + sum(np.log(e) for e in evidence.values())
    out = {"diagnosis": _normalised(np.exp(total - total.max(axis=1, keepdims=True)))}
    for factor in FACTORS:
        others = total - np.log(evidence[factor.name])
        weight = np.exp(others - others.max(axis=1, keepdims=True))
        out[factor.name] = _normalised(likelihoods[factor.name] * (weight @ np.array(factor.given)))
    return out


def _normalised(rows: Floats) -> Floats:
    return np.asarray(rows / rows.sum(axis=1, keepdims=True))


def _likelihood(factor: Factor, lesions: Lesions, subset: Collection[str]) -> Floats:
    """(N, K) likelihood of what a subset shows of a factor; ones where it shows nothing."""
    from scipy.special import ndtr

    table = np.ones((len(lesions.diagnosis), len(factor.values)))
    for sign in factor.signs:
        if set(sign.seen_in) & set(subset):
            s = lesions.strengths[sign.name][:, None]
            z = (s - np.array(sign.means)) / sign.sd
            inside = np.exp(-(z**2) / 2) / (sign.sd * np.sqrt(2 * np.pi))
            # What was clipped has the probability of all that lies beyond.
            table *= np.where(s <= 0, ndtr(z), np.where(s >= 1, ndtr(-z), inside))
    if factor.recorded and "metadata" in subset:
        table *= np.eye(len(factor.values))[lesions.values[factor.name]]
    # A floor far below any rounding that matters: a product of very small numbers must not become 0 / 0.
    return np.maximum(table, 1e-280) if not factor.recorded else table
