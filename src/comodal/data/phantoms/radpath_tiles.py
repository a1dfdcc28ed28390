"""Tiles of tissue in haematoxylin and eosin, painted from four signs. Axis letters: X Y pixels."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from comodal.data.phantoms.fields import smooth_noise

SIDE = 256  # pixels; the size of tile that the layout radpath reads by default
EOSIN, NUCLEUS, PALE, RED = (226.0, 170.0, 200.0), (92.0, 62.0, 138.0), (246.0, 232.0, 240.0), (188.0, 70.0, 96.0)
FEWEST, MOST, VESSELS = 70, 330, 14


def paint_tile(signs: Mapping[str, float], rng: np.random.Generator) -> NDArray[np.uint8]:
    """One tile, (Y, X, 3) uint8.

    Args:
        signs: density (number of nuclei), pleomorphism (how much their size and shape vary), halos (how pale the ring around
            each is), vessels (number of vessels), each in [0, 1].
        rng: Of this tile: places, sizes and stain.
    """
    axes = (np.linspace(-110, 110, SIDE), np.linspace(-110, 110, SIDE), np.zeros(1))
    texture = np.asarray(smooth_noise(rng, axes, scale=9))[..., 0].T
    image = np.array(EOSIN) * (1 + 0.04 * texture[..., None])
    stain = 1 + 0.05 * rng.standard_normal(3)
    nuclei = round(FEWEST + (MOST - FEWEST) * signs["density"])
    spread = 0.08 + 0.45 * signs["pleomorphism"]
    for _ in range(round(VESSELS * signs["vessels"])):
        _ring(image, rng, radius=rng.uniform(9, 14))
    for x, y in rng.uniform(0, SIDE, (nuclei, 2)):
        radius = float(np.clip(4.2 * np.exp(spread * rng.standard_normal()), 2, 12))
        stretch, angle = np.exp(0.5 * spread * rng.standard_normal()), rng.uniform(0, np.pi)
        _blend(image, (x, y), 1.9 * radius, PALE, strength=0.85 * signs["halos"])
        _blend(image, (x, y), radius, NUCLEUS, strength=0.9, stretch=float(stretch), angle=float(angle))
    image = image * stain + rng.normal(0, 3, image.shape)
    return np.asarray(np.clip(np.rint(image), 0, 255), dtype=np.uint8)


def _blend(
    image: NDArray[np.float64],
    centre: tuple[float, float],
    radius: float,
    colour: tuple[float, ...],
    *,
    strength: float,
    stretch: float = 1.0,
    angle: float = 0.0,
) -> None:
    """Paints an ellipse with a soft edge, in place."""
    reach = int(np.ceil(radius * max(stretch, 1 / stretch))) + 2
    x0, y0 = int(centre[0]), int(centre[1])
    xs = np.arange(max(x0 - reach, 0), min(x0 + reach + 1, SIDE))
    ys = np.arange(max(y0 - reach, 0), min(y0 + reach + 1, SIDE))
    dx, dy = xs[None, :] - centre[0], ys[:, None] - centre[1]
    u = (dx * np.cos(angle) + dy * np.sin(angle)) / stretch
    v = (dy * np.cos(angle) - dx * np.sin(angle)) * stretch
    cover = strength * np.clip(radius - np.hypot(u, v) + 0.5, 0, 1)[..., None]
    place = image[ys[0] : ys[-1] + 1, xs[0] : xs[-1] + 1]
    place *= 1 - cover
    place += cover * np.array(colour)


def _ring(image: NDArray[np.float64], rng: np.random.Generator, *, radius: float) -> None:
    """A vessel: a red lumen within a wall of dark nuclei."""
    x, y = rng.uniform(0, SIDE, 2)
    _blend(image, (x, y), radius, PALE, strength=0.9)
    _blend(image, (x, y), 0.6 * radius, RED, strength=0.9)
    for angle in np.linspace(0, 2 * np.pi, 9)[:-1]:
        place = (
            float(np.clip(x + radius * np.cos(angle), 0, SIDE - 1)),
            float(np.clip(y + radius * np.sin(angle), 0, SIDE - 1)),
        )
        _blend(image, place, 3.0, NUCLEUS, strength=0.9, stretch=1.4, angle=float(angle + np.pi / 2))
