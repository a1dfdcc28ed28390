"""The layout of Derm7pt: table, index files, photographs in capitals or not, copies, and the real table if it is there."""

from __future__ import annotations

import csv
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from comodal.data import index
from comodal.data.cohort import Case, Cohort
from comodal.data.contents import vector_of
from comodal.data.derm7pt import ScoreMismatch, score_mismatches
from comodal.data.derm7pt_criteria import load_criteria
from comodal.data.integrity import check_cohort
from comodal.data.splits import SplitConfig, make_splits
from comodal.errors import ConfigError, DataError
from comodal.testing.dataset import check_dataset

REAL = Path(__file__).resolve().parents[3] / "shared" / "data" / "derm7pt_meta_only"
COLUMNS = [
    "case_num", "diagnosis", "seven_point_score", "pigment_network", "streaks", "pigmentation", "regression_structures",
    "dots_and_globules", "blue_whitish_veil", "vascular_structures", "level_of_diagnostic_difficulty", "elevation", "location",
    "sex", "management", "clinic", "derm", "case_id", "notes",
]  # fmt: skip
NAMES = [
    ("NEL/NEL025.JPG", "NEL/Nel026.jpg"),
    ("Fgl/Fgl001.jpg", "Fgl/Fgl002.jpg"),
    ("A2l/Abl100.jpg", "A2l/Abl101.jpg"),
    ("Ael/Ael505bis.jpg", "Ael/Ael506.jpg"),
]
Table = list[dict[str, str]]


def rows() -> Table:
    """Four lesions; the third scores 2 + 2 + 2 + 1 + 1 + 1 + 1 = 10."""
    absent = dict.fromkeys(load_criteria().criteria, "absent")
    worst = {"pigment_network": "atypical", "blue_whitish_veil": "present", "vascular_structures": "linear irregular"}
    worst |= {"pigmentation": "localized irregular", "regression_structures": "combinations"}
    worst |= dict.fromkeys(("streaks", "dots_and_globules"), "irregular")
    history = {"elevation": "nodular", "location": "acral", "sex": "male", "management": "excision"}
    shared = {
        **dict.fromkeys(COLUMNS, ""),
        **absent,
        **history,
        "level_of_diagnostic_difficulty": "low",
        "seven_point_score": "0",
    }
    own: list[dict[str, str]] = [
        {"diagnosis": "basal cell carcinoma", "vascular_structures": "arborizing"},
        {"diagnosis": "reed or spitz nevus", "pigment_network": "typical"},
        {"diagnosis": "melanoma metastasis", "seven_point_score": "10", **worst},
        {"diagnosis": "vascular lesion", "elevation": "flat", "location": "back", "sex": "female"},
    ]
    return [{**shared, **one, "case_num": str(k + 1), "clinic": NAMES[k][0], "derm": NAMES[k][1]} for k, one in enumerate(own)]


def picture(path: Path, seed: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (6, 8 + seed, 3)).astype(np.uint8)  # of different widths
    Image.fromarray(pixels).save(path, format="JPEG")


def write(root: Path, table: Table, splits: dict[str, list[int]] | None = None) -> Path:
    """A release with all photographs that the table names."""
    meta = root / "meta"
    meta.mkdir(parents=True, exist_ok=True)
    with (meta / "meta.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, list(table[0]))
        writer.writeheader()
        writer.writerows(table)
    for name, positions in (splits or {"train": [0, 3], "valid": [1], "test": [2]}).items():
        (meta / f"{name}_indexes.csv").write_text("\n".join(["indexes", *map(str, positions)]) + "\n")
    for k, name in enumerate(dict.fromkeys(name for row in table for name in (row["clinic"], row["derm"]) if name)):
        picture(root / "images" / name, k)
    return root


def notes_with(cohort: Cohort, word: str) -> list[str]:
    return [note for note in cohort.meta.notes if word in note]


def test_a_whole_release(tmp_path: Path) -> None:
    cohort = check_dataset("derm7pt", write(tmp_path, rows()))
    assert cohort.ids == ("1", "2", "3", "4")
    assert [(m.name, m.kind, m.spatial_dims, m.channels, m.grid) for m in cohort.modalities] == [
        ("clinical", "image", 2, 3, "clinical"),
        ("derm", "image", 2, 3, "derm"),
        ("metadata", "features", 0, 14, "metadata"),
    ]
    assert [c.split for c in cohort.cases] == ["train", "val", "test", "train"]
    assert [c.group for c in cohort.cases] == ["1", "2", "3", "4"]
    assert [c.cells["diagnosis"] for c in cohort.cases] == ["BCC", "NEV", "MEL", "MISC"]
    worst = ("ATP", "PRS", "IR", "IR", "IR", "IR", "PRS")
    assert tuple(cohort.cases[2].cells[name] for name in load_criteria().criteria) == worst
    assert cohort.cases[0].cells["vascular_structures"] == "REG" and cohort.cases[0].cells["streaks"] == "ABS"
    assert cohort.cases[0].cells["clinical"] == "images/NEL/NEL025.JPG"
    assert {t.name: t.classes for t in cohort.targets}["pigment_network"] == ("ABS", "TYP", "ATP")
    nodular_acral_male = [0, 0, 1, *[0] * 6, 1, 0, 0, 0, 1]
    assert cohort.root == tmp_path and [t.kind for t in cohort.targets] == ["class"] * 8
    assert vector_of(cohort, cohort.cases[0], "metadata").tolist() == nodular_acral_male
    assert vector_of(cohort, cohort.cases[3], "metadata").tolist() == [1, 0, 0, 1, *[0] * 8, 1, 0]
    assert make_splits(cohort, SplitConfig()) == {"train": ["1", "4"], "val": ["2"], "test": ["3"]}
    assert check_cohort(cohort).ok
    assert "seven_point_score is the sum of the points of the criteria in every row that has both" in cohort.meta.notes
    assert len(notes_with(cohort, "management are no input")) == 1
    columns = [spec.name for spec in cohort.meta.columns]
    assert not {"management", "level_of_diagnostic_difficulty", "seven_point_score"} & set(columns)


@pytest.mark.parametrize("where", ["", "release_v0", "meta"])
def test_the_root_may_be_the_folder_around_or_meta(tmp_path: Path, where: str) -> None:
    base = tmp_path / "release_v0"
    write(base, rows())
    given = {"": base, "release_v0": tmp_path, "meta": base / "meta"}[where]
    cohort = check_dataset("derm7pt", given)
    assert cohort.root == base and cohort.cases[0].cells["derm"] == "images/NEL/Nel026.jpg"


def test_names_in_other_letters_are_found_and_two_of_them_refused(tmp_path: Path) -> None:
    root = write(tmp_path, rows())
    (root / "images" / "NEL" / "NEL025.JPG").rename(root / "images" / "NEL" / "nel025.jpg")
    (root / "images" / "Fgl").rename(root / "images" / "FGL")
    cohort = check_dataset("derm7pt", root)
    assert cohort.cases[0].cells["clinical"] == "images/NEL/nel025.jpg"
    assert cohort.cases[1].cells["derm"] == "images/FGL/Fgl002.jpg"
    picture(root / "images" / "nel" / "Nel025.jpg", 40)
    rule = r"clinic must mean one file; got images/NEL/nel025.jpg and images/nel/Nel025.jpg \[subject 1, modality clinical\]"
    with pytest.raises(DataError, match=rule):
        index("derm7pt", root)


def test_absent_files_are_blank_and_counted(tmp_path: Path) -> None:
    root = write(tmp_path, rows())
    for name in (NAMES[0][0], NAMES[1][0], NAMES[1][1]):
        (root / "images" / name).unlink()
    picture(root / "images" / "NEL" / "Nel999.jpg", 50)
    cohort = check_dataset("derm7pt", root)
    assert [set(c.cells) & {"clinical", "derm"} for c in cohort.cases] == [{"derm"}, set(), *[{"clinical", "derm"}] * 2]
    assert notes_with(cohort, "no file for") == [
        "no file for clinical, taken as absent: 2 of 4 (1, 2)",
        "no file for derm, taken as absent: 1 of 4 (2)",
    ]
    assert "1 of the files below images is in no cell" in cohort.meta.notes
    without = index("derm7pt", root, {"metadata": False})
    assert without.ids == ("1", "3", "4") and [m.name for m in without.modalities] == ["clinical", "derm"]
    assert [c.split for c in without.cases] == [
        "train",
        "test",
        "train",
    ]  # positions are those of the table, not of what is left
    assert "left out without any modality: 1 of 4 (2)" in without.meta.notes


def test_random_files_deleted_are_exactly_the_blank_cells(tmp_path: Path) -> None:
    rng, table = np.random.default_rng(4), rows()
    root = write(tmp_path, table)
    for name in (name for pair in NAMES for name in pair):
        if rng.uniform() < 0.5:
            (root / "images" / name).unlink()
    cohort = check_dataset("derm7pt", root)
    for row, case in zip(table, cohort.cases, strict=True):
        for modality, column in (("clinical", "clinic"), ("derm", "derm")):
            assert (modality in case.cells) == (root / "images" / row[column]).exists()


def test_damaged_photographs_are_found_by_check(tmp_path: Path) -> None:
    root = write(tmp_path, rows())
    (root / "images" / NAMES[0][0]).write_bytes((root / "images" / NAMES[0][0]).read_bytes()[:200])
    (root / "images" / NAMES[2][1]).write_bytes(b"")
    (root / "images" / NAMES[3][0]).unlink()
    (root / "images" / NAMES[3][0]).symlink_to("/etc/hostname")  # out of the root
    bad = {(d.subject, d.modality) for d in check_cohort(index("derm7pt", root)).defects if d.level == "error"}
    assert bad == {("1", "clinical"), ("3", "derm"), ("4", "clinical")}


def test_copies_of_the_dermoscopic_photograph_are_no_clinical_one(tmp_path: Path) -> None:
    table = rows()
    table[1]["clinic"] = table[1]["derm"].upper().replace("FGL/", "Fgl/")  # one name, in other letters
    root = write(tmp_path, table)
    (root / "images" / table[1]["clinic"]).unlink(missing_ok=True)
    picture(root / "images" / table[1]["derm"], 30)
    (root / "images" / NAMES[2][0]).write_bytes((root / "images" / NAMES[2][1]).read_bytes())  # the same bytes
    cohort = check_dataset("derm7pt", root)
    assert [("clinical" in c.cells, "derm" in c.cells) for c in cohort.cases] == [
        (True, True),
        *[(False, True)] * 2,
        (True, True),
    ]
    note = "clinical is blank where it is a copy of the dermoscopic photograph: 2 of 4 (2, 3)"
    assert notes_with(cohort, "copy") == [note]
    assert [c.split for c in cohort.cases] == ["train", "val", "test", "train"]
    assert check_cohort(cohort).ok


def test_without_photographs_metadata_is_left(tmp_path: Path) -> None:
    write(tmp_path, rows())
    flat = tmp_path / "flat"
    flat.mkdir()
    for file in (tmp_path / "meta").iterdir():
        (flat / file.name).write_bytes(file.read_bytes())
    cohort = check_dataset("derm7pt", flat)
    assert [m.name for m in cohort.modalities] == ["metadata"] and len(cohort) == 4
    assert notes_with(cohort, "no image modalities")
    with pytest.raises(DataError, match="ROOT must hold photographs or metadata; got neither"):
        index("derm7pt", flat, {"metadata": False})


def test_metadata_is_whole_or_absent(tmp_path: Path) -> None:
    table = rows()
    table[1]["sex"] = ""
    cohort = check_dataset("derm7pt", write(tmp_path, table))
    assert ["metadata" in c.cells for c in cohort.cases] == [True, False, True, True]
    assert "without metadata, since not all three are filled: 1 of 4 (2)" in cohort.meta.notes


@pytest.mark.parametrize(
    ("column", "value", "said"),
    [
        (
            "diagnosis",
            "clark nevis",
            r"table: diagnosis must be a value .* 'clark nevis' in row 1 \(from 0\) .*mean clark nevus",
        ),
        (
            "vascular_structures",
            "doted",
            r"table: vascular_structures must .*'doted' in row 1 .*subject 2.*Did you mean dotted",
        ),
        ("location", "foot", r"table: location must be a value that the checklist groups; got 'foot' in row 1"),
        ("seven_point_score", "3.5", r"table: seven_point_score must be a whole number; got '3.5' in row 1"),
        (
            "clinic",
            "../../secret.jpg",
            r"table: clinic must list paths that stay below its root; .*subject 2, modality clinical",
        ),
    ],
)
def test_unknown_values_are_refused(tmp_path: Path, column: str, value: str, said: str) -> None:
    root, table = write(tmp_path, rows()), rows()
    table[1][column] = value
    with (root / "meta" / "meta.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        writer.writerows(table)
    with pytest.raises(DataError, match=said):
        index("derm7pt", root)


def test_blank_criteria_are_unlabelled_and_letters_do_not_matter(tmp_path: Path) -> None:
    table = rows()
    table[0] |= {"streaks": "", "pigmentation": "Diffuse Regular"}
    cohort = check_dataset("derm7pt", write(tmp_path, table))
    assert "streaks" not in cohort.cases[0].cells and cohort.cases[0].cells["pigmentation"] == "REG"


def test_scores_that_are_not_the_sum_are_listed(tmp_path: Path) -> None:
    table = rows()
    table[2]["seven_point_score"], table[3]["seven_point_score"] = "9", ""
    table[0] |= {"streaks": "", "seven_point_score": "7"}  # a criterion is not known: nothing can be said
    root = write(tmp_path, table)
    assert score_mismatches(root) == score_mismatches(root / "meta") == [ScoreMismatch(2, "3", 9, 10)]
    note = "seven_point_score is not the sum of the points of the criteria: 1 of 4 (3: 9, sum 10)"
    assert note in index("derm7pt", root).meta.notes


@pytest.mark.parametrize(
    ("splits", "said"),
    [
        (
            {"train": [0, 3], "valid": [1], "test": [2, 3]},
            r"list each row once; got row 3 in train_indexes.csv and test_indexes",
        ),
        ({"train": [0, 3, 0], "valid": [1], "test": [2]}, r"list each row once; got 0 twice"),
        ({"train": [1, 4], "valid": [2], "test": [3]}, r"hold positions of rows, 0 to 3; got '4' .*are not case_num"),
        ({"train": [0, 3], "valid": [-1], "test": [2]}, r"hold positions of rows, 0 to 3; got '-1'"),
    ],
)
def test_wrong_index_files_are_refused(tmp_path: Path, splits: dict[str, list[int]], said: str) -> None:
    with pytest.raises(DataError, match=said):
        index("derm7pt", write(tmp_path, rows(), splits))


def test_rows_in_no_index_file_and_missing_index_files(tmp_path: Path) -> None:
    root = write(tmp_path, rows(), {"train": [0], "valid": [], "test": [2]})
    cohort = check_dataset("derm7pt", root)
    assert [c.split for c in cohort.cases] == ["train", "", "test", ""]
    (note,) = notes_with(cohort, "in no index file")
    assert "2 of 4 (2, 4)" in note and "splits.column: false" in note
    with pytest.raises(DataError, match="cohort: split must be filled for all cases"):
        make_splits(cohort, SplitConfig())
    (root / "meta" / "valid_indexes.csv").write_text("index\n1\n")
    with pytest.raises(DataError, match="must have the one column 'indexes'; got index"):
        index("derm7pt", root)
    (root / "meta" / "valid_indexes.csv").unlink()
    with pytest.raises(DataError, match=r"index files must be all there or none; got no valid_indexes.csv .*Restore it"):
        index("derm7pt", root)
    for name in ("train", "test"):
        (root / "meta" / f"{name}_indexes.csv").unlink()
    assert {c.split for c in index("derm7pt", root).cases} == {""}


def test_rows_that_were_moved_are_said(tmp_path: Path) -> None:
    table = rows()
    assert not notes_with(index("derm7pt", write(tmp_path / "a", table)), "rows were moved")
    assert notes_with(index("derm7pt", write(tmp_path / "b", table[::-1])), "rows were moved or removed")


def test_lesions_of_one_case_are_one_group(tmp_path: Path) -> None:
    table = rows()
    table[0]["case_id"] = table[3]["case_id"] = "1d171819"
    root = write(tmp_path, table)
    cohort = check_dataset("derm7pt", root)
    assert [c.group for c in cohort.cases] == ["case_id 1d171819", "2", "3", "case_id 1d171819"]
    assert not notes_with(cohort, "parts lesions")
    table[1]["case_id"] = "1d171819"  # in validation
    root = write(tmp_path, table)
    cohort = index("derm7pt", root)
    assert notes_with(cohort, "official split parts lesions of one case (1 of 2 (case_id 1d171819)")
    assert not check_cohort(cohort).ok
    apart = index("derm7pt", root, {"group_by_case_id": False})
    assert check_cohort(apart).ok and [c.group for c in apart.cases] == ["1", "2", "3", "4"]


def test_the_full_form_has_fifteen_diagnoses(tmp_path: Path) -> None:
    cohort = index("derm7pt", write(tmp_path, rows()), {"diagnosis": "full"})
    (target,) = [t for t in cohort.targets if t.name == "diagnosis"]
    assert len(target.classes) == 15
    said = [c.cells["diagnosis"] for c in cohort.cases]
    assert said == ["basal cell carcinoma", "reed or spitz nevus", "melanoma", "vascular lesion"]
    with pytest.raises(ConfigError, match="layout derm7pt: diagnosis must"):
        index("derm7pt", cohort.root, {"diagnosis": "five"})
    with pytest.raises(ConfigError, match=r"layout derm7pt: metdata must be an option .*Did you mean metadata"):
        index("derm7pt", cohort.root, {"metdata": False})


def test_other_folders_and_tables_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"ROOT must hold meta/meta.csv or meta.csv; got none .*release_v0"):
        index("derm7pt", tmp_path)
    (tmp_path / "meta.csv").write_text("case_num,diagnosis,clinic,derm\n1,melanoma,a.jpg,b.jpg\n")
    with pytest.raises(DataError, match="table must have the column 'pigment_network'; got none"):
        index("derm7pt", tmp_path)


def test_hostile_names_do_not_leave_the_folder(tmp_path: Path) -> None:
    root = write(tmp_path / "root", rows())
    picture(tmp_path / "outside" / "Fgl001.jpg", 60)
    for name in ("Fgl001.jpg", "Fgl002.jpg"):
        (root / "images" / "Fgl" / name).unlink()
    (root / "images" / "Fgl").rmdir()
    (root / "images" / "Fgl").symlink_to(tmp_path / "outside", target_is_directory=True)
    cohort = check_dataset("derm7pt", root)
    assert not {"clinical", "derm"} & set(cohort.cases[1].cells)
    assert notes_with(cohort, "1 linked folder was not followed (images/Fgl)")


# The checklist itself


def test_points_and_groups_of_the_checklist() -> None:
    checklist = load_criteria()
    majors = {name for name, c in checklist.criteria.items() if max(c.points.values()) == 2}
    assert majors == {"pigment_network", "blue_whitish_veil", "vascular_structures"} and checklist.highest == 10
    assert all(
        c.classes[0] == "ABS" and c.points["ABS"] == 0 and c.values["absent"] == "ABS" for c in checklist.criteria.values()
    )
    labels = sum(len(c.classes) for c in checklist.criteria.values()) + len(checklist.diagnosis.grouped)
    assert labels == 24 and len(checklist.diagnosis.full) == 15 and len(checklist.diagnosis.values) == 20
    assert sum(len(v) for v in checklist.metadata.values()) == 14


# The real table


@pytest.fixture(scope="module")
def real() -> Cohort:
    if not (REAL / "meta.csv").is_file():
        pytest.skip("../shared/data/derm7pt_meta_only is not here")
    return check_dataset("derm7pt", REAL)


def test_real_table_has_the_published_counts(real: Cohort) -> None:
    assert {name: len(ids) for name, ids in make_splits(real, SplitConfig()).items()} == {"train": 413, "val": 203, "test": 395}
    assert [m.name for m in real.modalities] == ["metadata"] and all("metadata" in c.cells for c in real.cases)
    count = Counter(c.cells["diagnosis"] for c in real.cases)
    assert count == {"BCC": 42, "NEV": 575, "MEL": 252, "MISC": 97, "SK": 45}
    (note,) = notes_with(real, "copy of the dermoscopic")
    assert note.endswith("9 of 1011 (565, 800, 824, 827, 833, 834, 839, 844, 851)")
    assert not notes_with(real, "parts lesions") and not notes_with(real, "rows were moved")


def test_real_splits_are_those_of_the_index_files(real: Cohort) -> None:
    for split, name in (("train", "train"), ("val", "valid"), ("test", "test")):
        with (REAL / f"{name}_indexes.csv").open() as file:
            positions = sorted(int(line) for line in file.read().split()[1:])
        assert [k for k, case in enumerate(real.cases) if case.split == split] == positions


def test_real_scores_are_the_sums_of_points(real: Cohort) -> None:
    """Recomputed here word by word, without the data file: no exception among 1011 rows."""
    two = {
        "pigment_network": {"atypical"},
        "blue_whitish_veil": {"present"},
        "vascular_structures": {"dotted", "linear irregular"},
    }
    one: dict[str, set[str]] = {
        "pigmentation": {"diffuse irregular", "localized irregular"},
        "streaks": {"irregular"},
        "dots_and_globules": {"irregular"},
        "regression_structures": {"blue areas", "white areas", "combinations"},
    }
    with (REAL / "meta.csv").open(newline="") as file:
        table: list[dict[str, Any]] = list(csv.DictReader(file))
    slow = [sum(2 * (row[c] in v) for c, v in two.items()) + sum(row[c] in v for c, v in one.items()) for row in table]
    assert slow == [int(row["seven_point_score"]) for row in table] and len(slow) == len(real)
    assert score_mismatches(REAL) == []


def test_real_case_ids_join_no_two_lesions(real: Cohort) -> None:
    """27 rows have a case_id and no two share one: grouping by it changes nothing on this release."""
    ids = [case.group for case in real.cases if case.group.startswith("case_id ")]
    assert len(ids) == len(set(ids)) == 27
    assert isinstance(real.cases[0], Case)
