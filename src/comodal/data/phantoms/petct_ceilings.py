"""The best DSC that any method can reach on the PET/CT phantom, from each subset of its modalities.

The observer knows the generative model of `petct_scene` and, of each candidate that the present modalities show, the exact
boundary and the exact uptake and density, without noise. It does not know what these modalities do not show. By Bayes it has
the probability of every joint answer (negative control or not; which candidates are lesions; how many lesions are unseen, and
their volume), and it marks the set of whole candidates whose expected DSC is largest. To mark where nothing is seen pays only
where a voxel is a lesion's with a probability above half of the expected DSC, and nowhere is it. Real methods see noise and
blur instead, so that the value is an upper bound.

Its DSC of a case is that against the truth, with the convention "one-zero" of `comodal.evaluation.metrics`: both empty 1, one
empty 0. That of many cases is a Monte Carlo estimate of the bound.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np
from numpy.typing import NDArray

from comodal.data.phantoms.ceilings import Ceiling
from comodal.data.phantoms.petct import MODALITIES, PetctPhantom
from comodal.data.phantoms.petct_scene import (
    COUNTS,
    DENSITY,
    KINDS,
    LESIONS,
    LOG_UPTAKE,
    PRIORS,
    RADIUS,
    SHOWN,
    STRETCH,
    Candidate,
    Kind,
    Scene,
    draw_scene,
)
from comodal.modality import subsets

DRAWS = 2000  # cases
POOL = 40  # draws of the volume of unseen lesions, for each number of them
SEED = 20_240_601

Floats = NDArray[np.float64]
# {negative control: [weight of h unseen lesions for h = 0, 1, ...]}, joint with the number of seen candidates.
Unseen = dict[bool, list[float]]


def ceilings(config: PetctPhantom, *, draws: int = DRAWS) -> list[Ceiling]:
    """Upper bounds for "DSC/lesion" (autopet) or "DSC/GTVn" (hecktor), from {ct}, {pet} and {ct, pet}.

    They do not depend on the size, the seed or what is missing.

    Args:
        config: The phantom.
        draws: Cases of the Monte Carlo estimate.
    """
    rng = np.random.default_rng(SEED)
    scenes = [draw_scene(rng, config.release, negatives=config.negative_rate) for _ in range(draws)]
    pool = [unseen_volumes(config, count, rng) for count in range(max(COUNTS) + 1)]
    metric = "DSC/GTVn" if config.release == "hecktor" else "DSC/lesion"
    found = []
    for present in subsets(MODALITIES):
        observer = Observer(present, config.negative_rate, pool)
        scores = np.array([observer.score(scene) for scene in scenes])
        mean, half = float(scores.mean()), 1.96 * float(scores.std(ddof=1)) / math.sqrt(draws)
        how = (
            f"Bayes decision for whole candidates, given boundary and noise-free {' and '.join(_SEEN[m] for m in present)} of "
            f"those that show; both empty counts 1, one empty 0"
        )
        ci95 = (max(0.0, mean - half), min(1.0, mean + half))
        found.append(Ceiling("seg", metric, present, mean, "upper bound", how, ci95, draws))
    return found


_SEEN = {"ct": "density", "pet": "uptake"}


def unseen_volumes(config: PetctPhantom, count: int, rng: np.random.Generator) -> Floats:
    """Draws of the volume (ml) of `count` candidates together: (POOL,).

    Args:
        config: The phantom.
        count: How many.
        rng: Source of the draws.
    """
    radius = rng.uniform(*RADIUS[config.release], size=(POOL, count))
    stretch = rng.uniform(*STRETCH, size=(POOL, count, 3)).prod(axis=-1)
    return np.asarray((4e-3 / 3 * math.pi * radius**3 * stretch).sum(axis=1))


@dataclass(frozen=True)
class Observer:
    """The best observer of a subset of the modalities.

    Attributes:
        present: The modalities.
        negatives: Probability of a negative control.
        pool: Draws of the volume of h unseen lesions, for each h from 0.
    """

    present: tuple[str, ...]
    negatives: float
    pool: Sequence[Floats]

    def visible(self, kind: Kind) -> bool:
        """Whether a present modality shows this kind."""
        return any(kind in SHOWN[modality] for modality in self.present)

    def likelihood(self, candidate: Candidate, kind: Kind) -> float:
        """Density of what the present modalities show of a candidate, if it were of this kind: 0 where it would look else."""
        value = 1.0
        for modality in self.present:
            shown = candidate.kind in SHOWN[modality]
            if shown != (kind in SHOWN[modality]):
                return 0.0
            if shown and modality == "pet":
                assert candidate.uptake is not None
                value *= _density(math.log(candidate.uptake), LOG_UPTAKE[kind])
            elif shown:
                assert candidate.density is not None
                value *= _density(candidate.density, DENSITY[kind])
        return value

    def unseen(self, seen: int) -> Unseen:
        """Prior weight of h unseen lesions beside a number of seen candidates, for both answers to "negative control?"."""
        found: Unseen = {}
        for negative, prior in PRIORS.items():
            part = self.negatives if negative else 1 - self.negatives
            hidden = [p for p, kind in zip(prior, KINDS, strict=True) if not self.visible(kind)]
            lesion = sum(p for p, kind in zip(prior, KINDS, strict=True) if not self.visible(kind) and kind in LESIONS)
            weights = [0.0] * (max(COUNTS) + 1)
            for total in COUNTS:
                rest = total - seen
                for h in range(max(0, rest) + 1) if rest >= 0 else ():
                    other = sum(hidden) - lesion
                    ways = math.comb(total, seen) * math.comb(rest, h)
                    weights[h] += part / len(COUNTS) * ways * lesion**h * other ** (rest - h)
            found[negative] = weights
        return found

    def joint(self, seen: Sequence[Candidate]) -> tuple[Floats, NDArray[np.bool_]]:
        """Probability of every joint answer.

        Args:
            seen: The candidates that the present modalities show.

        Returns:
            (2 ** v, 6): of each choice of lesions among the seen ones, and number of unseen lesions; it sums to 1. And the
            choices, (2 ** v, v).
        """
        choices = np.array(list(product((False, True), repeat=len(seen))), dtype=bool).reshape(2 ** len(seen), len(seen))
        weights = np.zeros((len(choices), max(COUNTS) + 1))
        for negative, unseen in self.unseen(len(seen)).items():
            prior = dict(zip(KINDS, PRIORS[negative], strict=True))
            answers = np.ones(len(choices))
            for column, candidate in enumerate(seen):
                of = dict.fromkeys((False, True), 0.0)
                for kind in KINDS:
                    of[kind in LESIONS] += prior[kind] * self.likelihood(candidate, kind)
                answers *= np.where(choices[:, column], of[True], of[False])
            weights += answers[:, None] * np.array(unseen)
        return weights / weights.sum(), choices

    def decide(self, seen: Sequence[Candidate]) -> tuple[bool, ...]:
        """Which of the seen candidates the observer marks."""
        weights, choices = self.joint(seen)
        expected = self.expected(seen, weights, choices)
        return tuple(bool(mark) for mark in choices[int(expected.argmax())])

    def expected(self, seen: Sequence[Candidate], weights: Floats, choices: NDArray[np.bool_]) -> Floats:
        """Expected DSC of marking each choice: (2 ** v,).

        Args:
            seen: As in `joint`.
            weights: As from `joint`.
            choices: As from `joint`.
        """
        ml = np.array([candidate.ml for candidate in seen])
        marked = choices @ ml
        common = (choices[:, None, :] & choices[None, :, :]) @ ml  # marked x true
        total = np.zeros(len(choices))
        for h, volumes in enumerate(self.pool):
            if not weights[:, h].any():
                continue
            size = marked[:, None, None] + marked[None, :, None] + volumes
            with np.errstate(invalid="ignore"):
                dsc = np.where(size > 0, 2 * common[:, :, None] / size, 1.0).mean(axis=-1)
            total += dsc @ weights[:, h]
        return total

    def score(self, scene: Scene) -> float:
        """DSC of the observer's mark against the truth; both empty 1."""
        seen = [candidate for candidate in scene.candidates if self.visible(candidate.kind)]
        marks = self.decide(seen)
        marked = sum(candidate.ml for candidate, mark in zip(seen, marks, strict=True) if mark)
        right = sum(candidate.ml for candidate, mark in zip(seen, marks, strict=True) if mark and candidate.lesion)
        size = marked + scene.lesion_ml
        return 2 * right / size if size > 0 else 1.0


def _density(value: float, of: tuple[float, float]) -> float:
    mean, deviation = of
    return math.exp(-(((value - mean) / deviation) ** 2) / 2) / deviation
