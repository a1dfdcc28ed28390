"""What can be found wrong before a training begins, and which cases a stage may take."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from comodal.config import RunConfig, build_method, build_problem
from comodal.data.balancing import balanced_targets
from comodal.data.cohort import Case, Cohort
from comodal.errors import ConfigError, message
from comodal.method import Method, Problem, Stage
from comodal.modality import subset_name
from comodal.networks.texts import TextEncoder, WordVectors
from comodal.run import Run, read_weights
from comodal.stage import under
from comodal.training.events import Emit, Said, silent
from comodal.training.feeding import check_batch_size
from comodal.training.pretrained import take_pretrained
from comodal.training.validation import StageView


def check_training(
    config: RunConfig,
    cohort: Cohort,
    splits: Mapping[str, Sequence[str]],
    *,
    vocabulary: int = 0,
    words: Sequence[str] = (),
    init: Path | None = None,
    emit: Emit = silent,
) -> None:
    """Finds what would stop a training, before anything is written or read.

    Args:
        config: Resolved.
        cohort: Has the cases.
        splits: {"train" | "val" | "test": case ids}.
        vocabulary: Number of token ids.
        words: Of the tokenizer.
        init: A run whose weights will be taken.
        emit: Listener for what is no mistake, but should be known.

    Raises:
        ConfigError: The method cannot do this problem; a stage has no case to learn from or to be judged by, or a batch cannot
            be divided among the processes; weights to start from are missing or do not fit.
    """
    problem = build_problem(config, cohort, vocabulary, words=words, train=splits["train"])
    method = build_method(config, problem)
    for stage in method.stages():
        stage_cases(problem, cohort, splits["train"], stage=stage)
        balanced_targets(stage.balance, problem.targets)
        size = stage.batch_size or config.training.batch_size
        own = f"batch size of stage {stage.name}" if stage.batch_size else "training.batch_size"
        check_batch_size(size, config.training.devices, owner=own)
        if size // config.training.devices < stage.least_rows:
            rule = f"give each process {stage.least_rows} rows, which are compared with each other"
            got, do = f"{size} for {config.training.devices}", f"Raise it to {stage.least_rows * config.training.devices}"
            raise ConfigError(message(f"training.batch_size for stage {stage.name}", rule, got, do=do))
        _check_monitor(method, stage)
        if config.training.validations and stage.monitor is not None and splits["val"]:  # who wants none has an empty split
            _check_validation(method, stage, cohort, ids=splits["val"])
    take_pretrained(method)
    if init is not None:
        take_weights(method, Run.load(init), silent)
    elif method.borrowed:
        do = "Add --init RUN, the run that trained them"
        rule, got = "be given where parts are used that this training does not train", "none"
        raise ConfigError(message("--init", rule, f"{got} for {', '.join(method.borrowed)}", do=do))
    for name in problem.names:
        if not any(name in cohort.case(i).cells for i in splits["train"]) and init is None:
            said = f"No training case has {name}: what is predicted from it rests on weights that never learned."
            emit(Said("warning", f"{said} Leave it out of data.modalities."))
    names = [target.name for target in problem.targets]
    for name in (name for name in names if name in cohort.meta.withheld):
        kept, before = sum(name in cohort.case(i).cells for i in splits["train"]), len(cohort.meta.withheld[name])
        emit(Said("info", f"{kept} of {kept + before} training cases keep their label of {name} (data.withhold)"))
    if splits["test"] and not any(name in cohort.case(i).cells for i in splits["test"] for name in names):
        emit(Said("warning", f"No test case has {' or '.join(names)}: there is nothing to evaluate this training on."))


def _wanted(problem: Problem, stage: Stage) -> str:
    """What a stage asks of a case, in words."""
    groups = [stage.reads] if stage.reads and not set(stage.reads) <= set(stage.modalities) else []
    groups = [group for group in (*groups, *stage.one_of) if not set(group) & set(stage.modalities)]
    targets = stage.targets if stage.targets is not None else [target.name for target in problem.targets]
    return ", ".join([*stage.modalities, *dict.fromkeys(" or ".join(group) for group in groups), *targets])


def _check_monitor(method: Method, stage: Stage) -> None:
    """A monitor's subsets must be such that the stage can be judged on them."""
    view = StageView(method, stage)
    can = {frozenset(subset) for subset in view.wanted()}
    for subset in view.asked or ():
        if frozenset(subset) not in can:
            do = "Correct Monitor.subsets, or give the method a validate()"
            raise ConfigError(
                message(f"Stage {stage.name}", "be judged on subsets it can predict from", subset_name(subset), do=do)
            )


def _check_validation(method: Method, stage: Stage, cohort: Cohort, *, ids: Sequence[str]) -> None:
    """There must be a case that says which weights of a stage are best."""
    if stage.monitor is not None and stage.monitor.metric == "loss":
        some = bool(stage_cases(method.problem, cohort, ids, stage=stage, needed=False))
    else:
        view = StageView(method, stage)
        some = bool(view.plan(view.labelled(cohort, ids), every=False))
    if not some:
        rule = f"have validation cases with {_wanted(method.problem, stage)}, which choose its weights"
        remedy = stage.remedy or "Fill the cohort's columns"
        do = f"{remedy}, change the split, or set training.validations to 0"
        raise ConfigError(message(f"Stage {stage.name}", rule, f"none among {len(ids)}", do=do))


def take_weights(method: Method, other: Run, emit: Emit) -> None:
    """Takes the weights of another run where name and shape agree, and says how many did.

    Raises:
        ConfigError: None agrees, or not all that this training does not train (`Method.borrowed`), or its words are others.
    """
    theirs = read_weights(other.path / "weights.safetensors")
    own = method.state_dict()
    fit_in = {
        name: value
        for name, value in theirs.items()
        if name in own and own[name].shape == value.shape and not any(under(name, prefix) for prefix in method.counted)
    }
    if not fit_in:
        do = "Give a run of the same method and modalities"
        raise ConfigError(message("--init", "share weights with this method", "none that fit", do=do))
    _check_words(method, other, emit)
    borrowed = [name for name in own if any(under(name, prefix) for prefix in method.borrowed)]
    if left := [name for name in borrowed if name not in fit_in]:
        shape = f"{tuple(theirs[left[0]].shape)} for {tuple(own[left[0]].shape)}" if left[0] in theirs else "none"
        rule, got = "bring all that is used and not trained here", f"{shape} of {left[0]}, {len(left)} such of {len(borrowed)}"
        do = "Give a run with the same modalities, targets and settings"
        raise ConfigError(message("--init", rule, got, do=do))
    method.load_state_dict({**own, **fit_in})
    emit(Said("info", f"took {len(fit_in)} of {len(own)} tensors from {other.path}"))


def _check_words(method: Method, other: Run, emit: Emit) -> None:
    """Token ids should be of the same words in both trainings; they must where an encoder of reports is not trained here."""
    ours, theirs = method.problem, other.tokenizer
    if theirs is None or not ours.vocabulary or (theirs.words, theirs.vocabulary) == (ours.words, ours.vocabulary):
        return
    readers = [name for name, part in method.named_modules() if isinstance(part, TextEncoder | WordVectors)]
    if any(under(name, prefix) for name in readers for prefix in method.borrowed):
        rule, got = "know the same words, since the encoder of reports is not trained here", f"other words in {other.path}"
        do = "Train on the same cohort and splits, whose training reports are the words"
        raise ConfigError(message("--init", rule, got, do=do))
    said = f"The words of {other.path} are others: ids of tokens mean other words here, and what it learned of reports is lost."
    emit(Said("warning", f"{said} Train on the same cohort and splits, or take a tokenizer of others (data.tokenizer)."))


def stage_cases(problem: Problem, cohort: Cohort, ids: Sequence[str], *, stage: Stage, needed: bool = True) -> list[Case]:
    """The cases, of these, that may take part in a stage.

    Args:
        problem: Its modalities and targets.
        cohort: Has the cases.
        ids: Of a split.
        stage: What it asks of a case.
        needed: Whether there must be one.

    Raises:
        ConfigError: There is none; the message says so where that is for what was withheld.
    """
    found = _fitting(problem, cohort, ids, stage=stage)
    if not found and needed:
        rule, got = f"have training cases with {_wanted(problem, stage)}", "none"
        do = stage.remedy or "Fill the cohort's columns, or change the split"
        before = _fitting(problem, _given_back(cohort), ids, stage=stage) if cohort.meta.withheld else []
        if before:
            labels = any(target.name in cohort.meta.withheld for target in problem.targets)
            what = "a modality or a label" if labels else "a modality"
            got = f"none, since data.withhold takes {what} from each of the {len(before)} that there are"
            do = f"Lower the rates of data.withhold ({', '.join(cohort.meta.withheld)}), or leave it out"
        raise ConfigError(message(f"Stage {stage.name}", rule, got, do=do))
    return found


def _given_back(cohort: Cohort) -> Cohort:
    """The cohort with all that was withheld from its cases."""
    taken = cohort.meta.withheld
    rows = [
        replace(c, cells={**c.cells, **{n: cells[c.id] for n, cells in taken.items() if c.id in cells}}) for c in cohort.cases
    ]
    return replace(cohort, cases=tuple(rows))


def _fitting(problem: Problem, cohort: Cohort, ids: Sequence[str], *, stage: Stage) -> list[Case]:
    every = [t.name for t in problem.targets]
    segments = [t.name for t in problem.targets if t.is_segmentation]
    # A segmentation lies on the voxels of an image: a case with a mask and nothing but a report cannot be drawn from.
    images = [m.name for m in problem.modalities if m.kind == "image" and m.grid == problem.grid]
    found = []
    for case in map(cohort.case, ids):
        labelled = (
            all(t in case.cells for t in stage.targets) if stage.targets is not None else any(t in case.cells for t in every)
        )
        groups = (stage.reads or problem.names, *stage.one_of, *((name,) for name in stage.modalities))
        present = all(any(name in case.cells for name in group) for group in groups)
        lies = not any(t in case.cells for t in segments) or any(n in case.cells for n in images)
        if labelled and present and lies:
            found.append(case)
    return found
