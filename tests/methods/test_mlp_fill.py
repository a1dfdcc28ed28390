"""Completion by a perceptron: as one voxel at a time, a loss by hand, a relation that is learned, nothing absent read."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import product

import pytest
import torch
from scipy.stats import chisquare
from torch import Tensor

from comodal.batch import Batch
from comodal.errors import ConfigError
from comodal.method import Problem
from comodal.methods import mlp_fill
from comodal.methods.mlp_fill import MLPFill, MLPFillConfig, VoxelMLP, random_parts
from comodal.modality import Modality, Target
from comodal.testing import check_method, make_batch
from comodal.testing.batches import poison
from comodal.testing.subject import same_bits

SEQUENCES = ("flair", "t1", "t2")
REGIONS = Target("seg", "regions", ("WT", "TC"), ((1, 2), (1,)), (2, 1))
LABELS = Target("organs", "labels", ("background", "liver", "spleen"), ((0,), (1,), (2,)), (0, 1, 2))


def problem(
    patch: tuple[int, ...] = (8, 8),
    target: Target = REGIONS,
    names: Sequence[str] = SEQUENCES,
    channels: Sequence[int] = (1, 1, 1),
) -> Problem:
    modalities = tuple(Modality(n, channels=c) for n, c in zip(names, channels, strict=False))
    return Problem(modalities, (target,), len(patch), patch)


def build(problem: Problem, **config: object) -> MLPFill:
    torch.manual_seed(0)
    return MLPFill(problem, MLPFillConfig.model_validate({"width": 2, "levels": 2, "hidden": (12,), **config}))


def with_background(batch: Batch) -> Batch:
    """Zero in every image where the first two rows of voxels are, as outside the head."""
    cut = {name: value.clone() for name, value in batch.inputs.items() if isinstance(value, Tensor)}
    for value in cut.values():
        value[:, :, :2] = 0
    return batch.with_inputs(cut)


def some(problem: Problem) -> Batch:
    """Four rows: everything, two images, one image, another one."""
    present = torch.tensor([[1, 1, 1], [1, 0, 1], [0, 1, 0], [0, 0, 1]], dtype=torch.bool)
    return with_background(make_batch(problem, 4, present=present))


@pytest.mark.parametrize("neighbourhood", [1, 3])
@pytest.mark.parametrize(("patch", "target"), [((8, 8), LABELS), ((8, 4, 8), REGIONS)], ids=["2-D labels", "3-D regions"])
def test_it_keeps_every_promise(neighbourhood: int, patch: tuple[int, ...], target: Target) -> None:
    config = MLPFillConfig.model_validate({"width": 4, "levels": 2, "hidden": (16,), "neighbourhood": neighbourhood})
    check_method(MLPFill, problem(patch, target), config)


# ------------------------------------------------------------------------------------------------------------ completion
def channels_at(image: Tensor, place: tuple[int, ...]) -> Tensor:
    """(C,) of an image (C, *spatial)."""
    return image.movedim(0, -1)[place]


def slowly(method: MLPFill, batch: Batch, neighbourhood: int) -> dict[str, Tensor]:
    """`complete`, one voxel at a time."""
    fill, layers = method.fill, method.fill.layers
    spatial = batch.image(fill.images[0]).shape[2:]
    out = {name: batch.image(name).clone() for name in fill.images}
    for row in range(len(batch)):
        have = [bool(batch.is_present(name)[row]) for name in fill.images]
        for place in product(*map(range, spatial)):
            if not any(bool(channels_at(batch.image(name)[row], place).any()) for name in fill.images):
                continue
            features: list[float] = []
            for step in product(range(-(neighbourhood // 2), neighbourhood // 2 + 1), repeat=len(place)):
                at = tuple(p + s for p, s in zip(place, step, strict=True))
                inside = all(0 <= p < n for p, n in zip(at, spatial, strict=True))
                for name in fill.images:
                    image = batch.image(name)[row]
                    features += channels_at(image, at).tolist() if inside else [0.0] * len(image)
            made = layers(torch.tensor([*features, *map(float, have)])).split(fill.channels)
            for name, there, value in zip(fill.images, have, made, strict=True):
                if not there:
                    out[name][row].movedim(0, -1)[place] = value
    return out


@pytest.mark.parametrize("neighbourhood", [1, 3])
@pytest.mark.parametrize("channels", [(1, 1, 1), (2, 1, 3)], ids=["one channel", "several"])
@pytest.mark.parametrize("patch", [(4, 6), (4, 4, 6)], ids=["2-D", "3-D"])
def test_completion_is_what_one_voxel_at_a_time_gives(
    neighbourhood: int, channels: tuple[int, ...], patch: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mlp_fill, "CHUNK", 7)
    method = build(problem(patch, channels=channels), neighbourhood=neighbourhood)
    batch = some(method.problem)
    with torch.no_grad():
        found, slow = method.complete(poison(batch)), slowly(method, batch, neighbourhood)
    assert found.present.all()
    for name, value in slow.items():
        assert torch.allclose(found.image(name), value, atol=1e-6), name
        there = batch.is_present(name)
        assert torch.equal(found.image(name)[there], batch.image(name)[there])
        assert found.image(name)[~there][:, :, 2:].any() and not found.image(name)[~there][:, :, :2].any()


def test_a_complete_case_is_as_it_was_and_goes_through_the_unet_alone() -> None:
    method = build(problem())
    method.eval()
    batch = make_batch(method.problem, 3)
    done = method.complete(batch)
    assert all(torch.equal(done.image(name), batch.image(name)) for name in SEQUENCES)
    logits = method.unet(batch)
    assert torch.equal(method.predict(batch).probabilities["seg"], logits.sigmoid())


def test_what_is_predicted_rests_on_what_was_there() -> None:
    method = build(problem())
    batch = some(method.problem)
    assert torch.equal(method.predict(batch).used, batch.present)


def test_an_absent_image_is_never_read() -> None:
    """NaN in it changes neither prediction nor gradient, and its own gradient is exactly zero."""
    method = build(problem(), neighbourhood=3)
    method.eval()
    batch = poison(some(method.problem))
    images = {name: value.clone().requires_grad_() for name, value in batch.inputs.items() if isinstance(value, Tensor)}
    found = method.predict(batch.with_inputs(images)).probabilities["seg"]
    assert torch.isfinite(found).all()
    found.square().sum().backward()
    for name, image in images.items():
        there = batch.is_present(name)
        assert image.grad is not None and torch.isfinite(image.grad).all()
        assert not image.grad[~there].any() and image.grad[there].any(), name


@pytest.mark.parametrize(
    ("names", "hidden", "neighbourhood", "patch", "parameters"),
    [
        (("flair", "t1", "t1ce", "t2"), (100, 100), 1, (8, 8), (8 + 1) * 100 + 101 * 100 + 101 * 4),
        (SEQUENCES, (100, 100), 1, (8, 8), 11_103),
        (SEQUENCES, (100, 100), 3, (8, 8), (9 * 3 + 3 + 1) * 100 + 101 * 100 + 101 * 3),
        (SEQUENCES, (), 3, (8, 8, 8), (27 * 3 + 3 + 1) * 3),
    ],
)
def test_the_number_of_parameters(
    names: tuple[str, ...], hidden: tuple[int, ...], neighbourhood: int, patch: tuple[int, ...], parameters: int
) -> None:
    fill = VoxelMLP(problem(patch, names=names, channels=[1] * len(names)), hidden=hidden, neighbourhood=neighbourhood)
    assert sum(p.numel() for p in fill.parameters()) == parameters


# ------------------------------------------------------------------------------------------------------------------ loss
def test_the_loss_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    """A perceptron that always says 1 of b, seen from a: the mean of (b - 1)^2 over the three voxels where a is not 0."""
    method = build(problem((4, 4), names=("a", "b")), hidden=())
    with torch.no_grad():
        for layer in method.fill.layers.parameters():
            layer.zero_()
        last = method.fill.layers[-1]
        assert isinstance(last, torch.nn.Linear)
        last.bias.copy_(torch.tensor([50.0, 1.0]))
    a, b = torch.zeros(2, 2, 1, 4, 4)
    a[:, :, :2, :2], b[:, :, :2, :2] = torch.tensor([[1.0, 0.0], [2.0, 3.0]]), torch.tensor([[5.0, 7.0], [0.0, 2.0]])
    batch = make_batch(method.problem, 2, present=torch.tensor([[True, True], [True, False]])).with_inputs({"a": a, "b": b})
    monkeypatch.setattr(mlp_fill, "random_parts", lambda have: torch.tensor([[True, False], [True, False]]) & have)
    stage = method.stages()[0]
    for content in (batch, poison(batch)):  # the second row has nothing that could be hidden
        loss = float(method.losses(content, stage)["mse"].detach())
        assert loss == pytest.approx(((5 - 1) ** 2 + (0 - 1) ** 2 + (2 - 1) ** 2) / 3)


def test_the_loss_is_that_of_a_slow_loop() -> None:
    method = build(problem((4, 6), channels=(2, 1, 3)))
    batch = some(method.problem)
    stage = method.stages()[0]
    torch.manual_seed(5)
    loss = method.losses(batch, stage)["mse"].detach()
    torch.manual_seed(5)
    seen = batch.restrict(random_parts(batch.present))
    with torch.no_grad():
        filled = slowly(method, seen, 1)
    squares: list[float] = []
    for row, column in (batch.present & ~seen.present).nonzero().tolist():
        name = SEQUENCES[column]
        for place in product(range(2, 4), range(6)):  # the first two rows of voxels are background
            squares += (channels_at(filled[name][row], place) - channels_at(batch.image(name)[row], place)).square().tolist()
    assert squares and float(loss) == pytest.approx(sum(squares) / len(squares), rel=1e-5)


@pytest.mark.parametrize("training", [True, False])
def test_rows_with_one_image_teach_nothing_and_still_reach_every_weight(training: bool) -> None:
    method = build(problem())
    stage = method.stages()[0]
    method.enter(stage)
    method.train(training)
    batch = poison(make_batch(method.problem, 3, present=torch.eye(3, dtype=torch.bool)))
    loss = method.losses(batch, stage)["mse"]
    assert float(loss.detach()) == 0.0
    loss.backward()
    for name, weight in method.fill.named_parameters():
        assert weight.grad is not None and not weight.grad.any(), name
    with torch.no_grad():
        assert same_bits(method.losses(batch, stage)["mse"], loss.detach())


def test_the_perceptron_learns_at_so_many_voxels() -> None:
    method = build(problem(), voxels=10)
    asked: list[Tensor] = []
    method.fill.register_forward_pre_hook(lambda _, given: asked.append(given[2]))
    method.losses(make_batch(method.problem, 4), method.stages()[0])
    assert asked[0].shape == (10,)


def test_it_needs_no_labels_and_no_augmentation() -> None:
    fill, segment = build(problem()).stages()
    assert fill.targets == () and not fill.augment and fill.steps == 2000
    assert segment.targets is None and segment.augment
    assert fill.monitor is None  # the last weights are kept: without a case with two images every validation would be 0


def test_parts_are_drawn_uniformly_and_always_leave_something_to_predict() -> None:
    rows = 12_000
    torch.manual_seed(0)
    present = torch.ones(rows, 3, dtype=torch.bool)
    counts: dict[tuple[bool, ...], int] = {}
    for row in random_parts(present).tolist():
        counts[tuple(row)] = counts.get(tuple(row), 0) + 1
    assert len(counts) == 6 and chisquare(list(counts.values())).pvalue > 0.01
    assert present.all()
    some = torch.tensor([[True, False, True], [False, True, False]]).repeat(50, 1)
    shown = random_parts(some)
    assert not (shown & ~some).any() and (shown.sum(1) == 1).all()


# -------------------------------------------------------------------------------------------------------------- learning
def fitted(method: MLPFill, batch_of: Callable[[int], Batch], steps: int) -> None:
    stage = method.stages()[0]
    method.enter(stage)
    optimiser = torch.optim.Adam(method.fill.parameters(), 1e-2)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
    for step in range(steps):
        optimiser.zero_grad()
        method.losses(batch_of(step), stage)["mse"].backward()
        optimiser.step()
        schedule.step()


def related(problem: Problem, seed: int) -> Batch:
    """t2 = 2 t1 - 1, and nothing else says anything of t1 and t2."""
    batch = make_batch(problem, 8, seed=seed)
    t1 = torch.randn((8, 1, *problem.patch), generator=torch.Generator().manual_seed(seed))
    return batch.with_inputs({**batch.inputs, "t1": t1, "t2": 2 * t1 - 1})


def test_a_linear_relation_is_learned() -> None:
    method = build(problem((16, 16)), hidden=(32,))
    fitted(method, lambda step: related(method.problem, step), 300)
    batch = related(method.problem, 1000)
    with torch.no_grad():
        for known, wanted in ((("t1",), "t2"), (("t2",), "t1"), (("flair", "t1"), "t2")):
            found = method.complete(batch.keep(known)).image(wanted)
            error = (found - batch.image(wanted)).square().mean().sqrt() / batch.image(wanted).std()
            assert error < 0.1, (known, wanted, float(error))
        unknown = method.complete(batch.keep(["flair"])).image("t2")
        assert (unknown - batch.image("t2")).square().mean() > 0.5 * batch.image("t2").var()


# -------------------------------------------------------------------------------------------------------------- refusals
def test_one_image_is_not_enough() -> None:
    with pytest.raises(ConfigError, match=r"data\.modalities must have two images, .*; got \('flair',\)\. Add another"):
        build(problem(names=("flair",)))


@pytest.mark.parametrize("wrong", [{"hidden": (0,)}, {"neighbourhood": 2}, {"voxels": 0}, {"fill_steps": 0}])
def test_settings_that_make_no_sense_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        MLPFillConfig.model_validate(wrong)
