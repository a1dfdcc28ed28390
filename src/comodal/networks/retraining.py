"""What follows a pretraining of images with reports: the classifier is trained again, its encoder frozen or tuned.

Liao et al. (2021), Section 4: `frozen` keeps the lower blocks and trains the last block and the heads, `tuned` trains all of
the encoder. Both begin from one pretraining: what it learned stays as it is, so that critic, grounding and retrieval go on
working, and each way of re-training has a copy of its own, made once, when its stage is first entered. A flag beside the copy
says that it has been made; it is saved with the weights, so that a resumed training does not make it again. `--init` takes
neither copies nor heads of another run: re-training always begins from the pretrained encoder, with new heads.

Deviation: the lower blocks run in eval mode where they are frozen; in the published code their running statistics go on moving.

Axis letters: see `comodal.batch`.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Mapping
from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from comodal.batch import Batch, Text
from comodal.errors import ConfigError, message, nearest
from comodal.method import Method, Monitor, Optimiser, Prediction, Problem, Requirements, Stage
from comodal.networks.class_settings import ClassificationConfig
from comodal.networks.classification import (
    ClassHeads,
    Logits,
    check_target_weights,
    class_probabilities,
    class_weights,
    classification_losses,
)
from comodal.networks.encoders import ENCODERS
from comodal.networks.regions import RegionEncoder
from comodal.networks.texts import is_published, text_encoder, text_pretrained

Way = Literal["tuned", "frozen"]
PRETRAIN = "pretrain"
CHUNK = 32  # images or reports that are encoded at a time where many are matched


class RetrainingConfig(ClassificationConfig):
    """Settings of methods that pretrain with reports; the settings of a stage alone are those of the re-training."""

    at_test: ClassVar[frozenset[str]] = frozenset({"read_out"})
    on_cpu: ClassVar[Mapping[str, object]] = {"encoder": "resnet6-small"}

    encoder: str | dict[str, str] = Field("resnet6", description="of the image: a ResNet; see docs/encoders.md")
    tiles: int = Field(
        0,
        ge=0,
        description="parts along each axis that the lower blocks see by themselves, so that regions share nothing; 0: none",
    )
    fold: int | None = Field(
        None, ge=1, description="places along each axis of the map that are one region; null: 2 in resnet6"
    )
    optimiser: Literal["adam", "adamw", "sgd"] = Field("adam", description="of the re-training, as published")
    rate: float = Field(5e-4, gt=0, description="of the re-training, as published")
    weight_decay: float = Field(0.0, ge=0, description="of the re-training")
    schedule: Literal["poly", "cosine", "constant"] = Field("constant", description="as published")
    pretrain_steps: int | None = Field(None, ge=0, description="of the pretraining; null: as steps; 0: none, for --init RUN")
    pretrain_epochs: int | None = Field(None, ge=1, description="in the place of pretrain_steps; 5 in the paper")
    pretrain_rate: float = Field(5e-4, gt=0, description="of image encoder and critic, by Adam")
    text_rate: float | None = Field(
        None, gt=0, description="of the encoder of reports, by AdamW; null: 2e-5 from published weights, else as pretrain_rate"
    )
    tune_text: bool = Field(True, description="train the encoder of reports as well; false only from published weights")
    text_decay: float = Field(0.1, ge=0, description="weight decay of the encoder of reports, not of its biases and norms")
    text_warmup: float = Field(
        0.1, ge=0, lt=1, description="fraction of the steps over which text_rate climbs; then it falls to 0"
    )
    retrain: Literal["tuned", "frozen", "both"] = Field("tuned", description="what is trained on the labels")
    retrain_epochs: int | None = Field(None, ge=1, description="in the place of steps; 50 in the paper")
    read_out: Way | None = Field(None, description="what predicts: tuned or frozen; null: tuned where it is trained")

    @property
    def fine_rate(self) -> float:
        """The highest learning rate of the encoder of reports; 2e-5 is that of the public code for Clinical BERT."""
        return self.text_rate or (2e-5 if is_published(self) else self.pretrain_rate)

    @property
    def ways(self) -> tuple[Way, ...]:
        """The ways of re-training that are trained."""
        return ("frozen", "tuned") if self.retrain == "both" else (self.retrain,)

    @property
    def way(self) -> Way:
        """The one that predicts.

        Raises:
            ConfigError: It is not trained.
        """
        asked = self.read_out or self.ways[-1]
        if asked not in self.ways:
            do = "Train with method.retrain=both"
            raise ConfigError(message("method.read_out", f"be trained ({', '.join(self.ways)} is)", asked, do=do))
        return asked


class Retrained(nn.Module):
    """A copy of an encoder, or of its last block alone, with heads.

    Args:
        encoder: The pretrained one.
        heads: For the targets.
        whole: Whether the lower blocks are copied, too, and trained.
    """

    copied: Tensor

    def __init__(self, encoder: RegionEncoder, heads: ClassHeads, *, whole: bool) -> None:
        super().__init__()
        self.whole = whole
        self.encoder = copy.deepcopy(_part(encoder, whole))
        self.heads = heads
        self.register_buffer("copied", torch.zeros((), dtype=torch.int64))

    def take(self, encoder: RegionEncoder) -> None:
        """Copies what was pretrained, unless that has been done."""
        if not int(self.copied):
            self.encoder.load_state_dict(_part(encoder, self.whole).state_dict())
            self.copied.fill_(1)

    def forward(self, images: Tensor, encoder: RegionEncoder) -> Logits:
        """Images (B, C, *spatial) to {target: (B, K) logits}; `encoder` has the lower blocks that were not copied."""
        if self.whole:
            return self.heads(self.encoder(images))  # type: ignore[no-any-return]
        return self.heads(encoder.whole(self.encoder(encoder.low(images))))  # type: ignore[no-any-return]


def _part(encoder: RegionEncoder, whole: bool) -> nn.Module:
    """The encoder, or its last block."""
    if whole:
        return encoder
    return nn.Sequential(*(encoder.network.get_submodule(name) for name in encoder.parts.last))


class PretrainedByReports(Method):
    """Base of methods that pretrain an image encoder with reports and then train a classifier of images.

    A subclass adds what is learned from pairs: `learned` (parameter prefixes, "text" left out), `pair_losses` and `match`.

    Args:
        problem: Has one image and one report.
        config: Settings.

    Attributes:
        picture: Name of the image modality.
        report: Name of the text modality.

    Raises:
        ConfigError: Other modalities, or a read-out that is not trained.
    """

    config: RetrainingConfig

    def __init__(self, problem: Problem, config: RetrainingConfig) -> None:
        super().__init__(problem, config)
        self.picture, self.report = (_only(problem, kind) for kind in ("image", "text"))
        self.way = config.way
        if not config.tune_text and not is_published(config):
            rule, do = "be true where the encoder of reports has learned nothing", "Name a published one in method.text"
            raise ConfigError(message("method.tune_text", rule, f"false for {config.text}", do=do))
        check_target_weights(config.target_weights, problem)
        name, modality = _encoder_name(config, problem, self.picture), problem.modality(self.picture)
        dims, patch = problem.dims_of(self.picture), problem.patch_of(self.picture)
        more = {"fold": config.fold, "tiles": config.tiles, "norm": config.norm, "patch": patch, "modality": self.picture}
        self.image = RegionEncoder(name, dims, modality.channels, **more)  # type: ignore[arg-type]
        self.text = text_encoder(problem.vocabulary, config)
        self.retrained = nn.ModuleDict()
        for way in config.ways:
            heads = ClassHeads(problem.targets, self.image.features, hidden=config.hidden, dropout=config.dropout)
            self.retrained[way] = Retrained(self.image, heads, whole=way == "tuned")
        self.class_weights = class_weights(config.class_weights, problem)

    @property
    def learned(self) -> tuple[str, ...]:
        """Parameter prefixes that the pretraining trains, beside the encoder of reports."""
        raise NotImplementedError(f"{type(self).__name__}.learned")

    def pair_losses(self, images: Tensor, text: Text, groups: tuple[str, ...]) -> dict[str, Tensor]:
        """What is minimised in the pretraining.

        Args:
            images: (B, C, *spatial) of rows that have an image and a report with at least one token; B may be 0.
            text: Their reports.
            groups: Their patients.
        """
        raise NotImplementedError(f"{type(self).__name__}.pair_losses")

    @property
    def requires(self) -> Requirements:
        """Classification; image and report in training, the image at test."""
        dims = ENCODERS[self.image.name].spatial_dims
        every = (self.picture, self.report) if self._pretrains else (self.picture,)
        return Requirements(("classification",), ("image", "text"), dims, at_training=every, at_test=(self.picture,))

    def reads(self, subset: Iterable[str]) -> tuple[str, ...]:
        """The image alone."""
        return tuple(name for name in set(subset) if name == self.picture)

    @property
    def pretrained(self) -> Mapping[str, str]:
        """Weights of the image encoder, and of that of reports."""
        asked = self.config.pretrained
        for name in asked:
            if name != self.picture:
                do = nearest(name, [self.picture])
                raise ConfigError(message("method.pretrained", "name the image", repr(name), do=do))
        images = {"image": asked[self.picture]} if asked else {}
        return {**images, **text_pretrained(self.config, "text")}

    @property
    def counted(self) -> tuple[str, ...]:
        """What `--init` leaves there: re-training begins from the pretrained encoder and with new heads."""
        return ("retrained",)

    @property
    def _pretrains(self) -> bool:
        return self.config.pretrain_steps != 0 or self.config.pretrain_epochs is not None

    def stages(self) -> tuple[Stage, ...]:
        """The pretraining on pairs, then the classifiers on labelled images."""
        config = self.config
        labelled = tuple(
            Stage(
                way,
                (f"retrained.{way}",),
                {"": config.optimisation()},
                modalities=(self.picture,),
                reads=(self.picture,),
                balance=config.balance,
                steps=config.steps if config.retrain_epochs is None else None,
                epochs=config.retrain_epochs,
                monitor=config.monitor((self.picture,)),
            )
            for way in config.ways
        )
        if not self._pretrains:
            return labelled
        text = Optimiser("adamw", config.fine_rate, config.text_decay, "linear", config.text_warmup, spare_vectors=True)
        steps = config.steps if config.pretrain_steps is None else config.pretrain_steps
        first = Stage(
            PRETRAIN,
            (*self.learned, *(("text",) if config.tune_text else ())),
            {"": Optimiser("adam", config.pretrain_rate), "text": text},
            modalities=(self.picture, self.report),
            targets=(),
            steps=steps if config.pretrain_epochs is None else None,
            epochs=config.pretrain_epochs,
            monitor=Monitor("loss"),
            least_rows=2,
            remedy="Give cases with image and report, or set method.pretrain_steps to 0 and start from another run by --init",
        )
        return (first, *labelled)

    def enter(self, stage: Stage) -> None:
        """As `Method.enter`; a way of re-training first copies what was pretrained, once."""
        if stage.name in self.retrained:
            self._reader(stage.name).take(self.image)
        super().enter(stage)

    def of_images(self, images: Tensor, encode: Callable[[Tensor], Tensor]) -> Tensor:
        """`encode` of (B, C, *spatial); of no image see `of_none`."""
        if len(images):
            return encode(images).float()
        return of_none(self.image, lambda: (encode(images.new_zeros(1, *images.shape[1:])),))[0].float()

    def of_reports(self, text: Text, encode: Callable[[Text], Tensor]) -> Tensor:
        """`encode` of B reports; of none see `of_none`."""
        if len(text.ids):
            return encode(text).float()
        word = a_word(text)
        return of_none(self.text, lambda: (encode(word),))[0].float()

    def _reader(self, way: str) -> Retrained:
        found = self.retrained[way]
        assert isinstance(found, Retrained)
        return found

    def losses(self, batch: Batch, stage: Stage) -> dict[str, Tensor]:
        """The negative of what image and report have in common; then weighted cross-entropy of each target."""
        if stage.name != PRETRAIN:
            logits = self._reader(stage.name)(batch.image(self.picture), self.image)
            targets, factors = self.problem.targets, self.config.target_weights
            weights = self.class_weights
            return classification_losses(logits, batch, targets, class_weights=weights, target_weights=factors)
        text = batch.text(self.report)
        # Rows without either, or with an empty report, reach no network: they would move running statistics.
        rows = batch.is_present(self.picture) & text.attention.flatten(1).any(dim=1)
        groups = tuple(group for group, kept in zip(batch.groups, rows.tolist(), strict=True) if kept)
        return self.pair_losses(batch.image(self.picture)[rows], Text(text.ids[rows], text.attention[rows]), groups)

    def predict(self, batch: Batch) -> Prediction:
        """Probabilities from the image alone; the encoder of reports is not touched."""
        self.require_support(batch.present)
        return self._prediction(batch, self.way)

    def validate(self, batch: Batch, stage: Stage) -> Prediction:
        """What the stage trains; in the pretraining, what predicts."""
        return self._prediction(batch, stage.name if stage.name in self.retrained else self.way)

    def _prediction(self, batch: Batch, way: str) -> Prediction:
        logits = self._reader(way)(batch.image(self.picture), self.image)
        used = torch.zeros_like(batch.present)
        used[:, batch.index(self.picture)] = batch.is_present(self.picture)
        return Prediction(class_probabilities(logits, self.problem.targets), used)


def of_none(network: nn.Module, features: Callable[[], tuple[Tensor, ...]]) -> tuple[Tensor, ...]:
    """Features (0, ...): what a process without rows puts into the exchange, with the graph that the others have.

    Processes exchange features, and then gradients of features and of parameters, all in the order in which the graph is gone
    back. A process whose graph lacks a network would be done with its parameters too early and meet the others' exchanges with
    another of its own. So the network sees one made-up row, of which nothing is taken; no running statistic moves.

    Args:
        network: Runs in eval mode meanwhile.
        features: Calls it with one row.
    """
    modes = {module: module.training for module in network.modules()}
    network.eval()
    try:
        return tuple(each[:0] for each in features())
    finally:
        for module, training in modes.items():
            module.training = training


def a_word(like: Text) -> Text:
    """A report of one made-up token, for `of_none`."""
    return Text(like.ids.new_zeros(1, 1, 1), like.attention.new_ones(1, 1, 1))


def in_chunks(text: Text) -> list[Text]:
    """Reports a few at a time, so that many of them fit into memory; at least one part."""
    count = max(len(text.ids), 1)
    return [Text(text.ids[at : at + CHUNK], text.attention[at : at + CHUNK]) for at in range(0, count, CHUNK)]


def drawn_sentences(text: Text) -> tuple[Tensor, Tensor, Tensor]:
    """A sentence of each report, at random: ids (B, L), attention (B, L), and whose it is (B,)."""
    there = text.attention.any(dim=2)
    at = torch.rand(there.shape, device=there.device).masked_fill(~there, -1.0).argmax(dim=1)
    rows = torch.arange(len(at), device=at.device)
    return text.ids[rows, at], text.attention[rows, at], rows


def _only(problem: Problem, kind: str) -> str:
    """The one modality of this kind."""
    names = [m.name for m in problem.modalities if m.kind == kind]
    others = [m.name for m in problem.modalities if m.kind not in ("image", "text")]
    if len(names) != 1 or others:
        got, do = ", ".join(problem.names), "Choose an image and a report, for instance data.modalities=[frontal, report]"
        raise ConfigError(message("data.modalities", "be one image and one report for this method", got, do=do))
    return names[0]


def _encoder_name(config: RetrainingConfig, problem: Problem, picture: str) -> str:
    if isinstance(config.encoder, str):
        return config.encoder
    for name in config.encoder:
        if name not in problem.names:
            raise ConfigError(message("method.encoder", "name modalities", repr(name), do=nearest(name, problem.names)))
    return config.encoder.get(picture, str(type(config).model_fields["encoder"].default))
