"""No file of the repository names a path of somebody's machine."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

MACHINE = re.compile(r"(?<![\w.:/~-])/(?:work|root|home|Users|opt|mnt|data|scratch)/\w")
BINARY = {".png", ".jpg", ".jpeg", ".gz", ".nii", ".tif", ".npz", ".npy", ".safetensors", ".ico", ".woff2"}


def test_no_absolute_path_of_a_machine(root: Path) -> None:
    listing = subprocess.run(
        ["git", "ls-files", "-coz", "--exclude-standard"], cwd=root, capture_output=True, text=True, check=False
    )
    if listing.returncode:
        pytest.skip("not a git checkout")
    named = []
    for name in filter(None, listing.stdout.split("\0")):
        path = root / name
        if path.suffix in BINARY or not path.is_file():
            continue
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
            if MACHINE.search(line):
                named.append(f"{name}:{number}: {line.strip()[:100]}")
    assert not named, "Name the path relative to the repository, or as the user's: " + "\n".join(named)


@pytest.mark.parametrize("text", ["see /home" + "/me/x.py", "'/opt" + "/wheels'", "(/work" + "/a)"])
def test_the_pattern_finds_one(text: str) -> None:
    assert MACHINE.search(text)


@pytest.mark.parametrize("text", ["https://a.org/home/page", "work/data/x", "../data/home/x", "~/data/x"])
def test_the_pattern_leaves_others_alone(text: str) -> None:
    assert not MACHINE.search(text)
