"""Local and global features of images and reports: the places of a map or the words of a report, and one vector of the whole.

Lambda and Gamma of CMIM (Sylvain et al., 2021). Absent rows are never put through a network.

Axis letters: B cases, N places (positions of a map; words), F features of the whole, F' of a place.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from comodal.batch import Batch
from comodal.errors import ConfigError, message, nearest
from comodal.method import Problem
from comodal.networks.latents import EncoderConfig
from comodal.networks.regions import RegionEncoder
from comodal.networks.retraining import a_word, of_none
from comodal.networks.texts import TextEncoder, text_encoder, text_pretrained
from comodal.processes import world_size

Found = tuple[Tensor, Tensor, Tensor, Tensor]


def local_encoder(problem: Problem, name: str, config: EncoderConfig) -> RegionEncoder | TextEncoder:
    """The encoder of one modality.

    Args:
        problem: Has the modality.
        name: Of the modality.
        config: What encoders are made of; with `slices: mean` volumes are read slice by slice.

    Raises:
        ConfigError: Neither an image nor a report, or an encoder that has no map.
    """
    modality = problem.modality(name)
    if modality.kind == "text":
        return text_encoder(problem.vocabulary, config)
    if modality.kind != "image":
        rule, do = "be an image or a report here", "Leave it out of data.modalities"
        raise ConfigError(message("modality", rule, modality.kind, modality=name, do=do))
    asked = config.encoder
    for key in asked if isinstance(asked, dict) else ():
        if key not in problem.names:
            do = nearest(key, problem.names)
            raise ConfigError(message("method.encoder", "name modalities of the problem", repr(key), do=do))
    default = type(config).model_fields["encoder"].default
    kind = asked.get(name, default) if isinstance(asked, dict) else asked
    dims, patch = problem.dims_of(name), problem.patch_of(name)
    if dims == 3 and config.slices == "attention":
        rule, do = "be volume or mean where places of a volume are compared", "Set it to mean"
        raise ConfigError(message("method.slices", rule, "attention", modality=name, do=do))
    flat = 2 if dims == 3 and config.slices == "mean" else dims
    return RegionEncoder(kind, flat, modality.channels, fold=1, norm=config.norm, patch=patch[:flat], modality=name)


def local_pretrained(encoders: nn.ModuleDict, prefix: str, config: EncoderConfig) -> dict[str, str]:
    """{parameter prefix: source} for `Method.pretrained`.

    Args:
        encoders: {modality: encoder}.
        prefix: Under which these are in the method.
        config: Says where the weights are.

    Raises:
        ConfigError: A modality without an encoder of images.
    """
    images = [name for name, encoder in encoders.items() if isinstance(encoder, RegionEncoder)]
    for name in config.pretrained:
        if name not in images:
            rule, do = "name modalities with an encoder of images", f"Encoders of images here: {', '.join(images) or 'none'}"
            raise ConfigError(message("method.pretrained", rule, repr(name), do=do))
    found = {f"{prefix}.{name}": source for name, source in config.pretrained.items()}
    for name in encoders:
        found |= {} if name in images else text_pretrained(config, f"{prefix}.{name}")
    return found


def local_features(encoder: nn.Module, batch: Batch, name: str) -> Found:
    """What an encoder says of one modality of a batch.

    Args:
        encoder: Of `local_encoder`.
        batch: B cases.
        name: Of the modality.

    Returns:
        (B,) bool, the rows that have it and, of a report, a word in it; (B, F) of the whole; (B, N, F') of the places; (B, N)
        bool, which places there are. Zeros where there is nothing.
    """
    if isinstance(encoder, TextEncoder):
        text = batch.text(name)
        whole, places, valid, rows = encoder.words(text)
        if world_size() > 1 and not bool(rows.any()):  # the graph of the others, see `of_none`; a sum over no row is 0
            one, each = of_none(encoder, lambda: encoder.words(a_word(text))[:2])
            whole, places = whole + one.sum(), places + each.sum()
        return rows, whole, places, valid
    assert isinstance(encoder, RegionEncoder)
    images, rows = batch.image(name), batch.is_present(name)
    found, each = _of_images(encoder, images[rows]) if bool(rows.any()) else _of_nothing(encoder, images)
    whole = found.new_zeros(len(rows), encoder.features).index_put((rows,), found)
    places = each.new_zeros(len(rows), *each.shape[1:]).index_put((rows,), each)
    return rows, whole, places, rows[:, None].expand(-1, places.shape[1])


def _of_images(encoder: RegionEncoder, images: Tensor) -> tuple[Tensor, Tensor]:
    """(R, C, *spatial) to (R, F) and (R, N, F'). Of a volume that is read slice by slice the mean, and the places of all."""
    by_slice = images.ndim - 2 > encoder.spatial_dims
    each = images.movedim(-1, 1).flatten(0, 1) if by_slice else images  # (R Z, C, X, Y)
    maps = encoder.last(encoder.low(each))
    whole, places = encoder.whole(maps), maps.flatten(2).transpose(1, 2)
    if not by_slice:
        return whole, places
    size = len(images)
    return whole.reshape(size, -1, whole.shape[-1]).mean(dim=1), places.reshape(size, -1, places.shape[-1])


def _of_nothing(encoder: RegionEncoder, images: Tensor) -> tuple[Tensor, Tensor]:
    """No rows. Other processes may have some: this one then needs their graph, and to know how many places an image has."""
    if world_size() > 1:
        whole, places = of_none(encoder, lambda: _of_images(encoder, torch.zeros_like(images[:1])))
        return whole, places
    return images.new_zeros(0, encoder.features), images.new_zeros(0, 1, encoder.map_features)
