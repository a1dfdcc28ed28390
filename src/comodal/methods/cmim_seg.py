"""`cmim-seg`: CMIM for segmentation (Sylvain et al. 2021): learn with every modality, predict with one, or with any subset.

One U-Net for each modality and one for all of them learn to segment together. Besides, the maps of each single-modality encoder
are to keep as much mutual information as possible with those of the multimodal encoder: the local-local term, Section 3.2,

.. math:: L_{l->l} = 1 / N^2 sum_{n, m} I^(Lambda^{Mi}_n, Lambda^M_m), I^ the Jensen-Shannon estimate with a learned critic,

so that what only other modalities show is looked for where it left a trace. The critics serve the training alone.

Deviations. The paper prints the joint term of the estimate with a sign that makes it useless; here it has that of Deep InfoMax,
which it cites. It leaves open whether each modality has a network of its own ("either one or multiple sequences as distinct
channels"): it has here, `shared` is the other reading. It trains the cross-entropy; here soft Dice is added, as everywhere in
this toolkit, unless `loss: ce`. It predicts from one modality; other subsets, its future work, average the logits of their
modalities' networks, and the complete set takes the multimodal one. Weights of the terms, widths and negatives are not stated.

Axis letters: see `comodal.batch`; N, M positions of a map.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Annotated, Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from comodal.batch import Batch, Features, Value, cleared
from comodal.errors import ConfigError, message
from comodal.information.critics import ConcatConvolveCritic
from comodal.information.objective import Objective
from comodal.information.pairs import draw_locations, group_numbers, sample_locations, tokens
from comodal.method import (
    Citation,
    Losses,
    Method,
    MethodConfig,
    Monitor,
    OneStageConfig,
    Prediction,
    Problem,
    Requirements,
    Stage,
)
from comodal.networks.segmentation import labelled_where, segmentation_losses, segmentation_probabilities
from comodal.networks.unet import EarlyFusionUNet, logits_and_maps, unet_filters

ALL = "*"  # names the multimodal network in loss terms; no modality can be called so
TERMS = ("ll", "lg", "gg")  # local-local, local-global, global-global


class CMIMSegConfig(OneStageConfig):
    """Configuration of `cmim-seg`. The paper itself takes Adam at 1e-4 until validation no longer improves."""

    network: Literal["residual", "nnunet"] = Field(
        "residual", description="MONAI UNet with residual units, or nnU-Net's plain net"
    )
    width: int = Field(16, ge=1, description="filters of the first level")
    levels: int = Field(5, ge=2, description="resolutions")
    shared: bool = Field(
        False, description="one network, trained on single images and on all, absent ones zero, instead of one per modality"
    )
    loss: Literal["dice-ce", "ce"] = Field("dice-ce", description="ce, cross-entropy alone, is the paper's")
    lambda_seg: float = Field(1.0, gt=0, description="weight of the segmentation loss")
    lambda_ll: float = Field(0.1, ge=0, description="weight of the local-local information; 0 trains plain networks")
    lambda_lg: float = Field(0.0, ge=0, description="weight of the local-global information; off in the paper's segmentation")
    lambda_gg: float = Field(0.0, ge=0, description="weight of the global-global information; off in the paper's segmentation")
    bound: Literal["jsd", "info_nce", "smile", "nwj", "dv"] = Field("jsd", description="estimate of the information")
    critic: tuple[Annotated[int, Field(ge=1)], ...] = Field(
        (512, 512), min_length=1, description="widths of the critics' hidden layers, as in DIM"
    )
    maps: tuple[int, ...] = Field((-1,), min_length=1, description="levels whose maps are compared: 0 finest, -1 bottleneck")
    positions: int | None = Field(32, ge=1, description="positions drawn from each map in each step; null takes all")
    aligned: bool = Field(False, description="pair each position with itself only, instead of all with all")
    negatives: Literal["shift", "derangement", "all"] = Field("shift", description="of other patients: one each, or all")
    detach_multimodal: bool = Field(False, description="the information teaches the single-modality networks only")

    on_cpu: ClassVar[Mapping[str, Any]] = {"critic": (64, 64)}  # 512 and 512 would cost more than all networks together

    @property
    def weights(self) -> dict[str, float]:
        """{term: weight} of the terms that are on."""
        given = dict(zip(TERMS, (self.lambda_ll, self.lambda_lg, self.lambda_gg), strict=True))
        return {term: weight for term, weight in given.items() if weight > 0}


class CMIMSeg(Method):
    """CMIM for segmentation; see the module."""

    Config: ClassVar[type[MethodConfig]] = CMIMSegConfig
    config: CMIMSegConfig
    paper: ClassVar[Citation] = Citation(
        "Sylvain, Dutil, Berthier, Di Jorio, Luck, Hjelm, Bengio",
        "CMIM: Cross-Modal Information Maximization for Medical Imaging",
        2021,
        "ICASSP",
        "arXiv:2010.10593",
    )

    def __init__(self, problem: Problem, config: CMIMSegConfig) -> None:
        super().__init__(problem, config)
        self.multimodal = self._network()
        self.images = self.multimodal.images
        alone = () if config.shared else self.images
        self.single = nn.ModuleDict({name: self._network([name]) for name in alone})
        channels = self._channels()
        wanted = [(term, name, level) for term in config.weights for name in self.images for level in channels]
        self.objectives = nn.ModuleDict(
            {f"{term}-{name}-{level}": self._objective(channels[level]) for term, name, level in wanted}
        )

    def _network(self, images: Iterable[str] | None = None) -> EarlyFusionUNet:
        """Every network begins from the same random state, so that each is what `unet` on its images would be."""
        c = self.config
        with torch.random.fork_rng(devices=[]):
            return EarlyFusionUNet(self.problem, kind=c.network, width=c.width, levels=c.levels, images=images)

    def _objective(self, channels: int) -> Objective:
        critic = ConcatConvolveCritic(channels, channels, hidden=self.config.critic)
        return Objective(critic, bound=self.config.bound, negatives=self.config.negatives)

    def _channels(self) -> dict[int, int]:
        """{level: channels of its map} of the levels to compare; counted from 0.

        Raises:
            ConfigError: There is no such level.
        """
        filters = unet_filters(self.problem.spatial_dims, width=self.config.width, levels=self.config.levels)
        for level in self.config.maps:
            if not -len(filters) <= level < len(filters):
                do = "0 is the finest, -1 the bottleneck"
                raise ConfigError(message("method.maps", f"be levels of a network that has {len(filters)}", level, do=do))
        return {level % len(filters): filters[level] for level in self.config.maps}

    @property
    def requires(self) -> Requirements:
        """Segmentation from images, whichever there are."""
        return Requirements(tasks=("segmentation",))

    def stages(self) -> tuple[Stage, ...]:
        """One stage; the weights kept are the best on validation subjects, by the mean over single images and all of them."""
        seen = tuple(dict.fromkeys([*((name,) for name in self.images), self.images]))
        monitor = Monitor("DSC", "max", self.config.patience, subsets=seen)
        how = {"": self.config.optimisation()}
        # A case is compared with one of the same process, or with those of all, of which there must be another.
        rows = 2 if self.config.weights else 1
        steps = self.config.steps
        return (Stage("train", optimisers=how, sampler="foreground", steps=steps, monitor=monitor, least_rows=rows),)

    # ------------------------------------------------------------------------------------------------ training
    def losses(self, batch: Batch, stage: Stage) -> Losses:
        """Segmentation by every network, and minus the information that each single one shares with the multimodal one.

        L_S of Section 3.3, summed over the modalities: lambda_ll (-I^) + lambda_S L_seg. A network learns from the rows that
        have its modality; the information from those that have another one, too.
        """
        terms: dict[str, Tensor] = {}
        found: dict[str, list[Tensor]] = {}
        for name in (ALL, *self.images):
            logits, found[name] = self._run(batch, name)
            seen = batch if name == ALL else labelled_where(batch, batch.is_present(name))
            for term, value in segmentation_losses(logits, seen, self.problem.targets).items():
                if self.config.loss == "dice-ce" or term.startswith("ce/"):
                    terms[f"{term}/{name}"] = self.config.lambda_seg * value
        told: dict[str, Tensor] = {}
        for term, weight in self.config.weights.items():
            for name in self.images:
                value, compared = self._information(term, name, batch, found=found)
                if compared:  # the value of a batch without negatives is 0, which would read as the best there is
                    told[f"I/{term}/{name}"] = value
                terms[f"{term}/{name}"] = -weight * value
        return Losses(terms, told)

    def _run(self, batch: Batch, name: str) -> tuple[Tensor, list[Tensor]]:
        """Logits and maps of the network of one modality, or of `ALL`, for all rows; zeros stand where a row lacks it."""
        if name == ALL:
            return logits_and_maps(self.multimodal.network, self.multimodal.stack(batch))
        if self.config.shared:
            alone = [batch.image(n) if n == name else torch.zeros_like(batch.image(n)) for n in self.images]
            return logits_and_maps(self.multimodal.network, torch.cat(alone, dim=1))
        return logits_and_maps(self._single(name).network, batch.image(name))

    def _single(self, name: str) -> EarlyFusionUNet:
        network = self.single[name]
        assert isinstance(network, EarlyFusionUNet)
        return network

    def _information(self, term: str, name: str, batch: Batch, *, found: Mapping[str, list[Tensor]]) -> tuple[Tensor, bool]:
        """The estimate for one modality, averaged over the levels, and whether there were two patients to compare.

        Every process enters it, also without a row.
        """
        others = torch.stack([batch.is_present(n) for n in self.images if n != name]).any(0) if len(self.images) > 1 else None
        rows = (batch.is_present(name) & others if others is not None else batch.is_present(name)).nonzero().flatten()
        patients = group_numbers([batch.groups[i] for i in rows.tolist()], device=batch.device)
        values = []
        for level in dict.fromkeys(level % len(found[name]) for level in self.config.maps):
            objective = self.objectives[f"{term}-{name}-{level}"]
            x, y = found[name][level][rows], found[ALL][level][rows]
            pair = self._features(term, x, y.detach() if self.config.detach_multimodal else y)
            values.append(objective(*pair, groups=[patients], aligned=self.config.aligned and term == "ll"))
        return torch.stack(values).mean(), len(patients.unique()) > 1

    def _features(self, term: str, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """What is paired: positions (R, N, F) of maps, or their means (R, F), which stand for global features."""
        one, two = tokens(x), tokens(y)  # (R, N, F)
        count = one.shape[1]
        drawn = self.config.positions
        if drawn is not None and drawn < count:
            places = draw_locations(len(one), count, drawn, shared=self.config.aligned)
            again = places if self.config.aligned else draw_locations(len(two), count, drawn)
            one, two = sample_locations(one, places), sample_locations(two, again)
        whole = {"ll": (one, two), "lg": (one, tokens(y).mean(1)), "gg": (tokens(x).mean(1), tokens(y).mean(1))}
        return whole[term]

    # ------------------------------------------------------------------------------------------------ prediction
    def predict(self, batch: Batch) -> Prediction:
        """From one image its network, from all the multimodal one, from others the mean of the logits of their networks."""
        self.require_support(batch.present)
        if self.config.shared or bool(batch.present[:, self._columns].all()):  # no single network would be heard
            logits = self.multimodal(batch)
            return Prediction(segmentation_probabilities(logits, self.problem.targets), used=batch.present)
        return self.decode(self.encode(batch), batch.present)

    @property
    def _columns(self) -> list[int]:
        """Where the images stand among the modalities."""
        return [self.problem.names.index(name) for name in self.images]

    @property
    def encodes(self) -> bool:
        """Unless all images share one network."""
        return not self.config.shared

    def encode(self, batch: Batch) -> dict[str, Features]:
        """{image: (logits of its network, the image itself for the multimodal one)}."""
        some = [name for name in self.images if bool(batch.is_present(name).any())]
        return {name: (self._single(name)(batch).float(), batch.image(name)) for name in some}

    def decode(self, features: Mapping[str, Features], present: Tensor) -> Prediction:
        """Averages the logits of what each row has; rows that have every image go through the multimodal network."""
        self.require_support(present)
        columns = {name: present[:, at] for name, at in zip(self.images, self._columns, strict=True)}
        held = {name: _pair(cleared(features[name], columns[name])) for name in self.images if name in features}
        complete = torch.stack(list(columns.values())).all(0)
        count = torch.stack(list(columns.values())).sum(0).clamp(min=1)
        total = torch.stack([value[0] for value in held.values()]).sum(0)
        logits = total / count.reshape(-1, *[1] * (total.ndim - 1))
        if bool(complete.any()):
            stack = torch.cat([held[name][1] for name in self.images], dim=1)[complete]
            logits = logits.index_put((complete.nonzero().flatten(),), self.multimodal.network(stack).float())
        return Prediction(segmentation_probabilities(logits, self.problem.targets), used=present)


def _pair(value: Value) -> tuple[Tensor, Tensor]:
    """The logits and the image that `CMIMSeg.encode` put together."""
    assert isinstance(value, tuple)
    logits, image = value
    return logits, image
