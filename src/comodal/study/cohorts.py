"""Cohorts that are made: indexed from a folder, or written as a phantom. What is there already is not written over."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from comodal import data
from comodal.config import validated
from comodal.data import phantoms
from comodal.data.cohort import Cohort
from comodal.data.columns import read_meta
from comodal.data.folders import synthetic_note
from comodal.data.integrity import CheckReport, check_cohort
from comodal.data.joining import Keep, On, join
from comodal.data.phantoms.ceilings import write_ceilings
from comodal.errors import ConfigError, UserError, message, nearest
from comodal.training.events import Clock, Emit, Progress, silent


def write_phantom(
    name: str, out: Path, settings: Mapping[str, Any], *, options: Mapping[str, Any] | None = None, emit: Emit = silent
) -> Path:
    """Writes a phantom and indexes it; see `comodal.api.phantom`.

    Args:
        name: Key of PHANTOMS.
        out: Folder; the files go into `out/files`, the cohort beside it.
        settings: Of the phantom; None takes its default.
        options: Of the layout that indexes it, beside those that it needs.
        emit: Listener.

    Returns:
        The cohort.csv.

    Raises:
        ConfigError: Unknown phantom, a value out of range, or a folder with a cohort that is not this phantom's.
    """
    write, schema = phantoms.load_phantom(name)
    check_phantom(out / "cohort.csv", name)
    clock: list[Clock] = []

    def progress(done: int, total: int) -> None:
        clock[:] = clock or [Clock(total)]
        emit(Progress("writing the phantom", done, total, clock[0].left(done)))

    given = {key: value for key, value in settings.items() if value is not None}
    config = validated(schema, given, f"phantom {name}")
    write(out / "files", config, on_progress=progress)
    root = out / "files" / phantoms.PHANTOMS[name].table
    told = {**phantoms.options_of(name, config), **(options or {})}
    cohort = data.index(phantoms.layout_of(name, config), root, told)
    meta = cohort.meta.model_copy(update={"notes": list(dict.fromkeys([*cohort.meta.notes, _note(name)]))})
    made = Cohort.build(meta, cohort.cases, cohort.root)
    if (out / "cohort.csv").is_file() and Cohort.load(out / "cohort.csv") != made:
        do = "Choose another folder, or delete it to have it written anew"
        raise ConfigError(message("--out", "hold no changed cohort", "one", file=str(out / "cohort.csv"), do=do))
    written = _saved(made, out / "cohort.csv")
    ceilings = phantoms.ceilings_of(name, config)
    if ceilings:
        write_ceilings(ceilings, out)
    return written


def _note(name: str) -> str:
    return synthetic_note(name)


def check_phantom(csv: Path, name: str) -> None:
    """Refuses a cohort in the place of a phantom's that is not one."""
    there = [file for file in (csv, csv.with_suffix(".yaml")) if file.exists()]
    if not there:
        return
    try:
        own = _note(name) in read_meta(csv.with_suffix(".yaml")).notes
    except UserError:
        own = False
    if not own:
        do = "Choose another folder"
        raise ConfigError(message("--out", f"hold no cohort but that of the {name} phantom", "one", file=str(there[0]), do=do))


def write_index(
    layout: str, root: Path, out: Path, *, options: Mapping[str, Any] | None = None, overwrite: bool = False
) -> Cohort:
    """Scans a folder and writes the cohort; see `comodal.api.index`.

    Args:
        layout: Key of DATASETS.
        root: The data set's folder, or the user's own CSV.
        out: The cohort.csv to write; its yaml stands beside it.
        options: Of the layout.
        overwrite: Replace a cohort that was written there before.

    Returns:
        The cohort, as it was written.
    """
    _check_index(out, root, overwrite=overwrite)
    return Cohort.load(_saved(data.index(layout, root, options), out))


def write_join(
    sources: Sequence[str | os.PathLike[str] | Cohort],
    out: Path | None,
    *,
    on: On = "auto",
    keep: Keep = "both",
    options: Mapping[str, Mapping[str, Any]] | None = None,
    overwrite: bool = False,
) -> Cohort:
    """Joins cohorts, and writes the result where a place is given; see `comodal.api.join`.

    Args:
        sources: Cohorts, their csv, or "LAYOUT:ROOT".
        out: The cohort.csv to write; its yaml stands beside it.
        on: See `join`.
        keep: See `join`.
        options: {layout: its options}.
        overwrite: Replace a cohort that was written there before.

    Returns:
        The cohort, as it was written.

    Raises:
        ConfigError: Options for a layout that is not among the sources.
    """
    if out is not None:
        for source in sources:
            _check_index(out, Path() if isinstance(source, Cohort) else Path(source), overwrite=overwrite)
    used: set[str] = set()
    cohorts = [_source(source, options or {}, used) for source in sources]
    for layout in options or {}:
        if layout not in used:
            raise ConfigError(message("--set", "be for a layout that is joined", repr(layout), do=nearest(layout, used)))
    joined = join(cohorts, on=on, keep=keep)
    return joined if out is None else Cohort.load(_saved(joined, out))


def _source(source: str | os.PathLike[str] | Cohort, options: Mapping[str, Mapping[str, Any]], used: set[str]) -> Cohort:
    """A cohort as it is, from its csv, or from LAYOUT:ROOT."""
    if isinstance(source, Cohort):
        return source
    layout, colon, root = os.fspath(source).partition(":")
    if not colon or Path(source).exists():
        return Cohort.load(Path(source))
    used.add(layout)
    given = options.get(layout, {})
    if not isinstance(given, Mapping):
        raise ConfigError(message("--set", "be LAYOUT.KEY=VALUE", f"{layout}={given}", do="Type --set radpath.microns=4"))
    return data.index(layout, Path(root), given)


def convert_cohort(csv: Path, layout: str, out: Path, *, emit: Emit = silent) -> list[str]:
    """Writes a cohort in the layout of another tool; see `comodal.api.convert`."""
    loaded = Cohort.load(csv)
    clock = Clock(len(loaded))
    return data.convert(loaded, layout, out, on_progress=lambda n, total: emit(Progress("writing", n, total, clock.left(n))))


def _check_index(csv: Path, root: Path, *, overwrite: bool) -> None:
    """Refuses to write over anything, and, when asked to overwrite, over anything but a cohort."""
    files = (csv, csv.with_suffix(".yaml"))
    if os.path.realpath(root) in map(os.path.realpath, files):
        do = "Choose another name, for instance cohort.csv"
        raise ConfigError(message("--out", "be another file than the table that is read", str(csv), do=do))
    there = next((file for file in files if file.exists()), None)
    if there is None:
        return
    do = "Choose another name, or add --overwrite to write the cohort anew"
    if overwrite:
        try:
            read_meta(files[1])
            return
        except UserError:
            do = "Choose another name; --overwrite replaces a cohort, a csv with its yaml, and nothing else"
    raise ConfigError(message("--out", "be a new file", "one that is there", file=str(there), do=do))


def _saved(cohort: Cohort, path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    return cohort.save(path)


def check_files(csv: Path, *, workers: int | None = 1, emit: Emit = silent) -> CheckReport:
    """Reads every file of a cohort to its last byte; see `comodal.data.integrity.check_cohort`."""
    loaded = Cohort.load(csv)
    clock = Clock(len(loaded))

    def progress(done: int, total: int) -> None:
        emit(Progress("checking", done, total, clock.left(done)))

    return check_cohort(loaded, progress, workers=workers)
