"""Melanoma inferred from true criteria, in words: for a terminal and as Markdown."""

from __future__ import annotations

from collections.abc import Sized
from dataclasses import dataclass

from comodal.data.derm7pt_criteria import load_criteria
from comodal.reporting.reproduction import escaped, markdown_grid
from comodal.reporting.tables import PlainTable
from comodal.study.melanoma import DIAGNOSIS, OFFICIAL, PUBLISHED, REMOVED, Compared, MelanomaLine, MelanomaReproduction

_SOURCE = (
    "References: computed from the tables of the code published with Mallya and Hamarneh (2022), arXiv:2203.05683, which have "
    "408, 202 and 392 cases; the paper prints no number of true criteria."
)
_LEARNED = "Published AUROC of learned criteria on their test cases: D+C .788, D .764, C .739, G(C) .716, G(C)+C .751."


@dataclass(frozen=True)
class MelanomaText:
    """Everything that is said about it.

    Attributes:
        title: Heading.
        lead: What the numbers are.
        tables: What a terminal shows.
        notes: Sentences, the suspicious cases among them.
    """

    title: str
    lead: str
    tables: tuple[PlainTable, ...]
    notes: tuple[str, ...]

    def markdown(self) -> str:
        """The page `reproduction.md`."""
        parts = [f"# {escaped(self.title)}", escaped(self.lead)]
        for table in self.tables:
            parts += [f"## {escaped(table.caption)}", markdown_grid(table)]
        return "\n\n".join([*parts, "## Notes", "\n".join(f"- {escaped(note)}" for note in self.notes)]) + "\n"


def melanoma_text(found: MelanomaReproduction) -> MelanomaText:
    """Puts the checklist on true criteria into words.

    Args:
        found: What `comodal.study.melanoma.infer_melanoma` gives.
    """
    what = "a phantom: its numbers say nothing about patients" if found.synthetic else "the table of Derm7pt"
    lead = (
        f"The seven-point score of the true criteria against the diagnosis melanoma, on {what}, {found.rows} lesions. "
        "It is what a perfect reader of the criteria would reach: a ceiling of every method that infers melanoma from them."
    )
    variants = list(dict.fromkeys(line.variant for line in found.lines))
    return MelanomaText(
        title="Melanoma from the true seven-point criteria",
        lead=lead,
        tables=(*(_numbers(found, variant) for variant in variants), _largest(found), *_counts(found)),
        notes=(*_verdict(found), *_score(found), *_suspicious(found), *_indexed(found)),
    )


def _of(found: MelanomaReproduction, variant: str) -> list[MelanomaLine]:
    return [line for line in found.lines if line.variant == variant]


def _text(value: float | None) -> str:
    if value is None:
        return "not defined"
    return str(value) if isinstance(value, int) else f"{value:.3f}"


def _beside(one: Compared) -> str:
    """Ours, and the reference with its verdict where there is one."""
    return _text(one.ours) if one.reference is None else f"{_text(one.ours)} ({_text(one.reference)}: {one.verdict})"


def _numbers(found: MelanomaReproduction, variant: str) -> PlainTable:
    lines = _of(found, variant)
    head = ("split", *(one.name for one in lines[0].numbers))
    rows = tuple((line.split, *(_beside(one) for one in line.numbers)) for line in lines)
    told = {
        OFFICIAL: "Official split",
        PUBLISHED: f"Split of the published tables, without the cases {', '.join(REMOVED)}; in brackets the references",
    }
    return PlainTable(head, rows, told[variant])


def _largest(found: MelanomaReproduction) -> PlainTable:
    """What answering the largest class of these very cases gives."""
    lines = [line for line in found.lines if line.split == "test"] or list(found.lines)
    head = ("target", "classes", "balanced accuracy", *(f"accuracy, {line.variant}" for line in lines))
    rows = []
    for target, counts in lines[0].counts.items():
        known = sum(count > 0 for count in counts.values())
        numbers = (_beside(line.largest[target]) for line in lines)
        rows.append((target, str(len(counts)), f"{1 / max(known, 1):.3f}", *numbers))
    where = "test cases" if lines[0].split == "test" else "all cases"
    return PlainTable(head, tuple(rows), f"The largest class alone, on {where}: what any method must beat")


def _counts(found: MelanomaReproduction) -> tuple[PlainTable, ...]:
    return tuple(_count(found, target) for target in (*load_criteria().criteria, DIAGNOSIS))


def _count(found: MelanomaReproduction, target: str) -> PlainTable:
    classes = list(found.lines[0].counts[target])
    rows = [
        (
            f"{line.variant}, {line.split}",
            *(str(count) for count in line.counts[target].values()),
            "differs from the reference" if target in line.differing else "",
        )
        for line in found.lines
    ]
    return PlainTable(("cases", *classes, ""), tuple(rows), f"Label counts: {target}")


def _verdict(found: MelanomaReproduction) -> list[str]:
    if not found.release:
        return ["These are not the rows of the release, so that there are no references for its numbers."]
    differences = found.differences
    equal = "Every number that has a reference equals it." if not differences else f"Differs: {'; '.join(differences)}."
    ranking = (
        "AUROC is that of the integer score, in which ties count half; true criteria are certain, so that the expected score "
        "is the same number."
    )
    return [equal, _SOURCE, _LEARNED, ranking]


def _score(found: MelanomaReproduction) -> list[str]:
    if found.mismatches is None:
        return ["The table has no seven_point_score."]
    if not found.mismatches:
        return [f"seven_point_score equals the sum of the points of the criteria in all {found.scored} rows that have it."]
    each = ", ".join(f"{one.case_num} ({one.table}, sum {one.recomputed})" for one in found.mismatches)
    return [f"seven_point_score is not the sum of the points in {len(found.mismatches)} of {found.scored} rows: {each}."]


def _suspicious(found: MelanomaReproduction) -> list[str]:
    odd = found.suspicious
    copied = "; ".join(f"{number}{f' ({note})' if note else ''}" for number, note in odd.copied.items())
    notes = [
        f"One file named as both photographs, in {_lesions(odd.copied)}: {copied}."
        if copied
        else "No lesion names one file as both photographs."
    ]
    if odd.shared:
        shared = "; ".join(f"{name}: {', '.join(cases)}" for name, cases in odd.shared.items())
        notes.append(f"One photograph of several lesions: {shared}.")
    else:
        notes.append("No photograph is that of several lesions.")
    if odd.parted:
        parted = "; ".join(f"{name}: {', '.join(cases)}" for name, cases in odd.parted.items())
        notes.append(f"The official split parts the lesions of one case_id: {parted}.")
    else:
        notes.append("No case_id is on two sides of the official split.")
    if odd.kept or odd.lost:
        notes.append(
            f"The published tables removed {', '.join(REMOVED)}, one row too far: they still hold the copies "
            f"{', '.join(odd.kept)}, and lack the lesions {', '.join(odd.lost)}, which have two photographs."
        )
    return notes


def _lesions(names: Sized) -> str:
    return f"{len(names)} lesion" + ("" if len(names) == 1 else "s")


def _indexed(found: MelanomaReproduction) -> list[str]:
    return [f"Indexing said: {note}." for note in found.notes]
