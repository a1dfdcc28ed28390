"""The page of melanoma inference: numbers beside references with a verdict, and every suspicious case by its number."""

from __future__ import annotations

from dataclasses import replace

from comodal.data.derm7pt import ScoreMismatch
from comodal.evaluation.melanoma import Call, MelanomaInference
from comodal.reporting.melanoma import melanoma_text
from comodal.study.melanoma import (
    NAMES,
    OFFICIAL,
    PUBLISHED,
    Compared,
    MelanomaLine,
    MelanomaReproduction,
    Suspicious,
)

COUNTS = {
    name: {"ABS": 3, "PRS": 1}
    for name in (
        "diagnosis",
        "pigment_network",
        "blue_whitish_veil",
        "vascular_structures",
        "pigmentation",
        "streaks",
        "dots_and_globules",
        "regression_structures",
    )
}


def line(variant: str, reference: float | None) -> MelanomaLine:
    found = MelanomaInference(4, 1, 0.75, 0.75, (Call(1, 1.0, 0.5), Call(3, None, 0.5)))
    ours = (4, 1, 0.75, 1.0, 0.5, None, 0.5, 0.75, None)
    numbers = tuple(
        Compared(name, value, reference if name == "AUROC" else None) for name, value in zip(NAMES, ours, strict=True)
    )
    largest = {name: Compared(f"largest class of {name}", 0.75) for name in COUNTS}
    return MelanomaLine(variant, "test", found, numbers, COUNTS, largest, ("streaks",) if variant == PUBLISHED else ())


FOUND = MelanomaReproduction(
    root="files",
    rows=4,
    synthetic=False,
    release=True,
    lines=(line(OFFICIAL, None), line(PUBLISHED, 0.8)),
    mismatches=(ScoreMismatch(2, "003", 4, 5),),
    scored=4,
    suspicious=Suspicious({"565": "replaced"}, {"a/b.jpg": ("1", "2")}, {"L1": ("3", "4")}, ("565",), ("566",)),
    notes=("a note | with a bar",),
)


def test_numbers_verdicts_and_cases_are_on_the_page() -> None:
    text = melanoma_text(FOUND)
    page = text.markdown()
    assert "| test | 4 | 1 | 0.750 (0.800: differs) | 1.000 | 0.500 | not defined | 0.500 | 0.750 | not defined |" in page
    assert "| test | 4 | 1 | 0.750 | 1.000 |" in page
    assert "Differs: published tables, test: AUROC 0.75 for 0.8; published tables, test: counts of streaks." in page
    assert "1 of 4 rows: 003 (4, sum 5)" in page
    assert "One file named as both photographs, in 1 lesion: 565 (replaced)." in page
    assert "a/b.jpg: 1, 2" in page and "L1: 3, 4" in page and "lack the lesions 566" in page
    assert r"a note \| with a bar" in page
    assert "| published tables, test | 3 | 1 | differs from the reference |" in page
    assert [len(table.columns) for table in text.tables[:2]] == [10, 10] and len(text.tables) == 2 + 1 + 8
    assert all(len(row) == len(table.columns) for table in text.tables for row in table.rows)


def test_a_phantom_without_anything_odd_says_so() -> None:
    plain = replace(
        FOUND, synthetic=True, release=False, lines=FOUND.lines[:1], mismatches=(), suspicious=Suspicious({}, {}, {}, (), ())
    )
    page = melanoma_text(plain).markdown()
    assert "a phantom: its numbers say nothing about patients" in page and "there are no references" in page
    assert "No lesion names one file" in page and "No photograph is that of several" in page and "No case_id" in page
    assert "in all 4 rows" in page and "published tables" not in page
    assert "The table has no seven_point_score." in melanoma_text(replace(plain, mismatches=None, scored=0)).markdown()
