from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from pydantic import BaseModel

from comodal.cli.answer import plain


@dataclass(frozen=True)
class Point:
    x: float
    where: Path


class Model(BaseModel):
    numbers: tuple[float, ...]


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (float("inf"), None),
        (-float("inf"), None),
        (True, True),
        (3, 3),
        (0.5, 0.5),
        ({1: "a"}, {"1": "a"}),
        ({"b", "a"}, ["a", "b"]),
        (Point(float("nan"), Path("a", "b")), {"x": None, "where": "a/b"}),
        (Model(numbers=(1.0, float("nan"))), {"numbers": [1.0, None]}),
        (np.float32(0.25), 0.25),
        (np.array([[1, 2]]), [[1, 2]]),
        (np.array([np.nan]), [None]),
        (np.bool_(False), False),
        (slice(2), "slice(None, 2, None)"),
    ],
)
def test_plain_gives_what_json_knows(value: object, expected: object) -> None:
    got = plain(value)
    assert got == expected
    assert type(got) is type(expected)
