"""One process is alone; several are, within `alone`, as in a validation that the others wait for."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from comodal.processes import alone, gather_rows, rows_of_processes, sum_over_processes, world_size


def test_one_process_sums_nothing() -> None:
    value = torch.tensor(2.0, requires_grad=True)
    assert world_size() == 1 and sum_over_processes(value) is value


def test_within_alone_no_other_process_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.distributed, "get_world_size", lambda: 3)
    monkeypatch.setattr(torch.distributed, "all_reduce", lambda tensor: tensor.mul_(3))
    value = torch.tensor(2.0, requires_grad=True)
    with alone():
        with alone():
            assert world_size() == 1
        assert world_size() == 1 and sum_over_processes(value) is value
    assert world_size() == 3
    total = sum_over_processes(value)
    total.backward()
    assert float(total.detach()) == 6.0 and value.grad is not None and float(value.grad) == 3.0  # gradients are summed, too


def test_alone_ends_with_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.distributed, "get_world_size", lambda: 2)
    with pytest.raises(ValueError, match="x"), alone():
        raise ValueError("x")
    assert world_size() == 2


def of_three(monkeypatch: pytest.MonkeyPatch, rank: int, sizes: list[int]) -> list[Tensor]:
    """Stands in for two other processes, which hold ones wherever this one asks; records what was sent."""
    sent: list[Tensor] = []

    def all_gather(parts: list[Tensor], value: Tensor) -> None:
        sent.append(value)
        for place, part in enumerate(parts):
            counting = value.numel() == 1 and value.ndim == 1 and len(sent) == 1
            part.copy_(value if place == rank else torch.full_like(part, sizes[place] if counting else 1))

    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.distributed, "get_world_size", lambda: 3)
    monkeypatch.setattr(torch.distributed, "get_rank", lambda: rank)
    monkeypatch.setattr(torch.distributed, "all_gather", all_gather)
    monkeypatch.setattr(torch.distributed, "all_reduce", lambda tensor: tensor.mul_(3))
    return sent


def test_one_process_gathers_nothing() -> None:
    value = torch.ones(2, 3, requires_grad=True)
    assert rows_of_processes(2) == ([2], 0)
    assert gather_rows(value, [2]) is value


@pytest.mark.parametrize("rank", range(3))
def test_rows_of_unequal_processes_come_in_order(monkeypatch: pytest.MonkeyPatch, rank: int) -> None:
    sizes = [2, 0, 3]
    sent = of_three(monkeypatch, rank, sizes)
    assert rows_of_processes(sizes[rank]) == (sizes, rank)
    value = (torch.arange(2.0 * sizes[rank]).view(-1, 2) + 5).requires_grad_()
    rows = gather_rows(value, sizes)
    assert sent[-1].shape == (3, 2)  # padded to the largest, since processes exchange one shape
    wanted = [value.detach() if place == rank else torch.ones(size, 2) for place, size in enumerate(sizes)]
    assert rows.detach().equal(torch.cat(wanted))
    weights = torch.arange(10.0).view(5, 2)
    (rows * weights).sum().backward()
    start = sum(sizes[:rank])
    assert value.grad is not None and value.grad.equal(3 * weights[start : start + sizes[rank]])  # summed over processes


@pytest.mark.parametrize("kind", [torch.bool, torch.int32, torch.int64, torch.uint8])
def test_whole_numbers_and_truth_values_keep_their_type(monkeypatch: pytest.MonkeyPatch, kind: torch.dtype) -> None:
    sent = of_three(monkeypatch, 1, [1, 2, 1])
    sent.append(torch.empty(0))  # the numbers of rows are known already
    rows = gather_rows(torch.tensor([[0], [1]]).to(kind), [1, 2, 1])
    assert rows.dtype == kind and rows[:, 0].tolist() == [1, 0, 1, 1] and not rows.requires_grad
    assert sent[-1].dtype != torch.bool  # not every backend takes them


def test_within_alone_rows_are_not_gathered(monkeypatch: pytest.MonkeyPatch) -> None:
    sent = of_three(monkeypatch, 1, [1, 2, 1])
    value = torch.ones(2, 3)
    with alone():
        sizes, place = rows_of_processes(2)
        assert (sizes, place) == ([2], 0) and gather_rows(value, sizes) is value
    assert not sent
