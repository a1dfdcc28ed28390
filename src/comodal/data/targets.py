"""From what annotators wrote (label codes, class names) to the targets of a problem.

Axis letters: X Y Z voxels in RAS array order, K regions or classes.
"""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from comodal.data.geometry import Array, Volume
from comodal.data.reading import label_codes
from comodal.errors import DataError, message
from comodal.modality import Target

if TYPE_CHECKING:
    from comodal.data.cohort import TargetSpec


def encode_mask(volume: Volume, target: Target, *, path: Path, subject: str = "", other: Collection[int] = ()) -> Array:
    """The regions or labels of a mask file.

    A region holds the voxels with one of its codes. Labels: the class whose codes have the voxel's value.

    Args:
        volume: As it was read.
        target: Kind "regions" or "labels", with codes.
        path: For the error message.
        subject: For the error message.
        other: Values that count as background, see `TargetSpec.other`; for regions only.

    Returns:
        Regions (K, X, Y, Z) uint8 of 0 and 1, or labels (X, Y, Z) int64.

    Raises:
        DataError: Not a label map; or a value belongs to no class (for regions, 0 may): annotators meant something by it.
    """
    found = label_codes(volume, path=path, subject=subject, modality=target.name)
    known = {code for group in target.codes for code in group} | ({0, *other} if target.kind == "regions" else set())
    strange = [code for code in found if code not in known]
    if strange:
        rule = f"hold only the codes of {target.name}, {sorted(known)}"
        got = f"also {', '.join(map(str, strange[:5]))}{' ...' if len(strange) > 5 else ''}"
        do = f"Add the code to a class of {target.name} in the cohort's yaml, or correct the mask"
        raise DataError(message("mask", rule, got, subject=subject, modality=target.name, file=str(path), do=do))
    array: Array = volume.array[0]
    if target.kind == "regions":
        return np.stack([np.isin(array, group) for group in target.codes]).astype(np.uint8)
    labels = np.zeros(array.shape, dtype=np.int64)
    for index, group in enumerate(target.codes):
        labels[np.isin(array, group)] = index
    return labels


def class_target(spec: TargetSpec, cell: str, *, subject: str = "") -> Array:
    """The classes named in a cell.

    Args:
        spec: Kind "class", "ordinal" or "multilabel".
        cell: A class name; for multilabel names joined by ";", or "-" for none of them.
        subject: For the error message.

    Returns:
        () int64 index, or (K,) float32 of 0 and 1.

    Raises:
        DataError: A name is not a class of the target.

    >>> from comodal.data.cohort import TargetSpec
    >>> class_target(TargetSpec(name="findings", kind="multilabel", classes=["effusion", "mass"]), "mass").tolist()
    [0.0, 1.0]
    """
    from comodal.data.cohort import label_indices

    chosen = label_indices(spec, cell, subject=subject)
    if spec.kind != "multilabel":
        return np.array(chosen[0], dtype=np.int64)
    answers = np.zeros(len(spec.classes), dtype=np.float32)
    answers[list(chosen)] = 1
    return answers


def class_labelled(spec: TargetSpec, cell: str, *, subject: str = "") -> Array:
    """Which answers of a cell are known: () bool, or (K,) bool for multilabel.

    Args:
        spec: As in `class_target`.
        cell: As in `class_target`; "?mass" says that nobody knows of the mass, and its answer of 0 must not be read.
        subject: For the error message.

    >>> from comodal.data.cohort import TargetSpec
    >>> class_labelled(TargetSpec(name="findings", kind="multilabel", classes=["effusion", "mass"]), "effusion;?mass").tolist()
    [True, False]
    """
    from comodal.data.columns import unknown_indices

    if spec.kind != "multilabel":
        return np.array(True)
    known = np.ones(len(spec.classes), dtype=bool)
    known[list(unknown_indices(spec, cell, subject=subject))] = False
    return known
