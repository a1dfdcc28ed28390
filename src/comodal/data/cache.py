"""`Cache`: prepared arrays on disk, found again by what they were made from.

An entry is one file (no pickle can be in it) named by the hash of its ingredients. Small arrays are mapped into memory, volumes
are compressed and read in pieces (`comodal.data.stored`). It is written under another name and renamed: a killed process leaves
no half entry, and two processes that make one entry at once leave one of two equal files.

Of the source files the bytes count, not their names and times (`comodal.data.stamps`): a changed file is noticed even where its
size and time were restored, and a data set that was moved or copied finds its entries again.
"""

from __future__ import annotations

import errno
import hashlib
import shutil
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import cast

from comodal.data.geometry import Array
from comodal.data.stamps import Stamps, stamp
from comodal.data.stored import SUFFIXES, Form, Stored, find, form_of, write
from comodal.errors import CacheError, message

__all__ = ["VERSION", "Cache", "stamp"]

VERSION = "3"  # raise it when preprocessing changes its numbers
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_FORGOTTEN = 3600  # seconds after which an unfinished file has no writer any more


class Cache:
    """Arrays on disk by key. Light and picklable; opens nothing until asked.

    Args:
        root: Folder of the entries; made at the first write. It may be deleted at any time.
        form: How volumes are kept; the values are the same in every form. "auto": compressed from 1 MiB on, mapped below;
            "npy": all mapped; "blosc2": all volumes compressed.
        thorough: Whether the sum of each entry that is found is checked, and not only its length.
    """

    def __init__(self, root: Path | str, *, form: Form = "auto", thorough: bool = False) -> None:
        self.root = Path(root)
        self.form: Form = form
        self.thorough = thorough
        self.stamps = Stamps(self.root / "stamps")

    def path(self, parts: Sequence[str], suffix: str = ".npy") -> Path:
        """Where the entry of these ingredients lies in the form of a suffix, whether it exists or not."""
        digest = hashlib.sha256("\0".join([VERSION, *parts]).encode()).hexdigest()[:40]
        return self.root / digest[:2] / f"{digest}{suffix}"

    def content(self, path: Path, files: str = "") -> str:
        """What a source file holds, for a key; see `Stamps.content`."""
        return self.stamps.content(path, files)

    def array(self, parts: Sequence[str], build: Callable[[], Array], *, slices_first: bool = False) -> Array:
        """The array of these ingredients, built only where it is not there yet or damaged.

        Args:
            parts: Everything on which the array depends: content of the file, settings, grid.
            build: Makes the array.
            slices_first: Lays it out on disk so that reading one slice of the last axis reads one piece.

        Returns:
            A read-only array: mapped from disk, or (of type `Stored`, which is indexed like one) unpacked where it is indexed.

        Raises:
            CacheError: It cannot be written, for instance since the disk is full. What was written before stays.
        """
        for suffix in (".npy",) if self.form == "npy" else (".b2nd", ".npy"):
            found = find(self.path(parts, suffix), slices_first=slices_first, thorough=self.thorough)
            if found is not None:
                return cast(Array, found)
        array = build()
        path = self.path(parts, SUFFIXES[form_of(array, self.form)])
        try:
            write(path, array, slices_first=slices_first)
        except OSError as error:
            raise self._failed(error, array.nbytes) from error
        written: Array | Stored | None = find(path, slices_first=slices_first)
        return array if written is None else cast(Array, written)

    def sweep(self) -> None:
        """Removes what processes that were killed left unfinished an hour ago or earlier."""
        for left in self.root.glob("??/.*.partial"):
            try:
                if time.time() - left.stat().st_mtime > _FORGOTTEN:
                    left.unlink()
            except OSError:  # another process was first
                continue

    def _failed(self, error: OSError, size: int) -> CacheError:
        where, again = str(self.root), "what is prepared already is not prepared again"
        if error.errno not in _FULL:
            do = f"Make the folder writable, or set data.cache to another one; {again}"
            return CacheError(
                message("data.cache", "be a folder in which files can be written", error.strerror, file=where, do=do)
            )
        free = shutil.disk_usage(next(p for p in (self.root, *self.root.absolute().parents) if p.exists())).free
        do = f"Free some space and start again, or set data.cache to a folder on another disk; {again}"
        got = f"{free:,} bytes free for an array of {size:,} bytes ({error.strerror})"
        return CacheError(message("data.cache", "have room for the prepared images", got, file=where, do=do))
