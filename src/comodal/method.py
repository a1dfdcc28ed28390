"""The contract: what a method says about itself, what it is built for, and the three things it does.

A `Method` is a network with its losses. It never loads data, logs, picks a device, builds an optimiser, writes or draws; what
is trained when, by which optimiser and on which cases is data (`stages()`), so that thirty methods share one loop and stay
comparable. `comodal.testing.check_method` asserts what is promised here.

Axis letters: see `comodal.batch`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn

from comodal.batch import Batch, Features
from comodal.errors import ConfigError, UnsupportedSubset, message, nearest
from comodal.modality import Modality, Target, subset_name, subsets

Task = Literal["segmentation", "classification"]


@dataclass(frozen=True)
class Citation:
    """Where a method comes from. `identifier` is a DOI or an arXiv number; empty for a common practice."""

    authors: str
    title: str
    year: int
    venue: str = ""
    identifier: str = ""

    def __str__(self) -> str:
        tail = ", ".join(part for part in (self.venue, self.identifier) if part)
        return f"{self.authors} ({self.year}). {self.title}." + (f" {tail}." if tail else "")


@dataclass(frozen=True)
class Problem:
    """What a method is built for.

    Attributes:
        modalities: In canonical order.
        targets: What is predicted.
        spatial_dims: 2 (slices or photographs) or 3 (volumes); what the networks see, not what the files are.
        patch: Size of a training patch in voxels, length `spatial_dims`; empty where no modality is an image.
        vocabulary: Number of token ids where a modality is text, 0 otherwise.
    """

    modalities: tuple[Modality, ...]
    targets: tuple[Target, ...]
    spatial_dims: int = 3
    patch: tuple[int, ...] = ()
    vocabulary: int = 0

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the modalities in canonical order."""
        return tuple(m.name for m in self.modalities)

    def modality(self, name: str) -> Modality:
        """The modality of this name; an unknown one is refused with the nearest known ones."""
        for modality in self.modalities:
            if modality.name == name:
                return modality
        raise ConfigError(message("modality", "be one of the problem", repr(name), do=nearest(name, self.names)))

    def target(self, name: str) -> Target:
        """The target of this name; an unknown one is refused with the nearest known ones."""
        for target in self.targets:
            if target.name == name:
                return target
        raise ConfigError(
            message("target", "be one of the problem", repr(name), do=nearest(name, [t.name for t in self.targets]))
        )

    @property
    def task(self) -> Task:
        """Either "segmentation", where every voxel is predicted, or "classification"."""
        return "segmentation" if any(t.is_segmentation for t in self.targets) else "classification"

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON or YAML; `from_dict` is the way back."""
        return asdict(self)

    @staticmethod
    def from_dict(data: Mapping[str, Any]) -> Problem:
        """The way back from `to_dict`."""
        targets = []
        for item in data["targets"]:
            codes = tuple(tuple(code) for code in item["codes"])
            targets.append(Target(item["name"], item["kind"], tuple(item["classes"]), codes, tuple(item["paint"])))
        return Problem(
            modalities=tuple(Modality(**item) for item in data["modalities"]),
            targets=tuple(targets),
            spatial_dims=data["spatial_dims"],
            patch=tuple(data["patch"]),
            vocabulary=data["vocabulary"],
        )


@dataclass(frozen=True)
class Requirements:
    """What an instance needs. None means any.

    Attributes:
        tasks: What it can be trained for.
        kinds: Kinds of modality that it reads.
        spatial_dims: Which of 2 and 3 its image networks exist for.
        at_training: Modalities that the training set must have somewhere.
        at_test: Modalities without which it cannot predict at all.
    """

    tasks: tuple[Task, ...]
    kinds: tuple[str, ...] = ("image",)
    spatial_dims: tuple[int, ...] = (2, 3)
    at_training: tuple[str, ...] | None = None
    at_test: tuple[str, ...] | None = None


@dataclass(frozen=True)
class Optimiser:
    """How the parameters under one prefix are stepped.

    Attributes:
        name: Adam, AdamW or SGD with Nesterov momentum 0.99, as in nnU-Net.
        rate: Learning rate at its highest.
        weight_decay: L2 for Adam and SGD, decoupled for AdamW.
        schedule: "poly" is (1 - t/T)^0.9, "cosine" ends at zero, "constant" stays.
        warmup: Fraction of the stage's steps over which the rate climbs linearly from zero.
    """

    name: Literal["adam", "adamw", "sgd"] = "adam"
    rate: float = 1e-3
    weight_decay: float = 0.0
    schedule: Literal["poly", "cosine", "constant"] = "constant"
    warmup: float = 0.0


@dataclass(frozen=True)
class Monitor:
    """What decides when a stage has learned enough; computed on validation subjects only.

    Attributes:
        metric: "loss", or a metric of the evaluation averaged over targets: "DSC", "AUROC", "balanced_accuracy".
        mode: Whether more is better.
        patience: Stop after this many validations without a gain; None never stops early.
    """

    metric: str = "loss"
    mode: Literal["min", "max"] = "min"
    patience: int | None = None


@dataclass(frozen=True)
class Stage:
    """One piece of training: which parameters, by which optimisers, on which cases.

    Attributes:
        name: Unique within the method.
        train: Parameter prefixes that are stepped ("" is all). Everything else is frozen and runs in eval mode.
        optimisers: {prefix: how}; the longest matching prefix wins; every trained parameter must have one.
        modalities: Cases must have all of these to take part.
        targets: Cases must have all of these to take part; None asks for any one, () for none (learning without labels).
        inputs: "raw", or "encoded": each case is encoded once by `Method.encode` and its features are the inputs.
        augment: Whether samples are augmented; never for encoded inputs.
        sampler: "uniform": each case equally often and patches anywhere; "foreground": a third of the patches lie on a
            target region, as in nnU-Net.
        epochs, steps: How long; exactly one of them. With `steps` an epoch is only the interval of validation.
        batch_size: None takes the training's.
        monitor: None trains to the end and keeps the last weights; otherwise the best ones are kept.
    """

    name: str
    train: tuple[str, ...] = ("",)
    optimisers: Mapping[str, Optimiser] = field(default_factory=lambda: {"": Optimiser()})
    modalities: tuple[str, ...] = ()
    targets: tuple[str, ...] | None = None
    inputs: Literal["raw", "encoded"] = "raw"
    augment: bool = True
    sampler: Literal["uniform", "foreground"] = "uniform"
    epochs: int | None = None
    steps: int | None = None
    batch_size: int | None = None
    monitor: Monitor | None = None

    def __post_init__(self) -> None:
        if (self.epochs is None) == (self.steps is None):
            raise ConfigError(
                message(f"Stage {self.name}", "have either epochs or steps", (self.epochs, self.steps), do="Set one of them")
            )
        if self.inputs == "encoded" and self.augment:
            raise ConfigError(
                message(f"Stage {self.name}", "not augment encoded inputs", "augment=True", do="Set augment=False")
            )

    def trains(self, parameter: str) -> bool:
        """Whether the parameter of this full name is stepped in this stage."""
        return any(_under(parameter, prefix) for prefix in self.train)

    def optimiser_of(self, parameter: str) -> str:
        """The prefix whose optimiser steps this parameter: the longest that matches."""
        matches = [prefix for prefix in self.optimisers if _under(parameter, prefix)]
        if not matches:
            raise ConfigError(
                message(
                    f"Stage {self.name}", "have an optimiser for every trained parameter", parameter, do='Add the prefix ""'
                )
            )
        return max(matches, key=len)


def _under(parameter: str, prefix: str) -> bool:
    return not prefix or parameter == prefix or parameter.startswith(prefix + ".")


@dataclass(frozen=True)
class Prediction:
    """What a method says about a batch.

    Attributes:
        probabilities: {target: (B, K, *spatial) or (B, K)} float in [0, 1]. "regions" and "multilabel": independent;
            "labels", "class" and "ordinal": they sum to one over K.
        used: (B, M) bool: the modalities on which each row rests; a subset of `present`.
        extras: Further tensors by name, batch axis first (an uncertainty map, an embedding).
    """

    probabilities: Mapping[str, Tensor]
    used: Tensor
    extras: Mapping[str, Tensor] = field(default_factory=dict)


class MethodConfig(BaseModel):
    """Base of every method's configuration: frozen, and unknown keys are errors. Defaults are the paper's values."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class OneStageConfig(MethodConfig):
    """Settings that every method trained in one stage has. Rates suit short trainings; a paper's own go into the subclass."""

    optimiser: Literal["adam", "adamw", "sgd"] = Field("adamw", description="AdamW learns within minutes; sgd is nnU-Net's own")
    rate: float = Field(1e-3, gt=0, description="highest learning rate")
    weight_decay: float = Field(3e-5, ge=0, description="as in nnU-Net")
    schedule: Literal["poly", "cosine", "constant"] = Field("poly", description="falls as (1 - t)^0.9, as in nnU-Net")
    warmup: float = Field(0.0, ge=0, lt=1, description="fraction of the steps over which the rate climbs")
    steps: int = Field(2000, ge=1, description="optimiser steps")
    patience: int | None = Field(None, ge=1, description="validations without a gain before stopping; null never stops early")

    def optimisation(self) -> Optimiser:
        """These settings as an `Optimiser`."""
        return Optimiser(self.optimiser, self.rate, self.weight_decay, self.schedule, self.warmup)


class Method(nn.Module):
    """A network with its losses. Subclasses set `Config` and `paper` and build everything in `__init__`.

    Args:
        problem: What it is built for.
        config: An instance of the class's `Config`.
    """

    Config: ClassVar[type[MethodConfig]] = MethodConfig
    paper: ClassVar[Citation]

    def __init__(self, problem: Problem, config: MethodConfig) -> None:
        super().__init__()
        self.problem = problem
        self.config = config

    @property
    def requires(self) -> Requirements:
        """What this instance needs at training and at test."""
        raise NotImplementedError(f"{type(self).__name__}.requires must be a property that returns Requirements.")

    def supports(self, subset: Iterable[str]) -> bool:
        """Whether `predict` works from exactly these modalities. By default any non-empty set that has all of `at_test`."""
        have = set(subset)
        return bool(have) and have <= set(self.problem.names) and have >= set(self.requires.at_test or ())

    def stages(self) -> tuple[Stage, ...]:
        """What is trained, in order."""
        raise NotImplementedError(f"{type(self).__name__}.stages must return at least one Stage.")

    def enter(self, stage: Stage) -> None:
        """Freezes what the stage does not train; wholly frozen parts go into eval mode, everything else into training mode."""
        for name, parameter in self.named_parameters():
            parameter.requires_grad_(stage.trains(name))
        self.train()
        for module in self.modules():
            own = list(module.parameters())
            if own and not any(p.requires_grad for p in own):
                module.eval()

    def losses(self, batch: Batch, stage: Stage) -> dict[str, Tensor]:
        """Loss terms, already weighted; their sum is minimised.

        Args:
            batch: Training cases; `inputs` are encodings where `stage.inputs` is "encoded".
            stage: One of `stages()`.

        Returns:
            {term: scalar}.
        """
        raise NotImplementedError(f"{type(self).__name__}.losses must return {{term: scalar}}.")

    def predict(self, batch: Batch) -> Prediction:
        """Probabilities from whatever each row has.

        Raises:
            UnsupportedSubset: A row has a subset from which this method cannot predict.
        """
        raise NotImplementedError(f"{type(self).__name__}.predict must return a Prediction.")

    @property
    def encodes(self) -> bool:
        """Whether `encode` and `decode` exist, so that all subsets cost one encoding."""
        return type(self).encode is not Method.encode

    def encode(self, batch: Batch) -> dict[str, Features]:
        """Features of each modality, from that modality alone.

        Inference and cached stages call it with one modality present at a time, also where `predict` would refuse so few.

        Args:
            batch: Any non-empty subset present.

        Returns:
            {modality: features (B, ...)} of each modality present in some row; absent rows are unspecified.
        """
        raise NotImplementedError(f"{type(self).__name__} has no encode; ask `encodes` first.")

    def decode(self, features: Mapping[str, Features], present: Tensor) -> Prediction:
        """`predict(batch) == decode(encode(batch), batch.present)`. `features` may lack modalities that no row has."""
        raise NotImplementedError(f"{type(self).__name__} has no decode; ask `encodes` first.")

    def require_support(self, present: Tensor) -> None:
        """Refuses rows from whose modalities this method cannot predict; the message names what would do.

        Args:
            present: (B, M) bool.

        Raises:
            UnsupportedSubset: For the first such row.
        """
        for bits in dict.fromkeys(tuple(row) for row in present.tolist()):
            subset = tuple(name for name, bit in zip(self.problem.names, bits, strict=True) if bit)
            if not self.supports(subset):
                can = [subset_name(s) for s in subsets(self.problem.names) if self.supports(s)]
                raise UnsupportedSubset(
                    message(
                        type(self).__name__,
                        f"get a subset of modalities from which it can predict ({', '.join(can)})",
                        subset_name(subset) or "nothing",
                        do="Give one of these subsets",
                    )
                )
