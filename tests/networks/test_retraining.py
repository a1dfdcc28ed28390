"""What follows a pretraining: copies made once, what is frozen stays as it is to the bit, and a resumed training goes on."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.methods.reading_room import config_for, write_cohort
from torch import Tensor

from comodal.errors import ConfigError
from comodal.method import Problem, Stage
from comodal.methods.local_mi import LocalMI, LocalMIConfig
from comodal.modality import Modality, Target
from comodal.run import Run, read_weights
from comodal.testing import make_batch
from comodal.training.events import Event, Progress
from comodal.training.train import train_run

FRONTAL = Modality("frontal", "image", 2, 1, grid="frontal")
REPORT = Modality("report", "text", 0, 1, grid="report")
SIGNS = Target("signs", "multilabel", ("nodule", "effusion"))
SMALL: dict[str, Any] = {
    "encoder": "resnet6-small",
    "text_channels": 8,
    "words": 4,
    "text_blocks": 1,
    "text_dropout": 0.0,
    "critic": [8, 6],
}


def method_of(*modalities: Modality, **settings: Any) -> LocalMI:
    torch.manual_seed(0)
    problem = Problem(modalities or (FRONTAL, REPORT), (SIGNS,), 2, (32, 32), vocabulary=12)
    return LocalMI(problem, LocalMIConfig.model_validate({**SMALL, **settings}))


def state(method: LocalMI, prefix: str) -> dict[str, Tensor]:
    return {name: t.clone() for name, t in method.state_dict().items() if name.startswith(prefix)}


def same(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(a[name].equal(b[name]) for name in a)


def learn(method: LocalMI, stage: Stage, steps: int = 2) -> None:
    """A few steps as the loop makes them."""
    method.enter(stage)
    optimiser = torch.optim.Adam([p for p in method.parameters() if p.requires_grad], lr=1e-2)
    batch = make_batch(method.problem, 6)
    for _ in range(steps):
        optimiser.zero_grad()
        torch.stack(list(method.losses(batch, stage).values())).sum().backward()
        optimiser.step()


def test_both_ways_begin_from_one_pretraining() -> None:
    method = method_of(retrain="both")
    first, frozen, tuned = method.stages()
    assert (first.name, frozen.name, tuned.name) == ("pretrain", "frozen", "tuned")
    learn(method, first)
    learned = state(method, "image.")
    method.enter(frozen)
    last = {name.replace("retrained.frozen.encoder.0.", "image.network.layer6."): t
            for name, t in state(method, "retrained.frozen.encoder.").items()}  # fmt: skip
    assert last and all(learned[name].equal(tensor) for name, tensor in last.items())
    learn(method, frozen)
    method.enter(tuned)
    copied = {name.replace("retrained.tuned.encoder.", "image."): t
              for name, t in state(method, "retrained.tuned.encoder.").items()}  # fmt: skip
    assert same(copied, learned)
    learn(method, tuned)
    assert same(state(method, "image."), learned)  # critic, grounding and retrieval go on working
    assert (
        not state(method, "retrained.tuned.encoder.network.stem.0.weight")
        .popitem()[1]
        .equal(learned["image.network.stem.0.weight"])
    )


def test_frozen_moves_neither_a_weight_nor_a_running_statistic_of_the_lower_blocks() -> None:
    method = method_of(retrain="frozen", level="global")
    first, frozen = method.stages()
    learn(method, first)
    before = method.state_dict()
    before = {name: tensor.clone() for name, tensor in before.items()}
    learn(method, frozen, steps=3)
    changed = {name for name, tensor in method.state_dict().items() if not tensor.equal(before[name])}
    assert changed and all(name.startswith("retrained.frozen.") for name in changed)
    trained = {name.split(".")[2] for name, p in method.named_parameters() if p.requires_grad}
    assert trained == {"encoder", "heads"}
    shapes = [[p.shape for p in part.parameters()] for part in (
        method.retrained["frozen"].get_submodule("encoder"), method.image.network.get_submodule("layer6"))]  # fmt: skip
    assert shapes[0] == shapes[1] and shapes[0]


def test_the_copy_is_made_once() -> None:
    method = method_of()
    *_, tuned = method.stages()
    method.enter(tuned)
    learn(method, tuned)
    learned = state(method, "retrained.")
    method.enter(tuned)  # the loop does so after each validation
    assert same(state(method, "retrained."), learned)
    other = method_of()
    other.load_state_dict(method.state_dict())  # as a resumed training does
    other.enter(tuned)
    assert same(state(other, "retrained."), learned)


def test_what_predicts_is_what_was_trained() -> None:
    assert [method_of(retrain=way).way for way in ("tuned", "frozen", "both")] == ["tuned", "frozen", "tuned"]
    assert method_of(retrain="both", read_out="frozen").way == "frozen"
    with pytest.raises(
        ConfigError, match=r"method\.read_out must be trained \(tuned is\); got frozen\. Train with method\.retr"
    ):
        method_of(read_out="frozen")
    assert frozenset({"read_out"}) == LocalMIConfig.at_test
    method = method_of(retrain="both").eval()
    batch = make_batch(method.problem, 3)
    with torch.no_grad():
        each = {stage.name: method.validate(batch, stage).probabilities["signs"] for stage in method.stages()}
        assert each["pretrain"].equal(each["tuned"]) and each["tuned"].equal(method.predict(batch).probabilities["signs"])
    assert not each["frozen"].equal(each["tuned"])


def test_lengths_and_rates_of_the_stages() -> None:
    first, tuned = method_of(steps=7).stages()
    assert (first.steps, tuned.steps, first.targets, first.least_rows) == (7, 7, (), 2)
    assert tuned.reads == tuned.modalities == ("frontal",) and first.modalities == ("frontal", "report")
    text = first.optimisers["text"]
    assert (text.name, text.rate, text.weight_decay, text.schedule, text.warmup) == ("adamw", 5e-4, 0.1, "linear", 0.1)
    assert text.spare_vectors and (first.optimisers[""].name, first.optimisers[""].rate) == ("adam", 5e-4)
    first, tuned = method_of(pretrain_epochs=5, retrain_epochs=50, text_rate=1e-3).stages()
    assert (first.epochs, tuned.epochs, first.steps, first.optimisers["text"].rate) == (5, 50, None, 1e-3)
    assert [stage.name for stage in method_of(pretrain_steps=0).stages()] == ["tuned"]
    assert method_of(pretrain_steps=0).requires.at_training == ("frontal",)
    assert LocalMIConfig(text="minilm").fine_rate == 2e-5


@pytest.mark.parametrize("modalities", [(FRONTAL,), (REPORT,), (FRONTAL, REPORT, Modality("lateral", "image", 2, 1, grid="l")),
                                        (FRONTAL, REPORT, Modality("blood", "features", 0, 3))])  # fmt: skip
def test_one_image_and_one_report(modalities: tuple[Modality, ...]) -> None:
    with pytest.raises(ConfigError, match=r"data\.modalities must be one image and one report for this method"):
        method_of(*modalities)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (
            {"tune_text": False},
            "method.tune_text must be true where the encoder of reports has learned nothing; got false for cnn",
        ),
        ({"encoder": {"frontl": "resnet18"}}, "method.encoder must name modalities; got 'frontl'"),
        ({"target_weights": {"sign": 2.0}}, "method.target_weights must name targets of classes; got 'sign'"),
        ({"encoder": "vit-small"}, "method.encoder must have regions; got 'vit-small'"),
    ],
)
def test_settings_that_cannot_be(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(said)):
        method_of(**settings)


def test_weights_are_asked_for_the_image_and_for_the_reports() -> None:
    assert method_of(pretrained={"frontal": "x.safetensors"}, encoder={"frontal": "resnet6-small"}).pretrained == {
        "image": "x.safetensors"
    }
    with pytest.raises(ConfigError, match=r"method\.pretrained must name the image; got 'report'"):
        _ = method_of(pretrained={"report": "x.safetensors"}).pretrained


# ------------------------------------------------------------------------------------------------------------- in trainings


class Stop(Exception):
    """Thrown by a listener."""


def stopping(stage: str, step: int) -> Callable[[Event], None]:
    def listen(event: Event) -> None:
        if isinstance(event, Progress) and event.what == f"training: {stage}" and event.done == step:
            raise Stop

    return listen


def test_a_training_that_stopped_while_tuning_goes_on_as_if_it_had_not(tmp_path: Path) -> None:
    cohort = write_cohort(tmp_path / "cohort")
    training = {"checkpoint_steps": 2, "batch_size": 4}
    config = config_for(cohort, "local-mi", "frontal", "report", training=training, steps=4, retrain="both", **SMALL)
    train_run(config, tmp_path / "whole")
    for stage, step in (("frozen", 1), ("tuned", 3), ("tuned", 4)):
        with pytest.raises(Stop):
            train_run(config, tmp_path / "killed", resume=True, emit=stopping(stage, step))
    train_run(config, tmp_path / "killed", resume=True)
    for file in ("weights.safetensors", "metrics.jsonl"):
        assert (tmp_path / "killed" / file).read_bytes() == (tmp_path / "whole" / file).read_bytes(), file


def test_init_gives_the_pretraining_and_neither_copies_nor_heads(tmp_path: Path) -> None:
    cohort = write_cohort(tmp_path / "cohort")
    training = {"batch_size": 4, "validations": 0}
    train_run(config_for(cohort, "local-mi", "frontal", "report", training=training, steps=3, **SMALL), tmp_path / "one")
    again = {"pretrain_steps": 0, "retrain": "both", "steps": 1, "rate": 1e-9}
    config = config_for(cohort, "local-mi", "frontal", "report", training=training, **{**SMALL, **again})
    train_run(config, tmp_path / "two", init=tmp_path / "one")
    one, two = (read_weights(tmp_path / name / "weights.safetensors") for name in ("one", "two"))
    for name in (name for name in one if not name.startswith("retrained.")):
        assert two[name].equal(one[name]), name
    for name in (name for name in one if name.startswith("image.") and one[name].ndim > 1):
        torch.testing.assert_close(two[f"retrained.tuned.encoder.{name.removeprefix('image.')}"], one[name])
    heads = [name for name in one if name.startswith("retrained.tuned.heads.") and one[name].ndim > 1]
    assert heads and not any(torch.allclose(one[name], two[name], atol=1e-4) for name in heads)
    assert Run.load(tmp_path / "two").at_test(["method.read_out=frozen"]).method("cpu").config.read_out == "frozen"  # type: ignore[attr-defined]
