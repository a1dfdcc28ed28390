"""Classes by prompts: scores by hand, AUROC against scikit-learn, names that are not known."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import yaml
from sklearn.metrics import roc_auc_score

from comodal.data.open_i_findings import finding_names
from comodal.errors import ConfigError
from comodal.evaluation.prompts import (
    ClassPrompts,
    check_prompts,
    class_scores,
    fitting_prompts,
    sentences_of,
    truth_columns,
    zero_shot,
)
from comodal.modality import Target
from comodal.study.matching import SHIPPED

FINDINGS = Target("findings", "multilabel", ("Mass", "Nodule", "Edema"))
PROMPTS = {
    "findings": {
        "Mass": ClassPrompts(positive=("A mass.", "Masses."), negative=("No mass.",)),
        "Edema": ClassPrompts(positive=("Edema.",), negative=("No edema.", "No mass.")),
    }
}


def shipped() -> dict[str, ClassPrompts]:
    read: dict[str, Any] = yaml.safe_load(SHIPPED.read_text(encoding="utf-8"))
    return {name: ClassPrompts.model_validate(entry) for name, entry in read.items()}


def test_scores_of_classes_by_hand() -> None:
    sentences = sentences_of(PROMPTS)
    assert sentences == ("A mass.", "Masses.", "No mass.", "Edema.", "No edema.")
    scores = np.array([[1.0, 3.0, 0.5, 2.0, 4.0], [0.0, 0.0, 7.0, 9.0, 1.0]])
    assert class_scores(scores, sentences, PROMPTS["findings"]).tolist() == [[2.5, -2.0], [-7.0, 2.0]]


def test_each_class_against_the_rest() -> None:
    rng = np.random.default_rng(0)
    truth = (rng.random((50, 2)) < 0.4).astype(float)
    truth[::7, 0] = np.nan
    scores = rng.normal(size=(50, 2)) * 300 + 200 * np.nan_to_num(truth)  # far beyond what a sigmoid could tell apart
    found = zero_shot(scores, truth, ("Mass", "Edema"), target="findings", groups=[f"p{n}" for n in range(50)], resamples=100)
    assert list(found) == [
        "AUROC/findings", "AUPRC/findings", "AUROC/findings/Mass", "AUPRC/findings/Mass", "AUROC/findings/Edema",
        "AUPRC/findings/Edema",
    ]  # fmt: skip
    parts = []
    for k, name in enumerate(("Mass", "Edema")):
        known = ~np.isnan(truth[:, k])
        cell = found[f"AUROC/findings/{name}"]
        parts.append(roc_auc_score(truth[known, k], scores[known, k]))
        assert cell.value == pytest.approx(parts[-1]) and cell.n == known.sum() and cell.ci95 is not None
        assert (cell.n_pos, cell.n_neg) == ((truth[known, k] == 1).sum(), (truth[known, k] == 0).sum())
    assert found["AUROC/findings"].value == pytest.approx(np.mean(parts))


@pytest.mark.parametrize(("answer", "note"), [(0.0, "no case has it"), (1.0, "all cases have it")])
def test_a_class_with_one_side_has_no_number(answer: float, note: str) -> None:
    found = zero_shot(np.zeros((9, 1)), np.full((9, 1), answer), ("Mass",), target="findings", groups=list("abcdefghi"))
    cell = found["AUROC/findings/Mass"]
    assert list(found) == ["AUROC/findings/Mass", "AUPRC/findings/Mass"] and cell.value is None and cell.note == note


def test_truths_of_all_kinds() -> None:
    grade = Target("grade", "ordinal", ("0", "1", "2"))
    assert truth_columns(grade, [1, 2, None], ["2"])[:2].tolist() == [[0.0], [1.0]]
    found = truth_columns(FINDINGS, [np.array([1.0, np.nan, 0.0]), None], ["Edema", "Nodule"])
    np.testing.assert_array_equal(found, [[0.0, np.nan], [np.nan, np.nan]])


def test_unknown_names_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"--prompts must name targets of the run; got 'finding'. Did you mean findings\?"):
        check_prompts({"finding": PROMPTS["findings"]}, [FINDINGS])
    wrong = {"findings": {"Nodul": PROMPTS["findings"]["Mass"]}}
    with pytest.raises(
        ConfigError, match=r"--prompts: findings must name classes of the target; got 'Nodul'. Did you mean Nodule\?"
    ):
        check_prompts(wrong, [FINDINGS])
    with pytest.raises(ConfigError, match="--prompts must have a class"):
        check_prompts({}, [FINDINGS])
    assert check_prompts(PROMPTS, [FINDINGS]) is PROMPTS


def test_shipped_prompts_are_for_all_findings_of_open_i() -> None:
    open_i = Target("findings", "multilabel", tuple(finding_names()))
    assert list(fitting_prompts(shipped(), [open_i])["findings"]) == finding_names()
    assert fitting_prompts(shipped(), [Target("dx", "class", ("naevus", "melanoma"))]) == {}
    loose = fitting_prompts(shipped(), [Target("f", "multilabel", ("pleural thickening", "PLEURAL EFFUSION"))])
    assert list(loose["f"]) == ["pleural thickening", "PLEURAL EFFUSION"]
