"""`comodal join`: cohorts of the same patients become one."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from comodal.cli.answer import Answer
from comodal.cli.console import table
from comodal.cli.options import known_name, values

ON = ("auto", "subject", "group")
KEEP = ("both", "all")


def join(
    cohorts: Annotated[
        list[str],
        typer.Argument(metavar="COHORT COHORT...", help="Two or more: a cohort.csv, or LAYOUT:ROOT, which is indexed first."),
    ],
    *,
    out: Annotated[Path, typer.Option("--out", metavar="CSV", help="Cohort to write; a .yaml goes beside it.")],
    on: Annotated[
        str,
        typer.Option(
            "--on", metavar="auto|subject|group", help="Who belongs together: equal ids, one patient, or first the one."
        ),
    ] = "auto",
    keep: Annotated[
        str, typer.Option("--keep", metavar="both|all", help="Only cases that every cohort has, or all, with blank cells.")
    ] = "both",
    settings: Annotated[
        list[str] | None,
        typer.Option(
            "--set", metavar="LAYOUT.KEY=VALUE", help="What a layout can be told, e.g. radpath.microns=4 (repeatable)."
        ),
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Write a cohort anew that is there.")] = False,
) -> Answer:
    """Joins cohorts of the same patients: radiology from one folder, pathology from another."""
    known_name(on, ON, owner="--on", kind="word")
    known_name(keep, KEEP, owner="--keep", kind="word")
    from comodal import api

    options = values(settings or [], option="--set", example="radpath.microns=4")
    cohort = api.join(cohorts, out, on=on, keep=keep, options=options, overwrite=overwrite)  # type: ignore[arg-type]
    presence = cohort.presence()
    counts = {name: int(presence[name].sum()) for name in presence.columns}
    every = int(presence.all(axis=1).sum())
    document = {
        "cohort": out,
        "layout": cohort.meta.layout,
        "cases": len(cohort),
        "complete": every,
        "present": counts,
        "targets": {target.name: list(target.classes) for target in cohort.targets},
        "notes": list(cohort.meta.notes),
    }
    rows = [(name, count, len(cohort) - count) for name, count in counts.items()]
    notes = [f"note: {note}" for note in cohort.meta.notes]
    title = f"{len(cohort)} cases, {every} with every modality"
    show = [table(title, ("modality", "present", "absent"), rows), *notes, f"Cohort: {out}"]
    return Answer(document, show=show, next=f"comodal check {out}")
