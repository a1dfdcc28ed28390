"""`Answer`: what a command has to say at its end, once for people and once for machines."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Answer:
    """What a command found or did.

    Attributes:
        document: For `--json`: one object of plain values, paths, dataclasses, pydantic models or numpy numbers.
        show: For people: texts and rich renderables, printed one below the other.
        next: The one command to type next; empty where the story ends.
        code: Exit code.
    """

    document: Mapping[str, Any]
    show: Sequence[Any] = field(default_factory=tuple)
    next: str = ""
    code: int = 0


def plain(value: object) -> Any:
    """Turns what the API returns into values that JSON knows; a number that is not finite becomes null.

    Args:
        value: Numbers, texts, paths, dataclasses, pydantic models, numpy scalars and arrays, and containers of them.

    Returns:
        The same made of dict, list, str, int, float, bool and None.

    >>> plain({"a": (1, float("nan")), "out": Path("x") / "y"})
    {'a': [1, None], 'out': 'x/y'}
    """
    if value is None or isinstance(value, str | bool | int):
        return value
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {item.name: plain(getattr(value, item.name)) for item in dataclasses.fields(value)}
    if isinstance(value, list | tuple | set | frozenset):
        return [plain(item) for item in (sorted(value) if isinstance(value, set | frozenset) else value)]
    if isinstance(value, Path):
        return value.as_posix()
    return _plain_of_library(value)


def _plain_of_library(value: object) -> Any:
    # By what they can do, not by class: this module may import neither pydantic nor numpy, since `--help` needs it.
    for way in ("model_dump", "tolist"):
        if callable(convert := getattr(value, way, None)):
            return plain(convert())
    return str(value)
