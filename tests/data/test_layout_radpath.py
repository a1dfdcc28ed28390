"""CPM-RadPath 2020: MRI and slides of one patient, in the forms in which the slides may lie."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import tifffile
from PIL import Image

from comodal.data import index
from comodal.data.cohort import ModalitySpec
from comodal.data.contents import items_of
from comodal.data.joining import join
from comodal.errors import ConfigError, DataError
from comodal.testing.dataset import check_dataset

IDS = ("CPM19_CBICA_AAB_1", "CPM19_CBICA_AAB_10", "CPM19_TCIA02_007_1")
TABLE = "training_data_classification_labels.csv"


def volume(path: Path, seed: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    array = np.random.default_rng(seed).integers(1, 900, (6, 5, 4)).astype(np.int16)
    nib.save(nib.Nifti1Image(array, np.diag([-1.0, -1, 1, 1])), path)


def stained(side: int) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    noise = np.random.default_rng(side).integers(-20, 20, (side, side, 3))
    return (np.array([180, 90, 160]) + noise).astype(np.uint8)


def slide(path: Path, side: int = 64) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    tifffile.imwrite(path, stained(side), tile=(32, 32), photometric="rgb", compression="deflate")


def release(root: Path) -> Path:
    """Three cases: a slide by name, two slides in a folder, and tiles that somebody cut, whose patient has no FLAIR."""
    top = root / "CPM-RadPath_2020_Training_Data"
    for number, case in enumerate(IDS):
        for k, name in enumerate(("t1", "t1ce", "t2", "flair")):
            if (number, name) != (2, "flair"):
                volume(top / "Radiology" / case / f"{case}_{name}.nii.gz", 10 * number + k)
    slide(top / "Pathology" / f"{IDS[0]}.tiff")
    slide(top / "Pathology" / IDS[1] / "b.TIF")
    slide(top / "Pathology" / IDS[1] / "a.svs", 32)
    (top / "Pathology" / IDS[2]).mkdir(parents=True)
    for number in (1, 2, 10):
        Image.fromarray(stained(32) + np.uint8(number)).save(top / "Pathology" / IDS[2] / f"tile_{number}.png")
    lines = ["CPM_RadPath_2019_ID,class,age_in_days", f"{IDS[0]},G,21915", f"{IDS[1]},O,", f"{IDS[2]},a,14610"]
    (top / TABLE).write_text("\n".join(lines) + "\n")
    return top


def test_the_whole_release(tmp_path: Path) -> None:
    top = release(tmp_path)
    cohort = index("radpath", tmp_path, {"tile": 32})
    assert index("radpath", top, {"tile": 32}).ids == cohort.ids == IDS
    assert [m.name for m in cohort.modalities] == ["t1", "t1ce", "t2", "flair", "pathology"]
    assert [(m.kind, m.spatial_dims, m.channels, m.grid) for m in cohort.modalities][-2:] == [
        ("image", 3, 1, "brain"),
        ("bag", 2, 3, "pathology"),
    ]
    (target,) = cohort.targets
    assert (target.name, target.kind, target.classes) == ("diagnosis", "class", ("G", "O", "A"))
    assert [case.cells["diagnosis"] for case in cohort.cases] == ["G", "O", "A"]
    assert [case.site for case in cohort.cases] == ["CBICA", "CBICA", "TCIA02"]
    assert [case.group for case in cohort.cases] == ["CPM19_CBICA_AAB", "CPM19_CBICA_AAB", "CPM19_TCIA02_007"]
    assert "flair" not in cohort.cases[2].cells
    base = "CPM-RadPath_2020_Training_Data/Pathology"
    assert [case.cells["pathology"] for case in cohort.cases] == [
        f"{base}/{IDS[0]}.tiff",
        f"{base}/{IDS[1]}",
        f"{base}/{IDS[2]}",
    ]
    assert cohort.meta.notes == ["3 of 3 cases have MRI and pathology"]


def test_one_column_holds_slides_and_cut_tiles(tmp_path: Path) -> None:
    release(tmp_path)
    cohort = index("radpath", tmp_path, {"tile": 32})
    shapes = [items_of(cohort, case, "pathology").shape for case in cohort.cases]
    assert shapes == [(4, 3, 32, 32), (1 + 4, 3, 32, 32), (3, 3, 32, 32)]


def test_it_keeps_the_promises_of_a_layout(tmp_path: Path) -> None:
    top = release(tmp_path)
    for path in (top / "Pathology").rglob("*.*"):  # as large as the default tile, so that each is one
        path.unlink()
        if path.suffix == ".png":
            Image.fromarray(stained(256)).save(path)
        else:
            tifffile.imwrite(path, stained(256), tile=(64, 64), photometric="rgb")
    cohort = check_dataset("radpath", tmp_path)
    spec = cohort.spec("pathology")
    assert isinstance(spec, ModalitySpec) and (spec.tile, spec.microns) == (256, None)


def test_options(tmp_path: Path) -> None:
    release(tmp_path)
    cohort = index("radpath", tmp_path, {"microns": 4, "age": True})
    spec = cohort.spec("pathology")
    assert isinstance(spec, ModalitySpec) and spec.microns == 4
    assert [case.cells.get("age") for case in cohort.cases] == ["0.6000", None, "0.4000"]
    with pytest.raises(ConfigError, match=r"layout radpath: tile must be greater than or equal to 0; got -1. .*--set tile"):
        index("radpath", tmp_path, {"tile": -1})


def test_splits_of_deepguide(tmp_path: Path) -> None:
    top = release(tmp_path)
    for k, sides in ((1, {"train": 0, "val": 1, "test": 2}), (2, {"train": 2, "val": 1, "test": 0})):
        for side, number in sides.items():
            row = f"{IDS[number]},{'GOA'[number]},1\n"
            (top / f"split_{k}_{side}.csv").write_text("CPM_RadPath_2019_ID,class,age_in_days\n" + row)
    cohort = index("radpath", tmp_path)
    assert {case.split for case in cohort.cases} == {""}
    assert "splits of DeepGuide are there and not used (1, 2): add --set split=1" in cohort.meta.notes
    assert [case.split for case in index("radpath", tmp_path, {"split": 2}).cases] == ["test", "val", "train"]
    with pytest.raises(ConfigError, match=r"must be a split that is there; got 3. Found: 1, 2"):
        index("radpath", tmp_path, {"split": 3})
    (top / TABLE).unlink()  # the tables of the splits hold the classes, too
    assert [case.cells["diagnosis"] for case in index("radpath", tmp_path).cases] == ["G", "O", "A"]
    (top / "split_2_val.csv").write_text(f"CPM_RadPath_2019_ID,class,age_in_days\n{IDS[1]},A,1\n")
    with pytest.raises(DataError, match="tables must agree on the class of a case; got O and A"):
        index("radpath", tmp_path)
    (top / "split_2_val.csv").write_text(f"CPM_RadPath_2019_ID,class,age_in_days\n{IDS[0]},G,1\n")
    with pytest.raises(DataError, match="split must have each case once; got test and val"):
        index("radpath", tmp_path, {"split": 2})


def test_what_is_missing_is_absent_and_said(tmp_path: Path) -> None:
    top = release(tmp_path)
    for path in (top / "Radiology" / IDS[0]).iterdir():
        path.unlink()
    (top / "Pathology" / f"{IDS[0]}.tiff").rename(top / "Pathology" / f"{IDS[0]}_2.TIFF")
    slide(top / "Pathology" / "other.tiff")
    slide(top / "Pathology" / f"{IDS[0]}a.tiff")  # a letter follows: another case's
    text = (top / TABLE).read_text().replace(f"{IDS[1]},O", f"{IDS[1]},") + "CPM19_X_9_1,A,5\n"
    (top / TABLE).write_text(text)
    cohort = index("radpath", tmp_path)
    assert set(cohort.cases[0].cells) == {"pathology", "diagnosis"} and cohort.ids == IDS
    assert "diagnosis" not in cohort.cases[1].cells
    assert cohort.meta.notes == [
        "2 of 3 cases have MRI and pathology",
        f"1 case has no class in the tables ({IDS[1]})",
        "1 case has a class but no image, and is left out (CPM19_X_9_1)",
        f"2 pictures begin with no known ID and are not used (CPM-RadPath_2020_Training_Data/Pathology/{IDS[0]}a.tiff)",
    ]


def test_mistakes_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"ROOT must hold Radiology/<ID>/<ID>_t1.nii.gz or .*; got none"):
        index("radpath", tmp_path)
    top = release(tmp_path)
    table = (top / TABLE).read_text()
    (top / TABLE).write_text(table.replace(",G,", ",X,"))
    with pytest.raises(DataError, match=r"class must be one of G, O, A; got 'X' \[subject CPM19_CBICA_AAB_1"):
        index("radpath", tmp_path)
    (top / TABLE).write_text(table.replace("class", "klass"))
    with pytest.raises(DataError, match="table must have the column class"):
        index("radpath", tmp_path)
    (top / TABLE).write_text(table.replace("21915", "old"))
    with pytest.raises(DataError, match="age_in_days must be a number of days; got 'old'"):
        index("radpath", tmp_path, {"age": True})
    (top / TABLE).write_text(table)
    volume(top / "Radiology" / "copy" / f"{IDS[0]}_T1.nii", 3)
    with pytest.raises(DataError, match="must hold one file for each sequence of a case"):
        index("radpath", tmp_path)


def test_the_same_release_twice_has_nothing_to_join(tmp_path: Path) -> None:
    release(tmp_path)
    cohort = index("radpath", tmp_path)
    with pytest.raises(DataError, match="column must be filled once for each case, or hold equal answers"):
        join([cohort, cohort])
