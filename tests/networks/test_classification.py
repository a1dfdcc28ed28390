"""Heads, losses and weights of classes against slow loops, closed forms, torch, scikit-learn and two processes."""

from __future__ import annotations

import math
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.utils.class_weight import compute_class_weight
from torch import Tensor, nn
from torch.multiprocessing.spawn import spawn

from comodal.batch import Batch
from comodal.errors import ConfigError
from comodal.method import Problem
from comodal.modality import Modality, Target
from comodal.networks.classification import (
    ClassHeads,
    ProportionalOdds,
    check_target_weights,
    class_probabilities,
    class_weights,
    classification_losses,
    decisions,
)

DIAGNOSIS = Target("diagnosis", "class", ("nevus", "melanoma", "other"))
SIGNS = Target("signs", "multilabel", ("veil", "streaks"))
GRADE = Target("grade", "ordinal", ("low", "middle", "high"))
MASK = Target("mask", "regions", ("WT",))
TARGETS = (DIAGNOSIS, SIGNS, GRADE, MASK)


def batch_of(targets: dict[str, Tensor], labelled: dict[str, Tensor], rows: int = 6) -> Batch:
    ids = tuple(map(str, range(rows)))
    return Batch(("t1",), {"t1": torch.zeros(rows, 1)}, torch.ones(rows, 1, dtype=torch.bool), targets, labelled, ids, ids)


def example() -> tuple[dict[str, Tensor], Batch, dict[str, Tensor]]:
    """Logits, a batch of six cases of which each target is known for some, and weights."""
    generator = torch.Generator().manual_seed(0)
    logits = {target.name: torch.randn(6, len(target.classes), generator=generator) for target in TARGETS[:3]}
    truth = {
        "diagnosis": torch.tensor([0, 2, 1, 1, 0, 2]),
        "signs": torch.tensor([[0, 1], [1, 1], [0, 0], [1, 0], [0, 1], [1, 1]], dtype=torch.float32),
        "grade": torch.tensor([2, 0, 1, 1, 0, 2]),
    }
    known = {
        "diagnosis": torch.tensor([True, True, False, True, True, False]),
        "signs": torch.tensor([[1, 0], [1, 1], [0, 0], [0, 1], [1, 1], [0, 0]], dtype=torch.bool),
        "grade": torch.tensor([False, True, True, True, False, True]),
    }
    weights = {"diagnosis": torch.tensor([0.5, 2.0, 3.0]), "signs": torch.tensor([1.5, 0.25]), "grade": torch.ones(3)}
    return logits, batch_of(truth, known), weights


def slow_class(logits: Tensor, truth: Tensor, known: Tensor, weights: Tensor) -> float:
    """Case by case, in plain Python."""
    total = count = 0.0
    for row, label, there in zip(logits.tolist(), truth.tolist(), known.tolist(), strict=True):
        if there:
            minus_log_p = math.log(sum(math.exp(value) for value in row)) - row[label]
            total += float(weights[label]) * minus_log_p
            count += float(weights[label])
    return total / count


def slow_answers(logits: Tensor, truth: Tensor, known: Tensor, weights: Tensor) -> float:
    """Answer by answer, in plain Python."""
    values = []
    for row in range(len(logits)):
        for k in range(logits.shape[1]):
            if bool(known[row, k]):
                p = 1 / (1 + math.exp(-float(logits[row, k])))
                yes = float(truth[row, k])
                values.append(-float(weights[k]) * yes * math.log(p) - (1 - yes) * math.log(1 - p))
    return sum(values) / len(values)


# ------------------------------------------------------------------------------------------------------- losses
@pytest.mark.parametrize("weighted", [True, False])
def test_losses_equal_slow_loops_over_what_is_known(weighted: bool) -> None:
    logits, batch, weights = example()
    found = classification_losses(logits, batch, TARGETS, class_weights=weights if weighted else None)
    assert list(found) == ["ce/diagnosis", "ce/signs", "ce/grade"]  # of a segmentation there is none
    for target in TARGETS[:3]:
        name, slow = target.name, slow_answers if target.kind == "multilabel" else slow_class
        own = weights[name] if weighted else torch.ones(len(target.classes))
        assert float(found[f"ce/{name}"]) == pytest.approx(
            slow(logits[name], batch.targets[name], batch.labelled[name], own), rel=1e-5
        )


def test_the_weighted_mean_is_that_of_torch_and_is_not_over_cases() -> None:
    logits, batch, weights = example()
    rows = batch.labelled["diagnosis"]
    found = classification_losses(logits, batch, (DIAGNOSIS,), class_weights=weights)["ce/diagnosis"]
    wanted = nn.functional.cross_entropy(
        logits["diagnosis"][rows], batch.targets["diagnosis"][rows], weight=weights["diagnosis"]
    )
    torch.testing.assert_close(found, wanted)


def test_what_is_not_known_is_not_read_and_a_target_counts_by_its_factor() -> None:
    logits, batch, _ = example()
    other = {name: value.clone() for name, value in batch.targets.items()}
    other["diagnosis"][[2, 5]] = 0
    other["signs"][~batch.labelled["signs"]] = float("nan")
    before = classification_losses(logits, batch, TARGETS)
    after = classification_losses(logits, batch_of(other, dict(batch.labelled)), TARGETS, target_weights={"signs": 3.0})
    assert float(after["ce/diagnosis"]) == float(before["ce/diagnosis"])
    assert float(after["ce/signs"]) == pytest.approx(3 * float(before["ce/signs"]))


def test_an_answer_may_be_known_for_all_of_a_case_or_none() -> None:
    logits, batch, weights = example()
    rows = torch.tensor([True, False, True, True, False, True])
    whole = classification_losses(logits, batch_of({"signs": batch.targets["signs"]}, {"signs": rows}), (SIGNS,))
    each = {"signs": rows[:, None].expand(-1, 2)}
    same = classification_losses(logits, batch_of({"signs": batch.targets["signs"]}, each), (SIGNS,))
    assert float(whole["ce/signs"]) == float(same["ce/signs"]) > 0
    assert weights["signs"].shape == (2,)


@pytest.mark.parametrize("there", [True, False], ids=["not labelled", "of no case"])
def test_a_target_that_no_row_has_is_zero_with_a_gradient_of_zero(there: bool) -> None:
    logits, batch, weights = example()
    leaves = {name: value.requires_grad_() for name, value in logits.items()}
    none = {name: torch.zeros_like(flag) for name, flag in batch.labelled.items()}
    empty = batch_of(dict(batch.targets), none) if there else batch_of({}, {})
    found = classification_losses(leaves, empty, TARGETS, class_weights=weights)
    assert {name: float(value.detach()) for name, value in found.items()} == dict.fromkeys(found, 0.0) and len(found) == 3
    torch.stack(list(found.values())).sum().backward()
    assert all(leaf.grad is not None and not leaf.grad.any() for leaf in leaves.values())


def test_classes_that_weigh_nothing_teach_nothing() -> None:
    logits, batch, _ = example()
    found = classification_losses(logits, batch, (DIAGNOSIS,), class_weights={"diagnosis": torch.zeros(3)})
    assert float(found["ce/diagnosis"]) == 0.0


def test_the_gradient_of_the_losses_is_right() -> None:
    logits, batch, weights = example()
    leaves = {name: value.clone().requires_grad_() for name, value in logits.items()}

    def total(values: dict[str, Tensor]) -> Tensor:
        return torch.stack(list(classification_losses(values, batch, TARGETS, class_weights=weights).values())).sum()

    total(leaves).backward()
    for name, leaf in leaves.items():  # computed in float32 whatever comes in, so differences are taken on a coarse grid
        assert leaf.grad is not None
        for at in [(0, 0), (1, 1), (4, 0), (5, 1)]:
            ends = []
            for step in (1e-2, -1e-2):
                moved = {**logits, name: logits[name].clone()}
                moved[name][at] += step
                ends.append(total(moved).item())
            assert float(leaf.grad[at]) == pytest.approx((ends[0] - ends[1]) / 2e-2, abs=2e-4)


def _share(rank: int, folder: str) -> None:
    """Two rows there, four here: the targets that a process knows differ, and none of them may wait for the other."""
    import torch.distributed as dist

    wait = timedelta(seconds=60)
    dist.init_process_group("gloo", init_method=f"file://{folder}/group", rank=rank, world_size=2, timeout=wait)
    try:
        logits, batch, weights = example()
        rows = [0, 2] if rank == 0 else [1, 3, 4, 5]  # process 0 knows no grade and one sign
        leaves = {name: value[rows].clone().requires_grad_() for name, value in logits.items()}
        terms = classification_losses(leaves, batch.rows(rows), TARGETS, class_weights=weights)
        torch.stack(list(terms.values())).sum().backward()
        gradients = [leaf.grad.numpy().ravel() / 2 for leaf in leaves.values() if leaf.grad is not None]  # DDP divides by 2
        np.save(f"{folder}/{rank}.npy", np.concatenate([[float(term.detach()) for term in terms.values()], *gradients]))
    finally:
        dist.destroy_process_group()


def test_two_processes_have_the_loss_and_the_gradient_of_the_whole_batch(tmp_path: Path) -> None:
    spawn(_share, (str(tmp_path),), nprocs=2)
    logits, batch, weights = example()
    leaves = {name: value.requires_grad_() for name, value in logits.items()}
    whole = classification_losses(leaves, batch, TARGETS, class_weights=weights)
    torch.stack(list(whole.values())).sum().backward()
    found = [np.load(tmp_path / f"{rank}.npy") for rank in (0, 1)]
    assert (found[0][:3] + found[1][:3]) / 2 == pytest.approx([float(t.detach()) for t in whole.values()], abs=1e-6)
    for part, rows in zip(found, ([0, 2], [1, 3, 4, 5]), strict=True):
        wanted = [leaf.grad[rows].numpy().ravel() for leaf in leaves.values() if leaf.grad is not None]
        assert part[3:] == pytest.approx(np.concatenate(wanted), abs=1e-7)


# ------------------------------------------------------------------------------------------------------- ordinal
def closed_form(s: Tensor, thresholds: Tensor) -> Tensor:
    """P(y = k) from P(y > k) = sigmoid(s - b_k), as differences, in double precision."""
    over = torch.sigmoid(s.double()[:, None] - thresholds.double())
    bounds = torch.cat([torch.ones(len(s), 1, dtype=torch.float64), over, torch.zeros(len(s), 1, dtype=torch.float64)], dim=1)
    return bounds[:, :-1] - bounds[:, 1:]


@pytest.mark.parametrize("classes", [2, 3, 7])
def test_ordinal_probabilities_are_those_of_proportional_odds(classes: int) -> None:
    torch.manual_seed(0)
    head = ProportionalOdds(4, classes)
    nn.init.normal_(head.gaps, std=2.0)
    z = torch.randn(50, 4) * 3
    thresholds = head.thresholds().detach()
    assert thresholds.shape == (classes - 1,) and bool((thresholds.diff() > 0).all())
    found = class_probabilities({"grade": head(z)}, [Target("grade", "ordinal", tuple(map(str, range(classes))))])["grade"]
    torch.testing.assert_close(found.sum(dim=1), torch.ones(50))
    torch.testing.assert_close(found.double(), closed_form(head.slope(z)[:, 0].detach(), thresholds), atol=1e-5, rtol=1e-4)


def test_thresholds_begin_one_unit_apart_around_zero() -> None:
    assert ProportionalOdds(2, 4).thresholds().tolist() == pytest.approx([-1.0, 0.0, 1.0], abs=0.01)
    assert ProportionalOdds(2, 2).thresholds().tolist() == [0.0]


def test_a_higher_score_never_makes_a_higher_class_less_likely() -> None:
    head = ProportionalOdds(1, 4)
    nn.init.ones_(head.slope.weight)
    p = head(torch.linspace(-200, 200, 81)[:, None]).exp()
    above = p.flip(1).cumsum(1)[:, :-1]  # P(y > k)
    assert bool(torch.isfinite(p).all()) and bool((above.diff(dim=0) >= -1e-6).all())
    assert p[0].tolist() == pytest.approx([1, 0, 0, 0]) and p[-1].tolist() == pytest.approx([0, 0, 0, 1])


def test_a_class_that_nobody_has_may_shrink_to_nothing() -> None:
    """Its gap is below the rounding of the thresholds around it: unlikely, but of finite loss and gradient."""
    head = ProportionalOdds(1, 4)
    with torch.no_grad():
        head.first.fill_(10.0)
        head.gaps.fill_(-20.0)
    log_p = head(torch.ones(2, 1))
    assert bool(log_p.isfinite().all())
    torch.nn.functional.cross_entropy(log_p, torch.tensor([0, 3])).backward()
    assert all(p.grad is not None and bool(p.grad.isfinite().all()) for p in head.parameters())


def test_gradients_of_the_ordinal_head_are_right_in_double_precision(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Tensor, "float", Tensor.double)  # it computes in single precision whatever comes in
    torch.manual_seed(1)
    head = ProportionalOdds(3, 4).double()
    z = torch.randn(5, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(head, (z,))
    inputs = tuple(parameter.detach().clone().requires_grad_() for parameter in head.parameters())
    names = [name for name, _ in head.named_parameters()]

    def by_weights(*values: Tensor) -> Tensor:
        found: Tensor = torch.func.functional_call(head, dict(zip(names, values, strict=True)), (z.detach(),))
        return found

    assert torch.autograd.gradcheck(by_weights, inputs)


def test_gradients_far_out_are_finite() -> None:
    head = ProportionalOdds(1, 3)
    nn.init.ones_(head.slope.weight)
    z = torch.tensor([[-80.0], [80.0], [0.0]], requires_grad=True)
    nn.functional.cross_entropy(head(z), torch.tensor([2, 0, 1])).backward()
    assert z.grad is not None and bool(torch.isfinite(z.grad).all())
    assert z.grad.flatten().tolist() == pytest.approx([-1 / 3, 1 / 3, 0.0], abs=1e-3)


# ------------------------------------------------------------------------------------------------------- heads
def test_heads_are_linear_or_have_one_hidden_layer_and_never_drop_a_logit() -> None:
    linear = ClassHeads(TARGETS, 5, dropout=0.5)
    assert sum(p.numel() for p in linear.parameters()) == (5 * 3 + 3) + (5 * 2 + 2) + (5 + 1 + 1)
    deep = ClassHeads(TARGETS, 5, hidden=7, dropout=0.5)
    assert sum(p.numel() for p in deep.parameters()) == 3 * (5 * 7 + 7) + (7 * 3 + 3) + (7 * 2 + 2) + (7 + 1 + 1)
    for heads in (linear, deep):
        found = heads(torch.rand(4, 5))
        assert {name: tuple(value.shape) for name, value in found.items()} == {
            "diagnosis": (4, 3), "signs": (4, 2), "grade": (4, 3),
        }  # fmt: skip
        assert all(not isinstance(head[-1], nn.Dropout) for head in heads.heads.values() if isinstance(head, nn.Sequential))


def test_an_ordinal_target_of_one_class_is_certain() -> None:
    only = Target("only", "ordinal", ("one",))
    found = class_probabilities(ClassHeads([only], 2)(torch.rand(3, 2)), [only])
    assert found["only"].tolist() == [[1.0]] * 3


def test_a_target_may_be_called_like_a_part_of_torch() -> None:
    heads = ClassHeads([Target("pop", "class", ("a", "b"))], 2)
    assert list(heads(torch.rand(1, 2))) == ["pop"]


def test_probabilities_and_decisions() -> None:
    logits = {
        "diagnosis": torch.tensor([[0.0, 2.0, 1.0]], dtype=torch.bfloat16),
        "signs": torch.tensor([[0.0, -1.0]]),
        "grade": torch.log(torch.tensor([[0.2, 0.5, 0.3]])),
    }
    found = class_probabilities(logits, TARGETS)
    assert all(value.dtype == torch.float32 for value in found.values())
    assert found["diagnosis"].sum().item() == pytest.approx(1) and found["grade"].tolist()[0] == pytest.approx([0.2, 0.5, 0.3])
    assert found["signs"].tolist()[0] == pytest.approx([0.5, 1 / (1 + math.e)])
    said = decisions(found, TARGETS)
    assert said["diagnosis"].tolist() == [1] and said["grade"].tolist() == [1]
    assert said["signs"].tolist() == [[True, False]]  # yes at one half


# ------------------------------------------------------------------------------------------------------- weights of classes
def problem_of(counts: dict[str, tuple[tuple[int, int], ...]]) -> Problem:
    return Problem((Modality("t1", "features", 0, 2),), TARGETS[:3], counts=counts)


def test_balanced_weights_are_those_of_scikit_learn() -> None:
    labels = np.array([0] * 11 + [1] * 4 + [2] * 25)
    counts = {"diagnosis": tuple((int((labels == k).sum()), 40) for k in range(3)), "signs": ((8, 40), (15, 20))}
    found = class_weights("balanced", problem_of(counts))
    wanted = compute_class_weight("balanced", classes=np.arange(3), y=labels)
    assert found["diagnosis"].tolist() == pytest.approx(wanted.tolist())
    assert found["signs"].tolist() == pytest.approx([32 / 8, 5 / 15])  # no to yes, of those of whom it is known
    assert found["grade"].tolist() == [1.0, 1.0, 1.0]  # nothing is known


def test_a_class_that_nobody_has_or_everybody() -> None:
    counts = {"diagnosis": ((0, 10), (4, 10), (6, 10)), "signs": ((0, 10), (10, 10))}
    found = class_weights("balanced", problem_of(counts))
    assert found["diagnosis"].tolist() == pytest.approx([0, 10 / 12, 10 / 18]) and found["signs"].tolist() == [0.0, 1.0]


def test_weights_as_a_paper_states_them_and_none() -> None:
    found = class_weights({"diagnosis": {"melanoma": 1.7, "other": 0}}, problem_of({"diagnosis": ((1, 9), (4, 9), (4, 9))}))
    assert found["diagnosis"].tolist() == pytest.approx([1.0, 1.7, 0.0]) and found["signs"].tolist() == [1.0, 1.0]
    none = class_weights("none", problem_of({"diagnosis": ((1, 9), (4, 9), (4, 9))}))
    assert all(bool((value == 1).all()) for value in none.values())


@pytest.mark.parametrize(
    ("asked", "says"),
    [
        ({"diagnosys": {"nevus": 1.0}}, r"must name targets of classes; got 'diagnosys'. Did you mean diagnosis"),
        ({"diagnosis": {"naevus": 1.0}}, r"method.class_weights.diagnosis must name classes; got 'naevus'. Did you mean nevus"),
        ({"diagnosis": {"nevus": -1.0}}, r"must be 0 or more; got -1.0. Correct the weight of nevus"),
        ({"diagnosis": {"nevus": math.nan}}, r"must be 0 or more; got nan"),
    ],
    ids=["target", "class", "negative", "not a number"],
)  # fmt: skip
def test_weights_that_cannot_be_are_refused(asked: Any, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        class_weights(asked, problem_of({}))


@pytest.mark.parametrize(
    ("asked", "says"),
    [
        ({"dy": 1.0}, r"method\.target_weights must name targets of classes; got 'dy'"),
        ({"dx": 0.0}, "must be above 0; got 0.0"),
    ],
)
def test_factors_of_targets_are_checked(asked: dict[str, float], says: str) -> None:
    problem = Problem((Modality("blood", "features", 0, 3),), (Target("dx", "class", ("a", "b")),))
    check_target_weights({"dx": 2.0}, problem)
    with pytest.raises(ConfigError, match=says):
        check_target_weights(asked, problem)
