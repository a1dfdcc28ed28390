"""Paired tests of a study's arms on targets of classes: `table-tests.md`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from comodal.evaluation.paired_tests import PairedTest, paired_tests
from comodal.evaluation.statistics import holm
from comodal.reporting.tables import PlainTable, number, p_text, plain_markdown
from comodal.study.study import StudyResult

_NONE = "–"
MOST_RUNS = 8  # whose p are told one by one
_ASKS = {
    "McNemar": "only arm right, only reference right, under a fair coin (exact)",
    "DeLong": "whether two AUROCs on the same cases differ",
}


def paired_markdown(study: StudyResult) -> str:
    """McNemar's and DeLong's test of each arm against the reference, and against those of `against`, on common cases.

    The bootstrap of AUROC, balanced accuracy and accuracy is not here: its intervals and p stand in `table.md`, each by itself.

    Args:
        study: What was run.

    Returns:
        Markdown; "" where there is one arm alone, or no target of classes.
    """
    parts = []
    for reference in dict.fromkeys((study.reference, *study.config.against)):
        lines = pairs_of(study, reference)
        for name, asks in _ASKS.items():
            own = [(label, test) for label, test in lines if test.test == name]
            if own:
                parts.append(f"## {name}: arm against {reference}\n\n{plain_markdown(_table(own, reference, asks))}")
    return "# Paired tests\n\n" + "\n".join(parts) if parts else ""


def pairs_of(study: StudyResult, reference: str) -> list[tuple[str, PairedTest]]:
    """(label of the arm, test) of every other arm; p is Holm-corrected over all lines of a test.

    Args:
        study: What was run.
        reference: Label of the arm with which the others are compared.
    """
    base = study.results[reference]
    if not any(case.targets for run in base for case in run.cases):
        return []
    others = [label for label in study.results if label != reference]
    found = [(label, test) for label in others for test in paired_tests(study.results[label], base, metrics=())]
    for name in dict.fromkeys(test.test for _, test in found):
        places = [i for i, (_, test) in enumerate(found) if test.test == name]
        for i, p in zip(places, holm([found[i][1].p_value for i in places]), strict=True):
            found[i] = (found[i][0], replace(found[i][1], p_holm=p))
    return found


def _table(lines: Sequence[tuple[str, PairedTest]], reference: str, asks: str) -> PlainTable:
    counted = any(test.b is not None for _, test in lines)
    runs = any(test.p_runs for _, test in lines)
    head = ["arm", "target", "from", "n", f"arm − {reference} [95 % interval]"]
    head += ["only arm right", f"only {reference} right"] if counted else []
    head += ["p", "p (Holm)", *(["p of each pair of runs"] if runs else [])]
    rows = []
    for label, test in lines:
        texts = [label, f"{test.target} {test.label}".strip(), _from(test), str(test.n), _effect(test)]
        texts += [str(test.b), str(test.c)] if counted else []
        texts += [_p(test.p_value), _p(test.p_holm)]
        texts += [runs_text(test.p_runs)] if runs else []
        rows.append(tuple(texts))
    notes = list(dict.fromkeys(test.note for _, test in lines if test.note))
    said = [f"{asks[0].upper()}{asks[1:]}.", f"Holm's correction runs over these {len(lines)} lines."]
    said += [f"{note[0].upper()}{note[1:]}." for note in notes]
    return PlainTable(tuple(head), tuple(rows), " ".join(said))


def _from(test: PairedTest) -> str:
    """The modalities that the arm used, and those that the reference did where these are others."""
    one, two = (" + ".join(row) or _NONE for row in (test.used, test.used_b))
    return one if one == two else f"{one} against {two}"


def _effect(test: PairedTest) -> str:
    if test.effect is None:
        return _NONE
    told = number(test.effect, test.metric, signed=True)
    ends = "" if test.ci95 is None else f" [{', '.join(number(end, test.metric, signed=True) for end in test.ci95)}]"
    return f"{test.metric} {told}{ends}"


def runs_text(values: Sequence[float | None]) -> str:
    """The p of each run; of many runs their quartiles, since nobody reads 25 numbers.

    >>> runs_text([0.04, None]), runs_text([0.01, 0.2, 0.4, 0.6, 1.0] * 5)
    ('0.040, –', 'median 0.40, half of 25 in 0.20 to 0.60')
    """
    known = [p for p in values if p is not None]
    if len(values) <= MOST_RUNS or not known:
        return ", ".join(map(_p, values)) or _NONE
    low, middle, high = (_p(float(p)) for p in np.quantile(known, (0.25, 0.5, 0.75)))
    return f"median {middle}, half of {len(known)} in {low} to {high}"


def _p(p: float | None) -> str:
    return p_text(p).removeprefix("p").removeprefix("=") or _NONE
