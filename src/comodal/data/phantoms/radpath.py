"""The radpath phantom: four MRI sequences and tiles of pathology of one tumour, in the layout of CPM-RadPath 2020.

The brains are those of the brain phantom. In its tumour the signs of `radpath_model` are painted, as factors on what the
sequence shows there: enhancement on the core in T1ce, oedema around the core in T2 and FLAIR, the dark core of FLAIR (T2-FLAIR
mismatch), calcification as a dark core in T1. Shape and place of the tumour, bias field, scanner units and noise are nuisance.
The tiles of `radpath_tiles` show what the microscope sees. Radiology and pathology share the process (proliferation) and the
diagnosis; each has signs of its own, so that both together are better than either.

Case k depends on (seed, k) alone.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pydantic import BaseModel, ConfigDict, Field, model_validator

from comodal.data.phantoms.brain import BrainPhantom, brats_affine, draw_case, mix, nifti_gz, scan
from comodal.data.phantoms.fields import image_shape, make_frame
from comodal.data.phantoms.radpath_model import DIAGNOSES, MODALITIES, SIGNS, draw
from comodal.data.phantoms.radpath_tiles import paint_tile
from comodal.data.phantoms.writing import Role, claim, stream, write_bytes, write_causes
from comodal.errors import ConfigError, message, nearest

SEQUENCES = MODALITIES[:4]
SIGN_STREAM, MISSING, AGE, TILES, SCANS = range(5)
ROOT = "CPM-RadPath_2020_Training_Data"
GAIN = {"enhancement": 0.9, "oedema": 0.9, "mismatch": 0.7, "calcification": 0.5}


class RadpathPhantom(BaseModel):
    """Configuration of the radpath phantom.

    Attributes:
        cases: Number of patients, at least 1.
        size: Voxels along X and Y of the MRI, 48 to 240, as in the brain phantom.
        seed: Same seed, same files.
        tiles: Tiles of pathology of a patient, from 1 to this many.
        missing: Which modalities have no file: "none", or "random" with `rates`.
        rates: {modality: probability that it is missing}, in [0, 1). Empty takes 0.3 for pathology and 0.2 for each sequence. A
            patient who would lose all keeps t1ce.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    cases: int = 48
    size: int = 48
    seed: int = 0
    tiles: int = 4
    missing: Literal["none", "random"] = "none"
    rates: dict[str, float] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _check(self) -> RadpathPhantom:
        for name, low, high in (("cases", 1, 99999), ("size", 48, 240), ("seed", 0, 2**63 - 1), ("tiles", 1, 64)):
            if not low <= getattr(self, name) <= high:
                rule, do = f"lie in {low}..{high}", f"Set {name} within these limits"
                raise ConfigError(message(f"phantom radpath: {name}", rule, getattr(self, name), do=do))
        for name, rate in self.rates.items():
            if name not in MODALITIES:
                do = nearest(name, MODALITIES)
                raise ConfigError(message("phantom radpath: rates", "name modalities of the phantom", repr(name), do=do))
            if not 0 <= rate < 1 or self.missing == "none":
                rule, do = "lie in [0, 1), with missing random", "Set missing to random and a probability below 1"
                raise ConfigError(message(f"phantom radpath: rates[{name}]", rule, rate, do=do))
        return self

    def case_name(self, k: int) -> str:
        """Identifier of case k, in the form of the challenge.

        >>> RadpathPhantom().case_name(27)
        'CPM19_PHAN_ABB_1'
        """
        letters = "".join(chr(ord("A") + k // 26**power % 26) for power in (2, 1, 0))
        return f"CPM19_PHAN_{letters if k < 26**3 else k}_1"

    def present(self, k: int) -> tuple[str, ...]:
        """The modalities of case k that have files, never none."""
        if self.missing == "none":
            return MODALITIES
        rates = self.rates or {**dict.fromkeys(SEQUENCES, 0.2), "pathology": 0.3}
        draws = stream(self.seed, k, MISSING).random(len(MODALITIES))
        kept = tuple(m for m, one in zip(MODALITIES, draws, strict=True) if one >= rates.get(m, 0.0))
        return kept or ("t1ce",)


def causes(config: RadpathPhantom, k: int) -> dict[str, object]:
    """The hidden causes of case k: diagnosis, process, signs, age and number of tiles."""
    diagnosis, active, signs = draw(stream(config.seed, k, SIGN_STREAM), 1)
    rng = stream(config.seed, k, AGE)
    values = {name: round(float(value), 4) for name, value in zip(SIGNS, signs[0], strict=True)}
    age, tiles = int(rng.integers(25, 80) * 365 + rng.integers(365)), int(rng.integers(1, config.tiles + 1))
    named = {"case": config.case_name(k), "diagnosis": DIAGNOSES[diagnosis[0]], "proliferates": int(active[0])}
    return {**named, **values, "age_in_days": age, "tiles": tiles}


def make_scan(config: RadpathPhantom, k: int, sequence: str, *, signs: Mapping[str, float]) -> NDArray[np.int16]:
    """One sequence of case k with these signs in its tumour.

    Args:
        config: The phantom.
        k: Case, from 0.
        sequence: "t1", "t1ce", "t2" or "flair".
        signs: {sign: strength in [0, 1]}.

    Returns:
        (X, Y, Z) int16, 0 outside the brain, array order LPS.
    """
    frame = make_frame(config.size)
    brain = BrainPhantom(seed=config.seed % 2**62, size=config.size, low_grade=0)
    anatomy, lesion = draw_case(brain, k, frame.axes(fine=True))
    inside = frame.average(np.clip(anatomy.brain / np.float32(frame.spacing) + np.float32(0.5), 0, 1)) >= 0.5
    tissue = mix(anatomy, lesion, frame)
    core, rim = tissue["core"] + tissue["rim"], tissue["oedema"]
    healthy = {**tissue, "white": tissue["white"] + core + rim, **{n: np.zeros_like(core) for n in ("oedema", "core", "rim")}}
    rng = stream(config.seed, k, SCANS + SEQUENCES.index(sequence))
    image = scan(healthy, core + rim, sequence, axes=frame.axes(fine=False), rng=rng).astype(np.float32)
    factor = {
        "t1": 1 - GAIN["calcification"] * signs["calcification"] * core,
        "t1ce": 1 + GAIN["enhancement"] * signs["enhancement"] * core,
        "t2": 1 + GAIN["oedema"] * signs["oedema"] * rim + 0.8 * core,
        "flair": 1 + GAIN["oedema"] * signs["oedema"] * rim - GAIN["mismatch"] * signs["mismatch"] * core,
    }[sequence]
    box = np.clip(np.rint(image * factor), 1, 32767).astype(np.int16) * inside
    out = np.zeros(image_shape(config.size), dtype=np.int16)
    out[frame.box] = box
    return out


def write_radpath(out: Path, config: RadpathPhantom, on_progress: Callable[[int, int], None] | None = None) -> None:
    """Writes the phantom. An interrupted call is completed by calling it again.

    Args:
        out: The root: a new or empty folder, or one that holds this very phantom.
        config: What to write.
        on_progress: Called with (cases done, all cases) after each case.

    Raises:
        DataError: The folder holds something else.
    """
    claim(out, "radpath", config.model_dump(mode="json"))
    rows = [causes(config, k) for k in range(config.cases)]
    write_causes(out, rows, _meanings())
    lines = [f"{row['case']},{row['diagnosis']},{row['age_in_days']}\n" for row in rows]
    table = "CPM_RadPath_2019_ID,class,age_in_days\n" + "".join(lines)
    write_bytes(out / ROOT / "training_data_classification_labels.csv", table.encode())
    affine = brats_affine(config.size)
    for k, row in enumerate(rows):
        name, signs = str(row["case"]), {sign: float(str(row[sign])) for sign in SIGNS}
        for modality in config.present(k):
            if modality == "pathology":
                for number in range(int(str(row["tiles"]))):
                    rng = np.random.default_rng([config.seed, k, TILES, number])
                    file = out / ROOT / "Pathology" / name / f"{name}_{number + 1}.png"
                    write_bytes(file, _png(paint_tile(signs, rng)))
            else:
                file = out / ROOT / "Radiology" / name / f"{name}_{modality}.nii.gz"
                write_bytes(file, nifti_gz(make_scan(config, k, modality, signs=signs), affine))
        if on_progress is not None:
            on_progress(k + 1, config.cases)


def _png(pixels: NDArray[np.uint8]) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, format="PNG")
    return file.getvalue()


def _meanings() -> dict[str, tuple[Role, str, str]]:
    """What each hidden cause is."""
    said: dict[str, tuple[Role, str, str]] = {
        "diagnosis": ("label", "", "glioblastoma-like (G), oligodendroglioma (O) or astrocytoma (A)"),
        "proliferates": ("shared", "", "the process behind enhancement in T1ce and behind density and vessels in pathology"),
        "age_in_days": ("noise", "", "drawn without regard to the diagnosis"),
        "tiles": ("noise", "pathology", "how many tiles there are"),
    }
    for name, sign in SIGNS.items():
        role: Role = "shared" if sign.of_process or len(sign.seen_in) > 1 else "unique"
        said[name] = (
            role,
            sign.seen_in[0] if len(sign.seen_in) == 1 else "",
            f"strength in [0, 1], seen in {', '.join(sign.seen_in)}",
        )
    return said
