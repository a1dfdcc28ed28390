"""Reports as tensors: sentences, words, and a vocabulary fitted on the training reports.

Axis letters: S sentences, L tokens of a sentence.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypeAlias

import torch
from pydantic import BaseModel, ConfigDict, ValidationError, model_validator

from comodal.batch import Text
from comodal.data.atomic import replacing
from comodal.data.contents import report_of
from comodal.data.pieces import SETTINGS, PieceTokenizer, check_known
from comodal.data.sentences import KEPT_SENTENCES, KEPT_TOKENS, sentences, words
from comodal.errors import DataError, RunError, message

if TYPE_CHECKING:
    from comodal.data.cohort import Case, Cohort

__all__ = [
    "PAD",
    "SPECIAL",
    "START",
    "UNKNOWN",
    "AnyTokenizer",
    "Tokenizer",
    "find_tokenizer",
    "fit_tokenizer",
    "load_tokenizer",
    "sentences",
    "some_reports",
    "words",
]

PAD, UNKNOWN, START = 0, 1, 2
SPECIAL = 3  # words begin here
LOOKED_AT = 2000  # reports that say whether a tokenizer of others knows the words


class Tokenizer(BaseModel):
    """A vocabulary: plain data, written as JSON.

    Attributes:
        version: Of the file format.
        words: In the order of their ids; the first has id 3, after padding (0), unknown (1) and start of sentence (2).
        max_sentences, max_tokens: What is beyond is cut off; the start token counts.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    version: Literal[1] = 1
    words: tuple[str, ...]
    max_sentences: int = KEPT_SENTENCES
    max_tokens: int = KEPT_TOKENS

    @model_validator(mode="after")
    def _check(self) -> Tokenizer:
        if len(set(self.words)) != len(self.words) or not all(self.words):
            raise ValueError("words must be distinct and not empty")
        if self.max_sentences < 1 or self.max_tokens < 2:
            raise ValueError("max_sentences must be at least 1 and max_tokens at least 2")
        return self

    @classmethod
    def fit(
        cls,
        texts: Iterable[str],
        *,
        size: int = 8000,
        least: int = 2,
        max_sentences: int = KEPT_SENTENCES,
        max_tokens: int = KEPT_TOKENS,
    ) -> Tokenizer:
        """Takes the commonest words of the training texts.

        Args:
            texts: Of training cases only.
            size: At most this many words.
            least: A rarer word becomes unknown.
            max_sentences: Kept of a report.
            max_tokens: Kept of a sentence.

        Returns:
            Words ordered by falling count, then by alphabet, so that the order of the texts does not matter.

        >>> Tokenizer.fit(["No mass.", "no effusion"], least=1).words
        ('no', 'effusion', 'mass')
        """
        counts = Counter(word for text in texts for word in words(text))
        ranked = sorted((word for word, n in counts.items() if n >= least), key=lambda word: (-counts[word], word))
        return cls(words=tuple(ranked[:size]), max_sentences=max_sentences, max_tokens=max_tokens)

    @property
    def vocabulary(self) -> int:
        """Number of ids, special ones included: `Problem.vocabulary`."""
        return SPECIAL + len(self.words)

    def encode(self, text: str, *, subject: str = "", modality: str = "text", file: str = "") -> Text:
        """A report as ids.

        Args:
            text: The whole report.
            subject: For the error message.
            modality: For the error message.
            file: For the error message.

        Returns:
            `Text` with ids and attention of shape (S, L): S sentences, each begun with the start token, padded with 0.

        Raises:
            DataError: The report has no word in it; an absent report must be a blank cell, not an empty file.
        """
        kept = sentences(text)[: self.max_sentences]
        rows = [[START, *map(self._id, words(sentence))][: self.max_tokens] for sentence in kept]
        if not rows:
            do = "Leave it out where there is no report; in cohort.csv blank the cell"
            rule, got = "hold at least one word", repr(text[:40])
            raise DataError(message("report", rule, got, subject=subject, modality=modality, file=file, do=do))
        length = max(map(len, rows))
        ids = torch.tensor([row + [PAD] * (length - len(row)) for row in rows], dtype=torch.long)
        return Text(ids, ids != PAD)

    def unknown(self, texts: Iterable[str]) -> float:
        """Share of the words of some texts that are not in the vocabulary.

        Args:
            texts: Reports.
        """
        found = [word in self._ids for text in texts for sentence in sentences(text) for word in words(sentence)]
        return found.count(False) / len(found) if found else 0.0

    def decode(self, text: Text) -> list[str]:
        """The words that `encode` kept, a string for each sentence; unknown ones are "?". For looking at."""
        names = {i: word for word, i in self._ids.items()} | {UNKNOWN: "?"}
        kept = [[i for i in row if i not in (PAD, START)] for row in text.ids.tolist()]
        return [" ".join(names[i] for i in row) for row in kept if row]

    def save(self, folder: Path | str) -> Path:
        """Writes `vocabulary.json` into a folder (RUN/tokenizer), whole or not at all."""
        path = Path(folder) / "vocabulary.json"
        with replacing(path) as file:
            file.write(self.model_dump_json(indent=1).encode())
        return path

    @classmethod
    def load(cls, folder: Path | str) -> Tokenizer:
        """The way back from `save`.

        Raises:
            RunError: The file is missing or is not a vocabulary.
        """
        path = Path(folder) / "vocabulary.json"
        try:
            return cls.model_validate_json(path.read_bytes())
        except FileNotFoundError:
            got = "no file"
        except ValidationError as error:
            first = error.errors()[0]
            got = f"{'.'.join(map(str, first['loc'])) or 'the file'}: {first['msg']}"
        do = "Take the run folder from where it was trained, whole"
        raise RunError(message("vocabulary.json", "hold the words of a trained run", got, file=str(path), do=do))

    @cached_property
    def _ids(self) -> dict[str, int]:
        return {word: i for i, word in enumerate(self.words, start=SPECIAL)}

    def _id(self, word: str) -> int:
        return self._ids.get(word, UNKNOWN)


AnyTokenizer: TypeAlias = Tokenizer | PieceTokenizer


def fit_tokenizer(cohort: Cohort, ids: Iterable[str], *, modalities: Iterable[str], **settings: int) -> Tokenizer:
    """Fits the vocabulary on the reports of training cases.

    Args:
        cohort: Has the files.
        ids: Training cases.
        modalities: The text modalities; they share one vocabulary.
        settings: Passed to `Tokenizer.fit`.

    Returns:
        The tokenizer.
    """
    files = _files(cohort, ids, modalities)
    return Tokenizer.fit((report_of(cohort, case, name) for case, name in files), **settings)


def find_tokenizer(
    cohort: Cohort, ids: Iterable[str], *, modalities: Iterable[str], source: str = "words", **settings: int
) -> AnyTokenizer:
    """The tokenizer of a new run.

    Args:
        cohort: Has the files.
        ids: Training cases.
        modalities: The text modalities.
        source: "words" is fitted on the reports of training cases; else the source of one of others, which must know at least
            half of what they say, of at most `LOOKED_AT` reports.
        settings: `max_sentences` and `max_tokens`.

    Raises:
        ConfigError: There is no such tokenizer, or it does not know these words.
    """
    if source == "words":
        return fit_tokenizer(cohort, ids, modalities=modalities, **settings)
    found = PieceTokenizer.of(source, **settings)
    check_known(found, some_reports(cohort, ids, modalities=modalities))
    return found


def some_reports(cohort: Cohort, ids: Iterable[str], *, modalities: Iterable[str]) -> list[str]:
    """At most `LOOKED_AT` reports of these cases, evenly spaced.

    Args:
        cohort: Has the files.
        ids: Of cases.
        modalities: The text modalities.
    """
    files = _files(cohort, ids, modalities)
    return [report_of(cohort, case, name) for case, name in files[:: max(1, -(-len(files) // LOOKED_AT))]]


def load_tokenizer(folder: Path | str) -> AnyTokenizer:
    """The tokenizer of a run, of either kind.

    Args:
        folder: RUN/tokenizer.

    Raises:
        RunError: A file is missing or damaged.
    """
    return PieceTokenizer.load(folder) if (Path(folder) / SETTINGS).is_file() else Tokenizer.load(folder)


def _files(cohort: Cohort, ids: Iterable[str], modalities: Iterable[str]) -> list[tuple[Case, str]]:
    names = list(modalities)
    return [(case, name) for case in cohort.select(ids).cases for name in names if name in case.cells]
