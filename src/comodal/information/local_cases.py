"""Worked cases of local and global information, computed exactly: where the sum of local information bounds, and where not.

The theory is in `local_theory`; every number here comes from enumeration. Two regions, and fair binary
statuses (in two cases region 2 has a single status); in nats.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import ArrayLike

from comodal.information.discrete import Floats
from comodal.information.local_theory import LocalGlobal, RegionModel, SentenceMap, local_global

Row: TypeAlias = dict[str, str | float]

FAIR = (0.5, 0.5)
EQUAL = 1e-9  # two informations, in nats


def channel(value: int, error: float) -> Floats:
    """One bit through a binary symmetric channel.

    Args:
        value: The bit, 0 or 1.
        error: The probability that it is read as the other one.

    Returns:
        (2,) probabilities of what is read.

    >>> channel(1, 0.1)
    array([0.1, 0.9])
    """
    return np.array([1 - error, error] if value == 0 else [error, 1 - error])


def pair_of_statuses(correlation: float) -> Floats:
    """The joint pmf of two fair binary statuses.

    Args:
        correlation: Of the two, between -1 and 1.

    Returns:
        (2, 2) probabilities.

    >>> pair_of_statuses(1.0)
    array([[0.5, 0. ],
           [0. , 0.5]])
    """
    same, other = (1 + correlation) / 4, (1 - correlation) / 4
    return np.array([[same, other], [other, same]])


def two_regions(correlation: float, image_error: float = 0.0, text_error: float = 0.0) -> RegionModel:
    """Two fair binary statuses, each with a region and a sentence that show it with errors of their own.

    Args:
        correlation: Of the statuses.
        image_error: Probability that a region shows the other status.
        text_error: Probability that a sentence says the other status.

    Returns:
        The model.
    """
    return RegionModel(
        statuses=pair_of_statuses(correlation),
        region=lambda _, h, __: channel(h, image_error),
        sentence=lambda told, _: channel(next(iter(told.values())), text_error),
        maps={(1, 2): 1.0},
        sentences=2,
    )


@dataclass(frozen=True, eq=False)
class Sweep:
    """Local and global information of `two_regions` over correlations, in nats; every field is a float array of one length.

    Attributes:
        correlation: Of the two statuses.
        total: The sum of local information.
        overall: Global information.
    """

    correlation: Floats
    total: Floats
    overall: Floats

    @property
    def excess(self) -> Floats:
        """The sum minus global: above 0, the sum of local information is no lower bound."""
        return self.total - self.overall


def sweep(correlations: ArrayLike, *, image_error: float = 0.1, text_error: float = 0.1) -> Sweep:
    """At which correlation of two statuses does the sum of local information exceed the global one?

    There is no threshold of correlation; there is one of noise. With contrasts a = 1 - 2 image_error, b = 1 - 2 text_error and
    A = E[E[H|z_n,s_n]^2] of one pair (statuses -1 and 1), the excess of a small correlation r is r^2 (a^4 + b^4 - A^2) / 2.
    With equal errors e it is positive below e = (1 - sqrt(sqrt(2) - 1)) / 2 = 0.178: the sum exceeds from the smallest r on.
    Above, it never does, not even for identical statuses; between 0.1375 and 0.178 it does for small correlations, but not for
    large ones (both found by computation on a grid, the former limit being where the excess of identical statuses is 0).

    Args:
        correlations: Any number of them, each between -1 and 1.
        image_error: Of each region.
        text_error: Of each sentence.

    Returns:
        The arrays.

    >>> sweep([0.0, 0.1, 1.0]).excess.round(4)
    array([0.    , 0.001 , 0.0538])
    """
    axis = np.atleast_1d(np.asarray(correlations, dtype=np.float64))
    found = [local_global(two_regions(float(r), image_error, text_error)) for r in axis]
    return Sweep(axis, np.array([each.total for each in found]), np.array([each.overall for each in found]))


@dataclass(frozen=True)
class Case:
    """A worked case.

    Attributes:
        name: A few words.
        about: A sentence: what it is and what it shows.
        exact: Its local and global information.
    """

    name: str
    about: str
    exact: LocalGlobal

    @property
    def verdict(self) -> str:
        """How the sum of local information stands to global information: "below", "equal" or "above"."""
        excess = self.exact.excess
        return "equal" if abs(excess) < EQUAL else "above" if excess > 0 else "below"


def _told(told: Mapping[int, int], _: int) -> int:
    """A sentence that says the status of its one region."""
    return next(iter(told.values()))


def _shown(_: int, h: int, __: int) -> int:
    """A region that shows its status."""
    return h


def _statuses() -> dict[str, tuple[RegionModel, str]]:
    """Cases that differ in statuses and errors: each region has its own sentence."""
    return {
        "independent statuses": (
            two_regions(0.0, 0.1, 0.1),
            "Independent statuses, errors of 10 %: the pairs are independent, and the sum is the global information.",
        ),
        "identical statuses": (
            two_regions(1.0),
            "Both regions show the same status without error: the sum counts it twice and is above the global information.",
        ),
        "correlated statuses": (
            two_regions(0.5),
            "Correlation 0.5, no error: features that tell the status make the sum an upper bound at any correlation.",
        ),
        "identical, errors of 10 %": (
            two_regions(1.0, 0.1, 0.1),
            "Identical statuses, few errors: the sum still counts them twice.",
        ),
        "identical, errors of 30 %": (
            two_regions(1.0, 0.3, 0.3),
            "Identical statuses, many errors: the regions correct each other, which no pair can, and the sum is below.",
        ),
    }


def _nuisances() -> dict[str, tuple[RegionModel, str]]:
    """Cases that differ in the nuisances."""
    one = RegionModel(
        statuses=np.array([[0.5], [0.5]]),
        region=lambda n, h, v: h ^ v if n == 1 else v,
        sentence=_told,
        maps={(1, None): 1.0},
        sentences=1,
        nuisance=np.outer(FAIR, [1.0]),
    )
    common = RegionModel(
        statuses=pair_of_statuses(0.0),
        region=lambda _, __, v: v,
        sentence=lambda _, w: w,
        maps={(1, 2): 1.0},
        sentences=2,
        nuisance=np.diag(FAIR),
    )
    return {
        "hidden by a shared nuisance": (
            one,
            "z1 = h1 xor v, z2 = v: no region tells anything, both together tell all. The bound holds, and is 0.",
        ),
        "nuisance common to image and text": (
            common,
            "Image and text share a nuisance and show no status: all local information is about the nuisance, none about H.",
        ),
    }


def _described() -> dict[str, tuple[RegionModel, str]]:
    """Cases in which regions and sentences are not one to one."""
    fair = pair_of_statuses(0.0)
    both: dict[SentenceMap, float] = {(1, 1): 1.0}
    finding = RegionModel(statuses=fair, region=_shown, sentence=lambda told, _: max(told.values()), maps=both, sentences=1)
    differ = RegionModel(statuses=fair, region=_shown, sentence=lambda told, _: sum(told.values()) % 2, maps=both, sentences=1)
    spare = RegionModel(
        statuses=fair,
        region=_shown,
        sentence=lambda told, w: next(iter(told.values()), w),
        maps={(1, None): 1.0},
        sentences=2,
        nuisance=np.outer([1.0], FAIR),
    )
    return {
        "one sentence for two regions": (finding, "The sentence says whether either region is abnormal: the sum is below."),
        "a sentence that compares": (differ, "The sentence says whether the regions differ: no single region tells anything."),
        "a region and a sentence alone": (
            spare,
            "Region 2 has no sentence and sentence 2 no region: both add nothing, and the sum is the global information.",
        ),
    }


def _orders() -> dict[str, tuple[RegionModel, str]]:
    """Cases in which the order of the sentences is a fair coin; independent statuses, shown without error."""
    order: dict[SentenceMap, float] = {(1, 2): 0.5, (2, 1): 0.5}
    fair = pair_of_statuses(0.0)
    unnamed = RegionModel(statuses=fair, region=_shown, sentence=_told, maps=order, sentences=2)
    named = RegionModel(
        statuses=fair,
        region=_shown,
        sentence=lambda told, _: sum(2 * (n - 1) + h for n, h in told.items()),
        maps=order,
        sentences=2,
        sentence_values=4,
    )
    single = RegionModel(
        statuses=np.array([[0.5], [0.5]]),
        region=_shown,
        sentence=lambda told, _: told.get(1, FAIR),
        maps=order,
        sentences=2,
    )
    return {
        "random order": (
            unnamed,
            "Which sentence belongs to which region is lost to the global critic, but not to the pairs: the sum is above.",
        ),
        "random order, regions named": (
            named,
            "Each sentence names its region, so that nothing is lost: the sum is the global information again.",
        ),
        "random order, one sentence empty": (
            single,
            "Sentence 2 is noise: even the largest local term, of the known pair, is above global information without the map.",
        ),
    }


def cases() -> tuple[Case, ...]:
    """The worked cases.

    Returns:
        Each with its name, a sentence and the exact quantities.

    >>> {case.name: case.verdict for case in cases()}["identical statuses"]
    'above'
    """
    models = _statuses() | _nuisances() | _described() | _orders()
    return tuple(Case(name, about, local_global(model)) for name, (model, about) in models.items())


def theory_table() -> list[Row]:
    """The worked cases as rows of a table, in nats.

    Returns:
        For each case its texts, the sum, mean and maximum over regions of I(z_n; s_f(n) | M), the global I(z; s), that with
        the map known, the sum over sentences of the maximum over regions (selected once for all images; for each image, as
        Equation (5) of Liao et al. (2021) does), and how the sum over regions stands to I(z; s).

    >>> theory_table()[1]["sum"] > theory_table()[1]["global"]
    True
    """
    return [
        {
            "case": case.name,
            "about": case.about,
            "sum": case.exact.total,
            "mean": case.exact.mean,
            "maximum": case.exact.largest,
            "global": case.exact.overall,
            "global, map known": case.exact.paired,
            "selected": case.exact.selected,
            "selected per image": case.exact.pointwise,
            "the sum is": case.verdict,
        }
        for case in cases()
    ]


def chain_table() -> list[Row]:
    """Equations (6) and (7) of Liao et al. (2021) in the worked cases, in nats.

    Returns:
        For each case and region n: I(z; H_n), I(z_n; H_n), I(z_rest; H_n | z_n), that last term as printed, and the local
        information of the region.
    """
    return [
        {
            "case": case.name,
            "region": float(n),
            "I(z; H_n)": chain.whole,
            "I(z_n; H_n)": chain.own,
            "I(z_rest; H_n | z_n)": chain.rest,
            "I(z_rest; H_n | z)": chain.printed,
            "I(z_n; s_f(n) | M)": local,
        }
        for case in cases()
        for n, (chain, local) in enumerate(zip(case.exact.chain, case.exact.local, strict=True), 1)
    ]
