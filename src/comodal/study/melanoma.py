"""Melanoma from the true seven-point criteria of Derm7pt: what a perfect reader of the criteria reaches, per split.

The table of Derm7pt is enough; photographs are not opened. On the release itself (1011 rows) every number stands beside the one
that was computed from the tables of the code published with Mallya and Hamarneh (2022). Those tables lack nine cases: an
ignore list meant to remove the lesions whose clinical photograph is a copy of the dermoscopic one, and named each by the row
of a spreadsheet, one too far. Eight copies stayed, and eight lesions with two photographs went. So there are two splits here:
the official one, and that of these tables, which is made by removing the same nine rows.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from comodal import data
from comodal.data.cohort import Case, Cohort
from comodal.data.derm7pt import ScoreMismatch, score_mismatches
from comodal.data.derm7pt_criteria import load_criteria
from comodal.data.tables import read_table
from comodal.errors import DataError, message
from comodal.evaluation.melanoma import MelanomaInference, melanoma_inference

DIAGNOSIS = "diagnosis"
EVERY = "all"
SPLITS = ("train", "val", "test", EVERY)
OFFICIAL, PUBLISHED = "official", "published tables"
RELEASE = 1011
REMOVED = ("566", "801", "825", "828", "834", "835", "840", "845", "852")
# {split: cases, melanomas, AUROC, sensitivity and specificity at 1, at 3, balanced accuracy at 1, at 3}
REFERENCE: dict[str, tuple[float, ...]] = {
    "train": (408, 89, 0.925, 1.000, 0.423, 0.944, 0.818, 0.712, 0.881),
    "val": (202, 61, 0.929, 0.984, 0.369, 0.902, 0.858, 0.676, 0.880),
    "test": (392, 100, 0.921, 0.990, 0.411, 0.940, 0.815, 0.700, 0.878),
    EVERY: (1002, 250, 0.924, 0.992, 0.408, 0.932, 0.824, 0.700, 0.878),
}
NAMES = (
    "cases", "melanomas", "AUROC", "sensitivity at 1", "specificity at 1", "sensitivity at 3", "specificity at 3",
    "balanced accuracy at 1", "balanced accuracy at 3",
)  # fmt: skip
REFERENCE_SIZES = {OFFICIAL: {"train": 413, "val": 203, "test": 395, EVERY: 1011}}
# Of the largest class among the test cases of the published tables: the accuracy that any method must beat.
REFERENCE_LARGEST = {
    "pigment_network": 0.393, "blue_whitish_veil": 0.811, "vascular_structures": 0.796, "pigmentation": 0.569, "streaks": 0.653,
    "dots_and_globules": 0.452, "regression_structures": 0.732, DIAGNOSIS: 0.559,
}  # fmt: skip
# {split: {target: cases of each class, in the order of the classes}}
REFERENCE_COUNTS: dict[str, dict[str, tuple[int, ...]]] = {
    "train": {
        "pigment_network": (158, 158, 92), "blue_whitish_veil": (334, 74), "vascular_structures": (344, 42, 22),
        "pigmentation": (251, 44, 113), "streaks": (271, 38, 99), "dots_and_globules": (83, 155, 170),
        "regression_structures": (314, 94), DIAGNOSIS: (19, 255, 89, 29, 16),
    },
    "test": {
        "pigment_network": (154, 146, 92), "blue_whitish_veil": (318, 74), "vascular_structures": (312, 50, 30),
        "pigmentation": (223, 46, 123), "streaks": (256, 42, 94), "dots_and_globules": (97, 118, 177),
        "regression_structures": (287, 105), DIAGNOSIS: (16, 219, 100, 38, 19),
    },
}  # fmt: skip
_TOLERANCE = 0.0005 + 1e-9  # references have three decimals


@dataclass(frozen=True)
class Compared:
    """A number of ours beside its reference.

    Attributes:
        name: What it is.
        ours: None where it is not defined.
        reference: None where there is none.
    """

    name: str
    ours: float | None
    reference: float | None = None

    @property
    def verdict(self) -> str:
        """Either "equal" to the digits of the reference, "differs", or "" without a reference."""
        if self.reference is None:
            return ""
        return "equal" if self.ours is not None and abs(self.ours - self.reference) <= _TOLERANCE else "differs"


@dataclass(frozen=True)
class MelanomaLine:
    """One split.

    Attributes:
        variant: OFFICIAL or PUBLISHED.
        split: One of SPLITS.
        found: AUROC, and sensitivity and specificity at 1 and 3.
        numbers: The same in the order of NAMES, beside the references.
        counts: {target: {class: cases}}.
        largest: {target: part of the cases that have the largest class}, beside the references.
        differing: Targets whose counts differ from the reference; none where there is none.
    """

    variant: str
    split: str
    found: MelanomaInference
    numbers: tuple[Compared, ...]
    counts: Mapping[str, Mapping[str, int]]
    largest: Mapping[str, Compared]
    differing: tuple[str, ...]


@dataclass(frozen=True)
class Suspicious:
    """Lesions that a reader of results must know of.

    Attributes:
        copied: {case_num of lesions whose two photographs are one file: what the table notes about it}.
        shared: {photograph: case_nums of the several lesions that name it}.
        parted: {case_id: case_nums of its lesions}, where the official split parts them.
        kept: Copies that the published tables still have.
        lost: Lesions with two photographs that the published tables lack.
    """

    copied: Mapping[str, str]
    shared: Mapping[str, tuple[str, ...]]
    parted: Mapping[str, tuple[str, ...]]
    kept: tuple[str, ...]
    lost: tuple[str, ...]


@dataclass(frozen=True)
class MelanomaReproduction:
    """The checklist on a table of Derm7pt.

    Attributes:
        root: As the cohort says it.
        rows: Of the table.
        synthetic: Whether it is a phantom.
        release: Whether it has the rows of release_v0, so that the references apply.
        lines: Official split, then the published tables' where it is the release; SPLITS in order, as far as they have cases.
        mismatches: Rows whose seven_point_score is not the sum of the points; None where the table has no scores.
        scored: Rows that have a score.
        suspicious: See there.
        notes: What indexing said.
    """

    root: str
    rows: int
    synthetic: bool
    release: bool
    lines: tuple[MelanomaLine, ...]
    mismatches: tuple[ScoreMismatch, ...] | None
    scored: int
    suspicious: Suspicious
    notes: tuple[str, ...]

    @property
    def differences(self) -> tuple[str, ...]:
        """Every number that has a reference and differs from it, as one line each."""
        found = []
        for line in self.lines:
            where = f"{line.variant}, {line.split}"
            compared = [*line.numbers, *line.largest.values()]
            found += [f"{where}: {one.name} {one.ours} for {one.reference}" for one in compared if one.verdict == "differs"]
            found += [f"{where}: counts of {target}" for target in line.differing]
        return tuple(found)


def infer_melanoma(root: Path) -> MelanomaReproduction:
    """Indexes a Derm7pt folder with its official split, and scores the true criteria.

    Args:
        root: As for the layout derm7pt: release_v0, the phantom skin, or any folder with meta.csv.

    Returns:
        Numbers per split, label counts, and what is suspicious.

    Raises:
        DataError: As for the layout; or no case has a diagnosis and all criteria.
    """
    cohort = data.index("derm7pt", root)
    base = Path(cohort.meta.root)
    table = next(file for file in (base / "meta" / "meta.csv", base / "meta.csv") if file.is_file())
    rows = read_table(table)[1]
    synthetic = any(note.startswith("synthetic") for note in cohort.meta.notes)
    release = len(rows) == RELEASE and not synthetic
    names = (DIAGNOSIS, *load_criteria().criteria)
    cases = [case for case in cohort.cases if all(name in case.cells for name in names)]
    if not cases:
        do = "Restore the table of the release"
        raise DataError(message("--data", "have a lesion with a diagnosis and all criteria", "none", file=str(table), do=do))
    variants = {OFFICIAL: cases}
    if release:
        variants[PUBLISHED] = [case for case in cases if case.id not in REMOVED]
    lines = []
    for variant, known in variants.items():
        for split in SPLITS:
            chosen = [case for case in known if split in (EVERY, case.split)]
            lines += [_line(cohort, chosen, variant, split, release=release)] if chosen else []
    scored = sum(bool(row.get("seven_point_score")) for row in rows)
    return MelanomaReproduction(
        root=cohort.meta.root,
        rows=len(rows),
        synthetic=synthetic,
        release=release,
        lines=tuple(lines),
        mismatches=tuple(score_mismatches(root)) if scored else None,
        scored=scored,
        suspicious=_suspicious(rows, cohort, release=release),
        notes=tuple(cohort.meta.notes),
    )


def _line(cohort: Cohort, cases: Sequence[Case], variant: str, split: str, *, release: bool) -> MelanomaLine:
    """One split of one variant; cases have a diagnosis and all criteria."""
    criteria = {name: [case.cells[name] for case in cases] for name in load_criteria().criteria}
    melanoma = np.array([case.cells[DIAGNOSIS] == load_criteria().diagnosis.melanoma for case in cases])
    found = melanoma_inference(criteria, melanoma)
    at_1, at_3 = found.calls
    ours = (
        found.n, found.n_pos, found.auroc_integer, at_1.sensitivity, at_1.specificity, at_3.sensitivity, at_3.specificity,
        at_1.balanced_accuracy, at_3.balanced_accuracy,
    )  # fmt: skip
    theirs: tuple[float | None, ...] = (None,) * len(NAMES)
    if variant == PUBLISHED:
        theirs = REFERENCE[split]
    elif release:
        theirs = (REFERENCE_SIZES[OFFICIAL][split], *theirs[1:])
    counts = {}
    for target in cohort.targets:
        counted = Counter(case.cells[target.name] for case in cases)
        counts[target.name] = {label: counted[label] for label in target.classes}
    shares = REFERENCE_LARGEST if variant == PUBLISHED and split == "test" else {}
    known = REFERENCE_COUNTS.get(split, {}) if variant == PUBLISHED else {}
    return MelanomaLine(
        variant=variant,
        split=split,
        found=found,
        numbers=tuple(Compared(name, a, b) for name, a, b in zip(NAMES, ours, theirs, strict=True)),
        counts=counts,
        largest={
            name: Compared(f"largest class of {name}", max(of.values()) / len(cases), shares.get(name))
            for name, of in counts.items()
        },
        differing=tuple(name for name, of in known.items() if tuple(counts[name].values()) != of),
    )


def _suspicious(rows: Sequence[Mapping[str, str]], cohort: Cohort, *, release: bool) -> Suspicious:
    """From the names in the table alone; copies of other names are found by the layout where there are photographs."""
    copied, named, lesions = {}, defaultdict[str, list[str]](list), defaultdict[str, list[str]](list)
    for row in rows:
        number = row["case_num"]
        photographs = {row[column].casefold() for column in ("clinic", "derm") if row[column]}
        if len(photographs) == 1 and row["clinic"] and row["derm"]:
            copied[number] = row.get("notes", "")
        for photograph in sorted(photographs):
            named[photograph].append(number)
        if row.get("case_id"):
            lesions[row["case_id"]].append(number)
    split = {case.id: case.split for case in cohort.cases}
    parted = {name: tuple(found) for name, found in lesions.items() if len({split[n] for n in found if split.get(n)}) > 1}
    return Suspicious(
        copied=copied,
        shared={name: tuple(found) for name, found in named.items() if len(found) > 1},
        parted=parted,
        kept=tuple(number for number in copied if number not in REMOVED) if release else (),
        lost=tuple(number for number in REMOVED if number not in copied) if release else (),
    )
