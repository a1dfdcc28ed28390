"""The 14 labels of CheXpert: 1 named, 0 denied, -1 uncertain, blank not mentioned; and what becomes of the last two.

Nothing that nobody knows becomes "no" unless it is asked for.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from comodal.data.packed_tables import read_columns
from comodal.errors import DataError, message

CHEXPERT = (
    "Atelectasis",
    "Cardiomegaly",
    "Consolidation",
    "Edema",
    "Enlarged Cardiomediastinum",
    "Fracture",
    "Lung Lesion",
    "Lung Opacity",
    "No Finding",
    "Pleural Effusion",
    "Pleural Other",
    "Pneumonia",
    "Pneumothorax",
    "Support Devices",
)
# The nine of Liao et al. (2021), in the order of its Table 3.
PATHOLOGY9 = (
    "Atelectasis",
    "Cardiomegaly",
    "Consolidation",
    "Edema",
    "Lung Opacity",
    "Pleural Effusion",
    "Pneumonia",
    "Pneumothorax",
    "Support Devices",
)
Uncertain = Literal["ignore", "ones", "zeros"]
Blank = Literal["ignore", "zeros"]
_VALUES = {1.0: "named", 0.0: "denied", -1.0: "uncertain", -2.0: "blank"}  # -2: tables of the group of Liao et al. (2021)
_ORDER = ("named", "denied", "uncertain", "blank")


@dataclass
class Labels:
    """What a table says of each study. rows: {study: one of "named", "denied", "uncertain", "blank" for each of CHEXPERT}."""

    rows: dict[str, tuple[str, ...]] = field(default_factory=dict)

    def cell(self, study: str, *, uncertain: Uncertain, blank: Blank, classes: Sequence[str] = CHEXPERT) -> str:
        """The cell of a multilabel target.

        Args:
            study: A study; one that the table does not have is unlabelled.
            uncertain: Uncertain labels: not known, yes, or no.
            blank: Labels that a report does not mention: not known, or no.
            classes: Which of CHEXPERT the target has.

        Returns:
            Names joined by ";", "?" before those that nobody knows, "-" for none, "" where nothing at all is known.

        >>> table = Labels({"1": ("named", "uncertain", *12 * ("denied",))})
        >>> table.cell("1", uncertain="ignore", blank="ignore"), table.cell("1", uncertain="zeros", blank="ignore")
        ('Atelectasis;?Cardiomegaly', 'Atelectasis')
        """
        meaning = {"named": "yes", "denied": "no"}
        meaning |= {"uncertain": {"ignore": "?", "ones": "yes", "zeros": "no"}[uncertain]}
        meaning |= {"blank": {"ignore": "?", "zeros": "no"}[blank]}
        states = dict(zip(CHEXPERT, self.rows.get(study, ()), strict=False))
        answers = [meaning[states[name]] for name in classes if name in states]
        if all(answer == "?" for answer in answers):
            return ""
        said = {"yes": "", "?": "?"}
        names = [said[answer] + name for name, answer in zip(classes, answers, strict=True) if answer in said]
        return ";".join(names) or "-"

    def counts(self, studies: Sequence[str], classes: Sequence[str] = CHEXPERT) -> str:
        """How often each label is named, denied, uncertain and not mentioned: one sentence.

        Args:
            studies: Those that count.
            classes: As in `cell`.
        """
        table: Mapping[str, Counter[str]] = {name: Counter() for name in classes}
        for study in studies:
            for name, state in zip(CHEXPERT, self.rows.get(study, ()), strict=False):
                if name in table:
                    table[name][state] += 1
        return ", ".join(f"{name} {'/'.join(str(counts[state]) for state in _ORDER)}" for name, counts in table.items())


def read_labels(path: Path, *, renamed: Mapping[str, str] | None = None) -> Labels:
    """Reads a table with a column study_id and the 14 labels, .csv or .csv.gz.

    Args:
        path: The table.
        renamed: {label: its column} of those that the table calls otherwise.

    Returns:
        The labels of each study.

    Raises:
        DataError: The table is damaged, lacks a column, holds another value, or has two rows of one study.
    """
    columns = [(renamed or {}).get(name, name) for name in CHEXPERT]
    labels = Labels()
    for study, *cells in read_columns(path, ["study_id", *columns]):
        if study in labels.rows:
            rule = "have one row for each study"
            raise DataError(message("table", rule, "two", subject=study, do="Remove one of them", file=str(path)))
        labels.rows[study] = tuple(_state(cell, study, path) for cell in cells)
    return labels


def _state(cell: str, study: str, path: Path) -> str:
    try:
        return _VALUES[float(cell)] if cell else "blank"
    except (ValueError, KeyError):
        do = "Take the table as it was published"
        rule = "hold 1, 0, -1 (uncertain) or a blank cell"
        raise DataError(message("table", rule, repr(cell[:20]), subject=study, do=do, file=str(path))) from None
