"""Predictions for new patients: columns that differ from the run's, and files that must not be touched."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
from PIL import Image

from comodal import api
from comodal.cli.main import main
from comodal.config import RunConfig, build_method, validated
from comodal.data.cohort import Case, Cohort, CohortMeta, ModalitySpec, TargetSpec
from comodal.data.normalisation import CtNumbers, Fitted
from comodal.errors import ConfigError, DataError, UserError
from comodal.inference.predictor import predict_case
from comodal.run import Run, save_weights
from comodal.study.evaluating import evaluate_run

SEG = TargetSpec(name="seg", kind="regions", classes=["WT", "ET"], codes=[[1, 2], [2]], paint=[1, 2])
SHAPE = (8, 8, 4)


def save(path: Path, array: Any, *, seed: int | None = None) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if seed is not None:
        array = np.random.default_rng(seed).integers(1, 900, SHAPE)
    nib.save(nib.Nifti1Image(np.asarray(array).astype(np.int16), np.eye(4)), path)


def files(root: Path, cases: int = 2) -> None:
    """Images a and b and a mask of each case."""
    for k in range(cases):
        save(root / f"p{k}_a.nii.gz", None, seed=2 * k)
        save(root / f"p{k}_b.nii.gz", None, seed=2 * k + 1)
        mask = np.zeros(SHAPE)
        mask[2:6, 2:6, 1:3], mask[3:5, 3:5, 1:3] = 1, 2
        save(root / f"p{k}_seg.nii.gz", mask)


def cohort(root: Path, *specs: ModalitySpec | TargetSpec, cases: int = 2) -> Cohort:
    meta = CohortMeta(
        layout="csv",
        root=str(root),
        modalities=[s for s in specs if isinstance(s, ModalitySpec)],
        targets=[s for s in specs if isinstance(s, TargetSpec)],
    )
    cells = [{s.name: f"p{k}_{s.name}.nii.gz" for s in specs} for k in range(cases)]
    return Cohort.build(meta, [Case.build(f"p{k}", cells=row) for k, row in enumerate(cells)], root)


def made_run(
    folder: Path, own: Cohort, *, fitted: Fitted | None = None, method: dict[str, Any] | None = None, **data: Any
) -> Run:
    """A run of a network that never learned, as training leaves it."""
    values = {
        "cohort": "cohort.csv",
        "method": method or {"name": "unet", "width": 2, "levels": 2},
        "data": {"spatial_dims": 3, "patch": [8, 8, 4], **data},
        "training": {"overlap": 0.0},
    }
    config = validated(RunConfig, values, "config").resolved()
    splits = {"train": list(own.ids), "val": [], "test": list(own.ids)}
    run = Run.create(folder, config, own, splits=splits, fitted=fitted or Fitted(), tokenizer=None)
    torch.manual_seed(0)
    save_weights(run.path / "weights.safetensors", build_method(run.config, run.problem).state_dict())
    return run


A, B = ModalitySpec(name="a"), ModalitySpec(name="b")


@pytest.fixture
def run(tmp_path: Path) -> Run:
    files(tmp_path / "own")
    return made_run(tmp_path / "run", cohort(tmp_path / "own", A, B, SEG))


def predicted(run: Run, other: Cohort, out: Path, **more: Any) -> dict[str, np.ndarray]:
    """{case: label map} of what `api.predict` writes for a cohort that was saved."""
    csv = other.save(out.parent / f"{out.name}-cohort" / "new.csv")
    written = api.predict(run, cohort=csv, out=out, device="cpu", **more)
    return {one.subject: np.asarray(nib.Nifti1Image.from_filename(one.files[0]).dataobj) for one in written}


# ----------------------------------------------------------------------------------------------------------- other columns
def test_new_patients_without_a_mask_or_with_other_columns(run: Run, tmp_path: Path) -> None:
    new = tmp_path / "own"
    whole = predicted(run, cohort(new, A, B, SEG), tmp_path / "whole")
    assert {name: label.shape for name, label in whole.items()} == {"p0": SHAPE, "p1": SHAPE}
    for number, specs in enumerate(([A, B], [B, A], [ModalitySpec(name="seg"), B, A])):
        again = predicted(run, cohort(new, *specs), tmp_path / f"out{number}")
        assert all(np.array_equal(again[name], whole[name]) for name in whole), specs
    said: list[Any] = []
    one = predicted(run, cohort(new, B, ModalitySpec(name="seg")), tmp_path / "one", on_event=said.append)
    assert set(one) == {"p0", "p1"}
    assert any("not used, since the run does not know them: seg" in getattr(event, "text", "") for event in said)
    guessed = TargetSpec(name="seg", kind="regions", classes=["label-1"], codes=[[1]])
    assert set(predicted(run, cohort(new, A, guessed), tmp_path / "guessed")) == {"p0", "p1"}  # masks are not read


def test_what_index_makes_of_new_patients_can_be_predicted(run: Run, tmp_path: Path) -> None:
    (tmp_path / "own" / "new.csv").write_text("subject,b\nanna,p0_b.nii.gz\nbert,p1_b.nii.gz\n")
    api.index("csv", tmp_path / "own" / "new.csv", tmp_path / "new.csv")
    written = api.predict(run, cohort=tmp_path / "new.csv", out=tmp_path / "out", device="cpu")
    assert [(one.subject, one.used) for one in written] == [("anna", ("b",)), ("bert", ("b",))]


def test_another_yaml_changes_no_number(tmp_path: Path) -> None:
    """HU, channels and normalisation are the run's, even where `index` could not know them from the files."""
    files(tmp_path / "own")
    ct = ModalitySpec(name="a", unit="HU")
    numbers = Fitted(ct={"a": CtNumbers(low=0, high=900, mean=300, deviation=200)})
    run = made_run(tmp_path / "run", cohort(tmp_path / "own", ct, B, SEG), fitted=numbers, normalise={"b": "unit"})
    own = run.preparer().case(run.cohort.case("p0"))
    plain = cohort(tmp_path / "own", replace_grid(B, "else"), ModalitySpec(name="a"), SEG)
    preparer = run.preparer(plain)
    other = preparer.case(plain.case("p0"))
    assert list(other.images) == ["a", "b"] and [m.name for m in preparer.modalities] == ["a", "b"]
    assert all(np.array_equal(other.images[name], own.images[name]) for name in ("a", "b"))
    assert other.grids == own.grids and own.images["b"].max() == 1
    assert np.array_equal(other.targets["seg"], own.targets["seg"])


def replace_grid(spec: ModalitySpec, grid: str) -> ModalitySpec:
    return spec.model_copy(update={"grid": grid})


def test_evaluation_takes_codes_by_the_name_of_the_class(run: Run, tmp_path: Path) -> None:
    """The same masks with other codes and another order of the classes: the same table."""
    own = evaluate_run(run, device="cpu", examples=False)
    folder = tmp_path / "other"
    files(folder)
    for k in range(2):
        mask = np.asarray(nib.Nifti1Image.from_filename(folder / f"p{k}_seg.nii.gz").dataobj)
        save(folder / f"p{k}_seg.nii.gz", np.choose(mask, [0, 7, 3]))
    seg = TargetSpec(name="seg", kind="regions", classes=["ET", "WT"], codes=[[3], [7, 3]])
    other = Cohort.load(cohort(folder, B, seg, A).save(tmp_path / "other.csv"))
    found = evaluate_run(run, cohort=other, device="cpu")
    assert [row.metrics for row in found.subsets] == [row.metrics for row in own.subsets]
    assert [row.present for row in found.subsets] == [("a",), ("b",), ("a", "b")]
    wrong = TargetSpec(name="seg", kind="regions", classes=["WT"], codes=[[7, 3]])
    with pytest.raises(DataError, match=r"target must have the classes of the run \(WT, ET\); got no ET"):
        evaluate_run(run, cohort=cohort(folder, A, B, wrong), device="cpu")


def test_classes_are_numbered_as_the_run_numbers_them(tmp_path: Path) -> None:
    files(tmp_path / "own")
    own = with_grades(cohort(tmp_path / "own", A, B), ["naevus", "melanoma", "other"])
    run = Run.create(
        tmp_path / "run",
        validated(RunConfig, {"cohort": "c.csv", "method": {"name": "unet"}, "data": {"patch": [8, 8, 4]}}, "config"),
        own,
        splits={"train": [], "val": [], "test": []},
        fitted=Fitted(),
        tokenizer=None,
    )
    other = with_grades(cohort(tmp_path / "own", A, B), ["melanoma", "naevus"])
    preparer = run.preparer(other)
    assert [int(preparer.case(case).targets["grade"]) for case in other.cases] == [1, 0]
    strange = with_grades(cohort(tmp_path / "own", A, B), ["melanoma", "wart"])
    with pytest.raises(
        DataError, match=r"target must name classes that the run knows; got 'wart' \[subject p1, modality grade\]"
    ):
        run.preparer(strange)
    assert run.preparer(strange, targets=False).targets == ()


def with_grades(source: Cohort, classes: list[str]) -> Cohort:
    grade = TargetSpec(name="grade", kind="class", classes=classes)
    meta = source.meta.model_copy(update={"targets": [grade]})
    cases = [replace(case, cells={**case.cells, "grade": classes[k]}) for k, case in enumerate(source.cases)]
    return Cohort.build(meta, cases, source.root)


# ------------------------------------------------------------------------------------------------------ files that are there
def test_an_earlier_prediction_is_replaced_only_when_asked(run: Run, tmp_path: Path) -> None:
    csv = cohort(tmp_path / "own", A, B).save(tmp_path / "new.csv")
    out = tmp_path / "out"
    (out).mkdir()
    (out / "p1_seg.png").write_bytes(b"mine")  # of the last case, and of another format
    with pytest.raises(ConfigError) as caught:
        api.predict(run, cohort=csv, out=out, device="cpu")
    expected = "Choose another folder, or add --overwrite to replace earlier predictions."
    assert (
        str(caught.value) == f"a prediction must be a new file; got one that is there [file {out / 'p1_seg.png'}]. {expected}"
    )
    assert [file.name for file in out.iterdir()] == ["p1_seg.png"]
    api.predict(run, cohort=csv, out=out, device="cpu", overwrite=True)
    first = (out / "p0_seg.nii.gz").stat().st_mtime_ns
    with pytest.raises(ConfigError, match="a prediction must be a new file"):
        api.predict(run, cohort=csv, out=out, device="cpu")
    assert (out / "p0_seg.nii.gz").stat().st_mtime_ns == first
    api.predict(run, cohort=csv, out=out, device="cpu", overwrite=True)
    assert (out / "p0_seg.nii.gz").stat().st_mtime_ns > first


@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize("linked", [False, True])
def test_the_truth_is_never_replaced(run: Run, tmp_path: Path, overwrite: bool, linked: bool) -> None:
    """The masks of the cohort are called as predictions are; --out may be their folder, or a link to it."""
    csv = cohort(tmp_path / "own", A, B, SEG).save(tmp_path / "new.csv")
    before = {file.name: file.read_bytes() for file in (tmp_path / "own").iterdir()}
    out = tmp_path / "own"
    if linked:
        out = tmp_path / "link"
        out.symlink_to(tmp_path / "own")
    with pytest.raises(
        ConfigError, match=r"a prediction must be a new file; got a file of the cohort \[file .*p0_seg.nii.gz\]"
    ):
        api.predict(run, cohort=csv, out=out, device="cpu", overwrite=overwrite)
    image = tmp_path / "own" / "p0_a.nii.gz"
    with pytest.raises(ConfigError, match="got a file of the cohort"):  # of the run's own cohort, with --input
        api.predict(run, inputs={"a": image}, subject="p1", out=out, device="cpu", overwrite=overwrite)
    assert {file.name: file.read_bytes() for file in (tmp_path / "own").iterdir()} == before


def test_what_was_withheld_from_a_training_is_never_replaced(tmp_path: Path) -> None:
    """The run's cohort does not list it any more; it is still the user's."""
    files(tmp_path / "own")
    own = tmp_path / "own"
    (own / "p0_b.nii.gz").rename(own / "p0_seg.nii.gz")  # a scan that is called as a prediction is
    whole = cohort(own, A, B)
    rows = [replace(case, cells={**case.cells, "b": "p0_seg.nii.gz"}) if case.id == "p0" else case for case in whole.cases]
    mine = Cohort.build(whole.meta.model_copy(update={"targets": [SEG]}), rows, own)
    gone = [replace(case, cells={"a": case.cells["a"]}) for case in mine.cases]
    kept = Cohort.build(mine.meta.model_copy(update={"withheld": {"b": {"p0": "p0_seg.nii.gz"}}}), gone, own)
    run, before = made_run(tmp_path / "run", kept), (own / "p0_seg.nii.gz").read_bytes()
    with pytest.raises(ConfigError, match=r"a prediction must be a new file; got a file of the cohort .*p0_seg.nii.gz"):
        api.predict(run, inputs={"a": own / "p0_a.nii.gz"}, subject="p0", out=own, device="cpu", overwrite=True)
    assert (own / "p0_seg.nii.gz").read_bytes() == before


def test_no_prediction_goes_between_the_slices_of_a_stack(tmp_path: Path) -> None:
    stack = tmp_path / "own" / "p0_a.nii.gz"  # the name does not matter: it is a folder
    for z in range(4):
        stack.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((8, 8), 40 * z + 5, dtype=np.uint8)).save(stack / f"{z}.png")
    own = cohort(tmp_path / "own", A, cases=1)
    own = Cohort.build(own.meta.model_copy(update={"targets": [SEG]}), own.cases, own.root)
    run = made_run(tmp_path / "run", own)
    csv = cohort(tmp_path / "own", A, cases=1).save(tmp_path / "new.csv")
    for out in (stack, stack / "more"):
        with pytest.raises(ConfigError, match=r"--out must be a folder of its own; got a folder of slices"):
            api.predict(run, cohort=csv, out=out, device="cpu")
    assert sorted(os.listdir(stack)) == ["0.png", "1.png", "2.png", "3.png"]
    (written,) = api.predict(run, cohort=csv, out=tmp_path / "out", device="cpu")
    assert [file.name for file in written.files] == ["p0_seg.tif"]


def test_two_predictions_of_one_name_are_refused(tmp_path: Path) -> None:
    files(tmp_path / "own")
    own = cohort(tmp_path / "own", A, SEG)
    clash = TargetSpec(name="WT", kind="regions", classes=["x"], codes=[[1, 2]])
    own = Cohort.build(own.meta.model_copy(update={"targets": [SEG, clash]}), own.cases, own.root)
    run = made_run(tmp_path / "run", own, targets=["seg", "WT"])
    first, second = own.cases
    names = [replace(first, id="p", subject="p"), replace(second, id="p_seg", subject="p_seg")]
    csv = Cohort.build(own.meta, names, own.root).save(tmp_path / "new.csv")
    with pytest.raises(DataError, match=r"predictions must have names of their own; got p_seg_WT.nii.gz twice"):
        api.predict(run, cohort=csv, out=tmp_path / "out", regions=True, device="cpu")
    assert not (tmp_path / "out").exists()


# -------------------------------------------------------------------------------------------------------------- one patient
def test_one_patient_has_the_name_that_is_given(run: Run, tmp_path: Path) -> None:
    image = tmp_path / "own" / "p0_a.nii.gz"
    (first,) = api.predict(run, inputs={"a": image}, out=tmp_path / "out", device="cpu")
    assert [file.name for file in first.files] == ["prediction_seg.nii.gz"]
    (second,) = api.predict(run, inputs={"a": image}, subject="anna", out=tmp_path / "out", device="cpu")
    assert second.subject == "anna" and [file.name for file in second.files] == ["anna_seg.nii.gz"]
    assert first.files[0].read_bytes() == second.files[0].read_bytes()
    with pytest.raises(DataError, match=r"subject must be usable as a file name; got '\.\./x'"):
        api.predict(run, inputs={"a": image}, subject="../x", out=tmp_path / "out", device="cpu")


def test_a_channel_of_a_stack_may_come_as_a_file_of_its_own(tmp_path: Path) -> None:
    """In the run's cohort a and b are the red and green of slices; a new patient has a file for each."""
    folder = tmp_path / "own" / "p0_a.nii.gz"
    folder.mkdir(parents=True)
    colours = np.random.default_rng(0).integers(1, 255, (4, 8, 8, 3)).astype(np.uint8)
    for z in range(4):
        Image.fromarray(colours[z]).save(folder / f"s_{z}.tif")
    named = [ModalitySpec(name=n, files="s_*.tif", channel=k) for k, n in enumerate(("a", "b"))]
    own = cohort(tmp_path / "own", *named, SEG, cases=1)
    cells = {"a": folder.name, "b": folder.name}
    run = made_run(tmp_path / "run", Cohort.build(own.meta, [Case.build("p0", cells=cells)], own.root))
    (whole,) = api.predict(run, inputs=dict.fromkeys("ab", folder), out=tmp_path / "whole", device="cpu")
    alone = {}
    for k, name in enumerate("ab"):
        pages = [Image.fromarray(page[..., k]) for page in colours]
        alone[name] = tmp_path / f"{name}.tif"
        pages[0].save(alone[name], save_all=True, append_images=pages[1:])
    (same,) = api.predict(run, inputs=alone, out=tmp_path / "alone", device="cpu")
    assert read_pages(same.files[0]) == read_pages(whole.files[0])
    single = tmp_path / "slices"
    single.mkdir()
    for z in range(4):
        Image.fromarray(colours[z, ..., 1]).save(single / f"s_{z}.tif")
    (only,) = api.predict(run, inputs={"b": single}, out=tmp_path / "slices-b", device="cpu")
    (file,) = api.predict(run, inputs={"b": alone["b"]}, out=tmp_path / "file-b", device="cpu")
    assert read_pages(only.files[0]) == read_pages(file.files[0])


def read_pages(path: Path) -> list[bytes]:
    with Image.open(path) as image:
        pages = []
        for k in range(getattr(image, "n_frames", 1)):
            image.seek(k)
            pages.append(image.tobytes())
        return pages


def test_a_file_that_may_not_be_used_is_not_opened(run: Run, tmp_path: Path) -> None:
    channelled = run.cohort.meta.model_copy(update={"modalities": [A, B.model_copy(update={"channel": 0})]})
    other = made_run(tmp_path / "run2", Cohort.build(channelled, run.cohort.cases, run.cohort.root))
    (tmp_path / "broken.nii.gz").write_bytes(b"no image")
    inputs = {"a": tmp_path / "own" / "p0_a.nii.gz", "b": tmp_path / "broken.nii.gz"}
    (written,) = api.predict(other, inputs=inputs, use=["a"], out=tmp_path / "out", device="cpu")
    assert written.used == ("a",)
    with pytest.raises(UserError, match="modality b"):
        api.predict(other, inputs=inputs, out=tmp_path / "out2", device="cpu")


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_a_gpu_that_is_not_there_is_one_message(run: Run, tmp_path: Path) -> None:
    text = "--device must be there on this machine; got cuda without a GPU. Choose cpu, or auto for a GPU where there is one."
    for work in (
        lambda: evaluate_run(run, device="cuda"),
        lambda: api.predict(run, inputs={"a": tmp_path / "own" / "p0_a.nii.gz"}, out=tmp_path / "out", device="cuda"),
    ):
        with pytest.raises(ConfigError) as caught:
            work()
        assert str(caught.value) == text
    assert not (tmp_path / "out").exists()


# ------------------------------------------------------------------------------------------------------------------- extras
OBLIQUE = np.array([[-0.9, -0.3, 0.1, 12], [0.25, -0.95, -0.2, -40], [-0.05, 0.2, 1.9, 7], [0, 0, 0, 1.0]])


def ciml_run(root: Path) -> Run:
    """Segmentors of a and b that never learned; the images lie obliquely, in an order of axes that is not RAS."""
    files(root / "own")
    for k in range(2):
        for name in ("a", "b", "seg"):
            path = root / "own" / f"p{k}_{name}.nii.gz"
            nib.save(nib.Nifti1Image(np.asarray(nib.Nifti1Image.from_filename(path).dataobj), OBLIQUE), path)
    return made_run(root / "run", cohort(root / "own", A, B, SEG), method={"name": "ciml", "width": 2, "levels": 1})


def voxels(path: Path) -> np.ndarray:
    return np.asarray(nib.Nifti1Image.from_filename(path).dataobj)


def test_uncertainty_of_a_trained_run_in_the_geometry_of_the_input(tmp_path: Path) -> None:
    run = ciml_run(tmp_path)
    before = {file: file.read_bytes() for file in run.path.rglob("*") if file.is_file()}
    inputs = {name: tmp_path / "own" / f"p0_{name}.nii.gz" for name in "ab"}
    more: dict[str, Any] = {"inputs": inputs, "subject": "x", "device": "cpu", "extras": True}
    (written,) = api.predict(run.path, out=tmp_path / "out", overrides=["method.samples=3"], **more)
    names = ["x_seg.nii.gz", "extras/x_uncertainty_WT.nii.gz", "extras/x_uncertainty_ET.nii.gz"]
    assert [file.relative_to(tmp_path / "out").as_posix() for file in written.files] == names
    method = run.at_test(["method.samples=3"]).method()
    case = run.preparer(targets=False).case(run.cohort.case("p0"), with_targets=False)
    ((_, found),) = predict_case(method, case, subsets=["ab"], overlap=0.0, extras=True)
    for k, file in enumerate(written.files[1:]):
        image, source = nib.Nifti1Image.from_filename(file), nib.Nifti1Image.from_filename(inputs["a"])
        assert image.shape == source.shape and np.array_equal(image.affine, source.affine)
        expected = found.extras["uncertainty"][k][::-1, ::-1]  # RAS against the file's own axes
        assert np.allclose(voxels(file), expected, atol=1e-7) and voxels(file).max() > 0
    assert {file: file.read_bytes() for file in run.path.rglob("*") if file.is_file()} == before
    (plain,) = api.predict(run.path, out=tmp_path / "plain", **more | {"extras": False})
    assert [file.name for file in plain.files] == ["x_seg.nii.gz"] and not (tmp_path / "plain" / "extras").exists()


def test_the_command_takes_extras_and_settings(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = ciml_run(tmp_path)
    words = ["predict", str(run.path), "--input", f"a={tmp_path / 'own' / 'p0_a.nii.gz'}", "--out", str(tmp_path / "out")]
    assert main([*words, "--device", "cpu", "--extras", "--set", "method.samples=2", "--json"]) == 0
    (written,) = json.loads(capsys.readouterr().out)["predictions"]
    assert [Path(file).name for file in written["files"][1:]] == [f"prediction_uncertainty_{k}.nii.gz" for k in ("WT", "ET")]
    assert main([*words, "--set", "method.width=3", "--overwrite"]) == 2
    assert "lets change once it is trained (method.nested, method.samples)" in " ".join(capsys.readouterr().err.split())


def test_extras_that_an_overwritten_prediction_leaves_behind_are_named(tmp_path: Path) -> None:
    run, said = ciml_run(tmp_path), list[Any]()
    more: dict[str, Any] = {"inputs": {"a": tmp_path / "own" / "p0_a.nii.gz"}, "out": tmp_path / "out", "device": "cpu"}
    for overrides in (["method.samples=2"], ["method.samples=2"], []):
        api.predict(run.path, **more, extras=True, overrides=overrides, overwrite=True, on_event=said.append)
    api.predict(run.path, **more, subject="other", overwrite=True, on_event=said.append)
    names = ", ".join(f"prediction_uncertainty_{region}.nii.gz" for region in ("ET", "WT"))
    assert [event.text for event in said if getattr(event, "level", "") == "warning"] == [
        f"of an earlier prediction, and not of this one, in {tmp_path / 'out' / 'extras'}: {names}"
    ]


def test_what_says_nothing_besides_is_told_and_no_error(run: Run, tmp_path: Path) -> None:
    said: list[Any] = []
    more: dict[str, Any] = {
        "inputs": {"a": tmp_path / "own" / "p0_a.nii.gz"},
        "extras": True,
        "device": "cpu",
        "on_event": said.append,
    }
    (written,) = api.predict(run, out=tmp_path / "out", **more)
    (silent,) = api.predict(ciml_run(tmp_path / "ciml"), out=tmp_path / "ciml-out", **more)
    assert len(written.files) == len(silent.files) == 1
    how = "--set method.nested or method.samples may change that"
    assert [event.text for event in said if hasattr(event, "level")] == [
        "unet says nothing besides its probabilities: there are no extras",
        f"ciml says nothing besides its probabilities, as it is set; {how}: there are no extras",
    ]


@pytest.mark.parametrize(
    ("override", "text"),
    [
        ("method.width=3", r"--set must name what ciml lets change once it is trained \(method.nested, method.samples\); got"),
        ("training.seed=1", r"For instance --set method.nested=..."),
        ("samples=3", r"For instance --set method.samples=..."),
        ("method.samples", r"must be of the form a.b=value"),
        ("method.samples=-1", r"method.samples must be greater than or equal to 0; got -1"),
        ("method.nested=[XX]", r"method.nested must name regions of the targets; got XX"),
    ],
)
def test_only_what_no_weight_depends_on_can_be_set(tmp_path: Path, override: str, text: str) -> None:
    run = ciml_run(tmp_path)
    inputs = {"a": tmp_path / "own" / "p0_a.nii.gz"}
    with pytest.raises(ConfigError, match=text):
        api.predict(run, inputs=inputs, out=tmp_path / "out", overrides=[override], device="cpu")
    assert not (tmp_path / "out").exists()


def test_a_setting_of_the_test_changes_the_prediction_and_no_weight(tmp_path: Path) -> None:
    run = ciml_run(tmp_path)
    other = run.at_test(["method.nested=[ET, WT]", "method.samples=2"])
    assert other.path == run.path and run.config.method["samples"] == 0
    assert other.config.method | {"samples": 0, "nested": []} == run.config.method
    one, two = run.method().state_dict(), other.method().state_dict()
    assert all(torch.equal(one[name], two[name]) for name in one)
    plain = made_run(tmp_path / "unet", run.cohort)
    with pytest.raises(ConfigError, match=r"what unet lets change once it is trained \(nothing\).* Train it with the other"):
        plain.at_test(["method.width=3"])


def test_extras_that_are_no_maps(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def predictions(method: Any, case: Any, **more: Any) -> Any:
        ((subset, found),) = predict_case(method, case, **more)
        extras: dict[str, Any] = {"temperature": np.float32(1.5).reshape(()), "odd": np.array([0.5, np.nan], np.float32)}
        maps = {"kappa": np.zeros((3, *SHAPE), np.float32), "nats": np.ones((1, *SHAPE), np.float32)}
        yield subset, replace(found, extras=extras | maps | {"embedding": np.zeros(65, np.float32)})

    monkeypatch.setattr("comodal.study.predicting.predict_case", predictions)
    said: list[Any] = []
    more: dict[str, Any] = {"out": tmp_path / "out", "device": "cpu", "extras": True, "on_event": said.append}
    csv = cohort(tmp_path / "own", A, B).save(tmp_path / "new.csv")
    written = api.predict(run, cohort=csv, **more)
    assert [file.name for file in written[1].files] == [
        "p1_seg.nii.gz",
        *(f"p1_kappa_{k}.nii.gz" for k in (1, 2, 3)),
        "p1_nats.nii.gz",
        "numbers.json",
    ]
    one = {"temperature": 1.5, "odd": [0.5, None]}
    assert json.loads((tmp_path / "out" / "extras" / "numbers.json").read_text()) == {"p0": one, "p1": one}
    assert [e.text for e in said if hasattr(e, "level")] == ["not written: embedding, 65 numbers for a case"]


def test_the_folder_of_extras_is_free_or_ours(tmp_path: Path) -> None:
    run = ciml_run(tmp_path)
    csv = cohort(tmp_path / "own", A, B).save(tmp_path / "new.csv")
    more: dict[str, Any] = {"cohort": csv, "device": "cpu", "extras": True, "overrides": ["method.samples=2"]}
    out = tmp_path / "out"
    (out / "extras").mkdir(parents=True)  # an empty one is free
    assert len(api.predict(run, out=out, **more)) == 2
    for file in out.glob("*.nii.gz"):
        file.unlink()
    with pytest.raises(ConfigError, match=r"the folder of extras must be a new one; got one that is there .*add --overwrite"):
        api.predict(run, out=out, **more)
    assert not list(out.glob("*.nii.gz"))  # nothing has been written
    assert len(api.predict(run, out=out, overwrite=True, **more)) == 2
    (tmp_path / "new").mkdir()
    (tmp_path / "own").rename(tmp_path / "new" / "extras")
    csv = cohort(tmp_path / "new" / "extras", A, B).save(tmp_path / "newer.csv")
    with pytest.raises(ConfigError, match=r"the folder of extras must be a new one; got one with files of the cohort"):
        api.predict(run, out=tmp_path / "new", overwrite=True, **more | {"cohort": csv})
    assert not list((tmp_path / "new").glob("*.nii.gz"))


def test_information_of_the_second_image(tmp_path: Path) -> None:
    files(tmp_path / "own")
    how = {"name": "ciml-shapes", "width": 2, "levels": 2}
    run = made_run(tmp_path / "run", cohort(tmp_path / "own", A, B, SEG), method=how)
    inputs = {name: tmp_path / "own" / f"p0_{name}.nii.gz" for name in "ab"}
    more: dict[str, Any] = {"extras": True, "overrides": ["method.samples=2"], "device": "cpu"}
    (written,) = api.predict(run, inputs=inputs, out=tmp_path / "out", **more)
    assert [file.name for file in written.files[1:]] == ["prediction_kappa.nii.gz", "prediction_nats.nii.gz"]
    assert voxels(written.files[2]).min() >= 0 and voxels(written.files[2]).max() > 0
    (alone,) = api.predict(run, inputs={"a": inputs["a"]}, out=tmp_path / "alone", **more)
    assert voxels(alone.files[2]).max() == 0  # without the second image there is nothing to tell


# ------------------------------------------------------------------------------------------------------------------ classes
def class_run(root: Path) -> tuple[Run, Path]:
    """A classifier of two vectors that never learned, and the table of its three cases."""
    specs = [ModalitySpec(name=n, kind="features", spatial_dims=0, channels=2, grid=n, inline=True) for n in ("clinic", "derm")]
    grade = TargetSpec(name="grade", kind="class", classes=["naevus", "melanoma"])
    meta = CohortMeta(layout="csv", root=str(root), modalities=specs, targets=[grade])
    cells = [{"clinic": f"{k};1", "derm": f"1;{k}", "grade": "naevus"} for k in range(3)]
    own = Cohort.build(meta, [Case.build(f"p{k}", cells=row) for k, row in enumerate(cells)], root)
    method = {"name": "classifier", "class_weights": "none"}
    run = made_run(root / "run", own, method=method, patch=[], spatial_dims=2)
    return run, own.save(root / "new.csv")


def uses(monkeypatch: pytest.MonkeyPatch, names: Mapping[str, tuple[str, ...]], extras: dict[str, Any] | None = None) -> None:
    """Lets the network say that it used less than it got: {case: modalities}, and all for the others."""

    def predictions(method: Any, case: Any, **more: Any) -> Any:
        ((subset, found),) = predict_case(method, case, **more)
        yield subset, replace(found, used=names.get(case.case.id, found.used), extras=extras or {})

    monkeypatch.setattr("comodal.study.predicting.predict_case", predictions)


def test_what_was_given_and_not_used_is_said_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run, csv = class_run(tmp_path)
    for number, (names, sentences) in enumerate(
        [
            ({}, []),
            (
                dict.fromkeys(("p0", "p1", "p2"), ("clinic",)),
                ["derm was given and not used: classifier predicts from clinic alone"],
            ),
            (
                {"p0": ("clinic",), "p2": ("derm",)},
                [
                    "derm was given and not used in 1 of 3 cases: classifier predicts from clinic alone",
                    "clinic was given and not used in 1 of 3 cases: classifier predicts from derm alone",
                ],
            ),
        ]
    ):
        uses(monkeypatch, names)
        said: list[Any] = []
        written = api.predict(run, cohort=csv, out=tmp_path / f"out{number}", device="cpu", on_event=said.append)
        assert [event.text for event in said if hasattr(event, "level")] == sentences
        assert [one.unused for one in written] == [
            tuple(n for n in ("clinic", "derm") if n not in names.get(f"p{k}", ("clinic", "derm"))) for k in range(3)
        ]


def test_the_command_says_what_was_not_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run, csv = class_run(tmp_path)
    uses(monkeypatch, {"p1": ("clinic",)})
    words = ["predict", str(run.path), "--cohort", str(csv), "--device", "cpu"]
    assert main([*words, "--out", str(tmp_path / "out"), "--json"]) == 0
    said = capsys.readouterr()
    document = json.loads(said.out)
    assert [one["unused"] for one in document["predictions"]] == [[], ["derm"], []]
    assert "derm was given and not used in 1 of 3 cases" in said.err
    assert main([*words, "--out", str(tmp_path / "again")]) == 0
    shown = capsys.readouterr().out
    answer = document["answers"][1]
    assert f"{answer['grade']} {float(answer['grade/' + answer['grade']]):.2f}" in shown  # the answer with its probability
    assert "grade/melanoma" not in shown


def test_single_numbers_are_columns_of_the_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run, csv = class_run(tmp_path)
    extras = {
        "distance": np.float32(0.125).reshape(()),
        "changed/grade": np.float32(np.nan).reshape(()),
        "inferior/grade": np.array([0.25, 0.75], np.float32),
        "grade": np.float32(7).reshape(()),  # called as the answer is: the table keeps that
    }
    uses(monkeypatch, {}, extras)
    (*_, last) = api.predict(run, cohort=csv, out=tmp_path / "out", device="cpu", extras=True)
    assert [file.relative_to(tmp_path / "out").as_posix() for file in last.files] == ["predictions.csv", "extras/numbers.json"]
    head, *rows = [line.split(",") for line in last.files[0].read_text().splitlines()]
    assert head == ["subject", "used", "grade", "grade/naevus", "grade/melanoma", "distance", "changed/grade"]
    assert [row[-2:] for row in rows] == [["0.125", ""]] * 3 and {row[2] for row in rows} <= {"naevus", "melanoma"}
    numbers = json.loads(last.files[1].read_text())
    assert numbers["p0"] == {"distance": 0.125, "changed/grade": None, "inferior/grade": [0.25, 0.75], "grade": 7.0}
