"""A published table beside ours: for a terminal and as Markdown, with what a reader must know before comparing the two."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

from comodal.evaluation.lacking import lacking_note
from comodal.evaluation.table import Cell, Contrast
from comodal.reporting.about import Facts, facts
from comodal.reporting.record import read_run
from comodal.reporting.tables import PlainTable, p_text
from comodal.study.guidance import GuidanceReproduction
from comodal.study.reports import ReportsReproduction
from comodal.study.reproducing import Line, Reproduction
from comodal.study.shapes import ShapesReproduction
from comodal.study.variants import VariantReproduction

AnyReproduction: TypeAlias = (
    Reproduction | VariantReproduction | ShapesReproduction | GuidanceReproduction | ReportsReproduction
)

_NONE = "–"
_BUDGET = ("method", "seed", "parameters", "steps", "time", "kept at validation")


@dataclass(frozen=True)
class ReproductionText:
    """Everything that is said about a reproduction.

    Attributes:
        title: Heading.
        numbers: Published number, our number with interval, n and differences; one line per row and method.
        budget: What each run got: parameters, steps, minutes, and at what its weights were kept.
        notes: Where the published numbers come from, and what ours are.
    """

    title: str
    numbers: PlainTable
    budget: PlainTable
    notes: tuple[str, ...]

    @property
    def tables(self) -> tuple[PlainTable, ...]:
        """What a terminal shows."""
        return (self.numbers, self.budget)

    def markdown(self) -> str:
        """The page `reproduction.md`."""
        parts = [f"# {escaped(self.title)}", escaped(self.numbers.caption), markdown_grid(self.numbers)]
        parts += [
            "\n".join(f"- {escaped(note)}" for note in self.notes),
            f"## {self.budget.caption}",
            markdown_grid(self.budget),
        ]
        return "\n\n".join(parts) + "\n"


def reproduction_text(found: Reproduction) -> ReproductionText:
    """Puts a reproduction into words; reads the run folders.

    Args:
        found: What `comodal.study.reproducing.beside` gives.
    """
    about = facts({label: [read_run(run) for run in runs] for label, runs in found.study.runs.items()}, found.combined)
    title = f"{found.table.title}: ours beside the published numbers"
    return ReproductionText(title, _numbers(found), budget_table(about), tuple(_notes(found, about)))


def _numbers(found: Reproduction) -> PlainTable:
    unit = found.table.unit
    columns = ("available", "method", "published as", f"published, {unit}", f"ours, {unit} [95 % interval]", "n")
    compared = any(line.difference for line in found.lines)
    difference = (f"{found.table.subject} − method",) if compared else ()
    rows = tuple(_row(line, compared=compared) for line in found.lines)
    return PlainTable((*columns, *difference), rows, f"{found.table.caption}. {comparable(found)}")


def budget_table(about: Facts, *, folder: bool = False) -> PlainTable:
    """What each run got.

    Args:
        about: The facts of the page.
        folder: Whether to name the folders: runs of several folds are alike in everything else.
    """
    head, *rows = about.runs
    wanted = ("method", "folder", *_BUDGET[1:]) if folder else _BUDGET
    keep = [head.index(name) for name in wanted if name in head]
    return PlainTable(tuple(head[i] for i in keep), tuple(tuple(row[i] for i in keep) for row in rows), "What each method got")


def _notes(found: Reproduction, about: Facts) -> list[str]:
    notes = [
        f"Published: {found.table.source}. " + " ".join(found.table.remarks),
        f"Ours: {ours_text(found, about)}",
        f"Conventions of ours: {_conventions(found)}",
    ]
    if any(line.difference for line in found.lines):
        notes.append(f"Differences: {_differences(found)}")
    return [*notes, *(f"Warning, {label}: {text}" for label, texts in about.warnings for text in texts)]


def comparable(found: AnyReproduction) -> str:
    """Whether what is published and ours may be compared."""
    if isinstance(found, ShapesReproduction):
        return "Ours are other pairs than the paper's, which are made up as well, and of which it prints no number."
    what = "published column"
    if isinstance(found, VariantReproduction):
        what = "published numbers" if found.table.printed else "published figure"
    if isinstance(found, GuidanceReproduction):
        what = "published numbers" if found.table.printed else "references"
    if isinstance(found, ReportsReproduction):
        what = "published numbers"
    if found.synthetic:
        return f"Ours is synthetic; not comparable with the {what}: only the order of methods may be compared."
    data, count = found.table.data, f"{found.cases} of {found.table.cases} cases"
    if found.same_data and isinstance(found, GuidanceReproduction | ReportsReproduction) and found.official:
        return f"Ours is of {data} ({found.cases} cases), on its own division."
    if found.same_data:
        return f"Ours is of {data} ({found.cases} cases), but of another split than the {what}."
    if found.some_data:
        return f"Ours is of a part of {data} ({count}): another training and another test than those of the {what}."
    ours = f"{found.cohort}, {found.cases} cases"
    return f"Ours is of other data ({ours}) than {data} ({found.table.cases} cases); not comparable with the {what}."


def _row(line: Line, *, compared: bool) -> tuple[str, ...]:
    published = _NONE if line.published is None else f"{line.published:.2f}"
    n = str(line.ours.n) if line.ours.state == "value" else _NONE
    difference = (difference_text(line.difference, line.ours.n),) if compared else ()
    return (line.row, line.method, line.column or _NONE, published, value_text(line.ours), n, *difference)


def value_text(cell: Cell) -> str:
    """A number with its interval, or why there is none."""
    if cell.state != "value":
        return cell.state
    return f"{cell.value:.1f}" + ("" if cell.ci95 is None else f" [{cell.ci95[0]:.1f}, {cell.ci95[1]:.1f}]")


def difference_text(contrast: Contrast | None, n: int) -> str:
    """A difference on one line; n where it is not that of the number beside it.

    Args:
        contrast: In the unit of the table.
        n: Cases behind the number beside it.
    """
    if contrast is None or contrast.value is None:
        return _NONE
    ends = "" if contrast.ci95 is None else f"[{signed(contrast.ci95[0])}, {signed(contrast.ci95[1])}]"
    other = f"n={contrast.n}" if contrast.n != n else ""
    return " ".join(part for part in (signed(contrast.value), ends, p_text(contrast.p_holm), other) if part)


def signed(value: float) -> str:
    """A difference with its sign and one decimal.

    >>> signed(1.26), signed(-0.01)
    ('+1.3', '0.0')
    """
    value = round(value, 1) + 0.0  # no minus before a zero
    return f"{value:{'+' if value else ''}.1f}"


def ours_text(found: AnyReproduction, about: Facts) -> str:
    """On what, with which seeds and splits."""
    known, config = dict(about.pairs), found.study.config
    seeds = ", ".join(str(seed) for seed in config.seeds)
    drawn = config.divisions or (config.splits.seed,)
    told = f"seed{'s' if len(drawn) > 1 else ''} {', '.join(map(str, drawn))}"
    split = f"{'one split' if len(drawn) == 1 else f'{len(drawn)} splits'} by patient ({told})"
    if config.folds is not None:
        split = f"folds {', '.join(map(str, config.folds))} of {config.splits.folds} by patient ({told})"
    if isinstance(found, GuidanceReproduction | ReportsReproduction) and found.official:
        split = "the cohort's own split"
    parts = [known.get("Cohort", found.cohort), split, known.get("Cases", ""), f"evaluated on: {config.split}"]
    parts += [f"seed{'s' if len(config.seeds) > 1 else ''} {seeds}", known.get("The networks see", "")]
    return " ".join([f"{'; '.join(part for part in parts if part)}.", *lacking(found), comparable(found)])


def lacking(found: AnyReproduction) -> list[str]:
    """What the training cases lack, as a sentence: it is of ours alone."""
    return [sentence(note) for note in [lacking_note(found.study.results)] if note]


def sentence(note: str) -> str:
    """A note as a sentence."""
    return f"{note[0].upper()}{note[1:]}."


def _conventions(found: Reproduction) -> str:
    said = next(one for results in found.study.results.values() for one in results).conventions.sentences()
    metric, _, region = found.table.metric.partition("/")
    runs = "Each case is first averaged over the runs of a method." if max(found.combined.runs.values()) > 1 else ""
    notes = [text for note in found.combined.notes if (text := sentence(note)) not in lacking(found)]
    parts = [f"{metric} of {region}.", said[metric], _empty(found, region), said["ci95"], runs, *notes]
    return " ".join(part for part in parts if part)


def _empty(found: Reproduction, region: str) -> str:
    """How many cases have no such region: in them a method that finds nothing may be right."""
    known = {(line.ours.n, line.ours.n_neg) for line in found.lines if line.ours.n_neg is not None}
    scale, unit = found.table.scale, found.table.unit
    return " ".join(
        f"Without {region}: {negative} of {n} cases, so that who never finds any has {scale * negative / n:.1f} {unit}."
        for n, negative in sorted(known)
        if negative
    )


def _differences(found: Reproduction) -> str:
    arms = list(dict.fromkeys(line.method for line in found.lines if line.difference))
    tests = sum(line.difference is not None and line.difference.p_value is not None for line in found.lines)
    return (
        f"{found.table.subject} minus {listed(arms)}, per case, on common cases; p: Wilcoxon signed-rank test over patients, "
        f"Holm-corrected over these {tests} tests."
    )


def listed(words: Sequence[str]) -> str:
    """Words with commas and "and"."""
    return " and ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)


def markdown_grid(table: PlainTable) -> str:
    """A table's columns and rows in Markdown, without its caption."""
    lines = [table.columns, ["---"] * len(table.columns), *table.rows]
    return "\n".join("| " + " | ".join(escaped(text) for text in line) + " |" for line in lines)


def escaped(text: str) -> str:
    """Text that Markdown shows as it is."""
    return text.replace("\\", "\\\\").replace("|", "\\|").replace("<", "&lt;").replace("\n", " ")
