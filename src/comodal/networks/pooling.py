"""Multiple-instance pooling: from a bag of latents to one, by gated attention, and CLAM's instance loss beside it.

Axis letters: see `comodal.batch`; D units of the attention.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from comodal.batch import Batch
from comodal.modality import Target
from comodal.networks.classification import class_targets
from comodal.processes import mean_over_processes


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


class InstanceLoss(nn.Module):
    """What the items of a bag learn from its label: CLAM's clustering of the most and the least attended ones.

    Lu et al. (2021), Data-efficient and weakly supervised computational pathology on whole-slide images, Nature Biomedical
    Engineering 5, 555-570, arXiv:2004.09666. For each class c a linear layer on the embeddings answers whether an item is
    evidence for c. Of a bag of class y the k items with the highest attention are taken as evidence for y and the k with the
    lowest as none. With `subtyping`, where classes exclude each other, its k highest are no evidence for any other class,
    either. Which items these are is not differentiated: what is learned is the embedding. The loss of a bag is the mean over
    the layers that were asked, that of a layer the mean of the cross-entropies of its items, as in the published code.

    A class and an ordinal target have one layer for each class. Each answer of a multilabel target is a class of its own: a
    yes is a bag of it, a no one of another class, and what is not known asks nothing.

    Deviations. A bag of fewer than 2 k items takes k = half of them, so that no item is both; the published code gives such
    items both labels, and fails below k. A bag of one item has nothing to compare and teaches nothing here. The paper's loss of
    items is a smooth support vector machine; here it is the cross-entropy, as Mallya and Hamarneh (2022) train it.

    Args:
        features: F of an embedding.
        targets: Those of classes get layers.
        k: Items at each end, at least 1.
        subtyping: Whether the layers of the other classes learn, too.
    """

    def __init__(self, features: int, targets: Sequence[Target], *, k: int = 8, subtyping: bool = False) -> None:
        super().__init__()
        self.targets, self.k, self.subtyping = class_targets(targets), k, subtyping
        # both logits of all classes of a target in one layer: (no, yes) of the first, of the second ...
        self.layers = nn.ModuleDict({f"target_{t.name}": nn.Linear(features, 2 * len(t.classes)) for t in self.targets})

    def forward(self, embedded: Tensor, weights: Tensor, valid: Tensor, *, batch: Batch) -> dict[str, Tensor]:
        """The loss of each target.

        Args:
            embedded: (B, N, F) embeddings, anything finite where not valid.
            weights: (B, N) attention, or its scores; not differentiated.
            valid: (B, N) bool. A row without the bag has no valid item.
            batch: Holds `targets` and `labelled`.

        Returns:
            {target: scalar}, of the global batch when averaged over processes; zero where no bag teaches anything.
        """
        taken = torch.minimum(valid.sum(dim=1) // 2, valid.new_tensor(self.k, dtype=torch.long))  # (B,): k of each bag
        items, counted = _ends(embedded, weights.detach(), valid, taken)
        found = {}
        for target in self.targets:
            logits = self.layers[f"target_{target.name}"](items)  # (B, 2 k, 2 K)
            log_p = logits.unflatten(-1, (len(target.classes), 2)).float().log_softmax(dim=-1)  # (B, 2 k, K, 2)
            own, other = _of_layers(log_p, counted, taken)
            yes, no = _asked(target, batch, like=own)
            asked_own = yes & (taken > 0)[:, None]
            asked_other = no & (taken > 0)[:, None] if self.subtyping else torch.zeros_like(no)
            found[target.name] = _mean_of_bags(own, other, asked_own, asked_other)
        return found


def _ends(embedded: Tensor, weights: Tensor, valid: Tensor, taken: Tensor) -> tuple[Tensor, Tensor]:
    """The most attended items of each bag and then its least attended ones, (B, 2 k, F), and which count, (B, k)."""
    most = int(taken.max()) if len(taken) else 0
    order = weights.masked_fill(~valid, float("-inf")).argsort(dim=1, descending=True, stable=True)  # what is not valid is last
    place = torch.arange(most, device=taken.device)
    last = (valid.sum(dim=1, keepdim=True) - 1 - place).clamp(min=0)  # (B, k)
    at = torch.cat([order[:, :most], order.gather(1, last)], dim=1)
    items = embedded.gather(1, at[..., None].expand(-1, -1, embedded.shape[2]))
    return items, place < taken[:, None]


def _of_layers(log_p: Tensor, counted: Tensor, taken: Tensor) -> tuple[Tensor, Tensor]:
    """The loss of each layer, (B, K): were the bag of its class, and were it of another one."""
    most, wide = counted.shape[1], counted[..., None]
    high_yes = torch.where(wide, -log_p[:, :most, :, 1], 0.0).sum(dim=1)
    high_no = torch.where(wide, -log_p[:, :most, :, 0], 0.0).sum(dim=1)
    low_no = torch.where(wide, -log_p[:, most:, :, 0], 0.0).sum(dim=1)
    count = taken.clamp(min=1)[:, None]
    return (high_yes + low_no) / (2 * count), high_no / count


def _asked(target: Target, batch: Batch, like: Tensor) -> tuple[Tensor, Tensor]:
    """(B, K) bool each: of which classes a bag is known to be, and of which it is known not to be."""
    none = like.new_zeros(like.shape, dtype=torch.bool)
    if target.name not in batch.targets:
        return none, none
    truth, known = batch.targets[target.name], batch.labelled[target.name]
    known = (known if known.ndim == 2 else known[:, None]).expand_as(none)
    if target.kind == "multilabel":
        answers = truth > 0.5
    else:
        answers = truth[:, None] == torch.arange(like.shape[1], device=truth.device)
    return answers & known, ~answers & known


def _mean_of_bags(own: Tensor, other: Tensor, asked_own: Tensor, asked_other: Tensor) -> Tensor:
    """Mean over bags of the mean over the layers that are asked; (B, K) each."""
    count = (asked_own | asked_other).sum(dim=1)
    each = torch.where(asked_own, own, torch.where(asked_other, other, 0.0)).sum(dim=1)[count > 0] / count[count > 0]
    return mean_over_processes(each.mean() if len(each) else own.sum() * 0.0, len(each))
