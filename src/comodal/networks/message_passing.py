"""The three networks of a CIML segmentor: message generator, cross-modality information gate, predictor.

Shen et al. (2024), CIML, Table 1: sizes and channels of every layer are read from there; where it is silent or contradicts
itself, docs/methods/ciml.md says what was decided. All three serve 2-D and 3-D.

A convolution of a concatenation is the sum of convolutions of its parts. The predictor uses that: what it makes of its own
image alone is computed once (`own`), whatever messages come, so that all subsets of modalities cost little more than one.

Axis letters: see `comodal.batch`; b rows that have the primary image, K senders, c channels of a level, s level, 1 the finest.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, cast

import torch
from torch import Tensor, nn
from torch.nn.functional import conv2d, conv3d, conv_transpose2d, conv_transpose3d, softplus

SLOPE = 0.01
LIMIT = 10.0  # of the log variance: e^10 is far outside of what a filter learns, and its exponential stays finite

Norm = Literal["instance", "batch"]
Spread = Literal["log_variance", "softplus"]
Tap = Callable[[int, Tensor], Tensor]
Noise = Callable[[int, Tensor], Tensor]


def _conv(dims: int, channels: int, filters: int, *, kernel: int = 3, stride: int = 1, dilation: int = 1) -> nn.Module:
    padding = dilation * (kernel // 2)
    return (nn.Conv2d if dims == 2 else nn.Conv3d)(channels, filters, kernel, stride, padding, dilation)


def _norm(dims: int, channels: int, kind: Norm) -> nn.Module:
    """Group normalisation with one channel a group is instance normalisation, and in torch the faster of the two on a CPU."""
    if kind == "batch":
        return (nn.BatchNorm2d if dims == 2 else nn.BatchNorm3d)(channels)
    return nn.GroupNorm(channels, channels)


def _normed(dims: int, channels: int, norm: Norm) -> nn.Sequential:
    return nn.Sequential(_norm(dims, channels, norm), nn.LeakyReLU(SLOPE, inplace=True))


def level_channels(width: int, levels: int) -> list[int]:
    """c_s = C 2^(s - 1) of each level, the finest first.

    >>> level_channels(32, 4)
    [32, 64, 128, 256]
    """
    return [width * 2**level for level in range(levels)]


class MessageGenerator(nn.Module):
    """The encoder of one segmentor: at each level a convolution and one that halves. Its outputs are the messages.

    Args:
        dims: 2 or 3.
        channels: Of the image.
        filters: c_s of each level, the finest first.
        norm: "instance" or "batch".
        dilation: Of the halving convolution; 2 pads by 2, so that it halves exactly as 1 does.
    """

    def __init__(self, dims: int, channels: int, filters: Sequence[int], *, norm: Norm, dilation: int) -> None:
        super().__init__()
        self.layout = torch.channels_last if dims == 2 else torch.channels_last_3d
        inputs = [channels, *filters[:-1]]
        self.keep = nn.ModuleList(
            nn.Sequential(_conv(dims, c, f), *_normed(dims, f, norm)) for c, f in zip(inputs, filters, strict=True)
        )
        self.halve = nn.ModuleList(
            nn.Sequential(_conv(dims, f, f, stride=2, dilation=dilation), *_normed(dims, f, norm)) for f in filters
        )

    def forward(self, image: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Encodes an image.

        Args:
            image: (b, channels, *spatial).

        Returns:
            The features at full size (b, c_1, *spatial), and M^s (b, c_s, *spatial / 2^s) of each level, the finest first.
        """
        # A copy: with one channel both layouts are the same bytes, and `contiguous` would leave the strides as they are.
        maps = image.clone(memory_format=self.layout) if image.device.type == "cpu" else image
        full, messages = None, []
        for keep, halve in zip(self.keep, self.halve, strict=True):
            maps = keep(maps)
            full = maps if full is None else full
            maps = halve(maps)
            messages.append(maps)
        assert full is not None
        return full, messages


@dataclass(frozen=True)
class Complement:
    """What a gate lets through at one level.

    Attributes:
        total: (b, c, *level): the complementary tensor of all messages together.
        columns: The k senders that some row heard.
        means: (b, c, *level) for each of `columns`; empty where messages are fused before they can be told apart.
        log_variances: The same; empty without the variational filter.
    """

    total: Tensor
    columns: tuple[int, ...] = ()
    means: tuple[Tensor, ...] = ()
    log_variances: tuple[Tensor, ...] = ()


class Gate(nn.Module):
    """Cross-modality information gate (CIG) of one level: attention over messages, then the variational redundancy filter.

    With attention, a_1 ... a_K = sigmoid of two convolutions of the channel means of the local embedding and the messages, and
    the gated message is a_j M_j. With the filter, kappa_j ~ N(mu_j, sigma_j^2) by two heads of 1x1 convolutions of its own for
    each sender, and the complementary tensor is the sum of kappa_j. Without either, one convolution of everything and a sigmoid
    (row "+Message" of Table 5). The heads of all senders are one grouped convolution.

    Args:
        dims: 2 or 3.
        channels: c of the level.
        senders: K.
        norm: "instance" or "batch".
        attention, filtered: Which parts there are.
        spread: What the second head says: log sigma^2, or a number whose softplus is sigma.
        average: The mean of kappa_j over the senders heard instead of their sum.
    """

    def __init__(
        self,
        dims: int,
        channels: int,
        senders: int,
        *,
        norm: Norm,
        attention: bool = True,
        filtered: bool = True,
        spread: Spread = "log_variance",
        average: bool = False,
    ) -> None:
        super().__init__()
        self.dims, self.channels, self.spread, self.average = dims, channels, spread, average
        self.attention = self.fuse = self.mean = self.spreading = None
        if attention:
            wide = 4 * (senders + 1)
            first, second = _conv(dims, senders + 1, wide), _conv(dims, wide, senders, kernel=1)
            self.attention = nn.Sequential(first, *_normed(dims, wide, norm), second, _norm(dims, senders, norm), nn.Sigmoid())
        if filtered:
            grouped = nn.Conv2d if dims == 2 else nn.Conv3d
            self.mean = grouped(senders * channels, senders * channels, 1, groups=senders)
            self.spreading = grouped(senders * channels, senders * channels, 1, groups=senders)
        if not attention and not filtered:
            fused = _conv(dims, (senders + 1) * channels, channels)
            self.fuse = nn.Sequential(fused, _norm(dims, channels, norm), nn.Sigmoid())

    def forward(
        self,
        local: Tensor,
        pooled: Tensor,
        messages: Sequence[Tensor],
        *,
        sender_pooled: Sequence[Tensor],
        heard: Tensor,
        noise: Noise | None,
        tap: Tap | None = None,
        measure: bool = False,
    ) -> Complement | None:
        """Complementary information of one level.

        Args:
            local: E_s, (b, c, *level).
            pooled: Its mean over channels, (b, 1, *level).
            messages: M_s of each of the K senders, (b, c, *level); zero in rows that do not hear it.
            sender_pooled: Their means over channels.
            heard: (b, K) bool.
            noise: Gives the noise of a sender, standard normal, of the shape of a mean; None takes the posterior mean.
            tap: Sees each kappa_j, and gives the one that is used.
            measure: Whether log variances are wanted also without noise.

        Returns:
            None where no row hears anyone, so that the complementary tensor is the prior mean, zero.
        """
        if self.fuse is not None:
            return Complement(self.fuse(torch.cat([local, *messages], dim=1)))
        columns = tuple(j for j, some in enumerate(heard.any(dim=0).tolist()) if some)
        if not columns:
            return None
        gated = [messages[j] for j in columns]
        if self.attention is not None:
            weights = self.attention(torch.cat([pooled, *sender_pooled], dim=1))  # (b, K, *level)
            gated = [weights[:, j : j + 1] * message for j, message in zip(columns, gated, strict=True)]
        means, log_variances = gated, list[Tensor]()
        if self.mean is not None and self.spreading is not None:
            stacked = torch.cat(gated, dim=1)
            means = list(self._head(self.mean, stacked, columns).chunk(len(columns), dim=1))
            if noise is not None or measure:
                raw = self._head(self.spreading, stacked, columns)
                log_variances = list(self._log_variance(raw).chunk(len(columns), dim=1))
        kappas = []
        for at, j in enumerate(columns):
            kappa = means[at]
            if noise is not None and log_variances:
                kappa = kappa + noise(j, kappa) * (0.5 * log_variances[at]).exp()
            there = heard[:, j].reshape(-1, *[1] * (kappa.ndim - 1))
            kappa = kappa if bool(heard[:, j].all()) else torch.where(there, kappa, 0.0)
            kappas.append(kappa if tap is None else tap(j, kappa))
        total = sum(kappas[1:], kappas[0])
        if self.average:
            total = total / heard.sum(dim=1).clamp(min=1).reshape(-1, *[1] * (total.ndim - 1))
        return Complement(total, columns, tuple(means), tuple(log_variances))

    def _head(self, head: nn.Module, stacked: Tensor, columns: Sequence[int]) -> Tensor:
        """The head on the messages of `columns` alone: (b, len(columns) c, *level), at least float32."""
        weight, bias = head.weight, head.bias
        assert isinstance(weight, Tensor)
        assert isinstance(bias, Tensor)
        c = self.channels
        if len(columns) * c < len(weight):
            at = torch.tensor([j * c + i for j in columns for i in range(c)], device=weight.device)
            weight, bias = weight[at], bias[at]
        run = conv2d if self.dims == 2 else conv3d
        found: Tensor = run(stacked, weight, bias, groups=len(columns))
        return found.to(torch.promote_types(found.dtype, torch.float32))

    def _log_variance(self, raw: Tensor) -> Tensor:
        if self.spread == "softplus":
            raw = 2 * (softplus(raw) + 1e-6).log()
        return raw.clamp(-LIMIT, LIMIT)


class Predictor(nn.Module):
    """The decoder of one segmentor: from the coarsest level up, each level with its local embedding and complementary tensor.

    Args:
        dims: 2 or 3.
        filters: c_s of each level, the finest first.
        classes: Channels of the logits.
        norm: "instance" or "batch".
    """

    def __init__(self, dims: int, filters: Sequence[int], classes: int, *, norm: Norm) -> None:
        super().__init__()
        self.dims, self.filters = dims, tuple(filters)
        up = nn.ConvTranspose2d if dims == 2 else nn.ConvTranspose3d
        outs = [filters[0], *[2 * c for c in filters[:-1]]]  # of the step up from level s, the finest first
        self.up = nn.ModuleList(
            up(2 * c, out, 3, stride=2, padding=1, output_padding=1) for c, out in zip(filters, outs, strict=True)
        )
        self.up_normed = nn.ModuleList(_normed(dims, out, norm) for out in outs)
        self.merge = nn.ModuleList(_conv(dims, 2 * out, out) for out in outs)
        self.merge_normed = nn.ModuleList(_normed(dims, out, norm) for out in outs)
        self.last = _conv(dims, filters[0], classes)

    def own(self, full: Tensor, messages: Sequence[Tensor]) -> list[Tensor]:
        """What the predictor makes of its own image, before anything of others is added.

        Args:
            full: (b, c_1, *spatial).
            messages: E_s of each level, the finest first.

        Returns:
            One tensor for each convolution that sees a local embedding: (b, c_1, *spatial) at full size, (b, 2 c_s, *level s)
            of each level but the coarsest, and what comes up from that.
        """
        found = [self._merge(0, full, start=self.filters[0], bias=True)]
        for s, local in enumerate(messages[:-1], 1):
            found.append(self._merge(s, local, start=2 * self.filters[s - 1], bias=True))
        found.append(self._up(len(self.filters) - 1, messages[-1], start=0, bias=True))
        return found

    def forward(self, own: Sequence[Tensor], complements: Sequence[Tensor | None]) -> Tensor:
        """(b, c_1, *spatial) features at full size, from which `last` makes the logits.

        Args:
            own: Of `own`.
            complements: (b, c_s, *level) of each level, the finest first; None is zero.
        """
        levels = len(self.filters)
        maps, kappa = own[levels], complements[levels - 1]
        if kappa is not None:
            maps = maps + self._up(levels - 1, kappa, start=self.filters[-1])
        maps = self.up_normed[levels - 1](maps)
        for s in range(levels - 1, 0, -1):  # level s, counted from 1; `maps` has its size
            c, kappa = self.filters[s - 1], complements[s - 1]
            merged = self._merge(s, maps, start=0).add_(own[s])
            if kappa is not None:
                merged = merged.add_(self._merge(s, kappa, start=3 * c))
            maps = self.up_normed[s - 1](self.up[s - 1](self.merge_normed[s](merged)))
        result: Tensor = self.merge_normed[0](self._merge(0, maps, start=0).add_(own[0]))
        return result

    def _merge(self, index: int, part: Tensor, *, start: int, bias: bool = False) -> Tensor:
        """A merging convolution on that part of its concatenated input that begins with channel `start`."""
        module = self.merge[index]
        assert isinstance(module, nn.Conv2d | nn.Conv3d)
        weight = module.weight[:, start : start + part.shape[1]]
        return (conv2d if self.dims == 2 else conv3d)(part, weight, module.bias if bias else None, padding=1)

    def _up(self, index: int, part: Tensor, *, start: int, bias: bool = False) -> Tensor:
        """A transposed convolution on that part of its concatenated input that begins with channel `start`."""
        module = self.up[index]
        assert isinstance(module, nn.ConvTranspose2d | nn.ConvTranspose3d)
        weight = module.weight[start : start + part.shape[1]]
        run = conv_transpose2d if self.dims == 2 else conv_transpose3d
        return run(part, weight, module.bias if bias else None, stride=2, padding=1, output_padding=1)


def side_by_side(heads: Sequence[nn.Module], features: Tensor) -> list[Tensor]:
    """What each of several last convolutions makes of the same features, for less than one of them costs by itself.

    A convolution to one or two channels costs as much as one to sixteen, since that is how wide a processor computes. In 3-D
    each plane of the kernel is therefore a channel of its own, of a convolution in the other two axes; what the planes say is
    then added up, each moved by its place.

    Args:
        heads: Convolutions with kernels of 3 on each axis, padded by 1.
        features: (b, c_1, *spatial).

    Returns:
        (b, classes, *spatial) of each.
    """
    weight = torch.cat([cast(Tensor, head.weight) for head in heads])
    bias = torch.cat([cast(Tensor, head.bias) for head in heads])
    if features.ndim == 4:
        found = conv2d(features, weight, bias, padding=1)
    else:
        before, here, after = conv3d(features, torch.cat(weight.split(1, dim=2)), padding=(0, 1, 1)).chunk(3, dim=1)
        found = here + bias.reshape(-1, 1, 1, 1)
        found[:, :, 1:] += before[:, :, :-1]
        found[:, :, :-1] += after[:, :, 1:]
    return list(found.split([len(cast(Tensor, head.weight)) for head in heads], dim=1))
