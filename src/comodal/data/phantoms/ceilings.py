"""`Ceiling`: the best score that any method can reach on a phantom from a subset of its modalities.

It is computed or bounded from the generative model, which knows every hidden cause, and stands beside the cohort, so that a
method is measured against what is there and not against another method alone.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from comodal.data.atomic import replacing
from comodal.modality import subset_name

FILE = "ceilings.json"


@dataclass(frozen=True)
class Ceiling:
    """One score of one subset.

    Attributes:
        target: Column of the cohort.
        metric: As in the results ("AUROC/effusion", "balanced accuracy/diagnosis", "DSC/lesion").
        present: The modalities of the subset, in the cohort's order.
        value: In the unit of the metric.
        kind: "exact" (closed form), "estimate" (Monte Carlo from the generative model: it has an interval), "upper bound" (no
            method can do better, but perhaps none reaches it).
        how: One sentence: what the best method knows and does.
        ci95: Interval of an estimate.
        n: Draws of an estimate.
    """

    target: str
    metric: str
    present: tuple[str, ...]
    value: float
    kind: Literal["exact", "estimate", "upper bound"]
    how: str
    ci95: tuple[float, float] | None = None
    n: int | None = None

    @property
    def subset(self) -> str:
        """The subset as one word."""
        return subset_name(self.present)


def write_ceilings(ceilings: Sequence[Ceiling], folder: Path) -> Path:
    """Writes `ceilings.json` into a folder, beside the cohort.

    Args:
        ceilings: Of a phantom.
        folder: That of the cohort.csv.
    """
    path = folder / FILE
    with replacing(path) as file:
        file.write((json.dumps([asdict(one) for one in ceilings], indent=1) + "\n").encode())
    return path
