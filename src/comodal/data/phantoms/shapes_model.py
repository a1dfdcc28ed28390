"""Pairs of shapes that overlap in part: the generative model of the shapes phantom.

Lengths are fractions of the side of the canvas, whose corner is 0. In two dimensions a triangle and an ellipse, in three a
tetrahedron and an ellipsoid. The first has its centre in the middle of the canvas, the second lies near it; a pair is kept
where the overlap is a fraction of the smaller shape within OVERLAP, and drawn anew, both shapes, where it is not. So the
distribution of the pair is the product of the two, cut where the overlap says, and either shape's distribution given the other
is known.

Axis letters: M pairs, D dimensions, X Y (Z) pixels.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Masks = NDArray[np.bool_]

MIDDLE = (0.275, 0.725)  # of the centre of the first shape, along each axis
AWAY = 0.19  # how far the second centre is from the first at most, along each axis
OVERLAP = (0.15, 0.70)
RADIUS = {2: (0.19, 0.29), 3: (0.26, 0.38)}  # of the circle or sphere around the first shape
TWIST = {2: 0.3, 3: 0.2}  # by how much its corners turn: uniform, in radians (2-D); normal, in units of the radius (3-D)
LONG, SHORT = (0.15, 0.27), (0.10, 0.19)  # half-axes of the second shape: the first, and each other
_CORNERS = np.array([[1, 1, 1], [1, -1, -1], [-1, 1, -1], [-1, -1, 1]]) / math.sqrt(3)


@dataclass(frozen=True)
class Polytopes:
    """M triangles or tetrahedra.

    Attributes:
        centres: (M, D) of the circles or spheres around them.
        corners: (M, D + 1, D).
    """

    centres: Floats
    corners: Floats

    def masks(self, size: int) -> Masks:
        """Which pixels have their centre inside: (M, X, Y[, Z]) of `size` each."""
        dims = self.centres.shape[1]
        square = np.concatenate([self.corners, np.ones((*self.corners.shape[:2], 1))], axis=2)
        weights = np.linalg.inv(square)  # (M, D + 1, D + 1): barycentric coordinates are (p, 1) @ weights
        inside = np.ones((len(self.centres), *[size] * dims), dtype=bool)
        p = grid(size, dims)
        for corner in range(dims + 1):
            at = [weights[:, row, corner].reshape(-1, *[1] * dims) for row in range(dims + 1)]
            inside &= sum((a * q for a, q in zip(at, p, strict=False)), at[dims]) >= 0
        return inside


@dataclass(frozen=True)
class Ellipsoids:
    """M ellipses or ellipsoids.

    Attributes:
        centres: (M, D).
        semi: (M, D) half-axes.
        frames: (M, D, D): row i is the direction of half-axis i.
    """

    centres: Floats
    semi: Floats
    frames: Floats

    def masks(self, size: int) -> Masks:
        """Which pixels have their centre inside: (M, X, Y[, Z]) of `size` each."""
        dims = self.centres.shape[1]

        def over(values: Floats) -> Floats:
            return values.reshape(-1, *[1] * dims)

        offset = [q - over(self.centres[:, i]) for i, q in enumerate(grid(size, dims))]
        far: Floats = np.zeros((len(self.centres), *[size] * dims))
        for axis in range(dims):
            along = sum((over(self.frames[:, axis, i]) * q for i, q in enumerate(offset)), np.zeros(1))
            far += (along / over(self.semi[:, axis])) ** 2
        return np.asarray(far <= 1)


def grid(size: int, dims: int) -> tuple[Floats, ...]:
    """Coordinates of the pixels' centres along each axis, in arrays that broadcast to (1, X, Y[, Z])."""
    line = (np.arange(size) + 0.5) / size
    return tuple(line.reshape([1, *[size if axis == other else 1 for other in range(dims)]]) for axis in range(dims))


def draw_first(rng: np.random.Generator, count: int, dims: int, *, near: Floats | None = None) -> Polytopes:
    """Triangles or tetrahedra from the model, before any cut by the overlap.

    Args:
        rng: Source of the draws.
        count: M.
        dims: 2 or 3.
        near: (D,) centre of the second shape, where that is known.
    """
    low, high = np.full(dims, MIDDLE[0]), np.full(dims, MIDDLE[1])
    if near is not None:
        low, high = np.maximum(low, near - AWAY), np.minimum(high, near + AWAY)
    centres = rng.uniform(low, high, size=(count, dims))
    radius = rng.uniform(*RADIUS[dims], size=(count, 1, 1))
    if dims == 2:
        angles = rng.uniform(0, 2 * math.pi, size=(count, 1)) + np.arange(3) * (2 * math.pi / 3)
        angles = angles + rng.uniform(-TWIST[2], TWIST[2], size=(count, 3))
        directions = np.stack([np.cos(angles), np.sin(angles)], axis=-1)
    else:
        bent = _CORNERS + TWIST[3] * rng.standard_normal((count, 4, 3))
        bent = bent / np.linalg.norm(bent, axis=-1, keepdims=True)
        directions = np.einsum("mci,mij->mcj", bent, _rotations(rng, count))
    return Polytopes(centres, centres[:, None, :] + radius * directions)


def draw_second(rng: np.random.Generator, count: int, dims: int, *, near: Floats) -> Ellipsoids:
    """Ellipses or ellipsoids from the model, before any cut by the overlap.

    Args:
        rng: Source of the draws.
        count: M.
        dims: 2 or 3.
        near: (D,) or (M, D) centre of the first shape.
    """
    centres = near + rng.uniform(-AWAY, AWAY, size=(count, dims))
    semi = np.concatenate([rng.uniform(*LONG, size=(count, 1)), rng.uniform(*SHORT, size=(count, dims - 1))], axis=1)
    if dims == 2:
        angle = rng.uniform(0, math.pi, size=count)
        frames = np.stack([np.cos(angle), np.sin(angle), -np.sin(angle), np.cos(angle)], axis=-1).reshape(-1, 2, 2)
    else:
        frames = _rotations(rng, count)
    return Ellipsoids(centres, semi, frames)


def overlaps(first: Masks, second: Masks) -> Floats:
    """Overlap of each pair as a fraction of the smaller of the two: (M,); 0 where one is empty.

    Args:
        first: (M or 1, X, Y[, Z]).
        second: (M or 1, X, Y[, Z]).
    """
    axes = tuple(range(1, first.ndim))
    smaller = np.minimum(first.sum(axis=axes), second.sum(axis=axes))
    return np.asarray((first & second).sum(axis=axes) / np.maximum(smaller, 1))


def fits(overlap: Floats) -> Masks:
    """Which pairs are kept."""
    return np.asarray((overlap >= OVERLAP[0]) & (overlap <= OVERLAP[1]))


def draw_pair(rng: np.random.Generator, size: int, dims: int) -> tuple[Polytopes, Ellipsoids, float]:
    """One pair that is kept, and its overlap on a canvas of `size` pixels."""
    while True:  # about half of the pairs are kept
        first = draw_first(rng, 1, dims)
        second = draw_second(rng, 1, dims, near=first.centres)
        overlap = overlaps(first.masks(size), second.masks(size))
        if fits(overlap)[0]:
            return first, second, float(overlap[0])


def _rotations(rng: np.random.Generator, count: int) -> Floats:
    """Random rotations (M, 3, 3), uniform, from quaternions."""
    quaternions = rng.standard_normal((count, 4))
    a, b, c, d = (quaternions / np.linalg.norm(quaternions, axis=1, keepdims=True)).T
    rows = [
        [a * a + b * b - c * c - d * d, 2 * (b * c - a * d), 2 * (b * d + a * c)],
        [2 * (b * c + a * d), a * a - b * b + c * c - d * d, 2 * (c * d - a * b)],
        [2 * (b * d - a * c), 2 * (c * d + a * b), a * a - b * b - c * c + d * d],
    ]
    return np.asarray(np.moveaxis(np.array(rows), -1, 0))
