"""Networks of pictures from transformers, built from sizes that stand here: no file is read and nothing is downloaded.

transformers is optional (extra `pretrained`). It calls parameters otherwise than the files on the hub and translates when it
loads; `published` does the same for weights that were read before.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor, nn

from comodal.errors import ConfigError, message

# {name: (class of transformers, its sizes)}: those of facebook/convnext-tiny-224, microsoft/swin-tiny-patch4-window7-224,
# WinKawaks/vit-small-patch16-224 and facebook/dinov2-small.
SIZES: dict[str, tuple[str, dict[str, Any]]] = {
    "convnext-tiny": ("ConvNext", {"hidden_sizes": [96, 192, 384, 768], "depths": [3, 3, 9, 3]}),
    "swin-tiny": (
        "Swin",
        {"image_size": 224, "patch_size": 4, "embed_dim": 96, "depths": [2, 2, 6, 2], "num_heads": [3, 6, 12, 24]},
    ),
    "vit-small": (
        "ViT",
        {"image_size": 224, "patch_size": 16, "hidden_size": 384, "num_attention_heads": 6, "intermediate_size": 1536},
    ),
    "dinov2-small": (
        "Dinov2",
        {"image_size": 518, "patch_size": 14, "hidden_size": 384, "num_attention_heads": 6, "use_mask_token": False},
    ),
}


def _made(name: str, channels: int) -> tuple[type[Any], Any]:
    """The class of the network and its configuration."""
    try:
        import transformers
    except ImportError:
        do = "Install comodal[pretrained], or choose a resnet or a densenet"
        got = f"{name!r} without transformers"
        raise ConfigError(message("method.encoder", "be one that is installed", got, do=do)) from None
    family, sizes = SIZES[name]
    return getattr(transformers, f"{family}Model"), getattr(transformers, f"{family}Config")(**sizes, num_channels=channels)


class Backbone(nn.Module):
    """A network of transformers that says one vector of a picture: its pooled map, or its class token, after the last norm.

    Args:
        name: Key of SIZES.
        channels: Of the picture.

    Raises:
        ConfigError: transformers is not installed.
    """

    def __init__(self, name: str, channels: int) -> None:
        super().__init__()
        self.name = name
        build, config = _made(name, channels)
        self.model: Any = build(config, add_pooling_layer=False) if name == "vit-small" else build(config)
        self.features = int(config.hidden_sizes[-1] if name == "convnext-tiny" else config.hidden_size)

    def forward(self, images: Tensor) -> Tensor:
        """(B, C, X, Y) to (B, F)."""
        if self.name == "vit-small":
            found: Tensor = self.model(pixel_values=images, interpolate_pos_encoding=True).last_hidden_state[:, 0]
            return found
        pooled: Tensor = self.model(pixel_values=images).pooler_output
        return pooled


def backbone(name: str) -> Callable[[int, int], tuple[nn.Module, int]]:
    """What builds this network from (spatial_dims, channels)."""

    def build(_: int, channels: int) -> tuple[nn.Module, int]:
        made = Backbone(name, channels)
        return made, made.features

    return build


def published(network: nn.Module, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Weights as they stand in a file on the hub, under the names that they have in `network`.

    Args:
        network: A `Backbone`.
        weights: {name in the file: tensor}, for instance "vit.encoder.layer.0.attention.attention.query.weight".

    Returns:
        {name in the network: tensor} of those that it has; empty for other networks and for files of its own names.
    """
    if not isinstance(network, Backbone):
        return {}
    from transformers.utils import logging

    first = next((t for n, t in weights.items() if "patch_embeddings" in n and t.ndim == 4), None)
    if first is None:
        return {}
    build, config = _made(network.name, int(first.shape[1]))
    more = {"add_pooling_layer": False} if network.name == "vit-small" else {}
    loud, bar = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:  # without a place to load from: only names are translated
        made, report = build.from_pretrained(
            None, config=config, state_dict=dict(weights), output_loading_info=True, ignore_mismatched_sizes=True, **more
        )
    finally:
        logging.set_verbosity(loud)
        if bar:
            logging.enable_progress_bar()
    lost = {*report["missing_keys"], *(item[0] for item in report["mismatched_keys"])}
    return {f"model.{name}": tensor for name, tensor in made.state_dict().items() if name not in lost}
