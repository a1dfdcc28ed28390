"""`comodal check`: reads every file of a cohort to its last byte and says what is wrong and what to do."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from comodal.cli.answer import Answer
from comodal.cli.console import table

LEVELS = ("error", "warning", "note")


def check(
    cohort: Annotated[Path, typer.Argument(metavar="COHORT", help="A cohort.csv with its .yaml beside it.")],
) -> Answer:
    """Reads every file to its last byte: presence table, defects and what to do. Exit code 2 where there is an error."""
    from comodal import api

    report = api.check(cohort)
    defects = sorted(report.defects, key=lambda defect: LEVELS.index(_field(defect, "level")))
    errors = sum(_field(defect, "level") == "error" for defect in defects)
    return Answer(
        {"cohort": cohort, "defects": defects, "presence": report.presence},
        show=[*_presence(report.presence), *_defects(defects)],
        next="" if errors else f"comodal init unet {cohort} --out config.yaml",
        code=2 if errors else 0,
    )


def _field(defect: Any, name: str) -> str:
    value = defect[name] if isinstance(defect, dict) else getattr(defect, name)
    return "" if value is None else str(value)


def _presence(presence: Any) -> list[Any]:
    return []


def _defects(defects: list[Any]) -> list[Any]:
    if not defects:
        return ["No defects: every file was read to its last byte."]
    columns = ("level", "subject", "modality", "rule", "do", "file")
    return [table("", columns, [[_field(defect, name) for name in columns] for defect in defects])]
