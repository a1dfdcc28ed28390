"""The two photographs of the skin phantom, painted from the signs of a lesion (`skin_model`) layer by layer.

Every sign has a layer of its own whose opacity grows with it, and signs that could hide each other lie in different parts of
the lesion. A sign of regular and irregular patterns also moves from order to disorder as it grows. All else (outline, colours,
light, hair, glare) is drawn from streams that no cause has a part in, in units of the frame, so that a case looks the same at
every size.

Pictures are (X, Y, 3) float32 in [0, 1], X = column; positions run from -1 to 1 along the frame, and lesion coordinates have
their unit at the mean border.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from comodal.data.phantoms.fields import REACH, smooth_noise

Plane = NDArray[np.float32]
Picture = NDArray[np.float32]
Colour = tuple[float, float, float]
Streams = Callable[[str], np.random.Generator]

DARK, VEIL, SCAR, RED, MILK = (0.17, 0.09, 0.07), (0.40, 0.48, 0.66), (0.90, 0.80, 0.77), (0.70, 0.12, 0.13), (0.96, 0.89, 0.72)
NETWORK, FRECKLE = (0.22, 0.12, 0.08), (0.50, 0.30, 0.20)


@dataclass(frozen=True)
class View:
    """A lesion in a frame.

    Attributes:
        x: (X, Y) position along the frame, as is y.
        y: See x.
        u: Lesion coordinates, as is v.
        v: See u.
        q: Distance from the middle of the lesion, in units of the border in that direction: 1 on the border.
        angle: Direction from the middle of the lesion.
        scale: Frame units per lesion unit.
    """

    x: Plane
    y: Plane
    u: Plane
    v: Plane
    q: Plane
    angle: Plane
    scale: float

    def noise(self, rng: np.random.Generator, size: float) -> Plane:
        """Smooth noise of mean 0 and standard deviation 1, with features of `size` (frame units)."""
        axes = (self.x[:, 0] * np.float64(0.99 * REACH), self.y[0] * np.float64(0.99 * REACH), np.zeros(1))
        return smooth_noise(rng, axes, scale=size * REACH)[..., 0]

    def inside(self, width: float) -> Plane:
        """1 within the lesion, 0 outside, over a border of `width` (lesion units)."""
        return _ramp((1 - self.q) / np.float32(width) + np.float32(0.5))


def _ramp(t: NDArray[np.floating[Any]]) -> Plane:
    """Smooth step from 0 to 1."""
    t = np.clip(t, 0, 1)
    return np.asarray(t * t * (3 - 2 * t), dtype=np.float32)


def disorder(strength: float) -> float:
    """How irregular a pattern is: 0 for those that are faint or regular, 1 for the strongest."""
    t = min(max((strength - 0.4) / 0.4, 0.0), 1.0)
    return t * t * (3 - 2 * t)


def _view(size: int, streams: Streams, *, asymmetry: float, placing: tuple[float, float, float, float]) -> View:
    """placing: middle (x, y), scale and rotation. The outline is the same in both photographs."""
    at = (np.arange(size) + 0.5) / size * 2 - 1
    x, y = (plane.astype(np.float32) for plane in np.meshgrid(at, at, indexing="ij"))
    middle_x, middle_y, scale, turn = placing
    u, v = (x - np.float32(middle_x)) / np.float32(scale), (y - np.float32(middle_y)) / np.float32(scale)
    cos, sin = np.float32(np.cos(turn)), np.float32(np.sin(turn))
    u, v = cos * u + sin * v, cos * v - sin * u
    angle = np.arctan2(v, u)
    rng = streams("outline")
    border = np.ones_like(angle)
    # Odd waves make halves differ. Their weights add up to less than 1, so that the border never reaches the middle.
    for wave, weight in ((1, 0.22), (2, 0.12), (3, 0.16), (5, 0.07), (7, 0.03)):
        border += np.float32(weight * asymmetry) * np.cos(wave * angle + np.float32(rng.uniform(0, 2 * np.pi)))
    for wave in (2, 3, 4, 6, 9):
        border += np.float32(rng.normal(0, 0.05 / wave**0.5)) * np.cos(wave * angle + np.float32(rng.uniform(0, 2 * np.pi)))
    q = np.hypot(u, v) / np.maximum(border, np.float32(0.2))
    return View(x, y, u, v, q.astype(np.float32), angle.astype(np.float32), scale)


def _lay(picture: Picture, colour: Colour, opacity: Plane) -> None:
    """Paints over, in place."""
    picture += (np.array(colour, np.float32) - picture) * np.clip(opacity, 0, 1)[..., None]


def _blob(view: View, middle: tuple[float, float], radius: float, ragged: Plane) -> Plane:
    """A soft patch in lesion coordinates with a ragged border, 1 in its middle."""
    distance = np.hypot(view.u - np.float32(middle[0]), view.v - np.float32(middle[1])) / np.float32(radius)
    return _ramp(1.5 - distance + ragged)


def _spots(view: View, places: NDArray[np.float64], radii: NDArray[np.float64]) -> Plane:
    """Round spots at (N, 2) lesion coordinates."""
    out = np.zeros_like(view.u)
    for (a, b), radius in zip(places, radii, strict=True):
        distance = np.hypot(view.u - np.float32(a), view.v - np.float32(b)) / np.float32(radius)
        np.maximum(out, _ramp((1.25 - distance) * 2), out=out)
    return out


def _scattered(rng: np.random.Generator, count: int, reach: float, loose: float) -> NDArray[np.float64]:
    """(count, 2) places in a disc: evenly spread along a spiral, or moved off it at random."""
    k = np.arange(count) + 0.5
    even = np.stack([np.cos(k * 2.39996), np.sin(k * 2.39996)], axis=1) * (reach * np.sqrt(k / count))[:, None]
    turn, distance = rng.uniform(0, 2 * np.pi, count), reach * np.sqrt(rng.uniform(size=count))
    free = np.stack([np.cos(turn), np.sin(turn)], axis=1) * distance[:, None]
    return np.asarray(even + loose * (free - even))


def _network(view: View, rng: np.random.Generator, strength: float) -> Plane:
    """A honeycomb of lines, bent and of uneven width where it is atypical."""
    loose = np.float32(disorder(strength))
    bend = [view.noise(rng, 0.24 * view.scale) for _ in range(2)]
    uneven, turn = view.noise(rng, 0.5 * view.scale), rng.uniform(0, np.pi)
    u, v = (p + loose * np.float32(0.075) * b for p, b in zip((view.u, view.v), bend, strict=True))
    waves = np.zeros_like(u)
    for step in range(3):
        direction = turn + step * 2 * np.pi / 3
        waves += np.cos(np.float32(2 * np.pi / 0.19) * (np.float32(np.cos(direction)) * u + np.float32(np.sin(direction)) * v))
    lines = _ramp((0.12 + loose * 0.22 * uneven - waves / 3) / np.float32(0.36))
    return np.asarray(lines * view.inside(0.25) * (1 - loose * _ramp(uneven - 0.6)), dtype=np.float32)


def _streaks(view: View, rng: np.random.Generator, strength: float) -> Plane:
    """Lines that leave the border outwards: all round and alike, or in places and of any length."""
    loose, count = disorder(strength), 26
    turns = (np.arange(count) + loose * rng.normal(0, 0.8, count)) * 2 * np.pi / count + rng.uniform(0, 2 * np.pi)
    lengths = 0.20 * (1 + loose * rng.uniform(-0.5, 1.2, count))
    kept = 1 - loose * (rng.uniform(size=count) < 0.45)
    out = np.zeros_like(view.u)
    for turn, length, weight in zip(turns, lengths, kept, strict=True):
        off = np.abs(np.mod(view.angle - np.float32(turn) + np.float32(np.pi), np.float32(2 * np.pi)) - np.float32(np.pi))
        line = np.exp(-((off * view.q / np.float32(0.040)) ** 2))
        along = _ramp((view.q - 0.74) / np.float32(0.15)) * _ramp((np.float32(1 + length) - view.q) / np.float32(0.12))
        np.maximum(out, np.float32(weight) * line * along, out=out)
    return out


def _vessels(view: View, rng: np.random.Generator, strength: float) -> Plane:
    """Winding lines, which give way to dots where they are irregular."""
    loose = np.float32(disorder(strength))
    winding = np.exp(-((view.noise(rng, 0.30 * view.scale) / np.float32(0.13)) ** 2)) * _ramp(view.noise(rng, 0.4) + 0.9)
    places = _scattered(rng, 40, 0.85, 1.0)
    dots = _spots(view, places, rng.uniform(0.024, 0.036, len(places)))
    return np.asarray(((1 - loose) * winding + loose * dots) * view.inside(0.2), dtype=np.float32)


def _patches(view: View, rng: np.random.Generator, pigmentation: float) -> tuple[Plane, Plane, Plane]:
    """Where blotch, veil and scar lie: each in a third of the lesion of its own."""
    first, ragged = rng.uniform(0, 2 * np.pi), 0.28 * view.noise(rng, 0.35 * view.scale)
    ways = [(np.cos(first + k * 2.0944), np.sin(first + k * 2.0944)) for k in range(3)]
    off = 0.34 + 0.16 * disorder(pigmentation)
    blotch = _blob(view, (off * ways[0][0], off * ways[0][1]), 0.36, ragged * np.float32(0.3 + disorder(pigmentation)))
    veil = _blob(view, (0.44 * ways[1][0], 0.44 * ways[1][1]), 0.38, ragged)
    scar = _blob(view, (0.50 * ways[2][0], 0.50 * ways[2][1]), 0.34, ragged)
    inside = view.inside(0.15)
    return blotch * inside, veil * inside, scar * inside


def _browns(rng: np.random.Generator) -> tuple[Colour, Colour]:
    """Light and dark brown of the lesion, the same in both photographs."""
    depth = rng.uniform(0, 1)
    light = tuple(a + (b - a) * depth for a, b in zip((0.76, 0.55, 0.42), (0.56, 0.37, 0.26), strict=True))
    dark = tuple(a * 0.72 for a in light)
    return (light[0], light[1], light[2]), (dark[0], dark[1], dark[2])


def _hairs(picture: Picture, view: View, rng: np.random.Generator, *, most: int, width: float) -> None:
    for _ in range(int(rng.integers(0, most + 1))):
        turn, bow, off = rng.uniform(0, np.pi), rng.normal(0, 0.25), rng.uniform(-0.95, 0.95)
        along = np.float32(np.cos(turn)) * view.x + np.float32(np.sin(turn)) * view.y
        across = np.float32(np.cos(turn)) * view.y - np.float32(np.sin(turn)) * view.x
        start, length = rng.uniform(-1.2, 0.2), rng.uniform(0.7, 1.6)
        there = _ramp((along - np.float32(start)) * 12) * _ramp((np.float32(start + length) - along) * 12)
        line = np.exp(-(((across - np.float32(off) - np.float32(bow) * along**2) / np.float32(width)) ** 2))
        _lay(picture, (0.10, 0.07, 0.06), np.float32(0.75) * line * there)


def _glints(picture: Picture, view: View, rng: np.random.Generator, *, most: int, radius: float) -> None:
    """Reflections of the lamp, outside of the lesion's middle or not."""
    for _ in range(int(rng.integers(0, most + 1))):
        a, b, r = rng.uniform(-0.95, 0.95), rng.uniform(-0.95, 0.95), radius * rng.uniform(0.5, 1.5)
        distance = np.hypot(view.x - np.float32(a), view.y - np.float32(b)) / np.float32(r)
        _lay(picture, (1.0, 0.99, 0.97), np.float32(0.8) * _ramp((1.2 - distance) * 2))


def dermoscopic(strengths: Mapping[str, float], streams: Streams, size: int) -> Picture:
    """The dermoscopic photograph: the lesion fills the frame, flat and evenly lit.

    Args:
        strengths: {sign: in [0, 1]}; those that dermoscopy does not show are not looked at.
        streams: The random stream of a use; called once for each.
        size: Pixels along X and Y.
    """
    place = streams("derm_place")
    placing = (place.uniform(-0.06, 0.06), place.uniform(-0.06, 0.06), place.uniform(0.56, 0.64), 0.0)
    view = _view(size, streams, asymmetry=strengths["asymmetry"], placing=placing)
    s = {name.removesuffix("_derm"): float(value) for name, value in strengths.items() if not name.endswith("_clinical")}
    ground, (light, dark) = streams("derm_ground"), _browns(streams("colour"))
    tone = np.array((0.88, 0.70, 0.64)) * ground.uniform(0.92, 1.06) + (0, ground.normal(0, 0.012), ground.normal(0, 0.015))
    picture = np.zeros((size, size, 3), np.float32) + tone.astype(np.float32)
    picture *= 1 + np.float32(0.025) * view.noise(ground, 0.25)[..., None]
    inside = view.inside(0.18)
    _lay(picture, light, np.float32(0.92) * inside)
    _lay(picture, dark, _ramp(view.noise(ground, 0.22) * 0.35 + 0.35) * np.float32(0.75) * view.inside(0.5))
    blotch, veil, scar = _patches(view, streams("patches"), s["pigmentation"])
    _lay(picture, NETWORK, np.float32(0.85) * s["pigment_network"] * _network(view, streams("network"), s["pigment_network"]))
    _lay(picture, DARK, np.float32(0.85) * s["pigmentation"] * blotch)
    _lay(picture, VEIL, np.float32(0.80) * s["blue_whitish_veil"] * veil)
    _lay(picture, SCAR, np.float32(0.80) * s["regression_structures"] * scar)
    _lay(picture, NETWORK, np.float32(0.90) * s["streaks"] * _streaks(view, streams("streaks"), s["streaks"]))
    dots, loose = streams("dots"), disorder(s["dots_and_globules"])
    places, sizes = _scattered(dots, 36, 0.80, loose), 0.042 * (1 + loose * dots.uniform(-0.5, 0.9, 36))
    _lay(picture, (0.13, 0.07, 0.06), np.float32(0.92) * s["dots_and_globules"] * _spots(view, places, sizes) * inside)
    _lay(
        picture, RED, np.float32(0.88) * s["vascular_structures"] * _vessels(view, streams("vessels"), s["vascular_structures"])
    )
    milia = streams("milia")
    places = _scattered(milia, 12, 0.7, 0.7)
    _lay(picture, MILK, np.float32(0.92) * s["milia"] * _spots(view, places, milia.uniform(0.032, 0.05, 12)) * inside)
    over = streams("derm_over")
    _hairs(picture, view, over, most=4, width=0.013)
    _glints(picture, view, over, most=3, radius=0.025)
    picture *= 1 - np.float32(over.uniform(0.1, 0.5)) * _ramp((np.hypot(view.x, view.y) - 0.95) / np.float32(0.5))[..., None]
    return picture


def clinical(strengths: Mapping[str, float], streams: Streams, size: int) -> Picture:
    """The clinical photograph: the lesion on its skin, from a distance, lit from one side, coarse things only.

    Args:
        strengths: {sign: in [0, 1]}; those that only dermoscopy shows are not looked at.
        streams: As for `dermoscopic`.
        size: Pixels along X and Y.
    """
    place, s = streams("clinical_place"), {name.removesuffix("_clinical"): float(v) for name, v in strengths.items()}
    scale = 0.15 + 0.27 * s["diameter"]
    placing = (place.uniform(-0.2, 0.2), place.uniform(-0.2, 0.2), scale, place.uniform(-np.pi, np.pi))
    view = _view(size, streams, asymmetry=strengths["asymmetry"], placing=placing)
    ground, (light, dark) = streams("clinical_ground"), _browns(streams("colour"))
    tone = np.array((0.93, 0.75, 0.66)) + ground.uniform(0, 1) * np.array((-0.20, -0.21, -0.22))
    picture = np.zeros((size, size, 3), np.float32) + tone.astype(np.float32)
    picture *= (
        1 + np.float32(0.03) * view.noise(ground, 0.4)[..., None] + np.float32(0.018) * view.noise(ground, 0.06)[..., None]
    )
    sun = streams("sun")
    _lay(picture, (0.80, 0.42, 0.36), np.float32(0.40) * s["sun_damage"] * _ramp(view.noise(sun, 0.3) * 0.4 + 0.3))
    frame = View(view.x, view.y, view.x, view.y, view.q, view.angle, 1.0)
    freckles = _spots(frame, sun.uniform(-1, 1, (70, 2)), sun.uniform(0.015, 0.045, 70))
    _lay(picture, FRECKLE, np.float32(0.75) * s["sun_damage"] * freckles)
    red = _ramp((1.5 - view.q) / np.float32(0.6))
    _lay(picture, (0.86, 0.40, 0.38), np.float32(0.60) * s["vascular_structures"] * red)
    inside = view.inside(0.28)
    _lay(picture, light, np.float32(0.80) * inside)
    _lay(picture, dark, _ramp(view.noise(ground, 0.5 * scale) * 0.3 + 0.3) * np.float32(0.6) * view.inside(0.5))
    # Redness shows through the lesion as well.
    _lay(picture, (0.72, 0.30, 0.28), np.float32(0.35) * s["vascular_structures"] * inside)
    blotch, veil, scar = _patches(view, streams("patches"), 0.0)
    _lay(picture, DARK, np.float32(0.85) * s["pigmentation"] * blotch)
    _lay(picture, VEIL, np.float32(0.75) * s["blue_whitish_veil"] * veil)
    _lay(picture, SCAR, np.float32(0.75) * s["regression_structures"] * scar)
    light_rng = streams("light")
    _shade(picture, view, s["relief"], turn=light_rng.uniform(0, 2 * np.pi))
    over = streams("clinical_over")
    _hairs(picture, view, over, most=6, width=0.007)
    _glints(picture, view, over, most=2, radius=0.02)
    slope = np.float32(light_rng.normal(0, 0.07)) * view.x + np.float32(light_rng.normal(0, 0.07)) * view.y
    picture *= (np.float32(light_rng.uniform(0.93, 1.05)) + slope)[..., None]
    return picture


def _shade(picture: Picture, view: View, relief: float, *, turn: float) -> None:
    """Light on a dome: one side brighter, the other darker, a shadow beyond it and a reflection on it."""
    # The light stands still while the lesion is turned: directions are those of the frame.
    middle_x, middle_y = (float(p[view.q.argmin() // p.shape[1], view.q.argmin() % p.shape[1]]) for p in (view.x, view.y))
    a, b = np.float32(np.cos(turn)), np.float32(np.sin(turn))
    toward = (a * (view.x - np.float32(middle_x)) + b * (view.y - np.float32(middle_y))) / np.float32(view.scale)
    dome = view.inside(0.2)
    picture *= 1 + np.float32(0.55 * relief) * (np.clip(toward, -1, 1) * dome)[..., None]
    shadow = _ramp((1.35 - view.q) / np.float32(0.4)) * (1 - dome) * _ramp(-toward)
    picture *= 1 - np.float32(0.55 * relief) * shadow[..., None]
    side = (a * (view.y - np.float32(middle_y)) - b * (view.x - np.float32(middle_x))) / np.float32(view.scale)
    shine = np.exp(-((toward - np.float32(0.45)) ** 2 + side**2) / np.float32(0.02))
    _lay(picture, (1.0, 0.97, 0.94), np.float32(0.8 * relief) * shine)
