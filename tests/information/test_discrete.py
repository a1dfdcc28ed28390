from __future__ import annotations

import itertools
import math

import numpy as np
import pytest

from comodal.errors import ConfigError, DataError
from comodal.information.discrete import Floats, Joint, probabilities

LOG2 = math.log(2)


def random_joint(seed: int, shape: tuple[int, ...], zeros: float = 0.0) -> Joint:
    rng = np.random.default_rng(seed)
    table = rng.gamma(0.5, size=shape) * (rng.random(shape) >= zeros)
    return Joint(tuple("abcdef"[: len(shape)]), table / table.sum())


def slow(joint: Joint, x: str, y: str, z: str) -> tuple[float, float]:
    """H(X|Z) and I(X;Y|Z) by their definitions, cell by cell."""

    def p(**fixed: int) -> float:
        cells = itertools.product(*(range(size) for size in joint.table.shape))
        agrees = (cell for cell in cells if all(cell[joint.names.index(name)] == value for name, value in fixed.items()))
        return math.fsum(float(joint.table[cell]) for cell in agrees)

    entropy = information = 0.0
    for cell in itertools.product(*(range(size) for size in joint.table.shape)):
        here = dict(zip(joint.names, cell, strict=True))
        all_of_it = float(joint.table[cell])
        if all_of_it > 0:
            of_x, of_y, of_z = ({name: here[name] for name in names} for names in (x, y, z))
            given = p(**of_z)
            entropy -= all_of_it * math.log(p(**of_x, **of_z) / given)
            ratio = p(**(of_x | of_y | of_z)) * given / (p(**(of_x | of_z)) * p(**(of_y | of_z)))
            information += all_of_it * math.log(ratio)
    return entropy, information


@pytest.mark.parametrize(
    ("x", "y", "z"), [("a", "b", ""), ("a", "b", "c"), ("d", "ac", "b"), ("ab", "cd", ""), ("ba", "d", "c"), ("ab", "bc", "d")]
)
@pytest.mark.parametrize(("seed", "zeros"), [(0, 0.0), (1, 0.5)])
def test_entropy_and_information_equal_a_slow_loop(x: str, y: str, z: str, seed: int, zeros: float) -> None:
    joint = random_joint(seed, (2, 3, 2, 3), zeros)
    entropy, information = slow(joint, x, y, z)
    assert joint.entropy(tuple(x), tuple(z)) == pytest.approx(entropy, abs=1e-13)
    assert joint.information(tuple(x), tuple(y), tuple(z)) == pytest.approx(information, abs=1e-13)


@pytest.mark.parametrize("seed", range(5))
def test_information_is_the_sum_of_entropies_and_keeps_the_chain_rule(seed: int) -> None:
    joint = random_joint(seed, (3, 2, 4), 0.3)
    h = joint.entropy
    assert joint.information("a", "b") == pytest.approx(h("a") + h("b") - h(("a", "b")), abs=1e-13)
    assert joint.information("a", "b") == pytest.approx(joint.information("b", "a"), abs=1e-15)
    steps = joint.information("a", "c") + joint.information("b", "c", "a")
    assert joint.information(("a", "b"), "c") == pytest.approx(steps, abs=1e-13)


@pytest.mark.parametrize("error", [0.0, 0.1, 0.5, 1.0])
def test_binary_symmetric_channel(error: float) -> None:
    joint = Joint(("sent", "read"), np.array([[1 - error, error], [error, 1 - error]]) / 2)
    noise = -sum(q * math.log(q) for q in (error, 1 - error) if q)
    assert joint.information("sent", "read") == pytest.approx(LOG2 - noise, abs=1e-15)


def test_a_copy_holds_its_entropy_and_xor_only_both() -> None:
    pmf = np.array([0.2, 0.3, 0.5])
    copy = Joint(("x", "y"), np.diag(pmf))
    assert copy.information("x", "y") == pytest.approx(float(-(pmf * np.log(pmf)).sum()), abs=1e-15)
    assert copy.information("x", "x") == copy.entropy("x") and copy.entropy("x", given="y") == 0.0

    table = np.zeros((2, 2, 2))
    for x, y in itertools.product(range(2), range(2)):
        table[x, y, x ^ y] = 0.25
    xor = Joint(("x", "y", "z"), table)
    assert xor.information("x", "z") == xor.information("y", "z") == xor.information("x", "y") == 0.0
    assert xor.information("x", "z", given="y") == pytest.approx(LOG2, abs=1e-15)
    assert xor.information(("x", "y"), "z") == pytest.approx(LOG2, abs=1e-15)


def test_small_information_is_not_lost_to_rounding() -> None:
    rng = np.random.default_rng(0)
    x, y = rng.dirichlet(np.ones(7)), rng.dirichlet(np.ones(5))
    assert 0 <= Joint(("x", "y"), np.outer(x, y)).information("x", "y") < 1e-28
    r = 1e-7  # a coin with correlation r: I = r^2 / 2, of which a difference of entropies would keep only two digits
    coins = Joint(("x", "y"), np.array([[1 + r, 1 - r], [1 - r, 1 + r]]) / 4)
    assert coins.information("x", "y") == pytest.approx(r**2 / 2, rel=1e-6)


@pytest.mark.parametrize("tiny", [1e-200, 1e-310])
def test_tiny_probabilities_overflow_nowhere(tiny: float) -> None:
    expected = 0.5 * math.log(0.5 / 0.75**2) + 2 * 0.25 * math.log(0.25 / (0.75 * 0.25))
    corner = Joint(("x", "y"), np.array([[0.5, 0.25], [0.25, tiny]]))
    assert corner.information("x", "y") == pytest.approx(expected, abs=1e-14)
    assert Joint(("x", "y"), np.diag([1.0, tiny])).information("x", "y") == pytest.approx(0.0, abs=1e-190)


def test_nothing_and_what_is_given_add_nothing() -> None:
    joint = random_joint(3, (2, 3, 2))
    assert joint.information((), "a") == joint.information("a", "b", given="a") == joint.entropy(()) == 0.0
    assert joint.information(("a", "c"), "b", "c") == joint.information("a", "b", "c")


def test_marginals_keep_the_order_that_was_asked_for() -> None:
    joint = random_joint(4, (2, 3, 4))
    found = joint.marginal(("c", "a"))
    assert found.names == ("c", "a")
    np.testing.assert_allclose(found.table, joint.table.sum(axis=1).T, atol=1e-15)
    np.testing.assert_allclose(joint.marginal("b").table, joint.table.sum(axis=(0, 2)), atol=1e-15)


def test_log_ratio_averages_to_the_information_and_marks_what_never_occurs() -> None:
    joint = random_joint(5, (2, 3, 4))
    ratio = joint.log_ratio(("c", "a"), "b")
    assert ratio.shape == (4, 2, 3)
    mean = float((joint.marginal(("c", "a", "b")).table * ratio).sum())
    assert mean == pytest.approx(joint.information(("a", "c"), "b"), abs=1e-13)
    holes: Floats = Joint(("x", "y"), np.array([[0.5, 0.0, 0.0], [0.0, 0.5, 0.0]])).log_ratio("x", "y")
    np.testing.assert_allclose(holes, [[LOG2, -math.inf, math.nan], [-math.inf, LOG2, math.nan]], atol=1e-15)


def test_samples_follow_the_table() -> None:
    joint = random_joint(6, (2, 3, 2), 0.2)
    rows = joint.sample(20_000, np.random.default_rng(0))
    assert rows.shape == (20_000, 3) and rows.dtype == np.int64
    counts = np.zeros(joint.table.shape)
    np.add.at(counts, tuple(rows.T), 1)
    assert not counts[joint.table == 0].any()
    np.testing.assert_allclose(counts / len(rows), joint.table, atol=5 * 0.5 / math.sqrt(len(rows)))
    assert (rows == joint.sample(20_000, np.random.default_rng(0))).all()
    assert joint.sample(0, np.random.default_rng(0)).shape == (0, 3)


def test_the_table_is_a_read_only_copy() -> None:
    table = np.full((2, 2), 0.25)
    joint = Joint(("x", "y"), table)
    table[0, 0] = 9
    assert joint.table[0, 0] == 0.25
    with pytest.raises(ValueError, match="read-only"):
        joint.table[0, 0] = 1.0


def test_rounding_in_the_sum_is_divided_out() -> None:
    assert probabilities("p", [0.5, 0.5 + 1e-10]).sum() == pytest.approx(1.0, abs=1e-16)


@pytest.mark.parametrize(
    ("table", "text"),
    [
        ([0.5, 0.6], r"Joint.table must sum to 1; got 1.1. Divide the table by its sum."),
        ([1.5, -0.5], r"Joint.table must hold finite, non-negative probabilities; got the smallest entry -0.5"),
        ([math.nan, 1.0], r"must hold finite"),
        ([], r"got no entry"),
    ],
)
def test_tables_that_are_no_probabilities(table: list[float], text: str) -> None:
    with pytest.raises(DataError, match=text):
        Joint(("x",), np.array(table))


def test_names_are_checked() -> None:
    with pytest.raises(ConfigError, match=r"Joint.names must have one distinct name for each of the 2 axes; got \('x',\)"):
        Joint(("x",), np.full((2, 2), 0.25))
    with pytest.raises(ConfigError, match="one distinct name"):
        Joint(("x", "x"), np.full((2, 2), 0.25))
    joint = Joint(("left", "right"), np.full((2, 2), 0.25))
    with pytest.raises(ConfigError, match=r"Joint must name variables of the table; got 'lift'. Did you mean left\?"):
        joint.information("lift", "right")
    with pytest.raises(ConfigError, match=r"log_ratio.y must share no variable with x; got \['left'\]"):
        joint.log_ratio("left", ("left", "right"))
    with pytest.raises(ConfigError, match="one distinct name"):
        joint.marginal(())
