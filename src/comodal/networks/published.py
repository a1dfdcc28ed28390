"""Taking weights of others into a network, by name and shape."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

COUNTER = "num_batches_tracked"  # of batch normalisation: no weight, and not in every file


@dataclass(frozen=True)
class Taken:
    """What a network took.

    Attributes:
        tensors: How many of its own it could take; the counters of batch normalisation do not count.
        of: How many it has.
        prefix: What stands before the names in the file.
        adapted: The first convolution, "3 channels to 1", where it reads another number of channels; "" where it does not.
        left: Some of its names for which there was nothing, at most three.
    """

    tensors: int
    of: int
    prefix: str = ""
    adapted: str = ""
    left: tuple[str, ...] = ()

    @property
    def enough(self) -> bool:
        """Whether these are weights for this network: at least half of them fit."""
        return 2 * self.tensors >= self.of


def take(
    network: nn.Module, weights: Mapping[str, Tensor], *, renames: Sequence[tuple[str, str]] = (), prefer: str = ""
) -> Taken:
    """Copies what fits into the network, if it is at least half of what the network has; else it is left as it was.

    Names are compared without what stands before all of them in the file ("module.", "encoder.", ...). Where the first
    convolution reads another number of channels, each of its own C gets 1/C of the sum over those of the file: an image whose
    channels are equal is then seen as the same grey picture was.

    Args:
        network: Is changed.
        weights: {name: tensor} of the file.
        renames: (regular expression, replacement) on the names of the file.
        prefer: Of several prefixes that fit equally well, one that has this word.

    Returns:
        What was taken; nothing was if it is not `enough`.
    """
    theirs = {_renamed(name, renames): tensor for name, tensor in weights.items()}
    own = {name: tensor for name, tensor in network.state_dict().items() if not name.endswith(COUNTER)}
    first = next((f"{n}.weight" for n, m in network.named_modules() if isinstance(m, nn.Conv1d | nn.Conv2d | nn.Conv3d)), "")
    prefix = _prefix(own, theirs, first, prefer)
    found: dict[str, Tensor] = {}
    adapted = ""
    for name, tensor in own.items():
        other = theirs.get(prefix + name)
        if other is None:
            continue
        if other.shape == tensor.shape:
            found[name] = other
        elif name == first and _but_channels(other, tensor):
            have, need = other.shape[1], tensor.shape[1]
            found[name] = other.sum(dim=1, keepdim=True).expand_as(tensor) / need
            adapted = f"{have} channels to {need}"
    left = tuple(name for name in own if name not in found)[:3]
    taken = Taken(len(found), len(own), prefix, adapted, left)
    if taken.enough:
        with torch.no_grad():
            for name, tensor in found.items():
                own[name].copy_(tensor)  # a state dict shares the memory of its network
    return taken


def _renamed(name: str, renames: Sequence[tuple[str, str]]) -> str:
    for pattern, replacement in renames:
        name = re.sub(pattern, replacement, name)
    return name


def _but_channels(other: Tensor, own: Tensor) -> bool:
    """Whether two weights of a convolution differ in the channels that they read, and in nothing else."""
    return other.ndim == own.ndim and other.shape[0] == own.shape[0] and other.shape[2:] == own.shape[2:]


def _prefix(own: Mapping[str, Tensor], theirs: Mapping[str, Tensor], first: str, prefer: str) -> str:
    """What stands before most names that fit."""
    by_end: dict[str, list[str]] = {}
    for name in theirs:
        by_end.setdefault(name.rpartition(".")[2], []).append(name)
    votes: Counter[str] = Counter()
    for name, tensor in own.items():
        for other in by_end.get(name.rpartition(".")[2], ()):
            before = other.removesuffix(name)
            if other.endswith(name) and (not before or before.endswith(".")):
                fits = theirs[other].shape == tensor.shape or (name == first and _but_channels(theirs[other], tensor))
                votes[before] += fits
    best = [before for before, count in votes.items() if count == max(votes.values())]
    liked = [before for before in best if prefer and prefer in before.split(".")]
    return min(liked or best or [""], key=lambda before: (len(before), before))
