"""Severity of pulmonary edema for studies of MIMIC-CXR: grades from reports by rules, by experts, and from images by consensus.

`regex_report_edema_severity.csv`, `expert_report_edema_severity.csv` (subject_id, study_id, edema_severity),
`consensus_image_edema_severity.csv` (with dicom_id), and an older table of the same group,
`mimic-cxr-sub-img-edema-split-*.csv`, whose column is spelt edeme_severity.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from comodal.data.cohort import existing_file
from comodal.data.folders import Tree
from comodal.data.packed_tables import read_columns
from comodal.errors import DataError, message

GRADES = ("none", "vascular congestion", "interstitial edema", "alveolar edema")
EdemaSource = Literal["auto", "consensus", "expert", "regex", "joint", "none"]
# The best comes first: a grade of it is taken before that of the next.
_FILES = {
    "consensus": re.compile(r"consensus_image_edema_severity\.csv(\.gz)?"),
    "expert": re.compile(r"expert_report_edema_severity\.csv(\.gz)?"),
    "regex": re.compile(r"regex_report_edema_severity\.csv(\.gz)?"),
    "joint": re.compile(r"mimic-cxr-sub-img-edema-split.*\.csv(\.gz)?"),
}
_ID = re.compile(r"p(?P<subject>\d+)_s(?P<study>\d+)_(?P<dicom>[0-9A-Za-z-]+)")
_UNGRADED = ("", "-1", "-1.0", "nan")


@dataclass
class Edema:
    """What the tables say.

    Attributes:
        grades: {source: {study: index in GRADES}}, the best source first. A study that a source grades in two ways is not
            there.
        images: {study: {dicom: index in GRADES}} of the consensus.
        contradictions: Studies left out of `grades` for that reason.
    """

    grades: dict[str, dict[str, int]] = field(default_factory=dict)
    images: dict[str, dict[str, int]] = field(default_factory=dict)
    contradictions: int = 0

    def of(self, study: str, dicom: str) -> tuple[str, str]:
        """The name of a grade and its source, ("", "") where there is none.

        Args:
            study: A study.
            dicom: Its frontal image, whose own grade counts where it has one.
        """
        if study in self.images:
            graded = self.images[study]
            return GRADES[graded.get(dicom, graded[min(graded)])], "consensus"
        for source, grades in self.grades.items():
            if study in grades:
                return GRADES[grades[study]], source
        return "", ""


def image_id(subject: str, study: str, dicom: str) -> str:
    """How Liao et al. (2021) call an image in their lists.

    Args:
        subject: Digits of the patient.
        study: Digits of the study.
        dicom: Name of the image.

    >>> image_id("10000032", "50414267", "02aa804e-bde0afdd-112c0b34-7bc16630-4e384014")
    'p10000032_s50414267_02aa804e-bde0afdd-112c0b34-7bc16630-4e384014'
    """
    return f"p{subject}_s{study}_{dicom}"


def parse_image_id(text: str) -> tuple[str, str, str] | None:
    """Patient, study and image of such a name; None where it is none.

    Args:
        text: See `image_id`.

    >>> parse_image_id("p10000032_s50414267_02aa804e-bde0afdd")
    ('10000032', '50414267', '02aa804e-bde0afdd')
    """
    match = _ID.fullmatch(text.strip())
    return (match["subject"], match["study"], match["dicom"]) if match else None


def read_edema(tree: Tree, source: EdemaSource) -> Edema:
    """Finds and reads the tables of grades.

    Args:
        tree: Names below the root.
        source: "auto" takes all there are, "none" none, otherwise one.

    Returns:
        The grades, empty where there is no table.

    Raises:
        DataError: A table is damaged or holds another grade, one of a name lies there twice, or the source that was asked for
            is not there.
    """
    found = Edema()
    for name, pattern in _FILES.items():
        if source not in ("auto", name):
            continue
        paths = [folder / file for folder, files in tree.folders for file in files if pattern.fullmatch(file)]
        if len(paths) > 1:
            got, do = " and ".join(path.relative_to(tree.root).as_posix() for path in paths[:2]), "Keep one of them"
            raise DataError(message("ROOT", f"hold one table of edema grades ({name})", got, do=do, file=str(tree.root)))
        if not paths and source == name:
            do = "Copy it below the root, or set edema=auto"
            rule = f"hold the table of edema grades that edema={name} asks for"
            raise DataError(message("ROOT", rule, "none", do=do, file=str(tree.root)))
        for path in paths:
            cell = path.relative_to(tree.root).as_posix()
            _read(existing_file(tree.root, cell, subject="", modality="edema"), name, found)
    return found


def _read(path: Path, source: str, found: Edema) -> None:
    said: dict[str, dict[str, int]] = {}
    optional = ("study_id", "dicom_id", "mimic_id", "edema_severity", "edeme_severity")
    for line, (study, dicom, name, grade, misspelt) in enumerate(read_columns(path, (), optional), start=2):
        parsed = parse_image_id(name)
        if parsed is not None:
            _, study, dicom = parsed
        if not study:
            rule, do = "have a column study_id or mimic_id, filled in each row", "Take the table as it was published"
            raise DataError(message("table", rule, f"a blank one in line {line}", do=do, file=str(path)))
        value = grade or misspelt
        if value.lower() not in _UNGRADED:
            said.setdefault(study, {})[dicom] = _grade(value, study, path)
    if not said:
        rule, do = "hold grades in a column edema_severity", "Take the table as it was published"
        raise DataError(message("table", rule, "none", do=do, file=str(path)))
    if source == "consensus":
        found.images = said
        return
    found.grades[source] = {study: min(values.values()) for study, values in said.items() if len(set(values.values())) == 1}
    found.contradictions += len(said) - len(found.grades[source])


def _grade(value: str, study: str, path: Path) -> int:
    known = {text: grade for grade in range(len(GRADES)) for text in (str(grade), f"{grade}.0")}
    if value not in known:
        do = "Take the table as it was published"
        rule = "hold a grade from 0 to 3"
        raise DataError(message("table", rule, repr(value[:20]), subject=study, do=do, file=str(path)))
    return known[value]


def notes_of_edema(said: Iterable[tuple[str, str]], edema: Edema) -> list[str]:
    """Where the grades come from.

    Args:
        said: (grade, source) of each case.
        edema: What the tables say.
    """
    pairs = [pair for pair in said if pair[0]]
    sources, grades = Counter(source for _, source in pairs), Counter(grade for grade, _ in pairs)
    listed = ", ".join(f"{grades[grade]} {grade}" for grade in GRADES)
    origin = ", ".join(f"{count} {source}" for source, count in sources.most_common())
    notes = [f"edema: {listed}; from {origin}" if pairs else "edema: no case has a grade"]
    if edema.contradictions:
        notes.append(
            f"edema: grades that contradict each other in one table left out, of {edema.contradictions} of its studies"
        )
    return notes
