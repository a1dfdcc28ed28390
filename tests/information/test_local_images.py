"""Every image at its best region: by slow loops, and what may not serve as a negative."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
import torch
from tests.information.test_local import BOUNDS, OWNERS, REGIONS, X, Y, batch_of, every_critic, every_owner, features, made
from torch import Tensor

from comodal.errors import ConfigError
from comodal.information.critics import Critic
from comodal.information.local_images import maximum_against_images, soft_maximum
from comodal.information.objective import Objective
from comodal.information.pairs import contrast


def slow(
    critic: Critic, regions: Tensor, sentences: Tensor, *, owners: list[int], groups: list[list[int]]
) -> tuple[Tensor, list[list[bool]], list[int]]:
    """(S, B) max over n of f(z_n, sentence), which are negatives, and the regions chosen, pair by pair."""
    rows, negative, chosen = list[Tensor](), list[list[bool]](), list[int]()
    for s, own in enumerate(owners):
        row, serves = list[Tensor](), list[bool]()
        for image in range(len(regions)):
            scores = torch.stack([critic(region, sentences[s]) for region in regions[image]])
            best = max(range(len(scores)), key=scores.tolist().__getitem__)
            row.append(scores[best])
            if image == own:
                chosen.append(best)
            its = [k for k, other in enumerate(owners) if other == image]
            serves.append(bool(its) and image != own and not any(group[s] == group[k] for group in groups for k in its))
        rows.append(torch.stack(row))
        negative.append(serves)
    return torch.stack(rows), negative, chosen


@every_critic
@every_owner
@pytest.mark.parametrize("grouped", [False, True])
def test_every_image_at_its_best_region_by_a_slow_loop(name: str, owners: str, grouped: bool) -> None:
    critic = made(name)
    regions, sentences, owner = batch_of(owners)
    groups = [[at // 2 for at in range(len(owner))], [5, 1, 2, 3, 5, 4, 0][: len(owner)]] if grouped else []
    found = maximum_against_images(critic, regions, sentences, owner=owner, groups=[torch.tensor(group) for group in groups])
    marginal, negative, chosen = slow(critic, regions, sentences, owners=owner.tolist(), groups=groups)
    assert found.region.tolist() == chosen and found.scores.negative.tolist() == negative
    read = found.scores.negative
    joint = marginal[torch.arange(len(owner)), owner]
    torch.testing.assert_close(found.scores.joint, joint, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(found.scores.marginal[read], marginal[read], rtol=1e-12, atol=1e-12)
    totals = [(torch.sin(3 * one).sum() + other[read].square().sum()) for one, other in
              ((found.scores.joint, found.scores.marginal), (joint, marginal))]  # fmt: skip
    tensors = [regions, sentences, *critic.parameters()]
    for ours, theirs in zip(*(torch.autograd.grad(total, tensors) for total in totals), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-10)


@every_critic
@every_owner
@pytest.mark.parametrize("temperature", [0.5, 2.0])
def test_a_soft_maximum_by_a_slow_loop(name: str, owners: str, temperature: float) -> None:
    """Every score is t log of the mean of exp(score / t), and every region of an image that is read learns."""
    critic = made(name)
    regions, sentences, owner = batch_of(owners)
    found = maximum_against_images(critic, regions, sentences, owner=owner, temperature=temperature)
    hard = maximum_against_images(critic, regions, sentences, owner=owner)
    assert found.scores.negative.equal(hard.scores.negative) and found.region.equal(hard.region)
    joint, marginal = found.scores.joint.detach(), found.scores.marginal.detach()
    for s, own in enumerate(owner.tolist()):
        for image in range(len(regions)):
            each = [math.exp(float(critic(region, sentences[s]).detach()) / temperature) for region in regions[image]]
            wanted = temperature * math.log(sum(each) / len(each))
            if image == own:
                assert float(joint[s]) == pytest.approx(wanted, abs=1e-10)
            elif found.scores.negative[s, image]:
                assert float(marginal[s, image]) == pytest.approx(wanted, abs=1e-10)
    gradient = torch.autograd.grad(found.scores.joint.sum(), regions)[0]
    assert gradient[owner.unique()].ne(0.0).any(-1).all()
    unread = [image for image in range(len(regions)) if image not in owner.tolist()]
    assert gradient[unread].eq(0.0).all()


def test_a_soft_maximum_lies_between_the_mean_and_the_maximum() -> None:
    scores = torch.randn(5, 16, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    values = [soft_maximum(scores, t, dim=1) for t in (1e6, 3.0, 1.0, 0.3, 1e-3, 0.0)]
    assert all(bool((low <= high).all()) for low, high in pairwise(values))
    torch.testing.assert_close(values[0], scores.mean(1), rtol=0, atol=1e-5)
    torch.testing.assert_close(values[-1], scores.amax(1))
    torch.testing.assert_close(values[-2], values[-1], rtol=0, atol=3e-3)
    with pytest.raises(ConfigError, match="temperature must be 0 or more"):
        maximum_against_images(made("concat"), features(4, REGIONS, X), features(4, Y), owner=torch.arange(4), temperature=-1.0)


def test_an_image_with_the_same_words_or_patient_is_no_negative() -> None:
    """Sentences 0 and 1 are of image 0, 2 of image 1, 3 and 4 of image 2, 5 of image 3; 1 and 4 have the same words."""
    owner, words = torch.tensor([0, 0, 1, 2, 2, 3]), torch.tensor([10, 11, 12, 13, 11, 14])
    patients = torch.tensor([0, 0, 1, 2, 2, 1])  # images 1 and 3 are of one patient
    given = made("concat"), features(4, REGIONS, X), features(6, Y, seed=1)
    found = maximum_against_images(*given, owner=owner, groups=[words, patients]).scores.negative
    assert found.int().tolist() == [
        [0, 1, 1, 1],
        [0, 1, 0, 1],  # image 2 has these words, too, in another sentence than its first
        [1, 0, 1, 0],
        [1, 1, 0, 1],  # these words are not said of image 0, so that it serves
        [0, 1, 0, 1],
        [1, 0, 1, 0],
    ]


@every_critic
@every_owner
def test_only_chosen_regions_learn(name: str, owners: str) -> None:
    critic = made(name)
    regions, sentences, owner = batch_of(owners)
    found = maximum_against_images(critic, regions, sentences, owner=owner)
    gradient = torch.autograd.grad(found.scores.joint.sum() + found.scores.marginal[found.scores.negative].sum(), regions)[0]
    with torch.no_grad():
        best = critic.all_pairs(regions.flatten(0, 1), sentences).view(4, REGIONS, -1).argmax(1)  # (B, S)
    used = torch.zeros(4, REGIONS, dtype=torch.bool)
    for s, own in enumerate(owner.tolist()):
        for image in [own, *found.scores.negative[s].nonzero().flatten().tolist()]:
            used[image, best[image, s]] = True
    assert gradient[~used].eq(0.0).all() and gradient[used].ne(0.0).any(-1).all() and not used.all()


@every_critic
@every_owner
def test_the_order_of_regions_does_not_matter(name: str, owners: str) -> None:
    critic = made(name)
    regions, sentences, owner = batch_of(owners)
    generator = torch.Generator().manual_seed(3)
    orders = torch.stack([torch.randperm(REGIONS, generator=generator) for _ in range(4)])
    moved = torch.stack([image[order] for image, order in zip(regions, orders, strict=True)])
    found, again = (maximum_against_images(critic, each, sentences, owner=owner) for each in (regions, moved))
    assert orders[owner, again.region].equal(found.region) and again.scores.negative.equal(found.scores.negative)
    objective = Objective(critic, bound="info_nce")
    torch.testing.assert_close(objective.of(again.scores), objective.of(found.scores), rtol=1e-12, atol=1e-12)


@every_critic
def test_one_region_is_the_global_contrast_seen_from_the_sentences(name: str) -> None:
    critic = made(name)
    regions, sentences, groups = features(6, 1, X), features(6, Y, seed=1), (torch.tensor([0, 1, 2, 1, 3, 4]),)
    found = maximum_against_images(critic, regions, sentences, owner=torch.arange(6), groups=groups)
    wanted = contrast(critic, regions[:, 0], sentences, groups=groups).columns()
    assert found.region.tolist() == [0] * 6 and found.scores.negative.equal(wanted.negative)
    tensors = [regions, sentences, *critic.parameters()]
    for bound in BOUNDS:
        one, other = (Objective(critic, bound=bound).of(scores) for scores in (found.scores, wanted))
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-12)
        gradients = (torch.autograd.grad(value, tensors, retain_graph=True) for value in (one, other))
        for ours, theirs in zip(*gradients, strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)


@every_critic
def test_an_image_without_sentences_is_not_read(name: str) -> None:
    outcomes = []
    for poison in (False, True):
        critic = made(name)
        regions, sentences, owner = batch_of("several")
        assert 2 not in OWNERS["several"]
        if poison:
            with torch.no_grad():
                regions[2] = math.nan
        found = maximum_against_images(critic, regions, sentences, owner=owner)
        value = Objective(critic, bound="info_nce").of(found.scores)
        outcomes.append([value, found.region, *torch.autograd.grad(value, [regions, sentences, *critic.parameters()])])
    for sound, poisoned in zip(*outcomes, strict=True):
        torch.testing.assert_close(poisoned, sound, rtol=0, atol=0)


@pytest.mark.parametrize("bound", BOUNDS)
@pytest.mark.parametrize("images", [0, 1, 3])
def test_without_another_image_there_is_nothing_to_tell(bound: str, images: int) -> None:
    """No image, one, or three of one patient: the value is 0, and so is every gradient, exactly."""
    critic, owner = made("concat"), torch.arange(images)
    regions, sentences = features(images, REGIONS, X), features(images, Y, seed=1)
    scores = maximum_against_images(critic, regions, sentences, owner=owner, groups=[torch.zeros_like(owner)]).scores
    value = Objective(critic, bound=bound).of(scores)
    assert float(value.detach()) == 0.0 and not scores.negative.any()
    value.backward()
    assert all(tensor.grad is not None and not tensor.grad.any() for tensor in (regions, sentences, *critic.parameters()))


def test_an_image_for_every_sentence() -> None:
    with pytest.raises(ConfigError, match=r"^owner must name the image of each sentence \(3\); got 2\. "):
        maximum_against_images(made("bilinear"), features(4, 2, X), features(3, Y), owner=torch.tensor([0, 1]))
