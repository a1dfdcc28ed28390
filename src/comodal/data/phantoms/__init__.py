"""PHANTOMS: every synthetic cohort by its name. The table is literal, so that listing it imports nothing heavy.

A phantom is written to disk in the layout of the public data set that it stands for, and then goes the same way as that data
set: index, check, train. What a model learns on a phantom says nothing about patients.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from comodal.errors import ConfigError, message, nearest

if TYPE_CHECKING:
    from pydantic import BaseModel

    from comodal.data.phantoms.ceilings import Ceiling


@dataclass(frozen=True)
class Phantom:
    """One line of the table.

    Attributes:
        function: "module:function", called as `function(out, config, on_progress=None)`.
        config: "module:Class" of its configuration.
        layout: The name of the layout that indexes what it wrote.
        summary: One sentence.
        layouts: {release: layout} of the releases that lie on disk in another way.
        ceilings: "module:function", called as `function(config)`: the best that any method can reach from each subset of the
            modalities, a list of `Ceiling`. "" where it is not known.
        table: Of a phantom in the layout csv, which indexes a table and not a folder: its name below the root.
        options: "module:function", called as `function(config)`: what the layout must be told to index it. "" for nothing.
    """

    function: str
    config: str
    layout: str
    summary: str
    layouts: Mapping[str, str] = field(default_factory=dict)
    ceilings: str = ""
    table: str = ""
    options: str = ""


PHANTOMS: dict[str, Phantom] = {
    "brain": Phantom(
        function="comodal.data.phantoms.brain:write_brain",
        config="comodal.data.phantoms.brain:BrainPhantom",
        layout="brats",
        summary="Skull-stripped brains with nested tumours in FLAIR, T1, T1ce and T2, as in BraTS.",
        layouts={"2015": "brats2015"},
    ),
    "petct": Phantom(
        function="comodal.data.phantoms.petct:write_petct",
        config="comodal.data.phantoms.petct:PetctPhantom",
        layout="autopet",
        summary="Lesions in PET and CT, with active fat, benign nodes and dead tumour that one of them alone cannot tell.",
        layouts={"hecktor": "hecktor"},
        ceilings="comodal.data.phantoms.petct_ceilings:ceilings",
    ),
    "shapes": Phantom(
        function="comodal.data.phantoms.shapes:write_shapes",
        config="comodal.data.phantoms.shapes:ShapesPhantom",
        layout="csv",
        summary="A triangle and an ellipse that overlap in part, as in ShapeComposition; the target is their union.",
        ceilings="comodal.data.phantoms.shapes_ceilings:ceilings",
        table="table.csv",
        options="comodal.data.phantoms.shapes:index_options",
    ),
    "chest": Phantom(
        function="comodal.data.phantoms.chest:write_chest",
        config="comodal.data.phantoms.chest:ChestPhantom",
        layout="open-i",
        summary="Chest radiographs with findings in regions, and reports, as in Open-I or MIMIC-CXR.",
        layouts={"mimic-cxr": "mimic-cxr"},
        ceilings="comodal.data.phantoms.chest_ceilings:ceilings",
    ),
    "skin": Phantom(
        function="comodal.data.phantoms.skin:write_skin",
        config="comodal.data.phantoms.skin:SkinPhantom",
        layout="derm7pt",
        summary="Skin lesions, each in a clinical and a dermoscopic photograph, with the seven-point criteria, as in Derm7pt.",
        ceilings="comodal.data.phantoms.skin_ceilings:skin_ceilings",
    ),
    "radpath": Phantom(
        function="comodal.data.phantoms.radpath:write_radpath",
        config="comodal.data.phantoms.radpath:RadpathPhantom",
        layout="radpath",
        summary="Brain tumours in four MRI sequences and tiles of pathology, three classes, as in CPM-RadPath 2020.",
        ceilings="comodal.data.phantoms.radpath_model:ceilings",
    ),
    "pairs": Phantom(
        function="comodal.data.phantoms.pairs:write_pairs",
        config="comodal.data.phantoms.pairs:PairsPhantom",
        layout="csv",
        summary="Pairs of latent vectors whose class is nearly linear in the superior one and a product in the inferior one.",
        ceilings="comodal.data.phantoms.pairs_model:ceilings",
        table="table.csv",
    ),
}


def load_phantom(name: str) -> tuple[Callable[..., None], type[BaseModel]]:
    """The function that writes a phantom of PHANTOMS, and the class of its configuration.

    Args:
        name: A key of PHANTOMS.

    Raises:
        ConfigError: The name is unknown; the message lists the nearest known ones.
    """
    if name not in PHANTOMS:
        raise ConfigError(message("phantom", "be a known phantom", repr(name), do=nearest(name, PHANTOMS)))
    function, config = (_load(path) for path in (PHANTOMS[name].function, PHANTOMS[name].config))
    return function, config


def layout_of(name: str, config: BaseModel) -> str:
    """The layout that indexes what a phantom wrote.

    Args:
        name: A key of PHANTOMS.
        config: Its configuration; what matters is the release, where it has several.

    >>> from comodal.data.phantoms.brain import BrainPhantom
    >>> layout_of("brain", BrainPhantom()), layout_of("brain", BrainPhantom(release="2015"))
    ('brats', 'brats2015')
    """
    phantom = PHANTOMS[name]
    return phantom.layouts.get(getattr(config, "release", ""), phantom.layout)


def options_of(name: str, config: BaseModel) -> dict[str, Any]:
    """What the layout of a phantom must be told to index what it wrote.

    Args:
        name: A key of PHANTOMS.
        config: Its configuration.

    >>> from comodal.data.phantoms.shapes import ShapesPhantom
    >>> options_of("shapes", ShapesPhantom()), options_of("shapes", ShapesPhantom(parts=True))["regions"]["seg"]["triangle"]
    ({}, (1, 3))
    """
    found: dict[str, Any] = _load(PHANTOMS[name].options)(config) if PHANTOMS[name].options else {}
    return found


def ceilings_of(name: str, config: BaseModel) -> list[Ceiling]:
    """The best scores that any method can reach on a phantom, for each subset of its modalities.

    Args:
        name: A key of PHANTOMS.
        config: Its configuration.

    Returns:
        Computed or bounded from the generative model; empty where they are not known.
    """
    found: list[Ceiling] = _load(PHANTOMS[name].ceilings)(config) if PHANTOMS[name].ceilings else []
    return found


def _load(path: str) -> Any:
    module, name = path.split(":")
    return getattr(importlib.import_module(module), name)
