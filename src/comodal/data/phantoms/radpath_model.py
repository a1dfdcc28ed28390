"""What the radpath phantom is made of: a diagnosis, a process that both specialities see, and signs that one of them sees.

1. D, the diagnosis: G, O, A with the shares of CPM-RadPath 2020 (133, 34, 54 of 221).
2. P, whether the tumour proliferates, given D: the cause that radiology and pathology share. Contrast enhancement in T1ce,
   cell density and new vessels under the microscope all follow it.
3. Signs s = clip(mean given D or P + sd * standard normal, 0, 1), each on its own. Oedema shows in FLAIR and T2 with
   one value; the dark core of FLAIR (mismatch) and calcification are seen in MRI alone; halos and pleomorphism under the
   microscope alone.

Images depend on D and P through these signs only (`radpath.py`, `radpath_tiles.py`), so that the posterior given all signs of a
subset is that of the best possible observer. The numbers were chosen by hand; they are no statistics of patients.

Axis letters: N cases, D diagnoses, J signs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from scipy.stats import norm

from comodal.data.phantoms.ceilings import Ceiling
from comodal.data.phantoms.skin_ceilings import best_balanced_accuracy, macro_auroc
from comodal.modality import subsets

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
MODALITIES = ("t1", "t1ce", "t2", "flair", "pathology")
DIAGNOSES = ("G", "O", "A")
PRIOR = np.array([133, 34, 54]) / 221
PROLIFERATES = np.array([0.9, 0.35, 0.3])
DRAWS, BATCHES = 20_000, 20


@dataclass(frozen=True)
class Sign:
    """Something that is seen, in [0, 1].

    Attributes:
        seen_in: Modalities that show it, with one value.
        means: Given G, O, A; or, of two numbers, given that the tumour does not and that it does proliferate.
        sd: Before it is clipped.
    """

    seen_in: tuple[str, ...]
    means: tuple[float, ...]
    sd: float

    @property
    def of_process(self) -> bool:
        """True where it follows P, False where it follows D."""
        return len(self.means) == len((False, True))


# The order is part of the format: each sign has its own place in the stream of random numbers.
SIGNS: dict[str, Sign] = {
    "enhancement": Sign(("t1ce",), (0.2, 0.65), 0.16),
    "oedema": Sign(("t2", "flair"), (0.65, 0.4, 0.35), 0.2),
    "mismatch": Sign(("flair",), (0.25, 0.25, 0.6), 0.18),
    "calcification": Sign(("t1",), (0.25, 0.55, 0.25), 0.2),
    "density": Sign(("pathology",), (0.3, 0.6), 0.14),
    "vessels": Sign(("pathology",), (0.2, 0.6), 0.18),
    "halos": Sign(("pathology",), (0.25, 0.6, 0.3), 0.16),
    "pleomorphism": Sign(("pathology",), (0.6, 0.3, 0.4), 0.18),
}


def draw(rng: np.random.Generator, count: int) -> tuple[Ints, NDArray[np.bool_], Floats]:
    """Diagnoses (N,), whether each proliferates (N,), and signs (N, J) in [0, 1].

    Args:
        rng: Where the numbers come from; a case takes ten of them.
        count: N.
    """
    uniform, normal = rng.random((count, 2)), rng.standard_normal((count, len(SIGNS)))
    diagnosis = np.minimum(np.searchsorted(np.cumsum(PRIOR), uniform[:, 0], side="right"), len(DIAGNOSES) - 1)
    active = uniform[:, 1] < PROLIFERATES[diagnosis]
    means = np.stack([np.array(s.means)[active.astype(int) if s.of_process else diagnosis] for s in SIGNS.values()], axis=1)
    sds = np.array([sign.sd for sign in SIGNS.values()])
    return diagnosis.astype(np.int64), active, np.clip(means + sds * normal, 0, 1)


def posterior(signs: Floats, subset: Sequence[str]) -> Floats:
    """P(D | the signs that a subset of the modalities shows), (N, D): the sum over P, exactly.

    Args:
        signs: (N, J).
        subset: Modalities.
    """
    log = np.zeros((len(signs), len(DIAGNOSES), 2))
    log += np.log(PRIOR)[:, None] + np.log(np.stack([1 - PROLIFERATES, PROLIFERATES], axis=1))
    for j, sign in enumerate(SIGNS.values()):
        if set(sign.seen_in) & set(subset):
            each = np.stack([_log_density(signs[:, j], mean, sign.sd) for mean in sign.means], axis=1)
            log += each[:, None, :] if sign.of_process else each[:, :, None]
    joint = np.exp(log - log.max(axis=(1, 2), keepdims=True)).sum(axis=2)
    rows: Floats = joint / joint.sum(axis=1, keepdims=True)
    return rows


def _log_density(s: Floats, mean: float, sd: float) -> Floats:
    """Of a clipped normal: a density inside, a probability at 0 and at 1."""
    inside = norm.logpdf(s, mean, sd)
    found: Floats = np.where(s <= 0, norm.logcdf(0, mean, sd), np.where(s >= 1, norm.logsf(1, mean, sd), inside))
    return found


def ceilings(_config: object = None) -> list[Ceiling]:
    """The best balanced accuracy and AUROC from each of the 31 subsets; they do not depend on the configuration."""
    return list(_ceilings())


@lru_cache(maxsize=1)
def _ceilings() -> tuple[Ceiling, ...]:
    diagnosis, _, signs = draw(np.random.default_rng([0, 22]), DRAWS)
    how = "sees every sign of the subset without error, and knows the generative model"
    found = []
    for metric, score in (("balanced_accuracy/diagnosis", best_balanced_accuracy), ("AUROC/diagnosis", macro_auroc)):
        for subset in subsets(MODALITIES):
            p = posterior(signs, subset)
            parts = [score(p[k::BATCHES], diagnosis[k::BATCHES]) for k in range(BATCHES)]
            value, half = score(p, diagnosis), 1.96 * float(np.std(parts, ddof=1)) / BATCHES**0.5
            interval = (max(value - half, 0.0), min(value + half, 1.0))
            found.append(Ceiling("diagnosis", metric, subset, value, "upper bound", how, ci95=interval, n=DRAWS))
    return tuple(found)
