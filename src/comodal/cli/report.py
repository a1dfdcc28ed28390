"""`comodal report`: one self-contained page."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from comodal.cli.answer import Answer


def report(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN...", help="Run folders that have been evaluated.")],
    *,
    out: Annotated[Path, typer.Option("--out", metavar="HTML", help="Page to write.")],
) -> Answer:
    """Writes one self-contained page about one or several runs."""
    from comodal import api

    page = api.report(runs, out=out)
    return Answer({"page": page, "runs": runs}, show=[f"Open the page in a browser: {page}"])
