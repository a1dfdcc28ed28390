"""Table 1 of Shen et al. (2024), CIML, as one would write it down, for comparison with `ciml`; see ciml.py beside this file.

Four whole segmentors, a concatenation before each convolution that sees two things, K separate heads for mu and sigma, torch's
InstanceNorm, tensors as torch lays them out by itself. Each subset is a prediction by itself, with the segmentors whose image
is there; the heads for regions without an owner are run where there is such a region.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits

from comodal.batch import Batch
from comodal.method import Method, Prediction
from comodal.methods.ciml import CIML

SEQUENCES = ("t1", "t1ce", "t2", "flair")
REGIONS = ("WT", "TC", "ET")


def block(channels: int, filters: int, stride: int = 1) -> nn.Sequential:
    conv = nn.Conv3d(channels, filters, 3, stride=stride, padding=1)
    return nn.Sequential(conv, nn.InstanceNorm3d(filters, affine=True), nn.LeakyReLU(0.01, inplace=True))


def up(channels: int, filters: int) -> nn.Sequential:
    conv = nn.ConvTranspose3d(channels, filters, 3, stride=2, padding=1, output_padding=1)
    return nn.Sequential(conv, nn.InstanceNorm3d(filters, affine=True), nn.LeakyReLU(0.01, inplace=True))


class PlainGate(nn.Module):
    """A row "CIG" of Table 1."""

    def __init__(self, channels: int, senders: int) -> None:
        super().__init__()
        self.wide = block(senders + 1, 4 * (senders + 1))
        self.weigh = nn.Sequential(
            nn.Conv3d(4 * (senders + 1), senders, 1), nn.InstanceNorm3d(senders, affine=True), nn.Sigmoid()
        )
        self.mu = nn.ModuleList(nn.Conv3d(channels, channels, 1) for _ in range(senders))
        self.sigma = nn.ModuleList(nn.Conv3d(channels, channels, 1) for _ in range(senders))

    def forward(self, local: Tensor, messages: Sequence[Tensor | None]) -> tuple[Tensor, list[Tensor]]:
        """The sum of kappa, and KL of each message in training; a message that is not there is kappa = 0."""
        pooled = [torch.zeros_like(local[:, :1]) if m is None else m.mean(dim=1, keepdim=True) for m in (local, *messages)]
        weights = self.weigh(self.wide(torch.cat(pooled, dim=1)))
        total, divergences = torch.zeros_like(local), []
        for j, message in enumerate(messages):
            if message is not None:
                gated = weights[:, j : j + 1] * message
                mean = self.mu[j](gated)
                if not self.training:
                    total = total + mean
                    continue
                log_variance = self.sigma[j](gated).clamp(-10, 10)
                total = total + mean + torch.exp(0.5 * log_variance) * torch.randn_like(mean)
                divergences.append((0.5 * (mean**2 + log_variance.exp() - log_variance - 1)).mean())
        return total, divergences


class PlainSegmentor(nn.Module):
    """Four stages down, gates, and four steps up."""

    def __init__(self, width: int, levels: int, *, senders: int, classes: int, spare: int) -> None:
        super().__init__()
        filters = [width * 2**s for s in range(levels)]
        outs = [width, *[2 * c for c in filters[:-1]]]  # of the step up from each level, the finest first
        self.keep = nn.ModuleList(block(c, f) for c, f in zip([1, *filters[:-1]], filters, strict=True))
        self.halve = nn.ModuleList(block(f, f, stride=2) for f in filters)
        self.gates = nn.ModuleList(PlainGate(c, senders) for c in filters)
        self.up = nn.ModuleList(up(2 * c, out) for c, out in zip(filters, outs, strict=True))
        self.merge = nn.ModuleList(block(2 * out, out) for out in outs)
        self.last = nn.Conv3d(width, classes, 3, padding=1)
        self.spare = nn.Conv3d(width, spare, 3, padding=1)

    def encode(self, image: Tensor) -> list[Tensor]:
        """The features at full size, and the messages, the finest first."""
        found: list[Tensor] = []
        for keep, halve in zip(self.keep, self.halve, strict=True):
            image = keep(image)
            found = found or [image]
            image = halve(image)
            found.append(image)
        return found

    def decode(self, own: Sequence[Tensor], others: Sequence[Sequence[Tensor] | None]) -> tuple[Tensor, list[Tensor]]:
        skips, divergences = [own[0]], []
        for s, gate in enumerate(self.gates, 1):
            if all(other is None for other in others):
                skips.append(torch.cat([own[s], torch.zeros_like(own[s])], dim=1))
                continue
            kappa, terms = gate(own[s], [None if other is None else other[s] for other in others])
            skips.append(torch.cat([own[s], kappa], dim=1))
            divergences += terms
        maps = skips[-1]
        for s in range(len(self.up) - 1, -1, -1):
            maps = self.merge[s](torch.cat([self.up[s](maps), skips[s]], dim=1))
        return maps, divergences


class Plain(Method):
    """CIML with the assignment of the paper; `like` gives the weights."""

    def __init__(self, like: CIML) -> None:
        super().__init__(like.problem, like.config)
        width, levels, self.beta = like.config.width, like.config.levels, like.config.beta
        self.owned = {s.name: s.owned[0].classes for s in like.shares}
        self.spared = {s.name: s.spare[0].classes for s in like.shares}
        sizes = {name: (len(self.owned[name]), len(self.spared[name])) for name in SEQUENCES}
        self.by_name = {
            name: PlainSegmentor(width, levels, senders=len(SEQUENCES) - 1, classes=classes, spare=spare)
            for name, (classes, spare) in sizes.items()
        }
        self.segmentors = nn.ModuleDict(self.by_name)
        for name, segmentor in self.by_name.items():
            copy_weights(like, name, segmentor)

    def supports(self, subset: Any) -> bool:
        return bool(set(subset))

    def run(self, images: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, list[Tensor]]]:
        """Features before the last convolution and KL terms of each segmentor that has its image."""
        found = {name: self.by_name[name].encode(image) for name, image in images.items()}
        maps, divergences = dict[str, Tensor](), dict[str, list[Tensor]]()
        for name, own in found.items():
            others = [found.get(other) for other in SEQUENCES if other != name]
            maps[name], divergences[name] = self.by_name[name].decode(own, others)
        return maps, divergences

    def loss(self, batch: Batch) -> Tensor:
        maps, divergences = self.run({name: batch.image(name) for name in SEQUENCES})
        total = torch.zeros(())
        for name, features in maps.items():
            logits = self.by_name[name].last(features)
            truth = batch.targets["seg"][:, [REGIONS.index(region) for region in self.owned[name]]].float()
            probabilities = logits.sigmoid()
            overlap = (probabilities * truth).sum(dim=(0, 2, 3, 4))
            volume = probabilities.sum(dim=(0, 2, 3, 4)) + truth.sum(dim=(0, 2, 3, 4))
            total = total + 1 - ((2 * overlap + 1e-5) / (volume + 1e-5)).mean()
            total = total + binary_cross_entropy_with_logits(logits, truth)
            total = total + self.beta * torch.stack(divergences[name]).mean()
        return total

    def predict(self, batch: Batch) -> Prediction:
        """Of rows that have all the same images."""
        there = [name for name, yes in zip(SEQUENCES, batch.present[0].tolist(), strict=True) if yes]
        maps, _ = self.run({name: batch.image(name) for name in there})
        said: dict[str, list[Tensor]] = {region: [] for region in REGIONS}
        for name, features in maps.items():
            probabilities = self.by_name[name].last(features).sigmoid()
            for k, region in enumerate(self.owned[name]):
                said[region].append(probabilities[:, k])
        orphans = [region for region in REGIONS if not said[region]]
        for name, features in maps.items():
            if set(orphans) & set(self.spared[name]):
                probabilities = self.by_name[name].spare(features).sigmoid()
                for region in set(orphans) & set(self.spared[name]):
                    said[region].append(probabilities[:, self.spared[name].index(region)])
        seg = torch.stack([torch.stack(said[region]).mean(dim=0) for region in REGIONS], dim=1)
        return Prediction({"seg": seg}, used=batch.present)


def copy_weights(like: CIML, name: str, segmentor: PlainSegmentor) -> None:
    """The weights of one segmentor of `ciml`; they have the same order but for the gates' heads."""
    network = like.network
    here = [*segmentor.keep.parameters(), *segmentor.halve.parameters()]
    for mine, theirs in zip(here, network.generators[name].parameters(), strict=True):
        mine.data.copy_(theirs)
    predictor: Any = network.predictors[name]
    for s in range(len(segmentor.up)):
        for mine_block, conv, norm in (
            (segmentor.up[s], predictor.up[s], predictor.up_normed[s]),
            (segmentor.merge[s], predictor.merge[s], predictor.merge_normed[s]),
        ):
            for mine, theirs in zip(mine_block.parameters(), [*conv.parameters(), *norm.parameters()], strict=True):
                mine.data.copy_(theirs)
    gates: Any = network.gates[name]
    plains: Any = segmentor.gates
    for plain, gate in zip(plains, gates, strict=True):
        here = [*plain.wide.parameters(), *plain.weigh.parameters()]
        for mine, theirs in zip(here, gate.attention.parameters(), strict=True):
            mine.data.copy_(theirs)
        for heads, grouped in ((plain.mu, gate.mean), (plain.sigma, gate.spreading)):
            for which in ("weight", "bias"):
                for head, part in zip(heads, getattr(grouped, which).chunk(len(heads)), strict=True):
                    getattr(head, which).data.copy_(part)
    segmentor.last.load_state_dict(predictor.last.state_dict())
    segmentor.spare.load_state_dict(like.spares[name].state_dict())
