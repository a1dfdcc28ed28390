"""Which samples make up which step, on which process. Everything depends on (seed, epoch, index) only."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from torch.utils.data import DataLoader

from comodal.batch import Batch, Sample
from comodal.errors import ComodalError, ConfigError, message


class Draws(Protocol):
    """What a data set of draws must offer (see `comodal.data.sampling`)."""

    def set_epoch(self, epoch: int) -> None:
        """Chooses the epoch whose draws are handed out."""

    def __len__(self) -> int:
        """Draws in an epoch."""

    def __getitem__(self, index: int) -> Sample:
        """A draw; depends on (seed, epoch, index) only."""


def check_batch_size(batch_size: int, world: int, *, owner: str = "training.batch_size") -> None:
    """Refuses a batch that cannot be divided equally among the processes.

    Args:
        batch_size: Over all processes together.
        world: Number of processes.
        owner: Whose it is, for the message.

    Raises:
        ConfigError: It leaves a remainder.
    """
    if batch_size % world:
        rule, do = f"be divisible by the number of processes ({world})", f"Choose {world * max(1, batch_size // world)}"
        raise ConfigError(message(owner, rule, batch_size, do=do))


@dataclass
class Feed:
    """Steps through the draws of a stage.

    Step k of an epoch takes the draws k B ... (k + 1) B - 1, of which process r of W takes the r-th of W equal parts, so that
    W processes together see exactly what one process sees.

    Attributes:
        draws: The data set.
        collate: From samples to a batch.
        batch_size: B, over all processes together.
        rank, world: r and W.
        workers: Processes that load data.
        cases: How many cases the draws are of, for the log.
        every: Whether an epoch hands out each draw exactly once, its last batch being smaller: for validation by one process.
    """

    draws: Draws
    collate: Callable[[Sequence[Sample]], Batch]
    batch_size: int
    rank: int = 0
    world: int = 1
    workers: int = 0
    cases: int = 0
    every: bool = False

    def __post_init__(self) -> None:
        check_batch_size(self.batch_size, self.world)

    @property
    def steps_per_epoch(self) -> int:
        """Full batches in an epoch, at least one; what is left over takes its chance in the next epoch's order."""
        return -(-len(self.draws) // self.batch_size) if self.every else max(1, len(self.draws) // self.batch_size)

    def indices(self, step: int) -> list[int]:
        """This process's draws of a step of an epoch; fewer draws than a batch are repeated in turn."""
        share = self.batch_size // self.world
        first = step * self.batch_size + self.rank * share
        if self.every:
            return list(range(first, min(first + share, len(self.draws))))
        return [i % len(self.draws) for i in range(first, first + share)]

    def batches(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        """The batches of an epoch from a step on."""
        self.draws.set_epoch(epoch)
        order = [self.indices(step) for step in range(start, self.steps_per_epoch)]
        loader: DataLoader[Sample] = DataLoader(
            self.draws,  # type: ignore[arg-type]  # a Protocol, not torch's Dataset class
            batch_sampler=order,
            collate_fn=self.collate,
            num_workers=self.workers,
        )
        try:
            yield from loader
        except ComodalError as error:
            raise type(error)(_plain(error)) from error


def _plain(error: ComodalError) -> str:
    """The message alone: torch puts the traceback of the worker in which it was raised around it."""
    text = str(error)
    return text.rpartition(f"{type(error).__name__}: ")[2].strip() if "Original Traceback" in text else text
