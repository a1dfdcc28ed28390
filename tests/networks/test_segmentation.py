"""Soft Dice and cross-entropy against a slow loop, MONAI, values derived by hand and finite differences."""

from __future__ import annotations

import math
from datetime import timedelta
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.multiprocessing.spawn import spawn

from comodal.batch import Batch
from comodal.modality import Target
from comodal.networks.segmentation import (
    region_logits,
    segmentation_losses,
    segmentation_probabilities,
    soft_dice,
    split_logits,
)

REGIONS = Target("seg", "regions", ("WT", "TC"))
LABELS = Target("organs", "labels", ("background", "liver", "spleen"))
CLASS = Target("grade", "class", ("low", "high"))


def random_case(seed: int, *, rows: int = 3, classes: int = 2, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn((rows, classes, 4, 3), generator=generator, dtype=dtype)
    return logits, (torch.rand((rows, classes, 4, 3), generator=generator) < 0.4).to(dtype)


def batch_of(targets: dict[str, Tensor], labelled: dict[str, Tensor]) -> Batch:
    rows = len(next(iter(targets.values())))
    ids = tuple(map(str, range(rows)))
    return Batch(("t1",), {"t1": torch.zeros(rows, 1)}, torch.ones(rows, 1, dtype=torch.bool), targets, labelled, ids, ids)


def slow_dice(probabilities: Tensor, truth: Tensor, *, batch: bool, smooth: float = 1e-5) -> float:
    """Voxel by voxel, in plain Python."""
    rows, classes = probabilities.shape[:2]
    scores = []
    for group in [range(rows)] if batch else [[row] for row in range(rows)]:
        for k in range(classes):
            overlap = volume = 0.0
            for row in group:
                for p, t in zip(probabilities[row, k].flatten().tolist(), truth[row, k].flatten().tolist(), strict=True):
                    overlap += p * t
                    volume += p + t
            scores.append((2 * overlap + smooth) / (volume + smooth))
    return sum(scores) / len(scores)


# ------------------------------------------------------------------------------------------------------- soft Dice
@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize("batch", [True, False])
def test_soft_dice_equals_a_slow_loop(seed: int, batch: bool) -> None:
    logits, truth = random_case(seed)
    found = soft_dice(logits.sigmoid(), truth, batch=batch)
    assert float(found) == pytest.approx(slow_dice(logits.sigmoid(), truth, batch=batch), abs=1e-6)


@pytest.mark.parametrize("batch", [True, False])
def test_soft_dice_equals_monai(batch: bool) -> None:
    from monai.losses.dice import DiceLoss

    logits, truth = random_case(7)
    reference = DiceLoss(sigmoid=True, batch=batch, smooth_nr=1e-5, smooth_dr=1e-5)
    assert float(1 - soft_dice(logits.sigmoid(), truth, batch=batch)) == pytest.approx(
        float(reference(logits, truth)), abs=1e-6
    )


def test_soft_dice_by_hand() -> None:
    probabilities = torch.tensor([[[1.0, 0.5, 0.0]], [[0.0, 0.0, 0.5]]])
    truth = torch.tensor([[[1.0, 0.0, 0.0]], [[0.0, 0.0, 1.0]]])
    # one sum over both rows: 2 (1 + 0.5) / (2 + 2); row by row: 2 * 1 / 2.5 and 2 * 0.5 / 1.5
    assert float(soft_dice(probabilities, truth, batch=True, smooth=0)) == pytest.approx(0.75)
    assert float(soft_dice(probabilities, truth, batch=False, smooth=0)) == pytest.approx((0.8 + 2 / 3) / 2)


def test_both_empty_is_one_and_one_empty_is_nearly_zero() -> None:
    nothing, one = torch.zeros(1, 1, 5), torch.ones(1, 1, 5)
    assert float(soft_dice(nothing, nothing, batch=True)) == 1.0
    assert float(soft_dice(one, nothing, batch=True)) == pytest.approx(0, abs=1e-5)
    assert float(soft_dice(nothing, one, batch=True)) == pytest.approx(0, abs=1e-5)


def test_without_any_row_it_is_one_and_has_a_gradient() -> None:
    probabilities = torch.zeros(0, 2, 5, requires_grad=True)
    for batch in (True, False):
        value = soft_dice(probabilities, torch.zeros(0, 2, 5), batch=batch)
        assert float(value.detach()) == 1.0
        value.backward()


@pytest.mark.parametrize("batch", [True, False])
def test_the_gradient_of_soft_dice_is_right(batch: bool) -> None:
    logits, truth = random_case(1, rows=2, dtype=torch.float64)
    leaf = logits.sigmoid().requires_grad_()
    assert torch.autograd.gradcheck(lambda p: soft_dice(p, truth, batch=batch), (leaf,))


def _share_of_two_processes(rank: int, folder: str) -> None:
    """One of two processes: soft Dice of its rows, and the gradient as DDP would average it."""
    import torch.distributed as dist

    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    try:
        logits, truth = random_case(8, rows=4)
        leaf = logits[rank * 2 : rank * 2 + 2].clone().requires_grad_()
        value = soft_dice(leaf.sigmoid(), truth[rank * 2 : rank * 2 + 2], batch=True)
        value.backward()
        assert leaf.grad is not None
        np.save(f"{folder}/{rank}.npy", np.concatenate([[value.item()], leaf.grad.numpy().ravel() / 2]))  # DDP divides by 2
    finally:
        dist.destroy_process_group()


def test_two_processes_have_the_dice_and_the_gradient_of_the_whole_batch(tmp_path: Path) -> None:
    spawn(_share_of_two_processes, (str(tmp_path),), nprocs=2)
    logits, truth = random_case(8, rows=4)
    logits.requires_grad_()
    whole = soft_dice(logits.sigmoid(), truth, batch=True)
    whole.backward()
    assert logits.grad is not None
    found = [np.load(tmp_path / f"{rank}.npy") for rank in (0, 1)]
    assert [part[0] for part in found] == pytest.approx([whole.item()] * 2, abs=1e-6)
    assert np.concatenate([part[1:] for part in found]) == pytest.approx(logits.grad.numpy().ravel(), abs=1e-7)


# ------------------------------------------------------------------------------------------------------- probabilities
def test_logits_are_cut_by_target_in_order_and_classes_of_cases_are_passed_over() -> None:
    logits = torch.arange(5.0).reshape(1, 5, 1, 1)
    cut = split_logits(logits, (REGIONS, CLASS, LABELS))
    assert {name: value.flatten().tolist() for name, value in cut.items()} == {"seg": [0, 1], "organs": [2, 3, 4]}


def test_regions_are_independent_and_labels_sum_to_one() -> None:
    logits = torch.tensor([0.0, 100.0, 1.0, 1.0, 1.0], dtype=torch.bfloat16).reshape(1, 5, 1, 1)
    found = segmentation_probabilities(logits, (REGIONS, LABELS))
    assert found["seg"].flatten().tolist() == [0.5, 1.0]
    assert found["organs"].flatten().tolist() == pytest.approx([1 / 3] * 3)
    assert all(p.dtype == torch.float32 for p in found.values())


# ------------------------------------------------------------------------------------------------------- losses
def test_log_odds_of_a_region_are_those_of_its_probability() -> None:
    logits = random_case(4, classes=5)[0]
    found, said = region_logits(logits, (REGIONS, LABELS)), segmentation_probabilities(logits, (REGIONS, LABELS))
    assert list(found) == ["WT", "TC", "liver", "spleen"]
    for target, name, k in [(REGIONS, "WT", 0), (REGIONS, "TC", 1), (LABELS, "liver", 1), (LABELS, "spleen", 2)]:
        torch.testing.assert_close(found[name], torch.logit(said[target.name][:, k]))
    named = region_logits(logits, (REGIONS, LABELS), named=True)
    assert list(named) == ["seg.WT", "seg.TC", "organs.liver", "organs.spleen"]


def test_regions_by_hand() -> None:
    # one voxel, logit 0: p = 0.5, truth 1. Dice (2 * 0.5) / 1.5, cross-entropy log 2. The other region: p = 0.5, truth 0
    batch = batch_of({"seg": torch.tensor([[[[1]], [[0]]]], dtype=torch.uint8)}, {"seg": torch.tensor([True])})
    terms = segmentation_losses(torch.zeros(1, 2, 1, 1), batch, (REGIONS,))
    assert float(terms["ce/seg"]) == pytest.approx(math.log(2))
    assert float(terms["dice/seg"]) == pytest.approx(1 - (2 / 3 + 0) / 2, abs=1e-4)


def test_labels_by_hand_leave_the_background_out_of_dice() -> None:
    # two voxels, truth 1 and 0, all logits 0: p = 1/3 each. Dice of label 1: 2/3 / (2/3 + 1) = 0.4, of label 2: 0 / (2/3)
    batch = batch_of({"organs": torch.tensor([[[1, 0]]])}, {"organs": torch.tensor([True])})
    terms = segmentation_losses(torch.zeros(1, 3, 1, 2), batch, (LABELS,))
    assert float(terms["ce/organs"]) == pytest.approx(math.log(3))
    assert float(terms["dice/organs"]) == pytest.approx(1 - (0.4 + 0) / 2, abs=1e-4)


def test_labels_without_a_background_all_count_in_dice() -> None:
    halves = Target("organs", "labels", ("left", "right"), codes=((1,), (2,)))
    batch = batch_of({"organs": torch.tensor([[[0, 1]]])}, {"organs": torch.tensor([True])})
    terms = segmentation_losses(torch.zeros(1, 2, 1, 2), batch, (halves,))
    assert float(terms["dice/organs"]) == pytest.approx(0.5, abs=1e-4)  # each: 2 * 0.5 / (1 + 1)


def test_cross_entropy_of_regions_equals_a_slow_loop() -> None:
    logits, truth = random_case(3)
    terms = segmentation_losses(logits, batch_of({"seg": truth}, {"seg": torch.ones(3, dtype=torch.bool)}), (REGIONS,))
    pairs = zip(logits.flatten().tolist(), truth.flatten().tolist(), strict=True)
    slow = [math.log1p(math.exp(-x if t else x)) for x, t in pairs]
    assert float(terms["ce/seg"]) == pytest.approx(sum(slow) / len(slow), abs=1e-6)


@pytest.mark.parametrize("target", [REGIONS, LABELS], ids=["regions", "labels"])
def test_rows_that_are_not_labelled_count_nothing(target: Target) -> None:
    logits, regions = random_case(4, rows=4, classes=len(target.classes))
    truth = regions if target is REGIONS else regions.argmax(dim=1)
    known = torch.tensor([True, False, True, False])
    logits.requires_grad_()
    some = segmentation_losses(logits, batch_of({target.name: truth}, {target.name: known}), (target,))
    alone = segmentation_losses(logits[known], batch_of({target.name: truth[known]}, {target.name: known[known]}), (target,))
    assert {name: float(v.detach()) for name, v in some.items()} == pytest.approx(
        {n: float(v.detach()) for n, v in alone.items()}, abs=1e-6
    )
    torch.stack(list(some.values())).sum().backward()
    assert logits.grad is not None
    assert logits.grad[~known].abs().sum() == 0 and logits.grad[known].abs().sum() > 0


@pytest.mark.parametrize("target", [REGIONS, LABELS], ids=["regions", "labels"])
def test_without_any_label_the_loss_and_its_gradient_are_exactly_zero(target: Target) -> None:
    logits = torch.randn(2, len(target.classes), 3, requires_grad=True)
    truth = torch.zeros((2, 2, 3) if target is REGIONS else (2, 3), dtype=torch.long)
    terms = segmentation_losses(
        logits, batch_of({target.name: truth}, {target.name: torch.zeros(2, dtype=torch.bool)}), (target,)
    )
    assert [float(t.detach()) for t in terms.values()] == [0.0, 0.0]
    torch.stack(list(terms.values())).sum().backward()
    assert logits.grad is not None and logits.grad.abs().sum() == 0


def test_a_region_that_was_not_drawn_counts_nothing() -> None:
    logits, truth = random_case(5)
    known = torch.tensor([[True, True], [True, False], [False, True]])
    first = segmentation_losses(logits, batch_of({"seg": truth}, {"seg": known}), (REGIONS,))
    other = truth.clone()
    other[1, 1], other[2, 0] = 1 - other[1, 1], 1 - other[2, 0]
    second = segmentation_losses(logits, batch_of({"seg": other}, {"seg": known}), (REGIONS,))
    assert {n: float(v) for n, v in first.items()} == {n: float(v) for n, v in second.items()}
    by_hand = [slow_dice(logits.sigmoid()[known[:, k], k : k + 1], truth[known[:, k], k : k + 1], batch=True) for k in range(2)]
    assert float(first["dice/seg"]) == pytest.approx(1 - sum(by_hand) / 2, abs=1e-6)


def test_a_target_that_no_row_has_is_zero_with_a_gradient() -> None:
    """Not left out: the rows of another process may have it."""
    logits = torch.randn(1, 5, 2, requires_grad=True)
    batch = batch_of({"organs": torch.zeros(1, 2, dtype=torch.long)}, {"organs": torch.tensor([True])})
    terms = segmentation_losses(logits, batch, (REGIONS, LABELS))
    assert set(terms) == {"dice/seg", "ce/seg", "dice/organs", "ce/organs"}
    assert float(terms["dice/seg"].detach()) == float(terms["ce/seg"].detach()) == 0.0
    (terms["dice/seg"] + terms["ce/seg"]).backward()
    assert logits.grad is not None and logits.grad.abs().sum() == 0


def two_targets() -> tuple[Tensor, dict[str, Tensor], dict[str, Tensor]]:
    """Logits of 5 channels for 4 rows; only row 0 has regions, and only rows 0, 2 and 3 have labels."""
    logits, regions = random_case(9, rows=4, classes=5)
    truth = {"seg": regions[:, :2], "organs": regions[:, 2:].argmax(dim=1)}
    known = {"seg": torch.tensor([True, False, False, False]), "organs": torch.tensor([True, False, True, True])}
    return logits, truth, known


def _unequal_share(rank: int, folder: str) -> None:
    """Rows 0 and 1, or rows 2 and 3; a target that none of them has is not in the batch, as `collate` leaves it."""
    import torch.distributed as dist

    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2, timeout=timedelta(seconds=60))
    try:
        logits, truth, known = two_targets()
        rows = slice(rank * 2, rank * 2 + 2)
        have = [name for name in truth if known[name][rows].any()]
        leaf = logits[rows].clone().requires_grad_()
        batch = batch_of({n: truth[n][rows] for n in have}, {n: known[n][rows] for n in have})
        terms = segmentation_losses(leaf, batch, (REGIONS, LABELS))
        torch.stack(list(terms.values())).sum().backward()
        assert leaf.grad is not None
        np.save(
            f"{folder}/{rank}.npy", np.concatenate([[float(t.detach()) for t in terms.values()], leaf.grad.numpy().ravel() / 2])
        )
    finally:
        dist.destroy_process_group()


def test_two_processes_whose_rows_have_other_targets_have_the_loss_of_the_whole_batch(tmp_path: Path) -> None:
    spawn(_unequal_share, (str(tmp_path),), nprocs=2)
    logits, truth, known = two_targets()
    logits.requires_grad_()
    whole = segmentation_losses(logits, batch_of(truth, known), (REGIONS, LABELS))
    torch.stack(list(whole.values())).sum().backward()
    assert logits.grad is not None
    found = [np.load(tmp_path / f"{rank}.npy") for rank in (0, 1)]
    assert (found[0][:4] + found[1][:4]) / 2 == pytest.approx([float(t.detach()) for t in whole.values()], abs=1e-6)
    assert np.concatenate([part[4:] for part in found]) == pytest.approx(logits.grad.numpy().ravel(), abs=1e-7)


@pytest.mark.parametrize("target", [REGIONS, LABELS], ids=["regions", "labels"])
def test_the_gradient_of_the_loss_is_right(target: Target) -> None:
    # the losses are computed in float32 whatever comes in, so differences are taken on a coarse grid
    logits, regions = random_case(6, rows=2, classes=len(target.classes))
    truth = regions if target is REGIONS else regions.argmax(dim=1)
    batch = batch_of({target.name: truth}, {target.name: torch.tensor([True, True])})

    def total(x: Tensor) -> Tensor:
        return torch.stack(list(segmentation_losses(x, batch, (target,)).values())).sum()

    leaf = logits.clone().requires_grad_()
    total(leaf).backward()
    assert leaf.grad is not None
    step = 1e-2
    for at in [(0, 0, 0, 0), (1, 1, 3, 2), (0, 1, 2, 1)]:
        up, down = logits.clone(), logits.clone()
        up[at] += step
        down[at] -= step
        slope = (total(up).item() - total(down).item()) / (2 * step)
        assert float(leaf.grad[at]) == pytest.approx(slope, abs=2e-4)
