"""What each number of `bounds` is: a lower bound, an upper bound, an estimate, or not in nats; its ceiling and its bias."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from comodal.errors import ConfigError, message, nearest
from comodal.information import bounds

Kind = Literal["lower bound", "upper bound", "estimate", "not in nats"]


@dataclass(frozen=True)
class Estimator:
    """A number about information, and what may be said of it.

    Attributes:
        name: Key of ESTIMATORS.
        label: For tables.
        kind: What the expected value is, whatever the critic ("upper bound": where the conditional density is right).
        bias: In which direction the number errs, and why.
        source: Whose it is.
        function: (joint, marginal, negative) to a scalar; `bounds.mine` also returns its moving average.
        limited: Whether it cannot exceed log K, K candidates per row.
        scores: What the scores are: a critic's, or log densities of y given x.
    """

    name: str
    label: str
    kind: Kind
    bias: str
    source: str
    function: Callable[..., Tensor] | Callable[..., tuple[Tensor, Tensor]]
    limited: bool = False
    scores: Literal["critic", "log density"] = "critic"

    def ceiling(self, candidates: int) -> float | None:
        """The most that it can read with so many candidates per row, the true one among them; None: no limit.

        >>> round(ESTIMATORS["info_nce"].ceiling(64), 3), ESTIMATORS["nwj"].ceiling(64)
        (4.159, None)
        """
        if self.kind == "not in nats":
            return 0.0
        return math.log(candidates) if self.limited else None

    def __str__(self) -> str:
        limit = "; at most log K" if self.limited else "; in [-2 log 2, 0]" if self.kind == "not in nats" else ""
        return f"{self.label}: {self.kind}{limit}. {self.bias[0].upper()}{self.bias[1:]}. {self.source}."


_IMPERFECT = "an imperfect critic reads too low"

# Literal, in the order of tables.
ESTIMATORS: dict[str, Estimator] = {
    "dv": Estimator(
        name="dv",
        label="Donsker-Varadhan",
        kind="lower bound",
        bias=f"down: {_IMPERFECT}; a small batch reads too high (the log of a sample mean)",
        source="Donsker and Varadhan (1983)",
        function=bounds.donsker_varadhan,
    ),
    "mine": Estimator(
        name="mine",
        label="MINE",
        kind="lower bound",
        bias=f"down: {_IMPERFECT}; a small batch reads too high; its gradient is corrected by a moving average",
        source="Belghazi et al. (2018)",
        function=bounds.mine,
    ),
    "nwj": Estimator(
        name="nwj",
        label="NWJ",
        kind="lower bound",
        bias=f"down: {_IMPERFECT}; unbiased for a fixed critic, with a spread that grows like e^I",
        source="Nguyen, Wainwright and Jordan (2010)",
        function=bounds.nwj,
    ),
    "info_nce": Estimator(
        name="info_nce",
        label="InfoNCE",
        kind="lower bound",
        bias=f"down: {_IMPERFECT}, and every critic does near log K",
        source="van den Oord et al. (2018)",
        function=bounds.info_nce,
        limited=True,
    ),
    "smile": Estimator(
        name="smile",
        label="SMILE",
        kind="estimate",
        bias="either way: up where scores exceed the clip, down with an imperfect critic",
        source="Song and Ermon (2020)",
        function=bounds.smile,
    ),
    "demi": Estimator(
        name="demi",
        label="DEMI",
        kind="estimate",
        bias="either way: the error of the logit itself; up on pairs that it was trained with",
        source="Liao et al. (2020)",
        function=bounds.demi,
    ),
    "jsd": Estimator(
        name="jsd",
        label="Jensen-Shannon",
        kind="not in nats",
        bias=f"down: {_IMPERFECT}; 2 JSD - 2 log 2, which rises with information but does not measure it",
        source="Hjelm et al. (2019)",
        function=bounds.jensen_shannon,
    ),
    "club": Estimator(
        name="club",
        label="CLUB",
        kind="upper bound",
        bias="up, far where information is high; a bound only as far as q(y | x) is right",
        source="Cheng et al. (2020)",
        function=bounds.club,
        scores="log density",
    ),
    "leave_one_out": Estimator(
        name="leave_one_out",
        label="Leave-one-out",
        kind="upper bound",
        bias="up, less with more candidates; a bound only as far as q(y | x) is right",
        source="Poole et al. (2019)",
        function=bounds.leave_one_out,
        scores="log density",
    ),
}


def estimator(name: str) -> Estimator:
    """The estimator of this name; an unknown one is refused with the nearest known ones."""
    if name not in ESTIMATORS:
        raise ConfigError(message("bound", "be a known estimator", repr(name), do=nearest(name, ESTIMATORS)))
    return ESTIMATORS[name]


@dataclass(frozen=True)
class Estimate:
    """One number about information, with all that a reader needs to trust it.

    Attributes:
        name, kind, bias: See `Estimator`.
        value: In nats, except for the kind "not in nats".
        ci95: Interval; None where there is too little for one.
        ceiling: The most that it could have read; None: no limit.
        n: Pairs that it rests on.
    """

    name: str
    kind: Kind
    value: float
    ci95: tuple[float, float] | None
    ceiling: float | None
    bias: str
    n: int

    def __str__(self) -> str:
        interval = f" [{self.ci95[0]:.3f}, {self.ci95[1]:.3f}]" if self.ci95 else ""
        unit = "" if self.kind == "not in nats" else " nats"
        limit = f", at most {self.ceiling:.3f}" if self.ceiling is not None else ""
        return f"{estimator(self.name).label} {self.value:.3f}{interval}{unit} ({self.kind}{limit}; n {self.n})"
