"""Who encodes what and who hears whom, row by row: what is absent is never read, in value and in gradient."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from comodal.batch import Batch
from comodal.method import Problem
from comodal.modality import Modality, Target
from comodal.networks.assignment import Share, share_out
from comodal.networks.message_passing import Gate, level_channels
from comodal.networks.segmentors import Heard, Segmentors, count_classes, spread_rows
from comodal.testing import make_batch, poison

SEQUENCES = ("flair", "t1", "t2")
REGIONS = Target("seg", "regions", ("WT", "TC"))
ORGANS = Target("organs", "labels", ("background", "liver", "spleen"))
LEVELS = 2
JOINED = {"flair+t1": ["WT"], "t2": ["TC"], "t1": []}


def built(assignment: Mapping[str, Sequence[str]] | None = None, *, dims: int = 2, **more: Any) -> Segmentors:
    torch.manual_seed(0)
    problem = Problem(tuple(Modality(n) for n in SEQUENCES), (REGIONS,), dims, (8, 4, 8)[:dims])
    shares = share_out(problem, assignment)

    def gate(channels: int) -> Gate:
        return Gate(dims, channels, len(shares) - 1, norm="instance")

    options: dict[str, Any] = {"filters": level_channels(4, LEVELS), "norm": "instance", "dilation": 1, "gate": gate, **more}
    return Segmentors(problem, shares, **options)


def share_of(network: Segmentors, name: str) -> Share:
    return next(share for share in network.shares if share.name == name)


def rows(*names: str) -> Tensor:
    """ "flair t2" is a row with these two."""
    return torch.tensor([[name in row.split() for name in SEQUENCES] for row in names])


def batch_of(network: Segmentors, *names: str) -> Batch:
    return make_batch(network.problem, len(names), present=rows(*names))


def heard(network: Segmentors, name: str, batch: Batch, **more: Any) -> Heard:
    return network.listen(share_of(network, name), network.generate(batch), batch.present, **more)


# ------------------------------------------------------------------------------------------------ parts
def test_who_owns_nothing_has_a_message_generator_alone() -> None:
    network = built(JOINED)
    assert list(network.generators) == ["flair+t1", "t1", "t2"]
    assert list(network.gates) == list(network.predictors) == ["flair+t1", "t2"]
    assert [share.name for share in network.others(share_of(network, "t2"))] == ["flair+t1", "t1"]
    assert [share.name for share in network.others(share_of(network, "flair+t1"))] == ["t1", "t2"]
    first = next(network.generators["flair+t1"].parameters())
    assert first.shape[1] == 2  # both images side by side
    gates = network.gates["t2"]
    assert isinstance(gates, nn.ModuleList) and [gate.channels for gate in gates] == [4, 8]


def test_a_segmentor_needs_all_its_images() -> None:
    network = built(JOINED)
    present = rows("flair t1 t2", "flair t2", "t1 t2", "t2")
    assert network.there(share_of(network, "flair+t1"), present).tolist() == [True, False, False, False]
    assert network.there(share_of(network, "t1"), present).tolist() == [True, False, True, False]


def test_classes_are_counted_over_targets() -> None:
    assert (count_classes((REGIONS, ORGANS)), count_classes((ORGANS,)), count_classes(())) == (5, 3, 0)


def test_rows_are_spread_over_the_batch() -> None:
    some = torch.arange(4.0).reshape(2, 2).requires_grad_()
    found = spread_rows(some, torch.tensor([0, 3]), 4)
    assert found.tolist() == [[0, 1], [0, 0], [0, 0], [2, 3]]
    found.sum().backward()
    assert some.grad is not None and some.grad.tolist() == [[1, 1], [1, 1]]
    assert spread_rows(some, torch.tensor([0, 1]), 2) is some


# ------------------------------------------------------------------------------------------------ what is sent
@pytest.mark.parametrize("dims", [2, 3])
def test_each_segmentor_sends_what_it_makes_of_its_own_images(dims: int) -> None:
    network = built(dims=dims)
    batch = batch_of(network, "flair t1", "t1", "flair t2")
    found = network.generate(poison(batch))
    assert set(found) == set(SEQUENCES)
    patch = network.problem.patch
    for name in SEQUENCES:
        at = batch.is_present(name).nonzero().flatten()
        full, messages = network.generators[name](batch.image(name)[at])
        own = network.predictor(share_of(network, name)).own(full, messages)
        expected = [*[m.mean(dim=1, keepdim=True) for m in messages], *messages, *own]
        assert len(found[name]) == len(expected) == 2 * LEVELS + LEVELS + 1
        for part, plain in zip(found[name], expected, strict=True):
            torch.testing.assert_close(part[at], plain, rtol=1e-5, atol=1e-5)
            absent = part[~batch.is_present(name)]
            assert not absent.any()  # zeros, and not NaN
        assert [tuple(m.shape[2:]) for m in found[name][LEVELS : 2 * LEVELS]] == [
            tuple(n // 2**s for n in patch) for s in (1, 2)
        ]


def test_what_no_row_has_is_not_encoded() -> None:
    network = built(JOINED)
    assert set(network.generate(batch_of(network, "t1", "t1"))) == {"t1"}
    assert len(network.generate(batch_of(network, "t1"))["t1"]) == 2 * LEVELS  # it has no predictor
    assert set(network.generate(batch_of(network, "flair t2", "t2"))) == {"t2"}


# ------------------------------------------------------------------------------------------------ what is heard
def test_each_row_is_as_if_it_were_alone() -> None:
    network = built()
    batch = batch_of(network, "flair t1 t2", "flair", "t1 t2", "flair t2")
    for name in SEQUENCES:
        found = heard(network, name, poison(batch))
        assert found.rows.tolist() == batch.is_present(name).nonzero().flatten().tolist()
        senders = [other for other in SEQUENCES if other != name]
        for at, row in enumerate(found.rows.tolist()):
            assert found.senders[at].tolist() == [bool(batch.is_present(other)[row]) for other in senders]
            alone = heard(network, name, batch.rows([row]))
            torch.testing.assert_close(found.features[at], alone.features[0], rtol=1e-4, atol=1e-4)


def test_without_its_images_it_has_no_rows() -> None:
    network = built()
    found = heard(network, "t2", batch_of(network, "flair", "t1"))
    assert found.rows.shape == (0,) and found.senders.shape == (0, 2) and found.complements == (None, None)
    assert found.features.shape == (0, 4, 8, 4)


def test_encodings_of_absent_rows_are_not_read() -> None:
    network = built()
    batch = batch_of(network, "flair t1", "t1", "flair t2", "flair")
    encoded = network.generate(batch)
    junk = {}
    for name, encodings in encoded.items():
        there = batch.is_present(name)
        junk[name] = tuple(
            torch.where(there.reshape(-1, *[1] * (part.ndim - 1)), part, torch.nan).detach().requires_grad_()
            for part in encodings
        )
    for share in network.shares:
        plain = network.listen(share, encoded, batch.present)
        found = network.listen(share, junk, batch.present)
        assert torch.equal(found.features, plain.features)
        found.features.sum().backward()
    for part in [part for encodings in junk.values() for part in encodings]:
        assert part.grad is None or bool(part.grad.isfinite().all())


def test_only_what_is_kept_is_heard() -> None:
    network = built()
    batch = batch_of(network, "flair t1 t2", "flair t1 t2", "flair t1")
    kept = torch.tensor([[True, False], [False, True], [True, True]])
    found = heard(network, "flair", batch, kept=kept)
    assert found.senders.tolist() == [[True, False], [False, True], [True, False]]
    gone = heard(network, "flair", batch.restrict(rows("flair t1", "flair t2", "flair t1")))
    torch.testing.assert_close(found.features, gone.features)


def test_without_gates_nobody_hears_anybody() -> None:
    network = built(gate=None)
    batch = batch_of(network, "flair t1 t2", "flair")
    found = heard(network, "flair", batch)
    assert not network.gates and found.complements == (None, None) and not found.senders.any()
    alone = heard(network, "flair", batch.keep(["flair"]))
    assert torch.equal(found.features, alone.features)


@pytest.mark.parametrize("detach", [False, True])
def test_what_one_learns_teaches_the_encoders_of_others(detach: bool) -> None:
    network = built(detach=detach)
    heard(network, "flair", batch_of(network, "flair t1 t2", "flair t1 t2")).features.square().sum().backward()
    reached = {
        f"{kind}.{name}"
        for kind, group in (("generators", network.generators), ("gates", network.gates), ("predictors", network.predictors))
        for name, module in group.items()
        if any(p.grad is not None and bool(p.grad.any()) for p in module.parameters())
    }
    others = set() if detach else {"generators.t1", "generators.t2"}
    assert reached == {"generators.flair", "gates.flair", "predictors.flair"} | others


def test_a_tap_sees_the_finest_level_alone() -> None:
    network = built()
    seen: list[tuple[int, tuple[int, ...]]] = []

    def tap(sender: int, kappa: Tensor) -> Tensor:
        seen.append((sender, tuple(kappa.shape)))
        return kappa

    heard(network, "t1", batch_of(network, "flair t1 t2", "t1 t2", "t2"), tap=tap)
    assert seen == [(0, (2, 4, 4, 2)), (1, (2, 4, 4, 2))]


def test_noise_is_drawn_for_each_sender_of_each_level() -> None:
    network = built()
    asked: list[tuple[int, tuple[int, ...]]] = []

    def noise(sender: int, mean: Tensor) -> Tensor:
        asked.append((sender, tuple(mean.shape[1:])))
        return torch.zeros_like(mean)

    batch = batch_of(network, "flair t1 t2")
    found = heard(network, "flair", batch, noise=noise)
    assert asked == [(0, (4, 4, 2)), (1, (4, 4, 2)), (0, (8, 2, 1)), (1, (8, 2, 1))]
    torch.testing.assert_close(found.features, heard(network, "flair", batch).features)  # noise of 0 is the mean
