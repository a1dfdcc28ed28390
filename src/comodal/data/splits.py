"""Training, validation and test cases: drawn by group, stratified where asked, seeded, stored with a hash.

Drawn with a permutation of the sorted groups rather than by scikit-learn's splitters: the same seed must give the same split
with every version of every library, since a run's test cases are what its numbers mean.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, model_validator

from comodal.data.cohort import SPLITS, Cohort
from comodal.data.stratification import divide, group_labels
from comodal.errors import ConfigError, DataError, message

HASH = "sha256"  # the key under which a file of splits says what they were
Labels = Mapping[str, Counter[str]]


class SplitConfig(BaseModel):
    """How cases are divided.

    Attributes:
        fractions: Of the groups, for training, validation and test. With `folds` only the ratio of the first two counts.
        folds: Number of folds of a cross-validation; None draws one split.
        fold: Which fold is the test set, from 0.
        seed: Of the permutation.
        column: Whether the cohort's own column `split` is used where it is filled. Where it names no training cases, the blank
            ones are divided among the parts that it does not name.
        stratify: What each part shall have its share of: targets of classes, `site`, or modalities (having them).
        allow_leakage: Why cases of one group may stand on two sides, in words. "" refuses it; a reason is printed in reports.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    fractions: tuple[float, float, float] = Field((0.7, 0.1, 0.2), description="of the patients: training, validation, test")
    folds: int | None = Field(None, ge=2, description="cross-validation with this many folds; null draws one split")
    fold: int = Field(0, ge=0, description="the fold that is the test set, from 0")
    seed: int = Field(0, ge=0, description="of the draw")
    column: bool = Field(True, description="use the cohort's column `split` where it is filled")
    stratify: tuple[str, ...] = Field((), description="targets, `site` or modalities of which each part gets its share")
    allow_leakage: str = Field("", description="why cases of one patient may stand on two sides; empty refuses it")

    @model_validator(mode="after")
    def _check(self) -> SplitConfig:
        if min(self.fractions) < 0 or self.fractions[0] == 0 or not math.isclose(sum(self.fractions), 1, abs_tol=1e-6):
            raise ValueError(f"fractions must be three numbers that add up to 1, the first above 0; got {self.fractions}")
        if self.folds is not None and self.fold >= self.folds:
            raise ValueError(f"fold must be below folds ({self.folds}); got {self.fold}")
        if self.allow_leakage and len(self.allow_leakage.split()) < 3:
            raise ValueError(f"allow_leakage must say why, in three words or more; got {self.allow_leakage!r}")
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
    labels = group_labels(cohort, config.stratify)
    if not config.column or not filled:
        parts = _drawn(labels, config)
        splits = {name: sorted(c.id for c in cohort.cases if c.group in parts[name]) for name in SPLITS}
    else:
        splits = _from_column(cohort, config, labels)
    check_splits(splits, cohort, allow=config.allow_leakage)
    return splits


def splits_hash(splits: Mapping[str, Sequence[str]]) -> str:
    """What tells one division from another: SHA-256 of its parts, whatever the order within them.

    >>> splits_hash({"train": ["b", "a"], "test": ["c"]}) == splits_hash({"test": ["c"], "train": ["a", "b"]})
    True
    """
    plain = {name: sorted(ids) for name, ids in sorted(splits.items())}
    return hashlib.sha256(json.dumps(plain, separators=(",", ":")).encode()).hexdigest()


def check_splits(splits: Mapping[str, Sequence[str]], cohort: Cohort, *, allow: str = "") -> None:
    """Makes sure that no patient stands on two sides.

    Args:
        splits: {name: case ids}.
        cohort: Knows the group of each case.
        allow: Why it may be so all the same (`splits.allow_leakage`); a case itself never stands on two sides.

    Raises:
        DataError: A group on two sides, a case twice, or an id that the cohort does not have.
    """
    side: dict[str, str] = {}
    seen: dict[str, str] = {}
    groups = {case.id: case.group for case in cohort.cases}
    for name, ids in splits.items():
        for identifier in ids:
            group = groups.get(identifier) or cohort.case(identifier).group
            if seen.setdefault(identifier, name) != name:
                got = f"the case in {seen[identifier]} and {name}"
                raise DataError(message("splits", "hold each case once", got, subject=identifier, do="Remove it from one"))
            if allow:
                continue
            if side.setdefault(group, name) != name:
                got, do = f"{group} in {side[group]} and {name}", _LEAK
                raise DataError(message("splits", "keep each group on one side", got, subject=identifier, do=do))


_LEAK = "Put all cases of this patient into one split, or say in splits.allow_leakage why it must be so"


def _from_column(cohort: Cohort, config: SplitConfig, labels: Labels) -> dict[str, list[str]]:
    """The cohort's own division; what it leaves open is drawn."""
    targets = [target.name for target in cohort.targets]
    blank = [case for case in cohort.cases if not case.split]
    if any(case.split == "train" for case in cohort.cases):  # what has no label is there to be predicted, and stays out
        blank = [case for case in blank if any(name in case.cells for name in targets)]
    named = {name: [case for case in cohort.cases if case.split == name] for name in SPLITS}
    if blank and named["train"]:
        do = "Fill it for all cases, leave those for training blank, or set splits.column: false"
        got = f"{len(blank)} labelled ones of {len(cohort)} blank, with training cases named"
        raise DataError(message("cohort: split", "be filled for all cases, or name no training cases", got, do=do))
    if config.folds is not None:
        do = "Set splits.column: false to draw folds, or leave splits.folds out"
        raise ConfigError(message("splits.folds", "be left out where the cohort has a column `split`", config.folds, do=do))
    splits = {name: [case.id for case in cases] for name, cases in named.items()}
    check_splits(splits, cohort, allow=config.allow_leakage)
    train, val, _ = config.fractions
    pool = blank or named["train"]
    if not pool:
        do = "Fill it in, or set splits.column: false"
        raise DataError(message("cohort: split", "give at least one case to train", "none", do=do))
    groups = sorted({case.group for case in pool})
    parts = {"train": set(groups), "val": set[str]()}
    if not named["val"] and val > 0 and len(groups) > 1:  # many published splits have no validation part
        parts |= _divide(groups, ("val", "train"), (val / (train + val), 1), config=config, labels=labels)
    splits["train"] = [case.id for case in pool if case.group in parts["train"]]
    splits["val"] += [case.id for case in pool if case.group in parts["val"]]
    return {name: sorted(ids) for name, ids in splits.items()}


def _drawn(labels: Labels, config: SplitConfig) -> dict[str, set[str]]:
    train, val, test = config.fractions
    groups = sorted(labels)
    if config.folds is None:
        return _divide(groups, ("test", "val", "train"), (test, val, train), config=config, labels=labels)
    if config.folds > len(groups):
        do = f"Use at most {len(groups)} folds"
        got = f"{config.folds} for {len(groups)}"
        raise ConfigError(message("splits.folds", "be at most the number of groups", got, do=do))
    if config.stratify:
        held = divide(labels, [1.0] * config.folds, config.seed)[config.fold]
    else:
        order = np.random.default_rng(config.seed).permutation(len(groups))
        held = {groups[i] for i in order[config.fold :: config.folds]}
    rest = [group for group in groups if group not in held]
    parts = _divide(rest, ("val", "train"), (val / (train + val), 1), config=config, labels=labels)
    return {**parts, "test": held}


def _divide(
    groups: list[str], names: tuple[str, ...], fractions: tuple[float, ...], *, config: SplitConfig, labels: Labels
) -> dict[str, set[str]]:
    """Gives each part its fraction, at least one group where the fraction is above 0, and the last part what is left."""
    parts: dict[str, set[str]] = {}
    if config.stratify:
        shares = [*fractions[:-1], max(1 - sum(fractions[:-1]), 0.0)]
        parts = dict(zip(names, divide({group: labels[group] for group in groups}, shares, config.seed), strict=True))
    else:
        order = [groups[i] for i in np.random.default_rng(config.seed).permutation(len(groups))]
        for name, fraction in zip(names[:-1], fractions, strict=False):
            size = max(1, round(fraction * len(groups))) if fraction > 0 else 0
            parts[name], order = set(order[:size]), order[size:]
        parts[names[-1]] = set(order)
    if not parts[names[-1]] or any(f > 0 and not parts[name] for name, f in zip(names, fractions, strict=False)):
        do = "Add patients, or set the fraction of a part to 0"
        raise DataError(message("splits", f"leave a group for each of {', '.join(names)}", f"{len(groups)} groups", do=do))
    return parts
