"""`hemis` against the facts of its paper: sizes, invariances, the curriculum, the crops and its losses."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy

from comodal.batch import Batch, Features
from comodal.errors import ConfigError
from comodal.method import Problem
from comodal.methods.hemis import BackEnd, HeMIS, HeMISConfig, foreground, random_crop
from comodal.modality import Modality, Target
from comodal.testing import check_method, make_batch, poison

SEQUENCES = ("flair", "t1", "t1ce", "t2")
REGIONS = Target("seg", "regions", ("WT", "TC"))
LABELS = Target("organs", "labels", ("background", "liver", "spleen"))
SMALL = HeMISConfig(width=4, front_width=4)


def problem(*targets: Target, names: tuple[str, ...] = SEQUENCES[:3], patch: tuple[int, ...] = (8, 8)) -> Problem:
    return Problem(tuple(Modality(name, spatial_dims=2) for name in names), targets or (LABELS,), 2, patch)


def build(config: HeMISConfig = SMALL, made_for: Problem | None = None) -> HeMIS:
    torch.manual_seed(0)
    return HeMIS(made_for or problem(), config)


def count(module: torch.nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


@pytest.mark.parametrize(
    "config",
    [SMALL, HeMISConfig(width=4, front_width=4, crop=6, loss="ce", unbiased=True, complete=0)],
    ids=["as it is", "crops, cross-entropy, unbiased, one stage"],
)
def test_it_keeps_every_promise(config: HeMISConfig) -> None:
    check_method(HeMIS, problem(), config)


def test_it_keeps_them_with_two_targets_too() -> None:
    check_method(HeMIS, problem(LABELS, REGIONS), HeMISConfig(width=4, front_width=4, crop=6))


# ------------------------------------------------------------------------------------- the network
@pytest.mark.parametrize(("modalities", "total"), [(4, 276_005), (3, 217_109)])
def test_numbers_of_parameters(modalities: int, total: int) -> None:
    five = Target("seg", "labels", ("background", "necrosis", "edema", "solid", "enhancing"))
    method = build(HeMISConfig(), problem(five, names=SEQUENCES[:modalities]))
    assert {count(back) for back in method.back_ends.values()} == {58_896}
    assert count(method.front_end.first) == 38_416
    assert count(method.front_end.last) == 2_005
    assert count(method) == total


def test_the_last_layer_of_the_paper() -> None:
    method = build(HeMISConfig(last_kernel=21), problem(Target("seg", "labels", ("background", "tumour"))))
    assert count(method.front_end.last) == 14_114
    assert method.front_end.last.padding == (10, 10)


def test_an_even_last_kernel_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"method.last_kernel must be odd, to have a middle; got 4\. 5 is the default"):
        build(HeMISConfig(last_kernel=4))


def test_the_maximum_is_over_a_pixel_and_those_after_it() -> None:
    back = BackEnd(1, 1)
    with torch.no_grad():
        for conv in (back.first, back.second):
            conv.weight.zero_()
            conv.weight[0, 0, 2, 2] = 1.0
            conv.bias.zero_()  # type: ignore[union-attr]  # it has one
    image = torch.rand(1, 1, 5, 6)
    after = torch.nn.functional.pad(image, (0, 1, 0, 1), value=-1.0)
    by_hand = torch.stack([after[..., x : x + 5, y : y + 6] for x in (0, 1) for y in (0, 1)]).amax(dim=0)
    assert torch.equal(back(image), by_hand)


def test_the_order_of_the_modalities_does_not_matter() -> None:
    first = build().eval()
    turned = problem(names=("t1ce", "flair", "t1"))
    second = HeMIS(turned, SMALL).eval()
    second.load_state_dict(first.state_dict())  # weights are keyed by name
    batch = make_batch(problem(), 3, present=torch.tensor([[True, True, True], [True, False, True], [False, True, False]]))
    order = [batch.modalities.index(name) for name in turned.names]
    again = replace(batch, modalities=turned.names, present=batch.present[:, order])
    with torch.no_grad():
        one, two = first.predict(batch), second.predict(again)
    assert torch.allclose(one.probabilities["organs"], two.probabilities["organs"], atol=1e-6)
    assert torch.equal(one.used[:, order], two.used)


def test_two_copies_of_a_modality_say_what_one_says() -> None:
    method = build().eval()
    method.back_ends["t1"].load_state_dict(method.back_ends["flair"].state_dict())
    batch = make_batch(problem(), 2)
    twins = batch.with_inputs({**batch.inputs, "t1": batch.inputs["flair"]}).keep(["flair", "t1"])
    with torch.no_grad():
        one, two = method.predict(twins.keep(["flair"])), method.predict(twins)
    assert torch.equal(one.probabilities["organs"], two.probabilities["organs"])


def test_nothing_absent_is_read() -> None:
    method = build().eval()
    batch = make_batch(problem(), 3, present=torch.tensor([[True, False, False], [True, True, False], [False, True, False]]))
    with torch.no_grad():
        assert torch.equal(method.predict(batch).probabilities["organs"], method.predict(poison(batch)).probabilities["organs"])
        assert set(method.encode(batch)) == {"flair", "t1"}


def test_volumes_are_for_another_method() -> None:
    assert build().requires.spatial_dims == (2,)


# ------------------------------------------------------------------------------------- stages
def test_the_curriculum_shares_the_steps() -> None:
    first, second = build(HeMISConfig(width=2, steps=10, patience=3)).stages()
    assert (first.name, first.steps, first.monitor) == ("complete", 2, None)
    assert (second.name, second.steps) == ("subsets", 8)
    assert second.monitor is not None and (second.monitor.metric, second.monitor.patience) == ("DSC", 3)
    assert (first.optimisers[""].schedule, second.optimisers[""].schedule) == ("constant", "poly")
    assert [stage.name for stage in build(HeMISConfig(width=2, complete=0)).stages()] == ["subsets"]
    assert [stage.steps for stage in build(HeMISConfig(width=2, complete=0.99, steps=2)).stages()] == [1, 1]
    assert [stage.steps for stage in build(HeMISConfig(width=2, complete=0.99, steps=1)).stages()] == [1]


def test_the_first_stage_sees_all_that_a_case_has_and_the_second_subsets(monkeypatch: pytest.MonkeyPatch) -> None:
    method = build()
    seen: list[Tensor] = []
    encode = method.encode

    def watched(batch: Batch) -> dict[str, Features]:
        seen.append(batch.present)
        return encode(batch)

    monkeypatch.setattr(method, "encode", watched)
    present = torch.tensor([[True, True, True], [True, False, True]]).repeat(16, 1)
    batch = make_batch(problem(), 32, present=present)
    torch.manual_seed(0)
    for stage in method.stages():
        method.losses(batch, stage)
    assert torch.equal(seen[0], present)
    assert not torch.equal(seen[1], present) and not (seen[1] & ~present).any() and seen[1].any(dim=1).all()


# ------------------------------------------------------------------------------------- losses
def logits_are(method: HeMIS, value: list[float]) -> None:
    """Sets the last convolution to say the same everywhere."""
    with torch.no_grad():
        method.front_end.last.weight.zero_()
        method.front_end.last.bias.copy_(torch.tensor(value))  # type: ignore[union-attr]  # it has one


def test_losses_by_hand() -> None:
    method = build(made_for=problem(LABELS, REGIONS))
    logits_are(method, [0.0, 1.0, 2.0, 0.5, -0.5])
    batch = make_batch(problem(LABELS, REGIONS), 2)
    terms = method.losses(batch, method.stages()[0])
    assert set(terms) == {"dice/organs", "ce/organs", "dice/seg", "ce/seg"}
    labels = batch.targets["organs"].long()
    wide = torch.tensor([0.0, 1.0, 2.0]).reshape(1, 3, 1, 1).expand(2, 3, 8, 8)
    assert torch.allclose(terms["ce/organs"], cross_entropy(wide, labels))
    share = torch.tensor([0.0, 1.0, 2.0]).softmax(0)[1:]
    truth = torch.stack([(labels == k).sum() for k in (1, 2)]).float()
    assert torch.allclose(terms["dice/organs"], 1 - (2 * share * truth / (share * 128 + truth)).mean(), atol=1e-5)
    regions = batch.targets["seg"].float()
    wide = torch.tensor([0.5, -0.5]).reshape(1, 2, 1, 1).expand(2, 2, 8, 8)
    assert torch.allclose(terms["ce/seg"], binary_cross_entropy_with_logits(wide, regions))


def test_cross_entropy_alone_is_the_same_term() -> None:
    batch = make_batch(problem(), 2)
    both = build()
    alone = build(SMALL.model_copy(update={"loss": "ce"}))
    terms = alone.losses(batch, alone.stages()[0])
    assert set(terms) == {"ce/organs"}
    assert torch.equal(terms["ce/organs"], both.losses(batch, both.stages()[0])["ce/organs"])


def test_rows_without_label_do_not_count() -> None:
    method = build()
    batch = make_batch(problem(), 4)
    half = replace(batch, labelled={"organs": torch.tensor([True, False, True, False])})
    few = method.losses(batch.rows([0, 2]), method.stages()[0])
    for name, term in method.losses(half, method.stages()[0]).items():
        assert torch.allclose(term, few[name], atol=1e-6)
    none = replace(batch, labelled={"organs": torch.zeros(4, dtype=torch.bool)})
    assert all(float(term.detach()) == 0 for term in method.losses(none, method.stages()[0]).values())


# ------------------------------------------------------------------------------------- crops
def placed(rows: int, patch: tuple[int, int], spots: dict[int, tuple[int, int]]) -> Batch:
    """Every image and target holds the number of its voxel, so that a crop tells where it was; structures at `spots`."""
    made = make_batch(problem(LABELS, REGIONS, patch=patch), rows)
    number = torch.arange(patch[0] * patch[1]).reshape(patch)
    labels = torch.zeros((rows, *patch), dtype=torch.long)
    for row, spot in spots.items():
        labels[row][spot] = 1
    images = {name: number.float().expand(rows, 1, *patch) for name in made.modalities}
    return replace(made, inputs=images, targets={"organs": labels, "seg": torch.zeros((rows, 2, *patch), dtype=torch.uint8)})


def test_crops_lie_inside_the_patch_and_targets_stay_with_their_images() -> None:
    patch, side = (12, 9), 5
    batch = make_batch(problem(LABELS, REGIONS, patch=patch), 64)
    number = torch.arange(12 * 9).reshape(patch)
    whole = replace(
        batch,
        inputs=dict.fromkeys(batch.modalities, number.float().expand(64, 1, *patch)),
        targets={"organs": number.expand(64, *patch), "seg": number.expand(64, 2, *patch)},
        affines={"grid": torch.eye(4, dtype=torch.float64).expand(64, 4, 4)},
    )
    torch.manual_seed(0)
    cropped = random_crop(whole, (LABELS, REGIONS), side)
    assert not cropped.affines and torch.equal(cropped.present, whole.present)
    seen = set()
    for row in range(64):
        first = int(cropped.targets["organs"][row, 0, 0])
        x, y = divmod(first, 9)
        window = number[x : x + side, y : y + side]
        assert window.shape == (side, side)  # inside
        seen.add((x, y))
        assert torch.equal(cropped.targets["organs"][row], window)
        assert torch.equal(cropped.targets["seg"][row], window.expand(2, side, side))
        for name in batch.modalities:
            assert torch.equal(cropped.image(name)[row, 0], window.float())
    assert {x for x, _ in seen} == set(range(8)) and {y for _, y in seen} == set(range(5))


def test_half_of_the_crops_are_on_a_structure() -> None:
    rows, spot = 2000, (3, 40)
    batch = placed(rows, (48, 48), dict.fromkeys(range(0, rows, 2), spot))
    torch.manual_seed(0)
    cropped = random_crop(batch, (LABELS, REGIONS), 7)
    hit = cropped.targets["organs"].flatten(1).any(dim=1)
    assert not hit[1::2].any()  # rows without a structure stay without
    by_chance = 4 * 7 / 42**2  # windows of 7 that hold it, of 42 x 42: the spot is 3 from the edge
    assert float(hit[::2].float().mean()) == pytest.approx(0.5 + 0.5 * by_chance, abs=0.05)
    first = cropped.image("t1")[::2][hit[::2]][:, 0, 0, 0].long()
    middle = torch.stack([first // 48 + 3, first % 48 + 3], dim=1)
    assert (middle == torch.tensor(spot)).all(dim=1).float().mean() > 0.9


def test_a_crop_on_a_structure_at_the_edge_is_moved_inside() -> None:
    batch = placed(64, (16, 16), dict.fromkeys(range(64), (15, 0)))
    torch.manual_seed(0)
    cropped = random_crop(batch, (LABELS, REGIONS), 5)
    assert cropped.image("t1").shape == (64, 1, 5, 5)
    hit = cropped.targets["organs"].flatten(1).any(dim=1)
    assert 16 < int(hit.sum()) < 48
    assert (cropped.image("t1")[hit, 0, 0, 0] == 11 * 16).all()


def test_only_labelled_structures_draw_crops() -> None:
    batch = placed(3, (8, 8), {0: (1, 1), 1: (2, 2)})
    known = {"organs": torch.tensor([True, False, True]), "seg": torch.ones((3, 2), dtype=torch.bool)}
    batch.targets["seg"][2, 1, 5, 5] = 1
    found = foreground(replace(batch, labelled=known), (LABELS, REGIONS))
    assert found.shape == (3, 8, 8)
    assert found.nonzero().tolist() == [[0, 1, 1], [2, 5, 5]]
    known["seg"][2, 1] = False  # this region was not drawn
    assert foreground(replace(batch, labelled=known), (LABELS, REGIONS)).nonzero().tolist() == [[0, 1, 1]]


def test_a_crop_is_at_most_the_patch_and_needs_no_target() -> None:
    batch = make_batch(problem(patch=(8, 6)), 2)
    cropped = random_crop(batch, (LABELS,), 7)
    assert cropped.image("t1").shape == (2, 1, 7, 6)
    bare = replace(batch, targets={}, labelled={})
    assert random_crop(bare, (LABELS,), 3).image("t1").shape == (2, 1, 3, 3)


def test_training_crops_and_predicting_does_not() -> None:
    method = build(HeMISConfig(width=2, front_width=2, crop=4), problem(patch=(16, 12)))
    sizes: list[tuple[int, ...]] = []
    method.front_end.register_forward_pre_hook(lambda _, inputs: sizes.append(tuple(inputs[0].shape[2:])))
    batch = make_batch(problem(patch=(16, 12)), 2)
    method.losses(batch, method.stages()[0])
    method.predict(batch)
    assert sizes == [(4, 4), (16, 12)]
