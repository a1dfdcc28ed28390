"""G, which estimates the latent of a superior modality from that of an inferior one: its losses, and what it has seen.

Mallya and Hamarneh (2022), Section 3 (ii). Axis letters: B batch, I and S numbers of an inferior and a superior latent.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from typing import Any, Literal, TypeAlias

import torch
from torch import Tensor, nn

from comodal.modality import Target
from comodal.networks.classification import ClassHeads, class_probabilities, decisions
from comodal.networks.latents import Latents
from comodal.processes import mean_over_processes, sum_over_processes

GuideLoss: TypeAlias = Literal["mse", "cosine", "infonce", "heteroscedastic", "logits"]
EPSILON = 1e-6


def guide_sizes(inferior: int, superior: int, bottleneck: int | None) -> list[int]:
    """Hidden layers of G: halved from I down to the bottleneck, which stands twice, and doubled again below S.

    The rule gives both published networks: 1024 -> 512 -> 256 -> 256 -> 512 and 2048 -> 1024 -> 512 -> 512 -> 1024 -> 2048.

    Args:
        inferior: I.
        superior: S.
        bottleneck: Units of the narrowest layers; None takes a quarter of I, which both published networks have.

    >>> guide_sizes(1024, 512, None), guide_sizes(2048, 2048, None)
    ([512, 256, 256], [1024, 512, 512, 1024])
    """
    narrow = bottleneck or max(1, inferior // 4)
    down = [inferior // 2]
    while down[-1] > narrow:
        down.append(down[-1] // 2)
    up = [2 * narrow]
    while up[-1] < superior:
        up.append(2 * up[-1])
    return [*(size for size in down if size > narrow), narrow, narrow, *(size for size in up if size < superior)]


class Moments(nn.Module):
    """Mean and variance of all vectors that it was shown, of all processes: buffers, so that they are saved with the weights.

    Args:
        size: Of a vector.
    """

    count: Tensor
    mean: Tensor
    square: Tensor

    def __init__(self, size: int) -> None:
        super().__init__()
        self.register_buffer("count", torch.zeros(()))
        self.register_buffer("mean", torch.zeros(size))
        self.register_buffer("square", torch.zeros(size))  # sum of squared deviations from the mean

    @torch.no_grad()
    def update(self, vectors: Tensor, known: Tensor) -> None:
        """Takes in (B, S) where `known`, (B, S) bool, is the same in all columns of a modality (Chan et al. 1979).

        A number that some rows of the batch lack counts as if they had it with the moments of the others; one that all lack,
        with those so far.
        """
        vectors = torch.where(known, vectors, 0.0).double()
        rows = known.any(dim=1).sum().double()
        sums, counts, (added,) = sum_over_processes(torch.cat([vectors.sum(0), known.sum(0).double(), rows[None]])).split(
            [vectors.shape[1], vectors.shape[1], 1]
        )
        if added == 0:
            return
        some, share = counts > 0, added / counts.clamp(min=1)
        mean = torch.where(some, sums / counts.clamp(min=1), self.mean.double())
        square = sum_over_processes(torch.where(known, vectors - mean, 0.0).square().sum(0))
        square = torch.where(some, square * share, added * self.variance.double())
        before, total = self.count.double(), self.count.double() + added
        step = mean - self.mean.double()
        self.square += (square + step.square() * before * added / total).float()
        self.mean += (step * added / total).float()
        self.count += added.float()

    @property
    def variance(self) -> Tensor:
        """(S,), zero before anything was seen."""
        return self.square / self.count.clamp(min=1.0)

    @property
    def scale(self) -> Tensor:
        """(S,) by which errors are divided to be alike: the variance, but no less than a hundredth of the mean one.

        A unit that a ReLU has silenced would otherwise outweigh all others. 1 before anything that varies was seen.
        """
        variance = self.variance
        least = 0.01 * variance.mean()
        return torch.where(least > 0, torch.maximum(variance, least), 1.0)

    @property
    def alive(self) -> Tensor:
        """(S,) bool: numbers that vary; a unit that a ReLU has silenced does not."""
        variance = self.variance
        return variance > EPSILON * variance.mean()

    def distance(self, vectors: Tensor) -> Tensor:
        """How far vectors are from those seen: root mean square of (v - mean) / sd over the numbers that vary.

        A vector drawn like those seen has about 1; well below 1 it is nearer to their mean than they are, as an estimate that
        knows little is; above 1 it is unlike them.

        Args:
            vectors: (B, S).

        Returns:
            (B,), zero before anything was seen.
        """
        alive = self.alive
        if not bool(alive.any()):
            return vectors.new_zeros(len(vectors))
        return ((vectors - self.mean)[:, alive].square() / self.variance[alive]).mean(dim=1).sqrt()


class Guide(nn.Module):
    """G of Equation (4): from z_I to an estimate of z_S, and what it knows about z_S.

    Args:
        inferior: I.
        superior: S.
        bottleneck: See `guide_sizes`.
        dropout: After each hidden layer.
        rectify: ReLU on the output, for latents that cannot be negative.
        uncertain: Also predict the variance of each number, and shrink the estimate to the mean as it deserves.
    """

    def __init__(
        self,
        inferior: int,
        superior: int,
        *,
        bottleneck: int | None = None,
        dropout: float = 0.25,
        rectify: bool = True,
        uncertain: bool = False,
    ) -> None:
        super().__init__()
        sizes = [inferior, *guide_sizes(inferior, superior, bottleneck)]
        layers: list[nn.Module] = []
        for before, after in pairwise(sizes):
            layers += [nn.Linear(before, after), nn.ReLU(), nn.Dropout(dropout)]
        self.hidden = nn.Sequential(*layers)
        self.out = nn.Linear(sizes[-1], superior)
        self.log_variance = nn.Linear(sizes[-1], superior) if uncertain else None
        self.rectify = rectify

    def forward(self, latents: Tensor) -> tuple[Tensor, Tensor | None]:
        """From (B, I) to the estimate (B, S) and the log of its variance (B, S), None where that is not predicted."""
        hidden = self.hidden(latents)
        estimate: Tensor = self.out(hidden)
        estimate = estimate.relu() if self.rectify else estimate
        # bounded, so that one number that G is sure of cannot outweigh all others
        return estimate, None if self.log_variance is None else self.log_variance(hidden).clamp(-8.0, 8.0)


def shrunk(estimate: Tensor, log_variance: Tensor, moments: Moments) -> Tensor:
    """The estimate, drawn to the mean of all latents where it is unsure: m + (e - m) v / (v + s^2).

    It is the posterior mean of a normal z with mean m and variance v that was seen as e with error variance s^2.

    Args:
        estimate: (B, S), e.
        log_variance: (B, S), log s^2.
        moments: Of the superior latents, m and v.

    Returns:
        (B, S).
    """
    variance = moments.variance
    return moments.mean + (estimate - moments.mean) * variance / (variance + log_variance.exp())


def columns_of(names: Iterable[str], present: Tensor) -> dict[str, Tensor]:
    """{modality: (B,) bool} from (B, M) bool."""
    return dict(zip(names, present.unbind(dim=1), strict=True))


def any_of(columns: Mapping[str, Tensor], names: Iterable[str]) -> Tensor:
    """(B,) bool: rows that have one of these modalities."""
    return torch.stack([columns[name] for name in names]).any(dim=0)


def masked_mean(values: Tensor, known: Tensor) -> Tensor:
    """Mean over the numbers that are known, of the global batch; zero where there are none. Both (B, S)."""
    picked = values[known]
    return mean_over_processes(picked.mean() if len(picked) else values.sum() * 0.0, len(picked))


def squared_error(estimate: Tensor, truth: Tensor, known: Tensor, *, scale: Tensor | None = None) -> Tensor:
    """Mean squared error over batch and numbers, the paper's loss of G.

    Args:
        estimate: (B, S).
        truth: (B, S).
        known: (B, S) bool; what is not known is not read.
        scale: (S,) variance by which each number's error is divided; None: as it is.

    Returns:
        Scalar.
    """
    error = (estimate - torch.where(known, truth, estimate.detach())).square()
    return masked_mean(error if scale is None else error / scale.clamp(min=EPSILON), known)


def cosine_distance(estimate: Tensor, truth: Tensor, known: Tensor) -> Tensor:
    """1 - cosine of estimate and truth, mean over the rows of which all is known.

    Args:
        estimate: (B, S).
        truth: (B, S).
        known: (B, S) bool.

    Returns:
        Scalar in [0, 2].
    """
    rows = known.all(dim=1)
    own, other = estimate[rows], truth[rows]
    value = 1 - nn.functional.cosine_similarity(own, other, dim=1).mean() if len(own) else estimate.sum() * 0.0
    return mean_over_processes(value, len(own))


def gaussian_nll(estimate: Tensor, log_variance: Tensor, truth: Tensor, *, known: Tensor) -> Tensor:
    """Negative log likelihood of a normal with the predicted mean and variance, without its constant.

    .. math:: (log s^2 + (z - e)^2 / s^2) / 2

    Args:
        estimate: (B, S), e.
        log_variance: (B, S), log s^2.
        truth: (B, S), z.
        known: (B, S) bool.

    Returns:
        Scalar, in nats for each number.
    """
    error = (estimate - torch.where(known, truth, estimate.detach())).square()
    return masked_mean(0.5 * (log_variance + error * (-log_variance).exp()), known)


def logit_distance(guessed: dict[str, Tensor], taught: dict[str, Tensor], targets: Sequence[Target], *, rows: Tensor) -> Tensor:
    """KL divergence of what a head says of the estimate from what it says of the truth, mean over rows and targets.

    Args:
        guessed: {target: (B, K)} logits of the estimate.
        taught: {target: (B, K)} logits of the truth; no gradient goes there.
        targets: Of classes.
        rows: (B,) bool: those with a truth.

    Returns:
        Scalar in nats; of several answers (multilabel) their mean.
    """
    known = {name: value[rows].detach() for name, value in taught.items()}
    wanted, terms = class_probabilities(known, targets), []
    for target in targets:
        logits, p = guessed[target.name][rows].float(), wanted[target.name]
        if target.kind == "multilabel":
            p, logits = torch.stack([p, 1 - p], dim=-1), torch.stack([logits, torch.zeros_like(logits)], dim=-1)
        each = (torch.special.xlogy(p, p) - p * logits.log_softmax(dim=-1)).sum(dim=-1)
        terms.append(each.mean() if len(logits) else logits.sum() * 0.0)
    return mean_over_processes(torch.stack(terms).mean(), int(rows.sum()))


def guide_terms(
    losses: Mapping[GuideLoss, float],
    found: tuple[Tensor, Tensor | None],
    truth: Tensor,
    *,
    known: Tensor,
    scale: Tensor | None,
    head: ClassHeads,
) -> dict[str, Tensor]:
    """The losses of G that compare a row with its own truth, weighted; InfoNCE compares rows and is not one of them.

    Args:
        losses: {loss: weight}.
        found: What G says, the estimate (B, S) and the log of its variance.
        truth: (B, S).
        known: (B, S) bool.
        scale: Of `squared_error`.
        head: The frozen superior head, through which "logits" looks.

    Returns:
        {loss: scalar}.
    """
    estimate, log_variance = found
    terms: dict[str, Tensor] = {}
    for name, weight in losses.items():
        if name == "mse":
            value = squared_error(estimate, truth, known, scale=scale)
        elif name == "cosine":
            value = cosine_distance(estimate, truth, known)
        elif name == "heteroscedastic" and log_variance is not None:
            value = gaussian_nll(estimate, log_variance, truth, known=known)
        elif name == "logits":
            value = logit_distance(head(estimate), head(truth), head.targets, rows=known.all(dim=1))
        else:
            continue
        terms[name] = weight * value
    return terms


def changes(before: Mapping[str, Tensor], after: Mapping[str, Tensor], targets: Sequence[Target]) -> dict[str, Tensor]:
    """Whether the answers of two classifiers differ.

    Args:
        before: {target: (B, K) probabilities}.
        after: The same of the other.
        targets: Of classes.

    Returns:
        {"changed/<target>": (B,) 1 where the answer differs (in any of several), else 0}.
    """
    first, second, found = decisions(before, targets), decisions(after, targets), {}
    for target in targets:
        differs = first[target.name] != second[target.name]
        found[f"changed/{target.name}"] = (differs.any(dim=1) if differs.ndim == 2 else differs).float()
    return found


class GuideSet(nn.Module):
    """G for one or several inferior modalities, with what it has seen of the superior latents.

    Args:
        inferior: Encoders of the inferior modalities.
        superior: Encoders of the superior ones.
        each: A G for each inferior modality, whose estimates are averaged over those that a row has; else one for all.
        direction: Whether its loss tells directions alone; the estimate is then brought to the usual length of a latent.
        bottleneck, dropout, uncertain: See `Guide`.
        critic: Compares estimates with latents, where the loss needs one.
    """

    def __init__(
        self,
        inferior: Latents,
        superior: Latents,
        *,
        each: bool = False,
        direction: bool = False,
        bottleneck: int | None = None,
        dropout: float = 0.25,
        uncertain: bool = False,
        critic: nn.Module | None = None,
    ) -> None:
        super().__init__()
        sizes = dict(inferior.sizes) if each else {"all": inferior.size}
        how: dict[str, Any] = {"bottleneck": bottleneck, "dropout": dropout, "uncertain": uncertain}
        how["rectify"] = superior.nonnegative
        self.sizes, self.each, self.direction = sizes, each, direction
        self.guides = nn.ModuleDict({f"of_{name}": Guide(size, superior.size, **how) for name, size in sizes.items()})
        self.moments = Moments(superior.size)
        self.critic = critic

    def forward(self, latents: Tensor, present: Mapping[str, Tensor]) -> tuple[Tensor, Tensor | None]:
        """What the loss is made of.

        Args:
            latents: (B, I), side by side.
            present: {inferior modality: (B,) bool}.

        Returns:
            The estimate (B, S) and the log of its variance, None where that is not predicted.
        """
        if not self.each:
            found: tuple[Tensor, Tensor | None] = self.guides["of_all"](latents)
            return found
        parts = zip(self.sizes, latents.split(list(self.sizes.values()), dim=1), strict=True)
        said = {name: self.guides[f"of_{name}"](part) for name, part in parts}
        count = torch.stack([present[name] for name in self.sizes]).sum(0).clamp(min=1)[:, None]

        def mean(which: int) -> Tensor:
            rows = [torch.where(present[name][:, None], values[which], 0.0) for name, values in said.items()]
            total: Tensor = torch.stack(rows).sum(0) / count
            return total

        certain = next(iter(said.values()))[1] is None
        return mean(0), None if certain else mean(1)

    def estimate(self, latents: Tensor, present: Mapping[str, Tensor]) -> tuple[Tensor, Tensor | None]:
        """What the decoders get, as `forward`: shrunk where G is unsure, or of the usual length."""
        estimate, log_variance = self(latents, present)
        if log_variance is not None:
            return shrunk(estimate, log_variance, self.moments), log_variance
        if self.direction:
            length = (self.moments.mean.square() + self.moments.variance).sum().sqrt()
            estimate = length * nn.functional.normalize(estimate, dim=1)
        return estimate, None
