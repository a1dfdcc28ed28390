"""Builds run folders as `train` and `evaluate` leave them, with made-up numbers, so that pages can be tried in a second."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from comodal.evaluation.classification import as_columns, pooled_metrics
from comodal.evaluation.examples import Example, save_examples
from comodal.evaluation.results import CaseResult, MetricValue, Results, SubsetResult
from comodal.evaluation.statistics import bootstrap_interval
from comodal.modality import Target, subsets


@dataclass(frozen=True)
class World:
    """What a made-up experiment is about."""

    cohort: str
    modalities: tuple[str, ...]
    classes: tuple[str, ...]
    cases: int
    suffix: str
    layout: str
    spatial_dims: int = 3


BRAIN = World("phantom-brain", ("flair", "t1", "t1ce", "t2"), ("WT", "TC", "ET"), 20, ".nii.gz", "brats")
LGG = World("lgg", ("pre", "flair", "post"), ("lesion",), 16, ".tif", "lgg-mri", 2)
CHEST = World("chest", ("image", "text"), ("negative", "positive"), 40, ".png", "csv", 2)

# How much each modality shows of each region: made up, but in the order of the literature.
_WEIGHT = {"flair": (0.80, 0.45, 0.30), "t1": (0.55, 0.40, 0.25), "t1ce": (0.60, 0.70, 0.72), "t2": (0.74, 0.50, 0.32)}
_WEIGHT |= {"pre": (0.45,) * 3, "post": (0.62,) * 3}


def _score(rng: np.random.Generator, world: World, present: Sequence[str], k: int, *, robust: bool) -> float:
    best = max(_WEIGHT[name][k] for name in present) + 0.035 * (len(present) - 1)
    if not robust:
        best *= 0.55 + 0.45 * len(present) / len(world.modalities)
    return float(np.clip(best + rng.normal(0, 0.05), 0, 1))


def _segmentation_cases(world: World, ids: Sequence[str], *, robust: bool, seed: int, missing: bool) -> list[CaseResult]:
    rng = np.random.default_rng(seed)
    hard = np.random.default_rng(99).normal(0, 0.09, len(ids))
    rows = []
    for present in subsets(world.modalities):
        for i, case in enumerate(ids):
            if missing and i % 4 == 0 and world.modalities[1] in present:
                continue  # this patient has no second modality
            metrics: dict[str, float | None] = {}
            for k, name in enumerate(world.classes):
                value = float(np.clip(_score(rng, world, present, k, robust=robust) + hard[i], 0, 0.98))
                metrics[f"DSC/{name}"] = value
                metrics[f"HD95/{name}"] = None if value < 0.2 else 3 + 30 * (1 - value) ** 2 + float(rng.exponential(1.0))
            metrics["DSC/mean"] = float(np.mean([metrics[f"DSC/{name}"] or 0.0 for name in world.classes]))
            rows.append(CaseResult(subject=case, group=case, present=present, metrics=metrics))
    return rows


def _row(cases: Sequence[CaseResult], present: tuple[str, ...]) -> SubsetResult:
    here = [case for case in cases if case.present == present]
    metrics = {}
    for name in here[0].metrics if here else ():
        values = {case.group: case.metrics[name] for case in here if case.metrics[name] is not None}
        numbers = [float(v) for v in values.values() if v is not None]
        mean = float(np.mean(numbers)) if numbers else None
        metrics[name] = MetricValue(
            value=mean, ci95=bootstrap_interval(numbers, list(values)), n=len(numbers), n_pos=len(numbers), n_neg=0
        )
    return SubsetResult(present=present, metrics=metrics)


def _results(world: World, ids: Sequence[str], *, method: str, seed: int, missing: bool) -> Results:
    if world is CHEST:
        return _classes(world, ids, method=method, seed=seed)
    cases = _segmentation_cases(world, ids, robust=method == "moddrop", seed=seed, missing=missing)
    rows = tuple(_row(cases, present) for present in subsets(world.modalities))
    return Results(method=method, cohort=world.cohort, split="test", seed=seed, subsets=rows, cases=tuple(cases))


def _classes(world: World, ids: Sequence[str], *, method: str, seed: int) -> Results:
    rng = np.random.default_rng(seed)
    target = Target("finding", "class", world.classes)
    truth = [i % 2 for i in range(len(ids))]
    rows, cases = [], []
    for present in subsets(world.modalities):
        if method == "late-fusion" and len(present) == 1:
            rows.append(SubsetResult(present=present, supported=False))
            continue
        logit = np.array([(2 * t - 1) * (0.4 + 0.5 * len(present)) for t in truth]) + rng.normal(0, 1, len(ids))
        positive = 1 / (1 + np.exp(-logit))
        probabilities = np.stack([1 - positive, positive], axis=1)
        found = pooled_metrics(target, probabilities, as_columns(truth, 2), groups=list(ids))
        rows.append(SubsetResult(present=present, metrics=found))
        for case, p, t in zip(ids, probabilities.tolist(), truth, strict=True):
            cases.append(
                CaseResult(subject=case, group=case, present=present, probabilities={"finding": p}, targets={"finding": t})
            )
    return Results(method=method, cohort=world.cohort, split="test", seed=seed, subsets=tuple(rows), cases=tuple(cases))


def _events(world: World, seed: int, *, stages: int = 1) -> list[dict[str, Any]]:
    rng = np.random.default_rng(seed)
    events: list[dict[str, Any]] = []
    metric = "AUROC" if world is CHEST else "DSC"
    for stage in ["train"] if stages == 1 else ["teacher", "student"]:
        events.append({"event": "stage", "stage": stage, "state": "start", "parameters": 1_234_567, "cases": 56, "steps": 300})
        for step in range(1, 301):
            loss = 0.25 + 1.1 * np.exp(-step / 80) + rng.normal(0, 0.05)
            terms = {"dice": loss / 2, "ce": loss / 2}
            events.append({"event": "step", "stage": stage, "epoch": step // 30, "step": step, "loss": loss, "terms": terms})
            if step % 30 == 0:
                metrics = {"loss": loss + 0.05, metric: 0.8 * (1 - np.exp(-step / 90)) + rng.normal(0, 0.015)}
                events.append(
                    {
                        "event": "validation",
                        "stage": stage,
                        "epoch": step // 30,
                        "step": step,
                        "metrics": metrics,
                        "best": step in (90, 210, 270),
                    }
                )
        events.append({"event": "stage", "stage": stage, "state": "end", "parameters": 1_234_567})
    if seed == 2:
        text = "Stage train: the loss has not fallen in 75 steps (1.31 at first, 1.32 now)."
        events.insert(90, {"event": "warning", "stage": "train", "step": 75, "text": text})
    return events


def _blob(shape: tuple[int, int], centre: tuple[float, float], radius: float, wobble: float) -> np.ndarray:
    x, y = np.mgrid[: shape[0], : shape[1]]
    dx, dy = x - centre[0], (y - centre[1]) * 1.15
    return np.asarray(np.hypot(dx, dy) < radius * (1 + wobble * np.sin(3 * np.arctan2(dy, dx) + radius)))


def _examples(world: World, ids: Sequence[str]) -> list[Example]:
    rng = np.random.default_rng(5)
    chosen = list(subsets(world.modalities))
    chosen = [chosen[0], chosen[len(world.modalities) - 2], *([chosen[-2]] if len(world.modalities) > 3 else []), chosen[-1]]
    out = []
    for role, wobble, subject in [("best", 0.08, ids[0]), ("median", 0.2, ids[1]), ("worst", 0.45, ids[2])]:
        shape = (96, 112)
        head, tumour = _blob(shape, (48, 56), 42, 0.02), (62.0, 70.0)
        radii = (17.0, 11.0, 7.0)[: len(world.classes)]
        truth = np.stack([_blob(shape, tumour, r, 0.18) for r in radii])
        image = np.where(head, 0.5 + 0.06 * rng.normal(size=shape) + 0.35 * truth[0] - 0.2 * truth[-1], 0).astype(np.float32)
        predictions = {}
        for j, present in enumerate(chosen):
            shift = (len(chosen) - j) * wobble * 9
            predictions[present] = np.stack(
                [_blob(shape, (62 - shift, 70 + shift / 2), r * (1 - wobble / 2), wobble) for r in radii]
            )
        dsc = {s: 2 * float((p & truth).sum()) / float(p.sum() + truth.sum()) for s, p in predictions.items()}
        out.append(_example(role, subject, world, image, truth, predictions, dsc))
    return out


def _example(role: str, subject: str, world: World, image: Any, truth: Any, predictions: Any, dsc: Any) -> Example:
    return Example(
        role=role,
        subject=subject,
        slice=41,
        modality=world.modalities[0],
        target="seg",
        classes=world.classes,
        image=image,
        truth=truth,
        predictions={"+".join(s): p for s, p in predictions.items()},
        dsc={"+".join(s): v for s, v in dsc.items()},
    )


def write_run(
    folder: Path,
    world: World,
    *,
    method: str,
    seed: int = 0,
    evaluated: bool = True,
    subjects: Sequence[str] = (),
    missing: bool = False,
    stages: int = 1,
) -> Path:
    """Writes one run folder; `subjects` replace the first test subjects."""
    folder.mkdir(parents=True)
    test = [f"P{i:03d}" for i in range(world.cases)]
    test[: len(subjects)] = subjects
    train = [f"T{i:03d}" for i in range(56)]
    target = {"name": "finding", "kind": "class", "classes": list(world.classes)}
    if world is not CHEST:
        target = {"name": "seg", "kind": "regions", "classes": list(world.classes)}
    config = {
        "cohort": f"../{world.cohort}.csv",
        "method": {"name": method, "width": 16},
        "data": {
            "modalities": list(world.modalities),
            "targets": [target["name"]],
            "spatial_dims": world.spatial_dims,
            "patch": [64] * world.spatial_dims,
        },
        "splits": {"fractions": [0.7, 0.1, 0.2], "folds": None, "fold": 0, "seed": 0},
        "training": {"seed": seed, "batch_size": 4, "device": "cpu"},
    }
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    meta = {
        "schema": 1,
        "layout": world.layout,
        "root": ".",
        "modalities": [{"name": m} for m in world.modalities],
        "targets": [target],
    }
    (folder / "cohort.yaml").write_text(yaml.safe_dump(meta))
    lines = ["subject,session,group,site,split," + ",".join([*world.modalities, str(target["name"])])]
    for i, case in enumerate([*train, *test]):
        cells = ["" if missing and j == 1 and i % 4 == 0 else f"{i}/{m}{world.suffix}" for j, m in enumerate(world.modalities)]
        lines.append(",".join([f'"{case}"', "", "", "", "", *cells, "x"]))
    (folder / "cohort.csv").write_text("\n".join(lines) + "\n")
    (folder / "splits.json").write_text(json.dumps({"train": train[:48], "val": train[48:], "test": test}))
    (folder / "environment.json").write_text(json.dumps(_environment(method, seed)))
    (folder / "metrics.jsonl").write_text("".join(json.dumps(event) + "\n" for event in _events(world, seed, stages=stages)))
    if evaluated:
        _results(world, test, method=method, seed=seed, missing=missing).save(folder / "results" / "test.json")
        if world is not CHEST:
            save_examples(folder / "examples" / "test", _examples(world, test))
    return folder


def _environment(method: str, seed: int) -> dict[str, Any]:
    cited = {"unet": "Isensee et al. (2021). nnU-Net: a self-configuring method. Nature Methods, 10.1038/s41592-020-01008-z."}
    return {
        "python": "3.11.2",
        "packages": {"comodal": "0.1.0", "torch": "2.9.0", "monai": "1.5.1", "numpy": "2.3.0"},
        "system": "Linux x86_64",
        "threads": 2,
        "gpu": None,
        "parameters": 1_234_567,
        "warnings": [],
        "training_seconds": 171.3 + 10 * seed,
        "citation": cited.get(method, "Common practice: whole modalities are left out at random during training."),
    }


@pytest.fixture
def make_run(tmp_path: Path) -> Callable[..., Path]:
    """`make_run("name", BRAIN, method=...)` writes tmp_path/name."""

    def make(name: str, world: World, **more: Any) -> Path:
        return write_run(tmp_path / name, world, **more)

    return make


@pytest.fixture
def worlds() -> dict[str, World]:
    """The made-up experiments by name."""
    return {"brain": BRAIN, "lgg": LGG, "chest": CHEST}


@pytest.fixture(scope="session")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A study of two methods and two seeds; one more run is not evaluated yet."""
    root = tmp_path_factory.mktemp("study")
    for method in ("unet", "moddrop"):
        for seed in (0, 2):
            write_run(root / "runs" / f"{method}-seed{seed}", BRAIN, method=method, seed=seed)
    write_run(root / "runs" / "last", BRAIN, method="moddrop", seed=3, evaluated=False)
    return root
