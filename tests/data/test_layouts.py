"""Layouts: folders as the data sets have them, and one's own table."""

from __future__ import annotations

import csv
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from PIL import Image

from comodal.data import DATASETS, LAYOUTS_INFO, WRITERS, index
from comodal.data.brats import group_of, site_of
from comodal.data.cohort import ModalitySpec, TargetSpec
from comodal.data.phantoms.metaimage import mha
from comodal.errors import ConfigError, DataError
from comodal.testing.dataset import check_dataset

LGG = Path(__file__).resolve().parents[3] / "shared" / "data" / "lgg_mri"


def nifti(path: Path, values: Iterable[int] = (), seed: int = 0) -> None:
    """A small volume: random, or zeros with these values in it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    array = np.random.default_rng(seed).integers(1, 900, (6, 5, 4)).astype(np.int16)
    if chosen := list(values):
        array[:] = 0
        array[0, 0, : len(chosen)] = chosen
    nib.save(nib.Nifti1Image(array, np.diag([-1.0, -1, 1, 1])), path)


ALL = "t1 t1ce t2 flair seg"


def brats(root: Path, case: str, names: str = ALL, codes: tuple[int, ...] = (1, 2, 4), end: str = ".nii.gz") -> None:
    join = "-" if "t1n" in names or "t2f" in names else "_"
    for k, name in enumerate(names.split()):
        nifti(root / case / f"{case}{join}{name}{end}", codes if name == "seg" else (), seed=k)


# ------------------------------------------------------------------------------------------------------------------- table


def test_every_layout_is_listed_and_unknown_ones_are_refused(tmp_path: Path) -> None:
    assert list(DATASETS) == list(LAYOUTS_INFO) and list(DATASETS)[-1] == "csv"
    assert {"brats", "lgg-mri", "open-i", "mimic-cxr", "derm7pt", "radpath", "autopet", "hecktor", "nnunet", "bids"} <= set(
        DATASETS
    )
    assert set(WRITERS) <= set(DATASETS)
    assert {name: layout.function for name, layout in LAYOUTS_INFO.items()} == DATASETS
    assert all(name == layout.name for name, layout in LAYOUTS_INFO.items())
    with pytest.raises(ConfigError, match=r"layout must be a known layout; got 'bratz'. Did you mean brats"):
        index("bratz", tmp_path)
    with pytest.raises(ConfigError, match=r"ROOT must exist; got nothing there .*Check the path"):
        index("brats", tmp_path / "none")


# ------------------------------------------------------------------------------------------------------------------- BraTS


def test_brats_of_2018_with_grades_sites_and_follow_up(tmp_path: Path) -> None:
    brats(tmp_path / "HGG", "Brats18_TCIA01_147_1")
    brats(tmp_path / "HGG", "Brats18_TCIA01_147_2", codes=(1, 2))
    brats(tmp_path / "LGG", "Brats18_2013_11_1", "flair t1ce", end=".nii")
    (tmp_path / "survival_data.csv").write_text("Brats18ID,Age\n")
    cohort = check_dataset("brats", tmp_path)
    assert cohort.ids == ("Brats18_2013_11_1", "Brats18_TCIA01_147_1", "Brats18_TCIA01_147_2")
    assert [case.group for case in cohort.cases] == ["Brats18_2013_11", "Brats18_TCIA01_147", "Brats18_TCIA01_147"]
    assert [case.site for case in cohort.cases] == ["2013", "TCIA01", "TCIA01"]
    assert [m.name for m in cohort.modalities] == ["t1", "t1ce", "t2", "flair"]
    assert cohort.cases[0].cells == {
        "t1ce": "LGG/Brats18_2013_11_1/Brats18_2013_11_1_t1ce.nii",
        "flair": "LGG/Brats18_2013_11_1/Brats18_2013_11_1_flair.nii",
    }
    (target,) = cohort.targets
    assert (target.kind, target.classes, target.codes, target.paint) == (
        "regions",
        ("WT", "TC", "ET"),
        ((1, 2, 4), (1, 4), (4,)),
        (2, 1, 4),
    )


def test_painting_the_regions_in_order_gives_the_labels_back(tmp_path: Path) -> None:
    for root, names, codes in ((tmp_path / "a", "t1 seg", (1, 2, 4)), (tmp_path / "b", "t1n seg", (1, 2, 3))):
        brats(root, "case", names, codes)
        (target,) = index("brats", root).targets
        labels = np.array([0, *codes])
        painted = np.zeros_like(labels)
        for region, value in zip(target.codes, target.paint, strict=True):
            painted[np.isin(labels, region)] = value
        np.testing.assert_array_equal(painted, labels)


def test_brats_of_2023(tmp_path: Path) -> None:
    names = "t1n t1c t2w t2f seg"
    brats(tmp_path, "BraTS-GLI-00002-000", names, (1, 2))
    brats(tmp_path, "BraTS-GLI-00002-001", names, (1, 2, 3))
    brats(tmp_path, "BraTS-GLI-00010-000", "t2f t1c")
    cohort = check_dataset("brats", tmp_path)
    assert [case.group for case in cohort.cases] == ["BraTS-GLI-00002", "BraTS-GLI-00002", "BraTS-GLI-00010"]
    assert cohort.presence().loc["BraTS-GLI-00010-000"].to_dict() == {"t1": False, "t1ce": True, "t2": False, "flair": True}
    assert cohort.targets[0].codes == ((1, 2, 3), (1, 3), (3,))
    assert cohort.targets[0].paint == (2, 1, 3)


def test_case_355_of_2020(tmp_path: Path) -> None:
    brats(tmp_path, "BraTS20_Training_355", "t1 t1ce t2 flair")
    nifti(tmp_path / "BraTS20_Training_355" / "W39_1998.09.19_Segm.nii", (1, 2, 4))
    brats(tmp_path, "BraTS20_Training_356")
    cohort = check_dataset("brats", tmp_path)
    assert cohort.case("BraTS20_Training_355").cells["seg"] == "BraTS20_Training_355/W39_1998.09.19_Segm.nii"
    assert [case.group for case in cohort.cases] == list(cohort.ids)  # a number of three digits is the patient's own


@pytest.mark.parametrize(
    ("case", "group", "site"),
    [
        ("Brats17_CBICA_AAB_1", "Brats17_CBICA_AAB", "CBICA"),
        ("BraTS19_TMC_06290_1", "BraTS19_TMC_06290", "TMC"),
        ("BraTS2021_00621", "BraTS2021_00621", ""),
        ("BraTS20_Validation_012", "BraTS20_Validation_012", ""),
        ("brats_2013_pat0005_1", "brats_2013_pat0005", ""),
        ("brats_tcia_pat300_0287", "brats_tcia_pat300", ""),
        ("BraTS-SSA-00041-000", "BraTS-SSA-00041", ""),
        ("patient_1", "patient_1", ""),  # somebody's own numbering is not a time point
    ],
)
def test_names_of_brats(case: str, group: str, site: str) -> None:
    assert (group_of(case), site_of(case)) == (group, site)


def test_sites_from_a_table(tmp_path: Path) -> None:
    brats(tmp_path, "BraTS20_Training_001")
    (tmp_path / "sites.csv").write_text("case,site\nBraTS20_Training_001,north\n")
    assert index("brats", tmp_path).cases[0].site == "north"
    (tmp_path / "sites.csv").write_text("case,hospital\nBraTS20_Training_001,north\n")
    with pytest.raises(DataError, match=r"sites.csv must have the columns case and site; got case, hospital"):
        index("brats", tmp_path)


def test_brats_without_labels_and_with_few_sequences(tmp_path: Path) -> None:
    brats(tmp_path, "BraTS20_Validation_001", "flair t1ce")
    cohort = check_dataset("brats", tmp_path)
    assert [m.name for m in cohort.modalities] == ["t1ce", "flair"]
    assert cohort.targets == ()
    assert cohort.meta.notes == [
        "no case has a label map: there is nothing to train on, only to predict",
        "no case has t1; it is left out",
        "no case has t2; it is left out",
    ]


def test_brats_without_enhancing_tumour_anywhere(tmp_path: Path) -> None:
    brats(tmp_path / "a", "BraTS20_Training_001", codes=(1, 2))
    brats(tmp_path / "b", "BraTS-GLI-00001-000", "t1n seg", (2,))
    for folder, code in (("a", 4), ("b", 3)):
        cohort = index("brats", tmp_path / folder)
        assert cohort.targets[0].codes[2] == (code,)
        assert f"its label is taken to be {code}, from the names" in cohort.meta.notes[0]


def test_wrong_brats_folders_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"ROOT must hold cases of BraTS; got none .*use the layout csv"):
        index("brats", tmp_path)
    brats(tmp_path, "x", codes=(1, 2, 3, 4))
    with pytest.raises(DataError, match=r"must have the labels 0, 1, 2, 4 or 0, 1, 2, 3; got \(0, 1, 2, 3, 4\) \[subject x"):
        index("brats", tmp_path)
    nifti(tmp_path / "x" / "x_t1.nii")
    with pytest.raises(DataError, match=r"one file for each sequence of a case; got x/x_t1.nii and x/x_t1.nii.gz \[subject x"):
        index("brats", tmp_path)


# --------------------------------------------------------------------------------------------------------------------- LGG


def lgg(root: Path, case: str, *, copied: tuple[int, ...] = (), black: tuple[int, ...] = ()) -> None:
    (root / case).mkdir(parents=True)
    random = np.random.default_rng(len(case) + len(copied))
    for k in (1, 2, 10):
        pixels = random.integers(0, 256, (6, 8, 3)).astype(np.uint8) * (k not in black)
        pixels[..., list(copied)] = pixels[..., 1:2]
        Image.fromarray(pixels).save(root / case / f"{case}_{k}.tif", compression="tiff_adobe_deflate")
        Image.fromarray(np.full((6, 8), 255 * (k == 2), dtype=np.uint8)).save(root / case / f"{case}_{k}_mask.tif")


def test_a_copy_of_flair_is_absent(tmp_path: Path) -> None:
    lgg(tmp_path, "TCGA_CS_0001_19960909")
    lgg(tmp_path, "TCGA_CS_0001_19970101", copied=(2,))
    lgg(tmp_path, "TCGA_DU_0002_19960909", copied=(0, 2), black=(1, 2))
    (tmp_path / "data.csv").write_text("Patient\n")
    cohort = check_dataset("lgg-mri", tmp_path)
    assert [m.name for m in cohort.modalities] == ["t1", "flair", "t1ce"]
    assert cohort.presence().to_numpy().tolist() == [[True, True, True], [True, True, False], [False, True, False]]
    assert [case.group for case in cohort.cases] == ["TCGA_CS_0001", "TCGA_CS_0001", "TCGA_DU_0002"]
    assert [case.site for case in cohort.cases] == ["CS", "CS", "DU"]
    assert cohort.targets[0].codes == ((255,),)
    assert cohort.meta.notes == [
        "t1 is absent in 1 of 3 cases: its channel is a copy of flair in every slice (TCGA_DU_0002_19960909)",
        (
            "t1ce is absent in 2 of 3 cases: its channel is a copy of flair in every slice "
            "(TCGA_CS_0001_19970101, TCGA_DU_0002_19960909)"
        ),
    ]


def test_black_slices_alone_do_not_make_a_copy(tmp_path: Path) -> None:
    """Where all channels are black they are equal; one slice that differs decides."""
    lgg(tmp_path, "TCGA_CS_0001_19960909", black=(2, 10))
    assert index("lgg-mri", tmp_path).presence().to_numpy().all()


def test_wrong_lgg_folders_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"must hold folders named TCGA_<centre>_<patient>_<date>; got none .*kaggle_3m"):
        index("lgg-mri", tmp_path)
    case = tmp_path / "TCGA_CS_0001_19960909"
    case.mkdir()
    with pytest.raises(DataError, match=r"case must have slices named TCGA_CS_0001_19960909_1.tif; got none"):
        index("lgg-mri", tmp_path)
    Image.fromarray(np.zeros((4, 4), dtype=np.uint8)).save(case / f"{case.name}_1.tif")
    with pytest.raises(DataError, match=r"slice must be RGB: T1, FLAIR, T1 after contrast; got 1 channels"):
        index("lgg-mri", tmp_path)


@pytest.mark.skipif(not LGG.is_dir(), reason="the real LGG cases are not here")
def test_the_real_lgg_patients() -> None:
    cohort = index("lgg-mri", LGG / "kaggle_3m")
    presence = cohort.presence()
    with (LGG / "patients.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == len(cohort) == 80
    for row in rows:
        expected = {"t1": row["has_pre"], "flair": row["has_flair"], "t1ce": row["has_post"]}
        assert {name: str(there) for name, there in presence.loc[row["case"]].items()} == expected, row["case"]
        assert cohort.case(row["case"]).group == row["Patient"]


# --------------------------------------------------------------------------------------------------------------- own table


def own(root: Path) -> Path:
    for k in (1, 2, 3):
        nifti(root / f"data/p{k}/Flair scan.nii.gz", seed=k)
        nifti(root / f"data/p{k}/lesions.nii.gz", [(1,), (1, 3), (7,)][k - 1])
    nifti(root / "data/p1/t1.nii", seed=9)
    (root / "data/p2").mkdir(exist_ok=True)
    (root / "data/p2/report.txt").write_text("No mass.")
    np.save(root / "data/p2/genes.npy", np.arange(12.0))
    table = root / "mytable.csv"
    table.write_text(
        "Subject,site,FLAIR,T1 pre,report,genes,lesion_mask,diagnosis,age,empty\n"
        "01,A,data/p1/Flair scan.nii.gz,data/p1/t1.nii,,,data/p1/lesions.nii.gz,glioma,61,\n"
        "02,A,data/p2/Flair scan.nii.gz,,data/p2/report.txt,data/p2/genes.npy,data/p2/lesions.nii.gz,control,44,\n"
        "03,B,data/p3/Flair scan.nii.gz,,,,data/p3/lesions.nii.gz,,50,\n"
    )
    return table


def test_ones_own_table(tmp_path: Path) -> None:
    cohort = check_dataset("csv", own(tmp_path))
    assert cohort.ids == ("01", "02", "03")
    assert [case.site for case in cohort.cases] == ["A", "A", "B"]
    assert cohort.meta.modalities == [
        ModalitySpec(name="FLAIR"),
        ModalitySpec(name="T1_pre"),
        ModalitySpec(name="report", kind="text", spatial_dims=0, grid="report"),
        ModalitySpec(name="genes", kind="features", spatial_dims=0, channels=12, grid="genes"),
    ]
    assert cohort.meta.targets == [
        TargetSpec(
            name="lesion_mask",
            kind="regions",
            classes=["label-1", "label-3", "label-7"],
            codes=[[1], [3], [7]],
            paint=[1, 3, 7],
        ),
        TargetSpec(name="diagnosis", kind="class", classes=["control", "glioma"]),
    ]
    assert cohort.meta.notes == [
        "column 'Subject' is called subject",
        "column 'T1 pre' is called T1_pre",
        "FLAIR: 3-D image with 1 channel(s), 6 x 5 x 4 in the first case",
        "T1_pre: 3-D image with 1 channel(s), 6 x 5 x 4 in the first case",
        "report: text",
        "genes: vector of 12 features",
        "lesion_mask: target with one region for each label value, 1, 3, 7",
        "diagnosis: target with the classes control, glioma",
        "column age was left out: its cells are not paths of images, .txt or .npy files",
        "column empty is blank everywhere and was left out",
    ]


def test_ones_own_metaimages(tmp_path: Path) -> None:
    for k in (1, 2):
        (tmp_path / f"t1_{k}.mha").write_bytes(mha(np.arange(24, dtype=np.int16).reshape(2, 3, 4) * k, np.eye(4)))
        (tmp_path / f"mask_{k}.mha").write_bytes(mha(np.full((2, 3, 4), k, dtype=np.uint8), np.eye(4)))
    table = tmp_path / "t.csv"
    table.write_text("subject,t1,mask\n" + "".join(f"{k},t1_{k}.mha,mask_{k}.mha\n" for k in (1, 2)))
    cohort = check_dataset("csv", table)
    assert [m.name for m in cohort.modalities] == ["t1"] and cohort.targets[0].codes == ((1,), (2,))
    lines = ["ObjectType = Image", "NDims = 3", "DimSize = 2 3 4", "ElementType = MET_SHORT", "ElementDataFile = t1_1.raw", ""]
    (tmp_path / "t1_1.mhd").write_text("\n".join(lines))
    table.write_text("subject,t1\n1,t1_1.mhd\n")
    with pytest.raises(DataError, match=r"got No such file.*\[subject 1, modality t1, file .*t1_1.raw"):
        check_dataset("csv", table)
    (tmp_path / "t1_1.raw").write_bytes(np.arange(24, dtype="<i2").tobytes())
    check_dataset("csv", table)


def test_ones_own_photographs_and_slices(tmp_path: Path) -> None:
    for k in (1, 2):
        Image.fromarray(np.full((8, 6, 3), k, dtype=np.uint8)).save(tmp_path / f"photo{k}.png")
        Image.fromarray(np.full((8, 6), k, dtype=np.uint8)).save(tmp_path / f"depth{k}.png")
        Image.fromarray(np.full((4, 4), k, dtype=np.uint8)).save(tmp_path / f"close{k}.jpg")
        (tmp_path / f"scan{k}").mkdir()
        for z in range(3):
            Image.fromarray(np.full((5, 5), z + k, dtype=np.uint8)).save(tmp_path / f"scan{k}" / f"{z}.png")
    (tmp_path / "t.csv").write_text(
        "subject,photo,depth,close,scan,class\n"
        + "".join(f"{k},photo{k}.png,depth{k}.png,close{k}.jpg,scan{k},{'ab'[k - 1]}\n" for k in (1, 2))
    )
    cohort = check_dataset("csv", tmp_path / "t.csv")
    assert [(m.name, m.spatial_dims, m.channels, m.grid) for m in cohort.modalities] == [
        ("photo", 2, 3, "grid"),
        ("depth", 2, 1, "grid"),
        ("close", 2, 1, "close"),
        ("scan", 3, 1, "scan"),
    ]
    note = "close: another size than the first image, so taken as not co-registered; see `grid` in the yaml"
    assert note in cohort.meta.notes


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (("Subject", "patient"), "table must have a column `subject`; got patient, site.* Name the column that identifies"),
        (("data/p1/t1.nii", "data/p1/t2.nii"), r"files that exist; got none \[subject 01, modality T1_pre, file .*t2.nii"),
        (
            ("data/p1/t1.nii", "../t1.nii"),
            r"without '\.\.'; got '../t1.nii' \[subject 01, modality T1_pre\]. Write the whole path",
        ),
        (
            ("data/p1/t1.nii", "/a/../t1.nii"),
            r"without '\.\.'; got '/a/../t1.nii' \[subject 01, modality T1_pre\]. Write the whole",
        ),
        (
            ("data/p1/t1.nii", "/nowhere/t1.nii"),
            r"files that lie below one folder; got /nowhere/t1.nii and /.* \[subject 01, modality T1_pre\]. Move or copy",
        ),
        (
            ("data/p1/t1.nii", "data\\p1\\t1.nii"),
            r"forward slashes and without a drive; got .* \[subject 01, modality T1_pre\]",
        ),
        (
            ("data/p1/t1.nii", "C:/p1/t1.nii"),
            r"without a drive; got 'C:/p1/t1.nii' .*Write it relative to the folder of the table",
        ),
        (
            ("data/p3/Flair scan.nii.gz", "data/p3/Flair scan"),
            r"hold paths of files .*; got 'data/p3/Flair scan' \[subject 03, modality FLAIR\]. Write the path with its suffix",
        ),
        (("data/p3/Flair scan.nii.gz", "NA"), r"file blank; got 'NA' \[subject 03, modality FLAIR\]\. Leave it blank\."),
        (("data/p3/Flair scan.nii.gz", "nan"), r"file blank; got 'nan' \[subject 03, modality FLAIR\]\. Leave it blank\."),
        (("data/p3/lesions.nii.gz", "none"), r"file blank; got 'none' \[subject 03, modality lesion_mask\]\. Leave it blank\."),
        (("data/p1/lesions.nii.gz", "-"), r"file blank; got '-' \[subject 01, modality lesion_mask\]\. Leave it blank\."),
        (("data/p2/report.txt", "data/p2/genes.npy"), None),
        (
            ("data/p3/Flair scan.nii.gz", "data/p2/report.txt"),
            r"one kind of file in each column; got \['.gz', '.txt'\] \[subject 03",
        ),
        (("03,B", "02,B"), "must have one row for each subject and session; got two"),
        (("control", "glioma"), r"have 2 to 50 classes in a target; got 1 \(glioma\)"),
        (("T1 pre", "flair "), None),
        (("T1 pre", "FLAIR!"), "must have distinct plain column names; got 'FLAIR!'"),
        (("data/p3/lesions.nii.gz", "data/p3/Flair scan.nii.gz"), r"must hold few values; got more than 50 \[subject 03"),
    ],
)
def test_wrong_tables_are_refused(tmp_path: Path, change: tuple[str, str], text: str | None) -> None:
    table = own(tmp_path)
    content = table.read_text()
    assert change[0] in content
    table.write_text(content.replace(*change))
    if text is None:  # odd, but not wrong
        assert len(index("csv", table)) == 3
        return
    with pytest.raises(DataError, match=text):
        index("csv", table)


def test_absolute_paths_share_a_folder(tmp_path: Path) -> None:
    """Below the table they become relative to it; elsewhere the folder that all share is the root."""
    table = own(tmp_path / "mine")
    text, relative = table.read_text(), index("csv", table)
    table.write_text(text.replace("data/p1", f"{tmp_path}/mine/data/p1"))
    assert index("csv", table) == relative
    other = tmp_path / "tables" / "t.csv"
    other.parent.mkdir()
    other.write_text(text.replace("data/p", f"{tmp_path}/mine/data/p"))
    cohort = index("csv", other)
    assert cohort.root == tmp_path / "mine" / "data"
    assert cohort.meta.notes[2] == f"paths start from {cohort.root}, the folder that all of them share"
    assert cohort.case("01").cells["FLAIR"] == "p1/Flair scan.nii.gz" and cohort.case("01").cells["diagnosis"] == "glioma"
    for case in cohort.cases:
        for column in ("FLAIR", "T1_pre", "report", "genes", "lesion_mask"):
            if column in case.cells:
                same = relative.file(relative.case(case.id), column)
                assert cohort.file(case, column).samefile(same), column
    assert [m.name for m in cohort.modalities] == [m.name for m in relative.modalities]


def test_a_class_may_be_called_none(tmp_path: Path) -> None:
    table = own(tmp_path)
    table.write_text(table.read_text().replace("control", "none"))
    assert index("csv", table).meta.targets[1].classes == ["glioma", "none"]


def test_a_link_out_of_the_folder_of_the_table_is_refused(tmp_path: Path) -> None:
    table = own(tmp_path / "mine")
    nifti(tmp_path / "other.nii")
    (tmp_path / "mine" / "data" / "p1" / "t1.nii").unlink()
    (tmp_path / "mine" / "data" / "p1" / "t1.nii").symlink_to(tmp_path / "other.nii")
    with pytest.raises(DataError, match=r"got a link out of it \[subject 01, modality T1_pre"):
        index("csv", table)


def test_a_folder_is_no_table(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"ROOT must be a CSV file for the layout csv; got .* comodal index csv mytable.csv"):
        index("csv", tmp_path)
    (tmp_path / "t.csv").write_text("subject,age\n1,2\n")
    with pytest.raises(DataError, match="table must have at least one modality: a column of paths; got subject, age"):
        index("csv", tmp_path / "t.csv")


# ------------------------------------------------------------------------------------------------------------ check_dataset


def test_check_dataset_notices_a_layout_that_breaks_a_promise(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    brats(tmp_path, "BraTS20_Training_001")
    module: Any = pytest.importorskip("comodal.data.brats")
    honest = module.index
    check_dataset("brats", tmp_path)

    def broken(root: Path) -> Any:
        cohort = honest(root)
        meta = cohort.meta.model_copy(update={"modalities": [*cohort.meta.modalities, ModalitySpec(name="pet")]})
        return type(cohort)(meta, cohort.cases, cohort.root)

    monkeypatch.setattr(module, "index", broken)
    with pytest.raises(AssertionError, match=r"a modality that no case has is left out \[pet\]"):
        check_dataset("brats", tmp_path)
    monkeypatch.setattr(module, "index", honest)
    (tmp_path / "BraTS20_Training_001" / "BraTS20_Training_001_t2.nii.gz").write_bytes(b"")
    with pytest.raises(DataError, match=r"got an empty file \[subject BraTS20_Training_001, modality t2"):
        check_dataset("brats", tmp_path)
    with pytest.raises(ConfigError, match="layout must be a known layout"):
        check_dataset("none", tmp_path)
