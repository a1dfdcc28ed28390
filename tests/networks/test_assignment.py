"""Who predicts what: assignments as the user writes them, each mistake with its text, and how opinions become one."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from comodal.errors import ConfigError
from comodal.method import Problem
from comodal.modality import Modality, Target
from comodal.networks.assignment import BRATS, Opinion, Share, ensemble, narrowed, nested_regions, share_out
from comodal.testing import make_batch

SEQUENCES = ("flair", "t1", "t1ce", "t2")
NESTED = Target("seg", "regions", ("WT", "TC", "ET"), ((1, 2, 4), (1, 4), (4,)), (2, 1, 4))
ORGANS = Target("organs", "labels", ("background", "liver", "spleen"), ((0,), (1,), (2,)), (0, 1, 2))
GRADE = Target("grade", "class", ("low", "high"))


def problem(*targets: Target, names: Sequence[str] = SEQUENCES) -> Problem:
    return Problem(tuple(Modality(n) for n in names), targets or (NESTED,), 2, (8, 8))


def owned(shares: Sequence[Share], *, spare: bool = False) -> dict[str, list[str]]:
    """{segmentor: "target.class" of what it owns}."""
    return {
        share.name: [f"{t.name}.{c}" for t in (share.spare if spare else share.owned) for c in t.classes] for share in shares
    }


# ------------------------------------------------------------------------------------------------ what is written
def test_the_default_on_brats_is_that_of_the_paper() -> None:
    """Table 6, last row: six pairs of a modality and a region."""
    shares = share_out(problem(), None)
    assert owned(shares) == {"flair": ["seg.WT"], "t1": ["seg.TC"], "t1ce": ["seg.TC", "seg.ET"], "t2": ["seg.WT", "seg.TC"]}
    assert owned(shares, spare=True) == {
        "flair": ["seg.TC", "seg.ET"],
        "t1": ["seg.WT", "seg.ET"],
        "t1ce": ["seg.WT"],
        "t2": ["seg.ET"],
    }
    assert sum(len(names) for names in owned(shares).values()) == 6 == sum(map(len, BRATS.values()))
    assert [share.images for share in shares] == [(name,) for name in SEQUENCES]


@pytest.mark.parametrize(
    ("targets", "names"), [((ORGANS,), SEQUENCES), ((NESTED,), SEQUENCES[:3]), ((NESTED, ORGANS), SEQUENCES)]
)
def test_elsewhere_everybody_predicts_everything(targets: tuple[Target, ...], names: tuple[str, ...]) -> None:
    for share in share_out(problem(*targets, names=names), None):
        assert share.owned == targets and share.spare == ()
    assert [share.name for share in share_out(problem(*targets, names=names), None)] == list(names)


@pytest.mark.parametrize(
    "row",
    [
        {"flair": ["TC"], "t1": ["TC", "ET"], "t2": ["WT"], "t1ce": ["TC"]},
        {"flair": ["WT"], "t1": ["WT"], "t2": ["TC"], "t1ce": ["TC", "ET"]},
        {"flair": ["WT"], "t1": ["WT", "TC"], "t2": ["TC"], "t1ce": ["ET"]},
        {"flair": ["WT"], "t1": ["WT", "TC"], "t2": ["WT", "TC"], "t1ce": ["TC", "ET"]},
        {"flair": ["WT"], "t1": ["TC"], "t2": ["WT", "TC"], "t1ce": ["TC", "ET"]},
    ],
)
def test_each_row_of_table_6(row: dict[str, list[str]]) -> None:
    assert owned(share_out(problem(), row)) == {name: [f"seg.{r}" for r in row[name]] for name in SEQUENCES}


def test_a_part_of_a_target_keeps_the_values_of_its_files() -> None:
    """Regions keep the order of the target, whatever the order in which they are written."""
    shares = {s.name: s for s in share_out(problem(), {"flair": ["ET", "WT"], "t1": ["TC"], "t1ce": [], "t2": []})}
    assert shares["flair"].owned == (Target("seg", "regions", ("WT", "ET"), ((1, 2, 4), (4,)), (2, 4)),)
    assert shares["flair"].spare == (Target("seg", "regions", ("TC",), ((1, 4),), (1,)),)
    bare = Target("seg", "regions", ("WT", "TC"))
    assert share_out(problem(bare), {"flair": ["TC"], "t1": ["WT"], "t1ce": [], "t2": []})[0].owned[0].codes == ()


def test_an_image_may_only_send_messages() -> None:
    shares = share_out(problem(), {"flair": ["WT", "TC", "ET"], "t1": [], "t1ce": [], "t2": []})
    assert owned(shares) == {"flair": ["seg.WT", "seg.TC", "seg.ET"], "t1": [], "t1ce": [], "t2": []}
    assert shares[1].spare == (NESTED,)


def test_several_images_make_one_primary() -> None:
    """Named and ordered as the cohort has them; an image may also have a part of its own."""
    shares = share_out(problem(), {"t2 + t1": ["TC"], "t1ce": ["ET"], "flair+t1ce+t1": ["WT"], "t1": []})
    assert [(share.name, share.images) for share in shares] == [
        ("flair+t1+t1ce", ("flair", "t1", "t1ce")),
        ("t1", ("t1",)),
        ("t1+t2", ("t1", "t2")),
        ("t1ce", ("t1ce",)),
    ]
    assert [share.name for share in share_out(problem(names=("a", "b")), {"a+a": ["WT", "TC", "ET"], "b": []})] == ["a", "b"]


def test_all_labels_of_a_target_belong_together() -> None:
    two = problem(ORGANS, NESTED, GRADE)
    shares = share_out(two, {"flair": ["organs"], "t1": ["WT", "organs"], "t1ce": ["TC", "ET"], "t2": []})
    assert shares[0].owned == (ORGANS,) and shares[0].spare == (NESTED,)
    assert [t.name for t in shares[1].owned] == ["organs", "seg"] and shares[1].owned[1].classes == ("WT",)
    assert shares[2].spare[0] == ORGANS and shares[3].owned == ()
    assert all(GRADE not in share.owned + share.spare for share in shares)  # it has no voxels


def test_regions_of_one_name_are_told_apart_by_their_target() -> None:
    other = replace(NESTED, name="core", classes=("TC", "necrosis", "cyst"))
    assert owned(share_out(problem(NESTED, other, names=("a", "b")), {"a": ["WT", "core.TC"], "b": _others()})) == {
        "a": ["seg.WT", "core.TC"],
        "b": ["seg.TC", "seg.ET", "core.necrosis", "core.cyst"],
    }


def _others() -> list[str]:
    return ["seg.TC", "ET", "necrosis", "cyst"]


def test_a_region_twice_in_a_list_is_one() -> None:
    shares = share_out(problem(), {"flair": ["WT", "WT"], "t1": ["TC"], "t1ce": ["ET"], "t2": []})
    assert owned(shares)["flair"] == ["seg.WT"]


@pytest.mark.parametrize(
    ("assignment", "says"),
    [
        (
            {"fliar": ["WT"], "t1": [], "t1ce": [], "t2": ["TC", "ET"]},
            "must name images; got 'fliar'. Did you mean flair? Known: flair, t1, t1ce, t2.",
        ),
        (
            {"flair+T1": ["WT", "TC", "ET"], "t1": [], "t1ce": [], "t2": []},
            "must name images; got 'T1'. Known: flair, t1, t1ce, t2.",
        ),
        (
            {"flair": ["WC"], "t1": [], "t1ce": [], "t2": ["TC", "ET"]},
            "must give known regions to flair; got 'WC'. Known: ET, TC, WT.",
        ),
        (
            {"flair": ["WT"], "t1ce": ["TC", "ET"]},
            "must have every image; got none for t1, t2. Write t1: [] for an image that only sends messages, or leave it out",
        ),
        (
            {"flair+t1": ["WT"], "t1 + flair": ["TC"], "t1ce": ["ET"], "t2": []},
            "must have each primary once; got flair+t1. Join its regions in one list.",
        ),
        (
            {"flair": ["WT"], "t1": ["TC"], "t1ce": [], "t2": []},
            "must give every region to an image; got none for ET. Add it to the regions of an image, or leave it out",
        ),
        (
            {"flair": [], "t1": [], "t1ce": [], "t2": []},
            "must give every region to an image; got none for WT, TC, ET. Add it to the regions of an image.",
        ),
    ],
)
def test_mistakes_are_told(assignment: dict[str, list[str]], says: str) -> None:
    with pytest.raises(ConfigError) as caught:
        share_out(problem(), assignment)
    tail = {"have every image": " of data.modalities.", "got none for ET": " by data.regions: [WT, TC]."}
    assert str(caught.value) == f"method.assignment {says}" + "".join(more for part, more in tail.items() if part in says)


def test_a_region_name_of_two_targets_alone_is_refused() -> None:
    other = replace(NESTED, name="core")
    with pytest.raises(ConfigError, match=r"give known regions to flair; got 'WT'"):
        share_out(problem(NESTED, other), {"flair": ["WT"], "t1": [], "t1ce": [], "t2": []})


# ------------------------------------------------------------------------------------------------ what each learns from
def test_a_batch_has_what_a_share_owns() -> None:
    made_for = problem(NESTED, ORGANS)
    batch = make_batch(made_for, 3)
    by_region = torch.tensor([[True, False, True]] * 3)
    batch = replace(batch, labelled={**batch.labelled, "seg": by_region})
    shares = {s.name: s for s in share_out(made_for, {"flair": ["ET", "WT"], "t1": ["TC", "organs"], "t1ce": [], "t2": []})}
    found = narrowed(batch, made_for.targets, shares["flair"].owned)
    assert set(found.targets) == {"seg"}
    assert torch.equal(found.targets["seg"], batch.targets["seg"][:, [0, 2]]) and found.labelled["seg"].all()
    found = narrowed(batch, made_for.targets, shares["t1"].owned)
    assert torch.equal(found.targets["seg"], batch.targets["seg"][:, [1]]) and not found.labelled["seg"].any()
    assert found.targets["organs"] is batch.targets["organs"] and found.labelled["organs"] is batch.labelled["organs"]
    whole = replace(batch, labelled={"seg": torch.tensor([True, False, True]), "organs": batch.labelled["organs"]})
    found = narrowed(whole, made_for.targets, shares["flair"].owned)
    assert found.labelled["seg"].tolist() == [True, False, True]


def test_a_target_that_no_row_has_is_left_out() -> None:
    made_for = problem(NESTED, ORGANS)
    batch = make_batch(made_for, 2)
    none = replace(batch, targets={"organs": batch.targets["organs"]}, labelled={"organs": batch.labelled["organs"]})
    found = narrowed(none, made_for.targets, (NESTED,))
    assert found.targets == {} and found.labelled == {}


# ------------------------------------------------------------------------------------------------ what all say together
def said(rows: Sequence[int], *targets: Target, seed: int) -> Opinion:
    generator = torch.Generator().manual_seed(seed)
    values = {t.name: torch.rand((len(rows), len(t.classes), 2, 2), generator=generator) for t in targets}
    return Opinion(torch.tensor(rows, dtype=torch.int64), targets, values)


def part(*names: str) -> Target:
    return replace(NESTED, classes=names, codes=(), paint=())


def slow(opinions: Sequence[Opinion], spare: Sequence[Opinion], *, row: int, target: str, name: str | None) -> Tensor:
    """The mean over those who speak of one class, or of all labels, in one row."""
    for group in (opinions, spare):
        heard = []
        for opinion in group:
            for one in opinion.targets:
                if one.name == target and row in opinion.rows.tolist() and (name is None or name in one.classes):
                    value = opinion.probabilities[target][opinion.rows.tolist().index(row)]
                    heard.append(value if name is None else value[one.classes.index(name)])
        if heard:
            return sum(heard[1:], heard[0]) / len(heard)
    return torch.zeros(2, 2) if name else torch.zeros(3, 2, 2)


@pytest.mark.parametrize("complete", [True, False])
def test_a_region_is_the_mean_of_its_owners(complete: bool) -> None:
    every = [0, 1, 2, 3]
    rows = [every] * 4 if complete else [[0, 2], [1, 2, 3], [2], [0, 3]]
    owners = [
        said(rows[0], part("WT", "ET"), seed=0),
        said(rows[1], part("TC"), ORGANS, seed=1),
        said(rows[2], part("WT", "TC"), seed=2),
        said(rows[3], ORGANS, part("WT"), seed=3),
    ]
    spare = [said([1, 3], part("ET"), seed=4), said([0, 1, 2, 3], part("TC", "WT"), ORGANS, seed=5)]
    found = ensemble(owners, (NESTED, ORGANS, GRADE), 4, spare=spare)
    assert {name: tuple(value.shape) for name, value in found.items()} == {"seg": (4, 3, 2, 2), "organs": (4, 3, 2, 2)}
    for row in every:
        for k, name in enumerate(NESTED.classes):
            expected = slow(owners, spare, row=row, target="seg", name=name)
            torch.testing.assert_close(found["seg"][row, k], expected)
        expected = slow(owners, spare, row=row, target="organs", name=None)
        torch.testing.assert_close(found["organs"][row], expected)
    if complete:  # one owner: its probability; three: the arithmetic mean
        assert torch.equal(found["seg"][:, 2], owners[0].probabilities["seg"][:, 1])
        three = [owners[at].probabilities["seg"][:, 0] for at in (0, 2, 3)]
        torch.testing.assert_close(found["seg"][:, 0], torch.stack(three).mean(0))


def test_the_others_say_nothing_where_an_owner_does() -> None:
    owner, other = said([0, 1], part("WT"), seed=0), said([0, 1], part("WT"), seed=1)
    wt = part("WT")
    found = ensemble([owner], (wt,), 2, spare=[other])["seg"]
    assert torch.equal(found, owner.probabilities["seg"])
    only = Opinion(torch.tensor([1]), (wt,), {"seg": owner.probabilities["seg"][1:]})
    found = ensemble([only], (wt,), 2, spare=[other])["seg"]
    assert torch.equal(found[0], other.probabilities["seg"][0]) and torch.equal(found[1], owner.probabilities["seg"][1])


def test_a_row_does_not_depend_on_who_else_is_in_the_batch() -> None:
    """To the bit, also where the others need the slower way."""
    owners = [said([0, 1, 2], part("WT"), seed=seed) for seed in range(3)]
    fewer = [owners[0], *[Opinion(o.rows[1:], o.targets, {"seg": o.probabilities["seg"][1:]}) for o in owners[1:]]]
    whole, some = (ensemble(group, (part("WT"),), 3)["seg"] for group in (owners, fewer))
    assert torch.equal(whole[1:], some[1:]) and torch.equal(some[0], owners[0].probabilities["seg"][0])


# ------------------------------------------------------------------------------------------------ nested regions
@pytest.mark.parametrize("threshold", [0.1, 0.5, 0.9])
@pytest.mark.parametrize("inside_out", [("ET", "TC", "WT"), ("ET", "WT"), ("TC", "ET", "WT"), ()])
def test_at_any_threshold_a_region_becomes_a_union(threshold: float, inside_out: tuple[str, ...]) -> None:
    values: Mapping[str, Tensor] = said(range(5), NESTED, ORGANS, seed=1).probabilities
    found = nested_regions(values, (NESTED, ORGANS), inside_out)
    assert found["organs"] is values["organs"]
    before = {name: values["seg"][:, k] > threshold for k, name in enumerate(NESTED.classes)}
    inside = torch.zeros(5, 2, 2, dtype=torch.bool)
    for name in inside_out:
        inside = before[name] = before[name] | inside
    for k, name in enumerate(NESTED.classes):
        assert torch.equal(found["seg"][:, k] > threshold, before[name]), name


def test_nesting_changes_nothing_that_is_nested() -> None:
    values = said(range(4), NESTED, seed=2).probabilities
    sorted_ = {"seg": values["seg"].sort(dim=1, descending=True).values}
    assert torch.equal(nested_regions(sorted_, (NESTED,), ("ET", "TC", "WT"))["seg"], sorted_["seg"])
    order = list("abc")
    random.Random(0).shuffle(order)
    assert torch.equal(nested_regions(values, (NESTED,), order)["seg"], values["seg"])  # names of no region here
