from __future__ import annotations

import hashlib
import itertools
import math
from collections import Counter
from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from comodal.errors import ConfigError
from comodal.information import bounds
from comodal.information.critics import ConcatCritic, Critic
from comodal.information.estimators import ESTIMATORS
from comodal.information.pairs import (
    Exchange,
    Negatives,
    Scores,
    contrast,
    cyclic_shift,
    derangement,
    draw_locations,
    group_numbers,
    same_group,
    sample_locations,
    tokens,
)

X, Y, CASES = 3, 2, 5
KINDS = {
    "global with global": ((), (), False),
    "local with global": ((4,), (), False),
    "global with local": ((), (3,), False),
    "local with local": ((4,), (3,), False),
    "aligned": ((4,), (4,), True),
}
WEIGHT = torch.tensor([[1.0, -2.0], [0.5, 3.0], [-1.5, 0.25]], dtype=torch.float64)


def toy_score(x: Tensor, y: Tensor) -> Tensor:
    """An asymmetric score of one x and one y."""
    return torch.sin(x @ WEIGHT @ y + x.square().sum() - 3 * y.sum())


class Toy(Critic):
    """`toy_score` for all pairs; counts the items that it encodes."""

    def __init__(self) -> None:
        super().__init__()
        self.encoded: Counter[str] = Counter()

    def encode_x(self, x: Tensor) -> Tensor:
        self.encoded["x"] += x.shape[:-1].numel()
        return torch.cat([x @ WEIGHT, x.square().sum(-1, keepdim=True)], dim=-1)

    def encode_y(self, y: Tensor) -> Tensor:
        self.encoded["y"] += y.shape[:-1].numel()
        return torch.cat([y, 3 * y.sum(-1, keepdim=True)], dim=-1)

    def pair(self, x: Tensor, y: Tensor) -> Tensor:
        return torch.sin(x[..., :-1] @ y[..., :-1].transpose(-1, -2) + x[..., -1:] - y[..., None, :, -1])


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def features(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=seeded(seed), dtype=torch.float64).requires_grad_()


def pair_of(kind: str, cases: int = CASES) -> tuple[Tensor, Tensor, bool]:
    of_x, of_y, aligned = KINDS[kind]
    return features(cases, *of_x, X), features(cases, *of_y, Y, seed=1), aligned


def slow(x: Tensor, y: Tensor, aligned: bool, partners: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
    """Joint (..., B) and marginal (..., B, C) scores, pair by pair; `partners[i]` are the candidates of case i."""

    def at(features: Tensor, case: int, place: tuple[int, ...]) -> Tensor:
        return features[(case, *place)]

    on_x, on_y = (list(itertools.product(*(range(n) for n in t.shape[1:-1]))) for t in (x, y))
    places = list(zip(on_x, on_y, strict=True)) if aligned else list(itertools.product(on_x, on_y))
    joint = [[toy_score(at(x, i, n), at(y, i, m)) for i in range(len(x))] for n, m in places]
    marginal = [[[toy_score(at(x, i, n), at(y, j, m)) for j in partners[i]] for i in range(len(x))] for n, m in places]
    lead = x.shape[1:-1] if aligned else (*x.shape[1:-1], *y.shape[1:-1])
    stacked = (
        torch.stack([torch.stack(row) for row in joint]),
        torch.stack([torch.stack([*map(torch.stack, m)]) for m in marginal]),
    )
    return stacked[0].view(*lead, len(x)), stacked[1].view(*lead, len(x), -1)


def assert_scores(found: Scores, joint: Tensor, marginal: Tensor, items: Sequence[Tensor]) -> None:
    for value, wanted in ((found.joint, joint), (found.marginal, marginal)):
        assert value.shape == wanted.shape
        torch.testing.assert_close(value, wanted, rtol=1e-12, atol=1e-12)
    total, slow_total = (
        torch.sin(3 * j).sum() + torch.cos(2 * m).sum() for j, m in ((found.joint, found.marginal), (joint, marginal))
    )
    for one, other in zip(torch.autograd.grad(total, items), torch.autograd.grad(slow_total, items), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-10)


# --------------------------------------------------------------------------------------------------------------- contrast


@pytest.mark.parametrize("kind", KINDS)
def test_all_pairs_by_a_slow_loop(kind: str) -> None:
    x, y, aligned = pair_of(kind)
    found = contrast(Toy(), x, y, aligned=aligned)
    assert_scores(found, *slow(x, y, aligned, [range(CASES)] * CASES), [x, y])
    assert found.negative.equal(~torch.eye(CASES, dtype=torch.bool)) and found.candidates == CASES


@pytest.mark.parametrize("negatives", ["shift", "derangement"])
@pytest.mark.parametrize("kind", KINDS)
def test_one_negative_each_by_a_slow_loop(kind: str, negatives: Negatives) -> None:
    x, y, aligned = pair_of(kind)
    groups = (torch.tensor([0, 1, 0, 2, 3]), torch.tensor([0, 0, 2, 3, 1]))
    families = torch.tensor([0, 0, 0, 1, 2])  # 0 and 2 by the first grouping, 0 and 1 by the second
    partners = cyclic_shift(CASES) if negatives == "shift" else derangement(CASES, groups=families, generator=seeded(4))
    found = contrast(Toy(), x, y, groups=groups, aligned=aligned, negatives=negatives, generator=seeded(4))
    assert_scores(found, *slow(x, y, aligned, [[int(partner)] for partner in partners]), [x, y])
    kept = [[all(group[i] != group[p] for group in groups)] for i, p in enumerate(partners.tolist())]
    assert found.negative.tolist() == kept and any(row[0] for row in kept)
    assert negatives == "derangement" or not kept[0][0]
    assert found.candidates == 2


@pytest.mark.parametrize("kind", KINDS)
def test_a_concat_critic_gives_the_same_as_by_single_pairs(kind: str) -> None:
    torch.manual_seed(0)
    critic = ConcatCritic(X, Y, hidden=(6, 5)).double()
    x, y, aligned = pair_of(kind)
    found = contrast(critic, x, y, aligned=aligned)
    n, m = (2 if size else None for size in KINDS[kind][:2])
    of_x, of_y = x if n is None else x[:, n], y if m is None else y[:, m]
    place = () if n is None and m is None else (n,) if m is None or aligned else (m,) if n is None else (n, m)
    torch.testing.assert_close(found.marginal[place], critic(of_x[:, None], of_y[None]), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(found.joint[place], critic(of_x, of_y), rtol=1e-12, atol=1e-12)


def test_every_item_is_encoded_once() -> None:
    for kind, (of_x, of_y, aligned) in KINDS.items():
        critic = Toy()
        x, y, _ = pair_of(kind)
        contrast(critic, x, y, aligned=aligned)
        assert critic.encoded == {"x": CASES * math.prod(of_x), "y": CASES * math.prod(of_y)}


@pytest.mark.parametrize("kind", KINDS)
def test_the_mask_of_negatives_by_a_slow_loop(kind: str) -> None:
    x, y, aligned = pair_of(kind)
    study, text = torch.tensor([7, 7, -1, 3, 4]), torch.tensor([0, 1, 2, 1, 1])
    for groups in ((), (study,), (text,), (study, text)):
        found = contrast(Toy(), x, y, groups=groups, aligned=aligned)
        for i, j in itertools.product(range(CASES), repeat=2):
            alike = i == j or any(int(group[i]) == int(group[j]) for group in groups)
            assert bool(found.negative[i, j]) is not alike


@pytest.mark.parametrize("kind", ["local with local", "local with global", "aligned"])
def test_other_locations_of_the_same_case_never_serve(kind: str) -> None:
    """Whatever the scores of a case with its own other locations and with its group: no value changes by a bit."""
    x, y, aligned = pair_of(kind)
    found = contrast(Toy(), x, y, aligned=aligned, groups=(torch.tensor([0, 1, 1, 2, 3]),))
    poisoned = found.marginal.detach().clone()
    for i, j in ((0, 0), (1, 1), (2, 2), (3, 3), (4, 4), (1, 2), (2, 1)):
        poisoned[..., i, j] = math.nan
    for function in (bounds.donsker_varadhan, bounds.nwj, bounds.info_nce, bounds.jensen_shannon):
        value = function(found.joint, found.marginal, found.negative)
        assert function(found.joint, poisoned, found.negative).equal(value) and bool(value.isfinite())


def test_a_single_case_and_no_case_have_no_negative() -> None:
    for cases, kind in itertools.product((0, 1), KINDS):
        x, y, aligned = pair_of(kind, cases)
        for negatives in ("all", "shift", "derangement"):
            found = contrast(Toy(), x, y, aligned=aligned, negatives=negatives)
            assert not found.negative.any() and found.candidates == 1 and found.joint.shape[-1] == cases
            value = bounds.info_nce(found.joint, found.marginal, found.negative)
            assert float(value.detach()) == 0.0


def test_a_derangement_of_contrast_follows_its_generator() -> None:
    x, y, _ = pair_of("global with global")
    one, again = (contrast(Toy(), x, y, negatives="derangement", generator=seeded(3)).marginal for _ in range(2))
    others = [contrast(Toy(), x, y, negatives="derangement", generator=seeded(seed)).marginal for seed in range(10)]
    assert one.equal(again) and not all(other.equal(one) for other in others)


def test_two_numbers_of_cases_are_refused() -> None:
    with pytest.raises(ConfigError) as error:
        contrast(Toy(), torch.zeros(4, X), torch.zeros(5, Y))
    rule = "x and y must be (B, D) or (B, N, D) and hold the same cases"
    assert str(error.value) == f"{rule}; got (4, 3) and (5, 2). Use `tokens` for maps."
    with pytest.raises(ConfigError) as error:
        contrast(Toy(), torch.zeros(4, X, 2, 2), torch.zeros(4, Y))
    assert str(error.value) == f"{rule}; got (4, 3, 2, 2) and (4, 2). Use `tokens` for maps."


@pytest.mark.parametrize("negatives", ["all", "shift"])
@pytest.mark.parametrize(("of_x", "of_y"), [((), ()), ((4,), ()), ((4,), (3,))])
def test_unequal_locations_cannot_be_aligned(of_x: tuple[int, ...], of_y: tuple[int, ...], negatives: Negatives) -> None:
    x, y = torch.zeros(2, *of_x, X), torch.zeros(2, *of_y, Y)
    with pytest.raises(ConfigError) as error:
        contrast(Toy(), x, y, aligned=True, negatives=negatives)
    rule = "x and y must have the same locations to be compared position by position"
    assert str(error.value) == f"{rule}; got {tuple(x.shape)} and {tuple(y.shape)}. Leave out `aligned`."


def test_a_group_for_every_item() -> None:
    with pytest.raises(ConfigError) as error:
        contrast(Toy(), features(4, X), features(4, Y), groups=(torch.zeros(4), torch.zeros(3)))
    text = "groups must have one entry per item (4); got 3. Give the group of every item of the batch."
    assert str(error.value) == text


# ----------------------------------------------------------------------------------------------------------------- groups


def test_numbers_of_groups_are_the_same_everywhere() -> None:
    """Hard-coded: python's own hash differs from process to process, and a change would tear groups apart."""
    numbers = group_numbers(["no finding", b"no finding", "", "Pneumothorax \N{GREEK SMALL LETTER ALPHA}"])
    assert numbers.dtype == torch.int64 and numbers[:2].tolist() == [1566682852710271665] * 2
    digest = hashlib.blake2b("Pneumothorax α".encode(), digest_size=8).digest()
    assert int(numbers[3]) == int.from_bytes(digest, "big", signed=True)
    assert len(set(numbers.tolist())) == 3
    assert group_numbers([]).shape == (0,) and group_numbers([]).dtype == torch.int64


def test_numbers_of_many_texts_differ_and_take_both_signs() -> None:
    numbers = group_numbers(f"study {n}" for n in range(5000))
    assert len(set(numbers.tolist())) == 5000 and 2300 < int((numbers < 0).sum()) < 2700


def test_pairs_of_a_group_in_any_grouping() -> None:
    rows, columns = (torch.tensor([1, 2]), torch.tensor([5, 6])), (torch.tensor([2, 1, 3]), torch.tensor([5, 7, 6]))
    assert same_group(rows, columns, shape=(2, 3)).tolist() == [[True, True, False], [True, False, True]]
    assert same_group((), (), shape=(2, 3)).tolist() == [[False] * 3] * 2
    with pytest.raises(ConfigError, match=r"^groups must have one entry per item \(2, 3\); got \(2, 2\)\. "):
        same_group(rows, rows, shape=(2, 3))


def test_repeated_sentences_change_nothing() -> None:
    """InfoNCE with the texts as groups is InfoNCE of a loop that leaves equal sentences out."""
    texts = ["no finding", "effusion", "no finding", "opacity", "no finding", "effusion"]
    x, y = features(6, X), features(6, Y, seed=1)
    with torch.no_grad():
        y[2], y[4], y[5] = y[0], y[0], y[1]
    scores = contrast(Toy(), x, y, groups=(group_numbers(texts),))
    rows = []
    for i, text in enumerate(texts):
        others = [float(toy_score(x[i], y[j]).detach()) for j in range(6) if texts[j] != text]
        own = float(toy_score(x[i], y[i]).detach())
        rows.append(own - math.log(math.fsum(map(math.exp, [own, *others]))) + math.log(1 + len(others)))
    value = bounds.info_nce(scores.joint, scores.marginal, scores.negative)
    assert float(value.detach()) == pytest.approx(math.fsum(rows) / 6, abs=1e-12)
    assert scores.candidates == 6  # of "opacity"; "no finding" has 4
    without = contrast(Toy(), x, y)
    assert float(bounds.info_nce(without.joint, without.marginal, without.negative).detach()) != pytest.approx(
        float(value.detach())
    )


# --------------------------------------------------------------------------------------------------------------- partners


def test_a_cyclic_shift_by_a_slow_loop() -> None:
    for count, by in itertools.product(range(6), range(-2, 8)):
        assert cyclic_shift(count, by).tolist() == [(i + by) % count for i in range(count)]


@pytest.mark.parametrize("count", range(2, 10))
def test_a_derangement_has_no_fixed_point(count: int) -> None:
    for seed in range(60):
        partners = derangement(count, generator=seeded(seed))
        assert sorted(partners.tolist()) == list(range(count)) and partners.dtype == torch.int64
        assert not partners.eq(torch.arange(count)).any()


def test_a_derangement_of_one_or_none() -> None:
    assert derangement(0).tolist() == [] and derangement(1).tolist() == [0]
    assert derangement(1, groups=torch.tensor([3])).tolist() == [0]


@pytest.mark.parametrize("count", range(2, 10))
def test_a_derangement_respects_groups_where_that_can_be(count: int) -> None:
    respected = 0
    for seed in range(80):
        groups = torch.randint(-2, count - 1, (count,), generator=seeded(1000 + seed))
        partners = derangement(count, groups=groups, generator=seeded(seed))
        assert sorted(partners.tolist()) == list(range(count)) and not partners.eq(torch.arange(count)).any()
        if int(groups.unique(return_counts=True)[1].max()) <= count // 2:
            respected += 1
            assert not groups.eq(groups[partners]).any()
    assert respected > 5


def test_exactly_half_in_one_group() -> None:
    groups = torch.tensor([9, 1, 9, 2, 9, 9, 3, 4])
    for seed in range(50):
        partners = derangement(8, groups=groups, generator=seeded(seed))
        assert not groups.eq(groups[partners]).any()


def test_a_group_of_more_than_half_is_left_to_the_mask() -> None:
    groups = torch.tensor([0, 0, 0, 1, 2])
    x, y, _ = pair_of("global with global")
    for seed in range(20):
        partners = derangement(5, groups=groups, generator=seeded(seed))
        found = contrast(Toy(), x, y, groups=(groups,), negatives="derangement", generator=seeded(seed))
        assert found.negative[:, 0].equal(groups != groups[partners])
        assert 1 <= int(found.negative.sum()) <= 4  # three zeros and two others: one pair within the group at least


@pytest.mark.parametrize("groups", [None, torch.tensor([0, 1, 0, 2, 1])])
def test_every_other_partner_occurs(groups: Tensor | None) -> None:
    generator = seeded(0)
    draws = torch.stack([derangement(5, groups=groups, generator=generator) for _ in range(2000)])
    for item in range(5):
        possible = [j for j in range(5) if j != item and (groups is None or groups[j] != groups[item])]
        found = Counter(draws[:, item].tolist())
        assert sorted(found) == possible
        if groups is None:
            assert all(400 < times < 600 for times in found.values())  # 500 expected, a standard deviation of 19


@pytest.mark.parametrize("negatives", ["shift", "derangement"])
@pytest.mark.parametrize("kind", KINDS)
def test_one_negative_each_goes_into_every_bound(kind: str, negatives: Negatives) -> None:
    x, y, aligned = pair_of(kind)
    found = contrast(
        Toy(), x, y, aligned=aligned, groups=(torch.tensor([0, 0, 1, 2, 3]),), negatives=negatives, generator=seeded(0)
    )
    for name, estimator in ESTIMATORS.items():
        value = estimator.function(found.joint, found.marginal, found.negative)
        number = value[0] if isinstance(value, tuple) else value
        assert number.shape == () and bool(number.isfinite()), name
    kept = found.marginal.detach()[..., found.negative]
    wanted = found.joint.detach().mean() - kept.exp().mean().log()
    value = bounds.donsker_varadhan(found.joint, found.marginal, found.negative).detach()
    torch.testing.assert_close(value, wanted, rtol=1e-12, atol=1e-12)


# ----------------------------------------------------------------------------------------------------- scores and locations


def test_scores_of_a_matrix() -> None:
    matrix = torch.arange(9.0).view(3, 3)
    scores = Scores.of_matrix(matrix)
    assert scores.joint.tolist() == [0, 4, 8] and scores.marginal is matrix
    assert scores.negative.tolist() == [[False, True, True], [True, False, True], [True, True, False]]
    some = Scores.of_matrix(matrix, torch.tensor([[True, False, True]] * 3))
    assert some.negative.tolist() == [[False, False, True], [True, False, True], [True, False, False]]
    assert scores.candidates == 3 and some.candidates == 3
    assert Scores.of_matrix(matrix, torch.tensor([False, True, False])).candidates == 2
    lead = Scores.of_matrix(torch.randn(2, 4, 3, 3))
    assert lead.joint.shape == (2, 4, 3) and lead.joint.equal(torch.stack([lead.marginal[..., i, i] for i in range(3)], dim=-1))


def test_candidates_count_a_row_of_its_own() -> None:
    for negative, candidates in (([[True, False], [False, False]], 2), ([[False, False]] * 2, 1), ([[True, True]] * 2, 3)):
        assert Scores(torch.zeros(2), torch.zeros(2, 2), torch.tensor(negative)).candidates == candidates
    assert Scores(torch.zeros(0), torch.zeros(0, 0), torch.zeros(0, 0, dtype=torch.bool)).candidates == 1


@pytest.mark.parametrize("kind", KINDS)
def test_columns_are_seen_from_the_other_side(kind: str) -> None:
    x, y, aligned = pair_of(kind)
    scores = contrast(Toy(), x, y, aligned=aligned, groups=(torch.tensor([0, 1, 0, 2, 3]),))
    columns = scores.columns()
    assert columns.joint is scores.joint and columns.negative.equal(scores.negative.t())
    for i, j in itertools.product(range(CASES), repeat=2):
        assert columns.marginal[..., i, j].equal(scores.marginal[..., j, i])
    assert columns.columns().marginal.equal(scores.marginal)


def test_one_negative_each_cannot_be_seen_from_the_other_side() -> None:
    x, y, _ = pair_of("global with global")
    with pytest.raises(ConfigError) as error:
        contrast(Toy(), x, y, negatives="shift").columns()
    rule = "Scores.marginal must be square to be seen from the other side; got (5, 1)."
    assert str(error.value) == f"{rule} Use negatives='all', or leave out `symmetric`."


def test_alone_there_is_nothing_to_exchange() -> None:
    rows = torch.randn(3, 2)
    exchange = Exchange.of(rows)
    assert exchange == Exchange([3], 0) and exchange.offset == 0 and exchange.all(rows) is rows
    assert [Exchange([3, 0, 5], rank).offset for rank in range(3)] == [0, 3, 3]
    negative = torch.ones(3, 4, dtype=torch.bool)
    scores = exchange.joined(rows[:, 0], torch.zeros(3, 4), negative)
    assert scores.negative is negative and scores.joint.equal(rows[:, 0])


@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize("count", [1, 3, 9])
def test_locations_are_drawn_from_their_case(shared: bool, count: int) -> None:
    cases, locations = 20, 6
    maps = torch.arange(cases * locations, dtype=torch.float64).view(cases, locations, 1) * torch.tensor([1.0, -1.0]).double()
    maps.requires_grad_()
    drawn = sample_locations(maps, draw_locations(cases, locations, count, shared=shared, generator=seeded(0)))
    assert drawn.shape == (cases, count, 2) and drawn[..., 0].equal(-drawn[..., 1])
    place = drawn[..., 0].detach() - locations * torch.arange(cases)[:, None]
    assert bool(((place >= 0) & (place < locations)).all())
    assert place.eq(place[:1]).all() == shared
    assert sample_locations(maps, draw_locations(cases, locations, count, shared=shared, generator=seeded(0))).equal(drawn)
    drawn.sum().backward()
    assert maps.grad is not None
    times = torch.stack([torch.bincount(row.long(), minlength=locations) for row in place]).double()
    assert maps.grad.equal(times[..., None].expand_as(maps))  # one for each time that it was drawn, exactly 0 elsewhere


def test_two_maps_at_one_draw_stay_position_by_position() -> None:
    maps = torch.arange(12.0).view(2, 6, 1)
    drawn = draw_locations(2, 6, 4, shared=True, generator=seeded(0))
    x, y = sample_locations(maps, drawn), sample_locations(-maps, drawn)
    assert x.equal(-y) and bool((x[1] - x[0] == 6).all())


def test_all_locations_occur() -> None:
    drawn = sample_locations(torch.arange(5.0).view(1, 5, 1), draw_locations(1, 5, 500, generator=seeded(0)))
    counts = torch.bincount(drawn.flatten().long(), minlength=5)
    assert counts.shape == (5,) and bool(((counts > 60) & (counts < 140)).all())


@pytest.mark.parametrize("space", [(4,), (2, 3), (2, 3, 2)])
def test_tokens_keep_the_order_of_positions(space: tuple[int, ...]) -> None:
    maps = torch.randn(2, 3, *space)
    found = tokens(maps)
    assert found.shape == (2, math.prod(space), 3)
    for place, position in enumerate(itertools.product(*map(range, space))):
        at = maps
        for index in position:
            at = at[:, :, index]
        assert found[:, place].equal(at)
