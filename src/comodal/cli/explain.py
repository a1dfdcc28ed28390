"""`comodal explain`: what each modality adds to another, as maps, a picture and weights."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from comodal.cli.answer import Answer
from comodal.cli.console import Console, table
from comodal.cli.options import Device, RunFolder, Use, check_device, known_name, names

VOXELS = ("predicted", "labelled", "all")


def explain(
    run: RunFolder,
    *,
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="New or empty folder for maps, pictures and weights.")],
    subject: Annotated[
        list[str] | None, typer.Option("--subject", metavar="ID", help="A case of the run (repeatable).")
    ] = None,
    split: Annotated[str | None, typer.Option("--split", help="All cases of train, val, test or all.")] = None,
    use: Use = None,
    explainer: Annotated[str, typer.Option("--explainer", help="grad-cam, hires-cam or nats.")] = "grad-cam",
    voxels: Annotated[
        str, typer.Option("--voxels", help="Over which voxels logits are summed: predicted, labelled or all.")
    ] = "predicted",
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an earlier explanation.")] = False,
    device: Device = "auto",
    console: Console,
) -> Answer:
    """Where, and how much, each modality helps another; maps lie on the voxels of the input."""
    wanted = names(use, option="--use")
    known_name(voxels, VOXELS, owner="--voxels", kind="set of voxels")
    check_device(device)
    from comodal import api

    made = api.explain(
        run,
        out=out,
        subjects=subject,
        split=split,
        use=wanted,
        explainer=explainer,
        voxels=voxels,  # type: ignore[arg-type]
        overwrite=overwrite,
        device=device,
        on_event=console.on_event,
    )
    document: dict[str, Any] = {"out": out, **made.document, "written": made.files}
    show: list[Any] = [_table(document["rows"], document["auxiliaries"]), *(f"note: {note}" for note in document["notes"])]
    if len(document["cases"]) == 1:
        (case,) = document["cases"]
        show.insert(1, _nats(case["nats"], document["auxiliaries"]))
    return Answer(
        document, show=[*show, f"Maps, pictures and weights: {out}"], next=f"comodal report {run} --out {run.name}.html"
    )


def _table(rows: list[dict[str, Any]], columns: list[str]) -> Any:
    lines = []
    for row in rows:
        cells = [_cell(row["weights"].get(name)) for name in columns]
        lines.append((row["primary"], row["region"], *cells, str(row["left_out"])))
    return table("Complementary information weights", ("primary", "region", *(f"from {n}" for n in columns), "left out"), lines)


def _cell(weight: dict[str, Any] | None) -> str:
    if weight is None:
        return ""
    if weight["value"] is None:
        return "–"
    text = f"{weight['value']:.2f}"
    if weight["ci95"]:
        text += f" [{weight['ci95'][0]:.2f}, {weight['ci95'][1]:.2f}]"
    return text + (f" n {weight['n']}" if weight["n"] > 1 else "")


def _nats(rows: list[dict[str, Any]], columns: list[str]) -> Any:
    known = {(row["primary"], row["auxiliary"]): f"{row['nats']:.1f}" for row in rows}
    primaries = dict.fromkeys(row["primary"] for row in rows)
    lines = [(primary, *(known.get((primary, name), "") for name in columns)) for primary in primaries]
    return table("Nats of the finest messages", ("primary", *(f"from {name}" for name in columns)), lines)
