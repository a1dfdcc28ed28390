"""The configuration of a run: one validated schema that data, training and the run folder share.

A YAML file fills it, `--set training.seed=3` overrides the file, unknown keys are errors, and the resolved whole is written
into the run before the first step. It lies below `run` and above everything that it configures.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from comodal.data.balancing import class_counts
from comodal.data.cohort import Cohort
from comodal.data.normalisation import PreprocessingConfig, Spacing
from comodal.data.sentences import KEPT_SENTENCES, KEPT_TOKENS
from comodal.data.sources import with_sizes
from comodal.data.splits import SplitConfig
from comodal.data.stored import Form
from comodal.errors import ConfigError, message, nearest, short
from comodal.method import Method, MethodConfig, Problem
from comodal.methods import METHODS, load_method
from comodal.modality import Modality, Target, only_regions
from comodal.networks.texts import TextConfig, is_published

MAX_CONFIG_BYTES = 1_000_000

M = TypeVar("M", bound=BaseModel)
T = TypeVar("T", Modality, Target)


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class DataConfig(_Section):
    """What the networks see."""

    modalities: tuple[str, ...] | None = Field(None, description="which modalities, null for all of the cohort")
    targets: tuple[str, ...] | None = Field(None, description="which targets, null for all of the cohort")
    regions: tuple[str, ...] | None = Field(None, description="which regions of the segmentation targets, null for all")
    withhold: dict[str, Annotated[float, Field(ge=0, lt=1)]] = Field(
        {}, description="{modality or target: share of the training patients from whom it is withheld}"
    )
    spatial_dims: Literal[2, 3] = Field(3, description="2 trains on slices, 3 on volumes")
    patch: tuple[int, ...] | dict[str, tuple[int, ...]] = Field(
        (), description="size of a training patch in voxels, or {grid: size}; empty where nothing is an image"
    )
    spacing: Spacing | dict[str, Spacing] = Field("native", description="voxel size in mm, or {grid: size}")
    normalise: Literal["auto"] | dict[str, str] = Field(
        "auto", description="per modality: zscore, zscore-nonzero, hemis, hemis-n4, ct, unit, signed, imagenet, none"
    )
    resize: tuple[int, ...] | dict[str, tuple[int, ...]] | None = Field(
        None, description="pictures are resized to this many pixels, or {grid: pixels}; null crops or pads"
    )
    augment: Literal["nnunet", "none"] = Field("nnunet", description="nnU-Net's list of augmentations, or none")
    draws_per_case: int = Field(8, ge=1, description="patches or slices drawn from each case in an epoch")
    tokenizer: str = Field(
        "auto",
        description="of reports: words of the training reports, a folder or owner/name on the hub; auto is that of a published "
        "method.text, else words",
    )
    max_sentences: int = Field(KEPT_SENTENCES, ge=1, description="sentences kept of a report")
    max_tokens: int = Field(KEPT_TOKENS, ge=2, description="tokens kept of a sentence, its start token included")
    cache: str | None = Field(None, description="folder of preprocessed arrays; null is the run's own folder")
    cache_form: Form = Field(
        "auto", description="npy maps files, blosc2 packs them, auto packs what is large; all give the same"
    )

    @field_validator("withhold", mode="before")
    @classmethod
    def _none(cls, value: Any) -> Any:
        return {} if value is None else value

    def preprocessing(self) -> PreprocessingConfig:
        """The part that `Preparer` needs."""
        return PreprocessingConfig.model_validate({"spacing": self.spacing, "normalise": self.normalise, "resize": self.resize})


class TrainingConfig(_Section):
    """How the loop runs, whatever the method."""

    seed: int = Field(0, ge=0, description="of weights, draws, augmentation and dropout")
    batch_size: int = Field(4, ge=1, description="cases or patches per step, over all processes together")
    precision: Literal["32-true", "bf16-mixed"] = Field("32-true", description="bf16-mixed is faster on GPUs and newer CPUs")
    device: Literal["auto", "cpu", "cuda"] = Field("auto", description="auto takes a GPU where there is one")
    devices: int = Field(1, ge=1, description="processes (DDP where more than one)")
    threads: int | None = Field(None, ge=1, description="torch threads; null leaves torch's own choice")
    clip: float | None = Field(12.0, gt=0, description="largest gradient norm, 12 as in nnU-Net; null does not clip")
    validations: int = Field(10, ge=0, description="validations per stage, evenly spaced; 0 keeps the last weights")
    validate_on: Literal["complete", "subsets"] = Field(
        "complete", description="choose weights by cases with all they have, or by the mean over all subsets"
    )
    overlap: float = Field(0.5, ge=0, lt=1, description="overlap of sliding windows")
    workers: int = Field(0, ge=0, description="processes that load data; 0 loads in the training process")
    checkpoint_steps: int = Field(200, ge=1, description="steps between two checkpoints for --resume")
    tensorboard: bool = Field(False, description="also write TensorBoard files (extra 'tensorboard')")


class RunConfig(_Section):
    """Everything that a run is."""

    cohort: str = Field(description="cohort.csv, relative to this file")
    method: dict[str, Any] = Field(description="name, and the method's own keys")
    data: DataConfig = DataConfig()
    splits: SplitConfig = SplitConfig()
    training: TrainingConfig = TrainingConfig()

    @property
    def method_name(self) -> str:
        """Key of METHODS."""
        return str(self.method.get("name", ""))

    def method_class(self) -> type[Method]:
        """Class of the method; only names of METHODS are imported."""
        return load_method(self.method_name)

    def method_config(self) -> MethodConfig:
        """The method's own validated configuration."""
        values = {key: value for key, value in self.method.items() if key != "name"}
        return validated(self.method_class().Config, values, "method")

    @property
    def tokenizer(self) -> str:
        """Where the tokenizer comes from: "words", or the source of a published one."""
        if self.data.tokenizer != "auto":
            return self.data.tokenizer
        method = self.method_config()
        return method.text if isinstance(method, TextConfig) and is_published(method) else "words"

    def resolved(self, *, look: bool = True) -> RunConfig:
        """The same with every default of the method written out, and the sizes of a published encoder of reports.

        Args:
            look: Whether its files may be looked for; a run has these sizes in its configuration.

        Raises:
            ConfigError: A value that cannot be, or a published encoder that is not there or has another tokenizer.
        """
        method = self.method_config()
        if isinstance(method, TextConfig):
            method = with_sizes(method, look=look)
            if is_published(method) and self.data.tokenizer == "words":
                rule, do = (
                    "be that of a published method.text, whose vectors belong to its ids",
                    "Leave it out, or set it to auto",
                )
                raise ConfigError(message("data.tokenizer", rule, "words", do=do))
        return self.model_copy(update={"method": {"name": self.method_name, **method.model_dump(mode="json")}})

    def to_yaml(self) -> str:
        """The whole as YAML."""
        text: str = yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False, allow_unicode=True)
        return text


def validated(model: type[M], values: Any, where: str) -> M:
    """Validates plain values; every mistake becomes one message that names key, rule and value.

    Args:
        model: The schema.
        values: What was read.
        where: Prefix of the keys in messages, e.g. "method" or "config".

    Raises:
        ConfigError: With all mistakes, one per line.
    """
    try:
        return model.model_validate(values)
    except ValidationError as error:
        lines = [_explain(model, item, where) for item in error.errors()]
        raise ConfigError("\n".join(lines)) from None


def _explain(model: type[BaseModel], item: Mapping[str, Any], where: str) -> str:
    path = [str(part) for part in item["loc"]]
    owner = ".".join([where, *path])
    got = short(item.get("input"))
    if item["type"] == "extra_forbidden":
        fields = _fields(model, path[:-1])
        return message(owner, "be a known key", repr(path[-1]), do=nearest(path[-1], fields))
    if item["type"] == "missing":
        return message(owner, "be given", "nothing", do=f"Add the key {path[-1]}")
    if item["type"] in ("model_type", "dict_type"):
        return message(owner, "be a mapping of keys", got, do=f"Correct {owner}")
    if item["type"] == "tuple_type" and isinstance(item.get("input"), str):
        return message(owner, f"be a list, for instance [{item['input']}]"[:100], got, do=f"Correct {owner}")
    if item["type"] == "value_error":  # a validator of ours: "<field> must <rule>; got <value>", or "must <rule>"
        said = str(item["msg"]).removeprefix("Value error, ")
        field, _, rest = said.rpartition("must ") if said.startswith("must ") else said.partition(" must ")
        rule, _, value = (rest or said).partition("; got ")
        owner = f"{owner}.{field}" if field else owner
        return message(owner, rule, value or got, do=f"Correct {owner}")
    rule = str(item["msg"]).lower().removeprefix("input should ")
    return message(owner, rule, got, do=f"Correct {owner}")


def _fields(model: type[BaseModel], path: Sequence[str]) -> list[str]:
    for part in path:
        inner = model.model_fields[part].annotation if part in model.model_fields else None
        if not (isinstance(inner, type) and issubclass(inner, BaseModel)):
            return []
        model = inner
    return list(model.model_fields)


def read_yaml(path: Path, what: str) -> Any:
    """Plain values of a YAML file; tags, damage, excessive depth and size are refused.

    Raises:
        ConfigError: The file is missing or not plain YAML.
    """
    if not path.is_file():
        raise ConfigError(message(what, "be a file that exists", path.name, file=str(path), do="Check the path"))
    if path.stat().st_size > MAX_CONFIG_BYTES:
        raise ConfigError(message(what, f"be smaller than {MAX_CONFIG_BYTES} bytes", path.stat().st_size, do="Check the file"))
    try:
        return yaml.safe_load(path.read_text(encoding="utf-8-sig"))
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ConfigError(message(what, "be plain YAML", reason, file=str(path), do="Correct the file")) from None


def apply_overrides(values: dict[str, Any], overrides: Sequence[str]) -> dict[str, Any]:
    """Applies "a.b=c" to nested plain values; c is read as YAML.

    >>> apply_overrides({"training": {"seed": 0}}, ["training.seed=3"])
    {'training': {'seed': 3}}
    """
    for item in overrides:
        key, sign, text = item.partition("=")
        if not sign or not key:
            raise ConfigError(message("--set", "be of the form a.b=value", repr(item), do="For instance --set training.seed=3"))
        try:
            value = yaml.safe_load(text)
        except yaml.YAMLError:
            raise ConfigError(message(f"--set {key}", "have a plain YAML value", repr(text), do="Quote the value")) from None
        at = values
        *parents, last = key.split(".")
        for part in parents:
            at = at.setdefault(part, {})
            if not isinstance(at, dict):
                raise ConfigError(message(f"--set {key}", "name a key", repr(part), do=f"{part} has no keys below it"))
        at[last] = value
    return values


def load_config(path: Path, overrides: Sequence[str] = ()) -> RunConfig:
    """Reads, overrides, validates and resolves a configuration; the cohort's path becomes absolute.

    Raises:
        ConfigError: For every mistake at once, with the nearest known key.
    """
    values = read_yaml(path, "config")
    if not isinstance(values, dict):
        raise ConfigError(
            message("config", "be a mapping of keys", type(values).__name__, file=str(path), do="Start from comodal init")
        )
    values = {key: value for key, value in values.items() if value is not None}  # an empty section has its defaults
    config = validated(RunConfig, apply_overrides(values, overrides), "config")
    cohort = Path(config.cohort)
    absolute = cohort if cohort.is_absolute() else path.resolve().parent / cohort
    return config.model_copy(update={"cohort": str(absolute)}).resolved()


def choose(have: Sequence[T], wanted: Sequence[str] | None, what: str) -> tuple[T, ...]:
    """The items of these names in the cohort's order; an unknown name is refused with the nearest known ones."""
    names = [item.name for item in have]
    if wanted is not None and not wanted:
        raise ConfigError(message(what, "name at least one", "none", do=nearest("", names)))
    for name in wanted or ():
        if name not in names:
            raise ConfigError(message(what, "name columns of the cohort", repr(name), do=nearest(name, names)))
    return tuple(item for item in have if wanted is None or item.name in wanted)


def choose_targets(have: Sequence[Target], data: DataConfig) -> tuple[Target, ...]:
    """The targets of `data.targets` with the regions of `data.regions`; unknown names are refused with the nearest known.

    A target that is not named there, and none of whose regions is, is left out; one that is named is asked for.
    """
    chosen = choose(have, data.targets, "data.targets")
    known = list(dict.fromkeys(name for target in chosen if target.kind == "regions" for name in target.classes))
    if data.regions is not None and not data.regions:
        raise ConfigError(message("data.regions", "name at least one", "none", do=nearest("", known)))
    for name in data.regions or ():
        if name not in known:
            do = nearest(name, known) if known else "Leave data.regions out: these targets have no regions"
            raise ConfigError(message("data.regions", "name regions of the cohort's targets", repr(name), do=do))
    found = only_regions(chosen, data.regions)
    for target in chosen if data.targets is not None else ():
        if target.name not in {one.name for one in found}:
            rule, got = f"name a region of the target {target.name} of data.targets", ", ".join(data.regions or ())
            do = f"Add one of {', '.join(target.classes)}, or leave {target.name} out of data.targets"
            raise ConfigError(message("data.regions", rule, got, do=do))
    return found


def build_problem(
    config: RunConfig, cohort: Cohort, vocabulary: int = 0, *, words: Sequence[str] = (), train: Sequence[str] = ()
) -> Problem:
    """What the method is built for: the chosen modalities, targets and regions of the cohort, at the chosen patches.

    Args:
        config: Resolved.
        cohort: Has the columns.
        vocabulary: Number of token ids; 0 without texts.
        words: Of the tokenizer, see `Problem.words`.
        train: Ids of the training cases, whose classes are counted; none where they are not known yet.

    Returns:
        The problem; its `spatial_dims` are 2 where every image is a picture.

    Raises:
        ConfigError: An unknown name, a patch of the wrong length, or a grid of images without one.
    """
    data = config.data
    chosen = choose(cohort.modalities, data.modalities, "data.modalities")
    images = [m.grid for m in cohort.modalities if m.kind == "image"]
    tiles = [m.grid for m in cohort.modalities if m.kind == "bag" and m.spatial_dims == 2]
    for key in ("patch", "spacing", "resize"):
        grids = [*images, *tiles] if key == "resize" else images  # the items of a bag can be resized, and that is all
        for name in value if isinstance(value := getattr(data, key), dict) else ():
            if name not in grids:
                do = nearest(name, grids)
                raise ConfigError(message(f"data.{key}", "name grids of images of the cohort", repr(name), do=do))
    flat = all(m.spatial_dims == 2 for m in chosen if m.kind == "image") and any(m.kind == "image" for m in chosen)
    targets = choose_targets(cohort.targets, data)
    problem = Problem(
        modalities=chosen,
        targets=targets,
        spatial_dims=2 if flat else data.spatial_dims,
        patch=() if isinstance(data.patch, dict) else data.patch,
        vocabulary=vocabulary,
        patches=data.patch if isinstance(data.patch, dict) else {},
        words=tuple(words),
        counts=class_counts(cohort, train, targets) if train else {},
    )
    for modality in problem.modalities:
        problem.patch_of(modality.name)  # each image has one
    return problem


def build_method(config: RunConfig, problem: Problem) -> Method:
    """The method, with weights from torch's present seed.

    Raises:
        ConfigError: The method cannot do this problem.
    """
    tasks = METHODS[config.method_name].tasks  # asked before: a network without outputs cannot even be built
    if problem.task not in tasks:
        raise ConfigError(message(f"method {config.method_name}", f"be for {problem.task}", tasks, do="See comodal methods"))
    method = config.method_class()(problem, config.method_config())
    needs = method.requires
    kinds = {m.kind for m in problem.modalities}
    if problem.task not in needs.tasks:
        raise ConfigError(
            message(f"method {config.method_name}", f"be for {problem.task}", needs.tasks, do="See comodal methods")
        )
    if not kinds <= set(needs.kinds):
        odd = ", ".join(m.name for m in problem.modalities if m.kind not in needs.kinds)
        do = f"Leave {odd} out of data.modalities or choose another method"
        raise ConfigError(message(f"method {config.method_name}", f"be able to read {sorted(kinds)}", needs.kinds, do=do))
    for image in problem.modalities:
        if image.kind == "image" and problem.dims_of(image.name) not in needs.spatial_dims:
            rule, got = f"be able to see it in {problem.dims_of(image.name)}-D", needs.spatial_dims
            do = "Change data.spatial_dims, or leave it out of data.modalities"
            raise ConfigError(message(f"method {config.method_name}", rule, got, modality=image.name, do=do))
    missing = [name for name in needs.at_training or () if name not in problem.names]
    if missing:
        raise ConfigError(
            message(f"method {config.method_name}", "get the modalities it needs", f"no {missing}", do="Add them")
        )
    return method
