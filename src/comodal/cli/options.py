"""Options that several commands share, and how their texts are read."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any

import typer

from comodal.errors import ConfigError, message, nearest

Json = Annotated[bool, typer.Option("--json", help="Print one JSON document on standard output and nothing else there.")]
Debug = Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")]
Device = Annotated[
    str, typer.Option("--device", metavar="auto|cpu|cuda", help="Where to compute; auto: a GPU if there is one.")
]
Use = Annotated[
    str | None,
    typer.Option("--use", metavar="NAMES", help="Only these modalities, e.g. flair,t1ce; files of others are not opened."),
]
RunFolder = Annotated[Path, typer.Argument(metavar="RUN", help="Folder that `comodal train` wrote.")]


def names(text: str | None, *, option: str) -> list[str] | None:
    """Reads names separated by commas.

    Args:
        text: "flair,t1ce", or None where the option was not given.
        option: For the message.

    Raises:
        ConfigError: No name at all, or one twice.

    >>> names("flair, t1ce", option="--use")
    ['flair', 't1ce']
    """
    if text is None:
        return None
    found = [word.strip() for word in text.split(",") if word.strip()]
    if not found or len(set(found)) != len(found):
        raise ConfigError(message(option, "be distinct names separated by commas", repr(text), do=f"Type {option} flair,t1ce"))
    return found


def known_name(name: str, known: Iterable[str], *, owner: str, kind: str) -> str:
    """Refuses a name that is not in a table, with the nearest known ones.

    >>> known_name("unet", ["unet", "moddrop"], owner="METHOD", kind="method")
    'unet'
    """
    words = list(known)
    if name not in words:
        raise ConfigError(message(owner, f"be a known {kind}", repr(name), do=nearest(name, words)))
    return name


def check_device(device: str | None) -> None:
    """Refuses a device that is not auto, cpu or cuda; None is the configuration's own.

    >>> check_device("cpu")
    """
    if device not in (None, "auto", "cpu", "cuda"):
        raise ConfigError(message("--device", "be auto, cpu or cuda", repr(device), do="Use auto for a GPU where there is one"))


def assignments(items: Iterable[str], *, option: str, example: str) -> dict[str, str]:
    """Reads repeated `name=value` options.

    Args:
        items: What was typed, e.g. ["flair=a.nii.gz"].
        option: For the message.
        example: A right one, for the message.

    Raises:
        ConfigError: No "=", nothing before or after it, or one name twice.

    >>> assignments(["flair=a=b.nii"], option="--input", example="flair=a.nii.gz")
    {'flair': 'a=b.nii'}
    """
    found: dict[str, str] = {}
    for item in items:
        name, equals, value = item.partition("=")
        name = name.strip()
        if not (name and equals and value):
            raise ConfigError(message(option, "be NAME=VALUE", repr(item), do=f"Type {option} {example}"))
        if name in found:
            raise ConfigError(message(option, "give each name once", f"{name} twice", do=f"Remove one {option} {name}"))
        found[name] = value
    return found


def numbers(items: Iterable[str], *, option: str, example: str) -> dict[str, float]:
    """Reads repeated `name=number` options.

    >>> numbers(["t1=0.3"], option="--rate", example="t1=0.3")
    {'t1': 0.3}
    """
    found = {}
    for name, text in assignments(items, option=option, example=example).items():
        try:
            found[name] = float(text)
        except ValueError as error:
            raise ConfigError(message(f"{option} {name}", "be a number", repr(text), do=f"Type {option} {example}")) from error
    return found


def values(items: Iterable[str], *, option: str, example: str) -> dict[str, Any]:
    """Reads repeated `key=value` options whose values are YAML: numbers, words, lists; `a.b=c` sets b within a.

    >>> values(["folds=5", "columns.subject=id", "keep=[a, b]"], option="--set", example="folds=5")
    {'folds': 5, 'columns': {'subject': 'id'}, 'keep': ['a', 'b']}
    """
    found: dict[str, Any] = {}
    for key, text in assignments(items, option=option, example=example).items():
        *outer, last = key.split(".")
        place = found
        for name in outer:
            place = place.setdefault(name, {})
            if not isinstance(place, dict):
                raise ConfigError(message(option, "set a key or what is below it", key, do=f"Remove {option} {key}"))
        place[last] = _plain(text)
    return found


def _plain(text: str) -> Any:
    """YAML, or the text itself where it is none."""
    import yaml

    try:
        return yaml.safe_load(text)
    except (yaml.YAMLError, RecursionError):
        return text
