"""Weights that a new training starts from: a file of safetensors, a folder with one, or an id on the Hugging Face hub.

Only safetensors are read, and word vectors as text, which hold numbers and nothing that could run; no other file of a
repository is fetched. A finished run needs none of this: it has its own weights.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from comodal.data.sources import HUB_ID, PACKAGED, find_file, from_hub
from comodal.data.vectors import read_vectors
from comodal.errors import ConfigError, message
from comodal.method import Method
from comodal.networks.encoders import ImageEncoder
from comodal.networks.published import Taken, take
from comodal.networks.texts import WordVectors
from comodal.training.events import Emit, Said, silent

FILE = "model.safetensors"  # the one that transformers and timm write
OWNER = "method.pretrained"


def find_weights(source: str) -> Path:
    """The file that is meant.

    Args:
        source: A .safetensors file or a folder with model.safetensors, from the folder in which the command runs; else
            "owner/name" or "owner/name@revision" on the hub, which is fetched once and kept by huggingface_hub.

    Raises:
        ConfigError: There is none, or the hub cannot be asked.
    """
    path = Path(source).expanduser()
    found: Path | None = None
    if path.is_file():
        if path.suffix != ".safetensors":
            rule, do = "be a .safetensors file", "Convert it with safetensors: files of torch and pickles may run code"
            raise ConfigError(message(OWNER, rule, path.name, file=str(path), do=do))
        found = path
    elif (path / FILE).is_file():
        found = path / FILE
    elif source in PACKAGED or (path.is_dir() and list(path.glob("*.bin"))):
        found = find_file(source, FILE, owner=OWNER)
    elif not path.is_dir() and path.suffix != ".safetensors" and HUB_ID.fullmatch(source):
        found = from_hub(source, FILE, owner=OWNER)
    if found is None:
        rule, do = f"name a .safetensors file, a folder with {FILE}, or owner/name on the hub", "Check the path"
        raise ConfigError(message(OWNER, rule, repr(source), file=str(path), do=do))
    return found


def take_pretrained(method: Method, emit: Emit = silent) -> list[dict[str, Any]]:
    """Loads the weights that a method names into it.

    Args:
        method: Just built; is changed.
        emit: Is told what was taken.

    Returns:
        For `environment.json`, for each source: where its weights went (`into`), the source as typed, the file's SHA-256, how
        many tensors were taken and of how many, and what became of the first convolution.

    Raises:
        ConfigError: A source is missing, no safetensors, or fits fewer than half of the tensors.
    """
    found = []
    for prefix, source in method.pretrained.items():
        part = method.get_submodule(prefix)
        if isinstance(part, WordVectors):
            found.append({"into": prefix, "source": source, **_take_vectors(part, source, method.problem.words, emit)})
            continue
        file = find_weights(source)
        weights = _read(file)
        modality = prefix.removesuffix(".items").rpartition(".")[2]
        taken = part.take(weights, prefer=modality) if isinstance(part, ImageEncoder) else take(part, weights, prefer=modality)
        embeddings = next((n for n in part.state_dict() if n.endswith("word_embeddings.weight")), None)
        if not taken.enough or embeddings in taken.left:  # token ids mean nothing without the vectors that belong to them
            raise ConfigError(_misfit(part.name if isinstance(part, ImageEncoder) else prefix, taken, weights, file))
        said = f"took {taken.tensors} of {taken.of} tensors of {prefix} from {source}"
        if taken.adapted:
            said += f"; its first convolution was brought from {taken.adapted}: each reads the sum over what there was, shared"
        emit(Said("info", said))
        digest = hashlib.sha256(file.read_bytes()).hexdigest()
        found.append(
            {
                "into": prefix,
                "source": source,
                "sha256": digest,
                "tensors": taken.tensors,
                "of": taken.of,
                "first_convolution": taken.adapted or None,
            }
        )
    return found


def _take_vectors(table: WordVectors, source: str, words: Sequence[str], emit: Emit) -> dict[str, Any]:
    """Fills the rows of words that a file of word vectors knows; what else there is, see `read_vectors`."""
    vectors, known = read_vectors(Path(source).expanduser(), words, size=table.weight.shape[1])
    with torch.no_grad():
        table.weight[1:] = vectors.mean(dim=0)  # unknown words, and the start of a sentence
        table.weight[len(table.weight) - len(words) :] = vectors
    emit(Said("info", f"took {known} of {len(words)} words from {source}"))
    digest = hashlib.sha256()
    with Path(source).expanduser().open("rb") as file:
        while part := file.read(1 << 20):
            digest.update(part)
    return {"sha256": digest.hexdigest(), "tensors": known, "of": len(words), "first_convolution": None}


def _read(file: Path) -> dict[str, Tensor]:
    try:
        return load_file(file)
    except (SafetensorError, OSError, ValueError, OverflowError, MemoryError) as error:
        do = "Download it again, or convert it"
        rule = "be an intact safetensors file"
        raise ConfigError(message(OWNER, rule, str(error)[:120], file=str(file), do=do)) from None


def _misfit(name: str, taken: Taken, weights: Mapping[str, Tensor], file: Path) -> str:
    rule = f"fit at least half of the tensors of {name}"
    theirs = ", ".join(list(weights)[:2])
    got = f"{taken.tensors} of {taken.of}; here: {', '.join(taken.left[:2])}; in the file: {theirs}"
    return message(OWNER, rule, got, file=str(file), do="Choose the encoder that they are of, or other weights")
