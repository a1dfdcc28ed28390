"""Everything that the commands do, as functions for a notebook. Nothing here prints; `on_event` hears what happens."""

from comodal.api.cohorts import check, convert, index, join, phantom
from comodal.api.comparing import demo, mi, report, reproduce, study
from comodal.api.explaining import explain
from comodal.api.matching import match
from comodal.api.runs import evaluate, init, predict, train

__all__ = [
    "phantom",
    "index",
    "join",
    "convert",
    "check",
    "init",
    "train",
    "evaluate",
    "predict",
    "explain",
    "match",
    "report",
    "mi",
    "study",
    "reproduce",
    "demo",
]
