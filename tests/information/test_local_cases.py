from __future__ import annotations

import math

import numpy as np
import pytest

from comodal.information.discrete import Joint
from comodal.information.local_cases import Case, cases, chain_table, channel, sweep, theory_table

LOG2 = math.log(2)


def binary(q: float) -> float:
    """Entropy of a coin."""
    return -q * math.log(q) - (1 - q) * math.log(1 - q)


def agreeing(error: float) -> float:
    """I(z; s) of two readings each of one coin: two that differ say nothing, two that agree are one with fewer errors."""
    agree = error**2 + (1 - error) ** 2
    wrong = error**2 / agree
    return agree**2 * (LOG2 - binary(2 * wrong * (1 - wrong)))


@pytest.fixture(scope="module")
def found() -> dict[str, Case]:
    return {case.name: case for case in cases()}


@pytest.mark.parametrize(
    ("name", "total", "overall"),
    [
        ("independent statuses", 2 * (LOG2 - binary(0.18)), 2 * (LOG2 - binary(0.18))),
        ("identical statuses", 2 * LOG2, LOG2),
        ("correlated statuses", 2 * LOG2, LOG2 + binary(0.25)),
        ("identical, errors of 10 %", 2 * (LOG2 - binary(0.18)), agreeing(0.1)),
        ("identical, errors of 30 %", 2 * (LOG2 - binary(0.42)), agreeing(0.3)),
        ("hidden by a shared nuisance", 0.0, LOG2),
        ("nuisance common to image and text", 2 * LOG2, LOG2),
        ("one sentence for two regions", 2 * (binary(0.25) - LOG2 / 2), binary(0.25)),
        ("a sentence that compares", 0.0, LOG2),
        ("a region and a sentence alone", LOG2, LOG2),
        ("random order", 2 * LOG2, 1.5 * LOG2),
        ("random order, regions named", 2 * LOG2, 2 * LOG2),
        ("random order, one sentence empty", LOG2, LOG2 / 2),
    ],
)
def test_sum_and_global_of_each_case(found: dict[str, Case], name: str, total: float, overall: float) -> None:
    exact = found[name].exact
    assert exact.total == pytest.approx(total, abs=1e-12)
    assert exact.overall == pytest.approx(overall, abs=1e-12)
    difference = total - overall
    assert found[name].verdict == ("equal" if abs(difference) < 1e-9 else "above" if difference > 0 else "below")


def test_every_case_is_tested_and_explained(found: dict[str, Case]) -> None:
    assert len(found) == 13 and all(case.about.endswith(".") for case in found.values())


def test_mean_and_maximum_bound_wherever_the_map_is_known(found: dict[str, Case]) -> None:
    for case in found.values():
        assert case.exact.mean <= case.exact.largest <= case.exact.paired + 1e-12


def test_without_the_map_even_the_maximum_can_exceed(found: dict[str, Case]) -> None:
    exact = found["random order, one sentence empty"].exact
    assert exact.largest == pytest.approx(LOG2, abs=1e-12) and exact.overall == pytest.approx(LOG2 / 2, abs=1e-12)


def test_the_pairing_is_information_unless_the_sentences_tell_it(found: dict[str, Case]) -> None:
    lost = found["random order"].exact
    assert lost.paired - lost.overall == pytest.approx(LOG2 / 2, abs=1e-12)
    assert np.ravel(lost.positions) == pytest.approx([LOG2 - binary(0.25)] * 4, abs=1e-12)
    named = found["random order, regions named"].exact
    assert named.paired == pytest.approx(named.overall, abs=1e-12)
    assert named.selected == pytest.approx(LOG2, abs=1e-12)  # one region for all images: right for half of them
    assert named.pointwise == pytest.approx(2 * LOG2, abs=1e-12)  # a region for each image: right for all


def test_selecting_for_each_image_exceeds_even_in_the_factorised_case(found: dict[str, Case]) -> None:
    exact = found["independent statuses"].exact
    agree = 0.82  # of a region and its sentence; the other region agrees by chance, and disagreement has i = 0 at best
    log_agree, log_differ = math.log(2 * agree), math.log(2 * (1 - agree))
    assert exact.pointwise == pytest.approx(2 * (agree * max(log_agree, 0) + (1 - agree) * max(log_differ, 0)), abs=1e-12)
    assert exact.pointwise > exact.overall + 0.3


def test_only_the_common_nuisance_lets_local_information_exceed_that_about_the_status(found: dict[str, Case]) -> None:
    broken = {row["case"] for row in chain_table() if float(row["I(z_n; s_f(n) | M)"]) > float(row["I(z_n; H_n)"]) + 1e-12}
    assert broken == {"nuisance common to image and text"}


def test_equations_6_and_7_in_every_row() -> None:
    rows = [{key: value for key, value in row.items() if isinstance(value, float)} for row in chain_table()]
    assert len(rows) == 26
    for row in rows:
        assert row["I(z; H_n)"] == pytest.approx(row["I(z_n; H_n)"] + row["I(z_rest; H_n | z_n)"], abs=1e-12)
        assert row["I(z_rest; H_n | z)"] == 0.0
    hidden = next(row for row in chain_table() if row["case"] == "hidden by a shared nuisance")
    assert hidden["I(z; H_n)"] == pytest.approx(LOG2, abs=1e-15)
    assert hidden["I(z_n; H_n)"] == 0.0


def test_the_table_has_the_numbers_of_the_cases(found: dict[str, Case]) -> None:
    for row in theory_table():
        case = found[str(row["case"])]
        assert (row["sum"], row["global"], row["the sum is"]) == (case.exact.total, case.exact.overall, case.verdict)
        assert all(type(value) in (str, float) for value in row.values())


def test_the_sweep_equals_a_table_written_out() -> None:
    noise, text = (np.array([channel(bit, error) for bit in (0, 1)]) for error in (0.1, 0.2))
    statuses = np.array([[1.3, 0.7], [0.7, 1.3]]) / 4
    table = np.einsum("ab,ac,bd,ae,bf->cdef", statuses, noise, noise, text, text)
    joint = Joint(("z1", "z2", "s1", "s2"), table)
    found = sweep([0.3], image_error=0.1, text_error=0.2)
    assert found.overall[0] == pytest.approx(joint.information(("z1", "z2"), ("s1", "s2")), abs=1e-14)
    assert found.total[0] == pytest.approx(2 * joint.information("z1", "s1"), abs=1e-14)


@pytest.mark.parametrize(("image", "text"), [(0.0, 0.3), (0.05, 0.1), (0.1, 0.3), (0.25, 0.25)])
def test_the_excess_of_a_small_correlation(image: float, text: float) -> None:
    a, b = 1 - 2 * image, 1 - 2 * text
    agree, differ = (1 + a * b) / 2, (1 - a * b) / 2  # (a + b) / (1 + ab) is E[H|z,s] where z and s agree
    square = agree * ((a + b) / (1 + a * b)) ** 2 + differ * ((a - b) / (1 - a * b)) ** 2
    r = 1e-3
    excess = sweep([r, -r], image_error=image, text_error=text).excess
    assert excess / r**2 == pytest.approx([(a**4 + b**4 - square**2) / 2] * 2, rel=1e-3)


def test_noise_and_not_correlation_decides_whether_the_sum_exceeds() -> None:
    r = np.array([0.02, 0.1, 0.3, 0.6, 0.9, 1.0])
    signs = {
        e: np.sign(sweep(r, image_error=e, text_error=e).excess).tolist() for e in (0.0, 0.1, 0.137, 0.17, 0.179, 0.3, 0.45)
    }
    assert signs[0.0] == signs[0.1] == signs[0.137] == [1.0] * 6
    assert signs[0.17] == [1.0] * 3 + [-1.0] * 3
    assert signs[0.179] == signs[0.3] == signs[0.45] == [-1.0] * 6
    assert sweep([0.0]).excess == pytest.approx([0.0], abs=1e-14)


@pytest.mark.parametrize("error", [(1 - math.sqrt(math.sqrt(2) - 1)) / 2, 0.1374840])
def test_the_two_limits_of_noise(error: float) -> None:
    r = 1e-3 if error > 0.15 else 1.0
    below, above = (sweep([r], image_error=e, text_error=e).excess[0] for e in (error - 1e-4, error + 1e-4))
    assert below > 0 > above
