"""`convirt`: an image and its report are pulled together among those of the batch; then a classifier of images.

Zhang, Jiang, Miura, Manning and Langlotz (2020), Contrastive Learning of Medical Visual Representations from Paired Images and
Text, MLHC 2022, arXiv:2010.00747. Both sides are projected, v = g_v(f_v(x)) and u = g_u(f_u(y)), and with <v, u> the cosine

    l(v -> u) = -log exp(<v_i, u_i> / t) / sum_k exp(<v_i, u_k> / t),                               Equation (2)
    L = mean over i of lambda l(v -> u) + (1 - lambda) l(u -> v),                                     Equations (3), (4)

with t = 0.1 and lambda = 0.75. What follows is the re-training of `comodal.networks.retraining`; at test the image is enough.

Deviations. A report is read as a whole by default, to be compared with `local-mi`; the paper draws one sentence of it
(`unit: sentence`). Other images of a patient and reports of the same words are never negatives, as in `local-mi`; in the paper
they are. The loss is printed without its constant log K. The paper's encoder of reports is Clinical BERT with a maximum over
tokens; its "frozen" freezes all of the image encoder, here the last block is trained.

Axis letters: see `comodal.batch`; R reports.
"""

from __future__ import annotations

import math
from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from comodal.batch import Batch, Text
from comodal.information.bounds import info_nce
from comodal.information.critics import CosineCritic, mlp
from comodal.information.pairs import contrast, group_numbers, word_numbers
from comodal.method import Citation, Losses, Matches, MethodConfig, Problem
from comodal.networks.retraining import CHUNK, PretrainedByReports, RetrainingConfig, drawn_sentences, in_chunks
from comodal.networks.texts import as_one


class ConVIRTConfig(RetrainingConfig):
    """Configuration of `convirt`."""

    encoder: str | dict[str, str] = Field("resnet50", description="of the image: a ResNet; see docs/encoders.md")
    pretrain_rate: float = Field(1e-4, gt=0, description="of image encoder and projections, by Adam")
    unit: Literal["report", "sentence"] = Field("report", description="an image with its report, or with a sentence of it")
    embedding: int = Field(512, ge=1, description="units of both layers of a projection")
    temperature: float = Field(0.1, ge=0.01, description="of the cosine")
    image_to_text: float = Field(0.75, ge=0, le=1, description="lambda: weight of the way from image to report")


class ConVIRT(PretrainedByReports):
    """Contrastive learning of image and report; see the module."""

    Config: ClassVar[type[MethodConfig]] = ConVIRTConfig
    config: ConVIRTConfig
    paper: ClassVar[Citation] = Citation(
        "Zhang, Jiang, Miura, Manning, Langlotz",
        "Contrastive Learning of Medical Visual Representations from Paired Images and Text",
        2020,
        "MLHC 2022",
        "arXiv:2010.00747",
    )

    def __init__(self, problem: Problem, config: ConVIRTConfig) -> None:
        super().__init__(problem, config)
        size, t = config.embedding, config.temperature
        sides = {"image": self.image.features, "text": self.text.features}
        self.projections = nn.ModuleDict({name: mlp([features, size, size]) for name, features in sides.items()})
        self.cosine = CosineCritic(size, size, embedding=None, temperature=t, learned=False)

    @property
    def learned(self) -> tuple[str, ...]:
        """The image encoder and the projections of both; the temperature is not learned."""
        return ("image", "projections")

    def pair_losses(self, images: Tensor, text: Text, groups: tuple[str, ...]) -> dict[str, Tensor]:
        """Equation (4) less log K."""
        if self.config.unit == "sentence":
            ids, attention, _ = drawn_sentences(text)
            text = Text(ids[:, None], attention[:, None])
        x, y = self.of_images(images, self.image), self.of_reports(text, lambda part: self.text.report(part)[0])
        v, u = (self.projections[name](side) for name, side in (("image", x), ("text", y)))
        kin = [group_numbers(groups), word_numbers(*as_one(text))]
        scores = contrast(self.cosine, v, u, groups=kin)
        forth, back = (info_nce(way.joint, way.marginal, way.negative) for way in (scores, scores.columns()))
        share = self.config.image_to_text
        terms = {"infonce/image to text": -share * forth, "infonce/text to image": -(1 - share) * back}
        return Losses(terms, {"information": (forth + back) / 2, "log K": math.log(scores.candidates)})

    @property
    def compared(self) -> Literal["sentences", "images", "both"]:
        """Both ways, unless lambda is 1 or 0."""
        share = self.config.image_to_text
        return "both" if 0 < share < 1 else "sentences" if share else "images"

    def match(self, batch: Batch, text: Text) -> Matches:
        """Cosine / t of image and report, or the mean over its sentences, as `unit` says; NaN of a report without a word."""
        self.require_support(batch.present)
        images = [self.image(part) for part in batch.image(self.picture).split(CHUNK)]
        v = self.cosine.encode_x(self.projections["image"](torch.cat(images).float()))
        if self.config.unit == "report":
            found = [self.text.report(part) for part in in_chunks(text)]
            y, there = (torch.cat(each) for each in zip(*found, strict=True))
            scores = self.cosine.pair(v, self.cosine.encode_y(self.projections["text"](y.float())))
            return Matches(torch.where(there, scores, torch.nan))
        found = [self.text.sentences(part) for part in in_chunks(text)]
        y, there = (torch.cat(each) for each in zip(*found, strict=True))
        scores = self.cosine.pair(v, self.cosine.encode_y(self.projections["text"](y[there].float())))
        wide = scores.new_full((len(v), *there.shape), torch.nan)  # (B, R, S)
        wide[:, there] = scores
        return Matches(wide.nanmean(dim=2))
