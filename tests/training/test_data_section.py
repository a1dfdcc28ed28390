"""`data.regions` and `data.withhold`, from the configuration to the files that a prediction writes."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from tests.training.fakes import write_config

from comodal import api
from comodal.config import RunConfig, build_problem, load_config
from comodal.data.cohort import Case, Cohort, CohortMeta, ModalitySpec, TargetSpec
from comodal.data.sampling import foreground_voxels
from comodal.data.splits import make_splits
from comodal.data.withholding import divided
from comodal.errors import ConfigError
from comodal.evaluation.results import TrainingCases
from comodal.reporting.page import write_page
from comodal.reporting.record import read_run
from comodal.reporting.tables import markdown_table, terminal_table
from comodal.run import Run, save_weights
from comodal.study.evaluating import evaluate_run
from comodal.training.train import train_run

NAMES = ["flair", "t1", "t1ce"]
RATES = {"t1ce": 0.5, "t1": 0.2}


@pytest.fixture(scope="module")
def brain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ten subjects of the phantom."""
    return api.phantom("brain", tmp_path_factory.mktemp("brain"), cases=10, size=48, seed=0)


def configured(folder: Path, cohort: Path, **data: Any) -> RunConfig:
    values = {
        "cohort": str(cohort),
        "method": {"name": "moddrop", "width": 2, "levels": 2, "steps": 3},
        "data": {"modalities": NAMES, "spatial_dims": 2, "patch": [32, 32], "draws_per_case": 2, **data},
        "splits": {"fractions": [0.5, 0.2, 0.3], "seed": 1},
        "training": {"batch_size": 2, "threads": 1, "device": "cpu", "validations": 1, "overlap": 0.0},
    }
    return load_config(write_config(folder / "config.yaml", values))


@pytest.fixture(scope="module")
def run(brain: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Trained on ET alone, with two sequences withheld, and evaluated."""
    folder = tmp_path_factory.mktemp("run")
    made = train_run(configured(folder, brain, regions=["ET"], withhold=RATES), folder / "run")
    evaluate_run(made, device="cpu")
    return made


def test_the_run_is_one_of_the_region(run: Run, brain: Path) -> None:
    (target,) = run.problem.targets
    (whole,) = Cohort.load(brain).targets
    assert (target.classes, target.codes, target.paint) == (("ET",), ((4,),), (4,))
    assert run.cohort.targets == (whole,)  # which label values a mask has is not changed by what is learned of it
    assert Run.load(run.path).problem == run.problem
    preparer = run.preparer()
    assert preparer.targets == (target,)
    case = run.cohort.case(run.splits["test"][0])
    array, every = preparer.case(case).targets["seg"], whole_of(run, case)
    assert array.shape[0] == 1 and np.array_equal(array[0], every[2])
    truth, _ = preparer.truth(case, "seg")
    assert np.array_equal(truth[0], every[2]) and truth[0].any()


def whole_of(run: Run, case: Case) -> NDArray[np.bool_]:
    """(3, X, Y, Z): WT, TC and ET, straight from the file, in RAS order."""
    image = nib.as_closest_canonical(nib.Nifti1Image.from_filename(run.cohort.file(case, "seg")))
    mask = np.asarray(image.dataobj)
    return np.stack([np.isin(mask, codes) for codes in ((1, 2, 4), (1, 4), (4,))])


def test_foreground_is_that_of_the_region(run: Run) -> None:
    preparer = run.preparer()
    for name in run.splits["train"]:
        prepared = preparer.case(run.cohort.case(name))
        found = foreground_voxels(preparer, prepared)
        assert len(found) == int(prepared.targets["seg"].any())
        assert all(prepared.targets["seg"][0][tuple(voxels.T)].all() for voxels in found)


def test_the_table_and_the_page_speak_of_the_region(run: Run, tmp_path: Path) -> None:
    results = run.results()
    assert results is not None
    assert set(results.metric_names) == {"DSC/ET", "DSC/mean", "HD95/ET"}
    page = write_page([run.path], tmp_path / "page.html").read_text()
    assert "seg (regions: ET)" in page
    examples = json.loads((run.path / "examples" / "test" / "examples.json").read_text())
    assert "WT" not in json.dumps(examples)


def test_a_prediction_is_written_with_the_code_of_the_region(run: Run, brain: Path, tmp_path: Path) -> None:
    sure = {name: torch.full_like(w, 9.0) if name.endswith("head.bias") else w for name, w in run.method().state_dict().items()}
    copy = Run.create(tmp_path / "sure", run.config, run.cohort, splits=run.splits, fitted=run.fitted, tokenizer=run.tokenizer)
    save_weights(copy.path / "weights.safetensors", sure)
    written = api.predict(copy, cohort=brain, out=tmp_path / "out", regions=True, device="cpu")
    assert len(written) == 10
    found = set()
    for one in written:
        assert [path.name for path in one.files] == [f"{one.subject}_seg.nii.gz", f"{one.subject}_seg_ET.nii.gz"]
        found |= set(np.unique(np.asarray(nib.Nifti1Image.from_filename(one.files[0]).dataobj)).tolist())
    assert found <= {0, 4} and 4 in found


def test_another_cohort_may_lack_the_other_regions(run: Run, brain: Path, tmp_path: Path) -> None:
    """Its masks then hold the code of the region alone."""
    whole = Cohort.load(brain)
    whole = whole.select(whole.ids[:2])
    same = evaluate_run(run, cohort=whole, subsets="t1ce;flair", device="cpu")
    rows = []
    for case in whole.cases:
        image = nib.Nifti1Image.from_filename(whole.file(case, "seg"))
        only = np.where(np.asarray(image.dataobj) == 4, 3, 0).astype(np.uint8)
        nib.save(nib.Nifti1Image(only, image.affine), tmp_path / f"{case.id}.nii.gz")
        for name in NAMES:
            shutil.copy(whole.file(case, name), tmp_path / f"{case.id}-{name}.nii.gz")
        cells = {"seg": f"{case.id}.nii.gz", **{name: f"{case.id}-{name}.nii.gz" for name in NAMES}}
        rows.append(Case.build(case.id, cells=cells))
    spec = TargetSpec(name="seg", kind="regions", classes=["ET"], codes=[[3]])
    meta = CohortMeta(layout="csv", root=".", modalities=[ModalitySpec(name=name) for name in NAMES], targets=[spec])
    found = evaluate_run(run, cohort=Cohort.build(meta, rows, tmp_path), subsets="t1ce;flair", device="cpu")
    assert found.subsets == same.subsets and same.subsets[0].metrics["DSC/ET"].n == 2


def test_what_is_withheld_is_gone_from_the_training_alone(run: Run, brain: Path) -> None:
    whole = Cohort.load(brain)
    assert run.splits == make_splits(whole, run.config.splits)
    assert {name: len(ids) for name, ids in run.splits.items()} == {"train": 5, "val": 2, "test": 3}
    for part in ("val", "test"):
        assert all(run.cohort.case(name).cells == whole.case(name).cells for name in run.splits[part])
    gone = {(case.id, m) for case in run.cohort.cases for m in NAMES if m not in case.cells}
    assert {name for name, _ in gone} <= set(run.splits["train"])
    assert {m: sum(name == m for _, name in gone) for m in NAMES} == {"flair": 0, "t1": 1, "t1ce": 2}
    assert [note for note in run.cohort.meta.notes if "withheld" in note] == [
        "t1 was withheld from 1 of the 5 training patients that have it (0.2 of them, asked for 0.2)",
        "t1ce was withheld from 2 of the 5 training patients that have it (0.4 of them, asked for 0.5)",
    ]
    assert {m: set(cells) for m, cells in run.cohort.meta.withheld.items()} == {
        m: {case for case, name in gone if name == m} for m in ("t1", "t1ce")
    }


def test_what_is_withheld_is_never_opened(run: Run, brain: Path, tmp_path: Path) -> None:
    """Without its files the same training ends in the same bytes."""
    cohort, _ = divided(Cohort.load(brain), run.config.splits, RATES)
    hidden = [cohort.root / cell for cells in cohort.meta.withheld.values() for cell in cells.values()]
    assert len(hidden) == 3
    for file in hidden:
        file.rename(file.with_suffix(".hidden"))
    try:
        again = train_run(configured(tmp_path, brain, regions=["ET"], withhold=dict(reversed(RATES.items()))), tmp_path / "run")
    finally:
        for file in hidden:
            file.with_suffix(".hidden").rename(file)
    for name in ("cohort.csv", "cohort.yaml", "splits.json", "metrics.jsonl", "weights.safetensors"):
        assert (again.path / name).read_bytes() == (run.path / name).read_bytes(), name


def test_the_tables_say_at_which_rates(run: Run, tmp_path: Path) -> None:
    results = run.results()
    assert results is not None
    assert results.training == TrainingCases(n=5, lacking={"flair": 0, "t1": 1, "t1ce": 2}, withheld={"t1": 1, "t1ce": 2})
    said = "Training cases without: t1 1/5, t1ce 2/5 (withheld: t1 1, t1ce 2)."
    for text in (
        terminal_table(results).caption,
        markdown_table(results),
        write_page([run.path], tmp_path / "page.html").read_text(),
    ):
        assert text.count(said) == 1


def test_the_patients_are_the_same_with_and_without_what_was_withheld(run: Run, brain: Path, tmp_path: Path) -> None:
    """So that a page pairs their cases, whatever their trainings did without."""
    plain = train_run(configured(tmp_path, brain), tmp_path / "plain")
    evaluate_run(plain, device="cpu")
    assert read_run(plain.path).cohort_hash == read_run(run.path).cohort_hash
    page = write_page({"plain": [plain.path], "less": [run.path]}, tmp_path / "page.html").read_text()
    assert "different cohorts" not in page
    assert "Training cases without, plain: none; less: t1 1/5, t1ce 2/5 (withheld: t1 1, t1ce 2)." in page
    assert "DSC mean" not in page  # over three regions there, over one here
    results = plain.results()
    assert results is not None and "without" not in terminal_table(results).caption


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (
            {"withhold": {"t1c": 0.5}},
            "data.withhold must name modalities or targets of the cohort; got 't1c'. Did you mean t1ce or t1?",
        ),
        ({"regions": ["et"]}, "data.regions must name regions of the cohort's targets; got 'et'. Known: ET, TC, WT."),
    ],
)
def test_a_mistake_leaves_no_run_folder(brain: Path, tmp_path: Path, data: dict[str, Any], text: str) -> None:
    with pytest.raises(ConfigError) as caught:
        train_run(configured(tmp_path, brain, **data), tmp_path / "run")
    assert str(caught.value).startswith(text)
    assert not (tmp_path / "run").exists()


def test_withholding_leaves_the_problem_alone(brain: Path, tmp_path: Path) -> None:
    cohort, plain = Cohort.load(brain), configured(tmp_path, brain)
    less = configured(tmp_path, brain, withhold=RATES)
    assert build_problem(less, divided(cohort, less.splits, RATES)[0]) == build_problem(plain, cohort)
