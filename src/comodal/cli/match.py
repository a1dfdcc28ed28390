"""`comodal match`: how well a run's images and reports belong together."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from comodal.cli.answer import Answer
from comodal.cli.console import Console, table
from comodal.cli.options import Device, RunFolder, check_device


def match(
    run: RunFolder,
    *,
    split: Annotated[str, typer.Option("--split", help="train, val, test or all.")] = "test",
    cohort: Annotated[Path | None, typer.Option("--cohort", metavar="CSV", help="Another cohort than the run's own.")] = None,
    prompts: Annotated[
        Path | None, typer.Option("--prompts", metavar="YAML", help="Sentences for and against each class; some are shipped.")
    ] = None,
    phrases: Annotated[
        Path | None, typer.Option("--phrases", metavar="CSV", help="Sentences with their true places in the picture.")
    ] = None,
    out: Annotated[Path | None, typer.Option("--out", metavar="DIR", help="New or empty folder for figures.")] = None,
    subject: Annotated[
        list[str] | None, typer.Option("--subject", metavar="ID", help="A case to draw (repeatable); a few by default.")
    ] = None,
    raw: Annotated[
        bool | None,
        typer.Option("--raw/--contrasted", help="Scores as the method says, or minus what a region scores with anything."),
    ] = None,
    device: Device = "auto",
    console: Console,
) -> Answer:
    """Retrieval of reports and images, classes by prompts, and where sentences point."""
    check_device(device)
    from comodal import api

    made = api.match(
        run,
        split=split,
        cohort=cohort,
        prompts=prompts,
        phrases=phrases,
        out=out,
        subjects=subject,
        raw=raw,
        device=device,
        on_event=console.on_event,
    )
    document = json.loads(made.results.to_json())
    show: list[Any] = []
    if document["retrieval"]:
        show.append(_retrieval(document["retrieval"]))
    if document["zero_shot"]:
        show += [_zero_shot(document["zero_shot"]), *_undefined(document["zero_shot"])]
    if document["grounding"]:
        show += [_grounding(document), _constants(document)]
    show += [f"Scores: {document['conventions']['scores']}.", f"Results: {made.file}"]
    if made.figures:
        show.append(f"Figures: {out}")
    return Answer({**document, "file": made.file, "figures": made.figures}, show=show)


def _number(value: float | None, digits: int = 2) -> str:
    return "–" if value is None else f"{value:.{digits}f}"


def _with_interval(cell: dict[str, Any], digits: int = 2) -> str:
    text = _number(cell["value"], digits)
    if cell["ci95"]:
        text += f" [{cell['ci95'][0]:.{digits}f}, {cell['ci95'][1]:.{digits}f}]"
    return text


def _retrieval(rows: dict[str, Any]) -> Any:
    names = list(next(iter(rows.values())))
    lines = []
    for direction, cells in rows.items():
        found = [f"{_with_interval(cells[n], 1 if n == 'median_rank' else 2)} ({_chance(cells[n], n)})" for n in names]
        lines.append((direction, *found, cells[names[0]]["n"]))
    return table("Retrieval (chance)", ("", *(n.replace("_", " ") for n in names), "n"), lines)


def _chance(cell: dict[str, Any], name: str) -> str:
    return _number(cell["chance"], 1 if name == "median_rank" else 2)


def _zero_shot(cells: dict[str, Any]) -> Any:
    lines = []
    for name, cell in cells.items():
        metric, _, what = name.partition("/")
        if metric == "AUROC":
            other = cells.get(f"AUPRC/{what}", {"value": None, "ci95": None})
            if cell["value"] is None:
                continue
            counts = [_number(cell[key], 0) for key in ("n_pos", "n_neg")]
            lines.append((what, _with_interval(cell), _with_interval(other), *counts))
    return table("Classes by prompts", ("", "AUROC", "AUPRC", "positive", "negative"), lines)


def _undefined(cells: dict[str, Any]) -> list[str]:
    """Classes without a number, and why."""
    why: dict[str, list[str]] = {}
    for name, cell in cells.items():
        if name.startswith("AUROC/") and cell["value"] is None:
            why.setdefault(cell["note"] or "no number", []).append(name.removeprefix("AUROC/"))
    return [f"{', '.join(names)}: {reason}." for reason, names in why.items()]


def _grounding(document: dict[str, Any]) -> Any:
    sides = " x ".join(map(str, document["grid"]))
    lines = []
    for name, row in document["grounding"].items():
        hits = row["hits"]
        rest = (_number(hits["chance"], 3), _number(row["ratio"], 1), _number(row["constant"]), _number(row["elsewhere"]))
        lines.append((name, _with_interval(hits), *rest, hits["n"], row["subjects"]))
    columns = ("", "hits", "chance", "times chance", "one region", "other images", "phrases", "cases")
    return table(f"Where sentences point, {sides} regions", columns, lines)


def _constants(document: dict[str, Any]) -> str:
    return (
        "one region: that which is most often true, the same for all; other images: the mean map of the sentence on other "
        f"patients. One region for each finding: {_number(document['constant_by_finding'])}."
    )
