"""The networks of a CIML segmentor against a plain reading of Table 1: sizes, numbers of parameters, the same values."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import leaky_relu, softplus

from comodal.networks.message_passing import (
    LIMIT,
    Complement,
    Gate,
    MessageGenerator,
    Norm,
    Predictor,
    level_channels,
    side_by_side,
)

PATCH = {2: (16, 8), 3: (8, 16, 8)}
BOTH = pytest.mark.parametrize("dims", [2, 3])
NORMS = pytest.mark.parametrize("norm", ["instance", "batch"])


def normal(*shape: int, seed: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def count(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def parts(module: nn.Module) -> list[nn.Module]:
    assert isinstance(module, nn.Sequential)
    return list(module)


def stir(module: nn.Module, seed: int = 5) -> None:
    """Gives norms a scale and a shift of their own, so that none can stand in another's place."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for each in module.modules():
            if isinstance(each, nn.GroupNorm | nn.BatchNorm2d | nn.BatchNorm3d):
                each.weight.copy_(1 + 0.3 * torch.randn(each.weight.shape, generator=generator))
                each.bias.copy_(0.3 * torch.randn(each.bias.shape, generator=generator))


# ------------------------------------------------------------------------------------------------ message generator
@BOTH
@NORMS
@pytest.mark.parametrize("dilation", [1, 2])
def test_messages_halve_and_double(dims: int, norm: Norm, dilation: int) -> None:
    generator = MessageGenerator(dims, 1, level_channels(4, 4), norm=norm, dilation=dilation)
    full, messages = generator(normal(2, 1, *[32] * dims, seed=0))
    assert full.shape == (2, 4, *[32] * dims)
    assert [tuple(m.shape) for m in messages] == [(2, c, *[32 // 2**s] * dims) for s, c in enumerate((4, 8, 16, 32), 1)]


@pytest.mark.parametrize(("width", "expected"), [(4, 55_332), (8, 220_392), (16, 879_696), (24, 1_977_912), (32, 3_515_040)])
def test_a_message_generator_has_the_parameters_of_table_1(width: int, expected: int) -> None:
    with torch.device("meta"):
        assert count(MessageGenerator(3, 1, level_channels(width, 4), norm="batch", dilation=1)) == expected


def test_each_image_of_a_primary_is_a_channel() -> None:
    one, two = (MessageGenerator(3, c, [4], norm="instance", dilation=1) for c in (1, 2))
    assert count(two) - count(one) == 27 * 4


def test_its_norm_is_instance_normalisation_with_scale_and_shift() -> None:
    generator = MessageGenerator(3, 1, [4], norm="instance", dilation=1)
    stir(generator)
    conv, norm, _ = parts(generator.keep[0])
    plain = nn.InstanceNorm3d(4, affine=True)
    plain.load_state_dict(norm.state_dict())
    image = normal(2, 1, 6, 6, 4, seed=1)
    torch.testing.assert_close(generator(image)[0], leaky_relu(plain(conv(image)), 0.01), rtol=1e-5, atol=1e-5)


# ------------------------------------------------------------------------------------------------ gate
class PlainGate(nn.Module):
    """The gate as Table 1 lists it: K separate pairs of heads, and every message is heard."""

    def __init__(self, gate: Gate, senders: int) -> None:
        super().__init__()
        c, conv = gate.channels, nn.Conv2d if gate.dims == 2 else nn.Conv3d
        self.attention = gate.attention
        self.mu, self.sigma = (nn.ModuleList(conv(c, c, 1) for _ in range(senders)) for _ in range(2))
        for heads, grouped in ((self.mu, gate.mean), (self.sigma, gate.spreading)):
            assert grouped is not None
            for j, head in enumerate(heads):
                head.load_state_dict({name: value[j * c : (j + 1) * c] for name, value in grouped.state_dict().items()})

    def forward(self, local: Tensor, messages: Sequence[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        """mu_j and what the sigma heads say."""
        gated = list(messages)
        if self.attention is not None:
            weights = self.attention(torch.cat([x.mean(dim=1, keepdim=True) for x in (local, *messages)], dim=1))
            gated = [weights[:, j : j + 1] * m for j, m in enumerate(messages)]
        return [h(m) for h, m in zip(self.mu, gated, strict=True)], [h(m) for h, m in zip(self.sigma, gated, strict=True)]


def gate_and_inputs(dims: int, senders: int, **more: Any) -> tuple[Gate, Tensor, list[Tensor]]:
    torch.manual_seed(0)
    gate = Gate(dims, 4, senders, norm=more.pop("norm", "instance"), **more)
    stir(gate)
    local, *messages = (normal(3, 4, *PATCH[dims], seed=seed) for seed in range(senders + 1))
    return gate, local, messages


def call(gate: Gate, local: Tensor, messages: Sequence[Tensor], **more: Any) -> Complement:
    found = maybe(gate, local, messages, **more)
    assert found is not None
    return found


def maybe(gate: Gate, local: Tensor, messages: Sequence[Tensor], **more: Any) -> Complement | None:
    options = {"heard": torch.ones(len(local), len(messages), dtype=torch.bool), "noise": None, **more}
    pooled = [m.mean(dim=1, keepdim=True) for m in messages]
    found: Complement | None = gate(local, local.mean(dim=1, keepdim=True), messages, sender_pooled=pooled, **options)
    return found


def noise_of(sender: int, mean: Tensor) -> Tensor:
    return normal(*mean.shape, seed=100 + sender)


@BOTH
@NORMS
@pytest.mark.parametrize("attention", [True, False])
@pytest.mark.parametrize("senders", [1, 3])
def test_grouped_heads_are_separate_heads(dims: int, norm: Norm, attention: bool, senders: int) -> None:
    gate, local, messages = gate_and_inputs(dims, senders, norm=norm, attention=attention)
    means, raw = PlainGate(gate, senders)(local, messages)
    found = call(gate, local, messages, noise=noise_of)
    assert found.columns == tuple(range(senders)) and found.total.shape == local.shape
    kappas = []
    for j in range(senders):
        torch.testing.assert_close(found.means[j], means[j], rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(found.log_variances[j], raw[j].clamp(-10, 10), rtol=1e-5, atol=1e-5)
        kappas.append(means[j] + torch.exp(raw[j] / 2) * noise_of(j, means[j]))
    torch.testing.assert_close(found.total, torch.stack(kappas).sum(0), rtol=1e-5, atol=1e-5)
    quiet = call(gate, local, messages)
    assert quiet.log_variances == ()  # nobody asked
    torch.testing.assert_close(quiet.total, torch.stack(means).sum(0), rtol=1e-5, atol=1e-5)
    measured = call(gate, local, messages, measure=True)
    torch.testing.assert_close(measured.total, quiet.total, rtol=0, atol=0)
    torch.testing.assert_close(measured.log_variances, found.log_variances, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("senders", [1, 2, 3])
@pytest.mark.parametrize("c", [4, 32])
def test_a_gate_has_the_parameters_of_its_closed_form(senders: int, c: int) -> None:
    k = senders + 1
    attention = (27 * k * 4 * k + 4 * k) + 8 * k + (4 * k * senders + senders) + 2 * senders
    heads = 2 * senders * (c * c + c)
    assert count(Gate(3, c, senders, norm="batch")) == attention + heads
    assert count(Gate(3, c, senders, norm="batch", filtered=False)) == attention
    assert count(Gate(3, c, senders, norm="batch", attention=False)) == heads
    fused = Gate(3, c, senders, norm="batch", attention=False, filtered=False)
    assert count(fused) == 27 * k * c * c + c + 2 * c  # one convolution of everything, and its norm


@pytest.mark.parametrize(("width", "expected"), [(4, 15_852), (8, 40_692), (16, 139_332), (24, 303_252), (32, 532_452)])
def test_the_four_gates_of_a_segmentor(width: int, expected: int) -> None:
    with torch.device("meta"):
        assert sum(count(Gate(3, c, 3, norm="instance")) for c in level_channels(width, 4)) == expected


@BOTH
def test_an_attended_message_is_weighed_voxel_by_voxel(dims: int) -> None:
    gate, local, messages = gate_and_inputs(dims, 2, filtered=False)
    found = call(gate, local, messages)
    assert found.log_variances == () and gate.attention is not None
    pooled = torch.cat([x.mean(dim=1, keepdim=True) for x in (local, *messages)], dim=1)
    first, norm, act, second, last, _ = parts(gate.attention)
    weights = last(second(act(norm(first(pooled))))).sigmoid()
    assert weights.shape == (3, 2, *PATCH[dims])
    torch.testing.assert_close(found.total, weights[:, :1] * messages[0] + weights[:, 1:] * messages[1], rtol=1e-5, atol=1e-6)


@BOTH
@NORMS
def test_without_attention_and_filter_one_convolution_fuses(dims: int, norm: Norm) -> None:
    """Row "+Message" of Table 5: "one 3-D conv + BatchNorm + sigmoid" of the local embedding and the messages."""
    gate, local, messages = gate_and_inputs(dims, 2, norm=norm, attention=False, filtered=False)
    assert gate.fuse is not None and gate.mean is None and gate.attention is None
    conv, normed, _ = parts(gate.fuse)
    found = call(gate, local, messages)
    assert (found.columns, found.means, found.log_variances) == ((), (), ())
    torch.testing.assert_close(found.total, normed(conv(torch.cat([local, *messages], dim=1))).sigmoid())


def test_the_other_reading_of_sigma() -> None:
    gate, local, messages = gate_and_inputs(2, 2, spread="softplus")
    _, raw = PlainGate(gate, 2)(local, messages)
    found = call(gate, local, messages, measure=True)
    for j in range(2):
        torch.testing.assert_close(torch.exp(found.log_variances[j] / 2), softplus(raw[j]) + 1e-6, rtol=1e-5, atol=1e-6)


def test_log_variances_are_kept_within_limits() -> None:
    gate, local, messages = gate_and_inputs(2, 1)
    (found,) = call(gate, local, [1e4 * messages[0]], measure=True).log_variances
    assert [float(found.detach().min()), float(found.detach().max())] == [-LIMIT, LIMIT]


@BOTH
@NORMS
@pytest.mark.parametrize("average", [False, True])
@pytest.mark.parametrize("noise", [None, noise_of])
def test_who_is_not_heard_is_the_prior_mean(dims: int, norm: Norm, average: bool, noise: Any) -> None:
    """The whole computation on zeros in the place of what does not come, with its kappa masked."""
    senders = 3
    gate, local, messages = gate_and_inputs(dims, senders, norm=norm, average=average)
    for bits in ([[1, 0, 1]] * 3, [[1, 0, 0], [0, 0, 1], [1, 0, 1]], [[0, 0, 0], [1, 1, 1], [0, 1, 0]]):
        heard = torch.tensor(bits, dtype=torch.bool)
        given = [m * heard[:, j, None].reshape(-1, *[1] * (dims + 1)) for j, m in enumerate(messages)]
        means, raw = PlainGate(gate, senders)(local, given)
        kappas = torch.stack(means)
        if noise is not None:
            kappas = kappas + torch.exp(torch.stack(raw) / 2) * torch.stack([noise(j, means[j]) for j in range(senders)])
        mask = heard.t().reshape(senders, -1, *[1] * (dims + 1))
        expected = torch.where(mask, kappas, 0.0).sum(0)
        if average:
            expected = expected / mask.sum(0).clamp(min=1)
        found = call(gate, local, given, heard=heard, noise=noise)
        assert found.columns == tuple(j for j in range(senders) if heard[:, j].any())
        torch.testing.assert_close(found.total, expected, rtol=1e-5, atol=1e-5)


def test_where_nobody_is_heard_there_is_nothing() -> None:
    nobody = torch.zeros(3, 2, dtype=torch.bool)
    gate, local, messages = gate_and_inputs(2, 2)
    assert maybe(gate, local, messages, heard=nobody) is None


def test_a_tap_sees_each_kappa_and_gives_what_is_used() -> None:
    gate, local, messages = gate_and_inputs(2, 3)
    seen: dict[int, Tensor] = {}

    def tap(sender: int, kappa: Tensor) -> Tensor:
        seen[sender] = kappa
        return kappa * (sender + 1)

    heard = torch.tensor([[True, False, True], [True, False, False], [True, False, True]])
    found = call(gate, local, messages, heard=heard, tap=tap)
    assert sorted(seen) == [0, 2] and not seen[2][1].any()
    torch.testing.assert_close(found.total, seen[0] + 3 * seen[2])


# ------------------------------------------------------------------------------------------------ predictor
class PlainPredictor(nn.Module):
    """The decoder of Table 1 as it is printed: concatenate, then convolve."""

    def __init__(self, given: Predictor) -> None:
        super().__init__()
        self.given = given

    def forward(self, full: Tensor, messages: Sequence[Tensor], complements: Sequence[Tensor]) -> Tensor:
        given, levels = self.given, len(messages)
        gates = [torch.cat(pair, dim=1) for pair in zip(messages, complements, strict=True)]  # CIG at P/2, P/4, ...
        maps = gates[-1]
        for s in range(levels - 1, -1, -1):
            maps = given.up_normed[s](given.up[s](maps))
            maps = torch.cat([maps, gates[s - 1] if s else full], dim=1)
            maps = given.merge_normed[s](given.merge[s](maps))
        logits: Tensor = given.last(maps)
        return logits


def local_tensors(dims: int, filters: Sequence[int], rows: int = 2) -> tuple[Tensor, list[Tensor], list[Tensor]]:
    sides = [16] * dims if len(filters) > 3 else list(PATCH[dims])
    full = normal(rows, filters[0], *sides, seed=1)
    each = [(rows, c, *[n // 2**s for n in sides]) for s, c in enumerate(filters, 1)]
    messages, complements = ([normal(*shape, seed=10 * k + s) for s, shape in enumerate(each)] for k in (1, 2))
    return full, messages, complements


@BOTH
@NORMS
@pytest.mark.parametrize("levels", [1, 2, 4])
def test_split_convolutions_are_those_of_table_1(dims: int, norm: Norm, levels: int) -> None:
    torch.manual_seed(0)
    filters = level_channels(4, levels)
    predictor = Predictor(dims, filters, 2, norm=norm).double()
    stir(predictor)
    full, *rest = local_tensors(dims, filters)
    full, (messages, complements) = full.double(), [[t.double() for t in each] for each in rest]
    own = predictor.own(full, messages)
    for absent in ({*range(levels)}, set(), {0}, {levels - 1}):
        zeros = [torch.zeros_like(k) if s in absent else k for s, k in enumerate(complements)]
        nothing = [None if s in absent else k for s, k in enumerate(complements)]
        found = predictor.last(predictor(own, nothing))
        assert found.shape == (2, 2, *full.shape[2:])
        torch.testing.assert_close(found, PlainPredictor(predictor)(full, messages, zeros), rtol=1e-9, atol=1e-9)


@BOTH
def test_split_convolutions_teach_the_same(dims: int) -> None:
    torch.manual_seed(0)
    predictor = Predictor(dims, level_channels(4, 2), 1, norm="instance")
    full, messages, complements = local_tensors(dims, (4, 8))
    gradients = []
    for plain in (False, True):
        predictor.zero_grad()
        if plain:
            logits = PlainPredictor(predictor)(full, messages, complements)
        else:
            logits = predictor.last(predictor(predictor.own(full, messages), complements))
        logits.square().mean().backward()
        gradients.append([p.grad.clone() for p in predictor.parameters() if p.grad is not None])
    assert len(gradients[0]) == len(list(predictor.parameters()))
    for found, expected in zip(*gradients, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("width", "expected"), [(4, 163_201), (8, 629_149), (16, 2_491_285), (24, 5_593_741), (32, 9_936_517)])
def test_a_decoder_with_its_gates_has_the_parameters_of_table_1(width: int, expected: int) -> None:
    filters = level_channels(width, 4)
    with torch.device("meta"):
        gates = sum(count(Gate(3, c, 3, norm="batch")) for c in filters)
        assert count(Predictor(3, filters, 1, norm="batch")) + gates == expected
        more = count(Predictor(3, filters, 2, norm="batch")) - count(Predictor(3, filters, 1, norm="batch"))
    assert more == 27 * width + 1


def test_its_layers_are_those_of_table_1() -> None:
    """Channels in and out, in units of C, from the coarsest level up: Up1, conv, ... Up4, conv, Out."""
    predictor, c = Predictor(3, level_channels(8, 4), 2, norm="instance"), 8
    found = []
    for s in (3, 2, 1, 0):
        for layer in (predictor.up[s], predictor.merge[s]):
            assert isinstance(layer, nn.Conv3d | nn.ConvTranspose3d)
            found.append((layer.in_channels // c, layer.out_channels // c))
    assert found == [(16, 8), (16, 8), (8, 4), (8, 4), (4, 2), (4, 2), (2, 1), (2, 1)]
    assert isinstance(predictor.last, nn.Conv3d)
    assert (predictor.last.in_channels, predictor.last.out_channels, predictor.last.kernel_size) == (c, 2, (3, 3, 3))


def test_what_it_makes_of_its_own_image_does_not_depend_on_messages() -> None:
    predictor = Predictor(2, level_channels(4, 3), 1, norm="instance")
    full, messages, complements = local_tensors(2, (4, 8, 16))
    own = predictor.own(full, messages)
    before = [t.clone() for t in own]
    for chosen in itertools.product([True, False], repeat=3):
        predictor(own, [k if there else None for k, there in zip(complements, chosen, strict=True)])
    assert all(torch.equal(a, b) for a, b in zip(own, before, strict=True))  # nothing is written into what is kept
    assert len(own) == 4 and math.prod(own[-1].shape[2:]) == math.prod(messages[1].shape[2:])


@pytest.mark.parametrize("classes", [(1,), (2, 1)])
@BOTH
def test_last_convolutions_side_by_side_are_those_one_after_the_other(dims: int, classes: tuple[int, ...]) -> None:
    conv = nn.Conv2d if dims == 2 else nn.Conv3d
    heads = [conv(4, k, 3, padding=1) for k in classes]
    features = normal(2, 4, *PATCH[dims], seed=3).requires_grad_()
    found, expected = side_by_side(heads, features), [head(features) for head in heads]
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6)
    grads = [
        torch.autograd.grad(torch.stack([each.square().sum() for each in some]).sum(), features)[0]
        for some in (found, expected)
    ]
    torch.testing.assert_close(grads[0], grads[1], rtol=1e-4, atol=1e-5)
