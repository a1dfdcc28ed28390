"""`check_cohort()`: reads every file of a cohort to its last byte and says what is wrong, where, and what to do."""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np

from comodal.data.cohort import Case, Cohort, ModalitySpec, TargetSpec
from comodal.data.geometry import Volume
from comodal.data.reading import label_codes, read_features, read_text, read_volume
from comodal.errors import DataError
from comodal.modality import subset_name

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


@dataclass
class _Findings:
    """What is collected on the way through the cohort."""

    cohort: Cohort
    defects: list[Defect] = field(default_factory=list)
    pixels: dict[str, list[tuple[Case, str]]] = field(default_factory=lambda: defaultdict(list))
    empty: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))

    def add(self, level: Level, rule: str, do: str, *, case: Case | None = None, column: str = "", file: str = "") -> None:
        self.defects.append(Defect(level, file, case.id if case else "", column, rule, do))


def check_cohort(cohort: Cohort, on_progress: Callable[[int, int], None] | None = None) -> CheckReport:
    """Checks a cohort.

    Every file is read to its end. Found are: damaged and missing files; label values that the yaml does not know; images of one
    grid that do not lie on each other; constant images; the same pixels in two cases, or in two modalities of a case; patients on
    both sides of a split; modalities and classes that occur nowhere.

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
    for column, ids in findings.empty.items():
        shown = ", ".join(ids[:FEW]) + (", ..." if len(ids) > FEW else "")
        findings.add("note", f"{len(ids)} of {len(cohort)} label maps are empty ({shown})", "Nothing, if that is right", column=column)
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
        there = [case for case in cohort.cases if spec.name in case.cells]
        if not there:
            findings.add("error", f"no case has {spec.name}", f"Remove {spec.name} from the table and its yaml", column=spec.name)
        if isinstance(spec, TargetSpec) and not spec.is_segmentation and there:
            used = {name.strip() for case in there for name in case.cells[spec.name].split(";")}
            for name in spec.classes:
                if name not in used:
                    findings.add("warning", f"no case is {name}", "Remove the class, or add cases", column=spec.name)
            _check_shortcut(findings, spec)
    names = [spec.name for spec in cohort.meta.modalities]
    for case in cohort.cases:
        if not any(name in case.cells for name in names):
            findings.add("error", "the case has no modality", "Remove the row, or add a path", case=case)
    sides: dict[str, set[str]] = defaultdict(set)
    for case in cohort.cases:
        if case.split:
            sides[case.group].add(case.split)
    for group, splits in sides.items():
        if len(splits) > 1:
            rule = f"patient {group} is in {' and '.join(sorted(splits))}"
            findings.add("error", rule, "Put all cases of a patient into one split")


def _check_shortcut(findings: _Findings, spec: TargetSpec) -> None:
    """A modality that only one class ever has tells the class by its mere presence."""
    cases = [case for case in findings.cohort.cases if spec.name in case.cells]
    for modality in findings.cohort.meta.modalities:
        having = {case.cells[spec.name] for case in cases if modality.name in case.cells}
        lacking = {case.cells[spec.name] for case in cases if modality.name not in case.cells}
        if spec.kind == "class" and len(spec.classes) > 1 and lacking and len(having) == 1:
            rule = f"only cases of class {having.pop()} have {modality.name}: its presence gives the answer away"
            findings.add("warning", rule, "Leave the modality out, or find it for other classes", column=modality.name)


def _check_case(findings: _Findings, case: Case) -> None:
    """Every file of one case, one volume in memory at a time."""
    frames: dict[str, tuple[str, Volume | None, np.ndarray]] = {}
    for spec in findings.cohort.meta.columns:
        if spec.name not in case.cells or not findings.cohort.holds_files(spec.name):
            continue
        path = Path(findings.cohort.root, case.cells[spec.name])
        try:
            path = findings.cohort.file(case, spec.name)
            volume = _read(spec, path, case)
            if volume is not None:
                _check_volume(findings, case, spec, path, volume)
                _check_frame(findings, case, spec, path, volume, frames)
        except DataError as error:
            rule, _, do = str(error).rpartition(". ")
            findings.add("error", rule, do, case=case, column=spec.name, file=str(path))


def _read(spec: ModalitySpec | TargetSpec, path: Path, case: Case) -> Volume | None:
    kind = spec.kind if isinstance(spec, ModalitySpec) else "image"
    if kind == "text":
        read_text(path, subject=case.id, modality=spec.name)
    elif kind == "features":
        read_features(path, subject=case.id, modality=spec.name)
    elif kind == "image":
        return read_volume(path, files=spec.files, channel=spec.channel, subject=case.id, modality=spec.name)
    return None
