"""Maps as files: in the geometry of the input, as predictions are.

Axis letters: X Y Z voxels in RAS array order.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from comodal.data.cohort import Cohort
from comodal.data.preprocessing import PreparedCase
from comodal.data.reading import write_volume
from comodal.errors import DataError, message
from comodal.explain.explanation import Explanation, Map, normalised
from comodal.inference.writing import native_geometry, on_grid


def write_maps(
    cohort: Cohort, prepared: PreparedCase, found: Explanation, *, used: Sequence[str], folder: Path
) -> tuple[Path, ...]:
    """Heat and nats of one case on the voxels of its first image, in that image's file geometry.

    Args:
        cohort: Says where the input is; only that one file is read.
        prepared: The case.
        found: Its explanation.
        used: Images of the segmentation's grid, in canonical order.
        folder: It is made.

    Returns:
        The files.

    Raises:
        DataError: Two maps would have one name.
    """
    grid = prepared.grid
    assert grid is not None  # a segmentation has an image
    native, geometry = native_geometry(cohort, prepared.case, used)
    maps: dict[str, Map] = {}
    for (primary, region), row in found.heat.items():
        for name, heat in normalised(row).items():
            _add(maps, f"heat_{primary}_{region}_from_{name}", heat, prepared.case.id)
    for (primary, name), nats in found.nats_maps.items():
        _add(maps, f"nats_{primary}_from_{name}", nats, prepared.case.id)
    files = []
    for name, values in maps.items():
        (there,) = on_grid(values[None], grid, native)
        files.append(write_volume(there, geometry, folder / name))
    return tuple(files)


def _add(maps: dict[str, Map], name: str, values: Map, subject: str) -> None:
    safe = re.sub(r"[^\w+.-]", "-", name)
    if safe in maps:
        raise DataError(message("maps", "have names of their own", f"{safe} twice", subject=subject, do="Rename a modality"))
    maps[safe] = values
