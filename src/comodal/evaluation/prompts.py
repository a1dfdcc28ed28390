"""Classes by prompts: sentences that affirm a class, sentences that deny it, and no training for it.

The score of a class is the largest score of an affirming sentence minus the largest of a denying one. It is no probability, and
only its order is judged: the area under the ROC curve of each class against the rest, and average precision.

Axis letters: N cases, R sentences, K classes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from comodal.errors import ConfigError, message, nearest
from comodal.evaluation.classification import pooled_metrics
from comodal.evaluation.documents import Strict
from comodal.evaluation.results import MetricValue
from comodal.evaluation.statistics import RESAMPLES
from comodal.modality import Target

Floats = NDArray[np.float64]
METRICS = ("AUROC", "AUPRC")
CONVENTION = (
    "score of a class: the largest of its affirming sentences minus the largest of its denying ones; each class against the "
    "rest, among the cases of which it is known"
)
Sentences = Annotated[tuple[Annotated[str, Field(min_length=1)], ...], Field(min_length=1)]


class ClassPrompts(Strict):
    """The sentences of one class."""

    positive: Sentences
    negative: Sentences


Prompts = Mapping[str, Mapping[str, ClassPrompts]]  # {target: {class: sentences}}


def check_prompts(prompts: Prompts, targets: Sequence[Target]) -> Prompts:
    """Refuses names that the run does not know.

    Args:
        prompts: What was read.
        targets: Of the run.

    Raises:
        ConfigError: No target, or no class, of that name; the message has the nearest ones.
    """
    known = {target.name: target for target in targets if not target.is_segmentation}
    for name, classes in prompts.items():
        if name not in known:
            raise ConfigError(message("--prompts", "name targets of the run", repr(name), do=nearest(name, known)))
        for label in classes:
            if label not in known[name].classes:
                do = nearest(label, known[name].classes)
                raise ConfigError(message(f"--prompts: {name}", "name classes of the target", repr(label), do=do))
    if not any(prompts.values()):
        raise ConfigError(message("--prompts", "have a class", "none", do="Write {target: {class: {positive, negative}}}"))
    return prompts


def fitting_prompts(shipped: Mapping[str, ClassPrompts], targets: Sequence[Target]) -> dict[str, dict[str, ClassPrompts]]:
    """Of the prompts that are shipped, those whose class some target has; capitals, "_" and spaces do not matter.

    Args:
        shipped: {class: sentences}.
        targets: Of the run.
    """
    by_word = {_plain(name): prompts for name, prompts in shipped.items()}
    found: dict[str, dict[str, ClassPrompts]] = {}
    for target in targets:
        if not target.is_segmentation:
            classes = {label: by_word[_plain(label)] for label in target.classes if _plain(label) in by_word}
            found |= {target.name: classes} if classes else {}
    return found


def _plain(name: str) -> str:
    return name.lower().replace("_", " ").strip()


def sentences_of(prompts: Prompts) -> tuple[str, ...]:
    """All sentences, each once, in the order in which they stand."""
    every = [s for classes in prompts.values() for one in classes.values() for s in (*one.positive, *one.negative)]
    return tuple(dict.fromkeys(every))


def class_scores(scores: Floats, sentences: Sequence[str], prompts: Mapping[str, ClassPrompts]) -> Floats:
    """From scores of sentences to scores of classes.

    Args:
        scores: (N, R).
        sentences: The R sentences.
        prompts: Of K classes.

    Returns:
        (N, K).
    """
    at = {sentence: place for place, sentence in enumerate(sentences)}

    def largest(chosen: Sequence[str]) -> Floats:
        return np.asarray(scores[:, [at[sentence] for sentence in chosen]].max(axis=1))

    return np.stack([largest(one.positive) - largest(one.negative) for one in prompts.values()], axis=1)


def zero_shot(
    scores: Floats,
    truth: Floats,
    classes: Sequence[str],
    *,
    target: str,
    groups: Sequence[str],
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> dict[str, MetricValue]:
    """AUROC and average precision of each class, and their means over classes.

    Args:
        scores: (N, K), see `class_scores`.
        truth: (N, K) which classes are true; NaN is not known.
        classes: The K classes.
        target: Its name.
        groups: The patient of each case.
        resamples: Of the bootstrap over patients.
        seed: Of the bootstrap.

    Returns:
        {"AUROC/<target>/<class>", ...}, each with n positive and negative; {"AUROC/<target>"} where there are several classes.
    """
    settings: dict[str, Any] = {"resamples": resamples, "seed": seed, "metrics": METRICS}
    found = {}
    if len(classes) > 1:
        found = pooled_metrics(Target(target, "multilabel", tuple(classes)), scores, truth, groups=groups, **settings)
        found = {name: value for name, value in found.items() if name.count("/") == 1}
    for k, label in enumerate(classes):
        known = ~np.isnan(truth[:, k])
        pairs = [np.stack([-values[known, k], values[known, k]], axis=1) for values in (scores, truth)]
        pairs[1][:, 0] = 1 - pairs[1][:, 1]
        patients = [group for group, yes in zip(groups, known, strict=True) if yes]
        one = pooled_metrics(Target("class", "class", ("rest", label)), pairs[0], pairs[1], groups=patients, **settings)
        for name, value in one.items():
            if name.count("/") == 1:
                found[f"{name.partition('/')[0]}/{target}/{label}"] = _told(value)
    return found


def _told(value: MetricValue) -> MetricValue:
    """A class without a number says why in words of its own."""
    if value.value is not None or not value.n:
        return value
    return value.model_copy(update={"note": "all cases have it" if value.n_pos else "no case has it"})


def truth_columns(target: Target, values: Sequence[Any], classes: Sequence[str]) -> Floats:
    """The truth of some classes of a target as columns.

    Args:
        target: Of kind class, ordinal or multilabel.
        values: One entry per case: a class number, K answers with NaN where nobody knows, or None without a label.
        classes: Which, in which order.

    Returns:
        (N, len(classes)), NaN where it is not known.

    >>> truth_columns(Target("kind", "class", ("a", "b", "c")), [2, None], ["c", "a"]).tolist()
    [[1.0, 0.0], [nan, nan]]
    """
    size = len(target.classes)
    rows = np.full((len(values), size), np.nan)
    for row, value in zip(rows, values, strict=True):
        if value is not None:
            row[:] = value if target.kind == "multilabel" else np.eye(size)[int(value)]
    return np.asarray(rows[:, [target.classes.index(label) for label in classes]])
