"""Predictions as files: in the geometry of the input, with the data set's own label codes.

Axis letters: K classes, X Y Z voxels in RAS array order.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from comodal.data.cohort import Case, Cohort
from comodal.data.geometry import Geometry
from comodal.data.grid import Grid, resample_to
from comodal.data.reading import read_volume, write_volume
from comodal.errors import DataError, message
from comodal.modality import Target

Map = NDArray[np.float32]
SUFFIXES = (".nii.gz", ".png", ".tif")  # that a prediction may get; which one, only its input's file tells
EXTRAS = "extras"  # folder, beside the predictions, of what else a method says


@dataclass(frozen=True)
class Written:
    """What was written for one case.

    Attributes:
        subject: The id of the case.
        used: The modalities from which it was predicted.
        files: All files, label maps first, extras last.
        unused: What was given as well, and not used.
    """

    subject: str
    used: tuple[str, ...]
    files: tuple[Path, ...]
    unused: tuple[str, ...] = ()


def on_grid(probabilities: NDArray[np.float32], source: Grid, target: Grid) -> Iterator[Map]:
    """Probabilities on another grid, one class at a time, so that a fine grid holds one class in memory.

    Args:
        probabilities: (K, X, Y, Z) on `source`.
        source: Its grid.
        target: The wanted one. Linear; 0 outside the field of view of `source`.

    Yields:
        (X, Y, Z) for each class.
    """
    for k in range(len(probabilities)):
        yield np.asarray(resample_to(probabilities[k : k + 1], source, target)[0], dtype=np.float32)


def codes_of(target: Target) -> tuple[int, ...]:
    """The label value that is written for each class: `target.paint`, or 1, 2, ... for regions and 0, 1, ... for labels.

    >>> codes_of(Target("seg", "regions", ("WT", "TC", "ET"), ((1, 2, 4), (1, 4), (4,)), (2, 1, 4)))
    (2, 1, 4)
    """
    return target.paint or tuple(range(1, len(target.classes) + 1) if target.kind == "regions" else range(len(target.classes)))


def to_masks(target: Target, probabilities: Iterable[Map]) -> NDArray[np.bool_]:
    """Yes or no at every voxel: at least 0.5 for regions, the most probable class for labels.

    Args:
        target: Of kind regions or labels.
        probabilities: K maps (X, Y, Z), e.g. an array (K, X, Y, Z) or what `on_grid` yields.

    Returns:
        (K, X, Y, Z) bool.
    """
    if target.kind == "regions":
        return np.stack([np.asarray(p >= 0.5) for p in probabilities])
    winner = _winner(probabilities)
    return np.stack([winner == k for k in range(len(target.classes))])


def _winner(probabilities: Iterable[Map]) -> NDArray[np.intp]:
    """(X, Y, Z): the most probable class, the first of equals, without holding all classes at once."""
    best: Map | None = None
    winner: NDArray[np.intp] = np.zeros((), dtype=np.intp)
    for k, p in enumerate(probabilities):
        if best is None:
            best, winner = np.array(p), np.zeros(p.shape, dtype=np.intp)
            continue
        better = p > best
        winner[better] = k
        best[better] = p[better]
    return winner


def to_label_map(target: Target, probabilities: Iterable[Map]) -> NDArray[np.int32]:
    """One label value per voxel, with the data set's own codes.

    Args:
        target: Of kind regions or labels.
        probabilities: K maps (X, Y, Z), e.g. an array (K, X, Y, Z) or what `on_grid` yields.

    Returns:
        (X, Y, Z) int32. Regions are painted one over the other in the order of `target.classes` where their probability is at
        least 0.5, over 0; of labels the most probable is written.

    >>> wt_et = Target("seg", "regions", ("WT", "ET"), ((2, 4), (4,)), (2, 4))
    >>> to_label_map(wt_et, np.array([[0.4, 0.5, 0.9], [0.0, 0.2, 0.7]], np.float32).reshape(2, 3, 1, 1)).ravel().tolist()
    [0, 2, 4]
    """
    codes = np.array(codes_of(target), dtype=np.int32)
    if target.kind == "labels":
        return np.asarray(codes[_winner(probabilities)])
    maps = iter(probabilities)
    out = np.where(next(maps) >= 0.5, codes[0], 0).astype(np.int32)
    for code, p in zip(codes[1:], maps, strict=True):
        out[p >= 0.5] = code
    return out


def native_geometry(cohort: Cohort, case: Case, used: Iterable[str]) -> tuple[Grid, Geometry]:
    """The voxels and the file geometry of the first image that was used.

    Args:
        cohort: Says where it is; only that one file is read.
        case: The case.
        used: Names of modalities; the first of them that is an image counts.

    Raises:
        DataError: No image among them, so that there is no geometry to write in.
    """
    kinds = {m.name: m.kind for m in cohort.modalities}
    names = list(used)
    images = [name for name in names if kinds[name] == "image"]
    if not images:
        rule, got = "use an image, in whose geometry a segmentation can be written", ", ".join(names) or "nothing"
        raise DataError(message("predict", rule, got, subject=case.id, do="Give an image modality"))
    spec = cohort.spec(images[0])
    path = cohort.file(case, images[0])
    volume = read_volume(path, files=spec.files, channel=spec.channel, subject=case.id, modality=images[0])
    return Grid(volume.header.shape, volume.header.affine), volume.geometry


def names_of(case: str, targets: Iterable[Target], *, regions: bool = False, as_probabilities: bool = False) -> list[str]:
    """The files that `write_prediction` will write for a case, without folder and suffix.

    >>> names_of("007", [Target("seg", "regions", ("WT",))], regions=True)
    ['007_seg', '007_seg_WT']
    """
    found = []
    for target in targets:
        if target.is_segmentation:
            stem = f"{case}_{target.name}"
            found.append(stem)
            for name in target.classes:
                found += [_class_name(stem, name)] if regions else []
                found += [_class_name(stem, name) + "_probability"] if as_probabilities else []
    return found


def _class_name(stem: str, name: str) -> str:
    return f"{stem}_{name.replace('/', '-')}"


def is_map(values: NDArray[np.float32], grid: Grid) -> bool:
    """Whether an extra says something about each voxel.

    Args:
        values: Of `CasePrediction.extras`.
        grid: Of the case.
    """
    return values.ndim >= 3 and values.shape[-3:] == grid.shape


def channel_names(extra: str, lead: tuple[int, ...], targets: Iterable[Target]) -> list[str]:
    """What the maps of an extra are called, one for each of its channels.

    Args:
        extra: Its name.
        lead: The axes before the voxels.
        targets: Of the method. Several channels are the classes of the one that has as many; where two do, of the one with
            which the name of the extra ends.

    Returns:
        One name for each channel, in C order: "uncertainty_WT", or with numbers from 1 on where they are not classes.

    >>> seg = Target("seg", "regions", ("WT", "ET"))
    >>> channel_names("uncertainty", (2,), [seg]), channel_names("nats", (1,), [seg]), channel_names("kappa", (3,), [seg])
    (['uncertainty_WT', 'uncertainty_ET'], ['nats'], ['kappa_1', 'kappa_2', 'kappa_3'])
    """
    count = int(np.prod(lead, dtype=int))
    if count == 1:
        return [extra]
    fitting = [target for target in targets if target.is_segmentation and (len(target.classes),) == lead]
    fitting = fitting if len(fitting) < 2 else [t for t in fitting if extra.endswith(f"_{t.name}")]
    if len(fitting) == 1:
        return [_class_name(extra, name) for name in fitting[0].classes]
    return ["_".join([extra, *(str(number + 1) for number in place)]) for place in np.ndindex(lead)]


def write_prediction(
    cohort: Cohort,
    case: Case,
    probabilities: Mapping[str, NDArray[np.float32]],
    *,
    grid: Grid,
    targets: Sequence[Target],
    used: Sequence[str],
    out: Path,
    regions: bool = False,
    as_probabilities: bool = False,
    extras: Mapping[str, NDArray[np.float32]] | None = None,
) -> Written:
    """Writes the segmentations of one case on the voxels of the first image that was used, in that image's file geometry.

    Files are `<out>/<case>_<target>` with the suffix of the input's format, then `<case>_<target>_<class>` for region maps and
    `<case>_<target>_<class>_probability`, and `extras/<case>_<extra>` with `_<class>` or `_<number>` where it has several
    channels. Each appears whole or not at all.

    Args:
        cohort: Says where the input is; only that one file is read.
        case: The case.
        probabilities: {target: (K, X, Y, Z)} on `grid`; targets that are no segmentation are left out.
        grid: Of the probabilities. They are resampled linearly to the input's voxels, and then thresholded.
        targets: The targets of the method.
        used: Names of the modalities that were used, first those on whose grid segmentations lie.
        out: Folder; it is made.
        regions: Write each class as a map of 0 and 1, too.
        as_probabilities: Write each class's probability, too.
        extras: {name: (..., X, Y, Z)} on `grid`, written as they are; what is no map of `grid` is left out.

    Returns:
        What was written.

    Raises:
        DataError: No image was used.
    """
    native, geometry = native_geometry(cohort, case, used)
    files: list[Path] = []
    for target in targets:
        if not target.is_segmentation:
            continue
        maps, stem = probabilities[target.name], f"{case.id}_{target.name}"
        labels = to_label_map(target, on_grid(maps, grid, native))
        files.append(write_volume(labels, geometry, out / stem))
        for k, p in enumerate(on_grid(maps, grid, native) if regions or as_probabilities else ()):
            name = _class_name(stem, target.classes[k])
            if regions:  # labels exclude each other; regions overlap, and each stands alone
                mask = labels == codes_of(target)[k] if target.kind == "labels" else p >= 0.5
                files.append(write_volume(np.asarray(mask, dtype=np.uint8), geometry, out / name))
            if as_probabilities:
                files.append(write_volume(p, geometry, out / f"{name}_probability"))
    for extra, values in (extras or {}).items():
        if is_map(values, grid):
            channels = on_grid(values.reshape(-1, *grid.shape), grid, native)
            for name, one in zip(channel_names(extra, values.shape[:-3], targets), channels, strict=True):
                files.append(write_volume(one, geometry, out / EXTRAS / f"{case.id}_{name.replace('/', '-')}"))
    return Written(case.id, tuple(m.name for m in cohort.modalities if m.name in set(used)), tuple(files))
