"""Everything that the commands do, as functions for a notebook. Nothing here prints; `on_event` hears what happens."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from comodal import data as datasets
from comodal.config import load_config
from comodal.data.cohort import Cohort
from comodal.data.integrity import CheckReport
from comodal.data.joining import Keep, On
from comodal.errors import ConfigError, message
from comodal.evaluation.comparison import combine
from comodal.evaluation.results import Results
from comodal.evaluation.table import StudyTable
from comodal.inference.writing import Written
from comodal.information.fit import InformationReport
from comodal.information.fold import FitSettings
from comodal.run import Run
from comodal.study.cohorts import check_files, convert_cohort, write_index, write_join, write_phantom
from comodal.study.demo import prepare_demo
from comodal.study.evaluating import evaluate_run
from comodal.study.information import Array, compare
from comodal.study.predicting import one_patient, predict_cases
from comodal.study.published import load_table
from comodal.study.reproducing import Reproduction, beside, prepare_table
from comodal.study.study import StudyResult, run_study
from comodal.training.events import Emit, Said, Table, silent
from comodal.training.plan import InitResult, plan
from comodal.training.train import train_run

if TYPE_CHECKING:
    PathLike = Path | str


def phantom(
    name: str,
    out: PathLike,
    *,
    cases: int | None = None,
    size: int | None = None,
    seed: int | None = None,
    missing: str | None = None,
    rates: Mapping[str, float] | None = None,
    release: str | None = None,
    settings: Mapping[str, Any] | None = None,
    on_event: Emit = silent,
) -> Path:
    """Writes a synthetic cohort on disk, in the layout of the data set that it stands for, and indexes it.

    Args:
        name: Key of PHANTOMS ("brain", "chest").
        out: Folder to write; the files go into `out/files`, the cohort beside it.
        cases: How many subjects.
        size: Voxels along each side.
        seed: Case k depends on (seed, k) only.
        missing: "none", "random", "imbalanced" or "site".
        rates: {modality: share of subjects that lack it}.
        release: Which of the layouts that a phantom knows: "2015", "2020" or "2023" of the brain.
        settings: What else the phantom can be told: {key: value} of its configuration.
        on_event: Listener.

    Returns:
        The cohort.csv.

    Raises:
        ConfigError: Unknown phantom, a value out of range, or a folder with a cohort that is not this phantom's.
    """
    given = {"cases": cases, "size": size, "seed": seed, "missing": missing, "rates": rates, "release": release}
    return write_phantom(name, Path(out), {**given, **(settings or {})}, emit=on_event)


def index(
    layout: str,
    root: PathLike,
    out: PathLike | None = None,
    *,
    options: Mapping[str, Any] | None = None,
    overwrite: bool = False,
) -> Cohort:
    """Scans a folder (or, for the layout "csv", a table) into a cohort.

    Args:
        layout: Key of the layouts' table.
        root: The data set's folder, or the user's own CSV.
        out: Where to write cohort.csv; its yaml stands beside it.
        options: {key: value} of what the layout can be told.
        overwrite: Replace a cohort that was written there before.

    Returns:
        The cohort.

    Raises:
        ConfigError: Unknown layout, missing folder, or a file in the place of `out`.
        DataError: What lies there is not of this layout.
    """
    if out is None:
        return datasets.index(layout, Path(root), options)
    return write_index(layout, Path(root), Path(out), options=options, overwrite=overwrite)


def join(
    cohorts: Sequence[PathLike | Cohort],
    out: PathLike | None = None,
    *,
    on: On = "auto",
    keep: Keep = "both",
    options: Mapping[str, Mapping[str, Any]] | None = None,
    overwrite: bool = False,
) -> Cohort:
    """Joins cohorts of the same patients, for instance radiology and pathology; see `comodal.data.joining.join`.

    Args:
        cohorts: Two or more, each a cohort.csv, "LAYOUT:ROOT", which is indexed first, or a cohort in memory.
        out: Where to write cohort.csv; its yaml stands beside it.
        on: "subject": equal ids belong together; "group": cases of one patient; "auto": first the one, then the other.
        keep: "both": only cases that every cohort has; "all": also the others, with blank cells.
        options: {layout: {key: value}} of what the layouts can be told.
        overwrite: Replace a cohort that was written there before.

    Returns:
        The cohort.

    Raises:
        ConfigError: Fewer than two, an unknown layout, or a file in the place of `out`.
        DataError: Nothing in common, or what cannot be decided: it names the cases.
    """
    return write_join(cohorts, None if out is None else Path(out), on=on, keep=keep, options=options, overwrite=overwrite)


def convert(cohort: PathLike, layout: str, out: PathLike, *, on_event: Emit = silent) -> list[str]:
    """Writes a cohort in the layout of another tool.

    Args:
        cohort: The cohort.csv.
        layout: "nnunet" (files, consecutive labels, folds by patient) or "datalist" (a JSON for MONAI; nothing is copied).
        out: A new or empty folder.
        on_event: Listener.

    Returns:
        What the other tool will not see, one sentence each.
    """
    return convert_cohort(Path(cohort), layout, Path(out), emit=on_event)


def check(cohort: PathLike, *, workers: int | None = 1, on_event: Emit = silent) -> CheckReport:
    """Reads every file of a cohort to its last byte; see `comodal.data.integrity`.

    Args:
        cohort: The cohort.csv.
        workers: Processes that read; 1 reads in this one, None takes what the machine has where that is worth it. A script
            that asks for several must guard its own code with `if __name__ == "__main__"`.
        on_event: Listener.

    Returns:
        Who has what, counts of classes and regions, and everything that was found.
    """
    return check_files(Path(cohort), workers=workers, emit=on_event)


def init(
    method: str, cohort: PathLike, *, out: PathLike | None = None, minutes: float | None = None, spatial_dims: int | None = None
) -> InitResult:
    """A complete configuration for these data and this machine; see `comodal.training.plan`.

    Args:
        method: Key of METHODS.
        cohort: The cohort.csv.
        out: Where to write the YAML; the cohort's path in it is relative to this file.
        minutes: How long training may take here.
        spatial_dims: 2 or 3 to override the choice.

    Returns:
        The configuration and its commented text.
    """
    if out is None:
        return plan(method, Path(cohort), minutes=minutes, spatial_dims=spatial_dims)
    out = Path(out)
    if out.exists():
        raise ConfigError(message("--out", "be a new file", str(out), do="Choose another name, or delete it"))
    relative = Path(os.path.relpath(Path(cohort).resolve(), out.resolve().parent)).as_posix()
    made = plan(method, Path(cohort), minutes=minutes, spatial_dims=spatial_dims, written=relative)
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(made.text, encoding="utf-8")
    return made


def train(
    config: PathLike,
    *,
    out: PathLike,
    overrides: Sequence[str] = (),
    resume: bool = False,
    init: PathLike | None = None,
    device: str | None = None,
    devices: int | None = None,
    on_event: Emit = silent,
) -> Run:
    """Trains a method as a configuration says; see `comodal.training.train.train_run`.

    Args:
        config: YAML file.
        out: The run folder to write.
        overrides: "training.seed=3".
        resume: Go on where a killed training of `out` stopped.
        init: A run whose weights to start from.
        device: "auto", "cpu" or "cuda", instead of the configuration's.
        devices: Number of processes, instead of the configuration's.
        on_event: Listener.

    Returns:
        The finished run.
    """
    more = [f"training.device={device}"] if device else []
    more += [f"training.devices={devices}"] if devices else []
    loaded = load_config(Path(config), [*overrides, *more])
    return train_run(loaded, Path(out), resume=resume, init=Path(init) if init is not None else None, emit=on_event)


def evaluate(
    run: PathLike | Run,
    *,
    split: str = "test",
    subsets: str = "all",
    use: Sequence[str] | None = None,
    cohort: PathLike | None = None,
    device: str = "auto",
    on_event: Emit = silent,
) -> Results:
    """Metrics for every subset of modalities, written to `RUN/results/<split>.json`; see `evaluate_run`."""
    other = Cohort.load(Path(cohort)) if cohort is not None else None
    return evaluate_run(_run(run), split=split, subsets=subsets, use=use, cohort=other, device=device, emit=on_event)


def predict(
    run: PathLike | Run,
    *,
    out: PathLike,
    inputs: Mapping[str, PathLike] | None = None,
    cohort: PathLike | None = None,
    use: Sequence[str] | None = None,
    subject: str = "prediction",
    regions: bool = False,
    probabilities: bool = False,
    overwrite: bool = False,
    device: str = "auto",
    on_event: Emit = silent,
) -> list[Written]:
    """Predicts from whatever there is, in the geometry of the input.

    Args:
        run: A finished run.
        out: Folder for the predictions.
        inputs: {modality: file} of one patient; or
        cohort: a cohort.csv.
        use: Only these modalities are read; None is all that are there.
        subject: What the one patient of `inputs` is called, and so the files.
        regions: Also write each region as a map.
        probabilities: Also write probabilities.
        overwrite: Replace earlier predictions; files of a cohort are never replaced.
        device: "auto", "cpu" or "cuda".
        on_event: Listener.

    Returns:
        What was written, case by case.

    Raises:
        ConfigError: An unknown modality, or a file in the place of a prediction.
        DataError: A file is missing or damaged, or a case has no usable modality.
    """
    loaded = _run(run)
    source = Cohort.load(Path(cohort)) if cohort is not None else one_patient(loaded, inputs or {}, use=use, subject=subject)
    return predict_cases(
        loaded,
        source,
        use=use,
        out=Path(out),
        regions=regions,
        probabilities=probabilities,
        overwrite=overwrite,
        device=device,
        emit=on_event,
    )


def _run(run: PathLike | Run) -> Run:
    return run if isinstance(run, Run) else Run.load(Path(run))


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
    """Methods x seeds x folds, resumable; writes `table.md` and `page.html` into `out`.

    For each further arm of the study's `against` there is `table-minus-<label>.md`: the same numbers, its differences. Those of
    arms that are not in `against` any more are removed.

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
    from comodal.reporting.page import write_page
    from comodal.reporting.tables import markdown_table, terminal_table

    result = run_study(config, out, emit=on_event)
    names = Run.load(next(iter(result.runs.values()))[0]).problem.names

    def table_of(reference: str) -> StudyTable:
        return combine({reference: result.results[reference], **result.results}, modalities=names)

    table = table_of(result.reference)
    further = result.further_tables
    more = " Each table is corrected by itself." if further else ""
    files = {result.out / "table.md": table, **{path: table_of(label) for label, path in further.items()}}
    for path, one in files.items():
        path.write_text(f"{markdown_table(one).rstrip()}{more}\n", encoding="utf-8")
    for path in result.out.glob("table-minus-*.md"):
        if path not in files and path.is_file():
            path.unlink()
    plain = terminal_table(table)
    write_page({label: result.runs[label] for label in table.methods}, result.out / "page.html")
    return result, Table(plain.caption + more, plain.columns, plain.rows)


def reproduce(table: str, *, out: PathLike, data: PathLike | None = None, on_event: Emit = silent) -> Reproduction:
    """One published table: ours beside the published numbers, on the phantom where no data are given.

    Cohort and study are laid out in `out`; a study.yaml that is there is used as it is, and what was trained is not trained
    again. Writes `reproduction.md`, and `table.md` and `page.html` as `study` does.

    Args:
        table: Key of TABLES ("cmim/table2").
        out: Folder of the study.
        data: The data set's folder.
        on_event: Listener; at the end it hears the table, what each method got, and the footnotes.

    Returns:
        The published and our numbers.

    Raises:
        ConfigError: An unknown table, or a folder with another cohort.
        DataError: A file of the cohort is damaged.
    """
    from comodal.reporting.reproduction import reproduction_text

    published, root = load_table(table), None if data is None else Path(data)
    study_file = prepare_table(published, Path(out), root=root, emit=on_event)
    found = beside(published, _write_study(study_file, Path(out), on_event)[0])
    text = reproduction_text(found)
    (Path(out) / "reproduction.md").write_text(text.markdown(), encoding="utf-8")
    for plain in (text.numbers, text.budget):
        on_event(Table(plain.caption, plain.columns, plain.rows))
    for note in text.notes:
        on_event(Said("info", note))
    return found


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
