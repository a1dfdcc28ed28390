from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.training.fakes import values_for, write_cohort

from comodal import api
from comodal.data.splits import splits_hash
from comodal.errors import ComodalError, ConfigError
from comodal.reporting.page import group
from comodal.reporting.record import read_run
from comodal.run import Run
from comodal.study.study import StudyResult, load_study, run_study
from comodal.training.events import Emit, Event, Progress, Said, Table, silent


@pytest.fixture(scope="module")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_cohort(tmp_path_factory.mktemp("cohort"))


def study_file(table: Path, **more: Any) -> Path:
    """Two arms and two seeds, a few steps each."""
    like = values_for(table)
    config = {"width": 4, "levels": 2, "steps": 4}
    methods = [{"name": "unet", "config": config}, {"name": "moddrop", "label": "dropped", "config": config}]
    values: dict[str, Any] = {"cohort": table.name, "methods": methods, "seeds": [0, 5]}
    values |= {key: like[key] for key in ("data", "splits", "training")}
    file = table.parent / "study.yaml"
    file.write_text(yaml.safe_dump({**values, **more}))
    return file


def runs_said(events: Sequence[Event]) -> list[str]:
    return [event.text for event in events if isinstance(event, Said) and event.text.startswith("run ")]


def trained(events: Sequence[Event]) -> int:
    return sum(isinstance(event, Progress) and event.what.startswith("training") for event in events)


class Stop(Exception):
    """Thrown by a listener."""


def stop_in_run(number: int) -> Emit:
    seen: list[str] = []

    def listen(event: Event) -> None:
        if isinstance(event, Said) and event.text.startswith("run "):
            seen.append(event.text)
        if len(seen) == number and isinstance(event, Progress) and event.done == 2:
            raise Stop

    return listen


@pytest.fixture(scope="module")
def whole(cohort: Path, tmp_path_factory: pytest.TempPathFactory) -> StudyResult:
    return run_study(study_file(cohort), tmp_path_factory.mktemp("whole"))


def test_every_arm_runs_with_every_seed(whole: StudyResult) -> None:
    assert {label: [run.name for run in runs] for label, runs in whole.runs.items()} == {
        "unet": ["unet-seed0", "unet-seed5"],
        "dropped": ["dropped-seed0", "dropped-seed5"],
    }
    assert whole.reference == "unet"
    for label, results in whole.results.items():
        assert [found.seed for found in results] == [0, 5]
        assert all(found.method == label and found.split == "test" and len(found.subsets) == 3 for found in results)
    runs = [Run.load(run) for arm in whole.runs.values() for run in arm]
    assert [run.label for run in runs] == ["unet", "unet", "moddrop", "moddrop"]
    assert len({tuple(run.splits["test"]) for run in runs}) == 1  # seeds are of the training; the split is one
    assert len({run.cache for run in runs}) == 1 and runs[0].cache.is_absolute()


def test_a_study_that_was_stopped_runs_only_the_rest(cohort: Path, tmp_path: Path, whole: StudyResult) -> None:
    file = study_file(cohort)
    with pytest.raises(Stop):
        run_study(file, tmp_path, emit=stop_in_run(3))
    finished = {path: path.stat().st_mtime_ns for path in tmp_path.glob("runs/*/weights.safetensors")}
    assert len(finished) == 2
    events: list[Event] = []
    again = run_study(file, tmp_path, emit=events.append)
    assert runs_said(events) == [
        f"run {n} of 4: {name}"
        for n, name in enumerate(["unet-seed0", "unet-seed5", "dropped-seed0", "dropped-seed5"], start=1)
    ]
    assert 4 < trained(events) <= 2 * 4  # the third goes on, the fourth is new
    assert {path: path.stat().st_mtime_ns for path in finished} == finished
    for label, runs in again.runs.items():
        for one, two in zip(runs, whole.runs[label], strict=True):
            assert (one / "weights.safetensors").read_bytes() == (two / "weights.safetensors").read_bytes()
    assert again.results == whole.results
    events.clear()
    assert run_study(file, tmp_path, emit=events.append).results == whole.results
    assert trained(events) == 0 and not [event for event in events if isinstance(event, Said) and event.level == "warning"]


def refused(file: Path, out: Path) -> str:
    """What a study says that may not go on; it has trained nothing then."""
    events: list[Event] = []
    with pytest.raises(ConfigError) as caught:
        run_study(file, out, emit=events.append)
    assert trained(events) == 0
    return str(caught.value)


def test_a_study_does_not_go_on_with_other_settings(cohort: Path, whole: StudyResult) -> None:
    training = {**values_for(cohort)["training"], "clip": 1.5}
    folder = whole.out / "runs" / "unet-seed0"
    assert refused(study_file(cohort, training=training), whole.out) == (
        "A run of the study must be as the study would make it now; got training.clip was 12.0 and is 1.5 "
        f"[file {folder}]. Choose another --out or delete the folder."
    )
    splits = {"fractions": [0.5, 0.25, 0.25], "seed": 3}
    assert "got splits.seed was 0 and is 3 [file" in refused(study_file(cohort, splits=splits), whole.out)
    methods = [{"name": "unet", "config": {"width": 8, "levels": 2, "steps": 4}}]
    assert "got method.width was 4 and is 8 [file" in refused(study_file(cohort, methods=methods), whole.out)


@pytest.mark.parametrize(
    ("old", "new", "what"),
    [
        ("p6,,p6,,,p6/a.nii,p6/b.nii,p6/seg.nii\n", "", "p6: not in the cohort any more"),
        ("p6,,p6,", "p9,,p9,", "p6: not in the cohort any more; p9: new in the cohort"),
        ("p6/b.nii", "", "the cohort's row of p6"),
        ("p6,,p6,", "p6,,p5,", "the cohort's row of p6"),
    ],
)
def test_a_study_does_not_go_on_with_another_cohort(tmp_path: Path, old: str, new: str, what: str) -> None:
    """Whether its run has been trained to its end or not."""
    table = write_cohort(tmp_path / "cohort")
    one = [{"name": "unet", "config": {"width": 4, "levels": 2, "steps": 4}}]
    file, out = study_file(table, methods=one, seeds=[0]), tmp_path / "out"
    with pytest.raises(Stop):
        run_study(file, out, emit=stop_in_run(1))
    assert not (out / "runs" / "unet-seed0" / "weights.safetensors").exists()
    text = table.read_text()
    assert text.count(old) == 1
    table.write_text(text.replace(old, new))
    said = refused(file, out)
    assert said.startswith("A run of the study must be as the study would make it now; got " + what)
    assert f"[file {out / 'runs' / 'unet-seed0'}]. Choose another --out or delete the folder." in said


def test_a_study_goes_on_after_it_was_moved(tmp_path: Path) -> None:
    table = write_cohort(tmp_path / "old" / "cohort")
    one = [{"name": "unet", "config": {"width": 4, "levels": 2, "steps": 1}}]
    run_study(study_file(table, methods=one, seeds=[0]), tmp_path / "old" / "out")
    (tmp_path / "old").rename(tmp_path / "new")
    events: list[Event] = []
    run_study(tmp_path / "new" / "cohort" / "study.yaml", tmp_path / "new" / "out", emit=events.append)
    assert trained(events) == 0


def test_a_run_whose_splits_are_not_those_of_the_study_is_refused(tmp_path: Path) -> None:
    table = write_cohort(tmp_path / "cohort")
    one = [{"name": "unet", "config": {"width": 4, "levels": 2, "steps": 1}}]
    file, out = study_file(table, methods=one, seeds=[0]), tmp_path / "out"
    run_study(file, out)
    splits = out / "runs" / "unet-seed0" / "splits.json"
    parts = json.loads(splits.read_text())
    swapped = {"train": parts["test"], "val": parts["val"], "test": parts["train"]}
    splits.write_text(json.dumps({**swapped, "sha256": splits_hash(swapped)}))
    assert "as the study would make it now; got the splits [file" in refused(file, out)


def test_a_study_that_withholds_goes_on_where_it_was_stopped(cohort: Path, tmp_path: Path) -> None:
    config = {"width": 4, "levels": 2, "steps": 4}
    data = {**values_for(cohort)["data"], "withhold": {"b": 0.4}}
    methods = [
        {"name": "unet", "config": config},
        {"name": "unet", "label": "more", "config": config, "data": {"withhold": {}}},
    ]
    file = study_file(
        cohort,
        methods=methods,
        seeds=[0],
        data=data,
        splits={"fractions": [0.75, 0.0, 0.25]},
        training={**values_for(cohort)["training"], "validations": 0},
    )
    with pytest.raises(Stop):
        run_study(file, tmp_path, emit=stop_in_run(1))
    found = run_study(file, tmp_path)
    less, more = (Run.load(found.runs[label][0]) for label in ("unet", "more"))
    assert less.splits == more.splits
    counts = [sum("b" in run.cohort.case(name).cells for name in run.splits["train"]) for run in (less, more)]
    assert counts[1] - counts[0] == round(0.4 * counts[1]) > 0
    events: list[Event] = []
    assert run_study(file, tmp_path, emit=events.append).results == found.results and trained(events) == 0
    told = [event.title for event in heard_by_api(file, tmp_path) if isinstance(event, Table)]
    text = f"Training cases without, unet: b {6 - counts[0]}/6 (withheld: b {counts[1] - counts[0]}); more: "
    assert len(told) == 1 and text in told[0] and text in (tmp_path / "table.md").read_text()
    assert text in (tmp_path / "page.html").read_text() and "different cohorts" not in (tmp_path / "page.html").read_text()
    changed = yaml.safe_load(file.read_text()) | {"data": {**data, "withhold": {"b": 0.2}}}
    file.write_text(yaml.safe_dump(changed))
    assert "got data.withhold.b was 0.4 and is 0.2;" in refused(file, tmp_path)


def heard_by_api(file: Path, out: Path) -> list[Event]:
    """What `comodal study` says of a study that is done."""
    events: list[Event] = []
    api.study(file, out=out, on_event=events.append)
    return events


def test_folds_are_runs_of_one_cohort_whatever_was_withheld(cohort: Path, tmp_path: Path) -> None:
    one = [{"name": "unet", "config": {"width": 4, "levels": 2, "steps": 1}}]
    data = {**values_for(cohort)["data"], "withhold": {"b": 0.5}}
    splits = {"folds": 2, "fractions": [0.6, 0.2, 0.2]}
    found = run_study(study_file(cohort, methods=one, seeds=[0], folds=[0, 1], splits=splits, data=data), tmp_path)
    records = [read_run(run) for run in found.runs["unet"]]
    assert records[0].files != records[1].files and len({record.cohort_hash for record in records}) == 1
    assert list(group(records)) == ["unet"]


def test_folds_test_every_case_once(cohort: Path, tmp_path: Path) -> None:
    splits = {"folds": 2, "fractions": [0.6, 0.2, 0.2]}
    one = [{"name": "unet", "config": {"width": 4, "levels": 2, "steps": 1}}]
    found = run_study(study_file(cohort, methods=one, seeds=[0], folds=[0, 1], splits=splits), tmp_path)
    runs = [Run.load(run) for run in found.runs["unet"]]
    assert [run.path.name for run in runs] == ["unet-seed0-fold0", "unet-seed0-fold1"]
    assert sorted(i for run in runs for i in run.splits["test"]) == [f"p{k}" for k in range(8)]


@pytest.mark.parametrize(
    ("more", "text"),
    [
        ({"methods": [{"name": "unet"}, {"name": "unet"}]}, "study.methods must have distinct labels; got unet. Give each arm"),
        (
            {"methods": [{"name": "unet", "label": "a/b"}]},
            "study.methods.label must be letters, digits, '-', '_' or '.'; got 'a/b'",
        ),
        ({"methods": [{"name": "unet", "label": ".."}]}, "study.methods.label must be letters"),
        ({"methods": [{"name": "uent"}]}, "method.name must be a known method; got 'uent'. Did you mean unet or tienet?"),
        (
            {"methods": [{"name": "unet", "config": {"widht": 4}}]},
            "method.widht must be a known key; got 'widht'. Did you mean width?",
        ),
        ({"methods": [{"name": "unet", "training": {"sed": 4}}]}, "study arm unet.training.sed must be a known key"),
        ({"methods": [{"name": "unet", "config": {"levels": 6}}]}, "data.patch must have sides divisible by 32"),
        ({"methods": []}, "study.methods must"),
        (
            {"data": {"withhold": {"c": 0.5}}},
            "data.withhold must name modalities or targets of the cohort; got 'c'. Known: a, b, ",
        ),
        (
            {"methods": [{"name": "unet", "data": {"regions": ["TC"]}}]},
            "data.regions must name regions of the cohort's targets",
        ),
        ({"sedes": [0]}, "study.sedes must be a known key; got 'sedes'. Did you mean seeds?"),
        ({"seeds": [0, 1, 0]}, "study.seeds must differ from each other; got [0, 1, 0]. Write each number once."),
        ({"reference": "moddrop"}, "study.reference must be a label; got 'moddrop'."),
        ({"against": ["dropped", "moddrop"]}, "study.against must be a label; got 'moddrop'."),
        ({"folds": [0, 1]}, "study.folds must go with splits.folds, the number of parts; got [0, 1]. Set splits.folds"),
        ({"split": "tset"}, "study.split must be"),
        ({"folds": []}, "study.folds must"),
        ({"training": {"seed": 3}}, "training.seed of study must be left out of a study; got a seed. Write it under `seeds`"),
        ({"methods": [{"name": "unet", "training": {"seed": 3}}]}, "training.seed of unet must be left out of a study"),
        ({"data": {"modalities": ["c"]}}, "data.modalities must name columns of the cohort; got 'c'."),
        ({"cohort": "none.csv"}, "table must be a readable CSV file"),
        ({"training": {"devices": 2}}, "study.training.devices must be 1, since a study runs in one process"),
    ],
)
def test_every_mistake_is_said_before_the_first_training(cohort: Path, tmp_path: Path, more: dict[str, Any], text: str) -> None:
    with pytest.raises(ComodalError) as caught:
        run_study(study_file(cohort, **more), tmp_path / "out", emit=silent)
    assert str(caught.value).startswith(text), str(caught.value)
    assert not (tmp_path / "out").exists()


def test_paths_are_relative_to_the_file_of_the_study(cohort: Path) -> None:
    assert load_study(study_file(cohort)).cohort == str(cohort)


def test_each_further_reference_has_a_table_of_its_own(cohort: Path, whole: StudyResult) -> None:
    heard: list[Event] = []
    (whole.out / "table-minus-gone.md").write_text("of an arm that was in `against` once")
    (whole.out / "my-table-minus-gone.md").write_text("not ours")
    found = api.study(study_file(cohort, against=["dropped"]), out=whole.out, on_event=heard.append)
    assert found.further_tables == {"dropped": whole.out / "table-minus-dropped.md"}
    assert sorted(path.name for path in whole.out.glob("*.md")) == [
        "my-table-minus-gone.md",
        "table-drop.md",
        "table-minus-dropped.md",
        "table.md",
    ]
    lost = found.drop_table.read_text()
    assert "| unet DSC/WT minus all | dropped DSC/WT minus all |" in lost.splitlines()[0] and "Minus all: DSC/WT" in lost
    first, second = ((whole.out / name).read_text() for name in ("table.md", "table-minus-dropped.md"))
    own = " Each table is corrected by itself."
    assert first.endswith(own + "\n") and second.endswith(own + "\n")
    assert next(event.title for event in heard if isinstance(event, Table)).endswith(own)
    assert "dropped - unet DSC/WT" in first and "minus unet" in first
    assert "unet - dropped DSC/WT" in second and "minus dropped" in second
    api.study(study_file(cohort), out=whole.out)
    assert not list(whole.out.glob("table-minus-*.md")) and (whole.out / "my-table-minus-gone.md").is_file()
    assert "corrected by itself" not in (whole.out / "table.md").read_text()
