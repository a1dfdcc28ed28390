"""`classifier`: one encoder, one latent, one head for each target. Rows "I" and "S" of Mallya and Hamarneh (2022).

It reads all modalities of `data.modalities`, and needs them all at test: one of them for the image-only and the single-modality
rows, several side by side (`fusion: latents`) or sequences as channels of one network (`fusion: channels`), as the "ALL" column
of the paper's Table 1 asks for without saying which.

Equations (1) to (3): y = D(E(x)), z = E(x). Paper's base networks: DenseNet121 in 3-D for MRI, CLAM for pathology, InceptionV3
for photographs. Deviations: the default encoder is a ResNet18, which learns on a CPU; weights of classes are "balanced", and
the sampler of the paper, which balances as well, is off: both together would count rare classes twice.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from pydantic import Field
from torch import Tensor

from comodal.batch import Batch, Features
from comodal.method import Citation, Method, MethodConfig, Prediction, Problem, Requirements, Stage
from comodal.networks.class_settings import ClassificationConfig
from comodal.networks.classification import (
    ClassHeads,
    check_target_weights,
    class_probabilities,
    class_weights,
    classification_losses,
)
from comodal.networks.latents import Fusion, Latents


class ClassifierConfig(ClassificationConfig):
    """Configuration of `classifier`."""

    fusion: Fusion = Field("latents", description="several images: latents side by side, or channels of one network")


class Classifier(Method):
    """An encoder and heads; see the module."""

    Config: ClassVar[type[MethodConfig]] = ClassifierConfig
    config: ClassifierConfig
    paper: ClassVar[Citation] = Citation(
        "Mallya, Hamarneh",
        "Deep Multimodal Guidance for Medical Image Classification",
        2022,
        "MICCAI",
        "arXiv:2203.05683",
    )

    def __init__(self, problem: Problem, config: ClassifierConfig) -> None:
        super().__init__(problem, config)
        check_target_weights(config.target_weights, problem)
        self.encoder = Latents(problem, problem.names, config, fusion=config.fusion)
        self.heads = ClassHeads(problem.targets, self.encoder.size, hidden=config.hidden, dropout=config.dropout)
        self.class_weights = class_weights(config.class_weights, problem)

    @property
    def requires(self) -> Requirements:
        """Classification from all that it was built for."""
        every = self.problem.names
        return Requirements(("classification",), ("image", "bag", "features", "text"), at_training=every, at_test=every)

    @property
    def together(self) -> tuple[tuple[str, ...], ...]:
        """All images, where they are channels of one network."""
        return (self.encoder.names,) if self.encoder.fusion == "channels" else ()

    @property
    def pretrained(self) -> Mapping[str, str]:
        """Weights of the encoders."""
        return self.encoder.pretrained(self.config.pretrained, "encoder")

    def stages(self) -> tuple[Stage, ...]:
        """One stage; the best weights on validation cases are kept."""
        config = self.config
        how = {"": config.optimisation()}
        return (
            Stage(
                "train",
                optimisers=how,
                modalities=self.problem.names,
                balance=config.balance,
                steps=config.steps,
                monitor=config.monitor(),
            ),
        )

    def losses(self, batch: Batch, stage: Stage) -> dict[str, Tensor]:
        """Weighted cross-entropy of each target."""
        logits = self.heads(self._joined(self.encoder.encode(batch), batch.present))
        config, targets = self.config, self.problem.targets
        return classification_losses(
            logits, batch, targets, class_weights=self.class_weights, target_weights=config.target_weights
        )

    def predict(self, batch: Batch) -> Prediction:
        """Probabilities of every target."""
        self.require_support(batch.present)
        return self.decode(self.encode(batch), batch.present)

    def encode(self, batch: Batch) -> dict[str, Features]:
        """{modality: (B, F)}."""
        return dict(self.encoder.encode(batch))

    def decode(self, features: Mapping[str, Features], present: Tensor) -> Prediction:
        """Heads on the latents."""
        latents = {name: value for name, value in features.items() if isinstance(value, Tensor)}
        logits = self.heads(self._joined(latents, present))
        return Prediction(class_probabilities(logits, self.problem.targets), used=present)

    def _joined(self, latents: dict[str, Tensor], present: Tensor) -> Tensor:
        columns = {name: present[:, i] for i, name in enumerate(self.problem.names)}
        return self.encoder.join(latents, columns)
