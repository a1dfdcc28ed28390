"""What lies below the folder of a data set, by name only: files, links that were not followed, and the mark of a phantom.

A linked folder is not followed: it may lead round in a circle, and a cohort lists files below its root only. Links to files are
listed, broken ones too: a file that is named but cannot be read is for `comodal check` to complain of, and is not absent.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

# A phantom writes this file; its first line is the note of every cohort that is indexed from there.
MARK = "SYNTHETIC.txt"


@dataclass(frozen=True)
class Tree:
    """The names below a folder; hidden files and folders are left out.

    Attributes:
        root: The folder.
        folders: (folder, names of the files in it), both sorted.
        linked: Folders that are links, relative to the root.
    """

    root: Path
    folders: tuple[tuple[Path, tuple[str, ...]], ...]
    linked: tuple[str, ...]

    @staticmethod
    def scan(root: Path) -> Tree:
        """Lists what lies below a folder.

        Args:
            root: The folder.
        """
        found, linked = [], []
        for folder, below, names in os.walk(root):
            below[:] = sorted(name for name in below if not name.startswith("."))
            found.append((Path(folder), tuple(sorted(name for name in names if not name.startswith(".")))))
            links = (Path(folder, name) for name in below if os.path.islink(os.path.join(folder, name)))
            linked += [link.relative_to(root).as_posix() for link in links]
        return Tree(root, tuple(found), tuple(linked))

    def not_followed(self) -> list[str]:
        """A note where there are linked folders, else none."""
        if not self.linked:
            return []
        count, verb = len(self.linked), "was" if len(self.linked) == 1 else "were"
        folders = "folder" if count == 1 else "folders"
        return [f"{count} linked {folders} {verb} not followed ({_first(self.linked)}): copy what belongs here below the root"]

    def synthetic(self) -> list[str]:
        """The note of a phantom, where its mark lies in the folder, in the folder around it, or below; else none."""
        places = [self.root, Path(os.path.abspath(self.root)).parent]
        places += [folder for folder, names in self.folders if MARK in names]
        for folder in places:
            if (folder / MARK).is_file():
                return [_marked(folder / MARK)]
        return []


def synthetic_note(phantom: str) -> str:
    """What every cohort of a phantom says of itself; reports and tables look for its first word.

    Args:
        phantom: Its name.
    """
    return f"synthetic: the {phantom} phantom, made by code; what a model learns on it says nothing about patients"


def _marked(path: Path) -> str:
    """The first line of the mark, where it is a note: somebody's own synthetic data may carry another one."""
    try:
        with path.open("rb") as file:
            line = file.readline(400).decode("utf-8", "replace").strip()
    except OSError:
        line = ""
    return line if line.startswith("synthetic") and line.isprintable() else f"synthetic: {MARK} lies beside the files"


def _first(names: tuple[str, ...]) -> str:
    return f"{names[0]}{'' if len(names) == 1 else ' is the first'}"
