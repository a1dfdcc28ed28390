"""`comodal evaluate`: one honest table over the subsets of modalities."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from comodal.cli.answer import Answer
from comodal.cli.console import Console, table
from comodal.cli.options import Device, RunFolder, Use, check_device, names


def evaluate(
    run: RunFolder,
    *,
    split: Annotated[str, typer.Option("--split", help="train, val, test or all.")] = "test",
    subsets: Annotated[
        str, typer.Option("--subsets", metavar="SUBSETS", help='"all", or subsets such as "flair,t1;t2".')
    ] = "all",
    use: Use = None,
    cohort: Annotated[Path | None, typer.Option("--cohort", metavar="CSV", help="Another cohort than the run's own.")] = None,
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Change what no weight depends on, e.g. method.read_out=inferior."),
    ] = None,
    device: Device = "auto",
    console: Console,
) -> Answer:
    """Metrics for every subset of modalities, with n and 95 % intervals."""
    wanted = names(use, option="--use")
    check_device(device)
    from comodal import api
    from comodal.reporting.class_areas import areas_table
    from comodal.reporting.drops import drop_document
    from comodal.reporting.tables import as_table, terminal_table

    results = api.evaluate(
        run,
        split=split,
        subsets=subsets,
        use=wanted,
        cohort=cohort,
        overrides=set_ or (),
        device=device,
        on_event=console.on_event,
    )
    file = run / "results" / f"{results.split}.json"
    combined = as_table(results)
    numbers, areas = terminal_table(combined), areas_table(combined, {results.method: [results]})
    show = [
        table("", numbers.columns, numbers.rows),
        numbers.caption,
        *([] if areas is None else [table("", areas.columns, areas.rows), areas.caption]),
        *(f"note: {note}" for note in results.notes),
        f"Results: {file}",
    ]
    document = {**json.loads(results.to_json()), "minus_all": drop_document(combined)}
    return Answer(document, show=show, next=f"comodal report {run} --out {run.name}.html")
