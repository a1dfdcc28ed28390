"""One fold of the fitting: a critic and a density trained on the other folds, and read on this one.

The critic is trained as a classifier of pairs that belong together (Jensen-Shannon, whose best critic is the log density ratio
itself), with strong weight decay and a moving average of its weights. It is stopped where rows that it does not train on say
so, and calibrated on these.

Axis letters: n rows, F features, K rows of a batch or of a held-out part.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from comodal.errors import TrainingFailed, message
from comodal.information.bounds import jensen_shannon
from comodal.information.conditional import ConditionalGaussian
from comodal.information.critics import ConcatCritic
from comodal.information.held_out import Drawn, Held
from comodal.information.pairs import Scores
from comodal.information.scaling import Scaler

Floats = NDArray[np.float64]
N = TypeVar("N", bound=nn.Module)

MOST_HELD = 2048  # rows of a held-out part, of which all pairs are scored
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
    weight_decay: float = Field(1.0, ge=0)
    averaging: float = Field(0.98, ge=0, lt=1)
    epochs: int = Field(60, ge=1)
    steps: int = Field(4000, ge=1)
    patience: int = Field(4, ge=1)
    scaling: Literal["rank", "standard"] = "rank"
    clip: float = Field(5.0, gt=0)
    upper: bool = True
    control: bool = True
    seed: int = Field(0, ge=0, lt=2**31)


@dataclass(frozen=True, eq=False)
class Fold:
    """What is to be done for one fold.

    Attributes:
        x: (n, F).
        y: (n, F').
        groups: (n,) number of each row's group.
        fold_of: (n,) number of each row's fold.
        fold: The one that is read.
        settings: See `FitSettings`.
        device: Where to compute.
    """

    x: Floats
    y: Floats
    groups: NDArray[np.int64]
    fold_of: NDArray[np.int64]
    fold: int
    settings: FitSettings
    device: torch.device | str

    def run(self) -> list[Drawn]:
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
        generator = np.random.default_rng(seed)
        read = (fit.read(part, critic=critic, density=density, names=self.groups[part]) for part in parts)
        return [held.drawn(generator) for held in read]


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
        held = rows[checked]
        return rows[~checked], held[torch.randperm(len(held), generator=generator)[:1024]]

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
        # Scores beyond the log of the number of pairs cannot be told apart; a clipped critic is a critic, too.
        most = 2 * math.log(len(rows))
        scores = critic.all_pairs(x, y).double().clamp(-most, most).cpu().numpy()
        densities = None if density is None else density.double().all_pairs(x.double(), y.double()).cpu().numpy()
        return Held(scores, densities, names, self.settings.clip)


def _weights(network: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in network.state_dict().items()}
