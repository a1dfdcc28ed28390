"""What long work says while it runs. The library never prints: whoever calls it decides what to do with these."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias


@dataclass(frozen=True)
class Progress:
    """Work of a known length. `seconds_left` is None until it can be estimated; `text` says how it goes ("loss 0.412")."""

    what: str
    done: int
    total: int
    seconds_left: float | None = None
    text: str = ""


@dataclass(frozen=True)
class Said:
    """Something that a person should read now."""

    level: Literal["info", "warning"]
    text: str


@dataclass(frozen=True)
class Table:
    """A small table of words."""

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]


Event: TypeAlias = Progress | Said | Table
Emit: TypeAlias = Callable[[Event], None]


def silent(event: Event) -> None:
    """Takes an event and does nothing: the default listener."""


class Clock:
    """Estimates the time left from the pace since the start (or since a resumed step).

    Args:
        total: Steps in all.
        done: Steps already done when the clock starts.
    """

    def __init__(self, total: int, done: int = 0) -> None:
        self.total, self.start_at, self.began = total, done, time.monotonic()

    def left(self, done: int) -> float | None:
        """Seconds until `total` at the pace so far; None before the first step."""
        made = done - self.start_at
        return None if made <= 0 else (time.monotonic() - self.began) / made * (self.total - done)
