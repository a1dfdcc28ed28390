"""The material of which phantoms are made: frames, smooth noise, distances to ellipsoids and soft steps.

All fields are (X, Y, Z) float32 arrays over a box around the brain; lengths are mm. Nothing here goes through BLAS, so that the
number of threads cannot change a bit of the result.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Field = NDArray[np.float32]
Triple = tuple[float, float, float]
Axes = tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]
Points = tuple[Field, Field, Field]

# Half of the field of view: a lattice of noise always covers all of it, so that a subject looks the same at every size.
REACH = 120.0
# Standard deviation of a cubic B-spline with independent normal coefficients, averaged over the volume: (151 / 315) ** 1.5.
SPLINE_SD = 0.33189


@dataclass(frozen=True)
class Frame:
    """Where the voxels of a box are, before and after averaging.

    Attributes:
        size: Voxels of the whole image along X and Y.
        fine: Fine voxels per voxel along each axis: tissue is drawn finer than it is written, then averaged (partial volume).
        start: First voxel of the box.
        shape: Voxels of the box.
    """

    size: int
    fine: int
    start: tuple[int, int, int]
    shape: tuple[int, int, int]

    @property
    def spacing(self) -> float:
        """Voxel size (mm), equal along all axes."""
        return 2 * REACH / self.size

    def axes(self, *, fine: bool) -> Axes:
        """Centres of the voxels along each axis, in mm from the middle of the field of view, in array order (LPS)."""
        factor = self.fine if fine else 1
        depth = image_shape(self.size)[2]
        middles = (self.size / 2, self.size / 2, depth / 2)
        x, y, z = (
            ((np.arange(count * factor) + 0.5) / factor + first - middle) * self.spacing
            for count, first, middle in zip(self.shape, self.start, middles, strict=True)
        )
        return x, y, z

    def average(self, field: Field) -> Field:
        """Mean of a fine field over each voxel."""
        x, y, z = self.shape
        blocks = field.reshape(x, self.fine, y, self.fine, z, self.fine)
        return np.asarray(blocks.mean(axis=(1, 3, 5), dtype=np.float32))

    @property
    def box(self) -> tuple[slice, slice, slice]:
        """The box as an index into the whole image."""
        x, y, z = (slice(first, first + count) for first, count in zip(self.start, self.shape, strict=True))
        return x, y, z


def image_shape(size: int) -> tuple[int, int, int]:
    """Shape of a whole image: 240 x 240 x 155 mm as in BraTS.

    >>> image_shape(240), image_shape(48)
    ((240, 240, 155), (48, 48, 31))
    """
    return size, size, round(size * 155 / 240)


def make_frame(size: int) -> Frame:
    """The box that holds every brain of the phantom, 156 x 196 x 155 mm.

    Args:
        size: Voxels of the whole image along X and Y, 48 to 240.
    """
    shape = image_shape(size)
    spacing = 2 * REACH / size
    half = (78.0, 98.0, 78.0)
    start = tuple(max(0, int(np.floor(count / 2 - reach / spacing))) for count, reach in zip(shape, half, strict=True))
    counts = tuple(count - 2 * first for count, first in zip(shape, start, strict=True))
    fine = 2 if size < 120 else 1
    return Frame(size, fine, (start[0], start[1], start[2]), (counts[0], counts[1], counts[2]))


def smooth_noise(rng: np.random.Generator, axes: Axes, *, scale: float) -> Field:
    """Smooth random field with mean 0 and standard deviation 1 over subjects: a cubic B-spline on a random lattice.

    The draws depend on `scale` alone, so that the field is the same at every voxel size.

    Args:
        rng: Source of the lattice.
        axes: Coordinates along X, Y, Z (mm, within +-120).
        scale: Distance of the lattice points (mm): the size of the smallest features.

    Returns:
        (X, Y, Z) float32.
    """
    count = int(np.ceil(2 * REACH / scale)) + 4
    field = (rng.standard_normal((count, count, count)) / SPLINE_SD).astype(np.float32)
    # Z, then Y, then X: the array grows last along its first axis, where rows are contiguous.
    for axis in (2, 1, 0):
        place = (axes[axis] + REACH) / scale
        cell = np.floor(place).astype(int)
        t = (place - cell).astype(np.float32)
        weights = ((1 - t) ** 3, 3 * t**3 - 6 * t**2 + 4, -3 * t**3 + 3 * t**2 + 3 * t + 1, t**3)
        along = tuple(-1 if i == axis else 1 for i in range(3))
        parts = (np.take(field, cell + k, axis=axis) * (w / 6).reshape(along) for k, w in enumerate(weights))
        field = functools.reduce(np.add, parts)
    return field


def points(axes: Axes) -> Points:
    """Coordinates of every voxel, broadcast but not yet copied to full size."""
    x, y, z = (a.astype(np.float32) for a in axes)
    return x[:, None, None], y[None, :, None], z[None, None, :]


def ellipsoid(p: Points, centre: Triple, semi: Triple) -> Field:
    """Distance to the surface of an ellipsoid, positive inside, to first order (mm).

    Args:
        p: Coordinates (mm).
        centre: Its centre (mm).
        semi: Its half-axes (mm).

    Returns:
        Field of the broadcast shape of `p`.

    >>> d = ellipsoid(tuple(np.float32([[[v]]]) for v in (7, 0, 0)), (0, 0, 0), (10, 20, 30))
    >>> bool(abs(d[0, 0, 0] - 3) < 1e-3)
    True
    """
    radius: Field = np.zeros((1, 1, 1), np.float32)
    slope: Field = radius
    for value, middle, half in zip(p, centre, semi, strict=True):
        square = ((value - np.float32(middle)) / np.float32(half)) ** 2
        radius, slope = radius + square, slope + square / np.float32(half * half)
    # The small number keeps the very centre defined, where radius and slope both vanish.
    radius = np.sqrt(radius + np.float32(1e-6))
    slope = np.sqrt(slope + np.float32(1e-6 / float(min(semi)) ** 2))
    return np.asarray((1 - radius) * radius / slope, dtype=np.float32)


def step(distance: Field, *, width: float = 1.5) -> Field:
    """Fraction of tissue from a distance: 0 outside, 1 inside, a ramp of `width` mm around the surface."""
    fraction: Field = np.clip(distance / np.float32(width) + np.float32(0.5), 0, 1)
    return fraction


def union(*distances: Field) -> Field:
    """Distance to a union of bodies (positive inside)."""
    out = distances[0]
    for other in distances[1:]:
        out = np.maximum(out, other)
    return out
