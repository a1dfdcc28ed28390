"""Nested tumours: enhancing rim (ET) around necrosis (NCR), both in the core (TC), the core in the oedema (WT)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from comodal.data.phantoms.anatomy import outline
from comodal.data.phantoms.fields import Axes, Field, Points, Triple, smooth_noise, step


@dataclass(frozen=True)
class Focus:
    """One of the (usually one) foci of a tumour.

    Attributes:
        centre: In the brain's own frame (mm).
        stretch: Relative extent along X, Y, Z.
        core: Mean radius of the core (mm).
        oedema: Mean width of the oedema around it (mm).
    """

    centre: Triple
    stretch: Triple
    core: float
    oedema: float


@dataclass(frozen=True)
class Tumour:
    """A tumour.

    Attributes:
        low_grade: True where nothing enhances.
        foci: One or two.
        rim: Mean thickness of the enhancing rim (mm).
        push: How far tissue is pushed aside, relative to its distance from the centre, 0 to 1.
    """

    low_grade: bool
    foci: tuple[Focus, ...]
    rim: float
    push: float


@dataclass(frozen=True)
class Lesion:
    """Fractions on the fine grid, everywhere enhancing <= core <= whole.

    Attributes:
        whole, core, enhancing: Fractions of WT, TC and ET in [0, 1].
    """

    whole: Field
    core: Field
    enhancing: Field


def draw_tumour(rng: np.random.Generator, *, low_grade: float) -> Tumour:
    """A random tumour within the cerebrum.

    Args:
        rng: Source of all draws.
        low_grade: Probability that nothing enhances.
    """
    low = bool(rng.uniform() < low_grade)
    core, oedema = rng.uniform(14, 24), rng.uniform(5, 10) if low else rng.uniform(8, 18)
    first = Focus(_centre(rng, core), _stretch(rng), core, oedema)
    foci = [first]
    if rng.uniform() < 0.2 and not low:
        foci += _satellite(rng, first)
    return Tumour(low, tuple(foci), rng.uniform(4.5, 8), rng.uniform(0.15, 0.4))


def _stretch(rng: np.random.Generator) -> Triple:
    x, y, z = np.exp(rng.uniform(-0.2, 0.2, 3))
    return float(x), float(y), float(z)


def _depth(centre: Triple) -> float:
    at = tuple(np.full((1, 1, 1), v, np.float32) for v in centre)
    return float(outline((at[0], at[1], at[2]))[1].item())


def _centre(rng: np.random.Generator, core: float) -> Triple:
    """A place in one hemisphere, so deep that most of the core lies within the brain."""
    side = rng.choice((-1.0, 1.0))
    while True:
        centre = (float(side * rng.uniform(16, 46)), rng.uniform(-58, 60), rng.uniform(-22, 42))
        if _depth(centre) > 0.75 * core + 4:
            return centre


def _satellite(rng: np.random.Generator, first: Focus) -> list[Focus]:
    """A second, smaller focus in the same hemisphere; empty where a hundred draws find no room."""
    core = rng.uniform(8, 12)
    for _ in range(100):
        centre = _centre(rng, core)
        centre = (float(np.copysign(centre[0], first.centre[0])), centre[1], centre[2])
        gap = float(np.linalg.norm(np.subtract(centre, first.centre)))
        if first.core + core + 4 < gap < first.core + core + 30:
            return [Focus(centre, _stretch(rng), core, rng.uniform(4, 8))]
    return []


def push_aside(tumour: Tumour, p: Points) -> Points:
    """Mass effect: for each point, where its tissue was before the tumour grew (mm)."""
    focus = tumour.foci[0]
    reach = 1.5 * (focus.core + focus.oedema)
    away = [value - np.float32(c) for value, c in zip(p, focus.centre, strict=True)]
    square = away[0] ** 2 + away[1] ** 2 + away[2] ** 2
    shrink = np.float32(tumour.push) * np.exp(-square / np.float32(reach * reach))
    x, y, z = (value - a * shrink for value, a in zip(p, away, strict=True))
    return x, y, z


def build_lesion(tumour: Tumour, axes: Axes, *, p: Points, brain: Field, grey: Field, rng: np.random.Generator) -> Lesion:
    """Draws the tumour into a brain.

    Args:
        tumour: Which.
        axes: Fine coordinates along each axis (mm), for the noise.
        p: Coordinates of the fine voxels in the brain's own frame.
        brain: Depth below the surface of the brain (mm).
        grey: Fraction of grey matter and fluid, which oedema spares.
        rng: Source of the irregular borders.
    """
    ragged = np.float32(1.8) * smooth_noise(rng, axes, scale=9) + np.float32(3.2) * smooth_noise(rng, axes, scale=20)
    fingers = np.float32(2.2) * smooth_noise(rng, axes, scale=9) + np.float32(4.5) * smooth_noise(rng, axes, scale=26)
    radii = [_radius(focus, p) for focus in tumour.foci]
    core_depth = _deepest([np.float32(f.core) - r for f, r in zip(tumour.foci, radii, strict=True)]) + ragged
    core_depth = np.minimum(core_depth, brain - np.float32(2.5))
    spread = _deepest([np.float32(f.core + f.oedema) - r for f, r in zip(tumour.foci, radii, strict=True)]) + fingers
    # Oedema follows white matter; what it loses in the cortex keeps its border in gyri, like fingers.
    spread = np.minimum(spread - np.float32(7) * grey, brain - np.float32(2))
    core = step(core_depth)
    whole = np.maximum(step(spread, width=2), core)
    if tumour.low_grade:
        return Lesion(whole, core, np.zeros_like(core))
    rim = np.float32(tumour.rim) + np.float32(2.2) * smooth_noise(rng, axes, scale=16)
    return Lesion(whole, core, core * step(rim - core_depth))


def _radius(focus: Focus, p: Points) -> Field:
    """Stretched distance from the centre of a focus (mm); it grows faster beyond the midline, which few tumours cross."""
    x, y, z = ((v - np.float32(c)) / np.float32(s) for v, c, s in zip(p, focus.centre, focus.stretch, strict=True))
    beyond = np.maximum(-p[0] * np.float32(np.sign(focus.centre[0])), 0)
    return np.asarray(np.sqrt(x * x + y * y + z * z) + np.float32(0.8) * beyond, dtype=np.float32)


def _deepest(depths: list[Field]) -> Field:
    return np.asarray(np.max(depths, axis=0), dtype=np.float32) if len(depths) > 1 else depths[0]
