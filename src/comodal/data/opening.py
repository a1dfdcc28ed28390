"""How a file is opened that may be anything: regular files only, of the folder that was named, refused if they change."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from typing import BinaryIO

from comodal.data.geometry import Source

BLANK_THE_CELL = "Correct the path, or blank the cell if this sequence is absent"


@contextmanager
def opened(source: Source) -> Iterator[BinaryIO]:
    """A regular file, open for reading; refused if it changes meanwhile.

    Args:
        source: The file.

    Raises:
        DataError: Missing, not readable, a device, pipe or folder, or a file that changed while it was read.
    """
    try:
        mode = os.stat(source.path).st_mode  # before open(): opening a pipe would wait for ever
        if not stat.S_ISREG(mode):
            raise source.error("be a regular file", "a device, pipe or folder", do=BLANK_THE_CELL)
        with source.path.open("rb") as file:
            before = os.fstat(file.fileno())
            yield file
            after = os.fstat(file.fileno())
    except OSError as error:
        raise source.error("be readable", error.strerror or str(error), do=BLANK_THE_CELL) from None
    if (before.st_size, before.st_mtime_ns) != (after.st_size, after.st_mtime_ns):
        raise source.error("stay the same while it is read", "a file that changed", do="Try again when it is written")


def names_in(source: Source) -> list[str]:
    """The names in a folder, without hidden ones.

    Raises:
        DataError: A folder that cannot be read.
    """
    try:
        return [name for name in os.listdir(source.path) if not name.startswith(".")]
    except OSError as error:
        raise source.error("be readable", error.strerror or str(error), do=BLANK_THE_CELL) from None


def check_inside(source: Source, names: list[str]) -> None:
    """Refuses names whose file is not a regular one of this folder.

    Args:
        source: The folder.
        names: In it.

    Raises:
        DataError: A link that leads out of the folder, or a device.
    """
    folder = os.path.realpath(source.path)
    for name in names:
        real = os.path.realpath(os.path.join(folder, name))
        if os.path.dirname(real) != folder or not os.path.isfile(real):
            path = source.path / name
            raise source.error("be a regular file inside its folder", "a link or device", do="Copy the slice there", path=path)
