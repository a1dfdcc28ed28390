"""Checks that others can run on their own methods and layouts: `check_method`, `check_dataset`, `make_batch`, `poison`."""

from comodal.testing.batches import make_batch, poison
from comodal.testing.method import check_method

__all__ = ["check_method", "make_batch", "poison"]
