"""Sums over the processes of a training, so that a loss can be that of the global batch.

Every process must enter the same sums in the same order, whatever its own rows have: one that skips a sum lets the others
wait for ever, or pairs their sum with its next.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed
from torch import Tensor

_ALONE = [False]


def world_size() -> int:
    """How many processes make one batch together; 1 where there is no process group, and within `alone`.

    >>> world_size()
    1
    """
    if _ALONE[0] or not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return 1
    return torch.distributed.get_world_size()


@contextmanager
def alone() -> Iterator[None]:
    """Within it this process makes whole batches by itself, as in a validation that the others wait for."""
    before, _ALONE[0] = _ALONE[0], True
    try:
        yield
    finally:
        _ALONE[0] = before


class _Sum(torch.autograd.Function):
    """torch has such a function twice, one deprecated and one private."""

    @staticmethod
    def forward(ctx: Any, value: Tensor) -> Tensor:  # noqa: ARG004
        return _summed(value)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:  # noqa: ARG004
        return _summed(gradients[0])


class _Shared(torch.autograd.Function):
    """Its gradient is the same on every process, so that their sum is known without asking."""

    @staticmethod
    def forward(ctx: Any, value: Tensor) -> Tensor:  # noqa: ARG004
        return _summed(value)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:  # noqa: ARG004
        return gradients[0] * world_size()


def _summed(value: Tensor) -> Tensor:
    total = value.detach().clone()
    torch.distributed.all_reduce(total)
    return total


def sum_over_processes(value: Tensor, *, shared: bool = False) -> Tensor:
    """The sum over all processes, with gradient: the loss of each depends on the summands of all, so gradients are summed, too.

    Args:
        value: Of one shape on every process.
        shared: Whether every process makes the same loss of the sum. Then nothing is exchanged on the way back, so that a
            process whose summand has no gradient, since it has no rows, keeps nobody waiting.

    Returns:
        The sum; `value` itself where this process is alone.
    """
    if world_size() == 1:
        return value
    total: Tensor = (_Shared if shared else _Sum).apply(value)  # type: ignore[no-untyped-call]
    return total


def mean_over_processes(mean: Tensor, count: float) -> Tensor:
    """A mean over `count` items here, scaled so that its average over processes is the mean over the items of all.

    Args:
        mean: Scalar; 0 where there is no item here. Every process must enter.
        count: Items here, or the sum of their weights; may be 0.

    Returns:
        Scalar; `mean` itself where this process is alone.
    """
    processes = world_size()
    if processes == 1:
        return mean
    total = sum_over_processes(torch.tensor(float(count), device=mean.device))
    return mean * (count * processes / torch.where(total > 0, total, 1.0))


class _Gather(torch.autograd.Function):
    """Rows of all processes; the gradient of a row is the sum of what every process makes of it."""

    @staticmethod
    def forward(ctx: Any, value: Tensor, sizes: list[int]) -> Tensor:
        ctx.sizes = sizes
        return _gathered(value, sizes)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        rank = torch.distributed.get_rank()
        return _summed(gradients[0].contiguous()).split(ctx.sizes)[rank], None


def _gathered(value: Tensor, sizes: list[int]) -> Tensor:
    padded = value.detach().new_zeros(max(sizes), *value.shape[1:])  # processes may hold unequal numbers of rows
    padded[: len(value)] = value.detach()
    parts = [torch.empty_like(padded) for _ in sizes]
    torch.distributed.all_gather(parts, padded)
    return torch.cat([part[:size] for part, size in zip(parts, sizes, strict=True)])


def rows_of_processes(count: int, device: torch.device | str = "cpu") -> tuple[list[int], int]:
    """How many rows each process holds, and which of them is this one.

    Args:
        count: Rows here; may differ from process to process and may be 0.
        device: Where the process group sums.

    Returns:
        One number per process in order, and the place of this process in it; ([count], 0) where it is alone.
    """
    if world_size() == 1:
        return [count], 0
    mine = torch.tensor([count], device=device)
    parts = [torch.empty_like(mine) for _ in range(world_size())]
    torch.distributed.all_gather(parts, mine)
    return [int(part) for part in torch.cat(parts).tolist()], torch.distributed.get_rank()


def gather_rows(value: Tensor, sizes: list[int]) -> Tensor:
    """The rows of all processes, in the order of the processes, with gradient.

    Where every process computes one and the same loss from all rows, a process's gradient here is the number of processes
    times that of the loss, since they are summed; a data-parallel training, which averages them, gets the gradient of the
    loss itself.

    Args:
        value: (rows here, ...); the other axes are equal on all processes.
        sizes: See `rows_of_processes`.

    Returns:
        (rows of all, ...); `value` itself where this process is alone.
    """
    if len(sizes) == 1:
        return value
    if not value.is_floating_point():
        as_int = value.to(torch.int64) if value.dtype == torch.bool else value
        return _gathered(as_int, sizes).to(value.dtype)
    rows: Tensor = _Gather.apply(value, sizes)  # type: ignore[no-untyped-call]
    return rows
