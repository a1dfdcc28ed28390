"""One process is alone; several are, within `alone`, as in a validation that the others wait for."""

from __future__ import annotations

import os
import subprocess
import sys
from datetime import timedelta
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from comodal.processes import alone, gather_rows, mean_over_processes, rows_of_processes, sum_over_processes, world_size

ROOT = Path(__file__).resolve().parents[1]
SHARES = ((3, 1), (0, 2), (4, 0), (0, 0), (2, 2))  # items of each of two processes


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


@pytest.mark.parametrize("shared", [True, False])
def test_where_all_make_the_same_of_a_sum_nothing_is_exchanged_on_the_way_back(
    monkeypatch: pytest.MonkeyPatch, shared: bool
) -> None:
    asked: list[float] = []

    def all_reduce(tensor: Tensor) -> None:
        asked.append(float(tensor))
        tensor.mul_(3)

    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.distributed, "get_world_size", lambda: 3)
    monkeypatch.setattr(torch.distributed, "all_reduce", all_reduce)
    value = torch.tensor(2.0, requires_grad=True)
    total = sum_over_processes(value, shared=shared)
    total.square().backward()
    assert float(total.detach()) == 6.0 and value.grad is not None and float(value.grad) == 3 * 2 * 6.0
    assert asked == ([2.0] if shared else [2.0, 12.0])
    with alone():
        assert sum_over_processes(value, shared=shared) is value


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


# ------------------------------------------------------------------------------------------------ means
def test_the_mean_of_one_process_is_its_own() -> None:
    value = torch.tensor(2.0, requires_grad=True)
    assert mean_over_processes(value, 3) is value and mean_over_processes(value, 0) is value


@pytest.mark.parametrize("count", [0, 1, 5])
def test_a_mean_counts_as_much_as_its_items(monkeypatch: pytest.MonkeyPatch, count: int) -> None:
    """Two others hold 4 items together; the average over the three processes is the mean over all items."""
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.distributed, "get_world_size", lambda: 3)
    monkeypatch.setattr(torch.distributed, "all_reduce", lambda tensor: tensor.add_(4))
    value = torch.tensor(2.0, requires_grad=True)
    found = mean_over_processes(value, count)
    found.backward()
    assert float(found.detach()) == pytest.approx(2.0 * 3 * count / (count + 4))
    assert value.grad is not None and float(value.grad) == pytest.approx(3 * count / (count + 4))
    with alone():
        assert mean_over_processes(value, count) is value


def items(share: tuple[int, int], rank: int) -> Tensor:
    """Those of one process, of which all have one list."""
    start = sum(share[:rank])
    return torch.arange(1.0, 9.0)[start : start + share[rank]]


def work(rank: int, folder: Path) -> None:
    """What two real processes make of shares of unequal size, one after the other."""
    found: dict[str, Tensor] = {}
    for at, share in enumerate(SHARES):
        scale = torch.ones((), requires_grad=True)
        mine = (scale * items(share, rank)).square()
        mean = mean_over_processes(mine.mean() if len(mine) else mine.sum(), len(mine))
        mean.backward()
        assert scale.grad is not None
        found |= {f"{at}.value": mean.detach().clone(), f"{at}.gradient": scale.grad}
    save_file(found, folder / f"{rank}.safetensors")


def main(rank: int, folder: Path) -> None:
    torch.set_num_threads(1)
    store, wait = f"file://{folder / 'store'}", timedelta(seconds=60)
    torch.distributed.init_process_group("gloo", init_method=store, rank=rank, world_size=2, timeout=wait)
    try:
        work(rank, folder)
    finally:
        torch.distributed.destroy_process_group()


def test_two_processes_average_to_the_mean_of_all(tmp_path: Path) -> None:
    """Also where one, or both, have nothing: each enters, and nobody waits for ever."""
    paths = os.pathsep.join([str(ROOT), str(ROOT / "src")])
    environment = {**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1"}
    words = [sys.executable, "-m", "tests.test_processes"]
    pair = [subprocess.Popen([*words, str(rank), str(tmp_path)], cwd=ROOT, env=environment) for rank in range(2)]
    try:
        assert [process.wait(timeout=100) for process in pair] == [0, 0]
    finally:
        for process in pair:
            process.kill()
            process.wait()
    found = [load_file(tmp_path / f"{rank}.safetensors") for rank in range(2)]
    for at, share in enumerate(SHARES):
        every = torch.cat([items(share, rank) for rank in range(2)])
        expected = float(every.square().mean()) if len(every) else 0.0
        assert sum(float(one[f"{at}.value"]) for one in found) / 2 == pytest.approx(expected)
        assert sum(float(one[f"{at}.gradient"]) for one in found) / 2 == pytest.approx(2 * expected)


if __name__ == "__main__":
    main(int(sys.argv[1]), Path(sys.argv[2]))
