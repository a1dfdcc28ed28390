"""One latent for each modality of a case, whatever its kind: images, bags of pictures or vectors, feature vectors, reports.

An absent row has a latent of zeros and is never put through a network, so that no running statistic sees it.

Axis letters: see `comodal.batch`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from comodal.batch import Batch, Text
from comodal.errors import ConfigError, message, nearest
from comodal.method import Problem
from comodal.modality import Modality
from comodal.networks.encoders import ImageEncoder, Norm, Slices
from comodal.networks.pooling import GatedAttention
from comodal.networks.texts import TextConfig, TextEncoder, text_encoder, text_pretrained

Fusion = Literal["latents", "channels"]


class EncoderConfig(TextConfig):
    """Settings of encoders that several methods share; those of reports are counted only where a modality is text."""

    encoder: str | dict[str, str] = Field(
        "resnet18", description="of images and tiles: a name, or {modality: name}; see docs/encoders.md"
    )
    slices: Slices = Field("volume", description="volumes in 3-D, or slice by slice in 2-D and then their mean or attention")
    norm: Norm = Field("batch", description="of encoders of images: batch normalisation, or group, which knows no other cases")
    pretrained: dict[str, str] = Field(
        {}, description="{modality: safetensors file, or id on the hub} of weights to start from"
    )
    vector: int = Field(0, ge=0, description="units of a layer on feature vectors; 0 takes them as they are")
    bag: int = Field(512, ge=1, description="size of the latent of a bag")
    attention: int = Field(256, ge=1, description="units of the attention over a bag")
    bag_dropout: float = Field(0.25, ge=0, lt=1, description="in the layers on a bag")


class VectorEncoder(nn.Module):
    """A feature vector as it is, or after one layer with ReLU."""

    def __init__(self, modality: Modality, units: int) -> None:
        super().__init__()
        self.features = units or modality.channels
        self.nonnegative = units > 0
        self.layer = nn.Sequential(nn.Linear(modality.channels, units), nn.ReLU()) if units else nn.Identity()

    def forward(self, vectors: Tensor) -> Tensor:
        """(B, F in) to (B, F)."""
        found: Tensor = self.layer(vectors)
        return found


class BagEncoder(nn.Module):
    """A bag of vectors or pictures by gated attention, as in CLAM: each item is brought to `bag` units, ReLU, and weighed.

    Args:
        modality: Of kind "bag".
        config: Sizes.
        encoder: Name of the encoder of pictures.
    """

    def __init__(self, modality: Modality, config: EncoderConfig, encoder: str) -> None:
        super().__init__()
        self.items: ImageEncoder | None = None
        if modality.spatial_dims == 2:
            self.items = ImageEncoder(encoder, 2, modality.channels, norm=config.norm, modality=modality.name)
        size = modality.channels if self.items is None else self.items.features
        self.features = config.bag
        self.nonnegative = True
        self.embed = nn.Sequential(nn.Linear(size, config.bag), nn.ReLU(), nn.Dropout(config.bag_dropout))
        self.attention = GatedAttention(config.bag, config.attention, dropout=config.bag_dropout)

    def embedded(self, items: Tensor, valid: Tensor) -> Tensor:
        """(B, N, ...) to (B, N, bag) embeddings of the valid items; zeros elsewhere."""
        picked = items[valid]
        if len(picked) and self.items is not None:
            picked = self.items(picked)
        found = self.embed(picked) if len(picked) else picked.new_zeros(0, self.features)
        return found.new_zeros(*valid.shape, self.features).index_put((valid,), found)

    def forward(self, items: Tensor, valid: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """From (B, N, ...) and (B, N) to the latent (B, bag), the weights (B, N) and the embeddings (B, N, bag)."""
        embedded = self.embedded(items, valid)
        weights = self.attention(embedded, valid)
        return (weights[..., None] * embedded).sum(dim=1), weights, embedded


class Latents(nn.Module):
    """Encoders of some modalities.

    Args:
        problem: Has the modalities.
        names: Which, in canonical order.
        config: Sizes.
        fusion: "latents": an encoder for each, latents side by side; "channels": the images are channels of one encoder.

    Attributes:
        size: Of all latents side by side.

    Raises:
        ConfigError: An encoder that there is not, or images that cannot be channels of one.
    """

    def __init__(self, problem: Problem, names: Sequence[str], config: EncoderConfig, *, fusion: Fusion = "latents") -> None:
        super().__init__()
        self.names, self.fusion, self.config = tuple(names), fusion, config
        modalities = [problem.modality(name) for name in names]
        self.kinds = {m.name: m.kind for m in modalities}
        encoders = config.encoder if isinstance(config.encoder, dict) else dict.fromkeys(names, config.encoder)
        for key, asked in (("encoder", encoders), ("pretrained", config.pretrained)):
            for name in asked:
                if name not in problem.names:
                    do = nearest(name, problem.names)
                    raise ConfigError(message(f"method.{key}", "name modalities of the problem", repr(name), do=do))
        default = type(config).model_fields["encoder"].default
        self.sizes: dict[str, int] = {}
        self.encoders = nn.ModuleDict()
        if fusion == "channels" and len(modalities) > 1:
            _check_channels(modalities)
            channels = sum(m.channels for m in modalities)
            first = modalities[0].name
            encoder = encoders.get(first, default)
            self.encoders[first] = whole = _image_encoder(problem, first, config, encoder, channels=channels)
            self.sizes = {name: whole.features if name == first else 0 for name in names}
        else:
            self.fusion = "latents"
            for modality in modalities:
                own = _encoder(problem, modality, config, encoders.get(modality.name, default))
                self.encoders[modality.name], self.sizes[modality.name] = own, own.features
        self.size = sum(self.sizes.values())

    @property
    def nonnegative(self) -> bool:
        """Whether no latent can be negative."""
        return all(bool(encoder.nonnegative) for encoder in self.encoders.values())

    def pretrained(self, sources: Mapping[str, str], prefix: str) -> dict[str, str]:
        """{parameter prefix: source} for `Method.pretrained`.

        Args:
            sources: {modality: file or id}, as `EncoderConfig.pretrained`; those of modalities that are not encoded here are
                left out, since several `Latents` may share one configuration.
            prefix: Under which these encoders are in the method, e.g. "encoder".

        Returns:
            The prefix of the image encoder of each; with those of the encoders of reports, whose settings say where theirs are.

        Raises:
            ConfigError: A modality that has no encoder of images.
        """
        found = {}
        for name, source in sources.items():
            if name not in self.names:
                continue
            encoder = dict(self.encoders.items()).get(name)
            tiles = isinstance(encoder, BagEncoder) and encoder.items is not None
            if not tiles and not isinstance(encoder, ImageEncoder):
                have = [n for n, e in self.encoders.items() if isinstance(e, ImageEncoder) or getattr(e, "items", None)]
                rule, do = "name modalities with an encoder of images", f"Encoders of images here: {', '.join(have) or 'none'}"
                raise ConfigError(message("method.pretrained", rule, repr(name), do=do))
            found[f"{prefix}.encoders.{name}" + (".items" if tiles else "")] = source
        for name, encoder in self.encoders.items():
            if isinstance(encoder, TextEncoder):
                found |= text_pretrained(self.config, f"{prefix}.encoders.{name}")
        return found

    def encode(self, batch: Batch) -> dict[str, Tensor]:
        """{modality: (B, F)} of those that some row has, each from itself alone; zeros in rows that lack it.

        As channels: all of them under the first name, from the rows that have every one; the others have (B, 0).
        """
        if self.fusion == "latents":
            return {name: self._one(batch, name) for name in self.names if bool(batch.is_present(name).any())}
        rows = torch.stack([batch.is_present(name) for name in self.names]).all(dim=0)
        if not bool(rows.any()):
            return {}
        images = torch.cat([batch.image(name) for name in self.names], dim=1)
        first, *others = self.names
        found = _rows(self.encoders[first], images, rows, self.sizes[first])
        return {first: found, **{name: found.new_zeros(len(batch), 0) for name in others}}

    def _one(self, batch: Batch, name: str) -> Tensor:
        rows, encoder = batch.is_present(name), self.encoders[name]
        if isinstance(encoder, TextEncoder):
            text = batch.text(name)
            found = encoder.report(Text(text.ids[rows], text.attention[rows]))[0]
            return found.new_zeros(len(rows), encoder.features).index_put((rows,), found)
        if self.kinds[name] != "bag":
            value = batch.image(name) if self.kinds[name] == "image" else batch.vector(name)
            return _rows(encoder, value, rows, self.sizes[name])
        bag = batch.bag(name)
        found = encoder(bag.items, bag.valid)[0]
        return torch.where(rows[:, None], found, 0.0)

    def join(self, latents: Mapping[str, Tensor], present: Mapping[str, Tensor]) -> Tensor:
        """Puts latents side by side.

        Args:
            latents: {modality: (B, F)}; may lack those that no row has.
            present: {modality: (B,) bool}; what absent rows hold is not read.

        Returns:
            (B, size), zeros where absent.
        """
        rows = next(iter(present.values()))
        like = next((latents[name] for name in self.names if name in latents), torch.zeros(0, device=rows.device))
        parts = []
        for name in self.names:
            zeros = like.new_zeros(len(rows), self.sizes[name])
            parts.append(torch.where(present[name][:, None], latents[name], zeros) if name in latents else zeros)
        return torch.cat(parts, dim=1)


def _rows(encoder: nn.Module, values: Tensor, rows: Tensor, size: int) -> Tensor:
    """(B, size): the encoder's word on the rows that are there, zeros elsewhere."""
    found: Tensor = encoder(values[rows]) if bool(rows.any()) else values.new_zeros(0, size)
    return found.new_zeros(len(rows), size).index_put((rows,), found)


def _image_encoder(problem: Problem, name: str, config: EncoderConfig, encoder: str, *, channels: int) -> ImageEncoder:
    dims, patch = problem.dims_of(name), problem.patch_of(name)
    return ImageEncoder(encoder, dims, channels, slices=config.slices, norm=config.norm, patch=patch, modality=name)


def _encoder(
    problem: Problem, modality: Modality, config: EncoderConfig, encoder: str
) -> ImageEncoder | VectorEncoder | BagEncoder | TextEncoder:
    if modality.kind == "image":
        return _image_encoder(problem, modality.name, config, encoder, channels=modality.channels)
    if modality.kind == "features":
        return VectorEncoder(modality, config.vector)
    if modality.kind == "bag":
        return BagEncoder(modality, config, encoder)
    return text_encoder(problem.vocabulary, config)


def _check_channels(modalities: Sequence[Modality]) -> None:
    grids = {m.grid if m.kind == "image" else m.kind for m in modalities}
    if len(grids) > 1 or modalities[0].kind != "image":
        rule, got = "be images of one grid to be channels of one network", ", ".join(m.name for m in modalities)
        raise ConfigError(message("fusion", rule, got, do="Set it to latents, or choose other modalities"))
