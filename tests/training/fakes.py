"""A small cohort on disk, a configuration that trains on it in a second, and a method of two stages."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import nibabel as nib
import numpy as np
import torch
import yaml
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits

from comodal.batch import Batch, Features
from comodal.config import RunConfig, load_config
from comodal.data.cohort import Case, Cohort, CohortMeta, ModalitySpec, TargetSpec
from comodal.method import Citation, Method, MethodConfig, Monitor, Optimiser, Prediction, Problem, Requirements, Stage
from comodal.methods import METHODS, Entry

SHAPE = (16, 16, 4)
SEG = TargetSpec(name="seg", kind="regions", classes=["WT"], codes=[[1]], paint=[1])


def write_cohort(folder: Path, cases: int = 8) -> Path:
    """Subjects with a bright ball in the images a and b; every fourth lacks b."""
    x, y, z = np.indices(SHAPE)
    rows = []
    for number in range(cases):
        rng = np.random.default_rng(number)
        place = folder / f"p{number}"
        place.mkdir(parents=True)
        centre = rng.uniform(6, 10, size=2)
        ball = (x - centre[0]) ** 2 + (y - centre[1]) ** 2 + 4 * (z - 1.5) ** 2 < 18
        for name, contrast in (("a", 2.0), ("b", 1.0)):
            image = 5 + ball * contrast + rng.normal(scale=0.4, size=SHAPE)
            nib.save(nib.Nifti1Image(image.astype(np.float32), np.eye(4)), place / f"{name}.nii")
        nib.save(nib.Nifti1Image(ball.astype(np.uint8), np.eye(4)), place / "seg.nii")
        cells = {name: f"p{number}/{name}.nii" for name in ("a", "b", "seg")}
        rows.append(Case.build(f"p{number}", cells=cells | ({"b": ""} if number % 4 == 3 else {})))
    specs = [ModalitySpec(name="a"), ModalitySpec(name="b")]
    meta = CohortMeta(layout="csv", root=str(folder), modalities=specs, targets=[SEG])
    return Cohort.build(meta, rows, folder).save(folder / "cohort.csv")


def values_for(cohort: Path, name: str = "unet", *, steps: int = 8, **more: Any) -> dict[str, Any]:
    """Plain values of a configuration: a 2-D network of 2 levels on slices of 16 x 16."""
    method: dict[str, Any] = {"name": name}
    if name in ("unet", "moddrop"):
        method |= {"width": 4, "levels": 2, "steps": steps}
    data = {"spatial_dims": 2, "patch": [16, 16], "draws_per_case": 2}
    training = {"batch_size": 2, "threads": 1, "device": "cpu", "validations": 2, "checkpoint_steps": 3, "overlap": 0.0}
    values: dict[str, Any] = {"cohort": str(cohort), "method": method, "data": data, "splits": {"fractions": [0.5, 0.25, 0.25]}}
    values["training"] = training
    for section, change in more.items():
        values[section] = {**values[section], **change}
    return values


def write_config(file: Path, values: Mapping[str, Any]) -> Path:
    file.write_text(yaml.safe_dump(dict(values)), encoding="utf-8")
    return file


def config_for(cohort: Path, name: str = "unet", *, steps: int = 8, **more: Any) -> RunConfig:
    """The same, as `comodal train` reads it."""
    file = write_config(cohort.parent / "config.yaml", values_for(cohort, name, steps=steps, **more))
    return load_config(file)


def problem() -> Problem:
    spec = [ModalitySpec(name="a").modality, ModalitySpec(name="b").modality]
    return Problem(tuple(spec), (SEG.target,), 2, (16, 16))


class TwoStageConfig(MethodConfig):
    """How long each stage is."""

    first: int = 4
    second: int = 6


class TwoStage(Method):
    """Encoders that are trained first, with dropout, and then frozen; a head that is then trained on their cached encodings."""

    Config: ClassVar[type[MethodConfig]] = TwoStageConfig
    config: TwoStageConfig
    paper: ClassVar[Citation] = Citation("Nobody", "Two stages", 2000)

    def __init__(self, problem: Problem, config: TwoStageConfig) -> None:
        super().__init__(problem, config)
        self.encoders = nn.ModuleDict(
            {n: nn.Sequential(nn.Conv2d(1, 3, 3, padding=1), nn.BatchNorm2d(3), nn.Dropout(0.3)) for n in problem.names}
        )
        self.first = nn.Conv2d(3, 1, 1)
        self.head = nn.Sequential(nn.Dropout(0.2), nn.Conv2d(3, 1, 1))

    @property
    def requires(self) -> Requirements:
        return Requirements(tasks=("segmentation",))

    def stages(self) -> tuple[Stage, ...]:
        adam, sgd = Optimiser("adam", 1e-2, schedule="cosine", warmup=0.25), Optimiser("sgd", 1e-3)
        return (
            Stage("encoders", ("encoders", "first"), {"": sgd, "encoders": adam}, steps=self.config.first, monitor=Monitor()),
            Stage("head", ("head",), {"": adam}, inputs="encoded", augment=False, steps=self.config.second),
        )

    def encode(self, batch: Batch) -> dict[str, Features]:
        return {n: self.encoders[n](batch.image(n)) for n in self.problem.names if bool(batch.is_present(n).any())}

    def _fused(self, features: Mapping[str, Features], present: Tensor) -> Tensor:
        total = torch.zeros(())
        for column, name in enumerate(self.problem.names):
            value = features.get(name)
            if isinstance(value, Tensor):
                total = total + torch.where(present[:, column].reshape(-1, 1, 1, 1), value, torch.zeros(()))
        return total

    def losses(self, batch: Batch, stage: Stage) -> dict[str, Tensor]:
        if stage.inputs == "encoded":
            features = {n: v for n, v in batch.inputs.items() if isinstance(v, Tensor)}
            logits = self.head(self._fused(features, batch.present))
        else:
            logits = self.first(self._fused(self.encode(batch), batch.present))
        return {"ce": binary_cross_entropy_with_logits(logits, batch.targets["seg"].float())}

    def decode(self, features: Mapping[str, Features], present: Tensor) -> Prediction:
        return Prediction({"seg": torch.sigmoid(self.head(self._fused(features, present)))}, present)

    def predict(self, batch: Batch) -> Prediction:
        self.require_support(batch.present)
        return self.decode(self.encode(batch), batch.present)


def register(module: str) -> None:
    """Puts the method of two stages into METHODS of this process."""
    METHODS["two-stage"] = Entry(f"{module}:TwoStage", "Two stages.", ("segmentation",), "", "", str(TwoStage.paper))
