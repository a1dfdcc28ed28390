"""Ordinal classes as "k or above": against scikit-learn, in one run and over several, with positives and negatives."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from comodal.evaluation.class_metrics import at_least
from comodal.evaluation.classification import Floats, as_columns, pooled_metrics
from comodal.evaluation.comparison import combine
from comodal.evaluation.metrics import is_main, threshold_of
from comodal.evaluation.pooling import is_positive
from comodal.evaluation.results import CaseResult, Results, SubsetResult
from comodal.modality import Target

EDEMA = Target("edema", "ordinal", ("none", "congestion", "interstitial", "alveolar"))
SIGNS = Target("signs", "multilabel", ("mass", "nodule"))


def softmax(n: int, k: int, seed: int) -> Floats:
    raw = np.exp(np.random.default_rng(seed).normal(size=(n, k)).round(1))
    return np.asarray(raw / raw.sum(axis=1, keepdims=True))


def result(target: Target, probabilities: Floats, answers: Sequence[int | list[float | None]]) -> Results:
    ids = [f"p{i:02d}" for i in range(len(answers))]
    truth = as_columns(answers, len(target.classes))
    metrics = pooled_metrics(target, probabilities, truth, groups=ids, resamples=50)
    cases = [
        CaseResult(
            subject=case, group=case, present=("x",), probabilities={target.name: row.tolist()}, targets={target.name: answer}
        )
        for case, row, answer in zip(ids, probabilities, answers, strict=True)
    ]
    row = SubsetResult(present=("x",), metrics=metrics)
    names = {target.name: target.classes}
    return Results(method="m", cohort="c", split="test", seed=0, subsets=(row,), cases=tuple(cases), classes=names)


def test_each_threshold_equals_scikit_learn_on_sums_of_probabilities() -> None:
    probabilities, grades = softmax(60, 4, 0), np.random.default_rng(1).integers(0, 4, 60)
    found = pooled_metrics(EDEMA, probabilities, as_columns(grades, 4), groups=[str(i) for i in range(60)], resamples=50)
    for k in (1, 2, 3):
        value = found[f"AUROC/edema/>={k}"]
        assert value.value == pytest.approx(roc_auc_score(grades >= k, probabilities[:, k:].sum(axis=1)), abs=1e-9)
        assert (value.n, value.n_pos, value.n_neg) == (60, (grades >= k).sum(), (grades < k).sum())
        assert value.ci95 is not None and value.ci95[0] <= (value.value or 0) <= value.ci95[1]
        assert not is_main(f"AUROC/edema/>={k}")
    assert not any(">=" in name for name in found if not name.startswith("AUROC/"))
    assert at_least(probabilities)[:, 0] == pytest.approx(1 - probabilities[:, 0])


def test_there_are_none_of_two_classes_or_of_classes_without_an_order() -> None:
    for target in (Target("t", "ordinal", ("no", "yes")), Target("t", "class", EDEMA.classes)):
        size = len(target.classes)
        truth = as_columns(np.arange(30) % size, size)
        assert not any(">=" in name for name in pooled_metrics(target, softmax(30, size, 0), truth, groups=["p"] * 30))


def test_a_threshold_that_no_case_reaches_is_not_defined() -> None:
    probabilities, grades = softmax(20, 4, 0), np.arange(20) % 3
    value = pooled_metrics(EDEMA, probabilities, as_columns(grades, 4), groups=[str(i) for i in range(20)])["AUROC/edema/>=3"]
    assert value.value is None and value.note == "no case has it" and (value.n_pos, value.n_neg) == (0, 20)


def test_seeds_are_averaged_and_every_case_counts_once_on_each_side() -> None:
    grades = [int(g) for g in np.random.default_rng(1).integers(0, 4, 60)]
    runs = [result(EDEMA, softmax(60, 4, seed), grades) for seed in (0, 1)]
    name = "AUROC/edema/>=2"
    cell = combine({"m": runs}, metrics=[name, "AUROC/edema/none"], resamples=50).rows[0].cells["m"]
    values = [run.subsets[0].metrics[name].value or 0 for run in runs]
    assert cell[name].value == pytest.approx(sum(values) / 2) and cell[name].ci95 is not None
    positive = sum(g >= 2 for g in grades)
    assert (cell[name].n, cell[name].n_pos, cell[name].n_neg) == (60, positive, 60 - positive)
    none = grades.count(0)
    assert (cell["AUROC/edema/none"].n_pos, cell["AUROC/edema/none"].n_neg) == (none, 60 - none)


def test_what_is_not_labelled_is_on_no_side() -> None:
    answers: list[int | list[float | None]] = [[float(i % 2), None if i < 10 else float(i % 3 == 0)] for i in range(30)]
    runs = [result(SIGNS, softmax(30, 2, seed), answers) for seed in (0, 1)]
    cell = combine({"m": runs}, metrics=["AUROC/signs/nodule"], resamples=50).rows[0].cells["m"]["AUROC/signs/nodule"]
    assert (cell.n, cell.n_pos, cell.n_neg) == (20, 6, 14)
    assert is_positive("AUROC/signs/nodule", [1.0, None], {"signs": SIGNS.classes}) is None
    assert is_positive("AUROC/signs/other", [1.0, 1.0], {"signs": SIGNS.classes}) is None


def test_a_class_may_be_called_as_a_threshold() -> None:
    assert threshold_of(">=1", ("none", ">=1", "x")) is None and threshold_of(">=1", ("a", "b")) == 1
    assert threshold_of(">=3", ("a", "b", "c")) is None
