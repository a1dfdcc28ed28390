"""A published table of guidance beside ours: I, S, S + I, G(I) and G(I) + I, each read from one and the same runs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from comodal.data.cohort import Cohort
from comodal.data.phantoms.ceilings import FILE as CEILINGS
from comodal.errors import DataError
from comodal.evaluation.comparison import combine
from comodal.evaluation.gap import GapClosed, gap_closed
from comodal.evaluation.melanoma import MelanomaTable, melanoma_of
from comodal.evaluation.paired_tests import PairedTest, paired_tests
from comodal.evaluation.results import Results
from comodal.evaluation.statistics import holm
from comodal.evaluation.table import Cell, Contrast, StudyTable
from comodal.run import read_json
from comodal.study.published_guidance import GuidanceColumn, GuidanceTable, ReadOut, derived_change
from comodal.study.reproducing import FOLDER, ComparedData, labelled
from comodal.study.study import StudyConfig, StudyResult, load_study
from comodal.study.variants import otherwise

METHOD = "guidance"
READ_OUT = "guided"  # where an arm does not say how it is read
# The paper, section 5: the first of each is better than the second.
ORDERS: tuple[tuple[ReadOut, ReadOut], ...] = (
    ("superior", "inferior"),
    ("both", "superior"),
    ("inferior", "guide"),
    ("guided", "inferior"),
)


@dataclass(frozen=True)
class GuidanceLine:
    """One number.

    Attributes:
        column, row: As printed.
        metric: "balanced_accuracy" or "accuracy".
        method: Label of the arm; None where the study has none.
        published: The printed number; None where there is none.
        legible: Whether what is printed there can be read.
        ours: Our number.
        ceiling: The best that is possible from what the row sees, where the phantom says it.
    """

    column: str
    row: str
    metric: str
    method: str | None
    published: float | None
    legible: bool
    ours: Cell
    ceiling: float | None = None


@dataclass(frozen=True)
class GuidanceGain:
    """G(I) + I against I in one column and one metric.

    Attributes:
        column, metric: See `GuidanceLine`.
        published: Printed improvement in percent of I; None where there is none.
        derived: The same from the printed numbers.
        percent: Ours.
        ci95: Its interval: that of the difference, in percent of the I that was found.
        difference: G(I) + I minus I; p is Holm-corrected over the columns. None where one of them is not there.
        closed: What share of the gap to S + I is closed; None without S + I.
    """

    column: str
    metric: str
    published: float | None
    derived: float | None
    percent: float | None
    ci95: tuple[float, float] | None
    difference: Contrast | None
    closed: GapClosed | None


@dataclass(frozen=True)
class GuidanceTest:
    """McNemar's test of G(I) + I against I in one column; p is Holm-corrected over the columns."""

    column: str
    published: float | None
    ours: PairedTest


@dataclass(frozen=True)
class GuidanceOrder:
    """Which of two rows is better, counted over the columns that have both.

    Attributes:
        better, worse: Names of rows: the paper says in words that the first is better.
        metric: See `GuidanceLine`.
        published: (columns in which its numbers say so, columns); equal ones, printed twice, count once.
        ours: The same in ours.
        clear: Columns in which ours says so clearly: by the interval over patients, and by p after Holm's correction over them.
        reversed: Columns in which ours clearly says the opposite.
    """

    better: str
    worse: str
    metric: str
    published: tuple[int, int]
    ours: tuple[int, int]
    clear: int
    reversed: int


@dataclass(frozen=True)
class MelanomaLine:
    """Melanoma inferred from the criteria, by one row."""

    row: str
    method: str
    published: float | None
    ours: MelanomaTable


@dataclass(frozen=True)
class GuidanceReproduction(ComparedData):
    """A published table of guidance, and ours.

    Attributes:
        table: The published one.
        study: What was run.
        lines: Column by column, row by row, metric by metric.
        gains: Column by column, metric by metric.
        tests: Column by column, as far as both arms are there.
        orders: What the paper says of the order of rows, and in how many columns it holds; those that ours can tell.
        melanoma: Row by row; empty where the table has no such inference, or the criteria are not all there.
        combined: Our numbers of the first arm as a table of their own.
        cohort: What ours was run on, as tables call it.
        synthetic: Whether that is a phantom.
        same_layout: Whether its layout is that of the paper's data.
        official: Whether the cohort's own division is used.
        cases: How many of its cases have an answer.
        otherwise: What ours has otherwise than the study in the paper's configuration, in words.
    """

    table: GuidanceTable
    study: StudyResult
    lines: tuple[GuidanceLine, ...]
    gains: tuple[GuidanceGain, ...]
    tests: tuple[GuidanceTest, ...]
    orders: tuple[GuidanceOrder, ...]
    melanoma: tuple[MelanomaLine, ...]
    combined: StudyTable
    cohort: str
    synthetic: bool
    same_layout: bool
    official: bool
    cases: int
    otherwise: tuple[str, ...]


def beside_guidance(table: GuidanceTable, study: StudyResult) -> GuidanceReproduction:
    """Puts the results of a study beside the published numbers.

    Args:
        table: The published table.
        study: What was run; a read-out that the user has taken out is "not run".
    """
    arms = {arm: _read(table, study, arm) for arm in table.arms}
    known = {arm: found for arm, found in arms.items() if found is not None}
    cohort = Cohort.load(Path(study.config.cohort))
    ceilings = _ceilings(Path(study.config.cohort).parent / CEILINGS)
    cases = labelled(cohort)
    first = next(iter(known.values()))
    return GuidanceReproduction(
        table=table,
        study=study,
        lines=tuple(line for column in table.columns for line in _lines(table, column, arms[column.arm], ceilings)),
        gains=tuple(_corrected(gain for column in table.columns for gain in _gains(table, column, arms[column.arm]))),
        tests=tuple(_tests(table, known)),
        orders=tuple(_orders(table, known)),
        melanoma=tuple(_melanoma(table, first)) if table.checklist else (),
        combined=first.combined,
        cohort=next(found[0].cohort for found in study.results.values()),
        synthetic=any(note.startswith("synthetic") for note in cohort.meta.notes),
        same_layout=cohort.meta.layout == table.layout,
        official=study.config.splits.column and any(case.split for case in cohort.cases),
        cases=cases,
        otherwise=(*_fractions(table, study.config), *otherwise(table, study.config, cases)),
    )


@dataclass(frozen=True)
class _Read:
    """One trained arm and all that is read from it.

    Attributes:
        labels: {read-out: label of the arm}.
        results: {read-out: results of its runs}.
        combined: All of them, minus I where it is there.
    """

    labels: Mapping[str, str]
    results: Mapping[str, Sequence[Results]]
    combined: StudyTable

    def cell(self, read_out: str, name: str) -> Cell:
        label = self.labels.get(read_out)
        return Cell("not run") if label is None else self.combined.rows[-1].cells[label].get(name, Cell("no cases"))

    def contrast(self, name: str) -> Contrast | None:
        """G(I) + I minus I."""
        if not {"guided", "inferior"} <= self.labels.keys():
            return None
        return self.combined.rows[-1].contrasts.get(self.labels["guided"], {}).get(name)

    def used(self, read_out: str) -> frozenset[str]:
        """What it predicts from."""
        return frozenset(name for run in self.results.get(read_out, ()) for case in run.cases for name in case.used or ())


def _read(table: GuidanceTable, study: StudyResult, arm: str) -> _Read | None:
    """Nothing where the user has taken the arm out."""
    labels = {read_out: label for (own, read_out), label in read_outs(study.config).items() if own == arm}
    if not labels:
        return None
    results = {read_out: study.results[label] for read_out, label in labels.items()}
    order = sorted(labels, key=lambda one: one != "inferior")  # it is the reference
    wanted = [f"{metric}/{target}" for target in table.targets for metric in table.metrics]
    return _Read(labels, results, combine({labels[one]: results[one] for one in order}, metrics=wanted))


def read_outs(config: StudyConfig) -> dict[tuple[str, str], str]:
    """{(label of the arm that is trained, how it is read): label of the arm that is that}, the first of each.

    Args:
        config: Of a study; arms of other methods are passed over.
    """
    found: dict[tuple[str, str], str] = {}
    for arm in config.methods:
        whole = config.whole(arm)
        if whole.name == METHOD:
            found.setdefault((arm.of or arm.title, str(whole.config.get("read_out", READ_OUT))), arm.title)
    return found


def _lines(
    table: GuidanceTable, column: GuidanceColumn, read: _Read | None, ceilings: Mapping[tuple[str, frozenset[str]], float]
) -> Iterable[GuidanceLine]:
    for row in table.rows:
        for metric in table.metrics:
            name, published = f"{metric}/{column.target}", column.published.get((row.name, metric))
            legible = (row.name, metric) not in column.published or published is not None
            where = (column.name, row.name, metric)
            if read is None:
                yield GuidanceLine(*where, None, published, legible, Cell("not run"))
                continue
            ceiling = ceilings.get((name, read.used(row.read_out)))
            label = read.labels.get(row.read_out)
            yield GuidanceLine(*where, label, published, legible, read.cell(row.read_out, name), ceiling)


def _ceilings(file: Path) -> dict[tuple[str, frozenset[str]], float]:
    """{(metric, modalities): best score}, from what the phantom says beside the cohort."""
    if not file.is_file():
        return {}
    return {(item["metric"], frozenset(item["present"])): float(item["value"]) for item in read_json(file, CEILINGS)}


def _gains(table: GuidanceTable, column: GuidanceColumn, read: _Read | None) -> Iterable[GuidanceGain]:
    guided, inferior = table.row("guided").name, table.row("inferior").name
    for metric in table.metrics:
        name = f"{metric}/{column.target}"
        derived = derived_change(column, metric, guided=guided, inferior=inferior)
        difference = None if read is None else read.contrast(name)
        base = Cell("not run") if read is None else read.cell("inferior", name)
        percent, ends = None, None
        if difference is not None and difference.value is not None and base.state == "value" and base.value > 0:
            percent = 100 * difference.value / base.value
            low, high = difference.ci95 or (None, None)
            ends = None if low is None or high is None else (100 * low / base.value, 100 * high / base.value)
        yield GuidanceGain(
            column=column.name,
            metric=metric,
            published=column.change.get(metric),
            derived=derived,
            percent=percent,
            ci95=ends,
            difference=difference,
            closed=_closed(read, name),
        )


def _closed(read: _Read | None, name: str) -> GapClosed | None:
    if read is None or not {"inferior", "guided", "both"} <= read.labels.keys():
        return None
    return gap_closed(*(read.results[one] for one in ("inferior", "guided", "both")), metric=name)


def _corrected(gains: Iterable[GuidanceGain]) -> list[GuidanceGain]:
    """Holm's correction, metric by metric, over the columns."""
    found = list(gains)
    for metric in dict.fromkeys(gain.metric for gain in found):
        places = [i for i, gain in enumerate(found) if gain.metric == metric]
        known = [found[i].difference for i in places]
        for i, contrast, p in zip(places, known, holm([c.p_value if c else None for c in known]), strict=True):
            if contrast is not None:
                found[i] = replace(found[i], difference=replace(contrast, p_holm=p))
    return found


def _tests(table: GuidanceTable, arms: Mapping[str, _Read]) -> Iterable[GuidanceTest]:
    """McNemar's, one for each column."""
    found: list[GuidanceTest] = []
    for column in table.columns:
        read = arms.get(column.arm)
        if read is None or not {"guided", "inferior"} <= read.labels.keys():
            continue
        guided, inferior = read.results["guided"], read.results["inferior"]
        lines = paired_tests(guided, inferior, targets=[column.target], metrics=())
        found += [GuidanceTest(column.name, column.p_value, line) for line in lines if line.test == "McNemar"]
    for test, p in zip(found, holm([test.ours.p_value for test in found]), strict=True):
        yield replace(test, ours=replace(test.ours, p_holm=p))


def _orders(table: GuidanceTable, arms: Mapping[str, _Read]) -> Iterable[GuidanceOrder]:
    """Pair by pair, metric by metric."""
    for better, worse in ORDERS:
        over, under = table.row(better).name, table.row(worse).name
        pairs = {arm: _against(read, better, worse) for arm, read in arms.items()}
        for metric in table.metrics:
            printed = {(c.published.get((over, metric)), c.published.get((under, metric))) for c in table.columns}
            says = [one > two for one, two in printed if one is not None and two is not None]
            found = [pairs.get(column.arm, {}).get(f"{metric}/{column.target}") for column in table.columns]
            known = [contrast for contrast in found if contrast is not None and contrast.value is not None]
            corrected = holm([contrast.p_value for contrast in known])
            known = [replace(contrast, p_holm=p) for contrast, p in zip(known, corrected, strict=True)]
            above = [(contrast.value or 0.0) > 0 for contrast in known]
            clear = [contrast.clear for contrast in known]
            ours = sum(above), len(known)
            sides = sum(map(all, zip(above, clear, strict=True))), sum(c and not a for a, c in zip(above, clear, strict=True))
            if known:
                yield GuidanceOrder(over, under, metric, (sum(says), len(says)), ours, *sides)


def _against(read: _Read, better: ReadOut, worse: ReadOut) -> Mapping[str, Contrast]:
    """{metric: one read-out minus another}; nothing where one of them is missing."""
    if not {better, worse} <= read.labels.keys():
        return {}
    table = combine({label: read.results[label] for label in (worse, better)}, metrics=read.combined.metrics)
    return table.rows[-1].contrasts[better]


def _melanoma(table: GuidanceTable, read: _Read) -> Iterable[MelanomaLine]:
    for row in table.rows:
        if row.read_out in read.labels:
            try:
                found = melanoma_of(read.results[row.read_out])
            except DataError:  # a study that the user has changed may lack criteria
                return
            yield MelanomaLine(row.name, read.labels[row.read_out], table.melanoma.get(row.name), found)


def _fractions(table: GuidanceTable, config: StudyConfig) -> Iterable[str]:
    """How the parts are sized, where that differs from the paper's configuration and no column decides it."""
    paper = load_study(FOLDER / table.study).splits
    if config.splits.fractions != paper.fractions:
        ours, theirs = (" / ".join(f"{part:.0%}" for part in one.fractions) for one in (config.splits, paper))
        yield f"training / validation / test {ours} instead of {theirs}"


def improved(found: GuidanceReproduction, metric: str) -> list[tuple[str, float | None, GuidanceGain]]:
    """(column, published improvement in percent, ours) of a metric; the printed one where there is one, else the derived.

    Args:
        found: What `beside_guidance` gives.
        metric: Which.
    """
    gains = [gain for gain in found.gains if gain.metric == metric]
    return [(gain.column, gain.derived if gain.published is None else gain.published, gain) for gain in gains]
