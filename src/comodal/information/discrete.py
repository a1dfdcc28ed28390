"""Exact information of finite tables, by enumeration: the truth that estimators and claims are held against.

A `Joint` is a table of probabilities with one named axis per variable. Everything is in nats and float64, and 0 log 0 = 0.

Information is not computed as a sum of entropies, which loses eps * entropy to cancellation, but as the divergence of p from
q = p(x,z) p(y,z) / p(z), in the form sum (q - p) - p log(q / p). Since p and q have the same sum this equals sum p log(p / q);
but each of its terms is non-negative and of second order in q / p - 1: the result is never below zero, and that of variables
which are independent up to rounding is far below 1e-16.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

from comodal.errors import ConfigError, DataError, message, nearest

Floats: TypeAlias = NDArray[np.float64]
Names: TypeAlias = str | Sequence[str]

TOLERANCE = 1e-9  # of the sum of a table: what is left of it is divided out


def probabilities(owner: str, table: ArrayLike) -> Floats:
    """Checks a table of probabilities.

    Args:
        owner: What the table is, for the error.
        table: Any shape, not empty.

    Returns:
        A read-only float64 copy, divided by its sum.

    Raises:
        DataError: An entry is negative or not finite, there is none, or their sum is not 1 within TOLERANCE.

    >>> probabilities("coin", [0.25, 0.75])
    array([0.25, 0.75])
    """
    values = np.array(table, dtype=np.float64)
    if not values.size or not np.isfinite(values).all() or (values < 0).any():
        got = f"the smallest entry {values.min()}" if values.size else "no entry"
        raise DataError(message(owner, "hold finite, non-negative probabilities", got, do="Give p of every combination"))
    total = float(values.sum())
    if abs(total - 1) > TOLERANCE:
        raise DataError(message(owner, "sum to 1", f"{total:.12g}", do="Divide the table by its sum"))
    values /= total
    values.setflags(write=False)
    return values


def _merged(*groups: Iterable[str]) -> tuple[str, ...]:
    """All names, each once, in order of first mention."""
    return tuple(dict.fromkeys(name for group in groups for name in group))


def _without(names: Iterable[str], others: Iterable[str]) -> tuple[str, ...]:
    left_out = set(others)
    return tuple(name for name in names if name not in left_out)


def _divergence(p: Floats, first: Floats, second: Floats) -> float:
    """KL(p || q) of tables with one sum, q = first * second: the sum of (q - p) - p log(q / p), each term non-negative."""
    q = first * second
    held = p > 0
    near = held & (np.abs(q - p) < p / 2)
    far = held & ~near  # by logarithms of the factors: q may underflow, q / p may overflow
    log = np.zeros_like(p)
    log[near] = np.log1p((q[near] - p[near]) / p[near])
    log[far] = np.log(first[far]) + np.log(second[far]) - np.log(p[far])
    return float(np.maximum(q - p - p * log, 0.0).sum())


@dataclass(frozen=True, eq=False)
class Joint:
    """The joint distribution of named discrete variables. Variable i takes the values 0 ... table.shape[i] - 1.

    Attributes:
        names: The variables, in the order of the axes.
        table: p of every combination of values; float64, read only.

    Raises:
        ConfigError: A name occurs twice, or there is not one name per axis.
        DataError: The table is not one of probabilities.

    >>> xor = Joint(("x", "y", "z"), [[[0.25, 0.0], [0.0, 0.25]], [[0.0, 0.25], [0.25, 0.0]]])
    >>> xor.information("x", "z"), round(xor.information("x", "z", given="y"), 4)
    (0.0, 0.6931)
    """

    names: tuple[str, ...]
    table: Floats

    def __post_init__(self) -> None:
        names, table = tuple(self.names), probabilities("Joint.table", self.table)
        if len(set(names)) != len(names) or len(names) != table.ndim or not names:
            rule = f"have one distinct name for each of the {table.ndim} axes"
            raise ConfigError(message("Joint.names", rule, names, do="Name every variable once"))
        object.__setattr__(self, "names", names)
        object.__setattr__(self, "table", table)

    def marginal(self, names: Names) -> Joint:
        """The distribution of some of the variables.

        Args:
            names: A name, or several in the order that the axes shall have.

        Returns:
            Their joint distribution.

        Raises:
            ConfigError: A name is not a variable, or none is given.

        >>> Joint(("x", "y"), [[0.5, 0.25], [0.0, 0.25]]).marginal("y").table
        array([0.5, 0.5])
        """
        kept = self._known(names)
        summed = self._summed(kept).squeeze(tuple(i for i, name in enumerate(self.names) if name not in kept))
        order = [name for name in self.names if name in kept]
        return Joint(kept, summed.transpose([order.index(name) for name in kept]))

    def entropy(self, names: Names, given: Names = ()) -> float:
        """The entropy H(X), or H(X|Z), in nats.

        Args:
            names: X, a name or several.
            given: Z, a name or several, or none.

        Returns:
            Nats, between 0 and the logarithm of the number of values.

        Raises:
            ConfigError: A name is not a variable.

        >>> coin = Joint(("x",), [0.5, 0.5])
        >>> round(coin.entropy("x"), 4)
        0.6931
        """
        whole = self._summed(_merged(self._known(names), self._known(given)))
        share = np.divide(whole, self._summed(self._known(given)), out=np.ones_like(whole), where=whole > 0)
        return float(-(whole * np.log(share)).sum()) + 0.0  # never -0.0

    def information(self, x: Names, y: Names, given: Names = ()) -> float:
        """The mutual information I(X;Y), or I(X;Y|Z), in nats.

        What X or Y share with Z adds nothing; what they share with each other adds its entropy given Z.

        Args:
            x: X, a name or several.
            y: Y, a name or several.
            given: Z, a name or several, or none.

        Returns:
            Nats; never negative.

        Raises:
            ConfigError: A name is not a variable.

        >>> channel = Joint(("sent", "read"), [[0.45, 0.05], [0.05, 0.45]])
        >>> round(channel.information("sent", "read"), 4)
        0.3681
        """
        known = self._known(given)
        left, right = _without(self._known(x), known), _without(self._known(y), known)
        shared = tuple(name for name in left if name in right)
        if not left or not right:
            return 0.0
        if shared:
            return self.entropy(shared, known) + self.information(left, right, _merged(known, shared))
        p, below = self._summed(_merged(left, right, known)), self._summed(known)
        mine, its = self._summed(_merged(left, known)), self._summed(_merged(right, known))
        share = np.divide(its, below, out=np.zeros_like(its), where=below > 0)
        return _divergence(p, np.broadcast_to(mine, p.shape), np.broadcast_to(share, p.shape))

    def log_ratio(self, x: Names, y: Names) -> Floats:
        """The table of log p(x,y) / (p(x) p(y)): the critic at which the bounds of Donsker-Varadhan and others are tight.

        Args:
            x: X, a name or several.
            y: Y, a name or several, none of them in X.

        Returns:
            One axis per name, those of X first; -inf where x and y never occur together, NaN where one of them never occurs.

        Raises:
            ConfigError: A name is not a variable, or is in both, or none is given.

        >>> Joint(("x", "y"), [[0.5, 0.0], [0.0, 0.5]]).log_ratio("x", "y").round(4)
        array([[0.6931,   -inf],
               [  -inf, 0.6931]])
        """
        left, right = self._known(x), self._known(y)
        if set(left) & set(right):
            got = sorted(set(left) & set(right))
            raise ConfigError(message("Joint.log_ratio.y", "share no variable with x", got, do="Name it on one side only"))
        with np.errstate(divide="ignore", invalid="ignore"):  # log 0 = -inf, and -inf + inf = NaN, are what is meant
            logs = [np.log(self.marginal(names).table) for names in ((*left, *right), left, right)]
            below = np.add.outer(logs[1], logs[2])
            return np.asarray(logs[0] - below, dtype=np.float64)

    def sample(self, n: int, rng: np.random.Generator) -> NDArray[np.int64]:
        """Draws independent rows.

        Args:
            n: How many.
            rng: The source of randomness.

        Returns:
            (n, len(names)) int64 values, columns in the order of the names.

        >>> Joint(("x", "y"), [[0.0, 1.0], [0.0, 0.0]]).sample(2, np.random.default_rng(0))
        array([[0, 1],
               [0, 1]])
        """
        cells = rng.choice(self.table.size, size=n, p=self.table.ravel())
        return np.stack(np.unravel_index(cells, self.table.shape), axis=-1).astype(np.int64)

    def _known(self, names: Names) -> tuple[str, ...]:
        """The names as a tuple, each once; all of them are variables."""
        asked = _merged([names] if isinstance(names, str) else names)
        for name in asked:
            if name not in self.names:
                rule = "name variables of the table"
                raise ConfigError(message("Joint", rule, repr(name), do=nearest(name, self.names)))
        return asked

    def _summed(self, names: tuple[str, ...]) -> Floats:
        """The table summed over all other variables, whose axes stay with length 1."""
        others = tuple(i for i, name in enumerate(self.names) if name not in names)
        return np.asarray(self.table.sum(axis=others, keepdims=True), dtype=np.float64)
