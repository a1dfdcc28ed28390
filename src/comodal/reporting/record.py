"""What a page needs of a run folder, read tolerantly: a run that is still training or was never evaluated has a page too.

Only JSON, YAML (safe), CSV and NumPy arrays without pickles are read; nothing in a run folder can run code.
"""

from __future__ import annotations

import csv
import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from comodal.errors import RunError, message
from comodal.evaluation.results import Results
from comodal.methods import METHODS
from comodal.modality import Target

PARTS = ("train", "val", "test")
_PREFERRED = ("test", "val", "all", "train")
_MOST_BYTES = 256 * 1024 * 1024


def set_at_test(result: Results) -> bool:
    """Whether it is of other settings than those of the training (`comodal evaluate --set`)."""
    return any(note.startswith("Set at test") for note in result.notes)


@dataclass(frozen=True)
class RunRecord:
    """One run folder.

    Attributes:
        folder: Where it lies.
        config: Plain values of config.yaml.
        splits: {"train" | "val" | "test": case ids}.
        environment: Plain values of environment.json.
        events: Lines of metrics.jsonl; after a resume the later line of a step counts.
        results: {split: Results}.
        present: {case id: modalities that its row of cohort.csv has}.
        files: {case id: {column: path}}, as in cohort.csv.
        cohort_meta: Plain values of cohort.yaml.
        notes: What was unreadable, in sentences.
    """

    folder: Path
    config: Mapping[str, Any]
    splits: Mapping[str, Sequence[str]]
    environment: Mapping[str, Any]
    events: Sequence[Mapping[str, Any]]
    results: Mapping[str, Results]
    present: Mapping[str, Sequence[str]]
    files: Mapping[str, Mapping[str, str]]
    cohort_meta: Mapping[str, Any]
    notes: Sequence[str]

    @property
    def method(self) -> str:
        """Name of the method, as configured."""
        return str(section(self.config, "method").get("name") or next((r.method for r in self.results.values()), "method"))

    @property
    def seed(self) -> int | None:
        """Seed of the training."""
        value = section(self.config, "training").get("seed", next((r.seed for r in self.results.values()), None))
        return value if isinstance(value, int) else None

    @property
    def modalities(self) -> tuple[str, ...]:
        """Modalities that the run reads, in canonical order."""
        chosen = section(self.config, "data").get("modalities")
        every = [str(item.get("name")) for item in self.cohort_meta.get("modalities") or [] if isinstance(item, Mapping)]
        return tuple(name for name in every if not isinstance(chosen, list) or name in chosen)

    @property
    def class_targets(self) -> tuple[Target, ...]:
        """Targets of classification that the run predicts, with their classes."""
        chosen = section(self.config, "data").get("targets")
        items = [item for item in self.cohort_meta.get("targets") or [] if isinstance(item, Mapping)]
        return tuple(
            Target(str(item.get("name")), item["kind"], tuple(map(str, item.get("classes") or ())))
            for item in items
            if item.get("kind") in ("class", "ordinal", "multilabel")
            and item.get("classes")
            and len(set(map(str, item["classes"]))) == len(item["classes"])
            and (not isinstance(chosen, list) or item.get("name") in chosen)
        )

    @property
    def cohort_hash(self) -> str:
        """Of what cohort.csv and cohort.yaml say, but for the folder of the files: equal for runs of the same cohort.

        Every run calls its own copy "cohort.csv", so that a name says nothing. What was withheld from a training is put back:
        the patients are the same.
        """
        meta = {key: value for key, value in self.cohort_meta.items() if key not in ("root", "notes", "withheld")}
        files = {case: dict(cells) for case, cells in self.files.items()}
        for name, cells in section(self.cohort_meta, "withheld").items():
            for case, cell in cells.items() if isinstance(cells, Mapping) else ():
                files.setdefault(str(case), {})[name] = str(cell)
        return hashlib.sha256(json.dumps([files, meta], sort_keys=True, default=str).encode()).hexdigest()[:8]

    @property
    def split(self) -> str | None:
        """The split whose results are shown: test where there is one, and those of other settings at test last."""
        others = sorted(self.results, key=lambda name: (set_at_test(self.results[name]), name))
        return next((name for name in (*_PREFERRED, *others) if name in self.results), None)

    @property
    def explanations(self) -> list[str]:
        """Names of the files of weights that `comodal explain` left, without suffix."""
        return sorted(path.stem for path in (self.folder / "explain").glob("*.json"))

    @property
    def warnings(self) -> list[str]:
        """What was said during training, each text once."""
        texts = [str(event.get("text", "")) for event in self.events if event.get("event") == "warning"]
        said = self.environment.get("warnings")
        texts += [str(text) for text in said] if isinstance(said, list) else []
        return list(dict.fromkeys(text for text in texts if text))


def section(values: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    """A sub-mapping, empty where there is none."""
    found = values.get(name)
    return found if isinstance(found, Mapping) else {}


def find_runs(folders: Sequence[Path | str]) -> list[Path]:
    """The run folders behind what the user named: runs themselves, or folders of runs (a study).

    Raises:
        RunError: A folder holds no run.
    """
    found: list[Path] = []
    for folder in map(Path, folders):
        inside = [folder] if (folder / "config.yaml").is_file() else _below(folder)
        if not inside:
            do = "Name a folder that `comodal train` or `comodal study` wrote"
            raise RunError(
                message("report", "get run folders (with config.yaml), or a folder of runs", "none", file=str(folder), do=do)
            )
        found += [run for run in inside if run not in found]
    if not found:
        raise RunError(message("report", "get at least one run folder", "none", do="Name one"))
    return found


def _below(folder: Path) -> list[Path]:
    """Runs one or two levels down: methods in the order of METHODS, then by name, numbers by value."""
    runs = {path.parent for path in (*folder.glob("*/config.yaml"), *folder.glob("*/*/config.yaml"))}
    return sorted(runs, key=lambda run: (_place(run), [int(t) if t.isdigit() else t for t in re.split(r"(\d+)", run.name)]))


def _place(run: Path) -> int:
    """Baselines first, as in METHODS: the first method of a page is the one with which the others are compared."""
    name = str(section(_yaml(run / "config.yaml"), "method").get("name"))
    return list(METHODS).index(name) if name in METHODS else len(METHODS)


def read_run(folder: Path | str) -> RunRecord:
    """Reads a run folder as far as it is there.

    Raises:
        RunError: config.yaml is missing or is not a mapping, or a result is not of this schema.
    """
    folder = Path(folder)
    notes: list[str] = []
    config = _yaml(folder / "config.yaml")
    meta = _yaml(folder / "cohort.yaml") if (folder / "cohort.yaml").is_file() else {}
    splits = _json(folder / "splits.json", notes)
    results = {path.stem: Results.load(path) for path in sorted((folder / "results").glob("*.json"))}
    files = _cells(folder / "cohort.csv")
    columns = [str(item.get("name")) for item in meta.get("modalities") or [] if isinstance(item, Mapping)]
    columns = columns or [str(name) for name in section(config, "data").get("modalities") or []]
    return RunRecord(
        folder=folder,
        config=config,
        splits={str(name): [str(case) for case in ids] for name, ids in splits.items() if isinstance(ids, list)},
        environment=_json(folder / "environment.json", notes),
        events=_events(folder / "metrics.jsonl", notes),
        results=results,
        present={case: [name for name in columns if cells.get(name, "")] for case, cells in files.items()},
        files=files,
        cohort_meta=meta,
        notes=notes,
    )


def _text(path: Path) -> str:
    if path.stat().st_size > _MOST_BYTES:
        do = "Check that the folder is a run"
        raise RunError(message("run file", f"be smaller than {_MOST_BYTES} bytes", path.stat().st_size, file=str(path), do=do))
    return path.read_text(encoding="utf-8-sig", errors="replace")


def _yaml(path: Path) -> Mapping[str, Any]:
    import yaml

    try:
        values = yaml.safe_load(_text(path))
    except (OSError, yaml.YAMLError, RecursionError, ValueError) as error:
        raise RunError(
            message("run file", "be readable plain YAML", type(error).__name__, file=str(path), do="Copy the run again")
        ) from None
    if not isinstance(values, Mapping):
        raise RunError(
            message("run file", "hold keys and values", type(values).__name__, file=str(path), do="Copy the run again")
        )
    return values


def _json(path: Path, notes: list[str]) -> Mapping[str, Any]:
    if not path.is_file():
        return {}
    try:
        values = json.loads(_text(path))
    except (ValueError, RecursionError):
        notes.append(f"{path.name} is damaged and was left out.")
        return {}
    return values if isinstance(values, Mapping) else {}


def _events(path: Path, notes: list[str]) -> list[Mapping[str, Any]]:
    if not path.is_file():
        return []
    lines = _text(path).splitlines()
    found: dict[tuple[object, ...], Mapping[str, Any]] = {}
    bad = 0
    for i, line in enumerate(lines):
        try:
            event = json.loads(line) if line.strip() else None
        except (ValueError, RecursionError):
            bad += i + 1 < len(lines)  # the last line may have been cut by a kill, which is no damage
            continue
        if isinstance(event, Mapping):
            timed = event.get("event") in ("step", "validation")
            key = (event.get("event"), event.get("stage"), event.get("step")) if timed else ("line", i)
            found[tuple(map(str, key))] = event
    if bad:
        what = "1 line" if bad == 1 else f"{bad} lines"
        notes.append(
            f"{what} of {path.name} {'is' if bad == 1 else 'are'} damaged and {'was' if bad == 1 else 'were'} left out."
        )
    return list(found.values())


def _cells(path: Path) -> dict[str, dict[str, str]]:
    """{case id: its cells}; the id is subject, or subject_session where there are sessions."""
    if not path.is_file():
        return {}
    rows = csv.DictReader(_text(path).splitlines())
    cells = [
        {key: (value or "").strip() for key, value in row.items() if isinstance(key, str) and not isinstance(value, list)}
        for row in rows
    ]
    return {"_".join(part for part in (row.get("subject", ""), row.get("session", "")) if part): row for row in cells}
