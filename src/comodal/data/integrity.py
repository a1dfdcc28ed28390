"""`check_cohort()`: reads every file of a cohort to its last byte and says what is wrong, where, and what to do."""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np

from comodal.data.cohort import Case, Cohort, ModalitySpec, TargetSpec
from comodal.data.geometry import Affine, Header, Volume
from comodal.data.reading import label_codes, read_features, read_text, read_volume
from comodal.errors import DataError

Level = Literal["note", "warning", "error"]
FAR_MM = 1.0  # co-registered images whose corners lie further apart than this are worth a warning
FEW = 5


@dataclass(frozen=True)
class Defect:
    """One finding.

    Attributes:
        level: "error" where training or evaluation would fail or mislead, "warning" where it may, "note" otherwise.
        file: Path, "" where it is not about one file.
        subject: Case id, "" where it is about the cohort.
        modality: Modality or target, "" where it is about the case.
        rule: What is the matter, one sentence.
        do: One thing to do.
    """

    level: Level
    file: str
    subject: str
    modality: str
    rule: str
    do: str


@dataclass(frozen=True)
class CheckReport:
    """What `check_cohort` found.

    Attributes:
        presence: {case id: {modality or target: whether its cell is filled}}.
        defects: Errors first.
    """

    presence: dict[str, dict[str, bool]]
    defects: tuple[Defect, ...] = ()

    @property
    def ok(self) -> bool:
        """True without errors."""
        return not any(defect.level == "error" for defect in self.defects)

    def counts(self) -> dict[str, int]:
        """{modality or target: number of cases that have it}."""
        totals: Counter[str] = Counter()
        for row in self.presence.values():
            totals.update({name: int(there) for name, there in row.items()})
        return dict(totals)


@dataclass(frozen=True)
class _Place:
    """What a defect is about."""

    case: Case | None = None
    column: str = ""
    file: str = ""


@dataclass
class _Findings:
    """What is collected on the way through the cohort."""

    cohort: Cohort
    defects: list[Defect] = field(default_factory=list)
    pixels: dict[str, list[tuple[Case, str]]] = field(default_factory=lambda: defaultdict(list))
    repeated: dict[tuple[Level, str, str, str], list[str]] = field(default_factory=lambda: defaultdict(list))

    def add(self, level: Level, rule: str, do: str, *, place: _Place = _Place()) -> None:
        """One defect of one place."""
        self.defects.append(Defect(level, place.file, place.case.id if place.case else "", place.column, rule, do))

    def count(self, level: Level, rule: str, do: str, *, place: _Place) -> None:
        """A finding that many cases may share: it becomes one defect with their number."""
        self.repeated[level, place.column, rule, do].append(place.case.id if place.case else "")


def check_cohort(cohort: Cohort, on_progress: Callable[[int, int], None] | None = None) -> CheckReport:
    """Checks a cohort.

    Every file is read to its end. Found are: damaged and missing files; label values that the yaml does not know; images of one
    grid that do not lie on each other; constant images; the same pixels in two cases, or in two modalities of a case; patients
    on both sides of a split; modalities and classes that occur nowhere.

    Args:
        cohort: As loaded.
        on_progress: Called with (cases done, all cases) after each case.

    Returns:
        The report; nothing is raised for a defect.
    """
    findings = _Findings(cohort)
    _check_table(findings)
    for number, case in enumerate(cohort.cases, start=1):
        _check_case(findings, case)
        if on_progress is not None:
            on_progress(number, len(cohort))
    _check_duplicates(findings)
    for (level, column, rule, do), ids in findings.repeated.items():
        shown = ", ".join(ids[:FEW]) + (", ..." if len(ids) > FEW else "")
        rule = f"{rule} in {len(ids)} of {len(cohort)} cases ({shown})"
        findings.add(level, rule, do, place=_Place(column=column))
    order = ("error", "warning", "note")
    names = [spec.name for spec in cohort.meta.columns]
    presence = {case.id: {name: name in case.cells for name in names} for case in cohort.cases}
    return CheckReport(presence, tuple(sorted(findings.defects, key=lambda defect: order.index(defect.level))))


def _check_table(findings: _Findings) -> None:
    """What the table alone shows."""
    cohort = findings.cohort
    if len(cohort) < 2:
        findings.add("error", f"the cohort has {len(cohort)} case(s)", "Add cases: training and test need at least one each")
    for spec in cohort.meta.columns:
        if not any(spec.name in case.cells for case in cohort.cases):
            do = f"Remove {spec.name} from the table and its yaml"
            findings.add("error", f"no case has {spec.name}", do, place=_Place(column=spec.name))
        elif isinstance(spec, TargetSpec) and not spec.is_segmentation:
            _check_classes(findings, spec)
    names = [spec.name for spec in cohort.meta.modalities]
    for case in cohort.cases:
        if not any(name in case.cells for name in names):
            findings.add("error", "the case has no modality", "Remove the row, or add a path", place=_Place(case))
    sides: dict[str, set[str]] = defaultdict(set)
    for case in cohort.cases:
        if case.split:
            sides[case.group].add(case.split)
    for group, splits in sides.items():
        if len(splits) > 1:
            rule = f"patient {group} is in {' and '.join(sorted(splits))}"
            findings.add("error", rule, "Put all cases of a patient into one split")


def _check_classes(findings: _Findings, spec: TargetSpec) -> None:
    """Classes that nobody has; and modalities that only one class has, so that their mere presence tells the class."""
    cases = [case for case in findings.cohort.cases if spec.name in case.cells]
    used = {name.strip() for case in cases for name in case.cells[spec.name].split(";")}
    for name in spec.classes:
        if name not in used:
            findings.add("warning", f"no case is {name}", "Remove the class, or add cases", place=_Place(column=spec.name))
    for modality in findings.cohort.meta.modalities:
        having = {case.cells[spec.name] for case in cases if modality.name in case.cells}
        lacking = {case.cells[spec.name] for case in cases if modality.name not in case.cells}
        if spec.kind == "class" and lacking - having and len(having) == 1:
            rule = f"only cases of class {having.pop()} have {modality.name}: its presence gives the answer away"
            do = "Leave the modality out, or find it for other classes"
            findings.add("warning", rule, do, place=_Place(column=modality.name))


def _check_case(findings: _Findings, case: Case) -> None:
    """Every file of one case, one volume in memory at a time."""
    frames: dict[str, tuple[str, Header]] = {}
    for spec in findings.cohort.meta.columns:
        if spec.name not in case.cells or not findings.cohort.holds_files(spec.name):
            continue
        place = _Place(case, spec.name, str(findings.cohort.root / case.cells[spec.name]))
        try:
            volume = _read(spec, findings.cohort.file(case, spec.name), case)
            if volume is not None:
                _check_volume(findings, place, volume, spec=spec)
                _check_frame(findings, place, volume.header, spec=spec, frames=frames)
        except DataError as error:
            rule, _, do = str(error).removesuffix(".").rpartition(". ")
            findings.add("error", rule, do, place=place)


def _read(spec: ModalitySpec | TargetSpec, path: Path, case: Case) -> Volume | None:
    kind = spec.kind if isinstance(spec, ModalitySpec) else "image"
    if kind == "text":
        read_text(path, subject=case.id, modality=spec.name)
    elif kind == "features":
        read_features(path, subject=case.id, modality=spec.name)
    elif kind == "image":
        return read_volume(path, files=spec.files, channel=spec.channel, subject=case.id, modality=spec.name)
    return None


def _check_volume(findings: _Findings, place: _Place, volume: Volume, *, spec: ModalitySpec | TargetSpec) -> None:
    for note in volume.notes:
        findings.count("note", note, "Nothing, if the images look right", place=place)
    if isinstance(spec, TargetSpec):
        _check_codes(findings, place, volume, spec=spec)
        return
    array = volume.array
    if array.shape[0] != spec.channels:
        rule = f"the image has {array.shape[0]} channel(s), the yaml says {spec.channels}"
        findings.add("error", rule, "Correct `channels` in the yaml, or convert the image", place=place)
    if spec.spatial_dims == 2 and array.shape[3] != 1:
        rule = f"the image has {array.shape[3]} slices, the yaml says 2-D"
        findings.add("error", rule, "Set spatial_dims: 3 in the yaml", place=place)
    low, high = array.min(), array.max()
    if low == high:
        do = "Blank the cell if this sequence is absent: zeros are not absence" if low == 0 else "Look at the image"
        findings.add("warning", f"every voxel is {low}", do, place=place)
    elif place.case is not None:
        content = hashlib.blake2b(np.ascontiguousarray(array).data, digest_size=16)
        content.update(repr((array.shape, array.dtype.str)).encode())
        findings.pixels[content.hexdigest()].append((place.case, spec.name))


def _check_codes(findings: _Findings, place: _Place, volume: Volume, *, spec: TargetSpec) -> None:
    found = label_codes(volume, path=Path(place.file), subject=place.case.id if place.case else "", modality=spec.name)
    known = {code for codes in spec.codes for code in codes}
    strange = [code for code in found if code not in known | {0}]
    if strange:
        rule = f"the label map holds {', '.join(map(str, strange[:FEW]))}, which is in no class"
        findings.add("error", rule, f"Add it to codes of {spec.name} in the yaml", place=place)
    elif not known & set(found) - {0}:
        findings.count("note", "the label map is empty", "Nothing, if there is nothing to see", place=place)


def _corners(header: Header) -> Affine:
    """(8, 3): the outermost voxel centres in mm."""
    ends = np.array(np.meshgrid(*[(0, n - 1) for n in header.shape], indexing="ij")).reshape(3, 8)
    corners: Affine = (header.affine[:3, :3] @ ends + header.affine[:3, 3:]).T
    return corners


def _check_frame(
    findings: _Findings,
    place: _Place,
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
            findings.add("error", rule, "Bring them to one size, or give them different grids in the yaml", place=place)
        return
    mine, other = _corners(header), _corners(first)
    if (mine.max(axis=0) < other.min(axis=0)).any() or (other.max(axis=0) < mine.min(axis=0)).any():
        findings.add("error", f"the image lies wholly outside {name}", "Register the images, or repair the affine", place=place)
    elif header.shape != first.shape:
        rule = f"the size or spacing differs from that of {name}"
        findings.count("note", rule, "Nothing: it is resampled", place=place)
    elif (distance := float(np.abs(mine - other).max())) > FAR_MM:
        rule = f"the image lies up to {distance:.1f} mm off {name}"
        findings.add("warning", rule, "Look at both, one over the other", place=place)


def _check_duplicates(findings: _Findings) -> None:
    """The same pixels under two names."""
    for (first, column), *others in findings.pixels.values():
        for case, other in others:
            place, rule = _Place(case, other), f"the pixels equal {column} of {first.id}"
            if case.id == first.id:
                do = "Blank the cell of the copy: it would leak into subsets without it"
                findings.add("warning", f"the pixels equal {column}", do, place=place)
            elif case.group == first.group:
                findings.add("warning", rule, "Remove one of the two", place=place)
            else:
                findings.add("error", rule, "Remove one, or give both one group: a split may part them", place=place)
