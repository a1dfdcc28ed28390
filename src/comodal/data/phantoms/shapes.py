"""The shapes phantom: ShapeComposition of Shen et al. (CIML), as a table of one's own files (layout csv).

Each set is one picture with a triangle and one with an ellipse that overlap in part; the target is their union. What a method
calls complementary can be seen here: of the other picture it is what lies outside the shape in one's own. `shapes_model` has
the whole model; in three dimensions a tetrahedron and an ellipsoid take the places. The paper states neither the distributions
nor the split, so that both are ours.

Two options go beyond the paper, to ask from which picture a method takes a region: `parts` makes regions of the triangle and of
the ellipse beside their union, each of which shows in one picture alone; `decoys` adds pictures that show the ellipse of a pair
that is not there, and so nothing about the case.

Case k depends on (seed, k), dims and size only; its split also on the number of cases.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pydantic import BaseModel, ConfigDict, model_validator

from comodal.data.phantoms.brain import nifti_gz
from comodal.data.phantoms.shapes_model import Ellipsoids, Masks, Polytopes, draw_pair
from comodal.data.phantoms.writing import Role, claim, stream, write_bytes, write_causes
from comodal.errors import ConfigError, message

MODALITIES = ("triangle", "ellipse")
TABLE = "table.csv"
# The order is part of the format.
STREAMS = ("pair", "levels", "triangle", "ellipse", "decoy1", "decoy2")
REGIONS = {"union": (1, 2, 3), "triangle": (1, 3), "ellipse": (2, 3)}  # of the label map with `parts`
LATER = {"decoys": 0, "parts": False}  # settings that came later: at these values the phantom is as it was before


class ShapesPhantom(BaseModel):
    """Configuration of the shapes phantom.

    Attributes:
        cases: Number of sets, at least 1: the paper has 1000. Of ten or more the last tenth is for testing and the tenth before
            it for validation; of fewer, the split is left open.
        size: Pixels along each axis, 24 to 256; in three dimensions 16 to 96.
        seed: Same seed, same files.
        dims: 2 (PNG) or 3 (NIfTI).
        background: Brightness outside the shape, from 0 to 1.
        levels: Range of the brightness of the shape, one draw for each picture; above `background`.
        noise: Standard deviation of the noise, in the same unit; values are cut to 0..1.
        decoys: Pictures beside these that tell nothing, 0 to 2: each shows the ellipse of another pair.
        parts: The label map says triangle only (1), ellipse only (2) or both (3), and has the regions union, triangle and
            ellipse; else it says 1 in the union.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    cases: int = 1000
    size: int = 64
    seed: int = 0
    dims: Literal[2, 3] = 2
    background: float = 0.0
    levels: tuple[float, float] = (1.0, 1.0)
    noise: float = 0.0
    decoys: int = 0
    parts: bool = False

    @model_validator(mode="after")
    def _check(self) -> ShapesPhantom:
        low, high = (24, 256) if self.dims == 2 else (16, 96)
        for name, least, most in (("cases", 1, 99999), ("size", low, high), ("seed", 0, 2**63 - 1), ("decoys", 0, 2)):
            if not least <= getattr(self, name) <= most:
                raise ConfigError(
                    _text(name, f"lie in {least}..{most}", getattr(self, name), f"Set {name} within these limits")
                )
        if not 0 <= self.background < self.levels[0] <= self.levels[1] <= 1:
            do = "Set for instance background 0.2 and levels [0.5, 1]"
            raise ConfigError(_text("levels", "lie above background and rise, within 0..1", list(self.levels), do))
        if not 0 <= self.noise <= 1:
            raise ConfigError(_text("noise", "lie in [0, 1]", self.noise, "Set for instance 0.1"))
        return self

    @property
    def pictures(self) -> tuple[str, ...]:
        """The modalities.

        >>> ShapesPhantom(decoys=1).pictures
        ('triangle', 'ellipse', 'decoy1')
        """
        return (*MODALITIES, *(f"decoy{number + 1}" for number in range(self.decoys)))

    def case_id(self, k: int) -> str:
        """Subject of case k, counted from 0.

        >>> ShapesPhantom().case_id(0)
        'shapes-00001'
        """
        return f"shapes-{k + 1:05d}"

    def file_name(self, k: int, column: str) -> str:
        """Path of a file of case k below the root: a modality, or "seg".

        >>> ShapesPhantom().file_name(0, "seg")
        'seg/shapes-00001.png'
        """
        return f"{column}/{self.case_id(k)}.{'png' if self.dims == 2 else 'nii.gz'}"

    def split(self, k: int) -> str:
        """Split of case k.

        >>> [ShapesPhantom().split(k) for k in (0, 799, 800, 899, 900)]
        ['train', 'train', 'val', 'val', 'test']
        """
        tenth = self.cases // 10
        if not tenth:
            return ""
        return "train" if k < self.cases - 2 * tenth else "val" if k < self.cases - tenth else "test"

    def pair(self, k: int) -> tuple[Polytopes, Ellipsoids, float]:
        """The shapes of case k, one of each, and their overlap as a fraction of the smaller."""
        return draw_pair(stream(self.seed, k, STREAMS.index("pair")), self.size, self.dims)

    def decoy(self, k: int, name: str) -> tuple[Ellipsoids, float, np.random.Generator]:
        """What a decoy of case k shows, its brightness, and the stream for the noise."""
        rng = stream(self.seed, k, STREAMS.index(name))
        _, shown, _ = draw_pair(rng, self.size, self.dims)
        return shown, float(rng.uniform(*self.levels)), rng


def _text(name: str, rule: str, got: object, do: str) -> str:
    return message(f"phantom shapes: {name}", rule, got, do=do)


def index_options(config: ShapesPhantom) -> dict[str, Any]:
    """What the layout csv must be told of the phantom's table: nothing, or with `parts` what the label values mean."""
    return {"regions": {"seg": REGIONS}} if config.parts else {}


def write_shapes(out: Path, config: ShapesPhantom, on_progress: Callable[[int, int], None] | None = None) -> None:
    """Writes the phantom. An interrupted call is completed by calling it again.

    Args:
        out: The root: a new or empty folder, or one that holds this very phantom. It gets a folder for each of triangle,
            ellipse, the decoys and seg, `table.csv`, which is what the layout csv indexes, `phantom.json`, `SYNTHETIC.txt` and
            the hidden causes.
        config: What to write.
        on_progress: Called with (cases done, all cases) after each case.

    Raises:
        DataError: The folder holds something else.
    """
    settings = config.model_dump(mode="json")
    claim(out, "shapes", {key: value for key, value in settings.items() if key not in LATER or value != LATER[key]})
    columns = (*config.pictures, "seg")
    lines = [f"subject,split,{','.join(columns)}"]
    rows = []
    for k in range(config.cases):
        for column, array in make_case(config, k).items():
            write_bytes(out / config.file_name(k, column), _file(array))
        lines.append(",".join([config.case_id(k), config.split(k), *(config.file_name(k, column) for column in columns)]))
        rows.append(_causes(config, k))
        if on_progress is not None:
            on_progress(k + 1, config.cases)
    write_bytes(out / TABLE, ("\n".join(lines) + "\n").encode())
    write_causes(out, rows, _meanings(list(rows[0])))


def make_case(config: ShapesPhantom, k: int) -> dict[str, NDArray[np.uint8]]:
    """The arrays of one case.

    Args:
        config: The phantom.
        k: Case, counted from 0.

    Returns:
        "triangle", "ellipse" and the decoys, (X, Y[, Z]) uint8 of 0 to 255, and "seg" of 0 and 1, the union of the shapes, or
        with `parts` of 0 to 3.
    """
    first, second, _ = config.pair(k)
    masks = {"triangle": first.masks(config.size)[0], "ellipse": second.masks(config.size)[0]}
    found = {}
    for (name, mask), level in zip(masks.items(), levels(config, k), strict=True):
        found[name] = _picture(config, mask, level, stream(config.seed, k, STREAMS.index(name)))
    for name in config.pictures[len(MODALITIES) :]:
        shown, level, rng = config.decoy(k, name)
        found[name] = _picture(config, shown.masks(config.size)[0], level, rng)
    values = masks["triangle"] + 2 * masks["ellipse"] if config.parts else masks["triangle"] | masks["ellipse"]
    return {**found, "seg": values.astype(np.uint8)}


def _picture(config: ShapesPhantom, mask: Masks, level: float, rng: np.random.Generator) -> NDArray[np.uint8]:
    """A shape before its background, with noise."""
    image = np.where(mask, level, config.background)
    image = image + config.noise * rng.standard_normal(image.shape)
    found: NDArray[np.uint8] = np.rint(255 * np.clip(image, 0, 1)).astype(np.uint8)
    return found


def levels(config: ShapesPhantom, k: int) -> tuple[float, float]:
    """Brightness of the triangle and of the ellipse of case k."""
    first, second = stream(config.seed, k, STREAMS.index("levels")).uniform(*config.levels, size=2)
    return float(first), float(second)


def _file(array: NDArray[np.uint8]) -> bytes:
    if array.ndim == 3:
        return nifti_gz(array, np.eye(4))
    out = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(array.T)).save(out, format="PNG")
    return out.getvalue()


def _causes(config: ShapesPhantom, k: int) -> dict[str, object]:
    """Corners, centre, half-axes and directions, in fractions of the side."""
    first, second, overlap = config.pair(k)
    axes = "xyz"[: config.dims]
    row: dict[str, object] = {"case": config.case_id(k), "overlap": round(overlap, 6)}
    row["triangle_level"], row["ellipse_level"] = (round(level, 6) for level in levels(config, k))
    for corner, point in enumerate(first.corners[0]):
        row |= {f"triangle_{axis}{corner + 1}": round(float(v), 8) for axis, v in zip(axes, point, strict=True)}
    row |= _ellipse("ellipse", second, axes)
    for name in config.pictures[len(MODALITIES) :]:
        shown, level, _ = config.decoy(k, name)
        row |= {f"{name}_level": round(level, 6), **_ellipse(name, shown, axes)}
    return row


def _ellipse(name: str, shown: Ellipsoids, axes: str) -> dict[str, float]:
    """Centre, half-axes and directions of one, as columns."""
    row = {f"{name}_{axis}": round(float(v), 8) for axis, v in zip(axes, shown.centres[0], strict=True)}
    row |= {f"{name}_semi{i + 1}": round(float(v), 8) for i, v in enumerate(shown.semi[0])}
    for i, direction in enumerate(shown.frames[0]):
        row |= {f"{name}_semi{i + 1}_{axis}": round(float(v), 8) for axis, v in zip(axes, direction, strict=True)}
    return row


def _meanings(columns: list[str]) -> dict[str, tuple[Role, str, str]]:
    said: dict[str, tuple[Role, str, str]] = {"overlap": ("shared", "", "overlap as a fraction of the smaller shape")}
    for name in columns:
        shape = name.partition("_")[0]
        if name.endswith("_level"):
            said[name] = ("noise", shape, "brightness of the shape")
        elif shape in MODALITIES:
            said[name] = ("unique", shape, "corner, centre, half-axis or its direction, in fractions of the side")
        elif shape in STREAMS:
            said[name] = ("noise", shape, "of an ellipse that is in no target, in fractions of the side")
    return said
