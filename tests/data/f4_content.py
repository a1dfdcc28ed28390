"""Entries of F4 about what is in the files and in the table: values, tables, texts, names."""

from __future__ import annotations

import csv
import io
import unicodedata
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from tests.data import f1
from tests.data.f4_scene import (
    GRADE,
    SHAPE,
    SILENT,
    Entry,
    Level,
    Outcome,
    array_of,
    checked,
    cohort_in,
    file,
    image,
    refused,
    save,
    texts_in,
)

from comodal.data import index
from comodal.data.cohort import Case, Cohort, CohortMeta, ModalitySpec
from comodal.data.integrity import check_cohort
from comodal.data.normalisation import normalise
from comodal.data.reading import read_volume
from comodal.data.tables import read_table, spreadsheet_safe


def _value(name: str, what: str, expected: Level, array: Callable[[], Any], *, column: str = "t1") -> Entry:
    """Another array in the place of the first case's."""

    def build(path: Path) -> None:
        save(path, array())

    damaged = file(build) if expected == "E" and column == "t1" else None
    return Entry(f"values-{name}", "Values", what, expected, image(build, column=column), damaged)


def _with(value: float) -> Callable[[], Any]:
    def array() -> Any:
        changed = array_of(0, "t1").astype(np.float32)
        changed[1, 2, 3] = value
        return changed

    return array


def _labels(change: Callable[[Any], Any]) -> Callable[[], Any]:
    return lambda: change(array_of(0, "seg"))


def _overflow(_: Path) -> Outcome:
    """The whole range of int16, against float64."""
    array = np.array([-32768, 32767, 5, 0, -7, 12000], dtype=np.int16).reshape(1, 3, 2, 1)
    exact = array.astype(np.float64)
    np.testing.assert_allclose(normalise(array, "zscore"), (exact - exact.mean()) / exact.std(), rtol=1e-5)
    return Outcome("H", "normalised as float, as in 64 bits")


def _swapped(root: Path) -> Outcome:
    cohort = f1.write(root)
    next(one for one in f1.DATA_SETS if one.name.startswith("two channels swapped")).break_it(root)
    return checked(Cohort.load(cohort), column="t1")


def _ct(root: Path) -> Outcome:
    cohort = cohort_in(root)
    body = np.random.default_rng(3).integers(-1000, 300, SHAPE).astype(np.int16)
    save(root / "0_t1.nii.gz", body)
    return checked(cohort, column="t1")


def _picture(name: str, what: str, mode: str, *, suffix: str = ".png", orientation: int = 1) -> Entry:
    """Pictures of one mode: upright, and with the values that they were saved with."""

    def run(root: Path) -> Outcome:
        high = 65535 if mode == "I;16" else 255
        dtype = np.uint16 if mode == "I;16" else np.uint8
        bands = {"L": 1, "I;16": 1, "RGBA": 4, "CMYK": 4}[mode]
        cases = []
        for k in range(3):
            pixels = np.random.default_rng(k).integers(0, high, (12, 8, bands)).astype(dtype)
            picture = Image.fromarray(pixels[..., 0] if bands == 1 else pixels, **({"mode": "CMYK"} if mode == "CMYK" else {}))
            exif = Image.Exif()
            exif[0x0112] = orientation
            picture.save(root / f"{k}{suffix}", exif=exif)
            cases.append(Case.build(f"p{k}", cells={"photo": f"{k}{suffix}"}))
        array = read_volume(root / f"0{suffix}").array
        turned = orientation in (6, 8)
        assert array.shape == (1 if bands == 1 else 3, *((12, 8) if turned else (8, 12)), 1)
        if mode == "I;16":
            np.testing.assert_array_equal(array[0, ..., 0].T, np.random.default_rng(0).integers(0, high, (12, 8)))
        spec = ModalitySpec(name="photo", spatial_dims=2, channels=array.shape[0])
        return checked(Cohort.build(CohortMeta(layout="csv", root="", modalities=[spec]), cases, root), column="photo")

    return Entry(f"values-{name}", "Values", what, "H", run)


def _slide(root: Path) -> Outcome:
    import tifffile

    for k in range(2):
        stain = np.random.default_rng(k).integers(-30, 30, (512, 512, 3))
        pixels = (np.array([190, 90, 150]) + stain).astype(np.uint8)  # as tissue in haematoxylin and eosin
        tifffile.imwrite(root / f"{k}.tif", pixels, tile=(256, 256), photometric="rgb", metadata=None)
    spec = ModalitySpec(name="slide", kind="bag", spatial_dims=2, channels=3, tile=256)
    cases = [Case.build(f"p{k}", cells={"slide": f"{k}.tif"}) for k in range(2)]
    return checked(Cohort.build(CohortMeta(layout="csv", root="", modalities=[spec]), cases, root), column="slide")


VALUES = (
    _value("nan", "one NaN", "E", _with(np.nan)),
    _value("inf", "one infinity", "E", _with(-np.inf)),
    _value("constant", "constant image", "W", lambda: np.full(SHAPE, 7, dtype=np.int16)),
    _value("all-zero", "all-zero image (missing?)", "W", lambda: np.zeros(SHAPE, dtype=np.int16)),
    Entry("values-int16", "Values", "whole range of int16 on normalising", "H", _overflow),
    _value(
        "labels-wrapped", "-1 stored as uint8 in a label map", "E", _labels(lambda a: np.where(a == 4, 255, a)), column="seg"
    ),
    _value("labels-float", "fractions in a label map", "E", _labels(lambda a: a * np.float32(0.7)), column="seg"),
    _value("labels-unknown", "label outside the set", "E", _labels(lambda a: a * 2), column="seg"),
    _value("mask-empty", "empty mask", "H", _labels(np.zeros_like), column="seg"),
    _value("mask-full", "mask that is all foreground", "W", _labels(np.ones_like), column="seg"),
    Entry("values-swapped", "Values", "two sequences swapped in one case", "W", _swapped),
    Entry("values-ct", "Values", "CT in the column of an MR sequence", "W", _ct),
    _picture("exif", "photograph with EXIF rotation", "L", suffix=".jpg", orientation=6),
    _picture("cmyk", "CMYK picture", "CMYK", suffix=".jpg"),
    _picture("alpha", "PNG with transparency", "RGBA"),
    _picture("sixteen-bit", "16-bit PNG", "I;16"),
    Entry("values-slide", "Values", "whole-slide image without magnification", "W", _slide),
)


# -------------------------------------------------------------------------------------------------------- tables and texts
def _rewritten(change: Callable[[bytes], bytes], text: str = "") -> Callable[[Path], Outcome]:
    """The table of a good cohort, written in another way. text: the remark that is meant."""

    def run(root: Path) -> Outcome:
        path = cohort_in(root).save(root / "cohort.csv")
        path.write_bytes(change(path.read_bytes()))
        outcome = refused(lambda: Cohort.load(path))
        return outcome if outcome.level == "E" else checked(Cohort.load(path), text=text)

    return run


def _subjects(*names: str, text: str = "", **columns: list[str]) -> Callable[[Path], Outcome]:
    """Cases of these names, saved and loaded."""

    def run(root: Path) -> Outcome:
        cohort = cohort_in(root, len(names))
        more: list[dict[str, str]] = [{key: values[k] for key, values in columns.items()} for k in range(len(names))]
        cases = [Case.build(n, cells=c.cells, **m) for n, c, m in zip(names, cohort.cases, more, strict=True)]
        made = Cohort.build(cohort.meta, cases, root)
        loaded = Cohort.load(made.save(root / "cohort.csv"))
        assert loaded == made and [case.subject for case in loaded.cases] == list(names)
        return checked(loaded, text=text)

    return run


def _quoted(root: Path) -> Outcome:
    """A report in the cell, of two lines."""
    spec = ModalitySpec(name="report", kind="text", spatial_dims=0, inline=True)
    cases = [Case.build(f"p{k}", cells={"report": f"Lungs are clear.\nHeart {k}."}) for k in range(2)]
    path = Cohort.build(CohortMeta(layout="csv", root="", modalities=[spec]), cases, root).save(root / "cohort.csv")
    loaded = Cohort.load(path)
    assert loaded.cases[1].cells["report"] == "Lungs are clear.\nHeart 1."
    return checked(loaded)


def _blanks(root: Path) -> Outcome:
    """Only a blank cell is absent; in a column of paths the other words are refused, not taken for absence."""
    cohort = cohort_in(root)
    cohort.save(root / "cohort.csv")
    (root / "own.csv").write_text("subject,t1,t2\np0,0_t1.nii.gz,\np1,1_t1.nii.gz,1_t2.nii.gz\n")
    assert index("csv", root / "own.csv").cases[0].cells == {"t1": "0_t1.nii.gz"}
    for word in ("NA", "-1"):
        (root / "own.csv").write_text(f"subject,t1,t2\np0,0_t1.nii.gz,{word}\np1,1_t1.nii.gz,1_t2.nii.gz\n")
        assert read_table(root / "own.csv")[1][0]["t2"] == word
        assert refused(lambda: index("csv", root / "own.csv")).level == "E"
    return Outcome("H", "blank is absent; NA and -1 are refused where a path is due, and stay text elsewhere")


def _formula(_: Path) -> Outcome:
    cells = ["=HYPERLINK(1)", "+1+1", "@SUM(A1)", "-2+3", "\tx", "-1.5", "p1"]
    text = io.StringIO()
    csv.writer(text).writerow([spreadsheet_safe(cell) for cell in cells])
    (row,) = csv.reader(io.StringIO(text.getvalue()))
    assert row == [*("'" + cell for cell in cells[:5]), "-1.5", "p1"]
    return Outcome("H", "an apostrophe before = + - @, tab; numbers stay")


def _empty_report(root: Path) -> Outcome:
    """In one's own table: the cell of an empty file comes out blank."""
    for k, text in enumerate(("No finding.", " \n", "Oedema.")):
        (root / f"{k}.txt").write_text(text)
    (root / "own.csv").write_text("subject,report\np0,0.txt\np1,1.txt\np2,2.txt\n")
    image_table = root / "own.csv"
    for k in range(3):
        save(root / f"{k}.nii.gz", array_of(k, "t1"))
    image_table.write_text("subject,t1,report\n" + "".join(f"p{k},{k}.nii.gz,{k}.txt\n" for k in range(3)))
    cohort = index("csv", image_table)
    if "report" in cohort.cases[1].cells:
        return checked(cohort)
    (note,) = [note for note in cohort.meta.notes if "empty" in note]
    return Outcome("H", note)


def _accents(root: Path) -> Outcome:
    """The table in one form, the disk in the other."""
    cohort = cohort_in(root)
    name = "Jérôme.nii.gz"
    (root / "0_t1.nii.gz").rename(root / unicodedata.normalize("NFD", name))
    cells = {**cohort.cases[0].cells, "t1": unicodedata.normalize("NFC", name)}
    subject = unicodedata.normalize("NFD", "Jérôme")
    return checked(Cohort.build(cohort.meta, [Case.build(subject, cells=cells), *cohort.cases[1:]], root))


def _one_class(root: Path) -> Outcome:
    return checked(texts_in(root, ["clear", "fluid", "air"], grades=["low"] * 3), column="grade")


TABLES = (
    Entry("tables-bom", "Tables and text", "byte order mark", "H", _rewritten(lambda d: b"\xef\xbb\xbf" + d)),
    Entry("tables-utf-16", "Tables and text", "UTF-16", "E", _rewritten(lambda d: d.decode().encode("utf-16"))),
    Entry("tables-crlf", "Tables and text", "CRLF", "H", _rewritten(lambda d: d.replace(b"\n", b"\r\n"))),
    Entry("tables-semicolon", "Tables and text", "; between the cells", "W", _rewritten(lambda d: d.replace(b",", b";"))),
    Entry("tables-line-break", "Tables and text", "quoted line breaks", "H", _quoted),
    Entry("tables-header-twice", "Tables and text", "duplicated column", "E", _rewritten(lambda d: d.replace(b"t2", b"t1", 1))),
    Entry(
        "tables-subject-twice", "Tables and text", "duplicated subject", "E", _rewritten(lambda d: d.replace(b"p1,", b"p0,", 1))
    ),
    Entry("tables-blank", "Tables and text", 'blank, "NA", "-1"', "H", _blanks),
    Entry("tables-zeros", "Tables and text", "zeros at the front of identifiers", "H", _subjects("007", "008", "0010")),
    Entry("tables-zeros-lost", "Tables and text", "identifiers that lost their zeros", "W", _subjects("007", "7", "0010")),
    Entry("tables-excel-id", "Tables and text", "identifier damaged by a spreadsheet", "W", _subjects("1.23E+05", "a", "b")),
    Entry("tables-excel-date", "Tables and text", "identifier turned into a date", "W", _subjects("Mar-01", "a", "b")),
    Entry("tables-formula", "Tables and text", "formula in an exported table", "H", _formula),
    Entry("tables-formula-id", "Tables and text", "identifier that is a formula", "W", _subjects("=1+1", "a", "b")),
    Entry("tables-empty-report", "Tables and text", "empty report when indexing", "H", _empty_report),
    Entry(
        "tables-empty-cell",
        "Tables and text",
        "empty report in a cohort",
        "E",
        lambda root: checked(texts_in(root, ["", "fluid", "air"])),
    ),
    Entry(
        "tables-other-patient",
        "Tables and text",
        "report of another patient",
        "W",
        lambda root: _reports(
            root, ["Fluid.", "Compared with CXR-0417: no change.", "Clear."], ["CXR-0417", "CXR-0418", "CXR-9"]
        ),
    ),
    Entry(
        "tables-equal-reports",
        "Tables and text",
        "one report, word for word, of two patients",
        "H",
        lambda root: checked(texts_in(root, ["No acute finding.", "No acute  finding.\n", "Fluid."])),
    ),
    Entry("tables-one-class", "Tables and text", "labels of one class only", "E", _one_class),
    Entry("tables-emoji", "Tables and text", "emoji in names", "H", _subjects("p🙂", "q", "r")),
    Entry("tables-rtl", "Tables and text", "names written from right to left", "H", _subjects("مريض", "q", "r")),
    Entry("tables-accents", "Tables and text", "NFC in the table, NFD on the disk", "H", _accents),
    Entry("tables-case", "Tables and text", "names that differ only in case", "W", _subjects("Anna", "anna", "r")),
)


def _reports(root: Path, texts: list[str], names: list[str]) -> Outcome:
    cohort = texts_in(root, texts)
    cases = [Case.build(name, cells=case.cells) for name, case in zip(names, cohort.cases, strict=True)]
    return checked(Cohort.build(cohort.meta, cases, root))


# ------------------------------------------------------------------------------------------------------------------- sets
def _splits(root: Path) -> Outcome:
    cohort = cohort_in(root)
    cases = [
        Case.build("p", session=str(k), cells=case.cells, split=split)
        for k, (case, split) in enumerate(zip(cohort.cases, ("train", "train", "test"), strict=True))
    ]
    return checked(Cohort.build(cohort.meta, cases, root))


def _copied(root: Path) -> Outcome:
    cohort = cohort_in(root)
    (root / "1_t1.nii.gz").write_bytes((root / "0_t1.nii.gz").read_bytes())
    report = check_cohort(cohort)
    (found,) = report.defects
    assert (found.subject, found.modality) == ("p1", "t1")
    return Outcome({"error": "E", "warning": "W", "note": "H"}[found.level], found.rule)  # type: ignore[arg-type]


def _saved_again(root: Path) -> Outcome:
    """In other units, another type, with noise, under another name."""
    path = f1.write(root)
    array = f1.image(0, "t1").astype(np.float32)
    noise = np.random.default_rng(5).normal(0, 0.02 * array.max(), array.shape)
    f1.save(f1.file_of(root, 3, "t1"), (1.7 * array + noise).astype(np.float32))
    (found,) = check_cohort(Cohort.load(path)).defects
    assert (found.subject, found.modality) == ("p3", "t1")
    return Outcome({"error": "E", "warning": "W", "note": "H"}[found.level], found.rule)  # type: ignore[arg-type]


def _without(*missing: tuple[int, str], cases: int = 3) -> Callable[[Path], Outcome]:
    """Blank cells: (case, column)."""

    def run(root: Path) -> Outcome:
        cohort = cohort_in(root, cases)
        kept = [
            Case.build(c.subject, cells={n: cell for n, cell in c.cells.items() if (k, n) not in missing})
            for k, c in enumerate(cohort.cases)
        ]
        return checked(Cohort.build(cohort.meta, kept, root))

    return run


def _shortcut(root: Path) -> Outcome:
    cohort = texts_in(root, [f"Finding {k}." for k in range(6)], grades=["low"] * 3 + ["high"] * 3)
    letter = ModalitySpec(name="letter", kind="text", spatial_dims=0)
    cases = []
    for k, case in enumerate(cohort.cases):
        more = {"letter": f"l{k}.txt"} if k >= 3 else {}
        (root / f"l{k}.txt").write_text(f"Dear colleague {k}")
        cases.append(Case.build(case.subject, cells={**case.cells, **more}))
    meta = cohort.meta.model_copy(update={"modalities": [*cohort.meta.modalities, letter], "targets": [GRADE]})
    return checked(Cohort.build(meta, cases, root))


def _folds(root: Path) -> Outcome:
    from comodal.data.splits import SplitConfig, make_splits

    cohort = cohort_in(root)
    return refused(lambda: make_splits(cohort, SplitConfig(folds=5)))


SETS = (
    Entry("sets-two-splits", "Sets", "one subject in two splits", "E", _splits),
    Entry("sets-two-ids", "Sets", "the same pixels under two identifiers", "E", _copied),
    Entry("sets-nearly", "Sets", "nearly the same pixels under two identifiers", "W", _saved_again),
    Entry(
        "sets-follow-up",
        "Sets",
        "follow-up scans",
        "H",
        lambda root: _sessions(root),  # noqa: PLW0108  which stands further down
    ),
    Entry("sets-nowhere", "Sets", "a modality that is absent everywhere", "E", _without(*((k, "t2") for k in range(3)))),
    Entry("sets-shortcut", "Sets", "a modality that one class only has", "W", _shortcut),
    Entry("sets-incomplete", "Sets", "no complete case", "H", _without((0, "t2"), (1, "t1"), (2, "t1"))),
    Entry("sets-folds", "Sets", "fewer cases than folds", "E", _folds),
    Entry("sets-one-case", "Sets", "one case", "E", _without(cases=1)),
)


def _sessions(root: Path) -> Outcome:
    cohort = cohort_in(root)
    names = (("a", "1"), ("a", "2"), ("b", ""))
    cases = [Case.build(s, session=n, cells=c.cells) for (s, n), c in zip(names, cohort.cases, strict=True)]
    outcome = checked(Cohort.build(cohort.meta, cases, root))
    assert outcome.text != SILENT
    return outcome
