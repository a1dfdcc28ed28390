"""Gated attention and CLAM's instance loss against slow loops, and that padding and absent bags change nothing."""

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
from comodal.networks.pooling import GatedAttention, InstanceLoss

DIAGNOSIS = Target("diagnosis", "class", ("nevus", "melanoma", "other"))
SIGNS = Target("signs", "multilabel", ("veil", "streaks"))
GRADE = Target("grade", "ordinal", ("low", "high"))
TARGETS = (DIAGNOSIS, SIGNS, GRADE)
SIZES = (9, 4, 1, 0, 5, 3)  # items of the bags: below and above 2 k, one alone, none
FEATURES = 6


def bags(seed: int = 0, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor, Tensor]:
    """Embeddings (B, N, F), weights (B, N) and which are valid; the valid ones are not the first."""
    generator = torch.Generator().manual_seed(seed)
    embedded = torch.randn(len(SIZES), 10, FEATURES, generator=generator, dtype=dtype)
    valid = torch.zeros(len(SIZES), 10, dtype=torch.bool)
    for row, size in enumerate(SIZES):
        valid[row, torch.randperm(10, generator=generator)[:size]] = True
    weights = torch.rand(len(SIZES), 10, generator=generator, dtype=dtype)
    return torch.where(valid[..., None], embedded, 0.0), torch.where(valid, weights, 0.0), valid


def batch_of(known: bool = True) -> Batch:
    rows = len(SIZES)
    ids = tuple(map(str, range(rows)))
    truth = {
        "diagnosis": torch.tensor([0, 2, 1, 1, 2, 0]),
        "signs": torch.tensor([[1, 0], [1, 1], [1, 0], [0, 1], [0, 0], [0, 1]], dtype=torch.float32),
        "grade": torch.tensor([1, 0, 1, 1, 0, 0]),
    }
    labelled = {
        "diagnosis": torch.tensor([True, True, True, True, False, True]),
        "signs": torch.tensor([[1, 1], [1, 0], [1, 1], [1, 1], [1, 1], [0, 1]], dtype=torch.bool),
        "grade": torch.tensor([True, False, True, True, True, True]),
    }
    if not known:
        labelled = {name: torch.zeros_like(flag) for name, flag in labelled.items()}
    return Batch(("b",), {"b": torch.zeros(rows, 1)}, torch.ones(rows, 1, dtype=torch.bool), truth, labelled, ids, ids)


def minus_log_p(layer: torch.nn.Linear, item: Tensor, k: int, label: int) -> float:
    """Cross-entropy of one item at the layer of class k: its two rows of weights, no and yes."""
    no, yes = (float(layer.weight[2 * k + j].detach() @ item + layer.bias[2 * k + j].detach()) for j in (0, 1))
    return math.log(math.exp(no) + math.exp(yes)) - (yes if label else no)


def slow_loss(loss: InstanceLoss, target: Target, batch: Batch, *, k: int, subtyping: bool) -> float:
    """Bag by bag, layer by layer, item by item."""
    embedded, weights, valid = bags()
    layer = loss.layers[f"target_{target.name}"]
    assert isinstance(layer, torch.nn.Linear)
    of_bags = []
    for row in range(len(SIZES)):
        ranked = sorted(valid[row].nonzero().flatten().tolist(), key=lambda n: -float(weights[row, n]))
        taken = min(k, len(ranked) // 2)
        layers = []
        for c in range(len(target.classes)):
            truth, known = batch.targets[target.name][row], batch.labelled[target.name][row]
            mine = bool(truth[c] == 1) if target.kind == "multilabel" else int(truth) == c
            sure = bool(known[c]) if target.kind == "multilabel" else bool(known)
            high, low = ranked[:taken], ranked[len(ranked) - taken :]
            if not sure or not taken:
                continue
            if mine:
                items = [(n, 1) for n in high] + [(n, 0) for n in low]
            elif subtyping:
                items = [(n, 0) for n in high]
            else:
                continue
            values = [minus_log_p(layer, embedded[row, n], c, label) for n, label in items]
            layers.append(sum(values) / len(values))
        if layers:
            of_bags.append(sum(layers) / len(layers))
    return sum(of_bags) / len(of_bags)


# ------------------------------------------------------------------------------------------------------- attention
def test_attention_equals_a_slow_loop_and_is_zero_outside_the_bag() -> None:
    torch.manual_seed(0)
    attention = GatedAttention(FEATURES, 4, dropout=0.5).eval()
    embedded, _, valid = bags()
    found = attention(embedded, valid)
    with torch.no_grad():
        for row, size in enumerate(SIZES):
            scores = {}
            for n in valid[row].nonzero().flatten().tolist():
                h = embedded[row, n]
                tanh = torch.tanh(attention.tanh.weight @ h + attention.tanh.bias)
                gate = torch.sigmoid(attention.gate.weight @ h + attention.gate.bias)
                scores[n] = math.exp(float(attention.score.weight[0] @ (tanh * gate) + attention.score.bias))
            for n in range(10):
                wanted = scores[n] / sum(scores.values()) if n in scores else 0.0
                assert float(found[row, n]) == pytest.approx(wanted, abs=1e-6)
            assert float(found[row].sum()) == pytest.approx(float(size > 0), abs=1e-6)


def test_padding_and_order_change_no_weight_and_a_bag_without_items_has_a_gradient() -> None:
    torch.manual_seed(0)
    attention = GatedAttention(FEATURES, 4)
    embedded, _, valid = bags()
    wide = torch.nn.functional.pad(embedded, (0, 0, 3, 2)), torch.nn.functional.pad(valid, (3, 2))
    torch.testing.assert_close(attention(*wide)[:, 3:13], attention(embedded, valid))
    order = torch.randperm(10)
    torch.testing.assert_close(attention(embedded[:, order], valid[:, order]), attention(embedded, valid)[:, order])
    attention(embedded, valid).square().sum().backward()
    assert all(p.grad is not None and bool(torch.isfinite(p.grad).all()) for p in attention.parameters())


# ------------------------------------------------------------------------------------------------------- instance loss
@pytest.mark.parametrize("subtyping", [False, True])
@pytest.mark.parametrize("k", [1, 2, 8])
def test_the_instance_loss_equals_a_slow_loop(k: int, subtyping: bool) -> None:
    torch.manual_seed(0)
    loss, batch = InstanceLoss(FEATURES, TARGETS, k=k, subtyping=subtyping), batch_of()
    with torch.no_grad():
        found = loss(*bags(), batch=batch)
    assert list(found) == ["diagnosis", "signs", "grade"]
    for target in TARGETS:
        assert float(found[target.name]) == pytest.approx(slow_loss(loss, target, batch, k=k, subtyping=subtyping), rel=1e-5)


def test_a_bag_of_two_by_hand() -> None:
    """Layers that say nothing have log 2 each; a layer that is sure and right has none."""
    embedded, weights = torch.tensor([[[1.0], [-1.0]]]), torch.tensor([[0.9, 0.1]])
    truth, known = {"grade": torch.tensor([1])}, {"grade": torch.tensor([True])}
    batch = Batch(("b",), {"b": torch.zeros(1, 1)}, torch.ones(1, 1, dtype=torch.bool), truth, known, ("0",), ("0",))
    loss = InstanceLoss(1, [GRADE], k=8, subtyping=True)
    layer = loss.layers["target_grade"]
    assert isinstance(layer, torch.nn.Linear)
    with torch.no_grad():
        layer.weight.zero_(), layer.bias.zero_()
        assert float(loss(embedded, weights, weights > 0, batch=batch)["grade"]) == pytest.approx(math.log(2))
        layer.weight[3] = 40.0  # yes of the class "high" at the item of the highest attention, no at the other
        half = math.log(2) / 2  # the mean over both layers, of which that of "low" still says nothing
        assert float(loss(embedded, weights, weights > 0, batch=batch)["grade"]) == pytest.approx(half)
        assert float(loss(embedded, 1 - weights, weights > 0, batch=batch)["grade"]) == pytest.approx(20 + half)


def test_it_teaches_embeddings_and_layers_and_not_the_attention() -> None:
    embedded, weights, valid = bags()
    embedded.requires_grad_(), weights.requires_grad_()
    loss = InstanceLoss(FEATURES, TARGETS, k=2)
    torch.stack(list(loss(embedded, weights, valid, batch=batch_of()).values())).sum().backward()
    assert weights.grad is None and embedded.grad is not None
    touched = embedded.grad.abs().sum(dim=2) > 0
    assert not bool(touched[~valid].any())
    assert touched.sum(dim=1).tolist() == [4, 4, 0, 0, 4, 2]  # both ends; no bag of one item, and none of none


def test_padding_changes_nothing_and_what_stands_in_unlabelled_rows_neither() -> None:
    torch.manual_seed(0)
    embedded, weights, valid = bags()
    loss, batch = InstanceLoss(FEATURES, TARGETS, k=3, subtyping=True).requires_grad_(False), batch_of()
    before = loss(embedded, weights, valid, batch=batch)
    wide = torch.nn.functional.pad(embedded, (0, 0, 1, 4)), torch.nn.functional.pad(weights, (1, 4))
    after = loss(*wide, torch.nn.functional.pad(valid, (1, 4)), batch=batch)
    other = {name: torch.where(batch.labelled[name], value, 1 - value.clamp(max=1)) for name, value in batch.targets.items()}
    changed = Batch(("b",), dict(batch.inputs), batch.present, other, dict(batch.labelled), batch.ids, batch.groups)
    for name, value in loss(embedded, weights, valid, batch=changed).items():
        assert float(value) == float(before[name]) == pytest.approx(float(after[name]))


@pytest.mark.parametrize("what", ["no label", "no bag"])
def test_where_no_bag_teaches_anything_it_is_zero_with_a_gradient(what: str) -> None:
    embedded, weights, valid = bags()
    embedded.requires_grad_()
    loss = InstanceLoss(FEATURES, TARGETS)
    found = loss(embedded, weights, valid & (what == "no label"), batch=batch_of(known=what != "no label"))
    total = torch.stack(list(found.values())).sum()
    total.backward()
    assert float(total.detach()) == 0.0
    assert all(p.grad is not None and not p.grad.any() for p in loss.parameters())


def _share(rank: int, folder: str) -> None:
    """Process 0 has bags from which nothing can be learned."""
    import torch.distributed as dist

    wait = timedelta(seconds=60)
    dist.init_process_group("gloo", init_method=f"file://{folder}/group", rank=rank, world_size=2, timeout=wait)
    try:
        torch.manual_seed(0)
        loss, rows = InstanceLoss(FEATURES, TARGETS, k=2), [2, 3] if rank == 0 else [0, 1, 4, 5]
        found = loss(*(part[rows] for part in bags()), batch=batch_of().rows(rows))
        np.save(f"{folder}/{rank}.npy", [float(value.detach()) for value in found.values()])
    finally:
        dist.destroy_process_group()


@pytest.mark.slow
def test_two_processes_have_the_loss_of_all_bags(tmp_path: Path) -> None:
    spawn(_share, (str(tmp_path),), nprocs=2)
    torch.manual_seed(0)
    whole = InstanceLoss(FEATURES, TARGETS, k=2)(*bags(), batch=batch_of())
    found = [np.load(tmp_path / f"{rank}.npy") for rank in (0, 1)]
    assert (found[0] + found[1]) / 2 == pytest.approx([float(value.detach()) for value in whole.values()])
