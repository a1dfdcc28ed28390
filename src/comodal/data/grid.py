"""`Grid`, and resampling from one grid to another.

Axis letters: C channels, X Y Z voxels in RAS array order (a picture has Z = 1). Affines map voxel centres to RAS mm.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from comodal.data.geometry import Affine, Array

MATCH_MM = 1e-3  # grids whose voxels lie closer than this everywhere are one grid


@dataclass(frozen=True, eq=False)
class Grid:
    """Where the voxels of an array lie. Equal grids are exactly equal and can be keys of a dictionary.

    Attributes:
        shape: (X, Y, Z) voxels.
        affine: (4, 4) float64, voxel to RAS mm, read-only; the origin rounded to 3 decimals and the axes to 6, so that
            1000 voxels are off by at most 0.0005 mm and the same scanner geometry read twice compares equal.

    >>> Grid((4, 4, 2), np.diag([1, 1, 3, 1])).spacing
    (1.0, 1.0, 3.0)
    """

    shape: tuple[int, int, int]
    affine: Affine

    def __post_init__(self) -> None:
        x, y, z = (int(n) for n in self.shape)
        affine = np.array(self.affine, dtype=np.float64)
        affine[:3, :3] = affine[:3, :3].round(6)
        affine[:3, 3] = affine[:3, 3].round(3)
        affine = affine + 0.0  # -0.0 and 0.0 are one number, but not one key
        affine.setflags(write=False)
        object.__setattr__(self, "shape", (x, y, z))
        object.__setattr__(self, "affine", affine)

    @property
    def key(self) -> str:
        """One line that is equal exactly for equal grids, for hashes and file names."""
        return f"{self.shape}{self.affine[:3].ravel().tolist()}"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Grid) and self.key == other.key

    def __hash__(self) -> int:
        return hash(self.key)

    @property
    def spacing(self) -> tuple[float, float, float]:
        """Distance of neighbouring voxels along X, Y, Z in mm."""
        x, y, z = np.linalg.norm(self.affine[:3, :3], axis=0).tolist()
        return x, y, z

    def matches(self, other: Grid) -> bool:
        """Whether both have the same voxels, to within `MATCH_MM` at every corner."""
        if self.shape != other.shape:
            return False
        corners = _corners(self.shape)
        return bool(np.abs((self.affine - other.affine) @ corners).max() <= MATCH_MM)

    def resized(self, shape: Sequence[int]) -> Grid:
        """The grid of another shape over the same field of view (from edge to edge, not from centre to centre)."""
        old, new = np.array(self.shape, dtype=np.float64), np.array(shape, dtype=np.float64)
        step = np.eye(4)
        step[:3, :3] = np.diag(old / new)
        step[:3, 3] = (old / new - 1) / 2
        return Grid((int(shape[0]), int(shape[1]), int(shape[2])), self.affine @ step)

    def respaced(self, spacing: Sequence[float]) -> Grid:
        """The grid of exactly this spacing (mm) with the same centre, covering the field of view to the nearest voxel.

        >>> Grid((10, 10, 4), np.diag([1, 1, 3, 1])).respaced((2, 1, 1)).shape
        (5, 10, 12)
        """
        ratio = np.array(spacing, dtype=np.float64) / self.spacing
        shape = np.maximum(1, (np.array(self.shape) / ratio).round().astype(int))
        step = np.eye(4)
        step[:3, :3] = np.diag(ratio)
        step[:3, 3] = (np.array(self.shape) - 1) / 2 - ratio * (shape - 1) / 2
        return Grid((int(shape[0]), int(shape[1]), int(shape[2])), self.affine @ step)

    def cropped(self, start: Sequence[int], shape: Sequence[int]) -> Grid:
        """The grid of a patch of `shape` whose first voxel is `start`; negative where the patch is padded."""
        affine = np.array(self.affine)
        affine[:3, 3] = (affine @ np.array([*start, 1.0]))[:3]
        return Grid((int(shape[0]), int(shape[1]), int(shape[2])), affine)

    def overlaps(self, other: Grid) -> bool:
        """Whether the boxes of both fields of view touch at all, judged along the axes of `other`."""
        at = np.linalg.inv(other.affine) @ self.affine @ _corners(self.shape)
        low, high = at[:3].min(axis=1), at[:3].max(axis=1)
        return bool(((high >= -0.5) & (low <= np.array(other.shape) - 0.5)).all())


def _corners(shape: tuple[int, int, int]) -> npt.NDArray[np.float64]:
    """(4, 8): homogeneous voxel indices of the eight corner voxels."""
    ends = [(0, n - 1) for n in shape]
    return np.array([[x, y, z, 1] for x in ends[0] for y in ends[1] for z in ends[2]], dtype=np.float64).T


def _inside(matrix: Affine, source: tuple[int, ...], target: tuple[int, ...]) -> npt.NDArray[np.bool_]:
    """(X, Y, Z) bool of the target: voxels whose centres lie in the source's field of view, that is within half a voxel."""
    inside = np.ones(target, dtype=bool)
    steps = np.ogrid[tuple(slice(0, n) for n in target)]
    for axis, size in enumerate(source):
        at = matrix[axis, 3] + sum(matrix[axis, i] * steps[i].astype(np.float32) for i in range(3) if matrix[axis, i])
        inside &= (at >= -0.5 - 1e-4) & (at <= size - 0.5 + 1e-4)
    return inside


def resample_to(array: Array, source: Grid, target: Grid, *, order: int = 1) -> Array:
    """Moves an array from one grid to another.

    Outside the source's field of view the result is 0; between the last voxel centre and the edge, half a voxel further,
    it is the nearest voxel. Where the target is coarser, linear interpolation is preceded by a Gaussian whose width
    matches the two resolutions (full width at half maximum squared is the difference of the squared spacings, Cardoso et
    al. 2015); nearest-neighbour interpolation is not smoothed.

    Args:
        array: (C, X, Y, Z) on `source`; float for order 1.
        source: Its grid.
        target: The wanted grid.
        order: 1 linear, 0 nearest neighbour (labels).

    Returns:
        (C, X, Y, Z) on `target`, of the same dtype; `array` itself where the grids match.
    """
    from scipy import ndimage

    if source.matches(target):
        return array
    matrix = np.linalg.inv(source.affine) @ target.affine
    matrix[np.abs(matrix) < 1e-9] = 0.0
    coarser = np.linalg.norm(matrix[:3, :3], axis=1)  # steps of the target in voxels of the source, per source axis
    sigma = np.sqrt(np.maximum(coarser**2 - 1, 0)) / np.sqrt(8 * np.log(2))
    outside = ~_inside(matrix, source.shape, target.shape)
    out = np.empty((array.shape[0], *target.shape), dtype=array.dtype)
    for channel, result in zip(array, out, strict=True):
        if order == 1 and (sigma > 0.05).any():
            channel = ndimage.gaussian_filter(channel, sigma, mode="nearest", truncate=3)
        ndimage.affine_transform(
            channel, _fast(matrix), matrix[:3, 3], output_shape=target.shape, output=result, order=order, mode="nearest"
        )
        result[outside] = 0
    return out


def _fast(matrix: Affine) -> Affine:
    """The diagonal alone where there is nothing else: SciPy then works axis by axis, several times faster."""
    diagonal = np.diagonal(matrix[:3, :3])
    return diagonal.copy() if np.count_nonzero(matrix[:3, :3]) == np.count_nonzero(diagonal) else matrix[:3, :3]


def resample_mask(mask: npt.NDArray[np.uint8], source: Grid, target: Grid) -> npt.NDArray[np.uint8]:
    """Moves binary maps: each linearly (smoothed when the target is coarser), then at least one half.

    Linear and thresholded instead of nearest, because a nested region stays nested and edges do not turn into stairs.

    Args:
        mask: (K, X, Y, Z) of 0 and 1.
        source: Its grid.
        target: The wanted grid.

    Returns:
        (K, X, Y, Z) uint8 on `target`.
    """
    if source.matches(target):
        return mask
    return (resample_to(mask.astype(np.float32), source, target) >= 0.5 - 1e-6).astype(np.uint8)


def centred_start(shape: Sequence[int], window: Sequence[int], *, flat: bool) -> tuple[int, int, int]:
    """First voxel of the window in the middle; negative where the window is larger.

    Args:
        shape: (X, Y, Z) of the volume.
        window: Its size.
        flat: Whether the window is a slice: then the middle one of those along Z.

    >>> centred_start((10, 4, 9), (4, 6, 1), flat=True)
    (3, -1, 4)
    """
    x, y, z = ((have - size) // 2 for have, size in zip(shape, window, strict=True))
    return x, y, shape[2] // 2 if flat else z


def crop_pad(array: Array, start: Sequence[int], shape: Sequence[int]) -> Array:
    """A contiguous copy of a window of the last axes, with 0 where it reaches over the edge.

    Args:
        array: (..., X, Y, Z); of one that is stored on disk, the window alone is read.
        start: First voxel of the window along each of the last axes; may be negative.
        shape: Size of the window.

    Returns:
        (..., *shape), a new array.

    >>> crop_pad(np.arange(4), [-1], [3]).tolist()
    [0, 0, 1]
    """
    lead = array.shape[: array.ndim - len(shape)]
    room = [have - size for have, size in zip(array.shape[len(lead) :], shape, strict=True)]
    if all(0 <= first <= most for first, most in zip(start, room, strict=True)):
        every = (slice(None),) * len(lead)
        inside = array[every + tuple(slice(first, first + size) for first, size in zip(start, shape, strict=True))]
        return np.array(inside, order="C", copy=None if inside.base is None else True)  # what was unpacked is a copy already
    out = np.zeros((*lead, *shape), dtype=array.dtype)
    take: list[slice] = [slice(None)] * len(lead)
    put = list(take)
    for first, size, have in zip(start, shape, array.shape[len(lead) :], strict=True):
        low, high = max(0, first), min(have, first + size)
        take.append(slice(low, max(low, high)))
        put.append(slice(low - first, max(low, high) - first))
    out[tuple(put)] = array[tuple(take)]
    return out
