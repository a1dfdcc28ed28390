"""The layout of Open-I: archive, mirror, reports alone; views, labels, what is left out and what is refused."""

from __future__ import annotations

import re
import tarfile
from collections import Counter
from pathlib import Path

import pytest
from PIL import Image

from comodal.data import index
from comodal.data.cohort import Cohort
from comodal.data.columns import label_indices, unknown_indices
from comodal.data.contents import report_of
from comodal.data.open_i_findings import finding_names, findings_in, label_cell
from comodal.errors import ConfigError, DataError
from comodal.testing.dataset import check_dataset

REPORTS = Path(__file__).resolve().parents[3] / "shared" / "data" / "openi_reports" / "NLMCXR_reports.tgz"
BOTH = "PA and lateral"


def report(
    root: Path,
    number: int,
    *,
    major: tuple[str, ...] = ("normal",),
    automatic: tuple[str, ...] = (),
    images: tuple[str, ...] = (),
    caption: str = BOTH,
    findings: str = "Clear lungs.",
    folder: str = "NLMCXR_reports/ecgen-radiology",
) -> Path:
    terms = "".join(f"<major>{term}</major>" for term in major) + "".join(f"<automatic>{t}</automatic>" for t in automatic)
    pictures = "".join(f'<parentImage id="{name}"><caption>{caption}</caption></parentImage>' for name in images)
    text = f'<AbstractText Label="INDICATION">Cough</AbstractText><AbstractText Label="FINDINGS">{findings}</AbstractText>'
    path = root / folder / f"{number}.xml"
    path.parent.mkdir(parents=True, exist_ok=True)
    head = '<?xml version="1.0" encoding="utf-8"?>\n'
    path.write_text(f'{head}<eCitation><uId id="CXR{number}"/>{text}<MeSH>{terms}</MeSH>{pictures}</eCitation>')
    return path


def picture(root: Path, name: str, folder: str = "NLMCXR_png") -> None:
    path = root / folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("L", (32, 32), color=len(name)).save(path)


def archive(root: Path) -> None:
    """Four reports: two pictures, one, one that is not on disk, none."""
    report(root, 1, images=("CXR1_1_IM-0001-3001", "CXR1_1_IM-0001-4001"))
    report(root, 2, major=("Cardiomegaly/mild ", "Opacity/lung"), images=("CXR2_IM-0652-1001",))
    report(root, 10, major=("No Indexing",), automatic=("nodule",), images=("CXR10_IM-0002-1001",), findings="")
    report(root, 11, major=("Pleural Effusion/left", "Thickening/pleura/apex"))
    for name in ("CXR1_1_IM-0001-3001.png", "CXR1_1_IM-0001-4001.png", "CXR2_IM-0652-1001.png"):
        picture(root, name)


def cells(cohort: Cohort, column: str) -> dict[str, str]:
    return {case.id: case.cells[column] for case in cohort.cases if column in case.cells}


def test_views_from_a_table(tmp_path: Path) -> None:
    archive(tmp_path)
    (tmp_path / "views.csv").write_text(
        "\ufeffimage_id,view\r\nCXR1_1_IM-0001-3001,Lateral\r\nCXR1_1_IM-0001-4001,PA\r\nCXR2_IM-0652-1001,swimmers\r\nx,AP\r\n",
        encoding="utf-8",
    )
    cohort = check_dataset("open-i", tmp_path)
    assert cohort.ids == ("CXR1", "CXR2")
    assert [spec.name for spec in cohort.meta.modalities] == ["frontal", "lateral", "report"]
    assert cells(cohort, "frontal") == {"CXR1": "NLMCXR_png/CXR1_1_IM-0001-4001.png"}
    assert cells(cohort, "lateral") == {"CXR1": "NLMCXR_png/CXR1_1_IM-0001-3001.png"}
    assert cells(cohort, "report") == {f"CXR{n}": f"NLMCXR_reports/ecgen-radiology/{n}.xml" for n in (1, 2)}
    assert cells(cohort, "findings") == {"CXR1": "-", "CXR2": "Cardiomegaly"}
    assert report_of(cohort, cohort.cases[0], "report") == "Clear lungs."
    assert cohort.meta.notes == [
        "views of pictures come from views.csv; 1 of 4 rows are of pictures that are not in the folder",
        "1 report without any picture left out",
        "1 picture neither frontal nor lateral left out",
        "1 picture named by reports not in the folder: absent",
        "1 report without a word in findings and impression: absent",
        "1 report with neither words nor a picture left out",
        counted("all 4 reports", 1, Cardiomegaly=1, Effusion=1, Pleural_Thickening=1, Nodule=1),
        counted("the 2 cases", 1, Cardiomegaly=1),
    ]
    for place in ("NLMCXR_png", "NLMCXR_reports"):
        (tmp_path / place / "views.csv").write_text("image_id,view\nCXR1_1_IM-0001-4001,lateral\n")
    assert index("open-i", tmp_path) == cohort  # that of the root comes first
    (tmp_path / "views.csv").rename(tmp_path / "mine.csv")
    assert cells(index("open-i", tmp_path, {"views": "mine.csv"}), "frontal") == cells(cohort, "frontal")
    with pytest.raises(DataError, match=r"hold one views.csv; got NLMCXR_png/views.csv and NLMCXR_reports/views.csv"):
        index("open-i", tmp_path)
    (tmp_path / "NLMCXR_reports" / "views.csv").unlink()
    assert cells(index("open-i", tmp_path), "lateral") == {"CXR1": "NLMCXR_png/CXR1_1_IM-0001-4001.png"}


def counted(whose: str, normal: int, **counts: int) -> str:
    return f"{whose}: {normal} normal; " + ", ".join(f"{name} {counts.get(name, 0)}" for name in finding_names())


def test_without_a_table_the_first_is_a_guess_that_is_told(tmp_path: Path) -> None:
    archive(tmp_path)
    cohort = check_dataset("open-i", tmp_path)
    assert cells(cohort, "frontal") == {
        "CXR1": "NLMCXR_png/CXR1_1_IM-0001-3001.png",
        "CXR2": "NLMCXR_png/CXR2_IM-0652-1001.png",
    }
    assert "lateral" not in {spec.name for spec in cohort.meta.modalities}
    assert any(note.startswith("no table says which picture is frontal: the first") for note in cohort.meta.notes)
    assert "1 picture of unknown view left out" in cohort.meta.notes
    careful = index("open-i", tmp_path, {"unknown_view": "leave-out"})
    assert [spec.name for spec in careful.meta.modalities] == ["report"]
    assert "3 pictures of unknown view left out" in careful.meta.notes
    (tmp_path / "views.csv").write_text("image_id,view\nCXR2_IM-0652-1001,frontal\nCXR1_1_IM-0001-3001,unknown\n")
    assert set(cells(index("open-i", tmp_path), "frontal")) == {"CXR2"}  # "auto" guesses only where nothing is told
    assert set(cells(index("open-i", tmp_path, {"unknown_view": "frontal"}), "frontal")) == {"CXR1", "CXR2"}


@pytest.mark.parametrize(
    ("caption", "one", "two"),
    [
        ("PA and lateral chest", "", ""),
        ("AP portable chest", "frontal", "frontal"),
        ("CHEST 2V FRONTAL", "frontal", ""),
        ("Chest XXXX and lateral, XXXX.", "", ""),  # the first word was taken out
        ("Lateral chest", "lateral", ""),
        ("Chest", "", ""),
    ],
)
def test_captions_speak_of_the_study(tmp_path: Path, caption: str, one: str, two: str) -> None:
    report(tmp_path, 1, images=("CXR1_a",), caption=caption)
    report(tmp_path, 2, images=("CXR2_a", "CXR2_b"), caption=caption)
    for name in ("CXR1_a.png", "CXR2_a.png", "CXR2_b.png"):
        picture(tmp_path, name, "images")
    cohort = index("open-i", tmp_path, {"unknown_view": "leave-out"})
    views = [{name for name in ("frontal", "lateral") if name in case.cells} for case in cohort.cases]
    assert views == [{one} - {""}, {two} - {""}]


def test_reports_alone_are_a_cohort(tmp_path: Path) -> None:
    report(tmp_path, 3, folder=".", images=("CXR3_a",))
    report(tmp_path, 12, folder=".", major=("No Indexing",), findings="XXXX.", automatic=("Pericardial  effusion",))
    report(tmp_path, 13, folder=".", findings=" ")
    report(tmp_path, 14, folder=".", major=("Mass/lung", "Subcutaneous  Emphysema"), automatic=("hernia, hiatal",))
    cohort = check_dataset("open-i", tmp_path)
    assert cells(cohort, "report") == {"CXR3": "3.xml", "CXR12": "12.xml", "CXR14": "14.xml"}
    assert cells(cohort, "findings") == {"CXR3": "-", "CXR14": "Mass;Hernia"}
    assert cohort.meta.notes[0] == "there is no picture in the folder: the reports are the only modality"
    told = index("open-i", tmp_path, {"normal": True})
    assert cells(told, "normal") == {"CXR3": "normal", "CXR14": "abnormal"}
    assert [target.name for target in told.targets] == ["findings", "normal"]


def test_terms_and_findings() -> None:
    assert findings_in(["Hydropneumothorax/left", "Fibrosis, Cystic", "Cystic Fibrosis"], ["infiltrates", "lung masses "]) == [
        "Infiltration",
        "Mass",
        "Pneumothorax",
        "Fibrosis",  # a heading that is turned round is not known to be another disease
    ]
    assert findings_in(["Thickening/lung/interstitial", "Markings/atelectasis"], ["granuloma", "pneumonitis"]) == []
    cell = label_cell(["No Indexing"], ["pulmonary nodules"])
    assert cell.startswith("Nodule;?Atelectasis;") and cell.count("?") == 13 and "?Nodule" not in cell


def test_unknown_findings_of_a_report_that_nobody_indexed(tmp_path: Path) -> None:
    report(tmp_path, 1, major=("No Indexing",), automatic=("nodule",))
    report(tmp_path, 2, major=())
    cohort = check_dataset("open-i", tmp_path)
    spec, cell = cohort.meta.targets[0], cells(cohort, "findings")["CXR1"]
    assert label_indices(spec, cell) == (finding_names().index("Nodule"),)
    assert len(unknown_indices(spec, cell)) == 13
    assert "CXR2" not in cells(cohort, "findings")
    assert cohort.meta.notes[-1] == "2 reports that nobody gave terms: what is not named there is unknown, not absent"


def mirror(root: Path) -> None:
    (root / "indiana_reports.csv").write_text(
        "uid,MeSH,Problems,image,indication,comparison,findings,impression\n"
        '1,normal,normal,Xray Chest PA and Lateral,cough,None.,"Clear,\nlungs.",Normal.\n'
        "4,Nodule/lung;Effusion/left,Nodule;Effusion,PA,,,,\n"
        "5,normal,normal,PA,,,,XXXX\n"
    )
    (root / "indiana_projections.csv").write_text(
        "uid,filename,projection\n1,1_IM-0001-4001.dcm.png,Frontal\n1,1_IM-0001-3001.dcm.png,Lateral\n"
        "4,4_IM-2050-1001.dcm.png,Frontal\n5,5_IM-1-1001.dcm.png,Lateral\n"
    )
    for name in ("1_IM-0001-4001", "1_IM-0001-3001", "4_IM-2050-1001"):
        picture(root, f"{name}.dcm.png", "images/images_normalized")


def test_the_mirror(tmp_path: Path) -> None:
    mirror(tmp_path)
    cohort = check_dataset("open-i", tmp_path)
    assert cohort.ids == ("CXR1", "CXR4", "CXR5")
    assert cells(cohort, "frontal") == {
        "CXR1": "images/images_normalized/1_IM-0001-4001.dcm.png",
        "CXR4": "images/images_normalized/4_IM-2050-1001.dcm.png",
    }
    assert set(cells(cohort, "lateral")) == {"CXR1"}
    assert report_of(cohort, cohort.cases[0], "report") == "Clear, lungs.\nNormal."
    assert set(cells(cohort, "report")) == {"CXR1", "CXR5"}
    assert cells(cohort, "findings") == {"CXR1": "-", "CXR4": "Effusion;Nodule", "CXR5": "-"}
    assert cohort.meta.notes[-1].startswith("the mirror lacks the terms given by a program")
    (tmp_path / "indiana_projections.csv").write_text("uid,filename\n1,x\n")
    with pytest.raises(DataError, match=r"have the column 'projection'; got uid, filename"):
        index("open-i", tmp_path)


def test_pictures_of_the_mirror_with_reports_of_the_archive(tmp_path: Path) -> None:
    mirror(tmp_path)
    report(tmp_path, 1, images=("CXR1_1_IM-0001-3001", "CXR1_1_IM-0001-4001"))
    (row,) = check_dataset("open-i", tmp_path).cases
    assert row.cells["frontal"].endswith("1_IM-0001-4001.dcm.png") and row.cells["report"].endswith("/1.xml")


def test_what_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"ROOT must hold reports of Open-I, .*; got none .*NLMCXR_reports.tgz"):
        index("open-i", tmp_path)
    archive(tmp_path)
    picture(tmp_path, "CXR2_IM-0652-1001.png", "copy")
    with pytest.raises(DataError, match=r"one file for each picture; got .*CXR2_IM.* and .*CXR2_IM.*subject CXR2"):
        index("open-i", tmp_path)
    (tmp_path / "copy" / "CXR2_IM-0652-1001.png").unlink()
    (tmp_path / "views.csv").write_text("image_id,view\nCXR2_IM-0652-1001,PA\nCXR2_IM-0652-1001.png,lateral\n")
    with pytest.raises(DataError, match=r"give each picture one view; got CXR2_IM-0652-1001"):
        index("open-i", tmp_path)
    (tmp_path / "views.csv").write_text("id,view\na,PA\n")
    with pytest.raises(DataError, match=r"have the column 'image_id'; got id, view"):
        index("open-i", tmp_path)
    (tmp_path / "views.csv").unlink()
    for views, rule in (("../views.csv", "stay below its root"), ("none.csv", "files that exist")):
        with pytest.raises(DataError, match=rule):
            index("open-i", tmp_path, {"views": views})
    with pytest.raises(ConfigError, match=r"layout open-i: unknown_view must be 'auto', 'leave-out' or 'frontal'; got 'x'"):
        index("open-i", tmp_path, {"unknown_view": "x"})


def test_damaged_reports_and_links_are_refused(tmp_path: Path) -> None:
    path = report(tmp_path, 1)
    (path.parent / "2.xml").write_bytes(path.read_bytes()[:-40])
    with pytest.raises(DataError, match=r"report must be XML of Open-I .*subject 2, .*2.xml.*archive of Open-I"):
        index("open-i", tmp_path)
    (path.parent / "2.xml").write_bytes(path.read_bytes())
    with pytest.raises(DataError, match=r"one report of each identifier; got a second one, 2.xml \[subject CXR1"):
        index("open-i", tmp_path)
    (path.parent / "2.xml").unlink()
    outside = report(tmp_path.parent / f"{tmp_path.name}-outside", 2)
    (path.parent / "2.xml").symlink_to(outside)
    with pytest.raises(DataError, match="a link out of it"):
        index("open-i", tmp_path)


@pytest.fixture(scope="module")
def archive_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if not REPORTS.is_file():
        pytest.skip(f"the archive of reports is not at {REPORTS.name} beside the checkout")
    folder = tmp_path_factory.mktemp("openi")
    with tarfile.open(REPORTS) as tar:
        tar.extractall(folder, filter="data")
    return folder


COUNTS = {
    "Atelectasis": 394,
    "Cardiomegaly": 379,
    "Effusion": 190,
    "Infiltration": 99,
    "Mass": 21,
    "Nodule": 126,
    "Pneumonia": 87,
    "Pneumothorax": 27,
    "Consolidation": 30,
    "Edema": 77,
    "Emphysema": 118,
    "Fibrosis": 28,
    "Pleural_Thickening": 51,
    "Hernia": 55,
}
# The same question asked of the raw XML, line by line, without parser or table.
SLOW = {
    "Atelectasis": r"atelectas[ie]s",
    "Cardiomegaly": r"cardiomegaly",
    "Effusion": r"(?<!pericardial )effusions?",
    "Infiltration": r"infiltrat(?:es?|ions?)",
    "Mass": r"mass(?:es)?",
    "Nodule": r"nodules?",
    "Pneumonia": r"pneumonias?",
    "Pneumothorax": r"(?:hydro|hemo)?pneumothora(?:x|ces)",
    "Consolidation": r"consolidations?",
    "Edema": r"edemas?",
    "Emphysema": r"(?<!subcutaneous )(?<!subcutaneous  )(?<!mediastinal )emphysemas?",
    "Fibrosis": r"(?<!cystic )fibros[ie]s",
    "Pleural_Thickening": r"pleural thickening",
    "Hernia": r"hernias?",
}


def test_counts_of_the_public_reports(archive_folder: Path) -> None:
    cohort = index("open-i", archive_folder)
    assert counted("all 3955 reports", 1391, **COUNTS) in cohort.meta.notes
    assert "28 reports without a word in findings and impression: absent" in cohort.meta.notes
    assert len(cohort) == 3955 - 28
    assert {case.id for case in cohort.cases if "findings" not in case.cells}, "reports that nobody indexed are unlabelled"
    assert report_of(cohort, cohort.case("CXR1"), "report").endswith("Normal chest x-XXXX.")
    slow: Counter[str] = Counter()
    for path in archive_folder.rglob("*.xml"):
        text = path.read_text(encoding="utf-8").lower()
        terms = re.findall(r"<major>\s*([^/<]*)", text) + re.findall(r"<automatic>([^<]*)", text)
        slow["normal"] += bool(re.search(r"<major>\s*normal\s*</major>", text))
        for name, pattern in SLOW.items():
            found = any(re.search(rf"\b(?:{pattern})\b", term) for term in terms)
            found |= name == "Pleural_Thickening" and bool(re.search(r"<major>thickening/pleura", text))
            slow[name] += found
    assert dict(slow) == {"normal": 1391, **COUNTS}
