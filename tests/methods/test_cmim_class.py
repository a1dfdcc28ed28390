"""CMIM for classification: the estimates by hand, who learns from what, any subset, a modality that is added without labels."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.methods.patches import LATERAL, PHOTO, REPORT, area, held_out, learn, method, problem, world
from tests.methods.reading_room import config_for, write_cohort
from torch import Tensor, nn
from torch.nn.functional import softplus

from comodal.batch import Batch, Text
from comodal.errors import ConfigError
from comodal.information.critics import ConcatConvolveCritic
from comodal.information.cross_modal import CrossModal, View, compared, draw_valid
from comodal.information.objective import Objective
from comodal.method import Losses, Stage
from comodal.methods.cmim_class import CMIMClass
from comodal.modality import Modality
from comodal.networks.joint import LowRankBilinear
from comodal.run import read_weights
from comodal.testing import make_batch, poison
from comodal.training.events import Event, Said
from comodal.training.train import train_run

ROOT = Path(__file__).resolve().parents[2]
EVERY: dict[str, Any] = {"lambda_gg": 0.1}
THREE = (PHOTO, LATERAL, REPORT)


def cases(size: int = 6, *modalities: Modality, **more: Any) -> Batch:
    return world(size, *modalities, seed=5, **more)


def losses(built: CMIMClass, batch: Batch, stage: Stage | None = None) -> Losses:
    torch.manual_seed(0)
    found = built.losses(batch, stage or built.stages()[0])
    assert isinstance(found, Losses)
    return found


def critics(built: CMIMClass) -> dict[str, ConcatConvolveCritic]:
    assert built.information is not None
    found = {}
    for name, objective in built.information.objectives.items():
        assert isinstance(objective, Objective) and isinstance(objective.critic, ConcatConvolveCritic)
        found[name] = objective.critic
    return found


def without(batch: Batch, name: str, *rows: int) -> Batch:
    """The same batch; these rows lack a modality."""
    present = batch.present.clone()
    present[list(rows), batch.index(name)] = False
    return poison(batch.restrict(present))


# ------------------------------------------------------------------------------------------------ the estimates
@pytest.mark.parametrize("target", ["joint", "other"])
@pytest.mark.parametrize("negatives", ["shift", "derangement", "all"])
def test_a_critic_that_says_nothing_gives_minus_2_log_2(negatives: str, target: str) -> None:
    built = method(**EVERY, negatives=negatives, global_target=target)
    for critic in critics(built).values():
        nn.init.zeros_(critic.output.weight)
        nn.init.zeros_(critic.output.bias)
    found = losses(built, cases())
    assert len(found.diagnostics) == (5 if target == "joint" else 4)
    for name, value in found.diagnostics.items():
        assert float(value) == pytest.approx(-2 * math.log(2), abs=1e-6), name
        assert float(found[name.removeprefix("I/")].detach()) == pytest.approx(0.2 * math.log(2), abs=1e-6)


def test_what_is_compared_with_what() -> None:
    assert compared("ab", ["ll", "lg", "gg"], "joint") == [
        *(("ll", "a", "b"), ("lg", "a", "*"), ("lg", "b", "*"), ("gg", "a", "*"), ("gg", "b", "*"))
    ]
    assert compared("ab", ["lg", "gg"], "other") == [("lg", "a", "b"), ("lg", "b", "a"), ("gg", "a", "b")]
    assert [(x, y) for _, x, y in compared("abc", ["ll"], "joint")] == [("a", "b"), ("a", "c"), ("b", "c")]


def test_estimates_are_those_of_a_slow_loop() -> None:
    """Concatenated pairs, place by place: joint ones of a case, shuffled ones with the next case."""
    built = method(PHOTO, LATERAL, global_target="other", negatives="shift").eval()
    batch = cases(4, PHOTO, LATERAL)
    found = losses(built, batch).diagnostics
    maps = {name: built.encoders[name].last(batch.image(name)).flatten(2) for name in batch.modalities}  # type: ignore[operator]
    whole = {name: value.mean(2) for name, value in maps.items()}
    each = critics(built)
    joint: list[Tensor] = []
    apart: list[Tensor] = []
    for i in range(4):
        for kind, values, partner in (("joint", joint, i), ("apart", apart, (i + 1) % 4)):
            for n in range(6):
                for m in range(6):
                    pair = torch.cat([maps["photo"][i, :, n], maps["lateral"][partner, :, m]])
                    score = each["ll-photo-lateral"].layers(pair)
                    values.append(-softplus(-score) if kind == "joint" else softplus(score))
    value = torch.stack(joint).mean() - torch.stack(apart).mean()
    assert float(found["I/ll/photo-lateral"]) == pytest.approx(float(value.detach()), abs=1e-5)
    critic = each["lg-photo-lateral"]  # and as it is drawn in DIM: tile, concatenate, convolve
    scores = critic.on_maps(maps["photo"], whole["lateral"]), critic.on_maps(maps["photo"], whole["lateral"].roll(-1, 0))
    assert scores[0].shape == (4, 6)
    value = -softplus(-scores[0]).mean() - softplus(scores[1]).mean()
    assert float(found["I/lg/photo-lateral"]) == pytest.approx(float(value.detach()), abs=1e-5)
    split = critic.all_pairs_of_maps(maps["photo"], whole["lateral"])  # (N, A, B)
    assert torch.allclose(split.diagonal(dim1=1, dim2=2).t(), scores[0], atol=1e-5)


def test_with_one_place_local_local_is_global_global() -> None:
    x, y = torch.randn(5, 4), torch.randn(5, 3)
    there, patients = torch.ones(5, dtype=torch.bool), torch.arange(5)
    views = {name: View(there, value, value[:, None], there[:, None]) for name, value in (("x", x), ("y", y))}
    sizes = {"x": (4, 4), "y": (3, 3)}
    weights, drawn = {"ll": 1.0, "gg": 1.0}, {"x": None, "y": 2}
    built = CrossModal(sizes, compared("xy", ["ll", "gg"], "other"), weights, drawn=drawn, ragged=("y",), hidden=(8,))
    built.objectives["gg-x-y"].load_state_dict(built.objectives["ll-x-y"].state_dict())
    terms, _ = built(views, patients=patients, alike={})
    assert float(terms["ll/x-y"].detach()) == pytest.approx(float(terms["gg/x-y"].detach()), abs=1e-6)


def test_the_order_of_places_does_not_matter() -> None:
    built, batch = method(**EVERY).eval(), cases()
    other = batch.with_inputs({**batch.inputs, "photo": batch.image("photo")[:, :, torch.randperm(6)]})
    one, two = losses(built, batch).diagnostics, losses(built, other).diagnostics
    for name, value in one.items():
        assert float(two[name]) == pytest.approx(float(value), abs=1e-6), name


def test_words_are_drawn_among_those_that_there_are() -> None:
    valid = torch.tensor([[True, False, True, False], [False, False, False, True]])
    drawn = draw_valid(valid, 200)
    assert set(drawn[0].tolist()) == {0, 2} and set(drawn[1].tolist()) == {3}
    assert 60 < int((drawn[0] == 0).sum()) < 140


@pytest.mark.parametrize("bound", ["info_nce", "smile", "nwj", "dv"])
def test_other_bounds_are_drop_ins(bound: str) -> None:
    found = losses(method(**EVERY, bound=bound, negatives="all"), cases())
    assert all(math.isfinite(float(value)) for value in found.diagnostics.values()) and len(found.diagnostics) == 5


# ------------------------------------------------------------------------------------------------ who learns from what
@pytest.mark.parametrize("term", ["ll", "lg", "gg"])
@pytest.mark.parametrize("target", ["joint", "other"])
def test_each_term_reaches_the_encoders_and_none_reaches_frozen_word_vectors(term: str, target: str) -> None:
    on: dict[str, Any] = {f"lambda_{name}": 0.1 * (name == term) for name in ("ll", "lg", "gg")}
    built = method(**on, global_target=target, vectors="glove.txt")
    assert "encoders.report.vectors.weight" not in dict(built.named_parameters())
    assert built.pretrained == {"encoders.report.vectors": "glove.txt"}
    for name, value in losses(built, cases()).items():
        if name.startswith(term):
            built.zero_grad()
            value.backward(retain_graph=True)
            modality = name.split("/")[1].split("-")[0]
            reached = {
                n.split(".")[1]
                for n, p in built.encoders.named_parameters(prefix="encoders")
                if p.grad is not None and p.grad.any()
            }
            assert modality in reached, name


def test_rows_without_a_report_are_left_out_of_the_terms_and_still_learned_from() -> None:
    built, batch = method(**EVERY), cases(6)
    partly, four = losses(built, without(batch, "report", 1, 4)), losses(built, batch.rows([0, 2, 3, 5]))
    for name, value in four.diagnostics.items():
        if "/ll/" not in name and "lg/report" not in name:  # of these other words are drawn
            assert float(partly.diagnostics[name]) == pytest.approx(float(value), abs=1e-6), name
    whole = losses(built, batch)
    assert torch.equal(partly["ce/findings/photo"], whole["ce/findings/photo"])
    assert torch.allclose(partly["ce/findings/report"], four["ce/findings/report"])
    assert torch.allclose(partly["ce/findings"], four["ce/findings"])


def test_neither_a_patient_nor_a_report_is_told_from_itself() -> None:
    built, batch = method(**EVERY, negatives="all"), cases(4)
    same = losses(built, replace(batch, groups=("p",) * 4))
    assert not same.diagnostics and all(float(same[name].detach()) == 0 for name in same if "ce" not in name)
    text = batch.text("report")
    alike = Text(text.ids[:1].expand(4, -1, -1), text.attention)
    found = losses(built, batch.with_inputs({**batch.inputs, "report": alike}))
    assert all(float(found[name].detach()) == 0 for name in found if "ce" not in name)
    assert not found.diagnostics  # a zero would read as the best there is


def test_in_the_warm_up_the_critics_learn_and_little_reaches_the_encoders() -> None:
    built = method(**EVERY, lambda_warmup=0.5, steps=8, own_weight=1e-9, joint_weight=0.0)
    plain = method(**EVERY, own_weight=1e-9, joint_weight=0.0)
    batch, stage, norms = cases(), built.stages()[0], []
    for step in range(6):
        for one in (built, plain):
            one.enter(stage)
            one.zero_grad()
            terms = losses(one, batch)
            torch.stack([terms[name] for name in terms if "ce" not in name]).sum().backward()
        values = [[float(value) for value in losses(one, batch).diagnostics.values()] for one in (built, plain)]
        assert values[0] == values[1]
        norms.append([_norm(one, "encoders.photo") for one in (built, plain)])
        assert _norm(built, "information") == _norm(plain, "information") > 0
        assert built.information is not None and int(built.information.taken) == 2 * step + 2
    shares = [a / b for a, b in norms]
    assert shares == pytest.approx([0, 0.5, 1, 1, 1, 1], abs=1e-5)


def _norm(built: CMIMClass, prefix: str) -> float:
    squares = [p.grad.square().sum() for n, p in built.named_parameters() if n.startswith(prefix) and p.grad is not None]
    return float(torch.stack(squares).sum().sqrt())


def test_with_lambda_0_it_trains_the_plain_classifier_exactly(tmp_path: Path) -> None:
    """Through the real loop: encoder and heads of the image are, bit for bit, what `classifier` becomes."""
    cohort, small = write_cohort(tmp_path / "data"), {"text_channels": 8, "words": 4, "text_blocks": 0}
    training = {"clip": None, "validations": 0}
    plain = {"lambda_ll": 0.0, "lambda_lg": 0.0, "joint_weight": 0.0}
    found = {}
    for name, settings in (("cmim-class", {**small, **plain}), ("classifier", {})):
        modalities = ["frontal", "report"] if settings else ["frontal"]
        config = config_for(cohort, name, *modalities, training=training, steps=4, class_weights="none", **settings)
        train_run(config, tmp_path / name)
        found[name] = read_weights(tmp_path / name / "weights.safetensors")
    for name, value in found["classifier"].items():
        ours = name.replace("encoder.encoders.", "encoders.") if name.startswith("encoder") else f"heads.own_frontal.{name[6:]}"
        assert torch.equal(found["cmim-class"][ours], value), name


# ------------------------------------------------------------------------------------------------ any subset
def test_the_test_path_of_an_image_knows_no_report() -> None:
    built, batch = method(**EVERY), cases()
    whole = built.eval().predict(batch.keep(["photo"]))
    for part in ("encoders.report", "heads.joint", "embedding", "information"):
        for parameter in built.get_submodule(part).parameters():
            nn.init.constant_(parameter, math.nan)
    again = built.predict(poison(batch.keep(["photo"])))
    assert torch.equal(again.probabilities["findings"], whole.probabilities["findings"])
    assert again.used.tolist() == [[True, False]] * 6 and built.supports(["report"])


@pytest.mark.parametrize("joint", [0.0, 1.0])
def test_heads_are_chosen_row_by_row(joint: float) -> None:
    built, batch = method(joint_weight=joint).eval(), without(cases(3), "report", 0)
    batch = without(batch, "photo", 2)
    found = built.predict(batch).probabilities["findings"]
    latents = {name: value[0] for name, value in built.encode(batch).items()}
    own = {name: built.heads[f"own_{name}"](value)["findings"] for name, value in latents.items()}
    both = (own["photo"] + own["report"]) / 2
    if joint:
        assert built.embedding is not None
        there = torch.ones(3, dtype=torch.bool)
        both = built.heads["joint"](built.embedding(latents, {"photo": there, "report": there}))["findings"]
    wanted = torch.stack([own["photo"][0], both[1], own["report"][2]]).sigmoid()
    assert torch.allclose(found, wanted, atol=1e-6)


def test_in_the_product_an_absent_modality_is_a_factor_of_one() -> None:
    embedding = LowRankBilinear({"a": 3, "b": 2}, rank=4, features=5)
    a, b, there = torch.randn(2, 3), torch.randn(2, 2), torch.tensor([True, False])
    b[1] = math.nan
    found = embedding({"a": a, "b": b}, {"a": there | True, "b": there})
    one, two = (embedding.factors[name](value).tanh() for name, value in (("a", a), ("b", b)))
    wanted = embedding.out(torch.stack([one[0] * two[0], one[1]]))
    assert torch.allclose(found, wanted)
    found.sum().backward()
    assert all(bool(p.grad.isfinite().all()) for p in embedding.parameters() if p.grad is not None)


def test_a_report_without_a_word_says_nothing() -> None:
    built, batch = method(**EVERY), cases(4)
    text = batch.text("report")
    empty = text.attention.clone()
    empty[:2] = False
    batch = batch.with_inputs({**batch.inputs, "report": Text(text.ids, empty)})
    built.eval()
    found, alone = built.predict(batch), built.predict(batch.keep(["photo"]))
    assert torch.allclose(found.probabilities["findings"][:2], alone.probabilities["findings"][:2])
    assert found.used.tolist() == [[True, False]] * 2 + [[True, True]] * 2
    nothing = built.predict(batch.keep(["report"]).rows([0, 1, 2])).probabilities["findings"]
    assert bool(nothing.isfinite().all()) and torch.equal(nothing[0], nothing[1])
    built.train()
    some = losses(built, batch)
    assert all(bool(value.isfinite()) for value in some.values())


def test_of_three_the_joint_heads_see_random_pairs() -> None:
    built, batch = method(*THREE).train(), cases(40, *THREE)
    seen: list[Tensor] = []
    assert built.embedding is not None
    built.embedding.register_forward_pre_hook(lambda _, inputs: seen.append(torch.stack(list(inputs[1].values()), 1)))
    losses(built, batch)
    counts = seen[0].sum(1)  # the second are what the information looks at
    assert set(counts.tolist()) == {2, 3} and bool(seen[1].all())


# ------------------------------------------------------------------------------------------------ added without labels
def test_an_added_modality_predicts_without_its_labels_and_the_others_stay_as_they_are() -> None:
    built = method(*THREE, added=("lateral",))
    first, second = built.stages()
    assert second.targets == () and second.train == ("encoders.lateral", "alignment.lateral")
    train, test = (world(300, *THREE, seed=seed, noise=0.7) for seed in (0, 1000))
    learn(built, train, first, steps=100)
    before = {names: said(built, test, *names) for names in (("photo",), ("report",), ("photo", "report"))}
    unlabelled = replace(train, targets={}, labelled={})
    learn(built, unlabelled, second, steps=120)
    for names, value in before.items():
        assert torch.equal(said(built, test, *names), value), names
    found = {name: area(built, test, name) for name in ("photo", "lateral")}
    assert found["lateral"] > 0.8 and found["lateral"] > found["photo"] - 0.05, found
    assert held_out(built, test, second)["I/lateral-photo"] > 0.3
    prediction = built.predict(test.keep(["lateral", "report"]))
    assert prediction.used[0].tolist() == [False, True, True]
    assert torch.equal(said(built, test, *built.problem.names), before["photo", "report"])  # the true one goes first
    assert built.reads(["photo", "lateral"]) == ("photo",) and built.reads(["lateral"]) == ("lateral",)


@torch.no_grad()
def said(built: CMIMClass, batch: Batch, *names: str) -> Tensor:
    return built.eval().predict(batch.keep(names)).probabilities["findings"]


def test_only_the_added_modality_is_trained_on_weights_of_another_run(tmp_path: Path) -> None:
    cohort = write_cohort(tmp_path / "data")
    small: dict[str, Any] = {"text_channels": 8, "words": 4, "text_blocks": 0, "steps": 2}
    train_run(config_for(cohort, "cmim-class", **small, lambda_ll=0.0, lambda_lg=0.0), tmp_path / "first")
    train_run(
        config_for(cohort, "cmim-class", **small, added=["report"], only_added=True),
        tmp_path / "second",
        init=tmp_path / "first",
    )
    one, two = (read_weights(tmp_path / name / "weights.safetensors") for name in ("first", "second"))
    same = {name for name, value in one.items() if name in two and torch.equal(two[name], value)}
    assert {n for n in one if n.startswith(("encoders.frontal", "heads.own_frontal"))} <= same
    assert "encoders.report.first.weight" not in same


def test_what_is_not_trained_with_only_added_must_come_whole_from_another_run(tmp_path: Path) -> None:
    """And with its words, where it reads reports: else ids of tokens would mean other words without a sign of it."""
    cohort = write_cohort(tmp_path / "data")
    small: dict[str, Any] = {"text_channels": 8, "words": 4, "text_blocks": 0, "steps": 2}
    plain = {**small, "lambda_ll": 0.0, "lambda_lg": 0.0, "training": {"validations": 0}}
    train_run(config_for(cohort, "cmim-class", **plain), tmp_path / "first")
    more: dict[str, Any] = {**plain, "added": ["frontal"], "only_added": True}
    with pytest.raises(ConfigError, match=r"--init must be given .* got none for encoders\.report, heads\. Add --init RUN"):
        train_run(config_for(cohort, "cmim-class", **more), tmp_path / "alone")
    with pytest.raises(ConfigError, match=r"--init must bring all .* of encoders\.report\.vectors\.weight, 2 such of 5"):
        train_run(config_for(cohort, "cmim-class", **{**more, "words": 5}), tmp_path / "wide", init=tmp_path / "first")
    for file in (tmp_path / "data").glob("*.txt"):
        file.write_text(file.read_text().replace("nodule", "mass"), encoding="utf-8")
    with pytest.raises(ConfigError, match=r"--init must know the same words, .*; got other words in .*first"):
        train_run(config_for(cohort, "cmim-class", **more), tmp_path / "other", init=tmp_path / "first")
    assert not any((tmp_path / name).exists() for name in ("alone", "wide", "other"))
    events: list[Event] = []  # where all is trained on, it is said
    train_run(config_for(cohort, "cmim-class", **plain), tmp_path / "on", init=tmp_path / "first", emit=events.append)
    assert any(isinstance(event, Said) and "ids of tokens mean other words" in event.text for event in events)


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"added": ("photo", "report")}, "get two or more modalities, one of them not added"),
        ({"added": ("reprot",)}, "Did you mean report"),
        ({"added": ("report",), "aligned_to": "report"}, "method.aligned_to must name modalities that are trained with labels"),
        ({"judged_on": ("x",)}, "method.judged_on must name modalities of the problem"),
        ({"only_added": True}, "method.only_added must be false where no modality is added"),
        ({"encoder": {"phto": "resnet18"}}, "Did you mean photo"),
        ({"encoder": "densenet121"}, "method.encoder must have regions"),
        ({"pretrained": {"report": "x"}}, "method.pretrained must name modalities with an encoder of images"),
    ],
)
def test_what_cannot_be_is_refused(settings: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        dict(method(**settings).pretrained)


def test_places_of_volumes_are_those_of_all_slices() -> None:
    volume = Modality("volume", "image", 3, 1, grid="volume")
    whole = replace(problem(PHOTO, REPORT), modalities=(volume, REPORT), spatial_dims=3, patches={"volume": (33, 33, 3)})
    flat = CMIMClass(whole, method(slices="mean").config).eval()
    batch = make_batch(whole, 2)
    rows = flat.encode(batch)["volume"][0]
    each = [
        flat.encode(batch.with_inputs({**batch.inputs, "volume": batch.image("volume")[..., [z]]}))["volume"][0]
        for z in range(3)
    ]
    assert torch.allclose(rows, torch.stack(each).mean(0), atol=1e-5)
    with pytest.raises(ConfigError, match=r"method\.slices must be volume or mean"):
        CMIMClass(whole, method(slices="attention").config)


# ------------------------------------------------------------------------------------------------ what it is for
@pytest.mark.slow
def test_true_reports_help_and_reports_shuffled_once_and_for_all_do_not() -> None:
    """Of 400 pairs 60 are labelled; three seeds. Held-out estimates rise with true reports alone; so does the image's AUROC."""
    gains: dict[bool, list[float]] = {True: [], False: []}
    for seed in range(3):
        known = torch.arange(400)[:, None].expand(-1, 2) < 60
        areas = {}
        for weight, shuffled in ((0.0, False), (1.0, False), (1.0, True)):
            train = replace(world(400, seed=seed, noise=0.7, shuffled=shuffled), labelled={"findings": known})
            test = world(400, seed=1000, noise=0.7, shuffled=shuffled)
            built = method(seed=seed, lambda_ll=weight, lambda_lg=weight, joint_weight=0.0, global_target="other")
            stage = built.stages()[0]
            learn(built, train, stage, steps=200, size=40)
            areas[weight, shuffled] = area(built, test, "photo")
            for name, value in held_out(built, test, stage).items():
                if shuffled:
                    assert value == pytest.approx(-2 * math.log(2), abs=0.01), name
                else:
                    assert value > -1.37, name
                    assert value > held_out(built, world(400, seed=1000, noise=0.7, shuffled=True), stage)[name] + 0.03
        for shuffled, found in gains.items():
            found.append(areas[1.0, shuffled] - areas[0.0, False])
    mean = {shuffled: sum(found) / 3 for shuffled, found in gains.items()}
    assert mean[False] > 0.004 > mean[True] > -0.01, gains


@pytest.mark.slow
@pytest.mark.parametrize(
    "settings",
    [{"lambda_ll": 0.0, "lambda_lg": 0.0, "lambda_gg": 0.1}, {"added": ["report"]}, {"lambda_gg": 0.1, "positions": None}],
    ids=["global", "added", "words are drawn"],
)
def test_two_processes_make_the_steps_of_one(tmp_path: Path, settings: dict[str, Any]) -> None:
    """Every third case lacks the report, every fifth the label: all must enter the same sums."""
    small = {"text_channels": 8, "words": 4, "text_blocks": 0, "text_dropout": 0.0, "critic": [8], "joint": 8, "rank": 8}
    same = {"norm": "group", "negatives": "all", "steps": 3}
    config_for(write_cohort(tmp_path / "c"), "cmim-class", training={"validations": 0}, **small, **same, **settings)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "src")]), "OMP_NUM_THREADS": "1"}
    found = []
    for devices in ("1", "2"):
        words = ["train", str(tmp_path / "c" / "cmim-class.yaml"), "--out", str(tmp_path / devices), "--devices", devices]
        full = [sys.executable, "-m", "comodal", *words]
        done = subprocess.run(full, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=240, check=False)
        assert done.returncode == 0, done.stderr
        lines = map(json.loads, (tmp_path / devices / "metrics.jsonl").read_text().splitlines())
        found.append([line for line in lines if line["event"] == "step"])
    assert len(found[0]) == len(found[1]) > 2
    exact = found[0][:1] if "positions" in settings else found[0]
    for a, b in zip(exact, found[1], strict=False):
        drawn = ("ll/", "lg/report") if "positions" in settings else ()
        for name, value in a["terms"].items():
            if not name.startswith(drawn):
                assert b["terms"][name] == pytest.approx(value, rel=2e-4, abs=1e-5), (a["stage"], a["step"], name)
