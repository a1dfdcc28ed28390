"""Says aloud, while it runs, that a training has collapsed: not a number, a loss that never falls, empty predictions."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from math import isfinite
from statistics import fmean, variance

from pydantic import BaseModel, ConfigDict

from comodal.errors import TrainingFailed, message

WINDOW = 20
LEAST_FALL = 1e-3  # of the first loss: less is no learning even where there is no noise
NAMED = 8  # cases that a message lists


class WatchState(BaseModel):
    """What a watch has seen, for a checkpoint: the first and the last losses, and what it has said."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    first: tuple[float, ...] = ()
    recent: tuple[float, ...] = ()
    said: tuple[str, ...] = ()


class CollapseWatch:
    """Watches the losses of one stage and the metrics of its validations.

    Args:
        stage: Its name, for the messages.
        total: Steps of the stage; the loss is judged after a quarter of them, and again after half.
    """

    def __init__(self, stage: str, total: int) -> None:
        self.stage, self.total = stage, total
        self.first: list[float] = []
        self.recent: list[float] = []
        self.said: set[str] = set()

    def loss(self, step: int, terms: Mapping[str, float], ids: Iterable[str]) -> str | None:
        """Takes the loss terms of a step.

        Returns:
            A warning, once, when after a quarter (or half) of the steps the mean loss of the last 20 steps is not below
            that of the first 20 by more than two standard errors of their difference, or 0.1 %; None otherwise.

        Raises:
            TrainingFailed: A term is not a finite number.
        """
        for name, value in terms.items():
            if not isfinite(value):
                cases = ", ".join(list(dict.fromkeys(ids))[:NAMED])
                do = "Lower the learning rate, or run comodal check on the cohort"
                raise TrainingFailed(message(f"loss {name} of stage {self.stage}", "be a number", value, subject=cases, do=do))
        value = sum(terms.values())
        if len(self.first) < WINDOW:
            self.first.append(value)
        self.recent = [*self.recent, value][-WINDOW:]
        for mark in (self.total // 4, self.total // 2):
            if step + 1 == mark and mark >= 2 * WINDOW and self._flat():
                return self._once(
                    f"flat {mark}",
                    f"Stage {self.stage}: the loss has not fallen in {mark} steps "
                    f"({fmean(self.first):.3g} at first, {fmean(self.recent):.3g} now).",
                )
        return None

    def _flat(self) -> bool:
        # Compared with the noise: a loss that only wanders lies below its beginning in every second training.
        noise = math.sqrt(variance(self.first) / len(self.first) + variance(self.recent) / len(self.recent))
        least = LEAST_FALL * abs(fmean(self.first))
        return fmean(self.first) - fmean(self.recent) <= max(2 * noise, least)

    def missed(self, step: int, classes: Iterable[str]) -> list[str]:
        """Takes the classes that are there and were found in no validation case.

        Returns:
            A warning for each; none in the first fifth of the steps, when that is to be expected.
        """
        if step < self.total // 5:
            return []
        texts = [
            self._once(f"empty {name} {step}", f"Stage {self.stage}, step {step}: {name} is found in no validation case.")
            for name in classes
        ]
        return [text for text in texts if text]

    def unjudged(self, metric: str) -> str | None:
        """A warning, once, that a validation gave no number for the metric that chooses the weights."""
        why = "by which the best weights are chosen; without any the last are kept"
        return self._once(f"no {metric}", f"Stage {self.stage}: a validation gave no {metric}, {why}.")

    def _once(self, key: str, text: str) -> str | None:
        if key in self.said:
            return None
        self.said.add(key)
        return text

    @property
    def state(self) -> WatchState:
        """Plain values for a checkpoint."""
        return WatchState(first=tuple(self.first), recent=tuple(self.recent), said=tuple(sorted(self.said)))

    def restore(self, state: WatchState) -> None:
        """The way back from `state`."""
        self.first, self.recent, self.said = list(state.first), list(state.recent), set(state.said)
