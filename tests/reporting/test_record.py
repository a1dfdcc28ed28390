"""Reading run folders: tolerant of what is missing or cut off, strict about what is not a run."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from comodal.errors import RunError
from comodal.evaluation.comparison import combine
from comodal.reporting.about import facts
from comodal.reporting.record import find_runs, read_run

EMPTY = combine({"m": []})
Make = Callable[..., Path]


def test_what_a_run_says(make_run: Make, worlds: dict[str, Any]) -> None:
    run = read_run(make_run("r", worlds["lgg"], method="moddrop", seed=2, missing=True))
    assert (run.method, run.seed, run.split, run.modalities) == ("moddrop", 2, "test", ("pre", "flair", "post"))
    assert run.present["P000"] == ["pre", "post"]
    assert run.present["P001"] == ["pre", "flair", "post"]
    assert len(run.warnings) == 1


def test_a_killed_training_leaves_a_cut_line_and_repeated_steps(make_run: Make, worlds: dict[str, Any]) -> None:
    folder = make_run("r", worlds["lgg"], method="unet", evaluated=False)
    line = '{"event": "step", "stage": "train", "step": %d, "loss": %s}\n'
    (folder / "metrics.jsonl").write_text(line % (1, 3.0) + line % (2, 2.0) + line % (2, 1.5) + '{"event": "st')
    run = read_run(folder)
    assert [(event["step"], event["loss"]) for event in run.events] == [(1, 3.0), (2, 1.5)]
    assert run.notes == []
    (folder / "metrics.jsonl").write_text("{damaged\n" + line % (1, 3.0))
    assert read_run(folder).notes == ["1 line of metrics.jsonl is damaged and was left out."]


def test_a_damaged_environment_is_a_note(make_run: Make, worlds: dict[str, Any]) -> None:
    folder = make_run("r", worlds["lgg"], method="unet", evaluated=False)
    (folder / "environment.json").write_text("{")
    assert read_run(folder).notes == ["environment.json is damaged and was left out."]


@pytest.mark.parametrize("text", ["- a list", "!!python/object/apply:os.system [echo]", "{unclosed"])
def test_a_configuration_that_is_no_plain_mapping_is_refused(make_run: Make, worlds: dict[str, Any], text: str) -> None:
    folder = make_run("r", worlds["lgg"], method="unet", evaluated=False)
    (folder / "config.yaml").write_text(text)
    with pytest.raises(RunError, match=r"run file must .*config\.yaml\]\. Copy the run again\."):
        read_run(folder)


def test_runs_of_a_study_stand_in_the_order_of_the_methods_then_by_number(make_run: Make, worlds: dict[str, Any]) -> None:
    for name, method in [("a-seed10", "moddrop"), ("a-seed9", "moddrop"), ("z-seed0", "unet"), ("b", "unknown")]:
        make_run(f"study/runs/{name}", worlds["chest"], method=method, evaluated=False)
    study = make_run("study/runs/c", worlds["chest"], method="unknown", evaluated=False).parents[1]
    assert [run.name for run in find_runs([study])] == ["z-seed0", "a-seed9", "a-seed10", "b", "c"]
    assert len(find_runs([study, study / "runs" / "b"])) == 5  # no run twice


def test_targets_of_classes_come_with_their_classes(make_run: Make, worlds: dict[str, Any]) -> None:
    chest = make_run("r", worlds["chest"], method="classifier", evaluated=False)
    (target,) = read_run(chest).class_targets
    assert (target.name, target.kind, target.classes) == ("finding", "class", ("negative", "positive"))
    assert read_run(make_run("s", worlds["lgg"], method="unet", evaluated=False)).class_targets == ()  # regions
    (chest / "cohort.yaml").write_text("targets: [{name: finding, kind: class, classes: [a, a]}]")
    assert read_run(chest).class_targets == ()
    (chest / "cohort.yaml").write_text("targets: [{name: other, kind: class, classes: [a, b]}]")
    assert read_run(chest).class_targets == ()  # the run does not predict it


def test_pictures_are_not_called_slices(make_run: Make, worlds: dict[str, Any]) -> None:
    run = make_run("r", worlds["chest"], method="classifier", evaluated=False)
    assert ("The networks see", "slices in patches of 64 × 64 voxels") in facts({"m": [read_run(run)]}, EMPTY).pairs
    text = (run / "cohort.yaml").read_text()
    (run / "cohort.yaml").write_text(text.replace("- name: image", "- name: image\n  spatial_dims: 2"))
    assert ("The networks see", "pictures of 64 × 64 pixels") in facts({"m": [read_run(run)]}, EMPTY).pairs
