"""The PET/CT phantom: files of both releases, hidden causes against pictures, and the ceilings against a slow form."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any, Literal

import nibabel as nib
import numpy as np
import pytest
from scipy.stats import norm

from comodal.data.cohort import Cohort
from comodal.data.folders import synthetic_note
from comodal.data.integrity import check_cohort
from comodal.data.phantoms import PHANTOMS, ceilings_of, layout_of
from comodal.data.phantoms.fields import points
from comodal.data.phantoms.petct import PetctPhantom, axes_of, make_case, write_petct
from comodal.data.phantoms.petct_anatomy import distance, take
from comodal.data.phantoms.petct_ceilings import Observer, ceilings, unseen_volumes
from comodal.data.phantoms.petct_scene import (
    COUNTS,
    DENSITY,
    KINDS,
    LESIONS,
    LOG_UPTAKE,
    PLACES,
    PRIORS,
    SHOWN,
    Candidate,
    Kind,
    Scene,
    draw_scene,
)
from comodal.data.reading import read_volume
from comodal.errors import ConfigError, DataError
from comodal.evaluation.metrics import dsc
from comodal.study.cohorts import write_phantom
from comodal.testing.dataset import check_dataset

Release = Literal["autopet", "hecktor"]
RELEASES: tuple[Release, ...] = ("autopet", "hecktor")


def content(root: Path) -> dict[str, bytes]:
    return {p.relative_to(root).as_posix(): p.read_bytes() for p in sorted(root.rglob("*")) if p.is_file()}


def load(path: Path) -> Any:
    return np.asarray(nib.load(path).dataobj)  # type: ignore[attr-defined]


def scenes(release: Release, count: int, seed: int = 0) -> Iterator[Scene]:
    rng = np.random.default_rng(seed)
    for _ in range(count):
        yield draw_scene(rng, release, negatives=PetctPhantom(release=release).negative_rate)


# Files


@pytest.mark.parametrize("release", RELEASES)
def test_the_layout_of_the_real_data_reads_it(tmp_path: Path, release: Release) -> None:
    config = PetctPhantom(cases=4, size=40, seed=3, release=release)
    write_petct(tmp_path / "out", config)
    cohort = check_dataset(layout_of("petct", config), tmp_path / "out")
    assert sorted(cohort.ids) == sorted(config.case_id(k) for k in range(4))
    assert synthetic_note("petct") in cohort.meta.notes
    assert check_cohort(cohort).ok
    for k in range(4):
        case = cohort.case(config.case_id(k))
        for column, array, _ in make_case(config, k):
            volume = read_volume(cohort.file(case, column))
            assert case.cells[column] == config.file_name(k, column)
            np.testing.assert_array_equal(np.sort(volume.array, axis=None), np.sort(array, axis=None))
            where = axes_of(config, column)[0]
            for axis in range(3):  # read in RAS order, each voxel lies where it was painted
                ends = (
                    volume.header.affine[axis, 3],
                    volume.header.affine[axis, 3] + volume.header.affine[axis, axis] * (volume.header.shape[axis] - 1),
                )
                np.testing.assert_allclose(ends, (where[axis].min(), where[axis].max()), atol=1e-3)
    types = [str(array.dtype) for _, array, _ in make_case(config, 0)]
    assert types == ["uint8", "int16", "float32"]


def test_cases_depend_on_seed_and_number_only(tmp_path: Path) -> None:
    write_petct(tmp_path / "a", PetctPhantom(cases=2, size=40, seed=4))
    write_petct(tmp_path / "b", PetctPhantom(cases=3, size=40, seed=4, missing="random", rates={"ct": 0.5, "pet": 0.6}))
    one, two = content(tmp_path / "a"), content(tmp_path / "b")
    shared = {name for name in one if name.endswith(".nii.gz")} & set(two)
    assert 3 <= len(shared) < 6  # not all: some are missing in b
    assert all(one[name] == two[name] for name in shared)
    write_petct(tmp_path / "a", PetctPhantom(cases=2, size=40, seed=4))  # again, over itself
    assert content(tmp_path / "a") == one
    with pytest.raises(DataError, match="another phantom"):
        write_petct(tmp_path / "a", PetctPhantom(cases=2, size=40, seed=5))


def test_second_visits_and_centres() -> None:
    config = PetctPhantom(cases=20)
    patients = [config.file_name(k, "seg").split("/")[1] for k in range(20)]
    assert patients[8] == patients[7] and patients[17] == patients[16] and len(set(patients)) == 18
    assert len({config.case_id(k) for k in range(20)}) == 20
    heads = PetctPhantom(release="hecktor")
    assert [heads.case_id(k) for k in (0, 6, 7)] == ["CHUM-001", "MDA-001", "CHUM-002"]


def test_missing_files_never_all() -> None:
    config = PetctPhantom(missing="random", rates={"ct": 0.9, "pet": 0.2})
    kept = [config.present(k) for k in range(400)]
    assert all(kept)
    # a case that lost both keeps either with probability one half
    assert abs(np.mean(["ct" in names for names in kept]) - (0.1 + 0.9 * 0.2 / 2)) < 0.06
    assert abs(np.mean(["pet" in names for names in kept]) - (0.8 + 0.9 * 0.2 / 2)) < 0.06


@pytest.mark.parametrize(
    ("setting", "text"),
    [
        ({"size": 20}, r"petct: size must lie in 40..200; got 20"),
        ({"negatives": 1.5}, r"petct: negatives must lie in \[0, 1\]; got 1.5"),
        ({"rates": {"ct": 0.5}}, r"rates must be empty where missing is none"),
        ({"missing": "random", "rates": {"pt": 0.5}}, r"name modalities of the phantom; got 'pt'.*pet"),
        ({"missing": "random", "rates": {"ct": 1.0}}, r"rates\[ct\] must lie in \[0, 1\); got 1.0"),
    ],
)
def test_settings_out_of_range(setting: dict[str, Any], text: str) -> None:
    with pytest.raises(ConfigError, match=text):
        PetctPhantom(**setting)


# Hidden causes


@pytest.mark.parametrize("release", RELEASES)
def test_hidden_causes_agree_with_the_files(tmp_path: Path, release: Release) -> None:
    config = PetctPhantom(cases=6, size=56, seed=11, release=release, negatives=0.0)
    write_petct(tmp_path, config)
    rows = {row["case"]: row for row in csv.DictReader((tmp_path / "hidden_causes.csv").read_text().splitlines())}
    meanings = json.loads((tmp_path / "hidden_causes.json").read_text())
    assert set(meanings) == set(next(iter(rows.values()))) - {"case"}
    code = 2 if release == "hecktor" else 1
    seen: set[str] = set()
    for k in range(config.cases):
        row, arrays = rows[config.case_id(k)], {c: load(tmp_path / config.file_name(k, c)) for c in ("ct", "pet", "seg")}
        voxel = abs(float(np.linalg.det(axes_of(config, "seg")[1][:3, :3]))) / 1000
        assert float((arrays["seg"] == code).sum()) * voxel == pytest.approx(float(row["lesion_ml"]), rel=0.15, abs=3 * voxel)
        for number in range(1, int(row["candidates"]) + 1):
            kind = row[f"c{number}_kind"]
            seen.add(kind)
            at = [float(row[f"c{number}_{axis}"]) for axis in "xyz"]
            value = {c: float(arrays[c][_voxel(config, c, at)]) for c in ("ct", "pet", "seg")}
            assert (value["seg"] == code) == (kind in LESIONS)
            assert (row[f"c{number}_density"] != "") == (kind in SHOWN["ct"])
            assert (row[f"c{number}_uptake"] != "") == (kind in SHOWN["pet"])
            expected = float(row[f"c{number}_density"] or -95)
            assert abs(value["ct"] - expected) < 80  # noise of one voxel
            if kind in SHOWN["pet"]:
                assert value["pet"] > 1.2
            else:
                assert value["pet"] < 1.2  # noise over fat
    assert seen == set(KINDS)


def _voxel(config: PetctPhantom, column: str, at: list[float]) -> tuple[int, ...]:
    axes = axes_of(config, column)[0]
    return tuple(int(np.abs(axis - value).argmin()) for axis, value in zip(axes, at, strict=True))


@pytest.mark.parametrize("release", RELEASES)
def test_candidates_never_touch_and_lie_inside(release: Release) -> None:
    config = PetctPhantom(release=release, size=48)
    axes = axes_of(config, "seg")[0]
    for scene in scenes(release, 60, seed=2):
        everything = (*scene.candidates, *([scene.primary] if scene.primary else []))
        inside = [distance(candidate, points(axes)) >= 0 for candidate in everything]
        assert all(mask.any() for mask in inside)
        assert np.sum(inside, axis=0).max() == 1
        for candidate in everything:
            for axis, middle, semi in zip(axes, candidate.centre, candidate.semi, strict=True):
                assert axis.min() < middle - semi and middle + semi < axis.max()


def test_what_a_modality_does_not_show_leaves_no_trace() -> None:
    config = PetctPhantom(size=40, negatives=0.0, seed=1)
    k = next(k for k in range(50) if {"necrotic", "brown-fat"} <= {c.kind for c in config.scene(k).candidates})

    scene = config.scene(k)
    for modality, hidden in (("pet", {"necrotic", "benign"}), ("ct", {"brown-fat"})):
        without = replace(scene, candidates=tuple(c for c in scene.candidates if c.kind not in hidden))
        axes = axes_of(config, modality)[0]
        one, two = (take(s, "autopet", axes, modality=modality, rng=np.random.default_rng(0)) for s in (scene, without))
        assert len(without.candidates) < len(scene.candidates)
        np.testing.assert_array_equal(one, two)


# Ceilings


@pytest.mark.parametrize("release", RELEASES)
def test_ceilings_rise_with_the_modalities(release: Release) -> None:
    found = {c.present: c for c in ceilings(PetctPhantom(release=release), draws=400)}
    assert list(found) == [("ct",), ("pet",), ("ct", "pet")]
    ct, pet, both = found.values()
    assert max(ct.value, pet.value) < 0.87 and both.value > 0.97
    assert {c.metric for c in found.values()} == {"DSC/GTVn" if release == "hecktor" else "DSC/lesion"}
    for c in found.values():
        assert c.kind == "upper bound" and c.n == 400 and c.ci95 is not None and c.ci95[0] <= c.value <= c.ci95[1]
    # above what needs no image: nothing is ever marked
    assert min(ct.value, pet.value) > np.mean([scene.lesion_ml == 0 for scene in scenes(release, 400)]) + 0.05


def explanations(observer: Observer, seen: list[Candidate], negatives: float) -> Iterator[tuple[float, tuple[bool, ...], int]]:
    """Every way in which the candidates that are seen can have come about: weight, lesions among them, unseen lesions."""
    for negative, total in product((False, True), COUNTS):
        part = (negatives if negative else 1 - negatives) / len(COUNTS)
        prior = dict(zip(KINDS, PRIORS[negative], strict=True))
        for kinds in product(KINDS, repeat=total):
            shown = [kind for kind in kinds if observer.visible(kind)]
            if len(shown) != len(seen):
                continue
            weight = part * float(np.prod([prior[kind] for kind in kinds]))
            for candidate, kind in zip(seen, shown, strict=True):
                weight *= naive(observer, candidate, kind)
            hidden = [kind for kind in kinds if not observer.visible(kind)]
            yield weight, tuple(kind in LESIONS for kind in shown), sum(kind in LESIONS for kind in hidden)


def naive(observer: Observer, candidate: Candidate, kind: Kind) -> float:

    value = 1.0
    for modality in observer.present:
        table = DENSITY if modality == "ct" else LOG_UPTAKE
        if (candidate.kind in table) != (kind in table):
            return 0.0
        if kind in table:
            got = candidate.density if modality == "ct" else np.log(candidate.uptake or np.nan)
            value *= float(norm.pdf(got, *table[kind]))
    return value


@pytest.mark.parametrize("present", [("ct",), ("pet",), ("ct", "pet")])
def test_the_observer_against_a_sum_over_all_explanations(present: tuple[str, ...]) -> None:
    config = PetctPhantom()
    rng = np.random.default_rng(6)
    pool = [unseen_volumes(config, h, rng) for h in range(max(COUNTS) + 1)]
    observer = Observer(present, config.negative_rate, pool)
    for scene in scenes("autopet", 12, seed=8):
        seen = [candidate for candidate in scene.candidates if observer.visible(candidate.kind)]
        weights, choices = observer.joint(seen)
        slow: dict[tuple[tuple[bool, ...], int], float] = {}
        for weight, lesions, unseen in explanations(observer, seen, config.negative_rate):
            slow[lesions, unseen] = slow.get((lesions, unseen), 0.0) + weight
        total = sum(slow.values())
        for row, choice in enumerate(choices):
            for unseen in range(max(COUNTS) + 1):
                expected = slow.get((tuple(map(bool, choice)), unseen), 0.0) / total
                assert weights[row, unseen] == pytest.approx(expected, abs=1e-12)
        best = max(
            product((False, True), repeat=len(seen)),
            key=lambda mark: sum(w * _mean_dice(seen, mark, key[0], pool[key[1]]) for key, w in slow.items()),
        )
        values = observer.expected(seen, weights, choices)
        chosen = choices.tolist().index(list(best))
        assert values[chosen] == pytest.approx(values.max(), rel=1e-9)
        assert values[chosen] == pytest.approx(
            sum(w / total * _mean_dice(seen, best, key[0], pool[key[1]]) for key, w in slow.items()), rel=1e-9
        )


def _mean_dice(seen: list[Candidate], mark: tuple[bool, ...], truth: tuple[bool, ...], volumes: Any) -> float:
    found = []
    for unseen in volumes:
        marked = sum(c.ml for c, m in zip(seen, mark, strict=True) if m)
        real = sum(c.ml for c, t in zip(seen, truth, strict=True) if t) + float(unseen)
        right = sum(c.ml for c, m, t in zip(seen, mark, truth, strict=True) if m and t)
        found.append(2 * right / (marked + real) if marked + real else 1.0)
    return float(np.mean(found))


@pytest.mark.parametrize("release", RELEASES)
@pytest.mark.parametrize("present", [("ct",), ("pet",)])
def test_marking_where_nothing_is_seen_never_pays(release: Release, present: tuple[str, ...]) -> None:
    config = PetctPhantom(release=release)
    rng = np.random.default_rng(7)
    observer = Observer(present, config.negative_rate, [unseen_volumes(config, h, rng) for h in range(max(COUNTS) + 1)])
    for scene in scenes(release, 200, seed=9):
        seen = [candidate for candidate in scene.candidates if observer.visible(candidate.kind)]
        weights, choices = observer.joint(seen)
        unseen = float((weights.sum(axis=0) * np.arange(max(COUNTS) + 1)).sum())
        assert unseen / (len(PLACES[release]) - len(seen)) < observer.expected(seen, weights, choices).max() / 2


def test_the_score_is_that_of_masks() -> None:
    """What the observer's DSC says of volumes is what DSC says of voxels, where voxels are small."""

    config = PetctPhantom(release="hecktor", size=96)
    axes = axes_of(config, "seg")[0]
    rng = np.random.default_rng(1)
    observer = Observer(("pet",), config.negative_rate, [unseen_volumes(config, h, rng) for h in range(max(COUNTS) + 1)])
    for scene in scenes("hecktor", 6, seed=5):
        seen = [candidate for candidate in scene.candidates if observer.visible(candidate.kind)]
        marked = [c for c, mark in zip(seen, observer.decide(seen), strict=True) if mark]
        masks = [
            np.any([distance(c, points(axes)) >= 0 for c in several] or [np.zeros((1, 1, 1), bool)], axis=0)
            for several in (marked, [c for c in scene.candidates if c.lesion])
        ]
        one, two = np.broadcast_arrays(*masks)
        assert observer.score(scene) == pytest.approx(dsc(one, two), abs=0.02)


def test_the_table_and_the_written_cohort(tmp_path: Path) -> None:
    assert PHANTOMS["petct"].layouts == {"hecktor": "hecktor"}
    cohort = Cohort.load(write_phantom("petct", tmp_path, {"cases": 2, "size": 40, "release": "hecktor"}))
    assert cohort.meta.layout == "hecktor"
    written = json.loads((tmp_path / "ceilings.json").read_text())
    assert [c["metric"] for c in written] == ["DSC/GTVn"] * 3
    assert {f"DSC/{name}" for name in cohort.targets[0].classes} == {c["metric"] for c in written}
    assert [c.value for c in ceilings_of("petct", PetctPhantom(release="hecktor"))] == [c["value"] for c in written]
