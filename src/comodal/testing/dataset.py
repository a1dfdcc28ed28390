"""`check_dataset()`: what every layout promises, asserted on a folder of that layout."""

from __future__ import annotations

import tempfile
from pathlib import Path

from comodal.data import DATASETS, index
from comodal.data.bags import look_through
from comodal.data.cohort import Case, Cohort, ModalitySpec
from comodal.data.reading import read_features, read_header, read_text, read_volume
from comodal.errors import ConfigError, message, nearest


def check_dataset(layout: str, root: Path) -> Cohort:
    """Indexes a folder and checks the cohort that comes out; small folders only, since every file is read.

    Args:
        layout: A key of `comodal.data.DATASETS`.
        root: A folder (for "csv": a table) of this layout.

    Returns:
        The cohort, for checks of one's own.

    Raises:
        AssertionError: Ids are not unique; a header disagrees with its pixels; presence is not what the cells say; two scans
            differ; or saving and loading changes the cohort.
        DataError: A listed file cannot be read, or lies outside the root.
        ConfigError: No such layout.
    """
    if layout not in DATASETS:
        raise ConfigError(message("layout", "be a known layout", repr(layout), do=nearest(layout, DATASETS)))
    cohort = index(layout, root)
    _hold(index(layout, root) == cohort, "indexing twice gives equal cohorts")
    _hold(len(cohort) > 0, "there is at least one case")
    _hold(cohort.meta.layout == layout, f"meta.layout is {layout!r}; got {cohort.meta.layout!r}")
    _hold(len(set(cohort.ids)) == len(cohort), "ids are unique")
    _check_presence(cohort)
    _check_round_trip(cohort)
    for case in cohort.cases:
        _check_case(cohort, case)
    return cohort


def _hold(condition: bool, promise: str) -> None:
    if not condition:
        raise AssertionError(f"A layout must keep this promise: {promise}.")


def _check_presence(cohort: Cohort) -> None:
    presence = cohort.presence()
    for case in cohort.cases:
        for name in presence.columns:
            expected = bool(case.cells.get(name))
            _hold(bool(presence.loc[case.id, name]) == expected, f"presence follows the cells [{case.id}, {name}]")
    for name in presence.columns:
        _hold(bool(presence[name].any()), f"a modality that no case has is left out [{name}]")


def _check_round_trip(cohort: Cohort) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = cohort.save(Path(folder, "cohort.csv"))
        _hold(Cohort.load(path) == cohort, "a saved cohort loads back equal")


def _check_case(cohort: Cohort, case: Case) -> None:
    _hold(any(name in case.cells for name in cohort.presence().columns), f"a case has at least one modality [{case.id}]")
    for column in case.cells:
        if not cohort.holds_files(column):
            continue
        spec = cohort.spec(column)
        kind = spec.kind if isinstance(spec, ModalitySpec) else "image"
        if kind == "bag":
            look_through(cohort, case, column)
            continue
        path = cohort.file(case, column)
        if kind == "text":
            read_text(path, subject=case.id, modality=column)
        elif kind == "features":
            read_features(path, subject=case.id, modality=column)
        elif kind == "image":
            header = read_header(path, files=spec.files, channel=spec.channel, subject=case.id, modality=column)
            volume = read_volume(path, files=spec.files, channel=spec.channel, subject=case.id, modality=column)
            _hold(volume.array.shape == (header.channels, *header.shape), f"header and pixels agree [{case.id}, {column}]")
