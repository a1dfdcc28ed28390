"""The 14 findings of ChestX-ray14 in the terms by which Open-I describes a report; see `tables/openi_findings.yaml`."""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import yaml

TABLE = Path(__file__).parent / "tables" / "openi_findings.yaml"
NORMAL = "normal"
# Nobody gave such a report its terms: what is not named is not known to be absent.
NOT_INDEXED = "no indexing"


@dataclass(frozen=True)
class _Finding:
    """Words that mean a finding, words that rule it out in the same term, and headings with the qualifier that they need."""

    words: re.Pattern[str]
    without: re.Pattern[str] | None
    qualified: frozenset[tuple[str, str]]


@functools.cache
def _table() -> dict[str, _Finding]:
    content = yaml.safe_load(TABLE.read_text(encoding="utf-8"))
    found = {}
    for name, entry in content.items():
        plain = [word for word in entry["words"] if "/" not in word]
        pairs = [word.split("/") for word in entry["words"] if "/" in word]
        excluded = _any_of(entry["not"]) if "not" in entry else None
        found[name] = _Finding(_any_of(plain), excluded, frozenset((head, qualifier) for head, qualifier in pairs))
    return found


def _any_of(words: Iterable[str]) -> re.Pattern[str]:
    return re.compile(rf"(?<!\w)(?:{'|'.join(map(re.escape, words))})(?!\w)")


def finding_names() -> list[str]:
    """The 14 names, in the order of the table."""
    return list(_table())


def findings_in(major: Iterable[str], automatic: Iterable[str]) -> list[str]:
    """The findings that the terms of a report name, in the order of the table.

    Args:
        major: Terms with qualifiers ("Thickening/pleura/apex").
        automatic: Terms without.

    >>> findings_in(["Thickening/pleura/apex", "Pericardial Effusion"], ["pleural effusion "])
    ['Effusion', 'Pleural_Thickening']
    """
    found = {name for term in major for name in _in_term(plain_term(term), qualified=True)}
    found |= {name for term in automatic for name in _in_term(plain_term(term), qualified=False)}
    return [name for name in _table() if name in found]


def plain_term(term: str) -> str:
    """A term in lower case, white space single and none at its ends. term: as written."""
    return " ".join(term.lower().split())


@functools.lru_cache(maxsize=1 << 14)
def _in_term(term: str, *, qualified: bool) -> tuple[str, ...]:
    parts = [part.strip() for part in term.split("/")] if qualified else [term]
    return tuple(name for name, finding in _table().items() if _means(finding, parts[0], parts[1:]))


def _means(finding: _Finding, head: str, qualifiers: list[str]) -> bool:
    if any((head, qualifier) in finding.qualified for qualifier in qualifiers):
        return True
    return bool(finding.words.search(head)) and not (finding.without and finding.without.search(head))


def label_cell(major: Iterable[str], automatic: Iterable[str]) -> str:
    """The cell of the target: findings joined by ";", "-" for none, "" where nobody described the report.

    Where nobody gave the report its major terms, a finding that a program named counts and the others are unknown ("?Mass").

    Args:
        major: As for `findings_in`.
        automatic: See major.

    >>> label_cell(["normal"], []), label_cell(["No Indexing"], []), label_cell(["Mass/lung"], ["nodule"])
    ('-', '', 'Mass;Nodule')
    """
    terms = list(major)
    found = findings_in(terms, automatic)
    if is_indexed(terms):
        return ";".join(found) or "-"
    return ";".join([*found, *(f"?{name}" for name in _table() if name not in found)]) if found else ""


def is_indexed(major: Iterable[str]) -> bool:
    """True where somebody gave the report its major terms. major: as for `findings_in`."""
    terms = [plain_term(term) for term in major]
    return bool(terms) and NOT_INDEXED not in terms
