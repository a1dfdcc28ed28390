"""`join()`: cohorts of the same patients become one, radiology from here and pathology from there.

Nothing is copied: paths start from the folder that holds all roots. Cases belong together by their id; where that is not equal,
by their group, the patient, if each side has one case of it. What cannot be decided is an error that names the cases.
"""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from functools import reduce
from pathlib import Path
from typing import Literal

from comodal.data.cohort import Case, Cohort, cell_paths
from comodal.data.columns import CohortMeta, ModalitySpec, TargetSpec
from comodal.errors import ConfigError, DataError, message

On = Literal["auto", "subject", "group"]
Keep = Literal["both", "all"]
Pair = tuple[Case | None, Case | None]


def join(cohorts: Sequence[Cohort], *, on: On = "auto", keep: Keep = "both") -> Cohort:
    """One cohort with the modalities and targets of all.

    Args:
        cohorts: At least two. Columns come in their order; a segmentation must be in the first that has images, on whose voxels
            it lies. What two of them share by name must be one column: of the same meaning, and never filled twice.
        on: "subject": cases of equal id (subject and session) belong together; "group": those of one patient; "auto": equal
            ids first, then patients of whom each side has one case left.
        keep: "both": only cases that every cohort has; "all": also the others, with blank cells.

    Returns:
        The cohort. Ids, subjects and groups are those of the first that has the case. Images of a later cohort whose grid has
        a name that is taken get the name of their layout before it: they are not co-registered.

    Raises:
        DataError: Several cases of one patient on a side that also matches, no case in common, columns, splits or sites that
            contradict each other.
        ConfigError: Fewer than two cohorts.
    """
    if len(cohorts) < 2:
        raise ConfigError(message("join", "be given two cohorts or more", len(cohorts), do="Name another one"))
    real = [Path(os.path.realpath(cohort.root)) for cohort in cohorts]  # links followed: a cohort may not lead out of its root
    root = Path(os.path.commonpath(real))
    moved = [_under(root, own, cohort) for own, cohort in zip(real, cohorts, strict=True)]
    joined = reduce(lambda first, second: _joined(first, second, on=on, keep=keep), moved)
    notes = [] if root != Path(root.anchor) else [f"the cohorts have no folder in common but {root}"]
    meta = joined.meta.model_copy(update={"notes": [*dict.fromkeys(joined.meta.notes), *notes]})
    return replace(joined, meta=meta, path=None)


def _under(root: Path, own: Path, cohort: Cohort) -> Cohort:
    """The same cohort with paths that start from a folder above its root."""
    if cohort.meta.withheld:
        do = "Join the cohorts that `comodal index` wrote"
        raise ConfigError(message("join", "be given cohorts and no copy of a run", str(cohort.path), do=do))
    below = own.relative_to(root).as_posix()
    specs = {spec.name: spec for spec in cohort.meta.columns if cohort.holds_files(spec.name)}
    cases = []
    for case in cohort.cases:
        cells = dict(case.cells)
        if below != ".":
            for name in specs.keys() & cells.keys():
                cells[name] = ";".join(f"{below}/{path}" for path in cell_paths(specs[name], cells[name]))
        cases.append(replace(case, cells=cells))
    return Cohort.build(cohort.meta, cases, root)


def _joined(first: Cohort, second: Cohort, *, on: On, keep: Keep) -> Cohort:
    names = (first.meta.layout, second.meta.layout)
    pairs, by_group = _pairs(first, second, on=on)
    both = [(a, b) for a, b in pairs if a is not None and b is not None]
    if not both and keep == "both":
        rule, do = f"have a case of {names[0]}", "Look at subject and group in both tables, or use --keep all"
        raise DataError(message(f"cohort {names[1]}", rule, f"no id{' or group' * (on != 'subject')} in common", do=do))
    second = _regridded(first, second)
    shared = _shared(first, second, both)
    _check_segmentations(first, second)
    kept = [pair for pair in pairs if keep == "all" or None not in pair]
    cases = [_merged(a, b) for a, b in kept]
    modalities = [*first.meta.modalities, *(m for m in second.meta.modalities if m.name not in shared)]
    targets = [*first.meta.targets, *(t for t in second.meta.targets if t.name not in shared)]
    counts = [sum(b is None for _, b in pairs), sum(a is None for a, _ in pairs)]
    others = "with blank cells" if keep == "all" else "left out"
    note = f"joined {names[0]} and {names[1]}: {len(both)} cases in both ({by_group} by patient, others by id)"
    notes = [*first.meta.notes, *second.meta.notes]
    notes.append(f"{note}; {others}: {counts[0]} of {names[0]}, {counts[1]} of {names[1]}")
    meta = CohortMeta(
        layout="+".join(names), root=str(first.root), modalities=modalities, targets=targets, notes=notes
    )  # built anew, so that names are checked
    return Cohort.build(meta, cases, first.root)


def _pairs(first: Cohort, second: Cohort, *, on: On) -> tuple[list[Pair], int]:
    """Who belongs to whom, in the order of the first cohort, then those of the second alone; and how many by patient."""
    partner: dict[str, Case] = {}
    others = {case.id: case for case in second.cases}
    if on != "group":
        partner = {case.id: others[case.id] for case in first.cases if case.id in others}
    equal, taken = len(partner), {case.id for case in partner.values()}
    if on != "subject":
        mine = _by_group(case for case in first.cases if case.id not in partner)
        theirs = _by_group(case for case in second.cases if case.id not in taken)
        sizes = [_by_group(cohort.cases) for cohort in (first, second)]
        for group in (group for group in mine if group in theirs):
            for cohort, cases in zip((first, second), sizes, strict=True):
                if len(cases[group]) > 1:
                    ids = ", ".join(case.id for case in cases[group])
                    rule = f"have one case of patient {group}, to whom the other cohort's case belongs"
                    do = "Give the cases that belong together equal ids, or use --on subject"
                    raise DataError(message(f"cohort {cohort.meta.layout}", rule, ids, do=do))
            partner[mine[group][0].id] = theirs[group][0]
    taken = {case.id for case in partner.values()}
    pairs: list[Pair] = [(case, partner.get(case.id)) for case in first.cases]
    pairs += [(None, case) for case in second.cases if case.id not in taken]
    return pairs, len(partner) - equal


def _by_group(cases: Iterable[Case]) -> dict[str, list[Case]]:
    groups: defaultdict[str, list[Case]] = defaultdict(list)
    for case in cases:
        groups[case.group].append(case)
    return dict(groups)


def _regridded(first: Cohort, second: Cohort) -> Cohort:
    """The second cohort with its own names for grids that the first has: equal names would mean co-registered images."""
    taken = {m.grid for m in first.meta.modalities if _lies_somewhere(m)}
    known = {m.name: m for m in first.meta.modalities}
    # a column that both have lies on one grid in both
    taken -= {m.grid for m in second.meta.modalities if known.get(m.name) == m}
    changed = []
    for spec in second.meta.modalities:
        grid = spec.grid
        while _lies_somewhere(spec) and grid in taken:
            grid = f"{second.meta.layout}-{grid}"
        changed.append(spec.model_copy(update={"grid": grid}))
    return replace(second, meta=second.meta.model_copy(update={"modalities": changed}))


def _lies_somewhere(spec: ModalitySpec) -> bool:
    return spec.kind == "image" or (spec.kind == "bag" and spec.spatial_dims == 2)


def _shared(first: Cohort, second: Cohort, both: Sequence[tuple[Case, Case]]) -> set[str]:
    """Names of the columns that both have; refused where they are not one column."""
    specs: Mapping[str, ModalitySpec | TargetSpec] = {spec.name: spec for spec in first.meta.columns}
    shared = set()
    do = "Rename it in the csv and yaml of one of them, or remove it there"
    for spec in second.meta.columns:
        if spec.name not in specs:
            continue
        rule = f"be described alike in {first.meta.layout} and {second.meta.layout} where both have it"
        if specs[spec.name] != spec:
            raise DataError(message("column", rule, "two descriptions", modality=spec.name, do=do))
        shared.add(spec.name)
        for a, b in both:
            mine, theirs = a.cells.get(spec.name), b.cells.get(spec.name)
            if mine and theirs and (mine != theirs or isinstance(spec, ModalitySpec)):
                rule = "be filled once for each case, or hold equal answers"
                got = f"{mine!r} and {theirs!r}"
                raise DataError(message("column", rule, got, subject=a.id, modality=spec.name, do=do))
    return shared


def _check_segmentations(first: Cohort, second: Cohort) -> None:
    """A segmentation lies on the voxels of the first image of its cohort, which must stay the first."""
    images = [m for m in first.meta.modalities if m.kind == "image"]
    known = {spec.name for spec in first.meta.columns}
    for target in second.meta.targets:
        if target.is_segmentation and images and target.name not in known:
            rule = f"lie on the first image of the joined cohort, which is {images[0].name}"
            do = f"Name {second.meta.layout} before {first.meta.layout}, or remove {target.name} from its csv and yaml"
            raise DataError(message("segmentation", rule, f"one of {second.meta.layout}", modality=target.name, do=do))


def _merged(first: Case | None, second: Case | None) -> Case:
    """One case of two; ids are those of the first."""
    if first is None or second is None:
        case = first or second
        assert case is not None
        return case
    found = {}
    for name in ("site", "split"):
        mine, theirs = getattr(first, name), getattr(second, name)
        if mine and theirs and mine != theirs:
            do = f"Blank the column {name} of one of the tables"
            raise DataError(message(f"column {name}", "agree in both cohorts", f"{mine} and {theirs}", subject=first.id, do=do))
        found[name] = mine or theirs
    groups = {case.group for case in (first, second) if case.group != case.subject} or {first.group}
    if len(groups) > 1:
        do, got = "Correct the column group of one of the tables", " and ".join(sorted(groups))
        raise DataError(message("column group", "agree in both cohorts", got, subject=first.id, do=do))
    return replace(first, group=groups.pop(), cells={**first.cells, **second.cells}, **found)
