"""List F4: each bad input has the outcome that is stated for it, and `docs/data.md` says what came of running them."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import pytest
from tests.data.f4 import F4, on_page, run, table
from tests.data.f4_scene import Entry, Outcome, checked, cohort_in

from comodal.data.reading import read_volume
from comodal.errors import DataError

DAMAGED = [entry for entry in F4 if entry.damaged is not None]


@cache
def outcome(number: int) -> Outcome:
    """Each entry is run once for both tests."""
    return run(F4[number])


def test_the_scene_itself_has_no_defect(tmp_path: Path) -> None:
    assert checked(cohort_in(tmp_path)) == Outcome("H", "read without a remark")


def test_ids_are_used_once() -> None:
    assert len({entry.id for entry in F4}) == len(F4)


@pytest.mark.parametrize("number", range(len(F4)), ids=lambda number: F4[number].id)
def test_outcome(number: int) -> None:
    assert outcome(number).level == F4[number].expected, outcome(number).text


@pytest.mark.parametrize("entry", DAMAGED, ids=lambda entry: entry.id)
def test_a_damaged_file_never_yields_an_array(tmp_path: Path, entry: Entry) -> None:
    assert entry.damaged is not None
    with pytest.raises(DataError):
        read_volume(entry.damaged(tmp_path))


def test_the_page_holds_what_came_of_running_them() -> None:
    """`python -m tests.data.f4` writes it."""
    assert on_page() == table({entry.id: outcome(number) for number, entry in enumerate(F4)})
