"""The layout of BraTS 2015: names of every kind that occurs, and what is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from comodal.data import index
from comodal.data.integrity import check_cohort
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
    with pytest.raises(DataError, match=r"one file for each sequence of a case; got .*T1c.99.mha and .*T1c.54514.mha"):
        index("brats2015", tmp_path)
    (tmp_path / "HGG" / "x" / "VSD.Brain.XX.O.MR_T1c.99.mha").unlink()
    case(tmp_path / "copy" / "HGG", "x", ("t2",))  # one name in two folders of one name
    with pytest.raises(DataError, match=r"one case of each name in folders of one name; got HGG/x/.* and copy/HGG/x/"):
        index("brats2015", tmp_path)


def test_grades_number_their_patients_each_for_itself(tmp_path: Path) -> None:
    for grade in ("LGG", "HGG"):
        case(tmp_path / grade, "brats_2013_pat0001_1", ("flair", "t1", "seg") if grade == "LGG" else ALL)
    case(tmp_path / "HGG", "brats_2013_pat0001_2")  # another scan of the patient of HGG
    case(tmp_path / "HGG", "brats_2013_pat0002_1")
    (tmp_path / "sites.csv").write_text(
        "case,site\nbrats_2013_pat0001_1,by name\nLGG_brats_2013_pat0001_1,by id\nbrats_2013_pat0002_1,both\n"
    )
    cohort = check_dataset("brats2015", tmp_path)
    assert [(c.id, c.group, c.site) for c in cohort.cases] == [
        ("HGG_brats_2013_pat0001_1", "HGG_brats_2013_pat0001", "by name"),
        ("LGG_brats_2013_pat0001_1", "LGG_brats_2013_pat0001", "by id"),
        ("brats_2013_pat0001_2", "HGG_brats_2013_pat0001", ""),
        ("brats_2013_pat0002_1", "brats_2013_pat0002", "both"),
    ]
    assert set(cohort.case("LGG_brats_2013_pat0001_1").cells) == {"flair", "t1", "seg"}
    assert all(cell.startswith("LGG/") for cell in cohort.case("LGG_brats_2013_pat0001_1").cells.values())
    assert cohort.meta.notes[:2] == [
        "3 cases of high-grade (HGG) and 1 of low-grade glioma (LGG), 0 of unknown grade, by the names of their folders",
        (
            "1 name of a case stands in several of the folders HGG, LGG: taken as different patients, named with the folder "
            "(HGG_brats_2013_pat0001_1)"
        ),
    ]


def test_a_file_that_cannot_be_read_is_not_absent(tmp_path: Path) -> None:
    case(tmp_path, "x", ("t1", "flair"))
    gone = tmp_path / "x" / STEMS["t2"] / f"{STEMS['t2']}.mha"
    gone.parent.mkdir()
    gone.symlink_to(".git/annex/objects/not/fetched")
    cohort = index("brats2015", tmp_path)
    assert set(cohort.cases[0].cells) == {"t1", "t2", "flair"}
    (defect,) = [defect for defect in check_cohort(cohort).defects if defect.level == "error" and defect.file]
    assert (defect.subject, defect.modality) == ("x", "t2")


@pytest.mark.parametrize("suffix", [".mha.gz", ".nii.gz", ".nii", ".mhd"])
def test_sequences_in_other_formats_are_said(tmp_path: Path, suffix: str) -> None:
    case(tmp_path, "x", ("t1", "flair"))
    (tmp_path / "x" / STEMS["t1"] / f"{STEMS['t1']}{suffix}").touch()  # its .mha is there
    assert not [note for note in index("brats2015", tmp_path).meta.notes if "not .mha" in note]
    (tmp_path / "x" / f"{STEMS['t2']}{suffix}").touch()
    note = f"1 file looks like a sequence of BRATS 2015 but is not .mha: convert or unpack it (x/{STEMS['t2']}{suffix})"
    assert note in index("brats2015", tmp_path).meta.notes
    (tmp_path / "x" / f"{STEMS['seg']}{suffix}").touch()
    note = (
        "2 files look like sequences of BRATS 2015 but are not .mha: convert or unpack them "
        f"(x/{STEMS['t2']}{suffix} is the first)"
    )
    assert note in index("brats2015", tmp_path).meta.notes
    only = tmp_path / "only"
    only.mkdir()
    (only / f"{STEMS['t2']}{suffix}").touch()
    with pytest.raises(DataError, match=r"got none; 1 file looks like a sequence .* is not \.mha"):
        index("brats2015", only)


def test_linked_folders_are_not_followed_but_said(tmp_path: Path) -> None:
    root = tmp_path / "root"
    case(root / "LGG", "x")
    case(tmp_path / "disk" / "HGG", "y")
    (root / "HGG").symlink_to(tmp_path / "disk" / "HGG", target_is_directory=True)
    cohort = index("brats2015", root)
    assert cohort.ids == ("x",)
    assert "1 linked folder was not followed (HGG): copy what belongs here below the root" in cohort.meta.notes
    (root / "again").symlink_to(root, target_is_directory=True)
    assert "2 linked folders were not followed (HGG is the first)" in index("brats2015", root).meta.notes[-1]
    (tmp_path / "links").mkdir()
    (tmp_path / "links" / "LGG").symlink_to(root / "LGG", target_is_directory=True)
    for layout in ("brats", "brats2015"):
        with pytest.raises(DataError, match=r"got none; 1 linked folder was not followed \(LGG\)"):
            index(layout, tmp_path / "links")
    (tmp_path / "way").symlink_to(root, target_is_directory=True)  # the root itself may be a link
    assert index("brats2015", tmp_path / "way").ids == ("x",)


def test_hidden_folders_are_left_out(tmp_path: Path) -> None:
    case(tmp_path / "HGG", "x")
    case(tmp_path / ".Trash" / "HGG", "x")
    assert index("brats2015", tmp_path).ids == ("x",)


@pytest.mark.parametrize(
    "folder", ["VSD.Brain.XX.O.MR_T2.54515 (1)", "VSD.Brain.XX.O.MR_T1.54513", "VSD.Brain_old/VSD.Brain.2"]
)
def test_folders_around_a_file_may_be_called_otherwise(tmp_path: Path, folder: str) -> None:
    case(tmp_path / "HGG", "x", ("t1", "flair"))
    volume(tmp_path / "HGG" / "x" / folder / f"{STEMS['t2']}.mha")
    (row,) = index("brats2015", tmp_path).cases
    assert (row.id, set(row.cells)) == ("x", {"t1", "t2", "flair"})
    (row,) = index("brats2015", (tmp_path / "HGG" / "x" / folder)).cases  # given alone, it still knows its case
    assert (row.id, set(row.cells)) == ("x", {"t1", "t2"} if "MR_T1" in folder else {"t2"})
