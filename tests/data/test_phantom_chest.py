"""The chest phantom: files, determinism, hidden causes against what the layouts read, what lies in pictures and reports."""

from __future__ import annotations

import csv
import json
import random
import re
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest

from comodal.data import index
from comodal.data.cohort import Cohort
from comodal.data.integrity import check_cohort
from comodal.data.phantoms import layout_of, load_phantom
from comodal.data.phantoms.chest import DEFAULT_RATES, ChestPhantom, draw_body, draw_case, make_picture, write_chest
from comodal.data.phantoms.chest_ceilings import CHEXPERT
from comodal.data.phantoms.chest_files import chexpert_row, patient, split_of
from comodal.data.phantoms.chest_image import film
from comodal.data.phantoms.chest_model import NAMES
from comodal.data.phrases import read_phrases
from comodal.data.reading import read_volume
from comodal.errors import ConfigError, DataError
from comodal.study.cohorts import write_phantom
from comodal.testing.dataset import check_dataset

Release = Literal["open-i", "mimic-cxr"]
RELEASES: tuple[Release, Release] = ("open-i", "mimic-cxr")


def written(root: Path, **settings: Any) -> ChestPhantom:
    config = ChestPhantom(**{"size": 64, "cases": 10, **settings})
    write_chest(root, config)
    return config


def causes_of(root: Path) -> dict[str, dict[str, str]]:
    with (root / "hidden_causes.csv").open(newline="") as file:
        return {row["case"]: row for row in csv.DictReader(file)}


def content(root: Path) -> dict[str, bytes]:
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in root.rglob("*") if path.is_file()}


# Files


def test_files_are_those_of_open_i(tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    write_chest(tmp_path, ChestPhantom(cases=2, size=64, lateral=True), on_progress=lambda done, of: seen.append((done, of)))
    assert sorted(content(tmp_path)) == sorted(
        [
            *(f"NLMCXR_png/CXR{n}_1_IM-{n:04d}-{view}.png" for n in (1, 2) for view in (3001, 4001)),
            *(f"NLMCXR_reports/ecgen-radiology/{n}.xml" for n in (1, 2)),
            *("views.csv", "phantom.json", "SYNTHETIC.txt", "hidden_causes.csv", "hidden_causes.json", "phrases.csv"),
        ]
    )
    assert seen == [(1, 2), (2, 2)]
    assert (tmp_path / "views.csv").read_text().splitlines()[:3] == [
        "image_id,view",
        "CXR1_1_IM-0001-3001,Frontal",
        "CXR1_1_IM-0001-4001,Lateral",
    ]


def test_files_are_those_of_mimic(tmp_path: Path) -> None:
    config = written(tmp_path, cases=28, release="mimic-cxr")
    names = sorted(content(tmp_path))
    assert [name for name in names if name.endswith(".jpg")] == sorted(config.file_name(k, "frontal") for k in range(28))
    for k in range(28):
        pattern = (
            r"mimic-cxr-jpg/2\.0\.0/files/p(1\d)/p\1\d{6}/s5\d{7}/[0-9a-f]{8}(-[0-9a-f]{8}){4}\.jpg",
            r"mimic-cxr/2\.0\.0/files/p(1\d)/p\1\d{6}/s5\d{7}\.txt",
        )
        assert re.fullmatch(pattern[0], config.file_name(k, "frontal")) and re.fullmatch(
            pattern[1], config.file_name(k, "report")
        )
    tables = [name for name in names if ".csv" in name and "hidden" not in name and name != "phrases.csv"]
    assert tables == [
        "mimic-cxr-jpg/2.0.0/mimic-cxr-2.0.0-chexpert.csv.gz",
        "mimic-cxr-jpg/2.0.0/mimic-cxr-2.0.0-metadata.csv.gz",
        "mimic-cxr-jpg/2.0.0/mimic-cxr-2.0.0-split.csv.gz",
        "mimic-cxr-pe-severity/1.0.1/consensus_image_edema_severity.csv",
        "mimic-cxr-pe-severity/1.0.1/regex_report_edema_severity.csv",
    ]
    text = (tmp_path / config.file_name(0, "report")).read_text()
    assert "FINAL REPORT\n EXAMINATION:" in text and "\n IMPRESSION:  " in text


@pytest.mark.parametrize("release", RELEASES)
def test_same_seed_same_bytes_whatever_else_is_asked_for(tmp_path: Path, release: Release) -> None:
    written(tmp_path / "a", cases=4, release=release, seed=3)
    written(tmp_path / "again", cases=4, release=release, seed=3)
    rates = {"frontal": 0.5, "report": 0.4}
    written(tmp_path / "b", cases=6, release=release, seed=3, missing="random", rates=rates)
    written(tmp_path / "c", cases=4, release=release, seed=4)
    a, again, b, c = (content(tmp_path / name) for name in ("a", "again", "b", "c"))
    assert a == again
    shared = [name for name in a if name in b and name.endswith((".png", ".jpg", ".txt")) and name != "SYNTHETIC.txt"]
    assert len(shared) >= 2 and all(a[name] == b[name] for name in shared)
    pictures = [name for name in a if name.endswith((".png", ".jpg"))]
    assert not any(a[name] == c.get(name) for name in pictures)


def test_first_findings_do_not_depend_on_how_many_there_are() -> None:
    for k in range(20):
        few, many = (draw_case(ChestPhantom(findings=count), k) for count in (3, 14))
        np.testing.assert_array_equal(few.present[0], many.present[0, :3])
        for one, other in zip(few.signs, many.signs[:3], strict=True):
            np.testing.assert_array_equal(one.contrasts, other.contrasts)
            assert (one.kind[0], one.named[0]) == (other.kind[0], other.named[0])


def test_an_interrupted_call_is_completed_and_another_phantom_refused(tmp_path: Path) -> None:
    config = written(tmp_path / "out", cases=2)
    before = content(tmp_path / "out")
    (tmp_path / "out" / config.file_name(1, "frontal")).unlink()
    write_chest(tmp_path / "out", config)
    assert content(tmp_path / "out") == before
    with pytest.raises(DataError, match=r"phantom\.json must hold the configuration that is asked for"):
        written(tmp_path / "out", cases=3)


# Through the layouts


@pytest.mark.parametrize("lateral", [False, True])
def test_open_i_reads_the_hidden_causes(tmp_path: Path, lateral: bool) -> None:
    config = written(tmp_path, cases=30, findings=14, missing="random", lateral=lateral)
    cohort, causes = check_dataset("open-i", tmp_path), causes_of(tmp_path)
    assert tuple(modality.name for modality in cohort.modalities) == config.modalities
    assert list(cohort.ids) == list(causes)
    (target,) = cohort.targets
    assert set(target.classes) == set(NAMES)
    for case in cohort.cases:
        row = causes[case.id]
        true = {name for name in NAMES if row[name] == "1"}
        assert set(case.cells["findings"].split(";")) == (true or {"-"})
        assert [name for name in config.modalities if name in case.cells] == row["present"].split(";")
    assert sum(len(row["present"].split(";")) for row in causes.values()) < 30 * len(config.modalities)
    assert not [d for d in check_cohort(cohort).defects if d.level == "error"]


def test_mimic_reads_the_hidden_causes(tmp_path: Path) -> None:
    config = written(tmp_path, cases=40, findings=14, release="mimic-cxr", missing="random", lateral=True)
    cohort, causes = check_dataset("mimic-cxr", tmp_path), causes_of(tmp_path)
    assert sorted(cohort.ids) == sorted(causes) and layout_of("chest", config) == "mimic-cxr"
    known, unknown, grades = 0, 0, 0
    edema = next(target for target in cohort.targets if target.name == "edema")
    for case in cohort.cases:
        row, named = causes[case.id], case.cells["findings"].split(";")
        for label, parts in CHEXPERT.items():
            if f"?{label}" in named:
                unknown += 1
                continue
            known += 1
            assert (label in named) == any(row[part] == "1" for part in parts)
        assert ("edema" in case.cells) or case.split != "test"
        if "edema" in case.cells:
            grades += 1
            assert edema.classes.index(case.cells["edema"]) == int(row["edema_grade"])
        assert [name for name in config.modalities if name in case.cells] == row["present"].split(";")
    assert 0.1 < unknown / (known + unknown) < 0.4 and 25 < grades < 40
    assert len({case.group for case in cohort.cases}) < 40
    assert {case.split for case in cohort.cases} <= {"train", "val", "test"}
    assert not [d for d in check_cohort(cohort).defects if d.level == "error"]


@pytest.mark.parametrize("release", RELEASES)
def test_deleted_files_are_absent_and_nothing_else_changes(tmp_path: Path, release: Release) -> None:
    config = written(tmp_path, cases=8, release=release)
    layout = layout_of("chest", config)
    before = index(layout, tmp_path)
    files = [(case, name) for case in before.cases for name in ("frontal", "report")]
    gone = random.Random(5).sample(files, 6)
    for case, name in gone:
        before.file(case, name).unlink()
    after = {case.id: case for case in index(layout, tmp_path).cases}
    for case in before.cases:
        lost = {name for other, name in gone if other is case}
        if case.id not in after:  # of Open-I the report holds labels and names of pictures, so that it takes its case along
            assert "report" in lost if release == "open-i" else lost == {"frontal", "report"}
            continue
        expected = {name: cell for name, cell in case.cells.items() if name not in lost}
        if "frontal" in lost:  # the grade of a picture that is gone is still that of its study
            assert {"frontal"} & set(after[case.id].cells) == set()
        assert after[case.id].cells == expected
    assert 0 < len(after) <= 8


@pytest.mark.parametrize("release", RELEASES)
def test_corrupt_files_are_named(tmp_path: Path, release: Release) -> None:
    config = written(tmp_path, cases=6, release=release)
    cohort = index(layout_of("chest", config), tmp_path)
    damaged = random.Random(7).sample(cohort.cases, 3)
    for case in damaged:
        path = cohort.file(case, "frontal")
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    found = check_cohort(index(layout_of("chest", config), tmp_path)).defects
    assert {(d.subject, d.modality) for d in found if d.level == "error" and d.file} == {
        (case.id, "frontal") for case in damaged
    }
    for case in damaged:
        with pytest.raises(DataError, match=re.escape(cohort.file(case, "frontal").name)):
            read_volume(cohort.file(case, "frontal"))
    report = cohort.file(damaged[0], "report")
    report.write_bytes(b"\xff\xfe\x00 <eCitation>" + report.read_bytes()[:200])
    if release == "open-i":
        with pytest.raises(DataError, match=re.escape(report.name)):
            index("open-i", tmp_path)
    else:
        found = check_cohort(index("mimic-cxr", tmp_path)).defects
        assert (damaged[0].id, "report") in {(d.subject, d.modality) for d in found if d.level == "error"}
        packed = next(tmp_path.rglob("*-chexpert.csv.gz"))
        packed.write_bytes(packed.read_bytes()[:-9])
        with pytest.raises(DataError, match="chexpert"):
            index("mimic-cxr", tmp_path)


def test_the_whole_way_writes_cohort_and_ceilings(tmp_path: Path) -> None:
    made = Cohort.load(write_phantom("chest", tmp_path / "out", {"preset": "small", "cases": 4, "release": "mimic-cxr"}))
    assert made.meta.layout == "mimic-cxr" and any(note.startswith("synthetic") for note in made.meta.notes)
    ceilings = json.loads((tmp_path / "out" / "ceilings.json").read_text())
    assert {target.name for target in made.targets} == {one["target"] for one in ceilings} == {"findings", "edema"}
    assert {tuple(one["present"]) for one in ceilings} == {("frontal",), ("report",), ("frontal", "report")}


# Pictures


def test_pictures_look_the_same_at_every_size_and_show_what_is_visible() -> None:
    small, large = (ChestPhantom(size=size, findings=4) for size in (64, 256))
    for k in range(3):
        a, b = (
            make_picture(config, k, "frontal", causes=draw_case(config, k), anatomy=draw_body(config, k))
            for config in (small, large)
        )
        assert a.shape == (64, 64) and 0 <= a.min() < a.max() <= 1
        assert np.corrcoef(a.ravel(), b.reshape(64, 4, 64, 4).mean(axis=(1, 3)).ravel())[0, 1] > 0.98
    # The place that is saved is where the nodule is: brighter than the same patient's picture without contrasts.
    config, shown = ChestPhantom(size=128, findings=4), []
    nodule = NAMES.index("Nodule")
    for k in range(60):
        causes = draw_case(config, k)
        signs = causes.signs[nodule]
        if signs.present[0] and signs.contrasts[0, signs.site[0]] > 2:
            body = draw_body(config, k)
            picture = make_picture(config, k, "frontal", causes=causes, anatomy=body)
            signs.contrasts[...] = 0
            without = make_picture(config, k, "frontal", causes=causes, anatomy=body)
            row = causes_row(config, k)
            x, y = (int(float(row[f"Nodule_{axis}"]) * 128) for axis in "xy")
            shown.append((picture - without)[y - 1 : y + 2, x - 1 : x + 2].mean())
    assert len(shown) > 5 and min(shown) > 0.03


def causes_row(config: ChestPhantom, k: int) -> dict[str, Any]:
    from comodal.data.phantoms.chest import _row

    return _row(config, k, (draw_case(config, k), draw_body(config, k)))


def test_patients_of_mimic_share_a_body() -> None:
    config = ChestPhantom(release="mimic-cxr", size=64)
    assert [patient(k)[0] for k in (1, 2)] == [1, 1]
    first, second, other = (draw_body(config, k) for k in (1, 2, 3))
    assert first.outer == second.outer != other.outer and first.turn != second.turn
    assert draw_body(ChestPhantom(), 1).outer != draw_body(ChestPhantom(), 2).outer


def test_the_film_keeps_order_and_does_not_saturate() -> None:
    light = np.linspace(0, 1.5, 200)
    assert (np.diff(film(light)) > 0).all() and film(light).max() < 1
    np.testing.assert_array_equal(film(light[light < 0.7]), light[light < 0.7])


# Causes and settings


def test_hidden_causes_say_what_each_column_is(tmp_path: Path) -> None:
    written(tmp_path, cases=2)
    rows, meanings = causes_of(tmp_path), json.loads((tmp_path / "hidden_causes.json").read_text())
    assert set(next(iter(rows.values()))) == set(meanings)
    roles = {name: (entry["role"], entry["modality"]) for name, entry in meanings.items()}
    assert roles["Effusion"][0] == "label" and roles["Effusion_site"][0] == "shared"
    assert roles["Effusion_visible"] == ("unique", "frontal") and roles["Effusion_said"] == ("unique", "report")


def test_labels_are_drawn_as_stated() -> None:
    rng, n = np.random.default_rng(0), 4000
    rows = [chexpert_row(np.array([k % 2 == 0, False]), rng) for k in range(n)]
    for truth, shares in ((0, {"1.0": 0.90, "-1.0": 0.07, "": 0.03}), (1, {"0.0": 0.75, "-1.0": 0.03, "": 0.22})):
        codes = [row["Edema"] for row in rows[truth::2]]
        for code, share in shares.items():
            assert abs(codes.count(code) / len(codes) - share) < 4 * np.sqrt(share / len(codes))
    assert all(row["No Finding"] in ("", "1.0") and row["Fracture"] == "" for row in rows)
    assert all((row["No Finding"] == "") == bool({"1.0", "-1.0"} & {row["Edema"], row["Pleural Effusion"]}) for row in rows)
    assert [split_of(draw) for draw in (0.0, 0.69, 0.71, 0.81, 0.999)] == ["train", "train", "validate", "test", "test"]


@pytest.mark.parametrize("missing", ["random", "imbalanced"])
def test_missing_rates_are_those_stated(missing: Any) -> None:
    config, n = ChestPhantom(missing=missing), 3000
    kept = [config.present(k) for k in range(n)]
    assert all(kept)
    rates = DEFAULT_RATES[missing]
    both = rates["frontal"] * rates["report"]
    for name in config.modalities:
        expected = rates[name] - both / 2
        assert abs(1 - sum(name in one for one in kept) / n - expected) < 4 * np.sqrt(expected / n)
    assert all(ChestPhantom().present(k) == ("frontal", "report") for k in range(20))


def test_preset_sets_what_is_not_given() -> None:
    small = ChestPhantom(preset="small")
    assert (small.size, small.findings, small.unhelpful) == (64, 4, 1)
    assert ChestPhantom(preset="small", size=96).size == 96
    assert load_phantom("chest") == (write_chest, ChestPhantom)


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"cases": 0}, r"phantom chest: cases must lie in 1\.\.100000; got 0"),
        ({"size": 32}, r"size must lie in 64\.\.1024; got 32"),
        ({"findings": 15}, r"findings must lie in 2\.\.14; got 15"),
        ({"negated": 0.95}, r"negated must lie in 0\.\.0\.94; got 0\.95"),
        ({"rates": {"report": 0.5}}, "rates must be empty where missing is none"),
        ({"missing": "random", "rates": {"lateral": 0.5}}, "rates must name modalities of the phantom; got 'lateral'"),
        ({"missing": "random", "rates": {"report": 1.0}}, r"rates\[report\] must lie in \[0, 1\); got 1\.0"),
    ],
)
def test_settings_out_of_range(settings: dict[str, Any], text: str) -> None:
    with pytest.raises(ConfigError, match=text):
        ChestPhantom(**settings)


# Phrases


@pytest.mark.parametrize("release", RELEASES)
def test_phrases_point_at_what_shows_and_is_named(tmp_path: Path, release: Release) -> None:
    config = written(tmp_path, cases=60, release=release, missing="random")
    causes, phrases = causes_of(tmp_path), read_phrases(tmp_path / "phrases.csv")
    present = {config.case_id(k): config.present(k) for k in range(60)}
    assert len(phrases) > 20 and {"Nodule", "Effusion"} <= {phrase.finding for phrase in phrases}
    texts = {config.case_id(k): (tmp_path / config.file_name(k, "report")) for k in range(60)}
    for phrase in phrases:
        row, name = causes[phrase.subject], phrase.finding
        assert row[f"{name}_said"] == "positive" and row[f"{name}_visible"] == "1"
        assert row[f"{name}_named"] == row[f"{name}_site"] and row[f"{name}_site"] not in ("heart", "hiatus", "both lungs")
        assert all(word in phrase.sentence.lower() for word in row[f"{name}_site"].split())
        x, y = phrase.places[0].low
        there = float(row[f"{name}_x"]), float(row[f"{name}_y"])
        assert len(phrase.places) == 1 and phrase.places[0].is_point and (x - 0.5) * (there[0] - 0.5) > 0  # on the named side
        # The centre of what is drawn: of something round that of its place, of something cut off, or low in a lung, near it.
        assert abs(x - there[0]) + abs(y - there[1]) < (0.02 if name in ("Nodule", "Mass") else 0.3)
        assert {"frontal", "report"} <= set(present[phrase.subject])
        assert " ".join(phrase.sentence.split()) in " ".join(texts[phrase.subject].read_text().split())


def test_phrases_point_at_bright_nodules(tmp_path: Path) -> None:
    config = written(tmp_path, cases=36, size=96, contrast=3.0)
    darker, count = 0, 0
    for phrase in read_phrases(tmp_path / "phrases.csv"):
        if phrase.finding == "Nodule":
            k = next(k for k in range(36) if config.case_id(k) == phrase.subject)
            picture = read_volume(tmp_path / config.file_name(k, "frontal")).array[0, :, :, 0].astype(float)
            x, y = (int(share * 96) for share in phrase.places[0].low)
            inside = picture[max(x - 1, 0) : x + 2, max(y - 1, 0) : y + 2].mean()
            around = picture[max(x - 9, 0) : x + 10, max(y - 9, 0) : y + 10].mean()
            count, darker = count + 1, darker + (inside <= around)
    assert count >= 4 and darker <= count // 10
