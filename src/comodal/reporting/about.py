"""What was trained on what: the facts of the page, from the run folders."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any

from comodal.evaluation.table import StudyTable
from comodal.methods import METHODS
from comodal.reporting.record import PARTS, RunRecord, section
from comodal.reporting.tables import heading, number, shown_metrics

_LABELS = {"train": "training", "val": "validation", "test": "test"}
_HARDWARE = ("hardware", "machine", "device", "gpu", "cpu", "system", "cores", "threads", "memory", "platform", "precision")
_TIMES = ("training_seconds", "seconds")
_HIDDEN = ("citation", "versions", "packages", "parameters", "warnings", "training_cpu_seconds", *_TIMES)


@dataclass(frozen=True)
class Facts:
    """Strings of the section "What was trained on what".

    Attributes:
        pairs: (label, value).
        presence: Rows (modality, counts per part); the first row is the heading. Empty where the cohort is unknown.
        runs: Rows of the table of runs; the first row is the heading.
        warnings: (run, texts) for every run that has some.
        citations: (method, citation).
    """

    pairs: tuple[tuple[str, str], ...]
    presence: tuple[tuple[str, ...], ...]
    runs: tuple[tuple[str, ...], ...]
    warnings: tuple[tuple[str, tuple[str, ...]], ...]
    citations: tuple[tuple[str, str], ...]


def facts(groups: Mapping[str, Sequence[RunRecord]], table: StudyTable) -> Facts:
    """Collects the facts of all runs.

    Args:
        groups: {label of the method: its runs}.
        table: The combined table, for what the numbers themselves warn of.
    """
    single = each_once(groups)
    records = [record for runs in single.values() for record in runs]
    warnings = [(run_label(label, r), (*r.warnings, *r.notes)) for label, runs in single.items() for r in runs]
    warnings += [(label, empty_predictions(table, label)) for label in groups]
    return Facts(
        pairs=tuple(_pairs(records)),
        presence=_presence(records),
        runs=_runs(single),
        warnings=tuple((label, tuple(texts)) for label, texts in warnings if texts),
        citations=tuple(_citations(single)),
    )


def each_once(groups: Mapping[str, Sequence[RunRecord]]) -> dict[str, list[RunRecord]]:
    """The groups with every run folder in the first alone that has it: several labels may be of the same runs."""
    seen: set[PurePath] = set()
    found: dict[str, list[RunRecord]] = {}
    for label, runs in groups.items():
        own = [record for record in runs if record.folder not in seen]
        seen |= {record.folder for record in own}
        found |= {label: own} if own else {}
    return found


def run_label(label: str, record: RunRecord) -> str:
    """A run in words: method and seed, with the fold where there are folds, and the seed of the division where it is not 0."""
    fold = section(record.config, "splits").get("fold") if section(record.config, "splits").get("folds") else None
    drawn = section(record.config, "splits").get("seed")
    parts = [label, f"seed {record.seed}" if record.seed is not None else "", f"division {drawn}" if drawn else ""]
    parts += [f"fold {fold}" if fold is not None else ""]
    return ", ".join(part for part in parts if part)


def empty_predictions(table: StudyTable, method: str) -> tuple[str, ...]:
    """Regions that a method practically never finds: a DSC below 0.01 is a collapse, whatever the training said."""
    found: dict[str, list[str]] = {}
    for row in table.rows:
        for metric in shown_metrics(table, stem="DSC"):  # of a single class not its mean as well
            cell = row.cells[method].get(metric)
            if cell is not None and cell.state == "value" and cell.value < 0.01 and cell.n_pos != 0:
                found.setdefault(metric, []).append("+".join(row.present))
    said = [
        f"{heading(metric)} is below 0.01, so practically nothing is found, from {', '.join(names)}."
        for metric, names in found.items()
    ]
    return (*said, *_empty_only(table, method))


def _empty_only(table: StudyTable, method: str) -> Iterable[str]:
    """A DSC made of empty cases alone: no distance in any case, so that in each case truth or prediction is empty."""
    found: dict[str, list[str]] = {}
    for row in table.rows:
        for metric in shown_metrics(table, stem="DSC"):
            cell, far = row.cells[method].get(metric), row.cells[method].get(metric.replace("DSC/", "HD95/"))
            known = cell is not None and far is not None and far.state == "no cases"
            if known and cell is not None and cell.state == "value" and cell.value >= 0.01 and cell.n_pos != 0:
                found.setdefault(metric, []).append(f"{number(cell.value, metric)} from {'+'.join(row.present)}")
    for metric, values in found.items():
        yield (
            f"{heading(metric)} ({', '.join(values)}) is of cases alone in which neither truth nor prediction has any: where "
            "there is some, none is found."
        )


def _pairs(records: Sequence[RunRecord]) -> list[tuple[str, str]]:
    found = [
        ("Cohort", _shared(records, _cohort)),
        ("Cases", _shared(records, _cases)),
        ("Predicted", _shared(records, _targets)),
        ("The networks see", _shared(records, _inputs)),
        ("Hardware", _shared(records, _hardware)),
        ("Versions", _shared(records, _versions)),
        ("Also recorded", _shared(records, _others)),
    ]
    return [(label, value) for label, value in found if value]


def _shared(records: Sequence[RunRecord], of: Any) -> str:
    """The one value of all runs, or each with the number of runs that have it."""
    values: dict[str, int] = {}
    for record in records:
        values[of(record)] = values.get(of(record), 0) + 1
    if len(values) == 1:
        return next(iter(values))
    return "; ".join(f"{value or 'unknown'} ({count} runs)" for value, count in values.items())


def _cohort(record: RunRecord) -> str:
    name = next((r.cohort for r in record.results.values()), "") or PurePath(str(record.config.get("cohort", ""))).stem
    layout = str(record.cohort_meta.get("layout", ""))
    size = f", {len(record.present)} cases" if record.present else ""
    notes = record.cohort_meta.get("notes")
    synthetic = next((str(n) for n in notes if str(n).startswith("synthetic")), "") if isinstance(notes, list) else ""
    size += f"; {synthetic}" if synthetic else ""
    return f"{name}{'' if name.startswith(layout) else f' (layout {layout})'}{size}"


def _cases(record: RunRecord) -> str:
    patients = {case: cells.get("group") or cells.get("subject", case) for case, cells in record.files.items()}
    parts = []
    for name in PARTS:
        if name in record.splits:
            cases = record.splits[name]
            count = len({patients.get(case, case) for case in cases})
            several = f" cases of {count} patients" if count != len(cases) else ""
            parts.append(f"{len(cases)}{several} for {_LABELS[name]}")
    return ", ".join(parts)


def _targets(record: RunRecord) -> str:
    items = [item for item in record.cohort_meta.get("targets") or [] if isinstance(item, Mapping)]
    data = section(record.config, "data")
    chosen, regions, parts = data.get("targets"), data.get("regions"), []
    for item in items:
        only = regions if isinstance(regions, list) and item.get("kind") == "regions" else None
        classes = [str(name) for name in item.get("classes") or [] if only is None or name in only]
        if classes and (not isinstance(chosen, list) or item.get("name") in chosen):
            parts.append(f"{item.get('name')} ({item.get('kind')}: {', '.join(classes)})")
    return "; ".join(parts)


def _inputs(record: RunRecord) -> str:
    data = section(record.config, "data")
    patch = data.get("patch")
    sizes = [*patch.values()] if isinstance(patch, Mapping) else [patch]  # one for each grid of images
    size = " and ".join(dict.fromkeys(" × ".join(map(str, side)) for side in sizes if isinstance(side, list) and side))
    items = [item for item in record.cohort_meta.get("modalities") or [] if isinstance(item, Mapping)]
    dims = {item.get("spatial_dims") for item in items if item.get("name") in record.modalities}
    if dims == {0}:  # vectors and texts have no size
        return ""
    dims -= {0, None}
    if dims == {2}:
        return f"pictures{f' of {size} pixels' if size else ''}"
    what = {2: "slices", 3: "volumes"}.get(data.get("spatial_dims") or 0, "")
    return f"{what}{f' in patches of {size} voxels' if size else ''}" if what else ""


def _hardware(record: RunRecord) -> str:
    return ", ".join(
        _plain(key, record.environment[key]) for key in _HARDWARE if record.environment.get(key) not in (None, "", {})
    )


def _plain(key: str, value: object) -> str:
    """Text values speak for themselves, numbers need their name."""
    if isinstance(value, Mapping):
        return ", ".join(_plain(str(inner), item) for inner, item in value.items())
    if isinstance(value, list):
        return ", ".join(map(str, value))
    return str(value) if isinstance(value, str) else f"{key.replace('_', ' ')} {value}"


def _versions(record: RunRecord) -> str:
    found: dict[str, str] = {}
    for key in ("comodal", "python"):
        if record.environment.get(key):
            found[key] = str(record.environment[key])
    for key in ("versions", "packages"):
        found |= {str(name): str(value) for name, value in section(record.environment, key).items()}
    return ", ".join(f"{name} {value}" for name, value in found.items())


def _others(record: RunRecord) -> str:
    skip = {*_HARDWARE, *_HIDDEN, "comodal", "python"}
    rest = {key: value for key, value in record.environment.items() if key not in skip and value not in (None, "", {}, [])}
    return ", ".join(
        f"{key.replace('_', ' ')} {value}" if isinstance(value, str) else _plain(str(key), value) for key, value in rest.items()
    )


def _presence(records: Sequence[RunRecord]) -> tuple[tuple[str, ...], ...]:
    first = records[0]
    if not first.present:
        return ()
    same = all(record.splits == first.splits for record in records)
    parts = {"all": list(first.present)} | ({n: list(first.splits[n]) for n in PARTS if n in first.splits} if same else {})
    columns = [name for name in parts if name != "all" or len(parts) == 1] or ["all"]
    rows = [("modality", *(_LABELS.get(name, "all cases") for name in columns))]
    for modality in first.modalities:
        counts = [sum(modality in first.present.get(case, ()) for case in parts[name]) for name in columns]
        rows.append((modality, *(f"{have} of {len(parts[name])}" for have, name in zip(counts, columns, strict=True))))
    return tuple(rows)


def _runs(groups: Mapping[str, Sequence[RunRecord]]) -> tuple[tuple[str, ...], ...]:
    heads = (
        "method",
        "seed",
        "folder",
        "cases train / val / test",
        "parameters",
        "steps",
        "time",
        "kept at validation",
        "warnings",
    )
    rows = [_run_row(label, record) for label, runs in groups.items() for record in runs]
    # A column in which nothing is known is left out.
    keep = [i for i, head in enumerate(heads) if any(row[i] not in ("", "0" if head == "warnings" else "") for row in rows)]
    return tuple(tuple(row[i] for i in keep) for row in [heads, *rows])


def _run_row(label: str, record: RunRecord) -> tuple[str, ...]:
    sizes = " / ".join(str(len(record.splits.get(name, ()))) for name in PARTS) if record.splits else ""
    trained = [e["parameters"] for e in record.events if e.get("event") == "stage" and isinstance(e.get("parameters"), int)]
    parameters = record.environment.get("parameters", max(trained, default=None))
    steps = sum(e.get("event") == "step" for e in record.events)
    most = {
        str(e.get("stage")): int(e["step"])
        for e in record.events
        if e.get("event") == "step" and isinstance(e.get("step"), int)
    }
    return (
        label,
        "" if record.seed is None else str(record.seed),
        record.folder.name,
        sizes,
        f"{parameters:,}" if isinstance(parameters, int) else "",
        f"{max(sum(most.values()), steps):,}" if most else "",
        _time(record),
        _kept(record),
        str(len(record.warnings)),
    )


def _time(record: RunRecord) -> str:
    seconds = next((record.environment[key] for key in _TIMES if isinstance(record.environment.get(key), int | float)), None)
    if seconds is None:
        return ""
    told, cpu = _duration(float(seconds)), record.environment.get("training_cpu_seconds")
    return f"{told} (processor {_duration(float(cpu))})" if isinstance(cpu, int | float) else told


def _duration(seconds: float) -> str:
    minutes = seconds / 60
    return f"{minutes:.1f} min" if minutes < 100 else f"{minutes / 60:.1f} h"


def _kept(record: RunRecord) -> str:
    best = [e for e in record.events if e.get("event") == "validation" and e.get("best")]
    metrics = section(best[-1], "metrics") if best else {}
    names = [name for name in metrics if name != "loss"] or list(metrics)
    if not names or not isinstance(metrics[names[0]], int | float):
        return ""
    return f"{names[0]} {number(float(metrics[names[0]]), names[0])} at step {best[-1].get('step')}"


def _citations(groups: Mapping[str, Sequence[RunRecord]]) -> list[tuple[str, str]]:
    found = []
    for label, runs in groups.items():
        texts = [r.environment.get("citation") or (METHODS[r.method].citation if r.method in METHODS else "") for r in runs]
        text = next((str(text) for text in texts if text), "")
        found.append((label, text))
    return [(label, text) for label, text in found if text]
