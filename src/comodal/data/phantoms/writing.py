"""What all phantoms share on disk: a folder of their own, its mark, hidden causes, files that are whole or not there."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np

from comodal.data.atomic import replacing
from comodal.data.folders import MARK, synthetic_note
from comodal.errors import DataError, message

SETTINGS = "phantom.json"
CAUSES = "hidden_causes.csv"
MEANINGS = "hidden_causes.json"
Role = Literal["shared", "unique", "noise", "label"]


def claim(out: Path, name: str, settings: Mapping[str, Any]) -> None:
    """Makes a folder a phantom's own, so that two phantoms never mix in one, and marks it as synthetic.

    Args:
        out: A new or empty folder, or one that holds this very phantom.
        name: Of the phantom.
        settings: Its configuration as plain values; written to `phantom.json`.

    Raises:
        DataError: The folder holds something else.
    """
    note, text = out / SETTINGS, json.dumps({"phantom": name, **settings}, indent=1) + "\n"
    do, owner = "Choose a new folder", f"phantom {name}"
    if out.exists() and not out.is_dir():
        raise DataError(message(f"{owner}: out", "be a folder", "a file", file=str(out), do=do))
    if note.exists():
        if note.read_text() != text:
            rule = "hold the configuration that is asked for"
            raise DataError(message(f"{owner}: {SETTINGS}", rule, "another phantom", file=str(note), do=do))
    elif out.exists() and any(out.iterdir()):
        raise DataError(message(f"{owner}: out", "be a new or empty folder", "one with files", file=str(out), do=do))
    out.mkdir(parents=True, exist_ok=True)
    write_bytes(note, text.encode())
    write_bytes(out / MARK, f"{synthetic_note(name)}\n".encode())


def write_causes(out: Path, rows: Sequence[Mapping[str, Any]], meanings: Mapping[str, tuple[Role, str, str]]) -> None:
    """Writes the hidden causes of every case: what a perfect observer would know.

    Args:
        out: Root of the phantom; it gets `hidden_causes.csv`, one row per case with a column `case` first, and
            `hidden_causes.json`, which says of each column what it is. No layout reads them.
        rows: One per case, of the same keys.
        meanings: {column: (role, modality, sentence)}: "shared" causes are seen in several modalities, "unique" ones in the
            named modality alone, "noise" in none that matters, "label" is what is to be predicted. modality: "" where it is
            not one.
    """
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_bytes(out / CAUSES, text.getvalue().encode())
    columns = {name: {"role": role, "modality": modality, "meaning": said} for name, (role, modality, said) in meanings.items()}
    write_bytes(out / MEANINGS, (json.dumps(columns, indent=1) + "\n").encode())


def write_bytes(path: Path, content: bytes) -> None:
    """Writes a file whole or not at all; missing folders are made."""
    with replacing(path) as file:
        file.write(content)


def stream(seed: int, k: int, use: int) -> np.random.Generator:
    """The random stream of one use in one case; streams do not depend on each other.

    Args:
        seed: Of the phantom.
        k: Case, from 0.
        use: Number of the use, in an order that is part of the phantom's format.
    """
    return np.random.default_rng([seed, k, use])
