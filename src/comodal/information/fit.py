"""Estimates of the information between two arrays: cross-fitted critics, read on pairs that they were not trained with.

Rows are split into folds by group. For each fold a critic is trained on the others, as a classifier of pairs that belong
together (Jensen-Shannon, whose best critic is the log density ratio itself), with weight decay, and stopped where a part that
it does not train on says so. It is then read on the fold: any critic gives a valid lower bound there. Upper bounds come from a
Gaussian q(y | x), fitted in the same way. A control repeats it all with the rows of y shuffled across groups, where nothing is
to be found.

Axis letters: n rows, F features, K rows of a batch or of a held-out part.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Literal, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from comodal.errors import DataError, TrainingFailed, message
from comodal.information.bounds import jensen_shannon
from comodal.information.conditional import ConditionalGaussian
from comodal.information.critics import ConcatCritic
from comodal.information.estimators import Estimate
from comodal.information.held_out import Held, combined
from comodal.information.pairs import Scores, derangement
from comodal.information.scaling import Scaler

Floats = NDArray[np.float64]
Progress = Callable[[int, int], None]
N = TypeVar("N", bound=nn.Module)

FEWEST = 50  # groups
MOST_HELD = 2048  # rows of a held-out part, of which all pairs are scored
ABOUT_ZERO = 0.05  # nats
CALIBRATION = 0.2  # standard deviation of the prior of scale and offset
_SEEDING = threading.Lock()


class FitSettings(BaseModel):
    """How critics are fitted. The values were chosen on Gaussians with other seeds than the tests have.

    Attributes:
        folds: Parts of the cross-fitting.
        hidden: Widths of the critic's two hidden layers, and of the one hidden layer of q(y | x).
        batch: Rows of a batch; all its pairs are used.
        rate: Learning rate of AdamW.
        weight_decay: Of AdamW.
        averaging: Decay of the moving average of the weights, which is what is kept.
        epochs: At most so many passes.
        steps: At most so many steps in each fold.
        patience: Stop after so many checks without a gain; there is one check each pass, or each 200 steps.
        scaling: "rank" puts each feature on a normal scale by its rank, "standard" only centres and scales it. Both are
            invertible for each feature and leave the information as it is.
        clip: SMILE's, in nats.
        upper: Whether to fit q(y | x) for the upper bounds as well.
        control: Whether to repeat it with y shuffled.
        seed: Of everything random.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    folds: int = Field(5, ge=2, le=20)
    hidden: tuple[int, int] = (64, 64)
    batch: int = Field(64, ge=2)
    rate: float = Field(5e-3, gt=0)
    weight_decay: float = Field(0.1, ge=0)
    averaging: float = Field(0.98, ge=0, lt=1)
    epochs: int = Field(60, ge=1)
    steps: int = Field(4000, ge=1)
    patience: int = Field(4, ge=1)
    scaling: Literal["rank", "standard"] = "rank"
    clip: float = Field(5.0, gt=0)
    upper: bool = True
    control: bool = True
    seed: int = Field(0, ge=0)


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
    jobs = [_Fold(*pair, numbers, fold_of, fold, settings, device) for pair in pairs for fold in range(settings.folds)]
    parts = _side_by_side(jobs, on_progress or (lambda _, __: None))
    done, control = (
        combined([held for fold in chosen for held in fold], seed=settings.seed) if chosen else ()
        for chosen in (parts[: settings.folds], parts[settings.folds :])
    )
    found = InformationReport(done, control, len(x), int(numbers.max()) + 1)
    return replace(found, notes=tuple(_notes(found)))


def _side_by_side(jobs: Sequence[_Fold], on_progress: Progress) -> list[list[Held]]:
    """Folds on a thread for each core, since a step is too small to be shared; results do not depend on how many there are."""
    threads = torch.get_num_threads()
    workers = min(threads, len(jobs)) if torch.device(jobs[0].device).type == "cpu" else 1
    results: list[list[Held]] = []
    on_progress(0, len(jobs))
    with ThreadPoolExecutor(workers, initializer=torch.set_num_threads, initargs=(1,)) as pool:
        try:
            for result in pool.map(_Fold.run, jobs):
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
    if min(len(np.unique(groups[fold_of == fold])) for fold in np.unique(fold_of)) < 2:
        got, do = f"one of {np.bincount(groups).max()} of {len(groups)}", "Use fewer folds, or leave some of its rows out"
        raise DataError(message("--groups", "have no group with most of the rows", got, do=do))


def _folds(groups: NDArray[np.int64], folds: int, generator: np.random.Generator) -> NDArray[np.int64]:
    """(n,) the fold of each row: groups in random order, each to the fold that has the fewest rows."""
    sizes = np.bincount(groups)
    order = generator.permutation(len(sizes))
    filled, place = np.zeros(folds, dtype=int), np.zeros(len(sizes), dtype=np.int64)
    for group in order[np.argsort(-sizes[order], kind="stable")]:
        place[group] = filled.argmin()
        filled[place[group]] += sizes[group]
    return place[groups]


@dataclass(frozen=True, eq=False)
class _Fold:
    """What is to be done for one fold."""

    x: Floats
    y: Floats
    groups: NDArray[np.int64]
    fold_of: NDArray[np.int64]
    fold: int
    settings: FitSettings
    device: torch.device | str

    def run(self) -> list[Held]:
        """Fits on the other folds and reads this one, in parts of a size whose pairs fit in memory."""
        train, test = np.flatnonzero(self.fold_of != self.fold), np.flatnonzero(self.fold_of == self.fold)
        seed = self.settings.seed * 100 + self.fold
        rows = []
        for values in (self.x, self.y):
            scaled = Scaler.fit(values[train], self.settings.scaling)(values)
            rows.append(torch.from_numpy(scaled).float().to(self.device))
        fit = _Fit(rows[0], rows[1], torch.from_numpy(self.groups).to(self.device), settings=self.settings, seed=seed)
        critic, density = fit.critic(train), fit.density(train) if self.settings.upper else None
        order = np.random.default_rng(seed).permutation(test)
        parts = np.array_split(order, -(-len(order) // MOST_HELD))
        return [fit.read(part, critic=critic, density=density, names=self.groups[part]) for part in parts]


@dataclass(frozen=True)
class _Fit:
    """One fold: scaled rows of all, and how to fit on some and read on others."""

    x: Tensor
    y: Tensor
    groups: Tensor
    settings: FitSettings
    seed: int

    def critic(self, rows: NDArray[np.int64]) -> ConcatCritic:
        """A critic trained on these rows but a tenth of their groups, which decide when to stop."""
        features = (self.x.shape[1], self.y.shape[1])
        with self._seeded():
            made = ConcatCritic(*features, hidden=self.settings.hidden).to(self.x.device)
            for parameter in made.output.parameters():  # where nothing is learned every score, and every estimate, is 0
                torch.nn.init.zeros_(parameter)

        def gain(network: ConcatCritic, batch: Tensor) -> Tensor:
            scores = self._scores(network, batch)
            return jensen_shannon(scores.joint, scores.marginal, scores.negative)

        self._calibrate(made, self._trained(made, rows, gain=gain, batch=self.settings.batch))
        return made

    def _calibrate(self, critic: ConcatCritic, rows: Tensor) -> None:
        """Platt scaling: the scale and offset of the scores that are best on rows which the critic was not trained on.

        A normal prior around 1 and 0 keeps few rows from deciding much. Weight decay, averaging and early stopping shrink
        scores; what reads their absolute size (DEMI, NWJ) suffers from it.
        """
        with torch.no_grad():
            scores = self._scores(critic, rows)
        scale, offset = (torch.tensor(value, device=rows.device, requires_grad=True) for value in (1.0, 0.0))
        optimiser = torch.optim.LBFGS([scale, offset], max_iter=20, line_search_fn="strong_wolfe")

        def loss() -> Tensor:
            optimiser.zero_grad()
            gain = jensen_shannon(scale * scores.joint + offset, scale * scores.marginal + offset, scores.negative)
            value = ((scale - 1).square() + offset.square()) / (2 * CALIBRATION**2) - len(rows) * gain
            value.backward()
            return value

        optimiser.step(loss)
        with torch.no_grad():
            critic.output.weight.mul_(scale)
            critic.output.bias.mul_(scale).add_(offset)

    def density(self, rows: NDArray[np.int64]) -> ConditionalGaussian:
        """q(y | x), fitted by likelihood to the same rows in the same way."""
        features = (self.x.shape[1], self.y.shape[1])
        with self._seeded():
            made = ConditionalGaussian(*features, hidden=self.settings.hidden[:1]).to(self.x.device)

        def gain(network: ConditionalGaussian, batch: Tensor) -> Tensor:
            return network.log_density(self.x[batch], self.y[batch]).mean()

        self._trained(made, rows, gain=gain, batch=4 * self.settings.batch)  # without pairs a larger one costs nothing
        return made

    @contextmanager
    def _seeded(self) -> Iterator[None]:
        """Initial weights of this fold. The generator is the process's own, and folds run side by side."""
        with _SEEDING, torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            yield

    def _scores(self, critic: ConcatCritic, rows: Tensor) -> Scores:
        groups = self.groups[rows]
        return Scores.of_matrix(critic.all_pairs(self.x[rows], self.y[rows]), groups[:, None] != groups)

    def _trained(self, network: N, rows: NDArray[np.int64], *, gain: Callable[[N, Tensor], Tensor], batch: int) -> Tensor:
        """Raises `gain` on batches of rows, with Adam.

        What is kept is a moving average of the weights, when it had the best gain on rows that are not trained on; these rows
        are handed back.
        """
        settings, generator = self.settings, torch.Generator().manual_seed(self.seed)
        train, check = self._parted(torch.from_numpy(rows), generator)
        size = min(batch, len(train))
        passes = len(train) // size
        optimiser = torch.optim.AdamW(network.parameters(), lr=settings.rate, weight_decay=settings.weight_decay)
        average = AveragedModel(network, multi_avg_fn=get_ema_multi_avg_fn(settings.averaging))
        averaged: N = average.module  # type: ignore[assignment]
        best, kept, waited = self._check(gain, network, check), _weights(network), 0
        order, last = torch.empty(0, dtype=torch.int64), min(settings.steps, settings.epochs * passes)
        for step in range(1, last + 1):
            if len(order) < size:
                order = train[torch.randperm(len(train), generator=generator)]
            drawn, order = order[:size].to(self.x.device), order[size:]
            optimiser.zero_grad()
            (-gain(network, drawn)).backward()
            optimiser.step()
            average.update_parameters(network)
            if step % min(passes, 200) == 0 or step == last:
                now = self._check(gain, averaged, check)
                better = now > best
                best, kept, waited = (now, _weights(averaged), 0) if better else (best, kept, waited + 1)
                if waited >= settings.patience:
                    break
        network.load_state_dict(kept)
        return check.to(self.x.device)

    def _parted(self, rows: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Rows to train on, and those of a tenth of the groups (at most 1024 rows)."""
        names = torch.unique(self.groups.cpu()[rows])
        few = names[torch.randperm(len(names), generator=generator)[: max(2, len(names) // 10)]]
        checked = torch.isin(self.groups.cpu()[rows], few)
        return rows[~checked], rows[checked][:1024]

    @torch.no_grad()
    def _check(self, gain: Callable[[N, Tensor], Tensor], network: N, rows: Tensor) -> float:
        value = float(gain(network, rows.to(self.x.device)))
        if not np.isfinite(value):
            raise TrainingFailed(message("mi", "have a finite loss", value, do="Lower the rate, or set the scaling to rank"))
        return value

    @torch.no_grad()
    def read(
        self,
        rows: NDArray[np.int64],
        *,
        critic: ConcatCritic,
        density: ConditionalGaussian | None,
        names: NDArray[np.int64],
    ) -> Held:
        """Scores of all pairs of held-out rows."""
        chosen = torch.from_numpy(rows).to(self.x.device)
        x, y = self.x[chosen], self.y[chosen]
        scores = critic.all_pairs(x, y).double().cpu().numpy()
        densities = None if density is None else density.double().all_pairs(x.double(), y.double()).cpu().numpy()
        return Held(scores, densities, names, self.settings.clip)


def _weights(network: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in network.state_dict().items()}


def _notes(found: InformationReport) -> list[str]:
    notes = []
    best = max(found.estimates, key=lambda e: e.value if e.kind == "lower bound" else -np.inf)
    limit = found.estimate("info_nce").ceiling
    if limit is not None and best.value > 0.8 * limit:
        notes.append(f"values near log K = {limit:.2f} cannot be certified from so few held-out pairs; more rows would tell")
    if found.control_is_zero is False:
        above = max(e.value for e in found.control if e.kind in ("lower bound", "estimate")) > ABOUT_ZERO
        why = "rows may depend on each other; name their groups" if above else "there are too few rows for a good critic"
        notes.append(f"the shuffled control does not read zero: {why}")
    return notes
