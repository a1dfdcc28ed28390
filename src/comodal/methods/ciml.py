"""`ciml`: complementary information mutual learning (Shen et al. 2024): each image takes from the others only what it lacks.

The task is shared out: each segmentor has a primary image and some of the regions. Its encoder sees that image alone; its
features go to the other segmentors as messages, and at each level of its decoder a gate weighs the messages of the others and
lets them through a variational filter, kappa ~ N(mu, sigma^2), whose divergence from N(0, I) costs. So a message is worth its
price only where it says something that the primary image does not. The result for a region is the mean over its owners.

.. math:: L = sum_omega [ Dice_omega + CE_omega + beta KL(N(mu, sigma^2) || N(0, I)) ], Equation (8), Dice as in Section 4.2

Beyond the paper: a message that is not there is kappa = 0, the prior mean, a segmentor without its primary image has no say,
and `message_dropout` prepares for both; `spare` heads stand in for a region all of whose owners are absent. What the paper
leaves open and how it was decided is in docs/methods/ciml.md.

Axis letters: see `comodal.batch`; b rows that have a segmentor's images, K senders of a segmentor.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, ClassVar, Literal, NamedTuple, TypeAlias

import torch
from pydantic import Field
from torch import Tensor, nn

from comodal.batch import Batch, Features
from comodal.errors import ConfigError, message
from comodal.information.variational import kl_to_standard
from comodal.method import (
    Citation,
    Complements,
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
from comodal.modality import Target
from comodal.networks.assignment import Opinion, Share, ensemble, narrowed, nested_regions, share_out
from comodal.networks.message_passing import Gate, Noise, level_channels, side_by_side
from comodal.networks.segmentation import labelled_where, region_logits, segmentation_losses, segmentation_probabilities
from comodal.networks.segmentors import Heard, Segmentors, count_classes, spread_rows
from comodal.processes import mean_over_processes

Head: TypeAlias = tuple[nn.Module, tuple[Target, ...], str]  # a last convolution, its targets, what its loss terms end in


class _Told(NamedTuple):
    """`Complements` in the making."""

    logits: dict[tuple[str, str], Tensor]
    maps: dict[tuple[str, str], Tensor]
    nats: dict[tuple[str, str], Tensor]


class CIMLConfig(OneStageConfig):
    """Configuration of `ciml`. The paper itself takes Adam at 1e-4 for 50 000 steps of two patches."""

    optimiser: Literal["adam", "adamw", "sgd"] = Field("adam", description="as in the paper")
    assignment: dict[str, tuple[str, ...]] | None = Field(
        None,
        description="{image or images joined by +: regions}; null: the paper's where it fits, else every region to every image",
    )
    width: int = Field(32, ge=1, description="filters of the first level; not stated, 24 and 32 are the plateau of Figure 14")
    levels: int = Field(4, ge=1, description="times that the encoder halves")
    norm: Literal["instance", "batch"] = Field("instance", description="the paper takes batch on BraTS2020, instance elsewhere")
    dilation: Literal[1, 2] = Field(1, description="of the convolutions that halve")
    messages: bool = Field(True, description="false: each segmentor alone, the baseline of Table 5")
    attention: bool = Field(True, description="false: messages are not weighed")
    filter: bool = Field(True, description="false: no variational filter, and no KL term")
    beta: float = Field(0.5, ge=0, description="weight of the KL term; 0.5 is the paper's best")
    kl: Literal["mean", "voxel", "sum"] = Field("mean", description="over elements; voxel sums channels, sum sums voxels, too")
    kl_levels: tuple[float, ...] | None = Field(None, description="weight of each level, the finest first; null: all alike")
    spread: Literal["log_variance", "softplus"] = Field("log_variance", description="what the sigma head says")
    combine: Literal["sum", "mean"] = Field("sum", description="how several kappa become one tensor")
    detach_messages: bool = Field(False, description="a segmentor's loss does not teach the encoders of the others")
    message_dropout: float = Field(0.0, ge=0, le=1, description="chance that a segmentor does not hear a message in training")
    spare: Literal["none", "detached", "learned"] = Field(
        "detached", description="heads for regions of absent owners; detached ones do not change what else is learned"
    )
    samples: int = Field(0, ge=0, description="draws of kappa at test; 0 takes its mean")
    nested: tuple[str, ...] = Field((), description="regions from the inside out that must contain each other, as [ET, TC, WT]")

    on_cpu: ClassVar[Mapping[str, Any]] = {"width": 8}
    patch_step: ClassVar[int] = 16
    at_test: ClassVar[frozenset[str]] = frozenset({"samples", "nested"})


class CIML(Method):
    """Complementary information mutual learning; see the module."""

    Config: ClassVar[type[MethodConfig]] = CIMLConfig
    config: CIMLConfig
    paper: ClassVar[Citation] = Citation(
        "Shen, Li, Chen, Wang, Zhu, Li, Wang, Jin",
        "Complementary Information Mutual Learning for Multimodality Medical Image Segmentation",
        2024,
        identifier="arXiv:2401.02717",
    )

    def __init__(self, problem: Problem, config: CIMLConfig) -> None:
        super().__init__(problem, config)
        self.shares = share_out(problem, config.assignment)
        self.names = tuple(share.name for share in self.shares)
        self.owners = tuple(share for share in self.shares if share.owned)
        self._check()
        self.network = Segmentors(
            problem,
            self.shares,
            filters=level_channels(config.width, config.levels),
            norm=config.norm,
            dilation=config.dilation,
            gate=self._gate if self._talks else None,
            detach=config.detach_messages,
        )
        conv = nn.Conv2d if problem.spatial_dims == 2 else nn.Conv3d
        others = [share for share in self.owners if share.spare and config.spare != "none"]
        self.spares = nn.ModuleDict({s.name: conv(config.width, count_classes(s.spare), 3, padding=1) for s in others})

    @property
    def _talks(self) -> bool:
        """Whether anyone hears anyone."""
        return self.config.messages and len(self.shares) > 1

    def _gate(self, channels: int) -> Gate:
        c = self.config
        return Gate(
            self.problem.spatial_dims,
            channels,
            len(self.shares) - 1,
            norm=c.norm,
            attention=c.attention,
            filtered=c.filter,
            spread=c.spread,
            average=c.combine == "mean",
        )

    def _check(self) -> None:
        """What pydantic cannot know.

        Raises:
            ConfigError: A patch that cannot be halved so often, unknown regions, or a wrong number of weights.
        """
        levels, patch = self.config.levels, self.problem.patch
        step = 2**levels
        if any(side % step for side in patch) or all(side == step for side in patch):
            rule = f"have sides divisible by {step}, not all of them {step}, for {levels} levels"
            raise ConfigError(message("data.patch", rule, patch, do="Change data.patch or lower method.levels"))
        weights = self.config.kl_levels
        if weights is not None and (len(weights) != levels or min(weights) < 0 or not sum(weights)):
            rule = f"have {levels} weights of at least 0, one of them more"
            raise ConfigError(message("method.kl_levels", rule, weights, do="Write one for each level, the finest first"))
        known = [name for t in self.problem.targets if t.kind == "regions" for name in t.classes]
        wrong = [name for name in self.config.nested if name not in known]
        if wrong:
            do = f"Choose among {', '.join(known)}" if known else "Leave it empty"
            raise ConfigError(message("method.nested", "name regions of the targets", wrong[0], do=do))

    @property
    def requires(self) -> Requirements:
        """Segmentation from images, whichever there are."""
        return Requirements(tasks=("segmentation",))

    def supports(self, subset: Iterable[str]) -> bool:
        """Whether every region has an owner whose images are there, or somebody there who speaks in its place."""
        have = set(subset)
        if not have <= set(self.problem.names):
            return False
        there = [share for share in self.owners if have >= set(share.images)]
        if there and self.config.spare != "none":
            return True
        spoken = {(target.name, name) for share in there for target in share.owned for name in target.classes}
        return all((t.name, name) in spoken for t in self.problem.targets if t.is_segmentation for name in t.classes)

    def stages(self) -> tuple[Stage, ...]:
        """One stage, all segmentors together; the best weights on validation subjects are kept."""
        monitor = Monitor("DSC", "max", self.config.patience)
        how = {"": self.config.optimisation()}
        return (Stage("train", optimisers=how, sampler="foreground", steps=self.config.steps, monitor=monitor),)

    # ------------------------------------------------------------------------------------------------ training
    def losses(self, batch: Batch, stage: Stage) -> Losses:
        """Dice, cross-entropy and beta KL of each segmentor, Equation (8), on the rows that have its primary image."""
        encoded = self.network.generate(batch)
        terms: dict[str, Tensor] = {}
        told: dict[str, Tensor] = {}
        for share in self.owners:
            found = self.network.listen(share, encoded, batch.present, noise=_fresh, kept=self._kept(len(batch)))
            seen = labelled_where(batch, self.network.there(share, batch.present))
            for head, targets, tail in self._heads(share):
                own = found.features.detach() if tail and self.config.spare == "detached" else found.features
                some = head(own) if len(own) else own.new_zeros((0, count_classes(targets), *own.shape[2:]))
                logits = spread_rows(some, found.rows, len(batch))
                own_batch = narrowed(seen, self.problem.targets, targets)
                for term, value in segmentation_losses(logits, own_batch, targets).items():
                    terms[f"{term}/{share.name}{tail}"] = value
            if self._talks and self.config.filter:
                terms[f"kl/{share.name}"] = self.config.beta * self._divergence(share, found, told)
        if not any(bool(self.network.there(share, batch.present).any()) for share in self.owners):
            # Nobody learns from rows that only send messages; a loss needs a gradient all the same.
            first, weight = next(iter(terms)), next(self.network.predictor(self.owners[0]).last.parameters())
            terms[first] = terms[first] + 0.0 * weight.sum()
        return Losses(terms, told)

    def _heads(self, share: Share) -> list[Head]:
        """Of the regions that it owns, and, where there is one, of the others."""
        found: list[Head] = [(self.network.predictor(share).last, share.owned, "")]
        if share.name in self.spares:
            found.append((self.spares[share.name], share.spare, "/spare"))
        return found

    def _kept(self, rows: int) -> Tensor | None:
        """(B, K) bool: the messages that are not dropped; drawn on the CPU whatever the device. None drops none."""
        if not self.config.message_dropout or not self._talks:
            return None
        return torch.rand(rows, len(self.shares) - 1) >= self.config.message_dropout

    def _divergence(self, share: Share, found: Heard, told: dict[str, Tensor]) -> Tensor:
        """KL from the prior, over messages that came, rows and levels on average; `told` gets nats per message and level.

        "mean" is over channels and voxels, too, so that beta does not depend on the size of a patch; "voxel" sums channels,
        "sum" sums voxels besides.
        """
        weights = self.config.kl_levels or (1.0,) * self.config.levels
        total = found.features.new_zeros(())
        others = [name for name in self.names if name != share.name]
        for level, (weight, complement) in enumerate(zip(weights, found.complements, strict=True), 1):
            if complement is None:
                continue
            for at, j in enumerate(complement.columns):
                rows = found.senders[:, j]
                kl = kl_to_standard(complement.means[at][rows], complement.log_variances[at][rows])
                voxels = kl[0, 0].numel()
                size = {"mean": voxels * kl.shape[1], "voxel": voxels, "sum": 1}[self.config.kl]
                summed = kl.sum()
                told[f"nats/{share.name}/{others[j]}/{level}"] = summed.detach() / max(len(kl), 1)
                total = total + weight * summed / size
        count = int(found.senders.sum())
        return mean_over_processes(total / max(count, 1), count) / sum(weights)

    # ------------------------------------------------------------------------------------------------ prediction
    @property
    def encodes(self) -> bool:
        """Unless a segmentor has several images at once."""
        return all(len(share.images) == 1 for share in self.shares)

    def encode(self, batch: Batch) -> dict[str, Features]:
        """{image: pooled messages, messages, and what its predictor makes of it alone}."""
        return dict(self.network.generate(batch))

    def decode(self, features: Mapping[str, Features], present: Tensor) -> Prediction:
        """Gates, predictors and the mean over owners."""
        self.require_support(present)
        return self._decide(
            {name: value if isinstance(value, tuple) else (value,) for name, value in features.items()}, present
        )

    def predict(self, batch: Batch) -> Prediction:
        """Probabilities from whatever each row has; with `samples`, the mean over draws, and their standard deviation."""
        self.require_support(batch.present)
        return self._decide(self.network.generate(batch), batch.present)

    def _decide(self, encoded: Mapping[str, tuple[Tensor, ...]], present: Tensor) -> Prediction:
        count = self.config.samples if self._talks and self.config.filter else 0
        draws, used = [], present & False
        for sample in range(max(count, 1)):
            said, used = self._opinions(encoded, present, sample if count else None)
            draws.append(said)
        mean = {name: torch.stack([d[name] for d in draws]).mean(dim=0) if count else value for name, value in draws[0].items()}
        extras = {}
        if count > 1:
            of = {name: "uncertainty" if len(mean) == 1 else f"uncertainty_{name}" for name in mean}
            extras = {of[name]: torch.stack([d[name] for d in draws]).std(dim=0) for name in mean}
        return Prediction(mean, used=used, extras=extras)

    def _opinions(
        self, encoded: Mapping[str, tuple[Tensor, ...]], present: Tensor, sample: int | None
    ) -> tuple[dict[str, Tensor], Tensor]:
        """{target: (B, K, *spatial)}: what the segmentors say of each region on average; and what they used, (B, M) bool.

        One after the other, so that the features of one are gone before those of the next, which are large.
        """
        owners, others = list[Opinion](), list[Opinion]()
        used = torch.zeros_like(present)
        for share in self.owners:
            noise = None if sample is None else self._noise(share, sample)
            heard = self.network.listen(share, encoded, present, noise=noise)
            if len(heard.rows):
                heads = [h for h in self._heads(share) if not h[2] or self._orphaned(h[1], present)]
                for (_, targets, tail), logits in zip(heads, side_by_side([h[0] for h in heads], heard.features), strict=True):
                    said = segmentation_probabilities(logits, targets)
                    (others if tail else owners).append(Opinion(heard.rows, targets, said))
                self._use(share, heard, used)
        together = ensemble(owners, self.problem.targets, len(present), spare=others)
        return nested_regions(together, self.problem.targets, self.config.nested), used

    def _noise(self, share: Share, sample: int) -> Noise:
        """The same noise for every row of every call, so that a prediction depends on its case alone."""
        place = sample * len(self.shares) + self.names.index(share.name)

        def noise(sender: int, mean: Tensor) -> Tensor:
            # Channels tell the levels, which would share their first numbers otherwise.
            generator = torch.Generator().manual_seed((place * len(self.shares) + sender) << 20 | mean.shape[1])
            return torch.randn(mean.shape[1:], generator=generator, dtype=mean.dtype).to(mean.device)

        return noise

    def _orphaned(self, targets: tuple[Target, ...], present: Tensor) -> bool:
        """Whether some row lacks every owner of one of these regions."""
        for target in targets:
            for name in target.classes:
                owners = [s for s in self.owners if any(t.name == target.name and name in t.classes for t in s.owned)]
                if not bool(torch.stack([self.network.there(s, present) for s in owners]).any(dim=0).all()):
                    return True
        return False

    def _use(self, share: Share, heard: Heard, used: Tensor) -> None:
        """Marks in `used`, (B, M) bool, the images of a segmentor that spoke, and those of the messages that it heard."""
        everyone = torch.ones_like(heard.rows, dtype=torch.bool)
        senders = zip(self.network.others(share), heard.senders.unbind(dim=1), strict=True)
        for other, came in [(share, everyone), *senders]:
            for name in other.images:
                used[heard.rows[came], self.problem.names.index(name)] = True

    # ------------------------------------------------------------------------------------------------ explanation
    @property
    def explains(self) -> bool:
        """Where messages can be told apart."""
        return self._talks and (self.config.attention or self.config.filter)

    def complements(self, batch: Batch) -> Complements:
        """What each sender tells each segmentor at the finest gate, with the graph to the logits."""
        self.require_support(batch.present)
        encoded = self.network.generate(batch)
        found = _Told({}, {}, {})
        for share in self.owners:
            if bool(self.network.there(share, batch.present).any()):
                self._complement(share, encoded, batch.present, found)
        return Complements(found.logits, found.maps, found.nats)

    def _complement(self, share: Share, encoded: Mapping[str, tuple[Tensor, ...]], present: Tensor, found: _Told) -> None:
        """Adds those of one segmentor."""
        rows = self.network.there(share, present).nonzero().flatten()
        senders = self.network.others(share)

        def tap(sender: int, kappa: Tensor) -> Tensor:
            whole = spread_rows(kappa, rows, len(present))  # it, not `kappa`, must lie between messages and logits
            found.maps[share.name, senders[sender].name] = whole
            return whole if len(rows) == len(present) else whole[rows]

        heard = self.network.listen(share, encoded, present, tap=tap, measure=True)
        finest = heard.complements[0]
        for at, sender in enumerate(finest.columns if finest is not None else ()):
            assert finest is not None
            kl = torch.zeros_like(finest.means[at])
            if finest.log_variances:
                kl = kl_to_standard(finest.means[at], finest.log_variances[at])
            kl = torch.where(heard.senders[:, sender].reshape(-1, *[1] * (kl.ndim - 1)), kl, 0.0).sum(dim=1)
            found.nats[share.name, senders[sender].name] = spread_rows(kl, rows, len(present))
        head, targets, _ = self._heads(share)[0]
        several = sum(target.is_segmentation for target in self.problem.targets) > 1
        for name, odds in region_logits(head(heard.features), targets, named=several).items():
            found.logits[share.name, name] = spread_rows(odds, rows, len(present))


def _fresh(_: int, mean: Tensor) -> Tensor:
    """Noise of a training step."""
    return torch.randn_like(mean)
