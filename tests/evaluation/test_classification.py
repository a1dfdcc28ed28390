from __future__ import annotations

import math

import numpy as np
import pytest
from sklearn import metrics as reference

from comodal.evaluation.classification import (
    POOLED,
    Floats,
    as_columns,
    auroc,
    metrics_of,
    pooled_metrics,
    recalls,
)
from comodal.modality import Target

GRADE = Target("grade", "class", ("low", "middle", "high"))
SIDE = Target("side", "class", ("benign", "malignant"))
FINDINGS = Target("findings", "multilabel", ("edema", "effusion", "mass"))


def softmax(n: int, k: int, seed: int = 0) -> Floats:
    raw = np.exp(np.random.default_rng(seed).normal(size=(n, k)))
    return np.asarray(raw / raw.sum(axis=1, keepdims=True))


def test_auroc_equals_scikit_learn_with_ties() -> None:
    rng = np.random.default_rng(0)
    scores = rng.integers(0, 6, 60) / 5
    truth = rng.integers(0, 2, 60)
    assert auroc(scores[:, None], truth[:, None])[0, 0] == pytest.approx(reference.roc_auc_score(truth, scores))


def test_a_weight_of_two_is_a_case_twice() -> None:
    probabilities, truth = softmax(20, 3), as_columns(np.random.default_rng(1).integers(0, 3, 20), 3)
    counts = np.random.default_rng(2).integers(0, 4, (5, 20))
    answers = np.eye(3)[probabilities.argmax(axis=1)]
    for row, weights in enumerate(counts):
        again = np.repeat(np.arange(20), weights)
        assert auroc(probabilities, truth, counts)[row] == pytest.approx(auroc(probabilities[again], truth[again])[0])
        assert recalls(answers, truth, counts)[row] == pytest.approx(recalls(answers[again], truth[again])[0])


def test_metrics_of_three_classes_equal_scikit_learn() -> None:
    probabilities, labels = softmax(50, 3), np.random.default_rng(1).integers(0, 3, 50)
    found = pooled_metrics(GRADE, probabilities, as_columns(labels, 3), groups=[str(i) for i in range(50)])
    answers = probabilities.argmax(axis=1)
    single = [f"{name}/grade/{k}" for name in ("AUROC", "AUPRC") for k in GRADE.classes]
    assert list(found) == [*(f"{name}/grade" for name in metrics_of("class")), *single]
    expected = reference.roc_auc_score(labels, probabilities, multi_class="ovr", average="macro")
    assert found["AUROC/grade"].value == pytest.approx(expected)
    assert found["balanced_accuracy/grade"].value == pytest.approx(reference.balanced_accuracy_score(labels, answers))
    assert found["accuracy/grade"].value == pytest.approx(reference.accuracy_score(labels, answers))
    assert found["F1_macro/grade"].value == pytest.approx(reference.f1_score(labels, answers, average="macro"))
    assert found["Brier/grade"].value == pytest.approx(reference.brier_score_loss(labels, probabilities))
    areas = [reference.average_precision_score(labels == k, probabilities[:, k]) for k in range(3)]
    assert found["AUPRC/grade"].value == pytest.approx(np.mean(areas))
    for name, value in found.items():
        assert value.ci95 is not None
        assert value.value is not None
        assert value.ci95[0] < value.value < value.ci95[1]
        assert (value.n, value.aggregation) == (50, "pooled")
        assert (value.note is None) == (not name.startswith("AUPRC"))
    assert found["AUPRC/grade"].note == "chance level 0.333"
    for k, name in enumerate(GRADE.classes):
        one, area = found[f"AUROC/grade/{name}"], found[f"AUPRC/grade/{name}"]
        assert one.value == pytest.approx(reference.roc_auc_score(labels == k, probabilities[:, k]))
        assert area.value == pytest.approx(areas[k])
        assert (one.n_pos, one.n_neg) == ((labels == k).sum(), (labels != k).sum())
        assert area.note == f"chance level {np.mean(labels == k):.3f}"


def test_kinds_have_their_metrics_and_only_those_that_are_asked_for_are_made() -> None:
    order, probabilities, labels = Target("stage", "ordinal", GRADE.classes), softmax(50, 3), np.arange(50) % 3
    found = pooled_metrics(order, probabilities, as_columns(labels, 3), groups=[str(i) for i in range(50)])
    expected = reference.cohen_kappa_score(labels, probabilities.argmax(axis=1), weights="quadratic")
    assert found["kappa/stage"].value == pytest.approx(expected)
    assert {name for name in POOLED if f"{name}/stage" not in found} == {"F1_micro"}  # of one class per case it is accuracy
    assert "kappa" not in metrics_of("multilabel") and "F1_micro" in metrics_of("multilabel")
    few = pooled_metrics(order, probabilities, as_columns(labels, 3), groups=["p"] * 50, metrics=["ECE", "DSC"], resamples=0)
    assert list(few) == ["ECE/stage"] and few["ECE/stage"].ci95 is None


def test_a_class_that_is_answered_and_that_nobody_has_counts_in_f1_alone() -> None:
    probabilities = np.array([[0.6, 0.3, 0.1], [0.2, 0.7, 0.1], [0.1, 0.2, 0.7]])
    found = pooled_metrics(GRADE, probabilities, as_columns([0, 2, 2], 3), groups=["a", "b", "c"], resamples=0)
    assert found["F1_macro/grade"].value == pytest.approx((1 + 0 + 2 / 3) / 3)
    assert found["F1_macro/grade"].note is None
    assert found["balanced_accuracy/grade"].value == pytest.approx((1 + 0.5) / 2)
    assert found["balanced_accuracy/grade"].note == "not defined for middle (no case has it)"
    assert found["AUROC/grade/middle"].value is None and found["AUROC/grade/middle"].note == "no case has it"
    assert found["AUROC/grade"].note == "not defined for middle (no case has it)"


def test_where_all_is_of_one_class_kappa_says_so() -> None:
    order = Target("stage", "ordinal", GRADE.classes)
    found = pooled_metrics(order, np.eye(3)[[1, 1]], as_columns([1, 1], 3), groups=["a", "b"], resamples=0)["kappa/stage"]
    assert (found.value, found.note) == (None, "not defined: all answers and all truths are of one class")


def test_two_classes_count_positives() -> None:
    probabilities, labels = softmax(12, 2), np.array([0, 1] * 5 + [0, 0])
    found = pooled_metrics(SIDE, probabilities, as_columns(labels, 2), groups=[str(i) for i in range(12)])["AUROC/side"]
    assert found.value == pytest.approx(reference.roc_auc_score(labels, probabilities[:, 1]))
    assert (found.n, found.n_pos, found.n_neg) == (12, 5, 7)


def test_with_one_class_auroc_is_none_with_its_reason_and_accuracy_remains() -> None:
    found = pooled_metrics(SIDE, np.array([[0.3, 0.7], [0.6, 0.4]]), as_columns([1, 1], 2), groups=["a", "b"])
    assert found["AUROC/side"].value is None
    assert found["AUROC/side"].ci95 is None
    assert found["AUROC/side"].note == "not defined for benign (no case has it), malignant (all 2 cases have it)"
    assert found["accuracy/side"].value == 0.5
    assert found["balanced_accuracy/side"].value == 0.5


def test_a_class_that_nobody_has_is_left_out_of_the_mean_and_named() -> None:
    probabilities, labels = softmax(10, 3), np.array([0, 2] * 5)
    found = pooled_metrics(GRADE, probabilities, as_columns(labels, 3), groups=[str(i) for i in range(10)])["AUROC/grade"]
    by_hand = [reference.roc_auc_score(labels == k, probabilities[:, k]) for k in (0, 2)]
    assert found.value == pytest.approx(np.mean(by_hand))
    assert found.note == "not defined for middle (no case has it); intervals of fewer than 20 patients are too narrow"


def test_several_answers_a_case_with_some_not_labelled() -> None:
    truth = as_columns([[1, 0, None], [0, 1, 0], [1, 0, 1], [0, None, 0]], 3)
    assert math.isnan(truth[0, 2])
    probabilities = np.array([[0.9, 0.2, 0.99], [0.1, 0.4, 0.2], [0.4, 0.1, 0.9], [0.2, 0.99, 0.3]])
    found = pooled_metrics(FINDINGS, probabilities, truth, groups=["a", "b", "c", "d"])
    assert found["AUROC/findings"].value == pytest.approx(1.0)
    # Right: case a 2 of 2, b 2 of 3 (effusion missed), c 2 of 3 (edema missed), d 2 of 2.
    assert found["accuracy/findings"].value == pytest.approx(8 / 10)
    micro = found["F1_micro/findings"]
    assert micro.value == pytest.approx(2 * 2 / (2 * 2 + 0 + 2)) and micro.note is not None
    assert micro.note.startswith("2 of 12 answers are not labelled")
    assert found["AUPRC/findings/effusion"].n == 3
    # Recalls of yes 1/2, 0/1, 1/1 and of no 2/2, 2/2, 2/2.
    assert found["balanced_accuracy/findings"].value == pytest.approx((0.5 + 0 + 1 + 1 + 1 + 1) / 6)


def test_sessions_of_a_patient_move_together() -> None:
    probabilities, labels = softmax(24, 3), np.random.default_rng(1).integers(0, 3, 24)
    once = pooled_metrics(GRADE, probabilities, as_columns(labels, 3), groups=[str(i) for i in range(24)])
    twice = pooled_metrics(
        GRADE, np.tile(probabilities, (2, 1)), as_columns(np.tile(labels, 2), 3), groups=[str(i) for i in range(24)] * 2
    )
    assert twice["accuracy/grade"].ci95 == pytest.approx(once["accuracy/grade"].ci95)


def test_no_case_has_no_numbers() -> None:
    found = pooled_metrics(GRADE, np.zeros((0, 3)), as_columns([], 3), groups=[])
    assert {(v.value, v.n, v.note) for v in found.values()} == {(None, 0, "no case")}
