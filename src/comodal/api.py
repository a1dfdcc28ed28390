"""Everything that the commands do, as functions for a notebook. Nothing here prints; `on_event` hears what happens."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from comodal import data
from comodal.config import load_config, validated
from comodal.data import phantoms
from comodal.data.cohort import Cohort
from comodal.data.columns import read_meta
from comodal.data.integrity import CheckReport, check_cohort
from comodal.errors import ConfigError, UserError, message
from comodal.evaluation.comparison import combine
from comodal.evaluation.results import Results
from comodal.inference.writing import Written
from comodal.information.fit import InformationReport
from comodal.information.fold import FitSettings
from comodal.run import Run
from comodal.study.evaluating import evaluate_run
from comodal.study.information import Array, compare
from comodal.study.predicting import one_patient, predict_cases
from comodal.study.study import StudyResult, run_study
from comodal.training.events import Clock, Emit, Progress, Said, Table, silent
from comodal.training.plan import InitResult, plan
from comodal.training.train import train_run

if TYPE_CHECKING:
    PathLike = Path | str

DEMO_STUDY = """\
# The demonstration: two networks, trained alike but for modality dropout, on a brain phantom with four MRI sequences.
cohort: cohort.csv
methods:
  - name: unet
    config: {width: 8, levels: 4, steps: 700, rate: 0.003}
  - name: moddrop
    config: {width: 8, levels: 4, steps: 700, rate: 0.003}
reference: unet
data: {spatial_dims: 3, patch: [32, 32, 32], spacing: [5, 5, 5], draws_per_case: 4}
splits: {fractions: [0.55, 0.1, 0.35]}
training: {batch_size: 4, device: cpu, validations: 4, overlap: 0.25}
"""


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
    on_event: Emit = silent,
) -> Path:
    """Writes a synthetic cohort on disk, in the layout of the data set that it stands for, and indexes it.

    Args:
        name: Key of PHANTOMS ("brain").
        out: Folder to write; the files go into `out/files`, the cohort beside it.
        cases: How many subjects.
        size: Voxels along each side.
        seed: Case k depends on (seed, k) only.
        missing: "none", "random", "imbalanced" or "site".
        rates: {modality: share of subjects that lack it}.
        release: "2020" or "2023" names and label codes.
        on_event: Listener.

    Returns:
        The cohort.csv.

    Raises:
        ConfigError: Unknown phantom, a value out of range, or a folder with a cohort that is not this phantom's.
    """
    write, schema = phantoms.load_phantom(name)
    out = Path(out)
    _check_phantom(out / "cohort.csv", name)
    given = {"cases": cases, "size": size, "seed": seed, "missing": missing, "rates": rates, "release": release}
    clock: list[Clock] = []

    def progress(done: int, total: int) -> None:
        clock[:] = clock or [Clock(total)]
        on_event(Progress("writing the phantom", done, total, clock[0].left(done)))

    settings = validated(schema, {k: v for k, v in given.items() if v is not None}, f"phantom {name}")
    write(out / "files", settings, on_progress=progress)
    cohort = index(phantoms.PHANTOMS[name].layout, out / "files")
    meta = cohort.meta.model_copy(update={"notes": [*cohort.meta.notes, _phantom_note(name)]})
    made = Cohort.build(meta, cohort.cases, cohort.root)
    if (out / "cohort.csv").is_file() and Cohort.load(out / "cohort.csv") != made:
        do = "Choose another folder, or delete it to have it written anew"
        raise ConfigError(message("--out", "hold no changed cohort", "one", file=str(out / "cohort.csv"), do=do))
    return _saved(made, out / "cohort.csv")


def _phantom_note(name: str) -> str:
    return f"synthetic: the {name} phantom, made by code; what a model learns on it says nothing about patients"


def _check_phantom(csv: Path, name: str) -> None:
    """Refuses a cohort in the place of a phantom's that is not one."""
    there = [file for file in (csv, csv.with_suffix(".yaml")) if file.exists()]
    if not there:
        return
    try:
        own = _phantom_note(name) in read_meta(csv.with_suffix(".yaml")).notes
    except UserError:
        own = False
    if not own:
        do = "Choose another folder"
        raise ConfigError(message("--out", f"hold no cohort but that of the {name} phantom", "one", file=str(there[0]), do=do))


def index(layout: str, root: PathLike, out: PathLike | None = None, *, overwrite: bool = False) -> Cohort:
    """Scans a folder (or, for the layout "csv", a table) into a cohort.

    Args:
        layout: Key of the layouts' table.
        root: The data set's folder, or the user's own CSV.
        out: Where to write cohort.csv; its yaml stands beside it.
        overwrite: Replace a cohort that was written there before.

    Returns:
        The cohort.

    Raises:
        ConfigError: Unknown layout, missing folder, or a file in the place of `out`.
        DataError: What lies there is not of this layout.
    """
    if out is not None:
        _check_index(Path(out), Path(root), overwrite=overwrite)
    cohort = data.index(layout, Path(root))
    if out is not None:
        _saved(cohort, Path(out))
        return Cohort.load(Path(out))
    return cohort


def _check_index(csv: Path, root: Path, *, overwrite: bool) -> None:
    """Refuses to write over anything, and, when asked to overwrite, over anything but a cohort."""
    files = (csv, csv.with_suffix(".yaml"))
    if os.path.realpath(root) in map(os.path.realpath, files):
        do = "Choose another name, for instance cohort.csv"
        raise ConfigError(message("--out", "be another file than the table that is read", str(csv), do=do))
    there = next((file for file in files if file.exists()), None)
    if there is None:
        return
    do = "Choose another name, or add --overwrite to write the cohort anew"
    if overwrite:
        try:
            read_meta(files[1])
            return
        except UserError:
            do = "Choose another name; --overwrite replaces a cohort, a csv with its yaml, and nothing else"
    raise ConfigError(message("--out", "be a new file", "one that is there", file=str(there), do=do))


def _saved(cohort: Cohort, path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    return cohort.save(path)


def check(cohort: PathLike, *, on_event: Emit = silent) -> CheckReport:
    """Reads every file of a cohort to its last byte; see `comodal.data.integrity`."""
    loaded = Cohort.load(Path(cohort))
    clock = Clock(len(loaded))
    return check_cohort(loaded, lambda done, total: on_event(Progress("checking", done, total, clock.left(done))))


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

    Args:
        config: study.yaml.
        out: Folder of the study.
        on_event: Listener; at the end it hears the table.

    Returns:
        All runs and results.
    """
    from comodal.reporting.page import write_page
    from comodal.reporting.tables import markdown_table, terminal_table

    result = run_study(Path(config), Path(out), emit=on_event)
    order = {result.reference: result.results[result.reference], **result.results}
    table = combine(order, modalities=Run.load(next(iter(result.runs.values()))[0]).problem.names)
    (result.out / "table.md").write_text(markdown_table(table), encoding="utf-8")
    plain = terminal_table(table)
    on_event(Table(plain.caption, plain.columns, plain.rows))
    page = write_page({label: result.runs[label] for label in order}, result.out / "page.html")
    on_event(Said("info", f"page: {page}"))
    return result


def demo(out: PathLike, *, on_event: Emit = silent) -> Path:
    """The whole story on a phantom: cohort, check, two networks, all-subsets table, page.

    Args:
        out: Folder; what is there already is not made again.
        on_event: Listener.

    Returns:
        The page.
    """
    out = Path(out)
    cohort = out / "cohort.csv"
    _check_phantom(cohort, "brain")
    if not cohort.is_file():
        on_event(Said("info", "writing a brain phantom: 40 subjects with FLAIR, T1, T1ce and T2, in the layout of BraTS 2020"))
        phantom("brain", out, cases=40, size=48, seed=0, on_event=on_event)
    report_ = check(cohort, on_event=on_event)
    errors = [defect for defect in report_.defects if defect.level == "error"]
    on_event(Said("info", f"checked every file to its last byte: {len(report_.defects)} remarks, {len(errors)} errors"))
    if not (out / "study.yaml").is_file():
        (out / "study.yaml").write_text(DEMO_STUDY, encoding="utf-8")
    study(out / "study.yaml", out=out, on_event=on_event)
    return out / "page.html"
