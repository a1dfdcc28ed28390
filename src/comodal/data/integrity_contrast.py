"""What only the cohort shows of an image: two sequences that look swapped, and images in another unit than their column.

A light classifier: what tells two sequences apart is the difference of their contrasts within a case, so that scanner and
patient drop out. The usual difference is the median of the other cases, each number weighted by how little it varies; a case
whose difference points the other way was swapped. Where the other cases do not agree among themselves, nothing is said.
"""

from __future__ import annotations

import itertools

import numpy as np
import numpy.typing as npt

from comodal.data.cohort import Case, ModalitySpec
from comodal.data.integrity_defects import Findings, Picture, Place

FEWEST, MANY = 6, 64  # of many cases, one does not change the median
# Scores are 1 in the usual case. A pair of sequences can be told apart where nearly all cases score above the first; a case
# that scores below the second was swapped. In the brain phantom t1 and t1ce, which are much alike, reach -0.35 at the worst.
CLEAR, SWAPPED, NEARLY_ALL = 0.25, -0.5, 0.8
AIR_OF_CT = 0.01


def check_contrasts(findings: Findings) -> None:
    """Adds sequences that look swapped, and images whose values are of another unit than their column's.

    Args:
        findings: Of all cases.
    """
    images = [spec for spec in findings.cohort.meta.modalities if spec.kind == "image" and not spec.sections]
    for spec in images:
        _check_unit(findings, spec)
    for first, second in itertools.combinations(images, 2):
        if (first.spatial_dims, first.channels) == (second.spatial_dims, second.channels):
            _check_swapped(findings, first.name, second.name)


def _check_unit(findings: Findings, spec: ModalitySpec) -> None:
    seen = findings.pictures.get(spec.name, [])
    air = np.array([picture.air >= AIR_OF_CT for _, picture in seen])
    if spec.unit == "HU":
        odd = [item for item in seen if item[1].lowest >= 0]
        rule, do = "no value is below 0, although the column is in HU", "Export it in Hounsfield units, or correct the unit"
    elif spec.unit is None and len(seen) > 2 and air.any() and air.mean() < 0.5:
        odd = [item for item, there in zip(seen, air, strict=True) if there]
        rule = "many values are below -500, as in CT, and the other images of the column have none"
        do = f"Look at the image: it may be no {spec.name}"
    else:
        return
    for case, picture in odd:
        findings.add("warning", rule, do, place=Place(case, spec.name, picture.file))


def _check_swapped(findings: Findings, first: str, second: str) -> None:
    seen = [dict[str, tuple[Case, Picture]](), dict[str, tuple[Case, Picture]]()]
    for column, named in zip((first, second), seen, strict=True):
        named.update({item[0].id: item for item in findings.pictures.get(column, []) if item[1].contrast})
    both = [name for name in seen[0] if name in seen[1]]
    if len(both) < FEWEST:
        return
    pairs = [(seen[0][name][1].contrast, seen[1][name][1].contrast) for name in both]
    differences = np.array([np.subtract(one, other) for one, other in pairs])
    scores = swap_scores(differences)
    if np.mean(scores > CLEAR) < NEARLY_ALL:
        return
    for name, score in zip(both, scores, strict=True):
        if score < SWAPPED:
            case, picture = seen[0][name]
            rule = f"{first} and {second} look swapped: each has the contrast that the other has in the other cases"
            findings.add("warning", rule, "Look at both, and swap the two cells", place=Place(case, first, picture.file))


def swap_scores(differences: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """How much the difference of two sequences is the usual one, in each case.

    Args:
        differences: (N, F), contrast of the first less that of the second.

    Returns:
        (N,): 1 as usual, -1 exchanged, all 0 where there is no usual difference.
    """
    if len(differences) > MANY:
        scores = differences @ _weights(differences)
    else:
        rows = range(len(differences))
        scores = np.array([differences[k] @ _weights(np.delete(differences, k, axis=0)) for k in rows])
    middle = np.median(scores)
    return scores / middle if middle > 0 else np.zeros(len(scores))


def _weights(differences: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """The usual difference, each number by how little it varies."""
    usual = np.median(differences, axis=0)
    spread = (1.4826 * np.median(np.abs(differences - usual), axis=0)) ** 2
    weights: npt.NDArray[np.float64] = usual / (spread + np.median(spread) / 2 + 1e-9)
    return weights
