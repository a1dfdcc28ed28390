"""comodal: learn with every modality you have; predict with the ones you get."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from comodal.api import evaluate, mi, predict, report, reproduce, study, train

__version__ = "0.1.0"
__all__ = ["__version__", "evaluate", "mi", "predict", "report", "reproduce", "study", "train"]


def __getattr__(name: str) -> Any:
    """Imports the API on first use, so that `comodal --help` imports neither torch nor MONAI."""
    if name in __all__:
        return getattr(importlib.import_module("comodal.api"), name)
    raise AttributeError(f"module 'comodal' has no attribute {name!r}")
