"""Modality dropout: which subsets are drawn, and that nothing is ever added."""

from __future__ import annotations

import math

import pytest
import torch
from scipy.stats import chisquare
from torch import Tensor

from comodal.method import Problem
from comodal.methods.moddrop import ModDrop, ModDropConfig, random_subsets
from comodal.modality import Modality, Target
from comodal.testing import make_batch

ROWS = 20_000


def counted(present: Tensor, drop: float, seed: int) -> dict[tuple[bool, ...], int]:
    torch.manual_seed(seed)
    counts: dict[tuple[bool, ...], int] = {}
    for row in random_subsets(present, drop).tolist():
        counts[tuple(row)] = counts.get(tuple(row), 0) + 1
    return counts


@pytest.mark.parametrize("count", [2, 3, 4])
def test_half_makes_all_non_empty_subsets_equally_likely(count: int) -> None:
    counts = counted(torch.ones(ROWS, count, dtype=torch.bool), 0.5, seed=0)
    assert len(counts) == 2**count - 1
    assert chisquare(list(counts.values())).pvalue > 0.01


def test_another_rate_gives_bernoulli_conditioned_on_one_that_stays() -> None:
    drop, count = 0.8, 3
    counts = counted(torch.ones(ROWS, count, dtype=torch.bool), drop, seed=0)
    chance = {bits: (1 - drop) ** sum(bits) * drop ** (count - sum(bits)) / (1 - drop**count) for bits in counts}
    assert math.isclose(sum(chance.values()), 1)
    keys = list(counts)
    assert chisquare([counts[k] for k in keys], [chance[k] * ROWS for k in keys]).pvalue > 0.01


def test_subsets_are_of_what_a_row_has() -> None:
    present = torch.tensor([[True, False, True]]).expand(ROWS, 3)
    counts = counted(present, 0.5, seed=1)
    assert set(counts) == {(True, False, False), (False, False, True), (True, False, True)}
    assert chisquare(list(counts.values())).pvalue > 0.01


def test_nothing_is_added_and_no_row_is_left_empty() -> None:
    generator = torch.Generator().manual_seed(0)
    present = torch.rand((500, 4), generator=generator) < 0.4
    present = present[present.any(dim=1)]
    for drop in (0.0, 0.5, 0.95):
        kept = random_subsets(present, drop)
        assert not (kept & ~present).any()
        assert kept.any(dim=1).all()
    assert torch.equal(random_subsets(present, 0.0), present)


def test_the_only_modality_always_stays() -> None:
    single = torch.tensor([[False, True], [True, False]]).repeat(50, 1)
    assert torch.equal(random_subsets(single, 0.9), single)


def test_the_argument_is_not_written_to_and_the_seed_decides() -> None:
    present = torch.ones(20, 3, dtype=torch.bool)
    torch.manual_seed(3)
    first = random_subsets(present, 0.5)
    torch.manual_seed(3)
    assert torch.equal(first, random_subsets(present, 0.5))
    assert present.all()


def test_dropout_is_in_the_losses_and_not_in_predict() -> None:
    problem = Problem((Modality("t1"), Modality("t2")), (Target("seg", "regions", ("WT",)),), 2, (8, 8))
    method = ModDrop(problem, ModDropConfig(width=2, levels=2))
    seen: list[Tensor] = []
    method.unet.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].present))
    batch = make_batch(problem, 32)
    torch.manual_seed(0)
    method.losses(batch, method.stages()[0])
    assert not seen[0].all() and seen[0].any(dim=1).all()
    method.eval()
    prediction = method.predict(batch)
    assert seen[1].all() and prediction.used.all()


@pytest.mark.parametrize("drop", [1.0, -0.1])
def test_a_rate_that_would_drop_everything_is_refused(drop: float) -> None:
    with pytest.raises(ValueError, match="drop"):
        ModDropConfig(drop=drop)
