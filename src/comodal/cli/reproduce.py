"""`comodal reproduce`: one published table, ours beside the published numbers."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from comodal.cli.answer import Answer
from comodal.cli.console import Console
from comodal.cli.options import known_name
from comodal.study.published import TABLES

_KNOWN = "; ".join(f"{name}: {table.title}. {table.caption}" for name, table in TABLES.items())


def reproduce(
    name: Annotated[str, typer.Argument(metavar="TABLE", help=f"Which table. {_KNOWN}.")],
    *,
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="Folder for cohort, study, runs and tables.")],
    data: Annotated[
        Path | None, typer.Option("--data", metavar="ROOT", help="Folder of the table's data set; without it, a phantom.")
    ] = None,
    console: Console,
) -> Answer:
    """Does one published table again, beside the published numbers; typed again, it goes on where it was interrupted.

    DIR/study.yaml can be changed before another call; it is then used as it is.
    """
    known_name(name, TABLES, owner="TABLE", kind="table")
    from comodal import api

    found = api.reproduce(name, out=out, data=data, on_event=console.on_event)
    table = found.table
    files = {"study": out / "study.yaml", "reproduction": out / "reproduction.md", "table": out / "table.md"}
    files |= {path.stem: path for path in found.study.further_tables.values()}
    files["page"] = out / "page.html"
    document = {
        "table": name,
        "title": table.title,
        "caption": table.caption,
        "source": table.source,
        "remarks": table.remarks,
        "metric": table.metric,
        "unit": table.unit,
        "cohort": found.cohort,
        "synthetic": found.synthetic,
        "same_data": found.same_data,
        "cases": found.cases,
        "published_cases": table.cases,
        "difference": f"{table.subject} - method",
        "lines": found.lines,
        "runs": found.study.runs,
        "files": files,
    }
    show = [f"Published numbers beside ours: {files['reproduction']}", f"Open the page in a browser: {files['page']}"]
    return Answer(document, show=show)
