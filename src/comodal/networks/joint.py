"""One embedding of several modalities, whichever a row has: the low-rank bilinear form.

Axis letters: B cases, M modalities, F features of one, R rank, D features of the embedding.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn


class LowRankBilinear(nn.Module):
    """P (prod over the modalities of a row of tanh(U_m z_m + b_m)).

    Kim et al. (2017), Hadamard Product for Low-rank Bilinear Pooling, ICLR, arXiv:1610.04325. CMIM (Sylvain et al., 2021) has
    "a bilinear embedding" of two modalities and does not say more; in full it would have 5e8 weights at 2048 x 512 x 512. The
    product has a factor for each modality that the row has; that of an absent one is 1, so that it says nothing.

    Args:
        sizes: {modality: F}.
        rank: R.
        features: D.
    """

    def __init__(self, sizes: Mapping[str, int], *, rank: int, features: int) -> None:
        super().__init__()
        self.features = features
        self.factors = nn.ModuleDict({name: nn.Linear(size, rank) for name, size in sizes.items()})
        self.out = nn.Linear(rank, features)

    def forward(self, latents: Mapping[str, Tensor], present: Mapping[str, Tensor]) -> Tensor:
        """Embeds each row.

        Args:
            latents: {modality: (B, F)}; may lack those that no row has.
            present: {modality: (B,) bool}; what absent rows hold is not read.

        Returns:
            (B, D).
        """
        product: Tensor | None = None
        for name, factor in self.factors.items():
            if name not in latents:
                continue
            rows = present[name][:, None]
            one = torch.where(rows, factor(torch.where(rows, latents[name], 0.0)).tanh(), 1.0)
            product = one if product is None else product * one
        assert product is not None, "some row has a modality"
        found: Tensor = self.out(product)
        return found
