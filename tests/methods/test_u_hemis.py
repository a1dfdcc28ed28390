"""`u-hemis` against the published network: sizes, invariances, subsets and losses."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, instance_norm

from comodal.batch import Batch, Features
from comodal.errors import ConfigError
from comodal.method import Problem
from comodal.methods.u_hemis import Block, UHeMIS, UHeMISConfig
from comodal.modality import Modality, Target
from comodal.testing import check_method, make_batch, poison

SEQUENCES = ("flair", "t1", "t1ce", "t2")
REGIONS = Target("seg", "regions", ("WT", "TC"))
LABELS = Target("organs", "labels", ("background", "liver", "spleen"))
SMALL = UHeMISConfig(width=4, levels=2)


def problem(*targets: Target, names: tuple[str, ...] = SEQUENCES[:3], patch: tuple[int, ...] = (8, 8)) -> Problem:
    return Problem(tuple(Modality(name) for name in names), targets or (LABELS,), len(patch), patch)


def build(config: UHeMISConfig = SMALL, made_for: Problem | None = None) -> UHeMIS:
    torch.manual_seed(0)
    return UHeMIS(made_for or problem(), config)


@pytest.mark.parametrize(("patch", "target"), [((8, 8), LABELS), ((8, 4, 8), REGIONS)], ids=["2-D labels", "3-D regions"])
def test_it_keeps_every_promise(patch: tuple[int, ...], target: Target) -> None:
    check_method(UHeMIS, problem(target, patch=patch), SMALL)


def test_it_keeps_them_with_two_targets_and_the_other_draw_too() -> None:
    check_method(UHeMIS, problem(LABELS, REGIONS), SMALL.model_copy(update={"draw": "subset"}))


# ------------------------------------------------------------------------------------- the network
def test_numbers_of_parameters_without_scales_and_shifts() -> None:
    method = build(UHeMISConfig(), problem(REGIONS, names=SEQUENCES, patch=(16, 16, 16)))
    for encoder in method.encoders.values():
        kernels = [p for p in encoder.parameters() if p.ndim > 1]
        assert sum(p.numel() for p in kernels) == 111_464
        norms = sum(p.numel() for p in encoder.parameters()) - 111_464
        assert norms == 2 * sum(c + f for c, f in ((8, 8), (4, 16), (8, 32), (16, 64)))  # no convolution has a bias
    by_hand = 27 * ((64 + 32) * 32 + 32 * 16 + (16 + 16) * 16 + 16 * 8 + (8 + 8) * 8 + 8 * 4) + 4 * 2
    assert sum(p.numel() for p in method.decoder.parameters() if p.ndim > 1) == by_hand


@pytest.mark.parametrize("patch", [(16, 32), (16, 16, 32)])
def test_scales_and_logits(patch: tuple[int, ...]) -> None:
    made_for = problem(REGIONS, patch=patch)
    method = build(UHeMISConfig(width=4, levels=4), made_for).eval()
    batch = make_batch(made_for, 2)
    with torch.no_grad():
        scales = method.encode(batch)["t1"]
        prediction = method.predict(batch)
    shapes = [tuple(part.shape) for part in scales]
    assert shapes == [(2, 2 * 2**level, *(side // 2**level for side in patch)) for level in range(4)]
    assert prediction.probabilities["seg"].shape == (2, 2, *patch)


def test_group_normalisation_with_one_channel_a_group_is_instance_normalisation() -> None:
    block = Block(3, 4, 6)
    maps = torch.randn(2, 4, 5, 5, 5)
    assert torch.allclose(block[0](maps), instance_norm(maps), atol=1e-5)


def test_the_order_of_the_modalities_does_not_matter() -> None:
    first = build().eval()
    turned = problem(names=("t1ce", "flair", "t1"))
    second = UHeMIS(turned, SMALL).eval()
    second.load_state_dict(first.state_dict())  # weights are keyed by name
    batch = make_batch(problem(), 3, present=torch.tensor([[True, True, True], [True, False, True], [False, True, False]]))
    order = [batch.modalities.index(name) for name in turned.names]
    again = replace(batch, modalities=turned.names, present=batch.present[:, order])
    with torch.no_grad():
        one, two = first.predict(batch), second.predict(again)
    assert torch.allclose(one.probabilities["organs"], two.probabilities["organs"], atol=1e-4)
    assert torch.equal(one.used[:, order], two.used)


def test_two_copies_of_a_modality_say_what_one_says() -> None:
    method = build().eval()
    method.encoders["t1"].load_state_dict(method.encoders["flair"].state_dict())
    batch = make_batch(problem(), 2)
    twins = batch.with_inputs({**batch.inputs, "t1": batch.inputs["flair"]}).keep(["flair", "t1"])
    with torch.no_grad():
        one, two = method.predict(twins.keep(["flair"])), method.predict(twins)
    assert torch.allclose(one.probabilities["organs"], two.probabilities["organs"], atol=1e-6)


def test_one_modality_trains_without_a_gradient_through_its_variance() -> None:
    method = build()
    batch = make_batch(problem(), 2).keep(["t1"])
    skips: list[Tensor] = []
    method.decoder.register_forward_pre_hook(lambda _, inputs: skips.extend(inputs[0]))
    terms = method.losses(batch, method.stages()[0])
    torch.stack(list(terms.values())).sum().backward()
    assert all(skip[:, skip.shape[1] // 2 :].eq(0).all() for skip in skips)
    for name, parameter in method.named_parameters():
        if parameter.grad is not None:
            assert torch.isfinite(parameter.grad).all(), name
            assert not name.startswith("encoders.") or name.startswith("encoders.t1."), name


def test_nothing_absent_is_read() -> None:
    method = build().eval()
    batch = make_batch(problem(), 3, present=torch.tensor([[True, False, False], [True, True, False], [False, True, False]]))
    with torch.no_grad():
        assert torch.equal(method.predict(batch).probabilities["organs"], method.predict(poison(batch)).probabilities["organs"])
        assert set(method.encode(batch)) == {"flair", "t1"}


def test_a_patch_that_cannot_be_halved_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"data.patch must have sides divisible by 8 .*; got \(8, 12\)"):
        build(UHeMISConfig(), problem(patch=(8, 12)))


def test_an_odd_width_is_refused() -> None:
    with pytest.raises(ValueError, match="multiple of 2"):
        UHeMISConfig(width=5)


# ------------------------------------------------------------------------------------- training
def test_subsets_are_drawn_in_the_losses_and_not_in_predict(monkeypatch: pytest.MonkeyPatch) -> None:
    method = build()
    seen: list[Tensor] = []
    encode = method.encode

    def watched(batch: Batch) -> dict[str, Features]:
        seen.append(batch.present)
        return encode(batch)

    monkeypatch.setattr(method, "encode", watched)
    batch = make_batch(problem(), 32)
    torch.manual_seed(0)
    method.losses(batch, method.stages()[0])
    prediction = method.predict(batch)
    assert not seen[0].all() and seen[0].any(dim=1).all()
    assert seen[1].all() and prediction.used.all()


def test_losses_by_hand() -> None:
    method = build()
    last = method.decoder.last
    with torch.no_grad():
        for parameter, value in zip(last.parameters(), (torch.zeros(()), torch.tensor([0.0, 1.0, 2.0])), strict=True):
            parameter.copy_(value.expand(parameter.shape))
    batch = make_batch(problem(), 2)
    terms = method.losses(batch, method.stages()[0])
    assert set(terms) == {"dice/organs", "ce/organs"}
    labels = batch.targets["organs"].long()
    wide = torch.tensor([0.0, 1.0, 2.0]).reshape(1, 3, 1, 1).expand(2, 3, 8, 8)
    assert torch.allclose(terms["ce/organs"], cross_entropy(wide, labels))
    share = torch.tensor([0.0, 1.0, 2.0]).softmax(0)[1:]
    truth = torch.stack([(labels == k).sum() for k in (1, 2)]).float()
    assert torch.allclose(terms["dice/organs"], 1 - (2 * share * truth / (share * 128 + truth)).mean(), atol=1e-5)
