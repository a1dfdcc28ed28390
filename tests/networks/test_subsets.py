"""Random subsets of what each row has: which are drawn how often, and that nothing is ever added."""

from __future__ import annotations

import math

import pytest
import torch
from scipy.stats import chisquare
from torch import Tensor

from comodal.networks.subsets import Draw, draw_subsets

ROWS = 20_000
RULES: tuple[Draw, ...] = ("size", "subset")


def counted(present: Tensor, how: Draw, seed: int = 0) -> dict[tuple[bool, ...], int]:
    torch.manual_seed(seed)
    counts: dict[tuple[bool, ...], int] = {}
    for row in draw_subsets(present, how).tolist():
        counts[tuple(row)] = counts.get(tuple(row), 0) + 1
    return counts


@pytest.mark.parametrize("count", [2, 3, 4])
def test_sizes_are_equally_likely_and_so_are_subsets_of_a_size(count: int) -> None:
    counts = counted(torch.ones(ROWS, count, dtype=torch.bool), "size")
    assert len(counts) == 2**count - 1
    chance = {bits: 1 / count / math.comb(count, sum(bits)) for bits in counts}
    assert math.isclose(sum(chance.values()), 1)
    assert chisquare([counts[k] for k in counts], [chance[k] * ROWS for k in counts]).pvalue > 0.01


@pytest.mark.parametrize("count", [2, 3, 4])
def test_all_subsets_are_equally_likely(count: int) -> None:
    counts = counted(torch.ones(ROWS, count, dtype=torch.bool), "subset")
    assert len(counts) == 2**count - 1
    assert chisquare(list(counts.values())).pvalue > 0.01


def test_the_size_is_drawn_from_what_a_row_has() -> None:
    counts = counted(torch.tensor([[True, False, True, False]]).expand(ROWS, 4), "size", seed=1)
    both, first, last = (True, False, True, False), (True, False, False, False), (False, False, True, False)
    assert counts.keys() == {both, first, last}
    assert chisquare([counts[both], counts[first], counts[last]], [ROWS / 2, ROWS / 4, ROWS / 4]).pvalue > 0.01
    counts = counted(torch.tensor([[True, False, True, False]]).expand(ROWS, 4), "subset", seed=1)
    assert chisquare([counts[both], counts[first], counts[last]]).pvalue > 0.01


@pytest.mark.parametrize("how", RULES)
def test_nothing_is_added_and_no_row_is_left_empty(how: Draw) -> None:
    present = torch.rand((2000, 5), generator=torch.Generator().manual_seed(0)) < 0.3
    present = present[present.any(dim=1)]
    before = present.clone()
    kept = draw_subsets(present, how)
    assert kept.dtype == torch.bool and kept.shape == present.shape
    assert not (kept & ~present).any()
    assert kept.any(dim=1).all()
    assert torch.equal(present, before)
    single = present.sum(dim=1) == 1
    assert torch.equal(kept[single], present[single])


@pytest.mark.parametrize("how", RULES)
def test_the_seed_decides(how: Draw) -> None:
    present = torch.ones(20, 3, dtype=torch.bool)
    torch.manual_seed(3)
    first = draw_subsets(present, how)
    torch.manual_seed(3)
    assert torch.equal(first, draw_subsets(present, how))
