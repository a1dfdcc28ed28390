"""Says aloud, while it runs, that a training has collapsed: not a number, a loss that never falls, empty predictions."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from math import isfinite

from comodal.errors import TrainingFailed, message

WINDOW = 20


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
            that of the first 20; None otherwise.

        Raises:
            TrainingFailed: A term is not a finite number.
        """
        for name, value in terms.items():
            if not isfinite(value):
                cases = ", ".join(list(ids)[:4])
                do = "Lower the learning rate, or run comodal check on the cohort"
                raise TrainingFailed(message(f"loss {name} of stage {self.stage}", "be a number", value, subject=cases, do=do))
        value = sum(terms.values())
        if len(self.first) < WINDOW:
            self.first.append(value)
        self.recent = [*self.recent, value][-WINDOW:]
        for mark in (self.total // 4, self.total // 2):
            if step + 1 == mark and mark >= 2 * WINDOW and sum(self.recent) >= sum(self.first):
                return self._once(
                    f"flat {mark}",
                    f"Stage {self.stage}: the loss has not fallen in {mark} steps "
                    f"({sum(self.first) / len(self.first):.3g} at first, {sum(self.recent) / len(self.recent):.3g} now).",
                )
        return None

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

    def _once(self, key: str, text: str) -> str | None:
        if key in self.said:
            return None
        self.said.add(key)
        return text

    def state(self) -> dict[str, list[float] | list[str]]:
        """Plain values for a checkpoint."""
        return {"first": self.first, "recent": self.recent, "said": sorted(self.said)}

    def restore(self, state: Mapping[str, list[float]] | None) -> None:
        """The way back from `state`."""
        if state:
            self.first, self.recent = list(state["first"]), list(state["recent"])
            self.said = {str(item) for item in state["said"]}
