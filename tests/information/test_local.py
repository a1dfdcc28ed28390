from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import pytest
import torch
from torch import Tensor

from comodal.errors import ConfigError
from comodal.information import bounds, critics
from comodal.information.critics import BilinearCritic, ConcatCritic, CosineCritic, Critic, SeparableCritic
from comodal.information.estimators import ESTIMATORS
from comodal.information.local import SelectBy, maximum_over_regions
from comodal.information.objective import Objective
from comodal.information.pairs import Scores, contrast, group_numbers

X, Y, REGIONS = 4, 3, 5
CRITICS: dict[str, Callable[[], Critic]] = {
    "concat": lambda: ConcatCritic(X, Y, hidden=(8, 6)),
    "concat in blocks": lambda: ConcatCritic(X, Y, hidden=(8, 6), memory=0.001),
    "concat, three layers in blocks": lambda: ConcatCritic(X, Y, hidden=(16, 12, 8), memory=0.001),
    "separable": lambda: SeparableCritic(X, Y, hidden=(8,), embedding=4),
    "bilinear": lambda: BilinearCritic(X, Y),
    "cosine": lambda: CosineCritic(X, Y, embedding=4),
}
every_critic = pytest.mark.parametrize("name", CRITICS)
both_ways = pytest.mark.parametrize("select_by", ["estimate", "score"])
# Images of the sentences: one each; several in any order, one image without any (2 of 4); all of one image.
OWNERS = {"one each": [0, 1, 2, 3], "several": [3, 0, 1, 0, 3, 3, 1], "all of one": [1, 1, 1]}
every_owner = pytest.mark.parametrize("owners", OWNERS)
BOUNDS = [name for name, estimator in ESTIMATORS.items() if estimator.scores == "critic"]


class Table(Critic):
    """Regions hold their scores with each sentence; sentences are unit vectors."""

    def encode_x(self, x: Tensor) -> Tensor:
        return x

    def encode_y(self, y: Tensor) -> Tensor:
        return y


@pytest.fixture(autouse=True)
def blocks_of_few_pairs(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Few pairs are scored at once by default; the critics "in blocks" take the way of many."""
    if "name" in request.fixturenames and str(request.getfixturevalue("name")).endswith("in blocks"):
        monkeypatch.setattr(critics, "SMALL", 0)


def made(name: str, seed: int = 0) -> Critic:
    torch.manual_seed(seed)
    return CRITICS[name]().double()


def features(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).requires_grad_()


def batch_of(owners: str) -> tuple[Tensor, Tensor, Tensor]:
    owner = torch.tensor(OWNERS[owners])
    return features(4, REGIONS, X), features(len(owner), Y, seed=1), owner


def kin(owner: Tensor, groups: Sequence[Tensor]) -> list[list[bool]]:
    """Which are no negatives: some sentence of the first one's report is of one group with the second."""
    labels = [owner.tolist(), *(group.tolist() for group in groups)]
    count = len(owner)
    alike = [[any(label[i] == label[j] for label in labels) for j in range(count)] for i in range(count)]
    reports = owner.tolist()
    return [[any(alike[k][j] for k in range(count) if reports[k] == reports[i]) for j in range(count)] for i in range(count)]


def slow(
    critic: Critic, regions: Tensor, sentences: Tensor, *, owner: Tensor, groups: Sequence[Tensor], select_by: SelectBy
) -> tuple[Tensor, Tensor, list[int]]:
    """Joint and marginal scores and the choice, region by region and sentence by sentence."""
    alike = kin(owner, groups)
    chosen, rows = [], []
    for s, image in enumerate(owner.tolist()):
        values = []
        for region in regions[image]:
            with torch.no_grad():
                own = float(critic(region, sentences[s]))
                others = [float(critic(region, sentences[k])) for k in range(len(owner)) if not alike[s][k]]
            values.append(own - (math.log(math.fsum(map(math.exp, others))) if others and select_by == "estimate" else 0))
        chosen.append(values.index(max(values)))
        rows.append(torch.stack([critic(regions[image, chosen[-1]], sentence) for sentence in sentences]))
    marginal = torch.stack(rows)
    return marginal.diagonal(), marginal, chosen


def value_of(scores: Scores) -> Tensor:
    return bounds.info_nce(scores.joint, scores.marginal, scores.negative)


# ------------------------------------------------------------------------------------------------------------- the choice


@every_critic
@both_ways
@every_owner
@pytest.mark.parametrize("grouped", [False, True])
def test_the_maximum_by_a_slow_loop(name: str, select_by: SelectBy, owners: str, grouped: bool) -> None:
    critic = made(name)
    regions, sentences, owner = batch_of(owners)
    groups = (torch.arange(len(owner)) // 2, torch.tensor([5, 1, 2, 3, 5, 4, 0])[: len(owner)]) if grouped else ()
    found = maximum_over_regions(critic, regions, sentences, owner=owner, groups=groups, select_by=select_by)
    joint, marginal, chosen = slow(critic, regions, sentences, owner=owner, groups=groups, select_by=select_by)
    assert found.region.tolist() == chosen and found.region.dtype == torch.int64
    assert found.scores.negative.tolist() == [[not same for same in row] for row in kin(owner, groups)]
    torch.testing.assert_close(found.scores.joint, joint, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(found.scores.marginal, marginal, rtol=1e-12, atol=1e-12)
    tensors = [regions, sentences, *critic.parameters()]
    totals = (
        torch.sin(3 * j).sum() + m.square().sum() for j, m in ((found.scores.joint, found.scores.marginal), (joint, marginal))
    )
    one, other = (torch.autograd.grad(total, tensors) for total in totals)
    for ours, theirs in zip(one, other, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-10)


def test_the_two_ways_to_select_by_hand() -> None:
    """Region 0 fits every sentence, region 1 fits its own alone: the estimate takes the second, the score the first."""
    table = torch.tensor([[[3.0, 3.0], [2.0, -1.0]], [[0.0, 1.0], [2.0, 1.5]]])  # (image, region, sentence)
    owner, sentences = torch.arange(2), torch.eye(2)
    by_estimate, by_score = (
        maximum_over_regions(Table(), table, sentences, owner=owner, select_by=by) for by in ("estimate", "score")
    )
    assert by_estimate.region.tolist() == [1, 0]  # 2 + 1 > 3 - 3; 1 - 0 > 1.5 - 2
    assert by_score.region.tolist() == [0, 1]  # 3 > 2; 1.5 > 1
    assert by_estimate.scores.marginal.tolist() == [[2.0, -1.0], [0.0, 1.0]]
    assert by_score.scores.joint.tolist() == [3.0, 1.5]
    wanted = math.log(2) - (math.log1p(math.exp(-3)) + math.log1p(math.exp(-1))) / 2
    assert float(value_of(by_estimate.scores)) == pytest.approx(wanted, abs=1e-6)


@pytest.mark.parametrize("seed", range(5))
def test_the_score_is_the_estimate_where_negatives_do_not_depend_on_the_region(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    owner = torch.tensor([0, 1, 2, 1, 0, 3])
    table = torch.randn(4, 1, 6, generator=generator).expand(-1, 7, -1).clone()
    for sentence, image in enumerate(owner.tolist()):  # only its own sentences tell regions apart
        table[image, :, sentence] = torch.randn(7, generator=generator)
    one, other = (maximum_over_regions(Table(), table, torch.eye(6), owner=owner, select_by=by) for by in ("estimate", "score"))
    assert one.region.equal(other.region) and one.scores.marginal.equal(other.scores.marginal)


def test_they_differ_elsewhere() -> None:
    regions, sentences, owner = features(20, 8, X), features(20, Y, seed=1), torch.arange(20)
    critic = made("bilinear")
    one, other = (maximum_over_regions(critic, regions, sentences, owner=owner, select_by=by) for by in ("estimate", "score"))
    assert not one.region.equal(other.region)


@both_ways
def test_a_sentence_without_negatives_chooses_by_its_score(select_by: SelectBy) -> None:
    table = torch.tensor([[[1.0, 5.0], [4.0, 9.0], [2.0, 0.0]]])
    found = maximum_over_regions(Table(), table, torch.eye(2), owner=torch.tensor([0, 0]), select_by=select_by)
    assert found.region.tolist() == [1, 1] and not found.scores.negative.any()


@every_critic
@both_ways
def test_one_region_is_global_with_global(name: str, select_by: SelectBy) -> None:
    critic = made(name)
    regions, sentences, groups = features(6, 1, X), features(6, Y, seed=1), (torch.tensor([0, 1, 2, 1, 3, 4]),)
    found = maximum_over_regions(critic, regions, sentences, owner=torch.arange(6), groups=groups, select_by=select_by)
    wanted = contrast(critic, regions[:, 0], sentences, groups=groups)
    assert found.region.tolist() == [0] * 6 and found.scores.negative.equal(wanted.negative)
    tensors = [regions, sentences, *critic.parameters()]
    for bound in BOUNDS:
        one, other = (Objective(critic, bound=bound).of(scores) for scores in (found.scores, wanted))
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-12)
        gradients = (torch.autograd.grad(value, tensors, retain_graph=True) for value in (one, other))
        for ours, theirs in zip(*gradients, strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)


@every_critic
@both_ways
@every_owner
def test_the_order_of_regions_does_not_matter(name: str, select_by: SelectBy, owners: str) -> None:
    critic = made(name)
    regions, sentences, owner = batch_of(owners)
    generator = torch.Generator().manual_seed(3)
    orders = torch.stack([torch.randperm(REGIONS, generator=generator) for _ in range(4)])
    found = maximum_over_regions(critic, regions, sentences, owner=owner, select_by=select_by)
    moved = torch.stack([image[order] for image, order in zip(regions, orders, strict=True)])
    again = maximum_over_regions(critic, moved, sentences, owner=owner, select_by=select_by)
    assert orders[owner, again.region].equal(found.region)
    torch.testing.assert_close(again.scores.marginal, found.scores.marginal, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(value_of(again.scores), value_of(found.scores), rtol=1e-12, atol=1e-12)


@both_ways
def test_the_order_of_sentences_and_images_does_not_matter(select_by: SelectBy) -> None:
    critic = made("concat")
    regions, sentences, owner = batch_of("several")
    group = torch.tensor([0, 1, 2, 3, 0, 4, 5])
    found = maximum_over_regions(critic, regions, sentences, owner=owner, groups=(group,), select_by=select_by)
    order, images = torch.tensor([4, 2, 6, 0, 1, 5, 3]), torch.tensor([2, 0, 3, 1])  # new image i was images[i]
    place = torch.argsort(images)
    again = maximum_over_regions(
        critic, regions[images], sentences[order], owner=place[owner[order]], groups=(group[order],), select_by=select_by
    )
    assert again.region.equal(found.region[order])
    assert again.scores.negative.equal(found.scores.negative[order][:, order])
    torch.testing.assert_close(again.scores.marginal, found.scores.marginal[order][:, order], rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(value_of(again.scores), value_of(found.scores), rtol=1e-12, atol=1e-12)


# --------------------------------------------------------------------------------------------------------------- gradient


@every_critic
@both_ways
@every_owner
def test_only_chosen_regions_learn(name: str, select_by: SelectBy, owners: str) -> None:
    critic = made(name)
    regions, sentences, owner = batch_of(owners)
    found = maximum_over_regions(critic, regions, sentences, owner=owner, select_by=select_by)
    # A batch of one report says nothing; there any sum of scores will do.
    total = found.scores.marginal.sum() if owners == "all of one" else value_of(found.scores)
    total.backward()
    assert regions.grad is not None
    chosen = torch.zeros(4, REGIONS, dtype=torch.bool)
    chosen[owner, found.region] = True
    assert regions.grad[~chosen].eq(0.0).all()
    assert regions.grad[chosen].ne(0.0).any(-1).all()


@pytest.mark.parametrize("bound", BOUNDS)
@pytest.mark.parametrize("case", ["one image", "one study", "one sentence", "one text"])
def test_a_batch_of_one_study_says_nothing(bound: str, case: str) -> None:
    """The value is 0, and so is every gradient, exactly."""
    critic = made("concat")
    owner = torch.tensor({"one image": [1, 1, 1], "one sentence": [2]}.get(case, [2, 0, 1]))
    regions, sentences = features(3, REGIONS, X), features(len(owner), Y, seed=1)
    groups = {"one study": (torch.arange(3), torch.tensor([7, 7, 7])), "one text": (group_numbers(["no finding"] * 3),)}.get(
        case, ()
    )
    objective = Objective(critic, bound=bound)
    value = objective.of(maximum_over_regions(critic, regions, sentences, owner=owner, groups=groups).scores)
    assert float(value.detach()) == 0.0
    value.backward()
    for tensor in (regions, sentences, *critic.parameters()):
        assert tensor.grad is not None and tensor.grad.eq(0.0).all()


def test_sentences_of_the_same_report_never_serve() -> None:
    """Whatever a sentence scores with those of its report or of its group: no value changes by a bit."""
    regions, sentences, owner = batch_of("several")
    groups = (torch.tensor([0, 1, 2, 3, 4, 5, 1]),)
    scores = maximum_over_regions(made("concat"), regions, sentences, owner=owner, groups=groups).scores
    same = torch.tensor(kin(owner, groups))
    # within image 3; within images 0 and 1, and of each sentence there with the one of the other image that is of its group
    assert int(same.sum()) == 3 * 3 + 2 * (2 * 2 + 2)
    poisoned = scores.marginal.masked_fill(same, math.nan)
    for function in (bounds.donsker_varadhan, bounds.nwj, bounds.info_nce, bounds.jensen_shannon):
        value = function(scores.joint, scores.marginal, scores.negative)
        assert function(scores.joint, poisoned, scores.negative).equal(value) and bool(value.isfinite())


def poisoned_outcomes(name: str, select_by: SelectBy) -> list[tuple[list[Tensor], list[Tensor]]]:
    """Values and gradients with sound and with poisoned regions of image 2, which no sentence owns."""
    outcomes = []
    for poison in (False, True):
        critic = made(name)
        regions, sentences, owner = batch_of("several")
        if poison:
            with torch.no_grad():
                regions[2] = math.nan
        found = maximum_over_regions(critic, regions, sentences, owner=owner, select_by=select_by)
        value = value_of(found.scores)
        gradients = torch.autograd.grad(value, [regions, sentences, *critic.parameters()])
        outcomes.append(([value, found.scores.joint, found.scores.marginal, found.region], list(gradients)))
    return outcomes


@every_critic
@both_ways
def test_poison_in_an_image_without_sentences_reaches_no_value(name: str, select_by: SelectBy) -> None:
    (sound, _), (poisoned, _) = poisoned_outcomes(name, select_by)
    for one, other in zip(sound, poisoned, strict=True):
        torch.testing.assert_close(other, one, rtol=0, atol=0)


@every_critic
@both_ways
def test_poison_in_an_image_without_sentences_reaches_no_gradient(name: str, select_by: SelectBy) -> None:
    (_, sound), (_, poisoned) = poisoned_outcomes(name, select_by)
    for one, other in zip(sound, poisoned, strict=True):
        torch.testing.assert_close(other, one, rtol=0, atol=0)


@pytest.mark.parametrize("select_by", ["estimate", "score"])
@pytest.mark.parametrize("images", [0, 2])
def test_without_sentences_there_is_nothing_to_choose(select_by: SelectBy, images: int) -> None:
    critic = made("bilinear")
    regions, sentences = features(images, REGIONS, X), features(0, Y)
    found = maximum_over_regions(critic, regions, sentences, owner=torch.zeros(0, dtype=torch.int64), select_by=select_by)
    assert found.region.shape == (0,) and found.scores.marginal.shape == (0, 0)
    value = value_of(found.scores)
    value.backward()
    assert float(value.detach()) == 0.0 and regions.grad is not None and not regions.grad.any()


def test_an_image_for_every_sentence() -> None:
    with pytest.raises(ConfigError) as error:
        maximum_over_regions(made("bilinear"), features(4, 2, X), features(3, Y), owner=torch.tensor([0, 1]))
    assert str(error.value) == "owner must name the image of each sentence (3); got 2. Give one index per sentence."
    with pytest.raises(ConfigError, match=r"^groups must have one entry per item \(3\); got 2\. "):
        maximum_over_regions(
            made("bilinear"), features(4, 2, X), features(3, Y), owner=torch.tensor([0, 1, 2]), groups=(torch.tensor([0, 1]),)
        )


# ----------------------------------------------------------------------------------------------------------- soft maximum


@both_ways
@every_owner
def test_a_soft_maximum_by_a_slow_loop(select_by: SelectBy, owners: str) -> None:
    critic, t = made("concat"), 0.7
    regions, sentences, owner = batch_of(owners)
    found = maximum_over_regions(critic, regions, sentences, owner=owner, select_by=select_by, temperature=t)
    alike = kin(owner, ())
    for s, image in enumerate(owner.tolist()):
        values = []
        for region in regions[image]:
            own, *rest = (float(critic(region, sentences[k]).detach()) for k in [s, *(k for k in range(len(owner)))])
            others = [score for k, score in enumerate(rest) if not alike[s][k]]
            values.append(own - (math.log(math.fsum(map(math.exp, others))) if others and select_by == "estimate" else 0))
        weights = torch.tensor(values, dtype=torch.float64).div(t).softmax(0)
        for k, sentence in enumerate(sentences):
            wanted = sum(float(w) * critic(region, sentence) for w, region in zip(weights, regions[image], strict=True))
            torch.testing.assert_close(found.scores.marginal[s, k], torch.as_tensor(wanted), rtol=1e-10, atol=1e-10)


@every_critic
@both_ways
def test_a_soft_maximum_goes_to_the_maximum_and_to_the_mean(name: str, select_by: SelectBy) -> None:
    critic = made(name)
    regions, sentences, owner = batch_of("several")
    hard = maximum_over_regions(critic, regions, sentences, owner=owner, select_by=select_by)
    cold = maximum_over_regions(critic, regions, sentences, owner=owner, select_by=select_by, temperature=1e-6)
    assert cold.region.equal(hard.region)
    torch.testing.assert_close(cold.scores.marginal, hard.scores.marginal, rtol=1e-12, atol=1e-12)
    ours, theirs = (torch.autograd.grad(value_of(found.scores), regions)[0] for found in (cold, hard))
    torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-12)
    hot = maximum_over_regions(critic, regions, sentences, owner=owner, select_by=select_by, temperature=1e9)
    mean = critic.all_pairs(regions.flatten(0, 1), sentences).view(4, REGIONS, -1).mean(1)[owner]
    torch.testing.assert_close(hot.scores.marginal, mean, rtol=1e-6, atol=1e-6)


def test_a_soft_maximum_has_a_temperature_of_0_or_more() -> None:
    with pytest.raises(ConfigError, match=r"temperature must be 0 or more; got -1"):
        maximum_over_regions(made("bilinear"), *batch_of("one each")[:2], owner=torch.arange(4), temperature=-1)


# --------------------------------------------------------------------------------------------------------------- training

PLACES, STATES, WIDTH = 16, 4, 16


class Reports:
    """Each image has 16 regions in one of 4 states; its sentence names one region at random and that region's state."""

    def __init__(self, seed: int) -> None:
        self.generator = torch.Generator().manual_seed(seed)
        self.states = torch.randn(STATES, WIDTH, generator=self.generator)
        self.places = torch.randn(PLACES, WIDTH, generator=self.generator)

    def draw(self, count: int, noise: float = 0.5) -> tuple[Tensor, Tensor, Tensor]:
        state = torch.randint(STATES, (count, PLACES), generator=self.generator)
        regions = self.states[state] + self.places + noise * torch.randn(count, PLACES, WIDTH, generator=self.generator)
        place = torch.randint(PLACES, (count,), generator=self.generator)
        named = torch.eye(PLACES)[place], torch.eye(STATES)[state[torch.arange(count), place]]
        return regions, torch.cat(named, dim=1), place


@pytest.mark.parametrize("seed", range(3))
def test_training_finds_the_region_that_a_sentence_describes(seed: int) -> None:
    """Chance is 1/16. Eight seeds gave .27 to 1.0 after these 600 steps."""
    torch.manual_seed(seed)
    reports = Reports(seed)
    critic = SeparableCritic(WIDTH, PLACES + STATES, hidden=(64,), embedding=16)
    objective = Objective(critic, bound="info_nce")
    optimiser = torch.optim.Adam(critic.parameters(), lr=3e-3)
    for _ in range(600):
        regions, sentences, _ = reports.draw(48)
        value = objective.of(maximum_over_regions(critic, regions, sentences, owner=torch.arange(48)).scores)
        optimiser.zero_grad()
        (-value).backward()
        optimiser.step()
    regions, sentences, place = reports.draw(500)
    with torch.no_grad():
        chosen = maximum_over_regions(critic, regions, sentences, owner=torch.arange(500)).region
    assert float((chosen == place).double().mean()) > 2 / PLACES
