"""Comparing and showing: pages, studies, published tables, mutual information, the demonstration."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from comodal.evaluation.comparison import combine
from comodal.evaluation.table import StudyTable
from comodal.information.fit import InformationReport
from comodal.information.fold import FitSettings
from comodal.run import Run
from comodal.study.cohorts import write_phantom
from comodal.study.demo import prepare_demo
from comodal.study.guidance import beside_guidance
from comodal.study.information import Array, compare
from comodal.study.melanoma import MelanomaReproduction, infer_melanoma
from comodal.study.published import PublishedTable, load_table
from comodal.study.published_ciml import VariantTable
from comodal.study.published_guidance import CHECKLISTS, ChecklistTable, GuidanceTable
from comodal.study.published_reports import COUNTS, ReportsTable
from comodal.study.reports import CountsReproduction, beside_reports, count_labels
from comodal.study.reproducing import beside, prepare_table
from comodal.study.shapes import beside_shapes, panels
from comodal.study.study import StudyResult, run_study
from comodal.study.variants import beside_variants
from comodal.training.events import Emit, Said, Table, silent

if TYPE_CHECKING:
    from comodal.reporting.melanoma import MelanomaText
    from comodal.reporting.reproduction import AnyReproduction, ReproductionText
    from comodal.reporting.variants import VariantText

    PathLike = Path | str


def report(runs: PathLike | Sequence[PathLike], *, out: PathLike, title: str | None = None) -> Path:
    """One self-contained HTML page of one or several runs; a study's folder stands for all its runs."""
    from comodal.reporting.page import write_page

    given = [runs] if isinstance(runs, str | Path) else list(runs)
    return write_page([Path(path) for path in given], Path(out), title=title)


def mi(
    x: PathLike | Array,
    y: PathLike | Array,
    *,
    groups: PathLike | Sequence[str] | None = None,
    id_column: str | None = None,
    categories: Sequence[str] = (),
    settings: FitSettings | None = None,
    device: str = "auto",
    on_event: Emit = silent,
) -> InformationReport:
    """Estimates the mutual information of paired rows; see `comodal.information.fit`.

    Args:
        x: A .npy, .npz ("file.npz:KEY") or .csv file, or an array (n, F) or (n,).
        y: The same; its rows belong to those of x.
        groups: The group (patient, study) of each row: a file, or n labels. Rows of one group are not independent.
        id_column: Column of the CSV files by which rows are matched.
        categories: Columns of the CSV files that hold categories.
        settings: Of the fitting.
        device: "auto", "cpu" or "cuda".
        on_event: Listener.

    Returns:
        Estimates on held-out pairs with interval, kind and ceiling, and a shuffled control.
    """
    return compare(
        x, y, groups=groups, id_column=id_column, categories=categories, settings=settings, device=device, emit=on_event
    )


def study(config: PathLike, *, out: PathLike, on_event: Emit = silent) -> StudyResult:
    """Methods x seeds x folds x divisions, resumable; writes `table.md` and `page.html` into `out`.

    For each further arm of the study's `against` there is `table-minus-<label>.md`: the same numbers, its differences. Those of
    arms that are not in `against` any more are removed. Where subsets can be compared with all modalities, `table-drop.md` has
    what each method loses from each. Where classes are predicted, `table-tests.md` has McNemar's and DeLong's test of each arm
    against the reference, and `table-classes.md` the AUROC of each class beside its positives and negatives.

    Args:
        config: study.yaml.
        out: Folder of the study.
        on_event: Listener; at the end it hears the table.

    Returns:
        All runs and results.
    """
    result, table = _write_study(Path(config), Path(out), on_event)
    on_event(table)
    on_event(Said("info", f"page: {result.out / 'page.html'}"))
    return result


def _write_study(config: Path, out: Path, on_event: Emit) -> tuple[StudyResult, Table]:
    """Runs a study and writes `table.md` and `page.html`; the table is for the listener."""
    from comodal.reporting.class_areas import areas_markdown
    from comodal.reporting.drops import drop_markdown
    from comodal.reporting.page import write_page
    from comodal.reporting.paired import paired_markdown
    from comodal.reporting.tables import study_markdown, terminal_table

    result = run_study(config, out, emit=on_event)
    # Every subset has a row, if only to say "not run", unless one alone was asked for.
    names = Run.load(next(iter(result.runs.values()))[0]).problem.names if result.config.subsets == "all" else None

    def table_of(reference: str) -> StudyTable:
        return combine({reference: result.results[reference], **result.results}, modalities=names)

    table = table_of(result.reference)
    further = result.further_tables
    more = " Each table is corrected by itself." if further else ""
    files = {result.out / "table.md": table, **{path: table_of(label) for label, path in further.items()}}
    for path, one in files.items():
        path.write_text(f"{study_markdown(one).rstrip()}{more}\n", encoding="utf-8")
    for path in result.out.glob("table-minus-*.md"):
        if path not in files and path.is_file():
            path.unlink()
    beside = {
        result.drop_table: drop_markdown(table),
        result.test_table: paired_markdown(result),
        result.class_table: areas_markdown(table, result.results),
    }
    for path, text in beside.items():
        if text:
            path.write_text(text, encoding="utf-8")
        else:
            path.unlink(missing_ok=True)
    plain = terminal_table(table)
    write_page({label: result.runs[label] for label in table.methods}, result.out / "page.html", results=result.results)
    return result, Table(plain.caption + more, plain.columns, plain.rows)


def reproduce(
    table: str, *, out: PathLike, data: PathLike | None = None, on_event: Emit = silent
) -> AnyReproduction | MelanomaReproduction | CountsReproduction:
    """One published table: ours beside the published numbers, on the phantom where no data are given.

    Cohort and study are laid out in `out`; a study.yaml that is there is used as it is, and what was trained is not trained
    again. Writes `reproduction.md`, and `table.md` and `page.html` as `study` does.

    Args:
        table: Key of TABLES ("cmim/table2"), VARIANTS ("ciml/table5"), GUIDANCE ("guidance/table1") or REPORTS
            ("local-mi/table2").
        out: Folder of the study.
        data: The data set's folder.
        on_event: Listener; at the end it hears the tables, what each method got, and the footnotes.

    Returns:
        The published and our numbers: a `Reproduction` of a table by subsets of modalities, a `VariantReproduction` of one by
        methods or variants, a `ShapesReproduction` of ShapeComposition, a `GuidanceReproduction` of guidance, a
        `ReportsReproduction` of images and reports. Of those that train nothing, "guidance/melanoma" is a
        `MelanomaReproduction` and "local-mi/table1" a `CountsReproduction`.

    Raises:
        ConfigError: An unknown table, or a folder with another cohort.
        DataError: A file of the cohort is damaged.
    """
    from comodal.reporting.guidance import guidance_text, write_figure
    from comodal.reporting.reports import counts_text, reports_text
    from comodal.reporting.reproduction import reproduction_text
    from comodal.reporting.shapes import shapes_text, write_pictures
    from comodal.reporting.variants import variant_text

    root = None if data is None else Path(data)
    if table in CHECKLISTS:
        return _checklist(CHECKLISTS[table], Path(out), data, on_event)
    if table in COUNTS:
        Path(out).mkdir(parents=True, exist_ok=True)
        counts = count_labels(COUNTS[table], Path(out), root=root, emit=on_event)
        _say(counts_text(counts), Path(out), on_event)
        return counts
    published = load_table(table)
    study_file = prepare_table(published, Path(out), root=root, emit=on_event)
    result, _ = _write_study(study_file, Path(out), on_event)
    found: AnyReproduction
    if isinstance(published, PublishedTable):
        found = beside(published, result)
        text: ReproductionText | VariantText = reproduction_text(found)
    elif isinstance(published, VariantTable):
        found = beside_variants(published, result)
        text = variant_text(found)
    elif isinstance(published, GuidanceTable):
        found = beside_guidance(published, result)
        write_figure(found, Path(out))
        text = guidance_text(found)
    elif isinstance(published, ReportsTable):
        found = beside_reports(published, result)
        text = reports_text(found)
    else:
        found = beside_shapes(published, result, emit=on_event)
        write_pictures(found, panels(found), Path(out))
        text = shapes_text(found)
    _say(text, Path(out), on_event)
    return found


def _checklist(table: ChecklistTable, out: Path, data: PathLike | None, emit: Emit) -> MelanomaReproduction:
    """The seven-point score of true criteria, on the data set or on the phantom."""
    from comodal.reporting.melanoma import melanoma_text

    out.mkdir(parents=True, exist_ok=True)
    if data is None:
        settings = dict(table.phantom)
        write_phantom(str(settings.pop("name")), out, settings, emit=emit)
    found = infer_melanoma(out / "files" if data is None else Path(data))
    _say(melanoma_text(found), out, emit)
    return found


def _say(text: ReproductionText | VariantText | MelanomaText, out: Path, emit: Emit) -> None:
    (out / "reproduction.md").write_text(text.markdown(), encoding="utf-8")
    for plain in text.tables:
        emit(Table(plain.caption, plain.columns, plain.rows))
    for note in text.notes:
        emit(Said("info", note))


def demo(out: PathLike, *, on_event: Emit = silent) -> Path:
    """The whole story on a phantom: cohort, check, two networks, all-subsets table, page.

    Args:
        out: Folder; what is there already is not made again.
        on_event: Listener.

    Returns:
        The page.
    """
    study(prepare_demo(Path(out), emit=on_event), out=out, on_event=on_event)
    return Path(out) / "page.html"
