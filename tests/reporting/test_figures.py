"""Figures: what is drawn where. Vector text is searched, pixels of pictures are looked at."""

from __future__ import annotations

import base64
import io
import re
from typing import Any

import numpy as np
from PIL import Image

from comodal.evaluation.results import MetricValue, Results, SubsetResult
from comodal.reporting.figures import _smooth, _stages, curves_figure, subset_figure
from comodal.reporting.slices import Slice, slices_picture
from comodal.reporting.tables import as_table


def pixels(address: str) -> np.ndarray[Any, Any]:
    picture = Image.open(io.BytesIO(base64.b64decode(address.removeprefix("data:image/png;base64,"))))
    return np.asarray(picture.convert("RGB"), dtype=int)


def result(method: str, value: float) -> Results:
    rows = [SubsetResult(present=("t$1",), supported=False)]
    rows.append(SubsetResult(present=("flair", "t$1"), metrics={"DSC/WT": MetricValue(value=value, ci95=(0.1, 0.9), n=3)}))
    return Results(method=method, cohort="c", split="test", seed=0, subsets=tuple(rows))


def test_the_subset_figure_names_methods_modalities_and_what_is_not_supported() -> None:
    table = as_table([result("unet", 0.5), result("moddrop", 0.6)])
    svg = subset_figure(table, ["DSC/WT"], salt="s1")
    texts = re.findall(r"<text[^>]*>([^<]*)</text>", svg)
    for text in ("unet", "moddrop", "flair", "t$1", "DSC WT"):
        assert text in texts
    assert texts.count("not supported") == 2
    assert svg.startswith("<svg")
    assert "metadata" not in svg


def test_ids_of_two_figures_on_a_page_differ_and_links_follow_them() -> None:
    table = as_table(result("unet", 0.5))
    one, two = (subset_figure(table, ["DSC/WT"], salt=salt) for salt in ("s1", "s2"))
    ids = [set(re.findall(r'\bid="([^"]+)"', svg)) for svg in (one, two)]
    assert not ids[0] & ids[1]
    links = set(re.findall(r'href="#([^"]+)"', one)) | set(re.findall(r"url\(#([^)]+)\)", one))
    assert links
    assert links <= ids[0]


def test_stages_follow_each_other_on_one_axis() -> None:
    events: list[dict[str, Any]] = [
        {"event": "step", "stage": s, "step": k, "loss": 1.0} for s in ("teacher", "student") for k in (1, 2, 3)
    ]
    events.append({"event": "validation", "stage": "student", "step": 2, "metrics": {"DSC": 0.4}, "best": True})
    teacher, student = _stages(events)
    assert (teacher.begin, teacher.end) == (0, 3)
    assert (student.begin, list(student.losses), student.best) == (3, [4, 5, 6], 5)
    assert "student" in curves_figure({"run": events})


def test_a_loss_that_is_not_a_number_leaves_a_gap() -> None:
    assert _smooth([1.0, float("nan"), 3.0])[::2] == [1.0, 3.0]
    events = [{"event": "step", "stage": "s", "step": 1, "loss": None}]
    assert "no validation metric" in curves_figure({"run": events})


def test_slices_show_the_patients_right_on_the_left() -> None:
    image = np.full((40, 40), 0.5)
    image[30:38, 18:22] = 1.0  # towards larger X: the patient's right
    nothing = np.zeros((1, 40, 40), dtype=bool)
    sides = []
    for anatomical in (True, False):
        item = Slice("", image, nothing, {"t1": nothing}, {}, anatomical=anatomical)
        picture = pixels(slices_picture([item], ["WT"], image_name="t1")).sum(axis=2)
        panel = picture[:, : picture.shape[1] // 2]
        columns = np.flatnonzero((panel < 60).mean(axis=0) > 0.3)
        rows = np.flatnonzero((panel < 60).mean(axis=1) > 0.3)
        inside = panel[rows[0] : rows[-1], columns[0] : columns[-1]]
        bright = np.flatnonzero((inside > 700).any(axis=0))
        sides.append(bright.mean() / inside.shape[1])
    assert sides[0] < 0.4
    assert sides[1] > 0.6


def test_slices_survive_empty_full_and_constant_arrays() -> None:
    flat = np.zeros((12, 9))
    flat[3, 3] = np.nan
    full, empty = np.ones((2, 12, 9), dtype=bool), np.zeros((2, 12, 9), dtype=bool)
    items = [Slice("a", flat, full, {"t1": empty, "t1+t2": full}, {}), Slice("b", flat, empty, {"t1": full}, {}, aspect=2.0)]
    assert pixels(slices_picture(items, ["WT", "TC"], image_name="t1")).shape[1] > 300
