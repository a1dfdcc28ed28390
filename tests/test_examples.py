"""Every script of examples/ runs, small."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[1] / "examples"
SMALL = {"segment_any_subset.py": ["3"]}


def test_every_example_has_a_small_form() -> None:
    assert {path.name for path in EXAMPLES.glob("*.py")} == set(SMALL)


@pytest.mark.parametrize("name", SMALL)
def test_example_runs(name: str, tmp_path: Path) -> None:
    words = [sys.executable, str(EXAMPLES / name), str(tmp_path / "out"), *SMALL[name]]
    source = str(Path(__file__).parents[1] / "src")
    done = subprocess.run(words, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": source}, check=False)
    assert done.returncode == 0, done.stderr
    assert len([line for line in done.stdout.splitlines() if "DSC" in line]) == 15
    assert list((tmp_path / "out" / "predictions").glob("*.nii.gz"))
