"""The layout of BraTS 2015: names of every kind that occurs, and what is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from comodal.data import index
from comodal.data.phantoms.metaimage import mha
from comodal.errors import DataError
from comodal.testing.dataset import check_dataset

STEMS = {
    "flair": "VSD.Brain.XX.O.MR_Flair.54512",
    "t1": "VSD.Brain.XX.O.MR_T1.54513",
    "t1ce": "VSD.Brain.XX.O.MR_T1c.54514",
    "t2": "VSD.Brain.XX.O.MR_T2.54515",
    "seg": "VSD.Brain_3more.XX.O.OT.54517",
}
ALL = tuple(STEMS)


def volume(path: Path, seed: int = 0) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    array = np.random.default_rng(seed).integers(1, 900, (5, 4, 3)).astype(np.int16)
    if ".OT" in path.name:
        array = array % 5
    path.write_bytes(mha(array, np.diag([-1.0, -1, 1, 1])))


def case(root: Path, name: str, columns: tuple[str, ...] = ALL, *, flat: bool = False, label: str = STEMS["seg"]) -> None:
    for seed, column in enumerate(columns):
        stem = label if column == "seg" else STEMS[column]
        folder = root / name if flat else root / name / stem
        volume(folder / f"{stem}.mha", seed)


def test_grades_patients_and_cells(tmp_path: Path) -> None:
    case(tmp_path / "HGG", "brats_tcia_pat300_0003")
    case(tmp_path / "HGG", "brats_tcia_pat300_0115")
    case(tmp_path / "LGG", "brats_2013_pat0001_1", ("t1ce", "seg"))
    (tmp_path / "HGG" / "brats_tcia_pat300_0003" / "VSD.Brain.XX.O.MR_Flair.54512.txt").write_text("a stray file")
    volume(tmp_path / "HGG" / "brats_tcia_pat300_0003" / "._VSD.Brain.XX.O.MR_T1.54513.mha")
    cohort = check_dataset("brats2015", tmp_path)
    assert cohort.ids == ("brats_2013_pat0001_1", "brats_tcia_pat300_0003", "brats_tcia_pat300_0115")
    assert [c.group for c in cohort.cases] == ["brats_2013_pat0001", "brats_tcia_pat300", "brats_tcia_pat300"]
    assert {c.site for c in cohort.cases} == {""}
    assert [m.name for m in cohort.modalities] == ["t1", "t1ce", "t2", "flair"]
    assert cohort.cases[0].cells == {
        column: f"LGG/brats_2013_pat0001_1/{STEMS[column]}/{STEMS[column]}.mha" for column in ("t1ce", "seg")
    }
    for column in ALL:
        assert cohort.cases[1].cells[column].endswith(f"/{STEMS[column]}.mha")
    assert cohort.meta.notes == [
        "2 cases of high-grade (HGG) and 1 of low-grade glioma (LGG), 0 of unknown grade, by the names of their folders",
        "labels 1 (necrosis) and 3 (non-enhancing tumour) are both in TC; a prediction writes 1 for either",
    ]


def test_regions_and_what_a_prediction_paints(tmp_path: Path) -> None:
    case(tmp_path, "brats_2013_pat0001_1")
    (target,) = index("brats2015", tmp_path).targets
    assert (target.kind, target.classes) == ("regions", ("WT", "TC", "ET"))
    assert (target.codes, target.paint) == (((1, 2, 3, 4), (1, 3, 4), (4,)), (2, 1, 4))
    labels = np.arange(5)
    painted = np.zeros_like(labels)
    for codes, value in zip(target.codes, target.paint, strict=True):
        painted[np.isin(labels, codes)] = value
    assert painted.tolist() == [0, 1, 2, 1, 4]
    for codes in target.codes:  # what is painted is the same regions again
        np.testing.assert_array_equal(np.isin(painted, codes), np.isin(labels, codes))


@pytest.mark.parametrize(
    "stem",
    ["VSD.Brain_3more.XX.O.OT.54517", "VSD.Brain_5more.XX.XX.OT.6645", "VSD.Brain.XX.XX.OT.54523", "vsd.brain_3more.xx.o.ot"],
)
@pytest.mark.parametrize("flat", [False, True])
def test_variants_of_the_label_and_mirrors_without_folders(tmp_path: Path, stem: str, flat: bool) -> None:
    case(tmp_path / "Training" / "HGG", "brats_2013_pat0001_1", flat=flat, label=stem)
    (row,) = check_dataset("brats2015", tmp_path).cases
    assert row.id == "brats_2013_pat0001_1" and set(row.cells) == set(ALL)
    assert row.cells["seg"].endswith(f"{stem}.mha")


@pytest.mark.parametrize("flat", [False, True])
def test_t1_is_not_t1c(tmp_path: Path, flat: bool) -> None:
    case(tmp_path, "a", ("t1", "flair"), flat=flat)
    case(tmp_path, "b", ("t1ce",), flat=flat)
    table = index("brats2015", tmp_path).presence()
    assert table.loc["a"].to_dict() == {"t1": True, "t1ce": False, "flair": True}
    assert table.loc["b"].to_dict() == {"t1": False, "t1ce": True, "flair": False}


def test_a_case_folder_alone_and_sites_from_a_table(tmp_path: Path) -> None:
    case(tmp_path, "brats_tcia_pat105_0001")
    (tmp_path / "brats_tcia_pat105_0001" / "sites.csv").write_text("case,site\nbrats_tcia_pat105_0001,north\n")
    (row,) = index("brats2015", tmp_path / "brats_tcia_pat105_0001").cases
    assert (row.id, row.group, row.site) == ("brats_tcia_pat105_0001", "brats_tcia_pat105", "north")


def test_cases_for_testing_have_no_labels(tmp_path: Path) -> None:
    case(tmp_path / "HGG_LGG", "brats_2013_pat0103_1", ("flair", "t1ce"))
    cohort = check_dataset("brats2015", tmp_path)
    assert cohort.targets == ()
    assert cohort.meta.notes == [
        "0 cases of high-grade (HGG) and 0 of low-grade glioma (LGG), 1 of unknown grade, by the names of their folders",
        "no case has a label map: there is nothing to train on, only to predict",
        "no case has t1; it is left out",
        "no case has t2; it is left out",
    ]


def test_indexing_opens_no_file(tmp_path: Path) -> None:
    case(tmp_path / "HGG", "brats_2013_pat0001_1")
    for path in tmp_path.rglob("*.mha"):
        path.write_bytes(b"")
    assert len(index("brats2015", tmp_path)) == 1


def test_wrong_folders_are_refused(tmp_path: Path) -> None:
    case(tmp_path / "HGG", "x", ("seg",))  # a label map alone is no case
    with pytest.raises(DataError, match=r"ROOT must hold cases of BraTS 2015, .*; got none .*2018 on have the layout brats"):
        index("brats2015", tmp_path)
    case(tmp_path / "HGG", "x")
    volume(tmp_path / "HGG" / "x" / "VSD.Brain.XX.O.MR_T1c.99.mha")
    with pytest.raises(DataError, match=r"one file for each sequence of a case; got .*T1c.54514.mha and .*T1c.99.mha"):
        index("brats2015", tmp_path)
    (tmp_path / "HGG" / "x" / "VSD.Brain.XX.O.MR_T1c.99.mha").unlink()
    case(tmp_path / "LGG", "x", ("t2",))  # one name in both grades
    with pytest.raises(DataError, match=r"one file for each sequence of a case; got HGG/x/.* and LGG/x/.*modality t2"):
        index("brats2015", tmp_path)
