"""Whether a run that lies in a study's folder is the one that the study would make now.

A study goes on where it was stopped. If its settings or its cohort were changed meanwhile, the runs of before and after would
stand in one table as if they were comparable.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from comodal.config import RunConfig
from comodal.data.cohort import Cohort
from comodal.data.withholding import divided
from comodal.errors import ConfigError, message, short
from comodal.run import Run

MOST = 3  # differences in one message


def check_existing(folder: Path, config: RunConfig, cohort: Cohort) -> None:
    """Compares a run, trained to its end or not, with what would be made now.

    Args:
        folder: Of the run; nothing is said where there is none.
        config: Of the run to be made.
        cohort: As it is now.

    Raises:
        ConfigError: Settings, cohort or splits differ; the message names the folder and what differs.
    """
    if not (folder / "config.yaml").is_file():
        return
    run = Run.load(folder)
    now, splits = divided(cohort, config.splits, config.data.withhold)  # what the run would keep as its own
    found = [*_settings(run.config, config), *_columns(run.cohort, now), *_cases(run.cohort, now)]
    if not found and {name: sorted(ids) for name, ids in run.splits.items()} != splits:
        found = ["the splits"]
    if found:
        got = "; ".join(found[:MOST]) + (f"; and {len(found) - MOST} more" if len(found) > MOST else "")
        do = "Choose another --out or delete the folder"
        raise ConfigError(message("A run of the study", "be as the study would make it now", got, file=str(folder), do=do))


def _settings(before: RunConfig, now: RunConfig) -> Iterator[str]:
    """Keys whose values differ. Where files lie does not count: a study may be moved."""
    one, two = _flat(before.model_dump(mode="json")), _flat(now.model_dump(mode="json"))
    for key in dict.fromkeys([*one, *two]):
        if key not in ("cohort", "data.cache", "data.cache_form") and one.get(key) != two.get(key):
            yield f"{key} was {short(one.get(key), 40)} and is {short(two.get(key), 40)}"


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in values.items():
        found |= _flat(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}": value}
    return found


def _columns(before: Cohort, now: Cohort) -> Iterator[str]:
    one, two = (cohort.meta.model_dump(exclude={"root", "notes"}) for cohort in (before, now))
    for key in one:
        if one[key] != two[key]:
            yield f"{key} in the cohort's yaml"


def _cases(before: Cohort, now: Cohort) -> Iterator[str]:
    one, two = ({case.id: case for case in cohort.cases} for cohort in (before, now))
    gone, new = one.keys() - two.keys(), two.keys() - one.keys()
    for what, names in (("not in the cohort any more", gone), ("new in the cohort", new)):
        if names:
            yield f"{', '.join(sorted(names)[:MOST])}{' and others' if len(names) > MOST else ''}: {what}"
    changed = [name for name in one if name in two and one[name] != two[name]]
    if changed:
        yield f"the cohort's row of {', '.join(changed[:MOST])}{' and others' if len(changed) > MOST else ''}"
