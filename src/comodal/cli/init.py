"""`comodal init`: a complete configuration for these data and this machine."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from comodal.cli.answer import Answer
from comodal.cli.options import known_name


def init(
    method: Annotated[str, typer.Argument(metavar="METHOD", help="Name of the method; `comodal methods` lists them.")],
    cohort: Annotated[Path, typer.Argument(metavar="COHORT", help="A cohort.csv with its .yaml beside it.")],
    *,
    out: Annotated[Path | None, typer.Option("--out", metavar="YAML", help="File to write; printed if left out.")] = None,
    minutes: Annotated[float | None, typer.Option("--minutes", min=0.0, help="How long training may take here.")] = None,
    spatial_dims: Annotated[int | None, typer.Option("--spatial-dims", min=2, max=3, help="2 slices; 3 volumes.")] = None,
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Settle a value, e.g. method.superior=[derm] (repeatable)."),
    ] = None,
) -> Answer:
    """Writes a complete configuration for these data and this machine, each value with its reason."""
    from comodal.methods import METHODS

    known_name(method, METHODS, owner="METHOD", kind="method")
    from comodal import api

    made = api.init(method, cohort, out=out, minutes=minutes, spatial_dims=spatial_dims, overrides=set_ or ())
    document = {"config": out, "method": method, "text": made.text}
    if out is None:
        return Answer(document, show=[made.text.rstrip("\n")])
    run = f"runs/{method}"
    return Answer(document, show=[f"Wrote {out}; each value stands with its reason."], next=f"comodal train {out} --out {run}")
