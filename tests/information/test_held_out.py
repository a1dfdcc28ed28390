from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from comodal.information import bounds
from comodal.information.closed import correlated_gaussians, gaussian_correlation, gaussian_log_ratio
from comodal.information.estimators import ESTIMATORS, Estimate
from comodal.information.held_out import Held
from comodal.information.held_out import combined as combined_draws
from comodal.information.pairs import Scores

Floats = NDArray[np.float64]
NAMES = ["dv", "nwj", "info_nce", "smile", "demi", "jsd", "club", "leave_one_out"]
BY_ROW = {"info_nce", "leave_one_out"}  # means over rows, whose candidates are not resampled
CLIP = 1.5


def part(k: int, *, seed: int = 0, groups: int | None = None, scale: float = 2.0) -> Held:
    """Scores of a critic and densities that know something of pairs, k rows in so many groups."""
    random = np.random.default_rng(seed)
    scores, densities = (scale * (random.normal(size=(k, k)) + np.eye(k)) for _ in range(2))
    names = np.arange(k) if groups is None else np.concatenate([np.arange(groups), random.integers(0, groups, k - groups)])
    return Held(scores, densities, random.permutation(names).astype(np.int64), CLIP)


def by_bounds(held: Held) -> dict[str, float]:
    """The same by `bounds`, with the groups as a mask."""
    assert held.densities is not None
    groups = torch.from_numpy(held.groups)
    masked = groups[:, None] != groups
    critic = Scores.of_matrix(torch.from_numpy(held.scores), masked)
    density = Scores.of_matrix(torch.from_numpy(held.densities), masked)
    turned = density.columns()
    functions: dict[str, Callable[..., torch.Tensor]] = {
        "dv": bounds.donsker_varadhan,
        "nwj": bounds.nwj,
        "info_nce": bounds.info_nce,
        "smile": lambda *scores: bounds.smile(*scores, clip=held.clip),
        "demi": bounds.demi,
        "jsd": bounds.jensen_shannon,
    }
    found = {name: float(f(critic.joint, critic.marginal, critic.negative)) for name, f in functions.items()}
    found["club"] = float(bounds.club(density.joint, density.marginal, density.negative))
    found["leave_one_out"] = float(bounds.leave_one_out(turned.joint, turned.marginal, turned.negative))
    return found


def resampled(held: Held, weights: NDArray[np.int64]) -> Held:
    """The part in which each row really stands so many times. A copy keeps its group: it is no negative of its like."""
    assert held.densities is not None
    rows = np.repeat(np.arange(len(weights)), weights)
    block = np.ix_(rows, rows)
    return replace(held, scores=held.scores[block], densities=held.densities[block], groups=held.groups[rows])


def by_loops(held: Held, weights: NDArray[np.int64]) -> dict[str, float]:
    """From the definitions, pair by pair; a pair of rows drawn a and b times counts a b times."""
    s, d = held.scores, held.densities
    assert d is not None
    k, total = len(s), int(weights.sum())
    own = {"demi": 0.0, "jsd": 0.0, "info_nce": 0.0, "club": 0.0, "leave_one_out": 0.0}
    pairs, exponentials, clipped, softplus, densities = 0, 0.0, 0.0, 0.0, 0.0
    for i in range(k):
        others = [j for j in range(k) if held.groups[j] != held.groups[i] and weights[j]]
        for j in others:
            times = int(weights[i] * weights[j])
            pairs += times
            exponentials += times * math.exp(s[i, j])
            clipped += times * math.exp(min(max(s[i, j], -held.clip), held.clip))
            softplus += times * math.log1p(math.exp(s[i, j]))
            densities += times * d[i, j]
        if not weights[i]:
            continue
        every = [j for j in range(k) if held.groups[j] != held.groups[i]]  # a row's candidates are not resampled
        candidates = math.exp(s[i, i]) + sum(math.exp(s[i, j]) for j in every)
        marginal = sum(math.exp(d[j, i]) for j in every) / len(every)
        own["demi"] += weights[i] * s[i, i]
        own["jsd"] -= weights[i] * math.log1p(math.exp(-s[i, i]))
        own["info_nce"] += weights[i] * (s[i, i] - math.log(candidates) + math.log(1 + len(every)))
        own["club"] += weights[i] * d[i, i]
        own["leave_one_out"] += weights[i] * (d[i, i] - math.log(marginal))
    mean = {name: value / total for name, value in own.items()}
    return {
        "dv": mean["demi"] - math.log(exponentials / pairs),
        "nwj": 1 + mean["demi"] - exponentials / pairs,
        "info_nce": mean["info_nce"],
        "smile": mean["demi"] - math.log(clipped / pairs),
        "demi": mean["demi"],
        "jsd": mean["jsd"] - softplus / pairs,
        "club": mean["club"] - densities / pairs,
        "leave_one_out": mean["leave_one_out"],
    }


def combined(parts: list[Held], *, seed: int) -> tuple[Estimate, ...]:
    generator = np.random.default_rng(seed)
    return combined_draws([held.drawn(generator) for held in parts])


def read(held: Held, *weights: NDArray[np.int64]) -> dict[str, list[float]]:
    return {name: values.tolist() for name, values in held.read(np.stack(weights).astype(np.float64)).items()}


# ------------------------------------------------------------------------------------------------------------------ read


@pytest.mark.parametrize("groups", [None, 7, 2])
def test_with_every_row_once_it_is_what_bounds_say(groups: int | None) -> None:
    held = part(23, groups=groups)
    found, expected = read(held, np.ones(23, dtype=np.int64)), by_bounds(held)
    assert list(found) == NAMES == list(expected)
    for name, value in expected.items():
        assert found[name] == [pytest.approx(value, rel=1e-12, abs=1e-12)], name


@pytest.mark.parametrize("groups", [None, 6])
def test_weights_are_copies_of_rows(groups: int | None) -> None:
    """Against a part that really holds the copies, and against loops: copies of one row are no negatives of each other."""
    held, random = part(17, groups=groups, seed=1), np.random.default_rng(2)
    weights = [random.integers(0, 4, 17) for _ in range(5)]
    found = read(held, *weights)
    for place, each in enumerate(weights):
        copies, loops = by_bounds(resampled(held, each)), by_loops(held, each)
        for name in NAMES:
            if name not in BY_ROW:
                assert loops[name] == pytest.approx(copies[name], rel=1e-9, abs=1e-9), f"the two slow ways, {name}"
            assert found[name][place] == pytest.approx(loops[name], rel=1e-9, abs=1e-9), name


def test_twice_every_row_is_the_same() -> None:
    held = part(12, seed=3)
    once, twice = (read(held, np.full(12, times)) for times in (1, 2))
    for name in NAMES:
        assert twice[name] == pytest.approx(once[name], rel=1e-12), name


def test_rows_that_were_not_drawn_are_as_if_they_were_not_there() -> None:
    held, weights = part(14, seed=4, groups=5), np.array([1, 0, 2, 1, 0, 3, 1, 1, 0, 1, 0, 2, 1, 1])
    gone = weights == 0
    poisoned = replace(held, scores=held.scores.copy())
    poisoned.scores[gone] = poisoned.scores[:, gone] = 50.0
    found, expected = read(poisoned, weights), read(held, weights)
    for name in set(NAMES) - BY_ROW:
        assert found[name] == pytest.approx(expected[name], rel=1e-9, abs=1e-9), name


def test_pairs_within_a_group_are_not_read() -> None:
    held = part(20, seed=5, groups=6)
    assert held.densities is not None
    within = (held.groups[:, None] == held.groups) & ~np.eye(20, dtype=bool)
    other = replace(held, scores=np.where(within, 300.0, held.scores), densities=np.where(within, 300.0, held.densities))
    weights = np.random.default_rng(6).integers(0, 3, 20)
    assert read(other, np.ones(20, dtype=np.int64), weights) == read(held, np.ones(20, dtype=np.int64), weights)


def test_without_densities_there_is_no_upper_bound() -> None:
    held = replace(part(9), densities=None)
    assert list(read(held, np.ones(9, dtype=np.int64))) == NAMES[:6]


@pytest.mark.parametrize("scale", [1e2, 1e3, 1e6])
def test_huge_scores_do_not_overflow(scale: float) -> None:
    """Worked in logarithms; NWJ alone, which is no logarithm, may be minus infinity."""
    held = part(30, seed=7, groups=15, scale=scale)
    ones = np.ones(30, dtype=np.int64)
    with np.errstate(over="ignore"):
        found = read(held, ones)
    assert found["nwj"][0] < -1e50
    expected = by_bounds(held)
    for name in set(NAMES) - {"nwj"}:
        assert np.isfinite(expected[name]) and found[name] == [pytest.approx(expected[name], rel=1e-9)], name


def test_a_resample_may_miss_the_highest_score_of_a_row_by_far() -> None:
    """What is left is far below what was there, and must not be rounded to nothing."""
    held = part(8, seed=8)
    assert held.densities is not None
    held.scores[:, 3], held.densities[3] = 2000.0, 2000.0
    weights = np.array([1, 2, 1, 0, 1, 1, 0, 2])
    found, expected = read(held, weights), by_bounds(resampled(held, weights))
    for name in set(NAMES) - BY_ROW:
        assert found[name] == [pytest.approx(expected[name], rel=1e-9, abs=1e-9)], name


def test_a_resample_of_one_group_alone_has_no_negatives() -> None:
    """It says nothing, without a warning; and other resamples beside it are read as ever."""
    held = part(6, seed=9, groups=2)
    alone, both = (held.groups == 0).astype(np.int64), np.ones(6, dtype=np.int64)
    found = read(held, alone, both)
    for name, value in by_bounds(held).items():
        if name not in BY_ROW | {"demi"}:
            assert math.isnan(found[name][0]), name
        assert found[name][1] == pytest.approx(value, rel=1e-12, abs=1e-12), name


def test_the_ceiling_is_the_mean_of_log_k_over_rows() -> None:
    assert part(9).ceiling == pytest.approx(math.log(9), rel=1e-12)
    held = replace(part(5), groups=np.array([0, 0, 0, 1, 2]))
    assert held.ceiling == pytest.approx((3 * math.log(3) + 2 * math.log(5)) / 5, rel=1e-12)
    certain = replace(held, scores=np.where(np.eye(5, dtype=bool), 50.0, 0.0))
    assert read(certain, np.ones(5, dtype=np.int64))["info_nce"] == [pytest.approx(held.ceiling, rel=1e-12)]


# -------------------------------------------------------------------------------------------------------------- combined


def test_an_estimate_is_the_mean_over_parts_weighted_by_rows() -> None:
    parts = [part(30, seed=10), part(10, seed=11, groups=9), part(20, seed=12)]
    found = combined(parts, seed=0)
    assert [estimate.name for estimate in found] == NAMES
    each = [by_bounds(held) for held in parts]
    for estimate in found:
        value = sum(len(held.groups) * values[estimate.name] for held, values in zip(parts, each, strict=True)) / 60
        assert estimate.value == pytest.approx(value, rel=1e-12, abs=1e-12)
        assert estimate.n == 60 and estimate.ci95 is not None and estimate.ci95[0] < estimate.ci95[1]
        kind = ESTIMATORS[estimate.name]
        assert (estimate.kind, estimate.bias) == (kind.kind, kind.bias)
        if not kind.limited:
            assert estimate.ceiling == kind.ceiling(1)


def test_the_ceiling_is_the_mean_over_rows_of_all_parts() -> None:
    found = {estimate.name: estimate for estimate in combined([part(30), part(12, seed=1)], seed=0)}
    assert found["info_nce"].ceiling == pytest.approx((30 * math.log(30) + 12 * math.log(12)) / 42, rel=1e-12)
    assert found["jsd"].ceiling == 0.0 and found["dv"].ceiling is None


@pytest.mark.parametrize(("groups", "told"), [(9, False), (10, True)])
def test_an_interval_needs_20_groups_held_out_in_all(groups: int, told: bool) -> None:
    first = part(40, seed=13, groups=groups)
    second = part(40, seed=14, groups=10)
    found = combined([first, replace(second, groups=second.groups + groups)], seed=0)
    assert all((estimate.ci95 is not None) is told for estimate in found)
    assert all(np.isfinite(estimate.value) for estimate in found)


def test_the_seed_moves_the_interval_but_not_the_value() -> None:
    one, same, other = (combined([part(40, seed=15)], seed=seed) for seed in (0, 0, 1))
    assert one == same
    assert [e.value for e in one] == [e.value for e in other] and [e.ci95 for e in one] != [e.ci95 for e in other]


def test_groups_are_drawn_whole() -> None:
    """Twenty-five rows, each standing there eight times, are no more certain than the twenty-five."""
    once = part(25, seed=16)
    copies = resampled(once, np.full(25, 8))
    demi = {}
    for name, held in (("once", once), ("groups", copies), ("blind", replace(copies, groups=np.arange(200)))):
        found = next(e for e in combined([held], seed=0) if e.name == "demi")
        assert found.ci95 is not None
        demi[name] = found.ci95[1] - found.ci95[0]
    assert demi["groups"] == pytest.approx(demi["once"], rel=1e-9)
    assert demi["blind"] < 0.6 * demi["once"]


def test_intervals_of_a_fixed_critic_hold_what_it_would_read_on_very_many_pairs() -> None:
    """The exact critic on a hundred samples of two parts of 200: about 95 of 100 intervals of 95 % hold the information."""
    information, repeats, n = 0.5, 100, 200
    rho = gaussian_correlation(information, 2)
    generator = torch.Generator().manual_seed(17)
    hits = {"dv": 0, "demi": 0, "info_nce": 0}
    for repeat in range(repeats):
        parts = []
        for first in (0, n):
            x, y = (values.double() for values in correlated_gaussians(n, information, 2, generator=generator))
            parts.append(Held(gaussian_log_ratio(x, y, rho).numpy(), None, np.arange(first, first + n), 5.0))
        for estimate in combined(parts, seed=repeat):
            if estimate.name in hits:
                assert estimate.ci95 is not None
                hits[estimate.name] += estimate.ci95[0] <= information <= estimate.ci95[1]
    assert all(0.85 * repeats < hit for hit in hits.values()), hits
