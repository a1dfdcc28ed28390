"""Word vectors of others, in the text format of GloVe: a line is a word and its numbers, separated by single spaces."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from comodal.errors import ConfigError, message

OWNER = "method.vectors"
LEAST = 0.1  # share of the words that a file must know; with fewer it is of another language, or in capitals
MAX_LINE = 1 << 16  # bytes

Array = npt.NDArray[np.float32]


def read_vectors(file: Path, words: Sequence[str], *, size: int) -> tuple[Tensor, int]:
    """The vectors of a vocabulary.

    A word that the file lacks gets the mean of its parts where it knows them ("follow-up"; "isn't" as "is" and "n't", which is
    how GloVe was trained). Any other is drawn from a normal distribution with mean and deviation of those found, by the word
    alone: it stays different from others, and the same in each training.

    Args:
        file: In the text format of GloVe, or that of word2vec, which has a first line with two numbers.
        words: In the order of their ids.
        size: Of a vector.

    Returns:
        (len(words), size) float32, and how many words the file knows.

    Raises:
        ConfigError: No such file, a damaged one, vectors of another size, or fewer than a tenth of the words.
    """
    if not words:
        do = "Set data.tokenizer to words, or leave method.vectors out"
        raise ConfigError(message(OWNER, "be for a vocabulary of words", "pieces of words", do=do))
    parts = {part for word in words for part in _parts(word)}
    found = _find(file, {*words, *parts}, size)
    known = sum(word in found for word in words)
    if known < LEAST * len(words):
        do = "Choose vectors of the language of the reports, with words in lower case"
        raise ConfigError(
            message(OWNER, f"know at least {LEAST:.0%} of the words", f"{known} of {len(words)}", file=str(file), do=do)
        )
    have = np.stack([found[word] for word in words if word in found])
    mean, deviation = have.mean(axis=0), have.std(axis=0)
    rows = [found[word] if word in found else _made(word, found, mean, deviation) for word in words]
    return torch.from_numpy(np.stack(rows)), known


def _parts(word: str) -> list[str]:
    """Words of which a word is made; none where it is one."""
    if word.endswith("n't") and len(word) > 3:
        return [word[:-3], "n't"]
    stem, apostrophe, end = word.partition("'")
    parts = [*stem.split("-"), *([f"'{end}"] if apostrophe else [])]
    return [part for part in parts if part] if len(parts) > 1 else []


def _made(word: str, found: dict[str, Array], mean: Array, deviation: Array) -> Array:
    parts = [found[part] for part in _parts(word) if part in found]
    if parts:
        made: Array = np.mean(parts, axis=0, dtype=np.float32)
        return made
    drawn = np.random.default_rng(zlib.crc32(word.encode())).standard_normal(len(mean))
    return (mean + deviation * drawn).astype(np.float32)


def _find(file: Path, wanted: set[str], size: int) -> dict[str, Array]:
    """Reads the file line by line; only the numbers of wanted words are looked at, but each line must have as many."""
    do = f"Set method.words to the size of these vectors, or take a file with {size} numbers for each word"
    found: dict[str, Array] = {}
    encoded = {word.encode(): word for word in wanted}
    try:
        with file.open("rb") as lines:
            number = 0
            while line := lines.readline(MAX_LINE):
                number += 1
                cells = line.split()
                if len(cells) == 2 and number == 1 and all(map(bytes.isdigit, cells)):
                    continue  # word2vec says how many there are
                if len(cells) < size + 1 or (len(cells) > size + 1 and number == 1):
                    got = f"line {number} with {max(0, len(cells) - 1)}"
                    raise ConfigError(message(OWNER, f"have {size} numbers for each word", got, file=str(file), do=do))
                word = encoded.get(cells[0]) if len(cells) == size + 1 else None  # some words of GloVe have spaces
                if word is not None and word not in found:
                    found[word] = _numbers(cells[1:], number, file)
    except OSError as error:
        rule = "name a file of word vectors"
        raise ConfigError(message(OWNER, rule, error.strerror or str(error), file=str(file), do="Check the path")) from None
    return found


def _numbers(cells: list[bytes], number: int, file: Path) -> Array:
    try:
        vector = np.array([float(cell) for cell in cells], dtype=np.float32)
    except ValueError:
        vector = np.array([np.nan], dtype=np.float32)
    if not np.isfinite(vector).all():
        do = "Take the file again from where it comes from"
        raise ConfigError(
            message(OWNER, "have a word and finite numbers in each line", f"line {number}", file=str(file), do=do)
        )
    return vector
