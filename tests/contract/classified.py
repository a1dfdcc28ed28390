"""Small problems and settings for the methods that classify: a photo, a scan, bags and a vector; three kinds of target."""

from __future__ import annotations

from typing import Any

from comodal.method import MethodConfig, Problem
from comodal.methods import load_method
from comodal.modality import Modality, Target

PHOTO, SCAN = Modality("photo", "image", 2, 3, grid="photo"), Modality("scan", "image", 3, 1, grid="scan")
VOLUME = Modality("volume", "image", 3, 1, grid="volume")  # seen whole
TILES, CELLS = Modality("tiles", "bag", 2, 3, grid="tiles"), Modality("cells", "bag", 0, 5)
BLOOD = Modality("blood", "features", 0, 3)
REPORT = Modality("report", "text", 0, 1, grid="report")
VOCABULARY = 12  # of made-up reports: padding, unknown, start and nine words
WORDS = ("effusion", "clear", "nodule", "no", "left", "right", "heart", "small", "large")
# A photo of 33 pixels leaves more than one of the last map, and so does a scan slice by slice: a norm over the batch needs
# several where a single row has the modality.
PATCHES = {"photo": (33, 33), "scan": (8, 8, 3), "volume": (8, 8, 8)}
CLASSES = (
    Target("diagnosis", "class", ("nevus", "melanoma", "other")),
    Target("signs", "multilabel", ("veil", "streaks")),
    Target("grade", "ordinal", ("low", "middle", "high")),
)
FAST: dict[str, Any] = {"encoder": "resnet10-quarter", "slices": "mean", "bag": 8, "attention": 4}
TIENET: dict[str, Any] = {"transition": 8, "words": 5, "units": 6, "row_units": 7, "rows": 2, "longest": 9}
CMIM: dict[str, Any] = {
    "text_channels": 8,
    "words": 4,
    "text_blocks": 1,
    "joint": 8,
    "rank": 8,
    "critic": (8,),
    "positions": 4,
    "read_words": 4,
}
PRETRAINED: dict[str, Any] = {"text_channels": 8, "words": 4, "text_blocks": 1}
# {method: {what: (modalities, settings)}}: those that classify.
CLASSIFIED: dict[str, dict[str, tuple[tuple[Modality, ...], dict[str, Any]]]] = {
    "classifier": {
        "all kinds": ((PHOTO, SCAN, CELLS, BLOOD), {"vector": 4, "hidden": 4}),
        "a volume": ((VOLUME,), {"slices": "volume"}),
        "a report": ((REPORT,), {"text": "bert-128x2", "text_output": "pooler"}),
    },
    "clam": {"vectors": ((CELLS,), {}), "tiles": ((TILES,), {"subtyping": True, "k": 1, "class_weights": "balanced"})},
    "late-fusion": {
        "all kinds": ((PHOTO, SCAN, CELLS, BLOOD), {}),
        "frozen": ((PHOTO, CELLS), {"frozen": True, "head_optimiser": "adam"}),
        "refuse": ((CELLS, BLOOD), {"absent": "refuse"}),
        "a photo and a report": ((PHOTO, REPORT), {"words": 8, "text_channels": 8}),
    },
    "guidance": {
        "a photo by cells": ((PHOTO, CELLS), {"superior": ("cells",), "bottleneck": 4}),
        "a photo by a report": (
            (PHOTO, REPORT),
            {"superior": ("report",), "bottleneck": 4, "words": 8, "text_channels": 8, "guide_rate": 1e-3},
        ),
    },
    "cmim-class": {
        "a photo and a report": ((PHOTO, REPORT), CMIM),
        "three, every term": (
            (PHOTO, VOLUME, REPORT),
            {**CMIM, "lambda_gg": 0.1, "positions": None, "negatives": "all", "slices": "mean", "lambda_warmup": 0.5},
        ),
        "added": ((PHOTO, VOLUME, REPORT), {**CMIM, "added": ("volume",), "global_target": "other", "joint_weight": 0.0}),
    },
    "tienet": {
        "paper": ((PHOTO, REPORT), TIENET),
        "empty": ((PHOTO, REPORT), {**TIENET, "absent": "empty", "text_dropout_rate": 0.5, "stop_gradient": True}),
    },
    "local-mi": {
        "a sentence": ((PHOTO, REPORT), {**PRETRAINED, "critic": (8, 6)}),
        "all, both": (
            (PHOTO, REPORT),
            {**PRETRAINED, "critic": (8,), "sentences": "all", "pool": "soft", "bound": "mine", "retrain": "both"},
        ),
        "against images": (
            (PHOTO, REPORT),
            {**PRETRAINED, "critic": (8, 6), "sentences": "all", "against": "images", "pool": "soft", "critic_norm": True},
        ),
        "global": ((VOLUME, REPORT), {**PRETRAINED, "critic": (8, 6), "level": "global", "retrain": "frozen"}),
    },
    "convirt": {
        "a report": ((PHOTO, REPORT), {**PRETRAINED, "embedding": 8}),
        "a sentence": ((PHOTO, REPORT), {**PRETRAINED, "embedding": 8, "unit": "sentence", "retrain": "frozen"}),
    },
}


def classified(name: str, what: str | None = None) -> tuple[Problem, MethodConfig]:
    """The problem and the settings of a method, the first ones where nobody says which."""
    modalities, settings = CLASSIFIED[name][what or next(iter(CLASSIFIED[name]))]
    config = load_method(name).Config.model_validate({**FAST, **settings})
    return Problem(modalities, CLASSES, 3, patches=PATCHES, vocabulary=VOCABULARY, words=WORDS), config
