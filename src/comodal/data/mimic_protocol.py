"""Who is tested in Liao et al. (2021), Multimodal Representation Learning via Maximization of Local Mutual Information, MICCAI.

Two tasks share one pretraining: nine findings, and the severity of edema. So a patient who is tested in either is trained on in
neither.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from comodal.data.cohort import Case
from comodal.data.mimic_edema import GRADES, Edema
from comodal.data.mimic_sources import counted
from comodal.errors import DataError, message

_TRAINED_BY = "regex"  # the grades that the paper trains with


def only_by_rules(edema: Edema) -> Edema:
    """The grades that the paper uses: by rules to train with, and the consensus."""
    return replace(edema, grades={name: grades for name, grades in edema.grades.items() if name == _TRAINED_BY})


def liao2021(cases: Sequence[Case], edema: Edema, subjects: Mapping[str, str], *, root: Path) -> tuple[list[Case], list[str]]:
    """The test set of both tasks.

    Tested are the patients of the official test split without those that have a grade of edema to train with, and the patients
    of the consensus on images. Everybody else is trained on, or chooses weights where the official split says so; the paper has
    no such part. Grades to train with are those by rules; in the test only the consensus is a grade. Findings are those of the
    program that labels reports, in the test as well.

    Args:
        cases: Studies with the official split, as far as there is one.
        edema: Grades by rules, and the consensus.
        subjects: {study: patient} of every study that is known, files or not.
        root: For the error text.

    Returns:
        The cases with split and grade of the protocol, and what is to be noted.

    Raises:
        DataError: There is no consensus, or no official split.
    """
    if not any(case.split for case in cases):
        do = "Copy it below the root, or leave protocol out"
        rule = "hold mimic-cxr-2.0.0-split.csv.gz, which protocol=liao2021 asks for"
        raise DataError(message("ROOT", rule, "no table of splits with these patients", do=do, file=str(root)))
    if not edema.images:
        do = "Copy it below the root and keep edema=auto, or leave protocol out"
        rule = "hold consensus_image_edema_severity.csv, which protocol=liao2021 asks for"
        raise DataError(message("ROOT", rule, "none that is in use", do=do, file=str(root)))
    graded = edema.grades.get(_TRAINED_BY, {})
    held = {subject for study, subject in subjects.items() if study in edema.images}
    trained = {subject for study, subject in subjects.items() if study in graded} - held
    tested = {case.subject for case in cases if case.split == "test"} - trained | held
    kept = [_placed(case, edema, graded, tested=case.subject in tested) for case in cases]
    moved = len({case.subject for case in cases if case.split == "test"} & trained)
    found = [case for case in kept if case.split == "test"]
    consensus = sum("edema" in case.cells for case in found)
    patients = len({case.subject for case in found})
    tests, people = counted(len(found), "test case"), counted(patients, "patient")
    graders = f"{consensus} of them with a grade of edema by consensus, all others with those by rules"
    back = f"{counted(moved, 'patient')} of the official test split who have a grade to train with trained on"
    return kept, [f"protocol of Liao et al. (2021): {tests} of {people}, {graders}; {back}"]


def _placed(case: Case, edema: Edema, graded: Mapping[str, int], *, tested: bool) -> Case:
    cells = {name: cell for name, cell in case.cells.items() if name != "edema"}
    if tested and case.session in edema.images:
        cells["edema"] = case.cells["edema"]
    elif not tested and case.session in graded:
        cells["edema"] = GRADES[graded[case.session]]
    split = "test" if tested else "val" if case.split == "val" else "train"
    return replace(case, cells=cells, split=split)
