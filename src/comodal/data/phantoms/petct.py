"""The PET/CT phantom: a synthetic cohort in the on-disk layout of autoPET (whole body) or of HECKTOR 2022 (head and neck).

Lesions shine in PET and are masses in CT, but some are dead and only seen in CT, active fat shines and is no mass, and benign
nodes are masses and do not shine: `petct_scene` has the whole model, `petct_anatomy` the body around it. As in autoPET about
half of the cases have no lesion; as in HECKTOR the centres differ, CT is finer than PET, and the labels lie on the CT's grid.

Case k depends on (seed, k), the release and the size only.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, model_validator
from scipy import ndimage

from comodal.data.phantoms.brain import nifti_gz
from comodal.data.phantoms.fields import Axes
from comodal.data.phantoms.petct_anatomy import AIR_HU, labels, take
from comodal.data.phantoms.petct_scene import CENTRES, NEGATIVES, Release, Scene, causes, draw_scene, meanings
from comodal.data.phantoms.writing import claim, stream, write_bytes, write_causes
from comodal.errors import ConfigError, message, nearest

MODALITIES = ("ct", "pet")
# The order is part of the format.
STREAMS = ("scene", "anatomy", "missing", "names", "ct", "pet")
DEFAULT_RATE = 0.3
DIAGNOSES = ("LUNG_CANCER", "LYMPHOMA", "MELANOMA")
VISITS = 9  # of autoPET: every ninth study is the second one of the patient before it
STUDY = "NA-PET-CT{0}Ganzkoerper{0}{0}primaer{0}mit{0}KM"


class PetctPhantom(BaseModel):
    """Configuration of the PET/CT phantom.

    Attributes:
        cases: Number of studies, at least 1.
        size: Voxels of the PET along X and Y, 40 to 200. The field of view is always the same: 400 x 400 x 760 mm (autopet) or
            240 x 240 x 190 mm (hecktor).
        seed: Same seed, same files.
        release: "autopet" or "hecktor".
        negatives: Probability that a case is a negative control, which has no lesion; others may have none by chance. None
            takes 0.45 (autopet) or 0.1 (hecktor).
        missing: Which modalities have no file: "none" or "random".
        rates: Probability that a modality is missing, in [0, 1), for "random"; those not named are never missing. Empty takes
            0.3 for both. A case that would lose both keeps one, drawn at random.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    cases: int = 24
    size: int = 48
    seed: int = 0
    release: Release = "autopet"
    negatives: float | None = None
    missing: Literal["none", "random"] = "none"
    rates: dict[str, float] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _check(self) -> PetctPhantom:
        for name, low, high in (("cases", 1, 9999), ("size", 40, 200), ("seed", 0, 2**63 - 1)):
            if not low <= getattr(self, name) <= high:
                raise ConfigError(_text(name, f"lie in {low}..{high}", getattr(self, name), f"Set {name} within these limits"))
        if self.negatives is not None and not 0 <= self.negatives <= 1:
            raise ConfigError(_text("negatives", "lie in [0, 1]", self.negatives, "Set a probability, for instance 0.45"))
        if self.rates and self.missing == "none":
            do = "Set missing to random, or leave rates out"
            raise ConfigError(_text("rates", "be empty where missing is none", self.rates, do))
        for name, rate in self.rates.items():
            if name not in MODALITIES:
                raise ConfigError(_text("rates", "name modalities of the phantom", repr(name), nearest(name, MODALITIES)))
            if not 0 <= rate < 1:
                raise ConfigError(_text(f"rates[{name}]", "lie in [0, 1)", rate, "Set a probability below 1"))
        return self

    @property
    def negative_rate(self) -> float:
        """Probability of a negative control."""
        return NEGATIVES[self.release] if self.negatives is None else self.negatives

    def centre(self, k: int) -> str:
        """Centre of case k: the centres take turns; "" where there is one only."""
        centres = sorted(CENTRES[self.release])
        return centres[k % len(centres)]

    def case_id(self, k: int) -> str:
        """How the layout calls case k, counted from 0.

        >>> PetctPhantom(release="hecktor").case_id(7)
        'CHUM-002'
        """
        if self.release == "hecktor":
            return f"{self.centre(k)}-{k // len(CENTRES['hecktor']) + 1:03d}"
        patient, study = self._study(k, " ")
        return f"{patient}_{self._study(k, '_')[1].replace('__', '_')}" if study else patient

    def file_name(self, k: int, column: str) -> str:
        """Path of a file of case k below the root: a modality, or "seg".

        >>> PetctPhantom(release="hecktor").file_name(7, "pet")
        'hecktor2022_training/imagesTr/CHUM-002__PT.nii.gz'
        """
        if self.release == "hecktor":
            case = self.case_id(k)
            inner = {"ct": f"imagesTr/{case}__CT", "pet": f"imagesTr/{case}__PT", "seg": f"labelsTr/{case}"}[column]
            return f"hecktor2022_training/{inner}.nii.gz"
        name = {"ct": "CTres", "pet": "SUV", "seg": "SEG"}[column]
        return f"FDG-PET-CT-Lesions/{'/'.join(self._study(k, ' '))}/{name}.nii.gz"

    def _study(self, k: int, gap: str) -> tuple[str, str]:
        """Folders of patient and study of autoPET. Real ones have spaces in them, in one place two."""
        patient = k - 1 if k % VISITS == VISITS - 1 else k
        digest = hashlib.blake2b(f"{self.seed} {patient}".encode(), digest_size=5).hexdigest()
        rng = stream(self.seed, k, STREAMS.index("names"))
        month, day, year = (int(rng.integers(low, high)) for low, high in ((1, 13), (1, 29), (2000, 2010)))
        # the number of the case keeps two studies of a patient apart
        return f"PETCT_{digest}", f"{month:02d}-{day:02d}-{year}-{STUDY.format(gap)}-{k:05d}"

    def present(self, k: int) -> tuple[str, ...]:
        """The modalities of case k that have a file, never none."""
        if self.missing == "none":
            return MODALITIES
        rates = self.rates or dict.fromkeys(MODALITIES, DEFAULT_RATE)
        rng = stream(self.seed, k, STREAMS.index("missing"))
        draws, last = rng.uniform(size=len(MODALITIES)), str(rng.choice(MODALITIES))
        kept = tuple(m for m, draw in zip(MODALITIES, draws, strict=True) if draw >= rates.get(m, 0.0))
        return kept or (last,)

    def scene(self, k: int) -> Scene:
        """The patient of case k, with all hidden causes."""
        scale = CENTRES[self.release][self.centre(k)][0]
        rng = stream(self.seed, k, STREAMS.index("scene"))
        return draw_scene(rng, self.release, negatives=self.negative_rate, scale=scale)


def _text(name: str, rule: str, got: object, do: str) -> str:
    return message(f"phantom petct: {name}", rule, got, do=do)


def write_petct(out: Path, config: PetctPhantom, on_progress: Callable[[int, int], None] | None = None) -> None:
    """Writes the phantom. An interrupted call is completed by calling it again.

    Args:
        out: The root: a new or empty folder, or one that holds this very phantom. Beside the files of the layout it gets
            `phantom.json`, `SYNTHETIC.txt` and the hidden causes; autopet also `fdg_metadata.csv` with the diagnoses.
        config: What to write.
        on_progress: Called with (cases done, all cases) after each case.

    Raises:
        DataError: The folder holds something else.
    """
    claim(out, "petct", config.model_dump(mode="json"))
    rows = [causes(config.case_id(k), config.centre(k), config.scene(k)) for k in range(config.cases)]
    write_causes(out, rows, meanings())
    if config.release == "autopet":
        write_bytes(out / "fdg_metadata.csv", _metadata(config).encode())
    for k in range(config.cases):
        for column, array, affine in make_case(config, k):
            write_bytes(out / config.file_name(k, column), nifti_gz(array, affine))
        if on_progress is not None:
            on_progress(k + 1, config.cases)


def _metadata(config: PetctPhantom) -> str:
    """As in the collection a row for each series; here the PET's alone. A study without a lesion is NEGATIVE."""
    lines = ["Subject ID,Modality,File Location,diagnosis"]
    for k in range(config.cases):
        ill = DIAGNOSES[int(stream(config.seed, k, STREAMS.index("names")).integers(len(DIAGNOSES)))]
        place = config.file_name(k, "pet").rsplit("/", 1)[0]
        diagnosis = ill if config.scene(k).lesion_ml else "NEGATIVE"
        lines.append(f"{place.split('/')[1]},PT,./{place}/1.000000-PET-00001,{diagnosis}")
    return "\n".join(lines) + "\n"


def axes_of(config: PetctPhantom, column: str) -> tuple[Axes, NDArray[np.float64]]:
    """Where the voxels of a modality or of "seg" lie.

    Args:
        config: The phantom.
        column: "ct", "pet" or "seg".

    Returns:
        Centres along the axes of the array (mm, RAS; X and Y fall, as in files of LPS order), and the affine of the file.
    """
    if config.release == "autopet":
        return _axes((400.0, 400.0, 760.0), (config.size, config.size, round(1.9 * config.size)), low=-3.0)
    if column == "pet":
        return _axes((240.0, 240.0, 190.0), (config.size, config.size, round(0.79 * config.size)), low=-2.0)
    return _axes((216.0, 216.0, 186.0), (2 * config.size, 2 * config.size, round(1.16 * config.size)), low=0.0)


def _axes(extent: tuple[float, ...], shape: tuple[int, ...], *, low: float) -> tuple[Axes, NDArray[np.float64]]:
    dx, dy, dz = (float(mm / count) for mm, count in zip(extent, shape, strict=True))
    steps = zip(shape, (dx, dy, dz), strict=True)
    x, y, z = ((np.arange(count, dtype=np.float64) + 0.5) * step for count, step in steps)
    axes: Axes = (np.subtract(extent[0] / 2, x), np.subtract(extent[1] / 2, y), np.add(low, z))
    affine = np.diag([-dx, -dy, dz, 1.0]).astype(np.float64)
    affine[:3, 3] = [axis[0] for axis in axes]
    return axes, affine


def make_case(config: PetctPhantom, k: int) -> Iterator[tuple[str, NDArray[np.generic], NDArray[np.float64]]]:
    """The arrays of one case in the order in which they are written.

    Args:
        config: The phantom.
        k: Case, counted from 0.

    Yields:
        ("seg", labels uint8, affine), then of those present ("ct", int16 HU, affine) and ("pet", float32 SUV, affine).
    """
    scene = config.scene(k)
    use = partial(stream, config.seed, k)
    _, pet_noise, ct_noise = CENTRES[config.release][config.centre(k)]
    axes, affine = axes_of(config, "seg")
    lesions = labels(tuple(candidate for candidate in scene.candidates if candidate.lesion), axes)
    seg = np.where(lesions, np.uint8(2 if config.release == "hecktor" else 1), np.uint8(0))
    if scene.primary is not None:
        seg[labels((scene.primary,), axes)] = 1
    yield "seg", seg, affine
    for modality in config.present(k):
        axes, affine = axes_of(config, modality)
        image = take(scene, config.release, axes, modality=modality, rng=use(STREAMS.index("anatomy")))
        rng = use(STREAMS.index(modality))
        grain = ndimage.gaussian_filter(rng.standard_normal(image.shape, dtype=np.float32), 0.6, mode="wrap")
        grain /= np.float32(grain.std())
        if modality == "ct":
            body = np.where(image > AIR_HU + 1, grain * np.float32(ct_noise), 0)
            yield "ct", np.clip(np.rint(image + body), -1024, 3071).astype(np.int16), affine
        else:
            noisy = image + grain * np.float32(pet_noise) * np.sqrt(image)
            yield "pet", np.maximum(noisy, 0).astype(np.float32), affine
