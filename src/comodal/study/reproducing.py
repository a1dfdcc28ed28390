"""A published table done again: cohort and study are laid out in a folder, and its results put beside the published numbers."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

from comodal import data
from comodal.config import choose_targets
from comodal.data.cohort import Cohort
from comodal.data.columns import read_meta
from comodal.data.phantoms.writing import SETTINGS
from comodal.errors import ConfigError, DataError, message
from comodal.evaluation.comparison import combine
from comodal.evaluation.results import CaseResult, Results, SubsetResult
from comodal.evaluation.statistics import holm
from comodal.evaluation.table import Cell, Contrast, StudyTable
from comodal.study.cohorts import check_files, check_phantom, write_phantom
from comodal.study.published import AnyTable, PublishedTable
from comodal.study.published_ciml import ShapesTable
from comodal.study.published_guidance import GuidanceTable
from comodal.study.published_reports import ReportsTable
from comodal.study.study import Arm, StudyResult, arm_config, load_study
from comodal.training.events import Emit, Said, silent

FOLDER = Path(__file__).parent / "tables"

_Measured = TypeVar("_Measured", SubsetResult, CaseResult)


class ComparedData:
    """Whose data ours are, as far as what a reproduction holds tells."""

    table: AnyTable
    synthetic: bool
    same_layout: bool
    cases: int

    @property
    def same_data(self) -> bool:
        """Whether these are the data of the paper, as far as layout and number of cases tell."""
        return self.some_data and self.cases == self.table.cases

    @property
    def some_data(self) -> bool:
        """Whether these are the data of the paper or a part of them."""
        return self.same_layout and not self.synthetic and self.cases <= self.table.cases


@dataclass(frozen=True)
class Line:
    """One method in one row of the table, in the unit of the published numbers.

    Attributes:
        row: Name of the row, as printed.
        present: The modalities that there are at test.
        method: Label of the arm.
        column: Its column in the published table; None where it has none.
        published: The number there; None where there is none.
        ours: Our number.
        difference: The table's subject minus this method; None where the two are not compared.
    """

    row: str
    present: tuple[str, ...]
    method: str
    column: str | None
    published: float | None
    ours: Cell
    difference: Contrast | None = None


@dataclass(frozen=True)
class Reproduction(ComparedData):
    """A published table whose rows are subsets of modalities, and ours.

    Attributes:
        table: The published one.
        study: What was run.
        lines: Row by row: the published columns in their order, then the arms that the paper does not have.
        combined: Our numbers of these rows as a table of their own, as fractions.
        cohort: What ours was run on, as tables call it.
        synthetic: Whether that is a phantom.
        same_layout: Whether its layout is that of the paper's data.
        cases: How many of its cases have a label map.
    """

    table: PublishedTable
    study: StudyResult
    lines: tuple[Line, ...]
    combined: StudyTable
    cohort: str
    synthetic: bool
    same_layout: bool
    cases: int


def prepare_table(table: AnyTable, out: Path, *, root: Path | None = None, emit: Emit = silent) -> Path:
    """Lays out cohort and study in a folder, as far as they are not there, and checks the files before the first training.

    Args:
        table: The published table.
        out: Folder.
        root: The data set's folder; None writes the phantom.
        emit: Listener.

    Returns:
        The study.yaml: the shipped one, or what the user has made of it.

    Raises:
        ConfigError: The folder holds another cohort, an arm of the study does not measure what the table shows, or data are
            given for a table that has none.
        DataError: A file of the cohort is damaged, or no case has a label map.
    """
    csv = out / "cohort.csv"
    if root is not None:
        if isinstance(table, ShapesTable) or not table.data:
            rule, do = "be left out, since this table has no data set but the phantom", "Leave --data out"
            raise ConfigError(message("--data", rule, root, do=do))
        _index(table, root, csv, emit)
    else:
        settings = dict(table.phantom)
        name = str(settings.pop("name"))
        check_phantom(csv, name)
        if csv.is_file():
            _say_other_phantom(out / "files" / SETTINGS, settings, emit)
        else:
            told = ", ".join(f"{key} {value}" for key, value in settings.items())
            instead = f", in the place of {table.data}" if table.data else ""
            emit(Said("info", f"writing the {name} phantom ({told}){instead}"))
            write_phantom(name, out, settings, options=table.options if isinstance(table, ReportsTable) else None, emit=emit)
    if not (out / "runs").is_dir():
        _check(csv, emit)
    file = _lay_study(table.study if root is not None else table.phantom_study, out, emit)
    _check_measured(table, file)
    return file


def _say_other_phantom(file: Path, settings: Mapping[str, object], emit: Emit) -> None:
    """A phantom of another size is used as it is; one that another table has left here is so by accident, and this tells."""
    made = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    other = [f"{key} {made[key]} instead of {value}" for key, value in settings.items() if made.get(key, value) != value]
    if other:
        emit(Said("info", f"the phantom in {file.parent} has {', '.join(other)}; it is used as it is"))


def _index(table: AnyTable, root: Path, csv: Path, emit: Emit) -> None:
    """Indexes the data, or finds them indexed; a yaml without its csv is what an interrupted call has left."""
    if any(file.exists() for file in (csv, csv.with_suffix(".yaml"))):
        meta = Cohort.load(csv).meta if csv.exists() else read_meta(csv.with_suffix(".yaml"))
        theirs = os.path.realpath(csv.parent / meta.root)
        if meta.layout != table.layout or theirs != os.path.realpath(root):
            rule, got = f"hold no cohort but that of {root} in the layout {table.layout}", f"one of {theirs} ({meta.layout})"
            raise ConfigError(message("--out", rule, got, file=str(csv), do="Choose another folder, or leave --data out"))
        if csv.exists():
            return
    emit(Said("info", f"indexing {table.data} (layout {table.layout})"))
    found = data.index(table.layout, root, _options(table))
    if not labelled(found):
        rule, got = "be data from which one can learn", "no case with a label map"
        raise DataError(message("--data", rule, got, file=str(root), do=f"Give {table.data}"))
    csv.parent.mkdir(parents=True, exist_ok=True)
    found.save(csv)


def _options(table: AnyTable) -> Mapping[str, object] | None:
    """What the layout is told."""
    return table.options if isinstance(table, GuidanceTable | ReportsTable) else None


def labelled(cohort: Cohort) -> int:
    """How many cases have a target."""
    return sum(any(target.name in case.cells for target in cohort.targets) for case in cohort.cases)


def _check_measured(table: AnyTable, file: Path) -> None:
    """An arm without the table's regions would be trained for hours, and have no number in it; so would another table's."""
    study = load_study(file)
    theirs, own = _arms_of(table), [arm.title for arm in study.methods]
    if theirs and not set(theirs) & set(own):
        rule, do = f"include an arm of this table ({', '.join(theirs)})", "Choose another --out: this study is of another table"
        raise ConfigError(message("study.methods", rule, ", ".join(own), file=str(file), do=do))
    targets = Cohort.load(Path(study.cohort)).targets
    shown = ", ".join(table.regions)
    for arm in study.methods:
        if isinstance(table, ShapesTable) and arm.name != table.method:
            rule, got = f"be {table.method} in every arm of this table", f"{arm.name} in {arm.title}"
            raise ConfigError(message("study.methods", rule, got, file=str(file), do="Take the arm out"))
        config = arm_config(study, arm, seed=0, fold=None, cache=file.parent / "cache", look=False).data
        known = [name for target in choose_targets(targets, config) for name in target.classes]
        if isinstance(table, GuidanceTable | ReportsTable) and arm.title in table.arms:
            _check_arm(table, study.whole(arm), [target.name for target in choose_targets(targets, config)], file)
        if not set(table.regions) <= set(known):
            rule, got = f"include {shown}, which the table shows, in every arm", f"{', '.join(known)} in {arm.title}"
            do = f"Write data.regions: [{shown}], or take the arm out"
            raise ConfigError(message("data.regions", rule, got, file=str(file), do=do))


def _check_arm(table: GuidanceTable | ReportsTable, arm: Arm, targets: Sequence[str], file: Path) -> None:
    theirs = {row.arm: row.method for row in table.rows} if isinstance(table, ReportsTable) else {}
    method = theirs.get(arm.title, "guidance")
    if arm.name != method:
        rule, got = f"be {method} in the arms of this table", f"{arm.name} in {arm.title}"
        raise ConfigError(message("study.methods", rule, got, file=str(file), do="Give an arm of another method its own label"))
    missing = [name for name in table.targets if name not in targets]
    if missing:
        rule, got = f"include {', '.join(table.targets)}, which the table shows", f"{', '.join(targets)} in {arm.title}"
        do = "Write them under data.targets, or take the arm out"
        raise ConfigError(message("data.targets", rule, got, file=str(file), do=do))


def _arms_of(table: AnyTable) -> list[str]:
    """Labels of the arms that have a place in the table; none where every arm has one."""
    if isinstance(table, PublishedTable):
        return list(table.columns.values())
    if isinstance(table, GuidanceTable | ReportsTable):
        return list(table.arms)
    if isinstance(table, ShapesTable):
        return []
    return [row.arm for row in table.rows if row.arm is not None]


def _check(csv: Path, emit: Emit) -> None:
    """A damaged file is found now, not after hours of training."""
    report = check_files(csv, emit=emit)
    emit(Said("info", f"checked every file to its last byte: {len(report.defects)} remarks"))
    errors = [defect for defect in report.defects if defect.level == "error"]
    if errors:
        first = errors[0]
        got = f"{len(errors)}, the first: {first.rule}"
        do = f"Mend it or take the row out; comodal check {csv} lists them all"
        where = {"subject": first.subject or None, "modality": first.modality or None, "file": first.file or str(csv)}
        raise DataError(message("cohort", "have no errors", got, do=do, **where))


def _lay_study(name: str, out: Path, emit: Emit) -> Path:
    """Copies the shipped study, or leaves the one that is there alone and says so where it differs."""
    shipped, own = (FOLDER / name).read_text(encoding="utf-8"), out / "study.yaml"
    if not own.is_file():
        own.write_text(shipped, encoding="utf-8")
    elif own.read_text(encoding="utf-8") != shipped:
        emit(Said("info", f"{own} differs from the one that comes with comodal ({name}); it is used as it is"))
    return own


def beside(table: PublishedTable, study: StudyResult) -> Reproduction:
    """Puts the results of a study beside the published numbers.

    Args:
        table: The published table.
        study: What was run; an arm that the user has taken out is "not run".

    Returns:
        Both, line by line. The p values of the differences are Holm-corrected over all rows and comparisons of the table.
    """
    results = {label: [_only(table, one) for one in found] for label, found in study.results.items()}
    missing = [label for label in table.columns.values() if label not in results]
    combined = combine(results | {label: [] for label in missing})
    cells = {frozenset(row.present): row.cells for row in combined.rows}
    differences = _differences(table, results)
    column_of = {arm: column for column, arm in table.columns.items()}
    order = [*column_of, *(label for label in results if label not in column_of)]
    lines = []
    for row in table.rows:
        for arm in order:
            cell = cells.get(frozenset(row.present), {}).get(arm, {}).get(table.metric, Cell("not run"))
            column = column_of.get(arm)
            published = row.numbers.get(column) if column is not None else None
            difference = differences.get((row.name, arm))
            lines.append(Line(row.name, row.present, arm, column, published, _cell(cell, table.scale), difference))
    cohort = Cohort.load(Path(study.config.cohort))
    return Reproduction(
        table=table,
        study=study,
        lines=tuple(lines),
        combined=combined,
        cohort=next(found[0].cohort for found in study.results.values()),
        synthetic=any(note.startswith("synthetic") for note in cohort.meta.notes),
        same_layout=cohort.meta.layout == table.layout,
        cases=labelled(cohort),
    )


def _only(table: PublishedTable, results: Results) -> Results:
    """The table's rows and metric of a result: intervals and corrections are then over what is shown."""
    rows = {frozenset(row.present) for row in table.rows}
    subsets = tuple(_of_metric(row, table.metric) for row in results.subsets if frozenset(row.present) in rows)
    cases = tuple(_of_metric(case, table.metric) for case in results.cases if frozenset(case.present) in rows)
    return results.model_copy(update={"subsets": subsets, "cases": cases})


def _of_metric(item: _Measured, metric: str) -> _Measured:
    return item.model_copy(update={"metrics": {name: value for name, value in item.metrics.items() if name == metric}})


def _differences(table: PublishedTable, results: Mapping[str, Sequence[Results]]) -> dict[tuple[str, str], Contrast]:
    """{(row, arm): the table's subject minus the arm}, each comparison with its own reference, one correction over all."""
    if table.subject not in results:
        return {}
    found: dict[tuple[str, str], Contrast] = {}
    for arm in (label for label in table.against if label in results):
        pair = combine({arm: results[arm], table.subject: results[table.subject]})
        by_row = {frozenset(row.present): row.contrasts.get(table.subject, {}).get(table.metric) for row in pair.rows}
        for row in table.rows:
            contrast = by_row.get(frozenset(row.present))
            if contrast is not None:
                found[row.name, arm] = contrast
    corrected = holm([contrast.p_value for contrast in found.values()])
    return {key: _contrast(c, table.scale, p) for (key, c), p in zip(found.items(), corrected, strict=True)}


def _cell(cell: Cell, scale: float) -> Cell:
    ends = None if cell.ci95 is None else (scale * cell.ci95[0], scale * cell.ci95[1])
    return replace(cell, value=scale * cell.value, ci95=ends)


def _contrast(contrast: Contrast, scale: float, p_holm: float | None) -> Contrast:
    value = None if contrast.value is None else scale * contrast.value
    ends = None if contrast.ci95 is None else (scale * contrast.ci95[0], scale * contrast.ci95[1])
    return replace(contrast, value=value, ci95=ends, p_holm=p_holm)
