"""The reports of the chest phantom: what is said can be read off them, and they repeat, vary and carry the marks."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from comodal.data import index
from comodal.data.contents import report_of
from comodal.data.phantoms import layout_of
from comodal.data.phantoms.chest import ChestPhantom, draw_case, write_chest
from comodal.data.phantoms.chest_model import FINDINGS, GRADES, KINDS
from comodal.data.phantoms.chest_report import GRADE_WORDS, NORMAL, NOUNS, SIZE_WORDS, write_report
from comodal.data.phantoms.writing import stream
from comodal.data.text import sentences


def read_report(text: str) -> dict[str, tuple[str, str]]:
    """{finding: (kind, where)}: what a careful reader takes from the findings section, sentence by sentence."""
    said: dict[str, tuple[str, str]] = {}
    for sentence in sentences(text):
        words = sentence.lower()
        fixed = [name for name, forms in NORMAL.items() if sentence in forms]
        grades = {grade: [form for form in forms if form in words] for grade, forms in GRADE_WORDS.items()}
        nouns = {name: max((len(n) for n in forms if n in words), default=0) for name, forms in NOUNS.items()}
        found = fixed or [name for name, length in nouns.items() if length]
        negated = bool(fixed) or words.startswith(("no ", "there is no ")) or "is not seen" in words
        doubt = re.search(r"possible|questionable|may be|cannot be excluded", words)
        kind = "negated" if negated else "uncertain" if doubt else "positive"
        side = re.search(r"\b(right|left)\b(?: (upper|mid|lower) lung zone)?", words)
        place = " ".join(part for part in side.groups() if part) if side else ""
        for name in found:
            said[name] = (kind, place)
        for grade, forms in grades.items():
            if forms and not fixed:
                said["Edema"] = (kind, GRADES[grade])
    return said


@pytest.mark.parametrize("findings", [4, 14])
def test_what_the_report_says_can_be_read_off_it(findings: int) -> None:
    """So that the ceiling of the report, computed from what it was to say, is that of its words."""
    config = ChestPhantom(findings=findings)
    for k in range(150):
        causes = draw_case(config, k)
        text = write_report(causes, "open-i", stream(0, k, 6), unhelpful=4).sections["findings"]
        read = read_report(text)
        for j, signs in enumerate(causes.signs):
            finding, kind, named = FINDINGS[j], KINDS[signs.kind[0]], int(signs.named[0])
            where = "" if named < 0 else GRADES[named] if finding.name == "Edema" else finding.sites[named]
            if len(finding.sites) == 1 and finding.name != "Edema":
                where = ""
            expected = None if kind == "silent" else (kind, where)
            assert read.get(finding.name) == expected, (k, finding.name, text)


def test_reports_vary_repeat_and_carry_the_marks(tmp_path: Path) -> None:
    config = ChestPhantom(size=64, cases=60)
    other = ChestPhantom(size=64, cases=60, release="mimic-cxr")
    counts: dict[str, int] = {}
    for root, one, mark in ((tmp_path / "o", config, "XXXX"), (tmp_path / "m", other, "___")):
        write_chest(root, one)
        cohort = index(layout_of("chest", one), root)
        texts = [report_of(cohort, case, "report") for case in cohort.cases]
        assert sum(mark in text for text in texts) > 10
        assert len(set(texts)) > 50
        for text in texts:
            for sentence in sentences(text):
                counts[sentence] = counts.get(sentence, 0) + 1
    assert max(counts.values()) > 10 and sum(count <= 2 for count in counts.values()) > 30  # once in each release
    small = [write_report(draw_case(config, k), "open-i", stream(0, k, 6), unhelpful=0).sections["findings"] for k in range(40)]
    long = [write_report(draw_case(config, k), "open-i", stream(0, k, 6), unhelpful=8).sections["findings"] for k in range(40)]
    assert sum(map(len, small)) < 0.6 * sum(map(len, long))


def test_sizes_are_named_only_with_their_place() -> None:
    words = {word for forms in SIZE_WORDS for word in forms}
    for k in range(100):
        causes = draw_case(ChestPhantom(findings=4), k)
        nodule = causes.signs[3]
        text = write_report(causes, "open-i", stream(0, k, 6), unhelpful=0).sections["findings"].lower()
        for sentence in sentences(text):
            if "nodul" in sentence and KINDS[nodule.kind[0]] in ("positive", "uncertain"):
                assert bool(words & set(re.findall(r"\w+", sentence))) == (nodule.named[0] >= 0)
