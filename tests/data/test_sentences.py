"""Where sentences end in reports, and what their words are, against texts read by eye."""

from __future__ import annotations

import time

import pytest

from comodal.data.sentences import sentences, words

SPLITS = {
    "plain": ("No mass. Is it clear? Yes!", ["No mass.", "Is it clear?", "Yes!"]),
    "no space": ("Heart normal.No change. XXXX.In the lobe", ["Heart normal.", "No change.", "XXXX.", "In the lobe"]),
    "decimals": ("A 3.5 cm nodule at 10.30. Fine", ["A 3.5 cm nodule at 10.30.", "Fine"]),
    "dots": ("Clear... No mass. . ", ["Clear...", "No mass."]),
    "list": ("1. Clear lungs. 2. No effusion.\n3) Scar.\n- No mass", ["Clear lungs.", "No effusion.", "Scar.", "No mass"]),
    "list of numbers": ("1. 5 mm nodule. 2.No mass", ["1. 5 mm nodule.", "No mass"]),
    "titles": ("Seen by Dr. J. K. Ash. Mrs. Oak left.", ["Seen by Dr. J. K. Ash.", "Mrs. Oak left."]),
    "initials": ("A. Ash read it. Hepatitis C. No mass.", ["A. Ash read it.", "Hepatitis C.", "No mass."]),
    "always on": ("Scar vs. Mass. See fig. 3. Fine", ["Scar vs. Mass.", "See fig. 3.", "Fine"]),
    "dotted": ("Lines, e.g. a tube. At 10 a.m. it moved. At 5 p.m. Fine", [
        "Lines, e.g. a tube.", "At 10 a.m. it moved.", "At 5 p.m.", "Fine",
    ]),
    "number": ("Tube No. 3 moved. Effusion? No. Mass? No.", ["Tube No. 3 moved.", "Effusion?", "No.", "Mass?", "No."]),
    "short": ("Pt. is well. A 3 mm. nodule. Of 3 mm. Fine", ["Pt. is well.", "A 3 mm. nodule.", "Of 3 mm.", "Fine"]),
    "in lower case": ("no effusion. heart is normal.", ["no effusion.", "heart is normal."]),
    "closed": ("(No change.) It is \"clear.\" Fine", ["(No change.)", "It is \"clear.\"", "Fine"]),
    "wrapped": ("Heart size is\nnormal.\nlungs\r\nclear", ["Heart size is normal.", "lungs clear"]),
    "headings": ("LUNGS: clear\nHEART: normal", ["LUNGS: clear", "HEART: normal"]),
    "masks": ("___ at ___. XXXX unremarkable. ___.", ["___ at ___.", "XXXX unremarkable."]),
    "other stops": ("肺部清晰。没有积液。هل هو؟نعم", ["肺部清晰。", "没有积液。", "هل هو؟", "نعم"]),
    "nothing": (" . \n😀 -- ___", []),
}  # fmt: skip


@pytest.mark.parametrize("what", SPLITS)
def test_sentences(what: str) -> None:
    text, wanted = SPLITS[what]
    assert sentences(text) == wanted


def test_negations_survive_in_every_form() -> None:
    said = words(
        "No mass, not seen, without effusion; isn't, can’t, won`t, doesn´t, cannot, neither, w/o air, w/ scar, non-union"
    )
    assert said == [
        "no", "mass", "not", "seen", "without", "effusion", "isn't", "can't", "won't", "doesn't", "cannot", "neither",
        "without", "air", "with", "scar", "non-union",
    ]  # fmt: skip


def test_words_of_other_scripts_and_of_strange_signs() -> None:
    assert words("Нет выпота") == ["нет", "выпота"]
    assert words("لا يوجد") == ["لا", "يوجد"] and words("肺clear") == ["肺", "clear"]
    assert words("e\u0301panchement \ufb01brosis") == ["épanchement", "fibrosis"] and words("फेफड़े") == ["फेफड़े"]
    assert words("a\x00b 😀 ½ __ 3.5mm T2") == ["a", "b", "1", "2", "3.5", "mm", "t", "2"]


@pytest.mark.parametrize(
    "text",
    [
        *("word " * 200_000, "a" * 1_000_000, "1." * 200_000, ". " * 100_000, "a.b" * 100_000, "\n" * 10**6),
        *("." * 10**6 + "x", "." + "'" * 10**6 + "x", "vs. " * 200_000, "A. " * 100_000),  # no stop of these ends a sentence
    ],
)
def test_a_line_of_a_megabyte_takes_no_time(text: str) -> None:
    began = time.process_time()
    [words(sentence) for sentence in sentences(text)]
    assert time.process_time() - began < 5
