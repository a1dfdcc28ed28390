"""ConVIRT: the two-way contrastive loss by hand, its temperature, negatives, matching, and a test without text."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from tests.methods.test_local_mi import batch_of
from tests.networks.test_retraining import FRONTAL, REPORT, SIGNS, SMALL
from torch.nn.functional import cosine_similarity, cross_entropy

from comodal.batch import Text
from comodal.method import Losses, Problem
from comodal.methods.convirt import ConVIRT, ConVIRTConfig
from comodal.testing import make_batch


def method_of(**settings: Any) -> ConVIRT:
    torch.manual_seed(0)
    problem = Problem((FRONTAL, REPORT), (SIGNS,), 2, (32, 32), vocabulary=12)
    given = {**{key: value for key, value in SMALL.items() if key != "critic"}, "embedding": 8, **settings}
    return ConVIRT(problem, ConVIRTConfig.model_validate(given))


def test_the_loss_is_the_two_cross_entropies_less_log_k() -> None:
    method = method_of(image_to_text=0.75).eval()
    batch = batch_of(method, 5)  # type: ignore[arg-type]
    found = method.losses(batch, method.stages()[0])
    with torch.no_grad():
        v = method.projections["image"](method.image(batch.image("frontal")))
        u = method.projections["text"](method.text.report(batch.text("report"))[0])
        scores = cosine_similarity(v[:, None], u[None], dim=2) / 0.1
        forth, back = (float(cross_entropy(matrix, torch.arange(5))) for matrix in (scores, scores.T))
    assert float(found["infonce/image to text"].detach()) == pytest.approx(0.75 * (forth - math.log(5)), abs=1e-5)
    assert float(found["infonce/text to image"].detach()) == pytest.approx(0.25 * (back - math.log(5)), abs=1e-5)
    assert isinstance(found, Losses)
    assert float(found.diagnostics["information"]) == pytest.approx(math.log(5) - (forth + back) / 2, abs=1e-5)


def test_projections_have_two_layers_and_the_temperature_stays() -> None:
    method = method_of(embedding=512)
    shapes = {name: [tuple(p.shape) for p in part.parameters()] for name, part in method.projections.items()}
    assert shapes == {"image": [(512, 768), (512,), (512, 512), (512,)], "text": [(512, 8), (512,), (512, 512), (512,)]}
    stage = method.stages()[0]
    method.enter(stage)
    trained = {name for name, p in method.named_parameters() if p.requires_grad}
    assert not any(name.startswith(("cosine", "retrained")) for name in trained)
    assert {name.split(".")[0] for name in trained} == {"image", "text", "projections"}


def test_a_sentence_of_the_report_is_drawn_as_in_the_paper() -> None:
    method = method_of(unit="sentence").eval()
    batch = batch_of(method, 4)  # type: ignore[arg-type]
    values = set()
    for seed in range(6):
        torch.manual_seed(seed)
        values.add(round(float(sum(method.losses(batch, method.stages()[0]).values()).detach()), 6))  # type: ignore[union-attr]
    assert len(values) > 1


@pytest.mark.parametrize("unit", ["report", "sentence"])
def test_reports_are_matched_by_the_cosine(unit: str) -> None:
    method = method_of(unit=unit).eval()
    batch, text = batch_of(method, 3), batch_of(method, 4, seed=1).text("report")  # type: ignore[arg-type]
    attention = text.attention.clone()
    attention[2] = False
    with torch.no_grad():
        found = method.match(batch, Text(text.ids, attention))
        v = method.projections["image"](method.image(batch.image("frontal")))
        if unit == "report":
            u = method.projections["text"](method.text.report(text)[0])
            wanted = cosine_similarity(v[1], u[3], dim=0) / 0.1
        else:
            features, there = method.text.sentences(text)
            u = method.projections["text"](features[3][there[3]])
            wanted = (cosine_similarity(v[1][None], u, dim=1) / 0.1).mean()
    torch.testing.assert_close(found.reports[1, 3], wanted)
    assert found.sentences is None and bool(found.reports[:, 2].isnan().all()) and bool(found.reports[:, :2].isfinite().all())


def test_at_test_the_image_is_enough() -> None:
    method = method_of(retrain="frozen").eval()
    batch = make_batch(method.problem, 3)
    with torch.no_grad():
        whole = method.predict(batch).probabilities["signs"]
        for part in (method.text, method.projections):
            for tensor in part.state_dict().values():
                tensor.fill_(math.nan)
        alone = method.predict(batch.keep(["frontal"])).probabilities["signs"]
    assert whole.equal(alone) and bool(alone.isfinite().all())
