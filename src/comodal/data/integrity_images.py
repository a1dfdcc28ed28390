"""What is kept of an image after it was read: a digest, a signature, its contrast. C X Y Z as everywhere.

The signature finds images that were saved again (in another type, with a loss, with noise, in other units); the contrast tells
sequences from one another. Both are small, so that the memory of a check does not grow with the images.
"""

from __future__ import annotations

import hashlib

import numpy as np
import numpy.typing as npt

from comodal.data.geometry import Array
from comodal.data.integrity_defects import Picture

BLOCKS_3D, BLOCKS_2D = 8, 24  # blocks along each axis: about 500 numbers in both cases
SPAN = 4.0  # standard deviations that the signature can hold
SAMPLE = 50_000
QUANTILES = np.linspace(0.1, 0.9, 9)
AIR = -500


def picture_of(array: Array, *, column: str, file: str) -> Picture:
    """Sums an image up.

    Args:
        array: (C, X, Y, Z).
        column: Its modality.
        file: Its path.
    """
    sample = _sample(array)
    constant = bool(array.min() == array.max())
    return Picture(
        column,
        file,
        "" if constant else _digest(array),
        b"" if constant else _signature(array),
        () if constant else _contrast(sample),
        float(array.min()),
        float(np.mean(sample < AIR)),
    )


def _digest(array: Array) -> str:
    content = hashlib.blake2b(np.ascontiguousarray(array).data, digest_size=16)
    content.update(repr((array.shape, array.dtype.str)).encode())
    return content.hexdigest()


def _sample(array: Array) -> npt.NDArray[np.float64]:
    """Evenly spaced voxels of the first channel: enough for shares and quantiles."""
    flat = array[0].reshape(-1)
    sample: npt.NDArray[np.float64] = flat[:: max(1, flat.size // SAMPLE)].astype(np.float64)
    return sample


def _signature(array: Array) -> bytes:
    """Means over blocks of the first channel, standardised."""
    means, blocks = array[0], BLOCKS_2D if array.shape[3] == 1 else BLOCKS_3D
    for axis, length in enumerate(array.shape[1:]):
        starts = np.unique(np.arange(blocks) * length // blocks)
        sizes = np.diff(np.append(starts, length)).astype(np.float32)
        shape = [1, 1, 1]
        shape[axis] = -1
        means = np.add.reduceat(means, starts, axis=axis, dtype=np.float32) / sizes.reshape(shape)
    spread = float(means.std())
    if not spread > 0:
        return b""
    scaled = np.clip((means - means.mean()) / spread, -SPAN, SPAN) * (127 / SPAN)
    signature: bytes = np.rint(scaled).astype(np.int8).tobytes()
    return signature


def _contrast(sample: npt.NDArray[np.float64]) -> tuple[float, ...]:
    """Quantiles, mean, standard deviation and skewness of what is brighter than the background, on a scale of its own."""
    inside = sample[sample > sample.min()]
    if inside.size < 16:
        return ()
    low, high = np.percentile(inside, [1, 99])
    if not high > low:
        return ()
    scaled = np.clip((inside - low) / (high - low), 0, 1)
    mean, spread = scaled.mean(), scaled.std()
    skewness = ((scaled - mean) ** 3).mean() / spread**3
    return tuple(float(value) for value in (*np.quantile(scaled, QUANTILES), mean, spread, skewness))
