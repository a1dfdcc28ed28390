"""TieNet: reading and writing with attention, AETE and SW-GAP by hand, one way to the logits, who teaches what."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.contract.classified import CLASSES, PATCHES, PHOTO, REPORT, TIENET, VOCABULARY, VOLUME, classified
from tests.methods.reading_room import config_for, write_cohort
from torch import Tensor, nn

from comodal.batch import Batch, Text
from comodal.cli.main import main
from comodal.errors import ConfigError, UnsupportedSubset
from comodal.method import Problem
from comodal.methods.tienet import WRITTEN, TieNet, TieNetConfig
from comodal.modality import Modality, Target
from comodal.networks.attention_lstm import EDGE, AttentionLSTM, Reports, TextAndPlaces
from comodal.networks.classification import class_probabilities, classification_losses
from comodal.networks.texts import WordVectors
from comodal.run import save_weights
from comodal.study.predicting import words_of
from comodal.testing import make_batch
from comodal.testing.subject import predicted
from comodal.training.train import train_run

ROOT = Path(__file__).resolve().parents[2]
SMALL: dict[str, Any] = {**TIENET, "encoder": "resnet10-quarter", "attention": 4}


def tienet(**settings: Any) -> TieNet:
    problem, config = classified("tienet")
    torch.manual_seed(0)
    return TieNet(problem, TieNetConfig.model_validate({**config.model_dump(), **settings}))


def lstm(vocabulary: int = 12) -> AttentionLSTM:
    torch.manual_seed(0)
    return AttentionLSTM(vocabulary, 5, vectors=WordVectors(vocabulary, 4), units=6, attention=3)


def reports_of(*rows: list[int], longest: int = 9) -> Reports:
    wide = max(map(len, rows))
    ids = torch.tensor([[row + [0] * (wide - len(row))] for row in rows])
    return Reports.of(Text(ids, ids != 0), longest)


# ------------------------------------------------------------------------------------------------ reports as sequences
def test_a_report_is_one_sequence_with_an_edge_at_both_ends() -> None:
    ids = torch.tensor([[[2, 5, 0, 0], [2, 6, 7, 0]], [[0, 0, 0, 0], [2, 8, 0, 0]], [[0] * 4, [0] * 4]])
    reports = Reports.of(Text(ids, ids != 0), 5)
    assert reports.words.tolist() == [[2, 5, 2, 6, 7], [2, 8, 0, 0, 0], [0] * 5]
    assert reports.count.tolist() == [5, 2, 0] and reports.whole.tolist() == [True] * 3
    assert reports.inputs.tolist()[1] == [0, 2, 8, 0, 0, 0] and reports.steps.sum(1).tolist() == [6, 3, 1]
    words, there = reports.outputs
    assert words[0][there[0]].tolist() == [2, 5, 2, 6, 7, 0] and words[1][there[1]].tolist() == [2, 8, 0]


def test_a_report_that_is_cut_off_teaches_no_end() -> None:
    reports = reports_of([2, 5, 6, 7], [2, 5], longest=3)
    words, there = reports.outputs
    assert reports.whole.tolist() == [False, True]
    assert words[0][there[0]].tolist() == [2, 5, 6] and words[1][there[1]].tolist() == [2, 5, 0]
    assert reports.steps.sum(1).tolist() == [4, 3]  # what follows the last word is read all the same


def test_a_token_0_is_refused_where_0_is_the_end() -> None:
    ids = torch.tensor([[[0, 5, 6]]])
    with pytest.raises(ConfigError, match=r"must leave 0 to padding .*; got a token 0\. Set data.tokenizer to words"):
        Reports.of(Text(ids, torch.ones_like(ids, dtype=torch.bool)), 5)


def test_stand_ins_take_the_rows_of_absent_reports() -> None:
    reports = reports_of([2, 5], [0, 0], [2, 6])
    found = reports.replaced(torch.tensor([False, True, False]), Reports.written(torch.tensor([[2, 7, 8, 0, 0]])))
    assert found.words.tolist() == [[2, 5, 0], [2, 7, 8], [2, 6, 0]] and found.count.tolist() == [2, 3, 2]


# ------------------------------------------------------------------------------------------------ reading and writing
def test_a_step_is_that_of_the_equations() -> None:
    network, places, reports = lstm(), torch.randn(2, 7, 5), reports_of([2, 5, 6], [2, 7])
    states, seen = network(places, reports)
    h, c = network.begin(places.mean(1)).chunk(2, dim=1)
    for step in range(4):
        for row in range(2):
            scores = [network.score(torch.tanh(network.of_place(x) + network.of_state(h[row]))) for x in places[row]]
            torch.testing.assert_close(seen[row, step], torch.cat(scores).softmax(0))
        z = torch.einsum("bn,bnc->bc", seen[:, step], places) * network.gate(h).sigmoid()
        h, c = network.cell(torch.cat([network.vectors(reports.inputs[:, step]), z], 1), (h, c))
        torch.testing.assert_close(states[:, step], h)  # after the update


def test_the_loss_of_words_is_their_mean_surprise() -> None:
    network, places, reports = lstm(), torch.randn(2, 7, 5), reports_of([2, 5, 6], [2, 7])
    states, _ = network(places, reports)
    loss, count = network.log_loss(states, reports, dropout=nn.Identity())
    said = [(0, [2, 5, 6, 0]), (1, [2, 7, 0])]
    each = [-network.output(states[row, step]).log_softmax(0)[word] for row, words in said for step, word in enumerate(words)]
    assert count == 7
    torch.testing.assert_close(loss, torch.stack(each).mean())
    empty = Reports(reports.words[:0], reports.count[:0], reports.whole[:0])
    none, zero = network.log_loss(states[:0], empty, dropout=nn.Identity())
    assert zero == 0 and float(none.detach()) == 0.0


def greedy(network: AttentionLSTM, place: Tensor, longest: int) -> list[int]:
    """Word by word, each time reading anew what there is."""
    words: list[int] = []
    while len(words) < longest:
        states, _ = network(place[None], reports_of(words or [0]) if words else Reports.written(torch.zeros(1, 0).long()))
        scores = network.output(states[0, -1])
        scores[1] = -torch.inf
        if int(scores.argmax()) == EDGE:
            break
        words.append(int(scores.argmax()))
    return words


def sharp(vocabulary: int = 12) -> AttentionLSTM:
    """One that has much to say."""
    network = lstm(vocabulary)
    with torch.no_grad():
        for parameter in (network.output.weight, network.begin.weight, *network.cell.parameters()):
            parameter.mul_(6)
    return network


def test_writing_is_reading_what_was_written() -> None:
    network, places = sharp(), torch.randn(16, 7, 5) * 2
    written = network.write(places, longest=9)
    assert written.shape == (16, 9) and not (written == 1).any()
    assert len({int(n) for n in (written != 0).sum(1)}) > 2  # some end early
    for row in range(16):
        words = greedy(network, places[row], 9)
        assert written[row].tolist() == words + [0] * (9 - len(words))


def test_a_beam_finds_what_a_search_through_all_reports_finds() -> None:
    network, places = sharp(5), torch.randn(8, 7, 5) * 2
    longest = 3

    def score(place: Tensor, words: list[int]) -> float:
        with torch.no_grad():
            states, _ = network(place[None], Reports.written(torch.tensor([words + [0] * (longest - len(words))])))
            logs = network.output(states[0]).log_softmax(1)
        ends = [*words, EDGE] if len(words) < longest else words
        return sum(float(logs[step, word]) for step, word in enumerate(ends))

    every: list[list[int]] = [[]] + [[a] for a in (2, 3, 4)] + [[a, b] for a in (2, 3, 4) for b in (2, 3, 4)]
    every += [[a, b, c] for a in (2, 3, 4) for b in (2, 3, 4) for c in (2, 3, 4)]
    wide, thin = network.write(places, longest=longest, beam=64), network.write(places, longest=longest)
    better = 0
    for row in range(8):
        best = max(every, key=lambda words: score(places[row], words))
        assert wide[row].tolist() == best + [0] * (longest - len(best))
        better += wide[row].tolist() != thin[row].tolist()
    assert better > 0  # else a beam would be of no use
    assert network.write(places[:0], longest=3).shape == (0, 3)


# ------------------------------------------------------------------------------------------------ AETE and SW-GAP
def joint(rows: int = 3) -> TextAndPlaces:
    torch.manual_seed(1)
    return TextAndPlaces(6, hidden=8, rows=rows)


def test_attention_over_time_sums_to_one_over_the_steps_that_count() -> None:
    network, steps = joint(), torch.tensor([[True] * 4, [True, True, False, False], [True, False, False, False]])
    weights = network.attention(torch.randn(3, 4, 6) * 5, steps)
    torch.testing.assert_close(weights.sum(2), torch.ones(3, 3))
    assert bool((weights[~steps[:, None].expand(-1, 3, -1)] == 0).all()) and bool((weights[:, :, 0] > 0).all())


def test_both_are_those_of_the_equations() -> None:
    network, steps = joint(), torch.tensor([[True] * 4, [True, True, False, False]])
    states, seen, places = torch.randn(2, 4, 6), torch.rand(2, 4, 7), torch.randn(2, 7, 5)
    with torch.no_grad():
        found = network(states, seen, places=places, steps=steps)
    for row in range(2):
        count = int(steps[row].sum())
        h, a = states[row, :count], seen[row, :count]
        g = torch.stack([network.second(torch.tanh(network.first(h)))[:, r].softmax(0) for r in range(3)]).detach()
        weights = [sum(float(a[t, k] * g[:, t].max()) for t in range(count)) for k in range(7)]
        torch.testing.assert_close(found[row, :6], (g @ h).max(0).values)
        torch.testing.assert_close(found[row, 6:], torch.tensor(weights) @ places[row])


def test_one_row_needs_no_maximum_and_one_step_is_its_state() -> None:
    states, seen, places = torch.randn(2, 4, 6), torch.rand(2, 4, 7), torch.randn(2, 7, 5)
    every = torch.ones(2, 4, dtype=torch.bool)
    one = joint(rows=1)
    text = one(states, seen, places=places, steps=every)[:, :6]
    torch.testing.assert_close(text, (one.attention(states, every) @ states)[:, 0])
    single = joint()(states[:, :1], seen[:, :1], places=places, steps=every[:, :1])
    torch.testing.assert_close(single[:, :6], states[:, 0])
    torch.testing.assert_close(single[:, 6:], (seen[:, :1] @ places)[:, 0])


def test_where_every_place_was_seen_alike_it_is_average_pooling() -> None:
    network, states, places = joint(), torch.randn(2, 4, 6), torch.randn(2, 7, 5)
    every = torch.ones(2, 4, dtype=torch.bool)
    found = network(states, torch.full((2, 4, 7), 1 / 7), places=places, steps=every)[:, 6:]
    total = network.attention(states, every).amax(1).sum(1, keepdim=True)
    torch.testing.assert_close(found, total * places.mean(1))


# ------------------------------------------------------------------------------------------------ the method
def test_padding_and_the_order_of_a_batch_change_nothing() -> None:
    method = tienet().eval()
    places, reports = torch.randn(3, 4, 8), reports_of([2, 5, 6, 7], [2, 7], [2, 8, 9])
    longer = Reports(nn.functional.pad(reports.words, (0, 3)), reports.count, reports.whole)
    order = torch.tensor([2, 0, 1])
    moved = Reports(reports.words[order], reports.count[order], reports.whole[order])
    with torch.no_grad():
        found = method.logits(places, reports)
        for name, value in method.logits(places, longer).items():
            torch.testing.assert_close(value, found[name])
        for name, value in method.logits(places[order], moved).items():
            torch.testing.assert_close(value, found[name][order])
            assert not torch.allclose(value, found[name], atol=1e-4)


def test_without_a_report_it_reads_what_it_wrote() -> None:
    method = tienet().eval()
    with torch.no_grad():
        method.reader.output.bias[EDGE] -= 5
    batch = make_batch(method.problem, 4)
    alone = predicted(method, batch.keep(["photo"]))
    words = alone.extras[WRITTEN]
    assert words.shape == (4, 9) and bool((words != 0).any()) and alone.used.tolist() == [[True, False]] * 4
    said = batch.with_inputs({**batch.inputs, "report": Text(words[:, None], (words != 0)[:, None])})
    both = predicted(method, said)
    assert bool((both.extras[WRITTEN] == 0).all()) and bool(both.used.all())
    for target in CLASSES:
        torch.testing.assert_close(both.probabilities[target.name], alone.probabilities[target.name])
    wanted = class_probabilities(method.logits(method.places(batch), Reports.written(words)), CLASSES)
    torch.testing.assert_close(alone.probabilities["diagnosis"], wanted["diagnosis"])
    mixed = predicted(method, said.restrict(torch.tensor([[True, row % 2 == 0] for row in range(4)])))
    torch.testing.assert_close(mixed.probabilities["signs"], alone.probabilities["signs"])


def test_nothing_stands_for_the_report_where_that_is_asked_for() -> None:
    method = tienet(absent="empty").eval()
    batch = make_batch(method.problem, 3).keep(["photo"])
    found = predicted(method, batch)
    nothing = Reports.written(torch.zeros(3, 0, dtype=torch.long))
    wanted = class_probabilities(method.logits(method.places(batch), nothing), CLASSES)
    torch.testing.assert_close(found.probabilities["grade"], wanted["grade"])
    assert found.extras[WRITTEN].tolist() == [[0] * 9] * 3


def test_a_report_without_a_word_is_none() -> None:
    method = tienet().eval()
    batch = make_batch(method.problem, 2)
    empty = batch.with_inputs({**batch.inputs, "report": Text(torch.zeros(2, 1, 3).long(), torch.zeros(2, 1, 3).bool())})
    found, alone = predicted(method, empty), predicted(method, batch.keep(["photo"]))
    assert found.used.tolist() == [[True, False]] * 2
    torch.testing.assert_close(found.probabilities["grade"], alone.probabilities["grade"])


def losses(method: TieNet, batch: Batch, *, seed: int = 0) -> dict[str, Tensor]:
    torch.manual_seed(seed)
    return method.losses(batch, method.stages()[0])


def test_the_loss_is_findings_and_words() -> None:
    method = tienet(alpha=0.75).eval()  # no dropout
    batch = make_batch(method.problem, 4)
    terms = losses(method, batch)
    places, reports = method.places(batch), Reports.of(batch.text("report"), 9)
    wanted = classification_losses(method.logits(places, reports), batch, CLASSES, class_weights=method.class_weights)
    for name, value in wanted.items():
        torch.testing.assert_close(terms[name], 0.75 * value)
    states, _ = method.reader(places, reports)
    torch.testing.assert_close(terms["words"], 0.25 * method.reader.log_loss(states, reports, dropout=nn.Identity())[0])


def test_cases_without_a_report_teach_no_words() -> None:
    method = tienet().eval()
    batch = make_batch(method.problem, 4)
    some = batch.restrict(torch.tensor([[True, True], [True, False], [True, True], [True, False]]))
    torch.testing.assert_close(losses(method, some)["words"], losses(method, batch.rows([0, 2]))["words"])
    assert float(losses(method, batch.keep(["photo"]))["words"].detach()) == 0.0


def test_a_report_that_is_taken_away_is_as_one_that_is_not_there() -> None:
    method, batch = tienet(text_dropout_rate=1.0, dropout=0.0), make_batch(tienet().problem, 4)
    method.enter(method.stages()[0])
    terms, alone = losses(method, batch), losses(method, batch.keep(["photo"]))
    for name, value in terms.items():
        torch.testing.assert_close(value, alone[name])
    half = tienet(text_dropout_rate=0.5)
    half.enter(half.stages()[0])
    assert len({float(losses(half, batch, seed=seed)["words"].detach()) for seed in range(8)}) > 2


@pytest.mark.parametrize("stop", [False, True])
def test_words_teach_the_encoder_unless_they_may_not(stop: bool) -> None:
    method, batch = tienet(stop_gradient=stop), make_batch(tienet().problem, 4)
    losses(method, batch)["words"].backward()
    reached = {name for name, p in method.named_parameters() if p.grad is not None and bool((p.grad != 0).any())}
    assert any(name.startswith("reader.cell") for name in reached)
    assert any(name.startswith(("encoder", "transition")) for name in reached) == (not stop)
    method.zero_grad(set_to_none=True)
    losses(method, batch)["ce/diagnosis"].backward()
    assert method.transition.weight.grad is not None and bool((method.transition.weight.grad != 0).any())


def test_what_it_is_built_for() -> None:
    method = tienet()
    assert method.requires.at_test == ("photo",) and method.requires.at_training == ("photo", "report")
    assert method.supports(("photo",)) and not method.supports(("report",))
    with pytest.raises(UnsupportedSubset, match=r"\(photo, photo\+report\); got report"):
        method.predict(make_batch(method.problem, 2).keep(["report"]))
    stage = method.stages()[0]
    assert stage.optimisers["encoder"].rate == 1e-4 and stage.optimisers[""].rate == 1e-3
    assert {o.weight_decay for o in stage.optimisers.values()} == {1e-4} and stage.modalities == ("photo",)
    assert stage.monitor is not None and stage.monitor.metric == "AUROC"  # of the findings: the loss has that of the words
    default = TieNetConfig()
    assert (default.alpha, default.dropout, default.transition, default.rows, default.row_units) == (0.85, 0.5, 1024, 5, 2000)
    assert tienet(pretrained={"photo": "x.safetensors"}).pretrained == {"encoder": "x.safetensors"}


def test_vectors_of_a_file_stay_as_they_are_unless_they_may_not() -> None:
    given, tuned = (tienet(vectors="glove.txt", tune_vectors=tune) for tune in (False, True))
    assert given.pretrained == tuned.pretrained == {"reader.vectors": "glove.txt"}
    name = "reader.vectors.weight"
    assert name in dict(given.named_buffers()) and name in dict(tuned.named_parameters())


@pytest.mark.parametrize(
    ("modalities", "settings", "says"),
    [
        ((PHOTO,), {}, r"get an image and a text; got photo \(image\)"),
        ((PHOTO, REPORT, Modality("other", "text", 0, 1, grid="other")), {}, "get an image and a text"),
        ((PHOTO, REPORT), {"alpha": 1.0}, "be below 1 for a network that writes reports"),
        ((PHOTO, REPORT), {"encoder": "densenet121"}, "have regions"),
        ((PHOTO, REPORT), {"text": "bert-128x2"}, "method.text must stay cnn: the LSTM of tienet reads the reports"),
        ((VOLUME, REPORT), {"slices": "mean"}, "method.slices must stay volume: tienet reads volumes whole"),
        ((PHOTO, REPORT), {"encoder": {"report": "resnet18"}}, "method.encoder must name the image"),
        ((PHOTO, REPORT), {"judged_on": ("report",)}, "method.judged_on must name the image, or the image and the report"),
        ((PHOTO, REPORT), {"judged_on": ("photo", "x")}, "method.judged_on must name the image"),
    ],
)
def test_what_it_refuses(modalities: tuple[Modality, ...], settings: dict[str, Any], says: str) -> None:
    problem = Problem(modalities, CLASSES, 3, patches=PATCHES, vocabulary=VOCABULARY)
    with pytest.raises(ConfigError, match=says):
        TieNet(problem, TieNetConfig.model_validate({**SMALL, **settings}))
    with pytest.raises(ConfigError, match="name the image"):
        _ = tienet(pretrained={"report": "x"}).pretrained


def test_volumes_have_places_too() -> None:
    scan = Modality("scan", "image", 3, 1, grid="scan")
    problem = Problem((scan, REPORT), (Target("grade", "ordinal", ("low", "high")),), 3, (16, 16, 16), vocabulary=VOCABULARY)
    method = TieNet(problem, TieNetConfig.model_validate(SMALL)).eval()
    assert method.places(make_batch(problem, 2)).shape == (2, 1, 8)
    assert predicted(method, make_batch(problem, 2)).probabilities["grade"].shape == (2, 2)


def test_what_it_wrote_is_a_column_where_extras_are_asked_for(tmp_path: Path) -> None:
    config = config_for(write_cohort(tmp_path / "cohort"), "tienet", "frontal", "report", steps=2, **SMALL)
    run = train_run(config, tmp_path / "run")
    written = torch.tensor([2.0, 3.0, 4.0, 2.0, 1.0, 0.0])
    first, second = (run.tokenizer.words[k] for k in (0, 1)) if run.tokenizer is not None else ("", "")
    assert words_of(run, written.numpy()) == f"{first} {second}. ?."
    assert words_of(run, torch.zeros(4).numpy()) == ""
    method = run.method("cpu")
    assert isinstance(method, TieNet)
    with torch.no_grad():
        method.reader.output.bias[EDGE] -= 100
    save_weights(run.path / "weights.safetensors", method.state_dict())
    words = ["predict", str(run.path), "--cohort", str(tmp_path / "cohort" / "cohort.csv"), "--device", "cpu"]
    assert main([*words, "--use", "frontal", "--extras", "--out", str(tmp_path / "out")]) == 0
    rows = (tmp_path / "out" / "predictions.csv").read_text(encoding="utf-8").splitlines()
    assert rows[0].endswith(f",{WRITTEN}") and all(row.endswith(".") for row in rows[1:])
    assert not (tmp_path / "out" / "extras").exists()
    assert main([*words, "--out", str(tmp_path / "plain"), "--set", "method.beam=3"]) == 0
    assert WRITTEN not in (tmp_path / "plain" / "predictions.csv").read_text(encoding="utf-8")


def test_weights_are_chosen_without_reports_unless_asked() -> None:
    assert [stage.monitor.subsets for stage in tienet().stages() if stage.monitor] == [((PHOTO.name,),)]
    both = tienet(judged_on=(REPORT.name, PHOTO.name)).stages()
    assert [stage.monitor.subsets for stage in both if stage.monitor] == [((PHOTO.name, REPORT.name),)]


@pytest.mark.slow
def test_it_learns_to_read_and_then_to_write(tmp_path: Path) -> None:
    """Pictures whose findings their reports name: with the report it knows, and what it writes is said of the picture."""
    settings = {
        **SMALL,
        "units": 24,
        "words": 12,
        "longest": 24,
        "dropout": 0.0,
        "encoder_rate": 3e-3,
        "rate": 1e-2,
        "judge": "loss",
    }
    config = config_for(write_cohort(tmp_path / "cohort", 40), "tienet", "frontal", "report", steps=120, **settings)
    run = train_run(config, tmp_path / "run")
    words = ["--cohort", str(tmp_path / "cohort" / "cohort.csv"), "--device", "cpu"]
    assert main(["predict", str(run.path), *words, "--use", "frontal", "--extras", "--out", str(tmp_path / "out")]) == 0
    with (tmp_path / "out" / "predictions.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 40 and {row["used"] for row in rows} == {"frontal"}
    right = ["a nodule is seen" in row[WRITTEN] for row in rows]
    assert sum(row[WRITTEN].endswith("comparison is made with the prior study.") for row in rows) > 35
    assert sum(said == bool(number % 2) for number, said in enumerate(right)) > 30


def read(run: Path, event: str) -> list[dict[str, Any]]:
    every = [json.loads(line) for line in (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    return [line for line in every if line["event"] == event]


@pytest.mark.slow
def test_two_processes_make_the_steps_of_one(tmp_path: Path) -> None:
    """Every third case lacks its report: a process may have none in a step."""
    settings = {**SMALL, "longest": 6, "steps": 4, "dropout": 0.0, "norm": "group"}
    training = {"batch_size": 2, "validations": 0}  # of both processes together
    config_for(write_cohort(tmp_path / "cohort"), "tienet", "frontal", "report", training=training, **settings)
    paths = os.pathsep.join([str(ROOT), str(ROOT / "src")])
    environment = {**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1"}
    for devices in ("1", "2"):
        words = ["train", str(tmp_path / "cohort" / "tienet.yaml"), "--out", str(tmp_path / devices), "--devices", devices]
        full = [sys.executable, "-m", "comodal", *words]
        done = subprocess.run(full, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=120, check=False)
        assert done.returncode == 0, done.stderr
    one, two = (read(tmp_path / devices, "step") for devices in ("1", "2"))
    assert len(one) == len(two) > 0
    for a, b in zip(one, two, strict=True):
        assert b["terms"] == pytest.approx(a["terms"], rel=2e-4, abs=1e-5), a["step"]


def test_writing_draws_no_random_number() -> None:
    """So that a prediction and a training step do not depend on each other."""
    method = tienet()
    batch = replace(make_batch(method.problem, 2)).keep(["photo"])
    torch.manual_seed(3)
    before = torch.get_rng_state()
    predicted(method, batch)
    assert torch.equal(before, torch.get_rng_state())
