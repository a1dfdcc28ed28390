"""The abstraction layer of HeMIS: what several modalities say about a voxel, as moments over those that are there.

Havaei et al. (2016), HeMIS, Section 2: each modality k has its own back end, whose feature maps C_k^l live in a space common
to all; the abstraction layer keeps, voxel by voxel and channel by channel, mean and variance over the available modalities K,

    E^l[C] = 1/|K| sum_{k in K} C_k^l,     Var^l[C] = 1/|K| sum_{k in K} (C_k^l - E^l[C])^2,

and the front end sees these alone, whatever the number of modalities. The divisor of the variance is not certain: the paper is
remembered with 1/(|K| - 1) and 0 where |K| = 1, while the public implementations that keep to the available modalities take
TensorFlow's moments, 1/|K|. The latter is the default here; `unbiased` is the former.

Axis letters: see `comodal.batch`; C are the channels of a feature map.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from comodal.batch import Batch, Features
from comodal.errors import ConfigError, message


def encode_present(batch: Batch, encoders: nn.ModuleDict) -> dict[str, Features]:
    """Features of each image by its own encoder, which sees only the rows that have the image.

    Right for encoders that treat each row by itself, as those without batch normalisation do. Where the number of modalities is
    drawn uniformly from 1 ... M, a share of (M - 1) / 2M of the encoding need not be computed: a third for three.

    Args:
        batch: Has the images.
        encoders: {modality: module from (b, channels, *spatial) to a tensor or tuple of tensors with b rows}.

    Returns:
        {modality: features (B, ...)} of those that some row has; rows that lack it are unspecified.
    """
    found: dict[str, Features] = {}
    for name, encoder in encoders.items():
        present = batch.is_present(name)
        rows = present.nonzero().flatten()
        if not len(rows):
            continue
        image = batch.image(name)
        # torch convolves a single small volume on a CPU by a slow path: at 48^3 alone it takes longer than in a pair.
        slow = len(rows) == 1 and image.ndim == 5 and image.device.type == "cpu"
        if slow or len(rows) == len(batch):
            found[name] = encoder(image)
            continue
        some = encoder(image[rows])
        found[name] = tuple(_spread(part, present) for part in some) if isinstance(some, tuple) else _spread(some, present)
    return found


def _spread(some: Tensor, present: Tensor) -> Tensor:
    """(b, ...) of the rows that are present, to (B, ...) with zeros in the others."""
    out = some.new_zeros((len(present), *some.shape[1:]))
    return out.index_copy(0, present.nonzero().flatten(), some)


def moments(features: Mapping[str, Tensor], present: Tensor, names: Sequence[str], *, unbiased: bool = False) -> Tensor:
    """Mean and variance over the modalities that each row has: the abstraction layer, see the module.

    The variance is the mean of squared deviations from the mean, in two passes: E[x^2] - E[x]^2 would cancel, and go negative
    where features are large. With one modality it is exactly 0, and so is the gradient through it, by arithmetic: the mean of
    one number is that number. What stands in absent rows is selected away, in value and in gradient.

    Args:
        features: {modality: (B, C, *spatial)}, all of one shape; absent rows are unspecified. May lack modalities that no row
            has. Their order in the mapping does not matter.
        present: (B, M) bool.
        names: The M columns of `present` in canonical order, in which sums are taken.
        unbiased: Divide the squared deviations by |K| - 1 instead of |K|; 0 where |K| = 1.

    Returns:
        (B, 2C, *spatial): first the C means, then the C variances; zero in a row that has none of `names`. At least float32.

    Raises:
        ConfigError: A row has a modality without features, or no row has any.

    >>> both = {"t1": torch.tensor([[1.0], [1.0]]), "t2": torch.tensor([[3.0], [float("nan")]])}
    >>> moments(both, torch.tensor([[True, True], [True, False]]), ["t1", "t2"]).tolist()
    [[2.0, 1.0], [1.0, 0.0]]
    """
    columns = list(zip(*present.tolist(), strict=True))  # one look at the device, not one per modality
    seen = [(column, name) for column, name in enumerate(names) if any(columns[column])]
    lacking = [name for _, name in seen if name not in features]
    if lacking or not seen:
        rule, got = "have each modality that some row has, and at least one", tuple(features)
        raise ConfigError(message("features", rule, got, modality=", ".join(lacking), do="Encode with the same batch"))
    like = features[seen[0][1]]
    count = present.sum(dim=1).reshape(-1, *[1] * (like.ndim - 1))  # (B, 1, ...)
    masks = [None if all(columns[column]) else present[:, column].reshape(count.shape) for column, _ in seen]
    values = [_kept(features[name], mask) for (_, name), mask in zip(seen, masks, strict=True)]
    if len(values) == 1:
        return torch.cat([values[0], torch.zeros_like(values[0])], dim=1)
    mean = sum(values[1:], values[0]) / count.clamp(min=1)
    square = torch.zeros_like(mean)
    for value, mask in zip(values, masks, strict=True):
        deviation = _kept(value - mean, mask)
        square = torch.addcmul(square, deviation, deviation)
    return torch.cat([mean, square / (count - int(unbiased)).clamp(min=1)], dim=1)


def _kept(value: Tensor, mask: Tensor | None) -> Tensor:
    """The value in at least float32, zero where the mask is False; no copy where there is nothing to do."""
    value = value.to(torch.promote_types(value.dtype, torch.float32))
    return value if mask is None else torch.where(mask, value, value.new_zeros(()))
