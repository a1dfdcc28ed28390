"""Scores of all pairs by an MLP on [x; y], without ever concatenating: exact, in blocks, within a budget of memory.

The first layer is linear, so W [x; y] + b = W_x x + (W_y y + b): both projections are computed once per item, and only the
layers after it run on pairs. What is here takes those projections.

`relu_pairs` serves the critic that everybody uses, ReLU, one hidden layer, ReLU, one output, and needs no second evaluation of
its hidden layer in the backward pass. With h = relu(p_x + p_y), z = W h + b, s = w . relu(z) and the signs m = [z > 0],

    d s / d h   = W^T (m w)                       needs m only,
    d L / d W   = w_k G_k with G = sum over pairs of (dL/ds m) h^T,
    d L / d w_k = sum over pairs of dL/ds m_k z_k = W_k . G_k + b_k g_k with g = sum over pairs of dL/ds m,

so that all that is kept per pair is one bit per hidden unit; h is an addition and is made again. Every product with W is done
once forward and twice backward, as in a plain backward pass, and the memory is that of one block and of the bits. Items x none
of whose scores gets a gradient are left out of the backward pass: where most scores only serve to choose a few, these cost no
more than they would alone.
`blocked_pairs` serves any other tail: torch's checkpoint keeps nothing of a block and evaluates it again.

Axis letters: L leading (locations), A items x, C items y, H hidden units of the first layer, K of the second.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

MIB = 1024**2
_GATHERING = 0x0102040810204080  # times eight bytes that are 0 or 1: their bits are those of the highest byte of the product
Block = tuple[slice, slice, slice]


def blocks(shape: tuple[int, int, int], pairs: int) -> Iterator[Block]:
    """Cuts (L, A, C) into blocks of at most so many pairs, whole rows and whole locations where they fit.

    >>> [tuple((s.start, s.stop) for s in block) for block in blocks((1, 3, 4), 8)]
    [((0, 1), (0, 2), (0, 4)), ((0, 1), (2, 3), (0, 4))]
    """
    locations, rows, columns = shape
    wide = min(columns, max(1, pairs))
    high = min(rows, max(1, pairs // max(wide, 1)))
    deep = max(1, pairs // max(rows * columns, 1)) if wide == columns and high == rows else 1
    for place in range(0, locations if rows and columns else 0, deep):
        for row in range(0, rows, high):
            for column in range(0, columns, wide):
                ends = (min(place + deep, locations), min(row + high, rows), min(column + wide, columns))
                yield slice(place, ends[0]), slice(row, ends[1]), slice(column, ends[2])


def relu_pairs(x: Tensor, y: Tensor, *, weight: Tensor, bias: Tensor, last: Tensor, memory: float | None = None) -> Tensor:
    """W . relu(W relu(x + y) + b) for all pairs; agrees with the plain form in value and gradient.

    Args:
        x: (L, A, H), W_x x of each item.
        y: (L, C, H), W_y y + b of each item.
        weight: (K, H), W of the hidden layer.
        bias: (K,), b.
        last: (K,), w of the output.
        memory: MiB for one block; None: 8 on a CPU, where a block should fit its cache, 256 on a GPU.

    Returns:
        (L, A, C) scores without the output's bias, in at least float32. Differentiable once. Under autocast the products are
        taken in its type.
    """
    device = x.device.type
    kind = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else weight.dtype
    # Inside, gradients are off and needs_input_grad does not know of `no_grad`.
    keep = torch.is_grad_enabled() and any(tensor.requires_grad for tensor in (x, y, weight, bias, last))
    result: Tensor = _ReluPairs.apply(x, y, weight, bias, last, memory, kind, keep)  # type: ignore[no-untyped-call]
    return result


def _pairs_in(memory: float | None, width: int, like: Tensor) -> int:
    """How many pairs a block of so many MiB may have: two tensors of each layer's width are alive at a time."""
    budget = memory if memory is not None else 8.0 if like.device.type == "cpu" else 256.0
    return max(1, int(budget * MIB) // (2 * width * like.dtype.itemsize))


class _ReluPairs(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, *given: Any) -> Tensor:
        x, y, weight, bias, last, memory, kind, keep = given
        cast = [tensor.to(kind) for tensor in (x, y, weight, bias, last)]
        shape = (len(x), x.shape[1], y.shape[1])
        pairs = _pairs_in(memory, sum(weight.shape), cast[2])
        scores: Tensor = x.new_empty(shape, dtype=torch.promote_types(kind, torch.float32))
        signs = x.new_empty((*shape, -(-len(weight) // 8)) if keep else 0, dtype=torch.uint8)
        for block in blocks(shape, pairs):
            hidden = torch.addmm(cast[3], _first_layer(cast[0], cast[1], block), cast[2].t())  # (pairs, K)
            if keep:
                signs[block] = _packed(hidden > 0).view(*scores[block].shape, -1)
            scores[block] = (hidden.relu_() @ cast[4]).view(scores[block].shape).to(scores.dtype)
        ctx.save_for_backward(*cast, signs)
        ctx.kinds, ctx.pairs = [tensor.dtype for tensor in (x, y, weight, bias, last)], pairs
        ctx.shape = shape
        return scores

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor | None, ...]:
        if torch.is_grad_enabled():  # create_graph=True: a second derivative would silently be incomplete
            raise RuntimeError("relu_pairs can be differentiated once; for a gradient penalty score pairs by critic(x, y).")
        x, y, weight, bias, last, signs = ctx.saved_tensors
        flows, shape = upstream[0], ctx.shape
        used = flows.ne(0).any(dim=2).any(dim=0).nonzero().flatten()  # (A',); NaN is not 0
        if len(used) < shape[1]:
            x, signs, flows = x[:, used], signs[:, used], flows[:, used]
            shape = (shape[0], len(used), shape[2])
        wide = torch.promote_types(weight.dtype, torch.float32)
        grad_x, grad_y = (torch.zeros(t.shape, dtype=wide, device=t.device) for t in (x, y))
        outer, total = (torch.zeros(t.shape, dtype=wide, device=t.device) for t in (weight, bias))
        scaled = last[:, None] * weight  # (K, H)
        to_items, to_weights = any(ctx.needs_input_grad[:2]), any(ctx.needs_input_grad[2:5])
        table = _patterns(weight)
        for block in blocks(shape, ctx.pairs):
            hidden = _first_layer(x, y, block)  # (pairs, H)
            flow = flows[block].to(weight.dtype).reshape(-1, 1)
            masked = nn.functional.embedding(signs[block].reshape(len(flow), -1).int(), table).flatten(1)
            masked = masked[:, : len(weight)].mul_(flow)  # (pairs, K)
            if to_weights:
                outer += masked.t() @ hidden  # G
                total += masked.sum(0, dtype=wide)  # g
            if to_items:
                back = torch.ops.aten.threshold_backward(masked @ scaled, hidden, 0)
                back = back.view(*flows[block].shape, -1)  # (l, a, c, H)
                grad_x[block[0], block[1]] += back.sum(2, dtype=wide)
                grad_y[block[0], block[2]] += back.sum(1, dtype=wide)
        if len(used) < ctx.shape[1]:
            grad_x = grad_x.new_zeros(ctx.shape[0], ctx.shape[1], grad_x.shape[2]).index_copy_(1, used, grad_x)
        w = last.to(wide)
        grads = [grad_x, grad_y, w[:, None] * outer, w * total, (weight.to(wide) * outer).sum(1) + bias.to(wide) * total]
        asked = zip(grads, ctx.kinds, ctx.needs_input_grad, strict=False)
        return (*(grad.to(kind) if needed else None for grad, kind, needed in asked), None, None, None)


def _first_layer(x: Tensor, y: Tensor, block: Block) -> Tensor:
    """(pairs, H) relu(x + y) of one block."""
    place, row, column = block
    return (x[place, row, None] + y[place, None, column]).relu_().reshape(-1, x.shape[-1])


def _packed(signs: Tensor) -> Tensor:
    """(pairs, K) bool to (pairs, K / 8) bytes, eight neighbours in each, in an order that `_patterns` finds out."""
    eight = nn.functional.pad(signs, (0, -signs.shape[1] % 8)).view(torch.int64)  # a bool is a byte that is 0 or 1
    return ((eight * _GATHERING) >> 56).to(torch.uint8)


def _patterns(like: Tensor) -> Tensor:
    """(256, 8): the eight numbers 0 or 1 that were packed into each byte."""
    every = (torch.arange(256, device=like.device)[:, None] >> torch.arange(8, device=like.device)) & 1
    return torch.empty_like(every, dtype=like.dtype).index_copy_(0, _packed(every > 0)[:, 0].long(), every.to(like.dtype))


def blocked_pairs(x: Tensor, y: Tensor, tail: Callable[[Tensor], Tensor], *, width: int, memory: float | None = None) -> Tensor:
    """tail(x + y) for all pairs, in blocks that are evaluated again in the backward pass: for any tail.

    Args:
        x: (L, A, H), W_x x of each item.
        y: (L, C, H), W_y y + b of each item.
        tail: From (pairs, H) to (pairs,) or (pairs, 1).
        width: Features of all layers together, for the size of a block.
        memory: MiB for one block; None: 8 on a CPU, where a block should fit its cache, 256 on a GPU.

    Returns:
        (L, A, C).
    """
    shape = (len(x), x.shape[1], y.shape[1])
    pairs = _pairs_in(memory, width, x)

    def part(row: Tensor, column: Tensor) -> Tensor:
        hidden = row[:, :, None] + column[:, None]  # (l, a, c, H)
        return tail(hidden.flatten(0, 2)).view(hidden.shape[:-1])

    done = [
        checkpoint(part, x[place, row], y[place, column], use_reentrant=False, preserve_rng_state=False)
        for place, row, column in blocks(shape, pairs)
    ]
    return _assembled(done, shape, pairs) if done else (x.sum() + y.sum()) * 0 + x.new_zeros(shape)


def _assembled(parts: list[Tensor], shape: tuple[int, int, int], pairs: int) -> Tensor:
    """Puts blocks together again; `torch.cat` keeps the graph, writing into slices would copy it."""
    places: dict[int, dict[int, list[Tensor]]] = {}
    for (place, row, _), part in zip(blocks(shape, pairs), parts, strict=True):
        places.setdefault(place.start, {}).setdefault(row.start, []).append(part)
    rows = [[torch.cat(columns, dim=2) for columns in by_row.values()] for by_row in places.values()]
    return torch.cat([torch.cat(row, dim=1) for row in rows])
