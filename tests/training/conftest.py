"""The small cohort that all trainings of a file share."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.training.fakes import write_cohort


@pytest.fixture(scope="module")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_cohort(tmp_path_factory.mktemp("cohort"))
