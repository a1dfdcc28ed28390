"""A stage on encodings reads each case once, and another method or configuration never finds the encodings of this one."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.training.fakes import TwoStage, TwoStageConfig, config_for, problem, register

from comodal.data import sampling
from comodal.training.checking import stage_cases
from comodal.training.encoded import EncodedDraws, frozen_hash
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


def test_the_key_knows_the_method_and_its_configuration() -> None:
    one, two = TwoStage(problem(), TwoStageConfig()), TwoStage(problem(), TwoStageConfig(second=7))
    other = Renamed(problem(), TwoStageConfig())
    two.load_state_dict(one.state_dict())
    other.load_state_dict(one.state_dict())
    stage = one.stages()[1]
    keys = [frozen_hash(method, stage) for method in (one, two, other)]
    assert len(set(keys)) == 3 and frozen_hash(one, stage) == keys[0]
