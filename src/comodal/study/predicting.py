"""Predictions of a trained run for the cases of a cohort, written as files."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from comodal.data.atomic import replacing
from comodal.data.cohort import Case, Cohort
from comodal.errors import DataError, UnsupportedSubset, message
from comodal.inference.predictor import predict_case
from comodal.inference.writing import Written, write_prediction
from comodal.modality import subset_name, subsets
from comodal.run import Run
from comodal.study.evaluating import pick_device, usable
from comodal.training.events import Clock, Emit, Progress, silent


def predict_cases(
    run: Run,
    cohort: Cohort,
    *,
    use: Sequence[str] | None,
    out: Path,
    regions: bool = False,
    probabilities: bool = False,
    device: str = "auto",
    emit: Emit = silent,
) -> list[Written]:
    """Predicts each case from those of the wanted modalities that it has; only their files are opened.

    Args:
        run: Finished.
        cohort: Cases with columns of the run's modalities; it may lack some columns.
        use: Wanted modalities; None is all.
        out: Folder.
        regions, probabilities: What to write beside label maps.
        device: "auto", "cpu" or "cuda".
        emit: Listener.

    Returns:
        What was written. Targets that are classes go into one table, `predictions.csv`.

    Raises:
        DataError: A case has none of the wanted modalities; nothing has been written then.
        UnsupportedSubset: The method cannot predict from what a case has; nothing has been written then.
    """
    names = usable(run, use)
    plan = {case.id: _usable_of(case, names) for case in cohort.cases}
    where = pick_device(device)
    method = run.method(where)
    for name, subset in plan.items():
        if not method.supports(subset):
            can = ", ".join(subset_name(s) for s in subsets(names) if method.supports(s)) or "none of these modalities"
            rule = f"have a subset of modalities from which {run.label} predicts ({can})"
            got = subset_name(subset)
            do = "Leave the subject out, or add a modality that it has to --use"
            raise UnsupportedSubset(message("a case to predict", rule, got, subject=name, do=do))
    preparer = run.preparer(cohort)
    clock = Clock(len(cohort))
    written: list[Written] = []
    rows: list[dict[str, str]] = []
    for done, case in enumerate(cohort.cases, start=1):
        subset = plan[case.id]
        prepared = preparer.case(case, use=subset, with_targets=False)
        found = next(iter(predict_case(method, prepared, subsets=[subset], overlap=run.config.training.overlap, device=where)))[
            1
        ]
        if prepared.grid is not None and run.problem.task == "segmentation":
            written.append(
                write_prediction(
                    cohort,
                    case,
                    found,
                    grid=prepared.grid,
                    targets=run.problem.targets,
                    used=subset,
                    out=out,
                    regions=regions,
                    as_probabilities=probabilities,
                )
            )
        rows.append({"subject": case.id, "used": "+".join(subset), **_class_columns(run, found)})
        emit(Progress("predicting", done, len(cohort), clock.left(done)))
    if any(not t.is_segmentation for t in run.problem.targets):
        file = _write_table(rows, out / "predictions.csv")
        known = {w.subject: w for w in written}
        blank = {case.id: Written(case.id, plan[case.id], ()) for case in cohort.cases}
        written = [Written(i, plan[i], (*known.get(i, blank[i]).files, file)) for i in plan]
    return written


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
    writer.writerows(rows)
    with replacing(path) as file:
        file.write(text.getvalue().encode())
    return path
