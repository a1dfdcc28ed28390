"""How complementary complementary information is: what kappa of `ciml-shapes` costs where it is needed, and where it is not.

Shen et al. (2024), Section 4.3, show in Figure 13 that the map of the auxiliary image is bright where that image alone has its
shape. The numbers here are ours. Pixels fall into four parts by the shapes S_p of the primary and S_a of the auxiliary image:

    auxiliary-only A = S_a without S_p,  overlap O = both,  primary-only P = S_p without S_a,  background B = neither.

With k the KL divergence of kappa from its prior at a pixel, in nats,

.. math:: redundancy ratio = mean_O k / mean_A k,   purity = sum_A k / sum k.

A message that holds what the primary image does not show, and nothing else, has ratio 0 and purity 1. Of a whole run both are
ratios of sums over all test cases, not means of the ratios of the cases, which a small part makes wild; intervals resample
patients and take the ratio anew. A part without pixels has no mean, and what would be divided by zero is None: both numbers of
a kappa that is its prior.

Axis letters: N cases, X Y Z voxels, K regions.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from comodal.data.cohort import Case
from comodal.data.preprocessing import PreparedCase, Preparer
from comodal.errors import ConfigError, DataError, message
from comodal.evaluation.metrics import Mask, dsc
from comodal.evaluation.statistics import Interval, bootstrap_interval, interval_of, resampling_weights
from comodal.inference.predictor import CasePrediction, Device, Probabilities, Subset, predict_case
from comodal.inference.writing import on_grid, to_masks
from comodal.method import Method

PARTS = ("auxiliary_only", "overlap", "primary_only", "background")
KAPPAS = ("mean", "sampled", "zero")  # what is predicted from: the posterior mean, one draw, no auxiliary image

Floats = NDArray[np.float64]


def partition(primary: Mask, auxiliary: Mask) -> dict[str, Mask]:
    """The four parts of a picture: {one of PARTS: bool mask}. They cover it, and no two of them overlap.

    Args:
        primary: Bool, where the primary image has its shape.
        auxiliary: Of the same shape, where the auxiliary one has its own.

    Raises:
        ConfigError: The shapes of the arrays differ.

    >>> parts = partition(np.array([True, True, False, False]), np.array([True, False, True, False]))
    >>> {name: part.tolist().index(True) for name, part in parts.items()}
    {'auxiliary_only': 2, 'overlap': 0, 'primary_only': 1, 'background': 3}
    """
    one, two = np.asarray(primary, dtype=bool), np.asarray(auxiliary, dtype=bool)
    if one.shape != two.shape:
        rule = f"have the primary's shape {one.shape}"
        raise ConfigError(message("partition.auxiliary", rule, two.shape, do="Bring both to one grid"))
    return {"auxiliary_only": two & ~one, "overlap": one & two, "primary_only": one & ~two, "background": ~one & ~two}


def shape_mask(image: NDArray[np.generic]) -> Mask:
    """Where a picture of a shape is brighter than midway between its darkest and its brightest pixel.

    On the shapes phantom without noise that is the shape itself, whatever the two brightnesses.

    Args:
        image: (C, X, Y, Z) or any other shape whose first axis holds channels, which are averaged; not standardised within the
            shape, as "zscore-nonzero" does.

    Returns:
        Bool without the first axis; False everywhere in a constant image.
    """
    values = np.asarray(image, dtype=np.float64).mean(axis=0)
    return np.asarray(values > (values.min() + values.max()) / 2)


@dataclass(frozen=True)
class PartNats:
    """KL in the four parts of one picture, or of several together.

    Attributes:
        pixels: {part: how many}.
        nats: {part: sum of the KL over its pixels}.
    """

    pixels: Mapping[str, int]
    nats: Mapping[str, float]

    @property
    def means(self) -> dict[str, float | None]:
        """{part: nats per pixel}; None for a part without pixels."""
        return {part: self.nats[part] / self.pixels[part] if self.pixels[part] else None for part in PARTS}

    @property
    def redundancy_ratio(self) -> float | None:
        """KL per pixel of the overlap over that of auxiliary-only; None where that is 0 or either part is empty."""
        return _number(_redundancy(*self._rows()))

    @property
    def purity(self) -> float | None:
        """Share of the whole KL that lies in auxiliary-only; None where the whole is 0."""
        return _number(_purity(*self._rows()))

    def _rows(self) -> tuple[Floats, Floats]:
        return np.array([[self.pixels[p] for p in PARTS]], dtype=float), np.array([[self.nats[p] for p in PARTS]])


def part_nats(nats: NDArray[np.floating[Any]], *, primary: Mask, auxiliary: Mask) -> PartNats:
    """Counts pixels and adds up their KL in the four parts of a picture.

    Args:
        nats: KL at each pixel, (X, Y, Z) or any other shape.
        primary: Bool of that shape, the shape of the primary image.
        auxiliary: Bool of that shape.

    Raises:
        ConfigError: The shapes of the arrays differ.
    """
    values = np.asarray(nats, dtype=np.float64)
    parts = partition(primary, auxiliary)
    if values.shape != parts["overlap"].shape:
        rule = f"have the shape of the masks {parts['overlap'].shape}"
        raise ConfigError(message("part_nats.nats", rule, values.shape, do="Bring all to one grid"))
    pixels = {name: int(part.sum()) for name, part in parts.items()}
    return PartNats(pixels, {name: float(values[part].sum()) for name, part in parts.items()})


def _ratio(numerator: Floats, denominator: Floats) -> Floats:
    """NaN where the denominator is 0."""
    out = np.full(np.shape(denominator), np.nan)
    np.divide(numerator, denominator, out=out, where=denominator != 0)
    return out


def _part_mean(pixels: Floats, nats: Floats, *, at: int) -> Floats:
    """(R,) from (R, 4 parts) each: nats per pixel of the part number `at`."""
    return _ratio(nats[:, at], pixels[:, at])


def _redundancy(pixels: Floats, nats: Floats) -> Floats:
    """(R,) from (R, 4 parts) each."""
    means = _ratio(nats, pixels)
    added, shared = means[:, PARTS.index("auxiliary_only")], means[:, PARTS.index("overlap")]
    return _ratio(shared, np.where(np.isnan(added), 0.0, added))


def _purity(pixels: Floats, nats: Floats) -> Floats:  # noqa: ARG001
    """(R,) from (R, 4 parts) each."""
    return _ratio(nats[:, PARTS.index("auxiliary_only")], nats.sum(axis=1))


def _number(values: Floats) -> float | None:
    return None if np.isnan(values[0]) else float(values[0])


@dataclass(frozen=True)
class Estimate:
    """A number with its 95 % interval over patients; None where it is not defined, or there are fewer than six patients."""

    value: float | None
    ci95: Interval | None


@dataclass(frozen=True)
class CaseComplement:
    """One case.

    Attributes:
        subject, group: Case and patient.
        pixels: {part: how many}.
        kl: {part: nats per pixel}; None for an empty part.
        redundancy_ratio, purity: Of this case; see the module.
        dsc: {"mean", "sampled", "zero": DSC, the mean over regions}.
    """

    subject: str
    group: str
    pixels: Mapping[str, int]
    kl: Mapping[str, float | None]
    redundancy_ratio: float | None
    purity: float | None
    dsc: Mapping[str, float]


@dataclass(frozen=True)
class Complement:
    """A run.

    Attributes:
        primary, auxiliary: Names of the two images.
        n: Cases.
        kl: {part: nats per pixel}, over the pixels of all cases.
        redundancy_ratio, purity: Ratios of sums over all cases.
        dsc: {"mean", "sampled", "zero"}: mean over cases, from the posterior mean of kappa, from one seeded draw of it, and
            from kappa = 0, which is what an absent auxiliary image leaves.
        cases: Each by itself.
    """

    primary: str
    auxiliary: str
    n: int
    kl: Mapping[str, Estimate]
    redundancy_ratio: Estimate
    purity: Estimate
    dsc: Mapping[str, Estimate]
    cases: tuple[CaseComplement, ...]

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)


def measure_complement(
    method: Method,
    preparer: Preparer,
    cases: Sequence[Case],
    *,
    pair: tuple[str, str],
    device: Device = "cpu",
) -> Complement:
    """Predicts every case with kappa at its posterior mean, drawn once, and 0, and measures the KL in the four parts.

    The shapes are found in the files' own numbers (`shape_mask`): prepared ones may have lost them, since a volume that is
    standardised within its foreground is constant where its shape is of one brightness.

    Args:
        method: On `device`; says "nats" among its extras, (1, *spatial), and has `samples` in its configuration.
        preparer: Reads the cases.
        cases: Rows of the preparer's cohort with both images and the segmentation.
        pair: Names of the primary and of the auxiliary image.
        device: Where the method is.

    Raises:
        ConfigError: The method draws no samples, or says no nats.
        DataError: There is no case, one lacks an image or the segmentation, or a file is damaged.
    """
    if not cases:
        raise DataError(message("cases", "be at least one", "none", do="Choose a split that has some"))
    plain, sampled = (_with_samples(method, count, device) for count in (0, 1))
    raw = _unnormalised(preparer, pair)
    found: list[tuple[CaseComplement, PartNats]] = []
    for case in cases:
        _check_whole(case, [*pair, *(t.name for t in method.problem.targets)])
        prepared = preparer.case(case, use=pair, with_targets=False)
        alone, both = _by_size(predict_case(plain, prepared, subsets=[pair[:1], pair], extras=True, device=device))
        (drawn,) = _by_size(predict_case(sampled, prepared, subsets=[pair], device=device))
        if "nats" not in both.extras:
            raise ConfigError(message("method", "say nats among its extras", tuple(both.extras), do="Use ciml-shapes"))
        images = raw.case(case, use=pair, with_targets=False).images
        one, two = (shape_mask(images[name][:]) for name in pair)
        parts = part_nats(both.extras["nats"][0], primary=one, auxiliary=two)
        of_kappa = zip(KAPPAS, (both, drawn, alone), strict=True)
        scores = {name: _dsc(method, preparer, prepared, found=maps.probabilities) for name, maps in of_kappa}
        found.append((_of_case(case, parts, scores), parts))
    return _of_run(pair, found)


def _check_whole(case: Case, columns: Sequence[str]) -> None:
    for name in columns:
        if name not in case.cells:
            rule, do = "have both images and the segmentation", "Leave the case out"
            raise DataError(message("case", rule, "none", subject=case.id, modality=name, do=do))


def _by_size(predictions: Iterable[tuple[Subset, CasePrediction]]) -> list[CasePrediction]:
    """Of the smaller subset first."""
    return [found for _, found in sorted(predictions, key=lambda one: len(one[0]))]


def _with_samples(method: Method, samples: int, device: Device) -> Method:
    """The same weights with another number of draws at test; the method itself stays as it is."""
    if "samples" not in type(method.config).model_fields:
        raise ConfigError(message("method", "draw samples", type(method).__name__, do="Use ciml-shapes"))
    other = type(method)(method.problem, method.config.model_copy(update={"samples": samples})).to(device)
    other.load_state_dict(method.state_dict())
    return other.eval()


def _unnormalised(preparer: Preparer, names: Sequence[str]) -> Preparer:
    """Prepares images on the same grid with the numbers of their files."""
    config = preparer.config.model_copy(update={"normalise": dict.fromkeys(names, "none")})
    return Preparer(
        preparer.cohort, config, modalities=[m.name for m in preparer.modalities], spatial_dims=preparer.spatial_dims
    )


def _dsc(method: Method, preparer: Preparer, prepared: PreparedCase, *, found: Probabilities) -> float:
    """As the evaluation does it: on the voxels of the truth's file, both empty 1; the mean over the regions of all targets."""
    assert prepared.grid is not None
    scores: list[float] = []
    for target in (t for t in method.problem.targets if t.is_segmentation):
        truth, grid = preparer.truth(prepared.case, target.name)
        prediction = to_masks(target, on_grid(found[target.name], prepared.grid, grid))
        classes = [k for k in range(len(target.classes)) if k != target.background]
        scores += [dsc(prediction[k], truth[k] if target.kind == "regions" else truth == k) for k in classes]
    return float(np.mean(scores))


def _of_case(case: Case, parts: PartNats, scores: Mapping[str, float]) -> CaseComplement:
    return CaseComplement(
        subject=case.id,
        group=case.group,
        pixels=parts.pixels,
        kl=parts.means,
        redundancy_ratio=parts.redundancy_ratio,
        purity=parts.purity,
        dsc=scores,
    )


def _of_run(pair: tuple[str, str], found: Sequence[tuple[CaseComplement, PartNats]]) -> Complement:
    """Sums over the cases, and over resampled patients."""
    cases = tuple(case for case, _ in found)
    groups = [case.group for case in cases]
    pixels = np.array([[parts.pixels[p] for p in PARTS] for _, parts in found], dtype=float)  # (N, 4)
    nats = np.array([[parts.nats[p] for p in PARTS] for _, parts in found])
    weights = resampling_weights(len(cases), groups)  # (R, N)

    def estimate(of: Callable[[Floats, Floats], Floats]) -> Estimate:
        whole = of(pixels.sum(axis=0, keepdims=True), nats.sum(axis=0, keepdims=True))
        spread = None if weights is None else interval_of(of(weights @ pixels, weights @ nats))
        return Estimate(_number(whole), spread)

    def mean_dsc(kappa: str) -> Estimate:
        values = [case.dsc[kappa] for case in cases]
        return Estimate(float(np.mean(values)), bootstrap_interval(values, groups))

    return Complement(
        primary=pair[0],
        auxiliary=pair[1],
        n=len(cases),
        kl={part: estimate(partial(_part_mean, at=at)) for at, part in enumerate(PARTS)},
        redundancy_ratio=estimate(_redundancy),
        purity=estimate(_purity),
        dsc={kappa: mean_dsc(kappa) for kappa in KAPPAS},
        cases=cases,
    )
