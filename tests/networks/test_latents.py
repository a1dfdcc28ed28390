"""Latents of modalities of any kind: absent rows are never put through a network, and neither form of fusion reads them."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from comodal.batch import Batch
from comodal.errors import ConfigError
from comodal.method import Problem
from comodal.modality import Modality, Target
from comodal.networks.encoders import ImageEncoder
from comodal.networks.latents import BagEncoder, EncoderConfig, Latents
from comodal.networks.texts import TextEncoder
from comodal.testing import make_batch
from comodal.testing.batches import padded, poison

PHOTO, SCAN = Modality("photo", "image", 2, 3, grid="photo"), Modality("scan", "image", 3, 1, grid="scan")
TILES, CELLS = Modality("tiles", "bag", 2, 3, grid="tiles"), Modality("cells", "bag", 0, 5)
BLOOD = Modality("blood", "features", 0, 3)
REPORT = Modality("report", "text", 0)
T1, T2 = Modality("t1", channels=2), Modality("t2")
GRADE = Target("grade", "class", ("low", "high"))
FAST: dict[str, Any] = {
    "encoder": "resnet10-quarter",
    "slices": "mean",
    "bag": 6,
    "attention": 4,
    "bag_dropout": 0.0,
    "words": 4,
    "text_channels": 5,
}


def problem_of(*modalities: Modality) -> Problem:
    return Problem(modalities, (GRADE,), 3, patches={"photo": (33, 33), "scan": (8, 8, 3), "grid": (12, 12, 4)}, vocabulary=8)


def latents_of(problem: Problem, fusion: Any = "latents", **settings: Any) -> Latents:
    torch.manual_seed(0)
    return Latents(problem, problem.names, EncoderConfig(**{**FAST, **settings}), fusion=fusion)


def some(problem: Problem, *rows: tuple[str, ...], seed: int = 0) -> Batch:
    """A batch whose rows have these modalities."""
    return make_batch(problem, len(rows), seed=seed, present=torch.tensor([[n in row for n in problem.names] for row in rows]))


EVERY = problem_of(PHOTO, SCAN, TILES, CELLS, BLOOD, REPORT)
ROWS = (("photo", "tiles"), ("photo", "scan", "blood", "report"), ("tiles", "cells", "scan"), ("photo", "cells", "report"))


def columns(batch: Batch) -> dict[str, Tensor]:
    return {name: batch.is_present(name) for name in batch.modalities}


# ------------------------------------------------------------------------------------------------------- sizes
def test_sizes_are_those_of_the_encoders_in_canonical_order() -> None:
    latents = latents_of(EVERY)
    assert latents.sizes == {"photo": 128, "scan": 128, "tiles": 6, "cells": 6, "blood": 3, "report": 5} and latents.size == 276
    assert latents_of(problem_of(BLOOD), vector=7).sizes == {"blood": 7}
    found = latents.encode(make_batch(EVERY, 3))
    assert {name: tuple(value.shape) for name, value in found.items()} == {n: (3, s) for n, s in latents.sizes.items()}


def test_encoders_by_modality() -> None:
    latents = latents_of(problem_of(PHOTO, SCAN), encoder={"photo": "resnet10-quarter", "scan": "resnet10"})
    assert latents.sizes == {"photo": 128, "scan": 512}
    with pytest.raises(
        ConfigError, match=r"method.encoder must name modalities of the problem; got 'foto'. Did you mean photo"
    ):
        latents_of(problem_of(PHOTO, SCAN), encoder={"foto": "resnet10"})


def test_a_report_is_read_as_a_whole_and_its_weights_may_be_of_others() -> None:
    latents = latents_of(problem_of(REPORT)).eval()
    batch = make_batch(problem_of(REPORT), 3)
    encoder = latents.encoders["report"]
    assert isinstance(encoder, TextEncoder) and latents.nonnegative
    assert torch.equal(latents.encode(batch)["report"], encoder.report(batch.text("report"))[0])
    assert latents.pretrained({}, "encoder") == {}
    frozen = latents_of(problem_of(REPORT, BLOOD), vectors="glove.txt")
    assert frozen.pretrained({}, "encoder") == {"encoder.encoders.report.vectors": "glove.txt"}


# ------------------------------------------------------------------------------------------------------- absent rows
def test_absent_rows_are_zero_and_what_no_row_has_is_left_out() -> None:
    latents, batch = latents_of(EVERY).eval(), some(EVERY, *ROWS)
    found = latents.encode(batch)
    for name, value in found.items():
        there = batch.is_present(name)
        assert not bool(value[~there].any()) and bool(value[there].abs().sum(dim=1).gt(0).all()), name
    assert set(latents.encode(batch.rows([0, 3]))) == {"photo", "tiles", "cells", "report"}


@pytest.mark.parametrize("training", [True, False], ids=["training", "eval"])
def test_what_stands_in_absent_rows_changes_no_latent_gradient_or_running_statistic(training: bool) -> None:
    batch = some(EVERY, *ROWS)
    found = []
    for given in (batch, poison(batch)):
        latents = latents_of(EVERY).train(training)
        joined = latents.join(latents.encode(given), columns(given))
        joined.square().sum().backward()
        gradients = [p.grad for p in latents.parameters() if p.grad is not None]
        found.append([joined.detach(), *gradients, *latents.buffers()])
    assert len(found[0]) == len(found[1])
    assert all(torch.equal(a, b) and bool(torch.isfinite(a.float()).all()) for a, b in zip(*found, strict=True))


def test_running_statistics_are_those_of_the_rows_that_are_there() -> None:
    batch = some(EVERY, *ROWS)
    mixed, alone = latents_of(EVERY).train(), latents_of(EVERY).train()
    mixed.encode(batch)
    alone.encode(batch.rows([0, 1, 3]).keep(["photo"]))
    for (name, a), b in zip(mixed.encoders["photo"].named_buffers(), alone.encoders["photo"].buffers(), strict=True):
        torch.testing.assert_close(a, b, msg=name)
    unseen = latents_of(EVERY).train()
    before = [buffer.clone() for buffer in unseen.buffers()]
    unseen.encode(some(EVERY, ("blood",), ("cells",)))
    assert all(torch.equal(a, b) for a, b in zip(before, unseen.buffers(), strict=True))


def test_a_latent_does_not_depend_on_the_other_rows_nor_on_padding() -> None:
    latents, batch = latents_of(EVERY).eval(), some(EVERY, *ROWS)
    whole = latents.join(latents.encode(batch), columns(batch))
    for row in range(4):
        one = batch.rows([row])
        torch.testing.assert_close(latents.join(latents.encode(one), columns(one))[0], whole[row], atol=1e-5, rtol=1e-5)
    longer = padded(batch)
    torch.testing.assert_close(latents.join(latents.encode(longer), columns(longer)), whole, atol=1e-5, rtol=1e-5)


def test_join_puts_latents_in_order_and_reads_no_absent_row() -> None:
    problem = problem_of(CELLS, BLOOD)
    latents = latents_of(problem)
    present = {"cells": torch.tensor([True, False]), "blood": torch.tensor([False, True])}
    given = {"cells": torch.ones(2, 6), "blood": torch.full((2, 3), 2.0)}
    given["cells"][1] = given["blood"][0] = float("nan")
    assert latents.join(given, present).tolist() == [[1.0] * 6 + [0.0] * 3, [0.0] * 6 + [2.0] * 3]
    assert latents.join({"blood": given["blood"]}, present).tolist()[1] == [0.0] * 6 + [2.0] * 3
    assert latents.join({}, present).tolist() == [[0.0] * 9] * 2  # nothing was encoded


# ------------------------------------------------------------------------------------------------------- channels
def test_channels_of_one_network_need_every_image_of_a_row() -> None:
    problem = problem_of(T1, T2)
    latents, batch = latents_of(problem, "channels").eval(), some(problem, ("t1", "t2"), ("t1",), ("t1", "t2"), ("t2",))
    assert latents.sizes == {"t1": 128, "t2": 0} and list(latents.encoders) == ["t1"]
    first = next(p for p in latents.parameters() if p.ndim > 2)
    assert first.shape[1] == 3  # two of t1, one of t2
    found = latents.encode(batch)
    assert found["t2"].shape == (4, 0) and found["t1"].abs().sum(dim=1).gt(0).tolist() == [True, False, True, False]
    encoder = latents.encoders["t1"]
    torch.testing.assert_close(found["t1"][[0, 2]], encoder(torch.cat([batch.image("t1"), batch.image("t2")], 1)[[0, 2]]))
    assert torch.equal(latents.encode(poison(batch))["t1"], found["t1"])
    assert latents.encode(some(problem, ("t1",), ("t2",))) == {}


def test_one_image_has_no_channels_to_fuse() -> None:
    latents = latents_of(problem_of(T2), "channels")
    assert latents.fusion == "latents" and latents.sizes == {"t2": 128}


@pytest.mark.parametrize("others", [(T1, PHOTO), (T1, BLOOD), (CELLS, BLOOD)], ids=["grids", "kinds", "no image"])
def test_what_cannot_be_channels_is_refused(others: tuple[Modality, ...]) -> None:
    with pytest.raises(ConfigError, match="be images of one grid to be channels of one network"):
        latents_of(problem_of(*others), "channels")


# ------------------------------------------------------------------------------------------------------- bags and slices
def test_the_latent_of_a_bag_is_the_weighted_mean_of_its_embeddings() -> None:
    torch.manual_seed(0)
    encoder = BagEncoder(CELLS, EncoderConfig(**FAST), "resnet10-quarter").eval()
    batch = make_batch(problem_of(CELLS), 3)
    bag = batch.bag("cells")
    latent, weights, embedded = encoder(bag.items, bag.valid)
    assert latent.shape == (3, 6) and weights.shape == bag.valid.shape and embedded.shape == (*bag.valid.shape, 6)
    for row in range(3):
        wanted = torch.zeros(6)
        for n in bag.valid[row].nonzero().flatten().tolist():
            wanted = wanted + weights[row, n] * torch.relu(encoder.embed[0](bag.items[row, n]))
        torch.testing.assert_close(latent[row], wanted)
    assert not bool(embedded[~bag.valid].any())
    none = encoder(bag.items, torch.zeros_like(bag.valid))
    assert not bool(none[0].any()) and none[0].shape == (3, 6)


def test_tiles_of_a_bag_have_the_encoder_of_pictures() -> None:
    torch.manual_seed(0)
    encoder = BagEncoder(TILES, EncoderConfig(**FAST), "resnet10-quarter").eval()
    assert isinstance(encoder.items, ImageEncoder) and encoder.items.features == 128
    bag = make_batch(problem_of(TILES), 2).bag("tiles")
    found = encoder.embedded(bag.items, bag.valid)
    torch.testing.assert_close(found[0, 1], encoder.embed(encoder.items(bag.items[:1, 1]))[0], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("slices", ["mean", "attention"])
def test_a_volume_is_read_slice_by_slice(slices: Any) -> None:
    torch.manual_seed(0)
    encoder = ImageEncoder("resnet10-quarter", 3, 1, slices=slices).eval()
    volume = torch.randn(2, 1, 9, 8, 4)
    found = encoder(volume)
    flat = torch.stack([encoder.network(volume[..., z]) for z in range(4)], dim=1)  # (B, Z, F)
    weights = torch.full((2, 4, 1), 0.25) if slices == "mean" else nn.Module.__call__(encoder.weigh, flat).softmax(dim=1)
    torch.testing.assert_close(found, (weights * flat).sum(dim=1), atol=1e-5, rtol=1e-5)
    picture = ImageEncoder("resnet10-quarter", 2, 1, slices=slices)
    assert not picture.by_slice and picture.weigh is None
