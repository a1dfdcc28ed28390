"""What a file says about space: `Header`, `Volume`, and the `Geometry` by which an array goes back into the file's own frame.

Arrays are (C, X, Y, Z) in RAS order: X grows to the patient's right, Y to the front, Z up, as near as the file's axes allow
(an oblique volume is permuted and flipped, never resampled). Affines map voxel indices to RAS mm. A picture has X = column,
Y = row, Z = 1 and an identity affine that means nothing (`Header.has_spacing` is False).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias

import numpy as np
import numpy.typing as npt

from comodal.errors import DataError, message

Array: TypeAlias = npt.NDArray[Any]
Affine: TypeAlias = npt.NDArray[np.float64]

# Lengths in mm that an affine may hold: whatever is written of it as float32 stays finite, and no axis vanishes.
SHORTEST, LONGEST = 1e-9, 1e9
# Volume of a voxel, relative to a box of its lengths: 1 at right angles, 0 where the axes lie in one plane.
FLATTEST = 1e-6

# One volume may take this many bytes, in the file's own type and as float32.
BUDGET = 4 * 1024**3


@dataclass(frozen=True)
class Source:
    """Whose file is being read, for the error text. subject and modality are empty where unknown; kind is what it should be."""

    path: Path
    subject: str = ""
    modality: str = ""
    kind: str = "image"

    def error(self, rule: str, got: object, *, do: str, path: Path | None = None) -> DataError:
        """A `DataError` in the form of the house that names file, subject and modality."""
        place = {"subject": self.subject or None, "modality": self.modality or None}
        return DataError(message(f"{self.kind} file", rule, got, do=do, file=str(path or self.path), **place))


@dataclass(frozen=True, eq=False)
class Header:
    """What is known of an image without reading its pixels.

    Attributes:
        shape: (X, Y, Z) of the RAS-ordered array.
        channels: C.
        affine: (4, 4) float64, voxel of the RAS-ordered array to RAS mm.
        dtype: Type that `read_volume` returns.
        has_spacing: False for pictures and stacks of pictures, whose affine is an identity without meaning.
        notes: What is unusual about the file and was handled, one sentence each.
        warnings: What may be wrong with the file although it could be read, one sentence each.
    """

    shape: tuple[int, int, int]
    channels: int
    affine: Affine
    dtype: np.dtype[Any]
    has_spacing: bool = True
    notes: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()

    @property
    def spacing(self) -> tuple[float, float, float]:
        """Distance of neighbouring voxels along X, Y, Z in mm (1 where the file knows none)."""
        x, y, z = np.linalg.norm(self.affine[:3, :3], axis=0).tolist()
        return (x, y, z)


@dataclass(frozen=True, eq=False)
class Geometry:
    """Everything needed to write an array of RAS shape back in the frame of the file it came from.

    Attributes:
        format: "nifti" (for MetaImage, NRRD and DICOM volumes too: NIfTI is written), "picture" (PNG, JPEG, one-page TIFF, and
            whatever else has two axes and no place in the patient) or "stack" (folder of slices, TIFF of several pages).
        shape: Shape of the array as the file stores it, trailing axes of length 1 included.
        affine: (4, 4) float64 of the file's own axes.
        orientation: (3, 2) float64, nibabel's: row i says which RAS axis file axis i becomes, and -1 where it is flipped.
        header: The NIfTI header as found (nibabel's object), None for other formats.
    """

    format: Literal["nifti", "picture", "stack"]
    shape: tuple[int, ...]
    affine: Affine
    orientation: npt.NDArray[np.float64]
    header: Any = None


@dataclass(frozen=True, eq=False)
class Volume:
    """An image that was read to its last byte. array: (C, X, Y, Z), contiguous, every value finite."""

    array: Array
    header: Header
    geometry: Geometry

    @property
    def notes(self) -> tuple[str, ...]:
        """What is unusual about the file and was handled."""
        return self.header.notes

    @property
    def warnings(self) -> tuple[str, ...]:
        """What may be wrong with the file although it could be read."""
        return self.header.warnings


def check_budget(source: Source, shape: tuple[int, ...], itemsize: int) -> int:
    """Number of values of an image, refused before anything is allocated where they would not fit.

    Raises:
        DataError: An axis shorter than 1, or more than `BUDGET` bytes.
    """
    if any(n < 1 for n in shape):
        raise source.error("have at least one voxel along each axis", shape, do="Export the image again")
    count = 1
    for n in shape:  # Python integers: a header that claims 65535 x 65535 x 65535 must not overflow into something small
        count *= int(n)
    if count * max(itemsize, 4) > BUDGET:
        gib = (count * max(itemsize, 4) + (1 << 29)) >> 30  # whole numbers: a header's may be larger than any float
        size = f"{' x '.join(map(str, shape))} voxels ({gib} GiB)" if gib < 10**30 else "more than 1e30 GiB"
        raise source.error(f"need at most {BUDGET // 1024**3} GiB in memory", size, do="Crop or down-sample the image")
    return count


def check_affine(source: Source, affine: Affine, rule: str, *, do: str) -> None:
    """Refuses an affine that cannot be inverted, or whose numbers no scanner and no header of single precision knows.

    Args:
        source: For the error text.
        affine: (4, 4), voxel to mm.
        rule: What it must have, where it cannot be inverted.
        do: One thing to do.

    Raises:
        DataError: NaN or infinity, an axis of no length, axes that lie in one plane, or lengths outside `SHORTEST`..`LONGEST`.
    """
    top = affine[:3]
    if np.isfinite(top).all():
        if np.abs(top).max() > LONGEST:
            rule = f"have an affine of at most {LONGEST:g} mm"
        else:
            lengths = np.linalg.norm(top[:, :3], axis=0)
            if lengths.min() >= SHORTEST and abs(np.linalg.det(top[:, :3] / lengths)) >= FLATTEST:
                return
            if 0 < lengths.min() < SHORTEST:
                rule = f"have voxels of at least {SHORTEST:g} mm"
    raise source.error(rule, "; ".join(" ".join(f"{value:g}" for value in row) for row in top), do=do)


def check_finite(source: Source, array: Array) -> None:
    """Refuses NaN and infinity: a single one would silently spread over a whole case.

    Raises:
        DataError: Says how many there are.
    """
    if array.dtype.kind != "f":
        return
    parts = (array[..., z] for z in range(array.shape[-1]))  # a slice at a time: no second array of the volume's size
    bad = sum(int(np.count_nonzero(~np.isfinite(part))) for part in parts)
    if bad:
        raise source.error("hold finite numbers", f"{bad} NaN or infinite values", do="Repair or exclude the image")
