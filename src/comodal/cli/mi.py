"""`comodal mi`: how much two views of the same cases tell about each other, and what kind of number that is."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from comodal.cli.answer import Answer
from comodal.cli.console import Console, table
from comodal.cli.options import Device, check_device, names
from comodal.errors import ConfigError, message

if TYPE_CHECKING:
    from comodal.information.fit import InformationReport

Source = "A .npy, .npz (file.npz:KEY) or .csv file; one row per case."


def mi(
    x: Annotated[str, typer.Argument(metavar="X", help=Source)],
    y: Annotated[str, typer.Argument(metavar="Y", help=f"{Source} Its rows belong to those of X.")],
    *,
    groups: Annotated[
        Path | None,
        typer.Option("--groups", metavar="FILE", help="Patient or study of each row: rows of one are not independent."),
    ] = None,
    id_column: Annotated[
        str | None, typer.Option("--id", metavar="COLUMN", help="Column of the CSV files by which rows are matched.")
    ] = None,
    categories: Annotated[
        str | None, typer.Option("--categories", metavar="NAMES", help="Columns of the CSV files that hold categories.")
    ] = None,
    scaling: Annotated[
        str, typer.Option("--scaling", metavar="rank|standard", help="How each feature is scaled before a critic sees it.")
    ] = "rank",
    folds: Annotated[int, typer.Option("--folds", metavar="N", help="Parts of the cross-fitting.")] = 5,
    seed: Annotated[int, typer.Option("--seed", metavar="N", help="Of everything random.")] = 0,
    control: Annotated[bool, typer.Option("--control/--no-control", help="Repeat it with the rows of Y shuffled.")] = True,
    device: Device = "auto",
    console: Console,
) -> Answer:
    """Estimates the mutual information of paired rows on held-out pairs: each number with its interval, kind and ceiling."""
    wanted = names(categories, option="--categories") or ()
    check_device(device)
    settings = _settings(scaling=scaling, folds=folds, seed=seed, control=control)
    from comodal import api

    found = api.mi(
        x,
        y,
        groups=groups,
        id_column=id_column,
        categories=wanted,
        settings=settings,
        device=device,
        on_event=console.on_event,
    )
    return Answer(_document(found), show=_shown(found))


def _settings(*, scaling: str, folds: int, seed: int, control: bool) -> Any:
    if scaling not in ("rank", "standard"):
        raise ConfigError(message("--scaling", "be rank or standard", repr(scaling), do="Use rank unless in doubt about ties"))
    if not 2 <= folds <= 20:
        raise ConfigError(message("--folds", "lie between 2 and 20", folds, do="Use 5"))
    if not 0 <= seed < 2**31:
        raise ConfigError(message("--seed", "lie between 0 and 2^31 - 1", seed, do="Use 0"))
    from comodal.information.fold import FitSettings

    kind: Literal["rank", "standard"] = "rank" if scaling == "rank" else "standard"
    return FitSettings(scaling=kind, folds=folds, seed=seed, control=control)


def _document(found: InformationReport) -> dict[str, Any]:
    control = {"about_zero": found.control_is_zero, "estimates": found.control} if found.control else None
    return {
        "estimates": found.estimates,
        "control": control,
        "n": found.n,
        "groups": found.groups,
        "notes": found.notes,
    }


def _shown(found: InformationReport) -> list[Any]:
    bound = found.estimate("info_nce")  # its sample value never exceeds what the rows can vouch for
    rows = f"{found.n} pairs" + (f" in {found.groups} groups" if found.groups != found.n else "")
    low = bound.ci95[0] if bound.ci95 else bound.value
    told = (
        f"X and Y share at least about {low:.2f} nats ({low / math.log(2):.2f} bits), the lower end of {bound}."
        if low > 0.005
        else f"No information was found; that is not a proof that there is none: {bound}."
    )
    what = "groups" if found.groups != found.n else "rows"
    shown: list[Any] = [table(f"Information between X and Y, {rows}", *_rows(found))]
    shown += [f"Read on held-out pairs; 95 % intervals over {what}, critics held fixed. {_about_control(found)}"]
    return [*shown, *(f"note: {note}" for note in found.notes), told]


def _about_control(found: InformationReport) -> str:
    if not found.control:
        return "The shuffled control was not run."
    verdict = "reads zero, as it must" if found.control_is_zero else "does NOT read zero"
    alike = "" if found.groups != found.n else " It cannot see whether rows depend on each other: name patients with --groups."
    return f"The control, with the rows of Y shuffled, {verdict} (Jensen-Shannon's zero is -2 log 2 = -1.386).{alike}"


def _rows(found: InformationReport) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    from comodal.information.estimators import estimator

    columns = ("estimator", "nats", "95 % interval", "control", "kind", "ceiling", "errs")
    shuffled = {e.name: f"{e.value:.3f}" for e in found.control}
    return columns, [
        (
            estimator(e.name).label,
            f"{e.value:.3f}",
            f"[{e.ci95[0]:.3f}, {e.ci95[1]:.3f}]" if e.ci95 else "too few rows",
            shuffled.get(e.name, "not run"),
            e.kind,
            f"{e.ceiling:.2f}" if e.ceiling is not None else "none",
            e.bias.partition(":")[0].partition(",")[0],
        )
        for e in found.estimates
    ]
