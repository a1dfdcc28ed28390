"""Reports as data sets store them: plain text, text with titles in capitals (MIMIC-CXR), XML (Open-I).

What a report is, is decided by its content. The marks of de-identification ("XXXX", "___") are part of the text and stay.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from xml.etree import ElementTree

from comodal.data.reading import MAX_TEXT
from comodal.errors import DataError, message

_XML = ("<?xml", "<!", "<eCitation")
# Entities may name files or grow without end; no report needs a document type.
_DECLARATION = re.compile(r"<!\s*(?:DOCTYPE|ENTITY)", re.IGNORECASE)
_DEEPEST = 64  # elements within elements; a report of Open-I has 9

# A title stands at the beginning of a line, in capitals, and ends with a colon ("10:30 A.M." has none). The common ones are
# also known in mixed case; some headers have no colon.
_TITLE = re.compile(
    r"^[ \t]*(?:(?P<capitals>[A-Z][A-Z0-9 /&,()'_-]{1,60})[ \t]*:(?!\d)"
    r"|(?P<mixed>(?:Findings?|Impressions?|Conclusions?|Recommendations?|Recommendation\(s\)|Indications?|Comparisons?|"
    r"Technique|Examination|History|Clinical [Hh]istory)(?: and [Ii]mpression)?)[ \t]*:(?!\d)"
    r"|(?P<bare>FINAL REPORT|FINAL ADDENDUM|ADDENDUM|WET READ)[ \t]*$)",
    re.MULTILINE,
)
_START = re.compile(r"^[ \t]*FINAL REPORT[ \t]*:?[ \t]*$", re.MULTILINE)
# Sections with several spellings: "FINDINGS AND IMPRESSION", "RECOMMENDATION(S)".
_FAMILIES = (
    ("finding", "findings"),
    ("impression", "impression"),
    ("conclusion", "conclusion"),
    ("recommendation", "recommendations"),
)
# Any other title in capitals below one of these is a heading inside it ("LUNGS: clear") and not a section of its own.
_NESTING = frozenset(name for _, name in _FAMILIES)
_SECTION = re.compile(
    r"(?:final|preliminary|wet|addendum|exam|study|procedure|indication|clinical|history|reason|comparison|technique|finding|"
    r"impression|conclusion|recommendation|notification|summary|report|diagnosis)",
)


@dataclass(frozen=True)
class OpenIReport:
    """One report of Open-I.

    Attributes:
        uid: Its identifier ("CXR1").
        sections: {title in lower case: text} of those that hold a text.
        major: Terms given by people, with their qualifiers ("Cardiomegaly/mild"); "normal" where there is nothing to tell.
        automatic: Terms given by a program.
        images: (identifier, caption) of each image; the caption is that of the whole study.
    """

    uid: str
    sections: Mapping[str, str]
    major: tuple[str, ...]
    automatic: tuple[str, ...]
    images: tuple[tuple[str, str], ...]


# A blank line, or a line that begins an item of a list or has a title in capitals, begins a paragraph.
_PARAGRAPH = re.compile(r"\n\s*\n|\n(?=[ \t]*(?:\d{1,2}[.)][ \t]|[-*•][ \t]|[A-Z][A-Z /]+:))")


def report_text(text: str, sections: Sequence[str], *, subject: str = "", modality: str = "", file: str | None = None) -> str:
    r"""The words of a report.

    Args:
        text: As the file or the cell holds it.
        sections: Titles in lower case, in the order in which they are to be read; all of the text where empty.
        subject: For the error text, as are modality and file.
        modality: See subject.
        file: See subject.

    Returns:
        The text of these sections, one after the other. Where a plain text has none of them, everything after FINAL REPORT, or
        all of it where it has no such line (the rule of Liao et al. (2021) for MIMIC-CXR); of XML then "". "" where there is no
        word.

    Raises:
        DataError: XML of another kind, or damaged, or with a document type.

    >>> report_text("FINAL REPORT\nINDICATION: Cough.\nIMPRESSION: Clear lungs.\n", ["findings", "impression"])
    'Clear lungs.'
    """
    if _is_xml(text):
        found = openi_report(text, subject=subject, modality=modality, file=file).sections
        return _joined(found, sections or tuple(found))
    if not sections:
        return text
    if text.lstrip().startswith("<"):
        do = "Leave `sections` out of the cohort's yaml if this is plain text"
        raise DataError(
            message(
                "report",
                "be plain text or XML of Open-I",
                "another kind of XML",
                do=do,
                subject=subject,
                modality=modality,
                file=file,
            )
        )
    found = parse_sections(text)
    chosen = _joined(found, sections)
    if chosen or not any(map(_has_words, found.values())):
        return chosen
    start = _START.search(text)
    return _unwrapped(text[start.end() if start else 0 :])


def parse_sections(text: str) -> dict[str, str]:
    r"""The sections of a report.

    Titles of plain text stand at the beginning of a line, in capitals, with a colon. Inside findings, impression, conclusion
    and recommendations an unknown title ("LUNGS:") is part of the section.

    Args:
        text: Plain text, or XML of Open-I.

    Returns:
        {title in lower case: text}, without sections that hold nothing, in the order of the report; a title that comes again
        adds to its section. What stands before the first title is called "". Spellings of findings, impression, conclusion and
        recommendations are brought together.

    Raises:
        DataError: XML of another kind, or damaged.

    >>> parse_sections("FINDINGS:  Clear lungs.\nHEART: Normal.\nRECOMMENDATION(S):  None.\n")
    {'findings': 'Clear lungs.\nHEART: Normal.', 'recommendations': 'None.'}
    """
    if _is_xml(text):
        return dict(openi_report(text).sections)
    parts: list[tuple[str, int, int]] = []  # title, where its text begins, where the title itself begins
    title = ""
    for match in _TITLE.finditer(text):
        name = section_name(match["capitals"] or match["mixed"] or match["bare"])
        if title in _NESTING and not _SECTION.match(name):
            continue
        title = name
        parts.append((name, match.end(), match.start()))
    found: dict[str, str] = {}
    ends = [*(begin for _, _, begin in parts), len(text)]
    for (name, begin, _), end in zip([("", 0, 0), *parts], ends, strict=True):
        if body := text[begin:end].strip():
            found[name] = f"{found[name]}\n{body}" if name in found else body
    return found


def section_name(title: str) -> str:
    """A title as a key: in lower case, spaces single, spellings of one section brought together.

    Args:
        title: As written.

    >>> section_name("FINDINGS  AND IMPRESSION"), section_name("Recommendation(s)"), section_name("CLINICAL HISTORY")
    ('findings', 'recommendations', 'clinical history')
    """
    plain = " ".join(title.lower().split())
    bare = plain.removeprefix("final ").removeprefix("preliminary ")
    return next((name for start, name in _FAMILIES if bare.startswith(start)), plain)


def openi_report(data: str, *, subject: str = "", modality: str = "", file: str | None = None) -> OpenIReport:
    """Reads a report of Open-I.

    Args:
        data: The XML as text.
        subject: For the error text, as are modality and file.
        modality: See subject.
        file: See subject.

    Returns:
        What it says.

    Raises:
        DataError: Not XML, damaged, of another kind, without an identifier, with a document type or entities of its own, or
            longer than 4 MiB.
    """
    collector = _Collector()
    try:
        if len(data) > MAX_TEXT:
            raise ValueError(f"more than {MAX_TEXT // 1024**2} MiB")
        if _DECLARATION.search(data):
            raise ValueError("a document type or entities")
        parser = ElementTree.XMLParser(target=collector)
        parser.feed(data.lstrip())
        parser.close()
        if not collector.uid:
            raise ValueError("no uId")
    except (ElementTree.ParseError, ValueError) as error:
        do = "Take the file again from the archive of Open-I"
        place = {"subject": subject, "modality": modality, "file": file}
        raise DataError(message("report", "be XML of Open-I (eCitation)", str(error), do=do, **place)) from None
    return OpenIReport(
        collector.uid, collector.sections, tuple(collector.major), tuple(collector.automatic), tuple(collector.images)
    )


class _Collector:
    """What a parser of XML reports to: keeps what is needed and no tree."""

    def __init__(self) -> None:
        self.uid = ""
        self.sections: dict[str, str] = {}
        self.major: list[str] = []
        self.automatic: list[str] = []
        self.images: list[tuple[str, str]] = []
        self._path: list[str] = []
        self._label = ""
        self._text: list[str] = []

    def start(self, tag: str, attributes: Mapping[str, str]) -> None:
        if not self._path and tag != "eCitation":
            raise ValueError(f"the root {tag[:40]!r}")
        if len(self._path) >= _DEEPEST:
            raise ValueError(f"elements within elements, more than {_DEEPEST} deep")
        parent = self._path[-1] if self._path else ""
        self._path.append(tag)
        if tag == "uId" and parent == "eCitation":
            self.uid = attributes.get("id", "").strip()
        elif tag == "parentImage":
            self.images.append((attributes.get("id", "").strip(), ""))
        elif tag == "AbstractText":
            self._label, self._text = attributes.get("Label", ""), []
        elif (tag in ("major", "automatic") and parent == "MeSH") or (tag == "caption" and parent == "parentImage"):
            self._text = []

    def data(self, text: str) -> None:
        self._text.append(text)

    def end(self, tag: str) -> None:
        self._path.pop()
        parent = self._path[-1] if self._path else ""
        text = "".join(self._text).strip()
        if tag == "AbstractText" and text:
            name = section_name(self._label)
            self.sections[name] = f"{self.sections[name]}\n{text}" if name in self.sections else text
        elif tag in ("major", "automatic") and parent == "MeSH" and text:
            (self.major if tag == "major" else self.automatic).append(text)
        elif tag == "caption" and parent == "parentImage":
            self.images[-1] = (self.images[-1][0], " ".join(text.split()))

    def close(self) -> None:
        pass


def _is_xml(text: str) -> bool:
    return text.lstrip().startswith(_XML)


def _has_words(text: str) -> bool:
    return any(map(str.isalnum, text))


def _joined(found: Mapping[str, str], sections: Sequence[str]) -> str:
    names = dict.fromkeys(map(section_name, sections))
    return "\n".join(_unwrapped(found[name]) for name in names if _has_words(found.get(name, "")))


def _unwrapped(text: str) -> str:
    """Paragraphs of one line each: reports are wrapped at a width, and a line end within a sentence does not end it."""
    return "\n".join(" ".join(part.split()) for part in _PARAGRAPH.split(text) if part.strip())
