"""The layout of MIMIC-CXR: chest X-rays (MIMIC-CXR-JPG), their reports (MIMIC-CXR), labels, and the severity of edema.

`files/p10/p10000032/s50414267/<dicom>.jpg` and `files/p10/p10000032/s50414267.txt`, with the tables `mimic-cxr-2.0.0-metadata`,
`-split`, `-chexpert` and `-negbio`, .csv or .csv.gz. Both data sets may lie side by side below the root, or one alone; parts of
them too, since few people load all 377 110 pictures: what is not there is absent. Labels are of studies, so a case is a study,
and its group the patient.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from comodal.data.chexpert_labels import CHEXPERT, PATHOLOGY9, Blank, Labels, Uncertain, read_labels
from comodal.data.cohort import Case, Cohort, CohortMeta, ModalitySpec, TargetSpec
from comodal.data.folders import Tree
from comodal.data.mimic_edema import GRADES, Edema, EdemaSource, notes_of_edema, read_edema
from comodal.data.mimic_protocol import liao2021, only_by_rules
from comodal.data.mimic_sources import SECTIONS, Chooser, Files, Study, counted, find_tables, read_splits, read_studies
from comodal.errors import DataError, message

_MODALITIES = ("frontal", "lateral", "report")


class Options(BaseModel):
    """What can be told to the layout.

    Attributes:
        views: Which ViewPosition is frontal.
        labels: The program whose labels are the target findings; those of radiologists, where there are some, come before.
        findings: Which of the 14 labels the target findings has; "pathology9" are the nine of Liao et al. (2021).
        uncertain: What uncertain labels become: not known, yes, or no.
        blank: What labels become that a report does not mention: not known, or no.
        edema: Where grades of edema are taken from; "auto" takes the best that a study has: consensus on images, experts on
            reports, rules on reports, the older table.
        edema_split: Whether the images of the consensus are the only test cases of edema: their other studies are left out, and
            other test cases have no grade.
        protocol: "official" keeps the official split; "liao2021" tests the patients that Liao et al. (2021) test in one of its
            two tasks, trains with grades by rules alone, and leaves out labels of radiologists
            (`comodal.data.mimic_protocol`). With findings=pathology9 and unknown labels ignored, as they are by default, these
            are its data.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    views: tuple[Literal["AP", "PA"], ...] = Field(("AP", "PA"), min_length=1, description="which ViewPosition is frontal")
    labels: Literal["chexpert", "negbio", "none"] = Field("chexpert", description="whose labels are the findings")
    findings: Literal["chexpert14", "pathology9"] = Field("chexpert14", description="which of the 14 labels are findings")
    uncertain: Uncertain = Field("ignore", description="uncertain labels: not known, ones or zeros")
    blank: Blank = Field("ignore", description="labels that are not mentioned: not known, or zeros")
    edema: EdemaSource = Field("auto", description="which grades of edema; auto takes the best of each study")
    edema_split: bool = Field(False, description="test edema on the images of the consensus only")
    protocol: Literal["official", "liao2021"] = Field("official", description="who is tested: the official split, or a paper's")

    @model_validator(mode="after")
    def _check(self) -> Options:
        if self.protocol == "liao2021" and (self.edema_split or self.edema != "auto"):
            raise ValueError("protocol=liao2021 says itself which grades of edema are used: leave edema and edema_split out")
        return self

    @property
    def classes(self) -> tuple[str, ...]:
        """The classes of the target findings."""
        return PATHOLOGY9 if self.findings == "pathology9" else CHEXPERT

    @field_validator("views", mode="before")
    @classmethod
    def _listed(cls, given: Any) -> Any:
        """`--set views=PA` is one word and no list."""
        return tuple(word.strip() for word in given.split(",")) if isinstance(given, str) else given


@dataclass(frozen=True)
class _Findings:
    """The labels of the studies, and whose they are."""

    labels: Labels
    read: Labels
    owner: str


def index(root: Path, options: Options) -> Cohort:
    """Scans MIMIC-CXR-JPG, MIMIC-CXR or both. Tables and reports are read, pictures are not.

    Args:
        root: The folder of one of them, or one that holds both.
        options: Views, policies for labels, source of edema grades.

    Returns:
        Modalities frontal, lateral (the first of each by its identifier; one with a grade of its own comes first) and report,
        as far as any study has them; targets findings (14 labels of CheXpert) and edema (four grades), where there are tables.
        The split is the official one. What is not in the folder is blank; `meta.notes` counts it, and how often each label is
        named, denied, uncertain and not mentioned.

    Raises:
        DataError: Neither pictures with metadata nor reports; a table that is damaged or of another form; files of two
            releases; an option that asks for a table that is not there.
    """
    tree = Tree.scan(root)
    files, tables = Files.find(tree), find_tables(tree)
    studies = read_studies(tables.get("metadata"), files)
    edema = read_edema(tree, options.edema)
    edema = only_by_rules(edema) if options.protocol == "liao2021" else edema
    chooser = Chooser(root, files, options.views)
    pairs = [(study, _cells(study, chooser, edema)) for study in studies]
    kept = [(study, cells) for study, cells in pairs if set(cells) & set(_MODALITIES)]
    if not kept:
        do = "Give the folder that holds files/ and mimic-cxr-2.0.0-metadata.csv.gz, or reports"
        rule = "hold pictures of MIMIC-CXR-JPG with their metadata, or reports"
        raise DataError(message("ROOT", rule, "; ".join(["none", *tree.not_followed()]), do=do, file=str(root)))
    notes = [f"{len(pairs) - len(kept)} of {counted(len(pairs), 'study')} without any file in the folder left out"]
    notes = notes if len(kept) < len(pairs) else []
    if "metadata" not in tables and files.images:
        notes.append("there is no metadata: nothing tells the view of a picture, and pictures are left out")
    notes += chooser.notes()
    findings = _read_findings(tables, options, root)
    cases = _cases(kept, findings, options)
    cases, said = _with_splits(cases, tables.get("split"))
    notes += said
    if options.protocol == "liao2021":
        cases, said = liao2021(cases, edema, {study.study: study.subject for study in studies}, root=root)
        notes += said
    if options.edema_split:
        cases, said = _edema_test(cases, edema, root)
        notes += said
    notes += _notes_of_labels(cases, findings, options)
    if edema.grades or edema.images:
        notes += notes_of_edema([(case.cells.get("edema", ""), _source(case, edema)) for case in cases], edema)
    notes += [*tree.not_followed(), *tree.synthetic()]
    targets = [TargetSpec(name="findings", kind="multilabel", classes=list(options.classes))] if findings else []
    if edema.grades or edema.images:
        targets.append(TargetSpec(name="edema", kind="ordinal", classes=list(GRADES)))
    names = {name for case in cases for name in case.cells}
    specs = [spec for spec in _specs() if spec.name in names]
    meta = CohortMeta(layout="mimic-cxr", root=str(root), modalities=specs, targets=targets, notes=notes)
    return Cohort.build(meta, cases, root)


def _specs() -> list[ModalitySpec]:
    return [
        ModalitySpec(name="frontal", spatial_dims=2, grid="frontal"),
        ModalitySpec(name="lateral", spatial_dims=2, grid="lateral"),
        ModalitySpec(name="report", kind="text", spatial_dims=0, grid="report", sections=SECTIONS),
    ]


def _cells(study: Study, chooser: Chooser, edema: Edema) -> dict[str, str]:
    chosen = chooser.pictures(study, edema.images.get(study.study, {}))
    cells = {kind: path for kind, (_, path) in chosen.items()}
    cells["report"] = chooser.report(study)
    cells["edema"], _ = edema.of(study.study, chosen["frontal"][0] if "frontal" in chosen else "")
    return {name: cell for name, cell in cells.items() if cell}


def _source(case: Case, edema: Edema) -> str:
    return edema.of(case.session, "")[1]


def _cases(kept: Sequence[tuple[Study, dict[str, str]]], findings: _Findings | None, options: Options) -> list[Case]:
    cases = []
    for study, cells in kept:
        if findings:
            cells["findings"] = findings.labels.cell(
                study.study, uncertain=options.uncertain, blank=options.blank, classes=options.classes
            )
        cases.append(Case.build(study.subject, session=study.study, group=study.subject, cells=cells))
    return cases


def _read_findings(tables: dict[str, Path], options: Options, root: Path) -> _Findings | None:
    """The labels of a program, and in their place those of radiologists where a study has them."""
    if options.labels == "none":
        return None
    labels = read_labels(tables[options.labels]) if options.labels in tables else Labels()
    if not labels.rows and "labels" in options.model_fields_set:
        do = "Copy it below the root, or set labels=none"
        rule = f"hold the table mimic-cxr-2.0.0-{options.labels}.csv.gz that labels={options.labels} asks for"
        raise DataError(message("ROOT", rule, "none", do=do, file=str(root)))
    read = Labels()
    if "test-set-labeled" in tables and options.protocol == "official":
        read = read_labels(tables["test-set-labeled"], renamed={"Lung Opacity": "Airspace Opacity"})
    rows = {**labels.rows, **read.rows}
    return _Findings(Labels(rows), read, options.labels) if rows else None


def _with_splits(cases: Sequence[Case], table: Path | None) -> tuple[list[Case], list[str]]:
    """The cases with the official split; a study that is not in the table goes with its patient."""
    if table is None:
        return list(cases), ["there is no table of splits: training draws them, by patient"]
    studies, subjects = read_splits(table)
    divided = [replace(case, split=studies.get(case.session) or subjects.get(case.subject, "")) for case in cases]
    unknown = sum(not case.split for case in divided)
    return divided, [
        f"{counted(unknown, 'case')} of patients who are not in the table of splits without one"
    ] if unknown else []


def _edema_test(cases: Sequence[Case], edema: Edema, root: Path) -> tuple[list[Case], list[str]]:
    """The test cases of edema are the studies of the consensus, and no patient of theirs is trained on."""
    if not edema.images:
        do = "Copy it below the root and keep edema=auto, or leave edema_split out"
        rule = "hold consensus_image_edema_severity.csv, which edema_split asks for"
        raise DataError(message("ROOT", rule, "none that is in use", do=do, file=str(root)))
    held = {case.subject for case in cases if case.session in edema.images}
    kept, bare, left = [], 0, 0
    for case in cases:
        if case.session in edema.images:
            kept.append(replace(case, split="test"))
        elif case.subject in held:
            left += 1
        elif case.split == "test" and "edema" in case.cells:
            bare += 1
            kept.append(replace(case, cells={name: cell for name, cell in case.cells.items() if name != "edema"}))
        else:
            kept.append(replace(case, split=case.split or "train"))
    tested = sum(case.session in edema.images for case in kept)
    rest = f"{counted(left, 'other study')} of {counted(len(held), 'patient')} left out"
    others = f"{counted(bare, 'other test case')} without the grade"
    return kept, [f"edema is tested on the consensus ({counted(tested, 'study')}): {rest}, {others}"]


def _notes_of_labels(cases: Sequence[Case], findings: _Findings | None, options: Options) -> list[str]:
    if findings is None:
        return [] if options.labels == "none" else ["there is no table of labels: there is no target findings"]
    studies = [case.session for case in cases]
    words = {"ignore": "not known", "ones": "yes", "zeros": "no"}
    policy = f"uncertain is taken as {words[options.uncertain]}, not mentioned as {words[options.blank]}"
    counts = findings.labels.counts(studies, options.classes)
    notes = [f"findings ({findings.owner}), {policy}; named/denied/uncertain/not mentioned: {counts}"]
    if read := sum(study in findings.read.rows for study in studies):
        notes.append(f"findings of {counted(read, 'study')} by radiologists")
    if unlabelled := sum("findings" not in case.cells for case in cases):
        notes.append(f"findings: {unlabelled} of {counted(len(cases), 'case')} unlabelled")
    return notes
