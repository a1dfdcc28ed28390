"""What each finding of the chest phantom adds to the picture.

A finding adds `amplitude x share x template`, where its share is its contrast in units of a visible one. Templates depend on
the body, the size and the place, and not on whether the finding is there: what looks like it and is not has the same form,
fainter.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from comodal.data.phantoms.chest_anatomy import VESSELS, Frame, above, texture, wall
from comodal.data.phantoms.chest_model import FINDINGS, Floats, Signs

Centre = tuple[float, float]


@dataclass(frozen=True)
class Spot:
    """Where a template is drawn: in which body, around which place, of which size (a number of SIZES), with which texture."""

    frame: Frame
    centre: Centre
    size: int
    rng: np.random.Generator


# Density that a visible finding of median contrast adds at the centre of its template.
AMPLITUDES = {
    "Edema": 0.085,
    "Effusion": 0.24,
    "Nodule": 0.24,
    "Pneumothorax": 0.13,
    "Consolidation": 0.17,
    "Atelectasis": 0.20,
    "Mass": 0.24,
    "Infiltration": 0.12,
    "Pneumonia": 0.17,
    "Emphysema": -0.10,
    "Fibrosis": 0.15,
    "Pleural_Thickening": 0.20,
    "Hernia": 0.13,
}

# How far from its centre a template can be told from nothing; the others are drawn on the whole picture.
REACH = {
    "Nodule": 0.15,
    "Mass": 0.30,
    "Consolidation": 0.55,
    "Infiltration": 0.60,
    "Pneumonia": 0.65,
    "Atelectasis": 0.35,
}


def oedema(frame: Frame, share: float, rng: np.random.Generator) -> Floats:
    """Full vessels up to grade 1, lines from there to grade 2, clouds around the hila from there to 3.

    Args:
        frame: The body.
        share: Contrast, in grades.
        rng: Of lines and clouds.
    """
    a, x, y = frame.anatomy, frame.x, frame.y
    fine, coarse = texture(rng, x, y, scale=0.055), texture(rng, x, y, scale=0.17)
    # Vessels of the upper zones fill first.
    density = 0.45 * min(share, 3.0) * frame.vessels * (0.5 + above(0.05 - y, 0.10))
    lines = 0.6 + 0.4 * np.clip(1.5 - 2.2 * np.abs(fine), 0, 1.5)
    density += AMPLITUDES["Edema"] * min(max(share - 0.7, 0), 3.0) * 0.55 * lines * frame.lungs
    hila = np.exp(-np.square(np.hypot((np.abs(x) - 0.26) / 0.30, (y - a.heart[1] + 0.18) / 0.36)))
    clouds = AMPLITUDES["Edema"] * max(share - 1.7, 0) * 1.5 * hila * np.clip(1 + 0.35 * coarse, 0, 2)
    return np.asarray(density + clouds * frame.lungs)


def place(frame: Frame, signs: Signs, j: int, *, site: int) -> tuple[float, float]:
    """Centre of a finding in the body. j: of FINDINGS; site: which of its sites."""
    a, (dx, dy) = frame.anatomy, signs.jitter[0, site]
    words = FINDINGS[j].sites[site].split()
    side = 1 if "left" in words else -1
    heights = {"upper": -0.42, "mid": -0.08, "lower": 0.24}
    name = FINDINGS[j].name
    if words[-1] in heights:
        low = words[-1] == "lower"
        out = 0.56 if low and side > 0 else 0.47 if low else 0.40  # beside the heart, not behind it
        return side * (out + 0.06 * dx), heights[words[-1]] + 0.07 * dy
    if words == ["hiatus"]:
        return 0.06 + 0.03 * dx, 0.40 + 0.02 * dy
    if words == ["heart"]:
        return a.heart
    if len(words) == 2:  # both lungs
        return 0.0, -0.05
    heights = {"Effusion": 0.50, "Pneumothorax": -0.55, "Fibrosis": 0.25, "Pleural_Thickening": -0.05 + 0.15 * dy}
    return side * {"Effusion": 0.60, "Pneumothorax": 0.42, "Fibrosis": 0.52, "Pleural_Thickening": 0.68}[name], heights[name]


def template(frame: Frame, signs: Signs, j: int, *, site: int, seed: tuple[int, int]) -> Floats:
    """What a finding of share 1 adds, before its amplitude: (size, size).

    Args:
        frame: The body.
        signs: Of the finding in this case.
        j: Its number in FINDINGS.
        site: Which of its sites.
        seed: (seed, case).
    """
    rng = np.random.default_rng([*seed, 61 + j, site])
    centre = place(frame, signs, j, site=site)
    draw, size = TEMPLATES[FINDINGS[j].name], int(signs.sizes[0, site])
    reach = REACH.get(FINDINGS[j].name)
    if reach is None:
        return draw(Spot(frame, centre, size, rng))
    near = np.maximum(np.abs(frame.x - centre[0]), np.abs(frame.y - centre[1])) < reach
    out, window = np.zeros_like(frame.x), np.ix_(near.any(axis=1), near.any(axis=0))
    sides = (frame.sides[0][window], frame.sides[1][window])
    out[window] = draw(
        Spot(Frame(frame.anatomy, frame.x[window], frame.y[window], sides, frame.vessels[window]), centre, size, rng)
    )
    return out


def _side(spot: Spot) -> tuple[int, Floats]:
    side = int(spot.centre[0] > 0)
    return side, spot.frame.sides[side]


def _bent(spot: Spot, *, scale: float) -> Floats:
    """Distance from the centre, its outline uneven. scale: of the unevenness."""
    x, y = spot.frame.x - spot.centre[0], spot.frame.y - spot.centre[1]
    return np.asarray(np.hypot(x, y) * (1 + 0.18 * texture(spot.rng, x, y, scale=scale)))


def _effusion(spot: Spot) -> Floats:
    side, mask = _side(spot)
    level = spot.frame.anatomy.base[side] + (0.04, -0.08, -0.22)[spot.size]
    meniscus = level - 0.28 * np.maximum(np.abs(spot.frame.x) - 0.38, 0) ** 1.3  # higher at the wall
    return mask * above(spot.frame.y - meniscus, 0.022)


def _nodule(spot: Spot) -> Floats:
    return above((0.034, 0.046, 0.058)[spot.size] - _bent(spot, scale=0.2), 0.009)


def _mass(spot: Spot) -> Floats:
    return above((0.095, 0.12, 0.145)[spot.size] - _bent(spot, scale=0.14), 0.012)


def _pneumothorax(spot: Spot) -> Floats:
    _, mask = _side(spot)
    out = np.abs(spot.frame.x)
    depth = (0.07, 0.12, 0.17)[spot.size] * np.clip((0.35 - spot.frame.y) / 0.7, 0, 1) ** 0.6
    edge = (
        np.minimum(wall(spot.frame.anatomy, spot.frame.y) - out, (spot.frame.y - spot.frame.anatomy.apex - 0.02) * 0.8) - depth
    )
    gone = above(-edge, 0.01)
    line = np.exp(-np.square(edge / 0.011)) * above(0.33 - spot.frame.y, 0.03)
    # No vessel passes the line: what was drawn of them there is taken away.
    return mask * (line - gone * (0.75 + spot.frame.vessels / VESSELS))


def _consolidation(spot: Spot) -> Floats:
    _, mask = _side(spot)
    blob = above((0.15, 0.19, 0.23)[spot.size] - _bent(spot, scale=0.22), 0.035)
    tubes = texture(spot.rng, spot.frame.x, spot.frame.y, scale=0.10)
    return mask * blob * np.clip(1 - 0.5 * np.exp(-np.square(tubes / 0.25)), 0, 1)


def _infiltration(spot: Spot) -> Floats:
    _, mask = _side(spot)
    blob = above((0.16, 0.20, 0.24)[spot.size] - _bent(spot, scale=0.25), 0.05)
    return mask * blob * np.clip(0.7 + 0.6 * texture(spot.rng, spot.frame.x, spot.frame.y, scale=0.07), 0, 2)


def _pneumonia(spot: Spot) -> Floats:
    """As a consolidation, but cut off straight at a fissure."""
    _, mask = _side(spot)
    blob = above((0.18, 0.22, 0.26)[spot.size] - _bent(spot, scale=0.3), 0.05)
    fissure = above(spot.frame.y - spot.centre[1] + 0.05 - 0.15 * (np.abs(spot.frame.x) - np.abs(spot.centre[0])), 0.008)
    return mask * blob * fissure * (1 + 0.2 * texture(spot.rng, spot.frame.x, spot.frame.y, scale=0.12))


def _atelectasis(spot: Spot) -> Floats:
    _, mask = _side(spot)
    tilt = spot.rng.uniform(-0.3, 0.3)
    x, y = spot.frame.x - spot.centre[0], spot.frame.y - spot.centre[1]
    away = y - tilt * x - 0.3 * x**2
    half = (0.10, 0.14, 0.18)[spot.size]
    plate = np.exp(-np.square(away / (0.014 + 0.004 * spot.size))) + 0.6 * np.exp(-np.square((away - 0.06) / 0.012))
    return mask * np.asarray(plate) * above(half - np.abs(x), 0.02)


def _emphysema(spot: Spot) -> Floats:
    return spot.frame.lungs * above((0.0, 0.2, 0.5)[spot.size] - spot.frame.y, 0.15) * (1 + 3 * spot.frame.vessels)


def _fibrosis(spot: Spot) -> Floats:
    _, mask = _side(spot)
    net = np.exp(-np.square(texture(spot.rng, spot.frame.x, spot.frame.y, scale=0.075) / 0.35))
    outer = above(np.abs(spot.frame.x) - 0.34, 0.06) * above(spot.frame.y - (0.20, 0.08, -0.05)[spot.size], 0.06)
    return mask * net * outer


def _thickening(spot: Spot) -> Floats:
    _, mask = _side(spot)
    depth = wall(spot.frame.anatomy, spot.frame.y) - np.abs(spot.frame.x)
    return (
        mask
        * above((0.045, 0.06, 0.08)[spot.size] - depth, 0.01)
        * above((0.16, 0.22, 0.28)[spot.size] - np.abs(spot.frame.y - spot.centre[1]), 0.03)
    )


def _hernia(spot: Spot) -> Floats:
    x, y = spot.frame.x - spot.centre[0], spot.frame.y - spot.centre[1]
    disc = above(1 - np.hypot(x, y) / (0.10, 0.13, 0.16)[spot.size], 0.05)
    return np.asarray(
        disc * (1 - 1.3 * above(-y - 0.01, 0.006) * above(0.75 - np.hypot(x, y) / (0.10, 0.13, 0.16)[spot.size], 0.05))
    )


TEMPLATES: dict[str, Callable[[Spot], Floats]] = {
    "Effusion": _effusion,
    "Nodule": _nodule,
    "Pneumothorax": _pneumothorax,
    "Consolidation": _consolidation,
    "Atelectasis": _atelectasis,
    "Mass": _mass,
    "Infiltration": _infiltration,
    "Pneumonia": _pneumonia,
    "Emphysema": _emphysema,
    "Fibrosis": _fibrosis,
    "Pleural_Thickening": _thickening,
    "Hernia": _hernia,
}
