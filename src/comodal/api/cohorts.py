"""Data: phantoms, and cohorts that are indexed, joined, checked and converted."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from comodal import data as datasets
from comodal.data.cohort import Cohort
from comodal.data.integrity import CheckReport
from comodal.data.joining import Keep, On
from comodal.study.cohorts import check_files, convert_cohort, write_index, write_join, write_phantom
from comodal.training.events import Emit, silent

if TYPE_CHECKING:
    PathLike = Path | str


def phantom(
    name: str,
    out: PathLike,
    *,
    cases: int | None = None,
    size: int | None = None,
    seed: int | None = None,
    missing: str | None = None,
    rates: Mapping[str, float] | None = None,
    release: str | None = None,
    settings: Mapping[str, Any] | None = None,
    on_event: Emit = silent,
) -> Path:
    """Writes a synthetic cohort on disk, in the layout of the data set that it stands for, and indexes it.

    Args:
        name: Key of PHANTOMS ("brain", "chest").
        out: Folder to write; the files go into `out/files`, the cohort beside it.
        cases: How many subjects.
        size: Voxels along each side.
        seed: Case k depends on (seed, k) only.
        missing: "none", "random", "imbalanced" or "site".
        rates: {modality: share of subjects that lack it}.
        release: Which of the layouts that a phantom knows: "2015", "2020" or "2023" of the brain.
        settings: What else the phantom can be told: {key: value} of its configuration.
        on_event: Listener.

    Returns:
        The cohort.csv.

    Raises:
        ConfigError: Unknown phantom, a value out of range, or a folder with a cohort that is not this phantom's.
    """
    given = {"cases": cases, "size": size, "seed": seed, "missing": missing, "rates": rates, "release": release}
    return write_phantom(name, Path(out), {**given, **(settings or {})}, emit=on_event)


def index(
    layout: str,
    root: PathLike,
    out: PathLike | None = None,
    *,
    options: Mapping[str, Any] | None = None,
    overwrite: bool = False,
) -> Cohort:
    """Scans a folder (or, for the layout "csv", a table) into a cohort.

    Args:
        layout: Key of the layouts' table.
        root: The data set's folder, or the user's own CSV.
        out: Where to write cohort.csv; its yaml stands beside it.
        options: {key: value} of what the layout can be told.
        overwrite: Replace a cohort that was written there before.

    Returns:
        The cohort.

    Raises:
        ConfigError: Unknown layout, missing folder, or a file in the place of `out`.
        DataError: What lies there is not of this layout.
    """
    if out is None:
        return datasets.index(layout, Path(root), options)
    return write_index(layout, Path(root), Path(out), options=options, overwrite=overwrite)


def join(
    cohorts: Sequence[PathLike | Cohort],
    out: PathLike | None = None,
    *,
    on: On = "auto",
    keep: Keep = "both",
    options: Mapping[str, Mapping[str, Any]] | None = None,
    overwrite: bool = False,
) -> Cohort:
    """Joins cohorts of the same patients, for instance radiology and pathology; see `comodal.data.joining.join`.

    Args:
        cohorts: Two or more, each a cohort.csv, "LAYOUT:ROOT", which is indexed first, or a cohort in memory.
        out: Where to write cohort.csv; its yaml stands beside it.
        on: "subject": equal ids belong together; "group": cases of one patient; "auto": first the one, then the other.
        keep: "both": only cases that every cohort has; "all": also the others, with blank cells.
        options: {layout: {key: value}} of what the layouts can be told.
        overwrite: Replace a cohort that was written there before.

    Returns:
        The cohort.

    Raises:
        ConfigError: Fewer than two, an unknown layout, or a file in the place of `out`.
        DataError: Nothing in common, or what cannot be decided: it names the cases.
    """
    return write_join(cohorts, None if out is None else Path(out), on=on, keep=keep, options=options, overwrite=overwrite)


def convert(cohort: PathLike, layout: str, out: PathLike, *, on_event: Emit = silent) -> list[str]:
    """Writes a cohort in the layout of another tool.

    Args:
        cohort: The cohort.csv.
        layout: "nnunet" (files, consecutive labels, folds by patient) or "datalist" (a JSON for MONAI; nothing is copied).
        out: A new or empty folder.
        on_event: Listener.

    Returns:
        What the other tool will not see, one sentence each.
    """
    return convert_cohort(Path(cohort), layout, Path(out), emit=on_event)


def check(cohort: PathLike, *, workers: int | None = 1, on_event: Emit = silent) -> CheckReport:
    """Reads every file of a cohort to its last byte; see `comodal.data.integrity`.

    Args:
        cohort: The cohort.csv.
        workers: Processes that read; 1 reads in this one, None takes what the machine has where that is worth it. A script
            that asks for several must guard its own code with `if __name__ == "__main__"`.
        on_event: Listener.

    Returns:
        Who has what, counts of classes and regions, and everything that was found.
    """
    return check_files(Path(cohort), workers=workers, emit=on_event)
