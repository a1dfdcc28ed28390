"""Putting features on a common scale, fitted on training rows only; invertible for each feature, so that information stays."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Scaler:
    """One increasing map for each feature.

    Attributes:
        knots: For each feature, increasing values seen in the training rows.
        scaled: For each feature, what they are mapped to.
        kind: See `fit`.
    """

    knots: tuple[Floats, ...]
    scaled: tuple[Floats, ...]
    kind: Literal["rank", "standard"]

    @staticmethod
    def fit(values: Floats, kind: Literal["rank", "standard"]) -> Scaler:
        """Fits the maps.

        Args:
            values: (n, F) training rows.
            kind: "rank": normal quantiles of the (average) rank; "standard": mean 0, deviation 1.

        Returns:
            The scaler; values between knots are interpolated. Beyond them "standard" goes on along the line, "rank" along a
            logarithm, so that no outlier lies far out.
        """
        pairs = [_ranked(column) if kind == "rank" else _standard(column) for column in values.T]
        return Scaler(tuple(knots for knots, _ in pairs), tuple(scaled for _, scaled in pairs), kind)

    def __call__(self, values: Floats) -> Floats:
        """(n, F) to (n, F)."""
        features = zip(values.T, self.knots, self.scaled, strict=True)
        columns = [_interpolated(column, knots, scaled, self.kind) for column, knots, scaled in features]
        return np.stack(columns, axis=1)


def _standard(column: Floats) -> tuple[Floats, Floats]:
    mean, deviation = float(column.mean()), float(column.std())
    knots = np.array([mean - (deviation or 1.0), mean + (deviation or 1.0)])
    return knots, np.array([-1.0, 1.0])


def _ranked(column: Floats) -> tuple[Floats, Floats]:
    from scipy import special

    knots, counts = np.unique(column, return_counts=True)
    ranks = np.cumsum(counts) - (counts - 1) / 2  # average rank of equal values, from 1
    scaled = special.ndtri((ranks - 0.5) / len(column))
    if len(knots) < 2:  # constant in these rows: any increasing map will do
        return np.array([knots[0] - 1.0, knots[0] + 1.0]), np.array([-1.0, 1.0])
    centred = scaled - np.average(scaled, weights=counts)
    return knots, centred / np.sqrt(np.average(centred**2, weights=counts))


def _interpolated(column: Floats, knots: Floats, scaled: Floats, kind: Literal["rank", "standard"]) -> Floats:
    """Piecewise linear; beyond the knots it goes on so that no two values fall together."""
    slope = (scaled[-1] - scaled[0]) / (knots[-1] - knots[0])
    inside = np.interp(column, knots, scaled)
    above, below = slope * np.maximum(column - knots[-1], 0.0), slope * np.maximum(knots[0] - column, 0.0)
    values: Floats = inside + (np.log1p(above) - np.log1p(below) if kind == "rank" else above - below)
    return values
