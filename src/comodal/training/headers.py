"""What the headers of a cohort say about its images, for `comodal init`."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import median

from comodal.data.cohort import Cohort
from comodal.data.geometry import Header
from comodal.data.reading import read_header
from comodal.errors import DataError, message
from comodal.modality import Modality, first_grid

LOOKED_AT = 16  # cases whose headers are read


@dataclass(frozen=True)
class Seen:
    """What the headers of some cases say.

    Attributes:
        shape: Median (X, Y, Z) in voxels.
        spacing: Median in mm.
        stated: Whether every file states its spacing.
        same_spacing: Whether that of all of them is the same within 1 %.
        cases: How many were read.
        largest: Largest (X, Y, Z) in voxels.
        extent: Largest (X, Y, Z) in mm.
        same_shape: Whether all of them have the same number of voxels.
    """

    shape: tuple[int, int, int]
    spacing: tuple[float, float, float]
    stated: bool
    same_spacing: bool
    cases: int
    largest: tuple[int, int, int]
    extent: tuple[float, float, float]
    same_shape: bool

    def voxels_at(self, spacing: Sequence[float]) -> tuple[int, int, int]:
        """Voxels of the largest image at a spacing in mm; as it is where the files state none."""
        if not self.stated:
            return self.largest
        x, y, z = (max(1, math.ceil(self.extent[axis] / spacing[axis] - 1e-3)) for axis in range(3))
        return x, y, z


def look(
    cohort: Cohort, grid: str | None = None, *, modalities: Iterable[Modality] | None = None, most: int = LOOKED_AT
) -> Seen | None:
    """Reads the header of the first present image of some cases; None where no modality is an image.

    Args:
        cohort: Has the files.
        grid: Only images of this grid; by default that of the first image.
        modalities: Those in use; all by default.
        most: Cases to read.

    Raises:
        DataError: No case has one.
    """
    chosen = tuple(cohort.modalities if modalities is None else modalities)
    wanted = first_grid(chosen) if grid is None else grid
    images = [m.name for m in chosen if m.kind == "image" and m.grid == wanted]
    if not images:
        return None
    headers: list[Header] = []
    for case in cohort.cases:
        name = next((n for n in images if n in case.cells), None)
        if name is None or len(headers) == most:
            continue
        spec = cohort.spec(name)
        file = cohort.file(case, name)
        headers.append(read_header(file, files=spec.files, channel=spec.channel, subject=case.id, modality=name))
    if not headers:
        raise DataError(message("cohort", "have a case with an image", "none", do="Fill a modality's column"))
    x, y, z = (int(median(h.shape[axis] for h in headers)) for axis in range(3))
    dx, dy, dz = (float(median(h.spacing[axis] for h in headers)) for axis in range(3))
    spread = max(max(abs(h.spacing[a] / s - 1) for a, s in enumerate((dx, dy, dz))) for h in headers)
    mx, my, mz = (max(h.shape[axis] for h in headers) for axis in range(3))
    ex, ey, ez = (max(h.shape[axis] * float(h.spacing[axis]) for h in headers) for axis in range(3))
    return Seen(
        shape=(x, y, z),
        spacing=(dx, dy, dz),
        stated=all(h.has_spacing for h in headers),
        same_spacing=spread < 0.01,
        cases=len(headers),
        largest=(mx, my, mz),
        extent=(ex, ey, ez),
        same_shape=all(h.shape == headers[0].shape for h in headers),
    )


def thick(seen: Seen) -> bool:
    """Whether a volume is a few or thick slices rather than a block; also where its files do not say."""
    return not seen.stated or seen.shape[2] < 16 or seen.spacing[2] > 3 * min(seen.spacing[:2])
