"""Absent means unread, through the command line, for every method.

A cohort lists every file; `--use flair,t1ce` says which may count. Whatever the files of t1 and t2 are (intact, gone, noise,
cut short, of another grid), all that `evaluate` and `predict` write must stay the same, byte for byte.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from comodal.cli.main import main
from comodal.data.cohort import Cohort
from comodal.methods import METHODS

UNUSED = ("t1", "t2")
TINY = [
    "--set=method.width=4",
    "--set=method.steps=2",
    "--set=training.batch_size=1",
    "--set=training.validations=0",
    "--set=training.threads=1",
]
FLAT = ("hemis",)
# A pair of images that are used; negatives are other patients, so that two must be in a batch; experts of four sequences would
# be 15.
MORE = {
    "ciml-shapes": ["--set=method.primary=flair", "--set=method.auxiliary=t1ce"],
    "cmim-seg": ["--set=training.batch_size=2", "--set=method.critic=[8]"],
    "mlp-fill": ["--set=method.fill_steps=2"],
    "unet-experts": ["--set=method.subsets=[[flair],[t1ce],[t1,t2]]"],
}


def settings(method: str) -> list[str]:
    """Small, in 3-D unless the method is flat."""
    flat = method in FLAT
    sizes = ["--set=data.patch=[32,32]"] if flat else ["--set=data.patch=[32,32,16]", "--set=method.levels=2"]
    return [*TINY, *sizes, *MORE.get(method, [])]


def intact(file: Path) -> None:
    """Leaves a file as it is."""


def deleted(file: Path) -> None:
    """Removes a file."""
    file.unlink()


def noise(file: Path) -> None:
    """Makes it bytes that are no image."""
    file.write_bytes(np.random.default_rng(0).bytes(file.stat().st_size))


def truncated(file: Path) -> None:
    """Cuts it short."""
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def other_grid(file: Path) -> None:
    """Makes it an image of other size, spacing, orientation and place."""
    image = nib.Nifti1Image.from_filename(file)
    data = np.asarray(image.dataobj)
    last = data.shape[0] - 1
    part_to_whole = np.array([[-1, 0, 0, last], [0, 2, 0, 0], [0, 0, 1, 3], [0, 0, 0, 1]])
    affine = image.affine @ part_to_whole
    affine[:3, 3] += (4.0, -7.0, 3.0)
    nib.save(nib.Nifti1Image(np.ascontiguousarray(data[::-1, ::2, 3:]), affine), file)


State = Callable[[Path], None]
STATES: tuple[State, ...] = (intact, deleted, noise, truncated, other_grid)


def files(cohort: Path, column: str) -> list[Path]:
    loaded = Cohort.load(cohort)
    return [loaded.file(case, column) for case in loaded.cases]


@pytest.fixture(scope="module")
def phantom(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six phantoms of which every file is listed."""
    folder = tmp_path_factory.mktemp("absence") / "phantom"
    assert main(["phantom", "brain", "--out", str(folder), "--cases", "6", "--size", "48", "--seed", "2"]) == 0
    return folder / "cohort.csv"


@pytest.fixture(scope="module")
def two(phantom: Path) -> Path:
    """Two of them: enough to predict, and soon done."""
    cohort = Cohort.load(phantom)
    return cohort.select([case.id for case in cohort.cases[:2]]).save(phantom.with_name("two.csv"))


@pytest.fixture(scope="module", params=list(METHODS))
def run(request: pytest.FixtureRequest, phantom: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of each method."""
    folder = tmp_path_factory.mktemp(request.param)
    asked = [] if request.param in FLAT else ["--spatial-dims", "3"]
    short = ["--minutes", "0.05"]
    assert main(["init", request.param, str(phantom), "--out", str(folder / "c.yaml"), *asked, *short]) == 0
    train = ["train", str(folder / "c.yaml"), "--out", str(folder / "run"), "--device", "cpu"]
    assert main([*train, *settings(request.param)]) == 0
    return folder / "run"


def fresh(run: Path, cohort: Path, folder: Path) -> tuple[Path, Path]:
    """Copies of run and cohort, at the same path each time, so that no difference can come from a name.

    What the run prepared before is left behind, so that it can hide nothing.
    """
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(cohort.parent, folder / "cohort")
    shutil.copytree(run, folder / "run", ignore=shutil.ignore_patterns("cache"))
    return folder / "run", folder / "cohort" / cohort.name


def change(cohort: Path, column: str, state: State) -> None:
    for file in files(cohort, column):
        state(file)


def written(run: Path, cohort: Path) -> dict[str, bytes]:
    """All that evaluate and predict write: {file: bytes}."""
    out = run.parent / "out"
    common = ["--cohort", str(cohort), "--use", "flair,t1ce", "--device", "cpu"]
    assert main(["evaluate", str(run), "--subsets", "all", *common]) == 0
    assert main(["predict", str(run), "--out", str(out), *common]) == 0
    found = [*(run / "results").glob("cohort-two-*.use-*.json"), *sorted(out.rglob("*"))]
    return {file.relative_to(run.parent).as_posix(): file.read_bytes() for file in found if file.is_file()}


@pytest.mark.parametrize("used_differ", [False, True], ids=["one grid", "used grids differ"])
def test_unused_files_change_no_byte(run: Path, two: Path, tmp_path: Path, used_differ: bool) -> None:
    found = {}
    for state in STATES:
        copy, cohort = fresh(run, two, tmp_path / "x")
        if used_differ:
            change(cohort, "t1ce", other_grid)
        for column in UNUSED:
            change(cohort, column, state)
        found[state.__name__] = written(copy, cohort)
    whole = found["intact"]
    assert len(whole) == 1 + 2  # the results, and a label map for each case
    for name, other in found.items():
        assert other.keys() == whole.keys(), name
        assert [file for file in whole if other[file] != whole[file]] == [], name


def test_used_files_do_change_what_is_written(run: Path, two: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    whole = written(*fresh(run, two, tmp_path / "x"))
    copy, cohort = fresh(run, two, tmp_path / "x")
    change(cohort, "t1ce", other_grid)
    other = written(copy, cohort)
    assert all(other[file] != whole[file] for file in whole)
    change(cohort, "flair", truncated)
    capsys.readouterr()
    assert main(["evaluate", str(copy), "--cohort", str(cohort), "--use", "flair,t1ce", "--device", "cpu"]) == 2
    assert "modality flair" in capsys.readouterr().err
