"""The chest phantom on disk: names, reports and tables as in Open-I and as in MIMIC-CXR-JPG with its reports."""

from __future__ import annotations

import csv
import gzip
import hashlib
import io
import textwrap
from collections.abc import Mapping, Sequence
from typing import Literal
from xml.sax.saxutils import escape

import numpy as np
from PIL import Image

from comodal.data.phantoms.chest_ceilings import CHEXPERT, chexpert_classes
from comodal.data.phantoms.chest_model import FINDINGS, Bools, Floats

View = Literal["frontal", "lateral"]
# How many studies the patients of MIMIC have, in turn.
STUDIES = (1, 2, 1, 3)
CHEXPERT_COLUMNS = (
    "Atelectasis", "Cardiomegaly", "Consolidation", "Edema", "Enlarged Cardiomediastinum", "Fracture", "Lung Lesion",
    "Lung Opacity", "No Finding", "Pleural Effusion", "Pleural Other", "Pneumonia", "Pneumothorax", "Support Devices",
)  # fmt: skip
METADATA_COLUMNS = (
    "dicom_id", "subject_id", "study_id", "PerformedProcedureStepDescription", "ViewPosition", "Rows", "Columns", "StudyDate",
    "StudyTime", "ProcedureCodeSequence_CodeMeaning", "ViewCodeSequence_CodeMeaning",
    "PatientOrientationCodeSequence_CodeMeaning",
)  # fmt: skip
JPG, TEXT, SEVERITY = "mimic-cxr-jpg/2.0.0", "mimic-cxr/2.0.0", "mimic-cxr-pe-severity/1.0.1"
# What the table of labels says of a finding: no, yes, uncertain, nothing. Drawn apart from everything else.
LABEL_SHARES = {False: (0.75, 0.0, 0.03, 0.22), True: (0.0, 0.90, 0.07, 0.03)}
LABEL_CODES = ("0.0", "1.0", "-1.0", "")
SPLITS = (("train", 0.7), ("validate", 0.1), ("test", 0.2))
GRADED = 0.8  # share of the studies outside the test split that have a grade from their report


def openi_image(k: int, view: View) -> str:
    """Identifier of a picture of case k.

    >>> openi_image(0, "frontal")
    'CXR1_1_IM-0001-3001'
    """
    return f"CXR{k + 1}_1_IM-{k + 1:04d}-{3001 if view == 'frontal' else 4001}"


def openi_xml(
    k: int, sections: Mapping[str, str], terms: tuple[Sequence[str], Sequence[str]], *, views: Sequence[View]
) -> bytes:
    """The XML of case k.

    Args:
        k: Case.
        sections: {title: text}; all are written without text where the report is missing.
        terms: Major and automatic MeSH terms.
        views: Pictures that the report names, whether their files are there or not.
    """
    titles = ("comparison", "indication", "findings", "impression")
    texts = "".join(
        f'<AbstractText Label="{title.upper()}">{escape(sections.get(title, ""))}</AbstractText>\n' for title in titles
    )
    major, automatic = (
        "".join(f"<{tag}>{escape(term)}</{tag}>\n" for term in words)
        for tag, words in zip(("major", "automatic"), terms, strict=True)
    )
    # The caption is that of the study, whatever picture it stands beside.
    caption = "Chest, frontal and lateral views" if "lateral" in views else "Frontal view of the chest"
    images = "".join(
        f'<parentImage id="{openi_image(k, view)}">\n<figureId>F{number}</figureId>\n<caption>{caption}</caption>\n'
        "</parentImage>\n"
        for number, view in enumerate(views, start=1)
    )
    return (
        '<?xml version="1.0" encoding="utf-8"?>\n<eCitation>\n<meta type="rr"/>\n'
        f'<uId id="CXR{k + 1}"/>\n<pmcId id="{k + 1}"/>\n<docSource>CXR</docSource>\n'
        f"<MedlineCitation>\n<Article>\n<Abstract>\n{texts}</Abstract>\n</Article>\n</MedlineCitation>\n"
        f"<MeSH>\n{major}{automatic}</MeSH>\n{images}</eCitation>\n"
    ).encode()


def patient(k: int) -> tuple[int, int]:
    """(number of the patient, number of the study of this patient) of case k, both from 0, as patients of MIMIC have several.

    >>> [patient(k) for k in range(8)]
    [(0, 0), (1, 0), (1, 1), (2, 0), (3, 0), (3, 1), (3, 2), (4, 0)]
    """
    rounds, rest = divmod(k, sum(STUDIES))
    for number, count in enumerate(STUDIES):
        if rest < count:
            return rounds * len(STUDIES) + number, rest
        rest -= count
    raise AssertionError("the rest is smaller than the sum")


def subject_id(k: int) -> str:
    """Digits of the patient of case k; patients are spread over the ten folders."""
    number, _ = patient(k)
    return str(10_000_000 + number % 10 * 1_000_000 + number // 10 * 37 + 32)


def study_id(k: int) -> str:
    """Digits of the study of case k."""
    return str(50_000_000 + k * 41 + 267)


def dicom_id(seed: int, k: int, view: View) -> str:
    """Identifier of a picture: five groups of eight digits of a hash."""
    digits = hashlib.sha256(f"{seed} {k} {view}".encode()).hexdigest()
    return "-".join(digits[i : i + 8] for i in range(0, 40, 8))


def study_folder(k: int) -> str:
    """`p10/p10000032/s50000267`, below `files`."""
    subject = subject_id(k)
    return f"p{subject[:2]}/p{subject}/s{study_id(k)}"


def mimic_text(sections: Mapping[str, str], *, lateral: bool) -> bytes:
    """A report with titles in capitals, its lines broken as typists do.

    Args:
        sections: {title: text}.
        lateral: Whether there is a lateral view.
    """
    parts = [f"EXAMINATION:  CHEST {'(PA AND LAT)' if lateral else '(PORTABLE AP)'}"]
    for title in ("indication", "comparison", "findings", "impression"):
        if sections.get(title):
            text = f"{title.upper()}:  {sections[title]}"
            parts.append("\n".join(textwrap.wrap(text, 78, initial_indent=" ", subsequent_indent=" ", break_on_hyphens=False)))
    return ("                                 FINAL REPORT\n " + "\n\n".join(parts) + "\n").encode()


def split_of(draw: float) -> str:
    """The split of a patient. draw: uniform in 0..1."""
    edges = np.cumsum([share for _, share in SPLITS])
    return SPLITS[min(int(np.searchsorted(edges, draw, side="right")), len(SPLITS) - 1)][0]


def chexpert_row(present: Bools, rng: np.random.Generator) -> dict[str, str]:
    """What the table of labels says of one study.

    Args:
        present: (K,) true findings.
        rng: Of what is uncertain and what is not mentioned.

    Returns:
        {column: code} for the 14 columns. "No Finding" is 1.0 where nothing is named, and blank otherwise.
    """
    names = [finding.name for finding in FINDINGS[: len(present)]]
    draws = dict(zip(CHEXPERT, rng.uniform(size=len(CHEXPERT)), strict=True))
    row = dict.fromkeys(CHEXPERT_COLUMNS, "")
    for name, parts in chexpert_classes(len(names)).items():
        true = any(present[names.index(part)] for part in parts)
        edges = np.cumsum(LABEL_SHARES[bool(true)])[:-1]
        row[name] = LABEL_CODES[int(np.searchsorted(edges, draws[name], side="right"))]
    if not {"1.0", "-1.0"} & set(row.values()):
        row["No Finding"] = "1.0"
    return row


def table(columns: Sequence[str], rows: Sequence[Mapping[str, object]]) -> bytes:
    """A CSV file; of what a row has, the named columns."""
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, extrasaction="ignore", restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue().encode()


def packed(data: bytes) -> bytes:
    """As .gz, without the time; equal content gives equal bytes."""
    return gzip.compress(data, compresslevel=6, mtime=0)


def picture(image: Floats, form: Literal["PNG", "JPEG"]) -> bytes:
    """8-bit grey. image: (rows, columns) in 0..1."""
    out = io.BytesIO()
    options: dict[str, int] = {"quality": 95} if form == "JPEG" else {"compress_level": 6}
    Image.fromarray(np.rint(image * 255).astype(np.uint8)).save(out, format=form, **options)
    return out.getvalue()
