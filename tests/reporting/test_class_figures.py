"""Figures of classes: panels in rows, legends with what they were given, nothing drawn where nothing is defined."""

from __future__ import annotations

import re

import numpy as np
import pytest
from tests.reporting.classes import GRADE, made

from comodal.evaluation.curves import Confusion, Curve, confusion, precision_recall, reliability, roc
from comodal.reporting.class_figures import (
    Line,
    Panel,
    confusion_panel,
    curves_panel,
    panels_figure,
    panels_width,
    reliability_panel,
)
from comodal.reporting.figures import new_figure

CASES = [case for case in made().cases if len(case.present) == 2]


def texts(svg: str) -> list[str]:
    return re.findall(r"<text[^>]*>([^<]*)</text>", svg)


def line(label: str, number: str = "0.812 [0.70, 0.90]", k: int = 0) -> Line:
    return Line(roc(CASES, GRADE, k), label, number, k)


@pytest.mark.parametrize(("count", "columns"), [(1, 1), (4, 4), (5, 3), (6, 3), (8, 4), (9, 3)])
def test_rows_are_about_equally_long(count: int, columns: int) -> None:
    panels = [curves_panel([line("x")], str(i), "ROC") for i in range(count)]
    assert panels_width(panels) == round(108 * (2.72 * columns + 0.06))
    if count == 5:
        box = re.search(r'viewBox="0 0 ([\d.]+) ([\d.]+)"', panels_figure(panels, salt="s"))
        assert box and float(box[1]) == pytest.approx(72 * (2.72 * columns + 0.06), abs=0.5)


def test_counts_and_parts_of_the_true_class_stand_in_the_cells() -> None:
    found = Confusion("t", ("yes", "no"), np.array([[6.0, 2.0], [0.0, 4.0]]), 12, 1)
    shown = texts(panels_figure([confusion_panel(found, "m")], salt="s"))
    for text in ("6", "75 %", "2", "25 %", "0", "0 %", "4", "100 %", "yes (8)", "no (4)", "answered", "m"):
        assert text in shown
    mean = Confusion("t", ("yes", "no"), np.array([[6.5, 1.5], [0.0, 4.0]]), 12, 2)
    assert {"6.5", "1.5", "4.0"} <= set(texts(panels_figure([confusion_panel(mean, "m")], salt="s")))
    never = Confusion("t", ("yes", "no"), np.array([[6.0, 2.0], [0.0, 0.0]]), 8, 1)
    assert "nan" not in " ".join(texts(panels_figure([confusion_panel(never, "m")], salt="s")))


def test_many_classes_are_shaded_alone_and_long_names_are_cut() -> None:
    names = tuple(f"a very long name {k}" for k in range(9))
    shown = texts(panels_figure([confusion_panel(Confusion("t", names, np.eye(9) * 3, 27, 1), "m")], salt="s"))
    assert "a very long …" in shown and "3" not in shown and "100 %" not in shown


def test_a_legend_says_what_it_is_given_and_fits() -> None:
    shown = texts(panels_figure([curves_panel([line("guidance"), line("x" * 60, k=1)], "low", "ROC")], salt="s"))
    assert "guidance 0.812 [0.70, 0.90]" in shown and "AUROC" in shown and "false positive rate" in shown
    (cut,) = [text for text in shown if text.startswith("xxx")]
    assert len(cut) == 40 + 1 and cut.endswith("… 0.812 [0.70, 0.90]")
    assert "AUPRC" in texts(panels_figure([curves_panel([line("m")], "low", "PR")], salt="s"))


def axes_of(panel: Panel) -> list[list[tuple[list[float], list[float]]]]:
    axis = new_figure(2, 2).add_axes((0, 0, 1, 1))
    panel.draw(axis)
    return [[(list(map(float, one.get_xdata())), list(map(float, one.get_ydata()))) for one in axis.get_lines()]]  # type: ignore[arg-type]


def test_curves_and_chance_are_drawn_as_they_are() -> None:
    curve = roc(CASES, GRADE, 2)
    (lines,) = axes_of(curves_panel([Line(curve, "m", "", 0)], "high", "ROC"))
    assert lines == [(curve.x.tolist(), curve.y.tolist()), ([0.0, 1.0], [0.0, 1.0])]
    rare = precision_recall(CASES, GRADE, 2)
    (lines,) = axes_of(curves_panel([Line(rare, "m", "", 0)] * 2, "high", "PR"))
    assert lines[0][1] == rare.y.tolist() and lines[2][1] == [rare.chance] * 2 and len(lines) == 3  # one line of chance
    nothing = Curve("t", "c", np.zeros(0), np.zeros(0), None, 0.5, 3, 0, 1)
    assert "not defined:" in " ".join(texts(panels_figure([curves_panel([Line(nothing, "m", "–", 0)], "c", "ROC")], salt="s")))


def test_reliability_has_a_point_and_an_interval_for_each_bin_with_answers() -> None:
    found = reliability(CASES, GRADE)
    panel = reliability_panel(found, "reliability", "0.10 [0.05, 0.20]", look=0)
    (lines,) = axes_of(panel)
    filled = [b for b in found.bins if b.count]
    assert lines[0] == ([0.0, 1.0], [0.0, 1.0])  # the diagonal
    assert lines[-1] == ([b.confidence for b in filled], [b.accuracy for b in filled])
    assert [ys for _, ys in lines[1:-1]] == [list(b.ci95 or ()) for b in filled]
    assert "ECE 0.10 [0.05, 0.20]" in texts(panels_figure([panel], salt="s"))


def test_the_same_panels_give_the_same_bytes() -> None:
    panels = [confusion_panel(confusion(CASES, GRADE, GRADE.classes), "m"), curves_panel([line("m")], "low", "ROC")]
    assert panels_figure(panels, salt="s") == panels_figure(panels, salt="s")
