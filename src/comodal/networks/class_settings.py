"""Settings that every classifier has, what they say about a stage, and the roles of modalities in guidance."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from pydantic import Field

from comodal.errors import ConfigError, message, nearest
from comodal.method import Monitor, OneStageConfig, Problem
from comodal.networks.classification import ClassWeights
from comodal.networks.guide import GuideLoss
from comodal.networks.latents import EncoderConfig, Fusion


class ClassificationConfig(OneStageConfig, EncoderConfig):
    """Optimisation, encoders, heads, weights of classes and targets."""

    hidden: int = Field(0, ge=0, description="units of a hidden layer in each head; 0: linear")
    dropout: float = Field(0.0, ge=0, lt=1, description="on the latent")
    class_weights: ClassWeights = Field("balanced", description="none, balanced, or {target: {class: weight}}")
    target_weights: dict[str, float] = Field({}, description="{target: factor of its loss}; 1 for those that are not named")
    balance: tuple[str, ...] = Field((), description="targets whose classes are drawn equally often")
    judge: Literal["loss", "AUROC", "balanced_accuracy"] = Field("loss", description="what chooses the weights, on validation")

    def monitor(self, *subsets: tuple[str, ...]) -> Monitor:
        """What a stage is judged by, on cases seen through these subsets; none leaves that to the training."""
        return Monitor(self.judge, "min" if self.judge == "loss" else "max", self.patience, subsets or None)


class GuideConfig(ClassificationConfig):
    """Settings of G, and of decoders on frozen latents. The defaults are those of Mallya and Hamarneh (2022)."""

    fusion: Fusion = Field("latents", description="several images: latents side by side, or channels of one network")
    guide_loss: GuideLoss | dict[GuideLoss, float] = Field(
        "mse", description="mse (the paper), cosine, infonce, heteroscedastic, logits; or {loss: weight}"
    )
    bottleneck: int | None = Field(None, ge=1, description="narrowest layer of G; null: a quarter of the inferior latent")
    guide_dropout: float = Field(0.25, ge=0, lt=1, description="after each hidden layer of G")
    standardise: bool = Field(
        False, description="mse: divide each number's squared error by its variance over training latents"
    )
    guide_optimiser: Literal["adam", "adamw", "sgd"] = Field("sgd", description="of G; with momentum 0.9")
    guide_rate: float = Field(0.5, gt=0, description="of G: right for sgd and small latents; 1e-3 for adam")
    guide_epochs: int = Field(150, ge=1, description="of G")
    guide_batch: int = Field(50, ge=1, description="pairs in a step of G")
    decoder_hidden: int = Field(0, ge=0, description="units of a hidden layer of the decoder; 0: linear")
    decoder_dropout: float = Field(0.0, ge=0, lt=1, description="on the decoder's input")
    decoder_optimiser: Literal["adam", "adamw", "sgd"] = Field("sgd", description="of the decoder; with momentum 0.9")
    decoder_rate: float = Field(1e-3, gt=0, description="of the decoder")
    decoder_decay: float = Field(0.0, ge=0, description="weight decay of the decoder")
    decoder_epochs: int = Field(500, ge=1, description="of the decoder")
    decoder_batch: int = Field(50, ge=1, description="cases in a step of the decoder")


def guide_losses(config: GuideConfig) -> dict[GuideLoss, float]:
    """The losses of G and their weights.

    Args:
        config: Says one, or several with weights.

    Returns:
        {loss: weight}, at least one; each weight is above 0.

    Raises:
        ConfigError: None, a weight that is not above 0, or `standardise` without the loss that it is of.
    """
    asked = config.guide_loss
    found: dict[GuideLoss, float] = dict(asked) if isinstance(asked, dict) else {asked: 1.0}
    if not found or min(found.values()) <= 0:
        do = "For instance {mse: 1, logits: 0.5}"
        raise ConfigError(message("method.guide_loss", "give each loss a weight above 0", asked, do=do))
    if config.standardise and "mse" not in found:
        rule, got = "be false where guide_loss has no mse, which alone it changes", f"true with {', '.join(found)}"
        raise ConfigError(message("method.standardise", rule, got, do="Leave it out"))
    return found


def roles(problem: Problem, *, superior: Sequence[str], inferior: Sequence[str]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The superior and the inferior modalities, in canonical order.

    Args:
        problem: Has the modalities.
        superior: Those that are there only in training.
        inferior: Those to predict from; none takes all others.

    Raises:
        ConfigError: No superior one, an unknown or doubled name, or a modality without a role.
    """
    for key, names in (("superior", superior), ("inferior", inferior)):
        for name in names:
            if name not in problem.names:
                do = nearest(name, problem.names)
                raise ConfigError(message(f"method.{key}", "name modalities of the problem", repr(name), do=do))
    if not superior:
        last, rule = problem.names[-1], "name the modality that is there only in training"
        do = f"For instance superior: [{last}], with init --set method.superior=[{last}]"
        raise ConfigError(message("method.superior", rule, "none", do=do))
    both = set(superior) & set(inferior)
    better = tuple(name for name in problem.names if name in superior)
    cheaper = tuple(name for name in problem.names if name in (inferior or set(problem.names) - set(better)))
    left = [name for name in problem.names if name not in (*better, *cheaper)]
    if both or left or not cheaper:
        rule = "give each modality of the problem one role, and leave one to predict from"
        got = f"{', '.join(sorted(both))} with two" if both else f"{', '.join(left)} with none" if left else "no inferior one"
        do = f"Leave {', '.join(left)} out of data.modalities, or name it" if left else "Correct superior and inferior"
        raise ConfigError(message("method.superior and method.inferior", rule, got, do=do))
    return better, cheaper
