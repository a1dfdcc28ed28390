"""Regions of glioma slides with molecular answers, paired with MRI."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from comodal.data import index
from comodal.data.contents import items_of
from comodal.errors import ConfigError, DataError
from comodal.testing.dataset import check_dataset

REAL = Path(__file__).resolve().parents[3] / "shared" / "data" / "glioma_pathology"
HEAD = "case,Patient,roi_files,n_roi,gender,age_at_initial_pathologic,idh_mutation,codeletion_1p19q"
ROWS = (
    "TCGA_CS_0002_19990101,TCGA_CS_0002,b_1.png;b_2.png,2,1.0,30.0,1.0,1.0",
    "TCGA_CS_0001_19990101,TCGA_CS_0001,a_1.png,1,2.0,67.0,0.0,0.0",
    "TCGA_DU_0003_19990101,TCGA_DU_0003,c_1.png,1,,,1.0,0.0",
    "TCGA_DU_0004_19990101,TCGA_DU_0004,d_1.png,1,2.0,41.0,-1.0,-1.0",
    "TCGA_DU_0005_19990101,TCGA_DU_0005,e_1.png,1,2.0,41.0,0,1",
    "TCGA_DU_0006_19990101,TCGA_DU_0006,f_1.png,1,2.0,41.0,1,",
)


def folder(root: Path, rows: tuple[str, ...] = ROWS, name: str = "roi256") -> Path:
    (root / name).mkdir(parents=True)
    (root / "radpath_pairs.csv").write_text("\n".join([HEAD, *rows]) + "\n")
    for number, file in enumerate(file for row in rows for file in row.split(",")[2].split(";")):
        pixels = np.random.default_rng(number).integers(0, 256, (8, 8, 3)).astype(np.uint8)
        Image.fromarray(pixels).save(root / name / file)
    return root


def test_cases_regions_and_answers(tmp_path: Path) -> None:
    cohort = check_dataset("glioma-pathology", folder(tmp_path))
    assert [case.id[8:12] for case in cohort.cases] == ["0001", "0002", "0003", "0004", "0005", "0006"]
    first, second = cohort.cases[:2]
    assert (first.group, first.site, second.site) == ("TCGA_CS_0001", "CS", "CS")
    assert second.cells["pathology"] == "roi256/b_1.png;roi256/b_2.png"
    assert items_of(cohort, second, "pathology").shape == (2, 3, 8, 8)
    assert [(t.name, t.classes) for t in cohort.targets] == [
        ("idh", ("wildtype", "mutant")),
        ("codeletion", ("no", "yes")),
        ("molecular", ("G", "O", "A")),
    ]
    answers = [tuple(case.cells.get(name) for name in ("idh", "codeletion", "molecular")) for case in cohort.cases]
    assert answers == [
        ("wildtype", "no", "G"),
        ("mutant", "yes", "O"),
        ("mutant", "no", "A"),
        (None, None, None),  # -1 is "nobody knows" and never "no"
        ("wildtype", "yes", None),  # no class of 2020 has this
        ("mutant", None, None),
    ]
    assert "molecular is unknown in 3 of 6 cases (TCGA_DU_0004_19990101, TCGA_DU_0005_19990101, TCGA_DU_0006_19990101)" in (
        cohort.meta.notes
    )


def test_clinical_features_are_whole_or_absent(tmp_path: Path) -> None:
    folder(tmp_path)
    assert [m.name for m in index("glioma-pathology", tmp_path).modalities] == ["pathology"]
    cohort = index("glioma-pathology", tmp_path, {"clinical": True})
    assert [case.cells.get("clinical") for case in cohort.cases][:3] == ["0.67;1", "0.3;0", None]


def test_the_grade_is_a_target_where_asked_for(tmp_path: Path) -> None:
    folder(tmp_path)
    with pytest.raises(DataError, match="must have the column neoplasm_histologic_grade"):
        index("glioma-pathology", tmp_path, {"grade": True})
    table = tmp_path / "radpath_pairs.csv"
    head, *rows = table.read_text().splitlines()
    grades = ("1.0", "2.0", "", "-1", "2", "1")
    lines = [f"{head},neoplasm_histologic_grade", *(f"{row},{grade}" for row, grade in zip(rows, grades, strict=True))]
    table.write_text("\n".join(lines))
    cohort = index("glioma-pathology", tmp_path, {"grade": True})
    assert cohort.targets[-1].name == "grade" and cohort.targets[-1].classes == ("2", "3")
    found = {case.id[8:12]: case.cells.get("grade") for case in cohort.cases}
    assert found == {"0002": "2", "0001": "3", "0003": None, "0004": None, "0005": "3", "0006": "2"}
    table.write_text(table.read_text().replace(",2.0,41.0,-1.0,-1.0,-1", ",2.0,41.0,-1.0,-1.0,4"))
    with pytest.raises(DataError, match=r"neoplasm_histologic_grade must be 1, 2 or -1; got '4' \[subject TCGA_DU_0004"):
        index("glioma-pathology", tmp_path, {"grade": True})


def test_regions_that_are_gone_are_left_out_and_counted(tmp_path: Path) -> None:
    folder(tmp_path)
    (tmp_path / "roi256" / "b_1.png").unlink()
    (tmp_path / "roi256" / "a_1.png").unlink()
    cohort = index("glioma-pathology", tmp_path)
    assert cohort.case("TCGA_CS_0002_19990101").cells["pathology"] == "roi256/b_2.png"
    assert "pathology" not in cohort.case("TCGA_CS_0001_19990101").cells
    assert cohort.case("TCGA_CS_0001_19990101").cells["idh"] == "wildtype"  # its answers may be joined to an MRI
    assert cohort.meta.notes[:2] == [
        "2 regions of the table are not on disk and left out (b_1.png)",
        "1 case has no region on disk: a blank cell (TCGA_CS_0001_19990101)",
    ]


def test_regions_in_two_folders_need_a_choice(tmp_path: Path) -> None:
    folder(tmp_path)
    folder(tmp_path, name="roi40")
    with pytest.raises(DataError, match=r"must hold each region once; got roi256/.* and roi40/.*--set folder="):
        index("glioma-pathology", tmp_path)
    cohort = index("glioma-pathology", tmp_path, {"folder": "roi40"})
    assert cohort.cases[0].cells["pathology"] == "roi40/a_1.png"
    with pytest.raises(ConfigError, match="layout glioma-pathology: folder must be below ROOT; got 'roi4'"):
        index("glioma-pathology", tmp_path, {"folder": "roi4"})


def test_mistakes_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"must hold one table radpath_pairs.csv; got none"):
        index("glioma-pathology", tmp_path)
    table = folder(tmp_path) / "radpath_pairs.csv"
    text = table.read_text()
    for old, new, said in (
        ("idh_mutation", "idh", "table must have the column idh_mutation"),
        (",-1.0,-1.0", ",2.0,-1.0", r"idh_mutation must be 1, 0 or -1; got '2.0' \[subject TCGA_DU_0004"),
        ("TCGA_CS_0001_19990101,", ",", "must name its case in every row; got a blank cell"),
    ):
        table.write_text(text.replace(old, new))
        with pytest.raises(DataError, match=said):
            index("glioma-pathology", tmp_path)
    table.write_text(text.replace("2.0,67.0", "3.0,67.0"))
    with pytest.raises(DataError, match=r"age and gender must be years, and 1 or 2; got '67.0' and '3'"):
        index("glioma-pathology", tmp_path, {"clinical": True})
    table.write_text(text)
    for path in (tmp_path / "roi256").iterdir():
        path.unlink()
    with pytest.raises(DataError, match="must hold the regions that its table lists; got none"):
        index("glioma-pathology", tmp_path)


@pytest.mark.skipif(not REAL.is_dir(), reason="the real regions are not here")
def test_the_real_patients() -> None:
    cohort = index("glioma-pathology", REAL, {"clinical": True, "grade": True})
    assert len(cohort) == 74
    assert Counter(case.cells.get("grade", "") for case in cohort.cases) == {"2": 35, "3": 38, "": 1}
    tiles = [case.cells["pathology"].split(";") for case in cohort.cases]
    assert sum(map(len, tiles)) == 148 and max(map(len, tiles)) == 11
    counts = Counter(case.cells.get("molecular", "") for case in cohort.cases)
    assert counts == {"G": 17, "A": 40, "O": 16, "": 1}
    assert "idh" not in cohort.case("TCGA_DU_7014_19860618").cells
    assert sum("clinical" in case.cells for case in cohort.cases) == 73
    assert items_of(cohort, cohort.cases[0], "pathology").shape == (len(tiles[0]), 3, 256, 256)
