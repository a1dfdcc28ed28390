"""Over which voxels the logit of a pair (primary, region) is summed: what a gradient is taken of.

Axis letters: B windows, X Y Z voxels of the case.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from comodal.explain.explanation import VOXELS, Pair, Voxels, truth_of
from comodal.explain.walking import Step, Walk
from comodal.method import Method


@dataclass(frozen=True, eq=False)
class Asked:
    """One pair in some windows.

    Attributes:
        pair: (primary, region).
        auxiliaries: Those that take part.
        logit: (B, *patch).
        counted: (B, *patch): what each voxel counts; over all windows a chosen voxel of the case counts 1, others 0.
    """

    pair: Pair
    auxiliaries: tuple[str, ...]
    logit: Tensor
    counted: Tensor


@dataclass
class Summing:
    """Chooses the voxels, window by window, and counts them.

    Attributes:
        walk: Over the windows of one case.
        voxels: "Predicted" is decided in each window, which knows only itself.
        pairs: {(primary, region): auxiliaries}, known after the first step.
        sizes: {(primary, region): how many voxels were chosen so far}.
    """

    walk: Walk
    voxels: Voxels
    pairs: dict[Pair, tuple[str, ...]] = field(default_factory=dict)
    sizes: dict[Pair, float] = field(default_factory=dict)
    _untold: dict[Pair, str] = field(default_factory=dict)
    _truths: dict[Pair, Tensor] = field(default_factory=dict)  # (X, Y, Z) bool, where the voxels are those of the truth

    def asked(self, step: Step) -> Iterator[Asked]:
        """The pairs of which some voxel of these windows counts.

        Args:
            step: The windows.
        """
        if not self.pairs:
            self._begin(step)
        for pair, auxiliaries in self.pairs.items():
            if pair in self._untold:
                continue
            logit = step.found.logits[pair]
            counted = torch.where(self._chosen(step, pair, logit), step.share, step.share.new_zeros(()))
            size = float(counted.sum())
            self.sizes[pair] += size
            if size > 0:
                yield Asked(pair, auxiliaries, logit, counted)

    def _begin(self, step: Step) -> None:
        self.pairs = self.walk.pairs(step.found)
        self.sizes = dict.fromkeys(self.pairs, 0.0)
        for pair in self.pairs if self.voxels == "labelled" else ():
            truth = truth_of(self.walk.method.problem, self.walk.case, pair[1])
            if truth is None:
                self._untold[pair] = f"since the case has no truth of {pair[1]}"
            else:
                self._truths[pair] = torch.from_numpy(np.ascontiguousarray(truth))

    def _chosen(self, step: Step, pair: Pair, logit: Tensor) -> Tensor:
        """(B, *patch) bool."""
        if self.voxels == "all":
            return torch.ones_like(logit, dtype=torch.bool)
        if self.voxels == "predicted":
            return logit.detach() > 0
        windows, rows = self.walk.windows, []
        for start in windows.starts[step.first : step.first + len(logit)]:
            volume, window = windows.inside(start)
            row = torch.zeros(windows.window, dtype=torch.bool)
            row[window] = self._truths[pair][volume]
            rows.append(row)
        return torch.stack(rows).reshape(logit.shape).to(logit.device)

    def whole_sizes(self) -> dict[Pair, int]:
        """{(primary, region): voxels of the case}; a share of one counts as one."""
        return {pair: math.ceil(size - 1e-3) for pair, size in self.sizes.items()}

    def left_out(self) -> dict[Pair, str]:
        """{(primary, region): why there was nothing to sum}, after the last step."""
        empty = [pair for pair, size in self.sizes.items() if size == 0 and pair not in self._untold]
        return self._untold | dict.fromkeys(empty, f"since there are no {VOXELS[self.voxels]}")


def gradients(y: Tensor, maps: Sequence[Tensor]) -> list[Tensor | None]:
    """Of y with respect to each map; None where y does not depend on it."""
    if not y.requires_grad:
        return [None] * len(maps)
    return list(torch.autograd.grad(y, maps, retain_graph=True, allow_unused=True))


@contextmanager
def with_graph(method: Method) -> Iterator[None]:
    """Lets every weight take part in the graph, so that one starts even in a method that is frozen; each back as it was."""
    frozen = [parameter for parameter in method.parameters() if not parameter.requires_grad]
    for parameter in frozen:
        parameter.requires_grad_(True)
    try:
        with torch.enable_grad():
            yield
    finally:
        for parameter in frozen:
            parameter.requires_grad_(False)
