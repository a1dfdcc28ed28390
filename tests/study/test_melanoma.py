"""Melanoma from true criteria: the real table equals its references where it is there, and what is wrong is seen anywhere."""

from __future__ import annotations

import csv
import shutil
from pathlib import Path

import numpy as np
import pytest
from sklearn.metrics import balanced_accuracy_score, recall_score, roc_auc_score

from comodal.data.derm7pt_criteria import load_criteria
from comodal.data.phantoms.skin import SkinPhantom, write_skin
from comodal.errors import DataError
from comodal.study.melanoma import (
    OFFICIAL,
    PUBLISHED,
    REFERENCE,
    REFERENCE_COUNTS,
    REMOVED,
    Compared,
    MelanomaReproduction,
    infer_melanoma,
)

REAL = Path(__file__).resolve().parents[3] / "shared" / "data" / "derm7pt_meta_only"
COPIES = ("565", "800", "824", "827", "833", "834", "839", "844", "851")


@pytest.fixture(scope="module")
def real() -> MelanomaReproduction:
    if not (REAL / "meta.csv").is_file():
        pytest.skip("../shared/data/derm7pt_meta_only is not here")
    return infer_melanoma(REAL)


@pytest.fixture(scope="module")
def phantom(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("skin") / "files"
    write_skin(root, SkinPhantom(cases=40, size=64, seed=3))
    return root


def table_of(root: Path) -> list[dict[str, str]]:
    with (root / "meta" / "meta.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def edited(root: Path, folder: Path, changes: dict[int, dict[str, str]]) -> Path:
    """The phantom with other cells in some rows."""
    shutil.copytree(root, folder)
    rows = table_of(folder)
    for number, cells in changes.items():
        rows[number] |= cells
    with (folder / "meta" / "meta.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return folder


def test_every_reference_of_the_real_table_is_reached(real: MelanomaReproduction) -> None:
    assert real.release and not real.synthetic and real.rows == 1011
    assert real.differences == ()
    lines = {(line.variant, line.split): line for line in real.lines}
    assert set(lines) == {(variant, split) for variant in (OFFICIAL, PUBLISHED) for split in REFERENCE}
    assert [lines[OFFICIAL, split].found.n for split in REFERENCE] == [413, 203, 395, 1011]
    for split in REFERENCE:
        verdicts = [one.verdict for one in lines[PUBLISHED, split].numbers]
        assert verdicts == ["equal"] * 9, split
    assert [one.verdict for one in lines[PUBLISHED, "test"].largest.values()] == ["equal"] * 8
    for split, counts in REFERENCE_COUNTS.items():
        assert {name: tuple(of.values()) for name, of in lines[PUBLISHED, split].counts.items()} == counts


def test_the_suspicious_cases_of_the_real_table_are_listed(real: MelanomaReproduction) -> None:
    odd = real.suspicious
    assert tuple(odd.copied) == COPIES and all(odd.copied.values())  # the table says of each what was replaced
    assert odd.kept == tuple(name for name in COPIES if name != "834")
    assert odd.lost == tuple(name for name in REMOVED if name != "834")
    assert odd.shared == {} and odd.parted == {}
    assert real.mismatches == () and real.scored == 1011


def test_a_phantom_has_its_own_numbers_and_no_reference(phantom: Path) -> None:
    found = infer_melanoma(phantom)
    assert found.synthetic and not found.release and found.differences == ()
    assert [(line.variant, line.split) for line in found.lines] == [(OFFICIAL, s) for s in ("train", "val", "test", "all")]
    criteria, rows = load_criteria(), table_of(phantom)
    truth = np.array([criteria.diagnosis.values[row["diagnosis"]][0] == "MEL" for row in rows])
    score = np.array([int(row["seven_point_score"]) for row in rows])
    line = found.lines[-1]
    values = {one.name: one.ours for one in line.numbers}
    assert values["cases"] == 40 and values["melanomas"] == truth.sum()
    assert values["AUROC"] == pytest.approx(roc_auc_score(truth, score))
    for cut in (1, 3):
        assert values[f"sensitivity at {cut}"] == pytest.approx(recall_score(truth, score >= cut))
        assert values[f"balanced accuracy at {cut}"] == pytest.approx(balanced_accuracy_score(truth, score >= cut))
    assert all(one.verdict == "" for one in line.numbers)
    assert sum(line.counts["diagnosis"].values()) == 40
    most = max(line.counts["streaks"].values())
    assert line.largest["streaks"].ours == pytest.approx(most / 40)


def test_what_is_wrong_in_a_table_is_seen(phantom: Path, tmp_path: Path) -> None:
    rows = table_of(phantom)
    sides = [row["case_num"] for row in rows[:2]]  # train and test, by the order of the phantom's splits
    changes = {
        0: {"case_id": "lesion 7", "seven_point_score": "10" if rows[0]["seven_point_score"] != "10" else "0"},
        1: {"case_id": "lesion 7"},
        4: {"clinic": rows[4]["derm"].upper(), "notes": "Clinical missing and replaced with derm"},
        5: {"clinic": rows[6]["clinic"]},
    }
    found = infer_melanoma(edited(phantom, tmp_path / "edited", changes))
    odd = found.suspicious
    assert odd.parted == {"lesion 7": tuple(sides)}
    assert odd.copied == {rows[4]["case_num"]: "Clinical missing and replaced with derm"}
    assert odd.shared == {rows[6]["clinic"].casefold(): (rows[5]["case_num"], rows[6]["case_num"])}
    assert odd.kept == odd.lost == ()
    assert found.mismatches is not None and [one.case_num for one in found.mismatches] == [rows[0]["case_num"]]


def test_a_table_without_answers_is_refused(phantom: Path, tmp_path: Path) -> None:
    blank = edited(phantom, tmp_path / "blank", {number: {"streaks": ""} for number in range(40)})
    with pytest.raises(DataError, match="have a lesion with a diagnosis and all criteria; got none"):
        infer_melanoma(blank)


def test_equal_means_to_the_digits_of_the_reference() -> None:
    assert Compared("x", 0.92149, 0.921).verdict == "equal" and Compared("x", 0.9216, 0.921).verdict == "differs"
    assert Compared("x", None, 0.921).verdict == "differs" and Compared("x", 0.5).verdict == ""
    assert Compared("cases", 408, 408).verdict == "equal" and Compared("cases", 407, 408).verdict == "differs"
