"""What is in a patient of the PET/CT phantom: the candidates, of which only some are lesions, and what each modality shows.

The generative model, all of it. A case is a negative control with the probability `negatives`. It has 2 to 5 candidates, each
at a place of its own where the tissue around is fat, each of a kind that is drawn independently (PRIORS, where a negative
control has no lesion). What a modality shows of a kind is in SHOWN and drawn for each candidate:

kind      | lesion | PET                    | CT
viable    | yes    | hot: the uptake        | mass of soft tissue: the density
necrotic  | yes    | nothing: as fat        | calcified mass: the density
brown-fat | no     | hot, somewhat less     | nothing: it is fat
benign    | no     | nothing: as fat        | mass of soft tissue, somewhat less dense

So PET alone cannot tell active fat from tumour and does not see dead tumour; CT alone cannot tell a benign node from a tumour;
both together can. All lengths are mm, in RAS.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np

Kind = Literal["viable", "necrotic", "brown-fat", "benign"]
Release = Literal["autopet", "hecktor"]
Triple = tuple[float, float, float]

KINDS: tuple[Kind, ...] = ("viable", "necrotic", "brown-fat", "benign")
LESIONS: frozenset[Kind] = frozenset({"viable", "necrotic"})
SHOWN: dict[str, frozenset[Kind]] = {
    "ct": frozenset({"viable", "necrotic", "benign"}),
    "pet": frozenset({"viable", "brown-fat"}),
}
COUNTS = (2, 3, 4, 5)  # candidates of a case, each number equally often
# Probability of each of KINDS, in a case that is a negative control and in one that is not.
PRIORS: dict[bool, tuple[float, float, float, float]] = {
    False: (0.40, 0.15, 0.20, 0.25),
    True: (0.0, 0.0, 0.45, 0.55),
}
# Logarithm of the SUV, and HU: mean and standard deviation of a normal distribution.
LOG_UPTAKE: dict[Kind, tuple[float, float]] = {"viable": (math.log(7.0), 0.3), "brown-fat": (math.log(5.0), 0.3)}
DENSITY: dict[Kind, tuple[float, float]] = {"viable": (58.0, 12.0), "necrotic": (200.0, 30.0), "benign": (44.0, 12.0)}
# Radius of a candidate, uniform; each half-axis is that times a factor of its own in STRETCH.
RADIUS: dict[Release, tuple[float, float]] = {"autopet": (12.0, 22.0), "hecktor": (6.0, 12.0)}
STRETCH = (0.85, 1.15)
JITTER: dict[Release, float] = {"autopet": 4.0, "hecktor": 2.0}  # of a candidate's centre along each axis


def _both(x: float, y: float, z: float) -> tuple[Triple, Triple]:
    return (x, y, z), (-x, y, z)


# Where candidates can be: axillary, supraclavicular, mediastinal, retroperitoneal, mesenteric, iliac, inguinal; levels II to V
# of the neck. They lie so far apart that candidates never touch.
PLACES: dict[Release, tuple[Triple, ...]] = {
    "autopet": (
        *_both(112, -5, 478),
        *_both(58, 10, 530),
        (5, 38, 480),
        *_both(45, 5, 225),
        (0, 55, 165),
        *_both(55, -5, 125),
        *_both(85, 40, 50),
    ),
    "hecktor": (*_both(52, 12, 92), *_both(52, 12, 55), *_both(52, 12, 18), *_both(48, -30, 73)),
}
# (scale of the SUV, noise of the PET at SUV 1, noise of the CT in HU) of each centre; autoPET has one.
CENTRES: dict[Release, dict[str, tuple[float, float, float]]] = {
    "autopet": {"": (1.0, 0.12, 12.0)},
    "hecktor": {
        "CHUM": (1.00, 0.10, 10.0),
        "CHUP": (1.15, 0.14, 14.0),
        "CHUS": (0.90, 0.12, 12.0),
        "CHUV": (1.05, 0.20, 10.0),
        "HGJ": (0.95, 0.16, 18.0),
        "HMR": (1.25, 0.18, 15.0),
        "MDA": (0.85, 0.10, 8.0),
    },
}
NEGATIVES: dict[Release, float] = {"autopet": 0.45, "hecktor": 0.1}
BODY = ((0.93, 1.07), (0.93, 1.07), (0.94, 1.0))  # along each axis; so small that no two candidates can touch
SHIFT = ((-8.0, 8.0), (-8.0, 8.0), (0.0, 10.0))
PRIMARY = 0.9  # probability that a case of hecktor has a primary tumour (GTVp), which both modalities show


@dataclass(frozen=True)
class Candidate:
    """Something that may be a lesion.

    Attributes:
        kind: One of KINDS.
        centre: In mm, in the frame of the files.
        semi: Half-axes in mm.
        uptake: SUV that the kind shows in PET, None where it shows nothing there.
        density: HU that the kind shows in CT, None where it shows nothing there.
    """

    kind: Kind
    centre: Triple
    semi: Triple
    uptake: float | None
    density: float | None

    @property
    def lesion(self) -> bool:
        """Whether it is to be found."""
        return self.kind in LESIONS

    @property
    def ml(self) -> float:
        """Its volume in ml."""
        return 4e-3 / 3 * math.pi * self.semi[0] * self.semi[1] * self.semi[2]


@dataclass(frozen=True)
class Scene:
    """A patient.

    Attributes:
        negative: Whether it is a negative control.
        candidates: In no particular order.
        primary: The primary tumour of hecktor, None where there is none.
        scale: Factor of all SUV of this patient, that of the centre included.
        body: Factors of the patient's size along each axis, of all places and organs but not of the candidates.
        shift: Where the patient lies, in mm along each axis.
    """

    negative: bool
    candidates: tuple[Candidate, ...]
    primary: Candidate | None
    scale: float
    body: Triple
    shift: Triple

    @property
    def lesion_ml(self) -> float:
        """Volume of all lesions in ml, without the primary tumour."""
        return sum(candidate.ml for candidate in self.candidates if candidate.lesion)


def draw_scene(rng: np.random.Generator, release: Release, *, negatives: float, scale: float = 1.0) -> Scene:
    """Draws a patient from the model of this module.

    Args:
        rng: The stream of this patient's scene.
        release: Which part of the body.
        negatives: Probability of a negative control.
        scale: Of the centre.
    """
    negative = bool(rng.uniform() < negatives)
    count = int(rng.choice(COUNTS))
    chosen = rng.choice(len(PLACES[release]), size=count, replace=False)
    body, shift = _triple(rng.uniform(*np.transpose(BODY))), _triple(rng.uniform(*np.transpose(SHIFT)))
    candidates = []

    def candidate(kind: Kind, place: Triple) -> Candidate:
        middle = tuple(p * factor + by for p, factor, by in zip(place, body, shift, strict=True))
        return _candidate(rng, kind, middle, release)

    for place in chosen:
        kind = KINDS[int(rng.choice(len(KINDS), p=PRIORS[negative]))]
        candidates.append(candidate(kind, PLACES[release][place]))
    primary = None
    if release == "hecktor" and rng.uniform() < PRIMARY:
        side = 18.0 if rng.uniform() < 0.5 else -18.0
        primary = candidate("viable", (side, 18.0, 75.0))
    return Scene(negative, tuple(candidates), primary, scale * float(np.exp(rng.normal(0, 0.1))), body, shift)


def _triple(values: Iterable[float]) -> Triple:
    x, y, z = (float(value) for value in values)
    return x, y, z


def _candidate(rng: np.random.Generator, kind: Kind, middle: Iterable[float], release: Release) -> Candidate:
    centre = _triple(np.array([*middle]) + rng.uniform(-1, 1, size=3) * JITTER[release])
    semi = _triple(rng.uniform(*RADIUS[release]) * rng.uniform(*STRETCH, size=3))
    first, second = rng.standard_normal(2)
    uptake = float(np.exp(_normal(LOG_UPTAKE[kind], first))) if kind in LOG_UPTAKE else None
    density = _normal(DENSITY[kind], second) if kind in DENSITY else None
    return Candidate(kind, centre, semi, uptake, density)


def _normal(of: tuple[float, float], draw: float) -> float:
    return of[0] + of[1] * float(draw)


def causes(case: str, centre: str, scene: Scene) -> dict[str, object]:
    """The row of `hidden_causes.csv` of a patient; columns of candidates that it does not have are blank.

    Args:
        case: Its id.
        centre: "" where there is one only.
        scene: The patient.
    """
    row: dict[str, object] = {
        "case": case,
        "negative": int(scene.negative),
        "candidates": len(scene.candidates),
        "lesions": sum(candidate.lesion for candidate in scene.candidates),
        "lesion_ml": round(scene.lesion_ml, 4),
        "primary_ml": round(scene.primary.ml, 4) if scene.primary else "",
        "centre": centre,
        "scale": round(scene.scale, 6),
    }
    for axis, factor, by in zip("xyz", scene.body, scene.shift, strict=True):
        row |= {f"body_{axis}": round(factor, 6), f"shift_{axis}": round(by, 3)}
    for number in range(max(COUNTS)):
        found = scene.candidates[number] if number < len(scene.candidates) else None
        row |= {f"c{number + 1}_{name}": value for name, value in _columns(found).items()}
    return row


def _columns(candidate: Candidate | None) -> dict[str, object]:
    if candidate is None:
        return dict.fromkeys(("kind", "x", "y", "z", "ml", "uptake", "density"), "")
    x, y, z = (round(value, 3) for value in candidate.centre)
    uptake = "" if candidate.uptake is None else round(candidate.uptake, 4)
    density = "" if candidate.density is None else round(candidate.density, 2)
    return {"kind": candidate.kind, "x": x, "y": y, "z": z, "ml": round(candidate.ml, 4), "uptake": uptake, "density": density}


def meanings() -> Mapping[str, tuple[Literal["shared", "unique", "noise", "label"], str, str]]:
    """What each column of `causes` is, but for `case`."""
    said: dict[str, tuple[Literal["shared", "unique", "noise", "label"], str, str]] = {
        "negative": ("label", "", "1 for a negative control"),
        "candidates": ("shared", "", "how many places may be lesions"),
        "lesions": ("label", "", "how many of them are"),
        "lesion_ml": ("label", "", "volume of the lesions (ml)"),
        "primary_ml": ("shared", "", "volume of the primary tumour (ml), blank where there is none"),
        "centre": ("noise", "", "who took the pictures"),
        "scale": ("noise", "pet", "factor of all SUV"),
    }
    for axis in "xyz":
        said[f"body_{axis}"] = ("noise", "", "factor of the patient's size")
        said[f"shift_{axis}"] = ("noise", "", "where the patient lies (mm)")
    for number in range(1, max(COUNTS) + 1):
        said[f"c{number}_kind"] = ("label", "", "viable and necrotic are lesions, brown-fat and benign are not")
        for axis in "xyz":
            said[f"c{number}_{axis}"] = ("shared", "", f"{axis} of the centre (mm)")
        said[f"c{number}_ml"] = ("shared", "", "volume (ml)")
        said[f"c{number}_uptake"] = ("unique", "pet", "SUV before the scale, blank where PET shows nothing")
        said[f"c{number}_density"] = ("unique", "ct", "HU, blank where CT shows nothing")
    return said
