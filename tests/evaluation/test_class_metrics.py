"""Each metric against scikit-learn, and each weight of two against a case that is there twice."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn import metrics as reference

from comodal.evaluation.class_metrics import (
    answered,
    brier,
    calibration_error,
    confidence_bins,
    f1,
    quadratic_kappa,
    ranking,
)
from comodal.evaluation.classification import POOLED, as_columns, metric_columns, metrics_of

Floats = NDArray[np.float64]
FEW = np.array([[1, 0, 1], [0, 1, 0], [1, 1, 1], [0, 0, 1], [1, 0, 0], [0, 1, 1]], dtype=float)


def softmax(n: int, k: int, seed: int = 0) -> Floats:
    raw = np.exp(np.random.default_rng(seed).normal(size=(n, k)))
    return np.asarray(raw / raw.sum(axis=1, keepdims=True))


def labels(n: int, k: int, seed: int = 1) -> NDArray[np.int64]:
    return np.random.default_rng(seed).integers(0, k, n)


@pytest.mark.parametrize("values", [4, 1000])  # with many ties, and with hardly any
def test_areas_equal_scikit_learn(values: int) -> None:
    rng = np.random.default_rng(0)
    scores, truth = rng.integers(0, values, (80, 3)) / values, rng.integers(0, 2, (80, 3))
    found = ranking(scores, truth)
    for k in range(3):
        assert found["AUROC"][0, k] == pytest.approx(reference.roc_auc_score(truth[:, k], scores[:, k]))
        assert found["AUPRC"][0, k] == pytest.approx(reference.average_precision_score(truth[:, k], scores[:, k]))


def test_one_sided_classes_have_no_area() -> None:
    truth = np.array([[1, 0, np.nan], [1, 0, np.nan], [1, 0, np.nan]])
    found = ranking(softmax(3, 3), truth)
    assert np.isnan(found["AUROC"]).all() and np.isnan(found["AUPRC"]).all()
    assert list(ranking(softmax(3, 3), FEW[:3], metrics=["AUPRC"])) == ["AUPRC"]


def test_a_resample_without_a_side_is_not_defined() -> None:
    weights = np.array([[1.0, 1, 0, 0], [0, 0, 1, 1], [1, 0, 0, 1]])
    found = ranking(np.array([[0.1], [0.9], [0.8], [0.3]]), np.array([[0.0], [0], [1], [1]]), weights)
    assert np.isnan(found["AUROC"][:, 0]).tolist() == [True, True, False]
    assert np.isnan(found["AUPRC"][:, 0]).tolist() == [True, True, False]


@pytest.mark.parametrize("metric", POOLED)
@pytest.mark.parametrize("several", [False, True])
def test_a_weight_of_two_is_a_case_twice(metric: str, several: bool) -> None:
    if metric not in metrics_of("multilabel" if several else "ordinal"):
        return
    rng = np.random.default_rng(3)
    probabilities = softmax(24, 3)
    truth = rng.integers(0, 2, (24, 3)).astype(float) if several else as_columns(labels(24, 3), 3)
    if several:
        truth[rng.uniform(size=truth.shape) < 0.2] = np.nan
    counts = rng.integers(0, 4, (6, 24))
    many = metric_columns(metric, probabilities, truth, several=several, weights=counts.astype(float))
    for row, weights in zip(many, counts, strict=True):
        again = np.repeat(np.arange(24), weights)
        assert row == pytest.approx(metric_columns(metric, probabilities[again], truth[again], several=several)[0], nan_ok=True)


def test_f1_equals_scikit_learn() -> None:
    probabilities, truth = softmax(50, 4), labels(50, 3)  # nobody has the last class, though it is answered
    answers = probabilities.argmax(axis=1)
    found = f1(answered(probabilities, several=False), as_columns(truth, 4))[0]
    assert found[3] == 0
    assert found == pytest.approx(reference.f1_score(truth, answers, average=None))
    assert found.mean() == pytest.approx(reference.f1_score(truth, answers, average="macro"))
    micro = f1(answered(probabilities, several=False), as_columns(truth, 4), micro=True)
    assert micro == pytest.approx(reference.accuracy_score(truth, answers))  # of one class per case


def test_f1_of_questions_equals_scikit_learn_on_what_is_labelled() -> None:
    probabilities = np.random.default_rng(0).uniform(size=(6, 3))
    yes = answered(probabilities, several=True)
    for average in ("macro", "micro"):
        found = f1(yes, FEW, micro=average == "micro").mean()
        assert found == pytest.approx(reference.f1_score(FEW, yes, average=average))
    gaps = FEW.copy()
    gaps[:3, 0] = np.nan
    assert f1(yes, gaps)[0, 0] == pytest.approx(reference.f1_score(FEW[3:, 0], yes[3:, 0]))


@pytest.mark.parametrize("k", [2, 3, 5])
def test_kappa_equals_scikit_learn(k: int) -> None:
    probabilities, truth = softmax(60, k), labels(60, k)
    expected = reference.cohen_kappa_score(truth, probabilities.argmax(axis=1), weights="quadratic", labels=range(k))
    found = quadratic_kappa(answered(probabilities, several=False), as_columns(truth, k))
    assert found == pytest.approx(np.array([[expected]]))


def test_kappa_at_its_ends() -> None:
    truth = as_columns([0, 1, 2, 2], 3)
    assert quadratic_kappa(truth, truth) == 1
    assert quadratic_kappa(np.tile([True, False, False], (4, 1)), truth) == pytest.approx(0)  # always the same answer
    assert np.isnan(quadratic_kappa(truth[2:], truth[2:])).all()


def test_brier_equals_scikit_learn() -> None:
    for k in (2, 4):
        probabilities, truth = softmax(40, k), labels(40, k)
        expected = reference.brier_score_loss(
            truth, probabilities if k > 2 else probabilities[:, 1], labels=list(range(k)) if k > 2 else None
        )
        assert brier(probabilities, as_columns(truth, k), several=False) == pytest.approx(expected)
    probabilities, known = np.random.default_rng(0).uniform(size=(6, 3)), FEW.copy()
    known[0] = np.nan
    expected = np.mean((probabilities - FEW)[1:] ** 2)
    assert brier(probabilities, known, several=True) == pytest.approx(expected)


def slow_error(probabilities: Floats, right: Callable[[int, int], bool], sure: Callable[[Floats], list[float]]) -> float:
    """Bin by bin: (0, 0.1], (0.1, 0.2], ... with 0 in the first."""
    bins: dict[int, list[tuple[float, bool]]] = {}
    total = 0
    for n, row in enumerate(probabilities):
        for k, p in enumerate(sure(row)):
            place = next(b for b in range(10) if p <= (b + 1) / 10 + 1e-9)
            bins.setdefault(place, []).append((p, right(n, k)))
            total += 1
    gaps = [abs(sum(hit for _, hit in found) - sum(p for p, _ in found)) for found in bins.values()]
    return sum(gaps) / total


def test_the_calibration_error_equals_a_slow_loop() -> None:
    probabilities, truth = softmax(70, 3), labels(70, 3)
    expected = slow_error(probabilities, lambda n, _: probabilities[n].argmax() == truth[n], lambda row: [float(row.max())])
    assert calibration_error(probabilities, as_columns(truth, 3), several=False) == pytest.approx(expected)
    asked = np.random.default_rng(0).uniform(size=(6, 3))
    expected = slow_error(
        asked,
        lambda n, k: (asked[n, k] >= 0.5) == (FEW[n, k] > 0),
        lambda row: [float(max(p, 1 - p)) for p in row],
    )
    assert calibration_error(asked, FEW, several=True) == pytest.approx(expected)


def test_the_calibration_error_by_hand() -> None:
    # Ten answers of 0.8 of which seven are right, and ten of 0.6 of which all are right: (10 * 0.1 + 10 * 0.4) / 20.
    sure = np.repeat([0.8, 0.6], 10)
    probabilities, truth = np.stack([sure, 1 - sure], axis=1), as_columns([0] * 7 + [1] * 3 + [0] * 10, 2)
    assert calibration_error(probabilities, truth, several=False) == pytest.approx(0.25)


def test_ends_of_bins_are_in_the_bin_below() -> None:
    ends = np.array([0.0, 0.1, 0.2, 0.30000000000000004, 0.5, 0.7, 1.0])
    assert confidence_bins(ends).tolist() == [0, 0, 1, 2, 4, 6, 9]
