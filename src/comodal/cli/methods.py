"""`comodal methods`: what there is."""

from __future__ import annotations

from comodal.cli.answer import Answer
from comodal.cli.console import table


def methods() -> Answer:
    """Lists the methods with citation, tasks, and what each needs at training and at test."""
    from comodal.methods import METHODS

    rows = [
        (name, entry.summary, ", ".join(entry.tasks), entry.at_training, entry.at_test, entry.citation)
        for name, entry in METHODS.items()
    ]
    document = [
        {
            "name": name,
            "summary": entry.summary,
            "tasks": list(entry.tasks),
            "at_training": entry.at_training,
            "at_test": entry.at_test,
            "citation": entry.citation,
        }
        for name, entry in METHODS.items()
    ]
    columns = ("method", "what it is", "tasks", "needs at training", "needs at test", "citation")
    return Answer({"methods": document}, show=[table("", columns, rows)], next="comodal init METHOD COHORT --out config.yaml")
