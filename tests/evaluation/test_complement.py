"""Redundancy ratio and purity: against a slow loop, on empty parts, and of a method whose kappa is known by hand."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from tests.inference.fakes import Mean
from torch import nn

from comodal.batch import Batch
from comodal.data import index
from comodal.data.cohort import Cohort
from comodal.data.phantoms.shapes import TABLE, ShapesPhantom, make_case, write_shapes
from comodal.data.preprocessing import Preparer, PreprocessingConfig
from comodal.errors import ConfigError, DataError
from comodal.evaluation.complement import (
    KAPPAS,
    PARTS,
    Complement,
    PartNats,
    measure_complement,
    part_nats,
    partition,
    shape_mask,
)
from comodal.evaluation.statistics import interval_of, resampling_weights
from comodal.method import Citation, Method, MethodConfig, Prediction, Problem, Requirements
from comodal.modality import Modality

PAIR = ("triangle", "ellipse")
SETTINGS: dict[str, Any] = {"cases": 8, "size": 24, "seed": 3}


# ------------------------------------------------------------------------------------- parts of a picture
def random_masks(seed: int, shape: tuple[int, ...] = (5, 6, 1)) -> tuple[np.ndarray, np.ndarray]:
    one, two = np.random.default_rng(seed).uniform(size=(2, *shape)) > 0.5
    return one, two


def test_parts_by_a_slow_loop() -> None:
    one, two = random_masks(0)
    nats = np.random.default_rng(1).uniform(size=one.shape).astype(np.float32)
    pixels, total = dict.fromkeys(PARTS, 0), dict.fromkeys(PARTS, 0.0)
    for place in np.ndindex(one.shape):
        name = {
            (False, True): "auxiliary_only",
            (True, True): "overlap",
            (True, False): "primary_only",
            (False, False): "background",
        }[bool(one[place]), bool(two[place])]
        pixels[name] += 1
        total[name] += float(nats[place])
    found = part_nats(nats, primary=one, auxiliary=two)
    assert found.pixels == pixels and found.nats == pytest.approx(total)
    means = {name: total[name] / pixels[name] for name in PARTS}
    assert found.means == pytest.approx(means)
    assert found.redundancy_ratio == pytest.approx(means["overlap"] / means["auxiliary_only"])
    assert found.purity == pytest.approx(total["auxiliary_only"] / sum(total.values()))


def test_the_parts_cover_the_picture_once() -> None:
    parts = partition(*random_masks(2))
    assert tuple(parts) == PARTS
    assert (np.sum(list(parts.values()), axis=0) == 1).all()


def test_exchanging_the_images_exchanges_two_parts() -> None:
    one, two = random_masks(3)
    first, second = partition(one, two), partition(two, one)
    np.testing.assert_array_equal(first["auxiliary_only"], second["primary_only"])
    np.testing.assert_array_equal(first["overlap"], second["overlap"])


@pytest.mark.parametrize(
    ("pixels", "nats", "ratio", "purity"),
    [
        ((2, 4, 1, 9), (3.0, 0.0, 0.0, 0.0), 0.0, 1.0),  # all of it is complementary
        ((2, 4, 1, 9), (3.0, 6.0, 0.0, 3.0), 1.0, 0.25),
        ((2, 4, 1, 9), (0.0, 1.0, 0.0, 0.0), None, 0.0),  # nothing where it is needed
        ((2, 4, 1, 9), (0.0, 0.0, 0.0, 0.0), None, None),  # collapsed
        ((0, 4, 1, 9), (0.0, 1.0, 0.0, 0.0), None, 0.0),  # nothing to add
        ((2, 0, 1, 9), (1.0, 0.0, 0.0, 1.0), None, 0.5),  # nothing shared
    ],
)
def test_empty_parts_and_a_collapsed_kappa(
    pixels: tuple[int, ...], nats: tuple[float, ...], ratio: float | None, purity: float | None
) -> None:
    found = PartNats(dict(zip(PARTS, pixels, strict=True)), dict(zip(PARTS, nats, strict=True)))
    assert (found.redundancy_ratio, found.purity) == (ratio, purity)
    assert [value is None for value in found.means.values()] == [count == 0 for count in pixels]


def test_arrays_of_different_shapes_are_refused() -> None:
    one, two = random_masks(0)
    with pytest.raises(ConfigError, match=r"partition.auxiliary must have the primary's shape \(5, 6, 1\); got \(4, 6, 1\)"):
        partition(one, two[1:])
    with pytest.raises(ConfigError, match=r"part_nats.nats must have the shape of the masks \(5, 6, 1\); got \(1, 5, 6, 1\)"):
        part_nats(np.zeros((1, 5, 6, 1)), primary=one, auxiliary=two)


@pytest.mark.parametrize("settings", [{}, {"background": 0.2, "levels": (0.4, 0.9), "noise": 0.02}])
def test_the_shape_is_what_is_brighter_than_midway(settings: dict[str, Any]) -> None:
    config, plain = ShapesPhantom(cases=1, size=32, **settings), ShapesPhantom(cases=1, size=32)
    for name in PAIR:
        mask = shape_mask(make_case(config, 0)[name][None])
        np.testing.assert_array_equal(mask, make_case(plain, 0)[name] > 0)
    assert not shape_mask(np.full((1, 4, 4), 7)).any()
    assert shape_mask(np.array([[[0.0, 1.0]], [[0.0, 3.0]]])).tolist() == [[False, True]]  # mean of two channels


# ------------------------------------------------------------------------------------- a whole run
class ByHandConfig(MethodConfig):
    samples: int = 0


class ByHand(Method):
    """Predicts the union; costs 2 nats where the auxiliary is alone, 0.5 on the overlap. A draw also marks the first column."""

    Config = ByHandConfig
    config: ByHandConfig
    paper = Citation("Nobody", "By hand", 2024)

    def __init__(self, problem: Problem, config: ByHandConfig) -> None:
        super().__init__(problem, config)
        self.scale = nn.Parameter(torch.ones(()))

    @property
    def requires(self) -> Requirements:
        return Requirements(("segmentation",), at_test=("triangle",))

    def predict(self, batch: Batch) -> Prediction:
        one, two = (batch.image(name) > 0 for name in PAIR)
        union = one | two
        union[:, :, 0] |= self.config.samples > 0
        nats = self.scale * torch.where(two & ~one, 2.0, torch.where(two & one, 0.5, 0.0))
        return Prediction({"seg": union.float()}, batch.present, {"nats": nats.detach()})


@pytest.fixture(scope="module")
def phantom(tmp_path_factory: pytest.TempPathFactory) -> Cohort:
    root = tmp_path_factory.mktemp("shapes")
    write_shapes(root, ShapesPhantom(**SETTINGS))
    return index("csv", root / TABLE)


def prepared(cohort: Cohort, normalise: Mapping[str, str] | None = None) -> Preparer:
    settings = PreprocessingConfig.model_validate({"normalise": dict(normalise)} if normalise is not None else {})
    return Preparer(cohort, settings, modalities=PAIR, targets=("seg",), spatial_dims=2)


def by_hand(cohort: Cohort, size: int = 24) -> ByHand:
    problem = Problem(tuple(Modality(n, spatial_dims=2) for n in PAIR), cohort.targets, 2, (size, size))
    return ByHand(problem, ByHandConfig())


def measured(cohort: Cohort, **options: Any) -> Complement:
    return measure_complement(by_hand(cohort), prepared(cohort, **options), cohort.cases, pair=PAIR)


def test_a_run_by_hand(phantom: Cohort) -> None:
    found = measured(phantom)
    assert (found.n, found.primary, found.auxiliary) == (8, *PAIR)
    config = ShapesPhantom(**SETTINGS)
    pixels: list[list[int]] = []
    dsc: dict[str, list[float]] = {kappa: [] for kappa in KAPPAS}
    for k, case in enumerate(found.cases):
        arrays = make_case(config, k)
        one, two = (arrays[name] > 0 for name in PAIR)
        pixels.append([int(part.sum()) for part in (two & ~one, one & two, one & ~two, ~one & ~two)])
        assert case.pixels == dict(zip(PARTS, pixels[-1], strict=True))
        assert case.kl == {"auxiliary_only": 2.0, "overlap": 0.5, "primary_only": 0.0, "background": 0.0}
        assert case.redundancy_ratio == 0.25
        assert case.purity == pytest.approx(2 * pixels[-1][0] / (2 * pixels[-1][0] + 0.5 * pixels[-1][1]))
        truth = one | two
        drawn = truth.copy()
        drawn[0] = True
        by_slow_loop = {
            kappa: 2 * (mark & truth).sum() / (mark.sum() + truth.sum())
            for kappa, mark in (("mean", truth), ("sampled", drawn), ("zero", one))
        }
        assert case.dsc == pytest.approx(by_slow_loop)
        for kappa in KAPPAS:
            dsc[kappa].append(case.dsc[kappa])
    assert {kappa: found.dsc[kappa].value for kappa in KAPPAS} == pytest.approx({k: np.mean(v) for k, v in dsc.items()})
    a, o = np.array(pixels, dtype=float)[:, 0], np.array(pixels, dtype=float)[:, 1]
    assert found.purity.value == pytest.approx(2 * a.sum() / (2 * a.sum() + 0.5 * o.sum()))
    assert found.purity.value != pytest.approx(np.mean([case.purity for case in found.cases]), abs=1e-6)
    weights = resampling_weights(8)
    assert weights is not None
    again = np.array([2 * (w @ a) / (2 * (w @ a) + 0.5 * (w @ o)) for w in weights])
    assert found.purity.ci95 == pytest.approx(interval_of(again))
    assert (found.redundancy_ratio.value, found.redundancy_ratio.ci95) == (0.25, (0.25, 0.25))
    assert (found.kl["auxiliary_only"].value, found.kl["background"].value) == (2.0, 0.0)


def test_the_masks_do_not_depend_on_the_normalisation(phantom: Cohort) -> None:
    """A volume that is standardised within its foreground has lost a shape of one brightness."""
    raw = measured(phantom, normalise=dict.fromkeys(PAIR, "none"))
    assert raw.cases == measured(phantom).cases
    lost = measure_complement(
        by_hand(phantom), prepared(phantom, dict.fromkeys(PAIR, "zscore-nonzero")), phantom.cases, pair=PAIR
    )
    assert [case.pixels for case in lost.cases] == [case.pixels for case in raw.cases]
    assert (lost.redundancy_ratio.value, lost.purity.value) == (None, None)  # the method sees nothing


def test_few_cases_have_no_interval_and_json_takes_all(phantom: Cohort) -> None:
    found = measure_complement(by_hand(phantom), prepared(phantom), phantom.cases[:3], pair=PAIR)
    assert found.purity.ci95 is None and found.dsc["mean"].ci95 is None
    plain = json.loads(json.dumps(found.to_dict(), allow_nan=False))
    assert plain["redundancy_ratio"] == {"value": 0.25, "ci95": None}
    assert [case["subject"] for case in plain["cases"]] == [case.id for case in phantom.cases[:3]]
    assert math.isclose(plain["kl"]["overlap"]["value"], 0.5)


def test_the_method_is_left_as_it_was(phantom: Cohort) -> None:
    method = by_hand(phantom).train()
    measure_complement(method, prepared(phantom), phantom.cases[:1], pair=PAIR)
    assert method.training and method.config.samples == 0


def test_the_other_pair_measures_the_other_part(phantom: Cohort) -> None:
    class Other(ByHand):
        @property
        def requires(self) -> Requirements:
            return Requirements(("segmentation",), at_test=("ellipse",))

    plain = by_hand(phantom)
    found = measure_complement(
        Other(plain.problem, plain.config), prepared(phantom), phantom.cases, pair=("ellipse", "triangle")
    )
    assert (found.kl["auxiliary_only"].value, found.kl["overlap"].value, found.kl["primary_only"].value) == (0.0, 0.5, 2.0)
    assert found.redundancy_ratio.value is None and found.purity.value == 0.0


def test_mistakes(phantom: Cohort) -> None:
    method, preparer = by_hand(phantom), prepared(phantom)
    with pytest.raises(DataError, match="cases must be at least one; got none"):
        measure_complement(method, preparer, [], pair=PAIR)
    lacking = replace(phantom.cases[0], cells={"triangle": "x", "seg": "y"})
    with pytest.raises(DataError, match=r"both images and the segmentation; got none .subject shapes-00001, modality ellipse"):
        measure_complement(method, preparer, [lacking], pair=PAIR)
    with pytest.raises(ConfigError, match=r"method must draw samples; got Mean. Use ciml-shapes"):
        measure_complement(Mean(method.problem), preparer, phantom.cases, pair=PAIR)

    class Silent(ByHand):
        def predict(self, batch: Batch) -> Prediction:
            return Prediction(super().predict(batch).probabilities, batch.present)

    with pytest.raises(ConfigError, match=r"method must say nats among its extras; got \(\)"):
        measure_complement(Silent(method.problem, method.config), preparer, phantom.cases, pair=PAIR)
