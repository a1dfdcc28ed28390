"""One self-contained HTML page of one or several runs: no script, no address outside the file, everything escaped."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from comodal.data.atomic import replacing
from comodal.evaluation.comparison import combine
from comodal.evaluation.metrics import METRICS, is_main
from comodal.evaluation.results import MetricValue, Results
from comodal.evaluation.statistics import TOO_FEW, TOO_NARROW
from comodal.evaluation.table import StudyTable
from comodal.reporting.about import each_once, facts, run_label
from comodal.reporting.answer import MOST_IN_WORDS, answer
from comodal.reporting.class_sections import class_sections
from comodal.reporting.class_tables import class_tables
from comodal.reporting.drops import page_drops
from comodal.reporting.page_tables import page_tables
from comodal.reporting.pictures import pictures
from comodal.reporting.record import PARTS, RunRecord, find_runs, read_run, section, set_at_test
from comodal.reporting.tables import answered, caption, heading, is_of_classes, left_out_note, primary_metric, shown_metrics

_MOST_ROWS_NOT_RUN = 5  # modalities up to which every subset has a row, evaluated or not
_MOST_CURVES = 12


def write_page(
    run_folders: Sequence[Path | str] | Mapping[str, Sequence[Path | str]],
    out: Path | str,
    *,
    title: str | None = None,
    results: Mapping[str, Sequence[Results]] | None = None,
) -> Path:
    """Writes the page.

    Args:
        run_folders: Run folders, or folders of runs (a study), or {label: run folders} for labels of one's own. The first
            method is the one with which the others are compared.
        out: The HTML file; its folder is made.
        title: Heading; by default method and cohort.
        results: {label: one result for each of its run folders}, for labels of one's own: these are shown, and not what lies in
            the folders. Several labels can then be of the same runs.

    Returns:
        `out`.

    Raises:
        RunError: A folder is no run, or a result is damaged.
    """
    if isinstance(run_folders, Mapping):
        groups = {label: [read_run(run) for run in find_runs(folders)] for label, folders in run_folders.items()}
        groups = groups if results is None else _showing(groups, results)
    else:
        groups = group([read_run(run) for run in find_runs(run_folders)])
    html = render(groups, title=title)
    out = Path(out)
    with replacing(out) as file:
        file.write(html.encode())
    return out


def _showing(groups: Mapping[str, Sequence[RunRecord]], results: Mapping[str, Sequence[Results]]) -> dict[str, list[RunRecord]]:
    """The same runs with one result each, all under one name: that of the first, and its split where others have others."""
    names = list(dict.fromkeys(result.split for label in groups for result in results[label]))
    name = names[0] if len(names) == 1 else names[0].partition(".")[0]
    return {
        label: [replace(record, results={name: result}) for record, result in zip(records, results[label], strict=True)]
        for label, records in groups.items()
    }


def group(records: Sequence[RunRecord]) -> dict[str, list[RunRecord]]:
    """{label: runs}: runs are repetitions of one method only where nothing but the seed, the fold and the division differs.

    Runs of one method with different settings, cohorts or splits get the name of the folder into their label: their mean would
    mean nothing.
    """
    kinds: dict[str, list[tuple[Any, list[RunRecord]]]] = {}
    for record in records:
        settings = _settings(record)
        kind = kinds.setdefault(record.method, [])
        same = [runs for known, runs in kind if known == settings and all(_repeat(one, record) for one in runs)]
        if same:
            same[0].append(record)
        else:
            kinds[record.method].append((settings, [record]))
    labelled: dict[str, list[RunRecord]] = {}
    for method, variants in kinds.items():
        for _, runs in variants:
            labelled[method if len(variants) == 1 else f"{method} ({runs[0].folder.name})"] = runs
    return labelled


def _settings(record: RunRecord) -> Any:
    training = {
        key: value for key, value in section(record.config, "training").items() if key not in ("seed", "device", "workers")
    }
    data = {key: value for key, value in section(record.config, "data").items() if key != "cache"}
    division = {key: value for key, value in section(record.config, "splits").items() if key not in ("fold", "seed")}
    cohort = record.cohort_hash, record.cohort_meta.get("root")
    return cohort, division, section(record.config, "method"), data, training


def _repeat(one: RunRecord, other: RunRecord) -> bool:
    """Whether the parts of two runs may differ: they are other folds or other divisions."""
    splits = section(one.config, "splits"), section(other.config, "splits")
    drawn = [(of.get("fold") if of.get("folds") else None, of.get("seed")) for of in splits]
    return drawn[0] != drawn[1] or one.splits == other.splits


def render(groups: Mapping[str, Sequence[RunRecord]], *, title: str | None = None) -> str:
    """The page as HTML.

    Args:
        groups: {label: runs}, as `group` makes them.
        title: Heading.
    """
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("page.html.j2").render(**_content(groups, title)) + "\n"


def _content(groups: Mapping[str, Sequence[RunRecord]], title: str | None) -> dict[str, Any]:
    records = [record for runs in groups.values() for record in runs]
    split = next((record.split for record in records if record.split), "test")
    table = _table(groups, split)
    about = facts(groups, table)
    part = split.partition(".")[0]  # a restricted evaluation is named after a dot
    joint, own = pictures(groups, split)
    lesser = [name for name, metric in METRICS.items() if not metric.main]
    more = _table(groups, split, metrics=lesser)
    classes = class_tables(table, more)
    cohort = next((r.cohort for record in records for r in record.results.values()), "")
    return {
        "title": title
        or (" and ".join(groups) if len(groups) <= MOST_IN_WORDS else f"{len(groups)} methods")
        + (f" on {cohort}" if cohort else ""),
        "answer": answer(table, split=part),
        "about": about,
        "quiet": _quiet(records, table),
        "split": part,
        "complete": _complete(table),
        "tables": page_tables(table),
        "classes": classes,
        "left_out": left_out_note(classes.left_out),
        "unused": any(row.unused(method) for row in table.rows for method in table.methods),
        "targets": class_sections(groups, table, split),
        "table_caption": caption(table),
        "drops": page_drops(table),
        "several": len(groups) > 1,
        "reference": table.reference,
        "figure": _subset_figure(table),
        "joint": joint,
        "pictures": own,
        "messages": _messages(groups),
        "weights": _weights(groups, part),
        "curves": _curves(groups),
        "conventions": _conventions(records, split, (*table.metrics, *more.metrics)),
        "notes": _notes(records, split, table),
        "average_of": len(table.averaged),
    }


def _quiet(records: Sequence[RunRecord], table: StudyTable) -> str:
    """What the absence of warnings means, no more."""
    if not all(record.events for record in records):
        return "Runs without a log of their training (metrics.jsonl) cannot say whether anything went wrong."
    found = any(name.startswith("DSC/") for name in table.metrics)
    subsets = "all modalities" if _complete(table) else "every subset"
    return "No warning was said during training" + (
        f", and every region has a DSC above 0.01 from {subsets}." if found else "."
    )


def _table(groups: Mapping[str, Sequence[RunRecord]], split: str, *, metrics: Sequence[str] | None = None) -> StudyTable:
    apart = len({r.cohort_hash for runs in groups.values() for r in runs}) > 1 and _is_own(split)
    results = {
        label: [_named_apart(r.results[split], r) if apart else r.results[split] for r in runs if split in r.results]
        for label, runs in groups.items()
    }
    names = list(dict.fromkeys(name for runs in groups.values() for r in runs for name in r.modalities))
    asked = {frozenset(row.present) for some in results.values() for result in some for row in result.subsets}
    if asked == {frozenset(names)} or len(names) > _MOST_ROWS_NOT_RUN:  # all together alone: one row, and a sentence
        names = []
    return combine(results, modalities=names or None, metrics=metrics)


def _complete(table: StudyTable) -> bool:
    """Whether no subset but all modalities together was run."""
    return [frozenset(row.present) for row in table.rows] == [frozenset(table.modalities)] and len(table.modalities) > 1


def _is_own(split: str) -> bool:
    """Whether these are cases of each run's own cohort, and not of another one that was given to the evaluation."""
    return split.partition(".")[0] in (*PARTS, "all")


def _named_apart(results: Results, record: RunRecord) -> Results:
    """The same with the cohort in every case's name: equal names in two cohorts are two patients, and must not be paired."""
    at = record.cohort_hash
    cases = [c.model_copy(update={"subject": f"{c.subject} {at}", "group": f"{c.group} {at}"}) for c in results.cases]
    return results.model_copy(update={"cases": tuple(cases)})


def _subset_figure(table: StudyTable) -> dict[str, str] | None:
    from comodal.reporting.figures import subset_figure

    metrics = [name for name in shown_metrics(table) if not name.startswith("HD95") and not is_of_classes(name)]
    first = primary_metric(table)
    if first is not None and is_of_classes(first) and (metrics or len(table.methods) * sum(map(answered, table.rows)) > 1):
        metrics += shown_metrics(table, stem=first.partition("/")[0])
    if not metrics or not table.modalities:
        return None
    return {
        "svg": subset_figure(table, metrics),
        "what": ", ".join(dict.fromkeys(name.partition("/")[0].replace("_", " ") for name in metrics)),
    }


def _curves(groups: Mapping[str, Sequence[RunRecord]]) -> dict[str, Any] | None:
    from comodal.reporting.figures import curves_figure

    runs = {f"{run_label(label, r)} ({r.folder.name})": r.events for label, rs in each_once(groups).items() for r in rs}
    runs = {label: events for label, events in runs.items() if any(e.get("event") == "step" for e in events)}
    if not runs:
        return None
    shown = dict(list(runs.items())[:_MOST_CURVES])
    return {"svg": curves_figure(shown), "left_out": len(runs) - len(shown)}


def _messages(groups: Mapping[str, Sequence[RunRecord]]) -> list[dict[str, Any]]:
    """Nats over training, of each method that logs some."""
    from comodal.reporting.messages import messages_figure, messages_of

    found: list[dict[str, Any]] = []
    for label, runs in each_once(groups).items():
        messages = messages_of([record.events for record in runs])
        if messages is not None:
            logged = sum(messages_of([record.events]) is not None for record in runs)
            figure = messages_figure(messages, runs[0].modalities, salt=f"nats{len(found)}")
            more = {"width": round(108 * messages.width), "runs": logged, "deeper": len(messages.levels) > 1}
            found.append({"label": label, "svg": figure, **more})
    return found


def _weights(groups: Mapping[str, Sequence[RunRecord]], part: str) -> list[dict[str, Any]]:
    """Complementary information weights of each method that was explained on this split."""
    found = []
    for label, runs in groups.items():
        names = sorted({name for record in runs for name in record.explanations if name.partition(".")[0] == part})
        if names:
            from comodal.reporting.complements import weights_of_runs  # imports torch, as the examples do

            weights = weights_of_runs(runs, names[0])  # the shortest is first: that of the default explainer
            found += [{"label": label, "weights": weights}] if weights is not None else []
    return found


def _conventions(records: Sequence[RunRecord], split: str, metrics: Sequence[str]) -> list[tuple[str, str]]:
    stems = {name.partition("/")[0] for name in metrics} | {"ci95"}
    names = {"ci95": "Intervals"} | {stem: stem.replace("_", " ") for stem in stems - {"ci95"}}
    found: dict[tuple[str, str], None] = {}
    for record in records:
        if split in record.results:
            sentences = record.results[split].conventions.sentences()
            found |= {(names.get(stem, stem), text): None for stem, text in sentences.items() if stem in stems}
    return list(found)


def _notes(records: Sequence[RunRecord], split: str, table: StudyTable) -> list[str]:
    """What a reader must know about these numbers: notes of the results and of single metrics, each once."""
    notes: dict[str, None] = {}
    shown = [name for name in shown_metrics(table) if is_main(name)]
    for record in records:
        result = record.results.get(split)
        if result is not None:
            notes |= dict.fromkeys(result.notes)
            notes |= {
                f"{row.name}, {heading(k, table=table)}: {text}": None
                for row in result.subsets
                for k, v in row.metrics.items()
                if k in shown and (text := _own_note(v))
            }
    notes |= dict.fromkeys([*_cohort_notes(records, split), *_otherwise_set(records, split)])
    missing = [record.folder.name for record in records if split not in record.results]
    if missing and len(missing) < len(records):
        notes[f"Not evaluated on {split} yet, and not in the table: {', '.join(missing)}."] = None
    return list(notes)


def _otherwise_set(records: Sequence[RunRecord], split: str) -> list[str]:
    """Results under other settings at test, which are not mixed into these."""
    found = {name for r in records for name, one in r.results.items() if set_at_test(one)} - {split}
    return [f"Also evaluated under other settings at test, and not shown here: {', '.join(sorted(found))}."] if found else []


def _own_note(value: MetricValue) -> str:
    """The note without what the caption says once for all intervals."""
    return "; ".join(part for part in (value.note or "").split("; ") if part not in (TOO_FEW, TOO_NARROW))


def _cohort_notes(records: Sequence[RunRecord], split: str) -> list[str]:
    """Whether the runs saw the same patients, from what their cohorts list and not from how these are called."""
    of: dict[str, list[RunRecord]] = {}
    for record in records:
        of.setdefault(record.cohort_hash, []).append(record)
    if len(of) > 1:
        runs = "; ".join(", ".join(record.folder.name for record in same) for same in of.values())
        text = f"The runs were trained on different cohorts ({runs})."
        return [text + (" Their cases are not paired, even where names agree." if _is_own(split) else "")]
    if len({str(record.cohort_meta.get("root")) for record in records}) > 1:
        return ["The cohorts of the runs list the same files, but in different folders: are they the same patients?"]
    return []
