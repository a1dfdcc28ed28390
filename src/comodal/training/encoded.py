"""Stages on cached encodings: the frozen part of a method encodes each case once, and its features are then the inputs."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from comodal.batch import Bag, Batch, Features, Sample, Text, Value, collate
from comodal.data import sampling
from comodal.errors import ConfigError, message
from comodal.method import Method, Problem, Stage
from comodal.modality import Modality
from comodal.run import read_weights, save_weights
from comodal.stage import under


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
    """

    def __init__(self, draws: sampling.Draws, method: Method, stage: Stage, *, problem: Problem, folder: Path) -> None:
        self.draws, self.method, self.problem, self.folder = draws, method, problem, folder
        self.key = frozen_hash(method, stage)
        self.memory: dict[int, Sample] = {}

    def set_epoch(self, epoch: int) -> None:
        """Passed on: the order of cases still changes from epoch to epoch."""
        self.draws.set_epoch(epoch)

    def __len__(self) -> int:
        return len(self.draws)

    def __getitem__(self, index: int) -> Sample:
        draw = int(self.draws.order()[index])
        if draw not in self.memory:
            raw = self.draws[index]
            self.memory[draw] = replace(raw, inputs=self._encode(raw))
        return self.memory[draw]

    def _encode(self, sample: Sample) -> dict[str, Features]:
        device = next(self.method.parameters()).device
        batch = collate([sample], self.problem.modalities, patch=self.problem.patches).to(device)
        modes = [(module, module.training) for module in self.method.modules()]
        self.method.eval()
        with torch.no_grad():
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
        if not all(file.is_file() for file in files):
            found = self.method.encode(batch)
            for name, file in zip(names, files, strict=True):
                value = found[name]
                parts = value if isinstance(value, tuple) else (value,)
                shape = "tuple" if isinstance(value, tuple) else "tensor"
                save_weights(file, {f"{shape}-{i:03d}": part[0] for i, part in enumerate(parts)})
        return {name: _stored(file) for name, file in zip(names, files, strict=True)}


def _stored(file: Path) -> Features:
    stored = read_weights(file)
    tensors = tuple(stored[key] for key in sorted(stored))
    return tensors if next(iter(stored)).startswith("tuple") else tensors[0]


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
    bare = collate([replace(s, inputs={n: torch.zeros(1) for n in s.inputs}) for s in samples], _as_vectors(problem))
    features: dict[str, Value] = {}
    for name in problem.names:
        values = [s.inputs.get(name) for s in samples]
        features[name] = _stacked([v for v in values if v is None or isinstance(v, Tensor | tuple)])
    return bare.with_inputs(features)


def _as_vectors(problem: Problem) -> list[Modality]:
    return [Modality(m.name, kind="features", spatial_dims=0, channels=1) for m in problem.modalities]
