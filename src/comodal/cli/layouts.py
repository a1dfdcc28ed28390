"""`comodal layouts`: which folders `comodal index` understands."""

from __future__ import annotations

from comodal.cli.answer import Answer
from comodal.cli.console import table


def layouts() -> Answer:
    """Lists the layouts of data sets that `comodal index` understands."""
    from comodal.data import LAYOUTS_INFO

    rows = [(layout.name, layout.summary, layout.reference) for layout in LAYOUTS_INFO.values()]
    document = [dict(zip(("name", "summary", "reference"), row, strict=True)) for row in rows]
    grid = table("", ("layout", "what it is", "reference"), rows)
    return Answer({"layouts": document}, show=[grid], next="comodal index LAYOUT ROOT --out cohort.csv")
