"""What images and reports make of each other, as a document of the run, `matching/<name>.json`: JSON both ways, schema 1."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from comodal.evaluation.documents import Document, Strict
from comodal.evaluation.results import MetricValue, Number


class Measured(Strict):
    """A number beside what chance would reach.

    Attributes:
        value: None where it is not defined; `note` then says why.
        ci95: Bootstrap interval over patients; None for fewer than six patients.
        n: What counts in it: queries, or phrases.
        chance: The same number without any knowledge.
        note: What the reader must know about it.
    """

    value: Number = None
    ci95: tuple[float, float] | None = None
    n: int = 0
    chance: Number = None
    note: str | None = None


class Grounded(Strict):
    """How often the region that a sentence fits best is a true one.

    Attributes:
        hits: The rate, n phrases; chance is the mean share of the image's regions that are true.
        ratio: The rate over chance.
        constant: The rate of the one region that is most often true, chosen on these very phrases.
        elsewhere: The rate of the sentence's mean map over the images of other patients: what the words alone tell. None where
            there are no others.
        subjects: Patients' cases behind it.
    """

    hits: Measured
    ratio: Number = None
    constant: Number = None
    elsewhere: Number = None
    subjects: int = 0


class MatchResults(Document):
    """Retrieval, zero-shot classification and grounding of one run on one split.

    Attributes:
        schema_: Version of this format ("schema" in JSON).
        method: Label of the method.
        cohort: Name of the cohort.
        split: Name of the split, or of another cohort; after a dot, how it differs from the default.
        seed: Of the training.
        conventions: What the numbers mean.
        retrieval: {direction: {"recall@1", "recall@5", "recall@10", "median_rank"}}.
        prompts: File of the prompts; "default" for those that are shipped, "" without any.
        zero_shot: {"AUROC/<target>/<class>" and the like}.
        phrases: File of the phrases; "" without any.
        grounding: {"all", then each finding}.
        grid: Regions along each axis of the image; () without any.
        constant_by_finding: Rate of the region that is most often true of each finding, over all phrases.
        notes: What a reader must know.
    """

    owner: ClassVar[str] = "matching"
    missing: ClassVar[str] = "Run `comodal match` first"
    damaged: ClassVar[str] = "Run `comodal match` again"

    schema_: Literal[1] = Field(default=1, alias="schema")
    method: str
    cohort: str
    split: str
    seed: int
    conventions: dict[str, str] = Field(default_factory=dict)
    retrieval: dict[str, dict[str, Measured]] = Field(default_factory=dict)
    prompts: str = ""
    zero_shot: dict[str, MetricValue] = Field(default_factory=dict)
    phrases: str = ""
    grounding: dict[str, Grounded] = Field(default_factory=dict)
    grid: tuple[int, ...] = ()
    constant_by_finding: Number = None
    notes: tuple[str, ...] = ()
