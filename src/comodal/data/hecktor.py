"""The layout of HECKTOR 2022: CT and PET of head and neck, label maps in a folder of their own.

`hecktor2022_training/{imagesTr/<id>__CT.nii.gz, imagesTr/<id>__PT.nii.gz, labelsTr/<id>.nii.gz}` and, without labels,
`hecktor2022_testing/imagesTs/`. An id is the centre and a number; the data set writes both CHUM-001 and CHUM_001, which are one
patient here. Either folder, or the folder around them, can be indexed.

CT and PET (in SUV) are registered but lie on grids of their own, and the labels on that of the CT. Both modalities have the
grid "head", so that preparation brings them to the voxels of the first one that a case has, by their positions in space.

Labels: 1 primary tumour (GTVp), 2 lymph nodes (GTVn). Which of them is to be found differs between papers: see
`Options.target`. The clinical table and the end points (relapse, its time) are not read.
"""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict

from comodal.data.cohort import Case, Cohort, CohortMeta, ModalitySpec, TargetSpec
from comodal.data.folders import Tree
from comodal.data.formats_picture import natural_key
from comodal.errors import DataError, message

_IMAGE = re.compile(r"(?P<id>.+?)__(?P<kind>CT|PT)\.nii(?:\.gz)?", re.IGNORECASE)
_LABEL = re.compile(r"(?P<id>.+?)\.nii(?:\.gz)?", re.IGNORECASE)
_ID = re.compile(r"(?P<centre>[A-Za-z]+)[-_](?P<number>\d+)")
_COLUMNS = {"ct": "ct", "pt": "pet"}
_UNITS = {"ct": "HU", "pet": "SUV"}


class Options(BaseModel):
    """What can be set.

    Attributes:
        target: Which labels are to be found: "gtvn" (2, the lymph nodes, as the text of Shen et al., CIML, says), "gtvp" (1,
            the primary tumour), "union" (1 and 2 as one region), "multi" (a region for each). Labels that are not asked for
            count as background.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    target: Literal["gtvn", "gtvp", "union", "multi"] = "gtvn"


_TARGETS: dict[str, TargetSpec] = {
    "gtvn": TargetSpec(name="seg", kind="regions", classes=["GTVn"], codes=[[2]], paint=[2], other=[1]),
    "gtvp": TargetSpec(name="seg", kind="regions", classes=["GTVp"], codes=[[1]], paint=[1], other=[2]),
    "union": TargetSpec(name="seg", kind="regions", classes=["GTV"], codes=[[1, 2]], paint=[1]),
    "multi": TargetSpec(name="seg", kind="regions", classes=["GTVp", "GTVn"], codes=[[1], [2]], paint=[1, 2]),
}
_SAID = {
    "gtvn": "target: GTVn (label 2) alone, as the text of CIML says; GTVp (label 1) counts as background",
    "gtvp": "target: GTVp (label 1) alone; GTVn (label 2) counts as background",
    "union": "target: GTVp and GTVn (labels 1 and 2) as one region; a prediction writes 1",
    "multi": "target: GTVp (label 1) and GTVn (label 2), a region for each",
}


def index(root: Path, options: Options) -> Cohort:
    """Scans a HECKTOR 2022 folder. No image is opened.

    Args:
        root: The folder that holds imagesTr and labelsTr, or imagesTs, at any depth.
        options: See `Options`.

    Returns:
        Modalities ct (HU) and pet (SUV) as far as any case has them; target seg. The site is the centre in the id. Cases for
        testing have no label, and no split, since nothing could be evaluated on them.

    Raises:
        DataError: No case, or two files for one column of a case.
    """
    tree = Tree.scan(root)
    found = {case: cells for case, cells in _scan(tree).items() if set(cells) - {"seg"}}
    if not found:
        do = "Give the folder that holds hecktor2022_training, with imagesTr and labelsTr"
        rule, got = (
            "hold cases of HECKTOR 2022, files <id>__CT.nii.gz and <id>__PT.nii.gz",
            "; ".join(["none", *tree.not_followed()]),
        )
        raise DataError(message("ROOT", rule, got, do=do, file=str(root)))
    cases = [Case.build(case, cells=found[case], site=_site(case)) for case in sorted(found, key=natural_key)]
    names = [name for name in _UNITS if any(name in case.cells for case in cases)]
    targets, notes = _target(cases, options)
    notes += [f"no case has {name}; it is left out" for name in _UNITS if name not in names]
    notes += [*tree.not_followed(), *tree.synthetic()]
    specs = [ModalitySpec(name=name, unit=_UNITS[name], grid="head") for name in names]
    meta = CohortMeta(layout="hecktor", root=str(root), modalities=specs, targets=targets, notes=notes)
    return Cohort.build(meta, cases, root)


def _scan(tree: Tree) -> dict[str, dict[str, str]]:
    """{case: {column: path relative to the root}}."""
    found: dict[str, dict[str, str]] = {}
    for folder, names in tree.folders:
        labels = (tree.root.resolve() / folder.relative_to(tree.root)).name.casefold().startswith("labels")
        for name in names:
            image = _IMAGE.fullmatch(name)
            label = _LABEL.fullmatch(name) if labels and image is None else None
            match = image or label
            if match is None:
                continue
            case = _case_id(match["id"])
            column = _COLUMNS[image["kind"].lower()] if image else "seg"
            cells, cell = found.setdefault(case, {}), (folder / name).relative_to(tree.root).as_posix()
            if column in cells:
                rule, got = "hold one file for each column of a case", f"{cells[column]} and {cell}"
                raise DataError(message("ROOT", rule, got, subject=case, modality=column, do="Keep one of them"))
            cells[column] = cell
    return found


def _case_id(written: str) -> str:
    match = _ID.fullmatch(written)
    return f"{match['centre'].upper()}-{match['number']}" if match else written


def _site(case: str) -> str:
    match = _ID.fullmatch(case)
    return match["centre"] if match else ""


def _target(cases: list[Case], options: Options) -> tuple[list[TargetSpec], list[str]]:
    sites = Counter(case.site or "unknown" for case in cases)
    notes = ["cases of each centre: " + ", ".join(f"{site} {sites[site]}" for site in sorted(sites))]
    unlabelled = sum("seg" not in case.cells for case in cases)
    if unlabelled == len(cases):
        return [], [*notes, "no case has a label map: there is nothing to train on, only to predict"]
    notes.append(_SAID[options.target])
    if unlabelled:
        notes.append(f"{unlabelled} cases have no label map (those for testing never have one): they can only be predicted")
    return [_TARGETS[options.target]], notes
