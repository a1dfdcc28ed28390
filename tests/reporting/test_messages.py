"""Nats over training: what is averaged, what is no number, and what the page says of it."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from comodal.reporting.messages import BINS, Messages, messages_figure, messages_of
from comodal.reporting.page import write_page

Make = Callable[..., Path]


def step(number: int, stage: str = "train", **nats: float | None) -> dict[str, Any]:
    told = {f"nats/{name.replace('__', '/')}": value for name, value in nats.items()}
    return {"event": "step", "stage": stage, "step": number, "loss": 1.0, "diagnostics": {**told, "grad": 3.0}}


def test_levels_are_told_apart_and_runs_averaged() -> None:
    one = [step(k, flair__t1__1=4.0, flair__t1__2=0.5, flair__t1__3=0.25, t1__flair__1=1.0) for k in range(3)]
    two = [step(k, flair__t1__1=8.0, flair__t1__2=1.5, flair__t1__3=0.75) for k in range(3)]
    found = messages_of([one, two])
    assert found is not None
    means = {1: 6.0, 2: 1.0, 3: 0.5}
    assert found.curves["flair", "t1"] == {level: dict.fromkeys((0, 1, 2), value) for level, value in means.items()}
    assert found.curves["t1", "flair"] == {1: {0: 1.0, 1: 1.0, 2: 1.0}}
    assert found.primaries == ["flair", "t1"] and found.levels == [1, 2, 3]


def test_a_step_without_the_message_does_not_count() -> None:
    events = [
        step(0, a__b__1=2.0),
        step(1, a__b__1=0.0),
        step(2, a__b__1=None),
        step(3, a__b__1=math.nan),
        step(4, a__b__1=4.0),
    ]
    found = messages_of([events])
    assert found is not None and found.curves == {("a", "b"): {1: {0: 2.0, 4: 4.0}}}


def test_many_steps_become_few_points_and_stages_follow_each_other() -> None:
    events = [step(k, a__b__1=k + 1.0) for k in range(1000)]
    found = messages_of([events])
    assert found is not None
    curve = found.curves["a", "b"][1]
    assert len(curve) == BINS and all(value == pytest.approx(at + 1) for at, value in curve.items())  # middles
    events = [step(k, "first") for k in range(1, 4)] + [step(k, "second", a__b__1=1.0) for k in range(1, 3)]
    found = messages_of([events])
    assert found is not None and list(found.curves["a", "b"][1]) == [4, 5]


@pytest.mark.parametrize(
    "events",
    [
        [],
        [{"event": "step", "step": 1, "diagnostics": {"nats": 1.0, "nats/a/b": 1.0, "nats/a/b/x": 1.0, "dice/a/b/1": 1.0}}],
        [
            {"event": "step", "step": 1, "diagnostics": None},
            {"event": "validation", "step": 1, "diagnostics": {"nats/a/b/1": 1.0}},
        ],
        [{"event": "step", "step": None, "diagnostics": {"nats/a/b/1": 1.0}}, step(1, a__b__1=0.0)],
    ],
)
def test_where_nothing_of_the_kind_was_logged_there_is_no_figure(events: list[dict[str, Any]]) -> None:
    assert messages_of([events]) is None


def test_a_modality_has_its_colour_in_every_panel() -> None:
    pairs = {(p, a): {1: {0.0: 100.0, 1.0: 0.001}} for p in ("flair", "t1", "t$2") for a in ("flair", "t1", "t$2") if p != a}
    svg = messages_figure(Messages(pairs), ["flair", "t1", "t$2"])
    texts = re.findall(r"<text[^>]*>([^<]*)</text>", svg)
    for text in ("to flair", "to t$2", "from flair", "from t$2", "0.01", "100"):
        assert text in texts
    assert "level 1, the finest" not in texts  # there is but one
    curves = re.findall(r"stroke: (#[0-9a-f]{6}); stroke-width: 1.6", svg)
    assert {colour: curves.count(colour) for colour in ("#0072b2", "#d55e00", "#009e73")} == dict.fromkeys(
        ("#0072b2", "#d55e00", "#009e73"), 3
    )  # two panels and the legend
    assert Messages(pairs).width < 11


def test_the_page_shows_nats_where_there_are_some(make_run: Make, worlds: dict[str, Any], tmp_path: Path) -> None:
    runs = [make_run(f"r{k}", worlds["lgg"], method="ciml", seed=k) for k in range(2)]
    assert "Nats over training" not in write_page(runs, tmp_path / "page.html").read_text()
    for run in runs:
        events = [step(k, pre__flair__1=9.0 - k, pre__flair__2=0.5) for k in range(6)]
        (run / "metrics.jsonl").write_text("".join(json.dumps(event) + "\n" for event in events))
    html = write_page(runs, tmp_path / "page.html").read_text()
    assert "<h3>Nats over training</h3>" in html and "over 2 runs" in html
    assert "an upper bound of the information that the filter lets through" in html
    assert "fall to the prior (0) is normal" in html and "to pre" in html
    assert len(html.split("<h3>Nats over training</h3>")[1].split("</figure>")[0]) < 30_000
