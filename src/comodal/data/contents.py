"""What a cell of a cohort holds where it is no image: a report, a vector, the items of a bag (`comodal.data.bags`).

A cell is the path of a file, or the content itself (`ModalitySpec.inline`). Axis letters: F features.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from comodal.data.bags import items_of
from comodal.data.cohort import Case, Cohort
from comodal.data.columns import ModalitySpec
from comodal.data.reading import read_features, read_text
from comodal.data.reports import report_text
from comodal.errors import DataError, message

__all__ = ["items_of", "numbers_in", "report_of", "vector_of"]


def _spec(cohort: Cohort, column: str) -> ModalitySpec:
    spec = cohort.spec(column)
    assert isinstance(spec, ModalitySpec)
    return spec


def report_of(cohort: Cohort, case: Case, column: str) -> str:
    """The words of a report, of the sections that the cohort asks for.

    Args:
        cohort: Has the file, or the text itself.
        case: One that has this modality.
        column: Of kind "text".

    Raises:
        DataError: The file cannot be read, or is XML of another kind.
    """
    spec = _spec(cohort, column)
    if spec.inline:
        return report_text(cohort.cell(case, column), spec.sections, subject=case.id, modality=column)
    path = cohort.file(case, column)
    text = read_text(path, subject=case.id, modality=column)
    return report_text(text, spec.sections, subject=case.id, modality=column, file=str(path))


def vector_of(cohort: Cohort, case: Case, column: str) -> npt.NDArray[np.float32]:
    """The numbers of a modality of kind "features".

    Args:
        cohort: Has the .npy file, or the numbers themselves, separated by ";".
        case: One that has this modality.
        column: Of kind "features".

    Returns:
        (F,) float32 of the declared length, all finite.

    Raises:
        DataError: The file cannot be read, a cell holds something else than numbers, or another length.
    """
    spec = _spec(cohort, column)
    file = None
    if spec.inline:
        vector = numbers_in(cohort.cell(case, column), subject=case.id, modality=column)
    else:
        path = cohort.file(case, column)
        vector, file = read_features(path, subject=case.id, modality=column), str(path)
    _check_length(vector, spec, case, file)
    return vector


def numbers_in(cell: str, *, subject: str = "", modality: str = "") -> npt.NDArray[np.float32]:
    """The numbers that a cell lists, separated by ";": (F,) float32.

    Args:
        cell: Not blank.
        subject: For the error text.
        modality: For the error text.

    Raises:
        DataError: One of them is no finite number.

    >>> numbers_in("0.5; -2e3;7").tolist()
    [0.5, -2000.0, 7.0]
    """
    words = [word.strip() for word in cell.split(";")]
    try:
        vector = np.array([float(word.replace("_", "x")) for word in words], dtype=np.float32)
    except ValueError:
        vector = np.array([np.nan], dtype=np.float32)
    if not np.isfinite(vector).all():
        do = 'Write them as "0.5;-2;7", or blank the cell if they are absent'
        raise DataError(
            message(
                "features", "be finite numbers separated by ';'", repr(cell[:80]), subject=subject, modality=modality, do=do
            )
        )
    return vector


def _check_length(vector: npt.NDArray[np.float32], spec: ModalitySpec, case: Case, file: str | None) -> None:
    if vector.shape != (spec.channels,):
        do = f"Correct channels of {spec.name} in cohort.yaml"
        rule, got = f"have {spec.channels} numbers", vector.shape[0]
        raise DataError(message("features", rule, got, subject=case.id, modality=spec.name, file=file, do=do))
