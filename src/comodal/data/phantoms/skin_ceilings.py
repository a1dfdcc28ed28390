"""How well any method can do on the skin phantom, from each subset of its modalities: the posterior of the best observer.

The observer reads every sign of `skin_model` without error. From pixels that is possible only nearly, so that what involves a
photograph is an upper bound of what any method reaches; metadata is read exactly, and its ceiling is an estimate only because
the mean over lesions is drawn. Draws are the same for every configuration: no ceiling depends on the cases that were written.

Axis letters: N lesions, K classes.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

from comodal.data.phantoms.ceilings import Ceiling
from comodal.data.phantoms.skin_model import CRITERIA, MODALITIES, Lesions, draw_lesions, posteriors
from comodal.modality import subsets

if TYPE_CHECKING:
    from comodal.data.phantoms.skin import SkinPhantom

DRAWS, BATCHES = 60_000, 30
Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Score = Callable[[Floats, Ints], float]


def skin_ceilings(config: SkinPhantom) -> list[Ceiling]:
    """The ceilings of the skin phantom.

    Args:
        config: Of the phantom; nothing in it changes what the photographs show.

    Returns:
        For each subset: balanced accuracy and AUROC (one class against the rest, plain mean) of the diagnosis, and balanced
        accuracy of each criterion.
    """
    del config
    return list(_ceilings(DRAWS))


@functools.cache
def _ceilings(draws: int) -> tuple[Ceiling, ...]:
    lesions = draw_lesions(np.random.default_rng(20190307), draws)
    found = []
    for subset in subsets(MODALITIES):
        known = posteriors(lesions, subset)
        for target in ("diagnosis", *(criterion.name for criterion in CRITERIA)):
            scores: dict[str, Score] = {"balanced_accuracy": best_balanced_accuracy}
            if target == "diagnosis":
                scores["AUROC"] = macro_auroc
            for metric, score in scores.items():
                found.append(_ceiling(target, metric, subset, score=score, p=known[target], truth=truth_of(lesions, target)))
    return tuple(found)


def truth_of(lesions: Lesions, target: str) -> Ints:
    """(N,) class numbers of "diagnosis" or of a factor."""
    return lesions.diagnosis if target == "diagnosis" else lesions.values[target]


def _ceiling(target: str, metric: str, subset: tuple[str, ...], *, score: Score, p: Floats, truth: Ints) -> Ceiling:
    """The score over all draws, with an interval from batches of them."""
    parts = [score(a, b) for a, b in zip(np.array_split(p, BATCHES), np.array_split(truth, BATCHES), strict=True)]
    value, half = score(p, truth), 1.96 * float(np.std(parts, ddof=1)) / np.sqrt(BATCHES)
    photographs = [name for name in subset if name != "metadata"]
    reads = f"every sign in {' and '.join(photographs)} without error" if photographs else ""
    reads = " and ".join([*([reads] if reads else []), *(["metadata"] if "metadata" in subset else [])])
    how = f"knows the generative model and reads {reads}; mean over {len(truth)} drawn lesions"
    kind: Literal["estimate", "upper bound"] = "upper bound" if photographs else "estimate"
    interval = (float(value - half), float(value + half))
    return Ceiling(target, f"{metric}/{target}", subset, value, kind, how, ci95=interval, n=len(truth))


def best_balanced_accuracy(p: Floats, truth: Ints) -> float:
    """Balanced accuracy of the rule that maximises it: the class k with the largest p_k / P(k).

    Args:
        p: (N, K) posterior probabilities under the true model.
        truth: (N,) class numbers, of which each occurs.
    """
    answers = (p / p.mean(axis=0)).argmax(axis=1)
    return float(np.mean([(answers[truth == k] == k).mean() for k in range(p.shape[1])]))


def macro_auroc(p: Floats, truth: Ints) -> float:
    """Mean over the classes of the AUROC of each against the rest, which its posterior probability maximises.

    Args:
        p: (N, K) posterior probabilities under the true model.
        truth: (N,) class numbers, of which each occurs.
    """
    from scipy.stats import rankdata

    areas = []
    for k in range(p.shape[1]):
        right = truth == k
        n, ranks = int(right.sum()), rankdata(p[:, k])  # a tie counts half
        areas.append((ranks[right].sum() - n * (n + 1) / 2) / (n * (len(truth) - n)))
    return float(np.mean(areas))
