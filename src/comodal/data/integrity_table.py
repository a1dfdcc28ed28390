"""What the table of a cohort shows by itself: presence, classes, splits, names; no file is opened but the table."""

from __future__ import annotations

import math
import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable

from comodal.data.cohort import Case, TargetSpec, cell_paths, label_indices
from comodal.data.columns import unknown_indices
from comodal.data.integrity_defects import Findings, Place
from comodal.data.tables import spreadsheet_safe, table_remarks
from comodal.errors import UserError

UNSPLIT = "unsplit"
# What a spreadsheet makes of an identifier: a number in powers of ten, a day, a fraction, an error.
DAMAGED = re.compile(
    r"\d([.,]\d+)?E\+?-?\d+|\d+[.,]0|#[A-Z/0!?]+|"
    r"\d{1,2}-(Jan|Feb|Mar|Apr|May|Jun|Jul|Aug|Sep|Oct|Nov|Dec)(-\d{2,4})?|"
    r"(Jan|Feb|Mar|Apr|May|Jun|Jul|Aug|Sep|Oct|Nov|Dec)-\d{2,4}",
    re.IGNORECASE,
)
# Presence of a modality that tells the class this well, in so many cases, is no accident.
TELLING, ENOUGH, UNLIKELY = 0.9, 20, 1e-3


def check_table(findings: Findings) -> None:
    """Adds what the table shows.

    Args:
        findings: Of the cohort.
    """
    _check_columns(findings)
    _check_presence(findings)
    _check_splits(findings)
    _check_names(findings)
    _check_file(findings)


def class_counts(findings: Findings) -> dict[str, dict[str, dict[str, int]]]:
    """{target: {class: {split: number of cases that are known to have it}}}; cases without a split are "unsplit".

    Args:
        findings: Of the cohort.
    """
    counts: dict[str, dict[str, dict[str, int]]] = {}
    for spec in findings.cohort.meta.targets:
        if spec.is_segmentation:
            continue
        per_class: dict[str, Counter[str]] = {name: Counter() for name in spec.classes}
        for case in findings.cohort.cases:
            for index in label_indices(spec, case.cells[spec.name]) if spec.name in case.cells else ():
                per_class[spec.classes[index]][case.split or UNSPLIT] += 1
        counts[spec.name] = {name: dict(counter) for name, counter in per_class.items()}
    return counts


def _check_columns(findings: Findings) -> None:
    cohort = findings.cohort
    if len(cohort) < 2:
        findings.add("error", f"the cohort has {len(cohort)} case(s)", "Add cases: training and test need at least one each")
    for spec in cohort.meta.columns:
        if not any(spec.name in case.cells for case in cohort.cases):
            do = f"Remove {spec.name} from the table and its yaml"
            findings.add("error", f"no case has {spec.name}", do, place=Place(column=spec.name))
        elif isinstance(spec, TargetSpec) and not spec.is_segmentation:
            _check_classes(findings, spec)


def _check_presence(findings: Findings) -> None:
    cohort = findings.cohort
    names = [spec.name for spec in cohort.meta.modalities if any(spec.name in case.cells for case in cohort.cases)]
    present = [sum(name in case.cells for name in names) for case in cohort.cases]
    for case, count in zip(cohort.cases, present, strict=True):
        if not count:
            findings.add("error", "the case has no modality", "Remove the row, or add a path", place=Place(case))
    if cohort.cases and max(present) < len(names):
        do = "Nothing, if the method learns from incomplete cases"
        findings.add("note", f"no case has all {len(names)} modalities", do)


def _check_classes(findings: Findings, spec: TargetSpec) -> None:
    """Classes that nobody has, or everybody; and modalities whose mere presence tells the class."""
    cases = [case for case in findings.cohort.cases if spec.name in case.cells]
    has = {case.id: label_indices(spec, case.cells[spec.name]) for case in cases}
    unknown = {case.id: unknown_indices(spec, case.cells[spec.name]) for case in cases}
    place, told = Place(column=spec.name), set[str]()
    for k, name in enumerate(spec.classes):
        known = [case for case in cases if k not in unknown[case.id]]
        having = [case for case in known if k in has[case.id]]
        if not having:
            findings.add("warning", f"no case is {name}", "Remove the class, or add cases", place=place)
        elif len(having) == len(known) and spec.kind != "multilabel":
            do = "Add cases of another class: with one class there is nothing to tell apart, and no AUROC"
            findings.add("error", f"every labelled case is {name}", do, place=place)
        elif len(having) == len(known):
            findings.add("warning", f"every labelled case has {name}", "Remove the class, or add cases without it", place=place)
        else:
            members = {case.id for case in having}
            rest = [case for case in known if case.id not in members]
            _check_shortcut(findings, spec, name=name, sides=(having, rest), told=told)


def _check_shortcut(
    findings: Findings, spec: TargetSpec, *, name: str, sides: tuple[list[Case], list[Case]], told: set[str]
) -> None:
    """Whether a modality is there, or lacking, in one class only, or nearly so. sides: cases with and without the class."""
    having, rest = sides
    for column in (modality.name for modality in findings.cohort.meta.modalities if modality.name not in told):
        inside, outside = (sum(column in case.cells for case in side) for side in sides)
        do = "Leave the modality out, or find it for other classes"
        lacking = spec.kind != "multilabel" and inside < len(having) and outside == len(rest)
        area = 0.5 + abs(inside / len(having) - outside / len(rest)) / 2
        if spec.kind != "multilabel" and inside and not outside:
            rule = f"only cases of class {name} have {column}: its presence gives the answer away"
        elif (
            not (lacking or area >= TELLING) or len(having) + len(rest) < ENOUGH or _chance(inside, outside, sides) >= UNLIKELY
        ):
            continue
        elif lacking:
            rule = f"only cases of class {name} lack {column} ({len(having) - inside} of {len(having)}): that gives them away"
            do = f"Judge methods on the cases that have {column} as well: what lacks it may differ in more, such as its source"
        else:
            rule = f"whether {column} is there tells {name} of {spec.name} from the rest with AUROC {area:.2f}"
        told.add(column)
        findings.add("warning", rule, do, place=Place(column=column))


def _chance(inside: int, outside: int, sides: tuple[list[Case], list[Case]]) -> float:
    """Fisher's exact test, two-sided: how likely a table as uneven as this one is, if presence and class are unrelated."""
    having, others = map(len, sides)
    total, drawn = having + others, inside + outside

    def log_probability(k: int) -> float:
        return _log_choose(having, k) + _log_choose(others, drawn - k) - _log_choose(total, drawn)

    limit = log_probability(inside) + 1e-7
    possible = range(max(0, drawn - others), min(having, drawn) + 1)
    return math.fsum(math.exp(p) for p in map(log_probability, possible) if p <= limit)


def _log_choose(n: int, k: int) -> float:
    return math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1)


def _check_splits(findings: Findings) -> None:
    cases = findings.cohort.cases
    sides: dict[str, set[str]] = defaultdict(set)
    sessions: dict[str, list[str]] = defaultdict(list)
    groups: dict[str, set[str]] = defaultdict(set)
    for case in cases:
        sessions[case.subject].append(case.id)
        groups[case.subject].add(case.group)
        if case.split:
            sides[case.group].add(case.split)
    for group, splits in sides.items():
        if len(splits) > 1:
            rule = f"patient {group} is in {' and '.join(sorted(splits))}"
            findings.add("error", rule, "Put all cases of a patient into one split")
    for subject, found in groups.items():
        if len(found) > 1:
            rule = f"subject {subject} is in several groups, so that a split may part the sessions"
            findings.add("error", rule, "Give all sessions of a patient one group")
    several = [subject for subject, ids in sessions.items() if len(ids) > 1]
    if several:
        rule = f"{len(several)} of {len(sessions)} subjects have several sessions ({_some(several)})"
        findings.add("note", rule, "Nothing: sessions of a patient stay on one side of every split")


def _some(names: list[str], few: int = 3) -> str:
    return ", ".join(names[:few]) + (", ..." if len(names) > few else "")


def _check_names(findings: Findings) -> None:
    """Names that a file system or a spreadsheet takes for one another or for something else."""
    cases = findings.cohort.cases
    ids = [case.id for case in cases]
    numbers = [name for name in ids if name.isdecimal()]
    same: tuple[tuple[str, Iterable[str], Callable[[str], str]], ...] = (
        ("differ only in upper and lower case", ids, lambda name: unicodedata.normalize("NFC", name).casefold()),
        ("differ only in zeros at the front", numbers, lambda name: name.lstrip("0")),
        ("are paths that differ only in upper and lower case", _paths(findings), str.casefold),
    )
    for what, names, key in same:
        for several in _collisions(names, key):
            rule = f"{' and '.join(several[:2])} {what}"
            findings.add("warning", rule, "Rename one: some systems take them for the same name")
    for what, column in (("subject", "subject"), ("session", "session"), ("patient", "group"), ("site", "site")):
        words = {getattr(case, column) for case in cases}
        if column == "group":
            words -= {case.subject for case in cases}
        if damaged := sorted(word for word in words if DAMAGED.fullmatch(word)):
            rule = f"{what} {_some(damaged)} looks like a number or date that a spreadsheet made"
            findings.add("warning", rule, "Correct it from the source, with the column formatted as text")
    cells = {*_paths(findings), *(word for c in cases for word in (c.subject, c.session, c.group, c.site))}
    if unsafe := sorted(word for word in cells if spreadsheet_safe(word) != word):
        rule = f"a spreadsheet may run {_some(unsafe)} as a formula"
        findings.add("warning", rule, "Rename it, so that it begins with a letter or digit")
    _check_forms(findings)


def _check_forms(findings: Findings) -> None:
    """Letters with accents have two spellings; a file is found by either, and both mean one name."""
    ids = [case.id for case in findings.cohort.cases]
    apart = [name for name in ids if unicodedata.normalize("NFC", name) != name]
    if apart:
        rule = f"{len(apart)} of {len(ids)} identifiers are written with separate accents ({_some(apart)})"
        findings.add("note", rule, "Nothing: files are found by either spelling")


def _paths(findings: Findings) -> set[str]:
    cohort = findings.cohort
    specs = [spec for spec in cohort.meta.columns if cohort.holds_files(spec.name)]
    return {path for case in cohort.cases for spec in specs for path in cell_paths(spec, case.cells.get(spec.name, "")) if path}


def _collisions(names: Iterable[str], key: Callable[[str], str]) -> list[list[str]]:
    """Different names of one key."""
    of_key: dict[str, set[str]] = defaultdict(set)
    for name in names:
        of_key[key(name)].add(name)
    return [sorted(several) for several in of_key.values() if len(several) > 1]


def _check_file(findings: Findings) -> None:
    """How the table itself is written."""
    path = findings.cohort.path
    if path is None or not path.is_file():
        return
    try:
        remarks = table_remarks(path)
    except UserError:  # it was read before and has changed since
        return
    for level, rule, do in remarks:
        findings.add(level, rule, do, place=Place(file=str(path)))
