"""The study of guidance on pairs of vectors, as it is shipped: five rows from one training of each seed, on its phantom."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from comodal import api
from comodal.study.study import load_study, run_study

SHIPPED = Path(__file__).parents[2] / "src" / "comodal" / "study" / "tables" / "guidance_toy.yaml"
READ_OUTS = {
    "pairs": "guided",
    "pairs-inferior": "inferior",
    "pairs-superior": "superior",
    "pairs-guide": "guide",
    "pairs-both": "both",
}


def laid(folder: Path, cases: int, **changes: object) -> Path:
    """The phantom and the study beside it, with other settings of the arm that is trained."""
    api.phantom("pairs", folder, cases=cases)
    values = yaml.safe_load(SHIPPED.read_text(encoding="utf-8"))
    values |= {key: changes.pop(key) for key in ("seeds",) if key in changes}
    values["methods"][0]["config"] |= changes
    (folder / "study.yaml").write_text(yaml.safe_dump(values), encoding="utf-8")
    return folder / "study.yaml"


def test_one_training_gives_all_five_rows(tmp_path: Path) -> None:
    file = laid(tmp_path, 32, seeds=[0], steps=2, guide_epochs=1, decoder_epochs=1)
    study = load_study(file)
    assert {arm.title: study.whole(arm).config.get("read_out", "guided") for arm in study.methods} == READ_OUTS
    found = run_study(file, tmp_path / "out")
    assert len({run for runs in found.runs.values() for run in runs}) == 1
    for label, (result,) in found.results.items():
        (row,) = [row for row in result.subsets if row.metrics]
        assert row.metrics["accuracy/diagnosis"].n == 16, label


@pytest.mark.slow
def test_guidance_helps_a_linear_decoder_where_the_class_is_a_product(tmp_path: Path) -> None:
    """One seed at full size; docs/results/guidance.md has eight."""
    found = run_study(laid(tmp_path, 1600, seeds=[0]), tmp_path / "out")
    accuracy = {label: result.subsets[0].metrics["accuracy/diagnosis"].value for label, (result,) in found.results.items()}
    assert all(value is not None for value in accuracy.values())
    of = {label: float(value) for label, value in accuracy.items() if value is not None}
    assert of["pairs-inferior"] + 0.02 < of["pairs"] < of["pairs-both"] - 0.2 and of["pairs-both"] < of["pairs-superior"]
    assert 0.35 < of["pairs-inferior"] < 0.48 and 0.45 < of["pairs-guide"] < 0.57 and of["pairs-superior"] > 0.83
