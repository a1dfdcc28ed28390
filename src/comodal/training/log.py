"""`metrics.jsonl`: one JSON object per line, the truth of what happened in training; TensorBoard as a copy of it."""

from __future__ import annotations

import json
import os
from importlib.util import find_spec
from math import isfinite
from pathlib import Path
from typing import Any

from comodal.errors import ConfigError, message


def require_tensorboard() -> None:
    """Refuses to go on where the package is not installed.

    Raises:
        ConfigError: It is not.
    """
    if find_spec("tensorboard") is None:
        do = "Install it with pip install 'comodal[tensorboard]', or set training.tensorboard=false"
        raise ConfigError(message("training.tensorboard", "have the package tensorboard", "none", do=do))


class MetricsLog:
    """Appends events to a file.

    Args:
        path: `RUN/metrics.jsonl`.
        keep: Bytes of an earlier part to keep when resuming; the lines after a checkpoint were made again.
        tensorboard: Folder for TensorBoard files, None for none.

    Raises:
        ConfigError: TensorBoard was asked for and is not installed.
    """

    def __init__(self, path: Path, *, keep: int = 0, tensorboard: Path | None = None) -> None:
        self.path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
        os.truncate(path, min(keep, path.stat().st_size))
        self.board: Any = None
        if tensorboard is not None:
            require_tensorboard()
            from torch.utils.tensorboard import SummaryWriter

            self.board = SummaryWriter(str(tensorboard))

    def write(self, event: str, **values: Any) -> None:
        """Appends one line; floats keep six digits, and what is not a number is null."""
        line = json.dumps({"event": event, **{k: _short(v) for k, v in values.items()}})
        with self.path.open("a", encoding="utf-8") as file:
            file.write(line + "\n")
        if self.board is not None and "step" in values:
            flat = {**values.get("terms", {}), **values.get("diagnostics", {}), **values.get("metrics", {})}
            for name, value in flat.items():
                if value is None or not isfinite(value):
                    continue
                self.board.add_scalar(f"{values.get('stage')}/{event}/{name}", value, values["step"])

    @property
    def size(self) -> int:
        """Bytes so far."""
        return self.path.stat().st_size

    def close(self) -> None:
        """Flushes TensorBoard."""
        if self.board is not None:
            self.board.close()


def _short(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _short(v) for k, v in value.items()}
    if isinstance(value, float):
        return float(f"{value:.6g}") if isfinite(value) else None
    return value
