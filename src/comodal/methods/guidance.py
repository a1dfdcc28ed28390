"""`guidance`: a superior modality, there only in training, guides a model that predicts from inferior ones alone.

Mallya and Hamarneh (2022), Deep Multimodal Guidance for Medical Image Classification, MICCAI, arXiv:2203.05683. In stages: a
classifier on the inferior modality and one on the superior, Equations (1) to (3); G, which estimates the frozen superior latent
from the frozen inferior one, Equation (4); a common decoder on [estimate, inferior latent], Equation (5). What one run holds is
all rows of the paper's tables: `read_out` chooses I, S, G(I), G(I) + I, and with `both` also S + I.

G learns from pairs without labels, too, and the decoder from labelled cases without the superior modality, which the paper does
not ask. The estimate is a function of the inferior latent: it adds no information, only an input from which a small decoder
reads more easily.

Deviations: the decoder is linear, as the table of hyper-parameters says (the published code rectifies its logits, or has a dead
layer); weights of classes are "balanced" and nothing is drawn by class (the published code does both at once, on shuffled
rows); everything is joined by case, never by the order of rows. The encoder is a ResNet18, for a CPU.

Axis letters: see `comodal.batch`; I and S numbers of an inferior and a superior latent.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from comodal.batch import Batch, Features
from comodal.errors import ConfigError, message
from comodal.information.bounds import info_nce
from comodal.information.critics import CosineCritic
from comodal.information.pairs import contrast, group_numbers
from comodal.method import (
    Citation,
    Losses,
    Method,
    MethodConfig,
    Monitor,
    Optimiser,
    Prediction,
    Problem,
    Requirements,
    Stage,
)
from comodal.networks.class_settings import GuideConfig, guide_losses, roles
from comodal.networks.classification import (
    ClassHeads,
    ClassWeights,
    check_target_weights,
    class_probabilities,
    class_weights,
    classification_losses,
)
from comodal.networks.guide import GuideSet, any_of, changes, columns_of, guide_terms, squared_error
from comodal.networks.latents import BagEncoder, Latents
from comodal.networks.pooling import InstanceLoss
from comodal.networks.segmentation import labelled_where
from comodal.networks.subsets import draw_subsets

ReadOut = Literal["guided", "guide", "inferior", "superior", "both"]


class GuidanceConfig(GuideConfig):
    """Configuration of `guidance`. The settings of a stage alone are those of the two classifiers."""

    at_test: ClassVar[frozenset[str]] = frozenset({"read_out"})

    superior: tuple[str, ...] = Field((), description="the modalities that are there only in training")
    inferior: tuple[str, ...] = Field((), description="those from which it predicts; empty: all others")
    read_out: ReadOut = Field("guided", description="guided G(I) + I, guide G(I), inferior I, superior S, both S + I")
    both: bool = Field(False, description="also train S + I, a decoder on both true latents, to compare with")
    partial: bool = Field(False, description="predict from any of several inferior modalities: a G for each, averaged")
    decoder_weights: ClassWeights | None = Field(None, description="the same for the decoder alone; null: as class_weights")
    instance: float = Field(0.3, ge=0, lt=1, description="share of CLAM's instance loss where the superior modality is a bag")
    finetune: Literal["none", "guide", "all"] = Field(
        "none", description="train on, end to end: none (the paper), G and decoder, or the inferior encoder as well"
    )
    finetune_steps: int = Field(200, ge=1, description="steps of the end-to-end stage")
    finetune_rate: float = Field(1e-4, gt=0, description="of the end-to-end stage, by AdamW")


class Guidance(Method):
    """Guidance by a superior modality; see the module."""

    Config: ClassVar[type[MethodConfig]] = GuidanceConfig
    config: GuidanceConfig
    paper: ClassVar[Citation] = Citation(
        "Mallya, Hamarneh",
        "Deep Multimodal Guidance for Medical Image Classification",
        2022,
        "MICCAI",
        "arXiv:2203.05683",
    )

    def __init__(self, problem: Problem, config: GuidanceConfig) -> None:
        super().__init__(problem, config)
        check_target_weights(config.target_weights, problem)
        self.better, self.cheaper = roles(problem, superior=config.superior, inferior=config.inferior)
        if config.read_out == "both" and not config.both:
            raise ConfigError(message("method.read_out", "be trained", "both", do="Train with method.both=true"))
        if config.finetune == "all" and config.both:
            rule, do = "be false where the inferior encoder is trained on, on which S + I rests", "Leave one of the two out"
            raise ConfigError(message("method.both", rule, "true with finetune: all", do=do))
        if config.partial and config.fusion == "channels":
            rule, do = "be latents where partial gives each modality a G", "Leave one of the two out"
            raise ConfigError(message("method.fusion", rule, "channels", do=do))
        self.inferior = Latents(problem, self.cheaper, config, fusion=config.fusion)
        self.superior = Latents(problem, self.better, config)
        targets = problem.targets
        self.head_inferior = ClassHeads(targets, self.inferior.size, hidden=config.hidden, dropout=config.dropout)
        self.head_superior = ClassHeads(targets, self.superior.size, hidden=config.hidden, dropout=config.dropout)
        bag = len(self.better) == 1 and isinstance(self.superior.encoders[self.better[0]], BagEncoder) and config.instance > 0
        self.items = InstanceLoss(self.superior.size, targets) if bag else None
        self.guide = self._new_guide()
        self.head_guided = self._decoder()
        self.head_both = self._decoder() if config.both else None
        self.weights = class_weights(config.class_weights, problem)
        asked = config.class_weights if config.decoder_weights is None else config.decoder_weights
        self.last_weights = class_weights(asked, problem)

    def _decoder(self) -> ClassHeads:
        size, config = self.superior.size + self.inferior.size, self.config
        return ClassHeads(self.problem.targets, size, hidden=config.decoder_hidden, dropout=config.decoder_dropout)

    def _new_guide(self) -> GuideSet:
        config, self.guide_losses = self.config, guide_losses(self.config)
        size = self.superior.size
        critic = CosineCritic(size, size, embedding=None) if "infonce" in self.guide_losses else None
        return GuideSet(
            self.inferior,
            self.superior,
            each=config.partial,
            direction=set(self.guide_losses) <= {"cosine", "infonce"},
            bottleneck=config.bottleneck,
            dropout=config.guide_dropout,
            uncertain="heteroscedastic" in self.guide_losses,
            critic=critic,
        )

    @property
    def requires(self) -> Requirements:
        """Classification; both roles in training, one at test."""
        kinds = ("image", "bag", "features", "text")
        at_test = None if self.config.partial and self.config.read_out != "both" else self._needed
        return Requirements(("classification",), kinds, at_training=self.problem.names, at_test=at_test)

    @property
    def _needed(self) -> tuple[str, ...]:
        """The modalities that the read-out rests on."""
        roles = {"superior": self.better, "both": self.problem.names}
        return roles.get(self.config.read_out, self.cheaper)

    @property
    def pretrained(self) -> Mapping[str, str]:
        """Weights of the encoders of both roles."""
        asked = self.config.pretrained
        return self.inferior.pretrained(asked, "inferior") | self.superior.pretrained(asked, "superior")

    def supports(self, subset: Iterable[str]) -> bool:
        """Subsets with all that the read-out rests on; with `partial`, with one inferior modality."""
        have, needed = set(subset), set(self._needed)
        if not have <= set(self.problem.names):
            return False
        return bool(have & needed) if self.config.partial and self.config.read_out != "both" else have >= needed

    def reads(self, subset: Iterable[str]) -> tuple[str, ...]:
        """Those of a subset that it looks at: never a superior one, unless the read-out is of it."""
        have = set(subset)
        return tuple(name for name in self.problem.names if name in have and name in self._needed)

    @property
    def encoded_by(self) -> tuple[str, ...]:
        """The encoders alone, so that G and the decoder learn from one and the same cache."""
        return ("inferior", "superior")

    @property
    def counted(self) -> tuple[str, ...]:
        """The moments of superior latents."""
        return ("guide.moments",)

    @property
    def together(self) -> tuple[tuple[str, ...], ...]:
        """The inferior images, where they are channels of one network."""
        return (self.cheaper,) if self.inferior.fusion == "channels" else ()

    def stages(self) -> tuple[Stage, ...]:
        """Two classifiers, G, the decoder; then S + I and the end-to-end stage where they are asked for."""
        config = self.config
        first, second = (() if config.partial else self.cheaper), self.better if len(self.better) == 1 else ()
        found = [
            self._base("inferior", first),
            self._base("superior", second),
            Stage(
                "guidance",
                ("guide",),
                {"": Optimiser(config.guide_optimiser, config.guide_rate, momentum=0.9)},
                modalities=(*first, *second),
                one_of=(self.cheaper, self.better),
                targets=(),
                inputs="encoded",
                augment=False,
                epochs=config.guide_epochs,
                batch_size=config.guide_batch,
                monitor=Monitor("loss"),
                least_rows=2 if "infonce" in self.guide_losses else 1,
                remedy="Give cases of both modalities, without which nothing is learned from the superior one",
            ),
            self._last("decoder", "head_guided", first, judged=self.cheaper),
        ]
        if self.head_both is not None:
            found.append(self._last("both", "head_both", self.problem.names, judged=self.problem.names))
        return (*found, self._finetuning(first)) if config.finetune != "none" else tuple(found)

    def _last(self, name: str, head: str, modalities: tuple[str, ...], *, judged: tuple[str, ...]) -> Stage:
        """A decoder on frozen latents."""
        config = self.config
        how = Optimiser(config.decoder_optimiser, config.decoder_rate, config.decoder_decay, momentum=0.9)
        return Stage(
            name,
            (head,),
            {"": how},
            modalities=modalities,
            one_of=(self.cheaper,),
            inputs="encoded",
            augment=False,
            balance=config.balance,
            epochs=config.decoder_epochs,
            batch_size=config.decoder_batch,
            monitor=config.monitor(judged),
        )

    def _base(self, role: Literal["inferior", "superior"], modalities: tuple[str, ...]) -> Stage:
        config, names = self.config, self.cheaper if role == "inferior" else self.better
        return Stage(
            role,
            (role, f"head_{role}", *(("items",) if role == "superior" and self.items is not None else ())),
            {"": config.optimisation()},
            modalities=modalities,
            reads=names,
            balance=config.balance,
            steps=config.steps,
            monitor=config.monitor(names),
        )

    def _finetuning(self, modalities: tuple[str, ...]) -> Stage:
        config = self.config
        every = config.finetune == "all"
        return Stage(
            "finetune",
            ("guide", "head_guided", *(("inferior", "head_inferior") if every else ())),
            {"": Optimiser("adamw", config.finetune_rate, config.weight_decay, "poly")},
            modalities=modalities,
            one_of=(self.cheaper,),
            inputs="raw" if every else "encoded",
            augment=every,
            balance=config.balance,
            steps=config.finetune_steps,
            monitor=config.monitor(self.cheaper),
        )

    def losses(self, batch: Batch, stage: Stage) -> dict[str, Tensor]:
        """Cross-entropy of the classifiers and decoders; of G, how far its estimate is from the superior latent."""
        if stage.name == "superior" and self.items is not None:
            return self._bag_terms(batch, self.items)
        if stage.inputs == "raw":
            batch = batch.restrict(self._hide(batch.present))
            latents = self._encoded(batch, {"inferior": self.cheaper, "superior": self.better}.get(stage.name))
        else:
            latents = {name: value for name, value in batch.encodings().items() if isinstance(value, Tensor)}
        present = batch.present if stage.inputs == "raw" else self._hide(batch.present)
        if stage.name == "guidance":
            return self._guide_terms(batch, latents, present)
        config = self.config
        readers: dict[str, ReadOut] = {"inferior": "inferior", "superior": "superior", "both": "both"}
        how = readers.get(stage.name, "guided")
        logits, rows = self._logits(how, latents, present)
        weights = self.weights if how in ("inferior", "superior") else self.last_weights
        targets, factors = self.problem.targets, config.target_weights
        known = labelled_where(batch, rows)
        terms = classification_losses(logits, known, targets, class_weights=weights, target_weights=factors)
        if stage.name == "finetune":
            terms |= self._guide_terms(batch, latents, present)
            if config.finetune == "all":
                own, rows = self._logits("inferior", latents, present)
                known = labelled_where(batch, rows)
                more = classification_losses(own, known, targets, class_weights=self.weights, target_weights=factors)
                terms |= {f"inferior/{name}": value for name, value in more.items()}
        return terms

    def _bag_terms(self, batch: Batch, items: InstanceLoss) -> dict[str, Tensor]:
        """The superior classifier as CLAM: cross-entropy of the bag, and the instance loss of its items."""
        (name,), share, factors = self.better, self.config.instance, self.config.target_weights
        bag, targets = batch.bag(name), self.problem.targets
        latent, attention, embedded = self.superior.encoders[name](bag.items, bag.valid)
        known, logits = labelled_where(batch, batch.is_present(name)), self.head_superior(latent)
        terms = classification_losses(logits, known, targets, class_weights=self.weights, target_weights=factors)
        of_items = items(embedded, attention, bag.valid, batch=known)
        more = {f"items/{key}": share * factors.get(key, 1.0) * value for key, value in of_items.items()}
        return {key: (1 - share) * value for key, value in terms.items()} | more

    def _hide(self, present: Tensor) -> Tensor:
        """With `partial`, rows are seen through random subsets of their inferior modalities."""
        if not (self.config.partial and self.training):
            return present
        columns = [self.problem.names.index(name) for name in self.cheaper]
        kept = present.clone()
        kept[:, columns] = draw_subsets(present[:, columns])
        return kept

    def _guide_terms(self, batch: Batch, latents: Mapping[str, Tensor], present: Tensor) -> Losses:
        """The losses of G, Equation (4), on the rows that have a pair; beside them the error of the mean as an estimate."""
        columns = columns_of(self.problem.names, present)
        truth = self.superior.join(latents, columns).detach()
        parts = [columns[name][:, None].expand(-1, self.superior.sizes[name]) for name in self.better]
        known = torch.cat(parts, dim=1) & any_of(columns, self.cheaper)[:, None]
        moments = self.guide.moments
        if self.guide.training:
            moments.update(truth, known)
        found = self.guide(self.inferior.join(latents, columns), columns)
        scale = moments.scale if self.config.standardise else None
        terms = guide_terms(self.guide_losses, found, truth, known=known, scale=scale, head=self.head_superior)
        if isinstance(self.guide.critic, CosineCritic):
            rows = known.all(dim=1)  # estimates against latents; other patients of the batch are negatives
            groups = [group for group, kept in zip(batch.groups, rows.tolist(), strict=True) if kept]
            numbers = [group_numbers(groups, device=truth.device)]
            scores = contrast(self.guide.critic, found[0][rows].float(), truth[rows].float(), groups=numbers)
            terms["infonce"] = -self.guide_losses["infonce"] * info_nce(scores.joint, scores.marginal, scores.negative)
        error = squared_error(found[0], truth, known)
        return Losses(terms, {"mse": error, "mse of the mean": squared_error(moments.mean.expand_as(truth), truth, known)})

    def predict(self, batch: Batch) -> Prediction:
        """Probabilities as `read_out` says; what that does not rest on is not touched."""
        self.require_support(batch.present)
        return self.decode(self._encoded(batch, self._needed), batch.present)

    def validate(self, batch: Batch, stage: Stage) -> Prediction:
        """What the stage trains: I, S, G(I), G(I) + I, or S + I."""
        readers: dict[str, ReadOut] = {"inferior": "inferior", "superior": "superior", "guidance": "guide", "both": "both"}
        latents = self._encoded(batch, {"inferior": self.cheaper, "superior": self.better}.get(stage.name))
        return self._prediction(readers.get(stage.name, "guided"), latents, batch.present)

    def encode(self, batch: Batch) -> dict[str, Features]:
        """{modality: (B, F)} of inferior and superior ones."""
        return dict(self._encoded(batch, None))

    def decode(self, features: Mapping[str, Features], present: Tensor) -> Prediction:
        """The read-out on the latents; extras of G(I) + I tell what guidance did to each case."""
        latents = {name: value for name, value in features.items() if isinstance(value, Tensor)}
        return self._prediction(self.config.read_out, latents, present)

    def _encoded(self, batch: Batch, names: tuple[str, ...] | None) -> dict[str, Tensor]:
        """Latents of all, or of those that are needed."""
        wanted = set(self.problem.names if names is None else names)
        found = self.inferior.encode(batch) if wanted & set(self.cheaper) else {}
        return found | (self.superior.encode(batch) if wanted & set(self.better) else {})

    def _logits(self, how: ReadOut, latents: Mapping[str, Tensor], present: Tensor) -> tuple[dict[str, Tensor], Tensor]:
        """Logits, and (B,) bool the rows that have what they rest on."""
        columns = columns_of(self.problem.names, present)
        rows = any_of(columns, self.better if how == "superior" else self.cheaper)
        if how == "superior":
            return self.head_superior(self.superior.join(latents, columns)), rows
        inferior = self.inferior.join(latents, columns)
        if how == "inferior":
            return self.head_inferior(inferior), rows
        if how == "both" and self.head_both is not None:
            superior = self.superior.join(latents, columns)
            return self.head_both(torch.cat([superior, inferior], dim=1)), rows & any_of(columns, self.better)
        estimate, _ = self.guide.estimate(inferior, columns)
        if how == "guide":
            return self.head_superior(estimate), rows
        return self.head_guided(torch.cat([estimate, inferior], dim=1)), rows

    def _prediction(self, how: ReadOut, latents: Mapping[str, Tensor], present: Tensor) -> Prediction:
        targets = self.head_guided.targets
        logits, _ = self._logits(how, latents, present)
        found = class_probabilities(logits, targets)
        roles = {"superior": self.better, "both": self.problem.names}.get(how, self.cheaper)
        used = present & torch.tensor([name in roles for name in self.problem.names], device=present.device)
        return Prediction(found, used, self._extras(found, latents, present) if how == "guided" else {})

    def _extras(self, found: Mapping[str, Tensor], latents: Mapping[str, Tensor], present: Tensor) -> dict[str, Tensor]:
        """What guidance did to each case.

        distance: how far the estimate is from what superior latents look like, see `Moments.distance`; changed/<target>: 1
        where the answer is not that of I; inferior/<target>: probabilities of I. With a heteroscedastic G also uncertainty:
        the mean of error variance over latent variance.
        """
        columns, moments, targets = columns_of(self.problem.names, present), self.guide.moments, self.head_guided.targets
        inferior = self.inferior.join(latents, columns)
        estimate, log_variance = self.guide.estimate(inferior, columns)
        extras = {"distance": moments.distance(estimate)}
        if log_variance is not None and bool(moments.alive.any()):
            extras["uncertainty"] = (log_variance.exp() / moments.variance)[:, moments.alive].mean(dim=1)
        alone = class_probabilities(self.head_inferior(inferior), targets)
        return extras | changes(alone, found, targets) | {f"inferior/{name}": value for name, value in alone.items()}
