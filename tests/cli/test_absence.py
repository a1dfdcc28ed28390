"""Absent means unread, through the command line, for every method.

A cohort lists every file; `--use flair,t1ce` says which may count. Whatever the files of t1 and t2 are (intact, gone, noise,
cut short, of another grid), all that `evaluate` and `predict` write must stay the same, byte for byte. Methods that segment
see brains, those that classify see radiology and pathology of one tumour, or radiographs and reports.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from PIL import Image

from comodal.cli.main import main
from comodal.data.cohort import Cohort
from comodal.methods import METHODS

TINY = [
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
SMALL_CLASSIFIER = [
    "--set=method.encoder=resnet10-quarter",
    "--set=method.slices=mean",
    "--set=method.bag=8",
    "--set=method.attention=4",
    "--set=data.patch=[33,33,3]",
    "--set=data.resize={pathology: [33, 33]}",
]
CLASSIFY = {
    "classifier": ["--set=data.modalities=[flair,t1ce]", "--set=method.fusion=channels"],
    "clam": ["--set=data.modalities=[pathology]"],
    "late-fusion": [],
    "guidance": [
        "--set=data.modalities=[t1ce,flair,pathology]",
        "--set=method.superior=[pathology]",
        "--set=method.guide_epochs=1",
        "--set=method.decoder_epochs=1",
    ],
}
# Methods that learn from radiographs and reports, and predict from radiographs.
READ: dict[str, list[str]] = {
    "cmim-class": ["--set=method.steps=2", "--set=training.batch_size=2", "--set=method.critic=[8]"],
    "tienet": ["--set=method.steps=2", "--set=method.transition=8", "--set=method.row_units=8", "--set=method.longest=8"],
    "local-mi": ["--set=method.steps=2", "--set=training.batch_size=2", "--set=method.critic=[8]"],
    "convirt": ["--set=method.steps=2", "--set=training.batch_size=2"],
}


@dataclass(frozen=True)
class Seen:
    """What a method is tried on: the phantom, columns that are used and others, the options of its training."""

    phantom: str
    used: tuple[str, ...]
    unused: tuple[str, ...]
    settings: list[str]

    @property
    def changed(self) -> str:
        """The used column that some tests change."""
        return self.used[-1]


def seen_by(method: str) -> Seen:
    """Small; in 3-D unless the method is flat."""
    if method in READ:
        settings = [*TINY[1:], "--set=data.patch=[64,64]", "--set=method.encoder=resnet10-quarter", *READ[method]]
        return Seen("chest", ("frontal",), ("report",), settings)
    if "classification" in METHODS[method].tasks:
        settings = [*TINY, *SMALL_CLASSIFIER, *CLASSIFY[method]]
        if method == "clam":
            return Seen("radpath", ("pathology",), ("t1ce",), settings)
        return Seen("radpath", ("flair", "t1ce"), ("t1", "pathology"), settings)
    sizes = ["--set=data.patch=[32,32]"] if method in FLAT else ["--set=data.patch=[32,32,16]", "--set=method.levels=2"]
    settings = [*TINY, "--set=method.width=4", *sizes, *MORE.get(method, [])]
    return Seen("brain", ("flair", "t1ce"), ("t1", "t2"), settings)


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
    """Makes it an image of other size, spacing, orientation and place; a picture its negative, mirrored."""
    if file.suffix == ".xml":
        file.write_text(file.read_text(encoding="utf-8").replace(" no ", " large "), encoding="utf-8")
        return
    if file.suffix == ".png":
        Image.fromarray(255 - np.asarray(Image.open(file))[::-1]).save(file)
        return
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
    """Those of all cases; of a folder, what is in it."""
    loaded = Cohort.load(cohort)
    cells = [loaded.file(case, column) for case in loaded.cases]
    return [file for cell in cells for file in (sorted(cell.iterdir()) if cell.is_dir() else [cell])]


@dataclass(frozen=True)
class Trained:
    """A run of a method, two cases to predict, and what is tried."""

    method: str
    run: Path
    two: Path
    seen: Seen


@pytest.fixture(scope="module")
def phantoms(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """{name: six phantoms of which every file is listed}."""
    more = {"radpath": ["--set", "tiles=2"], "chest": ["--set", "findings=2"]}
    folder = tmp_path_factory.mktemp("absence")
    for name, side in (("brain", 48), ("radpath", 48), ("chest", 64)):
        size = ["--cases", "6", "--size", str(side), "--seed", "2", *more.get(name, [])]
        assert main(["phantom", name, "--out", str(folder / name), *size]) == 0
        cohort = Cohort.load(folder / name / "cohort.csv")  # two are enough to predict, and soon done
        cohort.select([case.id for case in cohort.cases[:2]]).save(folder / name / "two.csv")
    return {name: folder / name / "cohort.csv" for name in ("brain", "radpath", "chest")}


@pytest.fixture(scope="module", params=list(METHODS))
def trained(request: pytest.FixtureRequest, phantoms: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Trained:
    """A run of each method."""
    folder, seen = tmp_path_factory.mktemp(request.param), seen_by(request.param)
    cohort = phantoms[seen.phantom]
    config, run = folder / "c.yaml", folder / "run"
    if "classification" in METHODS[request.param].tasks:  # what a guide would need is not known to init
        config.write_text(f"cohort: {cohort}\nmethod: {{name: {request.param}}}\n")
    else:
        asked = [] if request.param in FLAT else ["--spatial-dims", "3"]
        assert main(["init", request.param, str(cohort), "--out", str(config), *asked, "--minutes", "0.05"]) == 0
    assert main(["train", str(config), "--out", str(run), "--device", "cpu", *seen.settings]) == 0
    return Trained(request.param, run, cohort.with_name("two.csv"), seen)


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


def written(trained: Trained, run: Path, cohort: Path) -> dict[str, bytes]:
    """All that evaluate and predict write: {file: bytes}."""
    out = run.parent / "out"
    common = ["--cohort", str(cohort), "--use", ",".join(trained.seen.used), "--device", "cpu"]
    assert main(["evaluate", str(run), "--subsets", "all", *common]) == 0
    assert main(["predict", str(run), "--out", str(out), *common]) == 0
    found = [*(run / "results").glob("cohort-two-*.json"), *sorted(out.rglob("*"))]
    return {file.relative_to(run.parent).as_posix(): file.read_bytes() for file in found if file.is_file()}


@pytest.mark.parametrize("used_differ", [False, True], ids=["one grid", "used grids differ"])
def test_unused_files_change_no_byte(trained: Trained, tmp_path: Path, used_differ: bool) -> None:
    if used_differ and trained.seen.phantom != "brain":
        pytest.skip("a class has no grid that could follow that of another image")
    found = {}
    for state in STATES:
        copy, cohort = fresh(trained.run, trained.two, tmp_path / "x")
        if used_differ:
            change(cohort, trained.seen.changed, other_grid)
        for column in trained.seen.unused:
            change(cohort, column, state)
        found[state.__name__] = written(trained, copy, cohort)
    whole = found["intact"]
    assert len(whole) == 1 + (2 if trained.seen.phantom == "brain" else 1)  # results; a label map for each case, or one table
    for name, other in found.items():
        assert other.keys() == whole.keys(), name
        assert [file for file in whole if other[file] != whole[file]] == [], name


def test_used_files_do_change_what_is_written(trained: Trained, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    whole = written(trained, *fresh(trained.run, trained.two, tmp_path / "x"))
    copy, cohort = fresh(trained.run, trained.two, tmp_path / "x")
    change(cohort, trained.seen.changed, other_grid)
    other = written(trained, copy, cohort)
    assert all(other[file] != whole[file] for file in whole)
    used = trained.seen.used[0]
    change(cohort, used, truncated)
    capsys.readouterr()
    use = ",".join(trained.seen.used)
    assert main(["evaluate", str(copy), "--cohort", str(cohort), "--use", use, "--device", "cpu"]) == 2
    assert f"modality {used}" in capsys.readouterr().err
