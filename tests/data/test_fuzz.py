"""Hostile bytes: an error that is meant, or the right array; never a crash, a hang, a gigabyte of memory, or another array.

Two minutes in all (`make test-slow`); a failure names the mutation, which `fuzzing.mutate(data, default_rng([seed, number]))`
makes again.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

SCRIPT = Path(__file__).parent / "fuzzing.py"
FORMATS = (
    "nifti", "nifti-scaled", "nifti2", "nifti-gz", "mha", "nrrd", "dicom",
    "png", "png-16", "jpeg", "tiff", "tiff-deflate", "csv",
)  # fmt: skip


def fuzz(form: str, seed: int, seconds: float, folder: Path) -> dict[str, Any]:
    words = [sys.executable, str(SCRIPT), form, str(seed), str(seconds), str(folder)]
    try:
        done = subprocess.run(words, capture_output=True, text=True, timeout=seconds + 90, check=False)
    except subprocess.TimeoutExpired:
        pytest.fail(f"{form} hung at mutation {(folder / 'now').read_text()}")
    if done.returncode != 0:
        now = (folder / "now").read_text() if (folder / "now").is_file() else "none"
        pytest.fail(f"{form} crashed with {done.returncode} at mutation {now}: {done.stderr[-500:]}")
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


@pytest.mark.slow
@pytest.mark.parametrize("form", FORMATS)
def test_hostile_bytes_are_refused_or_read_right(form: str, tmp_path: Path) -> None:
    found = fuzz(form, int(time.time()), 120 / len(FORMATS), tmp_path)
    assert not found["wrong"], found
    assert found["mutations"] > 50 and found["counts"].get("refused", 0) > 0, found
    assert found["peak_kib"] < 1024 * 1024 + 200_000, found


@pytest.mark.parametrize("form", ["nifti-gz", "csv"])
def test_a_fixed_second_of_hostile_bytes(form: str, tmp_path: Path) -> None:
    found = fuzz(form, 1, 1, tmp_path)
    assert not found["wrong"] and found["mutations"] > 10, found


def test_the_fuzzer_notices_a_reader_that_lies(tmp_path: Path) -> None:
    """What it judges by: another array is told from the right one, and an array where there should be none."""
    code = (
        "import sys; sys.path.insert(0, sys.argv[1])\n"
        "import fuzzing, numpy as np\nfrom pathlib import Path\n"
        "data = fuzzing.nifti(); path = Path(sys.argv[2]) / 'x.nii'; path.write_bytes(data)\n"
        "right = fuzzing.read_volume(path)\n"
        "print(fuzzing.judge('nifti', data, path, right.array))\n"
        "wrong = type(right)(right.array + 1, right.header, right.geometry)\n"
        "fuzzing.read_volume = lambda path: wrong\n"
        "fuzzing.read_header = lambda path: right.header\n"
        "print(fuzzing.judge('nifti', data, path, right.array))\n"
        "print(fuzzing.judge('nifti', data[:500], path, right.array))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(SCRIPT.parent), str(tmp_path)], capture_output=True, text=True, check=True
    )
    first, second, third = done.stdout.splitlines()[-3:]
    assert first == "read" and second.startswith("another array") and "where the other reader says" in third
