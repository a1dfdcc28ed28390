"""What `check_method` looks at: a method that can be built again and again, and the batches that it would get."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from comodal.batch import Bag, Batch, Features, Text, Value
from comodal.method import Method, MethodConfig, Prediction, Problem, Stage
from comodal.modality import subsets
from comodal.testing.batches import make_batch


@dataclass(frozen=True)
class Subject:
    """A method under check: class, problem and configuration; `build()` always gives the same weights."""

    cls: type[Method]
    problem: Problem
    config: MethodConfig

    def build(self, seed: int = 0) -> Method:
        """The method with weights drawn from `seed`."""
        torch.manual_seed(seed)
        return self.cls(self.problem, self.config)

    def supported(self) -> list[tuple[str, ...]]:
        """All subsets from which it predicts."""
        method = self.build()
        return [s for s in subsets(self.problem.names) if method.supports(s)]

    def mixed(self, size: int = 4) -> Batch:
        """A batch to predict from, whose rows have different supported subsets."""
        supported = self.supported()
        return make_batch(self.problem, size, present=self._bits([supported[i % len(supported)] for i in range(size)]))

    def training(self, stage: Stage, size: int = 4, *, seed: int = 0) -> Batch:
        """A batch to train from: rows of any subsets, supported or not, that have what the stage requires."""
        every = [tuple({*s, *stage.modalities}) for s in subsets(self.problem.names)]
        order = torch.randperm(len(every), generator=torch.Generator().manual_seed(seed)).tolist()
        rows = [every[order[i % len(order)]] for i in range(size)]
        return make_batch(self.problem, size, seed=seed, present=self._bits(rows))

    def _bits(self, rows: list[tuple[str, ...]]) -> Tensor:
        return torch.tensor([[name in row for name in self.problem.names] for row in rows])


def encodings(method: Method, batch: Batch) -> dict[str, Features]:
    """What the loop and the predictor make of a batch: each modality (or group) by itself, zeros in rows that lack it.

    Args:
        method: One that encodes; left in eval mode.
        batch: Raw.

    Returns:
        {modality: features (B, ...)} of those that some row has.
    """
    method.eval()
    found: dict[str, Features] = {}
    for part in method.encoded_parts(batch.modalities):
        rows = torch.stack([batch.is_present(name) for name in part]).all(dim=0).nonzero().flatten()
        if not len(rows):
            continue
        with torch.no_grad():
            values = method.encode(batch.rows(rows).keep(part))
        for name in part:
            wide = tuple(p.new_zeros((len(batch), *p.shape[1:])).index_copy(0, rows, p) for p in tensors(values[name]))
            found[name] = wide if isinstance(values[name], tuple) else wide[0]
    return found


def stage_batch(method: Method, stage: Stage, batch: Batch) -> Batch:
    """What the loop would hand to `losses` in this stage: the batch, or its encodings by the frozen encoders."""
    if stage.inputs == "raw":
        return batch
    features = encodings(method, batch)
    nothing = torch.zeros((len(batch), 1), device=batch.present.device)
    return batch.with_inputs({name: features.get(name, nothing) for name in batch.modalities})


def tensors(value: Value) -> Iterator[Tensor]:
    """The tensors of one modality's value."""
    if isinstance(value, Text):
        yield from (value.ids, value.attention)
    elif isinstance(value, Bag):
        yield from (value.items, value.valid)
    else:
        yield from value if isinstance(value, tuple) else (value,)


def losses(method: Method, stage: Stage, batch: Batch, *, seed: int = 0) -> tuple[dict[str, Tensor], Tensor]:
    """Loss terms and their sum, with torch's generator at `seed`."""
    torch.manual_seed(seed)
    terms = method.losses(batch, stage)
    assert terms, f"losses of stage {stage.name} must return at least one term"
    return terms, torch.stack(list(terms.values())).sum()


def predicted(method: Method, batch: Batch) -> Prediction:
    """A prediction in eval mode without gradient; the method stays in eval mode."""
    method.eval()
    with torch.no_grad():
        return method.predict(batch)


def same_bits(a: Tensor, b: Tensor) -> bool:
    """Whether two tensors are equal, NaN equal to NaN."""
    return a.shape == b.shape and torch.equal(torch.nan_to_num(a, nan=12345.0), torch.nan_to_num(b, nan=12345.0))


def same_prediction(a: Prediction, b: Prediction) -> bool:
    """Whether two predictions are equal to the bit, extras included."""
    named = ((a.probabilities, b.probabilities), (a.extras, b.extras), ({"used": a.used}, {"used": b.used}))
    return all(one.keys() == two.keys() and all(same_bits(one[n], two[n]) for n in one) for one, two in named)
