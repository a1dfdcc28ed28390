"""The benchmarks run: on tiny sizes, where their times mean nothing and their agreement everything."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
pytestmark = pytest.mark.slow


def script(name: str, *words: str) -> str:
    call = [sys.executable, str(ROOT / "benchmarks" / name), *words]
    done = subprocess.run(call, capture_output=True, text=True, check=False, timeout=300, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_every_way_of_scoring_all_pairs_agrees_with_the_plain_one() -> None:
    found = json.loads(script("critics.py", "--small", "--rounds", "1", "--threads", "1", "--json"))
    assert found["disagree"] == []
    rows = {(row["task"], row["way"]): row for row in found["rows"]}
    for task in ("regions", "maps", "maximum"):
        plain, ours = rows[task, "plain"], rows[task, "ours"]
        assert ours["value"] == pytest.approx(plain["value"], abs=1e-5)
        assert ours["gradient"] == pytest.approx(plain["gradient"], rel=1e-4)


def test_all_subsets_at_once_say_what_each_says_by_itself() -> None:
    found = json.loads(script("subsets.py", "--small", "--rounds", "1", "--threads", "1", "--json"))
    assert [task["method"] for task in found["tasks"]] == ["u-hemis", "cmim-seg", "hemis"]
    for task in found["tasks"]:
        rows = {row["way"]: row for row in task["rows"]}
        said = rows["all"]["small_means"]
        assert len(said) == 15 and said == pytest.approx(rows["apart"]["small_means"], abs=1e-6)
        assert rows["one"]["small_means"] == pytest.approx({"t1+t1ce+t2+flair": said["t1+t1ce+t2+flair"]}, abs=1e-6)
        assert rows["one"]["ratio"] == 1 and all(row["cpu_seconds"] > 0 for row in rows.values())
    assert all(task["parts"]["encode"] > 0 < task["parts"]["decode"] for task in found["tasks"] if "parts" in task)


def test_the_certificate_is_made_and_goes_on_where_it_stopped(tmp_path: Path) -> None:
    words = ("--small", "--out", str(tmp_path / "docs"), "--kept", str(tmp_path / "kept.json"))
    first = script("information.py", *words)
    assert "min left" in first and (tmp_path / "docs" / "images" / "information.png").stat().st_size > 10_000
    page = (tmp_path / "docs" / "information.md").read_text(encoding="utf-8")
    assert page.count("| Gaussian, 20 dimensions |") == 2 and "| must hold | holds | numbers |" in page
    second = script("information.py", *words)
    assert "min left" not in second and (tmp_path / "docs" / "information.md").read_text(encoding="utf-8") == page


def test_all_forms_hand_out_the_same_patches_and_small_sets_are_walked() -> None:
    found = json.loads(script("data.py", "--small", "--rounds", "1", "--patches", "4", "--json"))
    assert found["patches"]["disagree"] == []
    rows = {row["form"]: row for row in found["patches"]["rows"]}
    assert set(rows) == {"ours", "ours-npy", "nnunet", "nnunet-shuffled", "monai", "nibabel", "nibabel-slices"}
    assert rows["ours"]["ratio"] == 1 and all(row["cpu_seconds"] > 0 for row in rows.values())
    whole = 4 * 4 * 120 * 120 * 78
    assert rows["ours-npy"]["bytes"] > whole > 4 * rows["ours"]["bytes"] and rows["monai"]["bytes"] > whole
    assert [row["cases"] for row in found["scale"]["rows"]] == [4, 8] and set(found["scale"]["exponents"]) == {"index", "check"}


def test_ciml_and_a_plain_table_1_say_the_same_in_all_tasks() -> None:
    found = json.loads(script("ciml.py", "--small", "--rounds", "1", "--threads", "1", "--json"))
    assert (
        found["agreement"]["probability"] < 1e-4 > found["agreement"]["loss"]
    )  # over all 15 subsets; the script itself refuses
    ways = {task["kind"]: [row["way"] for row in task["rows"]] for task in found["tasks"]}
    assert ways == {
        "step": ["plain", "ours", "ours, spare heads"],
        "whole": ["plain", "ours"],
        "subsets": ["one", "all", "apart", "plain apart"],
    }
    for task in found["tasks"]:
        assert task["rows"][0]["ratio"] == 1
        assert all(row["cpu_seconds"] > 0 for row in task["rows"])
    assert found["tasks"][-1]["all_over_apart"]["ratio"] > 0 < found["tasks"][-1]["all_over_plain apart"]["ratio"]


def test_cached_and_raw_stages_of_guidance_learn_the_same() -> None:
    found = json.loads(script("guidance.py", "--small", "--rounds", "1", "--threads", "1", "--json"))
    assert found["agreement"] < 1e-3  # the script itself refuses more
    (once,) = found["rounds"]
    assert [(cost["way"], cost["epochs"]) for cost in once["costs"]] == [
        ("cached", 4),
        ("cached", 1),
        ("raw", 1),
        ("raw", 2),
        ("raw", 3),
    ]
    assert all(cost["cpu_seconds"] > 0 and cost["peak_mib"] > 50 for cost in once["costs"])
    assert once["ratio"] == pytest.approx(once["raw"] / once["cached"]) and set(once["line"]) == {"2"}


def test_the_double_loop_and_ours_say_the_same_of_local_information() -> None:
    found = json.loads(script("image_text.py", "--small", "--rounds", "2", "--threads", "1", "--json"))
    assert found["agreement"] < 1e-5  # the script itself refuses more than 1e-4
    ways = [(row["task"], row["way"]) for row in found["rows"]]
    assert ways == [("critic", "loop"), ("critic", "ours"), ("critic", "ours by score"), ("whole", "bert-128x2")]
    loop, ours = found["rows"][:2]
    assert ours["value"] == pytest.approx(loop["value"], abs=1e-5)
    assert ours["gradient"] == pytest.approx(loop["gradient"], rel=1e-4)
    assert all(row["cpu_seconds"] > 0 for row in found["rows"]) and found["rows"][-1]["images"] > 0
