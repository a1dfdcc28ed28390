"""The segmentors of CIML as one network: who encodes what, who hears whom, on which rows of a batch.

A row without a segmentor's images does not pass through it, and a message that is not there is not heard: selected away, in
value and in gradient.

Axis letters: see `comodal.batch`; b rows that have the segmentor's images, K senders, s levels, 1 the finest, L the coarsest.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from comodal.batch import Batch
from comodal.method import Problem
from comodal.modality import Target
from comodal.networks.assignment import Share
from comodal.networks.message_passing import Complement, Gate, MessageGenerator, Noise, Norm, Predictor, Tap


@dataclass(frozen=True)
class Heard:
    """What one segmentor made of its rows.

    Attributes:
        rows: (b,) int64: of the batch.
        senders: (b, K) bool: whose messages it heard.
        features: (b, c_1, *spatial), before the last convolution.
        complements: Of each level, the finest first.
    """

    rows: Tensor
    senders: Tensor
    features: Tensor
    complements: tuple[Complement | None, ...]


class Segmentors(nn.Module):
    """Message generators, gates and predictors of all segmentors.

    Args:
        problem: Has the images.
        shares: The segmentors; those that own nothing have a message generator alone.
        filters: c_s of each level, the finest first.
        norm: "instance" or "batch".
        dilation: Of the convolutions that halve.
        gate: Makes the gate of a level from its channels; None where nobody hears anybody.
        detach: Whether the gradient of a segmentor stays out of the encoders of the others.
    """

    def __init__(
        self,
        problem: Problem,
        shares: Sequence[Share],
        *,
        filters: Sequence[int],
        norm: Norm,
        dilation: int,
        gate: Callable[[int], Gate] | None,
        detach: bool = False,
    ) -> None:
        super().__init__()
        self.problem, self.shares, self.filters, self.detach, self.talks = (
            problem,
            tuple(shares),
            tuple(filters),
            detach,
            bool(gate),
        )
        dims = problem.spatial_dims
        self.generators, self.gates, self.predictors = nn.ModuleDict(), nn.ModuleDict(), nn.ModuleDict()
        for share in shares:
            channels = sum(problem.modality(name).channels for name in share.images)
            self.generators[share.name] = MessageGenerator(dims, channels, filters, norm=norm, dilation=dilation)
        for share in shares:
            if share.owned:
                if gate is not None:
                    self.gates[share.name] = nn.ModuleList(gate(c) for c in filters)
                self.predictors[share.name] = Predictor(dims, filters, count_classes(share.owned), norm=norm)

    def predictor(self, share: Share) -> Predictor:
        """The predictor of a segmentor that owns something."""
        predictor = self.predictors[share.name]
        assert isinstance(predictor, Predictor)
        return predictor

    def others(self, share: Share) -> tuple[Share, ...]:
        """Its K senders, in the order of the columns of `Heard.senders`."""
        return tuple(other for other in self.shares if other.name != share.name)

    def there(self, share: Share, present: Tensor) -> Tensor:
        """(B,) bool: the rows that have all images of a segmentor; `present` is (B, M)."""
        return present[:, [self.problem.names.index(name) for name in share.images]].all(dim=1)

    def generate(self, batch: Batch) -> dict[str, tuple[Tensor, ...]]:
        """What each segmentor makes of its own images.

        Returns:
            {segmentor: tensors with B rows} of those that some row has; zeros where the row has not all of its images. First
            the means over channels and the messages of each level, then what its predictor makes of them alone.
        """
        found: dict[str, tuple[Tensor, ...]] = {}
        for share in self.shares:
            rows = self.there(share, batch.present).nonzero().flatten()
            if len(rows):
                image = torch.cat([batch.image(name) for name in share.images], dim=1)
                full, messages = self.generators[share.name](image if len(rows) == len(batch) else image[rows])
                own = self.predictor(share).own(full, messages) if share.owned else []
                parts = [m.mean(dim=1, keepdim=True) for m in messages] + messages + own
                found[share.name] = tuple(spread_rows(part, rows, len(batch)) for part in parts)
        return found

    def listen(
        self,
        share: Share,
        encoded: Mapping[str, tuple[Tensor, ...]],
        present: Tensor,
        *,
        noise: Noise | None = None,
        kept: Tensor | None = None,
        tap: Tap | None = None,
        measure: bool = False,
    ) -> Heard:
        """Runs gates and predictor of one segmentor on the rows that have its images.

        Args:
            share: One that owns something.
            encoded: Of `generate`, at least of those that some row has; absent rows are unspecified.
            present: (B, M) bool.
            noise: See `Gate`.
            kept: (B, K) bool: messages that may be heard; None: all.
            tap: Sees each kappa of the finest level, and gives the one that is used.
            measure: Whether log variances are wanted without noise.

        Returns:
            Of no rows where none has its images.
        """
        rows = self.there(share, present).nonzero().flatten()
        levels = len(self.filters)
        senders = self._senders(share, present, kept)[rows]
        if not len(rows):
            # Like a weight, since `encoded` may be empty: no row need have all images of any segmentor.
            empty = next(self.predictor(share).last.parameters()).new_zeros((0, self.filters[0], *self.problem.patch))
            return Heard(rows, senders, empty, (None,) * levels)
        own = _rows(encoded[share.name], rows)
        complements: list[Complement | None] = [None] * levels
        if self.talks:
            messages = self._messages(share, encoded, rows, senders)
            gates = self.gates[share.name]
            assert isinstance(gates, nn.ModuleList)
            for level, gate in enumerate(gates):
                complements[level] = gate(
                    own[levels + level],
                    own[level],
                    [m[levels + level] if m else torch.zeros_like(own[levels + level]) for m in messages],
                    sender_pooled=[m[level] if m else torch.zeros_like(own[level]) for m in messages],
                    heard=senders,
                    noise=noise,
                    tap=tap if level == 0 else None,
                    measure=measure,
                )
        totals = [None if complement is None else complement.total for complement in complements]
        return Heard(rows, senders, self.predictor(share)(own[2 * levels :], totals), tuple(complements))

    def _senders(self, share: Share, present: Tensor, kept: Tensor | None) -> Tensor:
        """(B, K) bool: whose messages are there to be heard."""
        columns = [self.there(other, present) for other in self.others(share)]
        senders = torch.stack(columns, dim=1) if columns else present[:, :0]
        if not self.talks:
            return torch.zeros_like(senders)
        return senders if kept is None else senders & kept.to(present.device)

    def _messages(
        self, share: Share, encoded: Mapping[str, tuple[Tensor, ...]], rows: Tensor, senders: Tensor
    ) -> list[list[Tensor]]:
        """Means and messages of each level of each sender, on these rows; [] of a sender whom no row hears."""
        found: list[list[Tensor]] = []
        for j, other in enumerate(self.others(share)):
            if not bool(senders[:, j].any()):
                found.append([])
                continue
            parts = _rows(encoded[other.name][: 2 * len(self.filters)], rows, senders[:, j])
            found.append([part.detach() for part in parts] if self.detach else parts)
        return found


def count_classes(targets: Sequence[Target]) -> int:
    """Channels of the logits of these targets."""
    return sum(len(target.classes) for target in targets)


def _rows(parts: tuple[Tensor, ...], rows: Tensor, there: Tensor | None = None) -> list[Tensor]:
    """These rows of each tensor; zeros where `there` is False, whatever stood in them."""
    found = [part if len(rows) == len(part) else part[rows] for part in parts]
    if there is None or bool(there.all()):
        return found
    return [torch.where(there.reshape(-1, *[1] * (part.ndim - 1)), part, 0.0) for part in found]


def spread_rows(some: Tensor, rows: Tensor, count: int) -> Tensor:
    """(b, ...) of these rows, in order, to (B, ...) with zeros in the others; B is `count`."""
    if len(rows) == count:
        return some
    return some.new_zeros((count, *some.shape[1:])).index_copy(0, rows, some)
