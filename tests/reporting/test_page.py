"""The page as a whole: self-contained, inert, complete, and honest about what is missing."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from comodal.errors import RunError
from comodal.evaluation.results import Results
from comodal.reporting.page import group, write_page
from comodal.reporting.record import read_run

Make = Callable[..., Path]


class Elements(HTMLParser):
    """Which elements and attributes a page has, and its visible text."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: dict[str, int] = {}
        self.attributes: list[tuple[str, str]] = []
        self.text = ""
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags[tag] = self.tags.get(tag, 0) + 1
        self.attributes += [(name, value or "") for name, value in attrs]

    def handle_data(self, data: str) -> None:
        self.text += data


@pytest.fixture(scope="module")
def html(study: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    return write_page([study], tmp_path_factory.mktemp("page") / "new" / "page.html").read_text(encoding="utf-8")


def test_a_study_has_every_section(html: str) -> None:
    found = Elements(html)
    assert "<title>unet and moddrop on phantom-brain</title>" in html  # baseline first, whatever the folder is called
    assert re.search(r"The mean DSC of moddrop is 0\.1\d\d higher than that of unet, averaged over all 15 subsets", found.text)
    for heading in ("What was trained on what", "Every subset of the modalities", "DSC by subset", "Patients", "Training"):
        assert heading in found.text
    assert "48 for training, 8 for validation, 20 for test" in found.text
    assert "the loss has not fallen in 75 steps" in found.text
    assert "Not evaluated on test yet, and not in the table: last." in found.text
    assert "left out where truth or prediction is empty" in found.text  # the convention of HD95
    assert "Isensee et al. (2021)" in found.text  # environment.json goes before the table of methods
    assert found.tags["svg"] == 2
    assert found.tags["img"] == 3  # each method, and both side by side


def test_nothing_is_loaded_from_elsewhere_and_nothing_can_run(html: str) -> None:
    found = Elements(html)
    assert not {"script", "link", "iframe", "object", "embed", "base", "form"} & set(found.tags)
    for name, value in found.attributes:
        assert not name.startswith("on")
        if name in ("src", "href", "xlink:href", "srcset", "data", "action"):
            assert value.startswith(("data:image/png;base64,", "#"))
    assert not re.findall(r"url\((?!#)", html)
    assert "default-src 'none'" in html


def test_hostile_names_are_inert(make_run: Make, worlds: dict[str, Any], tmp_path: Path) -> None:
    evil = "<script>alert(1)</script>"
    run = make_run('"><img src=x onerror=alert(2)>', worlds["brain"], method="$<svg onload=alert(3)>$", subjects=[evil] * 1)
    (run / "metrics.jsonl").write_text(
        '{"event": "step", "stage": "</svg><script>", "step": 1, "loss": 1.0}\n'
        '{"event": "validation", "stage": "</svg><script>", "step": 1, "metrics": {"<b>$": 0.5}, "best": true}\n'
        '{"event": "warning", "stage": "s", "step": 1, "text": "<script>warn</script>"}\n'
    )
    html = write_page([run], tmp_path / "page.html", title="<script>title</script>").read_text(encoding="utf-8")
    found = Elements(html)
    assert "script" not in found.tags
    assert found.tags["svg"] == 2
    assert found.tags["img"] == 1
    assert not [name for name, _ in found.attributes if name.startswith("on")]
    assert evil in found.text  # shown as what it is


def test_a_run_not_evaluated_says_not_run(make_run: Make, worlds: dict[str, Any], tmp_path: Path) -> None:
    run = make_run("new", worlds["brain"], method="unet", evaluated=False)
    (run / "metrics.jsonl").unlink()
    (run / "environment.json").unlink()
    text = Elements(write_page([run], tmp_path / "page.html").read_text(encoding="utf-8")).text
    assert "Not evaluated yet" in text
    assert text.count("not run") == 15
    assert "cannot say whether anything went wrong" in text
    assert "Training" not in re.findall(r"\w+", text.split("How to read")[0].split("Every subset")[1])


def test_missing_modalities_and_pictures_of_slices(make_run: Make, worlds: dict[str, Any], tmp_path: Path) -> None:
    run = make_run("lgg", worlds["lgg"], method="moddrop", missing=True, stages=2)
    found = Elements(write_page([run], tmp_path / "page.html").read_text(encoding="utf-8"))
    assert "12 of 16" in found.text  # flair, on the test side
    assert "teacher" in found.text
    assert "slices in patches of 64 × 64 voxels" in found.text
    assert "marks the patient's right side" not in found.text  # a TIFF does not say where right is


def test_classification_has_no_pictures_and_says_what_is_not_supported(
    make_run: Make, worlds: dict[str, Any], tmp_path: Path
) -> None:
    runs = [make_run(f"{m}-{s}", worlds["chest"], method=m, seed=s) for m in ("classifier", "late-fusion") for s in (0, 1)]
    found = Elements(write_page(runs, tmp_path / "page.html").read_text(encoding="utf-8"))
    assert found.text.count("not supported") == 2 + 2 + 2  # a row of each table, and in the figure
    assert "img" not in found.tags
    assert "There is no clear difference between late-fusion and classifier" in found.text
    assert "Pooled over cases; mean recall of the classes." in found.text


def test_the_same_runs_give_the_same_bytes(make_run: Make, worlds: dict[str, Any], tmp_path: Path) -> None:
    run = make_run("one", worlds["lgg"], method="unet")
    first, second = (write_page([run], tmp_path / f"{i}.html").read_bytes() for i in range(2))
    assert first == second


def test_runs_with_other_settings_are_no_seeds_of_each_other(make_run: Make, worlds: dict[str, Any]) -> None:
    runs = [make_run(name, worlds["lgg"], method="unet", seed=k, evaluated=False) for k, name in enumerate("abc")]
    text = (runs[2] / "config.yaml").read_text()
    (runs[2] / "config.yaml").write_text(text.replace("width: 16", "width: 32"))
    labels = group([read_run(run) for run in runs])
    assert {label: [r.folder.name for r in rs] for label, rs in labels.items()} == {"unet (a)": ["a", "b"], "unet (c)": ["c"]}


def rewritten(run: Path, file: str, old: str, new: str) -> Path:
    text = (run / file).read_text()
    assert old in text
    (run / file).write_text(text.replace(old, new))
    return run


def test_runs_of_other_cohorts_are_no_seeds_of_each_other(make_run: Make, worlds: dict[str, Any], tmp_path: Path) -> None:
    """Each run calls its own copy of the cohort "cohort.csv"; what counts is what stands in it."""
    runs = [make_run(f"r{k}", worlds["lgg"], method="unet", seed=k) for k in range(3)]
    for run in runs:
        rewritten(run, "config.yaml", "../lgg.csv", "cohort.csv")
    assert list(group([read_run(run) for run in runs])) == ["unet"]
    rewritten(runs[2], "cohort.csv", "3/flair.tif", "other/flair.tif")
    labels = group([read_run(run) for run in runs])
    assert {label: [r.folder.name for r in rs] for label, rs in labels.items()} == {
        "unet (r0)": ["r0", "r1"],
        "unet (r2)": ["r2"],
    }
    text = Elements(write_page(runs, tmp_path / "page.html").read_text(encoding="utf-8")).text
    said = "The runs were trained on different cohorts (r0, r1; r2). Their cases are not paired, even where names agree."
    assert said in text
    assert "unet (r2) and unet (r0) have no result in common." in text  # P000 of two cohorts is not one patient


@pytest.mark.parametrize(
    ("file", "old", "new"),
    [
        ("config.yaml", "splits:\n  fold: 0", "splits:\n  fold: 0\n  column: false"),
        ("splits.json", '"T000", ', ""),
        ("cohort.yaml", "root: .", "root: elsewhere"),
        ("cohort.yaml", "name: seg", "name: mask"),
    ],
)
def test_runs_with_other_splits_or_files_are_no_seeds_of_each_other(
    make_run: Make, worlds: dict[str, Any], tmp_path: Path, file: str, old: str, new: str
) -> None:
    runs = [make_run(f"r{k}", worlds["lgg"], method="unet", seed=k) for k in range(2)]
    rewritten(runs[1], file, old, new)
    assert list(group([read_run(run) for run in runs])) == ["unet (r0)", "unet (r1)"]
    if "root" in old:
        assert "but in different folders" in write_page(runs, tmp_path / "page.html").read_text(encoding="utf-8")


def test_folds_are_runs_of_one_method(make_run: Make, worlds: dict[str, Any]) -> None:
    runs = [make_run(f"r{k}", worlds["lgg"], method="unet", evaluated=False) for k in range(2)]
    for k, run in enumerate(runs):
        rewritten(run, "config.yaml", "fold: 0\n  folds: null", f"fold: {k}\n  folds: 2")
    rewritten(runs[1], "splits.json", '"T000", ', "")
    assert list(group([read_run(run) for run in runs])) == ["unet"]


def test_pictures_are_of_the_cases_that_the_tables_show(make_run: Make, worlds: dict[str, Any], tmp_path: Path) -> None:
    run = make_run("r", worlds["lgg"], method="unet")
    (run / "examples" / "test").rename(run / "examples" / "train")
    assert "img" not in Elements(write_page([run], tmp_path / "page.html").read_text(encoding="utf-8")).tags
    (run / "examples" / "train").rename(run / "examples" / "test")
    assert "worst P002 (slice 41) of the test cases" in write_page([run], tmp_path / "page.html").read_text(encoding="utf-8")


def test_a_single_class_has_no_mean_beside_it(make_run: Make, worlds: dict[str, Any], tmp_path: Path) -> None:
    run = make_run("r", worlds["lgg"], method="unet")
    result = read_run(run).results["test"]
    notes = {"DSC/lesion": "one", "DSC/mean": "two; intervals of fewer than 20 patients are too narrow"}
    row = result.subsets[0]
    metrics = {name: value.model_copy(update={"note": notes.get(name)}) for name, value in row.metrics.items()}
    changed = (row.model_copy(update={"metrics": metrics}), *result.subsets[1:])
    result.model_copy(update={"subsets": changed}).save(run / "results" / "test.json")
    text = Elements(write_page([run], tmp_path / "page.html").read_text(encoding="utf-8")).text
    assert "DSC mean" not in text and "mean DSC" not in text
    assert "pre, DSC lesion: one" in text
    assert text.count("ntervals of fewer than 20 patients are too narrow") == 1  # 16 patients; said once, in the caption


def test_a_restricted_evaluation_is_shown_only_where_there_is_no_whole_one(
    make_run: Make, worlds: dict[str, Any], tmp_path: Path
) -> None:
    run = make_run("r", worlds["lgg"], method="unet")
    result = read_run(run).results["test"]
    part = result.model_copy(update={"split": "test.use-pre", "subsets": result.subsets[:1], "notes": ("Only pre was read.",)})
    part.save(run / "results" / "test.use-pre.json")
    assert "Only pre was read." not in write_page([run], tmp_path / "page.html").read_text(encoding="utf-8")
    (run / "results" / "test.json").unlink()
    text = Elements(write_page([run], tmp_path / "page.html").read_text(encoding="utf-8")).text
    assert "Only pre was read." in text and "not run" in text and "on 16 test cases, from pre" in text


def test_the_complete_set_alone_has_one_row_and_a_sentence(make_run: Make, worlds: dict[str, Any], tmp_path: Path) -> None:
    run = make_run("c", worlds["lgg"], method="unet")
    result = read_run(run).results["test"]
    result.model_copy(update={"subsets": result.subsets[-1:]}).save(run / "results" / "test.json")
    text = Elements(write_page([run], tmp_path / "page.html").read_text(encoding="utf-8")).text
    assert "All modalities together" in text and "no smaller subset of them was run" in text
    assert "not run" not in text and "Every subset" not in text and "from every subset" not in text


def test_labels_of_ones_own(make_run: Make, worlds: dict[str, Any], tmp_path: Path) -> None:
    runs = {
        "narrow": [make_run("a", worlds["chest"], method="x")],
        "wide": [make_run("b", worlds["chest"], method="x", seed=1)],
    }
    assert "<title>narrow and wide on chest</title>" in write_page(runs, tmp_path / "page.html").read_text()


def test_divisions_are_runs_of_one_method(make_run: Make, worlds: dict[str, Any]) -> None:
    runs = [make_run(f"r{k}", worlds["lgg"], method="unet", evaluated=False) for k in range(3)]
    for run, seed in zip(runs, (0, 1, 1), strict=True):
        rewritten(run, "config.yaml", "  seed: 0\ntraining", f"  seed: {seed}\ntraining")
    rewritten(runs[1], "splits.json", '"T000", ', "")
    assert list(group([read_run(run) for run in runs[:2]])) == ["unet"]
    assert list(group([read_run(run) for run in runs])) == ["unet (r0)", "unet (r2)"]  # one seed divides in one way


def test_results_under_other_settings_are_named_and_not_mixed_in(
    make_run: Make, worlds: dict[str, Any], tmp_path: Path
) -> None:
    run = make_run("one", worlds["lgg"], method="unet")
    before = write_page([run], tmp_path / "page.html").read_text(encoding="utf-8")
    other = Results.load(run / "results" / "test.json")
    notes = ("Set at test, otherwise than in the training: read_out inferior.",)
    name = "test.read_out-inferior"
    other.model_copy(update={"split": name, "notes": notes}).save(run / "results" / f"{name}.json")
    after = write_page([run], tmp_path / "page.html").read_text(encoding="utf-8")
    said = f"Also evaluated under other settings at test, and not shown here: {name}."
    assert said in after and said not in before and len(after) - len(before) < 300
    (run / "results" / "test.json").rename(run / "results" / "test.subsets-t1.json")  # of a study of the complete set
    assert read_run(run).split == "test.subsets-t1"


def test_a_folder_without_runs_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"report must get run folders \(with config\.yaml\), or a folder of runs; got none"):
        write_page([tmp_path], tmp_path / "page.html")
    assert not (tmp_path / "page.html").exists()


def test_importing_the_room_imports_nothing_heavy() -> None:
    code = "import sys, comodal.reporting.page as p; sys.exit(any(m in sys.modules for m in ('torch', 'matplotlib', 'monai')))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
