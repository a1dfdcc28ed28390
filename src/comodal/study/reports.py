"""A published table of images that learn from reports beside ours: every number from the image alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from comodal import data
from comodal.data.cohort import Case, Cohort
from comodal.data.columns import TargetSpec, label_indices, unknown_indices
from comodal.evaluation.comparison import combine
from comodal.evaluation.results import CaseResult, Results, SubsetResult
from comodal.evaluation.table import Cell, Contrast, StudyTable
from comodal.study.cohorts import write_phantom
from comodal.study.published_reports import CountsRow, CountsTable, ReportsTable
from comodal.study.reproducing import ComparedData, labelled
from comodal.study.study import StudyResult
from comodal.study.variants import otherwise
from comodal.training.events import Emit, silent


@dataclass(frozen=True)
class ReportsLine:
    """One number.

    Attributes:
        row, column: As printed; of an arm that the paper does not have, its label.
        method: Label of the arm.
        published: The printed number; None where there is none.
        ours: Our number, with how many cases have the class and have it not, where it is of one class.
        difference: This arm minus the reference; None where the two are not compared.
        skipped: Of a mean over classes: what it leaves out, and why.
    """

    row: str
    column: str
    method: str
    published: float | None
    ours: Cell
    difference: Contrast | None = None
    skipped: str = ""


@dataclass(frozen=True)
class ReportsReproduction(ComparedData):
    """A published table of images that learn from reports, and ours.

    Attributes:
        table: The published one.
        study: What was run.
        lines: Row by row in the printed order, then the arms that the paper does not have; columns in order.
        combined: Our numbers as a table of their own.
        cohort: What ours was run on, as tables call it.
        synthetic: Whether that is a phantom.
        same_layout: Whether its layout is that of the paper's data.
        official: Whether the cohort's own division is used.
        cases: How many of its cases have a label.
        otherwise: What ours has otherwise than the study in the paper's configuration, in words.
    """

    table: ReportsTable
    study: StudyResult
    lines: tuple[ReportsLine, ...]
    combined: StudyTable
    cohort: str
    synthetic: bool
    same_layout: bool
    official: bool
    cases: int
    otherwise: tuple[str, ...]


def beside_reports(table: ReportsTable, study: StudyResult) -> ReportsReproduction:
    """Puts the results of a study beside the published numbers.

    Args:
        table: The published table.
        study: What was run; an arm that the user has taken out is "not run".

    Returns:
        Both. Differences are minus the table's reference, else minus the study's; p values are Holm-corrected over the arms,
        column by column.
    """
    own = {label: [_only(table, one) for one in found] for label, found in study.results.items()}
    first = table.reference if table.reference in own else study.reference
    combined = combine({first: own[first], **own}, metrics=[column.metric for column in table.columns])
    cells, contrasts = (combined.rows[-1].cells, combined.rows[-1].contrasts) if combined.rows else ({}, {})
    rows = [(row.name, row.arm, row.numbers) for row in table.rows]
    rows += [(label, label, {}) for label in own if label not in table.arms]
    lines = []
    for name, arm, numbers in rows:
        for column in table.columns:
            cell = cells[arm].get(column.metric, Cell("no cases")) if arm in cells else Cell("not run")
            difference = contrasts.get(arm, {}).get(column.metric)
            skipped = _skipped(own.get(arm, ()), column.metric)
            lines.append(ReportsLine(name, column.name, arm, numbers.get(column.name), cell, difference, skipped))
    cohort = Cohort.load(Path(study.config.cohort))
    cases = labelled(cohort)
    return ReportsReproduction(
        table=table,
        study=study,
        lines=tuple(lines),
        combined=combined,
        cohort=next(found[0].cohort for found in study.results.values()),
        synthetic=any(note.startswith("synthetic") for note in cohort.meta.notes),
        same_layout=cohort.meta.layout == table.layout,
        official=study.config.splits.column and any(case.split for case in cohort.cases),
        cases=cases,
        otherwise=tuple(otherwise(table, study.config, cases)),
    )


def _only(table: ReportsTable, results: Results) -> Results:
    """A result with the table's row and metrics: intervals and corrections are then over what is shown."""
    present, wanted = frozenset(table.present), {column.metric for column in table.columns}

    def of_row(one: SubsetResult | CaseResult) -> bool:
        return frozenset(one.present) == present

    subsets = [
        row.model_copy(update={"metrics": {name: value for name, value in row.metrics.items() if name in wanted}})
        for row in results.subsets
        if of_row(row)
    ]
    cases = tuple(case for case in results.cases if of_row(case))
    return results.model_copy(update={"subsets": tuple(subsets), "cases": cases})


def _skipped(results: Sequence[Results], metric: str) -> str:
    """What a mean over classes leaves out, as the results say it."""
    notes = [row.metrics[metric].note or "" for run in results for row in run.subsets if metric in row.metrics]
    told = (part for note in notes for part in note.split("; ") if part.startswith("not defined for "))
    return "; ".join(dict.fromkeys(told))


# Counts of labels, for which nothing is trained.


@dataclass(frozen=True)
class Counted:
    """Our cases of one task.

    Attributes:
        train, val: Labelled ones; of a grade, those that have it.
        positive, negative: Tested ones with and without it; of a grade `negative` is None.
    """

    train: int
    val: int
    positive: int
    negative: int | None


@dataclass(frozen=True)
class CountsReproduction:
    """A published table of numbers of images, and ours.

    Attributes:
        table: The published one.
        lines: (published, ours), in the printed order; None where the cohort has no such class.
        synthetic: Whether ours is a phantom.
        cases: {part of the split: (cases, patients)}.
        shared: Patients who are both tested and not; there must be none.
        notes: What indexing said.
    """

    table: CountsTable
    lines: tuple[tuple[CountsRow, Counted | None], ...]
    synthetic: bool
    cases: Mapping[str, tuple[int, int]]
    shared: int
    notes: tuple[str, ...]


def count_labels(table: CountsTable, out: Path, *, root: Path | None = None, emit: Emit = silent) -> CountsReproduction:
    """Indexes the data as the paper's tables 2 and 3 do, and counts.

    Args:
        table: The published table.
        out: Folder of the phantom, where no data are given.
        root: The data set's folder.
        emit: Listener.

    Returns:
        Labelled cases with an image.
    """
    if root is None:
        settings = dict(table.phantom)
        cohort = Cohort.load(write_phantom(str(settings.pop("name")), out, settings, options=table.options, emit=emit))
    else:
        cohort = data.index(table.layout, root, table.options)
    seen = [case for case in cohort.cases if "frontal" in case.cells]
    parts = {name: [case for case in seen if case.split == name] for name in ("train", "val", "test")}
    tested = {case.group for case in parts["test"]}
    specs = {spec.name: spec for spec in cohort.meta.targets}
    return CountsReproduction(
        table=table,
        lines=tuple((row, _counted(specs.get(row.target), row.label, parts)) for row in table.rows),
        synthetic=any(note.startswith("synthetic") for note in cohort.meta.notes),
        cases={name: (len(cases), len({case.group for case in cases})) for name, cases in parts.items()},
        shared=len(tested & {case.group for name in ("train", "val") for case in parts[name]}),
        notes=tuple(cohort.meta.notes),
    )


def _counted(spec: TargetSpec | None, label: str, parts: Mapping[str, Sequence[Case]]) -> Counted | None:
    if spec is None or label not in spec.classes:
        return None
    answers = {name: [_answer(spec, label, case) for case in cases] for name, cases in parts.items()}
    several = spec.kind == "multilabel"
    labelled_in = {name: sum(a is not None if several else a is True for a in own) for name, own in answers.items()}
    negative = sum(answer is False for answer in answers["test"]) if several else None
    return Counted(labelled_in["train"], labelled_in["val"], sum(answer is True for answer in answers["test"]), negative)


def _answer(spec: TargetSpec, label: str, case: Case) -> bool | None:
    """Whether a case has the class; None where nobody says so."""
    cell, k = case.cells.get(spec.name, ""), spec.classes.index(label)
    if not cell or (spec.kind == "multilabel" and k in unknown_indices(spec, cell, subject=case.id)):
        return None
    return k in label_indices(spec, cell, subject=case.id)
