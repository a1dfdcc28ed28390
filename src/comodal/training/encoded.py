"""Stages on cached encodings: the frozen part of a method encodes each case once, and its features are then the inputs."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
from safetensors.torch import save
from torch import Tensor

from comodal.batch import Bag, Batch, Features, Sample, Text, Value, collate
from comodal.data import sampling
from comodal.errors import ConfigError, RunError, message
from comodal.method import Method, Problem, Stage
from comodal.modality import Modality
from comodal.run import read_weights
from comodal.stage import under

Seen = dict[tuple[str, str, int], Sample]


def frozen_hash(method: Method, stage: Stage) -> str:
    """Hash of the method's name and configuration and of the weights on which its `encode` rests; buffers included.

    Raises:
        ConfigError: The stage trains one of them, so that what was encoded would soon be wrong.
    """
    digest = hashlib.sha256(f"{type(method).__module__}.{type(method).__qualname__}|".encode())
    digest.update(method.config.model_dump_json().encode())
    for name, tensor in sorted(method.state_dict().items()):
        if not any(under(name, prefix) for prefix in method.encoded_by):
            continue
        if stage.trains(name) and method.encoded_by != ("",):
            rule, do = "not train what encodes its inputs", 'Set its inputs to "raw"'
            raise ConfigError(message(f"Stage {stage.name}", rule, name, do=do))
        if not stage.trains(name):
            digest.update(name.encode())
            digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


class EncodedDraws:
    """Draws whose inputs are encodings, cached by (case, modality, its content, hash of the frozen part of the method).

    Args:
        draws: Deterministic whole cases, without augmentation. Each is read once; which case a draw is of is known before.
        method: Its `encode` is called in eval mode, without gradient, on one case and one modality (or one group of those
            that are encoded together) at a time.
        stage: Decides what is frozen.
        problem: The modalities, in order.
        folder: Where encodings are kept.
        seen: What the stages of one training share in memory, so that a later stage on the same frozen part reads no case
            again; encodings by another frozen part are forgotten.
    """

    def __init__(
        self,
        draws: sampling.Draws,
        method: Method,
        stage: Stage,
        *,
        problem: Problem,
        folder: Path,
        seen: Seen | None = None,
    ) -> None:
        self.draws, self.method, self.problem, self.folder = draws, method, problem, folder
        self.key = frozen_hash(method, stage)
        if draws.use is not None:  # a later stage that reads more must not be handed cases without it
            self.key += f"|{'+'.join(draws.use)}"
        self.seen: Seen = {} if seen is None else seen
        for old in [entry for entry in self.seen if entry[0] != self.key]:
            del self.seen[old]

    def set_epoch(self, epoch: int) -> None:
        """Passed on: the order of cases still changes from epoch to epoch."""
        self.draws.set_epoch(epoch)

    def __len__(self) -> int:
        return len(self.draws)

    def __getitem__(self, index: int) -> Sample:
        return self.__getitems__([index])[0]

    def __getitems__(self, indices: Sequence[int]) -> list[Sample]:
        """Several at once, as torch's loader asks where it can."""
        order = self.draws.order()
        return [self._sample(index, int(order[index])) for index in indices]

    def _sample(self, index: int, draw: int) -> Sample:
        case, number = divmod(draw, self.draws.draws_per_case)
        entry = (self.key, self.draws.cases[case], number)
        if entry not in self.seen:
            raw = self.draws[index]
            self.seen[entry] = replace(raw, inputs=self._encode(raw))
        return self.seen[entry]

    def _encode(self, sample: Sample) -> dict[str, Features]:
        device = next(self.method.parameters()).device
        batch = collate([sample], self.problem.modalities, patch=self.problem.patches).to(device)
        modes = [(module, module.training) for module in self.method.modules()]
        self.method.eval()
        # a validation asks within mixed precision, a training without: a latent must not depend on who was first
        with torch.no_grad(), torch.autocast(device.type, enabled=False):
            found: dict[str, Features] = {}
            for names in self.method.encoded_parts(sample.inputs):
                found |= self._cached(batch.keep(names), names)
        for module, mode in modes:
            module.training = mode
        return found

    def _cached(self, batch: Batch, names: tuple[str, ...]) -> dict[str, Features]:
        digest = hashlib.sha256(f"{self.key}|{batch.ids[0]}|{'+'.join(names)}".encode())
        for tensor in (tensor for name in names for tensor in _tensors(batch.inputs[name])):
            digest.update(tensor.cpu().contiguous().numpy().tobytes())
        files = [self.folder / f"{digest.hexdigest()[:40]}-{number}.safetensors" for number in range(len(names))]
        known = {name: value for name, file in zip(names, files, strict=True) if (value := _stored(file)) is not None}
        if len(known) < len(names):
            known = self.method.encode(batch)
            known = {name: _first_row(known[name]) for name in names}
            for name, file in zip(names, files, strict=True):
                _store(file, known[name])
        return known


def _first_row(value: Features) -> Features:
    return tuple(part[0].cpu() for part in value) if isinstance(value, tuple) else value[0].cpu()


def _store(file: Path, value: Features) -> None:
    """Whole or not at all, but not forced to the disk: thousands of small files would wait, and what is lost is made anew."""
    parts, shape = (value, "tuple") if isinstance(value, tuple) else ((value,), "tensor")
    file.parent.mkdir(parents=True, exist_ok=True)
    partial = file.with_name(f".{file.name}.{os.getpid()}.partial")
    try:
        partial.write_bytes(save({f"{shape}-{i:03d}": part.contiguous().clone() for i, part in enumerate(parts)}))
        os.replace(partial, file)
    finally:
        partial.unlink(missing_ok=True)


def _stored(file: Path) -> Features | None:
    """None where there is no file, or a damaged one."""
    if not file.is_file():
        return None
    try:
        stored = read_weights(file)
    except RunError:
        return None
    tensors = tuple(stored[key] for key in sorted(stored))
    return tensors if next(iter(stored), "").startswith("tuple") else tensors[0] if tensors else None


def _tensors(value: Value) -> tuple[Tensor, ...]:
    if isinstance(value, Text):
        return (value.ids, value.attention)
    if isinstance(value, Bag):
        return (value.items, value.valid)
    return value if isinstance(value, tuple) else (value,)


def _stacked(values: Sequence[Features | None]) -> Features:
    """One modality of all samples; zeros where a sample lacks it."""
    like = next((value for value in values if value is not None), torch.zeros(1))
    if isinstance(like, tuple):
        rows = [value if isinstance(value, tuple) else tuple(map(torch.zeros_like, like)) for value in values]
        return tuple(torch.stack(parts) for parts in zip(*rows, strict=True))
    return torch.stack([value if isinstance(value, Tensor) else torch.zeros_like(like) for value in values])


def collate_encoded(samples: Sequence[Sample], problem: Problem) -> Batch:
    """Like `comodal.batch.collate`, for samples whose inputs are encodings."""
    if not any(isinstance(value, tuple) for sample in samples for value in sample.inputs.values()):
        return collate(samples, _as_vectors(problem))  # a tensor of any rank is stacked as a vector is
    bare = collate([replace(s, inputs={n: torch.zeros(1) for n in s.inputs}) for s in samples], _as_vectors(problem))
    features: dict[str, Value] = {}
    for name in problem.names:
        values = [s.inputs.get(name) for s in samples]
        features[name] = _stacked([v for v in values if v is None or isinstance(v, Tensor | tuple)])
    return bare.with_inputs(features)


def _as_vectors(problem: Problem) -> list[Modality]:
    return [Modality(m.name, kind="features", spatial_dims=0, channels=1) for m in problem.modalities]
