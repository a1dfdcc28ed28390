"""Random changes of training samples: the default list of nnU-Net v2.

In order, with the probabilities (p) and ranges of nnU-Net v2's trainer (Isensee et al. 2021, DOI 10.1038/s41592-020-01008-z):

1. rotation (p .2; 3-D each axis +-30 degrees, 2-D +-180, or +-15 where the patch is longer than 1.5 times its width), scaling
   (p .2, [.7, 1.4], the same for all axes), mirroring of each axis (p .5): one resampling, or none where both coins say no;
2. Gaussian noise (p .1, variance [0, .1] in units of the patch's own non-zero variance, which is about 1 after z-scoring);
3. blur (p .1, sigma [.5, 1] voxels); 4. brightness (p .15, times [.75, 1.25]); 5. contrast (p .15, [.75, 1.25], range kept);
6. low resolution (p .125, zoom [.5, 1]); 7. inverted gamma (p .1, [.7, 1.5], mean and deviation kept); 8. gamma (p .3).

What is spatial is drawn once per grid and shared by its modalities and targets; everything else is drawn for each modality from
a random stream of its own, so that what happens to FLAIR does not depend on whether T1 is there. nnU-Net tosses one coin for
all channels of blur (.2) and low resolution (.25) and another (.5) for each channel; independent streams have their product.
Voxels that are exactly 0 after step 1 (masked background, padding) are 0 at the end. Differences from nnU-Net: rotation happens
in mm, not in voxels, and about all axes however flat the patch; corners that a rotation turns in are 0 and not taken from a
larger crop; labels are resampled by nearest neighbour.

One core, mean over draws: 1.9 ms for 3 modalities of 128 x 128 with 3 regions, 5 ms for 4 of 32 x 32 x 32.

Blur, contrast and gamma are MONAI's transforms called with drawn parameters; resampling is torch's grid_sample, because the
matrix is needed for the patch's affine (0.15 ms against 0.33 ms of MONAI's Affine for a slice of 128 x 128), and low resolution
is torch's interpolate (MONAI's refuses 2-D images by default).

Axis letters: C channels, X Y Z voxels, K regions.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal
from zlib import crc32

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from comodal.batch import Sample
from comodal.data.geometry import Affine, Array
from comodal.errors import ConfigError, message, nearest

Preset = Literal["nnunet", "none"]
PRESETS = ("nnunet", "none")


def augment(sample: Sample, *, seed: tuple[int, ...], grids: Mapping[str, str], preset: str = "nnunet") -> Sample:
    """Changes a training sample at random.

    Args:
        sample: One patch (2-D or 3-D); images float32 (C, *spatial). Segmentation targets lie on the first of its `affines`.
        seed: Non-negative numbers that name this draw, for instance (seed, epoch, index). The same seed, the same result.
        grids: {image modality: its grid}; modalities that are not named here (texts, bags, features) pass unchanged.
        preset: "nnunet" or "none".

    Returns:
        A new sample with the same shapes and types; `affines` say where the changed voxels come from.

    Raises:
        ConfigError: The preset is unknown.
    """
    if preset not in PRESETS:
        raise ConfigError(message("augment", "be a known preset", repr(preset), do=nearest(preset, PRESETS)))
    images = {name: value for name, value in sample.inputs.items() if name in grids and isinstance(value, Tensor)}
    if preset == "none" or not images:
        return sample
    moves: dict[str, Move] = {}
    for name, image in images.items():
        grid = grids[name]
        if grid not in moves:
            affine = np.asarray(sample.affines.get(grid, np.eye(4)))
            moves[grid] = draw_move(_stream(seed, "spatial", grid), tuple(image.shape[1:]), affine)
    changed = {n: change_intensity(moves[grids[n]].image(x), _stream(seed, "intensity", n)) for n, x in images.items()}
    first = next((grid for grid in sample.affines if grid in moves), next(iter(moves)))
    return replace(
        sample,
        inputs={**sample.inputs, **changed},
        targets={name: moves[first].target(value) for name, value in sample.targets.items()},
        affines={g: moves[g].affine_of(np.asarray(a)) if g in moves else a for g, a in sample.affines.items()},
    )


def prepare_presets(preset: str) -> None:
    """Imports what a preset needs (seconds), so that worker processes forked afterwards do not each import it again."""
    if preset == "nnunet":
        import monai.transforms  # noqa: F401


def _stream(seed: Sequence[int], *words: str) -> np.random.Generator:
    """A random stream for this draw and these words; streams of other words do not disturb it."""
    return np.random.default_rng([*seed, *(crc32(word.encode()) for word in words)])


@dataclass(frozen=True)
class Move:
    """A spatial change of a patch.

    Attributes:
        warp: (D+1, D+1) voxel of the result to voxel of the patch, before mirroring; None where nothing turns or scales.
        flips: The spatial axes that are mirrored.
        shape: Of the patch, length D = 2 or 3.
    """

    warp: Affine | None
    flips: tuple[int, ...]
    shape: tuple[int, ...]

    def image(self, image: Tensor) -> Tensor:
        """(C, *spatial) float to the same, linear, 0 outside."""
        return self._flip(image if self.warp is None else _warp(image, self.warp, "bilinear"))

    def target(self, target: Tensor) -> Tensor:
        """Regions (K, *spatial) uint8: linear, then at least one half. Labels (*spatial) int64: nearest. Others unchanged."""
        regions = target.dtype == torch.uint8 and target.ndim == len(self.shape) + 1
        labels = target.dtype == torch.int64 and target.ndim == len(self.shape)
        if self.warp is not None and regions:
            target = (_warp(target.float(), self.warp, "bilinear") >= 0.5).to(torch.uint8)
        if self.warp is not None and labels:
            target = _warp(target[None].float(), self.warp, "nearest")[0].long()
        return self._flip(target) if regions or labels else target

    def affine_of(self, affine: Affine) -> Affine:
        """(4, 4) voxel to RAS mm of the changed patch, from that of the patch."""
        dims = len(self.shape)
        matrix = np.eye(4)
        if self.warp is not None:
            matrix[:dims, :dims], matrix[:dims, 3] = self.warp[:dims, :dims], self.warp[:dims, dims]
        mirror = np.eye(4)
        for axis in self.flips:
            mirror[axis, axis], mirror[axis, 3] = -1, self.shape[axis] - 1
        return affine @ matrix @ mirror

    def _flip(self, value: Tensor) -> Tensor:
        first = value.ndim - len(self.shape)
        return value.flip([first + axis for axis in self.flips]) if self.flips else value


def _warp(value: Tensor, warp: Affine, mode: str) -> Tensor:
    """(C, *spatial) float resampled at the voxels that `warp` points to."""
    # torch counts positions from -1 to 1 between the outer edges of the patch, last axis first
    shape = list(value.shape[1:])
    size = np.array(shape, dtype=np.float64)
    scale = np.eye(len(size) + 1)
    scale[:-1, :-1], scale[:-1, -1] = np.diag(2 / size), 1 / size - 1
    theta = (scale @ warp @ np.linalg.inv(scale))[:-1]
    theta = np.concatenate([theta[::-1, :-1][:, ::-1], theta[::-1, -1:]], axis=1)
    wanted = [1, int(value.shape[0]), *shape]
    grid = functional.affine_grid(torch.tensor(theta[None], dtype=torch.float32), wanted, align_corners=False)
    return functional.grid_sample(value[None], grid, mode=mode, align_corners=False)[0]


def draw_move(random: np.random.Generator, shape: tuple[int, ...], affine: Affine) -> Move:
    """Draws rotation, scaling and mirroring of a patch.

    Args:
        random: Its stream; the same count of numbers is taken whatever the coins say.
        shape: Of the patch, length D = 2 or 3.
        affine: (4, 4) of the patch; rotation is about its centre and in mm, so that it keeps shapes where voxels are not cubes.

    Returns:
        The change, to be applied to every image and target of the grid.
    """
    dims = len(shape)
    turns, scales = random.random(2) < 0.2
    angles = random.uniform(-1, 1, 3) * np.deg2rad(_widest_angle(shape))
    factor = random.uniform(0.7, 1.4)
    flips = tuple(axis for axis in range(dims) if random.random() < 0.5)
    if not (turns or scales):
        return Move(None, flips, shape)
    matrix = np.eye(dims)
    if turns:
        spacing = np.linalg.norm(affine[:3, :3], axis=0)[:dims]
        matrix = _rotation(angles, dims) * spacing[None, :] / spacing[:, None]
    if scales:
        matrix = matrix * factor
    centre = (np.array(shape) - 1) / 2
    warp = np.eye(dims + 1)
    warp[:dims, :dims], warp[:dims, dims] = matrix, centre - matrix @ centre
    return Move(warp, flips, shape)


def _widest_angle(shape: tuple[int, ...]) -> float:
    if len(shape) == 3:
        return 30.0
    return 15.0 if max(shape) / min(shape) > 1.5 else 180.0


def _rotation(angles: Array, dims: int) -> Affine:
    """(D, D) rotation about X, Y and Z in turn; about the last alone in 2-D."""
    matrix = np.eye(dims)
    for axes, angle in zip([(1, 2), (2, 0), (0, 1)] if dims == 3 else [(0, 1)], angles, strict=False):
        turn = np.eye(dims)
        cos, sin = np.cos(angle), np.sin(angle)
        turn[np.ix_(axes, axes)] = [[cos, -sin], [sin, cos]]
        matrix = matrix @ turn
    return matrix


def change_intensity(image: Tensor, random: np.random.Generator) -> Tensor:
    """Noise, blur, brightness, contrast, low resolution and gamma of one modality, each by its own coin.

    Args:
        image: (C, *spatial) float32.
        random: The stream of this modality. All coins and parameters are drawn first, in a fixed order.

    Returns:
        (C, *spatial) float32; what was exactly 0 still is. A constant image is returned as it came.
    """
    coins = random.random(7) < (0.1, 0.1, 0.15, 0.15, 0.125, 0.1, 0.3)
    variance, sigma, zoom = random.uniform(0, 0.1), random.uniform(0.5, 1), random.uniform(0.5, 1)
    brightness, contrast = _about_one(random, 0.75, 1.25), _about_one(random, 0.75, 1.25)
    inverted, gamma = _about_one(random, 0.7, 1.5), _about_one(random, 0.7, 1.5)
    low, high = image.aminmax()
    if not coins.any() or low == high:
        return image
    zero = image == 0
    if coins[0]:
        noise = torch.from_numpy(random.standard_normal(tuple(image.shape), dtype=np.float32))
        image = image + noise * (float(image[~zero].std(correction=0)) * float(np.sqrt(variance)))
    if coins[1]:
        image = _blur(image, sigma)
    if coins[2]:
        image = image * brightness
    if coins[3]:
        image = _contrast(image, contrast)
    if coins[4]:
        image = _low_resolution(image, zoom)
    if coins[5]:
        image = _gamma(image, inverted, invert=True)
    if coins[6]:
        image = _gamma(image, gamma, invert=False)
    return torch.where(zero, 0.0, image)


def _about_one(random: np.random.Generator, low: float, high: float) -> float:
    """Below and above one equally often, uniform within each side."""
    below, at = random.random() < 0.5, random.random()
    return low + (1 - low) * at if below else 1 + (high - 1) * at


def _blur(image: Tensor, sigma: float) -> Tensor:
    from monai.transforms import GaussianSmooth

    return _plain(GaussianSmooth(sigma)(image))


def _contrast(image: Tensor, factor: float) -> Tensor:
    from monai.transforms import ScaleIntensityFixedMean

    return _plain(ScaleIntensityFixedMean(factor=factor - 1, preserve_range=True)(image))


def _gamma(image: Tensor, gamma: float, *, invert: bool) -> Tensor:
    from monai.transforms import AdjustContrast

    return _plain(AdjustContrast(gamma, invert_image=invert, retain_stats=True)(image))


def _low_resolution(image: Tensor, zoom: float) -> Tensor:
    shape = list(image.shape[1:])
    small = functional.interpolate(image[None], size=[max(1, round(n * zoom)) for n in shape], mode="nearest-exact")
    return functional.interpolate(small, size=shape, mode="trilinear" if len(shape) == 3 else "bilinear")[0]


def _plain(value: Any) -> Tensor:
    """MONAI's tensors carry metadata that slow down everything after; ours carry their affine in the sample."""
    plain: Tensor = value.as_tensor() if hasattr(value, "as_tensor") else value
    return plain
