"""Published tables and ours beside them: the numbers of the papers, the arithmetic, and what is laid out in a folder."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from comodal import api
from comodal.data import DATASETS
from comodal.data.cohort import Cohort
from comodal.data.folders import MARK
from comodal.errors import ConfigError, DataError
from comodal.evaluation.results import CaseResult, MetricValue, Results, SubsetResult, TrainingCases
from comodal.evaluation.statistics import holm, paired_difference
from comodal.reporting.about import Facts
from comodal.reporting.reproduction import ReproductionText, _notes, comparable, reproduction_text
from comodal.study import reproducing
from comodal.study.cohorts import write_phantom
from comodal.study.melanoma import MelanomaReproduction
from comodal.study.published import TABLES, PublishedRow, PublishedTable, known_tables, load_table
from comodal.study.reproducing import FOLDER, Reproduction, beside, prepare_table
from comodal.study.study import StudyResult, arm_config, load_study
from comodal.training.events import Event, Progress, Said, Table

# As printed in the paper: CMIM, HeMIS, Mean, MLP for FLAIR, T1, T1c and T2.
SHEET = """
23.37 5.57 6.25 15.90
14.15 4.67 6.25 10.78
49.00 49.93 30.02 32.92
29.56 20.31 6.25 18.62
"""

STUB = PublishedTable(
    title="Table 9 of Nobody (2000)",
    caption="Dice (%) of enhancing tumour",
    source="Nobody (2000). A table. Table 9",
    remarks=("Made up.",),
    rows=(
        PublishedRow("FLAIR", ("flair",), {"Old": 10.0, "New": 20.5}),
        PublishedRow("T2", ("t2",), {"Old": 5.25, "New": 30.0}),
    ),
    columns={"New": "new", "Old": "old"},
    metric="DSC/ET",
    scale=100.0,
    unit="%",
    subject="new",
    against=("plain", "old"),
    layout="brats",
    data="the data of nobody",
    cases=12,
    study="stub.yaml",
    phantom={"name": "brain", "cases": 5, "size": 48, "seed": 1},
    phantom_study="stub.yaml",
)
TINY = {"width": 2, "levels": 2, "steps": 2}
STUDY: dict[str, Any] = {
    "cohort": "cohort.csv",
    "methods": [
        {"name": "unet", "label": "old", "config": TINY},
        {"name": "moddrop", "label": "new", "config": TINY},
        {"name": "unet", "label": "plain", "config": {**TINY, "steps": 3}},
    ],
    "data": {"modalities": ["flair", "t2"], "spatial_dims": 2, "patch": [48, 48], "regions": ["ET"], "draws_per_case": 2},
    "splits": {"fractions": [0.4, 0.2, 0.4]},
    "training": {"batch_size": 2, "device": "cpu", "threads": 1, "validations": 0},
}


@pytest.fixture
def stub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> PublishedTable:
    """A small table that `load_table` knows, with a shipped study."""
    shipped = tmp_path / "shipped"
    shipped.mkdir()
    (shipped / "stub.yaml").write_text(yaml.safe_dump(STUDY))
    monkeypatch.setattr(reproducing, "FOLDER", shipped)
    monkeypatch.setitem(TABLES, "stub/table9", STUB)
    return STUB


def said(events: Sequence[Event]) -> str:
    return "\n".join(event.text for event in events if isinstance(event, Said))


def trained(events: Sequence[Event]) -> int:
    return sum(isinstance(event, Progress) and event.what.startswith("training") for event in events)


# --------------------------------------------------------------------------------------------------------------- published
def test_published_numbers_are_those_of_the_sheet() -> None:
    table = TABLES["cmim/table2"]
    printed = [[float(number) for number in line.split()] for line in SHEET.split("\n") if line]
    assert [list(row.numbers.values()) for row in table.rows] == printed
    assert all(list(row.numbers) == list(table.columns) == ["CMIM", "HeMIS", "Mean", "MLP"] for row in table.rows)
    assert [(row.name, row.present) for row in table.rows] == [
        ("FLAIR", ("flair",)),
        ("T1", ("t1",)),
        ("T1c", ("t1ce",)),
        ("T2", ("t2",)),
    ]
    assert any("copied the columns HeMIS, Mean and MLP" in text for text in table.remarks)
    assert table.cases == 274
    assert "training" not in table.caption  # ours may be trained with fewer sequences, or with some withheld
    assert "All four sequences are there in the training of the published CMIM." in table.remarks


def test_what_the_preparation_of_the_table_leaves_out_is_said() -> None:
    table = TABLES["cmim/table2"]
    study = load_study(FOLDER / table.study)
    assert isinstance(study.data.normalise, dict) and set(study.data.normalise.values()) == {"hemis"}
    head = " ".join((FOLDER / table.study).read_text().split("\ncohort:")[0].replace("\n#", "").split())
    assert "as in HeMIS, but for N4" in head and "With N4 write `hemis-n4`" in head and "5.5 hours for the set" in head
    assert any(text.startswith("Ours is without N4") and "unless study.yaml says hemis-n4" in text for text in table.remarks)


@pytest.mark.parametrize("name", TABLES)
def test_every_published_table_has_a_source_and_can_be_done_again(name: str) -> None:
    table = TABLES[name]
    assert re.search(r"\(\d{4}\)\. .*\. .*Table \d", table.source) and table.title and table.caption and table.remarks
    assert table.layout in DATASETS
    arms: list[list[str]] = []
    for file in (table.study, table.phantom_study):
        study = load_study(FOLDER / file)
        arms.append([arm.title for arm in study.methods])
        assert {*table.columns.values(), *table.against, table.subject} <= set(arms[-1])
        assert Path(study.cohort).name == "cohort.csv" and study.split == "test"
        for arm in study.methods:
            config = arm_config(study, arm, seed=0, fold=None, cache=Path("cache"))
            assert config.data.regions == ("ET",) and config.data.spatial_dims == 2
            assert config.splits.fractions == (0.7, 0.1, 0.2)
        keys = {arm.title: {**arm.config} for arm in study.methods}
        for label in table.against:  # a difference is one of the method alone
            own = {"lambda_ll", "subsets", "critic"}
            assert {k: v for k, v in keys[label].items() if k not in own} == {
                k: v for k, v in keys[table.subject].items() if k not in own
            }
    assert arms[0] == arms[1]


def test_an_unknown_table_names_the_known_ones() -> None:
    with pytest.raises(ConfigError) as caught:
        api.reproduce("cmim/tabel2", out="nowhere")
    known, near = ", ".join(sorted(known_tables())), "cmim/table2 or cmim/table1"
    assert str(caught.value) == f"TABLE must be a known table; got 'cmim/tabel2'. Did you mean {near}? Known: {known}."
    assert not Path("nowhere").exists()
    assert load_table("cmim/table2") is TABLES["cmim/table2"]


# -------------------------------------------------------------------------------------------------------------- arithmetic
CASES = [f"p{k}" for k in range(8)]
VALUES: dict[str, dict[tuple[str, ...], list[float]]] = {
    "old": {("flair",): [0.1, 0.2, 0.1, 0.3, 0.2, 0.1, 0.4, 0.2], ("t2",): [0.2] * 8},
    "new": {("flair",): [0.3, 0.4, 0.2, 0.5, 0.5, 0.2, 0.6, 0.3], ("t2",): [0.1, 0.3, 0.1, 0.3, 0.2, 0.1, 0.3, 0.4]},
    "plain": {("flair",): [0.2, 0.4, 0.1, 0.5, 0.4, 0.2, 0.5, 0.3]},
}


def made_up(label: str) -> Results:
    """Results with more rows and metrics than the table has."""
    rows, cases = [], []
    for present, values in {**VALUES[label], ("flair", "t2"): [0.9] * 8}.items():
        mean = MetricValue(value=sum(values) / 8, ci95=(0.05, 0.45), n=8, n_pos=7, n_neg=1)
        rows.append(SubsetResult(present=present, metrics={"DSC/ET": mean, "DSC/mean": mean}))
        cases += [
            CaseResult(subject=case, group=case, present=present, metrics={"DSC/ET": value, "DSC/mean": value})
            for case, value in zip(CASES, values, strict=True)
        ]
    rows += [SubsetResult(present=("t2",), supported=False)] if label == "plain" else []
    return Results(method=label, cohort="made-up", split="test", seed=0, subsets=tuple(rows), cases=tuple(cases))


@pytest.fixture
def compared(tmp_path: Path) -> Reproduction:
    cohort = write_phantom("brain", tmp_path, {"cases": 1, "size": 48})
    file = tmp_path / "study.yaml"
    file.write_text(yaml.safe_dump({**STUDY, "cohort": cohort.name}))
    results = {label: [made_up(label)] for label in VALUES}
    return beside(STUB, StudyResult(tmp_path, load_study(file), {label: [] for label in VALUES}, results, "old"))


def test_lines_are_in_the_order_of_the_paper_and_in_its_unit(compared: Reproduction) -> None:
    found = [(line.row, line.method, line.column, line.published, line.ours.state) for line in compared.lines]
    assert found == [
        ("FLAIR", "new", "New", 20.5, "value"),
        ("FLAIR", "old", "Old", 10.0, "value"),
        ("FLAIR", "plain", None, None, "value"),
        ("T2", "new", "New", 30.0, "value"),
        ("T2", "old", "Old", 5.25, "value"),
        ("T2", "plain", None, None, "not supported"),
    ]
    ours = compared.lines[0].ours
    assert ours.value == pytest.approx(37.5) and ours.ci95 == pytest.approx((5, 45)) and (ours.n, ours.n_neg) == (8, 1)


def test_each_comparison_has_its_reference_and_holm_runs_over_all(compared: Reproduction) -> None:
    wanted = [
        paired_difference(*(dict(zip(CASES, VALUES[label][row], strict=True)) for label in ("new", reference)))
        for reference, row in (("plain", ("flair",)), ("old", ("flair",)), ("old", ("t2",)))
    ]
    places = [("FLAIR", "plain"), ("FLAIR", "old"), ("T2", "old")]
    found = {(line.row, line.method): line.difference for line in compared.lines if line.difference is not None}
    assert set(found) == set(places)
    for place, expected, corrected in zip(places, wanted, holm([one.p_value for one in wanted]), strict=True):
        one = found[place]
        assert expected.ci95 is not None and expected.value is not None
        assert one.value == pytest.approx(100 * expected.value) and one.n == 8
        assert one.ci95 == pytest.approx(tuple(100 * end for end in expected.ci95))
        assert one.p_value == expected.p_value and one.p_holm == corrected


def test_an_arm_that_was_taken_out_is_not_run(compared: Reproduction) -> None:
    fewer = {label: found for label, found in compared.study.results.items() if label == "old"}
    found = beside(STUB, replace(compared.study, results=fewer))
    assert [line.ours.state for line in found.lines if line.method == "new"] == ["not run"] * 2
    assert not any(line.difference for line in found.lines)


PART = (
    "Ours is of a part of the data of nobody ({} of 12 cases): another training and another test than those of the published "
    "column."
)
OTHER = (
    "Ours is of other data (made-up, {} cases) than the data of nobody (12 cases); not comparable with the published column."
)


@pytest.mark.parametrize(
    ("cases", "synthetic", "layout", "text"),
    [
        (
            1,
            True,
            True,
            "Ours is synthetic; not comparable with the published column: only the order of methods may be compared.",
        ),
        (
            12,
            True,
            True,
            "Ours is synthetic; not comparable with the published column: only the order of methods may be compared.",
        ),
        (12, False, False, OTHER.format(12)),
        (13, False, True, OTHER.format(13)),  # a set of this layout with more cases is not the paper's
        (12, False, True, "Ours is of the data of nobody (12 cases), but of another split than the published column."),
        (
            11,
            False,
            True,
            PART.format(11),
        ),
    ],
)
def test_whether_the_columns_may_be_compared_is_said(
    compared: Reproduction, cases: int, synthetic: bool, layout: bool, text: str
) -> None:
    assert compared.synthetic and not compared.same_data and compared.cohort == "made-up" and compared.cases == 1
    found = replace(compared, cases=cases, synthetic=synthetic, same_layout=layout)
    assert comparable(found) == text
    assert found.same_data == (" (12 cases), but" in text)


def test_what_our_training_lacked_is_said_of_ours(compared: Reproduction) -> None:
    training = TrainingCases(n=6, lacking={"flair": 2, "t2": 0}, withheld={"flair": 2})
    results = {
        label: [one.model_copy(update={"training": training}) for one in found]
        for label, found in compared.study.results.items()
    }
    found = beside(STUB, replace(compared.study, results=results))
    said = "Training cases without: flair 2/6 (withheld: flair 2)."
    assert any(said[1:-1] in note for note in found.combined.notes)
    _, ours, conventions = _notes(found, Facts((), (), (), (), ()))[:3]
    assert ours.startswith("Ours: ") and ours.count(said) == 1
    assert conventions.startswith("Conventions of ours: ") and "raining cases" not in conventions


# --------------------------------------------------------------------------------------------------------------- the work
def test_the_phantom_and_the_study_are_laid_out_and_nothing_is_done_twice(stub: PublishedTable, tmp_path: Path) -> None:
    out, events = tmp_path / "out", list[Event]()
    found = api.reproduce("stub/table9", out=out, on_event=events.append)
    assert isinstance(found, Reproduction) and found.synthetic and trained(events) == 7  # steps
    assert (out / "study.yaml").read_text() == (tmp_path / "shipped" / "stub.yaml").read_text()
    assert "differs" not in said(events) and "writing the brain phantom (cases 5, size 48, seed 1), in the place of" in said(
        events
    )
    tables = [event for event in events if isinstance(event, Table)]
    assert [table.title for table in tables] == [f"{stub.caption}. {comparable(found)}", "What each method got"]
    assert [row[:4] for row in tables[0].rows] == [
        ("FLAIR", "new", "New", "20.50"),
        ("FLAIR", "old", "Old", "10.00"),
        ("FLAIR", "plain", "–", "–"),
        ("T2", "new", "New", "30.00"),
        ("T2", "old", "Old", "5.25"),
        ("T2", "plain", "–", "–"),
    ]
    assert tables[0].columns[-1] == "new − method" and tables[0].columns[4] == "ours, % [95 % interval]"
    steps = tables[1].columns.index("steps")
    assert [(row[0], row[steps]) for row in tables[1].rows] == [("old", "2"), ("new", "2"), ("plain", "3")]
    assert all((out / name).is_file() for name in ("table.md", "page.html", "reproduction.md"))
    page = (out / "reproduction.md").read_text()
    assert page == reproduction_text(found).markdown()
    for note in ("Nobody (2000). A table. Table 9. Made up.", "seed 0", "both empty 1, one empty 0", "2 for test"):
        assert note in page
    again: list[Event] = []
    assert api.reproduce("stub/table9", out=out, on_event=again.append) == found
    assert trained(again) == 0 and "writing" not in said(again) and "checked" not in said(again)
    assert (out / "reproduction.md").read_text() == page


def test_a_changed_study_is_used_and_said(stub: PublishedTable, tmp_path: Path) -> None:
    out = tmp_path / "out"
    write_phantom("brain", out, {"cases": 4, "size": 48, "seed": 1})
    own = yaml.safe_dump({**STUDY, "methods": STUDY["methods"][:1]})
    (out / "study.yaml").write_text(own)
    events: list[Event] = []
    assert prepare_table(stub, out, emit=events.append).read_text() == own
    assert f"{out / 'study.yaml'} differs from the one that comes with comodal (stub.yaml); it is used as it is" in said(events)
    assert f"the phantom in {out / 'files'} has cases 4 instead of 5; it is used as it is" in said(events)


@pytest.fixture
def files(tmp_path: Path) -> Path:
    """Data as they would be given, with no mark that they are synthetic."""
    write_phantom("brain", tmp_path / "given", {"cases": 2, "size": 48})
    (tmp_path / "given" / "files" / MARK).unlink()
    return tmp_path / "given" / "files"


def test_given_data_are_indexed_once(stub: PublishedTable, files: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert prepare_table(stub, out, root=files) == out / "study.yaml"
    cohort = Cohort.load(out / "cohort.csv")
    assert len(cohort) == 2 and cohort.meta.layout == "brats" and not any("synthetic" in note for note in cohort.meta.notes)
    before = (out / "cohort.csv").stat().st_mtime_ns
    prepare_table(stub, out, root=files)
    assert (out / "cohort.csv").stat().st_mtime_ns == before
    with pytest.raises(
        ConfigError, match=r"--out must hold no cohort but that of .*other in the layout brats; got one of .*files"
    ):
        prepare_table(stub, out, root=tmp_path / "other")
    with pytest.raises(ConfigError, match="--out must hold no cohort but that of the brain phantom"):
        prepare_table(stub, out)


def test_a_phantom_that_is_given_as_data_is_known_as_one(stub: PublishedTable, tmp_path: Path) -> None:
    write_phantom("brain", tmp_path / "given", {"cases": 5, "size": 48})
    found = api.reproduce("stub/table9", out=tmp_path / "out", data=tmp_path / "given" / "files")
    assert not isinstance(found, MelanomaReproduction)
    assert found.synthetic and found.cases == 5 and not found.same_data and comparable(found).startswith("Ours is synthetic")


def test_an_index_that_was_interrupted_is_made_anew(stub: PublishedTable, files: Path, tmp_path: Path) -> None:
    """Between the yaml, which is written first, and the csv."""
    out = tmp_path / "out"
    prepare_table(stub, out, root=files)
    csv = (out / "cohort.csv").read_bytes()
    (out / "cohort.csv").unlink()
    with pytest.raises(ConfigError, match=r"--out must hold no cohort but that of .*other in the layout brats"):
        prepare_table(stub, out, root=tmp_path / "other")
    assert not (out / "cohort.csv").exists()
    prepare_table(stub, out, root=files)
    assert (out / "cohort.csv").read_bytes() == csv and Cohort.load(out / "cohort.csv").meta.layout == "brats"


def test_data_without_label_maps_are_refused_before_their_files_are_read(
    stub: PublishedTable, files: Path, tmp_path: Path
) -> None:
    for mask in files.rglob("*_seg.nii.gz"):
        mask.unlink()
    for image in files.rglob("*_t2.nii.gz"):
        image.write_bytes(b"damaged")
    with pytest.raises(DataError) as caught:
        prepare_table(stub, tmp_path / "out", root=files)
    assert str(caught.value) == (
        f"--data must be data from which one can learn; got no case with a label map [file {files}]. Give the data of nobody."
    )
    assert not (tmp_path / "out").exists()  # the right data may go there


def test_an_arm_that_does_not_measure_what_the_table_shows_is_refused(stub: PublishedTable, tmp_path: Path) -> None:
    out, events = tmp_path / "out", list[Event]()
    out.mkdir()
    own = {**STUDY, "methods": [*STUDY["methods"], {"name": "unet", "label": "whole", "data": {"regions": ["WT", "TC"]}}]}
    (out / "study.yaml").write_text(yaml.safe_dump(own))
    with pytest.raises(ConfigError) as caught:
        api.reproduce("stub/table9", out=out, on_event=events.append)
    assert str(caught.value) == (
        "data.regions must include ET, which the table shows, in every arm; got WT, TC in whole "
        f"[file {out / 'study.yaml'}]. Write data.regions: [ET], or take the arm out."
    )
    assert trained(events) == 0 and not (out / "runs").exists()


def test_a_damaged_file_is_said_before_the_first_training(stub: PublishedTable, files: Path, tmp_path: Path) -> None:
    damaged = sorted(files.rglob("*_t2.nii.gz"))[0]
    damaged.write_bytes(damaged.read_bytes()[:-40])
    with pytest.raises(DataError, match=r"cohort must have no errors; got 1, the first: .*modality t2, file .*_t2.nii.gz"):
        prepare_table(stub, tmp_path / "out", root=files)
    assert not (tmp_path / "out" / "study.yaml").exists()


def test_words_of_a_reproduction_are_safe_in_markdown() -> None:
    from comodal.reporting.tables import PlainTable

    plain = PlainTable(("a", "b"), (("x|y", "<b>"),), "A caption")
    text = ReproductionText("T", plain, plain, ("a note",)).markdown()
    assert text.startswith("# T\n\nA caption\n\n| a | b |\n| --- | --- |\n| x\\|y | &lt;b> |\n\n- a note\n\n## A caption\n")
