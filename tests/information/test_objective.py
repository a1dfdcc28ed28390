from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from comodal.errors import ConfigError
from comodal.information import bounds
from comodal.information.critics import BilinearCritic, ConcatCritic
from comodal.information.estimators import ESTIMATORS
from comodal.information.objective import Objective
from comodal.information.pairs import Negatives, Scores, contrast

X, Y, CASES = 4, 3, 6
BOUNDS: dict[str, Callable[..., Tensor | tuple[Tensor, Tensor]]] = {
    "dv": bounds.donsker_varadhan,
    "mine": bounds.mine,
    "nwj": bounds.nwj,
    "info_nce": bounds.info_nce,
    "smile": bounds.smile,
    "demi": bounds.demi,
    "jsd": bounds.jensen_shannon,
}
every_bound = pytest.mark.parametrize("bound", BOUNDS)
GROUPS = (torch.tensor([0, 1, 0, 2, 3, 4]), torch.tensor([0, 1, 2, 3, 4, 3]))


def features(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def made(seed: int = 0, **more: Any) -> Objective:
    torch.manual_seed(seed)
    return Objective(ConcatCritic(X, Y, hidden=(8, 6)), **more).double()


def batch(number: int = 0) -> tuple[Tensor, Tensor]:
    """The batches of a training differ, also in the size of their scores."""
    return features(CASES, X, seed=2 * number) * (1 + number), features(CASES, Y, seed=2 * number + 1)


def gradients(objective: Objective, *given: Tensor, **more: Any) -> list[Tensor]:
    return list(torch.autograd.grad(objective(*given, **more), list(objective.critic.parameters())))


def test_every_bound_of_a_critic_has_its_name() -> None:
    assert list(BOUNDS) == [name for name, estimator in ESTIMATORS.items() if estimator.scores == "critic"]


@every_bound
@pytest.mark.parametrize("kind", ["global", "local with global", "aligned"])
@pytest.mark.parametrize("negatives", ["all", "shift", "derangement"])
def test_the_value_is_that_of_the_bound(bound: str, kind: str, negatives: Negatives) -> None:
    """Groups, alignment and the generator are handed on."""
    objective = made(bound=bound, negatives=negatives)
    x = features(CASES, X) if kind == "global" else features(CASES, 5, X)
    y = features(CASES, 5, Y, seed=1) if kind == "aligned" else features(CASES, Y, seed=1)
    for groups in ((), GROUPS):
        seeds = (torch.Generator().manual_seed(3) for _ in range(2))
        more: dict[str, Any] = {"groups": groups, "aligned": kind == "aligned"}
        value = objective(x, y, generator=next(seeds), **more)
        scores = contrast(objective.critic, x, y, negatives=negatives, generator=next(seeds), **more)
        wanted = BOUNDS[bound](scores.joint, scores.marginal, scores.negative)
        assert value.shape == () and value.dtype == torch.float64
        torch.testing.assert_close(value, wanted[0] if isinstance(wanted, tuple) else wanted, rtol=1e-12, atol=1e-12)


@every_bound
def test_groups_change_what_is_learned(bound: str) -> None:
    objective = made(bound=bound).eval()
    x, y = batch()
    with_groups, without = (gradients(objective, x, y, groups=groups) for groups in (GROUPS, ()))
    assert not all(torch.allclose(one, other) for one, other in zip(with_groups, without, strict=True))
    # DEMI reads the joint scores alone; its negatives show in the gradient.
    assert bool(torch.isclose(objective(x, y, groups=GROUPS), objective(x, y))) == (bound == "demi")


def test_donsker_varadhan_with_groups_by_a_slow_loop() -> None:
    objective = made(bound="dv")
    x, y = batch()
    joint, counted = [], []
    for i, j in itertools.product(range(CASES), repeat=2):
        score = float(objective.critic(x[i], y[j]).detach())
        if i == j:
            joint.append(score)
        elif all(group[i] != group[j] for group in GROUPS):
            counted.append(score)
    wanted = math.fsum(joint) / CASES - math.log(math.fsum(map(math.exp, counted)) / len(counted))
    assert float(objective(x, y, groups=GROUPS).detach()) == pytest.approx(wanted, abs=1e-12)


@every_bound
@pytest.mark.parametrize("symmetric", [False, True])
def test_the_critic_and_both_encoders_learn(bound: str, symmetric: bool) -> None:
    objective = made(bound=bound, symmetric=symmetric)
    encoders = nn.Linear(7, X).double(), nn.Linear(5, Y).double()
    value = objective(encoders[0](features(CASES, 7)), encoders[1](features(CASES, 5, seed=1)), groups=GROUPS)
    value.backward()
    for parameter in itertools.chain(objective.parameters(), *(encoder.parameters() for encoder in encoders)):
        assert parameter.grad is not None and bool(parameter.grad.isfinite().all())
        assert parameter.ndim == 1 or bool(parameter.grad.any())
    assert not objective.log_average.requires_grad


@every_bound
def test_training_raises_the_value(bound: str) -> None:
    torch.manual_seed(0)
    objective = Objective(ConcatCritic(2, 2, hidden=(16, 16)), bound=bound)
    x = torch.randn(64, 2)
    y = 0.9 * x + math.sqrt(1 - 0.81) * torch.randn(64, 2)
    optimiser = torch.optim.Adam(objective.parameters(), lr=1e-2)
    values = []
    for _ in range(80):
        value = objective(x, y)
        optimiser.zero_grad()
        (-value).backward()
        optimiser.step()
        values.append(float(value.detach()))
    assert values[-1] > values[0] + 0.3
    with torch.no_grad():
        shuffled = float(objective.eval()(x, y.roll(1, 0)))
    assert shuffled < values[-1] - 0.3


# -------------------------------------------------------------------------------------------------------------- symmetric


def slow_info_nce(matrix: Tensor, negative: Tensor) -> float:
    """Row by row, each with its own number of candidates."""
    rows = []
    for i in range(len(matrix)):
        others = [float(matrix[i, j]) for j in range(len(matrix)) if bool(negative[i, j])]
        own = float(matrix[i, i])
        if others:
            rows.append(own - math.log(math.fsum(map(math.exp, [own, *others])) / (1 + len(others))))
    return math.fsum(rows) / len(rows)


@pytest.mark.parametrize("groups", [(), GROUPS])
def test_symmetric_info_nce_is_the_mean_of_both_directions(groups: tuple[Tensor, ...]) -> None:
    x, y = batch()
    objective = made(bound="info_nce", symmetric=True)
    matrix = objective.critic.all_pairs(x, y).detach()
    negative = torch.tensor([[i != j and all(g[i] != g[j] for g in groups) for j in range(CASES)] for i in range(CASES)])
    rows, columns = slow_info_nce(matrix, negative), slow_info_nce(matrix.t(), negative.t())
    assert float(objective(x, y, groups=groups).detach()) == pytest.approx((rows + columns) / 2, abs=1e-12)
    assert rows != pytest.approx(columns, abs=1e-6)
    one_way = made(bound="info_nce")
    assert float(one_way(x, y, groups=groups).detach()) == pytest.approx(rows, abs=1e-12)
    assert float(one_way.of(Scores.of_matrix(matrix.t(), negative.t()))) == pytest.approx(columns, abs=1e-12)


@pytest.mark.parametrize("bound", [name for name in BOUNDS if name != "info_nce"])
@pytest.mark.parametrize("training", [True, False])
def test_the_other_bounds_are_the_same_from_both_sides(bound: str, training: bool) -> None:
    """In value, in gradient and in MINE's average, also after the first batch."""
    plain, symmetric = (made(bound=bound, symmetric=both).train() for both in (False, True))
    for number in range(3):
        if number == 2:
            plain.train(training), symmetric.train(training)
        one, other = (gradients(objective, *batch(number), groups=GROUPS) for objective in (plain, symmetric))
        for ours, theirs in zip(one, other, strict=True):
            torch.testing.assert_close(theirs, ours, rtol=1e-10, atol=1e-12)
        torch.testing.assert_close(symmetric.log_average, plain.log_average, rtol=1e-12, atol=0, equal_nan=True)
    values = (objective.eval()(*batch(4)) for objective in (plain, symmetric))
    torch.testing.assert_close(next(values), next(values), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("negatives", ["shift", "derangement"])
def test_symmetric_needs_all_pairs(negatives: Negatives) -> None:
    with pytest.raises(ConfigError) as error:
        Objective(BilinearCritic(X, Y), bound="info_nce", symmetric=True, negatives=negatives)
    rule = f"Objective.symmetric must go with all pairs; got negatives='{negatives}'."
    assert str(error.value) == f"{rule} Use negatives='all', or leave out `symmetric`."


# ------------------------------------------------------------------------------------------------------- what is refused


def test_an_unknown_bound_is_refused() -> None:
    with pytest.raises(ConfigError) as error:
        Objective(BilinearCritic(X, Y), bound="infonce")
    assert (
        str(error.value)
        == f"bound must be a known estimator; got 'infonce'. Did you mean info_nce? Known: {', '.join(sorted(ESTIMATORS))}."
    )


@pytest.mark.parametrize("bound", ["club", "leave_one_out"])
def test_upper_bounds_are_refused(bound: str) -> None:
    with pytest.raises(ConfigError) as error:
        Objective(BilinearCritic(X, Y), bound=bound)
    text = f"bound must be a value of a critic's scores; got '{bound}'. Use ConditionalGaussian for upper bounds."
    assert str(error.value) == text


@pytest.mark.parametrize("rate", [0.0, -0.1, 1.5, math.nan])
def test_rates_outside_are_refused(rate: float) -> None:
    with pytest.raises(ConfigError) as error:
        Objective(BilinearCritic(X, Y), bound="mine", rate=rate)
    assert str(error.value) == f"Objective.rate must lie in (0, 1]; got {rate}. Use 0.01."


# --------------------------------------------------------------------------------------------------------- settings, MINE


@pytest.mark.parametrize("clip", [0.01, 1.0, math.inf])
def test_the_clip_is_smiles(clip: float) -> None:
    objective = made(bound="smile", clip=clip)
    with torch.no_grad():
        next(reversed(list(objective.critic.parameters()))).add_(2.0)  # the output's bias: all scores beyond 1
    x, y = batch()
    scores = contrast(objective.critic, x, y)
    assert scores.marginal.detach().abs().max() > 1
    wanted = bounds.smile(scores.joint, scores.marginal, scores.negative, clip=clip)
    torch.testing.assert_close(objective(x, y), wanted, rtol=1e-12, atol=1e-12)
    plain = bounds.donsker_varadhan(scores.joint, scores.marginal, scores.negative)
    assert bool(torch.isclose(plain, wanted, rtol=1e-9)) == math.isinf(clip)


def log_mean(objective: Objective, number: int) -> float:
    """Of e^f over the negatives of a batch, by a loop."""
    x, y = batch(number)
    scores = [float(objective.critic(x[i], y[j]).detach()) for i in range(CASES) for j in range(CASES) if i != j]
    return math.log(math.fsum(map(math.exp, scores)) / len(scores))


@pytest.mark.parametrize("rate", [0.01, 0.3, 1.0])
def test_mines_average_moves_with_each_batch_of_a_training(rate: float) -> None:
    objective = made(bound="mine", rate=rate)
    assert objective.log_average.isnan()  # not begun
    average = math.nan
    for number in range(4):
        now = math.exp(log_mean(objective, number))
        average = now if number == 0 else (1 - rate) * average + rate * now
        objective(*batch(number))
        assert float(objective.log_average) == pytest.approx(math.log(average), abs=1e-12)
        assert objective.log_average.dtype == torch.float64 and not objective.log_average.requires_grad


def test_mines_gradient_divides_by_the_average() -> None:
    objective = made(bound="mine", rate=0.2)
    objective(*batch(0))
    before = objective.log_average.clone()
    x, y = batch(3)
    found = gradients(objective, x, y)
    average = math.log(0.8 * math.exp(float(before)) + 0.2 * math.exp(log_mean(objective, 3)))
    scores = contrast(objective.critic, x, y)
    surrogate = scores.joint.mean() - scores.marginal[scores.negative].exp().mean() / math.exp(average)
    for ours, wanted in zip(found, torch.autograd.grad(surrogate, list(objective.critic.parameters())), strict=True):
        torch.testing.assert_close(ours, wanted, rtol=1e-10, atol=1e-12)


def test_evaluation_leaves_mines_average_alone() -> None:
    objective = made(bound="mine").eval()
    value = objective(*batch())
    assert objective.log_average.isnan() and bool(value.isfinite())
    objective.train()(*batch())
    before = objective.log_average.clone()
    objective.eval()(*batch(3))
    assert objective.log_average.equal(before)
    dv = Objective(objective.critic, bound="dv").double()
    torch.testing.assert_close(objective(*batch(3)), dv(*batch(3)), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("bound", [name for name in BOUNDS if name != "mine"])
def test_other_bounds_have_no_average(bound: str) -> None:
    objective = made(bound=bound)
    objective(*batch())
    assert objective.log_average.isnan()


def test_mines_average_is_saved_and_resumed(tmp_path: Path) -> None:
    whole = made(bound="mine", rate=0.1)
    for number in range(3):
        whole(*batch(number))
    assert "log_average" in whole.state_dict()
    save_file(whole.state_dict(), tmp_path / "objective.safetensors")
    resumed = made(seed=1, bound="mine", rate=0.1)
    resumed.load_state_dict(load_file(tmp_path / "objective.safetensors"))
    for number in range(3, 6):
        one, other = (gradients(objective, *batch(number)) for objective in (whole, resumed))
        assert all(ours.equal(theirs) for ours, theirs in zip(one, other, strict=True))
        assert resumed.log_average.equal(whole.log_average)
    assert resumed(*batch(7)).equal(whole(*batch(7)))


def test_an_average_that_has_not_begun_survives_a_file(tmp_path: Path) -> None:
    save_file(made(bound="mine").state_dict(), tmp_path / "objective.safetensors")
    resumed = made(seed=1, bound="mine")
    resumed.load_state_dict(load_file(tmp_path / "objective.safetensors"))
    resumed(*batch())
    assert float(resumed.log_average) == pytest.approx(log_mean(resumed, 0), abs=1e-12)


def test_a_batch_without_negatives_leaves_a_begun_average_alone() -> None:
    objective = made(bound="mine", rate=0.5)
    objective(*batch(2))
    before = objective.log_average.clone()
    value = objective(*batch(3), groups=(torch.zeros(CASES),))
    assert objective.log_average.equal(before) and float(value.detach()) == 0.0


def test_a_batch_without_negatives_does_not_begin_the_average() -> None:
    """It says nothing: the average begins with the first batch that has negatives, not with a mean of 1."""
    objective = made(bound="mine", rate=0.01)
    value = objective(*batch(3), groups=(torch.zeros(CASES),))
    assert float(value.detach()) == 0.0 and objective.log_average.isnan()
    objective(*batch(2))
    assert float(objective.log_average) == pytest.approx(log_mean(objective, 2), abs=1e-12)
