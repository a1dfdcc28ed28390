"""`late-fusion`: an encoder for each modality, their latents side by side, one head. "S + I" of Mallya and Hamarneh (2022).

With `absent: heads`, as Kawahara et al. (2019), Seven-Point Checklist and Skin Lesion Classification Using Multitask Multimodal
Neural Nets, IEEE JBHI 23(2), 538-546, it also predicts where modalities are absent: each modality has heads of its own, and the
loss is the sum of that of the fused heads and those of each modality's. What predicts a case:

| present | heads |
| --- | --- |
| all modalities | the fused ones, on all latents |
| one | its own |
| some of three or more | the fused ones, with zeros for absent latents |

The fused heads are trained on random subsets of two or more. A feature vector (the metadata of Kawahara et al.) is a modality
like any other. With `frozen`, row "P + R" of Table 1 of Mallya and Hamarneh, each modality's classifier is trained first, and
then a linear fused head on their frozen latents, which are cached.

Deviations: Kawahara et al. have metadata in the heads of both images, too, and draw batches by label; the third row of the
table is ours. Encoders are ResNet18, weights of classes are "balanced", and nothing is drawn by class, as in `classifier`.

Axis letters: see `comodal.batch`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from comodal.batch import Batch, Features
from comodal.errors import ConfigError, message
from comodal.method import (
    Citation,
    Method,
    MethodConfig,
    Optimiser,
    Prediction,
    Problem,
    Requirements,
    Stage,
)
from comodal.networks.class_settings import ClassificationConfig
from comodal.networks.classification import (
    ClassHeads,
    Logits,
    check_target_weights,
    class_probabilities,
    class_weights,
    classification_losses,
)
from comodal.networks.latents import Latents
from comodal.networks.segmentation import labelled_where
from comodal.networks.subsets import draw_subsets

FUSED = "fused"


class LateFusionConfig(ClassificationConfig):
    """Configuration of `late-fusion`; `head_*` are of the fused head where the latents are frozen."""

    absent: Literal["heads", "refuse"] = Field(
        "heads", description="predict without a modality by heads of the others, or refuse"
    )
    frozen: bool = Field(False, description="a classifier for each modality first, then a head on their frozen latents")
    fused_weight: float = Field(1.0, gt=0, description="weight of the fused heads' loss")
    own_weight: float = Field(1.0, gt=0, description="weight of the loss of each modality's own heads")
    head_hidden: int = Field(
        0, ge=0, description="units of a hidden layer of the frozen latents' head; 0: linear, as published"
    )
    head_optimiser: Literal["adam", "adamw", "sgd"] = Field("sgd", description="of the frozen latents' head; momentum 0.9")
    head_rate: float = Field(1e-3, gt=0, description="of the frozen latents' head, as published")
    head_epochs: int = Field(500, ge=1, description="of the frozen latents' head, as published")
    head_batch: int = Field(50, ge=1, description="cases in a step of the frozen latents' head, as published")


class LateFusion(Method):
    """Encoders, own heads and fused heads; see the module."""

    Config: ClassVar[type[MethodConfig]] = LateFusionConfig
    config: LateFusionConfig
    paper: ClassVar[Citation] = Citation(
        "Kawahara, Daneshvar, Argenziano, Hamarneh",
        "Seven-Point Checklist and Skin Lesion Classification Using Multitask Multimodal Neural Nets",
        2019,
        "IEEE JBHI",
        "doi:10.1109/JBHI.2018.2824327",
    )

    def __init__(self, problem: Problem, config: LateFusionConfig) -> None:
        super().__init__(problem, config)
        check_target_weights(config.target_weights, problem)
        if len(problem.modalities) < 2:
            got, do = ", ".join(problem.names), "Add one to data.modalities, or take classifier"
            raise ConfigError(message("method late-fusion", "get two or more modalities", got, do=do))
        self.encoder = Latents(problem, problem.names, config)
        sizes = {FUSED: self.encoder.size}
        if config.frozen or config.absent == "heads":
            sizes |= {f"own_{name}": self.encoder.sizes[name] for name in problem.names}
        hidden = dict.fromkeys(sizes, config.hidden) | ({FUSED: config.head_hidden} if config.frozen else {})
        self.heads = nn.ModuleDict(
            {
                name: ClassHeads(problem.targets, size, hidden=hidden[name], dropout=config.dropout)
                for name, size in sizes.items()
            }
        )
        self.class_weights = class_weights(config.class_weights, problem)

    @property
    def requires(self) -> Requirements:
        """Classification; at test everything where absent modalities are refused."""
        every = self.problem.names
        at_test = every if self.config.absent == "refuse" else None
        return Requirements(("classification",), ("image", "bag", "features", "text"), at_training=every, at_test=at_test)

    @property
    def encoded_by(self) -> tuple[str, ...]:
        """The encoders: heads change no latent."""
        return ("encoder",)

    @property
    def pretrained(self) -> Mapping[str, str]:
        """Weights of the encoders."""
        return self.encoder.pretrained(self.config.pretrained, "encoder")

    # ------------------------------------------------------------------------------------------------ training
    def stages(self) -> tuple[Stage, ...]:
        """All at once; or `frozen`, each modality's classifier and then the fused head on cached latents."""
        config = self.config
        how = {"": config.optimisation()}
        # two modalities that are not both there teach the fused head nothing
        whole = self.problem.names if config.absent == "refuse" or (config.frozen and len(self.problem.names) == 2) else ()
        if not config.frozen:
            return (self._stage("train", ("",), how, modalities=whole, steps=config.steps),)
        first = [
            self._stage(
                f"classifier-{name}",
                (f"encoder.encoders.{name}", f"heads.own_{name}"),
                how,
                modalities=(name,),
                steps=config.steps,
                subsets=((name,),),
            )
            for name in self.problem.names
        ]
        last = Optimiser(config.head_optimiser, config.head_rate, momentum=0.9)
        head = self._stage(
            FUSED, (f"heads.{FUSED}",), {"": last}, modalities=whole, epochs=config.head_epochs, subsets=(self.problem.names,)
        )
        return (*first, head)

    def _stage(
        self,
        name: str,
        train: tuple[str, ...],
        how: Mapping[str, Optimiser],
        *,
        modalities: tuple[str, ...],
        steps: int | None = None,
        epochs: int | None = None,
        subsets: tuple[tuple[str, ...], ...] | None = None,
    ) -> Stage:
        config, encoded = self.config, name == FUSED
        judged = config.monitor(*(subsets or ()))
        return Stage(
            name,
            train,
            how,
            modalities=modalities,
            inputs="encoded" if encoded else "raw",
            augment=not encoded,
            balance=config.balance,
            steps=steps,
            epochs=epochs,
            batch_size=config.head_batch if encoded else None,
            monitor=judged,
        )

    def losses(self, batch: Batch, stage: Stage) -> dict[str, Tensor]:
        """The cross-entropies of the fused heads and of each modality's own, as far as the stage trains them."""
        alone = stage.name.removeprefix("classifier-")
        if alone != stage.name:  # nothing else is encoded
            return self._own(alone, self.encoder.encode(batch.keep([alone])), batch, weight=1.0)
        encodings = batch.encodings() if stage.inputs == "encoded" else self.encode(batch)
        latents = {name: value for name, value in encodings.items() if isinstance(value, Tensor)}
        seen = batch.present
        if self.training and len(self.problem.names) > 2 and self.config.absent == "heads":
            drawn = draw_subsets(seen)
            seen = torch.where(drawn.sum(dim=1, keepdim=True) > 1, drawn, seen)  # one alone is for its own heads
        shown = labelled_where(batch, seen.sum(dim=1) > 1)
        terms = self._terms(self.heads[FUSED](self._joined(latents, seen)), shown, weight=self.config.fused_weight)
        if stage.inputs == "raw" and self.config.absent == "heads":
            for name in self.problem.names:
                terms |= self._own(name, latents, batch, weight=self.config.own_weight)
        return terms

    def _own(self, name: str, latents: Mapping[str, Tensor], batch: Batch, *, weight: float) -> dict[str, Tensor]:
        """What the heads of one modality learn, from the rows that have it."""
        rows = batch.is_present(name)
        logits = self.heads[f"own_{name}"](self._latent(name, latents, rows))
        terms = self._terms(logits, labelled_where(batch, rows), weight=weight)
        return {f"{term}/{name}": value for term, value in terms.items()}

    def _terms(self, logits: Logits, batch: Batch, *, weight: float) -> dict[str, Tensor]:
        found = classification_losses(
            logits,
            batch,
            self.problem.targets,
            class_weights=self.class_weights,
            target_weights=self.config.target_weights,
        )
        return {term: weight * value for term, value in found.items()}

    def _latent(self, name: str, latents: Mapping[str, Tensor], rows: Tensor) -> Tensor:
        """(B, F) of one modality, zeros in rows that lack it, whatever stands there."""
        if name not in latents:
            like = next(iter(latents.values()), torch.zeros(0, device=rows.device))
            return like.new_zeros(len(rows), self.encoder.sizes[name])
        return torch.where(rows[:, None], latents[name], 0.0)

    def _joined(self, latents: Mapping[str, Tensor], present: Tensor) -> Tensor:
        """(B, F of all), zeros where absent."""
        return self.encoder.join(latents, {name: present[:, i] for i, name in enumerate(self.problem.names)})

    # ------------------------------------------------------------------------------------------------ prediction
    def predict(self, batch: Batch) -> Prediction:
        """Probabilities of every target, by the heads that the module's table names."""
        self.require_support(batch.present)
        return self.decode(self.encode(batch), batch.present)

    def validate(self, batch: Batch, stage: Stage) -> Prediction:
        """The same, also from one modality where a prediction would refuse so few: its classifier is being trained."""
        return self.decode(self.encode(batch), batch.present)

    def encode(self, batch: Batch) -> dict[str, Features]:
        """{modality: (B, F)}."""
        return dict(self.encoder.encode(batch))

    def decode(self, features: Mapping[str, Features], present: Tensor) -> Prediction:
        """The heads of the only modality, else the fused ones, row by row."""
        latents = {name: value for name, value in features.items() if isinstance(value, Tensor)}
        logits: Logits = self.heads[FUSED](self._joined(latents, present))
        single = present.sum(dim=1) == 1
        for at, name in enumerate(self.problem.names):
            rows = single & present[:, at]
            if f"own_{name}" in self.heads and bool(rows.any()):
                own: Logits = self.heads[f"own_{name}"](self._latent(name, latents, rows))
                logits = {target: torch.where(rows[:, None], own[target], value) for target, value in logits.items()}
        return Prediction(class_probabilities(logits, self.problem.targets), used=present)
