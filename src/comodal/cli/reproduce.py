"""`comodal reproduce`: one published table, ours beside the published numbers."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from comodal.cli.answer import Answer
from comodal.cli.console import Console
from comodal.cli.options import known_name
from comodal.study.published import known_tables

if TYPE_CHECKING:
    from comodal.reporting.reproduction import AnyReproduction

_KNOWN = "; ".join(f"{name}: {table.title}" for name, table in known_tables().items())


def reproduce(
    name: Annotated[str, typer.Argument(metavar="TABLE", help=f"Which table. {_KNOWN}.")],
    *,
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="Folder for cohort, study, runs and tables.")],
    data: Annotated[
        Path | None, typer.Option("--data", metavar="ROOT", help="Folder of the table's data set; without it, a phantom.")
    ] = None,
    console: Console,
) -> Answer:
    """Does one published table again, beside the published numbers; typed again, it goes on where it was interrupted.

    DIR/study.yaml can be changed before another call; it is then used as it is.
    """
    known_name(name, known_tables(), owner="TABLE", kind="table")
    from comodal import api
    from comodal.study.melanoma import MelanomaReproduction
    from comodal.study.reports import CountsReproduction

    found = api.reproduce(name, out=out, data=data, on_event=console.on_event)
    if isinstance(found, MelanomaReproduction):
        written = {"reproduction": out / "reproduction.md"}
        document = {"table": name, "title": known_tables()[name].title, "synthetic": found.synthetic, "release": found.release}
        document |= {"lines": found.lines, "mismatches": found.mismatches, "suspicious": found.suspicious, "files": written}
        return Answer(document, show=[f"Beside the references: {written['reproduction']}"])
    if isinstance(found, CountsReproduction):
        written = {"reproduction": out / "reproduction.md"}
        lines = [{"published": row, "ours": ours} for row, ours in found.lines]
        document = {"table": name, "title": found.table.title, "source": found.table.source, "remarks": found.table.remarks}
        document |= {"synthetic": found.synthetic, "cases": found.cases, "shared": found.shared, "lines": lines}
        return Answer(document | {"files": written}, show=[f"Published numbers beside ours: {written['reproduction']}"])
    table = found.table
    files = {"study": out / "study.yaml", "reproduction": out / "reproduction.md", "table": out / "table.md"}
    files |= {path.stem: path for path in found.study.further_tables.values()}
    files |= {path.stem: path for path in (found.study.test_table, found.study.class_table) if path.is_file()}
    files |= {path.stem: path for path in sorted([*out.glob("shapes-*.png"), *out.glob("guidance-*.png")])}
    files["page"] = out / "page.html"
    document = {
        "table": name,
        "title": table.title,
        "caption": table.caption,
        "source": table.source,
        "remarks": table.remarks,
        **_of_kind(found),
        "cohort": found.cohort,
        "synthetic": found.synthetic,
        "same_data": found.same_data,
        "cases": found.cases,
        "published_cases": table.cases,
        "lines": found.lines,
        "runs": found.study.runs,
        "files": files,
    }
    show = [f"Published numbers beside ours: {files['reproduction']}", f"Open the page in a browser: {files['page']}"]
    return Answer(document, show=show)


def _of_kind(found: AnyReproduction) -> dict[str, Any]:
    """What only tables of one kind have."""
    from comodal.study.guidance import GuidanceReproduction
    from comodal.study.reports import ReportsReproduction
    from comodal.study.reproducing import Reproduction
    from comodal.study.variants import VariantReproduction

    if isinstance(found, Reproduction):
        table = found.table
        return {"metric": table.metric, "unit": table.unit, "difference": f"{table.subject} - method"}
    own: dict[str, Any] = {
        "statement": found.table.statement,
        "otherwise": found.otherwise,
        "difference": f"method - {found.study.reference}",
    }
    if isinstance(found, GuidanceReproduction):
        guided, inferior = found.table.row("guided").name, found.table.row("inferior").name
        own |= {"difference": f"{guided} - {inferior}", "metrics": found.table.metrics, "gains": found.gains}
        return own | {"tests": found.tests, "orders": found.orders, "melanoma": found.melanoma}
    if isinstance(found, ReportsReproduction):
        return own | {"difference": f"method - {found.combined.reference}", "present": found.table.present}
    if isinstance(found, VariantReproduction):
        return own | {"empties": found.empties, "apart": found.apart}
    pair = dict(zip(("primary", "auxiliary"), found.pair, strict=True))
    return {"statement": own["statement"], "otherwise": own["otherwise"], **pair, "ceiling": found.ceiling}
