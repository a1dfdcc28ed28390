"""What a check finds: `Defect`, and the two places where defects are gathered, of one case and of the cohort."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

from comodal.data.cohort import Case, Cohort
from comodal.data.integrity_texts import Said

Level: TypeAlias = Literal["note", "warning", "error"]
LEVELS: tuple[Level, ...] = ("error", "warning", "note")
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
class Place:
    """What a defect is about."""

    case: Case | None = None
    column: str = ""
    file: str = ""


@dataclass(frozen=True)
class Picture:
    """What is kept of an image once it has been read, a few hundred bytes.

    Attributes:
        column: Its modality.
        file: Its path.
        digest: Of all its voxels; "" where they are all equal, since two black images are no duplicates.
        signature: Means over blocks, in standard deviations from the mean of the image, as int8.
        contrast: How its grey values are spread, whatever their unit.
        lowest: Smallest value.
        air: Share of the voxels below -500, as air is in CT.
    """

    column: str
    file: str
    digest: str
    signature: bytes
    contrast: tuple[float, ...]
    lowest: float
    air: float


@dataclass
class CaseFindings:
    """What the files of one case showed. It travels between processes, so that it holds no array and no text.

    Attributes:
        case: The case.
        defects: Of its own.
        shared: (level, column, rule, what to do) of findings that many cases may share and that become one defect.
        pictures: One per image that could be read.
        texts: {column: digest} of its reports.
        said: {column: what is kept of the sentences of its report}.
        named: {column: words of its reports that look like identifiers}.
        regions: {target: whether each class has a voxel}.
    """

    case: Case
    defects: list[Defect] = field(default_factory=list)
    shared: list[tuple[Level, str, str, str]] = field(default_factory=list)
    pictures: list[Picture] = field(default_factory=list)
    texts: dict[str, str] = field(default_factory=dict)
    said: dict[str, Said] = field(default_factory=dict)
    named: dict[str, frozenset[str]] = field(default_factory=dict)
    regions: dict[str, tuple[bool, ...]] = field(default_factory=dict)

    def add(self, level: Level, rule: str, do: str, *, place: Place) -> None:
        """One defect of one place.

        Args:
            level: How bad it is.
            rule: What is the matter.
            do: One thing to do.
            place: Where.
        """
        self.defects.append(Defect(level, place.file, self.case.id, place.column, rule, do))

    def count(self, level: Level, rule: str, do: str, *, place: Place) -> None:
        """A finding that many cases may share: it becomes one defect with their number.

        Args:
            level: How bad it is.
            rule: What is the matter.
            do: One thing to do.
            place: Where; its column is kept.
        """
        self.shared.append((level, place.column, rule, do))


@dataclass
class Findings:
    """What is collected on the way through the cohort.

    Attributes:
        cohort: Of which it is.
        defects: So far.
        repeated: {(level, column, rule, what to do): case ids}.
        pictures: {column: (case, what is kept of its image)}.
        texts: {digest: (case, column)}.
        said: {column: what is kept of each report}.
        regions: {target: {class: {split: number of cases in which it has a voxel}}}.
    """

    cohort: Cohort
    defects: list[Defect] = field(default_factory=list)
    repeated: dict[tuple[Level, str, str, str], list[str]] = field(default_factory=lambda: defaultdict(list))
    pictures: dict[str, list[tuple[Case, Picture]]] = field(default_factory=lambda: defaultdict(list))
    texts: dict[str, list[tuple[Case, str]]] = field(default_factory=lambda: defaultdict(list))
    said: dict[str, list[Said]] = field(default_factory=lambda: defaultdict(list))
    regions: dict[str, dict[str, dict[str, int]]] = field(default_factory=dict)

    def add(self, level: Level, rule: str, do: str, *, place: Place = Place()) -> None:
        """One defect of one place.

        Args:
            level: How bad it is.
            rule: What is the matter.
            do: One thing to do.
            place: Where; the cohort as a whole where nothing is said.
        """
        self.defects.append(Defect(level, place.file, place.case.id if place.case else "", place.column, rule, do))

    def sorted(self) -> tuple[Defect, ...]:
        """All defects, errors first; findings that cases share are said once, with their number and the first of them."""
        found = list(self.defects)
        for (level, column, rule, do), ids in self.repeated.items():
            shown = ", ".join(ids[:FEW]) + (", ..." if len(ids) > FEW else "")
            found.append(Defect(level, "", "", column, f"{rule} in {len(ids)} of {len(self.cohort)} cases ({shown})", do))
        return tuple(sorted(found, key=lambda defect: LEVELS.index(defect.level)))
