"""`compare`: from two files (or arrays) to what is known about the information between them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from comodal.data.arrays import Rows, columns_of, matched, read_groups, read_rows
from comodal.errors import ConfigError, DataError, message, nearest
from comodal.information.fit import InformationReport, estimate_information
from comodal.information.fold import FitSettings
from comodal.study.evaluating import pick_device
from comodal.training.events import Clock, Emit, Progress, silent

Array: TypeAlias = NDArray[Any]


def compare(
    x: Path | str | Array,
    y: Path | str | Array,
    *,
    groups: Path | str | Sequence[str] | None = None,
    id_column: str | None = None,
    categories: Sequence[str] = (),
    settings: FitSettings | None = None,
    device: str = "auto",
    emit: Emit = silent,
) -> InformationReport:
    """Reads two sources of paired rows and estimates the information between them.

    Args:
        x: A .npy, .npz or .csv file, or an array (n, F) or (n,).
        y: The same.
        groups: A file, or a label for each row.
        id_column: Column of the CSV files by which rows are matched.
        categories: Columns of the CSV files that hold categories; each must be in one of them.
        settings: Of the fitting.
        device: "auto", "cpu" or "cuda".
        emit: Listener.

    Returns:
        The estimates; what was noticed while reading stands in its notes.

    Raises:
        ConfigError: A source or a column that is not there.
        DataError: Anything in the sources that cannot be taken as it is.
    """
    _check_names((x, y), id_column, categories)
    rows = [_rows(source, owner, id_column, categories) for owner, source in (("X", x), ("Y", y))]
    first, second = matched(rows[0], rows[1])
    labels = _labels(groups, first, second, id_column)
    clocks: list[Clock] = []

    def progress(done: int, total: int) -> None:
        clocks[:] = clocks or [Clock(total)]
        emit(Progress("fitting", done, total, clocks[0].left(done)))

    found = estimate_information(
        first.values, second.values, labels, settings=settings, device=pick_device(device), on_progress=progress
    )
    return replace(found, notes=(*(f"{r.owner}: {note}" for r in (first, second) for note in r.notes), *found.notes))


def _check_names(sources: Sequence[Path | str | Array], id_column: str | None, categories: Sequence[str]) -> None:
    """Names of columns that no source has are mistakes."""
    first, second = (columns_of(source) if isinstance(source, Path | str) else () for source in sources)
    known = sorted({*first, *second})
    for option, names in (("--id", [id_column] if id_column else []), ("--categories", categories)):
        for name in names:
            if name not in known:
                raise ConfigError(message(option, "name columns of the CSV files", repr(name), do=nearest(name, known)))
    both = [name for name in first if name in second and name != id_column]
    if both:
        do = f"Give --id {both[0]} to match the rows by it, or rename one of them"
        raise ConfigError(message("X and Y", "have columns of different names", f"{both[0]!r} in both", do=do))


def _rows(source: Path | str | Array, owner: str, id_column: str | None, categories: Sequence[str]) -> Rows:
    if isinstance(source, Path | str):
        there = columns_of(source)
        own_id = id_column if id_column in there else None
        return read_rows(source, owner=owner, id_column=own_id, categories=[name for name in categories if name in there])
    source = np.asarray(source)  # a list, or a tensor on the CPU
    if source.dtype.kind not in "biuf" or source.ndim not in (1, 2):
        rule, got = "be an array of numbers, (n,) or (n, d)", f"{source.dtype} of shape {source.shape}"
        raise DataError(message(owner, rule, got, do="Flatten or pool it to one row of features per case"))
    values = source.reshape(len(source), -1).astype(np.float64)
    return Rows(values, tuple(f"x{k}" for k in range(values.shape[1])), owner=owner)


def _labels(groups: Path | str | Sequence[str] | None, x: Rows, y: Rows, id_column: str | None) -> Sequence[str] | None:
    if groups is None or not isinstance(groups, Path | str):
        return groups
    return read_groups(groups, owner="--groups", rows=len(x.values), ids=x.ids or y.ids, id_column=id_column)
