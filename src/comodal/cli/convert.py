"""`comodal convert`: a cohort in the layout of another tool."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from comodal.cli.answer import Answer
from comodal.cli.console import Console
from comodal.cli.options import known_name


def convert(
    cohort: Annotated[Path, typer.Argument(metavar="COHORT", help="A cohort.csv with its .yaml beside it.")],
    layout: Annotated[str, typer.Argument(metavar="LAYOUT", help="nnunet, or datalist for MONAI.")],
    *,
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="New or empty folder to write.")],
    console: Console,
) -> Answer:
    """Writes a cohort in the layout of another tool; absent modalities stay absent."""
    from comodal.data import WRITERS

    known_name(layout, WRITERS, owner="LAYOUT", kind="layout to write")
    from comodal import api

    notes = api.convert(cohort, layout, out, on_event=console.on_event)
    show = [f"Wrote {cohort} to {out} as {layout}.", *(f"note: {note}" for note in notes)]
    return Answer({"cohort": cohort, "layout": layout, "out": out, "notes": notes}, show=show)
