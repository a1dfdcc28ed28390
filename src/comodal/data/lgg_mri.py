"""The layout of the LGG MRI segmentation set: RGB slices that hold T1 before contrast, FLAIR, and T1 after contrast.

`<case>/<case>_<slice>.tif` and `<case>/<case>_<slice>_mask.tif`, case = TCGA_<centre>_<patient>_<date>. Where a sequence does
not exist, upstream put a copy of FLAIR into its channel. Such a copy is detected by equality in every slice and becomes a blank
cell: otherwise FLAIR would leak into every result of a subset without it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from comodal.data.cohort import Case, Cohort, CohortMeta, ModalitySpec, TargetSpec
from comodal.data.formats_picture import natural_key
from comodal.data.reading import read_volume
from comodal.errors import DataError, message

CHANNELS = {"t1": 0, "flair": 1, "t1ce": 2}
_CASE = re.compile(r"(?P<patient>TCGA_(?P<site>[A-Z0-9]{2})_[A-Z0-9]{4})_\d+", re.IGNORECASE)
IMAGES, MASKS = "*[0-9].tif", "*_mask.tif"


def index(root: Path) -> Cohort:
    """Scans the folder (often called kaggle_3m). Of each case, slices are read until the channels are seen to differ.

    Args:
        root: The folder that holds one folder per case.

    Returns:
        Modalities t1, flair, t1ce (T1 after contrast); target seg with the region lesion (FLAIR abnormality). The group is
        the patient, the site TCGA's code of the centre. Cells of copied sequences are blank; `meta.notes` counts them.

    Raises:
        DataError: No case, or slices that are not RGB.
    """
    folders = sorted((path for path in root.glob("*") if path.is_dir() and _CASE.fullmatch(path.name)), key=_key)
    if not folders:
        do = "Give the folder that holds TCGA_CS_4941_19960909 and its like, often called kaggle_3m"
        raise DataError(message("ROOT", "hold folders named TCGA_<centre>_<patient>_<date>", "none", do=do, file=str(root)))
    cases = [_case(folder) for folder in folders]
    specs = [ModalitySpec(name=name, grid="brain", files=IMAGES, channel=channel) for name, channel in CHANNELS.items()]
    target = TargetSpec(name="seg", kind="regions", classes=["lesion"], codes=[[255]], paint=[255], files=MASKS)
    notes = []
    for name in CHANNELS:
        absent = [case.id for case in cases if name not in case.cells]
        if absent:
            count = f"{len(absent)} of {len(cases)} cases"
            notes.append(f"{name} is absent in {count}: its channel is a copy of flair in every slice ({', '.join(absent)})")
    meta = CohortMeta(layout="lgg-mri", root=str(root), modalities=specs, targets=[target], notes=notes)
    return Cohort.build(meta, cases, root)


def _key(path: Path) -> tuple[tuple[int, int | str], ...]:
    return natural_key(path.name)


def _case(folder: Path) -> Case:
    match = _CASE.fullmatch(folder.name)
    assert match is not None
    copied = _copies(folder)
    cells = {name: "" if name in copied else folder.name for name in CHANNELS}
    cells["seg"] = folder.name if any(folder.glob(MASKS)) else ""
    return Case.build(folder.name, cells=cells, group=match["patient"], site=match["site"])


def _copies(folder: Path) -> set[str]:
    """Names of the sequences whose channel equals that of FLAIR in every slice."""
    suspects = set(CHANNELS) - {"flair"}
    for slice_ in _slices(folder):
        image = read_volume(slice_, subject=folder.name).array
        if image.shape[0] != len(CHANNELS):
            do = "Restore the slice from the original data set"
            rule, got = "be RGB: T1, FLAIR, T1 after contrast", f"{image.shape[0]} channels"
            raise DataError(message("slice", rule, got, subject=folder.name, file=str(slice_), do=do))
        suspects = {name for name in suspects if np.array_equal(image[CHANNELS[name]], image[CHANNELS["flair"]])}
        if not suspects:
            break
    return suspects


def _slices(folder: Path) -> Iterator[Path]:
    """From the middle outwards: the first slices may be black, and say nothing."""
    paths = sorted(folder.glob(IMAGES), key=_key)
    if not paths:
        rule, do = f"have slices named {folder.name}_1.tif", "Remove the folder, or restore its slices"
        raise DataError(message("case", rule, "none", subject=folder.name, file=str(folder), do=do))
    middle = len(paths) // 2
    yield from paths[middle:]
    yield from paths[:middle]
