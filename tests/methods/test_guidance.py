"""Guidance: the checks of the method one by one, on latents that are vectors and on images; then the whole training."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from comodal import api
from comodal.batch import Batch
from comodal.config import RunConfig
from comodal.errors import ConfigError, UnsupportedSubset
from comodal.method import Losses, Problem, Stage
from comodal.methods.guidance import Guidance, GuidanceConfig
from comodal.modality import Modality, Target
from comodal.run import Run
from comodal.testing import check_method, make_batch
from comodal.testing.subject import stage_batch
from comodal.training.encoded import EncodedDraws
from comodal.training.train import make_feed, train_run

TARGETS = (
    Target("dx", "class", ("a", "b", "c")),
    Target("signs", "multilabel", ("x", "y")),
    Target("grade", "ordinal", ("1", "2", "3")),
)
VECTORS = Problem((Modality("cheap", "features", 0, 6), Modality("dear", "features", 0, 5)), TARGETS, 3)
PICTURES = Problem(
    (Modality("photo", spatial_dims=2, channels=3, grid="a"), Modality("slide", "bag", 0, 4)),
    TARGETS,
    2,
    patches={"a": (32, 32)},
)
SEVERAL = Problem(
    (
        Modality("t1", grid="g"),
        Modality("t2", grid="g"),
        Modality("blood", "features", 0, 5),
        Modality("genes", "features", 0, 4),
    ),
    TARGETS[:1],
    2,
    patches={"g": (32, 32)},
)
SMALL: dict[str, Any] = {"encoder": "resnet10-quarter", "bag": 8, "attention": 4, "steps": 5, "guide_epochs": 2}
SMALL |= {"decoder_epochs": 2, "guide_dropout": 0.0, "guide_rate": 1e-3, "vector": 12}


def build(problem: Problem = VECTORS, superior: tuple[str, ...] = ("dear",), **config: Any) -> Guidance:
    torch.manual_seed(0)
    return Guidance(problem, GuidanceConfig.model_validate({**SMALL, "superior": superior, **config}))


def stage_of(method: Guidance, name: str) -> Stage:
    return next(stage for stage in method.stages() if stage.name == name)


def train(method: Guidance, name: str, batch: Batch, *, steps: int = 20, rate: float = 1e-2) -> None:
    """Some steps of a stage, as the loop makes them."""
    stage = stage_of(method, name)
    method.enter(stage)
    given = stage_batch(method, stage, batch)
    method.enter(stage)
    optimiser = torch.optim.Adam([p for p in method.parameters() if p.requires_grad], lr=rate)
    for step in range(steps):
        torch.manual_seed(step)
        optimiser.zero_grad()
        torch.stack(list(method.losses(given, stage).values())).sum().backward()
        optimiser.step()
    method.eval()


# ------------------------------------------------------------------------------------------------ the contract
@pytest.mark.parametrize(
    "config",
    [
        {},
        {"guide_loss": {"mse": 1.0, "logits": 0.5}, "finetune": "guide", "standardise": True},
        {"guide_loss": "cosine", "finetune": "all", "decoder_hidden": 8, "hidden": 8},
        {"guide_loss": "heteroscedastic", "both": True},
        {"read_out": "guide"},
        {"read_out": "inferior"},
        {"read_out": "superior"},
        {"read_out": "both", "both": True},
    ],
    ids=str,
)
def test_every_promise_on_vectors(config: dict[str, Any]) -> None:
    check_method(Guidance, VECTORS, GuidanceConfig.model_validate({**SMALL, "superior": ("dear",), **config}))


@pytest.mark.parametrize("config", [{"fusion": "channels", "both": True}, {"partial": True}], ids=str)
def test_every_promise_with_several_of_each(config: dict[str, Any]) -> None:
    check_method(Guidance, SEVERAL, GuidanceConfig.model_validate({**SMALL, "superior": ("blood", "genes"), **config}))


def test_every_promise_on_a_picture_guided_by_a_slide() -> None:
    check_method(Guidance, PICTURES, GuidanceConfig.model_validate({**SMALL, "superior": ("slide",)}))


def test_info_nce_needs_two_patients_in_a_step() -> None:
    method, batch = build(guide_loss="infonce", vector=0), make_batch(VECTORS, 8)
    assert stage_of(method, "guidance").least_rows == 2
    before = method.guide.estimate(batch.vector("cheap"), {"cheap": torch.ones(8, dtype=torch.bool)})[0]
    train(method, "guidance", batch, steps=60)
    after = method.guide.estimate(batch.vector("cheap"), {"cheap": torch.ones(8, dtype=torch.bool)})[0]
    cosine = torch.nn.functional.cosine_similarity
    dear = batch.vector("dear")
    assert float(cosine(after, dear).mean().detach()) > float(cosine(before, dear).mean().detach())
    one = replace(batch, groups=("same",) * 8)  # no other patient, nothing to tell apart
    stage = stage_of(method, "guidance")
    method.enter(stage)
    assert float(method.losses(stage_batch(method, stage, one), stage)["infonce"].detach()) == 0.0


# ------------------------------------------------------------------------------------ the unit checks of the paper
@pytest.mark.parametrize(
    ("problem", "superior"), [(VECTORS, "dear"), (PICTURES, "slide")], ids=["vectors", "picture and slide"]
)
def test_frozen_parts_do_not_move_by_a_bit_and_get_no_gradient(problem: Problem, superior: str) -> None:
    method, batch = build(problem, (superior,), both=True), make_batch(problem, 6)
    for name in ("inferior", "superior"):
        train(method, name, batch, steps=3)
    assert (method.items is not None) == (superior == "slide")  # a bag is learned as CLAM learns it
    method.zero_grad(set_to_none=True)
    kept = {name: tensor.clone() for name, tensor in method.state_dict().items()}
    for name, own in (("guidance", "guide."), ("decoder", "head_guided."), ("both", "head_both.")):
        train(method, name, batch, steps=5)
        for key, tensor in method.state_dict().items():
            if not key.startswith(own):
                assert torch.equal(tensor, kept[key]), f"{key} moved in the stage {name}"
        for key, parameter in method.named_parameters():
            assert key.startswith(own) or parameter.grad is None, f"{key} got a gradient in the stage {name}"
        assert any(not torch.equal(method.state_dict()[key], kept[key]) for key in kept if key.startswith(own))
        kept = {key: tensor.clone() for key, tensor in method.state_dict().items()}
        method.zero_grad(set_to_none=True)


def test_g_of_i_is_the_superior_head_on_the_estimate() -> None:
    method, batch = build(read_out="guide"), make_batch(VECTORS, 6)
    train(method, "guidance", batch)
    columns = {name: batch.is_present(name) for name in VECTORS.names}
    estimate, _ = method.guide.estimate(method.inferior.join(method.inferior.encode(batch), columns), columns)
    wanted = method.head_superior(estimate)["dx"].softmax(1)
    assert torch.equal(method.predict(batch.keep(["cheap"])).probabilities["dx"], wanted)
    before = method.predict(batch).probabilities["dx"]
    with torch.no_grad():  # the swap test: another superior head, another answer; the inferior one has no say
        for parameter in method.head_inferior.parameters():
            parameter.add_(1.0)
        assert torch.equal(method.predict(batch).probabilities["dx"], before)
        for parameter in method.head_superior.parameters():
            parameter.mul_(-1.0)
        assert not torch.allclose(method.predict(batch).probabilities["dx"], before)


def test_without_the_columns_of_the_estimate_the_decoder_reads_the_inferior_latent_alone() -> None:
    method, batch = build(), make_batch(VECTORS, 6)
    train(method, "decoder", batch)
    head = method.head_guided.heads["target_dx"]
    assert isinstance(head, torch.nn.Sequential)
    last = head[-1]
    assert isinstance(last, torch.nn.Linear)
    superior = method.superior.size
    with torch.no_grad():
        last.weight[:, :superior] = 0
    latent = method.inferior.encode(batch)["cheap"]
    wanted = torch.nn.functional.linear(latent, last.weight[:, superior:], last.bias).softmax(1)
    assert torch.allclose(method.predict(batch).probabilities["dx"], wanted, atol=1e-6)
    with torch.no_grad():
        for parameter in method.guide.parameters():
            parameter.add_(1.0)
    assert torch.allclose(method.predict(batch).probabilities["dx"], wanted, atol=1e-6)


def test_prediction_never_touches_the_superior_input(monkeypatch: pytest.MonkeyPatch) -> None:
    method, batch = build(PICTURES, ("slide",)), make_batch(PICTURES, 4)
    train(method, "guidance", batch, steps=2)
    wanted = method.predict(batch.keep(["photo"])).probabilities

    def touched(*_: object, **__: object) -> None:
        raise AssertionError("the superior encoder was asked")

    monkeypatch.setattr(method.superior, "encode", touched)
    whole = method.predict(batch)
    assert all(torch.equal(whole.probabilities[name], wanted[name]) for name in wanted)
    assert whole.used.tolist() == [[True, False]] * 4
    assert method.reads(("photo", "slide")) == ("photo",)
    with pytest.raises(UnsupportedSubset, match="can predict"):
        method.predict(batch.keep(["slide"]))


def test_g_learns_from_pairs_without_labels_and_the_decoder_without_the_superior_modality() -> None:
    method = build(both=True)
    assert stage_of(method, "guidance").targets == ()
    assert stage_of(method, "guidance").modalities == ("cheap", "dear")
    assert stage_of(method, "decoder").modalities == ("cheap",)
    assert stage_of(method, "decoder").targets is None
    batch = make_batch(VECTORS, 4)
    bare = replace(batch, targets={}, labelled={})
    stage = stage_of(method, "guidance")
    method.enter(stage)
    found, whole = (method.losses(stage_batch(method, stage, each), stage)["mse"] for each in (bare, batch))
    assert torch.equal(found, whole)


@pytest.mark.parametrize("partial", [False, True])
def test_a_case_of_one_role_is_no_pair(partial: bool) -> None:
    """Also where several modalities share a role: a validation without a pair would call the first weights the best."""
    method = build(SEVERAL, ("blood", "genes"), partial=partial, finetune="guide", balance=("dx",))
    assert stage_of(method, "guidance").one_of == (("t1", "t2"), ("blood", "genes"))
    assert stage_of(method, "decoder").one_of == stage_of(method, "finetune").one_of == (("t1", "t2"),)
    assert stage_of(method, "finetune").balance == ("dx",)
    (prefix,) = method.counted
    assert any(name.startswith(f"{prefix}.") for name in method.state_dict())


def test_a_bag_is_learned_as_clam_learns_it() -> None:
    method, batch = build(PICTURES, ("slide",), instance=0.25, bag_dropout=0.0), make_batch(PICTURES, 4)
    stage = stage_of(method, "superior")
    method.enter(stage)
    found = method.losses(batch, stage)
    assert method.items is not None
    encoder, bag = method.superior.encoders["slide"], batch.bag("slide")
    latent, attention, embedded = encoder(bag.items, bag.valid)
    of_items = method.items(embedded, attention, bag.valid, batch=batch)
    of_bag = torch.nn.functional.cross_entropy(method.head_superior(latent)["dx"], batch.targets["dx"])
    assert float(found["ce/dx"].detach()) == pytest.approx(0.75 * float(of_bag.detach()), rel=1e-5)
    assert float(found["items/dx"].detach()) == pytest.approx(0.25 * float(of_items["dx"].detach()), rel=1e-5)
    assert build(PICTURES, ("photo",)).items is None


def test_a_case_without_the_pair_teaches_g_nothing() -> None:
    method, batch = build(SEVERAL, ("blood", "genes")), make_batch(SEVERAL, 4)
    present = torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0], [1, 1, 1, 0], [1, 1, 0, 1]], dtype=torch.bool)
    stage = stage_of(method, "guidance")
    method.enter(stage)
    given = stage_batch(method, stage, batch.restrict(present))
    loss = method.losses(given, stage)
    method.eval()
    columns = {name: present[:, i] for i, name in enumerate(SEVERAL.names)}
    estimate, _ = method.guide(
        method.inferior.join({n: v for n, v in given.encodings().items() if isinstance(v, Tensor)}, columns), columns
    )
    truth = torch.cat([method.superior.encode(batch)[name] for name in ("blood", "genes")], dim=1)
    size = method.superior.sizes["blood"]
    errors = (estimate - truth).square()
    wanted = torch.cat([errors[0], errors[2, :size], errors[3, size:]]).mean()
    assert float(loss["mse"].detach()) == pytest.approx(float(wanted.detach()), rel=1e-5)
    assert isinstance(loss, Losses)
    assert set(loss.diagnostics) == {"mse", "mse of the mean"}


def test_the_extras_tell_what_guidance_did() -> None:
    method, batch = build(guide_loss="heteroscedastic"), make_batch(VECTORS, 6)
    train(method, "guidance", batch, steps=30)
    train(method, "inferior", batch, steps=1)
    found = method.predict(batch)
    names = {target.name for target in TARGETS}
    assert set(found.extras) == {"distance", "uncertainty", *(f"{what}/{n}" for n in names for what in ("changed", "inferior"))}
    alone = build(guide_loss="heteroscedastic", read_out="inferior")
    alone.load_state_dict(method.state_dict())
    answers = alone.eval().predict(batch).probabilities
    assert torch.equal(found.extras["inferior/dx"], answers["dx"])
    differs = (answers["dx"].argmax(1) != found.probabilities["dx"].argmax(1)).float()
    assert torch.equal(found.extras["changed/dx"], differs)
    assert found.extras["distance"].shape == (6,)


def test_a_target_of_the_latents_is_an_average_after_a_relu() -> None:
    method = build(PICTURES, ("slide",))
    latents = method.eval().encode(make_batch(PICTURES, 4))
    for value in latents.values():
        assert isinstance(value, Tensor)
        assert float(value.detach().min()) >= 0
    assert all(guide.rectify for guide in method.guide.guides.values())
    assert not any(guide.rectify for guide in build(vector=0).guide.guides.values())


# ----------------------------------------------------------------------------------------------------- refusals
@pytest.mark.parametrize(
    ("config", "says"),
    [
        (
            {"superior": ()},
            r"method\.superior must name the modality that is there only in training; got none.*superior: \[dear\]",
        ),
        ({"superior": ("deer",)}, r"method\.superior must name modalities of the problem; got 'deer'.*dear"),
        ({"superior": ("cheap", "dear")}, "no inferior one"),
        ({"superior": ("dear",), "inferior": ("dear",)}, "dear with two"),
        ({"superior": ("dear",), "read_out": "both"}, r"Train with method\.both=true"),
        ({"superior": ("dear",), "both": True, "finetune": "all"}, "on which S \\+ I rests"),
        ({"superior": ("dear",), "guide_loss": {}}, "give each loss a weight above 0"),
        (
            {"superior": ("dear",), "guide_loss": "cosine", "standardise": True},
            "no mse, which alone it changes; got true with cosine",
        ),
        ({"superior": ("dear",), "partial": True, "fusion": "channels"}, "be latents where partial gives each modality a G"),
    ],
    ids=str,
)
def test_refusals(config: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        Guidance(VECTORS, GuidanceConfig.model_validate({**SMALL, **config}))


def test_a_modality_without_a_role_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"t2 with none.*Leave t2 out of data\.modalities"):
        build(SEVERAL, ("blood", "genes"), inferior=("t1",))


# -------------------------------------------------------------------------------------------- the whole training
@pytest.fixture(scope="module")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pairs of latents whose classes are products of the inferior one."""
    folder = tmp_path_factory.mktemp("pairs")
    return api.phantom("pairs", out=folder, cases=320, settings={"unlabelled": 0.2, "unpaired": 0.2})


def settings(cohort: Path, **method: Any) -> RunConfig:
    own = {
        "name": "guidance",
        "superior": ["superior"],
        "steps": 100,
        "rate": 1e-2,
        "guide_optimiser": "adam",
        "guide_rate": 3e-3,
    }
    own |= {"guide_epochs": 40, "decoder_optimiser": "adam", "decoder_epochs": 10, "both": True, "bottleneck": 64, **method}
    values = {"cohort": str(cohort), "method": own, "training": {"validations": 4, "batch_size": 32}}
    return RunConfig.model_validate(values).resolved()


@pytest.fixture(scope="module")
def run(cohort: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Trained on them, four stages and S + I."""
    return train_run(settings(cohort), tmp_path_factory.mktemp("run") / "guided")


def test_g_knows_more_than_the_mean_on_held_out_pairs(run: Run) -> None:
    lines = [json.loads(line) for line in (run.path / "metrics.jsonl").read_text().splitlines()]
    ends = {line["stage"]: line["score"] for line in lines if line["event"] == "stage" and line["state"] == "end"}
    method, batch = trained(run), held_out(run)
    truth = method.superior.encode(batch)["superior"]
    mean = float((truth - method.guide.moments.mean).square().mean())
    assert ends["guidance"] < 0.9 * mean
    cases = {line["stage"]: line["cases"] for line in lines if line["event"] == "stage" and line["state"] == "start"}
    train = [run.cohort.case(i) for i in run.splits["train"]]
    pairs = {case.id for case in train if {"inferior", "superior"} <= case.cells.keys()}
    labelled = {case.id for case in train if {"inferior", "diagnosis"} <= case.cells.keys()}
    assert (cases["guidance"], cases["decoder"]) == (len(pairs), len(labelled))
    assert pairs - labelled
    assert labelled - pairs


def trained(run: Run) -> Guidance:
    method = run.method()
    assert isinstance(method, Guidance)
    return method


def held_out(run: Run) -> Batch:
    """The validation pairs as a batch."""
    method = trained(run)
    stage = stage_of(method, "guidance")
    cases = [run.cohort.case(i) for i in run.splits["val"] if {"inferior", "superior"} <= run.cohort.case(i).cells.keys()]
    raw = replace(stage, inputs="raw")
    feed = make_feed(run, method, raw, preparer=run.preparer(), cases=cases, augment=False)
    (batch,) = replace(feed, batch_size=len(cases)).batches(0)
    return batch


def test_cached_latents_equal_those_on_the_fly(run: Run, tmp_path: Path) -> None:
    """In eval mode, case by case, loss and all; and the cache of G is that of the decoder."""
    method, batch = trained(run), held_out(run)
    stage = stage_of(method, "guidance")
    cases = [run.cohort.case(i) for i in batch.ids]
    feed = make_feed(run, method, stage, preparer=run.preparer(cache=tmp_path), cases=cases, augment=False)
    assert isinstance(feed.draws, EncodedDraws)
    found = {draw.id: draw.inputs for draw in (feed.draws[i] for i in range(len(feed.draws)))}
    fresh = method.encode(batch)
    for name, values in fresh.items():
        assert isinstance(values, Tensor)
        cached = torch.stack([value for i in batch.ids if isinstance(value := found[i][name], Tensor)])
        assert torch.allclose(cached, values, atol=1e-6)
    other = make_feed(run, method, stage_of(method, "decoder"), preparer=run.preparer(), cases=cases, augment=False)
    assert isinstance(other.draws, EncodedDraws)
    assert other.draws.key == feed.draws.key


def test_all_rows_of_the_table_come_from_one_run(run: Run) -> None:
    batch = held_out(run)
    found = {}
    for how in ("inferior", "superior", "guide", "guided", "both"):
        method = run.at_test([f"method.read_out={how}"]).method()
        found[how] = method.predict(batch)
        assert found[how].used[0].tolist() == {"superior": [False, True], "both": [True, True]}.get(how, [True, False])
    answers = {how: prediction.probabilities["diagnosis"].argmax(1) for how, prediction in found.items()}
    assert len({tuple(answer.tolist()) for answer in answers.values()}) == 5
    truth = batch.targets["diagnosis"][batch.labelled["diagnosis"]]
    right = {how: float((answer[batch.labelled["diagnosis"]] == truth).float().mean()) for how, answer in answers.items()}
    assert right["superior"] > right["inferior"]  # as the phantom was made


def test_the_superior_file_is_not_opened_and_that_is_said(run: Run, tmp_path: Path) -> None:
    case = next(case for case in map(run.cohort.case, run.splits["test"]) if "superior" in case.cells)
    cheap, dear = run.cohort.file(case, "inferior"), tmp_path / "damaged.npy"
    dear.write_bytes(b"no numbers")
    alone = api.predict(run.path, inputs={"inferior": cheap}, out=tmp_path / "alone")
    both = api.predict(run.path, inputs={"inferior": cheap, "superior": dear}, out=tmp_path / "both")
    assert [one.used for one in (*alone, *both)] == [("inferior",), ("inferior",)]
    tables = [(tmp_path / name / "predictions.csv").read_text() for name in ("alone", "both")]
    assert tables[0] == tables[1]
    assert ",inferior," in tables[0]
    with pytest.raises(UnsupportedSubset, match="inferior"):
        api.predict(run.path, inputs={"superior": run.cohort.file(case, "superior")}, out=tmp_path / "neither")
