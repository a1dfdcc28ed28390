"""`local-mi`: regions of an image and sentences of its report are made to tell of each other; then a classifier of images.

Liao, Moyer, Cha, Quigley, Berkowitz, Horng, Golland and Wells (2021), Multimodal Representation Learning via Maximization of
Local Mutual Information, MICCAI, arXiv:2103.04537. First, without labels, an image encoder, an encoder of sentences and a
critic f maximise together

    sum over pairs j and sentences m of max over regions n of I(z^I_j(n), z^R_j(m)),                 Equation (5)

with the bound of Donsker and Varadhan (`bound: dv` or `mine`), Equation (3), or of CPC (`info_nce`), Equation (4). Then the
classifier is trained on few labels, its lower blocks frozen or all of it tuned: see `comodal.networks.retraining`. At test the
image is enough; neither the encoder of sentences nor the critic is touched. With `level: global` image and report are one
vector each, as in the public code, which has nothing else.

What is unclear, and what is done here. Equation (4) as printed lacks + log N and takes the outer expectation over the product
of the marginals; here it is the CPC that it cites: each sentence picks its own partner among those of the batch. The public
code's "infonce" is its "dv" but for a constant, so that it compares nothing; here the two differ. Equation (5) is one-way:
every sentence finds a region, a region may be found by none; `symmetric` also asks which of the found regions a sentence
belongs to. The maximum is taken over estimates of each region, n* = argmax_n of f(z_n, s) minus log-sum-exp over the negatives,
and only region n* learns. The 4 x 4 x 512 local features of the paper are 2 x 2 places of the code's 8 x 8 x 128 map side by
side, which the paper does not say. Negatives are never of the same case, of the same patient, nor the same words: normal
sentences are repeated so often that they would else be told apart from themselves.

Beyond the paper: `sentences: all`, `pool: soft`, `symmetric`, `critic_norm` (features that share a large mean leave a small
critic, whose units are then on or off for all of them, nothing to learn from: one training of three stayed at zero
nats); the critic is kept, so that `match` grounds sentences in regions, finds reports for images, and classifies by prompts.

Axis letters: see `comodal.batch`; R reports, N regions, D features of a region.
"""

from __future__ import annotations

import math
from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from comodal.batch import Batch, Text
from comodal.errors import ConfigError, message
from comodal.information.critics import ConcatCritic
from comodal.information.local import SelectBy, maximum_over_regions
from comodal.information.local_images import maximum_against_images, soft_maximum
from comodal.information.objective import Objective
from comodal.information.pairs import Scores, contrast, group_numbers, word_numbers
from comodal.method import Citation, Losses, Matches, MethodConfig, Problem
from comodal.networks.retraining import CHUNK, PretrainedByReports, RetrainingConfig, drawn_sentences, in_chunks
from comodal.networks.texts import as_one


class LocalMIConfig(RetrainingConfig):
    """Configuration of `local-mi`."""

    level: Literal["local", "global"] = Field("local", description="regions and sentences, or image and report as wholes")
    bound: str = Field("info_nce", description="info_nce (CPC, Equation 4), dv or mine (Equation 3), nwj, smile, demi, jsd")
    sentences: Literal["random", "all"] = Field("random", description="local: of a report in a step, one at random (the paper)")
    select_by: SelectBy = Field("estimate", description="local: the region is chosen by its estimate, or by the score alone")
    against: Literal["sentences", "images"] = Field(
        "sentences",
        description="local: negatives are other sentences at the chosen region (the paper), or other images, each at its best",
    )
    pool: Literal["max", "soft"] = Field(
        "max",
        description="local: over regions the maximum (Equation 5), or a soft one: log-mean-exp of scores against images, "
        "scores weighted by a softmax without gradient against sentences",
    )
    temperature: float = Field(1.0, gt=0, allow_inf_nan=False, description="of the soft maximum; to 0 it is the maximum")
    symmetric: bool = Field(False, description="info_nce: the mean of both ways, sentences among regions as well")
    critic: tuple[int, ...] = Field((1024, 512), min_length=1, description="hidden units of f")
    critic_norm: bool = Field(
        False, description="features of each region, sentence or whole get mean 0 and variance 1 before f"
    )
    smile_clip: float = Field(5.0, gt=0, description="of the bound smile, in nats")


class LocalMI(PretrainedByReports):
    """Local mutual information of images and reports; see the module."""

    Config: ClassVar[type[MethodConfig]] = LocalMIConfig
    config: LocalMIConfig
    paper: ClassVar[Citation] = Citation(
        "Liao, Moyer, Cha, Quigley, Berkowitz, Horng, Golland, Wells",
        "Multimodal Representation Learning via Maximization of Local Mutual Information",
        2021,
        "MICCAI",
        "arXiv:2103.04537",
    )

    def __init__(self, problem: Problem, config: LocalMIConfig) -> None:
        super().__init__(problem, config)
        said = {"symmetric": config.symmetric, "select_by": config.select_by != "estimate"}
        for key, asked in said.items():
            if asked and config.level == "local" and config.against != "sentences":
                rule, do = "be left as it is where negatives are images", "Leave it out, or set method.against to sentences"
                raise ConfigError(message(f"method.{key}", rule, getattr(config, key), do=do))
        features = self.image.region_features if config.level == "local" else self.image.features
        critic = ConcatCritic(features, self.text.features, hidden=config.critic)
        self.objective = Objective(critic, bound=config.bound, symmetric=config.symmetric, clip=config.smile_clip)

    @property
    def learned(self) -> tuple[str, ...]:
        """The critic, and of the image encoder the lower blocks, or all of it where an image is one vector."""
        low = [f"image.{prefix}" for prefix in self.image.low_prefixes]
        return (*(low if self.config.level == "local" else ["image"]), "objective")

    def pair_losses(self, images: Tensor, text: Text, groups: tuple[str, ...]) -> dict[str, Tensor]:
        """-I of Equation (5), or of the wholes; beside it I, the most that it can be, and how often regions are found."""
        scores, told = (self._local if self.config.level == "local" else self._global)(images, text, groups)
        value = self.objective.of(scores)
        told = {"information": value, "log K": math.log(scores.candidates), **told}
        return Losses({f"mi/{self.config.level}": -value}, told)

    def _local(self, images: Tensor, text: Text, groups: tuple[str, ...]) -> tuple[Scores, dict[str, Tensor | float]]:
        """Equation (5): every sentence with the region that tells most of it."""
        config = self.config
        ids, attention, owner = drawn_sentences(text) if config.sentences == "random" else _every(text)
        regions = self._normed(self.of_images(images, lambda part: self.image.regions(self.image.low(part))))
        spoken = Text(ids[:, None], attention[:, None])
        said = self._normed(self.of_reports(spoken, lambda part: self.text.sentences(part)[0][:, 0]))
        given = (self.objective.critic, regions, said)
        kin = [group_numbers([groups[at] for at in owner.tolist()]), word_numbers(ids, attention)]
        soft = self._temperature
        if config.against == "sentences":
            selection = maximum_over_regions(*given, owner=owner, groups=kin, select_by=config.select_by, temperature=soft)
        else:
            selection = maximum_against_images(*given, owner=owner, groups=kin, temperature=soft)
        chosen = torch.bincount(selection.region, minlength=regions.shape[1])
        return selection.scores, {"most chosen region": float(chosen.max()) / max(len(owner), 1)}

    def _global(self, images: Tensor, text: Text, groups: tuple[str, ...]) -> tuple[Scores, dict[str, Tensor | float]]:
        """The image and the report as wholes, as in the public code."""
        x, y = self.of_images(images, self.image), self.of_reports(text, lambda part: self.text.report(part)[0])
        kin = [group_numbers(groups), word_numbers(*as_one(text))]
        return contrast(self.objective.critic, self._normed(x), self._normed(y), groups=kin), {}

    def _normed(self, features: Tensor) -> Tensor:
        """Features (..., D) as the critic sees them, float32."""
        features = features.float()
        return nn.functional.layer_norm(features, features.shape[-1:]) if self.config.critic_norm else features

    @property
    def _temperature(self) -> float:
        """Of the maximum over regions; 0 is the maximum itself."""
        return self.config.temperature if self.config.pool == "soft" else 0.0

    @property
    def compared(self) -> Literal["sentences", "images", "both"]:
        """InfoNCE compares what it has as negatives; the other bounds, and its symmetric form, compare both.

        Where negatives are sentences, regions are chosen by what exceeds their negatives, whatever the bound.
        """
        one_way = self.config.bound == "info_nce" and not self.config.symmetric
        if self.config.level == "local" and self.config.against == "sentences":
            return "sentences"
        return ("sentences" if self.config.level == "global" else "images") if one_way else "both"

    def match(self, batch: Batch, text: Text) -> Matches:
        """Scores by the critic: sentences at regions, and reports by the mean over their sentences of the maximum over regions.

        The maximum is soft where it was soft in training and other images were negatives; against sentences, where each
        sentence had weights of its own, it is the maximum itself. With `level: global` images and reports as wholes. A report
        without a word has NaN.
        """
        self.require_support(batch.present)
        critic, images = self.objective.critic, batch.image(self.picture)
        parts = images.split(CHUNK)
        if self.config.level == "global":
            x = torch.cat([critic.encode_x(self._normed(self.image(part))) for part in parts])
            found = [self.text.report(part) for part in in_chunks(text)]
            y, there = (torch.cat(each) for each in zip(*found, strict=True))
            scores = critic.pair(x, critic.encode_y(self._normed(y)))
            return Matches(torch.where(there, scores, torch.nan))
        maps = [self.image.low(part) for part in parts]
        x = torch.cat([critic.encode_x(self._normed(self.image.regions(low))) for low in maps])
        ids, attention, which = _distinct(text)
        said = [self.text.sentences(part)[0][:, 0] for part in in_chunks(Text(ids[:, None], attention[:, None]))]
        pairs = critic.pair(x.flatten(0, 1), critic.encode_y(self._normed(torch.cat(said))))
        there = text.attention.any(dim=2)
        wide = pairs.new_full((len(images), *there.shape, x.shape[1]), torch.nan)  # (B, R, S, N)
        wide[:, there] = pairs.view(*x.shape[:2], -1).transpose(1, 2)[:, which]
        soft = self._temperature if self.config.against == "images" else 0.0
        return Matches(soft_maximum(wide, soft, dim=3).nanmean(dim=2), wide, self.image.grid(maps[0]), soft)


def _every(text: Text) -> tuple[Tensor, Tensor, Tensor]:
    """All sentences of all reports, as `drawn_sentences`."""
    there = text.attention.any(dim=2)
    return text.ids[there], text.attention[there], there.nonzero()[:, 0]


def _distinct(text: Text) -> tuple[Tensor, Tensor, Tensor]:
    """Each sentence once, since many reports say the same: ids (D, L), attention (D, L), and which one each sentence is."""
    ids, attention, _ = _every(text)
    numbers, which = word_numbers(ids, attention).unique(return_inverse=True)
    places = torch.arange(len(ids), device=ids.device)
    first = torch.full_like(numbers, len(ids)).scatter_reduce(0, which, places, "amin")
    return ids[first], attention[first], which
