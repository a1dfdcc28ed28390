"""Which pairs belong together and which serve as negatives, and their scores.

In a batch of B cases, x_i and y_i belong together; x_i with y_j, j != i, is a sample of the product of the marginals, except
where i and j are not independent: two images of one report, two "no finding" sentences. Such pairs are of one group and never
serve as negatives. A pair may be of one group in several ways (same study, same text), so groups come as several groupings.

Under several processes the y of all are candidates for the x of each, and the scores of all rows are put together, with
gradient: every process computes the value of the global batch, and K counts it.

Axis letters: B cases, N and M locations, R rows (anchors), C columns (candidates), D features.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from comodal.errors import ConfigError, message
from comodal.information.critics import Critic
from comodal.processes import gather_rows, rows_of_processes

Negatives = Literal["all", "shift", "derangement"]


@dataclass(frozen=True)
class Scores:
    """Scores of pairs, as the functions of `bounds` take them.

    Attributes:
        joint: (..., R) of the pairs that belong together.
        marginal: (..., R, C) of others.
        negative: (R, C) bool, which of `marginal` are negatives.
    """

    joint: Tensor
    marginal: Tensor
    negative: Tensor

    @staticmethod
    def of_matrix(matrix: Tensor, negative: Tensor | None = None) -> Scores:
        """From scores of all pairs, (..., K, K) with the joint ones on the diagonal, which is never a negative."""
        others = ~torch.eye(matrix.shape[-1], dtype=torch.bool, device=matrix.device)
        return Scores(matrix.diagonal(dim1=-2, dim2=-1), matrix, others if negative is None else others & negative)

    def columns(self) -> Scores:
        """The same pairs seen from y: each y among the x. For square scores only."""
        if self.marginal.shape[-1] != self.marginal.shape[-2]:
            rule, got = "be square to be seen from the other side", tuple(self.marginal.shape[-2:])
            raise ConfigError(message("Scores.marginal", rule, got, do="Use negatives='all', or leave out `symmetric`"))
        return Scores(self.joint, self.marginal.transpose(-1, -2), self.negative.transpose(-1, -2))

    @property
    def candidates(self) -> int:
        """K: the most candidates that a row has, its own partner among them."""
        return 1 + int(self.negative.sum(-1).max()) if self.negative.numel() else 1


def group_numbers(labels: Iterable[str | bytes], *, device: torch.device | str = "cpu") -> Tensor:
    """Numbers for groups given as texts: equal texts, equal numbers, on every process and in every run.

    Args:
        labels: Study, patient, or the text of a sentence, one for each case.
        device: Where to put them.

    Returns:
        (B,) int64.

    >>> a, b, c = group_numbers(["no finding", "effusion", "no finding"])
    >>> bool(a == c), bool(a == b)
    (True, False)
    """
    texts = (label.encode() if isinstance(label, str) else label for label in labels)
    numbers = [int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "big", signed=True) for text in texts]
    return torch.tensor(numbers, dtype=torch.int64, device=device)


def word_numbers(ids: Tensor, attention: Tensor) -> Tensor:
    """Numbers for sequences of tokens: equal words, equal numbers, however far they are padded.

    Args:
        ids: (S, L) int64.
        attention: (S, L) bool, True where there is a token.

    Returns:
        (S,) int64, see `group_numbers`.

    >>> ids = torch.tensor([[2, 5, 0], [2, 5, 9], [2, 5, 9]])
    >>> a, b, c = word_numbers(ids, torch.tensor([[True, True, False], [True, True, False], [True, True, True]]))
    >>> bool(a == b), bool(a == c)
    (True, False)
    """
    rows = zip(ids.cpu().numpy(), attention.cpu().numpy(), strict=True)
    return group_numbers([row[seen].tobytes() for row, seen in rows], device=ids.device)


def same_group(rows: Sequence[Tensor], columns: Sequence[Tensor], *, shape: tuple[int, int]) -> Tensor:
    """Which pairs are of one group in any of several groupings.

    Args:
        rows: Each (R,), the group of each row.
        columns: Each (C,), the group of each column, in the order of `rows`.
        shape: (R, C), for where there is no grouping.

    Returns:
        (R, C) bool.
    """
    same = torch.zeros(shape, dtype=torch.bool, device=rows[0].device if rows else None)
    for row, column in zip(rows, columns, strict=True):
        if (len(row), len(column)) != shape:
            rule, do = f"have one entry per item {shape}", "Give the group of every item of the batch"
            raise ConfigError(message("groups", rule, (len(row), len(column)), do=do))
        same = same | (row[:, None] == column)
    return same


def any_apart(groups: Sequence[Tensor]) -> bool:
    """Whether some pair of these items is of one group in none of the groupings, so that it may be a negative.

    Args:
        groups: Each (B,), at least one.

    >>> any_apart([torch.tensor([1, 1, 2]), torch.tensor([5, 6, 6])]), any_apart([torch.tensor([1, 1])])
    (True, False)
    """
    count = len(groups[0])
    return not bool(same_group(groups, groups, shape=(count, count)).all())


def cyclic_shift(count: int, by: int = 1) -> Tensor:
    """Partners for negatives: item i is paired with item i + by, cyclically.

    >>> cyclic_shift(4).tolist()
    [1, 2, 3, 0]
    """
    return (torch.arange(count) + by) % max(count, 1)


def derangement(count: int, *, groups: Tensor | None = None, generator: torch.Generator | None = None) -> Tensor:
    """A random permutation that pairs no item with itself, nor with one of its group where that can be.

    Items are put in a random order with groups side by side and shifted by at least the size of the largest group. Where one
    group holds more than half of the items no permutation is free of pairs within it; those are left to the mask of negatives.

    Args:
        count: B.
        groups: (B,) one number each; None: each item is its own group.
        generator: Of the random numbers; None: torch's own.

    Returns:
        (B,) int64, the partner of each item.
    """
    order = torch.randperm(count, generator=generator)
    if count < 2:
        return order
    largest = 1
    if groups is not None:
        _, numbers, sizes = torch.unique(groups.cpu()[order], return_inverse=True, return_counts=True)
        order, largest = order[torch.argsort(torch.randperm(len(sizes), generator=generator)[numbers])], int(sizes.max())
    low, high = min(largest, count // 2), max(count - largest, count // 2)
    shift = int(torch.randint(low, high + 1, (), generator=generator))
    partners = torch.empty_like(order)
    partners[order] = order.roll(-shift)
    return partners


def draw_locations(
    batch: int, locations: int, count: int, *, shared: bool = False, generator: torch.Generator | None = None
) -> Tensor:
    """Draws a few locations of each case, with replacement as in DIM. For `sample_locations`, of several features alike.

    Args:
        batch: B.
        locations: N.
        count: How many to draw.
        shared: One draw for all cases, for features that are compared position by position across cases.
        generator: Of the random numbers; None: torch's own.

    Returns:
        (B, count) int64.
    """
    return torch.randint(locations, (1 if shared else batch, count), generator=generator).expand(batch, -1)


def sample_locations(features: Tensor, drawn: Tensor) -> Tensor:
    """Features at a few locations, before pairs are made: fewer pairs, less memory.

    Maps that are compared position by position (`aligned`) take one draw, shared by all cases and by both maps.

    Args:
        features: (B, N, D).
        drawn: (B, count), see `draw_locations`.

    Returns:
        (B, count, D), with gradient to the chosen ones.

    >>> x, y = torch.arange(6.0).view(1, 6, 1), torch.arange(6.0).view(1, 6, 1)
    >>> drawn = draw_locations(1, 6, 3, shared=True)
    >>> bool((sample_locations(x, drawn) == sample_locations(y, drawn)).all())
    True
    """
    return features.gather(1, drawn.to(features.device)[..., None].expand(-1, -1, features.shape[-1]))


def tokens(maps: Tensor) -> Tensor:
    """Maps (B, C, *spatial) as local features (B, N, C)."""
    return maps.flatten(2).transpose(1, 2)


def on_device(groups: Sequence[Tensor], items: Tensor) -> list[Tensor]:
    """Groupings beside the items that they group, one entry for each."""
    for group in groups:
        if len(group) != len(items):
            rule, do = f"have one entry per item ({len(items)})", "Give the group of every item of the batch"
            raise ConfigError(message("groups", rule, len(group), do=do))
    return [group.to(items.device) for group in groups]


@dataclass(frozen=True)
class Exchange:
    """What the processes of a training hold together.

    Attributes:
        sizes: Rows of each process.
        rank: Which of them is this one.
    """

    sizes: list[int]
    rank: int

    @staticmethod
    def of(rows: Tensor) -> Exchange:
        """Asks every process for its number of rows."""
        return Exchange(*rows_of_processes(len(rows), rows.device))

    @property
    def offset(self) -> int:
        """The place of this process's first row among those of all."""
        return sum(self.sizes[: self.rank])

    def all(self, rows: Tensor) -> Tensor:
        """Rows of all processes, with gradient."""
        return gather_rows(rows, self.sizes)

    def joined(self, joint: Tensor, marginal: Tensor, negative: Tensor) -> Scores:
        """Scores of the rows of all processes from those of this one: (..., R), (..., R, C), (R, C)."""
        if len(self.sizes) == 1:
            return Scores(joint, marginal, negative)
        rows = (self.all(joint.movedim(-1, 0)), self.all(marginal.movedim(-2, 0)))
        return Scores(rows[0].movedim(0, -1), rows[1].movedim(0, -2), self.all(negative))


def _all_pairs(x: Tensor, y: Tensor, critic: Critic) -> Tensor:
    """(A, ..., D) and (C, ..., D') with no or one axis of locations in between, to scores (N, M, A, C) or fewer axes."""
    scores = critic.all_pairs(x.reshape(-1, x.shape[-1]), y.reshape(-1, y.shape[-1]))
    scores = scores.view(*x.shape[:-1], *y.shape[:-1])
    if x.ndim == 3 and y.ndim == 3:  # (A, N, C, M)
        return scores.permute(1, 3, 0, 2)
    if x.ndim == 3:  # (A, N, C)
        return scores.permute(1, 0, 2)
    return scores.permute(2, 0, 1) if y.ndim == 3 else scores  # (A, C, M)


def contrast(
    critic: Critic,
    x: Tensor,
    y: Tensor,
    *,
    groups: Sequence[Tensor] = (),
    aligned: bool = False,
    negatives: Negatives = "all",
    generator: torch.Generator | None = None,
) -> Scores:
    """Scores of the pairs of a batch: global with global, local with global, or local with local features.

    Negatives are always of another case: another location of the same case is never one.

    Args:
        critic: Scores features of x and of y.
        x: (B, D), or local features (B, N, D).
        y: (B, D'), or local features (B, M, D').
        groups: Groupings, each (B,); cases of one group are never negatives of each other.
        aligned: Local with local: position n of x with position n of y only, instead of all N x M.
        negatives: "all" pairs of the batch (of all processes); or one each: "shift" pairs case i with case i + 1,
            "derangement" at random.
        generator: For "derangement".

    Returns:
        Joint (..., B), marginal (..., B, C): C candidates for each row, or one; the leading axes are none, (N), (M), or (N, M).
    """
    if negatives not in ("all", "shift", "derangement"):
        rule = "be all, shift or derangement"
        raise ConfigError(message("negatives", rule, repr(negatives), do="Use all unless memory is short"))
    locations = (*x.shape[1:-1], *y.shape[1:-1])
    if len(x) != len(y) or x.ndim not in (2, 3) or y.ndim not in (2, 3):
        rule, do = "be (B, D) or (B, N, D) and hold the same cases", "Use `tokens` for maps"
        raise ConfigError(message("x and y", rule, f"{tuple(x.shape)} and {tuple(y.shape)}", do=do))
    if aligned and (len(locations) != 2 or locations[0] != locations[1]):
        rule, do = "have the same locations to be compared position by position", "Leave out `aligned`"
        raise ConfigError(message("x and y", rule, f"{tuple(x.shape)} and {tuple(y.shape)}", do=do))
    groups = on_device(groups, x)  # before the processes begin to wait for each other
    if negatives != "all":
        return _one_each(critic, x, y, groups=groups, aligned=aligned, negatives=negatives, generator=generator)
    exchange = Exchange.of(x)
    every = exchange.all(y)
    if aligned:
        matrix = critic.all_pairs(x.transpose(0, 1), every.transpose(0, 1))  # (N, B, C)
    else:
        matrix = _all_pairs(x, every, critic)
    own = torch.arange(len(x), device=x.device) + exchange.offset
    rows = torch.arange(len(x), device=x.device)
    alike = same_group(groups, [exchange.all(group) for group in groups], shape=(len(x), len(every)))
    alike = alike.to(x.device) | (own[:, None] == torch.arange(len(every), device=x.device))
    return exchange.joined(matrix[..., rows, own], matrix, ~alike)


def _one_each(
    critic: Critic,
    x: Tensor,
    y: Tensor,
    *,
    groups: Sequence[Tensor],
    aligned: bool,
    negatives: Negatives,
    generator: torch.Generator | None,
) -> Scores:
    """One negative for each row: memory and time grow with B, not with its square."""
    count = len(x)
    kin = same_group(groups, groups, shape=(count, count)).to(x.device) | torch.eye(count, dtype=torch.bool, device=x.device)
    if negatives == "shift":
        partners = cyclic_shift(count).to(x.device)
    else:
        partners = derangement(count, groups=_families(kin) if groups else None, generator=generator).to(x.device)
    joint, marginal = (_own_pairs(critic, x, other, aligned=aligned) for other in (y, y[partners]))
    alike = kin[torch.arange(count, device=x.device), partners]
    return Exchange.of(x).joined(joint, marginal[..., None], ~alike[:, None])


def _families(kin: Tensor) -> Tensor:
    """(B,) one number for all that are of one group directly or through others; `kin` (B, B)."""
    from scipy.sparse.csgraph import connected_components

    return torch.from_numpy(connected_components(kin.cpu().numpy(), directed=False)[1])


def _own_pairs(critic: Critic, x: Tensor, y: Tensor, *, aligned: bool) -> Tensor:
    """Scores of x_i with y_i at each location or pair of locations: (B, ...) to (..., B)."""
    if aligned or x.ndim == y.ndim == 2:
        return critic(x, y).movedim(0, -1)  # type: ignore[no-any-return]
    rows, columns = (t if t.ndim == 3 else t[:, None] for t in (x, y))
    scores = critic.all_pairs(rows, columns)  # (B, N, M)
    scores = scores[:, :, 0] if y.ndim == 2 else scores[:, 0] if x.ndim == 2 else scores
    return scores.movedim(0, -1)
