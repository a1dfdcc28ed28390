from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch

from comodal.batch import Batch, Sample, collate
from comodal.errors import ConfigError, DataError
from comodal.modality import Modality
from comodal.training.feeding import Feed

VALUE = (Modality("v", kind="features", spatial_dims=0, channels=1),)


class Numbers:
    """Draw i of epoch e is the number 100 e + i."""

    def __init__(self, length: int) -> None:
        self.length, self.epoch = length, 0

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> Sample:
        number = 100 * self.epoch + index
        return Sample(str(number), "g", {"v": torch.tensor([float(number)])})


def joined(samples: Sequence[Sample]) -> Batch:
    return collate(samples, VALUE)


def seen(feed: Feed, epoch: int, start: int = 0) -> list[list[int]]:
    return [[int(i) for i in batch.ids] for batch in feed.batches(epoch, start)]


def test_steps_take_the_draws_in_turn() -> None:
    feed = Feed(Numbers(7), joined, 2)
    assert feed.steps_per_epoch == 3
    assert seen(feed, 0) == [[0, 1], [2, 3], [4, 5]]  # what is left over takes its chance in the next epoch's order
    assert seen(feed, 2) == [[200, 201], [202, 203], [204, 205]]


def test_a_resumed_epoch_goes_on_in_the_middle() -> None:
    feed = Feed(Numbers(8), joined, 2)
    assert seen(feed, 1, start=2) == seen(feed, 1)[2:]


@pytest.mark.parametrize("world", [2, 3])
def test_processes_together_see_what_one_sees(world: int) -> None:
    one = seen(Feed(Numbers(13), joined, 6), 1)
    parts = [seen(Feed(Numbers(13), joined, 6, rank=rank, world=world), 1) for rank in range(world)]
    assert [[i for part in step for i in part] for step in zip(*parts, strict=True)] == one
    assert all(len(batch) == 6 // world for part in parts for batch in part)


def test_fewer_draws_than_a_batch_are_repeated() -> None:
    feed = Feed(Numbers(3), joined, 4)
    assert feed.steps_per_epoch == 1 and seen(feed, 0) == [[0, 1, 2, 0]]


def test_a_validation_sees_every_draw_once() -> None:
    assert seen(Feed(Numbers(5), joined, 2, every=True), 0) == [[0, 1], [2, 3], [4]]
    assert seen(Feed(Numbers(3), joined, 4, every=True), 0) == [[0, 1, 2]]


def test_a_batch_that_cannot_be_divided_is_refused() -> None:
    with pytest.raises(ConfigError) as caught:
        Feed(Numbers(8), joined, 5, world=2)
    text = "training.batch_size must be divisible by the number of processes (2); got 5. Choose 4."
    assert str(caught.value) == text


class Broken(Numbers):
    def __getitem__(self, index: int) -> Sample:
        raise DataError("cell must be whole; got half. Copy it again.")


@pytest.mark.parametrize("workers", [0, 1])
def test_a_file_that_cannot_be_read_is_one_sentence_whoever_reads_it(workers: int) -> None:
    with pytest.raises(DataError) as caught:
        seen(Feed(Broken(4), joined, 2, workers=workers), 0)
    assert str(caught.value) == "cell must be whole; got half. Copy it again."


def test_workers_change_nothing() -> None:
    assert seen(Feed(Numbers(8), joined, 2, workers=2), 1) == seen(Feed(Numbers(8), joined, 2), 1)
