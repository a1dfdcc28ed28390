"""`comodal init`: chosen from the headers and the pace of this machine, explained, and read back as a configuration."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import ClassVar

import nibabel as nib
import numpy as np
import pytest
import yaml
from PIL import Image
from tests.training.fakes import SEG, TwoStage, TwoStageConfig, problem

from comodal.api import init
from comodal.config import build_method, build_problem, load_config
from comodal.data.cohort import Case, Cohort, CohortMeta, ModalitySpec, TargetSpec
from comodal.errors import ConfigError, DataError
from comodal.method import Method, MethodConfig, Stage
from comodal.methods import METHODS, Entry
from comodal.training import plan as planning
from comodal.training.headers import look
from comodal.training.plan import InitResult, plan


@pytest.fixture(autouse=True)
def known_pace(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine without a GPU that makes a step in half a second."""
    monkeypatch.setattr(planning, "seconds_per_step", lambda *_, **__: 0.5)
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)


def cohort_of(folder: Path, specs: Sequence[ModalitySpec], cells: Sequence[dict[str, str]], target: TargetSpec = SEG) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    meta = CohortMeta(layout="csv", root=str(folder), modalities=list(specs), targets=[target])
    cases = [Case.build(f"p{number}", cells=row) for number, row in enumerate(cells)]
    return Cohort.build(meta, cases, folder).save(folder / "cohort.csv")


def volumes(folder: Path, shape: tuple[int, int, int], spacings: Sequence[tuple[float, float, float]]) -> Path:
    folder.mkdir(parents=True)
    for number, spacing in enumerate(spacings):
        nib.save(nib.Nifti1Image(np.ones(shape, dtype=np.uint8), np.diag([*spacing, 1.0])), folder / f"{number}.nii.gz")
    rows = [{"t1": f"{number}.nii.gz", "seg": f"{number}.nii.gz"} for number in range(len(spacings))]
    return cohort_of(folder, [ModalitySpec(name="t1")], rows)


def pictures(folder: Path, *, slices: int | None = None, size: tuple[int, int] = (40, 30)) -> Path:
    rows = []
    for number in range(4):
        places = [folder / f"{number}.png"] if slices is None else [folder / str(number) / f"{k}.tif" for k in range(slices)]
        for place in places:
            place.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(np.zeros((size[1], size[0]), dtype=np.uint8)).save(place)
        cell = f"{number}.png" if slices is None else str(number)
        rows.append({"t1": cell, "seg": cell})
    files = "" if slices is None else "*.tif"
    return cohort_of(folder, [ModalitySpec(name="t1", files=files)], rows, SEG.model_copy(update={"files": files}))


def test_volumes_are_trained_as_volumes(tmp_path: Path) -> None:
    config = plan("unet", volumes(tmp_path / "c", (48, 48, 30), [(2, 2, 2)] * 3)).config
    assert config.data.spatial_dims == 3 and config.data.patch == (48, 48, 32) and config.data.spacing == (2.0, 2.0, 2.0)
    assert config.method["levels"] == 4 and config.method["width"] == 16
    assert config.training.batch_size == 4 and config.training.precision == "32-true"
    assert config.splits.fractions == (0.6, 0.2, 0.2)  # of few cases, validation and test take more


def test_a_patch_is_one_that_the_network_can_halve(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(planning, "measure", lambda *_, **__: None)
    made = plan("ciml", volumes(tmp_path / "c", (56, 56, 36), [(2, 2, 2)] * 3))
    assert made.config.data.patch == (48, 48, 48)  # 40 would do for a U-Net of four levels
    assert "multiples of 16 which the network can halve" in made.text
    assert plan("unet", volumes(tmp_path / "d", (56, 56, 36), [(2, 2, 2)] * 3)).config.data.patch == (48, 48, 40)


def test_a_large_volume_is_seen_coarser_on_a_cpu(tmp_path: Path) -> None:
    made = plan("unet", volumes(tmp_path / "c", (200, 200, 200), [(1, 1, 1)]))
    assert made.config.data.spacing == (2.0, 2.0, 2.0)  # 8 million voxels, of which 1 million are affordable
    assert made.config.data.patch == (48, 48, 48)
    assert "coarser by 2.0 than the files" in made.text


def test_thick_or_few_slices_are_trained_as_slices(tmp_path: Path) -> None:
    thick = plan("unet", volumes(tmp_path / "thick", (64, 50, 40), [(1, 1, 4)] * 2)).config
    assert thick.data.spatial_dims == 2 and thick.data.patch == (64, 64) and thick.data.draws_per_case == 16
    assert thick.training.batch_size == 16 and thick.method["levels"] == 5
    few = plan("unet", volumes(tmp_path / "few", (64, 64, 15), [(1, 1, 1)] * 2))
    assert few.config.data.spatial_dims == 2 and "few or thick slices" in few.text
    asked = plan("unet", tmp_path / "thick" / "cohort.csv", spatial_dims=3)
    assert asked.config.data.spatial_dims == 3


def test_files_that_differ_get_their_median_spacing(tmp_path: Path) -> None:
    config = plan("unet", volumes(tmp_path / "c", (40, 40, 40), [(1, 1, 1), (1, 1, 1.5), (2, 2, 2)])).config
    assert config.data.spacing == (1.0, 1.0, 1.5)


def test_stacks_of_slices(tmp_path: Path) -> None:
    config = plan("moddrop", pictures(tmp_path / "c", slices=12, size=(256, 256))).config
    assert config.data.spatial_dims == 2 and config.data.patch == (256, 256) and config.data.draws_per_case == 12
    assert config.data.spacing == "native"  # pictures do not say how large their voxels are


def test_pictures(tmp_path: Path) -> None:
    config = plan("unet", pictures(tmp_path / "c")).config
    assert config.data.spatial_dims == 2 and config.data.patch == (48, 32) and config.data.draws_per_case == 1


def test_steps_come_from_minutes_and_pace(tmp_path: Path) -> None:
    cohort = volumes(tmp_path / "c", (48, 48, 48), [(2, 2, 2)] * 2)
    assert plan("unet", cohort, minutes=4).config.method["steps"] == 4 * 60 * 0.75 / 0.5
    assert plan("unet", cohort).config.method["steps"] == 10 * 60 * 0.75 / 0.5
    assert plan("unet", cohort, minutes=0.01).config.method["steps"] == 50  # fewer teach nothing
    assert "about 4 minutes here, at 0.5 s a step" in plan("unet", cohort, minutes=4).text
    with pytest.raises(ConfigError, match=r"--minutes must be above 0; got 0\. For instance --minutes 10\."):
        plan("unet", cohort, minutes=0)


def test_the_text_is_the_configuration_with_reasons(tmp_path: Path) -> None:
    cohort = volumes(tmp_path / "c", (48, 48, 48), [(2, 2, 2)] * 2)
    made = init("moddrop", cohort, out=tmp_path / "sub" / "config.yaml")
    again = load_config(tmp_path / "sub" / "config.yaml")
    assert Path(again.cohort).resolve() == cohort.resolve()
    assert again.model_copy(update={"cohort": ""}) == made.config.model_copy(update={"cohort": ""})
    assert build_method(again, build_problem(again, Cohort.load(cohort))).problem.names == ("t1",)
    lines = made.text.splitlines()
    assert lines[0].startswith("# Neverova, Wolf, Taylor, Nebout (2016). ModDrop")
    reasons = {line.split(":")[0].strip(): line.partition(" # ")[2] for line in lines if " # " in line}
    assert reasons["patch"].startswith("multiples of 8 for a network of 4 levels")
    assert reasons["spacing"] == "mm: that of all files; other files are brought to it"
    assert reasons["drop"] == "probability that a modality of a sample is dropped in training"
    assert reasons["fold"] == "the fold that is the test set, from 0"
    assert set(reasons) >= {"spatial_dims", "steps", "batch_size", "precision", "clip", "validations", "checkpoint_steps"}
    assert yaml.safe_load(made.text)["method"]["steps"] == made.config.method["steps"]
    with pytest.raises(ConfigError, match=r"--out must be a new file"):
        init("moddrop", cohort, out=tmp_path / "sub" / "config.yaml")


def test_images_of_another_grid_get_a_patch_of_their_own(tmp_path: Path) -> None:
    nib.save(nib.Nifti1Image(np.ones((40, 40, 30), dtype=np.uint8), np.eye(4)), tmp_path / "t1.nii.gz")
    Image.fromarray(np.zeros((90, 120), dtype=np.uint8)).save(tmp_path / "slide.png")
    specs = [ModalitySpec(name="t1", grid="mri"), ModalitySpec(name="slide", spatial_dims=2, grid="slide")]
    grade = TargetSpec(name="grade", kind="class", classes=["low", "high"])
    path = cohort_of(tmp_path, specs, [{"t1": "t1.nii.gz", "slide": "slide.png", "grade": "low"}] * 2, grade)
    cohort = Cohort.load(path)
    seen = look(cohort)
    assert seen is not None and seen.shape == (40, 40, 30)  # no mean of volumes and pictures
    data = planning._with_other_grids(cohort, {"spatial_dims": 3, "patch": [40, 40, 32], "spacing": [1.0, 1.0, 1.0]})
    assert data == {
        "spatial_dims": 3,
        "patch": {"mri": [40, 40, 32], "slide": [120, 96]},
        "spacing": {"mri": [1.0, 1.0, 1.0]},
    }


def test_the_pace_is_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    cohort = volumes(tmp_path / "c", (16, 16, 16), [(2, 2, 2)] * 2)
    config = plan("unet", cohort, minutes=0.001, spatial_dims=2).config
    method = build_method(config, build_problem(config, Cohort.load(cohort)))
    assert 0 < planning.seconds_per_step(method, method.stages()[0], 2, device="cpu") < 60
    first, second = TwoStage(problem(), TwoStageConfig()).stages()
    assert second.inputs == "encoded"
    for stage in (first, second):
        assert 0 < planning.seconds_per_step(TwoStage(problem(), TwoStageConfig()), stage, 2, device="cpu") < 60


# ------------------------------------------------------------------------------------------------- the time of all stages
class Paced(TwoStage):
    """Stages as a test has them, by the steps that are configured."""

    made: ClassVar[Callable[[int], tuple[Stage, ...]]]

    class Config(MethodConfig):
        """How long."""

        first: int = 4
        second: int = 6
        steps: int = 100

    def stages(self) -> tuple[Stage, ...]:
        return type(self).made(self.config.steps)  # type: ignore[attr-defined]  # of the class above


def planned(
    monkeypatch: pytest.MonkeyPatch, folder: Path, stages: Callable[[int], tuple[Stage, ...]]
) -> tuple[InitResult, list[str]]:
    """A plan of four minutes, three of them for steps, and the stages that were timed: encoders take 0.5 s, others 0.1 s."""
    timed: list[str] = []

    def pace(_: Method, stage: Stage, size: int, *, device: str) -> float:
        assert (size, device) == (16, "cpu")
        timed.append(stage.name)
        return 0.5 if stage.train == ("encoders",) else 0.1

    monkeypatch.setattr(Paced, "made", staticmethod(stages), raising=False)
    monkeypatch.setitem(METHODS, "paced", Entry("tests.training.test_plan:Paced", "", ("segmentation",), "", "", ""))
    monkeypatch.setattr(planning, "seconds_per_step", pace)
    return plan("paced", volumes(folder / "c", (16, 16, 16), [(2, 2, 2)] * 10), minutes=4, spatial_dims=2), timed


def test_the_time_of_all_stages_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made, timed = planned(
        monkeypatch,
        tmp_path,
        lambda steps: (Stage("long", ("encoders",), steps=steps), Stage("half", ("head",), steps=steps // 2)),
    )
    assert timed == ["long", "half"]
    assert made.config.method["steps"] == int(180 / (0.5 + 0.1 / 2))
    assert "about 4 minutes here, at 0.55 s for a step of each of 2 stages" in made.text


def test_stages_of_a_length_of_their_own_leave_the_rest_of_the_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """10 cases, of which 6 are trained on, with 16 draws each: 6 batches of 16 in an epoch, of encodings one."""
    made, timed = planned(
        monkeypatch,
        tmp_path,
        lambda steps: (
            Stage("epochs", ("encoders",), epochs=10),
            Stage("scaled", ("head",), steps=steps),
            Stage("steps", ("first", "head"), steps=100),
            Stage("encoded", ("head",), inputs="encoded", augment=False, epochs=20),
        ),
    )
    assert timed == ["epochs", "scaled", "steps", "encoded"]
    assert made.config.method["steps"] == round((180 - (10 * 6 * 0.5 + 100 * 0.1 + 20 * 0.1)) / 0.1)
    assert "at 0.1 s a step, and 42 s for the other stages" in made.text


def test_stages_that_are_alike_are_timed_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made, timed = planned(
        monkeypatch,
        tmp_path,
        lambda steps: tuple(Stage(name, ("encoders",), steps=steps) for name in ("a", "b", "c")),
    )
    assert timed == ["a"] and made.config.method["steps"] == 120


def test_what_takes_longer_than_the_time_leaves_the_fewest_steps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made, _ = planned(
        monkeypatch, tmp_path, lambda steps: (Stage("own", ("encoders",), steps=1000), Stage("scaled", ("head",), steps=steps))
    )
    assert made.config.method["steps"] == 50


def test_steps_that_no_stage_follows_stay_as_they_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made, _ = planned(monkeypatch, tmp_path, lambda _: (Stage("own", ("encoders",), epochs=2),))
    assert made.config.method["steps"] == 100 and "minutes here" not in made.text


def test_a_cohort_without_an_image_to_look_at(tmp_path: Path) -> None:
    cohort = cohort_of(tmp_path / "c", [ModalitySpec(name="t1")], [{"seg": "a.nii"}])
    with pytest.raises(DataError, match=r"cohort must have a case with an image; got none\. Fill a modality's column\."):
        look(Cohort.load(cohort))


def test_a_cohort_of_vectors_has_nothing_to_look_at(tmp_path: Path) -> None:
    target = TargetSpec(name="grade", kind="class", classes=["low", "high"])
    cohort = cohort_of(tmp_path / "c", [ModalitySpec(name="v", kind="features", channels=3)], [{"v": "a.npy"}], target)
    assert look(Cohort.load(cohort)) is None
