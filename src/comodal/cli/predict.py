"""`comodal predict`: predicts from whatever modalities there are."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Annotated

import typer

from comodal.cli.answer import Answer
from comodal.cli.console import Console, table
from comodal.cli.options import Device, RunFolder, Use, assignments, check_device, names
from comodal.errors import ConfigError, message

COLUMNS = ("subject", "used", "files")
MOST_COLUMNS = 12  # that a terminal holds; predictions.csv has them all
LONGEST_CELL = 24  # of an extra that a terminal shows: a number, not a report


def predict(
    run: RunFolder,
    *,
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="Folder for the predictions.")],
    input_: Annotated[
        list[str] | None, typer.Option("--input", metavar="NAME=FILE", help="One modality of one patient (repeatable).")
    ] = None,
    cohort: Annotated[Path | None, typer.Option("--cohort", metavar="CSV", help="Predict every case of a cohort.")] = None,
    subject: Annotated[
        str | None, typer.Option("--subject", metavar="ID", help="Name of the patient of --input; left out, `prediction`.")
    ] = None,
    use: Use = None,
    regions: Annotated[bool, typer.Option("--regions", help="Also write one map for each region.")] = False,
    probabilities: Annotated[bool, typer.Option("--probabilities", help="Also write probabilities.")] = False,
    extras: Annotated[
        bool, typer.Option("--extras", help="Also write what else the method says, such as maps of uncertainty.")
    ] = False,
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Change what no weight depends on, e.g. method.samples=20."),
    ] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace earlier predictions; files of a cohort never are.")
    ] = False,
    device: Device = "auto",
    console: Console,
) -> Answer:
    """Predicts from any subset; output in the input's geometry, with the data set's own label codes."""
    inputs = assignments(input_ or [], option="--input", example="flair=a.nii.gz")
    if bool(inputs) == (cohort is not None):
        got = "both" if inputs else "neither"
        do = "Type --input flair=a.nii.gz for one patient, or --cohort cohort.csv for many"
        raise ConfigError(message("comodal predict", "get either --input or --cohort", got, do=do))
    if subject is not None and not inputs:
        do = "Leave it out: the cohort names its cases"
        raise ConfigError(message("--subject", "go with --input", repr(subject), do=do))
    wanted = names(use, option="--use")
    check_device(device)
    from comodal import api

    written = api.predict(
        run,
        inputs={name: Path(file) for name, file in inputs.items()} or None,
        cohort=cohort,
        subject=subject or "prediction",
        use=wanted,
        out=out,
        regions=regions,
        probabilities=probabilities,
        extras=extras,
        overrides=set_ or (),
        overwrite=overwrite,
        device=device,
        on_event=console.on_event,
    )
    rows = [(item.subject, "+".join(item.used), " ".join(str(file) for file in item.files)) for item in written]
    answers = _answers({file for item in written for file in item.files})
    columns, lines = _brief(answers) if answers else (COLUMNS, rows)
    document = {"out": out, "predictions": written} | ({"answers": answers} if answers else {})
    return Answer(document, show=[table("", columns, lines), f"Predictions: {out}"])


def _answers(files: set[Path]) -> list[dict[str, str]]:
    """The rows of predictions.csv, which is there where classes are predicted."""
    for file in files:
        if file.name == "predictions.csv":
            return list(csv.DictReader(file.read_text(encoding="utf-8").splitlines()))
    return []


def _brief(answers: list[dict[str, str]]) -> tuple[list[str], list[tuple[str, ...]]]:
    """For a terminal: of each target the answer with its probability, then single numbers where there is room."""
    columns = list(answers[0])
    targets = [name for name in columns if any(other.startswith(f"{name}/") for other in columns)]
    probabilities = {name for name in columns for target in targets if name.startswith(f"{target}/")}
    extras = [name for name in columns[2:] if name not in probabilities and name not in targets]
    extras = [name for name in extras if all(len(row[name]) <= LONGEST_CELL for row in answers)]
    extras = extras if 2 + len(targets) + len(extras) <= MOST_COLUMNS else []
    rows = [
        (*list(row.values())[:2], *(_with_probability(row, name) for name in targets), *(row[name] for name in extras))
        for row in answers
    ]
    return [*columns[:2], *targets, *extras], rows


def _with_probability(row: dict[str, str], target: str) -> str:
    """The answer and its probability; of several classes at once, or of none, the answer alone."""
    probability = row.get(f"{target}/{row[target]}")
    return row[target] if probability is None else f"{row[target]} {float(probability):.2f}"
