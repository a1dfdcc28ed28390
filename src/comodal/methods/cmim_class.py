"""`cmim-class`: CMIM for classification (Sylvain et al. 2021): learn from images and reports, predict from either or both.

Each modality has an encoder that gives local features Lambda (places of the last map; words) and a global one Gamma. The
global ones of a case are put together by a low-rank bilinear product. Beside the cross-entropies, encoders maximise what these
share,

.. math:: L_C = lambda_C L_classif - lambda_{l->g} L_{l->g} - lambda_{l->l} L_{l->l},

terms as in `information.cross_modal`. Critics serve the training alone, and so does a report where only the image is there.

| present | heads |
| --- | --- |
| one modality | its own, on Gamma of it |
| several | the joint ones, on the product over those present; with `joint_weight: 0` the mean of the logits of their own ones |

Beyond the paper, a modality may be `added` afterwards without labels: its encoder is trained against the frozen one of
`aligned_to`, by a critic that pins the coordinates (`information.alignment`), and stands in for it where it is absent.

Deviations. The paper prints the joint term of the estimate with a sign that makes it useless, and adds terms to be maximised to
one to be minimised; here the signs are right. Not stated and chosen here: lambdas, negatives (other patients with other
reports), the bilinear form, heads (each modality's own, and joint ones). Its "categorical cross-entropy" is binary for findings
that go together. Text encoder, see `networks.texts`. Volumes work as pictures do.

Axis letters: see `comodal.batch`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Annotated, Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from comodal.batch import Batch, Features, cleared
from comodal.errors import ConfigError, message, nearest
from comodal.information.alignment import Alignment
from comodal.information.cross_modal import JOINT, CrossModal, View, compared
from comodal.information.pairs import any_apart, group_numbers
from comodal.method import Citation, Losses, Method, MethodConfig, Monitor, Prediction, Problem, Requirements, Stage
from comodal.networks.class_settings import ClassificationConfig
from comodal.networks.classification import (
    ClassHeads,
    Logits,
    check_target_weights,
    class_probabilities,
    class_weights,
    classification_losses,
)
from comodal.networks.joint import LowRankBilinear
from comodal.networks.local_features import local_encoder, local_features, local_pretrained
from comodal.networks.regions import RegionEncoder
from comodal.networks.segmentation import labelled_where
from comodal.networks.subsets import draw_subsets
from comodal.networks.texts import TextEncoder

OWN, BOTH = "own_", "joint"
ADDED = "added-"


class CMIMClassConfig(ClassificationConfig):
    """Configuration of `cmim-class`. The paper itself takes Adam at 1e-4 until validation no longer improves."""

    encoder: str | dict[str, str] = Field("resnet50", description="of images: a ResNet, or {modality: ResNet}")
    judge: Literal["loss", "AUROC", "balanced_accuracy"] = Field("AUROC", description="what chooses the weights, on validation")
    judged_on: tuple[str, ...] = Field((), description="modalities, each by itself, on which it does; empty: the images")
    own_weight: float = Field(1.0, gt=0, description="weight of the loss of each modality's own heads")
    joint_weight: float = Field(1.0, ge=0, description="weight of the joint heads' loss; 0: no joint heads")
    joint: int = Field(512, ge=1, description="size of the joint embedding")
    rank: int = Field(512, ge=1, description="of the bilinear product")
    lambda_ll: float = Field(0.1, ge=0, description="weight of the local-local information")
    lambda_lg: float = Field(0.1, ge=0, description="weight of the local-global information")
    lambda_gg: float = Field(0.0, ge=0, description="weight of the global-global information; not used in the paper")
    global_target: Literal["joint", "other"] = Field(
        "joint", description="global features of all modalities (the paper), which hold the own one, too, or of each other one"
    )
    lambda_warmup: float = Field(
        0.0, ge=0, lt=1, description="fraction of the steps over which the information reaches the encoders more and more"
    )
    bound: Literal["jsd", "info_nce", "smile", "nwj", "dv"] = Field("jsd", description="estimate of the information")
    critic: tuple[Annotated[int, Field(ge=1)], ...] = Field(
        (512, 512), min_length=1, description="widths of the critics' hidden layers, as in DIM"
    )
    positions: int | None = Field(16, ge=1, description="positions drawn from each map in each step; null takes all")
    read_words: int = Field(16, ge=1, description="words drawn from each report in each step")
    negatives: Literal["shift", "derangement", "all"] = Field("shift", description="of other patients: one each, or all")
    added: tuple[str, ...] = Field((), description="modalities that are added without labels once the others are trained")
    aligned_to: str | None = Field(None, description="the one for which they stand in; null: the first of the others")
    added_steps: int | None = Field(None, ge=1, description="optimiser steps for each added modality; null: as steps")
    only_added: bool = Field(False, description="train the added ones alone, on another run's weights: train --init RUN")

    # 512 channels of words and of critics would cost more than all networks of images together
    on_cpu: ClassVar[Mapping[str, Any]] = {"critic": (64, 64), "joint": 128, "rank": 128, "text_channels": 128}

    @property
    def weights(self) -> dict[str, float]:
        """{term: weight} of the terms that are on."""
        given = {"ll": self.lambda_ll, "lg": self.lambda_lg, "gg": self.lambda_gg}
        return {term: weight for term, weight in given.items() if weight > 0}


class CMIMClass(Method):
    """CMIM for classification; see the module."""

    Config: ClassVar[type[MethodConfig]] = CMIMClassConfig
    config: CMIMClassConfig
    paper: ClassVar[Citation] = Citation(
        "Sylvain, Dutil, Berthier, Di Jorio, Luck, Hjelm, Bengio",
        "CMIM: Cross-Modal Information Maximization for Medical Imaging",
        2021,
        "ICASSP",
        "arXiv:2010.10593",
    )

    def __init__(self, problem: Problem, config: CMIMClassConfig) -> None:
        super().__init__(problem, config)
        check_target_weights(config.target_weights, problem)
        self.main, self.anchor = _roles(problem, config)
        self.encoders, self.heads = nn.ModuleDict(), nn.ModuleDict()
        for name in problem.names:
            # Each begins from the same random state: with its head it is what `classifier` on this modality would be.
            with torch.random.fork_rng(devices=[]):
                self.encoders[name] = local_encoder(problem, name, config)
                if name in self.main:
                    self.heads[OWN + name] = self._new_heads(self._size(name))
        several = len(self.main) > 1
        asked = config.global_target == "joint" and bool({"lg", "gg"} & set(config.weights))
        joint = several and (config.joint_weight > 0 or asked)
        sizes = {name: self._size(name) for name in self.main}
        self.embedding = LowRankBilinear(sizes, rank=config.rank, features=config.joint) if joint else None
        if several and config.joint_weight > 0:
            self.heads[BOTH] = self._new_heads(config.joint)
        self.information = self._critics() if several and config.weights else None
        self.alignment = nn.ModuleDict({n: Alignment(self._size(n), self._size(self.anchor)) for n in config.added})
        self.class_weights = class_weights(config.class_weights, problem)

    def _new_heads(self, size: int) -> ClassHeads:
        return ClassHeads(self.problem.targets, size, hidden=self.config.hidden, dropout=self.config.dropout)

    def _encoder(self, name: str) -> RegionEncoder | TextEncoder:
        encoder = self.encoders[name]
        assert isinstance(encoder, RegionEncoder | TextEncoder)
        return encoder

    def _aligner(self, name: str) -> Alignment:
        found = self.alignment[name]
        assert isinstance(found, Alignment)
        return found

    def _size(self, name: str) -> int:
        return self._encoder(name).features

    def _critics(self) -> CrossModal:
        config, sizes = self.config, {JOINT: (self.config.joint, 0)}
        drawn: dict[str, int | None] = {}
        for name in self.main:
            encoder = self._encoder(name)
            if isinstance(encoder, TextEncoder):
                sizes[name], drawn[name] = (encoder.features, encoder.local_features), config.read_words
            else:
                sizes[name], drawn[name] = (encoder.features, encoder.map_features), config.positions
        return CrossModal(
            sizes,
            compared(self.main, tuple(config.weights), config.global_target),
            config.weights,
            drawn=drawn,
            ragged=self._reports,
            hidden=config.critic,
            bound=config.bound,
            negatives=config.negatives,
            climb=round(config.lambda_warmup * config.steps),
        )

    @property
    def _reports(self) -> tuple[str, ...]:
        return tuple(name for name in self.problem.names if self.problem.modality(name).kind == "text")

    @property
    def requires(self) -> Requirements:
        """Classification from images and reports, whichever there are."""
        return Requirements(("classification",), ("image", "text"), at_training=self.problem.names)

    @property
    def encoded_by(self) -> tuple[str, ...]:
        """The encoders: heads change no feature."""
        return ("encoders",)

    @property
    def pretrained(self) -> Mapping[str, str]:
        """Weights of the encoders."""
        return local_pretrained(self.encoders, "encoders", self.config)

    @property
    def borrowed(self) -> tuple[str, ...]:
        """With `only_added`: all that predicts beside the added modalities."""
        if not self.config.only_added:
            return ()
        return (*(f"encoders.{name}" for name in self.main), "heads", *(("embedding",) if BOTH in self.heads else ()))

    # ------------------------------------------------------------------------------------------------ training
    def stages(self) -> tuple[Stage, ...]:
        """All but the added modalities at once; then each of these, without labels, against a frozen encoder."""
        config = self.config
        how = {"": config.optimisation()}
        images = tuple(name for name in self.main if name not in self._reports)
        judged = config.judged_on or images or self.main
        rows = 2 if self.information is not None else 1  # patients are compared with each other
        own = tuple(f"encoders.{name}" for name in self.main)
        first = Stage(
            "train",
            (*own, "heads", "embedding", "information") if config.added else ("",),
            how,
            reads=self.main if config.added else None,
            balance=config.balance,
            steps=config.steps,
            monitor=config.monitor(*((name,) for name in judged)),
            least_rows=rows,
        )
        later = [
            Stage(
                ADDED + name,
                (f"encoders.{name}", f"alignment.{name}"),
                how,
                modalities=(name, self.anchor),
                targets=(),
                reads=(name, self.anchor),
                steps=config.added_steps or config.steps,
                monitor=Monitor("loss", "min", config.patience),
                least_rows=2,
            )
            for name in config.added
        ]
        return tuple(later) if config.only_added else (first, *later)

    def losses(self, batch: Batch, stage: Stage) -> Losses:
        """Cross-entropies of each modality's own heads and of the joint ones, and minus lambda times the information.

        A head learns from the rows that have its modality, the joint ones from those that have two or more, seen, of three,
        through random subsets; the information comes from rows that have what is compared.
        """
        if stage.name.startswith(ADDED):
            return self._align(batch, stage.name.removeprefix(ADDED))
        views = {name: View(*local_features(self._encoder(name), batch, name)) for name in self.main}
        terms: dict[str, Tensor] = {}
        for name, view in views.items():
            found = self._classify(OWN + name, view.whole, labelled_where(batch, view.rows), self.config.own_weight)
            terms |= {f"{term}/{name}": value for term, value in found.items()}
        latents = {name: view.whole for name, view in views.items()}
        there = torch.stack([view.rows for view in views.values()], dim=1)
        several = there.sum(dim=1) > 1
        if BOTH in self.heads:
            seen = there
            if self.training and len(self.main) > 2:
                drawn = draw_subsets(there | ~there.any(dim=1, keepdim=True))  # a row must have something to draw from
                seen = torch.where(drawn.sum(dim=1, keepdim=True) > 1, drawn & there, there)
            shown = labelled_where(batch, several)
            terms |= self._classify(BOTH, self._joined(latents, seen), shown, self.config.joint_weight)
        if self.information is None:
            return Losses(terms)
        if self.embedding is not None:
            views[JOINT] = View(several, self._joined(latents, there))
        alike = {name: self._alike(batch, name) for name in self._reports if name in self.main}
        patients = group_numbers(batch.groups, device=batch.device)
        shared, told = self.information(views, patients=patients, alike=alike)
        return Losses(terms | shared, told)

    def _classify(self, head: str, latent: Tensor, batch: Batch, weight: float) -> dict[str, Tensor]:
        config = self.config
        found = classification_losses(
            self.heads[head](latent),
            batch,
            self.problem.targets,
            class_weights=self.class_weights,
            target_weights=config.target_weights,
        )
        return {term: weight * value for term, value in found.items()}

    def _joined(self, latents: Mapping[str, Tensor], there: Tensor) -> Tensor:
        """(B, D): Gamma of all that is there; (B, M of `main`) bool."""
        assert self.embedding is not None
        found: Tensor = self.embedding(latents, {name: there[:, at] for at, name in enumerate(self.main)})
        return found

    def _alike(self, batch: Batch, name: str) -> Tensor:
        """(B,) numbers, equal for reports that are equal word for word; that of a case without one is its own."""
        text = batch.text(name).to("cpu")
        said = [ids[words].numpy().tobytes() for ids, words in zip(text.ids, text.attention, strict=True)]
        return group_numbers(
            [s or f"case {case}".encode() for s, case in zip(said, batch.ids, strict=True)], device=batch.device
        )

    def _align(self, batch: Batch, name: str) -> Losses:
        """Minus the information between an added modality, mapped, and the frozen Gamma of the one for which it stands in."""
        rows, whole, *_ = local_features(self._encoder(name), batch, name)
        with torch.no_grad():
            known, anchor, *_ = local_features(self._encoder(self.anchor), batch, self.anchor)
        both = (rows & known).nonzero().flatten()
        alike = [self._alike(batch, n)[both] for n in (name, self.anchor) if n in self._reports]
        patients = group_numbers(batch.groups, device=batch.device)[both]
        groups = [patients, *alike]
        value = self._aligner(name)(whole[both], anchor[both], groups=groups)
        told = {f"I/{name}-{self.anchor}": value} if any_apart(groups) else {}
        return Losses({f"align/{name}": -value}, told)

    # ------------------------------------------------------------------------------------------------ prediction
    def predict(self, batch: Batch) -> Prediction:
        """Probabilities of every target, by the heads that the module's table names."""
        self.require_support(batch.present)
        return self.decode(self.encode(batch), batch.present)

    def encode(self, batch: Batch) -> dict[str, Features]:
        """{modality: (Gamma (B, F), (B, 1) 1 where there was something to read: a report may have no word)}."""
        found: dict[str, Features] = {}
        for name in self.problem.names:
            if bool(batch.is_present(name).any()):
                rows, whole, *_ = local_features(self._encoder(name), batch, name)
                found[name] = (whole, rows[:, None].to(whole.dtype))
        return found

    def decode(self, features: Mapping[str, Features], present: Tensor) -> Prediction:
        """The heads of the only modality, else the joint ones, row by row. A report without a word counts as absent.

        An added modality is read where the one that it stands in for is absent; several of them are averaged.
        """
        latents, there = self._told(features, present)
        bits = torch.stack([there[name] for name in self.main], dim=1)
        used = torch.stack([there[name] for name in self.problem.names], dim=1)
        at = self.main.index(self.anchor)
        standing = {name: there[name] & ~there[self.anchor] for name in self.config.added}
        if standing:
            stand = torch.stack(list(standing.values()))
            each = [torch.where(rows[:, None], self._aligner(n).map(latents[n]), 0.0) for n, rows in standing.items()]
            mean = torch.stack(each).sum(0) / stand.sum(0).clamp(min=1)[:, None]
            latents[self.anchor] = torch.where(stand.any(0)[:, None], mean, latents[self.anchor])
            bits[:, at] |= stand.any(0)
            for name, rows in standing.items():
                used[:, self.problem.names.index(name)] = rows
        nothing = ~bits.any(dim=1)  # but a report without a word: what its heads say of nothing
        bits[:, at] |= nothing
        used = torch.where(nothing[:, None], present, used)
        return Prediction(class_probabilities(self._logits(latents, bits), self.problem.targets), used=used)

    def _told(self, features: Mapping[str, Features], present: Tensor) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """{modality: (B, F)}, zeros where there is nothing, and {modality: (B,) bool} where there is something."""
        latents: dict[str, Tensor] = {}
        there: dict[str, Tensor] = {}
        like = next(
            (value[0] for value in features.values() if isinstance(value, tuple)), torch.zeros(0, device=present.device)
        )
        for at, name in enumerate(self.problem.names):
            there[name], latents[name] = torch.zeros_like(present[:, at]), like.new_zeros(len(present), self._size(name))
            if name in features:
                value = cleared(features[name], present[:, at])
                assert isinstance(value, tuple)
                latents[name], there[name] = value[0], value[1][:, 0] > 0
        return latents, there

    def _logits(self, latents: Mapping[str, Tensor], bits: Tensor) -> Logits:
        own = {name: self.heads[OWN + name](latents[name]) for at, name in enumerate(self.main) if bool(bits[:, at].any())}
        several, parts = bits.sum(dim=1, keepdim=True) > 1, bits.unbind(dim=1)
        found: Logits = {}
        for target in (t.name for t in self.problem.targets):
            summed = [torch.where(parts[self.main.index(n)][:, None], logits[target], 0.0) for n, logits in own.items()]
            found[target] = torch.stack(summed).sum(0) / bits.sum(dim=1, keepdim=True)
        if BOTH in self.heads and bool(several.any()):
            both: Logits = self.heads[BOTH](self._joined(latents, bits))
            found = {target: torch.where(several, both[target], value) for target, value in found.items()}
        return found

    def reads(self, subset: Iterable[str]) -> tuple[str, ...]:
        """Those that it looks at: an added modality only where the one for which it stands in is absent."""
        have = super().reads(subset)
        return tuple(name for name in have if name not in self.config.added or self.anchor not in have)


def _roles(problem: Problem, config: CMIMClassConfig) -> tuple[tuple[str, ...], str]:
    """The modalities that are trained with labels, and the one for which added ones stand in.

    Raises:
        ConfigError: Too few, or a name that has no such part.
    """
    for key, names in (("added", config.added), ("judged_on", config.judged_on)):
        for name in names:
            if name not in problem.names:
                do = nearest(name, problem.names)
                raise ConfigError(message(f"method.{key}", "name modalities of the problem", repr(name), do=do))
    main = tuple(name for name in problem.names if name not in config.added)
    if not main or len(problem.names) < 2:
        got, do = ", ".join(problem.names), "Add one to data.modalities, take classifier, or leave one out of method.added"
        raise ConfigError(message("method cmim-class", "get two or more modalities, one of them not added", got, do=do))
    anchor = config.aligned_to or main[0]
    for key, name in (("aligned_to", anchor), *(("judged_on", name) for name in config.judged_on)):
        if name not in main:
            do = f"Choose of {', '.join(main)}"
            raise ConfigError(message(f"method.{key}", "name modalities that are trained with labels", repr(name), do=do))
    if config.only_added and not config.added:
        do = "Name them, for instance method.added=[lateral], or leave it out"
        raise ConfigError(message("method.only_added", "be false where no modality is added", "true", do=do))
    return main, anchor
