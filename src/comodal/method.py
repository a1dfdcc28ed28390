"""The contract: what a method says about itself, what it is built for, and the three things it does.

A `Method` is a network with its losses. It never loads data, logs, picks a device, builds an optimiser, writes or draws; what
is trained when, by which optimiser and on which cases is data (`stages()`), so that thirty methods share one loop and stay
comparable. `comodal.testing.check_method` asserts what is promised here.

Axis letters: see `comodal.batch`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn

from comodal.batch import Batch, Features, Text
from comodal.errors import UnsupportedSubset, message
from comodal.modality import subset_name, subsets
from comodal.problem import Problem, Task
from comodal.stage import Monitor, Optimiser, Stage

__all__ = [
    "Citation",
    "Complements",
    "Losses",
    "Matches",
    "Method",
    "MethodConfig",
    "Monitor",
    "OneStageConfig",
    "Optimiser",
    "Prediction",
    "Problem",
    "Requirements",
    "Stage",
    "Task",
]


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
class Requirements:
    """What an instance needs. None means any.

    Attributes:
        tasks: What it can be trained for.
        kinds: Kinds of modality that it reads.
        spatial_dims: Which of 2 and 3 its image networks exist for (`Problem.dims_of` of each image).
        at_training: Modalities that the training set must have somewhere.
        at_test: Modalities without which it cannot predict at all.
    """

    tasks: tuple[Task, ...]
    kinds: tuple[str, ...] = ("image",)
    spatial_dims: tuple[int, ...] = (2, 3)
    at_training: tuple[str, ...] | None = None
    at_test: tuple[str, ...] | None = None


@dataclass(frozen=True)
class Prediction:
    """What a method says about a batch.

    Attributes:
        probabilities: {target: (B, K, *spatial) or (B, K)} float in [0, 1]. "regions" and "multilabel": independent;
            "labels", "class" and "ordinal": they sum to one over K.
        used: (B, M) bool: the modalities on which each row rests; a subset of `present`. The user is told.
        extras: Further tensors by name, batch axis first (an uncertainty map, an embedding). Of a segmentation, those whose
            last axes are the patch are put together from windows as the probabilities are; all others are averaged. Several
            channels before these axes are the classes of a target, where there are as many of them.
    """

    probabilities: Mapping[str, Tensor]
    used: Tensor
    extras: Mapping[str, Tensor] = field(default_factory=dict)


@dataclass(frozen=True)
class Complements:
    """What other modalities tell the segmentation of one, with the graph that leads from there to the logits.

    A network that segments from its *primary* image and gets messages from *auxiliary* ones says here what it took from each. A
    primary of several images is their names joined by "+".

    Attributes:
        logits: {(primary, region): (B, *spatial)}, before the sigmoid. They depend on `maps`, so that gradients exist.
        maps: {(primary, auxiliary): (B, C, *coarse)}: the complementary information of the finest scale, its posterior mean;
            zero where the row lacks either. Pairs that no row has are left out.
        nats: {(primary, auxiliary): (B, *coarse)}: KL divergence from the prior at each voxel, summed over channels; zero where
            the row lacks either.
    """

    logits: Mapping[tuple[str, str], Tensor]
    maps: Mapping[tuple[str, str], Tensor]
    nats: Mapping[tuple[str, str], Tensor]


@dataclass(frozen=True)
class Matches:
    """How well images and reports belong together, as the critic of a method that learned both has it.

    Scores are of one batch of images with one set of reports, whether or not they are of the same patients; only their order
    and differences have a meaning, and of these what `Method.compared` says.

    Attributes:
        reports: (B, R) score of each image with each report.
        sentences: (B, R, S, N) score of each sentence at each region of the image, NaN where there is no sentence; None where
            the method sees an image and a report as wholes.
        grid: Regions along each axis of the image, N of them, the last axis fastest; () without regions.
        temperature: Of the soft maximum over regions that is the score of a sentence with an image; 0: the maximum. A report
            scores the mean over its sentences.
    """

    reports: Tensor
    sentences: Tensor | None = None
    grid: tuple[int, ...] = ()
    temperature: float = 0.0


class Losses(dict[str, Tensor]):
    """What `Method.losses` returns where it has more to say than the terms: numbers to look at that are not minimised.

    Args:
        terms: {term: scalar}, already weighted.
        diagnostics: {name: scalar}, e.g. an unweighted divergence in nats; logged, averaged over processes, never summed.

    >>> found = Losses({"dice": torch.tensor(0.5)}, {"nats": torch.tensor(3.0)})
    >>> float(sum(found.values())), {name: float(value) for name, value in found.diagnostics.items()}
    (0.5, {'nats': 3.0})
    """

    def __init__(self, terms: Mapping[str, Tensor], diagnostics: Mapping[str, Tensor | float] | None = None) -> None:
        super().__init__(terms)
        self.diagnostics = {name: torch.as_tensor(value).detach() for name, value in (diagnostics or {}).items()}


class MethodConfig(BaseModel):
    """Base of every method's configuration: frozen, and unknown keys are errors. Defaults are the paper's values."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    on_cpu: ClassVar[
        Mapping[str, Any]
    ] = {}  # keys that `comodal init` sets where there is no GPU, as the defaults cost too much
    patch_step: ClassVar[int] = 1  # what the sides of a patch must be multiples of, at its default levels: `comodal init` asks
    at_test: ClassVar[frozenset[str]] = frozenset()  # keys that no weight depends on: `comodal predict --set` may change them


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

    def reads(self, subset: Iterable[str]) -> tuple[str, ...]:
        """Those of a subset that `predict` looks at, in canonical order; by default all. The files of others are not opened."""
        have = set(subset)
        return tuple(name for name in self.problem.names if name in have)

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
            {term: scalar}; as `Losses` where there are diagnostics, too.
        """
        raise NotImplementedError(f"{type(self).__name__}.losses must return {{term: scalar}}.")

    def predict(self, batch: Batch) -> Prediction:
        """Probabilities from whatever each row has.

        Raises:
            UnsupportedSubset: A row has a subset from which this method cannot predict.
        """
        raise NotImplementedError(f"{type(self).__name__}.predict must return a Prediction.")

    def validate(self, batch: Batch, stage: Stage) -> Prediction:
        """What the weights of a stage are judged by; `predict` where the trained method already predicts through them.

        Args:
            batch: Validation cases, raw, seen through the subsets of the stage's `Monitor`, also where `predict` refuses these.
            stage: One of `stages()`. Only the targets that it names are needed.
        """
        return self.predict(batch)

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

    @property
    def encoded_by(self) -> tuple[str, ...]:
        """Parameter prefixes on which `encode` rests: a cache of encodings stays good while these are frozen and equal."""
        return ("",)

    @property
    def together(self) -> tuple[tuple[str, ...], ...]:
        """Modalities that are encoded as one, such as sequences that are channels of one network; by default none.

        `encode` then gives the features of such a group under its first name, and under the others a tensor (B, 0).
        """
        return ()

    def encoded_parts(self, names: Iterable[str]) -> list[tuple[str, ...]]:
        """How these modalities are encoded: one by one, or in groups. A group that is not there whole is not encoded."""
        have = list(names)
        groups = [group for group in self.together if set(group) <= set(have)]
        grouped = {name for group in self.together for name in group}
        return [*groups, *((name,) for name in have if name not in grouped)]

    @property
    def pretrained(self) -> Mapping[str, str]:
        """{parameter prefix: file of safetensors, or id on the hub} of weights to start from; the training loads them."""
        return {}

    @property
    def counted(self) -> tuple[str, ...]:
        """Prefixes of buffers that were counted over training cases; `--init` leaves those of another training there."""
        return ()

    @property
    def borrowed(self) -> tuple[str, ...]:
        """Prefixes of what no stage trains and `--init` must bring whole, learned with the same words; by default none."""
        return ()

    def decode(self, features: Mapping[str, Features], present: Tensor) -> Prediction:
        """`predict(batch) == decode(encode(batch), batch.present)`. `features` may lack modalities that no row has."""
        raise NotImplementedError(f"{type(self).__name__} has no decode; ask `encodes` first.")

    @property
    def explains(self) -> bool:
        """Whether `complements` exists, so that one can see what each modality adds to another."""
        return type(self).complements is not Method.complements

    def complements(self, batch: Batch) -> Complements:
        """What each auxiliary modality tells each segmentor, with the graph. Call it with gradients enabled, in eval mode.

        Raises:
            UnsupportedSubset: A row has a subset from which this method cannot predict.
        """
        raise NotImplementedError(f"{type(self).__name__} has no complements; ask `explains` first.")

    @property
    def token_extras(self) -> tuple[str, ...]:
        """Extras of `predict` that are token ids (B, T), 0 after the last: reports that it wrote; by default none."""
        return ()

    @property
    def matches(self) -> bool:
        """Whether `match` exists, so that images and reports can find each other."""
        return type(self).match is not Method.match

    @property
    def compared(self) -> Literal["sentences", "images", "both"]:
        """Which scores of `match` the training compared, so that their differences mean something.

        "sentences": those of one image, or region, with several sentences, or reports; any function of the image or region may
        be in them. "images": those of one sentence with several images; any function of the sentence may be in them.
        """
        return "sentences"

    def match(self, batch: Batch, text: Text) -> Matches:
        """Scores of images with reports. Call it in eval mode, without gradients.

        Args:
            batch: B cases that have the image; nothing else of it is read.
            text: R reports, of these or other cases, or sentences that somebody wrote: ids (R, S, L).

        Raises:
            UnsupportedSubset: A row lacks the image.
        """
        raise NotImplementedError(f"{type(self).__name__} has no match; ask `matches` first.")

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
                rule = f"get a subset of modalities from which it can predict ({', '.join(can)})"
                got, do = subset_name(subset) or "nothing", "Give one of these subsets"
                raise UnsupportedSubset(message(type(self).__name__, rule, got, do=do))
