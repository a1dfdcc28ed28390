"""`comodal init` where classes are predicted: images whole, networks that a CPU can pay for, and what the user has settled."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import yaml
from PIL import Image
from tests.training.test_plan import cohort_of

from comodal.api import init
from comodal.config import RunConfig, build_method, build_problem
from comodal.data.cohort import Cohort, ModalitySpec, TargetSpec
from comodal.errors import ConfigError
from comodal.method import Method, Stage
from comodal.training import plan as planning
from comodal.training.headers import look
from comodal.training.plan import plan

GRADE = TargetSpec(name="grade", kind="class", classes=["low", "high"])
SCAN, PHOTO = ModalitySpec(name="scan"), ModalitySpec(name="photo", spatial_dims=2, grid="photo", channels=3)
Shape = tuple[int, int, int]


@pytest.fixture(autouse=True)
def known_pace(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(planning, "seconds_per_step", lambda *_, **__: 0.5)
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)


def scans(folder: Path, *files: tuple[Shape, tuple[float, float, float]], names: Sequence[str] = ("scan",)) -> Path:
    folder.mkdir(parents=True)
    rows = []
    for number, (shape, spacing) in enumerate(files):
        nib.save(nib.Nifti1Image(np.ones(shape, dtype=np.uint8), np.diag([*spacing, 1.0])), folder / f"{number}.nii.gz")
        rows.append({**dict.fromkeys(names, f"{number}.nii.gz"), "grade": ("low", "high")[number % 2]})
    return cohort_of(folder, [ModalitySpec(name=name) for name in names], rows, GRADE)


def photos(folder: Path, *sizes: tuple[int, int]) -> Path:
    folder.mkdir(parents=True)
    rows = []
    for number, (width, height) in enumerate(sizes):
        Image.fromarray(np.zeros((height, width, 3), dtype=np.uint8)).save(folder / f"{number}.png")
        rows.append({"photo": f"{number}.png", "grade": ("low", "high")[number % 2]})
    return cohort_of(folder, [PHOTO], rows, GRADE)


def stacks(folder: Path, *shapes: Shape) -> Path:
    """Folders of slices, which state no spacing."""
    rows = []
    for number, (width, height, depth) in enumerate(shapes):
        (folder / str(number)).mkdir(parents=True)
        for k in range(depth):
            Image.fromarray(np.zeros((height, width), dtype=np.uint8)).save(folder / str(number) / f"{k}.tif")
        rows.append({"scan": str(number), "grade": ("low", "high")[number % 2]})
    return cohort_of(folder, [ModalitySpec(name="scan", files="*.tif")], rows, GRADE)


def built(config: RunConfig, cohort: Path) -> Method:
    return build_method(config, build_problem(config, Cohort.load(cohort)))


def whole(config: RunConfig, cohort: Path, name: str = "scan") -> bool:
    """Whether no prepared image is larger than the patch."""
    from comodal.data.preprocessing import Preparer

    loaded = Cohort.load(cohort)
    preparer = Preparer(loaded, config.data.preprocessing(), modalities=[name])
    patch = build_problem(config, loaded).patch_of(name)
    shapes = [preparer.case(case).images[name].shape[1:] for case in loaded.cases]
    return all(have <= room for shape in shapes for have, room in zip(shape, patch, strict=False))


# ------------------------------------------------------------------------------------------------------------- volumes
def test_a_volume_is_seen_whole(tmp_path: Path) -> None:
    cohort = scans(tmp_path / "c", ((40, 44, 30), (2, 2, 2)), ((52, 40, 30), (2, 2, 2)), ((40, 40, 30), (2, 2, 2)))
    made = plan("classifier", cohort)
    assert made.config.data.spatial_dims == 3 and made.config.data.patch == (56, 48, 32)  # the largest, not the median
    assert made.config.data.spacing == (2.0, 2.0, 2.0) and made.config.data.resize is None
    assert made.config.method["slices"] == "volume" and made.config.method["encoder"] == "resnet10"
    assert made.config.training.batch_size == 4 and made.config.data.draws_per_case == 1
    assert made.config.splits.stratify == ("grade",)
    assert "the largest image of 3 is seen whole" in made.text
    assert whole(made.config, cohort)


def test_a_large_volume_is_seen_whole_and_coarser_on_a_cpu(tmp_path: Path) -> None:
    cohort = scans(tmp_path / "c", ((240, 240, 155), (1, 1, 1)), ((200, 200, 155), (1, 1, 1)))
    config = plan("classifier", cohort).config
    assert isinstance(config.data.spacing, tuple) and 3.2 < config.data.spacing[0] < 3.5 and len(set(config.data.spacing)) == 1
    assert config.data.patch == (72, 72, 48) and whole(config, cohort)


def test_the_finest_axes_are_made_coarser_first(tmp_path: Path) -> None:
    cohort = scans(tmp_path / "c", ((200, 200, 30), (1, 1, 2.9)))
    config = plan("classifier", cohort).config
    assert isinstance(config.data.spacing, tuple)
    x, y, z = config.data.spacing
    assert 2 < x == y < 2.3 and z == 2.9 and config.method["slices"] == "volume"
    assert whole(config, cohort)


def test_files_of_several_spacings_are_whole_at_one(tmp_path: Path) -> None:
    cohort = scans(tmp_path / "c", ((40, 40, 40), (1, 1, 1)), ((40, 40, 40), (1, 1, 1)), ((40, 40, 40), (1.5, 1.5, 1.5)))
    config = plan("classifier", cohort).config
    assert config.data.spacing == (1.0, 1.0, 1.0) and config.data.patch == (64, 64, 64) and whole(config, cohort)


def test_thick_slices_are_read_one_by_one_and_all_of_them(tmp_path: Path) -> None:
    cohort = scans(tmp_path / "c", ((64, 60, 20), (1, 1, 5)), ((64, 60, 22), (1, 1, 5)))
    made = plan("classifier", cohort)
    assert made.config.data.spatial_dims == 3 and made.config.data.patch == (64, 64, 22)
    assert made.config.method["slices"] == "mean" and made.config.method["encoder"] == "resnet10-quarter"
    assert "few or thick slices; volume reads them in 3-D" in made.text
    assert whole(made.config, cohort)
    asked = plan("classifier", cohort, overrides=["method.slices=volume"]).config
    assert asked.method["slices"] == "volume" and asked.data.patch == (64, 64, 24)


def test_stacks_without_a_spacing_get_one_size(tmp_path: Path) -> None:
    cohort = stacks(tmp_path / "c", (256, 256, 6), (256, 256, 10), (256, 256, 8))
    made = plan("classifier", cohort)
    assert made.config.data.resize == (176, 176, 8) == made.config.data.patch and made.config.data.spacing == "native"
    assert made.config.method["slices"] == "mean" and "the files state no spacing" in made.text
    assert whole(made.config, cohort)
    same = plan("classifier", stacks(tmp_path / "same", (64, 60, 6), (64, 60, 6))).config
    assert same.data.resize is None and same.data.patch == (64, 64, 6)


def test_many_volumes_get_a_smaller_network(tmp_path: Path) -> None:
    shape: tuple[Shape, tuple[float, float, float]] = ((64, 64, 64), (1, 1, 1))
    config = plan("classifier", scans(tmp_path / "c", shape, shape, names=("t1", "t2"))).config
    assert config.method["encoder"] == "resnet10-quarter" and config.data.patch == (64, 64, 64)


def test_the_encoder_that_is_asked_for_decides_the_patch(tmp_path: Path) -> None:
    cohort = scans(tmp_path / "c", ((40, 40, 20), (1, 1, 1)))
    config = plan("classifier", cohort, overrides=["method.encoder=densenet121"]).config
    assert config.data.patch == (40, 40, 32) and config.method["slices"] == "volume"
    assert built(config, cohort).problem.patch == (40, 40, 32)
    flat = plan("classifier", cohort, overrides=["method.encoder=inception-v3"])
    assert flat.config.method["slices"] == "mean" and flat.config.data.patch == (75, 75, 20)
    assert "the encoder reads pictures" in flat.text


# ------------------------------------------------------------------------------------------------------------ pictures
def test_pictures_of_several_sizes_get_one(tmp_path: Path) -> None:
    cohort = photos(tmp_path / "c", (768, 512), (768, 512), (600, 450))
    made = plan("classifier", cohort)
    assert made.config.data.resize == (160, 112) == made.config.data.patch and made.config.data.spatial_dims == 2
    assert made.config.method["encoder"] == "resnet18" and made.config.training.batch_size == 16
    assert "pictures of about 768 x 512 pixels" in made.text
    assert whole(made.config, cohort, "photo")
    asked = plan("classifier", cohort, overrides=["data.resize=[299, 299]", "method.encoder=inception-v3"]).config
    assert asked.data.resize == (299, 299) == asked.data.patch


def test_small_pictures_stay_as_they_are(tmp_path: Path) -> None:
    config = plan("classifier", photos(tmp_path / "c", (90, 60), (90, 60))).config
    assert config.data.resize is None and config.data.patch == (96, 64)


def test_pretrained_networks_get_pictures_of_the_size_they_know(tmp_path: Path) -> None:
    cohort = photos(tmp_path / "c", (500, 500))
    assert plan("classifier", cohort, overrides=["method.pretrained={photo: a/b}"]).config.data.resize == (224, 224)


def test_items_of_a_bag_are_made_smaller(tmp_path: Path) -> None:
    specs = [ModalitySpec(name="tiles", kind="bag", spatial_dims=2, channels=3, grid="tiles"), SCAN]
    (tmp_path / "c").mkdir()
    nib.save(nib.Nifti1Image(np.ones((32, 32, 32), dtype=np.uint8), np.eye(4)), tmp_path / "c" / "a.nii")
    Image.fromarray(np.zeros((256, 256, 3), dtype=np.uint8)).save(tmp_path / "c" / "a.png")
    cohort = cohort_of(tmp_path / "c", specs, [{"tiles": "a.png", "scan": "a.nii", "grade": "low"}] * 2, GRADE)
    made = plan("classifier", cohort)
    assert made.config.data.resize == {"tiles": (64, 64)} and made.config.data.patch == {"grid": (32, 32, 32)}
    assert made.config.method["encoder"] == {"scan": "resnet10", "tiles": "resnet10-quarter"}
    assert "items of tiles (256 pixels) for a CPU" in made.text and made.config.training.batch_size == 4


def test_items_are_timed_at_their_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    specs = [ModalitySpec(name="tiles", kind="bag", spatial_dims=2, channels=3, grid="tiles")]
    (tmp_path / "c").mkdir()
    Image.fromarray(np.zeros((256, 256, 3), dtype=np.uint8)).save(tmp_path / "c" / "a.png")
    cohort = cohort_of(tmp_path / "c", specs, [{"tiles": "a.png", "grade": "low"}] * 2, GRADE)
    told: list[Mapping[str, Any]] = []

    def pace(_: Method, stage: Stage, size: int, **more: Any) -> float:
        told.append(more)
        return 0.5

    monkeypatch.setattr(planning, "seconds_per_step", pace)
    plan("classifier", cohort)
    assert told == [{"device": "cpu", "tiles": {"tiles": (64, 64)}}]
    monkeypatch.undo()
    made = plan("classifier", cohort, minutes=0.001, overrides=["method.encoder=densenet121"])  # it reads no 16 x 16
    assert made.config.method["steps"] == 50


# ------------------------------------------------------------------------------------------------------------- settled
def test_targets_of_classes_are_chosen_for_a_classifier(tmp_path: Path) -> None:
    folder = tmp_path / "c"
    folder.mkdir()
    nib.save(nib.Nifti1Image(np.ones((32, 32, 32), dtype=np.uint8), np.eye(4)), folder / "a.nii")
    seg = TargetSpec(name="seg", kind="regions", classes=["WT"], codes=[[1]], paint=[1])
    path = cohort_of(folder, [SCAN], [{"scan": "a.nii", "grade": "low"}] * 2, GRADE)
    values = yaml.safe_load(path.with_suffix(".yaml").read_text())
    values["targets"].append(seg.model_dump(mode="json"))
    path.with_suffix(".yaml").write_text(yaml.safe_dump(values))
    lines = path.read_text().splitlines()
    path.write_text("\n".join([lines[0] + ",seg", *(line + ",a.nii" for line in lines[1:])]) + "\n")
    made = plan("classifier", path)
    assert made.config.data.targets == ("grade",) and "those of classes, which this method predicts" in made.text
    assert made.config.data.patch == (32, 32, 32)
    assert plan("unet", path).config.data.targets is None


def test_what_is_settled_stays_and_the_rest_follows(tmp_path: Path) -> None:
    shape: tuple[Shape, tuple[float, float, float]] = ((64, 64, 64), (1, 1, 1))
    cohort = scans(tmp_path / "c", shape, shape, names=("t1", "t2"))
    made = init(
        "classifier",
        cohort,
        out=tmp_path / "config.yaml",
        overrides=["data.modalities=[t2]", "method.steps=7", "training.batch_size=2", "data.spacing=[2, 2, 2]"],
    )
    config = made.config
    assert config.data.modalities == ("t2",) and config.method["steps"] == 7 and config.training.batch_size == 2
    assert config.data.patch == (32, 32, 32) and config.method["encoder"] == "resnet10"  # one volume, and a small one
    reasons = {line.split(":")[0].strip(): line.partition(" # ")[2] for line in made.text.splitlines() if " # " in line}
    assert {reasons[key] for key in ("modalities", "steps", "batch_size", "spacing")} == {"as asked"}
    with pytest.raises(ConfigError, match=r"data\.modalities must name columns of the cohort; got 't3'"):
        plan("classifier", cohort, overrides=["data.modalities=[t3]"])
    with pytest.raises(ConfigError, match=r"config\.training\.batch must be a known key.*Did you mean batch_size"):
        plan("classifier", cohort, overrides=["training.batch=2"])
    with pytest.raises(ConfigError, match=r"--set must be of the form a\.b=value"):
        plan("classifier", cohort, overrides=["training.seed"])


def test_segmentation_is_planned_from_the_images_in_use(tmp_path: Path) -> None:
    nib.save(nib.Nifti1Image(np.ones((40, 40, 30), dtype=np.uint8), np.eye(4)), tmp_path / "a.nii.gz")
    nib.save(nib.Nifti1Image(np.ones((20, 20, 24), dtype=np.uint8), np.diag([2.0, 2, 2, 1])), tmp_path / "b.nii.gz")
    seg = TargetSpec(name="seg", kind="regions", classes=["WT"], codes=[[1]], paint=[1])
    specs = [ModalitySpec(name="a", grid="a"), ModalitySpec(name="b", grid="b")]
    cohort = cohort_of(tmp_path, specs, [{"a": "a.nii.gz", "b": "b.nii.gz", "seg": "b.nii.gz"}] * 2, seg)
    config = plan("unet", cohort, overrides=["data.modalities=[b]"]).config
    assert config.data.patch == (24, 24, 24) and config.data.spacing == (2.0, 2.0, 2.0)


def test_what_headers_say(tmp_path: Path) -> None:
    cohort = Cohort.load(scans(tmp_path / "c", ((10, 12, 30), (2, 2, 1)), ((14, 12, 20), (2, 2, 2))))
    seen = look(cohort)
    assert seen is not None and seen.largest == (14, 12, 30) and seen.extent == (28.0, 24.0, 40.0) and not seen.same_shape
    assert seen.voxels_at((2, 3, 3)) == (14, 8, 14)
    flat = look(Cohort.load(stacks(tmp_path / "s", (20, 30, 3))))
    assert flat is not None and not flat.stated and flat.voxels_at((9, 9, 9)) == (20, 30, 3) and flat.same_shape
