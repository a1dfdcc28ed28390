"""Prepared cases, with files in every state of decay."""

from __future__ import annotations

import copy
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
from PIL import Image

from comodal.batch import Bag, Text
from comodal.data.cache import Cache
from comodal.data.cohort import Case, Cohort, CohortMeta, ModalitySpec, TargetSpec
from comodal.data.geometry import Array
from comodal.data.grid import Grid
from comodal.data.preprocessing import Preparer, PreprocessingConfig
from comodal.data.reading import read_volume
from comodal.data.stored import Form
from comodal.data.text import fit_tokenizer
from comodal.errors import ConfigError, DataError

NAMES = ("flair", "t1ce", "t1", "t2")
REGIONS = TargetSpec(name="seg", kind="regions", classes=["WT", "TC", "ET"], codes=[[1, 2, 4], [1, 4], [4]], paint=[2, 1, 4])


def write(path: Path, array: Array, affine: Array | None = None) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(array, np.eye(4) if affine is None else affine), path)


def brain(seed: int, shape: tuple[int, ...] = (8, 9, 6)) -> Array:
    """Positive values inside, exactly 0 in the outermost voxels of X."""
    values = np.random.default_rng(seed).uniform(10, 100, shape).astype(np.float32)
    values[[0, -1]] = 0
    return values


def cohort_of(
    root: Path, cells: Mapping[str, str], modalities: Sequence[ModalitySpec], targets: Sequence[TargetSpec] = ()
) -> tuple[Cohort, Case]:
    meta = CohortMeta(layout="csv", root=str(root), modalities=list(modalities), targets=list(targets))
    cohort = Cohort.build(meta, [Case.build("p1", cells=cells)], root)
    return cohort, cohort.cases[0]


def mri(root: Path, present: Sequence[str] = NAMES) -> tuple[Cohort, Case]:
    cells = {name: f"{name}.nii.gz" for name in present} | {"seg": "seg.nii.gz"}
    return cohort_of(root, cells, [ModalitySpec(name=name) for name in NAMES], [REGIONS])


def preparer_of(
    cohort: Cohort, *, targets: Sequence[str] = ("seg",), cache: Path | None = None, **settings: object
) -> Preparer:
    names = [m.name for m in cohort.modalities]
    return Preparer(cohort, PreprocessingConfig.model_validate(settings), modalities=names, targets=targets, cache=cache)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for seed, name in enumerate(NAMES):
        write(tmp_path / f"{name}.nii.gz", brain(seed))
    seg = np.zeros((8, 9, 6), dtype=np.uint8)
    seg[2:6, 2:6, 2:4], seg[3:5, 3:5, 2:4], seg[3, 3, 3] = 2, 1, 4
    write(tmp_path / "seg.nii.gz", seg)
    return tmp_path


# -------------------------------------------------------------------------------------------------------------------- cases


def test_prepared_case(folder: Path) -> None:
    cohort, row = mri(folder)
    case = preparer_of(cohort).case(row)
    assert tuple(case.images) == NAMES and case.grid == Grid((8, 9, 6), np.diag([1.0, 1, 1, 1]))
    raw = brain(0)
    inside = raw[1:-1].astype(np.float64)
    assert np.allclose(case.images["flair"][0, 1:-1], (inside - inside.mean()) / inside.std(), atol=1e-5)
    assert not case.images["flair"][0, [0, -1]].any()
    assert case.targets["seg"].shape == (3, 8, 9, 6) and case.targets["seg"].dtype == np.uint8
    assert case.targets["seg"].sum(axis=(1, 2, 3)).tolist() == [4 * 4 * 2, 2 * 2 * 2, 1]
    assert case.labelled["seg"]
    assert not preparer_of(cohort).case(row, with_targets=False).targets


def test_schemes_do_not_share_cached_arrays(folder: Path) -> None:
    cohort, row = mri(folder)
    for _ in range(2):  # built, then found
        for scheme in ("zscore-nonzero", "hemis", "unit"):
            settings = dict.fromkeys(NAMES, scheme)
            kept = preparer_of(cohort, cache=folder / "cache", normalise=settings).case(row)
            assert kept.images["t1"].tobytes() == preparer_of(cohort, normalise=settings).case(row).images["t1"].tobytes()


def test_orientation_of_the_file_does_not_matter(folder: Path) -> None:
    cohort, row = mri(folder)
    straight = preparer_of(cohort).case(row)
    flipped = np.eye(4)
    flipped[0, 0], flipped[0, 3] = -1, 7
    write(folder / "t1.nii.gz", brain(2)[::-1], flipped)
    again = preparer_of(cohort).case(row)
    assert again.images["t1"].tobytes() == straight.images["t1"].tobytes()


def spoil(path: Path, how: str) -> None:
    """One way in which an unused file can be wrong."""
    other = np.eye(4)
    other[:3, 3] = (3.3, -2, 500)
    if how == "deleted":
        path.unlink()
    elif how == "truncated":
        path.write_bytes(path.read_bytes()[:200])
    elif how == "noise":
        path.write_bytes(np.random.default_rng(5).bytes(5000))
    elif how == "elsewhere":
        write(path, brain(9, (5, 12, 7)), other)


@pytest.mark.parametrize("how", ["intact", "deleted", "noise", "truncated", "elsewhere"])
@pytest.mark.parametrize("cached", [False, True])
@pytest.mark.parametrize("spacing", ["native", (1.5, 1.0, 2.0)])
def test_unused_files_are_never_looked_at(folder: Path, how: str, cached: bool, spacing: object) -> None:
    cohort, row = mri(folder)
    write(folder / "t1ce.nii.gz", brain(1, (10, 7, 6)), np.diag([0.8, 1.2, 1.0, 1.0]))  # a grid of its own
    before = preparer_of(cohort, spacing=spacing).case(row, use=("t1ce", "flair"))
    for name in ("t1", "t2"):
        spoil(folder / f"{name}.nii.gz", how)
    preparer = preparer_of(cohort, spacing=spacing, cache=folder / "cache" if cached else None)
    after = preparer.case(row, use=("flair", "t1ce"))
    assert tuple(after.images) == ("flair", "t1ce") and after.grid == before.grid == preparer.grid(row, ("flair", "t1ce"))
    for name, image in before.images.items():
        assert np.ascontiguousarray(after.images[name]).tobytes() == image.tobytes()
    assert after.targets["seg"].tobytes() == before.targets["seg"].tobytes()


def test_a_modality_rests_on_its_own_file(folder: Path) -> None:
    cohort, row = mri(folder)
    before = preparer_of(cohort).case(row)
    write(folder / "t1.nii.gz", 3 * brain(7))
    write(folder / "seg.nii.gz", np.zeros((8, 9, 6), dtype=np.uint8))
    after = preparer_of(cohort).case(row)
    changed = [name for name in NAMES if after.images[name].tobytes() != before.images[name].tobytes()]
    assert changed == ["t1"]


def test_the_first_present_modality_in_use_gives_the_grid(folder: Path) -> None:
    write(folder / "t1ce.nii.gz", brain(1, (16, 18, 6)), np.diag([0.5, 0.5, 1.0, 1.0]))
    cohort, row = mri(folder)
    preparer = preparer_of(cohort)
    assert preparer.grid(row, ("t1ce", "flair")) == preparer.grid(row) == Grid((8, 9, 6), np.eye(4))
    assert preparer.grid(row, ("t1", "t1ce")) == Grid((16, 18, 6), np.diag([0.5, 0.5, 1.0, 1.0]))
    fine = preparer.case(row, use=("t1ce", "t1"))
    assert {a.shape for a in fine.images.values()} == {(1, 16, 18, 6)} and fine.targets["seg"].shape == (3, 16, 18, 6)
    truth, grid = preparer.truth(row, "seg", use=("t1ce",))
    assert truth.shape == (3, 8, 9, 6) and grid == Grid((8, 9, 6), np.eye(4))


def test_refusals_name_the_case(folder: Path) -> None:
    cohort, row = mri(folder, present=("flair", "t1"))
    preparer = preparer_of(cohort)
    with pytest.raises(DataError, match=r"case must have at least one of t1ce, t2; got flair, seg, t1 \[subject p1\]\."):
        preparer.case(row, use=("t2", "t1ce"))
    with pytest.raises(ConfigError, match=r"use must name columns of the cohort; got 'flar'. Did you mean flair\?"):
        preparer.case(row, use=("flar",))
    with pytest.raises(ConfigError, match=r"data.modalities must name columns of the cohort; got 't3'"):
        Preparer(cohort, PreprocessingConfig(), modalities=["t3"])
    spoil(folder / "t1.nii.gz", "elsewhere")
    with pytest.raises(DataError, match=r"image must overlap flair, .* \[subject p1, modality t1\]. Register t1 to flair"):
        preparer.case(row)
    write(folder / "seg.nii.gz", np.full((8, 9, 6), 3, dtype=np.uint8))
    with pytest.raises(DataError, match=r"mask must hold only the codes of seg, \[0, 1, 2, 4\]; got also 3 \[subject p1"):
        preparer.case(row, use=["flair"])


def test_a_changed_file_is_read_again(folder: Path) -> None:
    cohort, row = mri(folder)
    preparer = preparer_of(cohort, cache=folder / "cache")
    before = np.array(preparer.case(row).images["t2"])
    assert preparer.case(row).images["t2"].tobytes() == before.tobytes()
    write(folder / "t2.nii.gz", brain(11, (8, 9, 5)))
    after = preparer.case(row).images["t2"]
    assert after.shape == (1, 8, 9, 6) and after.tobytes() != before.tobytes()


def test_two_dimensional_cache_lays_slices_together(folder: Path) -> None:
    cohort, row = mri(folder)
    flat = Preparer(cohort, PreprocessingConfig(), modalities=NAMES, cache=folder / "cache", spatial_dims=2).case(row)
    deep = Preparer(cohort, PreprocessingConfig(), modalities=NAMES, cache=folder / "cache", spatial_dims=3).case(row)
    assert flat.images["t1"].flags.f_contiguous and deep.images["t1"].flags.c_contiguous
    assert np.array_equal(flat.images["t1"], deep.images["t1"])


def test_labels_target(folder: Path) -> None:
    spec = TargetSpec(name="seg", kind="labels", classes=["none", "edema", "core"], codes=[[0], [2], [1, 4]], paint=[0, 2, 1])
    cohort, row = cohort_of(folder, {"t1": "t1.nii.gz", "seg": "seg.nii.gz"}, [ModalitySpec(name="t1")], [spec])
    labels = preparer_of(cohort).case(row).targets["seg"]
    assert labels.dtype == np.int64 and np.bincount(labels.ravel()).tolist() == [8 * 9 * 6 - 32, 24, 8]
    finer = preparer_of(cohort, spacing=(0.5, 0.5, 0.5)).case(row).targets["seg"]
    assert set(np.unique(finer)) == {0, 1, 2} and finer.shape == (16, 18, 12)


def test_it_travels_to_workers(folder: Path) -> None:
    cohort, row = mri(folder)
    preparer = preparer_of(cohort, cache=folder / "cache")
    first = preparer.case(row)
    sent = copy.deepcopy(preparer)  # takes the same way as pickling
    assert not sent._headers and np.array_equal(sent.case(row).images["t1"], first.images["t1"])


# ------------------------------------------------------------------------------------------- pictures, texts, bags, vectors


def photographs(root: Path) -> tuple[Cohort, Case]:
    random = np.random.default_rng(0)
    Image.fromarray(random.integers(0, 256, (30, 40, 3), dtype=np.uint8)).save(root / "clinic.png")
    Image.fromarray(random.integers(0, 256, (20, 24, 3), dtype=np.uint8)).save(root / "derm.png")
    (root / "note.txt").write_text("No mass. Effusion, left.\nNo mass!")
    np.save(root / "age.npy", np.array([61.0, 1.0]))
    (root / "tiles").mkdir()
    for i in range(3):
        np.save(root / "tiles" / f"{i}.npy", np.full(4, i, dtype=np.float32))
    specs = [
        ModalitySpec(name="clinic", spatial_dims=2, channels=3, grid="clinic"),
        ModalitySpec(name="derm", spatial_dims=2, channels=3, grid="derm"),
        ModalitySpec(name="note", kind="text", spatial_dims=0),
        ModalitySpec(name="age", kind="features", spatial_dims=0, channels=2),
        ModalitySpec(name="tiles", kind="bag", spatial_dims=0, channels=4),
    ]
    targets = [
        TargetSpec(name="diagnosis", kind="class", classes=["naevus", "melanoma"]),
        TargetSpec(name="signs", kind="multilabel", classes=["net", "streaks", "veil"]),
        TargetSpec(name="grade", kind="ordinal", classes=["low", "high"]),
    ]
    cells = {"clinic": "clinic.png", "derm": "derm.png", "note": "note.txt", "age": "age.npy", "tiles": "tiles"}
    return cohort_of(root, cells | {"diagnosis": "melanoma", "signs": "veil;net"}, specs, targets)


def test_photographs_texts_bags_and_vectors(tmp_path: Path) -> None:
    cohort, row = photographs(tmp_path)
    names = [m.name for m in cohort.modalities]
    tokenizer = fit_tokenizer(cohort, ["p1"], modalities=["note"], least=1)
    config = PreprocessingConfig(resize=(16, 12))
    preparer = Preparer(cohort, config, modalities=names, targets=["diagnosis", "signs", "grade"], tokenizer=tokenizer)
    case = preparer.case(row)
    assert {n: a.shape for n, a in case.images.items()} == {"clinic": (3, 16, 12, 1), "derm": (3, 16, 12, 1)}
    # each channel has its mean at 0, which stands for an absent picture, but for the resizing afterwards
    assert all(abs(a.mean(axis=(1, 2, 3))).max() < 0.1 and a.min() < -0.5 for a in case.images.values())
    assert list(case.grids) == ["clinic", "derm"] and case.grid == case.grids["clinic"] != case.grids["derm"]
    note, age, tiles = (case.values[name] for name in ("note", "age", "tiles"))
    assert isinstance(note, Text) and note.ids.shape == (3, 3)
    assert isinstance(age, torch.Tensor) and age.tolist() == [61, 1]
    assert isinstance(tiles, Bag) and tiles.items.tolist() == [[i] * 4 for i in range(3)] and bool(tiles.valid.all())
    assert case.targets["diagnosis"] == 1 and case.targets["diagnosis"].dtype == np.int64
    assert case.targets["signs"].tolist() == [1, 0, 1] and "grade" not in case.targets
    words_only = preparer.case(row, use=["note"])
    assert words_only.grid is None and preparer.grid(row, ["note", "age"]) is None and not words_only.images


def test_each_grid_has_its_own_size_and_spacing(tmp_path: Path) -> None:
    photographs(tmp_path)
    write(tmp_path / "t1.nii.gz", brain(0, (8, 6, 5)), np.diag([1.0, 1, 2, 1]))
    specs = [ModalitySpec(name=n, spatial_dims=2, channels=3, grid=n) for n in ("clinic", "derm")]
    cells = {"t1": "t1.nii.gz", "clinic": "clinic.png", "derm": "derm.png"}
    cohort, row = cohort_of(tmp_path, cells, [ModalitySpec(name="t1", grid="mri"), *specs])
    config = PreprocessingConfig(spacing={"mri": (2, 2, 2)}, resize={"derm": (12, 10)})
    case = Preparer(cohort, config, modalities=["t1", "clinic", "derm"]).case(row)
    assert {n: a.shape[1:] for n, a in case.images.items()} == {"t1": (4, 3, 5), "clinic": (40, 30, 1), "derm": (12, 10, 1)}
    cube = Preparer(cohort, PreprocessingConfig(resize=(4, 4, 4)), modalities=["t1", "clinic"]).case(row)
    assert [a.shape[1:] for a in cube.images.values()] == [(4, 4, 4), (4, 4, 1)]  # a picture stays a picture


def test_a_segmentation_lies_on_the_grid_of_the_first_image_whatever_is_present(tmp_path: Path) -> None:
    photographs(tmp_path)
    for name in ("t1", "t2"):
        write(tmp_path / f"{name}.nii.gz", brain(0, (8, 6, 5)), np.eye(4))
    write(tmp_path / "seg.nii.gz", (brain(0, (8, 6, 5)) > 0).astype(np.uint8), np.eye(4))
    specs = [
        ModalitySpec(name="t1", grid="mri"),
        ModalitySpec(name="derm", spatial_dims=2, channels=3, grid="derm"),
        ModalitySpec(name="t2", grid="mri"),
    ]
    seg = TargetSpec(name="seg", kind="regions", classes=["WT"], codes=[[1]], paint=[1])
    cells = {"t1": "t1.nii.gz", "derm": "derm.png", "t2": "t2.nii.gz", "seg": "seg.nii.gz"}
    cohort, row = cohort_of(tmp_path, cells, specs, [seg])
    preparer = Preparer(cohort, PreprocessingConfig(), modalities=["t1", "derm", "t2"], targets=["seg"])
    for use in (None, ["t2", "derm"]):  # the picture stands before t2 in the cohort
        case = preparer.case(row, use=use)
        assert list(case.grids) == ["mri", "derm"] and case.grid == case.grids["mri"] == preparer.grid(row, use)
        assert case.targets["seg"].shape == (1, 8, 6, 5)
    with pytest.raises(DataError, match=r"case must have an image to segment; got none \[subject p1, modality seg\]"):
        preparer.case(row, use=["derm"])


def test_pictures_that_share_a_grid_must_share_their_shape(tmp_path: Path) -> None:
    _, row = photographs(tmp_path)
    specs = [ModalitySpec(name=name, spatial_dims=2, channels=3) for name in ("clinic", "derm")]
    cohort, row = cohort_of(tmp_path, {"clinic": "clinic.png", "derm": "derm.png"}, specs)
    with pytest.raises(
        DataError, match=r"image must have the shape of clinic, \(40, 30, 1\), .* got \(24, 20, 1\) \[subject p1, m"
    ):
        preparer_of(cohort, targets=()).case(row)
    wrong = [ModalitySpec(name="clinic", spatial_dims=2)]
    cohort, row = cohort_of(tmp_path, {"clinic": "clinic.png"}, wrong)
    with pytest.raises(DataError, match=r"image must have 1 channels; got 3 \[subject p1, modality clinic, file "):
        preparer_of(cohort, targets=()).case(row)


def test_a_picture_mask_without_position_lies_on_its_image(tmp_path: Path) -> None:
    write(tmp_path / "t1.nii.gz", brain(0, (8, 6, 1)), np.diag([0.7, 0.7, 5, 1]))
    Image.fromarray(np.eye(6, 8, dtype=np.uint8) * 255).save(tmp_path / "mask.png")
    spec = TargetSpec(name="seg", kind="regions", classes=["lesion"], codes=[[255]], paint=[255])
    cohort, row = cohort_of(tmp_path, {"t1": "t1.nii.gz", "seg": "mask.png"}, [ModalitySpec(name="t1")], [spec])
    preparer = preparer_of(cohort)
    assert preparer.case(row).targets["seg"].sum() == 6
    assert preparer.truth(row, "seg")[1] == preparer.grid(row)


def test_text_needs_a_tokenizer(tmp_path: Path) -> None:
    cohort, _ = photographs(tmp_path)
    with pytest.raises(ConfigError, match=r"Preparer.tokenizer must be given for texts; got None \[modality note\]"):
        Preparer(cohort, PreprocessingConfig(), modalities=["note"])


# ------------------------------------------------------------------------------------------------------------------- the cache


@pytest.mark.parametrize("form", ["auto", "npy", "blosc2"])
@pytest.mark.parametrize("dims", [2, 3])
def test_the_form_of_the_cache_changes_no_value(folder: Path, form: Form, dims: int) -> None:
    cohort, row = mri(folder)
    plain = preparer_of(cohort).case(row)
    cache = Cache(folder / "cache", form=form)
    for _ in range(2):  # built, then found
        kept = Preparer(cohort, PreprocessingConfig(), modalities=NAMES, targets=["seg"], cache=cache, spatial_dims=dims).case(
            row
        )
        for found, expected in ((kept.images, plain.images), (kept.targets, plain.targets)):
            assert {n: np.ascontiguousarray(a).tobytes() for n, a in found.items()} == {
                n: a.tobytes() for n, a in expected.items()
            }
    entries = [p.suffix for p in (folder / "cache").glob("??/*.*")]
    assert entries == [".b2nd" if form == "blosc2" else ".npy"] * 5


def test_a_file_replaced_with_its_size_and_time_is_read_again(tmp_path: Path) -> None:
    file = tmp_path / "t2.nii"
    write(file, brain(0))
    cohort, row = cohort_of(tmp_path, {"t2": "t2.nii"}, [ModalitySpec(name="t2")])
    preparer = preparer_of(cohort, targets=(), cache=tmp_path / "cache")
    before = np.array(preparer.case(row).images["t2"])
    for seed in range(1, 4):
        status = file.stat()
        write(file, brain(seed))
        os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns))
        assert (file.stat().st_size, file.stat().st_mtime_ns) == (status.st_size, status.st_mtime_ns)
        after = preparer.case(row).images["t2"]
        assert after.tobytes() == preparer_of(cohort, targets=()).case(row).images["t2"].tobytes() != before.tobytes()


def test_a_data_set_that_moved_finds_its_entries(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    there, cache = tmp_path_factory.mktemp("there"), tmp_path_factory.mktemp("cache")
    preparer_of(mri(folder)[0], cache=cache).case(mri(folder)[1])
    entries = sorted((cache).glob("??/*.*"))
    for file in folder.glob("*.nii.gz"):
        file.rename(there / file.name)
    cohort, row = mri(there)
    with pytest.MonkeyPatch.context() as patch:
        patch.delattr("comodal.data.preprocessing.read_volume")
        assert set(preparer_of(cohort, cache=cache).case(row).images) == set(NAMES)
    assert sorted(cache.glob("??/*.*")) == entries and len(entries) == 5


def test_a_file_that_changes_while_it_is_prepared_is_refused(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cohort, row = mri(folder)

    def slow(path: Path, **words: Any) -> Any:
        if path.name == "t1.nii.gz":
            write(path, brain(50))
        return read_volume(path, **words)

    monkeypatch.setattr("comodal.data.preprocessing.read_volume", slow)
    with pytest.raises(DataError, match=r"file must stay the same while it is prepared; got a file that changed"):
        preparer_of(cohort, cache=folder / "cache").case(row)
    monkeypatch.undo()
    kept = preparer_of(cohort, cache=folder / "cache").case(row).images["t1"]
    assert kept.tobytes() == preparer_of(cohort).case(row).images["t1"].tobytes()
