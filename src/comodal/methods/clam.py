"""`clam`: a class of a bag of items, by gated attention, whose items learn from the bag's label. CLAM-SB, row "P" of Table 1.

Lu et al. (2021), Data-efficient and weakly supervised computational pathology on whole-slide images, Nature Biomedical
Engineering 5, 555-570, arXiv:2004.09666; with a single attention branch, as Mallya and Hamarneh (2022) train it on pathology.
An item (the features of a tile, or the tile itself) is brought to 512 units with ReLU and weighed by gated attention of 256
units; the weighted mean is classified. Beside it, the most and the least attended items learn to be evidence for the class, or
none (`comodal.networks.pooling.InstanceLoss`): 0.7 of the loss is the bag's, 0.3 that of its items.

Deviations: dropout is on the gated units, not on each of the two that are multiplied; the loss of items is the cross-entropy;
several targets have a head and an instance loss each. The published network reads features of a ResNet50 that was trained on
photographs: a bag of vectors; a bag of pictures has an encoder here that learns with the rest.

Axis letters: see `comodal.batch`; T items that are shown.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from comodal.batch import Batch, Features
from comodal.errors import ConfigError, message
from comodal.method import Citation, Method, MethodConfig, Monitor, OneStageConfig, Prediction, Problem, Requirements, Stage
from comodal.networks.classification import (
    ClassHeads,
    ClassWeights,
    check_target_weights,
    class_probabilities,
    class_targets,
    class_weights,
    classification_losses,
)
from comodal.networks.latents import BagEncoder, EncoderConfig, Latents
from comodal.networks.pooling import InstanceLoss

SHOWN = 16  # items of a bag that `attention` tells of: the number must not depend on how long the bags of a batch are


class CLAMConfig(OneStageConfig, EncoderConfig):
    """Configuration of `clam`: that of DeepGuide's row "P", one bag in a step and early stopping aside."""

    optimiser: Literal["adam", "adamw", "sgd"] = Field("adam", description="as published")
    rate: float = Field(2e-4, gt=0, description="as in DeepGuide's command; its table has 1e-4")
    weight_decay: float = Field(1e-5, ge=0, description="as published")
    schedule: Literal["poly", "cosine", "constant"] = Field("constant", description="as published")
    bags: int | None = Field(1, ge=1, description="bags in a step, one as published; null: as training.batch_size says")
    bag_weight: float = Field(0.7, gt=0, le=1, description="share of the bag's loss, the rest is that of its items; 1: no such")
    k: int = Field(8, ge=1, description="items at each end of the attention that learn; DeepGuide takes 25")
    subtyping: bool = Field(False, description="items are also no evidence for the other classes, which exclude each other")
    hidden: int = Field(0, ge=0, description="units of a hidden layer in each head; 0: linear")
    dropout: float = Field(0.0, ge=0, lt=1, description="on the latent of the bag; see bag_dropout for its items")
    class_weights: ClassWeights = Field("none", description="none, balanced, or {target: {class: weight}}")
    target_weights: dict[str, float] = Field({}, description="{target: factor of its loss}; 1 for those that are not named")
    balance: tuple[str, ...] | None = Field(
        None, description="targets whose classes are drawn equally often; null: all, as published; []: each bag once"
    )
    judge: Literal["loss", "AUROC", "balanced_accuracy"] = Field("loss", description="what chooses the weights, on validation")


class CLAM(Method):
    """Attention over a bag with an instance loss; see the module."""

    Config: ClassVar[type[MethodConfig]] = CLAMConfig
    config: CLAMConfig
    paper: ClassVar[Citation] = Citation(
        "Lu, Williamson, Chen, Chen, Barbieri, Mahmood",
        "Data-efficient and weakly supervised computational pathology on whole-slide images",
        2021,
        "Nature Biomedical Engineering",
        "arXiv:2004.09666",
    )

    def __init__(self, problem: Problem, config: CLAMConfig) -> None:
        super().__init__(problem, config)
        check_target_weights(config.target_weights, problem)
        if [modality.kind for modality in problem.modalities] != ["bag"]:
            got = ", ".join(f"{m.name} ({m.kind})" for m in problem.modalities)
            do = "Choose the bag in data.modalities, or take classifier, which reads several modalities of any kind"
            raise ConfigError(message("method clam", "get one modality, a bag", got, do=do))
        (self.bag,) = problem.names
        self.encoder = Latents(problem, problem.names, config)
        self.heads = ClassHeads(problem.targets, self.encoder.size, hidden=config.hidden, dropout=config.dropout)
        targets, k = problem.targets, config.k
        learns = config.bag_weight < 1
        self.items = InstanceLoss(self.encoder.size, targets, k=k, subtyping=config.subtyping) if learns else None
        self.class_weights = class_weights(config.class_weights, problem)

    @property
    def requires(self) -> Requirements:
        """Classification from a bag."""
        return Requirements(("classification",), ("bag",), at_training=(self.bag,), at_test=(self.bag,))

    @property
    def pretrained(self) -> Mapping[str, str]:
        """Weights of the encoders."""
        return self.encoder.pretrained(self.config.pretrained, "encoder")

    def stages(self) -> tuple[Stage, ...]:
        """One stage, classes drawn equally often; the best weights on validation cases are kept."""
        config = self.config
        every = tuple(target.name for target in class_targets(self.problem.targets))
        monitor = Monitor(config.judge, "min" if config.judge == "loss" else "max", config.patience)
        return (
            Stage(
                "train",
                optimisers={"": config.optimisation()},
                modalities=(self.bag,),
                balance=every if config.balance is None else config.balance,
                steps=config.steps,
                batch_size=config.bags,
                monitor=monitor,
            ),
        )

    def losses(self, batch: Batch, stage: Stage) -> dict[str, Tensor]:
        """Cross-entropy of each target from the bag, and that of its items."""
        config, targets, bag = self.config, self.problem.targets, batch.bag(self.bag)
        latent, weights, embedded = self._encoder(bag.items, bag.valid)
        of_bag = classification_losses(
            self.heads(latent), batch, targets, class_weights=self.class_weights, target_weights=config.target_weights
        )
        terms = {name: config.bag_weight * value for name, value in of_bag.items()}
        if self.items is not None:
            for name, value in self.items(embedded, weights, bag.valid, batch=batch).items():
                terms[f"items/{name}"] = (1 - config.bag_weight) * config.target_weights.get(name, 1.0) * value
        return terms

    @property
    def _encoder(self) -> BagEncoder:
        encoder = self.encoder.encoders[self.bag]
        assert isinstance(encoder, BagEncoder)
        return encoder

    def predict(self, batch: Batch) -> Prediction:
        """Probabilities of every target; extras: see `decode`."""
        self.require_support(batch.present)
        return self.decode(self.encode(batch), batch.present)

    def encode(self, batch: Batch) -> dict[str, Features]:
        """{bag: (latent (B, F), the highest weights (B, T), their items (B, T))}."""
        bag = batch.bag(self.bag)
        latent, weights, _ = self._encoder(bag.items, bag.valid)
        return {self.bag: (latent, *most_attended(weights, bag.valid))}

    def decode(self, features: Mapping[str, Features], present: Tensor) -> Prediction:
        """Heads on the latent.

        Extras: `attention`, (B, T) the highest weights of the bag, in order, which with all others sum to one; `items`, (B, T)
        which these are, counted from 0 in the order of the bag. Where a bag has fewer, weights are 0 and items -1.
        """
        latent, weights, items = features[self.bag]
        probabilities = class_probabilities(self.heads(latent), self.problem.targets)
        return Prediction(probabilities, used=present, extras={"attention": weights, "items": items})


def most_attended(weights: Tensor, valid: Tensor, shown: int = SHOWN) -> tuple[Tensor, Tensor]:
    """The items to which a bag attends most.

    Args:
        weights: (B, N), zero where not valid.
        valid: (B, N) bool.
        shown: T.

    Returns:
        (B, T) weights, highest first, and (B, T) numbers of the items, as floats; 0 and -1 where the bag has fewer than T.
    """
    some = min(shown, weights.shape[1])
    order = weights.masked_fill(~valid, -1.0).argsort(dim=1, descending=True, stable=True)[:, :some]
    there = valid.gather(1, order)
    found, items = weights.new_zeros(len(weights), shown), weights.new_full((len(weights), shown), -1.0)
    found[:, :some] = torch.where(there, weights.gather(1, order), 0.0)
    items[:, :some] = torch.where(there, order.to(weights.dtype), -1.0)
    return found, items
