"""The skin phantom: a synthetic cohort in the on-disk layout of Derm7pt, one clinical and one dermoscopic photograph each.

Dermoscopy is the superior modality and the clinical photograph the inferior one, as in multimodal guidance: most of what tells
the diagnosis is in dermoscopy alone, some in both, some in the clinical photograph alone, a little in the metadata. What causes
what, and how strongly it shows, is `skin_model`; how it looks is `skin_pictures`; how well it can be told is `skin_ceilings`.

Case k depends on (seed, k) and the size only: not on the number of cases, nor on what is missing.
"""

from __future__ import annotations

import csv
import functools
import io
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pydantic import BaseModel, ConfigDict, Field, model_validator

from comodal.data.phantoms.skin_model import CRITERIA, DIAGNOSES, FACTORS, HISTORY, MODALITIES, Lesions, draw_lesions
from comodal.data.phantoms.skin_pictures import Picture, clinical, dermoscopic
from comodal.data.phantoms.writing import Role, claim, stream, write_bytes, write_causes
from comodal.errors import ConfigError, message, nearest

# The order is part of the format: the position of a use is mixed into the seed.
STREAMS = (
    "causes", "table", "missing", "outline", "colour", "patches", "network", "streaks", "dots", "vessels", "milia", "sun",
    "light", "derm_place", "derm_ground", "derm_over", "derm_noise",
    "clinical_place", "clinical_ground", "clinical_over", "clinical_noise",
)  # fmt: skip
DEFAULT_RATES: dict[str, dict[str, float]] = {
    "random": dict.fromkeys(MODALITIES, 0.3),
    "imbalanced": {"clinical": 0.1, "derm": 0.6, "metadata": 0.3},
}
# Every ten cases are 4 for training, 2 for validation and 4 for testing, about the shares of Derm7pt.
SPLITS = ("train", "test", "valid", "train", "test", "train", "test", "valid", "test", "train")
FOLDERS = ("NEL", "Fgl", "A1l", "Gzl", "NML", "Fhl")
COLUMNS = (
    "case_num", "diagnosis", "seven_point_score", "pigment_network", "streaks", "pigmentation", "regression_structures",
    "dots_and_globules", "blue_whitish_veil", "vascular_structures", "level_of_diagnostic_difficulty", "elevation", "location",
    "sex", "management", "clinic", "derm", "case_id", "notes",
)  # fmt: skip
# Which words of the table a class may have. Drawn from the class alone, so that no word says more than its class.
WORDS: dict[str, dict[str, tuple[str, ...]]] = {
    "diagnosis": {
        "BCC": ("basal cell carcinoma",),
        "NEV": ("clark nevus", "clark nevus", "reed or spitz nevus", "dermal nevus", "blue nevus", "congenital nevus"),
        "MEL": (
            "melanoma (in situ)",
            "melanoma (less than 0.76 mm)",
            "melanoma (0.76 to 1.5 mm)",
            "melanoma (more than 1.5 mm)",
        ),
        "MISC": ("dermatofibroma", "lentigo", "melanosis", "vascular lesion", "miscellaneous"),
        "SK": ("seborrheic keratosis",),
    },
    "pigment_network": {"TYP": ("typical",), "ATP": ("atypical",)},
    "blue_whitish_veil": {"PRS": ("present",)},
    "vascular_structures": {
        "REG": ("arborizing", "comma", "hairpin", "within regression", "wreath"),
        "IR": ("dotted", "linear irregular"),
    },
    "pigmentation": {"REG": ("diffuse regular", "localized regular"), "IR": ("diffuse irregular", "localized irregular")},
    "streaks": {"REG": ("regular",), "IR": ("irregular",)},
    "dots_and_globules": {"REG": ("regular",), "IR": ("irregular",)},
    "regression_structures": {"PRS": ("blue areas", "white areas", "combinations")},
}
POINTS = {
    "pigment_network": {"ATP": 2},
    "blue_whitish_veil": {"PRS": 2},
    "vascular_structures": {"IR": 2},
    "pigmentation": {"IR": 1},
    "streaks": {"IR": 1},
    "dots_and_globules": {"IR": 1},
    "regression_structures": {"PRS": 1},
}
PIXEL_NOISE = {"clinical": 0.014, "derm": 0.010}


class SkinPhantom(BaseModel):
    """Configuration of the skin phantom.

    Attributes:
        cases: Number of lesions, at least 1.
        size: Pixels along X and Y of both photographs, 64 to 512.
        seed: Same seed, same files.
        missing: Which modalities are absent: "none"; "random" (each with the same rate); "imbalanced" (each with its own,
            dermoscopy most often). An absent photograph has no file, absent metadata blank cells.
        rates: Probability that a modality is absent, in [0, 1), for "random" and "imbalanced"; those not named are never
            absent. Empty takes DEFAULT_RATES. A lesion that would lose all keeps one, drawn at random.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    cases: int = 200
    size: int = 128
    seed: int = 0
    missing: Literal["none", "random", "imbalanced"] = "none"
    rates: dict[str, float] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _check(self) -> SkinPhantom:
        for name, low, high in (("cases", 1, 99999), ("size", 64, 512), ("seed", 0, 2**63 - 1)):
            if not low <= getattr(self, name) <= high:
                raise ConfigError(_text(name, f"lie in {low}..{high}", getattr(self, name), f"Set {name} within these limits"))
        if self.rates and self.missing == "none":
            do = "Set missing to random or imbalanced, or leave rates out"
            raise ConfigError(_text("rates", "be empty where missing is none", self.rates, do))
        for name, rate in self.rates.items():
            if name not in MODALITIES:
                raise ConfigError(_text("rates", "name modalities of the phantom", repr(name), nearest(name, MODALITIES)))
            if not 0 <= rate < 1:
                raise ConfigError(_text(f"rates[{name}]", "lie in [0, 1)", rate, "Set a probability below 1"))
        return self

    def present(self, k: int) -> tuple[str, ...]:
        """The modalities of case k that exist, never none.

        >>> SkinPhantom().present(0)
        ('clinical', 'derm', 'metadata')
        """
        rates = self.rates or DEFAULT_RATES.get(self.missing, {})
        rng = _stream(self.seed, k, "missing")
        draws, last = rng.uniform(size=len(MODALITIES)), rng.choice(MODALITIES)
        kept = tuple(m for m, draw in zip(MODALITIES, draws, strict=True) if draw >= rates.get(m, 0.0))
        return kept or (str(last),)


def _text(name: str, rule: str, got: object, do: str) -> str:
    return message(f"phantom skin: {name}", rule, got, do=do)


def _stream(seed: int, k: int, use: str) -> np.random.Generator:
    return stream(seed, k, STREAMS.index(use))


def write_skin(out: Path, config: SkinPhantom, on_progress: Callable[[int, int], None] | None = None) -> None:
    """Writes the phantom. An interrupted call is completed by calling it again.

    Args:
        out: Plays the folder release_v0: a new or empty folder, or one that holds this very phantom. It gets `meta/` with the
            table and the index files, `images/`, the hidden causes, `phantom.json` and `SYNTHETIC.txt`.
        config: What to write.
        on_progress: Called with (cases done, all cases) after each case.

    Raises:
        DataError: The folder holds something else.
    """
    claim(out, "skin", config.model_dump(mode="json"))
    lesions = [draw_case(config, k) for k in range(config.cases)]
    _write_table(out, config, lesions)
    write_causes(out, [_causes(lesion, k) for k, lesion in enumerate(lesions)], _meanings())
    for k, lesion in enumerate(lesions):
        for modality in config.present(k):
            if modality != "metadata":
                pixels = photograph(config, k, modality, strengths=strengths_of(lesion))
                write_bytes(out / "images" / file_name(config, k, modality), jpeg(pixels))
        if on_progress is not None:
            on_progress(k + 1, config.cases)


def draw_case(config: SkinPhantom, k: int) -> Lesions:
    """The causes of case k: one lesion."""
    return draw_lesions(_stream(config.seed, k, "causes"), 1)


def strengths_of(lesion: Lesions) -> dict[str, float]:
    """{sign: strength} of one lesion."""
    return {name: float(values[0]) for name, values in lesion.strengths.items()}


def photograph(config: SkinPhantom, k: int, modality: str, *, strengths: Mapping[str, float]) -> NDArray[np.uint8]:
    """One photograph of case k: (X, Y, 3).

    Args:
        config: The phantom.
        k: Case, from 0.
        modality: "clinical" or "derm".
        strengths: The signs, of this case or others: everything else is that of the case.
    """
    paint = clinical if modality == "clinical" else dermoscopic
    fine = 2 if config.size < 256 else 1  # painted finer than it is written, then averaged
    picture: Picture = paint(strengths, functools.partial(_stream, config.seed, k), config.size * fine)
    picture = picture.reshape(config.size, fine, config.size, fine, 3).mean(axis=(1, 3), dtype=np.float32)
    noise = _stream(config.seed, k, f"{modality}_noise").standard_normal(picture.shape, dtype=np.float32)
    picture = picture + np.float32(PIXEL_NOISE[modality]) * noise
    return np.asarray(np.rint(np.clip(picture, 0, 1) * 255), dtype=np.uint8)


def jpeg(pixels: NDArray[np.uint8]) -> bytes:
    """(X, Y, 3) pixels as the bytes of a JPEG file."""
    file = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(pixels.transpose(1, 0, 2))).save(file, format="JPEG", quality=93, subsampling=0)
    return file.getvalue()


def file_name(config: SkinPhantom, k: int, modality: str, *, table: bool = False) -> str:
    """Path of a photograph of case k below images, on disk or as the table writes it: capitals differ, as in Derm7pt.

    >>> file_name(SkinPhantom(), 0, "derm").casefold() == file_name(SkinPhantom(), 0, "derm", table=True).casefold()
    True
    """
    rng = _stream(config.seed, k, "table")
    folder, capitals, other = FOLDERS[int(rng.integers(len(FOLDERS)))], rng.uniform(size=2) < 0.4, rng.uniform(size=2) < 0.3
    which = int(modality == "derm")
    name = f"{folder.capitalize()}{2 * k + which + 1:03d}.jpg"
    upper = bool(capitals[which] ^ (table and other[which]))
    return f"{folder}/{name.upper() if upper else name}"


def _write_table(out: Path, config: SkinPhantom, lesions: list[Lesions]) -> None:
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(_row(config, k, lesion) for k, lesion in enumerate(lesions))
    write_bytes(out / "meta" / "meta.csv", text.getvalue().encode())
    for split in ("train", "valid", "test"):
        rows = [str(k) for k in range(config.cases) if SPLITS[k % len(SPLITS)] == split]
        write_bytes(out / "meta" / f"{split}_indexes.csv", "\n".join(["indexes", *rows, ""]).encode())


def _row(config: SkinPhantom, k: int, lesion: Lesions) -> dict[str, str | int]:
    """One line of meta.csv."""
    rng = _stream(config.seed, k, "table")
    rng.uniform(size=5)  # those of the file names
    classes = {factor.name: factor.values[int(lesion.values[factor.name][0])] for factor in FACTORS}
    classes["diagnosis"] = DIAGNOSES[int(lesion.diagnosis[0])]
    words = {name: str(rng.choice(groups.get(classes[name], ("absent",)))) for name, groups in WORDS.items()}
    history = {factor.name: classes[factor.name] if "metadata" in config.present(k) else "" for factor in HISTORY}
    return {
        **words,
        **history,
        "case_num": k + 1,
        "seven_point_score": sum(points.get(classes[name], 0) for name, points in POINTS.items()),
        "level_of_diagnostic_difficulty": str(rng.choice(("low", "medium", "high"))),
        # As in clinics, what is done follows from the diagnosis: who took it for an input would be told the answer.
        "management": "excision"
        if classes["diagnosis"] in ("BCC", "MEL")
        else str(rng.choice(("clinical follow up", "excision"))),
        "clinic": file_name(config, k, "clinical", table=True),
        "derm": file_name(config, k, "derm", table=True),
        "case_id": "",
        "notes": "",
    }


def _causes(lesion: Lesions, k: int) -> dict[str, str | float]:
    values = {f.name: f.values[int(lesion.values[f.name][0])] for f in (*CRITERIA, *HISTORY)}
    signs = {f"sign_{name}": round(value, 4) for name, value in strengths_of(lesion).items()}
    return {"case": str(k + 1), "diagnosis": DIAGNOSES[int(lesion.diagnosis[0])], **values, **signs}


def _meanings() -> dict[str, tuple[Role, str, str]]:
    """What the columns of the hidden causes are."""
    out: dict[str, tuple[Role, str, str]] = {"diagnosis": ("label", "", "the class; everything else is drawn given it")}
    for factor in (*CRITERIA, *HISTORY):
        role: Role = "label" if factor in CRITERIA else "shared" if factor.signs else "unique"
        modality = "metadata" if role == "unique" else ""
        out[factor.name] = (role, modality, "class of the criterion" if role == "label" else "recorded in metadata")
    for factor in FACTORS:
        for sign in factor.signs:
            alone = factor.signs == (sign,) and len(sign.seen_in) == 1 and not factor.recorded
            said = f"strength in [0, 1] with which {' and '.join(sign.seen_in)} shows {factor.name}"
            modality = sign.seen_in[0] if len(sign.seen_in) == 1 else ""
            out[f"sign_{sign.name}"] = ("unique" if alone else "shared", modality, said)
    return out
