"""`check_cohort()`: reads every file of a cohort to its last byte and says what is wrong, where, and what to do.

One module for each kind of finding: `integrity_table` (what the table shows), `integrity_files` (the files of one case),
`integrity_duplicates` and `integrity_contrast` (what only all cases together show). `docs/data.md` lists what is found.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

from comodal.data.cohort import Cohort
from comodal.data.integrity_contrast import check_contrasts
from comodal.data.integrity_defects import CaseFindings, Defect, Findings, Level, Place
from comodal.data.integrity_duplicates import check_duplicates
from comodal.data.integrity_table import UNSPLIT, check_table, class_counts
from comodal.data.integrity_texts import TextFacts, facts_of
from comodal.data.integrity_workers import checked

__all__ = ["CheckReport", "Defect", "Level", "check_cohort"]


@dataclass(frozen=True)
class CheckReport:
    """What `check_cohort` found.

    Attributes:
        presence: {case id: {modality or target: whether its cell is filled}}.
        defects: Errors first.
        class_counts: {target: {class: {split: number of cases that are known to have it}}}.
        region_counts: {target: {region: {split: number of cases in which it has a voxel}}}. Cases without a split are
            counted as "unsplit", here and in `class_counts`.
        texts: {text modality: how long its reports are, and how alike}.
    """

    presence: dict[str, dict[str, bool]]
    defects: tuple[Defect, ...] = ()
    class_counts: dict[str, dict[str, dict[str, int]]] = field(default_factory=dict)
    region_counts: dict[str, dict[str, dict[str, int]]] = field(default_factory=dict)
    texts: dict[str, TextFacts] = field(default_factory=dict)

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

    def patterns(self) -> list[tuple[tuple[str, ...], int]]:
        """Which modalities and targets cases have together, and how many cases have exactly these; the most frequent first."""
        seen = Counter(tuple(name for name, there in row.items() if there) for row in self.presence.values())
        return sorted(seen.items(), key=lambda item: (-item[1], -len(item[0]), item[0]))


def check_cohort(
    cohort: Cohort, on_progress: Callable[[int, int], None] | None = None, *, workers: int | None = 1
) -> CheckReport:
    """Checks a cohort.

    Every file is read to its end, and of each only a few hundred bytes are kept. Found are: damaged and missing files; label
    values that the yaml does not know; images of one grid that do not lie on each other; constant images; the same pixels in
    two cases, or nearly so; sequences that look swapped; patients on both sides of a split; modalities that tell the class by
    being there; modalities and classes that occur nowhere; names that a spreadsheet has damaged.

    Args:
        cohort: As loaded.
        on_progress: Called with (cases done, all cases) after each case.
        workers: Processes; 0 and 1 read in this one, None takes what the machine has where that is worth it. A script that
            asks for several must guard its own code with `if __name__ == "__main__"`, since each process imports it.

    Returns:
        The report; nothing is raised for a defect.

    Raises:
        ConfigError: A negative number of workers.
        ComodalError: A worker was killed.
    """
    findings = Findings(cohort)
    check_table(findings)
    subjects: dict[str, set[str]] = {}
    for case in cohort.cases:
        if _is_identifier(case.subject):
            subjects.setdefault(case.subject, set()).add(case.group)
    for number, found in enumerate(checked(cohort, workers), start=1):
        _take(findings, found, subjects)
        if on_progress is not None:
            on_progress(number, len(cohort))
    check_duplicates(findings)
    check_contrasts(findings)
    names = [spec.name for spec in cohort.meta.columns]
    presence = {case.id: {name: name in case.cells for name in names} for case in cohort.cases}
    texts = {name: facts_of(reports) for name, reports in findings.said.items()}
    return CheckReport(presence, findings.sorted(), class_counts(findings), findings.regions, texts)


def _is_identifier(subject: str) -> bool:
    """Whether a word in a report can only be this subject: a short number may be a size or a year."""
    digits = sum(sign.isdigit() for sign in subject)
    return bool(digits) and (digits >= 6 or (digits < len(subject) and len(subject) >= 4))


def _take(findings: Findings, found: CaseFindings, subjects: dict[str, set[str]]) -> None:
    """Adds what one case showed. subjects: {identifier: its patients}."""
    case = found.case
    findings.defects += found.defects
    for level, column, rule, do in found.shared:
        findings.repeated[level, column, rule, do].append(case.id)
    for picture in found.pictures:
        findings.pictures[picture.column].append((case, picture))
    for column, digest in found.texts.items():
        findings.texts[digest].append((case, column))
    for column, said in found.said.items():
        findings.said[column].append(said)
    for column, words in found.named.items():
        others = sorted(word for word in words & subjects.keys() if case.group not in subjects[word])
        if others:
            rule = f"the report names {others[0]}, another subject of the cohort"
            findings.add("warning", rule, "Read it: it may be the report of another patient", place=Place(case, column))
    for spec in findings.cohort.meta.targets:
        if spec.name in found.regions:
            counts = findings.regions.setdefault(spec.name, {name: {} for name in spec.classes})
            for name, there in zip(spec.classes, found.regions[spec.name], strict=True):
                split = case.split or UNSPLIT
                counts[name][split] = counts[name].get(split, 0) + int(there)
