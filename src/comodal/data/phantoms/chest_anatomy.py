"""The body in the chest phantom: lungs, heart, bones, vessels, and how it lies on the film.

Coordinates are those of the upright body: x from -1 to 1 from the patient's right (left in the picture) to the left, y from -1
to 1 from top to bottom. Everything is a function of x and y, so that a case is the same at every size but for its noise.
Densities are bright where rays are stopped. Nothing here goes through BLAS, so that the number of threads cannot change a bit
of the result.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from comodal.data.phantoms.chest_model import SIDES, Floats

EDGE = 0.014  # softness of edges
VESSELS = 0.12  # density of a large one
HEART = (0.37, 0.31)  # half axes of a heart of normal size


@dataclass(frozen=True)
class Anatomy:
    """What differs between patients and pictures and says nothing about findings.

    Attributes:
        width: Of the thorax.
        outer: x of the chest wall at its widest.
        base: y of the domes of the diaphragm, right and left.
        apex: y of the tops of the lungs.
        heart: (x, y) of its centre.
        ribs: (phase, distance) along y.
        vessels: (2, 15, 3) per lung: direction, bend, strength.
        soft: Strength of breast shadows.
        nipples: (x, y, strength): look like a small nodule on either side.
        turn: Rotation (radians).
        zoom: Magnification.
        shift: Along x and y.
        gain: Of the film.
        offset: Of the film.
        marker: Whether the letter at the edge is on the left of the picture.
    """

    width: float
    outer: float
    base: tuple[float, float]
    apex: float
    heart: tuple[float, float]
    ribs: tuple[float, float]
    vessels: Floats
    soft: float
    nipples: tuple[float, float, float]
    turn: float
    zoom: float
    shift: tuple[float, float]
    gain: float
    offset: float
    marker: bool


def draw_anatomy(rng: np.random.Generator, film: np.random.Generator) -> Anatomy:
    """Draws a body and a film.

    Args:
        rng: Of the patient: several studies of one share it.
        film: Of the study.
    """
    outer, right = rng.uniform(0.70, 0.78), rng.uniform(0.40, 0.50)
    towards = np.linspace(-1.35, 1.35, 15)
    trees = [
        np.stack([towards + rng.normal(0, 0.06, 15), rng.normal(0, 0.35, 15), rng.uniform(0.5, 1, 15)], axis=1) for _ in SIDES
    ]
    return Anatomy(
        width=rng.uniform(0.94, 1.06),
        outer=outer,
        base=(right, right + rng.uniform(0.02, 0.09)),
        apex=rng.uniform(-0.80, -0.72),
        heart=(rng.uniform(0.09, 0.13), 0.20),
        ribs=(rng.uniform(0, 1), rng.uniform(0.17, 0.20)),
        soft=rng.uniform(0, 0.06),
        nipples=(rng.uniform(0.40, 0.50), rng.uniform(0.22, 0.32), (0.0, 0.05, 0.09)[int(rng.integers(3))]),
        vessels=np.stack(trees),
        turn=film.uniform(-0.06, 0.06),
        zoom=film.uniform(0.94, 1.04),
        shift=(film.uniform(-0.04, 0.04), film.uniform(-0.04, 0.04)),
        gain=film.uniform(0.90, 1.12),
        offset=film.uniform(-0.03, 0.05),
        marker=bool(film.uniform() < 0.5),
    )


def above(d: Floats, softness: float = EDGE) -> Floats:
    """A soft step: 0 where d is far below 0, 1 where it is far above."""
    return np.asarray(1 / (1 + np.exp(np.clip(-d / softness, -50, 50))))


def texture(rng: np.random.Generator, x: Floats, y: Floats, *, scale: float) -> Floats:
    """A random field of mean 0 and deviation 1 that is the same at every size: twelve waves.

    Args:
        rng: Of the waves.
        x: Where, as y.
        y: See x.
        scale: Length of the waves.
    """
    out = np.zeros_like(x)
    for angle, phase, factor in rng.uniform(0, 1, (12, 3)):
        k = 2 * np.pi / (scale * (0.6 + 0.9 * factor))
        out += np.cos(k * (np.cos(np.pi * angle) * x + np.sin(np.pi * angle) * y) + 2 * np.pi * phase)
    return np.asarray(out / np.sqrt(6))


def grid(size: int) -> tuple[Floats, Floats]:
    """Coordinates of the centres of the pixels: (size, size) each, rows from top to bottom."""
    axis = (np.arange(size) + 0.5) * 2 / size - 1
    y, x = np.meshgrid(axis, axis, indexing="ij")
    return x, y


def to_body(anatomy: Anatomy, x: Floats, y: Floats) -> tuple[Floats, Floats]:
    """Where in the body a place of the picture lies."""
    x, y = (x - anatomy.shift[0]) / anatomy.zoom, (y - anatomy.shift[1]) / anatomy.zoom
    c, s = np.cos(anatomy.turn), np.sin(anatomy.turn)
    return (c * x + s * y) / anatomy.width, c * y - s * x


def to_picture(anatomy: Anatomy, x: float, y: float) -> tuple[float, float]:
    """Where in the picture a place of the body lies, as shares of its width and height from the top left corner."""
    c, s = np.cos(anatomy.turn), np.sin(anatomy.turn)
    u, v = x * anatomy.width, y
    u, v = c * u - s * v, s * u + c * v
    return float((u * anatomy.zoom + anatomy.shift[0] + 1) / 2), float((v * anatomy.zoom + anatomy.shift[1] + 1) / 2)


@dataclass(frozen=True)
class Frame:
    """The parts of one body on the pixels of one picture.

    Attributes:
        anatomy: The body.
        x: Where in it each pixel lies, as y.
        y: See x.
        sides: The masks of the right and of the left lung.
        vessels: Density of the vessels.
    """

    anatomy: Anatomy
    x: Floats
    y: Floats
    sides: tuple[Floats, Floats]
    vessels: Floats

    @property
    def lungs(self) -> Floats:
        """Both masks together."""
        return self.sides[0] + self.sides[1]


def make_frame(anatomy: Anatomy, size: int) -> Frame:
    """Lays a body under the pixels of a picture."""
    x, y = to_body(anatomy, *grid(size))
    sides = (lung(anatomy, x, y, side=0), lung(anatomy, x, y, side=1))
    return Frame(anatomy, x, y, sides, draw_vessels(anatomy, x, y, sides=sides))


def wall(anatomy: Anatomy, y: Floats) -> Floats:
    """|x| of the inner chest wall at a height."""
    t = np.clip((y - anatomy.apex) / (0.55 - anatomy.apex), 0, 1)
    return np.asarray(0.24 + (anatomy.outer - 0.24) * np.sqrt(1 - (1 - t) ** 2.6))


def dome(anatomy: Anatomy, x: Floats, side: int) -> Floats:
    """The y of the diaphragm: highest in the middle of each lung, with a sharp angle at the chest wall."""
    return np.asarray(anatomy.base[side] + 1.25 * np.square(np.abs(x) - 0.36) + 0.6 * np.maximum(np.abs(x) - 0.58, 0) ** 1.5)


def lung(anatomy: Anatomy, x: Floats, y: Floats, *, side: int) -> Floats:
    """The mask of one lung. side: 0 right, 1 left."""
    out = x if side else -x
    t = np.clip((y - anatomy.apex) / 0.5, 0, 1)
    inner = 0.25 - 0.13 * np.sqrt(1 - (1 - t) ** 2)
    cap = np.clip((out - 0.25) / 0.2, -1, 1)
    top = anatomy.apex + 0.07 * cap**2
    return above(wall(anatomy, y) - out) * above(out - inner) * above(dome(anatomy, x, side) - y) * above(y - top)


def bones(frame: Frame) -> Floats:
    """Ribs behind and in front, collar bones, spine."""
    a, x, y = frame.anatomy, np.abs(frame.x), frame.y
    cage = above(a.outer + 0.05 - x) * above(0.72 - y, 0.05) * above(wall(a, y) + 0.05 - x) * above(y - a.apex + 0.02)
    behind = above(np.cos(2 * np.pi * ((y - 0.28 * x**1.4) / a.ribs[1] + a.ribs[0])) - 0.35, 0.14)
    front = above(np.cos(2 * np.pi * ((y + 0.55 * (0.75 - x)) / (1.25 * a.ribs[1]) + a.ribs[0] + 0.4)) - 0.5, 0.2)
    out = cage * above(x - 0.07) * (0.055 * behind + 0.03 * front * above(x - 0.36, 0.06))
    collar = a.apex + 0.28 - 0.22 * x + 0.05 * np.sin(7 * x)
    out += 0.11 * np.exp(-np.square((y - collar) / 0.022)) * above(x - 0.06) * above(0.72 - x)
    vertebrae = 0.75 + 0.25 * above(np.cos(2 * np.pi * y / 0.13) + 0.6, 0.15)
    return np.asarray(out + 0.07 * vertebrae * above(0.075 - x))


def draw_vessels(anatomy: Anatomy, x: Floats, y: Floats, *, sides: tuple[Floats, Floats]) -> Floats:
    """Vessels that spread from the hila and get thinner; the lungs' own drawing. Arguments: as in `Frame`."""
    out = np.zeros_like(x)
    for side, mask in enumerate(sides):
        u, v = (x if side else -x) - 0.17, y + 0.06
        r = np.hypot(u, v)
        angle = np.arctan2(v, u)
        fade = np.exp(-r / 0.40) * above(r - 0.05, 0.015) * mask
        tree = np.zeros_like(r)
        for towards, bend, strength in anatomy.vessels[side]:
            away = r * (angle - towards - bend * r)
            tree += strength * np.exp(-np.square(away / (0.019 - 0.011 * np.minimum(r, 1)))) * fade
        # Where vessels cross they do not add up without end.
        out += np.tanh(tree) + 0.8 * np.exp(-np.square(np.hypot(u / 0.6, v) / 0.085))
    return VESSELS * out


def plain(frame: Frame, growth: float) -> Floats:
    """Density of a body without any finding. growth: see above."""
    a, x, y = frame.anatomy, frame.x, frame.y
    torso = above(a.outer + 0.13 + 0.10 * above(y - 0.45, 0.12) - np.abs(x), 0.02) * above(
        y + 0.80 - 0.75 * np.maximum(np.abs(x) - 0.28, 0)
    )
    neck = above(0.30 - np.abs(x), 0.02) * above(-0.70 - y, 0.04)
    body = np.maximum(torso, neck)
    density = 0.56 * body - 0.40 * frame.lungs
    density += 0.10 * above(y - 0.55, 0.10) * body * (1 - frame.lungs) + bones(frame) * body + frame.vessels
    grown, (cx, cy) = HEART[0] * (1 + growth), a.heart
    tilted = (x - cx - 0.07 * growth + 0.25 * (y - cy)) / grown
    heart = above(1 - np.hypot(tilted, (y - cy + 0.03) / HEART[1]), 0.035)
    atrium = above(1 - np.hypot((x + 0.09 + 0.05 * growth) / 0.13, (y - 0.22) / 0.22), 0.06)
    knob = above(1 - np.hypot((x - 0.13) / 0.075, (y + 0.32) / 0.085), 0.15)
    middle = above(0.125 + 0.03 * above(y, 0.1) - np.abs(x), 0.02) * above(y + 0.6, 0.05)
    density += 0.30 * np.maximum.reduce([heart, atrium, 0.8 * knob]) * (0.25 + 0.75 * frame.lungs)
    density += 0.10 * middle * (1 - frame.lungs) * body
    density -= 0.13 * above(0.035 - np.abs(x), 0.008) * above(-0.12 - y, 0.03)  # windpipe
    for side in (-1, 1):
        chest = np.hypot((x - side * 0.42) / 0.34, (y - 0.16) / 0.30)
        density += a.soft * above(1 - chest, 0.08) * body
        nipple = np.hypot(x - side * a.nipples[0], y - a.nipples[1])
        density += a.nipples[2] * above(0.032 - nipple, 0.006)
    density -= 0.16 * above(1 - np.hypot((x - 0.40) / 0.15, (y - a.base[1] - 0.20) / 0.085), 0.06)  # air in the stomach
    return np.asarray(density)
