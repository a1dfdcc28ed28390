"""ShapeComposition done again: medians over seeds, what is measured once, the text and the figures, on a few tiny pairs."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from comodal import api
from comodal.cli.main import main
from comodal.errors import ConfigError
from comodal.evaluation.complement import PARTS
from comodal.reporting.shapes import MAPS, SWEEP, _scores, _text, shapes_text
from comodal.study import reproducing, variants
from comodal.study.published_ciml import VARIANTS, ShapesTable
from comodal.study.shapes import ShapesReproduction, Spread, _ceiling, _line, measured_file, spread
from comodal.training.events import Event, Progress, Table

TINY = {"width": 2, "levels": 2, "steps": 2}
STUDY: dict[str, Any] = {
    "cohort": "cohort.csv",
    "methods": [
        {"name": "ciml-shapes", "label": "beta-0.5", "config": TINY},
        {"name": "ciml-shapes", "label": "beta-10", "config": {**TINY, "beta": 10}},
    ],
    "seeds": [0, 1],
    "subsets": "complete",
    "data": {"spatial_dims": 2, "patch": [24, 24], "augment": "none", "draws_per_case": 1},
    "training": {"batch_size": 2, "device": "cpu", "threads": 1, "validations": 0},
}


@pytest.fixture
def stub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> str:
    """The task on 20 tiny pairs."""
    shipped = tmp_path / "shipped"
    shipped.mkdir()
    (shipped / "stub.yaml").write_text(yaml.safe_dump(STUDY))
    for module in (reproducing, variants):
        monkeypatch.setattr(module, "FOLDER", shipped)
    table = VARIANTS["ciml/shapes"]
    assert isinstance(table, ShapesTable)
    monkeypatch.setattr("comodal.data.phantoms.shapes_ceilings.PAIRS", {2: 20, 3: 20})  # a rough estimate will do
    phantom: dict[str, int | str] = {"name": "shapes", "cases": 20, "size": 24, "seed": 1}
    monkeypatch.setitem(VARIANTS, "stub/shapes", replace(table, phantom=phantom, study="stub.yaml", phantom_study="stub.yaml"))
    return "stub/shapes"


def measured(label: str, kept: float, *, without: float, ratio: float | None) -> dict[str, Any]:
    dsc = {"mean": {"value": kept}, "sampled": {"value": kept - 0.05}, "zero": {"value": without}}
    kl = {part: {"value": None if ratio is None else 0.1 * k} for k, part in enumerate(PARTS)}
    return {"label": label, "kl": kl, "redundancy_ratio": {"value": ratio}, "purity": {"value": ratio}, "dsc": dsc}


def test_an_arm_is_the_median_of_its_runs() -> None:
    runs = [measured("a", kept, without=0.7, ratio=ratio) for kept, ratio in ((0.9, 0.2), (0.95, None), (0.709, 0.3))]
    line = _line("a", runs, 0.72)
    assert line.dsc["mean"] == Spread(0.9, 0.709, 0.95, 3) and line.redundancy_ratio == Spread(0.25, 0.2, 0.3, 2)
    assert line.above.median == pytest.approx(0.18) and line.collapsed == 1
    assert _line("a", runs, None).above == Spread(None, None, None, 0)
    assert spread([]) == Spread(None, None, None, 0) and spread([0.5]) == Spread(0.5, 0.5, 0.5, 1)
    assert _text(Spread(None, None, None, 0)) == "not defined" and _text(Spread(0.5, 0.5, 0.5, 1)) == "0.50"
    assert _text(Spread(0.25, 0.2, 0.3, 2), digits=1) == "0.2 [0.2, 0.3]"


def test_the_ceiling_is_that_of_the_primary_alone(tmp_path: Path) -> None:
    file = tmp_path / "ceilings.json"
    assert _ceiling(file, "triangle", "label-1") is None
    items = [
        {"metric": "DSC/label-1", "present": present, "value": value}
        for present, value in ((["ellipse"], 0.6), (["triangle"], 0.7), (["triangle", "ellipse"], 1.0))
    ]
    file.write_text(json.dumps(items))
    assert _ceiling(file, "triangle", "label-1") == 0.7 and _ceiling(file, "triangle", "other") is None


def test_each_run_is_measured_once_and_the_figures_are_written(
    stub: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, events = tmp_path / "out", list[Event]()
    made = api.reproduce(stub, out=out, on_event=events.append)
    assert isinstance(made, ShapesReproduction) and made.pair == ("triangle", "ellipse") and not made.same_data
    assert made.cases == 20 and made.ceiling is not None and 0.4 < made.ceiling < 1
    assert [line.method for line in made.lines] == ["beta-0.5", "beta-10"]
    assert all(line.dsc["mean"].runs == 2 and line.above.median is not None for line in made.lines)
    files = [measured_file(run, "test") for runs in made.study.runs.values() for run in runs]
    assert all(json.loads(file.read_text())["n"] == 2 for file in files)
    assert [event.title.partition(",")[0] for event in events if isinstance(event, Table)] == [
        "Where the nats are: per pixel of each part",
        "DSC of the union",
        "What each method got",
    ]
    assert all((out / name).read_bytes().startswith(b"\x89PNG") for name in (MAPS, SWEEP))
    page = (out / "reproduction.md").read_text()
    assert page == shapes_text(made).markdown() and f"]({MAPS})" in page and f"]({SWEEP})" in page
    for words in ("cases 20 instead of 1,000", "Primary is triangle, auxiliary ellipse", "every number here is ours"):
        assert words in page
    assert "above the best from triangle alone" in _scores(made).columns[4]

    before = {file: file.stat().st_mtime_ns for file in files}
    files[0].write_text("{")  # damaged: this one is made anew
    again: list[Event] = []
    assert api.reproduce(stub, out=out, on_event=again.append) == made
    assert [file.stat().st_mtime_ns == before[file] for file in files] == [False, True, True, True]
    assert not any(isinstance(event, Progress) and event.what.startswith("training") for event in again)
    assert (out / "reproduction.md").read_text() == page

    assert main(["reproduce", stub, "--out", str(out), "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert (document["primary"], document["auxiliary"], document["ceiling"]) == ("triangle", "ellipse", made.ceiling)
    assert document["lines"][0]["dsc"]["mean"]["runs"] == 2 and document["files"]["shapes-maps"].endswith(MAPS)


def test_data_and_arms_that_make_no_map_are_refused(stub: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        api.reproduce(stub, out=tmp_path / "out", data=tmp_path)
    assert str(caught.value) == (
        f"--data must be left out, since this table has no data set but the phantom; got {tmp_path}. Leave --data out."
    )
    assert not (tmp_path / "out").exists()
    out = tmp_path / "other"
    out.mkdir()
    arm = {"name": "unet", "label": "plain", "config": {"width": 2, "levels": 2, "steps": 1}}
    (out / "study.yaml").write_text(yaml.safe_dump({**STUDY, "seeds": [0], "methods": [arm]}))
    with pytest.raises(ConfigError) as caught:
        api.reproduce(stub, out=out)
    assert str(caught.value) == (
        "study.methods must be ciml-shapes in every arm of this table; got unet in plain "
        f"[file {out / 'study.yaml'}]. Take the arm out."
    )
    assert not (out / "runs").exists()
