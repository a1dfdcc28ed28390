"""From a configuration to a run folder: what is checked first, what is validated, and how precisely."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning_fabric import Fabric
from tests.training.fakes import config_for, register, values_for, write_cohort, write_config

from comodal.config import RunConfig, build_method, load_config
from comodal.errors import ComodalError, ConfigError
from comodal.evaluation.results import CaseResult, MetricValue, Results, SubsetResult
from comodal.method import Method, Monitor, Problem, Stage
from comodal.run import Run
from comodal.training.checking import stage_cases
from comodal.training.events import Event, Said
from comodal.training.train import make_fabric, make_feed, train_run, validation_feed
from comodal.training.validation import Validator, missed_classes


def lines(run: Path, event: str) -> list[dict[str, Any]]:
    every = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [line for line in every if line["event"] == event]


def test_a_run_folder_is_whole(cohort: Path, tmp_path: Path) -> None:
    run = train_run(config_for(cohort, "moddrop"), tmp_path / "run")
    names = {path.name for path in (tmp_path / "run").iterdir()}
    assert names - {"cache"} == {
        "config.yaml",
        "cohort.csv",
        "cohort.yaml",
        "splits.json",
        "preprocessing.json",
        "environment.json",
        "metrics.jsonl",
        "resume",
        "weights.safetensors",
    }
    assert {name: len(ids) for name, ids in run.splits.items()} == {"train": 4, "val": 2, "test": 2}
    known = json.loads((tmp_path / "run" / "environment.json").read_text())
    assert known["threads"] >= 1 and known["warnings"] == []
    assert known["training_seconds"] > 0 and known["training_cpu_seconds"] > 0
    start = lines(tmp_path / "run", "stage")[0]
    assert start["cases"] == 4 and start["parameters"] == known["parameters"]
    assert not run.method().training


def test_the_same_seed_gives_the_same_weights_and_another_does_not(cohort: Path, tmp_path: Path) -> None:
    config = config_for(cohort)
    runs = [train_run(config, tmp_path / name) for name in ("one", "two")]
    other = train_run(load_config(cohort.parent / "config.yaml", ["training.seed=1"]), tmp_path / "three")
    one, two, three = ((run.path / "weights.safetensors").read_bytes() for run in (*runs, other))
    assert one == two != three


def test_workers_change_no_byte(cohort: Path, tmp_path: Path) -> None:
    config_for(cohort)
    runs = [train_run(load_config(cohort.parent / "config.yaml", [f"training.workers={n}"]), tmp_path / str(n)) for n in (0, 2)]
    one, two = ((run.path / "metrics.jsonl").read_bytes() for run in runs)
    assert one == two


@pytest.mark.parametrize(
    ("override", "text"),
    [
        ("data.patch=[16,15]", "data.patch must have sides divisible by 2"),
        ("data.patch=[16]", "data.patch must have 2 sides"),
        ("data.modalities=[c]", "data.modalities must name columns of the cohort; got 'c'."),
        ("training.devices=2", "training.batch_size must be divisible by the number of processes (2); got 3. Choose 2."),
        ("training.tensorboard=true", "training.tensorboard must have the package tensorboard; got none. Install it with"),
        ("training.device=cuda", "training.devices must be GPUs of this machine; got 1 for 0. Set training.device to cpu."),
        ("splits.fractions=[0.5,0.25,0.25]", ""),
    ],
)
def test_a_mistake_leaves_no_run_folder(
    cohort: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, override: str, text: str
) -> None:
    monkeypatch.setattr("comodal.training.log.find_spec", lambda name: None)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    config_for(cohort)
    config = load_config(cohort.parent / "config.yaml", [override, "training.batch_size=3"])
    if not text:  # without a mistake there is one
        assert train_run(config, tmp_path / "run").path == tmp_path / "run"
        return
    with pytest.raises(ComodalError) as caught:
        train_run(config, tmp_path / "run")
    assert str(caught.value).startswith(text)
    assert not (tmp_path / "run").exists()


def test_no_training_case_is_said_before_anything_is_made(cohort: Path, tmp_path: Path) -> None:
    table = cohort.with_name("bare.csv")
    rows = cohort.read_text().splitlines()
    table.write_text("\n".join([rows[0], *(row.rsplit(",", 1)[0] + "," for row in rows[1:])]) + "\n")
    table.with_suffix(".yaml").write_text(cohort.with_suffix(".yaml").read_text())
    with pytest.raises(
        ConfigError, match=r"Stage train must have training cases with seg; got none\. Fill the cohort's columns"
    ):
        train_run(config_for(table), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_stage_that_was_left_without_cases_names_what_was_withheld(tmp_path: Path) -> None:
    table = write_cohort(tmp_path / "data", cases=4)  # p3 has no b
    method = {"subsets": [["a", "b"]], "width": 4, "levels": 2, "steps": 2}
    values = values_for(table, "unet-experts", method=method, data={"withhold": {"a": 0.4, "b": 0.9}})
    values["splits"] = {"fractions": [1.0, 0.0, 0.0]}
    config = load_config(write_config(tmp_path / "config.yaml", values))
    with pytest.raises(ConfigError) as caught:
        train_run(config, tmp_path / "run")
    assert str(caught.value) == (
        "Stage a+b must have training cases with a, b, seg; got none, since data.withhold takes a modality from each of the 3 "
        "that there are. Lower the rates of data.withhold (a, b), or leave it out."
    )
    assert not (tmp_path / "run").exists()


def test_a_gpu_that_is_not_there_is_refused(cohort: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    config = config_for(cohort, training={"device": "cuda"})
    with pytest.raises(
        ConfigError, match=r"training\.devices must be GPUs of this machine; got 1 for 0\. Set training\.device"
    ):
        make_fabric(config)


def test_torchrun_with_another_number_of_processes_is_refused(cohort: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "x")
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(
        ConfigError, match=r"training\.devices must be the number of processes of torchrun; got 1\. Set .* to 2"
    ):
        make_fabric(config_for(cohort))


def test_threads_are_those_of_the_configuration(cohort: Path, tmp_path: Path) -> None:
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        train_run(config_for(cohort), tmp_path / "run")  # says 1
        assert torch.get_num_threads() == 1
    finally:
        torch.set_num_threads(before)


def test_init_takes_what_fits(cohort: Path, tmp_path: Path) -> None:
    config = config_for(cohort, training={"validations": 0})
    other = train_run(config, tmp_path / "other")
    said: list[Event] = []
    train_run(config, tmp_path / "same", init=other.path, emit=said.append)
    count = len(other.method().state_dict())
    assert Said("info", f"took {count} of {count} tensors from {other.path}") in said
    started, fresh = (lines(tmp_path / name, "step")[0]["loss"] for name in ("same", "other"))
    assert started < fresh


def test_init_from_a_run_that_has_nothing_to_give(cohort: Path, tmp_path: Path) -> None:
    register("tests.training.fakes")
    other = train_run(config_for(cohort, "two-stage"), tmp_path / "other")
    with pytest.raises(ConfigError, match=r"--init must share weights with this method; got none that fit"):
        train_run(config_for(cohort), tmp_path / "run", init=other.path)
    assert not (tmp_path / "run").exists()


def test_a_case_takes_part_where_it_has_what_a_stage_asks(cohort: Path, tmp_path: Path) -> None:
    run = train_run(config_for(cohort, steps=1), tmp_path / "run")

    def ids(stage: Stage) -> list[str]:
        return [case.id for case in stage_cases(run.problem, run.cohort, run.cohort.ids, stage=stage)]

    assert ids(Stage("s", steps=1)) == [f"p{k}" for k in range(8)]
    assert ids(Stage("s", modalities=("a", "b"), steps=1)) == [f"p{k}" for k in range(8) if k not in (3, 7)]
    assert ids(Stage("s", modalities=("b",), targets=(), steps=1)) == [f"p{k}" for k in range(8) if k not in (3, 7)]


def test_a_stage_on_encodings_reads_each_of_them_once_made(cohort: Path, tmp_path: Path) -> None:
    register("tests.training.fakes")
    run = train_run(config_for(cohort, "two-stage", data={"cache": str(tmp_path / "cache")}), tmp_path / "run")
    method = run.method()
    stage = method.stages()[1]
    cases = stage_cases(run.problem, run.cohort, run.splits["train"], stage=stage)
    preparer = run.preparer(cache=tmp_path / "cache")
    files = sorted((tmp_path / "cache" / "encodings").iterdir())
    have = sum(
        len([n for n in ("a", "b") if n in run.cohort.case(i).cells]) for i in (*run.splits["train"], *run.splits["val"])
    )
    assert len(files) == have  # training and validation cases, each modality
    feed = make_feed(run, method, stage, preparer=preparer, cases=cases, augment=False)
    batch = next(iter(feed.batches(0)))
    method.eval()
    raw = make_feed(run, method, Stage("raw", steps=1), preparer=preparer, cases=cases, augment=False)
    whole = raw.draws[0]
    assert {tuple(v.shape) for v in batch.inputs.values() if isinstance(v, torch.Tensor)} == {(2, 3, 16, 16)}
    assert whole.inputs["a"].shape == (1, 16, 16)  # type: ignore[union-attr]
    assert sorted((tmp_path / "cache" / "encodings").iterdir()) == files  # found again, not made again
    method.encoders["a"][0].weight.data += 1.0  # type: ignore[index, union-attr]
    list(make_feed(run, method, stage, preparer=preparer, cases=cases, augment=False).batches(0))
    assert len(list((tmp_path / "cache" / "encodings").iterdir())) > len(files)  # other frozen weights, other encodings


# ------------------------------------------------------------------------------------------------------------- validation
def validator_of(run: Run) -> Validator:
    return Validator(run, run.preparer(cache=run.cache), Fabric(accelerator="cpu", devices=1))


def test_a_validation_repeats_itself_to_the_last_bit(cohort: Path, tmp_path: Path) -> None:
    run = train_run(config_for(cohort, "moddrop"), tmp_path / "run")
    method = run.method()
    validator = validator_of(run)
    validator.feed = validation_feed(run, method, method.stages()[0], preparer=run.preparer(cache=run.cache))
    torch.manual_seed(1)
    first = validator(method, method.stages()[0])
    torch.manual_seed(2)
    assert validator(method, method.stages()[0]) == first
    assert set(first.metrics) == {"loss", "DSC"} and 0 <= first.metrics["DSC"] <= 1
    best = [line["metrics"] for line in lines(run.path, "validation") if line["best"]][-1]
    assert first.metrics == pytest.approx(best, rel=1e-5)  # the weights that were kept are those that were judged


def test_a_loss_that_is_monitored_needs_no_prediction(cohort: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = train_run(config_for(cohort, steps=2), tmp_path / "run")
    method = run.method()
    monkeypatch.setattr(method, "predict", None)
    validator = validator_of(run)
    stage = Stage("s", steps=1, monitor=Monitor("loss"))
    validator.feed = validation_feed(run, method, stage, preparer=run.preparer(cache=run.cache))
    assert set(validator(method, stage).metrics) == {"loss"}


def test_without_validation_cases_the_last_weights_are_kept(cohort: Path, tmp_path: Path) -> None:
    said: list[Event] = []
    run = train_run(config_for(cohort, splits={"fractions": [0.75, 0.0, 0.25]}), tmp_path / "run", emit=said.append)
    assert run.splits["val"] == []
    texts = [event.text for event in said if isinstance(event, Said) and event.level == "warning"]
    assert len(texts) == 1 and "without any the last are kept" in texts[0]


def results_of(rows: dict[str, tuple[float, ...]], n_pos: int, n_neg: int) -> Results:
    metrics = {name: MetricValue(value=0.0, n=n_pos + n_neg, n_pos=n_pos, n_neg=n_neg) for name in rows}
    cases = [
        CaseResult(subject=f"p{k}", group=f"p{k}", present=("a",), metrics={name: values[k] for name, values in rows.items()})
        for k in range(n_pos + n_neg)
    ]
    row = SubsetResult(present=("a",), metrics=metrics)
    return Results(method="m", cohort="c", split="val", seed=0, subsets=(row,), cases=tuple(cases))


@pytest.mark.parametrize(
    ("values", "n_pos", "n_neg", "missed"),
    [
        ((0.0, 0.0, 1.0), 2, 1, ("ET",)),  # nothing is predicted anywhere: right only where nothing is
        ((0.0, 0.1, 1.0), 2, 1, ()),
        ((0.0, 0.0, 0.0), 2, 1, ("ET",)),  # predicted only where there is nothing
        ((1.0, 0.0, 1.0), 2, 1, ()),
        ((1.0, 1.0, 1.0), 0, 3, ()),  # there is nothing to find
    ],
)
def test_missed_classes(values: tuple[float, ...], n_pos: int, n_neg: int, missed: tuple[str, ...]) -> None:
    assert missed_classes([results_of({"DSC/ET": values, "DSC/mean": values}, n_pos, n_neg)]) == missed


def test_collapse_to_empty_predictions_is_said_while_it_runs(cohort: Path, tmp_path: Path) -> None:
    """A network whose bias is drawn far down predicts nothing; a rate of almost nothing keeps it there."""
    register("tests.training.fakes")
    other = train_run(config_for(cohort, training={"validations": 0}, steps=1), tmp_path / "other")
    from comodal.run import read_weights, save_weights

    weights = read_weights(other.path / "weights.safetensors")
    bias = next(name for name in weights if name.endswith("head.bias"))
    save_weights(other.path / "weights.safetensors", {**weights, bias: weights[bias] - 50.0})
    said: list[Event] = []
    config = config_for(cohort, method={"rate": 1e-9})
    train_run(config, tmp_path / "run", init=other.path, emit=said.append)
    texts = [event.text for event in said if isinstance(event, Said) and event.level == "warning"]
    assert texts == [f"Stage train, step {step}: WT is found in no validation case." for step in (4, 8)]
    assert json.loads((tmp_path / "run" / "environment.json").read_text())["warnings"] == texts


# -------------------------------------------------------------------------------------------------------------- precision
def test_bf16_mixed_trains_close_to_full_precision(cohort: Path, tmp_path: Path) -> None:
    losses = {}
    for precision in ("32-true", "bf16-mixed"):
        write_config(cohort.parent / "config.yaml", values_for(cohort, steps=20, training={"precision": precision}))
        run = train_run(load_config(cohort.parent / "config.yaml"), tmp_path / precision)
        losses[precision] = torch.tensor([line["loss"] for line in lines(run.path, "step")])
        weights = run.method().state_dict().values()
        assert all(weight.dtype == torch.float32 and weight.isfinite().all() for weight in weights)
    full, mixed = losses["32-true"], losses["bf16-mixed"]
    assert mixed.isfinite().all() and not torch.equal(full, mixed)
    torch.testing.assert_close(mixed, full, rtol=0.03, atol=0.03)  # bfloat16 has 8 bits: 0.4 % for each number


def test_no_gradient_outlives_its_stage(cohort: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A frozen parameter with an old gradient would count in the norm that is clipped, but not after a resume."""
    register("tests.training.fakes")
    made: list[Method] = []
    frozen: list[int] = []
    clip = torch.nn.utils.clip_grad_norm_

    def building(config: RunConfig, problem: Problem) -> Method:
        made.append(build_method(config, problem))
        return made[-1]

    def clipping(parameters: list[torch.nn.Parameter], limit: float) -> torch.Tensor:
        assert all(p.requires_grad for p in parameters)
        still = [p for p in made[-1].parameters() if not p.requires_grad]
        frozen.append(len(still))
        assert all(p.grad is None for p in still)
        return clip(parameters, limit)

    monkeypatch.setattr("comodal.training.train.build_method", building)
    monkeypatch.setattr(torch.nn.utils, "clip_grad_norm_", clipping)
    train_run(config_for(cohort, "two-stage"), tmp_path / "run")
    assert max(frozen) > min(frozen), "the second stage freezes what the first has trained"
