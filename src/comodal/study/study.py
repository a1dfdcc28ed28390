"""`comodal study`: trains and evaluates methods x seeds x folds one after the other, and goes on where it was stopped."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from comodal.config import DataConfig, RunConfig, TrainingConfig, read_yaml, validated
from comodal.data.cohort import Cohort
from comodal.data.splits import SplitConfig
from comodal.data.withholding import divided
from comodal.errors import ConfigError, message, nearest
from comodal.evaluation.results import Results
from comodal.run import Run
from comodal.study.evaluating import evaluate_run, finished, run_folder
from comodal.study.existing import check_existing
from comodal.training.checking import check_training
from comodal.training.events import Emit, Said, silent
from comodal.training.train import train_run

SOME_WORDS = 100  # stands for the vocabulary where a study is only checked


class Arm(BaseModel):
    """One method of a study.

    Attributes:
        name: Key of METHODS.
        label: How tables call it; the name by default.
        config: The method's own keys.
        data, training: What this arm has otherwise than the study, merged over the study's sections.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    label: str = ""
    config: dict[str, Any] = Field(default_factory=dict)
    data: dict[str, Any] = Field(default_factory=dict)
    training: dict[str, Any] = Field(default_factory=dict)

    @property
    def title(self) -> str:
        """The label, or the name."""
        return self.label or self.name


class StudyConfig(BaseModel):
    """A study.

    Attributes:
        cohort: cohort.csv, relative to the study's file.
        methods: The arms.
        reference: Label of the arm with which the others are compared; the first by default.
        against: Labels of further arms with which the others are compared, in a table each.
        seeds: One training for each.
        folds: Numbers of the folds to run; null trains on one split.
        split: Which part is evaluated.
        subsets: "all" evaluates every subset of the modalities, "complete" all modalities together alone.
        data, splits, training: As in a run's configuration; the seed of each run is put in.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    cohort: str
    methods: tuple[Arm, ...] = Field(min_length=1)
    reference: str = ""
    against: tuple[str, ...] = ()
    seeds: tuple[int, ...] = Field((0,), min_length=1)
    folds: tuple[int, ...] | None = Field(None, min_length=1)
    split: Literal["train", "val", "test", "all"] = "test"
    subsets: Literal["all", "complete"] = "all"
    data: DataConfig = DataConfig()
    splits: SplitConfig = SplitConfig()
    training: TrainingConfig = TrainingConfig()


@dataclass(frozen=True)
class StudyResult:
    """What a study found.

    Attributes:
        out: Its folder.
        config: What was run.
        runs: {label: run folders}, seeds and folds in order.
        results: {label: results}, in the same order.
        reference: Label of the arm with which the others are compared.
    """

    out: Path
    config: StudyConfig
    runs: dict[str, list[Path]]
    results: dict[str, list[Results]]
    reference: str

    @property
    def further_tables(self) -> dict[str, Path]:
        """{label of `against`: the table of the differences from it}."""
        return {label: self.out / f"table-minus-{label}.md" for label in self.config.against}

    @property
    def drop_table(self) -> Path:
        """The table of each subset minus all modalities; it is there only where some case has them all."""
        return self.out / "table-drop.md"


def load_study(path: Path) -> StudyConfig:
    """Reads and validates a study; the cohort's path becomes absolute.

    Raises:
        ConfigError: A key, a method, a label or the reference is wrong.
    """
    config = validated(StudyConfig, read_yaml(path, "study"), "study")
    labels = [arm.title for arm in config.methods]
    doubled = sorted({label for label in labels if labels.count(label) > 1})
    if doubled:
        do = "Give each arm its own label"
        raise ConfigError(message("study.methods", "have distinct labels", doubled[0], do=do))
    for label in labels:
        if not label.replace("-", "").replace("_", "").replace(".", "").isalnum() or label.startswith("."):
            raise ConfigError(
                message("study.methods.label", "be letters, digits, '-', '_' or '.'", repr(label), do="Rename the arm")
            )
    for key, named in (("reference", (config.reference,) if config.reference else ()), ("against", config.against)):
        for label in named:
            if label not in labels:
                raise ConfigError(message(f"study.{key}", "be a label", repr(label), do=nearest(label, labels)))
    for what, numbers in (("seeds", config.seeds), ("folds", config.folds or ())):
        if len(set(numbers)) < len(numbers):  # a run that counts twice would narrow every interval
            do = "Write each number once"
            raise ConfigError(message(f"study.{what}", "differ from each other", list(numbers), do=do))
    for where, given in (("study", config.training.model_fields_set), *((arm.title, arm.training) for arm in config.methods)):
        if "seed" in given:
            do = "Write it under `seeds`, which has one training for each"
            raise ConfigError(message(f"training.seed of {where}", "be left out of a study", "a seed", do=do))
    if config.folds is not None and config.splits.folds is None:
        do = f"Set splits.folds, for instance to {max(*config.folds, 1) + 1}"
        raise ConfigError(message("study.folds", "go with splits.folds, the number of parts", list(config.folds), do=do))
    if config.training.devices > 1 or any(arm.training.get("devices", 1) != 1 for arm in config.methods):
        do = "Train on several devices with comodal train, and compare with comodal report"
        raise ConfigError(
            message("study.training.devices", "be 1, since a study runs in one process", config.training.devices, do=do)
        )
    cohort = Path(config.cohort)
    return config.model_copy(update={"cohort": str(cohort if cohort.is_absolute() else path.resolve().parent / cohort)})


def arm_config(study: StudyConfig, arm: Arm, *, seed: int, fold: int | None, cache: Path) -> RunConfig:
    """The configuration of one run; all runs share one cache of prepared arrays."""
    data = {
        "cache": str(cache),
        **study.data.model_dump(mode="json", exclude={"cache"} if not study.data.cache else set()),
        **arm.data,
    }
    training = {**study.training.model_dump(mode="json"), **arm.training, "seed": seed}
    splits = study.splits.model_dump(mode="json") | ({} if fold is None else {"fold": fold})
    values = {
        "cohort": study.cohort,
        "method": {"name": arm.name, **arm.config},
        "data": data,
        "splits": splits,
        "training": training,
    }
    return validated(RunConfig, values, f"study arm {arm.title}").resolved()


def run_study(path: Path, out: Path, *, emit: Emit = silent) -> StudyResult:
    """Runs what has not been run yet; a run that was stopped goes on where it was.

    Args:
        path: study.yaml.
        out: Folder of the study.
        emit: Listener for progress and warnings.

    Returns:
        All results.

    Raises:
        ConfigError: A run of `out` is not what the study would make now: its settings, cohort or splits have changed.
    """
    study = load_study(path)
    folds: tuple[int | None, ...] = study.folds if study.folds is not None else (None,)
    plan = [(arm, fold, seed) for arm in study.methods for fold in folds for seed in study.seeds]
    cache = Path(os.path.abspath(out)) / "cache"
    configs = [arm_config(study, arm, seed=seed, fold=fold, cache=cache) for arm, fold, seed in plan]
    folders = [run_folder(out, arm.title, seed=seed, fold=fold) for arm, fold, seed in plan]
    _check_all(study, configs, folders)
    runs: dict[str, list[Path]] = {arm.title: [] for arm in study.methods}
    results: dict[str, list[Results]] = {arm.title: [] for arm in study.methods}
    for number, ((arm, _, _), config, folder) in enumerate(zip(plan, configs, folders, strict=True), start=1):
        emit(Said("info", f"run {number} of {len(plan)}: {folder.name}"))
        known = finished(Run.load(folder), study.split, study.subsets) if (folder / "config.yaml").is_file() else None
        if known is None:
            run = train_run(config, folder, resume=True, emit=emit)
            told = Path(config.data.cache) if config.data.cache else None
            device = config.training.device
            known = evaluate_run(run, split=study.split, subsets=study.subsets, device=device, cache=told, emit=emit)
        runs[arm.title].append(folder)
        results[arm.title].append(known.model_copy(update={"method": arm.title}))
    return StudyResult(out, study, runs, results, study.reference or study.methods[0].title)


def _check_all(study: StudyConfig, configs: Sequence[RunConfig], folders: Sequence[Path]) -> None:
    """Finds the mistakes of every arm, and the runs that the study did not make, before the first training."""
    cohort = Cohort.load(Path(study.cohort))
    checked = []
    for config in configs:
        bare = config.model_copy(update={"training": config.training.model_copy(update={"seed": 0})})
        if bare not in checked:
            checked.append(bare)
            check_training(config, *divided(cohort, config.splits, config.data.withhold), vocabulary=SOME_WORDS)
    for config, folder in zip(configs, folders, strict=True):
        check_existing(folder, config, cohort)
