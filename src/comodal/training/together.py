"""What the processes of one training tell each other: numbers, and that one of them cannot go on."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

import torch.distributed

from comodal.errors import ComodalError, UserError

if TYPE_CHECKING:
    from lightning_fabric import Fabric

T = TypeVar("T")


def from_all(fabric: Fabric, item: T) -> list[T]:
    """What each process has, in the order of their ranks; every process must ask at the same moment."""
    if fabric.world_size == 1:
        return [item]
    found: list[Any] = [None] * fabric.world_size
    torch.distributed.all_gather_object(found, item)
    return found


def fail_together(fabric: Fabric, failure: ComodalError | None) -> None:
    """Ends every process where one of them cannot go on: without this the others would wait for it, or lose its reason.

    Every process must ask at the same moment. The first process raises what happened, wherever it happened, so that it is one
    message and one exit code; the others leave in silence with the same code.

    Args:
        fabric: Launched.
        failure: Of this process, None for none.

    Raises:
        ComodalError: The failure of the process of lowest rank that has one.
    """
    first = next((error for error in from_all(fabric, failure) if error is not None), None)
    if first is not None:
        leave_together(fabric, first)


def leave_together(fabric: Fabric, failure: ComodalError) -> NoReturn:
    """As `fail_together`, where all processes know of the same failure already."""
    if fabric.global_rank == 0:
        raise failure
    raise SystemExit(2 if isinstance(failure, UserError) else 1)
