"""`comodal check`: reads every file of a cohort to its last byte and says what is wrong and what to do."""

from __future__ import annotations

import re
from collections import defaultdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from comodal.cli.answer import Answer
from comodal.cli.console import Console, table

if TYPE_CHECKING:
    from comodal.data.integrity import CheckReport, Defect

MOST_SUBJECTS = 30  # shown one by one; of more, the patterns of presence
MOST_PATTERNS = 20
FEW = 5


def check(
    cohort: Annotated[Path, typer.Argument(metavar="COHORT", help="A cohort.csv with its .yaml beside it.")],
    *,
    workers: Annotated[
        int | None, typer.Option("--workers", metavar="N", help="Processes that read; by default what the machine has.")
    ] = None,
    console: Console,
) -> Answer:
    """Reads every file to its last byte: presence, counts, defects and what to do. Exit code 2 where there is an error."""
    from comodal import api

    found = api.check(cohort, workers=workers, on_event=console.on_event)
    document = {
        "cohort": cohort,
        "defects": found.defects,
        "presence": found.presence,
        "class_counts": found.class_counts,
        "region_counts": found.region_counts,
        "texts": found.texts,
    }
    return Answer(
        document,
        show=[*_presence(found), *_counts(found), *_texts(found), *_defects(found)],
        next=f"comodal init {_first_method(found)} {cohort} --out config.yaml" if found.ok else "",
        code=0 if found.ok else 2,
    )


def _first_method(found: CheckReport) -> str:
    """A method that can be tried on such targets."""
    return "classifier" if found.class_counts and not found.region_counts else "unet"


def _presence(found: CheckReport) -> list[Any]:
    cases, counts = len(found.presence), found.counts()
    shown = [table(f"{cases} cases", ("column", "present", "absent"), [(name, n, cases - n) for name, n in counts.items()])]
    patterns = found.patterns()
    if len(patterns) < 2:
        return shown

    def marks(names: Any) -> list[str]:
        return ["●" if name in names else "○" for name in counts]

    if cases <= MOST_SUBJECTS:
        rows = [[case, *marks([name for name, there in row.items() if there])] for case, row in found.presence.items()]
        return [*shown, table("Who has what", ("case", *counts), rows)]
    lines = [[*marks(names), str(n)] for names, n in patterns[:MOST_PATTERNS]]
    title = "What cases have together" + (f", the {MOST_PATTERNS} most frequent" if len(patterns) > MOST_PATTERNS else "")
    return [*shown, table(title, (*counts, "cases"), lines)]


def _counts(found: CheckReport) -> list[Any]:
    """Classes and regions per split."""
    shown = []
    for what, tables in (("class", found.class_counts), ("region", found.region_counts)):
        for target, counts in tables.items():
            there = {split for row in counts.values() for split in row}
            splits = [split for split in ("train", "val", "test", "unsplit") if split in there]
            heads = [{"unsplit": "cases"}.get(split, split) if len(splits) == 1 else split for split in splits]
            rows = [(name, *(row.get(split, 0) for split in splits)) for name, row in counts.items()]
            shown.append(table(f"{target}: cases of each {what}", (what, *heads), rows))
    return shown


def _texts(found: CheckReport) -> list[Any]:
    """How long reports are, how many are cut at the default lengths, and how often they say the same."""
    if not found.texts:
        return []
    heads = ("column", "reports", "sentences (most)", "words (most)", "cut: sentences", "cut: words", "sentences in 5+ reports")
    rows = [
        (
            name,
            facts.reports,
            f"{facts.sentences_median:g} ({facts.sentences_max})",
            f"{facts.words_median:g} ({facts.words_max})",
            facts.more_sentences,
            facts.longer_sentences,
            f"{facts.repeated:.0%}",
        )
        for name, facts in found.texts.items()
    ]
    return [table("Reports: median of each, and how many data.max_sentences and data.max_tokens cut", heads, rows)]


def _defects(found: CheckReport) -> list[Any]:
    if not found.defects:
        return ["No defects; every file was read to its last byte."]
    columns = ("level", "subject", "modality", "what is the matter", "what to do", "file")
    rows = [_line(alike) for alike in _grouped(found.defects)]
    errors = sum(defect.level == "error" for defect in found.defects)
    return [table(f"{len(found.defects)} remarks, {errors} of them errors", columns, rows)]


def _grouped(defects: tuple[Defect, ...]) -> list[list[Defect]]:
    """Remarks that differ only in whom they are about: five hundred damaged files are one line."""
    groups: dict[tuple[str, ...], list[Defect]] = defaultdict(list)
    for defect in defects:
        rule = re.sub(r"\d+", "#", defect.rule)
        key = (
            (defect.level, defect.modality, rule, defect.do) if defect.subject else (defect.level, defect.modality, defect.rule)
        )
        groups[key].append(defect)
    return [one for group in groups.values() for one in ([group] if len(group) > FEW else [[defect] for defect in group])]


def _line(alike: list[Defect]) -> tuple[str, ...]:
    first, count = alike[0], len(alike)
    if count == 1:
        return (first.level, first.subject, first.modality, first.rule, first.do, first.file)
    subjects = ", ".join(defect.subject for defect in alike[:FEW])
    rule = f"{first.rule} (the first of {count} like it)"
    return (first.level, f"{subjects} and {count - FEW} more", first.modality, rule, first.do, first.file)
