"""The published tables of CIML: the numbers of the sheet, their means, and the studies that do them again."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from comodal.data import DATASETS
from comodal.data.phantoms import PHANTOMS, layout_of, load_phantom
from comodal.study.published import TABLES, known_tables, load_table
from comodal.study.published_ciml import VARIANTS, ShapesTable, VariantTable
from comodal.study.reproducing import FOLDER
from comodal.study.study import Arm, StudyConfig, arm_config, load_study

# As printed: Dice and HD95 of WT, TC, ET and their mean.
SHEET = {
    "ciml/table2": """
nnU-Net | 91.59/87.50/83.47/87.52 | 4.75/4.08/5.60/4.81
Attention U-Net | 90.62/86.33/81.32/86.09 | 5.42/7.88/8.98/7.43
UNETR | 91.11/86.42/82.96/86.76 | 7.97/5.16/5.90/6.34
MAML | 91.40/88.05/82.40/87.28 | 4.84/5.95/7.90/7.82
DIGEST* | 90.20/87.00/81.20/86.17 |
RFNet* | 91.11/85.21/78.00/84.77 |
ACMINet | 91.79/87.99/82.56/87.45 | 5.70/5.09/6.95/5.91
NestedFormer | 91.76/88.20/83.19/87.72 | 5.35/5.07/7.16/5.86
CIML | 91.60/89.14/83.91/88.21 | 5.83/3.70/4.95/4.83
CIML | 91.88/88.69/84.34/88.30 | 4.58/4.12/5.23/4.64
""",
    "ciml/table3": """
nnU-Net | 55.23 | 139.84
Attention U-Net | 57.87 | 108.62
UNETR | 41.62 | 177.04
MAML | 53.9 | 194.36
ACMINet | 45.67 | 121.81
NestedFormer | 52.51 | 183.14
CIML | 61.37 | 107.58
""",
    "ciml/table4": """
nnU-Net | 73.61 | 6.09
Attention U-Net | 72.30 | 16.13
UNETR | 74.50 | 5.85
MAML | 70.00 | 29.05
ACMINet | 74.23 | 8.13
NestedFormer | 75.16 | 6.09
CIML | 76.28 | 5.17
""",
    "ciml/table5": """
Baseline | 88.08/86.54/83.78/86.13 | 13.13/4.70/5.31/7.71
+ Message | 90.30/88.37/81.38/86.68 | 8.71/6.22/6.63/7.18
+ Message + Attention | 90.43/87.23/82.93/86.86 | 6.47/5.26/7.49/6.08
+ Message + VI | 91.54/88.70/83.72/87.99 | 4.60/3.96/4.97/4.51
+ Message + Attention + VI | 91.60/89.14/83.91/88.21 | 5.83/3.70/4.95/4.83
""",
    "ciml/table6": """
FLAIR TC; T1 TC, ET; T2 WT; T1CE TC | 91.01/88.95/81.01/86.99 | 6.01/4.55/6.85/5.80
FLAIR WT; T1 WT; T2 TC; T1CE TC, ET | 91.13/88.96/82.38/87.49 | 5.16/5.34/5.13/5.21
FLAIR WT; T1 WT, TC; T2 TC; T1CE ET | 91.21/89.12/82.41/87.58 | 5.08/6.18/5.24/5.50
FLAIR WT; T1 WT, TC; T2 WT, TC; T1CE TC, ET | 91.62/88.20/83.79/87.87 | 5.98/3.97/5.17/5.04
FLAIR WT; T1 TC; T2 WT, TC; T1CE TC, ET | 91.60/89.14/83.91/88.21 | 5.83/3.70/4.95/4.83
""",
}
BY_VARIANT = [name for name, table in VARIANTS.items() if isinstance(table, VariantTable)]


def variants(name: str) -> VariantTable:
    table = load_table(name)
    assert isinstance(table, VariantTable)
    return table


def arms_of(study: StudyConfig) -> dict[str, Arm]:
    return {arm.title: arm for arm in study.methods}


@pytest.mark.parametrize("name", SHEET)
def test_published_numbers_are_those_of_the_sheet(name: str) -> None:
    table = variants(name)
    lines = [line.split(" | ") for line in SHEET[name].strip().replace("|\n", "| \n").split("\n")]
    assert [row.name.partition(", 1")[0].partition(", 64")[0] for row in table.rows] == [line[0] for line in lines]
    for row, (_, dice, distance) in zip(table.rows, lines, strict=True):
        printed = [float(number) for text in (dice, distance) for number in text.split("/") if number.strip()]
        assert [row.numbers[c.metric] for c in table.columns if c.metric in row.numbers] == printed
        assert len(printed) == len(row.numbers)
    half = len(table.columns) // 2
    assert [(c.unit, c.scale) for c in table.columns] == [("%", 100.0)] * half + [("mm", 1.0)] * half


@pytest.mark.parametrize("name", SHEET)
def test_printed_means_are_right_but_for_the_four_that_are_marked(name: str) -> None:
    table = variants(name)
    for row in table.rows:
        for stem in ("DSC", "HD95") if len(table.regions) > 1 else ():
            if f"{stem}/mean" not in row.numbers:
                continue
            mean = sum(row.numbers[f"{stem}/{region}"] for region in table.regions) / 3
            marked = table.wrong.get((row.name, f"{stem}/mean"))
            assert abs(mean - (marked or row.numbers[f"{stem}/mean"])) < 0.0075  # some are cut and not rounded
            assert marked is None or abs(mean - row.numbers[f"{stem}/mean"]) > 0.02
    assert sum(len(variants(each).wrong) for each in BY_VARIANT) == 4
    assert all(any(row.name == where for row in table.rows) for where, _ in table.wrong)


def test_what_a_reader_must_know_is_said() -> None:
    text = " ".join(variants("ciml/table2").remarks)
    for words in ("of another split", "number of filters (C)", "what counts where a region is empty", "its code is public"):
        assert words in text
    assert {row.name for row in variants("ciml/table2").rows if row.note} == {"DIGEST*, 128³", "RFNet*, 128³"}
    not_ours = {row.name.partition(",")[0].rstrip("*") for row in variants("ciml/table2").rows if row.arm is None}
    assert not_ours == {"Attention U-Net", "UNETR", "MAML", "DIGEST", "RFNet", "ACMINet", "NestedFormer"}
    for name in ("ciml/filters", "ciml/beta"):
        assert not variants(name).printed and "not printed" in variants(name).statement
    assert not set(TABLES) & set(VARIANTS) and set(known_tables()) >= {*TABLES, *VARIANTS}


@pytest.mark.parametrize("name", VARIANTS)
def test_every_table_has_a_source_and_studies_whose_arms_are_its_rows(name: str) -> None:
    table = VARIANTS[name]
    assert re.search(r"\(2024\)\. .*arXiv:2401\.02717, (Table \d|Figure 14|Section 4)", table.source)
    assert table.layout in DATASETS and table.phantom["name"] in PHANTOMS
    settings = {key: value for key, value in table.phantom.items() if key != "name"}
    config = load_phantom(str(table.phantom["name"]))[1].model_validate(settings)
    assert layout_of(str(table.phantom["name"]), config) == table.layout
    paper, phantom = (load_study(FOLDER / file) for file in (table.study, table.phantom_study))
    assert set(arms_of(phantom)) <= set(arms_of(paper))
    if isinstance(table, VariantTable):
        assert set(arms_of(paper)) == {row.arm for row in table.rows if row.arm}
        assert paper.folds == (0, 1, 2, 3, 4)
    for study in (paper, phantom):
        assert study.reference in arms_of(study) and study.subsets == "complete" and study.training.validations == 0
        assert Path(study.cohort).name == "cohort.csv"
        for arm in study.methods:
            arm_config(study, arm, seed=0, fold=None, cache=Path("cache"))  # every key is known


@pytest.mark.parametrize("name", BY_VARIANT)
def test_the_study_of_the_data_is_the_configuration_of_the_paper(name: str) -> None:
    study = load_study(FOLDER / variants(name).study)
    for label, arm in arms_of(study).items():
        method = arm_config(study, arm, seed=0, fold=None, cache=Path("cache")).method
        found = [method[key] for key in ("steps", "optimiser", "rate", "weight_decay", "schedule")]
        assert found == [50_000, "adam", 1e-4, 3e-5, "poly"]
        if arm.name == "ciml":
            assert method["norm"] == ("batch" if variants(name).layout == "brats" else "instance")
            assert (method["message_dropout"], method["spare"], method["kl"]) == (0, "none", "mean")
            assert method["width"] == (int(label[1:]) if name == "ciml/filters" else 32)
            assert method["beta"] == (float(label.removeprefix("beta-")) if name == "ciml/beta" else 0.5)
    assert study.training.batch_size == 2


@pytest.mark.parametrize("file", ["ciml_table5.yaml", "ciml_table5_phantom.yaml"])
def test_arms_of_table_5_differ_in_their_parts_alone(file: str) -> None:
    study = load_study(FOLDER / file)
    full = arms_of(study)["full"].config
    parts = {
        label: {key: value for key, value in arm.config.items() if full.get(key) != value}
        for label, arm in arms_of(study).items()
    }
    assert parts == {
        "full": {},
        "baseline": {"messages": False},
        "message": {"attention": False, "filter": False},
        "message-attention": {"filter": False},
        "message-vi": {"attention": False},
    }


@pytest.mark.parametrize("file", ["ciml_table6.yaml", "ciml_table6_phantom.yaml"])
def test_arms_of_table_6_are_the_assignments_of_its_rows(file: str) -> None:
    study = load_study(FOLDER / file)
    for row in variants("ciml/table6").rows:
        assert row.arm is not None
        found = arms_of(study)[row.arm].config["assignment"]
        assert "; ".join(f"{image.upper()} {', '.join(regions)}" for image, regions in found.items()) == row.name


def test_shapes_have_the_betas_and_the_collapse() -> None:
    table = load_table("ciml/shapes")
    assert isinstance(table, ShapesTable)
    for file in (table.study, table.phantom_study):
        study = load_study(FOLDER / file)
        found = {label: (arm.config["beta"], arm.config["kl"]) for label, arm in arms_of(study).items()}
        betas = {f"beta-{beta:g}": (beta, "mean") for beta in (0, 0.01, 0.1, 0.5, 1, 10)}
        assert found == {**betas, "beta-0.5-sum": (0.5, "sum")}
        assert study.seeds == (0, 1, 2, 3, 4)
