"""Cohorts, their files, and everything between a file and a `Sample`.

DATASETS is every layout by its name: a literal table, so that listing it imports nothing heavy.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from comodal.errors import ConfigError, message, nearest, short

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
        options: "module:Class" of what can be set (`--set KEY=VALUE`), a pydantic model; `function(root, options)` is called
            then. "" where there is nothing to set.
    """

    name: str
    function: str
    summary: str
    reference: str
    options: str = ""


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


def index(layout: str, root: Path, options: Mapping[str, Any] | None = None) -> Cohort:
    """Scans a folder (for "csv": a table) into a cohort.

    Args:
        layout: A key of DATASETS.
        root: What to scan.
        options: {key: value} of what the layout can be told; see its class of options.

    Returns:
        The cohort, not yet saved.

    Raises:
        ConfigError: No such layout, nothing at `root`, or an option that the layout does not have.
        DataError: What is there is not of this layout.
    """
    if layout not in DATASETS:
        raise ConfigError(message("layout", "be a known layout", repr(layout), do=nearest(layout, DATASETS)))
    if not Path(root).exists():
        raise ConfigError(message("ROOT", "exist", "nothing there", do="Check the path", file=str(root)))
    function, chosen = _load(DATASETS[layout]), _options(layout, options or {})
    cohort: Cohort = function(Path(root)) if chosen is None else function(Path(root), chosen)
    return cohort


def _load(path: str) -> Any:
    module, name = path.split(":")
    return getattr(importlib.import_module(module), name)


def _options(layout: str, given: Mapping[str, Any]) -> Any:
    """The options of a layout, validated; None where it has none."""
    from pydantic import ValidationError

    where = LAYOUTS_INFO[layout].options
    if not where:
        if given:
            do = "Leave it out"
            raise ConfigError(message(f"layout {layout}", "be given no options", ", ".join(given), do=do))
        return None
    schema = _load(where)
    try:
        return schema.model_validate(dict(given))
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(map(str, first["loc"])) or "options"
        if first["type"] == "extra_forbidden":
            rule, do = "be an option of this layout", nearest(key, schema.model_fields)
        else:
            said = str(first["msg"]).removeprefix("Value error, ").removeprefix("Input should ")
            rule, do = said.removeprefix("must "), f"Correct --set {key}=..."
        raise ConfigError(message(f"layout {layout}: {key}", rule, short(first.get("input")), do=do)) from None
