"""What local information says about global information: Section 3 of Liao et al. (2021), made small enough to enumerate.

Region n = 1..N has a hidden status H_n, an image feature z_n made from H_n and a nuisance V^I, and a sentence s_f(n) made from
H_n and a nuisance V^R; f is drawn from a map M. "Local" is I(z_n; s_f(n) | M), the information of a pair; "global" is I(z; s).
V^I, V^R and M are taken to be independent of all statuses together (the paper says: of H_n).

What holds, and on what condition (each is tested by enumeration of random models):

1. Equation (6) of Liao et al. (2021) must read I(z; H_n) = I(z_n; H_n) + I(z_rest; H_n | z_n). As printed it conditions on all
   of z, of which z_rest is a part, so that its last term is always 0: a misprint.
2. Equation (7), I(z; H_n) >= I(z_n; H_n), always; with equality exactly if z_rest is independent of H_n given z_n.
3. I(z_n; s_f(n) | M) <= I(z; s | M) for every n, so that their mean and maximum are lower bounds (data processing). I(z; s)
   itself may be smaller: where the order of the sentences is lost, one known pair can hold more than all without order.
4. The *sum* over regions is a lower bound if z_1..z_N are mutually independent and f is known. Proof: by the chain rule
   I(z; s) = sum_n I(z_n; s | z_1..z_n-1) = sum_n I(z_n; s, z_1..z_n-1), the second step since z_n is independent of z_1..z_n-1;
   each term is at least I(z_n; s), which is at least I(z_n; s_f(n)), since dropping variables loses information.
   Likewise, with the sides exchanged, sum_m max_n I(z_n; s_m) is one if s_1..s_M are mutually independent.
5. Without that the sum is no bound. The abstract's "typically a lower bound" fits noisy features: of 400 random models with
   dependent statuses and kernels spread out (Dirichlet 2) it held in all. It fails where features show dependent statuses
   well: with sharp kernels (Dirichlet 0.1) in 1 of 3, in 1 of 30 if regions, and sentences, also shared a nuisance.
   For a one-to-one map, sum - global = TC(z) + TC(s) - TC(pairs), with TC(x) = sum_n H(x_n) - H(x), pairs (z_n, s_f(n)). If
   z_n tells H_n without error and sentences have noise of their own, then p(s|z) = prod_n p(s_f(n)|z_n), and the sum is an
   *upper* bound.
6. For a one-to-one map, sum and global are equal if the pairs (z_n, s_f(n)) are mutually independent. That is one reading of
   "equivalent under a Markov condition" (conclusion); the paper does not state its condition.
7. I(z_n; s_f(n) | M) <= I(z_n; H_n) if V^I is independent of (H, V^R, M), for then z_n - H_n - s is a Markov chain. The paper's
   "H_n is the only source of information shared by" both needs it; a nuisance common to image and text breaks it.
8. Equation (5) selects the region for each image j, so the maximum stands inside the expectation. E[max_n i(z_n; s_m)] with the
   pointwise information i drops what speaks against the pair, so it can be above I(z; s) even where 4. and 6. hold.

A lower bound may also be useless: where a shared nuisance hides each status in its own region, all local information is 0. The
worked cases are in `local_cases`.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import ArrayLike

from comodal.errors import ConfigError, message
from comodal.information.discrete import Floats, Joint, probabilities

SentenceMap: TypeAlias = tuple[int | None, ...]  # f(1) ... f(N); None: no sentence describes the region
RegionKernel: TypeAlias = Callable[[int, int, int], ArrayLike]
SentenceKernel: TypeAlias = Callable[[Mapping[int, int], int], ArrayLike]

MOST_CELLS = 2**20  # of a table: beyond, enumeration is the wrong tool


def _pmf(owner: str, emitted: ArrayLike, values: int) -> Floats:
    """(values,) what a kernel emits: a value becomes certain, probabilities stay."""
    if isinstance(emitted, (int, np.integer)) and 0 <= emitted < values:
        return probabilities(owner, np.arange(values) == emitted)
    if np.shape(emitted) != (values,):
        rule = f"give a value below {values}, or {values} probabilities"
        raise ConfigError(message(owner, rule, repr(emitted), do="Check the kernel and the number of values"))
    return probabilities(owner, emitted)


def _outer(factors: list[Floats]) -> Floats:
    """The flat outer product of some pmfs."""
    return functools.reduce(lambda product, factor: np.outer(product, factor).ravel(), factors)


@dataclass(frozen=True, eq=False, kw_only=True)
class RegionModel:
    """The generative model of Figure 3 of Liao et al. (2021) with finitely many values. Regions and sentences count from 1.

    A kernel returns a value (deterministic) or the probabilities of all values. The nuisance of one region or sentence alone is
    the randomness of its kernel; only a nuisance that several of them share has to be named.

    Attributes:
        statuses: p(h_1, ..., h_N), one axis per region.
        region: (n, h_n, v) -> z_n; n is given, since regions may look different.
        sentence: ({n: h_n} of the regions that it describes, w) -> s_m; with none it must still say something.
        maps: {(f(1), ..., f(N)): probability}; several regions may share a sentence, None is no sentence.
        sentences: How many there are.
        nuisance: (V, W) p(v, w) of the shared nuisances V^I and V^R; their independence is an outer product.
        region_values: Number of values of each z_n.
        sentence_values: Number of values of each s_m.

    Raises:
        ConfigError: A map does not fit, or the table would have more than MOST_CELLS cells.
        DataError: One of the tables is not one of probabilities.
    """

    statuses: ArrayLike
    region: RegionKernel
    sentence: SentenceKernel
    maps: Mapping[SentenceMap, float]
    sentences: int
    nuisance: ArrayLike = ((1.0,),)
    region_values: int = 2
    sentence_values: int = 2

    def __post_init__(self) -> None:
        shape = probabilities("RegionModel.statuses", self.statuses).shape
        if np.ndim(self.nuisance) != 2:
            got = np.shape(self.nuisance)
            raise ConfigError(message("RegionModel.nuisance", "have shape (V, W)", got, do="Use np.outer(p_v, p_w)"))
        for f in self.maps:
            if len(f) != len(shape) or not all(m is None or 1 <= m <= self.sentences for m in f):
                rule = f"give each of {len(shape)} regions a sentence of 1..{self.sentences}, or None"
                raise ConfigError(message("RegionModel.maps", rule, f, do="Count from 1"))
        parts = (*shape, self.region_values ** len(shape), self.sentence_values**self.sentences, len(self.maps))
        if math.prod(parts) > MOST_CELLS:
            rule = f"need a table of at most {MOST_CELLS} cells"
            raise ConfigError(message("RegionModel", rule, math.prod(parts), do="Take fewer regions or values"))

    @property
    def regions(self) -> int:
        """N."""
        return np.ndim(self.statuses)

    def joint(self) -> Joint:
        """Enumerates the model.

        Returns:
            The joint distribution of h1..hN, z1..zN, s1..sM and "map", the number of the map in the order of `maps`.
        """
        statuses = probabilities("RegionModel.statuses", self.statuses)
        nuisance = probabilities("RegionModel.nuisance", self.nuisance)
        weights = probabilities("RegionModel.maps", list(self.maps.values()))
        seen, said = (self.region_values,) * self.regions, (self.sentence_values,) * self.sentences
        table = np.zeros((*statuses.shape, *seen, *said, len(weights)))
        for h in np.ndindex(statuses.shape):
            images = np.stack([self._image(h, v) for v in range(nuisance.shape[0])])  # (V, all values of z)
            for number, f in enumerate(self.maps):
                texts = np.stack([self._text(h, f, w) for w in range(nuisance.shape[1])])  # (W, all values of s)
                cells = images.T @ nuisance @ texts
                table[(*h, ..., number)] = statuses[h] * weights[number] * cells.reshape(*seen, *said)
        counts = (("h", self.regions), ("z", self.regions), ("s", self.sentences))
        return Joint((*(f"{letter}{i}" for letter, most in counts for i in range(1, most + 1)), "map"), table)

    def _image(self, h: tuple[int, ...], v: int) -> Floats:
        """p(z | h, v), flat."""
        return _outer([_pmf("RegionModel.region", self.region(n, k, v), self.region_values) for n, k in enumerate(h, 1)])

    def _text(self, h: tuple[int, ...], f: SentenceMap, w: int) -> Floats:
        """p(s | h, f, w), flat."""
        told = [{n: h[n - 1] for n, to in enumerate(f, 1) if to == m} for m in range(1, self.sentences + 1)]
        return _outer([_pmf("RegionModel.sentence", self.sentence(some, w), self.sentence_values) for some in told])


@dataclass(frozen=True)
class ChainRule:
    """Both sides of Equations (6) and (7) of Liao et al. (2021) for one region, in nats.

    Attributes:
        whole: I(z; H_n), the left side.
        own: I(z_n; H_n), the lower bound of Equation (7).
        rest: I(z_rest; H_n | z_n), the last term of Equation (6) as it must read.
        printed: I(z_rest; H_n | z), the last term as printed; always 0.
    """

    whole: float
    own: float
    rest: float
    printed: float


@dataclass(frozen=True)
class LocalGlobal:
    """The exact local and global information of a model, in nats.

    Attributes:
        local: I(z_n; s_f(n) | M) of each region: of the pairs that belong together; 0 for a region without a sentence.
        overall: I(z; s), global, as a critic of whole image and whole text can see it: the map is not known.
        paired: I(z; s | M), global with the map known; paired - overall = I(z; M | s) is the information of the pairing.
        positions: I(z_n; s_m), [n][m], of a region and the m-th sentence, to whichever region that belongs.
        pointwise: E[sum_m max_n i(z_n; s_m)], i = log p(z_n,s_m) / (p(z_n) p(s_m)): what Equation (5) of Liao et al. (2021)
            adds up with the best critic of each n and m, selecting a region for each image. No bound; at least `selected`.
        chain: Equations (6) and (7) of each region.
    """

    local: tuple[float, ...]
    overall: float
    paired: float
    positions: tuple[tuple[float, ...], ...]
    pointwise: float
    chain: tuple[ChainRule, ...]

    @property
    def total(self) -> float:
        """The sum over regions of the local information, of which the abstract speaks."""
        return sum(self.local)

    @property
    def largest(self) -> float:
        """The maximum over regions of the local information."""
        return max(self.local)

    @property
    def mean(self) -> float:
        """The mean over regions of the local information."""
        return self.total / len(self.local)

    @property
    def excess(self) -> float:
        """Sum of local minus global information: above 0, the sum is no lower bound."""
        return self.total - self.overall

    @property
    def selected(self) -> float:
        """Sum over sentences m of max_n I(z_n; s_m): Equation (5), were one region selected for all images."""
        return sum(max(region[m] for region in self.positions) for m in range(len(self.positions[0])))


def _local(joint: Joint, maps: Mapping[SentenceMap, float], n: int) -> float:
    """I(z_n; s_f(n) | M) as the mean over maps."""
    total, weights = 0.0, joint.marginal("map").table
    for number, f in enumerate(maps):
        if f[n - 1] is not None and weights[number] > 0:
            known = Joint(joint.names[:-1], joint.table[..., number] / joint.table[..., number].sum())
            total += float(weights[number]) * known.information(f"z{n}", f"s{f[n - 1]}")
    return total


def _pointwise(joint: Joint, z: list[str], s: list[str]) -> float:
    """E[sum_m max_n i(z_n; s_m)]."""
    total = 0.0
    for sentence in s:
        p = joint.marginal((*z, sentence)).table
        best = np.full_like(p, -np.inf)
        for n, region in enumerate(z):
            ratio = joint.log_ratio(region, sentence)
            axes = [i for i in range(len(z)) if i != n]
            best = np.fmax(best, np.expand_dims(ratio, axes))  # NaN, where a value never occurs, does not win
        total += float((p[p > 0] * best[p > 0]).sum())
    return total


def local_global(model: RegionModel) -> LocalGlobal:
    """Local and global information of a model, exactly.

    Args:
        model: The model.

    Returns:
        All quantities in nats.
    """
    joint, numbers = model.joint(), range(1, model.regions + 1)
    z, s = [f"z{n}" for n in numbers], [f"s{m}" for m in range(1, model.sentences + 1)]
    chain = []
    for n in numbers:
        h, own, rest = f"h{n}", f"z{n}", [name for name in z if name != f"z{n}"]
        terms = [(z, ()), (own, ()), (rest, own), (rest, z)]
        chain.append(ChainRule(*(joint.information(part, h, given) for part, given in terms)))
    return LocalGlobal(
        local=tuple(_local(joint, model.maps, n) for n in numbers),
        overall=joint.information(z, s),
        paired=joint.information(z, s, "map"),
        positions=tuple(tuple(joint.information(region, sentence) for sentence in s) for region in z),
        pointwise=_pointwise(joint, z, s),
        chain=tuple(chain),
    )
