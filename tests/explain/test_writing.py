"""Maps lie on the voxels of the input, in its geometry."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from tests.explain.fakes import NAMES, SEG, Linear, noise, problem

from comodal.data.cohort import Case, Cohort, CohortMeta, ModalitySpec
from comodal.data.preprocessing import Preparer, PreprocessingConfig
from comodal.errors import DataError
from comodal.explain.explanation import Explanation, normalised
from comodal.explain.gradcam import grad_cam
from comodal.explain.writing import write_maps

SHAPE = (8, 10, 6)
OBLIQUE = np.array([[0.9, -0.3, 0.1, 12], [0.25, 0.95, -0.2, -40], [-0.05, 0.2, 1.9, 7], [0, 0, 0, 1.0]])
FRAMES = {
    "oblique": OBLIQUE,
    "flipped": np.array([[-1, 0, 0, 90], [0, -1, 0, 126], [0, 0, 1, -72], [0, 0, 0, 1.0]]),
    "oblique and flipped": OBLIQUE @ np.array([[0, -1, 0, 8], [0, 0, 4, 0], [-1, 0, 0, 5], [0, 0, 0, 1.0]]),
}


def cohort(root: Path, affine: np.ndarray, *, lacking: tuple[str, ...] = ()) -> tuple[Cohort, Case]:
    for name, image in noise(SHAPE).items():
        if name not in lacking:
            nib.Nifti1Image(image, affine).to_filename(root / f"{name}.nii.gz")
    meta = CohortMeta(layout="csv", root=".", modalities=[ModalitySpec(name=n) for n in NAMES], targets=[])
    case = Case.build("007", cells={name: f"{name}.nii.gz" for name in NAMES})
    return Cohort.build(meta, [case], root), case


def written(root: Path, affine: np.ndarray, *, use: tuple[str, ...] = NAMES, lacking: tuple[str, ...] = ()) -> list[Path]:
    there, case = cohort(root, affine, lacking=lacking)
    config = PreprocessingConfig(normalise=dict.fromkeys(NAMES, "none"))
    prepared = Preparer(there, config, modalities=NAMES, targets=()).case(case, use=use)
    found = grad_cam(Linear(problem((4, 4, 4))), prepared, subset=use)
    files = write_maps(there, prepared, found, used=use, folder=root / "out")
    for pair, row in found.heat.items():  # back on the case's grid they are what they were
        for name, heat in normalised(row).items():
            file = root / "out" / f"heat_{pair[0]}_{pair[1]}_from_{name}.nii.gz"
            canonical = nib.as_closest_canonical(nib.Nifti1Image.from_filename(file))
            np.testing.assert_allclose(np.asarray(canonical.dataobj), heat, atol=1e-6)
    return list(files)


@pytest.mark.parametrize("frame", FRAMES)
def test_maps_have_the_geometry_of_the_input(tmp_path: Path, frame: str) -> None:
    files = written(tmp_path, FRAMES[frame])
    assert [file.name for file in files[:2]] == ["heat_a_WT_from_b.nii.gz", "heat_a_WT_from_c.nii.gz"]
    assert len(files) == 8 + 6
    source = nib.Nifti1Image.from_filename(tmp_path / "a.nii.gz")
    for file in files:
        out = nib.Nifti1Image.from_filename(file)
        assert out.shape == source.shape and np.array_equal(out.affine, source.affine)


def test_the_file_of_an_absent_auxiliary_is_never_opened(tmp_path: Path) -> None:
    (tmp_path / "with").mkdir()
    (tmp_path / "without").mkdir()
    there = written(tmp_path / "with", OBLIQUE, use=("a", "b"))
    gone = written(tmp_path / "without", OBLIQUE, use=("a", "b"), lacking=("c",))
    assert [file.name for file in there] == [file.name for file in gone]
    assert not [file for file in gone if "_c" in file.name]
    for one, two in zip(there, gone, strict=True):
        first, second = (np.asarray(nib.Nifti1Image.from_filename(file).dataobj) for file in (one, two))
        assert first.tobytes() == second.tobytes()


def test_names_are_usable_as_files_and_distinct(tmp_path: Path) -> None:
    there, case = cohort(tmp_path, OBLIQUE)
    prepared = Preparer(there, PreprocessingConfig(), modalities=NAMES, targets=()).case(case, use=NAMES)
    heat = np.ones(prepared.grid.shape if prepared.grid else (), dtype=np.float32)
    row = {"t1/post": heat, "c": heat}
    (file, _) = write_maps(
        there, prepared, Explanation("nats", None, NAMES, {("a+b", SEG.classes[0]): row}), used=NAMES, folder=tmp_path / "out"
    )
    assert file.name == "heat_a+b_WT_from_t1-post.nii.gz"
    twice = Explanation("nats", None, NAMES, {("a", "WT"): {"t1/post": heat, "t1 post": heat}})
    with pytest.raises(DataError, match=r"maps must have names of their own; got heat_a_WT_from_t1-post twice \[subject 007\]"):
        write_maps(there, prepared, twice, used=NAMES, folder=tmp_path / "out")
