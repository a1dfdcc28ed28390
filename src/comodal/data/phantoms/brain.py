"""The brain phantom: a synthetic cohort in the on-disk layout of BraTS (2015, 2020 or 2023).

What is visible where follows Figure 4 of Shen et al. (CIML), which repeats the annotation protocol of BraTS: FLAIR shows WT;
T2 shows WT and, brighter, TC; T1ce shows TC (dark) and ET (bright); T1 shows TC weakly. Nothing else separates the regions, and
each sequence has something that looks like tumour and is not: hyperintensities in FLAIR, fluid in T2, vessels in T1ce, cortex
in T1. Several sequences together are therefore better than any one.

Case k depends on (seed, k) and the size only: not on the number of cases, nor on which files are missing, nor on the release,
which changes names, label codes and the format of the files.
"""

from __future__ import annotations

import gzip
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Literal

import nibabel as nib
import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, model_validator

from comodal.data.phantoms.anatomy import Anatomy, build_anatomy, draw_subject, place
from comodal.data.phantoms.fields import Axes, Frame, image_shape, make_frame, smooth_noise
from comodal.data.phantoms.fields import Field as Array
from comodal.data.phantoms.metaimage import mha
from comodal.data.phantoms.tumour import Lesion, build_lesion, draw_tumour, push_aside
from comodal.data.phantoms.writing import claim, write_bytes
from comodal.errors import ConfigError, message, nearest

MODALITIES = ("flair", "t1", "t1ce", "t2")
# The order is part of the format: the index of a word is mixed into the seed, so that each kind of draw has its own stream.
STREAMS = ("subject", "warp", "anatomy", "tumour", "lesion", "missing", *MODALITIES)

# Signal of pure tissue, in units in which most tissue lies between 0.5 and 1.
SIGNAL: dict[str, dict[str, float]] = {
    "flair": {
        "csf": 0.20,
        "grey": 0.76,
        "white": 0.62,
        "spots": 1.16,
        "vessels": 0.45,
        "oedema": 1.20,
        "core": 1.16,
        "rim": 1.16,
    },
    "t1": {"csf": 0.24, "grey": 0.66, "white": 0.92, "spots": 0.82, "vessels": 0.55, "oedema": 0.79, "core": 0.70, "rim": 0.70},
    "t1ce": {
        "csf": 0.26,
        "grey": 0.70,
        "white": 0.94,
        "spots": 0.86,
        "vessels": 1.40,
        "oedema": 0.81,
        "core": 0.50,
        "rim": 1.40,
    },
    "t2": {"csf": 1.75, "grey": 0.92, "white": 0.66, "spots": 0.84, "vessels": 0.45, "oedema": 1.13, "core": 1.42, "rim": 1.42},
}
# Scanner units of 1, before each subject's own factor.
UNITS = {"flair": 420.0, "t1": 520.0, "t1ce": 560.0, "t2": 610.0}

DEFAULT_RATES: dict[str, dict[str, float]] = {
    "random": dict.fromkeys(MODALITIES, 0.3),
    "imbalanced": {"flair": 0.1, "t1": 0.3, "t1ce": 0.6, "t2": 0.4},
}
# What each site does not acquire.
SITES: dict[str, tuple[str, ...]] = {"A": (), "B": ("t1",), "C": ("t1ce",), "D": ("flair", "t1")}

RELEASES: dict[str, dict[str, str]] = {
    "2015": {"case": "brats_2013_pat{:04d}_1", "flair": "MR_Flair", "t1": "MR_T1", "t1ce": "MR_T1c", "t2": "MR_T2"},
    "2020": {"case": "BraTS20_Training_{:03d}", "join": "_", "flair": "flair", "t1": "t1", "t1ce": "t1ce", "t2": "t2"},
    "2023": {"case": "BraTS-GLI-{:05d}-000", "join": "-", "flair": "t2f", "t1": "t1n", "t1ce": "t1c", "t2": "t2w"},
}
# Oedema, core, enhancing rim.
CODES: dict[str, tuple[int, int, int]] = {"2015": (2, 1, 4), "2020": (2, 1, 4), "2023": (2, 1, 3)}
# 2015 tells necrosis from non-enhancing tumour: what does not enhance anywhere has no necrosis either.
NON_ENHANCING = {"2015": 3}
GRADES = ("HGG", "LGG")  # 2015 has a folder for each, in which patients are numbered from 1
FIRST_NUMBER = 54512  # of the files of 2015, each of which has one of its own


class BrainPhantom(BaseModel):
    """Configuration of the brain phantom.

    Attributes:
        cases: Number of subjects, at least 1.
        size: Voxels along X and Y, 48 to 240. The field of view is always 240 x 240 x 155 mm, so that 48 has voxels of 5 mm and
            240 has the 240 x 240 x 155 voxels of 1 mm of BraTS.
        seed: Same seed, same files.
        missing: Which sequences have no file: "none"; "random" (each with the same rate); "imbalanced" (each with its own);
            "site" (subjects come from sites in turn, and each site lacks what `sites` says; written to `sites.csv`).
        rates: Probability that a sequence is missing, in [0, 1), for "random" and "imbalanced"; those not named are never
            missing. Empty takes DEFAULT_RATES. A subject that would lose all keeps one, drawn at random.
        sites: For "site": what each site lacks.
        low_grade: Probability that a tumour has no enhancing part, so that its ET is empty.
        release: Names and label codes: "2015" (.mha files, 0 to 4, where the core of a tumour without enhancement is 3), "2020"
            (0, 1, 2, 4) or "2023" (0, 1, 2, 3).
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    cases: int = 24
    size: int = 48
    seed: int = 0
    missing: Literal["none", "random", "imbalanced", "site"] = "none"
    rates: dict[str, float] = Field(default_factory=dict)
    sites: dict[str, tuple[str, ...]] = Field(default_factory=lambda: dict(SITES))
    low_grade: float = 0.15
    release: Literal["2015", "2020", "2023"] = "2020"

    @model_validator(mode="after")
    def _check(self) -> BrainPhantom:
        limits = (("cases", 1, 99999), ("size", 48, 240), ("seed", 0, 2**63 - 1))
        for name, low, high in limits:
            if not low <= getattr(self, name) <= high:
                raise ConfigError(_text(name, f"lie in {low}..{high}", getattr(self, name), f"Set {name} within these limits"))
        if not 0 <= self.low_grade <= 1:
            raise ConfigError(_text("low_grade", "lie in [0, 1]", self.low_grade, "Set a probability, for instance 0.15"))
        self._check_missing()
        return self

    def _check_missing(self) -> None:
        if self.rates and self.missing not in DEFAULT_RATES:
            do = "Set missing to random or imbalanced, or leave rates out"
            raise ConfigError(_text("rates", f"be empty where missing is {self.missing}", self.rates, do))
        for name, rate in self.rates.items():
            if name not in MODALITIES:
                raise ConfigError(_text("rates", "name sequences of the phantom", repr(name), nearest(name, MODALITIES)))
            if not 0 <= rate < 1:
                raise ConfigError(_text(f"rates[{name}]", "lie in [0, 1)", rate, "Set a probability below 1"))
        for site, lacks in self.sites.items():
            if set(lacks) - set(MODALITIES) or set(lacks) >= set(MODALITIES):
                rule = f"lack some of {', '.join(MODALITIES)}, but not all"
                raise ConfigError(_text(f"sites[{site}]", rule, list(lacks), "Leave each site at least one sequence"))
        if not self.sites:
            raise ConfigError(_text("sites", "name at least one site", "{}", "Leave it out for the default sites"))

    def case_name(self, k: int) -> str:
        """Folder of case k, counted from 0. In 2015 two cases share each name, one in the folder HGG and one in LGG.

        >>> BrainPhantom().case_name(0), BrainPhantom(release="2023").case_name(0)
        ('BraTS20_Training_001', 'BraTS-GLI-00001-000')
        """
        return RELEASES[self.release]["case"].format((k // len(GRADES) if self.release == "2015" else k) + 1)

    def case_id(self, k: int) -> str:
        """How the layout calls case k: its name, with the grade where two cases share it.

        >>> [BrainPhantom(release="2015", cases=3).case_id(k) for k in range(3)]
        ['HGG_brats_2013_pat0001_1', 'LGG_brats_2013_pat0001_1', 'brats_2013_pat0002_1']
        """
        shared = self.release == "2015" and k ^ 1 < self.cases
        return f"{GRADES[k % 2]}_{self.case_name(k)}" if shared else self.case_name(k)

    def file_name(self, k: int, column: str) -> str:
        """Path of a file of case k below the root: a sequence, or "seg". In 2015 every other case lies in the folder LGG.

        >>> BrainPhantom(release="2023").file_name(0, "flair")
        'BraTS-GLI-00001-000/BraTS-GLI-00001-000-t2f.nii.gz'
        """
        names, case = RELEASES[self.release], self.case_name(k)
        if self.release == "2015":
            number = FIRST_NUMBER + 6 * k + (*MODALITIES, "", "seg").index(column)
            stem = f"VSD.Brain{'_3more' if column == 'seg' else ''}.XX.O.{names.get(column, 'OT')}.{number}"
            return f"{GRADES[k % 2]}/{case}/{stem}/{stem}.mha"
        return f"{case}/{case}{names['join']}{names.get(column, column)}.nii.gz"

    def site(self, k: int) -> str:
        """Site of case k: the sites take turns."""
        return sorted(self.sites)[(k + self.seed) % len(self.sites)]

    def present(self, k: int) -> tuple[str, ...]:
        """The sequences of case k that have a file, never none.

        >>> BrainPhantom(missing="site", sites={"A": ["t1", "t2"]}).present(0)
        ('flair', 't1ce')
        """
        if self.missing == "site":
            return tuple(m for m in MODALITIES if m not in self.sites[self.site(k)])
        rates = self.rates or DEFAULT_RATES.get(self.missing, {})
        rng = stream(self.seed, k, "missing")
        draws, last = rng.uniform(size=len(MODALITIES)), rng.choice(MODALITIES)
        kept = tuple(m for m, draw in zip(MODALITIES, draws, strict=True) if draw >= rates.get(m, 0.0))
        return kept or (str(last),)


def _text(name: str, rule: str, got: object, do: str) -> str:
    return message(f"phantom brain: {name}", rule, got, do=do)


def stream(seed: int, k: int, use: str) -> np.random.Generator:
    """The random stream of one use in one case; streams do not depend on each other."""
    return np.random.default_rng([seed, k, STREAMS.index(use)])


def write_brain(out: Path, config: BrainPhantom, on_progress: Callable[[int, int], None] | None = None) -> None:
    """Writes the phantom. An interrupted call is completed by calling it again.

    Args:
        out: The root: a new or empty folder, or one that holds this very phantom. It gets one folder per case, `phantom.json`
            (the configuration), `SYNTHETIC.txt` (so that who indexes the folder is told), and for sites `sites.csv` with the
            columns case, site.
        config: What to write.
        on_progress: Called with (cases done, all cases) after each case.

    Raises:
        DataError: The folder holds something else.
    """
    _claim(out, config)
    if config.missing == "site":
        lines = [f"{config.case_id(k)},{config.site(k)}\n" for k in range(config.cases)]
        write_bytes(out / "sites.csv", ("case,site\n" + "".join(lines)).encode())
    affine, file_bytes = brats_affine(config.size), mha if config.release == "2015" else nifti_gz
    for k in range(config.cases):
        for column, array in make_case(config, k):
            write_bytes(out / config.file_name(k, column), file_bytes(array, affine))
        if on_progress is not None:
            on_progress(k + 1, config.cases)


def _claim(out: Path, config: BrainPhantom) -> None:
    """Makes the folder this phantom's own. Phantoms of 2015 that were written before cases were numbered by grade differ."""
    numbers = {"numbers": "by grade"} if config.release == "2015" else {}
    claim(out, "brain", {**config.model_dump(mode="json"), **numbers})


def make_case(config: BrainPhantom, k: int) -> Iterator[tuple[str, NDArray[np.generic]]]:
    """The arrays of one case, one after the other, in the order in which they are written.

    Args:
        config: The phantom.
        k: Case, counted from 0.

    Yields:
        ("seg", labels uint8) and (sequence, int16 voxels, 0 outside the brain) for those present; shape (size, size, 155/240 of
        it), array order LPS.
    """
    frame = make_frame(config.size)
    anatomy, lesion = draw_case(config, k, frame.axes(fine=True))
    brain = frame.average(np.clip(anatomy.brain / np.float32(frame.spacing) + np.float32(0.5), 0, 1)) >= 0.5
    tissue = mix(anatomy, lesion, frame)
    whole = tissue["oedema"] + tissue["core"] + tissue["rim"]
    del anatomy, lesion
    yield "seg", _full(frame, labels(tissue, config.release) * brain)
    for modality in config.present(k):
        rng = stream(config.seed, k, modality)
        yield modality, _full(frame, scan(tissue, whole, modality, axes=frame.axes(fine=False), rng=rng) * brain)


def draw_case(config: BrainPhantom, k: int, axes: Axes) -> tuple[Anatomy, Lesion]:
    """The healthy brain of case k, as its tumour has pushed it aside, and the tumour."""
    subject = draw_subject(stream(config.seed, k, "subject"))
    tumour = draw_tumour(stream(config.seed, k, "tumour"), low_grade=config.low_grade)
    p = place(subject, axes, stream(config.seed, k, "warp"))
    rng = stream(config.seed, k, "anatomy")
    anatomy = build_anatomy(subject, axes, p=p, push=lambda q: push_aside(tumour, q), rng=rng)
    rng = stream(config.seed, k, "lesion")
    lesion = build_lesion(tumour, axes, p=p, brain=anatomy.brain, grey=1 - anatomy.white, rng=rng)
    return anatomy, lesion


def mix(anatomy: Anatomy, lesion: Lesion, frame: Frame) -> dict[str, Array]:
    """Fractions of each tissue of SIGNAL per voxel, averaged over the fine grid; they sum to 1 (partial volume).

    Args:
        anatomy: The healthy brain (fine grid).
        lesion: The tumour (fine grid).
        frame: Relates the fine grid to the voxels.

    Returns:
        Tissue -> (X, Y, Z) float32 in [0, 1].
    """
    # Vessels lie over everything but the tumour, so that bright vessels never carry the label of a tumour.
    vessels = anatomy.vessels * (1 - lesion.whole)
    rest = 1 - lesion.whole - vessels
    healthy = {"csf": anatomy.csf, "grey": anatomy.grey, "white": anatomy.white - anatomy.hyperintensities}
    tissue = {name: frame.average(fraction * rest) for name, fraction in healthy.items()}
    tissue["spots"] = frame.average(anatomy.hyperintensities * rest)
    tissue["vessels"] = frame.average(vessels)
    tissue["oedema"] = frame.average(lesion.whole - lesion.core)
    tissue["core"] = frame.average(lesion.core - lesion.enhancing)
    tissue["rim"] = frame.average(lesion.enhancing)
    return tissue


def labels(tissue: dict[str, Array], release: str) -> NDArray[np.uint8]:
    """Label map: a voxel belongs to a region if at least half of it does (X, Y, Z)."""
    oedema, core, rim = (np.uint8(code) for code in CODES[release])
    tc = tissue["core"] + tissue["rim"]
    out = np.where(tissue["oedema"] + tc >= 0.5, oedema, np.uint8(0))
    enhancing = (tc >= 0.5) & (tissue["rim"] >= 0.5 * tc)
    if not enhancing.any():
        core = np.uint8(NON_ENHANCING.get(release, core))
    out = np.where(tc >= 0.5, core, out)
    return np.asarray(np.where(enhancing, rim, out), dtype=np.uint8)


def scan(tissue: dict[str, Array], whole: Array, modality: str, *, axes: Axes, rng: np.random.Generator) -> NDArray[np.int16]:
    """Takes the picture: contrast, texture, bias field, scanner units and noise.

    Args:
        tissue: Fractions per voxel.
        whole: Fraction of tumour per voxel.
        modality: A key of SIGNAL.
        axes: Coordinates of the voxels (mm).
        rng: The stream of this sequence of this case: no other sequence shares it.

    Returns:
        (X, Y, Z) int16, positive everywhere.
    """
    # The three parts of a tumour shift together: what a sequence cannot tell apart stays so in each subject.
    shift = rng.normal(0, 0.04)
    image = np.zeros_like(whole)
    for name, signal in SIGNAL[modality].items():
        own = rng.normal(0, 0.025)
        factor = 1 + (shift + 0.4 * own if name in ("oedema", "core", "rim") else own)
        image += tissue[name] * np.float32(signal * factor)
    image *= 1 + (np.float32(0.02) + np.float32(0.06) * whole) * smooth_noise(rng, axes, scale=9)
    image *= np.exp(np.float32(rng.uniform(0.04, 0.12)) * smooth_noise(rng, axes, scale=95))
    noise = np.float32(rng.uniform(0.025, 0.05))
    real = image + noise * rng.standard_normal(image.shape, dtype=np.float32)
    # The magnitude of a complex signal: Rician noise.
    image = np.hypot(real, noise * rng.standard_normal(image.shape, dtype=np.float32))
    image *= np.float32(UNITS[modality] * np.exp(rng.normal(0, 0.3)))
    return np.asarray(np.clip(np.rint(image), 1, 32767), dtype=np.int16)


def _full(frame: Frame, box: NDArray[np.generic]) -> NDArray[np.generic]:
    """Places the box in the whole image, 0 elsewhere."""
    out = np.zeros(image_shape(frame.size), dtype=box.dtype)
    out[frame.box] = box
    return out


def brats_affine(size: int) -> NDArray[np.float64]:
    """Voxel to RAS mm, in the orientation of BraTS; the field of view is the same at every size.

    >>> brats_affine(240).tolist()
    [[-1.0, 0.0, 0.0, 0.0], [0.0, -1.0, 0.0, 239.0], [0.0, 0.0, 1.0, 0.0], [0.0, 0.0, 0.0, 1.0]]
    """
    spacing = 240 / size
    affine = np.diag([-spacing, -spacing, spacing, 1.0])
    affine[:3, 3] = (0.5 - spacing / 2, 239.5 - spacing / 2, spacing / 2 - 0.5)
    return affine + 0.0  # -0.0 to 0.0


def nifti_gz(array: NDArray[np.generic], affine: NDArray[np.float64]) -> bytes:
    """A .nii.gz file as bytes; equal arrays give equal bytes, since no time is written."""
    image = nib.Nifti1Image(array, affine)
    image.header.set_xyzt_units("mm")
    image.set_qform(affine, code=1)
    image.set_sform(affine, code=1)
    return gzip.compress(image.to_bytes(), compresslevel=4, mtime=0)
