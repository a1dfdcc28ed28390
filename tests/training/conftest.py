"""The small cohort that all trainings of a file share."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.training.fakes import write_cohort

from comodal.methods import METHODS


@pytest.fixture(autouse=True)
def _own_methods() -> Iterator[None]:
    """What a test registers is gone after it: other tests list the table."""
    before = dict(METHODS)
    yield
    METHODS.clear()
    METHODS.update(before)


@pytest.fixture(scope="module")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_cohort(tmp_path_factory.mktemp("cohort"))
