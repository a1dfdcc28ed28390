"""`comodal phantom`: a synthetic cohort, written as the public data set that it stands for."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from comodal.cli.answer import Answer
from comodal.cli.console import Console, table
from comodal.cli.options import known_name, numbers, values


def phantom(
    name: Annotated[
        str, typer.Argument(metavar="NAME", help="Which phantom: brain, chest, skin, radpath, petct, shapes, pairs.")
    ],
    *,
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="Folder to write; it gets a cohort.csv.")],
    cases: Annotated[int | None, typer.Option("--cases", help="Subjects.")] = None,
    size: Annotated[int | None, typer.Option("--size", help="Voxels or pixels along X and Y.")] = None,
    seed: Annotated[int | None, typer.Option("--seed", help="The same seed gives the same files.")] = None,
    missing: Annotated[str | None, typer.Option("--missing", metavar="PATTERN", help="Which modalities are absent.")] = None,
    release: Annotated[
        str | None, typer.Option("--release", metavar="NAME", help="Which layout on disk, of those that the phantom knows.")
    ] = None,
    rate: Annotated[
        list[str] | None,
        typer.Option("--rate", metavar="NAME=P", help="Part of the subjects without a modality, e.g. t1=0.3 (repeatable)."),
    ] = None,
    settings: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="What else this phantom can be told (repeatable).")
    ] = None,
    console: Console,
) -> Answer:
    """Writes a synthetic cohort in the on-disk layout of the public data set that it stands for."""
    from comodal.data.phantoms import PHANTOMS

    known_name(name, PHANTOMS, owner="NAME", kind="phantom")
    rates = numbers(rate or [], option="--rate", example="t1=0.3") or None
    more = values(settings or [], option="--set", example="noise=0.1")
    from comodal import api

    asked: dict[str, Any] = {"cases": cases, "size": size, "seed": seed, "missing": missing, "rates": rates, "release": release}
    cohort = api.phantom(name, out, **asked, settings=more, on_event=console.on_event)
    written = json.loads((out / "files" / "phantom.json").read_text())
    ceilings = _ceilings(out)
    subjects = f"{written['cases']} subject" + ("" if written["cases"] == 1 else "s")
    show: list[Any] = [f"Wrote {subjects} of the {name} phantom to {out}.", f"Cohort: {cohort}"]
    if ceilings:
        rows = [(c["target"], c["metric"], "+".join(c["present"]), f"{c['value']:.3f}", c["kind"]) for c in ceilings]
        show.append(table("The best that any method can reach", ("target", "metric", "from", "score", "kind"), rows))
    document = {"cohort": cohort, **written, "ceilings": ceilings}
    return Answer(document, show=show, next=f"comodal check {cohort}")


def _ceilings(out: Path) -> list[dict[str, Any]]:
    file = out / "ceilings.json"
    found: list[dict[str, Any]] = json.loads(file.read_text()) if file.is_file() else []
    return found
