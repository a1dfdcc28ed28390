"""Bringing one representation into the coordinates of another, without labels.

Mutual information does not know coordinates: it is the same after any invertible map of either side, so that a critic that
learns such a map (a perceptron on [x; y], x^T W y) is as content with a rotated, stretched or reflected image of y as with y
itself. A head that was trained on y reads coordinates. The critic here has no map to learn, its score is minus the squared
distance,

.. math:: f(x, y) = -|x - y|^2 / (t s), t learned, s the total variance of y,

whose InfoNCE is best where the softmax over candidates y is their posterior given x. Where y given the source of x is about
normal with an equal spread in all directions, and candidates lie wide of it, that is x = E[y | source], in y's own coordinates:
what a linear head on y should read where y is not there. Where x tells little of y, the optimum lies beyond the mean, on the
same side: the order of cases holds, probabilities become bolder.

Axis letters: A items x, C items y, D features, R rows.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from comodal.information.critics import Critic
from comodal.information.objective import Objective
from comodal.processes import sum_over_processes

FADE = 0.01  # weight of a batch in the moving average of s


class DistanceCritic(Critic):
    """Minus the squared distance, in units of the spread of y, over a learned temperature.

    Args:
        features: D.
        temperature: t at the start.
    """

    centre: Tensor
    spread: Tensor
    seen: Tensor

    def __init__(self, features: int, temperature: float = 0.2) -> None:
        super().__init__()
        self.log_temperature = nn.Parameter(torch.tensor(temperature).log())
        # Mean and total variance of y, moving averages over batches from the first on. Saved with the weights.
        self.register_buffer("centre", torch.zeros(features))
        self.register_buffer("spread", torch.tensor(1.0))
        self.register_buffer("seen", torch.tensor(False))

    def look(self, y: Tensor) -> None:
        """Takes mean and variance of a batch (R, D), of all processes, into the moving averages. Every process must enter."""
        y = y.detach().double()
        sums = sum_over_processes(torch.cat([y.new_tensor([len(y)]), y.sum(0), y.square().sum(0)]))
        count, (total, squares) = sums[0], sums[1:].chunk(2)
        mean = total / count.clamp(min=1)
        spread = (squares / count.clamp(min=1) - mean.square()).sum()
        if bool(count > 1) and bool(spread > 0):
            weight = FADE if bool(self.seen) else 1.0
            self.centre.lerp_(mean.to(self.centre), weight)
            self.spread.lerp_(spread.to(self.spread), weight)
            self.seen.fill_(True)

    def encode_x(self, x: Tensor) -> Tensor:
        """As it is."""
        return x

    def encode_y(self, y: Tensor) -> Tensor:
        """As it is."""
        return y

    def pair(self, x: Tensor, y: Tensor) -> Tensor:
        """Scores (..., A, C)."""
        with torch.autocast(x.device.type, enabled=False):  # an expanded square needs all its digits
            x, y = x.float(), y.float()
            x, y = x - self.centre, y - self.centre
            squares = x.square().sum(-1)[..., :, None] + y.square().sum(-1)[..., None, :] - 2 * super().pair(x, y)
            return -squares / (self.log_temperature.exp() * self.spread)


class Alignment(nn.Module):
    """A linear map into the coordinates of y, and the symmetric InfoNCE by which it is found.

    It begins at the mean of y and is in units of its spread, so that neither scale has to be learned.

    Args:
        features: F of what is mapped.
        into: D of y.
    """

    def __init__(self, features: int, into: int) -> None:
        super().__init__()
        self.linear = nn.Linear(features, into)
        nn.init.zeros_(self.linear.weight)
        nn.init.zeros_(self.linear.bias)
        self.objective = Objective(DistanceCritic(into), bound="info_nce", symmetric=True)

    @property
    def critic(self) -> DistanceCritic:
        """That of the objective."""
        critic = self.objective.critic
        assert isinstance(critic, DistanceCritic)
        return critic

    def map(self, features: Tensor) -> Tensor:
        """(B, F) to (B, D)."""
        unit = (self.critic.spread / self.linear.out_features).sqrt()
        found: Tensor = self.critic.centre + unit * self.linear(features)
        return found

    def forward(self, features: Tensor, y: Tensor, *, groups: list[Tensor]) -> Tensor:
        """The value of a batch in nats, to maximise.

        Args:
            features: (R, F).
            y: (R, D); no gradient goes there.
            groups: Each (R,); rows of one group are never negatives of each other.

        Returns:
            Scalar; zero where no row has a negative.
        """
        y = y.detach()
        if self.training and torch.is_grad_enabled():
            self.critic.look(y)
        value: Tensor = self.objective(self.map(features), y, groups=groups)
        return value
