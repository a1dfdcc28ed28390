"""Stages on encodings read each case once, and another method or configuration never finds the encodings of this one."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tests.training.fakes import TwoStage, TwoStageConfig, config_for, problem, register

from comodal.batch import Sample, Value
from comodal.data import sampling
from comodal.training.checking import stage_cases
from comodal.training.encoded import EncodedDraws, Seen, collate_encoded, frozen_hash
from comodal.training.train import make_feed, train_run


class Renamed(TwoStage):
    """The same weights under another name."""


def test_each_case_is_read_once(cohort: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    register("tests.training.fakes")
    run = train_run(config_for(cohort, "two-stage"), tmp_path / "run")
    method, stage = run.method(), run.method().stages()[1]
    cases = stage_cases(run.problem, run.cohort, run.splits["train"], stage=stage)
    feed = make_feed(run, method, stage, preparer=run.preparer(cache=run.cache), cases=cases, augment=False)
    assert isinstance(feed.draws, EncodedDraws)
    read: list[str] = []
    getitem = sampling.Draws.__getitem__

    def spy(self: sampling.Draws, index: int) -> object:
        sample = getitem(self, index)
        read.append(sample.id)
        return sample

    monkeypatch.setattr(sampling.Draws, "__getitem__", spy)
    orders = [[i for batch in feed.batches(epoch) for i in batch.ids] for epoch in range(6)]
    assert sorted(read) == sorted(case.id for case in cases)  # four cases, six epochs
    assert all(sorted(order) == sorted(read) for order in orders) and len(set(map(tuple, orders))) > 1
    plain = sampling.Draws(run.preparer(), sorted(read), (16, 16), sampler="whole", spatial_dims=2, augment="none")
    again = EncodedDraws(plain, method, stage, problem=run.problem, folder=tmp_path / "other")
    for epoch in (0, 1):  # what memory hands out is the draw that was asked for
        again.set_epoch(epoch)
        assert [again[i].id for i in range(4)] == [plain.cases[d] for d in plain.order()]


def test_a_later_stage_on_the_same_encoders_reads_no_case_again(
    cohort: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    register("tests.training.fakes")
    run = train_run(config_for(cohort, "two-stage"), tmp_path / "run")
    method, stage = run.method(), run.method().stages()[1]
    names = run.splits["train"]

    def draws(folder: str, seen: Seen) -> EncodedDraws:
        plain = sampling.Draws(run.preparer(), names, (16, 16), sampler="whole", spatial_dims=2, augment="none")
        return EncodedDraws(plain, method, stage, problem=run.problem, folder=tmp_path / folder, seen=seen)

    seen: Seen = {}
    first = draws("one", seen)
    made = {sample.id: sample.inputs for sample in (first[i] for i in range(len(first)))}
    monkeypatch.setattr(method, "encode", None)  # what is asked again must be known
    monkeypatch.setattr(sampling.Draws, "__getitem__", None)
    for later in (draws("one", seen), draws("another folder", seen)):
        later.set_epoch(3)
        for sample in later.__getitems__(list(range(len(later)))):
            assert sample.inputs is made[sample.id]
    with torch.no_grad():
        next(p for name, p in method.named_parameters() if not stage.trains(name)).add_(1.0)
    assert draws("one", seen).seen == {} == seen  # other encoders: nothing that they did not make is kept


def test_an_encoding_does_not_depend_on_the_precision_in_which_it_is_asked(cohort: Path, tmp_path: Path) -> None:
    """A validation asks within autocast, and its encodings are kept."""
    register("tests.training.fakes")
    run = train_run(config_for(cohort, "two-stage"), tmp_path / "run")
    method, stage = run.method(), run.method().stages()[1]

    def first(folder: str) -> dict[str, Value]:
        plain = sampling.Draws(run.preparer(), run.splits["train"], (16, 16), sampler="whole", spatial_dims=2, augment="none")
        draws = EncodedDraws(plain, method, stage, problem=run.problem, folder=tmp_path / folder)
        return dict(draws[0].inputs)

    wanted = first("one")
    with torch.autocast("cpu", torch.bfloat16):
        found = first("two")
    for name, value in wanted.items():
        other = found[name]
        assert isinstance(value, torch.Tensor) and isinstance(other, torch.Tensor)
        assert value.dtype == other.dtype == torch.float32
        assert torch.equal(value, other)


def test_a_damaged_encoding_is_made_anew(cohort: Path, tmp_path: Path) -> None:
    register("tests.training.fakes")
    run = train_run(config_for(cohort, "two-stage"), tmp_path / "run")
    method, stage = run.method(), run.method().stages()[1]

    def first() -> dict[str, Value]:
        plain = sampling.Draws(
            run.preparer(), run.splits["train"][:1], (16, 16), sampler="whole", spatial_dims=2, augment="none"
        )
        found = EncodedDraws(plain, method, stage, problem=run.problem, folder=tmp_path / "kept")[0]
        return dict(found.inputs)

    made = first()
    files = sorted((tmp_path / "kept").iterdir())
    whole = {file: file.read_bytes() for file in files}
    assert files and not any(file.name.endswith(".partial") for file in files)
    for damage in (b"", whole[files[0]][:-3], b"no safetensors"):
        files[0].write_bytes(damage)
        again = first()
        assert all(torch.equal(one, other) for n in made for one, other in zip(parts(made[n]), parts(again[n]), strict=True))
        assert {file: file.read_bytes() for file in files} == whole


def parts(value: Value) -> tuple[torch.Tensor, ...]:
    assert isinstance(value, torch.Tensor | tuple)
    return value if isinstance(value, tuple) else (value,)


def test_tensors_and_tuples_are_put_together_alike() -> None:
    rng = torch.Generator().manual_seed(0)
    given: list[dict[str, Value]] = [
        {"a": torch.randn(3, generator=rng)},
        {"a": torch.randn(3, generator=rng), "b": torch.ones(2, 4)},
    ]
    plain = collate_encoded([Sample(str(k), str(k), inputs=inputs) for k, inputs in enumerate(given)], problem())
    wrapped = [{name: (value,) for name, value in inputs.items() if isinstance(value, torch.Tensor)} for inputs in given]
    other = collate_encoded([Sample(str(k), str(k), inputs=inputs) for k, inputs in enumerate(wrapped)], problem())
    assert plain.present.tolist() == other.present.tolist() == [[True, False], [True, True]]
    for name in ("a", "b"):
        own, theirs = plain.inputs[name], other.inputs[name]
        assert isinstance(own, torch.Tensor) and isinstance(theirs, tuple) and torch.equal(own, theirs[0])
    assert plain.ids == other.ids == ("0", "1")


def test_the_key_knows_the_method_and_its_configuration() -> None:
    one, two = TwoStage(problem(), TwoStageConfig()), TwoStage(problem(), TwoStageConfig(second=7))
    other = Renamed(problem(), TwoStageConfig())
    two.load_state_dict(one.state_dict())
    other.load_state_dict(one.state_dict())
    stage = one.stages()[1]
    keys = [frozen_hash(method, stage) for method in (one, two, other)]
    assert len(set(keys)) == 3 and frozen_hash(one, stage) == keys[0]
