"""Complementary information weights on the page: one run as its file says, several averaged case by case."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from comodal.errors import RunError
from comodal.explain.results import ExplainResults, results_of
from comodal.explain.weights import NOTHING, CaseWeights
from comodal.reporting.complements import pool, table, weights_of_runs
from comodal.reporting.page import write_page
from comodal.reporting.record import read_run

Make = Callable[..., Path]
PAIRS = {("pre", "lesion"): ("flair", "post"), ("flair", "lesion"): ("pre", "post")}


def explained(seed: int, subjects: range, *, empty: tuple[str, ...] = ()) -> ExplainResults:
    rng = np.random.default_rng(seed)
    cases = []
    for k in subjects:
        name = f"P{k:03d}"
        weights: dict[tuple[str, str], dict[str, float | None]] = {}
        for pair, (one, two) in PAIRS.items():
            value = None if name in empty else float(rng.uniform(0.6, 0.9))
            weights[pair] = {one: value, two: None if value is None else 1 - value}
        cases.append(CaseWeights(name, name, weights, dict.fromkeys(weights, NOTHING) if name in empty else {}))
    return results_of(cases, explainer="grad-cam", voxels="predicted", split="test")


def test_of_one_run_the_table_is_that_of_its_file(make_run: Make, worlds: dict[str, Any]) -> None:
    run = make_run("r", worlds["lgg"], method="ciml")
    result = explained(0, range(8), empty=("P003",))
    assert pool([(read_run(run), result)]) == result
    head, first, second = table(result)
    assert head == ("primary", "region", "from pre", "from flair", "from post", "n", "cases without weight")
    assert first[:3] == ("pre", "lesion", "-") and first[-2:] == ("7", "1") and second[3] == "-"
    weight = result.rows[0].weights["flair"]
    assert weight.ci95 is not None and weight.value is not None
    assert first[3] == f"{weight.value:.2f} [{weight.ci95[0]:.2f}, {weight.ci95[1]:.2f}]"
    assert table(explained(0, range(3)))[1][3].count("[") == 0  # of three patients there is no interval


def test_runs_are_averaged_case_by_case(make_run: Make, worlds: dict[str, Any]) -> None:
    runs = [read_run(make_run(f"r{k}", worlds["lgg"], method="ciml", seed=k)) for k in range(2)]
    one, two = explained(1, range(8), empty=("P001",)), explained(2, range(2, 10), empty=("P002",))
    pooled = pool([(runs[0], one), (runs[1], two)])
    by_case = {c.subject: c.rows[0].weights["flair"] for c in pooled.cases}
    a, b = ({c.subject: c.rows[0].weights["flair"] for c in r.cases} for r in (one, two))
    for name in {*a, *b}:
        known = [v for v in (a.get(name), b.get(name)) if v is not None]
        assert by_case[name] == (pytest.approx(np.mean(known)) if known else None)
    row = pooled.rows[0]
    assert row.weights["flair"].n == 9 and row.left_out == 1  # P002 has a weight in the other run
    assert row.weights["flair"].value == pytest.approx(np.mean([v for v in by_case.values() if v is not None]))


def test_the_page_has_table_and_chart(make_run: Make, worlds: dict[str, Any], tmp_path: Path) -> None:
    runs = [make_run(f"r{k}", worlds["lgg"], method="ciml", seed=k) for k in range(2)]
    other = make_run("u", worlds["lgg"], method="unet")
    assert "Complementary information" not in write_page(runs, tmp_path / "page.html").read_text()
    for k, run in enumerate(runs):
        explained(k, range(8)).save(run / "explain" / "test.nats.json")
        explained(k, range(7)).save(run / "explain" / "test.json")
        explained(k, range(7)).save(run / "explain" / "val.json")
    html = write_page([*runs, other], tmp_path / "page.html").read_text()
    assert "<h3>Complementary information weights: ciml</h3>" in html and html.count("information weights:") == 1
    assert "<td>7</td>" in html and "<td>8</td>" not in html  # test.json goes before its variants
    assert "2 runs are averaged case by case before; they do not make n larger." in html
    assert "Logits are summed over voxels where" in html and "A case has no weight" not in html
    found = weights_of_runs([read_run(run) for run in runs], "test")
    assert found is not None and found.src in html and f"max-width: {found.width}px" in html
    picture = Image.open(io.BytesIO(base64.b64decode(found.src.partition(",")[2])))
    assert picture.width == pytest.approx(found.width * 130 / 108, abs=2)
    assert len(found.src) < 60_000
    for run in runs:
        (run / "explain" / "test.json").unlink()
    assert "<td>8</td>" in write_page(runs, tmp_path / "page.html").read_text()


def test_a_damaged_file_is_refused_and_one_without_weights_left_out(
    make_run: Make, worlds: dict[str, Any], tmp_path: Path
) -> None:
    run = make_run("r", worlds["lgg"], method="ciml")
    results_of([], explainer="grad-cam", voxels="predicted", split="test").save(run / "explain" / "test.json")
    assert "information weights" not in write_page([run], tmp_path / "page.html").read_text()
    (run / "explain" / "test.json").write_text("{}")
    with pytest.raises(RunError, match=r"explain must follow schema 1; got .*test\.json.*comodal explain RUN"):
        write_page([run], tmp_path / "page.html")
