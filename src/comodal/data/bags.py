"""The items of a bag: vectors, pictures, or the tissue tiles of slides.

A cell of the kind "bag" lists paths joined by ";", each a file or a folder. With `spatial_dims: 0` items are vectors: a .npy
file holds one or, as a matrix, one in each row. With `spatial_dims: 2` they are pictures; where `tile` is set, a picture or
slide that is larger is cut into its tissue tiles (`comodal.data.tissue`), and one of exactly that size is an item as it is:
somebody cut it before. Order: as listed, in folders that of their names (2 before 10), in slides by rows.

All items of a bag have one size. Where they are resized, that comes first, in the file's own type; then the bag of a case is
normalised as one image: each channel over all its items together, so that what differs between them, a stain, is kept.

Axis letters: N items, F features, C channels, X Y pixels.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt

from comodal.data.cohort import Case, Cohort
from comodal.data.columns import ModalitySpec
from comodal.data.formats_numpy import ArraySource, read_array
from comodal.data.formats_picture import SLICE_SUFFIXES, natural_key
from comodal.data.geometry import BUDGET, Array
from comodal.data.grid import Grid, resample_to
from comodal.data.normalisation import Scheme, Size, normalise
from comodal.data.reading import read_volume
from comodal.data.slides import open_slide
from comodal.data.tissue import tissue_grid, tissue_tiles
from comodal.errors import ConfigError, DataError, message

MAX_ITEMS = 100_000
SCHEMES = ("zscore", "zscore-nonzero", "unit", "signed", "imagenet", "none")
PICTURES = (*SLICE_SUFFIXES, ".svs")


@dataclass(frozen=True)
class _Bag:
    """One cell that is being read.

    Attributes:
        paths: What it lists.
        spec: Its column.
        case: Its id.
        warnings: What the headers of slides lack; filled while it is read.
    """

    paths: tuple[Path, ...]
    spec: ModalitySpec
    case: str
    warnings: dict[str, None] = field(default_factory=dict)

    def error(self, rule: str, got: object, *, do: str, file: Path | None = None) -> DataError:
        place = {"subject": self.case, "modality": self.spec.name, "file": str(file or self.paths[0])}
        return DataError(message("bag", rule, got, do=do, **place))

    def files(self, suffixes: tuple[str, ...]) -> list[Path]:
        """The files that are meant, folders looked into. A link that leads out of its folder is refused."""
        found: list[Path] = []
        for path in self.paths:
            if not path.is_dir():
                found.append(path)
                continue
            names = sorted((n for n in os.listdir(path) if n.lower().endswith(suffixes)), key=natural_key)
            names = [name for name in names if not name.startswith(".")]
            if not names:
                do = f"Put the items there, or blank the cell if {self.spec.name} is absent"
                raise self.error(f"be a folder with {' or '.join(suffixes)} files", "none", do=do, file=path)
            real = os.path.realpath(path)
            for name in names:
                if os.path.dirname(os.path.realpath(path / name)) != real:
                    do = "Copy the file there"
                    raise self.error("hold files of its own folder", "a link out of it", do=do, file=path / name)
            found += [path / name for name in names]
        if len(found) > MAX_ITEMS:
            raise self.error(f"have at most {MAX_ITEMS} items", len(found), do="Leave some out")
        return found


def _bag(cohort: Cohort, case: Case, column: str) -> _Bag:
    spec = cohort.spec(column)
    assert isinstance(spec, ModalitySpec)
    return _Bag(tuple(cohort.files(case, column)), spec, case.id)


def items_of(
    cohort: Cohort, case: Case, column: str, *, scheme: Scheme = "none", size: Size | None = None
) -> npt.NDArray[np.float32]:
    """The items of a bag.

    Args:
        cohort: Has the files.
        case: One that has this modality.
        column: Of kind "bag".
        scheme: How pictures are normalised, see `PreprocessingConfig`; vectors are left as they are.
        size: (X, Y) to which pictures are resized, field of view kept; None demands one size of them all.

    Returns:
        (N, F) float32 of vectors, (N, C, X, Y) float32 of pictures; N is at least 1.

    Raises:
        DataError: No item, one that cannot be read, of another size or number of channels, or more than the budget.
        ConfigError: A scheme that bags cannot have, or TIFF slides without the extra `slides`.
    """
    bag = _bag(cohort, case, column)
    if bag.spec.spatial_dims != 2:
        return _vectors(bag)
    if scheme not in SCHEMES:
        do = f"Choose one of {', '.join(SCHEMES)}"
        raise ConfigError(message(f"data.normalise.{column}", "be a scheme for bags of pictures", repr(scheme), do=do))
    kept: list[Array] = []
    for file, picture in _pictures(bag):
        item = picture if size is None else _resized(picture, size)
        first = kept[0] if kept else item
        if item.shape != first.shape or item.dtype != first.dtype:
            rule = f"have items of one size and type, {first.shape[1:]} {first.dtype}"
            do = f"Set data.resize for the grid {bag.spec.grid}, or cut the pictures to one size"
            raise bag.error(rule, f"{item.shape[1:]} {item.dtype}", do=do, file=file)
        kept.append(item)
        _check_room(bag, len(kept), item.size, file)
    # (C, X, Y, N): the bag as one image, as `normalise` takes it
    normal = normalise(np.stack(kept, axis=-1), scheme)
    return np.ascontiguousarray(normal.transpose(3, 0, 1, 2))


def look_through(cohort: Cohort, case: Case, column: str) -> tuple[str, ...]:
    """Reads every item of a bag, one at a time, for `comodal check`; of slides, the tiles that are tissue.

    Args:
        cohort: Has the files.
        case: One that has this modality.
        column: Of kind "bag".

    Returns:
        What the headers of slides lack, one sentence each.

    Raises:
        DataError: As `items_of`; that pictures differ in size is none here, since they can be resized.
    """
    bag = _bag(cohort, case, column)
    if bag.spec.spatial_dims != 2:
        _vectors(bag)
    else:
        for _ in _pictures(bag):
            pass
    return tuple(bag.warnings)


def settings_key(spec: ModalitySpec, scheme: Scheme, size: Size | None) -> tuple[str, ...]:
    """All that the items depend on beside their files, for the cache.

    Args:
        spec: The column.
        scheme: How pictures are normalised.
        size: To which they are resized.
    """
    return "bag", f"{spec.spatial_dims}:{spec.channels}:{spec.tile}:{spec.microns}", scheme, str(size)


def _vectors(bag: _Bag) -> npt.NDArray[np.float32]:
    rows: list[npt.NDArray[np.float32]] = []
    for file in bag.files((".npy",)):
        if file.suffix.lower() != ".npy":
            raise bag.error(
                "be made of .npy files", file.name, do="Set spatial_dims: 2 in the yaml if it is a picture", file=file
            )
        array = read_array(ArraySource(f"bag {bag.case}: {bag.spec.name}", file), kinds="biuf")
        matrix = np.asarray(array, dtype=np.float32)
        matrix = matrix.reshape(1, -1) if matrix.ndim == 1 else matrix
        if matrix.ndim != 2 or matrix.shape[1] != bag.spec.channels or not len(matrix):
            rule, do = f"have {bag.spec.channels} numbers in each row", f"Correct channels of {bag.spec.name} in cohort.yaml"
            raise bag.error(rule, f"shape {array.shape}", do=do, file=file)
        if not np.isfinite(matrix).all():
            raise bag.error("hold finite numbers", "NaN or infinity", do="Repair or exclude the vector", file=file)
        rows.append(matrix)
        _check_room(bag, sum(map(len, rows)), bag.spec.channels, file)
    return np.concatenate(rows)


def _pictures(bag: _Bag) -> Iterator[tuple[Path, Array]]:
    """(file, (C, X, Y) in the file's own type) of each item."""
    tile, none = bag.spec.tile, True
    for file in bag.files(PICTURES):
        for item in _tiles(bag, file) if tile else (_picture(bag, file),):
            if item.shape[0] != bag.spec.channels:
                rule, do = f"have {bag.spec.channels} channels", f"Correct channels of {bag.spec.name} in cohort.yaml"
                raise bag.error(rule, item.shape[0], do=do, file=file)
            none = False
            yield file, item
    if none:
        do = "Set a smaller tile in cohort.yaml, or blank the cell if the slide shows nothing"
        raise bag.error(f"hold a tile of {tile} x {tile} pixels that is tissue by half", "none", do=do)


def _picture(bag: _Bag, file: Path) -> Array:
    array = read_volume(file, subject=bag.case, modality=bag.spec.name).array
    if array.shape[3] != 1:
        do = "Set tile in cohort.yaml if it is a slide, or name pictures of one page"
        raise bag.error("be made of pictures", f"{array.shape[3]} slices", do=do, file=file)
    return array[..., 0]


def _tiles(bag: _Bag, file: Path) -> Iterator[Array]:
    tile, microns = bag.spec.tile, bag.spec.microns
    with open_slide(file, subject=bag.case, modality=bag.spec.name) as slide:
        size = slide.levels[0]
        if (size.width, size.height) == (tile, tile):
            yield slide.read_region(0, x=0, y=0, width=tile, height=tile)
            return
        bag.warnings.update(dict.fromkeys(slide.warnings))
        count = len(tissue_grid(slide, tile, microns).corners)
        _check_room(bag, count, bag.spec.channels * tile**2, file)  # before the first of them is decoded
        yield from tissue_tiles(slide, tile, microns)


def _check_room(bag: _Bag, count: int, values: int, file: Path) -> None:
    if count > MAX_ITEMS or 4 * count * values > BUDGET:
        most = min(MAX_ITEMS, BUDGET // (4 * values))
        do = f"Set microns of {bag.spec.name} in cohort.yaml to a coarser resolution" if bag.spec.tile else "Leave some out"
        raise bag.error(f"have at most {most} items of {values} numbers (4 GiB)", f"at least {count}", do=do, file=file)


def _resized(picture: Array, size: Size) -> Array:
    """Another size over the same field of view, in the same type."""
    own = Grid((picture.shape[1], picture.shape[2], 1), np.eye(4))
    wide = resample_to(picture[..., None].astype(np.float32), own, own.resized((*size[:2], 1)))[..., 0]
    whole = np.issubdtype(picture.dtype, np.integer)
    return (np.rint(wide) if whole else wide).astype(picture.dtype)
