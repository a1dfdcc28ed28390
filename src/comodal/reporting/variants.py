"""A published table of methods or variants beside ours: for a terminal and as Markdown, metric by metric."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from comodal.reporting.about import Facts, facts
from comodal.reporting.record import read_run
from comodal.reporting.reproduction import (
    budget_table,
    comparable,
    difference_text,
    escaped,
    listed,
    markdown_grid,
    ours_text,
    sentence,
    value_text,
)
from comodal.reporting.tables import PlainTable
from comodal.study.published_ciml import Column
from comodal.study.variants import MEAN, RegionSplit, VariantLine, VariantReproduction, fullest

_NONE = "–"
_NAMES = {"DSC": "Dice", "HD95": "HD95"}
_MOST_IN_ONE = 4  # columns of numbers that stand in one table


@dataclass(frozen=True)
class VariantText:
    """Everything that is said about a reproduction.

    Attributes:
        title: Heading.
        lead: What the numbers are, and whether they may be compared.
        numbers: Published numbers and ours, a table for each metric; then the differences.
        budget: What each run got.
        notes: Where the published numbers come from, and what ours are.
        pictures: {what is seen: file beside the page}.
    """

    title: str
    lead: str
    numbers: tuple[PlainTable, ...]
    budget: PlainTable
    notes: tuple[str, ...]
    pictures: tuple[tuple[str, str], ...] = ()

    @property
    def tables(self) -> tuple[PlainTable, ...]:
        """What a terminal shows."""
        return (*self.numbers, self.budget)

    def markdown(self) -> str:
        """The page `reproduction.md`."""
        parts = [f"# {escaped(self.title)}", escaped(self.lead)]
        for table in self.numbers:
            parts += [f"## {escaped(table.caption)}", markdown_grid(table)]
        parts += [f"![{escaped(what)}]({file})\n\n{escaped(what)}" for what, file in self.pictures]
        parts += ["## Notes", "\n".join(f"- {escaped(note)}" for note in self.notes)]
        parts += [f"## {escaped(self.budget.caption)}", markdown_grid(self.budget)]
        return "\n\n".join(parts) + "\n"


def variant_text(found: VariantReproduction) -> VariantText:
    """Puts a reproduction into words; reads the run folders.

    Args:
        found: What `comodal.study.variants.beside_variants` gives.
    """
    about = facts({label: [read_run(run) for run in runs] for label, runs in found.study.runs.items()}, found.combined)
    what = "the published numbers" if found.table.printed else "what the paper says"
    return VariantText(
        title=f"{found.table.title}: ours beside {what}",
        lead=f"{found.table.caption}. {comparable(found)}",
        numbers=(
            *(_numbers(found, columns) for columns in _families(found.table.columns)),
            *_apart(found),
            *_differences(found),
        ),
        budget=budget_table(about, folder=found.study.config.folds is not None),
        notes=tuple(_notes(found, about)),
    )


def _families(columns: Sequence[Column]) -> list[list[Column]]:
    """The columns of each metric; all together where they are few."""
    if len(columns) <= _MOST_IN_ONE:
        return [list(columns)]
    stems = dict.fromkeys(column.metric.partition("/")[0] for column in columns)
    return [[column for column in columns if column.metric.startswith(f"{stem}/")] for stem in stems]


def _named(column: Column, *, unit: bool = True) -> str:
    stem, _, region = column.metric.partition("/")
    return f"{_NAMES[stem]} {region}" + (f" ({column.unit})" if unit else "")


def _rows(found: VariantReproduction) -> list[tuple[str, str | None, dict[str, VariantLine]]]:
    rows: dict[tuple[str, str | None], dict[str, VariantLine]] = {}
    for line in found.lines:
        rows.setdefault((line.row, line.method), {})[line.metric] = line
    return [(name, method, lines) for (name, method), lines in rows.items()]


def _numbers(found: VariantReproduction, columns: Sequence[Column]) -> PlainTable:
    printed = found.table.printed
    heads = [(f"{_named(c)} published", f"{_named(c)} ours") if printed else (_named(c),) for c in columns]
    rows = []
    for name, method, lines in _rows(found):
        n = lines[columns[0].metric].ours.n
        cells = [method or _NONE, str(n) if n else _NONE]
        for column in columns:
            line = lines[column.metric]
            cells += [_published(line)] if printed else []
            cells += [value_text(line.ours) + (f" n={line.ours.n}" if line.ours.n not in (0, n) else "")]
        rows.append((name, *cells))
    head = ("published as", "method", "n", *(text for texts in heads for text in texts))
    stems = list(dict.fromkeys(_NAMES[column.metric.partition("/")[0]] for column in columns))
    return PlainTable(head, tuple(rows), f"{listed(stems)}{': published, and ours' if printed else ''} [95 % interval]")


def _published(line: VariantLine) -> str:
    if line.published is None:
        return _NONE
    return f"{line.published:.2f}" + (f" (sic; {line.correct:.2f})" if line.correct is not None else "")


def _apart(found: VariantReproduction) -> Iterable[PlainTable]:
    """Nothing where every case has every region."""
    methods = dict.fromkeys(one.method for one in found.apart)
    regions = dict.fromkeys(one.region for one in found.apart)
    if not methods:
        return
    known = {(one.method, one.region): one for one in found.apart}
    some = {one.region: one for one in found.apart}
    head = [(f"Dice {r} (%), the {some[r].n} cases with it", f"left empty, of {some[r].without} without") for r in regions]
    rows = [(method, *(text for r in regions for text in _split(known.get((method, r))))) for method in methods]
    caption = f"Ours: Dice of {listed(list(regions))} where it is, and how often none is found where it is not"
    yield PlainTable(("method", *(text for pair in head for text in pair)), tuple(rows), caption)


def _split(one: RegionSplit | None) -> tuple[str, str]:
    if one is None:
        return _NONE, _NONE
    return _NONE if one.value is None else f"{one.value:.1f}", f"{one.left_empty:.3g}"


def _differences(found: VariantReproduction) -> Iterable[PlainTable]:
    """Nothing where there is but one arm."""
    columns = found.table.columns
    rows = [
        (method, *(difference_text(lines[c.metric].difference, lines[c.metric].ours.n) for c in columns))
        for _, method, lines in _rows(found)
        if method is not None and any(line.difference is not None for line in lines.values())
    ]
    if rows:
        yield PlainTable(("method", *map(_named, columns)), tuple(rows), f"Ours: method − {found.study.reference}")


def _notes(found: VariantReproduction, about: Facts) -> list[str]:
    table = found.table
    notes = [f"Published: {table.source}. " + " ".join(table.remarks)]
    notes += [f"The paper says: {table.statement}"] if table.statement else []
    named = list(dict.fromkeys(f"{row.name}: {row.note}" for row in table.rows if row.note))
    notes += [f"Of the published numbers, {'; '.join(named)}."] if named else []
    notes += _wrong(found)
    notes += [f"Ours: {ours_text(found, about)}"]
    notes += [otherwise_text(found.otherwise, table.study)] if found.otherwise else []
    notes += [f"Conventions of ours: {_conventions(found)}"]
    if any(line.difference is not None for line in found.lines):
        notes.append(f"Differences: {_tests(found)}")
    takes = {label: fullest(runs[0]) for label, runs in found.study.results.items()}
    most = max(map(len, takes.values()))
    fewer = [f"{label} ({', '.join(names)})" for label, names in takes.items() if len(names) < most]
    notes += [f"From fewer modalities than the others: {listed(fewer)}."] if fewer else []
    missing = [row.name for row in table.rows if row.arm is None]
    notes += [f"Not run, since comodal does not have these methods: {listed(missing)}."] if missing else []
    return [*notes, *(f"Warning, {label}: {text}" for label, texts in about.warnings for text in texts)]


def otherwise_text(found: Sequence[str], study: str) -> str:
    """What was scaled down, as a note.

    Args:
        found: As `comodal.study.variants.otherwise` gives it.
        study: File of the study in the paper's configuration.
    """
    return f"Scaled down, or otherwise than in the paper's configuration ({study}): {'; '.join(found)}."


def _wrong(found: VariantReproduction) -> list[str]:
    table = found.table
    if not table.wrong:
        return []
    names = {column.metric: _named(column, unit=False) for column in table.columns}
    said = [f"{names[metric]} of {row} should be {value:.2f}" for (row, metric), value in table.wrong.items()]
    return [f"Printed means that are not those of the three numbers beside them (sic): {'; '.join(said)}."]


def _conventions(found: VariantReproduction) -> str:
    said = next(one for results in found.study.results.values() for one in results).conventions.sentences()
    metrics = [column.metric for column in found.table.columns]
    stems = dict.fromkeys(metric.partition("/")[0] for metric in metrics)
    parts = [f"{_NAMES[stem]}: {said[stem]}" for stem in stems]
    if MEAN in metrics:
        parts.append("Mean HD95 is the mean of the regions' means, as in the paper, each over the cases that it has.")
    empty = [
        f"{one.region} in {one.without} of {one.n}, so that who never finds any has {100 * one.without / one.n:.1f} %"
        for one in found.empties
        if one.without
    ]
    parts += [f"Cases without the region: {'; '.join(empty)}."] if empty else []
    if any(line.ours.state == "no cases" for line in found.lines):
        parts.append("“no cases”: in none do truth and prediction both have the region.")
    parts += [said["ci95"]]
    runs = max(found.combined.runs.values())
    parts += ["Each case is first averaged over the runs (seeds or folds) of an arm."] if runs > 1 else []
    return " ".join([*parts, *(sentence(note) for note in found.combined.notes)])


def _tests(found: VariantReproduction) -> str:
    arms = sum(label != found.study.reference for label in found.study.results)
    over = f", for each metric Holm-corrected over {arms} arms" if arms > 1 else ""
    mean = " Mean HD95 has no number per case, and so no p." if MEAN in {c.metric for c in found.table.columns} else ""
    return (
        f"arm minus {found.study.reference}, per case, on common cases; p: Wilcoxon signed-rank test over patients{over}.{mean}"
    )
