"""Local mutual information of images and reports: the loss by slow loops, negatives, grounding, and a test without text."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from tests.networks.test_retraining import FRONTAL, REPORT, SIGNS, method_of, same, state
from torch import Tensor

from comodal.batch import Batch, Text
from comodal.errors import ConfigError, UnsupportedSubset
from comodal.information.critics import ConcatCritic
from comodal.information.local import Selection, maximum_over_regions
from comodal.information.local_images import maximum_against_images
from comodal.information.objective import Objective
from comodal.method import Losses, Problem
from comodal.methods import local_mi
from comodal.methods.local_mi import LocalMI, LocalMIConfig
from comodal.networks import retraining
from comodal.networks.regions import RegionEncoder
from comodal.networks.texts import TextEncoder
from comodal.testing import make_batch

BOTH = pytest.mark.parametrize("level", ["local", "global"])


def batch_of(method: LocalMI, size: int = 5, *, seed: int = 0) -> Batch:
    """Reports of three sentences (the last one of some is padding), no two of equal words."""
    batch = make_batch(method.problem, size, seed=seed)
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(3, 12, (size, 3, 5), generator=generator)
    ids[:, :, 0] = 2
    attention = torch.ones_like(ids, dtype=torch.bool)
    attention[:, :, 4] = False
    attention[::2, 2] = False
    return batch.with_inputs({**batch.inputs, "report": Text(ids, attention)})


def with_text(batch: Batch, ids: Tensor, attention: Tensor) -> Batch:
    return batch.with_inputs({**batch.inputs, "report": Text(ids, attention)})


def critic_of(method: LocalMI) -> ConcatCritic:
    critic = method.objective.critic
    assert isinstance(critic, ConcatCritic)
    return critic


def terms_of(method: LocalMI, batch: Batch, seed: int = 0) -> Losses:
    torch.manual_seed(seed)
    found = method.losses(batch, method.stages()[0])
    assert isinstance(found, Losses)
    return found


# -------------------------------------------------------------------------------------------------------------- the critic


def test_the_critics_have_the_sizes_of_the_paper() -> None:
    problem = Problem((FRONTAL, REPORT), (SIGNS,), 2, (256, 256), vocabulary=12)
    for level, inputs in (("local", 1280), ("global", 1536)):
        config = LocalMIConfig(encoder="resnet6", level=level, text_channels=768, text_blocks=0, words=8)
        shapes = [tuple(p.shape) for p in critic_of(LocalMI(problem, config)).parameters() if p.ndim > 1]
        assert shapes == [(1024, inputs), (512, 1024), (1, 512)]


@BOTH
@pytest.mark.parametrize("bound", ["dv", "mine", "info_nce"])
def test_a_critic_that_says_nothing_has_a_value_of_zero(level: str, bound: str) -> None:
    method = method_of(level=level, bound=bound)
    with torch.no_grad():
        critic_of(method).output.weight.zero_()
    (value,) = terms_of(method, batch_of(method)).values()
    assert float(value.detach()) == pytest.approx(0.0, abs=1e-6)


# ---------------------------------------------------------------------------------------------------------------- the loss


def slow(method: LocalMI, batch: Batch, bound: str) -> float:
    """Equation (5) by loops over sentences, regions and negatives, each pair through the critic by concatenation."""
    critic, text = critic_of(method), batch.text("report")
    with torch.no_grad():
        if method.config.level == "local":
            regions = method.image.regions(method.image.low(batch.image("frontal")))
            features, there = method.text.sentences(text)
            owners = [(i, s) for i in range(len(batch)) for s in range(there.shape[1]) if there[i, s]]
            rows = [(i, features[i, s]) for i, s in owners]
        else:
            regions = method.image(batch.image("frontal"))[:, None]
            features, _ = method.text.report(text)
            rows = list(enumerate(features))
        joint, negatives = [], []
        for i, sentence in rows:
            others = [other for j, other in rows if j != i]
            best = None
            for region in regions[i]:
                own, rest = float(critic(region, sentence)), [float(critic(region, other)) for other in others]
                estimate = own - math.log(sum(map(math.exp, rest)))
                if best is None or estimate > best[0]:
                    best = (estimate, own, rest)
            assert best is not None
            joint.append(best[1])
            negatives.append(best[2])
    if bound == "dv":
        every = [math.exp(score) for row in negatives for score in row]
        return sum(joint) / len(joint) - math.log(sum(every) / len(every))
    values = [
        own - math.log(math.exp(own) + sum(map(math.exp, rest))) + math.log(1 + len(rest))
        for own, rest in zip(joint, negatives, strict=True)
    ]
    return sum(values) / len(values)


@BOTH
@pytest.mark.parametrize("bound", ["info_nce", "dv"])
def test_the_loss_by_slow_loops(level: str, bound: str) -> None:
    method = method_of(level=level, bound=bound, sentences="all").eval()
    with torch.no_grad():
        for parameter in critic_of(method).parameters():
            parameter.mul_(3)  # else all scores are nearly equal
    batch = batch_of(method)
    found = terms_of(method, batch)
    wanted = slow(method, batch, bound)
    assert float(found[f"mi/{level}"].detach()) == pytest.approx(-wanted, abs=1e-5) and abs(wanted) > 1e-3
    assert float(found.diagnostics["information"]) == pytest.approx(wanted, abs=1e-5)


def test_a_random_sentence_is_one_of_its_report_and_all_come_up() -> None:
    method = method_of()
    text = batch_of(method).text("report")
    seen: set[tuple[int, int]] = set()
    for seed in range(40):
        torch.manual_seed(seed)
        ids, attention, owner = retraining.drawn_sentences(text)
        assert owner.tolist() == [0, 1, 2, 3, 4] and bool(attention.any(1).all())
        seen |= {(i, s) for i in range(5) for s in range(3) if ids[i].equal(text.ids[i, s])}
    assert seen == {(i, s) for i in range(5) for s in range(3) if bool(text.attention[i, s].any())}


def test_only_chosen_regions_learn() -> None:
    method = method_of(sentences="all").train()
    kept: list[Tensor] = []
    cut = method.image.regions

    def regions(low: Tensor) -> Tensor:
        kept.append(cut(low))
        kept[-1].retain_grad()
        return kept[-1]

    method.image.regions = regions  # type: ignore[method-assign]
    sum(terms_of(method, batch_of(method)).values()).backward()  # type: ignore[union-attr]
    (found,) = kept
    assert found.grad is not None
    learned = found.grad.ne(0).any(dim=2)  # (B, N)
    assert bool(learned.any(dim=1).all()) and not bool(learned.all())


def test_negatives_are_of_other_cases_other_patients_and_other_words() -> None:
    method = method_of(sentences="all")
    batch = replace(batch_of(method, 4), groups=("p", "q", "p", "r"))
    text = batch.text("report")
    ids = text.ids.clone()
    ids[3, 0], ids[3, 0, 4] = ids[1, 0], 11  # the words of another patient's sentence, whatever stands in the padding
    scores, _ = method._local(batch.image("frontal"), Text(ids, text.attention), batch.groups)
    owner = text.attention.any(2).nonzero()[:, 0].tolist()
    assert owner == [0, 0, 1, 1, 1, 2, 2, 3, 3, 3]
    patients = [batch.groups[i] for i in owner]
    for row in range(10):
        for column in range(10):
            said = (owner[row], column) in ((1, 7), (3, 2))  # words that the report says in another sentence, too
            apart = patients[row] != patients[column] and not said
            assert bool(scores.negative[row, column]) == apart, (row, column)
    told = terms_of(method, batch)
    assert float(told.diagnostics["log K"]) == pytest.approx(math.log(8))  # of ten sentences those of others, and the own one


def test_whole_reports_of_the_same_words_are_no_negatives() -> None:
    method = method_of(level="global")
    batch = batch_of(method, 4)
    ids = batch.text("report").ids.clone()
    ids[2] = ids[0]
    scores, _ = method._global(batch.image("frontal"), Text(ids, batch.text("report").attention), batch.groups)
    kin = {(row, column) for row in range(4) for column in range(4) if not scores.negative[row, column]}
    assert kin == {(i, i) for i in range(4)} | {(0, 2), (2, 0)}


@BOTH
def test_a_batch_of_one_patient_says_nothing(level: str) -> None:
    method = method_of(level=level)
    found = terms_of(method, replace(batch_of(method), groups=("p",) * 5))
    total = torch.stack(list(found.values())).sum()
    total.backward()
    assert float(total.detach()) == 0.0
    assert all(p.grad is None or not p.grad.any() for p in method.parameters())


@BOTH
def test_an_empty_report_takes_no_part(level: str) -> None:
    """Whatever the image is: not even its running statistics are moved."""
    results = []
    for hostile in (False, True):
        method = method_of(level=level, sentences="all").train()
        batch = batch_of(method)
        text = batch.text("report")
        attention = text.attention.clone()
        attention[1] = False
        image = batch.image("frontal").clone()
        image[1] = math.nan if hostile else 0.0
        batch = with_text(batch.with_inputs({**batch.inputs, "frontal": image}), text.ids, attention)
        (value,) = terms_of(method, batch).values()
        value.backward()
        results.append((value.detach(), state(method, "image.")))
    assert results[0][0].isfinite() and results[0][0].equal(results[1][0]) and same(results[0][1], results[1][1])


@BOTH
def test_without_a_single_report_there_is_nothing_to_learn(level: str) -> None:
    method = method_of(level=level, sentences="all").train()
    batch = batch_of(method)
    text = batch.text("report")
    (value,) = terms_of(method, with_text(batch, text.ids, torch.zeros_like(text.attention))).values()
    value.backward()
    assert float(value.detach()) == 0.0


def test_the_local_pretraining_leaves_the_last_block_alone() -> None:
    local, whole = method_of().stages()[0], method_of(level="global").stages()[0]
    names = [name for name, _ in method_of().named_parameters() if name.startswith("image.")]
    assert {n.split(".")[2] for n in names if local.trains(n)} == {"stem", *(f"layer{k}" for k in range(1, 6))}
    assert all(whole.trains(n) for n in names)
    assert all(s.trains("text.first.weight") and s.trains("objective.critic.layers.0.weight") for s in (local, whole))


def test_a_soft_maximum_goes_to_the_maximum() -> None:
    values = []
    for settings in ({}, {"pool": "soft", "temperature": 1e-6}, {"pool": "soft", "temperature": 10.0}):
        method = method_of(sentences="all", **settings).eval()
        values.append(float(terms_of(method, batch_of(method))["mi/local"].detach()))
    assert values[1] == pytest.approx(values[0], abs=1e-6) and values[2] != pytest.approx(values[0], abs=1e-6)


# ------------------------------------------------------------------------------------------------------------------ at test


def test_at_test_neither_the_encoder_of_reports_nor_the_critic_is_touched() -> None:
    method = method_of(retrain="both").eval()
    batch = batch_of(method)
    with torch.no_grad():
        whole = method.predict(batch)
        for part in (method.text, method.objective):
            for tensor in part.state_dict().values():
                tensor.fill_(math.nan)
        method.text.forward = None  # type: ignore[assignment,method-assign]
        alone = method.predict(batch.keep(["frontal"]))
    assert whole.probabilities["signs"].equal(alone.probabilities["signs"]) and alone.probabilities["signs"].isfinite().all()
    assert whole.used.tolist() == [[True, False]] * 5
    assert (
        method.supports(["frontal"]) and not method.supports(["report"]) and method.reads(["report", "frontal"]) == ("frontal",)
    )


def test_sentences_are_matched_at_regions(monkeypatch: pytest.MonkeyPatch) -> None:
    method = method_of().eval()
    batch, text = batch_of(method), batch_of(method, 7, seed=1).text("report")
    with torch.no_grad():
        found = method.match(batch, text)
        assert found.grid == (2, 2) and found.sentences is not None and found.sentences.shape == (5, 7, 3, 4)
        there = text.attention.any(2)
        assert bool(found.sentences.isnan().all(-1)[:, ~there].all()) and bool(found.sentences[:, there].isfinite().all())
        regions = method.image.regions(method.image.low(batch.image("frontal")))
        features, _ = method.text.sentences(text)
        torch.testing.assert_close(found.sentences[2, 3, 1, 2], critic_of(method)(regions[2, 2], features[3, 1]))
        best = found.sentences.amax(-1)
        wanted = torch.where(there, best, 0.0).sum(-1) / there.sum(-1)
        torch.testing.assert_close(found.reports, wanted)
        for module in (local_mi, retraining):
            monkeypatch.setattr(module, "CHUNK", 2)
        again = method.match(batch.keep(["frontal"]), text)
        torch.testing.assert_close(again.sentences, found.sentences, equal_nan=True)
        with pytest.raises(UnsupportedSubset):
            method.match(batch.keep(["report"]), text)


def test_a_sentence_that_many_reports_say_is_read_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Seven reports said three times over, some with one sentence less: the same scores, from the sentences of seven."""
    method = method_of().eval()
    batch, text = batch_of(method), batch_of(method, 7, seed=1).text("report")
    attention = text.attention.repeat(3, 1, 1)
    attention[8, 0] = False
    thrice = Text(text.ids.repeat(3, 1, 1), attention)
    read: list[int] = []
    sentences = method.text.sentences

    def counted(part: Text) -> tuple[Tensor, Tensor]:
        read.append(len(part.ids))
        return sentences(part)

    with torch.no_grad():
        alone = method.match(batch, text).sentences
        monkeypatch.setattr(method.text, "sentences", counted)
        found = method.match(batch, thrice).sentences
        silent = method.match(batch, Text(text.ids, torch.zeros_like(text.attention)))
    assert found is not None and alone is not None and silent.sentences is not None
    assert read == [len({tuple(row[seen].tolist()) for row, seen in zip(*_sentences_of(text), strict=True)}), 0]
    wanted = alone.repeat(1, 3, 1, 1)
    wanted[:, 8, 0] = torch.nan
    torch.testing.assert_close(found, wanted, equal_nan=True)
    assert bool(silent.sentences.isnan().all()) and bool(silent.reports.isnan().all())


def _sentences_of(text: Text) -> tuple[Tensor, Tensor]:
    there = text.attention.any(2)
    return text.ids[there], text.attention[there]


@pytest.mark.parametrize("against", ["sentences", "images"])
def test_reports_are_matched_by_the_soft_maximum_where_images_had_one(against: str) -> None:
    """Against images the score is that of the training; against sentences, whose weights have no like at test, the maximum."""
    method = method_of(against=against, pool="soft", temperature=0.2, sentences="all").eval()
    batch = batch_of(method)
    with torch.no_grad():
        found = method.match(batch, batch.text("report"))
        scores, _ = method._local(batch.image("frontal"), batch.text("report"), batch.groups)
    assert found.sentences is not None and found.temperature == (0.2 if against == "images" else 0.0)
    there = batch.text("report").attention.any(2)
    if against == "images":
        own = torch.stack([found.sentences[b, b] for b in range(len(batch))])  # (B, S, N)
        soft = 0.2 * ((own / 0.2).logsumexp(-1) - math.log(own.shape[-1]))
        torch.testing.assert_close(scores.joint, soft[there])
        torch.testing.assert_close(found.reports.diagonal(), soft.nanmean(1))
    else:
        torch.testing.assert_close(found.reports, found.sentences.amax(3).nanmean(2))


@BOTH
def test_features_are_brought_to_one_scale_before_the_critic(level: str) -> None:
    """A mean and a scale that all features share change nothing, in training and in matching."""
    plain, normed = (method_of(level=level, critic_norm=norm).eval() for norm in (False, True))
    batch = batch_of(plain)
    report, sentences = TextEncoder.report, TextEncoder.sentences
    regions, whole = RegionEncoder.regions, RegionEncoder.forward

    def values(method: LocalMI, shift: float) -> list[float]:
        def moved(found: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
            return 3 * found[0] + shift, found[1]

        with pytest.MonkeyPatch.context() as patch, torch.no_grad():
            patch.setattr(method.text, "report", lambda text: moved(report(method.text, text)))
            patch.setattr(method.text, "sentences", lambda text: moved(sentences(method.text, text)))
            patch.setattr(method.image, "regions", lambda low: 2 * regions(method.image, low) - shift)
            patch.setattr(method.image, "forward", lambda images: 2 * whole(method.image, images) - shift)
            (loss,) = terms_of(method, batch).values()
            return [float(loss), *method.match(batch, batch.text("report")).reports[:, 1].tolist()]

    assert values(normed, 0.0) == pytest.approx(values(normed, 5.0), abs=1e-3)
    assert values(plain, 0.0) != pytest.approx(values(plain, 5.0), abs=1e-3)


def test_wholes_are_matched_by_their_score() -> None:
    method = method_of(level="global").eval()
    batch, text = batch_of(method), batch_of(method, 3, seed=1).text("report")
    attention = text.attention.clone()
    attention[1] = False
    with torch.no_grad():
        found = method.match(batch, Text(text.ids, attention))
        assert found.sentences is None and found.grid == () and found.reports.shape == (5, 3)
        assert bool(found.reports[:, 1].isnan().all())
        wanted = critic_of(method)(method.image(batch.image("frontal"))[4], method.text.report(text)[0][2])
        torch.testing.assert_close(found.reports[4, 2], wanted)


# ----------------------------------------------------------------------------------------------------------- what it learns


def test_the_choice_of_the_region_can_itself_be_the_message() -> None:
    """Regions of noise and a mark of their place, sentences of eight words: they share nothing, yet Equation (5) reads nats.

    The region is chosen with the pair in hand. Among other sentences a critic that scores one word high in one place and the
    next in another tells sentences apart by this choice. Where every image is seen at its best place, nothing is left.
    """
    generator = torch.Generator().manual_seed(0)

    def draw(size: int) -> tuple[Tensor, Tensor, Tensor]:
        places = torch.eye(8).expand(size, 8, 8)
        words = torch.randint(8, (size,), generator=generator)
        return torch.cat([places, torch.randn(size, 8, 4, generator=generator)], dim=2), torch.eye(8)[words], words

    ways: dict[str, Callable[..., Selection]] = {
        "sentences": maximum_over_regions,
        "images": maximum_against_images,
    }
    read = {}
    for name, choose in ways.items():
        torch.manual_seed(0)
        objective = Objective(ConcatCritic(12, 8, hidden=(32, 16)), bound="info_nce")

        def value(objective: Objective = objective, choose: Callable[..., Selection] = choose) -> Tensor:
            regions, sentences, words = draw(24)
            found = choose(objective.critic, regions, sentences, owner=torch.arange(24), groups=[words])
            return objective.of(found.scores)

        optimiser = torch.optim.Adam(objective.parameters(), lr=1e-2)
        for _ in range(100):
            optimiser.zero_grad()
            (-value()).backward()
            optimiser.step()
        with torch.no_grad():
            read[name] = sum(float(value()) for _ in range(10)) / 10
    assert read["sentences"] > 1.0 and read["images"] < 0.1, read


@pytest.mark.parametrize("settings", [{"symmetric": True}, {"select_by": "score"}])
def test_what_goes_with_other_sentences_alone(settings: dict[str, object]) -> None:
    with pytest.raises(
        ConfigError, match=r"must be left as it is where negatives are images; got (True|score)\. Leave it out, or"
    ):
        method_of(against="images", **settings)
