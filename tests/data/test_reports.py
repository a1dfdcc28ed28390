"""Reports: XML of Open-I, titles in capitals, plain text; and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from comodal.data.cohort import Case, Cohort, CohortMeta, ModalitySpec
from comodal.data.contents import report_of
from comodal.data.reports import openi_report, parse_sections, report_text, section_name
from comodal.errors import DataError

XML = """<?xml version="1.0" encoding="utf-8"?>
<eCitation>
   <uId id="CXR7"/>
   <MedlineCitation><Article><Abstract>
      <AbstractText Label="COMPARISON">None.</AbstractText>
      <AbstractText Label="INDICATION">XXXX-year-old &amp; cough</AbstractText>
      <AbstractText Label="FINDINGS">Clear <b>lungs</b>. No XXXX.</AbstractText>
      <AbstractText Label="IMPRESSION"/>
   </Abstract></Article></MedlineCitation>
   <MeSH><major>Cardiomegaly/mild </major><major/><automatic>cardiomegaly</automatic></MeSH>
   <parentImage id="CXR7_IM-1"><figureId>F1</figureId><caption>PA and
      lateral</caption><panel><url>/x.jpg</url></panel></parentImage>
   <parentImage id="CXR7_IM-2"/>
</eCitation>
"""

MIMIC = """                                 WET READ: ___ ___ 10:30 PM
  Unread text.
 ______________________________________________________________________________
                                 FINAL REPORT
 EXAMINATION:  CHEST (PA AND LAT)

 INDICATION:  ___F with cough  // r/o pneumonia

 FINDINGS:

 Heart size is normal at
 10:30.
 LUNGS: No consolidation.
 PLEURA:  No effusion.

 IMPRESSION:

 1.  No acute process.
 2.  Line: in place.

 RECOMMENDATION(S):  None.

 NOTIFICATION:  Dr. ___ was told at 11:15.
"""


def test_xml_of_open_i() -> None:
    report = openi_report(XML)
    assert report.uid == "CXR7"
    assert dict(report.sections) == {
        "comparison": "None.",
        "indication": "XXXX-year-old & cough",
        "findings": "Clear lungs. No XXXX.",
    }
    assert (report.major, report.automatic) == (("Cardiomegaly/mild",), ("cardiomegaly",))
    assert report.images == (("CXR7_IM-1", "PA and lateral"), ("CXR7_IM-2", ""))
    assert report_text(XML, ["impression", "findings"]) == "Clear lungs. No XXXX."
    assert report_text(XML, ["impression"]) == ""  # of XML, what is asked for and not there is nothing
    assert report_text(XML, []) == "None.\nXXXX-year-old & cough\nClear lungs. No XXXX."
    assert parse_sections(XML) == dict(report.sections)


def test_titles_in_capitals() -> None:
    found = parse_sections(MIMIC)
    assert list(found) == [
        "wet read",
        "examination",
        "indication",
        "findings",
        "impression",
        "recommendations",
        "notification",
    ]
    assert found["findings"].splitlines()[0].strip() == "Heart size is normal at"
    assert "LUNGS: No consolidation.\n PLEURA:  No effusion." in found["findings"]  # headings inside a section stay there
    assert found["impression"].endswith("2.  Line: in place.")
    assert found["notification"].endswith("11:15.")
    text = report_text(MIMIC, ["impression", "findings", "conclusion", "recommendations"])
    assert text.startswith("1. No acute process.\n2. ") and text.endswith("PLEURA: No effusion.\nNone.")
    assert "Unread" not in text and "pneumonia" not in text and "11:15" not in text
    assert report_text(MIMIC, ["findings", "impression"]).startswith("Heart size")  # the order is that of the question
    assert report_text(MIMIC, []) == MIMIC


@pytest.mark.parametrize(
    ("title", "name"),
    [
        ("FINDINGS AND IMPRESSION", "findings"),
        ("FINDINGS/IMPRESSION", "findings"),
        ("FINAL IMPRESSION", "impression"),
        ("Conclusions", "conclusion"),
        ("RECOMMENDATION(S)", "recommendations"),
        ("CLINICAL   HISTORY", "clinical history"),
    ],
)
def test_spellings_of_titles(title: str, name: str) -> None:
    assert section_name(title) == name
    assert parse_sections(f"{title}:  A text.\n") == ({name: "A text."} if title.isupper() or title[0] == "C" else {})


def test_repeated_titles_addenda_and_windows_lines() -> None:
    text = "FINAL ADDENDUM\r\n More.\r\nFINAL REPORT\r\nIMPRESSION: One.\r\nADDENDUM\r\n Later.\r\nIMPRESSION: Two.\r\n"
    found = parse_sections(text.replace("\r\n", "\n"))
    assert found == {"final addendum": "More.", "impression": "One.\nTwo.", "addendum": "Later."}


def test_a_report_without_the_sections_is_read_from_its_heading_on() -> None:
    text = "WET READ: early.\n FINAL REPORT\n PORTABLE CHEST: ___\n\n The lungs are clear.\n"
    assert report_text(text, ["impression", "findings"]) == "PORTABLE CHEST: ___\nThe lungs are clear."
    assert report_text("The lungs are clear.", ["findings"]) == "The lungs are clear."
    assert report_text("FINDINGS: Clear.\nINDICATION: cough", ["impression"]) == "FINDINGS: Clear.\nINDICATION: cough"
    assert report_text(" FINAL REPORT\n FINDINGS:  ___\n IMPRESSION:\n", ["findings", "impression"]) == ""
    assert report_text("  \n", ["findings"]) == ""


BOMB = '<?xml version="1.0"?><!DOCTYPE eCitation [<!ENTITY a "aaaaaaaaaa"><!ENTITY b "&a;&a;&a;">]><eCitation>&b;</eCitation>'


@pytest.mark.parametrize(
    ("data", "got"),
    [
        (BOMB, "a document type or entities"),
        ('<!doctype eCitation SYSTEM "file:///etc/passwd"><eCitation/>', "a document type or entities"),
        ("<?xml version='1.0'?><svg/>", "the root 'svg'"),
        ("<eCitation><uId id='a'/>", "no element found|unclosed"),
        (XML[:-30], "not well-formed|no element|unclosed"),
        ("<eCitation></eCitation>", "no uId"),
        ("<eCitation><uId id='a'/>&unknown;</eCitation>", "undefined entity"),
        ("<eCitation>" + "<a>" * 5000 + "</a>" * 5000 + "</eCitation>", "more than 64 deep"),
        ("<eCitation>" + "a" * (4 * 1024**2) + "</eCitation>", "more than 4 MiB"),
        ("<eCitation>\0</eCitation>", "not well-formed"),
    ],
)
def test_hostile_and_damaged_xml_is_refused(data: str, got: str) -> None:
    with pytest.raises(DataError, match=rf"report must be XML of Open-I \(eCitation\); got .*({got}).*subject s, .*file f.xml"):
        openi_report(data, subject="s", modality="report", file="f.xml")
    with pytest.raises(DataError, match="report must be XML of Open-I"):
        report_text(data, [])


def test_other_markup_is_text_unless_sections_are_asked_for() -> None:
    assert report_text("<unk> clear lungs", []) == "<unk> clear lungs"
    with pytest.raises(DataError, match=r"plain text or XML of Open-I; got another kind of XML .*subject a"):
        report_text("<html>clear lungs</html>", ["findings"], subject="a")


def test_report_of_a_cohort_reads_each_kind(tmp_path: Path) -> None:
    (tmp_path / "a.xml").write_bytes(b"\xef\xbb\xbf" + XML.encode())
    (tmp_path / "b.txt").write_bytes(MIMIC.replace("\n", "\r\n").encode())
    spec = ModalitySpec(name="report", kind="text", spatial_dims=0, sections=["findings"])
    cases = [Case.build(name, cells={"report": file}) for name, file in (("a", "a.xml"), ("b", "b.txt"))]
    cohort = Cohort.build(CohortMeta(layout="csv", root=".", modalities=[spec]), cases, tmp_path)
    assert report_of(cohort, cohort.cases[0], "report") == "Clear lungs. No XXXX."
    assert report_of(cohort, cohort.cases[1], "report").startswith("Heart size is normal at 10:30.\nLUNGS")
    (tmp_path / "a.xml").write_text(BOMB)
    with pytest.raises(DataError, match="document type"):
        report_of(cohort, cohort.cases[0], "report")
