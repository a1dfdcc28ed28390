"""A few predictions for the page: the best, the median and the worst case, and two that are drawn, one slice each.

A folder of examples holds `examples.json` and one `<number>.npz` of arrays for each. Reading it runs no code.

Axis letters: S subsets, K classes, X Y voxels of a slice along Z.
"""

from __future__ import annotations

import hashlib
import io
import json
import zipfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from comodal.data.atomic import replacing
from comodal.data.cohort import Case
from comodal.data.preprocessing import Preparer
from comodal.errors import RunError, message
from comodal.evaluation.metrics import Mask
from comodal.evaluation.results import Results
from comodal.evaluation.subsets import foreground_classes
from comodal.inference.predictor import Device, Subset, predict_case
from comodal.inference.writing import on_grid, to_masks
from comodal.method import Method
from comodal.modality import Target, subset_name

SCORE = "DSC/mean"
MAX_SUBSETS = 4
DRAWN = 2  # cases for the comparison of methods
MAX_BYTES = 256 * 2**20  # of one example, unpacked


@dataclass(frozen=True, eq=False)
class Example:
    """One slice of one case.

    Attributes:
        role: Why it is shown.
        subject: The case.
        slice: Index along Z on the grid of `modality`.
        modality: Whose image is shown.
        target: What was predicted.
        classes: The K names.
        image: (X, Y) float32 as the network saw it.
        truth: (K, X, Y) bool.
        predictions: {subset: (K, X, Y) bool}, small subsets first.
        dsc: {subset: mean DSC of the whole case}, None where it has none.
        aspect: Size of a voxel along Y over that along X.
    """

    role: str
    subject: str
    slice: int
    modality: str
    target: str
    classes: tuple[str, ...]
    image: NDArray[np.float32]
    truth: Mask
    predictions: Mapping[str, Mask]
    dsc: Mapping[str, float | None]
    aspect: float = 1.0


def choose_subsets(results: Results) -> list[Subset]:
    """The subsets worth a picture, at most four: the fullest, the best of the next smaller size, the best and the worst single.

    Both ends are shown, since only the best ones would flatter the method. The fullest is the last row with cases.

    Returns:
        Small subsets first; the last one decides which cases are shown.
    """
    scores = {row.present: row.metrics[SCORE].value for row in results.subsets if SCORE in row.metrics}
    ranked = sorted((s for s, value in scores.items() if value is not None), key=lambda s: (-len(s), -(scores[s] or 0)))
    if not ranked:
        return []
    full = ranked[0]
    below = [s for s in ranked if set(s) < set(full)]
    singles = [s for s in below if len(s) == 1]
    chosen = {full, *singles[:1], *singles[-1:], *[s for s in below if len(s) == len(full) - 1][:1]}
    return [row.present for row in results.subsets if row.present in chosen]


def choose_cases(scores: Mapping[str, float]) -> dict[str, str]:
    """{role: case} of the best, the median and the worst, no case twice.

    >>> choose_cases({"p1": 0.2, "p2": 0.9, "p3": 0.5, "p4": 0.6})
    {'best': 'p2', 'median': 'p3', 'worst': 'p1'}
    """
    order = sorted(scores, key=lambda case: (-scores[case], case))
    roles = {"best": 0, "median": len(order) // 2, "worst": len(order) - 1}
    chosen: dict[str, str] = {}
    for role in ("best", "worst", "median") if order else ():
        if order[roles[role]] not in chosen.values():
            chosen[role] = order[roles[role]]
    return {role: chosen[role] for role in roles if role in chosen}


def drawn_cases(cases: Iterable[str]) -> list[str]:
    """Two cases that no method has chosen: those whose names have the least hashes.

    Methods that are tested on the same cases draw the same ones, so that their predictions can be shown side by side.

    >>> drawn_cases(["p1", "p2", "p3", "p4"]) == drawn_cases(["p4", "p3", "p2", "p1"])
    True
    """
    return sorted(cases, key=lambda case: hashlib.sha256(case.encode()).hexdigest())[:DRAWN]


def make_examples(
    method: Method,
    preparer: Preparer,
    cases: Iterable[Case],
    *,
    results: Results,
    device: Device = "cpu",
    overlap: float = 0.5,
) -> list[Example]:
    """Predicts the best, the median and the worst case again, and two that are drawn, and keeps one slice of each.

    Those that are drawn are seen through the fullest subset alone. The slice is the one with most of the truth (of the
    prediction, where the truth is empty).

    Args:
        method: On `device`.
        preparer: Reads the cases.
        cases: Those that were evaluated.
        results: Of `evaluate`; they say which cases and subsets are worth showing.
        device: Where the method is.
        overlap: Of windows, as in that evaluation: else masks and numbers would not agree.

    Returns:
        At most five examples of the first target of segmentation; none where there is no such target or no score.
    """
    target = next((t for t in method.problem.targets if t.is_segmentation), None)
    subsets = choose_subsets(results)
    if target is None or not subsets:
        return []
    by_id = {case.id: case for case in cases}
    scores = {case: value for case, value in results.case_values(SCORE, subsets[-1]).items() if case in by_id}
    ranked = choose_cases(scores)
    wanted = [(role, case, subsets) for role, case in ranked.items()]
    wanted += [("drawn", case, subsets[-1:]) for case in drawn_cases(scores) if case not in ranked.values()]
    made = []
    for role, case, seen in wanted:
        dsc = {subset_name(s): results.case_values(SCORE, s).get(case) for s in seen}
        made.append(_example(method, preparer, by_id[case], target, seen, role=role, dsc=dsc, device=device, overlap=overlap))
    return made


def _example(
    method: Method,
    preparer: Preparer,
    case: Case,
    target: Target,
    subsets: Sequence[Subset],
    *,
    role: str,
    dsc: Mapping[str, float | None],
    device: Device,
    overlap: float,
) -> Example:
    prepared = preparer.case(case, use=subsets[-1])
    grid, array = prepared.grid, np.asarray(prepared.targets[target.name])
    assert grid is not None  # a segmentation has an image
    truth = np.stack([array == k for k in range(len(target.classes))]) if target.kind == "labels" else array.astype(bool)
    rows = list(foreground_classes(target).values())
    masks: dict[str, Mask] = {}
    for subset in subsets:  # each on its own grid, as in the table
        own = preparer.case(case, use=subset, with_targets=False)
        assert own.grid is not None  # a segmentation has an image
        ((_, found),) = predict_case(method, own, subsets=[subset], overlap=overlap, device=device)
        masks[subset_name(subset)] = to_masks(target, on_grid(found.probabilities[target.name], own.grid, grid))[rows]
    shown = truth[rows] if truth[rows].any() else masks[subset_name(subsets[-1])]
    z = int(shown.any(axis=0).sum(axis=(0, 1)).argmax()) if shown.any() else shown.shape[-1] // 2
    modality = next(iter(prepared.images))
    return Example(
        role=role,
        subject=case.id,
        slice=z,
        modality=modality,
        target=target.name,
        classes=tuple(target.classes[k] for k in rows),
        image=np.asarray(prepared.images[modality][..., z].mean(axis=0), dtype=np.float32),
        truth=np.ascontiguousarray(truth[rows][..., z]),
        predictions={name: np.ascontiguousarray(mask[..., z]) for name, mask in masks.items()},
        dsc=dict(dsc),
        aspect=grid.spacing[1] / grid.spacing[0],
    )


class _Entry(BaseModel):
    """What `examples.json` says about one example; its arrays are in `<number>.npz`."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    role: str
    subject: str
    slice: int = Field(ge=0)
    modality: str
    target: str
    classes: tuple[str, ...] = Field(min_length=1)
    dsc: dict[str, float | None]
    aspect: Annotated[float, Field(gt=0)] = 1.0


class _File(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    schema_: Literal[1] = Field(default=1, alias="schema")
    examples: tuple[_Entry, ...] = Field(max_length=100)


def save_examples(folder: Path | str, examples: Sequence[Example]) -> Path:
    """Writes examples into a folder (of a run: `examples/<name of the result>`), over those that are there.

    Args:
        folder: It is made.
        examples: In the order in which they are shown.

    Returns:
        The file `examples.json`, which is written last.
    """
    folder = Path(folder)
    entries = []
    for number, example in enumerate(examples):
        entries.append(_Entry(**{name: getattr(example, name) for name in _Entry.model_fields}))
        arrays = io.BytesIO()
        predictions = np.stack([example.predictions[name] for name in example.dsc])
        np.savez_compressed(arrays, image=example.image, truth=example.truth, predictions=predictions)
        with replacing(folder / f"{number}.npz") as file:
            file.write(arrays.getvalue())
    with replacing(folder / "examples.json") as file:
        file.write(_File(schema=1, examples=tuple(entries)).model_dump_json(by_alias=True, indent=1).encode())
    return folder / "examples.json"


def load_examples(folder: Path | str) -> list[Example]:
    """Reads what `save_examples` wrote.

    Raises:
        RunError: A file is missing, damaged or of another schema.
    """
    path = Path(folder) / "examples.json"
    try:
        entries = _File.model_validate_json(path.read_bytes()).examples
    except OSError as error:
        raise _damaged(path, error.strerror or "unreadable") from error
    except ValidationError as error:
        raise _damaged(path, error.errors(include_url=False)[0]["msg"]) from error
    return [_load(entry, Path(folder) / f"{number}.npz") for number, entry in enumerate(entries)]


def _load(entry: _Entry, path: Path) -> Example:
    try:
        with zipfile.ZipFile(path) as archive:  # asked first: a small file may unpack to anything
            if sum(item.file_size for item in archive.infolist()) > MAX_BYTES:
                raise _damaged(path, "more than 256 MiB")
        with np.load(path, allow_pickle=False) as arrays:
            image, truth, predictions = (arrays[name] for name in ("image", "truth", "predictions"))
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise _damaged(path, str(error).splitlines()[0] if str(error) else type(error).__name__) from error
    shape = (len(entry.classes), *image.shape)
    right = image.ndim == 2 and truth.shape == shape and predictions.shape == (len(entry.dsc), *shape)
    if not right or image.dtype != np.float32 or truth.dtype != bool or predictions.dtype != bool:
        raise _damaged(path, f"arrays of shapes {image.shape}, {truth.shape}, {predictions.shape}")
    named = dict(zip(entry.dsc, predictions, strict=True))
    return Example(
        **json.loads(entry.model_dump_json()) | {"classes": entry.classes}, image=image, truth=truth, predictions=named
    )


def _damaged(path: Path, got: str) -> RunError:
    return RunError(
        message("examples", "be as `comodal evaluate` wrote them", got, file=str(path), do="Run `comodal evaluate` again")
    )
