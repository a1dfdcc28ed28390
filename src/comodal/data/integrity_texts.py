"""What reports are like: how long, how much of them is cut off, and how often they say the same."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

from comodal.data.sentences import KEPT_SENTENCES, KEPT_TOKENS, sentences, words

OFTEN = 5  # reports in which a sentence stands that says nothing about one patient


@dataclass(frozen=True)
class Said:
    """What is kept of one report: of each sentence its number of words and a digest of them."""

    lengths: tuple[int, ...]
    digests: tuple[bytes, ...]


@dataclass(frozen=True)
class TextFacts:
    """What the reports of a modality are like.

    Attributes:
        reports: With at least one sentence.
        sentences_median, sentences_max: Of a report.
        words_median, words_max: Of a report.
        more_sentences: Reports with more sentences than `data.max_sentences` keeps by default.
        longer_sentences: Reports with a sentence of more words than `data.max_tokens` keeps by default.
        repeated: Share of the sentences that stand in five reports or more.
    """

    reports: int
    sentences_median: float
    sentences_max: int
    words_median: float
    words_max: int
    more_sentences: int
    longer_sentences: int
    repeated: float


def said_in(text: str) -> Said:
    """What is kept of a report, a few bytes for each sentence.

    Args:
        text: The words of its sections.
    """
    found = [words(sentence) for sentence in sentences(text)]
    digests = tuple(hashlib.blake2b(" ".join(one).encode(), digest_size=8).digest() for one in found)
    return Said(tuple(map(len, found)), digests)


def facts_of(reports: Sequence[Said]) -> TextFacts:
    """The reports of one modality together.

    Args:
        reports: At least one, each with a sentence.
    """
    counts = Counter(digest for report in reports for digest in set(report.digests))
    every = [digest for report in reports for digest in report.digests]
    many, long = [len(report.lengths) for report in reports], [sum(report.lengths) for report in reports]
    return TextFacts(
        reports=len(reports),
        sentences_median=float(median(many)),
        sentences_max=max(many),
        words_median=float(median(long)),
        words_max=max(long),
        more_sentences=sum(n > KEPT_SENTENCES for n in many),
        longer_sentences=sum(max(report.lengths) > KEPT_TOKENS - 1 for report in reports),
        repeated=round(sum(counts[digest] >= OFTEN for digest in every) / len(every), 4),
    )
