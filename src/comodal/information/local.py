"""Equation (5) of Liao et al. (2021): every sentence finds its region, and only that region learns from it.

Axis letters: B images, N regions, S sentences of the batch, D features.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from comodal.errors import ConfigError, message
from comodal.information.critics import Critic
from comodal.information.pairs import Exchange, Scores, on_device, same_group

SelectBy = Literal["estimate", "score"]


@dataclass(frozen=True)
class Selection:
    """Scores of the chosen regions, and which they are.

    Attributes:
        scores: One row per sentence: its chosen region against the sentences of all reports.
        region: (S,) int64, the region that each sentence here chose; of a soft maximum, the one of most weight.
    """

    scores: Scores
    region: Tensor


def maximum_over_regions(
    critic: Critic,
    regions: Tensor,
    sentences: Tensor,
    *,
    owner: Tensor,
    groups: Sequence[Tensor] = (),
    select_by: SelectBy = "estimate",
    temperature: float = 0.0,
) -> Selection:
    """The maximum over regions of Equation (5), Liao et al. (2021): max_n I(z_n of the image, sentence), for every sentence.

    The choice has no gradient, and only the scores of the chosen regions have one. Regions that no sentence chose get exactly
    zero (as long as the critic treats each region by itself, which batch norm does not). The maximum is one-way: every sentence
    finds a region, a region may be found by none. Negatives are the same region with sentences of other reports; sentences of
    the same report never serve.

    Args:
        critic: Scores features of a region and of a sentence.
        regions: (B, N, D).
        sentences: (S, D'): one or several for each image, in any order.
        owner: (S,) integers, the image of each sentence.
        groups: Groupings, each (S,): sentences of one group (same study, same text) are never negatives of each other, nor of
            other sentences of the same report.
        select_by: "estimate": the region whose score most exceeds those with its negatives, log-sum-exp over them;
            "score": the region with the highest score itself, which costs far less and is the same where the negatives of a
            sentence do not depend on the region.
        temperature: 0: the maximum. t > 0, beyond the paper: the scores of all regions, weighted by the softmax over regions of
            what it selects by / t, which has no gradient itself; t to 0 is the maximum, t to infinity the mean over regions.

    Returns:
        Joint (S), marginal (S, S) (of all processes), and the chosen regions of the sentences here.

    Raises:
        ConfigError: `owner` does not name an image of the batch for each sentence, or `select_by` is unknown.
    """
    owner = owner.to(sentences.device, torch.int64)
    check_owners(owner, regions, sentences)
    groups = on_device(groups, sentences)
    if select_by not in ("estimate", "score"):
        raise ConfigError(message("select_by", "be estimate or score", repr(select_by), do="Use estimate"))
    check_temperature(temperature)
    exchange = Exchange.of(sentences)
    every = exchange.all(sentences)
    owners = _of_all(owner, regions, exchange)
    place = exchange.offset + torch.arange(len(sentences), device=sentences.device)
    kin = [owners[place], *groups]
    alike = same_group(kin, [owners, *(exchange.all(group) for group in groups)], shape=(len(sentences), len(every)))
    # What one sentence of a report is alike to is no negative of its others: words that the report says are true of its image.
    own = (owner[:, None] == owner).float()
    alike = (own @ alike.float()) > 0

    owned = torch.zeros(len(regions), dtype=torch.bool, device=regions.device).index_fill(0, owner, True)
    # An image without a sentence is not read: it may hold anything, and 0 times NaN would reach the gradient of the critic.
    x, y = critic.encode_x(torch.where(owned[:, None, None], regions, 0.0)), critic.encode_y(every)
    if temperature:
        every_region = critic.pair(x.flatten(0, 1), y).view(*regions.shape[:2], len(every))  # (B, N, all sentences)
        values = _values(every_region.detach(), owner, place=place, negative=~alike, select_by=select_by)
        chosen, weights = values.argmax(1), (values / temperature).softmax(1)
        matrix = (weights[..., None] * every_region[owner]).sum(1)
    elif select_by == "estimate" and critic.leaves_out_unused:
        scores = critic.pair(x.flatten(0, 1), y).view(*regions.shape[:2], len(every))  # once, not again for the chosen ones
        chosen = _values(scores.detach(), owner, place=place, negative=~alike).argmax(1)
        matrix = scores[owner, chosen]  # (S, all sentences)
    else:
        with torch.no_grad():
            if select_by == "score":
                # (S, N, 1): each sentence with the regions of its own image
                chosen = critic.pair(x[owner], y[place][:, None])[..., 0].argmax(1)
            else:
                scores = critic.pair(x.flatten(0, 1), y).view(*regions.shape[:2], len(every))
                chosen = _values(scores, owner, place=place, negative=~alike).argmax(1)
        row_of, rows = torch.unique(owner * regions.shape[1] + chosen, return_inverse=True)  # several may choose one region
        matrix = critic.pair(x.flatten(0, 1)[row_of], y)[rows]  # (S, all sentences)
    joint = matrix[torch.arange(len(sentences), device=matrix.device), place]
    return Selection(exchange.joined(joint, matrix, ~alike), chosen)


def check_owners(owner: Tensor, regions: Tensor, sentences: Tensor) -> None:
    """Refuses owners that do not name an image of the batch for each sentence.

    Args:
        owner: (S,) integers.
        regions: (B, N, D).
        sentences: (S, D').

    Raises:
        ConfigError: There are more or fewer than sentences, or one of them is no image.
    """
    if len(owner) != len(sentences):
        rule, do = f"name the image of each sentence ({len(sentences)})", "Give one index per sentence"
        raise ConfigError(message("owner", rule, len(owner), do=do))
    if len(owner) and not 0 <= int(owner.min()) <= int(owner.max()) < len(regions):
        rule, do = f"lie in [0, {len(regions)})", "Give the place of the image in the batch"
        raise ConfigError(message("owner", rule, f"{int(owner.min())} to {int(owner.max())}", do=do))


def check_temperature(temperature: float) -> None:
    """Refuses a temperature of a maximum over regions that is below 0, or no number.

    Args:
        temperature: 0 is the maximum itself.

    Raises:
        ConfigError: It is below 0.
    """
    if not temperature >= 0:
        raise ConfigError(message("temperature", "be 0 or more", temperature, do="Use 0 for the maximum"))


def _of_all(owner: Tensor, regions: Tensor, exchange: Exchange) -> Tensor:
    """Images of the sentences of all processes, numbered through."""
    images = Exchange.of(regions)
    return exchange.all(owner + images.offset)


def _values(scores: Tensor, owner: Tensor, *, place: Tensor, negative: Tensor, select_by: SelectBy = "estimate") -> Tensor:
    """(S, N) own score of each region minus, for the estimate, log-sum-exp over the sentence's negatives.

    `scores` (B, N, all sentences). A sentence without negatives goes by the score itself.
    """
    candidates = scores[owner]  # (S, N, all sentences)
    own = candidates.gather(2, place[:, None, None].expand(-1, candidates.shape[1], 1))[..., 0]  # (S, N)
    if select_by == "score":
        return own
    others = candidates.masked_fill(~negative[:, None], -torch.inf).logsumexp(-1)
    return torch.where(negative.any(-1, keepdim=True), own - others, own)
