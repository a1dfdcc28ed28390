from __future__ import annotations

from typing import Any

from comodal.cli.train import best_validations


def test_the_last_best_validation_of_each_stage_counts() -> None:
    events: list[dict[str, Any]] = [
        {"event": "stage", "stage": "a", "state": "start"},
        {"event": "validation", "stage": "a", "epoch": 0, "step": 5, "metrics": {"DSC": 0.2}, "best": True},
        {"event": "validation", "stage": "a", "epoch": 1, "step": 10, "metrics": {"DSC": 0.4}, "best": True},
        {"event": "validation", "stage": "a", "epoch": 2, "step": 15, "metrics": {"DSC": 0.3}, "best": False},
        {"event": "validation", "stage": "b", "epoch": 0, "step": 4, "metrics": {"loss": 1.0}, "best": False},
        {"event": "validation", "stage": "c", "epoch": 0, "step": 3, "metrics": {"loss": 0.5}, "best": True},
    ]
    assert best_validations(events) == [
        {"stage": "a", "epoch": 1, "step": 10, "metrics": {"DSC": 0.4}},
        {"stage": "c", "epoch": 0, "step": 3, "metrics": {"loss": 0.5}},
    ]
    assert best_validations([]) == []
