"""What every phantom promises: the layout of the data set that it stands for reads it, and no damage goes unnoticed."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from comodal import api
from comodal.data import LAYOUTS_INFO, index
from comodal.data.cohort import Cohort
from comodal.data.phantoms import PHANTOMS, layout_of, load_phantom
from comodal.modality import subsets
from comodal.testing.dataset import check_dataset

# Each phantom in each of its releases, small.
SMALL: dict[str, tuple[str, dict[str, Any]]] = {
    "brain": ("brain", {"cases": 3, "size": 48}),
    "brain-2015": ("brain", {"cases": 3, "size": 48, "release": "2015"}),
    "petct": ("petct", {"cases": 3}),
    "petct-hecktor": ("petct", {"cases": 3, "release": "hecktor"}),
    "shapes": ("shapes", {"cases": 10, "size": 32}),
    "chest": ("chest", {"cases": 12, "size": 64}),
    "chest-mimic": ("chest", {"cases": 12, "size": 64, "release": "mimic-cxr"}),
    "skin": ("skin", {"cases": 10, "size": 64}),
    "radpath": ("radpath", {"cases": 6}),
    "pairs": ("pairs", {"cases": 16}),
}
CAUSES = ("hidden_causes.csv", "hidden_causes.json", "phantom.json")


def settings(name: str) -> dict[str, Any]:
    """For `api.phantom`: what all phantoms know by name, and the rest."""
    given = dict(SMALL[name][1])
    known: dict[str, Any] = {key: given.pop(key) for key in ("cases", "size", "release") if key in given}
    return {**known, "settings": given}


@pytest.fixture(scope="module", params=[name for name, (phantom, _) in SMALL.items() if phantom in PHANTOMS])
def written(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    name: str = request.param
    out = tmp_path_factory.mktemp(name)
    api.phantom(SMALL[name][0], out, **settings(name))
    return name, out


def root_of(name: str, out: Path) -> Path:
    table = PHANTOMS[SMALL[name][0]].table
    return out / "files" / table if table else out / "files"


def copied(out: Path, folder: Path) -> Path:
    """The files of a phantom in another folder, as links to the same bytes that can be taken away."""
    for here, _, names in os.walk(out):
        place = folder / Path(here).relative_to(out)
        place.mkdir(parents=True, exist_ok=True)
        for name in names:
            os.link(Path(here) / name, place / name)
    return folder


def layout(name: str) -> str:
    phantom, given = SMALL[name]
    return layout_of(phantom, load_phantom(phantom)[1].model_validate(given))


def test_every_phantom_is_here_in_each_release() -> None:
    assert {phantom for phantom, _ in SMALL.values()} >= set(PHANTOMS)
    for name, phantom in PHANTOMS.items():
        here = {given.get("release") for known, given in SMALL.values() if known == name}
        assert here >= set(phantom.layouts), name


def test_the_layout_of_the_real_data_set_reads_it_and_check_finds_no_error(written: tuple[str, Path]) -> None:
    name, out = written
    cohort = check_dataset(layout(name), root_of(name, out))
    own = Cohort.load(out / "cohort.csv")
    assert own.cases == cohort.cases and own.meta.layout == layout(name) in LAYOUTS_INFO
    assert any(note.startswith("synthetic") for note in own.meta.notes)
    report = api.check(out / "cohort.csv")
    assert report.ok, [defect for defect in report.defects if defect.level == "error"]


def test_the_same_settings_give_the_same_bytes(written: tuple[str, Path], tmp_path: Path) -> None:
    name, out = written
    api.phantom(SMALL[name][0], tmp_path, **settings(name))
    files = sorted(path.relative_to(out) for path in (out / "files").rglob("*") if path.is_file())
    assert files == sorted(path.relative_to(tmp_path) for path in (tmp_path / "files").rglob("*") if path.is_file())
    for path in files:
        assert (out / path).read_bytes() == (tmp_path / path).read_bytes(), path


def test_hidden_causes_are_saved_and_not_listed(written: tuple[str, Path]) -> None:
    name, out = written
    if name.startswith("brain"):
        pytest.skip("the brain phantom is older than hidden causes: its causes are its label maps")
    meanings = json.loads((out / "files" / "hidden_causes.json").read_text())
    header = (out / "files" / "hidden_causes.csv").read_text().splitlines()[0].split(",")
    assert header[0] == "case" and set(header[1:]) <= set(meanings) | {"case"}
    roles = {meaning["role"] for meaning in meanings.values()}
    assert roles <= {"shared", "unique", "noise", "label"} and {"shared", "unique"} <= roles
    cohort = Cohort.load(out / "cohort.csv")
    assert not any(cause in cell for case in cohort.cases for cell in case.cells.values() for cause in CAUSES)


def test_ceilings_grow_with_what_is_known(written: tuple[str, Path]) -> None:
    name, out = written
    if not PHANTOMS[SMALL[name][0]].ceilings:
        pytest.skip("no ceiling is known for this phantom")
    ceilings = json.loads((out / "ceilings.json").read_text())
    cohort = Cohort.load(out / "cohort.csv")
    names = [spec.name for spec in cohort.meta.modalities]
    by_metric: dict[tuple[str, str], dict[frozenset[str], dict[str, Any]]] = {}
    for one in ceilings:
        assert set(one["present"]) <= set(names) and 0 <= one["value"] <= 1, one
        assert one["kind"] in ("exact", "estimate", "upper bound") and one["how"]
        if one["ci95"] is not None:
            assert one["n"] > 0 and one["ci95"][0] <= one["value"] <= one["ci95"][1], one
        by_metric.setdefault((one["target"], one["metric"]), {})[frozenset(one["present"])] = one
    assert {target for target, _ in by_metric} <= {spec.name for spec in cohort.meta.targets}
    for found in by_metric.values():
        known = [m for m in names if any(m in subset for subset in found)]
        assert set(found) == {frozenset(subset) for subset in subsets(known)}
        for small in found:
            for large in found:
                if small < large:
                    slack = 1e-9 + sum((c[1] - c[0]) / 2 for c in (found[small]["ci95"], found[large]["ci95"]) if c)
                    assert found[small]["value"] <= found[large]["value"] + slack, (small, large)


def test_a_deleted_file_is_absent_and_nothing_else_changes(written: tuple[str, Path], tmp_path: Path) -> None:
    """For the layouts that scan a folder; a table that lists a missing file is refused, with the file's name."""
    name, out = written
    cohort = Cohort.load(out / "cohort.csv")
    random = np.random.default_rng(0)
    places = [
        (case, m.name) for case in cohort.cases for m in cohort.meta.modalities if case.cells.get(m.name) and not m.inline
    ]
    for k in random.choice(len(places), size=4, replace=False):
        case, column = places[int(k)]
        folder = copied(out / "files", tmp_path / str(k))
        for path in cohort.files(case, column):
            place = folder / path.relative_to(out / "files")
            for file in sorted(place.iterdir()) if place.is_dir() else [place]:
                file.unlink()
        table = PHANTOMS[SMALL[name][0]].table
        if table:
            with pytest.raises(Exception, match=rf"list files that exist.*{case.id}.*{column}"):
                index(layout(name), folder / table)
            continue
        again = index(layout(name), folder)
        others = {c.id: dict(c.cells) for c in again.cases if c.id != case.id}
        assert others == {c.id: dict(c.cells) for c in cohort.cases if c.id != case.id}
        mine = next((dict(c.cells) for c in again.cases if c.id == case.id), None)
        if mine is not None:  # a case that has nothing left is no case
            assert column not in mine
            assert all(cell == case.cells[key] for key, cell in mine.items())


def test_a_damaged_file_is_an_error_that_names_it(written: tuple[str, Path], tmp_path: Path) -> None:
    _, out = written
    cohort = Cohort.load(out / "cohort.csv")
    random = np.random.default_rng(1)
    places = [
        (case, spec.name)
        for case in cohort.cases
        for spec in cohort.meta.columns
        if case.cells.get(spec.name) and cohort.holds_files(spec.name) and getattr(spec, "kind", "") != "text"
    ]
    for k in random.choice(len(places), size=4, replace=False):
        case, column = places[int(k)]
        path = cohort.files(case, column)[0]
        path = sorted(path.iterdir())[0] if path.is_dir() else path
        folder = copied(out, tmp_path / str(k))
        damaged = folder / path.relative_to(out)
        content = damaged.read_bytes()
        damaged.unlink()
        damaged.write_bytes(content[: int(len(content) * random.uniform(0.05, 0.95))])
        report = api.check(folder / "cohort.csv")
        errors = [defect for defect in report.defects if defect.level == "error"]
        assert any(error.subject == case.id and error.modality == column for error in errors), (damaged, errors)
