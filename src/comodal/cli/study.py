"""`comodal study`: methods x seeds x folds x divisions, one table, paired statistics."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from comodal.cli.answer import Answer
from comodal.cli.console import Console


def study(
    config: Annotated[Path, typer.Argument(metavar="STUDY", help="A study.yaml.")],
    *,
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="Folder for the runs and the table.")],
    console: Console,
) -> Answer:
    """Trains and compares methods over seeds and folds; typed again, it goes on where it was interrupted."""
    from comodal import api

    result = api.study(config, out=out, on_event=console.on_event)
    beside = (result.drop_table, result.test_table, result.class_table)
    lost, tests, areas = (path if path.is_file() else None for path in beside)
    document = {
        "out": out,
        "reference": result.reference,
        "runs": result.runs,
        "results": {label: [json.loads(each.to_json()) for each in found] for label, found in result.results.items()},
        "table": out / "table.md",
        "further_tables": result.further_tables,
        "drop_table": lost,
        "test_table": tests,
        "class_table": areas,
        "page": out / "page.html",
    }
    show = [f"Table: {out / 'table.md'}"]
    show += [f"Table of the differences from {label}: {path}" for label, path in result.further_tables.items()]
    show += [] if lost is None else [f"Table of each subset minus all modalities: {lost}"]
    show += [] if tests is None else [f"Table of McNemar's and DeLong's tests: {tests}"]
    show += [] if areas is None else [f"Table of the areas of single classes: {areas}"]
    return Answer(document, show=[*show, f"Open the page in a browser: {out / 'page.html'}"])
