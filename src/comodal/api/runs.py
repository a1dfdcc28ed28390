"""Learning and predicting: a configuration, a run, its evaluation, its predictions."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from comodal.config import load_config
from comodal.data.cohort import Cohort
from comodal.errors import ConfigError, message
from comodal.evaluation.results import Results
from comodal.inference.writing import Written
from comodal.run import Run
from comodal.study.evaluating import evaluate_run
from comodal.study.predicting import one_patient, predict_cases
from comodal.training.events import Emit, silent
from comodal.training.plan import InitResult, plan
from comodal.training.train import train_run

if TYPE_CHECKING:
    PathLike = Path | str


def init(
    method: str,
    cohort: PathLike,
    *,
    out: PathLike | None = None,
    minutes: float | None = None,
    spatial_dims: int | None = None,
    overrides: Sequence[str] = (),
) -> InitResult:
    """A complete configuration for these data and this machine; see `comodal.training.plan`.

    Args:
        method: Key of METHODS.
        cohort: The cohort.csv.
        out: Where to write the YAML; the cohort's path in it is relative to this file.
        minutes: How long training may take here.
        spatial_dims: 2 or 3 to override the choice.
        overrides: "method.superior=[derm]": values that are settled.

    Returns:
        The configuration and its commented text.
    """
    if out is None:
        return plan(method, Path(cohort), minutes=minutes, spatial_dims=spatial_dims, overrides=overrides)
    out = Path(out)
    if out.exists():
        raise ConfigError(message("--out", "be a new file", str(out), do="Choose another name, or delete it"))
    relative = Path(os.path.relpath(Path(cohort).resolve(), out.resolve().parent)).as_posix()
    made = plan(method, Path(cohort), minutes=minutes, spatial_dims=spatial_dims, overrides=overrides, written=relative)
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
    overrides: Sequence[str] = (),
    device: str = "auto",
    on_event: Emit = silent,
) -> Results:
    """Metrics for every subset of modalities, written to `RUN/results/<split>.json`; see `evaluate_run`.

    Args:
        run: A finished run.
        split: "train", "val", "test" or "all".
        subsets: "all", "complete", or "flair,t1;t2".
        use: Only these modalities are read; None is all.
        cohort: Another cohort.csv with the run's columns.
        overrides: "method.read_out=inferior", for keys that no weight depends on; the result has a name of its own then.
        device: "auto", "cpu" or "cuda".
        on_event: Listener.

    Returns:
        The results.

    Raises:
        ConfigError: An unknown split, modality or device, or a setting that belongs to the training.
        DataError: No case to evaluate, or a file is damaged.
    """
    other = Cohort.load(Path(cohort)) if cohort is not None else None
    seen = _run(run).at_test(overrides)
    return evaluate_run(seen, split=split, subsets=subsets, use=use, cohort=other, device=device, emit=on_event)


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
    extras: bool = False,
    overrides: Sequence[str] = (),
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
        extras: Also write what else the method says (uncertainty, information), into `out/extras`.
        overrides: "method.samples=20", for keys that no weight depends on; the run folder stays as it is.
        overwrite: Replace earlier predictions; files of a cohort are never replaced.
        device: "auto", "cpu" or "cuda".
        on_event: Listener.

    Returns:
        What was written, case by case.

    Raises:
        ConfigError: An unknown modality, a file in the place of a prediction, or a setting that belongs to the training.
        DataError: A file is missing or damaged, or a case has no usable modality.
    """
    loaded = _run(run).at_test(overrides)
    source = Cohort.load(Path(cohort)) if cohort is not None else one_patient(loaded, inputs or {}, use=use, subject=subject)
    return predict_cases(
        loaded,
        source,
        use=use,
        out=Path(out),
        regions=regions,
        probabilities=probabilities,
        extras=extras,
        overwrite=overwrite,
        device=device,
        emit=on_event,
    )


def _run(run: PathLike | Run) -> Run:
    return run if isinstance(run, Run) else Run.load(Path(run))
