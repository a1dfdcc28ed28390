"""A small cohort on disk for methods that learn from pictures and reports: squares, and sentences that say where they are."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import yaml
from PIL import Image

from comodal.config import RunConfig, load_config
from comodal.data.cohort import Case, Cohort, CohortMeta, ModalitySpec, TargetSpec

SIDE = 32
FINDINGS = TargetSpec(name="findings", kind="multilabel", classes=["nodule", "effusion"])
# The nodule lies in the upper left quarter, the effusion in the lower right one.
SAID = (("A nodule is seen in the left upper zone.", "No nodule."), ("There is a right effusion.", "No effusion is seen."))


def write_cohort(folder: Path, cases: int = 24) -> Path:
    """Every third case lacks the report, every fifth the label; reports have a sentence that helps nobody."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = []
    for number in range(cases):
        rng = np.random.default_rng(number)
        nodule, effusion = number % 2, number // 2 % 2
        picture = rng.normal(90, 12, size=(SIDE, SIDE))
        picture[4:12, 4:12] += 90 * nodule
        picture[20:30, 18:30] += 90 * effusion
        Image.fromarray(picture.clip(0, 255).astype(np.uint8)).save(folder / f"{number}.png")
        lines = [SAID[0][1 - nodule], SAID[1][1 - effusion], "Comparison is made with the prior study."]
        (folder / f"{number}.txt").write_text(" ".join(lines), encoding="utf-8")
        names = ";".join(name for name, there in zip(FINDINGS.classes, (nodule, effusion), strict=True) if there) or "-"
        cells = {"frontal": f"{number}.png", "report": f"{number}.txt", "findings": names}
        gaps = {"report": 3, "findings": 5}
        rows.append(Case.build(f"p{number}", cells={n: c for n, c in cells.items() if n not in gaps or number % gaps[n] != 1}))
    modalities = [
        ModalitySpec(name="frontal", spatial_dims=2, grid="frontal"),
        ModalitySpec(name="report", kind="text", spatial_dims=0, grid="report"),
    ]
    meta = CohortMeta(layout="csv", root=str(folder), modalities=modalities, targets=[FINDINGS])
    return Cohort.build(meta, rows, folder).save(folder / "cohort.csv")


def config_for(cohort: Path, name: str, *modalities: str, training: dict[str, Any] | None = None, **method: Any) -> RunConfig:
    """A configuration as `comodal train` reads it; the file lies beside the cohort."""
    file = cohort.parent / f"{name}.yaml"
    values = {
        "cohort": str(cohort),
        "method": {"name": name, "encoder": "resnet10-quarter", **method},
        "data": {"modalities": list(modalities) or None, "patch": [SIDE, SIDE]},
        "splits": {"fractions": [0.5, 0.25, 0.25]},
        "training": {"batch_size": 6, "threads": 1, "device": "cpu", "validations": 2, **(training or {})},
    }
    file.write_text(yaml.safe_dump(values), encoding="utf-8")
    return load_config(file)
