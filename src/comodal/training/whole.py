"""What `comodal init` chooses where classes are predicted: images are seen whole, never through windows."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Any

from comodal.data.cohort import Cohort
from comodal.data.reading import read_header
from comodal.method import MethodConfig
from comodal.modality import Modality
from comodal.networks.encoders import ENCODERS, Architecture
from comodal.training.headers import LOOKED_AT, Seen, look, thick

MOST_HEADERS = 500  # the largest image decides, so that all are looked at, as long as that is quick
VOLUME_CPU, VOLUME_GPU = 64**3, 128**3  # voxels of a volume
PICTURE_CPU, PICTURE_GPU, PICTURE_PRETRAINED = 128**2, 256**2, 224**2  # pixels of a picture
TILE_CPU = 64  # pixels of a side of an item of a bag
MOST_FOR_RESNET10 = 350_000  # voxels of all volumes of a case; more are read by a quarter of its width


@dataclass
class Whole:
    """Keys and reasons, filled grid by grid.

    Attributes:
        data: Of the section data.
        method: Of the method, where it has them.
        why: {key: reason}.
        batch: Cases in a batch.
    """

    data: dict[str, Any] = field(default_factory=dict)
    method: dict[str, Any] = field(default_factory=dict)
    why: dict[str, str] = field(default_factory=dict)
    batch: int = 16


def plan_whole(
    cohort: Cohort, chosen: Sequence[Modality], *, gpu: bool, config: type[MethodConfig], asked: Mapping[str, Mapping[str, Any]]
) -> Whole:
    """Sizes at which images are seen whole and affordable, and encoders that read them in time.

    Args:
        cohort: Has the files.
        chosen: The modalities in use.
        gpu: Whether there is one.
        config: Schema of the method; keys that it does not have are not set.
        asked: {"data" | "method": keys that the user has set}, from which the rest follows.

    Returns:
        The choice.
    """
    found = Whole()
    data, fields = asked.get("data", {}), config.model_fields
    dims = data.get("spatial_dims") or (3 if any(m.kind == "image" and m.spatial_dims == 3 for m in chosen) else 2)
    seen = {
        m.grid: looked
        for m in chosen
        if m.kind == "image" and (looked := look(cohort, m.grid, modalities=chosen, most=MOST_HEADERS)) is not None
    }
    volumes = [m for m in chosen if m.kind == "image" and m.seen_in(dims) == 3]
    slices = _slices(volumes, seen, asked.get("method", {}), found) if "slices" in fields else "volume"
    sizes: dict[str, dict[str, Any]] = {"patch": {}, "spacing": {}, "resize": {}}
    for modality in chosen:
        kind = _architecture(asked.get("method", {}), modality.name)
        if modality.kind == "image" and modality.grid not in sizes["patch"]:
            one = seen[modality.grid]
            if modality.seen_in(dims) == 3:
                _volume(modality.grid, one, sizes, kind=kind, by_slice=slices != "volume", gpu=gpu, data=data, why=found.why)
            else:
                wanted = (
                    PICTURE_PRETRAINED if asked.get("method", {}).get("pretrained") else PICTURE_GPU if gpu else PICTURE_CPU
                )
                _picture(modality.grid, one, sizes, kind=kind, most=wanted, data=data, why=found.why)
        elif modality.kind == "bag" and modality.spatial_dims == 2 and not gpu:
            _tiles(cohort, modality, sizes, kind=kind, why=found.why)
    single = len(seen) == 1 and not set(sizes["resize"]) - set(seen)
    for key, by_grid in sizes.items():
        if by_grid:
            found.data[key] = next(iter(by_grid.values())) if single else by_grid
    if seen:
        found.data["spatial_dims"] = dims
        found.why["spatial_dims"] = "volumes are seen whole" if volumes else "pictures"
    found.data["draws_per_case"] = 1
    found.why["draws_per_case"] = "a case is seen whole"
    if "encoder" in fields and not gpu:
        _encoder(chosen, volumes, sizes, slices=slices, found=found)
    bags = any(m.kind == "bag" for m in chosen)
    found.batch = 4 if volumes or bags else 16
    return found


def _architecture(method: Mapping[str, Any], name: str) -> Architecture:
    """That of the encoder which the user asked for; a ResNet where none or an unknown one is, which is said later."""
    encoder = method.get("encoder")
    encoder = encoder.get(name) if isinstance(encoder, Mapping) else encoder
    return ENCODERS.get(str(encoder), ENCODERS["resnet18"])


def _slices(volumes: Sequence[Modality], seen: Mapping[str, Seen], method: Mapping[str, Any], found: Whole) -> str:
    """How volumes are read: slice by slice where one of them is a stack, or where its encoder knows pictures only."""
    if "slices" in method:
        return str(method["slices"])
    flat = [m.name for m in volumes if 3 not in _architecture(method, m.name).spatial_dims]
    stacks = [m.name for m in volumes if thick(seen[m.grid])]
    if not flat and not stacks:
        return "volume"
    found.method["slices"] = "mean"
    if flat:
        found.why["slices"] = "the encoder reads pictures"
    elif not seen[next(m.grid for m in volumes if m.name in stacks)].stated:
        found.why["slices"] = "the files state no spacing, as stacks of slices do; volume reads them in 3-D"
    else:
        found.why["slices"] = "few or thick slices; volume reads them in 3-D"
    return "mean"


def _volume(
    grid: str,
    seen: Seen,
    sizes: dict[str, dict[str, Any]],
    *,
    kind: Architecture,
    by_slice: bool,
    gpu: bool,
    data: Mapping[str, Any],
    why: dict[str, str],
) -> None:
    """Spacing (or size) and patch of a grid of volumes."""
    most, step = VOLUME_GPU if gpu else VOLUME_CPU, 8 if by_slice else math.lcm(8, kind.multiple)
    whose = "so that a GPU can train on whole volumes" if gpu else "so that a CPU can train on whole volumes"
    resize, spacing = _asked(data, "resize", grid), _asked(data, "spacing", grid)
    if resize is None and not seen.stated and (math.prod(seen.largest) > most or not seen.same_shape):
        resize = list(_capped(seen.shape, most, step))
        sizes["resize"][grid] = resize
        why["resize"] = f"the files state no spacing and have about {_by(seen.shape)} voxels; {whose}"
    voxels: tuple[int, int, int]
    if resize is not None:
        voxels = (int(resize[0]), int(resize[1]), int(resize[2]) if len(resize) > 2 else seen.shape[2])
    else:
        if spacing is None and seen.stated:
            spacing = _coarser(seen, most)
            sizes["spacing"][grid] = spacing
            coarse = spacing != [round(s, 3) for s in seen.spacing]
            why["spacing"] = f"mm: coarser than the files ({_by(round(s, 2) for s in seen.spacing)}), {whose}"
            why["spacing"] = why["spacing"] if coarse else "mm: that of the files, the median where they differ"
        voxels = seen.largest if spacing in (None, "native") else seen.voxels_at(spacing)
    sides = [kind.fits(-(-side // step) * step) for side in voxels[:2]]
    depth = voxels[2] if by_slice else kind.fits(-(-voxels[2] // step) * step)
    sizes["patch"][grid] = [*sides, depth]
    why.setdefault("patch", f"the largest image of {seen.cases} is seen whole; sides are multiples of {step}")


def _picture(
    grid: str,
    seen: Seen,
    sizes: dict[str, dict[str, Any]],
    *,
    kind: Architecture,
    most: int,
    data: Mapping[str, Any],
    why: dict[str, str],
) -> None:
    """Size and patch of a grid of pictures, equal where they are resized."""
    resize = _asked(data, "resize", grid)
    width, height = seen.shape[:2]
    if resize is None and seen.same_shape and width * height <= most:
        sizes["patch"][grid] = [kind.fits(-(-side // 8) * 8) for side in (width, height)]
        why.setdefault("patch", "pictures are seen whole")
        return
    if resize is None:
        step = kind.multiple if kind.multiple > 1 else 16
        shrink = min(1.0, math.sqrt(most / (width * height)))
        resize = [kind.fits(max(2, round(side * shrink / step)) * step) for side in (width, height)]
        sizes["resize"][grid] = list(resize)
        why["resize"] = f"pictures of about {width} x {height} pixels, all at one size, field of view kept"
    sizes["patch"][grid] = list(resize[:2])
    why.setdefault("patch", "as resized: pictures are seen whole")


def _tiles(
    cohort: Cohort, modality: Modality, sizes: dict[str, dict[str, Any]], *, kind: Architecture, why: dict[str, str]
) -> None:
    """Size of the pictures of a bag on a CPU."""
    side = int(getattr(cohort.spec(modality.name), "tile", 0))
    if not side:
        cases = [case for case in cohort.cases if modality.name in case.cells][:LOOKED_AT]
        paths = [path for case in cases if (path := cohort.files(case, modality.name)[0]).is_file()]
        side = int(median(max(read_header(path, modality=modality.name).shape[:2]) for path in paths)) if paths else TILE_CPU
    small = kind.fits(-(-TILE_CPU // kind.multiple) * kind.multiple)
    if side > small:
        sizes["resize"][modality.grid] = [small, small]
        why["resize"] = "; ".join(filter(None, [why.get("resize"), f"items of {modality.name} ({side} pixels) for a CPU"]))


def _asked(data: Mapping[str, Any], key: str, grid: str) -> Any:
    """What the user has set for a grid; None where nothing."""
    value = data.get(key)
    return value.get(grid) if isinstance(value, Mapping) else value


def _coarser(seen: Seen, most: int) -> list[float]:
    """That of the files, or where this is too much the finest axes brought to one coarser step."""
    spacing, step = [round(s, 3) for s in seen.spacing], min(seen.spacing)
    while math.prod(seen.voxels_at(spacing)) > most:
        step *= 1.02
        spacing = [round(max(s, step), 2 if step > s else 3) for s in seen.spacing]
    return spacing


def _capped(shape: tuple[int, int, int], most: int, step: int) -> tuple[int, int, int]:
    """The longest sides cut to one length, until the volume has at most so many voxels."""
    longest = max(shape)
    while longest > 2 * step and math.prod(min(side, longest) for side in shape) > most:
        longest -= 1
    x, y = (max(2 * step, min(side, longest) // step * step) for side in shape[:2])
    return x, y, min(shape[2], longest)


def _encoder(
    chosen: Sequence[Modality], volumes: Sequence[Modality], sizes: Mapping[str, dict[str, Any]], *, slices: str, found: Whole
) -> None:
    """Small networks on a CPU: their steps take a second or so."""
    voxels = sum(math.prod(sizes["patch"][m.grid]) for m in volumes)
    small = "resnet10-quarter" if slices != "volume" or voxels > MOST_FOR_RESNET10 else "resnet10"
    names = {}
    for modality in chosen:
        if modality in volumes:
            names[modality.name] = small
        elif modality.kind == "bag" and modality.spatial_dims == 2:
            names[modality.name] = "resnet10-quarter"
        elif modality.kind == "image":
            names[modality.name] = "resnet18"
    if names:
        same = len(set(names.values())) == 1
        found.method["encoder"] = next(iter(names.values())) if same else names
        found.why["encoder"] = "small enough for a CPU; see docs/encoders.md"


def _by(numbers: Any) -> str:
    return " x ".join(str(number) for number in numbers)
