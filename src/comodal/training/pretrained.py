"""Weights that a new training starts from: a file of safetensors, a folder with one, or an id on the Hugging Face hub.

Only safetensors are read, which hold numbers and nothing that could run; no other file of a repository is fetched. A finished
run needs none of this: it has its own weights.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from comodal.errors import ConfigError, message
from comodal.method import Method
from comodal.networks.encoders import ImageEncoder
from comodal.networks.published import Taken, take
from comodal.training.events import Emit, Said, silent

FILE = "model.safetensors"  # the one that transformers and timm write
HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*(@[\w./-]+)?")  # owner/name, and a branch, tag or commit
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
    if path.is_dir():
        path = path / FILE
    if path.is_file():
        if path.suffix != ".safetensors":
            rule, do = "be a .safetensors file", "Convert it with safetensors: files of torch and pickles may run code"
            raise ConfigError(message(OWNER, rule, path.name, file=str(path), do=do))
        return path
    if path.suffix != ".safetensors" and HUB_ID.fullmatch(source):
        return _from_hub(source)
    rule, do = f"name a .safetensors file, a folder with {FILE}, or owner/name on the hub", "Check the path"
    raise ConfigError(message(OWNER, rule, repr(source), file=str(path), do=do))


def _from_hub(source: str) -> Path:
    try:
        from huggingface_hub import hf_hub_download
        from huggingface_hub.errors import HfHubHTTPError
    except ImportError:
        do = f"Install comodal[pretrained], or download {FILE} and give its path"
        raise ConfigError(message(OWNER, "be a file where huggingface_hub is not installed", repr(source), do=do)) from None
    name, _, revision = source.partition("@")
    try:
        return Path(hf_hub_download(name, FILE, revision=revision or None))
    except (HfHubHTTPError, OSError, ValueError) as error:
        reason = (str(error).strip().splitlines() or [""])[0][:100]
        rule, got = f"have a {FILE} on the hub that can be fetched", f"{source!r} ({type(error).__name__}: {reason})"
        do = f"Check the id and the network, or download {FILE} and give its path"
        raise ConfigError(message(OWNER, rule, got, do=do)) from None


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
        file = find_weights(source)
        weights = _read(file)
        part = method.get_submodule(prefix)
        modality = prefix.removesuffix(".items").rpartition(".")[2]
        taken = part.take(weights, prefer=modality) if isinstance(part, ImageEncoder) else take(part, weights, prefer=modality)
        if not taken.enough:
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
