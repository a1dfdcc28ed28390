"""`comodal check`: reads every file of a cohort to its last byte and says what is wrong and what to do."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from comodal.cli.answer import Answer
from comodal.cli.console import Console, table

if TYPE_CHECKING:
    from comodal.data.integrity import CheckReport


def check(
    cohort: Annotated[Path, typer.Argument(metavar="COHORT", help="A cohort.csv with its .yaml beside it.")],
    *,
    console: Console,
) -> Answer:
    """Reads every file to its last byte: presence table, defects and what to do. Exit code 2 where there is an error."""
    from comodal import api

    found = api.check(cohort, on_event=console.on_event)
    return Answer(
        {"cohort": cohort, "defects": found.defects, "presence": found.presence},
        show=[*_presence(found), *_defects(found)],
        next=f"comodal init unet {cohort} --out config.yaml" if found.ok else "",
        code=0 if found.ok else 2,
    )


def _presence(found: CheckReport) -> list[Any]:
    cases = len(found.presence)
    rows = [(name, count, cases - count) for name, count in found.counts().items()]
    return [table(f"{cases} cases", ("column", "present", "absent"), rows)]


def _defects(found: CheckReport) -> list[Any]:
    if not found.defects:
        return ["No defects; every file was read to its last byte."]
    columns = ("level", "subject", "modality", "what is the matter", "what to do", "file")
    rows = [(defect.level, defect.subject, defect.modality, defect.rule, defect.do, defect.file) for defect in found.defects]
    errors = sum(defect.level == "error" for defect in found.defects)
    return [table(f"{len(rows)} remarks, {errors} of them errors", columns, rows)]
