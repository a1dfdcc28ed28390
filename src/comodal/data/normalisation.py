"""Turning the values of a file into numbers that networks like, each modality from its own file alone.

Axis letters: C channels, X Y Z voxels.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Literal

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, field_validator

from comodal.data.bias_field import check_n4_installed, correct_bias
from comodal.data.geometry import Array
from comodal.errors import ConfigError, DataError, message, nearest
from comodal.modality import Modality

if TYPE_CHECKING:
    from comodal.data.cohort import Cohort

Spacing = Literal["native"] | tuple[float, float, float]
Size = tuple[int, int] | tuple[int, int, int]
Scheme = Literal["zscore", "zscore-nonzero", "hemis", "hemis-n4", "ct", "unit", "signed", "imagenet", "none"]
ZERO_FRACTION = 0.05  # with fewer voxels of exactly 0 than this, 0 is a value like any other and not a background
IMAGENET_MEAN, IMAGENET_DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of red, green, blue in [0, 1]
BODY_HU = -500.0  # voxels above it are body; the air around it would drown the statistics


class PreprocessingConfig(BaseModel):
    """How files become arrays.

    Attributes:
        spacing: Voxel size in mm along X, Y, Z, or "native": that of the case's first present image of the grid. Files that
            know no spacing (PNG, JPEG, TIFF) stay as they are. {grid: spacing} where grids differ; others are native.
        normalise: {modality: scheme}; those that are not named, or all with "auto", go by their kind: HU "ct", pictures
            "zscore", others "zscore-nonzero". Schemes: "zscore" mean 0 and deviation 1 of each channel, so that 0, which
            methods see where a modality is absent, is its mean and not black; "zscore-nonzero" the same over voxels that are
            not background, which becomes 0, where at least 5 % of the voxels are exactly 0 (or exactly the value that all
            corners of the volume share, as in files that were z-scored before); "hemis" the lowest and highest 1 % of the
            voxels that are not 0 clipped, then mean 0 and deviation 1 over them, 0 elsewhere; "hemis-n4" the same after N4
            correction of the bias field, as HeMIS (Havaei et al., 2016) is reported to prepare BraTS; its settings are ours,
            since none are stated (`comodal.data.bias_field`; needs SimpleITK, and some 20 s for 240 x 240 x 155 voxels); "ct"
            clipped to the 0.5 and 99.5 percentiles of the training set, then its mean and deviation; "unit" [0, 1]; "signed"
            [-1, 1], as InceptionV3 and ViT were trained; "imagenet" [0, 1] minus the mean of ImageNet's red, green and blue
            over their deviation (other numbers of channels: by their average), as ResNet, DenseNet, ConvNeXt, Swin and DINOv2
            were trained; "none". Bytes are 1/255 each there; other types go from their own minimum to their own maximum.
        resize: Pixels (X, Y) or voxels (X, Y, Z) to which every image is resized, field of view kept; for classifying images of
            several sizes. None leaves sizes alone (windows are then cropped or padded). {grid: size} resizes those only.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    spacing: Spacing | dict[str, Spacing] = "native"
    normalise: Literal["auto"] | dict[str, Scheme] = "auto"
    resize: Size | dict[str, Size] | None = None

    @field_validator("spacing", "resize")
    @classmethod
    def _positive(cls, value: object) -> object:
        for size in value.values() if isinstance(value, dict) else (value,):
            if isinstance(size, tuple) and min(size) <= 0:
                raise ValueError("must be positive along every axis")
        return value

    def spacing_of(self, grid: str) -> Spacing:
        """The voxel size of a grid of images."""
        return self.spacing.get(grid, "native") if isinstance(self.spacing, dict) else self.spacing

    def resize_of(self, grid: str) -> Size | None:
        """The size to which the images of a grid are resized, None where they are not."""
        return self.resize.get(grid) if isinstance(self.resize, dict) else self.resize

    def scheme(self, modality: Modality) -> Scheme:
        """The scheme of an image modality."""
        if not isinstance(self.normalise, str) and modality.name in self.normalise:
            return self.normalise[modality.name]
        if modality.unit == "HU":
            return "ct"
        return "zscore" if modality.spatial_dims == 2 else "zscore-nonzero"

    def check_names(self, names: Sequence[str]) -> None:
        """Refuses schemes for modalities that do not exist, and one for which SimpleITK would have to be installed.

        Raises:
            ConfigError: Names the nearest known ones, or the command that installs it.
        """
        for name, scheme in () if isinstance(self.normalise, str) else self.normalise.items():
            if scheme == "hemis-n4":
                check_n4_installed(f"data.normalise.{name}")
            if name not in names:
                owner = "data.normalise"
                raise ConfigError(message(owner, "name modalities of the cohort", repr(name), do=nearest(name, names)))


class CtNumbers(BaseModel):
    """Of a modality over the training set, in its own unit: the 0.5 and 99.5 percentiles, mean and standard deviation."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    low: float
    high: float
    mean: float
    deviation: float


class Fitted(BaseModel):
    """What preprocessing learned from the training cases; written to `preprocessing.json` of a run.

    Attributes:
        version: Of the file format.
        ct: {modality: numbers} for the scheme "ct".
        tokenizer: File of the tokenizer within the run's `tokenizer` folder, None without texts.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    version: Literal[1] = 1
    ct: dict[str, CtNumbers] = {}
    tokenizer: Literal["vocabulary.json", "tokenizer.json"] | None = None


def normalise(image: Array, scheme: Scheme, numbers: CtNumbers | None = None) -> npt.NDArray[np.float32]:
    """One modality of one case, from its own voxels alone.

    Args:
        image: (C, X, Y, Z) as it stands in the file, any real type.
        scheme: See `PreprocessingConfig`. Channels are z-scored one by one.
        numbers: For "ct".

    Returns:
        (C, X, Y, Z) float32. A constant image becomes 0.

    >>> normalise(np.array([0, 2, 4]).reshape(1, 3, 1, 1), "zscore-nonzero").ravel().tolist()
    [0.0, -1.0, 1.0]
    """
    if scheme == "none":
        return image.astype(np.float32)
    if scheme == "unit":
        return _unit(image)
    if scheme == "signed":
        return 2 * _unit(image) - 1
    if scheme == "imagenet":
        return _imagenet(_unit(image))
    if scheme == "ct":
        if numbers is None:
            raise ConfigError(message("normalise", "have fitted numbers for ct", "none", do="Fit them on the training cases"))
        clipped = np.clip(image.astype(np.float32), numbers.low, numbers.high)
        return ((clipped - np.float32(numbers.mean)) / np.float32(numbers.deviation or 1.0)).astype(np.float32)
    if scheme in ("hemis", "hemis-n4"):
        return np.stack([_hemis(channel, n4=scheme == "hemis-n4") for channel in image])
    return np.stack([_zscore(channel, masked=scheme == "zscore-nonzero") for channel in image])


def _zscore(channel: Array, *, masked: bool) -> npt.NDArray[np.float32]:
    inside = _foreground(channel) if masked else np.ones(channel.shape, dtype=bool)
    return _standardised(channel[inside].astype(np.float64), inside)


def _hemis(channel: Array, *, n4: bool) -> npt.NDArray[np.float32]:
    """The preparation of HeMIS: N4, the lowest and highest 1 % clipped, z-score; all inside the voxels that are not 0."""
    inside = channel != 0
    values = (correct_bias(channel) if n4 else channel)[inside].astype(np.float64)
    if values.size:
        values = np.clip(values, *np.percentile(values, [1, 99]))
    return _standardised(values, inside)


def _standardised(values: npt.NDArray[np.float64], inside: npt.NDArray[np.bool_]) -> npt.NDArray[np.float32]:
    """Mean 0 and deviation 1 of the values of the voxels inside; 0 outside."""
    out = np.zeros(inside.shape, dtype=np.float32)
    if values.size:
        # rounding alone gives a constant image a deviation of about 1e-16 of its value
        spread = values.std()
        tiny = 1e-9 * max(1e-300, float(np.abs(values).max()))
        out[inside] = (values - values.mean()) / spread if spread > tiny else 0.0
    return out


def _foreground(channel: Array) -> npt.NDArray[np.bool_]:
    """Voxels that are not background: 0, or else what all corners share (files that were z-scored before), if it fills 5 %."""
    corners = channel[np.ix_(*[(0, -1)] * channel.ndim)]
    for value in (0, corners.flat[0]):
        inside = channel != value
        if (value == 0 or (corners == value).all()) and np.count_nonzero(~inside) >= ZERO_FRACTION * channel.size:
            return np.asarray(inside)
    return np.ones(channel.shape, dtype=bool)


def _unit(image: Array) -> npt.NDArray[np.float32]:
    """Bytes / 255, so that pictures keep their brightness; other types from their own minimum to their own maximum."""
    if image.dtype in (np.dtype(np.uint8), np.dtype(bool)):
        return image.astype(np.float32) / np.float32(1 if image.dtype == bool else 255)
    values = image.astype(np.float64)
    low, high = float(values.min()), float(values.max())
    return ((values - low) / ((high - low) or 1.0)).astype(np.float32)


def _imagenet(image: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """(C, ...) in [0, 1] as networks that learned from ImageNet want it."""
    mean, deviation = (np.array(each, dtype=np.float32) for each in (IMAGENET_MEAN, IMAGENET_DEVIATION))
    if len(image) != len(mean):
        mean, deviation = mean.mean(keepdims=True), deviation.mean(keepdims=True)
    wide = (-1, *[1] * (image.ndim - 1))
    return ((image - mean.reshape(wide)) / deviation.reshape(wide)).astype(np.float32)


def fit(cohort: Cohort, ids: Iterable[str], config: PreprocessingConfig, *, modalities: Sequence[str] | None = None) -> Fitted:
    """Fits what preprocessing must learn, on training cases only. Opens no file unless a modality has the scheme "ct".

    nnU-Net takes its CT numbers from voxels of the foreground; here they come from the body (above -500), so that they rest on
    the modality's own files and not on who was annotated.

    Args:
        cohort: Has the files.
        ids: Training cases.
        config: Says which scheme a modality has.
        modalities: Those in use; all of the cohort by default.

    Returns:
        The numbers; `tokenizer` is set where a text is among the modalities.
    """
    known = {m.name: m for m in cohort.modalities}
    config.check_names(list(known))
    chosen = [known[name] for name in (known if modalities is None else modalities)]
    ids = list(ids)
    ct = {m.name: _fit_ct(cohort, ids, m) for m in chosen if m.kind == "image" and config.scheme(m) == "ct"}
    return Fitted(ct=ct, tokenizer="vocabulary.json" if any(m.kind == "text" for m in chosen) else None)


def _fit_ct(cohort: Cohort, ids: Sequence[str], modality: Modality) -> CtNumbers:
    """At most 10 000 voxels of each case, evenly spaced through the file, as nnU-Net's fingerprint takes."""
    from comodal.data.reading import read_volume

    spec = cohort.spec(modality.name)
    kept = []
    for case in cohort.select(ids).cases:
        if modality.name not in case.cells:
            continue
        path = cohort.file(case, modality.name)
        volume = read_volume(path, files=spec.files, channel=spec.channel, subject=case.id, modality=modality.name)
        body = volume.array[volume.array > BODY_HU].astype(np.float64)
        kept.append(body[:: max(1, -(-body.size // 10_000))])
    values = np.concatenate(kept) if kept else np.empty(0)
    if not values.size:
        do = f"Remove {modality.name} from data.modalities, or take training cases that have it"
        rule = "be present with body voxels in some training case to be normalised as CT"
        raise DataError(message("modality", rule, "none", modality=modality.name, do=do))
    low, high = np.percentile(values, [0.5, 99.5])
    clipped = np.clip(values, low, high)
    return CtNumbers(low=float(low), high=float(high), mean=float(clipped.mean()), deviation=float(clipped.std()))
