"""A cohort of feature vectors in a table alone, on which guidance trains in a second."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import yaml

from comodal.data.cohort import Case, Cohort, CohortMeta, ModalitySpec, TargetSpec

SIZES = {"cheap": 3, "costly": 4}
TINY: dict[str, Any] = {
    "superior": ["costly"],
    "both": True,
    "vector": 4,
    "steps": 3,
    "guide_epochs": 2,
    "decoder_epochs": 2,
}


def write_vectors(folder: Path, *, cases: int = 24, split: bool = False, seed: int = 0) -> Path:
    """Patients with two vectors and the class grade (low, high), and, where asked for, a column split."""
    rng = np.random.default_rng(seed)
    rows = []
    for number in range(cases):
        high = number % 2
        cells = {
            name: ";".join(f"{value:.3f}" for value in rng.normal(high * (1 + 2 * (name == "costly")), 1.0, size))
            for name, size in SIZES.items()
        }
        part = ("train", "train", "val", "test")[number // 2 % 4] if split else ""
        rows.append(Case.build(f"p{number:02d}", cells=cells | {"grade": ("low", "high")[high]}, split=part))
    specs = [
        ModalitySpec(name=name, kind="features", spatial_dims=0, channels=size, inline=True) for name, size in SIZES.items()
    ]
    target = TargetSpec(name="grade", kind="class", classes=["low", "high"])
    folder.mkdir(parents=True, exist_ok=True)
    meta = CohortMeta(layout="csv", root=str(folder), modalities=specs, targets=[target])
    return Cohort.build(meta, rows, folder).save(folder / "cohort.csv")


def guided_study(cohort: Path, **more: Any) -> Path:
    """study.yaml: guidance, and its I and S + I by `of`."""
    values: dict[str, Any] = {
        "cohort": cohort.name,
        "methods": [
            {"name": "guidance", "label": "guided", "config": TINY},
            {"label": "guided-inferior", "of": "guided", "config": {"read_out": "inferior"}},
            {"label": "guided-both", "of": "guided", "config": {"read_out": "both"}},
        ],
        "reference": "guided-inferior",
        "subsets": "complete",
        "training": {"batch_size": 4, "device": "cpu", "threads": 1, "validations": 1},
    }
    file = cohort.parent / "study.yaml"
    file.write_text(yaml.safe_dump({**values, **more}))
    return file
