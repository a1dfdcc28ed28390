from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from comodal.errors import ConfigError
from comodal.information import critics
from comodal.information.critics import (
    BilinearCritic,
    ConcatConvolveCritic,
    ConcatCritic,
    CosineCritic,
    Critic,
    EncodeAndDotCritic,
    ResidualHead,
    SeparableCritic,
    mlp,
)

X, Y = 5, 3
CRITICS: dict[str, Callable[[], Critic]] = {
    "separable": lambda: SeparableCritic(X, Y, hidden=(7, 6), embedding=4),
    "separable, linear": lambda: SeparableCritic(X, Y, hidden=(), embedding=4),
    "bilinear": lambda: BilinearCritic(X, Y),
    "cosine": lambda: CosineCritic(X, Y, embedding=6),
    "cosine, fixed temperature": lambda: CosineCritic(X, Y, embedding=2, temperature=0.5, learned=False),
    "concat": lambda: ConcatCritic(X, Y, hidden=(9, 11)),
    "concat in blocks": lambda: ConcatCritic(X, Y, hidden=(9, 11), memory=0.001),
    "concat, one layer": lambda: ConcatCritic(X, Y, hidden=(9,)),
    "concat, one layer in blocks": lambda: ConcatCritic(X, Y, hidden=(9,), memory=0.001),
    "concat, three layers": lambda: ConcatCritic(X, Y, hidden=(9, 6, 4)),
    "concat, three layers in blocks": lambda: ConcatCritic(X, Y, hidden=(9, 6, 4), memory=0.001),
    "convolve": lambda: ConcatConvolveCritic(X, Y, hidden=(8, 8)),
    "convolve in blocks": lambda: ConcatConvolveCritic(X, Y, hidden=(8, 8)),
    "encode and dot": lambda: EncodeAndDotCritic(X, Y, units=6),
}
CONCATS = [name for name in CRITICS if name.startswith("con")]
every_critic = pytest.mark.parametrize("name", CRITICS)


@pytest.fixture(autouse=True)
def blocks_of_few_pairs(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Few pairs are scored at once by default; the critics "in blocks" take the way of many."""
    if "name" in request.fixturenames and str(request.getfixturevalue("name")).endswith("in blocks"):
        monkeypatch.setattr(critics, "SMALL", 0)


def made(name: str, seed: int = 0) -> Critic:
    """In eval mode, since a batch norm couples items; its statistics are not the ones it starts with."""
    torch.manual_seed(seed)
    critic = CRITICS[name]().double()
    for module in critic.modules():
        if isinstance(module, nn.BatchNorm1d):
            assert module.running_mean is not None and module.running_var is not None
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 2)
            nn.init.normal_(module.weight)
            nn.init.normal_(module.bias)
    return critic.eval()


def random(*shape: int, seed: int = 1) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).requires_grad_()


def assert_same(found: Tensor, wanted: Tensor, tensors: Sequence[Tensor], tolerance: float = 1e-12) -> None:
    """Equal values, and equal gradients of a random combination of them."""
    assert found.shape == wanted.shape
    torch.testing.assert_close(found, wanted, rtol=tolerance, atol=tolerance)
    upstream = random(*found.shape, seed=9).detach()
    asking = [tensor for tensor in tensors if tensor.requires_grad]
    pairs = zip(torch.autograd.grad(found, asking, upstream), torch.autograd.grad(wanted, asking, upstream), strict=True)
    for one, other in pairs:
        torch.testing.assert_close(one, other, rtol=tolerance, atol=tolerance)


def parameters(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


@every_critic
@pytest.mark.parametrize("lead", [(), (2,), (2, 3)])
def test_all_pairs_are_the_single_pairs(name: str, lead: tuple[int, ...]) -> None:
    critic = made(name)
    x, y = random(*lead, 4, X), random(*lead, 6, Y, seed=2)
    rows = [torch.stack([critic(x[..., a, :], y[..., c, :]) for c in range(6)], dim=-1) for a in range(4)]
    wanted = torch.stack(rows, dim=-2)
    assert wanted.shape == (*lead, 4, 6)
    assert_same(critic.all_pairs(x, y), wanted, [x, y, *critic.parameters()])


@every_critic
def test_single_pairs_broadcast(name: str) -> None:
    critic = made(name)
    x, y = random(4, X), random(6, Y, seed=2)
    assert_same(critic(x[:, None], y[None]), critic.all_pairs(x, y), [x, y, *critic.parameters()])
    assert critic(x[0], y[0]).shape == ()


@every_critic
def test_encoded_items_broadcast(name: str) -> None:
    """As the maximum over regions needs it: the regions of each image with one sentence, or with all of them."""
    critic = made(name)
    x, y = random(2, 4, X), random(3, Y, seed=2)
    tensors = [x, y, *critic.parameters()]
    wanted = torch.stack([critic.all_pairs(part, y) for part in x])
    assert_same(critic.pair(critic.encode_x(x), critic.encode_y(y)), wanted, tensors)
    single = torch.stack([critic(x[image], y[sentence]) for image, sentence in ((1, 0), (0, 1), (1, 2))])
    owner = torch.tensor([1, 0, 1])
    assert_same(critic.pair(critic.encode_x(x)[owner], critic.encode_y(y)[:, None])[..., 0], single, tensors)


@every_critic
def test_without_rows_or_columns(name: str) -> None:
    """A process of a training may hold no case, and every parameter must still take part: the others wait for its gradient."""
    critic = made(name)
    for rows, columns in ((0, 3), (3, 0), (0, 0)):
        x, y = random(rows, X), random(columns, Y)
        critic.zero_grad()
        scores = critic.all_pairs(x, y)
        assert scores.shape == (rows, columns)
        scores.sum().backward()
        for tensor in (x, y, *(parameter for parameter in critic.parameters() if parameter.requires_grad)):
            assert tensor.grad is not None and tensor.grad.shape == tensor.shape and not tensor.grad.any()


@every_critic
def test_without_rows_at_several_locations(name: str) -> None:
    critic = made(name)
    assert critic.all_pairs(random(4, 0, X), random(4, 2, Y)).shape == (4, 0, 2)


@every_critic
def test_a_seed_determines_the_weights(name: str) -> None:
    first, again, other = (made(name, seed).state_dict() for seed in (3, 3, 4))
    assert all(tensor.equal(again[key]) for key, tensor in first.items())
    assert not all(tensor.equal(other[key]) for key, tensor in first.items())


@every_critic
def test_weights_survive_a_file(name: str, tmp_path: Path) -> None:
    critic, fresh = made(name, 0), made(name, 1)
    x, y = random(4, X).detach(), random(6, Y, seed=2).detach()
    before = critic.all_pairs(x, y)
    assert not fresh.all_pairs(x, y).equal(before)
    save_file(critic.state_dict(), tmp_path / "critic.safetensors")
    fresh.load_state_dict(load_file(tmp_path / "critic.safetensors"))
    assert fresh.all_pairs(x, y).equal(before) and fresh(x, y[:4]).equal(critic(x, y[:4]))


@every_critic
def test_gradcheck(name: str) -> None:
    critic = made(name)
    assert torch.autograd.gradcheck(critic.all_pairs, (random(2, X), random(3, Y, seed=2)))


# ------------------------------------------------------------------------------------------------- published and by hand


@pytest.mark.parametrize(
    ("x", "y", "count"),
    [
        (512, 768, 1280 * 1024 + 1024 + 1024 * 512 + 512 + 512 + 1),  # Liao et al. (2021), regions
        (768, 768, 1536 * 1024 + 1024 + 1024 * 512 + 512 + 512 + 1),  # and whole images
    ],
)
def test_the_critics_of_liao_have_their_published_sizes(x: int, y: int, count: int) -> None:
    critic = ConcatCritic(x, y)
    assert parameters(critic) == count
    shapes = [tuple(parameter.shape) for parameter in critic.parameters()]
    assert shapes == [(1024, x + y), (1024,), (512, 1024), (512,), (1, 512), (1,)]


@pytest.mark.parametrize("hidden", [(32, 16), (48,), (24, 16, 8)])
def test_few_and_many_pairs_are_scored_alike(monkeypatch: pytest.MonkeyPatch, hidden: tuple[int, ...]) -> None:
    """On either side of the size from which pairs are scored in blocks."""
    torch.manual_seed(0)
    critic = ConcatCritic(X, Y, hidden=hidden).double()
    x, y = random(12, X), random(11, Y, seed=2)
    found = []
    for small in (12 * 11 * 4 * sum(hidden), 12 * 11 * 4 * sum(hidden) - 1):
        monkeypatch.setattr(critics, "SMALL", small)
        scores = critic.all_pairs(x, y)
        found.append([scores, *torch.autograd.grad(scores.sin().sum(), [x, y, *critic.parameters()])])
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-12)


def test_other_sizes() -> None:
    assert parameters(ConcatConvolveCritic(128, 64)) == 192 * 512 + 512 + 512 * 512 + 512 + 512 + 1  # DIM, CMIM
    assert parameters(BilinearCritic(7, 4)) == 28
    assert parameters(CosineCritic(7, 4, embedding=5)) == 11 * 5 + 1 and parameters(CosineCritic(4, 4, embedding=None)) == 1
    one_side = 10 * 256 + 256 + 256 * 256 + 256 + 256 * 32 + 32
    assert parameters(SeparableCritic(10, 10)) == 2 * one_side
    units = 2048
    head = 6 * units + 2 * units + (units * units + units) + (6 * units + units) + 2 * units
    assert parameters(EncodeAndDotCritic(6, 6)) == 2 * head


def test_an_mlp_ends_without_activation() -> None:
    assert [type(layer) for layer in mlp([3, 4, 5, 1])] == [nn.Linear, nn.ReLU, nn.Linear, nn.ReLU, nn.Linear]


def test_bilinear_by_a_slow_loop() -> None:
    critic = made("bilinear")
    assert isinstance(critic, BilinearCritic)
    x, y = random(3, X), random(4, Y, seed=2)
    scores = critic.all_pairs(x, y).detach()
    rows, weight, columns = (tensor.tolist() for tensor in (x, critic.weight, y))
    for a, c in itertools.product(range(3), range(4)):
        terms = (rows[a][d] * weight[d][e] * columns[c][e] for d in range(X) for e in range(Y))
        assert float(scores[a, c]) == pytest.approx(math.fsum(terms), abs=1e-12)


def slow_mlp(network: nn.Sequential, features: Tensor) -> list[float]:
    """One item through linear layers and ReLU, number by number."""
    values = features.tolist()
    linear = [layer for layer in network if isinstance(layer, nn.Linear)]
    for layer in linear:
        weight, bias = layer.weight.tolist(), layer.bias.tolist()
        values = [math.fsum(w * v for w, v in zip(row, values, strict=True)) + b for row, b in zip(weight, bias, strict=True)]
        if layer is not linear[-1]:
            values = [max(value, 0.0) for value in values]
    return [float(value) for value in values]


@pytest.mark.parametrize("name", ["separable", "separable, linear"])
def test_separable_by_a_slow_loop(name: str) -> None:
    critic = made(name)
    assert isinstance(critic, SeparableCritic)
    x, y = random(3, X), random(4, Y, seed=2)
    scores = critic.all_pairs(x, y).detach()
    for a, c in itertools.product(range(3), range(4)):
        g, h = slow_mlp(critic.x_network, x[a]), slow_mlp(critic.y_network, y[c])
        assert float(scores[a, c]) == pytest.approx(math.fsum(i * j for i, j in zip(g, h, strict=True)), abs=1e-12)


@pytest.mark.parametrize("name", CONCATS)
def test_concat_by_a_slow_loop(name: str) -> None:
    critic = made(name)
    assert isinstance(critic, ConcatCritic)
    x, y = random(3, X), random(4, Y, seed=2)
    scores = critic.all_pairs(x, y).detach()
    for a, c in itertools.product(range(3), range(4)):
        assert float(scores[a, c]) == pytest.approx(slow_mlp(critic.layers, torch.cat([x[a], y[c]]))[0], abs=1e-12)


def test_a_concat_critic_needs_a_layer() -> None:
    with pytest.raises(ConfigError) as error:
        ConcatCritic(X, Y, hidden=())
    assert str(error.value) == "ConcatCritic.hidden must have at least one layer; got none. Use BilinearCritic."


def test_the_base_names_what_is_missing() -> None:
    class Half(Critic):
        def encode_x(self, x: Tensor) -> Tensor:
            return x

    with pytest.raises(NotImplementedError, match=r"^Half\.encode_y$"):
        Half().all_pairs(torch.zeros(1, 2), torch.zeros(1, 2))
    with pytest.raises(NotImplementedError, match=r"^Critic\.encode_x$"):
        Critic()(torch.zeros(2), torch.zeros(2))


# --------------------------------------------------------------------------------------------------------------- on maps


def convolutions(critic: ConcatConvolveCritic, dims: int) -> nn.Sequential:
    """The same layers as torch's own 1 x 1 convolutions, in new tensors."""
    kind = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}[dims]
    layers: list[nn.Module] = []
    for layer in critic.layers:
        if isinstance(layer, nn.Linear):
            convolution = kind(layer.in_features, layer.out_features, 1).double()
            with torch.no_grad():
                convolution.weight.copy_(layer.weight.view(*layer.weight.shape, *[1] * dims))
                assert convolution.bias is not None
                convolution.bias.copy_(layer.bias)
            layers.append(convolution)
        else:
            layers.append(nn.ReLU())
    return nn.Sequential(*layers)


SPACES = [(4,), (3, 2), (2, 3, 2)]


@pytest.mark.parametrize("space", SPACES)
@pytest.mark.parametrize("tiled", [True, False])
@pytest.mark.parametrize("hidden", [(8, 6), (7,)])
def test_on_maps_convolves(space: tuple[int, ...], tiled: bool, hidden: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    critic = ConcatConvolveCritic(X, Y, hidden=hidden).double()
    network = convolutions(critic, len(space))
    x, y = random(2, X, *space), random(2, Y, *(() if tiled else space), seed=2)
    over = y.view(2, Y, *[1] * len(space)).expand(2, Y, *space) if tiled else y
    wanted = network(torch.cat([x, over], dim=1))[:, 0]
    found = critic.on_maps(x, y)
    assert found.shape == (2, *space)
    torch.testing.assert_close(found, wanted, rtol=1e-12, atol=1e-12)
    upstream = random(2, *space, seed=9).detach()
    ours = torch.autograd.grad(found, [x, y, *critic.parameters()], upstream)
    theirs = torch.autograd.grad(wanted, [x, y, *network.parameters()], upstream)
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other.view(one.shape), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", ["convolve", "convolve in blocks"])
@pytest.mark.parametrize("space", SPACES)
@pytest.mark.parametrize("tiled", [True, False])
def test_all_pairs_of_maps_by_a_slow_loop(name: str, space: tuple[int, ...], tiled: bool) -> None:
    critic = made(name)
    assert isinstance(critic, ConcatConvolveCritic)
    x, y = random(3, X, *space), random(4, Y, *(() if tiled else space), seed=2)
    found = critic.all_pairs_of_maps(x, y)
    assert found.shape == (math.prod(space), 3, 4)
    wanted = torch.stack([torch.stack([critic.on_maps(x[a : a + 1], y[b : b + 1])[0] for b in range(4)]) for a in range(3)])
    assert_same(found, wanted.flatten(2).permute(2, 0, 1), [x, y, *critic.parameters()])
    items = x.flatten(2)[2].t(), y[1].expand(math.prod(space), Y) if tiled else y.flatten(2)[1].t()
    torch.testing.assert_close(found[:, 2, 1], critic(*items), rtol=1e-12, atol=1e-12)


# ---------------------------------------------------------------------------------------------------------------- cosine


@pytest.mark.parametrize("temperature", [0.01, 0.07, 0.5, 2.0])
@pytest.mark.parametrize("embedding", [None, 6])
def test_cosines_are_bounded(temperature: float, embedding: int | None) -> None:
    torch.manual_seed(0)
    critic = CosineCritic(X, X, embedding=embedding, temperature=temperature)
    x = torch.randn(20, X) * torch.logspace(-2, 2, 20)[:, None]
    scores = critic.all_pairs(x, torch.cat([x, -x, torch.randn(5, X)])).detach()
    assert float(scores.abs().max()) <= 1 / temperature * (1 + 1e-5)
    if embedding is None:
        assert float(scores.max()) == pytest.approx(1 / temperature, rel=1e-5)
        assert float(scores.min()) == pytest.approx(-1 / temperature, rel=1e-5)
        slow = [[float(a @ b / a.norm() / b.norm() / temperature) for b in x] for a in x]
        torch.testing.assert_close(scores[:, :20], torch.tensor(slow), rtol=1e-4, atol=1e-4 / temperature)


def test_a_cosine_ignores_lengths() -> None:
    critic = made("cosine")
    x, y = random(4, X).detach(), random(3, Y).detach()
    torch.testing.assert_close(critic.all_pairs(7 * x, y / 3), critic.all_pairs(x, y), rtol=1e-12, atol=1e-12)


def test_the_temperature_has_a_floor() -> None:
    critic = CosineCritic(X, Y, temperature=0.2).double()
    assert float(critic.temperature.detach()) == pytest.approx(0.2, rel=1e-6)
    critic.temperature.backward()
    assert critic.log_temperature.grad is not None
    assert float(critic.log_temperature.grad) == pytest.approx(0.2, rel=1e-6)  # d t / d log t = t
    with torch.no_grad():
        critic.log_temperature.fill_(-20.0)
    assert float(critic.temperature.detach()) == pytest.approx(0.01, rel=1e-12)
    x, y = random(4, X), random(3, Y)
    scores = critic.all_pairs(x, y)
    assert float(scores.detach().abs().max()) <= 100 * (1 + 1e-12)
    scores.sum().backward()
    assert all(tensor.grad is not None and bool(tensor.grad.isfinite().all()) for tensor in (x, y, *critic.parameters()))
    critic.zero_grad()
    critic.temperature.backward()
    gradient = critic.log_temperature.grad
    assert gradient is not None
    assert float(gradient) > 0  # it can rise again


def test_the_lowest_temperature_allowed_still_learns() -> None:
    critic = CosineCritic(X, Y, temperature=0.01)
    critic.temperature.backward()
    assert critic.log_temperature.grad is not None and float(critic.log_temperature.grad) > 0


def test_the_gradient_of_the_temperature_by_hand() -> None:
    critic = made("cosine")
    assert isinstance(critic, CosineCritic)
    score = critic(random(X), random(Y))
    score.backward()
    assert critic.log_temperature.grad is not None
    assert float(critic.log_temperature.grad) == pytest.approx(-float(score.detach()), rel=1e-9)  # s = c / t


def test_a_fixed_temperature_is_not_learned_but_saved() -> None:
    critic = CosineCritic(X, Y, temperature=0.5, learned=False)
    assert "log_temperature" in critic.state_dict() and not critic.log_temperature.requires_grad
    critic.all_pairs(torch.randn(2, X), torch.randn(2, Y)).sum().backward()
    assert critic.log_temperature.grad is None


@pytest.mark.parametrize(
    ("temperature", "embedding", "text"),
    [
        (
            0.1,
            None,
            "embedding must be given where x and y differ in length; got 5 and 3 features. Give the length of a common",
        ),
        (0.009, 4, "temperature must be at least 0.01; got 0.009. Use 0.07 to 1."),
        (0.0, 4, "temperature must be at least 0.01; got 0.0. Use 0.07 to 1."),
        (math.nan, 4, "temperature must be at least 0.01; got nan. Use 0.07 to 1."),
    ],
)
def test_refused_settings_of_a_cosine(temperature: float, embedding: int | None, text: str) -> None:
    with pytest.raises(ConfigError) as error:
        CosineCritic(X, Y, embedding=embedding, temperature=temperature)
    assert str(error.value) == f"CosineCritic.{text}" + (" projection." if embedding is None else "")


# ---------------------------------------------------------------------------------------------------------- DIM's heads


@pytest.mark.parametrize(("features", "units"), [(6, 6), (5, 8), (8, 5), (3, 16)])
def test_the_shortcut_begins_near_the_identity(features: int, units: int) -> None:
    torch.manual_seed(0)
    head = ResidualHead(features, units)
    noise = (head.shortcut.weight - torch.eye(units, features)).detach()
    assert float(noise.abs().max()) <= 0.01 + 1e-6 and float(noise.std()) > 0.004  # 0.01 / sqrt(3) = 0.0058
    assert parameters(head.first) == features * units  # without a bias
    assert head(torch.randn(3, features)).shape == (3, units)


@pytest.mark.parametrize("shape", [(4, 5), (2, 3, 5), (2, 2, 3, 5)])
def test_a_head_by_its_formula(shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    head = ResidualHead(5, 7).double()
    x = random(*shape)
    before = head.first(x).flatten(0, -2).detach()
    out = head(x)
    normal = (before - before.mean(0)) / (before.var(0, unbiased=False) + head.norm.eps).sqrt()
    second = normal.relu() @ head.second.weight.t() + head.second.bias
    total = second + x.flatten(0, -2) @ head.shortcut.weight.t() + head.shortcut.bias
    mean, spread = total.mean(-1, keepdim=True), (total.var(-1, unbiased=False, keepdim=True) + head.scale.eps).sqrt()
    torch.testing.assert_close(out.flatten(0, -2), (total - mean) / spread, rtol=1e-10, atol=1e-10)
    assert out.shape == (*shape[:-1], 7)
    # The statistics of the batch norm are those of all items at all leading axes.
    assert head.norm.running_mean is not None and head.norm.running_var is not None
    torch.testing.assert_close(head.norm.running_mean, 0.1 * before.mean(0), rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(head.norm.running_var, 0.9 + 0.1 * before.var(0), rtol=1e-10, atol=1e-12)
    # The output of the layer norm at its start: mean 0, variance 1 for each item.
    torch.testing.assert_close(out.mean(-1), torch.zeros(shape[:-1], dtype=torch.float64), rtol=0, atol=1e-10)
    torch.testing.assert_close(out.var(-1, unbiased=False), torch.ones(shape[:-1], dtype=torch.float64), rtol=1e-3, atol=0)


def test_a_head_is_the_one_of_convolutions() -> None:
    """DIM writes it as 1 x 1 convolutions and a batch norm on maps."""
    torch.manual_seed(0)
    head = ResidualHead(5, 7).double()
    maps = random(3, 5, 2, 4)
    convolved = nn.functional.conv2d(maps, head.first.weight[..., None, None])
    normal = nn.functional.batch_norm(convolved, None, None, head.norm.weight, head.norm.bias, training=True)
    second = nn.functional.conv2d(normal.relu(), head.second.weight[..., None, None], head.second.bias)
    total = second + nn.functional.conv2d(maps, head.shortcut.weight[..., None, None], head.shortcut.bias)
    wanted = nn.functional.layer_norm(total.permute(0, 2, 3, 1), (7,))
    torch.testing.assert_close(head(maps.permute(0, 2, 3, 1)), wanted, rtol=1e-10, atol=1e-10)


def test_encode_and_dot_couples_a_batch_in_training_only() -> None:
    torch.manual_seed(0)
    critic = EncodeAndDotCritic(X, Y, units=6).double()
    x, y = random(4, X).detach(), random(4, Y, seed=2).detach()
    scores = critic.all_pairs(x, y)
    torch.testing.assert_close(scores, critic.x_head(x) @ critic.y_head(y).t(), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(critic(x, y), scores.diagonal(), rtol=1e-12, atol=1e-12)  # the same batch, the same statistics
    assert not torch.allclose(critic.all_pairs(x[:3], y)[0, 0], scores[0, 0])
    critic.eval()
    torch.testing.assert_close(critic.all_pairs(x[:3], y), critic.all_pairs(x, y)[:3], rtol=1e-12, atol=1e-12)
