"""A small cohort on disk for methods that classify: two vectors and a bag of vectors, with gaps; a run takes a second."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import yaml

from comodal.config import RunConfig, load_config
from comodal.data.cohort import Case, Cohort, CohortMeta, ModalitySpec, TargetSpec

DIAGNOSIS = TargetSpec(name="diagnosis", kind="class", classes=["benign", "malignant"])
SIGNS = TargetSpec(name="signs", kind="multilabel", classes=["veil", "streaks"])


def write_cohort(folder: Path, cases: int = 24) -> Path:
    """Every case has the vector a; every third lacks b, every fourth the bag, every fifth the signs."""
    rows = []
    for number in range(cases):
        rng = np.random.default_rng(number)
        ill, veil = number % 2, number // 2 % 2
        vectors = {name: rng.normal(size=3) + np.array([ill, veil, 0]) for name in ("a", "b")}
        bag = rng.normal(size=(int(rng.integers(2, 7)), 4)).astype(np.float32)
        bag[0, :2] += 3 * np.array([ill, veil])  # one item tells
        folder.mkdir(parents=True, exist_ok=True)
        np.save(folder / f"{number}.npy", bag)
        cells = {name: ";".join(f"{value:.4f}" for value in vector) for name, vector in vectors.items()}
        cells |= {"bag": f"{number}.npy", "diagnosis": DIAGNOSIS.classes[ill], "signs": "veil" if veil else "?streaks"}
        gaps = {"b": 3, "bag": 4, "signs": 5}
        rows.append(Case.build(f"p{number}", cells={n: c for n, c in cells.items() if n not in gaps or number % gaps[n] != 1}))
    vector = {"kind": "features", "spatial_dims": 0, "channels": 3, "inline": True}
    modalities = [ModalitySpec.model_validate({"name": name, **vector}) for name in ("a", "b")]
    modalities.append(ModalitySpec(name="bag", kind="bag", spatial_dims=0, channels=4))
    meta = CohortMeta(layout="csv", root=str(folder), modalities=modalities, targets=[DIAGNOSIS, SIGNS])
    return Cohort.build(meta, rows, folder).save(folder / "cohort.csv")


def config_for(cohort: Path, name: str, *modalities: str, training: dict[str, Any] | None = None, **method: Any) -> RunConfig:
    """A configuration as `comodal train` reads it; the file lies beside the cohort."""
    file = cohort.parent / f"{name}.yaml"
    values = {
        "cohort": str(cohort),
        "method": {"name": name, "bag": 8, "attention": 4, **method},
        "data": {"modalities": list(modalities) or None},
        "splits": {"fractions": [0.5, 0.25, 0.25]},
        "training": {"batch_size": 4, "threads": 1, "device": "cpu", "validations": 2, **(training or {})},
    }
    file.write_text(yaml.safe_dump(values), encoding="utf-8")
    return load_config(file)
