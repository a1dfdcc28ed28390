"""The layout of Open-I, the chest X-rays of Indiana University: a report of XML with zero or more pictures.

`NLMCXR_reports/ecgen-radiology/1.xml` and `NLMCXR_png/CXR1_1_IM-0001-3001.png`; or the mirror with `indiana_reports.csv`,
`indiana_projections.csv` and `images_normalized/1_IM-0001-4001.dcm.png`. A report names its pictures; the number of its file
does not. The reports alone are a cohort too, of one modality.

Which picture is frontal stands in no report: the caption is that of the whole study ("PA and lateral"). It is taken from a
table, or from a caption that speaks of one view only.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from comodal.data.cohort import Case, Cohort, CohortMeta, ModalitySpec, TargetSpec
from comodal.data.folders import Tree
from comodal.data.formats_picture import natural_key
from comodal.data.open_i_findings import NORMAL, finding_names, findings_in, is_indexed, label_cell, plain_term
from comodal.data.open_i_sources import Pictures, Report, read_mirror, read_reports, read_views, view_of_caption
from comodal.errors import DataError, message

SECTIONS = ["findings", "impression"]


class Options(BaseModel):
    """What can be told to the layout.

    Attributes:
        views: A table (image_id, view) that says which picture shows what: a path below the root; `views.csv` and
            `indiana_projections.csv` are found by themselves.
        unknown_view: What becomes of pictures whose view nothing tells: "leave-out"; "frontal" takes the first of a report, by
            name, as frontal; "auto" does so only where no table tells the view of any picture.
        normal: Whether there is a second target, `normal` (normal, abnormal).
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    views: str = Field("", description="table (image_id, view) below the root; views.csv is found by itself")
    unknown_view: Literal["auto", "leave-out", "frontal"] = Field("auto", description="pictures whose view nothing tells")
    normal: bool = Field(False, description="a second target, normal against abnormal")


def index(root: Path, options: Options) -> Cohort:
    """Scans a folder of Open-I. The reports are read, the pictures are not.

    Args:
        root: The folder that holds reports and pictures, or reports only.
        options: What is taken as frontal, and which targets there are.

    Returns:
        Modalities frontal and lateral (pictures) and report (findings and impression), as far as any report has them; target
        findings with the 14 names of ChestX-ray14 (`comodal/data/tables/openi_findings.yaml`), blank where nobody gave a report
        its terms. A case is a report and its own group: the data set names no patients. Reports without any word in findings
        and impression are absent. `meta.notes` counts findings, normal reports, and whatever was left out.

    Raises:
        DataError: No report; one that is damaged or of another kind; two of one identifier; a picture that lies there twice; a
            table of views that contradicts itself.
    """
    tree = Tree.scan(root)
    reports, mirrored = read_reports(tree), False
    if not reports:
        reports, mirrored = read_mirror(tree), True
    if not reports:
        do = "Unpack NLMCXR_reports.tgz there, or give the folder with indiana_reports.csv"
        rule = "hold reports of Open-I, ecgen-radiology/*.xml"
        raise DataError(message("ROOT", rule, "; ".join(["none", *tree.not_followed()]), do=do, file=str(root)))
    pictures = Pictures.find(tree)
    views, told = read_views(tree, options.views, pictures)
    notes = [told] if told else []
    kept = _with_pictures(reports, pictures, notes)
    shown = _Shown(pictures, views, guess=options.unknown_view == "frontal" or (options.unknown_view == "auto" and not views))
    cases = [_case(report, shown, normal=options.normal) for report in kept]
    notes += shown.notes(tables=bool(views)) if pictures.paths else []
    notes += _notes_of_texts(kept, cases)
    cases = [case for case in cases if set(case.cells) & {"frontal", "lateral", "report"}]
    names = {name for case in cases for name in case.cells}
    if not names:
        do = "Check that the archive was unpacked whole"
        raise DataError(message("ROOT", "hold at least one picture or report with words", "none", do=do, file=str(root)))
    targets = _targets(normal=options.normal)
    notes += _notes_of_labels(reports, cases, mirrored=mirrored)
    notes += [*tree.not_followed(), *tree.synthetic()]
    specs = [spec for spec in _specs(inline=mirrored) if spec.name in names]
    meta = CohortMeta(layout="open-i", root=str(root), modalities=specs, targets=targets, notes=notes)
    return Cohort.build(meta, cases, root)


def _specs(*, inline: bool) -> list[ModalitySpec]:
    return [
        ModalitySpec(name="frontal", spatial_dims=2, grid="frontal"),
        ModalitySpec(name="lateral", spatial_dims=2, grid="lateral"),
        ModalitySpec(
            name="report", kind="text", spatial_dims=0, grid="report", inline=inline, sections=[] if inline else SECTIONS
        ),
    ]


def _targets(*, normal: bool) -> list[TargetSpec]:
    findings = TargetSpec(name="findings", kind="multilabel", classes=finding_names())
    return [findings, TargetSpec(name="normal", kind="class", classes=[NORMAL, "abnormal"])] if normal else [findings]


def _with_pictures(reports: list[Report], pictures: Pictures, notes: list[str]) -> list[Report]:
    """The reports that belong to a picture; all of them where the folder holds none."""
    if not pictures.paths:
        notes.append("there is no picture in the folder: the reports are the only modality")
        return reports
    kept = [report for report in reports if report.images]
    if len(kept) < len(reports):
        notes.append(f"{_count(len(reports) - len(kept), 'report')} without any picture left out")
    return kept


class _Shown:
    """Which picture of a report is its frontal and which its lateral one; counts what it could not use."""

    def __init__(self, pictures: Pictures, views: dict[str, str], *, guess: bool) -> None:
        self._pictures, self._views, self._guess = pictures, views, guess
        self._counts: Counter[str] = Counter()

    def of(self, report: Report) -> dict[str, str]:
        """{"frontal", "lateral": path} as far as there is one."""
        found: dict[str, str] = {}
        unknown: list[str] = []
        for key, caption in sorted(report.images, key=lambda image: natural_key(image[0])):
            path = self._pictures.path(key, report.uid)
            view = self._views.get(key) or view_of_caption(caption, alone=len(report.images) == 1)
            if not path:
                self._counts["missing"] += 1
            elif view in ("frontal", "lateral"):
                self._counts["further"] += view in found
                found.setdefault(view, path)
            elif view:
                self._counts["other"] += 1
            else:
                unknown.append(path)
        if unknown and self._guess and "frontal" not in found:
            found["frontal"] = unknown.pop(0)
            self._counts["guessed"] += 1
        self._counts["unknown"] += len(unknown)
        return found

    def notes(self, *, tables: bool) -> list[str]:
        """What was not used, or guessed. tables: whether a table tells views."""
        counts = self._counts
        found = []
        if counts["guessed"]:
            why = "" if tables else "no table says which picture is frontal: "
            guess = f"the first of unknown view, by name, was taken in {_count(counts['guessed'], 'report')}"
            do = "some of them will be lateral; give views.csv (image_id, view) or --set unknown_view=leave-out"
            found.append(f"{why}{guess}; {do}")
        if counts["unknown"]:
            found.append(f"{_count(counts['unknown'], 'picture')} of unknown view left out")
        if counts["other"]:
            found.append(f"{_count(counts['other'], 'picture')} neither frontal nor lateral left out")
        if counts["further"]:
            found.append(f"{_count(counts['further'], 'further picture')} of a view that the report already has left out")
        if counts["missing"]:
            found.append(f"{_count(counts['missing'], 'picture')} named by reports not in the folder: absent")
        if stray := self._pictures.unused():
            found.append(f"{_count(len(stray), 'picture')} that no report names left out ({stray[0]})")
        return found


def _case(report: Report, shown: _Shown, *, normal: bool) -> Case:
    cells = {**shown.of(report), "report": report.cell if report.has_words else ""}
    cells["findings"] = label_cell(report.major, report.automatic)
    if normal and is_indexed(report.major):
        cells["normal"] = NORMAL if _is_normal(report) else "abnormal"
    return Case.build(report.uid, cells=cells)


def _is_normal(report: Report) -> bool:
    return NORMAL in map(plain_term, report.major)


def _notes_of_texts(reports: Sequence[Report], cases: Iterable[Case]) -> list[str]:
    notes = []
    silent = sum(not report.has_words for report in reports)
    if silent:
        notes.append(f"{_count(silent, 'report')} without a word in findings and impression: absent")
    empty = sum(not set(case.cells) & {"frontal", "lateral", "report"} for case in cases)
    if empty:
        notes.append(f"{_count(empty, 'report')} with neither words nor a picture left out")
    return notes


def _notes_of_labels(reports: Sequence[Report], cases: Sequence[Case], *, mirrored: bool) -> list[str]:
    """The counts of all reports and of the cases that are left: some findings are rare, and what they measure is unstable."""
    subjects = {case.subject for case in cases}
    notes = [_labels(reports, f"all {len(reports)} reports")]
    if len(cases) < len(reports):
        notes.append(_labels([report for report in reports if report.uid in subjects], f"the {len(cases)} cases"))
    blank = sum(not is_indexed(report.major) for report in reports if report.uid in subjects)
    if blank:
        notes.append(f"{_count(blank, 'report')} that nobody gave terms: what is not named there is unknown, not absent")
    if mirrored:
        notes.append("the mirror lacks the terms given by a program: fewer findings than from the XML")
    return notes


def _labels(reports: Sequence[Report], whose: str) -> str:
    counts = Counter(name for report in reports for name in findings_in(report.major, report.automatic))
    findings = ", ".join(f"{name} {counts[name]}" for name in finding_names())
    return f"{whose}: {sum(map(_is_normal, reports))} normal; {findings}"


def _count(n: int, what: str) -> str:
    return f"{n} {what}{'' if n == 1 else 's'}"
