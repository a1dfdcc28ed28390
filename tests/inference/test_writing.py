from __future__ import annotations

from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from PIL import Image
from tests.inference.fakes import Mean, problem

from comodal.data.cohort import Case, Cohort, CohortMeta, ModalitySpec, TargetSpec
from comodal.data.grid import Grid
from comodal.data.preprocessing import Preparer, PreprocessingConfig
from comodal.errors import DataError
from comodal.inference.predictor import predict_case
from comodal.inference.writing import (
    SUFFIXES,
    channel_names,
    codes_of,
    names_of,
    on_grid,
    to_label_map,
    to_masks,
    write_prediction,
)
from comodal.modality import Target

SEG = Target("seg", "regions", ("WT", "ET"), ((1, 4), (4,)), (2, 4))
ORGANS = Target("organs", "labels", ("background", "liver", "spleen"), ((0,), (6,), (1,)), (0, 6, 1))
OBLIQUE = np.array([[0.9, -0.3, 0.1, 12], [0.25, 0.95, -0.2, -40], [-0.05, 0.2, 1.9, 7], [0, 0, 0, 1.0]])
FRAMES = {
    "oblique": OBLIQUE,
    "flipped": np.array([[-1, 0, 0, 90], [0, -1, 0, 126], [0, 0, 1, -72], [0, 0, 0, 1.0]]),  # LPS, as most scanners write
    "anisotropic": np.diag([0.5, 0.8, 6.0, 1.0]),
    "sagittal": np.array([[0, 0, -3, 30], [-0.7, 0, 0, 40], [0, 0.7, 0, -20], [0, 0, 0, 1.0]]),
    "oblique, flipped and anisotropic": OBLIQUE @ np.array([[0, -1, 0, 8], [0, 0, 4, 0], [-1, 0, 0, 5], [0, 0, 0, 1.0]]),
}


def cohort(root: Path, cells: dict[str, str], *, dims: int = 3) -> tuple[Cohort, Case]:
    modalities = [ModalitySpec(name=n, spatial_dims=dims) for n in ("a", "b")]
    seg = TargetSpec(name="seg", kind="regions", classes=["WT"], codes=[[1]])
    case = Case.build("007", cells=cells)
    return Cohort.build(CohortMeta(layout="csv", root=".", modalities=modalities, targets=[seg]), [case], root), case


def blob(shape: tuple[int, ...]) -> np.ndarray:
    """Smooth, and lying differently along each axis, so that no flip or swap of axes goes unseen."""
    axes = np.meshgrid(*[np.linspace(-1, 1, n) for n in shape], indexing="ij")
    distance = sum(((a - c) / w) ** 2 for a, c, w in zip(axes, (0.2, -0.3, 0.1), (0.9, 0.6, 0.5), strict=False))
    return np.asarray(np.exp(-distance), dtype=np.float32)


def save_nifti(path: Path, array: np.ndarray, affine: np.ndarray) -> None:
    image = nib.Nifti1Image(array, affine)
    image.set_sform(affine, code=1)
    image.set_qform(affine, code=2, strip_shears=True)
    image.to_filename(path)


def written(root: Path, *, config: PreprocessingConfig, dims: int = 3, name: str = "a.nii.gz", **options: Any) -> list[Path]:
    """One case predicted from `a` alone: the probability is the image itself."""
    there, case = cohort(root, {"a": name, "b": "never_opened.nii.gz"}, dims=dims)
    preparer = Preparer(there, config, modalities=("a", "b"), targets=(), spatial_dims=dims)
    prepared = preparer.case(case, use=["a"], with_targets=False)
    method = Mean(problem((16,) * dims, names="a b", kind=dims))
    assert prepared.grid is not None
    ((_, found),) = predict_case(method, prepared, subsets=["a"])
    done = write_prediction(
        there,
        case,
        found.probabilities,
        grid=prepared.grid,
        targets=method.problem.targets,
        used=["a"],
        out=root / "out",
        **options,
    )
    assert (done.subject, done.used) == ("007", ("a",))
    return list(done.files)


NATIVE = PreprocessingConfig(normalise={"a": "none"})


@pytest.mark.parametrize("frame", FRAMES)
def test_a_prediction_lies_on_the_voxels_of_its_input(tmp_path: Path, frame: str) -> None:
    image = blob((11, 14, 9))
    save_nifti(tmp_path / "a.nii.gz", image, FRAMES[frame])
    (file,) = written(tmp_path, config=NATIVE)
    assert file.name == "007_seg.nii.gz"
    out, source = nib.Nifti1Image.from_filename(file), nib.Nifti1Image.from_filename(tmp_path / "a.nii.gz")
    assert out.shape == source.shape
    assert np.array_equal(out.affine, source.affine)
    assert nib.aff2axcodes(out.affine) == nib.aff2axcodes(source.affine)
    assert [int(out.header[k]) for k in ("sform_code", "qform_code")] == [1, 2]
    assert np.array_equal(np.asarray(out.dataobj), (image >= 0.5).astype(np.uint8))


@pytest.mark.parametrize("frame", FRAMES)
def test_from_a_coarser_grid_a_prediction_comes_back_to_native_voxels(tmp_path: Path, frame: str) -> None:
    fine = blob((40, 44, 36))
    spacing = np.linalg.norm(FRAMES[frame][:3, :3], axis=0)
    save_nifti(tmp_path / "a.nii.gz", fine, FRAMES[frame])
    ras = np.linalg.norm(nib.as_closest_canonical(nib.Nifti1Image.from_filename(tmp_path / "a.nii.gz")).affine[:3, :3], axis=0)
    coarse = PreprocessingConfig(normalise={"a": "none"}, spacing=(2 * ras[0], 2 * ras[1], 1.5 * ras[2]))
    label, probability = written(tmp_path, config=coarse, as_probabilities=True)
    assert probability.name == "007_seg_WT_probability.nii.gz"
    out, p = (
        np.asarray(nib.Nifti1Image.from_filename(label).dataobj),
        np.asarray(nib.Nifti1Image.from_filename(probability).dataobj),
    )
    assert out.shape == p.shape == fine.shape
    assert nib.Nifti1Image.from_filename(label).header.get_zooms() == pytest.approx(spacing)
    assert np.array_equal(out > 0, p >= 0.5)  # resampled first, then thresholded
    truth = fine >= 0.5
    assert 2 * (truth & (out > 0)).sum() / (truth.sum() + (out > 0).sum()) > 0.97
    inner = (slice(4, -4),) * 3
    assert np.abs(p - fine)[inner].max() < 0.06


def test_a_picture_becomes_a_picture_of_its_size(tmp_path: Path) -> None:
    grey = (blob((12, 9)) * 255).astype(np.uint8)  # columns, rows
    Image.fromarray(grey.T).save(tmp_path / "a.png")
    (file,) = written(tmp_path, config=PreprocessingConfig(normalise={"a": "unit"}), dims=2, name="a.png")
    unit = (grey - grey.min()) / np.ptp(grey)
    with Image.open(file) as picture:
        assert picture.size == (12, 9)
        assert np.array_equal(np.asarray(picture).T > 0, unit >= 0.5)


def test_region_maps_and_probabilities_on_request(tmp_path: Path) -> None:
    image = blob((6, 7, 8))
    save_nifti(tmp_path / "a.nii.gz", image, np.eye(4))
    files = written(tmp_path, config=NATIVE, regions=True, as_probabilities=True)
    assert [f.name for f in files] == ["007_seg.nii.gz", "007_seg_WT.nii.gz", "007_seg_WT_probability.nii.gz"]
    assert np.array_equal(np.asarray(nib.Nifti1Image.from_filename(files[1]).dataobj), image >= 0.5)
    assert np.asarray(nib.Nifti1Image.from_filename(files[2]).dataobj) == pytest.approx(image, abs=1e-6)


def test_region_maps_of_labels_exclude_each_other(tmp_path: Path) -> None:
    save_nifti(tmp_path / "a.nii.gz", blob((3, 2, 2)), np.eye(4))
    there, case = cohort(tmp_path, {"a": "a.nii.gz"})
    maps = np.random.default_rng(0).dirichlet((1, 1, 1), (3, 2, 2)).transpose(3, 0, 1, 2).astype(np.float32)
    grid = Grid((3, 2, 2), np.eye(4))
    found = {"organs": maps, "grade": np.ones(2, np.float32)}
    grade = Target("grade", "class", ("low", "high"))
    done = write_prediction(there, case, found, grid=grid, targets=[ORGANS, grade], used=["a"], out=tmp_path, regions=True)
    arrays = [np.asarray(nib.Nifti1Image.from_filename(f).dataobj) for f in done.files]
    assert len(arrays) == 4
    assert np.array_equal(sum(arrays[1:]), np.ones((3, 2, 2)))
    assert np.array_equal(arrays[0], np.array([0, 6, 1])[maps.argmax(axis=0)])


def test_regions_are_painted_in_order() -> None:
    maps = np.array([[0.4, 0.5, 0.9, 0.1], [0.0, 0.2, 0.7, 0.6]], np.float32).reshape(2, 4, 1, 1)
    assert to_label_map(SEG, maps).ravel().tolist() == [0, 2, 4, 4]
    assert to_masks(SEG, maps)[:, :, 0, 0].tolist() == [[False, True, True, False], [False, False, True, True]]
    assert to_label_map(SEG, iter(maps)).ravel().tolist() == [0, 2, 4, 4]  # class by class


def test_the_most_probable_label_wins_and_the_first_of_equals() -> None:
    maps = np.array([[0.5, 0.2, 0.4], [0.3, 0.5, 0.4], [0.2, 0.3, 0.2]], np.float32).reshape(3, 3, 1, 1)
    assert to_label_map(ORGANS, iter(maps)).ravel().tolist() == [0, 6, 0]
    assert to_masks(ORGANS, maps).sum(axis=0).ravel().tolist() == [1, 1, 1]
    assert to_masks(ORGANS, maps)[1].ravel().tolist() == [False, True, False]


def test_codes_without_paint_are_numbers() -> None:
    assert codes_of(Target("seg", "regions", ("WT", "ET"))) == (1, 2)
    assert codes_of(Target("seg", "labels", ("background", "liver"))) == (0, 1)
    assert codes_of(ORGANS) == (0, 6, 1)


def test_one_class_at_a_time_is_resampled() -> None:
    source = Grid((4, 4, 4), np.diag([2.0, 2, 2, 1]))
    maps = on_grid(np.ones((5, 4, 4, 4), np.float32), source, source.resized((8, 8, 8)))
    first = next(maps)
    assert first.shape == (8, 8, 8)
    assert first.min() == first.max() == 1.0  # to the edge of the field of view
    assert sum(1 for _ in maps) == 4


def test_without_an_image_there_is_no_geometry(tmp_path: Path) -> None:
    there, case = cohort(tmp_path, {"a": "a.nii.gz"})
    with pytest.raises(DataError, match=r"predict must use an image.*; got nothing \[subject 007\]\. Give an image modality\."):
        write_prediction(there, case, {}, grid=Grid((1, 1, 1), np.eye(4)), targets=[SEG], used=[], out=tmp_path)


def test_the_names_are_known_before_anything_is_written(tmp_path: Path) -> None:
    save_nifti(tmp_path / "a.nii.gz", blob((6, 7, 8)), np.eye(4))
    for regions, maps in ((False, False), (True, False), (True, True)):
        files = written(tmp_path, config=NATIVE, regions=regions, as_probabilities=maps)
        target = Target("seg", "regions", ("WT",))
        expected = names_of("007", [target], regions=regions, as_probabilities=maps)
        assert {f.name.removesuffix(".nii.gz") for f in files} == set(expected)
        assert all(f.name.endswith(SUFFIXES) for f in files)
    assert names_of("7", [Target("organs", "labels", ("a/b", "c"))], regions=True) == ["7_organs", "7_organs_a-b", "7_organs_c"]
    assert names_of("7", [Target("grade", "class", ("low", "high"))], regions=True) == []


def test_channels_are_classes_where_there_are_as_many() -> None:
    core = Target("core", "regions", ("TC", "N/A"))
    assert channel_names("u", (2,), [SEG]) == ["u_WT", "u_ET"]
    assert channel_names("u", (2,), [SEG, core]) == ["u_1", "u_2"]  # nothing says whose
    assert channel_names("u_core", (2,), [SEG, core]) == ["u_core_TC", "u_core_N-A"]
    assert channel_names("u", (3,), [ORGANS, SEG]) == ["u_background", "u_liver", "u_spleen"]
    assert channel_names("u", (2, 2), [SEG]) == ["u_1_1", "u_1_2", "u_2_1", "u_2_2"]
    assert channel_names("u", (), [SEG]) == channel_names("u", (1,), [SEG]) == ["u"]
    assert channel_names("u", (2,), [Target("grade", "class", ("low", "high"))]) == ["u_1", "u_2"]


@pytest.mark.parametrize("frame", FRAMES)
def test_extras_lie_on_the_voxels_of_the_input(tmp_path: Path, frame: str) -> None:
    image = blob((6, 7, 8))
    save_nifti(tmp_path / "a.nii.gz", image, FRAMES[frame])
    there, case = cohort(tmp_path, {"a": "a.nii.gz"})
    prepared = Preparer(there, NATIVE, modalities=("a",), targets=()).case(case, with_targets=False)
    assert prepared.grid is not None
    own = prepared.images["a"][0]
    extras = {"heat/x": np.stack([own, -own]), "vector": np.zeros(3, np.float32)}
    targets = [Target("seg", "regions", ("WT", "ET"))]
    found = {"seg": np.stack([own, own])}
    done = write_prediction(
        there, case, found, grid=prepared.grid, targets=targets, used=["a"], out=tmp_path / "out", extras=extras
    )
    assert [f.relative_to(tmp_path / "out").as_posix() for f in done.files] == [
        "007_seg.nii.gz",
        "extras/007_heat-x_WT.nii.gz",
        "extras/007_heat-x_ET.nii.gz",
    ]
    for sign, file in zip((1, -1), done.files[1:], strict=True):
        out, source = nib.Nifti1Image.from_filename(file), nib.Nifti1Image.from_filename(tmp_path / "a.nii.gz")
        assert np.array_equal(out.affine, source.affine)
        assert np.asarray(out.dataobj) == pytest.approx(sign * image, abs=1e-6)
