"""Reports as tensors: sentences, words, and a vocabulary fitted on the training reports.

Axis letters: S sentences, L tokens of a sentence.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import torch
from pydantic import BaseModel, ConfigDict, ValidationError, model_validator

from comodal.batch import Text
from comodal.data.atomic import replacing
from comodal.data.contents import report_of
from comodal.errors import DataError, RunError, message

if TYPE_CHECKING:
    from comodal.data.cohort import Cohort

PAD, UNKNOWN, START = 0, 1, 2
SPECIAL = 3  # words begin here

# A full stop ends a sentence only before white space or the end, so that "3.5 mm" stays whole.
_SENTENCE = re.compile(r"(?<=[.?!])\s+|[\r\n]+")
# Words may hold an apostrophe or an inner hyphen ("isn't", "follow-up"), numbers a decimal point. Negations are words like any
# other: nothing is left out as a stop word.
_WORD = re.compile(r"\d+(?:\.\d+)?|[^\W\d_]+(?:['’\-][^\W\d_]+)*")


def sentences(text: str) -> list[str]:
    """Splits at . ? ! before white space, and at line ends. Pieces without a letter or digit are left out.

    >>> sentences("No mass. Is there an effusion? 3.5 mm nodule.")
    ['No mass.', 'Is there an effusion?', '3.5 mm nodule.']
    """
    return [piece.strip() for piece in _SENTENCE.split(text) if _WORD.search(piece)]


def words(sentence: str) -> list[str]:
    """The words and numbers of a sentence, lower-cased.

    >>> words("There isn't a 3.5-mm nodule.")
    ['there', "isn't", 'a', '3.5', 'mm', 'nodule']
    """
    return [word.replace("’", "'") for word in _WORD.findall(sentence.lower())]


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
    max_sentences: int = 16
    max_tokens: int = 48

    @model_validator(mode="after")
    def _check(self) -> Tokenizer:
        if len(set(self.words)) != len(self.words) or not all(self.words):
            raise ValueError("words must be distinct and not empty")
        if self.max_sentences < 1 or self.max_tokens < 2:
            raise ValueError("max_sentences must be at least 1 and max_tokens at least 2")
        return self

    @classmethod
    def fit(
        cls, texts: Iterable[str], *, size: int = 8000, least: int = 2, max_sentences: int = 16, max_tokens: int = 48
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
            do = "Blank the cell in cohort.csv if there is no report"
            rule, got = "hold at least one word", repr(text[:40])
            raise DataError(message("report", rule, got, subject=subject, modality=modality, file=file, do=do))
        length = max(map(len, rows))
        ids = torch.tensor([row + [PAD] * (length - len(row)) for row in rows], dtype=torch.long)
        return Text(ids, ids != PAD)

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
    names = list(modalities)
    files = [(case, name) for case in cohort.select(ids).cases for name in names if name in case.cells]
    texts = (report_of(cohort, case, name) for case, name in files)
    return Tokenizer.fit(texts, **settings)
