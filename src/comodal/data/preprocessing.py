"""`Preparer`: from the files of a case to arrays on one grid, each modality from its own file alone.

No crop box, mask or statistic of one modality touches another: an image is normalised on its own voxels, before resampling, and
resampled once, onto the grid of the first present modality of its `grid` group in the cohort's order. Only the files of the
modalities in use are opened, or even looked at.

Axis letters: C channels, X Y Z voxels in RAS array order (a picture has Z = 1), K regions or classes.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from comodal.batch import Bag, Value
from comodal.data.bags import settings_key
from comodal.data.cache import Cache, stamp
from comodal.data.cohort import Case, Cohort, ModalitySpec, TargetSpec
from comodal.data.contents import items_of, report_of, vector_of
from comodal.data.geometry import Array, Header
from comodal.data.grid import Grid, resample_mask, resample_to
from comodal.data.normalisation import CtNumbers, Fitted, PreprocessingConfig, Scheme, fit, normalise
from comodal.data.reading import read_header, read_volume
from comodal.data.targets import class_labelled, class_target, encode_mask
from comodal.errors import ConfigError, DataError, message, nearest
from comodal.modality import Modality, Target, first_grid, only_regions

if TYPE_CHECKING:
    from comodal.data.text import AnyTokenizer

__all__ = [
    "CtNumbers",
    "Fitted",
    "Grid",
    "PreparedCase",
    "Preparer",
    "PreprocessingConfig",
    "Scheme",
    "fit",
    "normalise",
    "resample_to",
]


@dataclass(frozen=True, eq=False)
class PreparedCase:
    """A case as arrays, which must not be written to.

    They may be mapped from disk or still be packed there (`comodal.data.stored.Stored`): index an array before it is converted
    or counted with.

    Attributes:
        case: Its row of the cohort.
        grid: Of the first of `grids`; None where no image is in use. Segmentation targets lie on it.
        grids: {grid name: Grid} of all images; that of the problem's first image, on which segmentations lie, comes first.
        images: {modality: (C, X, Y, Z) float32}, each on the grid of its group.
        values: {modality: Text | Bag | (F,) float32 tensor} of the others.
        targets: {target: array}: regions (K, X, Y, Z) uint8, labels (X, Y, Z) int64, class and ordinal () int64, multilabel
            (K,) float32.
        labelled: {target: () bool}, True for each of `targets`; (K,) bool for multilabel, False where nobody knows.
        keys: {target: what its array was made from}, for caching what is derived from it.
    """

    case: Case
    grid: Grid | None
    grids: Mapping[str, Grid] = field(default_factory=dict)
    images: Mapping[str, Array] = field(default_factory=dict)
    values: Mapping[str, Value] = field(default_factory=dict)
    targets: Mapping[str, Array] = field(default_factory=dict)
    labelled: Mapping[str, Array] = field(default_factory=dict)
    keys: Mapping[str, tuple[str, ...]] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class _Reference:
    """The first present image of a grid group: where its voxels lie, and where those of the group shall lie."""

    modality: str
    native: Grid
    grid: Grid
    has_spacing: bool


class Preparer:
    """Prepares cases. Light and picklable: it opens nothing until it is asked for a case.

    Args:
        cohort: Has the files.
        config: How files become arrays.
        modalities: Names of those of the problem; the cohort's order counts.
        targets: Names of those of the problem.
        regions: Names of those of the problem, where it has not all that the targets of kind regions have in the cohort.
        fitted: What was learned from the training cases.
        cache: For prepared arrays: a folder, or a `Cache`, which also says in what form; None prepares anew each time.
        spatial_dims: 2 or 3, what the networks see. With 2, cached volumes are laid out slice by slice.
        tokenizer: For text modalities.

    Raises:
        ConfigError: A name is not in the cohort, or a text modality has no tokenizer.
    """

    def __init__(
        self,
        cohort: Cohort,
        config: PreprocessingConfig,
        *,
        modalities: Sequence[str],
        targets: Sequence[str] = (),
        regions: Sequence[str] | None = None,
        fitted: Fitted | None = None,
        cache: Cache | Path | str | None = None,
        spatial_dims: int = 3,
        tokenizer: AnyTokenizer | None = None,
    ) -> None:
        _check_names("data.modalities", modalities, [m.name for m in cohort.modalities])
        _check_names("data.targets", targets, [t.name for t in cohort.targets])
        config.check_names([m.name for m in cohort.modalities])
        self.cohort = cohort
        self.config = config
        self.modalities: tuple[Modality, ...] = tuple(m for m in cohort.modalities if m.name in set(modalities))
        self.targets = only_regions((t for t in cohort.targets if t.name in set(targets)), regions)
        self.fitted = fitted or Fitted()
        self.cache = cache if cache is None or isinstance(cache, Cache) else Cache(cache)
        self.spatial_dims = spatial_dims
        self.tokenizer = tokenizer
        self._headers: dict[tuple[str, str], tuple[str, Header]] = {}
        for modality in self.modalities:
            if modality.kind == "text" and tokenizer is None:
                do = "Fit one on the training reports, or load that of the run"
                raise ConfigError(message("Preparer.tokenizer", "be given for texts", None, modality=modality.name, do=do))

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_headers": {}}

    def present(self, case: Case, use: Iterable[str] | None = None) -> tuple[str, ...]:
        """Names of the modalities that this case has, of those in `use` (all by default), in the cohort's order.

        Raises:
            ConfigError: `use` has a name that is not one of the problem.
        """
        names = [m.name for m in self.modalities]
        wanted = set(names if use is None else use)
        _check_names("use", sorted(wanted), names)
        return tuple(name for name in names if name in wanted and name in case.cells)

    def grid(self, case: Case, use: Iterable[str] | None = None) -> Grid | None:
        """Where the prepared arrays lie when these modalities are used; None without an image. Reads one header."""
        return next((r.grid for r in self._references(case, self.present(case, use), first_only=True).values()), None)

    def grids(self, case: Case, use: Iterable[str] | None = None) -> dict[str, Grid]:
        """The grid of each group of co-registered images; reads one header for each group."""
        return {name: r.grid for name, r in self._references(case, self.present(case, use)).items()}

    def case(self, case: Case, *, use: Iterable[str] | None = None, with_targets: bool = True) -> PreparedCase:
        """Prepares a case.

        Args:
            case: A row of the cohort.
            use: Only these modalities are read, as far as they are present; all of the problem by default.
            with_targets: Whether the targets are read.

        Returns:
            The case, with what it has of these.

        Raises:
            DataError: It has none of these modalities, or a file is damaged, or images of one grid do not overlap.
        """
        names = self.present(case, use)
        if not names:
            wanted = [m.name for m in self.modalities] if use is None else sorted(use)
            do = "Leave the case out, or use a modality that it has"
            rule = f"have at least one of {', '.join(wanted)}"
            raise DataError(message("case", rule, ", ".join(sorted(case.cells)) or "nothing", subject=case.id, do=do))
        references = self._references(case, names)
        chosen = [m for m in self.modalities if m.name in names]
        targets: dict[str, Array] = {}
        keys: dict[str, tuple[str, ...]] = {}
        first = next(iter(references.values()), None)
        segmented = references.get(first_grid(self.modalities))
        for target in self.targets if with_targets else ():
            if target.name in case.cells:
                targets[target.name], keys[target.name] = self._target(case, target, segmented)
        return PreparedCase(
            case=case,
            grid=None if first is None else first.grid,
            grids={name: r.grid for name, r in references.items()},
            images={m.name: self._image(case, m, references[m.grid]) for m in chosen if m.kind == "image"},
            values={m.name: self._value(case, m) for m in chosen if m.kind != "image"},
            targets=targets,
            labelled={name: self._labelled(case, name) for name in targets},
            keys=keys,
        )

    def truth(self, case: Case, target: str, *, use: Iterable[str] | None = None) -> tuple[Array, Grid]:
        """A segmentation target on the voxels of its own file, for evaluation.

        Args:
            case: A row of the cohort.
            target: Name of a target of kind regions or labels that the case has.
            use: As in `case`; it matters only where the mask's file knows no position and takes that of the image.

        Returns:
            Regions (K, X, Y, Z) uint8 or labels (X, Y, Z) int64, and their grid.
        """
        wanted = next(t for t in self.targets if t.name == target)
        references = self._references(case, self.present(case, use), first_only=True)
        native = self._native(case, target, references.get(first_grid(self.modalities)))
        return self._mask(case, wanted), native

    def _references(self, case: Case, names: Sequence[str], *, first_only: bool = False) -> dict[str, _Reference]:
        found: dict[str, _Reference] = {}
        main = first_grid(self.modalities)
        for modality in sorted(self.modalities, key=lambda m: m.grid != main):
            if modality.kind != "image" or modality.name not in names or modality.grid in found:
                continue
            header = self._header(case, modality.name)
            native = Grid(header.shape, header.affine)
            found[modality.grid] = _Reference(modality.name, native, self._wanted(native, header, modality), header.has_spacing)
            if first_only:
                break
        return found

    def _wanted(self, native: Grid, header: Header, modality: Modality) -> Grid:
        """The grid of the configured size and spacing over the field of view of an image. A picture stays one slice."""
        axes = modality.spatial_dims
        size, spacing = self.config.resize_of(modality.grid), self.config.spacing_of(modality.grid)
        if size is not None:
            return native.resized((*size[:axes], *native.shape[len(size[:axes]) :]))
        if spacing != "native" and header.has_spacing:
            return native.respaced((*spacing[:axes], *native.spacing[axes:]))
        return native

    def _file(self, case: Case, column: str) -> tuple[Path, str, ModalitySpec | TargetSpec]:
        path, spec = self.cohort.file(case, column), self.cohort.spec(column)
        return path, stamp(path, spec.files), spec

    def _header(self, case: Case, column: str) -> Header:
        """Remembered for as long as the file does not change: sampling asks for the same headers thousands of times."""
        path, version, spec = self._file(case, column)
        known = self._headers.get((case.id, column))
        if known is not None and known[0] == version:
            return known[1]
        header = read_header(path, files=spec.files, channel=spec.channel, subject=case.id, modality=column)
        self._headers[case.id, column] = (version, header)
        return header

    def _native(self, case: Case, column: str, reference: _Reference | None) -> Grid:
        """Where the voxels of a file lie. One that knows no position must have the shape of the reference and lies on it."""
        header = self._header(case, column)
        own = Grid(header.shape, header.affine)
        if reference is None or (header.has_spacing and reference.has_spacing):
            if reference is not None and not reference.native.overlaps(own):
                do = f"Register {column} to {reference.modality}, or give it a grid of its own in cohort.yaml"
                rule = f"overlap {reference.modality}, with which it shares a grid"
                got = f"no common field of view; origins {_origin(own)} and {_origin(reference.native)} mm"
                raise DataError(message("image", rule, got, subject=case.id, modality=column, do=do))
            return own
        if own.shape != reference.native.shape:
            do = f"Resample {column} to {reference.modality}, or give it a grid of its own in cohort.yaml"
            rule = f"have the shape of {reference.modality}, {reference.native.shape}, since its file knows no position"
            if header.has_spacing:
                rule = f"have the shape of {reference.modality}, {reference.native.shape}, whose file knows no position"
            raise DataError(message("image", rule, own.shape, subject=case.id, modality=column, do=do))
        return reference.native

    def _image(self, case: Case, modality: Modality, reference: _Reference) -> Array:
        native = self._native(case, modality.name, reference)
        path, spec = self.cohort.file(case, modality.name), self.cohort.spec(modality.name)
        scheme, numbers = self.config.scheme(modality), self.fitted.ct.get(modality.name)

        def build() -> Array:
            volume = read_volume(path, files=spec.files, channel=spec.channel, subject=case.id, modality=modality.name)
            if volume.array.shape[0] != modality.channels:
                do = f"Correct channels of {modality.name} in cohort.yaml"
                rule, got = f"have {modality.channels} channels", volume.array.shape[0]
                raise DataError(message("image", rule, got, subject=case.id, modality=modality.name, file=str(path), do=do))
            return resample_to(normalise(volume.array, scheme, numbers), native, reference.grid)

        fitted = numbers.model_dump_json() if scheme == "ct" and numbers is not None else ""
        read = f"{spec.files}:{spec.channel}:{modality.channels}"
        parts = ("image", read, scheme, fitted, native.key, reference.grid.key)
        return self._cached(path, spec.files, parts, build)[0]

    def _mask(self, case: Case, target: Target) -> Array:
        path, spec = self.cohort.file(case, target.name), self.cohort.spec(target.name)
        volume = read_volume(path, files=spec.files, channel=spec.channel, subject=case.id, modality=target.name)
        assert isinstance(spec, TargetSpec)
        every = spec.target  # a file holds the codes of regions that are not asked for, too
        mask = encode_mask(volume, every, path=path, subject=case.id, other=spec.other)
        return mask if target == every else mask[[every.classes.index(name) for name in target.classes]]

    def _target(self, case: Case, target: Target, reference: _Reference | None) -> tuple[Array, tuple[str, ...]]:
        if not target.is_segmentation:
            spec = self.cohort.spec(target.name)
            assert not isinstance(spec, ModalitySpec)
            return class_target(spec, case.cells[target.name], subject=case.id), ()
        if reference is None:
            do = "Use an image modality that the case has"
            raise DataError(message("case", "have an image to segment", "none", subject=case.id, modality=target.name, do=do))
        grid, native = reference.grid, self._native(case, target.name, reference)

        def build() -> Array:
            mask = self._mask(case, target)
            if target.kind == "regions":
                return resample_mask(mask, native, grid)
            labels: Array = resample_to(mask[None], native, grid, order=0)[0]
            return labels

        path, spec = self.cohort.file(case, target.name), self.cohort.spec(target.name)
        assert isinstance(spec, TargetSpec)
        # all the codes of the column, not only those of the regions in use: they decide whether a file is refused
        how = (
            f"{target.kind}:{target.classes}:{spec.target.classes}:{spec.target.codes}:{spec.other}:{spec.files}:{spec.channel}"
        )
        return self._cached(path, spec.files, ("target", how, native.key, grid.key), build)

    def _labelled(self, case: Case, target: str) -> Array:
        spec = self.cohort.spec(target)
        assert isinstance(spec, TargetSpec)
        return np.array(True) if spec.is_segmentation else class_labelled(spec, case.cells[target], subject=case.id)

    def _value(self, case: Case, modality: Modality) -> Value:
        import torch

        if modality.kind == "text":
            assert self.tokenizer is not None  # checked when built
            text = report_of(self.cohort, case, modality.name)
            inline = not self.cohort.holds_files(modality.name)
            where = "" if inline else str(self.cohort.file(case, modality.name))
            return self.tokenizer.encode(text, subject=case.id, modality=modality.name, file=where)
        if modality.kind == "features":
            return torch.from_numpy(vector_of(self.cohort, case, modality.name))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch warns of arrays that may not be written to; nobody writes, `collate` copies
            items = torch.from_numpy(self._items(case, modality))
        return Bag(items, torch.ones(len(items), dtype=torch.bool))

    def _items(self, case: Case, modality: Modality) -> Array:
        """The items of a bag; those of pictures are cached: mapped where they are few, unpacked from 1 MiB on."""
        name, size, scheme = modality.name, self.config.resize_of(modality.grid), self.config.scheme(modality)
        build = partial(items_of, self.cohort, case, name, scheme=scheme, size=size)
        cache = self.cache
        if cache is None or modality.spatial_dims != 2:
            return build()
        paths = self.cohort.files(case, name)
        content = tuple(cache.content(path) for path in paths)

        def checked() -> Array:
            items = build()
            if tuple(cache.content(path) for path in paths) != content:  # as for images
                do, rule = "Try again when it is written", "stay the same while it is prepared"
                raise DataError(message("bag", rule, "files that changed", subject=case.id, modality=name, do=do))
            return items

        spec = self.cohort.spec(name)
        assert isinstance(spec, ModalitySpec)
        return np.asarray(cache.array((*content, *settings_key(spec, scheme, size)), checked))

    def _cached(
        self, path: Path, files: str, parts: tuple[str, ...], build: Callable[[], Array]
    ) -> tuple[Array, tuple[str, ...]]:
        """What is built from a file, and its key: the content of the file and everything else that counts."""
        cache = self.cache
        if cache is None:
            return build(), ()
        content = cache.content(path, files)

        def checked() -> Array:
            array = build()
            if cache.content(path, files) != content:  # else the array of the new file would be found under the old one's key
                do, rule = "Try again when it is written", "stay the same while it is prepared"
                raise DataError(message("file", rule, "a file that changed", file=str(path), do=do))
            return array

        # with the layout in the key, a 2-D and a 3-D run may share a folder
        key = (content, *parts)
        layout = "slices" if self.spatial_dims == 2 else "volume"
        return cache.array((*key, layout), checked, slices_first=self.spatial_dims == 2), key


def _origin(grid: Grid) -> tuple[float, ...]:
    return tuple(grid.affine[:3, 3].round(1).tolist())


def _check_names(owner: str, names: Sequence[str], known: Sequence[str]) -> None:
    for name in names:
        if name not in known:
            raise ConfigError(message(owner, "name columns of the cohort", repr(name), do=nearest(name, known)))
