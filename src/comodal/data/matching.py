"""Another cohort as a run sees it: the files are the other's; order, units, channels, grids and classes are the run's own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from comodal.data.cohort import Cohort
from comodal.data.columns import CohortMeta, ModalitySpec, TargetSpec, label_indices
from comodal.errors import DataError, message, nearest


def matched(
    cohort: Cohort,
    meta: CohortMeta,
    *,
    modalities: Sequence[str],
    targets: Sequence[str] = (),
    regions: Sequence[str] | None = None,
) -> Cohort:
    """The cases of a cohort under the columns of the run that was trained on another one.

    From the other cohort come the files, where in a file a modality is found (`files`, `channel`) and which label values make
    up each class, by the name of the class. All else is the run's: a yaml that was guessed from other files may neither change
    how an image is normalised nor the number of a class.

    Args:
        cohort: The other one. It may lack columns, and have more.
        meta: Of the run's own cohort.
        modalities: Those of the run's problem; at least one must be there.
        targets: Those of the run that are to be read.
        regions: Those of the run's problem, None for all of the targets. The other cohort may lack the rest.

    Returns:
        A cohort with the columns of `meta`; only these modalities and targets have filled cells.

    Raises:
        DataError: No modality of the run, a column of another kind, or classes that are not those of the run.
    """
    known = {spec.name: spec for spec in cohort.meta.columns}
    shared = [name for name in modalities if name in known]
    if not shared:
        have = [spec.name for spec in cohort.meta.modalities]
        rule, do = f"have one of the run's modalities ({', '.join(modalities)})", "Rename its columns as the run calls them"
        raise DataError(message("cohort", rule, ", ".join(have), file=_where(cohort), do=do))
    images = [_modality(s, known[s.name], cohort) if s.name in shared else s for s in meta.modalities]
    wanted = [name for name in targets if name in known]
    answers = [_target(s, known[s.name], cohort, regions=regions) if s.name in wanted else s for s in meta.targets]
    columns = {*shared, *wanted}
    cases = [replace(case, cells={n: cell for n, cell in case.cells.items() if n in columns}) for case in cohort.cases]
    own = {"layout": cohort.meta.layout, "root": str(cohort.root), "notes": cohort.meta.notes, "withheld": {}}
    seen = meta.model_copy(update={**own, "modalities": images, "targets": answers})
    return Cohort(seen, tuple(cases), cohort.root, cohort.path)


def _where(cohort: Cohort) -> str | None:
    return None if cohort.path is None else str(cohort.path)


def _check_kind(own: ModalitySpec | TargetSpec, other: ModalitySpec | TargetSpec, cohort: Cohort) -> None:
    if type(own) is not type(other) or own.kind != other.kind:
        rule, got = f"be of the kind {own.kind!r}, as in the run's own cohort", repr(other.kind)
        do = "Correct its yaml, or rename the column if it is something else"
        raise DataError(message("column", rule, got, modality=own.name, file=_where(cohort), do=do))


def _modality(own: ModalitySpec, other: ModalitySpec | TargetSpec, cohort: Cohort) -> ModalitySpec:
    _check_kind(own, other, cohort)
    where = {"files": other.files, "channel": other.channel, "inline": getattr(other, "inline", False)}
    return own.model_copy(update=where)


def _without(own: TargetSpec, other: TargetSpec, regions: Sequence[str] | None) -> TargetSpec:
    """The run's target without the regions that the run does not predict and the other cohort does not list."""
    if regions is None or own.kind != "regions":
        return own
    kept = [k for k, name in enumerate(own.classes) if name in regions or name in other.classes]
    lists = {key: values for key in ("classes", "codes", "paint") if (values := getattr(own, key))}
    return own.model_copy(update={key: [values[k] for k in kept] for key, values in lists.items()})


def _target(own: TargetSpec, other: ModalitySpec | TargetSpec, cohort: Cohort, *, regions: Sequence[str] | None) -> TargetSpec:
    _check_kind(own, other, cohort)
    assert isinstance(other, TargetSpec)
    own = _without(own, other, regions)
    if not own.is_segmentation:
        _check_cells(own, other, cohort)
        return own
    codes = dict(zip(other.classes, other.codes, strict=True))
    for name in own.classes:
        if name not in codes:
            do = f"Name them in its yaml as the run does. {nearest(name, codes)}"
            rule = f"have the classes of the run ({', '.join(own.classes)})"
            raise DataError(message("target", rule, f"no {name}", modality=own.name, file=_where(cohort), do=do))
    counted = {code for name in own.classes for code in codes[name]} | ({0} if own.kind == "regions" else set())
    for name, group in codes.items():
        if name not in own.classes and (own.kind == "labels" or not set(group) <= counted):
            do = "Add its codes to a class that the run knows, or give masks without it"
            rule = f"have no class beside those of the run ({', '.join(own.classes)})"
            raise DataError(message("target", rule, f"also {name}", modality=own.name, file=_where(cohort), do=do))
    found = [codes[name] for name in own.classes]
    return own.model_copy(update={"codes": found, "other": other.other, "files": other.files, "channel": other.channel})


def _check_cells(own: TargetSpec, other: TargetSpec, cohort: Cohort) -> None:
    """Classes are numbered in the run's order; one that it never learned has no number."""
    for case in cohort.cases:
        cell = case.cells.get(own.name)
        for index in () if cell is None else label_indices(other, cell, subject=case.id):
            name = other.classes[index]
            if name not in own.classes:
                rule, do = "name classes that the run knows", nearest(name, own.classes)
                raise DataError(message("target", rule, repr(name), subject=case.id, modality=own.name, do=do))
