"""Mutual information between the modalities of a case: the terms of CMIM, Sylvain et al. (2021), Section 3.2.

.. math:: L_{l->l} = 1 / (N_i N_j) sum_{n, m} I^(Lambda^i_n; Lambda^j_m), L_{l->g} = 1 / N_i sum_n I^(Lambda^i_n; Gamma),
          L_{g->g} = I^(Gamma^i; Gamma)

Lambda are local features (places of a map, words of a report), Gamma global ones, of another modality or of all of a case.
Each term has a critic of its own for each pair, DIM's concat-and-convolve. Deviations: the paper's 1/N^2 takes equal numbers of
places for granted; Lambda^M, "of all modalities", is not defined for an image and a report: here pairs of different modalities,
each pair once.

Axis letters: B cases, N places, F features of the whole, F' of a place, R rows compared.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations, permutations
from typing import Literal

import torch
from torch import Tensor, nn

from comodal.information.critics import ConcatConvolveCritic
from comodal.information.objective import Objective
from comodal.information.pairs import Negatives, any_apart, sample_locations

JOINT = "*"  # names the embedding of all modalities; no modality can be called so
Target = Literal["joint", "other"]
Compared = tuple[str, str, str]  # term, x, y


@dataclass(frozen=True)
class View:
    """What is known of one modality, or of `JOINT`, in a batch.

    Attributes:
        rows: (B,) bool, which cases have it; the others are not read.
        whole: (B, F).
        places: (B, N, F'); None of `JOINT`.
        valid: (B, N) bool, which places there are: at least one in each of `rows`.
    """

    rows: Tensor
    whole: Tensor
    places: Tensor | None = None
    valid: Tensor | None = None


def compared(names: Sequence[str], terms: Sequence[str], target: Target) -> list[Compared]:
    """What is compared with what.

    Args:
        names: The modalities.
        terms: Some of "ll", "lg", "gg": local or global with local or global.
        target: Of what the global features of "lg" and "gg" are: of all modalities, as in the paper, or of each other one.

    Returns:
        (term, x, y) of each.

    >>> compared(["image", "report"], ["ll", "lg"], "joint")
    [('ll', 'image', 'report'), ('lg', 'image', '*'), ('lg', 'report', '*')]
    """
    found: list[Compared] = []
    for term in terms:
        if term != "ll" and target == "joint":
            found += [(term, name, JOINT) for name in names]
        else:
            both = permutations(names, 2) if term == "lg" else combinations(names, 2)
            found += [(term, x, y) for x, y in both]
    return found


def draw_valid(valid: Tensor, count: int) -> Tensor:
    """Draws places of each row among those that there are, with replacement.

    Args:
        valid: (R, N) bool, with a True in every row.
        count: How many to draw.

    Returns:
        (R, count) int64.
    """
    there = torch.argsort((~valid).long(), dim=1, stable=True)  # those that there are come first
    chance = torch.rand(len(valid), count).to(valid.device)
    return there.gather(1, (chance * valid.sum(dim=1, keepdim=True)).long().clamp(max=valid.shape[1] - 1))


class CrossModal(nn.Module):
    """Critics for pairs of modalities, and the weighted terms.

    Args:
        sizes: {modality, or `JOINT`: (F, F')}.
        pairs: As `compared` gives them.
        weights: {term: its weight}.
        drawn: {modality: places drawn from each case in each step, with replacement; None, or as many as there are, takes all}.
        ragged: Modalities whose cases differ in their number of places, which hence are always drawn.
        hidden: Widths of the hidden layers of the critics.
        bound: Key of ESTIMATORS whose scores are a critic's.
        negatives: See `contrast`.
        climb: Steps over which what reaches the encoders climbs from nothing to everything, while the critics learn. 0: none.
    """

    taken: Tensor

    def __init__(
        self,
        sizes: Mapping[str, tuple[int, int]],
        pairs: Sequence[Compared],
        weights: Mapping[str, float],
        *,
        drawn: Mapping[str, int | None],
        ragged: Sequence[str] = (),
        hidden: Sequence[int] = (512, 512),
        bound: str = "jsd",
        negatives: Negatives = "shift",
        climb: int = 0,
    ) -> None:
        super().__init__()
        self.pairs, self.weights, self.drawn, self.climb = tuple(pairs), dict(weights), dict(drawn), climb
        self.ragged = frozenset(ragged)
        self.objectives = nn.ModuleDict()
        for term, x, y in pairs:
            one, two = (sizes[name][side == "l"] for name, side in zip((x, y), term, strict=True))
            critic = ConcatConvolveCritic(one, two, hidden=hidden)
            self.objectives[f"{term}-{x}-{y}"] = Objective(critic, bound=bound, negatives=negatives)
        self.register_buffer("taken", torch.tensor(0))  # steps; saved with the weights, for resuming

    def forward(
        self, views: Mapping[str, View], *, patients: Tensor, alike: Mapping[str, Tensor]
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """The terms, to be minimised, and the estimates.

        Every process enters every term, also without a row.

        Args:
            views: {modality or `JOINT`: what is known of it}.
            patients: (B,) numbers; cases of one patient are never negatives of each other.
            alike: {modality: (B,) numbers}; cases with one number are no negatives where this modality is compared (the same
                report, word for word), or where all are.

        Returns:
            {"ll/<x>-<y>": -weight x estimate}, zero where nothing can be compared; and {"I/...": estimate}, without these: a
            zero would read as the best there is.
        """
        open_ = 1.0
        if self.climb:
            open_ = min(1.0, float(self.taken) / self.climb)
            if self.training and torch.is_grad_enabled():
                self.taken += 1
        terms: dict[str, Tensor] = {}
        told: dict[str, Tensor] = {}
        for term, x, y in self.pairs:
            name = f"{term}/{x}" + ("" if y == JOINT else f"-{y}")
            rows = (views[x].rows & views[y].rows).nonzero().flatten()
            groups = [patients[rows], *(n[rows] for key, n in alike.items() if key in (x, y) or y == JOINT)]
            sides = [self._side(side, key, views[key], rows) for side, key in zip(term, (x, y), strict=True)]
            one, two = (side if open_ == 1 else side.detach() + open_ * (side - side.detach()) for side in sides)
            value = self.objectives[f"{term}-{x}-{y}"](one, two, groups=groups)
            terms[name] = -self.weights[term] * value
            if any_apart(groups):
                told[f"I/{name}"] = value
        return terms, told

    def _side(self, side: str, name: str, view: View, rows: Tensor) -> Tensor:
        """(R, F) of the whole, or (R, N, F') of all or some places."""
        if side == "g":
            return view.whole[rows]
        assert view.places is not None and view.valid is not None
        places, count = view.places[rows], self.drawn[name]
        if name not in self.ragged and (count is None or count >= places.shape[1]):
            return places
        assert count is not None, f"{name} has no common number of places"
        return sample_locations(places, draw_valid(view.valid[rows], count))
