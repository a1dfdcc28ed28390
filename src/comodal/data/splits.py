"""Training, validation and test cases: drawn by group, seeded, stored.

Drawn with a permutation of the sorted groups rather than by scikit-learn's splitters: the same seed must give the same split
with every version of every library, since a run's test cases are what its numbers mean.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, model_validator

from comodal.data.cohort import SPLITS, Cohort
from comodal.errors import ConfigError, DataError, message


class SplitConfig(BaseModel):
    """How cases are divided.

    Attributes:
        fractions: Of the groups, for training, validation and test. With `folds` only the ratio of the first two counts.
        folds: Number of folds of a cross-validation; None draws one split.
        fold: Which fold is the test set, from 0.
        seed: Of the permutation.
        column: Whether the cohort's own column `split` is used where it is filled.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    fractions: tuple[float, float, float] = Field((0.7, 0.1, 0.2), description="of the patients: training, validation, test")
    folds: int | None = Field(None, ge=2, description="cross-validation with this many folds; null draws one split")
    fold: int = Field(0, ge=0, description="the fold that is the test set, from 0")
    seed: int = Field(0, ge=0, description="of the draw")
    column: bool = Field(True, description="use the cohort's column `split` where it is filled")

    @model_validator(mode="after")
    def _check(self) -> SplitConfig:
        if min(self.fractions) < 0 or self.fractions[0] == 0 or not math.isclose(sum(self.fractions), 1, abs_tol=1e-6):
            raise ValueError(f"fractions must be three numbers that add up to 1, the first above 0; got {self.fractions}")
        if self.folds is not None and self.fold >= self.folds:
            raise ValueError(f"fold must be below folds ({self.folds}); got {self.fold}")
        return self


def make_splits(cohort: Cohort, config: SplitConfig) -> dict[str, list[str]]:
    """Divides the cases of a cohort.

    Args:
        cohort: Its groups are divided, never the cases of a group.
        config: How.

    Returns:
        {"train", "val", "test"}: sorted case ids. Every case stands in exactly one, but for the cohort's own column.

    Raises:
        ConfigError: `folds` and a filled column `split`, or more folds than groups.
        DataError: A part would be empty, the column is filled for some cases only, or puts a group on two sides.
    """
    filled = [case for case in cohort.cases if case.split]
    if config.column and filled:
        parts = _from_column(cohort, config, len(filled))
    else:
        parts = _drawn(sorted({case.group for case in cohort.cases}), config)
    splits = {name: sorted(c.id for c in cohort.cases if c.group in parts[name]) for name in SPLITS}
    check_splits(splits, cohort)
    return splits


def check_splits(splits: Mapping[str, Sequence[str]], cohort: Cohort) -> None:
    """Makes sure that no patient stands on two sides.

    Args:
        splits: {name: case ids}.
        cohort: Knows the group of each case.

    Raises:
        DataError: A group on two sides, or an id that the cohort does not have.
    """
    side: dict[str, str] = {}
    groups = {case.id: case.group for case in cohort.cases}
    for name, ids in splits.items():
        for identifier in ids:
            group = groups.get(identifier) or cohort.case(identifier).group
            if side.setdefault(group, name) != name:
                got, do = f"{group} in {side[group]} and {name}", "Put all cases of this patient into one split"
                raise DataError(message("splits", "keep each group on one side", got, subject=identifier, do=do))


def _from_column(cohort: Cohort, config: SplitConfig, filled: int) -> dict[str, set[str]]:
    if filled < len(cohort):
        do = "Fill it for all cases or for none, or set splits.column: false"
        raise DataError(message("cohort: split", "be filled for all cases or for none", f"{filled} of {len(cohort)}", do=do))
    if config.folds is not None:
        do = "Set splits.column: false to draw folds, or leave splits.folds out"
        raise ConfigError(message("splits.folds", "be left out where the cohort has a column `split`", config.folds, do=do))
    check_splits({name: [c.id for c in cohort.cases if c.split == name] for name in SPLITS}, cohort)
    parts = {name: {c.group for c in cohort.cases if c.split == name} for name in SPLITS}
    train, val, _ = config.fractions
    if not parts["val"] and val > 0 and len(parts["train"]) > 1:  # many published splits have no validation part
        parts |= _divide(sorted(parts["train"]), ("val", "train"), (val / (train + val), 1), config.seed)
    if not parts["train"]:
        do = "Fill it in, or set splits.column: false"
        raise DataError(message("cohort: split", "give at least one case to train", "none", do=do))
    return parts


def _drawn(groups: list[str], config: SplitConfig) -> dict[str, set[str]]:
    train, val, test = config.fractions
    if config.folds is None:
        return _divide(groups, ("test", "val", "train"), (test, val, train), config.seed)
    if config.folds > len(groups):
        do = f"Use at most {len(groups)} folds"
        got = f"{config.folds} for {len(groups)}"
        raise ConfigError(message("splits.folds", "be at most the number of groups", got, do=do))
    order = np.random.default_rng(config.seed).permutation(len(groups))
    held = {groups[i] for i in order[config.fold :: config.folds]}
    rest = [group for group in groups if group not in held]
    parts = _divide(rest, ("val", "train"), (val / (train + val), 1), config.seed)
    return {**parts, "test": held}


def _divide(groups: list[str], names: tuple[str, ...], fractions: tuple[float, ...], seed: int) -> dict[str, set[str]]:
    """Gives each part its fraction, at least one group where the fraction is above 0, and the last part what is left."""
    order = [groups[i] for i in np.random.default_rng(seed).permutation(len(groups))]
    parts: dict[str, set[str]] = {}
    for name, fraction in zip(names[:-1], fractions, strict=False):
        size = max(1, round(fraction * len(groups))) if fraction > 0 else 0
        parts[name], order = set(order[:size]), order[size:]
    parts[names[-1]] = set(order)
    if not order or any(fraction > 0 and not parts[name] for name, fraction in zip(names, fractions, strict=False)):
        do = "Add patients, or set the fraction of a part to 0"
        raise DataError(message("splits", f"leave a group for each of {', '.join(names)}", f"{len(groups)} groups", do=do))
    return parts
