"""Critics: networks that score whether x and y belong together.

A critic scores pairs, `critic(x, y)`, and all pairs, `critic.all_pairs(x, y)`. The second is made of three steps that can be
called by themselves: `encode_x` and `encode_y` once per item, `pair` for all pairs of what they give.

Axis letters: A items x, C items y, D features, N locations, K scores; "..." further leading axes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from comodal.errors import ConfigError, message
from comodal.information.split import MIB, blocked_pairs, relu_pairs

SMALL = 4 * MIB  # what all pairs may take at once: below, blocks cost more than they save


class Critic(nn.Module):
    """Base of all critics.

    A subclass gives `encode_x`, `encode_y` and `pair`; where scores of single pairs have a plainer form, also `forward`.
    """

    @property
    def leaves_out_unused(self) -> bool:
        """Whether items x none of whose scores gets a gradient cost `pair` nothing in the backward pass, and little memory."""
        return False

    def encode_x(self, x: Tensor) -> Tensor:
        """(..., A, D) to what `pair` takes for x."""
        raise NotImplementedError(f"{type(self).__name__}.encode_x")

    def encode_y(self, y: Tensor) -> Tensor:
        """(..., C, D) to what `pair` takes for y."""
        raise NotImplementedError(f"{type(self).__name__}.encode_y")

    def pair(self, x: Tensor, y: Tensor) -> Tensor:
        """Scores (..., A, C) of all pairs of encoded items."""
        return x @ y.transpose(-1, -2)

    def all_pairs(self, x: Tensor, y: Tensor) -> Tensor:
        """Scores of every x with every y.

        Args:
            x: (..., A, D).
            y: (..., C, D'), with the leading axes of x.

        Returns:
            (..., A, C): [a, c] is the score of x_a with y_c.
        """
        return self.pair(self.encode_x(x), self.encode_y(y))

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """Scores of single pairs: x (..., D) and y (..., D') with equal or broadcastable leading axes give (...)."""
        return self.all_pairs(x[..., None, :], y[..., None, :])[..., 0, 0]


def mlp(sizes: Sequence[int]) -> nn.Sequential:
    """Linear layers with ReLU between them.

    >>> [tuple(p.shape) for p in mlp([4, 8, 2]).parameters()]
    [(8, 4), (8,), (2, 8), (2,)]
    """
    layers: list[nn.Module] = []
    for inputs, outputs in pairwise(sizes):
        layers += [nn.ReLU(), nn.Linear(inputs, outputs)]
    return nn.Sequential(*layers[1:])


class SeparableCritic(Critic):
    """g(x) . h(y) with an MLP for each side: 2 K evaluations and one product of matrices for all pairs.

    Args:
        x_features: D of x.
        y_features: D' of y.
        hidden: Widths of the hidden layers on either side.
        embedding: Length of g and h.
    """

    def __init__(self, x_features: int, y_features: int, *, hidden: Sequence[int] = (256, 256), embedding: int = 32) -> None:
        super().__init__()
        self.x_network = mlp([x_features, *hidden, embedding])
        self.y_network = mlp([y_features, *hidden, embedding])

    def encode_x(self, x: Tensor) -> Tensor:
        """(..., D) to (..., embedding)."""
        return self.x_network(x)  # type: ignore[no-any-return]

    def encode_y(self, y: Tensor) -> Tensor:
        """(..., D') to (..., embedding)."""
        return self.y_network(y)  # type: ignore[no-any-return]


class BilinearCritic(Critic):
    """x^T W y, as in CPC of van den Oord et al. (2018).

    Args:
        x_features: D of x.
        y_features: D' of y.
    """

    def __init__(self, x_features: int, y_features: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(x_features, y_features))
        nn.init.normal_(self.weight, std=1 / math.sqrt(x_features * y_features))

    def encode_x(self, x: Tensor) -> Tensor:
        """(..., D) to x^T W, (..., D')."""
        return x @ self.weight

    def encode_y(self, y: Tensor) -> Tensor:
        """The same (..., D')."""
        return y


class CosineCritic(Critic):
    """Cosine of two projections, divided by a temperature. Scores lie in [-1/t, 1/t], so that an estimate can read 2/t at most.

    Args:
        x_features: D of x.
        y_features: D' of y.
        embedding: Length of the projections; None: x and y are compared as they are and must be of one length.
        temperature: t at the start.
        learned: Whether t is learned (in its logarithm, kept at or above 0.01, as is usual).
    """

    def __init__(
        self,
        x_features: int,
        y_features: int,
        *,
        embedding: int | None = 128,
        temperature: float = 0.1,
        learned: bool = True,
    ) -> None:
        super().__init__()
        if embedding is None and x_features != y_features:
            rule, do = "be given where x and y differ in length", "Give the length of a common projection"
            raise ConfigError(message("CosineCritic.embedding", rule, f"{x_features} and {y_features} features", do=do))
        if not temperature >= 0.01:
            raise ConfigError(message("CosineCritic.temperature", "be at least 0.01", temperature, do="Use 0.07 to 1"))
        self.x_projection = nn.Identity() if embedding is None else nn.Linear(x_features, embedding, bias=False)
        self.y_projection = nn.Identity() if embedding is None else nn.Linear(y_features, embedding, bias=False)
        self.log_temperature = nn.Parameter(torch.tensor(math.log(temperature)), requires_grad=learned)

    @property
    def temperature(self) -> Tensor:
        """t, at least 0.01; its gradient goes on below, so that it can rise again."""
        floor = self.log_temperature.detach().clamp(min=math.log(0.01))
        return (floor + (self.log_temperature - self.log_temperature.detach())).exp()

    def encode_x(self, x: Tensor) -> Tensor:
        """(..., D) to vectors of length 1."""
        return nn.functional.normalize(self.x_projection(x), dim=-1)

    def encode_y(self, y: Tensor) -> Tensor:
        """(..., D') to vectors of length 1."""
        return nn.functional.normalize(self.y_projection(y), dim=-1)

    def pair(self, x: Tensor, y: Tensor) -> Tensor:
        """Scores (..., A, C)."""
        return super().pair(x, y) / self.temperature


class ConcatCritic(Critic):
    """An MLP on [x; y]: the critic of Liao et al. (2021), 1280-1024-512-1 for regions and 1536-1024-512-1 for whole images.

    `critic(x, y)` concatenates, as it is written there; `all_pairs` gives the same scores without concatenating, see
    `comodal.information.split`.

    Args:
        x_features: D of x.
        y_features: D' of y.
        hidden: Widths of the hidden layers, at least one.
        memory: MiB for one block of pairs; None: see `split`.
    """

    def __init__(
        self, x_features: int, y_features: int, *, hidden: Sequence[int] = (1024, 512), memory: float | None = None
    ) -> None:
        super().__init__()
        if not hidden:
            raise ConfigError(message("ConcatCritic.hidden", "have at least one layer", "none", do="Use BilinearCritic"))
        self.x_features, self.hidden, self.memory = x_features, tuple(hidden), memory
        self.layers = mlp([x_features + y_features, *hidden, 1])

    @property
    def leaves_out_unused(self) -> bool:
        """With two hidden layers, see `split`."""
        return len(self.hidden) == 2

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """Scores (...) of single pairs, by concatenation."""
        shape = torch.broadcast_shapes(x.shape[:-1], y.shape[:-1])
        both = torch.cat([x.expand(*shape, -1), y.expand(*shape, -1)], dim=-1)
        return self.layers(both)[..., 0]  # type: ignore[no-any-return]

    def encode_x(self, x: Tensor) -> Tensor:
        """(..., A, D) to W_x x of the first layer."""
        return nn.functional.linear(x, self._first.weight[:, : self.x_features])

    def encode_y(self, y: Tensor) -> Tensor:
        """(..., C, D') to W_y y + b of the first layer."""
        return nn.functional.linear(y, self._first.weight[:, self.x_features :], self._first.bias)

    def pair(self, x: Tensor, y: Tensor) -> Tensor:
        """Scores (..., A, C), from the second layer on."""
        lead = torch.broadcast_shapes(x.shape[:-2], y.shape[:-2])
        rows, columns = (t.expand(*lead, *t.shape[-2:]).reshape(math.prod(lead), *t.shape[-2:]) for t in (x, y))
        tail, width = self.layers[1:], sum(self.hidden)
        if rows.numel() * columns.shape[1] * 4 * width <= SMALL * rows.shape[-1]:
            scores: Tensor = tail(rows[:, :, None] + columns[:, None])[..., 0]
        elif len(self.hidden) == 2:
            second, last = self._linear(2), self._linear(4)
            sides = {"weight": second.weight, "bias": second.bias, "last": last.weight[0]}
            scores = relu_pairs(rows, columns, **sides, memory=self.memory) + last.bias
        else:
            scores = blocked_pairs(rows, columns, tail, width=width, memory=self.memory)
        return scores.view(*lead, *scores.shape[1:])

    @property
    def output(self) -> nn.Linear:
        """The last layer, from the last hidden one to the score."""
        return self._linear(-1)

    @property
    def _first(self) -> nn.Linear:
        return self._linear(0)

    def _linear(self, place: int) -> nn.Linear:
        layer = self.layers[place]
        assert isinstance(layer, nn.Linear)
        return layer


class ConcatConvolveCritic(ConcatCritic):
    """DIM's concat-and-convolve, Hjelm et al. (2019), as CMIM (Sylvain et al., 2021) uses it: 1 x 1 convolutions on maps.

    x is a map; y is a vector that is tiled over it (local-global), or a map whose positions are those of x (local-local). A
    1 x 1 convolution is a linear layer at each position, so that `all_pairs` splits its first layer exactly. On features that
    are laid out as (..., locations, D) everything of `ConcatCritic` holds as well.

    Args:
        x_features: Channels of x.
        y_features: Channels of y.
        hidden: Channels of the hidden layers; 512 and 512 in DIM.
        memory: MiB for one block of pairs; None: see `split`.
    """

    def __init__(
        self, x_features: int, y_features: int, *, hidden: Sequence[int] = (512, 512), memory: float | None = None
    ) -> None:
        super().__init__(x_features, y_features, hidden=hidden, memory=memory)

    def on_maps(self, x: Tensor, y: Tensor) -> Tensor:
        """Scores of single pairs at each position, by tiling, concatenating and convolving.

        Args:
            x: (B, C, *spatial).
            y: (B, C') or (B, C', *spatial).

        Returns:
            (B, *spatial).
        """
        space = x.shape[2:]
        tiled = y[(...,) + (None,) * (x.ndim - y.ndim)].expand(-1, -1, *space)
        hidden = torch.cat([x, tiled], dim=1)
        for layer in self.layers:
            if isinstance(layer, nn.Linear):  # a 1 x 1 convolution with the weights of the layer
                hidden = torch.einsum("oi,bi...->bo...", layer.weight, hidden)
                hidden = hidden + layer.bias.view(1, -1, *[1] * len(space))
            else:
                hidden = layer(hidden)
        return hidden[:, 0]

    def all_pairs_of_maps(self, x: Tensor, y: Tensor) -> Tensor:
        """Scores of every x with every y at each position.

        Args:
            x: (A, C, *spatial).
            y: (B, C'), or (B, C', *spatial): position with position.

        Returns:
            (N, A, B), N positions in the order of `spatial`.
        """
        return self.all_pairs(x.flatten(2).permute(2, 0, 1), y.flatten(2).permute(2, 0, 1) if y.ndim > 2 else y[None])


class ResidualHead(nn.Module):
    """DIM's head: linear, batch norm, ReLU, linear, plus a linear shortcut, then layer norm; the same at each location.

    Hjelm et al. (2019); on maps their 1 x 1 convolutions are these linear layers. The shortcut begins as the identity plus
    noise in (-0.01, 0.01), so that the head begins near its input.

    Args:
        features: D of the input.
        units: Of the hidden layer and of the output.
    """

    def __init__(self, features: int, units: int) -> None:
        super().__init__()
        self.first = nn.Linear(features, units, bias=False)
        self.norm = nn.BatchNorm1d(units)
        self.second = nn.Linear(units, units)
        self.shortcut = nn.Linear(features, units)
        self.scale = nn.LayerNorm(units)
        with torch.no_grad():
            self.shortcut.weight.uniform_(-0.01, 0.01).diagonal().add_(1.0)

    def forward(self, features: Tensor) -> Tensor:
        """(..., D) to (..., units); the statistics of the batch norm run over all leading axes."""
        hidden = self.first(features)
        hidden = self.norm(hidden.reshape(-1, hidden.shape[-1])).view(hidden.shape)
        return self.scale(self.second(hidden.relu()) + self.shortcut(features))  # type: ignore[no-any-return]


class EncodeAndDotCritic(Critic):
    """DIM's encode-and-dot: a residual head for each side and a dot product, Hjelm et al. (2019).

    The batch norm in the heads couples the items of a batch: hand over present ones only, at least two. Under several processes
    it is that of each process, not of the global batch.

    Args:
        x_features: D of x.
        y_features: D' of y.
        units: Width of the heads; 2048 in DIM.
    """

    def __init__(self, x_features: int, y_features: int, *, units: int = 2048) -> None:
        super().__init__()
        self.x_head = ResidualHead(x_features, units)
        self.y_head = ResidualHead(y_features, units)

    def encode_x(self, x: Tensor) -> Tensor:
        """(..., D) to (..., units)."""
        return self.x_head(x)  # type: ignore[no-any-return]

    def encode_y(self, y: Tensor) -> Tensor:
        """(..., D') to (..., units)."""
        return self.y_head(y)  # type: ignore[no-any-return]
