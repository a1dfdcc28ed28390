"""`Sample`, `Batch`, `Text`, `Bag` and `collate()`: the one structure that every method speaks.

Axis letters, here and everywhere: B batch, M modalities, C channels, X Y Z voxels in RAS array order (X to the right, Y to the
front, Z up), S sentences, L tokens, N items of a bag, F features, K classes. Spacing is in mm.

`present` is True for present. Where it is False the content of the tensor is unspecified (zeros in use, NaN in tests) and
nothing may depend on it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TypeAlias, TypeVar

import numpy as np
import torch
from torch import Tensor

from comodal.errors import ConfigError, message, nearest
from comodal.modality import Modality


@dataclass(frozen=True)
class Text:
    """Tokenised sentences. ids: (B, S, L) int64; attention: (B, S, L) bool, True where there is a token.

    A sentence with no True is padding. Within a `Sample` the batch axis is left out: (S, L).
    """

    ids: Tensor
    attention: Tensor

    def to(self, device: torch.device | str) -> Text:
        """The same on another device."""
        return Text(self.ids.to(device), self.attention.to(device))


@dataclass(frozen=True)
class Bag:
    """A set of items. items: (B, N, ...) float; valid: (B, N) bool. Within a `Sample`: (N, ...) and (N,)."""

    items: Tensor
    valid: Tensor

    def to(self, device: torch.device | str) -> Bag:
        """The same on another device."""
        return Bag(self.items.to(device), self.valid.to(device))


# An encoding of a frozen encoder may have several tensors (the stages of a U-Net), hence the tuple.
Features: TypeAlias = Tensor | tuple[Tensor, ...]
Value: TypeAlias = Tensor | Text | Bag | tuple[Tensor, ...]
V = TypeVar("V", Tensor, Text, Bag)
_ASKED = {"image": "a Tensor (B, C, ...)", "vector": "a Tensor (B, F)", "text": "a Text", "bag": "a Bag"}


@dataclass(frozen=True)
class Sample:
    """One case, or one patch of it, as a data set hands it out.

    Attributes:
        id: The case, unique in the cohort.
        group: The patient: cases of one group never stand on two sides of a split.
        inputs: {modality: value} holding only what exists. Image (C, *spatial) float32.
        targets: {target: tensor}: regions (K, *spatial) uint8, labels (*spatial) int64, class and ordinal () int64,
            multilabel (K,) float32. Only what exists.
        labelled: {target: () or (K,) bool} for the targets that are there but known only in part; True by default.
        affines: {grid: (4, 4) float64}, voxel to RAS mm, of the patch that `inputs` holds.
    """

    id: str
    group: str
    inputs: Mapping[str, Value]
    targets: Mapping[str, Tensor] = field(default_factory=dict)
    labelled: Mapping[str, Tensor] = field(default_factory=dict)
    affines: Mapping[str, np.ndarray] = field(default_factory=dict)


def _rows(value: Value) -> int:
    if isinstance(value, Text):
        return value.ids.shape[0]
    if isinstance(value, Bag):
        return value.items.shape[0]
    return value[0].shape[0] if isinstance(value, tuple) else value.shape[0]


def _take(value: Value, rows: Tensor) -> Value:
    if isinstance(value, Text):
        return Text(value.ids[rows], value.attention[rows])
    if isinstance(value, Bag):
        return Bag(value.items[rows], value.valid[rows])
    if isinstance(value, tuple):
        return tuple(part[rows] for part in value)
    return value[rows]


def cleared(value: Value, present: Tensor) -> Value:
    """A value with nothing in it where it is absent: zeros, no tokens, no items, whatever stood there.

    The zeros are put by selection, not by multiplication, so that NaN in an absent row cannot survive; the gradient of an
    absent row is exactly zero.

    Args:
        value: Of one modality, batch axis first; also encodings.
        present: (B,) bool.

    Returns:
        The same kind of value and the same shapes.

    >>> cleared(torch.tensor([[1.0], [float("nan")]]), torch.tensor([True, False])).tolist()
    [[1.0], [0.0]]
    """
    if isinstance(value, Text):
        return Text(_select(value.ids, present), _select(value.attention, present))
    if isinstance(value, Bag):
        valid = _select(value.valid, present)
        return Bag(_select(value.items, valid), valid)
    return tuple(_select(part, present) for part in value) if isinstance(value, tuple) else _select(value, present)


def _select(tensor: Tensor, at: Tensor) -> Tensor:
    """The tensor where `at`, which has its first axes, is True; else zero."""
    return torch.where(at.reshape(*at.shape, *[1] * (tensor.ndim - at.ndim)), tensor, tensor.new_zeros(()))


def _move(value: Value, device: torch.device | str) -> Value:
    return tuple(part.to(device) for part in value) if isinstance(value, tuple) else value.to(device)


@dataclass(frozen=True)
class Batch:
    """B samples as tensors. It checks itself once, when built, and never changes.

    Attributes:
        modalities: Names in canonical order; the columns of `present`.
        inputs: {modality: image (B, C, *spatial) | Text | Bag | features (B, F) | encodings}. Every modality has an entry.
        present: (B, M) bool. Every row has at least one True.
        targets: {target: tensor}, batch axis first (see `Sample.targets`); unlabelled rows hold zeros.
        labelled: {target: (B,) or (B, K) bool}.
        ids, groups: Case and patient of each row.
        affines: {grid: (B, 4, 4) float64} where known.
    """

    modalities: tuple[str, ...]
    inputs: Mapping[str, Value]
    present: Tensor
    targets: Mapping[str, Tensor] = field(default_factory=dict)
    labelled: Mapping[str, Tensor] = field(default_factory=dict)
    ids: tuple[str, ...] = ()
    groups: tuple[str, ...] = ()
    affines: Mapping[str, Tensor] = field(default_factory=dict)

    def __post_init__(self) -> None:
        size = len(self.ids)
        if self.present.dtype != torch.bool or tuple(self.present.shape) != (size, len(self.modalities)):
            got = f"{self.present.dtype} {tuple(self.present.shape)}"
            rule = f"be bool of shape ({size}, {len(self.modalities)})"
            raise ConfigError(message("Batch.present", rule, got, do="Build it with collate()"))
        if set(self.inputs) != set(self.modalities):
            raise ConfigError(
                message("Batch.inputs", f"have exactly {self.modalities}", tuple(self.inputs), do="Build it with collate()")
            )
        sizes = {f"inputs[{name}]": _rows(value) for name, value in self.inputs.items()}
        sizes |= {f"targets[{name}]": value.shape[0] for name, value in self.targets.items()}
        sizes |= {f"labelled[{name}]": value.shape[0] for name, value in self.labelled.items()} | {"groups": len(self.groups)}
        for name, rows in sizes.items():
            if rows != size:
                raise ConfigError(message(f"Batch.{name}", f"have {size} rows, one per id", rows, do="Build it with collate()"))
        if set(self.labelled) != set(self.targets):
            rule = f"have exactly {tuple(self.targets)}"
            raise ConfigError(message("Batch.labelled", rule, tuple(self.labelled), do="Build it with collate()"))
        empty = (~self.present.any(dim=1)).nonzero().flatten().tolist()
        if empty:
            raise ConfigError(
                message(
                    "Batch.present",
                    "have at least one modality in every row",
                    f"none in row {empty[0]}",
                    subject=self.ids[empty[0]],
                    do=f"Leave the case out or keep one of: {', '.join(self.modalities)}",
                )
            )

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def device(self) -> torch.device:
        """Where the tensors live."""
        return self.present.device

    def index(self, modality: str) -> int:
        """Column of a modality in `present`; an unknown name is refused with the nearest known ones."""
        if modality not in self.modalities:
            raise ConfigError(message("modality", "be one of the batch", repr(modality), do=nearest(modality, self.modalities)))
        return self.modalities.index(modality)

    def is_present(self, modality: str) -> Tensor:
        """(B,) bool: which rows have this modality."""
        return self.present[:, self.index(modality)]

    def image(self, modality: str) -> Tensor:
        """(B, C, *spatial): an image with zeros where it is absent, whatever stood there."""
        return self._cleared(modality, Tensor, "image")

    def vector(self, modality: str) -> Tensor:
        """(B, F): the numbers of a modality of kind "features", zeros where it is absent, whatever stood there."""
        return self._cleared(modality, Tensor, "vector")

    def text(self, modality: str) -> Text:
        """The sentences of a modality; where it is absent there is no token (attention False), whatever stood there."""
        return self._cleared(modality, Text, "text")

    def bag(self, modality: str) -> Bag:
        """The items of a modality; zeros where they are not valid, and none is valid where it is absent."""
        return self._cleared(modality, Bag, "bag")

    def encodings(self) -> dict[str, Features]:
        """{modality: encodings} of those that some row has, as `Method.decode` takes them; absent rows are unspecified.

        For stages whose inputs are encoded: what no row has was never encoded, so not even its shape is known.
        """
        some = [name for name in self.modalities if bool(self.is_present(name).any())]
        return {name: value for name in some if isinstance(value := self.inputs[name], Tensor | tuple)}

    def _cleared(self, modality: str, kind: type[V], asked: str) -> V:
        present = self.is_present(modality)
        value = cleared(self.inputs[modality], present)
        shape = tuple(value.shape) if isinstance(value, Tensor) else None
        if not isinstance(value, kind) or (shape is not None and (asked == "vector") != (len(shape) == 2)):
            got = type(value).__name__ + ("" if shape is None else f" {shape}")
            do = "Ask image(), vector(), text() or bag() as its kind is, or encodings() in a stage on encodings"
            raise ConfigError(message(f"Batch.{asked}", f"be asked for {_ASKED[asked]}", got, modality=modality, do=do))
        return value

    def restrict(self, present: Tensor) -> Batch:
        """A new batch with some bits of `present` cleared; (B, M) bool. Bits can never be set."""
        return replace(self, present=self.present & present.to(self.present.device))

    def keep(self, names: Iterable[str]) -> Batch:
        """A new batch in which only these modalities may be present."""
        columns = {self.index(name) for name in names}
        bits = torch.tensor([i in columns for i in range(len(self.modalities))])
        return self.restrict(bits.expand(len(self), -1))

    def drop(self, names: Iterable[str]) -> Batch:
        """A new batch in which none of these modalities is present."""
        gone = {self.index(name) for name in names}
        return self.keep(name for i, name in enumerate(self.modalities) if i not in gone)

    def rows(self, rows: Sequence[int] | Tensor) -> Batch:
        """A new batch with these rows, in this order."""
        at = torch.as_tensor(rows, dtype=torch.long, device=self.device)
        return replace(
            self,
            inputs={name: _take(value, at) for name, value in self.inputs.items()},
            present=self.present[at],
            targets={name: value[at] for name, value in self.targets.items()},
            labelled={name: value[at] for name, value in self.labelled.items()},
            ids=tuple(self.ids[i] for i in at.tolist()),
            groups=tuple(self.groups[i] for i in at.tolist()),
            affines={name: value[at.to(value.device)] for name, value in self.affines.items()},
        )

    def with_inputs(self, inputs: Mapping[str, Value]) -> Batch:
        """A new batch with other inputs of the same names: how cached encodings reach a method."""
        return replace(self, inputs=dict(inputs))

    def to(self, device: torch.device | str) -> Batch:
        """The same on another device."""
        return replace(
            self,
            inputs={name: _move(value, device) for name, value in self.inputs.items()},
            present=self.present.to(device),
            targets={name: value.to(device) for name, value in self.targets.items()},
            labelled={name: value.to(device) for name, value in self.labelled.items()},
        )


def _pad_stack(tensors: Sequence[Tensor]) -> Tensor:
    """Stacks tensors of one rank, padding each axis with zeros to the longest."""
    shape = [max(t.shape[axis] for t in tensors) for axis in range(tensors[0].ndim)]
    out = tensors[0].new_zeros((len(tensors), *shape))
    for row, tensor in enumerate(tensors):
        out[row][tuple(slice(0, n) for n in tensor.shape)] = tensor
    return out


def _collate_modality(modality: Modality, values: Sequence[Value | None], shape: tuple[int, ...]) -> Value:
    """One modality of all samples; None where it is absent."""
    have = [value for value in values if value is not None]
    if modality.kind == "text":
        blank = Text(torch.zeros((1, 1), dtype=torch.long), torch.zeros((1, 1), dtype=torch.bool))
        texts = [value if isinstance(value, Text) else blank for value in values]
        return Text(_pad_stack([t.ids for t in texts]), _pad_stack([t.attention for t in texts]))
    if modality.kind == "bag":
        pictures = modality.spatial_dims == 2
        sides = () if not pictures else shape if len(shape) == 2 else (1, 1)
        empty = Bag(torch.zeros((1, modality.channels, *sides)), torch.zeros(1, dtype=torch.bool))
        there = [value for value in have if isinstance(value, Bag)]
        _check_shapes(modality, [value.items[0] for value in there if len(value.items)])
        first = next(iter(there), empty)
        none = Bag(torch.zeros_like(first.items[:1]), torch.zeros(1, dtype=torch.bool))
        bags = [value if isinstance(value, Bag) else none for value in values]
        return Bag(_pad_stack([b.items for b in bags]), _pad_stack([b.valid for b in bags]))
    tensors = [value for value in have if isinstance(value, Tensor)]
    _check_shapes(modality, tensors)
    like = tensors[0].shape if tensors else (modality.channels, *shape)
    zeros = torch.zeros(like, dtype=tensors[0].dtype if tensors else torch.float32)
    rows = [value if isinstance(value, Tensor) else zeros for value in values]
    return torch.stack(rows)


def _check_shapes(modality: Modality, tensors: Sequence[Tensor]) -> None:
    shapes = sorted({tuple(value.shape) for value in tensors})
    if len(shapes) > 1:
        do = "Crop, pad or resize them to the patch"
        raise ConfigError(message("collate", "get inputs of one shape", shapes, modality=modality.name, do=do))


def collate(
    samples: Sequence[Sample], modalities: Sequence[Modality], *, patch: Sequence[int] | Mapping[str, Sequence[int]] = ()
) -> Batch:
    """Puts samples into one batch.

    Args:
        samples: At least one; images of one modality must have one shape.
        modalities: All modalities of the problem, in canonical order. What a sample lacks is marked absent.
        patch: Spatial shape of an image, or of the items of a bag of images, that no sample has, where no other image tells it;
            or {grid: shape} (`Problem.patches`), where grids differ. Without any, absent items of a bag have one pixel.

    Returns:
        A `Batch`; a target that no sample has is left out, one that some have is zero and not `labelled` elsewhere.

    Raises:
        ConfigError: A sample has no modality at all, or inputs of one modality differ in shape.
    """
    by_grid: dict[str, tuple[int, ...]] = {}
    for modality in modalities:  # an absent image takes the shape of a present one of its grid
        for sample in samples:
            value = sample.inputs.get(modality.name)
            if modality.kind == "image" and isinstance(value, Tensor):
                by_grid.setdefault(modality.grid, tuple(value.shape[1:]))
    if isinstance(patch, Mapping):
        by_grid = {grid: tuple(shape) for grid, shape in patch.items()} | by_grid
    fallback = next(iter(by_grid.values()), () if isinstance(patch, Mapping) else tuple(patch))
    inputs = {
        m.name: _collate_modality(
            m,
            [s.inputs.get(m.name) for s in samples],
            () if m.kind == "features" else by_grid.get(m.grid, fallback),
        )
        for m in modalities
    }
    present = torch.tensor([[m.name in s.inputs for m in modalities] for s in samples], dtype=torch.bool)
    targets, labelled = {}, {}
    for name in dict.fromkeys(name for s in samples for name in s.targets):
        like = next(s.targets[name] for s in samples if name in s.targets)
        flag = next((s.labelled[name] for s in samples if name in s.labelled), torch.tensor(True))
        targets[name] = torch.stack([s.targets.get(name, torch.zeros_like(like)) for s in samples])
        labelled[name] = torch.stack(
            [s.labelled.get(name, torch.full_like(flag, name in s.targets, dtype=torch.bool)) for s in samples]
        )
    grids = [g for g in samples[0].affines if all(g in s.affines for s in samples)]
    return Batch(
        modalities=tuple(m.name for m in modalities),
        inputs=inputs,
        present=present.reshape(len(samples), len(modalities)),
        targets=targets,
        labelled=labelled,
        ids=tuple(s.id for s in samples),
        groups=tuple(s.group for s in samples),
        affines={g: torch.stack([torch.as_tensor(s.affines[g], dtype=torch.float64) for s in samples]) for g in grids},
    )
