from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pytest

from comodal.errors import ConfigError, DataError
from comodal.information.discrete import Floats, Joint
from comodal.information.local_theory import LocalGlobal, RegionModel, SentenceMap, local_global

SEEDS = range(12)
ORDERS: dict[SentenceMap, float] = {(1, 2): 0.3, (2, 1): 0.5, (1, None): 0.2}
SLACK = 1e-12  # of an inequality


def pmfs(rng: np.random.Generator, *shape: int, spread: float = 0.5) -> Floats:
    """Random pmfs along the last axis; the smaller the spread, the more nearly certain."""
    return rng.dirichlet(np.full(shape[-1], spread), size=shape[:-1])


def random_model(seed: int, spread: float = 0.5, **changes: Any) -> RegionModel:
    """Two regions with dependent statuses, a shared V^I and a shared V^R, and random kernels; one sentence for each region."""
    rng = np.random.default_rng(seed)
    region, sentence = pmfs(rng, 2, 2, 2, 3, spread=spread), pmfs(rng, 3, 3, 2, 3, spread=spread)

    def say(told: Mapping[int, int], w: int) -> Floats:
        row: Floats = sentence[told.get(1, 2), told.get(2, 2), w]
        return row

    fields: dict[str, Any] = {
        "statuses": rng.dirichlet(np.ones(4)).reshape(2, 2),
        "region": lambda n, h, v: region[n - 1, h, v],
        "sentence": say,
        "maps": {(1, 2): 1.0},
        "sentences": 2,
        "nuisance": np.outer(rng.dirichlet([1, 1]), rng.dirichlet([1, 1])),
        "region_values": 3,
        "sentence_values": 3,
    }
    return RegionModel(**(fields | changes))


def independent(seed: int, **changes: Any) -> RegionModel:
    """The same with independent statuses and without shared V^I: z_1 and z_2 are independent."""
    rng = np.random.default_rng(1000 + seed)
    statuses = np.outer(rng.dirichlet([1, 1]), rng.dirichlet([1, 1]))
    return random_model(seed, **({"statuses": statuses, "nuisance": np.outer([1.0], rng.dirichlet([1, 1]))} | changes))


def total_correlation(joint: Joint, groups: Sequence[tuple[str, ...]]) -> float:
    return sum(joint.entropy(group) for group in groups) - joint.entropy([name for group in groups for name in group])


def test_the_table_equals_a_slow_sum_over_everything_hidden() -> None:
    model = random_model(0, maps=ORDERS)
    joint, statuses, nuisance = model.joint(), np.asarray(model.statuses), np.asarray(model.nuisance)
    table = np.zeros((2, 2, 3, 3, 3, 3, 3))
    for h1, h2, v, w, z1, z2, s1, s2 in itertools.product(*map(range, (2, 2, 2, 2, 3, 3, 3, 3))):
        for number, (f, weight) in enumerate(ORDERS.items()):
            told = [{n: (h1, h2)[n - 1] for n in (1, 2) if f[n - 1] == m} for m in (1, 2)]
            p = statuses[h1, h2] * nuisance[v, w] * weight
            p *= np.asarray(model.region(1, h1, v))[z1] * np.asarray(model.region(2, h2, v))[z2]
            p *= np.asarray(model.sentence(told[0], w))[s1] * np.asarray(model.sentence(told[1], w))[s2]
            table[h1, h2, z1, z2, s1, s2, number] += p
    assert joint.names == ("h1", "h2", "z1", "z2", "s1", "s2", "map")
    np.testing.assert_allclose(joint.table, table, atol=1e-15)


@pytest.mark.parametrize("seed", SEEDS)
def test_equation_6_holds_as_corrected_and_equation_7(seed: int) -> None:
    for chain in local_global(random_model(seed)).chain:
        assert chain.whole == pytest.approx(chain.own + chain.rest, abs=SLACK)
        assert chain.whole >= chain.own - SLACK
        assert chain.printed == 0.0
        assert chain.whole > chain.own + 1e-6  # so that Equation (6) as printed fails in every one of these models


def test_equation_6_as_printed_fails_by_a_known_amount() -> None:
    model = random_model(0, statuses=np.diag([0.5, 0.5]), region=lambda n, h, v: [1.0 - h, 1.0 * h, 0.0] if n == 2 else 0)
    chain = local_global(model).chain[0]  # region 1 shows nothing, region 2 all: log 2 on the left, 0 + 0 on the right
    assert chain.whole == pytest.approx(np.log(2), abs=1e-15)
    assert (chain.own, chain.printed) == (0.0, 0.0)


@pytest.mark.parametrize("seed", SEEDS)
def test_equation_7_is_an_equality_where_the_rest_is_independent_given_the_region(seed: int) -> None:
    model = independent(seed)
    p = model.joint().marginal(("z1", "z2", "h1")).table
    own = p.sum(axis=(1, 2), keepdims=True)  # z2 and h1 independent given z1, checked without any information
    np.testing.assert_allclose(p * own, p.sum(axis=2, keepdims=True) * p.sum(axis=1, keepdims=True), atol=1e-15)
    assert local_global(model).chain[0].whole == pytest.approx(local_global(model).chain[0].own, abs=SLACK)


@pytest.mark.parametrize("maps", [{(1, 2): 1.0}, {(1, 1): 1.0}, {(None, 2): 1.0}, ORDERS])
@pytest.mark.parametrize("seed", SEEDS)
def test_every_single_term_the_mean_and_the_maximum_are_lower_bounds(seed: int, maps: dict[SentenceMap, float]) -> None:
    exact = local_global(random_model(seed, maps=maps))
    assert max(*exact.local, exact.largest, exact.mean) <= exact.paired + SLACK
    assert max(map(max, exact.positions)) <= exact.overall + SLACK
    if len(maps) == 1:
        assert exact.overall == pytest.approx(exact.paired, abs=SLACK)
    assert exact.overall <= exact.paired + SLACK  # the pairing is information as well


@pytest.mark.parametrize("maps", [{(1, 2): 1.0}, {(1, 1): 1.0}, {(2, None): 1.0}, ORDERS])
@pytest.mark.parametrize("seed", SEEDS)
def test_the_sum_is_a_lower_bound_if_the_regions_are_independent(seed: int, maps: dict[SentenceMap, float]) -> None:
    model = independent(seed, maps=maps)
    exact, joint = local_global(model), model.joint()
    assert joint.information("z1", "z2") < SLACK
    whole = sum(joint.information(region, ("s1", "s2"), "map") for region in ("z1", "z2"))
    assert exact.total <= whole + SLACK <= exact.paired + 2 * SLACK


@pytest.mark.parametrize("seed", SEEDS)
def test_the_proof_needs_no_generative_model(seed: int) -> None:
    rng = np.random.default_rng(seed)
    z = [pmfs(rng, 3) for _ in range(3)]
    table = np.einsum("a,b,c,abcde->abcde", *z, pmfs(rng, 3, 3, 3, 4).reshape(3, 3, 3, 2, 2))  # any s given independent z
    joint = Joint(("z1", "z2", "z3", "s1", "s2"), table)
    whole = sum(joint.information(f"z{n}", ("s1", "s2")) for n in (1, 2, 3))
    assert whole <= joint.information(("z1", "z2", "z3"), ("s1", "s2")) + SLACK


@pytest.mark.parametrize("seed", SEEDS)
def test_the_sum_over_sentences_is_a_lower_bound_if_those_are_independent(seed: int) -> None:
    rng = np.random.default_rng(seed)
    statuses = np.outer(rng.dirichlet([1, 1]), rng.dirichlet([1, 1]))
    nuisance = np.outer(rng.dirichlet([1, 1]), [1.0])  # V^I shared, V^R not
    model = random_model(seed, statuses=statuses, nuisance=nuisance)
    exact = local_global(model)
    assert model.joint().information("s1", "s2") < SLACK
    assert exact.selected <= exact.overall + SLACK


@pytest.mark.parametrize(
    ("spread", "shared", "least", "most"), [(0.1, False, 0.2, 0.5), (0.1, True, 0.01, 0.1), (2.0, False, 0.0, 0.0)]
)
def test_the_sum_bounds_in_most_random_models_but_not_in_all(spread: float, shared: bool, least: float, most: float) -> None:
    changes: dict[str, Any] = {} if shared else {"nuisance": ((1.0,),)}
    excess = np.array([local_global(random_model(seed, spread, **changes)).excess for seed in range(150)])
    assert least <= (excess > 1e-9).mean() <= most  # "typically a lower bound" is true of noisy kernels, less of sharp ones
    assert excess.min() < -0.01


@pytest.mark.parametrize("seed", SEEDS)
def test_the_excess_is_a_difference_of_total_correlations(seed: int) -> None:
    model = random_model(seed, maps={(2, 1): 1.0})
    joint = model.joint()
    z, s, pairs = [("z1",), ("z2",)], [("s1",), ("s2",)], [("z1", "s2"), ("z2", "s1")]
    expected = total_correlation(joint, z) + total_correlation(joint, s) - total_correlation(joint, pairs)
    assert local_global(model).excess == pytest.approx(expected, abs=SLACK)


@pytest.mark.parametrize("seed", SEEDS)
def test_the_sum_is_an_upper_bound_if_features_tell_their_status(seed: int) -> None:
    rng = np.random.default_rng(seed)
    model = random_model(seed, region=lambda _, h, __: h, nuisance=np.outer(rng.dirichlet([1, 1]), [1.0]))
    exact = local_global(model)
    assert exact.total >= exact.overall - SLACK
    assert exact.excess > 1e-9  # the statuses are dependent


@pytest.mark.parametrize("seed", SEEDS)
def test_sum_and_global_are_equal_if_the_pairs_are_independent(seed: int) -> None:
    exact = local_global(independent(seed, nuisance=((1.0,),)))
    assert exact.total == pytest.approx(exact.overall, abs=SLACK)


@pytest.mark.parametrize("maps", [{(1, 2): 1.0}, {(1, 1): 1.0}, ORDERS])
@pytest.mark.parametrize("seed", SEEDS)
def test_local_information_is_at_most_that_about_the_status(seed: int, maps: dict[SentenceMap, float]) -> None:
    exact = local_global(random_model(seed, maps=maps))  # V^I independent of V^R and of the statuses
    assert all(local <= chain.own + SLACK for local, chain in zip(exact.local, exact.chain, strict=True))


def test_a_nuisance_common_to_image_and_text_breaks_that() -> None:
    exact = local_global(random_model(0, region=lambda _, __, v: v, sentence=lambda _, w: w, nuisance=np.diag([0.5, 0.5])))
    assert exact.local == pytest.approx([np.log(2)] * 2)
    assert [chain.own for chain in exact.chain] == pytest.approx([0.0, 0.0], abs=1e-15)


@pytest.mark.parametrize("seed", SEEDS)
def test_selecting_for_each_image_is_at_least_selecting_once_and_is_the_slow_mean(seed: int) -> None:
    model = random_model(seed)
    exact, joint = local_global(model), model.joint()
    assert exact.pointwise >= exact.selected - SLACK
    p = joint.marginal(("z1", "z2", "s1", "s2")).table
    slow = 0.0
    ratios = {(n, m): joint.log_ratio(f"z{n}", f"s{m}") for n in (1, 2) for m in (1, 2)}
    for cell in np.ndindex(p.shape):
        z, s = cell[:2], cell[2:]
        slow += float(p[cell]) * sum(max(float(ratios[n, m][z[n - 1], s[m - 1]]) for n in (1, 2)) for m in (1, 2))
    assert exact.pointwise == pytest.approx(slow, abs=SLACK)


def test_properties_of_the_account() -> None:
    exact = LocalGlobal((0.25, 0.75), 0.5, 0.5, ((0.1, 0.4), (0.3, 0.2)), 0.8, ())
    assert (exact.total, exact.mean, exact.largest, exact.excess) == (1.0, 0.5, 0.75, 0.5)
    assert exact.selected == pytest.approx(0.3 + 0.4)


def test_a_value_that_never_occurs_disturbs_nothing() -> None:
    exact = local_global(random_model(0, region=lambda n, h, v: h, sentence=lambda told, w: next(iter(told.values()))))
    assert np.isfinite(exact.pointwise)


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"maps": {(0, 1): 1.0}}, r"RegionModel.maps must give each of 2 regions a sentence of 1..2, or None; got \(0, 1\)"),
        ({"maps": {(1,): 1.0}}, "RegionModel.maps must give each of 2 regions"),
        ({"nuisance": [1.0]}, r"RegionModel.nuisance must have shape \(V, W\); got \(1,\)"),
        ({"region_values": 1000}, r"RegionModel must need a table of at most 1048576 cells; got 36000000"),
    ],
)
def test_models_that_do_not_fit(changes: dict[str, Any], text: str) -> None:
    with pytest.raises(ConfigError, match=text):
        random_model(0, **changes)


def test_kernels_and_tables_that_are_no_probabilities() -> None:
    with pytest.raises(ConfigError, match=r"RegionModel.region must give a value below 3, or 3 probabilities; got 3"):
        random_model(0, region=lambda n, h, v: 3).joint()
    with pytest.raises(ConfigError, match=r"RegionModel.sentence must give a value below 3, or 3 probabilities; got \[1.0\]"):
        random_model(0, sentence=lambda told, w: [1.0]).joint()
    with pytest.raises(DataError, match=r"RegionModel.statuses must sum to 1; got 2"):
        random_model(0, statuses=[[1.0, 0.0], [0.0, 1.0]])
    with pytest.raises(DataError, match=r"RegionModel.maps must sum to 1"):
        random_model(0, maps={(1, 2): 0.5}).joint()
