"""The layout of autoPET (FDG-PET-CT-Lesions): one folder per patient, in it one per study, in it NIfTI files of fixed names.

`FDG-PET-CT-Lesions/PETCT_<hash>/<study>/{SUV,CTres,SEG}.nii.gz`, where the study's folder carries the name that its archive
gave it, with spaces ("03-23-2003-NA-PET-CT Ganzkoerper  primaer mit KM-94624"). Read are SUV (PET in standardised uptake
values), CTres (CT on the grid of the PET, -1024 where it did not reach) and SEG (0 and 1 on the same grid). Not read are
CT.nii.gz, whose content CTres has on the grid of the labels, and PET.nii.gz, whose Bq/ml compare between patients only after
the scaling that SUV has had. Half of the studies are negative controls, whose SEG is empty: `comodal check` counts them.
"""

from __future__ import annotations

import re
import unicodedata
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from comodal.data.cohort import Case, Cohort, CohortMeta, ModalitySpec, TargetSpec
from comodal.data.folders import Tree
from comodal.data.tables import read_table
from comodal.errors import DataError, message

_COLUMNS = {"ctres": "ct", "suv": "pet", "seg": "seg"}
_UNITS = {"ct": "HU", "pet": "SUV"}
_FILE = re.compile(r"(?P<stem>CTres|SUV|SEG|CT|PET)\.nii(?:\.gz)?", re.IGNORECASE)
_PATIENT = re.compile(r"PETCT_[0-9a-z]+", re.IGNORECASE)
_TABLE = "fdg_metadata.csv"


class Options(BaseModel):
    """What can be set.

    Attributes:
        diagnosis: Whether the diagnosis in fdg_metadata.csv (NEGATIVE, MELANOMA, LYMPHOMA, LUNG_CANCER) becomes a target of
            kind class.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    diagnosis: bool = False


@dataclass(frozen=True)
class _Study:
    """A study as it lies on disk.

    Attributes:
        patient: Name of the patient's folder.
        folder: Name of the study's folder as it is written there, "" where the files lie in that of the patient.
        cells: {column: path relative to the root}.
        unread: Stems of files that are known and not read.
    """

    patient: str
    folder: str
    cells: dict[str, str] = field(default_factory=dict)
    unread: set[str] = field(default_factory=set)


def index(root: Path, options: Options) -> Cohort:
    """Scans an autoPET folder. No image is opened.

    Args:
        root: The folder that holds the patients' folders, at any depth; or one of them.
        options: See `Options`.

    Returns:
        Modalities ct (HU) and pet (SUV) as far as any study has them; target seg with the region lesion. A case is a study,
        named by its patient and its folder, in which what no file name can have is an underscore (`session_of`). The group is
        the patient, so that the studies of one patient share it.

    Raises:
        DataError: No study, two files for one modality, two studies of a patient whose names become equal, or a diagnosis that
            is asked for and not there.
    """
    tree = Tree.scan(root)
    studies = _scan(tree)
    usable = [study for study in studies if {"ct", "pet"} & set(study.cells)]
    if not usable:
        do = "Give the folder that holds PETCT_<number>/<study>/SUV.nii.gz; names with _0000 and _0001 are of the layout nnunet"
        rule = "hold studies of autoPET, folders PETCT_* with CTres.nii.gz and SUV.nii.gz"
        raise DataError(message("ROOT", rule, "; ".join(["none", *tree.not_followed()]), do=do, file=str(root)))
    _check_distinct(usable)
    tables = [folder / name for folder, names in tree.folders for name in names if name.casefold() == _TABLE]
    diagnoses = _diagnoses(tables, root) if options.diagnosis else {}
    cases = [_case(study, diagnoses) for study in usable]
    cases.sort(key=lambda case: case.id)
    names = [name for name in _UNITS if any(name in case.cells for case in cases)]
    specs = [ModalitySpec(name=name, unit=_UNITS[name], grid="pet") for name in names]
    notes = _notes(studies, usable, names)
    if tables and not options.diagnosis:
        notes.append(f"{_TABLE} is not read; --set diagnosis=true makes the diagnosis a target")
    lacking = sum("diagnosis" not in case.cells for case in cases)
    if options.diagnosis and lacking:
        notes.append(f"{lacking} studies have no diagnosis in {_TABLE}, or several")
    targets = _targets(cases)
    notes += [*tree.not_followed(), *tree.synthetic()]
    meta = CohortMeta(layout="autopet", root=str(root), modalities=specs, targets=targets, notes=notes)
    return Cohort.build(meta, cases, root)


def session_of(folder: str) -> str:
    """The session of a study, from the name of its folder.

    Every run of characters other than letters, digits, "." and "-" becomes one "_".

    Args:
        folder: As it is written on disk.

    >>> session_of("03-23-2003-NA-PET-CT Ganzkoerper  primaer mit KM-94624")
    '03-23-2003-NA-PET-CT_Ganzkoerper_primaer_mit_KM-94624'
    """
    return re.sub(r"(?:[^\w.-]|_)+", "_", unicodedata.normalize("NFC", folder)).strip("_.")


def _scan(tree: Tree) -> list[_Study]:
    base = tree.root.resolve()  # the root may be "." or a patient's folder itself
    found = []
    for folder, names in tree.folders:
        place = base / folder.relative_to(tree.root)
        parts = [number for number, part in enumerate(place.parts) if _PATIENT.fullmatch(part)]
        matches = [(name, match["stem"].casefold()) for name in names if (match := _FILE.fullmatch(name))]
        if not parts or not matches:
            continue
        study = _Study(place.parts[parts[-1]], "/".join(place.parts[parts[-1] + 1 :]))
        for name, stem in matches:
            cell = (folder / name).relative_to(tree.root).as_posix()
            if stem not in _COLUMNS:
                study.unread.add(stem)
                continue
            column = _COLUMNS[stem]
            if column in study.cells:
                rule, got = "hold one file for each modality of a study", f"{study.cells[column]} and {cell}"
                raise DataError(message("ROOT", rule, got, subject=study.patient, modality=column, do="Keep one of them"))
            study.cells[column] = cell
        found.append(study)
    return found


def _check_distinct(studies: list[_Study]) -> None:
    """Predictions are named after cases, on systems too that do not tell capitals apart."""
    seen: dict[tuple[str, str], _Study] = {}
    for study in studies:
        key = (study.patient.casefold(), session_of(study.folder).casefold())
        if key in seen:
            rule = "have studies whose folders differ in letters, digits, '.' or '-'"
            got = f"{seen[key].folder!r} and {study.folder!r}"
            raise DataError(message("ROOT", rule, got, subject=study.patient, do="Rename one of the two folders"))
        seen[key] = study


def _case(study: _Study, diagnoses: Mapping[tuple[str, str], str]) -> Case:
    patient, session = study.patient, session_of(study.folder)
    keys = [(patient.casefold(), session.casefold()), (patient.casefold(), "")]
    diagnosis = next((diagnoses[key] for key in keys if key in diagnoses), "")
    return Case.build(patient, session=session, cells={**study.cells, "diagnosis": diagnosis})


def _diagnoses(tables: list[Path], root: Path) -> dict[tuple[str, str], str]:
    """{(patient, session): diagnosis}, in small letters; under the session "" for patients whose studies all have one.

    The table has a row for each series. Its file location ends in <patient>/<study>/<series>.
    """
    if len(tables) != 1:
        got = ", ".join(table.relative_to(root).as_posix() for table in tables) or "none"
        do = f"Put the {_TABLE} of the collection below the root, or leave diagnosis out"
        raise DataError(message("ROOT", f"hold one {_TABLE} where diagnosis is asked for", got, do=do, file=str(root)))
    columns, rows = read_table(tables[0])
    names = {re.sub(r"[^a-z]+", "", name.casefold()): name for name in columns}
    if not {"subjectid", "diagnosis"} <= set(names):
        rule, got = "have the columns Subject ID and diagnosis", ", ".join(columns)
        raise DataError(message(_TABLE, rule, got, do="Rename them", file=str(tables[0])))
    found: defaultdict[tuple[str, str], set[str]] = defaultdict(set)
    for row in rows:
        patient, diagnosis = row[names["subjectid"]].casefold(), row[names["diagnosis"]]
        parts = re.split(r"[/\\]+", row[names["filelocation"]]) if "filelocation" in names else []
        below = next((i + 1 for i, part in enumerate(parts) if part.casefold() == patient), len(parts))
        for session in {"", *(session_of(part).casefold() for part in parts[below : below + 1])} if diagnosis else ():
            found[patient, session].add(diagnosis)
    # Patients who came twice may have been ill only once: without the folder in the table nobody knows when.
    for (patient, session), several in found.items():
        if session and len(several) > 1:
            rule, got = "have one diagnosis for each study", ", ".join(sorted(several))
            raise DataError(message(_TABLE, rule, got, subject=patient, do="Correct the table", file=str(tables[0])))
    known = {key: next(iter(several)) for key, several in found.items() if len(several) == 1}
    if not known:
        raise DataError(message(_TABLE, "have some diagnosis", "none", do="Leave diagnosis out", file=str(tables[0])))
    return known


def _targets(cases: list[Case]) -> list[TargetSpec]:
    targets = []
    if any("seg" in case.cells for case in cases):
        targets.append(TargetSpec(name="seg", kind="regions", classes=["lesion"], codes=[[1]], paint=[1]))
    classes = sorted({case.cells["diagnosis"] for case in cases if "diagnosis" in case.cells})
    if classes:
        targets.append(TargetSpec(name="diagnosis", kind="class", classes=classes))
    return targets


def _notes(studies: list[_Study], usable: list[_Study], names: list[str]) -> list[str]:
    notes = [f"{len(usable)} studies of {len({study.patient for study in usable})} patients"]
    if not any("seg" in study.cells for study in usable):
        notes.append("no study has SEG: there is nothing to train on, only to predict")
    notes += [f"no study has {name}; it is left out" for name in _UNITS if name not in names]
    raw = sum("ct" in study.unread and "ct" not in study.cells for study in studies)
    if raw:
        notes.append(f"{raw} studies have CT but no CTres: their CT counts as absent")
    unscaled = sum("pet" in study.unread and "pet" not in study.cells for study in studies)
    if unscaled:
        notes.append(f"{unscaled} studies have PET but no SUV: their PET counts as absent")
    return notes
