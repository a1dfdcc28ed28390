"""Which of its modalities each case is seen through in training: draws of random subsets.

The draws are made on the CPU whatever the device, from torch's global generator, so that they are the same everywhere.

Axis letters: see `comodal.batch`.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

Draw = Literal["size", "subset"]


def draw_subsets(present: Tensor, how: Draw = "size") -> Tensor:
    """Draws for each row a non-empty subset of what it has.

    "size" is the rule of Dorent et al. (2019), U-HVED: first a size, uniform in 1 ... |K|, then a subset of that size, uniform
    among them; so that one modality alone and all of them are seen as often as any number between. "subset" makes all
    2^|K| - 1 non-empty subsets equally likely, and so most of them of middle size.

    Args:
        present: (B, M) bool with a True in every row.
        how: The rule.

    Returns:
        (B, M) bool, True only where `present` is.
    """
    have = present.cpu()
    count = have.sum(dim=1, keepdim=True)  # (B, 1)
    chance = torch.rand(count.shape, dtype=torch.float64)  # float32 would tell apart only 2^24 subsets
    if how == "size":
        size = 1 + (chance * count).long()
        score = torch.where(have, torch.rand(have.shape), -1.0)  # absent ones come last
        rank = score.argsort(dim=1, descending=True).argsort(dim=1)
        kept = have & (rank < size)
    else:
        code = 1 + (chance * (2**count - 1)).long()  # the bits of 1 ... 2^|K| - 1 are the non-empty subsets
        bit = have.long().cumsum(dim=1) - 1  # the place of a modality among those that the row has
        kept = have & (code.bitwise_right_shift(bit.clamp(min=0)) & 1).bool()
    return kept.to(present.device)
