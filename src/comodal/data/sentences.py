"""Sentences and words of radiology reports, by rules that can be read: no model, no list of stop words.

Negations ("no", "not", "without", "isn't") are words like any other, in every form in which they are typed.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator

KEPT_SENTENCES, KEPT_TOKENS = 16, 48  # of a report and of a sentence, by default
_LOOK_BACK = 128  # letters before a stop that say whether it ends a sentence

# Where a sentence may end: . ? ! before white space or the end, so that "3.5 mm" stays whole, with what closes around them; or
# a full stop that was typed without a space after a word ("normal.No effusion").
_STOP = re.compile(r"(?<![.?!])[.?!]++[\"'”’)\]]*+(?=\s|$)|(?:(?<=[a-z]{2})|(?<=XX))\.(?=[A-Z][a-z])|[。！？؟।]")
_WORD_BEFORE = re.compile(r"([^\W\d_][^\s,;:()\[\]\"]*)\.[\"'”’)\]]*$")
# A line end inside a sentence: the text goes on in lower case, and no stop, colon or list item stands between.
_WRAPPED = re.compile(r"(?<=[^\s.?!:;])[ \t]*\r?\n[ \t]*(?=[a-z])(?![a-z][.)]\s)")
_LINES = re.compile(r"[\r\n\u2028\u2029\x0b\x0c]+")
_ITEM = re.compile(r"(?:\(?\d{1,2}[.)]\s*(?=[^\W\d])|[-*•–]\s+(?=\D))")  # "1. ", "2) ", "- " before an item of a list
_NUMBERED = re.compile(r"\(?\d{1,2}[.)]?\Z")
_DOTTED = re.compile(r"(?:[^\W\d_]\.)+[^\W\d_]\Z")  # e.g, i.e, a.m, U.S
# Before these nothing ends: titles and words that always have more behind them.
_TITLES = frozenset({"dr", "drs", "mr", "mrs", "ms", "prof", "st"})
_NEVER = _TITLES | {"vs", "v", "approx", "fig", "figs", "ca", "incl", "resp", "esp", "cf", "viz", "ref", "dept"}
# Before these nothing ends if a number follows: "No. 3", "Im. 12", "Ser. 4", "pp. 3".
_NUMBER = frozenset({"no", "nos", "nr", "im", "img", "ser", "se", "p", "pp", "vol", "sec", "grp"})
# Before these nothing ends if the text goes on in lower case: "pt. is", "min. change", "3 mm. nodule".
_SHORT = frozenset(
    {"pt", "pts", "min", "max", "mod", "temp", "ant", "post", "lat", "med", "sup", "inf", "bilat", "prob", "poss", "etc", "al"}
    | {
        "cm",
        "mm",
        "ml",
        "cc",
        "wk",
        "wks",
        "mo",
        "mos",
        "yr",
        "yrs",
        "yo",
        "hx",
        "dx",
        "exam",
        "jan",
        "feb",
        "mar",
        "apr",
        "jun",
    }
    | {"jul", "aug", "sept", "oct", "nov", "dec", "lt", "rt", "abd", "diff", "dist", "prox", "norm", "abnl"}
)

# Words may hold an apostrophe or an inner hyphen ("isn't", "follow-up"), numbers a decimal point. An ideograph is a word.
_IDEOGRAPH = "\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
_LETTER = rf"[^\W\d_{_IDEOGRAPH}]"
_MARK = "\u0300-\u036f\u0591-\u05c7\u0610-\u061a\u064b-\u065f\u0670\u0900-\u0903\u093a-\u094f"  # on and under letters
_PART = rf"{_LETTER}(?:{_LETTER}|[{_MARK}])*"
WORD = re.compile(rf"\d+(?:\.\d+)?|[{_IDEOGRAPH}]|{_PART}(?:['\-]{_PART})*")
_APOSTROPHES = str.maketrans(dict.fromkeys("’‘`´ʼ＇", "'") | dict.fromkeys("‐‑", "-"))
# "w/o" is a negation and would else become two letters.
_SLASHED = ((re.compile(r"\bw/o\b"), "without"), (re.compile(r"\bw/(?=\s|$)"), "with"))


def sentences(text: str) -> list[str]:
    """Splits a report into sentences, without the numbers of lists. Pieces without a letter or digit are left out.

    Ends are . ? ! and line ends. None is after a title, an initial or a common abbreviation, within a number, or where a line
    was broken within a sentence.

    Args:
        text: The report, or some sections of it.

    >>> sentences("1. No mass. Is there an effusion? 3.5 mm nodule, e.g. of Dr. Ash.Clear lungs.")
    ['No mass.', 'Is there an effusion?', '3.5 mm nodule, e.g. of Dr. Ash.', 'Clear lungs.']
    """
    found = []
    for line in _LINES.split(_WRAPPED.sub(" ", text)):
        for piece in _pieces(line):
            bare = _ITEM.sub("", piece, count=1) if _ITEM.match(piece) else piece
            if WORD.search(bare):
                found.append(bare)
    return found


def _pieces(line: str) -> Iterator[str]:
    begin = 0
    for stop in _STOP.finditer(line):
        end = stop.end()  # what was said long before does not matter, and would be copied at each stop
        if _ends(line[max(begin, end - _LOOK_BACK) : end].strip(), line[end : end + 40].lstrip()):
            yield line[begin:end].strip()
            begin = end
    if rest := line[begin:].strip():
        yield rest


def _ends(piece: str, after: str) -> bool:
    """Whether a piece that ends with a stop is a sentence, given what follows."""
    closed = piece.rstrip("\"'”’)]")
    if not after or closed[-1:] != "." or closed.endswith(".."):
        return True
    if _NUMBERED.match(closed.rstrip(".")):
        return False  # the number of an item
    match = _WORD_BEFORE.search(piece[-64:])
    if match is None:
        return True
    word = match[1].lower()
    lower = after[0].islower()
    if word in _NEVER:
        return False
    if word in _NUMBER and after[0].isdigit():
        return False
    if word in _SHORT or _DOTTED.match(word):
        return not lower
    return not _is_initial(piece, match[1])


def _is_initial(piece: str, word: str) -> bool:
    """Whether a word of one capital letter is part of a name: it begins the sentence, or follows a title or an initial."""
    if len(word) != 1 or not word.isupper():
        return False
    before = piece[-64:].rstrip("\"'”’)]")[: -len(word) - 1].split()
    return not before or before[-1].rstrip(".").lower() in _TITLES or re.fullmatch(r"[A-Z]\.", before[-1]) is not None


def words(sentence: str) -> list[str]:
    """The words and numbers of a sentence, lower-cased, in Unicode's compatible form (NFKC).

    Args:
        sentence: Of any script.

    >>> words("There isn’t a 3.5-mm nodule w/o calcification.")
    ['there', "isn't", 'a', '3.5', 'mm', 'nodule', 'without', 'calcification']
    """
    plain = unicodedata.normalize("NFKC", sentence.translate(_APOSTROPHES)).lower()
    for pattern, word in _SLASHED:
        plain = pattern.sub(word, plain)
    return WORD.findall(plain)
