"""Augmentation: what is shared, what is independent, and what each piece does to values derived by hand."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from comodal.batch import Sample, Text, Value
from comodal.data.augmentation import Move, augment, change_intensity, draw_move
from comodal.errors import ConfigError

GRIDS = {"flair": "brain", "t1": "brain", "photo": "skin"}


def smooth(seed: int, shape: tuple[int, ...]) -> Tensor:
    """Random, with a margin of exact 0."""
    values = torch.rand(shape, generator=torch.Generator().manual_seed(seed)) + 0.5
    inside = torch.zeros(shape)
    inside[(slice(None), *(slice(2, -2),) * (len(shape) - 1))] = 1
    return values * inside


def sample_of(dims: int, names: tuple[str, ...] = ("flair", "t1", "photo")) -> Sample:
    shape = (12, 10, 8)[:dims]
    inputs: dict[str, Value] = {name: smooth(i, (1, *shape)) for i, name in enumerate(GRIDS) if name in names}
    regions = torch.stack([smooth(0, (1, *shape))[0] > 0, smooth(0, (1, *shape))[0] > 1]).to(torch.uint8)
    grids = {GRIDS[name]: np.diag([1.0, 1.0, 2.0, 1.0]) for name in GRIDS if name in names}
    labels = (smooth(0, (1, *shape))[0] * 3).long()
    targets = {"seg": regions, "parts": labels, "grade": torch.tensor(3)}
    return Sample("a", "a", inputs, targets, affines=grids)


def same(a: Value, b: Value) -> bool:
    assert isinstance(a, Tensor) and isinstance(b, Tensor)
    return a.shape == b.shape and a.dtype == b.dtype and torch.equal(a, b)


@pytest.mark.parametrize("dims", [2, 3])
def test_same_seed_same_result_and_nothing_is_written(dims: int) -> None:
    sample = sample_of(dims)
    before = {name: value.clone() for name, value in sample.inputs.items() if isinstance(value, Tensor)}
    different = 0
    for index in range(20):
        first, second = (augment(sample, seed=(0, 1, index), grids=GRIDS) for _ in range(2))
        assert all(same(first.inputs[name], second.inputs[name]) for name in GRIDS)
        assert all(first.inputs[name].dtype == torch.float32 for name in GRIDS)  # type: ignore[union-attr]
        assert first.targets["seg"].dtype == torch.uint8 and first.targets["parts"].dtype == torch.int64
        assert same(first.targets["grade"], torch.tensor(3))
        different += not same(first.inputs["flair"], augment(sample, seed=(0, 2, index), grids=GRIDS).inputs["flair"])
    assert different > 15
    assert all(same(sample.inputs[name], value) for name, value in before.items())


@pytest.mark.parametrize("dims", [2, 3])
def test_a_modality_does_not_feel_who_else_is_there(dims: int) -> None:
    full = sample_of(dims)
    for names in (("flair",), ("flair", "photo")):
        alone = replace(full, inputs={n: full.inputs[n] for n in names})
        if "photo" not in names:
            alone = replace(alone, affines={"brain": full.affines["brain"]})
        for index in range(30):
            a, b = (augment(s, seed=(3, 0, index), grids=GRIDS) for s in (full, alone))
            assert same(a.inputs["flair"], b.inputs["flair"])
            assert all(same(a.targets[name], b.targets[name]) for name in a.targets)
            assert np.array_equal(a.affines["brain"], b.affines["brain"])


def test_absent_values_may_be_anything() -> None:
    sample = sample_of(2, ("flair", "t1"))
    other = replace(sample, inputs={**sample.inputs, "t1": torch.full((1, 12, 10), float("nan"))})
    for index in range(30):
        a, b = (augment(s, seed=(0, 0, index), grids=GRIDS) for s in (sample, other))
        assert same(a.inputs["flair"], b.inputs["flair"])


@pytest.mark.parametrize("dims", [2, 3])
def test_the_affine_says_where_changed_voxels_come_from(dims: int) -> None:
    """A linear image of position, changed spatially, still equals the same function of the new affine's positions."""
    shape = (16, 14, 12)[:dims]
    affine = np.array([[0.0, -2, 0, 5], [1, 0, 0, -3], [0, 0, 1.5, 7], [0, 0, 0, 1]])
    weights = np.array([1.0, -0.5, 0.25])

    def position(matrix: np.ndarray[Any, np.dtype[np.float64]]) -> Tensor:
        at = np.concatenate([np.indices(shape).reshape(dims, -1), np.zeros((3 - dims, int(np.prod(shape))))])
        mm = matrix[:3, :3] @ at + matrix[:3, 3:]
        return torch.from_numpy((weights @ mm).reshape(1, *shape)).float()

    compared = turned = 0
    for seed in range(60):
        move = draw_move(np.random.default_rng(seed), shape, affine)
        inside = move.image(torch.ones(1, *shape)) == 1
        turned += move.warp is not None
        compared += int(inside.sum())
        error = (move.image(position(affine)) - position(move.affine_of(affine)))[inside]
        assert error.abs().max() < 1e-3
    assert turned > 10 and compared > 60 * 0.6 * np.prod(shape)


def test_rotation_keeps_distances_in_mm() -> None:
    affine = np.diag([1.0, 1.0, 4.0, 1.0])
    for seed in range(40):
        move = draw_move(np.random.default_rng(seed), (8, 8, 4), affine)
        steps = move.affine_of(affine)[:3, :3]
        spacing = np.linalg.norm(steps, axis=0)
        factor = spacing / [1, 1, 4]
        assert np.allclose(factor, factor[0]) and 0.7 <= factor[0] <= 1.4
        assert np.allclose((steps / spacing).T @ (steps / spacing), np.eye(3), atol=1e-9)  # no shear


def test_mirroring_and_quarter_turn_are_exact() -> None:
    image = torch.arange(12, dtype=torch.float32).reshape(1, 4, 3)
    assert same(Move(None, (0,), (4, 3)).image(image), image.flip(1))
    labels = torch.arange(12).reshape(4, 3)
    assert same(Move(None, (1,), (4, 3)).target(labels), labels.flip(1))
    square = torch.arange(9, dtype=torch.float32).reshape(1, 3, 3)
    quarter = np.array([[0.0, -1, 2], [1, 0, 0], [0, 0, 1]])  # result (x, y) is taken from (2 - y, x)
    expected = torch.stack([torch.stack([square[0, 2 - y, x] for y in range(3)]) for x in range(3)])[None]
    assert torch.allclose(Move(quarter, (), (3, 3)).image(square), expected, atol=1e-5)
    regions = (square > 4).to(torch.uint8)
    assert same(Move(quarter, (), (3, 3)).target(regions), (expected > 4).to(torch.uint8))


def test_images_and_targets_of_a_grid_move_together() -> None:
    sample = sample_of(3)
    flair = sample.inputs["flair"]
    assert isinstance(flair, Tensor)
    body = (flair > 0).float()
    moved = 0
    for index in range(30):
        same_body = replace(sample, inputs={**sample.inputs, "flair": body, "t1": body})
        got = augment(same_body, seed=(1, 0, index), grids=GRIDS)
        region = got.targets["seg"][0].bool()
        for name in ("flair", "t1"):  # voxels on the edge are interpolated, those in the middle of it say it all
            value = got.inputs[name]
            assert isinstance(value, Tensor)
            assert ((value[0] != 0) | ~region).all()
        moved += not same(got.targets["seg"], sample.targets["seg"])
    assert moved > 20


def test_intensities_are_independent_of_each_other() -> None:
    sample = sample_of(2)
    twins = replace(sample, inputs={"flair": sample.inputs["flair"], "t1": sample.inputs["flair"]})
    different = 0
    for index in range(40):
        got = augment(twins, seed=(2, 0, index), grids=GRIDS)
        different += not same(got.inputs["flair"], got.inputs["t1"])
    assert different >= 25  # each twin has a coin of 1 - 0.9 * 0.9 * 0.85 * 0.85 * 0.875 * 0.9 * 0.7 = 0.68


def test_background_stays_zero_and_constants_stay() -> None:
    image = smooth(0, (2, 16, 16))
    changed = 0
    for seed in range(60):
        got = change_intensity(image, np.random.default_rng(seed))
        assert not got[image == 0].any() and bool(got.isfinite().all())
        changed += not same(got, image)
    assert 30 <= changed <= 52  # 41 expected, standard deviation 3.6
    for value in (0.0, 3.0):
        flat = torch.full((1, 8, 8), value)
        assert all(change_intensity(flat, np.random.default_rng(seed)) is flat for seed in range(20))


def test_frequencies_of_the_spatial_list() -> None:
    moves = [draw_move(np.random.default_rng([7, i]), (32, 32), np.eye(4)) for i in range(1000)]
    assert abs(sum(m.warp is not None for m in moves) - 360) < 50  # 1 - 0.8 * 0.8
    for axis in range(2):
        assert abs(sum(axis in m.flips for m in moves) - 500) < 55
    long = [draw_move(np.random.default_rng([7, i]), (48, 24), np.eye(4)) for i in range(300)]
    angles = [np.degrees(np.arctan2(m.warp[1, 0], m.warp[0, 0])) for m in long if m.warp is not None]
    assert 5 < max(map(abs, angles)) <= 15.0001


def test_other_kinds_pass_and_presets_are_checked() -> None:
    text = Text(torch.ones((1, 2), dtype=torch.long), torch.ones((1, 2), dtype=torch.bool))
    features = torch.tensor([1.0, 2.0])
    sample = replace(sample_of(2), inputs={"flair": smooth(0, (1, 12, 10)), "note": text, "age": features})
    for index in range(10):
        got = augment(sample, seed=(0, 0, index), grids=GRIDS)
        assert list(got.inputs) == ["flair", "note", "age"]
        assert got.inputs["note"] is text and got.inputs["age"] is features
    assert augment(sample, seed=(0,), grids=GRIDS, preset="none") is sample
    with pytest.raises(ConfigError, match=r"augment must be a known preset; got 'nnUNet'. Did you mean nnunet or none\? Known"):
        augment(sample, seed=(0,), grids=GRIDS, preset="nnUNet")
