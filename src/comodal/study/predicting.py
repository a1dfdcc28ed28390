"""Predictions of a trained run for the cases of a cohort, written as files."""

from __future__ import annotations

import csv
import io
import json
import math
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from comodal.batch import Text
from comodal.data.atomic import replacing
from comodal.data.cohort import Case, Cohort, ModalitySpec
from comodal.data.grid import Grid
from comodal.data.reading import read_header
from comodal.data.tables import spreadsheet_safe
from comodal.data.text import START
from comodal.errors import ConfigError, DataError, UnsupportedSubset, message, nearest
from comodal.inference.predictor import CasePrediction, can_predict, predict_case
from comodal.inference.writing import EXTRAS, SUFFIXES, Written, is_map, names_of, write_prediction
from comodal.method import Method
from comodal.modality import subset_name, subsets
from comodal.run import Run
from comodal.study.evaluating import check_names, pick_device, usable
from comodal.training.events import Clock, Emit, Progress, Said, silent

TABLE = "predictions.csv"
NUMBERS = "numbers.json"  # in the folder of extras: those that are no maps
MOST_NUMBERS = 64  # of one extra of one case; a longer one is for a program, not for a reader


def predict_cases(
    run: Run,
    cohort: Cohort,
    *,
    use: Sequence[str] | None,
    out: Path,
    regions: bool = False,
    probabilities: bool = False,
    extras: bool = False,
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
        extras: Also write what else the method says, into the folder `extras` of `out`: maps as images, a few numbers into
            `extras/numbers.json`; a single number of a case is a column of `predictions.csv`, too, and so are words.
        overwrite: Replace what lies there under the name of a prediction; files of the cohort are never replaced.
        device: "auto", "cpu" or "cuda".
        emit: Listener.

    Returns:
        What was written. Targets that are classes go into one table, `predictions.csv`. What was given and not used is said
        once for all cases.

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
    if extras:
        _check_extras(run, cohort, out / EXTRAS, overwrite=overwrite)
    where = pick_device(device)
    method = run.method(where)
    _check_plan(run, method, plan, names)
    unknown = [m.name for m in cohort.modalities if m.name not in run.problem.names]
    if unknown:
        emit(Said("info", f"not used, since the run does not know them: {', '.join(unknown)}"))
    clock = Clock(len(cohort))
    written: list[Written] = []
    rows: list[dict[str, str]] = []
    besides = _Besides()
    for done, case in enumerate(cohort.cases, start=1):
        subset = plan[case.id]
        prepared = preparer.case(case, use=method.reads(subset), with_targets=False)
        overlap = run.config.training.overlap
        ((_, found),) = predict_case(method, prepared, subsets=[subset], overlap=overlap, extras=extras, device=where)
        files: tuple[Path, ...] = ()
        if prepared.grid is not None and run.problem.task == "segmentation":
            theirs = [n for n in subset if run.problem.modality(n).grid == run.problem.grid]  # whose voxels they are
            how: dict[str, Any] = {"regions": regions, "as_probabilities": probabilities, "extras": found.extras}
            maps, targets = found.probabilities, run.problem.targets
            grid = prepared.grid
            files = write_prediction(preparer.cohort, case, maps, grid=grid, targets=targets, used=theirs, out=out, **how).files
        said = {name: words_of(run, values) for name, values in found.extras.items() if name in method.token_extras}
        besides.names |= said.keys()
        besides.add(case.id, {n: v for n, v in found.extras.items() if n not in said}, prepared.grid if files else None)
        written.append(Written(case.id, found.used, files, tuple(name for name in subset if name not in found.used)))
        rows.append(_table_row(run, case, found) | {name: words for name, words in said.items() if words})
        emit(Progress("predicting", done, len(cohort), clock.left(done)))
    tables = [_write_table(rows, out / TABLE)] if any(not t.is_segmentation for t in run.problem.targets) else []
    tables += [besides.save(out / EXTRAS / NUMBERS)] if besides.numbers else []
    _tell([*_unused(run.label, written), *(besides.remarks(run) if extras else ())], _stale(out / EXTRAS, written), emit)
    return [replace(one, files=(*one.files, *tables)) for one in written]


class _Besides:
    """What a method said of some cases besides probabilities; maps are written elsewhere, as they come."""

    def __init__(self) -> None:
        self.names: set[str] = set()
        self.numbers: dict[str, dict[str, Any]] = {}
        self.too_long: dict[str, int] = {}

    def add(self, case: str, extras: Mapping[str, NDArray[np.float32]], grid: Grid | None) -> None:
        """Takes the extras of one case; on `grid` some of them are maps."""
        self.names |= extras.keys()
        for name, values in extras.items():
            if grid is not None and is_map(values, grid):
                continue
            if values.size > MOST_NUMBERS:
                self.too_long[name] = values.size
            else:
                self.numbers.setdefault(case, {})[name] = _finite(values.tolist())

    def save(self, path: Path) -> Path:
        """{case: {extra: number, or lists of them}}; what is not finite is null."""
        with replacing(path) as file:
            file.write((json.dumps(self.numbers, indent=1, ensure_ascii=False) + "\n").encode())
        return path

    def remarks(self, run: Run) -> list[str]:
        """What a user who asked for extras must be told."""
        said = [f"not written: {name}, {count} numbers for a case" for name, count in self.too_long.items()]
        if not self.names:
            free = sorted(run.config.method_class().Config.at_test)
            how = f", as it is set; --set method.{' or method.'.join(free)} may change that" if free else ""
            said.append(f"{run.label} says nothing besides its probabilities{how}: there are no extras")
        return said


def _unused(label: str, written: Sequence[Written]) -> Iterator[str]:
    """What was given and not used, a sentence for each way in which that happened and none for each case."""
    ways = Counter((one.unused, one.used) for one in written if one.unused)
    for (unused, used), count in ways.items():
        were, part = (
            "was" if len(unused) == 1 else "were",
            "" if count == len(written) else f" in {count} of {len(written)} cases",
        )
        yield f"{' and '.join(unused)} {were} given and not used{part}: {label} predicts from {' and '.join(used)} alone"


def _finite(values: Any) -> Any:
    if isinstance(values, list):
        return [_finite(value) for value in values]
    return values if math.isfinite(values) else None


def _check_extras(run: Run, cohort: Cohort, folder: Path, *, overwrite: bool) -> None:
    """What a method says besides is known when it has been said, so that here the whole folder must be free."""
    real = os.path.realpath(folder)
    theirs = _files_of(cohort) | _files_of(run.cohort)
    if real in theirs or any(name.startswith(real + os.sep) for name in theirs):
        got, do = "one with files of the cohort", "Choose another --out"
    elif os.path.exists(real) and not os.path.isdir(real):
        got, do = "a file", "Choose another --out"
    elif not overwrite and os.path.isdir(real) and os.listdir(real):
        got, do = "one that is there", "Choose another --out, or add --overwrite to replace earlier extras"
    else:
        return
    raise ConfigError(message("the folder of extras", "be a new one", got, file=str(folder), do=do))


def _tell(remarks: Iterable[str], stale: Sequence[Path], emit: Emit) -> None:
    for text in remarks:
        emit(Said("info", text))
    if stale:
        names = ", ".join(file.name for file in stale)
        emit(Said("warning", f"of an earlier prediction, and not of this one, in {stale[0].parent}: {names}"))


def _stale(folder: Path, written: Sequence[Written]) -> list[Path]:
    """Maps of these cases that an earlier call wrote and this one, which overwrites, has not replaced."""
    there = sorted(os.listdir(folder)) if folder.is_dir() else []
    theirs, new = tuple(f"{one.subject}_" for one in written), {file for one in written for file in one.files}
    return [folder / name for name in there if name.startswith(theirs) and folder / name not in new]


def _check_plan(run: Run, method: Method, plan: Mapping[str, tuple[str, ...]], names: Sequence[str]) -> None:
    """Refuses a case from whose modalities the method cannot predict."""
    for name, subset in plan.items():
        if not can_predict(method, subset):
            can = ", ".join(subset_name(s) for s in subsets(names) if can_predict(method, s)) or "none of these modalities"
            rule = f"have a subset of modalities from which {run.label} predicts ({can})"
            got = subset_name(subset)
            do = "Leave the subject out, or add a modality that it has to --use"
            raise UnsupportedSubset(message("a case to predict", rule, got, subject=name, do=do))


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
    withheld = cohort.meta.withheld
    paths |= {cohort.root / cell for name in columns if name in withheld for cell in withheld[name].values()}
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


def words_of(run: Run, ids: NDArray[np.float32]) -> str:
    """What a method wrote: its sentences, each with a full stop; an unknown word is "?".

    Args:
        run: Has the vocabulary.
        ids: (T,), 0 after the last token.

    Returns:
        Words as the tokenizer has them: small letters, no punctuation within a sentence.
    """
    if run.tokenizer is None:
        return ""
    tokens = torch.from_numpy(ids).round().long()[None]
    said = [run.tokenizer.decode(Text(part, part != 0)) for part in _at_starts(tokens)]
    return " ".join(f"{sentence}." for part in said for sentence in part)


def _at_starts(tokens: Tensor) -> Iterator[Tensor]:
    """(1, T) in pieces, each of which begins with the start of a sentence, if it has one."""
    edges = [0, *((tokens[0] == START).nonzero().flatten().tolist()), tokens.shape[1]]
    yield from (tokens[:, a:b] for a, b in pairwise(edges) if a < b)


def _table_row(run: Run, case: Case, found: CasePrediction) -> dict[str, str]:
    """A row of the table: the answers, then extras that are one number, blank where it is not finite."""
    row = {"subject": case.id, "used": "+".join(found.used), **_class_columns(run, found.probabilities)}
    single = {name: float(value.item()) for name, value in found.extras.items() if value.ndim == 0 and name not in row}
    return row | {name: f"{value:.6g}" if math.isfinite(value) else "" for name, value in single.items()}


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
    writer = csv.DictWriter(text, list(dict.fromkeys(name for row in rows for name in row)), lineterminator="\n")
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
