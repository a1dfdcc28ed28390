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


def _summed(value: Tensor) -> Tensor:
    total = value.detach().clone()
    torch.distributed.all_reduce(total)
    return total


def sum_over_processes(value: Tensor) -> Tensor:
    """The sum over all processes, with gradient: the loss of each depends on the summands of all, so gradients are summed, too.

    Args:
        value: Of one shape on every process.

    Returns:
        The sum; `value` itself where this process is alone.
    """
    if world_size() == 1:
        return value
    total: Tensor = _Sum.apply(value)  # type: ignore[no-untyped-call]
    return total
