"""One process is alone; several are, within `alone`, as in a validation that the others wait for."""

from __future__ import annotations

import pytest
import torch

from comodal.processes import alone, sum_over_processes, world_size


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
