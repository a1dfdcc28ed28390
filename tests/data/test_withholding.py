"""What a training does without: exact in number, the same for all cases of a patient, and nobody is left with nothing."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import pytest

from comodal.data.cohort import Case, Cohort, CohortMeta, ModalitySpec, TargetSpec
from comodal.data.splits import SplitConfig, make_splits
from comodal.data.withholding import divided, withhold
from comodal.errors import ConfigError

NAMES = ("flair", "t1", "t2")


def cohort(rows: Mapping[str, Iterable[str]], groups: Mapping[str, str] | None = None, names: Sequence[str] = NAMES) -> Cohort:
    """{case: the modalities that it has}."""
    cases = [
        Case.build(name, cells={m: f"{name}/{m}.nii" for m in have}, group=(groups or {}).get(name, ""))
        for name, have in rows.items()
    ]
    meta = CohortMeta(layout="csv", root=".", modalities=[ModalitySpec(name=name) for name in names])
    return Cohort.build(meta, cases, Path())


def whole(number: int) -> Cohort:
    return cohort({f"p{k}": NAMES for k in range(number)})


def lost(before: Cohort, after: Cohort) -> dict[str, set[str]]:
    """{modality: cases that do not have it any more}; nothing else may have changed."""
    found: dict[str, set[str]] = {}
    for one, two in zip(before.cases, after.cases, strict=True):
        assert (one.id, one.group, one.split) == (two.id, two.group, two.split)
        assert two.cells.items() <= one.cells.items()
        for name in one.cells.keys() - two.cells.keys():
            found.setdefault(name, set()).add(one.id)
    return found


@pytest.mark.parametrize(("rate", "expected"), [(0.0, 0), (0.02, 0), (0.35, 7), (0.5, 10), (0.99, 19)])
def test_the_number_is_exact(rate: float, expected: int) -> None:
    before = whole(20)
    gone = lost(before, withhold(before, {"t1": rate}, ids=before.ids, seed=0))
    assert {name: len(cases) for name, cases in gone.items()} == ({"t1": expected} if expected else {})


@pytest.mark.parametrize(("patients", "rate"), [(3, 0.9), (2, 0.75), (1, 0.5), (1, 0.99)])
def test_rounding_takes_a_modality_from_nobody_s_last(patients: int, rate: float) -> None:
    before = whole(patients)
    after = withhold(before, {"t1": rate, "t2": 0.0}, ids=before.ids, seed=0)
    assert [sum(name in case.cells for case in after.cases) for name in NAMES] == [patients, 1, patients]
    none = cohort({"p0": ("flair",)})  # and where nobody has it
    assert lost(none, withhold(none, {"t1": rate}, ids=none.ids, seed=0)) == {}


def test_the_share_is_of_those_that_have_it() -> None:
    before = cohort({f"p{k}": NAMES if k < 10 else ("flair", "t2") for k in range(30)})
    after = withhold(before, {"t1": 0.3}, ids=before.ids, seed=0)
    assert len(lost(before, after)["t1"]) == 3
    assert after.meta.notes == ["t1 was withheld from 3 of the 10 training patients that have it (0.3 of them, asked for 0.3)"]


def test_only_training_cases_lose_anything() -> None:
    before, splits = whole(40), SplitConfig(seed=4)
    after, parts = divided(before, splits, {"t1": 0.5, "t2": 0.25})
    assert parts == make_splits(before, splits) == make_splits(after, splits)
    gone = lost(before, after)
    assert {name: len(cases) for name, cases in gone.items()} == {"t1": 14, "t2": 7}
    assert all(cases <= set(parts["train"]) for cases in gone.values())


def test_the_draw_follows_from_seed_modality_and_patient_alone() -> None:
    before = whole(30)

    def drawn(rates: Mapping[str, float], seed: int = 0, of: Cohort = before) -> dict[str, set[str]]:
        return lost(of, withhold(of, rates, ids=of.ids, seed=seed))

    alone = drawn({"t1": 0.4})
    assert alone == drawn({"t1": 0.4})
    assert alone["t1"] == drawn({"flair": 0.2, "t1": 0.4})["t1"] == drawn({"t1": 0.4, "flair": 0.2})["t1"]
    assert alone["t1"] != drawn({"t1": 0.4}, seed=1)["t1"]
    assert drawn({"t2": 0.4})["t2"] != alone["t1"]  # modalities are not missing together
    assert alone["t1"] < drawn({"t1": 0.6})["t1"]  # a higher rate takes more, and the same
    turned = Cohort(before.meta, before.cases[::-1], before.root)
    assert alone == drawn({"t1": 0.4}, of=turned)
    fewer = before.select(case for case in before.ids if case not in alone["t1"] or case == min(alone["t1"]))
    assert min(alone["t1"]) in drawn({"t1": 0.4}, of=fewer)["t1"]  # who is drawn first stays first where others are gone


def test_every_patient_can_be_drawn() -> None:
    before = whole(10)
    often = Counter(
        k for seed in range(200) for k in lost(before, withhold(before, {"t1": 0.3}, ids=before.ids, seed=seed))["t1"]
    )
    assert len(often) == 10 and all(35 <= count <= 85 for count in often.values())  # 60 each, within four deviations


def test_all_cases_of_a_patient_lose_the_same() -> None:
    rows = {f"p{k}s{s}": NAMES if s else ("flair", "t1") for k in range(12) for s in range(2)}
    before = cohort(rows, {name: name[:-2] for name in rows})
    gone = lost(before, withhold(before, {"t1": 0.5, "t2": 0.25}, ids=before.ids, seed=0))
    assert len(gone["t1"]) == 12 and {name[:-2] + other for name in gone["t1"] for other in ("s0", "s1")} == gone["t1"]
    assert len(gone["t2"]) == 3 and all(name.endswith("s1") for name in gone["t2"])  # round(0.25 * 12) patients


def test_no_case_loses_its_last_modality() -> None:
    before = cohort({f"p{k}": ("t1",) if k < 6 else NAMES for k in range(10)})
    after = withhold(before, {"t1": 0.8}, ids=before.ids, seed=0)
    assert lost(before, after)["t1"] == {"p6", "p7", "p8", "p9"}
    assert after.meta.notes == ["t1 was withheld from 4 of the 10 training patients that have it (0.4 of them, asked for 0.8)"]
    pairs = cohort({f"p{k}": ("flair", "t1") for k in range(10)})
    gone = lost(pairs, withhold(pairs, {"t1": 0.6, "flair": 0.6}, ids=pairs.ids, seed=0))
    assert len(gone["flair"]) == 6 and gone["t1"] == set(pairs.ids) - gone["flair"]  # in the cohort's order


def test_a_patient_is_passed_over_where_one_of_its_cases_would_be_left_with_nothing() -> None:
    before = cohort({"as1": ("t1",), "as2": NAMES, "b": NAMES}, {"as1": "a", "as2": "a"})
    for seed in range(5):
        assert lost(before, withhold(before, {"t1": 0.5}, ids=before.ids, seed=seed)) == {"t1": {"b"}}


def test_the_yaml_says_what_was_withheld(tmp_path: Path) -> None:
    before = whole(8)
    after = withhold(before, {"t1": 0.25}, ids=before.ids, seed=0)
    (name, cells), gone = *after.meta.withheld.items(), lost(before, after)["t1"]
    assert name == "t1" and cells == {case: f"{case}/t1.nii" for case in gone}
    assert Cohort.load(after.save(tmp_path / "cohort.csv")).meta.withheld == after.meta.withheld
    assert "withheld" not in before.save(tmp_path / "other.csv").with_suffix(".yaml").read_text()
    again = withhold(after, {"t1": 0.5, "t2": 0.5}, ids=after.ids, seed=0)  # of those that are left
    assert again.meta.withheld["t1"].keys() == lost(before, again)["t1"] and len(again.meta.withheld["t1"]) == 2 + 3
    assert len(again.meta.withheld["t2"]) == 4


def test_a_name_that_is_no_column_is_refused() -> None:
    before = whole(4)
    with pytest.raises(ConfigError) as caught:
        withhold(before, {"flar": 0.5}, ids=before.ids, seed=0)
    assert str(caught.value) == (
        "data.withhold must name modalities or targets of the cohort; got 'flar'. Did you mean flair? Known: flair, t1, t2."
    )


def labelled(number: int) -> Cohort:
    """Patients with a modality and a target; every other one has a second target, too."""
    targets = [TargetSpec(name=name, kind="class", classes=["no", "yes"]) for name in ("grade", "sign")]
    rows = [Case.build(f"p{k}", cells={"t1": "x.nii", "grade": "yes", "sign": "no" if k % 2 else ""}) for k in range(number)]
    meta = CohortMeta(layout="csv", root=".", modalities=[ModalitySpec(name="t1")], targets=targets)
    return Cohort.build(meta, rows, Path())


def test_labels_are_withheld_as_modalities_are() -> None:
    before = labelled(40)
    after = withhold(before, {"grade": 0.9, "sign": 0.5}, ids=before.ids, seed=0)
    gone = lost(before, after)
    assert {name: len(cases) for name, cases in gone.items()} == {"grade": 36, "sign": 10}
    assert gone["grade"] == lost(before, withhold(before, {"grade": 0.9}, ids=before.ids, seed=0))["grade"]
    assert gone["grade"] > lost(before, withhold(before, {"grade": 0.5}, ids=before.ids, seed=0))["grade"]
    assert gone["grade"] & gone["sign"]  # a case may lose its last label
    said = "training patients that have it"
    assert after.meta.notes == [
        f"grade was withheld from 36 of the 40 {said} (0.9 of them, asked for 0.9); 4 cases with a label left",
        f"sign was withheld from 10 of the 20 {said} (0.5 of them, asked for 0.5); 10 cases with a label left",
    ]
    assert after.meta.withheld["grade"] == dict.fromkeys(gone["grade"], "yes")


def test_labels_of_validation_and_test_stay() -> None:
    before = labelled(40)
    after, parts = divided(before, SplitConfig(seed=4), {"grade": 0.75})
    gone = lost(before, after)["grade"]
    assert gone <= set(parts["train"]) and len(gone) == round(0.75 * len(parts["train"]))


def test_the_last_label_of_all_stays() -> None:
    before = labelled(2)
    assert len(lost(before, withhold(before, {"grade": 0.99}, ids=before.ids, seed=0))["grade"]) == 1
