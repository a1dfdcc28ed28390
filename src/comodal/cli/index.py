"""`comodal index`: a folder in a known layout becomes a cohort."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from comodal.cli.answer import Answer
from comodal.cli.console import table
from comodal.cli.options import known_name, values


def index(
    layout: Annotated[str, typer.Argument(metavar="LAYOUT", help="Name of the layout; `comodal layouts` lists them.")],
    root: Annotated[Path, typer.Argument(metavar="ROOT", help="Folder to scan, or for csv your table.")],
    *,
    out: Annotated[Path, typer.Option("--out", metavar="CSV", help="Cohort to write; a .yaml goes beside it.")],
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="What the layout can be told, e.g. uncertain=ones (repeatable)."),
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Write a cohort anew that is there.")] = False,
) -> Answer:
    """Scans a folder of a known layout into a cohort."""
    from comodal.data import DATASETS

    known_name(layout, DATASETS, owner="LAYOUT", kind="layout")
    from comodal import api

    cohort = api.index(
        layout, root, out, options=values(settings or [], option="--set", example="uncertain=ones"), overwrite=overwrite
    )
    presence = cohort.presence()
    counts = {name: int(presence[name].sum()) for name in presence.columns}
    subjects = len({case.subject for case in cohort.cases})
    document = {
        "cohort": out,
        "layout": layout,
        "subjects": subjects,
        "cases": len(cohort.cases),
        "present": counts,
        "targets": {target.name: list(target.classes) for target in cohort.targets},
        "notes": list(cohort.meta.notes),
    }
    title = f"{subjects} subjects, {len(cohort.cases)} cases"
    rows = [(name, count, len(cohort.cases) - count) for name, count in counts.items()]
    notes = [f"note: {note}" for note in cohort.meta.notes]
    show = [table(title, ("modality", "present", "absent"), rows), *notes, f"Cohort: {out}"]
    return Answer(document, show=show, next=f"comodal check {out}")
