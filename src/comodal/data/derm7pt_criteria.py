"""The seven-point checklist as data: `tables/derm7pt_criteria.yaml`, read once and checked.

Which values of Derm7pt's table make which class, and how many points a class scores, stands there and nowhere in the code.
"""

from __future__ import annotations

import functools
from importlib.resources import files

import yaml
from pydantic import BaseModel, ConfigDict, model_validator


class Criterion(BaseModel):
    """One of the seven criteria.

    Attributes:
        short: Its abbreviation in the literature ("PN").
        points: {class: points}, in the order of the classes.
        values: {value in meta.csv: class}.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    short: str
    points: dict[str, int]
    values: dict[str, str]

    @model_validator(mode="after")
    def _check(self) -> Criterion:
        if set(self.values.values()) != set(self.points):
            raise ValueError(f"values of {self.short} must lead to its classes, each at least once")
        return self

    @property
    def classes(self) -> tuple[str, ...]:
        """In the order of the class numbers; the first one is "absent"."""
        return tuple(self.points)


class Diagnoses(BaseModel):
    """The diagnoses.

    Attributes:
        grouped: The five classes.
        melanoma: Which of them is melanoma.
        values: {value in meta.csv: (class of the five, class of the full form)}.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    grouped: tuple[str, ...]
    melanoma: str
    values: dict[str, tuple[str, str]]

    @model_validator(mode="after")
    def _check(self) -> Diagnoses:
        if {group for group, _ in self.values.values()} != set(self.grouped) or self.melanoma not in self.grouped:
            raise ValueError("values of diagnosis must lead to its classes, each at least once")
        return self

    @property
    def full(self) -> tuple[str, ...]:
        """The fifteen classes of the full form, in the order of the file."""
        return tuple(dict.fromkeys(name for _, name in self.values.values()))


class Checklist(BaseModel):
    """The whole file.

    Attributes:
        criteria: {column of meta.csv: criterion}, majors first.
        diagnosis: The diagnoses.
        metadata: {column of meta.csv: values in one-hot order}.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    criteria: dict[str, Criterion]
    diagnosis: Diagnoses
    metadata: dict[str, tuple[str, ...]]

    @property
    def highest(self) -> int:
        """The highest score that there is."""
        return sum(max(criterion.points.values()) for criterion in self.criteria.values())


@functools.cache
def load_criteria() -> Checklist:
    """The checklist.

    >>> checklist = load_criteria()
    >>> len(checklist.criteria), checklist.highest, checklist.criteria["pigment_network"].classes
    (7, 10, ('ABS', 'TYP', 'ATP'))
    """
    text = (files("comodal.data") / "tables" / "derm7pt_criteria.yaml").read_text(encoding="utf-8")
    return Checklist.model_validate(yaml.safe_load(text))
