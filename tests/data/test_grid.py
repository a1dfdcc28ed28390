"""Grids and resampling, against numbers derived by hand."""

from __future__ import annotations

import nibabel as nib
import numpy as np

from comodal.data.geometry import Array
from comodal.data.grid import Grid, crop_pad, resample_mask, resample_to


def test_equal_grids_are_equal_keys() -> None:
    affine = np.diag([1.0, 1.0, 3.0, 1.0])
    noisy = affine + 1e-8 * np.random.default_rng(0).normal(size=(4, 4)) * (np.arange(4) < 3)[:, None]
    assert Grid((4, 5, 6), affine) == Grid((4, 5, 6), noisy)
    assert len({Grid((4, 5, 6), affine), Grid((4, 5, 6), noisy), Grid((4, 5, 7), affine)}) == 2
    minus = affine.copy()
    minus[0, 1] = -1e-12  # rounds to -0.0
    assert Grid((4, 5, 6), affine).key == Grid((4, 5, 6), minus).key
    assert not Grid((1, 1, 1), affine).affine.flags.writeable


def test_grids_match_to_a_thousandth_of_a_millimetre() -> None:
    grid = Grid((100, 100, 10), np.eye(4))
    for shift, same in ((0.001, True), (0.002, False)):
        moved = np.eye(4)
        moved[0, 3] = shift
        assert grid.matches(Grid(grid.shape, moved)) is same
    stretched = np.diag([1.00005, 1, 1, 1])  # 99 voxels away it is 0.005 mm off
    assert not grid.matches(Grid(grid.shape, stretched))


def test_another_spacing_keeps_the_field_of_view() -> None:
    affine = np.diag([2.0, 1.0, 3.0, 1.0])
    affine[:3, 3] = (-10, 5, 7)
    grid = Grid((10, 10, 4), affine).respaced((1, 2, 1))
    assert grid.shape == (20, 5, 12)
    assert np.allclose(grid.spacing, (1, 2, 1))
    # the edge of the first voxel stays at -10 - 1 = -11 mm, so the first centre is at -10.5; along Z 7 - 1.5 + 0.5 = 6
    assert grid.affine[:3, 3].tolist() == [-10.5, 5.5, 6.0]
    assert Grid((3, 3, 1), np.eye(4)).respaced((9, 1, 1)).shape == (1, 3, 1)
    assert Grid((640, 480, 1), np.eye(4)).resized((64, 64, 1)).spacing == (10.0, 7.5, 1.0)


def test_overlap_of_fields_of_view() -> None:
    grid, far = Grid((4, 4, 4), np.eye(4)), np.eye(4)
    far[0, 3] = 3.4
    assert grid.overlaps(Grid((4, 4, 4), far))
    far[0, 3] = 40
    assert not grid.overlaps(Grid((4, 4, 4), far))


def test_linear_function_survives_resampling() -> None:
    turned = nib.affines.from_matvec(
        nib.eulerangles.euler2mat(0.2, -0.1, 0.3) @ np.diag([1.1, 0.9, 2.0]),
        [3.0, -2.0, 1.0],
    )
    source = Grid((20, 20, 12), turned)
    centre = source.affine @ [9.5, 9.5, 5.5, 1]
    target = Grid((6, 5, 4), nib.affines.from_matvec(np.eye(3), centre[:3] - [2.5, 2, 1.5]))

    def plane(grid: Grid) -> Array:
        at = np.indices(grid.shape).reshape(3, -1)
        mm = grid.affine[:3, :3] @ at + grid.affine[:3, 3:]
        return np.asarray(np.array([1.0, -2.0, 0.5]) @ mm + 4).reshape(1, *grid.shape)

    assert np.abs(resample_to(plane(source), source, target) - plane(target)).max() < 1e-4
    coarse = source.resized((10, 10, 6))
    inner = (slice(None), *(slice(3, -3),) * 2, slice(2, -2))  # smoothing a plane changes nothing away from the edges
    assert np.abs(resample_to(plane(source), source, coarse) - plane(coarse))[inner].max() < 1e-4


def test_outside_is_zero_and_the_last_half_voxel_is_its_neighbour() -> None:
    source = Grid((2, 1, 1), np.diag([2.0, 1, 1, 1]))  # centres at 0 and 2 mm, field of view from -1 to 3 mm
    line = np.array([4.0, 8.0], dtype=np.float32).reshape(1, 2, 1, 1)
    affine = np.eye(4)
    affine[0, 3] = -2
    got = resample_to(line, source, Grid((7, 1, 1), affine))  # at -2, -1, 0, 1, 2, 3, 4 mm
    assert got.ravel().tolist() == [0, 4, 4, 6, 8, 8, 0]
    labels = resample_to(line.astype(np.int64), source, Grid((7, 1, 1), affine), order=0)
    assert labels.dtype == np.int64
    assert set(labels.ravel().tolist()) == {0, 4, 8}


def test_down_sampling_averages_and_a_matching_grid_copies_nothing() -> None:
    checker = (np.indices((32, 32, 1)).sum(axis=0) % 2).astype(np.float32)[None]
    grid = Grid((32, 32, 1), np.eye(4))
    coarse = resample_to(checker, grid, grid.resized((8, 8, 1)))
    assert np.abs(coarse[:, 1:-1, 1:-1] - 0.5).max() < 0.01  # without smoothing: 0 or 1
    assert resample_to(checker, grid, Grid((32, 32, 1), np.eye(4))) is checker


def test_regions_stay_nested_when_resampled() -> None:
    outer = np.zeros((16, 16, 4), dtype=np.uint8)
    outer[3:13, 3:13], inner = 1, np.zeros_like(outer)
    inner[5:8, 4:11] = 1
    source = Grid(outer.shape, np.eye(4))
    got = resample_mask(np.stack([outer, inner]), source, source.respaced((1.5, 0.7, 1)))
    assert got.dtype == np.uint8 and set(np.unique(got)) == {0, 1}
    assert (got[1] <= got[0]).all()
    assert abs(got[0].sum() * 1.5 * 0.7 - outer.sum()) < 0.12 * outer.sum()


def test_crop_reaches_over_edges() -> None:
    volume = np.arange(24).reshape(2, 3, 4)
    assert crop_pad(volume, [-1, 2], [3, 4]).tolist() == [
        [[0, 0, 0, 0], [2, 3, 0, 0], [6, 7, 0, 0]],
        [[0, 0, 0, 0], [14, 15, 0, 0], [18, 19, 0, 0]],
    ]
    assert crop_pad(volume, [9, 9], [2, 2]).sum() == 0
