"""Sizes of published encoders of reports: which families fit one code path, and what may be read of their config.json.

A config.json comes from somebody else. Of it, only the numbers and names below are taken, each within bounds; nothing in it can
name code.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import nn

from comodal.errors import ConfigError, message, short

ACTIVATIONS = ("gelu", "gelu_new", "gelu_fast", "gelu_pytorch_tanh", "relu", "silu", "swish")
# {key of config.json: largest value}; all are whole numbers of at least 1, the id of padding of at least 0.
MOST = {
    "vocab_size": 1_000_000,
    "hidden_size": 8192,
    "num_hidden_layers": 64,
    "num_attention_heads": 128,
    "intermediate_size": 32_768,
    "max_position_embeddings": 65_536,
    "type_vocab_size": 64,
    "embedding_size": 8192,
    "dim": 8192,
    "n_layers": 64,
    "n_heads": 128,
    "hidden_dim": 32_768,
    "pad_token_id": 1_000_000,
}
_COMMON = ("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size", "hidden_act", "layer_norm_eps")


@dataclass(frozen=True)
class Family:
    """Networks of one kind.

    Attributes:
        classes: What stands before "Config" and "Model" in the names of transformers.
        keys: Of config.json that make the network; all but the optional ones of `OPTIONAL` must be there.
        pooler: Whether it has one.
        shifted: Whether positions are counted from behind the id of padding.
        dropouts: Names of the two settings of dropout.
    """

    classes: str
    keys: tuple[str, ...]
    pooler: bool = True
    shifted: bool = False
    dropouts: tuple[str, str] = ("hidden_dropout_prob", "attention_probs_dropout_prob")


FAMILIES = {
    "bert": Family("Bert", (*_COMMON, "type_vocab_size")),
    "roberta": Family("Roberta", (*_COMMON, "type_vocab_size", "pad_token_id"), shifted=True),
    "mpnet": Family("MPNet", (*_COMMON, "pad_token_id"), shifted=True),
    "electra": Family("Electra", (*_COMMON, "type_vocab_size", "embedding_size"), pooler=False),
    "distilbert": Family(
        "DistilBert",
        ("dim", "n_layers", "n_heads", "hidden_dim", "activation", "sinusoidal_pos_embds"),
        pooler=False,
        dropouts=("dropout", "attention_dropout"),
    ),
}
ALWAYS = ("vocab_size", "max_position_embeddings")
OPTIONAL = ("hidden_act", "activation", "layer_norm_eps", "sinusoidal_pos_embds", "type_vocab_size", "pad_token_id")


def sizes_of(settings: Mapping[str, Any], source: str, *, file: str = "") -> dict[str, Any]:
    """What makes the network of a published encoder, as `TextConfig.text_sizes` keeps it.

    Args:
        settings: Of its config.json, or what this function gave.
        source: Where it comes from, as typed.
        file: For the error message.

    Returns:
        {"source", "family", and the sizes}: plain values.

    Raises:
        ConfigError: Another kind of network, or a value that is missing or out of bounds.
    """
    name = settings.get("family", settings.get("model_type"))
    if not isinstance(name, str) or name not in FAMILIES:
        do = f"Choose an encoder of {', '.join(FAMILIES)}"
        raise ConfigError(message("method.text", "be of a family that fits", short(name), file=file or None, do=do))
    if settings.get("position_embedding_type", "absolute") != "absolute":
        got = f"position_embedding_type {short(settings['position_embedding_type'])}"
        raise ConfigError(message("method.text", "have absolute positions", got, file=file or None, do="Choose another"))
    found: dict[str, Any] = {"source": source, "family": name}
    for key in (*ALWAYS, *FAMILIES[name].keys):
        if key not in settings and key in OPTIONAL:
            continue
        rule = _wrong(key, settings.get(key))
        if rule:
            do = "Take config.json again from where the encoder comes from"
            raise ConfigError(message(f"method.text: {key}", rule, short(settings.get(key)), file=file or None, do=do))
        found[key] = settings[key]
    return found


def _wrong(key: str, value: Any) -> str:
    """What a value must be; "" where it is."""
    if key in MOST:
        least = 0 if key == "pad_token_id" else 1
        fits = isinstance(value, int) and not isinstance(value, bool) and least <= value <= MOST[key]
        return "" if fits else f"be a whole number from {least} to {MOST[key]}"
    if key == "layer_norm_eps":
        return "" if isinstance(value, int | float) and 0 < value < 1 else "be a number between 0 and 1"
    if key == "sinusoidal_pos_embds":
        return "" if isinstance(value, bool) else "be true or false"
    return "" if value in ACTIVATIONS else f"be one of {', '.join(ACTIVATIONS)}"


def build_network(sizes: Mapping[str, Any], *, pooler: bool, dropout: float) -> tuple[nn.Module, int, int]:
    """A network of transformers with random weights.

    Args:
        sizes: "family" (bert where it is not said), and its keys; "source" is not read.
        pooler: Whether its pooler is wanted.
        dropout: Within.

    Returns:
        The network, its number of features, and how many tokens it can take.

    Raises:
        ConfigError: transformers is not installed, the family has no pooler, or the sizes do not go together.
    """
    try:
        import transformers
    except ImportError:
        do = "Install comodal[text], or set method.text to cnn"
        raise ConfigError(message("method.text", "be one that is installed", "bert without transformers", do=do)) from None
    name = str(sizes.get("family", "bert"))
    family = FAMILIES[name]
    if pooler and not family.pooler:
        raise ConfigError(message("method.text_output", "be cls or mean", f"pooler, which {name} has not", do="Set it to cls"))
    kept = {key: sizes[key] for key in (*ALWAYS, *family.keys) if key in sizes}
    settings = getattr(transformers, f"{family.classes}Config")(**kept, **dict.fromkeys(family.dropouts, dropout))
    heads, features = int(settings.num_attention_heads), int(settings.hidden_size)
    if features % heads:
        do = "Correct method.text_sizes"
        raise ConfigError(message("method.text", "have a size that its heads divide", f"{features} by {heads}", do=do))
    more = {"add_pooling_layer": pooler} if family.pooler else {}
    network: nn.Module = getattr(transformers, f"{family.classes}Model")(settings, **more)
    longest = int(settings.max_position_embeddings)
    return network, features, longest - int(settings.pad_token_id) - 1 if family.shifted else longest
