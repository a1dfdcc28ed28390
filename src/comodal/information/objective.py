"""A critic and a bound as one module: what a method maximises."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from comodal.errors import ConfigError, message
from comodal.information import bounds
from comodal.information.critics import Critic
from comodal.information.estimators import Estimator, estimator
from comodal.information.pairs import Negatives, Scores, contrast


class Objective(nn.Module):
    """The value that a critic and two encoders maximise together; a method's loss is its negative.

    Args:
        critic: Scores pairs.
        bound: Key of ESTIMATORS whose scores are a critic's: "dv", "mine", "nwj", "info_nce", "smile", "demi", "jsd".
        symmetric: Take the mean of the value seen from x and from y; differs for "info_nce" only.
        negatives: See `contrast`.
        rate: Weight of a batch in MINE's moving average.
        clip: SMILE's, in nats.

    Raises:
        ConfigError: Unknown bound, or one that needs densities instead of a critic.
    """

    log_average: Tensor

    def __init__(
        self,
        critic: Critic,
        *,
        bound: str = "dv",
        symmetric: bool = False,
        negatives: Negatives = "all",
        rate: float = 0.01,
        clip: float = 5.0,
    ) -> None:
        super().__init__()
        self.estimator: Estimator = estimator(bound)
        if self.estimator.scores != "critic":
            rule = "be a value of a critic's scores"
            raise ConfigError(message("bound", rule, repr(bound), do="Use ConditionalGaussian for upper bounds"))
        if not 0 < rate <= 1:
            raise ConfigError(message("Objective.rate", "lie in (0, 1]", rate, do="Use 0.01"))
        if symmetric and negatives != "all":
            do = "Use negatives='all', or leave out `symmetric`"
            raise ConfigError(message("Objective.symmetric", "go with all pairs", f"negatives={negatives!r}", do=do))
        self.critic, self.symmetric, self.negatives, self.rate, self.clip = critic, symmetric, negatives, rate, clip
        # MINE's moving average, in logarithms; NaN until the first batch. Saved with the weights, for resuming.
        if self.estimator.name == "mine":
            self.register_buffer("log_average", torch.tensor(float("nan")))
        else:
            self.log_average = torch.tensor(float("nan"))

    def forward(
        self,
        x: Tensor,
        y: Tensor,
        *,
        groups: Sequence[Tensor] = (),
        aligned: bool = False,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """The value for a batch, to maximise; see `contrast` for the arguments.

        Args:
            x: (B, D) or (B, N, D).
            y: (B, D') or (B, M, D').
            groups: Groupings, each (B,).
            aligned: Position by position.
            generator: For random negatives.

        Returns:
            Scalar; under several processes that of the global batch, on every one of them.
        """
        scores = contrast(self.critic, x, y, groups=groups, aligned=aligned, negatives=self.negatives, generator=generator)
        return self.of(scores)

    def of(self, scores: Scores) -> Tensor:
        """The value of scores that were made elsewhere, by `maximum_over_regions` for instance."""
        value = self._one_way(scores)
        # The others do not know rows from columns.
        two_ways = self.symmetric and self.estimator.name == "info_nce"
        return (value + self._one_way(scores.columns())) / 2 if two_ways else value

    def _one_way(self, scores: Scores) -> Tensor:
        given = (scores.joint, scores.marginal, scores.negative)
        name = self.estimator.name
        if name == "mine":
            value, average = bounds.mine(*given, log_average=self.log_average, rate=self.rate)
            if self.training:
                self.log_average = average.to(self.log_average)
            return value
        more: dict[str, Any] = {"clip": self.clip} if name == "smile" else {}
        result = self.estimator.function(*given, **more)
        assert isinstance(result, Tensor)
        return result
