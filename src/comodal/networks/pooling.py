"""Multiple-instance pooling: from a bag of latents to one, by gated attention, and CLAM's instance loss beside it.

Axis letters: see `comodal.batch`; D units of the attention.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


class GatedAttention(nn.Module):
    """Weights of the items of a bag: a_n = softmax_n(w (tanh(V h_n) * sigmoid(U h_n))).

    Equation (9) of Ilse, Tomczak and Welling (2018), Attention-based Deep Multiple Instance Learning, ICML, arXiv:1802.04712.

    Args:
        features: F of an item.
        units: D.
        dropout: On the gated units.
    """

    def __init__(self, features: int, units: int = 256, *, dropout: float = 0.0) -> None:
        super().__init__()
        self.tanh, self.gate = nn.Linear(features, units), nn.Linear(features, units)
        self.score = nn.Linear(units, 1)
        self.dropout = nn.Dropout(dropout)

    def scores(self, items: Tensor) -> Tensor:
        """(B, N, F) to (B, N), before the softmax."""
        gated = torch.tanh(self.tanh(items)) * torch.sigmoid(self.gate(items))
        found: Tensor = self.score(self.dropout(gated)).squeeze(-1)
        return found

    def forward(self, items: Tensor, valid: Tensor) -> Tensor:
        """Weights of the items.

        Args:
            items: (B, N, F), anything finite where not valid.
            valid: (B, N) bool.

        Returns:
            (B, N), zero where not valid, summing to one over the valid items of a bag; all zero for a bag without any.
        """
        scores = self.scores(items).float().masked_fill(~valid, float("-inf"))
        some = valid.any(dim=1, keepdim=True)
        weights = torch.where(some, scores, 0.0).softmax(dim=1)
        return torch.where(valid, weights, 0.0)
