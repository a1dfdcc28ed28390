from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor, nn

from comodal.information import critics, split
from comodal.information.critics import ConcatCritic
from comodal.information.split import MIB, blocked_pairs, blocks, relu_pairs

Given = dict[str, Tensor]
X, Y = 3, 2  # features of the items before the first layer
GROUND = [
    # L, A, C, H, K: K divisible by 8 or not, one row, one column, one of all, several locations
    (1, 3, 4, 6, 8),
    (1, 5, 3, 7, 5),
    (2, 1, 6, 5, 13),
    (3, 4, 1, 6, 16),
    (1, 1, 1, 3, 9),
    (2, 3, 4, 1, 1),
    (4, 2, 3, 5, 7),
    (2, 5, 7, 4, 23),
]
EMPTY = [(1, 0, 4, 5, 9), (1, 3, 0, 5, 9), (2, 0, 0, 5, 9), (0, 3, 4, 5, 9), (3, 0, 2, 4, 8)]


def leaves(shape: tuple[int, ...], kind: torch.dtype = torch.float64, *, seed: int = 0) -> Given:
    """Items and all weights of an MLP on [x; y]."""
    places, rows, columns, hidden, units = shape
    generator = torch.Generator().manual_seed(seed)
    sizes = {
        "x": (places, rows, X),
        "y": (places, columns, Y),
        "first": (hidden, X + Y),
        "offset": (hidden,),
        "weight": (units, hidden),
        "bias": (units,),
        "last": (units,),
    }
    made = {name: torch.randn(size, generator=generator, dtype=torch.float64) for name, size in sizes.items()}
    return {name: tensor.to(kind).requires_grad_() for name, tensor in made.items()}


def upstream_of(shape: tuple[int, ...], kind: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(shape[:3], generator=torch.Generator().manual_seed(7), dtype=torch.float64).to(kind)


def plain(given: Given) -> Tensor:
    """[x; y] of every pair through the layers, as it is written in the paper."""
    rows, columns = given["x"].shape[1], given["y"].shape[1]
    x = given["x"][:, :, None].expand(-1, -1, columns, -1)
    y = given["y"][:, None].expand(-1, rows, -1, -1)
    hidden = (torch.cat([x, y], dim=-1) @ given["first"].t() + given["offset"]).relu()
    return (hidden @ given["weight"].t() + given["bias"]).relu() @ given["last"]


def projected(given: Given) -> tuple[Tensor, Tensor]:
    first = given["first"]
    return given["x"] @ first[:, :X].t(), given["y"] @ first[:, X:].t() + given["offset"]


def as_split(given: Given, memory: float = 64.0) -> Tensor:
    more = {name: given[name] for name in ("weight", "bias", "last")}
    return relu_pairs(*projected(given), **more, memory=memory)


def in_blocks(given: Given, memory: float = 64.0) -> Tensor:
    def tail(hidden: Tensor) -> Tensor:
        return (hidden.relu() @ given["weight"].t() + given["bias"]).relu() @ given["last"]

    width = len(given["first"]) + len(given["last"])
    return blocked_pairs(*projected(given), tail, width=width, memory=memory)


FORMS = [pytest.param(as_split, id="relu_pairs"), pytest.param(in_blocks, id="blocked_pairs")]
Form = Callable[..., Tensor]


def outcome(form: Callable[[Given], Tensor], given: Given, upstream: Tensor) -> tuple[Tensor, dict[str, Tensor | None]]:
    """The value and the gradient of each tensor that asks for one."""
    for tensor in given.values():
        tensor.grad = None
    value = form(given)
    if value.requires_grad:
        value.backward(upstream)
    return value.detach(), {name: None if t.grad is None else t.grad.clone() for name, t in given.items()}


def assert_equal(form: Form, shape: tuple[int, ...], memory: float = 64.0) -> None:
    given, upstream = leaves(shape), upstream_of(shape)
    expected, wanted = outcome(plain, given, upstream)
    value, found = outcome(lambda t: form(t, memory), given, upstream)
    assert value.shape == shape[:3] and value.dtype == torch.float64
    torch.testing.assert_close(value, expected, rtol=1e-12, atol=1e-12)
    for name, gradient in found.items():
        exact = wanted[name]
        assert gradient is not None and exact is not None and gradient.shape == exact.shape, name
        assert torch.allclose(gradient, exact, rtol=1e-12, atol=1e-12), name


def memory_of(pairs: int, shape: tuple[int, ...], itemsize: int = 8) -> float:
    """MiB with which a block has so many pairs: two tensors of each width."""
    return pairs * 2 * (shape[3] + shape[4]) * itemsize / MIB * 1.0001


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("shape", GROUND)
def test_value_and_gradients_are_those_of_concatenation(form: Form, shape: tuple[int, ...]) -> None:
    assert_equal(form, shape)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("pairs", [1, 2, 5, 12])
@pytest.mark.parametrize("shape", [(1, 5, 3, 7, 5), (2, 5, 7, 4, 23), (3, 2, 2, 5, 8)])
def test_a_small_budget_cuts_rows_and_columns_and_changes_nothing(
    monkeypatch: pytest.MonkeyPatch, form: Form, pairs: int, shape: tuple[int, ...]
) -> None:
    seen: list[tuple[tuple[int, int, int], int]] = []

    def spy(size: tuple[int, int, int], most: int) -> Iterator[split.Block]:
        seen.append((size, most))
        return blocks(size, most)

    monkeypatch.setattr(split, "blocks", spy)
    assert_equal(form, shape, memory_of(pairs, shape))
    assert set(seen) == {(shape[:3], pairs)}


@pytest.mark.parametrize("form", FORMS)
def test_a_budget_below_one_pair_takes_single_pairs(form: Form) -> None:
    assert_equal(form, (2, 3, 2, 4, 5), 0.0)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("shape", EMPTY)
def test_without_rows_or_columns_gradients_are_zero(form: Form, shape: tuple[int, ...]) -> None:
    given = leaves(shape)
    value, found = outcome(form, given, upstream_of(shape))
    assert value.shape == shape[:3]
    for name in ("x", "y", "first", "offset"):
        gradient = found[name]
        assert gradient is not None and gradient.shape == given[name].shape and not gradient.any(), name
    if form is as_split:  # `blocked_pairs` does not know the weights of its tail
        for name in ("weight", "bias", "last"):
            gradient = found[name]
            assert gradient is not None and gradient.shape == given[name].shape and not gradient.any(), name


@pytest.mark.parametrize("pairs", [0, 1, 2, 3, 5, 7, 12, 24, 1000])
def test_blocks_hold_every_pair_once_and_keep_the_budget(pairs: int) -> None:
    for shape in itertools.product((0, 1, 2, 3), (0, 1, 3, 4), (0, 1, 2, 5)):
        counts = torch.zeros(shape, dtype=torch.int64)
        for block in blocks(shape, pairs):
            assert 0 < counts[block].numel() <= max(pairs, 1)
            counts[block] += 1
            whole_row = block[2] == slice(0, shape[2])
            assert whole_row or shape[2] > pairs  # a row is cut only where it does not fit
            assert whole_row or block[1].stop == block[1].start + 1
            assert block[0].stop == block[0].start + 1 or block[1:] == (slice(0, shape[1]), slice(0, shape[2]))
        assert counts.eq(1).all()
        if 0 < counts.numel() <= pairs:
            assert len(list(blocks(shape, pairs))) == 1


def direct(shape: tuple[int, ...], *, seed: int = 3) -> Given:
    """What `relu_pairs` takes, without a first layer."""
    given = leaves(shape, seed=seed)
    x, y = (tensor.detach().requires_grad_() for tensor in projected(given))
    return {"x": x, "y": y, **{name: given[name].detach().requires_grad_() for name in ("weight", "bias", "last")}}


def scored(given: Given, memory: float = 64.0) -> Tensor:
    return relu_pairs(**given, memory=memory)


def scored_plainly(given: Given) -> Tensor:
    hidden = (given["x"][:, :, None] + given["y"][:, None]).relu()
    return (hidden @ given["weight"].t() + given["bias"]).relu() @ given["last"]


@pytest.mark.parametrize("pairs", [2, 1000])
def test_gradcheck(pairs: int) -> None:
    shape = (2, 3, 2, 4, 5)
    given = direct(shape)
    names = list(given)

    def function(*tensors: Tensor) -> Tensor:
        return scored(dict(zip(names, tensors, strict=True)), memory_of(pairs, shape))

    assert torch.autograd.gradcheck(function, tuple(given.values()))


def test_gradcheck_of_blocks() -> None:
    shape = (2, 3, 2, 4, 5)
    given = direct(shape)

    def function(x: Tensor, y: Tensor) -> Tensor:
        weight, bias, last = (given[name] for name in ("weight", "bias", "last"))
        return blocked_pairs(x, y, lambda z: (z.relu() @ weight.t() + bias).relu() @ last, width=9, memory=memory_of(3, shape))

    assert torch.autograd.gradcheck(function, (given["x"], given["y"]))


def test_a_unit_at_exactly_zero_takes_no_gradient() -> None:
    ones = torch.ones(1, 1, 2, dtype=torch.float64)
    eye = torch.eye(2, dtype=torch.float64)
    zeros = torch.zeros(2, dtype=torch.float64)
    # The hidden layer is active, its units z are exactly 0: a gradient of 1 at 0 would show in each of these.
    second = {"x": ones, "y": ones, "weight": 0 * eye, "bias": zeros, "last": zeros + 3}
    # The first layer is exactly 0, the units above it are active: nothing may reach x and y.
    first = {"x": ones, "y": -ones, "weight": eye, "bias": zeros + 1, "last": zeros + 3}
    for tensors, silent in ((second, ("x", "y", "weight", "bias", "last")), (first, ("x", "y", "weight"))):
        given = {name: tensor.clone().requires_grad_() for name, tensor in tensors.items()}
        upstream = torch.ones(1, 1, 1, dtype=torch.float64)
        expected, wanted = outcome(scored_plainly, given, upstream)
        value, found = outcome(scored, given, upstream)
        torch.testing.assert_close(value, expected, rtol=0, atol=0)
        for name, gradient in found.items():
            assert gradient is not None and wanted[name] is not None
            torch.testing.assert_close(gradient, wanted[name], rtol=0, atol=0)
            assert bool(gradient.any()) == (name not in silent)


def test_kinks_in_a_random_problem_follow_torch() -> None:
    """Small whole numbers: many sums are exactly 0, in both layers."""
    generator = torch.Generator().manual_seed(5)
    sizes = {"x": (2, 6, 3), "y": (2, 5, 3), "weight": (9, 3), "bias": (9,), "last": (9,)}
    given = {k: torch.randint(-1, 2, v, generator=generator).double().requires_grad_() for k, v in sizes.items()}
    hidden = (given["x"][:, :, None] + given["y"][:, None]).relu()
    assert (hidden @ given["weight"].t() + given["bias"]).eq(0).sum() > 20
    upstream = torch.randint(-3, 4, (2, 6, 5), generator=generator).double()
    expected, wanted = outcome(scored_plainly, given, upstream)
    value, found = outcome(scored, given, upstream)
    assert value.equal(expected)
    for name, gradient in found.items():
        assert gradient is not None and wanted[name] is not None
        torch.testing.assert_close(gradient, wanted[name], rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    "asking", [("weight", "bias", "last"), ("x", "y"), ("x",), ("y",), ("weight",), ("bias",), ("last",), ("y", "last")]
)
def test_frozen_parts_get_no_gradient_and_the_others_the_same(asking: tuple[str, ...]) -> None:
    shape = (2, 3, 4, 5, 11)
    given, upstream = direct(shape), upstream_of(shape)
    _, wanted = outcome(scored_plainly, given, upstream)
    for name, tensor in given.items():
        tensor.requires_grad_(name in asking)
    _, found = outcome(lambda t: scored(t, memory_of(5, shape)), given, upstream)
    for name, gradient in found.items():
        if name in asking:
            torch.testing.assert_close(gradient, wanted[name], rtol=1e-12, atol=1e-12)
        else:
            assert gradient is None


@pytest.mark.parametrize("frozen", [False, True])
def test_without_gradient_nothing_is_kept(monkeypatch: pytest.MonkeyPatch, frozen: bool) -> None:
    def refuse(signs: Tensor) -> Tensor:
        raise AssertionError(f"signs of {tuple(signs.shape)} are packed")

    shape = (1, 4, 3, 5, 9)
    given = direct(shape)
    expected = scored(given).detach()
    if frozen:
        for tensor in given.values():
            tensor.requires_grad_(False)
    monkeypatch.setattr(split, "_packed", refuse)
    saved: list[Tensor] = []
    with torch.set_grad_enabled(frozen), torch.autograd.graph.saved_tensors_hooks(saved.append, lambda _: torch.empty(0)):
        value = scored(given)
    with torch.set_grad_enabled(frozen):
        deep = blocked_pairs(given["x"], given["y"], lambda hidden: hidden.sum(-1), width=5)
    assert value.grad_fn is None and deep.grad_fn is None and not value.requires_grad and not saved
    assert value.equal(expected)


def test_a_second_derivative_is_refused() -> None:
    given = direct((1, 3, 4, 5, 6))
    for scores in (scored(given).square(), scored(given)):  # also where the upstream gradient is a constant
        with pytest.raises(RuntimeError, match="differentiated once"):
            torch.autograd.grad(scores.sum(), given["x"], create_graph=True)


def test_projections_of_any_strides() -> None:
    given = direct((1, 3, 4, 5, 6))
    plain = scored(given)
    given["x"] = given["x"].detach().transpose(1, 2).contiguous().transpose(1, 2)
    given["y"] = given["y"].detach().transpose(0, 1).contiguous().transpose(0, 1)
    assert scored(given).equal(plain)


def test_upstream_gradients_of_any_strides() -> None:
    shape = (2, 3, 4, 5, 6)
    given = leaves(shape)
    expected, wanted = outcome(lambda t: plain(t).sum(), given, torch.ones((), dtype=torch.float64))
    value, found = outcome(lambda t: as_split(t).transpose(0, 2).sum(), given, torch.ones((), dtype=torch.float64))  # expanded
    torch.testing.assert_close(value, expected, rtol=1e-12, atol=1e-12)
    for name, gradient in found.items():
        torch.testing.assert_close(gradient, wanted[name], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("form", FORMS)
def test_float32_agrees_with_float64(form: Form) -> None:
    shape = (2, 9, 7, 16, 12)
    expected, wanted = outcome(form, leaves(shape), upstream_of(shape))
    value, found = outcome(form, leaves(shape, torch.float32), upstream_of(shape, torch.float32))
    assert value.dtype == torch.float32
    scale = expected.abs().max()
    assert (value - expected).abs().max() < 1e-5 * scale
    for name, gradient in found.items():
        exact = wanted[name]
        assert gradient is not None and exact is not None and gradient.dtype == torch.float32
        assert (gradient - exact).abs().max() < 1e-5 * exact.abs().max(), name


@pytest.mark.parametrize("kind", [torch.float32, torch.float64])
def test_under_autocast_in_bfloat16(kind: torch.dtype) -> None:
    shape = (2, 12, 10, 16, 12)
    given, upstream = leaves(shape, kind), upstream_of(shape, torch.float32)
    expected, wanted = outcome(as_split, given, upstream.to(kind))

    def cast(t: Given) -> Tensor:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            return as_split(t)

    value, found = outcome(cast, given, upstream)
    assert value.dtype == torch.float32 and not value.to(kind).equal(expected)
    assert (value - expected).norm() < 0.02 * expected.norm()
    for name, gradient in found.items():
        exact = wanted[name]
        assert gradient is not None and exact is not None and gradient.dtype == kind
        assert (gradient - exact).norm() < 0.05 * exact.norm(), name


@pytest.mark.parametrize("small", [critics.SMALL, 0])
def test_a_critic_under_autocast_in_bfloat16(monkeypatch: pytest.MonkeyPatch, small: int) -> None:
    monkeypatch.setattr(critics, "SMALL", small)
    torch.manual_seed(0)
    for hidden in ((16, 12), (16,), (16, 12, 8)):
        critic = ConcatCritic(6, 5, hidden=hidden)
        x, y = torch.randn(9, 6), torch.randn(7, 5)
        outcomes = []
        for enabled in (False, True):
            critic.zero_grad()
            with torch.autocast("cpu", dtype=torch.bfloat16, enabled=enabled):
                value = critic.all_pairs(x, y)
            value.float().square().sum().backward()
            outcomes.append([value.detach().float(), *(p.grad.clone() for p in critic.parameters() if p.grad is not None)])
        for exact, near in zip(*outcomes, strict=True):
            assert near.dtype == torch.float32 and (near - exact).norm() < 0.05 * exact.norm()


def test_weights_of_bfloat16_give_scores_of_float32() -> None:
    shape = (1, 4, 3, 8, 8)
    value, found = outcome(as_split, leaves(shape, torch.bfloat16), upstream_of(shape, torch.float32))
    assert value.dtype == torch.float32
    assert all(gradient is not None and gradient.dtype == torch.bfloat16 for gradient in found.values())


@pytest.mark.parametrize("hidden", [(5,), (6, 5, 4), (4, 9, 5, 3)])
@pytest.mark.parametrize("pairs", [1, 4, 10_000])
def test_any_tail_in_blocks(hidden: tuple[int, ...], pairs: int) -> None:
    torch.manual_seed(1)
    sizes = [*hidden, 1]
    layers = [part for a, b in itertools.pairwise(sizes) for part in (nn.ReLU(), nn.Linear(a, b))]
    tail = nn.Sequential(*layers).double()
    x, y = (torch.randn(2, n, hidden[0], dtype=torch.float64, requires_grad=True) for n in (5, 3))
    tensors = [x, y, *tail.parameters()]
    upstream = upstream_of((2, 5, 3))
    expected = tail(x[:, :, None] + y[:, None])[..., 0]
    wanted = torch.autograd.grad(expected, tensors, upstream)
    memory = pairs * 2 * sum(hidden) * 8 / MIB * 1.0001
    for function in (tail, lambda z: tail(z)[:, 0]):  # (pairs, 1) or (pairs,)
        value = blocked_pairs(x, y, function, width=sum(hidden), memory=memory)
        torch.testing.assert_close(value, expected, rtol=1e-12, atol=1e-12)
        for found, exact in zip(torch.autograd.grad(value, tensors, upstream), wanted, strict=True):
            torch.testing.assert_close(found, exact, rtol=1e-12, atol=1e-12)


def kept(function: Callable[[], Tensor]) -> int:
    """Bytes that the graph of a value keeps, each storage once."""
    storages: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        storages[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        value = function()
        assert value.requires_grad
        return sum(storages.values())


@pytest.mark.parametrize("hidden", [(64, 40), (64,), (64, 40, 24)])
def test_the_graph_keeps_a_twentieth_of_the_plain_one(hidden: tuple[int, ...]) -> None:
    critic = ConcatCritic(24, 16, hidden=hidden, memory=0.5)
    x, y = torch.randn(160, 24), torch.randn(120, 16)
    plainly = kept(lambda: critic(x[:, None], y[None]))
    assert plainly > 160 * 120 * 4 * (40 + sum(hidden))  # the concatenation and the layers of every pair
    assert kept(lambda: critic.all_pairs(x, y)) < plainly / 20


def test_one_bit_is_kept_for_each_unit_of_a_pair() -> None:
    given = direct((1, 40, 30, 6, 12))
    own = sum(tensor.untyped_storage().nbytes() for tensor in given.values())
    assert kept(lambda: scored(given)) == own + 40 * 30 * 2  # 12 units fit into 2 bytes


@pytest.mark.parametrize("shape", GROUND)
def test_items_without_an_upstream_gradient_are_left_out_and_change_nothing(shape: tuple[int, ...]) -> None:
    for kept in (slice(0, 0), slice(0, 1), slice(1, None, 2)):
        given, upstream = leaves(shape), torch.zeros(shape[:3], dtype=torch.float64)
        upstream[:, kept] = upstream_of(shape)[:, kept]
        wanted = outcome(plain, given, upstream)[1]
        for memory in (64.0, memory_of(2, shape)):
            for name, gradient in outcome(lambda t, m=memory: as_split(t, m), given, upstream)[1].items():  # type: ignore[misc]
                torch.testing.assert_close(gradient, wanted[name], rtol=1e-12, atol=1e-12)


def test_what_is_left_out_is_not_read() -> None:
    given = direct((1, 4, 3, 5, 6))
    with torch.no_grad():
        given["x"][0, 2] = torch.nan
    scored(given)[0, :2].sum().backward()
    assert all(t.grad is not None and bool(t.grad.isfinite().all()) for t in given.values())
    assert given["x"].grad is not None and not bool(given["x"].grad[0, 2:].any())
