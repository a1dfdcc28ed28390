from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from statistics import fmean

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy

from comodal.errors import ConfigError
from comodal.information import bounds, closed
from comodal.information.estimators import ESTIMATORS
from comodal.information.pairs import Scores

LOG2 = math.log(2)
Bound = Callable[[Tensor, Tensor, Tensor | None], Tensor]


def mine_value(joint: Tensor, marginal: Tensor, negative: Tensor | None = None) -> Tensor:
    return bounds.mine(joint, marginal, negative)[0]


BOUNDS: dict[str, Bound] = {
    "dv": bounds.donsker_varadhan,
    "mine": mine_value,
    "nwj": bounds.nwj,
    "info_nce": bounds.info_nce,
    "jsd": bounds.jensen_shannon,
    "smile": partial(bounds.smile, clip=0.7),
    "smile without a clip": partial(bounds.smile, clip=math.inf),
    "demi": bounds.demi,
    "demi, prior 1/5": partial(bounds.demi, prior=0.2),
    "club": bounds.club,
    "leave_one_out": bounds.leave_one_out,
}
EVERY = pytest.mark.parametrize("name", BOUNDS)


def number(value: Tensor) -> float:
    return value.detach().item()


def other_convention(joint: Tensor, marginal: Tensor, negative: Tensor | None = None) -> Tensor:
    """E_P[g] - E_Q[e^(g - 1)] of a critic g, which is ours at f = g - 1."""
    return bounds.nwj(joint - 1, marginal - 1, negative)


# ------------------------------------------------------------------------------------------------------------ slow loops


def slow(name: str, positives: list[float], rows: list[list[float]]) -> float:
    """Each value number by number: one positive and a list of negatives for each row, by the definitions."""
    everything = [f for row in rows for f in row]
    own = fmean(positives)
    if name in ("dv", "mine", "smile without a clip"):
        return own - math.log(fmean([math.exp(f) for f in everything]))
    if name == "nwj":
        return 1 + own - fmean([math.exp(f) for f in everything])
    if name == "jsd":
        return fmean([-math.log(1 + math.exp(-f)) for f in positives]) - fmean([math.log(1 + math.exp(f)) for f in everything])
    if name == "smile":
        return own - math.log(fmean([math.exp(min(max(f, -0.7), 0.7)) for f in everything]))
    if name.startswith("demi"):
        prior = 0.2 if name.endswith("1/5") else 0.5
        return own - math.log(prior / (1 - prior))
    if name == "club":
        return own - fmean(everything)
    with_some = [(f, row) for f, row in zip(positives, rows, strict=True) if row]
    if name == "info_nce":
        sums = [(f, math.exp(f) + sum(math.exp(g) for g in row), 1 + len(row)) for f, row in with_some]
        return fmean([f - math.log(total) + math.log(count) for f, total, count in sums])
    assert name == "leave_one_out"
    return fmean([f - math.log(fmean([math.exp(g) for g in row])) for f, row in with_some])


def slow_gradient(name: str, positives: list[float], rows: list[list[float]]) -> tuple[list[float], list[list[float]]]:
    """d / d score of what MINE (at its first step), SMILE and DEMI say that they climb."""
    everything = [f for row in rows for f in row]
    if name == "mine":  # E_P[f] - E_Q[e^f] / average
        average = fmean([math.exp(f) for f in everything])
        return [1 / len(positives)] * len(positives), [[-math.exp(f) / average / len(everything) for f in row] for row in rows]
    prior = 0.2 if name.endswith("1/5") else 0.5  # SMILE climbs Jensen-Shannon, which is DEMI's at prior 1/2
    joint = [2 * prior / (1 + math.exp(f)) / len(positives) for f in positives]
    return joint, [[-2 * (1 - prior) / (1 + math.exp(-f)) / len(everything) for f in row] for row in rows]


def random_scores(seed: int, lead: tuple[int, ...], rows: int, count: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    joint = torch.randn(*lead, rows, generator=generator, dtype=torch.float64) + 0.5
    return joint, 1.5 * torch.randn(*lead, rows, count, generator=generator, dtype=torch.float64)


def random_mask(seed: int, *shape: int) -> Tensor:
    """Unequal numbers of negatives: row 0 keeps one, row 1 none, the others what chance gives them, at least one."""
    mask = torch.rand(shape, generator=torch.Generator().manual_seed(seed)) < 0.6
    mask[..., 0, :] = False
    mask[..., -1] = True
    mask[..., 1, :] = False
    return mask


CASES: dict[str, tuple[Tensor, Tensor, Tensor | None]] = {
    "all count": (*random_scores(0, (), 4, 3), None),
    "unequal rows": (*random_scores(1, (), 5, 4), random_mask(1, 5, 4)),
    "locations": (*random_scores(2, (2, 3), 4, 5), random_mask(2, 4, 5)),
    "locations, all count": (*random_scores(3, (3,), 4, 2), None),
    "each location its own mask": (*random_scores(4, (2, 3), 4, 5), random_mask(4, 2, 3, 4, 5)),
    "one mask for all columns": (*random_scores(5, (2,), 3, 4), torch.tensor([[True], [False], [True]])),
    "one negative each": (*random_scores(6, (), 6, 1), None),
}
EVERY_CASE = pytest.mark.parametrize("case", CASES)


def lists(joint: Tensor, marginal: Tensor, negative: Tensor | None) -> tuple[list[float], list[list[float]]]:
    positives, rows = [], []
    for place in np.ndindex(*joint.shape):
        positives.append(number(joint[place]))
        row = []
        for column in range(marginal.shape[-1]):
            at = (*place, column)
            # The mask has the last axes of the scores, each of their length or 1.
            if (
                negative is None
                or negative[tuple(0 if n == 1 else i for i, n in zip(at[-negative.ndim :], negative.shape, strict=True))]
            ):
                row.append(number(marginal[at]))
        rows.append(row)
    return positives, rows


@EVERY
@EVERY_CASE
def test_each_value_equals_a_slow_loop(name: str, case: str) -> None:
    scores = CASES[case]
    value = BOUNDS[name](*scores)
    assert value.shape == () and value.dtype == torch.float64
    assert number(value) == pytest.approx(slow(name, *lists(*scores)), abs=1e-13)


def test_a_value_by_hand() -> None:
    joint, marginal = torch.tensor([2.0, 0.0]), torch.tensor([[0.0, math.log(3)], [0.0, 9.0]])
    negative = torch.tensor([[True, True], [True, False]])
    found = {name: number(bound(joint, marginal, negative)) for name, bound in BOUNDS.items()}
    assert found["dv"] == found["mine"] == pytest.approx(1 - math.log(5 / 3))
    assert found["nwj"] == pytest.approx(2 - 5 / 3)
    assert found["info_nce"] == pytest.approx((2 - math.log((math.e**2 + 4) / 3)) / 2)  # the other row: log 1 = 0
    assert found["jsd"] == pytest.approx(-(math.log1p(math.e**-2) + LOG2) / 2 - (2 * LOG2 + math.log(4)) / 3)
    assert found["smile"] == pytest.approx(1 - math.log((2 + math.e**0.7) / 3))
    assert found["demi"] == pytest.approx(1) and found["demi, prior 1/5"] == pytest.approx(1 + math.log(4))
    assert found["club"] == pytest.approx(1 - math.log(3) / 3)
    assert found["leave_one_out"] == pytest.approx((2 - LOG2) / 2)


# ------------------------------------------------------------------------------------------------------------- gradients


@pytest.mark.parametrize("name", ["dv", "nwj", "info_nce", "jsd", "club", "leave_one_out"])
@EVERY_CASE
def test_gradients_by_finite_differences(name: str, case: str) -> None:
    joint, marginal, negative = CASES[case]
    given = (joint.clone().requires_grad_(), marginal.clone().requires_grad_())
    assert torch.autograd.gradcheck(lambda j, m: BOUNDS[name](j, m, negative), given)


@pytest.mark.parametrize("name", ["mine", "smile", "smile without a clip", "demi", "demi, prior 1/5"])
@EVERY_CASE
def test_gradients_that_are_not_those_of_the_value(name: str, case: str) -> None:
    joint, marginal, negative = CASES[case]
    given = (joint.clone().requires_grad_(), marginal.clone().requires_grad_())
    of_joint, of_marginal = torch.autograd.grad(BOUNDS[name](*given, negative), given)
    positives, rows = slow_gradient(name, *lists(joint, marginal, negative))
    assert of_joint.flatten().tolist() == pytest.approx(positives, abs=1e-15)
    counts = torch.ones_like(marginal, dtype=torch.bool) if negative is None else negative.expand(marginal.shape)
    assert of_marginal[counts].tolist() == pytest.approx([f for row in rows for f in row], abs=1e-15)
    assert not of_marginal[~counts].any()


@pytest.mark.parametrize("name", ["mine", "smile", "demi", "demi, prior 1/5"])
def test_the_stated_surrogates_have_these_gradients(name: str) -> None:
    """The slow gradients above are those of the surrogates by finite differences, so that both are right."""
    joint, marginal, negative = CASES["unequal rows"]
    assert negative is not None

    def surrogate(positives: Tensor, negatives: Tensor) -> Tensor:
        if name == "mine":
            average = marginal[negative].exp().mean()  # a constant: that of the point where the gradient is taken
            return positives.mean() - negatives.exp().mean() / average
        prior = 0.2 if name.endswith("1/5") else 0.5
        return 2 * prior * positives.sigmoid().log().mean() + 2 * (1 - prior) * (-negatives).sigmoid().log().mean()

    given = (joint.clone().requires_grad_(), marginal[negative].clone().requires_grad_())
    assert torch.autograd.gradcheck(surrogate, given)
    of_joint, of_marginal = torch.autograd.grad(surrogate(*given), given)
    positives, rows = slow_gradient(name, *lists(joint, marginal, negative))
    assert of_joint.tolist() == pytest.approx(positives, abs=1e-15)
    assert of_marginal.tolist() == pytest.approx([f for row in rows for f in row], abs=1e-15)


@pytest.mark.parametrize(("name", "surrogate"), [("smile", "jsd"), ("demi", "jsd"), ("smile without a clip", "jsd")])
@EVERY_CASE
def test_smile_and_demi_climb_jensen_shannon(name: str, surrogate: str, case: str) -> None:
    joint, marginal, negative = CASES[case]
    given = (joint.clone().requires_grad_(), marginal.clone().requires_grad_())
    found = torch.autograd.grad(BOUNDS[name](*given, negative), given)
    expected = torch.autograd.grad(BOUNDS[surrogate](*given, negative), given)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-15)


@pytest.mark.parametrize(("name", "plain"), [("mine", "dv"), ("smile without a clip", "dv")])
@pytest.mark.parametrize("seed", range(5))
def test_a_borrowed_gradient_does_not_touch_the_value(name: str, plain: str, seed: int) -> None:
    """In float32, where value + surrogate - surrogate would lose the digits that the surrogate is larger by."""
    joint, marginal = (10_000 * scores.float() for scores in random_scores(seed, (), 8, 8))
    assert number(BOUNDS[name](joint, marginal, None)) == number(BOUNDS[plain](joint, marginal, None))


# ------------------------------------------------------------------------------------------------------------------ MINE


@pytest.mark.parametrize("rate", [0.01, 0.1, 0.9])
@pytest.mark.parametrize("start", [None, math.nan, -2.0])
def test_mines_average_over_several_steps(rate: float, start: float | None) -> None:
    average = None if start is None else torch.tensor(start, dtype=torch.float64)
    plain = None if start is None or math.isnan(start) else math.exp(start)
    for step in range(6):
        joint, marginal = random_scores(step, (2,), 5, 4)
        negative = random_mask(step, 5, 4)
        _, rows = lists(joint, marginal, negative)
        everything = [f for row in rows for f in row]
        mean = fmean([math.exp(f) for f in everything])
        plain = mean if plain is None else (1 - rate) * plain + rate * mean  # before it is used
        marginal.requires_grad_()
        value, average = bounds.mine(joint, marginal, negative, log_average=average, rate=rate)
        assert not average.requires_grad and average.shape == ()
        assert number(average.exp()) == pytest.approx(plain, rel=1e-12)
        assert number(value) == pytest.approx(number(bounds.donsker_varadhan(joint, marginal, negative)), abs=1e-13)
        (gradient,) = torch.autograd.grad(value, marginal)
        expected = [-math.exp(f) / plain / len(everything) for f in everything]
        assert gradient[negative.expand(marginal.shape)].tolist() == pytest.approx(expected, abs=1e-14)


def test_mines_average_is_kept_in_float32_under_a_half_precision_batch() -> None:
    joint, marginal = torch.ones(4, dtype=torch.bfloat16), torch.ones(4, 3, dtype=torch.bfloat16)
    value, average = bounds.mine(joint, marginal, log_average=torch.tensor(1.0), rate=0.5)
    assert value.dtype == average.dtype == torch.float32 and number(average) == pytest.approx(1.0)


def test_identity_8_an_average_equal_to_the_batch_gives_the_plain_gradient() -> None:
    joint, marginal = (scores.requires_grad_() for scores in random_scores(7, (), 6, 6))
    now = (marginal.detach().logsumexp((0, 1)) - math.log(36)).to(torch.float64)
    for before in (None, torch.tensor(math.nan, dtype=torch.float64), now):
        value, after = bounds.mine(joint, marginal, log_average=before)
        assert number(after) == pytest.approx(number(now), abs=1e-13)
        found = torch.autograd.grad(value, (joint, marginal))
        expected = torch.autograd.grad(bounds.donsker_varadhan(joint, marginal), (joint, marginal))
        for one, other in zip(found, expected, strict=True):
            torch.testing.assert_close(one, other, rtol=0, atol=1e-14)


def test_mines_average_of_rate_1_is_the_batch_itself() -> None:
    """`Objective` takes rates up to and with 1."""
    joint, marginal = random_scores(8, (), 4, 4)
    _, average = bounds.mine(joint, marginal, log_average=torch.tensor(3.0, dtype=torch.float64), rate=1.0)
    assert number(average) == pytest.approx(number(marginal.exp().mean().log()), abs=1e-13)


def test_mines_average_is_left_alone_by_a_batch_without_negatives() -> None:
    joint, marginal = random_scores(9, (), 4, 4)
    none, before = torch.zeros(4, 4, dtype=torch.bool), torch.tensor(0.3, dtype=torch.float64)
    assert bounds.mine(joint, marginal, none, log_average=before)[1] == before


@pytest.mark.parametrize("start", [None, math.nan])
def test_a_batch_without_negatives_does_not_begin_mines_average(start: float | None) -> None:
    """It says nothing, so the next one begins it: else the average starts at e^0 = 1 and forgets that by 1 % a step."""
    joint, marginal = random_scores(10, (), 4, 4)
    before = None if start is None else torch.tensor(start, dtype=torch.float64)
    value, average = bounds.mine(joint, marginal, torch.zeros(4, 4, dtype=torch.bool), log_average=before)
    assert number(value) == 0.0
    _, average = bounds.mine(joint, marginal + 8, log_average=average)
    assert number(average) == pytest.approx(8 + number(marginal.exp().mean().log()), abs=1e-12)


@pytest.mark.parametrize("before", [-1e4, -100.0, 0.0, 100.0, 1e4])
def test_a_batch_without_negatives_says_nothing_whatever_mines_average_is(before: float) -> None:
    joint, marginal = (scores.float().requires_grad_() for scores in random_scores(11, (), 4, 4))
    none = torch.zeros(4, 4, dtype=torch.bool)
    value, average = bounds.mine(joint, marginal, none, log_average=torch.tensor(before))
    gradients = torch.autograd.grad(value, (joint, marginal))
    assert number(value) == 0.0 and number(average) == before
    assert all((gradient == 0).all() for gradient in gradients)


# -------------------------------------------------------------------------------------- identities, in the sheet's order


@pytest.mark.parametrize("constant", [-3.0, 0.0, 1.0, 7.5])
def test_identity_1_constant_critics(constant: float) -> None:
    scores = Scores.of_matrix(torch.full((5, 5), constant, dtype=torch.float64))
    given = (scores.joint, scores.marginal, scores.negative)
    assert number(bounds.donsker_varadhan(*given)) == pytest.approx(0.0, abs=1e-14)
    assert number(bounds.info_nce(*given)) == pytest.approx(0.0, abs=1e-14)
    assert number(bounds.nwj(*given)) == pytest.approx(1 + constant - math.exp(constant), rel=1e-14)  # 0 at f = 0
    assert number(other_convention(*given)) == pytest.approx(constant - math.exp(constant - 1), rel=1e-14)  # 0 at g = 1
    assert (number(bounds.nwj(*given)) == 0.0) == (constant == 0.0)
    assert (number(other_convention(*given)) == 0.0) == (constant == 1.0)
    jsd = -math.log1p(math.exp(-constant)) - math.log1p(math.exp(constant))
    assert number(bounds.jensen_shannon(*given)) == pytest.approx(jsd, rel=1e-14)
    assert jsd == -2 * LOG2 if constant == 0 else jsd < -2 * LOG2


def test_identity_1_upper_bounds_are_0_where_q_ignores_x() -> None:
    of_y = random_scores(12, (), 6, 6)[0]
    scores = Scores.of_matrix(of_y.expand(6, 6))  # [i, j]: log q(y_j)
    assert number(bounds.club(scores.joint, scores.marginal, scores.negative)) == pytest.approx(0.0, abs=1e-14)
    turned = scores.columns()
    assert number(bounds.leave_one_out(turned.joint, turned.marginal, turned.negative)) == pytest.approx(0.0, abs=1e-14)


@pytest.mark.parametrize("name", ["dv", "mine", "info_nce", "smile without a clip", "club", "leave_one_out", "nwj", "jsd"])
def test_identity_2_a_constant_added_to_the_critic(name: str) -> None:
    joint, marginal, negative = CASES["unequal rows"]
    before = number(BOUNDS[name](joint, marginal, negative))
    after = number(BOUNDS[name](joint + 2.5, marginal + 2.5, negative))
    assert (after == pytest.approx(before, abs=1e-13)) == (name not in ("nwj", "jsd"))


@pytest.mark.parametrize("name", ["info_nce", "leave_one_out", "dv", "nwj", "jsd"])
def test_identity_2_a_function_of_the_row_added_to_the_critic(name: str) -> None:
    joint, marginal, negative = CASES["locations"]
    of_row = random_scores(13, (2, 3), 4, 1)[0]
    before = number(BOUNDS[name](joint, marginal, negative))
    after = number(BOUNDS[name](joint + of_row, marginal + of_row[..., None], negative))
    assert (after == pytest.approx(before, abs=1e-13)) == (name in ("info_nce", "leave_one_out"))


@pytest.mark.parametrize("seed", range(10))
def test_identity_3_info_nce_is_at_most_log_k(seed: int) -> None:
    matrix = torch.randn(7, 7, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) * 10
    for boost, near in ((0.0, False), (30.0, False), (100.0, True)):
        scores = Scores.of_matrix(matrix + boost * torch.eye(7, dtype=torch.float64))
        value = number(bounds.info_nce(scores.joint, scores.marginal, scores.negative))
        assert value <= math.log(7) == ESTIMATORS["info_nce"].ceiling(scores.candidates)
        assert (value == pytest.approx(math.log(7), abs=1e-9)) == near  # every partner dominates its row


def test_identity_3_with_unequal_rows_the_ceiling_is_the_mean_of_log_k() -> None:
    joint, marginal, negative = CASES["unequal rows"]
    assert negative is not None
    counts = [int(count) for count in negative.sum(-1) if count]
    assert len(set(counts)) > 1 and len(counts) == 4
    value = number(bounds.info_nce(joint + 1e3, marginal, negative))
    assert value == pytest.approx(fmean([math.log(1 + count) for count in counts]), abs=1e-12)


@EVERY_CASE
def test_identity_4_log_n_adds_no_gradient(case: str) -> None:
    joint, marginal, negative = CASES[case]
    given = (joint.clone().requires_grad_(), marginal.clone().requires_grad_())
    found = torch.autograd.grad(bounds.donsker_varadhan(*given, negative), given)
    counts = torch.ones_like(marginal, dtype=torch.bool) if negative is None else negative.expand(marginal.shape)
    without = given[0].mean() - given[1][counts].logsumexp(0)
    expected = torch.autograd.grad(without, given)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-15)
    shift = number(bounds.donsker_varadhan(*given, negative) - without)
    assert shift == pytest.approx(math.log(int(counts.sum())), abs=1e-13)


@EVERY_CASE
def test_identity_5_nwj_is_at_most_dv(case: str) -> None:
    joint, marginal, negative = CASES[case]
    top = number(bounds.donsker_varadhan(joint, marginal, negative))
    counts = torch.ones_like(marginal, dtype=torch.bool) if negative is None else negative.expand(marginal.shape)
    log_mean = marginal[counts].exp().mean().log()
    for shift in (-2.0, -0.1, 0.1, 2.0):  # of f from where E_Q[e^f] = 1, and of g from where E_Q[e^g] = e
        f = (joint - log_mean + shift, marginal - log_mean + shift, negative)
        assert number(bounds.nwj(*f)) < top
        assert number(other_convention(f[0] + 1, f[1] + 1, negative)) < top
    f = (joint - log_mean, marginal - log_mean, negative)
    assert number(bounds.nwj(*f)) == pytest.approx(top, abs=1e-13)
    assert number(other_convention(f[0] + 1, f[1] + 1, negative)) == pytest.approx(top, abs=1e-13)


def test_the_two_conventions_of_nwj_are_one_bound() -> None:
    joint, marginal, negative = CASES["unequal rows"]
    assert negative is not None
    g = (joint, marginal)
    by_definition = number(g[0].mean() - (g[1][negative] - 1).exp().mean())
    assert number(other_convention(*g, negative)) == pytest.approx(by_definition, abs=1e-13)


def test_identity_6_jensen_shannon_is_a_classifier() -> None:
    joint, marginal = (scores.requires_grad_() for scores in random_scores(14, (), 6, 1))
    logits = torch.cat([joint, marginal[:, 0]])
    labels = torch.cat([torch.ones_like(joint), torch.zeros_like(joint)])
    value, entropy = bounds.jensen_shannon(joint, marginal), binary_cross_entropy_with_logits(logits, labels)
    assert number(value) == pytest.approx(-2 * number(entropy), abs=1e-14)
    found = torch.autograd.grad(value, (joint, marginal))
    expected = torch.autograd.grad(-2 * entropy, (joint, marginal))
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-15)


def test_identity_7_info_nce_is_a_cross_entropy() -> None:
    matrix = random_scores(15, (), 6, 6)[1].requires_grad_()
    scores = Scores.of_matrix(matrix)
    value = bounds.info_nce(scores.joint, scores.marginal, scores.negative)
    expected = math.log(6) - cross_entropy(matrix, torch.arange(6))
    assert number(value) == pytest.approx(number(expected), abs=1e-14)
    found, other = (torch.autograd.grad(scalar, matrix)[0] for scalar in (value, expected))
    torch.testing.assert_close(found, other, rtol=0, atol=1e-15)


@EVERY
def test_identity_9_the_order_of_a_batch_does_not_matter(name: str) -> None:
    matrix = random_scores(16, (2,), 6, 6)[1]
    mask = random_mask(16, 6, 6)
    order = torch.tensor([3, 0, 5, 1, 4, 2])
    one, other = Scores.of_matrix(matrix, mask), Scores.of_matrix(matrix[:, order][..., order], mask[order][:, order])
    values = [number(BOUNDS[name](scores.joint, scores.marginal, scores.negative)) for scores in (one, other)]
    assert values[0] == pytest.approx(values[1], abs=1e-13)


def gaussian_means(correlation: float, shift: int) -> dict[str, float]:
    """Mean of each value over 40 batches of 64 with the exact critic; y moved along by `shift` places."""
    generator = torch.Generator().manual_seed(0)
    found: dict[str, list[float]] = {name: [] for name in ("dv", "nwj", "info_nce", "jsd", "smile without a clip")}
    for _ in range(40):
        x, y = closed.correlated_gaussians(64, closed.gaussian_information(correlation), 1, generator=generator)
        scores = Scores.of_matrix(closed.gaussian_log_ratio(x, y.roll(shift, 0), correlation))
        for name, values in found.items():
            values.append(number(BOUNDS[name](scores.joint, scores.marginal, scores.negative)))
    return {name: fmean(values) for name, values in found.items()}


def test_identity_9_pairs_that_do_not_belong_together_hold_nothing() -> None:
    """A critic that says little reads nothing; one that says much reads less than nothing, as these pairs contradict it.

    By Jensen no critic reads above 0 in expectation here, nor Jensen-Shannon above -2 log 2. One that was trained on such pairs
    reads about 0: see test_trained_critics.
    """
    weak, strong = gaussian_means(0.1, shift=1), gaussian_means(0.8, shift=1)
    kept = gaussian_means(0.8, shift=0)
    for name in weak:
        nothing = -2 * LOG2 if name == "jsd" else 0.0
        assert weak[name] == pytest.approx(nothing, abs=0.02)
        assert strong[name] < nothing - 0.2 < nothing + 0.2 < kept[name]


# --------------------------------------------------------------------------------------------- what does not count, edges


@EVERY
@pytest.mark.parametrize("held", [math.inf, -math.inf, 3e38, -3e38, 1e4])
def test_scores_that_do_not_count_are_unread(name: str, held: float) -> None:
    joint, marginal, negative = CASES["unequal rows"]
    assert negative is not None
    results = []
    for content in (0.0, held):
        given = (joint.clone().requires_grad_(), torch.where(negative, marginal, content).requires_grad_())
        value = BOUNDS[name](*given, negative)
        results.append((value, *torch.autograd.grad(value, given)))
    for one, other in zip(*results, strict=True):
        assert torch.equal(one, other) and other.isfinite().all()
    assert (results[1][2][~negative] == 0).all() and (results[1][2][negative] != 0).all()


@EVERY
def test_values_do_not_read_a_nan_that_does_not_count(name: str) -> None:
    joint, marginal, negative = CASES["unequal rows"]
    assert negative is not None
    value = BOUNDS[name](joint, torch.where(negative, marginal, math.nan), negative)
    assert torch.equal(value, BOUNDS[name](joint, marginal, negative))


@EVERY
@pytest.mark.parametrize("held", [0.0, 1e4, math.inf, -math.inf])
def test_without_negatives_a_batch_says_nothing(name: str, held: float) -> None:
    joint, marginal = random_scores(17, (2,), 3, 4)[0].requires_grad_(), torch.full((2, 3, 4), held, requires_grad=True)
    value = BOUNDS[name](joint, marginal, torch.tensor(False))
    gradients = torch.autograd.grad(value, (joint, marginal))
    assert number(value) == 0.0
    assert all((gradient == 0).all() for gradient in gradients)


@EVERY
@pytest.mark.parametrize("shape", [(3, 0), (0, 3), (0, 0), (2, 3, 0)])
def test_without_columns_or_rows_a_batch_says_nothing(name: str, shape: tuple[int, ...]) -> None:
    joint, marginal = torch.ones(shape[:-1], requires_grad=True), torch.ones(shape, requires_grad=True)
    value = BOUNDS[name](joint, marginal, None)
    of_joint, of_marginal = torch.autograd.grad(value, (joint, marginal))
    assert number(value) == 0.0 and (of_joint == 0).all() and of_marginal.shape == marginal.shape


@pytest.mark.parametrize("name", ["info_nce", "leave_one_out"])
def test_rows_without_negatives_are_left_out(name: str) -> None:
    joint, marginal, negative = CASES["unequal rows"]
    assert negative is not None
    some = negative.any(-1)
    assert int(some.sum()) == 4
    joint = joint.clone().requires_grad_()
    value = BOUNDS[name](joint, marginal, negative)
    assert number(value) == pytest.approx(number(BOUNDS[name](joint[some], marginal[some], negative[some])), abs=1e-14)
    (gradient,) = torch.autograd.grad(value, joint)
    assert torch.equal(gradient != 0, some)
    moved = torch.where(some, joint.detach(), 1e6)
    assert torch.equal(BOUNDS[name](moved, marginal, negative), value.detach())


@EVERY
@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16])
def test_half_precision_is_widened(name: str, kind: torch.dtype) -> None:
    joint, marginal = (scores.to(kind).requires_grad_() for scores in random_scores(18, (2,), 4, 4))
    value = BOUNDS[name](joint, marginal, None)
    assert value.dtype == torch.float32
    torch.testing.assert_close(value, BOUNDS[name](joint.float(), marginal.float(), None), rtol=0, atol=0)
    of_joint, of_marginal = torch.autograd.grad(value, (joint, marginal))
    assert of_joint.dtype == of_marginal.dtype == kind


@pytest.mark.parametrize("name", ["dv", "mine", "nwj", "info_nce"])
@pytest.mark.parametrize("kind", [torch.float16, torch.float32])
def test_scores_whose_exponential_half_precision_cannot_hold(name: str, kind: torch.dtype) -> None:
    joint, marginal = torch.full((4,), 20.0, dtype=kind), torch.full((4, 3), 15.0, dtype=kind)  # float16 ends at e^11
    value = number(BOUNDS[name](joint, marginal, None))
    expected = {"nwj": 21 - math.exp(15), "info_nce": math.log(4) - math.log1p(3 * math.exp(-5))}
    assert value == pytest.approx(expected.get(name, 5.0), rel=1e-6)


@pytest.mark.parametrize("size", [1e4, 1e6])
@pytest.mark.parametrize("name", ["dv", "mine", "info_nce", "jsd", "smile"])
def test_large_scores_do_not_overflow(name: str, size: float) -> None:
    right = {"dv": 2 * size, "mine": 2 * size, "info_nce": math.log(4), "jsd": 0.0, "smile": size + 0.7}
    wrong = {
        "dv": -2 * size,
        "mine": -2 * size,
        "info_nce": -2 * size + math.log(4 / 3),
        "jsd": -2 * size,
        "smile": -size - 0.7,
    }
    for sign, expected in ((1, right), (-1, wrong)):
        joint, marginal = (
            torch.full((5,), sign * size, requires_grad=True),
            torch.full((5, 3), -sign * size, requires_grad=True),
        )
        value = BOUNDS[name](joint, marginal, None)
        assert number(value) == pytest.approx(expected[name], rel=1e-6, abs=1e-6)
        assert all(gradient.isfinite().all() for gradient in torch.autograd.grad(value, (joint, marginal)))


@EVERY
@pytest.mark.parametrize(
    ("joint", "marginal", "text"),
    [
        ((4,), (3, 4), r"got \(3, 4\) for joint \(4,\)"),
        ((4,), (4,), r"got \(4,\) for joint \(4,\)"),
        ((4,), (2, 4, 3), r"got \(2, 4, 3\) for joint \(4,\)"),
        ((2, 4), (4, 3), r"got \(4, 3\) for joint \(2, 4\)"),
        ((1,), (4, 3), r"got \(4, 3\) for joint \(1,\)"),
    ],
)
def test_shapes_that_do_not_fit(name: str, joint: tuple[int, ...], marginal: tuple[int, ...], text: str) -> None:
    rule = r"^marginal must have the axes of joint and one more, \(\.\.\., R, N\); "
    with pytest.raises(ConfigError, match=rule + text + r"\. Give each row its own negatives\.$"):
        BOUNDS[name](torch.zeros(joint), torch.zeros(marginal), None)


def test_every_estimator_is_tested_here() -> None:
    for name, entry in ESTIMATORS.items():
        found = entry.function(*CASES["unequal rows"])
        value = found if isinstance(found, Tensor) else found[0]
        tested = partial(bounds.smile, clip=5.0) if name == "smile" else BOUNDS[name]
        assert torch.equal(value, tested(*CASES["unequal rows"]))
