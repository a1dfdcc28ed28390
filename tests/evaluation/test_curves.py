"""Points of figures against scikit-learn and against counting by hand."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn import metrics as reference
from statsmodels.stats.proportion import proportion_confint

from comodal.errors import ConfigError
from comodal.evaluation.classification import auroc, metric_columns
from comodal.evaluation.curves import confusion, precision_recall, reliability, roc, wilson
from comodal.evaluation.results import CaseResult
from comodal.modality import Target

GRADE = Target("grade", "class", ("low", "middle", "high"))
FINDINGS = Target("findings", "multilabel", ("edema", "mass"))


def cases(n: int, *, seed: int = 0, first: int = 0, digits: int = 6) -> list[CaseResult]:
    """Cases c<first>, c<first + 1>, ... whose truth depends on the number alone; few digits make ties."""
    rng = np.random.default_rng(seed)
    found = []
    for i in range(first, first + n):
        truth = i % 3
        raw = np.exp(rng.normal(size=3) + np.eye(3)[truth])
        p = np.round(raw / raw.sum(), digits)
        found.append(_case(f"c{i}", {"grade": p.tolist()}, {"grade": truth}))
    return found


def _case(subject: str, probabilities: dict[str, list[float]], targets: dict[str, int | list[float | None]]) -> CaseResult:
    return CaseResult(subject=subject, group=subject, present=("t1",), probabilities=probabilities, targets=targets)


def of(found: list[CaseResult], k: int) -> tuple[list[float], list[bool]]:
    return [(c.probabilities or {})["grade"][k] for c in found], [(c.targets or {})["grade"] == k for c in found]


@pytest.mark.parametrize("digits", [1, 6])
def test_curves_of_one_run_equal_scikit_learn(digits: int) -> None:
    found = cases(60, digits=digits)
    for k in range(3):
        scores, truth = of(found, k)
        curve = roc(found, GRADE, k)
        x, y, _ = reference.roc_curve(truth, scores, drop_intermediate=False)
        points = {*zip(curve.x.round(9), curve.y.round(9), strict=True)}
        assert points <= {*zip(x.round(9), y.round(9), strict=True)}  # without those in the middle of a vertical line
        assert {x for x, _ in points} == {*x.round(9)} and {(0.0, 0.0), (1.0, 1.0)} <= points
        assert curve.area == pytest.approx(reference.roc_auc_score(truth, scores))
        assert (curve.label, curve.n, curve.n_pos, curve.runs, curve.chance) == (GRADE.classes[k], 60, 20, 1, 0.5)
        steps = precision_recall(found, GRADE, k)
        assert steps.area == pytest.approx(reference.average_precision_score(truth, scores))
        assert steps.area == pytest.approx(float((np.diff(steps.x) * steps.y[1:]).sum()))
        precision, recall, _ = reference.precision_recall_curve(truth, scores)
        best = {r: max(p for p, other in zip(precision, recall, strict=True) if other == r) for r in recall}
        assert all(y == pytest.approx(best[x]) or y < best[x] for x, y in zip(steps.x[1:], steps.y[1:], strict=True))
        assert (steps.x[0], steps.x[-1]) == (0, 1) and steps.chance == pytest.approx(1 / 3)


def test_several_runs_are_averaged_at_equal_x() -> None:
    one, two = cases(30, seed=1), cases(30, seed=2, digits=1)
    curve, steps = roc([*one, *two], GRADE, 0), precision_recall([*one, *two], GRADE, 0)
    assert curve.area == pytest.approx(np.mean([roc(run, GRADE, 0).area or 0 for run in (one, two)]))
    assert steps.area == pytest.approx(np.mean([precision_recall(run, GRADE, 0).area or 0 for run in (one, two)]))
    assert (curve.n, curve.n_pos, curve.runs) == (30, 10, 2)
    assert (np.diff(curve.x) >= 0).all() and (np.diff(curve.y) >= -1e-12).all()
    same = roc([*one, *one], GRADE, 0)
    assert same.x == pytest.approx(roc(one, GRADE, 0).x) and same.y == pytest.approx(roc(one, GRADE, 0).y)


def test_folds_are_one_round() -> None:
    folds = [*cases(15), *cases(15, first=15, seed=3)]
    curve = roc(folds, "grade", 2)
    scores, truth = of(folds, 2)
    assert curve.area == pytest.approx(float(auroc(np.array(scores)[:, None], np.array(truth)[:, None])[0, 0]))
    assert (curve.n, curve.runs, curve.label) == (30, 1, "2")


def test_confusion_counts_each_case_once() -> None:
    one, two = cases(30, seed=1), cases(30, seed=2)
    single = confusion(one, "grade", GRADE.classes)
    answers = [int(np.argmax((c.probabilities or {})["grade"])) for c in one]
    truth = [c.targets["grade"] for c in one if c.targets]
    assert single.counts == pytest.approx(reference.confusion_matrix(truth, answers))
    both = confusion([*one, *two], GRADE, GRADE.classes)
    assert both.counts == pytest.approx((single.counts + confusion(two, GRADE, GRADE.classes).counts) / 2)
    assert both.counts.sum() == pytest.approx(30) and (both.n, both.runs) == (30, 2)
    assert np.diag(single.shares) == pytest.approx(reference.recall_score(truth, answers, average=None))
    # a case that only one run tested has its whole weight there
    assert confusion([*one, *two, *cases(3, first=30)], GRADE, GRADE.classes).counts.sum() == pytest.approx(33)


def test_confusion_of_what_has_none_is_refused() -> None:
    several = [_case("a", {"findings": [0.2, 0.9]}, {"findings": [0.0, 1.0]})]
    with pytest.raises(ConfigError, match=r"confusion\.target must have one class for each case; got multilabel 'findings'"):
        confusion(several, FINDINGS, FINDINGS.classes)
    with pytest.raises(ConfigError, match=r"confusion\.classes must be the 3 of the probabilities; got 2"):
        confusion(cases(3), GRADE, ["low", "high"])


def test_reliability_has_the_error_of_the_metric() -> None:
    found = cases(60)
    got = reliability(found, GRADE)
    probabilities = np.array([(c.probabilities or {})["grade"] for c in found])
    truth = np.eye(3)[[i % 3 for i in range(60)]]
    assert got.ece == pytest.approx(float(metric_columns("ECE", probabilities, truth, several=False)[0, 0]))
    assert sum(one.count for one in got.bins) == pytest.approx(60)
    assert all(one.count == 0 and one.accuracy is None for one in got.bins[:3])  # of three classes the best is above 1/3
    for one in got.bins:
        if one.confidence is not None and one.accuracy is not None and one.ci95 is not None:
            assert one.low - 1e-9 <= one.confidence <= one.high + 1e-9
            assert one.ci95[0] <= one.accuracy <= one.ci95[1]
    twice = reliability([*found, *found], GRADE)
    assert (twice.n, twice.runs) == (60, 2) and twice.ece == pytest.approx(got.ece)
    assert [one.count for one in twice.bins] == pytest.approx([one.count for one in got.bins])


def test_each_labelled_question_is_an_answer() -> None:
    found = [
        _case("a", {"findings": [0.9, 0.2]}, {"findings": [1.0, 0.0]}),
        _case("b", {"findings": [0.95, 0.3]}, {"findings": [0.0, None]}),
    ]
    got = reliability(found, FINDINGS)
    assert [one.count for one in got.bins] == [0, 0, 0, 0, 0, 0, 0, 1, 1, 1]  # 0.8 for "no", 0.9 and 0.95 for "yes"
    assert [one.accuracy for one in got.bins[-3:]] == [1, 1, 0]
    assert roc(found, FINDINGS, 0).area == 0.0
    assert roc(found, FINDINGS, 1).area is None and roc(found, FINDINGS, 1).n == 1


def test_nothing_has_no_curve() -> None:
    assert reliability([], GRADE).ece is None and len(reliability([], GRADE, bins=4).bins) == 4
    for curve in (roc([], GRADE, 0), precision_recall(cases(1), GRADE, 0)):
        assert (curve.area, len(curve.x), len(curve.y)) == (None, 0, 0)
    assert confusion([], GRADE, GRADE.classes).counts.tolist() == np.zeros((3, 3)).tolist()


def test_the_interval_is_wilsons() -> None:
    for part, n in ((0.0, 5), (0.5, 10), (1.0, 12), (0.25, 40)):
        assert wilson(part, n) == pytest.approx(proportion_confint(round(part * n), n, method="wilson"))
