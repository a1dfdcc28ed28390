"""Training as data: a `Stage` says what is trained, by which optimisers, on which cases, and what decides when it is enough."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from comodal.errors import ConfigError, message


@dataclass(frozen=True)
class Optimiser:
    """How the parameters under one prefix are stepped.

    Attributes:
        name: Adam, AdamW or SGD with Nesterov momentum.
        rate: Learning rate at its highest.
        weight_decay: L2 for Adam and SGD, decoupled for AdamW.
        schedule: "poly" is (1 - t/T)^0.9, "linear" 1 - t/T, "cosine" ends at zero, "constant" stays.
        warmup: Fraction of the stage's steps over which the rate climbs linearly from zero.
        momentum: Of SGD; 0.99 as in nnU-Net.
        spare_vectors: Whether parameters of at most one axis, which are biases and norms, do not decay.
    """

    name: Literal["adam", "adamw", "sgd"] = "adam"
    rate: float = 1e-3
    weight_decay: float = 0.0
    schedule: Literal["poly", "linear", "cosine", "constant"] = "constant"
    warmup: float = 0.0
    momentum: float = 0.99
    spare_vectors: bool = False


@dataclass(frozen=True)
class Monitor:
    """What decides when a stage has learned enough; computed on validation subjects only.

    Attributes:
        metric: "loss", or a metric of the evaluation averaged over targets: "DSC", "AUROC", "balanced_accuracy". The targets
            are those that the stage names, all where it names none.
        mode: Whether more is better.
        patience: Stop after this many validations without a gain; None never stops early.
        subsets: A stage that trains for some subsets of modalities is judged on cases seen through just these, by
            `Method.validate`; None does as `training.validate_on` says.
    """

    metric: str = "loss"
    mode: Literal["min", "max"] = "min"
    patience: int | None = None
    subsets: tuple[tuple[str, ...], ...] | None = None


@dataclass(frozen=True)
class Stage:
    """One piece of training: which parameters, by which optimisers, on which cases.

    Attributes:
        name: Unique within the method.
        train: Parameter prefixes that are stepped ("" is all). Everything else is frozen and runs in eval mode.
        optimisers: {prefix: how}; the longest matching prefix wins; every trained parameter must have one.
        modalities: Cases must have all of these to take part.
        one_of: Groups of modalities of each of which a case must have one to take part.
        targets: Cases must have all of these to take part; None asks for any one, () for none (learning without labels).
        reads: Modalities that it looks at; the files of others are not opened. None: all. A case must have one of them.
        inputs: "raw", or "encoded": each case is encoded once by `Method.encode` and its features are the inputs.
        augment: Whether samples are augmented; never for encoded inputs.
        sampler: "uniform": each case equally often and patches anywhere; "foreground": a third of the patches lie on a
            target region, as in nnU-Net.
        balance: Targets of classes by which whole cases are drawn in turn, with replacement: each class of each of them is
            equally often seen. Empty draws each case once in an epoch.
        epochs, steps: How long; exactly one of them. With `steps` an epoch is only the interval of validation.
        batch_size: None takes the training's.
        monitor: None trains to the end and keeps the last weights; otherwise the best ones are kept.
        least_rows: Rows that each process must have in a batch, where rows are compared with each other.
        remedy: What else a user can do where no case has what the stage asks for; "" where there is nothing but other data.
    """

    name: str
    train: tuple[str, ...] = ("",)
    optimisers: Mapping[str, Optimiser] = field(default_factory=lambda: {"": Optimiser()})
    modalities: tuple[str, ...] = ()
    one_of: tuple[tuple[str, ...], ...] = ()
    targets: tuple[str, ...] | None = None
    reads: tuple[str, ...] | None = None
    inputs: Literal["raw", "encoded"] = "raw"
    augment: bool = True
    sampler: Literal["uniform", "foreground"] = "uniform"
    balance: tuple[str, ...] = ()
    epochs: int | None = None
    steps: int | None = None
    batch_size: int | None = None
    monitor: Monitor | None = None
    least_rows: int = 1
    remedy: str = ""

    def __post_init__(self) -> None:
        if (self.epochs is None) == (self.steps is None):
            got = (self.epochs, self.steps)
            raise ConfigError(message(f"Stage {self.name}", "have either epochs or steps", got, do="Set one of them"))
        if self.inputs == "encoded" and self.augment:
            do = "Set augment=False"
            raise ConfigError(message(f"Stage {self.name}", "not augment encoded inputs", "augment=True", do=do))

    def trains(self, parameter: str) -> bool:
        """Whether the parameter of this full name is stepped in this stage."""
        return any(under(parameter, prefix) for prefix in self.train)

    def optimiser_of(self, parameter: str) -> str:
        """The prefix whose optimiser steps this parameter: the longest that matches."""
        matches = [prefix for prefix in self.optimisers if under(parameter, prefix)]
        if not matches:
            rule, do = "have an optimiser for every trained parameter", 'Add the prefix ""'
            raise ConfigError(message(f"Stage {self.name}", rule, parameter, do=do))
        return max(matches, key=len)


def under(parameter: str, prefix: str) -> bool:
    """Whether a parameter of this full name lies under a prefix; "" is all."""
    return not prefix or parameter == prefix or parameter.startswith(prefix + ".")
