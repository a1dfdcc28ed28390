"""Cohorts, their files, and everything between a file and a `Sample`.

DATASETS is every layout by its name: a literal table, so that listing it imports nothing heavy.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
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
    "derm7pt": "comodal.data.derm7pt:index",
    "autopet": "comodal.data.autopet:index",
    "hecktor": "comodal.data.hecktor:index",
    "open-i": "comodal.data.open_i:index",
    "mimic-cxr": "comodal.data.mimic_cxr:index",
    "nnunet": "comodal.data.nnunet:index",
    "datalist": "comodal.data.datalist:index",
    "bids": "comodal.data.bids:index",
    "radpath": "comodal.data.radpath:index",
    "glioma-pathology": "comodal.data.glioma_pathology:index",
    "csv": "comodal.data.plain:index",
}

# Layouts that cohorts can be written in (`comodal convert`): called as `function(cohort, out, on_progress=None) -> notes`.
WRITERS: dict[str, str] = {
    "nnunet": "comodal.data.nnunet_writing:write",
    "datalist": "comodal.data.datalist:write",
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
    "derm7pt": Layout(
        name="derm7pt",
        function=DATASETS["derm7pt"],
        summary="ROOT/meta/{meta,train_indexes,valid_indexes,test_indexes}.csv and ROOT/images/<folder>/<name>.jpg.",
        reference="Kawahara, Daneshvar, Argenziano, Hamarneh (2019), 10.1109/JBHI.2018.2824327.",
        options="comodal.data.derm7pt:Options",
    ),
    "autopet": Layout(
        name="autopet",
        function=DATASETS["autopet"],
        summary="ROOT/**/PETCT_<hash>/<study>/{CTres,SUV,SEG}.nii.gz; region lesion, empty in negative controls.",
        reference="Gatidis et al. (2022), 10.1038/s41597-022-01718-3; 10.7937/gkr0-xv29.",
        options="comodal.data.autopet:Options",
    ),
    "hecktor": Layout(
        name="hecktor",
        function=DATASETS["hecktor"],
        summary="ROOT/**/{imagesTr,imagesTs}/<id>__{CT,PT}.nii.gz, labelsTr/<id>.nii.gz; regions GTVn, GTVp or both.",
        reference="Andrearczyk et al. (2023), 10.1007/978-3-031-27420-6_1; grids of CT and PET differ.",
        options="comodal.data.hecktor:Options",
    ),
    "open-i": Layout(
        name="open-i",
        function=DATASETS["open-i"],
        summary="ROOT/**/ecgen-radiology/<n>.xml and ROOT/**/<image>.png, or indiana_*.csv and images_normalized; 14 findings.",
        reference="Demner-Fushman et al. (2016), 10.1093/jamia/ocv080.",
        options="comodal.data.open_i:Options",
    ),
    "mimic-cxr": Layout(
        name="mimic-cxr",
        function=DATASETS["mimic-cxr"],
        summary="ROOT/**/files/p10/p<subject>/s<study>/<dicom>.jpg and s<study>.txt with mimic-cxr-*.csv.gz; findings, edema.",
        reference="Johnson et al. (2019), 10.1038/s41597-019-0322-0; edema: PhysioNet mimic-cxr-pe-severity 1.0.1.",
        options="comodal.data.mimic_cxr:Options",
    ),
    "nnunet": Layout(
        name="nnunet",
        function=DATASETS["nnunet"],
        summary="ROOT/dataset.json, imagesTr/<case>_0000.<ending>, labelsTr/<case>.<ending>; a channel may be absent.",
        reference="Isensee et al. (2021), 10.1038/s41592-020-01008-z; versions 1 and 2 of the format.",
        options="comodal.data.nnunet:Options",
    ),
    "datalist": Layout(
        name="datalist",
        function=DATASETS["datalist"],
        summary="dataset.json of the Medical Segmentation Decathlon, or any MONAI datalist (the JSON itself as ROOT).",
        reference="Antonelli et al. (2022), 10.1038/s41467-022-30695-9; Cardoso et al. (2022), arXiv:2211.02701.",
        options="comodal.data.datalist:Options",
    ),
    "bids": Layout(
        name="bids",
        function=DATASETS["bids"],
        summary="ROOT/sub-<id>[/ses-<id>]/<anat|pet|ct>/*_<suffix>.nii.gz, label maps in derivatives, participants.tsv.",
        reference="Gorgolewski et al. (2016), 10.1038/sdata.2016.44.",
        options="comodal.data.bids:Options",
    ),
    "radpath": Layout(
        name="radpath",
        function=DATASETS["radpath"],
        summary="ROOT/**/Radiology/<ID>/<ID>_{t1,t1ce,t2,flair}.nii.gz, Pathology/<ID>*.tiff, table of labels; classes G O A.",
        reference="CPM-RadPath 2020 (MICCAI challenge); splits of Mallya, Hamarneh (2022), arXiv:2203.05683.",
        options="comodal.data.radpath:Options",
    ),
    "glioma-pathology": Layout(
        name="glioma-pathology",
        function=DATASETS["glioma-pathology"],
        summary="ROOT/radpath_pairs.csv and a folder of its regions of interest (PNG); classes of IDH, 1p/19q and both.",
        reference="Mobadersany et al. (2018), 10.1073/pnas.1717139115.",
        options="comodal.data.glioma_pathology:Options",
    ),
    "csv": Layout(
        name="csv",
        function=DATASETS["csv"],
        summary="Your own files: a CSV with a column `subject` and one column per modality and target: paths, texts, numbers.",
        reference="Anything that comodal reads: NIfTI, MetaImage, NRRD, DICOM, PNG, JPEG, TIFF, folders of slices, .txt, .npy.",
        options="comodal.data.plain_options:Options",
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


def convert(cohort: Cohort, layout: str, out: Path, *, on_progress: Callable[[int, int], None] | None = None) -> list[str]:
    """Writes a cohort in the layout of another tool.

    Args:
        cohort: As loaded.
        layout: A key of WRITERS.
        out: Folder.
        on_progress: Called with (cases done, all cases).

    Returns:
        What the other tool will not see, one sentence each.

    Raises:
        ConfigError: No such layout.
        DataError: The layout has no place for the cohort, or a file is damaged.
    """
    if layout not in WRITERS:
        raise ConfigError(message("layout", "be one that is written", repr(layout), do=nearest(layout, WRITERS)))
    notes: list[str] = _load(WRITERS[layout])(cohort, out, on_progress=on_progress)
    return notes


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
