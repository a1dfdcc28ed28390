"""The shapes phantom: files, determinism, hidden causes, and ceilings against a slow form."""

from __future__ import annotations

import csv
import json
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from comodal.data import index
from comodal.data.cohort import Cohort
from comodal.data.integrity import check_cohort
from comodal.data.phantoms.shapes import TABLE, ShapesPhantom, make_case, write_shapes
from comodal.data.phantoms.shapes_ceilings import best_mark, ceilings, dice, score, unseen
from comodal.data.phantoms.shapes_model import OVERLAP, draw_pair, fits, overlaps
from comodal.data.reading import read_volume
from comodal.errors import ConfigError, DataError
from comodal.study.cohorts import write_phantom
from comodal.testing.dataset import check_dataset


@pytest.mark.parametrize("dims", [2, 3])
def test_the_table_reads_back(tmp_path: Path, dims: int) -> None:
    config = ShapesPhantom.model_validate({"cases": 12, "size": 24, "dims": dims, "noise": 0.05, "background": 0.1})
    write_shapes(tmp_path, config)
    cohort = check_dataset("csv", tmp_path / TABLE)
    assert check_cohort(cohort).ok
    assert [(m.name, m.spatial_dims) for m in cohort.modalities] == [("triangle", dims), ("ellipse", dims)]
    assert len({m.grid for m in cohort.modalities}) == 1
    (target,) = cohort.targets
    assert (target.name, target.kind, target.classes, target.codes) == ("seg", "regions", ("label-1",), ((1,),))
    assert [case.split for case in cohort.cases] == ["train"] * 10 + ["val", "test"]
    for k, case in enumerate(cohort.cases):
        for column, array in make_case(config, k).items():
            np.testing.assert_array_equal(read_volume(cohort.file(case, column)).array[0].reshape(array.shape), array)


@pytest.mark.parametrize("dims", [2, 3])
def test_cases_depend_on_seed_and_number_only(tmp_path: Path, dims: int) -> None:
    few, more = (ShapesPhantom.model_validate({"cases": n, "size": 24, "dims": dims, "seed": 2}) for n in (3, 5))
    write_shapes(tmp_path / "few", few)
    write_shapes(tmp_path / "more", more)
    suffix = few.file_name(0, "seg").partition(".")[2]
    for path in (tmp_path / "few").rglob(f"*.{suffix}"):
        assert path.read_bytes() == (tmp_path / "more" / path.relative_to(tmp_path / "few")).read_bytes()
    other = ShapesPhantom.model_validate({"cases": 3, "size": 24, "dims": dims, "seed": 3})
    assert any((make_case(few, k)["seg"] != make_case(other, k)["seg"]).any() for k in range(3))
    with pytest.raises(DataError, match="another phantom"):
        write_shapes(tmp_path / "few", more)


def test_split_of_the_paper_and_of_few() -> None:
    config = ShapesPhantom()
    splits = [config.split(k) for k in range(config.cases)]
    assert [splits.count(name) for name in ("train", "val", "test")] == [800, 100, 100]
    assert {ShapesPhantom(cases=5).split(k) for k in range(5)} == {""}


@pytest.mark.parametrize("dims", [2, 3])
def test_hidden_causes_draw_the_same_pictures(tmp_path: Path, dims: int) -> None:
    """Every pixel is judged anew from the numbers in the table, one at a time."""
    config = ShapesPhantom.model_validate({"cases": 3, "size": 24, "dims": dims, "seed": 5})
    write_shapes(tmp_path, config)
    rows = list(csv.DictReader((tmp_path / "hidden_causes.csv").read_text().splitlines()))
    meanings = json.loads((tmp_path / "hidden_causes.json").read_text())
    assert set(meanings) == set(rows[0]) - {"case"}
    assert meanings["triangle_x1"]["role"] == "unique" and meanings["triangle_x1"]["modality"] == "triangle"
    axes = "xyz"[:dims]
    for k, row in enumerate(rows):
        value = {name: float(cell) for name, cell in row.items() if name != "case"}
        arrays = make_case(config, k)
        corners = np.array([[value[f"triangle_{axis}{c + 1}"] for axis in axes] for c in range(dims + 1)])
        centre = np.array([value[f"ellipse_{axis}"] for axis in axes])
        frame = np.array([[value[f"ellipse_semi{i + 1}_{axis}"] for axis in axes] for i in range(dims)])
        semi = np.array([value[f"ellipse_semi{i + 1}"] for i in range(dims)])
        wrong = 0
        for place in product(range(config.size), repeat=dims):
            p = (np.array(place) + 0.5) / config.size
            weights = np.linalg.solve((corners[:-1] - corners[-1]).T, p - corners[-1])
            triangle = bool((weights >= 0).all() and weights.sum() <= 1)
            ellipse = bool((((frame @ (p - centre)) / semi) ** 2).sum() <= 1)
            drawn = (arrays["triangle"][place] == 255, arrays["ellipse"][place] == 255, arrays["seg"][place] == 1)
            wrong += drawn != (triangle, ellipse, triangle or ellipse)
        assert wrong <= 1  # the table is rounded: a pixel on the very edge may fall
        both = (arrays["triangle"] > 0) & (arrays["ellipse"] > 0)
        smaller = min((arrays["triangle"] > 0).sum(), (arrays["ellipse"] > 0).sum())
        assert value["overlap"] == pytest.approx(both.sum() / smaller, abs=1e-6)
        assert OVERLAP[0] <= value["overlap"] <= OVERLAP[1]


def test_grey_levels_and_noise() -> None:
    config = ShapesPhantom(cases=1, size=64, background=0.2, levels=(0.5, 0.9), noise=0.05)
    plain = make_case(config.model_copy(update={"noise": 0.0}), 0)
    noisy = make_case(config, 0)
    for name in ("triangle", "ellipse"):
        values = np.unique(plain[name])
        assert values[0] == 51 and len(values) == 2 and 127 <= values[1] <= 230
        rest = noisy[name][plain[name] == 51].astype(float)
        assert rest.mean() == pytest.approx(51, abs=1) and rest.std() == pytest.approx(0.05 * 255, rel=0.1)
    np.testing.assert_array_equal(plain["seg"], noisy["seg"])


@pytest.mark.parametrize(
    ("setting", "text"),
    [
        ({"size": 8}, r"shapes: size must lie in 24..256; got 8"),
        ({"size": 128, "dims": 3}, r"shapes: size must lie in 16..96; got 128"),
        ({"background": 0.6, "levels": (0.5, 0.9)}, r"levels must lie above background and rise"),
        ({"noise": -1}, r"noise must lie in \[0, 1\]"),
    ],
)
def test_settings_out_of_range(setting: dict[str, Any], text: str) -> None:
    with pytest.raises(ConfigError, match=text):
        ShapesPhantom(**setting)


# Ceilings


def test_the_best_mark_against_all_masks() -> None:
    """Of six pixels every one of the 64 masks is tried."""
    rng = np.random.default_rng(3)
    for _ in range(20):
        unions = rng.uniform(size=(7, 2, 3)) < rng.uniform(0.2, 0.8, size=(2, 3))
        unions[:, 0, 0] = True
        masks = [np.array(bits).reshape(2, 3) for bits in product((False, True), repeat=6)]
        best = max(float(np.mean([dice(mask, union) for union in unions])) for mask in masks)
        mine = float(np.mean([dice(best_mark(unions), union) for union in unions]))
        assert mine == pytest.approx(best, abs=1e-12)


@pytest.mark.parametrize("seen", ["triangle", "ellipse"])
def test_the_unseen_shape_is_drawn_from_its_true_distribution(seen: str) -> None:
    """Drawn given the seen shape, then averaged over seen shapes, it must be as it is in pairs."""
    rng = np.random.default_rng(4)
    size, direct, given = 16, np.zeros((16, 16)), np.zeros((16, 16))
    pairs = 500
    for _ in range(pairs):
        first, second, _ = draw_pair(rng, size, 2)
        other = second if seen == "triangle" else first
        direct += other.masks(size)[0]
        drawn = unseen(rng, seen, draw_pair(rng, size, 2)[:2], size=size, count=4)
        given += drawn.mean(axis=0)
    spread = np.sqrt((direct / pairs * (1 - direct / pairs) + 0.01) / pairs)
    far = np.abs(direct - given) / pairs / spread
    assert far.max() < 6 and abs(direct.sum() / given.sum() - 1) < 0.05


def test_overlaps_by_counting() -> None:
    rng = np.random.default_rng(0)
    one, two = rng.uniform(size=(2, 5, 4, 4)) > 0.5
    for a, b, overlap in zip(one, two, overlaps(one, two), strict=True):
        assert overlap == sum(bool(x and y) for x, y in zip(a.flat, b.flat, strict=True)) / min(a.sum(), b.sum())
    assert fits(np.array([0.1, 0.15, 0.7, 0.71])).tolist() == [False, True, True, False]


def test_ceilings_are_ordered_and_say_both_scores() -> None:
    triangle, ellipse, both = ceilings(ShapesPhantom(size=32), pairs=60)
    assert 0.6 < triangle.value < ellipse.value < 0.9 < both.value == 1.0
    assert (both.kind, triangle.kind, both.present) == ("exact", "estimate", ("triangle", "ellipse"))
    for one in (triangle, ellipse):
        assert one.n == 60 and one.ci95 is not None and one.ci95[0] < one.value < one.ci95[1]
        alone = float(one.how.rsplit(" ", 1)[1])
        assert alone < one.value + 0.01
    assert {c.kind for c in ceilings(ShapesPhantom(size=32, noise=0.1), pairs=3)} == {"upper bound"}


def test_marking_by_the_model_is_better_than_the_shape_itself() -> None:
    rng = np.random.default_rng(8)
    scores = np.array([score(rng, "ellipse", size=24, dims=2) for _ in range(80)])
    gain = scores[:, 0] - scores[:, 1]
    assert gain.mean() > 2 * gain.std() / np.sqrt(len(gain))


def test_written_with_its_ceilings(tmp_path: Path) -> None:
    cohort = Cohort.load(write_phantom("shapes", tmp_path, {"cases": 10, "size": 24}))
    assert cohort.meta.layout == "csv" and len(cohort) == 10
    written = json.loads((tmp_path / "ceilings.json").read_text())
    assert {c["metric"] for c in written} == {f"DSC/{name}" for name in cohort.targets[0].classes}
    assert index("csv", tmp_path / "files" / TABLE).ids == cohort.ids


# Parts and decoys


@pytest.mark.parametrize("dims", [2, 3])
def test_parts_and_decoys_leave_the_pair_as_it_was(tmp_path: Path, dims: int) -> None:
    given = {"cases": 4, "size": 24, "dims": dims, "seed": 6, "noise": 0.1, "background": 0.2}
    plain = ShapesPhantom.model_validate(given)
    config = ShapesPhantom.model_validate({**given, "decoys": 2, "parts": True})
    quiet = ShapesPhantom.model_validate({**given, "decoys": 2, "noise": 0.0})
    write_shapes(tmp_path, config)
    rows = list(csv.DictReader((tmp_path / "hidden_causes.csv").read_text().splitlines()))
    meanings = json.loads((tmp_path / "hidden_causes.json").read_text())
    assert set(meanings) == set(rows[0]) - {"case"}
    assert meanings["decoy2_semi1_x"]["role"] == "noise" and meanings["decoy2_semi1_x"]["modality"] == "decoy2"
    shown = set()
    for k, row in enumerate(rows):
        before, after, still = (make_case(one, k) for one in (plain, config, quiet))
        assert list(after) == ["triangle", "ellipse", "decoy1", "decoy2", "seg"] and list(before) == [
            "triangle",
            "ellipse",
            "seg",
        ]
        for name in ("triangle", "ellipse"):
            np.testing.assert_array_equal(before[name], after[name])
        triangle, ellipse = (still[name] == 255 for name in ("triangle", "ellipse"))
        np.testing.assert_array_equal(after["seg"], triangle * 1 + ellipse * 2)
        np.testing.assert_array_equal(before["seg"], after["seg"] > 0)
        for name in ("decoy1", "decoy2"):
            centre = np.array([float(row[f"{name}_{axis}"]) for axis in "xyz"[:dims]])
            points = (np.argwhere(still[name] == 255) + 0.5) / 24
            assert np.abs(points - centre).max() < 0.28  # the longest half-axis
            assert np.abs(points.mean(axis=0) - centre).max() < 0.1  # it may be cut by the border
            shown.add((still[name] == 255).tobytes())
        shown.add(ellipse.tobytes())
    assert len(shown) == 3 * len(rows)  # of pairs of their own


def test_settings_that_came_later_change_no_older_phantom(tmp_path: Path) -> None:
    write_shapes(tmp_path / "old", ShapesPhantom(cases=1, size=24))
    assert set(json.loads((tmp_path / "old" / "phantom.json").read_text())) == {
        "phantom", "cases", "size", "seed", "dims", "background", "levels", "noise"
    }  # fmt: skip
    write_shapes(tmp_path / "new", ShapesPhantom(cases=1, size=24, parts=True))
    with pytest.raises(DataError, match="another phantom"):
        write_shapes(tmp_path / "old", ShapesPhantom(cases=1, size=24, parts=True))


def test_regions_of_parts_are_ready_for_training_with_their_ceilings(tmp_path: Path) -> None:
    settings = {"cases": 10, "size": 24, "decoys": 1, "parts": True, "noise": 0.15}
    cohort = Cohort.load(write_phantom("shapes", tmp_path, settings))
    assert check_cohort(cohort).ok
    assert [m.name for m in cohort.modalities] == ["triangle", "ellipse", "decoy1"]
    (target,) = cohort.targets
    assert (target.classes, target.codes) == (("union", "triangle", "ellipse"), ((1, 2, 3), (1, 3), (2, 3)))
    written = json.loads((tmp_path / "ceilings.json").read_text())
    known = {(one["metric"], tuple(one["present"])): one["value"] for one in written}
    pair = ("triangle", "ellipse")
    assert set(known) == {(f"DSC/{r}", s) for r in target.classes for s in (pair[:1], pair[1:], pair)}
    assert known["DSC/triangle", pair[:1]] == known["DSC/ellipse", pair[1:]] == known["DSC/union", pair] == 1
    assert 0.3 < known["DSC/ellipse", pair[:1]] < known["DSC/union", pair[:1]] and 0.3 < known["DSC/triangle", pair[1:]] < 0.8
    assert {one["kind"] for one in written} == {"upper bound"}  # because of the noise
