"""The maximum over regions of Liao et al. (2021), taken of every pair and not of the true ones alone.

In Equation (5) a region is chosen with its own sentence in hand, and the negatives are scored at that region. The choice alone
can then tell the pairs apart: a critic may score "effusion" highest at one region of every image and "nodule" at another,
whatever the image shows, and of sixteen scores without any meaning the best one stands out from those that were not chosen. The
value grows by up to log N nats for nothing (measured on held-out pairs: 2.9 nats from 16 regions, where log 16 is 2.8, and 1.7
with other images as negatives at the chosen region). Here the critic of an image and a sentence is

    F(image, sentence) = max over n of f(z_n, sentence),

with a maximum of its own for every pair, true or not, so that the bounds of Equations (3) and (4) hold as they are; each
sentence is told from other images. So they do for a soft maximum, since F may be any function of the pair.

Axis letters: B images, N regions, S sentences, D features, H what the critic makes of them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from comodal.information.critics import Critic
from comodal.information.local import Selection, check_owners, check_temperature
from comodal.information.pairs import Exchange, on_device, same_group


def maximum_against_images(
    critic: Critic,
    regions: Tensor,
    sentences: Tensor,
    *,
    owner: Tensor,
    groups: Sequence[Tensor] = (),
    temperature: float = 0.0,
) -> Selection:
    """Each sentence with the best region of its own image, and with the best region of every other image as negatives.

    All regions are scored without gradient; the critic then scores the chosen ones alone, with gradient. With a temperature
    all regions have a gradient: early in a training, when their scores hardly differ, each has nearly the same, so that a
    sentence is not held to the region that happened to be the best one at first.

    Args:
        critic: Scores features of a region and of a sentence.
        regions: (B, N, D). Images that own no sentence are not read.
        sentences: (S, D'): one or several for each image, in any order.
        owner: (S,) integers, the image of each sentence.
        groups: Groupings, each (S,): an image is no negative of a sentence if one of its own is of the same group (same
            patient, same words).
        temperature: Of `soft_maximum`, beyond the paper; 0: the maximum.

    Returns:
        Joint (S), marginal (S, B) (of all processes), and the best regions of the sentences here.

    Raises:
        ConfigError: `owner` does not name an image of the batch for each sentence, or the temperature is below 0.
    """
    check_temperature(temperature)
    owner = owner.to(sentences.device, torch.int64)
    check_owners(owner, regions, sentences)
    groups = on_device(groups, sentences)
    images, spoken = Exchange.of(regions), Exchange.of(sentences)
    own = owner + images.offset
    every, owners = images.all(regions), spoken.all(own)
    alike = same_group(groups, [spoken.all(group) for group in groups], shape=(len(own), len(owners))).to(own.device)
    alike = alike | (own[:, None] == owners)
    said_of = owners[:, None] == torch.arange(len(every), device=own.device)  # (all sentences, B)
    owned = said_of.any(0)
    negative = owned & ~((alike.float() @ said_of.float()) > 0)  # (S, B)

    x, y = critic.encode_x(torch.where(owned[:, None, None], every, 0.0)), critic.encode_y(sentences)
    here = torch.arange(len(own), device=own.device)
    with torch.set_grad_enabled(torch.is_grad_enabled() and temperature > 0):
        scores = critic.pair(x.flatten(0, 1), y).view(*every.shape[:2], len(own))  # (B, N, S)
    chosen = scores.argmax(1).t()  # (S, B)
    if temperature:
        matrix = soft_maximum(scores, temperature, dim=1).t()
    else:
        at = x[torch.arange(len(every), device=own.device), chosen]  # (S, B, H)
        matrix = critic.pair(at, y[:, None])[..., 0]
    return Selection(spoken.joined(matrix[here, own], matrix, negative), chosen[here, own])


def soft_maximum(scores: Tensor, temperature: float, *, dim: int) -> Tensor:
    """What a sentence scores with an image, of its scores at the regions: t log mean exp (scores / t), or their maximum.

    Between the mean (t to infinity) and the maximum (t to 0), at least the maximum less t log n. In float32 at least: of
    scores near zero little remains once log n is taken off.

    Args:
        scores: Any shape.
        temperature: t; 0 takes the maximum itself.
        dim: The axis of n regions, which is gone in the result.

    >>> scores = torch.tensor([0.0, 4.0])
    >>> [round(float(soft_maximum(scores, t, dim=0)), 2) for t in (0.0, 0.01, 1.0, 100.0)]
    [4.0, 3.99, 3.33, 2.02]
    """
    if not temperature:
        return scores.amax(dim)
    scores = scores.to(torch.promote_types(scores.dtype, torch.float32))
    return temperature * ((scores / temperature).logsumexp(dim) - math.log(scores.shape[dim]))
