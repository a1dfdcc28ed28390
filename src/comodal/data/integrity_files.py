"""The files of one case, each read to its last byte, one in memory at a time."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

import numpy as np

from comodal.data.bags import look_through
from comodal.data.cohort import Case, Cohort, ModalitySpec, TargetSpec
from comodal.data.contents import report_of, vector_of
from comodal.data.geometry import Affine, Header, Volume
from comodal.data.integrity_defects import FEW, CaseFindings, Place
from comodal.data.integrity_images import picture_of
from comodal.data.integrity_texts import said_in
from comodal.data.reading import label_codes, read_volume
from comodal.errors import DataError

# Distances of the corners of two images of one grid. Below the first nothing is said: headers hold float32.
ALIKE_MM, FAR_MM = 1e-3, 1.0
WRAPPED = {8: range(253, 256), 16: range(65533, 65536)}  # where -1 to -3 end up in an unsigned type
IDENTIFIER = re.compile(r"(?=[\w-]*\d)[\w-]{4,64}")
MOST_WORDS = 500  # of a report that look like identifiers
_PLACE = re.compile(r" \[(?:(?:subject|modality|file) .*)\]$", re.DOTALL)


def check_case(cohort: Cohort, case: Case) -> CaseFindings:
    """Reads every file of a case.

    Args:
        cohort: Knows what the columns are and where the files lie.
        case: One of it.

    Returns:
        What was found; nothing is raised for a defect.
    """
    found = CaseFindings(case)
    frames: dict[str, tuple[str, Header]] = {}
    for spec in cohort.meta.columns:
        if spec.name not in case.cells or (isinstance(spec, TargetSpec) and not spec.is_segmentation):
            continue
        file = str(cohort.root / case.cells[spec.name]) if cohort.holds_files(spec.name) else ""
        place = Place(case, spec.name, file)
        try:
            _check_cell(found, cohort, spec=spec, place=place, frames=frames)
        except DataError as error:
            rule, _, do = str(error).removesuffix(".").rpartition(". ")
            found.add("error", _PLACE.sub("", rule), do, place=place)
        except MemoryError:
            do = "Crop or down-sample the image, or use a machine with more memory"
            found.add("error", "the file needs more memory than there is", do, place=place)
    return found


def _check_cell(
    found: CaseFindings,
    cohort: Cohort,
    *,
    spec: ModalitySpec | TargetSpec,
    place: Place,
    frames: dict[str, tuple[str, Header]],
) -> None:
    case, kind = found.case, spec.kind if isinstance(spec, ModalitySpec) else "image"
    if kind == "text":
        _check_text(found, report_of(cohort, case, spec.name), place)
    elif kind == "features":
        vector_of(cohort, case, spec.name)
    elif kind == "bag":
        _check_bag(found, cohort, spec=spec, place=place)
    else:
        path = cohort.file(case, spec.name)
        volume = read_volume(path, files=spec.files, channel=spec.channel, subject=case.id, modality=spec.name)
        _check_volume(found, place, volume, spec=spec)
        _check_frame(found, place, volume.header, spec=spec, frames=frames)


def _check_bag(found: CaseFindings, cohort: Cohort, *, spec: ModalitySpec | TargetSpec, place: Place) -> None:
    """Every item is read, one in memory at a time; of a slide, its list of tiles and those that its bag takes."""
    for warning in look_through(cohort, found.case, spec.name):
        found.count("warning", warning, "Write the micrometres per pixel into the file, or do without", place=place)


def _check_text(found: CaseFindings, text: str, place: Place) -> None:
    words = " ".join(text.split())
    if not words:
        do = "Blank the cell: an empty report is an absent one, and training refuses it"
        found.add("error", "the report is empty", do, place=place)
        return
    found.texts[place.column] = hashlib.blake2b(words.encode(), digest_size=16).hexdigest()
    said = said_in(text)
    if said.digests:
        found.said[place.column] = said
    else:
        rule, do = "the report has no word", "Blank the cell: training refuses a report without a letter or digit"
        found.add("error", rule, do, place=place)
    found.named[place.column] = frozenset(IDENTIFIER.findall(text)[:MOST_WORDS])


def _check_volume(found: CaseFindings, place: Place, volume: Volume, *, spec: ModalitySpec | TargetSpec) -> None:
    for note in volume.notes:
        found.count("note", note, "Nothing, if the images look right", place=place)
    for warning in getattr(volume.header, "warnings", ()):
        found.count("warning", warning, "Look at the image, and save it again if it is wrong", place=place)
    if isinstance(spec, TargetSpec):
        _check_codes(found, place, volume, spec=spec)
        return
    array = volume.array
    if array.shape[0] != spec.channels:
        rule = f"the image has {array.shape[0]} channel(s), the yaml says {spec.channels}"
        found.add("error", rule, "Correct `channels` in the yaml, or convert the image", place=place)
    if spec.spatial_dims == 2 and array.shape[3] != 1:
        rule = f"the image has {array.shape[3]} slices, the yaml says 2-D"
        found.add("error", rule, "Set spatial_dims: 3 in the yaml", place=place)
    if max(array.shape[1:]) == 1:
        found.add("error", "the image is a single voxel", "Export the image again, or blank the cell", place=place)
        return
    low, high = array.min(), array.max()
    if low == high:
        do = "Blank the cell if this sequence is absent: zeros are not absence" if low == 0 else "Look at the image"
        found.add("warning", f"every voxel is {low}", do, place=place)
    found.pictures.append(picture_of(array, column=spec.name, file=place.file))


def _check_codes(found: CaseFindings, place: Place, volume: Volume, *, spec: TargetSpec) -> None:
    codes = label_codes(volume, path=Path(place.file), subject=found.case.id, modality=spec.name)
    known = {code for group in spec.codes for code in group}
    found.regions[spec.name] = tuple(bool(set(group) & set(codes)) for group in spec.codes)
    strange = [code for code in codes if code not in known | {0, *spec.other}]
    if strange:
        rule = f"the label map holds {', '.join(map(str, strange[:FEW]))}, which is in no class"
        do = f"Add it to codes of {spec.name} in the yaml"
        bits = 8 * volume.array.dtype.itemsize if volume.array.dtype.kind == "u" else 0
        if wrapped := [code for code in strange if code in WRAPPED.get(bits, ())]:
            rule += f"; {wrapped[-1]} is what {wrapped[-1] - 2**bits} becomes in {bits} bits without sign"
            do = "Save the label map in a signed type, or with 0 for what is not labelled"
        found.add("error", rule, do, place=place)
    elif not known & set(codes) - {0}:
        found.count("note", "the label map is empty", "Nothing, if there is nothing to see", place=place)
    if 0 not in codes and 0 not in known and volume.array.size > 1:
        found.add("warning", "the label map has no background", "Look at it: everything is labelled", place=place)


def _corners(header: Header) -> Affine:
    """(8, 3): the outermost voxel centres in mm."""
    ends = np.array(np.meshgrid(*[(0, n - 1) for n in header.shape], indexing="ij")).reshape(3, 8)
    corners: Affine = (header.affine[:3, :3] @ ends + header.affine[:3, 3:]).T
    return corners


def _check_frame(
    found: CaseFindings,
    place: Place,
    header: Header,
    *,
    spec: ModalitySpec | TargetSpec,
    frames: dict[str, tuple[str, Header]],
) -> None:
    """Whether an image lies on the first one of its grid, a label map on the first image. frames: {grid: first image}."""
    if isinstance(spec, ModalitySpec):
        name, first = frames.setdefault(spec.grid, (spec.name, header))
    elif frames:
        name, first = next(iter(frames.values()))
    else:
        return
    if not (header.has_spacing and first.has_spacing):
        if header.shape != first.shape:
            rule = f"the size is {header.shape}, that of {name} is {first.shape}, and pictures do not say where they lie"
            found.add("error", rule, "Bring them to one size, or give them different grids in the yaml", place=place)
        return
    mine, other = _corners(header), _corners(first)
    if (mine.max(axis=0) < other.min(axis=0)).any() or (other.max(axis=0) < mine.min(axis=0)).any():
        found.add("error", f"the image lies wholly outside {name}", "Register the images, or repair the affine", place=place)
    elif header.shape != first.shape:
        rule = f"the size or spacing differs from that of {name}"
        found.count("note", rule, "Nothing: it is resampled", place=place)
    elif (distance := float(np.abs(mine - other).max())) >= FAR_MM * (1 - ALIKE_MM):
        rule = f"the image lies up to {distance:.1f} mm off {name}"
        found.add("warning", rule, "Look at both, one over the other", place=place)
    elif distance > ALIKE_MM:
        found.count("note", f"the image lies less than 1 mm off {name}", "Nothing: it is resampled", place=place)
