"""`comodal init`: a complete configuration for these data and this machine, each value with its reason."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import torch
import yaml

from comodal.batch import Bag, Batch
from comodal.config import (
    DataConfig,
    RunConfig,
    TrainingConfig,
    apply_overrides,
    build_method,
    build_problem,
    choose,
    validated,
)
from comodal.data.cohort import Cohort
from comodal.data.splits import SplitConfig
from comodal.errors import ConfigError, message
from comodal.method import Method, MethodConfig, Problem, Stage
from comodal.methods import METHODS, load_method
from comodal.modality import Modality
from comodal.testing.batches import make_batch
from comodal.testing.subject import stage_batch
from comodal.training.headers import Seen, look, thick
from comodal.training.schedule import build_optimisers
from comodal.training.whole import plan_whole

CPU_VOXELS = 1_000_000  # a larger volume is seen coarser on a CPU
DEFAULT_MINUTES = 10.0
VOCABULARY = 8000  # for timing alone; the tokenizer is fitted when the training starts
LEAST_STEPS = 50  # fewer teach nothing
AUGMENT_SHARE = 0.75  # of the time goes to steps; the rest to reading, augmentation and validation


@dataclass(frozen=True)
class InitResult:
    """A configuration and the same as commented YAML."""

    config: RunConfig
    text: str


def _reason(seen: Seen, asked: int | None) -> str:
    if asked:
        return "as asked, or the only one that the method has"
    if seen.shape[2] == 1:
        return "2-D by nature"
    if not seen.stated:
        return "slices, since the files state no spacing"
    return "few or thick slices" if thick(seen) else "nearly isotropic"


def _sides(shape: tuple[int, ...], most: int, step: int) -> tuple[int, ...]:
    """A patch: each side of the volume rounded up to a multiple of `step`, at most `most`, at least 2 steps."""
    return tuple(max(2 * step, min(most, -(-side // step) * step)) for side in shape)


def _plan_images(
    seen: Seen, spatial_dims: int | None, gpu: bool, *, config: type[MethodConfig] = MethodConfig
) -> tuple[dict[str, Any], dict[str, Any], dict[str, str]]:
    """Data keys, method keys and reasons for image problems; the patch is one that the method of this `config` can halve."""
    why: dict[str, str] = {}
    flat = seen.shape[2] == 1
    dims = spatial_dims or (2 if flat or thick(seen) else 3)
    what = "pictures" if flat else f"volumes of about {seen.shape} voxels at {tuple(round(s, 2) for s in seen.spacing)} mm"
    why["spatial_dims"] = f"{what}; {_reason(seen, spatial_dims)}"
    spacing: Any = [round(s, 3) for s in seen.spacing] if seen.stated else "native"
    shape = seen.shape
    same = "that of all files" if seen.same_spacing else "the median of the files"
    why["spacing"] = f"mm: {same}; other files are brought to it" if seen.stated else "the files state no spacing"
    voxels = shape[0] * shape[1] * shape[2]
    if dims == 3 and voxels > CPU_VOXELS and not gpu and seen.stated:
        factor = (voxels / CPU_VOXELS) ** (1 / 3)
        spacing = [round(s * factor, 2) for s in seen.spacing]
        shape = (round(shape[0] / factor), round(shape[1] / factor), round(shape[2] / factor))
        why["spacing"] = (
            f"coarser by {factor:.1f} than the files, so that a CPU can train; predictions are written at full size"
        )
    levels = 5 if dims == 2 else 4
    step = max(2 ** (levels - 1), config.patch_step)
    patch = _sides(shape[:dims], 256 if dims == 2 else (128 if gpu else 48), step)
    for_whom = f"for a network of {levels} levels" if "network" in config.model_fields else "which the network can halve"
    why["patch"] = f"multiples of {step} {for_whom}; volumes that are larger are seen through windows"
    data = {
        "spatial_dims": dims,
        "patch": list(patch),
        "spacing": spacing,
        "draws_per_case": min(16, seen.shape[2]) if dims == 2 else 4,
    }
    why["draws_per_case"] = "patches or slices from each case in an epoch"
    return data, {"levels": levels, "width": 32 if gpu else 16}, why


def _with_other_grids(cohort: Cohort, data: dict[str, Any], chosen: Sequence[Modality] | None = None) -> dict[str, Any]:
    """Data keys by grid where there are several: images of others than the first are seen whole, at their native spacing."""
    images = [m for m in (cohort.modalities if chosen is None else chosen) if m.kind == "image"]
    first, *others = dict.fromkeys(m.grid for m in images)
    sizes = {first: data["patch"]}
    for grid in others:
        seen = look(cohort, grid, modalities=images)
        dims = next(m for m in images if m.grid == grid).seen_in(data["spatial_dims"])
        sizes |= {grid: list(_sides(seen.shape[:dims], 256 if dims == 2 else 48, 8))} if seen is not None else {}
    return {**data, "patch": sizes, "spacing": {first: data["spacing"]}} if others else data


def _finish_queue(device: str) -> None:
    """A GPU works behind the clock's back until it is waited for."""
    if device == "cuda":
        torch.cuda.synchronize()


def _with_tiles(batch: Batch, problem: Problem, tiles: Mapping[str, Sequence[int]]) -> Batch:
    """Made-up bags with items of the size to which they are resized, {grid: pixels}."""
    bags = {m.name: tiles[m.grid] for m in problem.modalities if m.kind == "bag" and m.spatial_dims == 2 and m.grid in tiles}
    made = {}
    for name, size in bags.items():
        bag = batch.bag(name)
        made[name] = Bag(torch.randn(*bag.items.shape[:3], *size[:2], device=bag.items.device), bag.valid)
    return batch.with_inputs({**batch.inputs, **made}) if made else batch


def seconds_per_step(
    method: Method, stage: Stage, batch_size: int, *, device: str, tiles: Mapping[str, Sequence[int]] | None = None
) -> float:
    """Median of three training steps of a stage on made-up data, after one that is not counted.

    Args:
        method: Its weights are changed.
        stage: One of its stages.
        batch_size: Where the stage has none of its own.
        device: "cpu" or "cuda".
        tiles: {grid: pixels} of the items of bags.
    """
    method.to(device).enter(stage)
    raw = make_batch(method.problem, stage.batch_size or batch_size).to(device)
    batch = stage_batch(method, stage, _with_tiles(raw, method.problem, tiles or {}))
    method.enter(stage)  # to encode, it goes into eval mode
    optimisers = build_optimisers(method, stage)
    taken = []
    for _ in range(4):
        _finish_queue(device)
        began = time.perf_counter()
        for optimiser in optimisers.values():
            optimiser.zero_grad()
        torch.stack(list(method.losses(batch, stage).values())).sum().backward()
        for optimiser in optimisers.values():
            optimiser.step()
        _finish_queue(device)
        taken.append(time.perf_counter() - began)
    return float(median(taken[1:]))


@dataclass(frozen=True)
class Pace:
    """How long the steps of a training take.

    Attributes:
        fixed: Seconds for the stages whose length is their own.
        step: Seconds more for each of `method.steps`, in all stages that are as long as these say.
        stages: How many those are; stages that share `method.steps` count as one.
    """

    fixed: float
    step: float
    stages: int

    def __str__(self) -> str:
        each = f"for a step of each of {self.stages} stages" if self.stages > 1 else "a step"
        others = f", and {self.fixed:.2g} s for the other stages" if self.fixed else ""
        return f"{self.step:.2g} s {each}{others}"

    def steps_in(self, seconds: float) -> int:
        """The `method.steps` that fit; never fewer than teach anything."""
        return max(LEAST_STEPS, int((seconds - self.fixed) / self.step))


def _with_steps(config: RunConfig, steps: int) -> RunConfig:
    return config.model_copy(update={"method": {**config.method, "steps": steps}})


def _kind(method: Method, stage: Stage) -> object:
    """Equal for stages that are taken to be equally fast, as those of networks of one size; one of them is timed."""
    shapes = tuple(tuple(p.shape) for name, p in method.named_parameters() if stage.trains(name))
    return shapes, len(stage.modalities), stage.targets, stage.inputs, stage.batch_size


def _length(stage: Stage, config: RunConfig, *, cases: int, whole: bool) -> int:
    """Steps of a stage. `whole`: an epoch takes each case once."""
    if stage.steps is not None:
        return stage.steps
    draws = cases * (1 if whole else config.data.draws_per_case)
    return (stage.epochs or 0) * max(1, draws // (stage.batch_size or config.training.batch_size))


def measure(config: RunConfig, problem: Problem, cases: int, *, device: str) -> Pace | None:
    """Times the stages of a method; several may be as long as `method.steps` says, and others have a length of their own.

    Args:
        config: Resolved; its method has `steps`.
        problem: What the method is built for.
        cases: To train on.
        device: "cpu" or "cuda".

    Returns:
        The pace; None where no stage depends on `method.steps`.
    """
    method, other = (build_method(_with_steps(config, steps), problem) for steps in (LEAST_STEPS, 2 * LEAST_STEPS))
    known: dict[object, float] = {}
    resize = config.data.resize
    bags = [m.grid for m in problem.modalities if m.kind == "bag" and resize is not None]
    tiles = {grid: size for grid in bags if (size := resize.get(grid) if isinstance(resize, dict) else resize) is not None}
    more: dict[str, Any] = {"tiles": tiles} if tiles else {}
    fixed, step, follow = 0.0, 0.0, 0.0
    for stage, longer in zip(method.stages(), other.stages(), strict=True):
        kind = _kind(method, stage)
        if kind not in known:
            known[kind] = seconds_per_step(method, stage, config.training.batch_size, device=device, **more)
        whole = stage.inputs == "encoded" or problem.task == "classification"
        short, long = (_length(each, config, cases=cases, whole=whole) for each in (stage, longer))
        share = (long - short) / LEAST_STEPS  # 1 where the stage is as long as `steps` says, 0 where it has a length of its own
        step += known[kind] * share
        fixed += known[kind] * (short - share * LEAST_STEPS)
        follow += share
    return Pace(fixed, step, max(1, round(follow))) if follow else None


def _able(config: RunConfig, problem: Problem) -> tuple[int, ...]:
    """The dimensions in which the networks of the method exist; both where it is not for this problem, which is said later."""
    if problem.task not in METHODS[config.method_name].tasks:
        return (2, 3)
    return config.method_class()(problem, config.method_config()).requires.spatial_dims


def plan(
    name: str,
    cohort_csv: Path,
    *,
    minutes: float | None = None,
    spatial_dims: int | None = None,
    overrides: Sequence[str] = (),
    written: str | None = None,
) -> InitResult:
    """Chooses every value of a configuration from the cohort's headers and the speed of this machine.

    Args:
        name: A method.
        cohort_csv: The cohort.
        minutes: How long training may take here; 10 by default.
        spatial_dims: 2 or 3 to override the choice.
        overrides: "method.superior=[derm]": values that are settled; the others are chosen to go with them.
        written: The cohort's path as the configuration shall have it, relative to its own file; None keeps `cohort_csv`.

    Returns:
        The configuration and its YAML with a reason beside each chosen value.

    Raises:
        ConfigError: A value that cannot be, or a method that is not for this cohort.
        DataError: A header cannot be read, or there is no image to look at.
    """
    cls = load_method(name)
    cohort = Cohort.load(cohort_csv)
    gpu = torch.cuda.is_available()
    settled = _settled(overrides, spatial_dims)
    spatial_dims, fields = settled["data"].get("spatial_dims"), cls.Config.model_fields
    learned = settled["data"].get("targets") or [t.name for t in cohort.targets]
    classes = [t.name for t in cohort.targets if not t.is_segmentation and t.name in learned]
    data, keys, why, batch = _data(name, cohort, settled, gpu=gpu)
    keys |= {} if gpu else cls.Config.on_cpu
    training = {"batch_size": batch, "precision": "bf16-mixed" if gpu else "32-true"}
    splits: dict[str, Any] = {"fractions": [0.7, 0.1, 0.2] if len(cohort) >= 20 else [0.6, 0.2, 0.2]}
    if classes:
        splits["stratify"] = classes
    values = {
        "cohort": written or str(cohort_csv),
        "method": {"name": name, **keys},
        "data": data,
        "splits": splits,
        "training": training,
    }
    config = validated(RunConfig, apply_overrides(values, overrides), "config").resolved()
    able = _able(config, build_problem(config, cohort, VOCABULARY))
    if spatial_dims is None and data.get("spatial_dims", 2) not in able:  # 2-D methods see volumes slice by slice
        return plan(name, cohort_csv, minutes=minutes, spatial_dims=able[0], overrides=overrides, written=written)
    why["batch_size"] = "fits two cores and a few GiB" if not gpu else "fits one GPU"
    why["precision"] = "bf16 on a GPU" if gpu else "full precision on a CPU"
    if classes:
        why["stratify"] = "each part gets its share of every class"
    why["fractions"] = f"training, validation and test shares of {len(cohort)} cases, by group"
    why |= dict.fromkeys((item.partition("=")[0].split(".")[-1] for item in overrides), "as asked")
    if "steps" in fields and "steps" not in settled["method"]:
        config, why["steps"] = _paced(config, cohort, minutes, device="cuda" if gpu else "cpu")
    return InitResult(config, commented(config, {key: reason for key, reason in why.items() if reason}))


def _data(
    name: str, cohort: Cohort, settled: Mapping[str, dict[str, Any]], *, gpu: bool
) -> tuple[dict[str, Any], dict[str, Any], dict[str, str], int]:
    """Keys of the data and of the method, reasons, and cases in a batch."""
    config, asked = load_method(name).Config, validated(DataConfig, settled["data"], "data")
    chosen = choose(cohort.modalities, asked.modalities, "data.modalities")
    targets = choose(cohort.targets, asked.targets, "data.targets")
    classes = [t.name for t in targets if not t.is_segmentation]
    only_classes = METHODS[name].tasks == ("classification",)
    if only_classes or len(classes) == len(targets):
        found = plan_whole(cohort, chosen, gpu=gpu, config=config, asked=settled)
        if only_classes and asked.targets is None and 0 < len(classes) < len(targets):
            found.data["targets"], found.why["targets"] = classes, "those of classes, which this method predicts"
        return found.data, found.method, found.why, found.batch
    seen = look(cohort, modalities=chosen)
    if seen is None:
        return {}, {}, {}, 16
    data, keys, why = _plan_images(seen, asked.spatial_dims if "spatial_dims" in settled["data"] else None, gpu, config=config)
    # The sizes are those of the U-Nets of `networks/unet.py`; in other networks the same words mean something else.
    keys = {key: value for key, value in keys.items() if key in config.model_fields and "network" in config.model_fields}
    return _with_other_grids(cohort, data, chosen), keys, why, 4 if data["spatial_dims"] == 3 else 16


def _settled(overrides: Sequence[str], spatial_dims: int | None) -> dict[str, dict[str, Any]]:
    """{section: keys} of what the user has set."""
    given = apply_overrides({}, overrides)
    found = {key: dict(part) if isinstance(part := given.get(key), dict) else {} for key in ("data", "method")}
    if spatial_dims is not None:
        found["data"].setdefault("spatial_dims", spatial_dims)
    return found


def _paced(config: RunConfig, cohort: Cohort, minutes: float | None, *, device: str) -> tuple[RunConfig, str]:
    """As many steps as there is time for, and the reason; "" where no stage follows them."""
    budget = (DEFAULT_MINUTES if minutes is None else minutes) * 60
    if budget <= 0:
        raise ConfigError(message("--minutes", "be above 0", minutes, do="For instance --minutes 10"))
    cases = max(1, int(len(cohort) * config.splits.fractions[0]))
    pace = measure(config, build_problem(config, cohort, VOCABULARY), cases, device=device)
    if pace is None:
        return config, ""
    steps = pace.steps_in(budget * AUGMENT_SHARE)
    taken = (pace.fixed + pace.step * steps) / AUGMENT_SHARE  # more than asked for where no fewer steps teach anything
    return _with_steps(config, steps), f"about {taken / 60:.3g} minutes here, at {pace}"


def commented(config: RunConfig, why: dict[str, str]) -> str:
    """YAML with a reason (or what the schema says) beside each value."""
    about = {key: field.description or "" for key, field in config.method_class().Config.model_fields.items()}
    sections: dict[str, type[Any]] = {"data": DataConfig, "splits": SplitConfig, "training": TrainingConfig}
    lines = [f"# {config.method_class().paper}", ""]
    for key, value in config.model_dump(mode="json").items():
        if not isinstance(value, dict):
            lines.append(_line("", key, value, ""))
            continue
        lines += ["", f"{key}:"]
        fields = about if key == "method" else {k: f.description or "" for k, f in sections[key].model_fields.items()}
        lines += [_line("  ", k, v, why.get(k) or fields.get(k, "")) for k, v in value.items()]
    return "\n".join(lines) + "\n"


def _line(indent: str, key: str, value: Any, reason: str) -> str:
    text = (
        yaml.safe_dump(value, default_flow_style=True, allow_unicode=True, width=10_000)
        .removesuffix("\n")
        .removesuffix("\n...")
    )
    line = f"{indent}{key}: {text}"
    return f"{line:<36} # {reason}" if reason else line
