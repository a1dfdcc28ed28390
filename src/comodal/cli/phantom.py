"""`comodal phantom`: a synthetic cohort, written as the public data set that it stands for."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from comodal.cli.answer import Answer
from comodal.cli.console import Console
from comodal.cli.options import known_name, numbers

RELEASES = ("2015", "2020", "2023")
MISSING = ("none", "random", "imbalanced", "site")


def phantom(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Which phantom, e.g. brain.")],
    *,
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="Folder to write; it gets a cohort.csv.")],
    cases: Annotated[int, typer.Option("--cases", help="Subjects.")] = 24,
    size: Annotated[int, typer.Option("--size", help="Voxels along X and Y, 48 to 240.")] = 48,
    seed: Annotated[int, typer.Option("--seed", help="The same seed gives the same files.")] = 0,
    missing: Annotated[str, typer.Option("--missing", metavar="|".join(MISSING), help="Which sequences are absent.")] = "none",
    release: Annotated[
        str,
        typer.Option(
            "--release", metavar="|".join(RELEASES), help="Names, label codes and format of the files of which BraTS."
        ),
    ] = "2020",
    rate: Annotated[
        list[str] | None,
        typer.Option("--rate", metavar="NAME=P", help="Part of the subjects without a sequence, e.g. t1=0.3 (repeatable)."),
    ] = None,
    console: Console,
) -> Answer:
    """Writes a synthetic cohort in the on-disk layout of the public data set that it stands for."""
    from comodal.data.phantoms import PHANTOMS

    known_name(name, PHANTOMS, owner="NAME", kind="phantom")
    known_name(missing, MISSING, owner="--missing", kind="pattern")
    known_name(release, RELEASES, owner="--release", kind="release")
    rates = numbers(rate or [], option="--rate", example="t1=0.3")
    from comodal import api

    asked: dict[str, Any] = {"cases": cases, "size": size, "seed": seed, "missing": missing, "rates": rates, "release": release}
    cohort = api.phantom(name, out, **asked, on_event=console.on_event)
    subjects = f"{cases} subject" + ("" if cases == 1 else "s")
    show = [f"Wrote {subjects} of the {name} phantom to {out}.", f"Cohort: {cohort}"]
    return Answer({"cohort": cohort, "phantom": name, **asked}, show=show, next=f"comodal check {cohort}")
