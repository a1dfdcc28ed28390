"""Equations (14) to (17) against slow loops and closed forms, on a method whose gradients are known by hand."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from tests.explain.fakes import ALPHA, CHANNELS, NAMES, Linear, case, noise, problem

from comodal.errors import ConfigError, DataError, UnsupportedSubset
from comodal.explain import EXPLAINERS, load_explainer
from comodal.explain.explanation import Explanation, Voxels, normalised, truth_of
from comodal.explain.gradcam import grad_cam
from comodal.explain.nats import nats
from comodal.explain.weights import CaseWeights, case_weights, mean_weights, weights_of
from comodal.method import Method, MethodConfig, Requirements

SHAPE = (6, 4, 8)
PAIRS = [("a", "WT"), ("a", "ET"), ("b", "WT"), ("c", "WT")]


def truth(shape: tuple[int, int, int] = SHAPE) -> np.ndarray:
    out = np.zeros((2, *shape), dtype=bool)
    out[0, 1:4, 1:3, 2:6] = True
    out[1, 2:4, 1:2, 3:5] = True
    return out


def slow(images: dict[str, np.ndarray], pair: tuple[str, str], auxiliary: str, chosen: np.ndarray) -> np.ndarray:
    """Equations (14) and (15) voxel by voxel: the zeta of one auxiliary on the coarse voxels."""
    coarse = tuple(n // 2 for n in chosen.shape)
    maps = np.zeros((CHANNELS, *coarse))
    gradient = np.zeros_like(maps)
    for n in np.ndindex(coarse):
        block = tuple(slice(2 * i, 2 * i + 2) for i in n)
        mean = float(np.asarray(images[auxiliary][block], dtype=np.float64).mean())
        maps[(0, *n)], maps[(1, *n)] = mean, mean**2
        for c in range(CHANNELS):
            gradient[(c, *n)] = ALPHA[pair[1], auxiliary][c] * int(chosen[block].sum())
    zeta = np.zeros(coarse)
    for c in range(CHANNELS):
        alpha = sum(gradient[(c, *n)] for n in np.ndindex(coarse)) / math.prod(coarse)
        for n in np.ndindex(coarse):
            zeta[n] += alpha * maps[(c, *n)]
    return np.maximum(zeta, 0)


def logit(images: dict[str, np.ndarray], pair: tuple[str, str], bias: float = 0.1) -> np.ndarray:
    out = images[pair[0]].astype(np.float64) + bias
    for name in images:
        if name != pair[0]:
            for n in np.ndindex(tuple(s // 2 for s in out.shape)):
                block = tuple(slice(2 * i, 2 * i + 2) for i in n)
                mean = float(images[name][block].astype(np.float64).mean())
                out[block] += ALPHA[pair[1], name][0] * mean + ALPHA[pair[1], name][1] * mean**2
    return out


def doubled(coarse: np.ndarray) -> np.ndarray:
    """Trilinear, by hand: along each axis a fine voxel lies a quarter of a coarse one from its own centre."""
    out = coarse
    for axis in range(coarse.ndim):
        padded = np.pad(out, [(1, 1) if a == axis else (0, 0) for a in range(out.ndim)], mode="edge")
        size = out.shape[axis]
        before, own, after = (np.take(padded, np.arange(size) + k, axis=axis) for k in (0, 1, 2))
        both = np.stack([0.25 * before + 0.75 * own, 0.75 * own + 0.25 * after], axis=axis + 1)
        out = both.reshape(*out.shape[:axis], 2 * size, *out.shape[axis + 1 :])
    return out


@pytest.mark.parametrize("voxels", ["predicted", "labelled", "all"])
def test_heat_is_equations_14_and_15(voxels: Voxels) -> None:
    images = noise(SHAPE)
    found = grad_cam(Linear(problem(SHAPE)), case(images, truth()), subset=NAMES, voxels=voxels)
    assert list(found.heat) == PAIRS
    for pair, row in found.heat.items():
        chosen = np.ones(SHAPE, dtype=bool)
        if voxels == "predicted":
            chosen = logit(images, pair) > 0
        elif voxels == "labelled":
            chosen = truth()[0 if pair[1] == "WT" else 1]
        assert found.sizes[pair] == chosen.sum() > 0
        assert list(row) == [name for name in NAMES if name != pair[0]]
        coarse = {name: slow(images, pair, name, chosen) for name in row}
        for name, heat in row.items():
            np.testing.assert_allclose(heat, doubled(coarse[name]), rtol=1e-5, atol=1e-6)
        whole = sum(float(zeta.sum()) for zeta in coarse.values())
        for name, weight in weights_of(row).items():
            assert weight == pytest.approx(float(coarse[name].sum()) / whole, abs=1e-6)
    np.testing.assert_allclose(found.probabilities["a", "ET"], 1 / (1 + np.exp(-logit(images, ("a", "ET")))), rtol=1e-5)


@pytest.mark.parametrize("patch", [(4, 4, 4), (4, 4), (6, 8)])
@pytest.mark.parametrize("overlap", [0.0, 0.5])
def test_over_all_windows_alpha_is_that_of_the_case(patch: tuple[int, ...], overlap: float) -> None:
    # Images that are constant: kappa, and so zeta, is one number per auxiliary, in whatever windows it is seen.
    values = {"a": 0.3, "b": 0.5, "c": -2.0}
    shape = (6, 8, 5)
    images = {name: np.full(shape, value, dtype=np.float32) for name, value in values.items()}
    found = grad_cam(Linear(problem(patch)), case(images), subset=NAMES, voxels="all", overlap=overlap, batch_size=2)
    for (_, region), row in found.heat.items():
        for name, heat in row.items():
            w, v = ALPHA[region, name], np.float32(values[name]).astype(float)
            expected = max(0.0, 2 ** len(patch) * (w[0] * v + w[1] * v**2))
            np.testing.assert_allclose(heat, np.full(shape, expected), rtol=1e-5)
    assert set(found.sizes.values()) == {math.prod(shape)}
    b = np.float32(0.5).astype(float)
    assert found.nats["a", "b"] == pytest.approx((b**2 + b**4) / 2 * math.prod(shape) / 2 ** len(patch), rel=1e-5)
    np.testing.assert_allclose(found.nats_maps["a", "b"], (b**2 + b**4) / 2, rtol=1e-5)


def test_how_many_windows_go_at_once_changes_nothing() -> None:
    there, method = case(noise((8, 8, 8)), truth((8, 8, 8))), Linear(problem((4, 4, 4)))
    one, many = (grad_cam(method, there, subset=NAMES, batch_size=size) for size in (1, 5))
    for pair, row in one.heat.items():
        for name, heat in row.items():
            np.testing.assert_allclose(heat, many.heat[pair][name], rtol=1e-5, atol=1e-6)


def test_a_window_larger_than_the_case_counts_no_voxel_outside() -> None:
    images = noise((4, 4, 4))
    found = grad_cam(Linear(problem((8, 8, 8))), case(images), subset=NAMES, voxels="all")
    assert set(found.sizes.values()) == {64}
    inner = grad_cam(Linear(problem((4, 4, 4))), case(images), subset=NAMES, voxels="all")
    for pair, row in found.heat.items():
        for name, heat in row.items():  # the border differs: outside is not nothing to a linear interpolation
            np.testing.assert_allclose(heat[1:3, 1:3, 1:3], inner.heat[pair][name][1:3, 1:3, 1:3], rtol=1e-5, atol=1e-6)


def test_without_voxels_heat_is_zero_and_says_why() -> None:
    method = Linear(problem(SHAPE), bias=-100.0)
    found = grad_cam(method, case(noise(SHAPE)), subset=NAMES)
    assert all(not heat.any() for row in found.heat.values() for heat in row.values())
    assert set(found.sizes.values()) == {0}
    assert found.left_out["a", "WT"] == "since there are no voxels where the segmentor's own probability is above 0.5"
    weights = case_weights(found, subject="p1", group="p1")
    assert weights.weights["a", "WT"] == {"b": None, "c": None}
    assert weights.left_out == found.left_out
    labelled = grad_cam(method, case(noise(SHAPE)), subset=NAMES, voxels="labelled")
    assert labelled.left_out["a", "ET"] == "since the case has no truth of ET"
    absent = grad_cam(method, case(noise(SHAPE), np.zeros((2, *SHAPE))), subset=NAMES, voxels="labelled")
    assert absent.left_out["a", "ET"] == "since there are no voxels of the region in the truth"


def test_a_message_of_zero_has_weight_zero() -> None:
    found = grad_cam(Linear(problem(SHAPE), mute=("c",)), case(noise(SHAPE)), subset=NAMES, voxels="all")
    weights = case_weights(found, subject="p1", group="p1")
    assert weights.weights["a", "WT"] == {"b": 1.0, "c": 0.0}
    nothing = grad_cam(Linear(problem(SHAPE), mute=NAMES), case(noise(SHAPE)), subset=NAMES, voxels="all")
    weights = case_weights(nothing, subject="p1", group="p1")
    assert weights.weights["a", "WT"] == {"b": None, "c": None}
    assert set(weights.left_out.values()) == {"since the heat of all auxiliaries is zero"}


def test_rows_are_normalised_jointly() -> None:
    found = grad_cam(Linear(problem(SHAPE)), case(noise(SHAPE)), subset=NAMES)
    for row in found.heat.values():
        shown = normalised(row)
        assert max(float(heat.max()) for heat in shown.values()) == 1.0
        assert min(float(heat.min()) for heat in shown.values()) >= 0
        first, second = row
        np.testing.assert_allclose(shown[first] * row[second].max(), shown[second].max() * row[first], rtol=1e-4, atol=1e-6)
    assert not normalised({"b": np.zeros(3, np.float32)})["b"].any()


def test_weights_of_every_row_add_up_to_one() -> None:
    found = grad_cam(Linear(problem(SHAPE)), case(noise(SHAPE)), subset=NAMES)
    for row in found.heat.values():
        assert sum(weight or 0 for weight in weights_of(row).values()) == pytest.approx(1)


def test_an_absent_auxiliary_is_unread_and_has_no_column() -> None:
    images = noise(SHAPE)
    less = {name: image for name, image in images.items() if name != "c"}
    method = Linear(problem(SHAPE))
    found = grad_cam(method, case(less), subset=("a", "b"))
    assert {pair: list(row) for pair, row in found.heat.items()} == {
        ("a", "WT"): ["b"],
        ("a", "ET"): ["b"],
        ("b", "WT"): ["a"],
    }
    assert set(found.nats) == {("a", "b"), ("b", "a")}
    for poison in (np.nan, 1e9):
        again = grad_cam(method, case({**less, "c": np.full(SHAPE, poison)}), subset=("a", "b"))
        for pair, row in found.heat.items():
            assert row["b" if pair[0] == "a" else "a"].tobytes() == again.heat[pair]["b" if pair[0] == "a" else "a"].tobytes()


def test_one_modality_alone_has_nothing_to_explain() -> None:
    with pytest.raises(UnsupportedSubset) as told:
        grad_cam(Linear(problem(SHAPE)), case(noise(SHAPE)), subset=["a"])
    assert str(told.value) == (
        "explain must have the primary of a segmentor and another modality that tells it something; got a [subject p1]. "
        "Give two modalities or more, one of them the primary of a segmentor."
    )
    with pytest.raises(DataError, match="modality c"):
        grad_cam(Linear(problem(SHAPE)), case({"a": np.ones(SHAPE)}), subset=["a", "c"])


def test_a_method_that_does_not_explain_is_refused_with_those_that_do() -> None:
    class Silent(Method):
        @property
        def requires(self) -> Requirements:
            return Requirements(tasks=("segmentation",))

    with pytest.raises(ConfigError, match=r"got Silent\. Train one of these on several images, with messages: .*ciml"):
        grad_cam(Silent(problem(SHAPE), MethodConfig()), case(noise(SHAPE)), subset=NAMES)


def test_the_method_stays_in_its_mode_and_gets_no_gradient() -> None:
    method = Linear(problem(SHAPE)).train()
    with torch.no_grad():
        grad_cam(method, case(noise(SHAPE)), subset=NAMES)
    assert method.training and method.bias.grad is None
    free = grad_cam(method, case(noise(SHAPE)), subset=NAMES)
    frozen = grad_cam(method.requires_grad_(False), case(noise(SHAPE)), subset=NAMES)
    assert not method.bias.requires_grad
    assert frozen.heat["a", "WT"]["b"].any() and np.array_equal(frozen.heat["a", "WT"]["b"], free.heat["a", "WT"]["b"])


def test_nats_are_the_heat_of_the_other_explainer() -> None:
    images = noise(SHAPE)
    found = nats(Linear(problem(SHAPE)), case(images), subset=NAMES)
    assert found.voxels is None and found.explainer == "nats"
    assert np.array_equal(found.heat["a", "WT"]["b"], found.heat["a", "ET"]["b"])
    total = 0.0
    for n in np.ndindex(3, 2, 4):
        mean = float(images["b"][tuple(slice(2 * i, 2 * i + 2) for i in n)].astype(np.float64).mean())
        total += (mean**2 + mean**4) / 2
    assert found.nats["a", "b"] == pytest.approx(total, rel=1e-5)
    both = found.nats["a", "b"] + found.nats["a", "c"]
    assert weights_of(found.heat["a", "WT"])["b"] == pytest.approx(total / both, rel=1e-5)


def test_explainers_are_found_by_name() -> None:
    assert load_explainer("grad-cam") is grad_cam
    assert all(callable(load_explainer(name)) for name in EXPLAINERS)
    with pytest.raises(ConfigError, match=r"--explainer must be a known explainer; got 'gradcam'\. Did you mean grad-cam\?"):
        load_explainer("gradcam")


def test_means_over_cases_have_n_and_an_interval_from_six_patients_on() -> None:
    pair = ("a", "WT")
    cases = [CaseWeights(f"p{i}", f"p{i}", {pair: {"b": 0.5 + i / 20, "c": 0.5 - i / 20}}, {}) for i in range(6)]
    cases.append(CaseWeights("p7", "p7", {pair: {"b": None, "c": None}}, {pair: "nothing"}))
    cases.append(CaseWeights("p8", "p8", {pair: {"b": 1.0}}, {}))
    found = mean_weights(cases)[pair]
    assert (found["b"].n, found["c"].n) == (7, 6)
    assert found["c"].value == pytest.approx(0.375)
    assert found["c"].ci95 is not None and found["c"].ci95[0] < 0.375 < found["c"].ci95[1]
    assert mean_weights(cases[:5])[pair]["b"].ci95 is None
    assert mean_weights(cases[6:7])[pair]["b"].value is None


def test_the_truth_of_labels_and_of_several_targets() -> None:
    mask = np.arange(8).reshape(2, 2, 2) % 3
    seg = replace(
        problem((2, 2, 2)).targets[0],
        name="organs",
        kind="labels",
        classes=("background", "liver", "spleen"),
        codes=(),
        paint=(),
    )
    whole = replace(problem((2, 2, 2)), targets=(seg,))
    there = replace(case(noise((2, 2, 2))), targets={"organs": mask})
    for region in ("spleen", "organs.spleen"):
        found = truth_of(whole, there, region)
        assert found is not None and np.array_equal(found, mask == 2)
    assert truth_of(whole, there, "kidney") is None
    assert Explanation("nats", None, (), {}).heat == {}
