"""Cohorts, their files, and everything between a file and a `Sample`.

DATASETS is every layout by its name: a literal table, so that listing it imports nothing heavy.
"""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from comodal.errors import ConfigError, message, nearest

if TYPE_CHECKING:
    from comodal.data.cohort import Cohort


@dataclass(frozen=True)
class Layout:
    """One way in which a data set lies on disk.

    Attributes:
        name: As in `comodal index NAME ROOT`.
        function: "module:function", called as `function(root)`; it returns a cohort that is not yet saved.
        summary: One sentence on what the folder looks like.
        reference: Whose data they are.
    """

    name: str
    function: str
    summary: str
    reference: str


DATASETS: dict[str, str] = {
    "brats": "comodal.data.brats:index",
    "brats2015": "comodal.data.brats2015:index",
    "lgg-mri": "comodal.data.lgg_mri:index",
    "csv": "comodal.data.plain:index",
}

LAYOUTS_INFO: dict[str, Layout] = {
    "brats": Layout(
        name="brats",
        function=DATASETS["brats"],
        summary="ROOT/**/<case>_{t1,t1ce,t2,flair,seg}.nii.gz (2018-2021) or -{t1n,t1c,t2w,t2f,seg} (2023); regions WT TC ET.",
        reference="Menze et al. (2015), 10.1109/TMI.2014.2377694; Baid et al. (2021), arXiv:2107.02314.",
    ),
    "brats2015": Layout(
        name="brats2015",
        function=DATASETS["brats2015"],
        summary="ROOT/**/<case>/**/VSD.Brain.*.{MR_T1,MR_T1c,MR_T2,MR_Flair,OT}.<number>.mha; regions WT TC ET.",
        reference="Menze et al. (2015), 10.1109/TMI.2014.2377694.",
    ),
    "lgg-mri": Layout(
        name="lgg-mri",
        function=DATASETS["lgg-mri"],
        summary="ROOT/<case>/<case>_<slice>.tif (T1, FLAIR, contrast T1 as RGB) and <case>_<slice>_mask.tif; region lesion.",
        reference="Buda, Saha, Mazurowski (2019), 10.1016/j.compbiomed.2019.05.002.",
    ),
    "csv": Layout(
        name="csv",
        function=DATASETS["csv"],
        summary="Your own files: a CSV with a column `subject` and one column of paths per modality and target.",
        reference="Anything that comodal reads: NIfTI, MetaImage (.mha), PNG, JPEG, TIFF, folders of slices, .txt, .npy.",
    ),
}


def index(layout: str, root: Path) -> Cohort:
    """Scans a folder (for "csv": a table) into a cohort.

    Args:
        layout: A key of DATASETS.
        root: What to scan.

    Returns:
        The cohort, not yet saved.

    Raises:
        ConfigError: No such layout, or nothing at `root`.
        DataError: What is there is not of this layout.
    """
    if layout not in DATASETS:
        raise ConfigError(message("layout", "be a known layout", repr(layout), do=nearest(layout, DATASETS)))
    if not Path(root).exists():
        raise ConfigError(message("ROOT", "exist", "nothing there", do="Check the path", file=str(root)))
    module, function = DATASETS[layout].split(":")
    cohort: Cohort = getattr(importlib.import_module(module), function)(Path(root))
    return cohort
