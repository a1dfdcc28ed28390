"""`Cache`: prepared arrays on disk, found again by what they were made from.

An entry is a plain .npy file (no pickle can be in it) named by the hash of its ingredients, mapped into memory on reading, so
that worker processes share it. It is written under another name and renamed, so that a killed process leaves no half entry.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from comodal.data.atomic import replacing
from comodal.data.geometry import Array

VERSION = "2"  # raise it when preprocessing changes its numbers


class Cache:
    """Arrays on disk by key. Light and picklable; opens nothing until asked.

    Args:
        root: Folder of the entries; made at the first write. It may be deleted at any time.
    """

    def __init__(self, root: Path | str) -> None:
        self.root = Path(root)

    def path(self, parts: Sequence[str]) -> Path:
        """Where the entry of these ingredients lies, whether it exists or not."""
        digest = hashlib.sha256("\0".join([VERSION, *parts]).encode()).hexdigest()[:40]
        return self.root / digest[:2] / f"{digest}.npy"

    def array(self, parts: Sequence[str], build: Callable[[], Array], *, slices_first: bool = False) -> Array:
        """The array of these ingredients, built only where it is not there yet or damaged.

        Args:
            parts: Everything on which the array depends: file, size, time of change, settings, grid.
            build: Makes the array.
            slices_first: Lays it out on disk so that the last axis is the slowest, and reading one slice reads one piece.

        Returns:
            A read-only array, mapped from disk where it has any element.
        """
        path = self.path(parts)
        found = _load(path)
        if found is not None:
            return found
        array = build()
        _write(path, np.asfortranarray(array) if slices_first else np.ascontiguousarray(array))
        written = _load(path)
        return array if written is None else written


def _load(path: Path) -> Array | None:
    """The entry, or None where it is missing or not a whole array; the damaged file will be replaced."""
    try:
        array: Array = np.load(path, mmap_mode="r", allow_pickle=False)
    except FileNotFoundError:
        return None
    except (OSError, ValueError, EOFError, SyntaxError):  # not .npy, cut short, an object array
        return None
    return array if path.stat().st_size == array.nbytes + array.offset else None  # type: ignore[attr-defined]


def _write(path: Path, array: Array) -> None:
    with replacing(path) as file:
        np.save(file, array, allow_pickle=False)


def stamp(path: Path) -> str:
    """What tells one version of a file (or folder of slices) from another without reading it: name, size, time of change.

    Args:
        path: A file, or a folder whose files are meant.

    Returns:
        One line for a cache key.

    Raises:
        FileNotFoundError: Nothing is there.
    """
    path = path.resolve()
    if not path.is_dir():
        status = path.stat()
        return f"{path}:{status.st_size}:{status.st_mtime_ns}"
    entries = sorted((entry.name, entry.stat()) for entry in os.scandir(path) if entry.is_file())
    return f"{path}:" + ";".join(f"{name}:{status.st_size}:{status.st_mtime_ns}" for name, status in entries)
