"""One's own table, told what its columns are: texts, numbers, bags, classes, folders, words for a blank."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from comodal.data import index
from comodal.data.cohort import Cohort, ModalitySpec, TargetSpec
from comodal.data.contents import items_of, report_of, vector_of
from comodal.errors import ConfigError, DataError
from comodal.testing.dataset import check_dataset

COVID = Path(__file__).parents[3] / "shared" / "data" / "covid_cxr_notes"


def picture(path: Path, seed: int, channels: int = 1) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    shape = (12, 10) if channels == 1 else (12, 10, 3)
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)).save(path)


def table(folder: Path, rows: list[dict[str, str]]) -> Path:
    path = folder / "table.csv"
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return path


@pytest.fixture
def rows(tmp_path: Path) -> list[dict[str, str]]:
    for k in range(4):
        picture(tmp_path / "xray" / f"{k}.png", k)
        picture(tmp_path / "tiles" / f"{k}_a.png", 10 + k, channels=3)
        picture(tmp_path / "tiles" / f"{k}_b.png", 20 + k, channels=3)
    notes = ["No effusion, no mass.", "A large mass; see\nthe CT.", "", "Covid-19 pneumonia. COVID likely."]
    return [
        {
            "Pat ID": f"00{k}",
            "xray": f"{k}.png",
            "note": notes[k],
            "age": "61" if k != 1 else "NA",
            "weight": f"{70 + k}.5",
            "tiles": f"{k}_a.png;{k}_b.png" if k else f"{k}_a.png",
            "grade": ["II", "III", "II", "NA"][k],
            "findings": ["mass", "mass;effusion", "-", "?effusion"][k],
            "site": "NA" if k == 3 else "A",
        }
        for k in range(4)
    ]


OPTIONS: dict[str, Any] = {
    "columns": {"subject": "Pat ID"},
    "folder": {"xray": "xray", "tiles": "tiles"},
    "text": "note",
    "redact": ["covid", "COVID-19"],
    "numbers": {"clinical": ["age", "weight"]},
    "bag": ["tiles"],
    "ordinal": {"grade": ["II", "III", "IV"]},
    "multilabel": ["findings"],
    "absent": ["na"],
}


def test_columns_become_what_the_options_say(tmp_path: Path, rows: list[dict[str, str]]) -> None:
    cohort = index("csv", table(tmp_path, rows), OPTIONS)
    known = {spec.name: spec for spec in cohort.meta.columns}
    assert [m.name for m in cohort.modalities] == ["xray", "note", "tiles", "clinical"]
    assert cohort.ids == ("000", "001", "002", "003") and cohort.cases[3].site == ""
    note, tiles, clinical, grade, findings = (known[name] for name in ("note", "tiles", "clinical", "grade", "findings"))
    assert isinstance(note, ModalitySpec) and (note.kind, note.inline) == ("text", True)
    assert isinstance(tiles, ModalitySpec) and (tiles.kind, tiles.spatial_dims, tiles.channels) == ("bag", 2, 3)
    assert isinstance(clinical, ModalitySpec) and (clinical.kind, clinical.channels, clinical.inline) == ("features", 2, True)
    assert isinstance(grade, TargetSpec) and (grade.kind, grade.classes) == ("ordinal", ["II", "III", "IV"])
    assert isinstance(findings, TargetSpec) and (findings.kind, findings.classes) == ("multilabel", ["effusion", "mass"])
    assert report_of(cohort, cohort.case("001"), "note") == "A large mass; see\nthe CT."
    assert report_of(cohort, cohort.case("003"), "note") == "___ pneumonia. ___ likely."
    assert vector_of(cohort, cohort.case("000"), "clinical").tolist() == [61.0, 70.5]
    assert "clinical" not in cohort.case("001").cells and "note" not in cohort.case("002").cells
    assert "grade" not in cohort.case("003").cells and cohort.case("003").cells["findings"] == "?effusion"
    assert [path.name for path in cohort.files(cohort.case("002"), "tiles")] == ["2_a.png", "2_b.png"]
    assert "2 cells that say na count as blank" in cohort.meta.notes  # of grade and site
    assert "note: covid, COVID-19 were taken out of 1 texts" in cohort.meta.notes


def test_the_pictures_of_a_bag_are_its_items(tmp_path: Path, rows: list[dict[str, str]]) -> None:
    cohort = index("csv", table(tmp_path, rows), OPTIONS)
    items = items_of(cohort, cohort.case("002"), "tiles")
    assert items.shape == (2, 3, 10, 12)


def test_what_stands_in_the_cells_survives_saving(tmp_path: Path, rows: list[dict[str, str]]) -> None:
    rows[0]["note"] = 'He said "no", twice;\r\n=SUM(A1) ünïcode 日本 \u202e'
    made = index("csv", table(tmp_path, rows), OPTIONS)
    again = Cohort.load(made.save(tmp_path / "out" / "cohort.csv"))
    assert again == made
    assert report_of(again, again.case("000"), "note").startswith('He said "no", twice;')


def test_empty_reports_are_absent(tmp_path: Path) -> None:
    for k, text in enumerate(["One mass.", " \n\t\n", ""]):
        (tmp_path / f"{k}.txt").write_text(text)
    rows = [{"subject": str(k), "report": f"{k}.txt"} for k in range(3)]
    cohort = index("csv", table(tmp_path, rows))
    assert [case.cells for case in cohort.cases] == [{"report": "0.txt"}, {}, {}]
    assert "report: 2 empty files count as absent (1, 2)" in cohort.meta.notes


def test_prose_without_a_word_from_the_user_is_no_modality(tmp_path: Path, rows: list[dict[str, str]]) -> None:
    rows = [{**row, "note": "There is no sign of an effusion."} for row in rows]
    plain = {"columns": {"subject": "Pat ID"}, "folder": {"xray": "xray"}, "keep": ["xray", "note"]}
    cohort = index("csv", table(tmp_path, rows), plain)
    assert [m.name for m in cohort.modalities] == ["xray"]
    assert any(note.endswith("if they are reports, add --set text=note") for note in cohort.meta.notes)


def test_folders_of_vectors_and_named_regions(tmp_path: Path) -> None:
    rows = []
    for k in range(2):
        (tmp_path / f"bag{k}").mkdir()
        for i in range(k + 1):
            np.save(tmp_path / f"bag{k}" / f"{i}.npy", np.arange(5, dtype=np.float32) + i)
        picture(tmp_path / f"{k}.png", k)
        Image.fromarray(np.full((12, 10), 255 * k, dtype=np.uint8)).save(tmp_path / f"mask{k}.png")
        rows.append({"subject": str(k), "photo": f"{k}.png", "cells": f"bag{k}", "outline": f"mask{k}.png"})
    options = {"regions": {"outline": {"lesion": [255]}}, "unit": {"photo": "HU"}}
    cohort = check_dataset("csv", table(tmp_path, [{k: v for k, v in row.items() if k != "outline"} for row in rows]))
    assert [(m.name, m.kind, m.channels) for m in cohort.modalities] == [("photo", "image", 1), ("cells", "bag", 5)]
    cohort = index("csv", table(tmp_path, rows), options)
    assert cohort.targets[0].classes == ("lesion",) and cohort.targets[0].codes == ((255,),)
    assert items_of(cohort, cohort.case("1"), "cells").shape == (2, 5)
    assert cohort.modalities[0].unit == "HU"


@pytest.mark.parametrize(
    ("options", "kind", "text"),
    [
        ({"texts": "note"}, ConfigError, r"layout csv: texts must be an option of this layout; .* Did you mean text"),
        ({"text": "notes"}, ConfigError, r"--set text must name columns of the table; got 'notes' .*Did you mean note"),
        ({"columns": {"patient": "xray"}}, ConfigError, "name subject, session, group, site, split; got patient"),
        ({"numbers": {"grade": ["age"]}}, ConfigError, "make vectors of new names; got 'grade'"),
        ({"absent": []}, DataError, r"hold numbers in the columns of clinical; got 'NA' in row 3"),
        ({"columns": {}}, DataError, r"have a column `subject`.*--set columns.subject=COLUMN"),
        (
            {"folder": {"xray": "nowhere", "tiles": "tiles"}},
            DataError,
            r"list files that exist; got none \[subject 000, modality xray",
        ),
        ({"folder": {"xray": "../xray", "tiles": "tiles"}}, DataError, r"list paths without '\.\.'"),
        (
            {"ordinal": {"grade": ["II", "IV"]}},
            DataError,
            r"name a class of its yaml; got 'III' \[subject 001, modality grade\]",
        ),
    ],
)
def test_wrong_options_are_refused(
    tmp_path: Path, rows: list[dict[str, str]], options: dict[str, Any], kind: type[Exception], text: str
) -> None:
    with pytest.raises(kind, match=text):
        index("csv", table(tmp_path, rows), {**OPTIONS, **options})


def test_layouts_without_options_take_none(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"layout brats must be given no options; got uncertain. Leave it out"):
        index("brats", tmp_path, {"uncertain": "ones"})


@pytest.mark.skipif(not COVID.is_dir(), reason="the chest radiographs with notes are not beside the repository")
def test_the_real_notes() -> None:
    options = {
        "columns": {"subject": "image", "group": "patientid"},
        "folder": {"image": "images"},
        "text": "clinical_notes",
        "redact": ["COVID-19", "COVID19", "COVID", "coronavirus"],
        "keep": ["image", "clinical_notes", "label2"],
    }
    cohort = index("csv", COVID / "metadata.csv", options)
    presence = cohort.presence()
    assert (len(cohort), int(presence["image"].sum()), int(presence["clinical_notes"].sum())) == (220, 220, 159)
    assert len({case.group for case in cohort.cases}) < 220
    assert cohort.targets[0].classes == ("covid", "other")
    texts = [report_of(cohort, case, "clinical_notes").lower() for case in cohort.cases if "clinical_notes" in case.cells]
    assert all(texts) and not any("coronavirus" in text for text in texts)
