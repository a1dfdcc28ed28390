"""`comodal train`: trains one method as a configuration says."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from comodal.cli.answer import Answer
from comodal.cli.console import Console
from comodal.cli.options import check_device


def train(
    config: Annotated[Path, typer.Argument(metavar="CONFIG", help="Configuration that `comodal init` wrote.")],
    *,
    out: Annotated[Path, typer.Option("--out", metavar="RUN", help="Run folder to write.")],
    set_: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Change a value, e.g. training.seed=3 (repeatable).")
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on where a run was interrupted.")] = False,
    init: Annotated[Path | None, typer.Option("--init", metavar="RUN", help="Start from another run's weights.")] = None,
    device: Annotated[
        str | None, typer.Option("--device", metavar="auto|cpu|cuda", help="Where to compute; left out, as configured.")
    ] = None,
    devices: Annotated[int | None, typer.Option("--devices", min=1, help="How many processes or GPUs.")] = None,
    console: Console,
) -> Answer:
    """Trains; the resolved configuration is written into the run folder first."""
    check_device(device)
    from comodal import api
    from comodal.reporting.record import read_run

    api.train(
        config,
        out=out,
        overrides=set_ or (),
        resume=resume,
        init=init,
        device=device,
        devices=devices,
        on_event=console.on_event,
    )
    record = read_run(out)
    best = best_validations(record.events)
    document = {"run": out, "method": record.method, "seed": record.seed, "best": best, "warnings": record.warnings}
    show = [*(_sentence(event) for event in best), f"Run folder: {out}"]
    return Answer(document, show=show, next=f"comodal evaluate {out}")


def best_validations(events: Iterable[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """The validation whose weights each stage kept; none for a stage that keeps its last ones.

    Args:
        events: Lines of metrics.jsonl.

    Returns:
        {"stage", "epoch", "step", "metrics"} for each stage that has one, in the order of the stages.
    """
    found: dict[str, Mapping[str, Any]] = {}
    for event in events:
        if event.get("event") == "validation" and event.get("best"):
            found[str(event["stage"])] = {name: event.get(name) for name in ("stage", "epoch", "step", "metrics")}
    return list(found.values())


def _sentence(best: Mapping[str, Any]) -> str:
    numbers = ", ".join(f"{name} {value:.3f}" for name, value in (best["metrics"] or {}).items() if value is not None)
    return f"Best validation of stage {best['stage']}: {numbers} after {best['step']} steps."
