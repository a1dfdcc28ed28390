"""`check_cohort` on the data sets of `f1`: each defect has its remark at its level, and a clean data set has none."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from tests.data.f1 import DATA_SETS, LATER, Defective, file_of, write

from comodal.data.cohort import Cohort
from comodal.data.integrity import check_cohort
from comodal.data.reading import read_volume
from comodal.errors import DataError


def test_there_are_nineteen() -> None:
    assert len({defective.name for defective in DATA_SETS}) == 19


@pytest.mark.parametrize("cases", [6, 8])
def test_a_clean_data_set_has_no_remark(tmp_path: Path, cases: int) -> None:
    report = check_cohort(Cohort.load(write(tmp_path, cases)))
    assert report.defects == ()
    assert report.region_counts == {"seg": {"oedema": {"unsplit": cases}, "core": {"unsplit": cases}}}


@pytest.mark.parametrize("defective", [*DATA_SETS, *LATER], ids=lambda defective: defective.name)
def test_the_defect_is_found_in_its_case_and_nothing_else(tmp_path: Path, defective: Defective) -> None:
    cohort = write(tmp_path)
    defective.break_it(tmp_path)
    report = check_cohort(Cohort.load(cohort))
    due = [
        d for d in report.defects if (d.level, d.subject, d.modality) == (defective.level, defective.subject, defective.column)
    ]
    assert any(re.search(defective.text, defect.rule) for defect in due), report.defects
    # A duplicated case has two modalities, each of which is said; a file that cannot be read leaves nothing else to say.
    others = [defect for defect in report.defects if defect not in due]
    assert {defect.subject for defect in others} <= {defective.subject}
    assert report.ok == (defective.level != "error")


@pytest.mark.parametrize("defective", LATER, ids=lambda defective: defective.name)
def test_a_cut_file_gives_no_array(tmp_path: Path, defective: Defective) -> None:
    write(tmp_path)
    defective.break_it(tmp_path)
    with pytest.raises(DataError, match="complete gzip file"):
        read_volume(file_of(tmp_path, int(defective.subject[1:]), defective.column))


def test_all_of_the_damage_at_once_is_found_in_one_run(tmp_path: Path) -> None:
    cohort = write(tmp_path)
    for defective in LATER:
        defective.break_it(tmp_path)
    found = [(defect.subject, defect.modality) for defect in check_cohort(Cohort.load(cohort)).defects]
    assert found == [("p2", "t1"), ("p4", "t2"), ("p5", "seg")]
