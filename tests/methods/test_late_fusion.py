"""Late fusion: which heads speak for which subset, what the loss is a sum of, and that frozen parts stay frozen."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.methods.bedside import config_for, write_cohort
from torch import Tensor

from comodal.batch import Batch
from comodal.errors import ConfigError, UnsupportedSubset
from comodal.method import Method, Problem
from comodal.methods.late_fusion import LateFusion, LateFusionConfig
from comodal.modality import Modality, Target
from comodal.networks.classification import class_probabilities, classification_losses
from comodal.networks.segmentation import labelled_where
from comodal.testing import make_batch
from comodal.testing.subject import encodings, stage_batch
from comodal.training.train import train_run

ROOT = Path(__file__).resolve().parents[2]
A, B, C = (Modality(name, "features", 0, 3) for name in "abc")
DIAGNOSIS = Target("diagnosis", "class", ("benign", "malignant", "other"))
SIGNS = Target("signs", "multilabel", ("veil", "streaks"))


def fusion_of(*modalities: Modality, **settings: Any) -> LateFusion:
    torch.manual_seed(0)
    problem = Problem(modalities, (DIAGNOSIS, SIGNS))
    return LateFusion(problem, LateFusionConfig.model_validate({"vector": 4, **settings}))


def some(method: Method, *rows: str) -> Batch:
    present = torch.tensor([[name in row for name in method.problem.names] for row in rows])
    return make_batch(method.problem, len(rows), present=present)


def latents_of(method: LateFusion, batch: Batch) -> dict[str, Tensor]:
    """By the layers themselves, zeros where absent."""
    found = {}
    for name in method.problem.names:
        value = method.encoder.encoders[name](batch.vector(name))
        found[name] = torch.where(batch.is_present(name)[:, None], value, torch.zeros(()))
    return found


# ------------------------------------------------------------------------------------------------------- prediction
def test_the_heads_are_chosen_row_by_row() -> None:
    method = fusion_of(A, B, C).eval()
    batch = some(method, "abc", "a", "b", "ac", "c")
    with torch.no_grad():
        found, latents = method.predict(batch), latents_of(method, batch)
        fused = method.heads["fused"](torch.cat(list(latents.values()), dim=1))
        own = {name: method.heads[f"own_{name}"](latents[name]) for name in "abc"}
    for row, heads in enumerate([fused, own["a"], own["b"], fused, own["c"]]):
        wanted = class_probabilities(heads, method.problem.targets)
        for target in ("diagnosis", "signs"):
            torch.testing.assert_close(found.probabilities[target][row], wanted[target][row])
    assert torch.equal(found.used, batch.present)


def test_refusing_needs_everything_and_has_no_further_heads() -> None:
    method = fusion_of(A, B, absent="refuse").eval()
    assert list(method.heads) == ["fused"] and method.requires.at_test == ("a", "b")
    assert [method.supports(s) for s in (("a",), ("b",), ("a", "b"))] == [False, False, True]
    with pytest.raises(UnsupportedSubset, match=r"from which it can predict \(a\+b\); got a\."):
        method.predict(some(method, "ab", "a"))
    assert list(method.losses(some(method, "ab", "ab"), method.stages()[0])) == ["ce/diagnosis", "ce/signs"]
    assert method.stages()[0].modalities == ("a", "b")
    assert fusion_of(A, B).supports(("b",)) and fusion_of(A, B).requires.at_test is None


def test_one_modality_is_none_to_fuse() -> None:
    with pytest.raises(ConfigError, match=r"method late-fusion must get two or more modalities; got a\. Add one to"):
        fusion_of(A)


def test_a_modality_may_be_called_like_the_heads() -> None:
    method = fusion_of(Modality("fused", "features", 0, 3), Modality("encoder", "features", 0, 3), frozen=True)
    assert [stage.name for stage in method.stages()] == ["classifier-fused", "classifier-encoder", "fused"]
    assert method.predict(some(method, "fused")).used.tolist() == [[True, False]]


# ------------------------------------------------------------------------------------------------------- losses
@pytest.mark.parametrize("training", [True, False])
def test_the_loss_of_two_is_the_sum_of_the_fused_and_the_own_terms(training: bool) -> None:
    method = fusion_of(A, B, fused_weight=2.0, own_weight=0.5, target_weights={"signs": 3.0}).train(training)
    batch = some(method, "ab", "a", "b", "ab")
    terms, latents = method.losses(batch, method.stages()[0]), latents_of(method, batch)
    assert len(terms) == 6

    def mean(heads: str, z: Tensor, rows: list[bool]) -> dict[str, Tensor]:
        seen = labelled_where(batch, torch.tensor(rows))
        logits = method.heads[heads](z)
        return classification_losses(logits, seen, method.problem.targets, class_weights=method.class_weights)

    both = torch.cat([latents["a"], latents["b"]], dim=1)
    fused = mean("fused", both, [True, False, False, True])  # a case with one modality teaches its own heads alone
    own = {
        "a": mean("own_a", latents["a"], [True, True, False, True]),
        "b": mean("own_b", latents["b"], [True, False, True, True]),
    }
    for target, factor in (("diagnosis", 1.0), ("signs", 3.0)):
        torch.testing.assert_close(terms[f"ce/{target}"], 2.0 * factor * fused[f"ce/{target}"])
        for name in "ab":
            torch.testing.assert_close(terms[f"ce/{target}/{name}"], 0.5 * factor * own[name][f"ce/{target}"])


def test_of_three_the_fused_heads_see_random_subsets_of_two_or_more() -> None:
    method = fusion_of(A, B, C)
    batch = some(method, *["abc"] * 300, *["ab"] * 100, *["c"] * 20)
    seen: list[Tensor] = []
    method.heads["fused"].register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].reshape(420, 3, 4) != 0))
    latents = latents_of(method, batch)
    torch.manual_seed(1)
    method.train().losses(batch, method.stages()[0])
    method.eval().losses(batch, method.stages()[0])
    for shown, training in zip(seen, (True, False), strict=True):
        there = shown.any(dim=2)  # (B, M): whose latent is not zero
        full = torch.stack([latents[name].abs().sum(dim=1) > 0 for name in "abc"], dim=1)
        whole = (there == full).all(dim=1)
        assert bool((there <= full).all())
        if not training:  # weights are chosen by cases with all they have
            assert bool(whole.all())
            continue
        assert 0.55 < float(whole[:300].float().mean()) < 0.8  # 1/3, and 1/3 for one that would be alone
        assert float(whole[300:].float().mean()) == 1.0  # of two, none can be left out
        assert {tuple(row) for row in there[:300].tolist()} >= {(True, True, False), (True, False, True), (False, True, True)}


# ------------------------------------------------------------------------------------------------------- frozen
def test_frozen_stages_are_classifiers_and_then_a_linear_head() -> None:
    method = fusion_of(A, B, frozen=True, hidden=5, balance=["diagnosis"], patience=3)
    first, second, last = method.stages()
    assert first.train == ("encoder.encoders.a", "heads.own_a") and first.modalities == ("a",) and first.inputs == "raw"
    assert second.monitor is not None and second.monitor.subsets == (("b",),) and second.monitor.patience == 3
    assert last.train == ("heads.fused",) and last.inputs == "encoded" and last.modalities == ("a", "b")
    assert (last.batch_size, last.epochs, last.steps) == (50, 500, None) and all(s.balance for s in method.stages())
    how = last.optimisers[""]
    assert (how.name, how.rate, how.momentum) == ("sgd", 1e-3, 0.9)
    sizes = [sum(p.numel() for p in method.heads[name].parameters()) for name in ("fused", "own_a")]
    assert sizes == [8 * 3 + 3 + 8 * 2 + 2, 2 * (4 * 5 + 5) + 5 * 3 + 3 + 5 * 2 + 2]
    assert fusion_of(A, B, C, frozen=True).stages()[-1].modalities == ()  # two of three teach the fused head, too


def test_a_classifier_of_one_modality_runs_no_other_encoder() -> None:
    method = fusion_of(A, B, frozen=True)
    called: list[str] = []
    for name, encoder in method.encoder.encoders.items():
        encoder.register_forward_pre_hook(lambda *_, name=name: called.append(name))
    for stage in method.stages()[:2]:
        assert set(method.losses(some(method, "ab", "ab"), stage)) == {
            f"ce/{target}/{stage.modalities[0]}" for target in ("diagnosis", "signs")
        }
    assert called == ["a", "b"]


def test_cached_latents_equal_those_on_the_fly_and_the_head_alone_learns() -> None:
    method = fusion_of(A, B, frozen=True, dropout=0.0)
    last = method.stages()[-1]
    method.enter(last)
    batch = some(method, "ab", "ab", "ab")
    before = {name: p.detach().clone() for name, p in method.named_parameters()}
    terms = method.losses(stage_batch(method, last, batch), last)
    method.enter(last)
    with torch.no_grad():
        joined = method.encoder.join(latents_of(method, batch), {name: batch.is_present(name) for name in "ab"})
        wanted = classification_losses(
            method.heads["fused"](joined), batch, method.problem.targets, class_weights=method.class_weights
        )
    for name, value in wanted.items():
        torch.testing.assert_close(terms[name].detach(), value)
    optimiser = torch.optim.SGD(method.parameters(), lr=0.1)
    method.losses(stage_batch(method, last, batch), last)
    torch.stack(list(terms.values())).sum().backward()
    optimiser.step()
    for name, p in method.named_parameters():
        assert torch.equal(p, before[name]) != name.startswith("heads.fused"), name
        assert (p.grad is not None) == name.startswith("heads.fused"), name


def test_a_stage_of_one_modality_is_judged_by_its_own_heads_also_where_less_is_refused() -> None:
    method = fusion_of(A, B, frozen=True, absent="refuse").eval()
    batch = some(method, "a", "a")
    with torch.no_grad():
        found = method.validate(batch, method.stages()[0])
        wanted = class_probabilities(method.heads["own_a"](latents_of(method, batch)["a"]), method.problem.targets)
    torch.testing.assert_close(found.probabilities["diagnosis"], wanted["diagnosis"])
    assert not method.supports(("a",)) and set(encodings(method, batch)) == {"a"}


# ------------------------------------------------------------------------------------------------------- runs
def read(run: Path, event: str) -> list[dict[str, Any]]:
    every = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [line for line in every if line["event"] == event]


@pytest.mark.parametrize("judge", ["loss", "AUROC"])
def test_frozen_stages_run_on_the_cache_and_leave_the_encoders_alone(tmp_path: Path, judge: str) -> None:
    cohort = write_cohort(tmp_path / "cohort")
    settings: dict[str, Any] = {"frozen": True, "vector": 4, "steps": 8, "head_epochs": 6, "head_batch": 4, "judge": judge}
    run = train_run(config_for(cohort, "late-fusion", "a", "b", **settings), tmp_path / "run")
    ends = {line["stage"]: line for line in read(run.path, "stage") if line["state"] == "end"}
    assert list(ends) == ["classifier-a", "classifier-b", "fused"]
    assert all(line["score"] is not None for line in ends.values())
    paired = sum("b" in run.cohort.case(i).cells for i in run.splits["train"])
    assert ends["fused"]["steps"] == 6 * max(1, paired // 4)  # only cases with both teach the fused head
    first = train_run(config_for(cohort, "late-fusion", "a", "b", **{**settings, "head_epochs": 1}), tmp_path / "short")
    for (name, p), q in zip(run.method("cpu").named_parameters(), first.method("cpu").parameters(), strict=True):
        assert torch.equal(p, q) or name.startswith("heads.fused"), name


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "modalities", "settings"),
    [
        ("late-fusion", ["a", "b"], {"steps": 8, "vector": 4}),
        ("late-fusion", ["a", "b", "bag"], {"frozen": True, "steps": 4, "head_epochs": 1, "head_batch": 4, "bag_dropout": 0.0}),
        ("clam", ["bag"], {"steps": 8, "bags": 4, "bag_dropout": 0.0}),
        ("classifier", ["a", "b"], {"steps": 8, "hidden": 3}),
    ],
    ids=["late-fusion", "frozen", "clam", "classifier"],
)
def test_two_processes_make_the_steps_of_one(
    tmp_path: Path, name: str, modalities: list[str], settings: dict[str, Any]
) -> None:
    """Some rows lack a modality or a target, so that one process may have none of it: all must enter the same sums."""
    config_for(write_cohort(tmp_path / "cohort"), name, *modalities, **settings)
    paths = os.pathsep.join([str(ROOT), str(ROOT / "src")])
    environment = {**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1"}
    for devices in ("1", "2"):
        words = ["train", str(tmp_path / "cohort" / f"{name}.yaml"), "--out", str(tmp_path / devices), "--devices", devices]
        full = [sys.executable, "-m", "comodal", *words]
        done = subprocess.run(full, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=120, check=False)
        assert done.returncode == 0, done.stderr
    one, two = (read(tmp_path / devices, "step") for devices in ("1", "2"))
    assert len(one) == len(two) > 0
    for a, b in zip(one, two, strict=True):
        if a["stage"] == "fused" and len(modalities) > 2:
            continue  # the subsets that it draws depend on the process
        assert b["terms"] == pytest.approx(a["terms"], rel=2e-4, abs=1e-5), (a["stage"], a["step"])
