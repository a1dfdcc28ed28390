"""`comodal demo`: the whole story on a phantom, in a few minutes."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from comodal.cli.answer import Answer
from comodal.cli.console import Console

Out = Annotated[Path, typer.Option("--out", metavar="DIR", help="Folder for the cohort, the runs and the page.")]


def demo(*, out: Out = Path("comodal-demo"), console: Console) -> Answer:
    """The whole story on a phantom: cohort, check, training, all-subsets table, HTML page. A few minutes on two cores."""
    from comodal import api

    page = api.demo(out, on_event=console.on_event)
    return Answer({"page": page, "out": out}, show=[f"Everything is in {out}.", f"Open the page in a browser: {page}"])
