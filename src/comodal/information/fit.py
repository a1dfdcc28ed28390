"""Estimates of the information between two arrays: cross-fitted critics, read on pairs that they were not trained with.

Rows are split into folds by group. For each fold a critic is trained on the others and read on the fold (see `fold`), where the
expectation of every lower bound is one, whatever the critic. (Donsker-Varadhan's sample value exceeds its expectation where
information is high for the number of rows; InfoNCE's does not.) Upper bounds come from a Gaussian q(y | x), fitted in the same
way. A control repeats it all with the rows of y shuffled across groups, where nothing is to be found. It tests the fitting;
that rows depend on each other it cannot see, since shuffling undoes it.

Axis letters: n rows, F features, K rows of a batch or of a held-out part.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from numpy.typing import NDArray

from comodal.errors import DataError, message
from comodal.information.estimators import Estimate
from comodal.information.fold import FitSettings, Fold
from comodal.information.held_out import Drawn, combined
from comodal.information.pairs import derangement

Floats = NDArray[np.float64]
Progress = Callable[[int, int], None]

FEWEST = 50  # groups
FEW = 200  # groups: below, a note
ABOUT_ZERO = 0.05  # nats


@dataclass(frozen=True)
class InformationReport:
    """What was found between two arrays.

    Attributes:
        estimates: In the order of ESTIMATORS.
        control: The same with the rows of y shuffled; empty where it was not run.
        n: Rows.
        groups: Independent groups of rows.
        notes: What a reader must know.
    """

    estimates: tuple[Estimate, ...]
    control: tuple[Estimate, ...]
    n: int
    groups: int
    notes: tuple[str, ...] = field(default_factory=tuple)

    @property
    def control_is_zero(self) -> bool | None:
        """Whether the control's lower bounds read at most 0.05 nats and its estimates lie within 0.05 of zero.

        An interval that holds zero will do, too. None where the control was not run.
        """
        if not self.control:
            return None
        # A lower bound below zero is a bad critic, not dependence.
        size = [(e, e.value if e.kind == "lower bound" else abs(e.value)) for e in self.control]
        checked = [(e, value) for e, value in size if e.kind in ("lower bound", "estimate")]
        return all(value <= ABOUT_ZERO or (e.ci95 is not None and e.ci95[0] <= 0 <= e.ci95[1]) for e, value in checked)

    def estimate(self, name: str) -> Estimate:
        """The estimate of this name."""
        return next(e for e in self.estimates if e.name == name)


def estimate_information(
    x: Floats,
    y: Floats,
    groups: Sequence[str] | None = None,
    *,
    settings: FitSettings | None = None,
    device: torch.device | str = "cpu",
    on_progress: Progress | None = None,
) -> InformationReport:
    """Estimates the mutual information of paired rows.

    Args:
        x: (n, F) finite numbers, no constant column.
        y: (n, F') finite numbers, no constant column.
        groups: (n,) rows of one group (a patient's, a study's) are not independent: they stay in one fold, are never negatives
            of each other, and are resampled together. None: each row is its own group.
        settings: See `FitSettings`.
        device: Where to compute.
        on_progress: Hears (done, total) of the work.

    Returns:
        Estimates in nats with 95 % intervals over held-out groups; they hold the critics fixed.

    Raises:
        DataError: Too few rows or groups, rows that do not match, a value that is not finite, a constant column.
        TrainingFailed: The loss became no number.
    """
    settings = settings or FitSettings()
    numbers = _checked(x, y, groups)
    fold_of = _folds(numbers, settings.folds, np.random.default_rng(settings.seed))
    _check_folds(numbers, fold_of)
    pairs = [(x, y)]
    if settings.control:
        generator = torch.Generator().manual_seed(settings.seed)
        pairs.append((x, y[derangement(len(x), groups=torch.from_numpy(numbers), generator=generator).numpy()]))
    jobs = [Fold(*pair, numbers, fold_of, fold, settings, device) for pair in pairs for fold in range(settings.folds)]
    parts = _side_by_side(jobs, on_progress or (lambda _, __: None))
    done, control = (
        combined([part for fold in chosen for part in fold]) if chosen else ()
        for chosen in (parts[: settings.folds], parts[settings.folds :])
    )
    found = InformationReport(done, control, len(x), int(numbers.max()) + 1)
    return replace(found, notes=tuple(_notes(found)))


def _side_by_side(jobs: Sequence[Fold], on_progress: Progress) -> list[list[Drawn]]:
    """Folds on a thread for each core, since a step is too small to be shared; results do not depend on how many there are."""
    threads = torch.get_num_threads()
    workers = min(threads, len(jobs)) if torch.device(jobs[0].device).type == "cpu" else 1
    results: list[list[Drawn]] = []
    on_progress(0, len(jobs))
    with ThreadPoolExecutor(workers, initializer=torch.set_num_threads, initargs=(1,)) as pool:
        try:
            for result in pool.map(Fold.run, jobs):
                results.append(result)
                on_progress(len(results), len(jobs))
        finally:
            pool.shutdown(cancel_futures=True)
            torch.set_num_threads(threads)
    return results


def _checked(x: Floats, y: Floats, groups: Sequence[str] | None) -> NDArray[np.int64]:
    """(n,) number of each row's group."""
    for owner, values in (("X", x), ("Y", y)):
        if values.ndim != 2 or not values.shape[1]:
            do = "Flatten or pool it to one row of features per case"
            raise DataError(message(owner, "have rows and columns (n, d)", f"shape {values.shape}", do=do))
        if not np.isfinite(values).all():
            do = "Fill them or leave the rows out; they are never taken for zeros"
            raise DataError(message(owner, "hold finite numbers", "NaN or infinity", do=do))
        if len(values) and (values == values[0]).all(0).any():
            column = int((values == values[0]).all(0).argmax())
            do = "Leave it out: a constant carries no information"
            raise DataError(message(owner, "vary from row to row", f"a constant column {column}", do=do))
    if len(x) != len(y):
        do = "Give one row per case in both, in the same order"
        raise DataError(message("Y", f"have as many rows as X ({len(x)})", len(y), do=do))
    if groups is not None and len(groups) != len(x):
        raise DataError(message("--groups", f"have one entry per row ({len(x)})", len(groups), do="Check the file"))
    names = np.arange(len(x)) if groups is None else np.unique(np.asarray(groups, dtype=str), return_inverse=True)[1]
    count = len(np.unique(names))
    if count < FEWEST:
        what = "rows" if groups is None else "groups"
        do = "Collect more: from fewer nothing can be learned and held out"
        raise DataError(message("X and Y", f"have at least {FEWEST} {what}", count, do=do))
    return names.astype(np.int64)


def _check_folds(groups: NDArray[np.int64], fold_of: NDArray[np.int64]) -> None:
    """Each fold needs rows of two groups, for negatives; it lacks them where one group holds most of the rows."""
    folds = int(fold_of.max()) + 1
    if min(len(np.unique(groups[fold_of == fold])) for fold in range(folds)) < 2:
        rule = f"have no group that fills a fold by itself ({len(groups) // folds} of {len(groups)} rows)"
        do = "Use fewer folds, or leave some of its rows out"
        raise DataError(message("--groups", rule, f"one of {np.bincount(groups).max()} rows", do=do))


def _folds(groups: NDArray[np.int64], folds: int, generator: np.random.Generator) -> NDArray[np.int64]:
    """(n,) the fold of each row: groups in random order, each to the fold that has the fewest rows."""
    sizes = np.bincount(groups)
    order = generator.permutation(len(sizes))
    filled, place = np.zeros(folds, dtype=int), np.zeros(len(sizes), dtype=np.int64)
    for group in order[np.argsort(-sizes[order], kind="stable")]:
        place[group] = filled.argmin()
        filled[place[group]] += sizes[group]
    return place[groups]


def _notes(found: InformationReport) -> list[str]:
    notes = []
    if found.groups < FEW:
        notes.append(f"fewer than {FEW} independent rows: critics learn little, and values swing with the seed")
    lower = found.estimate("info_nce").value
    if any(e.kind == "upper bound" and e.value < lower for e in found.estimates):
        notes.append("an upper bound lies below a lower one: the Gaussian q(y | x) does not fit, disregard the upper bounds")
    best = max(found.estimates, key=lambda e: e.value if e.kind == "lower bound" else -np.inf)
    limit = found.estimate("info_nce").ceiling
    if limit is not None and best.value > 0.8 * limit:
        notes.append(f"values near log K = {limit:.2f} cannot be certified from so few held-out pairs; more rows would tell")
    if found.control_is_zero is False:
        above = max(e.value for e in found.control if e.kind in ("lower bound", "estimate")) > ABOUT_ZERO
        why = "rows may depend on each other; name their groups" if above else "there are too few rows for a good critic"
        notes.append(f"the shuffled control does not read zero: {why}")
    return notes
