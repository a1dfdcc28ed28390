"""The pairs phantom: pairs of latent vectors in which guidance helps a linear decoder, as a table of one's own (layout csv).

There are no pictures and nothing to encode: each case is an inferior vector of 64 numbers, a superior one of 32, and one of
three classes. `pairs_model` has the whole model. The class is nearly linear in the superior vector, and a product of causes in
the inferior one, so that a linear decoder of it knows little more than chance although the class is there. A network that
learns to estimate the superior vector from the inferior one computes the products on the way; it adds no information, and a
decoder that is wide enough needs it less.

With `unlabelled` some training pairs have no class, and with `unpaired` some training cases no superior vector: what a network
between vectors can learn from the former, and a decoder from the latter.

Case k depends on (seed, k) alone, but for what is missing: a larger share takes it from more cases, and from the same ones.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, model_validator

from comodal.data.phantoms.pairs_model import CLASSES, MODALITIES, Causes, draw_causes, label, mixing, vectors
from comodal.data.phantoms.writing import Role, claim, stream, write_bytes, write_causes
from comodal.errors import ConfigError, message

TABLE = "table.csv"
# Of eight cases three are for training, one for validation and four for testing: of 1600 that is 600, 200 and 800.
SPLITS = ("train", "test", "test", "train", "val", "test", "train", "test")
CAUSES, MISSING, MIXING = range(3)  # streams; the order is part of the format


class PairsPhantom(BaseModel):
    """Configuration of the pairs phantom.

    Attributes:
        cases: Number of cases, at least 16, of fewer a class may be missing; see SPLITS.
        seed: Same seed, same files. Another seed has another orientation of the vectors, too.
        linear: How much of what decides the class is linear in the inferior vector, 0 to 1: 0 leaves a linear decoder of it
            with chance, 1 makes guidance superfluous.
        unlabelled: Part of the training cases that have both vectors and no class, in [0, 1].
        unpaired: Part of the training cases that have a class and no superior vector, in [0, 1]; both parts together at most 1.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    cases: int = 1600
    seed: int = 0
    linear: float = 0.33
    unlabelled: float = 0.0
    unpaired: float = 0.0

    @model_validator(mode="after")
    def _check(self) -> PairsPhantom:
        for name, low, high in (("cases", 16, 99999), ("seed", 0, 2**63 - 1), ("linear", 0, 1), ("unlabelled", 0, 1)):
            if not low <= getattr(self, name) <= high:
                raise ConfigError(_text(name, f"lie in {low}..{high}", getattr(self, name)))
        if not 0 <= self.unpaired <= 1 - self.unlabelled:
            raise ConfigError(_text("unpaired", f"lie in 0..{1 - self.unlabelled:g}, beside unlabelled", self.unpaired))
        return self

    def case_id(self, k: int) -> str:
        """Subject of case k, counted from 0.

        >>> PairsPhantom().case_id(0)
        'pair-00001'
        """
        return f"pair-{k + 1:05d}"

    def split(self, k: int) -> str:
        """Split of case k.

        >>> [[PairsPhantom().split(k) for k in range(1600)].count(name) for name in ("train", "val", "test")]
        [600, 200, 800]
        """
        return SPLITS[k % len(SPLITS)]

    def present(self, k: int) -> tuple[str, ...]:
        """What case k has of "inferior", "superior" and "diagnosis"; cases for validation and testing have all.

        >>> PairsPhantom(unlabelled=1.0).present(0), PairsPhantom(unlabelled=1.0).present(1)
        (('inferior', 'superior'), ('inferior', 'superior', 'diagnosis'))
        """
        where = stream(self.seed, k, MISSING).random() if self.split(k) == "train" else 2.0
        unlabelled, unpaired = where < self.unlabelled, 1 - self.unpaired <= where < 1
        return ("inferior", *(() if unpaired else ("superior",)), *(() if unlabelled else ("diagnosis",)))

    def causes(self, k: int) -> Causes:
        """The hidden causes and the noise of case k."""
        return draw_causes(stream(self.seed, k, CAUSES), 1)


def _text(name: str, rule: str, got: object) -> str:
    return message(f"phantom pairs: {name}", rule, got, do=f"Set {name} within these limits")


def write_pairs(out: Path, config: PairsPhantom, on_progress: Callable[[int, int], None] | None = None) -> None:
    """Writes the phantom. An interrupted call is completed by calling it again.

    Args:
        out: The root: a new or empty folder, or one that holds this very phantom. It gets the folders inferior and superior
            with a .npy file for each vector, `table.csv`, which is what the layout csv indexes, and the hidden causes.
        config: What to write.
        on_progress: Called with (cases done, all cases) after each case.

    Raises:
        DataError: The folder holds something else.
    """
    claim(out, "pairs", config.model_dump(mode="json"))
    columns = (*MODALITIES, "diagnosis")
    lines, rows = [f"subject,split,{','.join(columns)}"], []
    for k in range(config.cases):
        made, present, name = make_case(config, k), config.present(k), config.case_id(k)
        cells = {m: f"{m}/{name}.npy" for m in MODALITIES} | {"diagnosis": CLASSES[made[2]]}
        for modality, vector in zip(MODALITIES, made[:2], strict=True):
            if modality in present:
                write_bytes(out / cells[modality], _npy(vector))
        lines.append(",".join([name, config.split(k), *(cells[column] if column in present else "" for column in columns)]))
        rows.append(_row(config, k))
        if on_progress is not None:
            on_progress(k + 1, config.cases)
    write_bytes(out / TABLE, ("\n".join(lines) + "\n").encode())
    write_causes(out, rows, _meanings(list(rows[0])))


def make_case(config: PairsPhantom, k: int) -> tuple[NDArray[np.float32], NDArray[np.float32], int]:
    """The inferior vector (64,), the superior one (32,) and the class number of case k, whether it shows them or not."""
    causes = config.causes(k)
    inferior, superior = vectors(causes, mixing(stream(config.seed, 0, MIXING)), linear=config.linear)
    return inferior[0].astype(np.float32), superior[0].astype(np.float32), int(label(causes, linear=config.linear)[0])


def _npy(vector: NDArray[np.float32]) -> bytes:
    file = io.BytesIO()
    np.save(file, vector, allow_pickle=False)
    return file.getvalue()


def _row(config: PairsPhantom, k: int) -> dict[str, object]:
    """The hidden causes of case k."""
    causes = config.causes(k)
    row: dict[str, object] = {"case": config.case_id(k), "class": CLASSES[label(causes, linear=config.linear)[0]]}
    row |= {f"cause{i + 1}": round(float(value), 6) for i, value in enumerate(causes.deciding[0])}
    return row | {f"other{i + 1}": round(float(value), 6) for i, value in enumerate(causes.other[0])}


def _meanings(columns: list[str]) -> dict[str, tuple[Role, str, str]]:
    """What each hidden cause is."""
    said: dict[str, tuple[Role, str, str]] = {"class": ("label", "", "the k of the largest score, of three")}
    for name in columns:
        if name.startswith("cause"):
            number = int(name.removeprefix("cause"))
            sentence = f"factor of score {(number + 1) // 2}; linear in the inferior vector, by its product in the superior one"
            said[name] = ("shared", "", sentence)
        elif name.startswith("other"):
            said[name] = ("shared", "", "linear in both vectors; tells nothing about the class")
    # the noise is what one vector has for itself; it is not listed, since its 96 numbers are those of the files
    said["noise"] = ("unique", "superior", "standard normal numbers added to each vector, not listed")
    return said
