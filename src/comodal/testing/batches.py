"""Small batches that a method can learn from, and their poisoned twins. Axis letters: see `comodal.batch`."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from comodal.batch import Bag, Batch, Text, Value, cleared
from comodal.errors import ConfigError, message
from comodal.method import Problem
from comodal.modality import Modality, Target

SENTENCES, TOKENS, ITEMS = 3, 6, 4
TILE = (16, 16)  # pixels of the items of a bag of pictures, where the problem does not say
LEAST_VOCABULARY = 5  # padding, unknown, start of sentence and two words that tell the classes


def _blob(patch: tuple[int, ...], radius: float, generator: torch.Generator) -> Tensor:
    """A ball in a random place: (*spatial) bool."""
    axes = torch.meshgrid(*[torch.arange(n, dtype=torch.float32) for n in patch], indexing="ij")
    centre = [n * (0.35 + 0.3 * float(torch.rand((), generator=generator))) for n in patch]
    distance: Tensor = sum(((a - c) / n) ** 2 for a, c, n in zip(axes, centre, patch, strict=True))  # type: ignore[assignment]
    return distance < radius**2


def _target(target: Target, rows: list[int], blobs: Tensor) -> Tensor:
    """The truth of one target: nested shells of the blob, or the row's hidden class."""
    classes = len(target.classes)
    if target.kind == "regions":
        return torch.stack([blobs < 0.35 - 0.2 * k / classes for k in range(classes)], dim=1).to(torch.uint8)
    if target.kind == "labels":
        return sum((blobs < 0.35 - 0.2 * k / classes).long() for k in range(classes - 1)) + torch.zeros_like(blobs).long()
    hidden = torch.tensor(rows)
    if target.kind == "multilabel":
        return torch.stack([(hidden + k) % 2 for k in range(classes)], dim=1).float()
    return hidden % classes


def _input(modality: Modality, problem: Problem, rows: list[int], blobs: Tensor, generator: torch.Generator) -> Value:
    """One modality of all rows: noise plus what the hidden class and the blob leave in it."""
    hidden = torch.tensor(rows, dtype=torch.float32)
    size = len(rows)
    if modality.kind == "text":
        if problem.vocabulary < LEAST_VOCABULARY:
            rule, do = f"be at least {LEAST_VOCABULARY} where a modality is text", "Set vocabulary=8 or so"
            raise ConfigError(message("Problem.vocabulary", rule, problem.vocabulary, modality=modality.name, do=do))
        ids = torch.randint(3, problem.vocabulary, (size, SENTENCES, TOKENS), generator=generator)
        ids[:, 0, 0] = 3 + hidden.long()  # the first word tells the class
        attention = torch.ones_like(ids, dtype=torch.bool)
        attention[:, :, TOKENS - 2 :] = False
        attention[:, SENTENCES - 1] = False  # padding: a sentence and two tokens
        return Text(ids, attention)
    if modality.kind == "features":
        return torch.randn((size, modality.channels), generator=generator) + hidden[:, None]
    if modality.kind == "bag":
        valid = torch.ones((size, ITEMS), dtype=torch.bool)
        valid[:, -1] = False
        known = problem.patches.get(modality.grid, ())
        sides = () if modality.spatial_dims != 2 else known if len(known) == 2 else TILE
        noise = torch.randn((size, ITEMS, modality.channels, *sides), generator=generator)
        return Bag(noise + hidden.reshape(-1, *[1] * (noise.ndim - 1)), valid)
    noise = torch.randn((size, modality.channels, *problem.patch_of(modality.name)), generator=generator)
    lift = hidden.reshape(-1, *[1] * (noise.ndim - 1)) * 0.5
    if modality.grid == problem.grid:  # another view has no voxels in common with the segmentation
        lift = (blobs < 0.35).float()[:, None] * 2 + lift
    return noise * 0.3 + lift


def make_batch(problem: Problem, size: int = 4, *, seed: int = 0, present: Tensor | None = None) -> Batch:
    """A batch with something to learn in it: a bright ball, a tell-tale word, a shifted vector.

    Args:
        problem: What the batch is for; images have the sizes of its patches.
        size: B.
        seed: Same seed, same batch.
        present: (B, M) bool; everything by default.

    Returns:
        A `Batch` on the CPU, with every target labelled. What is not `present` has content too, which nothing may read.

    Raises:
        ConfigError: A modality is text and the problem's vocabulary is too small.
    """
    generator = torch.Generator().manual_seed(seed)
    rows = [i % 2 for i in range(size)]
    spatial = problem.patch or (1,)
    blobs = torch.ones((size, *spatial))
    for row in range(size):  # distance levels 0.1 ... 0.3 as nested shells
        state = generator.get_state()
        for radius in (0.3, 0.25, 0.2, 0.15, 0.1):
            generator.set_state(state)
            blobs[row][_blob(spatial, radius, generator)] = radius
    have = torch.ones((size, len(problem.modalities)), dtype=torch.bool) if present is None else present
    targets = {t.name: _target(t, rows, blobs) for t in problem.targets}
    wide = {t.name: (size, len(t.classes)) if t.kind == "multilabel" else (size,) for t in problem.targets}
    return Batch(
        modalities=problem.names,
        inputs={m.name: _input(m, problem, rows, blobs, generator) for m in problem.modalities},
        present=have,
        targets=targets,
        labelled={name: torch.ones(shape, dtype=torch.bool) for name, shape in wide.items()},
        ids=tuple(f"case-{i}" for i in range(size)),
        groups=tuple(f"patient-{i}" for i in range(size)),
    )


def _poisoned(value: Value, absent: Tensor, generator: torch.Generator) -> Value:
    if isinstance(value, Text):
        junk = torch.randint(0, int(value.ids.max()) + 1, value.ids.shape, generator=generator)
        at = absent[:, None, None]
        return Text(torch.where(at, junk, value.ids), torch.where(at, torch.ones_like(value.attention), value.attention))
    if isinstance(value, Bag):
        count = torch.rand(value.valid.shape, generator=generator) < 0.5
        at = absent.reshape(-1, *[1] * (value.items.ndim - 1))
        junk = torch.full_like(value.items, float("nan"))
        return Bag(torch.where(at, junk, value.items), torch.where(absent[:, None], count, value.valid))
    if isinstance(value, tuple):
        return tuple(part for part in (_poisoned(p, absent, generator) for p in value) if isinstance(part, Tensor))
    at = absent.reshape(-1, *[1] * (value.ndim - 1))
    return torch.where(at, torch.full_like(value, float("nan")), value)


def poison(batch: Batch, seed: int = 1) -> Batch:
    """The same batch with other content where `present` is False: NaN, random tokens under full attention, random counts.

    Nothing that a method computes may change.
    """
    generator = torch.Generator().manual_seed(seed)
    inputs: Mapping[str, Value] = {n: _poisoned(v, ~batch.is_present(n), generator) for n, v in batch.inputs.items()}
    return batch.with_inputs(inputs)


def blank(batch: Batch) -> Batch:
    """The same batch with nothing where `present` is False, as `collate` leaves it: zeros, no tokens, no items.

    Nothing that a method computes may change: a mean over no tokens must not become NaN.
    """
    return batch.with_inputs({n: cleared(v, batch.is_present(n)) for n, v in batch.inputs.items()})


def padded(batch: Batch, seed: int = 2) -> Batch:
    """The same batch beside longer ones: one more sentence, two more tokens and two more items, none of them valid.

    Nothing that a method predicts may change, else a case would depend on those that share its batch.
    """
    generator = torch.Generator().manual_seed(seed)

    def longer(value: Value) -> Value:
        if isinstance(value, Text):
            size, sentences, tokens = value.ids.shape
            ids = torch.randint(0, int(value.ids.max()) + 1, (size, sentences + 1, tokens + 2), generator=generator)
            attention = torch.zeros_like(ids, dtype=torch.bool)
            ids[:, :sentences, :tokens], attention[:, :sentences, :tokens] = value.ids, value.attention
            return Text(ids, attention)
        if isinstance(value, Bag):
            none = torch.full_like(value.items[:, :1], float("nan"))
            return Bag(torch.cat([value.items, none, none], dim=1), torch.nn.functional.pad(value.valid, (0, 2)))
        return value

    return batch.with_inputs({name: longer(value) for name, value in batch.inputs.items()})
