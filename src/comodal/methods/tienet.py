"""`tienet`: findings from an image and its report; where there is no report it writes one first. A baseline of CMIM's Table 1.

Wang, Peng, Lu, Lu, Summers (2018), TieNet: Text-Image Embedding Network for Common Thorax Disease Classification and Reporting
in Chest X-rays, CVPR, arXiv:1801.04334. The last map of an encoder goes through a 1 x 1 convolution to the places at which an
LSTM looks while it reads or writes the report (`comodal.networks.attention_lstm`); what the report says (AETE) and where it
looked (SW-GAP) are classified together. The loss is alpha L_C + (1 - alpha) L_R: cross-entropy of the findings, weighted by
class, and of the words under teacher forcing.

One function says the logits, of an image and words, whether these were written by a radiologist or by the network:

| present | words |
| --- | --- |
| image, report | those of the report |
| image | `absent: generated`: what the network writes (T* of Sylvain et al. 2021); `absent: empty`: none |

Training sees cases without a report in the same two ways; they teach no words.

Beyond the paper: `text_dropout_rate` takes the report away from so many training cases in each step, which makes the joint head
learn what it will see at test; `absent: empty` falls back on the image; `stop_gradient` keeps what the LSTM learns from the
networks of the image; a beam search.

Deviations: weights of classes are "balanced" for each finding, counted on training cases, where the paper also weighs images
with and without findings; several targets have a head each. The paper's vectors of words were trained beforehand, as with
`vectors` here; without that file they are learned. The rate falls as in the other methods. The paper's text was not at hand:
sizes are those of re-implementations that agree, and the errors of these (states before the update, padding that gets weight,
unsorted labels) are not repeated.

Axis letters: B cases, N places of the image, C channels, T tokens of a report, K classes.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from comodal.batch import Batch
from comodal.errors import ConfigError, message, nearest
from comodal.method import Citation, Method, MethodConfig, Optimiser, Prediction, Problem, Requirements, Stage
from comodal.modality import Modality
from comodal.networks.attention_lstm import AttentionLSTM, Reports, TextAndPlaces
from comodal.networks.class_settings import ClassificationConfig
from comodal.networks.classification import (
    ClassHeads,
    Logits,
    check_target_weights,
    class_probabilities,
    class_weights,
    classification_losses,
)
from comodal.networks.regions import RegionEncoder
from comodal.networks.texts import WordVectors
from comodal.processes import mean_over_processes

WRITTEN = "generated_report"


class TieNetConfig(ClassificationConfig):
    """Configuration of `tienet`."""

    on_cpu: ClassVar[Mapping[str, Any]] = {"encoder": "resnet18"}
    at_test: ClassVar[frozenset[str]] = frozenset({"beam"})

    encoder: str | dict[str, str] = Field("resnet50", description="of the image, as published: a ResNet; see docs/encoders.md")
    optimiser: Literal["adam", "adamw", "sgd"] = Field("adam", description="as published")
    judge: Literal["loss", "AUROC", "balanced_accuracy"] = Field("AUROC", description="what chooses the weights, on validation")
    rate: float = Field(1e-3, gt=0, description="of all but the encoder, as published")
    encoder_rate: float = Field(1e-4, gt=0, description="of the encoder")
    weight_decay: float = Field(1e-4, ge=0, description="as published")
    dropout: float = Field(0.5, ge=0, lt=1, description="on what is classified, and on states before the words; as published")
    alpha: float = Field(0.85, gt=0, le=1, description="weight of the loss of findings; that of words has the rest")
    transition: int = Field(1024, ge=1, description="channels of the places")
    words: int = Field(200, ge=1, description="size of the vectors of words")
    units: int = Field(256, ge=1, description="of the LSTM")
    attention: int = Field(256, ge=1, description="units of the attention over places")
    rows: int = Field(5, ge=1, description="of the attention over time")
    row_units: int = Field(2000, ge=1, description="hidden units of the attention over time")
    longest: int = Field(100, ge=1, description="tokens of a report that are read or written")
    judged_on: tuple[str, ...] = Field((), description="modalities, together, that the judge is shown; empty: the image alone")
    absent: Literal["generated", "empty"] = Field("generated", description="what stands for a report that is not there")
    text_dropout_rate: float = Field(0.0, ge=0, le=1, description="probability to take away the report of a training case")
    stop_gradient: bool = Field(False, description="the LSTM teaches the encoder and the transition nothing")
    beam: int = Field(1, ge=1, description="reports pursued while writing; 1: the likeliest word each time")


class TieNet(Method):
    """An encoder, a network that reads and writes, and joint heads; see the module."""

    Config: ClassVar[type[MethodConfig]] = TieNetConfig
    config: TieNetConfig
    paper: ClassVar[Citation] = Citation(
        "Wang, Peng, Lu, Lu, Summers",
        "TieNet: Text-Image Embedding Network for Common Thorax Disease Classification and Reporting in Chest X-rays",
        2018,
        "CVPR",
        "arXiv:1801.04334",
    )

    def __init__(self, problem: Problem, config: TieNetConfig) -> None:
        super().__init__(problem, config)
        check_target_weights(config.target_weights, problem)
        image, self.report = _image_and_text(problem)
        self.image = image.name
        unread = [("text", "the LSTM of tienet reads the reports")]
        unread += [("slices", "tienet reads volumes whole")] if problem.dims_of(image.name) == 3 else []
        for key, why in unread:
            if getattr(config, key) != (default := TieNetConfig.model_fields[key].default):
                raise ConfigError(message(f"method.{key}", f"stay {default}: {why}", getattr(config, key), do="Leave it out"))
        if config.alpha == 1 and config.absent == "generated":
            do = "Set method.absent to empty, or alpha to less than 1"
            raise ConfigError(message("method.alpha", "be below 1 for a network that writes reports", config.alpha, do=do))
        if config.judged_on and set(config.judged_on) - {self.report} != {self.image}:
            rule, do = "name the image, or the image and the report", f"Name {self.image}, or leave it out"
            raise ConfigError(message("method.judged_on", rule, ", ".join(config.judged_on), do=do))
        dims, patch = problem.dims_of(image.name), problem.patch_of(image.name)
        name = _encoder_of(config, image.name)
        self.encoder = RegionEncoder(name, dims, image.channels, norm=config.norm, patch=patch, modality=image.name)
        channels, units = config.transition, config.units
        self.transition = nn.Linear(self.encoder.map_features, channels)  # on each place: a 1 x 1 convolution
        vectors = WordVectors(problem.vocabulary, config.words, frozen=bool(config.vectors) and not config.tune_vectors)
        self.reader = AttentionLSTM(problem.vocabulary, channels, vectors=vectors, units=units, attention=config.attention)
        self.joint = TextAndPlaces(units, hidden=config.row_units, rows=config.rows)
        self.heads = ClassHeads(problem.targets, units + channels, hidden=config.hidden, dropout=config.dropout)
        self.dropout = nn.Dropout(config.dropout)
        self.class_weights = class_weights(config.class_weights, problem)

    @property
    def requires(self) -> Requirements:
        """Classification of an image; reports in training."""
        return Requirements(("classification",), ("image", "text"), at_training=self.problem.names, at_test=(self.image,))

    @property
    def pretrained(self) -> Mapping[str, str]:
        """Weights of the encoder, and vectors of words."""
        for name in self.config.pretrained:
            if name != self.image:
                do = f"Name {self.image}"
                raise ConfigError(message("method.pretrained", "name the image", repr(name), do=do))
        source = self.config.pretrained.get(self.image)
        found = {"encoder": source} if source else {}
        return found | ({} if self.config.vectors is None else {"reader.vectors": self.config.vectors})

    @property
    def token_extras(self) -> tuple[str, ...]:
        """The report that was written."""
        return (WRITTEN,)

    # ------------------------------------------------------------------------------------------------ training
    def stages(self) -> tuple[Stage, ...]:
        """One stage, of all cases that have the image."""
        config = self.config
        rest = config.optimisation()
        encoder = Optimiser(rest.name, config.encoder_rate, rest.weight_decay, rest.schedule, rest.warmup, rest.momentum)
        return (
            Stage(
                "train",
                optimisers={"": rest, "encoder": encoder},
                modalities=(self.image,),
                balance=config.balance,
                steps=config.steps,
                monitor=config.monitor(tuple(n for n in self.problem.names if n in (config.judged_on or [self.image]))),
            ),
        )

    def losses(self, batch: Batch, stage: Stage) -> dict[str, Tensor]:
        """L_C of each target times alpha, and L_R, the mean over the tokens of all reports, times 1 - alpha."""
        config, places = self.config, self.places(batch)
        reports = Reports.of(batch.text(self.report), config.longest)
        told = reports.count > 0
        if self.training and config.text_dropout_rate:
            told = told & (torch.rand(len(told), device=told.device) >= config.text_dropout_rate)
        read = self._with_stand_ins(reports, told, places, beam=1)
        states, seen = self._read(places, read)
        logits = self._logits(states, seen, places=places, reports=read)
        found = classification_losses(
            logits, batch, self.problem.targets, class_weights=self.class_weights, target_weights=config.target_weights
        )
        terms = {name: config.alpha * value for name, value in found.items()}
        rows = Reports(read.words[told], read.count[told], read.whole[told])
        loss, count = self.reader.log_loss(states[told], rows, dropout=self.dropout)
        return terms | {"words": (1 - config.alpha) * mean_over_processes(loss, count)}

    # ------------------------------------------------------------------------------------------------ prediction
    def predict(self, batch: Batch) -> Prediction:
        """Probabilities of every target. Extra `generated_report`: (B, longest) ids that were written, 0 after the last."""
        self.require_support(batch.present)
        places = self.places(batch)
        reports = Reports.of(batch.text(self.report), self.config.longest)
        told = reports.count > 0
        read = self._with_stand_ins(reports, told, places, beam=self.config.beam)
        probabilities = class_probabilities(self.logits(places, read), self.problem.targets)
        column = [told if name == self.report else torch.ones_like(told) for name in self.problem.names]
        words = torch.where(told[:, None], 0, read.words)
        words = nn.functional.pad(words, (0, self.config.longest - words.shape[1]))
        return Prediction(probabilities, used=batch.present & torch.stack(column, dim=1), extras={WRITTEN: words})

    def places(self, batch: Batch) -> Tensor:
        """(B, N, C) of rows that all have the image."""
        found = self.encoder.last(self.encoder.low(batch.image(self.image)))
        places: Tensor = self.transition(found.flatten(2).transpose(1, 2))
        return places

    def logits(self, places: Tensor, reports: Reports) -> Logits:
        """{target: (B, K)} of images and words, whoever wrote them."""
        return self._logits(*self._read(places, reports), places=places, reports=reports)

    def _logits(self, states: Tensor, seen: Tensor, *, places: Tensor, reports: Reports) -> Logits:
        found: Logits = self.heads(self.joint(states, seen, places=places, steps=reports.steps))
        return found

    def _read(self, places: Tensor, reports: Reports) -> tuple[Tensor, Tensor]:
        found: tuple[Tensor, Tensor] = self.reader(places.detach() if self.config.stop_gradient else places, reports)
        return found

    def _with_stand_ins(self, reports: Reports, told: Tensor, places: Tensor, *, beam: int) -> Reports:
        """The reports, and what stands for those that are not there."""
        rows = ~told
        if not bool(rows.any()):
            return reports
        wide = self.config.longest if self.config.absent == "generated" else 0
        return reports.replaced(rows, Reports.written(self.reader.write(places[rows], longest=wide, beam=beam)))


def _encoder_of(config: TieNetConfig, image: str) -> str:
    """The name of the image's encoder."""
    if isinstance(config.encoder, str):
        return config.encoder
    for name in config.encoder:
        if name != image:
            raise ConfigError(message("method.encoder", "name the image", repr(name), do=nearest(name, [image])))
    return config.encoder.get(image, str(TieNetConfig.model_fields["encoder"].default))


def _image_and_text(problem: Problem) -> tuple[Modality, str]:
    """The two modalities."""
    images = [m for m in problem.modalities if m.kind == "image"]
    texts = [m for m in problem.modalities if m.kind == "text"]
    if len(images) != 1 or len(texts) != 1 or len(problem.modalities) != 2:
        got = ", ".join(f"{m.name} ({m.kind})" for m in problem.modalities)
        do = "Choose an image and its report in data.modalities"
        raise ConfigError(message("method tienet", "get an image and a text", got, do=do))
    return images[0], texts[0].name
