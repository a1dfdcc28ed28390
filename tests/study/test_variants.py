"""Tables of methods or variants beside ours: the arithmetic against plain loops, the text, and the work on a small phantom."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from comodal import api
from comodal.cli.main import main
from comodal.errors import ConfigError
from comodal.evaluation.results import CaseResult, MetricValue, Results, SubsetResult
from comodal.evaluation.statistics import holm, paired_difference
from comodal.reporting.about import Facts
from comodal.reporting.reproduction import comparable
from comodal.reporting.variants import _apart, _differences, _notes, _numbers, variant_text
from comodal.study import reproducing, variants
from comodal.study.cohorts import write_phantom
from comodal.study.published_ciml import VARIANTS, Column, VariantRow, VariantTable
from comodal.study.study import StudyResult, load_study
from comodal.study.variants import VariantReproduction, beside_variants, otherwise
from comodal.training.events import Event, Progress, Said, Table

COLUMNS = tuple(
    Column(f"{stem}/{region}", unit, scale)
    for stem, unit, scale in (("DSC", "%", 100.0), ("HD95", "mm", 1.0))
    for region in ("WT", "ET", "mean")
)
STUB = VariantTable(
    title="Table 8 of Nobody (2000)",
    caption="Dice (%) and HD95 (mm)",
    source="Nobody (2000). A table. Table 8",
    remarks=("Made up.",),
    rows=(
        VariantRow("Old", "old", {"DSC/WT": 80.0, "DSC/ET": 60.5, "DSC/mean": 71.0, "HD95/WT": 4.25}, "of another split"),
        VariantRow("Nowhere", None, {"DSC/WT": 90.0}),
        VariantRow("New", "new"),
        VariantRow("Larger", "larger", {"DSC/WT": 95.0}),
    ),
    columns=COLUMNS,
    layout="brats",
    data="the data of nobody",
    cases=12,
    study="stub.yaml",
    phantom={"name": "brain", "cases": 5, "size": 48, "seed": 1},
    phantom_study="stub_phantom.yaml",
    wrong={("Old", "DSC/mean"): 70.25},
)
TINY = {"width": 2, "levels": 2, "steps": 2}
STUDY: dict[str, Any] = {
    "cohort": "cohort.csv",
    "methods": [
        {"name": "unet", "label": "old", "config": TINY},
        {"name": "moddrop", "label": "new", "config": TINY},
    ],
    "subsets": "complete",
    "data": {
        "modalities": ["flair", "t2"],
        "spatial_dims": 2,
        "patch": [48, 48],
        "regions": ["WT", "ET"],
        "draws_per_case": 2,
    },
    "splits": {"fractions": [0.4, 0.2, 0.4]},
    "training": {"batch_size": 2, "device": "cpu", "threads": 1, "validations": 0},
}
PAPER = {
    **STUDY,
    "methods": [
        {"name": "unet", "label": "old", "config": {**TINY, "width": 32, "steps": 50000}},
        {"name": "moddrop", "label": "new", "config": {**TINY, "steps": 50000}},
        {"name": "unet", "label": "larger", "config": {**TINY, "levels": 3}},
    ],
    "folds": [0, 1, 2],
    "data": {**STUDY["data"], "patch": [64, 64]},
    "splits": {"folds": 3},
    "training": {"device": "cpu"},
}


@pytest.fixture
def stub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> VariantTable:
    """A small table that `load_table` knows, with shipped studies."""
    shipped = tmp_path / "shipped"
    shipped.mkdir()
    (shipped / "stub.yaml").write_text(yaml.safe_dump(PAPER))
    (shipped / "stub_phantom.yaml").write_text(yaml.safe_dump(STUDY))
    for module in (reproducing, variants):
        monkeypatch.setattr(module, "FOLDER", shipped)
    monkeypatch.setitem(VARIANTS, "stub/table8", STUB)
    return STUB


# -------------------------------------------------------------------------------------------------------------- arithmetic
CASES = [f"p{k}" for k in range(8)]
NAN = float("nan")
VALUES: dict[str, dict[str, list[float]]] = {
    "old": {
        "DSC/WT": [0.1, 0.2, 0.1, 0.3, 0.2, 0.1, 0.4, 0.2],
        "DSC/ET": [0.0, 0.0, 1.0, 0.3, 0.2, 0.1, 0.4, 0.2],
        "HD95/WT": [9.0, 8.0, 7.0, 9.5, 6.0, 8.0, 9.0, 4.0],
        "HD95/ET": [NAN, 8.5, NAN, 9.0, 6.0, 8.0, 9.0, 4.5],
    },
    "new": {
        "DSC/WT": [0.3, 0.4, 0.2, 0.5, 0.5, 0.2, 0.6, 0.3],
        "DSC/ET": [0.1, 0.2, 1.0, 0.3, 0.4, 0.1, 0.5, 0.3],
        "HD95/WT": [8.0, 8.5, 6.0, 9.0, 5.0, 7.0, 8.0, 3.0],
        "HD95/ET": [7.0, 8.0, NAN, NAN, 5.5, 8.0, 8.0, 4.0],
    },
}


def made_up(label: str, *, cases: Sequence[int] = range(8), seed: int = 0, shift: float = 0.0) -> Results:
    """Results of the complete set and of another row, with one more metric than the table has."""
    values = {name: [numbers[k] + shift for k in cases] for name, numbers in VALUES[label].items()}
    values["DSC/mean"] = [(a + b) / 2 for a, b in zip(values["DSC/WT"], values["DSC/ET"], strict=True)]
    values["DSC/TC"] = [0.9] * len(cases)
    rows, found = [], []
    for present in (("flair",), ("flair", "t2")):
        metrics = {}
        for name, numbers in values.items():
            known = [number for number in numbers if not np.isnan(number)]
            empty = sum(number == 1.0 + shift for number in numbers)  # that of the case without ET
            metrics[name] = MetricValue(
                value=sum(known) / len(known), ci95=(0.0, 1.0), n=len(known), n_pos=len(known) - empty, n_neg=empty
            )
        rows.append(SubsetResult(present=present, metrics=metrics))
        found += [
            CaseResult(
                subject=CASES[k],
                group=CASES[k],
                present=present,
                metrics={name: numbers[i] for name, numbers in values.items()},
            )
            for i, k in enumerate(cases)
        ]
    return Results(method=label, cohort="made-up", split="test", seed=seed, subsets=tuple(rows), cases=tuple(found))


@pytest.fixture
def found(stub: VariantTable, tmp_path: Path) -> VariantReproduction:
    cohort = write_phantom("brain", tmp_path, {"cases": 1, "size": 48})
    file = tmp_path / "study.yaml"
    file.write_text(yaml.safe_dump({**STUDY, "cohort": cohort.name}))
    results = {"old": [made_up("old")], "new": [made_up("new")]}
    return beside_variants(stub, StudyResult(tmp_path, load_study(file), {"old": [], "new": []}, results, "old"))


def at(found: VariantReproduction, method: str, metric: str) -> variants.VariantLine:
    return next(line for line in found.lines if line.method == method and line.metric == metric)


def test_lines_are_those_of_the_paper_in_its_units(found: VariantReproduction) -> None:
    assert [line.row for line in found.lines[::6]] == ["Old", "Nowhere", "New", "Larger"]
    assert [line.metric for line in found.lines[:6]] == [column.metric for column in COLUMNS]
    line = at(found, "old", "DSC/WT")
    assert (line.published, line.ours.state, line.ours.n, line.unit) == (80.0, "value", 8, "%")
    assert line.ours.value == pytest.approx(20.0) and line.ours.ci95 == (0.0, 100.0) and line.difference is None
    assert at(found, "old", "HD95/ET").ours.n == 6 and at(found, "old", "HD95/ET").unit == "mm"
    assert (at(found, "old", "DSC/mean").published, at(found, "old", "DSC/mean").correct) == (71.0, 70.25)
    nowhere = [line.ours.state for line in found.lines if line.method in (None, "larger")]
    assert nowhere == ["not run"] * 12
    assert [(one.region, one.n, one.without) for one in found.empties] == [("WT", 8, 0), ("ET", 8, 1)]


def test_differences_are_paired_and_corrected_over_the_other_arms(found: VariantReproduction) -> None:
    for metric, scale in (("DSC/WT", 100.0), ("DSC/ET", 100.0), ("HD95/WT", 1.0), ("HD95/ET", 1.0)):
        one, two = (dict(zip(CASES, VALUES[label][metric], strict=True)) for label in ("new", "old"))
        wanted, line = paired_difference(one, two), at(found, "new", metric)
        assert line.difference is not None and line.difference.value is not None and wanted.value is not None
        assert line.difference.value == pytest.approx(scale * wanted.value) and line.difference.n == wanted.n
        assert wanted.ci95 is None or line.difference.ci95 == pytest.approx([scale * end for end in wanted.ci95])
        assert line.difference.p_holm == holm([wanted.p_value])[0]


def test_the_mean_distance_is_the_mean_of_the_regions_means(found: VariantReproduction) -> None:
    own = [np.nanmean(VALUES["new"][f"HD95/{region}"]) for region in ("WT", "ET")]
    line = at(found, "new", "HD95/mean")
    assert line.ours.value == pytest.approx(np.mean(own)) and line.ours.n == 8
    apart = [np.array(VALUES["new"][f"HD95/{r}"]) - np.array(VALUES["old"][f"HD95/{r}"]) for r in ("WT", "ET")]
    assert line.difference is not None and line.difference.p_value is None
    assert line.difference.value == pytest.approx(np.mean([np.nanmean(values) for values in apart]))
    # by hand: every resample of the patients, column by column
    drawn = np.random.default_rng(0).integers(0, 8, (2000, 8))
    values = np.stack([np.array(VALUES["new"][f"HD95/{r}"]) for r in ("WT", "ET")])  # (2, 8)
    means = [np.mean([np.nanmean(column[chosen]) for column in values]) for chosen in drawn]
    assert line.ours.ci95 == pytest.approx(np.percentile(means, (2.5, 97.5)))


def test_a_region_that_is_never_found_leaves_no_mean_distance() -> None:
    values, interval, n = variants._mean_of_means([{"p": 1.0}, {}], {"p": "p"})
    assert (values, interval, n) == (None, None, 1)
    assert variants._mean_of_means([{"p": 1.0}, {"q": 3.0}], {"p": "p", "q": "q"}) == (2.0, None, 2)


def test_folds_are_counted_together_and_seeds_once(found: VariantReproduction) -> None:
    halves = [made_up("old", cases=range(4)), made_up("old", cases=range(4, 8))]
    seeds = [made_up("old"), made_up("old", seed=1, shift=0.1)]
    for runs, value in ((halves, 20.0), (seeds, 25.0)):
        results = {**found.study.results, "old": runs}
        again = beside_variants(STUB, replace(found.study, results=results))
        assert at(again, "old", "DSC/WT").ours.value == pytest.approx(value) and at(again, "old", "DSC/WT").ours.n == 8
        assert [(one.n, one.without) for one in again.empties] == [(8, 0), (8, 1)]


def test_a_dice_is_taken_apart_where_cases_lack_the_region(found: VariantReproduction) -> None:
    """By hand: in p2 neither truth nor prediction has ET; of the other seven the mean is that of the table without its 1."""
    assert [(one.method, one.region, one.n, one.without, one.left_empty) for one in found.apart] == [
        ("old", "ET", 7, 1, 1.0),
        ("new", "ET", 7, 1, 1.0),
    ]
    for one in found.apart:
        rest = [value for k, value in enumerate(VALUES[one.method]["DSC/ET"]) if k != 2]
        assert one.value == pytest.approx(100 * np.mean(rest))
    halves = {**found.study.results, "old": [made_up("old", cases=range(4)), made_up("old", cases=range(4, 8))]}
    twice = {**found.study.results, "old": [made_up("old"), made_up("old", seed=1)]}
    for results in (halves, twice):
        again = beside_variants(STUB, replace(found.study, results=results)).apart[0]
        assert (again.n, again.without, again.left_empty) == (7, 1, 1.0)
        assert again.value == pytest.approx(found.apart[0].value)
    (shown,) = _apart(found)
    assert shown.columns == ("method", "Dice ET (%), the 7 cases with it", "left empty, of 1 without")
    assert shown.rows == (("old", "17.1", "1"), ("new", "27.1", "1"))
    other = found.study.results["old"][0].conventions.model_copy(update={"dsc_empty": "exclude-both"})
    changed = [run.model_copy(update={"conventions": other}) for run in found.study.results["old"]]
    others = beside_variants(STUB, replace(found.study, results={**found.study.results, "old": changed})).apart
    assert [one.method for one in others] == ["new"]


def test_an_arm_of_fewer_modalities_is_compared_and_named(found: VariantReproduction) -> None:
    whole = made_up("new")
    few = whole.model_copy(
        update={"subsets": whole.subsets[:1], "cases": tuple(case for case in whole.cases if case.present == ("flair",))}
    )
    again = beside_variants(STUB, replace(found.study, results={**found.study.results, "new": [few]}))
    assert again.lines == found.lines  # the made-up numbers of both rows are alike
    assert "From fewer modalities than the others: new (flair)." in _notes(again, Facts((), (), (), (), ()))
    assert not any("fewer modalities" in note for note in _notes(found, Facts((), (), (), (), ())))


def test_what_is_scaled_down_is_said(found: VariantReproduction) -> None:
    assert found.otherwise == (
        "cases 1 instead of 12",
        "division into one split instead of into 3 folds",
        "patch 48 × 48 instead of 64 × 64",
        "batch 2 instead of 4",
        "width 2 instead of 32 (old)",
        "steps 2 instead of 50,000",
        "arms that were not run: larger",
    )
    paper = load_study(reproducing.FOLDER / STUB.study)
    assert otherwise(STUB, paper, 12) == []
    own = [arm.model_copy(update={"name": "moddrop", "config": {**arm.config, "rate": 0.5}}) for arm in paper.methods[:1]]
    training = paper.training.model_copy(update={"overlap": 0.25})
    changed = paper.model_copy(update={"methods": (*own, *paper.methods[1:]), "training": training})
    assert otherwise(STUB, changed, 12) == [
        "method moddrop instead of unet (old)",
        "rate 0.5 instead of 0.001 (old)",
        "overlap of windows 0.25 instead of 0.5",
    ]


# -------------------------------------------------------------------------------------------------------------------- text
def test_tables_and_notes_say_what_the_numbers_are(found: VariantReproduction) -> None:
    dice = _numbers(found, COLUMNS[:3])
    assert dice.columns[:5] == ("published as", "method", "n", "Dice WT (%) published", "Dice WT (%) ours")
    assert dice.rows[0] == (
        "Old",
        "old",
        "8",
        "80.00",
        "20.0 [0.0, 100.0]",
        "60.50",
        "27.5 [0.0, 100.0]",
        "71.00 (sic; 70.25)",
        "23.8 [0.0, 100.0]",
    )
    assert dice.rows[1] == ("Nowhere", "–", "–", "90.00", "not run", "–", "not run", "–", "not run")
    assert _numbers(found, COLUMNS[3:]).rows[0][6].endswith(" n=6")
    (differences,) = _differences(found)
    assert differences.caption == "Ours: method − old" and [row[0] for row in differences.rows] == ["new"]
    assert differences.rows[0][1].startswith("+17.5 [") and "p=" in differences.rows[0][1]
    assert "p=" not in differences.rows[0][-1]
    text = "\n".join(_notes(found, Facts((), (), (), (), ())))
    for words in (
        "Of the published numbers, Old: of another split.",
        "(sic): Dice mean of Old should be 70.25.",
        "otherwise than in the paper's configuration (stub.yaml): cases 1 instead of 12",
        "Cases without the region: ET in 1 of 8, so that who never finds any has 12.5 %.",
        "both empty 1, one empty 0",
        "left out where truth or prediction is empty",
        "Mean HD95 is the mean of the regions' means",
        "arm minus old, per case",
        "Not run, since comodal does not have these methods: Nowhere.",
        "not comparable with the published numbers",
    ):
        assert words in text
    assert comparable(replace(found, table=replace(STUB, rows=(VariantRow("a", "old"),)))).startswith(
        "Ours is synthetic; not comparable with the published figure"
    )


def test_a_table_without_printed_numbers_has_none(found: VariantReproduction) -> None:
    bare = replace(STUB, rows=(VariantRow("Old", "old"), VariantRow("New", "new")), statement="New is better.", wrong={})
    again = beside_variants(bare, found.study)
    assert _numbers(again, COLUMNS[:3]).columns == (
        "published as",
        "method",
        "n",
        "Dice WT (%)",
        "Dice ET (%)",
        "Dice mean (%)",
    )
    assert "The paper says: New is better." in _notes(again, Facts((), (), (), (), ()))


# --------------------------------------------------------------------------------------------------------------- the work
def test_the_table_is_done_again_on_the_complete_set_alone_and_resumed(
    stub: VariantTable, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, events = tmp_path / "out", list[Event]()
    made = api.reproduce("stub/table8", out=out, on_event=events.append)
    assert isinstance(made, VariantReproduction) and made.synthetic and not made.same_data
    assert sum(isinstance(event, Progress) and event.what.startswith("training") for event in events) == 4
    for run in made.study.runs["old"]:
        assert [file.name for file in (run / "results").glob("*.json")] == ["test.subsets-t2+flair.json"]
    titles = [event.title for event in events if isinstance(event, Table)]
    assert titles == [
        "Dice: published, and ours [95 % interval]",
        "HD95: published, and ours [95 % interval]",
        *(["Ours: Dice of ET where it is, and how often none is found where it is not"] if made.apart else []),
        "Ours: method − old",
        "What each method got",
    ]
    page = (out / "reproduction.md").read_text()
    assert page == variant_text(made).markdown() and page.startswith("# Table 8 of Nobody (2000): ours beside the published")
    assert "71.00 (sic; 70.25)" in page and "## Notes" in page and "steps 2 instead of 50,000" in page
    assert (out / "page.html").is_file() and "not run" not in (out / "table.md").read_text()
    again: list[Event] = []
    assert api.reproduce("stub/table8", out=out, on_event=again.append) == made
    assert not any(isinstance(event, Progress) and event.what.startswith(("training", "evaluating")) for event in again)
    said = "\n".join(event.text for event in again if isinstance(event, Said))
    assert "writing" not in said and (out / "reproduction.md").read_text() == page

    assert main(["reproduce", "stub/table8", "--out", str(out), "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["difference"] == "method - old" and document["statement"] == "" and "metric" not in document
    assert document["otherwise"] == list(made.otherwise) and len(document["lines"]) == 4 * 6
    assert document["lines"][2]["correct"] == 70.25 and document["lines"][6]["ours"]["value"] is None
    assert document["empties"][0]["region"] == "WT" and all(Path(file).is_file() for file in document["files"].values())


def test_the_folder_of_another_table_is_refused(stub: VariantTable, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    others = [{**arm, "label": f"other-{arm['label']}"} for arm in STUDY["methods"]]
    (out / "study.yaml").write_text(yaml.safe_dump({**STUDY, "methods": others}))
    with pytest.raises(ConfigError) as caught:
        api.reproduce("stub/table8", out=out)
    assert str(caught.value) == (
        "study.methods must include an arm of this table (old, new, larger); got other-old, other-new "
        f"[file {out / 'study.yaml'}]. Choose another --out: this study is of another table."
    )


def test_an_arm_without_all_regions_is_refused(stub: VariantTable, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    own = {**STUDY, "methods": [*STUDY["methods"], {"name": "unet", "label": "whole", "data": {"regions": ["WT"]}}]}
    (out / "study.yaml").write_text(yaml.safe_dump(own))
    with pytest.raises(ConfigError) as caught:
        api.reproduce("stub/table8", out=out)
    assert str(caught.value) == (
        "data.regions must include WT, ET, which the table shows, in every arm; got WT in whole "
        f"[file {out / 'study.yaml'}]. Write data.regions: [WT, ET], or take the arm out."
    )
