"""What a file holds, as one line: `stamp` without reading it, `Stamps` by its bytes, which are read once for each stamp.

A stamp changes whenever a file may have changed: with its size, its time, the time of its last change of any kind (which no
program can set back) and its number on the disk. Bytes that were hashed for a stamp are not read again until it changes.
"""

from __future__ import annotations

import fnmatch
import hashlib
import json
import os
import re
import stat as modes
import time
from pathlib import Path

from comodal.data.atomic import replacing

_Seen = list[tuple[str, os.stat_result]]
# A file that changes twice within one tick of the clock keeps its stamp: what is younger is hashed each time, as git does.
SETTLED = 2 * 10**9  # ns
_MAX_HEADER = 1 << 20
_NAMED = re.compile(rb"^[ \t]*ElementDataFile[ \t]*[=:][ \t]*([^\r\n]+?)[ \t]*\r?$", re.MULTILINE)


def stamp(path: Path, files: str = "") -> str:
    """What tells one version of a file (or folder of slices) from another without reading it.

    Args:
        path: A file, or a folder whose files are meant.
        files: Pattern of the names inside a folder that count; all but hidden ones where empty.

    Returns:
        One line: the real path, and size, times and number of each file.

    Raises:
        FileNotFoundError: Nothing is there.
    """
    path = path.resolve()
    return _line(path, _seen(path, files))


def _seen(path: Path, files: str) -> _Seen:
    """The files that are meant, in the order of their names. An .mhd comes with the one file of its folder that it names."""
    if path.is_dir():
        entries = sorted(os.scandir(path), key=lambda entry: entry.name)
        wanted = [
            e for e in entries if not e.name.startswith(".") and (not files or fnmatch.fnmatch(e.name.lower(), files.lower()))
        ]
        return [(entry.name, entry.stat()) for entry in wanted if entry.is_file()]
    found = [("", path.stat())]
    if path.suffix.lower() == ".mhd" and modes.S_ISREG(found[0][1].st_mode):
        with path.open("rb") as file:
            named = _NAMED.search(file.read(_MAX_HEADER))
        beside = path.parent / os.fsdecode(os.path.basename(named[1])) if named else path
        if beside != path and beside.is_file():
            found.append((beside.name, beside.stat()))
    return found


def _line(path: Path, seen: _Seen) -> str:
    return f"{path}:" + ";".join(f"{n}:{s.st_size}:{s.st_mtime_ns}:{s.st_ctime_ns}:{s.st_ino}" for n, s in seen)


def _hash(path: Path, seen: _Seen) -> str:
    """Of the bytes of all files, and of the names inside a folder, which are the order of its slices."""
    digest = hashlib.blake2b(digest_size=20)
    for name, status in seen:
        digest.update(f"{name if path.is_dir() else ''}\0{status.st_size}\0".encode())
        file = path / name if path.is_dir() else path.with_name(name) if name else path
        with file.open("rb") as opened:
            while piece := opened.read(_MAX_HEADER):
                digest.update(piece)
    return digest.hexdigest()


class Stamps:
    """Hashes of files, remembered by stamp in a folder. The names in it are hashes of paths and say nothing about patients.

    Args:
        root: The folder; made at the first write. It may be deleted at any time.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self._known: dict[str, tuple[str, str]] = {}

    def __getstate__(self) -> dict[str, object]:
        return {"root": self.root, "_known": {}}

    def content(self, path: Path, files: str = "") -> str:
        """A hash of what a file holds, wherever it lies: a copy has the same. Nothing but this file is looked at.

        Args:
            path: A file, or a folder whose files are meant.
            files: As for `stamp`.

        Returns:
            40 hexadecimal digits. Of what cannot be read, a line that says nothing: who reads it says what is wrong.

        Raises:
            FileNotFoundError: Nothing is there.
        """
        path = path.resolve()
        seen = _seen(path, files)
        key, line = _short(f"{path}\0{files}"), _short(_line(path, seen))
        known = self._known.get(key) or self._load(key)
        if known is not None and known[0] == line:
            self._known[key] = known
            return known[1]
        if not all(modes.S_ISREG(status.st_mode) for _, status in seen):
            return "no regular file"
        try:
            digest = _hash(path, seen)
        except OSError:
            return "not readable"
        youngest = max((max(s.st_mtime_ns, s.st_ctime_ns) for _, s in seen), default=0)
        if _line(path, _seen(path, files)) == _line(path, seen) and time.time_ns() - youngest > SETTLED:
            self._known[key] = (line, digest)
            self._save(key)
        return digest

    def _load(self, key: str) -> tuple[str, str] | None:
        try:
            found = json.loads((self.root / key[:2] / f"{key}.json").read_bytes()[:1000])
            line, digest = found["stamp"], found["content"]
        except (OSError, ValueError, KeyError, TypeError):  # missing or damaged: hashed again
            return None
        valid = all(isinstance(text, str) and re.fullmatch("[0-9a-f]{40}", text) for text in (line, digest))
        return (line, digest) if valid else None

    def _save(self, key: str) -> None:
        line, digest = self._known[key]
        try:
            with replacing(self.root / key[:2] / f"{key}.json") as file:
                file.write(json.dumps({"stamp": line, "content": digest}).encode())
        except OSError:  # a full disk or a read-only cache: hashed again next time
            pass


def _short(text: str) -> str:
    return hashlib.blake2b(os.fsencode(text), digest_size=20).hexdigest()
