"""A cohort as a data set of nnU-Net: `dataset.json`, `imagesTr`, `labelsTr`, `imagesTs`, `labelsTs`, `splits_final.json`.

Files that are .nii.gz of one volume are copied to the byte; others are read to their last byte and written. Label values become
consecutive numbers, as nnU-Net asks, and the folds keep each patient on one side, which nnU-Net's own do not.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np

from comodal.data.atomic import replacing
from comodal.data.cohort import Case, Cohort, ModalitySpec, TargetSpec
from comodal.data.reading import read_volume, write_volume
from comodal.data.splits import SplitConfig, make_splits
from comodal.errors import DataError, message

FOLDS = 5


def write(cohort: Cohort, out: Path, *, on_progress: Callable[[int, int], None] | None = None) -> list[str]:
    """Writes a cohort with one segmentation.

    Args:
        cohort: Its images become channels in their order; other modalities are left out. Cases of the split test, and those
            without label map, go to imagesTs. An absent modality has no file.
        out: A new or empty folder, called `Dataset<number>_<name>` if nnU-Net is to find it.
        on_progress: Called with (cases done, all cases) after each case.

    Returns:
        What nnU-Net will ask for or not see, one sentence each.

    Raises:
        DataError: No image or no segmentation, several of them, a damaged file, or a folder with files in it.
    """
    specs = [spec for spec in cohort.meta.modalities if spec.kind == "image"]
    targets = [spec for spec in cohort.meta.targets if spec.is_segmentation]
    if not specs or len(targets) != 1:
        got = f"{len(specs)} images and {len(targets)} segmentations"
        do = "Leave the other columns out of the cohort's yaml and csv"
        raise DataError(message("cohort", "have images and one segmentation, to be written for nnU-Net", got, do=do))
    if out.exists() and any(out.iterdir()):
        raise DataError(message("--out", "be a new or empty folder", "one with files", file=str(out), do="Choose a new folder"))
    numbers = _numbers(targets[0])
    endings: set[str] = set()
    gaps = trained = 0
    for done, case in enumerate(cohort.cases, start=1):
        part = "Tr" if targets[0].name in case.cells and case.split != "test" else "Ts"
        trained += part == "Tr"
        gaps += any(spec.name not in case.cells for spec in specs)
        for channel, spec in enumerate(specs):
            if spec.name in case.cells:
                endings.add(_write_image(cohort, case, spec, out / f"images{part}" / f"{case.id}_{channel:04}"))
        if targets[0].name in case.cells:
            _write_label(cohort, case, targets[0], numbers, out / f"labels{part}" / case.id)
        if on_progress is not None:
            on_progress(done, len(cohort))
    if len(endings) > 1:
        do = "Keep the images of one kind"
        raise DataError(message("cohort", "have volumes only or pictures only", ", ".join(sorted(endings)), do=do))
    described = {
        "channel_names": {str(channel): spec.name for channel, spec in enumerate(specs)},
        **_labels(targets[0], numbers),
        "numTraining": trained,
        "file_ending": endings.pop(),
    }
    _write_json(out / "dataset.json", described)
    notes = _write_folds(cohort, targets[0].name, out)
    if gaps:
        notes.append(f"{gaps} cases lack a modality: nnU-Net itself needs every channel of every case, comodal does not")
    left = [spec.name for spec in cohort.meta.columns if spec not in (*specs, targets[0])]
    return [*notes, f"left out, since nnU-Net has no place for it: {', '.join(left)}"] if left else notes


def _numbers(target: TargetSpec) -> dict[int, int]:
    """{label value: consecutive number}; 0 and what counts as background stay 0."""
    values = sorted({code for group in target.codes for code in group} - {0})
    return {0: 0, **dict.fromkeys(target.other, 0), **{value: number for number, value in enumerate(values, start=1)}}


def _labels(target: TargetSpec, numbers: dict[int, int]) -> dict[str, object]:
    """The keys of dataset.json that say what the numbers mean."""
    named: dict[str, object] = {} if [0] in target.codes else {"background": 0}
    groups = [[numbers[code] for code in group] for group in target.codes]
    if target.kind == "labels" and all(len(group) == 1 for group in groups):
        return {"labels": {**named, **{name: group[0] for name, group in zip(target.classes, groups, strict=True)}}}
    regions = {name: sorted(group) for name, group in zip(target.classes, groups, strict=True)}
    paint = target.paint or [group[0] for group in target.codes]
    return {"labels": {**named, **regions}, "regions_class_order": [numbers[code] for code in paint]}


def _write_image(cohort: Cohort, case: Case, spec: ModalitySpec, stem: Path) -> str:
    """Writes one channel; returns the ending of its file."""
    path = cohort.file(case, spec.name)
    volume = read_volume(path, files=spec.files, channel=spec.channel, subject=case.id, modality=spec.name)
    whole = path.name.lower().endswith(".nii.gz") and volume.array.shape[0] == 1 and spec.channel is None
    if whole and not path.is_dir():
        with replacing(stem.with_name(f"{stem.name}.nii.gz")) as file:
            file.write(path.read_bytes())
        return ".nii.gz"
    if volume.array.shape[0] != 1:
        do = "Leave it out, or give each channel a modality of its own (`channel` in the yaml)"
        got = f"{volume.array.shape[0]} channels"
        raise DataError(
            message("image", "have one channel, to be written for nnU-Net", got, subject=case.id, modality=spec.name, do=do)
        )
    written = write_volume(volume.array[0], volume.geometry, stem)
    return written.name.removeprefix(stem.name)


def _write_label(cohort: Cohort, case: Case, target: TargetSpec, numbers: dict[int, int], stem: Path) -> None:
    path = cohort.file(case, target.name)
    volume = read_volume(path, files=target.files, channel=target.channel, subject=case.id, modality=target.name)
    found = np.unique(volume.array[0])
    strange = [int(code) for code in found if int(code) not in numbers]
    if strange:
        do = f"Add it to codes of {target.name} in the cohort's yaml"
        place = {"subject": case.id, "modality": target.name, "file": str(path)}
        raise DataError(message("label map", "hold only the codes of its yaml", f"also {strange[:5]}", do=do, **place))
    mapped = np.zeros(volume.array.shape[1:], dtype=np.uint8)
    for code in found:
        mapped[volume.array[0] == code] = numbers[int(code)]
    write_volume(mapped, volume.geometry, stem)


def _write_folds(cohort: Cohort, target: str, out: Path) -> list[str]:
    """Five folds by patient, as nnU-Net reads them."""
    trained = cohort.select(case.id for case in cohort.cases if target in case.cells and case.split != "test")
    groups = {case.group for case in trained.cases}
    if len(groups) < FOLDS:
        return [f"{len(groups)} patients are too few for {FOLDS} folds; nnU-Net will make its own, by case"]
    folds = []
    for fold in range(FOLDS):
        config = SplitConfig(fractions=(1, 0, 0), folds=FOLDS, fold=fold, column=False)
        splits = make_splits(trained, config)
        folds.append({"train": splits["train"], "val": splits["test"]})
    _write_json(out / "splits_final.json", folds)
    return [
        f"splits_final.json holds {FOLDS} folds of {len(groups)} patients; put it where nnU-Net keeps its preprocessed data"
    ]


def _write_json(path: Path, values: object) -> None:
    with replacing(path) as file:
        file.write((json.dumps(values, indent=1, ensure_ascii=False) + "\n").encode())
