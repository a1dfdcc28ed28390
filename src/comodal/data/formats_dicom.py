"""DICOM: a folder of files that make one volume (a series), one file of several frames, or one picture.

Slices are ordered by where they lie: ImagePositionPatient along the normal of ImageOrientationPatient. File names and instance
numbers decide nothing. A slice that is missing or there twice, slices that do not lie on top of each other, and two series in
one folder are errors that say where. Rescaling is applied (float32 then), MONOCHROME1 is turned so that high values are bright.

DICOM counts positions in LPS mm (to the left, to the back, up); X and Y change sign on the way to RAS. Of a header only what is
named here is kept: nothing that says who the patient is, and no message quotes more than numbers, codes and file names.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np
import numpy.typing as npt
from nibabel import orientations

from comodal.data import formats_dicom_pixels
from comodal.data.formats_dicom_pixels import EXPORT_AGAIN, Pixels, numbers, text
from comodal.data.formats_nifti import frame, ras_frame
from comodal.data.geometry import Affine, Array, Geometry, Header, Source, Volume, check_affine, check_budget, check_finite
from comodal.data.opening import opened
from comodal.errors import short

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

Vector = npt.NDArray[np.float64]

UNEVEN = 0.05  # part of the distance of two slices by which another may differ
SAME_PLACE = 1e-3  # mm
TILT = 0.5  # degrees between the normal of the slices and the direction in which they are stacked
ALIGNED = 0.1  # mm by which a slice may lie beside the line through the others
ORTHONORMAL = 1e-3
# Pixels that are no image, by SOP class, and what reads them.
NO_IMAGES = {
    "1.2.840.10008.5.1.4.1.1.66.4": ("segmentation", "Convert it to NIfTI, for instance with dcmqi"),
    "1.2.840.10008.5.1.4.1.1.481.2": ("dose", "Convert it to NIfTI, for instance with plastimatch"),
}
# Where a file of several frames keeps what a file of one keeps at its top: sequence of the functional group, keyword.
GROUPS = {
    "ImagePositionPatient": "PlanePositionSequence",
    "ImageOrientationPatient": "PlaneOrientationSequence",
    "PixelSpacing": "PixelMeasuresSequence",
    "SliceThickness": "PixelMeasuresSequence",
    "SpacingBetweenSlices": "PixelMeasuresSequence",
    "RescaleSlope": "PixelValueTransformationSequence",
    "RescaleIntercept": "PixelValueTransformationSequence",
}
SHARED, PER_FRAME = "SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence"
TAGS = (
    *GROUPS, SHARED, PER_FRAME, "SOPClassUID", "SeriesInstanceUID", "Modality", "ConcatenationUID", "ModalityLUTSequence",
    "ImagerPixelSpacing",
)  # fmt: skip
DETECTOR = "the spacing is that at the detector (ImagerPixelSpacing), not that in the patient"
INVERTED = "MONOCHROME1 was inverted, so that high values are bright"
TABLE = "a modality lookup table is not applied"
CLEARED = "bits above those that are stored (BitsStored) were cleared"
SPLIT = "Put each series, echo or time point in a folder of its own, or convert it with dcm2niix"


@dataclass(frozen=True)
class _Slice:
    """One frame: where it lies (LPS mm), and the slope and intercept of its values."""

    path: Path
    position: tuple[float, ...] | None
    orientation: tuple[float, ...] | None
    spacing: tuple[float, ...] | None
    thickness: float | None
    rescale: tuple[float, float]


@dataclass(frozen=True)
class _Image:
    """One file."""

    path: Path
    series: str
    modality: str
    pixels: Pixels
    slices: tuple[_Slice, ...]
    has_table: bool
    detector: tuple[float, ...] | None


@dataclass(frozen=True)
class _Stack:
    """The files of one volume. rank: where frame k of all files, one after the other, comes along Z. affine: to RAS mm."""

    images: tuple[_Image, ...]
    rank: npt.NDArray[np.intp]
    affine: Affine
    placed: bool
    has_spacing: bool
    warnings: tuple[str, ...]

    @property
    def slices(self) -> list[_Slice]:
        """Of all files, one after the other."""
        return [one for image in self.images for one in image.slices]


# ------------------------------------------------------------------------------------------------------------------ one file


def _image(file: BinaryIO, source: Source) -> _Image:
    """What one open file says, without its pixels."""
    dataset, syntax = formats_dicom_pixels.read_dataset(file, source, TAGS)
    if (kind := text(dataset, "SOPClassUID")) in NO_IMAGES:
        name, do = NO_IMAGES[kind]
        raise source.error("hold an image", f"a DICOM {name} object", do=do)
    if "ConcatenationUID" in dataset:
        raise source.error("be a whole volume", "a part of a concatenation", do="Convert it with dcm2niix")
    pixels = formats_dicom_pixels.parse(file, dataset, syntax, source=source)
    check_budget(source, (pixels.samples, pixels.columns, pixels.rows, pixels.frames), pixels.allocated // 8)
    slices = []
    for places in _places(dataset, pixels.frames, source):
        thickness = _find("SpacingBetweenSlices", 1, places, source=source) or _find("SliceThickness", 1, places, source=source)
        (slope,) = _find("RescaleSlope", 1, places, source=source) or (1.0,)
        (intercept,) = _find("RescaleIntercept", 1, places, source=source) or (0.0,)
        if slope == 0:
            raise source.error("have a RescaleSlope other than 0", 0, do=EXPORT_AGAIN)
        position, orientation, spacing = (
            _find(name, n, places, source=source) for name, n in zip(GROUPS, (3, 6, 2), strict=False)
        )
        thick = abs(thickness[0]) if thickness else None
        slices.append(_Slice(source.path, position, orientation, spacing, thick, (slope, intercept)))
    series, modality = text(dataset, "SeriesInstanceUID"), text(dataset, "Modality")
    detector = numbers(dataset, "ImagerPixelSpacing", 2, source=source)
    return _Image(source.path, series, modality, pixels, tuple(slices), "ModalityLUTSequence" in dataset, detector)


def _places(dataset: Dataset, count: int, source: Source) -> list[list[Any]]:
    """For each frame, where to look: its own groups, those of all frames, the top."""
    try:
        with formats_dicom_pixels.quiet():
            shared, own = list(dataset.get(SHARED) or []), list(dataset.get(PER_FRAME) or [])
    except Exception:  # noqa: BLE001  a sequence that is none
        shared, own = [], [None]
    if own and len(own) != count:
        raise source.error(f"have functional groups of {count} frames", len(own), do=EXPORT_AGAIN)
    return [[*own[k : k + 1], *shared[:1], dataset] for k in range(count)]


def _find(keyword: str, count: int, places: list[Any], *, source: Source) -> tuple[float, ...] | None:
    """The numbers of the first place that has them."""
    for place in places:
        try:
            with formats_dicom_pixels.quiet():
                group = place.get(GROUPS[keyword])
                item = group[0] if group else place
        except Exception:  # noqa: BLE001  a sequence that is none
            continue
        if (found := numbers(item, keyword, count, source=source)) is not None:
            return found
    return None


# -------------------------------------------------------------------------------------------------------------------- a stack


def _check_series(images: Sequence[_Image], source: Source) -> None:
    """Refuses several series, and slices of different form."""
    series: dict[str, list[_Image]] = {}
    for image in images:
        series.setdefault(image.series, []).append(image)
    if len(series) > 1:
        parts = [f"{len(group)} of {short(group[0].modality)} (such as {group[0].path.name})" for group in series.values()]
        listed = "; ".join(parts[:8]) + (f"; and {len(parts) - 8} more" if len(parts) > 8 else "")
        raise source.error("hold the files of one series", f"{len(series)} series: {listed}", do=SPLIT)
    usual, _ = Counter(image.pixels.alike for image in images).most_common(1)[0]
    odd = [image for image in images if image.pixels.alike != usual]
    if odd:
        forms = [
            f"{i.pixels.rows} x {i.pixels.columns} {i.pixels.dtype} {short(i.pixels.photometric)}" for i in (odd[0], images[0])
        ]
        got = f"{forms[0]} in {odd[0].path.name} ({len(odd)} of {len(images)} files differ from the rest)"
        raise source.error("hold slices of one size and type", got, do="Remove the odd files, such as a localiser")


def _stack(images: Sequence[_Image], source: Source) -> _Stack:
    """Orders the slices and finds their frame."""
    _check_series(images, source)
    slices = [one for image in images for one in image.slices]
    if len(slices) == 1 and (slices[0].position is None or slices[0].orientation is None):
        return _picture(images[0], slices[0])
    for one in slices:
        for name, value in (("Position", one.position), ("Orientation", one.orientation)):
            if value is None:
                do = "Convert it with dcm2niix, or give each picture a cell of its own"
                raise source.error(
                    f"have Image{name}Patient for each of its {len(slices)} slices", "none", do=do, path=one.path
                )
        if one.spacing is None:
            raise source.error("have PixelSpacing", "none", do=EXPORT_AGAIN, path=one.path)
    across, down = _directions(slices, source)
    normal = np.cross(across, down)
    positions = np.array([one.position for one in slices])
    depth = positions @ normal
    order = np.argsort(depth, kind="stable")
    warnings: list[str] = []
    step = _step(slices[0], normal, warnings)
    if len(slices) > 1:
        _check_gaps(slices, depth, order, source=source)
        step = _check_line(positions[order], normal, source)
    affine = np.eye(4)
    rows, columns = slices[0].spacing or (1.0, 1.0)
    affine[:3, :3] = np.array([across * columns, down * rows, step]).T
    affine[:3, 3] = positions[order[0]]
    check_affine(source, affine, "have axes and spacings that can be inverted", do=EXPORT_AGAIN)
    rank = np.argsort(order, kind="stable")
    return _Stack(tuple(images), rank, np.diag([-1.0, -1, 1, 1]) @ affine + 0.0, True, True, tuple(warnings))


def _picture(image: _Image, one: _Slice) -> _Stack:
    """A file without a place in the patient: X = column, Y = row, as of any picture."""
    spacing = one.spacing or image.detector
    affine = np.diag([spacing[1], spacing[0], 1.0, 1.0]) if spacing else np.eye(4)
    if spacing:
        check_affine(Source(image.path), affine, "have a PixelSpacing above 0", do=EXPORT_AGAIN)
    warnings = (DETECTOR,) if spacing and not one.spacing else ()
    return _Stack((image,), np.zeros(1, dtype=np.intp), affine, False, spacing is not None, warnings)


def _directions(slices: list[_Slice], source: Source) -> tuple[Vector, Vector]:
    """Directions of growing column and row, which all slices share."""
    all_of_them = np.array([one.orientation for one in slices])
    spacings = np.array([one.spacing for one in slices])
    first = np.median(all_of_them, axis=0)
    odd = np.abs(all_of_them - first).max(axis=1) > ORTHONORMAL
    if odd.any():
        got = f"{int(odd.sum())} of {len(slices)} that lie otherwise, such as that of {slices[int(np.argmax(odd))].path.name}"
        raise source.error("hold slices of one orientation", got, do="Remove the odd files, such as a localiser")
    odd = np.abs(spacings - spacings[0]).max(axis=1) > ORTHONORMAL * np.abs(spacings[0]).max()
    if odd.any():
        got = f"another one in {slices[int(np.argmax(odd))].path.name}"
        raise source.error("hold slices of one PixelSpacing", got, do="Remove the odd files, such as a localiser")
    across, down = all_of_them[0][:3], all_of_them[0][3:]
    lengths = np.array([np.linalg.norm(across), np.linalg.norm(down)])
    if np.abs(lengths - 1).max() > ORTHONORMAL or abs(float(across @ down)) > ORTHONORMAL:
        got = " ".join(f"{value:g}" for value in all_of_them[0])
        raise source.error("have an ImageOrientationPatient of two directions at right angles", got, do=EXPORT_AGAIN)
    return across / lengths[0], down / lengths[1]


def _step(one: _Slice, normal: Vector, warnings: list[str]) -> Vector:
    """Of a single slice: along its normal, as thick as it is."""
    if not one.thickness:
        warnings.append("the header has no SliceThickness; the slice is taken to be 1 mm thick")
    return normal * (one.thickness or 1.0)


def _check_gaps(slices: list[_Slice], depth: Vector, order: npt.NDArray[np.intp], *, source: Source) -> None:
    """Refuses slices at one place, and a distance that differs from the others."""
    gaps = np.diff(depth[order])

    def between(k: int) -> str:
        names = [slices[order[i]].path.name for i in (k, k + 1)]
        files = f" ({names[0]}, {names[1]})" if names[0] != names[1] else ""
        return f"slices {k + 1} and {k + 2} of {len(slices)}{files}"

    if (twice := np.flatnonzero(gaps < SAME_PLACE)).size:
        got = f"{twice.size} that share a place with another, the first being {between(int(twice[0]))}"
        raise source.error("hold one slice at each place", got, do=SPLIT)
    usual = float(np.median(gaps)) if len(gaps) > 2 else float(gaps.min())
    wide = np.flatnonzero(np.abs(gaps - usual) > UNEVEN * usual + SAME_PLACE)
    if wide.size:
        at = int(wide[0])
        got = f"{gaps[at]:.4g} mm between {between(at)}, elsewhere {usual:.4g} mm"
        do = "Copy the series again, all its slices; or resample it if it was taken so"
        raise source.error("hold slices at even distances, none missing", got, do=do)


def _check_line(positions: Vector, normal: Vector, source: Source) -> Vector:
    """The step from one slice to the next; refused where it does not follow the normal, or slices lie beside the line."""
    step = (positions[-1] - positions[0]) / (len(positions) - 1)
    along = float(step @ normal)
    beside = float(np.linalg.norm(step - along * normal))
    angle = math.degrees(math.atan2(beside, along))
    if angle > TILT:
        do = "Resample it to an upright volume, for instance with dicom2nifti or dcm2niix"
        raise source.error("have slices stacked along their normal", f"a tilt of {angle:.1f} degrees (gantry tilt)", do=do)
    off = positions - positions[0] - np.arange(len(positions))[:, None] * step
    aside = np.linalg.norm(off - np.outer(off @ normal, normal), axis=1)
    if aside.max() > ALIGNED:
        got = f"slice {int(aside.argmax()) + 1} of {len(positions)}, {aside.max():.3g} mm aside"
        raise source.error("have slices that lie on one line", got, do="Resample it, for instance with dicom2nifti")
    # below this it is rounding of the positions
    return np.asarray(along * normal if beside < 1e-4 * along else step, dtype=np.float64)


# --------------------------------------------------------------------------------------------------------------- read


def _header(stack: _Stack, channel: int | None, source: Source) -> tuple[Header, npt.NDArray[np.float64]]:
    pixels = stack.images[0].pixels
    if channel is not None and not 0 <= channel < pixels.samples:
        got, do = f"{pixels.samples} channels", "Correct `channel` in the cohort's yaml"
        raise source.error(f"have channel {channel}", got, do=do)
    scaled = any(one.rescale != (1.0, 0.0) for one in stack.slices)
    dtype = np.dtype(np.float32) if scaled else pixels.dtype
    stored = (pixels.columns, pixels.rows, len(stack.rank))
    check_budget(source, (pixels.samples, *stored), dtype.itemsize)
    if stack.placed:
        shape, affine, orientation = ras_frame(stack.affine, stored)
    else:
        shape, affine, orientation = stored, stack.affine, np.array([[0.0, 1.0], [1.0, 1.0], [2.0, 1.0]])
    warnings = list(stack.warnings)
    warnings += [TABLE] if any(image.has_table for image in stack.images) else []
    if any(image.pixels.extra > 0 for image in stack.images):
        warnings.append("there are bytes behind the pixels; they were ignored")
    notes = (INVERTED,) if pixels.photometric == "MONOCHROME1" else ()
    channels = pixels.samples if channel is None else 1
    header = Header(shape, channels, affine, dtype, has_spacing=stack.has_spacing, notes=notes, warnings=tuple(warnings))
    return header, orientation


def _volume(stack: _Stack, source: Source, channel: int | None) -> Volume:
    header, orientation = _header(stack, channel, source)
    pixels = stack.images[0].pixels
    array: Array = np.empty((header.channels, len(stack.rank), pixels.rows, pixels.columns), header.dtype)
    keep, done, cleared = slice(None) if channel is None else slice(channel, channel + 1), 0, False
    for image in stack.images:
        of_file = Source(image.path, source.subject, source.modality)
        with opened(of_file) as file:
            if _image(file, of_file) != image:
                raise of_file.error("stay the same while it is read", "a file that changed", do="Try again when it is written")
            for one, (values, bits) in zip(
                image.slices, formats_dicom_pixels.frames(file, image.pixels, source=of_file), strict=True
            ):
                slope, intercept = one.rescale
                kept = values[keep] if (slope, intercept) == (1.0, 0.0) else values[keep] * slope + intercept  # in float64
                array[:, stack.rank[done]] = kept
                done, cleared = done + 1, cleared or bits
    array = array.transpose(0, 3, 2, 1)
    check_finite(source, array)
    array = np.ascontiguousarray(np.stack([orientations.apply_orientation(one, orientation) for one in array]))
    if cleared:
        header = replace(header, warnings=(*header.warnings, CLEARED))
    stored = (pixels.columns, pixels.rows, len(stack.rank))
    geometry = (
        frame(stored, stack.affine, orientation) if stack.placed else Geometry("picture", stored, stack.affine, orientation)
    )
    return Volume(array, header, geometry)


def _folder(paths: Sequence[Path], source: Source) -> _Stack:
    images = []
    for path in paths:
        of_file = Source(path, source.subject, source.modality)
        with opened(of_file) as file:
            images.append(_image(file, of_file))
    return _stack(images, source)


def read_header(file: BinaryIO, source: Source, *, channel: int | None) -> Header:
    """Header of an open DICOM file; no pixel is read."""
    return _header(_stack([_image(file, source)], source), channel, source)[0]


def read(file: BinaryIO, source: Source, *, channel: int | None) -> Volume:
    """Reads an open DICOM file, every frame of it; see `comodal.data.reading.read_volume`."""
    return _volume(_stack([_image(file, source)], source), source, channel)


def read_series_header(paths: Sequence[Path], source: Source, *, channel: int | None) -> Header:
    """Header of the volume that these files make, in whatever order; no pixel is read."""
    return _header(_folder(paths, source), channel, source)[0]


def read_series(paths: Sequence[Path], source: Source, *, channel: int | None) -> Volume:
    """Reads the volume that these files make, in whatever order."""
    return _volume(_folder(paths, source), source, channel)
