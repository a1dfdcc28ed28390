"""`comodal study`: trains and evaluates methods x seeds x folds x divisions one after the other, and goes on where it stopped.

An arm may be the runs of another one, seen through other settings at test: it is evaluated and not trained.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from comodal.config import DataConfig, RunConfig, TrainingConfig, build_method, build_problem, read_yaml, validated
from comodal.data.cohort import Cohort
from comodal.data.splits import SplitConfig, splits_hash
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
    """One method of a study, or another arm's runs under other settings at test.

    Attributes:
        name: Key of METHODS; left out with `of`.
        label: How tables call it; the name by default.
        of: Label of the arm whose trained runs it is: it is not trained, and `config` has keys of `MethodConfig.at_test` alone.
        config: The method's own keys.
        data, training: What this arm has otherwise than the study, merged over the study's sections.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = ""
    label: str = ""
    of: str = ""
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
        divisions: Seeds of the division into splits or folds, each in the place of `splits.seed`: repeated random splits, or
            repeated cross-validation. Null keeps the one of `splits.seed`.
        split: Which part is evaluated.
        subsets: "all" evaluates every subset of the modalities, "complete" all modalities together alone.
        data, splits, training: As in a run's configuration; the seeds and the fold of each run are put in.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    cohort: str
    methods: tuple[Arm, ...] = Field(min_length=1)
    reference: str = ""
    against: tuple[str, ...] = ()
    seeds: tuple[int, ...] = Field((0,), min_length=1)
    folds: tuple[int, ...] | None = Field(None, min_length=1)
    divisions: tuple[int, ...] | None = Field(None, min_length=1)
    split: Literal["train", "val", "test", "all"] = "test"
    subsets: Literal["all", "complete"] = "all"
    data: DataConfig = DataConfig()
    splits: SplitConfig = SplitConfig()
    training: TrainingConfig = TrainingConfig()

    @property
    def labels(self) -> list[str]:
        """Of the arms, in order."""
        return [arm.title for arm in self.methods]

    def whole(self, arm: Arm) -> Arm:
        """An arm with everything that it is run with: of one that is another's runs, that one's name and settings as well."""
        if not arm.of:
            return arm
        other = self.methods[self.labels.index(arm.of)]
        return other.model_copy(update={"label": arm.title, "config": {**other.config, **arm.config}})


@dataclass(frozen=True)
class StudyResult:
    """What a study found.

    Attributes:
        out: Its folder.
        config: What was run.
        runs: {label: run folders}, divisions, folds and seeds in order; those of an arm with `of` are the other arm's.
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

    @property
    def test_table(self) -> Path:
        """The table of paired tests of classes; it is there only where classes are predicted, by several arms."""
        return self.out / "table-tests.md"

    @property
    def class_table(self) -> Path:
        """The table of the areas of single classes, with their positives and negatives; only where classes are predicted."""
        return self.out / "table-classes.md"


def load_study(path: Path) -> StudyConfig:
    """Reads and validates a study; the cohort's path becomes absolute.

    Raises:
        ConfigError: A key, a method, a label or the reference is wrong.
    """
    config = validated(StudyConfig, read_yaml(path, "study"), "study")
    _check_labels(config)
    for arm in config.methods:
        _check_of(config, arm)
    _check_repetitions(config)
    if config.training.devices > 1 or any(arm.training.get("devices", 1) != 1 for arm in config.methods):
        do = "Train on several devices with comodal train, and compare with comodal report"
        raise ConfigError(
            message("study.training.devices", "be 1, since a study runs in one process", config.training.devices, do=do)
        )
    cohort = Path(config.cohort)
    return config.model_copy(update={"cohort": str(cohort if cohort.is_absolute() else path.resolve().parent / cohort)})


def _check_labels(config: StudyConfig) -> None:
    labels = config.labels
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


def _check_of(config: StudyConfig, arm: Arm) -> None:
    """An arm is trained, or names the arm whose runs it is, and what is set otherwise there."""
    owner, trained = f"study arm {arm.title}", [one.title for one in config.methods if not one.of]
    if not arm.of and not arm.name:
        raise ConfigError(message(owner, "have a name, or say of which arm it is", "neither", do="Add the key name"))
    if not arm.of:
        return
    if arm.name or arm.data or arm.training:
        odd = next(key for key in ("name", "data", "training") if getattr(arm, key))
        do = f"Leave {odd} out: it is that of {arm.of}"
        raise ConfigError(message(owner, "have of, label and config alone, as it is not trained", odd, do=do))
    if arm.of not in trained:
        rule = "be of an arm that is trained"
        raise ConfigError(message(owner, rule, repr(arm.of), do=nearest(arm.of, trained)))
    if not arm.config:
        do = f"Write what is set otherwise than in {arm.of}, for instance config: {{read_out: inferior}}"
        raise ConfigError(message(f"{owner}: config", "set something", "nothing", do=do))


def _check_repetitions(config: StudyConfig) -> None:
    """Seeds, folds and divisions."""
    for what, numbers in (("seeds", config.seeds), ("folds", config.folds or ()), ("divisions", config.divisions or ())):
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
    if config.divisions is not None and "seed" in config.splits.model_fields_set:
        rule, do = "be left out beside study.divisions, which has one division for each", "Write it under `divisions`"
        raise ConfigError(message("splits.seed", rule, config.splits.seed, do=do))


def arm_config(
    study: StudyConfig, arm: Arm, *, seed: int, fold: int | None, cache: Path, division: int | None = None, look: bool = True
) -> RunConfig:
    """The configuration of one run; all runs share one cache of prepared arrays.

    Args:
        study: Has the arm.
        arm: Of which a run is made.
        seed: Of the training.
        fold: Number of the fold.
        cache: Folder of prepared arrays.
        division: Seed of the division.
        look: Whether files of a published encoder of reports may be looked for.
    """
    arm = study.whole(arm)
    data = {
        "cache": str(cache),
        **study.data.model_dump(mode="json", exclude={"cache"} if not study.data.cache else set()),
        **arm.data,
    }
    training = {**study.training.model_dump(mode="json"), **arm.training, "seed": seed}
    drawn = {key: number for key, number in (("fold", fold), ("seed", division)) if number is not None}
    values = {
        "cohort": study.cohort,
        "method": {"name": arm.name, **arm.config},
        "data": data,
        "splits": study.splits.model_dump(mode="json") | drawn,
        "training": training,
    }
    return validated(RunConfig, values, f"study arm {arm.title}").resolved(look=look)


@dataclass(frozen=True)
class _Step:
    """One run of one arm.

    Attributes:
        arm: As the study has it.
        config: Of the training.
        folder: Of the run.
        overrides: What `Run.at_test` gets, where the arm is another's runs.
        repetition: (division, fold, seed).
    """

    arm: Arm
    config: RunConfig
    folder: Path
    overrides: tuple[str, ...]
    repetition: tuple[int | None, int | None, int]


def _steps(study: StudyConfig, out: Path) -> list[_Step]:
    """Every run of every arm; those that are trained come first."""
    cache = Path(os.path.abspath(out)) / "cache"
    folds: tuple[int | None, ...] = study.folds if study.folds is not None else (None,)
    divisions: tuple[int | None, ...] = study.divisions if study.divisions is not None else (None,)
    by_label = {arm.title: arm for arm in study.methods}
    found = []
    for arm in sorted(study.methods, key=lambda one: bool(one.of)):
        source = by_label[arm.of] if arm.of else arm
        overrides = tuple(f"method.{key}={json.dumps(value)}" for key, value in arm.config.items()) if arm.of else ()
        for division, fold, seed in product(divisions, folds, study.seeds):
            config = arm_config(study, source, seed=seed, fold=fold, division=division, cache=cache)
            folder = run_folder(out, source.title, seed=seed, fold=fold, division=division)
            found.append(_Step(arm, config, folder, overrides, (division, fold, seed)))
    return found


def run_study(path: Path, out: Path, *, emit: Emit = silent) -> StudyResult:
    """Runs what has not been run yet; a run that was stopped goes on where it was.

    Args:
        path: study.yaml.
        out: Folder of the study.
        emit: Listener for progress and warnings.

    Returns:
        All results.

    Raises:
        ConfigError: A run of `out` is not what the study would make now: its settings, cohort or splits have changed. Or an arm
            that is another's runs sets what cannot be changed at test.
    """
    study = load_study(path)
    steps = _steps(study, out)
    _check_all(study, steps)
    total = sum(not step.arm.of for step in steps)
    runs: dict[str, list[Path]] = {label: [] for label in study.labels}
    results: dict[str, list[Results]] = {label: [] for label in study.labels}
    for number, step in enumerate(steps, start=1):
        if not step.arm.of:
            emit(Said("info", f"run {number} of {total}: {step.folder.name}"))
        known = _finished(study, step)
        if known is None:
            if step.arm.of:
                emit(Said("info", f"{step.arm.title}: {step.folder.name} with {', '.join(step.overrides)}"))
            config = step.config
            run = train_run(config, step.folder, resume=True, emit=emit).at_test(step.overrides)
            told = Path(config.data.cache) if config.data.cache else None
            device = config.training.device
            known = evaluate_run(run, split=study.split, subsets=study.subsets, device=device, cache=told, emit=emit)
        runs[step.arm.title].append(step.folder)
        results[step.arm.title].append(known.model_copy(update={"method": step.arm.title}))
    return StudyResult(out, study, runs, results, study.reference or study.labels[0])


def _finished(study: StudyConfig, step: _Step) -> Results | None:
    if not (step.folder / "config.yaml").is_file():
        return None
    return finished(Run.load(step.folder).at_test(step.overrides), study.split, study.subsets)


def _check_all(study: StudyConfig, steps: Sequence[_Step]) -> None:
    """Finds the mistakes of every arm, and the runs that the study did not make, before the first training."""
    cohort = Cohort.load(Path(study.cohort))
    checked: list[RunConfig] = []
    parts: dict[tuple[str, int | None, int], dict[int | None, str]] = {}
    for step in steps:
        config = step.config
        bare = config.model_copy(update={"training": config.training.model_copy(update={"seed": 0})})
        if bare in checked:
            continue
        checked.append(bare)
        now, splits = divided(cohort, config.splits, config.data.withhold)
        check_training(config, now, splits, vocabulary=SOME_WORDS)
        division, fold, seed = step.repetition
        parts.setdefault((step.arm.title, fold, seed), {})[division] = splits_hash(splits)
    _check_divisions(parts)
    for arm in (one for one in study.methods if one.of):
        _check_at_test(study, next(step for step in steps if step.arm == arm), cohort)
    for step in steps:
        if not step.arm.of:
            check_existing(step.folder, step.config, cohort)


def _check_divisions(parts: Mapping[tuple[str, int | None, int], Mapping[int | None, str]]) -> None:
    """Divisions that are all the same would count every run several times."""
    for by_division in parts.values():
        if len(by_division) > 1 and len(set(by_division.values())) == 1:
            do = "Leave it out where the cohort's column `split` decides, or set splits.column: false"
            got = f"one for {', '.join(map(str, by_division))}"
            raise ConfigError(message("study.divisions", "give several divisions of the cases", got, do=do))


def _check_at_test(study: StudyConfig, step: _Step, cohort: Cohort) -> None:
    """What an arm of another's runs sets must be free at test, and something that its method can do."""
    arm, owner = step.arm, f"study arm {step.arm.title}: config"
    free = sorted(step.config.method_class().Config.at_test)
    for key in arm.config:
        if key not in free:
            rule = f"name what {step.config.method_name} lets change once it is trained ({', '.join(free) or 'nothing'})"
            do = nearest(key, free) if free else "Train an arm of its own"
            raise ConfigError(message(owner, rule, repr(key), do=do))
    division, fold, seed = step.repetition
    asked = arm_config(study, arm, seed=seed, fold=fold, division=division, cache=Path("cache"))
    now, splits = divided(cohort, asked.splits, asked.data.withhold)
    build_method(asked, build_problem(asked, now, SOME_WORDS, train=splits["train"]))  # the method knows what needs weights
