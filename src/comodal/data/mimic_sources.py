"""What the layout of MIMIC-CXR reads: which files there are, what the tables of the release say of each study."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from comodal.data.cohort import existing_file
from comodal.data.folders import Tree
from comodal.data.packed_tables import read_columns
from comodal.data.reading import read_text
from comodal.data.reports import report_text
from comodal.errors import DataError, message

SECTIONS = ["impression", "findings", "conclusion", "recommendations"]
_TABLE = re.compile(r"mimic-cxr-[\d.]+-(metadata|split|chexpert|negbio|test-set-labeled)\.csv(?:\.gz)?")
_IMAGE = re.compile(r"([^/]+)\.(?:jpg|jpeg|png)", re.IGNORECASE)
_STUDY_FOLDER = re.compile(r"(?:.*/)?files/p\d+/p(\d+)/s(\d+)")
_PATIENT_FOLDER = re.compile(r"(?:.*/)?files/p\d+/p(\d+)")
_REPORT = re.compile(r"s(\d+)\.txt")
_Key = TypeVar("_Key")
_SPLITS = {"train": "train", "validate": "val", "test": "test"}


@dataclass
class Files:
    """What lies in `files/pXX/p<subject>/`.

    Attributes:
        images: {(subject, study): {dicom: path relative to the root}}.
        reports: {(subject, study): path relative to the root}.
    """

    images: dict[tuple[str, str], dict[str, str]] = field(default_factory=dict)
    reports: dict[tuple[str, str], str] = field(default_factory=dict)

    @staticmethod
    def find(tree: Tree) -> Files:
        """All pictures and reports.

        Args:
            tree: Names below the root.

        Raises:
            DataError: One lies there twice.
        """
        found = Files()
        base = tree.root.resolve()  # the root may be the folder `files` or one below it
        for folder, names in tree.folders:
            place = (base / folder.relative_to(tree.root)).as_posix()
            study, patient = _STUDY_FOLDER.fullmatch(place), _PATIENT_FOLDER.fullmatch(place)
            for name in names:
                cell = (folder / name).relative_to(tree.root).as_posix()
                if study and (image := _IMAGE.fullmatch(name)):
                    _add(found.images.setdefault((study[1], study[2]), {}), image[1], cell)
                elif patient and (report := _REPORT.fullmatch(name)):
                    _add(found.reports, (patient[1], report[1]), cell)
        return found


def _add(found: dict[_Key, str], key: _Key, cell: str) -> None:
    if key in found:
        do = "Give the folder of one release, or remove one of them"
        raise DataError(message("ROOT", "hold each picture and report once", f"{found[key]} and {cell}", do=do))
    found[key] = cell


def find_tables(tree: Tree) -> dict[str, Path]:
    """The tables of the release, as far as there: {"metadata", "split", "chexpert", "negbio", "test-set-labeled": file}.

    Of a table that lies beside its packed form, the packed one is taken: it has a checksum.

    Args:
        tree: Names below the root.

    Raises:
        DataError: Two tables of one kind, as of two releases, or a link out of the root.
    """
    found: dict[str, str] = {}
    for folder, names in tree.folders:
        for name in names:
            match = _TABLE.fullmatch(name)
            if match is None:
                continue
            cell = (folder / name).relative_to(tree.root).as_posix()
            other = found.get(match[1], "")
            if other and other.removesuffix(".gz") != cell.removesuffix(".gz"):
                do = "Give the folder of one release"
                raise DataError(message("ROOT", f"hold one table of {match[1]}", f"{other} and {cell}", do=do))
            found[match[1]] = max(other, cell)  # "x.csv" < "x.csv.gz"
    return {kind: existing_file(tree.root, cell, subject="", modality=kind) for kind, cell in found.items()}


@dataclass
class Study:
    """One study. views: {dicom: ViewPosition, in capitals}."""

    subject: str
    study: str
    views: dict[str, str] = field(default_factory=dict)


def read_studies(metadata: Path | None, files: Files) -> list[Study]:
    """The studies of the metadata and of the reports that lie there, sorted.

    Args:
        metadata: Table with dicom_id, subject_id, study_id, ViewPosition; None where there is none.
        files: What lies there.

    Raises:
        DataError: The table is damaged, or gives one study to two patients.
    """
    found: dict[str, Study] = {}
    if metadata is not None:
        for dicom, subject, study, view in read_columns(metadata, ("dicom_id", "subject_id", "study_id", "ViewPosition")):
            _study(found, subject, study).views[dicom] = view.upper()
    for subject, study in files.reports:
        _study(found, subject, study)
    return sorted(found.values(), key=lambda one: (one.subject, one.study))


def _study(found: dict[str, Study], subject: str, study: str) -> Study:
    one = found.setdefault(study, Study(subject, study))
    if one.subject != subject or not subject.isdecimal() or not study.isdecimal():
        rule = "give each study to one patient, both as digits"
        got = f"study {study[:20]!r} of {one.subject[:20]!r} and {subject[:20]!r}"
        raise DataError(message("metadata", rule, got, do="Take the table as it was published"))
    return one


def read_splits(path: Path) -> tuple[dict[str, str], dict[str, str]]:
    """The official division.

    Args:
        path: Table with study_id, subject_id, split (train, validate, test) for each image.

    Returns:
        {study: split} and {subject: split}, of "train", "val", "test".

    Raises:
        DataError: Another word, or a patient on two sides.
    """
    studies: dict[str, str] = {}
    subjects: dict[str, str] = {}
    for study, subject, word in read_columns(path, ("study_id", "subject_id", "split")):
        split = _SPLITS.get(word, "")
        rule, got = "say train, validate or test", repr(word[:20])
        if split and (subjects.setdefault(subject, split) != split or studies.setdefault(study, split) != split):
            rule, got = "keep each patient on one side", f"{subjects[subject]} and {split}"
            split = ""
        if not split:
            do = "Take the table as it was published"
            raise DataError(message("table of splits", rule, got, subject=subject, do=do, file=str(path)))
    return studies, subjects


@dataclass
class Chosen:
    """Counts of what became of pictures and reports; see `Chooser`."""

    missing: int = 0
    listed: int = 0
    other: Counter[str] = field(default_factory=Counter)
    further: int = 0
    silent: int = 0


class Chooser:
    """Which picture of a study is its frontal one and which its lateral one; what could not be used is counted.

    Attributes:
        counts: What was counted so far.
    """

    LATERAL = ("LATERAL", "LL")

    def __init__(self, root: Path, files: Files, frontal: tuple[str, ...]) -> None:
        self._root, self._files, self._frontal = root, files, frontal
        self.counts = Chosen()

    def pictures(self, study: Study, preferred: dict[str, int]) -> dict[str, tuple[str, str]]:
        """{"frontal", "lateral": (dicom, path)}, as far as the files are there.

        Args:
            study: Its metadata.
            preferred: Images that have a grade of their own; they come before the others, which go by their identifiers.
        """
        there = self._files.images.get((study.subject, study.study), {})
        found: dict[str, tuple[str, str]] = {}
        for dicom in sorted(study.views, key=lambda name: (name not in preferred, name)):
            view = study.views[dicom]
            kind = "frontal" if view in self._frontal else "lateral" if view in self.LATERAL else ""
            self.counts.listed += 1
            if dicom not in there:
                self.counts.missing += 1
            elif not kind:
                self.counts.other[view or "blank"] += 1
            elif kind in found:
                self.counts.further += 1
            else:
                found[kind] = (dicom, there[dicom])
        self.counts.other["not in the table"] += len(there.keys() - study.views.keys())
        return found

    def report(self, study: Study) -> str:
        """The path of its report, "" where there is none or none with a word in it."""
        cell = self._files.reports.get((study.subject, study.study), "")
        if cell and not self._speaks(cell, f"{study.subject}_{study.study}"):
            self.counts.silent += 1
            return ""
        return cell

    def _speaks(self, cell: str, case: str) -> bool:
        """Whether there are words. What cannot be read is not absent: it stays, and `comodal check` says what is wrong."""
        try:
            text = read_text(existing_file(self._root, cell, subject=case, modality="report"))
            return any(map(str.isalnum, report_text(text, SECTIONS)))
        except DataError:
            return True

    def notes(self) -> list[str]:
        """One sentence for each kind of what was not used."""
        counts, found = self.counts, []
        if counts.missing:
            found.append(f"{counts.missing} of {counted(counts.listed, 'picture')} of the metadata not in the folder: absent")
        if others := +counts.other:
            listed = ", ".join(
                f"{count} {view}" for view, count in sorted(others.items(), key=lambda item: (-item[1], item[0]))
            )
            pictures = counted(others.total(), "picture")
            found.append(f"{pictures} neither frontal nor lateral, by the metadata, left out (view: {listed})")
        if counts.further:
            found.append(f"{counted(counts.further, 'further picture')} of a view that the study already has left out")
        if counts.silent:
            found.append(f"{counted(counts.silent, 'report')} without a word: absent")
        return found


def counted(n: int, what: str) -> str:
    """A number with its noun.

    Args:
        n: How many.
        what: The noun in the singular.

    >>> counted(1, "picture"), counted(2, "other study")
    ('1 picture', '2 other studies')
    """
    return f"{n} {what if n == 1 else what[:-1] + 'ies' if what.endswith('y') else what + 's'}"
