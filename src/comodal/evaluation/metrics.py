"""DSC and HD95, with the convention for empty regions named in every call, and the table of all metrics.

What a number means when a region is empty differs between codes, and moves the mean of a table by several points (DSC) or by
tens of millimetres (HD95). The conventions that we know by name:

| truth | prediction | DSC "one-zero" | "exclude-both" | "exclude-truth" | HD95 "exclude" | "diagonal" | "brats" |
| ----- | ---------- | -------------- | -------------- | --------------- | -------------- | ---------- | ------- |
| empty | empty      | 1              | left out       | left out        | left out       | 0          | 0       |
| empty | some       | 0              | 0              | left out        | left out       | diagonal   | 373.12866 |
| some  | empty      | 0              | 0              | 0               | left out       | diagonal   | 373.12866 |

"one-zero" is that of the BraTS evaluations and of the RFNet family, "exclude-both" that of nnU-Net's summary, "exclude-truth"
and HD95 "exclude" those of MONAI. "diagonal" is the diagonal of the evaluated volume in mm, of which 373.12866 is the BraTS
case (240 x 240 x 155 voxels of 1 mm). Left out is NaN here; every mean says its n.

The metrics of classification are in `comodal.evaluation.classification`. Axis letters: K classes, X Y Z voxels.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict

from comodal.errors import ConfigError, message, nearest

DscEmpty = Literal["one-zero", "exclude-both", "exclude-truth"]
Hd95Empty = Literal["exclude", "diagonal", "brats"]
Hd95Mode = Literal["pooled", "max_of_directions"]
Hd95Unit = Literal["mm", "voxel", "mixed"]
Mask = NDArray[np.bool_]
Floats = NDArray[np.float64]

BRATS_DIAGONAL = 373.12866
FEW_POINTS = 14  # a tree costs about as much per point as a distance map per 14 voxels

_EMPTY_DSC: dict[str, str] = {
    "one-zero": "both empty 1, one empty 0",
    "exclude-both": "both empty left out, one empty 0",
    "exclude-truth": "left out where the truth is empty, prediction empty 0",
}
_EMPTY_HD95: dict[str, str] = {
    "exclude": "left out where truth or prediction is empty",
    "diagonal": "both empty 0, one empty the diagonal of the volume",
    "brats": f"both empty 0, one empty {BRATS_DIAGONAL}",
}
_MODE_HD95: dict[str, str] = {
    "pooled": "95th percentile of the surface distances of both directions together (as medpy)",
    "max_of_directions": "larger of the 95th percentiles of the two directions (as MONAI)",
}
_CLASSES: dict[str, str] = {
    "AUROC": "Pooled over cases; one class against the rest, plain mean over the classes. Of ordinal classes >=k is that class "
    "and all above it against those below, ranked by the sum of their probabilities.",
    "balanced_accuracy": "Pooled over cases; mean recall of the classes.",
    "accuracy": "Pooled over cases; of one class per case it is micro F1 too.",
    "AUPRC": "Average precision, pooled over cases; one class against the rest, without interpolation, plain mean over the "
    "classes; its chance level is the share of cases that have the class.",
    "F1_macro": "Pooled over cases; plain mean of the F1 of the classes that some case has or is answered.",
    "F1_micro": "Pooled over cases and questions; answers yes at 0.5. Of one class per case it would be accuracy.",
    "kappa": "Cohen's kappa with quadratic weights, pooled over cases; the classes are in order and one apart.",
    "ECE": "Expected calibration error: probability of the answer given against how often it is right, in 10 bins of equal "
    "width; lower is better. Of few cases it is above 0 even where the probabilities are right, and its interval lies higher "
    "still.",
    "Brier": "Mean over cases of the squared distance between probabilities and truth, summed over the classes (0 to 2; of two "
    "classes or of yes and no, that of one, 0 to 1); lower is better.",
}


class Conventions(BaseModel):
    """What the numbers of a result mean; it stands in every result.

    Attributes:
        dsc_empty, hd95_empty: What an empty region counts; see the table of this module.
        hd95_mode: "pooled": one 95th percentile of both directed sets of surface distances, as medpy and most published
            BraTS tables; "max_of_directions": the larger of the two percentiles, as MONAI.
        hd95_unit: "voxel" where the files state no spacing, "mixed" where only some do.
        interval: How the intervals were made.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    dsc_empty: DscEmpty = "one-zero"
    hd95_empty: Hd95Empty = "exclude"
    hd95_mode: Hd95Mode = "pooled"
    hd95_unit: Hd95Unit = "mm"
    interval: str = "95 % percentile bootstrap over patients, 2000 resamples"

    def sentences(self) -> dict[str, str]:
        """What to print under a table, one sentence per metric.

        >>> Conventions().sentences()["DSC"]
        'Per case, then mean; both empty 1, one empty 0.'
        """
        return {
            "DSC": f"Per case, then mean; {_EMPTY_DSC[self.dsc_empty]}.",
            "HD95": f"In {self.hd95_unit}; {_MODE_HD95[self.hd95_mode]}; {_EMPTY_HD95[self.hd95_empty]}.",
            **_CLASSES,
            "ci95": f"{self.interval}.",
        }


@dataclass(frozen=True)
class Metric:
    """How a metric is to be read: its unit, which way is better, and how cases become one number.

    Attributes:
        unit: "" where it has none.
        better: Which way.
        aggregation: Mean of one number per case, or one number of all cases together.
        summary: What it is.
        main: Whether tables show it unasked; results hold them all.
    """

    unit: str
    better: Literal["higher", "lower"]
    aggregation: Literal["case_mean", "pooled"]
    summary: str
    main: bool = True


METRICS: dict[str, Metric] = {
    "DSC": Metric("", "higher", "case_mean", "Dice similarity coefficient, 2|X and Y| / (|X| + |Y|)"),
    "HD95": Metric("mm", "lower", "case_mean", "95th percentile of the distances between the two surfaces"),
    "AUROC": Metric("", "higher", "pooled", "area under the ROC curve, one class against the rest"),
    "balanced_accuracy": Metric("", "higher", "pooled", "mean recall of the classes"),
    "accuracy": Metric("", "higher", "pooled", "fraction of right answers"),
    "AUPRC": Metric("", "higher", "pooled", "average precision, one class against the rest", main=False),
    "F1_macro": Metric("", "higher", "pooled", "mean F1 of the classes", main=False),
    "F1_micro": Metric("", "higher", "pooled", "F1 of all questions together", main=False),
    "kappa": Metric("", "higher", "pooled", "Cohen's kappa with quadratic weights", main=False),
    "ECE": Metric("", "lower", "pooled", "expected calibration error", main=False),
    "Brier": Metric("", "lower", "pooled", "squared distance between probabilities and truth", main=False),
}


def metric(name: str) -> Metric:
    """The metric behind a name such as "DSC/WT" or "AUROC"; an unknown one is refused with the nearest known ones."""
    stem = name.split("/", 1)[0]
    if stem not in METRICS:
        raise ConfigError(message("metric", "be one of METRICS", repr(stem), do=nearest(stem, METRICS)))
    return METRICS[stem]


def name_parts(name: str) -> tuple[str, str, str]:
    """Metric, target and class of a pooled metric's name; "" for what it does not name.

    >>> name_parts("AUROC/findings/Lung Lesion"), name_parts("AUROC/findings")
    (('AUROC', 'findings', 'Lung Lesion'), ('AUROC', 'findings', ''))
    """
    stem, _, rest = name.partition("/")
    target, _, label = rest.partition("/")
    return stem, target, label


def threshold(k: int) -> str:
    """What stands in the place of the class in a metric of "class k or above" of an ordinal target.

    >>> f"AUROC/edema/{threshold(1)}"
    'AUROC/edema/>=1'
    """
    return f">={k}"


def threshold_of(label: str, classes: Sequence[str]) -> int | None:
    """The k of `threshold`; None where a label is the name of a class, or no threshold between these classes.

    >>> threshold_of(">=2", ["none", "mild", "severe"]), threshold_of("mild", ["none", "mild", "severe"])
    (2, None)
    """
    known = {threshold(k): k for k in range(1, len(classes))}
    return None if label in classes else known.get(label)


def is_main(name: str) -> bool:
    """Whether tables show a metric unasked: not those of single classes of a pooled metric, nor the lesser ones.

    >>> is_main("AUROC/findings"), is_main("AUROC/findings/Mass"), is_main("ECE/findings"), is_main("DSC/WT")
    (True, False, False, True)
    """
    of = metric(name)
    return of.main and not (of.aggregation == "pooled" and name_parts(name)[2])


def _checked(prediction: Mask, truth: Mask) -> tuple[Mask, Mask]:
    one, two = np.asarray(prediction, dtype=bool), np.asarray(truth, dtype=bool)
    if one.shape != two.shape:
        rule = f"have the truth's shape {two.shape}"
        raise ConfigError(message("prediction", rule, one.shape, do="Resample it to the truth's grid"))
    return one, two


def _known(owner: str, value: str, known: object) -> None:
    if value not in get_args(known):
        raise ConfigError(message(owner, "be a known convention", repr(value), do=nearest(value, get_args(known))))


def dsc(prediction: Mask, truth: Mask, *, empty: DscEmpty = "one-zero") -> float:
    """Dice similarity coefficient 2|X and Y| / (|X| + |Y|) of two masks.

    Args:
        prediction: Bool mask, any shape.
        truth: Bool mask of the same shape.
        empty: What empty masks count; see the table of this module.

    Returns:
        A number in [0, 1], NaN where the convention leaves the case out.

    Raises:
        ConfigError: The shapes differ, or the convention is unknown.

    >>> dsc(np.array([1, 1, 0, 0], bool), np.array([1, 0, 0, 0], bool))
    0.6666666666666666
    """
    _known("dsc.empty", empty, DscEmpty)
    prediction, truth = _checked(prediction, truth)
    found, real = int(prediction.sum()), int(truth.sum())
    if real == 0 and (empty == "exclude-truth" or (found == 0 and empty == "exclude-both")):
        return float("nan")
    if real + found == 0:
        return 1.0
    return 2 * int((prediction & truth).sum()) / (found + real)


def _flat(mask: Mask, spacing: Sequence[float]) -> tuple[Mask, tuple[float, ...]]:
    """Without the axes of length 1: in a picture (Z = 1) only neighbours within the plane make a surface."""
    axes = [axis for axis, size in enumerate(mask.shape) if size > 1] or [0]
    return mask.reshape([mask.shape[axis] for axis in axes]), tuple(float(spacing[axis]) for axis in axes)


def _box(mask: Mask) -> tuple[slice, ...]:
    """The bounding box of the True voxels."""
    box = []
    for axis in range(mask.ndim):
        line = np.flatnonzero(mask.any(axis=tuple(other for other in range(mask.ndim) if other != axis)))
        box.append(slice(int(line[0]), int(line[-1]) + 1))
    return tuple(box)


def surface(mask: Mask) -> Mask:
    """The voxels of a mask that touch the outside through a face; the outside of the volume is outside.

    Args:
        mask: Bool, any number of axes; leave out axes of length 1.

    Returns:
        Bool mask of the same shape: the mask minus its erosion (6-connectivity in 3-D, 4-connectivity in 2-D).
    """
    from scipy import ndimage

    return np.asarray(mask & ~ndimage.binary_erosion(mask), dtype=bool)


def _nearest(points: Mask, others: Mask, spacing: tuple[float, ...]) -> Floats:
    """From each True voxel of `points` to the nearest of `others`.

    Two exact ways, chosen by cost alone (both are about linear; the factor was measured): a tree over few points, or a
    distance map of the whole box where points are dense. A few stray voxels make the box of a volume 20 times larger.
    """
    if FEW_POINTS * (np.count_nonzero(points) + np.count_nonzero(others)) < points.size:
        from scipy.spatial import KDTree

        tree = KDTree(np.argwhere(others) * np.array(spacing), balanced_tree=False, compact_nodes=False)
        return np.asarray(tree.query(np.argwhere(points) * np.array(spacing))[0])
    from scipy import ndimage

    return np.asarray(ndimage.distance_transform_edt(~others, sampling=spacing)[points])


def _surface_distances(prediction: Mask, truth: Mask, spacing: tuple[float, ...]) -> tuple[Floats, Floats]:
    """From each surface voxel of one mask to the nearest of the other, both ways."""
    box = _box(prediction | truth)  # both surfaces lie in it, so that nothing outside can be nearest
    one, two = surface(prediction[box]), surface(truth[box])
    return _nearest(one, two, spacing), _nearest(two, one, spacing)


def _hd95_of_empty(both: bool, size: float, empty: Hd95Empty) -> float:
    if empty == "exclude":
        return float("nan")
    if both:
        return 0.0
    return size if empty == "diagonal" else BRATS_DIAGONAL


def hd95(
    prediction: Mask,
    truth: Mask,
    spacing: Sequence[float],
    *,
    mode: Hd95Mode = "pooled",
    empty: Hd95Empty = "exclude",
) -> float:
    """95th percentile of the distances between the surfaces of two masks.

    Args:
        prediction: Bool mask, (X, Y, Z) or (X, Y). Axes of length 1 are left out: a picture is compared in its plane.
        truth: Bool mask of the same shape.
        spacing: Size of a voxel along each axis, in mm (or ones, and then the result is in voxels).
        mode: See `Conventions.hd95_mode`.
        empty: What empty masks count; see the table of this module.

    Returns:
        A distance in the unit of `spacing`, NaN where the convention leaves the case out.

    Raises:
        ConfigError: Shapes or lengths differ, or a convention is unknown.

    >>> one, two = np.zeros((2, 9, 9, 9), bool)
    >>> one[2:5, 2:5, 2:5] = two[3:6, 2:5, 2:5] = True
    >>> hd95(one, two, (1, 1, 1))
    1.0
    """
    _known("hd95.mode", mode, Hd95Mode)
    _known("hd95.empty", empty, Hd95Empty)
    prediction, truth = _checked(prediction, truth)
    if len(spacing) != truth.ndim or min(spacing) <= 0:
        raise ConfigError(message("hd95.spacing", f"be {truth.ndim} positive numbers", tuple(spacing), do="Give one per axis"))
    diagonal = float(np.linalg.norm(np.multiply(truth.shape, spacing)))
    prediction, kept = _flat(prediction, spacing)
    truth, _ = _flat(truth, spacing)
    some = bool(prediction.any()), bool(truth.any())
    if not all(some):
        return _hd95_of_empty(not any(some), diagonal, empty)
    there, back = _surface_distances(prediction, truth, kept)
    if mode == "pooled":
        return float(np.percentile(np.concatenate([there, back]), 95))
    return float(max(np.percentile(there, 95), np.percentile(back, 95)))


def segmentation_metrics(
    prediction: Mask,
    truth: Mask,
    spacing: Sequence[float],
    *,
    classes: Mapping[str, int],
    conventions: Conventions,
    metrics: Sequence[str] = ("DSC", "HD95"),
) -> dict[str, float]:
    """DSC and HD95 of every class of one case.

    Args:
        prediction: (K, X, Y, Z) bool.
        truth: (K, X, Y, Z) bool.
        spacing: Of X, Y and Z, in mm.
        classes: {name in the result: row of K}; a background is left out here.
        conventions: See `Conventions`.
        metrics: Which of "DSC" and "HD95"; the second costs most of the time.

    Returns:
        {"DSC/<class>", "HD95/<class>"}: NaN where left out.
    """
    out: dict[str, float] = {}
    for name, row in classes.items():
        if "DSC" in metrics:
            out[f"DSC/{name}"] = dsc(prediction[row], truth[row], empty=conventions.dsc_empty)
        if "HD95" in metrics:
            mode, empty = conventions.hd95_mode, conventions.hd95_empty
            out[f"HD95/{name}"] = hd95(prediction[row], truth[row], spacing, mode=mode, empty=empty)
    return out


def mean_dsc(metrics: Mapping[str, float]) -> float:
    """Mean DSC over the classes of one case that count; NaN where none does.

    >>> mean_dsc({"DSC/WT": 0.75, "HD95/WT": 2.0, "DSC/ET": 0.25})
    0.5
    """
    scores = [value for name, value in metrics.items() if name.startswith("DSC/") and not np.isnan(value)]
    return float(np.mean(scores)) if scores else float("nan")
