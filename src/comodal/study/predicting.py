"""Predictions of a trained run for the cases of a cohort, written as files."""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from comodal.data.atomic import replacing
from comodal.data.cohort import Case, Cohort, ModalitySpec
from comodal.data.reading import read_header
from comodal.data.tables import spreadsheet_safe
from comodal.errors import ConfigError, DataError, UnsupportedSubset, message, nearest
from comodal.inference.predictor import can_predict, predict_case
from comodal.inference.writing import SUFFIXES, Written, names_of, write_prediction
from comodal.modality import subset_name, subsets
from comodal.run import Run
from comodal.study.evaluating import check_names, pick_device, usable
from comodal.training.events import Clock, Emit, Progress, Said, silent

TABLE = "predictions.csv"


def predict_cases(
    run: Run,
    cohort: Cohort,
    *,
    use: Sequence[str] | None,
    out: Path,
    regions: bool = False,
    probabilities: bool = False,
    overwrite: bool = False,
    device: str = "auto",
    emit: Emit = silent,
) -> list[Written]:
    """Predicts each case from those of the wanted modalities that it has; only their files are opened.

    Args:
        run: Finished.
        cohort: Cases with columns of the run's modalities; it may lack some of them and have others.
        use: Wanted modalities; None is all.
        out: Folder.
        regions, probabilities: What to write beside label maps.
        overwrite: Replace what lies there under the name of a prediction; files of the cohort are never replaced.
        device: "auto", "cpu" or "cuda".
        emit: Listener.

    Returns:
        What was written. Targets that are classes go into one table, `predictions.csv`.

    Raises:
        ConfigError: A file of this name is there, or the folder is one of the cohort's; nothing has been written then, as for
            all that follow.
        DataError: A case has none of the wanted modalities.
        UnsupportedSubset: The method cannot predict from what a case has.
    """
    names = usable(run, use)
    preparer = run.preparer(cohort, targets=False)
    plan = {case.id: _usable_of(case, names) for case in cohort.cases}
    _check_out(run, cohort, out, regions=regions, probabilities=probabilities, overwrite=overwrite)
    where = pick_device(device)
    method = run.method(where)
    for name, subset in plan.items():
        if not can_predict(method, subset):
            can = ", ".join(subset_name(s) for s in subsets(names) if can_predict(method, s)) or "none of these modalities"
            rule = f"have a subset of modalities from which {run.label} predicts ({can})"
            got = subset_name(subset)
            do = "Leave the subject out, or add a modality that it has to --use"
            raise UnsupportedSubset(message("a case to predict", rule, got, subject=name, do=do))
    unknown = [m.name for m in cohort.modalities if m.name not in run.problem.names]
    if unknown:
        emit(Said("info", f"not used, since the run does not know them: {', '.join(unknown)}"))
    clock = Clock(len(cohort))
    written: list[Written] = []
    rows: list[dict[str, str]] = []
    for done, case in enumerate(cohort.cases, start=1):
        subset = plan[case.id]
        prepared = preparer.case(case, use=subset, with_targets=False)
        ((_, found),) = predict_case(method, prepared, subsets=[subset], overlap=run.config.training.overlap, device=where)
        files: tuple[Path, ...] = ()
        if prepared.grid is not None and run.problem.task == "segmentation":
            files = write_prediction(
                preparer.cohort,
                case,
                found.probabilities,
                grid=prepared.grid,
                targets=run.problem.targets,
                used=[n for n in subset if run.problem.modality(n).grid == run.problem.grid],  # whose voxels they are
                out=out,
                regions=regions,
                as_probabilities=probabilities,
            ).files
        written.append(Written(case.id, found.used, files))
        rows.append({"subject": case.id, "used": "+".join(found.used), **_class_columns(run, found.probabilities)})
        emit(Progress("predicting", done, len(cohort), clock.left(done)))
    if any(not t.is_segmentation for t in run.problem.targets):
        table = _write_table(rows, out / TABLE)
        written = [replace(one, files=(*one.files, table)) for one in written]
    return written


def _check_out(run: Run, cohort: Cohort, out: Path, *, regions: bool, probabilities: bool, overwrite: bool) -> None:
    """Looks at every file to be written: a prediction named like its truth may lie beside it."""
    targets = run.problem.targets
    names = [TABLE] if any(not t.is_segmentation for t in targets) else []
    stems = [n for c in cohort.cases for n in names_of(c.id, targets, regions=regions, as_probabilities=probabilities)]
    names += [stem + suffix for stem in stems for suffix in SUFFIXES]
    for name in sorted({name for name in names if names.count(name) > 1}) if len(set(names)) < len(names) else ():
        raise DataError(message("predictions", "have names of their own", f"{name} twice", do="Rename a subject or a class"))
    real = os.path.realpath(out)
    theirs = _files_of(cohort) | _files_of(run.cohort)
    inside = next((folder for folder in (real, *map(str, Path(real).parents)) if folder in theirs), None)
    if inside is not None or os.path.isfile(real):
        got, do = "a folder of slices" if inside else "a file", "Choose another folder"
        raise ConfigError(message("--out", "be a folder of its own", got, file=str(out), do=do))
    there = set(os.listdir(real)) if os.path.isdir(real) else set()
    for name in names:
        if os.path.join(real, name) in theirs:
            got, do = "a file of the cohort", "Choose another folder; --overwrite replaces predictions only"
        elif name in there and not overwrite:
            got, do = "one that is there", "Choose another folder, or add --overwrite to replace earlier predictions"
        else:
            continue
        raise ConfigError(message("a prediction", "be a new file", got, file=str(out / name), do=do))


def _files_of(cohort: Cohort) -> set[str]:
    """All that a cohort names or has withheld, listed or linked: real paths. No file is opened."""
    columns = [spec.name for spec in cohort.meta.columns if cohort.holds_files(spec.name)]
    paths = {cohort.root / case.cells[name] for case in cohort.cases for name in columns if name in case.cells}
    paths |= {cohort.root / cell for cells in cohort.meta.withheld.values() for cell in cells.values()}
    paths |= {cohort.path, cohort.path.with_suffix(".yaml")} if cohort.path is not None else set()
    return {os.path.realpath(path) for path in paths} | set(_entries(paths))


def _entries(paths: Iterable[Path]) -> Iterable[str]:
    """The paths with only their folders resolved: a link in a cohort's place must stay as well."""
    folders: dict[Path, str] = {}
    for path in paths:
        if path.parent not in folders:
            folders[path.parent] = os.path.realpath(path.parent)
        yield os.path.join(folders[path.parent], path.name)


def _usable_of(case: Case, names: Sequence[str]) -> tuple[str, ...]:
    subset = tuple(name for name in names if name in case.cells)
    if not subset:
        rule, got = f"have one of {', '.join(names)}", ", ".join(case.cells) or "nothing"
        do = "Leave the subject out, or add a modality that it has to --use"
        raise DataError(message("a case to predict", rule, got, subject=case.id, do=do))
    return subset


def _class_columns(run: Run, found: Mapping[str, NDArray[np.float32]]) -> dict[str, str]:
    """{target: the answer, target/class: probability} of the targets that are classes."""
    row: dict[str, str] = {}
    for target in run.problem.targets:
        if target.is_segmentation:
            continue
        values = found[target.name]
        if target.kind == "multilabel":
            row[target.name] = ";".join(c for c, p in zip(target.classes, values, strict=True) if p >= 0.5) or "-"
        else:
            row[target.name] = target.classes[int(np.argmax(values))]
        row |= {f"{target.name}/{c}": f"{float(p):.6f}" for c, p in zip(target.classes, values, strict=True)}
    return row


def _write_table(rows: Sequence[dict[str, str]], path: Path) -> Path:
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows([{name: spreadsheet_safe(cell) for name, cell in row.items()} for row in rows])
    with replacing(path) as file:
        file.write(text.getvalue().encode())
    return path


def one_patient(run: Run, inputs: Mapping[str, Path | str], *, use: Sequence[str] | None, subject: str) -> Cohort:
    """A cohort of one case made of files anywhere on this machine.

    Args:
        run: Finished.
        inputs: {modality: file}.
        use: Only these modalities; None is all that are given.
        subject: What the patient is called.

    Raises:
        ConfigError: No modality, or one that the run does not know.
        DataError: A file that is not there, or none left to use.
    """
    names = run.problem.names
    for name in inputs:
        if name not in names:
            raise ConfigError(message("--input", "name a modality of the run", repr(name), do=nearest(name, names)))
    if not inputs:
        raise ConfigError(message("predict", "get at least one modality", "none", do=f"Give one of: {', '.join(names)}"))
    check_names(use or (), names, "--use")
    files = {name: Path(file).resolve() for name, file in inputs.items() if use is None or name in use}
    if not files:
        do = "Name one of them in --use, or give another file"
        raise DataError(message("--use", f"leave one of {', '.join(inputs)}", ", ".join(use or ()), do=do))
    for name, file in files.items():
        if not file.exists():
            do = "Check the path, or leave this modality out"
            raise DataError(message("--input", "name a file that exists", str(inputs[name]), modality=name, do=do))
    root = Path(os.path.commonpath([str(file.parent) for file in files.values()]))
    cells = {name: file.relative_to(root).as_posix() for name, file in files.items()}
    specs = [_as_given(spec, files[spec.name], subject) if spec.name in files else spec for spec in run.cohort.meta.modalities]
    return Cohort.build(run.cohort.meta.model_copy(update={"modalities": specs}), [Case.build(subject, cells=cells)], root)


def _as_given(spec: ModalitySpec, file: Path, subject: str) -> ModalitySpec:
    """How a single file is read: in the run's cohort its modality may have been one channel of a picture or of a stack."""
    changes: dict[str, object] = {"inline": False} if file.is_dir() else {"inline": False, "files": ""}
    if spec.channel is not None and read_header(file, files=spec.files, subject=subject, modality=spec.name).channels == 1:
        changes["channel"] = None
    return spec.model_copy(update=changes)
