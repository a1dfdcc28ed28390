"""The classifier: an encoder and heads, put together by hand; both readings of "all sequences"; weights from training cases."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from tests.methods.bedside import config_for, write_cohort

from comodal.errors import UnsupportedSubset
from comodal.method import Problem
from comodal.methods.classifier import Classifier, ClassifierConfig
from comodal.modality import Modality, Target
from comodal.networks.classification import class_probabilities, classification_losses
from comodal.run import Run
from comodal.testing import make_batch
from comodal.training.train import train_run

T1, T2 = Modality("t1", channels=2), Modality("t2")
A, B = (Modality(name, "features", 0, 3) for name in "ab")
DIAGNOSIS = Target("diagnosis", "class", ("benign", "malignant", "other"))
SIGNS = Target("signs", "multilabel", ("veil", "streaks"))


def classifier_of(*modalities: Modality, counts: Any = None, **settings: Any) -> Classifier:
    torch.manual_seed(0)
    problem = Problem(modalities, (DIAGNOSIS, SIGNS), 3, (12, 12, 4), counts=counts or {})
    config = {"encoder": "resnet10-quarter", "slices": "mean", **settings}
    return Classifier(problem, ClassifierConfig.model_validate(config))


def test_it_is_heads_on_the_latents_of_all_modalities() -> None:
    method = classifier_of(A, B, vector=4, hidden=5).eval()
    batch = make_batch(method.problem, 4)
    with torch.no_grad():
        found = method.predict(batch)
        latents = [method.encoder.encoders[name](batch.vector(name)) for name in "ab"]
        wanted = class_probabilities(method.heads(torch.cat(latents, dim=1)), method.problem.targets)
    for target in ("diagnosis", "signs"):
        torch.testing.assert_close(found.probabilities[target], wanted[target])
    assert bool(found.used.all())


def test_it_needs_every_modality_at_training_and_at_test() -> None:
    method = classifier_of(A, B)
    assert method.requires.at_test == method.requires.at_training == method.stages()[0].modalities == ("a", "b")
    assert not method.supports(("a",)) and method.supports(("b", "a"))
    with pytest.raises(UnsupportedSubset, match=r"from which it can predict \(a\+b\); got b\."):
        method.predict(make_batch(method.problem, 2).keep(["b"]))


def test_all_sequences_as_latents_or_as_channels() -> None:
    latents, channels = (classifier_of(T1, T2, fusion=fusion) for fusion in ("latents", "channels"))
    assert latents.encoder.size == 256 and latents.together == ()
    assert channels.encoder.size == 128 and channels.together == (("t1", "t2"),)
    assert channels.encoded_parts(["t1", "t2"]) == [("t1", "t2")] and channels.encoded_parts(["t2"]) == []
    for method in (latents, channels):
        batch = make_batch(method.problem, 2)
        found = method.eval().predict(batch)
        torch.testing.assert_close(method.decode(method.encode(batch), batch.present).probabilities, found.probabilities)


def test_the_loss_has_weights_of_classes_and_of_targets() -> None:
    counts = {"diagnosis": ((30, 40), (8, 40), (2, 40)), "signs": ((10, 40), (20, 40))}
    method = classifier_of(A, counts=counts, target_weights={"signs": 0.5})
    assert method.class_weights["diagnosis"].tolist() == pytest.approx([40 / 90, 40 / 24, 40 / 6])
    assert method.class_weights["signs"].tolist() == pytest.approx([3.0, 1.0])
    batch = make_batch(method.problem, 4)
    terms = method.losses(batch, method.stages()[0])
    wanted = classification_losses(
        method.heads(batch.vector("a")), batch, method.problem.targets, class_weights=method.class_weights
    )
    torch.testing.assert_close(terms["ce/diagnosis"], wanted["ce/diagnosis"])
    torch.testing.assert_close(terms["ce/signs"], 0.5 * wanted["ce/signs"])


def test_the_monitor_is_the_loss_or_a_metric_of_which_more_is_better() -> None:
    found = [classifier_of(A, judge=judge, patience=4).stages()[0].monitor for judge in ("loss", "AUROC", "balanced_accuracy")]
    assert [(m.metric, m.mode, m.patience) for m in found if m is not None] == [
        ("loss", "min", 4), ("AUROC", "max", 4), ("balanced_accuracy", "max", 4),
    ]  # fmt: skip


def test_a_run_counts_its_training_cases_and_keeps_the_counts(tmp_path: Path) -> None:
    cohort = write_cohort(tmp_path / "cohort")
    config = config_for(cohort, "classifier", "a", steps=6, balance=["diagnosis"], judge="AUROC", class_weights="balanced")
    run = train_run(config, tmp_path / "run")
    train = [run.cohort.case(i).cells for i in run.splits["train"]]
    ill = sum(cells["diagnosis"] == "malignant" for cells in train)
    known = sum("signs" in cells for cells in train)
    veil = sum(cells.get("signs") == "veil" for cells in train)
    counts = Run.load(tmp_path / "run").problem.counts
    assert counts["diagnosis"] == ((len(train) - ill, len(train)), (ill, len(train)))
    assert counts["signs"] == ((veil, known), (0, veil))  # "?streaks": nobody knows of them
    method = run.method("cpu")
    assert isinstance(method, Classifier)
    assert method.class_weights["diagnosis"].tolist() == pytest.approx(
        [len(train) / (2 * (len(train) - ill)), len(train) / (2 * ill)]
    )
